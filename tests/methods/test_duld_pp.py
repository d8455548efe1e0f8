"""Pose proxy and two-stage clustering on planted parts whose place and look depend on the pose."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.labels import taken
from tests.methods.conftest import MIRROR, PARTS, PLAIN, VIEWS, Course, Planted, task
from tests.training.adam import ADAM
from uld.artifacts.found import Found
from uld.artifacts.labels import POSE, Labels
from uld.artifacts.landmarks import Landmarks, PoseCentroids
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks import posed
from uld.landmarks.detect import DetectParams
from uld.methods import load
from uld.methods.base import Discovery, Method, Training
from uld.models.base import Model
from uld.models.heads import Heads
from uld.sources.views import View
from uld.training import pose_contrast

POSES, TILT = 3, 0.7
HOMES = np.array([[[4, 4], [11, 4], [4, 11], [11, 11]], [[5, 4], [10, 4], [5, 11], [10, 11]],
                  [[4, 5], [11, 5], [4, 10], [11, 10]]])  # fmt: skip
DETECT = {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 8, "heat_weight": 0.0}
LABEL = {"max_distance": 2.0, "dense": 0.0}
CLUSTER = {"poses": POSES, "landmarks": None, "min_images": 5, "restarts": 4, "iterations": 4, "within": "exemplars",
           "prior": 0.0, "align": 0.5, "place": None, "images": 100}  # fmt: skip
PRETRAIN = {"maps": 96, "steps": 60, "batch": 16}
ELBO = {"loss": "elbo", "steps": 60, "views": 8, "lr": 3e-3, "pose_lr": 3e-3, "optimiser": ADAM, "sigma": 1.0,
        "weight": 1.0,
        "free_nats": 0.05}  # fmt: skip
CONTRAST = {"loss": "contrast", "steps": 40, "triplets": 4, "lr": 1e-3, "pose_lr": 3e-3, "optimiser": ADAM,
            "sigma": 1.0, "weight": 0.3,
            "margin": 1.0, "relative": True, "queue": 0}  # fmt: skip
VAE = {"code": 8, "widths": [8, 16], "groups": 4, "normalise": "none"}
CLUSTERS = {
    "pose_proxy": {"images": 100, "detect": DETECT, "label": LABEL},
    "duld_pp": {"poses": CLUSTER, "detect": DETECT, "label": LABEL},
}
TRAINS = {
    "pose_proxy": ELBO | {"pose": VAE, "pretrain": None, "kl_warmup": 20},
    "duld_pp": CONTRAST,
    "duld_pp_full_vae": ELBO,
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

    def describe(self, rows: np.ndarray, view: View = PLAIN) -> torch.Tensor:
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
    return kind(build(kind.Cluster, CLUSTERS[name] | changes, f"methods.{name}.cluster"))


def train(name: str, model: Model, training: Training, **changes: Any) -> tuple[Any, Any]:
    """The model after a round, and a line a step."""
    kind = load(name)
    return kind.train(model, training, build(kind.Train, TRAINS[name] | changes, f"methods.{name}.train"))


def truth(source: Planted, rows: np.ndarray = ROWS) -> Labels:
    """Labels of a perfect round, in both flips."""
    image = np.tile(np.repeat(rows, PARTS), 2)
    flipped, slot = np.repeat([False, True], len(rows) * PARTS), np.tile(np.arange(PARTS), 2 * len(rows))
    xy = np.tile(source.to_image(rows, source.centres[rows]).reshape(-1, 2), (2, 1))
    return Labels(image, flipped, slot, xy, np.ones(len(image), np.float32), np.ones(len(image), bool), PARTS)


def discover(source: Planted, previous: Labels | None = None, **cluster: Any) -> Discovery:
    previous = truth(source) if previous is None else previous
    return method(poses=CLUSTER | cluster).discover(task(source, ROWS, previous=previous))


def find(source: Planted, rows: np.ndarray, poses: PoseCentroids) -> Found:
    """Landmarks as they look in each image's pose."""
    return posed.find(source, rows, PLAIN, poses, build(DetectParams, DETECT, "detect"), None)


