r"""IR-Net: standardised weights with a power-of-two scale, and a sign that sharpens in training.

# References
    - [Forward and Backward Information Retention for Accurate Binary Neural
        Networks](https://arxiv.org/abs/1909.10788)
"""

from __future__ import annotations

import math

import tensorflow as tf
from larq import utils

from hbnn_larq.arguments import require, require_between
from hbnn_larq.rivals import gradients
from hbnn_larq.rivals.progress import ScheduledInputQuantizer, ScheduledKernelQuantizer
from hbnn_larq.rivals.standardization import standardize

__all__ = ["EDESign", "IRNet", "ede", "ede_parameters", "power_of_two_scale"]


def ede(x: tf.Tensor, t, k) -> tf.Tensor:
    r"""Derivative of the error decay estimator, \(D(x) = k t (1 - \tanh^2(t x))\)."""
    return k * t * (1.0 - tf.tanh(t * x) ** 2)


def ede_parameters(progress, t_min: float, t_max: float):
    r"""Sharpness and height of the estimator.

    \[ t = t_{min} (t_{max} / t_{min})^{progress}, \qquad k = \max(1/t, 1) \]

    # Arguments
        progress: Share of the epochs that lie behind, scalar tensor or number.
        t_min, t_max: Sharpness at the start and at the end.

    # Returns
        `(t, k)`.
    """
    t = t_min * tf.pow(tf.cast(t_max / t_min, tf.float32), tf.cast(progress, tf.float32))
    return t, tf.maximum(1.0 / t, 1.0)


def power_of_two_scale(standard: tf.Tensor, axis: tuple[int, ...]) -> tf.Tensor:
    r"""\(2^{round(\log_2 mean|\hat w|)}\) of each filter, without gradient; 1 for a zero filter."""
    size = tf.reduce_mean(tf.abs(standard), axis, keepdims=True)
    size = tf.where(size > 0, size, tf.ones_like(size))
    exponent = tf.round(tf.math.log(size) / math.log(2.0))
    return tf.stop_gradient(tf.pow(tf.constant(2.0, standard.dtype), exponent))


def check_sharpness(call: str, t_min, t_max) -> None:
    require_between(call, "t_min", t_min, 0, math.inf)
    require_between(call, "t_max", t_max, 0, math.inf)
    require(t_min <= t_max, call, "t_min", t_min, f"at most t_max, {t_max:g}")


@utils.register_alias("irnet")
@utils.register_keras_custom_object
class IRNet(ScheduledKernelQuantizer):
    r"""IR-Net's kernel: balanced and standardised weights, a power of two as scale (Libra-PB).

    \[ \hat w = (w - \bar w) / std(w), \qquad w_b = 2^{s} \operatorname{sign}(\hat w), \qquad
       s = round(\log_2 mean|\hat w|) \]

    per output filter. The sign's derivative is `ede` of \(\hat w\), whose sharpness grows with
    `progress`; the derivative of the standardisation is exact.

    !!! example
        ```python
        lq.layers.QuantConv2D(
            64, 3, input_quantizer="ede_sign", kernel_quantizer="irnet", pad_values=1.0
        )
        ```

    # Arguments
        t_min, t_max: sharpness at the start and at the end. The released scripts have 0.1 for
            VGG-small, 1e-3 for ResNet20, and 10.

    # Raises
        ValueError: unless 0 < t_min <= t_max.

    # References
        - [IR-Net](https://arxiv.org/abs/1909.10788)
    """

    def __init__(self, t_min: float = 0.1, t_max: float = 10.0, **kwargs):
        check_sharpness("IRNet", t_min, t_max)
        self.t_min, self.t_max = float(t_min), float(t_max)
        super().__init__(**kwargs)

    def quantize(self, latent, training):
        t, k = ede_parameters(self.progress, self.t_min, self.t_max)
        t, k = tf.cast(t, latent.dtype), tf.cast(k, latent.dtype)
        standard = standardize(latent, self._axis)
        signs = gradients.sign(standard, lambda x: ede(x, t, k))
        return power_of_two_scale(standard, self._axis) * signs

    def get_config(self):
        return {**super().get_config(), "t_min": self.t_min, "t_max": self.t_max}


@utils.register_alias("ede_sign")
@utils.register_keras_custom_object
class EDESign(ScheduledInputQuantizer):
    r"""IR-Net's activation: a sign with the derivative `ede`, sharper as training goes on.

    # Arguments
        t_min, t_max: sharpness at the start and at the end, as of `IRNet`.

    # Raises
        ValueError: unless 0 < t_min <= t_max.

    # References
        - [IR-Net](https://arxiv.org/abs/1909.10788)
    """

    def __init__(self, t_min: float = 0.1, t_max: float = 10.0, **kwargs):
        check_sharpness("EDESign", t_min, t_max)
        self.t_min, self.t_max = float(t_min), float(t_max)
        super().__init__(**kwargs)

    def call(self, inputs, training=None):
        t, k = ede_parameters(self.progress, self.t_min, self.t_max)
        t, k = tf.cast(t, inputs.dtype), tf.cast(k, inputs.dtype)
        return gradients.sign(inputs, lambda x: ede(x, t, k))

    def get_config(self):
        return {**super().get_config(), "t_min": self.t_min, "t_max": self.t_max}
