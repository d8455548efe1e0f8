"""Bootstrapping on planted textures: it learns, from any number of threads and through any stop, always the same."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.diffusion import texture
from tests.diffusion.texture import Texture
from tests.training.adam import ADAM
from uld.base import random, stop
from uld.base.errors import ParamsError, ULDError
from uld.base.scratch import scratch_root
from uld.geometry import coords, sampling
from uld.geometry.warps import Warp
from uld.keypoints.classical import ClassicalParams
from uld.losses.silk import all_pairs, matching_nll
from uld.models.frozen import ProjectionParams
from uld.models.heads import Heads, HeadsParams
from uld.sources.stored_views import StoredViews
from uld.sources.views import Batch
from uld.starts import heads
from uld.starts.base import Site
from uld.starts.heads import HeadsStart, HeadsStartParams
from uld.training import bootstrap
from uld.training.bootstrap import BootstrapParams, DescriptorContrastParams, SilkParams, matching, teacher
from uld.training.descriptor_contrast import shown, terms
from uld.training.optimiser import OptimiserParams

GRID = 16
MODEL = HeadsParams(((0, 0), (1, 0)), (5,), 8, 16, 4, 16, "convolution", "native", None)
SILK = {"by": "silk", "tolerance": 1}
CONTRAST = DescriptorContrastParams(margin=0.8, negatives=32, min_distance=2.0, weight=10.0)
MANY = {"by": "classical", "detector": "sift", "points": 12, "scale": 4, "robust": 0.9}
DOTS = {"by": "classical", "detector": "sift", "points": 4, "scale": 4, "robust": 0.9}
BLOCK = BootstrapParams(
    keypoints=SILK,
    outliers=0.0,
    sigma=1.0,
    steps=30,
    pairs=2,
    lr=5e-3,
    descriptor_lr=5e-3,
    optimiser=OptimiserParams(**ADAM),
    contrast=None,
    temperature=0.05,
    flips="both",
)
LINE = HeadsStartParams(
    "heads", "features/trained", ProjectionParams(((0, 0),), 6, GRID, "image", 1.0, 8, 60), MODEL, None, BLOCK
)


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


@pytest.fixture(scope="module")
def dotted(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    """Little texture, so that the dots stand out."""
    return texture.make(tmp_path_factory.mktemp("dotted"), contrast=0.1)


def views_of(tex: Texture, rows: Any = None) -> StoredViews:
    """The views of the training images, or of other `rows`."""
    return StoredViews(tex.store, tex.frames(GRID), tex.rows if rows is None else rows)


def run(tex: Texture, seed: int = 0, rows: Any = None, line: Any = LINE, **changes: Any) -> tuple[Heads, pd.DataFrame]:
    """The model that the start makes, and a line a step; `changes` of its training."""
    state = scratch_root() / "state.pt"
    start = HeadsStart(replace(line, train=replace(line.train, **changes)))
    made = start.make(Site(views_of(tex, rows), tex.crops, seed, state, "planted"))
    assert isinstance(made.model, Heads) and made.history is not None
    return made.model, made.history


def numbers(tex: Texture, batch: Batch) -> np.ndarray:
    """(B,): which of the store's views each item of a batch is."""
    gap = batch.warp.affine.numpy()[:, None] - tex.store.views
    return np.abs(gap).sum((2, 3)).argmin(1)


def same(a: tuple[Heads, pd.DataFrame], b: tuple[Heads, pd.DataFrame]) -> bool:
    """To the last bit."""
    one, other = a[0].state_dict(), b[0].state_dict()
    return a[1].equals(b[1]) and all(torch.equal(one[name], other[name]) for name in one)


# --- learning ---


@pytest.mark.parametrize(("flips", "nll", "rate"), [("both", 0.7, 1.25), ("one", 0.5, 1.25)])
def test_points_are_found_again(tex: Texture, flips: str, nll: float, rate: float) -> None:
    head, history = run(tex, steps=40, flips=flips)
    assert history.columns.tolist() == ["step", "loss", "nll", "detector", "round_trips"]
    np.testing.assert_allclose(history["loss"], history["nll"] + history["detector"], rtol=1e-5)
    assert not head.training
    before = measure(tex, run(tex, steps=0)[0], flips)
    after = measure(tex, head, flips)
    # a model that knows nothing scores 2 log N, with N near 200 cells in the ROI
    assert after[0] < min(nll * before[0], 2 * np.log(100)) and after[1] > rate * before[1]


