"""A training step of a round: how much of it is the network, and drawing its pairs against reading through zarr."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import zarr
from timing import Ways, measure, report, run, same

from uld.artifacts.labels import Labels
from uld.base import random, runtime
from uld.diffusion import building, store
from uld.diffusion.store import Features, FeatureStore
from uld.geometry import coords
from uld.geometry.frames import Frames
from uld.geometry.heatmaps import render
from uld.losses.duld import detector_mse
from uld.models.aggregator import Aggregator
from uld.models.frozen import Frozen
from uld.models.heads import Heads
from uld.sources.stored_views import StoredViews
from uld.sources.views import Batch
from uld.training.descriptor_contrast import contrast
from uld.training.labelled import LabelledImages
from uld.training.optimiser import OptimiserParams
from uld.training.self_training import SelfTrainingParams, draw_pairs

SIDE, GRID, K = 64, 32, 10
TURNS = [(False, 0, 1), (True, 0, 1), (False, 15, 1), (True, 15, 1)]


def make(folder: Path, rows: int, shapes: dict[str, tuple[int, int, int]]) -> StoredViews:
    """A store of random features in four views."""
    views = np.stack([coords.view(SIDE, *turn) for turn in TURNS])
    flipped = np.array([turn[0] for turn in TURNS])
    layout = store.lay_out(views, flipped, np.empty((0, 2, 3)), np.ones(rows, bool))

    def compute(first: int, end: int) -> Iterator[Features]:
        rng = torch.Generator().manual_seed(first)
        yield {name: torch.randn(end - first, *shape, generator=rng) for name, shape in shapes.items()}

    for name in ("scratch", "backbone"):
        (folder / name).mkdir()
    with contextlib.redirect_stdout(io.StringIO()):  # the progress bar
        spec, scratch = {"rows": rows}, folder / "scratch"
        building.build(folder / "x.zarr", scratch, spec, layout, folder / "backbone", compute, shapes)
    box = np.tile([0.0, 0.0, SIDE, SIDE], (rows, 1))
    affine = coords.crop(box, 0, SIDE)
    frames = Frames(affine, box, lambda at: np.ones((len(at), SIDE, SIDE), bool), SIDE, GRID)
    return StoredViews(FeatureStore(folder / "x.zarr"), frames, np.arange(rows))


def labels(rows: int) -> Labels:
    """K points in each image and its mirror image."""
    grids = np.meshgrid([False, True], np.arange(rows), np.arange(K), indexing="ij")
    flipped, image, slot = (part.ravel() for part in grids)
    xy = random.rng(0, "bench-labels").uniform(8, SIDE - 8, (len(image), 2)).astype(np.float32)
    score, detected = np.ones(len(image), np.float32), np.ones(len(image), np.bool_)
    return Labels(image, flipped.astype(np.bool_), slot, xy, score, detected, K)


def stored(batch: Batch, views: StoredViews) -> list[int]:
    """Where the store holds each item of a batch."""
    same_view = (batch.warp.affine.cpu().numpy()[:, None] == views.store.views).all((2, 3))
    items: list[int] = (batch.rows * len(TURNS) + same_view.argmax(1)).tolist()
    return items


def main(small: bool) -> None:
    rows, repeats = (6, 1) if small else (200, 7)
    shapes = {"l00_t74": (128, 8, 8), "l01_t74": (128, 8, 8), "l10_t74": (64, 16, 16), "l20_t74": (32, 32, 32)}
    adam = OptimiserParams("adam", 0, 1, False)
    p = SelfTrainingParams(
        steps=120,
        pairs=2 if small else 6,
        lr=1e-3,
        descriptor_lr=5e-5,
        optimiser=adam,
        other_image=0.5,
        sigma=1.0,
        margin=0.8,
        negatives=64,
        min_distance=2.85,
        descriptor_weight=10.0,
    )
    with tempfile.TemporaryDirectory() as name:
        views = make(Path(name), rows, shapes)
        images = LabelledImages(labels(rows), views, list(shapes))
        sizes = [shape[0] for shape in shapes.values()]
        base = Frozen(list(shapes), sizes, 64, GRID, "image")
        base.projection.normal_()
        head = Heads(base, Aggregator(list(shapes), sizes, 32, 64, 8, GRID), 48, "linear").to(runtime.device())
        optimiser = torch.optim.Adam(head.parameters(), lr=p.lr)
        arrays = {n: zarr.open_array(Path(name) / "x.zarr" / n, mode="r") for n in shapes}

        def drawn() -> tuple[Batch, torch.Tensor, torch.Tensor]:
            return draw_pairs(images, p, random.rng(0, "bench-draw"))

        def through_zarr() -> Features:
            items = stored(drawn()[0], views)
            return {n: torch.from_numpy(np.stack([np.asarray(a[i]) for i in items])).float() for n, a in arrays.items()}

        batch = drawn()[0]

        def matrices() -> torch.Tensor:
            maps = batch.through(head)
            loss = maps.heat.square().mean() + maps.looks.square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        def whole() -> torch.Tensor:
            batch, xy, cells = drawn()
            maps = batch.through(head)
            loss = detector_mse(maps.heat[:, 0], render(xy, GRID, p.sigma), batch.inside)
            loss = loss + contrast(maps.looks, xy, cells, batch.inside, p.margin, p.min_distance)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        assert isinstance(batch.inputs, dict)
        for key, value in through_zarr().items():
            same(key, value, batch.inputs[key].cpu())
        draws: Ways = {"uld": drawn, "a view at a time by zarr": through_zarr}
        seconds, _ = measure(draws, repeats)
        report(f"drawing {p.pairs} pairs of views", seconds, p.pairs, "pairs", "a view at a time by zarr")
        parts: Ways = {"network only": matrices, "whole step": whole, "drawing": drawn}
        seconds, _ = measure(parts, repeats)
        share = seconds["network only"] / seconds["whole step"]
        print(f"training step: {100 * share:.0f} % of it is the network, forward, backward and update")
        report("training step", {n: seconds[n] for n in ("network only", "whole step")}, 1, "steps", "whole step")


if __name__ == "__main__":
    run(main)
