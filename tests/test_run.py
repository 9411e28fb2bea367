"""A run learns, keeps its books, stops at the first NaN, and goes on exactly where it stopped."""

import csv
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from micro import micro_model
from tensorflow.python.framework import ops

from hbnn_larq import edge, flip_rate
from hbnn_larq.callbacks import FlipCounter
from hbnn_larq.rivals import progress, scheduled_quantizers
from hbnn_larq.training import checkpoints, data, models, run, steps
from hbnn_larq.training.recipe import Recipe

TINY = Recipe(
    name="tiny", source="a test", dataset="tiny", model="vgg_small", width=1 / 32,
    kernel_quantizer="ste_sign", epochs=3, batch_size=10, latent_decay=0.05,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def micro():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "build_model", micro_model)
        yield


@pytest.fixture(scope="module")
def tiny():
    return data.generated((8, 8, 1), 3, train=35, validation=9, test=12, difficulty=0.2)


def silent(line):
    pass


def weights_of(workdir):
    return tf.keras.models.load_model(workdir / "model.keras", compile=False).get_weights()


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    lines = []
    results = run.fit(TINY, workdir, dataset=tiny, say=lines.append, flips_every=1)
    return workdir, results, lines


def test_a_run_keeps_none_of_its_graphs(tiny, tmp_path):
    registered = ops.gradient_registry._registry
    before = set(registered)
    run.fit(TINY.changed(epochs=1), tmp_path, dataset=tiny, say=silent)
    assert set(registered) == before


