import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uld.base import params
from uld.base.errors import ParamsError
from uld.commands import blocks
from uld.commands.rounds import chain

HEAD = """starts:
  frozen: {reads: a}  # where all begins
  other: {reads: b}
"""
TAIL = """
# --- rows
rows:
  a: {start: frozen}
  b: {start: pose}      # of the pose
methods: {duld: {train: {}}, duld_pp: {train: {}}, zeroshot: {}}
"""
TABLES = [
    "rounds: {}\n",
    "rounds: {}              # a line a round\n",
    "rounds:\n",
    "rounds:                 # a line a round\n  pose: {reads: a, start: frozen, method: duld_pp} # kept\n",
    "rounds:\n  duld-1: {reads: a, start: frozen, method: duld} # first\n"
    "  pose: {reads: a, start: duld-1, method: duld_pp}\n",
    "rounds:\n  duld-1:\n    reads: a\n    start: frozen\n    method: duld # nested\n  # between\n"
    "  pose: {reads: a, start: frozen, method: duld_pp}\n",
    "rounds:\n  duld-1: {reads: b, start: other, method: duld}\n  duld-2: {reads: b, start: duld-1, method: duld}\n",
]


def write(path, table: str) -> None:
    path.write_text(HEAD + table + TAIL)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(table=st.sampled_from(TABLES), count=st.integers(1, 6))
def test_the_chain_is_written_and_all_else_stays(tmp_path, table: str, count: int) -> None:
    path = tmp_path / "params.yaml"
    write(path, table)
    before = params.load(path)
    chain(path, "duld", count)
    after = params.load(path)
    wanted = [f"duld-{n}" for n in range(1, count + 1)]
    # as it was, or the first of starts
    first = (before["rounds"] or {}).get("duld-1", {"reads": "a", "start": "frozen"})
    assert [after["rounds"][line] for line in wanted] == [
        {"reads": first["reads"], "start": start, "method": "duld"} for start in [first["start"], *wanted[:-1]]
    ]
    others = {name: dict(line) for name, line in (before["rounds"] or {}).items() if not name.startswith("duld-")}
    for line in others.values():
        line["start"] = line["start"].replace("duld-1", wanted[-1])  # what started from the last round still does
    assert {name: line for name, line in after["rounds"].items() if name not in wanted} == others
    assert {**after, "rounds": None} == {**before, "rounds": None}
    text = path.read_text()
    assert text.startswith(HEAD)
    assert text.endswith(TAIL)
    once = text
    chain(path, "duld", count)
    assert path.read_text() == once


def test_a_new_chain_starts_where_something_can_be_trained(tmp_path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "starts: {frozen: {reads: a}, silk: {reads: b, train: {}}}\n"
        "rounds: {}\nrows: {}\nmethods: {duld: {train: {}}}\n"
    )
    assert chain(path, "duld", 2) == [
        "duld-1: {reads: b, start: silk, method: duld}",
        "duld-2: {reads: b, start: duld-1, method: duld}",
    ]


def test_lines_that_stay_keep_their_comments(tmp_path) -> None:
    path = tmp_path / "params.yaml"
    write(path, TABLES[4])
    chain(path, "duld", 2)
    kept, new = (
        "duld-1: {reads: a, start: frozen, method: duld} # first",
        "duld-2: {reads: a, start: duld-1, method: duld}",
    )
    assert f"  {kept}\n  {new}\n" in path.read_text()


def test_a_longer_chain_starts_where_it_did_unless_told(tmp_path) -> None:
    path = tmp_path / "params.yaml"
    write(path, TABLES[6])
    chain(path, "duld", 3)
    assert [line["start"] for line in params.load(path)["rounds"].values()] == ["other", "duld-1", "duld-2"]
    assert {line["reads"] for line in params.load(path)["rounds"].values()} == {"b"}
    chain(path, "duld", 1, "frozen")
    assert params.load(path)["rounds"] == {"duld-1": {"reads": "a", "start": "frozen", "method": "duld"}}


