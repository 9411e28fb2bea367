"""A run of the study beside a float teacher, as CMIM has it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from hbnn_larq import rivals
from hbnn_larq.training import data, run
from hbnn_larq.training.models import build_model, build_optimizer
from hbnn_larq.training.recipe import Recipe


def teacher_of(recipe: Recipe, dataset: data.Dataset, folder: str | Path) -> tf.keras.Model:
    """The net of a recipe of real weights, trained."""
    run.fit(recipe, folder, dataset=dataset, say=lambda _: None)
    return tf.keras.models.load_model(Path(folder) / "model.keras")


def fit_taught(
    recipe: Recipe, teacher: tf.keras.Model, weight: float, dataset: data.Dataset
) -> dict[str, Any]:
    """What a line of the study says of a recipe whose net is trained beside a teacher.

    First weights, batches and optimizer are those of `hbnn_larq.training.run.fit` for the recipe.
    """
    started, count = time.monotonic(), len(dataset.train)
    tf.keras.utils.set_random_seed(recipe.seed)
    student = build_model(recipe, dataset.image_shape, dataset.num_classes)
    model = rivals.CMIM(student, teacher, count, weight=weight, seed=recipe.seed)
    model.compile(
        build_optimizer(recipe, count),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    steps = data.steps_per_epoch(dataset, recipe.batch_size)
    batches = data.training_batches(
        dataset,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        seed=recipe.seed,
        with_indices=True,
    )
    model.fit(
        # Of batches without a known number Keras would begin anew in each epoch.
        batches.apply(tf.data.experimental.assert_cardinality(steps * recipe.epochs)),
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[rivals.TrainingProgress(recipe.epochs)],
    )
    found = {split: run.evaluate(student, dataset, split) for split in ("validation", "test")}
    return {
        **{split: figures["top1"] for split, figures in found.items()},
        **{f"{split}_loss": figures["loss"] for split, figures in found.items()},
        "steps": steps * recipe.epochs,
        "seconds": round(time.monotonic() - started, 2),
    }
