"""Charts by matplotlib, drawn off screen; the same numbers give the same bytes."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path
from numpy.typing import NDArray

from uld.artifacts.landmarks import Landmarks
from uld.evaluate.pose import RANGES
from uld.report import palette

INK, FAINT = "#333333", "#DDDDDD"
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7B4A12")  # of the other rows
DASHES = ("--", "-.", ":", "-", (0, (4, 1, 1, 1, 1, 1)))  # 5 against 6 colours: 30 rows before a look comes twice


def ced(curves: dict[str, dict[str, pd.DataFrame]], main: str) -> bytes:
    """Cumulative error distributions, a panel a direction and a line a table row.

    Args:
        curves: direction -> row -> lines with `threshold` (share of the normaliser) and `fraction` of images.
        main: the row in solid dark ink.
    """
    figure, panels, looks = _directions(curves, main)
    for direction, axes in panels.items():
        for row, lines in curves[direction].items():
            axes.plot(100 * lines["threshold"], 100 * lines["fraction"], label=row, **looks[row])
        axes.set(xlabel=f"{direction} error, % of the normaliser", ylim=(0, 100))
        axes.set_xlim(0, max(100 * one["threshold"].max() for one in curves[direction].values()))
    figure.axes[0].set_ylabel("images with at most this error, %")
    return _with_legend(figure, list(looks))


def by_yaw(errors: dict[str, dict[str, pd.DataFrame]], main: str) -> bytes:
    """Errors by range of yaw, a panel a direction and a line a table row (figure 3b of the paper).

    Args:
        errors: direction -> row -> lines with `range`, `nme` in % and `images`.
        main: the row in solid dark ink.
    """
    figure, panels, looks = _directions(errors, main)
    for direction, axes in panels.items():
        for row, lines in errors[direction].items():
            at = [RANGES.index(name) for name in lines["range"]]
            axes.plot(at, lines["nme"], label=row, marker="o", ms=3, **looks[row])
        axes.set(ylabel=f"{direction} NME, %", ylim=(0, None), xlim=(-0.3, len(RANGES) - 0.7))
        axes.set_xticks(range(len(RANGES)), [_words(name) for name in RANGES], fontsize=8)
    return _with_legend(figure, list(looks))


def _directions(
    lines: dict[str, dict[str, pd.DataFrame]], main: str
) -> tuple[Figure, dict[str, Axes], dict[str, dict[str, Any]]]:
    """An empty figure with a panel a direction, high enough for a legend of all rows below; a look for each row."""
    names = list(dict.fromkeys(row for rows in lines.values() for row in rows))  # a panel may lack some
    figure = Figure(figsize=(7.2, 4.2 + 0.17 * -(-len(names) // _columns(names))), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(lines), squeeze=False)[0]
    looks = dict(zip(names, _looks(names, main), strict=True))
    return figure, {direction: _plain(axes) for direction, axes in zip(lines, panels, strict=True)}, looks


def _columns(names: list[str]) -> int:
    """How many names have room beside each other below a chart, in small print."""
    return int(np.clip(105 // (9 + max(map(len, names))), 1, 4))


def _with_legend(figure: Figure, names: list[str]) -> bytes:
    """The figure as a PNG, with the lines of these names below all panels."""
    drawn = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    shown = [drawn[name] for name in names]
    figure.legend(
        handles=shown, loc="outside lower center", ncols=_columns(names), frameon=False, fontsize=8, handlelength=2.6
    )
    return _png(figure)


def pose_accuracy(lines: pd.DataFrame) -> bytes:
    """How far pose clusters are poses, over the rounds: a panel a method, a line a range of yaw (figure 7).

    Args:
        lines: columns `method`, `number`, `range` and `accuracy`; range `overall` is in dark ink.
    """
    figure = Figure(figsize=(7.2, 3.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    methods = list(dict.fromkeys(lines["method"]))
    spans = ["overall", *RANGES]
    for panel, method in enumerate(methods):
        axes = _plain(figure.add_subplot(1, len(methods), panel + 1))
        for span, look in zip(spans, _looks(spans, "overall"), strict=True):
            own = lines[(lines["method"] == method) & (lines["range"] == span)]
            axes.plot(own["number"], 100 * own["accuracy"], label=_words(span, " "), marker="o", ms=4, **look)
        axes.set_title(method, fontsize=9, color=INK)
        axes.set(xlabel="round", ylim=(0, 102))
        axes.set_xticks(sorted(set(lines.loc[lines["method"] == method, "number"])))
    figure.axes[0].set_ylabel("images in the range of their cluster, %", fontsize=9)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=8
    )
    return _png(figure)


def _words(name: str, gap: str = "\n") -> str:
    return name.replace("_", gap)


def cluster_map(landmarks: Landmarks) -> bytes:
    """The sample of descriptors on its first two principal axes, a marker a cluster."""
    at, share = plane(landmarks.sample.astype(np.float64))
    figure, axes = _figure(7.2, 5.4)
    for k in range(len(landmarks.centroids)):
        own, outline = at[landmarks.sample_label == k], palette.shape(k) * [1, -1]
        size = 20 * np.abs(outline).max() ** 2  # matplotlib shrinks an outline to the unit box
        look: dict[str, Any] = {"color": palette.colour(k), "edgecolors": INK, "linewidths": 0.3, "alpha": 0.85}
        axes.scatter(own[:, 0], own[:, 1], s=size, marker=Path(outline), **look)
    axes.set(xlabel=f"first principal axis ({share[0]:.0%} of the variance)", ylabel=f"second ({share[1]:.0%})")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    return _png(figure)


def plane(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (S, 2) of points x (S, D), D >= 2, on two principal axes, and their shares of the variance (2,).

    An axis' sign is free; here its largest entry is positive, so that the picture does not flip between machines.
    """
    centred = x - x.mean(axis=0)
    variance, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, :-3:-1]
    first = first * np.where(first[np.abs(first).argmax(axis=0), [0, 1]] < 0, -1, 1)
    return centred @ first, variance[:-3:-1] / max(variance.sum(), np.finfo(np.float64).tiny)


