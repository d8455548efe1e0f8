"""Models over views of images: what methods cluster and search. What a model reads names its views here."""

import importlib
from types import ModuleType

from uld.base.errors import ArtifactError

FEATURES, CROPS = "features", "roi"  # the folders below artifacts/ that models read

# such a folder -> the module that shows it to models, by its class of views; and for training on features of new views
VIEWS = {
    "features": "uld.sources.stored_views:StoredViews",
    "roi": "uld.sources.pixel_views:PixelViews",
    "drawn": "uld.sources.drawn_views:DrawnViews",
}


def of(reads: str, drawn: bool = False) -> ModuleType:
    """The module that shows what a model `reads` (features/<store> or roi/crops); imported only when asked for.

    It has `open_views`, for data sets, and `pack`, `outside` and `reader`, for photographs.

    Args:
        drawn: for training whose views are drawn anew; then it has `open_views` alone.

    Raises:
        ArtifactError: nothing is read from there.
    """
    folder = reads.split("/")[0]
    if folder not in (FEATURES, CROPS):
        raise ArtifactError(f"reads: '{reads}' is neither features/<line of stores> nor roi/crops.")
    return importlib.import_module(VIEWS["drawn" if drawn and folder == FEATURES else folder].split(":")[0])
