"""Images and labels for a recipe, and the order and crops in which a training run sees them.

A data set is a frozen `Dataset`: three splits in memory plus what a recipe must know about them.
`training_batches` turns its training split into one `tf.data` pipeline over a whole run in which
every batch is a function of (seed, step) alone: order, shifts and flips are drawn with stateless
generators. So a run that is resumed at step n sees exactly the batches that the unbroken one saw.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from hbnn_larq.training.recipe import listed
from hbnn_larq.training.tfrecords import RecordSplit
from hbnn_larq.training.untuned import untuned

__all__ = [
    "Augmentation",
    "Dataset",
    "FileSplit",
    "Split",
    "dataset_names",
    "decode_picture",
    "digits",
    "evaluation_batches",
    "generated",
    "load",
    "require_same",
    "steps_of",
    "steps_per_epoch",
    "training_batches",
    "training_images",
    "unreadable_image",
]


# What TensorFlow raises where a picture is broken, its file is gone, or its record file is.
UNREADABLE = (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnknownError)
GENERATED_TRAIN = 2000
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_SCALE = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclass(frozen=True)
class Split:
    """Images and their labels, in memory.

    # Attributes
        images: (n, height, width, channels), uint8 or float32, before normalisation.
        labels: (n,), int64 class numbers.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"Split: images of shape {self.images.shape} with labels of shape "
                f"{self.labels.shape}; expected (n, height, width, channels) and (n,)."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def chosen(self, indices: np.ndarray) -> Split:
        """The images and labels at these positions."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class FileSplit:
    """Image files and their labels, decoded when they are needed.

    # Attributes
        paths: of JPEG, PNG, GIF or BMP files.
        labels: (n,), int64 class numbers.
        image_shape: (height, width, 3) after cropping.
        resize: shorter side of an image in evaluation, before its middle is cropped.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    resize: int

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, indices: np.ndarray) -> FileSplit:
        """The files and labels at these positions."""
        return replace(
            self, paths=tuple(self.paths[i] for i in indices), labels=self.labels[indices]
        )

    def reader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function that gives the encoded image at a position, in a graph."""
        names = [os.fsencode(path) for path in self.paths]
        paths = tf.constant(names, tf.string, shape=[len(self)])
        return lambda index: tf.io.read_file(paths[index])

    def name_of(self, index: int) -> str:
        """Where an image is, for messages."""
        return self.paths[index]


OnDisk: TypeAlias = FileSplit | RecordSplit
AnySplit: TypeAlias = Split | OnDisk


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image besides normalisation.

    # Attributes
        shift: pads the image by this many pixels of `fill` on each side and crops a window of
            its own size at random.
        flip: mirrors left and right with probability 1/2.
        fill: value of the padding, in raw pixel units (0 is black).
    """

    shift: int = 0
    flip: bool = False
    fill: float = 0.0


