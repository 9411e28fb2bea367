"""One training step and one evaluation pass, as graphs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

__all__ = ["Evaluation", "Evaluator", "StepResult", "TrainStep"]


class StepResult(NamedTuple):
    """What one step saw.

    # Attributes
        loss: mean over the batch, before the update.
        correct: images of the batch whose largest logit was the right one.
        finite: whether loss and all gradients were finite; where not, nothing was updated.
    """

    loss: float
    correct: int
    finite: bool


class TrainStep:
    """Cross-entropy, gradients and update of one batch, in one graph.

    The update is left out where the loss or a gradient is not finite, so that the weights that
    produced it can still be looked at (and a good checkpoint is never followed by a spoilt one).
    Under a strategy with several replicas the update cannot be conditional; there a bad step is
    reported after the fact.

    # Arguments
        model: returns logits.
        optimizer: of the model's trainable variables.
        num_classes: number of logits.
        label_smoothing: share of each target spread over all classes.
        strategy: across whose replicas a batch is split; the current one by default.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        optimizer: tf.keras.optimizers.Optimizer,
        *,
        num_classes: int,
        label_smoothing: float = 0.0,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self._strategy = strategy or tf.distribute.get_strategy()
        replicas = self._strategy.num_replicas_in_sync
        scaled = isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)

        def on_replica(
            images: tf.Tensor, labels: tf.Tensor, batch_size: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                logits = tf.cast(model(images, training=True), tf.float32)
                targets = tf.one_hot(labels, num_classes)
                targets = targets * (1 - label_smoothing) + label_smoothing / num_classes
                losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
                loss = tf.reduce_sum(losses) / tf.cast(batch_size, tf.float32)
                if model.losses:
                    loss += tf.add_n(model.losses) / replicas
                objective = optimizer.get_scaled_loss(loss) if scaled else loss
            variables = model.trainable_variables
            gradients = tape.gradient(objective, variables)
            finite = tf.math.is_finite(loss)
            healthy = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
            if scaled:
                # The scaler itself skips steps whose scaled gradients overflow, and halves its
                # scale. What overflows unscaled will do so for ever.
                healthy |= optimizer.loss_scale > 1
                gradients = optimizer.get_unscaled_gradients(gradients)
            finite &= healthy

            def update() -> tf.Tensor:
                optimizer.apply_gradients(zip(gradients, variables, strict=True))
                return tf.constant(True)

            if replicas == 1:
                tf.cond(finite, update, lambda: tf.constant(False))
            else:
                update()
            hits = tf.argmax(logits, axis=-1, output_type=labels.dtype) == labels
            return loss, tf.math.count_nonzero(hits, dtype=tf.int32), tf.cast(finite, tf.int32)

        def step(
            images: tf.Tensor, labels: tf.Tensor, batch_size: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            loss, correct, finite = self._strategy.run(on_replica, (images, labels, batch_size))
            add = tf.distribute.ReduceOp.SUM
            return (
                self._strategy.reduce(add, loss, axis=None),
                self._strategy.reduce(add, correct, axis=None),
                self._strategy.reduce(add, finite, axis=None) == replicas,
            )

        self._step = tf.function(step, reduce_retracing=True)

    def __call__(self, images: tf.Tensor, labels: tf.Tensor) -> StepResult:
        """Runs one step on a batch: float32 (b, h, w, c) and int64 (b,)."""
        batch_size = tf.shape(labels)[0]
        replicas = self._strategy.num_replicas_in_sync
        if replicas > 1:
            images, labels = (
                self._strategy.experimental_distribute_values_from_function(
                    lambda context, whole=whole: whole[context.replica_id_in_sync_group :: replicas]
                )
                for whole in (images, labels)
            )
        loss, correct, finite = self._step(images, labels, batch_size)
        return StepResult(float(loss), int(correct), bool(finite))


class Evaluation(NamedTuple):
    """Figures of a model on a split.

    # Attributes
        top1, top5: percent of images whose class is the largest, or among the five largest
            logits.
        loss: mean cross-entropy.
        images: how many were seen.
    """

    top1: float
    top5: float
    loss: float
    images: int


class Evaluator:
    """Accuracy and loss of a model that returns logits, its inference graph made once.

    # Arguments
        model: a Keras model.

    !!! example
        ```python
        figures = Evaluator(model)(evaluation_batches(dataset, dataset.test))
        ```
    """

    def __init__(self, model: tf.keras.Model):
        self._forward = tf.function(
            lambda images: tf.cast(model(images, training=False), tf.float32),
            reduce_retracing=True,
        )

    def __call__(self, batches: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> Evaluation:
        """Figures over (images, labels), images normalised as the model wants them.

        # Raises
            ValueError: where there is no image.
        """
        top1 = top5 = images = 0
        loss = 0.0
        for batch, labels in batches:
            logits = self._forward(batch).numpy().astype(np.float64)
            right = np.take_along_axis(logits, np.asarray(labels)[:, None], axis=1)
            # Classes not behind the right one, itself aside: ties and NaN logits count as wrong.
            ahead = np.sum(~(logits < right), axis=1) - 1
            top1 += int(np.sum(ahead < 1))
            top5 += int(np.sum(ahead < 5))
            high = logits.max(axis=1, keepdims=True)
            log_sum = high + np.log(np.exp(logits - high).sum(axis=1, keepdims=True))
            loss += float(np.sum(log_sum - right))
            images += len(logits)
        if not images:
            raise ValueError("Evaluator: the split holds no images. Name another (--split).")
        return Evaluation(100 * top1 / images, 100 * top5 / images, loss / images, images)