def poses_of(source: Planted, rows: np.ndarray, poses: PoseCentroids) -> np.ndarray:
    """The pose of each image."""
    own = find(source, rows, poses).pose
    assert own is not None
    return own


def with_poses(labels: Labels, pose: np.ndarray) -> Labels:
    return replace(labels, own={POSE: pose})


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
    own = poses_of(turning, ROWS, poses)
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
    named = with_poses(first, order[turning.pose[first.image]])
    poses = discover(turning, named).landmarks.known_poses()
    own = poses_of(turning, ROWS, poses)
    np.testing.assert_array_equal(own, order[turning.pose[ROWS]])


def test_no_more_poses_than_photographs(turning: Turning) -> None:
    """Their mirror images, which are clustered too, do not make them more."""
    with pytest.raises(ULDError, match=r"48 training images cannot have 49 pose clusters: lower poses.poses"):
        discover(turning, poses=len(ROWS) + 1)


@pytest.mark.parametrize("name", ["duld_pp", "pose_proxy"])
def test_it_begins_at_a_round_with_as_many_landmarks(turning: Turning, name: str) -> None:
    for previous, count in ((None, PARTS), (truth(turning), PARTS + 1)):
        with pytest.raises(ULDError, match=f"goes on with the {count} landmarks of a round"):
            method(name).discover(task(turning, ROWS, count, previous))


@pytest.mark.parametrize("name", ["pose_proxy", "duld_pp"])
def test_it_goes_on_where_the_last_landmark_has_lost_its_labels(turning: Turning, name: str) -> None:
    full = truth(turning)
    rest = taken(full, full.label < PARTS - 1)
    landmarks = method(name).discover(task(turning, ROWS, PARTS, rest)).landmarks
    assert landmarks.centroids.shape[0] == PARTS
    known = landmarks.centroids[: PARTS - 1, 1 : 1 + PARTS]
    assert known.argmax(1).tolist() == list(range(PARTS - 1))  # the others keep their numbers


@pytest.mark.parametrize("given", [True, False])
def test_another_number_of_landmarks_is_found_anew(turning: Turning, given: bool) -> None:
    """Here of labels that know of one part fewer, or of none: it finds all parts, each in all poses."""
    full = truth(turning)
    fewer = replace(taken(full, full.label < PARTS - 1), count=PARTS - 1) if given else None
    anew = method(poses=CLUSTER | {"landmarks": PARTS, "prior": 1.0})
    landmarks = anew.discover(task(turning, ROWS, PARTS - 1, fewer)).landmarks
    assert landmarks.poses is not None and landmarks.poses.landmarks.shape[:2] == (POSES, PARTS)
    part = landmarks.poses.landmarks[:, :, 1 : 1 + PARTS].argmax(2)  # (Q, K): which part a landmark looks like
    assert (part == part[0]).all() and sorted(part[0]) == list(range(PARTS))
    labels = anew.label(task(turning, ROWS, PARTS - 1, fewer), landmarks).labels
    again = anew.discover(task(turning, ROWS, PARTS - 1, labels)).landmarks  # the next round goes on with them
    assert again.poses is not None
    np.testing.assert_array_equal(again.poses.landmarks[0, :, 1 : 1 + PARTS].argmax(1), part[0])


# --- label and find ---


def test_labels_have_a_pose(turning: Turning) -> None:
    landmarks = discover(turning).landmarks
    marked = method().label(task(turning, ROWS, previous=truth(turning)), landmarks)
    labels = marked.labels
    assert list(labels.own) == [POSE] and len(labels.image) == 2 * PARTS * len(ROWS)
    centre = turning.to_image(labels.image, turning.centres[labels.image])[np.arange(len(labels.image)), labels.label]
    assert np.linalg.norm(labels.xy - centre, axis=1).max() < 1.5
    pairs = {(int(a), int(b)) for a, b in zip(turning.pose[labels.image], labels.own[POSE], strict=True)}
    assert len(pairs) == POSES
    assert {"detections", "labels", "label_change"} <= set(marked.health) and marked.health["label_change"] == 0