@dataclass(frozen=True)
class Dataset:
    """A data set as a recipe sees it.

    # Attributes
        name: by which it was loaded.
        train, validation, test: the splits. Settings are chosen on validation, which may be
            empty (see `with_hold_out`); test is for the final figure only.
        num_classes: number of classes.
        mean, scale: per channel; the network sees `(raw - mean) / scale`.
        augmentation: of the training split.
        class_names: one per class.
        white: the raw value that 255 in an image file stands for.
    """

    name: str
    train: AnySplit
    validation: AnySplit
    test: AnySplit
    num_classes: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    augmentation: Augmentation
    class_names: tuple[str, ...]
    white: float = 255.0

    def __post_init__(self) -> None:
        for split in (self.train, self.validation, self.test):
            labels = split.labels
            if len(labels) and not (labels.min() >= 0 and labels.max() < self.num_classes):
                raise ValueError(
                    f"data set {self.name!r}: labels from {labels.min()} to {labels.max()}, but "
                    f"num_classes={self.num_classes} allows 0 to {self.num_classes - 1}."
                )

    def normalized_as(self, constants: str) -> Dataset:
        """The data set with other normalisation: "dataset" for its own, or "imagenet"."""
        if constants == "dataset":
            return self
        if constants != "imagenet" or self.image_shape[2] != 3:
            raise ValueError(
                f"normalization={constants!r}: the constants of ImageNet are for three channels; "
                f'{self.name} has {self.image_shape[2]}. Use "dataset".'
            )
        return replace(self, mean=IMAGENET_MEAN, scale=IMAGENET_SCALE)

    def with_hold_out(self, count: int) -> Dataset:
        """The data set with `count` fixed random training images moved to validation.

        # Raises
            ValueError: where there is a validation split already, or too few images.
        """
        if count == 0:
            return self
        total = len(self.train)
        if len(self.validation):
            raise ValueError(
                f"hold_out={count}: {self.name} has a validation split of its own; leave it at 0."
            )
        if not 0 < count < total:
            raise ValueError(
                f"hold_out={count}: {self.name} has {total} training images; hold out 1 to "
                f"{total - 1} of them."
            )
        order = np.random.default_rng(0).permutation(total)
        held, kept = np.sort(order[:count]), np.sort(order[count:])
        return replace(self, train=self.train.chosen(kept), validation=self.train.chosen(held))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return self.train.image_shape

    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from other data, wherever its files lie; plain values for JSON.

        `content` is a hash of class names, normalisation, labels and of all images in memory. Of
        images on disk it takes the names (of records the lengths), in order: to read a million of
        them would take too long.
        """
        normalization = [f"{value:.6g}" for value in (*self.mean, *self.scale)]
        digest = hashlib.blake2b(repr((self.class_names, normalization)).encode(), digest_size=8)
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        for split in splits.values():
            for content in _content(split):
                digest.update(content)
        return {
            "image_shape": list(self.image_shape),
            "classes": self.num_classes,
            **{name: len(split) for name, split in splits.items()},
            "content": digest.hexdigest(),
            "augmentation": asdict(self.augmentation),
        }

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Raw images as the network sees them, float32."""
        mean = np.asarray(self.mean, np.float32)
        scale = np.asarray(self.scale, np.float32)
        return (images.astype(np.float32) - mean) / scale


def _content(split: AnySplit) -> Iterator[bytes | memoryview]:
    """What a split holds, to be hashed; nothing of it says where its files lie."""
    yield np.ascontiguousarray(split.labels, np.int64).data
    if isinstance(split, Split):
        yield np.ascontiguousarray(split.images).data
    elif isinstance(split, FileSplit):
        yield "\n".join("/".join(path.split(os.sep)[-2:]) for path in split.paths).encode(
            errors="surrogateescape"
        )
    else:
        yield np.ascontiguousarray(split.places[:, 2]).data


def require_same(there: Mapping[str, Any] | None, here: Mapping[str, Any], what: str) -> None:
    """Raises where a folder holds work on other data.

    # Arguments
        there: `Dataset.fingerprint` of the data it was begun on; None where an older version,
            which kept none, has begun it.
        here: that of the data at hand.
        what: the folder and what it holds, for the message.

    # Raises
        ValueError: naming the differences.
    """
    differences = {k: (v, here[k]) for k, v in (there or {}).items() if here.get(k, v) != v}
    if differences:
        raise ValueError(
            f"{what} on other data ({listed(differences)}). Go on with the data as it was, or use "
            "another --workdir."
        )


