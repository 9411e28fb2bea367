"""The input quantizer that weights were trained with: a part of the network that they are.

What a binary layer sees is as much a matter of its input quantizer as of the layers before it, so
published weights record theirs. Quantizers that differ in their gradient only, such as "ste_sign"
and "ede_sign" of whatever sharpness, make one network: weights of one go on training with another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq.layer_quantizers import find_quantizer

__all__ = ["UNCHOSEN", "agree", "describe", "described", "is_unchosen"]

_OF_THE_LAYER = ("name", "trainable", "dtype")  # of a quantizer's config, in one network


class _Unchosen(str):
    """An alias that is a default: weights that record another quantizer come before it."""


# `None` cannot say that nobody chose: it stands for real activations.
UNCHOSEN = _Unchosen("approx_sign")


def is_unchosen(quantizer: Any) -> bool:
    """Whether an argument `input_quantizer` was left as it is."""
    return isinstance(quantizer, _Unchosen)


def describe(quantizer: Any) -> dict[str, Any] | None:
    """What makes the quantizer of a layer again, in the form that `input_quantizer` takes.

    # Raises
        TypeError: it is a plain function, which has no such form.
    """
    if quantizer is None:
        return None
    if not isinstance(quantizer, tf.keras.layers.Layer):
        raise TypeError(f"{quantizer!r} is a function, and only a quantizer object has a config")
    config = {k: v for k, v in quantizer.get_config().items() if k not in _OF_THE_LAYER}
    return {"class_name": tf.keras.utils.get_registered_name(type(quantizer)), "config": config}


def described(description: Any) -> Any:
    """A description as it was read from a registry or file, in the form that Larq takes.

    Anybody may have written it, and Keras imports whatever is named as a "module".
    """
    if not isinstance(description, dict):
        return description
    return {key: description[key] for key in ("class_name", "config") if key in description}


def agree(one: Any, other: Any) -> bool:
    """Whether the quantizers of two layers let the weights behind them see the same."""
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(_outputs(one), _outputs(other)))


def _outputs(quantizer: Any) -> np.ndarray:
    """Of some images, at inference; off centre, for those that take a mean away."""
    images = np.random.default_rng(0).normal(0.25, size=(4, 8, 8, 16)).astype("float32")
    if isinstance(quantizer, tf.keras.layers.Layer):  # a call would leave its trace in metrics
        quantizer = find_quantizer(describe(quantizer), "input_quantizer")
    return tf.cast(quantizer(images), tf.float32).numpy()
