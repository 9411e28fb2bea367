"""Does the file compute what Keras computes? Image by image and sign by sign.

Two libraries add in different orders, so an activation next to zero may get another sign, and that
one sign then moves everything behind it. A plain comparison of logits cannot tell this from a
broken file. Here Keras runs several times:

1. freely: what a user sees (top-1, logits);
2. following the file: at each binary layer Keras continues with the signs the file computed there.
   So no difference travels on, each layer is judged alone, and whatever is not within rounding of
   zero is a fault of that layer's block;
3. following the file with every float weight moved a little, which measures what rounding can do.
   In whatever order a sum is made, its floating-point result is the exact sum for weights that are
   each off by a few roundings (Higham, Accuracy and Stability of Numerical Algorithms, section
   3.1). Sums of bits are moved as well, by as much of the largest they could be: LCE counts from
   there, and the float number it makes of the count is rounded. A difference smaller than what
   all this does to its channel is rounding. No threshold has to be guessed, and where large
   numbers cancel, as in a batch norm far from zero, it grows as it must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq import rebuilding
from hbnn_larq.edge.flatbuffer import Op, TFLiteFile, unpack_bits
from hbnn_larq.edge.metadata import strip
from hbnn_larq.edge.obstacles import SIGN_QUANTIZERS
from hbnn_larq.edge.running import Interpreter, as_inputs
from hbnn_larq.rebuilding import Layer

BATCH = 16
# How far weights are moved, relative to each: 128 roundings of float32, more than the sums in
# front of a sign need. On the zoo with random weights real files reached 1 % of what it gives.
NUDGE = 2.0**-17
DRAWS = 2  # for each batch of images: a single one may cancel by chance
# Where layers behind the last sign compute in eight bits, the difference is the price of that
# (0.7 % of the largest logit on the digits, 2 % on untrained nets): it tells gross faults only;
# weights are compared by themselves.
LOGITS_INT8 = 0.05


@dataclass(frozen=True)
class SignAgreement:
    """Signs of the activations that one binary layer reads.

    # Attributes
        compared: signs compared, over all images (and calls of a shared layer).
        differ: share that differs when both run freely.
        unexplained: signs that differ, while Keras follows the file, at an activation larger than
            rounding can make of zero.
        largest: the largest activation whose sign differs then, in units of that; above 1 is a
            fault.
    """

    compared: int
    differ: float
    unexplained: int
    largest: float


@dataclass(frozen=True)
class Agreement:
    """The file against Keras on some images.

    # Attributes
        images: how many.
        top1: share of images with the same largest output; None where outputs are no classes.
        logits_differ: share of logits that differ by more than rounding alone would.
        median_difference, max_difference: of all logits, absolute.
        followed_difference: largest difference when Keras follows the file's signs, as a share
            of the largest logit.
        logits_unexplained: logits that differ then by more than rounding (or eight bits) can do.
        signs: per binary layer (by path); empty for layers that the file computes in float.
        int8: whether the file computes anything in eight bits.
    """

    images: int
    top1: float | None
    logits_differ: float
    median_difference: float
    max_difference: float
    followed_difference: float
    logits_unexplained: int
    signs: Mapping[str, SignAgreement]
    int8: bool

    @property
    def faults(self) -> list[str]:
        """Differences that rounding does not explain."""
        faults = [
            f"{path}: {s.unexplained} of {s.compared} input signs differ from Keras though the "
            f"activation is up to {s.largest:.2g} times what rounding can make of zero"
            for path, s in self.signs.items()
            if s.unexplained
        ]
        if self.logits_unexplained:
            faults.append(
                f"{self.logits_unexplained} logits differ from Keras by up to "
                f"{self.followed_difference:.2g} of the largest logit though every sign is the same"
                + "; the file computes in int8, which may be why: convert without it and compare"
                * self.int8
            )
        return faults


def compare(
    model: tf.keras.Model, tflite: bytes, images: Any, ops: Mapping[str, list[Op]], *, call: str
) -> Agreement:
    """Compares a file with its folded model.

    # Arguments
        model: the folded model; while this runs its layers' `call` is wrapped and its weights are
            moved. Both are put back.
        tflite: the file.
        images: as for `predict`.
        ops: for each binary layer (by path) the binary convolutions that carry its weights.
        call: the public call that is running.
    """
    file = TFLiteFile(strip(tflite))
    int8 = any(op.name in ("QUANTIZE", "DEQUANTIZE") for op in file.ops)
    packed = {op.index: op.inputs[0] for calls in ops.values() for op in calls}
    n_outputs = len(file.outputs)
    file.graph.outputs = [*file.graph.outputs, *(t.index for t in packed.values() if t)]
    interpreter = Interpreter(file.to_bytes(), call=call)
    inputs = as_inputs(images, interpreter.inputs, call=call)
    count = len(inputs[0])

    rng = np.random.default_rng(0)
    sums = _NudgedSums(model, ops, rng)
    tally = {path: _Tally() for path in ops}
    logit_limit = np.zeros(1)
    free, followed, ours = [], [], []
    for start in range(0, count, BATCH):
        batch = [array[start : start + BATCH] for array in inputs]
        rows = [interpreter.run([a[i : i + 1] for a in batch]) for i in range(len(batch[0]))]
        columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
        ours.append(_flat(columns[:n_outputs]))
        reader = _Signs(ops, dict(zip(packed, columns[n_outputs:], strict=True)))
        with _watching(model, ops, reader.note):
            free.append(_run(model, batch))
        with _watching(model, ops, reader.follow):
            led = _run(model, batch)
        for _ in range(DRAWS):
            reader.rewind()
            with _nudged_weights(model, rng), _watching(model, ops, reader.measure, sums):
                logit_limit = np.maximum(logit_limit, _rounding(led, _run(model, batch)))
        for path, calls in reader.calls.items():
            tally[path].add(calls)
        followed.append(led)

    file_logits, logits, led = (np.concatenate(rows) for rows in (ours, free, followed))
    size = max(float(np.max(np.abs(led))), 1e-30)
    if int8:
        logit_limit = np.maximum(logit_limit, LOGITS_INT8 * size)
    difference = np.abs(file_logits - logits)
    led_difference = np.abs(file_logits - led)
    is_classes = n_outputs == 1 and logits.shape[1] > 1
    same_top = np.argmax(file_logits, 1) == np.argmax(logits, 1)
    return Agreement(
        images=count,
        top1=float(np.mean(same_top)) if is_classes else None,
        logits_differ=float(np.mean(_beyond(difference, logit_limit))),
        median_difference=float(np.median(difference)),
        max_difference=float(np.max(difference)),
        followed_difference=float(np.max(led_difference)) / size,
        logits_unexplained=int(np.sum(_beyond(led_difference, logit_limit))),
        signs={path: t.result() for path, t in tally.items() if t.compared},
        int8=int8,
    )


def _rounding(x: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """What rounding can do to each channel (last axis), from one run with moved weights."""
    axes = tuple(range(x.ndim - 1))
    return np.maximum(np.max(np.abs(moved - x), axis=axes), NUDGE * np.max(np.abs(x), axis=axes))


def _beyond(size: np.ndarray, limit: np.ndarray) -> np.ndarray:
    return ~(size <= limit)  # so that NaN is beyond any limit


@dataclass
class _Call:
    """One call of a binary layer: the activations its sign sees, and the file's signs for them."""

    op: int
    signs: np.ndarray
    differ: int  # when Keras runs freely
    followed: np.ndarray | None = None  # activations when it follows the file
    limit: np.ndarray | float = 0.0  # what rounding can do to each channel


