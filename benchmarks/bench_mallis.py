"""Stage 1 of Mallis' chapter 6 on one network: a training step and a label update, against the plain way of its peers
(`plain_mallis.py`); how much of each the network is, and how the rest of it compares.
"""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import plain_mallis as plain
import torch
from bench_pixel_views import LIGHT
from numpy.typing import NDArray
from timing import Ways, measure, report, run, same, synchronise
from torch import Tensor, nn

from uld.artifacts.labels import Labels
from uld.base import random, runtime
from uld.geometry.frames import Frames
from uld.geometry.heatmaps import render
from uld.landmarks import label
from uld.landmarks.detect import DetectParams, maxima
from uld.methods.base import Labelled, Task, Training
from uld.methods.mallis_d import MallisD, MallisDParams
from uld.models.base import Inputs, Maps
from uld.models.hourglass import Hourglass
from uld.sources.augmentation import BendParams, PixelViewParams, WarpParams
from uld.sources.pixel_views import PixelViews
from uld.sources.source import Source
from uld.training.descriptor_contrast import contrast, shown, within
from uld.training.labelled import LabelledImages
from uld.training.optimiser import OptimiserParams
from uld.training.self_training import SelfTrainingParams, draw_pairs, train

SHARE, TIMES = 80, 5  # what is asked: percent of a step that are the network, and how much faster the rest is
SIZE, GRID, K = 64, 32, 10
# a random detector fires nowhere; biased to fire in this share of the cells it has 15 to 30 points an image, as trained
# ones have
ABOVE = 0.12
# CelebA has 80 times as many; what a round does to a fixed number of images or points, it does here to as large a share
IMAGES, CELEBA = 2_000, 160_000
OURS, PEERS = "uld", "plain way"
# the peers' changes of light are fewer and their warps have no spline either
SEEN = PixelViewParams(WarpParams(True, rotate=40, scale=0.2, shift=0.05, bend=BendParams(0, 2)), LIGHT)
# as `uld preset mallis-ch6`, in cells of half the grid
TRAIN = SelfTrainingParams(
    steps=6,
    pairs=16,
    lr=2e-4,
    descriptor_lr=2e-4,
    optimiser=OptimiserParams("rmsprop", 1e-5, None, False),
    other_image=0.5,
    sigma=0,
    descriptor_weight=10,
    margin=0.8,
    negatives=500,
    min_distance=2.85,
)
CLUSTER = MallisDParams(
    clusters=100,
    pool="detections",
    points=100,
    max_points=800_000 * IMAGES // CELEBA,
    restarts=10,
    iterations=100,
    over_clustering=1,
    recentre=0,
    images=1_000 * IMAGES // CELEBA,
    detect=DetectParams(radius=2, threshold=0.15, min_points=0, max_points=50, heat_weight=0),
)


# --- figures ---

Spent = NDArray[np.float64]  # seconds (2,) by the clock and of CPU time, which other processes hardly change


def now() -> Spent:
    """Since some moment."""
    synchronise()
    return np.array([time.perf_counter(), time.process_time()])


def timed(ways: Ways, repeats: int) -> tuple[dict[str, Spent], dict[str, Any]]:
    """`timing.measure`, and CPU time beside that of the clock."""
    processor: dict[str, list[float]] = {name: [] for name in ways}

    def counted(name: str) -> Any:
        begun = time.process_time()
        result = ways[name]()
        processor[name].append(time.process_time() - begun)
        return result

    seconds, results = measure({name: partial(counted, name) for name in ways}, repeats)
    return {name: np.array([seconds[name], np.median(processor[name][-repeats:])]) for name in ways}, results


def compare(topic: str, spent: dict[str, Spent], work: float, unit: str) -> None:
    """Print both ways and whether ours is as many times as fast as asked."""
    ours, peers = spent[OURS], spent[PEERS]
    report(topic, {OURS: float(ours[0]), PEERS: float(peers[0])}, work, unit, PEERS)
    clock, processor = peers / ours
    told = f"{TIMES} times {'met' if clock >= TIMES else 'missed'}"
    print(f"{topic}: CPU time {ours[1]:.4g} s against {peers[1]:.4g} s, {processor:.2f} x; target {told}")


