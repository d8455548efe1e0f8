"""Readers and writers of the files that cross stages. The contract of each is in docs/artifacts.md.

Same inputs, same bytes: no clock, host, user or absolute path is written. A file that was damaged outside the pipeline
is refused with the stage that makes it anew: arrays by their checksum, text by its form.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.base.errors import ArtifactError
from uld.base.writing import write

T = TypeVar("T")

SPLITS = ("train", "test")
CHECKSUM = "crc32c"  # attribute of an HDF5 file


def require(path: Path, made_by: str) -> Path:
    """`path` if it exists, else an error that names the stage which makes it."""
    if not path.exists():
        raise ArtifactError(f"{path} is missing: run `dvc repro {made_by}` first.")
    return path


def contents(path: Path, made_by: str) -> bytes:
    """The bytes of a file.

    Raises:
        ArtifactError: it is missing, empty, or cannot be read.
    """
    try:
        data = require(path, made_by).read_bytes()
    except OSError as error:
        raise damaged(path, made_by, error) from error
    if not data:
        raise damaged(path, made_by, "it is empty")
    return data


def damaged(path: Path, made_by: str, reason: object) -> ArtifactError:
    """The error of a file that is not as its stage left it; one that may not be read is not told to be deleted."""
    if isinstance(reason, PermissionError):
        return ArtifactError(
            f"{reason.filename or path} may not be read: give yourself the right to, as by `chmod u+r`."
        )
    return ArtifactError(f"{path} is damaged ({reason}): delete it and run `dvc repro {made_by}`.")


def sha256(path: Path) -> str:
    """Fingerprint of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with 6 significant digits, no row numbers, "\\n" line ends."""
    write(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())


def read_table(path: Path, made_by: str, text: Sequence[str] = ("image",), others: Sequence[str] = ()) -> pd.DataFrame:
    """CSV of `write_table`; the columns named in `text` stay strings whatever they look like ("NA" is a name).

    Args:
        others: further columns that the reader relies on.

    Raises:
        ArtifactError: it is missing or damaged, or lacks one of the columns.
    """
    try:
        data = contents(path, made_by).decode()
        _check_lines(data)
        table = pd.read_csv(io.StringIO(data), dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])
        if absent := [name for name in (*text, *others) if name not in table.columns]:
            raise ValueError(f"it lacks the columns {', '.join(absent)}")
    except (ValueError, csv.Error) as error:  # pandas' and those of texts are among them
        raise damaged(path, made_by, error) from error
    return table


def _check_lines(data: str) -> None:
    """Refuse a table that was cut off, which pandas would fill up.

    Raises:
        ValueError: the last line is not whole, or a line has more or fewer cells than the header.
    """
    lines = csv.reader(io.StringIO(data, newline=""), strict=True)
    header = next(lines)
    for cells in lines:
        if len(cells) != len(header):
            raise ValueError(f"line {lines.line_num} has {len(cells)} cells where the header has {len(header)}")
    if not data.endswith("\n"):
        raise ValueError("its last line is not whole")


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Sorted JSON, floats rounded to 6 digits. NaN and infinity raise: they would poison `dvc metrics diff`."""

    def plain(node: Any, where: str) -> Any:
        """A tree as JSON's own types; `where` it stands, for the message."""
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

    write(path, (json.dumps(plain(tree, ""), indent=1, sort_keys=True) + "\n").encode())


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
    """JSON tree of `write_json`.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        return json.loads(contents(path, made_by))
    except (ValueError, RecursionError) as error:
        raise damaged(path, made_by, error) from error


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Flat HDF5 of named arrays (keys may hold "/"), for artifacts with a variable set of arrays.

    It is built in memory: on a full disk the library leaves a file that opens and holds zeros.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in arrays.items():
            if value.dtype.kind in "UO":
                file.create_dataset(name, data=value.astype(object), dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=value)
        file.attrs[CHECKSUM] = _checksum(arrays)
    write(path, buffer.getvalue())


def read_arrays(path: Path, made_by: str) -> dict[str, Any]:
    """Arrays of `write_arrays` by name.

    Raises:
        ArtifactError: it is missing or damaged, or of a version whose files had no checksum.
    """
    arrays: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        """Keep a dataset, as HDF5 goes through the file."""
        if isinstance(node, h5py.Dataset):
            text = h5py.check_string_dtype(node.dtype) is not None
            arrays[name] = np.array(node.asstr()[:], dtype=object) if text else node[...]

    data = contents(path, made_by)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(visit)
            kept = file.attrs.get(CHECKSUM)
    except Exception as error:  # of a file with flipped bytes the library says what it likes
        raise ArtifactError(f"{path} is no readable HDF5 file: delete it and run `dvc repro {made_by}`.") from error
    if kept is None:
        raise damaged(path, made_by, "it has no checksum, or is of an earlier version of uld")
    if kept != _checksum(arrays):
        raise damaged(path, made_by, "its checksum is another one")
    return arrays


def record(kind: type[T], arrays: dict[str, Any], path: Path, made_by: str) -> T:
    """The dataclass that has these arrays as its fields.

    Raises:
        ArtifactError: some are missing, or are none of its fields.
    """
    try:
        return kind(**arrays)
    except TypeError as error:
        raise damaged(path, made_by, f"its arrays are not those of {kind.__name__}: {', '.join(arrays)}") from error


def checksum(data: bytes) -> str:
    """CRC-32C of a file's bytes, in hexadecimal."""
    return f"{google_crc32c.value(data):08x}"


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    """CRC-32C over names, types, shapes and values."""
    crc = 0
    for name in sorted(arrays):
        value = arrays[name]
        text = value.dtype.kind in "UO"
        values = "\0".join(map(str, value.ravel())).encode() if text else np.ascontiguousarray(value).tobytes()
        about = f"{name} {'text' if text else value.dtype.str} {value.shape} "
        crc = google_crc32c.extend(google_crc32c.extend(crc, about.encode()), values)
    return f"{crc:08x}"


def given(table: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a dataclass by field, without those that are None."""
    return {name: value for name, value in vars(table).items() if value is not None}
