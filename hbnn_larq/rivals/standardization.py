"""Per-filter standardisation of a kernel, the first step of IR-Net, ReCU and RBNN."""

from __future__ import annotations

import math

import tensorflow as tf

__all__ = ["standardize"]


def standardize(w: tf.Tensor, axis: tuple[int, ...], *, epsilon: float = 0.0) -> tf.Tensor:
    r"""Zero mean and unit deviation along `axis`, the variance being the unbiased one.

    \[ \hat w = \frac{w - \bar w}{s}, \qquad s^2 = \frac{|w - \bar w|^2}{n - 1} + \epsilon \]

    Its gradient is \(g_w = (g - \bar g - (w - \bar w) \langle w - \bar w, g\rangle /
    ((n - 1) s^2)) / s\).

    # Arguments
        w: Kernel.
        axis: Axes that together form one filter.
        epsilon: Added to the variance. A filter of equal weights, where the variance is only
            rounding, is not divided: the result is 0 to rounding.

    # Returns
        Tensor of the shape of `w`.
    """
    centred = w - tf.reduce_mean(w, axis, keepdims=True)
    n = math.prod(w.shape[a] for a in axis)
    variance = tf.reduce_sum(centred * centred, axis, keepdims=True) / max(n - 1, 1) + epsilon
    rounding = 1e-11 * tf.reduce_mean(w * w, axis, keepdims=True)
    return centred / tf.sqrt(tf.where(variance > rounding, variance, tf.ones_like(variance)))
