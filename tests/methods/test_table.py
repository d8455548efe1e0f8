"""The table of methods."""

import pytest

from uld.base.errors import ParamsError
from uld.methods import STEPS, load


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ParamsError, match=f"'zero_shot': choose one of {', '.join(STEPS)}"):
        load("zero_shot")
