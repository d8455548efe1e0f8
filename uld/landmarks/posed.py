"""Landmarks that look different in different poses: two-stage clustering as methods use it (D-ULD++, section 3.3.2).

Images are clustered by pose code, then each pose finds how the landmarks look in it, and where they lie. Landmarks
come from an earlier round, or from k-means if their number is another, and stay the same in all poses: the centroids of
a pose start from those of all images.
"""

import logging
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.labels import Labels, poses_of
from uld.artifacts.landmarks import Landmarks, PoseCentroids
from uld.base import runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.cluster import kmeans, two_stage
from uld.cluster.align import align
from uld.cluster.quality import quality
from uld.cluster.spool import pieces
from uld.cluster.two_stage import Poses, Slots
from uld.geometry.frames import Rows
from uld.landmarks import label, places
from uld.landmarks.detect import DetectParams
from uld.landmarks.label import Marks, Pool
from uld.landmarks.recentre import Held, hold, means_at
from uld.losses import duld
from uld.methods.base import Discovery, Found, Source

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

ITERATIONS, CAP = 100, 800_000  # of the k-means that finds other landmarks than those of an earlier round
AWAKE = 1 / 8  # share of active units below which a code says next to nothing: 8 of the paper's 64


@dataclass(frozen=True, config=CLOSED)
class TwoStageParams:
    """Two-stage clustering."""

    poses: Annotated[int, Field(ge=1)]  # Q
    # K; null: the landmarks of the earlier round stay. Of another number than they are, k-means finds them anew
    landmarks: Annotated[int, Field(ge=1)] | None
    least: Annotated[int, Field(ge=1)]  # images a pose; smaller ones are joined with the nearest
    restarts: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]
    # what the centroids of a pose move to: its exemplars, one an image, or all of its points (k-means, as in the paper)
    within: Literal["exemplars", "points"]
    prior: Annotated[float, Field(ge=0)]  # exemplars or points that a centroid of all poses counts for in each
    align: Annotated[float, Field(ge=0)] | None  # weight of positions against descriptors; null: slots are as they come
    # what the squared distance to a landmark's mean place in the pose, in sides of the map, counts for against the
    # cosine of a dense match; null: matches do not ask where a landmark lies, as in the paper
    place: Annotated[float, Field(gt=0)] | None
    images: Annotated[int, Field(ge=1)]  # held in memory, at most


def discover(
    source: Source,
    rows: Rows,
    count: int,
    rng: np.random.Generator,
    previous: Labels | None,
    p: TwoStageParams,
    detect: DetectParams,
) -> Discovery:
    """Poses of the training images and their mirror images, and how the landmarks of the last round look in each.

    Args:
        count: K, if `p` has none.

    Raises:
        ULDError: fewer images than poses; `p` has no K, and the model has been through no round, or its last one had
            another number.
    """
    if len(rows) < p.poses:
        raise ULDError(
            f"{len(rows)} training images cannot have {p.poses} pose clusters: lower cluster.poses or give more images."
        )
    count = p.landmarks or count
    known = _last_landmarks(previous, count, p)
    chosen = np.sort(rng.permutation(rows)[: p.images])
    held = [hold(source, chosen, view) for view in label.hands(source)]
    codes = [_codes(source, one) for one in held]
    poses = two_stage.pose_clusters(
        np.concatenate(codes),
        p.poses,
        rng,
        least=p.least,
        restarts=p.restarts,
        iterations=p.iterations,
        init=_last_poses(codes, held, previous),
    )
    points = label.pool(source, rows, detect)
    if known is None:
        everywhere = kmeans.fit(
            points.descriptor, count, rng, restarts=p.restarts, iterations=ITERATIONS, cap=CAP
        ).centroids
    else:
        everywhere = means_at(held, source, known, count)
    if p.within == "exemplars":
        slots = _by_exemplars(held, poses, everywhere, p)
    else:
        slots = _by_points(source, points, poses, everywhere, p)
    figures: dict[str, float | int] = {"poses": len(poses.centroids), "least_pose": int(poses.counts.min())}
    figures["active_units"] = active_units(torch.from_numpy(np.concatenate(codes)))
    if p.align is not None:
        order, drift = align(slots.centroids, slots.xy, poses.centroids, poses.counts, p.align)
        slots = slots.ordered(order)
        figures |= {"drift_moved": drift.moved, "drift_apart": drift.apart}
    looks, where = slots.centroids, None
    if p.place is not None:
        looks, where = places.carry(_of_poses(held, poses), looks, poses.centroids, detect, p.place, p.prior)
    kept = PoseCentroids(poses.centroids, looks, poses.counts, where)
    shown = label.picture(points, everywhere, rng)
    figures |= quality(points.descriptor, kmeans.of(points.descriptor, everywhere), rng)
    return Discovery(replace(shown, poses=kept), figures)


