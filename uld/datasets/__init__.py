"""Data sets by name. One file a data set; a new one is one file and one line of `TABLE`."""

from importlib import import_module
from pathlib import Path

from uld.base.errors import ParamsError
from uld.base.shown import short
from uld.datasets.base import Dataset

TABLE = {
    "orl": "uld.datasets.orl:Orl",
    "faces3d": "uld.datasets.faces3d:Faces3d",
    "folder": "uld.datasets.folder:Folder",
}

LONGEST = 4096  # characters of a path

__all__ = ["TABLE", "Dataset", "kind", "root", "source_folder"]


def kind(name: str) -> type[Dataset]:
    """The class of the data set `name`; its `Params` is the block `datasets.<name>`."""
    if name not in TABLE:
        raise ParamsError(f"params.yaml: dataset: '{name}' is no data set; there are {', '.join(TABLE)}.")
    module, cls = TABLE[name].split(":")
    found: type[Dataset] = getattr(import_module(module), cls)
    return found


def source_folder(source: str) -> Path:
    """The folder that `source` of params.yaml names.

    Raises:
        ParamsError: it can be the name of none.
    """
    if not source.strip() or len(source) > LONGEST or "\0" in source:
        raise ParamsError(f"params.yaml: source: must name the folder of your images, not {short(repr(source))}.")
    return Path(source)


def root(name: str, source: Path) -> Path:
    """The folder below which the images of data set `name` lie: `root(...) / image` is the file of an id."""
    return kind(name).root_of(source)