def test_a_chain_reads_what_the_model_reads_that_it_starts_from(tmp_path) -> None:
    path = tmp_path / "params.yaml"
    write(path, "rounds:\n  pose: {reads: c, start: other, method: duld_pp}\n")
    chain(path, "duld", 2, "pose")
    assert [line["reads"] for line in params.load(path)["rounds"].values()] == ["c"] * 3
    chain(path, "duld", 2, "other")
    assert params.load(path)["rounds"]["duld-2"]["reads"] == "b"
    path.write_text(path.read_text() + "aggregated: {other_frozen: {reads: b, start: other}}\n")
    chain(path, "duld", 3)
    assert params.load(path)["rounds"]["duld-3"]["reads"] == "b"
    chain(path, "duld", 2, "other_frozen")
    reads = [params.load(path)["rounds"][name]["reads"] for name in ("duld-1", "duld-2")]
    assert reads == ["features/other_frozen"] * 2
    chain(path, "duld", 1, "frozen")
    assert params.load(path)["rounds"]["duld-1"]["reads"] == "a"


def test_what_starts_from_the_last_round_follows_it(tmp_path) -> None:
    path = tmp_path / "params.yaml"
    table = TABLES[6]
    rows = "  row: {start: duld-2, method: duld}   # the last\n  nested:\n    method: duld\n    start: duld-2\n"
    path.write_text(HEAD + table + TAIL.replace("  b: ", rows + "  b: "))
    chain(path, "duld_pp", 1, "duld-2")
    for count in (12, 3, 1):
        chain(path, "duld", count)
        tables = params.load(path)
        followers = [tables["rows"]["row"], tables["rows"]["nested"], tables["rounds"]["duld_pp-1"]]
        assert {one["start"] for one in followers} == {f"duld-{count}"}
    assert "  row: {start: duld-1, method: duld}   # the last\n" in path.read_text()


def test_a_line_in_use_is_not_taken_out(tmp_path) -> None:
    path = tmp_path / "params.yaml"
    write(path, "rounds: {}\n")
    chain(path, "duld", 2)
    chain(path, "duld_pp", 1, "duld-2")
    chain(path, "duld", 2)
    path.write_text(path.read_text().replace("  b: ", "  early: {start: duld-2}\n  b: "))
    chain(path, "duld", 4)
    path.write_text(path.read_text().replace("early: {start: duld-4}", "early: {start: duld-2}"))
    text = path.read_text()
    with pytest.raises(ParamsError, match=r"rows\.early starts from 'duld-2'"):
        chain(path, "duld", 1)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("method", "count", "start", "hint"),
    [
        ("nope", 1, None, "no method 'nope'; methods has duld, duld_pp, zeroshot"),
        ("zeroshot", 1, None, "'zeroshot' trains nothing"),
        ("duld", 1, "nope", "cannot start from 'nope'; there are frozen, other"),
        ("duld", 1, "duld-1", "cannot start from 'duld-1'"),
        ("duld", 0, None, "at least 1"),
    ],
)
def test_mistakes(tmp_path, method: str, count: int, start: str | None, hint: str) -> None:
    path = tmp_path / "params.yaml"
    write(path, "rounds: {}\n")
    with pytest.raises(ParamsError, match=hint):
        chain(path, method, count, start)
    assert "rounds: {}\n" in path.read_text()


def test_the_shipped_table_takes_rounds(project) -> None:
    path = project / "params.yaml"
    before = path.read_text()
    chain(path, "duld", 4, "silk")
    assert blocks.problems(path) == []
    added = [line for line in path.read_text().splitlines() if line not in before.splitlines()]
    assert added == [
        "  duld-4: {reads: features/trained, start: duld-3, method: duld}",
        "  pose_proxy-1: {reads: features/trained, start: duld-4, method: pose_proxy}",
        "  duld: {reads: features/trained, start: duld-4, method: duld}",
    ]


def test_the_command(tmp_path, monkeypatch, uld) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "params.yaml", "rounds: {}\n")
    done = uld("rounds", "duld", 2, "--start", "other")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "duld-1: {reads: b, start: other, method: duld}",
        "duld-2: {reads: b, start: duld-1, method: duld}",
    ]
    assert uld("rounds", "duld", 0).exit_code == 2
