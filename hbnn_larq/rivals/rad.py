r"""RAD: a loss on the distribution of what is about to be binarised.

# References
    - [Regularizing Activation Distribution for Training Binarized Deep
        Networks](https://arxiv.org/abs/1904.02823)
"""

from __future__ import annotations

import math
import types
from typing import Any

import tensorflow as tf
from larq import utils

from hbnn_larq.arguments import is_number, require, require_between
from hbnn_larq.layer_quantizers import trains

__all__ = ["DistributionLoss", "add_distribution_loss", "distribution_loss"]


def distribution_loss(x: tf.Tensor) -> tf.Tensor:
    r"""Penalty of activations whose signs would degenerate, saturate or get no gradient.

    \[ L = mean_c \max(0, 2 - |\mu| - \sigma)^2 + mean_c \max(0, \sigma - 4)^2
         + mean_c \max(0, \mu^2 - \sigma^2) \]

    # Arguments
        x: Activations, channels last; mean \(\mu\) and deviation \(\sigma\) of each channel are
            over all other axes.

    # Returns
        Scalar, 0 where every channel is well spread.
    """
    mean, variance = tf.nn.moments(tf.cast(x, tf.float32), list(range(x.shape.rank - 1)))
    deviation = tf.sqrt(variance + 1e-10)
    few = tf.reduce_mean(tf.maximum(0.0, 2.0 - tf.abs(mean) - deviation) ** 2)
    wide = tf.reduce_mean(tf.maximum(0.0, deviation - 4.0) ** 2)
    one_sided = tf.reduce_mean(tf.maximum(0.0, mean**2 - deviation**2))
    return few + wide + one_sided


@utils.register_keras_custom_object
class DistributionLoss(tf.keras.layers.Layer):
    """Passes its input on, and in training adds RAD's loss on it to the model's losses.

    Stands between a batch normalisation and a sign. The published strength is 2, over the number
    of such places.

    # Arguments
        weight: factor of the loss, above 0.

    # Raises
        ValueError: unless `weight` is a finite number above 0.

    # References
        - [RAD](https://arxiv.org/abs/1904.02823)
    """

    def __init__(self, weight: float = 2.0, **kwargs):
        require_between("DistributionLoss", "weight", weight, 0, math.inf)
        super().__init__(**kwargs)
        self.weight = float(weight)

    def call(self, inputs, training=None):
        if trains(training):
            self.add_loss(_in_training(training) * self.weight * distribution_loss(inputs))
        return inputs

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}


def add_distribution_loss(model: tf.keras.Model, weight: float = 2.0) -> list[str]:
    """Puts RAD's loss on every batch normalisation of a model whose output a sign sees.

    As with `DistributionLoss`, the loss is there in training and not in `evaluate` or `val_loss`.
    It lives in this model object alone: it is neither saved nor copied, so what is folded or
    converted is the network without it. Call it again after loading. A second call takes the
    place of the first, and one with a weight of 0 ends it: published for AlexNet is a weight of 2
    for 60 of 65 epochs, and none after.

    !!! example
        ```python
        model = hbnn_larq.zoo.VGGSmall(kernel_quantizer="ste_sign")
        hbnn_larq.rivals.add_distribution_loss(model)
        ```

    # Arguments
        model: a built Functional or Sequential model; nested models are not entered.
        weight: factor of the mean over those layers; 0 takes the loss away.

    # Returns
        The names of the layers.

    # Raises
        ValueError: there is no such layer, or `weight` is no finite number, 0 or above.
    """
    holds = is_number(weight) and 0 <= weight < math.inf
    require(holds, "add_distribution_loss", "weight", weight, "a finite number, 0 or above")
    found = [
        layer
        for layer in model.layers
        if isinstance(layer, tf.keras.layers.BatchNormalization) and _a_sign_sees(layer)
    ]
    if not found:
        raise ValueError(
            f"add_distribution_loss(model): {model.name!r} has no batch normalization in front of "
            "a layer with an input_quantizer. RAD acts on activations that become signs."
        )
    for layer in found:
        layer.__dict__.pop("call", None)  # of an earlier time
        if weight:
            layer.call = _call_with_loss(layer, weight / len(found))
    if model.train_function is not None:  # fit would go on with the graph and the loss it has
        model.make_train_function(force=True)
    return [layer.name for layer in found]


def _in_training(training) -> Any:
    """1, or as a tensor what a tensor turns out to be."""
    return tf.cast(training, tf.float32) if tf.is_tensor(training) else 1.0


def _call_with_loss(layer: tf.keras.layers.Layer, weight: float):
    """The call of a layer that in training adds the loss on its output.

    A regularizer of the activity would not be told whether this is training.
    """
    plain = type(layer).call

    def call(self, inputs, training=None, *args, **kwargs):
        outputs = plain(self, inputs, training, *args, **kwargs)
        if trains(training):
            self.add_loss(_in_training(training) * weight * distribution_loss(outputs))
        return outputs

    return types.MethodType(call, layer)  # of a bare function a SavedModel would miscount arguments


def _a_sign_sees(layer: tf.keras.layers.Layer) -> bool:
    behind = [node.outbound_layer for node in layer.outbound_nodes]
    return any(
        getattr(next_layer, "input_quantizer", None) is not None
        or (not next_layer.weights and _a_sign_sees(next_layer))
        for next_layer in behind
    )
