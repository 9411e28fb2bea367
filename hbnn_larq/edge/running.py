"""Run a converted file with LCE's interpreter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hbnn_larq.arguments import require_whole
from hbnn_larq.edge import engine
from hbnn_larq.edge.flatbuffer import TFLiteFile

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["predict"]


def read_tflite(tflite: bytes | str | os.PathLike[str], *, call: str) -> bytes:
    """The content of a .tflite, given as bytes or as a path."""
    if isinstance(tflite, (bytes, bytearray)):
        data = bytes(tflite)
    elif isinstance(tflite, (str, os.PathLike)):
        if not Path(tflite).is_file():
            raise FileNotFoundError(f"{call}: there is no file {str(tflite)!r}.")
        data = Path(tflite).read_bytes()
    else:
        raise TypeError(
            f"{call}: tflite must be the bytes that convert() returns or the path of a .tflite "
            f"file, got {type(tflite).__name__}."
        )
    if data[4:8] != b"TFL3":
        raise ValueError(
            f"{call}: this is not a .tflite file ({len(data)} bytes without the mark TFL3). "
            "Make one with hbnn_larq.edge.convert(model, path)."
        )
    try:
        TFLiteFile(data)  # the interpreter would not look, but crash
    except Exception as error:
        raise ValueError(
            f"{call}: this .tflite file is damaged; a part of its {len(data)} bytes points "
            "nowhere, as where a copy was cut off. Copy it again, or convert the model again."
        ) from error
    return data


class Input(NamedTuple):
    """What one input takes: the shape of an example, and its type."""

    shape: tuple[int, ...]
    dtype: np.dtype


def inputs_of(model: tf.keras.Model) -> list[Input]:
    """What the inputs of a Keras model take."""
    return [
        Input(tuple(tensor.shape[1:]), np.dtype(tensor.dtype.as_numpy_dtype))
        for tensor in model.inputs
    ]


def noise(inputs: Sequence[Input], count: int) -> list[np.ndarray]:
    """Made-up examples, the same each time: normal, or 0 to 255 where whole numbers are taken."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (count, *shape)).astype(dtype)
        if np.issubdtype(dtype, np.integer)
        else rng.normal(size=(count, *shape)).astype(dtype)
        for shape, dtype in inputs
    ]


class Interpreter:
    """LCE's interpreter for one file, one example at a time.

    # Arguments
        tflite: the content of the file.
        threads: threads for the kernels.
        call: the public call that is running, for error messages.
    """

    def __init__(self, tflite: bytes, *, threads: int = 1, call: str = "predict(tflite, images)"):
        library = engine.interpreter_module(call)
        try:
            self._interpreter = library.LiteInterpreter(tflite, threads, False, False, False)
        except Exception as error:
            raise ValueError(
                f"{call}: the LCE interpreter cannot load this file ({error}). Convert the model "
                "again with hbnn_larq.edge.convert and look at hbnn_larq.edge.report."
            ) from error
        self.inputs = [
            Input(tuple(shape[1:]), np.dtype(dtype))
            for shape, dtype in zip(
                self._interpreter.input_shapes, self._interpreter.input_types, strict=True
            )
        ]

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs for one example; each input has a batch dimension of 1."""
        return self._interpreter.predict(inputs)


def predict(
    tflite: bytes | str | os.PathLike[str], images: Any, *, threads: int = 1
) -> np.ndarray | list[np.ndarray]:
    """Outputs of a converted file, computed by the LCE interpreter on this machine.

    The stock TensorFlow Lite interpreter cannot run such a file: it does not know LCE's ops. On
    x86 LCE runs reference code: right, but slow; its fast kernels are for 64-bit ARM.

    !!! example
        ```python
        logits = predict("net.tflite", images)      # float images, preprocessed as in training
        ```

    # Arguments
        tflite: bytes from `convert`, or the path of a .tflite file.
        images: array of shape (n, height, width, channels); for a model with several inputs a
            list of arrays in the model's input order.
        threads: threads for the kernels.

    # Returns
        An array (n, classes), or a list of arrays where the model has several outputs.

    # Raises
        FileNotFoundError, TypeError, ValueError: no such file, not a .tflite, or images of
            another shape or type than the file takes, or with NaN or infinity in them.
        ImportError: larq-compute-engine is not installed.
    """
    call = "predict(tflite, images)"
    data = read_tflite(tflite, call=call)
    require_whole("predict", "threads", threads, 1)
    interpreter = Interpreter(data, threads=int(threads), call=call)
    inputs = as_inputs(images, interpreter.inputs, call=call)
    rows = [interpreter.run([array[i : i + 1] for array in inputs]) for i in range(len(inputs[0]))]
    outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return outputs[0] if len(outputs) == 1 else outputs


def as_inputs(
    images: Any, takers: Sequence[Input], *, call: str, taker: str = "the file"
) -> list[np.ndarray]:
    """The images as one array per input, of the shapes and types that are taken."""
    arrays = list(images) if isinstance(images, (list, tuple)) else [images]
    if len(arrays) != len(takers):
        raise ValueError(
            f"{call}: {taker} has {len(takers)} inputs, got {len(arrays)} arrays. Pass an array "
            "(n, ...) for one input, a list of such arrays for several."
        )
    inputs = []
    for given, (shape, dtype) in zip(arrays, takers, strict=True):
        array = np.asarray(given)
        if array.dtype == object or array.shape[1:] != shape or not len(array):
            found = type(given).__name__ if array.dtype == object else array.shape
            raise ValueError(
                f"{call}: {taker} takes images of shape (n, {', '.join(map(str, shape))}) "
                f"with n at least 1, got {found}. Resize and preprocess them as in training."
            )
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"{call}: some images hold NaN or infinity, of which a sign makes a bit like any "
                "other. Leave them out."
            )
        typed = np.ascontiguousarray(array.astype(dtype, copy=False))
        if np.issubdtype(dtype, np.integer) and not np.array_equal(typed, array):
            raise ValueError(
                f"{call}: {taker} takes {dtype}, and these images are {array.dtype} with values "
                "that it cannot hold. Give pixels as they are, not normalized."
            )
        inputs.append(typed)
    if len({len(array) for array in inputs}) > 1:
        raise ValueError(
            f"{call}: the inputs hold {[len(a) for a in inputs]} examples; give one n."
        )
    return inputs
