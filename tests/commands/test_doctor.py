import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from uld.base import params, runtime
from uld.commands import blocks, doctor, edit, plan, presets
from uld.diffusion import backbone, pinned
from uld.diffusion.extract import StoreParams, ViewParams, arrange
from uld.diffusion.extractor import Extractor, ReadoutParams

ROOT = Path(__file__).parents[2]
FROZEN = {"silk_frozen": {"reads": "features/trained", "start": "silk"}}
MAPS = "features/silk_frozen"
PLAIN = {"mirror": False, "rotate": 0, "scale": 1}
# of three photographs one is of the test split; a store of three views, and one of two
ITEMS = 2 * 3 + 1 * (1 + 4) + 2 * 2 + 1 * (1 + 4)


def put(path: Path, **changes: object) -> None:
    tree = edit.load(path)
    for key, value in changes.items():
        edit.put(tree, key.replace("__", "."), value, path)
    edit.save(path, tree)


def findings(path: Path = Path("params.yaml")) -> dict[str, doctor.Line]:
    return {line.subject: line for line in doctor.examine(path)}


@pytest.fixture
def ready(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of three photographs in which nothing is missing; DVC is not asked."""
    (project / "photos").mkdir()
    for name in "abc":
        (project / f"photos/{name}.png").touch()
    put(
        project / "params.yaml",
        dataset="folder",
        source="photos",
        roi__providers=["full"],
        stores={
            "trained": {"trained": True, "keep": "features", "mirrored": False, "views": [PLAIN] * 3},
            "untrained": {"trained": False, "keep": "features", "mirrored": False, "views": [PLAIN] * 2},
        },
    )
    monkeypatch.setattr(doctor, "_dvc", lambda: "up to date")
    monkeypatch.setattr(doctor, "_stage_python", lambda: "python")
    return project


def test_shipped_params_are_sound() -> None:
    assert blocks.problems(ROOT / "params.yaml") == []


def test_all_is_well(ready, uld) -> None:
    done = uld("doctor")
    assert done.exit_code == 0, done.output
    assert "missing" not in done.output
    assert findings()["data set"].detail.startswith("folder: 3 image files")


@pytest.mark.parametrize(
    ("changes", "subject", "hint"),
    [
        ({"source": "nowhere"}, "data set", "set `source`"),
        ({"roi__providers": ["torchvision"]}, "roi: torchvision", "fasterrcnn.pth is missing"),
        ({"roi__providers": ["transformers"]}, "roi: transformers", "weights/detr"),
        ({"backbone": "sd15"}, "backbone", "weights/stable-diffusion-v1-5"),
        ({"starts__silk__network__published": "weights/dhf.pt"}, "start: silk", "starts.silk.network.published"),
        ({"seed": "zero"}, "params", "seed"),
        ({"backbone": "sd3"}, "params", "'sd3' is no line of backbones"),
        ({"report__row": "nope"}, "params", "'nope' is no line of rows"),
        ({"readout__layers": [[0, 0]]}, "params", "not in readout.layers"),
        ({"rows__zeroshot__start": "duld-9"}, "params", "'duld-9' is no line of starts, aggregated or rounds"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(ready, uld, changes: dict, subject: str, hint: str) -> None:
    put(ready / "params.yaml", **changes)
    line = findings()[subject]
    assert line.there is False
    assert hint in line.detail
    done = uld("doctor")
    assert done.exit_code == 1
    assert "missing" in done.output


def test_a_project_without_a_backbone(ready, uld) -> None:
    """All its models read images, so it has no features."""
    tree = params.load(ROOT / "studies/ablation/params.yaml") | {"code": "."}
    for table in ("starts", "rounds", "rows"):
        tree[table] = {name: line for name, line in tree[table].items() if name.startswith("pixels")}
    tree |= {"dataset": "folder", "source": "photos", "backbone": "none", "report": tree["report"] | {"row": "pixels"}}
    path = ready / "params.yaml"
    path.write_text(json.dumps(tree))
    assert any("no features: set `stores` to {}" in said for said in blocks.problems(path))
    path.write_text(json.dumps(tree | {"stores": {}}))
    assert blocks.problems(path) == []
    found = findings()
    assert found["backbone"].detail == "none: no model reads features" and found["disk"].there
    done = uld("doctor", "--plan")
    assert done.exit_code and "there are no features to plan for" in done.output


def test_a_block_that_overrides_do_not_reach(ready) -> None:
    assert "alias" not in findings()
    path = ready / "params.yaml"
    tree = edit.load(path)
    tree["starts"]["mine"] = tree["starts"]["frozen"]  # is written as an alias
    edit.save(path, tree)
    assert "&" in path.read_text() and "starts.mine is starts.frozen by an alias" in findings()["alias"].detail


def test_weights_that_methods_read(ready, uld) -> None:
    assert uld("preset", "mallis-ch4", "--write").exit_code == 0
    put(ready / "params.yaml", dataset="folder", source="photos")
    line = findings()["method: mallis_ch4"]
    assert not line.there and "mend methods.mallis_ch4.cluster.points.keypoints.weights" in line.detail
    block = {"by": "file", "path": "points.csv", "sha256": ""}
    put(ready / "params.yaml", methods__mallis_ch4__cluster__points__keypoints=block)
    line = findings()["method: mallis_ch4"]
    assert not line.there and "points.csv is missing" in line.detail


def test_points_of_a_file(ready, uld) -> None:
    block = {"by": "file", "path": "points.csv", "sha256": ""}
    put(ready / "params.yaml", starts__silk__train__keypoints=block)
    line = findings()["start: silk"]
    assert not line.there and "points.csv is missing: put the file of points there" in line.detail
    Path("points.csv").write_text("image,x,y\na.png,1,2\na.png,3,4\nb.png,5,60\n")
    said = findings()["start: silk"].detail
    found = hashlib.sha256(Path("points.csv").read_bytes()).hexdigest()
    assert f"points.csv has the SHA-256 {found}, and params.yaml says ''" in said
    put(ready / "params.yaml", starts__silk__train__keypoints=block | {"sha256": found})
    line = findings()["start: silk"]
    assert line.there and line.detail == "points.csv: its images are looked up once the stage data has run"
    Path("artifacts/data").mkdir(parents=True)
    index = "image,split,group,width,height,sha256,status,reason\na.png,train,,50,50,,ok,\nb.png,train,,50,50,,ok,\n"
    Path("artifacts/data/index.csv").write_text(index)
    line = findings()["start: silk"]
    assert not line.there and "points.csv, line 4: (5, 60) lies outside the 50 x 50 pixels of 'b.png'" in line.detail
    Path("artifacts/data/index.csv").write_text(index.replace("50,50", "50,70"))
    assert findings()["start: silk"].detail == "points.csv: 3 points in 2 images"


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ({"train": 1, "test": None, "choose": "first"}, (1, 1)),
        ({"train": None, "test": 1, "choose": "random"}, (2, 1)),
        ({"train": 9, "test": 9, "choose": "first"}, (2, 1)),
    ],
)
def test_what_a_subset_leaves_out_does_not_count(ready, subset: dict, expected: tuple[int, int]) -> None:
    put(ready / "params.yaml", datasets__folder__subset=subset)
    assert doctor.split_of(params.load(Path("params.yaml"))) == expected
    assert findings()["data set"].detail.startswith(f"folder: {sum(expected)} image files")


def test_a_normaliser_of_no_points_is_found_before_any_run(ready) -> None:
    put(ready / "params.yaml", datasets__folder__normaliser={"points": {"left": ["eye"], "right": [0]}})
    assert "has no mark-up 'points'; there is none" in findings()["data set"].detail
    Path("photos/landmarks.csv").write_text("image,x_ear,y_ear\na.png,1,2\n")
    assert "left: 'eye' is no point of landmarks.csv: it has ear." in findings()["data set"].detail


def chained(a: str = "silk", b: str = "a", reads: str = "features/trained", **more: str) -> dict[str, dict[str, str]]:
    """Rounds a, b and more by where they start."""
    starts = {"a": a, "b": b, **more}
    return {name: {"reads": reads, "start": start, "method": "duld"} for name, start in starts.items()}


def row(start: str, reads: str = "features/trained") -> dict[str, object]:
    return {"reads": reads, "start": start, "method": "duld", "landmarks": 10}


def pixels() -> dict[str, object]:
    """A start that reads images."""
    found: dict[str, object] = params.load(ROOT / "studies/ablation/params.yaml")["starts"]["pixels"]
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rounds": chained(b="c")},
            r"rounds\.b\.start: 'c' is no line of starts, aggregated or rounds, which has frozen, silk, a, b",
        ),
        ({"rounds": chained(b="b")}, r"rounds\.b\.start: a round cannot start from itself"),
        ({"rounds": chained(a="b")}, r"rounds\.a\.start: 'b' is a later round: name .* an earlier round"),
        ({"rows__duld__start": "d"}, r"rows\.duld\.start: 'd' is no line of starts, aggregated or rounds"),
        ({"rows__duld__method": "d"}, r"rows\.duld\.method: 'd' is no line of methods, which has mean_shape, "),
        ({"rounds__b__method": "zeroshot"}, r"rounds\.b\.method: 'zeroshot' trains nothing: choose a method that has"),
        (
            {"rows__duld__reads": "features/untrained"},
            r"rows\.duld\.reads: 'features/untrained' is not what the model of 'b' reads: let it be features/trained",
        ),
        ({"rounds__a__reads": "roi/crops"}, r"rounds\.a\.reads: 'roi/crops' is not what the model of 'silk' reads"),
        (
            {"starts__silk__reads": "roi/crops"},
            r"starts\.silk\.reads: a model 'heads' cannot read 'roi/crops': it reads features/trained",
        ),
        (
            {"aggregated": {"silk_frozen": {"reads": "features/untrained", "start": "silk"}}},
            r"aggregated\.silk_frozen\.reads: .* the model of 'silk' reads: let it be features/trained",
        ),
        (
            {"aggregated": {"x": {"reads": "features/trained", "start": "frozen"}}},
            r"aggregated\.x\.start: 'frozen' has no aggregator: name a start of model heads",
        ),
        (
            {"aggregated": {"x": {"reads": "features/trained", "start": "nope"}}},
            r"aggregated\.x\.start: 'nope' is no line of starts, which has frozen, silk",
        ),
        (
            {"aggregated": {"trained": {"reads": "features/trained", "start": "silk"}}},
            r"aggregated\.trained: stores has a line of this name, and both are kept in artifacts/features",
        ),
        (
            {"aggregated": {"silk": {"reads": "features/trained", "start": "silk"}}},
            r"aggregated\.silk: starts has a line of this name, and both are kept in artifacts/rounds",
        ),
        (
            {"aggregated": {"a": {"reads": "features/trained", "start": "silk"}}, "rounds": chained()},
            r"rounds\.a: aggregated has a line of this name, and both are kept in artifacts/rounds",
        ),
        (
            {"aggregated": FROZEN, "rounds": chained("silk_frozen", reads=MAPS)},
            r"rows\.duld\.reads: 'features/trained' is not what .* 'b' reads: let it be features/silk_frozen",
        ),
        (
            {"aggregated": FROZEN, "rows__duld": row("frozen", MAPS)},
            r"rows\.duld\.reads: 'features/silk_frozen' is not what the model of 'frozen' reads",
        ),
        (
            {"starts__silk__projection__layers": [[0, 0], [3, 1]]},
            r"starts\.silk\.projection\.layers: \[\[3, 1\]\] are not in readout\.layers",
        ),
        (
            {"starts__silk__network__layers": [[0, 0], [3, 1]]},
            r"starts\.silk\.network\.layers: \[\[3, 1\]\] are not in readout\.layers",
        ),
        (
            {"starts__silk__network__timesteps": [74, 75]},
            r"starts\.silk\.network\.timesteps: \[75\] are not in readout\.timesteps",
        ),
        (
            {"starts__silk__train__keypoints": {"by": "superpont"}},
            r"keypoints\.by: must be one of silk, superpoint, classical, learned, file, not 'superpont'",
        ),
        (
            {"starts__silk__train__keypoints": {"by": "silk", "tolerance": 1, "points": 3}},
            r"^params\.yaml: starts\.silk\.train\.keypoints\.points: unknown key",
        ),
        (
            {"starts__silk__model": "learned"},
            r"starts\.silk: there is no start of model 'learned': choose one of frozen",
        ),
        ({"starts__silk": 3}, r"starts\.silk: must be a mapping of keys to values, not 3"),
        (
            {"methods__duld": {"cluster": None}},
            r"methods\.duld\.cluster: .*not None(.|\n)*methods\.duld\.train. is missing",
        ),
        ({"methods__zeroshot": {"cluster": 1, "trian": 2}}, r"methods\.zeroshot\.trian: unknown key"),
        (
            {"methods__duld_pp__train__loss": "triplet"},
            r"duld_pp\.train\.loss: must be one of contrast, elbo, not 'triplet'",
        ),
        ({"rounds": [1]}, r"rounds: must be a table of lines"),
    ],
)
def test_what_is_wrong_in_the_tables_is_told(project: Path, changes: dict[str, object], message: str) -> None:
    path = project / "params.yaml"
    put(path, rounds=chained(), rows={"duld": row("b")}, report__row="duld")
    assert blocks.problems(path) == []
    put(path, **changes)
    told = "\n".join(blocks.problems(path))
    assert re.search(message, told), told
    assert "method" in message or told.count("\n") == 0


def test_a_method_that_is_not_there(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("\n  zeroshot:\n", "\n  zeroshoot:\n"))
    (told,) = blocks.problems(path)
    assert f"{path}: methods.zeroshoot: there is no method 'zeroshoot': choose one of zeroshot, " in told


def test_rounds_and_rows_of_a_frozen_trunk(project: Path) -> None:
    path = project / "params.yaml"
    rows = {"duld": row("b", MAPS), "first": row("silk_frozen", MAPS), "before": row("silk")}
    put(path, aggregated=FROZEN, rounds=chained("silk_frozen", reads=MAPS), rows=rows, report__row="duld")
    assert blocks.problems(path) == []


def test_a_start_that_reads_images(project: Path) -> None:
    path = project / "params.yaml"
    put(path, starts=params.load(path)["starts"] | {"pixels": pixels()}, report__row="duld")
    put(path, rounds=chained("pixels", reads="roi/crops"), rows={"duld": row("b", "roi/crops")})
    assert blocks.problems(path) == []
    put(path, rows__duld=row("b"))
    (told,) = blocks.problems(path)
    assert "rows.duld.reads: 'features/trained' is not what the model of 'b' reads: let it be roi/crops" in told


@pytest.mark.parametrize("nothing", [None, {}])
def test_without_rounds(project: Path, nothing: object) -> None:
    path = project / "params.yaml"
    put(path, rounds=nothing, rows={"duld": row("silk")}, report__row="duld")
    assert blocks.problems(path) == []


def test_an_unknown_key_anywhere_is_found(ready) -> None:
    path = ready / "params.yaml"
    path.write_text(path.read_text().replace("  threshold: 0.5}", "  treshold: 0.5}") + "sede: 1\n")
    path.write_text(path.read_text().replace("label: 1, threshold", "label: 1, treshold"))
    found = "\n".join(blocks.problems(path))
    assert "roi_providers.torchvision.treshold: unknown key" in found
    assert "sede: unknown key" in found


def test_no_params_file(tmp_path, monkeypatch, uld) -> None:
    monkeypatch.chdir(tmp_path)
    done = uld("doctor")
    assert done.exit_code == 1
    assert "params.yaml is missing" in done.output


def test_a_device_that_is_not_there(ready, monkeypatch) -> None:
    monkeypatch.setenv("ULD_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert findings()["device"].there is False


def test_stages_must_run_in_this_environment(ready, monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda name: "/elsewhere/python")
    with pytest.raises(Exception, match="activate the environment"):
        doctor._stage_python()


def disks(monkeypatch: pytest.MonkeyPatch, **free: int) -> None:
    """Bytes that are free below the folders of these names, and everywhere else plenty."""
    usage = shutil.disk_usage(".")

    def look(path: Path) -> object:
        return usage._replace(free=next((free[part] for part in path.parts if part in free), 10**12))

    monkeypatch.setattr(shutil, "disk_usage", look)


def test_too_little_disk_where_the_stores_go(ready, monkeypatch) -> None:
    disks(monkeypatch, artifacts=10)
    assert findings()["disk"].there
    Path("artifacts").mkdir()
    line = findings()["disk"]
    assert line.there is False
    assert "reduce" in line.detail


@pytest.mark.parametrize("reduction", [None, {"dims": 40, "images": 1}])
def test_the_estimate_is_what_the_network_gives(ready, pixel_folder: Path, monkeypatch, reduction) -> None:
    layers = [[0, 0], [0, 1], [1, 1]]
    path = ready / "params.yaml"
    put(
        path,
        backbone="sd15",
        backbones__sd15__path=str(pixel_folder),
        backbones__sd15__image_size=32,
        readout__layers=layers,
        starts__frozen__layers=[[0, 0]],
        starts__silk__projection__layers=[[0, 0]],
        starts__silk__network__layers=[[0, 1]],
        reduce=reduction,
    )
    readout = ReadoutParams(((0, 0), (0, 1), (1, 1)), (24, 74, 142), "add_noise", 50, "float32")
    features = Extractor(backbone.load(pixel_folder), readout, 0)(torch.rand(1, 3, 32, 32))
    limit = 40 if reduction else 10**9
    values = sum(min(limit, one.shape[1]) * int(np.prod(one.shape[2:])) for one in features.values())
    assert doctor.store_bytes(params.load(path)) == 2 * ITEMS * values
    assert findings(path)["backbone"].there


def test_sd15_by_hand(ready, monkeypatch) -> None:
    """64 x (16^2 + 2 x 32^2 + 64^2) values a view of Stable Diffusion 1.5 with the preset's four layers."""
    folder = ready / "sd"
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    for part, config in (
        ("unet", {"_class_name": "UNet2DConditionModel", "block_out_channels": [320, 640, 1280, 1280]}),
        ("vae", {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], **kinds}),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    (folder / "scheduler").mkdir()
    layers = [[1, 2], [2, 1], [2, 2], [3, 0]]
    put(
        ready / "params.yaml",
        backbone="sd15",
        backbones__sd15__path="sd",
        readout__layers=layers,
        readout__timesteps=[261],
        reduce={"dims": 64, "images": 500},
        starts__frozen__layers=layers,
        starts__silk__projection__layers=layers,
        starts__silk__network__layers=layers,
        starts__silk__network__timesteps=[261],
    )
    expected = 2 * ITEMS * 64 * (16**2 + 2 * 32**2 + 64**2)
    assert doctor.store_bytes(params.load(ready / "params.yaml")) == expected
    assert findings()["backbone"].there is False  # no weights in it


def test_latents_by_hand(ready) -> None:
    """Grey 64 px crops in blocks of 2 x 2: as many numbers as pixels."""
    put(ready / "params.yaml", stores__trained__keep="latents", stores__untrained__keep="latents")
    assert doctor.store_bytes(params.load(ready / "params.yaml")) == 2 * ITEMS * 64 * 64


def spoilt(pixel_folder: Path, spoil: Callable[[Path], object]) -> None:
    """params.yaml of the current folder with a spoilt backbone."""
    spoil(Path(shutil.copytree(pixel_folder, "weights/sd")))
    put(Path("params.yaml"), backbone="sd15", backbones__sd15__path="weights/sd", backbones__sd15__image_size=32)
    layers = [[0, 0], [1, 0]]
    put(Path("params.yaml"), readout__layers=layers, starts__frozen__layers=layers)
    put(Path("params.yaml"), starts__silk__projection__layers=layers, starts__silk__network__layers=layers)


def _wants(key: str, value: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = folder / "unet/config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))

    return change


WITHOUT_CONFIG = (lambda folder: (folder / "unet/config.json").unlink(), "unet has no config.json")
SDXL = (_wants("addition_embed_type", "text_time"), "wants more than a text (addition_embed_type: text_time)")
UPSCALER = (_wants("num_class_embeds", 1000), "wants more than a text (num_class_embeds: 1000)")
BARE_VAE = (lambda folder: (folder / "vae").mkdir(), "vae has no config.json")
ONLY_HALF = (
    lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").rename(
        folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    ),
    "set backbones.<name>.variant: fp16",
)


@pytest.mark.parametrize(("spoil", "message"), [WITHOUT_CONFIG, SDXL, UPSCALER, BARE_VAE, ONLY_HALF])
def test_a_backbone_that_will_not_load(ready, pixel_folder: Path, uld, spoil, message: str) -> None:
    spoilt(pixel_folder, spoil)
    line = findings()["backbone"]
    assert line.there is False
    assert message in line.detail
    assert uld("doctor").exit_code == 1


@pytest.mark.parametrize(("spoil", "message"), [WITHOUT_CONFIG, SDXL, UPSCALER, BARE_VAE])
def test_no_plan_of_a_backbone_that_will_not_load(ready, pixel_folder: Path, uld, spoil, message: str) -> None:
    spoilt(pixel_folder, spoil)
    done = uld("doctor", "--plan")
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize(("gpus", "said"), [(2, "2 GPUs"), (0, "--force-reinstall --no-deps faiss-gpu-cu12")])
def test_whether_faiss_has_the_gpus_that_torch_sees(ready, monkeypatch, gpus: int, said: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "faiss on GPU" not in findings()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus)
    line = findings()["faiss on GPU"]
    assert line.there is None
    assert said in line.detail


def test_how_to_install_faiss_for_gpus_is_documented() -> None:
    assert f"    {doctor.FAISS_GPU}\n" in (ROOT / "docs/scale.md").read_text()


# --- the plan ---


def test_the_plan_counts_what_the_stores_hold(ready) -> None:
    path = ready / "params.yaml"
    tree = params.load(path)
    whole, reduced, latents, maps = plan.ways(tree, plan.one_pass(tree))
    assert whole.chosen and not reduced.chosen and not latents.chosen and not maps.chosen
    assert whole.disk == doctor.store_bytes(tree)
    put(path, reduce={"dims": 64, "images": 1})
    assert reduced.disk == doctor.store_bytes(params.load(path))
    put(path, stores__trained__keep="latents", stores__untrained__keep="latents")
    assert latents.disk == doctor.store_bytes(params.load(path))
    assert [way.chosen for way in plan.ways(params.load(path), plan.one_pass(tree))] == [False, False, True, False]
    assert whole.flop == reduced.flop < maps.flop < latents.flop  # many stages read, few views are there
    edit.save(path, presets.apply(presets.load("aggregated"), path)[0])
    assert maps.disk == doctor.store_bytes(params.load(path))


def test_the_plan_of_a_frozen_trunk(ready) -> None:
    """One start of 64 + 64 channels on 32 x 32 cells, a round of it and its row.

    Two training images in three views and a test image in five: eleven items. A start that reads images, a round of it
    and its row cost the backbone nothing.
    """
    path = ready / "params.yaml"
    tree = params.load(path)
    more = {"pixels-1": {"reads": "roi/crops", "start": "pixels", "method": "duld"}}
    rows = {"duld": row("b"), "zeroshot": row("frozen"), "pixels": row("pixels-1", "roi/crops")}
    put(path, stores={"trained": tree["stores"]["trained"]}, starts=tree["starts"] | {"pixels": pixels()})
    put(path, rounds=chained() | more, rows=rows, report__row="duld")
    assert blocks.problems(path) == []
    one = plan.Pass(1e6, 1, 10, {"l00_t74": 3}, {"l00_t74": 7})
    start, a_round, a_row = 2 * 2 + 2 * 6 * 200, 4 * 2 * 2 + 2 * 6 * 120, 4 * 2 * 2 + 2 + 5

    def check(chosen: int, below: int) -> None:
        found = list(plan.ways(params.load(path), one))
        assert [way.chosen for way in found] == [number == chosen for number in range(4)]
        assert found[2].flop == 11e6 + start + 2 * a_round + 2 * a_row
        assert found[3].flop == (11e6 + start + 11 + a_row if below == 2 else 11e6 + 11)
        assert found[3].disk == found[below].disk + 2 * 11 * (64 + 64) * 32**2
        assert [way.disk for way in found[:3]] == [2 * 11 * 21, 2 * 11 * 21, 2 * 11 * 10]
        assert found[3].stores == (*found[below].stores, 2 * 11 * (64 + 64) * 32**2)
        assert found[3].memory == found[below].memory + 32 * (4 + 4) * (64 + 64) * 32**2

    check(0, 2)
    put(path, aggregated=FROZEN, rounds=chained("silk_frozen", reads=MAPS) | more, rows__duld__reads=MAPS)
    assert blocks.problems(path) == []
    check(3, 0)
    put(path, stores__trained__keep="latents")
    check(3, 2)
    lines = params.load(path)["rounds"] | {"c": chained()["a"]}  # this one reads the store
    put(path, rounds=lines, rows__duld=row("c"))
    assert blocks.problems(path) == []
    assert [way.flop for way in plan.ways(params.load(path), one)][3] == 11e6 + start + 11 + a_round + 2 * a_row
    put(path, starts__silk__network__published="weights/published.pth")  # 384 channels of its own
    assert doctor.map_bytes(params.load(path), "silk") == 2 * 11 * (64 + 384) * 32**2


@pytest.mark.parametrize("mirrored", [False, True])
def test_items_are_those_that_the_store_lays_out(ready, mirrored: bool) -> None:
    tree, bank = params.load(ready / "params.yaml"), (ViewParams(False, 0, 1), ViewParams(False, 15, 1))
    store = StoreParams(True, "features", bank, mirrored)
    train = np.arange(7) < 5
    warps = np.zeros((tree["evaluate"]["warps"]["count"], 2, 3))
    assert doctor.items(tree, store, (5, 2)) == len(arrange(store, warps, train, 64).items)


def test_the_plan_of_views_that_are_drawn_anew(ready) -> None:
    """As above: training of the start and of its round runs the network on new views, whatever is stored."""
    path, drawn = ready / "params.yaml", {"starts__silk__views": pixels()["views"]}
    tree = params.load(path)
    put(path, stores={"trained": tree["stores"]["trained"]}, starts=tree["starts"] | {"pixels": pixels()})
    rows = {"duld": row("a"), "pixels": row("pixels", "roi/crops")}
    put(path, rounds={"a": chained()["a"]}, rows=rows, report__row="duld")
    one = plan.Pass(1e6, 1, 10, {"l00_t74": 3}, {"l00_t74": 7})
    start, a_round = 2 * 6 * 200, 2 * 6 * 120  # views of training

    def flops() -> list[float]:
        return [way.flop for way in plan.ways(params.load(path), one)]

    whole, reduced, latents, maps = flops()
    put(path, **drawn)
    assert blocks.problems(path) == []
    more = (start + a_round) * (1e6 + 1)
    assert flops() == [whole + more, reduced + more, latents + (start + a_round) * 1e6, maps + start * 1e6]
    put(path, aggregated=FROZEN, rounds=chained("silk_frozen", reads=MAPS), rows__duld__reads=MAPS)
    assert flops()[3] == whole + start * (1e6 + 1)  # rounds behind the frozen trunk see what is stored
    put(path, roi__crop=100)
    # a batch as it is read, and all crops of 10,000 images; those of more are not kept
    assert plan.memory(params.load(path), one, 10**4, None, False) == 6 * 32 * 21 + 4 * 10**4 * 100**2
    assert plan.memory(params.load(path), one, 10**9, None, False) == 6 * 32 * 21 + 2 * 2**30


def test_the_plan_counts_passes(ready, pixel_folder: Path) -> None:
    path = ready / "params.yaml"
    put(path, backbone="sd15", backbones__sd15__path=str(pixel_folder), backbones__sd15__image_size=32)
    layers = [[0, 0], [1, 0]]
    put(path, readout__layers=layers, starts__frozen__layers=layers[:1], starts__silk__projection__layers=layers[:1])
    put(path, starts__silk__network__layers=layers)
    three = plan.one_pass(params.load(path))
    put(path, readout__timesteps=[74], starts__silk__network__timesteps=[74])
    one = plan.one_pass(params.load(path))
    assert three.read == pytest.approx(3 * one.read) and one.encode == three.encode == 0
    assert one.latent == 12 * 16**2 and one.read > 1e6
    assert set(one.maps) == {"l00_t74", "l10_t74"} and len(three.maps) == 6


def test_the_plan_fetches_no_weights(ready, pixel_folder: Path, tmp_path: Path, monkeypatch) -> None:
    path, layers = ready / "params.yaml", [[0, 0], [1, 0]]
    put(path, backbone="sd15", backbones__sd15__path=str(pixel_folder), backbones__sd15__image_size=32)
    put(path, readout__layers=layers, starts__frozen__layers=layers[:1], starts__silk__projection__layers=layers[:1])
    put(path, starts__silk__network__layers=layers)
    local = plan.one_pass(params.load(path))

    def hub(name: str, *, allow_patterns: list[str], local_files_only: bool, **_: object) -> str:
        assert name == "owner/name" and not local_files_only
        for file in pixel_folder.rglob("*.*"):
            if any(file.relative_to(pixel_folder).match(pattern) for pattern in allow_patterns):
                copy = tmp_path / "hub" / file.relative_to(pixel_folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    monkeypatch.setenv("ULD_OFFLINE", "0")
    put(path, backbones__sd15__path="owner/name")
    assert plan.one_pass(params.load(path)) == local
    assert {file.suffix for file in (tmp_path / "hub").rglob("*.*")} == {".json"}
    pinned.fetch("owner/name")
    assert (tmp_path / "hub/unet/diffusion_pytorch_model.safetensors").is_file()


def test_host_memory_by_hand(ready, monkeypatch) -> None:
    """docs/scale.md, 'What is kept on disk'; each part in turn is the largest."""
    put(ready / "params.yaml", roi__crop=8)
    tree = params.load(ready / "params.yaml")
    photographs, layers, ahead = 3, 2, 2 * 2 * 6  # two steps of six pairs

    def held(maps: int, cells: int, dims: int | None = None, latents: bool = False) -> int:
        names = ("l00_t74", "l10_t74")
        one = plan.Pass(0, 0, 50, dict.fromkeys(names, maps), dict.fromkeys(names, cells))
        return plan.memory(tree, one, photographs, dims, latents)

    monkeypatch.setenv("ULD_BATCH", "1000")
    assert held(3, 7) == 1000 * (2 * 12 * 8**2 + (4 + 4) * layers * 3 * 7)
    assert held(3, 7, latents=True) == 1000 * (2 * 12 * 8**2 + (4 + 4) * 50)
    monkeypatch.setenv("ULD_BATCH", "1")
    assert held(3, 7) == 16 * photographs * 100 * layers * 3
    assert held(3, 7, dims=2) == 16 * photographs * 100 * layers * 2
    assert held(3000, 1, dims=2) == 8 * layers * 3000**2
    assert held(3, 10**6) == held(3, 10**6, latents=True) == ahead * 6 * layers * 3 * 10**6
    monkeypatch.setenv("ULD_NPROC", "2")
    assert held(3, 7) == 2 * 16 * photographs * 100 * layers * 3
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda"))
    assert held(3, 10**6) == 2 * ahead * 6 * layers * 3 * 10**6
    assert held(3, 10**6, latents=True) == 2 * 16 * photographs * 100 * layers * 3  # features are on the GPU


def test_the_plan_is_printed_and_refused(ready, uld, monkeypatch) -> None:
    monkeypatch.setattr(plan, "speed", lambda dtype: 1e12)
    done = uld("doctor", "--plan")
    assert done.exit_code == 0, done.output
    assert "> features as they are" in done.output and "3 images" in done.output
    assert re.search(r"disk\s+host memory\s+hours on cpu", done.output)
    assert "What params.yaml chooses (>) fits." in done.output
    monkeypatch.setattr(plan, "room", lambda: plan.Room(10, 10**12, 10**12))
    done = uld("doctor", "--plan")
    assert done.exit_code == 1
    assert "Does not fit: features as they are" in done.output
    put(ready / "params.yaml", rounds=chained(a="b"))
    done = uld("doctor", "--plan")
    assert done.exit_code == 2 and "'b' is a later round" in done.output
    put(ready / "params.yaml", rounds=None, rows={"zeroshot": row("frozen")}, report__row="zeroshot")
    assert uld("doctor", "--plan").exit_code == 1


def test_what_does_not_fit_and_what_would() -> None:
    raw = plan.Way("raw", (600, 300), 50, 0, True)
    small = plan.Way("small", (60, 30), 5, 0, False)
    tiny = plan.Way("tiny", (6, 3), 50, 0, False)

    def said(disk: int, scratch: int, memory: int) -> str:
        return plan.verdict([raw, small, tiny], plan.Room(disk, scratch, memory))

    assert said(900, 600, 50) == ""
    assert said(899, 600, 50) == (
        "Does not fit: raw takes 900 B of disk for artifacts/features, where there are 899 B. Would fit: small; tiny."
    )
    assert "600 B of disk for unfinished stages (ULD_SCRATCH), where there are 599 B" in said(900, 599, 50)
    assert said(900, 600, 49).endswith("50 B of host memory (ULD_BATCH), where there are 49 B. Would fit: small.")
    assert "No way fits: take fewer views, layers, timesteps or images" in said(9, 6, 5)
    assert plan.verdict([small], plan.Room(0, 0, 0)) == ""  # not chosen


def test_room_is_looked_for_where_the_data_go(ready, monkeypatch, tmp_path_factory) -> None:
    disks(monkeypatch, artifacts=1, fast=2)
    (ready / "artifacts").mkdir()
    monkeypatch.setenv("ULD_SCRATCH", str(ready / "fast/scratch"))
    (ready / "fast").mkdir()
    there = plan.room()
    assert (there.disk, there.scratch) == (1, 2)
    assert there.memory > 10**8
    elsewhere = tmp_path_factory.mktemp("fast")
    elsewhere.rename(elsewhere.with_name("fast"))
    (ready / "artifacts").rmdir()
    (ready / "artifacts").symlink_to(elsewhere.with_name("fast"))
    assert plan.room().disk == 2


def test_gpus_share_the_work(ready, monkeypatch, capsys) -> None:
    monkeypatch.setattr(plan, "speed", lambda dtype: 1e12)
    monkeypatch.setattr(plan, "ways", lambda *_: [plan.Way("way", (1,), 1, 8 * 3600 * 1e12 * plan.EFFICIENCY, True)])
    monkeypatch.setenv("ULD_NPROC", "4")

    def hours() -> str:
        assert plan.show(params.load(Path("params.yaml")))
        out = capsys.readouterr().out
        assert ("on each of 4 GPUs (ULD_NPROC)" in out) == ("hours on cuda" in out)
        return next(line.split()[-1] for line in out.splitlines() if "> way" in line)

    assert hours() == "8"
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda"))
    assert hours() == "2"


def test_the_hub_is_not_asked(ready, monkeypatch) -> None:
    put(ready / "params.yaml", backbone="sd15", backbones__sd15__path="owner/name")
    monkeypatch.setenv("ULD_OFFLINE", "0")
    monkeypatch.setattr(pinned, "_snapshot", lambda *_: pytest.fail("downloads"))
    assert "comes from the hub" in findings()["backbone"].detail


def test_ground_truth_boxes_wait_for_the_data(ready) -> None:
    put(ready / "params.yaml", roi__providers=["annotation", "full"])
    line = findings()["roi: annotation"]
    assert line.there
    assert "once the stage data has run" in line.detail
