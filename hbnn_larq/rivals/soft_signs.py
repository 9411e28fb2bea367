r"""Methods that train with a soft sign, ever harder: MD-tanh, MD-tanh-S, MD-softmax-S and SLB.

In training the layer computes with \(\tanh(\beta u)\); everywhere else (inference, folding,
conversion, flip counts) with the sign. Accuracy in training mode is therefore not that of the
deployed network, and batch normalisation learns the statistics of the soft one: see
`recalibrate_batch_norm`.

Two logits for the levels -1 and +1 are one latent weight here, their difference d:
\(softmax(\beta [u_-, u_+])\) has the mean \(\tanh(\beta d / 2)\), and a step of SGD on both logits
moves d by twice the step of one, so gradients to d are doubled. (Adam divides the factor out: use
twice the rate.)

# References
    - [Mirror Descent View for Neural Network Quantization](https://arxiv.org/abs/1910.08237)
    - [Searching for Low-Bit Weights in Quantized Neural Networks](https://arxiv.org/abs/2009.08695)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import larq as lq
import numpy as np
import tensorflow as tf
from larq import utils

from hbnn_larq.arguments import is_number, require, require_between
from hbnn_larq.layer_quantizers import trains
from hbnn_larq.rivals import gradients
from hbnn_larq.rivals.progress import ScheduledKernelQuantizer

__all__ = [
    "SLB",
    "MDSoftmaxS",
    "MDTanh",
    "MDTanhS",
    "beta_at",
    "recalibrate_batch_norm",
    "temperature_at",
]


def beta_at(progress, final_beta: float):
    r"""Sharpness \(\beta = \beta_{final}^{progress}\): a constant factor each step, from 1."""
    return tf.pow(tf.cast(final_beta, tf.float32), tf.cast(progress, tf.float32))


def temperature_at(progress, final: float, start: float, stop: float):
    r"""SLB's temperature: 1 up to `start`, growing by a constant factor to `final` at `stop`."""
    share = (tf.cast(progress, tf.float32) - start) / (stop - start)
    return tf.pow(tf.cast(final, tf.float32), tf.clip_by_value(share, 0.0, 1.0))


_hard_in_training = False