@pytest.mark.parametrize("view", [PLAIN, MIRROR])
@pytest.mark.parametrize("place", [None, 10.0])
def test_finds_landmarks_as_they_look_in_the_pose(turning: Turning, view: View, place: float | None) -> None:
    landmarks = discover(turning, place=place).landmarks
    turning.heights[TEST[3], VIEWS.index(view), 2] = 0.1
    found = method(poses=CLUSTER | {"place": place}).find(turning, landmarks, TEST, view)
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
    poses = landmarks.known_poses()
    assert (poses.places is None) == (place is None)
    confused = poses.landmarks.copy()
    confused[:, 0] = confused[:, 1]
    mixed = replace(landmarks, poses=replace(poses, landmarks=confused))
    found = method(poses=CLUSTER | {"place": place}).find(turning, mixed, TEST, PLAIN)
    gap = np.linalg.norm(turning.to_image(TEST, found.dense_xy) - turning.to_image(TEST, turning.centres[TEST]), axis=2)
    assert gap[:, 1:].max() < 2.2
    assert (gap[:, 0].max() < 17) == (place is not None)  # pixels: it stays on its side, or sits on the other part


@pytest.mark.parametrize("view", VIEWS)
def test_places_turn_with_the_view(turning: Turning, view: View) -> None:
    poses = discover(turning, place=10).landmarks.known_poses()
    assert poses.places is not None and poses.places.shape == (2, POSES, PARTS, 2)
    far = posed._far(turning, TEST, view, poses, 10.0)
    assert far is not None
    pose = poses_of(turning, TEST[:3], poses)
    for row, q in zip(TEST[:3], pose, strict=True):
        cell = far[q].flatten(1).argmin(1).numpy()
        at = turning.to_image(np.array([row]), np.stack([cell % turning.grid, cell // turning.grid], -1)[None], view)
        assert_right(turning, np.array([row]), at, 3.5)
    assert posed._far(turning, TEST, view, replace(poses, places=poses.places[:1]), 10.0) is not None or view is MIRROR


def test_find_does_not_depend_on_the_batch(turning: Turning, monkeypatch: pytest.MonkeyPatch) -> None:
    landmarks = discover(turning).landmarks
    whole = method().find(turning, landmarks, TEST, PLAIN)
    monkeypatch.setenv("ULD_BATCH", "5")
    parts = method().find(turning, landmarks, TEST, PLAIN)
    np.testing.assert_allclose(parts.dense_xy, whole.dense_xy, atol=1e-5)
    np.testing.assert_array_equal(parts.pose, whole.pose)


def test_landmarks_without_poses(turning: Turning) -> None:
    landmarks: Landmarks = replace(discover(turning).landmarks, poses=None)
    with pytest.raises(ULDError, match="no pose clusters"):
        method().find(turning, landmarks, TEST, PLAIN)


# --- train ---


def parameters(head: Heads, part: str) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in getattr(head, part).state_dict().values()])


@pytest.fixture
def proxied(turning: Turning, tmp_path: Any) -> tuple[Course, Heads, Any]:
    """A model after a round of the pose proxy, and the history of the round."""
    course = Course(turning, tmp_path)
    head, history = train("pose_proxy", course.head(), course.training(truth(turning)))
    return course, head, history


def test_pose_proxy_teaches_detector_and_pose_part(proxied: tuple[Course, Heads, Any], turning: Turning) -> None:
    course, head, history = proxied
    before = course.head()
    for part in ("descriptor_head", "aggregate", "base"):
        torch.testing.assert_close(parameters(head, part), parameters(before, part), rtol=0, atol=0)
    assert not torch.equal(parameters(head, "detector_head"), parameters(before, "detector_head"))
    assert all(one.requires_grad for one in head.parameters())
    first, last = (
        history[["detector", "reconstruction"]][:10].mean(),
        history[["detector", "reconstruction"]][-10:].mean(),
    )
    assert last["detector"] < 0.7 * first["detector"] and last["reconstruction"] < 0.7 * first["reconstruction"]
    assert history["kl"].iloc[-1] > 0.1 and head.pose is not None and head.pose.decodes


def test_only_a_new_pose_part_warms_up(proxied: tuple[Course, Heads, Any], turning: Turning) -> None:
    course, _, _ = proxied

    def ends(head: Heads, warmup: int) -> torch.Tensor:
        given = course.training(truth(turning))
        after = train("pose_proxy", deepcopy(head), given, steps=5, kl_warmup=warmup, free_nats=0.0)[0]
        return parameters(after, "pose")

    assert not torch.equal(ends(course.head(), 1), ends(course.head(), 1000))
    again, slow = ends(proxied[1], 1), ends(proxied[1], 1000)
    torch.testing.assert_close(again, slow, rtol=0, atol=0)


def test_the_reconstruction_reaches_the_detector(turning: Turning, tmp_path: Any) -> None:
    ends = []
    for weight in (0.0, 1.0):
        course = Course(turning, tmp_path / str(weight))
        (tmp_path / str(weight)).mkdir()
        head, _ = train("pose_proxy", course.head(), course.training(truth(turning)), weight=weight, steps=3)
        ends.append(parameters(head, "detector_head"))
    assert not torch.equal(*ends)


def test_a_new_pose_part_first_learns_alone(turning: Turning, tmp_path: Any) -> None:
    course = Course(turning, tmp_path)
    given = course.training(truth(turning))
    head, _ = train("pose_proxy", course.head(), given, pretrain=PRETRAIN, steps=0)
    assert head.pose is not None
    torch.testing.assert_close(
        parameters(head, "detector_head"), parameters(course.head(), "detector_head"), rtol=0, atol=0
    )
    untaught, _ = train("pose_proxy", course.head(), given, steps=0)
    after, before = (train("pose_proxy", one, given, steps=1, lr=0.0)[1] for one in (head, untaught))
    assert after["reconstruction"][0] < 0.8 * before["reconstruction"][0]
    assert not list(tmp_path.iterdir())  # no resume state is left


def test_contrast_draws_poses_apart(proxied: tuple[Course, Heads, Any], turning: Turning) -> None:
    course, head, _ = proxied
    labels = truth(turning)
    labels = with_poses(labels, turning.pose[labels.image])

    def ratio(model: Heads) -> float:
        """Distance between codes of one pose over that between codes of different poses."""
        assert model.pose is not None
        with torch.no_grad():
            code = model(course.store.read(ROWS, 0, model.maps_read())).code
            gap = torch.cdist(code, code).numpy()
        same = turning.pose[ROWS][:, None] == turning.pose[ROWS]
        return float(gap[same].sum() / (same.sum() - len(ROWS)) / gap[~same].mean())

    start, kept = ratio(head), parameters(head, "descriptor_head")
    after, history = train("duld_pp", head, course.training(labels))
    assert after.pose is not None and not after.pose.decodes
    assert ratio(after) < 0.7 * start
    torch.testing.assert_close(parameters(after, "descriptor_head"), kept, rtol=0, atol=0)
    assert history["contrast"][-5:].mean() < history["contrast"][:5].mean()
    with pytest.raises(ULDError, match="has no decoder"):
        train("duld_pp_full_vae", after, course.training(labels))


def test_contrast_with_a_queue_and_the_margin_of_the_paper(
    proxied: tuple[Course, Heads, Any], turning: Turning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image is compared with codes of earlier steps too, a tiny margin moves none; a killed run ends the same."""
    course, head, _ = proxied
    labels = truth(turning)
    given = course.training(with_poses(labels, turning.pose[labels.image]))
    whole, history = train("duld_pp", head, given, queue=40, margin=0.01, relative=False, steps=60)
    assert (history["active"] == 0).all() and history["contrast"].iloc[-5:].mean() < history["contrast"].iloc[:5].mean()
    _, near = train("duld_pp", head, given, queue=40, margin=1.0, steps=5)
    assert near["active"].mean() > 0.1
    seen = []
    push = pose_contrast.Queue.push

    def kill(queue: pose_contrast.Queue, code: torch.Tensor, own: np.ndarray) -> None:
        push(queue, code, own)
        seen.append(int((queue.poses >= 0).sum()))
        if len(seen) == 55:
            raise KeyboardInterrupt

    monkeypatch.setattr(pose_contrast.Queue, "push", kill)
    with pytest.raises(KeyboardInterrupt):  # after the state of step 50 was kept
        train("duld_pp", head, given, queue=40, margin=0.01, relative=False, steps=60)
    monkeypatch.setattr(pose_contrast.Queue, "push", push)
    again, _ = train("duld_pp", head, given, queue=40, margin=0.01, relative=False, steps=60)
    assert seen[:4] == [12, 24, 36, 40]
    torch.testing.assert_close(parameters(again, "pose"), parameters(whole, "pose"), rtol=0, atol=0)


def test_partners_of_a_queue() -> None:
    """Never an image itself, always one of the right pose, NaN where there is none; all that may come do come."""
    queue = pose_contrast.Queue(3, 2)
    queue.push(torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), np.array([1, 2, 2, 5]))
    assert queue.codes[:, 0].tolist() == [1, 2, 3] and queue.poses.tolist() == [1, 2, 2]
    queue.push(torch.tensor([[5.0, 0.0]]), np.array([0]))
    assert queue.codes[:, 0].tolist() == [5, 1, 2] and queue.poses.tolist() == [0, 1, 2]
    code = torch.tensor([[7.0, 1.0], [8.0, 1.0], [9.0, 1.0]])
    found: list[tuple[set[float], set[float]]] = [(set(), set()) for _ in code]
    for number in range(200):
        same, other = queue.partners(code, np.array([1, 2, 2]), np.random.default_rng(number))
        for one, a, b in zip(found, same[:, 0].tolist(), other[:, 0].tolist(), strict=True):
            one[0].add(a)
            one[1].add(b)
    assert found == [({1}, {5, 2, 8, 9}), ({2, 9}, {5, 1, 7}), ({2, 8}, {5, 1, 7})]
    alone = pose_contrast.Queue(2, 2).partners(code, np.array([3, 3, 4]), np.random.default_rng(0))
    assert alone[0][:2, 0].tolist() == [8, 7] and alone[0][2].isnan().all() and set(alone[1][:2, 0].tolist()) == {9}


def test_the_full_autoencoder_goes_on(proxied: tuple[Course, Heads, Any], turning: Turning) -> None:
    course, head, before = proxied
    labels = with_poses(truth(turning), turning.pose[truth(turning).image])
    after, history = train("duld_pp_full_vae", head, course.training(labels))
    assert after.pose is not None and after.pose.decodes
    assert history["reconstruction"].iloc[-1] < before["reconstruction"].iloc[-1]


def test_starts_that_will_not_do(turning: Turning, course: Course, proxied: tuple[Course, Heads, Any]) -> None:
    labels = truth(turning)
    with pytest.raises(ULDError, match="no pose part: begin at a round of pose_proxy"):
        train("duld_pp", course.head(), course.training(labels))
    alike = with_poses(labels, np.zeros(len(labels.image), np.int64))
    with pytest.raises(ULDError, match="all images have one pose"):
        train("duld_pp", proxied[1], proxied[0].training(alike))


def test_poses_of_labels(turning: Turning) -> None:
    labels = with_poses(truth(turning, ROWS[:4]), np.repeat([0, 1, 2, 0, 2, 1, 0, 2], PARTS))
    assert labels.own_of(POSE, np.arange(5), False).tolist() == [0, 1, 2, 0, -1]
    assert labels.own_of(POSE, np.arange(5), True).tolist() == [2, 1, 0, 2, -1]
    assert truth(turning).own_of(POSE, np.arange(2), False).tolist() == [-1, -1]


def test_spread_of_codes() -> None:
    codes = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rms = torch.cdist(codes, codes).square().mean().sqrt().item()
    assert pose_contrast.spread(codes) == pytest.approx(rms, rel=1e-12)


def test_a_code_that_says_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    codes = torch.linspace(0, 1, 40)[:, None] * torch.tensor([1.0, 1.0] + 30 * [0.1])
    assert posed.awake(codes[:, :16]) == 2 and not caplog.messages
    assert posed.awake(codes) == 2 and "2 of 32 units of the pose code differ" in caplog.text
    assert posed.awake(codes[:, 2:6]) == 0 and "0 of 4 units" in caplog.text
