"""Train a recipe in a folder, exactly resumable, and evaluate what came out.

`fit` keeps everything about a run in one folder:

| file | what |
|---|---|
| `recipe.json` | the recipe, written before the first step |
| `checkpoints/` | the last few checkpoints (see `hbnn_larq.training.checkpoints`) |
| `history.csv`, `tensorboard/` | figures of each epoch |
| `model.keras` | the trained model, float32, for inference or further training |
| `results.json` | recipe, data, versions, accuracy, flips predicted and measured, findings, time |
| `learning_curves.png`, `flips.png` | plots |

Batches, initial weights and updates are functions of the recipe alone, so running the same
command again after a crash, a kill or Ctrl-C ends in the same weights, bit for bit on one device.
`fit` switches TensorFlow to deterministic operations for that, for the rest of the process.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq import files, span
from hbnn_larq.arguments import require_whole
from hbnn_larq.callbacks import FlipCounter, base_point_flips, base_point_shares, first_non_finite
from hbnn_larq.doctor import examine_epoch
from hbnn_larq.durations import duration
from hbnn_larq.flip_rate import SETTLED_SUM, verdict
from hbnn_larq.metrics import information_gain
from hbnn_larq.rivals import begin_epoch, move_clock
from hbnn_larq.training import checkpoints, data, pictures
from hbnn_larq.training.models import build_model, build_optimizer
from hbnn_larq.training.recipe import CLAIMS, Recipe, listed
from hbnn_larq.training.scalars import write_scalars
from hbnn_larq.training.steps import Evaluation, Evaluator, TrainStep
from hbnn_larq.training.strategies import is_chief, make_strategy

__all__ = ["Stopped", "evaluate", "fit"]

Say = Callable[[str], None]
SAY_EVERY_S = 60  # within an epoch, which may take hours
# What tells a folder of many runs, from its first run on.
STUDIES = {
    "comparison": ("compare.json", "*/seed-*/recipe.json"),
    "search": ("search.json", "settings.json", "runs/*/*/seed-*/recipe.json"),
}


class Stopped(Exception):
    """A run was asked to stop (Ctrl-C) and saved its state; the message says how to go on."""


@contextlib.contextmanager
def _graphs_let_go() -> Iterator[None]:
    """Lets go of the graphs traced inside, so that many runs fit in one process."""
    before = span.custom_gradients()
    try:
        yield
    finally:
        span.forget_gradients(span.custom_gradients() - before)


@_graphs_let_go()
def fit(
    recipe: Recipe,
    workdir: str | Path,
    *,
    dataset: data.Dataset | None = None,
    folder: str | Path | None = None,
    strategy: str | tf.distribute.Strategy = "one",
    say: Say = print,
    flips_every: int = 10,
    checkpoint_every: int | None = None,
    keep: int = 2,
) -> dict[str, Any]:
    """Trains a recipe, or goes on where an earlier call stopped, and writes its results.

    # Arguments
        recipe: what to train.
        workdir: folder of the run; created where missing.
        dataset: instead of the one that the recipe names.
        folder: where the files of the recipe's data set are, for those that have files.
        strategy: "one", "mirrored" or "multiworker" (see `hbnn_larq.training.strategies`), or a
            strategy of your own.
        say: called with each line of progress.
        flips_every: count sign flips in one step of this many, and at least once an epoch; 1
            counts every step, at the cost of quantizing every kernel once more per step.
        checkpoint_every: steps between checkpoints; None for the end of each epoch, and every
            ten minutes within one.
        keep: checkpoints to keep.

    # Returns
        What is in `results.json`.

    # Raises
        ValueError: where `workdir` holds a run of another recipe or on other data, or another
            process is training in it, or settings do not fit the data.
        FloatingPointError: at the first loss or gradient that is not finite, naming the layer.
        Stopped: after Ctrl-C, once the step is finished and the state is saved; or where another
            worker was lost.
        OSError: where the disk is full; the last good checkpoint is intact.

    !!! example
        ```python
        from hbnn_larq.training import recipes, run

        results = run.fit(recipes.find("digits"), "runs/digits")
        results["accuracy"]["test_top1"]
        ```
    """
    counts = {"flips_every": flips_every, "checkpoint_every": checkpoint_every, "keep": keep}
    for name, count in counts.items():
        if count is None and name == "checkpoint_every":
            continue
        require_whole("fit", name, count, 1)
    workdir = Path(workdir)
    # Before anything else: collective operations can only be set up at the start.
    strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy
    dataset = dataset or data.load(recipe.dataset, folder, image_size=recipe.image_size, say=say)
    fingerprint = dataset.fingerprint()
    dataset = dataset.with_hold_out(recipe.hold_out).normalized_as(recipe.normalization)
    # Without this, threads may add the terms of a gradient in another order in each run.
    tf.config.experimental.enable_op_determinism()
    if is_chief(strategy):
        _check_writable(workdir)  # before time goes into building the network
    _check_claim(workdir, recipe)
    run = _Run(recipe, dataset, fingerprint, workdir, strategy, say, flips_every)
    with _alone_in(workdir) if is_chief(strategy) else contextlib.nullcontext():
        _check_claim(workdir, recipe)  # again, now that it can no longer change
        run.restore()
        if is_chief(strategy):
            _claim(workdir, recipe)  # now that recipe and data are known to fit
        try:
            with _interruptible() as interrupted:
                run.train(interrupted, checkpoint_every, keep)
            # Whenever it came: after the last step too, or a study would go on with its next run.
            if interrupted.is_set():
                raise Stopped(
                    f"stopped after step {run.step:,} of {run.steps:,}; state saved in {workdir}. "
                    "Run the same command again to go on."
                )
            return run.finish()
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError):
            raise Stopped(
                f"lost contact with another worker after step {run.step:,} of {run.steps:,}. The "
                f"last checkpoint in {workdir} is good: start all workers again with the same "
                "command to go on."
            ) from None


def evaluate(
    model: tf.keras.Model, dataset: data.Dataset, split: str = "test"
) -> dict[str, float | int | str]:
    """Accuracy of a trained model on a split.

    # Arguments
        model: returns logits for normalised images.
        dataset: whose images, and whose normalisation.
        split: "train", "validation" or "test".

    # Returns
        `{"split", "images", "top1", "top5", "loss"}`, accuracies in percent.

    # Raises
        ValueError: for another split, or a model whose input or output does not fit the data.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f'evaluate(split={split!r}): "train", "validation" or "test".')
    expected, got = dataset.image_shape, tuple(model.input_shape[1:])
    if got != expected or model.output_shape[-1] != dataset.num_classes:
        raise ValueError(
            f"the model takes images of shape {got} and returns {model.output_shape[-1]} logits, "
            f"but {dataset.name} has shape {expected} and {dataset.num_classes} classes."
        )
    figures = Evaluator(model)(data.evaluation_batches(dataset, getattr(dataset, split)))
    return {"split": split, **figures._asdict()}


