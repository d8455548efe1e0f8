"""The stage `report` on a small generated data set, up to a real browser."""

import base64
import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from uld.artifacts.annotations import Annotations, AnnotationSet, write_annotations
from uld.artifacts.files import write_json, write_table
from uld.artifacts.found import Found
from uld.artifacts.labels import POSE, Labels, write_labels
from uld.artifacts.landmarks import Landmarks, write_landmarks
from uld.artifacts.predictions import Predictions, Warped, read_predictions, write_predictions
from uld.base.errors import ArtifactError
from uld.evaluate.poses import of_rounds
from uld.evaluate.scores import finite
from uld.images import cut

ROOT = Path(__file__).parents[2]
N, TRAIN, K = 30, 20, 4
IMAGES = np.array([f"{n:02d}.png" for n in range(N - 1)] + ["z<b>&.png"], dtype=object)
SPLIT = np.array(["train"] * TRAIN + ["test"] * (N - TRAIN), dtype=object)
MARGIN, SIZE = 0.2, 24
PARAMS = """# the params of a "test" <run>
seed: 0
dataset: folder
rows: {found: {}, mean_shape: {}}
rounds: {}
evaluate: {protocols: [canonical, ols], pck: [0.1], raw: 0.2, ced_limit: 0.2, bootstrap: 20,
  warps: {count: 1, rotate: 20, scale: 0.15, shift: 0.05}}
report: {row: found, grid: 7, worst: 3, tables: {}}
"""
VOID = {"meta", "link", "img"}
REST = {"split": "test", "group": "", "sha256": "", "status": "ok", "reason": ""}  # of index.csv, read by other stages


class Reader(HTMLParser):
    """Collects the images and outside references of a page and checks that its tags close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.references += [str(found[key]) for key in ("src", "href", "data", "action") if key in found]
        if tag == "img":
            self.images.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # SVG's own short form

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th", "small"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def stage(name: str, *arguments: str) -> None:
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        module.main()


def report() -> Reader:
    stage("report")
    return Reader(Path("report/index.html").read_text())


def score(*rows: str) -> None:
    for row in rows:
        stage("regress", row)
        stage("evaluate", row)


def write_row(row: str, xy: np.ndarray) -> None:
    """Predictions, landmarks and quality of a row with landmarks xy (N, K, 2)."""
    rng = np.random.default_rng(1)
    xy, k = xy.astype(np.float32), xy.shape[1]
    value = rng.uniform(0.5, 1, xy.shape[:2]).astype(np.float32)
    value[23] = 0.1
    found = xy.copy()
    found[::3, :1] = np.nan
    test = np.arange(TRAIN, N)
    one = Predictions(IMAGES, SPLIT, Found(found, value, xy, value), Warped(test, xy[test, None] + 1))
    write_predictions(Path(f"artifacts/predictions/{row}.h5"), one)
    near = np.tile(np.arange(8), (k, 1))
    near[-1:, 5:] = -1  # the last landmark has five exemplars only
    places = np.where(near[..., None] < 0, np.nan, xy[near, np.arange(k)[:, None]]).astype(np.float32)
    label = rng.integers(0, max(k, 1), 60 if k else 0)
    sample = rng.normal(size=(len(label), 6 if k else 0)).astype(np.float16)
    centroids = np.zeros((k, sample.shape[1]), np.float32)
    kept = Landmarks(centroids, np.arange(k) + 50, near, places, sample, label)
    write_landmarks(Path(f"artifacts/landmarks/{row}/landmarks.h5"), kept)
    write_json(Path(f"artifacts/landmarks/{row}/quality.json"), {"silhouette": 0.5} if k else {})


def labels(pose: np.ndarray | None = None) -> Labels:
    """A point in each training image, with pose clusters (TRAIN,) if there are any."""
    nothing = np.zeros(TRAIN)
    own = {} if pose is None else {POSE: pose}
    return Labels(
        np.arange(TRAIN), nothing > 0, nothing.astype(int), np.zeros((TRAIN, 2), np.float32),
        nothing.astype(np.float32), nothing > 0, 1, own,
    )  # fmt: skip


def points() -> np.ndarray:
    """The annotated points (N, 5, 2)."""
    at = np.array([[15, 15], [35, 15], [25, 25], [18, 32], [32, 32]])
    return at + np.random.default_rng(0).normal(size=(N, 5, 2))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rows, and its report. Read only."""
    folder, xy = tmp_path_factory.mktemp("made"), points()
    with contextlib.chdir(folder):
        for name, marks in zip(IMAGES, xy, strict=True):
            photo = np.full((45, 50, 3), 90, np.uint8)
            for x, y in marks.round().astype(int).tolist():
                cv2.circle(photo, (x, y), 2, (200, 220, 240), -1)
            Path(name).write_bytes(cv2.imencode(".png", photo)[1].tobytes())
        corners = {"x1": 4.5, "y1": 2.5, "x2": 44.5, "y2": 42.5, "score": 1.0, "provider": "full"}
        boxes = pd.DataFrame({"image": IMAGES, "split": SPLIT, **corners})
        write_table(Path("artifacts/roi/boxes.csv"), boxes)
        write_table(Path("artifacts/roi/missing.csv"), pd.DataFrame(columns=["image", "split", "reason"]))
        cut.write(Path("artifacts/roi/crops.zarr"), folder, boxes, MARGIN, SIZE)
        index = pd.DataFrame({"image": [*IMAGES, "zz.png"], "width": 50, "height": 45, **REST})
        index.loc[N, "status"] = "unreadable"
        write_table(Path("artifacts/data/index.csv"), index)
        annotate(xy)
        Path("params.yaml").write_text(PARAMS)
        landmarks = xy[:, :K] + 2
        landmarks[25], landmarks[28] = landmarks[25] - 9, landmarks[28] + [20, -20]  # two test images go wrong
        write_row("found", landmarks)
        write_row("mean_shape", np.zeros((N, 0, 2)))
        score("found", "mean_shape")
        write_json(Path("metrics/backbone.json"), {"loss": {"held_out": 0.0467}})
        write_json(Path("metrics/starts/frozen.json"), {"self_match": 0.81})
        stage("report")
    return folder


