"""A copy of the project on the small data set, for tests to run: the code of the working tree under Git and DVC."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from smoke import process
from smoke.generate import photographs
from smoke.process import ROOT, Done
from uld.base import params
from uld.commands import edit
from uld.commands.cli import app


@dataclass(frozen=True)
class Project:
    """One exported tree."""

    root: Path

    @staticmethod
    def export(root: Path) -> "Project":
        """The project's files with the smoke params and photographs, under Git and DVC, not yet run."""
        root.mkdir(parents=True)
        for name in ("stages", "uld"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", "params.yaml", "pyproject.toml", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, root)
        shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
        project = Project(root)
        project.set(**params.load(ROOT / "tests/smoke/params.yaml"))
        photographs(root / "photos")
        project.run("git", "init", "--quiet")
        project.run("git", "config", "user.name", "smoke")
        project.run("git", "config", "user.email", "smoke@example.org")
        return project

    def copy(self, root: Path) -> "Project":
        """Another tree with the same files, cache and history, free to be changed."""
        return Project(Path(shutil.copytree(self.root, root, symlinks=True)))

    def set(self, **changes: Any) -> None:
        """Change params.yaml: dotted key -> value."""
        path = self.root / "params.yaml"
        tree = edit.load(path)
        for key, value in changes.items():
            edit.put(tree, key, value, path)
        edit.save(path, tree)

    def environment(self, **extra: str) -> dict[str, str]:
        """One thread, the run's device, this interpreter as `python`, the code of the tree wherever DVC puts it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ULD_", "DVC_", "GIT_"))}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": ".",
            "OMP_NUM_THREADS": "1",
            "ULD_THREADS": "1",
            "ULD_DEVICE": os.environ["ULD_DEVICE"],
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc/tmp/site"),
            **extra,
        }

    def start(self, *command: str, **extra: str) -> subprocess.Popen[str]:
        """A command in the tree that goes on while the test does, in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def attempt(self, *command: str, **extra: str) -> Done:
        """Run a command in the tree to its end, whatever that is."""
        env = self.environment(**extra)
        return subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, timeout=3600)

    def run(self, *command: str, **extra: str) -> str:
        """Output of a command that must succeed."""
        done = self.attempt(*command, **extra)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def dvc(self, *words: str, **extra: str) -> str:
        """Output of a DVC command that must succeed."""
        return self.run(sys.executable, "-m", "dvc", *words, **extra)

    def stage(self, name: str, *words: str) -> Done:
        """Run a stage script by itself, in this process and with the code of the working tree."""
        return process.stage(self.root, name, *words)

    def stages(self, *names: str) -> str:
        """What stages say that must succeed, named and run as DVC does: `train@duld-1`."""
        said = ""
        for done in (self.stage(*name.split("@")) for name in names):
            assert done.returncode == 0, f"{' '.join(done.args)}:\n{done.stdout}\n{done.stderr}"
            said += done.stdout
        return said

    def order(self) -> list[str]:
        """All stages, each after those that it needs: lines of the tables start from earlier ones."""
        tables = params.load(self.root / "params.yaml")
        parts = {"stores": ["features"], "starts": ["bootstrap"], "aggregated": ["aggregate"]}
        parts |= {"rounds": ["cluster", "train"], "rows": ["discover", "predict", "regress", "evaluate"]}
        lines = [f"{stage}@{line}" for table, stages in parts.items() for line in tables[table] for stage in stages]
        return ["code", "data", "roi", "backbone", *lines, "report"]

    def uld(self, *words: str) -> str:
        """Output of a command of ours that must succeed, in this process."""
        with process.as_a_process(self.root, "uld", *words):
            done = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    def changed(self) -> frozenset[str]:
        """Stages whose own dependencies, parameters or outputs are not those of dvc.lock, as DVC sees it."""
        return frozenset(json.loads(self.dvc("status", "--json")))

    def metrics(self, row: str) -> Any:
        """Tree of metrics/<row>.json."""
        return params.load(self.root / "metrics" / f"{row}.json")  # JSON is YAML

    def files(self, folder: str) -> dict[str, bytes]:
        """Content of every file below a folder."""
        top = self.root / folder
        return {str(p.relative_to(top)): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}


def refused(done: Done, *words: str) -> None:
    """A stage that ended as a user's mistake should: exit code 2, one error without a traceback that says `words`."""
    assert done.returncode == 2, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    said = done.stderr[done.stderr.index("error: ") :]
    assert said.count("error: ") == 1
    for word in words:
        assert word in said, said


def ran(said: str) -> list[str]:
    """Stages that DVC says it ran."""
    return re.findall(r"Running stage '(.+)'", said)


def restored(said: str) -> list[str]:
    """Stages that DVC says it took from its cache."""
    return re.findall(r"Stage '(.+)' is cached", said)
