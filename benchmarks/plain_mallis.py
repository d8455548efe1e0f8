"""Stage 1 of Mallis' chapter 6 as it is written most plainly: an image, a pair and a point at a time, on the host.

What `bench_mallis.py` measures against. It does what the public systems of this kind do, none of whose code is here:
images are decoded whenever they are looked at, targets are stamped point by point, negative pairs are tables of 5,000
rows a view in float64, detections are suppressed greedily, and descriptors go through an HDF5 file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import faiss
import h5py
import numpy as np
import torch
import torch.nn.functional as F
from bench_pixel_views import lit
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

from uld.artifacts.labels import Labels
from uld.base import runtime
from uld.cluster import search
from uld.geometry import coords, sampling
from uld.images.augment import Draws, draw
from uld.landmarks.detect import PeakParams
from uld.losses import duld
from uld.methods.mallis_d import MallisDParams
from uld.models.headed import Headed
from uld.sources.augmentation import PixelViewParams
from uld.sources.pixel_views import PixelViews
from uld.training.self_training import SelfTrainingParams

TABLE = 5_000  # negative pairs a view
FEWEST = 2  # labels in an image and in its mirror image, or the round does without it

Array = NDArray[np.float32]
Table = NDArray[np.float64]
Rng = Callable[[int], np.random.Generator]


class Photographs:
    """Crops (S, S, 3) as files in memory; each is decoded when it is looked at.

    The file of a crop is smaller than that of a photograph, from which the peers cut it out each time.
    """

    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        """Of pictures (N, S, S, 3)."""
        self.files = [cv2.imencode(".jpg", one)[1] for one in pictures]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """(S, S, 3)."""
        return np.asarray(cv2.imdecode(self.files[row], cv2.IMREAD_COLOR))

    def __len__(self) -> int:
        """N."""
        return len(self.files)


# --- a training step ---


@dataclass(frozen=True)
class Step:
    """What a step sees of 2P views; `positive` (A, 6) view, x, y of each end and `negative` (B, 5) view, x, y, x, y."""

    images: Tensor
    target: Tensor
    inside: Tensor
    positive: Tensor
    negative: Tensor


class Drawn:
    """Draws the pairs that `uld.training.self_training.pair_up` draws, and computes view after view of them."""

    def __init__(self, files: Photographs, views: PixelViews, seen: PixelViewParams, labels: Labels) -> None:
        """Of labels in pixels of the crops."""
        self.files, self.views, self.seen, self.labels = files, views, seen, labels
        self.size, self.grid = views.frames.size, views.frames.grid
        keys = zip(labels.image.tolist(), labels.flipped.tolist(), strict=True)
        self.known: dict[tuple[int, bool], list[int]] = {}
        for place, key in enumerate(keys):
            self.known.setdefault(key, []).append(place)

    def __call__(self, p: SelfTrainingParams, rng: np.random.Generator) -> Step:
        """One step."""
        rows, flipped = self._pairs(p, rng)
        affines = self.views._warps(flipped, rng).affine.cpu().numpy()
        light = draw(self.seen.light, len(rows), self.size, rng)
        images, inside, points = [], [], []
        for item, (row, flip, affine) in enumerate(zip(rows.tolist(), flipped.tolist(), affines, strict=True)):
            images.append(self._view(row, affine, light, item))
            inside.append(self._inside(affine))
            points.append(self._points(row, flip, affine))
        targets = [target(torch.from_numpy(xy), self.grid) for _, xy in points]
        alike = [positives(item, points, p.pairs, self.grid) for item in range(p.pairs)]
        apart = [negatives(item, xy, self.grid, p.min_distance, rng) for item, (_, xy) in enumerate(points)]
        parts = np.stack(images), torch.stack(targets), np.stack(inside), np.concatenate(alike), np.concatenate(apart)
        return Step(*(torch.as_tensor(part).to(runtime.device()) for part in parts))

    def _pairs(self, p: SelfTrainingParams, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Images (2P,), first all first ones, and whether each is flipped."""
        first = rng.choice(len(self.files), p.pairs)
        second = np.where(rng.random(p.pairs) < p.other_image, rng.choice(len(self.files), p.pairs), first)
        return np.concatenate([first, second]), rng.choice([False, True], 2 * p.pairs)

    def _view(self, row: int, affine: coords.Affine, light: Draws, item: int) -> Array:
        shape, linear, mirror = (self.size, self.size), cv2.INTER_LINEAR, cv2.BORDER_REFLECT
        image = cv2.warpAffine(self.files[row], affine, shape, flags=linear, borderMode=mirror)
        return lit(image, light, item).transpose(2, 0, 1)

    def _inside(self, affine: coords.Affine) -> NDArray[np.bool_]:
        cells = (coords.cells(self.grid).astype(np.float64) + 0.5) * (self.size / self.grid) - 0.5
        at = np.rint(coords.apply(coords.invert(affine), cells))
        return np.asarray(((at >= 0) & (at < self.size)).all(1).reshape(self.grid, self.grid))

    def _points(self, row: int, flipped: bool, affine: coords.Affine) -> tuple[list[int], Array]:
        """Labels and cells (n, 2), rounded, of the points of a view."""
        places = self.known.get((row, flipped), [])
        xy = coords.apply(affine, self.labels.xy[places].reshape(-1, 2))
        cells = np.floor((xy + 0.5) * (self.grid / self.size)).astype(np.float32)
        return self.labels.label[places].tolist(), cells


