"""Pictures made of photographs: landmarks drawn over them, mosaics, patches. Images are (H, W, 3) uint8 RGB."""

import cv2
import numpy as np
from numpy.typing import NDArray

from uld.geometry import coords
from uld.geometry.coords import Affine
from uld.images import Pixels
from uld.report import palette

SUBPIXEL = 4  # fractional bits of OpenCV's drawing coordinates
RIM = 1.35  # outer radius of a marker, shares of its radius
VISIBLE = 0.12  # what is left of the contrast where a crop leaves the photograph
GAP = 4  # white pixels between tiles


def overlay(image: Pixels, xy: NDArray[np.floating], radius: float) -> Pixels:
    """A copy of the photograph with one marker for each landmark.

    Args:
        image: (H, W, 3) uint8 RGB.
        xy: (K, 2) image pixels; a point with NaN, or outside the photograph, is left out.
        radius: of the markers, pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    there = ((xy >= -0.5) & (xy <= np.array([width, height]) - 0.5)).all(axis=1)
    for k in np.flatnonzero(there).tolist():
        for size, colour in ((RIM * radius, palette.rim(k)), (radius, palette.colour(k))):
            outline = xy[k] + size * palette.shape(k)
            fixed = np.rint(outline * 2**SUBPIXEL).astype(np.int32)
            cv2.fillPoly(canvas, [fixed], palette.rgb(colour), cv2.LINE_AA, SUBPIXEL)
    return canvas


def fade(crop: Pixels, inside: NDArray[np.bool_]) -> Pixels:
    """The crop (S, S, 3) with what is no photograph, `inside` (S, S) False, faded towards white."""
    pale = (255 - (255 - crop.astype(np.float32)) * VISIBLE).astype(np.uint8)
    return np.where(inside[..., None], crop, pale)


def enlarge(crop: Pixels, side: int) -> Pixels:
    """A square crop (S, S, 3) as (side, side, 3); frames convert by `coords.resize(S, side)`."""
    if crop.shape[0] == side:
        return crop
    smooth = cv2.INTER_AREA if crop.shape[0] > side else cv2.INTER_CUBIC
    return cv2.resize(crop, (side, side), interpolation=smooth).astype(np.uint8, copy=False)


def tile(crop: Pixels, affine: Affine, xy: NDArray[np.floating], side: int, radius: float) -> Pixels:
    """A crop, enlarged, with its landmarks.

    Args:
        crop: (S, S, 3).
        affine: (2, 3), image -> crop.
        xy: (K, 2) image pixels.
        side: of the result, pixels.
        radius: of the markers, pixels of the result.
    """
    frame = coords.compose(coords.resize(crop.shape[0], side), affine)
    return overlay(enlarge(crop, side), coords.apply(frame, xy), radius)


def patch(crop: Pixels, affine: Affine, xy: NDArray[np.floating], share: float, side: int) -> Pixels:
    """The surroundings (side, side, 3) of image point `xy` (2,): `share` of the crop's side, mirrored outside it."""
    x, y = coords.apply(affine, xy[None])[0]
    k = side / (share * crop.shape[0])
    window = np.array([[k, 0, (side - 1) / 2 - k * x], [0, k, (side - 1) / 2 - k * y]])
    cut = cv2.warpAffine(crop, window, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return cut.astype(np.uint8, copy=False)


def mosaic(tiles: list[Pixels], columns: int) -> Pixels:
    """Tiles (s, s, 3) of one size in rows of `columns`, on white."""
    side = tiles[0].shape[0]
    columns = min(columns, len(tiles))
    lines = -(-len(tiles) // columns)
    canvas = np.full((lines * (side + GAP) - GAP, columns * (side + GAP) - GAP, 3), 255, dtype=np.uint8)
    for number, one in enumerate(tiles):
        y, x = (side + GAP) * np.array(divmod(number, columns))
        canvas[y : y + side, x : x + side] = one
    return canvas


def png(image: Pixels) -> bytes:
    """The image as a PNG file without any metadata."""
    return cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