def judge(topic: str, network: Spent, whole: Spent, steps: int) -> None:
    """Print whether most of our time is the network."""
    clock, processor = 100 * network / whole
    told = f"{SHARE} % {'met' if clock >= SHARE else 'missed'}"
    print(
        f"{topic}: the network alone {network[0] / steps:.4g} s, {clock:.0f} % of ours "
        f"({processor:.0f} % of its CPU time); target {told}"
    )


# --- what both ways begin with ---


def pictures(count: int) -> NDArray[np.uint8]:
    """Random pictures (N, S, S, 3), fine enough that a random network finds as many maxima as a trained one."""
    rng = random.rng(0, "bench-mallis-pictures")
    few = rng.integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for one in few])


def drawn_labels(images: int, clusters: int) -> Labels:
    """K points in each image and its mirror image, of as many of M clusters, in pixels of the crops."""
    rng = random.rng(0, "bench-mallis-labels")
    flipped, image, _ = (
        part.ravel() for part in np.meshgrid([False, True], np.arange(images), np.arange(K), indexing="ij")
    )
    clusters_of = rng.permuted(np.tile(np.arange(clusters), (2 * images, 1)), axis=1)[:, :K].ravel()
    xy = rng.uniform(4, SIZE - 4, (len(image), 2)).astype(np.float32)
    sure = np.ones(len(image), np.float32)
    return Labels(image, flipped.astype(np.bool_), clusters_of, xy, sure, sure.astype(np.bool_), clusters)


class Setting:
    """Images, their views, and the network that both ways use."""

    def __init__(self, images: int, width: int, groups: int) -> None:
        """A network with random weights, whose detector fires in the share `ABOVE` of the cells."""
        self.files = plain.Photographs(pictures(images))
        pixels = np.stack([self.files[row] for row in range(images)])  # what is left of a picture in its file
        whole, box = (lambda rows: np.ones((len(rows), SIZE, SIZE), np.bool_)), [-0.5, -0.5, SIZE - 0.5, SIZE - 0.5]
        frames = Frames(np.tile(np.eye(2, 3), (images, 1, 1)), np.tile(box, (images, 1)), whole, SIZE, GRID)
        self.rows = np.arange(images)
        self.views = PixelViews(lambda rows: pixels[rows], whole, frames, self.rows, SEEN, np.empty((0, 2, 3)))
        self.sizes: dict[str, Any] = {"grid": GRID, "width": width, "depth": 4, "dims": width, "groups": groups}
        torch.manual_seed(0)
        self.model = Hourglass(SIZE, **self.sizes).to(runtime.device()).eval()
        self._aim()

    @torch.no_grad()
    def _aim(self) -> None:
        logits = Source(self.model, self.views).maps(self.rows[:32], self.views.plain).logits
        last = self.model.detector_head[-1]
        assert logits is not None
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.bias += torch.tensor(CLUSTER.detect.threshold).logit() - logits.flatten().quantile(1 - ABOVE)


# --- a training step ---


class Told(Hourglass):
    """Says what it was told, whatever it is shown: with it a step costs what it costs without the network."""

    said: Maps

    def forward(self, inputs: Inputs) -> Maps:
        """That."""
        return self.said


