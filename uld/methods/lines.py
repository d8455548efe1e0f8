"""The lines of the tables `rounds` and `rows` of params.yaml."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base.errors import ParamsError
from uld.base.params import CLOSED
from uld.methods.base import Method

MOST = 1_000_000  # landmarks


@dataclass(frozen=True, config=CLOSED)
class RoundParams:
    """A round of self-training: which model it starts from, what that reads, which method labels and trains."""

    reads: str
    start: str
    method: str
    landmarks: Annotated[int, Field(ge=0)] | None = None  # K; None: that of the project


@dataclass(frozen=True, config=CLOSED)
class RowParams:
    """A row of the results table: which model it begins at, what that reads, which method makes K landmarks."""

    reads: str
    start: str
    method: str
    landmarks: Annotated[int, Field(ge=0)] | None = None  # K; None: that of the rounds


def landmarks_of(count: int, kind: type[Method], where: str) -> int:
    """K, if the method can find so many.

    Args:
        where: what says so, for the message.

    Raises:
        ParamsError: the method cannot find so many landmarks.
    """
    if not kind.fewest <= count <= MOST:
        raise ParamsError(f"{where}: {kind.__name__} finds {kind.fewest} to {MOST} landmarks, not {count}.")
    return count
