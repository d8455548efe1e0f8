"""Whatever bytes or trees come as a user's file: it is read, or an error of the project's own says why not."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.datasets.test_hostile_input import GOOD, ROOT, coco, put, read
from tests.images import bombs
from uld.base import params
from uld.base.errors import ULDError
from uld.commands import blocks
from uld.images import decode, header

SHIPPED = params.load(ROOT / "params.yaml")
quick = settings(max_examples=40, deadline=None, derandomize=True)
few = settings(max_examples=20, deadline=None, derandomize=True)
CELLS = st.sampled_from(
    [
        "",
        "a.png",
        "b.png",
        "train",
        "test",
        "1",
        "-1e300",
        "nan",
        "True",
        '"',
        "'",
        "\r",
        "\n",
        " ",
        ";",
        "\0",
        "9" * 400,
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just(10**400)
    | st.just("x" * 5000)
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
JUNK = st.binary(max_size=300)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def survives(run: Callable[[], object]) -> None:
    with suppress(ULDError):
        run()


def survives_as(name: str, content: bytes) -> None:
    with folder() as place:
        (place / name).write_bytes(content)
        survives(lambda: read(place, name))


@pytest.mark.parametrize("name", [*GOOD, "coco.json"])
@given(content=JUNK | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@quick
def test_any_bytes(name: str, content: bytes) -> None:
    survives_as(name, content)


@pytest.mark.parametrize("name", GOOD)
@given(rows=st.lists(st.lists(CELLS | st.text(max_size=5), max_size=7), max_size=5), keep=st.booleans())
@quick
def test_any_cells(name: str, rows: list[list[str]], keep: bool) -> None:
    head, lines = GOOD[name]
    text = "\n".join([head, *(lines if keep else []), *(",".join(row) for row in rows)])
    survives_as(name, text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", GOOD)
@given(at=st.integers(0, 60), cut=st.integers(0, 5), put_in=CELLS | st.text(max_size=3))
@quick
def test_a_changed_table(name: str, at: int, cut: int, put_in: str) -> None:
    head, lines = GOOD[name]
    text = "\n".join([head, *lines])
    survives_as(name, (text[:at] + put_in + text[at + cut :]).encode("utf-8", "surrogatepass"))


@given(cells=st.lists(CELLS | st.text(max_size=5) | st.floats().map(str), min_size=2, max_size=2))
@quick
def test_any_yaw(cells: list[str]) -> None:
    text = f"image,yaw,split\na.png,{cells[0]},train\nb.png,{cells[1]},test\n"
    survives_as("split.csv", text.encode("utf-8", "surrogatepass"))


@given(head=st.lists(st.sampled_from(["x0", "y0", "x_", "x_a", "y_a", "x_b", "", "image"]), max_size=6))
@quick
def test_any_header_of_points(head: list[str]) -> None:
    text = f"{','.join(['image', *head])}\n{','.join(['a.png', *'123456'[: len(head)]])}\n"
    survives_as("landmarks.csv", text.encode())


@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), max_size=8))
@quick
def test_any_name_of_a_markup(name: str) -> None:
    head, lines = GOOD["landmarks.csv"]
    survives_as(f"landmarks-{name}.csv", "\n".join([head, *lines]).encode())


@given(categories=TREES, keypoints=TREES)
@quick
def test_any_categories_of_coco(categories: object, keypoints: object) -> None:
    one = {"id": 5, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2]}
    for found in (categories, [{"id": 1, "keypoints": keypoints}]):
        tree = coco({"id": 1, "file_name": "a.png"}, one) | {"categories": found}
        survives_as("coco.json", json.dumps(tree).encode())


@given(image=TREES, marked=TREES)
@quick
def test_any_coco(image: object, marked: object) -> None:
    survives_as("coco.json", json.dumps(coco(image, marked)).encode())


@given(key=st.sampled_from(["id", "image_id", "keypoints", "area", "file_name"]), value=TREES)
@quick
def test_a_changed_coco(key: str, value: object) -> None:
    tree: Any = coco({"id": 1, "file_name": "a.png"}, {"id": 5, "image_id": 1, "keypoints": [1, 2, 2]})
    for one in (*tree["images"], *tree["annotations"]):
        if key in one or key == "area":
            one[key] = value
    survives_as("coco.json", json.dumps(tree).encode())


def keys(tree: Any, above: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield above + name
        if isinstance(value, dict):
            yield from keys(value, f"{above}{name}.")


def problems(content: bytes) -> None:
    with folder() as place:
        (place / "params.yaml").write_bytes(content)
        survives(lambda: blocks.problems(place / "params.yaml"))


@given(key=st.sampled_from(sorted(keys(SHIPPED))), value=TREES)
@example(key="starts.frozen.model", value=[])
@few
def test_a_changed_block_of_params(key: str, value: object) -> None:
    tree = deepcopy(SHIPPED)
    put(tree, key, value)
    problems(json.dumps(tree).encode())


@given(key=st.sampled_from(sorted(keys(SHIPPED))), name=st.text(max_size=6), value=TREES)
@few
def test_one_more_key_of_params(key: str, name: str, value: object) -> None:
    tree = deepcopy(SHIPPED)
    put(tree, f"{key.rpartition('.')[0]}.{name.replace('.', '')}".lstrip("."), value)
    problems(json.dumps(tree).encode())


@given(content=JUNK | st.text("[]{}:,-?&*!|>'\"%@# \n\tab01~<", max_size=60).map(str.encode))
@settings(quick, max_examples=150)
def test_any_bytes_as_params(content: bytes) -> None:
    problems(content)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF blocks
@pytest.mark.parametrize(
    "magic",
    [
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"II*\0",
        b"MM\0+",
        b"BM",
        b"P5\n",
        b"RIFF\0\0\0\0WEBPVP8X",
        b"GIF89a",
    ],
)
@given(content=JUNK)
@quick
def test_any_bytes_as_an_image(magic: bytes, content: bytes) -> None:
    survives(lambda: decode.decode_bytes(magic + content, "x"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name", ["rgb.png", "rgb.jpg", "rgba_be.tiff", "big.tiff", "old.bmp", "extended.webp", "deep.pgm"]
)
@given(at=st.integers(0, 80), byte=st.integers(0, 255))
@quick
def test_a_changed_header_of_an_image(name: str, at: int, byte: int) -> None:
    data = bytearray(SMALL[name] if name in SMALL else bombs.BOMBS[name]())
    data[min(at, len(data) - 1)] = byte
    header.measure(bytes(data))


SMALL = {"rgb.png": bombs.png(9, 9)}
