"""A z-buffer: which point of which surface each pixel shows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Visible:
    """The P pixels that show anything.

    Attributes:
        pixel: (P,) flat indices into the image.
        vertices: (P, 3) corners of the triangle that is seen there.
        weights: (P, 3) barycentric.
        depth: (H, W), larger is nearer; -inf where nothing is.
    """

    pixel: NDArray[np.int64]
    vertices: NDArray[np.int64]
    weights: Floats
    depth: Floats

    def interpolate(self, values: Floats) -> Floats:
        """Values (V, C) of the vertices at the pixels (P, C)."""
        return np.einsum("pk,pkc->pc", self.weights, values[self.vertices])


def grid_faces(height: int, width: int) -> NDArray[np.int64]:
    """Triangles (F, 3) of a sheet of height x width vertices, row by row."""
    at = np.arange(height * width).reshape(height, width)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, :-1], at[1:, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])


def facing(xyz: Floats, faces: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which triangles (F,) of a sheet turn their outer side to the viewer; the rest of a closed surface is hidden."""
    a, b, c = (xyz[faces[:, i], :2] for i in range(3))
    (ax, ay), (bx, by) = (a - c).T, (b - c).T
    return ax * by - ay * bx > 0


def rasterise(xyz: Floats, faces: NDArray[np.int64], size: int) -> Visible:
    """Show triangles in a square image.

    Args:
        xyz: (V, 3) float32, x and y in pixels, centres at integers; z towards the viewer.
        faces: (F, 3) both sides are seen.
        size: H = W.
    """
    a, b, c = (xyz[faces[:, i]] for i in range(3))
    low = np.clip(np.ceil(np.minimum(np.minimum(a, b), c)[:, :2]), 0, size).astype(np.int32)
    high = np.clip(np.floor(np.maximum(np.maximum(a, b), c)[:, :2]), -1, size - 1).astype(np.int32)
    span = np.maximum(high - low + 1, 0)
    some = np.flatnonzero(span[:, 0] * span[:, 1])
    faces, a, b, c, low, span = faces[some], a[some], b[some], c[some], low[some], span[some]
    # with (x, y) as seen from the last corner, the weights of the others are linear
    (ax, ay), (bx, by) = ((point - c)[:, :2].T for point in (a, b))
    area = ax * by - ay * bx
    slope = np.stack([by, -bx, -ay, ax]) / np.where(area == 0, np.nan, area)  # NaN is never inside
    x, y = (low.astype(np.float32) - c[:, :2]).T  # first pixel of the box, from the last corner
    # every pixel of every triangle's box is a candidate
    count = span[:, 0] * span[:, 1]
    face = np.repeat(np.arange(len(faces), dtype=np.int32), count)
    place = np.arange(len(face), dtype=np.int32) - np.repeat((np.cumsum(count) - count).astype(np.int32), count)
    width = np.repeat(span[:, 0], count)
    down = place // width
    along = place - down * width
    dx, dy = along.astype(np.float32), down.astype(np.float32)
    first, second = (
        np.repeat(right, count) * dx + np.repeat(below, count) * dy + np.repeat(right * x + below * y, count)
        for right, below in slope.reshape(2, 2, -1)
    )
    inside = np.flatnonzero((first >= 0) & (second >= 0) & (first + second <= 1))
    face = face[inside]
    pixel = (low[face, 1] + down[inside]).astype(np.int64) * size + low[face, 0] + along[inside]
    u, v = first[inside], second[inside]
    w = 1 - u - v
    z = u * a[face, 2] + v * b[face, 2] + w * c[face, 2]
    depth = np.full(size * size, -np.inf, np.float32)
    np.maximum.at(depth, pixel, z)
    front = np.flatnonzero(z == depth[pixel])
    shown, where = np.unique(pixel[front], return_index=True)  # of equal depths, the first triangle
    front = front[where]
    weights = np.stack([u[front], v[front], w[front]], 1)
    return Visible(shown, faces[face[front]], weights, depth.reshape(size, size))