class Steps:
    """Steps of a round by either way, from the same weights, crops, labels and random numbers."""

    def __init__(self, setting: Setting, p: SelfTrainingParams, clusters: int) -> None:
        self.setting, self.p, self.views = setting, p, setting.views
        self.labels = drawn_labels(len(setting.rows), clusters)
        self.images = LabelledImages(self.labels, self.views, [])
        self.drawn = plain.Drawn(setting.files, self.views, SEEN, self.labels)
        self.batch, self.xy, self.cells = draw_pairs(self.images, p, self.rng(0))
        maps = self.batch.through(setting.model)
        self.told = Told(SIZE, **setting.sizes).to(runtime.device())
        self.told.said = maps.each(lambda part: part.detach().requires_grad_())

    @staticmethod
    def rng(number: int) -> np.random.Generator:
        """Of a step."""
        return random.rng(0, f"bench-mallis-step-{number}")

    def ours(self, model: Hourglass, workers: int) -> list[float]:
        """The round itself, and the detector's loss of each step; so many threads draw ahead."""
        quiet = contextlib.redirect_stdout(io.StringIO())
        with tempfile.TemporaryDirectory() as folder, quiet, mock.patch.dict(os.environ, ULD_WORKERS=str(workers)):
            training = Training(self.labels, self.views, self.rng, Path(folder) / "state", "round")
            losses: list[float] = train(deepcopy(model), training, self.p)[1]["detector"].tolist()
        return losses

    def peers(self, model: Hourglass) -> list[float]:
        """The same steps plainly."""
        return plain.train(deepcopy(model), self.drawn, self.p, self.rng)

    def network(self) -> None:
        """Forward, backward and update, on views that were drawn before."""
        model = deepcopy(self.setting.model).train()
        optimiser = self.p.optimiser.make(model.groups(self.p.lr, self.p.descriptor_lr))
        for _ in range(self.p.steps):
            maps = self.batch.through(model)
            loss = maps.heat.square().mean() + maps.looks.square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def check(self) -> None:
        """Stop unless a step sees the same either way, and its loss is the same on the same pairs."""
        step = self.drawn(self.p, self.rng(0))
        # OpenCV resamples in fixed point, and a hue turns that error into another colour
        same("views", step.images.cpu(), self._inputs().cpu(), atol=0.1)
        same("masks", step.inside.cpu(), self.batch.inside.cpu())
        same("targets", step.target.cpu(), render(self.xy, GRID, 0).cpu())
        looks = self.told.said.looks.detach()
        # the peers' points are whole cells
        xy, p = (self.xy + 0.5).floor(), self.p
        loss = plain.contrast(looks, step.positive.to(looks), self._pairs(xy), p.margin)
        same("loss of descriptors", loss.cpu(), self._contrast(looks, xy).cpu(), rtol=1e-4)

    def _inputs(self) -> Tensor:
        assert isinstance(self.batch.inputs, Tensor)
        return self.batch.inputs

    def _contrast(self, looks: Tensor, xy: Tensor) -> Tensor:
        return contrast(looks, xy, self.cells, self.batch.inside, self.p.margin, self.p.min_distance)

    def _pairs(self, xy: Tensor) -> Tensor:
        """Our negative pairs as a table (B, 5) of views and places, found pair by pair."""
        known, valid = within(xy, GRID), shown(self.cells, self.batch.inside)
        rows = []
        for item in range(len(xy)):
            ones = xy[item][known[item]].tolist()
            others = ones + self.cells[item][valid[item]].tolist()
            far = self.p.min_distance**2
            rows += [
                [item, *one, *other]
                for one in ones
                for other in others
                if (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2 > far
            ]
        return torch.tensor(rows, dtype=torch.float64, device=xy.device)


def training(setting: Setting, p: SelfTrainingParams, clusters: int, repeats: int) -> None:
    """Print what steps of a round take either way, and what of them is not the network."""
    steps = Steps(setting, p, clusters)
    steps.check()
    model, told = setting.model, steps.told
    ways: Ways = {
        OURS: lambda: steps.ours(model, workers=1),
        PEERS: lambda: steps.peers(model),
        # in turn, so that nothing is hidden behind something else
        f"{OURS}, no network": lambda: steps.ours(told, workers=0),
        f"{PEERS}, no network": lambda: steps.peers(told),
        "network": steps.network,
    }
    spent, found = timed(ways, repeats)
    # of the first step: beyond it, and of descriptors, other random negatives count, and points between cells
    same("loss of the detector", found[OURS][0], found[PEERS][0], rtol=0.02)
    topic = f"training step of {p.pairs} pairs at {SIZE} px"
    compare(f"{topic}, whole", spent, p.steps, "steps")
    rest = {name: spent[f"{name}, no network"] for name in (OURS, PEERS)}
    compare(f"{topic}, all but the network", rest, p.steps, "steps")
    judge(topic, spent["network"], spent[OURS], p.steps)


# --- a label update ---


@dataclass
class Clock:
    """What calls of a network took of a run, and how many images it was shown."""

    spent: Spent = field(default_factory=lambda: np.zeros(2))
    images: int = 0
    begun: Spent = field(default_factory=lambda: np.zeros(2))

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Count while it is open."""
        hooks = [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, model: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.begun, self.images = now(), self.images + len(given[0])

    def _end(self, model: nn.Module, given: Any, said: Any) -> None:
        self.spent = self.spent + now() - self.begun


class Update:
    """A label update by either way, on the same weights and crops."""

    def __init__(self, setting: Setting, p: MallisDParams, rows: NDArray[np.int64]) -> None:
        """Of the images `rows`."""
        self.setting, self.p, self.rows = setting, p, rows
        self.source = Source(setting.model, setting.views)

    def ours(self) -> Labelled:
        """Discover and label, as the stage `cluster` of a round does."""
        task = Task(self.source, self.rows, K, random.rng(0, "bench-mallis-update"))
        method = MallisD(self.p)
        return method.label(task, method.discover(task).landmarks)

    def peers(self) -> dict[plain.Key, list[tuple[int, plain.Array]]]:
        """Plainly."""
        with tempfile.TemporaryDirectory() as folder:
            return plain.update(self._said, self.setting.files, self.rows, self.p, K, Path(folder) / "pool.h5")

    def _said(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps: Maps = self.setting.model(images)
        return maps.looks, maps.heat

    def check(self) -> None:
        """Stop unless both ways detect the same and, given centroids, assign the same."""
        for view in self.setting.views.flips:
            self._detected(self.source.maps(self.rows, view).heat[:, 0])
        pool = label.detections(self.source, self.rows, self.p.detect)
        some = random.rng(0, "bench-mallis-centroids").choice(len(pool.image), K, replace=False)
        centroids = pool.descriptor[some]
        kept, own = label.closest(pool, centroids)
        ours, at = np.column_stack([kept.flipped, kept.image, own, kept.xy]), torch.from_numpy(centroids)
        theirs = []
        for flip, row in product((False, True), self.rows):
            mine = (pool.flipped == flip) & (pool.image == row)
            x, xy = torch.from_numpy(pool.descriptor[mine]), pool.xy[mine]
            theirs += [(flip, row, cluster, *xy[place]) for place, cluster in plain.closest(x, at)]
        same("assignment", ours, np.array(theirs), atol=1e-5)

    def _detected(self, heat: Tensor) -> None:
        """Stop unless our points are those that greedy suppression keeps and that have nothing higher around them."""
        p, inside = self.p.detect, torch.ones_like(heat, dtype=torch.bool)
        image, ours, score = maxima(heat, inside, p)
        for item, one in enumerate(heat):
            tops = plain.tops(one, plain.greedy(one, p), p.radius)[: p.max_points]
            theirs = np.array([plain.shifted(one, x, y).tolist() for x, y in tops]).reshape(-1, 2)
            mine = image == item
            same("heat of detections", score[mine], [one[y, x].item() for x, y in tops])
            # half a cell at most to the top of a quadratic, or a quarter towards the higher neighbour
            same("places of detections", ours.cpu()[mine], theirs, atol=0.75)


def updating(setting: Setting, p: MallisDParams, few: MallisDParams) -> None:
    """Print what a label update takes either way, and what of it is not the network.

    Args:
        few: for the first images, on which results are compared; these runs load what is loaded when first used.
    """
    first = Update(setting, few, setting.rows[:32])
    first.check()
    first.ours()
    first.peers()
    update, clocks = Update(setting, p, setting.rows), {OURS: Clock(), PEERS: Clock()}
    with clocks[OURS].on(setting.model):
        spent, found = timed({OURS: update.ours}, 1)
    with clocks[PEERS].on(setting.model):
        theirs, plainly = timed({PEERS: update.peers}, 1)
    spent, images = spent | theirs, len(update.rows)
    topic = f"label update of {images} images and their mirror images"
    told = sum(map(len, plainly[PEERS].values())) / (2 * images)
    health = found[OURS].health
    print(f"{topic}: {health['detections']:.1f} detections an image, {health['labels']:.1f} labels, plainly {told:.1f}")
    for name, clock in clocks.items():
        print(f"{topic}: {name}: {clock.images} images through the network, {clock.spent[0]:.4g} s")
    compare(f"{topic}, whole", spent, images, "images")
    rest = {name: spent[name] - clock.spent for name, clock in clocks.items()}
    compare(f"{topic}, all but the network", rest, images, "images")
    judge(topic, clocks[OURS].spent, spent[OURS], 1)


def main(small: bool) -> None:
    few = replace(CLUSTER, clusters=5, restarts=1, images=2)
    if small:
        setting, repeats, train_by, cluster_by = Setting(8, 16, 2), 2, replace(TRAIN, steps=1, pairs=2), few
    else:
        setting, repeats, train_by, cluster_by = Setting(IMAGES, 64, 8), 3, TRAIN, CLUSTER
    training(setting, train_by, CLUSTER.clusters, repeats)
    updating(setting, cluster_by, few)


if __name__ == "__main__":
    run(main)
