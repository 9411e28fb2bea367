r"""RBNN: weights rotated towards their own signs before the sign is taken.

# References
    - [Rotated Binary Neural Network](https://arxiv.org/abs/2009.13055)
"""

from __future__ import annotations

import math

import larq as lq
import numpy as np
import tensorflow as tf
from larq import utils

from hbnn_larq.layer_quantizers import trains
from hbnn_larq.rivals import gradients
from hbnn_larq.rivals.irnet import check_sharpness, ede_parameters
from hbnn_larq.rivals.progress import ScheduledInputQuantizer, ScheduledKernelQuantizer
from hbnn_larq.rivals.standardization import standardize

__all__ = ["RBNN", "RBNNSign", "bi_rotation", "factors", "triangle"]

ALTERNATIONS = 3


def triangle(x: tf.Tensor, t, k) -> tf.Tensor:
    r"""RBNN's derivative of the sign, \(D(x) = k \max(0, \sqrt 2 t - t^2 |x|)\)."""
    return k * tf.maximum(math.sqrt(2.0) * t - t * t * tf.abs(x), 0.0)


def factors(n: int) -> tuple[int, int]:
    """The two factors of `n` nearest to each other, smaller first: 4608 gives (64, 72)."""
    a = next(a for a in range(math.isqrt(n), 0, -1) if n % a == 0)
    return a, n // a


def bi_rotation(filters: np.ndarray, r1: np.ndarray, r2: np.ndarray):
    r"""Rotations that bring filters nearer to their own signs.

    Three rounds of alternating minimisation of
    \(\sum_o |B_o - R_1^T X_o R_2|^2\) over \(B_o \in \{-1, 1\}\), \(R_1\) and \(R_2\).

    # Arguments
        filters: X, array of shape (filters, a, b).
        r1, r2: orthogonal matrices to start from, (a, a) and (b, b).

    # Returns
        `(r1, r2)`, orthogonal, float64.
    """
    x, r1, r2 = (np.asarray(m, np.float64) for m in (filters, r1, r2))
    for _ in range(ALTERNATIONS):
        signs = np.where(r1.T @ x @ r2 >= 0, 1.0, -1.0)
        u, _, vt = np.linalg.svd(np.sum(signs @ r2.T @ x.transpose(0, 2, 1), 0))
        r1 = vt.T @ u.T
        u, _, vt = np.linalg.svd(np.sum(x.transpose(0, 2, 1) @ r1 @ signs, 0))
        r2 = u @ vt
    return r1, r2


@utils.register_alias("rbnn")
@utils.register_keras_custom_object
class RBNN(ScheduledKernelQuantizer):
    r"""RBNN's kernel: standardised weights, turned part of the way towards their signs.

    \[ w_3 = w_2 + |\sin\theta_o| (R_1^T w_2 R_2 - w_2), \qquad
       w_b = \alpha_o \operatorname{sign}(w_3) \]

    with \(w_2\) the filter, standardised and laid out as a nearly square matrix, orthogonal
    \(R_1, R_2\) shared by the filters of a layer, and trained \(\theta_o, \alpha_o\). The
    rotations start at random and are fitted at the start of each epoch (`bi_rotation`), unless
    the layer is frozen (`trainable = False`); the sign's derivative is `triangle`.

    # Arguments
        t_min, t_max: sharpness at the start and at the end.
        detach_rotation: no gradient through the rotation, as in the released code. That makes
            the gradient exactly 0 at the start, where \(|\sin\theta| = 1\): training begins only
            because weight decay moves \(\theta\). `MobiusSGD` and `GroupedAdam` decay no vector
            unless told to: give them a `weight_decay` and `decay_all=True`.

    # Raises
        ValueError: unless 0 < t_min <= t_max.

    # References
        - [RBNN](https://arxiv.org/abs/2009.13055)
    """

    def __init__(
        self, t_min: float = 0.01, t_max: float = 10.0, detach_rotation: bool = False, **kwargs
    ):
        check_sharpness("RBNN", t_min, t_max)
        self.t_min, self.t_max = float(t_min), float(t_max)
        self.detach_rotation = bool(detach_rotation)
        super().__init__(**kwargs)

    def make_state(self, shape) -> None:
        super().make_state(shape)
        a, b = factors(math.prod(shape[i] for i in self._axis))
        latent = self.read_latent()
        size = "ones" if latent is None else lambda *_, **__: _mean_size(latent, self._axis)
        orthogonal = tf.keras.initializers.Orthogonal
        for name, state_shape, initializer, trainable in (
            ("rotation_1", (a, a), orthogonal(), False),
            ("rotation_2", (b, b), orthogonal(), False),
            ("theta", (self.filters(shape),), tf.keras.initializers.Constant(math.pi / 2), True),
            ("alpha", (self.filters(shape),), size, True),
        ):
            state = self.add_state(
                f"{self._owner_weight}_{name}", state_shape, initializer, trainable=trainable
            )
            setattr(self, name, state)

    def begin_epoch(self) -> None:
        latent = self.read_latent()
        if latent is None:
            return
        matrices = _as_matrices(standardize(latent, self._axis), self._axis).numpy()
        if not np.all(np.isfinite(matrices)):  # has no fit; the loss tells what happened
            return
        r1, r2 = bi_rotation(matrices, self.rotation_1.numpy(), self.rotation_2.numpy())
        self.rotation_1.assign(r1)
        self.rotation_2.assign(r2)

    def quantize(self, latent, training):
        t, k = ede_parameters(self.progress, self.t_min, self.t_max)
        t, k = tf.cast(t, latent.dtype), tf.cast(k, latent.dtype)
        standard = standardize(latent, self._axis)
        x = _as_matrices(standard, self._axis)
        rotated = tf.matmul(tf.matmul(self.rotation_1, x, transpose_a=True), self.rotation_2)
        if self.detach_rotation:
            rotated = tf.stop_gradient(rotated)
        rotated = _as_kernel(rotated, latent.shape, self._axis)
        share = self.per_filter(tf.abs(tf.sin(self.theta)), latent)
        turned = standard + share * (rotated - standard)
        signs = gradients.sign(turned, lambda x: triangle(x, t, k))
        return self.per_filter(gradients.away_from_zero(self.alpha), latent) * signs

    def get_config(self):
        return {
            **super().get_config(),
            "t_min": self.t_min,
            "t_max": self.t_max,
            "detach_rotation": self.detach_rotation,
        }


