"""Pose proxy and two-stage clustering on planted parts whose place and look depend on the pose."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.methods.conftest import PARTS, Course, Planted
from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks import posed
from uld.methods import load
from uld.methods.base import Discovery, Method
from uld.models.heads import LearnedHead
from uld.training import proxy

POSES, TILT = 3, 0.7
HOMES = np.array([[[4, 4], [11, 4], [4, 11], [11, 11]], [[5, 4], [10, 4], [5, 11], [10, 11]],
                  [[4, 5], [11, 5], [4, 10], [11, 10]]])  # fmt: skip
DETECT = {"radius": 1, "threshold": 0.3, "least": 0, "cap": 8, "heat": 0.0}
CLUSTER = {"poses": POSES, "landmarks": None, "least": 5, "restarts": 4, "iterations": 4, "within": "exemplars",
           "prior": 0.0, "align": 0.5, "place": None, "images": 100}  # fmt: skip
ALONE = {"maps": 96, "steps": 60, "batch": 16}
ELBO = {
    "alone": None,
    "steps": 60,
    "views": 8,
    "lr": 3e-3,
    "pose_lr": 3e-3,
    "sigma": 1.0,
    "weight": 1.0,
    "warmup": 20,
    "free": 0.05,
}
CONTRAST = {"steps": 40, "triplets": 4, "lr": 1e-3, "pose_lr": 3e-3, "sigma": 1.0, "weight": 0.3, "margin": 1.0}
POSE = {"code": 8, "widths": [8, 16], "groups": 4, "normalise": "none"}
BLOCKS = {
    "pose_proxy": {"images": 100, "detect": DETECT, "join": 2.0, "fill": 0.0, "pose": POSE, "train": ELBO},
    "duld_pp": {"cluster": CLUSTER, "detect": DETECT, "join": 2.0, "fill": 0.0, "train": CONTRAST},
    "duld_pp_full_vae": {"cluster": CLUSTER, "detect": DETECT, "join": 2.0, "fill": 0.0, "train": ELBO},
}
ROWS, TEST = np.arange(0, 48), np.arange(48, 60)


class Turning(Planted):
    """Image i has pose i % 3: parts lie nearer in x or y, and part k looks a bit like part k + 1 or k - 1.

    All is even, so that a mirror image has the pose of its image.
    """

    def __init__(self, images: int) -> None:
        super().__init__(images)
        self.pose = np.arange(images) % POSES
        rng = np.random.default_rng(4)
        self.centres = (HOMES[self.pose] + rng.uniform(-0.3, 0.3, (images, PARTS, 2))).astype(np.float32)

    def describe(self, rows: np.ndarray, view: int = 0) -> torch.Tensor:
        maps = super().describe(rows, view).clone()
        part = maps[:, 1 : 1 + PARTS]
        for i, row in enumerate(rows):
            if self.pose[row]:
                maps[i, 1 : 1 + PARTS] = part[i] + TILT * part[i].roll(1 if self.pose[row] == 1 else -1, 0)
        return F.normalize(maps, dim=1)


@pytest.fixture
def turning() -> Turning:
    return Turning(60)


def method(name: str = "duld_pp", **changes: Any) -> Method:
    kind = load(name)
    return kind(build(kind.Params, BLOCKS[name] | changes, f"steps.{name}"))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def truth(source: Planted, rows: np.ndarray = ROWS) -> Labels:
    """Labels of a perfect round, in both hands."""
    image = np.tile(np.repeat(rows, PARTS), 2)
    view, slot = np.repeat([0, 1], len(rows) * PARTS), np.tile(np.arange(PARTS), 2 * len(rows))
    xy = np.tile(source.to_image(rows, source.centres[rows]).reshape(-1, 2), (2, 1))
    return Labels(image, view, slot, xy, np.ones(len(image), np.float32), np.ones(len(image), bool))


def discover(source: Planted, previous: Labels | None = None, **cluster: Any) -> Discovery:
    previous = truth(source) if previous is None else previous
    return method(cluster=CLUSTER | cluster).discover(source, ROWS, PARTS, rng(), previous)


def assert_right(source: Planted, rows: np.ndarray, xy: np.ndarray, within: float = 2.2) -> None:
    """Landmarks (n, K, 2) in image pixels are the parts of their number."""
    gap = np.linalg.norm(xy - source.to_image(rows, source.centres[rows]), axis=2)
    assert gap.max() < within


# --- discover ---


@pytest.mark.parametrize("within", ["exemplars", "points"])
@pytest.mark.parametrize("align", [0.5, None])
def test_poses_and_their_landmarks(turning: Turning, within: str, align: float | None) -> None:
    found = discover(turning, within=within, align=align)
    poses = found.landmarks.poses
    assert poses is not None and found.quality["poses"] == POSES and poses.counts.sum() == 2 * len(ROWS)
    assert found.quality["least_pose"] == poses.counts.min() == 2 * len(ROWS) // POSES
    assert poses.landmarks.shape == (POSES, PARTS, 1 + 3 * PARTS) and found.quality["active_units"] == 2
    own = posed.mark(turning, ROWS, 0, poses, method().params.detect, None)[1]  # type: ignore[attr-defined]
    of = [np.unique(own[turning.pose[ROWS] == q]) for q in range(POSES)]
    assert sorted(int(q[0]) for q in of) == [0, 1, 2] and all(len(q) == 1 for q in of)
    for q, (mine,) in enumerate(of):
        part = poses.landmarks[mine, :, 1 : 1 + PARTS]
        want = np.eye(PARTS) + TILT * np.roll(np.eye(PARTS), 1 if q == 1 else -1, 1) * (q > 0)
        cosine = (part * want).sum(1) / np.linalg.norm(part, axis=1) / np.linalg.norm(want, axis=1)
        assert cosine.min() > 0.99
    assert ("drift_moved" in found.quality) == (align is not None) and found.quality.get("drift_moved", 0) == 0
    assert found.landmarks.centroids.shape == (PARTS, 1 + 3 * PARTS)


def test_a_prior_holds_the_poses_together(turning: Turning) -> None:
    def apart(prior: float) -> float:
        poses = discover(turning, prior=prior).landmarks.poses
        assert poses is not None
        return float(poses.landmarks.std(0).mean())

    assert apart(1e6) < 1e-3 < apart(30.0) < 0.8 * apart(0.0)


def test_poses_go_on_as_they_were(turning: Turning) -> None:
    first = truth(turning)
    order = np.array([2, 0, 1])
    named = replace(first, pose=order[turning.pose[first.image]])
    poses = posed.known_poses(discover(turning, named).landmarks)
    own = posed.mark(turning, ROWS, 0, poses, method().params.detect, None)[1]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(own, order[turning.pose[ROWS]])


def test_no_more_poses_than_photographs(turning: Turning) -> None:
    """Their mirror images, which are clustered too, do not make them more."""
    with pytest.raises(ULDError, match=r"48 training images cannot have 49 pose clusters: lower cluster.poses"):
        discover(turning, poses=len(ROWS) + 1)


@pytest.mark.parametrize("name", ["duld_pp", "pose_proxy"])
def test_it_begins_at_a_round_with_as_many_landmarks(turning: Turning, name: str) -> None:
    for previous, count in ((None, PARTS), (truth(turning), PARTS + 1)):
        with pytest.raises(ULDError, match=f"goes on with the {count} landmarks of a round"):
            method(name).discover(turning, ROWS, count, rng(), previous)


@pytest.mark.parametrize("name", ["duld_pp", "duld_pp_full_vae"])
@pytest.mark.parametrize("given", [True, False])
def test_another_number_of_landmarks_is_found_anew(turning: Turning, name: str, given: bool) -> None:
    """Here of labels that know of one part fewer, or of none: it finds all parts, each in all poses."""
    full = truth(turning)
    here = full.label < PARTS - 1
    fewer = Labels(**{key: value[here] for key, value in vars(full).items() if value is not None}) if given else None
    anew = method(name, cluster=CLUSTER | {"landmarks": PARTS, "prior": 1.0})
    landmarks = anew.discover(turning, ROWS, PARTS - 1, rng(), fewer).landmarks
    assert landmarks.poses is not None and landmarks.poses.landmarks.shape[:2] == (POSES, PARTS)
    part = landmarks.poses.landmarks[:, :, 1 : 1 + PARTS].argmax(2)  # (Q, K): which part a landmark looks like
    assert (part == part[0]).all() and sorted(part[0]) == list(range(PARTS))
    labels = anew.label(turning, landmarks, ROWS, rng(), fewer).labels
    again = anew.discover(turning, ROWS, PARTS - 1, rng(), labels).landmarks  # the next round goes on with them
    assert again.poses is not None
    np.testing.assert_array_equal(again.poses.landmarks[0, :, 1 : 1 + PARTS].argmax(1), part[0])


# --- label and find ---


@pytest.mark.parametrize("name", ["duld_pp", "duld_pp_full_vae"])
def test_labels_have_a_pose(turning: Turning, name: str) -> None:
    landmarks = discover(turning).landmarks
    marked = method(name).label(turning, landmarks, ROWS, rng(), truth(turning))
    labels = marked.labels
    assert labels.pose is not None and len(labels.image) == 2 * PARTS * len(ROWS)
    centre = turning.to_image(labels.image, turning.centres[labels.image])[np.arange(len(labels.image)), labels.label]
    assert np.linalg.norm(labels.xy - centre, axis=1).max() < 1.5
    pairs = {(int(a), int(b)) for a, b in zip(turning.pose[labels.image], labels.pose, strict=True)}
    assert len(pairs) == POSES
    assert {"detections", "labels", "label_change"} <= set(marked.health) and marked.health["label_change"] == 0


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("place", [None, 10.0])
def test_finds_landmarks_as_they_look_in_the_pose(turning: Turning, view: int, place: float | None) -> None:
    landmarks = discover(turning, place=place).landmarks
    turning.heights[TEST[3], view, 2] = 0.1
    found = method(cluster=CLUSTER | {"place": place}).find(turning, landmarks, TEST, view)
    assert_right(turning, TEST, turning.to_image(TEST, found.dense_xy, view))
    assert np.argwhere(np.isnan(found.score)).tolist() == [[3, 2]]
    assert found.pose is not None and found.pose_margin is not None and found.pose.shape == (len(TEST),)
    assert ((found.pose_margin >= 0) & (found.pose_margin <= 1)).all()
    assert len({(a, b) for a, b in zip(turning.pose[TEST], found.pose, strict=True)}) == POSES
    assert found.pose_margin.max() < 0.5


@pytest.mark.parametrize("place", [None, 10.0])
def test_places_hold_a_landmark_where_its_twin_looks_more_like_it(turning: Turning, place: float | None) -> None:
    """In the second pose part 0 looks like part 1 of the other poses, and part 1 like nothing."""
    landmarks = discover(turning, place=place).landmarks
    poses = posed.known_poses(landmarks)
    assert (poses.places is None) == (place is None)
    confused = poses.landmarks.copy()
    confused[:, 0] = confused[:, 1]
    mixed = replace(landmarks, poses=replace(poses, landmarks=confused))
    found = method(cluster=CLUSTER | {"place": place}).find(turning, mixed, TEST)
    gap = np.linalg.norm(turning.to_image(TEST, found.dense_xy) - turning.to_image(TEST, turning.centres[TEST]), axis=2)
    assert gap[:, 1:].max() < 2.2
    assert (gap[:, 0].max() < 17) == (place is not None)  # pixels: it stays on its side, or sits on the other part


@pytest.mark.parametrize("view", [0, 1, 2])
def test_places_turn_with_the_view(turning: Turning, view: int) -> None:
    poses = posed.known_poses(discover(turning, place=10).landmarks)
    assert poses.places is not None and poses.places.shape == (2, POSES, PARTS, 2)
    far = posed._far(turning, TEST, view, poses, 10.0)
    assert far is not None
    pose = posed.mark(turning, TEST[:3], 0, poses, method().params.detect, None)[1]  # type: ignore[attr-defined]
    for row, q in zip(TEST[:3], pose, strict=True):
        cell = far[q].flatten(1).argmin(1).numpy()
        at = turning.to_image(np.array([row]), np.stack([cell % turning.grid, cell // turning.grid], -1)[None], view)
        assert_right(turning, np.array([row]), at, 3.5)
    assert posed._far(turning, TEST, view, replace(poses, places=poses.places[:1]), 10.0) is not None or view == 1


def test_find_does_not_depend_on_the_batch(turning: Turning, monkeypatch: pytest.MonkeyPatch) -> None:
    landmarks = discover(turning).landmarks
    whole = method().find(turning, landmarks, TEST)
    monkeypatch.setenv("ULD_BATCH", "5")
    parts = method().find(turning, landmarks, TEST)
    np.testing.assert_allclose(parts.dense_xy, whole.dense_xy, atol=1e-5)
    np.testing.assert_array_equal(parts.pose, whole.pose)


def test_landmarks_without_poses(turning: Turning) -> None:
    landmarks: Landmarks = replace(discover(turning).landmarks, poses=None)
    with pytest.raises(ULDError, match="no pose clusters"):
        method().find(turning, landmarks, TEST)


# --- train ---


def parameters(head: LearnedHead, part: str) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in getattr(head, part).state_dict().values()])


@pytest.fixture
def proxied(turning: Turning, tmp_path: Any) -> tuple[Course, LearnedHead, Any]:
    """A model after a round of the pose proxy, and the history of the round."""
    course = Course(turning, tmp_path)
    head, history = method("pose_proxy").train(course.head(), course.training(truth(turning)))
    assert isinstance(head, LearnedHead)
    return course, head, history


def test_pose_proxy_teaches_detector_and_pose_part(proxied: tuple[Course, LearnedHead, Any], turning: Turning) -> None:
    course, head, history = proxied
    before = course.head()
    for part in ("describe", "aggregate", "base"):
        torch.testing.assert_close(parameters(head, part), parameters(before, part), rtol=0, atol=0)
    assert not torch.equal(parameters(head, "detect"), parameters(before, "detect"))
    assert all(one.requires_grad for one in head.parameters())
    first, last = (
        history[["detector", "reconstruction"]][:10].mean(),
        history[["detector", "reconstruction"]][-10:].mean(),
    )
    assert last["detector"] < 0.7 * first["detector"] and last["reconstruction"] < 0.7 * first["reconstruction"]
    assert history["kl"].iloc[-1] > 0.1 and head.pose is not None and head.pose.decodes


def test_only_a_new_pose_part_warms_up(proxied: tuple[Course, LearnedHead, Any], turning: Turning) -> None:
    course, _, _ = proxied

    def ends(head: LearnedHead, warmup: int) -> torch.Tensor:
        block = ELBO | {"steps": 5, "warmup": warmup, "free": 0.0}
        after = method("pose_proxy", train=block).train(deepcopy(head), course.training(truth(turning)))[0]
        return parameters(after, "pose")  # type: ignore[arg-type]

    assert not torch.equal(ends(course.head(), 1), ends(course.head(), 1000))
    again, slow = ends(proxied[1], 1), ends(proxied[1], 1000)
    torch.testing.assert_close(again, slow, rtol=0, atol=0)


def test_the_reconstruction_reaches_the_detector(turning: Turning, tmp_path: Any) -> None:
    ends = []
    for weight in (0.0, 1.0):
        course = Course(turning, tmp_path / str(weight))
        (tmp_path / str(weight)).mkdir()
        head, _ = method("pose_proxy", train=ELBO | {"weight": weight, "steps": 3}).train(
            course.head(), course.training(truth(turning))
        )
        ends.append(parameters(head, "detect"))  # type: ignore[arg-type]
    assert not torch.equal(*ends)


def test_a_new_pose_part_first_learns_alone(turning: Turning, tmp_path: Any) -> None:
    course = Course(turning, tmp_path)
    block = ELBO | {"alone": ALONE, "steps": 0}
    head, _ = method("pose_proxy", train=block).train(course.head(), course.training(truth(turning)))
    assert isinstance(head, LearnedHead) and head.pose is not None
    torch.testing.assert_close(parameters(head, "detect"), parameters(course.head(), "detect"), rtol=0, atol=0)
    untaught, _ = method("pose_proxy", train=ELBO | {"steps": 0}).train(course.head(), course.training(truth(turning)))
    assert isinstance(untaught, LearnedHead)
    after, before = (
        method("pose_proxy", train=ELBO | {"steps": 1, "lr": 0.0}).train(one, course.training(truth(turning)))[1]
        for one in (head, untaught)
    )
    assert after["reconstruction"][0] < 0.8 * before["reconstruction"][0]
    assert not list(tmp_path.iterdir())  # no resume state is left


def test_contrast_draws_poses_apart(proxied: tuple[Course, LearnedHead, Any], turning: Turning) -> None:
    course, head, _ = proxied
    labels = truth(turning)
    labels = replace(labels, pose=turning.pose[labels.image])

    def ratio(model: LearnedHead) -> float:
        """Distance between codes of one pose over that between codes of different poses."""
        assert model.pose is not None
        with torch.no_grad():
            heat = model.maps(course.store.read(ROWS, 0))[1].sigmoid()
            gap = torch.cdist(*[model.pose.encode(heat)[0]] * 2).numpy()
        same = turning.pose[ROWS][:, None] == turning.pose[ROWS]
        return float(gap[same].sum() / (same.sum() - len(ROWS)) / gap[~same].mean())

    start, kept = ratio(head), parameters(head, "describe")
    after, history = method().train(head, course.training(labels))
    assert isinstance(after, LearnedHead) and after.pose is not None and not after.pose.decodes
    assert ratio(after) < 0.7 * start
    torch.testing.assert_close(parameters(after, "describe"), kept, rtol=0, atol=0)
    assert history["contrast"][-5:].mean() < history["contrast"][:5].mean()
    with pytest.raises(ULDError, match="has no decoder"):
        method("duld_pp_full_vae").train(after, course.training(labels))


def test_the_full_autoencoder_goes_on(proxied: tuple[Course, LearnedHead, Any], turning: Turning) -> None:
    course, head, before = proxied
    labels = replace(truth(turning), pose=turning.pose[truth(turning).image])
    after, history = method("duld_pp_full_vae").train(head, course.training(labels))
    assert isinstance(after, LearnedHead) and after.pose is not None and after.pose.decodes
    assert history["reconstruction"].iloc[-1] < before["reconstruction"].iloc[-1]


def test_starts_that_will_not_do(turning: Turning, course: Course, proxied: tuple[Course, LearnedHead, Any]) -> None:
    labels = truth(turning)
    with pytest.raises(ULDError, match="no pose part: begin at a round of pose_proxy"):
        method().train(course.head(), course.training(labels))
    alike = replace(labels, pose=np.zeros(len(labels.image), np.int64))
    with pytest.raises(ULDError, match="all images have one pose"):
        method().train(proxied[1], proxied[0].training(alike))


def test_poses_of_labels(turning: Turning) -> None:
    labels = replace(truth(turning, ROWS[:4]), pose=np.repeat([0, 1, 2, 0, 2, 1, 0, 2], PARTS))
    assert posed.poses_of(labels, np.arange(5), 0).tolist() == [0, 1, 2, 0, -1]
    assert posed.poses_of(labels, np.arange(5), 1).tolist() == [2, 1, 0, 2, -1]
    assert posed.poses_of(truth(turning), np.arange(2), 0).tolist() == [-1, -1]


def test_spread_of_codes() -> None:
    codes = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rms = torch.cdist(codes, codes).square().mean().sqrt().item()
    assert proxy._spread(codes) == pytest.approx(rms, rel=1e-12)


def test_a_code_that_says_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    codes = torch.linspace(0, 1, 40)[:, None] * torch.tensor([1.0, 1.0] + 30 * [0.1])
    assert posed.active_units(codes[:, :16]) == 2 and not caplog.messages
    assert posed.active_units(codes) == 2 and "2 of 32 units of the pose code differ" in caplog.text
    assert posed.active_units(codes[:, 2:6]) == 0 and "0 of 4 units" in caplog.text
