"""Fold a binary network to its bits, and warm-start a hyperbolic one from a checkpoint.

Training needs latent weights and base points; inference needs only the signs. `fold` returns the
plain Larq model that remains, `unfold` goes the other way, `binary_weights` hands out the bits.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from larq import quantizers as larq_quantizers
from larq.quantizers import NoOp

from hbnn_larq import rebuilding
from hbnn_larq.rebuilding import Config, Layer

__all__ = ["binary_weights", "fold", "unfold"]


def fold(model: tf.keras.Model) -> tf.keras.Model:
    """Plain Larq model with the same outputs: `ste_sign` kernels of ±1 and no base points.

    \\[ (\\tilde w, p) \\mapsto \\operatorname{sign}(\\exp_p(\\tilde w)) \\in \\{-1, +1\\} \\]

    Every kernel quantizer whose present output is exactly ±1 becomes Larq's `"ste_sign"` and the
    kernel becomes that output, so the logits stay equal bit for bit. A scaled sign (±alpha per
    filter) that is not Larq's own becomes its output too, under Larq's `NoOp(precision=1)`. An
    input quantizer that is a plain sign at inference becomes `"ste_sign"`. All else, batch
    normalization included, is copied as it is. The saved result (`.keras`, `.h5`, SavedModel)
    loads wherever Larq is installed, unless it holds other layers or quantizers of your own.
    Folding twice changes nothing.

    A half-precision model (`mixed_float16` and its kin) becomes a float32 one, since no converter
    takes the former; its logits then agree to half precision only.

    !!! example
        ```python
        fold(model).save("plain.keras")          # ship this
        plain_net.load_weights("plain.h5")       # fold(model).save_weights("plain.h5") before
        ```

    # Arguments
        model: a built Functional or Sequential Keras model, nested models included. It is left
            as it was.

    # Returns
        A new, uncompiled float32 model.

    # Raises
        TypeError: `model` is no Keras model.
        ValueError: the model is subclassed or not built; the message names the way out.
    """
    kernels: list[tuple[Layer, str, np.ndarray]] = []

    def edit(layer: Layer, config: Config) -> None:
        for argument, variable in rebuilding.quantized_kernels(layer):
            value = rebuilding.quantized_value(variable)
            plain = _plain_quantizer(layer, argument, value)
            if plain is not None:
                if type(plain) is not type(variable.quantizer):
                    config[argument] = plain
                kernels.append((layer, rebuilding.QUANTIZED_KERNELS[argument], value))
        quantizer = getattr(layer, "input_quantizer", None)
        foreign = quantizer is not None and not _is_larqs(quantizer)
        if foreign and input_quantizer_gives(layer) == "sign":
            config["input_quantizer"] = larq_quantizers.SteSign(name="ste_sign")

    folded, pairs = rebuilding.rebuild(model, edit, call="fold(model)")
    _assign(kernels, pairs)
    return folded


def unfold(
    model: tf.keras.Model | str | os.PathLike[str], quantizer: Any = "hyperbolic"
) -> tf.keras.Model:
    """Warm start: the same network under another sign quantizer, every sign kept.

    Kernels whose present value is ±1 get `quantizer`; their latent weights are copied and its
    base points start at 0, where \\( \\operatorname{sign}(\\exp_0(\\tilde w)) =
    \\operatorname{sign}(\\tilde w) \\). Where the source itself had a base point that turned a
    latent's sign, the latent is mirrored so that the sign it acted with survives.

    Kernel constraints and regularizers are copied as they are. A `weight_clip` from a plain net
    keeps latents within ±1, which the hyperbolic map does not need.

    !!! example
        ```python
        warm = unfold("plain.keras", "hyperbolic")       # then compile and fit
        warm = unfold(plain_net, Hyperbolic(r=0.05))     # each layer gets its own copy
        ```

    # Arguments
        model: a built Functional or Sequential model, or the path of a saved one (`.keras`,
            `.h5`, SavedModel).
        quantizer: a quantizer alias, instance or config for the binary kernels.

    # Returns
        A new, uncompiled float32 model.

    # Raises
        FileNotFoundError: `model` is a path and nothing is there.
        TypeError: `quantizer` is `None` or of an unusable type.
        ValueError: no kernel of the model is binary, the file cannot be loaded, the quantizer
            does not exist, or it does not keep the signs.
    """
    call = f"unfold(model, {quantizer!r})"
    make = _factory(quantizer, call)
    if not isinstance(model, tf.keras.Model):
        if not isinstance(model, (str, os.PathLike)):
            raise TypeError(
                f"{call}: expected a tf.keras.Model or the path of a saved one, "
                f"got {type(model).__name__}."
            )
        model = rebuilding.load(model, call=call)
    kernels: list[tuple[Layer, str, np.ndarray]] = []

    def edit(layer: Layer, config: Config) -> None:
        for argument, variable in rebuilding.quantized_kernels(layer):
            value = rebuilding.quantized_value(variable)
            if rebuilding.is_plus_minus_one(value):
                config[argument] = make()
                latent = _with_signs(rebuilding.latent_value(variable), value)
                kernels.append((layer, rebuilding.QUANTIZED_KERNELS[argument], latent))

    unfolded, pairs = rebuilding.rebuild(model, edit, call=call)
    if not kernels:
        raise ValueError(
            f"{call}: no layer of {model.name!r} has a kernel quantizer that gives ±1, so there "
            'are no signs to start from. Build the net with kernel_quantizer="ste_sign" '
            "(or any sign quantizer), load the weights into it, and pass that."
        )
    _assign(kernels, pairs)
    _check_signs(pairs, kernels, call)
    return unfolded


def binary_weights(model: tf.keras.Model) -> dict[str, np.ndarray]:
    """The bits of a network, as it uses them: {layer name: int8 array of ±1}.

    Never take the sign of the latent weights yourself: with a base point \\(p \\ne 0\\) that is
    another network. Arrays have Keras' kernel layout (height, width, in, out). A separable layer
    has two kernels, under `name/depthwise_kernel` and `name/pointwise_kernel`; a layer of a
    nested model is `outer/inner`. Of a scaled sign (±alpha) the sign is given, without alpha, and
    +1 where alpha is 0.

    !!! example
        ```python
        np.savez("bits.npz", **binary_weights(model))
        ```

    # Arguments
        model: any built Keras model, subclassed ones included.

    # Returns
        A dict in layer order; empty where no kernel is binary.

    # Raises
        TypeError: `model` is no Keras model.
        ValueError: a kernel counted as 1-bit holds a zero (for example a {0, 1} quantizer).
    """
    if not isinstance(model, tf.keras.Model):
        raise TypeError(
            f"binary_weights(model): expected a tf.keras.Model, got {type(model).__name__}."
        )
    bits: dict[str, np.ndarray] = {}
    for path, layer in rebuilding.named_layers(model):
        kernels = list(rebuilding.quantized_kernels(layer))
        for argument, variable in kernels:
            value = rebuilding.quantized_value(variable)
            if not (
                rebuilding.is_binary_by_intent(layer, argument)
                or rebuilding.is_plus_minus_one(value)
            ):
                continue
            rows = rebuilding.filters(layer, rebuilding.QUANTIZED_KERNELS[argument], value)
            if isinstance(variable.quantizer, NoOp) and not rebuilding.is_scaled_sign(rows):
                continue  # only a mark on a float kernel
            if np.any((rows == 0) & rows.any(axis=1, keepdims=True)):
                raise ValueError(
                    f"binary_weights(model): layer {path!r} has a 1-bit kernel with zeros in it "
                    f"({type(variable.quantizer).__name__}), so its values are not ±1. Read them "
                    "with larq.context.quantized_scope(True) and layer.get_weights() instead."
                )
            separable = argument != "kernel_quantizer" and hasattr(layer, "pointwise_quantizer")
            name = f"{path}/{rebuilding.QUANTIZED_KERNELS[argument]}" if separable else path
            bits[name] = np.where(value < 0, -1, 1).astype(np.int8)
    return bits


def _plain_quantizer(layer: Layer, argument: str, value: np.ndarray) -> Layer | None:
    """The Larq quantizer that reproduces `value` from itself bit for bit, or None."""
    if rebuilding.is_plus_minus_one(value):
        return larq_quantizers.SteSign(name="ste_sign")
    if _is_larqs(getattr(layer, argument)):
        return None  # already loads anywhere
    rows = rebuilding.filters(layer, rebuilding.QUANTIZED_KERNELS[argument], value)
    if rebuilding.is_binary_by_intent(layer, argument) and rebuilding.is_scaled_sign(rows):
        return NoOp(precision=1, name="scaled_sign")
    return None


def _is_larqs(quantizer: Any) -> bool:
    return quantizer.__module__.startswith("larq.")


def input_quantizer_gives(layer: Layer) -> Literal["sign", "signs", "other values"]:
    """What a layer's input quantizer gives at inference, asked on numbers of all sizes and zeros.

    # Returns
        `"sign"`: of its input, with +1 for 0; `"signs"`: ±1 in another way, such as the sign of
        the deviation from a mean; or `"other values"`.
    """
    try:
        shape = layer.get_input_shape_at(0)
    except (AttributeError, RuntimeError):  # in a subclassed model a layer knows its rank only
        spec = layer.input_spec
        shape = [None] * ((spec.ndim or spec.min_ndim) - 1) + [spec.axes[-1]]
    shape = [2, *(n or 8 for n in shape[1:])]
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 1.0, shape) * 10.0 ** rng.integers(-6, 3, shape)
    x *= rng.random(shape) > 0.1
    x = tf.cast(x, layer.compute_dtype)
    signs = tf.cast(layer.input_quantizer(x), tf.float32).numpy()
    if np.array_equal(signs, np.where(x.numpy() < 0, -1, 1)):
        return "sign"
    return "signs" if rebuilding.is_plus_minus_one(signs) else "other values"


def _with_signs(latent: np.ndarray, binary: np.ndarray) -> np.ndarray:
    """The latent weights, those that disagree with their own bit replaced by their mirror image."""
    agrees = (latent >= 0) == (binary > 0)
    mirrored = np.where(latent == 0, binary, -latent)
    return np.where(agrees, latent, mirrored).astype(np.float32)


def _factory(quantizer: Any, call: str) -> Any:
    if quantizer is None:
        raise TypeError(f"{call}: name a quantizer, for example 'hyperbolic'.")
    try:
        first = larq_quantizers.get(quantizer)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{call}: no such quantizer. Use 'hyperbolic', 'hyperbolic_boundary', 'epc', one of "
            "Larq's ('ste_sign', 'approx_sign', ...), or an instance such as Hyperbolic(r=0.05)."
        ) from error
    if not isinstance(first, tf.keras.layers.Layer):
        return lambda: first  # a plain function has no state to share

    def make() -> Layer:
        config = {k: v for k, v in first.get_config().items() if k != "name"}
        return type(first).from_config(config)

    return make


def _assign(kernels: list[tuple[Layer, str, np.ndarray]], pairs: list[tuple[Layer, Layer]]) -> None:
    new_layer = {id(old): new for old, new in pairs}
    for old, name, value in kernels:
        getattr(new_layer[id(old)], name).assign(value)


def _check_signs(
    pairs: list[tuple[Layer, Layer]], kernels: list[tuple[Layer, str, np.ndarray]], call: str
) -> None:
    new_layer = {id(old): new for old, new in pairs}
    for old, name, _ in kernels:
        before = rebuilding.quantized_value(getattr(old, name))
        after = rebuilding.quantized_value(getattr(new_layer[id(old)], name))
        changed = int(np.sum(np.sign(after) != before))
        if changed:
            raise ValueError(
                f"{call}: the quantizer turns {changed} of {before.size} signs of layer "
                f"{old.name!r}, so this would be another network. A warm start needs a quantizer "
                "that starts as sign(w), such as 'hyperbolic' with base points at 0."
            )
