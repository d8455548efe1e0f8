"""Decoding: formats, depths, alpha, orientation, damage."""

import threading
import time
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from uld.base.errors import DataError
from uld.images import decode

LEFT_TOP = np.zeros((16, 24, 3), np.uint8)  # four quarters of four colours: every turn is told from every other
LEFT_TOP[:8, :12], LEFT_TOP[:8, 12:], LEFT_TOP[8:, :12] = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def encode(pixels: np.ndarray, suffix: str, **options: object) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, suffix, **options)
    return out.getvalue()


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG"])
def test_every_format_gives_the_same_rgb(format_: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format_, {})
    got = decode.decode_bytes(encode(LEFT_TOP, format_, **options), "x")
    assert got.shape == (16, 24, 3) and got.dtype == np.uint8 and got.flags.c_contiguous
    assert np.abs(got.astype(int) - LEFT_TOP).max() <= (3 if format_ == "JPEG" else 0)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(format_: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(LEFT_TOP, format_, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))
    got = decode.decode_bytes(data, "x")
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).max() <= 12  # another JPEG or WebP decoder may round otherwise


@pytest.mark.parametrize("format_", ["PNG", "PPM"])
def test_grey_has_equal_channels(format_: str) -> None:
    grey = LEFT_TOP[..., 0]
    assert np.array_equal(decode.decode_bytes(encode(grey, format_), "x"), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_sixteen_bits_are_stretched_from_their_own_range(suffix: str) -> None:
    deep = np.linspace(300, 1300, 12, dtype=np.uint16).reshape(3, 4)
    got = decode.decode_bytes(cv2.imencode(suffix, deep)[1].tobytes(), "x")
    assert np.array_equal(got[..., 0], np.rint((deep - 300.0) * 255 / 1000).astype(np.uint8))
    assert (got[0, 0, 0], got[-1, -1, 0]) == (0, 255)


def test_a_flat_deep_image_does_not_divide_by_zero() -> None:
    assert not decode.decode_bytes(cv2.imencode(".png", np.full((3, 4), 777, np.uint16))[1].tobytes(), "x").any()


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composed_over_white(format_: str) -> None:
    rgba = np.dstack([LEFT_TOP, np.full((16, 24), 255, np.uint8)])
    rgba[:4, :, 3] = 0
    options = {"lossless": True} if format_ == "WEBP" else {}
    got = decode.decode_bytes(encode(rgba, format_, **options), "x")
    assert (got[:4] == 255).all()
    assert np.array_equal(got[4:], LEFT_TOP[4:])


def test_half_alpha_is_half_way_to_white_at_sixteen_bits_too() -> None:
    deep = np.zeros((2, 2, 4), np.uint16)
    deep[..., 3] = 32768
    deep[0, 0] = 65535
    got = decode.decode_bytes(cv2.imencode(".png", deep)[1].tobytes(), "x")
    assert got[0, 0].tolist() == [255, 255, 255] and got[1, 1].tolist() == [127, 127, 127]


def test_palette_with_transparency() -> None:
    palette = Image.fromarray(LEFT_TOP).convert("P", palette=Image.Palette.ADAPTIVE)
    out = BytesIO()
    palette.save(out, "PNG", transparency=palette.getpixel((0, 0)))
    got = decode.decode_bytes(out.getvalue(), "x")
    assert (got[0, 0] == 255).all() and np.abs(got[0, -1].astype(int) - LEFT_TOP[0, -1]).max() < 8


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
def test_a_truncated_file_is_refused_by_path(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    path = tmp_path / f"half{suffix}"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataError, match=rf"half\{suffix}"):
        decode.decode(path)


@pytest.mark.parametrize(("content", "why"), [(b"", "empty"), (b"hello, no picture", "no image")])
def test_empty_and_other_files(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg.*{why}"):
        decode.decode(tmp_path / "a.jpg")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png.*cannot be opened"):
        decode.decode(tmp_path / "gone.png")


def test_nan_pixels_are_refused() -> None:
    deep = np.ones((4, 4), np.float32)
    deep[1, 1] = np.nan
    with pytest.raises(DataError, match=r"x\.tiff.*NaN"):
        decode.decode_bytes(cv2.imencode(".tiff", deep)[1].tobytes(), "x.tiff")


def test_ahead_keeps_order_and_bounds_what_waits() -> None:
    lock, running, started = threading.Lock(), [], []

    def slow(i: int) -> int:
        with lock:
            started.append(i)
            running.append(i)
        time.sleep(0.002 * (i % 3))
        return i * i

    results = decode.ahead(slow, range(40), workers=3)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(started) <= 2 * 3 + 1
    assert list(results) == [i * i for i in range(1, 40)]


def test_ahead_raises_in_turn_and_stops() -> None:
    done = []

    def fail(i: int) -> int:
        done.append(i)
        if i == 3:
            raise DataError("third")
        return i

    got = []
    with pytest.raises(DataError, match="third"):
        for value in decode.ahead(fail, range(1000), workers=2):
            got.append(value)
    assert got == [0, 1, 2] and len(done) < 20
