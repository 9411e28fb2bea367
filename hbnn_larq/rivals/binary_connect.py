r"""BinaryConnect, deterministic form.

# References
    - [BinaryConnect: Training Deep Neural Networks with binary weights during
        propagations](https://arxiv.org/abs/1511.00363)
"""

from __future__ import annotations

import math

import larq as lq
import tensorflow as tf
from larq import utils

from hbnn_larq.arguments import require_between
from hbnn_larq.layer_quantizers import KernelQuantizer
from hbnn_larq.rivals import gradients

__all__ = ["BinaryConnect"]


@utils.register_alias("binary_connect")
@utils.register_keras_custom_object
class BinaryConnect(KernelQuantizer):
    r"""BinaryConnect's kernel: a plain sign whose latent weights are clipped after each update.

    \[ w_b = H \operatorname{sign}(w), \qquad g_w = g_b, \qquad w \leftarrow clip(w, -H, H) \]

    Larq's `ste_sign` without a window and Larq's `WeightClip`, which the quantizer puts on its
    kernel unless the layer has a constraint. The stochastic form, which computes with real
    weights at inference, is not binary and not here. BinaryConnect's own networks have real
    activations (`input_quantizer=None`), for which the Larq Compute Engine has no op.

    # Arguments
        clip_value: H, above 0.

    # Raises
        ValueError: unless `clip_value` is a finite number above 0.

    # References
        - [BinaryConnect](https://arxiv.org/abs/1511.00363)
    """

    def __init__(self, clip_value: float = 1.0, **kwargs):
        require_between("BinaryConnect", "clip_value", clip_value, 0, math.inf)
        self.limit = float(clip_value)
        super().__init__(**kwargs)
        self.kernel_constraint = lq.constraints.WeightClip(self.limit)

    def quantize(self, latent, training):
        # H is a factor of the values only: the gradient is the one at the binary weight.
        signs = lq.quantizers.ste_sign(latent, clip_value=None)
        return gradients.replaced_gradient(signs, lambda b: self.limit * b, tf.ones_like)

    def get_config(self):
        return {**super().get_config(), "clip_value": self.limit}
