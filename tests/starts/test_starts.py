"""One small run of each start: it makes its model on the training images alone, the same each time, and learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.diffusion import texture
from tests.diffusion.texture import SIZE, Texture
from tests.models.test_aggregator import loop, save_checkpoint
from tests.sources.test_pixel_views import DARK, MOVING
from tests.training.adam import ADAM
from uld import models, starts
from uld.base.errors import ParamsError, ULDError
from uld.base.params import build
from uld.models.base import Model
from uld.models.encoder import Encoder
from uld.models.frozen import Frozen
from uld.models.heads import Heads
from uld.sources.augmentation import PixelViewParams
from uld.sources.pixel_views import PixelViews
from uld.sources.views import TrainingViews
from uld.starts.base import Made, Site, Start

GRID = 8
STEPS = 12
PROJECTION: dict[str, Any] = {
    "layers": [[0, 0], [1, 0]], "dims": 6, "grid": GRID, "centre": "image", "whiten": 1, "images": 4, "points": 30,
}  # fmt: skip
TRAIN: dict[str, Any] = {
    "keypoints": {"by": "silk", "tolerance": 1}, "outliers": 0, "sigma": 1, "steps": STEPS, "pairs": 3, "lr": 3e-3,
    "descriptor_lr": 3e-3, "optimiser": ADAM, "contrast": None, "temperature": 0.1, "flips": "both",
}  # fmt: skip
HEADS: dict[str, Any] = {
    "layers": [[1, 0]], "timesteps": [5], "middle": 4, "width": 8, "groups": 4, "hidden": 8, "descriptor": "linear",
    "aggregate_at": "native", "published": None,
}  # fmt: skip
LINES: dict[str, dict[str, Any]] = {
    "frozen": {"model": "frozen", "reads": "features/trained", **PROJECTION},
    "heads": {
        "model": "heads", "reads": "features/trained", "projection": PROJECTION, "network": HEADS, "views": None,
        "train": TRAIN,
    },
    "encoder": {
        "model": "encoder", "reads": "roi/crops", "train": TRAIN, "views": {"warp": MOVING, "light": DARK},
        "network": {"grid": GRID, "widths": [8, 16], "dims": 6, "hidden": 8, "groups": 4},
    },
    "hourglass": {
        "model": "hourglass", "reads": "roi/crops", "train": TRAIN, "views": {"warp": MOVING, "light": DARK},
        "network": {"grid": GRID, "width": 32, "depth": 2, "dims": 6, "groups": 4},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


def start(name: str, **changes: Any) -> Start:
    kind = starts.load(name)
    return kind(build(kind.Params, LINES[name] | changes, f"starts.{name}"))


def views_of(tex: Texture, chosen: Start) -> TrainingViews:
    if chosen.views is None:
        return tex.views(chosen.grid)
    drawn = build(PixelViewParams, chosen.views, "views")
    place, none = tex.frames(chosen.grid), np.empty((0, 2, 3))
    return PixelViews(tex.crops.images, tex.crops.inside, place, tex.rows, drawn, none)


def make(tex: Texture, folder: Path, name: str, seed: int = 0, **changes: Any) -> Made:
    chosen = start(name, **changes)
    return chosen.make(Site(views_of(tex, chosen), tex.crops, seed, folder / "state.pt", name))


def same(one: Model, other: Model) -> bool:
    """To the last bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_there_is_one_for_each_model() -> None:
    assert starts.STARTS.keys() == models.MODELS.keys() == LINES.keys()
    with pytest.raises(ParamsError, match="there is no start of model 'learned': choose one of frozen, heads, encoder"):
        starts.load("learned")


@pytest.mark.parametrize("name", LINES)
def test_what_it_says_of_itself(name: str) -> None:
    chosen = start(name)
    assert (chosen.params.reads, chosen.grid) == (LINES[name]["reads"], GRID)
    assert (chosen.views is None) == (not models.kind(name).reads_pixels)
    if chosen.views is not None:  # a JSON tree that builds the same views again
        assert chosen.views == LINES[name]["views"]
    with pytest.raises(ParamsError, match=f"starts.{name}.head"):
        start(name, head="frozen")