class _Run:
    """The live objects of one run, and everything a checkpoint must bring back."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: data.Dataset,
        fingerprint: dict[str, Any],
        workdir: Path,
        strategy: tf.distribute.Strategy,
        say: Say,
        flips_every: int,
    ):
        self.recipe, self.dataset, self.workdir, self.say = recipe, dataset, workdir, say
        self.fingerprint = fingerprint
        self.strategy, self.writes = strategy, is_chief(strategy)
        self.steps_per_epoch = data.steps_per_epoch(dataset, recipe.batch_size)
        self.flips_every = flips_every
        self.steps = (recipe.stop_epoch or recipe.epochs) * self.steps_per_epoch
        self.forecast = recipe.forecast(len(dataset.train))

        replicas = strategy.num_replicas_in_sync
        last = len(dataset.train) % recipe.batch_size or recipe.batch_size
        if min(last, recipe.batch_size) < replicas:
            raise ValueError(
                f"batch_size={recipe.batch_size}: the last batch of an epoch has {last} images for "
                f"{replicas} devices; choose a batch size that leaves one for each."
            )
        tf.keras.utils.set_random_seed(recipe.seed)
        with _policy(recipe.precision), strategy.scope():
            self.model = build_model(recipe, dataset.image_shape, dataset.num_classes)
            self.optimizer = build_optimizer(recipe, len(dataset.train))
            _inner(self.optimizer).build(self.model.trainable_variables)
        self.train_step = TrainStep(
            self.model,
            self.optimizer,
            num_classes=dataset.num_classes,
            label_smoothing=recipe.label_smoothing,
            strategy=strategy,
        )
        self.evaluator = Evaluator(self.model)
        self.counter = FlipCounter(self.model)
        # A fresh model has the signs of step 0, so they need no place in a checkpoint.
        self.initial_signs = self.epoch_signs = self.counter.signs()

        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.findings: list[dict[str, str]] = []
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.loss_sum = 0.0
        self.correct = self.seen = self.counted = 0
        self.flips = dict.fromkeys(self.counter.names, 0)

    # ------------------------------------------------------------------ state

    def _variables(self) -> dict[str, tf.Variable]:
        named = {}
        for owner, variables in (
            ("model", self.model.variables),
            ("optimizer", self.optimizer.variables),
            ("loss_scale", _loss_scale(self.optimizer)),  # which Keras leaves out of the above
        ):
            for index, variable in enumerate(variables):
                named[f"{owner}/{index:04d}/{variable.name.split(':')[0]}"] = variable
        return named

    def save(self, keep: int) -> None:
        # Every worker reads (some variables are averaged over workers then), one of them writes.
        arrays = {
            name: variable.read_value().numpy() for name, variable in self._variables().items()
        }
        if not self.writes:
            return
        for name, signs in zip(self.counter.names, self.epoch_signs, strict=True):
            arrays[f"epoch_signs/{name}"] = np.packbits(np.asarray(signs))
        state = {
            "recipe": json.loads(self.recipe.to_json()),
            "data": self.fingerprint,
            "seconds": self.seconds + time.monotonic() - self.started,
            "history": self.history,
            "findings": self.findings,
            "epoch": [self.loss_sum, self.correct, self.seen, self.counted, self.flips],
        }
        checkpoints.save(self.workdir / "checkpoints", self.step, arrays, state, keep=keep)

    def restore(self) -> None:
        found = checkpoints.newest(self.workdir / "checkpoints", self.say)
        if found is None:
            return
        if "recipe" in found.state:  # `recipe.json` may be gone, as one does with a damaged file
            theirs = Recipe.of_file(self.workdir / "checkpoints", found.state["recipe"])
            _require_same_steps(self.workdir, self.recipe, theirs)
        data.require_same(found.state.get("data"), self.fingerprint, f"{self.workdir} holds a run")
        variables = self._variables()
        held = {
            name: value.shape
            for name, value in found.arrays.items()
            if not name.startswith("epoch_signs/")
        }
        expected = {name: tuple(variable.shape) for name, variable in variables.items()}
        odd = {name for name, _ in held.items() ^ expected.items()}
        unscaled = {name for name in odd - held.keys() if name.startswith("loss_scale/")}
        if odd - unscaled:
            raise ValueError(
                f"the checkpoint in {self.workdir} does not fit this model "
                f"({', '.join(sorted(odd)[:3])}); it was written by another version or for other "
                "data. Use another --workdir, or that version and data."
            )
        if unscaled:
            self.say(
                "the checkpoint holds no loss scale, as earlier versions left it out: it starts "
                "anew, and the run will not end bit for bit as an unbroken one"
            )
        for name, variable in variables.items():
            if name not in unscaled:
                variable.assign(found.arrays[name])
        self.epoch_signs = [
            np.unpackbits(found.arrays[f"epoch_signs/{name}"], count=self.counter.sizes[name])
            .astype(bool)
            .reshape(signs.shape)
            for name, signs in zip(self.counter.names, self.initial_signs, strict=True)
        ]
        self.step = found.step
        self.seconds = found.state["seconds"]
        self.history = found.state["history"]
        self.findings = found.state.get("findings", [])
        self.loss_sum, self.correct, self.seen, self.counted, self.flips = found.state["epoch"]
        self.say(f"resumed from step {self.step:,} of {self.steps:,}")

    # ------------------------------------------------------------------ training

    def train(self, interrupted: threading.Event, checkpoint_every: int | None, keep: int) -> None:
        self.started = saved_at = said_at = time.monotonic()
        self.pace_from = (self.step, self.started)
        first = self.step + 1
        batches = data.training_batches(
            self.dataset,
            batch_size=self.recipe.batch_size,
            epochs=self.recipe.stop_epoch or self.recipe.epochs,
            seed=self.recipe.seed,
            first_step=self.step,
        )
        if self.step == (len(self.history) + 1) * self.steps_per_epoch:
            self._end_epoch()  # that a picture which could not be read had stopped
        before = self.counter.signs()
        for images, labels in self._readable(batches):
            if self.step % self.steps_per_epoch == 0:
                begin_epoch(self.model, self.step // self.steps_per_epoch, self.recipe.epochs)
            elif self.recipe.clock == "step":
                whole = self.recipe.epochs * self.steps_per_epoch  # wherever stop_epoch ends it
                move_clock(self.model, self.step / whole)
            count = self.step % self.flips_every == 0
            if (self.step + 1) % self.steps_per_epoch == 0:
                count |= not self.counted  # no epoch goes without, however short
            if count and self.flips_every > 1:
                before = self.counter.signs()
            result = self.train_step(images, labels)
            if not result.finite:
                self._fail(images, labels, result.loss)
            if count:
                flips, before = self.counter.flips_since(before)
                for name, number in flips.items():
                    self.flips[name] += number
                self.counted += 1
            self.loss_sum += result.loss * len(labels)
            self.correct += result.correct
            self.seen += len(labels)
            self.step += 1
            if self.step == first:  # which compiled the graphs, and says nothing of the others
                self.pace_from = (self.step, time.monotonic())

            epoch_ends = self.step % self.steps_per_epoch == 0
            if epoch_ends:
                try:
                    self._end_epoch()
                except ValueError:  # a picture of the validation split cannot be read
                    self.save(keep)
                    raise
                said_at = time.monotonic()
            elif time.monotonic() - said_at > SAY_EVERY_S:
                self._say_step()
                said_at = time.monotonic()
            stop = interrupted.is_set()  # with several workers: whoever is not told loses contact
            if checkpoint_every is None:
                due = epoch_ends or time.monotonic() - saved_at > 600
            else:
                due = self.step % checkpoint_every == 0 or self.step == self.steps
            if due or stop:
                self.save(keep)
                saved_at = time.monotonic()
            if stop:
                break
        self.seconds += time.monotonic() - self.started

    def _readable(self, batches: tf.data.Dataset) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        iterator = iter(batches)
        while True:
            try:
                batch = next(iterator, None)
            except data.UNREADABLE:
                bad = data.unreadable_image(
                    self.dataset,
                    batch_size=self.recipe.batch_size,
                    seed=self.recipe.seed,
                    step=self.step,
                )
                if bad is None:
                    raise
                raise ValueError(
                    f"step {self.step:,}: {bad} cannot be read as a picture. Mend or remove it, or "
                    "leave such files out with --unreadable skip. The last checkpoint in "
                    f"{self.workdir} is good."
                ) from None
            if batch is None:
                return
            yield batch

    def _fail(self, images: tf.Tensor, labels: tf.Tensor, loss: float) -> None:
        where = first_non_finite(self.model, images.numpy())
        if where is None:
            # Weights, inputs and activations are finite, so it arose on the way back.
            where = self._first_gradient(images, labels) or "loss"
        raise FloatingPointError(
            f"step {self.step:,}: {'loss ' + str(loss) if not math.isfinite(loss) else 'gradient'} "
            f"is not finite; first seen in the {where}. The last checkpoint in {self.workdir} is "
            "good. Lower learning_rate or add warmup_epochs (--set, in another --workdir)."
        )

    def _first_gradient(self, images: tf.Tensor, labels: tf.Tensor) -> str | None:
        with tf.GradientTape() as tape:
            logits = tf.cast(self.model(images, training=True), tf.float32)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            )
        variables = self.model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            if not bool(tf.reduce_all(tf.math.is_finite(gradient))):
                return f"gradient of {variable.name}"
        return None

    def _say_step(self) -> None:
        in_epoch = self.step % self.steps_per_epoch
        self.say(
            f"  step {in_epoch:,} of {self.steps_per_epoch:,}  loss {self.loss_sum / self.seen:.4f}"
            f"  train {100 * self.correct / self.seen:.1f} %  {self._left()} left"
        )

    def _left(self) -> str:
        step, moment = self.pace_from
        # Before the second step there is no pace yet: the time of the first is too much.
        taken, moment = (self.step - step, moment) if self.step > step else (1, self.started)
        return duration((time.monotonic() - moment) / taken * (self.steps - self.step))

    def _end_epoch(self) -> None:
        counter, recipe = self.counter, self.recipe
        epoch = self.step // self.steps_per_epoch
        validation = self._validation()
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": float(recipe.schedule_for(len(self.dataset.train))(self.step - 1)),
            "loss": self.loss_sum / self.seen,
            "train_top1": 100 * self.correct / self.seen,
            "validation_loss": validation.loss if validation else None,
            "validation_top1": validation.top1 if validation else None,
        }
        if counter.names:
            of_epoch, now = counter.flips_since(self.epoch_signs)
            of_training, _ = counter.flips_since(self.initial_signs)
            self.epoch_signs = now
            steps = self.counted
            per_layer = {
                "flips_per_step": {
                    name: number / steps / counter.sizes[name]
                    for name, number in self.flips.items()
                },
                "flips_per_epoch": _shares(of_epoch, counter),
                "flips_vs_init": _shares(of_training, counter),
            }
            per_layer["information_gain"] = {
                name: float(information_gain(q)) for name, q in per_layer["flips_vs_init"].items()
            }
            shares = base_point_shares(self.model)
            if shares:
                per_layer["edge_share"] = shares
            expected = recipe.flips_expected(len(self.dataset.train))
            expected = expected[self.step - self.steps_per_epoch : self.step]
            row |= {
                "flips_predicted": float(np.mean(expected)),
                "flips_per_step": counter.share(self.flips) / steps,
                "flips_per_epoch": counter.share(of_epoch),
                "flips_vs_init": counter.share(of_training),
                "information_gain": float(np.mean(list(per_layer["information_gain"].values()))),
                "layers": per_layer,
            }
        self.history.append(row)
        self._start_epoch()
        if self.writes:
            self._write_history()
            write_scalars(self.workdir / "tensorboard", row)
        shown = f"  validation {validation.top1:.1f} %" if validation else ""
        flips = f"  flips/step {100 * row['flips_per_step']:.2f} %" if counter.names else ""
        self.say(
            f"epoch {epoch}/{recipe.stop_epoch or recipe.epochs}  loss {row['loss']:.4f}  "
            f"train {row['train_top1']:.1f} %{shown}{flips}  "
            f"{self._left()} left"
        )
        if counter.names:
            self._examine(row)

    def _examine(self, row: dict[str, Any]) -> None:
        """The doctor's visits: to the signs after epoch 1, to the flip rate once it has settled."""
        found = []
        if row["epoch"] == 1:
            before, after = self._bits(self.initial_signs), self._bits(self.epoch_signs)
            found += examine_epoch(before, after, steps=self.steps_per_epoch)
        # Until learning rate and decay have had that much to do, the law foretells nothing, and
        # flips that are asked for do not follow from it.
        rates = self.recipe.law_rates(len(self.dataset.train)) * self.recipe.latent_decay
        earlier = self.step - self.steps_per_epoch
        settled = rates[:earlier].sum() < SETTLED_SUM <= rates[: self.step].sum()
        if settled and self.recipe.flip_rate is None:
            found += examine_epoch(
                {},
                {},
                predicted=row["flips_predicted"],
                measured=row["flips_per_step"],
                latent_decay=self.recipe.latent_decay,
            )
        self.findings += map(asdict, found)
        for finding in found:
            self.say(f"doctor   {finding}")

    def _bits(self, signs: list[Any]) -> dict[str, np.ndarray]:
        return {
            name: np.where(np.asarray(sign), 1, -1).astype(np.int8)
            for name, sign in zip(self.counter.names, signs, strict=True)
        }

    def _validation(self) -> Evaluation | None:
        split = self.dataset.validation
        return self.evaluator(data.evaluation_batches(self.dataset, split)) if len(split) else None

    def _write_history(self) -> None:
        columns = [name for name in self.history[0] if name != "layers"]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        files.write(self.workdir / "history.csv", text.getvalue())

    # ------------------------------------------------------------------ results

    def finish(self) -> dict[str, Any]:
        recipe, dataset = self.recipe, self.dataset
        model = self._single_model()  # a collective read: every worker takes part
        if model is not self.model:  # in half precision images may fall into other classes
            self.evaluator = Evaluator(model)
        validation = self._validation()
        test = self.evaluator(data.evaluation_batches(dataset, dataset.test))
        flips: dict[str, Any] | None = None
        if self.counter.names:
            measured = float(np.mean([row["flips_per_step"] for row in self.history]))
            last = self.history[-1]
            flips = {
                "predicted_per_step": self.forecast.flips_per_step,
                "measured_per_step": measured,
                "decay_sum": self.forecast.decay_sum,
                "verdict": verdict(measured, self.forecast.decay_sum),
                "vs_init": last["flips_vs_init"],
                "information_gain": last["information_gain"],
                "from_base_points": _from_base_points(model, self.counter),
            }
        results = {
            "recipe": json.loads(recipe.to_json()),
            "images": {
                "train": len(dataset.train),
                "validation": len(dataset.validation),
                "test": len(dataset.test),
            },
            "data": self.fingerprint,
            "input": {
                "class_names": [str(name) for name in dataset.class_names],
                "mean": [float(value) for value in dataset.mean],
                "scale": [float(value) for value in dataset.scale],
                "white": float(dataset.white),
            },
            "accuracy": {
                "validation_top1": validation.top1 if validation else None,
                "test_top1": test.top1,
                "test_top5": test.top5,
                "test_loss": test.loss,
            },
            "flips": flips,
            "findings": self.findings,
            "steps": self.step,
            "seconds": self.seconds,
            "versions": _versions(),
            "history": self.history,
        }
        if not self.writes:
            return results
        # Of processes that were killed while they wrote; no other is training here.
        for name in ("recipe.json", "history.csv", "model.keras", "results.json"):
            for left in self.workdir.glob(f".{name}.*.tmp*"):
                left.unlink(missing_ok=True)
        self._save_model(model)
        pictures.draw(recipe, self.history, self.workdir)
        files.write(self.workdir / "results.json", json.dumps(results, indent=2) + "\n")
        return results

    def _single_model(self) -> tf.keras.Model:
        """The model for one device in float32, as the converter wants it; same weights."""
        if self.recipe.precision == "float32" and self.strategy.num_replicas_in_sync == 1:
            return self.model
        plain = self.recipe.changed(precision="float32")
        model = build_model(plain, self.dataset.image_shape, self.dataset.num_classes)
        for new, old in zip(model.variables, self.model.variables, strict=True):
            new.assign(old.read_value().numpy())
        return model

    def _save_model(self, model: tf.keras.Model) -> None:
        with files.replaced(self.workdir / "model.keras") as temporary:
            whole = temporary.with_name(f"{temporary.name}.keras")  # Keras goes by the ending
            try:
                model.save(whole)
                whole.replace(temporary)
            finally:
                whole.unlink(missing_ok=True)


