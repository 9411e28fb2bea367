"""Rewrites of a folded model after which the LCE file is smaller, or right where LCE would err.

Each is one entry of `REWRITES` and can be left out by name: a function that looks at one layer of
a folded model and returns what is to stand in its place, with a line for the report. Its outputs
are those of the layer. Where one that is to save bytes might make the file larger, as for a dense
layer of a hundred weights, both are converted and weighed, and the smaller one stays.
The rewritten model is made to be converted; it is not meant to be saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import larq as lq
import numpy as np
import tensorflow as tf

from hbnn_larq import rebuilding
from hbnn_larq.edge.obstacles import SIGN_QUANTIZERS, ZERO_SCALE, obstacle, outgrows
from hbnn_larq.rebuilding import Config, Edit, Layer

__all__ = ["REWRITES", "Rewrite", "rewrite"]

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


# What an op of its own costs beyond its weights, generously: weights saved beyond that need no
# weighing.
OVERHEAD = 4096


@dataclass(frozen=True)
class Rewrite:
    """One change: which rewrite, at which layer, and what became of it; or why it was skipped."""

    name: str
    layer: str
    change: str
    skipped: bool = False


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
    model: tf.keras.Model,
    names: Collection[str],
    *,
    call: str,
    size: Callable[[tf.keras.Model], int],
    also: Edit | None = None,
) -> tuple[tf.keras.Model, list[Rewrite]]:
    """Applies the named rewrites to a folded model, each where it does not make the file larger.

    # Arguments
        model: a folded model.
        names: of the rewrites to apply.
        call: the public call that is running.
        size: converts a model and gives the bytes of its file.
        also: an edit for layers that no rewrite touches, made in the same go.

    # Returns
        The new model (or the same one, where nothing was to be done) and the list of changes.

    # Raises
        ValueError: a name is not in `REWRITES`.
    """
    if isinstance(names, str):
        raise ValueError(f"{call}: rewrites={names!r} is one name; give several: ({names!r},)")
    unknown = sorted(set(names) - set(REWRITES))
    if unknown:
        raise ValueError(
            f"{call}: there is no rewrite {', '.join(map(repr, unknown))}. There are "
            f"{', '.join(map(repr, REWRITES))}; rewrites=() turns all of them off."
        )
    changes: list[Rewrite] = []
    owners = model._flatten_layers()  # nested models have outputs of their own
    outputs = {id(layer) for owner in owners for layer in getattr(owner, "_output_layers", ())}

    def edit(layer: Layer, config: Config) -> Layer | None:
        for name, replacement in REWRITES.items():
            result = replacement(layer, config, outputs) if name in names else None
            if result is None:
                continue
            new, change = result
            growth = 0 if name in CORRECTIONS else _growth(layer, config, new, size)
            if growth > 0:
                change = f"left as it is: the file would be {growth} bytes larger"
            changes.append(Rewrite(name, layer.name, change, skipped=growth > 0))
            if growth <= 0:
                return new
        return also(layer, config) if also is not None else None

    new, _ = rebuilding.rebuild(model, edit, call=call)
    done = also is not None or any(not change.skipped for change in changes)
    return (new, changes) if done else (model, changes)


def _growth(layer: Layer, config: Config, new: Layer, size: Callable[[tf.keras.Model], int]) -> int:
    """Bytes by which `new` alone makes a larger file than `layer` alone; weighed where in doubt."""
    if not isinstance(new, Block) or _bytes_saved(layer) > OVERHEAD:
        return 0
    copy = type(layer).from_config(rebuilding.as_float32(config))
    alone = tf.keras.Sequential([tf.keras.Input(layer.input_shape[1:]), copy])
    copy.set_weights(layer.get_weights())
    return size(new.block) - size(alone)


def _bytes_saved(layer: Layer) -> int:
    """Bytes of the kernel in float beyond those at one bit."""
    *_, channels, filters = layer.kernel.shape
    count = int(np.prod(layer.kernel.shape))
    return 4 * (count - count // channels * -(-channels // 32)) - 8 * filters


def dense_to_conv(layer: Layer, config: Config, _: Collection[int]) -> tuple[Layer, str] | None:
    """A binary dense layer becomes a 1x1 binary convolution, on a 1x1 image where it has none.

    LCE has no binary dense op, so a QuantDense would be stored in float: 28 times larger. The
    sums of a ±1 kernel are whole numbers below 2**24 either way, so the outputs are equal bit for
    bit; factors of a scaled sign go behind the convolution, equal up to float rounding.
    """
    if type(layer) is not lq.layers.QuantDense or not has_one_input_shape(layer):
        return None
    parts = _signs_and_scale(layer)
    if parts is None or not isinstance(layer.input_quantizer, SIGN_QUANTIZERS):
        return None
    signs, scale = parts
    units = signs.shape[1]
    *places, inputs = layer.input_shape[1:]
    image = places if len(places) == 2 else (1, math.prod(places))
    conv = lq.layers.QuantConv2D(
        units,
        1,
        input_quantizer=config["input_quantizer"],
        kernel_quantizer=lq.quantizers.SteSign(name="ste_sign"),
        use_bias=False,
        name=layer.name,
    )
    block = Block(
        [
            tf.keras.Input((*places, inputs)),
            tf.keras.layers.Reshape((*image, inputs)),
            conv,
            *_behind_signs(layer, config, scale),
            tf.keras.layers.Reshape((*places, units)),
        ],
        layer.name,
    )
    conv.set_weights([signs[np.newaxis, np.newaxis]])
    return block, f"QuantDense({units}) became a 1x1 binary convolution"


def drop_activations(
    layer: Layer, config: Config, outputs: Collection[int]
) -> tuple[Layer, str] | None:
    """A hard tanh, tanh or positive factor that only a sign sees is left out.

    sign(clip(x)) = sign(x). Left in, it costs an op and keeps the convolution before it from
    writing bits. Only layers whose every consumer is a sign are touched, and no output of a model.
    """
    if not _keeps_sign(layer) or not _only_signs_see(layer, outputs):
        return None
    what = "a positive factor"
    if not isinstance(layer, tf.keras.layers.Rescaling):
        what = getattr(layer, "symbol", None) or layer.activation.__name__
    return Nothing(name=layer.name), f"{what} before a sign left out"


def split_scales(layer: Layer, config: Config, _: Collection[int]) -> tuple[Layer, str] | None:
    """A kernel of ±alpha with alpha = 0 somewhere becomes a ±1 kernel and a factor behind it.

    One channel with a zero scale sends the whole layer to float; as a factor behind the
    convolution it is fused into it. Outputs are equal up to float rounding. Kernels without a
    zero scale convert as they are and are left alone.
    """
    if type(layer) is not lq.layers.QuantConv2D or not has_one_input_shape(layer):
        return None
    parts = _signs_and_scale(layer)
    if parts is None or np.all(parts[1] > ZERO_SCALE) or not np.any(parts[1]):
        return None
    signs, scale = parts
    conv = _of_signs(config)
    shape = tf.keras.Input(layer.input_shape[1:])
    block = Block([shape, conv, *_behind_signs(layer, config, scale)], layer.name)
    _fill(conv, signs, layer)
    dead = int(np.sum(scale <= ZERO_SCALE))
    return block, f"±1 kernel and a factor per channel, {dead} of {scale.size} factors being 0"


def pad_with_ones(layer: Layer, config: Config, _: Collection[int]) -> tuple[Layer, str] | None:
    """Zeros around an image smaller than the kernel become ones, whose share is taken off again.

    LCE sums wrong there (`obstacles.outgrows`). What ones around an image add to a sum depends on
    the place and the channel alone: it is the sum of the weights that stand outside. Sums of ±1
    are whole numbers, so the outputs are equal bit for bit; factors of a scaled sign go behind, as
    in `split_scales`.
    """
    if type(layer) is not lq.layers.QuantConv2D or not has_one_input_shape(layer):
        return None
    if layer.padding != "same" or tf.is_tensor(layer.pad_values) or layer.pad_values != 0:
        return None
    parts = _signs_and_scale(layer)
    found = obstacle(layer, "kernel_quantizer")
    if parts is None or not (found is None or found.mended_by == "split_scales"):
        return None
    size = layer.input_shape[1:3]
    if not outgrows(layer.kernel_size, layer.dilation_rate, size):
        return None
    signs, scale = parts
    inside = tf.nn.conv2d(
        tf.ones((1, *layer.input_shape[1:])),
        signs,
        layer.strides,
        "SAME",
        dilations=layer.dilation_rate,
    )
    outside = np.sum(signs, axis=(0, 1, 2)) - inside[0].numpy()
    conv = _of_signs({**config, "pad_values": 1.0})
    block = Block(
        [
            tf.keras.Input(layer.input_shape[1:]),
            conv,
            # Moves nothing, and keeps the converter from an addition over height and width right
            # behind a binary convolution, of which it makes a file that does not load.
            tf.keras.layers.MaxPool2D(1),
            tf.keras.layers.Rescaling(1.0, (-outside).tolist()),
            *_behind_signs(layer, config, scale),
        ],
        layer.name,
    )
    _fill(conv, signs, layer)
    image, kernel = ("x".join(map(str, side)) for side in (size, layer.kernel_size))
    return block, (
        f"padded with ones, whose share is taken off behind it: LCE sums zeros wrong around an "
        f"image of {image}, smaller than its {kernel} kernel"
    )


def has_one_input_shape(layer: Layer) -> bool:
    """Not so in a wrapper, where Keras knows none, and where the inputs of calls differ."""
    return None not in getattr(layer, "input_shape", (None, None))[1:]


def _signs_and_scale(layer: Layer) -> tuple[np.ndarray, np.ndarray] | None:
    """A 1-bit kernel as ±1 and a factor per output channel, where it is just that."""
    if getattr(layer.kernel_quantizer, "precision", None) != 1:
        return None
    value = rebuilding.quantized_value(layer.kernel)
    scale = np.abs(value).reshape(-1, value.shape[-1]).max(0)
    signs = np.where(value < 0, -1, 1).astype(np.float32)
    return (signs, scale) if np.array_equal(signs * scale, value) else None


def _of_signs(config: Config) -> lq.layers.QuantConv2D:
    """The convolution of this config with a plain sign for a kernel and nothing behind it."""
    plain = {
        **config,
        "kernel_quantizer": lq.quantizers.SteSign(name="ste_sign"),
        "use_bias": False,
        "activation": "linear",
    }
    return lq.layers.QuantConv2D.from_config(rebuilding.as_float32(plain))


def _fill(conv: Layer, signs: np.ndarray, layer: Layer) -> None:
    """The signs, and what the input quantizer of the layer keeps, such as a clock."""
    conv.kernel.assign(signs)
    if isinstance(layer.input_quantizer, tf.keras.layers.Layer):
        conv.input_quantizer.set_weights(layer.input_quantizer.get_weights())


def _behind_signs(layer: Layer, config: Config, scale: np.ndarray) -> list[Layer]:
    """The factors, bias and activation of a layer whose kernel is now ±1."""
    offset = layer.bias.numpy() if layer.use_bias else np.zeros_like(scale)
    layers: list[Layer] = []
    if np.any(scale != 1) or layer.use_bias:
        layers.append(tf.keras.layers.Rescaling(scale.tolist(), offset.tolist()))
    if layer.activation is not tf.keras.activations.linear:
        layers.append(tf.keras.layers.Activation(config["activation"]))
    return layers


# From a layer, its config and the ids of all output layers.
REWRITES: dict[str, Callable[[Layer, Config, Collection[int]], tuple[Layer, str] | None]] = {
    "dense_to_conv": dense_to_conv,
    "drop_activations": drop_activations,
    "pad_with_ones": pad_with_ones,
    "split_scales": split_scales,
}
# Not for size: they stay though the file gets larger.
CORRECTIONS = ("pad_with_ones",)


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


def _only_signs_see(layer: Layer, outputs: Collection[int]) -> bool:
    consumers = list(_consumers(layer, outputs))
    return bool(consumers) and all(consumers)


def _consumers(layer: Layer, outputs: Collection[int]) -> Iterator[bool]:
    """For each use of the layer's output: does it only matter by its sign?"""
    if id(layer) in outputs or len(layer.inbound_nodes) != 1:
        yield False  # an output of its model, or a layer called in several places
    for node in layer.outbound_nodes:
        consumer = node.outbound_layer
        if isinstance(getattr(consumer, "input_quantizer", None), SIGN_QUANTIZERS):
            yield True
        elif isinstance(consumer, _LET_SIGN_THROUGH):
            yield _only_signs_see(consumer, outputs)
        else:
            yield False
