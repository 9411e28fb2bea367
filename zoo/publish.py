"""From a finished run to a published file, its card, and a row of the registry."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import hbnn_larq.zoo
from hbnn_larq import files, rebuilding
from hbnn_larq.folding import binary_weights
from hbnn_larq.training.finished import finished_run
from hbnn_larq.zoo import activations, pretrained, weight_files
from hbnn_larq.zoo.images import DATASETS
from hbnn_larq.zoo.pretrained import (
    REGISTRY,
    Pretrained,
    read_registry,
    write_registry,
)

__all__ = ["publish"]

NEEDED = ("model.keras", "results.json")
# Part of file names; with a dot in it, `weights=` would take it for a path.
NAME = re.compile(r"\w+([ -]+\w+)*")


def publish(
    workdir: str | Path,
    folder: str | Path,
    *,
    weights: str | None = None,
    command: str | None = None,
    licence: str = "Apache-2.0",
) -> tuple[Pretrained, dict[str, Any]]:
    """Makes pretrained weights of a run: file, model card and registry row in `folder`.

    The file holds the deployed network (see `hbnn_larq.zoo.weight_files`). Before anything is
    written for good, the file is loaded into a fresh model of the zoo, whose logits must equal
    those of the trained one. Point `HBNN_LARQ_WEIGHTS` at the folder, or at the URL it is
    uploaded to, and `weights=` finds it.

    # Arguments
        workdir: folder of a run that `hbnn train` finished.
        folder: where to write; its registry is made or extended.
        weights: name of the weights; the data set's by default, which must not be that of weights
            in the package.
        command: the command that trains them again; by default made from the recipe's name.
        licence: of the weights.

    # Returns
        The row, and the card.

    # Raises
        FileNotFoundError: the run is not finished.
        ValueError: the model is none of the zoo's, its weights are not signs, its results are
            damaged, or the name cannot be one or is one of the package.
        OSError: the folder cannot be written, or its disk is full; nothing new is left in it.
    """
    workdir, folder = Path(workdir), Path(folder)
    finished = finished_run(workdir)
    if finished is None or not (workdir / "model.keras").exists():
        name = next(name for name in NEEDED if not (workdir / name).exists())
        raise FileNotFoundError(
            f"publish({str(workdir)!r}): there is no {name}, so this is no finished run. "
            "Finish it first: hbnn train, with the same --workdir."
        )
    _, results = finished
    recipe = results["recipe"]
    trained = rebuilding.load(workdir / "model.keras", call=f"publish({str(workdir)!r})")
    architecture = _architecture(trained, recipe, workdir)
    _check_signs(trained, workdir)
    weights = str(recipe["dataset"]) if weights is None else weights
    _check_name(trained.name, weights, workdir, folder)
    _check_normalization(weights, recipe, workdir)
    command = command or f"hbnn train {recipe['name']} --workdir runs/{recipe['name']}"

    draft = folder / f".{trained.name}-{weights}.npz"
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = weight_files.save_weights(trained, draft, architecture=architecture)
        _check_logits(trained, draft, workdir)
        sha256 = hashlib.sha256(content).hexdigest()
        # The hash in the name: a new version never meets an old one in a cache.
        file = f"{trained.name.lower()}-{weights}-{sha256[:8]}.npz"
        row = Pretrained(
            model=trained.name,
            weights=weights,
            architecture=architecture,
            train=command,
            file=file,
            sha256=sha256,
            bytes=len(content),
            metrics=results["accuracy"],
        )
        card = {
            **dataclasses.asdict(row),
            "data": {"name": recipe["dataset"], "images": results.get("images")},
            "input": results.get("input"),
            "recipe": recipe,
            "seed": recipe.get("seed"),
            "command": command,
            "steps": results.get("steps"),
            "seconds": results.get("seconds"),
            "flips": results.get("flips"),
            "versions": {**results.get("versions", {}), "hbnn_larq": _version()},
            "licence": licence,
            "format": weight_files.FORMAT,
        }
        written = [p for p in (folder / file, folder / str(row.card)) if not p.exists()]
        draft.replace(folder / file)
        files.write(folder / str(row.card), json.dumps(card, indent=2) + "\n")
        _register(folder / REGISTRY, row)
    except BaseException as error:
        for path in written:  # without a row nobody would find them
            path.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OSError(
            error.errno,
            f"publish({str(workdir)!r}): cannot write in {folder} ({error.strerror or error}); "
            f"nothing was published. {'Free some space there, or name' if full else 'Name'} "
            "another folder",
        ) from None
    finally:
        if draft.exists():  # not where the folder itself could not be made
            draft.unlink()
    return row, card


def _architecture(model: tf.keras.Model, recipe: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """The arguments that build the model, which the weights must fit."""
    if model.name not in hbnn_larq.zoo.MODELS:
        raise ValueError(
            f"publish({str(workdir)!r}): {model.name!r} is none of the zoo's models "
            f"({', '.join(hbnn_larq.zoo.MODELS)}). Save it with model.save(...) instead."
        )
    architecture: dict[str, Any] = {
        "input_shape": list(model.input_shape[1:]),
        "num_classes": model.output_shape[-1],
        "width": recipe.get("width") or 1.0,
    }
    for argument in ("stem", "shortcut"):
        if recipe.get(argument) is not None:
            architecture[argument] = recipe[argument]
    if any(layer.name == "conv1_pool" for layer in model.layers):
        names = [layer.name for layer in model.layers]
        architecture["pool_before_bn"] = names.index("conv1_pool") < names.index("conv1_bn")
    architecture["input_quantizer"] = _input_quantizer(model, workdir)
    return architecture


def _input_quantizer(model: tf.keras.Model, workdir: Path) -> dict[str, Any] | None:
    """What makes the one input quantizer that all binary layers have."""
    quantizers = {
        layer.name: layer.input_quantizer
        for layer in model.layers
        if hasattr(layer, "input_quantizer")
    }
    try:
        first, *others = map(activations.describe, quantizers.values())
    except TypeError as error:
        raise ValueError(
            f"publish({str(workdir)!r}): the input quantizer cannot be written down ({error}). "
            "Train with one of Larq's or hbnn_larq's."
        ) from error
    for name, other in zip(list(quantizers)[1:], others, strict=True):
        if other != first:
            raise ValueError(
                f"publish({str(workdir)!r}): layer {name!r} has the input quantizer {other}, the "
                f"layers before it {first}, and published weights record one for all. Save the "
                "model with model.save(...) instead."
            )
    return first


def _check_signs(model: tf.keras.Model, workdir: Path) -> None:
    """A published file holds the signs of every quantized layer, and of nothing else."""
    signs = binary_weights(model)
    for layer in model.layers:
        if hasattr(layer, "kernel_quantizer") and layer.name not in signs:
            quantizer = layer.kernel_quantizer
            named = None if quantizer is None else type(quantizer).__name__
            raise ValueError(
                f"publish({str(workdir)!r}): the weights of layer {layer.name!r} are no signs (its "
                f"kernel quantizer: {named}), and published weights are. Use the model itself: "
                f"weights={str(workdir / 'model.keras')!r}, with the arguments it was built with."
            )


def _check_name(model: str, weights: str, workdir: Path, folder: Path) -> None:
    """Whoever passes the name as `weights=` must get what is published here."""
    if not NAME.fullmatch(weights):
        raise ValueError(
            f"publish({str(workdir)!r}, weights={weights!r}): a name is made of letters, digits "
            "and '_', with '-' or spaces between them, such as 'cifar10-wide'. Publish it under "
            "such a name (--name)."
        )
    packaged = read_registry(pretrained.PACKAGED / REGISTRY)
    taken = {(row.model, row.weights) for row in packaged if row.file}
    if (model, weights) in taken and folder.resolve() != pretrained.PACKAGED.resolve():
        raise ValueError(
            f"publish({str(workdir)!r}): weights={weights!r} of {model} means those in the "
            f"package, which come before any other. Publish it under another name (--name), such "
            f"as 'my-{weights}'."
        )


def _check_normalization(weights: str, recipe: dict[str, Any], workdir: Path) -> None:
    """Weights named after a data set must see what `preprocess_input` makes of its pictures."""
    facts = DATASETS.get(weights)
    trained_with = recipe.get("normalization", "dataset")
    if facts is not None and trained_with != facts.constants:
        raise ValueError(
            f"publish({str(workdir)!r}): the run normalised with the constants of "
            f"{trained_with!r}, preprocess_input(..., {weights!r}) with those of "
            f"{facts.constants!r}. Publish it under another name (--name)."
        )


def _check_logits(trained: tf.keras.Model, file: Path, workdir: Path) -> None:
    """What `weights=` builds of the file must be the trained network."""
    published = getattr(hbnn_larq.zoo, trained.name)(weights=file)
    images = np.random.default_rng(0).normal(size=(16, *trained.input_shape[1:])).astype("float32")
    want, got = trained(images).numpy(), published(images).numpy()
    if not np.array_equal(want, got):
        raise ValueError(
            f"publish({str(workdir)!r}): the model rebuilt from "
            f"{weight_files.describe(file)['architecture']} gives other logits than the trained "
            f"one (by up to {np.abs(want - got).max():.2g}), so the file was not published. Was "
            "model.keras changed after training?"
        )


def _register(path: Path, row: Pretrained) -> None:
    """Puts the row in the place of an earlier one, whose file and card it then removes."""
    rows = {(r.model, r.weights): r for r in (read_registry(path) if path.exists() else [])}
    earlier = rows.get((row.model, row.weights))
    rows[row.model, row.weights] = row
    write_registry(path, rows.values())
    if earlier is not None and earlier.file not in (None, row.file):
        for name in (earlier.file, earlier.card):
            path.with_name(str(name)).unlink(missing_ok=True)


def _version() -> str:
    try:
        return version("hbnn_larq")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"
