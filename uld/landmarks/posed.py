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

from uld.artifacts.found import Found, joined
from uld.artifacts.labels import POSE, Labels
from uld.artifacts.landmarks import PoseCentroids
from uld.base import progress
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
from uld.landmarks.label import Pool
from uld.landmarks.recentre import means_at
from uld.landmarks.seen import Seen, keep, look, matches, search
from uld.losses.duld import active_units
from uld.methods.base import Discovery, Task
from uld.sources.source import Source
from uld.sources.views import View

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

ITERATIONS, MAX_POINTS = 100, 800_000  # of the k-means that finds other landmarks than those of an earlier round
AWAKE = 1 / 8  # share of active units below which a code says next to nothing: 8 of the paper's 64


@dataclass(frozen=True, config=CLOSED)
class TwoStageParams:
    """Two-stage clustering."""

    poses: Annotated[int, Field(ge=1)]  # Q
    # K; null: the landmarks of the earlier round stay. Of another number than they are, k-means finds them anew
    landmarks: Annotated[int, Field(ge=1)] | None
    min_images: Annotated[int, Field(ge=1)]  # of a pose; smaller ones are joined with the nearest
    restarts: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]
    # what the centroids of a pose move to: its exemplars, one an image, or all of its points (k-means, as in the paper)
    within: Literal["exemplars", "points"]
    prior: Annotated[float, Field(ge=0)]  # exemplars or points that a centroid of all poses counts for in each
    # how much positions count against descriptors when slots of neighbouring poses are matched; null: none are matched
    align: Annotated[float, Field(ge=0)] | None
    # a dense match maximises cosine - place x squared distance from the landmark's mean place in the pose, in sides of
    # the map; null: matches do not ask where a landmark lies, as in the paper
    place: Annotated[float, Field(gt=0)] | None
    images: Annotated[int, Field(ge=1)]  # held in memory, at most


def discover(task: Task, p: TwoStageParams, detect: DetectParams) -> Discovery:
    """Poses of the training images and their mirror images, and how the landmarks of the last round look in each.

    Raises:
        ULDError: fewer images than poses; `p` has no K, and the model has been through no round, or its last one had
            another number.
    """
    source, rows, rng = task.source, task.rows, task.rng
    if len(rows) < p.poses:
        raise ULDError(
            f"{len(rows)} training images cannot have {p.poses} pose clusters: lower poses.poses or give more images."
        )
    known = _last_landmarks(task, p)
    chosen = np.sort(rng.permutation(rows)[: p.images])
    kept = [keep(source, chosen, view) for view in source.views.flips]
    poses = _poses(kept, task, p)
    points = label.detected(task, detect)
    everywhere = _everywhere(points, kept, known, task, p)
    if p.within == "exemplars":
        slots = _by_exemplars(kept, poses, everywhere, p)
    else:
        slots = _by_points(source, points, poses, everywhere, p)
    figures: dict[str, float | int] = {"poses": len(poses.centroids), "least_pose": int(poses.counts.min())}
    figures["active_units"] = awake(torch.cat([_codes(one) for one in kept]))
    if p.align is not None:
        order, drift = align(slots.centroids, slots.xy, poses.centroids, poses.counts, p.align)
        slots = slots.ordered(order)
        figures |= {"drift_moved": drift.moved, "drift_apart": drift.apart}
    looks, where = slots.centroids, None
    if p.place is not None:
        looks, where = places.carry(_of_poses(kept, poses), looks, poses.centroids, detect, p.place, p.prior)
    shown = label.picture(points, everywhere, rng)
    figures |= quality(points.descriptor, kmeans.of(points.descriptor, everywhere), rng)
    return Discovery(replace(shown, poses=PoseCentroids(poses.centroids, looks, poses.counts, where)), figures)


