"""Small files that promise huge images, in each format that a data set may hold; and a process that is given them."""

import base64
import json
import resource
import struct
import sys
import time
import zlib

SIDE = 60_000
WEBP_SIDE = 2**14  # the most that WebP can say


def png(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """A whole and sound file of one value."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * channels * bits + 7) // 8)
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    palette = [chunk(b"PLTE", bytes(3 * 256))] if colour == 3 else []
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *palette, chunk(b"IDAT", packed), chunk(b"IEND", b"")])


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def jpeg(width: int, height: int, marker: int = 0xC0, channels: int = 3) -> bytes:
    """Without scans: OpenCV makes room before it misses them."""
    parts = b"".join(bytes([n + 1, 0x11, 0]) for n in range(channels))
    frame = struct.pack(">BHHB", 8, height, width, channels) + parts
    comment = b"\xff\xfe" + struct.pack(">H", 12) + b"\xff\xc0 a trap"  # a marker within a segment is none
    return b"\xff\xd8" + comment + b"\xff\xff" + bytes([marker]) + struct.pack(">H", len(frame) + 2) + frame


def bmp(width: int, height: int, bits: int = 24, old: bool = False) -> bytes:
    if old:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 14 + len(info)) + info


def webp(kind: bytes) -> bytes:
    body = {
        b"VP8X": struct.pack("<I", 0x10) + 2 * (WEBP_SIDE - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + ((WEBP_SIDE - 1) | (WEBP_SIDE - 1) << 14).to_bytes(4, "little"),
        b"VP8 ": b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", WEBP_SIDE - 1, WEBP_SIDE - 1),
    }[kind]
    packed = kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(packed)) + b"WEBP" + packed


def pnm(kind: int, width: int, height: int, most: int = 255) -> bytes:
    last = b"" if kind in (1, 4) else b"%d\n" % most
    return b"P%d\n# a comment\n%d # and one more\n%d\n" % (kind, width, height) + last


def tiff(tags: dict[int, tuple[int, ...]], order: str = "<", big: bool = False) -> bytes:
    """Without pixels. Tags as 32-bit numbers; several values of one stand behind the page."""
    mark = b"II" if order == "<" else b"MM"
    word, number = ("Q", "Q") if big else ("I", "H")
    head = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8))
    page, behind = struct.pack(f"{order}{number}", len(tags)), b""
    end = len(head) + len(page) + len(tags) * (20 if big else 12) + struct.calcsize(word)
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        page += struct.pack(f"{order}HH{word}", tag, 4, len(values))
        if len(packed) > struct.calcsize(word):
            page += struct.pack(f"{order}{word}", end + len(behind))
            behind += packed
        else:
            page += packed.ljust(struct.calcsize(word), b"\0")
    return head + page + struct.pack(f"{order}{word}", 0) + behind


def page(width: int, height: int, bits: tuple[int, ...] = (8,), **more: int) -> dict[int, tuple[int, ...]]:
    """The tags of a page; `more` by number, as t322=16."""
    samples = {258: bits, 277: (len(bits),)}
    return {256: (width,), 257: (height,), **samples, **{int(name[1:]): (value,) for name, value in more.items()}}


BOMBS = {
    "bits.png": lambda: png(SIDE, SIDE, 1, 0),
    "grey.png": lambda: png(SIDE, 10_000, 8, 0),
    "deep_grey.png": lambda: png(30_000, 10_000, 16, 0),
    "rgb.png": lambda: png(20_000, 10_000),
    "deep_rgb.png": lambda: png(10_000, 10_000, 16),
    "palette.png": lambda: png(20_000, 10_000, 8, 3),
    "grey_alpha.png": lambda: png(20_000, 10_000, 8, 4),
    "deep_rgba.png": lambda: png(10_000, 10_000, 16, 6),
    "wide.png": lambda: png(2**29 + 1, 1, 8, 0),
    "rgb.jpg": lambda: jpeg(SIDE, SIDE),
    "progressive.jpeg": lambda: jpeg(SIDE, SIDE, 0xC2),
    "grey.jpe": lambda: jpeg(SIDE, SIDE, channels=1),
    "cmyk.jfif": lambda: jpeg(SIDE, SIDE, channels=4),
    "rgb.bmp": lambda: bmp(SIDE, SIDE),
    "downwards.bmp": lambda: bmp(SIDE, -SIDE),
    "bits.bmp": lambda: bmp(SIDE, SIDE, 1),
    "rgba.bmp": lambda: bmp(SIDE, SIDE, 32),
    "old.bmp": lambda: bmp(SIDE, SIDE, old=True),
    "lossy.webp": lambda: webp(b"VP8 "),
    "lossless.webp": lambda: webp(b"VP8L"),
    "extended.webp": lambda: webp(b"VP8X"),
    "text_bits.pnm": lambda: pnm(1, SIDE, SIDE),
    "text_grey.pgm": lambda: pnm(2, SIDE, SIDE),
    "text_rgb.ppm": lambda: pnm(3, SIDE, SIDE),
    "bits.pnm": lambda: pnm(4, SIDE, SIDE),
    "grey.pgm": lambda: pnm(5, SIDE, SIDE),
    "deep.pgm": lambda: pnm(5, 20_000, 20_000, 65_535),
    "rgb.ppm": lambda: pnm(6, SIDE, SIDE),
    "deep.ppm": lambda: pnm(6, 10_000, 10_000, 65_535),
    "grey.tif": lambda: tiff(page(SIDE, SIDE)),
    "grey_be.tif": lambda: tiff(page(SIDE, SIDE), ">"),
    "deep.tiff": lambda: tiff(page(20_000, 20_000, (16,))),
    "rgb.tiff": lambda: tiff(page(20_000, 10_000, (8, 8, 8))),
    "rgba_be.tiff": lambda: tiff(page(12_000, 12_000, (8, 8, 8, 8)), ">"),
    "float_rgb.tiff": lambda: tiff(page(7_000, 7_000, (32, 32, 32))),
    "double.tiff": lambda: tiff(page(9_000, 9_000, (64,))),
    "twelve.tiff": lambda: tiff(page(20_000, 20_000, (12,))),
    "palette.tiff": lambda: tiff(page(20_000, 10_000, (8,), t262=3)),
    "bits.tiff": lambda: tiff({256: (SIDE,), 257: (SIDE,)}),
    "tile.tiff": lambda: tiff(page(8, 8, (8,), t322=SIDE, t323=SIDE)),
    "big.tiff": lambda: tiff(page(SIDE, SIDE), big=True),
    "big_be.tiff": lambda: tiff(page(20_000, 10_000, (8, 8, 8)), ">", big=True),
}


def main() -> None:
    """Decode files, {name: base64} on standard input, in an address space of so many bytes.

    Prints the lines [name, seconds, what was said] of each, and the most memory that was in use.
    """
    from uld.base.errors import DataError
    from uld.images import decode

    files = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, packed in files.items():
        start = time.perf_counter()
        try:
            said = str(decode.decode_bytes(base64.b64decode(packed), name).shape)
        except DataError as error:
            said = str(error)
        print(json.dumps([name, time.perf_counter() - start, said]))
    print(json.dumps(["memory", 0, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]))


if __name__ == "__main__":
    main()
