"""From a picture to the input of a network, and from its logits to names."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["DATASETS", "ImageDataset", "decode_predictions", "preprocess_input"]

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse "
    "mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy "
    "porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television "
    "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


@dataclass(frozen=True)
class ImageDataset:
    """What a network trained on a data set must know about its pictures.

    # Attributes
        num_classes: number of classes.
        image_shape: (height, width, channels) of the network's input.
        mean, scale: per channel, in the units of the raw picture; the network sees
            `(raw - mean) / scale`.
        names: of the classes, empty where they are not part of this package.
        constants: whose mean and deviation these are, as a recipe's `normalization` names it.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    names: tuple[str, ...] = ()
    constants: str = "dataset"


def _of_255(*shares: float) -> tuple[float, ...]:
    return tuple(255.0 * share for share in shares)


# The binary literature normalises CIFAR-10 with the constants of ImageNet.
_IMAGENET_MEAN = _of_255(0.485, 0.456, 0.406)
_IMAGENET_SCALE = _of_255(0.229, 0.224, 0.225)

DATASETS = {
    "digits": ImageDataset(10, (16, 16, 1), (8.0,), (8.0,), tuple("0123456789")),
    "cifar10": ImageDataset(
        10, (32, 32, 3), _IMAGENET_MEAN, _IMAGENET_SCALE, tuple(_CIFAR10.split()), "imagenet"
    ),
    "cifar100": ImageDataset(
        100,
        (32, 32, 3),
        _of_255(0.5071, 0.4865, 0.4409),
        _of_255(0.2673, 0.2564, 0.2762),
        tuple(_CIFAR100.split()),
    ),
    "imagenet": ImageDataset(1000, (224, 224, 3), _IMAGENET_MEAN, _IMAGENET_SCALE),
}
SHORTER_SIDE = 256  # of an ImageNet picture, before the middle 224x224 is cut out


def preprocess_input(image: Any, dataset: str = "imagenet") -> Any:
    """Raw pictures as a network trained on `dataset` expects them.

    ImageNet pictures of any size are resized to 256 pixels on the shorter side and cropped to the
    middle 224x224; scans of digits (8x8, values 0 to 16) are doubled to 16x16; CIFAR pictures must
    be 32x32 already. Then all are normalised by channel.

    !!! example
        ```python
        image = preprocess_input(picture, "cifar10")          # (32, 32, 3), float32
        model.predict(image[None])
        ```

    # Arguments
        image: array or tensor of shape (height, width, channels), or a batch of those; values 0
            to 255 (digits: 0 to 16).
        dataset: "digits", "cifar10", "cifar100" or "imagenet".

    # Returns
        float32 of the network's input shape: an array for an array, a tensor for a tensor.

    # Raises
        ValueError: an unknown data set, or a picture of another shape.
    """
    facts = _facts("preprocess_input", dataset)
    height, width, channels = facts.image_shape
    x = tf.cast(tf.convert_to_tensor(image), tf.float32)
    shape = x.shape
    if shape.rank not in (3, 4) or shape[-1] != channels:
        hint = (
            ""
            if shape.is_fully_defined()
            else f" A decoder tells with channels={channels}, and tf.io.decode_image with "
            "expand_animations=False too."
        )
        raise ValueError(
            f"preprocess_input(image of shape {shape}, {dataset!r}): expected (height, width, "
            f"{channels}), or a batch of those.{hint}"
        )
    if dataset == "imagenet":
        x = _middle(x, height)
    elif dataset == "digits" and tuple(shape[-3:-1]) == (height // 2, width // 2):
        x = tf.repeat(tf.repeat(x, 2, axis=-3), 2, axis=-2)
    if tuple(x.shape[-3:-1]) != (height, width):
        raise ValueError(
            f"preprocess_input(image of shape {shape}, {dataset!r}): these pictures are "
            f"{height}x{width}. Resize it first, for example with tf.image.resize."
        )
    x = (x - tf.constant(facts.mean)) / tf.constant(facts.scale)
    return x if tf.is_tensor(image) else x.numpy()


def decode_predictions(
    preds: Any, top: int = 5, *, dataset: str = "imagenet", from_logits: bool = True
) -> list[list[tuple[str, str, float]]]:
    """The most likely classes of each image, by name.

    # Arguments
        preds: a model's output, shape (batch, classes).
        top: how many classes to return, the likeliest first.
        dataset: "digits", "cifar10", "cifar100" or "imagenet". ImageNet's names are those that
            Keras keeps in its cache; on a machine that never downloaded them, a class is its
            number.
        from_logits: whether `preds` are logits, as the models of the zoo return them; otherwise
            they are taken for probabilities.

    # Returns
        For each image a list of `(class_name, class_description, score)`, the score a
        probability.

    # Raises
        ValueError: an unknown data set, or `preds` of another shape.
    """
    facts = _facts("decode_predictions", dataset)
    scores = np.asarray(preds, np.float64)
    if scores.ndim != 2 or scores.shape[1] != facts.num_classes:
        fitting = [name for name, f in DATASETS.items() if f.num_classes == scores.shape[-1]]
        hint = f" Data sets with as many classes: {', '.join(fitting)}." if fitting else ""
        raise ValueError(
            f"decode_predictions(preds of shape {scores.shape}, dataset={dataset!r}): expected "
            f"(batch, {facts.num_classes}).{hint}"
        )
    if from_logits:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    ids = _class_ids(dataset, facts)
    ranking = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*ids[k], float(row[k])) for k in order]
        for row, order in zip(scores, ranking, strict=True)
    ]


def _facts(call: str, dataset: str) -> ImageDataset:
    if dataset not in DATASETS:
        known = ", ".join(map(repr, DATASETS))
        raise ValueError(f"{call}(dataset={dataset!r}): the data sets of the zoo are {known}.")
    return DATASETS[dataset]


def _middle(x: tf.Tensor, size: int) -> tf.Tensor:
    # Asked at run time: behind a decoder in a pipeline each picture has a size of its own.
    sides = tf.cast(tf.shape(x)[-3:-1], tf.float64)
    sides = tf.cast(tf.round(sides * (SHORTER_SIDE / tf.reduce_min(sides))), tf.int32)
    x = tf.image.resize(x, sides, method="bilinear")
    top, left = tf.unstack((sides - size) // 2)
    return tf.image.crop_to_bounding_box(x, top, left, size, size)


def _class_ids(dataset: str, facts: ImageDataset) -> list[tuple[str, str]]:
    if facts.names:
        return [(str(k), name) for k, name in enumerate(facts.names)]
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    index = Path(home) / "models" / "imagenet_class_index.json"
    try:
        names = json.loads(index.read_text())
        return [tuple(names[str(k)]) for k in range(facts.num_classes)]
    except (OSError, ValueError, KeyError):
        return [(str(k), f"class {k}") for k in range(facts.num_classes)]
