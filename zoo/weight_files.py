"""Weights in files: reading every kind that a user may have, writing the kind the zoo publishes.

A published file is the deployed network and nothing more: one bit for a binary weight, float32
for the rest, in a NumPy archive (`.npz`) whose entries are named `layer/variable`. It fits the
network under any sign quantizer, with base points at zero.

Every kind of file is first read into plain arrays by layer and variable, then compared with the
model as a whole, and only then assigned: a model is never half loaded.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq import files, rebuilding
from hbnn_larq.folding import binary_weights
from hbnn_larq.layer_quantizers import is_quantizer_state
from hbnn_larq.optimizers import is_base_point
from hbnn_larq.zoo import activations

__all__ = ["describe", "load_weights", "save_weights"]

FORMAT = "hbnn_larq weights 1"
HEADER = "header"
BITS = "kernel_bits"  # the entry of a packed kernel
TOP = frozenset({"bn1d", "fc"})  # layers that include_top=False leaves out

Arrays = dict[str, dict[str, np.ndarray]]  # {layer: {variable: value}}


class _Signs(np.ndarray):
    """A kernel of which the file holds the signs, as an array of ±1."""


def save_weights(
    model: tf.keras.Model, path: str | os.PathLike[str], *, architecture: dict[str, Any]
) -> bytes:
    """Writes the deployed network: bits of the binary kernels, float32 for the rest.

    # Arguments
        model: a trained model of the zoo.
        path: where to write; complete or not at all.
        architecture: the arguments that build the model, kept in the file's header.

    # Returns
        The file's content. The same weights give the same bytes.

    # Raises
        ValueError: a kernel quantizer gives other values than ±1.
        OSError: the path cannot be written.
    """
    signs = binary_weights(model)
    header = {
        "format": FORMAT,
        "model": model.name,
        "architecture": architecture,
        "kernels": {name: list(kernel.shape) for name, kernel in signs.items()},
    }
    entries = {HEADER: np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)}
    for layer in model.layers:
        for name, variable in _variables(layer).items():
            if name == "kernel" and layer.name in signs:
                if not rebuilding.is_plus_minus_one(rebuilding.quantized_value(variable)):
                    raise ValueError(
                        f"save_weights: the kernel quantizer of layer {layer.name!r} "
                        f"({type(layer.kernel_quantizer).__name__}) gives scaled signs, and a "
                        "published file holds one bit a weight. Save the whole model with "
                        "model.save(...) instead."
                    )
                entries[f"{layer.name}/{BITS}"] = np.packbits(signs[layer.name].ravel() > 0)
            elif not is_quantizer_state(variable):  # base points among them
                entries[f"{layer.name}/{name}"] = variable.numpy()
    archive = io.BytesIO()  # on a full disk `np.savez` leaves a file open
    np.savez(archive, **entries)
    content = archive.getvalue()
    files.write(path, content)
    return content


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a published file: format, model, architecture, shapes of binary kernels.

    # Raises
        ValueError: the file is damaged or of another kind.
    """
    with _archive(Path(path)) as archive:
        return _header(Path(path), archive)


def is_path(weights: str | os.PathLike[str]) -> bool:
    """Whether `weights=` means a file; a bare word that is no file is a name."""
    if not isinstance(weights, str):
        return True
    path = Path(weights)
    return path.name != weights or path.suffix != "" or path.exists() or _is_checkpoint(path)