def _check_writable(workdir: Path) -> None:
    try:
        str(workdir).encode()
    except UnicodeEncodeError:  # which TensorFlow finds out after the first epoch
        raise ValueError(
            f"fit: the folder {str(workdir)!r} has a name that is not UTF-8. Use another --workdir."
        ) from None
    there = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "Permission denied" if there.is_dir() else "Not a directory"
        raise OSError(f"cannot write to {workdir} ({reason}). Use another --workdir")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a folder, which is created where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder, wait=False))
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process is training in this folder. Wait until it ends, or "
                "use another --workdir."
            ) from None
        yield


def _check_claim(workdir: Path, recipe: Recipe) -> None:
    """Raises where a folder holds a run of another recipe.

    A run that was stopped at an earlier epoch of the same schedule may go on: until there, both
    take the same steps. A recipe of which not one step was saved is in nobody's way.
    """
    path = workdir / "recipe.json"
    if not path.exists():
        for kind, files_of_kind in STUDIES.items():
            if any(any(workdir.glob(pattern)) for pattern in files_of_kind):
                raise ValueError(
                    f"fit: {workdir} is the folder of a {kind}, which could not go on with a run "
                    "beside its own. Use another --workdir."
                )
    if not path.exists() or not any((workdir / "checkpoints").glob("*")):
        return
    _require_same_steps(workdir, recipe, Recipe.read(path))


