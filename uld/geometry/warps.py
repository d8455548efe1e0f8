"""Warps between a square crop and views of it, in batches: affines, each optionally bent by a thin-plate spline.

A view is a warp. Training draws a new one for every image and step, so nothing here loops over the images of a batch.
The spline acts in the view: view pixel v shows what the affine alone would show at v + t(v), where t takes given values
at a fixed n x n grid of control points (Bookstein, "Principal Warps", PAMI 1989, section E). What a view shows where is
therefore a closed form, which resampling uses; where a point of the crop went is found by Newton's method.
Values of t at a regular grid are a constant matrix times the control values. The matrix is made once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from uld.geometry.coords import Affine

STEPS = 20  # of Newton's method, at most; a spline that does not fold needs three
CLOSE = 1e-2  # pixels: a shorter step is the last one; it leaves an error of about its square
NEARBY = 0.1  # pixels: a shorter step ends the search in float32, and leaves less than a hundredth of it
STEEPEST = 0.9  # slope of a drawn spline at most: from 1 on it can fold
NEAREST = 1e-12  # distance at which the logarithm is cut off; r^2 log r is 0 there


@dataclass(frozen=True, eq=False)
class Warp:
    """B warps between the crop (S x S) and a view of it (S x S).

    Attributes:
        affine: (B, 2, 3) float64, crop -> view before the spline, in pixels.
        size: S.
        bend: (B, n * n, 2) float64, the values of t (x, y) in pixels of the view at control points that divide the
            view from edge to edge, row by row; None: no spline.
    """

    affine: Tensor
    size: int
    bend: Tensor | None = None

    @classmethod
    def of(cls, affine: Affine, size: int, device: torch.device | str = "cpu") -> "Warp":
        """Warps of crop -> view affines (B, 2, 3) alone."""
        return cls(torch.as_tensor(affine, dtype=torch.float64, device=device), size)

    @classmethod
    def identity(cls, count: int, size: int, device: torch.device | str = "cpu") -> "Warp":
        """`count` views that are the crop itself."""
        return cls.of(np.tile(np.eye(2, 3), (count, 1, 1)), size, device)

    @classmethod
    def cat(cls, warps: Sequence["Warp"]) -> "Warp":
        """All warps of several batches of one size; a batch without a spline gets one that does nothing.

        Raises:
            ValueError: sizes or control grids differ.
        """
        controls = {warp.bend.shape[1] for warp in warps if warp.bend is not None}
        if len({warp.size for warp in warps}) != 1 or len(controls) > 1:
            raise ValueError("warps of different sizes or control grids cannot be joined")
        bends = [warp._bend_or_zero(count) for count in controls for warp in warps]
        affine = torch.cat([warp.affine for warp in warps])
        return cls(affine, warps[0].size, torch.cat(bends) if bends else None)

    def __len__(self) -> int:
        """B."""
        return len(self.affine)

    @property
    def flipped(self) -> Tensor:
        """(B,) bool: whether the view mirrors the crop."""
        a = self.affine
        return a[:, 0, 0] * a[:, 1, 1] < a[:, 0, 1] * a[:, 1, 0]

    def take(self, index: Any) -> "Warp":
        """The warps at `index`: a slice, or integers or booleans as a tensor or an array."""
        index = torch.as_tensor(index, device=self.affine.device) if isinstance(index, np.ndarray) else index
        return replace(self, affine=self.affine[index], bend=None if self.bend is None else self.bend[index])

    def to_crop(self, xy: Tensor) -> Tensor:
        """Points (B, P, 2) in pixels of the views -> pixels of the crops (B, P, 2), float64, exact."""
        xy = xy.double()
        if self.bend is not None:
            xy = xy + self._spline(self.bend)(xy.mT.contiguous())[0].mT
        return _apply(inverse(self.affine), xy)

    def to_view(self, xy: Tensor) -> Tensor:
        """Points (B, P, 2) in pixels of the crops -> pixels of the views (B, P, 2), float64.

        Exact for affines and to 1e-4 pixels with a spline. NaN stays NaN, and is the answer where a spline folds so
        much that no point is found.
        """
        straight = _apply(self.affine, xy.double())
        return straight if self.bend is None else self._spline(self.bend).undo(straight.mT.contiguous()).mT

    def nearby(self, xy: Tensor) -> Tensor:
        """As `to_view`, but with a spline only to about 1e-3 pixels, in half the time."""
        straight = _apply(self.affine, xy.double())
        return straight if self.bend is None else self._spline(self.bend).search(straight.mT.contiguous()).mT

    def between(self, other: "Warp", xy: Tensor) -> Tensor:
        """Points (B, P, 2) in pixels of these views -> pixels of `other` views (B, P, 2) of the same crops, float64."""
        return other.to_view(self.to_crop(xy))

    def cells_in_crop(self, grid: int) -> Tensor:
        """Where the centres of G x G cells of each view lie in its crop: (B, G * G, 2) pixels, row by row, float64."""
        return (self._shown(grid, torch.float64) + 1) * (self.size / 2) - 0.5

    def resample(self, images: Tensor, padding: str = "reflection") -> Tensor:
        """The views of crops.

        Args:
            images: (B, C, S, S) float.
            padding: what lies outside the crop: `reflection`, `border` or `zeros`.

        Returns:
            (B, C, S, S), bilinear. Multiples of a quarter turn and the mirror are exact.
        """
        grid = self._shown(self.size, images.dtype).unflatten(1, (self.size, self.size))
        return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)

    def _shown(self, count: int, dtype: torch.dtype) -> Tensor:
        """(B, count * count, 2): what a regular grid over the view shows, from -1 to 1 over the crop."""
        back, half = inverse(self.affine), self.size / 2
        linear = back[:, :, :2].mT
        middle = torch.full((1, 1, 2), half - 0.5, dtype=torch.float64, device=back.device)
        shift = (middle @ linear + back[:, None, :, 2] + 0.5) / half - 1
        parts = [linear, shift] if self.bend is None else [self.bend / half @ linear, linear, shift]
        side = 0 if self.bend is None else _side(self.bend)
        return _times(_basis(count, side, dtype, back.device), torch.cat(parts, 1).to(dtype))

    def _spline(self, bend: Tensor) -> "_Spline":
        return _Spline.through(bend, self.size)

    def _bend_or_zero(self, controls: int) -> Tensor:
        return self.affine.new_zeros(len(self), controls, 2) if self.bend is None else self.bend


def affines(
    size: int,
    flipped: NDArray[np.bool_],
    rotate: NDArray[np.float64],
    scale: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> Affine:
    """Crop -> view affines (B, 2, 3) as of `coords.view`, B at a time, and then a shift.

    Args:
        size: S. flipped: (B,) whether x is mirrored first. rotate: (B,) degrees, x towards y. scale: (B,).
        shift: (B, 2) x, y in pixels.
    """
    c, angle = (size - 1) / 2, np.deg2rad(rotate)
    cos, sin, hand = scale * np.cos(angle), scale * np.sin(angle), np.where(flipped, -1.0, 1.0)
    linear = np.stack([np.stack([cos * hand, -sin], 1), np.stack([sin * hand, cos], 1)], 1)
    return np.concatenate([linear, (c - linear.sum(2) * c + shift)[:, :, None]], axis=2)


def inverse(affine: Tensor) -> Tensor:
    """Inverse of affines (..., 2, 3) in closed form: a mirror's is exact, and a GPU is not waited for."""
    a, b, c, d = affine[..., 0, 0], affine[..., 0, 1], affine[..., 1, 0], affine[..., 1, 1]
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    linear = adjugate / (a * d - b * c)[..., None, None]
    return torch.cat([linear, -linear @ affine[..., 2:]], -1)