class _Tally:
    """Sums over batches for one layer."""

    def __init__(self) -> None:
        self.compared = self.differ = 0
        self._limits: dict[int, np.ndarray] = {}  # per call of the layer and channel
        self._wrong: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add(self, calls: list[_Call]) -> None:
        for index, call in enumerate(calls):
            self.compared += call.signs.size
            self.differ += call.differ
            if call.followed is None:
                continue
            wrong = (call.followed >= 0) != (call.signs > 0)
            self._wrong.append((index, np.nonzero(wrong)[-1], np.abs(call.followed[wrong])))
            self._limits[index] = np.maximum(self._limits.get(index, 0.0), call.limit)

    def result(self) -> SignAgreement:
        shares = [
            size / np.maximum(self._limits[index][channel], 1e-30)
            for index, channel, size in self._wrong
        ]
        sizes = np.concatenate([np.zeros(0), *shares])
        return SignAgreement(
            compared=self.compared,
            differ=self.differ / self.compared,
            unexplained=int(np.sum(_beyond(sizes, np.ones(1)))),
            largest=float(np.max(sizes, initial=0.0)),
        )


class _Signs:
    """Pairs each call of a binary layer with the file's signs for it, for one batch of images.

    A shared layer is called several times and has several ops; the free run (`note`) pairs each
    call with the op whose signs it is nearest to, later runs (`follow`, `measure`) use that
    pairing.
    """

    def __init__(self, ops: Mapping[str, list[Op]], words: Mapping[int, np.ndarray]):
        self.ops, self.words = ops, words
        self.calls: dict[str, list[_Call]] = {path: [] for path in ops}
        self._next = dict.fromkeys(ops, 0)

    def note(self, path: str, x: np.ndarray) -> None:
        taken = {call.op for call in self.calls[path]}
        found = []
        for op in self.ops[path]:
            signs = None if op.index in taken else self._signs(op.index, x)
            if signs is not None:
                found.append(_Call(op.index, signs, int(np.sum((x >= 0) != (signs > 0)))))
        if found:
            self.calls[path].append(min(found, key=lambda call: call.differ))

    def rewind(self) -> None:
        """To be called between runs: the next one starts at the first call again."""
        self._next = dict.fromkeys(self.ops, 0)

    def follow(self, path: str, x: np.ndarray) -> np.ndarray | None:
        call = self._current(path, x)
        if call is None:
            return None
        call.followed = x
        return call.signs.astype(np.float32)

    def measure(self, path: str, x: np.ndarray) -> np.ndarray | None:
        call = self._current(path, x)
        if call is None or call.followed is None:
            return None
        call.limit = np.maximum(call.limit, _rounding(call.followed, x))
        return call.signs.astype(np.float32)

    def _current(self, path: str, x: np.ndarray) -> _Call | None:
        index = self._next[path]
        self._next[path] += 1
        calls = self.calls[path]
        return calls[index] if index < len(calls) and calls[index].signs.shape == x.shape else None

    def _signs(self, op: int, x: np.ndarray) -> np.ndarray | None:
        words = self.words[op]
        if words.ndim < 2 or words.shape[-1] != -(-x.shape[-1] // 32):
            return None
        signs = unpack_bits(words, x.shape[-1])
        return signs.reshape(x.shape) if signs.size == x.size else None


@contextmanager
def _nudged_weights(model: tf.keras.Model, rng: np.random.Generator) -> Iterator[None]:
    """While open, each float weight is off by NUDGE, up or down; binary kernels stay."""
    binary = {
        id(variable)
        for _, layer in rebuilding.named_layers(model)
        for _, variable in rebuilding.quantized_kernels(layer)
    }
    weights = [w for w in model.weights if id(w) not in binary and w.dtype.is_floating]
    before = [w.numpy() for w in weights]
    try:
        for weight, value in zip(weights, before, strict=True):
            weight.assign((value * (1 + NUDGE * _up_or_down(value.shape, rng))).astype(value.dtype))
        yield
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.assign(value)


class _NudgedSums:
    """Moves what a binary layer gives, up or down by NUDGE of the largest sum there could be."""

    def __init__(self, model: tf.keras.Model, layers: Mapping[str, Any], rng: np.random.Generator):
        self.rng = rng
        self.largest = {
            path: np.abs(value).reshape(-1, value.shape[-1]).sum(0)
            for path, layer in rebuilding.named_layers(model)
            if path in layers
            for value in [rebuilding.quantized_value(layer.kernel)]
        }

    def __call__(self, path: str, outputs: tf.Tensor) -> tf.Tensor:
        largest = self.largest[path]
        return outputs + (NUDGE * largest * _up_or_down(largest.shape, self.rng)).astype(np.float32)


def _up_or_down(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return 2.0 * rng.integers(0, 2, shape) - 1


@contextmanager
def _watching(
    model: tf.keras.Model,
    layers: Mapping[str, Any],
    watch: Callable[[str, np.ndarray], np.ndarray | None],
    nudge: Callable[[str, tf.Tensor], tf.Tensor] = lambda _, outputs: outputs,
) -> Iterator[None]:
    """While open, each listed layer shows its input to `watch` and goes on with its answer.

    Where the sign is a layer of its own, what it was given is shown, not the ±1 it gave. What the
    listed layers give passes through `nudge`.
    """
    signed: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}  # by id of the sign's output

    def sign_call(inputs: Any, *args: Any, _call: Any, **kw: Any) -> Any:
        outputs = _call(inputs, *args, **kw)
        signed[id(outputs)] = (outputs, inputs)
        return outputs

    def binary_call(
        inputs: Any, *args: Any, _path: str, _layer: Layer, _call: Any, **kw: Any
    ) -> Any:
        if not hasattr(inputs, "numpy"):  # it is being traced, inside another layer
            return _call(inputs, *args, **kw)
        _, shown = signed.get(id(inputs), (inputs, inputs))
        answer = watch(_path, _under_sign(_layer.input_quantizer, shown).numpy())
        if answer is None:
            return nudge(_path, _call(inputs, *args, **kw))
        with _passing(_layer.input_quantizer, tf.constant(answer)):
            return nudge(_path, _call(tf.constant(answer), *args, **kw))

    wrapped: list[Layer] = []
    for path, layer in rebuilding.named_layers(model):
        if path in layers:
            layer.call = partial(binary_call, _path=path, _layer=layer, _call=layer.call)
        elif _is_sign(layer):
            layer.call = partial(sign_call, _call=layer.call)
        else:
            continue
        wrapped.append(layer)
    try:
        yield
    finally:
        for layer in wrapped:
            del layer.call


def _under_sign(quantizer: Any, x: tf.Tensor) -> tf.Tensor:
    """What the sign in a quantizer is taken of: x, or x less a threshold, its mean, ...

    Read from the quantizer's graph. Where it holds no sign, what it gives is returned, so that a
    difference counts as one, and is not explained.
    """
    if not _is_more_than_a_sign(quantizer):
        return x
    traced = tf.compat.v1.wrap_function(quantizer, [tf.TensorSpec(x.shape, x.dtype)])
    sign = next((op for op in traced.graph.get_operations() if op.type == "Sign"), None)
    seen = traced.prune(traced.inputs[0], traced.outputs[0] if sign is None else sign.inputs[0])
    return seen(x)


@contextmanager
def _passing(quantizer: Any, signs: tf.Tensor) -> Iterator[None]:
    """While open, a quantizer that might change signs gives these."""
    if not _is_more_than_a_sign(quantizer) or not isinstance(quantizer, tf.keras.layers.Layer):
        yield
        return
    quantizer.call = lambda *_, **__: signs
    try:
        yield
    finally:
        del quantizer.call


def _is_more_than_a_sign(quantizer: Any) -> bool:
    """Whether it may give another sign than its input has; a plain one leaves ±1 as it is."""
    return quantizer is not None and not isinstance(quantizer, SIGN_QUANTIZERS)


def _is_sign(layer: Layer) -> bool:
    name = getattr(getattr(layer, "activation", None), "__name__", "")
    is_activation = type(layer) is tf.keras.layers.Activation
    return isinstance(layer, SIGN_QUANTIZERS) or (
        is_activation and name in ("ste_sign", "approx_sign")
    )


def _run(model: tf.keras.Model, batch: list[np.ndarray]) -> np.ndarray:
    tensors = [tf.constant(array) for array in batch]
    if isinstance(model, tf.keras.Sequential):
        outputs = model(tensors[0], training=False)
    else:
        outputs = model(tf.nest.pack_sequence_as(model.input, tensors), training=False)
    return _flat([y.numpy() for y in tf.nest.flatten(outputs)])


def _flat(outputs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([y.reshape(len(y), -1).astype(np.float64) for y in outputs], axis=1)
