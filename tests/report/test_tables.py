"""Tables from metrics trees."""

from uld.report import tables
from uld.report.tables import Cell, Unscored

ERRORS = {"forward_nme": 10.26, "forward_low": 9.5, "forward_high": 11.04, "backward_nme": 27.0}
METRICS = {
    "found": {
        "landmarks": 10,
        "detection_rate": 0.987,
        "clusters": {"landmark_calinski_harabasz": 12345.6},
        "canonical": {
            "rule": {"ridge": 1e-3},
            "p5": {
                "dense": {"all": ERRORS, "raw": {"accuracy": 1.0}},
                "detected": {"all": {"forward_nme": 98.0}},
                "filled": {"all": {"forward_nme": 8.0, "backward_nme": 9.0}},
            },
        },
    },
    "mean_shape": {"landmarks": 0, "canonical": {"p5": {"dense": {"all": {"forward_nme": 23.7}}}}},
}


def test_errors() -> None:
    table = tables.errors(METRICS, "canonical", "p5")
    scored = [f"{kind} {way}, all rows" for kind in ("dense", "filled") for way in ("forward", "backward")]
    assert table.head == ["K", "detected, %", *scored]
    dense = [Cell("10.3", "9.5 – 11.0"), Cell("27.0")]
    assert table.lines[0] == ("found", [Cell("10"), Cell("98.7"), *dense, Cell("8.0"), Cell("9.0")])
    assert table.lines[1] == ("mean_shape", [Cell("0"), Cell("–"), Cell("23.7"), Cell("–"), Cell("–"), Cell("–")])


def test_numbers_of_rows_are_columns() -> None:
    numbers = {"n300": {"forward_nme": 2.0}, "all": {"forward_nme": 1.0}, "raw": {}}
    both = {"dense": numbers, "filled": numbers}
    table = tables.errors({"row": {"canonical": {"p5": both}}}, "canonical", "p5")
    assert table.head == [f"{kind} forward, {rows} rows" for rows in ("all", "300") for kind in ("dense", "filled")]


def test_label_free_leaves_unknown_columns_out() -> None:
    table = tables.label_free(METRICS)
    assert table.head == ["K", "detected, %", "Calinski-Harabasz"]
    assert table.lines[0][1][2] == Cell("12\N{NARROW NO-BREAK SPACE}346")


def test_reasons_of_several_rows_are_told_once() -> None:
    few, flat = "needs 300 annotated training images, may use 40", "needs a landmark: its map has no intercept"
    metrics = {
        "found": {"unscored": {"canonical": {"p5": {"n300": few}}}},
        "mean_shape": {"unscored": {"canonical": {"p5": {"n300": few}}, "jakab": {"p5": flat}}},
    }
    assert tables.unscored(metrics) == [
        Unscored("canonical.p5.n300", few, "every row"),
        Unscored("jakab.p5", flat, "mean_shape"),
    ]
    assert tables.unscored(METRICS) == []


def test_facts_of_any_tree() -> None:
    table = tables.facts({"a": {"loss": {"train": 0.04312}, "steps": 800}, "b": {"steps": 57340.0, "codec": "pixel"}})
    assert table.head == ["a", "b"]
    assert table.lines == [
        ("loss.train", [Cell("0.04312"), Cell("–")]),
        ("steps", [Cell("800"), Cell("57340")]),
        ("codec", [Cell("–"), Cell("pixel")]),
    ]


def test_the_paper_beside_our_rows() -> None:
    ours = {"p68": {"dense": {"all": {"forward_nme": 7.04, "backward_nme": 4.8}}}}
    metrics = {"duld": {"canonical": ours, "clusters": {"landmark_silhouette": 0.5}}, "mean_shape": {"canonical": ours}}
    found = tables.beside_paper(metrics, "canonical", "p68")
    assert list(found) == ["errors"]  # half of the figures of the clusters is missing
    assert found["errors"].head == ["MAFL", "AFLW", "here"]
    assert found["errors"].lines == [("duld", [Cell("2.82 / 3.21"), Cell("3.42 / 4.89"), Cell("7.04 / 4.80")])]
    assert tables.beside_paper({"mean_shape": {"canonical": ours}}, "canonical", "p68") == {}
