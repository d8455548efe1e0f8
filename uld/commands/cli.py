"""The command `uld`. Each command reads its arguments and calls one function; heavy imports wait until then."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Unsupervised landmark discovery. `dvc repro` runs the pipeline that params.yaml describes; this is the rest.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
PARAMS = Path("params.yaml")


class Points(StrEnum):
    """Landmarks that are scored."""

    dense = "dense"
    detected = "detected"
    filled = "filled"


class Format(StrEnum):
    """How a table is printed."""

    text = "text"
    md = "md"
    csv = "csv"


def _run(work: Callable[[], None]) -> None:
    """A clear line and an exit code in place of a traceback for what a user can cause."""
    from uld.base import stop  # brings numpy, which --help need not wait for

    stop.run(work)


@app.command(epilog="`uld predict artifacts/detectors/zeroshot photos/ one.jpg --overlay drawn/`")
def predict(
    model: Annotated[Path, typer.Argument(help="A detector: artifacts/detectors/ROW.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders to search.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("landmarks.csv"),
    overlay: Annotated[Path | None, typer.Option(help="Folder for PNGs with the landmarks drawn.")] = None,
    detected: Annotated[bool, typer.Option("--detected", help="Leave out landmarks that were not detected.")] = False,
    open_outside: Annotated[
        bool, typer.Option("--open-outside", help="Let the detector open models that lie outside its folder.")
    ] = False,
) -> None:
    """Find the landmarks of photographs.

    The CSV has one line an image and landmark: **image, landmark, x, y** (pixels of the upright photograph), **score**,
    **found** (`detected`, or `dense`: the best match of a landmark that was not detected), **x1, y1, x2, y2** (the
    object's box) and **reason** (why there is no point). An unreadable image is named, the others go on, and the exit
    code is 2. A run that was stopped goes on when the same command is given again.
    """

    def work() -> None:
        from uld.commands import predict

        predict.predict(model, images, out, overlay, detected, open_outside)

    _run(work)


@app.command(epilog="`uld table --set p5 --format md`, `uld table --project studies/ablation --kept seeds.csv`")
def table(
    name: Annotated[str | None, typer.Argument(help="A table of report.tables; without one, every row.")] = None,
    project: Annotated[Path, typer.Option(help="The folder of a project.")] = Path(),
    all_: Annotated[bool, typer.Option("--all", help="A table for each project: the root and its studies.")] = False,
    markup: Annotated[str | None, typer.Option("--set", help="Mark-up; if none is named, p68 or the first.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Of the evaluation; if none is named, the first.")] = None,
    points: Annotated[Points, typer.Option(help="The best match in every image, detections, or both.")] = Points.dense,
    experiments: Annotated[bool, typer.Option("--experiments", help="Of `dvc exp run`: mean ± deviation.")] = False,
    kept: Annotated[Path | None, typer.Option(help="Of a table of runs, such as seeds.csv: mean ± deviation.")] = None,
    write: Annotated[Path | None, typer.Option(help="With --experiments: the table of runs to add them to.")] = None,
    every: Annotated[bool, typer.Option("--every", help="Every figure, not only the main ones.")] = False,
    published: Annotated[bool, typer.Option("--published", help="With the paper's errors, on other images.")] = False,
    format: Annotated[Format, typer.Option(help="For the terminal, as Markdown, or with plain numbers.")] = Format.text,
) -> None:
    """Show the results of a project: a line a row of its table `rows`.

    Errors stand with their 95 % interval over test images; docs/evaluation.md says how to read them. With
    --experiments or --kept, runs that differ in nothing but the seed share a line, and other params that differ are
    columns. With --published, forward / backward NME as the paper reports it stands behind (not in CSV): other images,
    so it is the order of the rows that compares.
    """

    def work() -> None:
        from uld.commands import kept as runs
        from uld.commands import projects
        from uld.commands import table as tables
        from uld.commands.experiments import kept_by_dvc

        _refuse_together(experiments, kept, write, all_, format)
        look = projects.Look(name, tables.Choice(protocol, markup, points.value, every), experiments, kept, published)
        with projects.entered(project):
            if write:
                print(f"{write}: {runs.write(write, kept_by_dvc())} lines")
            if all_:
                projects.show_all(look, format.value)
            else:
                tables.show(look.results(), format.value)

    _run(work)


def _refuse_together(experiments: bool, kept: Path | None, write: Path | None, all_: bool, how: Format) -> None:
    from uld.base.errors import ULDError

    if experiments and kept:
        raise ULDError("--experiments are read from DVC and --kept from a file: give one of them.")
    if write and (all_ or not experiments):
        raise ULDError("--write keeps the --experiments of one project: add that, and leave out --all.")
    if all_ and how == Format.csv:
        raise ULDError("--all prints tables with different columns: for CSV name a --project.")


@app.command(epilog="`uld grid duld_pp methods.duld_pp.cluster.poses.landmarks methods.duld_pp.cluster.poses.poses`")
def grid(
    row: Annotated[str, typer.Argument(help="A row of the results table.")],
    x: Annotated[str, typer.Argument(help="A key of params.yaml in which the experiments differ.")],
    y: Annotated[str, typer.Argument(help="Another.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("plots/grid.csv"),
    markup: Annotated[str | None, typer.Option("--set", help="Mark-up; if none is named, p68 or the first.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Of the evaluation; if none is named, the first.")] = None,
    points: Annotated[Points, typer.Option(help="The best match in every image, detections, or both.")] = Points.dense,
) -> None:
    """Lay the errors of one row out over two params, from the experiments that DVC kept: forward / backward NME.

    Draw what it writes: `dvc plots show plots/grid.csv --template heatmap -x x -y y`.
    """

    def work() -> None:
        from uld.artifacts.files import write_table
        from uld.commands import experiments, table

        title, cells = experiments.grid(row, x, y, table.Choice(protocol, markup, points.value))
        write_table(out, cells)
        shown = cells.pivot(index="y", columns="x", values="label").fillna("-")
        print(f"{title}; {y} down, {x} across\n{shown.rename_axis(index=None, columns=None).to_string()}")

    _run(work)


@app.command(epilog="`uld preset sd15`, `uld preset folder --images ~/cats --write`")
def preset(
    name: Annotated[str | None, typer.Argument(help="A preset; without one they are listed.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Change params.yaml; its comments stay.")] = False,
    images: Annotated[Path | None, typer.Option(help="Your photographs, for the preset `folder`.")] = None,
) -> None:
    """Show or apply named settings.

    Without --write the changes to params.yaml are only shown, and the `dvc exp run` that makes them for one run.
    """

    def work() -> None:
        from uld.commands import presets

        if name is None:
            presets.show_all()
        else:
            presets.show(presets.load(name, images), PARAMS, write)

    _run(work)


@app.command(epilog="`uld new mice --images ~/photographs`, then `cd mice && dvc repro`")
def new(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    images: Annotated[Path | None, typer.Option(help="Your photographs of one kind of thing, nested anyhow.")] = None,
    k: Annotated[int, typer.Option("--k", help="Number of landmarks.")] = 10,
    update: Annotated[bool, typer.Option("--update", help="After an update of uld: only dvc.yaml is new.")] = False,
) -> None:
    """Make a project for your own photographs, to be run by `dvc repro`.

    The folder gets params.yaml, dvc.yaml and a README.md that says what comes next. --update writes dvc.yaml of the
    installed version into a project that is there, and leaves params.yaml.
    """

    def work() -> None:
        from uld.base.errors import ULDError
        from uld.commands import new

        if update == (images is not None):
            raise ULDError("give either --images, for a new project, or --update, for one that is there.")
        for line in new.update(folder) if images is None else new.create(folder, images, k):
            print(line)

    _run(work)


@app.command(epilog="`uld rounds duld 5`, `uld rounds duld_pp 3 --start pose_proxy-1`")
def rounds(
    method: Annotated[str, typer.Argument(help="A block of `methods`.")],
    count: Annotated[int, typer.Argument(metavar="N", help="Number of rounds.")],
    start: Annotated[
        str | None, typer.Option(help="Where the first one starts; else as now, or the first start that is trained.")
    ] = None,
) -> None:
    """Write N lines METHOD-1 ... METHOD-N into the table `rounds` of params.yaml, each starting from the one before."""

    def work() -> None:
        from uld.commands import rounds

        for line in rounds.chain(PARAMS, method, count, start):
            print(line)

    _run(work)


@app.command(epilog="`uld faces3d data/raw/faces3d --count 10000`")
def faces3d(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    count: Annotated[
        int, typer.Option(min=20, help="Photographs, ten of each person; every fourth person is for testing.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other people.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Side in pixels.")] = 128,
) -> None:
    """Make photographs of heads whose pose and landmarks are known.

    `uld preset faces3d --write` then makes the pipeline run on data/raw/faces3d. Yaw is between -90 and 90 degrees.
    """

    def work() -> None:
        from uld.datasets.heads3d.write import write

        write(folder, count, seed, size)

    _run(work)


@app.command(
    epilog="`uld points points.csv --set p68 --share 0.6`, `uld points few.csv --set p68 --share 0.2 --count 12-24`"
)
def points(
    file: Annotated[Path, typer.Argument(help="The CSV to write. It must not be there yet.")],
    markup: Annotated[str, typer.Option("--set", help="The mark-up whose points are drawn from.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Of an image's points, those that are annotated.")],
    count: Annotated[str, typer.Option(help="Points an image: a number, or 12-24 for one drawn in each.")] = "15",
    chosen: Annotated[
        str | None,
        typer.Option(
            "--points", help="Of the mark-up, by number from 0: 30,36,45. If none is named: 15 of 68, else all."
        ),
    ] = None,
    moved: Annotated[
        float, typer.Option(min=0, max=1, help="How far an annotated point is moved at most; 1: the crop's side.")
    ] = 0.012,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other points.")] = 0,
) -> None:
    """Write points to teach from: annotated ones among random places. **An experiment with ground truth.**

    It asks how much noise in its first points discovery bears (Mallis, thesis, sections 5.4.2 and 6.3.2): what such a
    file teaches has seen annotations and is not unsupervised. Points are of training images; those that are not
    annotated are random places in the object's box. Run `dvc repro roi` first, and put the line that is printed into
    `starts.NAME.train` or `methods.NAME.cluster.points` of params.yaml. docs/experiments.md says what a file of points
    of your own detector looks like.
    """

    def work() -> None:
        from uld.commands import points

        for line in points.write(file, markup, chosen, count, share, moved, seed):
            print(line)

    _run(work)


@app.command(epilog="`uld doctor`; `uld doctor --plan`: disk, memory and hours of the ways to keep features")
def doctor(
    plan: Annotated[bool, typer.Option("--plan", help="what params.yaml will cost; begins no work")] = False,
) -> None:
    """Check what is installed, and that all is there that params.yaml needs; exit code 1 if not."""

    def work() -> None:
        from uld.base import params
        from uld.base.errors import ParamsError
        from uld.commands import blocks, doctor
        from uld.commands import plan as costs

        if plan:
            if wrong := blocks.problems(PARAMS):
                raise ParamsError("\n".join(wrong))
            fits = costs.show(params.load(PARAMS))
        else:
            fits = doctor.report(doctor.examine(PARAMS))
        if not fits:
            raise typer.Exit(1)

    _run(work)
