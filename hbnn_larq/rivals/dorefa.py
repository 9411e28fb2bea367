r"""DoReFa-Net with 1-bit weights.

# References
    - [DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
        Gradients](https://arxiv.org/abs/1606.06160)
"""

from __future__ import annotations

import larq as lq
import tensorflow as tf
from larq import utils

from hbnn_larq.layer_quantizers import KernelQuantizer
from hbnn_larq.rivals import gradients

__all__ = ["DoReFaSign"]


@utils.register_alias("dorefa")
@utils.register_keras_custom_object
class DoReFaSign(KernelQuantizer):
    r"""DoReFa's 1-bit kernel: one scale for the whole layer.

    \[ w_b = E \operatorname{sign}(w), \qquad E = mean|w|, \qquad g_w = g_b \]

    The gradient passes unclipped and without the scale. (Larq's `DoReFa` is the form for more
    than one bit, and for activations. Its {0, 1} activations do not become binary in the Larq
    Compute Engine; use ±1 ones.)

    # References
        - [DoReFa-Net](https://arxiv.org/abs/1606.06160)
    """

    def quantize(self, latent, training):
        scale = tf.reduce_mean(tf.abs(latent))
        return gradients.replaced_gradient(latent, lambda w: scale * lq.math.sign(w), tf.ones_like)
