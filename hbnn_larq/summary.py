"""What a network costs once it is deployed, layer by layer, beside its float twin.

Larq's `lq.models.summary` counts bits as stored while training. This one counts what the
converted file holds: packed signs, batch normalisations folded into the convolution before them,
and no base points.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import larq as lq
import numpy as np
import tensorflow as tf
from larq.models import LayerProfile

from hbnn_larq import rebuilding
from hbnn_larq.optimizers import is_base_point

__all__ = ["LayerSummary", "ModelSummary", "summarize"]

FLOAT_BYTES = 4
MULTIPLYING = (tf.keras.layers.Conv2D, tf.keras.layers.Dense)
TRANSPOSED = (tf.keras.layers.Conv1DTranspose, tf.keras.layers.Conv2DTranspose)
WORD_BITS = 32  # the Compute Engine packs input channels into words of this many bits


@dataclass(frozen=True)
class LayerSummary:
    """One layer that has weights.

    # Attributes
        name: the layer's name; `outer/inner` inside a nested model.
        kind: its class, such as "QuantConv2D".
        weight_bits: bits of a weight that its arithmetic uses, 1 or 32; the fewest, where kernels
            of a layer differ.
        activation_bits: bits of the input that its arithmetic uses.
        output_shape: without the batch axis, `None` where it is not fixed.
        weights: number of deployed weights: no base points, and two a channel for a batch
            normalisation, whose statistics fold into its scale and offset.
        binary_weights: how many of these are signs.
        macs: multiply-adds for one image, or `None` where the layer does none or their number is
            open.
        binary_macs: how many of these are one bit operation: both factors are signs.
        bytes: what the converted file holds for the layer.
        float_bytes: the same in the float twin.
    """

    name: str
    kind: str
    weight_bits: int
    activation_bits: int
    output_shape: tuple[int | None, ...] | None
    weights: int
    binary_weights: int
    macs: int | None
    binary_macs: int
    bytes: int
    float_bytes: int


@dataclass(frozen=True)
class ModelSummary:
    """All layers with weights, and totals. `str(summary)` is the table."""

    name: str
    layers: tuple[LayerSummary, ...]
    base_points: int

    @property
    def binary_weights(self) -> int:
        return sum(layer.binary_weights for layer in self.layers)

    @property
    def real_weights(self) -> int:
        return sum(layer.weights for layer in self.layers) - self.binary_weights

    @property
    def binary_macs(self) -> int:
        return sum(layer.binary_macs for layer in self.layers)

    @property
    def real_macs(self) -> int:
        return sum(layer.macs or 0 for layer in self.layers) - self.binary_macs

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        return sum(layer.float_bytes for layer in self.layers)

    def to_json(self) -> str:
        """Layers and totals, the float twin's among them."""
        totals = {
            "binary_weights": self.binary_weights,
            "real_weights": self.real_weights,
            "binary_macs": self.binary_macs,
            "real_macs": self.real_macs,
            "bytes": self.bytes,
            "base_points_while_training": self.base_points,
        }
        twin = {
            "real_weights": self.binary_weights + self.real_weights,
            "real_macs": self.binary_macs + self.real_macs,
            "bytes": self.float_bytes,
        }
        layers = [dataclasses.asdict(layer) for layer in self.layers]
        return json.dumps(
            {"model": self.name, "layers": layers, "totals": totals, "float_twin": twin}, indent=2
        )

    def __str__(self) -> str:
        head = ("layer", "output", "bits w", "bits a", "weights", "MACs", "bytes", "float bytes")
        rows = [
            (
                layer.name,
                "x".join("?" if n is None else str(n) for n in layer.output_shape or ()) or "?",
                str(layer.weight_bits),
                str(layer.activation_bits) if layer.macs else "",
                f"{layer.weights:,}",
                f"{layer.macs:,}" if layer.macs else "",
                f"{layer.bytes:,}",
                f"{layer.float_bytes:,}",
            )
            for layer in self.layers
        ]
        total = (
            *("total", "", "", ""),
            f"{self.binary_weights + self.real_weights:,}",
            f"{self.binary_macs + self.real_macs:,}",
            f"{self.bytes:,}",
            f"{self.float_bytes:,}",
        )
        widths = [max(map(len, column)) for column in zip(head, *rows, total, strict=True)]

        def line(cells: tuple[str, ...]) -> str:
            texts = [cells[0].ljust(widths[0])]
            texts += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            return "  ".join(texts).rstrip()

        rule = "-" * (sum(widths) + 2 * len(widths) - 2)
        macs = max(1, self.binary_macs + self.real_macs)
        lines = [self.name, line(head), rule, *map(line, rows), rule, line(total), ""]
        lines += [
            f"binary     {self.binary_weights:,} weights, {self.binary_macs:,} MACs "
            f"({self.binary_macs / macs:.1%})",
            f"real       {self.real_weights:,} weights, {self.real_macs:,} MACs",
            f"deployed   {self.bytes:,} bytes of weights, float twin {self.float_bytes:,} "
            f"({self.float_bytes / max(1, self.bytes):.1f}x)",
        ]
        if self.base_points:
            lines.append(f"training   {self.base_points:,} base points more, none of them deployed")
        return "\n".join(lines)