def digits() -> Dataset:
    """1,797 real 8x8 scans of handwritten digits, bundled with scikit-learn.

    Each pixel is doubled (16x16x1). The split is fixed and stratified, 60/15/25: 1,077 to train,
    270 to validate, 450 to test. Pixels 0 to 16 are scaled to [-1, 1]; training images are
    shifted by up to 2 pixels.

    # References
        - [Optical Recognition of Handwritten Digits](https://doi.org/10.24432/C50P49)
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    images = np.repeat(np.repeat(scans.images, 2, axis=1), 2, axis=2)[..., None]
    images, labels = images.astype(np.float32), scans.target.astype(np.int64)
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=0.25, random_state=0, stratify=labels
    )
    train, validation = train_test_split(rest, test_size=0.2, random_state=0, stratify=labels[rest])

    def split(chosen: np.ndarray) -> Split:
        chosen = np.sort(chosen)
        return Split(images[chosen], labels[chosen])

    return Dataset(
        name="digits",
        train=split(train),
        validation=split(validation),
        test=split(test),
        num_classes=10,
        mean=(8.0,),
        scale=(8.0,),
        augmentation=Augmentation(shift=2),
        class_names=tuple(str(digit) for digit in range(10)),
        white=16.0,
    )


def generated(
    image_shape: tuple[int, int, int] = (16, 16, 3),
    num_classes: int = 10,
    *,
    train: int = GENERATED_TRAIN,
    validation: int = 500,
    test: int = 1000,
    difficulty: float = 1.0,
    seed: int = 7,
) -> Dataset:
    """A made-up data set of any shape: smooth random templates, shifted, rescaled, with noise.

    One smooth template per class; an image is its class's template under a cyclic shift of up
    to an eighth of the side and a random contrast, plus Gaussian noise. Nothing is downloaded,
    and the same arguments give the same images.

    # Arguments
        image_shape: (height, width, channels), all at least 1.
        num_classes: at least 2.
        train, validation, test: images per split, at least 1 each; classes are balanced.
        difficulty: standard deviation of the noise relative to the template's, 0 or above.
        seed: of the templates and images.

    # Returns
        A `Dataset` with uint8 images.

    # Raises
        ValueError: for a shape, count or difficulty out of range.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"generated(image_shape={image_shape}): (height, width, channels), each at least 1."
        )
    if num_classes < 2 or min(train, validation, test) < 1:
        raise ValueError(
            f"generated(num_classes={num_classes}, train={train}, validation={validation}, "
            f"test={test}): at least 2 classes and 1 image per split."
        )
    if not (difficulty >= 0 and math.isfinite(difficulty)):
        raise ValueError(
            f"generated(difficulty={difficulty}): noise relative to the signal, 0 or above; 1 is "
            "easy for a float net and takes a binary one a few epochs."
        )
    height, width, channels = image_shape
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(num_classes, min(4, height), min(4, width), channels))
    templates = np.fft.irfft2(waves, s=(height, width + 1 if width == 1 else width), axes=(1, 2))[
        :, :, :width
    ]
    templates /= np.maximum(templates.std(axis=(1, 2, 3), keepdims=True), 1e-12)

    def split(count: int) -> Split:
        labels = rng.permutation(np.arange(count) % num_classes)
        images = np.empty((count, *image_shape), np.uint8)
        for index, label in enumerate(labels):
            shift = [rng.integers(-(side // 8), side // 8 + 1) for side in (height, width)]
            image = np.roll(templates[label], shift, axis=(0, 1)) * rng.uniform(0.7, 1.3)
            image = image + difficulty * rng.normal(size=image.shape)
            images[index] = np.clip(128 + 32 * image, 0, 255)
        return Split(images, labels.astype(np.int64))

    return Dataset(
        name="generated",
        train=split(train),
        validation=split(validation),
        test=split(test),
        num_classes=num_classes,
        mean=(128.0,) * channels,
        scale=(64.0,) * channels,
        augmentation=Augmentation(shift=1, fill=128.0),
        class_names=tuple(f"class {number}" for number in range(num_classes)),
    )


_TRAINING_IMAGES = {"digits": 1077, "cifar10": 50_000, "cifar100": 50_000, "imagenet": 1_281_167}
_SHAPED = re.compile(r"generated-(\d+)x(\d+)x(\d+)-(\d+)")


def dataset_names() -> tuple[str, ...]:
    """Names that `load` knows."""
    return (
        "cifar10", "cifar100", "digits", "generated", "imagenet", "pictures", "textures",
        "textures-hard",
    )  # fmt: skip


def load(
    name: str,
    folder: str | Path | None = None,
    *,
    image_size: int | None = None,
    unreadable: str = "error",
    say: Callable[[str], None] = print,
) -> Dataset:
    """The data set of a name.

    | name | what | folder |
    |---|---|---|
    | `digits` | real 8x8 scans, bundled | none |
    | `textures`, `textures-hard` | made-up, see `hbnn_larq.training.textures` | none |
    | `generated`, `generated-HxWxC-K` | made-up, K classes, images of H x W x C | none |
    | `cifar10`, `cifar100` | see `hbnn_larq.training.cifar` | of the official archive, or none |
    | `imagenet` | see `hbnn_larq.training.folders` | of its pictures, or prepared, or none |
    | `pictures` | your own, see `hbnn_larq.training.folders` | holds one folder per class |

    # Arguments
        name: one of these.
        folder: where its files are.
        image_size: side in pixels, for `imagenet` and `pictures`.
        unreadable: "error" or "skip" files that are no pictures, in folders of pictures.
        say: called with what is worth knowing while loading.

    # Raises
        ValueError: for an unknown name, with the closest ones, or files that do not fit.
    """
    make = _maker(name)
    if make is not None:
        if folder is not None:
            raise ValueError(f"{name} needs no files; leave out --data {folder}.")
        return make()
    if name in ("cifar10", "cifar100"):
        from hbnn_larq.training import cifar

        return cifar.load(name, folder)
    if name in ("imagenet", "pictures"):
        from hbnn_larq.training import folders

        size = {} if image_size is None else {"size": image_size}
        if name == "imagenet":
            return folders.imagenet(folder, unreadable=unreadable, say=say, **size)
        if folder is None:
            raise ValueError(f"{name}: say where its files are with --data FOLDER.")
        return folders.pictures(folder, unreadable=unreadable, say=say, **size)
    close = difflib.get_close_matches(name, dataset_names(), n=3, cutoff=0.3) or dataset_names()
    raise ValueError(f'no data set "{name}". Closest: {", ".join(close)}.')


def needs_no_files(name: str) -> bool:
    """Whether a data set is there at once, bundled or made up."""
    return _maker(name) is not None


def _maker(name: str) -> Callable[[], Dataset] | None:
    from hbnn_larq.training.textures import textures, textures_hard

    shaped = _SHAPED.fullmatch(name)
    if shaped:
        height, width, channels, classes = map(int, shaped.groups())
        return lambda: replace(generated((height, width, channels), classes), name=name)
    return {
        "digits": digits,
        "generated": generated,
        "textures": textures,
        "textures-hard": textures_hard,
    }.get(name)


def training_images(name: str) -> int:
    """Size of the training split of a data set, without loading it where that is known.

    # Raises
        ValueError: for an unknown name, or `pictures`.
    """
    if name == "pictures":
        raise ValueError(
            "pictures: how many there are is known once they are loaded, so what a recipe makes of "
            "them is said at the start of: hbnn train ... --data DIR"
        )
    if name == "generated" or _SHAPED.fullmatch(name):
        return GENERATED_TRAIN
    return _TRAINING_IMAGES[name] if name in _TRAINING_IMAGES else len(load(name).train)


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Training steps in one pass; the last batch may be smaller.

    # Arguments
        dataset: whose training images are counted.
        batch_size: images in a step.

    # Raises
        ValueError: for a batch size outside 1 to the number of training images.
    """
    return steps_of(dataset.name, len(dataset.train), batch_size)


def steps_of(name: str, count: int, batch_size: int) -> int:
    """As `steps_per_epoch`, of a data set that only its name and size are known of."""
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"batch_size={batch_size}: {name} has {count} training images, so a batch "
            f"holds 1 to {count} of them."
        )
    return math.ceil(count / batch_size)


def training_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    first_step: int = 0,
    with_indices: bool = False,
) -> tf.data.Dataset:
    """The whole run's training batches, from any step on.

    # Arguments
        dataset: what to train on.
        batch_size: images per step; the last batch of an epoch may be smaller.
        epochs: passes over the training split; each in its own full shuffle.
        seed: of order and augmentation.
        first_step: number of steps already done; skipping them costs almost nothing, since it
            happens before any image is touched.
        with_indices: also say which images they are, for what remembers them (`rivals.CMIM`).

    # Returns
        A `tf.data.Dataset` of (images, labels): float32 (b, h, w, c), normalised, and int64 (b,);
        with indices of ((images, indices), labels), where indices are positions in the training
        split, int64 (b,).
        Batch n depends on `seed` and n only.

    # Raises
        ValueError: for a batch size outside 1 to the number of training images.
    """
    count = len(dataset.train)
    steps = steps_per_epoch(dataset, batch_size)
    fetch = _training_images(dataset.train, dataset.augmentation)
    labels = tf.constant(dataset.train.labels)
    mean, scale = tf.constant(dataset.mean), tf.constant(dataset.scale)

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int64), seed=tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        numbers = tf.data.Dataset.range(epoch * steps, (epoch + 1) * steps)
        batches = tf.data.Dataset.from_tensor_slices(shuffled).batch(batch_size)
        return tf.data.Dataset.zip((numbers, batches))

    def fill(step: tf.Tensor, chosen: tf.Tensor) -> tuple[Any, tf.Tensor]:
        # Order and augmentation draw from different streams of the same seed.
        batch = fetch(chosen, tf.stack([tf.constant(seed + (1 << 32), tf.int64), step]))
        images = (batch - mean) / scale
        return (images, chosen) if with_indices else images, tf.gather(labels, chosen)

    first_epoch, inside = divmod(first_step, steps)
    return untuned(
        tf.data.Dataset.range(first_epoch, epochs)
        .flat_map(order)
        .skip(inside)
        .map(fill, num_parallel_calls=2, deterministic=True)
        .prefetch(4)
    )


def unreadable_image(dataset: Dataset, *, batch_size: int, seed: int, step: int) -> str | None:
    """Where the image is for which a training batch could not be made, if there is one.

    # Arguments
        dataset, batch_size, seed: as for `training_batches`.
        step: number of the batch.
    """
    split = dataset.train
    epoch, inside = divmod(step, steps_per_epoch(dataset, batch_size))
    order = tf.random.experimental.stateless_shuffle(
        tf.range(len(split), dtype=tf.int64), seed=tf.constant([seed, epoch], tf.int64)
    )
    return _first_unreadable(split, order[inside * batch_size :][:batch_size].numpy())


def _first_unreadable(split: AnySplit, places: Iterable[int]) -> str | None:
    """Where the first image of these is that cannot be read."""
    if isinstance(split, Split):
        return None
    read = split.reader()
    for index in places:
        try:
            decode_picture(read(tf.constant(index, tf.int64)))
        except (*UNREADABLE, OSError):  # outside of a graph some arrive as Python's own
            return split.name_of(index)
    return None


def spread_out(dataset: Dataset, split: AnySplit, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to so many images and labels, spread over a split: folders are read class by class.

    # Arguments
        dataset: what the split is of.
        split: one of its three.
        count: at most so many, 1 or above.

    # Returns
        Images as the network takes them, float32 (n, h, w, c), and labels, int64 (n,).
    """
    places = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)
    batches = list(evaluation_batches(dataset, split.chosen(places)))
    images, labels = (np.concatenate([batch[part].numpy() for batch in batches]) for part in (0, 1))
    return images, labels


def evaluation_batches(
    dataset: Dataset, split: AnySplit, *, batch_size: int = 250
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """One pass over a split in order, normalised and without augmentation.

    # Arguments
        dataset: what the split is of.
        split: one of its three.
        batch_size: images in a batch; the last may hold fewer.

    # Returns
        Batches of images, float32 (b, h, w, c), and labels, int64 (b,).

    # Raises
        ValueError: at a file that cannot be read as a picture, which it names.
    """
    content: tf.data.Dataset
    if not isinstance(split, Split):
        read, on_disk = split.reader(), split
        content = tf.data.Dataset.from_tensor_slices((np.arange(len(split)), split.labels)).map(
            lambda index, label: (_centre_crop(decode_picture(read(index)), on_disk), label),
            num_parallel_calls=2,
            deterministic=True,
        )
    else:
        content = tf.data.Dataset.from_tensor_slices((split.images, split.labels))

    def fill(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (tf.cast(images, tf.float32) - dataset.mean) / dataset.scale, labels

    batches = content.batch(batch_size).map(fill, num_parallel_calls=2, deterministic=True)
    iterator = iter(untuned(batches.prefetch(2)))
    for first in range(0, len(split), batch_size):
        try:
            batch = next(iterator)
        except UNREADABLE:
            bad = _first_unreadable(split, range(first, min(first + batch_size, len(split))))
            if bad is None:
                raise
            raise ValueError(
                f"{dataset.name}: {bad} cannot be read as a picture. Mend or remove it, or leave "
                "such files out with --unreadable skip."
            ) from None
        yield batch


def _training_images(
    split: AnySplit, augmentation: Augmentation
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(indices, seed) -> raw float32 images, cropped, shifted and mirrored."""
    if not isinstance(split, Split):
        read, on_disk = split.reader(), split

        def decode(chosen: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            def crop(place: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
                index, number = place
                return _random_crop(
                    decode_picture(read(index)), on_disk, tf.add(seed, [number * (1 << 33), 0])
                )

            numbers = tf.range(tf.shape(chosen, tf.int64)[0])
            batch = tf.map_fn(crop, (chosen, numbers), fn_output_signature=tf.float32)
            return _augment(batch, augmentation, seed)

        return decode
    images = tf.constant(split.images)

    def gather(chosen: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return _augment(tf.cast(tf.gather(images, chosen), tf.float32), augmentation, seed)

    return gather


def decode_picture(encoded: tf.Tensor) -> tf.Tensor:
    """An encoded picture as uint8 (h, w, 3), as training and evaluation see it."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def _random_crop(image: tf.Tensor, split: OnDisk, seed: tf.Tensor) -> tf.Tensor:
    """A random 8 to 100 % of the area, between 3:4 and 4:3, resized."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([1, 0, 4]),
        seed=seed,
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        use_image_if_no_bounding_boxes=True,
    )
    cropped = tf.slice(image, begin, size)
    return tf.ensure_shape(tf.image.resize(cropped, split.image_shape[:2]), split.image_shape)


def _centre_crop(image: tf.Tensor, split: OnDisk) -> tf.Tensor:
    """Shorter side scaled to `split.resize`, middle cropped."""
    height, width, _ = split.image_shape
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scaled = tf.cast(tf.math.ceil(sides * (split.resize / tf.reduce_min(sides))), tf.int32)
    image = tf.image.resize(image, scaled)
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return tf.ensure_shape(image[top : top + height, left : left + width], split.image_shape)


def _augment(images: tf.Tensor, augmentation: Augmentation, seed: tf.Tensor) -> tf.Tensor:
    """Shifts and flips a batch of raw float images; `seed` is a pair of int64."""
    size = tf.shape(images)[0]
    if augmentation.shift:
        pad = augmentation.shift
        height, width = images.shape[1], images.shape[2]
        padded = tf.pad(
            images, [[0, 0], [pad, pad], [pad, pad], [0, 0]], constant_values=augmentation.fill
        )
        offsets = tf.random.stateless_uniform(
            [2, size, 1], seed, minval=0, maxval=2 * pad + 1, dtype=tf.int32
        )
        rows = tf.gather(padded, offsets[0] + tf.range(height), batch_dims=1)
        columns = tf.transpose(rows, [0, 2, 1, 3])
        columns = tf.gather(columns, offsets[1] + tf.range(width), batch_dims=1)
        images = tf.transpose(columns, [0, 2, 1, 3])
    if augmentation.flip:
        mirror = tf.random.stateless_uniform([size, 1, 1, 1], tf.add(seed, [1, 0])) < 0.5
        images = tf.where(mirror, tf.reverse(images, [2]), images)
    return images
