"""Convert a Larq model to a .tflite for the Larq Compute Engine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import hbnn_larq
from hbnn_larq import files, rebuilding
from hbnn_larq.edge import engine, metadata
from hbnn_larq.edge.int8 import ranges_around_float_layers
from hbnn_larq.edge.metadata import Preprocessing
from hbnn_larq.edge.rewrites import REWRITES, Rewrite, rewrite
from hbnn_larq.edge.running import Interpreter
from hbnn_larq.folding import fold
from hbnn_larq.rebuilding import Edit

__all__ = ["convert"]

CHILD = Path(__file__).with_name("converter_child.py")
TIMEOUT_S = 1800
# Ops through which the converter carries a product into the convolution before it.
_FUSED_INTO_CONV = {"Identity", "BiasAdd", "FusedBatchNormV3", "AddV2", "Add", "Sub", "Mul"}


def convert(
    model: tf.keras.Model,
    path: str | os.PathLike[str] | None = None,
    *,
    rewrites: Collection[str] = tuple(REWRITES),
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] = (),
    int8_images: Any = None,
) -> bytes:
    """LCE file of a binary network: folded to its bits, in float32, batch size 1.

    The model is folded first (`hbnn_larq.fold`), which also lifts half precision, so a model
    trained under `mixed_float16` converts as well. The converter runs in a process of its own: if
    it crashes, this call raises and your session lives on.

    A conversion that succeeds does not yet prove that the file is binary. Ask
    `hbnn_larq.edge.report(model, tflite, images)`.

    !!! example
        ```python
        tflite = convert(model, "net.tflite")
        ```

    # Arguments
        model: a built Functional or Sequential model with at least one binary kernel and a fixed
            input size.
        path: where to write the file, or `None` to only return it. It is written under another
            name first and then moved, so no half-written file is ever left. A device such as
            `/dev/null` is written to as it is.
        rewrites: changes that make the file smaller, or right where LCE would err, and leave the
            outputs as they are; all by default, `()` for none. See
            `hbnn_larq.edge.rewrites.REWRITES`. One for size that would make the file larger is
            skipped, and the report says so.
        preprocessing: how pixels become the network's input; stored in the file, so that the
            device and `hbnn predict` do the same.
        labels: class names in output order; stored in the file.
        int8_images: representative inputs (a hundred will do). With them the float layers
            behind the last binary one, such as the classifier, are stored and computed in 8 bits,
            in the ranges measured on these images. It may cost accuracy: measure it.

    # Returns
        The file's content.

    # Raises
        TypeError, ValueError: the model cannot be folded, has no binary layer, an open input
            size or a part that the converter cannot digest, or `path` has the name of a Keras
            model; the message names the way out.
        OSError: `path` cannot be written; found out before the work starts.
        RuntimeError: the converter failed or crashed.
        ImportError: larq-compute-engine is not installed.
    """
    call = "convert(model)" if path is None else f"convert(model, {str(path)!r})"
    if path is not None:
        check_writable(path, call)
    folded = fold_for_conversion(model, call)
    if len(labels):
        labels = metadata.check_labels(labels, tf.nest.flatten(folded.output)[0].shape[-1], call)
    if preprocessing is not None:
        preprocessing.check_channels(folded.inputs[0].shape[-1], call)
    in_int8: Edit | None = None
    int8_changes: list[Rewrite] = []
    if int8_images is not None:
        in_int8, int8_changes = ranges_around_float_layers(folded, int8_images, call=call)
    rewritten, changes = rewrite(
        folded,
        rewrites,
        call=call,
        size=lambda part: len(run_converter(freeze(part, call), call)),
        also=in_int8,
    )
    frozen = freeze(rewritten, call)
    frozen.job["quantize"] = int8_images is not None
    tflite = run_converter(frozen, call)
    Interpreter(tflite, call=call)  # a file that does not even load is not handed out
    record = metadata.Metadata(
        preprocessing=preprocessing,
        labels=tuple(labels),
        rewrites=tuple(asdict(change) for change in [*changes, *int8_changes]),
        made_by=f"hbnn_larq {hbnn_larq.__version__}",
    )
    tflite = metadata.attach(tflite, record)
    if path is not None:
        write_atomically(path, tflite)
    return tflite


def fold_for_conversion(model: tf.keras.Model, call: str) -> tf.keras.Model:
    """The folded model, after the checks that need no conversion."""
    library_is_there = engine.converter_library(call)
    assert library_is_there
    try:
        folded = fold(model)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{call}: {error}") from None
    layers = [layer for _, layer in rebuilding.named_layers(folded)]
    binary = [
        layer
        for layer in layers
        for argument, _ in rebuilding.quantized_kernels(layer)
        if rebuilding.is_binary_by_intent(layer, argument)
    ]
    if not binary:
        raise ValueError(
            f"{call}: {model.name!r} has no layer with a binary kernel, so LCE has nothing to "
            'speed up. Build it with kernel_quantizer="hyperbolic" (or "ste_sign") in Larq '
            "layers; a float model is the business of tf.lite.TFLiteConverter."
        )
    for layer in binary:
        if getattr(layer, "groups", 1) > 1 and layer.kernel.shape[-2] % 32 == 0:
            raise ValueError(
                f"{call}: {layer.name!r} is a grouped binary convolution (groups={layer.groups}). "
                "LCE converts it, but only its reference kernel runs it, on no device by default. "
                "Build it with groups=1."
            )
    doubles = {layer.name for layer in layers if layer.dtype_policy.name == "float64"}
    if doubles:
        raise ValueError(
            f"{call}: {sorted(doubles)} compute in float64, which TensorFlow Lite has no kernels "
            "for. Build the model under tf.keras.backend.set_floatx('float32')."
        )
    return folded


class FrozenGraph:
    """A graph without variables, and what the converter must know about it."""

    def __init__(self, function: Any):
        self.graph_def = function.graph.as_graph_def()
        inputs = [tensor for tensor in function.inputs if tensor.dtype != tf.resource]
        self.job = {
            "inputs": [tensor.op.name for tensor in inputs],
            "dtypes": [DataType.Name(tensor.dtype.as_datatype_enum) for tensor in inputs],
            "shapes": [list(tensor.shape) for tensor in inputs],
            "outputs": [tensor.op.inputs[0].op.name for tensor in function.outputs],
            "quantize": False,
            "target": "arm",
        }


def freeze(model: tf.keras.Model, call: str) -> FrozenGraph:
    """The inference graph of `model` for one example, variables turned to constants."""
    specs = []
    for tensor, name in zip(model.inputs, model.input_names, strict=True):
        shape = tensor.shape.as_list()
        if None in shape[1:]:
            raise ValueError(
                f"{call}: input {name!r} has the open shape {tuple(shape)}; a .tflite needs fixed "
                "sizes. Build the model with the input_shape that the device will feed."
            )
        if tensor.dtype in (tf.float16, tf.bfloat16):
            raise ValueError(
                f"{call}: input {name!r} is {tensor.dtype.name}, which the LCE interpreter does "
                "not take. Build the model on a float32 input, tf.keras.Input(shape); its layers "
                "cast it to what they compute in."
            )
        specs.append(tf.TensorSpec([1, *shape[1:]], tensor.dtype, name))
    structure = model.input if not isinstance(model, tf.keras.Sequential) else model.inputs[0]

    @tf.function(autograph=False)
    def run(*inputs: tf.Tensor) -> list[tf.Tensor]:
        outputs = model(tf.nest.pack_sequence_as(structure, inputs), training=False)
        return [tf.identity(y, name=f"output_{i}") for i, y in enumerate(tf.nest.flatten(outputs))]

    function = convert_variables_to_constants_v2(
        run.get_concrete_function(*specs), lower_control_flow=False
    )
    frozen = FrozenGraph(function)
    _refuse_sparse_product(frozen.graph_def, call)
    _refuse_spatial_scale(frozen.graph_def, call)
    return frozen


def run_converter(frozen: FrozenGraph, call: str) -> bytes:
    """The converter's answer, from a child process."""
    library = engine.converter_library(call)
    with tempfile.TemporaryDirectory(prefix="hbnn-convert-") as folder:
        job, graph, out = (Path(folder, name) for name in ("job.json", "graph.pb", "out.tflite"))
        try:
            job.write_text(json.dumps(frozen.job), encoding="utf-8")
            graph.write_bytes(frozen.graph_def.SerializeToString())
        except OSError as error:
            raise OSError(
                error.errno,
                f"{call}: cannot write what the converter reads into {folder!r} "
                f"({error.strerror}). Free some space, or set TMPDIR to another folder",
            ) from None
        command = [sys.executable, str(CHILD), *map(str, (library, job, graph, out))]
        try:
            child = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(
                f"{call}: the LCE converter did not finish in {TIMEOUT_S} s and was stopped."
            ) from None
        said = _diagnostics(child.stderr)
        if child.returncode != 0:
            raise RuntimeError(_failure(call, child.returncode, said or child.stderr.strip()))
        for line in dict.fromkeys(said.splitlines()):
            warnings.warn(
                f"{call}: the LCE converter says {line!r} and goes on with a float op there; "
                "hbnn_larq.edge.report names the layer.",
                stacklevel=3,
            )
        return out.read_bytes()