def _last_landmarks(task: Task, p: TwoStageParams) -> Labels | None:
    """Labels of the last round if its landmarks stay; None if others are to be found.

    Raises:
        ULDError: they cannot stay, and `p` does not ask for others.
    """
    count = p.landmarks or task.count
    if task.previous is not None and task.previous.count == count:
        return task.previous
    if p.landmarks is None:
        raise ULDError(
            f"two-stage clustering goes on with the {count} landmarks of a round: begin at one that has them, or say "
            "in poses.landmarks how many are to be found anew."
        )
    return None


def _poses(kept: list[Seen], task: Task, p: TwoStageParams) -> Poses:
    """Pose clusters of kept images; those of the last round go on."""
    codes = [_codes(one).cpu().numpy() for one in kept]
    return two_stage.pose_clusters(
        np.concatenate(codes),
        p.poses,
        task.rng,
        least=p.min_images,
        restarts=p.restarts,
        iterations=p.iterations,
        init=_last_poses(codes, kept, task.previous),
    )


def _everywhere(points: Pool, kept: list[Seen], known: Labels | None, task: Task, p: TwoStageParams) -> Floats:
    """Centroids (K, D) of all poses: of the landmarks of the last round, or of k-means."""
    count = p.landmarks or task.count
    if known is not None:
        return means_at(kept, task.source, known, count)
    x = points.descriptor
    return kmeans.fit(x, count, task.rng, restarts=p.restarts, iterations=ITERATIONS, cap=MAX_POINTS).centroids


def _codes(seen: Seen) -> torch.Tensor:
    """Pose codes (n, C) of images.

    Raises:
        ULDError: the model has no pose part.
    """
    if seen.code is None:
        raise ULDError("this model has no pose part: begin at a round whose method trains one (pose_proxy).")
    return seen.code


def awake(codes: torch.Tensor) -> int:
    """`losses.active_units` of pose codes (n, C), with a warning if they are few."""
    active, length = active_units(codes), codes.shape[1]
    if active < max(1, AWAKE * length):
        log.warning(
            "%d of %d units of the pose code differ between images: clusters of it may mean nothing. Train the pose "
            "proxy longer, or with more free nats a unit (free_nats)",
            active,
            length,
        )
    return active


def encode(source: Source, rows: Rows, view: View) -> Floats:
    """Pose codes (n, C) of images."""
    batches = progress.batches("pose codes", rows)
    return np.concatenate([_codes(look(source, batch, view)).cpu().numpy() for batch in batches])


def _last_poses(codes: list[Floats], kept: list[Seen], previous: Labels | None) -> Floats | None:
    """Where the poses of the last round are now: mean codes (Q, C) of the images that they had, if there were any."""
    if previous is None or POSE not in previous.own:
        return None
    total = np.zeros((int(previous.own[POSE].max()) + 1, codes[0].shape[1]))
    seen = np.zeros(len(total))
    for one, code in zip(kept, codes, strict=True):
        pose = previous.own_of(POSE, one.rows, one.view.flipped)
        known = pose >= 0
        np.add.at(total, pose[known], code[known])
        seen += np.bincount(pose[known], minlength=len(total))
    return (total[seen > 0] / seen[seen > 0, None]).astype(np.float32)


def _of_poses(kept: list[Seen], poses: Poses) -> list[list[Seen]]:
    """The kept images of each pose."""
    pose = np.split(poses.label, np.cumsum([len(one.rows) for one in kept])[:-1])
    return [
        [one.take(np.flatnonzero(of == q)) for one, of in zip(kept, pose, strict=True)]
        for q in range(len(poses.centroids))
    ]


def _by_exemplars(kept: list[Seen], poses: Poses, everywhere: Floats, p: TwoStageParams) -> Slots:
    """Centroids of each pose, moved to the mean of their dense matches in its images, and mean places of those."""
    centroids, xy = [], []
    for mine in _of_poses(kept, poses):
        images = sum(len(one.rows) for one in mine)
        own = everywhere
        for _ in range(p.iterations):
            found = np.concatenate([matches(one, own)[1] for one in mine])
            own = ((found.sum(0) + p.prior * everywhere) / (images + p.prior)).astype(np.float32)
        centroids.append(own)
        xy.append(np.concatenate([matches(one, own)[0] for one in mine]).mean(0))
    counts = np.repeat(poses.counts[:, None], len(everywhere), 1)
    return Slots(np.stack(centroids), counts, np.stack(xy))


