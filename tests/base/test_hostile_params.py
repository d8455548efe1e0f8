"""Params that no person writes by mistake: one line each, and nothing hangs."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uld import datasets
from uld.base import params
from uld.base.errors import ParamsError, ULDError
from uld.methods import METHODS, load
from uld.methods.lines import landmarks_of
from uld.roi import RoiParams

LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
ROI = "roi: {{providers: [full], margin: {margin}, crop: {crop}, max_missing: 0}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]\n", "nested more than 40 deep: an alias"),
        ("a: &a {b: *a}\n", "nested more than 40 deep: an alias"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested more than 40 deep|not valid YAML"),
        (LAUGHS, "stands for more than 100000 values"),
        ("seed: " + "9" * 5000 + "\n", "not valid YAML: .*5000 digits"),
        ("a: 1\na: 2\n", 'not valid YAML: .*duplicate key "a"'),
        ("a: \ufffe", "not valid YAML"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        ("", "must hold a mapping"),
        ("- a\n", "must hold a mapping"),
        ("a\n", "must hold a mapping"),
        ("a: [\n", "not valid YAML"),
        ("a: 'b\n", "not valid YAML"),
        ("\ta: 1\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_params(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=f"(?s)params.yaml .*({said})"):
        params.load(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def latin(path: Path) -> None:
    path.write_bytes("a: caf\xe9\n".encode("latin-1"))


def link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (pipe, "is a named pipe"),
        (Path.mkdir, "is a folder"),
        (latin, "not valid YAML"),
        (link_to_nowhere, "is missing"),
    ],
)
def test_what_is_no_file_of_text(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    make(tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match=said):
        params.load(tmp_path / "params.yaml")


def test_a_byte_order_mark_is_none_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert params.load(tmp_path / "params.yaml") == {"a": 1}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"margin": "1.0e308", "crop": 64}, "margin"),
        ({"margin": -0.1, "crop": 64}, "margin"),
        ({"margin": ".inf", "crop": 64}, "margin"),
        ({"margin": ".nan", "crop": 64}, "margin"),
        ({"margin": "true", "crop": 64}, "margin"),
        ({"margin": 0.1, "crop": 100_000}, "crop"),
        ({"margin": 0.1, "crop": 0}, "crop"),
        ({"margin": 0.1, "crop": "64.0"}, "crop"),
        ({"margin": 0.1, "crop": "'64'"}, "crop"),
        ({"margin": 0.1, "crop": "9" * 400}, "crop"),
    ],
)
def test_absurd_numbers(tmp_path: Path, values: dict[str, object], key: str) -> None:
    (tmp_path / "params.yaml").write_text(ROI.format(**values))
    with pytest.raises(ParamsError, match=rf"roi\.{key}: "):
        params.read(RoiParams, "roi", tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["", " ", "a\0b", "x" * 5000])
def test_a_source_that_names_no_folder(text: str) -> None:
    with pytest.raises(ParamsError, match=r"source: .* names no folder"):
        datasets.source(text)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [-1, 0, 1, 10_001])
def test_numbers_of_landmarks(name: str, count: int) -> None:
    kind = load(name)
    if kind.least <= count <= 10_000:
        assert landmarks_of(count, kind, "landmarks") == count
    else:
        with pytest.raises(ParamsError, match=rf"landmarks: {kind.__name__} finds .* landmarks, not {count}"):
            landmarks_of(count, kind, "landmarks")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "any.yaml").write_bytes(text)
    with contextlib.suppress(ULDError):
        assert isinstance(params.load(tmp_path / "any.yaml"), dict)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(block=VALUES)
def test_any_block(block: object) -> None:
    for name in METHODS:
        kind = load(name)
        with contextlib.suppress(ULDError):
            assert isinstance(params.build(kind.Cluster, block, "methods.x.cluster"), kind.Cluster)
