"""Draws the scenes of the embedded dataset `shapes`, with NumPy alone.

What makes a class is what all objects of an image have in common: their outline and their
surface pattern. Everything else changes from object to object (color, brightness, size,
angle, place) or across the image (the background's color), so that it neither gives the label
away nor tells one image from another: two crops of one image agree on the class first of all.
The background is a texture of one of nine kinds, the class's own with probability `TYPICAL`:
worth relying on, and wrong often enough to be found out when backgrounds are exchanged.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import scipy.fft

CLASS_NAMES = (
    "striped_disc",
    "checkered_square",
    "dotted_triangle",
    "ringed_star",
    "spoked_ring",
    "banded_cross",
    "wavy_bar",
    "quartered_crescent",
    "halved_bow_tie",
)
TEXTURE_NAMES = tuple(  # the kind at place c is typical of class c
    f"{scale}_{grain}"
    for scale in ("broad", "medium", "fine")
    for grain in ("round", "flat", "upright")
)
NUM_CLASSES = len(CLASS_NAMES)
MAX_OBJECTS = 4
COUNT_ODDS = (0.1, 0.2, 0.3, 0.4)  # of one to four objects
TYPICAL = 0.5  # probability that the background is of the class's own kind
RADIUS = (0.42, 0.58)  # of the disc of an object's area, in half sides of the image
PERIOD = (0.28, 0.4)  # of the surface pattern, in half sides of the image
SCALES = (1.5, 4.0, 9.0)  # cycles per image of the background's textures
BAND = 0.4  # half width of a texture's band, in shares of its scale
CONTRAST = 0.15  # of the background's textures
TAU = 2 * np.pi
PROPOSALS = 6  # places tried for an object; the one farthest from the others is taken


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Scenes as layers: objects over a background.

    Attributes:
      objects: [n, S, S, 3] float32, the objects' colors times their cover.
      visible: [n, S, S, 1] float32, the share of the background that is seen.
      background: [n, S, S, 3] float32 in [0, 1].
      mask: [n, S, S] uint8, 0 the background, 1..k the objects.
      label: [n] int64, the class.
      family: [n] int64, the kind of the background (the class it is typical of).
    """

    objects: np.ndarray
    visible: np.ndarray
    background: np.ndarray
    mask: np.ndarray
    label: np.ndarray
    family: np.ndarray

    def compose(self, background: np.ndarray) -> np.ndarray:
        """Returns the objects over `background` [n, S, S, 3] as uint8 images."""
        return to_uint8(self.objects + self.visible * background)


def draw_scenes(stream: int, chunk: int, count: int, side: int) -> Scenes:
    """Draws `count` scenes, a pure function of the four arguments.

    Args:
      stream: which dataset split; streams share nothing.
      chunk: which part of the split.
      count: the number of scenes; classes are as even as they can be.
      side: the images' side in pixels. The layout of a scene does not depend on it.
    """
    # The legacy generator's numbers are frozen across NumPy versions.
    layout = np.random.RandomState([stream, chunk, 0])
    label = layout.permutation(np.arange(count) % NUM_CLASSES)
    other = layout.randint(0, NUM_CLASSES, count)
    family = np.where(layout.random_sample(count) < TYPICAL, label, other)
    objects, visible, mask = _objects(layout, label, side)
    background = _backgrounds(np.random.RandomState([stream, chunk, 1]), family, side)
    return Scenes(objects, visible, background, mask, label, family)


