r"""XNOR-Net++: a trained scale in the place of the analytic one.

# References
    - [XNOR-Net++: Improved Binary Neural Networks](https://arxiv.org/abs/1909.13863)
"""

from __future__ import annotations

import larq as lq
import tensorflow as tf
from larq import utils

from hbnn_larq.layer_quantizers import KernelQuantizer
from hbnn_larq.rivals import gradients

__all__ = ["RankOneScale", "XNORPlusPlus"]


@utils.register_alias("xnor_plus_plus")
@utils.register_keras_custom_object
class XNORPlusPlus(KernelQuantizer):
    r"""XNOR-Net++ with one trained scale for each output channel: \(\alpha_o sign(w)\).

    The sign is Larq's `ste_sign`, clipped at 1; \(\alpha\) starts at 1 and its gradient is
    \(\sum_f g_b \operatorname{sign}(w)\). This is the form that converts; see `RankOneScale`.

    # References
        - [XNOR-Net++](https://arxiv.org/abs/1909.13863)
    """

    clips_gradient = True

    def make_state(self, shape) -> None:
        self.alpha = self.add_state(
            f"{self._owner_weight}_alpha", (self.filters(shape),), "ones", trainable=True
        )

    def quantize(self, latent, training):
        scale = gradients.away_from_zero(self.alpha)
        return self.per_filter(scale, latent) * lq.quantizers.ste_sign(latent)


@utils.register_keras_custom_object
class RankOneScale(tf.keras.layers.Layer):
    r"""XNOR-Net++'s recommended scale of a binary convolution's output, of rank one.

    \[ y_{hwc} = x_{hwc} \, \alpha_c \, \beta_h \, \gamma_w \]

    with three trained vectors that start at 1.

    !!! warning
        A network with this layer right behind a binary convolution does not convert: the Larq
        Compute Engine carries the product into the convolution without looking at its shape and
        crashes. `hbnn_larq.edge.convert` refuses it beforehand. For deployment use
        `XNORPlusPlus`, whose factors per channel cost nothing.

    # Raises
        ValueError: built for inputs without a fixed height, width and number of channels.

    # References
        - [XNOR-Net++](https://arxiv.org/abs/1909.13863)
    """

    def build(self, input_shape) -> None:
        if len(input_shape) != 4 or None in input_shape[1:]:
            raise ValueError(
                f"RankOneScale got an input of shape {tuple(input_shape)}: it holds one factor for "
                "each row, column and channel, so height, width and channels must be fixed."
            )
        for name, axis in (("beta", 1), ("gamma", 2), ("alpha", 3)):
            weight = self.add_weight(name, shape=input_shape[axis], initializer="ones")
            weight._hbnn_quantizer_state = True  # scales of kernels, and no thresholds
            setattr(self, name, weight)
        super().build(input_shape)

    def call(self, inputs):
        scale = self.beta[:, None, None] * self.gamma[None, :, None] * self.alpha[None, None, :]
        return inputs * scale