def _last_landmarks(previous: Labels | None, count: int, p: TwoStageParams) -> Labels | None:
    """Labels of the last round if its landmarks stay; None if others are to be found.

    Raises:
        ULDError: they cannot stay, and `p` does not ask for others.
    """
    if previous is not None and previous.label.max(initial=-1) + 1 == count:
        return previous
    if p.landmarks is None:
        raise ULDError(
            f"two-stage clustering goes on with the {count} landmarks of a round: begin at one that has them, or say "
            "in cluster.landmarks how many are to be found anew."
        )
    return None


def _codes(source: Source, held: Held) -> Floats:
    """Pose codes (n, C) of held images."""
    assert held.heat is not None, "a model with a pose part has a detector"
    return torch.cat([source.codes(part) for part in held.heat.split(64)]).cpu().numpy()


def active_units(codes: torch.Tensor) -> int:
    """`losses.active_units` of pose codes (n, C), with a warning if they are few."""
    active, length = duld.active_units(codes), codes.shape[1]
    if active < max(1, AWAKE * length):
        log.warning(
            "%d of %d units of the pose code differ between images: clusters of it may mean nothing. Train the pose "
            "proxy longer, or with more free nats a unit (free)",
            active,
            length,
        )
    return active


def encode(source: Source, rows: Rows, view: int) -> Floats:
    """Pose codes (n, C) of images."""
    batches = runtime.batches(rows)
    return np.concatenate([source.codes(source.maps(batch, view)[1]).cpu().numpy() for batch in batches])


def _last_poses(codes: list[Floats], held: list[Held], previous: Labels | None) -> Floats | None:
    """Where the poses of the last round are now: mean codes (Q, C) of the images that they had, if there were any."""
    if previous is None or previous.pose is None:
        return None
    total = np.zeros((int(previous.pose.max()) + 1, codes[0].shape[1]))
    seen = np.zeros(len(total))
    for one, code in zip(held, codes, strict=True):
        pose = poses_of(previous, one.rows, one.view)
        known = pose >= 0
        np.add.at(total, pose[known], code[known])
        seen += np.bincount(pose[known], minlength=len(total))
    return (total[seen > 0] / seen[seen > 0, None]).astype(np.float32)


def _of_poses(held: list[Held], poses: Poses) -> list[list[Held]]:
    """The held images of each pose."""
    pose = np.split(poses.label, np.cumsum([len(one.rows) for one in held])[:-1])
    return [
        [one.take(np.flatnonzero(of == q)) for one, of in zip(held, pose, strict=True)]
        for q in range(len(poses.centroids))
    ]


def _by_exemplars(held: list[Held], poses: Poses, everywhere: Floats, p: TwoStageParams) -> Slots:
    """Centroids of each pose, moved to the mean of their dense matches in its images, and mean places of those."""
    centroids, xy = [], []
    for mine in _of_poses(held, poses):
        images = sum(len(one.rows) for one in mine)
        own = everywhere
        for _ in range(p.iterations):
            found = np.concatenate([one.matches(own)[1] for one in mine])
            own = ((found.sum(0) + p.prior * everywhere) / (images + p.prior)).astype(np.float32)
        centroids.append(own)
        xy.append(np.concatenate([one.matches(own)[0] for one in mine]).mean(0))
    counts = np.repeat(poses.counts[:, None], len(everywhere), 1)
    return Slots(np.stack(centroids), counts, np.stack(xy))


