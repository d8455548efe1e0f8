"""Coherent Point Drift: one template moved onto the points of many images (Myronenko and Song, TPAMI 2010).

The points of the template are the centres of a mixture of Gaussians of one variance, and a uniform density stands for
points that belong to none of them. Expectation says how likely each point of an image belongs to each centre;
maximisation moves all centres together, as a similarity, an affine map or a smooth field lets them. All images are
aligned at once, in units of the template: its mean is the origin and its spread, the root of the mean squared distance
from the mean, is 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed

from uld.base.params import CLOSED

Floats = NDArray[np.float64]

LEAST = 1e-10  # variance that no mixture goes below: where the fit is exact it would be 0, and its logarithm infinite
FLAT = 1e-9  # ratio of variances, across to along, below which points lie on a line
HELD = 2**22  # pairs of a centre and a point at a time: bounds the memory


@closed(frozen=True, config=CLOSED)
class DriftParams:
    """How a template moves onto the points of an image."""

    transform: Literal["similarity", "affine", "nonrigid"]
    outliers: Annotated[float, Field(ge=0, lt=1)]  # w, share of an image's points that are no point of the template
    iterations: Annotated[int, Field(ge=1)]  # steps of expectation and maximisation, at most
    tolerance: Annotated[float, Field(ge=0)]  # in spreads; where no centre moves farther in a step, it is the last one
    beta: Annotated[float, Field(gt=0)]  # width of the field's kernel in spreads; counts for nonrigid alone
    stiffness: Annotated[float, Field(gt=0)]  # lambda, weight of the field's smoothness; counts for nonrigid alone


@dataclass(frozen=True)
class Aligned:
    """A template of T points on each of B images.

    xy (B, T, 2) float64, NaN where the template cannot be aligned; steps (B,) int64, how many were taken; settled (B,)
    bool, whether the last one moved no centre farther than the tolerance.
    """

    xy: Floats
    steps: NDArray[np.int64]
    settled: NDArray[np.bool_]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(B,): whether the template could be aligned."""
        return np.asarray(np.isfinite(self.xy).all((1, 2)))


