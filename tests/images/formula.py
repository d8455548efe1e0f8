"""The plain form of what `uld.images.decode` does in pieces of rows: the whole image at once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels (H, W) or (H, W, C) as OpenCV decodes them -> (H, W, 3), uint8 RGB."""
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    colour = eight_bits(pixels[:, :, :3])
    if pixels.shape[2] == 4:
        colour = over_white(colour, pixels[:, :, 3])
    return np.ascontiguousarray(np.broadcast_to(colour[:, :, ::-1], (*colour.shape[:2], 3)))


def eight_bits(colour: NDArray[Any]) -> NDArray[np.uint8]:
    if colour.dtype == np.uint8:
        return colour
    low, high = float(colour.min()), float(colour.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((colour - np.float64(low)) * scale).astype(np.uint8)


def over_white(colour: NDArray[np.uint8], alpha: NDArray[Any]) -> NDArray[np.uint8]:
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1.0
    share = (alpha / np.float32(opaque))[:, :, None]
    return np.rint(255 + (colour.astype(np.float32) - 255) * share).astype(np.uint8)
