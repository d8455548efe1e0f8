"""Every model of the table comes back from its folder and says the same; other folders are refused with the remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from uld import models
from uld.artifacts.files import checksum
from uld.artifacts.models import ABOUT, WEIGHTS, Origin, load_model, read_origin, save_model
from uld.base.errors import ArtifactError, ParamsError
from uld.models.aggregator import Aggregator
from uld.models.base import Maps, Model
from uld.models.encoder import Encoder
from uld.models.frozen import Frozen
from uld.models.heads import Heads
from uld.models.hourglass import Hourglass
from uld.models.pose import PoseVAE

GRID = 8
STORED = Origin("features/trained", "of this digest", None, 0)
DRAWN = Origin("roi/crops", "of these crops", {"warp": {"rotate": 10.0}, "light": {"hue": 0.1}}, 1200)


def frozen() -> Frozen:
    model = Frozen(["l00_t1", "l10_t1"], [5, 3], 6, GRID, "image")
    model.projection.normal_()
    model.offset.normal_()
    return model


def heads() -> Heads:
    aggregate = Aggregator(["l10_t1", "l20_t1"], [3, 2], 4, 8, 4, GRID)
    return Heads(frozen(), aggregate, 12, "convolution", 3, PoseVAE(GRID, 3, (4, 8), 2, "points"), frozen_trunk=True)


def encoder() -> Encoder:
    return Encoder(16, GRID, [8, 8], 5, 8, 4, 2, PoseVAE(GRID, 3, (4, 8), 2, "none", decodes=False))


def hourglass() -> Hourglass:
    return Hourglass(16, GRID, 16, 2, 5, 2, 2, PoseVAE(GRID, 3, (4, 8), 2, "points"))


KINDS: dict[str, tuple[Callable[[], Model], Origin]] = {
    "frozen": (frozen, STORED),
    "heads": (heads, STORED),
    "encoder": (encoder, DRAWN),
    "hourglass": (hourglass, DRAWN),
}


def make(name: str) -> Model:
    """With weights that no constructor gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = KINDS[name][0]()
        with torch.no_grad():
            for value in model.state_dict().values():
                value += 0.1 * torch.randn(value.shape)
    return model.eval()


def said(model: Model) -> Maps:
    rng = torch.Generator().manual_seed(1)
    if model.reads_pixels:
        return model(torch.rand(2, 3, 16, 16, generator=rng))
    shapes = {"l00_t1": (5, 4, 4), "l10_t1": (3, 8, 8), "l20_t1": (2, 16, 16)}
    return model({name: torch.randn(2, *shape, generator=rng) for name, shape in shapes.items()})


def same(one: Maps, other: Maps) -> None:
    for part in ("descriptors", "logits", "code"):
        found, want = getattr(one, part), getattr(other, part)
        assert (found is None) == (want is None), part
        assert want is None or torch.equal(found, want), part


def test_there_is_one_of_each() -> None:
    assert KINDS.keys() == models.MODELS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_a_model_comes_back(tmp_path: Path, name: str) -> None:
    model, origin, folder = make(name), KINDS[name][1], tmp_path / "a/b"
    save_model(model, folder, origin)
    loaded = load_model(folder)
    assert type(loaded) is type(model) and not loaded.training and loaded.about() == model.about()
    assert read_origin(folder) == origin
    same(said(loaded), said(model))
    save_model(loaded, tmp_path / "c", origin)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {ABOUT, WEIGHTS}
    for file in (ABOUT, WEIGHTS):
        assert (tmp_path / "c" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("drop", [False, True])
def test_a_pose_part_comes_back(tmp_path: Path, drop: bool) -> None:
    model = make("heads")
    assert isinstance(model, Heads) and model.pose is not None
    model = model.with_pose(model.pose.without_decoder()) if drop else model
    save_model(model, tmp_path, STORED)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Heads) and loaded.pose is not None and loaded.pose.decodes == (not drop)
    same(said(loaded), said(model))


@pytest.mark.parametrize("name", KINDS)
def test_a_model_in_training_comes_back_at_rest(tmp_path: Path, name: str) -> None:
    save_model(make(name).train(), tmp_path, KINDS[name][1])
    same(said(load_model(tmp_path)), said(make(name)))


def test_other_weights_are_another_file(tmp_path: Path) -> None:
    model = make("encoder")
    save_model(model, tmp_path / "a", DRAWN)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    save_model(model, tmp_path / "b", DRAWN)
    assert (tmp_path / "a" / WEIGHTS).read_bytes() != (tmp_path / "b" / WEIGHTS).read_bytes()
    one, other = (json.loads((tmp_path / name / ABOUT).read_text()) for name in "ab")
    assert one.pop("weights") != other.pop("weights") and one == other


# --- folders that hold no such model ---


