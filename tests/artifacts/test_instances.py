"""Objects of images, flat with offsets."""

from pathlib import Path

import numpy as np
import pytest

from uld.artifacts.instances import Instances, gathered, read_instances, write_instances
from uld.base.errors import ArtifactError

COUNTS = [2, 0, 3]


def made(mask: bool = False) -> Instances:
    rng = np.random.default_rng(0)
    total = sum(COUNTS)
    return Instances(
        np.concatenate([[0], np.cumsum(COUNTS)]),
        rng.uniform(0, 50, (total, 2)).astype(np.float32),
        rng.integers(0, 4, total),
        rng.random(total).astype(np.float32),
        rng.random((total, 3, 5)) < 0.5 if mask else None,
    )


def test_each_image_has_its_own() -> None:
    all_of_them = made(mask=True)
    assert len(all_of_them) == 3 and all_of_them.image.tolist() == [0, 0, 2, 2, 2]
    parts = [all_of_them.of(n) for n in range(3)]
    assert [len(one.xy) for one in parts] == COUNTS
    np.testing.assert_array_equal(parts[2].xy, all_of_them.xy[2:])
    again = gathered(parts)
    for name, value in vars(all_of_them).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_a_mask_of_some_parts_is_none_of_the_whole() -> None:
    assert gathered([made(mask=True), made()]).mask is None


@pytest.mark.parametrize("mask", [False, True])
def test_a_file_gives_back_what_was_written(tmp_path: Path, mask: bool) -> None:
    write_instances(tmp_path / "objects.h5", made(mask))
    found = read_instances(tmp_path / "objects.h5", "predict")
    for name, value in vars(made(mask)).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_a_missing_file_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="dvc repro predict"):
        read_instances(tmp_path / "objects.h5", "predict")
