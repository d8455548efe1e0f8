"""Stage `report`: one page that shows what the run found and how good it is."""

from pathlib import Path
from typing import Any

from uld.artifacts.files import write_table
from uld.base import params, stop
from uld.base.writing import write
from uld.evaluate.poses import of_rounds
from uld.evaluate.protocols import choose
from uld.report import page, source

OUT = Path("report")


def main() -> None:
    """Read `report`, the names of data set, rows and rounds and the first protocol.

    Writes index.html, its PNGs, and poses.csv: how far the pose clusters of the rounds are poses.
    """
    chosen = params.read(source.ReportParams, "report")
    rows = list(params.read(dict[str, Any], "rows"))
    protocol = next(iter(choose(params.read(tuple[str, ...], "evaluate.protocols"))))
    lines = params.read(dict[str, dict[str, str]] | None, "rounds") or {}
    rounds = {name: block["method"] for name, block in lines.items()}
    poses = of_rounds(rounds)
    run = source.read(chosen, rows, rounds, params.read(str, "dataset"), protocol, Path("params.yaml"), poses)
    report = page.render(run, chosen)
    write_table(OUT / "poses.csv", poses.lines)
    for name, data in {**report.pictures, "index.html": report.html.encode()}.items():
        write(OUT / name, data)
    print(f"{OUT / 'index.html'}: open it in a browser")


if __name__ == "__main__":
    stop.run(main)