def target(points: Tensor, grid: int) -> Tensor:
    """What the detector learns (G, G): 1 in the cells of points (n, 2), each a stamp of 3 x 3 cells."""
    heat = torch.zeros(grid, grid)
    for point in points:
        column, row = int(point[0]), int(point[1])
        if not (0 <= column < grid and 0 <= row < grid):
            continue
        stamp = torch.zeros(3, 3)
        stamp[1, 1] = 1
        left, top, right, bottom = max(column - 1, 0), max(row - 1, 0), min(column + 2, grid), min(row + 2, grid)
        part = stamp[top - row + 1 : bottom - row + 1, left - column + 1 : right - column + 1]
        heat[top:bottom, left:right] = torch.maximum(heat[top:bottom, left:right], part)
    return heat


def positives(item: int, points: list[tuple[list[int], Array]], pairs: int, grid: int) -> Table:
    """Points of one label in the two views of a pair: (A, 6)."""
    (here, first), (there, second) = points[item], points[item + pairs]
    rows = []
    for place, label in enumerate(here):
        if label not in there:
            continue
        one, other = first[place], second[there.index(label)]
        if min(*one, *other) >= 0 and max(*one, *other) < grid:
            rows.append([item, *one, item + pairs, *other])
    return np.array(rows, np.float64).reshape(-1, 6)


def negatives(item: int, xy: Array, grid: int, min_distance: float, rng: np.random.Generator) -> Table:
    """All pairs of the points of a view, then points with random cells, as far as they lie apart: (B, 5)."""
    shown = xy[((xy >= 0) & (xy < grid)).all(1)]
    if len(shown) <= 2:
        return np.empty((0, 5))
    pairs = [[*one, *other] for one, other in combinations(shown, 2)]
    left = TABLE - len(pairs)
    one, other = shown[rng.integers(len(shown), size=left)], rng.integers(0, grid, (left, 2))
    table = np.concatenate([np.array(pairs, np.float64), np.hstack([one, other]).astype(np.float64)])
    far = np.linalg.norm(table[:, :2] - table[:, 2:], axis=1) > min_distance
    return np.column_stack([np.full(int(far.sum()), item, np.float64), table[far]])


