"""Closed parameters: what is refused, and that the message names the place."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base import params
from uld.base.errors import ParamsError
from uld.base.params import CLOSED


@dataclass(frozen=True, config=CLOSED)
class Inner:
    rate: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=CLOSED)
class Block:
    count: int
    name: str | None
    layers: tuple[tuple[int, int], ...]
    flag: bool
    inner: Inner


@dataclass(frozen=True, config=CLOSED)
class Square:
    kind: Literal["square"]
    side: float


@dataclass(frozen=True, config=CLOSED)
class Disc:
    kind: Literal["disc"]
    radius: float


GOOD = "{count: 3, name: null, layers: [[0, 1], [2, 3]], flag: true, inner: {rate: 1}}"


def file(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str, kind: Any = Block, key: str = "a.b") -> str:
    with pytest.raises(ParamsError) as caught:
        params.read(kind, key, file(folder, text))
    return str(caught.value)


def test_a_block_becomes_a_frozen_dataclass(tmp_path: Path) -> None:
    block = params.read(Block, "a.b", file(tmp_path, f"a: {{b: {GOOD}}}"))
    assert block == Block(3, None, ((0, 1), (2, 3)), True, Inner(1.0))
    assert isinstance(block.layers, tuple)
    assert isinstance(block.inner.rate, float)
    with pytest.raises(AttributeError, match="count"):
        block.count = 4  # type: ignore[misc]


def test_plain_values_and_lists(tmp_path: Path) -> None:
    path = file(tmp_path, "seed: 7\nlr: 1e-4\nnames: [a, b]\nnone: null\nday: 2020-01-31\n")
    assert params.read(int, "seed", path) == 7
    assert params.read(float, "lr", path) == 1e-4
    assert params.read(tuple[str, ...], "names", path) == ("a", "b")
    assert params.read(Inner | None, "none", path) is None
    assert params.read(str, "day", path) == "2020-01-31"  # a folder may be named so


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count: 3": "cuont: 3"}, "a.b.cuont: unknown key"),
        ({"count: 3": "cuont: 3"}, "a.b.count: key is missing"),
        ({"count: 3": "count: '3'"}, "a.b.count: .*integer.*, not '3'"),
        ({"count: 3": "count: true"}, "a.b.count: .*integer.*, not True"),
        ({"count: 3": "count: 3.0"}, "a.b.count: .*integer.*, not 3.0"),
        ({"count: 3": "count: null"}, "a.b.count: .*integer.*, not None"),
        ({"true": "1"}, "a.b.flag: .*boolean.*, not 1"),
        ({"true": "yes"}, "a.b.flag: .*boolean.*, not 'yes'"),  # YAML 1.2: a string
        ({"rate: 1": "rate: '1'"}, "a.b.inner.rate: .*number.*, not '1'"),
        ({"rate: 1": "rate: 0"}, "a.b.inner.rate: .*greater than 0, not 0"),
        ({"rate: 1": "rate: .nan"}, "a.b.inner.rate: .*finite"),
        ({"rate: 1": "rate: .inf"}, "a.b.inner.rate: .*finite"),
        ({"rate: 1": "rat: 1"}, "a.b.inner.rat: unknown key"),
        ({"[2, 3]": "[2, x]"}, r"a.b.layers.1.1: .*integer.*, not 'x'"),
        ({"[2, 3]": "[2]"}, r"a.b.layers.1.1: key is missing"),
    ],
)
def test_a_wrong_key_is_named_by_its_full_path(tmp_path: Path, change: dict[str, str], message: str) -> None:
    text = GOOD
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    said = refused(tmp_path, f"a: {{b: {text}}}")
    assert re.search(message, said), said
    assert "params.yaml" in said


def test_every_wrong_key_is_told_at_once(tmp_path: Path) -> None:
    said = refused(tmp_path, f"a: {{b: {GOOD.replace('count: 3', 'count: x').replace('true', '2')}}}")
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {c: {}}", "'a.b' is missing: no 'b' under a (there: c)"),
        ("c: {}", "'a.b' is missing: no 'a' under the top (there: c)"),
        ("a: 3", "no 'b' under a (there: no keys)"),
        ("[1, 2]", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("a: {b: [", "is not valid YAML"),
        ("a: 1\na: 2", "is not valid YAML"),  # a key twice
    ],
)
def test_a_missing_block(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"nowhere\.yaml is missing: run from the project's root"):
        params.read(int, "seed", tmp_path / "nowhere.yaml")


# --- a choice of blocks ---


def test_of_a_union_only_the_block_that_is_meant_complains(tmp_path: Path) -> None:
    read = params.read(Square | Disc, "a.b", file(tmp_path, "a: {b: {kind: disc, radius: 2}}"))
    assert read == Disc("disc", 2.0)
    said = refused(tmp_path, "a: {b: {kind: disc, radios: 2}}", Square | Disc)
    assert sorted(line.split(": ", 1)[1] for line in said.splitlines()) == [
        "a.b.radios: unknown key (misspelt?)",
        "a.b.radius: key is missing",
    ]


@pytest.mark.parametrize("block", ["{kind: ring, radius: 2}", "{radius: 2}", "{kind: [disc], radius: 2}", "7"])
def test_a_block_of_no_known_kind(tmp_path: Path, block: str) -> None:
    assert "a.b.kind: must be one of square, disc, not " in refused(tmp_path, f"a: {{b: {block}}}", Square | Disc)


def test_names_of_the_first_version_are_told_with_todays(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("variants: {duld: {}}\nsteps: {}\nseed: 1\n")
    with pytest.raises(ParamsError, match=r"earlier version of uld.*variants is rows now, steps is methods now"):
        params.read(dict[str, Any], "rows.duld", path)
    assert params.outdated({"rows": {}, "variants": {}}) == ""
    path.write_text("starts: {silk: {head: learned, features: trained}}\nrows: {duld: {step: duld}}\nkeypoints: {}\n")
    for key in ("starts.silk.model", "rounds.duld-1"):
        with pytest.raises(ParamsError, match=r"keypoints is starts\.\*\.train\.keypoints now") as caught:
            params.read(str, key, path)
        for said in ("`head: learned` is `model: heads`", "`step: X` is `method: X`", "`reads: features/X`"):
            assert said in str(caught.value)
