"""The method of docs/new-method.md: one new file, one line in the table, and it discovers and finds."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.diffusion import texture
from tests.diffusion.texture import Texture
from tests.methods.conftest import PARTS, PLAIN, Planted, task
from tests.methods.test_table import FILES, RUN, SECTIONS, _lines, runs
from uld.artifacts.landmarks import read_landmarks, write_landmarks
from uld.base.errors import ParamsError
from uld.base.params import build
from uld.landmarks.predict import predict
from uld.landmarks.scores import of_landmarks
from uld.methods import METHODS, load
from uld.methods.base import Method
from uld.models.frozen import ProjectionParams
from uld.sources.source import Source
from uld.sources.stored_views import StoredViews
from uld.starts import frozen

PAGE = Path(__file__).parents[2] / "docs/new-method.md"
GRID, COUNT = 8, 3
BLOCK = {"points": 40, "max_points": 10_000}


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Method]:
    """The page's file in a folder of its own, and its line in the table."""
    file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    name, place = re.fullmatch(r'    "(\w+)": "uld\.methods\.(\w+:\w+)",\n', line).groups()  # type: ignore[union-attr]
    assert f"uld/methods/{place.split(':')[0]}.py" in PAGE.read_text()
    (tmp_path / f"{place.split(':')[0]}.py").write_text(file)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(METHODS, name, place)
    return load(name)


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


def make(kind: type[Method], **changes: Any) -> Method:
    return kind(build(kind.Cluster, BLOCK | changes, "methods.far_points.cluster"))


def test_it_discovers_and_finds_on_a_feature_store(kind: type[Method], tex: Texture, tmp_path: Path) -> None:
    """As the stages discover and predict call it."""
    views = StoredViews(tex.store, tex.frames(GRID), tex.rows)
    projection = ProjectionParams(((0, 0),), 6, GRID, "image", 1.0, 8, 60)
    source, method = Source(frozen.fit(projection, views, tex.rows, 0), views), make(kind)
    given = task(source, tex.rows, COUNT)
    discovery = method.discover(given)
    write_landmarks(tmp_path / "landmarks.h5", discovery.landmarks)
    landmarks = read_landmarks(tmp_path / "landmarks.h5")
    assert landmarks.centroids.shape == (COUNT, 6) and np.isin(landmarks.exemplar_image, [-1, *tex.rows]).all()
    assert discovery.quality["points"] == 40 * len(tex.rows)
    assert set(of_landmarks(given, lambda rows: method.match(source, landmarks, rows, views.plain)))
    predictions = predict(method, landmarks, source, tex.boxes)
    assert predictions.found.xy.shape == (len(tex.boxes), COUNT, 2) and predictions.warped.xy.shape[1] == 2
    low, high = tex.boxes[["x1", "y1"]].to_numpy()[:, None], tex.boxes[["x2", "y2"]].to_numpy()[:, None]
    assert ((predictions.found.dense_xy > low - 3) & (predictions.found.dense_xy < high + 3)).all()


def test_it_finds_planted_parts(kind: type[Method], planted: Planted) -> None:
    """Parts look unlike each other and the background."""
    method, rows = make(kind), np.arange(40, 60)
    landmarks = method.discover(task(planted, np.arange(40), PARTS + 1)).landmarks
    found = method.find(planted, landmarks, rows, PLAIN)
    gap = np.linalg.norm(found.dense_xy[:, :, None] - planted.centres[rows][:, None], axis=3)
    assert (gap.min(1) < 2.5).all()  # of each part there is a landmark, in every image


def test_its_block_is_closed(kind: type[Method]) -> None:
    with pytest.raises(ParamsError, match=r"methods\.far_points\.cluster.*refine"):
        make(kind, refine=True)
    assert kind.Train is None and kind.__bases__ == (Method,)


def test_the_example_is_like_the_others(tmp_path: Path, kind: type[Method]) -> None:
    """What test_table.py asks of a new file."""
    file = tmp_path / "far_points.py"
    titles = re.findall(r"^    # --- (.*) ---$", file.read_text(), re.M)
    assert titles == [one for one in SECTIONS if one in titles]
    assert not any(runs(_lines(file), _lines(other), RUN) for other in FILES)
    code = [line for line in file.read_text().splitlines() if line and not line.startswith(("from", "import"))]
    assert len(code) < 40 and max(map(len, code)) <= 120


def test_the_page_names_what_there_is() -> None:
    """Each file in the page exists, and each name of the contract."""
    root = PAGE.parents[1]
    for path in re.findall(r"`((?:uld|tests)/[\w/.]+)`", PAGE.read_text()):
        assert (root / path).exists() or path == "uld/methods/far_points.py", path
    assert len(PAGE.read_text().splitlines()) < 140
