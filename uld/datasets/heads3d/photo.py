"""One photograph of one person: who it is, what the face does, pose, light, background, camera."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from uld.base import random
from uld.datasets.heads3d import head, landmarks, paint, render
from uld.datasets.heads3d.head import Sheet, step

PHOTOS = 10  # of each person
YAW, PITCH, ROLL = 90.0, 18.0, 15.0  # largest angles in degrees
OVER = 2  # pixels are means of OVER x OVER

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Photo:
    """A picture and what is known of it.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        xy: (68, 2) float32 in pixels, also of the landmarks that are hidden.
        visible: (68,) bool.
        yaw, pitch, roll: degrees. Yaw is positive where the face looks to the right of the image, pitch where it looks
            up, roll where it leans to the right.
    """

    image: NDArray[np.uint8]
    xy: NDArray[np.float32]
    visible: NDArray[np.bool_]
    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class _Person:
    sheets: list[Floats]  # (R, C, 3) each
    charts: list[Sheet]
    looks: paint.Looks
    noise: list[NDArray[np.float32]]


def photo(seed: int, index: int, size: int = 128) -> Photo:
    """Photograph `index` of the data set `seed`; it depends on nothing else. PHOTOS in a row show one person."""
    who = _person(seed, index // PHOTOS)
    rng = random.rng(seed, "faces3d photo", index)
    pose = rng.uniform(-YAW, YAW), _bounded(rng, 7, PITCH), _bounded(rng, 5, ROLL)
    face = [
        rest + _weighted(_expression(rng), modes) for rest, modes in zip(who.sheets, head.expressions(), strict=False)
    ]
    turned = [_turn(xyz, *pose) for xyz in [*face, *who.sheets[len(face) :]]]
    scale = size * rng.uniform(0.31, 0.37)
    shift = size / 2 - 0.5 + size * rng.uniform(-0.04, 0.04, 2)
    distance = rng.uniform(6, 14)
    flat = np.concatenate([xyz.reshape(-1, 3) for xyz in turned])
    near = (distance / (distance - flat[:, 2]))[:, None]
    seen = np.concatenate([(flat[:, :2] - [0, 0.08]) * near * scale + shift, flat[:, 2:]], 1)
    image, depth = _expose(seen, turned, who, rng, size)
    index_of, weights = landmarks.corners()
    points = (seen[index_of] * weights[..., None]).sum(1)
    return Photo(image, points[:, :2].astype(np.float32), _visible(points, depth, size), *pose)


def _bounded(rng: np.random.Generator, spread: float, most: float) -> float:
    return float(np.clip(rng.normal(0, spread), -most, most))


def _weighted(amounts: dict[str, float], modes: head.Modes) -> Floats:
    each = np.array([amounts.get(name, 0.0) for name in modes.names], np.float32)
    return np.tensordot(each, modes.moves, 1).astype(np.float64)


# --- who ---


@lru_cache(maxsize=4)
def _person(seed: int, number: int) -> _Person:
    rng = random.rng(seed, "faces3d person", number)
    amounts = {name: float(np.clip(rng.normal(), -2, 2)) for name in head.identities()[0].names}
    rest: list[Floats] = [
        s.chart + _weighted(amounts, modes) for s, modes in zip(head.sheets(), head.identities(), strict=True)
    ]
    looks = paint.looks(rng)
    noise = [paint.blotches(rng, 10), paint.blotches(rng, 110)]
    charts = list(head.sheets())
    if rng.random() < 0.93:
        long = rng.random() < 0.42
        hair = _hair(rng, long)
        if long:
            rest[1:] = [ear * [0.88, 1, 1] for ear in rest[1:]]  # pressed to the head
        charts.append(Sheet(hair, paint.HAIR))
        rest.append(hair + _weighted(amounts, head.skull(hair)))
    return _Person(rest, charts, looks, noise)


def _hair(rng: np.random.Generator, long: bool) -> Floats:
    """(R, C, 3) from the crown down to where it ends, all around the head."""
    fringe = rng.random() < 0.3
    brow = rng.uniform(-0.42, -0.24) if fringe else rng.uniform(-0.68, -0.5)
    ends = rng.uniform(0.75, 1.7) if long else rng.uniform(0.45, 0.8)
    side = ends if long else rng.uniform(-0.05, 0.15)
    knots = [0, 35, 58, 74, 86, 98, 112, 180]
    down = [brow, brow + 0.04, brow + 0.2, -0.22, side, side if long else 0.0, ends * 0.9, ends]
    if not long:
        down[5], down[6] = -0.08, 0.38  # around the ear
    s, angle = np.meshgrid(np.linspace(0, 1, 44), np.deg2rad(np.linspace(-180, 180, 97)), indexing="ij")
    degrees = np.rad2deg(angle)
    end = np.interp(np.abs(degrees), knots, down)
    end = end + rng.uniform(-0.1, 0.1) * np.sin(angle) * np.exp(-((degrees / 50) ** 2))  # a parting
    end += 0.015 * rng.standard_normal(97)[None] * (1 + long)
    end[:, -1] = end[:, 0]
    y = -1.0 + s * (end + 1.0)
    thick = rng.uniform(0.05, 0.14) * (1 + 0.5 * long)
    wave = paint.blotches(rng, 9)[:44, :: 256 // 97][:, :97]
    wave[:, -1] = wave[:, 0]
    lift = 0.012 + thick * (1 - s**5) * (1 + 0.12 * wave)
    held = np.where((np.abs(degrees) > 60) & long, np.minimum(y, 0.12), y)
    xyz = head.lathe(held, angle, lift * np.sqrt(step(s, 0.0, 0.3)))
    xyz[..., 1] = y - lift * (1 - step(s, 0.0, 0.45))
    return xyz


# --- pose and expression ---


def _expression(rng: np.random.Generator) -> dict[str, float]:
    smile, opened = rng.random() < 0.4, rng.random() < 0.3
    return {
        "smile": rng.uniform(0.3, 1.3) * smile,
        "open": rng.uniform(0.1, 1.0) * opened + 0.0,
        "pucker": rng.uniform(0, 1) * (not smile and rng.random() < 0.15),
        "brows": rng.normal(0, 0.5),
        "frown": rng.uniform(0, 1) * (rng.random() < 0.2),
        "blink": rng.beta(1.2, 6) if rng.random() > 0.06 else rng.uniform(0.7, 1),
    }


def _turn(xyz: Floats, yaw: float, pitch: float, roll: float) -> Floats:
    """Turn the head (..., 3); shoulders follow less."""
    follow = 1 - 0.65 * step(xyz[..., 1], 1.05, 1.7)
    x, y, z = np.moveaxis(xyz, -1, 0)
    a = np.deg2rad(yaw) * follow
    x, z = x * np.cos(a) + z * np.sin(a), z * np.cos(a) - x * np.sin(a)
    a, base = np.deg2rad(pitch) * follow, 0.9  # nods about the top of the neck
    y, z = base + (y - base) * np.cos(a) - (z) * np.sin(a), z * np.cos(a) + (y - base) * np.sin(a)
    a = np.deg2rad(roll) * follow
    x, y = x * np.cos(a) - (y - base) * np.sin(a), base + (y - base) * np.cos(a) + x * np.sin(a)
    return np.stack([x, y, z], -1)


# --- light and camera ---


def _expose(
    seen: Floats, sheets: list[Floats], who: _Person, rng: np.random.Generator, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture (S, S, 3) and the depth (OVER * S, OVER * S) of its finer pixels."""
    fine = size * OVER
    offsets = np.cumsum([0, *(s.shape[0] * s.shape[1] for s in sheets)])
    xyz = np.concatenate([seen[:, :2] * OVER + (OVER - 1) / 2, seen[:, 2:]], 1).astype(np.float32)
    skin, *rest = (render.grid_faces(*s.shape[:2]) + o for s, o in zip(sheets, offsets, strict=False))
    faces = np.concatenate([skin[render.facing(xyz, skin)], *rest])  # of the skin, the inside is never seen
    shown = render.rasterise(xyz, faces, fine)
    chart = np.concatenate([s.chart.reshape(-1, 3) for s in who.charts]).astype(np.float32)
    part = np.repeat([s.part for s in who.charts], np.diff(offsets))[shown.vertices[:, 0]]
    gaze = float(rng.normal(0, 0.014)), float(rng.normal(0, 0.006))
    colour, gloss = paint.surface(shown.interpolate(chart), part, who.looks, gaze, who.noise)
    normal = shown.interpolate(np.concatenate([_normals(xyz) for xyz in sheets]).astype(np.float32))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    normal *= np.where(normal[:, 2:] < 0, -1, 1)
    canvas = paint.background(rng, fine).reshape(-1, 3)
    canvas[shown.pixel] = _light(colour, gloss, normal, rng)
    small = np.asarray(cv2.resize(canvas.reshape(fine, fine, 3), (size, size), interpolation=cv2.INTER_AREA))
    small = np.clip(small * rng.uniform(0.8, 1.3), 0, 1) ** (1 / 2.2) + rng.normal(
        0, rng.uniform(0, 0.015), small.shape
    )
    return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8), shown.depth