def join(parts: Sequence[Scenes]) -> Scenes:
    """Returns all scenes of several chunks as one."""
    names = [field.name for field in dataclasses.fields(Scenes)]
    return Scenes(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Rounds [0, 1] to 0..255."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _objects(
    rng: np.random.RandomState, label: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(label)
    count = rng.choice(np.arange(1, MAX_OBJECTS + 1), n, p=COUNT_ODDS)
    center = _places(rng, n)
    line = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    color = np.zeros((n, side, side, 3), np.float32)
    visible = np.ones((n, side, side, 1), np.float32)
    mask = np.zeros((n, side, side), np.uint8)
    for k in range(MAX_OBJECTS):
        radius, angle = rng.uniform(*RADIUS, n), rng.uniform(0, TAU, n)
        period, phase = rng.uniform(*PERIOD, n), rng.random_sample((n, 2))
        tones = _two_tones(rng, n)
        for kind in range(NUM_CLASSES):
            i = np.flatnonzero((label == kind) & (count > k))
            each = [v[i, None, None].astype(np.float32) for v in (radius, angle, period)]
            dx = line[None, None, :] - center[i, k, 0, None, None].astype(np.float32)
            dy = line[None, :, None] - center[i, k, 1, None, None].astype(np.float32)
            cos, sin = np.cos(each[1]), np.sin(each[1])
            x, y = cos * dx + sin * dy, cos * dy - sin * dx
            scale = _radius_of(kind) / each[0]
            level = _outline(kind, x * scale, y * scale) / scale
            u, v = x / each[2], y / each[2]
            if kind not in _CENTRED:
                u, v = u + phase[i, 0, None, None], v + phase[i, 1, None, None]
            tone = np.clip(0.5 + 1.2 * _pattern(kind, u, v), 0, 1)[..., None]
            paint = tones[0][i] * tone + tones[1][i] * (1 - tone)
            cover = np.clip(0.5 - level * (side / 2), 0, 1)[..., None]  # one pixel of ramp
            color[i] = color[i] * (1 - cover) + paint * cover
            visible[i] *= 1 - cover
            mask[i] = np.where(level < 0, k + 1, mask[i])
    return color, visible, _without_gaps(mask)


def _places(rng: np.random.RandomState, n: int) -> np.ndarray:
    """Returns centers [n, MAX_OBJECTS, 2] in [-0.75, 0.75], spread but free to overlap."""
    proposed = rng.uniform(-0.75, 0.75, (n, MAX_OBJECTS, PROPOSALS, 2))
    taken = proposed[:, :1, 0]
    for k in range(1, MAX_OBJECTS):
        gaps = np.square(proposed[:, k, :, None] - taken[:, None]).sum(-1).min(-1)
        best = proposed[np.arange(n), k, gaps.argmax(1)]
        taken = np.concatenate([taken, best[:, None]], axis=1)
    return taken


def _two_tones(rng: np.random.RandomState, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a light and a dark color [n, 1, 1, 3] of unrelated hue, in random order."""
    hue = rng.random_sample(n)
    hues = np.stack([hue, (hue + rng.uniform(0.2, 0.8, n)) % 1])
    values = np.stack([rng.uniform(0.6, 1, n), rng.uniform(0, 0.35, n)])
    colors = _hsv(hues, rng.uniform(0.5, 1, (2, n)), values).astype(np.float32)
    swapped = (rng.random_sample(n) < 0.5)[:, None]
    first, second = (c[:, None, None] for c in np.where(swapped, colors[::-1], colors))
    return first, second


def _backgrounds(rng: np.random.RandomState, family: np.ndarray, side: int) -> np.ndarray:
    """Textures [n, S, S, 3]: band-passed noise, three scales times three stretches.

    Contrast and saturation are the same for all and the hue drifts over the whole circle, so
    that the kind of texture is all that a background says.
    """
    n = len(family)
    scale = np.array(SCALES, np.float32)[family // 3, None, None]  # cycles per image
    stretch = np.array([1.0, 2.5, 0.4], np.float32)[family % 3, None, None]
    down = np.fft.fftfreq(side, 1 / side).astype(np.float32)[None, :, None]
    across = np.fft.rfftfreq(side, 1 / side).astype(np.float32)[None, None, :]
    distance = np.sqrt(np.square(across * stretch) + np.square(down / stretch))
    texture = _noise(rng, n, side, np.exp(-0.5 * np.square((distance / scale - 1) / BAND)))
    smooth = np.exp(-0.5 * (np.square(across) + np.square(down)) / 1.2**2)
    drift = _noise(rng, n, side, np.where((across == 0) & (down == 0), 0, smooth))
    wave = np.tanh(texture)
    start = rng.random_sample((n, 1, 1)).astype(np.float32)
    value = rng.uniform(0.4, 0.6, (n, 1, 1)).astype(np.float32) + CONTRAST * wave + 0.12 * drift
    hue = (start + 0.5 * drift + 0.1 * wave) % 1
    return _hsv(hue, np.float32(0.3), np.clip(value, 0, 1))


def _noise(rng: np.random.RandomState, n: int, side: int, gain: np.ndarray) -> np.ndarray:
    white = rng.standard_normal((n, side, side)).astype(np.float32)
    field = scipy.fft.irfft2(scipy.fft.rfft2(white) * gain.astype(np.float32), s=(side, side))
    return field / (field.std((1, 2), keepdims=True) + 1e-9)


def _hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns RGB [..., 3] in [0, 1] of hue (turns), saturation and value."""
    value = np.asarray(value)
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue * 6) % 6
        channels.append(value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)))
    return np.stack(channels, axis=-1)


