"""Run a converted file with LCE's interpreter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hbnn_larq.arguments import require_whole
from hbnn_larq.edge import engine
from hbnn_larq.edge.flatbuffer import TFLiteFile

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
        self.input_shapes = [tuple(shape) for shape in self._interpreter.input_shapes]
        self.input_dtypes = [np.dtype(dtype) for dtype in self._interpreter.input_types]

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
            another shape than the file takes.
        ImportError: larq-compute-engine is not installed.
    """
    call = "predict(tflite, images)"
    data = read_tflite(tflite, call=call)
    require_whole("predict", "threads", threads, 1)
    interpreter = Interpreter(data, threads=int(threads), call=call)
    inputs = as_inputs(images, interpreter, call=call)
    rows = [interpreter.run([array[i : i + 1] for array in inputs]) for i in range(len(inputs[0]))]
    outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return outputs[0] if len(outputs) == 1 else outputs


def as_inputs(images: Any, interpreter: Interpreter, *, call: str) -> list[np.ndarray]:
    """The images as one array per input, of the shapes and types that the file takes."""
    arrays = list(images) if isinstance(images, (list, tuple)) else [images]
    shapes, dtypes = interpreter.input_shapes, interpreter.input_dtypes
    if len(arrays) != len(shapes):
        raise ValueError(
            f"{call}: the file has {len(shapes)} inputs, got {len(arrays)} arrays. Pass an array "
            "(n, ...) for one input, a list of such arrays for several."
        )
    inputs = []
    for array, shape, dtype in zip(arrays, shapes, dtypes, strict=True):
        array = np.asarray(array)
        if array.shape[1:] != shape[1:] or not len(array):
            raise ValueError(
                f"{call}: the file takes images of shape (n, {', '.join(map(str, shape[1:]))}) "
                f"with n at least 1, got {array.shape}. Resize and preprocess them as in training."
            )
        inputs.append(np.ascontiguousarray(array.astype(dtype, copy=False)))
    if len({len(array) for array in inputs}) > 1:
        raise ValueError(
            f"{call}: the inputs hold {[len(a) for a in inputs]} examples; give one n."
        )
    return inputs
