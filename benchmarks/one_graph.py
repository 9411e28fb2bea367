"""Many runs in one set of graphs, where nothing but learning rate, decay and seed differs.

Tracing the graphs of a narrow residual net takes longer than the 300 steps of a short run, and a
grid of the study is 21 such runs or more. Here rate and decay are variables of the graphs, and
each run starts from the state that its seed gives. The figures are those of `fit`, bit for bit.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq import span
from hbnn_larq.optimizers import GroupedAdam, is_latent
from hbnn_larq.training import data
from hbnn_larq.training.models import build_model
from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.run import _Run
from hbnn_larq.training.strategies import make_strategy

__all__ = ["OneGraph", "may_share"]


def may_share(recipe: Recipe) -> bool:
    """Whether the decay of a recipe acts in Adam alone, which can take it from a variable."""
    last = (recipe.kernel_quantizer or "").rpartition("+")[2]
    mapped = "hyperbolic" in last or last == "epc"  # whose base points have a decay too
    return recipe.optimizer == "adam" and recipe.flip_rate is None and not mapped


class _Dialled(GroupedAdam):
    """Adam whose decay of latent weights is a variable."""

    dial: tf.Variable

    def _apply_weight_decay(self, variables):
        for variable in variables:
            if not is_latent(variable):
                super()._apply_weight_decay([variable])
                continue
            # In float64 up to where the usual decay, a Python number, becomes a tensor.
            decay = tf.cast(self.rate_of(variable) * self.dial, variable.dtype)
            rate = tf.cast(self.learning_rate, variable.dtype)
            variable.assign_sub(variable * decay * rate)


class OneGraph:
    """The graphs of one method in one case.

    # Arguments
        recipe: of any of the runs.
        dataset: as `fit` takes it.
    """

    def __init__(self, recipe: Recipe, dataset: data.Dataset):
        tf.config.experimental.enable_op_determinism()
        self.recipe = _form(recipe)
        self._before = span.custom_gradients()
        fingerprint = dataset.fingerprint()
        dataset = dataset.with_hold_out(recipe.hold_out).normalized_as(recipe.normalization)
        self._run = _Run(
            recipe, dataset, fingerprint, Path(tempfile.gettempdir()), make_strategy("one"),
            lambda _: None, 10,
        )  # fmt: skip
        self._run.writes = False  # as a worker that is not the chief: nothing goes to disk
        adam = self._run.optimizer.others
        self._rate = tf.Variable(recipe.learning_rate, dtype=tf.float64, trainable=False)
        self._decay = tf.Variable(recipe.latent_decay, dtype=tf.float64, trainable=False)
        for optimizer in (self._run.optimizer, adam):
            optimizer._learning_rate.learning_rate = self._rate
        adam.__class__, adam.dial = _Dialled, self._decay
        self._fresh = [v.numpy() for v in self._run.optimizer.variables]
        self._starts: dict[int, list[np.ndarray]] = {}

    def fits(self, recipe: Recipe) -> bool:
        """Whether a run of this recipe can use these graphs."""
        return _form(recipe) == self.recipe

    def close(self) -> None:
        """Lets go of the graphs."""
        span.forget_gradients(span.custom_gradients() - self._before)

    def fit(self, recipe: Recipe) -> dict[str, Any]:
        """What `hbnn_larq.training.run.fit` returns for this recipe."""
        run = self._run
        if recipe.seed not in self._starts:
            tf.keras.utils.set_random_seed(recipe.seed)
            model = build_model(recipe, run.dataset.image_shape, run.dataset.num_classes)
            self._starts[recipe.seed] = [v.numpy() for v in model.variables]
        values = [*self._starts[recipe.seed], *self._fresh]
        variables = [*run.model.variables, *run.optimizer.variables]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self._rate.assign(recipe.learning_rate)
        self._decay.assign(recipe.latent_decay)
        run.recipe, run.forecast = recipe, recipe.forecast(len(run.dataset.train))
        run.initial_signs = run.epoch_signs = run.counter.signs()
        run.step, run.seconds, run.history, run.findings = 0, 0.0, [], []
        run._start_epoch()
        run.train(threading.Event(), None, 1)
        return run.finish()


def _form(recipe: Recipe) -> Recipe:
    """What the graphs depend on."""
    return recipe.changed(learning_rate=1.0, latent_decay=1.0, seed=0)
