"""Features that are computed when they are wanted, by the network in the folder of a store (`Network`): of new images,
and of a store that keeps latents in place of feature maps (`LatentStore`).

Latents take a fraction of the disk of features, a small one with many layers or timesteps, at the price of a pass
through the UNet whenever a view is read. What is read is what a store of features would hold, up to the rounding of
latents to float16.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uld.base import ranks, runtime
from uld.base.errors import ArtifactError
from uld.base.params import build
from uld.diffusion import backbone, reduce
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.store import BACKBONE, LATENT, Features, FeatureStore


class Network:
    """The network in a store's folder with its readout and reduction: it makes of any image what the store would hold.

    Any thread may ask.
    """

    def __init__(self, store: FeatureStore) -> None:
        """Load it onto the device.

        Raises:
            ArtifactError: the store is of another backbone than the one beside it. BackboneError: a pinned one is gone.
        """
        folder, spec = store.path / BACKBONE, store.spec
        keys = ("layers", "timesteps", "policy", "inversion_steps", "dtype")
        readout = build(ReadoutParams, {key: spec[key] for key in keys}, "readout", str(store.path))
        model = backbone.load(folder, readout.dtype, not spec["backbone"].startswith("untrained-"))
        if model.fingerprint != spec["backbone"]:
            raise ArtifactError(f"{store.path} was made with another backbone than {folder}: run `dvc repro features`.")
        self._extractor = Extractor(model, readout, spec["seed"])
        if runtime.compiles():
            self._extractor.compile_blocks()
        self._reduction = reduce.load(store.path)
        self._lock = threading.Lock()  # the extractor's hooks serve one pass at a time

    @property
    def names(self) -> list[str]:
        """Feature maps that it can make."""
        return self._extractor.names()

    def of_images(self, images: Tensor, names: list[str]) -> Features:
        """{name: (B, C, h, w) float32} of images (B, 3, S, S) in [0, 1], on the device."""
        return self._features(len(images), lambda a, b: self._extractor.encode(images[a:b]), names)

    def of_latents(self, latents: Tensor, names: list[str]) -> Features:
        """{name: (B, C, h, w) float32} of what `Extractor.encode` gives, on the device."""
        return self._features(len(latents), lambda a, b: latents[a:b], names)

    def _features(self, count: int, latents: Callable[[int, int], Tensor], names: list[str]) -> Features:
        timesteps = {int(name.split("_t")[1]) for name in names}

        def keep(found: Features) -> Features:
            wanted = {name: value for name, value in found.items() if name in names}
            reduced = wanted if self._reduction is None else self._reduction(wanted)
            return {name: value.half() for name, value in reduced.items()}  # as a store of features keeps them

        def one(a: int, b: int) -> Features:
            return self._extractor.features(latents(a, b), timesteps, keep)

        with self._lock:
            parts = [part for _, part in runtime.in_batches(one, count)]
        return {name: torch.cat([part[name] for part in parts]).float() for name in names}


class LatentStore(FeatureStore):
    """A store of latents that reads like one of features; any thread may read."""

    def __init__(self, path: Path) -> None:
        """Open for reading.

        Raises:
            ArtifactError: the latents are of another backbone than the one beside them.
        """
        super().__init__(path)
        self.network = Network(self)
        self._lock = threading.Lock()  # the other processes serve one batch at a time

    @property
    def names(self) -> list[str]:
        """Feature maps that can be read."""
        return self.network.names

    def views_of(self, rows: NDArray[np.int64], views: NDArray[np.int64], names: list[str]) -> Features:
        """{name: (B, C, h, w) float32} of B images, each in its own view, on the device."""
        if not ranks.leads():
            return self.computed(rows, views, names)
        pieces = ranks.shares(len(rows))
        tasks = [(str(self.path), rows[piece], views[piece], names) for piece in pieces]
        with self._lock:
            parts = ranks.spread(__name__, tasks)
        return {name: torch.cat([part[name] for part in parts])[: len(rows)] for name in names}

    def computed(self, rows: NDArray[np.int64], views: NDArray[np.int64], names: list[str]) -> Features:
        """`views_of` in this process."""
        latents = super().views_of(rows, views, [LATENT])[LATENT].to(runtime.device())
        return self.network.of_latents(latents, names)


def network(store: FeatureStore) -> Network:
    """What computes a store's features; one of latents has it open already.

    Raises:
        As `Network`.
    """
    return store.network if isinstance(store, LatentStore) else Network(store)


_open: dict[str, LatentStore] = {}  # of this process, by path


def _share(task: tuple[str, NDArray[np.int64], NDArray[np.int64], list[str]]) -> Features:
    """What one process computes of a batch."""
    path, rows, views, names = task
    if path not in _open:
        _open[path] = LatentStore(Path(path))
    return _open[path].computed(rows, views, names)


ranks.offer(__name__, _share)


def open_store(path: Path) -> FeatureStore:
    """A store of features or of latents; nothing outside its folder is needed.

    Raises:
        ArtifactError: it is missing, unfinished, or does not fit the backbone in it.
    """
    store = FeatureStore(path)
    if store.spec.get("keep") != "latents":
        return store
    _open[str(path)] = online = LatentStore(path)
    return online