def load_weights(model: tf.keras.Model, path: str | os.PathLike[str]) -> None:
    """Loads weights into a model of the zoo, by the names of its layers.

    A model without a top takes the file of a full one. A plain sign network loads into a
    hyperbolic one with base points at zero, which keeps every sign.

    # Arguments
        model: the model, as built.
        path: a published file (`.npz`), Keras weights or a whole model (`.h5`, `.keras`,
            SavedModel), or a TensorFlow checkpoint.

    # Raises
        FileNotFoundError: nothing is there.
        ValueError: the file is damaged, belongs to another network, or cannot keep the signs.
    """
    path = Path(path)
    source = None
    if path.suffix == ".npz":
        arrays = _read_published(path)
    elif path.name.endswith(".weights.h5"):
        return _let_keras_load(model, path)
    elif path.suffix in (".h5", ".hdf5") and not _is_whole_model(path):
        arrays = _read_h5(path)
    elif path.suffix in (".keras", ".h5", ".hdf5") or path.is_dir():
        source = rebuilding.load(path, call=f"weights={str(path)!r}")
        arrays = _read_model(source)
    elif _is_checkpoint(path):
        return _let_keras_load(model, path)
    elif not path.exists():
        raise FileNotFoundError(f"weights={str(path)!r}: there is no such file.")
    else:
        raise ValueError(
            f"weights={str(path)!r}: not a weights file by its name. Known are .npz (published "
            "by the zoo), .h5, .keras, a SavedModel folder and TensorFlow checkpoints."
        )
    _check(model, arrays, path)
    _assign(model, arrays, path)
    if source is not None:
        _check_signs(model, source, path)
        _check_activations(model, source, path)


def _variables(layer: tf.keras.layers.Layer) -> dict[str, tf.Variable]:
    return {_short(variable.name): variable for variable in layer.weights}


def _is_checkpoint(path: Path) -> bool:
    return path.with_name(f"{path.name}.index").exists()


def _short(name: str) -> str:
    return name.split("/")[-1].split(":")[0]


# ------------------------------------------------------------------ reading


@contextlib.contextmanager
def _reading(path: Path):
    """Turns whatever a damaged file makes its reader raise into one message."""
    if not path.exists():
        raise FileNotFoundError(f"weights={str(path)!r}: there is no such file.")
    try:
        yield
    except (OSError, KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"weights={str(path)!r}: the file is damaged, or not what its name says ({error})."
        ) from error


@contextlib.contextmanager
def _archive(path: Path):
    with _reading(path), np.load(path, allow_pickle=False) as archive:
        yield archive


def _header(path: Path, archive: Any) -> dict[str, Any]:
    header = json.loads(archive[HEADER].tobytes())
    if header["format"] != FORMAT:
        raise ValueError(
            f"its format is {header['format']!r}, and this version reads {FORMAT!r}; a newer "
            "hbnn_larq may read it"
        )
    if absent := {"model", "architecture", "kernels"} - header.keys():
        raise ValueError(f"its header does not tell {_listed(sorted(absent))}")
    return header


def _read_published(path: Path) -> Arrays:
    arrays: Arrays = {}
    with _archive(path) as archive:
        shapes = _header(path, archive)["kernels"]
        for entry in archive.files:
            if entry == HEADER:
                continue
            layer, variable = entry.rsplit("/", 1)
            value = archive[entry]
            if variable == BITS:
                variable, shape = "kernel", shapes[layer]
                bits = np.unpackbits(value, count=int(np.prod(shape)))
                value = np.where(bits, np.float32(1), np.float32(-1)).reshape(shape).view(_Signs)
            arrays.setdefault(layer, {})[variable] = value
    return arrays


def _read_h5(path: Path) -> Arrays:
    import h5py

    arrays: Arrays = {}
    with _reading(path), h5py.File(path, "r") as file:
        for layer in _texts(file.attrs["layer_names"]):
            for name in _texts(file[layer].attrs["weight_names"]):
                arrays.setdefault(layer, {})[_short(name)] = np.asarray(file[layer][name])
    return arrays


def _texts(names: Any) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else name for name in names]


def _is_whole_model(path: Path) -> bool:
    import h5py

    with _reading(path), h5py.File(path, "r") as file:
        return "model_config" in file.attrs


def _read_model(source: tf.keras.Model) -> Arrays:
    return {
        layer.name: {name: _value(variable) for name, variable in _variables(layer).items()}
        for layer in source.layers
        if layer.weights
    }


