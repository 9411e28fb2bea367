"""Methods under one budget: same data, steps, schedule, decays and seeds."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow as tf

from hbnn_larq import files, plots, rivals
from hbnn_larq.training import data, run
from hbnn_larq.training.recipe import CLAIMS, Recipe
from hbnn_larq.training.repeats import accuracy, paired_difference, repeat, require_no_run, spread

__all__ = ["compare", "folder_of", "method"]

# What a comparison holds equal, or its differences would not be the methods'.
_SHARED = ("dataset", "hold_out", "image_size", "seed", "epochs", "stop_epoch", "batch_size")
_OF_RECIPE = ("name", "source", *CLAIMS)
_LONGEST_FOLDER = 150


def method(recipe: Recipe, words: str) -> Recipe:
    """The recipe with another method.

    # Arguments
        recipe: gives everything else.
        words: "float" for the float twin, "none" for real weights under the recipe's activations,
            else a kernel quantizer (`hyperbolic`, `hyperbolic_boundary`, `epc`, `ste_sign`, any
            alias of Larq or of `hbnn_larq.rivals`, or a host with a map in front,
            `irnet+hyperbolic`), and after colons fields to change, such as
            `hyperbolic:r=1:granularity=layer` or `irnet:input_quantizer=ede_sign`. Data, seed
            and number of steps are not a method's.

    # Returns
        The changed recipe.

    # Raises
        ValueError: a change that is not FIELD=VALUE, or of a field that the first word sets or
            that all methods share.
    """
    quantizer, *changes = words.split(":")
    values: dict[str, Any] = {"kernel_quantizer": quantizer}
    if quantizer == "float":
        values = {"kernel_quantizer": None, "input_quantizer": None}
    by_first_word = tuple(values)
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise ValueError(
                f"method {words!r}: write it as QUANTIZER or QUANTIZER:FIELD=VALUE:..., such as "
                "hyperbolic:r=0.5."
            )
        if field in by_first_word:
            rest = [other for other in changes if other != change]
            meant = [value, *rest] if field == "kernel_quantizer" else ["none", *changes]
            raise ValueError(
                f"method {words!r}: the first word of a method names its quantizer, and "
                f"{quantizer} sets {field} already; write {':'.join(meant)}."
            )
        if field in _SHARED:
            raise ValueError(
                f"method {words!r}: {field} is the same for all methods, or they would differ in "
                f"more than their method. Change it for all of them: --set {change}."
            )
        if field in _OF_RECIPE:
            raise ValueError(
                f"method {words!r}: {field} belongs to the recipe, and to no method. Leave it out."
            )
        values[field] = value
    return recipe.changed(**values)


def _not_as_published(words: str, changed: Recipe) -> str | None:
    """A remark on a rival's kernel that nobody told which activation to take."""
    host = words.split(":")[0].split("+")[0]
    own, taken = rivals.OWN_ACTIVATIONS.get(host), changed.input_quantizer
    if own in (None, taken) or taken is None or ":input_quantizer=" in words:
        return None
    return (
        f"{words}: its kernel alone, with the recipe's activation {taken}; as published it is "
        f"{words}:input_quantizer={own}"
    )


def folder_of(words: str) -> str:
    """Name of the folder of a method's runs: one folder, whatever a value holds."""
    plain = words.replace(":", "-")
    name = re.sub(r"[^\w.=+-]+", "-", plain)[:_LONGEST_FOLDER]
    if name == plain and name.strip("."):
        return name
    return f"{name}-{hashlib.blake2b(words.encode(), digest_size=6).hexdigest()}"


