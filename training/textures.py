"""Ten classes of made-up colour textures, in a noise that leaves something to learn.

`generated` sets differ by one template per class and are learned by heart; here a class is a rule
(stripes, rings, spokes, ...) and every image draws its own colours, place, size and angle.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hbnn_larq.training.data import Augmentation, Dataset, Split

__all__ = ["CLASSES", "textures", "textures_hard"]

SIDE = 32
TRAIN, VALIDATION, TEST = 3000, 1000, 2400
# Of one pixel, in units of the contrast between the two colours.
NOISE, HARD_NOISE = 0.6, 0.9

CLASSES = (
    "stripes_across", "stripes_down", "stripes_aslant", "checker", "rings",
    "disc", "square", "cross", "blobs", "spokes",
)  # fmt: skip


def textures(seed: int = 7, *, noise: float = NOISE) -> Dataset:
    """Ten kinds of pattern, 32x32 in colour: 3,000 to train, 1,000 to validate, 2,400 to test.

    Each image has two random colours, a brightness gradient, a pattern of random place, size and
    angle, and noise. Nothing is downloaded; the same seed gives the same images. Training images
    are shifted by up to 1 pixel.

    # Arguments
        seed: of everything random.
        noise: of one pixel, in units of the contrast between the two colours.

    # Returns
        A `Dataset` with uint8 images, normalised per channel.
    """
    rng = np.random.default_rng(seed)
    splits = [_split(rng, count, noise) for count in (TRAIN, VALIDATION, TEST)]
    pixels = splits[0].images.reshape(-1, 3).astype(np.float64)
    return Dataset(
        name="textures",
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        num_classes=len(CLASSES),
        mean=tuple(pixels.mean(axis=0).tolist()),
        scale=tuple(pixels.std(axis=0).tolist()),
        augmentation=Augmentation(shift=1, fill=128.0),
        class_names=CLASSES,
    )


def textures_hard(seed: int = 7) -> Dataset:
    """`textures` in a noise of 0.9, hard enough that a float net stays below 95 %.

    The same patterns, colours and places as `textures` of that seed.

    # Arguments
        seed: of everything random.
    """
    return replace(textures(seed, noise=HARD_NOISE), name="textures-hard")


def _split(rng: np.random.Generator, count: int, noise: float) -> Split:
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    images = np.stack([_image(rng, int(label), noise) for label in labels])
    return Split(images, labels.astype(np.int64))


def _image(rng: np.random.Generator, label: int, noise: float) -> np.ndarray:
    pattern = _pattern(rng, CLASSES[label])[..., None]
    dark, light = rng.uniform(0, 1, size=(2, 3))
    if np.abs(light - dark).mean() < 0.3:  # too alike to see anything
        light = (dark + 0.5) % 1.0
    slope = rng.normal(size=2) * 0.3
    rows, columns = _grid()
    gradient = (slope[0] * rows + slope[1] * columns)[..., None] / SIDE
    contrast = np.abs(light - dark).mean()
    grain = rng.normal(size=(SIDE, SIDE, 3)) * noise * contrast
    image = dark + (light - dark) * pattern + gradient + grain
    return np.clip(np.rint(255 * (0.15 + 0.7 * image)), 0, 255).astype(np.uint8)


def _pattern(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Values in [0, 1] of a pattern at a random place, size and angle."""
    rows, columns = _grid()
    down, across = rng.uniform(-6, 6, size=2)
    y, x = rows - down, columns - across
    distance = np.hypot(y, x)
    period, phase = rng.uniform(4, 9), rng.uniform(0, 2 * np.pi)
    size = rng.uniform(5, 11)

    def wave(along: np.ndarray) -> np.ndarray:
        return (1 + np.sin(2 * np.pi * along / period + phase)) / 2

    tilt = rng.uniform(-0.25, 0.25)
    turn = {"stripes_across": 0.0, "stripes_down": np.pi / 2}.get(kind)
    if kind == "stripes_aslant":
        turn = rng.choice([np.pi / 4, 3 * np.pi / 4])
    if turn is not None:
        return wave(np.cos(turn + tilt) * y + np.sin(turn + tilt) * x)
    if kind == "checker":
        u, v = np.cos(tilt) * y + np.sin(tilt) * x, np.cos(tilt) * x - np.sin(tilt) * y
        return (np.sin(2 * np.pi * u / period) * np.sin(2 * np.pi * v / period) > 0) * 1.0
    if kind == "rings":
        return wave(distance)
    if kind == "disc":
        return (distance < size) * 1.0
    if kind == "square":
        u, v = np.cos(tilt) * y + np.sin(tilt) * x, np.cos(tilt) * x - np.sin(tilt) * y
        edge = np.maximum(np.abs(u), np.abs(v))
        return ((edge < size) & (edge > size - 2.5)) * 1.0
    if kind == "cross":
        u, v = np.cos(tilt) * y + np.sin(tilt) * x, np.cos(tilt) * x - np.sin(tilt) * y
        arms = np.minimum(np.abs(u), np.abs(v)) < 2
        return (arms & (np.maximum(np.abs(u), np.abs(v)) < size)) * 1.0
    if kind == "blobs":
        centres = rng.uniform(-14, 14, size=(5, 2))
        widths = rng.uniform(1.5, 3.5, size=5)
        bumps = [
            np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / (2 * w * w))
            for (r, c), w in zip(centres, widths, strict=True)
        ]
        return np.clip(np.sum(bumps, axis=0), 0, 1)
    spokes = rng.integers(4, 9)  # the one kind left
    return (1 + np.sin(spokes * np.arctan2(y, x) + phase)) / 2


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels, from the middle."""
    places = np.arange(SIDE) - (SIDE - 1) / 2
    return places[:, None] + np.zeros(SIDE), places[None, :] + np.zeros((SIDE, 1))
