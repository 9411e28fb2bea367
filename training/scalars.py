"""A run's figures as TensorBoard scalars, one point per epoch.

tensorboard --logdir runs
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

__all__ = ["write_scalars"]

_PLAIN = {
    "loss": "loss/train",
    "validation_loss": "loss/validation",
    "train_top1": "accuracy/train",
    "validation_top1": "accuracy/validation",
    "learning_rate": "learning_rate",
    "flips_per_step": "flips_per_step/all_layers",
    "flips_predicted": "flips_per_step/expected",
}


def write_scalars(folder: Path, row: Mapping[str, Any]) -> None:
    """Appends one epoch to an event file in `folder`.

    Loss, accuracy and learning rate; flips per step beside the law's prediction, information gain
    and the base points' share of the way to the edge, per layer.

    # Arguments
        folder: of the event files.
        row: of a run's history; None values are left out.

    # Raises
        OSError: the disk is full or cannot be written.
    """
    try:
        _append(folder, row)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", error.message).strip().partition("\n")[0]
        raise OSError(
            f"cannot write scalars to {folder} ({reason}). Free some space there, or whatever is "
            "in the way, and run the same command again"
        ) from None


def _append(folder: Path, row: Mapping[str, Any]) -> None:
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=f".{row['epoch']}")
    with writer.as_default(step=row["epoch"]):
        for key, name in _PLAIN.items():
            if row.get(key) is not None:
                tf.summary.scalar(name, row[key])
        for key in ("flips_per_step", "flips_vs_init", "information_gain", "edge_share"):
            for layer, value in row.get("layers", {}).get(key, {}).items():
                tf.summary.scalar(f"{key}/{layer}", value)
    writer.close()
