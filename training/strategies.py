"""Training on several devices, over `tf.distribute`.

    hbnn train NAME --workdir DIR --strategy mirrored        # all GPUs of this machine
    TF_CONFIG=... hbnn train NAME --workdir DIR --strategy multiworker   # one per machine

Each batch is divided among the devices, so the batch size, the schedule and the flip-rate law stay
what the recipe says. Batch normalisation uses the statistics of each device's share. With several
machines all of them read and one writes `DIR`, which must be shared between them.
"""

from __future__ import annotations

import json
import os

import tensorflow as tf

__all__ = ["STRATEGIES", "is_chief", "make_strategy"]

STRATEGIES = ("one", "mirrored", "multiworker")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """A strategy by name; to be made before anything else of TensorFlow is used.

    # Arguments
        name: "one" device, "mirrored" over all GPUs of this machine (over all logical CPUs where
            there is no GPU), or "multiworker" over the machines that TF_CONFIG lists.

    # Raises
        ValueError: for another name, or "multiworker" without TF_CONFIG.
    """
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        _require_cluster(os.environ.get("TF_CONFIG"))
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise ValueError(f"strategy {name!r}: one of {', '.join(STRATEGIES)}.")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files."""
    resolver = strategy.cluster_resolver
    return resolver is None or resolver.task_type in (None, "chief") or resolver.task_id == 0


def _require_cluster(config: str | None) -> None:
    try:
        values = json.loads(config or "")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not values.get("cluster"):
        found = f"; it is {config!r}" if config else ""
        raise ValueError(
            "strategy multiworker: the environment variable TF_CONFIG must list the workers, such "
            'as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", '
            f'"index": 0}}}}, with another index on each{found}.'
        )
