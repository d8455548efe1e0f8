"""Coherent Point Drift, against known warps, a plain loop over the images, and pycpd."""

import warnings
from typing import Any

import numpy as np
import pytest

from uld.base.params import build
from uld.cluster import drift
from uld.cluster.drift import DriftParams, align

with warnings.catch_warnings():  # its code compares integers by `is`, which Python warns of where it is compiled
    warnings.simplefilter("ignore")
    from pycpd import AffineRegistration, DeformableRegistration, RigidRegistration

BLOCK = {"transform": "similarity", "outliers": 0.0, "iterations": 100, "tolerance": 1e-9, "beta": 1.0,
         "stiffness": 0.5}  # fmt: skip
TRANSFORMS = ["similarity", "affine", "nonrigid"]


def params(**changes: Any) -> DriftParams:
    return build(DriftParams, BLOCK | changes, "drift")


def shape(rng: np.random.Generator, count: int = 12) -> np.ndarray:
    """Points of a square of 40 cells, none too near to another one."""
    cells = rng.permutation(16)[:count]
    return 10.0 * np.stack([cells % 4, cells // 4], 1) + rng.uniform(-2, 2, (count, 2))


def padded(sets: list[np.ndarray], size: int) -> np.ndarray:
    out = np.full((len(sets), size, 2), np.nan)
    for one, points in zip(out, sets, strict=True):
        one[: len(points)] = points
    return out


def warped(rng: np.random.Generator, template: np.ndarray, transform: str) -> np.ndarray:
    """The template under a small random map of this kind."""
    off = template - template.mean(0)
    angle, scale = rng.uniform(-0.2, 0.2), rng.uniform(0.9, 1.15)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if transform == "affine":
        turn = turn @ (np.eye(2) + rng.uniform(-0.1, 0.1, (2, 2)))
    moved = off @ turn.T + template.mean(0) + rng.uniform(-2, 2, 2)
    if transform == "nonrigid":
        moved = template + 1.5 * np.sin(off / 15 + rng.uniform(0, 6, 2))[:, ::-1]
    return np.asarray(moved)


def plain(template: np.ndarray, points: np.ndarray, p: DriftParams, steps: int) -> np.ndarray:
    """One image, as the figures of the paper have it, point by point."""
    template, points = template.astype(float), points[np.isfinite(points).all(1)].astype(float)
    mean = template.mean(0)
    spread = np.sqrt(((template - mean) ** 2).sum(1).mean())
    y, x = (template - mean) / spread, (points - mean) / spread
    t, n = len(y), len(x)
    variance = sum(float(((a - b) ** 2).sum()) for a in y for b in x) / (2 * t * n)
    kernel = np.array([[np.exp(-((a - b) ** 2).sum() / (2 * p.beta**2)) for a in y] for b in y])
    moved = y
    for _ in range(steps):
        weight, variance = np.zeros((t, n)), max(variance, drift.LEAST)
        for j in range(n):
            like = np.exp(-((moved - x[j]) ** 2).sum(1) / (2 * variance))
            weight[:, j] = like / (like.sum() + 2 * np.pi * variance * p.outliers / (1 - p.outliers) * t / n)
        one, other = np.diag(weight.sum(1)), np.diag(weight.sum(0))
        mass = weight.sum()
        if p.transform == "nonrigid":
            w = np.linalg.solve(one @ kernel + p.stiffness * variance * np.eye(t), weight @ x - one @ y)
            moved = y + kernel @ w
            variance = (np.trace(x.T @ other @ x) - 2 * np.trace((weight @ x).T @ moved)
                        + np.trace(moved.T @ one @ moved)) / (2 * mass)  # fmt: skip
            continue
        mean_x, mean_y = x.T @ weight.sum(0) / mass, y.T @ weight.sum(1) / mass
        off_x, off_y = x - mean_x, y - mean_y
        a = off_x.T @ weight.T @ off_y
        if p.transform == "similarity":
            u, _, v = np.linalg.svd(a)
            turn = u @ np.diag([1, np.linalg.det(u @ v)]) @ v
            scale = np.trace(a.T @ turn) / np.trace(off_y.T @ one @ off_y)
            moved = scale * y @ turn.T + mean_x - scale * turn @ mean_y
            variance = (np.trace(off_x.T @ other @ off_x) - scale * np.trace(a.T @ turn)) / (2 * mass)
        else:
            b = a @ np.linalg.inv(off_y.T @ one @ off_y)
            moved = y @ b.T + mean_x - b @ mean_y
            variance = (np.trace(off_x.T @ other @ off_x) - np.trace(a @ b.T)) / (2 * mass)
    return np.asarray(moved * spread + mean)


# --- known maps ---


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("noise", [0, 5])
def test_a_known_map_is_recovered(transform: str, noise: int) -> None:
    """Also of images with points that belong to nothing, and in any order of the points."""
    rng = np.random.default_rng(1)
    template = shape(rng)
    truth = [warped(rng, template, transform) for _ in range(20)]
    sets = [rng.permutation(np.concatenate([one, rng.uniform(-20, 60, (noise, 2))])) for one in truth]
    found = align(template, padded(sets, 20), params(transform=transform, outliers=0.05 * noise, stiffness=3.0))
    assert found.known.all() and found.settled.mean() > 0.9
    gap = np.linalg.norm(found.xy - truth, axis=2)
    assert np.median(gap) < 1e-3
    # a field, unlike a map of few numbers, lets some of its points go to points of nothing
    assert (gap < 1).mean() > (0.85 if transform == "nonrigid" and noise else 0.95), gap.max(1)


def test_points_that_are_missing() -> None:
    """A similarity follows from those that are there, and says where the others would be."""
    rng = np.random.default_rng(2)
    template = shape(rng)
    truth = warped(rng, template, "similarity")
    found = align(template, np.delete(truth, [1, 6, 7], 0)[None], params(outliers=0.1))
    np.testing.assert_allclose(found.xy[0], truth, atol=0.05)


def test_a_similarity_does_not_mirror() -> None:
    template = np.array([[0.0, 0], [4, 0], [0, 9]])
    found = align(template, template[None] * [-1, 1], params())
    first, second = (found.xy[0, 1:] - found.xy[0, 0]).tolist()
    assert first[0] * second[1] - first[1] * second[0] > 0


# --- the same in plain ---


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_as_image_by_image(transform: str, outliers: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    template = shape(rng)
    sets = [warped(rng, template, "affine")[: 12 - k] + rng.normal(0, 1, (12 - k, 2)) for k in range(6)]
    points = padded([np.concatenate([one, rng.uniform(0, 40, (k, 2))]) for k, one in enumerate(sets)], 15)
    p = params(transform=transform, outliers=outliers, iterations=15, tolerance=0.0)
    found = align(template, points, p)
    want = [plain(template, one, p, 15) for one in points]
    np.testing.assert_allclose(found.xy, want, atol=1e-6)
    assert (found.steps == 15).all()
    monkeypatch.setattr(drift, "HELD", 1)
    np.testing.assert_array_equal(align(template, points, p).xy, found.xy)
    np.testing.assert_array_equal(align(template, points[2:3], p).xy[0], found.xy[2])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_as_pycpd(transform: str) -> None:
    """On random shapes whose correspondence nobody knows, in units of the template."""
    rng = np.random.default_rng(4)
    kind, own = {
        "similarity": (RigidRegistration, {}),
        "affine": (AffineRegistration, {}),
        "nonrigid": (DeformableRegistration, {"alpha": 0.5, "beta": 1.0}),
    }[transform]
    for _ in range(5):
        template, points = shape(rng, 9), rng.uniform(0, 40, (14, 2))
        mean = template.mean(0)
        spread = np.sqrt(((template - mean) ** 2).sum(1).mean())
        y, x = (template - mean) / spread, (points - mean) / spread
        # without a tolerance below which it would stop earlier
        moved, _ = kind(X=x, Y=y, w=0.1, max_iterations=12, tolerance=0, **own).register()
        p = params(transform=transform, outliers=0.1, iterations=12, tolerance=0.0)
        np.testing.assert_allclose((align(template, points[None], p).xy[0] - mean) / spread, moved, atol=1e-8)


# --- what does not determine a map ---


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_images_that_cannot_be_aligned(transform: str) -> None:
    rng = np.random.default_rng(5)
    template = shape(rng)
    line = np.linspace(0, 40, 7)[:, None] * [0.3, 0.7] + [2, 9]
    sets = [template, template[:0], template[:1], np.tile(template[:1], (5, 1)), line, template[:2], template + 3]
    found = align(template, padded(sets, 12), params(transform=transform, outliers=0.1))
    alone = transform != "affine"  # two points, or a line, determine a similarity and a field
    assert found.known.tolist() == [True, False, False, False, alone, alone, True]
    assert (found.steps[~found.known] == 0).all() and not found.settled[~found.known].any()
    np.testing.assert_allclose(found.xy[[0, 6]], [template, template + 3], atol=0.5)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_templates_that_cannot_be_aligned(transform: str) -> None:
    points = shape(np.random.default_rng(6))[None]
    line = np.arange(5.0)[:, None] * [1, 2]
    for template, works in ((line[:1], False), (np.tile(line[1:2], (4, 1)), False), (line, transform != "affine")):
        found = align(template, points, params(transform=transform))
        assert found.known.tolist() == [works] and found.xy.shape == (1, *template.shape)


def test_no_image_and_no_point() -> None:
    template = shape(np.random.default_rng(7))
    assert align(template, np.empty((0, 4, 2)), params()).xy.shape == (0, 12, 2)
    assert not align(template, np.empty((3, 0, 2)), params()).known.any()


def test_an_exact_fit_settles() -> None:
    """Its variance is bounded from below, with outliers and without."""
    template = shape(np.random.default_rng(8))
    for outliers in (0.0, 0.3):
        for transform in TRANSFORMS:
            found = align(template, template[None], params(transform=transform, outliers=outliers))
            assert found.settled.all() and 1 < found.steps[0] < 100
            np.testing.assert_allclose(found.xy[0], template, atol=1e-3)


def test_a_map_that_is_lost_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all centres that still have points lie on a line, an affine map cannot be told; other images go on."""
    own = np.array([[[4.0, 2], [2, 1]], [[4, 2], [2, 3]]])
    assert np.isnan(drift._affine(own, own)).all((1, 2)).tolist() == [True, False]
    np.testing.assert_allclose(drift._affine(own, own)[1], np.eye(2), atol=1e-12)
    template = shape(np.random.default_rng(9))
    points = np.stack([template + 1, template - 2, template * 1.1])
    p, affine, calls = params(transform="affine", outliers=0.1), drift._affine, []

    def lost(cross: np.ndarray, own: np.ndarray) -> np.ndarray:
        calls.append(len(cross))
        found = affine(cross, own)
        found[1:2] = np.nan if len(calls) == 3 else found[1:2]
        return found

    want = align(template, points, p)
    monkeypatch.setattr(drift, "_affine", lost)
    found = align(template, points, p)
    assert found.known.tolist() == [True, False, True] and found.steps[1] == 3 and not found.settled[1]
    assert calls[:4] == [3, 3, 3, 2]
    np.testing.assert_array_equal(found.xy[[0, 2]], want.xy[[0, 2]])