@utils.register_alias("rbnn_sign")
@utils.register_keras_custom_object
class RBNNSign(ScheduledInputQuantizer):
    r"""RBNN's activation: the sign of an image's activations minus their mean.

    The mean is taken at inference too, so the converted network computes a mean and a difference
    before each binary convolution. The derivative is `triangle` of the standardised activations,
    with a height of 1 and a sharpness of at least 1.

    # Arguments
        t_min, t_max: sharpness at the start and at the end, as of `RBNN`.

    # Raises
        ValueError: unless 0 < t_min <= t_max.

    # References
        - [RBNN](https://arxiv.org/abs/2009.13055)
    """

    def __init__(self, t_min: float = 0.01, t_max: float = 10.0, **kwargs):
        check_sharpness("RBNNSign", t_min, t_max)
        self.t_min, self.t_max = float(t_min), float(t_max)
        super().__init__(**kwargs)

    def call(self, inputs, training=None):
        if trains(training):
            return self._standardised(inputs)

        # The deviation, which no sign needs, is left to a gradient through a net in inference, as
        # of fine-tuning: the converted network would compute it.
        @tf.custom_gradient
        def centred_sign(x):
            def gradient(dy):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = self._standardised(x)
                return tape.gradient(y, x, dy)

            centred, _ = self._centred(x)
            return tf.cast(lq.math.sign(centred), x.dtype), gradient

        return centred_sign(inputs)

    def _centred(self, inputs):
        """Activations minus the mean of their image, and the axes of an image."""
        axis = list(range(1, inputs.shape.rank))
        wide = tf.cast(inputs, tf.float32)  # the sum of an image is more than float16 holds
        return wide - tf.reduce_mean(wide, axis, keepdims=True), axis

    def _standardised(self, inputs):
        """The sign, with the derivative of training."""
        centred, axis = self._centred(inputs)
        n = tf.cast(tf.reduce_prod(tf.shape(inputs)[1:]), tf.float32)
        variance = tf.reduce_sum(centred**2, axis, keepdims=True) / tf.maximum(n - 1.0, 1.0)
        standard = centred / tf.sqrt(tf.where(variance > 0, variance, tf.ones_like(variance)))
        t, _ = ede_parameters(self.progress, self.t_min, self.t_max)
        t = tf.maximum(t, 1.0)
        return tf.cast(gradients.sign(standard, lambda x: triangle(x, t, 1.0)), inputs.dtype)

    def get_config(self):
        return {**super().get_config(), "t_min": self.t_min, "t_max": self.t_max}


def _order(rank: int, axis: tuple[int, ...]) -> list[int]:
    """Axes of a kernel, filters first and then channels before window, as PyTorch has them."""
    return [a for a in range(rank) if a not in axis] + [axis[-1], *axis[:-1]]


def _as_matrices(kernel: tf.Tensor, axis: tuple[int, ...]) -> tf.Tensor:
    """(filters, a, b) of a kernel whose filters lie along `axis`."""
    a, b = factors(math.prod(kernel.shape[i] for i in axis))
    return tf.reshape(tf.transpose(kernel, _order(kernel.shape.rank, axis)), (-1, a, b))


def _as_kernel(matrices: tf.Tensor, shape: tf.TensorShape, axis: tuple[int, ...]) -> tf.Tensor:
    order = _order(shape.rank, axis)
    moved = tf.reshape(matrices, [shape[a] for a in order])
    return tf.transpose(moved, [order.index(a) for a in range(shape.rank)])


def _mean_size(latent: tf.Tensor, axis: tuple[int, ...]) -> tf.Tensor:
    return tf.reshape(tf.reduce_mean(tf.abs(latent), axis), (-1,))
