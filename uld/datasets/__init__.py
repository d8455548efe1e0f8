"""Data sets by name. One file a data set; a new one is one file and one line of `TABLE`."""

from importlib import import_module
from pathlib import Path

from uld.base.errors import ParamsError
from uld.datasets.base import Dataset

TABLE = {
    "orl": "uld.datasets.orl:Orl",
    "faces3d": "uld.datasets.faces3d:Faces3d",
    "folder": "uld.datasets.folder:Folder",
}

__all__ = ["TABLE", "Dataset", "kind", "root", "source"]

LONGEST = 4096  # characters of a path


def kind(name: str) -> type[Dataset]:
    """The class of the data set `name`; its `Params` is the block `datasets.<name>`."""
    if name not in TABLE:
        raise ParamsError(f"params.yaml: dataset: '{name}' is no data set; there are {', '.join(TABLE)}.")
    module, cls = TABLE[name].split(":")
    found: type[Dataset] = getattr(import_module(module), cls)
    return found


def source(text: str) -> Path:
    """The folder that `source` in params.yaml names.

    Raises:
        ParamsError: it names none.
    """
    if not text.strip() or "\0" in text or len(text) > LONGEST:
        raise ParamsError(f"params.yaml: source: {text[:60]!r} names no folder: let it be the folder of your images.")
    return Path(text)


def root(name: str, source: Path) -> Path:
    """The folder below which the images of data set `name` lie: `root(...) / image` is the file of an id."""
    return kind(name).root_of(source)
