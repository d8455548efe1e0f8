"""What an image file says of its size, read from its first bytes: an image is judged before it is decoded.

OpenCV decodes whatever a header promises, and a file of a megabyte can promise gigabytes. Pillow would tell the width
and height of most formats, but not the depth of colour, refuses kinds of TIFF that OpenCV reads, and opens a WebP by
making room for its pixels. So each format that data sets may hold has a reader of its own here. Of a file with several
frames or pages these are the figures of the first one, which alone is decoded.
"""

import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

from PIL import Image

# a limit of ours stands in its place, in bytes and with a remedy
Image.MAX_IMAGE_PIXELS = None

SPACE = rb"(?:\s|#[^\r\n]*[\r\n])++"  # comments too; possessive, so that a file of spaces takes no memory
PNM = re.compile(rb"P([1-6])" + 2 * (SPACE + rb"(\d{1,10})") + rb"(?:" + SPACE + rb"(\d{1,10}))?")
PNG_CHANNELS = {
    0: 1,
    2: 3,
    3: 4,
    4: 4,
    6: 4,
}  # by colour type; grey and palettes may have transparency
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of segments that hold the size
JPEG_SEGMENTS = 2**16  # that are looked at, at most
JPEG_BARE = frozenset([0x00, 0x01, *range(0xD0, 0xD9)])  # markers of segments without a length
TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of whole numbers, as `struct` calls them
TIFF_TAGS = (256, 257, 258, 262, 277, 322, 323)  # width, height, bits, colours, samples, width and height of a tile
PALETTE = 3  # TIFF's colours of an image whose samples are numbers of colours


class Size(NamedTuple):
    """Of the decoded image: pixels, channels, and bytes a sample."""

    width: int
    height: int
    channels: int
    depth: int

    @property
    def bytes(self) -> int:
        """What the decoded image takes."""
        return self.width * self.height * self.channels * self.depth


def measure(data: bytes) -> Size | None:
    """The size that an encoded image has by its header; None where there is none that says so.

    Where a header leaves the channels or the depth open, they are the most that OpenCV can make of it.
    """
    try:
        size = next((read(data) for magic, read in READERS if magic.match(data)), None) or _other(data)
    except (struct.error, LookupError, OverflowError):  # the file ends within its header, or is no such image
        return None
    return size if size and size.width > 0 and size.height > 0 else None


def _png(data: bytes) -> Size:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    return Size(width, height, PNG_CHANNELS.get(colour, 4), 2 if bits > 8 else 1)


def _jpeg(data: bytes) -> Size | None:
    """Go from segment to segment until the one that holds the size."""
    at = 2
    for _ in range(JPEG_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        marker = data[at + 1]
        if marker in JPEG_FRAMES:
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            return Size(width, height, 1 if channels == 1 else 3, 1)
        at += _jpeg_step(data, at, marker)
    return None


def _jpeg_step(data: bytes, at: int, marker: int) -> int:
    """Bytes from a marker to the end of its segment."""
    if marker == 0xFF:  # a byte that fills up
        return 1
    return 2 if marker in JPEG_BARE else 2 + int(struct.unpack_from(">H", data, at + 2)[0])


def _bmp(data: bytes) -> Size:
    if data[14] == 12:  # the header of OS/2
        width, height, _, bits = struct.unpack_from("<4H", data, 18)
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)  # a height below 0: rows go downwards
    return Size(abs(width), abs(height), 4 if bits == 32 else 3, 1)


def _webp(data: bytes) -> Size | None:
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
            return Size(width, height, 4, 1)
        case b"VP8L":
            sides = int.from_bytes(data[21:25], "little")
            return Size((sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1, 4, 1)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return Size(width & 0x3FFF, height & 0x3FFF, 3, 1)
    return None


def _pnm(data: bytes) -> Size | None:
    found = PNM.match(data)
    if found is None:
        return None
    kind, width, height, most = (int(group or 0) for group in found.groups())
    deep = kind not in (1, 4) and most > 255  # P1 and P4 have bits, and no highest value
    return Size(width, height, 3 if kind in (3, 6) else 1, 2 if deep else 1)


def _tiff(data: bytes) -> Size | None:
    """By the tags of the first page; decoding makes room for whole tiles, which may be larger than the image."""
    order = "<" if data.startswith(b"II") else ">"
    tags = _tags(data, order)
    if not {256, 257} <= tags.keys():
        return None
    width, height = (max(tags[side], tags.get(tile, 0)) for side, tile in ((256, 322), (257, 323)))
    bits = tags.get(258, 1)
    channels = 3 if tags.get(262) == PALETTE else tags.get(277, 1)
    return Size(width, height, channels, next((depth for depth in (1, 2, 4) if bits <= 8 * depth), 8))


def _tags(data: bytes, order: str) -> dict[int, int]:
    """Of the first page the tags that tell its size, and the highest value of each."""
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43  # BigTIFF
    word, number, start = ("Q", "Q", 8) if big else ("I", "H", 4)
    (page,) = struct.unpack_from(f"{order}{word}", data, start)
    (count,) = struct.unpack_from(f"{order}{number}", data, page)
    first, length = page + struct.calcsize(number), 4 + 2 * struct.calcsize(word)
    entries = (_entry(data, order, word, first + n * length) for n in range(min(count, 2**16)))
    return {tag: value for tag, value in entries if tag in TIFF_TAGS}


def _entry(data: bytes, order: str, word: str, at: int) -> tuple[int, int]:
    """A tag and the highest of its values, of which four are looked at, as many as a pixel has samples."""
    tag, kind, count = struct.unpack_from(f"{order}HH{word}", data, at)
    if tag not in TIFF_TAGS or kind not in TIFF_TYPES or not count:
        return 0, 0
    place = at + 4 + struct.calcsize(word)
    if count * struct.calcsize(TIFF_TYPES[kind]) > struct.calcsize(word):  # the values stand elsewhere
        (place,) = struct.unpack_from(f"{order}{word}", data, place)
    return tag, max(struct.unpack_from(f"{order}{min(count, 4)}{TIFF_TYPES[kind]}", data, place))


def _other(data: bytes) -> Size | None:
    """A GIF, AVIF or JPEG 2000 under the name of another format, by Pillow; four channels of 4 bytes are the most."""
    try:
        with Image.open(BytesIO(data), formats=("GIF", "AVIF", "JPEG2000", "SUN", "PPM")) as image:
            return Size(*image.size, 4, 4)
    except (OSError, SyntaxError, ValueError, TypeError):
        return None


READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Size | None]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n.{4}IHDR", re.DOTALL), _png),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), _tiff),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _webp),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"P[1-6]\s"), _pnm),
)
