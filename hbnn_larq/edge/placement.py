"""Which op of the file computes which layer of the model, and why not a binary one.

The converter's tensor names are no guide (a fused op bears the name of its last part), but the
weights are: an op belongs to the layer whose kernel it carries. Fusing a batch norm scales a
float filter per output channel and may turn the signs of a binary one, so both are compared up to
one factor per channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from hbnn_larq import rebuilding
from hbnn_larq.edge.flatbuffer import BINARY_CONV, Op, TFLiteFile, unpack_bits
from hbnn_larq.edge.obstacles import obstacle, outgrows
from hbnn_larq.edge.rewrites import has_one_input_shape
from hbnn_larq.rebuilding import Layer

FLOAT_OPS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
ALIKE = 0.75  # below this similarity an op does not carry a kernel at all
ROUNDED = 1e-6  # share of a filter's largest weight: a fused batch norm rounds each a few times
ROUNDED_INT8 = 0.6  # steps: half a one, and the factor is only nearly known


@dataclass
class Kernel:
    """One kernel of the model: rows are output channels, in the file's order of weights."""

    path: str
    layer: Layer
    argument: str | None  # its quantizer argument; None for a layer of plain Keras
    rows: np.ndarray
    calls: int  # in one run of the model, so at most as many ops
    ops: list[Op] = field(default_factory=list)

    @property
    def one_bit(self) -> bool:
        return self.argument is not None and rebuilding.is_binary_by_intent(
            self.layer, self.argument
        )

    @property
    def layer_channels(self) -> int:
        """Input channels that one filter reads; the file packs 32 of them into a word."""
        return next(iter(_input_channels(self)), 1)


def kernels(model: tf.keras.Model) -> list[Kernel]:
    """Every kernel of the (folded) model that an op of the file could carry."""
    found = []
    calls = Counter(map(id, _calls(model)))
    for path, layer in rebuilding.named_layers(model):
        quantized = list(rebuilding.quantized_kernels(layer))
        times = calls[id(layer)]
        for argument, variable in quantized:
            name = rebuilding.QUANTIZED_KERNELS[argument]
            inner = f"{path}/{name}" if hasattr(layer, "pointwise_kernel") else path
            value = rebuilding.quantized_value(variable)
            rows = rebuilding.filters(layer, name, value)
            found.append(Kernel(inner, layer, argument, rows, times))
        if quantized:
            continue
        for name in ("depthwise_kernel", "pointwise_kernel", "kernel"):
            variable = getattr(layer, name, None)
            if isinstance(variable, tf.Variable) and variable.shape.rank >= 2:
                inner = f"{path}/{name}" if hasattr(layer, "pointwise_kernel") else path
                rows = rebuilding.filters(layer, name, variable.numpy())
                found.append(Kernel(inner, layer, None, rows, times))
    return found


def _calls(model: tf.keras.Model) -> Iterator[Layer]:
    """Every layer as often as one run of the model calls it, nested models entered."""
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            if isinstance(node.layer, tf.keras.Model):
                yield from _calls(node.layer)
            else:
                yield from node.layer._flatten_layers()


def place(found: list[Kernel], ops: list[Op]) -> None:
    """Fills `ops` of each kernel: best match first, each op once.

    An op beyond the first is only another call of a shared layer if it carries the very same
    weights.
    """
    matches = []
    for op in ops:
        for kernel in found:
            for channels in _input_channels(kernel):
                rows = op_rows(op, channels)
                if rows is not None and rows.shape == kernel.rows.shape:
                    matches.append((similarity(rows, kernel.rows), op, kernel))
                    break
    taken: set[int] = set()
    for score, op, kernel in sorted(matches, key=lambda match: -match[0]):
        if op.index in taken or score < ALIKE:
            continue
        if kernel.ops and not (_same_weights(kernel.ops[0], op) and len(kernel.ops) < kernel.calls):
            continue
        kernel.ops.append(op)
        taken.add(op.index)
    for kernel in found:
        kernel.ops.sort(key=lambda op: op.index)


def _same_weights(one: Op, other: Op) -> bool:
    a, b = one.inputs[1], other.inputs[1]
    if a is None or b is None or a.data is None or b.data is None:
        return False
    return np.array_equal(a.data, b.data)


def _input_channels(kernel: Kernel) -> list[int]:
    shape = [getattr(kernel.layer, name, None) for name in rebuilding.QUANTIZED_KERNELS.values()]
    return [int(v.shape[-2]) for v in shape if v is not None]