def compare(
    recipe: Recipe,
    methods: Sequence[str],
    workdir: str | Path,
    *,
    seeds: int = 3,
    dataset: data.Dataset | None = None,
    folder: str | Path | None = None,
    split: str = "validation",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains several methods with the same budget and seeds and compares them pair by pair.

    All runs are resumable: the same call again reads what is finished and goes on where one
    stopped. A method of which a run diverges is said to, and the others go on. Writes
    `compare.json`, `compare.md` and `compare.png` into `workdir`.

    # Arguments
        recipe: everything but the method.
        methods: see `method`; the first is the reference of the differences.
        workdir: one sub-folder per method.
        seeds: runs per method.
        dataset: instead of the one that the recipe names.
        folder: where the files of the recipe's data set are.
        split: "validation" or "test". Choosing between methods is choosing a setting, so the
            default leaves the test split alone.
        say: called with each line of progress.

    # Returns
        What is in `compare.json`.

    # Raises
        ValueError: for fewer than two methods, a method given twice or unknown, a split without
            images, the folder of a single run.
    """
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise ValueError(f"compare(methods={list(methods)}): two or more different methods.")
    if split not in ("validation", "test"):
        raise ValueError(f'compare(split={split!r}): "validation" or "test".')
    workdir = Path(workdir)
    require_no_run("compare", workdir)
    dataset = dataset or data.load(recipe.dataset, folder, image_size=recipe.image_size, say=say)
    if split == "validation" and not (len(dataset.validation) or recipe.hold_out):
        raise ValueError(
            f"compare: {dataset.name} has no validation split. Hold some training images out "
            "(--set hold_out=5000), or compare on the test split (--split test)."
        )
    recipes = {words: method(recipe, words) for words in methods}
    for changed in recipes.values():  # a misspelt method shows now, not after the others have run
        run.build_model(changed, dataset.image_shape, dataset.num_classes)
    tf.keras.backend.clear_session()
    for words, changed in recipes.items():
        if remark := _not_as_published(words, changed):
            say(remark)
    results: dict[str, list[dict[str, Any]]] = {}
    for words, changed in recipes.items():
        try:
            place = workdir / folder_of(words)
            results[words] = repeat(changed, place, seeds=seeds, dataset=dataset, say=say)
        except FloatingPointError as error:  # which is an answer: this method does not train
            say(f"{words}: diverged ({error})")
    rows = [
        _row(
            words, results.get(words), results.get(methods[0]), split, is_first=words == methods[0]
        )
        for words in methods
    ]
    outcome = {"recipe": asdict(recipe), "split": split, "seeds": seeds, "methods": rows}
    text = json.dumps(outcome, indent=2) + "\n"
    for name, content in (("compare.json", text), ("compare.md", table(outcome))):
        files.write(workdir / name, content)
    plots.accuracies(
        {row["method"]: row["top1"] for row in rows if row["top1"]},
        workdir / "compare.png",
        ylabel=f"{split} accuracy (%)",
    )
    return outcome


def _row(
    words: str,
    runs: Sequence[dict[str, Any]] | None,
    reference: Sequence[dict[str, Any]] | None,
    split: str,
    *,
    is_first: bool,
) -> dict[str, Any]:
    """What `compare.json` says of a method; `runs` or `reference` is None where one diverged."""
    row: dict[str, Any] = {
        "method": words,
        "top1": [],
        "mean": None,
        "std": None,
        "difference": None,
        "text": "diverged",
        "difference_text": "reference" if is_first else "-",
        "flips_per_step": None,
        "seconds": None,
    }
    if runs is None:
        return row
    values = accuracy(runs, split)
    found = spread(values)
    flips = [one["flips"]["measured_per_step"] for one in runs if one["flips"]]
    row |= {
        "top1": values,
        "mean": found.mean,
        "std": found.std if len(values) > 1 else None,
        "text": str(found),
        "flips_per_step": spread(flips).mean if flips else None,
        "seconds": spread([one["seconds"] for one in runs]).mean,
    }
    if is_first or reference is None:
        return row
    difference = paired_difference(values, accuracy(reference, split))
    row["difference"] = {
        "mean": difference.mean,
        "low": None if math.isnan(difference.low) else difference.low,
        "high": None if math.isnan(difference.high) else difference.high,
        "within_noise": difference.within_noise,
    }
    row["difference_text"] = str(difference)
    return row


def table(outcome: dict[str, Any]) -> str:
    """The outcome of `compare` as a Markdown table."""
    lines = [
        f"{outcome['recipe']['name']}: {outcome['split']} top-1, mean ± std over "
        f"{outcome['seeds']} seeds; differences are paired, with a 95 % interval.",
        "",
        "| method | accuracy (%) | difference | flips per step (%) | seconds per run |",
        "|---|---|---|---|---|",
    ]
    for row in outcome["methods"]:
        flips = "-" if row["flips_per_step"] is None else f"{100 * row['flips_per_step']:.2f}"
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.0f}"
        lines.append(
            f"| {row['method']} | {row['text']} | {row['difference_text']} | {flips} | {seconds} |"
        )
    return "\n".join(lines) + "\n"