HEALTH = {  # figure of a round -> title of its panel
    "detections": "detections an image",
    "labels": "labels an image",
    "label_change": "labels that moved",
    "equivariance_error": "found elsewhere when turned, cells",
    "silhouette": "silhouette",
    "centroid_norm": "length of the centroids",
}


def rounds(methods: dict[str, dict[str, dict[str, float]]]) -> bytes:
    """Health of the labels over the rounds: a panel a figure, a line a method.

    Args:
        methods: method -> round -> figures.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (key, title) in enumerate(HEALTH.items()):
        axes = _plain(figure.add_subplot(2, 3, number + 1))
        for line, (method, told) in enumerate(methods.items()):
            values = [one.get(key, np.nan) for one in told.values()]
            axes.plot(np.arange(1, len(values) + 1), values, "o-", color=LINES[line % len(LINES)], label=method, ms=4)
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_xticks(np.arange(1, max(map(len, methods.values())) + 1))
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("round", fontsize=9)
    return _png(figure)


def landmark_errors(nme: NDArray[np.float64]) -> bytes:
    """Bars of the backward error (K,) in %, each in its landmark's look."""
    figure, axes = _figure(7.2, 2.6)
    axes.bar(
        np.arange(len(nme)),
        nme,
        color=[palette.colour(k) for k in range(len(nme))],
        edgecolor=INK,
        linewidth=0.5,
        width=0.7,
    )
    axes.set(xlabel="discovered landmark", ylabel="backward NME, %")
    return _bars(figure, axes, len(nme))


def point_errors(nme: NDArray[np.float64]) -> bytes:
    """Bars of the forward error (P,) in % of the annotated points, with a line at their mean."""
    figure, axes = _figure(7.2, 2.6)
    axes.bar(np.arange(len(nme)), nme, color="#8A9BA8", width=0.7)
    axes.axhline(float(np.nanmean(nme)), color=INK, linewidth=1, linestyle="--")
    axes.set(xlabel="annotated point (the line is their mean)", ylabel="forward NME, %")
    return _bars(figure, axes, len(nme))


def raw_accuracy(lines: pd.DataFrame) -> bytes:
    """Bars of the annotated points that a landmark is matched to, in that landmark's look (figure 4 of the paper).

    Args:
        lines: columns `landmark`, the annotated point; `matched`, the discovered one or NA; `raw_accuracy`.
    """
    figure, axes = _figure(7.2, 2.6)
    known = lines[lines["matched"].notna()]
    colours = [palette.colour(int(k)) for k in known["matched"]]
    axes.bar(known["landmark"], 100 * known["raw_accuracy"], color=colours, edgecolor=INK, linewidth=0.5, width=0.9)
    axes.set(xlabel="annotated point", ylabel="images where it is near, %", ylim=(0, 102))
    return _bars(figure, axes, len(lines))


def _bars(figure: Figure, axes: Axes, count: int) -> bytes:
    axes.set_xticks(np.arange(0, count, 1 if count <= 30 else 5))
    axes.set_xlim(-0.8, count - 0.2)
    axes.grid(False, axis="x")
    return _png(figure)


def _looks(names: Iterable[str], main: str) -> list[dict[str, Any]]:
    """The look of each line: `main` in thick dark ink, no two others alike."""
    number, looks = 0, []
    for name in names:
        look: dict[str, Any] = {"color": "#1A1A1A", "linewidth": 2.6, "zorder": 3}
        if name != main:
            look = {"color": LINES[number % len(LINES)], "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.8}
            number += 1
        looks.append(look)
    return looks


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart of inches, without the box and with a faint grid; no pyplot, hence no global state."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, _plain(figure.subplots())


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.set_axisbelow(True)
    axes.grid(True, color=FAINT, linewidth=0.6)
    return axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