def _diagnostics(stderr: str) -> str:
    return "\n".join(line for line in stderr.splitlines() if re.match(r"(\S+: )?error:", line))


def _failure(call: str, status: int, said: str) -> str:
    what = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"failed (exit {status})"
    last = "\n".join(said.splitlines()[-5:]) or "nothing"
    way_out = (
        "Convert the model in halves to find the layer it stumbles on: "
        "tf.keras.Model(model.input, model.layers[k].output)."
    )
    if status == -signal.SIGKILL:
        way_out = (
            "It was killed from outside, as the system does where memory runs out: free some, or "
            "convert on a larger machine."
        )
    return (
        f"{call}: the LCE converter {what}; this process is unharmed and no file was written. "
        f"{way_out} It said:\n{last}"
    )


def _refuse_sparse_product(graph_def: Any, call: str) -> None:
    """Refuses an op that the converter passes on by name, though no interpreter knows it."""
    for node in graph_def.node:
        if node.op == "SparseTensorDenseMatMul":
            raise ValueError(
                f"{call}: layer {node.name.rsplit('/', 2)[0]!r} multiplies by a sparse matrix "
                f"({node.op}), an op that no interpreter has. Build a locally connected layer with "
                "implementation=1."
            )


def _refuse_spatial_scale(graph_def: Any, call: str) -> None:
    """Refuses a factor that varies over height or width right behind a binary convolution.

    The converter fuses that product into the convolution without looking at its shape. LCE 0.16
    then crashes (on its SavedModel path) or writes a file that no interpreter loads (on ours).
    """
    nodes = {node.name: node for node in graph_def.node}

    def sources(node: Any) -> list[Any]:
        names = [name.lstrip("^").split(":")[0] for name in node.input]
        return [nodes[name] for name in names if name in nodes]

    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")

    varying: set[str] = set()  # what depends on an input
    waiting = [op for op in graph.get_operations() if op.type == "Placeholder"]
    while waiting:
        operation = waiting.pop()
        if operation.name not in varying:
            varying.add(operation.name)
            waiting += [reader for y in operation.outputs for reader in y.consumers()]

    def constant_shape(node: Any) -> tf.TensorShape | None:
        """The shape of a constant, or of what depends on constants alone (a product of them)."""
        if node.name in varying:
            return None
        return graph.get_tensor_by_name(f"{node.name}:0").shape

    def is_sign(node: Any, depth: int = 6) -> bool:
        return node.op == "Sign" or (
            depth > 0 and any(is_sign(s, depth - 1) for s in sources(node))
        )

    def binary_conv_before(node: Any) -> str | None:
        while node.op in _FUSED_INTO_CONV:
            inputs = [source for source in sources(node) if constant_shape(source) is None]
            if len(inputs) != 1:  # a constant, or two branches: no product is carried through
                return None
            (node,) = inputs
        is_binary = node.op == "Conv2D" and is_sign(sources(node)[1])
        return node.name if is_binary else None

    for node in graph_def.node:
        if node.op != "Mul":
            continue
        operands = sources(node)
        for factor, other in (operands, operands[::-1]) if len(operands) == 2 else ():
            shape = constant_shape(factor)
            if shape is None or len(shape) < 3 or max(shape[-3:-1]) == 1:
                continue
            conv = binary_conv_before(other)
            if conv is not None:
                raise ValueError(
                    f"{call}: the output of the binary convolution {conv.rsplit('/', 1)[0]!r} is "
                    f"multiplied by a constant of shape {tuple(shape)}, which varies over height "
                    "or width. The LCE converter crashes or writes a broken file on that. Keep a "
                    "factor per channel only, or put tf.keras.layers.MaxPool2D(1) between the "
                    "convolution and the factor."
                )


def check_writable(path: str | os.PathLike[str], call: str) -> None:
    """Raises unless a converted file can be written at `path`, and not over a model."""
    target = Path(path)
    if target.suffix in (".keras", ".h5", ".hdf5"):
        raise ValueError(
            f"{call}: {str(target)!r}: that is the name of a Keras model, which holds latent "
            "weights that no converted file has. Name a .tflite."
        )
    folder = target.resolve().parent
    if target.is_dir():
        raise IsADirectoryError(f"{call}: {str(target)!r} is a folder. Name a file in it.")
    if target.exists() and not target.is_file():
        return  # a device or a pipe; nothing is made beside it
    if not folder.is_dir():
        raise FileNotFoundError(f"{call}: there is no folder {str(folder)!r}. Make it first.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(
            f"{call}: cannot write in the folder {str(folder)!r} ({error.strerror}). Name a path "
            "that you may write to."
        ) from None


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all, and says so where it cannot."""
    try:
        files.write(path, content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {str(path)!r} ({error.strerror}); nothing of it is left. Free some "
            "space there, or name another path",
        ) from None
