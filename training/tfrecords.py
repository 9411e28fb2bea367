"""ImageNet as tensorflow-datasets prepared it: TFRecord files, read record by record.

    tfds build imagenet2012      # once, from the two official archives
    hbnn train imagenet-resnet18 --workdir runs/imagenet

A TFRecord file can only be read from its start, but training wants any image at any moment: a full
shuffle, and a resumed run that goes on at once. So every file is read through once, and where each
record begins is kept in an index beside the files. From then on an image is one read from disk,
decoded when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq.files import replaced
from hbnn_larq.training.untuned import untuned

__all__ = ["RecordSplit", "prepared", "read_split"]

# A record: 8 bytes of length, 4 of checksum, the content, 4 of checksum.
_BEFORE, _AROUND = 12, 16


@dataclass(frozen=True)
class RecordSplit:
    """Images in TFRecord files and their labels, read and decoded when they are needed.

    # Attributes
        files: of tensorflow-datasets.
        places: (n, 3), int64: number of the file, first byte and length of the record.
        labels: (n,), int64 class numbers.
        image_shape: (height, width, 3) after cropping.
        resize: shorter side of an image in evaluation, before its middle is cropped.
    """

    files: tuple[str, ...]
    places: np.ndarray
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    resize: int

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, indices: np.ndarray) -> RecordSplit:
        """The records at these positions."""
        return replace(self, places=self.places[indices], labels=self.labels[indices])

    def reader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function that gives the encoded image at a position, in a graph."""

        def record(index: np.ndarray) -> bytes:
            number, begin, length = (int(value) for value in self.places[index])
            with open(self.files[number], "rb", buffering=0) as file:
                return os.pread(file.fileno(), length, begin)

        def read(index: tf.Tensor) -> tf.Tensor:
            content = tf.ensure_shape(tf.numpy_function(record, [index], tf.string), [])
            return tf.io.parse_single_example(
                content, {"image": tf.io.FixedLenFeature([], tf.string)}
            )["image"]

        return read

    def name_of(self, index: int) -> str:
        """Where an image is, for messages."""
        number, begin, _ = self.places[index]
        return f"the record at byte {begin - _BEFORE:,} of {self.files[number]}"


def prepared(folder: Path) -> Path | None:
    """Where in `folder` tensorflow-datasets has prepared ImageNet, if it has.

    # Arguments
        folder: a data folder of tensorflow-datasets, or the version's folder inside.
    """
    found = [folder, *sorted(folder.glob("imagenet2012/*"), reverse=True)]
    return next((place for place in found if (place / "dataset_info.json").is_file()), None)


def read_split(
    place: Path,
    builder: Any,
    which: str,
    *,
    size: int,
    say: Callable[[str], None],
) -> RecordSplit:
    """One split of a prepared data set.

    # Arguments
        place: the folder of its files.
        builder: of tensorflow-datasets.
        which: name of the split there.
        size: side of the square that the network sees.
        say: called while the index is made, which takes minutes for ImageNet.

    # Raises
        ValueError: where the split is missing or a file is damaged.
    """
    if which not in builder.info.splits:
        raise ValueError(
            f"imagenet: {place} has no split {which!r}. {AGAIN} with both archives in place."
        )
    info = builder.info.splits[which]
    files = tuple(str(path) for path in info.filepaths)
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise ValueError(f"imagenet: {missing[0]} is missing. {AGAIN}.")
    sizes = np.array([Path(file).stat().st_size for file in files])
    path = place / f"hbnn_larq-{which}.npz"
    index = _known(path, sizes)
    if index is None:
        say(f"reading {which} of {place} once ({sizes.sum() / 2**30:.1f} GiB), to find each image")
        index = _scanned(files)
        try:
            _keep(path, sizes, index)
        except OSError as error:
            say(f"cannot keep the index in {path} ({error.strerror}): it is made in each run")
    places, labels = index
    if len(labels) != info.num_examples:
        raise ValueError(
            f"imagenet: {place} holds {len(labels):,} images in {which}, but its description says "
            f"{info.num_examples:,}. {AGAIN}."
        )
    return RecordSplit(files, places, labels, (size, size, 3), size * 8 // 7)


AGAIN = "Prepare it again: tfds build imagenet2012 --overwrite"


def _scanned(files: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Places and labels of all records, files side by side."""

    def facts(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        label = tf.io.parse_single_example(record, {"label": tf.io.FixedLenFeature([], tf.int64)})
        return tf.cast(tf.strings.length(record), tf.int64), label["label"]

    def scan(number: tf.Tensor, file: tf.Tensor) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(file).map(facts)
        return records.map(lambda length, label: tf.stack([number, length, label])).batch(1024)

    each = tf.data.Dataset.from_tensor_slices((np.arange(len(files)), list(files)))
    readers = os.cpu_count() or 1
    each = each.interleave(scan, cycle_length=readers, num_parallel_calls=readers)
    try:
        found = np.concatenate(list(untuned(each).as_numpy_iterator()))
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        damaged = next(filter(_is_damaged, files), "a file")
        raise ValueError(
            f"imagenet: {damaged} is damaged ({error.message.splitlines()[0]}). {AGAIN}."
        ) from None
    # Files take turns; within one the order is kept.
    number, length, label = found[np.argsort(found[:, 0], kind="stable")].T
    ends = np.cumsum(length + _AROUND)
    starts = ends - length - _AROUND
    first = np.searchsorted(number, number)  # the first record of the same file
    return np.stack([number, starts - starts[first] + _BEFORE, length], axis=1), label


def _is_damaged(file: str) -> bool:
    try:
        for _ in untuned(tf.data.TFRecordDataset(file)):
            pass
    except tf.errors.DataLossError:
        return True
    return False


def _known(path: Path, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The index of an earlier run, if it belongs to files of these sizes."""
    try:
        with np.load(path) as kept:
            if np.array_equal(kept["sizes"], sizes):
                return kept["places"], kept["labels"]
    except Exception:  # a damaged archive can fail in any way, and the index is made anew
        pass
    return None


def _keep(path: Path, sizes: np.ndarray, index: tuple[np.ndarray, np.ndarray]) -> None:
    places, labels = index
    with replaced(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, sizes=sizes, places=places, labels=labels)
