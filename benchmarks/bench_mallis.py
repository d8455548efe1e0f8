"""Stage 1 of Mallis' chapter 6 on one network: a training step and a label update, against the plain way of its peers
(`plain_mallis.py`); how much of each the network is, and how the rest of it compares.
"""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import plain_mallis as plain
import torch
import torch.nn.functional as F
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
ABOVE = 0.12  # share of cells in which the detector is told to fire: 15 to 30 points an image, as trained ones have
CELEBA = 160_000  # images about; what a round does to a fixed number of them, it does here to as large a share
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
    max_points=800_000,
    restarts=10,
    iterations=100,
    over_clustering=1,
    recentre=0,
    images=1_000,
    detect=DetectParams(radius=2, threshold=0.15, min_points=0, max_points=50, heat_weight=0),
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
        self.sizes = {"grid": GRID, "width": width, "depth": 4, "dims": width, "groups": groups}
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
        """The round itself; so many threads draw ahead."""
        quiet = contextlib.redirect_stdout(io.StringIO())
        with tempfile.TemporaryDirectory() as folder, quiet, mock.patch.dict(os.environ, ULD_WORKERS=str(workers)):
            training = Training(self.labels, self.views, self.rng, Path(folder) / "state", "round")
            losses: list[float] = train(deepcopy(model), training, self.p)[1]["loss"].tolist()
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
        # the peers' points are whole cells; of a step's points, few are left in the end of which both ends are shown
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
    whole: Ways = {OURS: lambda: steps.ours(model, workers=1), PEERS: lambda: steps.peers(model)}
    # in turn, so that nothing is hidden behind something else
    rest: Ways = {f"{OURS} ": lambda: steps.ours(told, workers=0), f"{PEERS} ": lambda: steps.peers(told)}
    seconds, found = measure({**whole, **rest, "network": steps.network}, repeats)
    same("first loss", found[OURS][0], found[PEERS][0], rtol=0.1)  # other random negatives
    topic = f"training step of {p.pairs} pairs at {SIZE} px"
    print(f"{topic}: network alone, forward, backward and update: {seconds['network'] / p.steps:.4g} s a step")
    compare(topic, {n: seconds[n] for n in whole}, {n.strip(): seconds[n] for n in rest}, p.steps, "steps")
    judge(topic, 100 * seconds["network"] / seconds[OURS])


# --- a label update ---


@dataclass
class Clock:
    """Seconds spent in calls of a network, and the images that it was shown."""

    spent: float = 0.0
    images: int = 0
    begun: float = field(default=0.0, repr=False)

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
        synchronise()
        self.begun, self.images = time.perf_counter(), self.images + len(given[0])

    def _end(self, model: nn.Module, given: Any, said: Any) -> None:
        synchronise()
        self.spent += time.perf_counter() - self.begun