def op_rows(op: Op, channels: int) -> np.ndarray | None:
    """The op's filter as (output channels, weights), bits as ±1; None if it has none."""
    if op.name not in FLOAT_OPS and op.name != BINARY_CONV:
        return None
    filters = op.inputs[1]
    if filters is None or filters.data is None:
        return None
    data = filters.data
    if op.name == BINARY_CONV:
        if data.shape[-1] != -(-channels // 32):
            return None
        data = unpack_bits(data, channels)
    if op.name == "DEPTHWISE_CONV_2D":
        return data.reshape(-1, data.shape[-1]).T.astype(np.float32)
    return data.reshape(len(data), -1).astype(np.float32)


def similarity(rows: np.ndarray, kernel: np.ndarray) -> float:
    """Mean |cosine| of the two kernels' filters; 1 if equal up to one factor per output channel.

    Also 1 if equal up to one factor per input, which is what a batch norm in front leaves behind.
    """
    return max(float(np.mean(_cosines(*pair))) for pair in ((rows, kernel), (rows.T, kernel.T)))


def _cosines(rows: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(kernel, axis=1)
    return np.abs(np.sum(rows * kernel, axis=1)) / np.maximum(norms, 1e-30)


def _bits_in_padding(op: Op, channels: int) -> int:
    """Set bits beyond the channels: LCE counts them, and there they must all be 0."""
    filters = op.inputs[1]
    assert filters is not None and filters.data is not None
    return int(np.sum(unpack_bits(filters.data)[..., channels:] < 0))


def _unlike(rows: np.ndarray, kernel: np.ndarray, is_float: bool) -> np.ndarray:
    """Rows that are not the kernel's times one factor, up to the rounding of their type."""
    # Thousands of equal terms, summed in float32, are off by more than what is looked for.
    along = np.sum(rows * kernel, axis=1, dtype=np.float64)
    factor = along / np.maximum(np.sum(kernel**2, axis=1, dtype=np.float64), 1e-30)
    off = np.max(np.abs(rows - factor[:, np.newaxis] * kernel), axis=1)
    return off > (ROUNDED * np.max(np.abs(rows), axis=1) if is_float else ROUNDED_INT8)


def wrong_weights(kernel: Kernel) -> str | None:
    """What is wrong with the weights in the file, or None."""
    for op in kernel.ops:
        rows = op_rows(op, kernel.layer_channels)
        if rows is None:
            continue
        if op.name == BINARY_CONV:
            stray = _bits_in_padding(op, kernel.layer_channels)
            if stray:
                return f"{stray} bits are set in the padding behind its channels"
            same = rows == np.sign(kernel.rows)
            bits = np.minimum(np.sum(same, axis=1), np.sum(~same, axis=1))  # a filter may be turned
            if np.any(bits):
                where = ", ".join(map(str, np.flatnonzero(bits)[:8]))
                total = int(np.sum(bits))
                return f"{total} of {rows.size} weight bits differ (output channels {where})"
        else:
            precise = op.inputs[1] is not None and op.inputs[1].dtype.kind == "f"
            off = _unlike(rows, kernel.rows, precise)
            if np.any(off) and np.any(_unlike(rows.T, kernel.rows.T, precise)):
                where = ", ".join(map(str, np.flatnonzero(off)[:8]))
                return f"weights of {int(np.sum(off))} output channels differ ({where})"
    return None


def why_float(kernel: Kernel, file: TFLiteFile) -> tuple[str, str]:
    """(reason, fix) for a 1-bit kernel that the file does not compute with a binary op."""
    assert kernel.argument is not None
    found = obstacle(kernel.layer, kernel.argument)
    if found is not None and found.mended_by and not has_one_input_shape(kernel.layer):
        return found.reason, (
            f"call the layer by itself, on inputs of one shape: {found.mended_by} mends it then, "
            "and leaves a layer in a wrapper alone"
        )
    if found is not None:
        return found.reason, found.fix
    if not any(op.name.startswith("Lce") for op in file.ops):
        return (
            "the file has not one op of LCE, so another converter made it",
            "make it with hbnn convert, or edge.convert(model)",
        )
    return (
        "the converter did not recognize it",
        "compare the layer with one that converts: QuantConv2D with signs for input and kernel, "
        "padding 'same' with pad_values=1.0 or 'valid'",
    )


def why_wrong(kernel: Kernel) -> tuple[str, str]:
    """(reason, fix) for a kernel whose binary op LCE sums wrong, else blanks."""
    for op in kernel.ops:
        image, filters = op.inputs[0], op.inputs[1]
        if op.name != BINARY_CONV or image is None or filters is None:
            continue
        size, sides = image.shape[1:3], filters.shape[1:3]
        dilation = [op.options.get(f"dilation_{side}_factor", 1) for side in ("height", "width")]
        same = op.options.get("padding", 0) == 0
        if same and op.options.get("pad_values", 0) == 0 and outgrows(sides, dilation, size):
            dilated = "" if dilation == [1, 1] else f", dilated by {dilation[0]}x{dilation[1]}"
            fix = "pad_values=1.0"
            if has_one_input_shape(kernel.layer):
                fix = f'leave the rewrite "pad_with_ones" on in convert(), or {fix}'
            return (
                f"zeros pad its image of {size[0]}x{size[1]}, smaller than its "
                f"{sides[0]}x{sides[1]} kernel{dilated}, and LCE computes wrong sums there",
                fix,
            )
    return "", ""


def op_counts(ops: list[Op]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for op in ops:
        counts[op.name] = counts.get(op.name, 0) + 1
    return counts