def summarize(model: tf.keras.Model) -> ModelSummary:
    r"""Bits, shapes, multiply-adds and deployed bytes of every layer with weights.

    Bytes are those of the weights in the file that the converter writes: a binary convolution
    packs the input channels of each tap into 32-bit words,

    \\[ 4 \, h \, w \, \lceil c_\text{in} / 32 \rceil \, c_\text{out}, \\]

    and holds a scale and an offset for each output channel (only a threshold where all it feeds
    is binary again: up to 4 bytes a channel less than counted here). Everything else is float32.
    There is no deployed form with binary weights and real activations, nor a binary dense layer:
    such layers count as float. The graph around the weights adds some 300 bytes an operation.

    !!! example
        ```python
        print(hbnn_larq.summary.summarize(hbnn_larq.zoo.ResNet18()))
        ```

    # Arguments
        model: a built Keras model, with Larq layers or without.

    # Returns
        A `ModelSummary`.

    # Raises
        TypeError: `model` is no Keras model.
        ValueError: the model has no weights yet.
    """
    if not isinstance(model, tf.keras.Model):
        raise TypeError(f"summarize(model): expected a tf.keras.Model, got {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"summarize(model): {model.name!r} has no weights yet. Call model.build(input_shape), "
            "or call it on a batch of images once."
        )
    layers = [
        _layer(path, layer)
        for path, layer in rebuilding.named_layers(model)
        if layer.weights and not isinstance(layer, tf.keras.Model | tf.keras.layers.Wrapper)
    ]
    points = sum(int(np.prod(w.shape)) for w in model.trainable_weights if is_base_point(w))
    return ModelSummary(model.name, tuple(layers), points)


def _layer(path: str, layer: tf.keras.layers.Layer) -> LayerSummary:
    profile = LayerProfile(layer)
    shape = profile.output_shape
    return LayerSummary(
        name=path,
        kind=type(layer).__name__,
        weight_bits=min((p.bitwidth for p in profile.weight_profiles), default=32),
        activation_bits=profile.input_precision or 32,
        output_shape=tuple(None if n == -1 else n for n in shape[1:])
        if isinstance(shape, tuple)
        else None,
        weights=profile.weight_count(),
        binary_weights=profile.weight_count(1),
        macs=_macs(layer, profile),
        binary_macs=_macs(layer, profile, 1) or 0,
        bytes=_bytes(layer, profile, twin=False),
        float_bytes=_bytes(layer, profile, twin=True),
    )


def _macs(
    layer: tf.keras.layers.Layer, profile: LayerProfile, precision: int | None = None
) -> int | None:
    """Multiply-adds, of this precision alone if one is given; None where their number is open."""
    if not profile.op_profiles or profile.op_count("mac") is None:
        return None
    # Each weight works once for each pixel of the output, of a transposed convolution of the
    # input; Larq counts the output's in both, and an open size as 1.
    shape = layer.input_shape if isinstance(layer, TRANSPOSED) else layer.output_shape
    first = getattr(layer, "data_format", None) == "channels_first"
    pixels = shape[2:] if first else shape[1:-1]
    if None in pixels:
        return None
    operations = (o for o in profile.op_profiles if precision in (None, o.precision))
    return sum(o.n // profile.output_pixels for o in operations) * math.prod(pixels)


def _is_binary_op(layer: tf.keras.layers.Layer, profile: LayerProfile) -> bool:
    """Whether the converter has a binary operation for the layer: an ungrouped 2D convolution."""
    return (
        isinstance(layer, lq.layers.QuantConv2D)
        and layer.groups == 1
        and profile.input_precision == 1
        and profile.weight_profiles[0].bitwidth == 1
    )


def _bytes(layer: tf.keras.layers.Layer, profile: LayerProfile, twin: bool) -> int:
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        return _batch_norm_bytes(layer, profile.weight_count() // 2, twin)
    if _is_binary_op(layer, profile) and not twin:
        height, width, channels, filters = layer.kernel.shape
        words = height * width * math.ceil(channels / WORD_BITS) * filters
        return words * WORD_BITS // 8 + 2 * FLOAT_BYTES * filters
    return FLOAT_BYTES * profile.weight_count()


def _batch_norm_bytes(layer: tf.keras.layers.Layer, channels: int, twin: bool) -> int:
    """What is left of a batch normalisation once its neighbours have taken in what they can."""
    before, after = _neighbours(layer)
    if isinstance(before, MULTIPLYING):
        if _is_binary_op(before, LayerProfile(before)) and not twin:
            return 0  # the operation has a scale and an offset anyway
        return 0 if before.use_bias else FLOAT_BYTES * channels
    if isinstance(after, tf.keras.layers.Dense):
        return 0 if after.use_bias else FLOAT_BYTES * after.units
    return 2 * FLOAT_BYTES * channels


def _neighbours(layer: tf.keras.layers.Layer) -> tuple[Any, Any]:
    """The only layer before and the only layer behind, each `None` where there is not just one."""
    before = [node.inbound_layers for node in layer.inbound_nodes]
    after = [node.layer for node in layer.outbound_nodes]
    return (
        before[0] if len(before) == 1 and isinstance(before[0], tf.keras.layers.Layer) else None,
        after[0] if len(after) == 1 else None,
    )
