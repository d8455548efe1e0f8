"""Lines of `rounds` and `rows`: how many landmarks a method can be asked for."""

import pytest

from uld.base.errors import ParamsError
from uld.methods import METHODS, load
from uld.methods.lines import MOST, landmarks_of


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [-1, 0, 1, MOST, MOST + 1])
def test_numbers_of_landmarks(name: str, count: int) -> None:
    kind = load(name)
    if kind.fewest <= count <= MOST:
        assert landmarks_of(count, kind, "landmarks") == count
    else:
        with pytest.raises(ParamsError, match=rf"landmarks: {kind.__name__} finds .* landmarks, not {count}"):
            landmarks_of(count, kind, "landmarks")
