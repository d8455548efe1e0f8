"""The lines of the tables `rounds` and `rows` of params.yaml."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base.params import CLOSED


@dataclass(frozen=True, config=CLOSED)
class RoundParams:
    """A round of self-training: which model it starts from, what that reads, which method labels and trains."""

    reads: str
    start: str
    method: str


@dataclass(frozen=True, config=CLOSED)
class RowParams:
    """A row of the results table: which model it begins at, what that reads, which method makes K landmarks."""

    reads: str
    start: str
    method: str
    landmarks: Annotated[int, Field(ge=0)] | None = None  # K; None: that of the rounds
