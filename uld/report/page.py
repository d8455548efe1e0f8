"""The page itself: pictures and tables of a run poured into page.html."""

from dataclasses import dataclass
from importlib.resources import files

import jinja2

from uld.artifacts.annotations import BOX
from uld.datasets.subset import UNUSED
from uld.evaluate.cases import spanned_by
from uld.evaluate.protocols import choose
from uld.report import palette, pictures, source, tables
from uld.report.pictures import Picture
from uld.report.source import ReportParams, Run


@dataclass(frozen=True)
class Page:
    """The HTML, which holds every picture, and the same pictures as PNG files by name."""

    html: str
    pictures: dict[str, bytes]


@dataclass(frozen=True)
class Landmark:
    """One line of the exemplars: the look of landmark `number`, its share of the clustered points, its patches."""

    number: int
    fill: str
    points: str
    count: int
    picture: Picture


def render(run: Run, chosen: ReportParams) -> Page:
    """The page of a run; the same run gives the same bytes."""
    headline = pictures.headline(run, chosen.grid)
    worst = pictures.worst(run, chosen.worst)
    exemplars = pictures.exemplars(run)
    charts = pictures.chart_pictures(run)
    strips = pictures.side_by_side(run)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((files("uld.report") / "page.html").read_text(encoding="utf-8"))
    html = template.render(
        run=run,
        counts=counts(run),
        points=run.inputs.sets[run.markup].xy.shape[1] if run.markup else 0,
        headline=headline,
        worst=list(worst.values()),
        landmarks=[_landmark(run, k, picture) for k, picture in exemplars.items()],
        charts=charts,
        no_errors_by_yaw=_no_errors_by_yaw(run),
        no_pose_accuracy=_no_pose_accuracy(run),
        strips=list(strips.values()),
        errors={name: tables.errors(run.metrics, run.protocol, name) for name in _scored(run)},
        divisors={name: _divisor(run, name) for name in _scored(run)},
        unscored=tables.unscored(run.metrics) if run.markup else [],
        label_free=tables.label_free(run.metrics),
        paper=tables.beside_paper(run.metrics, run.protocol, run.markup),
        health={title: tables.facts(trees) for title, trees in run.health.items()},
    )
    patches = {f"exemplars-{k:02d}.png": picture for k, picture in exemplars.items()}
    every = {"headline.png": headline, **worst, **patches, **charts, **strips}
    return Page(html, {name: picture.png for name, picture in every.items()})


def _landmark(run: Run, k: int, picture: Picture) -> Landmark:
    return Landmark(k, palette.colour(k), palette.svg(k), int(run.landmarks.counts[k]), picture)


def _no_errors_by_yaw(run: Run) -> str:
    """Why there may be no chart of errors by yaw."""
    spans = {span for lines in run.series("yaw", "backward").values() for span in lines["range"]}
    if not spans:
        return "no test image has a known yaw"
    return f"the test images whose yaw is known all turn the same way ({', '.join(sorted(spans))})"


def _no_pose_accuracy(run: Run) -> str:
    """Why there may be no chart of pose clusters against yaw."""
    if run.poses.empty:
        return "no round has pose clusters, or no training image a known yaw"
    spans = sorted(set(run.poses["range"]) - {"overall"})
    return f"most heads of each of them turn the same way ({', '.join(spans)})"


def _scored(run: Run) -> list[str]:
    """Mark-ups that some table row has errors on, the shown one first."""
    found = source.scored(list(run.inputs.sets), run.metrics, run.protocol)
    return sorted(found, key=lambda name: name != run.markup)


def _divisor(run: Run, name: str) -> str:
    """What the errors on a mark-up are divided by."""
    left, right = spanned_by(choose((run.protocol,))[run.protocol], run.inputs.sets[name])
    if not (left and right):
        return f"{BOX}, so they do not compare with errors over the distance of the eyes"
    return f"the distance between {_middle(left)} and {_middle(right)}"


def _middle(points: tuple[int, ...]) -> str:
    """Points whose mean ends a normaliser, by number."""
    if len(points) == 1:
        return f"point {points[0]}"
    return f"the mean of points {', '.join(map(str, points))}"


def counts(run: Run) -> dict[str, int]:
    """Numbers of the first paragraph: images found, kept out, not in the subset and without a box, and landmarks."""
    split = run.inputs.predictions.split
    return {
        "found": len(run.index),
        "out": int((~run.index["status"].isin(("ok", UNUSED))).sum()),
        "unused": int((run.index["status"] == UNUSED).sum()),
        "missed": run.inputs.missed,
        "train": int((split == "train").sum()),
        "test": int((split == "test").sum()),
        "landmarks": run.inputs.predictions.found.xy.shape[1],
    }
