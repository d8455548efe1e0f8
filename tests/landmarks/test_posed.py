"""Landmarks found by pose, image by image, and the refusals of models without codes."""

import numpy as np
import pytest

from tests.methods.conftest import GRID, MIRROR, PARTS, PLAIN, Planted
from uld.artifacts.landmarks import PoseCentroids
from uld.base.errors import ULDError
from uld.landmarks import label, posed
from uld.landmarks.detect import DetectParams
from uld.landmarks.label import LabelParams
from uld.landmarks.places import cost
from uld.landmarks.seen import keep, look, search
from uld.sources.views import View

DETECT = DetectParams(1, 0.3, 0, 8, 0.1)
ROWS = np.array([1, 2, 4, 7, 8, 11])


def poses_of(planted: Planted, places: bool = False) -> PoseCentroids:
    """Two poses, parted at the median spread in x; the second one knows the parts in another order."""
    y, x = np.rint(planted.centres[0]).astype(int).T[::-1]
    looks = planted.describe(np.array([0]), PLAIN)[0, :, y, x].T.numpy()
    code = keep(planted, np.arange(len(planted.centres)), PLAIN).code
    assert code is not None
    low, high = np.quantile(code.numpy()[:, 0], [0.25, 0.75])
    centres = np.tile(code.numpy().mean(0), (2, 1))
    centres[:, 0] = low, high
    order = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    home = np.array([[4, 4], [11, 4], [4, 11], [11, 11]], np.float32)[order]
    flips = np.stack([home, home * [-1, 1] + [GRID - 1, 0]]).astype(np.float32)
    return PoseCentroids(centres.astype(np.float32), looks[order], np.array([3, 3]), flips if places else None)


@pytest.mark.parametrize("view", [PLAIN, MIRROR], ids=["plain", "mirror"])
@pytest.mark.parametrize("place", [None, 4.0])
def test_found_by_pose_equals_a_loop_over_images(view: View, place: float | None) -> None:
    planted = Planted(14)
    poses = poses_of(planted, places=True)
    found = posed.find(planted, ROWS, view, poses, DETECT, place)
    assert found.pose is not None and found.pose_margin is not None and len(set(found.pose)) == 2
    assert poses.places is not None
    for item in range(len(ROWS)):
        one = look(planted, ROWS[[item]], view)
        assert one.code is not None
        gap = np.linalg.norm(one.code.numpy() - poses.codes, axis=1)
        pose = int(gap.argmin())
        assert found.pose[item] == pose and 0 <= found.pose_margin[item] <= 1
        far = None if place is None else cost(poses.places[int(view.flipped), pose], GRID, place)
        want = search(one, poses.landmarks[pose], DETECT, far)
        for name in ("xy", "score", "dense_xy", "dense_score", "points"):
            np.testing.assert_allclose(getattr(found, name)[[item]], getattr(want, name), atol=1e-5, err_msg=name)


def test_no_image_at_all() -> None:
    """As of a data set without test images."""
    planted, none = Planted(14), np.empty(0, np.int64)
    found = posed.find(planted, none, PLAIN, poses_of(planted, places=True), DETECT, 4.0)
    assert found.xy.shape == found.dense_xy.shape == (0, PARTS, 2)
    assert found.pose is not None and found.pose_margin is not None
    assert len(found) == len(found.pose) == len(found.pose_margin) == 0


def test_labels_know_the_pose_of_their_image() -> None:
    planted = Planted(14)
    poses, flips = poses_of(planted), planted.views.flips
    marked = [posed.find(planted, ROWS, view, poses, DETECT, None) for view in flips]
    labels = label.to_labels(planted, ROWS, marked, LabelParams(None, 0.0))
    own = posed.with_poses(labels, ROWS, marked, flips)
    for view, one in zip(flips, marked, strict=True):
        assert one.pose is not None
        np.testing.assert_array_equal(own.own_of("pose", ROWS, view.flipped), one.pose)
    assert labels.own == {} and own.own.keys() == {"pose"}


def test_a_model_without_a_pose_part() -> None:
    planted = Planted(14)
    poses = poses_of(planted)
    planted.detects = False
    for ask in (
        lambda: posed.find(planted, ROWS, PLAIN, poses, DETECT, None),
        lambda: posed.encode(planted, ROWS, PLAIN),
    ):
        with pytest.raises(ULDError, match=r"no pose part: begin at a round whose method trains one \(pose_proxy\)"):
            ask()
