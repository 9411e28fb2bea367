"""The layers every network of the zoo is made of, written once.

A network is a list of calls on one `Blocks` object, so that what the literature leaves to the
reader of the code (padding, batch normalisation, what stands before a sign) is decided here:

* Binary convolutions pad with +1. A padded 0 would have to become a third value beside -1 and +1,
  and the converter would no longer pass bit-packed activations from one layer to the next.
* Batch normalisation has PyTorch's constants (momentum 0.9 in Keras' counting, epsilon 1e-5):
  every published recipe for these networks was tuned with them.
* Where a network's activations are real (its float twin, and the form with binary weights only),
  a hard tanh becomes a ReLU and a convolution pads with zeros, as in the float originals.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import larq as lq
import tensorflow as tf
from keras.src.layers.core import TFOpLambda

from hbnn_larq.layer_quantizers import find_quantizer

QuantizerLike = Any  # None, an alias, a config, a quantizer, or something that makes quantizers

BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5


def quantizer_maker(quantizer: QuantizerLike, argument: str) -> Callable[[], Any]:
    """Turns what a user may pass as a quantizer into a function that makes one for each layer.

    No two layers of a network share a quantizer: a hyperbolic one holds the base point of its
    layer, and even a stateless one holds its layer's flip-ratio metric.

    # Arguments
        quantizer: `None`, an alias such as `"hyperbolic"`, a configuration, a quantizer, a class
            or function that makes a quantizer when called without arguments, or an element-wise
            function of a tensor.
        argument: the argument's name, for messages.

    # Returns
        A function without arguments.

    # Raises
        ValueError: if nothing of the kind.
    """
    if isinstance(quantizer, tf.keras.layers.Layer):
        return lambda: _copy(quantizer)
    if quantizer is None or isinstance(quantizer, str | dict):
        find_quantizer(quantizer, argument)
        return lambda: quantizer
    if callable(quantizer):
        return quantizer if _needs_no_argument(quantizer) else lambda: quantizer
    raise ValueError(
        f"{argument}={quantizer!r} is a {type(quantizer).__name__}, not a quantizer. Pass None, "
        'an alias such as "hyperbolic", a quantizer object, or a function that makes one.'
    )


def _copy(quantizer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    config = quantizer.get_config()
    config.pop("name", None)  # Keras finds a fresh one
    copy = type(quantizer).from_config(config)
    if metrics := getattr(quantizer, "_custom_metrics", None):
        copy._custom_metrics = list(metrics)
    return copy


def _needs_no_argument(function: Callable) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def he_normal_fan_out() -> tf.keras.initializers.Initializer:
    """Normal with variance 2 / (height * width * filters) of the kernel."""
    return tf.keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def he_normal_fan_in() -> tf.keras.initializers.Initializer:
    """Normal with variance 2 / (height * width * input channels) of the kernel."""
    return tf.keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def uniform_fan_in() -> tf.keras.initializers.Initializer:
    """Uniform on +-1 / sqrt(height * width * input channels), PyTorch's default."""
    return tf.keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def glorot_normal() -> tf.keras.initializers.Initializer:
    """Normal with variance 2 / (fan in + fan out), truncated, as larq-zoo's BiRealNet."""
    return tf.keras.initializers.GlorotNormal()


@dataclass(frozen=True)
class Blocks:
    """Layers that share their quantizers and their initial values.

    # Attributes
        kernel_quantizer: makes the kernel quantizer of one layer (see `quantizer_maker`).
        input_quantizer: makes the input quantizer of one layer.
        binary_activations: whether the input quantizer is one at all.
        kernel_initializer: makes the initializer of one convolution. Keras initializers draw the
            same values every time they are called, so no two layers may share one.
        gamma: initial scale of the batch normalisations.
    """

    kernel_quantizer: Callable[[], Any]
    input_quantizer: Callable[[], Any]
    binary_activations: bool
    kernel_initializer: Callable[[], Any]
    gamma: float = 1.0

    def real_conv(
        self, x: tf.Tensor, filters: int, kernel_size: int = 3, strides: int = 1, *, name: str
    ) -> tf.Tensor:
        """A convolution without bias, float weights and float input."""
        return tf.keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=self.kernel_initializer(),
            name=name,
        )(x)

    def binary_conv(
        self, x: tf.Tensor, filters: int, kernel_size: int = 3, strides: int = 1, *, name: str
    ) -> tf.Tensor:
        """A convolution without bias that quantizes its kernel and its input."""
        return lq.layers.QuantConv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            pad_values=1.0 if self.binary_activations else 0.0,
            use_bias=False,
            input_quantizer=self.input_quantizer(),
            kernel_quantizer=self.kernel_quantizer(),
            kernel_initializer=self.kernel_initializer(),
            name=name,
        )(x)

    def batch_norm(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        """Batch normalisation with the constants of the PyTorch originals."""
        return tf.keras.layers.BatchNormalization(
            momentum=BN_MOMENTUM,
            epsilon=BN_EPSILON,
            gamma_initializer=tf.keras.initializers.Constant(self.gamma),
            name=name,
        )(x)

    def activation(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        """Clips to [-1, 1] before a sign, or rectifies where activations stay real."""
        if not self.binary_activations:
            return tf.keras.layers.ReLU(name=name)(x)
        # Larq's Activation("hard_tanh") is the same function, but Keras 2.15 writes it into a
        # whole-model .h5 in a form that it cannot read back. This is the layer that Keras itself
        # makes of tf.clip_by_value(x, -1.0, 1.0), with a name of its own.
        return TFOpLambda(tf.clip_by_value, name=name)(x, -1.0, 1.0)

    def zero_channels(self, x: tf.Tensor, filters: int, *, name: str) -> tf.Tensor:
        """Pads with channels of zeros, half of them in front, up to `filters` channels."""
        extra = filters - x.shape[-1]
        # Told that channels come first, Keras' layer takes the last two axes for rows and columns:
        # width and channels, here. A tf.pad would become a layer without a name of its own.
        return tf.keras.layers.ZeroPadding2D(
            ((0, 0), (extra // 2, extra - extra // 2)), data_format="channels_first", name=name
        )(x)

    def max_pool(self, x: tf.Tensor, size: int = 2, strides: int = 2, *, name: str) -> tf.Tensor:
        """Max pooling, "same" padding."""
        return tf.keras.layers.MaxPool2D(size, strides=strides, padding="same", name=name)(x)


def classifier(
    x: tf.Tensor, num_classes: int, *, kernel_initializer: Any, bias_initializer: Any = "zeros"
) -> tf.Tensor:
    """The real last layer: logits of shape (batch, num_classes), in float32 under any policy."""
    return tf.keras.layers.Dense(
        num_classes,
        kernel_initializer=kernel_initializer,
        bias_initializer=bias_initializer,
        dtype="float32",
        name="fc",
    )(x)
