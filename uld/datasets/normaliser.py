"""Which points of a user's mark-up span the length that errors are divided by."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from uld.base.errors import ParamsError
from uld.base.params import CLOSED
from uld.base.shown import short
from uld.datasets.joined import Ends
from uld.datasets.markup import Marks

KEY = "params.yaml: datasets.folder.normaliser"
MOST = 20  # names in a message


def _point(value: Any) -> int | str:
    """A point by its number or name; a union of types would have a message for each of them."""
    if isinstance(value, str) or type(value) is int:
        return value
    raise PydanticCustomError("point", "Input should be the number or the name of a point")


def _some(points: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """At least one of them; a limit of pydantic's own would speak up beside each wrong point."""
    if not points:
        raise PydanticCustomError("points", "Input should name at least one point")
    return points


Points = Annotated[tuple[Annotated[int | str, PlainValidator(_point)], ...], AfterValidator(_some)]


@dataclass(frozen=True, config=CLOSED)
class NormaliserParams:
    """The points of a mark-up whose two means span its normaliser, by number from 0 or by name."""

    left: Points
    right: Points


def ends(chosen: dict[str, NormaliserParams], marks: dict[str, Marks]) -> dict[str, Ends]:
    """The numbers of these points, left and right, by mark-up.

    Raises:
        ParamsError: a mark-up or a point that there is not, or a point that is named twice.
    """
    for name in chosen:
        if name not in marks:
            there = ", ".join(marks) or "none at all"
            raise ParamsError(f"{KEY}: the folder has no mark-up '{short(name)}'; there is {there}.")
    return {name: _ends(one, marks[name], f"{KEY}.{name}") for name, one in chosen.items()}


def _ends(chosen: NormaliserParams, marks: Marks, key: str) -> Ends:
    left = tuple(_number(point, marks, f"{key}.left") for point in chosen.left)
    right = tuple(_number(point, marks, f"{key}.right") for point in chosen.right)
    if twice := [point for point in (*left, *right) if (*left, *right).count(point) > 1]:
        raise ParamsError(f"{key}: has point {marks.point(twice[0])} twice: name a point once, on one side.")
    return left, right


def _number(point: int | str, marks: Marks, key: str) -> int:
    count, file = marks.xy.shape[1], marks.path.name
    if isinstance(point, int):
        if not 0 <= point < count:
            raise ParamsError(f"{key}: there is no point {short(point)}: the points of {file} are 0 to {count - 1}.")
        return point
    if point not in marks.names:
        there = _list(marks.names) if marks.names else f"no names, so give numbers, 0 to {count - 1}"
        raise ParamsError(f"{key}: '{short(point)}' is no point of {file}: it has {there}.")
    return marks.names.index(point)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(map(short, names[:MOST])) + more
