"""Second stage of Mallis (D): a heat map a landmark, what it learns and what is read from it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.methods.conftest import MIRROR, PARTS, PLAIN, Course, Planted, task
from tests.training.adam import ADAM
from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.base.params import build
from uld.cluster import spool
from uld.geometry import sampling
from uld.landmarks.channels import mirror_votes, tops
from uld.landmarks.label import mirrored, table
from uld.losses.mallis import channel_bce, channel_mse
from uld.methods import load
from uld.methods.base import Discovery, Labelled, Method, Training
from uld.models.base import Maps, Model
from uld.sources.views import View

TRAIN = {"steps": 60, "views": 8, "lr": 1e-2, "lr_rest": 1e-3, "optimiser": ADAM, "loss": "bce", "sigma": 0.75}
DETECT = {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 8, "heat_weight": 0}
BLOCK = {"pool": "detections", "points": 20, "max_points": 100_000, "restarts": 3, "iterations": 20,
         "over_clustering": 1, "recentre": 0, "images": 100, "detect": DETECT,
         "label": {"max_distance": None, "dense": None}, "mirror": "found",
         "average": False, "threshold": 0.0}  # fmt: skip
ROWS = np.arange(2, 40)


def method(**changes: Any) -> Method:
    kind = load("mallis_d_detector")
    return kind(build(kind.Cluster, BLOCK | changes, "methods.mallis_d_detector.cluster"))


def train(model: Model, training: Training, **changes: Any) -> Any:
    """The model after the round, and a line a step."""
    kind = load("mallis_d_detector")
    return kind.train(model, training, build(kind.Train, TRAIN | changes, "methods.mallis_d_detector.train"))


def discover(source: Any, count: int = PARTS) -> Discovery:
    return method().discover(task(source, ROWS, count))


def label(source: Any, landmarks: Any) -> Labelled:
    return method().label(task(source, ROWS), landmarks)


def gaussian(x: float, y: float, height: float = 1.0, sigma: float = 0.75, grid: int = 12) -> torch.Tensor:
    cell = torch.arange(grid)
    return height * torch.exp(-((cell - x) ** 2 + (cell[:, None] - y) ** 2) / (2 * sigma**2))


def everywhere(images: int, grid: int = 12) -> torch.Tensor:
    return torch.ones(images, grid, grid, dtype=torch.bool)


def test_a_dead_heat_map_has_a_place_all_the_same() -> None:
    xy, height = tops(torch.zeros(1, 2, 12, 12), everywhere(1), 2)
    assert torch.isfinite(xy).all() and (height == 0).all()


# --- the loss ---


def test_loss_by_hand() -> None:
    logits, target = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    logits[0, 0, 0, 0], target[0, 0, 0, 1] = math.log(3), 1.0  # 3/4 where 0 is asked, and 1/2 for 1 outside
    logits[1, 2], target[1, 2] = math.log(3), 1.0
    logits[1, 1], target[0, 2] = 9.0, 1.0  # absent
    inside = torch.tensor([[[True, False], [True, False]], [[True] * 2] * 2])
    present = torch.tensor([[True, False, False], [False, False, True]])
    first, last = (math.log(4) + math.log(2)) / 2, math.log(4 / 3)
    assert channel_bce(logits, target, inside, present).item() == pytest.approx((first + last) / 2)
    present[1, 2] = False
    assert channel_bce(logits, target, inside, present).item() == pytest.approx(first)
    assert channel_bce(logits, target, inside & False, present).item() == 0


def test_squared_error_by_hand() -> None:
    """Errors 1/2 of one cell of two and 1/4 of one of four; the mean is over all channels, present or not."""
    logits = torch.tensor([[[[0.0, 0], [0, 9]]], [[[0.0, 0], [0, 0]]]])
    target = torch.tensor([[[[0.5, 9], [0, 9]]], [[[0.25, 0.5], [0.5, 0.5]]]])
    inside = torch.tensor([[[True, False], [True, False]], [[True] * 2] * 2])
    present = torch.tensor([[True], [True]])
    each = [0.5**2 / 2, 0.25**2 / 4]
    assert channel_mse(logits, target, inside, present).item() == pytest.approx(sum(each) / 2 / 2)
    present[0] = False
    assert channel_mse(logits, target, inside, present).item() == pytest.approx(each[1] / 2 / 2)
    assert channel_mse(logits, target, inside & False, present).item() == 0


@pytest.mark.parametrize("sigma", [0, 0.75])
def test_squared_error_teaches_the_heat_maps_too(planted: Planted, course: Course, sigma: float) -> None:
    labels = label(planted, discover(planted).landmarks).labels
    _, history = train(course.head(), course.training(labels), loss="mse", sigma=sigma)
    loss = history["loss"].to_numpy()
    assert loss[-5:].mean() < (0.6 if sigma else 0.95) * loss[:5].mean(), loss


def test_loss_is_least_at_the_target_and_pulls_a_dark_channel() -> None:
    target = gaussian(5.0, 6.0)[None, None]
    inside, present = everywhere(1), torch.ones(1, 1, dtype=torch.bool)
    exact = target.clamp(1e-4, 1 - 1e-4).logit()
    least = channel_bce(exact, target, inside, present)
    for other in (exact + 0.3, exact - 0.3, exact.roll(1, 2)):
        assert channel_bce(other, target, inside, present) > least
    dark = torch.full_like(target, -10.0, requires_grad=True)
    channel_bce(dark, target, inside, present).backward()
    assert dark.grad is not None and dark.grad[0, 0, 6, 5].item() == pytest.approx(-1 / 144, rel=1e-3)


def test_absent_channels_and_cells_outside_teach_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    heat = torch.rand(3, 4, 5, 5, generator=draw, requires_grad=True)
    inside = torch.rand(3, 5, 5, generator=draw) < 0.7
    present = torch.rand(3, 4, generator=draw) < 0.5
    channel_bce(heat, torch.rand(3, 4, 5, 5, generator=draw), inside, present).backward()
    assert heat.grad is not None
    assert torch.equal(heat.grad != 0, present[:, :, None, None] & inside[:, None])
    heat.grad = None
    channel_bce(heat, torch.rand(3, 4, 5, 5), inside, present & False).backward()
    assert not heat.grad.any()


# --- what is read from heat maps ---


def test_the_top_of_a_gaussian_is_found_exactly() -> None:
    want = torch.tensor([[[5.3, 7.8], [2.0, 9.45]], [[1.2, 1.0], [9.6, 4.4]]])
    heat = torch.stack([torch.stack([gaussian(*at.tolist(), height=0.6) for at in image]) for image in want])
    xy, height = tops(heat, everywhere(2), 2)
    torch.testing.assert_close(xy, want, atol=1e-3, rtol=0)
    assert torch.equal(height, heat.flatten(2).amax(2))


def test_only_the_roi_is_searched() -> None:
    heat = torch.maximum(gaussian(3, 8, 0.5), gaussian(8, 3, 0.9)).expand(3, 1, -1, -1)
    inside = everywhere(3)
    inside[0, :5] = False  # rows 0 to 4: the higher one is outside
    inside[1, :, 9:] = False  # a neighbour of the higher one: it is not moved
    inside[2] = False  # no cell at all: the whole image
    xy, height = tops(heat, inside, 1)
    torch.testing.assert_close(xy[:, 0], torch.tensor([[3.0, 8], [8, 3], [8, 3]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(height[:, 0], torch.tensor([0.5, 0.9, 0.9]))


def test_no_refinement_towards_what_is_missing() -> None:
    heat = gaussian(3.4, 6.4).expand(3, 1, -1, -1)
    inside = everywhere(3)
    inside[1, :, 4:] = False  # beside the cell
    inside[2, 7, 4] = False  # diagonally
    xy, _ = tops(heat, inside, 1)
    torch.testing.assert_close(xy[:, 0], torch.tensor([[3.4, 6.4], [3, 6], [3, 6]]), atol=1e-3, rtol=0)


def test_landmarks_are_missing_below_the_threshold(planted: Planted) -> None:
    planted.channels = PARTS
    planted.heights[44, 0] = [0.9, 0.2, 0.7, 0.4]
    landmarks = discover(planted).landmarks
    rows = np.arange(43, 46)
    always, some = (method(threshold=t).find(planted, landmarks, rows, PLAIN) for t in (0.0, 0.45))
    missing = np.zeros((3, PARTS), bool)
    missing[1, [1, 3]] = True
    for found, gone in ((always, missing & False), (some, missing)):
        assert found.xy.dtype == found.score.dtype == np.float32
        assert np.abs(found.dense_xy - planted.centres[rows]).max() < 0.01
        assert found.dense_score == pytest.approx(planted.maps(rows).heat.flatten(2).amax(2).numpy())
        np.testing.assert_array_equal(found.xy, np.where(gone[..., None], np.nan, found.dense_xy))
        np.testing.assert_array_equal(found.score, np.where(gone, np.nan, found.dense_score))


def test_find_in_the_mirror_image(planted: Planted) -> None:
    planted.channels = PARTS
    found = method().find(planted, discover(planted).landmarks, ROWS, MIRROR)
    want = planted.to_image(ROWS, planted.centres[ROWS])
    assert np.abs(planted.to_image(ROWS, found.xy, MIRROR) - want).max() < 0.05


def test_the_mean_with_the_mirror_image(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the mirror the first two heat maps stand for each other, and heat is lower and elsewhere."""
    planted.channels, plain_maps = PARTS, planted.maps

    def maps(rows: np.ndarray, view: View = PLAIN) -> Maps:
        found = plain_maps(rows, view)
        return replace(found, logits=found.logits[:, [1, 0, 2, 3]].roll(2, 3)) if view is MIRROR else found

    monkeypatch.setattr(planted, "maps", maps)
    planted.heights[:, 1] = 0.6
    one = method(average=True)
    landmarks = one.discover(task(planted, ROWS)).landmarks
    assert landmarks.mirror is not None and landmarks.mirror.tolist() == [1, 0, 2, 3]
    found = one.find(planted, landmarks, ROWS, PLAIN)
    alone = method().find(planted, landmarks, ROWS, PLAIN)
    there = plain_maps(ROWS).heat
    # rolled by two cells to the right in the mirror: two to the left as the image shows it
    want = (there + there.roll(-2, 3) * 0.6 / 0.9) / 2
    assert found.score == pytest.approx(want.flatten(2).amax(2).numpy(), abs=1e-5)
    assert (found.xy[..., 0] < alone.xy[..., 0]).mean() > 0.8 and np.abs(found.xy[..., 1] - alone.xy[..., 1]).max() < 1
    assert method().discover(task(planted, ROWS)).landmarks.mirror is None
    with pytest.raises(ULDError, match="not known what these landmarks turn into"):
        one.find(planted, method().discover(task(planted, ROWS)).landmarks, ROWS, PLAIN)


