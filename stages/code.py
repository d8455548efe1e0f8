"""Stage `code`: what each stage runs, so that an edit re-runs the stages that it concerns and no other.

One file a stage stands in dvc.yaml and dvc.lock for the many that it imports: DVC reads and writes the whole lock after
every stage, which would otherwise take longer than many stages do.
"""

import os
from pathlib import Path

from uld.base import params, stop
from uld.base.code import lists
from uld.base.errors import ULDError
from uld.base.writing import atomic_folder
from uld.stage import HERE, clone

OUT = Path("artifacts/code")


def main() -> None:
    """Write artifacts/code/<stage>.txt or <stage>/<key>.txt: a line a file, its SHA-256 and its name."""
    tree = params.load(Path("params.yaml"))
    _check(Path(params.find(tree, "code")))
    found = lists(HERE, params.load(Path("dvc.yaml")), tree)
    with atomic_folder(OUT) as part:  # never half of the lists
        for name, text in found.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_text(text)


def _check(folder: Path) -> None:
    """DVC looks for edits in the folder `code` of params.yaml: it must be the code that runs, or stand for it."""
    root = clone(Path.cwd())
    if root and folder.resolve() != root:
        raise ULDError(
            f"params.yaml: code: must be '{os.path.relpath(root)}', not '{folder}': this project runs the code of the "
            "clone that it lies in."
        )
    if not root and not (folder / "uld").is_dir():
        raise ULDError(f"params.yaml: code: there is no folder '{folder}/uld': `uld new . --update` writes it.")


if __name__ == "__main__":
    stop.run(main)
