"""The graph of dvc.yaml with stages that only write their outputs, so that all that takes time is DVC's own work."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from uld.base import code

ROOT = Path(__file__).parents[1]
# the lines of the toy project's tables, and what they begin from
ROWS = ["mean_shape", "position", "zeroshot", "duld", "duld_pp"]
ROUNDS = ["duld-1", "duld-2", "duld-3", "pose_proxy-1", "duld_pp-1", "duld_pp-2"]
STARTS = ["frozen", "silk"]


@dataclass(frozen=True)
class Toy:
    """A project below DVC whose stages, but for `code`, write constant files."""

    root: Path

    @staticmethod
    def make(root: Path, **params: Any) -> "Toy":
        """A copy of the code, dvc.yaml with toy commands, and params.yaml with other blocks at its top."""
        root.mkdir(parents=True)
        for name in ("uld", "stages", ".dvc"):
            ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        for name in (".dvcignore", ".gitignore", "pyproject.toml"):
            shutil.copy(ROOT / name, root)
        yaml = YAML(typ="safe")
        yaml.dump(harmless(yaml.load(ROOT / "dvc.yaml")), root / "dvc.yaml")
        yaml.dump(yaml.load(ROOT / "params.yaml") | {"source": "photos"} | params, root / "params.yaml")
        (root / "photos").write_text("photographs\n")
        toy = Toy(root)
        toy.run("git", "init", "--quiet")
        return toy

    def run(self, *command: str) -> str:
        """Output of a command that must succeed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ULD_", "DVC_", "GIT_"))}
        env = kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": ".",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc/tmp/site"),
        }
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def seconds(self, stage: str) -> float:
        """How long a stage takes that does its work in the toy too."""
        began = time.perf_counter()
        self.run(sys.executable, "-m", "uld.stage", stage)
        return time.perf_counter() - began

    def dvc(self, *words: str) -> str:
        """Output of a DVC command that must succeed."""
        return self.run(sys.executable, "-m", "dvc", *words)


def short(rounds: int = len(ROUNDS), rows: int = len(ROWS)) -> dict[str, Any]:
    """The tables of params.yaml with some of their lines: of all rounds and rows 40 stages."""
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    kept = {code.STARTS: STARTS, code.ROUNDS: ROUNDS[:rounds], code.ROWS: ROWS[:rows], "stores": ["trained"]}
    return {table: {name: tree[table][name] for name in names} for table, names in kept.items()}


def harmless(graph: dict[str, Any]) -> dict[str, Any]:
    """dvc.yaml with commands that write what other stages depend on, whatever it is, and read nothing."""
    bodies = {name: body.get("do", body) for name, body in graph["stages"].items()}
    wanted = {dep for body in bodies.values() for dep in body["deps"]}
    for name, body in bodies.items():
        if name != "code":
            body["cmd"] = _command([path for out in _outs(body) for path in _inside(out, wanted)])
    return graph


def _outs(body: dict[str, Any]) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in body.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _inside(out: str, wanted: set[str]) -> list[str]:
    """The files of an output: those that a stage reads one by one, or itself, or one if it is a folder."""
    own = sorted(dep for dep in wanted if dep.startswith(f"{out}/"))
    return own or [out if re.search(r"\.(json|csv|h5)$", out) else f"{out}/file"]


def _command(files: list[str]) -> str:
    folders = sorted({str(Path(file).parent) for file in files})
    write = " && ".join(f"echo '{{}}' > {shlex.quote(file) if '$' not in file else file}" for file in files)
    return f"mkdir -p {' '.join(folders)} && {write}"
