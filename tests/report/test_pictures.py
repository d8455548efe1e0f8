"""Which images the pictures show."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uld.report import figures, pictures


@given(st.integers(1, 200), st.integers(1, 60))
def test_spread_is_even_and_without_repeats(rows: int, count: int) -> None:
    found = pictures.spread(np.arange(1000, 1000 + rows), count)
    assert len(found) == len(set(found.tolist())) == min(rows, count)
    assert found[0] == 1000
    assert count == 1 or found[-1] == 1000 + rows - 1
    if len(found) > 2:
        steps = np.diff(found)
        assert steps.max() - steps.min() <= 1


def test_a_picture_knows_its_size() -> None:
    picture = pictures.Picture(figures.png(np.zeros((3, 7, 3), np.uint8)), "")
    assert picture.size == (7, 3)
