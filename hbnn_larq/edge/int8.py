"""Eight bits for the float layers behind the last sign: the classifier, above all.

LCE's converter makes a layer int8 where fake-quantization ops say in which range its input and
output lie; the ranges are measured on images. Layers in front of a sign are left float on purpose:
eight bits round small negative numbers to 0, which is +1 to the next binary layer
(larq/compute-engine #344). On untrained nets that changed the class of a third of the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq import rebuilding
from hbnn_larq.edge.rewrites import Block, Rewrite
from hbnn_larq.edge.running import as_inputs, inputs_of
from hbnn_larq.rebuilding import Config, Edit, Layer

# Room beyond the images measured: a logit cut off at the end of its range loses its rank. (On the
# digits the largest error fell from 11 % of the largest logit to 0.7 %.)
HEADROOM = 1.25
_KINDS = (tf.keras.layers.Dense, tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D)
Range = tuple[float, float]


class FakeQuantize(tf.keras.layers.Layer):
    """Rounds to 256 steps between two numbers; tells the converter a tensor's range."""

    def __init__(self, least: float, most: float, **kwargs: Any):
        super().__init__(**kwargs)
        # Zero must be one of the steps, and a range must not be empty.
        self.least, self.most = HEADROOM * min(least, 0.0), HEADROOM * max(most, 0.0)
        if self.least == self.most:
            self.most = 1.0

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.quantization.fake_quant_with_min_max_args(inputs, self.least, self.most, 8)


def ranges_around_float_layers(
    model: tf.keras.Model, images: Any, *, call: str
) -> tuple[Edit, list[Rewrite]]:
    """An edit that puts ranges around float layers, and the list that it fills with those layers.

    # Arguments
        model: the folded model that will be edited.
        images: representative inputs, preprocessed; an array or a list of arrays.
        call: the public call that is running.
    """
    # Only the outer graph: what comes behind a nested model is not to be seen from inside it.
    chosen = {id(layer) for layer in model.layers if _can_be_int8(layer)}
    ends = {id(_end(layer)) for layer in model.layers if id(layer) in chosen}
    checked = as_inputs(images, inputs_of(model), call=f"{call}, int8_images", taker="the model")
    before, after = _ranges(model, checked, chosen | ends)
    changes: list[Rewrite] = []

    def edit(layer: Layer, config: Config) -> Layer | None:
        if id(layer) not in chosen | ends or id(layer) not in before:
            return None
        new = type(layer).from_config(rebuilding.as_float32(config))
        layers = [tf.keras.Input(layer.input_shape[1:]), new]
        if id(layer) in chosen:
            layers.insert(1, FakeQuantize(*before[id(layer)]))
            changes.append(Rewrite("int8", layer.name, f"{type(layer).__name__} computes in int8"))
        if id(layer) in ends:
            layers.append(FakeQuantize(*after[id(layer)]))
        block = Block(layers, layer.name)
        new.set_weights(layer.get_weights())
        return block

    return edit, changes


def _can_be_int8(layer: Layer) -> bool:
    """A layer with float weights that is called once and has no quantized layer behind it."""
    return (
        type(layer) in _KINDS
        and len(layer.inbound_nodes) == 1
        and not any(_quantizes(behind) for behind in _behind(layer, set()))
    )


def _behind(layer: Layer, seen: set[int]) -> Iterator[Layer]:
    for node in layer.outbound_nodes:
        after = node.outbound_layer
        if id(after) not in seen:
            seen.add(id(after))
            yield after
            yield from _behind(after, seen)


def _quantizes(layer: Layer) -> bool:
    parts = [layer, *layer._flatten_layers(include_self=False)]
    return any(getattr(part, "input_quantizer", None) is not None for part in parts)


def _end(layer: Layer) -> Layer:
    """The batch norm that will be fused into the layer, or the layer itself."""
    after = [node.outbound_layer for node in layer.outbound_nodes]
    is_fused = (
        len(after) == 1
        and type(after[0]) is tf.keras.layers.BatchNormalization
        and len(after[0].inbound_nodes) == 1
    )
    return after[0] if is_fused else layer


def _ranges(
    model: tf.keras.Model, images: list[np.ndarray], wanted: set[int]
) -> tuple[dict[int, Range], dict[int, Range]]:
    """Smallest and largest input and output of each wanted layer over the images."""
    before: dict[int, Range] = {}
    after: dict[int, Range] = {}
    with _watched(model, wanted, before, after):
        for start in range(0, len(images[0]), 16):
            batch = [tf.constant(array[start : start + 16]) for array in images]
            if isinstance(model, tf.keras.Sequential):
                model(batch[0], training=False)
            else:
                model(tf.nest.pack_sequence_as(model.input, batch), training=False)
    return before, after


@contextmanager
def _watched(
    model: tf.keras.Model, wanted: set[int], before: dict[int, Range], after: dict[int, Range]
) -> Iterator[None]:
    layers = [layer for _, layer in rebuilding.named_layers(model) if id(layer) in wanted]
    for layer in layers:

        def call(inputs: Any, *args: Any, _layer: Any = layer, _call: Any = layer.call, **kw: Any):
            outputs = _call(inputs, *args, **kw)
            _widen(before, id(_layer), inputs)
            _widen(after, id(_layer), outputs)
            return outputs

        layer.call = call
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _widen(ranges: dict[int, Range], key: int, tensor: Any) -> None:
    if not hasattr(tensor, "numpy"):
        return  # being traced inside another layer: no numbers to see
    values = tensor.numpy()
    least, most = ranges.get(key, (np.inf, -np.inf))
    ranges[key] = (min(least, float(values.min())), max(most, float(values.max())))
