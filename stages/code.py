"""Stage `code`: what each stage runs, so that an edit re-runs the stages that it concerns and no other.

One file a stage stands in dvc.yaml and dvc.lock for the many that it imports: DVC reads and writes the whole lock after
every stage, which would otherwise take longer than many stages do.
"""

import hashlib
from pathlib import Path

from uld.base.imports import closure

OUT = Path("artifacts/code")


def main() -> None:
    """Write artifacts/code/<stage>.txt: a line a file, its SHA-256 and its name."""
    OUT.mkdir(parents=True, exist_ok=True)
    for script in sorted(Path("stages").glob("*.py")):
        files = [script.as_posix(), *closure(script)]
        lines = [f"{hashlib.sha256(Path(name).read_bytes()).hexdigest()}  {name}\n" for name in files]
        (OUT / f"{script.stem}.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
