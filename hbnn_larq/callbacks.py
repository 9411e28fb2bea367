"""Watch a binary net while Keras trains it: sign flips per layer, base points, the first NaN.

`FlipCounter` does the counting and knows no training loop; `FlipMonitor` and `StopOnNaN` hang it
into `model.fit`. The loop of `hbnn_larq.training` uses the same parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from larq.context import quantized_scope
from larq.quantized_variable import QuantizedVariable

from hbnn_larq.arguments import require_whole
from hbnn_larq.metrics import edge_share, flip_share, information_gain
from hbnn_larq.optimizers import GeodesicSGD
from hbnn_larq.poincare import ball_of

__all__ = [
    "FlipCounter",
    "FlipMonitor",
    "StopOnNaN",
    "base_point_flips",
    "base_point_shares",
    "binary_kernels",
    "first_non_finite",
]

_KERNEL_ATTRIBUTES = ("kernel", "depthwise_kernel", "pointwise_kernel")


def binary_kernels(model: tf.keras.Model) -> dict[str, QuantizedVariable]:
    """The 1-bit kernels of a model, in layer order.

    # Arguments
        model: any built Keras model; nested models are searched too.

    # Returns
        `{name: variable}`. The name is the layer's, with `/depthwise_kernel` or
        `/pointwise_kernel` appended where a layer has more than one kernel. Empty for a model
        without binary weights.
    """
    return dict(_named(model, lambda variable: variable.precision == 1))


def base_point_shares(model: tf.keras.Model) -> dict[str, float]:
    r"""How near each layer's base points are to the edge of their ball.

    # Arguments
        model: a built model; layers without base points are left out.

    # Returns
        `{layer: share}`: the largest \\(\sqrt{r} |p|\\) over the layer's vectors, 0 at the
        centre and 1 at the edge.
    """
    return {name: max(map(_share, points)) for name, _, points in _mapped_kernels(model)}


def base_point_flips(model: tf.keras.Model) -> dict[str, float]:
    """What base points do: the share of each layer's signs that they change.

    With all points at 0 a map changes no sign (of a host behind it: what the host alone would
    say), so a layer whose share is 0 is the plain binary layer, at the price of a map.

    # Arguments
        model: a built model; layers without base points are left out. Its base points are set
            to 0 for a moment and put back.

    # Returns
        `{layer: share}`, of the weights that would have the other sign with base points at 0.
    """
    shares: dict[str, float] = {}
    for name, variable, points in _mapped_kernels(model):
        kept = [_latent(point).numpy() for point in points]
        with quantized_scope(True):
            signs = tf.convert_to_tensor(variable).numpy() >= 0
            try:
                for point in points:
                    point.assign(tf.zeros(point.shape, point.dtype))
                plain = tf.convert_to_tensor(variable).numpy() >= 0
            finally:
                for point, value in zip(points, kept, strict=True):
                    point.assign(value)
        shares[name] = flip_share(plain, signs)
    return shares


class FlipCounter:
    """Counts how many binary weights of each layer changed sign between two moments.

    One call reads every kernel through its quantizer and compares signs, all in one graph: it
    costs what quantizing the kernels costs in a forward pass, plus one comparison per weight.

    # Arguments
        model: a built Keras model. One without binary weights gives empty answers.

    !!! example
        ```python
        counter = FlipCounter(model)
        before = counter.signs()
        model.fit(x, y)
        flips, _ = counter.flips_since(before)   # {layer: weights that changed sign}
        ```
    """

    def __init__(self, model: tf.keras.Model):
        kernels = binary_kernels(model)
        self.names: list[str] = list(kernels)
        self.sizes: dict[str, int] = {
            name: int(np.prod(variable.shape)) for name, variable in kernels.items()
        }
        variables = list(kernels.values())

        def read() -> list[tf.Tensor]:
            with quantized_scope(True):
                return [tf.convert_to_tensor(variable) >= 0 for variable in variables]

        def compare(before: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            now = read()
            counts = [
                tf.math.count_nonzero(tf.math.logical_xor(old, new), dtype=tf.int32)
                for old, new in zip(before, now, strict=True)
            ]
            return counts, now

        self._read = tf.function(read)
        self._compare = tf.function(compare)

    def signs(self) -> list[tf.Tensor]:
        """Signs of every kernel now: one boolean tensor per layer, True where positive."""
        return self._read() if self.names else []

    def flips_since(self, before: Sequence[Any]) -> tuple[dict[str, int], list[tf.Tensor]]:
        """Weights per layer whose sign differs from `before`, and the signs now.

        # Arguments
            before: what `signs()` returned earlier (tensors or boolean arrays).

        # Returns
            `({layer: count}, signs)`.
        """
        if not self.names:
            return {}, []
        counts, now = self._compare([tf.convert_to_tensor(old) for old in before])
        counts = [int(count) for count in counts]
        return dict(zip(self.names, counts, strict=True)), now

    def share(self, flips: Mapping[str, float]) -> float:
        """Share of all binary weights that a count per layer stands for (NaN without any)."""
        total = sum(self.sizes.values())
        return sum(flips.values()) / total if total else float("nan")


class FlipMonitor(tf.keras.callbacks.Callback):
    r"""Counts sign flips in training and adds them to the logs of every epoch.

    Adds `flips_per_step` (mean share of binary weights that one step flips), `flips_per_epoch`
    (share that differs between epoch ends), `flips_vs_init` (share that differs from the start
    of training), `information_gain` (\\(H(\\)flips_vs_init\\()\\), mean over layers, bits),
    for hyperbolic kernels `edge_share` (largest \\(\sqrt{r}|p|\\)) and, where `GeodesicSGD`
    trains, `flips_asked` (mean of its flip rate). Put it before
    `CSVLogger` and `TensorBoard`, which then write them; `history` keeps the figures per layer.

    Cost: one more quantization of every kernel per counted step. On small nets that is a few
    percent of a step with `every=1`; `every=10` counts one step in ten (two readings each) and
    makes the cost vanish.

    A model without an input shape is built by its first batch, and watched from the end of it.

    # Arguments
        every: count the flips of one step in this many, 1 or above; where an epoch has fewer steps,
            of its last one. (In an epoch of unknown length no step may be counted: its
            `flips_per_step` and `flips_asked` are NaN.)

    # Attributes
        history: one dict per epoch, `{"flips_per_step": {layer: share}, "flips_per_epoch": ...,
            "flips_vs_init": ..., "information_gain": ..., "edge_share": ...}`.

    # Raises
        ValueError: unless `every` is an integer of 1 or above; in training, for a model compiled
            with `steps_per_execution` above 1, whose single steps no callback sees.

    !!! example
        ```python
        model.fit(x, y, epochs=5, callbacks=[hbnn_larq.callbacks.FlipMonitor(every=10)])
        ```
    """

    def __init__(self, every: int = 1):
        super().__init__()
        require_whole("FlipMonitor", "every", every, 1)
        self.every: int = int(every)
        self.history: list[dict[str, dict[str, float]]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        together = getattr(self.model, "_steps_per_execution", None)
        together = 1 if together is None else int(tf.convert_to_tensor(together))
        if together > 1:
            raise ValueError(
                f"FlipMonitor(every={self.every}): the model was compiled with "
                f"steps_per_execution={together}, so weights are seen after {together} steps, not "
                "after one. Compile it with steps_per_execution=1."
            )
        self._watch()
        optimizer = getattr(self.model, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of loss scaling
        self._asking = optimizer if isinstance(optimizer, GeodesicSGD) else None
        self._step = 0
        self.history = []

    def _watch(self) -> None:
        self._counter = FlipCounter(self.model)
        self._initial = self._epoch_start = self._before = self._counter.signs()
        self._flips = dict.fromkeys(self._counter.names, 0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._flips = dict.fromkeys(self._counter.names, 0)
        self._counted = 0
        self._asked = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._counts = self._step % self.every == 0
        if batch + 1 == self.params.get("steps"):
            self._counts |= not self._counted  # no epoch goes without, however short
        # With every=1 the signs at the end of the last step are the signs at the start of this.
        if self.every > 1 and self._counts:
            self._before = self._counter.signs()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._step == 0 and not self._counter.names:
            self._watch()
        elif self._counts:
            flips, self._before = self._counter.flips_since(self._before)
            for name, count in flips.items():
                self._flips[name] += count
            self._counted += 1
            if self._asking is not None:  # Keras keeps the rate of the last step
                self._asked += float(tf.convert_to_tensor(self._asking.learning_rate))
        self._step += 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        counter = self._counter
        if not counter.names:
            return
        of_epoch, now = counter.flips_since(self._epoch_start)
        of_training, _ = counter.flips_since(self._initial)
        self._epoch_start = now
        steps = self._counted or math.nan
        size = counter.sizes
        vs_init = {name: count / size[name] for name, count in of_training.items()}
        row: dict[str, dict[str, float]] = {
            "flips_per_step": {n: count / steps / size[n] for n, count in self._flips.items()},
            "flips_per_epoch": {n: count / size[n] for n, count in of_epoch.items()},
            "flips_vs_init": vs_init,
            "information_gain": {n: float(information_gain(q)) for n, q in vs_init.items()},
        }
        shares = base_point_shares(self.model)
        if shares:
            row["edge_share"] = shares
        self.history.append(row)
        if logs is not None:
            logs["flips_per_step"] = counter.share(self._flips) / steps
            logs["flips_per_epoch"] = counter.share(of_epoch)
            logs["flips_vs_init"] = counter.share(of_training)
            logs["information_gain"] = float(np.mean(list(row["information_gain"].values())))
            if shares:
                logs["edge_share"] = max(shares.values())
            if self._asking is not None:
                logs["flips_asked"] = self._asked / steps


class StopOnNaN(tf.keras.callbacks.Callback):
    """Stops training at the first loss or weight that is not finite, and names the layer.

    Keras hands over control only after the update, so the layer named is the first one in layer
    order whose weights are not finite; where the forward pass itself overflowed, every layer is,
    and the message says so. The loop of `hbnn_larq.training` looks before the update and names
    the layer in which the value arose.

    # Raises
        FloatingPointError: in `fit`, after the step that went wrong.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Made after the first batch: a model without an input shape is built by it.
        self._finite: Callable[[], tf.Tensor] | None = None

    def _weights_are_finite(self) -> bool:
        if self._finite is None:
            variables = self.model.trainable_variables

            def finite() -> tf.Tensor:
                checks = [tf.reduce_all(tf.math.is_finite(_latent(v))) for v in variables]
                return tf.reduce_all(checks) if checks else tf.constant(True)

            self._finite = tf.function(finite)
        return bool(self._finite())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if np.all(np.isfinite(loss)) and self._weights_are_finite():
            return
        first = first_non_finite(self.model)
        if first is None:
            where = "the weights are still finite, so the loss or its targets are at fault"
        elif all(not _is_finite(v) for v in self.model.trainable_variables):
            where = "all weights, so the forward pass or the loss overflowed"
        else:
            where = f"first in {first}"
        raise FloatingPointError(
            f"training step {batch} (loss {loss}) left values that are not finite: {where}. "
            "Lower the learning rate, add warm-up, or look at the inputs of that layer."
        )