def contrast(looks: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """The loss of descriptors, gathered pair by pair."""
    view, x, y, other, u, v = positive.long().unbind(1)
    attracted = duld.attract(looks[view, :, y, x], looks[other, :, v, u])
    view, x, y, u, v = negative.long().unbind(1)
    repelled = duld.repel(looks[view, :, y, x], looks[view, :, v, u], margin)
    return (attracted.sum() + repelled.sum()) / max(1, len(attracted) + len(repelled))


def train(model: Headed, drawn: Drawn, p: SelfTrainingParams, rng: Rng) -> list[float]:
    """The steps of a round; the detector's loss of each."""
    optimiser = p.optimiser.make(model.groups(p.lr, p.descriptor_lr))
    model.train()
    losses = []
    for number in range(p.steps):
        step = drawn(p, rng(number))
        maps = model(step.images)
        detector = 2 * duld.detector_mse(maps.heat[:, 0], step.target, step.inside)
        loss = detector + p.descriptor_weight * contrast(maps.looks, step.positive, step.negative, p.margin)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(detector.item())
    return losses


# --- a label update ---

Key = tuple[bool, int]  # flip and row of an image
# images (B, 3, S, S) -> descriptors (B, D, G, G) and heat (B, 1, G, G)
Said = Callable[[Tensor], tuple[Tensor, Tensor]]


class Detections:
    """Points of all images and their mirror images: cells, and descriptors in an array of a file that grows."""

    def __init__(self, file: h5py.File, dims: int) -> None:
        """None yet, of D = `dims` values."""
        self.table = file.create_dataset("descriptor", (0, dims), np.float64, maxshape=(None, dims), chunks=(64, dims))
        self.where: dict[Key, tuple[int, int]] = {}
        self.xy: dict[Key, Array] = {}

    def append(self, key: Key, xy: Array, descriptors: Table) -> None:
        """Add the points of an image."""
        start, end = len(self.table), len(self.table) + len(xy)
        self.table.resize(end, axis=0)
        self.table[start:end] = descriptors
        self.where[key], self.xy[key] = (start, end), xy

    def read(self, key: Key) -> Tensor:
        """The descriptors (n, D) of an image."""
        start, end = self.where[key]
        return torch.from_numpy(self.table[start:end]).float().to(runtime.device())


def greedy(heat: Tensor, params: PeakParams) -> list[tuple[int, int]]:
    """Cells x, y from the highest on, each where no earlier one is near."""
    rows, columns = torch.where(heat >= params.threshold)
    order = heat[rows, columns].argsort(descending=True, stable=True)
    rows, columns = rows[order], columns[order]
    kept = []
    while len(rows):
        x, y = int(columns[0].item()), int(rows[0].item())
        kept.append((x, y))
        apart = ((columns - x).abs() > params.radius) | ((rows - y).abs() > params.radius)
        rows, columns = rows[apart], columns[apart]
    return kept


def tops(heat: Tensor, cells: list[tuple[int, int]], radius: int) -> list[tuple[int, int]]:
    """Those cells that are the highest around them.

    The detector here is random and has slopes, on which greedy suppression keeps half as many points again; one that is
    trained on single cells has few. They go, so that both ways have the same work from here on.
    """
    highest = F.max_pool2d(heat[None], 2 * radius + 1, 1, radius)[0]
    return [(x, y) for x, y in cells if heat[y, x] >= highest[y, x]]


def shifted(heat: Tensor, x: int, y: int) -> Tensor:
    """The point (2,), a quarter of a cell towards the higher neighbour in x and in y."""
    point = torch.tensor([float(x), float(y)], device=heat.device)
    if not (0 < x < len(heat) - 1 and 0 < y < len(heat) - 1):
        return point
    across = heat[y, x + 1].item() - heat[y, x - 1].item()
    down = heat[y + 1, x].item() - heat[y - 1, x].item()
    return point + 0.25 * torch.tensor([across, down], device=heat.device).sign()


def detect(model: Said, files: Photographs, rows: NDArray[np.int64], params: PeakParams, file: h5py.File) -> Detections:
    """Points of the images `rows` and of their mirror images."""
    found = None
    for flipped in (False, True):
        for batch in runtime.batches(rows):
            images = np.stack([files[row][:, ::-1] if flipped else files[row] for row in batch])
            inputs = torch.from_numpy(images).to(runtime.device()).permute(0, 3, 1, 2).float() / 255
            looks, heat = model(inputs)
            found = found or Detections(file, looks.shape[1])
            for item, row in enumerate(batch):
                found.append((flipped, int(row)), *described(looks[item], heat[item, 0], params))
    assert found is not None
    return found


def described(looks: Tensor, heat: Tensor, params: PeakParams) -> tuple[Array, Table]:
    """Points (n, 2) of an image in cells, and their descriptors (n, D) of unit length."""
    cells = tops(heat, greedy(heat, params), params.radius)[: params.max_points]
    if not cells:
        return np.empty((0, 2), np.float32), np.empty((0, len(looks)))
    xy = torch.stack([shifted(heat, x, y) for x, y in cells])
    found = F.normalize(sampling.sample(looks[None], xy[None])[0], dim=1)
    return xy.cpu().numpy(), found.cpu().numpy().astype(np.float64)


def fit(x: Table, k: int, params: MallisDParams, *, seeded: bool) -> Tensor:
    """Centroids (K, D) by faiss, on as many points as ours are fitted on; `seeded`: from k-means++ among all of `x`."""
    start = kmeans_plusplus(x, k, random_state=0)[0].astype(np.float32) if seeded else None
    most = max(1, params.max_points // k)
    with search.threads(min(len(x), params.max_points) * x.shape[1] * k):
        trainer = faiss.Kmeans(
            x.shape[1],
            k,
            niter=params.iterations,
            nredo=params.restarts,
            max_points_per_centroid=most,
            min_points_per_centroid=1,
        )
        trainer.train(x.astype(np.float32), init_centroids=start)
    return torch.from_numpy(np.asarray(trainer.centroids, np.float32)).to(runtime.device())


def closest(x: Tensor, centroids: Tensor) -> Iterator[tuple[int, int]]:
    """Of the descriptors (n, D) of an image those that are its nearest to their nearest centroid: place and label."""
    if not len(x):
        return
    distance = torch.cdist(x, centroids, compute_mode="donot_use_mm_for_euclid_dist")
    label = distance.argmin(1)
    for cluster in label.unique():
        own = (label == cluster).nonzero()[:, 0]
        yield int(own[distance[own, cluster].argmin()].item()), int(cluster.item())


def update(
    model: Said, files: Photographs, rows: NDArray[np.int64], p: MallisDParams, k: int, path: Path
) -> dict[Key, list[tuple[int, Array]]]:
    """A label update: of each of the images `rows` that is taught its points, label and cell.

    Args:
        k: K. path: where the file of descriptors is written.
    """
    with h5py.File(path, "w") as file:
        with torch.no_grad():
            found = detect(model, files, rows, p.detect, file)
        first = fit(found.table[:], k, p, seeded=True)
        kept = {key: [place for place, _ in closest(found.read(key), first)] for key in found.where}
        survivors = np.concatenate([found.read(key)[places].cpu().numpy() for key, places in kept.items()])
        second = fit(survivors.astype(np.float64), p.clusters, p, seeded=False)
        labels = {}
        for key, places in kept.items():
            own = list(closest(found.read(key)[places], second))
            labels[key] = [(label, found.xy[key][places[place]]) for place, label in own]
    taught = [row for row in rows.tolist() if min(len(labels[False, row]), len(labels[True, row])) >= FEWEST]
    return {(flip, row): labels[flip, row] for flip in (False, True) for row in taught}