def measure(tex: Texture, head: Heads, flips: str) -> tuple[float, float]:
    """Loss of the descriptors and share of round trips, on the same pairs for every model."""
    found = []
    with torch.no_grad():
        for seed in range(100, 108):
            drawn = pairs(tex, np.random.default_rng(seed), head.maps_read(), flips=flips)
            nll, success = matching(head.describe(drawn.batch.inputs), drawn, 0.05, 1)
            found.append((float(nll), float(success.nanmean())))
    nll, rate = np.mean(found, axis=0)
    return float(nll), float(rate)


def pairs(tex: Texture, rng: np.random.Generator, names: Any = ("l10_t5",), **changes: Any) -> bootstrap.Pairs:
    return bootstrap.pairs(views_of(tex), replace(BLOCK, **changes), list(names), rng)


def test_a_model_that_is_not_trained(tex: Texture) -> None:
    head, history = run(tex, steps=0)
    assert not len(history)
    maps = tex.store.read(tex.rows)
    torch.testing.assert_close(head.describe(maps), head.base.describe(maps), atol=1e-5, rtol=0)
    spread = (maps["l10_t5"] - maps["l10_t5"].mean((2, 3), keepdim=True)).std((0, 2, 3))
    torch.testing.assert_close(head.get_buffer("scale1").flatten(), spread)  # of training images