@pytest.mark.parametrize("name", LINES)
def test_a_small_run(tex: Texture, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[int] = set()
    for kind, function in ((type(tex.store), "views_of"), (type(tex.crops), "images")):
        plain = getattr(kind, function)

        def spy(own: Any, rows: Any, *rest: Any, plain: Any = plain) -> Any:
            read.update(np.asarray(rows).tolist())
            return plain(own, rows, *rest)

        monkeypatch.setattr(kind, function, spy)
    made = make(tex, tmp_path, name)
    assert read <= set(tex.rows.tolist()) and read
    monkeypatch.undo()
    model = made.model
    assert models.name_of(model) == name and model.grid == GRID and not model.training
    assert same(model, make(tex, tmp_path, name).model) and not same(model, make(tex, tmp_path, name, seed=1).model)
    views = views_of(tex, start(name))
    maps = model(views.inputs(np.array([0, 7]), views.plain, model.maps_read()))
    assert maps.looks.shape == (2, 6, GRID, GRID) and maps.looks.isfinite().all()
    torch.testing.assert_close(maps.looks.norm(dim=1).cpu(), torch.ones(2, GRID, GRID))
    assert (made.history is None) == (name == "frozen") and (maps.logits is None) == (name == "frozen")
    assert not list(tmp_path.iterdir())  # no state is left


@pytest.mark.parametrize("name", ["heads", "encoder", "hourglass"])
def test_it_learns(tex: Texture, tmp_path: Path, name: str) -> None:
    history = make(tex, tmp_path, name, train=TRAIN | {"steps": 40}).history
    assert history is not None and history["step"].tolist() == list(range(40))
    assert {"loss", "nll", "detector", "round_trips"} <= set(history.columns)
    assert history["loss"][-8:].mean() < 0.97 * history["loss"][:8].mean()


def test_heads_begin_as_the_frozen_start_describes(tex: Texture, tmp_path: Path) -> None:
    """Where both are fitted to all images; only then do they draw the same ones."""
    whole = PROJECTION | {"images": 6}
    frozen = make(tex, tmp_path, "frozen", images=6).model
    heads = make(tex, tmp_path, "heads", projection=whole, train=TRAIN | {"steps": 0}).model
    assert isinstance(frozen, Frozen) and isinstance(heads, Heads) and same(heads.base, frozen)
    maps = tex.store.read(tex.rows)
    torch.testing.assert_close(heads.describe(maps), frozen.describe(maps), atol=1e-6, rtol=0)
    spread = (maps["l10_t5"] - maps["l10_t5"].mean((2, 3), keepdim=True)).std((0, 2, 3))
    torch.testing.assert_close(heads.get_buffer("scale0").flatten().cpu(), spread)  # of the training images


@pytest.mark.parametrize(("descriptor", "dims"), [("head", 6), ("aggregated", 8)])
def test_heads_as_in_the_paper_begin_without_the_frozen_start(
    tex: Texture, tmp_path: Path, descriptor: str, dims: int
) -> None:
    made = make(tex, tmp_path, "heads", network=HEADS | {"descriptor": descriptor})
    assert isinstance(made.model, Heads) and made.model.base is None and made.model.dims == dims
    assert made.model.maps_read() == ["l10_t5"] and made.history is not None
    assert made.history["nll"].iloc[-4:].mean() < made.history["nll"].iloc[:4].mean()
    again = Heads.of(made.model.about())
    again.load_state_dict(made.model.state_dict())
    maps = tex.store.read(tex.rows)
    assert torch.equal(again.eval().describe(maps), made.model.describe(maps))


def test_a_published_aggregator_reads_features_as_its_authors_feed_them(tmp_path: Path) -> None:
    """F_ag of a start equals a plain forward pass, on channels of log-normal spread and of a mean that is not 0."""
    tex = texture.make(tmp_path, spread=True)
    maps = tex.store.read(tex.rows)
    assert maps["l00_t5"].std((0, 2, 3)).clamp_min(1e-3).log().std() > 0.5
    path = save_checkpoint(tmp_path / "published.pt", (8, 6), 2)
    network = HEADS | {"layers": [[0, 0], [1, 0]], "descriptor": "aggregated", "hidden": 32, "published": str(path)}
    model = make(tex, tmp_path, "heads", network=network, train=TRAIN | {"steps": 0}).model
    names, state = ["l00_t5", "l10_t5"], torch.load(path, weights_only=True)["aggregation_network"]
    want = F.normalize(loop(state, maps, names, "grid", groups=32, side=GRID), dim=1)
    assert model.dims == want.shape[1] == 384
    torch.testing.assert_close(model.describe(maps), want, atol=1e-5, rtol=0)


def test_the_encoder_takes_the_size_of_the_crops(tex: Texture, tmp_path: Path) -> None:
    model = make(tex, tmp_path, "encoder", train=TRAIN | {"steps": 0}).model
    assert isinstance(model, Encoder) and model.size == SIZE
    network = LINES["encoder"]["network"] | {"grid": 10}
    with pytest.raises(ParamsError, match=r"network.grid 10 must be the crop's side 32 over a power of two"):
        make(tex, tmp_path, "encoder", network=network)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"timesteps": [5, 9]}, r"features l10_t9 are not stored: see readout.layers and readout.timesteps"),
        ({"layers": [[2, 1]]}, r"features l21_t5 are not stored"),
        ({"middle": 6, "hidden": 9}, r"network.middle 6, hidden 9 cannot be split into 4 groups: take multiples"),
    ],
)
def test_networks_that_do_not_fit_the_store(
    tex: Texture, tmp_path: Path, network: dict[str, Any], message: str
) -> None:
    with pytest.raises(ULDError, match=message):
        make(tex, tmp_path, "heads", network=HEADS | network)
