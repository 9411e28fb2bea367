r"""ABC-Net with a single binary base, its 1/1 case.

With M bases a layer is the sum of M binary convolutions, which is another architecture and not a
quantizer; that form is not built.

# References
    - [Towards Accurate Binary Convolutional Neural Network](https://arxiv.org/abs/1711.11294)
"""

from __future__ import annotations

import larq as lq
import tensorflow as tf
from larq import utils

from hbnn_larq.layer_quantizers import KernelQuantizer
from hbnn_larq.rivals import gradients

__all__ = ["ABCNet"]


@utils.register_alias("abc_net")
@utils.register_keras_custom_object
class ABCNet(KernelQuantizer):
    r"""ABC-Net's kernel with one base: the sign of the centred kernel, and its best scale.

    \[ B = \operatorname{sign}(w - \bar w), \qquad \alpha = mean(B w), \qquad
       w_b = \alpha B, \qquad g_w = \alpha g_b \]

    with statistics over the whole layer, which get no gradient. The paper's shift u of a base is
    undefined for a single one; it is 0 here.

    # References
        - [ABC-Net](https://arxiv.org/abs/1711.11294)
    """

    def quantize(self, latent, training):
        centred = latent - tf.stop_gradient(tf.reduce_mean(latent))
        signs = gradients.sign(centred, tf.ones_like)
        return tf.stop_gradient(tf.reduce_mean(lq.math.sign(centred) * latent)) * signs
