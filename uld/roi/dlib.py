"""`dlib`: faces by the HOG detector that dlib carries inside (frontal to about 45 degrees of yaw; no weights file)."""

from importlib import import_module
from typing import Annotated

import cv2
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base.errors import NotInstalled
from uld.base.params import CLOSED
from uld.images import Pixels
from uld.roi.base import Box, Context, Provider

LONGEST = 640  # a larger photograph is shrunk first: upsampled twice, 24 megapixels would become 380


@dataclass(frozen=True, config=CLOSED)
class DlibParams:
    """`upsample`: how often the image is doubled (finds faces of 80 / 2^upsample px); `threshold`: lowest score."""

    upsample: Annotated[int, Field(ge=0, le=3)]
    threshold: float


class Dlib(Provider):
    """The surest face over all levels 1..`upsample`: a level finds faces, and boxes of faces, that another misses."""

    Params = DlibParams
    label = "dlib"

    def __init__(self, params: DlibParams, context: Context) -> None:
        """See `Provider`.

        Raises:
            NotInstalled: no dlib.
        """
        try:
            self._detector = import_module("dlib").get_frontal_face_detector()
        except ImportError as error:
            raise NotInstalled(
                "roi.providers names dlib: `pip install dlib-bin`, or choose another provider."
            ) from error
        self._levels = range(min(1, params.upsample), params.upsample + 1)
        self._threshold = params.threshold

    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        """See `Provider.detect`."""
        return [self._face(image) for image in images]

    def _face(self, image: Pixels) -> Box | None:
        height, width = image.shape[:2]
        if max(height, width) > LONGEST:
            k = LONGEST / max(height, width)
            size = max(1, round(width * k)), max(1, round(height * k))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(image.dtype, copy=False)
        kx, ky = width / image.shape[1], height / image.shape[0]
        best: Box | None = None
        for level in self._levels:
            faces, scores, _ = self._detector.run(image, level, self._threshold)
            for face, score in zip(faces, scores, strict=True):
                if best is None or score > best.score:
                    # dlib's right and bottom are the last pixels inside; edges lie half a pixel further out
                    best = Box(
                        face.left() * kx - 0.5,
                        face.top() * ky - 0.5,
                        (face.right() + 1) * kx - 0.5,
                        (face.bottom() + 1) * ky - 0.5,
                        float(score),
                    )
        return best
