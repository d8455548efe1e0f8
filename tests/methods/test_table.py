"""The table of methods."""

import pytest

from uld.errors import ParamsError
from uld.methods import load


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ParamsError, match="'zero_shot': choose one of zeroshot, position, mean_shape"):
        load("zero_shot")
