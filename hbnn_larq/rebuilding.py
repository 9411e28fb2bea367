"""Rebuild a Keras model layer by layer: same graph, some layers changed, weights carried over.

`fold`, `unfold` and the rewrites of `hbnn_larq.edge` are all of this shape. Keras' `clone_model`
keeps the topology (shared layers, nested models, several inputs and outputs); this file adds what
it leaves out: nested models are entered, half-precision policies become float32, weights are
copied, and a model that cannot be rebuilt is refused with the way out.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from larq import context
from larq.quantized_variable import QuantizedVariable
from larq.quantizers import NoOp

from hbnn_larq.layer_quantizers import filter_axis

Layer: TypeAlias = tf.keras.layers.Layer
Config: TypeAlias = dict[str, Any]
Edit: TypeAlias = Callable[[Layer, Config], "Layer | None"]  # see `rebuild`

# Larq's three quantizer arguments and the variable that each one quantizes.
QUANTIZED_KERNELS = {
    "kernel_quantizer": "kernel",
    "depthwise_quantizer": "depthwise_kernel",
    "pointwise_quantizer": "pointwise_kernel",
}
HALF_PRECISION = frozenset({"mixed_float16", "mixed_bfloat16", "float16", "bfloat16"})
_GRAPH_CALLS = (tf.keras.Sequential.call, tf.keras.Sequential.__mro__[1].call)  # Functional


def quantized_kernels(layer: Layer) -> Iterator[tuple[str, QuantizedVariable]]:
    """Yields (quantizer argument, kernel variable) for each quantized kernel of one layer."""
    for argument, name in QUANTIZED_KERNELS.items():
        variable = getattr(layer, name, None)
        if getattr(layer, argument, None) is not None and isinstance(variable, QuantizedVariable):
            yield argument, variable


def is_binary_by_intent(layer: Layer, argument: str) -> bool:
    """Whether Larq's summary counts this kernel as 1-bit."""
    return getattr(getattr(layer, argument), "precision", None) == 1


def quantized_value(variable: QuantizedVariable) -> np.ndarray:
    """The kernel that the forward pass uses, as float32."""
    if isinstance(variable.quantizer, NoOp):
        return latent_value(variable)
    with context.quantized_scope(True):
        value = tf.convert_to_tensor(variable)
    return tf.cast(value, tf.float32).numpy()


def latent_value(variable: QuantizedVariable) -> np.ndarray:
    with context.quantized_scope(False):
        return tf.convert_to_tensor(variable).numpy()


def is_plus_minus_one(value: np.ndarray) -> bool:
    return bool(np.all(np.abs(value) == 1))


def filters(layer: Layer, name: str, value: np.ndarray) -> np.ndarray:
    """A kernel as (filters, weights), whatever the layer's layout.

    A filter makes one output channel, in a locally connected layer at one place.
    """
    if value.ndim == 1:  # a sparse local kernel, one list of numbers
        return value.reshape(1, -1)
    if isinstance(layer, tf.keras.layers.Conv1DTranspose):  # no layer of Larq's is of its kind
        value = value.swapaxes(-1, -2)
    within = filter_axis(layer, name)(tf.TensorShape(value.shape))
    across = [axis for axis in range(value.ndim) if axis not in within]
    rows = value.transpose([*across, *within])
    return rows.reshape(math.prod(rows.shape[: len(across)]), -1)


def is_scaled_sign(rows: np.ndarray) -> bool:
    """±alpha in each row, as near as LCE wants it (0.5 %); alpha may be 0."""
    size = np.abs(rows).max(1, keepdims=True)
    return bool(np.allclose(np.abs(rows), size, rtol=5e-3, atol=0))