def first_non_finite(model: tf.keras.Model, inputs: Any = None) -> str | None:
    """Name of the first place in a model, in layer order, that holds NaN or infinity.

    # Arguments
        model: a built model.
        inputs: one batch. Where given, and where all weights are finite, the outputs of the
            layers on it are looked at too, in training mode; the model's state is put back.

    # Returns
        Such as `"weights of layer conv_2 (conv_2/kernel:0)"`, `"inputs"` or `"output of layer
        bn_3"`; None where everything is finite.
    """
    layers = list(model._flatten_layers(include_self=False))
    found = _first_weights([(layer, layer._trainable_weights) for layer in layers])
    if found is None and inputs is not None and getattr(model, "inputs", None):
        found = _first_output(model, inputs)
    # Last: a forward pass that overflows spoils the moving statistics of every later layer.
    return found or _first_weights([(layer, layer._non_trainable_weights) for layer in layers])


def _first_weights(
    layers: list[tuple[tf.keras.layers.Layer, list[tf.Variable]]],
) -> str | None:
    for layer, variables in layers:
        for variable in variables:
            if variable.dtype.is_floating and not _is_finite(variable):
                return f"weights of layer {layer.name} ({variable.name})"
    return None


def _first_output(model: tf.keras.Model, inputs: Any) -> str | None:
    if not np.all(np.isfinite(inputs)):
        return "inputs"
    layers = [layer for layer in model.layers if not isinstance(layer, tf.keras.layers.InputLayer)]
    state = [(variable, variable.numpy()) for variable in model.non_trainable_variables]
    try:
        outputs = tf.keras.Model(model.inputs, [layer.output for layer in layers])(
            inputs, training=True
        )
    finally:
        for variable, value in state:
            variable.assign(value)
    for layer, output in zip(layers, tf.nest.flatten(outputs), strict=True):
        if not np.all(np.isfinite(tf.cast(output, tf.float32).numpy())):
            return f"output of layer {layer.name}"
    return None


