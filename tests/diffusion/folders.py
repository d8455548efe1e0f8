"""What tests do to a model folder: edit its files, and see what is said when it is loaded."""

import json
from pathlib import Path

import pytest

from uld.base.errors import BackboneError
from uld.diffusion import backbone


def refused(folder: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        backbone.load(folder)
    return str(caught.value)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
