"""The evaluation protocols as data, and the params of the stages `regress` and `evaluate`.

Published numbers of different papers follow different protocols and cannot be compared (docs/evaluation.md). Here the
defaults of `Protocol` are the canonical rule and every preset spells out only where its source departs from it.
"""

from dataclasses import asdict
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base.errors import ParamsError
from uld.base.params import CLOSED
from uld.geometry.views import EvaluationWarps

ALL = 0  # in `Protocol.rows`: every annotated training image

Threshold = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=CLOSED)
class EvaluateParams:
    """Block `evaluate` of params.yaml. Thresholds are shares of the normaliser."""

    protocols: tuple[str, ...]  # names in PROTOCOLS
    pck: tuple[Threshold, ...]  # thresholds of PCK
    raw: Threshold  # threshold of the raw-landmark accuracy
    ced_limit: Threshold  # where the CED ends; an image beyond it is a failure
    bootstrap: Annotated[int, Field(ge=1)]  # resamples of the test images
    warps: EvaluationWarps  # in which test images are stored and looked for landmarks, for `stability`


@plain_dataclass(frozen=True)
class Protocol:
    """How landmarks are regressed and errors are measured; the defaults are the canonical rule."""

    source: str  # where the rule comes from
    ridge: float = 1e-3  # forward weight decay, times the largest entry of the inputs' Gram matrix
    ridge_backward: float = 1e-3
    centred: bool = True  # inputs and outputs lose their training mean: the map has an intercept
    rows: tuple[int, ...] = (ALL, 300)  # annotated training images of a regressor
    repeats: int = 10  # random draws where fewer than all are used
    extra_rows: int = 0  # rows used beyond the stated number
    pool: int | float = 1.0  # rows come from the first `pool` training images (a float: from this share of them)
    normaliser: Literal["declared", "box"] = "declared"  # of the annotation set, or the annotated points' box
    spans: tuple[tuple[int, int, int], ...] = ()  # (P, a, b): in a mark-up of P points, the distance of points a and b
    frame: Literal["image", "roi", "photo"] = "image"  # where coordinates and errors live, see `cases.to_frame`
    fill: Literal["complete", "svt", "zero"] = "complete"  # what stands in for an absent input point
    unit: float | None = None  # of `svt`: the length that is 1 while gaps are filled; None: that of the frame
    points: tuple[int, ...] = ()  # how many points a mark-up must have to be scored; empty: any number

    def served(self, images: int) -> dict[int, int]:
        """Those of `rows` that are enough annotated training images for -> how many of the `images` they take."""
        takes = {rows: images if rows == ALL else self.takes(rows) for rows in self.rows}
        return {rows: count for rows, count in takes.items() if count <= images}

    def takes(self, rows: int) -> int:
        """Training images of a regressor of a stated number of rows."""
        return rows + self.extra_rows

    def numbers(self) -> dict[str, float | int]:
        """The numeric fields, for the metrics file (booleans as 0 and 1: `dvc metrics diff` can't subtract them)."""
        kept = {key: value for key, value in asdict(self).items() if isinstance(value, (int, float))}
        return {key: int(value) if isinstance(value, bool) else value for key, value in kept.items()}


PROTOCOLS: dict[str, Protocol] = {
    "canonical": Protocol("this project"),
    "ols": Protocol("this project: canonical without a ridge", ridge=0.0, ridge_backward=0.0),
    "k2l-mafl": Protocol(
        "dimitrismallis/KeypointsToLandmarks, MAFL",
        ridge_backward=0.1,
        extra_rows=1,
        spans=((5, 0, 1), (68, 41, 46)),
        fill="svt",
        unit=218.0,  # pixels: the height of an image of CelebA
    ),
    "k2l-ls3d": Protocol(
        "dimitrismallis/KeypointsToLandmarks, LS3D",
        ridge=0.1,
        ridge_backward=0.1,
        extra_rows=1,
        pool=1000,
        normaliser="box",
        frame="roi",
        fill="svt",
    ),
    "cgb": Protocol(
        "MamonaAwan/CGB_ULD, MAFL and AFLW",
        ridge=0.01,
        ridge_backward=0.01,
        rows=(ALL,),
        spans=((5, 0, 1), (68, 36, 45)),
        frame="roi",
    ),
    "cgb-box": Protocol(
        "MamonaAwan/CGB_ULD, Cats and LS3D",
        ridge=0.01,
        ridge_backward=0.01,
        rows=(ALL,),
        normaliser="box",
        frame="roi",
    ),
    "tusk-wild": Protocol(
        "ubc-vision/TUSK, CelebA in the wild",
        ridge=0.0,
        ridge_backward=0.0,
        centred=False,
        rows=(ALL,),
        spans=((5, 0, 1),),
        frame="photo",
        fill="zero",
        points=(5,),
    ),
    "jakab": Protocol(
        "tomasjakab/imm, MAFL and AFLW",
        ridge=0.0,
        ridge_backward=0.0,
        centred=False,
        rows=(ALL,),
        pool=0.9,
        spans=((5, 0, 1),),
        frame="roi",
        points=(5,),
    ),
}


def label(rows: int) -> str:
    """Name of a number of regressor rows in keys: `all` or `n300`."""
    return "all" if rows == ALL else f"n{rows}"


def choose(names: tuple[str, ...]) -> dict[str, Protocol]:
    """The named protocols.

    Raises:
        ParamsError: naming an unknown protocol and those there are.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise ParamsError(f"params.yaml: evaluate.protocols: '{name}' is unknown; there: {', '.join(PROTOCOLS)}.")
    return {name: PROTOCOLS[name] for name in names}
