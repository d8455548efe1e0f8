"""Images in one view: what is looked at once, what is kept, and how landmarks are searched in it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.methods.conftest import GRID, MIRROR, PARTS, PLAIN, Planted
from uld.geometry import sampling
from uld.landmarks import match, seen
from uld.landmarks.detect import DetectParams, detect
from uld.landmarks.places import cost
from uld.landmarks.seen import Seen, keep, look, matches, search
from uld.sources.views import View

ROWS = np.array([1, 2, 4, 7, 8, 11])
DETECT = DetectParams(1, 0.3, 0, 8, 0.0)


def centroids_of(planted: Planted) -> np.ndarray:
    y, x = np.rint(planted.centres[0]).astype(int).T[::-1]
    return np.asarray(planted.describe(np.array([0]), PLAIN)[0, :, y, x].T.numpy())


@pytest.mark.parametrize("view", [PLAIN, MIRROR], ids=["plain", "mirror"])
def test_a_batch_as_the_source_shows_it(view: View) -> None:
    planted = Planted(14, PARTS)
    one, maps = look(planted, ROWS, view), planted.maps(ROWS, view)
    assert one.view is view and one.rows is ROWS and one.heat is not None and one.code is not None
    assert torch.equal(one.descriptors, maps.looks) and torch.equal(one.heat, maps.heat)
    assert maps.code is not None and torch.equal(one.code, maps.code)
    assert torch.equal(one.inside, planted.inside(ROWS, view))
    found, want = one.points(DETECT), detect(maps.looks, maps.heat.amax(1), one.inside, DETECT)
    for name, value in vars(want).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_a_source_without_a_detector() -> None:
    planted = Planted(14)
    planted.detects = False
    one = look(planted, ROWS, PLAIN)
    assert one.heat is None and one.code is None and one.prior(DETECT) is None
    found = search(one, centroids_of(planted), DETECT)
    assert found.points is None  # none were looked for
    assert np.abs(found.xy - planted.centres[ROWS]).max() < 1 and np.isfinite(found.score).all()
    kept = keep(planted, ROWS, PLAIN)
    assert kept.heat is None and kept.code is None
    with pytest.raises(AssertionError, match="no detector"):
        one.points(DETECT)


def test_what_is_kept_is_what_batches_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_BATCH", "4")
    planted = Planted(14)
    kept, whole = keep(planted, ROWS, MIRROR), planted.maps(ROWS, MIRROR)
    assert kept.heat is not None and kept.code is not None and whole.code is not None
    assert kept.descriptors.dtype == torch.float16 and kept.heat.dtype == torch.float32
    assert torch.equal(kept.descriptors, whole.looks.half()) and torch.equal(kept.heat, whole.heat)
    torch.testing.assert_close(kept.code, whole.code)
    assert kept.rows.tolist() == ROWS.tolist() and kept.view is MIRROR


def test_descriptors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(14)
    kept = keep(planted, ROWS, MIRROR)
    monkeypatch.setattr(planted, "maps", None)  # nothing that costs heat maps is asked
    bare = keep(planted, ROWS, MIRROR, heat=False)
    assert torch.equal(bare.descriptors, kept.descriptors) and torch.equal(bare.inside, kept.inside)
    assert bare.heat is None and bare.code is None and bare.view is MIRROR


def test_some_of_the_images() -> None:
    kept = keep(Planted(14), ROWS, PLAIN)
    some = kept.take(np.array([4, 0]))
    assert some.rows.tolist() == [8, 1] and some.view is PLAIN
    for name in ("descriptors", "inside", "heat", "code"):
        assert torch.equal(getattr(some, name), getattr(kept, name)[[4, 0]])
    bare = replace(kept, heat=None, code=None).take(np.array([1]))
    assert bare.heat is None and bare.code is None and len(bare.rows) == 1


@pytest.mark.parametrize(("size", "parts"), [(64, [6]), (4, [4, 2]), (2, [2, 2, 2]), (6, [6])])
def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch, size: int, parts: list[int]) -> None:
    planted = Planted(14)
    kept, centroids = keep(planted, ROWS, PLAIN), centroids_of(planted)
    want = matches(kept, centroids)
    monkeypatch.setattr(seen, "PIECE", size)
    assert [len(part.rows) for part in kept.pieces()] == parts
    for found, whole in zip(matches(kept, centroids), want, strict=True):
        np.testing.assert_allclose(found, whole, atol=1e-5)
    none = kept.take(np.empty(0, np.int64))
    assert [len(part.rows) for part in none.pieces()] == [0]
    xy, found = matches(none, centroids)
    assert xy.shape == (0, PARTS, 2) and found.shape == (0, PARTS, 1 + 3 * PARTS)


def test_descriptors_at_points() -> None:
    kept = keep(Planted(14), ROWS, PLAIN)
    at = torch.from_numpy(np.random.default_rng(0).uniform(0, GRID - 1, (6, 3, 2)).astype(np.float32))
    want = F.normalize(sampling.sample(kept.descriptors.float(), at), dim=2)
    assert torch.equal(kept.at(at), want)
    torch.testing.assert_close(want.norm(dim=2), torch.ones(6, 3))


def test_search_without_a_cost_is_exemplars_and_dense_matches() -> None:
    planted = Planted(14)
    one, centroids = look(planted, ROWS, PLAIN), centroids_of(planted)
    for params in (DETECT, replace(DETECT, heat_weight=0.3)):
        found = search(one, centroids, params)
        dense = match.dense(one.descriptors, one.inside, centroids, prior=params.prior(one.heat)).found()
        np.testing.assert_array_equal(found.dense_xy, dense.dense_xy)
        np.testing.assert_array_equal(found.dense_score, dense.dense_score)
        xy, score = match.exemplars_of(one.points(params), centroids, len(ROWS))
        np.testing.assert_array_equal(found.xy, xy)
        np.testing.assert_array_equal(found.score, score)
        assert found.points is not None and found.points.tolist() == [PARTS] * len(ROWS)


def test_a_cost_moves_dense_matches_and_nothing_else() -> None:
    """Where two parts look alike, the nearer one is meant; it counts among all cells, whoever else they look like."""
    planted = Planted(14)
    one, centroids = look(planted, ROWS, PLAIN), centroids_of(planted)
    alike = np.stack([centroids[0] + centroids[3], centroids[3]])  # of the first and the last part, and the last alone
    home, away = np.array([[4, 4], [11, 11]]), np.array([[11, 11], [11, 11]])
    by_place = {}
    for name, places in (("home", home), ("away", away)):
        by_place[name] = search(one, alike, DETECT, cost(places.astype(np.float32), GRID, 5))
    centres = planted.centres[ROWS]
    assert np.abs(by_place["home"].dense_xy[:, 0] - centres[:, 0]).max() < 2.5
    assert np.abs(by_place["away"].dense_xy[:, 0] - centres[:, 3]).max() < 2.5  # though the second one's cells
    for found in by_place.values():
        np.testing.assert_array_equal(found.xy, search(one, alike, DETECT).xy)
        assert np.abs(found.dense_xy[:, 1] - centres[:, 3]).max() < 2.5


def test_no_image_at_all() -> None:
    one = look(Planted(14), ROWS, PLAIN).take(np.empty(0, np.int64))
    assert isinstance(one, Seen)
    found = search(one, np.eye(3, 1 + 3 * PARTS, dtype=np.float32), DETECT)
    assert found.xy.shape == found.dense_xy.shape == (0, 3, 2) and found.points is not None and not len(found.points)
