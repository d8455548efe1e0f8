"""A start whose views are drawn anew, its rounds, and a start of `aggregated` behind it, as stages."""

from typing import Any

import pytest

from smoke.project import Project
from uld.artifacts.models import read_origin
from uld.base import params
from uld.diffusion.online import Network


@pytest.mark.parametrize("keep", ["features", "latents"])
def test_rounds_draw_as_their_start_did(project: Project, monkeypatch: pytest.MonkeyPatch, keep: str) -> None:
    drawn = params.load(project.root / "params.yaml")["starts"]["pixels"]["views"]
    project.set(**{"starts.silk.views": drawn, "stores.trained.keep": keep})
    project.set(aggregated={"resting": {"reads": "features/trained", "start": "silk"}})
    rounds = params.load(project.root / "params.yaml")["rounds"]
    resting = {"reads": "features/resting", "start": "resting", "method": "duld"}
    project.set(rounds=rounds | {"resting-1": resting})
    asked: list[int] = []
    of_images = Network.of_images

    def spy(network: Network, images: Any, names: list[str]) -> Any:
        asked.append(len(images))
        return of_images(network, images, names)

    monkeypatch.setattr(Network, "of_images", spy)
    views = {}
    for stage, ran in (
        ("features@trained", []),
        ("bootstrap@silk", [8] * 6),
        ("aggregate@resting", []),
        ("cluster@duld-1", []),
        ("train@duld-1", [8] * 6),
        ("discover@duld", []),
        ("predict@duld", []),
        ("cluster@resting-1", []),
        ("train@resting-1", []),
    ):
        asked.clear()
        project.stages(stage)
        assert asked == ran, stage
    for name in ("silk", "duld-1", "resting", "resting-1"):
        views[name] = read_origin(project.root / "artifacts/rounds" / name).views
    assert views == {"silk": drawn, "duld-1": drawn, "resting": None, "resting-1": None}
