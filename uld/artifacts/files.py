"""Readers and writers of the files that cross stages. The contract of each is in docs/artifacts.md.

Same inputs, same bytes: no clock, host, user or absolute path is written. Every writer builds a temporary file beside
the target and renames it, so a killed stage leaves no half file under a final name.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.base.errors import ArtifactError

SPLITS = ("train", "test")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def require(path: Path, made_by: str) -> Path:
    """`path` if it exists, else an error that names the stage which makes it."""
    if not path.exists():
        raise ArtifactError(f"{path} is missing: run `dvc repro {made_by}` first.")
    return path


def sha256(path: Path) -> str:
    """Fingerprint of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with 6 significant digits, no row numbers, "\\n" line ends."""
    with atomic(path) as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")


def read_table(path: Path, made_by: str, text: tuple[str, ...] = ("image",)) -> pd.DataFrame:
    """CSV of `write_table`; the columns named in `text` stay strings whatever they look like ("NA" is a name)."""
    return pd.read_csv(require(path, made_by), dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Sorted JSON, floats rounded to 6 digits. NaN and infinity raise: they would poison `dvc metrics diff`."""

    def plain(node: Any, where: str) -> Any:
        if isinstance(node, dict):
            return {str(k): plain(v, f"{where}.{k}") for k, v in node.items()}
        if isinstance(node, (list, tuple)):
            return [plain(v, f"{where}[{i}]") for i, v in enumerate(node)]
        if isinstance(node, (bool, str, int)) or node is None:
            return node
        if isinstance(node, (np.integer, np.bool_)):
            return node.item()
        if not math.isfinite(node):
            raise ArtifactError(f"{path}: value {node} at {where} is not finite.")
        return round(float(node), 6)

    with atomic(path) as part:
        part.write_text(json.dumps(plain(tree, ""), indent=1, sort_keys=True) + "\n")


def finite(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree without what `dvc metrics diff` cannot subtract: text, nulls, NaN; branches left empty go too."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            if below := finite(value):
                out[key] = below
        elif isinstance(value, (int, float, np.number)) and math.isfinite(value):
            out[key] = value
    return out


def read_json(path: Path, made_by: str) -> Any:
    """JSON tree of `write_json`."""
    return json.loads(require(path, made_by).read_text())


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]], attrs: dict[str, Any] | None = None) -> None:
    """Flat HDF5 of named arrays (keys may hold "/"), for artifacts with a variable set of arrays."""
    _write_h5(path, arrays, attrs or {})


def read_arrays(path: Path, made_by: str) -> dict[str, Any]:
    """Arrays of `write_arrays` by name."""
    return _read_h5(path, made_by)[0]


def _write_h5(path: Path, arrays: dict[str, NDArray[Any]], attrs: dict[str, Any]) -> None:
    with atomic(path) as part, h5py.File(part, "w") as file:
        for name, value in arrays.items():
            if value.dtype.kind in "UO":
                file.create_dataset(name, data=value.astype(object), dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=value)
        for name, text in attrs.items():
            file.attrs[name] = text


def _read_h5(path: Path, made_by: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with h5py.File(require(path, made_by), "r") as file:
            arrays: dict[str, Any] = {}

            def visit(name: str, node: Any) -> None:
                if isinstance(node, h5py.Dataset):
                    text = h5py.check_string_dtype(node.dtype) is not None
                    arrays[name] = np.array(node.asstr()[:], dtype=object) if text else node[...]

            file.visititems(visit)
            return arrays, dict(file.attrs)
    except OSError as error:
        raise ArtifactError(f"{path} is no readable HDF5 file: delete it and run `dvc repro {made_by}`.") from error


def given(table: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a dataclass by field, without those that are None."""
    return {name: value for name, value in vars(table).items() if value is not None}