def test_training_images_only(tex: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()
    read = type(tex.store).views_of

    def spy(store: Any, rows: Any, views: Any, names: Any) -> Any:
        asked.update(np.asarray(rows).tolist())
        return read(store, rows, views, names)

    monkeypatch.setattr(type(tex.store), "views_of", spy)
    run(tex, steps=6)
    assert asked == set(range(6))


# --- pairs ---


@pytest.mark.parametrize("flips", ["both", "one"])
def test_pairs_of_views_of_one_image(tex: Texture, flips: str) -> None:
    """What the partner of a cell shows is what the cell shows, as the pixels tell; both ends lie in the ROI."""
    place = tex.frames(GRID)
    mixed = 0
    for seed in range(12):
        drawn = pairs(tex, np.random.default_rng(seed), flips=flips, pairs=3)
        batch, views = drawn.batch, numbers(tex, drawn.batch)
        assert len(batch.rows) == 6 and len(set(batch.rows[:3])) == 3  # no image twice while there are enough
        np.testing.assert_array_equal(batch.rows[:3], batch.rows[3:])
        assert (views[:3] != views[3:]).all() and views.max() < tex.store.bank
        np.testing.assert_array_equal(batch.flipped, tex.store.flipped[views])
        mixed += int((batch.flipped[:3] != batch.flipped[3:]).sum())
        nearest = views_of(tex).partner(batch)
        for item in range(3):
            a, b = int(views[item]), int(views[item + 3])
            partner = drawn.partner[item].numpy()
            here = np.flatnonzero(partner >= 0)
            assert batch.inside[item].flatten()[here].all() and batch.inside[item + 3].flatten()[partner[here]].all()
            there = partner[here]
            both = place.inside(batch.rows[[item]], tex.store.views[a])[0].ravel() & (nearest[item] >= 0).numpy()
            assert len(here) <= both.sum() and len(here) > 30
            shown = [_seen(tex, int(batch.rows[item]), view, cells) for view, cells in ((a, here), (b, there))]
            off = (shown[0] - shown[1]).abs().mean()
            assert off < 0.5 * (shown[0] - shown[1][torch.randperm(len(here))]).abs().mean()
    assert (mixed > 5) if flips == "one" else (mixed == 0)
    many = pairs(tex, np.random.default_rng(0), pairs=9)  # more than there are images
    assert len(many.batch.rows) == 18


def _seen(tex: Texture, row: int, view: int, cells: np.ndarray) -> torch.Tensor:
    """Colour at cells (n,) of a view: (n, 3)."""
    y, x = np.divmod(cells, GRID)
    at = coords.apply(coords.resize(GRID, texture.SIZE), np.stack([x, y], 1).astype(np.float32))
    return sampling.sample(tex.view(row, view)[None], torch.from_numpy(at)[None])[0]


def test_matching_counts_a_pair_once() -> None:
    """Two items, a and b; the first cell of a is the second of b, and the rest has no partner."""
    rng = torch.Generator().manual_seed(0)
    descriptors = torch.nn.functional.normalize(torch.randn(2, 5, 2, 2, generator=rng), dim=1)
    descriptors[1, :, 0, 1] = descriptors[0, :, 0, 0]
    inside = torch.tensor([[[True, True], [True, False]], [[True, True], [False, True]]])
    partner = torch.tensor([[1, -1, -1, -1]])
    batch = Batch(np.zeros(2, np.int64), {}, Warp.identity(2, 2), np.zeros(2, bool), inside)
    nll, success = matching(descriptors, bootstrap.Pairs(batch, partner), 0.1, 0)
    a, b = descriptors.flatten(2).transpose(1, 2)[:, None]
    found = all_pairs(a, b, inside[:1].flatten(1), inside[1:].flatten(1), 0.1)
    assert nll == matching_nll(a, b, found, partner, 0.1)
    assert success.shape == (2, 4)
    assert success[0, 0] == success[1, 1] == 1 and success.isnan().sum() == 6


def test_round_trips_within_the_tolerance(tex: Texture) -> None:
    rates = [
        run(tex, keypoints=SILK | {"tolerance": tolerance}, steps=1)[1]["round_trips"][0] for tolerance in (0, 1, GRID)
    ]
    assert rates[0] < rates[1] < rates[2]


# --- teachers ---


def taught(keypoints: Any, **changes: Any) -> Any:
    """The params of a teacher."""
    return teacher(replace(BLOCK, keypoints=keypoints, **changes), "starts.planted.train")


def points_of(tex: Texture, rows: Any = None, keypoints: Any = DOTS, outliers: float = 0, seed: int = 0) -> np.ndarray:
    """The teacher's points (n, P, 2) in the training images, or in other `rows`."""
    site = Site(views_of(tex, rows), tex.crops, seed, Path("unused"), "planted")
    return bootstrap._points(taught(keypoints), replace(BLOCK, keypoints=keypoints, outliers=outliers), site)


def test_a_teachers_points_reach_every_view(dotted: Texture) -> None:
    views = views_of(dotted)
    points = points_of(dotted)
    assert points.shape[0] == 6 and points.shape[1] <= 4 and points.dtype == np.float32
    gap = np.linalg.norm(dotted.dots[:6, :, None] - points[:, None], axis=3)
    found = np.nanmin(gap, axis=2) < 0.6  # pixels of the photograph
    assert found.mean() > 0.8
    for view in range(dotted.store.bank):
        batch = views._batch(dotted.rows, np.full(6, view), ["l10_t5"])
        cells = views.to_cells(batch, points)
        pixels = torch.from_numpy(coords.apply(coords.resize(GRID, texture.SIZE), cells.numpy()))
        for row in range(6):
            for point in range(points.shape[1]):
                at = pixels[row, point]
                if np.nanmin(gap[row, :, point], initial=9) < 0.6 and ((at > 2) & (at < texture.SIZE - 3)).all():
                    shown = dotted.view(row, view).mean(0)
                    x, y = at.round().long().tolist()
                    near = shown[y - 2 : y + 3, x - 2 : x + 3]
                    assert shown[y, x] > 0.75 and near.max() - shown[y, x] < 0.08  # the top of a dot


def test_what_the_detector_is_told_of_a_teachers_points(dotted: Texture) -> None:
    """The first step by hand, on images that are not numbered through: points rendered, and nothing outside the ROI."""
    rows = np.array([0, 2, 3, 5])
    _, history = run(dotted, rows=rows, keypoints=DOTS, sigma=1.5, steps=1)
    place, views = dotted.frames(GRID), views_of(dotted, rows)
    head = heads.build(LINE, views, 0)
    points = dict(zip(rows, points_of(dotted, rows), strict=True))
    batch = bootstrap.pairs(views, BLOCK, head.maps_read(), random.rng(0, "pairs-planted", 0)).batch
    logits = head(batch.inputs).logits[:, 0].detach()
    y, x = np.mgrid[:GRID, :GRID]
    total, cells = 0.0, 0
    for item, (row, view) in enumerate(zip(batch.rows, numbers(dotted, batch), strict=True)):
        at = place.to_cells(np.array([row]), points[row][None], dotted.store.views[view])[0]
        gap = np.nanmin([(x - a) ** 2 + (y - b) ** 2 for a, b in at], axis=0)
        target = torch.from_numpy(np.exp(-gap / (2 * 1.5**2))).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[item], target, reduction="none")
        total += float(loss[batch.inside[item]].sum())
        cells += int(batch.inside[item].sum())
    assert history["detector"][0] == pytest.approx(total / cells, rel=1e-5)


