r"""DSQ at one bit: the sign as the limit of a tanh whose slope and range are trained.

# References
    - [Differentiable Soft Quantization](https://arxiv.org/abs/1908.05033)
"""

from __future__ import annotations

import larq as lq
import tensorflow as tf
from larq import utils

from hbnn_larq.arguments import require_between
from hbnn_larq.layer_quantizers import KernelQuantizer
from hbnn_larq.rivals import gradients

__all__ = ["DSQ", "soft_step"]

ALPHA_RANGE = (0.05, 0.5)
LEAST_RANGE = 1e-3


def soft_step(x: tf.Tensor, upper: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    r"""The soft form of \(u \operatorname{sign}(x)\), which reaches \(\pm u\) at \(\pm u\).

    \[ u \frac{\tanh(k x)}{1 - \alpha}, \qquad k = \frac{\ln(2 / \alpha - 1)}{2 u} \]

    on \([-u, u]\), and \(\pm u\) outside.

    # Arguments
        x: Tensor.
        upper: u, above 0.
        alpha: how far from the step it is, above 0 and below 1; towards 0 it is the step.
    """
    k = tf.math.log(2.0 / alpha - 1.0) / (2.0 * upper)
    inside = upper * tf.tanh(k * x) / (1.0 - alpha)
    return tf.where(tf.abs(x) <= upper, inside, lq.math.sign(x) * upper)


@utils.register_alias("dsq")
@utils.register_keras_custom_object
class DSQ(KernelQuantizer):
    r"""DSQ's 1-bit kernel with a symmetric range: \(w_b = u \operatorname{sign}(w)\).

    The gradient is that of `soft_step`, to the weights, to u and to \(\alpha\), all trained; u
    and \(\alpha\) are one number a layer. An asymmetric range, which DSQ allows, would not be a
    binary kernel for the Larq Compute Engine.

    # Arguments
        alpha: at the start, between 0.05 and 0.5, to which range it is clamped in use; beyond it,
            its gradient is that of the edge.

    # Raises
        ValueError: `alpha` outside its range.

    # References
        - [Differentiable Soft Quantization](https://arxiv.org/abs/1908.05033). The paper's L2
            term on \(\alpha\) is left out.
    """

    clips_gradient = True

    def __init__(self, alpha: float = 0.2, **kwargs):
        low, high = ALPHA_RANGE
        require_between("DSQ", "alpha", alpha, low - 1e-9, high)
        self.alpha_init = float(alpha)
        super().__init__(**kwargs)

    def make_state(self, shape) -> None:
        latent = self.read_latent()
        # All weights are inside at first, as with an observer of the extremes.
        largest = 1.0 if latent is None else float(tf.reduce_max(tf.abs(latent))) or 1.0
        for name, value in {"upper": largest, "alpha": self.alpha_init}.items():
            state = self.add_state(
                f"{self._owner_weight}_{name}",
                (),
                tf.keras.initializers.Constant(value),
                trainable=True,
            )
            setattr(self, name, state)

    def quantize(self, latent, training):
        # Beyond their ranges both still get the gradient of the edge: it brings them back.
        upper = gradients.replaced_gradient(
            self.upper, lambda u: tf.maximum(u, LEAST_RANGE), tf.ones_like
        )
        alpha = gradients.replaced_gradient(
            self.alpha, lambda a: tf.clip_by_value(a, *ALPHA_RANGE), tf.ones_like
        )
        soft = soft_step(latent, upper, alpha)
        hard = tf.stop_gradient(lq.math.sign(latent) * upper)
        return gradients.replaced_gradient(soft, lambda _: hard, tf.ones_like)

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha_init}
