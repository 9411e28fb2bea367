"""What a .tflite says about itself: preprocessing, labels, how it was made.

The record is a ZIP archive behind the flatbuffer, TensorFlow Lite's own convention for associated
files: interpreters ignore it, `unzip -p net.tflite hbnn.json` shows it, and so can a device.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["Metadata", "Preprocessing"]

RECORD = "hbnn.json"
LABELS = "labels.txt"
_DATE = (1980, 1, 1, 0, 0, 0)  # one content, one file: no clock in it


@dataclass(frozen=True)
class Preprocessing:
    """From 8-bit pixels to the network's input: `(pixel * scale - mean) / std`, per channel.

    # Arguments
        scale: factor on the pixel values 0 to 255.
        mean: subtracted after scaling: one number, or one per channel.
        std: divisor, alike.

    # Raises
        ValueError: a number that is not finite, or a `scale` or `std` of 0.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = np.atleast_1d(np.asarray(getattr(self, name), float)).tolist()
            object.__setattr__(self, name, tuple(value))
        numbers = (self.scale, *self.mean, *self.std)
        if not all(np.isfinite(numbers)) or self.scale == 0 or 0 in self.std:
            raise ValueError(
                f"{self}: all numbers must be finite, scale and std not 0. A network fed with "
                "pixels / 255 has Preprocessing(scale=1 / 255)."
            )

    def check_channels(self, channels: int, call: str) -> None:
        """ValueError unless there is one number for all channels, or one for each."""
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            if count not in (1, channels):
                raise ValueError(
                    f"{call}: preprocessing has {count} numbers as its {name}, and the model takes "
                    f"images of {channels} channels. Give one number for all, or one for each."
                )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 images from pixels of shape (..., height, width, channels)."""
        scaled = np.asarray(pixels, np.float32) * np.float32(self.scale)
        mean, std = (np.asarray(value, np.float32) for value in (self.mean, self.std))
        return (scaled - mean) / std


@dataclass(frozen=True)
class Metadata:
    """The record of one file.

    # Attributes
        preprocessing: what to do with pixels, or None where the maker did not say.
        labels: class names in output order; empty where not given.
        rewrites: what `convert` changed or left, as dicts with `name`, `layer`, `change` and
            `skipped`.
        made_by: name and version of the maker.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    rewrites: tuple[dict[str, Any], ...] = ()
    made_by: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def attach(tflite: bytes, metadata: Metadata) -> bytes:
    """The file with this record behind it, in place of any it had."""
    record = asdict(metadata)
    del record["labels"]
    stream = io.BytesIO()
    stream.write(strip(tflite))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(zipfile.ZipInfo(RECORD, _DATE), json.dumps(record, indent=2))
        if metadata.labels:
            archive.writestr(zipfile.ZipInfo(LABELS, _DATE), "\n".join(metadata.labels) + "\n")
    return stream.getvalue()


def read(tflite: bytes) -> Metadata:
    """The file's record; an empty one where it has none."""
    archive = _archive(tflite)
    if archive is None:
        return Metadata()
    names = set(archive.namelist())
    record = json.loads(archive.read(RECORD)) if RECORD in names else {}
    labels: list[str] = []
    if LABELS in names:  # str.splitlines would also part a label at U+2028 and its like
        lines = io.TextIOWrapper(archive.open(LABELS), encoding="utf-8")
        labels = [line.removesuffix("\n") for line in lines]
    preprocessing = record.get("preprocessing")
    return Metadata(
        preprocessing=Preprocessing(**preprocessing) if preprocessing else None,
        labels=tuple(labels),
        rewrites=tuple(record.get("rewrites", ())),
        made_by=record.get("made_by", ""),
        extra=record.get("extra", {}),
    )


def strip(tflite: bytes) -> bytes:
    """The flatbuffer alone."""
    archive = _archive(tflite)
    starts = [] if archive is None else [entry.header_offset for entry in archive.infolist()]
    return tflite[: min(starts)] if starts else tflite


def _archive(tflite: bytes) -> zipfile.ZipFile | None:
    """The archive behind the flatbuffer; None where there is none."""
    if zipfile.is_zipfile(io.BytesIO(tflite)):
        return zipfile.ZipFile(io.BytesIO(tflite))
    # The list of an archive's files stands at its end; our first file is there without it.
    if re.search(rb"PK\x03\x04.{26}" + RECORD.encode(), tflite, re.DOTALL):
        raise ValueError(
            "this .tflite file is damaged: the record behind the network, with its preprocessing "
            "and labels, was cut off. Copy the file again, or convert the model again."
        )
    return None


def check_labels(labels: Sequence[str], classes: int, call: str) -> tuple[str, ...]:
    """The labels as a tuple, once they are as many as there are classes."""
    names = tuple(str(label) for label in labels)
    if len(names) != classes:
        raise ValueError(
            f"{call}: got {len(names)} labels for {classes} outputs. Give one label per class, in "
            "the order of the outputs."
        )
    for name in names:
        if "\n" in name or "\r" in name:
            raise ValueError(
                f"{call}: the label {name!r} holds a line break, and the file keeps one label per "
                "line. Give labels with a space there (hbnn convert --labels FILE)."
            )
    return names