def _value(variable: Any) -> np.ndarray:
    return getattr(variable, "latent_variable", variable).numpy()


def _let_keras_load(model: tf.keras.Model, path: Path) -> None:
    """Files that Keras reads by structure, not by names: they fit a model of one form only."""
    try:
        if _is_checkpoint(path):
            in_file = [name for name, _ in tf.train.list_variables(str(path))]
            own = [variable for variable in model.weights if is_base_point(variable)]
            # What a checkpoint has too much of, TensorFlow passes over.
            if sum("base_point" in name for name in in_file) > len(own):
                raise ValueError(
                    "it holds base points, without which its latent weights are another network, "
                    f"and this model has {'fewer' if own else 'none'}"
                )
        status = model.load_weights(path)
        if status is not None:  # a TensorFlow checkpoint
            status.assert_existing_objects_matched()
    except (OSError, ValueError, KeyError, AssertionError, tf.errors.OpError) as error:
        raise ValueError(
            f"weights={str(path)!r}: does not fit {model.name} ({str(error).strip()[:300]}). "
            "Build the model exactly as it was when the file was written, or save it as .h5 or "
            ".keras, which load by layer names."
        ) from error


# ------------------------------------------------------------------ comparing and assigning


def _check(model: tf.keras.Model, arrays: Arrays, path: Path) -> None:
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    missing = [name for name in layers if name not in arrays]
    extra = [name for name in arrays if name not in layers and not _is_top_of(model, name)]
    if missing and set(missing) <= TOP and not extra:
        raise ValueError(
            f"weights={str(path)!r}: the file has no weights for {_listed(missing)}, so it is one "
            f"of a network without top. Build {model.name} with include_top=False, or take the "
            "file of the full network."
        )
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"it has none for {_listed(missing)}")
        if extra:
            parts.append(f"the network has no layer {_listed(extra)}")
        raise ValueError(
            f"weights={str(path)!r}: the file belongs to another network than this {model.name} "
            f"({'; '.join(parts)})."
        )
    for name, layer in layers.items():
        _check_layer(model, layer, arrays[name], path)


def _check_layer(
    model: tf.keras.Model, layer: tf.keras.layers.Layer, values: dict[str, np.ndarray], path: Path
) -> None:
    variables = {
        name: variable
        for name, variable in _variables(layer).items()
        if not (is_base_point(variable) or _is_left_out(name, variable, values))
    }
    points = {name for name in values if "base_point" in name}
    own_points = {name for name, v in _variables(layer).items() if is_base_point(v)}
    if points and points != own_points:
        raise ValueError(
            f"weights={str(path)!r}: layer {layer.name!r} was trained with base points, without "
            "which its latent weights are another network, and this model has "
            f"{'other ones' if own_points else 'none'}. Build {model.name} with the quantizer it "
            "was trained with, or fold the trained model: hbnn_larq.fold(model).save(...)."
        )
    if set(values) - points != set(variables):
        raise ValueError(
            f"weights={str(path)!r}: layer {layer.name!r} has the variables "
            f"{_listed(sorted(variables))}, the file has {_listed(sorted(set(values) - points))}."
        )
    for name, variable in variables.items():
        if tuple(variable.shape) != values[name].shape:
            raise ValueError(
                f"weights={str(path)!r}: {layer.name}/{name} has shape {tuple(variable.shape)}, "
                f"in the file {values[name].shape}. Is it of another width, input or number of "
                "classes?"
            )


def _is_left_out(name: str, variable: Any, values: dict[str, np.ndarray]) -> bool:
    """What a quantizer only needs in training, such as its clock, is in no published file.

    Of other files it is not left out: latent weights and clock belong together.
    """
    published = any(isinstance(value, _Signs) for value in values.values())
    return published and is_quantizer_state(variable) and name not in values