def _by_points(source: Source, points: Pool, poses: Poses, everywhere: Floats, p: TwoStageParams) -> Slots:
    """k-means of the detections of each pose."""
    pose = np.empty(len(points.image), dtype=np.int64)
    xy = np.empty((len(points.image), 2), dtype=np.float32)
    for view in source.views.flips:
        mine = np.flatnonzero(points.flipped == view.flipped)
        if not len(mine):
            continue
        rows, own = np.unique(points.image[mine], return_inverse=True)
        pose[mine] = poses.assign(encode(source, rows, view))[0][own]
        for some in (mine[piece] for piece in pieces(len(mine))):
            xy[some] = source.to_cells(points.image[some], points.xy[some][:, None], view)[:, 0]
    return two_stage.keypoint_clusters(
        points.descriptor, pose, xy, everywhere, len(poses.centroids), iterations=p.iterations, prior=p.prior
    )


def find(
    source: Source, rows: Rows, view: View, poses: PoseCentroids, detect: DetectParams, place: float | None
) -> Found:
    """Landmarks of each image as they look in its own pose, and that pose.

    Args:
        place: as in `TwoStageParams`.
    """
    far = _far(source, rows, view, poses, place)
    known = Poses(poses.codes, np.empty(0, np.int64), poses.counts)
    batches = progress.batches("marking", rows)
    return joined([_find(look(source, batch, view), poses, known, detect, far) for batch in batches])


def _find(seen: Seen, poses: PoseCentroids, known: Poses, detect: DetectParams, far: torch.Tensor | None) -> Found:
    """Of one batch; images of one pose are searched together."""
    pose, margin = known.assign(_codes(seen).cpu().numpy())
    of_pose = [np.flatnonzero(pose == q) for q in np.unique(pose)]
    if not of_pose:
        return replace(search(seen, poses.landmarks[0], detect), pose=pose, pose_margin=margin)
    parts = []
    for index in of_pose:
        q = int(pose[index[0]])
        cost = None if far is None else far[q].to(seen.inside.device)
        parts.append(search(seen.take(index), poses.landmarks[q], detect, cost))
    found = joined(parts).take(np.argsort(np.concatenate(of_pose)))
    return replace(found, pose=pose, pose_margin=margin)


def _far(source: Source, rows: Rows, view: View, poses: PoseCentroids, place: float | None) -> torch.Tensor | None:
    """What cells (Q, K, G, G) of a view cost for their distance from the places of each pose; None: nothing."""
    flips = source.views.flips
    flip = int(view.flipped)
    if place is None or poses.places is None or flip >= min(len(flips), len(poses.places)) or not len(rows):
        return None
    known = poses.places[flip].reshape(1, -1, 2)
    # a view moves all images alike: any of them says where a place of the flip is seen
    seen = source.to_cells(rows[:1], source.to_image(rows[:1], known, flips[flip]), view)
    return places.cost(seen[0], source.grid, place).unflatten(0, poses.landmarks.shape[:2])


def with_poses(labels: Labels, rows: Rows, marked: list[Found], flips: list[View]) -> Labels:
    """Labels with the pose of their image, from landmarks that `find` gave for the images `rows` in each flip."""
    pose = np.empty(len(labels.image), dtype=np.int64)
    for view, one in zip(flips, marked, strict=True):
        assert one.pose is not None, "found by pose"
        mine = labels.flipped == view.flipped
        pose[mine] = one.pose[np.searchsorted(rows, labels.image[mine])]
    return replace(labels, own={POSE: pose})
