"""Runs of the study that no recipe describes.

They have a loss beside the cross-entropy (CMIM's teacher, or RAD's), or other averages in batch
normalization.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
    """What a line of the study says of a recipe whose net is trained beside a teacher."""

    def taught(student: tf.keras.Model) -> tf.keras.Model:
        count = len(dataset.train)
        return rivals.CMIM(student, teacher, count, weight=weight, seed=recipe.seed)

    return _fit(recipe, dataset, taught, with_indices=True)


def fit_distributed(recipe: Recipe, weight: float, dataset: data.Dataset) -> dict[str, Any]:
    """The same with RAD's loss on the activations that a sign sees."""

    def with_loss(model: tf.keras.Model) -> tf.keras.Model:
        rivals.add_distribution_loss(model, weight)
        return model

    return _fit(recipe, dataset, with_loss)


def fit_averaged(recipe: Recipe, momentum: str, dataset: data.Dataset) -> dict[str, Any]:
    """The same with averages of batch normalization that remember `momentum` at each batch.

    "exact" leaves training as it is, then averages over one more epoch of its batches instead:
    all of them then come from the weights as they are at the end.
    """
    exact = momentum == "exact"

    def averaged(model: tf.keras.Model) -> tf.keras.Model:
        if not exact:
            _remember(model, float(momentum))
        return model

    return _fit(recipe, dataset, averaged, finished=_average_exactly if exact else None)


def _remember(model: tf.keras.Model, momentum: float) -> None:
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = momentum


def _average_exactly(net: tf.keras.Model, batches: tf.data.Dataset) -> None:
    for count, (images, *_) in enumerate(batches, start=1):
        _remember(net, 1 - 1 / count)  # the mean over all batches so far
        net(images, training=True)


def _fit(
    recipe: Recipe,
    dataset: data.Dataset,
    trained: Callable[[tf.keras.Model], tf.keras.Model],
    finished: Callable[[tf.keras.Model, tf.data.Dataset], None] | None = None,
    **batches_with: bool,
) -> dict[str, Any]:
    """Trains what `trained` makes of the net, and evaluates the net.

    First weights, batches and optimizer are those of `hbnn_larq.training.run.fit` for the recipe.
    `finished` is called before the evaluation, with the net and one epoch of batches.
    """
    started, count = time.monotonic(), len(dataset.train)
    tf.keras.utils.set_random_seed(recipe.seed)
    net = build_model(recipe, dataset.image_shape, dataset.num_classes)
    model = trained(net)
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
        **batches_with,
    )
    model.fit(
        # Of batches without a known number Keras would begin anew in each epoch.
        batches.apply(tf.data.experimental.assert_cardinality(steps * recipe.epochs)),
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[rivals.TrainingProgress(recipe.epochs)],
    )
    if finished is not None:
        finished(net, batches.take(steps))
    found = {split: run.evaluate(net, dataset, split) for split in ("validation", "test")}
    return {
        **{split: figures["top1"] for split, figures in found.items()},
        **{f"{split}_loss": figures["loss"] for split, figures in found.items()},
        "steps": steps * recipe.epochs,
        "seconds": round(time.monotonic() - started, 2),
    }