def _is_top_of(model: tf.keras.Model, name: str) -> bool:
    """Whether a layer of the file is missing from the model because the model has no top."""
    return name in TOP and not TOP & {layer.name for layer in model.layers}


def _assign(model: tf.keras.Model, arrays: Arrays, path: Path) -> None:
    for layer in model.layers:
        for name, variable in _variables(layer).items():
            values = arrays[layer.name]
            if is_base_point(variable):
                variable.assign(values.get(name, tf.zeros_like(variable)))
            elif _is_left_out(name, variable, values):
                pass
            elif isinstance(values[name], _Signs):
                _assign_signs(model, layer, variable, np.asarray(values[name]), path)
            else:
                variable.assign(values[name])


def _assign_signs(
    model: tf.keras.Model,
    layer: tf.keras.layers.Layer,
    variable: Any,
    signs: np.ndarray,
    path: Path,
) -> None:
    """Latent weights with these signs, in the size of a fresh start so that they still train."""
    if getattr(layer, "kernel_quantizer", None) is None:
        variable.assign(signs)
        return
    for point in filter(is_base_point, layer.weights):
        point.assign(tf.zeros_like(point))
    size = float(np.sqrt(np.mean(rebuilding.latent_value(variable) ** 2)))
    for magnitude in (size, 1.0):
        variable.assign(np.float32(magnitude) * signs)
        if np.array_equal(rebuilding.quantized_value(variable), signs):
            return
    raise ValueError(
        f"weights={str(path)!r}: these weights are signs, and the kernel quantizer of this "
        f"{model.name} ({type(layer.kernel_quantizer).__name__}) makes something else of them. "
        'Use a sign quantizer such as "hyperbolic" or "ste_sign".'
    )


def _check_signs(model: tf.keras.Model, source: tf.keras.Model, path: Path) -> None:
    """The same latents and base points are another network under another quantizer or radius."""
    layers = {layer.name: layer for layer in model.layers}
    for trained in source.layers:
        if trained.name not in layers or not _is_binary(trained):
            continue
        layer = layers[trained.name]
        if not _is_binary(layer):
            continue
        want, got = (rebuilding.quantized_value(each.kernel) for each in (trained, layer))
        if changed := int(np.sum(np.sign(want) != np.sign(got))):
            raise ValueError(
                f"weights={str(path)!r}: the kernel quantizer of this {model.name} turns {changed} "
                f"of {want.size} signs of layer {layer.name!r}, so this would be another network. "
                f"It was trained with {_named(trained.kernel_quantizer)}, this model has "
                f"{_named(layer.kernel_quantizer)}. Pass the same kernel_quantizer, or fold the "
                "trained model first (hbnn_larq.fold)."
            )


def _check_activations(model: tf.keras.Model, source: tf.keras.Model, path: Path) -> None:
    """So are the same weights behind other binary activations; real ones are a step on the way."""
    layers = {layer.name: layer for layer in model.layers}
    for trained in source.layers:
        want, got = (
            getattr(layer, "input_quantizer", None) for layer in (trained, layers.get(trained.name))
        )
        if want is not None and got is not None and not activations.agree(want, got):
            raise ValueError(
                f"weights={str(path)!r}: layer {trained.name!r} was trained with the input "
                f"quantizer {activations.describe(want)}, this {model.name} has "
                f"{activations.describe(got)}, which gives other activations, so this would be "
                "another network. Pass input_quantizer= as it was trained."
            )


def _is_binary(layer: tf.keras.layers.Layer) -> bool:
    return getattr(getattr(layer, "kernel_quantizer", None), "precision", None) == 1


def _named(quantizer: Any) -> str:
    config = {k: v for k, v in quantizer.get_config().items() if k in ("r", "granularity", "size")}
    return f"{type(quantizer).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"


def _listed(names: Any) -> str:
    names = list(names)
    shown = ", ".join(map(repr, names[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
