"""Points of a generic detector: where zooms find them, which of them are one, and whose object they are of."""

from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tests.graph import ROOT
from uld import keypoints
from uld.base.errors import ParamsError, ULDError
from uld.base.imports import Code
from uld.base.params import CLOSED, build
from uld.geometry import coords, sampling
from uld.keypoints import outliers
from uld.keypoints.base import Keypoints
from uld.landmarks.generic import DETECTORS, GenericParams, generic, in_scales

SIZE, GRID = 32, 8
PLAIN: Any = SimpleNamespace(affine=coords.view(SIZE), flipped=False)


@dataclass(frozen=True, config=CLOSED)
class FakeParams:
    """So many points an image, of a generator whose seed is the image's brightest value."""

    points: Annotated[int, Field(ge=0)]


class Fake(Keypoints):
    """Random points; an image's blue says how they are drawn, red and green say where a pixel comes from."""

    Params = FakeParams

    def __init__(self, params: FakeParams) -> None:
        self.params = params

    def __call__(self, images: Tensor) -> list[np.ndarray]:
        return [self._points(image) for image in images]

    def _points(self, image: Tensor) -> np.ndarray:
        seed = round(float(image[2].max()) * 100)
        draw = np.random.default_rng(seed)
        count = self.params.points if seed else 0
        table = np.column_stack([draw.uniform(2, SIZE - 3, (count, 2)), draw.random(count)])
        return table[np.argsort(-table[:, 2])].astype(np.float32)

    def describe(self, images: Tensor, points: list[np.ndarray]) -> list[np.ndarray]:
        """Where the pixel comes from, as an angle of either coordinate."""
        assert all(map(len, points)), "nothing is asked where there is no point"
        found = []
        for image, at in zip(images, points, strict=True):
            seen = sampling.sample(image[None, :2], torch.from_numpy(at[None, :, :2]))[0].numpy()
            found.append(np.concatenate([np.cos(seen), np.sin(seen)], 1).astype(np.float32) / np.sqrt(2))
        return found


class Ramps:
    """Images whose red is x and whose green is y, in shares of the side; bilinear zooms keep them exact.

    The box of each is the left half.
    """

    grid = GRID

    def __init__(self, seeds: list[int], reads_pixels: bool = True) -> None:
        """`seeds`: 100 times the blue of each image; 0: an image without points."""
        self.seeds = torch.tensor(seeds) / 100
        self.model = SimpleNamespace(reads_pixels=reads_pixels)
        self.views = SimpleNamespace(inputs=self._inputs)

    def _inputs(self, rows: np.ndarray, view: Any, names: list[str]) -> Tensor:
        assert view is PLAIN and not names
        ramp = torch.arange(float(SIZE)) / SIZE
        red, green = ramp.expand(len(rows), SIZE, SIZE), ramp[:, None].expand(len(rows), SIZE, SIZE)
        return torch.stack([red, green, self.seeds[rows, None, None].expand_as(red)], 1)

    def inside(self, rows: np.ndarray, view: Any) -> Tensor:
        inside = torch.zeros(len(rows), GRID, GRID, dtype=torch.bool)
        inside[:, :, : GRID // 2] = True
        return inside


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keypoints.POINTS, "fake", "tests.landmarks.test_generic:Fake")
    monkeypatch.setenv("ULD_BATCH", "2")


def params(points: int = 12, **changes: Any) -> GenericParams:
    block = {"keypoints": {"by": "fake", "points": points}, "scales": [1], "merge": 0, "outliers": 0}
    return build(GenericParams, block | changes, "methods.one.cluster.points")


def found(source: Any, rows: Any, p: GenericParams, **changes: Any) -> list[Any]:
    """(row, xy, score, descriptor) of each image."""
    draw = np.random.default_rng(0)
    out = []
    for batch, points in generic(source, np.asarray(rows), PLAIN, p, draw, **changes):
        for i, row in enumerate(batch):
            mine = points.image == i
            out.append((int(row), points.xy[mine], points.score[mine], points.descriptor[mine]))
    return out


def test_zooms_bring_points_back_to_where_they_are() -> None:
    """What a point sees of the zoomed image is its own place in the image as it is."""
    seen: list[np.ndarray] = []

    class Looking(Fake):
        def __call__(self, images: Tensor) -> list[np.ndarray]:
            points = super().__call__(images)
            at = torch.from_numpy(np.stack(points)[..., :2])
            seen.append((sampling.sample(images[:, :2], at) * SIZE).numpy())
            return points

    images = Ramps([3, 4])._inputs(np.array([0, 1]), PLAIN, [])
    tables = in_scales(Looking(FakeParams(9)), images, (1.0, 1.3, 1.6))
    assert len(seen) == 3 and all(len(table) == 27 for table in tables)
    for image, table in enumerate(tables):
        want = np.concatenate([part[image] for part in seen])
        assert np.ptp(want[-9:], axis=0).max() < SIZE / 1.6  # the last zoom shows less of the image
        order = np.lexsort(np.rint(want * 100).T)
        mine = np.lexsort(np.rint(table[:, :2] * 100).T)
        np.testing.assert_allclose(table[mine, :2], want[order], atol=2e-4)
        assert (np.diff(table[:, 2]) <= 0).all()


