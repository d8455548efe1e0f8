"""Tables of the page, from the metrics trees."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from uld.report import published

Tree = dict[str, Any]

ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """One figure as text, and what stands small below it (its interval)."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Headings of all columns, and lines of a name and its cells."""

    head: list[str]
    lines: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Column:
    """A figure of every table row: heading, dotted path in the metrics tree, decimals; `scale` 100 makes percent."""

    title: str
    path: str
    digits: int
    scale: float = 1.0

    def cell(self, tree: Tree) -> Cell:
        """The figure in one tree, with its 95 % interval where the tree has one; a dash where it has none."""
        value = pick(tree, self.path)
        if value is None:
            return Cell(ABSENT)
        ends = [pick(tree, self.path.removesuffix("_nme") + end) for end in ("_low", "_high")]
        known = [self._format(end) for end in ends if end is not None]
        return Cell(self._format(value), f" {ABSENT} ".join(known))

    def _format(self, value: float) -> str:
        return f"{self.scale * value:,.{self.digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


LABEL_FREE = (
    Column("K", "landmarks", 0),
    Column("detected, %", "detection_rate", 1, 100),
    Column("stability, %", "stability", 2),
    Column("silhouette", "clusters.landmark_silhouette", 3),
    Column("Calinski-Harabasz", "clusters.landmark_calinski_harabasz", 0),
)


def label_free(metrics: dict[str, Tree]) -> Table:
    """Figures that need no annotation, a line a table row."""
    return _table(metrics, LABEL_FREE)


def errors(metrics: dict[str, Tree], protocol: str, set_name: str) -> Table:
    """Forward and backward NME of dense and filled landmarks on one mark-up, a line a table row.

    Each number of annotated training images has columns of its own.
    """
    branches = [pick(tree, f"{protocol}.{set_name}.dense") or {} for tree in metrics.values()]
    numbers = sorted({name for one in branches for name in one if name == "all" or name[1:].isdigit()})
    columns = [
        Column(
            f"{kind} {way}, {'all rows' if number == 'all' else f'{number[1:]} rows'}",
            f"{protocol}.{set_name}.{kind}.{number}.{way}_nme",
            1,
        )
        for number in numbers
        for kind in ("dense", "filled")
        for way in ("forward", "backward")
    ]
    return _table(metrics, (*LABEL_FREE[:2], *columns))


@dataclass(frozen=True)
class Unscored:
    """Why figures are not there; `path`: protocol, mark-up and number of regressor rows; `rows`: of the table."""

    path: str
    why: str
    rows: str


def unscored(metrics: dict[str, Tree]) -> list[Unscored]:
    """What is not scored in the table rows, a line a path and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for row, tree in metrics.items():
        for reason in leaves(tree.get("unscored", {})):
            found.setdefault(reason, []).append(row)
    return [
        Unscored(path, why, "every row" if len(rows) == len(metrics) else ", ".join(rows))
        for (path, why), rows in found.items()
    ]


def beside_paper(metrics: dict[str, Tree], protocol: str, set_name: str) -> dict[str, Table]:
    """Kind of figures -> what the paper reports of the rows that are here too, and in the last column what is here."""
    branch = f"{protocol}.{set_name}.dense.all"
    paths = {
        "errors": (f"{branch}.forward_nme", f"{branch}.backward_nme"),
        "clusters": ("clusters.landmark_silhouette", "clusters.landmark_calinski_harabasz"),
    }
    found = {}
    for kind, ours in paths.items():
        theirs = published.columns(kind, metrics)
        lines = []
        for row, tree in metrics.items():
            own = [pick(tree, path) for path in ours]
            if any(row in one for one in theirs.values()) and None not in own:
                cells = [Cell(one.get(row, ABSENT)) for one in theirs.values()]
                lines.append((row, [*cells, Cell(published.pair(kind, own))]))
        if lines:
            found[kind] = Table([*theirs, "here"], lines)
    return found


def _table(metrics: dict[str, Tree], columns: tuple[Column, ...]) -> Table:
    """A line a row; columns that no row has a figure for are left out."""
    used = [one for one in columns if any(pick(tree, one.path) is not None for tree in metrics.values())]
    lines = [(row, [one.cell(tree) for one in used]) for row, tree in metrics.items()]
    return Table([one.title for one in used], lines)


def facts(files: dict[str, Tree]) -> Table:
    """Any metrics files side by side: a column a file, a line a key."""
    flat = {name: dict(leaves(tree)) for name, tree in files.items()}
    keys = dict.fromkeys(key for one in flat.values() for key in one)
    lines = [(key, [Cell(plain(one[key]) if key in one else ABSENT) for one in flat.values()]) for key in keys]
    return Table(list(flat), lines)


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything in a tree that is not a branch."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plain(value: Any) -> str:
    """A value as text: four digits of a fraction, all digits before the point."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def pick(tree: Tree, path: str) -> Any:
    """What is at a dotted path of a tree; None where there is nothing."""
    node: Any = tree
    for name in path.split("."):
        if not isinstance(node, dict) or name not in node:
            return None
        node = node[name]
    return node
