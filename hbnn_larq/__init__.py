"""Hyperbolic binary neural networks on Larq.

Importing this package is enough for `load_model` to find everything in it.
"""

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version

# The `hbnn` command comes by here before its own code runs. TensorFlow's start-up log would bury
# what it prints; errors reach it as exceptions. Other programs keep the log that they asked for.
if os.path.basename(sys.argv[0] if sys.argv else "").split(".")[0] == "hbnn":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

# Keras 3 names its version on tf.keras; Keras 2 does not.
_keras = getattr(tf.keras, "__version__", "2")
if not _keras.startswith("2"):
    raise ImportError(
        f"hbnn_larq needs Keras 2 as tf.keras and found Keras {_keras} (TensorFlow "
        f"{tf.__version__}). Install the version set that works together: "
        'pip install "tensorflow>=2.15,<2.16"'
    )

from hbnn_larq import larq_hooks  # noqa: E402

larq_hooks.install()

from hbnn_larq import epc, optimizers, poincare, quantizers, rivals  # noqa: E402
from hbnn_larq.folding import binary_weights, fold, unfold  # noqa: E402

try:
    __version__ = version("hbnn_larq")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

# Loaded at first use: they cost time, or need packages of an extra.
_ON_DEMAND = (
    "callbacks",
    "doctor",
    "edge",
    "flip_rate",
    "loss_surface",
    "metrics",
    "plots",
    "summary",
    "training",
    "zoo",
)

__all__ = [
    "binary_weights",
    "epc",
    "fold",
    "optimizers",
    "poincare",
    "quantizers",
    "rivals",
    "unfold",
]


def __getattr__(name: str):
    if name in _ON_DEMAND:
        return importlib.import_module(f"hbnn_larq.{name}")
    raise AttributeError(f"module 'hbnn_larq' has no attribute {name!r}")
