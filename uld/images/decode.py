"""Image files to pixels: every format, depth and orientation becomes the same 8-bit RGB array."""

import itertools
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uld.base.errors import DataError
from uld.images import Pixels

Item = TypeVar("Item")
Result = TypeVar("Result")

# file names that claim to be images
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"]
)

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT: dict[int, Callable[[Any], Any]] = {  # stored pixels (H, W, C) -> as the photographer held the camera
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}

# an unreadable file is reported once, by us and with its path
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(path: Path | str) -> Pixels:
    """Pixels (H, W, 3) of an image file, uint8 RGB, turned upright; see `decode_bytes`.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    return decode_bytes(read(Path(path)), str(path))


def read(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        DataError: the file is missing or locked.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}).") from error


def decode_bytes(data: bytes, name: str) -> Pixels:
    """Pixels (H, W, 3), uint8 RGB, of an encoded image; `name` is its path, for messages.

    Grey becomes three equal channels. Deeper than 8 bits: stretched linearly from the image's own minimum..maximum over
    all channels to 0..255, because 16-bit cameras rarely fill their range. Alpha: composed over white. EXIF
    orientation: applied, so width and height are those that a viewer shows.

    Raises:
        DataError: zero bytes, truncated, no image, more than four channels, NaN pixels, or too large.
    """
    if not data:
        raise DataError(f"{name}: the file is empty (0 bytes).")
    try:
        # UNCHANGED keeps depth and alpha, and never turns the image, except TIFF, which OpenCV always turns upright
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f"{name}: cannot be decoded ({error.err}).") from error
    if pixels is None:
        raise DataError(f"{name}: no image, or a truncated or damaged one.")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] not in (1, 3, 4):
        raise DataError(f"{name}: has {pixels.shape[2]} channels; convert it to grey, RGB or RGBA.")
    colour = _eight_bits(pixels[:, :, :3], name)
    if pixels.shape[2] == 4:
        colour = _over_white(colour, pixels[:, :, 3])
    upright = _UPRIGHT.get(_orientation(data, name), lambda a: a)(colour)
    return np.ascontiguousarray(np.broadcast_to(upright[:, :, ::-1], (*upright.shape[:2], 3)))


def _eight_bits(colour: NDArray[Any], name: str) -> Pixels:
    """Channels (H, W, C) of any depth as uint8."""
    if colour.dtype == np.uint8:
        return colour
    low, high = float(colour.min()), float(colour.max())
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name}: holds NaN or infinite pixels.")
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((colour - np.float64(low)) * scale).astype(np.uint8)


def _over_white(colour: Pixels, alpha: NDArray[Any]) -> Pixels:
    """Blend (H, W, 3) over white by alpha (H, W), whose type's full range means opaque (1.0 for floats)."""
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1.0
    share = (alpha / np.float32(opaque))[:, :, None]
    return np.rint(255 + (colour.astype(np.float32) - 255) * share).astype(np.uint8)


def _orientation(data: bytes, name: str) -> int:
    """EXIF orientation 1..8 of the encoded image; 1 where there is none or its EXIF block is damaged."""
    if not (data.startswith((b"\xff\xd8", b"\x89PNG")) or data[8:12] == b"WEBP"):
        return 1
    try:
        with Image.open(BytesIO(data)) as header:
            return int(header.getexif().get(_ORIENTATION, 1))
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too many pixels ({error}); shrink it first.") from error
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return 1


def ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map(function, items)` in `workers` threads, in order, with at most 2 `workers` results waiting in memory.

    An error of `function` is raised when its turn comes, and nothing more is started.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[Result]] = deque(pool.submit(function, i) for i in itertools.islice(source, 2 * workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, i) for i in itertools.islice(source, 1))
            yield result
            del result  # else it would live on while the next one is awaited
    finally:
        pool.shutdown(cancel_futures=True)