def _quantized(
    model: tf.keras.Model,
) -> Iterator[tuple[tf.keras.layers.Layer, str, QuantizedVariable]]:
    for layer in model._flatten_layers(include_self=False):
        for attribute in _KERNEL_ATTRIBUTES:
            variable = getattr(layer, attribute, None)
            if isinstance(variable, QuantizedVariable):
                yield layer, attribute, variable


def _mapped_kernels(
    model: tf.keras.Model,
) -> Iterator[tuple[str, QuantizedVariable, list[tf.Variable]]]:
    """Name, kernel and base points of each layer that has some."""

    def points(variable: QuantizedVariable) -> list[tf.Variable]:
        return getattr(variable.quantizer, "base_points", [])

    for name, variable in _named(model, lambda variable: bool(points(variable))):
        yield name, variable, points(variable)


def _named(
    model: tf.keras.Model, wanted: Callable[[QuantizedVariable], bool]
) -> Iterator[tuple[str, QuantizedVariable]]:
    """The wanted ones among the kernels of a model, by names of which each is there once."""
    taken: dict[str, QuantizedVariable] = {}
    for layer, attribute, variable in _quantized(model):
        if wanted(variable):
            name = layer.name if attribute == "kernel" else f"{layer.name}/{attribute}"
            name = _free(name, taken)
            taken[name] = variable
            yield name, variable


def _share(point: tf.Variable) -> float:
    ball = ball_of(_latent(point))
    assert ball is not None, f"{point.name} is a base point without a ball"
    return float(np.max(edge_share(_latent(point).numpy(), r=ball.r, axis=ball.axis)))


def _free(name: str, taken: dict[str, Any]) -> str:
    """`name`, or `name_2`, `name_3`, ... where two nested models use it."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _latent(variable: tf.Variable) -> tf.Variable:
    return variable.latent_variable if isinstance(variable, QuantizedVariable) else variable


def _is_finite(variable: tf.Variable) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(_latent(variable))))
