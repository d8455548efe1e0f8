"""Photographs without annotations: the run ends in predictions, cluster quality and a report."""

import shutil
from pathlib import Path

import graph
from smoke.project import Project

ROWS = ("mean_shape", "zeroshot", "duld", "duld_pp", "pixels")
SCORED = [f"{stage}@{row}" for row in ROWS for stage in ("regress", "evaluate")]


def declared(stage: str) -> list[str]:
    """Files and folders that a stage must leave, as dvc.yaml names them."""
    name, _, key = stage.partition("@")
    body = graph.declared(name)
    outs = [out for kind in ("outs", "metrics", "plots") for out in body.get(kind, [])]
    return [(next(iter(out)) if isinstance(out, dict) else out).replace("${key}", key) for out in outs]


def remove(path: Path) -> None:
    """As DVC does before it runs a stage."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_unlabelled_run(project: Project) -> None:
    (project.root / "photos/landmarks.csv").unlink()
    assert "NME needs annotations" in project.stages("data", "roi")
    stages = [*SCORED, "report"]
    assert project.changed() - {"data", "roi", *stages} == set(), "networks and landmarks do not depend on annotations"
    for name in (name for stage in stages for name in declared(stage)):
        remove(project.root / name)
    assert "NME needs annotations" in project.stages(*stages)
    assert [name for stage in stages for name in declared(stage) if not (project.root / name).exists()] == []
    tree = project.metrics("zeroshot")
    assert "canonical" not in tree
    assert tree["landmarks"] == 10
    assert {"detection_rate", "stability", "clusters"} <= set(tree)
    assert "NME needs annotations" in (project.root / "report/index.html").read_text()