def named_layers(model: tf.keras.Model, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yields every layer with its path; a layer of a nested model is `outer/inner`.

    Shared layers come once. Layers inside composite layers and wrappers come after their owner. No
    two have one path.
    """
    seen: set[int] = set()
    paths: set[str] = set()

    def walk(owner: Layer, path: str) -> Iterator[tuple[str, Layer]]:
        layers = owner.layers if isinstance(owner, tf.keras.Model) else _sublayers(owner)
        for layer in layers:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            name = f"{path}{layer.name}"
            while name in paths:  # a layer "a/b" beside the layer "b" of a model "a"
                name += "_1"
            paths.add(name)
            yield name, layer
            yield from walk(layer, f"{name}/")

    yield from walk(model, prefix)


def quantizers_of(layer: Layer) -> list[Layer]:
    names = ("input_quantizer", *QUANTIZED_KERNELS)
    return [
        q for name in names if isinstance(q := getattr(layer, name, None), tf.keras.layers.Layer)
    ]


def _sublayers(layer: Layer) -> list[Layer]:
    """Direct sublayers, without metrics and without the quantizers of a Larq layer."""
    own = quantizers_of(layer)
    return [
        sub
        for sub in layer._flatten_layers(recursive=False, include_self=False)
        if not isinstance(sub, tf.keras.metrics.Metric) and not any(sub is q for q in own)
    ]


def load(path: str | os.PathLike[str], *, call: str) -> tf.keras.Model:
    """Loads a `.keras`, `.h5` or SavedModel file, uncompiled.

    # Raises
        FileNotFoundError: nothing is there.
        ValueError: it is no Keras model (for example an `.h5` with weights only).
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{call}: there is no file or folder {str(path)!r}.")
    try:
        # Larq warns of starved weights for each sign kernel, whatever its weights: no news of this
        # model. `hbnn_larq.doctor` looks at them.
        with silenced("larq.layers_base"):
            model = tf.keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(
            f"{call}: {str(path)!r} is not a Keras model that can be loaded ({error}). A file that "
            "holds weights only needs the model first: build it as it was trained, call "
            "model.load_weights(path), and pass the model."
        ) from error
    if not isinstance(model, tf.keras.Model):
        raise ValueError(
            f"{call}: {str(path)!r} is a SavedModel without Keras' own records, so its layers "
            "cannot be read. Save the model with model.save('model.keras') and pass that file."
        )
    return model


def rebuild(
    model: tf.keras.Model,
    edit: Edit,
    *,
    call: str,
) -> tuple[tf.keras.Model, list[tuple[Layer, Layer]]]:
    """Builds the same graph from new layers and copies the weights.

    # Arguments
        model: a built Functional or Sequential model; nested models are entered.
        edit: called with each layer and its config. It may change the config in place (the new
            layer is made from it), or return a layer that takes the old one's place, whose
            weights it must then fill itself.
        call: the public call that is running, for error messages: `"fold(model)"`.

    # Returns
        The new, uncompiled model in float32, and the pairs (old layer, new layer).

    # Raises
        TypeError: `model` is no Keras model.
        ValueError: the model is subclassed, or has no weights yet.
    """
    _check(model, call)
    new_layers: dict[int, Layer] = {}
    pairs: list[tuple[Layer, Layer]] = []
    edited: dict[int, set[str]] = {}

    def renew(layer: Layer) -> Layer:
        if id(layer) not in new_layers:  # a layer may serve a nested model and its owner
            new_layers[id(layer)] = _renew(layer)
        return new_layers[id(layer)]

    def _renew(layer: Layer) -> Layer:
        if isinstance(layer, tf.keras.Model):
            _check(layer, call)
            return _clone(layer, renew)
        config = layer.get_config()
        for name in ("activation", "input_quantizer", *QUANTIZED_KERNELS):
            quantizer = getattr(layer, name, None)
            if (
                name in config
                and callable(quantizer)
                and not isinstance(quantizer, tf.keras.layers.Layer)
            ):
                config[name] = quantizer  # a plain function has no state: pass it on as it is
        before = dict(config)
        inner: Any = getattr(layer, "layer", None)
        wraps = isinstance(layer, tf.keras.layers.Wrapper) and isinstance(
            inner, tf.keras.layers.Layer
        )
        replacement = None
        if wraps and any(quantizers_of(sub) for sub in [inner, *inner._flatten_layers()]):
            del config["layer"]
            replacement = type(layer)(renew(inner), **as_float32(config))
        else:
            _refuse_hidden_quantizers(layer, call)
            replacement = edit(layer, config)
        edits = {name for name, value in config.items() if value is not before.get(name)}
        new = replacement or type(layer).from_config(as_float32(config))
        pairs.append((layer, new))
        edited[id(new)] = edits
        return new

    # Larq warns of starved weights for each sign kernel; nothing is trained here.
    with _float32_policy(), silenced("larq.layers_base"):
        new_model = renew(model)
    with context.quantized_scope(False):  # the caller may be inside a quantized scope
        for old, new in pairs:
            if type(old) is type(new):
                _copy_weights(old, new, edited)
    return new_model, pairs


def as_float32(config: Any) -> Any:
    """The config with every half-precision policy in it, however deep, set to float32."""
    if isinstance(config, dict):
        return {
            key: "float32" if key == "dtype" and _is_half(value) else as_float32(value)
            for key, value in config.items()
        }
    if type(config) is list:
        return [as_float32(value) for value in config]
    return config


def _is_half(dtype: Any) -> bool:
    if isinstance(dtype, dict):
        dtype = dtype.get("config", {}).get("name")
    return isinstance(dtype, str) and dtype in HALF_PRECISION


def _clone(model: tf.keras.Model, renew: Callable[[Layer], Layer]) -> tf.keras.Model:
    new = tf.keras.models.clone_model(model, clone_function=renew)
    if isinstance(new, tf.keras.Sequential):
        if not new.built:  # a Sequential without input layer gets its shapes from its first call
            new.build(model._build_input_shape)
        return new
    if type(new) is not type(tf.keras.Model(new.inputs, new.outputs)):
        # A user's subclass of a functional model: the result must load without that class.
        new = tf.keras.Model(new._nested_inputs, new._nested_outputs, name=model.name)
    new.trainable = model.trainable if not model.trainable else new.trainable
    return new


def _copy_weights(old: Layer, new: Layer, edited: dict[int, set[str]]) -> None:
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    new.load_own_variables(store)
    for old_sub, new_sub in zip(_sublayers(old), _sublayers(new), strict=True):
        _copy_weights(old_sub, new_sub, edited)
    for name in ("input_quantizer", *QUANTIZED_KERNELS):
        quantizer = getattr(old, name, None)
        if isinstance(quantizer, tf.keras.layers.Layer) and name not in edited.get(id(new), ()):
            _copy_weights(quantizer, getattr(new, name), edited)


def _check(model: Any, call: str) -> None:
    if not isinstance(model, tf.keras.Model):
        raise TypeError(
            f"{call}: expected a tf.keras.Model, got {type(model).__name__}. "
            "Pass the model itself, or load it first with tf.keras.models.load_model(path)."
        )
    is_graph = isinstance(model, tf.keras.Sequential) or model._is_graph_network
    if not is_graph or type(model).call not in _GRAPH_CALLS:
        if isinstance(getattr(model, "student", None), tf.keras.Model):
            raise ValueError(
                f"{call}: {model.name!r} ({type(model).__name__}) trains a student beside its "
                "teacher. Give the student alone: its attribute .student."
            )
        raise ValueError(
            f"{call}: {model.name!r} ({type(model).__name__}) is a subclassed model; its layers "
            "can only be read, not rebuilt. Build the same network with the functional API, "
            "tf.keras.Model(inputs, outputs), or as a Sequential; weights move over with "
            "functional.set_weights(subclassed.get_weights()) when layers come in one order."
        )
    if not model.built:
        raise ValueError(
            f"{call}: {model.name!r} is not built, so it has no weights. Give its first layer an "
            "input_shape, call model.build(shape), or call the model once on data."
        )


def _refuse_hidden_quantizers(layer: Layer, call: str) -> None:
    for sub in layer._flatten_layers(recursive=True, include_self=False):
        if any(quantized_kernels(sub)):
            raise ValueError(
                f"{call}: layer {layer.name!r} ({type(layer).__name__}) makes the quantized layer "
                f"{sub.name!r} inside itself, where it cannot be exchanged. Use the layer in the "
                "functional graph instead, or wrap the part in a tf.keras.Model(inputs, outputs): "
                "nested models are fine."
            )


@contextlib.contextmanager
def _float32_policy() -> Iterator[None]:
    policy = tf.keras.mixed_precision.global_policy()
    if policy.name == "float32":  # setting it once more would cut it loose from set_floatx
        yield
        return
    tf.keras.mixed_precision.set_global_policy("float32")
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)


@contextlib.contextmanager
def silenced(logger_name: str) -> Iterator[None]:
    """Keeps one logger quiet."""
    logger = logging.getLogger(logger_name)
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
