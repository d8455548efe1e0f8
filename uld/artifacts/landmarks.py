"""What a row discovered: artifacts/landmarks/<row>/landmarks.h5."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uld.artifacts.files import given, read_arrays, record, write_arrays
from uld.base.errors import ULDError


@dataclass(frozen=True)
class PoseCentroids:
    """Landmarks that are looked for differently in each of Q poses (two-stage clustering).

    codes (Q, C) float32 centroids of pose codes; landmarks (Q, K, D) float32 centroids of each pose, slot k of each is
    landmark k; counts (Q,) int64 images; places (F, Q, K, 2) float32 cells: where they are looked for in a plain and,
    F = 2, a mirrored map; None: anywhere alike.
    """

    codes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    counts: NDArray[np.int64]
    places: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Landmarks:
    """What a table row discovered (artifacts/landmarks/<row>/landmarks.h5).

    centroids (K, D) float32; counts (K,) int64: sampled points a cluster; exemplar_image (K, E) int64 rows of boxes.csv
    and exemplar_xy (K, E, 2) float32 image pixels: the E training points nearest to each centroid, -1/NaN where fewer;
    sample (S, D) float16 descriptors and sample_label (S,) int64 for pictures of the clusters. poses: of two-stage
    clustering only. mirror (K,) int64: which landmark each one turns into in the mirror image, of methods that ask.
    template (K, 2) float32, cells of the plain view: points of one image that are moved onto those of all others, of
    Mallis' chapter 4.
    """

    centroids: NDArray[np.float32]
    counts: NDArray[np.int64]
    exemplar_image: NDArray[np.int64]
    exemplar_xy: NDArray[np.float32]
    sample: NDArray[np.float16]
    sample_label: NDArray[np.int64]
    poses: PoseCentroids | None = None
    mirror: NDArray[np.int64] | None = None
    template: NDArray[np.float32] | None = None

    @classmethod
    def none(cls) -> "Landmarks":
        """K = 0."""
        return cls(
            centroids=np.empty((0, 0), dtype=np.float32),
            counts=np.empty(0, dtype=np.int64),
            exemplar_image=np.empty((0, 0), dtype=np.int64),
            exemplar_xy=np.empty((0, 0, 2), dtype=np.float32),
            sample=np.empty((0, 0), dtype=np.float16),
            sample_label=np.empty(0, dtype=np.int64),
        )

    def known_poses(self) -> PoseCentroids:
        """The pose clusters.

        Raises:
            ULDError: there are none.
        """
        if self.poses is None:
            raise ULDError("these landmarks have no pose clusters: discover them with a two-stage method (duld_pp).")
        return self.poses

    def known_mirror(self) -> NDArray[np.int64]:
        """What each landmark (K,) turns into.

        Raises:
            ULDError: that is not known.
        """
        if self.mirror is None:
            raise ULDError("it is not known what these landmarks turn into in the mirror image: discover them anew.")
        return self.mirror

    def known_template(self) -> NDArray[np.float32]:
        """The template (K, 2).

        Raises:
            ULDError: there is none.
        """
        if self.template is None:
            raise ULDError(
                "these landmarks have no template: let the rounds of mallis_ch4_detector start from one of mallis_ch4."
            )
        return self.template


def write_landmarks(path: Path, landmarks: Landmarks) -> None:
    """Write artifacts/landmarks/<row>/landmarks.h5."""
    arrays = {name: value for name, value in given(landmarks).items() if name != "poses"}
    if landmarks.poses is not None:
        arrays |= {f"poses/{name}": value for name, value in given(landmarks.poses).items()}
    write_arrays(path, arrays)


def read_landmarks(path: Path) -> Landmarks:
    """Read artifacts/landmarks/<row>/landmarks.h5."""
    arrays = read_arrays(path, "discover")
    poses = {name.removeprefix("poses/"): arrays.pop(name) for name in list(arrays) if name.startswith("poses/")}
    found = record(PoseCentroids, poses, path, "discover") if poses else None
    return record(Landmarks, arrays | {"poses": found}, path, "discover")
