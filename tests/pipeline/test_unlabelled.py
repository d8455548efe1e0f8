"""Photographs without annotations: the run ends in predictions, cluster quality and a report."""

from smoke.project import Project, ran


def test_unlabelled_run(project: Project) -> None:
    (project.root / "photos/landmarks.csv").unlink()
    said = project.dvc("repro")
    assert "NME needs annotations" in said
    assert not {"backbone", "features@trained", "discover@zeroshot", "predict@zeroshot"} & set(ran(said))
    tree = project.metrics("zeroshot")
    assert "canonical" not in tree
    assert tree["landmarks"] == 10
    assert {"detection_rate", "stability", "clusters"} <= set(tree)
    assert "NME needs annotations" in (project.root / "report/index.html").read_text()
    assert ran(project.dvc("repro")) == []