class Update:
    """A label update by either way, on the same weights and crops."""

    def __init__(self, setting: Setting, p: MallisDParams) -> None:
        self.setting, self.p, self.source = setting, p, Source(setting.model, setting.views)

    def ours(self) -> Labelled:
        """Discover and label, as two stages of a round do: each looks at all images."""
        task = Task(self.source, self.setting.rows, K, random.rng(0, "bench-mallis-update"))
        method = MallisD(self.p)
        return method.label(task, method.discover(task).landmarks)

    def peers(self) -> dict[plain.Key, list[tuple[int, plain.Array]]]:
        """Plainly."""
        dims = self.setting.model.dims
        with tempfile.TemporaryDirectory() as folder:
            return plain.update(self._said, self.setting.files, self.p, K, Path(folder) / "pool.h5", dims)

    def _said(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps: Maps = self.setting.model(images)
        return maps.looks, maps.heat

    def check(self, images: int) -> None:
        """Stop unless both ways detect the same, and assign the same, in some images."""
        rows, views = self.setting.rows[:images], self.setting.views
        some = replace(self.p, max_points=10**6, clusters=2)
        pool = label.detections(self.source, rows, some.detect)
        found = []
        for view in views.flips:
            maps = self.source.maps(rows, view)
            self._detected(maps.looks, maps.heat[:, 0])
        centroids = random.rng(0, "bench-mallis-centroids").standard_normal((K, self.setting.model.dims), np.float32)
        centroids = F.normalize(torch.from_numpy(centroids), dim=1).numpy()
        kept, own = label.closest(pool, centroids)
        at = torch.from_numpy(centroids)
        for flip in (False, True):
            for row in rows:
                mine = (pool.flipped == flip) & (pool.image == row)
                x, xy = torch.from_numpy(pool.descriptor[mine]), pool.xy[mine]
                found += [(flip, row, cluster, *xy[place]) for place, cluster in plain.closest(x, at)]
        same("assignment", np.column_stack([kept.flipped, kept.image, own, kept.xy]), np.array(found), atol=1e-5)

    def _detected(self, looks: Tensor, heat: Tensor) -> None:
        """Stop unless greedy suppression keeps our points, and others only where something higher is near."""
        p, inside = self.p.detect, torch.ones_like(heat, dtype=torch.bool)
        image, ours, score = maxima(heat, inside, p)
        for item, one in enumerate(heat):
            cells = plain.greedy(one, p)
            tops = plain.tops(one, cells, p.radius)[: p.max_points]
            theirs = np.array([plain.shifted(one, x, y).tolist() for x, y in tops]).reshape(-1, 2)
            mine = image == item
            same("heat of detections", score[mine], [one[y, x].item() for x, y in tops])
            # half a cell at most to the top of a quadratic, or a quarter towards the higher neighbour
            same("places of detections", ours.cpu()[mine], theirs, atol=0.75)
            assert len(cells) >= len(tops) or len(tops) == p.max_points, "greedy suppression loses a maximum"


def updating(setting: Setting, p: MallisDParams) -> None:
    """Print what a label update takes either way, and what of it is not the network."""
    update = Update(setting, p)
    update.check(min(32, len(setting.rows)))
    whole, rest, processor = {}, {}, {}
    clocks = {OURS: Clock(), PEERS: Clock()}
    ways: dict[str, Callable[[], Any]] = {OURS: update.ours, PEERS: update.peers}
    found = {}
    for name, way in ways.items():
        begun = time.process_time()
        with clocks[name].on(setting.model):
            seconds, results = measure({name: way}, 1)
        whole[name], found[name], processor[name] = seconds[name], results[name], time.process_time() - begun
        rest[name] = whole[name] - clocks[name].spent
    images = len(setting.rows)
    topic = f"label update of {images} images and their mirror images"
    health = found[OURS].health
    told = sum(map(len, found[PEERS].values())) / (2 * images)
    print(f"{topic}: {health['detections']:.1f} detections an image, {health['labels']:.1f} labels, plainly {told:.1f}")
    for name, clock in clocks.items():
        print(
            f"{topic}: {name}: network alone {clock.spent:.4g} s for {clock.images} images, "
            f"{100 * clock.spent / whole[name]:.0f} % of it; {processor[name]:.4g} s of CPU time in all"
        )
    compare(topic, whole, rest, images, "images")
    judge(topic, 100 * clocks[OURS].spent / whole[OURS])


# --- figures ---


def compare(topic: str, whole: dict[str, float], rest: dict[str, float], work: float, unit: str) -> None:
    """Print both ways as a whole and without the network, of which both have as much."""
    report(f"{topic}: whole", whole, work, unit, PEERS)
    report(f"{topic}: all but the network", rest, work, unit, PEERS)
    for part, seconds in (("whole", whole), ("all but the network", rest)):
        times = seconds[PEERS] / seconds[OURS]
        print(f"{topic}: {part} {times:.1f} times as fast; target {TIMES} {'met' if times >= TIMES else 'missed'}")


def judge(topic: str, percent: float) -> None:
    """Print whether most of our time is the network."""
    print(
        f"{topic}: {percent:.0f} % of ours is the network; target {SHARE} % {'met' if percent >= SHARE else 'missed'}"
    )


def main(small: bool) -> None:
    images, repeats, network = (8, 1, (16, 2)) if small else (2_000, 5, (64, 8))
    setting = Setting(images, *network)
    if small:
        p, cluster = replace(TRAIN, steps=1, pairs=2), replace(CLUSTER, clusters=5, restarts=1, images=2)
    else:
        share = images / CELEBA
        p, cluster = (
            TRAIN,
            replace(CLUSTER, max_points=round(share * CLUSTER.max_points), images=round(share * CLUSTER.images)),
        )
    training(setting, p, CLUSTER.clusters, repeats)
    updating(setting, cluster)


if __name__ == "__main__":
    run(main)
