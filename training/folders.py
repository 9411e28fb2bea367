"""Pictures in folders: a user's own, one sub-folder per class, or ImageNet's.

Own pictures are decoded once into memory at the size asked for. ImageNet stays on disk: its
images are decoded, cropped and resized in each epoch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq.training import tfrecords
from hbnn_larq.training.data import (
    IMAGENET_MEAN,
    IMAGENET_SCALE,
    UNREADABLE,
    AnySplit,
    Augmentation,
    Dataset,
    FileSplit,
    Split,
    decode_picture,
)

__all__ = ["imagenet", "pictures"]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
MEMORY_LIMIT = 4 * 2**30
IMAGENET_CLASSES = 1000
SPLITS = ("train", "validation", "test")


def pictures(
    folder: str | Path,
    *,
    size: int = 64,
    unreadable: str = "error",
    say: Callable[[str], None] = print,
) -> Dataset:
    """A folder of class sub-folders of pictures, in memory.

    Either `folder/train/CLASS/...` with `folder/validation` and `folder/test` beside it, or just
    `folder/CLASS/...`; then a fixed 60/15/25 split per class is made from the file names, so a
    picture stays in its split when others are added.

    # Arguments
        folder: holds the sub-folders.
        size: every picture is scaled to this shorter side and cropped to a square in its middle.
        unreadable: "error" to stop at a file that is no picture, "skip" to leave it out.
        say: called with one line about skipped files.

    # Returns
        A `Dataset` with uint8 RGB images; training images are shifted by up to an eighth of
        their side and mirrored.

    # Raises
        ValueError: for a folder without classes, classes without pictures (that can be read),
            splits with different classes, an unreadable picture, or more pictures than fit in
            memory at this size.
    """
    folder = Path(folder)
    if unreadable not in ("error", "skip"):
        raise ValueError(f'pictures(unreadable={unreadable!r}): "error" or "skip".')
    if size < 1:
        raise ValueError(f"pictures(size={size}): a side in pixels, 1 or above.")
    if _is_split(folder):
        absent = [name for name in SPLITS if not (folder / name).is_dir()]
        if absent:
            raise ValueError(
                f"{folder} holds a folder train with classes in it, so it needs "
                f"{' and '.join(absent)} too. To have pictures divided by us, let {folder} hold "
                "the class folders themselves."
            )
        listed = {name: _listed(folder / name) for name in SPLITS}
    else:
        listed = _divided(_listed(folder))
    names = tuple(sorted(listed["train"]))
    for which, classes in listed.items():
        if tuple(sorted(classes)) != names:
            odd = ", ".join(sorted(set(names) ^ set(classes))[:3])
            raise ValueError(
                f"{folder}: train and {which} have different class folders ({odd}); each split "
                "needs the same ones."
            )
    count = sum(len(paths) for classes in listed.values() for paths in classes.values())
    if count * size * size * 3 > MEMORY_LIMIT:
        raise ValueError(
            f"{folder}: {count:,} pictures of {size}x{size} take more than "
            f"{MEMORY_LIMIT / 2**30:.0f} GiB of memory. Use a smaller size."
        )
    skipped: list[Path] = []

    def split(classes: dict[str, list[Path]]) -> Split:
        images, labels = [], []
        for label, name in enumerate(names):
            for path in classes[name]:
                try:
                    images.append(picture(path, (size, size)))
                except OSError as error:
                    if unreadable == "error":
                        raise ValueError(
                            f"{path} is no picture that can be read ({error}). Remove it, or "
                            "leave such files out with --unreadable skip."
                        ) from None
                    skipped.append(path)
                    continue
                labels.append(label)
        shape = (0, size, size, 3)
        return Split(
            np.stack(images) if images else np.zeros(shape, np.uint8), np.array(labels, np.int64)
        )

    splits = {name: split(classes) for name, classes in listed.items()}
    if skipped:
        say(f"unreadable files left out: {len(skipped)}, the first {skipped[0]}")
        for which in ("train", "test"):
            _require_every_class(splits[which], names, f"{folder}, {which}")
    # Ten thousand pictures tell mean and deviation well enough.
    pixels = splits["train"].images[:: max(1, len(splits["train"]) // 10_000)].reshape(-1, 3)
    return Dataset(
        name=str(folder),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        num_classes=len(names),
        mean=tuple(pixels.mean(axis=0).tolist()),
        scale=tuple(np.maximum(pixels.std(axis=0), 1.0).tolist()),
        augmentation=Augmentation(shift=max(size // 8, 1), flip=True),
        class_names=names,
    )


def imagenet(
    folder: str | Path | None = None,
    *,
    size: int = 224,
    num_classes: int | None = None,
    unreadable: str = "error",
    say: Callable[[str], None] = print,
) -> Dataset:
    """ImageNet (ILSVRC 2012), from folders of pictures or as tensorflow-datasets prepared it.

    Training images: a random crop of 8 to 100 % of the area, resized, mirrored at random.
    Evaluation: shorter side scaled to 8/7 of the size, centre crop.

    # Arguments
        folder: holds `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, or `imagenet2012` of
            tensorflow-datasets. None for the folder of tensorflow-datasets (the environment
            variable TFDS_DATA_DIR, else ~/tensorflow_datasets).
        size: side of the square that the network sees.
        num_classes: how many classes there must be; 1,000 by default.
        unreadable: "error" to stop when a file that is no whole picture comes up, "skip" to look
            at every file of the folders beforehand, which takes minutes, and leave such out.
        say: called with what is worth knowing while loading.

    # Returns
        A `Dataset` whose images stay on disk. `val` is its test split; no validation split.

    # Raises
        ValueError: where files are missing, with both ways to provide them, or the classes do not
            match.
    """
    asked = folder is not None
    folder = Path(folder or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    expected = IMAGENET_CLASSES if num_classes is None else num_classes
    if unreadable not in ("error", "skip"):
        raise ValueError(f'imagenet(unreadable={unreadable!r}): "error" or "skip".')
    train: AnySplit
    test: AnySplit
    if all((folder / name).is_dir() for name in ("train", "val")):
        names, train, test = _from_folders(folder, size, expected)
        if unreadable == "skip":
            train, test = (_only_whole(split, say) for split in (train, test))
            _require_every_class(train, names, f"{folder}, train")
            _require_every_class(test, names, f"{folder}, val")
    elif place := tfrecords.prepared(folder):
        names, train, test = _from_records(place, size, expected, say)
    else:
        looked = "" if asked else "no folder was given, and "
        raise ValueError(
            f"imagenet: {looked}{folder} holds neither train and val nor imagenet2012. It can only "
            "be downloaded with an account at image-net.org. Two ways: unpack the archives, so "
            "that --data FOLDER holds train/CLASS/*.JPEG and val/CLASS/*.JPEG; or put the two .tar "
            "files into ~/tensorflow_datasets/downloads/manual, run `tfds build imagenet2012` and "
            "pass no --data."
        )
    return Dataset(
        name="imagenet",
        train=train,
        validation=train.chosen(np.arange(0)),
        test=test,
        num_classes=expected,
        mean=IMAGENET_MEAN,
        scale=IMAGENET_SCALE,
        augmentation=Augmentation(flip=True),
        class_names=names,
    )


def _from_folders(
    folder: Path, size: int, expected: int
) -> tuple[tuple[str, ...], FileSplit, FileSplit]:
    train, test = _listed(folder / "train"), _listed(folder / "val")
    names = tuple(sorted(train))
    if len(names) != expected or tuple(sorted(test)) != names:
        raise ValueError(
            f"imagenet: {folder} has {len(names)} classes in train and {len(test)} in val; both "
            f"need the same {expected:,}."
        )

    def split(classes: dict[str, list[Path]]) -> FileSplit:
        return FileSplit(
            paths=tuple(str(path) for name in names for path in classes[name]),
            labels=np.repeat(np.arange(len(names)), [len(classes[name]) for name in names]),
            image_shape=(size, size, 3),
            resize=size * 8 // 7,
        )

    return names, split(train), split(test)


def _only_whole(split: FileSplit, say: Callable[[str], None]) -> FileSplit:
    """The split without files that are no pictures, or pictures that break off."""
    say(f"looking at {len(split):,} files")
    whole = np.array([_is_whole(path) for path in split.paths])
    if not whole.all():
        first = split.paths[int(np.argmin(whole))]
        say(f"unreadable files left out: {np.sum(~whole)}, the first {first}")
    return split.chosen(np.flatnonzero(whole))


def _require_every_class(split: AnySplit, names: tuple[str, ...], where: str) -> None:
    """Raises where what was left out of a split were all pictures of a class."""
    empty = np.flatnonzero(np.bincount(split.labels, minlength=len(names)) == 0)
    if len(empty):
        raise ValueError(
            f"{where}: no picture of class {names[empty[0]]} is left, as none there can be read. "
            "Mend them, or remove the class."
        )


def _is_whole(path: str) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.verify()
            is_jpeg = picture.format == "JPEG"
        with open(path, "rb") as file:
            if not is_jpeg:  # few, of kinds that Pillow may open and TensorFlow may not
                decode_picture(tf.constant(file.read()))
                return True
            file.seek(max(0, os.path.getsize(path) - 4096))
            return b"\xff\xd9" in file.read()  # the mark at the end of a JPEG
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, *UNREADABLE):
        return False


def _from_records(
    place: Path, size: int, expected: int, say: Callable[[str], None]
) -> tuple[tuple[str, ...], tfrecords.RecordSplit, tfrecords.RecordSplit]:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ValueError(
            f"imagenet: {place} was prepared by tensorflow-datasets, which is not installed: "
            'pip install "hbnn_larq[data]"'
        ) from None
    builder = tfds.builder_from_directory(str(place))
    names = tuple(builder.info.features["label"].names)
    if len(names) != expected:
        raise ValueError(f"imagenet: {place} has {len(names)} classes, not {expected:,}.")
    splits = [
        tfrecords.read_split(place, builder, which, size=size, say=say)
        for which in ("train", "validation")
    ]
    return names, splits[0], splits[1]


def _is_split(folder: Path) -> bool:
    """Whether a folder holds splits; a folder train of nothing but pictures is a class."""
    train = folder / "train"
    return train.is_dir() and (
        any(entry.is_dir() and not entry.name.startswith(".") for entry in train.iterdir())
        or any((folder / name).is_dir() for name in SPLITS if name != "train")
    )


def _listed(folder: Path) -> dict[str, list[Path]]:
    """{class: its picture files}, sorted."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}.")
    classes = {
        entry.name: _pictures_in(entry)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if len(classes) < 2:
        raise ValueError(
            f"{folder} has {len(classes)} class folders; at least 2 are needed, each with the "
            "pictures of one class."
        )
    for name, paths in classes.items():
        if any(character in name for character in "\n\r") or not _is_text(name):
            raise ValueError(
                f"{folder}: the class folder {name!r} is no label that a converted file can hold "
                "(one line, in UTF-8). Rename it."
            )
        if not paths:
            raise ValueError(
                f"{folder / name} holds no picture. Known endings: {', '.join(ENDINGS)}."
            )
    return classes


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8, as Linux does not ask of it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pictures_in(folder: Path) -> list[Path]:
    # The entries know what they are: no further question to the disk for each of a million files.
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in ENDINGS
            and not entry.name.startswith(".")  # as a Mac puts `._1.jpg` beside `1.jpg`
            # A link to nowhere stands for a picture too: it is missed when it is read.
            and (entry.is_file() or not os.path.exists(entry))
        ]
    return [folder / name for name in sorted(names)]


def _divided(classes: dict[str, list[Path]]) -> dict[str, dict[str, list[Path]]]:
    """60 % train, 15 % validation, 25 % test of each class, by a hash of the file names."""
    divided: dict[str, dict[str, list[Path]]] = {"train": {}, "validation": {}, "test": {}}
    for name, paths in classes.items():
        parts: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
        for path in paths:
            called = f"{name}/{path.name}".encode(errors="surrogateescape")  # as it is on disk
            digest = hashlib.blake2b(called, digest_size=8).digest()
            place = int.from_bytes(digest, "big") / 2**64
            which = "train" if place < 0.6 else "validation" if place < 0.75 else "test"
            parts[which].append(path)
        if not parts["train"] or not parts["test"]:
            raise ValueError(
                f"class {name} has {len(paths)} pictures, too few to split into train, validation "
                "and test. Add some, or make the folders train, validation and test yourself."
            )
        for which, chosen in parts.items():
            divided[which][name] = chosen
    return divided


def picture(path: Path, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """A picture as (height, width, channels) uint8: upright, scaled to cover it, the middle of it.

    # Arguments
        path: of a file that Pillow reads.
        size: height and width.
        channels: 1 for grey, 3 for colours, 4 with transparency.

    # Raises
        OSError: where it cannot be read, has no known range of values, or is too large to decode.
    """
    from PIL import Image, ImageOps

    height, width = size
    try:
        with Image.open(path) as opened:
            mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
            upright = ImageOps.exif_transpose(_eight_bits(opened)).convert(mode)
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise OSError(str(error)) from None
    factor = max(width / upright.width, height / upright.height)
    scaled = max(width, round(upright.width * factor)), max(height, round(upright.height * factor))
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    middle = upright.resize(scaled, Image.Resampling.BILINEAR).crop(
        (left, top, left + width, top + height)
    )
    return np.asarray(middle, np.uint8).reshape(height, width, channels)


def _eight_bits(picture: Any) -> Any:
    """The picture, with 16 bits of grey scaled to 8: Pillow would cut all above 255 to white."""
    from PIL import Image

    if picture.mode == "F":
        raise OSError("its values are fractions, of which black and white are not known")
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture)
    if grey.min() < 0 or grey.max() > 65535:
        raise OSError(f"its values from {grey.min()} to {grey.max()} are not those of 16 bits")
    scaled = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    scaled.info = picture.info
    return scaled