def partner(a: Warp, b: Warp, grid: int) -> Tensor:
    """Which cell of view b shows what the cell of view a shows, for B pairs of views of one crop each.

    Returns:
        (B, G * G) int64; -1 outside view b, or if the nearest cells are not each other's.
    """
    there, back = _nearest(a, b, grid), _nearest(b, a, grid)
    mutual = back.gather(1, there.clamp_min(0)) == torch.arange(grid * grid, device=there.device)
    return torch.where((there >= 0) & mutual, there, -1)


def unfolded(bend: Tensor, size: int) -> Tensor:
    """Control values (B, n * n, 2) in pixels of a view of S, made smaller where their spline t could fold.

    Where the slope of t reaches `STEEPEST`, all of an item's values are multiplied by the factor that brings it there.
    t is then a contraction, so that v + t(v) takes every value once and `Warp.to_view` finds it.
    """
    slopes = _times(_slopes(_side(bend)).to(bend.device), bend * (2 / size))  # (B, P along x and P along y, 2)
    (a, b), (c, d) = (axis.unbind(-1) for axis in slopes.chunk(2, 1))
    # the largest singular value of a 2 x 2 matrix
    steepest = (((a + d) ** 2 + (b - c) ** 2).sqrt() + ((a - d) ** 2 + (b + c) ** 2).sqrt()).amax(1) / 2
    return bend * (STEEPEST / steepest.clamp_min(STEEPEST))[:, None, None]


