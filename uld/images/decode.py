"""Image files to pixels: every format, depth and orientation becomes the same 8-bit RGB array."""

import contextlib
import itertools
import struct
import threading
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

from uld.base import given, runtime
from uld.base.errors import DataError
from uld.images import Pixels, header

Item = TypeVar("Item")
Result = TypeVar("Result")

# file names that claim to be images
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"]
)

PIECE = 2**18  # values that are made 8-bit at a time
LARGE = (
    2**27
)  # bytes of an image beyond which threads decode one at a time, so that some photographs need no such memory

_one_large = threading.Semaphore()
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
        DataError: the file cannot be read or decoded, or is too large.
    """
    return decode_bytes(read(Path(path)), str(path))


def read(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        DataError: the file is missing, locked, no regular one (and then it is not opened), or has more bytes than
            `runtime.image_bytes` allows.
    """
    return given.content(path, most=runtime.image_bytes())


def decode_bytes(data: bytes, name: str) -> Pixels:
    """Pixels (H, W, 3), uint8 RGB, of an encoded image; `name` is its path, for messages.

    Grey becomes three equal channels. Deeper than 8 bits: stretched linearly from the image's own minimum..maximum over
    all channels to 0..255, because 16-bit cameras rarely fill their range. Alpha: composed over white. EXIF
    orientation: applied, so width and height are those that a viewer shows. Of several frames or pages: the first.

    Raises:
        DataError: zero bytes, truncated, no image, more than four channels, NaN pixels, or larger than
            `runtime.image_bytes` by its header: it is not decoded then.
    """
    if not data:
        raise DataError(f"{name}: the file is empty (0 bytes).")
    size = header.measure(data)
    if size is None:
        raise _damaged(name)
    _refuse_large(size, name)
    with _one_large if size.bytes > LARGE else contextlib.nullcontext():
        try:
            colour = _rgb(_stored(data, name), name)
            upright = _UPRIGHT.get(_orientation(data), lambda a: a)(colour)
            return np.ascontiguousarray(upright)
        except (MemoryError, cv2.error) as error:
            raise _failed(error, size, name) from error


def _refuse_large(size: header.Size, name: str) -> None:
    most = runtime.image_bytes()
    if size.bytes > most:
        raise DataError(
            f"{name}: {size.width} x {size.height} pixels take {size.bytes / 1e6:.0f} MB decoded, more than the "
            f"{most / 1e6:.0f} MB allowed: shrink it, or raise ULD_IMAGE_MB."
        )


def _failed(error: MemoryError | cv2.error, size: header.Size, name: str) -> DataError:
    if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
        return DataError(f"{name}: cannot be decoded ({error.err}): save it anew, or remove it.")
    return DataError(
        f"{name}: there is no memory for its {size.width} x {size.height} pixels: shrink it, free memory that other "
        "programs hold, or lower ULD_THREADS."
    )


def _damaged(name: str) -> DataError:
    return DataError(f"{name}: no image, or a truncated or damaged one: restore it, or save it anew.")


def _stored(data: bytes, name: str) -> NDArray[Any]:
    """Pixels (H, W, C) as they are stored, of any depth; C is 1 or 3 in the order BGR, or 4 with alpha."""
    # UNCHANGED keeps depth and alpha, and never turns the image, except TIFF, which OpenCV always turns upright
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise _damaged(name)
    pixels = np.atleast_3d(pixels)
    if pixels.shape[2] not in (1, 3, 4):
        raise DataError(f"{name}: has {pixels.shape[2]} channels; convert it to grey, RGB or RGBA.")
    return pixels


def _rgb(pixels: NDArray[Any], name: str) -> Pixels:
    """Stored pixels (H, W, C) as (H, W, 3), uint8 RGB; a few rows at a time: between them lie 8 bytes a value."""
    if pixels.dtype == np.uint8 and pixels.shape[2] < 4:
        turn = cv2.COLOR_GRAY2RGB if pixels.shape[2] == 1 else cv2.COLOR_BGR2RGB
        return cv2.cvtColor(pixels, turn).astype(np.uint8, copy=False)
    low, scale = _stretch(pixels[:, :, :3], name)
    out = np.empty((*pixels.shape[:2], 3), np.uint8)
    step = max(1, PIECE // pixels[0].size)
    for rows in (slice(start, start + step) for start in range(0, len(pixels), step)):
        colour = _eight_bits(pixels[rows, :, :3], low, scale)
        if pixels.shape[2] == 4:
            colour = _over_white(colour, pixels[rows, :, 3], name)
        out[rows] = colour[:, :, ::-1]
    return out


def _stretch(colour: NDArray[Any], name: str) -> tuple[float, float]:
    """The lowest value of channels (H, W, C), and what makes the highest one 255 when it is subtracted."""
    if colour.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(colour.min()), float(colour.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    if not np.isfinite([low, high, high - low, scale]).all():
        raise DataError(f"{name}: holds NaN or infinite pixels, or a range that is: save it with 8 or 16 bits.")
    return low, scale


def _eight_bits(colour: NDArray[Any], low: float, scale: float) -> Pixels:
    """Channels (H, W, C) of any depth as uint8."""
    if colour.dtype == np.uint8:
        return colour
    return np.rint((colour - np.float64(low)) * scale).astype(np.uint8)


def _over_white(colour: Pixels, alpha: NDArray[Any], name: str) -> Pixels:
    """Blend (H, W, 3) over white by alpha (H, W), whose type's full range means opaque (1.0 for floats)."""
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1.0
    share = (alpha / np.float32(opaque))[:, :, None]
    if not np.isfinite(share).all():
        raise DataError(f"{name}: holds NaN or infinite transparency: save it with 8 or 16 bits.")
    share = share.clip(0, 1)
    return np.rint(255 + (colour.astype(np.float32) - 255) * share).astype(np.uint8)


def _orientation(data: bytes) -> int:
    """EXIF orientation 1..8 of the encoded image; 1 where there is none or its EXIF block is damaged."""
    if not (data.startswith((b"\xff\xd8", b"\x89PNG")) or data[8:12] == b"WEBP"):
        return 1
    try:
        with Image.open(BytesIO(data)) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, struct.error):
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