def _without_gaps(mask: np.ndarray) -> np.ndarray:
    """Renumbers the labels of each mask to 1..k: an object may lie wholly under others."""
    renumbered, used = np.zeros_like(mask), np.zeros(len(mask), np.uint8)
    for k in range(1, MAX_OBJECTS + 1):
        here = mask == k
        used += here.any((1, 2))
        renumbered = np.where(here, used[:, None, None], renumbered)
    return renumbered


def _outline(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns a level that is negative inside the outline of a class, about a distance."""
    radius = np.sqrt(x * x + y * y)
    ax, ay = np.abs(x), np.abs(y)
    match kind:
        case 0:
            return radius - 1
        case 1:
            return np.maximum(ax, ay) - 1
        case 2:
            return np.maximum(0.866 * ax + 0.5 * y, -y) - 0.5
        case 3:
            return radius - (1 + 0.45 * np.cos(5 * np.arctan2(y, x)))
        case 4:
            return np.maximum(radius - 1, 0.5 - radius)
        case 5:
            return np.maximum(np.minimum(ax, ay) - 0.36, np.maximum(ax, ay) - 1)
        case 6:
            return np.maximum(ax - 1, ay - 0.36)
        case 7:
            return np.maximum(radius - 1, 0.75 - np.sqrt(np.square(x - 0.55) + y * y))
        case _:
            return np.maximum(ay - 0.18 - 0.75 * ax, ax - 1)


_CENTRED = (3, 4, 7, 8)  # patterns that have a middle: no random phase


def _pattern(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns the surface pattern of a class, about [-1, 1], at (u, v) in periods."""
    match kind:
        case 0:
            return np.sin(TAU * u)
        case 1:
            return 1.6 * np.sin(TAU * u) * np.sin(TAU * v)
        case 2:
            return np.cos(TAU * u) + np.cos(TAU * v) - 0.5
        case 3:
            return np.sin(TAU * np.sqrt(u * u + v * v))
        case 4:
            return np.sin(4 * np.arctan2(v, u))
        case 5:
            return np.sin(np.pi * u)
        case 6:
            return np.sin(TAU * (u + 0.35 * np.sin(0.7 * TAU * v)))
        case 7:
            return 6 * u * v
        case _:
            return 1.5 * u


@functools.cache
def _radius_of(kind: int) -> np.float32:
    """Returns the radius of the disc that has the area of an outline, by counting pixels."""
    line = (np.arange(400) + 0.5) / 100 - 2
    inside = _outline(kind, *np.meshgrid(line, line)) < 0
    return np.float32(np.sqrt(inside.mean() * 16 / np.pi))