def test_points_of_several_scales_that_are_near_are_one() -> None:
    p, source = params(scales=[1, 1.5, 2], merge=0.6), Ramps([3, 4, 5])
    every = in_scales(Fake(FakeParams(12)), source._inputs(np.arange(3), PLAIN, []), p.scales)
    for (_, xy, score, _), table in zip(found(source, range(3), p), every, strict=True):
        cells = coords.apply(coords.resize(SIZE, GRID), table[:, :2])
        kept: list[int] = []
        for i in range(len(cells)):  # the best first
            if all(np.abs(cells[i] - cells[j]).max() > 0.6 for j in kept):
                kept.append(i)
        kept = [i for i in kept if cells[i][0] < 3.5]  # in the box
        assert 2 < len(kept) < 18
        np.testing.assert_allclose(xy, cells[kept], atol=1e-6)
        np.testing.assert_array_equal(score, table[kept, 2])


def test_points_of_the_box_and_beside_it_are_all_points() -> None:
    p, source = params(), Ramps([3, 0, 5])
    inside, outside = found(source, range(3), p), found(source, range(3), p, beside=True)
    assert [len(xy) for _, xy, *_ in inside][1] == 0 == len(outside[1][1])
    for one, other in zip(inside, outside, strict=True):
        assert (one[1][:, 0] < 3.5).all() and (other[1][:, 0] > 3.5).all()
        assert len(one[1]) + len(other[1]) == (0 if one[0] == 1 else 12)


def test_descriptors_are_those_of_the_image_as_it_is() -> None:
    for _, xy, _, descriptor in found(Ramps([3, 4]), range(2), params(scales=[1.5])):
        at = coords.apply(coords.resize(GRID, SIZE), xy) / SIZE
        np.testing.assert_allclose(descriptor[:, :2] * np.sqrt(2), np.cos(at), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(descriptor, axis=1), 1, atol=1e-5)


def test_outliers_are_those_of_the_whole_data_set() -> None:
    source = Ramps([3, 0, 5, 6, 7])
    every, some = (found(source, range(5), params(outliers=share)) for share in (0, 0.3))
    looks = np.concatenate([one[3] for one in every if len(one[3])])
    kept = outliers.typical(looks, 0.3, np.random.default_rng(0))
    assert 0 < (~kept).sum() < len(kept) / 2
    ends = np.cumsum([len(one[1]) for one in every])[:-1]
    for one, other, mine in zip(every, some, np.split(kept, ends), strict=True):
        assert one[0] == other[0]
        for before, after in zip(one[1:], other[1:], strict=True):
            np.testing.assert_array_equal(before[mine] if len(mine) else before[:0], after[: len(after)])
    # what lies beside the boxes is never left out
    assert sum(len(one[1]) for one in found(source, range(5), params(outliers=0.3), beside=True)) == 48 - len(looks)


def test_code_lists_have_every_detector() -> None:
    """A round whose params name a detector is made anew when the detector's code changes."""
    listed = Code(ROOT).closure(["uld/landmarks/generic.py"])
    modules = [place.split(":")[0] for name, place in keypoints.POINTS.items() if name != "fake"]
    assert len(modules) == len(DETECTORS)
    assert {f"{module.replace('.', '/')}.py" for module in modules} <= set(listed)


def test_no_point_anywhere() -> None:
    with pytest.raises(ULDError, match=r"^fake finds no point in any object box: lower its threshold"):
        generic(Ramps([0, 0]), np.arange(2), PLAIN, params(), np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(ULDError, match=r"^fake finds no point beside the object boxes"):
        found(Ramps([0, 0]), [0], params(), beside=True)


def test_models_that_read_features_are_refused() -> None:
    with pytest.raises(ULDError, match="looks at images, and this model reads features: begin at a start that reads"):
        found(Ramps([3], reads_pixels=False), [0], params())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keypoints": {"by": "surf"}}, r"points\.keypoints: .*must be one of superpoint, classical, learned.*'surf'"),
        ({"keypoints": {"points": 3}}, r"points\.keypoints: .*must be one of .*not 'None'"),
        ({"keypoints": {"by": "fake", "points": 3, "size": 2}}, r"points\.keypoints: .*keypoints\.size: unknown key"),
        (
            {"keypoints": {"by": "fake", "points": -1}},
            r"points\.keypoints: .*keypoints\.points: .*greater than or equal to 0",
        ),
        ({"scales": []}, r"points\.scales: .*at least 1 item"),
        ({"scales": [1, 0.8]}, r"points\.scales\.1: .*greater than or equal to 1"),
        ({"merge": -1}, r"points\.merge: "),
        (
            {"keypoints": {"by": "file", "path": "points.csv", "sha256": "ab"}, "scales": [1, 1.3]},
            r"points: .*scales must be \[1\] where keypoints.by is file: its points are the same in any zoom",
        ),
        ({"outliers": 1}, r"points\.outliers: .*less than 1"),
        ({"radius": 1}, r"points\.radius: unknown key"),
    ],
)
def test_blocks_that_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=r"methods\.one\.cluster\." + said):
        params(**changes)
