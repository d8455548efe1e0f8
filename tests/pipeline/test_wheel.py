"""A user's own project with an installed wheel and no clone, from `uld new` to the report."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from smoke.generate import photographs
from smoke.project import ROOT, Project, ran
from uld.base import params

ROW = "duld"  # takes a stage of each kind


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, and with the dependencies of this one but not its `uld`."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("uld", "stages"):  # a copy: building leaves files beside the sources
        shutil.copytree(ROOT / name, folder / "clone" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", folder / "clone"]
    subprocess.run(wheel, check=True)
    shutil.rmtree(folder / "clone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    (made,) = (folder / "dist").glob("uld-*.whl")
    python = folder / "env/bin/python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", made], check=True)
    (packages,) = (folder / "env/lib").glob("python*/site-packages")
    # a folder named in a .pth file is searched, and its own .pth files are not: an editable `uld` stays out
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.mark.slow
def test_from_photographs_to_a_report_without_a_clone(installed: Path, tmp_path: Path) -> None:
    photographs(tmp_path / "photos")
    path = os.pathsep.join([str(installed), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "PYTHONPATH": "", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    here = Project(tmp_path)
    where = here.run("python", "-c", "import uld, stages; print(uld.__file__, stages.__path__[0])", **environment)
    assert all(Path(one).is_relative_to(installed.parent) for one in where.split())
    assert "Next: cd" in here.run("uld", "new", "faces", "--images", "photos", "--k", "10", **environment)

    project = Project(tmp_path / "faces")
    small = params.load(ROOT / "tests/smoke/params.yaml")
    tables = {"starts": "silk", "rounds": "duld-1", "rows": ROW}
    own = {table: {line: small[table][line]} for table, line in tables.items()} | {"report.tables": {}}
    project.set(**{key: value for key, value in (small | own).items() if key != "source"})
    said = project.run("dvc", "repro", **environment)
    assert {"data", "backbone", "train@duld-1", f"evaluate@{ROW}", "report"} <= set(ran(said))
    assert ROW in (project.root / "report/index.html").read_text()
    assert str(ROOT) not in (project.root / "dvc.lock").read_text()
    shown = project.run("uld", "table", "--format", "csv", **environment)
    assert [line.split(",")[0] for line in shown.splitlines()] == ["row", ROW]

    assert "params.yaml stays" in project.run("uld", "new", ".", "--update", **environment)
    assert ran(project.run("dvc", "repro", **environment)) == []
