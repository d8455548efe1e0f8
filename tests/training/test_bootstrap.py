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
from uld.training.bootstrap import BootstrapParams, SilkParams, matching, teacher
from uld.training.optimiser import OptimiserParams

GRID = 16
MODEL = HeadsParams(((0, 0), (1, 0)), (5,), 8, 16, 4, 16, "convolution", "native", None)
SILK = {"by": "silk", "tolerance": 1}
DOTS = {"by": "classical", "detector": "sift", "points": 4, "scale": 4, "robust": 0.9}
BLOCK = BootstrapParams(
    keypoints=SILK,
    sigma=1.0,
    steps=30,
    pairs=2,
    lr=5e-3,
    descriptor_lr=5e-3,
    optimiser=OptimiserParams(**ADAM),
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


def test_a_teachers_points_reach_every_view(dotted: Texture) -> None:
    views = views_of(dotted)
    points = bootstrap._points("classical", teacher(DOTS, "keypoints"), dotted.crops, views)
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
    found = bootstrap._points("classical", teacher(DOTS, "keypoints"), dotted.crops, views)
    points = dict(zip(rows, found, strict=True))
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
    views = views_of(dotted, np.array([0, 3, 4]))
    found = bootstrap._points("classical", teacher(DOTS, "keypoints"), dotted.crops, views)
    assert found.shape == (3, 2, 2)
    np.testing.assert_array_equal(np.isnan(found).all(2), [[False, True], [True, True], [False, False]])
    # the crop shows 40 pixels of the photograph in 32, from (3.5, -0.5) on
    np.testing.assert_allclose(found[0, 0], [3.5 + 4.5 * 1.25, -0.5 + 6.5 * 1.25], atol=1e-4)
    np.testing.assert_allclose(found[2, 1], [23.5, 19.5], atol=1e-4)


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
    assert teacher(SILK, "k") == SilkParams(1) and teacher(DOTS, "k") == ClassicalParams("sift", 4, 4, 0.9)
    for wrong in (SILK | {"points": 4}, {"tolerance": 1}, {"by": "surf"}, {"by": "superpoint", "tolerance": 1}):
        with pytest.raises(ParamsError):
            teacher(wrong, "starts.planted.train.keypoints")
    with pytest.raises(ParamsError, match=r"starts\.planted\.train\.keypoints.*points"):
        teacher(DOTS | {"points": 0}, "starts.planted.train.keypoints")


# --- always the same ---


@pytest.mark.parametrize("keypoints", [SILK, DOTS])
def test_threads_do_not_matter(tex: Texture, monkeypatch: pytest.MonkeyPatch, keypoints: Any) -> None:
    found = []
    for workers in ("0", "1", "2"):
        monkeypatch.setenv("ULD_WORKERS", workers)
        found.append(run(tex, keypoints=keypoints, steps=5))
    assert same(found[0], found[1]) and same(found[0], found[2])
    assert not same(found[0], run(tex, seed=1, keypoints=keypoints, steps=5))


@pytest.mark.parametrize("at", [0, 2, 4])
def test_stopped_and_resumed(tex: Texture, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    whole = run(tex, steps=5)
    asked = count(monkeypatch, at)
    with pytest.raises(stop.Interrupted, match=f"bootstrap planted saved at step {at + 1} of 5"):
        run(tex, steps=5)
    torch.manual_seed(at)  # what else is drawn does not show
    assert same(run(tex, steps=5), whole)
    assert len(asked) == 5  # and no step was done twice


def count(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """A list that grows by one a step; at the one of this number the run is asked to stop, once."""
    asked: list[int] = []

    def counted(*arguments: Any) -> Any:
        asked.append(len(asked))
        if asked[-1] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return matching(*arguments)

    monkeypatch.setattr(bootstrap, "matching", counted)
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