def test_as_many_landmarks_as_heat_maps(planted: Planted) -> None:
    few = discover(planted, 3).landmarks
    with pytest.raises(ULDError, match="the model has 1 heat maps for 3 landmarks"):
        method().find(planted, few, ROWS, PLAIN)
    planted.channels = PARTS
    with pytest.raises(ULDError, match="the model has 4 heat maps for 3 landmarks"):
        method().find(planted, few, ROWS, PLAIN)
    with pytest.raises(ULDError, match="the model has 4 heat maps for 5 landmarks"):
        discover(planted, 5)


# --- discover ---


def test_heat_maps_are_described_where_they_are_highest(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_BATCH", "7")
    planted.channels = PARTS
    found = discover(planted)
    landmarks = found.landmarks
    assert landmarks.counts.tolist() == [len(ROWS)] * PARTS and found.quality["points"] == PARTS * len(ROWS)
    part = landmarks.centroids[:, 1 : 1 + PARTS]
    assert (part.argmax(1) == np.arange(PARTS)).all() and (part.max(1) > 0.9).all()  # channel k is landmark k
    assert found.quality["silhouette"] > 0.5 and 0 < found.quality["inertia"] < 0.2 * PARTS * len(ROWS)
    image = landmarks.exemplar_image
    assert np.isin(image, ROWS).all()
    for k in range(PARTS):
        at = planted.to_image(image[k], planted.centres[image[k]][:, [k]])[:, 0]
        np.testing.assert_allclose(landmarks.exemplar_xy[k], at, atol=0.05)


def test_descriptions_do_not_depend_on_batches_or_pieces(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of all images in one array."""
    planted.channels = PARTS
    maps = planted.maps(ROWS)
    x = F.normalize(sampling.sample(maps.looks, tops(maps.heat, planted.inside(ROWS), PARTS)[0]), dim=2).numpy()
    mean = x.mean(0)
    inertia = float(((x - mean) ** 2).sum(2).ravel().sum(dtype=np.float64))
    for batch, piece in (("32", 2**17), ("5", 7)):
        monkeypatch.setenv("ULD_BATCH", batch)
        monkeypatch.setattr(spool, "PIECE", piece)
        found = discover(planted)
        np.testing.assert_array_equal(found.landmarks.centroids, mean)
        assert found.quality["inertia"] == inertia


def test_one_heat_map_is_clustered(planted: Planted) -> None:
    assert discover(planted).landmarks.counts.tolist() == [len(ROWS)] * PARTS


# --- label ---


def test_labels_in_both_flips(planted: Planted) -> None:
    planted.heights[9, 1, 2] = 0.1
    landmarks = discover(planted).landmarks
    marked = label(planted, landmarks)
    labels = marked.labels
    assert len(labels.image) == 2 * PARTS * len(ROWS) - 1 and labels.detected.all()
    assert len(np.unique(np.stack([labels.flipped, labels.image, labels.label]), axis=1).T) == len(labels.image)
    centres = planted.to_image(labels.image, planted.centres[labels.image])
    gap = np.linalg.norm(centres - labels.xy[:, None], axis=2)
    assert gap.min(1).max() < 0.3 * 3
    assert len({*zip(labels.label.tolist(), gap.argmin(1).tolist(), strict=True)}) == PARTS
    assert marked.health["labels"] == marked.health["detections"] == len(labels.image) / (2 * len(ROWS))
    assert marked.health["flip_agreement"] == 1


@pytest.fixture
def swapping(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """In 30 of 38 mirror images the first two parts look like one another, and the others like themselves."""
    describe, swapped = planted.describe, set(ROWS[:30].tolist())

    def mirrored(rows: np.ndarray, view: View = PLAIN) -> torch.Tensor:
        maps = describe(rows, view)
        if view is MIRROR:
            a, b = torch.tensor([1, 5, 9]), torch.tensor([2, 6, 10])
            for i in [i for i, row in enumerate(rows) if row in swapped]:
                maps[i, torch.cat([a, b])] = maps[i, torch.cat([b, a])]
        return maps

    monkeypatch.setenv("ULD_BATCH", "7")
    monkeypatch.setattr(planted, "describe", mirrored)
    return planted


def test_votes_for_what_a_landmark_turns_into(planted: Planted, request: pytest.FixtureRequest) -> None:
    landmarks = discover(planted).landmarks
    labels = label(planted, landmarks).labels
    request.getfixturevalue("swapping")
    part = landmarks.centroids[:, 1 : 1 + PARTS].argmax(1)  # of each landmark
    assert sorted(part.tolist()) == list(range(PARTS))
    for rows, swap in ((ROWS, 30), (ROWS[25:], 5)):
        turn, stay = np.argsort(part)[:2], np.argsort(part)[2:]
        want = np.zeros((PARTS, PARTS), int)
        want[turn, turn], want[turn, turn[::-1]], want[stay, stay] = len(rows) - swap, swap, len(rows)
        np.testing.assert_array_equal(mirror_votes(planted, labels, rows, MIRROR, landmarks.centroids), want)


def test_mirrored_labels_by_the_majority(planted: Planted, request: pytest.FixtureRequest) -> None:
    landmarks = discover(planted).landmarks
    request.getfixturevalue("swapping")
    one = method(mirror="majority")
    marked = one.label(task(planted, ROWS), landmarks)
    assert marked.health["flip_agreement"] == pytest.approx((30 + 30 + 38 + 38) / (4 * 38))
    order = np.argsort(landmarks.centroids[:, 1 : 1 + PARTS].argmax(1))  # landmark of each part
    turns = np.arange(PARTS)
    turns[order[:2]] = order[1::-1]
    tables = [table(marked.labels, ROWS, flipped, PARTS) for flipped in (False, True)]
    assert np.isfinite(tables).all()
    np.testing.assert_array_equal(tables[1][:, turns], tables[0])


def test_of_two_landmarks_that_turn_into_one_the_more_similar_stays() -> None:
    image, label = np.array([3, 3, 5, 5, 9]), np.array([0, 1, 0, 1, 2])
    xy, score = np.arange(10, dtype=np.float32).reshape(5, 2), np.array([0.5, 0.9, 0.8, 0.2, 0.1], np.float32)
    # the one label of a mirror image gives way to what the images say
    labels = Labels(
        np.append(image, 3),
        np.arange(6) == 5,
        np.append(label, 1),
        np.vstack([xy, [7, 7]]),
        np.append(score, 1),
        np.ones(6, dtype=bool),
        3,
    )
    found = mirrored(labels, np.array([2, 2, 0]))
    np.testing.assert_array_equal(found.flipped, [False] * 5 + [True] * 3)
    np.testing.assert_array_equal(found.image, [3, 3, 5, 5, 9, 3, 5, 9])
    np.testing.assert_array_equal(found.label, [0, 1, 0, 1, 2, 2, 2, 0])
    np.testing.assert_array_equal(found.xy, xy[[0, 1, 2, 3, 4, 1, 2, 4]])


# --- train ---


def test_each_channel_learns_its_landmark(planted: Planted, course: Course) -> None:
    landmarks = discover(planted).landmarks
    planted.heights[7, :, 1:] = 0.1  # most labels of one image are missing, and all of another one
    planted.heights[8] = 0.1
    labels = label(planted, landmarks).labels
    head, history = train(course.head(), course.training(labels))
    assert head.channels == PARTS and not head.training
    assert history["loss"][-5:].mean() < 0.4 * history["loss"][:5].mean()
    assert set(course.store.asked) <= set(ROWS) - {8}
    rows = np.array([7, 8, *range(40, 60)])  # unlabelled and unseen images
    source = course.source(head)
    found = method().find(source, discover(source).landmarks, rows, source.views.plain)
    part = landmarks.centroids[:, 1 : 1 + PARTS].argmax(1)
    assert np.abs(found.xy - planted.centres[rows][:, part]).max() < 0.75
    assert (found.score > 0.4).all()


def test_two_learning_rates_and_the_same_result_twice(planted: Planted, course: Course) -> None:
    labels = label(planted, discover(planted).landmarks).labels
    frozen = {"lr_rest": 0.0, "steps": 3}
    heads = [train(course.head(), course.training(labels), **frozen)[0] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True))
    other, _ = train(course.head(), course.training(labels, seed=1), **frozen)
    assert not torch.equal(other.detector_head[-1].weight, heads[0].detector_head[-1].weight)
    before = dict(course.head().named_parameters())
    moved = {name for name, value in heads[0].named_parameters() if name in before and value.shape == before[name].shape
             and not torch.equal(value, before[name])}  # fmt: skip
    assert moved and all(name.startswith("detector_head.") for name in moved)
    slow, _ = train(course.head(), course.training(labels), steps=3)
    step = {name: (value - before[name]).abs().max().item() for name, value in slow.named_parameters()
            if value.shape == before[name].shape}  # fmt: skip
    # the first steps of Adam are as long as the learning rate
    assert 0 < step["aggregate.bottleneck_layers.0.0.conv3.weight"] <= 3.1e-3 < step["detector_head.0.weight"]


def test_labels_outside_the_view_are_not_taught(planted: Planted, course: Course) -> None:
    labels = label(planted, discover(planted).landmarks).labels
    labels.xy[labels.label == 1] += 300  # pixels
    _, history = train(course.head(), course.training(labels), steps=2)
    assert history["present"].tolist() == [0.75] * 2
    head = course.head()
    with pytest.raises(ULDError, match="round one: its start has 4 heat maps"):
        train(head.with_channels(4), course.training(labels))