class _SoftSign(ScheduledKernelQuantizer):
    """Soft in training, hard elsewhere, in a frozen layer and once the schedule has run out."""

    def soft(self, latent: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError

    def still_soft(self) -> tf.Tensor:
        return self.progress < 1.0

    def dual(self, latent: tf.Tensor) -> tf.Tensor:
        """The numbers whose signs are the hard weights."""
        return latent

    def quantize(self, latent, training):
        dual = self.dual(latent)
        hard = gradients.sign(dual, tf.ones_like)
        if _hard_in_training or self.is_frozen or not trains(training):
            return hard
        soft = self.soft(dual)
        return tf.where(training, soft, hard) if tf.is_tensor(training) else soft


class _MirrorDescent(_SoftSign):
    def __init__(self, final_beta: float = 2e4, **kwargs):
        require_between(type(self).__name__, "final_beta", final_beta, 1, math.inf)
        self.final_beta = float(final_beta)
        super().__init__(**kwargs)

    def beta(self, latent: tf.Tensor) -> tf.Tensor:
        return tf.cast(beta_at(self.progress, self.final_beta), latent.dtype)

    def hardened(self, latent, factor, derivative):
        """tanh(factor u) in the forward pass, its sign at the end; the given derivative."""
        soft = self.still_soft()
        return gradients.replaced_gradient(
            latent,
            lambda u: tf.where(soft, tf.tanh(factor * u), lq.math.sign(u)),
            lambda u: tf.fill(tf.shape(u), tf.cast(derivative, u.dtype)),
        )

    def get_config(self):
        return {**super().get_config(), "final_beta": self.final_beta}


@utils.register_alias("md_tanh")
@utils.register_keras_custom_object
class MDTanh(_MirrorDescent):
    r"""MD-tanh: mirror descent on weights in (-1, 1), with steps that grow by a factor \(\beta\).

    \[ w = \tanh(u), \qquad u \leftarrow u - \beta \eta m \]

    with m the optimizer's own direction, such as Adam's, for \(\partial L / \partial w\). The
    kernel holds v with \(u = \beta v + c\), so a step of any optimizer on v is \(\beta\) times
    as long in u; when \(\beta\) grows, c takes up the difference and u stays.

    The published recipe is Adam without decay. Under SGD, whose steps shrink with the gradients,
    weights may still be soft when training ends.

    # Arguments
        final_beta: \(\beta\) at the end, above 1; it starts at 1. The released CIFAR-10 script
            multiplies by 1.01 every 100 of 100,000 steps: 2.1e4.

    # Raises
        ValueError: unless `final_beta` is a finite number above 1.

    # References
        - [Mirror Descent View for Neural Network
            Quantization](https://arxiv.org/abs/1910.08237)
    """

    def make_state(self, shape):
        super().make_state(shape)
        self.offset = self.add_state(
            f"{self._owner_weight}_offset", shape, "zeros", trainable=False
        )

    def move_to(self, progress):
        latent = self.read_latent()
        if latent is None:
            return super().move_to(progress)
        before = self.beta(latent)
        super().move_to(progress)
        self.offset.assign_add((before - self.beta(latent)) * latent)

    def dual(self, latent):
        # The straight path to the latent: of the factor, only the optimizer's step is to know.
        beta, offset = self.beta(latent), tf.convert_to_tensor(self.offset)
        return gradients.replaced_gradient(latent, lambda v: beta * v + offset, tf.ones_like)

    def soft(self, latent):
        return self.hardened(latent, 1.0, 1.0)


@utils.register_alias("md_tanh_s")
@utils.register_keras_custom_object
class MDTanhS(_MirrorDescent):
    r"""MD-tanh-S, the stable form: the projection in the forward pass only.

    \[ w = \tanh(\beta u), \qquad \frac{\partial w}{\partial u} := 1 \]

    # Arguments
        final_beta: \(\beta\) at the end, above 1; it starts at 1. The released CIFAR-10 script
            multiplies by 1.02 every 200 of 100,000 steps: 2e4.

    # Raises
        ValueError: unless `final_beta` is a finite number above 1.

    # References
        - [Mirror Descent View for Neural Network
            Quantization](https://arxiv.org/abs/1910.08237)
    """

    def soft(self, latent):
        return self.hardened(latent, self.beta(latent), 1.0)


@utils.register_alias("md_softmax_s")
@utils.register_keras_custom_object
class MDSoftmaxS(_MirrorDescent):
    r"""MD-softmax-S, the stable form over two logits, kept as their difference d.

    \[ w = \tanh(\beta d / 2), \qquad \frac{\partial w}{\partial d} := 2 \]

    # Arguments
        final_beta: \(\beta\) at the end, above 1; it starts at 1. The released CIFAR-10 script
            multiplies by 1.02 every 200 of 100,000 steps: 2e4.

    # Raises
        ValueError: unless `final_beta` is a finite number above 1.

    # References
        - [Mirror Descent View for Neural Network
            Quantization](https://arxiv.org/abs/1910.08237)
    """

    def soft(self, latent):
        return self.hardened(latent, 0.5 * self.beta(latent), 2.0)


@utils.register_alias("slb")
@utils.register_keras_custom_object
class SLB(_SoftSign):
    r"""SLB: a softmax over the two levels with a rising temperature, and its true gradient.

    \[ w = \tanh(T d / 2), \qquad \frac{\partial w}{\partial d} := T (1 - w^2) \]

    (twice the derivative, see `hbnn_larq.rivals.soft_signs`). T is 1 up to the share `start` of
    the epochs, grows to `final_temperature` at `stop`, and from there on the hard weights are
    used in training too, where they no longer move.

    # Arguments
        final_temperature: above 1. The published factor of 1.03 for each of 300 epochs: 7.1e3.
        start, stop: shares of the epochs between which the temperature grows, 0.3 and 0.9 in the
            VGG-small script.

    # Raises
        ValueError: unless `final_temperature` > 1 and 0 <= start < stop <= 1.

    # References
        - [Searching for Low-Bit Weights in Quantized Neural
            Networks](https://arxiv.org/abs/2009.08695)
    """

    def __init__(
        self,
        final_temperature: float = 1.03**300,
        start: float = 0.3,
        stop: float = 0.9,
        **kwargs,
    ):
        require_between("SLB", "final_temperature", final_temperature, 1, math.inf)
        require_between("SLB", "stop", stop, 0, 1)
        below_stop = is_number(start) and 0 <= start < stop
        require(below_stop, "SLB", "start", start, f"a number, at least 0, below stop, {stop:g}")
        self.final_temperature = float(final_temperature)
        self.start, self.stop = float(start), float(stop)
        super().__init__(**kwargs)

    def still_soft(self):
        return self.progress < self.stop

    def soft(self, latent):
        temperature = tf.cast(
            temperature_at(self.progress, self.final_temperature, self.start, self.stop),
            latent.dtype,
        )
        soft = self.still_soft()

        def forward(d):
            return tf.where(soft, tf.tanh(0.5 * temperature * d), lq.math.sign(d))

        def derivative(d):
            return temperature * (1.0 - forward(d) ** 2)

        return gradients.replaced_gradient(latent, forward, derivative)

    def get_config(self):
        return {
            **super().get_config(),
            "final_temperature": self.final_temperature,
            "start": self.start,
            "stop": self.stop,
        }


def recalibrate_batch_norm(model: tf.keras.Model, batches: Iterable[Any]) -> None:
    """Moves the statistics of batch normalisation to those of the hard weights (SLB's state BN).

    Runs the batches through the network with hard weights, in training mode and without any
    update; the moving averages follow with the momentum of their layers, so give some tens of
    batches. SLB does it after every epoch; once after training is what inference needs.

    # Arguments
        model: a built model.
        batches: an iterable of batches of model inputs, without labels.

    # Raises
        ValueError: a batch has not the number of inputs of the model, or other ranks.
    """
    global _hard_in_training
    # A call that the user's own `tf.function` traced before is soft, one that it traced here would
    # stay hard.
    eagerly = tf.config.functions_run_eagerly()
    _hard_in_training = True
    try:
        for inputs in batches:
            _check_inputs(model, inputs)
            tf.config.run_functions_eagerly(True)
            model(inputs, training=True)
            tf.config.run_functions_eagerly(eagerly)  # `batches` may trace something too
    finally:
        tf.config.run_functions_eagerly(eagerly)
        _hard_in_training = False


def _check_inputs(model: tf.keras.Model, inputs: Any) -> None:
    spec = model.save_spec()  # None before the first call of a model without an input shape
    if spec is None or isinstance(inputs, Mapping):  # Keras takes what it needs, by name
        return
    expected = [x.shape for x in tf.nest.flatten(spec[0][0])]
    given = [tf.TensorShape(np.shape(x)) for x in tf.nest.flatten(inputs)]
    alike = [a.rank == b.rank for a, b in zip(given, expected, strict=False)]
    if len(given) != len(expected) or not all(alike):
        got, takes = (" and ".join(map(str, shapes)) for shapes in (given, expected))
        raise ValueError(
            f"recalibrate_batch_norm(model, batches): a batch of shape {got}, where the model "
            f"takes {takes}. Give batches of the inputs alone: "
            "tf.data.Dataset.from_tensor_slices(x).batch(64) of an array x, (x for x, y in "
            "batches) where labels come along."
        )