def test_a_run_leaves_what_it_promises(unbroken):
    workdir, results, _ = unbroken
    assert {path.name for path in workdir.iterdir()} == {
        "recipe.json", "checkpoints", "history.csv", "model.keras", "results.json",
        "learning_curves.png", "flips.png", "tensorboard",
    }  # fmt: skip
    assert json.loads((workdir / "results.json").read_text()) == results
    assert Recipe.from_json((workdir / "recipe.json").read_text()) == TINY
    rows = list(csv.DictReader((workdir / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in results["history"]]


def test_an_epoch_is_the_mean_over_its_images_at_the_rate_of_its_last_step(
    tiny, tmp_path, monkeypatch
):
    """35 images in batches of 10: the last one counts for half as much."""
    seen, step = [], steps.TrainStep.__call__

    def watched(self, images, labels):
        result = step(self, images, labels)
        seen.append((len(labels), float(result.loss), int(result.correct)))
        return result

    monkeypatch.setattr(steps.TrainStep, "__call__", watched)
    results = run.fit(TINY, tmp_path, dataset=tiny, say=silent)
    rates = TINY.learning_rates(len(tiny.train))
    assert [size for size, *_ in seen] == [10, 10, 10, 5] * 3
    for epoch, row in enumerate(results["history"]):
        batches = seen[4 * epoch : 4 * epoch + 4]
        loss = sum(size * loss for size, loss, _ in batches) / 35
        np.testing.assert_allclose(row["loss"], loss, rtol=1e-6)
        np.testing.assert_allclose(
            row["train_top1"], 100 * sum(c for *_, c in batches) / 35, rtol=1e-6
        )
        np.testing.assert_allclose(row["learning_rate"], rates[4 * epoch + 3], rtol=1e-6)


def test_flips_are_counted_in_every_epoch_however_short(tiny, tmp_path):
    """Of epochs of one step each, one in ten is asked for: none goes without."""
    recipe = TINY.changed(batch_size=35, epochs=4)
    rarely, always = (
        run.fit(recipe, tmp_path / str(n), dataset=tiny, say=silent, flips_every=n) for n in (10, 1)
    )
    assert rarely["flips"] == always["flips"]
    assert rarely["flips"]["measured_per_step"] > 0
    for row, other in zip(rarely["history"], always["history"], strict=True):
        assert row["layers"] == other["layers"]


def test_flips_are_counted_though_a_resumed_run_asks_for_fewer(tiny, tmp_path):
    """Of the third epoch, steps 8 to 11, none is a multiple of seven."""

    def stop(line):
        if line.startswith("epoch 1/"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(run.Stopped):
        run.fit(TINY, tmp_path, dataset=tiny, say=stop, flips_every=1)
    first, step = run._Run.restore, []

    def later(self):  # a stride beyond the epoch's end, which an older version may have had
        first(self)
        step.append(self.step)
        self.flips_every = 7

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run._Run, "restore", later)
        results = run.fit(TINY, tmp_path, dataset=tiny, say=silent)
    assert step == [4] and [row["step"] for row in results["history"]] == [4, 8, 12]


def test_results_hold_what_was_predicted_beside_what_was_measured(unbroken, tiny):
    _, results, _ = unbroken
    rates = TINY.learning_rates(35).tolist()
    predicted = flip_rate.mean_flips_per_step(rates, 0.05, 0.9)
    assert results["flips"]["predicted_per_step"] == pytest.approx(predicted)
    assert 0 < results["flips"]["measured_per_step"] < 0.2
    assert results["steps"] == 12
    assert results["images"] == {"train": 35, "validation": 9, "test": 12}
    assert results["recipe"]["paper_top1"] is None and "paper_top1" not in results["accuracy"]


def test_saved_model_has_the_accuracy_of_the_results(unbroken, tiny):
    workdir, results, _ = unbroken
    model = tf.keras.models.load_model(workdir / "model.keras", compile=False)
    figures = run.evaluate(model, tiny, "test")
    assert figures["top1"] == results["accuracy"]["test_top1"]
    predicted = model.predict(tiny.normalize(tiny.test.images), verbose=0).argmax(axis=1)
    assert figures["top1"] == pytest.approx(100 * np.mean(predicted == tiny.test.labels))


def test_a_run_says_one_line_per_epoch_with_the_time_left(unbroken):
    _, _, lines = unbroken
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss ") and lines[0].endswith(" left")
    assert "flips/step" in lines[0]


def test_a_long_epoch_says_how_far_it_is(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(run, "SAY_EVERY_S", 0)
    lines = []
    run.fit(TINY.changed(stop_epoch=1), tmp_path, dataset=tiny, say=lines.append)
    said = [line for line in lines if line.startswith("  step")]
    assert len(said) == 3  # of four steps; the epoch's own line says the rest
    form = r"  step 2 of 4  loss \d\.\d{4}  train \d+\.\d %  (\d+ min )?\d+ s left"
    assert re.fullmatch(form, said[1]), said


def test_a_healthy_first_epoch_is_not_remarked_upon(unbroken):
    _, results, _ = unbroken
    assert results["findings"] == []


def test_signs_that_stand_still_are_reported_after_the_first_epoch(tmp_path, tiny):
    still = TINY.changed(learning_rate=1e-9, latent_decay=0.05)
    lines = []

    def interrupt(line):
        lines.append(line)
        if line.startswith("epoch 1/"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(run.Stopped):
        run.fit(still, tmp_path, dataset=tiny, say=interrupt)
    results = run.fit(still, tmp_path, dataset=tiny, say=lines.append)
    (said,) = [line for line in lines if line.startswith("doctor")]  # once, not in each epoch
    assert said == (
        "doctor   conv: not one of its 576 signs changed in an epoch [never-flips]\n"
        "    Is the layer trainable and in the optimizer? Else raise latent_decay, "
        "or the flip_rate of a GeodesicSGD."
    )
    assert lines.index(said) == 1  # behind the line of epoch 1
    (finding,) = results["findings"]
    assert (finding["code"], finding["where"]) == ("never-flips", "conv")
    assert json.loads((tmp_path / "results.json").read_text())["findings"] == results["findings"]


def test_flips_off_the_law_are_reported_once_the_law_holds(tmp_path, tiny, monkeypatch):
    # Sums of lr * decay after the epochs: 0.7, 1.1, 1.2. The law speaks from 1 on.
    recipe = TINY.changed(latent_decay=1.9)
    monkeypatch.setattr(FlipCounter, "share", lambda self, flips: 1e-4)
    results = run.fit(recipe, tmp_path, dataset=tiny, say=(lines := []).append)
    said = [line.split()[0] + line.split()[1] for line in lines]
    assert said == ["epoch1/3", "epoch2/3", "doctortraining:", "epoch3/3"]
    assert [finding["code"] for finding in results["findings"]] == ["flips-off-the-law"]


def test_a_run_learns(tmp_path, tiny):
    recipe = TINY.changed(
        epochs=20, kernel_quantizer=None, input_quantizer=None, learning_rate=0.02
    )
    results = run.fit(recipe, tmp_path, dataset=tiny, say=silent)
    assert results["accuracy"]["test_top1"] > 60  # chance is 33
    assert results["flips"] is None and not (tmp_path / "flips.png").exists()


class Crash(Exception):
    pass


@pytest.mark.parametrize(
    ("recipe", "flips_every"),
    [
        (TINY, 1),
        pytest.param(TINY, 3, marks=pytest.mark.slow),
        pytest.param(
            TINY.changed(kernel_quantizer="md_tanh", clock="step"), 1, marks=pytest.mark.slow
        ),
    ],
)
def test_crashed_and_resumed_run_equals_the_unbroken_one(
    tmp_path, tiny, monkeypatch, recipe, flips_every
):
    """Crashes after steps 1, 5 and 10 of 12, checkpoints every 2: nothing may differ."""
    straight = tmp_path / "straight"
    expected = run.fit(recipe, straight, dataset=tiny, say=silent, flips_every=flips_every)

    one_step = steps.TrainStep.__call__
    left = {"steps": 0}

    def counted(self, images, labels):
        if left["steps"] == 0:
            raise Crash
        left["steps"] -= 1
        return one_step(self, images, labels)

    monkeypatch.setattr(steps.TrainStep, "__call__", counted)
    arguments = {"dataset": tiny, "flips_every": flips_every, "checkpoint_every": 2}
    lines = []
    for budget in (1, 5, 6):  # crash after steps 1, 5, and 4 + 6 = 10
        left["steps"] = budget
        with pytest.raises(Crash):
            run.fit(recipe, tmp_path / "broken", say=lines.append, **arguments)
    left["steps"] = 100
    results = run.fit(recipe, tmp_path / "broken", say=lines.append, **arguments)

    assert [line for line in lines if line.startswith("resumed")] == [
        "resumed from step 4 of 12",
        "resumed from step 10 of 12",
    ]
    for old, new in zip(weights_of(straight), weights_of(tmp_path / "broken"), strict=True):
        np.testing.assert_array_equal(old, new)
    for key in ("history", "flips", "accuracy", "steps"):
        assert results[key] == expected[key]


def test_finished_run_is_not_trained_again(unbroken, tiny, monkeypatch):
    workdir, results, _ = unbroken

    def never(*_):
        raise AssertionError("a finished run took another step")

    monkeypatch.setattr(steps.TrainStep, "__call__", never)
    again = run.fit(TINY, workdir, dataset=tiny, say=silent, flips_every=1)
    assert again["accuracy"] == results["accuracy"] and again["history"] == results["history"]


@pytest.mark.parametrize("epoch, step", [(1, 4), (3, 12)])  # the last: a study is to stop too
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    tmp_path, tiny, unbroken, epoch, step
):
    def interrupt_after_epoch(line):
        if line.startswith(f"epoch {epoch}/"):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # not always Python's: a background job ignores it
    said = rf"stopped after step {step} of 12; state saved in .*again"
    with pytest.raises(run.Stopped, match=said):
        run.fit(TINY, tmp_path, dataset=tiny, say=interrupt_after_epoch, flips_every=1)
    assert signal.getsignal(signal.SIGINT) is before
    run.fit(TINY, tmp_path, dataset=tiny, say=silent, flips_every=1)
    for old, new in zip(weights_of(unbroken[0]), weights_of(tmp_path), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_signal_while_the_last_checkpoint_is_written_is_not_lost(tmp_path, tiny, monkeypatch):
    save = checkpoints.save

    def interrupted(folder, step, *arguments, **named):
        save(folder, step, *arguments, **named)
        if step == 12:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    with pytest.raises(run.Stopped, match="stopped after step 12 of 12"):
        run.fit(TINY, tmp_path, dataset=tiny, say=silent)
    assert run.fit(TINY, tmp_path, dataset=tiny, say=silent)["steps"] == 12


def test_a_run_stopped_early_goes_further_along_the_same_schedule(tmp_path, tiny, unbroken):
    early = run.fit(TINY.changed(stop_epoch=1), tmp_path, dataset=tiny, say=silent, flips_every=1)
    assert (early["steps"], len(early["history"])) == (4, 1)
    lines = []
    run.fit(TINY, tmp_path, dataset=tiny, say=lines.append, flips_every=1)
    assert lines[0] == "resumed from step 4 of 12"
    for old, new in zip(weights_of(unbroken[0]), weights_of(tmp_path), strict=True):
        np.testing.assert_array_equal(old, new)
    assert Recipe.from_json((tmp_path / "recipe.json").read_text()) == TINY
    with pytest.raises(ValueError, match=r"another recipe \(stop_epoch None there, 2 here\)"):
        run.fit(TINY.changed(stop_epoch=2), tmp_path, dataset=tiny, say=silent)


def test_folder_of_another_recipe_is_refused(unbroken, tiny):
    workdir, _, _ = unbroken
    with pytest.raises(ValueError, match=r"another recipe \(r 0.05 there, 0.5 here\)"):
        run.fit(TINY.changed(r=0.5), workdir, dataset=tiny, say=silent)


def test_a_run_without_its_recipe_file_does_not_go_on_under_another(unbroken, tiny, tmp_path):
    """Removing it is what one is told to do where it is damaged."""
    shutil.copytree(unbroken[0], tmp_path / "run")
    (tmp_path / "run" / "recipe.json").unlink()
    with pytest.raises(ValueError, match=r"another recipe \(learning_rate 0.1 there, 0.01 here\)"):
        run.fit(TINY.changed(learning_rate=0.01), tmp_path / "run", dataset=tiny, say=silent)
    lines = []
    run.fit(TINY, tmp_path / "run", dataset=tiny, say=lines.append)
    assert lines[0] == "resumed from step 12 of 12"
    assert Recipe.read(tmp_path / "run" / "recipe.json") == TINY


def test_a_full_disk_is_named_with_the_model_that_did_not_fit(tiny, tmp_path, monkeypatch):
    def full(self, path, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tf.keras.Sequential, "save", full)
    with pytest.raises(OSError) as error:
        run.fit(TINY.changed(epochs=1), tmp_path, dataset=tiny, say=silent)
    assert error.value.filename == str(tmp_path / "model.keras")
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    monkeypatch.setattr(run, "build_model", micro_model)
    lines = []
    run.fit(TINY.changed(epochs=1), tmp_path, dataset=tiny, say=lines.append)
    assert lines[0] == "resumed from step 4 of 4" and (tmp_path / "model.keras").exists()


def test_a_folder_that_tensorflow_cannot_name_is_refused_before_training(tiny, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(ValueError, match=r"has a name that is not UTF-8\. Use another --workdir"):
        run.fit(TINY, odd, dataset=tiny, say=silent)
    assert not odd.exists()


@pytest.mark.parametrize(
    "change", [{"batch_size": 36}, {"kernel_quantizer": "foo"}, {"hold_out": 5}]
)
def test_what_cannot_start_leaves_nothing_behind(tmp_path, tiny, monkeypatch, change):
    monkeypatch.setattr(run, "build_model", models.build_model)
    with pytest.raises(ValueError):
        run.fit(TINY.changed(**change), tmp_path / "run", dataset=tiny, say=silent)
    assert not (tmp_path / "run").exists()


def test_a_recipe_without_a_saved_step_may_be_replaced(tmp_path, tiny):
    (tmp_path / "recipe.json").write_text(TINY.changed(r=0.5).to_json())
    run.fit(TINY.changed(stop_epoch=1), tmp_path, dataset=tiny, say=silent)
    assert Recipe.from_json((tmp_path / "recipe.json").read_text()).r == TINY.r


LOCKER = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_trained_in_by_one_process_at_a_time(tmp_path, tiny):
    """Each would take the other's unfinished checkpoint for what a kill left."""
    inner = []

    def meanwhile(line):
        if line.startswith("epoch 2/"):
            before = sorted(tmp_path.rglob("*"))
            with pytest.raises(ValueError) as error:
                run.fit(TINY, tmp_path, dataset=tiny, say=silent)
            inner.append(str(error.value))
            assert sorted(tmp_path.rglob("*")) == before

    run.fit(TINY, tmp_path, dataset=tiny, say=meanwhile)
    assert inner == [
        f"{tmp_path}: another process is training in this folder. Wait until it ends, or use "
        "another --workdir."
    ]
    # As in an interrupted run: it is free again, for the same command too.
    run.fit(TINY, tmp_path, dataset=tiny, say=silent)


def test_a_killed_process_leaves_its_folder_free(tmp_path, tiny):
    other = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match="another process is training in this folder"):
            run.fit(TINY, tmp_path, dataset=tiny, say=silent)
        other.kill()
    assert run.fit(TINY, tmp_path, dataset=tiny, say=silent)["steps"] == 12


def test_where_folders_cannot_be_locked_a_run_goes_without(tmp_path, tiny, monkeypatch):
    def flock(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")  # what NFS says of a folder

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run.fit(TINY.changed(epochs=1), tmp_path, dataset=tiny, say=silent)["steps"] == 4


def test_a_tensorboard_file_that_cannot_be_written_is_named(tmp_path, tiny):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(OSError) as error:
        run.fit(TINY, tmp_path, dataset=tiny, say=silent)
    assert not isinstance(error.value, tf.errors.OpError)
    assert str(error.value) == (
        f"cannot write scalars to {tmp_path / 'tensorboard'} (Not a directory). Free some space "
        "there, or whatever is in the way, and run the same command again"
    )
    (tmp_path / "tensorboard").unlink()
    assert run.fit(TINY, tmp_path, dataset=tiny, say=silent)["steps"] == 12


@pytest.mark.parametrize("name", ["flips_every", "checkpoint_every", "keep"])
def test_counts_below_one_are_named(tmp_path, tiny, name):
    with pytest.raises(ValueError, match=rf"fit\({name}=0\): a whole number, 1 or above"):
        run.fit(TINY, tmp_path / "run", dataset=tiny, say=silent, **{name: 0})
    assert not (tmp_path / "run").exists()


def test_the_time_left_leaves_out_the_compilation(tmp_path, tiny, monkeypatch):
    """One hour for the first step, ten seconds for each of the others."""
    now = [0.0]
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: now[0]))
    step = run.TrainStep.__call__

    def slow(self, images, labels):
        now[0] += 10.0 if now[0] else 3600.0
        return step(self, images, labels)

    monkeypatch.setattr(run.TrainStep, "__call__", slow)
    lines = []
    run.fit(TINY, tmp_path, dataset=tiny, say=lines.append)
    left = [line.rsplit("  ", 1)[1] for line in lines if line.startswith("epoch")]
    assert left == ["1 min 20 s left", "40 s left", "0 s left"]


def test_folder_that_cannot_be_written_is_named(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(run, "build_model", None)  # which comes later
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*Use another --workdir"):
        run.fit(TINY, tmp_path / "file" / "run", dataset=tiny, say=silent)


def test_nan_names_the_first_layer_that_had_it_and_spoils_nothing(tmp_path, tiny):
    recipe = TINY.changed(learning_rate=1e38, latent_decay=0.0, weight_decay=0.0)
    with pytest.raises(FloatingPointError, match=r"step \d+: .*first seen in the output of layer"):
        run.fit(recipe, tmp_path, dataset=tiny, say=silent)
    assert not (tmp_path / "model.keras").exists()


def test_nan_in_the_images_is_blamed_on_the_inputs(tmp_path, tiny):
    images = tiny.train.images.astype(np.float32)
    images[3, 0, 0, 0] = np.nan
    spoilt = data.Dataset(**{**vars(tiny), "train": data.Split(images, tiny.train.labels)})
    with pytest.raises(
        FloatingPointError, match="loss nan is not finite; first seen in the inputs"
    ):
        run.fit(TINY, tmp_path, dataset=spoilt, say=silent)


def test_loss_scaling_does_not_hide_gradients_that_are_never_finite():
    """The scaler skips a step that overflows and halves its scale; from 1 it goes no further."""

    @tf.custom_gradient
    def spoilt(x):
        return tf.identity(x), lambda dy: dy * np.nan

    inputs = tf.keras.Input((4,))
    x = tf.keras.layers.Lambda(spoilt)(tf.keras.layers.Dense(3)(inputs))
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(3)(x))
    optimizer = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.SGD(0.1))
    optimizer.build(model.trainable_variables)
    step = steps.TrainStep(model, optimizer, num_classes=3)
    before = model.get_weights()
    results = [step(tf.ones((6, 4)), tf.zeros(6, tf.int64)) for _ in range(20)]
    assert all(np.isfinite(result.loss) for result in results)
    assert [result.finite for result in results] == [True] * 15 + [False] * 5
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_evaluator_ranks_as_written_out_by_hand():
    rising = [0, 1, 2, 3, 4, 5, 6]
    logits = np.float32([[3, 1, 2, 0, -1, -2, -3], rising, rising, [np.nan] * 7, [1] * 7])
    model = tf.keras.Sequential([tf.keras.layers.Lambda(lambda x: x, input_shape=(7,))])
    labels = np.array([0, 2, 1, 0, 0])
    figures = steps.Evaluator(model)([(tf.constant(logits), tf.constant(labels))])
    # right; fifth of seven; sixth; NaN is wrong; a tie is wrong
    assert (figures.top1, figures.top5, figures.images) == (20.0, 40.0, 5)
    with pytest.raises(ValueError, match="no images"):
        steps.Evaluator(model)([])


def test_evaluation_of_a_model_that_does_not_fit_is_refused(tiny):
    model = tf.keras.Sequential([tf.keras.layers.Flatten(input_shape=(8, 8, 1))])
    with pytest.raises(ValueError, match=r"returns 64 logits, but generated has .* 3 classes"):
        run.evaluate(model, tiny)
    with pytest.raises(ValueError, match=r'evaluate\(split="?\'?exam'):
        run.evaluate(model, tiny, "exam")


@pytest.mark.parametrize("bad", [0, 2.5])
def test_bad_flip_interval_is_named(tmp_path, tiny, bad):
    with pytest.raises(ValueError, match=rf"fit\(flips_every={bad}\)"):
        run.fit(TINY, tmp_path, dataset=tiny, flips_every=bad)


def test_without_validation_split_a_run_reports_none_and_hold_out_makes_one(tmp_path, tiny):
    bare = data.Dataset(**{**vars(tiny), "validation": tiny.train.chosen(np.arange(0))})
    results = run.fit(TINY.changed(epochs=1), tmp_path / "bare", dataset=bare, say=silent)
    assert results["accuracy"]["validation_top1"] is None
    assert results["history"][0]["validation_top1"] is None
    held = TINY.changed(epochs=1, hold_out=5)
    results = run.fit(held, tmp_path / "held", dataset=bare, say=silent)
    assert results["images"] == {"train": 30, "validation": 5, "test": 12}
    assert results["accuracy"]["validation_top1"] is not None


def test_an_early_stop_ends_on_the_unchanged_schedule(tmp_path, tiny, unbroken):
    stopped = run.fit(TINY.changed(stop_epoch=2), tmp_path, dataset=tiny, say=silent, flips_every=1)
    assert stopped["steps"] == 8
    assert stopped["history"] == unbroken[1]["history"][:2]


@pytest.mark.parametrize(("clock", "rests"), [("epoch", 4), ("step", 1)])
def test_the_clock_of_rivals_moves_as_told(tmp_path, tiny, monkeypatch, clock, rests):
    """Along the whole schedule of 12 steps, 4 an epoch, wherever the run stops."""
    seen, fitted, step = [], [], steps.TrainStep.__call__
    monkeypatch.setattr(progress.Scheduled, "begin_epoch", lambda self: fitted.append(len(seen)))

    def noted(self, images, labels):
        seen.append({float(q.progress) for q in scheduled_quantizers(model)})
        return step(self, images, labels)

    def kept(*args, **kwargs):
        nonlocal model
        model = micro_model(*args, **kwargs)
        return model

    model = None
    monkeypatch.setattr(run, "build_model", kept)
    monkeypatch.setattr(steps.TrainStep, "__call__", noted)
    recipe = TINY.changed(kernel_quantizer="irnet", clock=clock, stop_epoch=2)
    run.fit(recipe, tmp_path, dataset=tiny, say=silent)
    assert seen == [{float(np.float32(step // rests * rests / 12))} for step in range(8)]
    assert set(fitted) == {0, 4}  # rotations and the like: by the epoch, however the clock moves


@pytest.mark.parametrize(
    "precision", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_mixed_precision_learns_and_leaves_a_float32_model_that_converts(tmp_path, tiny, precision):
    recipe = TINY.changed(precision=precision, kernel_quantizer="hyperbolic", learning_rate=0.02)
    results = run.fit(recipe, tmp_path, dataset=tiny, say=silent)
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    losses = [row["loss"] for row in results["history"]]
    assert losses[-1] < losses[0]
    model = tf.keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    of_file = run.evaluate(model, tiny)
    published = [results["accuracy"][f"test_{figure}"] for figure in ("top1", "top5", "loss")]
    assert published == [of_file[figure] for figure in ("top1", "top5", "loss")]
    assert results["accuracy"]["validation_top1"] == run.evaluate(model, tiny, "validation")["top1"]
    pytest.importorskip("larq_compute_engine")
    images = tiny.normalize(tiny.test.images)
    report = edge.report(model, edge.convert(model), images)
    assert report.binary_placed == report.binary_asked == 1


@pytest.mark.parametrize(
    "kind, theirs",
    [
        ("comparison", "compare.json"),
        ("comparison", "ste_sign/seed-0/recipe.json"),
        ("search", "settings.json"),
        ("search", "search.json"),
        ("search", "runs/hyperbolic/r-0.05/seed-0/recipe.json"),
    ],
)
def test_a_run_keeps_out_of_the_folder_of_a_study(tmp_path, tiny, kind, theirs):
    """Which would refuse to go on beside it."""
    path = tmp_path / theirs
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    with pytest.raises(ValueError, match=f"is the folder of a {kind}, .* another --workdir"):
        run.fit(TINY, tmp_path, dataset=tiny, say=silent)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_what_killed_writers_left_is_removed_at_the_end(tmp_path, tiny):
    left = [".model.keras.77-1.tmp.keras", ".model.keras.77-1.tmp", ".results.json.78-1.tmp"]
    others = [".pipeline.json.79-1.tmp", ".model.tflite.80-1.tmp", ".keep"]
    for name in (*left, *others):
        (tmp_path / name).write_text("half")
    run.fit(TINY.changed(epochs=1), tmp_path, dataset=tiny, say=silent)
    assert sorted(p.name for p in tmp_path.glob(".*")) == sorted(others)


def test_mixed_precision_resumes_exactly(tmp_path, tiny):
    recipe = TINY.changed(precision="mixed_float16", epochs=2)
    run.fit(recipe, tmp_path / "straight", dataset=tiny, say=silent)

    def interrupt(line):
        if line.startswith("epoch 1/"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(run.Stopped):
        run.fit(recipe, tmp_path / "broken", dataset=tiny, say=interrupt)
    run.fit(recipe, tmp_path / "broken", dataset=tiny, say=silent)
    straight, broken = weights_of(tmp_path / "straight"), weights_of(tmp_path / "broken")
    for old, new in zip(straight, broken, strict=True):
        np.testing.assert_array_equal(old, new)


def test_tensorboard_holds_what_the_history_holds(unbroken):
    workdir, results, _ = unbroken
    found = {}
    for path in (workdir / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    for row in results["history"]:
        epoch = row["epoch"]
        assert found["loss/train", epoch] == pytest.approx(row["loss"])
        assert found["flips_per_step/expected", epoch] == pytest.approx(row["flips_predicted"])
        gain = row["layers"]["information_gain"]["conv"]
        assert found["information_gain/conv", epoch] == pytest.approx(gain)


def test_label_smoothing_is_that_of_keras(tiny):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [tf.keras.layers.Flatten(input_shape=(8, 8, 1)), tf.keras.layers.Dense(3)]
    )
    images = tf.constant(tiny.normalize(tiny.train.images))
    labels = tf.constant(tiny.train.labels)
    keras = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = float(keras(tf.one_hot(labels, 3), model(images)))
    step = steps.TrainStep(model, tf.keras.optimizers.SGD(0.1), num_classes=3, label_smoothing=0.1)
    assert step(images, labels).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_the_state_of_loss_scaling_is_resumed_exactly(tmp_path, tiny, monkeypatch):
    """Doubled every three finite steps: stopped at a fourth, it must not begin anew."""
    build = models.build_optimizer

    def restless(recipe, images):
        inner = build(recipe.changed(precision="float32"), images)
        scaler = tf.keras.mixed_precision.LossScaleOptimizer
        return scaler(inner, initial_scale=256, dynamic_growth_steps=3)

    monkeypatch.setattr(run, "build_optimizer", restless)
    recipe = TINY.changed(precision="mixed_float16", epochs=2)
    run.fit(recipe, tmp_path / "straight", dataset=tiny, say=silent)

    def interrupt(line):
        if line.startswith("epoch 1/"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(run.Stopped, match="after step 4 of 8"):
        run.fit(recipe, tmp_path / "broken", dataset=tiny, say=interrupt)
    run.fit(recipe, tmp_path / "broken", dataset=tiny, say=silent)
    straight, broken = (
        checkpoints.newest(tmp_path / name / "checkpoints").arrays
        for name in ("straight", "broken")
    )
    assert float(straight["loss_scale/0000/current_loss_scale"]) == 1024
    assert set(straight) == set(broken)
    for name, value in straight.items():
        np.testing.assert_array_equal(value, broken[name], err_msg=name)


def rewritten(workdir, change):
    """Changes arrays and state of the newest checkpoint in place, as another version has them."""
    found = checkpoints.newest(workdir / "checkpoints")
    change(found)
    checkpoints.save(workdir / "checkpoints", found.step, found.arrays, found.state, keep=1)


def test_a_checkpoint_without_loss_scale_is_taken_with_a_notice(tmp_path, tiny):
    recipe = TINY.changed(precision="mixed_float16", stop_epoch=1)
    run.fit(recipe, tmp_path, dataset=tiny, say=silent)

    def earlier(found):
        for name in [name for name in found.arrays if name.startswith("loss_scale/")]:
            del found.arrays[name]

    rewritten(tmp_path, earlier)
    lines = []
    run.fit(recipe.changed(stop_epoch=2), tmp_path, dataset=tiny, say=lines.append)
    assert lines[0].startswith("the checkpoint holds no loss scale")
    assert lines[1] == "resumed from step 4 of 8"


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    """A run after its first of three epochs, which each test copies."""
    workdir = tmp_path_factory.mktemp("stopped")
    run.fit(TINY.changed(stop_epoch=1), workdir, dataset=tiny, say=silent)
    return workdir


@pytest.mark.parametrize(
    "other, message",
    [
        ({"train": 39}, r"\(train 35 there, 39 here, content '\w+' there, '\w+' here\)"),
        ({"num_classes": 4}, r"\(classes 3 there, 4 here, content "),
        ({"seed": 8}, r"\(content '\w+' there"),
        ({"image_shape": (9, 8, 1)}, r"\(image_shape \[8, 8, 1\] there, \[9, 8, 1\] here"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(tmp_path, stopped, other, message):
    shutil.copytree(stopped, tmp_path / "run")
    shape = {"image_shape": (8, 8, 1), "num_classes": 3, "train": 35, "validation": 9, "test": 12}
    changed = data.generated(difficulty=0.2, **{**shape, **other})
    with pytest.raises(ValueError, match=f"run holds a run on other data {message}"):
        run.fit(TINY, tmp_path / "run", dataset=changed, say=silent)
    # And with the data as it was, it goes on as if nobody had asked.
    assert Recipe.from_json((tmp_path / "run" / "recipe.json").read_text()).stop_epoch == 1


def test_a_checkpoint_that_knows_no_data_is_taken(tmp_path, tiny, stopped):
    shutil.copytree(stopped, tmp_path / "run")
    rewritten(tmp_path / "run", lambda found: found.state.pop("data"))
    lines = []
    run.fit(TINY, tmp_path / "run", dataset=tiny, say=lines.append)
    assert lines[0] == "resumed from step 4 of 12"


def test_a_checkpoint_of_other_shapes_is_refused_whole(tmp_path, stopped):
    shutil.copytree(stopped, tmp_path / "run")
    rewritten(tmp_path / "run", lambda found: found.state.pop("data"))
    other = data.generated((8, 8, 1), 4, train=35, validation=9, test=12)
    with pytest.raises(ValueError, match=r"does not fit this model \(model/\d+/dense/"):
        run.fit(TINY, tmp_path / "run", dataset=other, say=silent)