def _by_points(source: Source, points: Pool, poses: Poses, everywhere: Floats, p: TwoStageParams) -> Slots:
    """k-means of the detections of each pose."""
    pose = np.empty(len(points.image), dtype=np.int64)
    xy = np.empty((len(points.image), 2), dtype=np.float32)
    for view in np.unique(points.view):
        mine = np.flatnonzero(points.view == view)
        rows, own = np.unique(points.image[mine], return_inverse=True)
        pose[mine] = poses.assign(encode(source, rows, int(view)))[0][own]
        for some in (mine[piece] for piece in pieces(len(mine))):
            xy[some] = source.to_cells(points.image[some], points.xy[some][:, None], int(view))[:, 0]
    return two_stage.keypoint_clusters(
        points.descriptor, pose, xy, everywhere, len(poses.centroids), iterations=p.iterations, prior=p.prior
    )


def mark(
    source: Source, rows: Rows, view: int, poses: PoseCentroids, detect: DetectParams, place: float | None
) -> tuple[Marks, NDArray[np.int64], Floats]:
    """Landmarks of each image as they look in its own pose.

    Args:
        place: as in `TwoStageParams`.

    Returns:
        The landmarks, and pose (n,) and margin (n,) of the images `rows` (n,).
    """
    far = _far(source, rows, view, poses, place)
    known = Poses(poses.codes, np.empty(0, np.int64), poses.counts)
    parts = []
    for batch in runtime.batches(rows):
        maps = label.Maps(*source.maps(batch, view), source.inside(batch, view))
        pose, margin = known.assign(source.codes(maps.heat).cpu().numpy())
        of_pose = [np.flatnonzero(pose == q) for q in np.unique(pose)]
        marked = []
        for index in of_pose:
            q, some = pose[index[0]], maps.take(index)
            marked.append(
                some.mark(poses.landmarks[q], detect)
                if far is None
                else some.mark_near(poses.landmarks[q], detect, far[q].to(some.heat))
            )
        back = np.argsort(np.concatenate([np.empty(0, np.int64), *of_pose]))
        parts.append((*(np.concatenate(column)[back] for column in zip(*marked, strict=True)), pose, margin))
    *columns, pose, margin = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Marks(rows, view, *columns), pose, margin


def _far(source: Source, rows: Rows, view: int, poses: PoseCentroids, place: float | None) -> torch.Tensor | None:
    """What cells (Q, K, G, G) of a view cost for their distance from the places of each pose; None: nothing."""
    hands, hand = label.hands(source), int(source.mirrored[view])
    if place is None or poses.places is None or hand >= min(len(hands), len(poses.places)) or not len(rows):
        return None
    known = poses.places[hand].reshape(1, -1, 2)
    # a view turns all images alike: any of them says where a place of the hand is seen
    seen = source.to_cells(rows[:1], source.to_image(rows[:1], known, hands[hand]), view)
    return places.cost(seen[0], source.grid, place).unflatten(0, poses.landmarks.shape[:2])


def to_labels(
    source: Source,
    rows: Rows,
    landmarks: Landmarks,
    detect: DetectParams,
    place: float | None,
    join: float | None,
    fill: float | None,
) -> tuple[Labels, list[Marks]]:
    """What a round is trained on: labels (pose, landmark) of every image and its mirror image."""
    poses = known_poses(landmarks)
    found = [mark(source, rows, view, poses, detect, place) for view in label.hands(source)]
    marked = [one for one, _, _ in found]
    labels = label.to_labels(source, marked, join, fill)
    pose = np.empty(len(labels.image), dtype=np.int64)
    for one, own, _ in found:
        mine = labels.view == one.view
        pose[mine] = own[np.searchsorted(rows, labels.image[mine])]
    return replace(labels, pose=pose), marked


def find(
    source: Source, landmarks: Landmarks, rows: Rows, view: int, detect: DetectParams, place: float | None
) -> Found:
    """Landmarks, detected and dense, and the pose of each image."""
    one, pose, margin = mark(source, rows, view, known_poses(landmarks), detect, place)
    return Found(one.xy, one.score, one.dense_xy, one.dense_score, pose, margin)


def known_poses(landmarks: Landmarks) -> PoseCentroids:
    """The pose clusters of landmarks.

    Raises:
        ULDError: they have none.
    """
    if landmarks.poses is None:
        raise ULDError("these landmarks have no pose clusters: discover them with a two-stage step.")
    return landmarks.poses
