"""Stage `report`: one page that shows what the run found and how good it is."""

from pathlib import Path
from typing import Any

from uld.artifacts.files import atomic
from uld.base import params, stop
from uld.evaluate.protocols import choose
from uld.report import page, source

OUT = Path("report")


def main() -> None:
    """Read `report`, the names of data set, rows and rounds and the first protocol; write index.html and its PNGs."""
    chosen = params.read(source.ReportParams, "report")
    rows = list(params.read(dict[str, Any], "rows"))
    protocol = next(iter(choose(params.read(tuple[str, ...], "evaluate.protocols"))))
    rounds = {name: block["method"] for name, block in params.read(dict[str, dict[str, str]], "rounds").items()}
    run = source.read(chosen, rows, rounds, params.read(str, "dataset"), protocol, Path("params.yaml"))
    report = page.render(run, chosen)
    for name, data in {**report.pictures, "index.html": report.html.encode()}.items():
        with atomic(OUT / name) as part:
            part.write_bytes(data)
    print(f"{OUT / 'index.html'}: open it in a browser")


if __name__ == "__main__":
    stop.run(main)
