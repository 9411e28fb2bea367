"""CIFAR-10 and CIFAR-100 from their official binary archives, or through tensorflow-datasets.

Both read into memory (180 MB). Layout of the archives: one record per image, label bytes (one for
CIFAR-10; coarse then fine for CIFAR-100) and 3,072 bytes of pixels, channel by channel.

# References
- [The CIFAR data sets](https://www.cs.toronto.edu/~kriz/cifar.html)
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hbnn_larq.training.data import Augmentation, Dataset, Split

__all__ = ["ARCHIVES", "load"]

PIXELS = 32 * 32 * 3


@dataclass(frozen=True)
class Archive:
    """One official archive: file names, record counts and checksum."""

    file: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    records: int  # in each training file
    num_classes: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]


TEST_RECORDS = 10_000
ARCHIVES = {
    "cifar10": Archive(
        file="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
        records=10_000,
        num_classes=10,
        mean=(0.4914 * 255, 0.4822 * 255, 0.4465 * 255),
        scale=(0.2470 * 255, 0.2435 * 255, 0.2616 * 255),
    ),
    "cifar100": Archive(
        file="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,
        records=50_000,
        num_classes=100,
        mean=(0.5071 * 255, 0.4865 * 255, 0.4409 * 255),
        scale=(0.2673 * 255, 0.2564 * 255, 0.2762 * 255),
    ),
}


def load(name: str, folder: str | Path | None = None) -> Dataset:
    """CIFAR-10 or CIFAR-100 with the usual augmentation: pad by 4, crop, mirror.

    # Arguments
        name: "cifar10" or "cifar100".
        folder: where the archive lies, packed (its checksum is verified) or unpacked. None takes
            tensorflow-datasets, which downloads the data unless it is there already.

    # Returns
        A `Dataset` with 50,000 training and 10,000 test images and no validation split.

    # Raises
        ValueError: for a missing, damaged or wrong archive; where nothing is at hand and the
            network cannot be reached, at once and with both ways to provide the files.
    """
    archive = ARCHIVES[name]
    if folder is None:
        train, test, class_names = _through_tfds(name, archive)
    else:
        train, test, class_names = _from_folder(name, archive, Path(folder))
    empty = Split(train.images[:0], train.labels[:0])
    return Dataset(
        name=name,
        train=train,
        validation=empty,
        test=test,
        num_classes=archive.num_classes,
        mean=archive.mean,
        scale=archive.scale,
        augmentation=Augmentation(shift=4, flip=True),
        class_names=class_names,
    )


def _from_folder(name: str, archive: Archive, folder: Path) -> tuple[Split, Split, tuple[str, ...]]:
    for place in (folder, folder / archive.folder):
        if (place / archive.test).is_file():

            def unpacked(file: str, place: Path = place) -> bytes:
                return (place / file).read_bytes()

            return _read(name, archive, unpacked, str(place))
    if not folder.is_dir():
        raise ValueError(f"{name}: there is no folder {folder}. {_ways(archive)}")
    packed = folder / archive.file
    if not packed.is_file():
        python = folder / archive.file.replace("binary", "python")
        hint = f" {python.name} is another format; the binary version is needed." * python.exists()
        raise ValueError(
            f"{name}: {folder} holds neither {archive.file} nor {archive.folder}/{archive.test}."
            f"{hint} {_ways(archive)}"
        )
    digest = hashlib.md5(packed.read_bytes()).hexdigest()
    if digest != archive.md5:
        raise ValueError(
            f"{name}: {packed} has MD5 {digest}, the official archive {archive.md5}; it is "
            f"damaged or another file. {_ways(archive)}"
        )
    with tarfile.open(packed) as tar:

        def member(file: str) -> bytes:
            stream = tar.extractfile(f"{archive.folder}/{file}")
            assert stream is not None
            return stream.read()

        return _read(name, archive, member, str(packed))


def _read(
    name: str, archive: Archive, content: Callable[[str], bytes], place: str
) -> tuple[Split, Split, tuple[str, ...]]:
    def read(file: str) -> bytes:
        try:
            return content(file)
        except OSError as error:
            raise ValueError(f"{name}: cannot read {file} in {place} ({error.strerror}).") from None

    def records(file: str, count: int) -> Split:
        raw = np.frombuffer(read(file), np.uint8)
        length = archive.label_bytes + PIXELS
        if raw.size != count * length:
            raise ValueError(
                f"{name}: {file} in {place} has {raw.size:,} bytes, not {count * length:,}; it is "
                f"damaged or another file. {_ways(archive)}"
            )
        raw = raw.reshape(count, length)
        labels = raw[:, archive.label_bytes - 1].astype(np.int64)
        if labels.max() >= archive.num_classes:
            raise ValueError(
                f"{name}: {file} in {place} has the label {labels.max()}, of {archive.num_classes} "
                f"classes; it is damaged or another file. {_ways(archive)}"
            )
        pixels = raw[:, archive.label_bytes :].reshape(count, 3, 32, 32)
        return Split(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels)

    parts = [records(file, archive.records) for file in archive.train]
    train = Split(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    names = tuple(read(archive.names).decode(errors="replace").split())
    if len(names) != archive.num_classes:
        raise ValueError(
            f"{name}: {archive.names} in {place} names {len(names)} classes, not "
            f"{archive.num_classes}."
        )
    return train, records(archive.test, TEST_RECORDS), names


def _through_tfds(name: str, archive: Archive) -> tuple[Split, Split, tuple[str, ...]]:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ValueError(
            f"{name}: no folder was given and tensorflow-datasets is not installed. "
            f"{_ways(archive)}"
        ) from None
    prepared = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser() / name
    # tensorflow-datasets itself tries for minutes before it says that there is no network.
    if not any(prepared.glob("*/dataset_info.json")) and not _reachable(_url(archive)):
        raise ValueError(
            f"{name}: not on this machine, and {_url(archive)} cannot be reached. {_ways(archive)}"
        )
    builder = tfds.builder(name, data_dir=str(prepared.parent))
    builder.download_and_prepare()

    def split(which: str) -> Split:
        content: Any = tfds.as_numpy(builder.as_dataset(split=which, batch_size=-1))
        return Split(content["image"], content["label"].astype(np.int64))

    return split("train"), split("test"), tuple(builder.info.features["label"].names)


def _reachable(url: str, timeout: float = 5.0) -> bool:
    """Whether a server answers for an address; honours the proxies of the environment."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout):
            return True
    except OSError:
        return False


def _url(archive: Archive) -> str:
    return f"https://www.cs.toronto.edu/~kriz/{archive.file}"


def _ways(archive: Archive) -> str:
    return (
        f"Two ways: fetch {_url(archive)} into a folder and pass --data FOLDER; or, on a machine "
        'with network, pip install "hbnn_larq[data]" and pass no --data.'
    )
