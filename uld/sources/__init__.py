"""Models over views of images: what methods cluster and search. What a model reads names its views here."""

import importlib
from types import ModuleType

from uld.base.errors import ArtifactError

# the folder below artifacts/ -> the module that shows it to models, by its class of views
VIEWS = {
    "features": "uld.sources.stored_views:StoredViews",
    "roi": "uld.sources.pixel_views:PixelViews",
}


def of(reads: str) -> ModuleType:
    """The module that shows what a model `reads` (features/<store> or roi/crops); imported only when asked for.

    It has `open_views`, for data sets, and `pack`, `outside` and `reader`, for photographs.

    Raises:
        ArtifactError: nothing is read from there.
    """
    folder = reads.split("/")[0]
    if folder not in VIEWS:
        raise ArtifactError(f"reads: '{reads}' is neither features/<line of stores> nor roi/crops.")
    return importlib.import_module(VIEWS[folder].split(":")[0])
