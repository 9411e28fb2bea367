"""What a finished run left in its folder: its results, and the data as its network takes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hbnn_larq.training import data
from hbnn_larq.training.recipe import Recipe, listed
from hbnn_larq.training.saved_json import WAY_OUT, read_object

__all__ = ["dataset_of", "finished_run", "remark_on_model"]


def _is_input(seen: Any) -> bool:
    numbers = (*seen["mean"], *seen["scale"], seen["white"])
    return (
        all(isinstance(name, str) for name in seen["class_names"])
        and len(seen["mean"]) == len(seen["scale"])
        and all(math.isfinite(number) for number in numbers)
        and all(number > 0 for number in (*seen["scale"], seen["white"]))
    )


def _are_flips(flips: Any) -> bool:
    return flips is None or all(
        math.isfinite(flips[name]) for name in ("predicted_per_step", "measured_per_step")
    )


# What is read of results, and whether it is what it should be.
PARTS: dict[str, Callable[[Any], bool]] = {
    "recipe": lambda recipe: isinstance(recipe, dict),
    "accuracy": lambda accuracy: isinstance(accuracy, dict),
    "history": lambda rows: isinstance(rows, list) and all("loss" in row for row in rows),
    "images": lambda images: images["train"] > 0,
    "data": lambda known: isinstance(known["content"], str),
    "input": _is_input,
    "flips": _are_flips,
    "findings": lambda found: all({"code", "where", "message", "fix"} == set(f) for f in found),
    "versions": lambda versions: isinstance(versions, dict),
}
LATER = {"images", "data", "input", "flips", "findings", "versions"}  # not of every version


def finished_run(folder: Path) -> tuple[Recipe, dict[str, Any]] | None:
    """The recipe of which a folder holds results, and these; None where there are none yet.

    While a run goes further, or another has taken its place, that is not the `recipe.json` there.
    """
    path = folder / "results.json"
    if not path.exists():
        return None
    results = read_object(path)
    for part, is_sound in PARTS.items():
        if part not in results and part in LATER:
            continue
        try:
            sound = is_sound(results[part])
        except (LookupError, TypeError, ValueError, AttributeError):
            sound = False
        if not sound:
            raise ValueError(f"{path} is damaged (no {part} in it). {WAY_OUT}")
    return Recipe.of_file(path, results["recipe"]), results


def remark_on_model(folder: Path, recipe: Recipe) -> str | None:
    """What to know of `model.keras` while its run goes further than when it was written.

    # Arguments
        folder: of the run.
        recipe: of the run, as in its `recipe.json`.
    """
    finished = finished_run(folder)
    if finished is None or finished[0] == recipe:
        return None
    return (
        f"{folder / 'model.keras'} is of an earlier run ({listed(finished[0].differences(recipe))})"
        "; `hbnn train` writes it anew at the end"
    )


def dataset_of(
    folder: Path,
    recipe: Recipe,
    name: str | None = None,
    data_folder: str | Path | None = None,
    *,
    unreadable: str = "error",
    say: Callable[[str], None] = print,
) -> data.Dataset:
    """Loads data for the network of a finished run, with the mean and scale it was trained with.

    # Arguments
        folder: of the run.
        recipe: of the run.
        name: of other data; None for that of the recipe.
        data_folder: where the files of the data are.
        unreadable: see `data.load`.
        say: called with a line where the images are not those of the run, and with what is worth
            knowing while loading.

    # Raises
        ValueError: other classes than the network tells apart, or in another order; other data
            than an earlier version trained on, which did not write its mean and scale down.
    """
    dataset = data.load(
        name or recipe.dataset,
        data_folder,
        image_size=recipe.image_size,
        unreadable=unreadable,
        say=say,
    )
    fingerprint = dataset.fingerprint()
    if name in (None, recipe.dataset):
        dataset = dataset.with_hold_out(recipe.hold_out)
    dataset = dataset.normalized_as(recipe.normalization)
    finished = finished_run(folder)
    results = finished[1] if finished else {}
    seen = results.get("input")
    if seen is None:
        data.require_same(results.get("data"), fingerprint, f"{folder} holds a run")
        return dataset
    there, here = seen["class_names"], [str(name) for name in dataset.class_names]
    if there != here:
        pairs = list(zip(there, here, strict=False))
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        odd = (
            f"{len(there)} there, {len(here)} here"
            if place is None
            else f"number {place} is {there[place]!r} there, {here[place]!r} here"
        )
        raise ValueError(
            f"{folder} holds a run on other classes than those of {dataset.name} ({odd}). Name the "
            "data it was trained on, or other images of the same classes."
        )
    if fingerprint["content"] != results["data"]["content"]:
        say(
            f"{dataset.name} has the classes that {folder} was trained on, but other images, of "
            "which some may have been trained on. Mean and scale stay those of the run"
        )
    # Raw values of other data may have another white: these are of the data at hand.
    brighter = dataset.white / seen["white"]
    return replace(
        dataset,
        mean=tuple(brighter * value for value in seen["mean"]),
        scale=tuple(brighter * value for value in seen["scale"]),
    )
