r"""ReCU: standardised weights whose tails are clamped, so that far-off weights can flip again.

# References
    - [ReCU: Reviving the Dead Weights in Binary Neural Networks](https://arxiv.org/abs/2103.12369)
"""

from __future__ import annotations

import math

import larq as lq
import tensorflow as tf
from larq import utils

from hbnn_larq.arguments import require, require_between
from hbnn_larq.layer_quantizers import LayerQuantizer, trains
from hbnn_larq.rivals import gradients
from hbnn_larq.rivals.progress import ScheduledKernelQuantizer
from hbnn_larq.rivals.standardization import standardize

__all__ = ["ReCU", "ReCUSign", "rectified_clamp", "tau_at"]

SPREAD = 2.0 * math.sqrt(2.0)  # deviation of the standardised weights: a Laplace scale of 2
EPSILON = 1e-5


def tau_at(progress, tau_min: float, tau_max: float):
    r"""The clamp's quantile, \(\tau = A e^{progress} + B\), from `tau_min` to `tau_max`."""
    a = (tau_max - tau_min) / (math.e - 1.0)
    return a * tf.exp(tf.cast(progress, tf.float32)) + (tau_min - a)


def rectified_clamp(w: tf.Tensor, tau, axis: tuple[int, ...]) -> tf.Tensor:
    r"""Standardised weights, clamped at the quantile `tau` of a Laplace distribution.

    \[ w_1 = 2\sqrt 2 \frac{w - \bar w}{\sqrt{var(w) + 10^{-5}}}, \qquad
       Q = -mean|w_1| \ln(2 - 2\tau), \qquad w_2 = clip(w_1, -Q, Q) \]

    # Arguments
        w: Kernel.
        tau: Quantile, above 0.5 and below 1; scalar tensor or number.
        axis: Axes that together form one filter; the mean in Q is over the whole kernel.

    # Returns
        Tensor of the shape of `w`; no gradient flows through Q.
    """
    standard = SPREAD * standardize(w, axis, epsilon=EPSILON)
    scale = tf.reduce_mean(tf.abs(standard))
    limit = tf.stop_gradient(-scale * tf.math.log(2.0 - 2.0 * tf.cast(tau, w.dtype)))
    return tf.clip_by_value(standard, -limit, limit)


@utils.register_alias("recu")
@utils.register_keras_custom_object
class ReCU(ScheduledKernelQuantizer):
    r"""ReCU's kernel: the sign of `rectified_clamp`, times a trained scale for each filter.

    \[ w_b = \alpha_o \operatorname{sign}(w_2) \]

    The sign passes its gradient unchanged; the clamp stops that of weights beyond the quantile,
    which moves from `tau_min` to `tau_max` with `progress`.

    # Arguments
        tau_min, tau_max: quantile at the start and at the end.

    # Raises
        ValueError: unless 0.5 < tau_min <= tau_max < 1.

    # References
        - [ReCU](https://arxiv.org/abs/2103.12369). There the scale starts uniform on [0, 1); here
            on [0.1, 1), and its size is kept above 1e-3: one scale of 0 would send a whole layer
            to float in the Larq Compute Engine.
    """

    def __init__(self, tau_min: float = 0.85, tau_max: float = 0.99, **kwargs):
        for argument, value in {"tau_min": tau_min, "tau_max": tau_max}.items():
            require_between("ReCU", argument, value, 0.5, 1)
            require(value < 1, "ReCU", argument, value, "a quantile below 1")
        require(tau_min <= tau_max, "ReCU", "tau_min", tau_min, f"at most tau_max, {tau_max:g}")
        self.tau_min, self.tau_max = float(tau_min), float(tau_max)
        super().__init__(**kwargs)

    def make_state(self, shape) -> None:
        super().make_state(shape)
        self.alpha = self.add_state(
            f"{self._owner_weight}_alpha",
            (self.filters(shape),),
            tf.keras.initializers.RandomUniform(0.1, 1.0),
            trainable=True,
        )

    def quantize(self, latent, training):
        tau = tau_at(self.progress, self.tau_min, self.tau_max)
        signs = gradients.sign(rectified_clamp(latent, tau, self._axis), tf.ones_like)
        return self.per_filter(gradients.away_from_zero(self.alpha), latent) * signs

    def get_config(self):
        return {**super().get_config(), "tau_min": self.tau_min, "tau_max": self.tau_max}


@utils.register_alias("recu_sign")
@utils.register_keras_custom_object
class ReCUSign(LayerQuantizer):
    r"""ReCU's activation: `approx_sign` of activations that each image scales to deviation 1.

    The scale is positive, so it changes gradients only; at inference this is a plain sign.

    # References
        - [ReCU](https://arxiv.org/abs/2103.12369)
    """

    def call(self, inputs, training=None):
        if not trains(training):
            return lq.quantizers.approx_sign(inputs)
        wide = tf.cast(inputs, tf.float32)
        axis = list(range(1, wide.shape.rank))
        n = tf.cast(tf.reduce_prod(tf.shape(wide)[1:]), tf.float32)
        variance = tf.math.reduce_variance(wide, axis, keepdims=True) * n / tf.maximum(n - 1.0, 1.0)
        scaled = wide / tf.sqrt(variance + EPSILON)
        return tf.cast(lq.quantizers.approx_sign(scaled), inputs.dtype)
