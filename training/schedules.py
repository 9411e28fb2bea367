"""Learning rates over the steps that a run really has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["SHAPES", "Schedule"]

SHAPES = ("cosine", "linear", "constant")


@tf.keras.utils.register_keras_serializable(package="hbnn_larq")
class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    r"""Linear warm-up, then cosine, linear or no decay to 0 over the remaining steps.

    With W warm-up steps of N, step s has \\( \eta (s + 1) / W \\) while s < W, then for the cosine

    \\[ \frac{\eta}{2} \left( 1 + \cos \frac{\pi (s - W)}{N - W} \right) \\]

    # Arguments
        learning_rate: the highest rate, above 0.
        steps: N, training steps in all, at least 1.
        warmup_steps: W, at least 0 and below `steps`.
        shape: "cosine", "linear" or "constant".

    # Raises
        ValueError: for a value out of range.
    """

    def __init__(
        self, learning_rate: float, steps: int, *, warmup_steps: int = 0, shape: str = "cosine"
    ):
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise ValueError(f"Schedule(learning_rate={learning_rate}): a number above 0.")
        if not 0 <= warmup_steps < steps:
            raise ValueError(
                f"Schedule(steps={steps}, warmup_steps={warmup_steps}): at least one step, and "
                "fewer steps of warm-up than of training."
            )
        if shape not in SHAPES:
            raise ValueError(f"Schedule(shape={shape!r}): one of {', '.join(SHAPES)}.")
        self.learning_rate = float(learning_rate)
        self.steps = int(steps)
        self.warmup_steps = int(warmup_steps)
        self.shape = shape

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        # In float64: at a million steps, float32 would have the rate change in visible stairs.
        step = tf.cast(step, tf.float64)
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        done = tf.clip_by_value(done, 0.0, 1.0)
        share = {
            "cosine": (1 + tf.cos(math.pi * done)) / 2,
            "linear": 1 - done,
            "constant": tf.ones_like(done),
        }[self.shape]
        warm = (step + 1) / max(self.warmup_steps, 1)
        share = tf.where(step < self.warmup_steps, warm, share)
        return tf.cast(self.learning_rate * share, tf.float32)

    def values(self) -> np.ndarray:
        """The rates of all steps, float64, shape (steps,): what the flip-rate law asks for."""
        step = np.arange(self.steps, dtype=np.float64)
        done = np.clip((step - self.warmup_steps) / (self.steps - self.warmup_steps), 0, 1)
        share = {
            "cosine": (1 + np.cos(math.pi * done)) / 2,
            "linear": 1 - done,
            "constant": np.ones_like(done),
        }[self.shape]
        warm = (step + 1) / max(self.warmup_steps, 1)
        return self.learning_rate * np.where(step < self.warmup_steps, warm, share)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "shape": self.shape,
        }