def test_images_with_fewer_points_are_filled_up(dotted: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([np.array([[4.0, 6, 0.5]]), np.empty((0, 3)), np.array([[0, 1, 9.0], [15.5, 15.5, 8]])])
    monkeypatch.setattr("uld.keypoints.classical.Classical.__call__", lambda self, images: [next(given)])
    found = points_of(dotted, np.array([0, 3, 4]))
    assert found.shape == (3, 2, 2)
    np.testing.assert_array_equal(np.isnan(found).all(2), [[False, True], [True, True], [False, False]])
    # the crop shows 40 pixels of the photograph in 32, from (3.5, -0.5) on
    np.testing.assert_allclose(found[0, 0], [3.5 + 4.5 * 1.25, -0.5 + 6.5 * 1.25], atol=1e-4)
    np.testing.assert_allclose(found[2, 1], [23.5, 19.5], atol=1e-4)


def test_outliers_are_those_of_the_whole_data_set(tex: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten points on the objects four are left out, all of one image among them; points beside an object are none."""
    looks = np.eye(8, dtype=np.float32)
    far = {4.0: looks[0], 8.0: looks[1], 12.0: looks[2], 16.0: looks[3]}  # x of the points that look like no other
    lines = [[8.0, 20, 21, 22, 23], [4.0, 12], [16.0, 24, 25]]
    given = {
        row: np.array([[x, 16, 1] for x in line] + [[20, 0, 1]]) for row, line in zip((0, 3, 4), lines, strict=True)
    }
    asked: list[int] = []

    def find(self: Any, images: torch.Tensor) -> list[np.ndarray]:
        asked.append([0, 3, 4][len(asked)])
        return [given[asked[-1]].astype(np.float32)]

    def describe(self: Any, images: torch.Tensor, points: list[np.ndarray]) -> list[np.ndarray]:
        assert (points[0][:, 1] == 16).all()  # what lies above the box is not described
        return [np.stack([far.get(float(x), looks[4]) for x in points[0][:, 0]])]

    monkeypatch.setattr("uld.keypoints.classical.Classical.__call__", find)
    monkeypatch.setattr("uld.keypoints.classical.Classical.describe", describe)
    rows = np.array([0, 3, 4])
    every = points_of(tex, rows)
    assert every.shape == (3, 6, 2)
    asked.clear()
    found = points_of(tex, rows, outliers=0.4)
    assert found.shape == (3, 4, 2)
    np.testing.assert_array_equal(found[0], every[0, 1:5])
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[2, :2], every[2, 1:3])


def test_outliers_of_real_points(tex: Texture) -> None:
    """What is left are points that were there, in their order, and so many as were asked for."""
    every, found = points_of(tex, keypoints=MANY), points_of(tex, keypoints=MANY, outliers=0.4)
    for image, some in zip(every, found, strict=True):
        some = some[np.isfinite(some).all(1)]
        kept = (image[:, None] == some).all(2).any(1)
        np.testing.assert_array_equal(image[kept], some)
    low, high = np.array([3.5, 2.5]), np.array([43.5, 36.5])
    of_object = ((every >= low) & (every <= high)).all(2).sum()
    assert abs(np.isfinite(found).all(2).sum() - 0.6 * of_object) <= 1
    again = points_of(tex, keypoints=MANY, outliers=0.4, seed=1)
    np.testing.assert_array_equal(found, again)  # nothing is drawn where points are few


def test_the_detector_learns_from_a_teacher(dotted: Texture) -> None:
    head, history = run(dotted, keypoints=DOTS, steps=60, lr=1e-2)
    assert history["detector"].iloc[-8:].mean() < history["detector"].iloc[:8].mean()
    place, rows = dotted.frames(GRID), np.array([6, 7])  # in images it has not seen
    for view in (0, *range(dotted.store.bank, len(dotted.store.views))):
        with torch.no_grad():
            heat = head(dotted.store.read(rows, view)).heat
        at = torch.from_numpy(place.to_cells(rows, dotted.dots[rows], dotted.store.views[view]))
        on = sampling.sample(heat, at).mean()
        assert on > 0.4 and on > 5 * heat.mean()


def test_a_teacher_that_finds_nothing(dotted: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Callable[..., Any] = lambda self, images: [np.empty((0, 3), np.float32)]  # noqa: E731
    monkeypatch.setattr("uld.keypoints.classical.Classical.__call__", nothing)
    with pytest.raises(ULDError, match="classical finds no point in any training image: lower its threshold"):
        run(dotted, keypoints=DOTS)


def test_the_block_of_each_teacher() -> None:
    assert taught(SILK) == SilkParams(1) and taught(DOTS) == ClassicalParams("sift", 4, 4, 0.9)
    for wrong in (SILK | {"points": 4}, {"tolerance": 1}, {"by": "surf"}, {"by": "superpoint", "tolerance": 1}):
        with pytest.raises(ParamsError):
            taught(wrong)
    with pytest.raises(ParamsError, match=r"starts\.planted\.train\.keypoints.*points"):
        taught(DOTS | {"points": 0})
    for name, value, off in (("outliers", 0.4, "0"), ("contrast", CONTRAST, "null")):
        assert taught(DOTS, **{name: value}) == taught(DOTS)
        with pytest.raises(ParamsError, match=rf"planted\.train\.{name}: must be {off} where keypoints.by is silk"):
            taught(SILK, **{name: value})


# --- by contrast ---


def test_contrast_tells_points_apart(tex: Texture) -> None:
    """Distance of a point to itself in another view, over that to other points there; for a start that knew little."""
    line = replace(LINE, network=replace(MODEL, descriptor="head"))
    points = points_of(tex)
    runs = [run(tex, line=line, keypoints=DOTS, contrast=CONTRAST, sigma=0.0, steps=steps) for steps in (0, 40)]
    history = runs[1][1]
    assert history.columns.tolist() == ["step", "loss", "detector", "descriptor"]
    np.testing.assert_allclose(history["loss"], history["detector"] + 10 * history["descriptor"], rtol=1e-5)
    before, after = (confusion(tex, head, points) for head, _ in runs)
    assert after < 0.6 * before


def confusion(tex: Texture, head: Heads, points: np.ndarray) -> float:
    """Mean distance of one point in two views, over the mean distance of two points that are three cells apart."""
    views, near, far = views_of(tex), [], []
    for seed in range(100, 108):
        batch = bootstrap.two_views(views, BLOCK, head.maps_read(), np.random.default_rng(seed))
        xy = views.to_cells(batch, points[batch.rows])
        seen = shown(xy, batch.inside)
        with torch.no_grad():
            looks = sampling.sample(head.describe(batch.inputs), xy.nan_to_num(0))
        looks = torch.nn.functional.normalize(looks, dim=2)
        for a in range(BLOCK.pairs):
            b = a + BLOCK.pairs
            both = seen[a] & seen[b]
            gap, apart = torch.cdist(looks[a, both], looks[b, both]), torch.cdist(xy[a, both], xy[a, both])
            near += gap.diagonal().tolist()
            far += gap[apart > 3].tolist()
    assert len(near) > 20 and len(far) > 20
    return float(np.mean(near) / np.mean(far))


def test_the_first_step_by_contrast(tex: Texture) -> None:
    """By hand: squared errors of both views against the points that they show; a mean over all terms."""
    block = replace(BLOCK, keypoints=MANY, contrast=CONTRAST, sigma=0.0)
    history = run(tex, line=replace(LINE, train=block), steps=1)[1]
    views, points = views_of(tex), points_of(tex, keypoints=MANY)
    head, rng = heads.build(LINE, views, 0), random.rng(0, "pairs-planted", 0)
    batch = bootstrap.two_views(views, block, head.maps_read(), rng)
    cells = torch.from_numpy(rng.integers(0, GRID, (4, CONTRAST.negatives, 2)).astype(np.float32))
    with torch.no_grad():
        maps = head(batch.inputs)
    xy, left_out = views.to_cells(batch, points[batch.rows]), 0
    total = 0.0
    for item in range(4):
        target = torch.zeros(GRID, GRID)
        for number, (x, y) in enumerate(xy[item].tolist()):
            column, row = (round(v) if np.isfinite(v) else -1 for v in (x, y))
            if 0 <= column < GRID and 0 <= row < GRID and batch.inside[item, row, column]:
                target[row, column] = 1
            else:
                xy[item, number] = torch.nan
                left_out += 1
        total += float(((maps.heat[item, 0] - target)[batch.inside[item]] ** 2).sum())
    own = torch.cat(terms(maps.looks, xy, cells, batch.inside, CONTRAST.margin, CONTRAST.min_distance))
    assert 0 < left_out < xy.shape[0] * xy.shape[1]
    assert history["detector"][0] == pytest.approx(2 * total / int(batch.inside.sum()), rel=1e-4)
    assert history["descriptor"][0] == pytest.approx(float(own.mean()), rel=1e-4)


# --- always the same ---

WARM_UP = {"keypoints": MANY, "outliers": 0.4, "contrast": CONTRAST, "sigma": 0.0}


@pytest.mark.parametrize("block", [{"keypoints": SILK}, {"keypoints": DOTS}, WARM_UP])
def test_threads_do_not_matter(tex: Texture, monkeypatch: pytest.MonkeyPatch, block: Any) -> None:
    found = []
    for workers in ("0", "1", "2"):
        monkeypatch.setenv("ULD_WORKERS", workers)
        found.append(run(tex, **block, steps=5))
    assert same(found[0], found[1]) and same(found[0], found[2])
    assert not same(found[0], run(tex, seed=1, **block, steps=5))


@pytest.mark.parametrize(("at", "block"), [(0, {}), (2, {}), (4, {}), (2, WARM_UP)])
def test_stopped_and_resumed(tex: Texture, monkeypatch: pytest.MonkeyPatch, at: int, block: Any) -> None:
    whole = run(tex, **block, steps=5)
    asked = count(monkeypatch, at, "contrast" if block else "matching")
    with pytest.raises(stop.Interrupted, match=f"bootstrap planted saved at step {at + 1} of 5"):
        run(tex, **block, steps=5)
    torch.manual_seed(at)  # what else is drawn does not show
    assert same(run(tex, **block, steps=5), whole)
    assert len(asked) == 5  # and no step was done twice


def count(monkeypatch: pytest.MonkeyPatch, at: int, called: str) -> list[int]:
    """A list that grows by one a step; at the one of this number the run is asked to stop, once.

    A step calls a function `called`.
    """
    plain = getattr(bootstrap, called)
    asked: list[int] = []

    def counted(*arguments: Any) -> Any:
        asked.append(len(asked))
        if asked[-1] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    monkeypatch.setattr(bootstrap, called, counted)
    return asked


# --- what is refused ---


def test_layers_that_are_not_stored(tex: Texture) -> None:
    with pytest.raises(ULDError, match=r"starts: features l20_t5 are not stored: see readout.layers and readout.times"):
        run(tex, line=replace(LINE, network=replace(MODEL, layers=((0, 0), (2, 0)))))
    with pytest.raises(ULDError, match=r"features l00_t9, l10_t9 are not stored"):
        run(tex, line=replace(LINE, network=replace(MODEL, timesteps=(5, 9))))
    with pytest.raises(ULDError, match=r"starts: layers .* are not all in the feature store"):
        run(tex, line=replace(LINE, projection=replace(LINE.projection, layers=((3, 0),))))


@pytest.mark.parametrize(
    ("changes", "told"), [({"hidden": 10, "middle": 6}, "middle 6, hidden 10"), ({"width": 9}, "width 9")]
)
def test_sizes_that_cannot_be_grouped(tex: Texture, changes: dict[str, int], told: str) -> None:
    with pytest.raises(ULDError, match=f"starts: network.{told} cannot be split into 4 groups"):
        run(tex, line=replace(LINE, network=replace(MODEL, **changes)))


def test_views_that_cannot_be_paired(tmp_path: Path) -> None:
    poor = texture.make(tmp_path, views=((False, 0, 1), (True, 0, 1)))
    for workers in ("0", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ULD_WORKERS", workers)
            with pytest.raises(ULDError, match="learning needs two views of one flip: add rotations or scales"):
                run(poor)
    assert len(run(poor, flips="one", steps=1)[1]) == 1


def test_collapse_is_refused(tex: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors that do not follow the image: a bias that outweighs everything."""
    build = heads.build

    def collapsed(*arguments: Any) -> Heads:
        head = build(*arguments)
        torch.nn.init.constant_(list(head.descriptor_head.parameters())[-1], 50.0)
        return head

    monkeypatch.setattr(heads, "build", collapsed)
    with pytest.raises(ULDError, match=r"^planted: all descriptors of an image have become alike \(1.000\): lower"):
        run(tex)


def test_a_loss_that_is_not_finite(tex: Texture) -> None:
    with pytest.raises(
        ULDError, match=r"^(bootstrap planted: at step \d the loss is|planted: all descriptors of an image)"
    ):
        run(tex, lr=1e30, steps=8)
