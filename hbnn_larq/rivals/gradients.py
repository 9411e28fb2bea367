"""Forward functions with a backward function of their own: the pseudo-gradients of the rivals."""

from __future__ import annotations

from collections.abc import Callable

import larq as lq
import tensorflow as tf

__all__ = ["away_from_zero", "replaced_gradient", "sign"]


def sign(x: tf.Tensor, window: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    r"""Larq's sign, +1 at 0, whose derivative is said to be `window(x)`.

    \[ q(x) = \operatorname{sign}(x), \qquad \frac{\partial q}{\partial x} := D(x) \]

    # Arguments
        x: Tensor.
        window: D, from a tensor to a tensor of its shape.
    """
    return replaced_gradient(x, lq.math.sign, window)


def replaced_gradient(
    x: tf.Tensor,
    forward: Callable[[tf.Tensor], tf.Tensor],
    derivative: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """`forward(x)`, elementwise, whose derivative is said to be `derivative(x)`."""

    @tf.custom_gradient
    def call(x):
        return forward(x), lambda dy: dy * derivative(x)

    return call(tf.convert_to_tensor(x))


def away_from_zero(scale: tf.Tensor, least: float = 1e-3) -> tf.Tensor:
    """The scale, of a size of at least `least` and of its own sign; the gradient passes.

    A channel whose scale is 0 sends its whole layer to float in the Larq Compute Engine.
    """
    return replaced_gradient(
        scale, lambda x: lq.math.sign(x) * tf.maximum(tf.abs(x), least), tf.ones_like
    )
