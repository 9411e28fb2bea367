"""The same network without binary layers: what an LCE file is compared with.

The float twin has the same layers and latent weights without quantizers, and pads with zeros, as a
float network would. It is made to be timed and weighed, not to be accurate: trained for signs, its
outputs mean nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq import rebuilding
from hbnn_larq.edge.running import as_inputs, inputs_of, noise
from hbnn_larq.rebuilding import Config, Layer

CALIBRATION = 16


def float_twin_model(model: tf.keras.Model, *, call: str = "float_twin(model)") -> tf.keras.Model:
    """The Keras model without its quantizers."""

    def edit(layer: Layer, config: Config) -> None:
        for name in ("input_quantizer", *rebuilding.QUANTIZED_KERNELS):
            if config.get(name) is not None:
                config[name] = None
        if config.get("pad_values"):
            config["pad_values"] = 0.0

    twin, _ = rebuilding.rebuild(model, edit, call=call)
    return twin


def float_twin(model: tf.keras.Model) -> bytes:
    """The float twin as a .tflite."""
    return plain_tflite(float_twin_model(model))


def plain_tflite(model: tf.keras.Model) -> bytes:
    """A float Keras model as a .tflite, by TensorFlow's own converter and without its chatter."""
    return _convert(_converter(model))


def int8_twin(model: tf.keras.Model, images: Any = None) -> bytes:
    """The float twin as a .tflite with int8 weights and activations.

    # Arguments
        model: the binary model.
        images: inputs to measure the activations' ranges on; random ones if None.
    """
    twin = float_twin_model(model)  # the graph only borrows its variables: keep it until the end
    converter = _converter(twin)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    takers = inputs_of(twin)
    call = "int8_twin(model, images)"
    arrays = (
        noise(takers, CALIBRATION)
        if images is None
        else [a[:CALIBRATION] for a in as_inputs(images, takers, call=call, taker="the model")]
    )

    def representative() -> Iterator[list[np.ndarray]]:
        for i in range(len(arrays[0])):
            yield [array[i : i + 1] for array in arrays]

    converter.representative_dataset = representative
    return _convert(converter)


def twin_paths(path: Any) -> dict[str, Path]:
    """Where the twins of a file lie."""
    return {name: Path(path).with_suffix(f".{name}.tflite") for name in ("float", "int8")}


def _converter(model: tf.keras.Model) -> tf.lite.TFLiteConverter:
    specs = [
        tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype, name)
        for tensor, name in zip(model.inputs, model.input_names, strict=True)
    ]
    structure = model.inputs[0] if isinstance(model, tf.keras.Sequential) else model.input

    @tf.function(autograph=False)
    def run(*inputs: tf.Tensor) -> Any:
        return model(tf.nest.pack_sequence_as(structure, inputs), training=False)

    # Without the model as its second argument TensorFlow freezes the function directly, instead of
    # writing a SavedModel of every layer first, which takes a minute for a ResNet.
    with rebuilding.silenced("absl"):  # it would ask for that argument
        return tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function(*specs)])


def _convert(converter: tf.lite.TFLiteConverter) -> bytes:
    with rebuilding.silenced("absl"), _quiet():
        return converter.convert()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the compiled converter from printing; it writes to the process's own streams."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for stream, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        os.close(nowhere)
