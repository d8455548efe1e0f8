"""Stage `data`: index, check and split one data set, and gather its annotations."""

from pathlib import Path

from uld import datasets
from uld.artifacts.annotations import BOX, write_annotations
from uld.artifacts.files import write_table
from uld.base import params, stop
from uld.datasets.index import build
from uld.datasets.subset import UNUSED

OUT = Path("artifacts/data")


def main() -> None:
    """Read `dataset`, `source`, `datasets.<name>`, `seed`; write index.csv and annotations.h5."""
    name = params.read(str, "dataset")
    kind = datasets.kind(name)
    dataset = kind(datasets.source_folder(params.read(str, "source")), params.read(kind.Params, f"datasets.{name}"))
    index, annotations = build(dataset, params.read(int, "seed"))

    write_table(OUT / "index.csv", index)
    write_annotations(OUT / "annotations.h5", annotations)

    bad = index[~index["status"].isin(("ok", UNUSED))]
    for line in bad.itertuples():
        print(f"{line.status}: {line.image}: {line.reason}")
    counts, unused = index["split"].value_counts(), int((index["status"] == UNUSED).sum())
    left = f", {unused} not in the subset" if unused else ""
    print(f"{len(index)} files: {counts['train']} to train, {counts['test']} to test, {len(bad)} kept out{left}")
    markups = ", ".join(annotations.sets) or "none: NME needs annotations, everything else runs without"
    print(f"{len(annotations.images)} images annotated; mark-ups: {markups}")
    for markup, one in annotations.sets.items():
        if not one.spanned:
            print(f"mark-up {markup}: errors are divided by {BOX}: they do not compare with inter-ocular ones")


if __name__ == "__main__":
    stop.run(main)
