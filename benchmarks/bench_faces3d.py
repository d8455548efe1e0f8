"""The z-buffer of the generated heads against a loop over triangles with the same depths, and whole photographs."""

import numpy as np
from numpy.typing import NDArray
from timing import Ways, measure, report, run, same

from uld.datasets.heads3d import head, render
from uld.datasets.heads3d.photo import photo

Floats = NDArray[np.floating]


def loop(xyz: Floats, faces: NDArray[np.int64], size: int) -> Floats:
    """One triangle after the other, each over the pixels of its box."""
    depth = np.full((size, size), -np.inf, np.float32)
    for a, b, c in xyz[faces]:
        low, high = np.ceil(np.minimum(np.minimum(a, b), c)), np.floor(np.maximum(np.maximum(a, b), c))
        x0, y0, x1, y1 = (int(np.clip(v, 0, size)) for v in (low[0], low[1], high[0] + 1, high[1] + 1))
        area = (a[0] - c[0]) * (b[1] - c[1]) - (a[1] - c[1]) * (b[0] - c[0])
        if x0 >= x1 or y0 >= y1 or area == 0:
            continue
        dx, dy = np.arange(x0, x1) - c[0], (np.arange(y0, y1) - c[1])[:, None]
        first = ((b[1] - c[1]) * dx - (b[0] - c[0]) * dy) / area
        second = ((a[0] - c[0]) * dy - (a[1] - c[1]) * dx) / area
        z = first * a[2] + second * b[2] + (1 - first - second) * c[2]
        seen = (first >= 0) & (second >= 0) & (first + second <= 1)
        part = depth[y0:y1, x0:x1]
        np.maximum(part, np.where(seen, z, -np.inf), out=part)
    return depth


def main(small: bool) -> None:
    size, repeats, photos = (48, 1, 2) if small else (256, 9, 30)
    chart = head.skin().chart[::4] if small else head.skin().chart
    faces = render.grid_faces(*chart.shape[:2])
    xyz = (chart.reshape(-1, 3) * [size / 3, size / 3, 1] + [size / 2, size / 2, 0]).astype(np.float32)
    ways: Ways = {
        "uld": lambda: render.rasterise(xyz, faces, size).depth,
        "loop over triangles": lambda: loop(xyz, faces, size),
    }
    seconds, found = measure(ways, repeats)
    hit = [np.isfinite(found[name]) for name in ways]
    assert (hit[0] != hit[1]).mean() < 1e-3, "pixels at the very edge of a triangle may differ by rounding, others not"
    both = hit[0] & hit[1]
    same("depths", found["uld"][both], found["loop over triangles"][both], atol=1e-3)
    report(f"z-buffer, {len(faces)} triangles, {size} px", seconds, 1, "images", "loop over triangles")
    photo(0, 0)  # builds the head
    ways = {"uld": lambda: [photo(0, 7 * i) for i in range(photos)]}
    ways["z-buffer alone"] = lambda: [render.rasterise(xyz, faces, size) for _ in range(photos)]
    seconds, _ = measure(ways, 1 if small else 3)
    report("whole photographs, 128 px", seconds, photos, "images", "z-buffer alone")


if __name__ == "__main__":
    run(main)
