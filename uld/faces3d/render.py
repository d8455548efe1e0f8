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


def rasterise(xyz: Floats, faces: NDArray[np.int64], size: int) -> Visible:
    """Show triangles in a square image.

    Args:
        xyz: (V, 3) float32, x and y in pixels, centres at integers; z towards the viewer.
        faces: (F, 3) both sides are seen.
        size: H = W.
    """
    corner = xyz[faces]
    low = np.clip(np.ceil(corner[:, :, :2].min(1)), 0, size).astype(np.int32)
    high = np.clip(np.floor(corner[:, :, :2].max(1)), -1, size - 1).astype(np.int32)
    span = np.maximum(high - low + 1, 0)
    some = np.flatnonzero(span.prod(1))
    faces, corner, low, span = faces[some], corner[some], low[some], span[some]
    # with (x, y) as seen from the last corner, the weights of the others are linear
    (ax, ay), (bx, by) = (corner[:, i, :2].T - corner[:, 2, :2].T for i in (0, 1))
    area = ax * by - ay * bx
    slope = np.stack([by, -bx, -ay, ax]) / np.where(area == 0, np.nan, area)  # NaN is never inside
    # every pixel of every triangle's box is a candidate
    count = span.prod(1)
    face = np.repeat(np.arange(len(faces), dtype=np.int32), count)
    place = np.arange(len(face), dtype=np.int32) - np.repeat((np.cumsum(count) - count).astype(np.int32), count)
    down, along = np.divmod(place, np.repeat(span[:, 0], count))
    x, y = along + np.repeat(low[:, 0], count), down + np.repeat(low[:, 1], count)
    dx = x.astype(np.float32) - np.repeat(corner[:, 2, 0], count)
    dy = y.astype(np.float32) - np.repeat(corner[:, 2, 1], count)
    first = np.repeat(slope[0], count) * dx + np.repeat(slope[1], count) * dy
    second = np.repeat(slope[2], count) * dx + np.repeat(slope[3], count) * dy
    inside = np.flatnonzero((first >= 0) & (second >= 0) & (first + second <= 1))
    face, pixel = face[inside], y[inside].astype(np.int64) * size + x[inside]
    weight = np.stack([first[inside], second[inside], 1 - first[inside] - second[inside]], 1)
    z = (weight * corner[face, :, 2]).sum(1)
    depth = np.full(size * size, -np.inf, np.float32)
    np.maximum.at(depth, pixel, z)
    front = np.flatnonzero(z == depth[pixel])
    shown, where = np.unique(pixel[front], return_index=True)  # of equal depths, the first triangle
    front = front[where]
    return Visible(shown, faces[face[front]], weight[front], depth.reshape(size, size))
