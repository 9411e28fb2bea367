"""Does the file compute what Keras computes? Image by image and sign by sign.

Two libraries add in different orders, so an activation next to zero may get another sign, and that
one sign then moves everything behind it. A plain comparison of logits cannot tell this from a
broken file. Here Keras runs twice:

1. freely: what a user sees (top-1, logits);
2. following the file: at each binary layer Keras continues with the signs the file computed there.
   So no difference travels on, each layer is judged alone, and whatever is not within rounding of
   zero is a fault of that layer's block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq.edge.flatbuffer import Op, TFLiteFile, unpack_bits
from hbnn_larq.edge.metadata import strip
from hbnn_larq.edge.running import Interpreter, as_inputs
from hbnn_larq.rebuilding import Layer

BATCH = 16
# A sign is rounding's if the activation is below this share of the layer's largest one. Rounding
# was seen to reach 3e-5 (behind a clip, which cuts the largest); a binary sum that is off by the
# least it can be, 2 of 4,608, moves an activation by 6e-3.
NEAR_ZERO = 5e-4
# The same for logits when Keras follows the file's signs, as a share of the largest logit.
LOGITS = 1e-3
# Where layers behind the last sign compute in eight bits, the difference is the price of that
# (0.7 % on the digits, 2 % on untrained nets): it tells gross faults only; weights are compared
# by themselves.
LOGITS_INT8 = 0.05


@dataclass(frozen=True)
class SignAgreement:
    """Signs of the activations that one binary layer reads.

    # Attributes
        compared: signs compared, over all images (and calls of a shared layer).
        differ: share that differs when both run freely.
        unexplained: signs that differ far from zero while Keras follows the file.
        largest: the largest such activation, as a share of the layer's largest.
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
        signs: per binary layer (by path); empty for layers that the file computes in float.
    """

    images: int
    top1: float | None
    logits_differ: float
    median_difference: float
    max_difference: float
    followed_difference: float
    signs: Mapping[str, SignAgreement]
    logit_tolerance: float

    @property
    def faults(self) -> list[str]:
        """Differences that rounding does not explain."""
        faults = [
            f"{path}: {s.unexplained} of {s.compared} input signs differ from Keras though the "
            f"activation is up to {s.largest:.1%} of the layer's largest"
            for path, s in self.signs.items()
            if s.unexplained
        ]
        if not self.followed_difference <= self.logit_tolerance:
            faults.append(
                "logits differ from Keras by up to "
                f"{self.followed_difference:.1%} of the largest logit though every sign is the same"
                + "; the file computes in int8, which may be why: convert without it and compare"
                * (self.logit_tolerance == LOGITS_INT8)
            )
        return faults


def compare(
    model: tf.keras.Model, tflite: bytes, images: Any, ops: Mapping[str, list[Op]], *, call: str
) -> Agreement:
    """Compares a file with its folded model.

    # Arguments
        model: the folded model; the layers' `call` is wrapped while this runs.
        tflite: the file.
        images: as for `predict`.
        ops: for each binary layer (by path) the binary convolutions that carry its weights.
        call: the public call that is running.
    """
    file = TFLiteFile(strip(tflite))
    quantized = any(op.name in ("QUANTIZE", "DEQUANTIZE") for op in file.ops)
    packed = {op.index: op.inputs[0] for calls in ops.values() for op in calls}
    n_outputs = len(file.outputs)
    file.graph.outputs = [*file.graph.outputs, *(t.index for t in packed.values() if t)]
    interpreter = Interpreter(file.to_bytes(), call=call)
    inputs = as_inputs(images, interpreter, call=call)
    count = len(inputs[0])

    tally = {path: _Tally() for path in ops}
    free, followed, ours = [], [], []
    for start in range(0, count, BATCH):
        batch = [array[start : start + BATCH] for array in inputs]
        rows = [interpreter.run([a[i : i + 1] for a in batch]) for i in range(len(batch[0]))]
        columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
        ours.append(_flat(columns[:n_outputs]))
        words = dict(zip(packed, columns[n_outputs:], strict=True))
        reader = _Signs(ops, words)
        with _watching(model, ops, reader.note):
            free.append(_run(model, batch))
        for path, seen in reader.free.items():
            tally[path].add_free(seen)
        with _watching(model, ops, reader.follow):
            followed.append(_run(model, batch))
        for path, seen in reader.followed.items():
            tally[path].add_followed(seen, NEAR_ZERO)

    file_logits, logits, led = (np.concatenate(rows) for rows in (ours, free, followed))
    size = max(float(np.max(np.abs(led))), 1e-30)
    difference = np.abs(file_logits - logits)
    followed_difference = float(np.max(np.abs(file_logits - led))) / size
    is_classes = n_outputs == 1 and logits.shape[1] > 1
    same_top = np.argmax(file_logits, 1) == np.argmax(logits, 1)
    return Agreement(
        images=count,
        top1=float(np.mean(same_top)) if is_classes else None,
        logits_differ=float(np.mean(difference > 1e-5 * size)),
        median_difference=float(np.median(difference)),
        max_difference=float(np.max(difference)),
        followed_difference=followed_difference,
        signs={path: t.result() for path, t in tally.items() if t.compared},
        logit_tolerance=LOGITS_INT8 if quantized else LOGITS,
    )


class _Tally:
    """Sums over batches for one layer."""

    def __init__(self) -> None:
        self.compared = self.differ = self.unexplained = 0
        self.largest = 0.0

    def add_free(self, seen: list[tuple[np.ndarray, np.ndarray]]) -> None:
        for x, signs in seen:
            self.compared += signs.size
            self.differ += int(np.sum((x >= 0) != (signs > 0)))

    def add_followed(self, seen: list[tuple[np.ndarray, np.ndarray]], near_zero: float) -> None:
        for x, signs in seen:
            size = float(np.max(np.abs(x)))
            wrong = np.abs(x[(x >= 0) != (signs > 0)]) / max(size, 1e-30)
            self.unexplained += int(np.sum(wrong > near_zero))
            self.largest = max(self.largest, float(np.max(wrong, initial=0.0)))

    def result(self) -> SignAgreement:
        return SignAgreement(
            self.compared, self.differ / self.compared, self.unexplained, self.largest
        )


class _Signs:
    """Pairs each call of a binary layer with the file's signs for it.

    A shared layer is called several times and has several ops; the free run pairs each call with
    the op whose signs it is nearest to, the second run uses that pairing.
    """

    def __init__(self, ops: Mapping[str, list[Op]], words: Mapping[int, np.ndarray]):
        self.ops, self.words = ops, words
        self.free: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self.followed: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._taken: dict[str, list[int]] = {}

    def note(self, path: str, x: np.ndarray) -> None:
        taken = self._taken.setdefault(path, [])
        best: tuple[float, int, np.ndarray] | None = None
        for op in self.ops[path]:
            signs = self._signs(op.index, x)
            if op.index in taken or signs is None:
                continue
            agree = float(np.mean((x >= 0) == (signs > 0)))
            if best is None or agree > best[0]:
                best = (agree, op.index, signs)
        if best is not None:
            taken.append(best[1])
            self.free.setdefault(path, []).append((x, best[2]))

    def follow(self, path: str, x: np.ndarray) -> np.ndarray | None:
        queue = self._taken.get(path, [])
        signs = self._signs(queue.pop(0), x) if queue else None
        if signs is None:
            return None
        self.followed.setdefault(path, []).append((x, signs))
        return signs.astype(np.float32)

    def _signs(self, op: int, x: np.ndarray) -> np.ndarray | None:
        words = self.words[op]
        if words.ndim < 2 or words.shape[-1] != -(-x.shape[-1] // 32):
            return None
        signs = unpack_bits(words, x.shape[-1])
        return signs.reshape(x.shape) if signs.size == x.size else None


@contextmanager
def _watching(
    model: tf.keras.Model,
    layers: Mapping[str, Any],
    watch: Callable[[str, np.ndarray], np.ndarray | None],
) -> Iterator[None]:
    """While open, each listed layer shows its input to `watch` and goes on with its answer."""
    from hbnn_larq.rebuilding import named_layers

    wrapped: list[Layer] = []
    for path, layer in named_layers(model):
        if path not in layers:
            continue
        original = layer.call

        def call(
            inputs: Any, *args: Any, _path: str = path, _call: Any = original, **kw: Any
        ) -> Any:
            if hasattr(inputs, "numpy"):  # else it is being traced, inside another layer
                answer = watch(_path, inputs.numpy())
                inputs = inputs if answer is None else tf.constant(answer)
            return _call(inputs, *args, **kw)

        layer.call = call
        wrapped.append(layer)
    try:
        yield
    finally:
        for layer in wrapped:
            del layer.call


def _run(model: tf.keras.Model, batch: list[np.ndarray]) -> np.ndarray:
    tensors = [tf.constant(array) for array in batch]
    if isinstance(model, tf.keras.Sequential):
        outputs = model(tensors[0], training=False)
    else:
        outputs = model(tf.nest.pack_sequence_as(model.input, tensors), training=False)
    return _flat([y.numpy() for y in tf.nest.flatten(outputs)])


def _flat(outputs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([y.reshape(len(y), -1).astype(np.float64) for y in outputs], axis=1)
