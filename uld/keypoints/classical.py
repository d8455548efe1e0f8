"""Points without weights: SIFT or ORB, spread over the image by adaptive non-maximal suppression."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.spatial.distance import cdist
from torch import Tensor

from uld.base.params import CLOSED
from uld.geometry import coords
from uld.images import Pixels
from uld.keypoints.base import Keypoints, grey

CANDIDATES = 2000  # strongest points that suppression chooses from; it compares all pairs
BORDER = 4  # pixels of a pyramid level; ORB's own 31 are for descriptors and would leave nothing of a small crop
SEEN = 1 / 4  # of the image's side: what a descriptor sees of it
REACH = 6  # SIFT's histograms lie over a square of so many times a key point's size
FINEST = 3.2  # pixels, the size of a key point of the pyramid's lowest level
LENGTH = 128  # of SIFT's descriptors


@dataclass(frozen=True, config=CLOSED)
class ClassicalParams:
    """Params of Classical.

    points: most points an image. scale: enlargement of the crop before detection. robust: a point yields to those
    whose response times this exceeds its own.
    """

    detector: Literal["sift", "orb"]
    points: Annotated[int, Field(ge=1)]
    scale: Annotated[int, Field(ge=1)]
    robust: Annotated[float, Field(gt=0, le=1)]


class Classical(Keypoints):
    """Extrema of differences of Gaussians (SIFT) or FAST corners ranked by Harris' response (ORB).

    The points of both are described by SIFT, upright and at one size: objects stand upright in their crops and fill
    them, and what tells a place of an object is more than the corner or blob that was found there.
    """

    Params = ClassicalParams

    def __init__(self, params: ClassicalParams) -> None:
        self.params = params
        self._detect = {"sift": _sift, "orb": _orb}[params.detector]

    def __call__(self, images: Tensor) -> list[NDArray[np.float32]]:
        """See `Keypoints`; the score is the detector's response."""
        return [self._points(image, images.shape[-1]) for image in _large(images, self.params.scale)]

    def describe(self, images: Tensor, points: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Keypoints`; D is 128. Near a border it is of what lies in the image; all 0 where that is of one grey."""
        return described(images, points, self.params.scale)

    def _points(self, image: Pixels, size: int) -> NDArray[np.float32]:
        fine, response = self._detect(image)
        xy = coords.apply(coords.resize(len(image), size), fine)
        # strongest first; equal ones in row-major order, so that nothing hangs on the order they were found in
        order = np.lexsort((xy[:, 0], xy[:, 1], -response))
        # SIFT repeats a point for every orientation, ORB finds a corner on several levels: one a pixel
        _, first = np.unique(np.rint(xy[order]), axis=0, return_index=True)
        order = order[np.sort(first)]
        xy, response = xy[order], response[order]
        chosen = np.sort(anms(xy, response, self.params.points, self.params.robust))
        return np.column_stack([xy, response])[chosen].astype(np.float32)


def anms(xy: NDArray[np.floating], response: NDArray[np.floating], points: int, robust: float) -> NDArray[np.int64]:
    """Adaptive non-maximal suppression: the points that are strongest within the largest radius.

    A point's radius is its distance to the nearest point that is clearly stronger: `robust` times whose response
    exceeds its own (Brown, Szeliski, Winder, CVPR 2005, eq. 5); infinite if there is none.

    Args:
        xy: (P, 2).
        response: (P,), positive.
        points: how many to keep.
        robust: c in (0, 1].

    Returns:
        (min(P, points),) indices by falling radius; of equal radii the stronger is first, then the earlier.
    """
    stronger = robust * response[None] > response[:, None]
    radius = np.where(stronger, cdist(xy, xy), np.inf).min(axis=1, initial=np.inf)
    return np.lexsort((-response, -radius))[:points]


def described(images: Tensor, points: list[NDArray[np.float32]], scale: int) -> list[NDArray[np.float32]]:
    """SIFT's descriptors of points, as `Keypoints.describe`, in images that are enlarged by `scale` first."""
    to_large = coords.resize(images.shape[-1], images.shape[-1] * scale)
    large = _large(images, scale)
    return [_described(image, coords.apply(to_large, at[:, :2])) for image, at in zip(large, points, strict=True)]


def _large(images: Tensor, scale: int) -> Pixels:
    """(B, scale S, scale S), grey."""
    return (255 * grey(images.cpu().float(), scale)[:, 0]).round().clamp(0, 255).byte().numpy()


def _sift(image: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels (P, 2) and responses (P,)."""
    # without the precise upscale, the doubled first octave puts every point a quarter pixel off
    return _arrays(cv2.SIFT.create(nfeatures=CANDIDATES, enable_precise_upscale=True).detect(image, None))


def _orb(image: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels (P, 2) and responses (P,)."""
    orb = cv2.ORB.create(nfeatures=CANDIDATES, edgeThreshold=BORDER)
    found = orb.detect(image, None)
    xy, response = _arrays(found)
    # ORB multiplies a level's pixels by the level's scale, which leaves out the half pixel
    level = orb.getScaleFactor() ** np.array([point.octave for point in found])
    for k in np.unique(level):
        xy[level == k] = coords.apply(coords.resize(round(len(image) / k), len(image)), xy[level == k] / k)
    corner = response > 0  # Harris' response of an edge is negative
    return xy[corner], response[corner]


def _described(image: Pixels, xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """SIFT's descriptors (P, 128) at pixels (P, 2), of unit length."""
    if not len(xy):
        return np.empty((0, LENGTH), np.float32)
    size = SEEN * len(image) / REACH
    level = max(0, int(math.log2(size / FINEST)))  # of the pyramid: not so coarse that pixels are smaller than needed
    where = [cv2.KeyPoint(float(x), float(y), size, angle=0, octave=level) for x, y in xy]
    found = cv2.SIFT.create().compute(image, where)[1]
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1)  # their length is about 512, or 0


def _arrays(found: Sequence[cv2.KeyPoint]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    xy = np.array([point.pt for point in found], dtype=np.float64).reshape(-1, 2)
    return xy, np.array([point.response for point in found], dtype=np.float64)
