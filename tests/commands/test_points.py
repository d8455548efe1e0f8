"""A file of points that is made of a mark-up: how true points and random places are mixed, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

from uld.artifacts.annotations import Annotations, AnnotationSet, write_annotations
from uld.artifacts.files import sha256, write_table
from uld.base.errors import ULDError
from uld.commands.points import FIFTEEN, Mixture, Scene, mix, numbered, span
from uld.images import cut
from uld.keypoints.file import File, FileParams

WIDTH, HEIGHT = 48, 40


# --- what is drawn ---


def scene(images: int, points: int, seed: int = 0) -> Scene:
    """Points on a line in the upper half of photographs of 100 x 80 pixels; boxes lie below, and leave these."""
    rng = np.random.default_rng(seed)
    true = np.stack([np.tile(np.arange(points) * 6.0 + 5, (images, 1)), rng.uniform(5, 30, (images, points))], 2)
    size, boxes = np.tile([100.0, 80.0], (images, 1)), np.tile([-10.0, 50.0, 70.0, 78.0], (images, 1))
    return Scene(true, size, boxes, np.linspace(50, 100, images))


def drawn(given: Scene, **changes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    recipe: dict[str, Any] = {"share": 0.6, "least": 15, "most": 15, "moved": 0.012}
    return mix(given, Mixture(**recipe | changes), np.random.default_rng(1))


def test_each_image_has_its_share() -> None:
    given = scene(300, 15)
    image, xy, true = drawn(given)
    np.testing.assert_array_equal(image, np.repeat(np.arange(300), 15))
    assert (true.reshape(300, 15).sum(1) == 9).all()
    of_image = np.linalg.norm(xy[true][:, None] - given.true[image[true]], axis=2)
    far = of_image.min(1) / given.crops[image[true]]
    assert 0.011 < far.max() <= 0.012 and abs((far**2).mean() / 0.012**2 - 0.5) < 0.02  # within a disc
    which = of_image.argmin(1).reshape(300, 9)
    assert all(len(set(one)) == 9 for one in which)  # no point twice
    assert np.bincount(which.ravel(), minlength=15).min() > 120  # and all as often: 180 times
    noise = xy[~true]
    low, high = noise.min(0), noise.max(0)
    assert (low >= [-0.5, 50]).all() and (low < [1, 51]).all() and (high <= [70, 78]).all() and (high > [69, 77]).all()
    assert 0.5 < true.reshape(300, 15)[:, 0].mean() < 0.7  # the order says nothing


def test_the_share_holds_on_average() -> None:
    image, _, true = drawn(scene(2000, 15), share=0.3, least=5, most=7)
    count = np.bincount(image)
    assert set(count) == {5, 6, 7} and np.bincount(count)[5:].min() > 600
    own = np.bincount(image, true)
    assert (np.abs(own - 0.3 * count) < 1).all()
    assert true.mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_are_true(share: float) -> None:
    image, xy, true = drawn(scene(20, 15), share=share, moved=0.0)
    assert len(xy) == 300 and (true == bool(share)).all()
    if share:
        own = xy[np.lexsort((xy[:, 0], image))].reshape(20, 15, 2)
        np.testing.assert_array_equal(own, scene(20, 15).true)


def test_points_that_are_not_there_are_not_drawn() -> None:
    """Absent ones, and those outside of the photograph; random ones stand in for them."""
    given = scene(50, 4)
    given.true[:, 0], given.true[:, 1, 0], given.true[10:20] = np.nan, 99.6, np.nan
    image, xy, true = drawn(given, share=1.0, least=4, most=4, moved=0.5)
    count = np.bincount(image, true, minlength=50)
    assert (
        (np.bincount(image) == 4).all() and (count[10:20] == 0).all() and (np.delete(count, slice(10, 20)) == 2).all()
    )
    assert np.isfinite(xy).all() and (xy >= -0.5).all() and (xy <= [99.5, 79.5]).all()  # moved ones too


def test_the_seed_draws() -> None:
    first, again = drawn(scene(5, 15)), drawn(scene(5, 15))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    other = mix(scene(5, 15), Mixture(0.6, 15, 15, 0.012), np.random.default_rng(2))
    assert not np.array_equal(first[1], other[1])


# --- the command ---


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: tuple[Path, pd.DataFrame]) -> Path:
    """Seven photographs after the stages data and roi, with a mark-up of 68 points that the first one does not have."""
    monkeypatch.chdir(tmp_path)
    folder, boxes = photographs
    index = boxes[["image", "split"]].assign(group="", sha256="", status="ok", reason="", width=WIDTH, height=HEIGHT)
    for room in ("data", "roi"):
        (tmp_path / "artifacts" / room).mkdir(parents=True)
    write_table(tmp_path / "artifacts/data/index.csv", index)
    write_table(tmp_path / "artifacts/roi/boxes.csv", boxes.assign(provider="full"))
    cut.write(tmp_path / "artifacts/roi/crops.zarr", folder, boxes, 0.25, 32)
    xy = np.random.default_rng(0).uniform(8, 34, (6, 68, 2)).astype(np.float32)
    marks = {"p68": AnnotationSet(xy), "p2": AnnotationSet(xy[:, :2])}
    names = boxes["image"].to_numpy(dtype=object)[1:]
    write_annotations(tmp_path / "artifacts/data/annotations.h5", Annotations(names, marks))
    return tmp_path


def test_a_file_for_training_images(project: Path, uld: Callable[..., Result]) -> None:
    done = uld("points", "points.csv", "--set", "p68", "--share", 0.8)
    assert done.exit_code == 0, done.output
    first, second, third = done.output.splitlines()
    assert first == "points.csv: 75 points in 5 training images, 64.0% of them annotated"  # one has no mark-up
    found = sha256(Path("points.csv"))
    assert second == f"sha256: {found}"
    assert third == f"keypoints: {{by: file, path: points.csv, sha256: {found}}}"
    table = pd.read_csv("points.csv")
    assert table.columns.tolist() == ["image", "x", "y"]
    assert table["image"].value_counts().to_dict() == {f"{n}.png": 15 for n in range(5)}
    File(FileParams("points.csv", found))  # a teacher takes it
    again = uld("points", "other folder.csv", "--set", "p68", "--share", 0.8)
    assert Path("other folder.csv").read_bytes() == Path("points.csv").read_bytes()
    assert 'path: "other folder.csv", sha256' in again.output
    uld("points", "third.csv", "--set", "p68", "--share", 0.8, "--seed", 1)
    assert Path("third.csv").read_bytes() != Path("points.csv").read_bytes()


def test_points_by_number_are_moved_by_a_share_of_the_crop(project: Path, uld: Callable[..., Result]) -> None:
    """Crops are 48 pixels wide: boxes of 32, and a quarter on each side."""
    done = uld("points", "points.csv", "--set", "p68", "--share", 1, "--count", 2, "--points", "3,67", "--moved", 0.1)
    assert done.exit_code == 0, done.output
    table = pd.read_csv("points.csv")
    xy = np.random.default_rng(0).uniform(8, 34, (6, 68, 2)).astype(np.float32)
    far = []
    for number in range(1, 5):
        own = table.loc[table["image"] == f"{number}.png", ["x", "y"]].to_numpy()
        far += np.linalg.norm(own[:, None] - xy[number - 1, [3, 67]], axis=2).min(1).tolist()
    assert 2 < max(far) <= 4.801


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "p5", "--share", 0.5), "--set: the data have no mark-up 'p5'; there is p2, p68"),
        (("--set", "p2", "--share", 0.5), "a share of 0.5 of 15 points are more than the 2 of the mark-up"),
        (("--set", "p68", "--share", 0.8, "--count", "12-24"), "more than the 15 of the mark-up that are drawn from"),
        (("--set", "p68", "--share", 0.5, "--count", "9-3"), "--count 9-3: must be a number of points such as 15"),
        (("--set", "p68", "--share", 0.5, "--points", "1,68"), "p68 has points 0 to 67, and no 68: leave it out"),
        (("--set", "p68", "--share", 1.5), "should be less than or equal to 1"),
    ],
)
def test_what_cannot_be_drawn(project: Path, uld: Callable[..., Result], words: tuple[Any, ...], said: str) -> None:
    done = uld("points", "points.csv", *words)
    assert done.exit_code == 2 and said in done.output, done.output
    assert not Path("points.csv").exists()


def test_nothing_is_written_over_and_stages_must_have_run(project: Path, uld: Callable[..., Result]) -> None:
    Path("points.csv").write_text("mine")
    done = uld("points", "points.csv", "--set", "p68", "--share", 0.5)
    assert done.exit_code == 2 and "points.csv is there already: name another file, or remove it" in done.output
    assert Path("points.csv").read_text() == "mine"
    Path("artifacts/roi/boxes.csv").unlink()
    done = uld("points", "new.csv", "--set", "p68", "--share", 0.5)
    assert done.exit_code == 2 and "run `dvc repro roi` first" in done.output


def test_a_mark_up_of_test_images_alone(project: Path, uld: Callable[..., Result]) -> None:
    marks = Annotations(np.array(["5.png"], dtype=object), {"p2": AnnotationSet(np.ones((1, 2, 2), np.float32))})
    write_annotations(Path("artifacts/data/annotations.h5"), marks)
    done = uld("points", "points.csv", "--set", "p2", "--share", 0.1)
    assert done.exit_code == 2 and "no training image has one of these points of p2: name others" in done.output


def test_help_says_that_it_is_ground_truth(uld: Callable[..., Result]) -> None:
    shown = re.sub(r"\s+", " ", uld("points", "--help").output)
    assert "An experiment with ground truth" in shown and "uld points points.csv --set p68" in shown


def test_words_of_the_command() -> None:
    assert (span("15"), span("12-24")) == ((15, 15), (12, 24))
    for wrong in ("", "0", "24-12", "-3", "1.5", "1-2-3", "a"):
        with pytest.raises(ULDError, match="must be a number of points such as 15, or two such as 12-24"):
            span(wrong)
    assert numbered(None, "p68", 68) == list(FIFTEEN) and numbered(None, "p5", 5) == [0, 1, 2, 3, 4]
    assert numbered("4,0", "p5", 5) == [4, 0]
    for wrong, said in (("5", "no 5: leave"), ("1,1", "named twice"), ("a", "numbers with commas"), ("", "numbers")):
        with pytest.raises(ULDError, match=said):
            numbered(wrong, "p5", 5)


def test_fifteen_points_are_those_of_the_thesis() -> None:
    """Of the iBUG order: as many of the jaw, eyebrows, nose, eyes and mouth as section 5.4.2 says."""
    edges = [0, 17, 22, 27, 36, 42, 48, 68]
    assert np.histogram(FIFTEEN, edges)[0].tolist() == [1, 2, 2, 3, 2, 2, 3] and len(set(FIFTEEN)) == 15