def test_no_model(tmp_path: Path) -> None:
    for read in (load_model, read_origin):
        with pytest.raises(ArtifactError, match=r"none/model.json is missing: run `dvc repro bootstrap train` first"):
            read(tmp_path / "none")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "said"), [(Path.unlink, "missing"), (cut, "checksum"), (empty, "empty"), (flipped, "checksum")]
)
def test_weights_that_are_not_those_that_were_saved(tmp_path: Path, harm: Callable[[Path], None], said: str) -> None:
    save_model(make("frozen"), tmp_path, STORED)
    harm(tmp_path / WEIGHTS)
    with pytest.raises(ArtifactError, match=f"model.safetensors is .*?{said}.*run `dvc repro bootstrap train`"):
        load_model(tmp_path)


def test_weights_of_another_model(tmp_path: Path) -> None:
    save_model(make("encoder"), tmp_path / "encoder", DRAWN)
    save_model(make("frozen"), tmp_path / "frozen", STORED)
    (tmp_path / "encoder" / WEIGHTS).replace(tmp_path / "frozen" / WEIGHTS)
    about = {one: json.loads((tmp_path / one / ABOUT).read_text()) for one in ("encoder", "frozen")}
    about["frozen"]["weights"] = about["encoder"]["weights"]
    (tmp_path / "frozen" / ABOUT).write_text(json.dumps(about["frozen"]))
    with pytest.raises(ArtifactError, match=r"(?s)frozen/model.json is damaged \(it describes another.*Missing key"):
        load_model(tmp_path / "frozen")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": "frozen"}'])
def test_a_description_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    save_model(make("frozen"), tmp_path, STORED)
    (tmp_path / ABOUT).write_text(text)
    for read in (load_model, read_origin):
        with pytest.raises(ArtifactError, match=r"(?s)model.json is damaged \(.*run `dvc repro bootstrap train`"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("heads", "aggregator.width", "8", "args.aggregator.width: "),
        ("heads", "pose.colour", 1, "args.pose.colour: unknown key"),
        ("heads", "base.centre", "left", "args.base.centre: "),
        ("heads", "hidden", 10**6, "args.hidden: 1000000 is beyond any model"),
        ("encoder", "groups", 0, "integer modulo by zero"),
        ("encoder", "widths", [8, 9], "must be multiples of network.groups"),
        ("encoder", "size", 16.5, "args.size: "),
    ],
)
def test_an_argument_that_is_wrong_is_named(tmp_path: Path, name: str, key: str, value: object, said: str) -> None:
    save_model(make(name), tmp_path, KINDS[name][1])
    about = json.loads((tmp_path / ABOUT).read_text())
    node = about["args"]
    *above, last = key.split(".")
    for part in above:
        node = node[part]
    node[last] = value
    (tmp_path / ABOUT).write_text(json.dumps(about))
    with pytest.raises(ArtifactError, match=f"(?s){said}.*run `dvc repro bootstrap train`"):
        load_model(tmp_path)


def test_weights_that_may_not_be_read_are_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Path.read_bytes

    def closed(path: Path) -> bytes:
        if path.name == WEIGHTS:
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    save_model(make("frozen"), tmp_path, STORED)
    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(ArtifactError, match=r"model.safetensors may not be read: give yourself the right to"):
        load_model(tmp_path)


def pickled(path: Path) -> None:
    torch.save({"weights": torch.ones(3)}, path)


def oversized(path: Path) -> None:
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize("harm", [pickled, oversized])
def test_weights_of_another_format(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    save_model(make("frozen"), tmp_path, STORED)
    harm(tmp_path / WEIGHTS)
    about = json.loads((tmp_path / ABOUT).read_text())
    about["weights"] = checksum((tmp_path / WEIGHTS).read_bytes())
    (tmp_path / ABOUT).write_text(json.dumps(about))
    with pytest.raises(ArtifactError, match=r"describes another model than model.safetensors holds.*run `dvc repro"):
        load_model(tmp_path)


def test_a_model_that_this_version_does_not_have(tmp_path: Path) -> None:
    save_model(make("frozen"), tmp_path, STORED)
    about = json.loads((tmp_path / ABOUT).read_text())
    (tmp_path / ABOUT).write_text(json.dumps(about | {"model": "learned"}))
    with pytest.raises(ParamsError, match="there is no model 'learned': choose one of"):
        load_model(tmp_path)


def test_a_tensor_on_its_own_strides(tmp_path: Path) -> None:
    """Weights that are views of others are written whole."""
    model = make("frozen")
    assert isinstance(model, Frozen)
    model.projection = model.projection.T.contiguous().T
    save_model(model, tmp_path, STORED)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Frozen)
    found: Tensor = loaded.projection
    assert torch.equal(found, model.projection)
