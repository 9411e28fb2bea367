r"""FDA-BNN's gradient: the sign as a Fourier series of the square wave.

The paper's noise adaptation module, a training-only branch, is not built; its released code holds
neither part, so nothing here was checked against the authors'.

# References
    - [Learning Frequency Domain Approximation for Binary Neural
        Networks](https://arxiv.org/abs/2103.00841)
"""

from __future__ import annotations

import math

import tensorflow as tf
from larq import utils

from hbnn_larq.rivals import gradients
from hbnn_larq.rivals.progress import ScheduledInputQuantizer, ScheduledKernelQuantizer

__all__ = ["FDA", "FourierSign", "fourier", "terms_at"]

OMEGA = 0.1


def terms_at(progress):
    """Highest index of the series, 9 + floor(9 progress)."""
    return 9.0 + tf.floor(9.0 * tf.cast(progress, tf.float32))


def fourier(x: tf.Tensor, n, omega: float = OMEGA) -> tf.Tensor:
    r"""Derivative of the truncated series, inside [-1, 1].

    \[ D(x) = \frac{4\omega}{\pi} \sum_{i=0}^{n} \cos((2i+1) \omega x)
       = \frac{4\omega}{\pi} \frac{\sin(2(n+1)\omega x)}{2 \sin(\omega x)} \]

    # Arguments
        x: Tensor.
        n: highest index, scalar tensor or number.
        omega: base frequency.
    """
    n = tf.cast(n, x.dtype)
    angle = omega * x
    small = tf.abs(angle) < 1e-4
    safe = tf.where(small, tf.ones_like(angle), angle)
    total = tf.where(small, n + 1.0, tf.sin(2.0 * (n + 1.0) * safe) / (2.0 * tf.sin(safe)))
    inside = tf.cast(tf.abs(x) <= 1.0, x.dtype)
    return inside * (4.0 * omega / math.pi) * total


@utils.register_alias("fda")
@utils.register_keras_custom_object
class FDA(ScheduledKernelQuantizer):
    r"""A sign scaled as in XNOR-Net, with FDA-BNN's gradient.

    \[ w_b = \alpha_o \operatorname{sign}(w), \quad \alpha_o = mean|w|, \qquad
       g_w = \alpha_o g_b D(w) \]

    with `fourier` as D, whose series grows with `progress`. The scale (constant to the gradient)
    is our choice.

    # References
        - [FDA-BNN](https://arxiv.org/abs/2103.00841)
    """

    clips_gradient = True

    def quantize(self, latent, training):
        n = terms_at(self.progress)
        scale = tf.stop_gradient(tf.reduce_mean(tf.abs(latent), self._axis, keepdims=True))
        return scale * gradients.sign(latent, lambda x: fourier(x, n))


@utils.register_alias("fourier_sign")
@utils.register_keras_custom_object
class FourierSign(ScheduledInputQuantizer):
    r"""A sign of activations with FDA-BNN's gradient `fourier`.

    # References
        - [FDA-BNN](https://arxiv.org/abs/2103.00841)
    """

    def call(self, inputs, training=None):
        n = terms_at(self.progress)
        return gradients.sign(inputs, lambda x: fourier(x, n))