@pytest.fixture
def page(made: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """The report of the run as it is, which is the current folder. Read only."""
    monkeypatch.chdir(made)
    return Reader(Path("report/index.html").read_text())


@pytest.fixture
def truth(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A copy of the run to be changed, before its report, is the current folder; returns the annotated points."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("report"))
    monkeypatch.chdir(tmp_path)
    return points()


def annotate(xy: np.ndarray | None) -> None:
    sets = {"p2": AnnotationSet(xy[:, :2].astype(np.float32)), "p5": AnnotationSet(xy.astype(np.float32), (0,), (1,))} \
        if xy is not None else {}  # fmt: skip
    images = IMAGES if xy is not None else IMAGES[:0]
    write_annotations(Path("artifacts/data/annotations.h5"), Annotations(images, sets))


def test_the_page_is_whole_and_self_contained(page: Reader) -> None:
    assert page.open == []
    assert all(one.startswith("data:") for one in page.references)
    embedded = [base64.b64decode(str(one["src"]).removeprefix("data:image/png;base64,")) for one in page.images]
    files = {path.name: path.read_bytes() for path in Path("report").glob("*.png")}
    assert sorted(embedded) == sorted(files.values())
    assert set(files) == {
        "headline.png", "ced.png", "clusters.png", "landmark-errors.png", "point-errors.png", "raw-accuracy.png",
        "row-found.png",
        *(f"exemplars-{k:02d}.png" for k in range(K)), *(f"worst-{n:02d}.png" for n in range(3)),
    }  # fmt: skip
    assert all(one["alt"] for one in page.images)
    for data, one in zip(embedded, page.images, strict=True):
        height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
        assert (one["width"], one["height"]) == (str(width), str(height))


def test_its_text(page: Reader) -> None:
    text = re.sub(r"\s+", " ", page.text)
    assert "4 landmarks discovered on folder" in text
    assert "clustered on 20 training images, shown and scored on 10 test images" in text
    assert "has 31 images; 1 were kept out as unreadable or double, 0 have no object box" in text
    assert "Errors on p5, protocol canonical" in text
    assert "Errors on p2, protocol canonical" in text
    assert text.index("Errors on p5") < text.index("Errors on p2")  # the mark-up with the most points leads
    eyes, box = (
        "Divided by the distance between point 0 and point 1.",
        "Divided by the size of the points' box, so they",
    )
    assert text.index("Errors on p5") < text.index(eyes) < text.index("Errors on p2") < text.index(box)
    assert "loss.held_out 0.0467" in text
    assert "self_match 0.81" in text
    assert '# the params of a "test" <run>' in text
    assert "NME needs annotations" not in text
    assert "Rounds of self-training" not in text
    assert "No errors by yaw: no test image has a known yaw." in text
    assert "No pose clusters beside yaw: no round has pose clusters" in text
    assert "canonical.p5.n300 (every row): needs 300 annotated training images, may use 20" in text
    assert "As published" not in text  # neither row is the paper's
    figure = json.loads(Path("metrics/found.json").read_text())["canonical"]["p5"]["dense"]["all"]
    assert f"{figure['forward_low']:.1f} – {figure['forward_high']:.1f}" in text


def test_the_worst_images_are_those_that_went_wrong(page: Reader) -> None:
    worst = re.findall(r"([\d.]+) % · (\S+\.png)", page.text)
    assert {name for _, name in worst[:2]} == {"25.png", "28.png"}
    errors = [float(value) for value, _ in worst]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] > 2 * errors[2]


def test_the_headline_shows_landmarks_where_they_are(page: Reader) -> None:
    image = cv2.imdecode(np.frombuffer(Path("report/headline.png").read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (2 * 160 + 4, 6 * 160 + 5 * 4, 3)  # 7 tiles in rows of 6
    x, y = points()[TRAIN, 1] + 2  # landmark 1 of the first test image; the crop is centred on (24.5, 22.5), 56 wide
    column, row = (x - 24.5 + 28) * 160 / 56, (y - 22.5 + 28) * 160 / 56
    assert image[round(row - 0.5), round(column - 0.5), ::-1].tolist() == [0x8F, 0xD1, 0x4F]


def test_rounds_of_self_training(truth: np.ndarray) -> None:
    lines = "rounds: {a-1: {start: s, method: a}, b-1: {start: a-1, method: b}, a-2: {start: b-1, method: a}}"
    Path("params.yaml").write_text(PARAMS.replace("rounds: {}", lines))
    with pytest.raises(ArtifactError, match=r"rounds/a-1/labels.h5 is missing: run `dvc repro train@a-1`"):
        stage("report")
    for name in ("a-1", "b-1", "a-2"):
        write_labels(Path(f"artifacts/rounds/{name}/labels.h5"), labels())
    with pytest.raises(ArtifactError, match=r"metrics/rounds/a-1.json is missing: run `dvc repro cluster@a-1`"):
        stage("report")
    for number, name in enumerate(("a-1", "b-1", "a-2")):
        write_json(Path(f"metrics/rounds/{name}.json"), {"detections": number + 1.5, "silhouette": 0.1})
    page = report()
    assert page.open == []
    assert "Rounds of self-training" in page.text
    (chart,) = [one for one in page.images if one["alt"] == "health of the labels over the rounds"]
    assert base64.b64decode(str(chart["src"]).split(",")[1]) == Path("report/rounds.png").read_bytes()


def test_poses_against_yaw(truth: np.ndarray) -> None:
    """Two pose clusters: one is all left profiles, the other nearly all frontal."""
    index = pd.read_csv("artifacts/data/index.csv")
    left = np.arange(N) % 3 == 0
    write_table(Path("artifacts/data/index.csv"), index.assign(yaw=[*np.where(left, -75.0, 5.0), np.nan]))
    score("found", "mean_shape")
    pose = left[:TRAIN].astype(int)
    pose[1] = 1
    write_labels(Path("artifacts/rounds/b-1/labels.h5"), labels(pose))
    write_labels(Path("artifacts/rounds/a-1/labels.h5"), labels())
    lines = "rounds: {a-1: {start: s, method: a}, b-1: {start: a-1, method: b}}"
    Path("params.yaml").write_text(PARAMS.replace("rounds: {}", lines))
    told = of_rounds({"a-1": "a", "b-1": "b"}).figures
    assert set(told) == {"b-1"}
    assert told["b-1"]["accuracy"] == pytest.approx(19 / 20)
    assert finite(told["b-1"]["ranges"]) == pytest.approx({"left_profile": 7 / 8, "frontal": 1})
    for name in ("a-1", "b-1"):
        write_json(Path(f"metrics/rounds/{name}.json"), {"detections": 1.5})
    text = re.sub(r"\s+", " ", report().text)
    assert "by where the head turns" in text
    assert "From left to right in yaw" in text
    assert Path("report/poses.png").exists()
    assert "Pose clusters" in text and "yaw_explained" in text
    lines = pd.read_csv("report/poses.csv")
    assert lines["round"].unique().tolist() == ["b-1"]
    assert lines["range"].tolist() == ["overall", "left_profile", "frontal"]
    write_labels(Path("artifacts/rounds/b-1/labels.h5"), labels(np.zeros(TRAIN, int)))  # stands for the frontal ones
    text = re.sub(r"\s+", " ", report().text)
    assert "by where the head turns" in text
    assert "No pose clusters beside yaw: most heads of each of them turn the same way (frontal)." in text
    errors = pd.read_csv("plots/found/yaw.csv")
    one = errors.query(
        "protocol == 'canonical' and set == 'p5' and points == 'dense' and rows == 'all' and direction == 'forward'"
    )
    assert one["range"].tolist() == ["left_profile", "frontal"]
    assert one["images"].tolist() == [int(left[TRAIN:].sum()), int((~left[TRAIN:]).sum())]
    whole = json.loads(Path("metrics/found.json").read_text())["canonical"]["p5"]["dense"]["all"]["forward_nme"]
    assert np.average(one["nme"], weights=one["images"]) == pytest.approx(whole, rel=1e-5)


def test_rows_of_the_paper_stand_beside_it(truth: np.ndarray) -> None:
    lines = PARAMS.replace("found", "duld")
    Path("params.yaml").write_text(lines)
    write_row("duld", truth[:, :K] + 2)
    score("duld")
    text = re.sub(r"\s+", " ", report().text)
    assert "As published" in text
    figure = json.loads(Path("metrics/duld.json").read_text())["canonical"]["p5"]["dense"]["all"]
    assert f"2.82 / 3.21 3.42 / 4.89 {figure['forward_nme']:.2f} / {figure['backward_nme']:.2f}" in text


def test_same_inputs_same_bytes(truth: np.ndarray, made: Path) -> None:
    """In whatever folder."""

    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / "report").iterdir()}

    report()
    assert files(Path()) == files(made)


def test_unlabelled(truth: np.ndarray) -> None:
    annotate(None)
    score("found", "mean_shape")
    page = report()
    text = re.sub(r"\s+", " ", page.text)
    assert "NME needs annotations, and this data set has none" in text
    assert "landmarks.csv" in text
    assert "lowest mean score" in text
    assert re.search(r"score 0\.100 · 23\.png", text)
    assert "forward" not in text and "Not scored" not in text
    assert not list(Path("report").glob("*-errors.png"))
    assert not Path("report/ced.png").exists()
    assert page.open == []
    assert len(page.images) == 1 + 3 + K + 1 + 1


def test_one_split_annotated(truth: np.ndarray) -> None:
    truth[TRAIN:] = np.nan
    annotate(truth)
    score("found", "mean_shape")
    text = re.sub(r"\s+", " ", report().text)
    assert "annotations, but protocol canonical scores none of them; not scored below says why" in text
    assert "canonical.p5 (every row): needs an annotated test image, there is none" in text
    assert "lowest mean score" in text


def test_the_curves_are_of_a_markup_that_the_protocol_scores(truth: np.ndarray) -> None:
    """The first protocol scores marks of five points, and there is one of seven."""
    marks = {"p5": truth, "p7": truth[:, [0, 1, 2, 3, 4, 0, 1]]}
    sets = {name: AnnotationSet(xy.astype(np.float32), (0,), (1,)) for name, xy in marks.items()}
    write_annotations(Path("artifacts/data/annotations.h5"), Annotations(IMAGES, sets))
    Path("params.yaml").write_text(PARAMS.replace("[canonical, ols]", "[tusk-wild, canonical]"))
    score("found", "mean_shape")
    text = re.sub(r"\s+", " ", report().text)
    assert Path("report/ced.png").exists()
    assert "error on p5 (5 points)" in text
    assert "Errors on p7" not in text
    assert "tusk-wild.p7 (every row): needs 5 points, this mark-up has 7" in text
    assert "tusk-wild.p5 (mean_shape): needs a landmark: its map has no intercept" in text
    assert "canonical.p7.n300 (every row): needs 300 annotated training images, may use 20" in text


def test_what_errors_are_divided_by(truth: np.ndarray) -> None:
    """The protocol has the last word. And a mark-up may be called like a value: its curves are found all the same."""
    sets = {"true": AnnotationSet(truth.astype(np.float32), (0, 2), (1, 3))}
    write_annotations(Path("artifacts/data/annotations.h5"), Annotations(IMAGES, sets))
    score("found", "mean_shape")
    text = re.sub(r"\s+", " ", report().text)
    assert "Errors on true, protocol canonical" in text and Path("report/ced.png").exists()
    assert "Divided by the distance between the mean of points 0, 2 and the mean of points 1, 3." in text
    for protocol, said in {"k2l-mafl": "the distance between point 0 and point 1.", "cgb-box": "the size of"}.items():
        Path("params.yaml").write_text(PARAMS.replace("[canonical, ols]", f"[{protocol}]"))
        score("found", "mean_shape")
        assert f"Divided by {said}" in re.sub(r"\s+", " ", report().text)


def test_a_subset(truth: np.ndarray) -> None:
    path = Path("artifacts/data/index.csv")
    index = pd.read_csv(path, keep_default_na=False)
    write_table(path, pd.concat([index, index.tail(1).assign(image="zzz.png", status="unused")]))
    text = re.sub(r"\s+", " ", report().text)
    assert (
        "has 32 images; 1 were kept out as unreadable or double, 1 are not in the subset, 0 have no object box" in text
    )


def test_a_row_without_landmarks_in_the_pictures(truth: np.ndarray) -> None:
    Path("params.yaml").write_text(PARAMS.replace("row: found", "row: mean_shape"))
    page = report()
    assert page.open == []
    assert "0 landmarks discovered" in page.text
    assert "has no landmark with exemplars" in page.text
    assert not list(Path("report").glob("exemplars-*"))
    assert not Path("report/clusters.png").exists()
    assert Path("report/point-errors.png").exists()
    assert not Path("report/landmark-errors.png").exists()


def test_fewer_images_than_asked_for(truth: np.ndarray) -> None:
    Path("params.yaml").write_text(PARAMS.replace("grid: 7, worst: 3", "grid: 100, worst: 0"))
    page = report()
    assert "10 test images with" in str(page.images[0]["alt"])
    assert "Where it fails" not in page.text


def test_a_landmark_that_is_never_detected(truth: np.ndarray) -> None:
    path = Path("artifacts/predictions/found.h5")
    one = read_predictions(path)
    write_predictions(path, replace(one, found=replace(one.found, xy=np.full_like(one.found.xy, np.nan))))
    score("found")
    assert report().open == []


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("artifacts/predictions/mean_shape.h5", "dvc repro predict@mean_shape"),
        ("artifacts/landmarks/found/landmarks.h5", "dvc repro discover@found"),
        ("artifacts/regressors/found.h5", "dvc repro regress@found"),
        ("metrics/mean_shape.json", "dvc repro evaluate@mean_shape"),
        ("plots/found/ced.csv", "dvc repro evaluate@found"),
    ],
)
def test_a_missing_file_names_the_stage(truth: np.ndarray, lost: str, message: str) -> None:
    Path(lost).unlink()
    with pytest.raises(ArtifactError, match=message):
        stage("report")
    assert not Path("report").exists()


PROBE = """<script>
const images = [...document.images];
document.documentElement.dataset.count = images.length;
document.documentElement.dataset.broken = images.filter(one => !one.complete || one.naturalWidth === 0).length;
document.documentElement.dataset.overflow = document.documentElement.scrollWidth - window.innerWidth;
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
@pytest.mark.parametrize("width", [1200, 500])
def test_in_a_browser(page: Reader, tmp_path: Path, width: int) -> None:
    expected = len(page.images)
    copy = tmp_path / "probe.html"
    copy.write_text(Path("report/index.html").read_text().replace("</body>", PROBE))
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync", "extensions"]
    command = ["chromium", "--headless", "--no-sandbox", "--no-first-run", "--enable-logging=stderr", "--v=0"]
    command += [f"--disable-{one}" for one in quiet]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom", copy.as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = dict(re.findall(r'data-(count|broken|overflow)="(-?\d+)"', seen.stdout[:2000]))
    assert found["count"] == str(expected)
    assert found["broken"] == "0"
    assert int(found["overflow"]) <= 0  # wide tables scroll in their own frame, not the page
    assert "CONSOLE" not in seen.stderr
