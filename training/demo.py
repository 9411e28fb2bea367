"""The whole method on one screen: train, compare with its twins, fold, convert, check, ship."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq import edge, files, plots
from hbnn_larq.edge.twins import plain_tflite
from hbnn_larq.training import data, run
from hbnn_larq.training.recipes import digits

__all__ = ["demo"]

QUICK_EPOCHS = 4
RUNS = {
    "hyperbolic": digits.HYPERBOLIC,
    "ste_sign": digits.STE_SIGN,
    "asked_flips": digits.GEODESIC,
    "float": digits.FLOAT,
}


def demo(
    workdir: str | Path = "runs/demo",
    *,
    quick: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains a narrow hyperbolic VGGSmall and its twins on real digits and ships the first.

    The hyperbolic net, the same net with plain sign weights, that again with its flips asked for
    (`GeodesicSGD`, Adam for the rest), and the float twin get the same data, budget and seed. The
    hyperbolic net is then converted for the Larq Compute Engine and the file is checked against
    Keras on every test image. All of it is resumable: run it again after a crash and it goes on.

    # Arguments
        workdir: folder for everything, the runs in `hyperbolic/`, `ste_sign/`, `asked_flips/` and
            `float/`.
        quick: few epochs, to see that everything works, not how well.
        seed: of all four runs.
        say: called with each line.

    # Returns
        What is in `results.json`: accuracies, flips, sizes, operations, agreement.

    # Raises
        ValueError: where `workdir` holds runs with other settings.
    """
    workdir = Path(workdir)
    started = time.monotonic()
    dataset = data.load("digits")
    trained: dict[str, dict[str, Any]] = {}
    for label, recipe in RUNS.items():
        # Quick runs keep their decay: the sum of 40 epochs in 4 would flip too many weights.
        recipe = recipe.changed(seed=seed, epochs=QUICK_EPOCHS if quick else recipe.epochs)
        say(f"training {label} ({recipe.epochs} epochs)")
        trained[label] = run.fit(
            recipe,
            workdir / label,
            dataset=dataset,
            say=lambda line: say(f"  {line}"),
            flips_every=1,
        )
    say("converting")
    shipped = _ship(workdir, dataset)
    plots.learning_curves(
        {label: results["history"] for label, results in trained.items()},
        workdir / "learning_curves.png",
    )
    plots.flips_per_layer(trained["hyperbolic"]["history"], workdir / "flips.png")
    results = {
        "quick": quick,
        "seed": seed,
        "accuracy": {label: results["accuracy"] for label, results in trained.items()},
        "flips": {label: results["flips"] for label, results in trained.items()},
        "edge": shipped,
        "epochs": trained["hyperbolic"]["recipe"]["epochs"],
        "images": trained["hyperbolic"]["images"],
        "seconds": time.monotonic() - started,
        "versions": trained["hyperbolic"]["versions"],
    }
    text = json.dumps(results, indent=2) + "\n"
    files.write(workdir / "results.json", text)
    for line in screen(results, workdir):
        say(line)
    return results


def screen(results: dict[str, Any], workdir: Path) -> list[str]:
    """The results of a demo as the lines of one screen."""
    accuracy, shipped = results["accuracy"], results["edge"]
    tests = results["images"]["test"]
    lines = [
        "",
        f"Handwritten digits, {tests} test images no net has seen, {results['epochs']} epochs"
        + (" (quick: too few to judge by)" if results["quick"] else ""),
        "",
        "                          hyperbolic    plain sign   asked flips    float twin",
        "test accuracy          "
        + "".join(f"{accuracy[label]['test_top1']:11.2f} % " for label in RUNS),
        "flips/step, expected   " + _flips(results, "predicted_per_step"),
        "flips/step, seen       " + _flips(results, "measured_per_step"),
        "weights that changed   " + _flips(results, "vs_init", digits=1),
        "",
        f"file for the device    {shipped['bytes'] / 1e3:.1f} kB, float twin "
        f"{shipped['float_bytes'] / 1e3:.1f} kB ({shipped['float_bytes'] / shipped['bytes']:.1f} "
        "times larger)",
        f"binary operations      {shipped['binary_ops']} of {shipped['binary_layers']} binary "
        "layers run on bits",
        f"agreement with Keras   same digit on {shipped['agreeing']} of {tests} test images, "
        f"largest difference of a logit {shipped['largest_difference']:.1e}",
        "",
        f"results, models, plots {workdir}  ({results['seconds']:.0f} s)",
    ]
    lines += [f"FAULT: {fault}" for fault in shipped["faults"]]
    return lines


def _flips(results: dict[str, Any], key: str, digits: int = 2) -> str:
    cells = []
    for label in RUNS:
        flips = results["flips"][label]
        cells.append(f"{100 * flips[key]:11.{digits}f} % " if flips else "            - ")
    return "".join(cells)


def _ship(workdir: Path, dataset: data.Dataset) -> dict[str, Any]:
    """Converts the binary net and its float twin, and compares the file with Keras."""
    model = tf.keras.models.load_model(workdir / "hyperbolic" / "model.keras", compile=False)
    twin = tf.keras.models.load_model(workdir / "float" / "model.keras", compile=False)
    images = dataset.normalize(dataset.test.images)
    scale = dataset.white / 255  # of an image file, for `hbnn predict`
    preprocessing = edge.Preprocessing(scale=scale, mean=dataset.mean, std=dataset.scale)
    content = edge.convert(
        model,
        workdir / "model.tflite",
        labels=dataset.class_names,
        preprocessing=preprocessing,
    )
    report = edge.report(model, content, images)
    for name, text in (("report.json", report.to_json()), ("report.md", report.to_markdown())):
        files.write(workdir / name, text)
    float_content = plain_tflite(twin)
    files.write(workdir / "float_twin.tflite", float_content)
    predicted = np.argmax(edge.predict(content, images), axis=-1)
    agreement = report.agreement
    assert agreement is not None and agreement.top1 is not None
    return {
        "ok": report.ok,
        "faults": list(report.faults),
        "bytes": len(content),
        "float_bytes": len(float_content),
        "binary_layers": report.binary_asked,
        "binary_ops": report.binary_placed,
        "ops": dict(report.ops),
        "images": agreement.images,
        "agreeing": round(agreement.top1 * agreement.images),
        "logits_differ": agreement.logits_differ,
        "median_difference": agreement.median_difference,
        "largest_difference": agreement.max_difference,
        "test_top1": 100 * float(np.mean(predicted == dataset.test.labels)),
    }