def _nearest(a: Warp, b: Warp, grid: int) -> Tensor:
    """(B, G * G): the cell of b nearest to each of a, -1 outside.

    Of affines, float32 decides ties, as files hold points. A spline has none that mean anything.
    """
    seen = b.nearby(a.cells_in_crop(grid))
    x, y = (((seen + 0.5) * (grid / b.size) - 0.5).float() + 0.5).floor().nan_to_num(-1).long().unbind(2)
    return torch.where((x >= 0) & (x < grid) & (y >= 0) & (y < grid), y * grid + x, -1)


def _times(matrix: Tensor, each: Tensor) -> Tensor:
    """One matrix (P, m) times each of (B, m, 2): (B, P, 2). One wide product is faster than B narrow ones."""
    return (matrix @ each.transpose(0, 1).flatten(1)).unflatten(1, (-1, 2)).transpose(0, 1)


def _apply(affine: Tensor, xy: Tensor) -> Tensor:
    """Affines (B, 2, 3) of points (B, P, 2)."""
    return xy @ affine[:, :, :2].mT + affine[:, None, :, 2]


# --- the spline; u is a position in a view from -1 to 1, and the control points are _regular(n) ---


@dataclass(frozen=True, eq=False)
class _Spline:
    """B splines t over views of `size` pixels; points come last here, where a CPU is fast.

    Attributes:
        weights: (B, 8, n * n), for both components of t those of log r times 1, c_x, c_y and c.c, component by
            component; c are the control points.
        polynomial: (B, 3, 2, 1), factors of 1, u_x and u_y.
    """

    weights: Tensor
    polynomial: Tensor
    centres: Tensor  # (n * n, 2)
    size: int

    @classmethod
    def through(cls, bend: Tensor, size: int) -> "_Spline":
        """Through the values `bend` (B, n * n, 2) at the control points."""
        centres = _regular(_side(bend)).to(bend.device)
        weights, polynomial = (_solution(_side(bend)).to(bend.device) @ bend).split([len(centres), 3], 1)
        factors = torch.stack([torch.ones_like(centres[:, 0]), *centres.T, centres.square().sum(1)])
        return cls((weights.mT[:, None] * factors[:, None]).flatten(1, 2), polynomial[..., None], centres, size)

    def __call__(self, xy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t (B, 2, P) at pixels (B, 2, P), and its slopes (B, 2, P) along x and y.

        A sum of w r^2 log r over the control points is one of w log r times 1, c and c.c: only logarithms are taken
        for each pair of a point and a control point. The weights sum to 0, and so do those times c.
        """
        u = (xy + 0.5) * (2 / self.size) - 1
        one, *moments, square = (self.weights @ _logs(self.centres, u.mT)).unflatten(1, (4, 2)).unbind(1)
        value, slopes = square + self.polynomial[:, 0], []
        for axis, (moment, slant) in enumerate(zip(moments, self.polynomial[:, 1:].unbind(1), strict=True)):
            lean = u[:, axis, None] * one - moment
            value = value + u[:, axis, None] * (lean - moment + slant)
            slopes.append((2 * lean + slant) * (2 / self.size))
        return value, slopes[0], slopes[1]

    def undo(self, goal: Tensor) -> Tensor:
        """The pixels v (B, 2, P) with v + t(v) = goal; NaN where none is found.

        float32 finds the neighbourhood in half the time, and float64 the point.
        """
        xy, step = self._newton(self.search(goal).double(), goal, CLOSE)
        return xy.masked_fill(step >= CLOSE, torch.nan)

    def search(self, goal: Tensor) -> Tensor:
        """As `undo`, float32 and less exact; anything where no point is found."""
        single = _Spline(self.weights.float(), self.polynomial.float(), self.centres.float(), self.size)
        return single._newton(goal.float(), goal.float(), NEARBY)[0]

    def _newton(self, xy: Tensor, goal: Tensor, close: float) -> tuple[Tensor, Tensor]:
        """Newton's method from `xy` until all steps are shorter than `close` pixels; the points and last steps."""
        for _ in range(STEPS):
            value, along_x, along_y = self(xy)
            step = _solve(along_x, along_y, xy + value - goal)
            xy, length = xy - step, step.abs().amax(1, keepdim=True)
            if not (length >= close).any():  # false for NaN
                break
        return xy, length


def _solve(along_x: Tensor, along_y: Tensor, rest: Tensor) -> Tensor:
    """The step (B, 2, P) that removes `rest` where t has these slopes (B, 2, P) along x and y."""
    (a, c), (b, d), (x, y) = along_x.unbind(1), along_y.unbind(1), rest.unbind(1)
    a, d = 1 + a, 1 + d
    return torch.stack([d * x - b * y, a * y - c * x], 1) / (a * d - b * c)[:, None]


def _side(bend: Tensor) -> int:
    return round(bend.shape[1] ** 0.5)


def _regular(count: int, edges: float = 1.0) -> Tensor:
    """(count * count, 2) x, y from -edges to edges, row by row."""
    line = torch.linspace(-edges, edges, count, dtype=torch.float64)
    return torch.cartesian_prod(line, line).flip(1)


def _logs(one: Tensor, other: Tensor) -> Tensor:
    """log r (..., P, Q) of the distances of points (..., P, 2) and (..., Q, 2)."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist").clamp_min_(NEAREST).log_()


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    """r^2 log r (P, Q)."""
    logs = _logs(one, other)
    return (2 * logs).exp() * logs


@lru_cache(maxsize=16)
def _solution(controls: int) -> Tensor:
    """(m + 3, m) with m = n * n: values at the control points -> weights and polynomial."""
    at = _regular(controls)
    linear = torch.cat([torch.ones_like(at[:, :1]), at], 1)
    system = torch.cat([torch.cat([_kernel(at, at), linear], 1), F.pad(linear.T, (0, 3))])
    return torch.linalg.inv(system)[:, : len(at)]


def _cardinal(u: Tensor, controls: int) -> Tensor:
    """(P, n * n): the spline at u (P, 2) that is 1 at one control point and 0 at the others, for each of them."""
    terms = torch.cat([_kernel(u, _regular(controls)), torch.ones_like(u[:, :1]), u], 1)
    return terms @ _solution(controls)


@lru_cache(maxsize=16)
def _slopes(controls: int) -> Tensor:
    """(2 P, n * n): slopes of the cardinal splines along x, then along y, over the view and half as far again."""
    at, step = _regular(4 * controls + 1, edges=1.5), 1e-5
    both = step * torch.eye(2, dtype=torch.float64)
    return torch.cat([_cardinal(at + d, controls) - _cardinal(at - d, controls) for d in both]) / (2 * step)


@lru_cache(maxsize=16)
def _basis(count: int, controls: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(count * count, n * n + 3): the cardinal splines, x, y and 1 at the centres of count x count cells of a view."""
    at = _regular(count, edges=1 - 1 / count)
    parts = [_cardinal(at, controls)] if controls else []
    return torch.cat([*parts, at, torch.ones_like(at[:, :1])], 1).to(device, dtype)