def _require_same_steps(workdir: Path, recipe: Recipe, theirs: Recipe) -> None:
    differences = theirs.differences(recipe)
    if differences and not _goes_further(recipe, theirs):
        raise ValueError(
            f"{workdir} holds a run of another recipe ({listed(differences)}). Use another "
            "--workdir, or remove that one."
        )


def _claim(workdir: Path, recipe: Recipe) -> None:
    """Writes the recipe into the folder of the run."""
    try:
        files.write(workdir / "recipe.json", recipe.to_json() + "\n")
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write to {workdir} ({error.strerror}). Use another --workdir"
        ) from None


def _goes_further(recipe: Recipe, other: Recipe) -> bool:
    """Whether a recipe is the other with a later stop."""
    stop, others = recipe.stop_epoch or recipe.epochs, other.stop_epoch or other.epochs
    return set(other.differences(recipe)) <= {"stop_epoch", *CLAIMS} and stop > others


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets instead of raising; a second Ctrl-C raises as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    previous = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(previous)


def _inner(optimizer: Any) -> tf.keras.optimizers.Optimizer:
    return getattr(optimizer, "inner_optimizer", optimizer)


def _loss_scale(optimizer: Any) -> list[tf.Variable]:
    """Scale and count of finite steps of loss scaling, where there is any."""
    if not isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        return []
    return [optimizer._loss_scale.current_loss_scale, optimizer._loss_scale.counter]


def _from_base_points(model: tf.keras.Model, counter: FlipCounter) -> float | None:
    """Share of the signs of hyperbolic layers that their base points change."""
    shares = base_point_flips(model)
    sizes = [counter.sizes[name] for name in shares]
    return float(np.average(list(shares.values()), weights=sizes)) if shares else None


def _shares(flips: dict[str, int], counter: FlipCounter) -> dict[str, float]:
    return {name: number / counter.sizes[name] for name, number in flips.items()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("hbnn_larq", "tensorflow", "larq", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
