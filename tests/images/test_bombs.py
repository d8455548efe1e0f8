"""Images that would take all memory are refused by their headers; what is decoded takes a bounded share."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from images import bombs, formula
from PIL import Image

from uld.base import runtime
from uld.base.errors import DataError, ULDError
from uld.images import decode, header

ROOT = Path(__file__).parents[2]
MEGABYTES = 2**20


def decoded_elsewhere(files: dict[str, bytes], space: int = 2**31, **environment: str) -> dict[str, tuple[float, str]]:
    """What another process says of files, and how long it took, in an address space of so many bytes."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"} | environment
    given = json.dumps({name: base64.b64encode(data).decode() for name, data in files.items()})
    command = [sys.executable, bombs.__file__, str(space)]
    done = subprocess.run(command, input=given, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return {name: (seconds, said) for name, seconds, said in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def blown() -> dict[str, tuple[float, str]]:
    return decoded_elsewhere({name: make() for name, make in bombs.BOMBS.items()})


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_a_bomb_is_refused_by_its_header(blown: dict[str, tuple[float, str]], name: str) -> None:
    seconds, said = blown[name]
    assert said.startswith(f"{name}: ") and said.endswith("shrink it, or raise ULD_IMAGE_MB.") and "\n" not in said
    assert "pixels take" in said and "more than the 512 MB allowed" in said
    assert seconds < 1


def test_bombs_of_every_suffix() -> None:
    assert {Path(name).suffix for name in bombs.BOMBS} == decode.SUFFIXES


def test_refusing_takes_no_memory(blown: dict[str, tuple[float, str]]) -> None:
    assert int(blown["memory"][1]) < 32 * MEGABYTES


@pytest.mark.parametrize(
    ("name", "data", "most"),
    [
        ("deep.png", bombs.png(5000, 6000, 16, 0), 64),
        ("deep_rgba.png", bombs.png(3000, 2600, 16, 6), 64),
        ("bits.png", bombs.png(8000, 8000, 1, 0), 64),
        ("rgb.png", bombs.png(5000, 4000), 64),
    ],
)
def test_decoding_takes_a_few_times_the_limit(name: str, data: bytes, most: int) -> None:
    found = decoded_elsewhere({name: data}, ULD_IMAGE_MB=str(most))
    assert found[name][1].startswith("("), found
    assert int(found["memory"][1]) < 4.5 * most * 1e6


def test_where_memory_is_short_the_image_is_named() -> None:
    found = decoded_elsewhere({"a.png": bombs.png(20_000, 20_000, 8, 0)}, space=1_500_000_000)
    assert found["a.png"][1].startswith("a.png: there is no memory for its 20000 x 20000 pixels: shrink it")


@pytest.mark.parametrize("where", ["imdecode", "cvtColor"])
def test_an_error_of_memory_is_of_that_image(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cv2, where, fail)
    with pytest.raises(DataError, match=r"a\.png: there is no memory for its 4 x 3 pixels: .*ULD_THREADS"):
        decode.decode_bytes(bombs.png(4, 3), "a.png")


def test_the_limit_is_the_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = bombs.png(1000, 1000, 16)
    assert decode.decode_bytes(data, "x").shape == (1000, 1000, 3)
    monkeypatch.setenv("ULD_IMAGE_MB", "5")
    with pytest.raises(DataError, match=r"x: 1000 x 1000 pixels take 6 MB decoded, more than the 5 MB allowed"):
        decode.decode_bytes(data, "x")
    (tmp_path / "long.png").write_bytes(data)
    os.truncate(tmp_path / "long.png", 2**33)  # a hole: it takes no disk
    with pytest.raises(DataError, match=r"long\.png: the file has 8590 MB, more than the 5 MB allowed: shrink it"):
        decode.decode(tmp_path / "long.png")


@pytest.mark.parametrize("text", ["0", "-1", "much", "1.5", "", "²", "9" * 5000])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ULD_IMAGE_MB", text)
    with pytest.raises(ULDError, match=r"ULD_IMAGE_MB=.* must be a whole number of at least 1"):
        runtime.image_bytes()


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones as many at once as there are threads."""
    lock, now, most = threading.Lock(), [0], [0]
    stored = decode._stored

    def counted(data: bytes, name: str) -> np.ndarray:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return stored(data, name)

    monkeypatch.setattr(decode, "_stored", counted)
    files = [bombs.png(50, 40)] * 8
    list(decode.ahead(lambda data: decode.decode_bytes(data, "x"), files, 4))
    assert most[0] > 1
    most[0] = 0
    monkeypatch.setattr(decode, "LARGE", 50 * 40 * 3 - 1)
    list(decode.ahead(lambda data: decode.decode_bytes(data, "x"), files, 4))
    assert most[0] == 1


# --- the size that a header tells is that of what is decoded ---


def encoded() -> Iterator[tuple[str, bytes]]:
    """Images of 31 x 17 pixels of every kind that two libraries can write."""
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16", "CMYK", "F", "I"):
        for kind in ("PNG", "TIFF", "BMP", "WEBP", "JPEG", "PPM", "GIF", "AVIF", "JPEG2000"):
            out = BytesIO()
            try:
                Image.new(mode, (31, 17)).save(out, kind)
            except (OSError, KeyError, ValueError):  # not every format has every mode
                continue
            yield f"{kind}-{mode}", out.getvalue()
    for suffix in (".png", ".tiff", ".ppm", ".bmp", ".webp", ".jpg", ".pgm"):
        for depth in (np.uint8, np.uint16, np.int32, np.float32, np.float64):
            for shape in ((17, 31), (17, 31, 3), (17, 31, 4)):
                try:
                    yield (
                        f"{suffix}-{depth.__name__}-{shape}",
                        cv2.imencode(suffix, np.zeros(shape, depth))[1].tobytes(),
                    )
                except (cv2.error, AttributeError):
                    continue


@pytest.mark.parametrize(("name", "data"), [pytest.param(*one, id=one[0]) for one in encoded()])
def test_a_header_tells_what_is_decoded(name: str, data: bytes) -> None:
    size = header.measure(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert size is not None and size[:2] == (31, 17)
    assert pixels is None or pixels.nbytes <= size.bytes
    exact = name.startswith((".png", ".tiff", ".jpg", ".ppm", ".pgm", "JPEG-", "PNG-RGB", "PNG-I"))
    assert pixels is None or not exact or pixels.nbytes == size.bytes


@pytest.mark.parametrize("make", bombs.BOMBS.values(), ids=bombs.BOMBS)
def test_a_header_that_ends_early_is_none(make: object) -> None:
    data = make()  # type: ignore[operator]
    for end in range(2, 40):
        size = header.measure(data[:end])
        assert size is None or size.width > 0


# --- pixels are those of the plain formula ---


def stored(dtype: type, channels: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(channels)
    shape = (37, 29) if channels == 1 else (37, 29, channels)
    if np.dtype(dtype).kind == "f":
        return (rng.random(shape) if channels == 4 else rng.normal(0, spread, shape)).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -spread), min(info.max, spread), shape, dtype, endpoint=True)


KINDS = [(dtype, channels) for dtype in (np.uint8, np.uint16, np.float32, np.float64) for channels in (1, 3, 4)]
KINDS += [(np.int16, 1), (np.int16, 3)]  # transparency below 0 has no plain form


@pytest.mark.parametrize("piece", [1, 100, 1000, 2**18])
@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_pieces_of_rows_change_no_pixel(
    monkeypatch: pytest.MonkeyPatch, dtype: type, channels: int, piece: int
) -> None:
    monkeypatch.setattr(decode, "PIECE", piece)
    for spread in (3, 1000, 60_000):
        pixels = stored(dtype, channels, spread)
        assert np.array_equal(decode._rgb(np.atleast_3d(pixels), "x"), formula.rgb(pixels))


HELD = {".tiff": KINDS[:12], ".png": KINDS[:6], ".webp": KINDS[1:3], ".jpg": KINDS[:2], ".bmp": KINDS[:3]}


@pytest.mark.parametrize(("suffix", "dtype", "channels"), [(name, *kind) for name in HELD for kind in HELD[name]])
def test_files_become_what_the_plain_formula_says(suffix: str, dtype: type, channels: int) -> None:
    data = cv2.imencode(suffix, stored(dtype, channels, 60_000))[1].tobytes()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decode.decode_bytes(data, "x"), formula.rgb(pixels))


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[-1e308, 1e308]]),  # its range is infinite
        np.array([[0, 5e-324]]),  # and so is what stretches this one
        np.array([[0, np.inf]]),
        np.dstack([np.zeros((2, 2, 3)), np.full((2, 2), np.nan)]),
    ],
)
def test_ranges_that_no_stretch_fits(pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"x: holds NaN or infinite .*: save it with 8 or 16 bits"):
        decode.decode_bytes(cv2.imencode(".tiff", pixels)[1].tobytes(), "x")


def test_of_several_pages_the_first_counts() -> None:
    out = BytesIO()
    first, second = Image.new("L", (5, 4), 7), Image.new("L", (9, 9), 8)
    first.save(out, "TIFF", save_all=True, append_images=[second])
    assert np.array_equal(decode.decode_bytes(out.getvalue(), "x"), np.full((4, 5, 3), 7))
