"""Rewrites of a folded model after which the LCE file is smaller and its outputs are the same.

Each is one entry of `REWRITES` and can be left out by name: a function that looks at one layer of
a folded model and returns what is to stand in its place, with a line for the report.
The rewritten model is made to be converted; it is not meant to be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import larq as lq
import numpy as np
import tensorflow as tf

from hbnn_larq import rebuilding
from hbnn_larq.rebuilding import Config, Layer

__all__ = ["REWRITES", "Rewrite", "rewrite"]

_SIGNS = (lq.quantizers.SteSign, lq.quantizers.ApproxSign, lq.quantizers.SwishSign)
# sign(f(x)) = sign(x) for these, zero included.
_KEEP_SIGN = {"hard_tanh", "tanh", "softsign", "leaky_tanh"}
# Layers that only choose or move values: max(f(x)) = f(max(x)) for a rising f with f(0) = 0.
_LET_SIGN_THROUGH = (
    tf.keras.layers.MaxPool2D,
    tf.keras.layers.GlobalMaxPool2D,
    tf.keras.layers.Flatten,
    tf.keras.layers.Reshape,
    tf.keras.layers.Permute,
    tf.keras.layers.ZeroPadding2D,
    tf.keras.layers.Dropout,
)


@dataclass(frozen=True)
class Rewrite:
    """One change: which rewrite, at which layer, and what became of it."""

    name: str
    layer: str
    change: str


class Block(tf.keras.layers.Layer):
    """Several layers in the place of one. (clone_model lets only a plain layer replace a layer.)"""

    def __init__(self, layers: list[Layer], name: str):
        super().__init__(name=name)
        self.block = tf.keras.Sequential(layers, name=name)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.block(inputs)


class Nothing(tf.keras.layers.Layer):
    """Hands its first input on; stands where a layer was dropped, whatever it was called with."""

    def call(self, inputs: tf.Tensor, *_: Any, **__: Any) -> tf.Tensor:
        return inputs


def rewrite(
    model: tf.keras.Model, names: Collection[str], *, call: str
) -> tuple[tf.keras.Model, list[Rewrite]]:
    """Applies the named rewrites to a folded model.

    # Returns
        The new model (or the same one, where nothing was to be done) and the list of changes.

    # Raises
        ValueError: a name is not in `REWRITES`.
    """
    unknown = sorted(set(names) - set(REWRITES))
    if unknown:
        raise ValueError(
            f"{call}: there is no rewrite {', '.join(map(repr, unknown))}. There are "
            f"{', '.join(map(repr, REWRITES))}; rewrites=() turns all of them off."
        )
    changes: list[Rewrite] = []

    def edit(layer: Layer, config: Config) -> Layer | None:
        for name, replacement in REWRITES.items():
            result = replacement(layer, config) if name in names else None
            if result is not None:
                changes.append(Rewrite(name, layer.name, result[1]))
                return result[0]
        return None

    new, _ = rebuilding.rebuild(model, edit, call=call)
    return (new, changes) if changes else (model, [])


def dense_to_conv(layer: Layer, config: Config) -> tuple[Layer, str] | None:
    """A binary dense layer becomes a 1x1 binary convolution on a 1x1 image.

    LCE has no binary dense op, so a QuantDense would be stored in float: 28 times larger. The
    sums are whole numbers below 2**24 either way, so the outputs are equal bit for bit.
    """
    if type(layer) is not lq.layers.QuantDense or len(layer.input_shape) != 2:
        return None
    value = rebuilding.quantized_value(layer.kernel) if layer.kernel_quantizer else None
    if value is None or not isinstance(layer.input_quantizer, _SIGNS):
        return None
    if not rebuilding.is_plus_minus_one(value):
        return None
    inputs, units = value.shape
    conv = lq.layers.QuantConv2D(
        units,
        1,
        input_quantizer=config["input_quantizer"],
        kernel_quantizer=config["kernel_quantizer"],
        use_bias=layer.use_bias,
        activation=config["activation"],
        name=layer.name,
    )
    shapes = [tf.keras.layers.Reshape(shape) for shape in ((1, 1, inputs), (units,))]
    block = Block([tf.keras.Input((inputs,)), shapes[0], conv, shapes[1]], layer.name)
    bias = [layer.bias.numpy()] if layer.use_bias else []
    conv.set_weights([value[np.newaxis, np.newaxis], *bias])
    return block, f"QuantDense({units}) became a 1x1 binary convolution"


def drop_activations(layer: Layer, config: Config) -> tuple[Layer, str] | None:
    """A hard tanh, tanh or positive factor that only a sign sees is left out.

    sign(clip(x)) = sign(x). Left in, it costs an op and keeps the convolution before it from
    writing bits. Only layers whose every consumer is a sign are touched.
    """
    if not _keeps_sign(layer) or not _only_signs_see(layer):
        return None
    what = "a positive factor"
    if not isinstance(layer, tf.keras.layers.Rescaling):
        what = getattr(layer, "symbol", None) or layer.activation.__name__
    return Nothing(name=layer.name), f"{what} before a sign left out"


def split_scales(layer: Layer, config: Config) -> tuple[Layer, str] | None:
    """A kernel of ±alpha with alpha = 0 somewhere becomes a ±1 kernel and a factor behind it.

    One channel with a zero scale sends the whole layer to float; as a factor behind the
    convolution it is fused into it. Outputs are equal up to float rounding. Kernels without a
    zero scale convert as they are and are left alone.
    """
    if type(layer) is not lq.layers.QuantConv2D:
        return None
    if getattr(layer.kernel_quantizer, "precision", None) != 1:
        return None
    value = rebuilding.quantized_value(layer.kernel)
    scale = np.abs(value).reshape(-1, value.shape[-1]).max(0)
    signs = np.where(value < 0, -1, 1).astype(np.float32)
    if np.all(scale) or not np.any(scale) or not np.array_equal(signs * scale, value):
        return None
    conv_config = {
        **config,
        "kernel_quantizer": lq.quantizers.SteSign(name="ste_sign"),
        "use_bias": False,
        "activation": "linear",
    }
    conv = lq.layers.QuantConv2D.from_config(rebuilding.as_float32(conv_config))
    offset = layer.bias.numpy() if layer.use_bias else np.zeros_like(scale)
    factor = tf.keras.layers.Rescaling(scale.tolist(), offset.tolist())
    activation = tf.keras.layers.Activation(config["activation"])
    shape = tf.keras.Input(layer.input_shape[1:])
    block = Block([shape, conv, factor, activation], layer.name)
    conv.set_weights([signs])
    dead = int(np.sum(scale == 0))
    return block, f"±1 kernel and a factor per channel, {dead} of {scale.size} factors being 0"


REWRITES: dict[str, Callable[[Layer, Config], tuple[Layer, str] | None]] = {
    "dense_to_conv": dense_to_conv,
    "drop_activations": drop_activations,
    "split_scales": split_scales,
}


def _keeps_sign(layer: Layer) -> bool:
    if type(layer) is tf.keras.layers.Activation:
        name = getattr(layer.activation, "__name__", "")
        ours = layer.activation.__module__.startswith(("larq.", "keras."))
        return ours and name in _KEEP_SIGN
    if getattr(layer, "symbol", None) == "clip_by_value":  # Keras' layer for the plain op
        node = layer.inbound_nodes[0]
        limits = [*node.call_args[1:], *node.call_kwargs.values()]
        return (
            len(limits) == 2
            and all(isinstance(x, (int, float)) for x in limits)
            and (min(limits) < 0 < max(limits))
        )
    if type(layer) is tf.keras.layers.Rescaling:
        scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
        # A subnormal product could round to zero, which counts as +1.
        return bool(np.all(scale >= 2**-20) and not np.any(offset))
    return False


def _only_signs_see(layer: Layer) -> bool:
    consumers = list(_consumers(layer))
    return bool(consumers) and all(consumers)


def _consumers(layer: Layer) -> Iterator[bool]:
    """For each use of the layer's output: does it only matter by its sign?"""
    if not layer.outbound_nodes or len(layer.inbound_nodes) != 1:
        yield False  # an output of its model, or a layer called in several places
    for node in layer.outbound_nodes:
        consumer = node.outbound_layer
        if isinstance(getattr(consumer, "input_quantizer", None), _SIGNS):
            yield True
        elif isinstance(consumer, _LET_SIGN_THROUGH):
            yield _only_signs_see(consumer)
        else:
            yield False
