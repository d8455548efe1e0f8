"""Stages in two processes (gloo): the same results as in one, up to the rounding of smaller batches."""

import functools
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smoke.process import SEVERAL
from smoke.project import Project
from uld.artifacts.labels import read_labels
from uld.base import params
from uld.diffusion.store import FeatureStore

pytestmark = pytest.mark.cpu  # two processes want two GPUs

# one item a shard
SHARDS = """
import os, runpy
from uld.diffusion import building
building.SHARD_BYTES, finish = 1, building._finish
def finishing(scratch, first, chunks):
    os.write(1, b"<%d>" % first)  # in one piece: the processes share the pipe
    finish(scratch, first, chunks)
building._finish = finishing
runpy.run_path("stages/features.py", run_name="__main__")
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


# the processes join once and stay together: torchrun's store does not take them a second time
JOINED = """
import torch.distributed as dist
join, leave = dist.init_process_group, dist.destroy_process_group
dist.init_process_group = lambda *words, **named: dist.is_initialized() or join(*words, **named)
dist.destroy_process_group = lambda: None
"""


def in_two(project: Project, *stages: str) -> str:
    (project.root / "several.py").write_text(f"{JOINED}{SEVERAL}leave()\n")
    return project.run(*TORCHRUN, "several.py", *stages)


@pytest.mark.parametrize(("keep", "reduce"), [("features", {"dims": 4, "images": 8}), ("latents", None)])
def test_shards_are_divided(project: Project, keep: str, reduce: object) -> None:
    project.set(reduce=reduce, **{"stores.trained.keep": keep})
    (project.root / "shards.py").write_text(SHARDS)
    kept = []
    for command in ((sys.executable,), TORCHRUN):
        said = project.run(*command, "shards.py", "trained")
        store = FeatureStore(project.root / "artifacts/features/trained.zarr")
        assert sorted(map(int, re.findall(r"<(\d+)>", said))) == [*range(len(store.layout.items))]
        kept.append(store.views_of(*store.layout.items.T, store.names))
        assert not list((project.root / ".scratch").glob("features-*"))
    assert kept[0] and kept[0].keys() == kept[1].keys()
    for name, value in kept[0].items():
        torch.testing.assert_close(kept[1][name], value, rtol=0, atol=0)  # a pass is an image of a view in both


def test_latents_are_read_by_all(project: Project) -> None:
    project.set(**{"stores.trained.keep": "latents"})
    project.set(aggregated={"resting": {"reads": "features/trained", "start": "silk"}})
    stages = ["cluster@duld-1", "aggregate@resting", "bootstrap@silk"]  # none reads what another of them writes
    heads, labels, kept = [], [], []
    project.stages("features@trained", "bootstrap@silk")
    for run in (project.stages, functools.partial(in_two, project)):
        run(*stages)
        heads.append(head(project, "silk"))
        labels.append(read_labels(project.root / "artifacts/labels/duld-1/labels.h5"))
        store = FeatureStore(project.root / "artifacts/features/resting.zarr")
        kept.append(store.views_of(*store.layout.items.T, store.names))
    same(*heads)
    np.testing.assert_array_equal(labels[1].label, labels[0].label)
    np.testing.assert_allclose(labels[1].xy, labels[0].xy, atol=1e-3)
    for name in ("base", "aggregated"):
        torch.testing.assert_close(kept[1][name], kept[0][name], atol=5e-3, rtol=5e-3)


def test_rounds_train_in_all(project: Project) -> None:
    rounds = ["duld_pp-1", "pose_proxy-1", "duld-1"]  # each starts where the next ends: this one is still the old one
    wanted = {key: head(project, key) for key in rounds}
    in_two(project, *(f"train@{key}" for key in rounds))
    start = head(project, "silk")
    for key, want in wanted.items():
        same(want, head(project, key))
        assert not any(torch.equal(want[name], value) for name, value in start.items() if "detect" in name)


def test_drawn_views_are_seen_by_all(project: Project) -> None:
    project.set(**{"starts.silk.views": params.load(project.root / "params.yaml")["starts"]["pixels"]["views"]})
    before = head(project, "silk")
    project.stages("bootstrap@silk", "train@duld-1")
    wanted = {key: head(project, key) for key in ("silk", "duld-1")}
    assert any((wanted["silk"][name] - value).abs().max() > 0.01 for name, value in before.items())
    in_two(project, "train@duld-1", "bootstrap@silk")  # none reads what another of them writes
    for key, want in wanted.items():
        same(want, head(project, key))


def test_training_in_two_processes_stops_and_goes_on(project: Project) -> None:
    """Both stop at the same step; one process may end what two have begun."""
    project.set(**{"methods.duld.train.steps": 90})
    started = project.start(sys.executable, "-m", "stages.train", "duld-1", ULD_NPROC="2")
    assert started.stdout is not None
    next(line for line in started.stdout if line.startswith("round duld-1 step 50"))
    started.terminate()
    more, said = started.communicate(timeout=120)
    assert "step 50" not in more  # the first process speaks
    assert "round duld-1 saved at step" in said
    (project.root / "artifacts/rounds/duld-1/model.safetensors").unlink()
    project.stages("train@duld-1")
    resumed = head(project, "duld-1")
    project.stages("train@duld-1")
    same(head(project, "duld-1"), resumed)


def head(project: Project, key: str) -> dict[str, torch.Tensor]:
    return load_file(project.root / f"artifacts/rounds/{key}/model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=2e-3, rtol=2e-3)


def test_a_mistake_ends_all_processes(project: Project) -> None:
    project.set(**{"stores.trained.keep": "latents"})
    project.stages("features@trained")
    shutil.rmtree(project.root / "artifacts/features/trained.zarr/backbone/scheduler")
    done = project.attempt(sys.executable, "-m", "stages.bootstrap", "silk", ULD_NPROC="2")
    assert done.returncode != 0 and "it has no 'scheduler/'" in done.stderr


def test_two_runs_of_one_stage(fresh: Project) -> None:
    fresh.set(**{"backbones.tiny.max_steps": 5000, "backbones.tiny.patience": 500})
    fresh.stages("data", "roi")
    first = fresh.start(sys.executable, "-m", "stages.backbone")
    assert first.stdout is not None
    next(line for line in first.stdout if line.startswith("backbone step 10:"))
    second = fresh.stage("backbone")
    assert second.returncode == 2 and "another process is at the same work in" in second.stderr
    first.terminate()
    first.communicate(timeout=120)
    third = fresh.start(sys.executable, "-m", "stages.backbone")
    assert third.stdout is not None and any(line.startswith("backbone step") for line in third.stdout)
    third.kill()
    third.communicate()