def _normals(xyz: Floats) -> Floats:
    """(R * C, 3) of a sheet (R, C, 3)."""
    down, along = np.gradient(xyz, axis=0), np.gradient(xyz, axis=1)
    return np.cross(along, down).reshape(-1, 3)


def _light(colour: Floats, gloss: Floats, normal: Floats, rng: np.random.Generator) -> Floats:
    """One lamp, a dimmer one from elsewhere, and the sky; Lambert and Blinn-Phong."""
    total = np.zeros_like(colour)
    sky = 0.32 + 0.14 * -normal[:, 1:2]
    total += colour * sky
    for strength in (rng.uniform(0.55, 0.95), rng.uniform(0.05, 0.3)):
        toward = np.array([rng.uniform(-1.1, 1.1), rng.uniform(-1.0, 0.2), rng.uniform(0.5, 1.2)])
        toward /= np.linalg.norm(toward)
        tint = 1 + rng.uniform(-0.06, 0.06, 3)
        half = toward + np.array([0, 0, 1])
        half /= np.linalg.norm(half)
        wrapped = np.clip((normal @ toward + 0.15) / 1.15, 0, None)[:, None]
        shine = gloss[:, None] * np.clip(normal @ half, 0, None)[:, None] ** 24
        total += strength * tint * (colour * wrapped + 0.35 * shine)
    return total


def _visible(points: Floats, depth: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """Whether nothing lies before each point (68, 3); a place outside the image is not visible."""
    at = np.rint(points[:, :2] * OVER + (OVER - 1) / 2).astype(int)
    inside = ((at >= 0) & (at < size * OVER)).all(1)
    at = np.clip(at, 0, size * OVER - 1)
    return inside & (depth[at[:, 1], at[:, 0]] < points[:, 2] + 0.05)
