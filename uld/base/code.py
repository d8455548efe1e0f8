"""Which code each stage of the graph runs: a list of files for every stage, and for every line of a `foreach` stage.

A list holds what the stage's script imports, and of each table (methods, models, data sets ...) the one entry that
params.yaml makes this stage open. So a new method changes no list, and an edited one those of its own rounds and rows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uld.base.errors import ParamsError
from uld.base.imports import Code
from uld.base.params import find

Tree = dict[str, Any]  # params.yaml, or dvc.yaml

# what params.yaml calls its tables, and the words of their lines that say what is opened
STARTS, AGGREGATED, ROUNDS, ROWS = "starts", "aggregated", "rounds", "rows"
MODEL, METHOD, BEGINS, READS = "model", "method", "start", "reads"


def lists(root: Path, graph: Tree, params: Tree) -> dict[str, str]:
    """The list of every stage but `code`: `train/duld-1.txt` -> lines of SHA-256 and file name, sorted by name.

    Args:
        root: the folder that holds uld/ and stages/.
        graph: dvc.yaml.

    Raises:
        ParamsError: dvc.yaml and the code do not have the same stages; a line of params.yaml opens what is not there.
    """
    _same_stages(root, graph)
    code = Code(root)
    return {
        f"{stage}.txt" if key is None else f"{stage}/{key}.txt": _hashed(code, files(code, stage, key, params))
        for stage, key in instances(graph, params)
    }


def instances(graph: Tree, params: Tree) -> Iterator[tuple[str, str | None]]:
    """Every stage but `code`: its name, and its line where it is one of a `foreach`."""
    for stage, body in graph["stages"].items():
        if "foreach" in body:
            table = str(body["foreach"]).strip("${} ")
            yield from ((stage, str(key)) for key in find(params, table) or {})
        elif stage != "code":
            yield stage, None


def files(code: Code, stage: str, key: str | None, params: Tree) -> list[str]:
    """Names of the files that one stage runs."""
    opened = [code.entry(room, name) for room, name in opens(stage, key, params)]
    return code.closure([f"stages/{stage}.py", *(name for name in opened if name)])


def opens(stage: str, key: str | None, params: Tree) -> list[tuple[str, str]]:
    """The entries of tables that a stage opens: the room of the table, and the name.

    Raises:
        ParamsError: a block or a word of params.yaml is missing, or it is not known what the stage opens.
    """
    match stage:
        case "data":
            return [_data_set(params)]
        case "roi":
            return [_data_set(params), *_providers(params)]
        case "backbone":
            return [("diffusion", find(params, f"backbones.{find(params, 'backbone')}.kind"))]
        case "bootstrap":
            start = ("starts", find(params, f"{STARTS}.{key}.{MODEL}"))
            own = _views(STARTS, key, params), _model(key, params)
            return [start, *own, *_drawn(key, params), *_teacher(key, params)]
        case "aggregate":
            return [_views(AGGREGATED, key, params), _model(key, params)]
        case "cluster":
            return [_method(ROUNDS, key, params), _views(ROUNDS, key, params), _model(key, params)]
        case "train":
            return [*opens("cluster", key, params), *_drawn(key, params)]
        case "discover":
            own = _views(ROWS, key, params), _model(_begins(ROWS, key, params), params)
            return [_method(ROWS, key, params), *own]
        case "predict":
            return [*opens("discover", key, params), *_providers(params)]
        case "features" | "regress" | "evaluate" | "report":
            return []
    raise ParamsError(f"dvc.yaml: uld/base/code.py does not say what stage '{stage}' opens: add a line to `opens`.")


def _data_set(params: Tree) -> tuple[str, str]:
    return "datasets", find(params, "dataset")


def _providers(params: Tree) -> list[tuple[str, str]]:
    return [("roi", name) for name in find(params, "roi.providers")]


def _teacher(start: str | None, params: Tree) -> list[tuple[str, str]]:
    """The keypoint detector that teaches a start, if any; one that teaches itself has no file."""
    line = find(params, f"{STARTS}.{start}")
    name = find(params, f"{STARTS}.{start}.train.keypoints.by") if "train" in line else "silk"
    return [("keypoints", name)] if name != "silk" else []


def _method(table: str, key: str | None, params: Tree) -> tuple[str, str]:
    """A line of `methods` has the name of its method, or that and a name of its own behind a hyphen."""
    return "methods", str(find(params, f"{table}.{key}.{METHOD}")).split("-")[0]


def _views(table: str, key: str | None, params: Tree) -> tuple[str, str]:
    """What shows a model its images, by the folder that it reads."""
    return "sources", str(find(params, f"{table}.{key}.{READS}")).split("/")[0]


def _begins(table: str, key: str | None, params: Tree) -> str:
    return str(find(params, f"{table}.{key}.{BEGINS}"))


def _drawn(name: str | None, params: Tree) -> list[tuple[str, str]]:
    """What makes features of views drawn anew, where the start below asks for it and its trunk is not frozen."""
    *above, start = _chain(name, params)
    line = find(params, f"{STARTS}.{start}")
    asks = line.get("views") is not None and _views(STARTS, start, params) == ("sources", "features")
    frozen = any(one in (find(params, AGGREGATED) or {}) for one in above)
    return [("sources", "drawn")] if asks and not frozen else []


def _model(name: str | None, params: Tree) -> tuple[str, str]:
    """The model of a start, or of the start at the bottom of the chain of a round or of a start of `aggregated`."""
    return "models", find(params, f"{STARTS}.{_chain(name, params)[-1]}.{MODEL}")


def _chain(name: str | None, params: Tree) -> list[str | None]:
    """A line and those that it begins at, down to a line of `starts`."""
    chain: list[str | None] = []
    while table := next((one for one in (ROUNDS, AGGREGATED) if name in (find(params, one) or {})), None):
        if name in chain:
            raise ParamsError(f"params.yaml: {table}.{name} starts from itself: give the first round a start.")
        chain.append(name)
        name = _begins(table, name, params)
    return [*chain, name]


def _same_stages(root: Path, graph: Tree) -> None:
    scripts = {path.stem for path in (root / "stages").glob("*.py")} - {"__init__"}
    for name in sorted(scripts ^ set(graph["stages"])):
        lacks = "dvc.yaml has no such stage" if name in scripts else "there is no such script in stages/"
        raise ParamsError(f"stage '{name}': {lacks}. Take the dvc.yaml of this version: `uld new . --update`.")


def _hashed(code: Code, names: list[str]) -> str:
    return "".join(f"{code.fingerprint(name)}  {name}\n" for name in names)