def present(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which points (..., 2) are there and not NaN: (...)."""
    return np.asarray(np.isfinite(points).all(-1))


def align(template: NDArray[np.floating], points: NDArray[np.floating], p: DriftParams) -> Aligned:
    """Move a template onto the points of each image, independent of the other images.

    An image is not aligned where its points do not determine the map: none, or all in one place; for affine maps also
    all on one line. Of a template of such points no image is. Nothing is raised.

    Args:
        template: (T, 2). points: (B, P, 2), NaN where an image has fewer than P.

    Returns:
        The template in the frame of the points.
    """
    y, x = (np.asarray(one, dtype=np.float64) for one in (template, points))
    found = Aligned(
        np.full((len(points), *template.shape), np.nan),
        np.zeros(len(points), dtype=np.int64),
        np.zeros(len(points), dtype=np.bool_),
    )
    if not _determined(y[None], p)[0]:
        return found
    mean = y.mean(0)
    spread = np.sqrt(((y - mean) ** 2).sum(1).mean())
    y, x = (y - mean) / spread, (x - mean) / spread
    images = np.flatnonzero(_determined(x, p))
    step = max(1, HELD // max(1, len(y) * x.shape[1]))
    for start in range(0, len(images), step):
        some = images[start : start + step]
        moved, found.steps[some], found.settled[some] = _drift(y, x[some], p)
        found.xy[some] = moved * spread + mean
    return found


def _determined(x: Floats, p: DriftParams) -> NDArray[np.bool_]:
    """Whether points (B, P, 2), NaN where absent, determine a map: (B,)."""
    there = present(x)
    count = np.maximum(there.sum(1), 1)[:, None]
    x = np.where(there[..., None], x, 0)
    off = (x - (x.sum(1) / count)[:, None]) * there[..., None]
    covariance = off.swapaxes(1, 2) @ off / count[..., None]
    across, along = np.linalg.eigvalsh(covariance).T
    size = (x**2).sum((1, 2)) / count[:, 0]  # against which a spread of rounding errors is seen
    some = along > 1e-12 * size
    return some & (across > FLAT * along) if p.transform == "affine" else some


def _drift(y: Floats, x: Floats, p: DriftParams) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """Expectation and maximisation until nothing moves: centres (B, T, 2), steps (B,), and which settled (B,)."""
    maximise = _maximisation(y, p)
    there = present(x)
    x = np.where(there[..., None], x, 0)
    moved = np.broadcast_to(y, (len(x), *y.shape)).copy()
    variance = _first_variance(y, x, there)
    steps, settled = np.zeros(len(x), dtype=np.int64), np.zeros(len(x), dtype=np.bool_)
    left = np.arange(len(x))  # images that still move
    for _ in range(p.iterations):
        if not len(left):
            break
        weight = _posterior(moved[left], x[left], there[left], variance[left], p.outliers)
        with np.errstate(divide="ignore", invalid="ignore"):  # a map that cannot be told becomes NaN
            xy, now = maximise(x[left], weight, variance[left])
            far = np.abs(xy - moved[left]).max((1, 2))
        moved[left], variance[left] = xy, np.maximum(now, LEAST)
        steps[left] += 1
        settled[left] = far <= p.tolerance
        left = left[far > p.tolerance]  # NaN is not farther
    return moved, steps, settled


def _first_variance(y: Floats, x: Floats, there: NDArray[np.bool_]) -> Floats:
    """Mean squared distance (B,) in x and in y of all centres from all points (figure 2 of the paper)."""
    gap = ((y[None, :, None] - x[:, None]) ** 2).sum(3) * there[:, None]
    return gap.sum((1, 2)) / (2 * len(y) * there.sum(1))


def _posterior(centres: Floats, x: Floats, there: NDArray[np.bool_], variance: Floats, outliers: float) -> Floats:
    """How likely (B, T, P) each point belongs to each centre: the E-step of figure 2, in logarithms."""
    value = -((centres[:, :, None] - x[:, None]) ** 2).sum(3) / (2 * variance[:, None, None])
    ratio = centres.shape[1] / there.sum(1)
    with np.errstate(divide="ignore"):  # without outliers their density is 0
        uniform = np.log(2 * np.pi * variance * ratio * outliers / (1 - outliers))[:, None]
    top = np.maximum(value.max(1), uniform)
    weight = np.exp(value - top[:, None])
    return weight / (weight.sum(1) + np.exp(uniform - top))[:, None] * there[:, None]


# --- maximisation: points (B, P, 2), posteriors (B, T, P) and variances (B,) -> centres (B, T, 2) and variances ---

Maximise = Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]


def _maximisation(y: Floats, p: DriftParams) -> Maximise:
    if p.transform == "nonrigid":
        return _nonrigid(y, p)
    return _linear(y, {"similarity": _similarity, "affine": _affine}[p.transform])


def _linear(y: Floats, matrix: Callable[[Floats, Floats], Floats]) -> Maximise:
    """Figures 2 and 3: the matrix between the weighted sets about their means, and those means."""

    def maximise(x: Floats, weight: Floats, _: Floats) -> tuple[Floats, Floats]:
        of_centre, of_point = weight.sum(2), weight.sum(1)
        mass = of_centre.sum(1)
        mean_x = (of_point[:, None] @ x)[:, 0] / mass[:, None]
        off_x = x - mean_x[:, None]
        off_y = y - of_centre[:, None] @ y / mass[:, None, None]  # image by image: bit by bit as alone
        cross = off_x.swapaxes(1, 2) @ weight.swapaxes(1, 2) @ off_y
        linear = matrix(cross, (off_y * of_centre[..., None]).swapaxes(1, 2) @ off_y)
        squares = (of_point * (off_x**2).sum(2)).sum(1)
        variance = (squares - (cross * linear).sum((1, 2))) / (2 * mass)
        return off_y @ linear.swapaxes(1, 2) + mean_x[:, None], variance

    return maximise


def _similarity(cross: Floats, own: Floats) -> Floats:
    """Scaled rotations (B, 2, 2), never a reflection: in the plane what the singular values give is this."""
    along, turned = cross[:, 0, 0] + cross[:, 1, 1], cross[:, 1, 0] - cross[:, 0, 1]
    rows = np.stack([np.stack([along, -turned], 1), np.stack([turned, along], 1)], 1)
    return rows / np.trace(own, axis1=1, axis2=2)[:, None, None]


def _affine(cross: Floats, own: Floats) -> Floats:
    """Matrices (B, 2, 2), NaN where all centres that have points lie on a line."""
    a, b, d = own[:, 0, 0], own[:, 0, 1], own[:, 1, 1]
    determinant = a * d - b * b
    determinant = np.where(determinant > FLAT * (a + d) ** 2, determinant, np.nan)
    adjugate = np.stack([np.stack([d, -b], 1), np.stack([-b, a], 1)], 1)
    return np.asarray(cross @ adjugate / determinant[:, None, None])


def _nonrigid(y: Floats, p: DriftParams) -> Maximise:
    """Figure 4: a field that is a sum of Gaussians around the template's points."""
    kernel = np.exp(-((y[:, None] - y) ** 2).sum(2) / (2 * p.beta**2))

    def maximise(x: Floats, weight: Floats, variance: Floats) -> tuple[Floats, Floats]:
        of_centre, of_point = weight.sum(2)[..., None], weight.sum(1)
        stiff = (p.stiffness * variance)[:, None, None] * np.eye(len(y))
        pulled = weight @ x
        moved = y + kernel @ np.linalg.solve(of_centre * kernel + stiff, pulled - of_centre * y)
        squares = (of_point * (x**2).sum(2)).sum(1) - 2 * (moved * pulled).sum((1, 2))
        return moved, (squares + (of_centre * moved**2).sum((1, 2))) / (2 * of_centre.sum((1, 2)))

    return maximise
