"""Neural detectors: a tiny random YOLOS saved by the test, and a stand-in for torchvision."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from uld import roi
from uld.base.errors import DataError, NotInstalled, ParamsError
from uld.roi.torchvision import Torchvision, TorchvisionParams
from uld.roi.transformers import Transformers, TransformersParams

CONTEXT = roi.Context(Path("."), Path("annotations.h5"))
PHOTO = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import YolosConfig, YolosForObjectDetection
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    folder = tmp_path_factory.mktemp("yolos")
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[64, 96],
        patch_size=16, num_detection_tokens=5, id2label={0: "cat", 1: "person"}, label2id={"cat": 0, "person": 1},
    )  # fmt: skip
    network = YolosForObjectDetection(config)
    with torch.no_grad():
        network.bbox_predictor.layers[-1].weight.zero_()  # sigmoid(0): the middle half of the image, always
        network.bbox_predictor.layers[-1].bias.zero_()
        network.class_labels_classifier.layers[-1].bias.copy_(torch.tensor([3.0, -3.0, -3.0]))  # all cats
    network.save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


def provider(folder: Path, label: str = "cat", threshold: float = 0.0) -> Transformers:
    return Transformers(TransformersParams(folder=str(folder), label=label, threshold=threshold), CONTEXT)


def test_transformers_finds_the_class_asked_for(yolos: Path) -> None:
    (box,) = provider(yolos).detect([PHOTO], ["a"])
    assert box is not None and 0.5 < box.score <= 1
    np.testing.assert_allclose(box[:4], (29.5, 19.5, 89.5, 59.5), atol=1e-4)
    assert provider(yolos, "person").detect([PHOTO], ["a"]) == [None]
    assert provider(yolos, threshold=1.0).detect([PHOTO], ["a"]) == [None]


def test_transformers_result_does_not_depend_on_the_batch(yolos: Path) -> None:
    detector = provider(yolos)
    tall = np.ascontiguousarray(PHOTO.transpose(1, 0, 2))
    alone = detector.detect([tall], ["b"]) + detector.detect([PHOTO], ["a"])
    assert detector.detect([tall, PHOTO], ["b", "a"]) == alone


def test_transformers_label_names_the_weights(yolos: Path, tmp_path: Path) -> None:
    first = provider(yolos).label
    assert first == provider(yolos).label and first.startswith("transformers:") and len(first) == 21
    for path in yolos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert provider(tmp_path).label == first
    config = tmp_path / "config.json"
    config.write_text(config.read_text() + "\n")
    assert provider(tmp_path).label != first


def test_transformers_errors(yolos: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no class 'dog'; there are cat, person"):
        provider(yolos, "dog")
    with pytest.raises(DataError, match=r"holds no config.json"):
        provider(tmp_path / "gone")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="no object detector that loads"):
        provider(tmp_path)


class Network(torch.nn.Module):
    """Three boxes: a small sure one and a large less sure one of class 1, and the whole image of class 2."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.roi_heads = torch.nn.ModuleDict(
            {"box_predictor": torch.nn.ModuleDict({"cls_score": torch.nn.Linear(4, num_classes)})}
        )

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        (image,) = images
        assert image.shape[0] == 3 and image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
        boxes = torch.tensor([[0.0, 0, 8, 8], [10, 10, 60, 60], [0, 0, image.shape[2], image.shape[1]]])
        return [{"boxes": boxes, "labels": torch.tensor([1, 1, 2]), "scores": torch.tensor([0.9, 0.6, 1.0])}]


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("torchvision.models.detection")

    def make(weights: None, weights_backbone: None, num_classes: int) -> Network:
        assert weights is None and weights_backbone is None
        return Network(num_classes)

    module.fasterrcnn_resnet50_fpn_v2 = make
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", module)


def faster(path: Path, label: int = 1, threshold: float = 0.5) -> Torchvision:
    return Torchvision(TorchvisionParams(weights=str(path), label=label, threshold=threshold), CONTEXT)


@pytest.mark.usefixtures("zoo")
def test_torchvision_selects_by_class_score_and_area(tmp_path: Path) -> None:
    torch.save(Network(3).state_dict(), tmp_path / "w.pth")

    def found(**choice: Any) -> Any:
        return faster(tmp_path / "w.pth", **choice).detect([PHOTO], ["a"])[0]

    assert found() == (9.5, 9.5, 59.5, 59.5, pytest.approx(0.6))
    assert found(label=2) == (-0.5, -0.5, 119.5, 79.5, 1.0)
    assert found(threshold=0.7) == (-0.5, -0.5, 7.5, 7.5, pytest.approx(0.9))
    assert found(label=5) is None


@pytest.mark.usefixtures("zoo")
def test_torchvision_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing: save the state dict"):
        faster(tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({**Network(3).state_dict(), "extra": torch.zeros(1)}, tmp_path / "extra.pth")
    for name in ("text.pth", "other.pth", "extra.pth"):
        with pytest.raises(DataError, match=rf"{name} is no state dict"):
            faster(tmp_path / name)


def test_torchvision_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({}, tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", None)
    with pytest.raises(NotInstalled, match="pip install torchvision"):
        faster(tmp_path / "w.pth")
