"""The `hbnn` command: what it prints, what it exits with, what it says when used wrongly."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from micro import micro_model

from hbnn_larq import files, loss_surface
from hbnn_larq.training import data, pictures, recipes, run
from hbnn_larq.training.cli import main
from hbnn_larq.training.recipe import Recipe

TINY = Recipe(
    name="tiny", source="a test", dataset="generated-8x8x1-3", model="vgg_small", width=1 / 32,
    kernel_quantizer="ste_sign", epochs=2, batch_size=20, latent_decay=0.05, paper_top1=99.5,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """A recipe on 60 images that the command finds by name."""
    small = data.generated((8, 8, 1), 3, train=60, validation=9, test=12, difficulty=0.2)
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    monkeypatch.setattr(data, "load", lambda name, folder=None, **_: small)
    monkeypatch.setattr(run, "build_model", micro_model)
    monkeypatch.setattr(data, "training_images", lambda name: 60)
    return small


def outcome(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_command_has_help_with_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out
    for command in ("demo", "recipes", "train", "evaluate", "plot"):
        assert f"\n    {command} " in listed
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"example: hbnn {command}" in capsys.readouterr().out


def test_parsing_imports_no_tensorflow_beyond_the_package_itself():
    # `import hbnn_larq` needs TensorFlow, the parser must not need more than that.
    script = (
        "import sys, hbnn_larq; from hbnn_larq.training import cli; cli._parser();"
        "heavy = {'matplotlib', 'sklearn', 'keras_tuner', 'larq_compute_engine', "
        "'tensorflow_datasets'};"
        "found = sorted(heavy & set(sys.modules)); print(found); sys.exit(bool(found))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_recipes_lists_claims_apart_from_everything_measured(capsys):
    code, out, _ = outcome(capsys, "recipes")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["recipe", "paper", "top-1", "source"]
    assert any(line.startswith("cifar10-resnet18 ") and " 93.0 % " in line for line in lines)
    assert any("-r0.1-e120 " in line and " 69.45 % " in line for line in lines)  # as printed
    assert any(line.startswith("digits ") and "  -  " in line for line in lines)


def test_one_recipe_is_shown_with_its_predicted_flips(capsys):
    code, out, _ = outcome(capsys, "recipes", "cifar10-resnet18")
    assert code == 0
    assert "epochs             600\n" in out
    assert "flips predicted    0.15 % of the binary weights per step" in out
    code, out, _ = outcome(capsys, "recipes", "cifar10-resnet18", "--json")
    shown = json.loads(out)
    assert shown["epochs"] == 600 and shown["forecast"]["steps"] == 117_600
    code, out, _ = outcome(capsys, "recipes", "cifar10-resnet18-float")
    assert "flips predicted" not in out


def test_a_changed_recipe_is_forecast_before_it_runs(capsys):
    """The sum of lr * decay falls with the epochs, and --keep-decay leaves it at that."""
    code, out, _ = outcome(capsys, "recipes", "digits", "--set", "epochs=2", "--keep-decay")
    assert code == 0 and re.search(r"^epochs +2$", out, re.M) and ": starved" in out
    code, out, err = outcome(capsys, "recipes", "digits", "--set", "epochs=2", "--json")
    assert code == 0 and err.startswith("decay    ")
    shown = json.loads(out)
    assert shown["epochs"] == 2 and shown["forecast"]["verdict"] != "starved"
    code, _, err = outcome(capsys, "recipes", "--set", "epochs=2")
    assert (code, err) == (2, "hbnn recipes --set epochs=2: of which recipe? Name one.\n")


def test_plots_are_drawn_again_of_one_run_and_over_one_another_of_several(capsys, tmp_path, tiny):
    one, two, more = (str(tmp_path / name) for name in ("one", "two", "more"))
    outcome(capsys, "train", "tiny", "--workdir", one)
    outcome(capsys, "train", "tiny", "--workdir", two, "--set", "kernel_quantizer=hyperbolic")
    names = ["learning_curves.png", "flips.png"]
    before = [(Path(one) / name).read_bytes() for name in names]
    for name in names:
        (Path(one) / name).unlink()
    code, out, _ = outcome(capsys, "plot", one)
    assert (code, out.split()) == (0, [str(Path(one) / name) for name in names])
    assert [(Path(one) / name).read_bytes() for name in names] == before
    code, out, _ = outcome(capsys, "plot", one, two, "-o", more, "--json")
    assert json.loads(out) == [str(Path(more) / name) for name in names]
    assert all((Path(more) / name).read_bytes()[:4] == b"\x89PNG" for name in names)
    code, _, err = outcome(capsys, "plot", one, two)
    assert code == 2 and err.startswith("hbnn plot: several runs share no folder; name one with -o")
    for again in (one, f"{one}/", str(Path(two) / ".." / "one")):
        code, _, err = outcome(capsys, "plot", one, again, "-o", more)
        assert code == 2 and "one run or more, each once." in err
    code, _, err = outcome(capsys, "plot", str(tmp_path))
    assert (code, err) == (2, f"hbnn: {tmp_path} holds no run: there is no recipe.json in it.\n")


@pytest.mark.parametrize("across", ["line", "plane"])
def test_a_slice_through_the_loss_of_a_run_holds_its_own_figures(capsys, tmp_path, tiny, across):
    """In the centre: loss and accuracy on the validation split, as the run itself had them."""
    outcome(capsys, "train", "tiny", "--workdir", str(tmp_path))
    words = ("plot", str(tmp_path), "--surface", across, "--points", "3")
    code, out, err = outcome(capsys, *words, "--json")
    kinds = ["deployed", "relaxed"] if across == "line" else ["deployed"]
    names = [f"loss_{across}.png", *(f"loss_{across}_{kind}.csv" for kind in kinds)]
    assert code == 0 and json.loads(out) == [str(tmp_path / name) for name in names]
    surface = loss_surface.Surface.from_csv(tmp_path / names[1])
    centre = (1,) * len(surface.axes)
    last = json.loads((tmp_path / "results.json").read_text())["history"][-1]
    assert surface.loss[centre] == pytest.approx(last["validation_loss"], rel=1e-4)
    assert 100 * surface.accuracy[centre] == pytest.approx(last["validation_top1"])
    assert surface.loss.size == 3 ** len(surface.axes) and np.ptp(surface.loss) > 0
    code, _, err = outcome(capsys, *words, "--images", "0")
    assert (code, err) == (2, "hbnn: slice_loss(images=0): a whole number, 1 or above.\n")
    (tmp_path / "model.keras").unlink()
    code, _, err = outcome(capsys, *words)
    assert code == 2 and "holds no finished run" in err
    code, _, err = outcome(capsys, "plot", "one", "two", "--surface", across)
    assert (code, err) == (2, f"hbnn plot --surface {across}: of one run; 2 given.\n")


def test_an_unfinished_run_is_drawn_from_its_newest_checkpoint(capsys, tmp_path, tiny, monkeypatch):
    end = run._Run.finish

    def cut(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(run._Run, "finish", cut)
    assert outcome(capsys, "train", "tiny", "--workdir", str(tmp_path))[0] == 1
    assert not (tmp_path / "results.json").exists()
    code, out, _ = outcome(capsys, "plot", str(tmp_path))
    assert code == 0 and len(out.split()) == 2
    drawn = (tmp_path / "learning_curves.png").read_bytes()
    monkeypatch.setattr(run._Run, "finish", end)
    outcome(capsys, "train", "tiny", "--workdir", str(tmp_path))
    assert (tmp_path / "learning_curves.png").read_bytes() == drawn
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "results.json").unlink()
    code, _, err = outcome(capsys, "plot", str(tmp_path))
    assert code == 2 and "no epoch of this run has been saved yet" in err


def test_train_prints_what_it_will_do_and_what_came_out(capsys, tmp_path, tiny):
    code, out, _ = outcome(
        capsys, "train", "tiny", "--workdir", str(tmp_path / "run"),
        "--set", "epochs=1", "--set", "r=0.5",
    )  # fmt: skip
    assert code == 0
    assert "recipe   tiny (a test) with r=0.5 (was 0.05), epochs=1 (was 2), latent_decay=" in out
    assert "decay    latent_decay 0.05 -> " in out and "(epochs changed); --keep-decay" in out
    assert "paper    no number: changed from its row" in out
    assert "flips    predicted " in out
    assert "resume: run the same command again" in out
    assert "epoch 1/1  loss " in out
    assert "% of 12 test images (validation " in out
    assert "% per step predicted, " in out
    assert (tmp_path / "run" / "model.keras").exists()

    code, out, _ = outcome(capsys, "evaluate", str(tmp_path / "run"), "--json")
    shown = json.loads(out)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert code == 0 and shown["top1"] == results["accuracy"]["test_top1"]
    code, out, _ = outcome(capsys, "evaluate", str(tmp_path / "run"), "--split", "validation")
    assert code == 0 and " on 9 validation images of generated-8x8x1-3" in out


def test_flips_that_are_asked_for_are_called_so(capsys, tmp_path, tiny):
    code, out, _ = outcome(
        capsys, "train", "tiny", "--workdir", str(tmp_path), "--set", "flip_rate=0.02"
    )
    assert code == 0 and "predicted" not in out
    assert re.search(
        r"\nflips    asked for 1.\d\d % of the binary weights per step, the mean of a ", out
    )
    assert re.search(r"\nflips    \d.\d\d % per step asked for, \d.\d\d % measured: ", out)


def test_a_decay_that_is_given_is_not_rescaled(capsys, tmp_path, tiny):
    code, out, _ = outcome(
        capsys, "train", "tiny", "--workdir", str(tmp_path), "--set", "epochs=1",
        "--set", "latent_decay=0.05",
    )  # fmt: skip
    assert code == 0 and "decay    latent_decay" not in out
    assert "decay    momentum will swing weights through zero: add --set decay=decoupled" in out


def test_train_as_it_stands_shows_the_claim_and_json_is_all_it_prints(capsys, tmp_path, tiny):
    code, out, _ = outcome(
        capsys, "train", "tiny", "--workdir", str(tmp_path), "--json", "--set", "epochs=1",
        "--keep-decay",
    )  # fmt: skip
    assert code == 0
    results = json.loads(out)
    assert results["recipe"]["latent_decay"] == 0.05
    assert results == json.loads((tmp_path / "results.json").read_text())


@pytest.mark.parametrize(
    "words, message",
    [
        (["train", "cifar10-resnet8"], 'no recipe "cifar10-resnet8". Closest: cifar10-resnet18'),
        (["train", "digits", "--set", "wdecay=0"], 'a recipe has no field "wdecay". Closest: '),
        (["train", "digits", "--set", "epochs"], "--set epochs: write it as FIELD=VALUE"),
        (["train", "digits", "--set", "epochs=x"], "epochs='x': expected a whole number."),
        (["train", "digits", "--set", "batch_size=5000"], "a batch holds 1 to 1077 of them"),
        (["train", "digits", "--set", "learning_rate=1e-320"], "learning_rate=1e-320 must be a"),
        (["train", "digits", "--set", "learning_rate=1e39"], "float32 has (1.2e-38 to 3.4e38)"),
        (["train", "digits", "--set", "epochs=1000000000"], "are 34,000,000,000 steps; a schedule"),
        (["train", "digits", "--set", "paper_top1=99"], "paper_top1=99.0: a claim of the source"),
        (["recipes", "digits", "--set", "paper_top5=99"], "paper_top5=99.0: a claim of the source"),
        (["recipes", "digits", "--set", "epochs=1000000000"], "are 34,000,000,000 steps; a sched"),
        (["recipes", "digits", "--set", "batch_size=5000"], "a batch holds 1 to 1077 of them"),
        (["recipes", "cifar10-resnet18", "--set", "batch_size=50001"], "holds 1 to 50000 of them"),
        (["recipes", "digits", "--set", "kernel_quantizer=foo"], "foo"),
        (["recipes", "imagenet-resnet18", "--set", "input_quantizer=foo"], "foo"),
        (["recipes", "digits", "--set", "layer_r=0.1,0.2"], "has 2 values for 5 binary layers"),
        (["recipes", "cifar10-vggsmall", "--set", "dataset=generated-0x0x0-0"], "(0, 0, 0)"),
        (["recipes", "digit"], 'no recipe "digit". Closest: digits'),
        (["evaluate", "nowhere"], "there is no file or folder 'nowhere'"),
        (["evaluate", "README.md", "--dataset", "digits"], "is not a Keras model that can be"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, tmp_path, words, message):
    if words[0] == "train":
        words = [*words, "--workdir", str(tmp_path / "run")]
    code, _, err = outcome(capsys, *words)
    assert code == 2
    assert err.startswith(("hbnn: ", f"hbnn {words[0]}: "))
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["train", "tiny", "--workdir", "x", "--nope", "1"], ["zoo", "list", "--nope", "1"]]
)
def test_an_unknown_argument_is_answered_with_the_usage_of_its_command(capsys, words):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    err = capsys.readouterr().err
    command = " ".join(words[: 2 if words[0] == "zoo" else 1])
    assert err.startswith(f"usage: hbnn {command} [-h]")
    assert err.endswith(f"hbnn {command}: error: unrecognized arguments: --nope 1\n")


def test_json_leaves_standard_output_to_the_result(capsys, tmp_path, tiny):
    words = ("train", "tiny", "--workdir", str(tmp_path), "--json")
    code, out, err = outcome(capsys, *words)
    assert code == 0 and json.loads(out)["steps"] == 6
    assert err.startswith("recipe   tiny") and "\nepoch 2/2  loss " in err
    code, out, err = outcome(capsys, *words)
    assert code == 0 and "resumed from step 6 of 6" in err


def test_evaluate_takes_a_saved_model(capsys, tmp_path, tiny):
    assert outcome(capsys, "train", "tiny", "--workdir", str(tmp_path / "run"))[0] == 0
    code, expected, _ = outcome(capsys, "evaluate", str(tmp_path / "run"), "--json")
    model = tf.keras.models.load_model(tmp_path / "run" / "model.keras", compile=False)
    model.save(tmp_path / "saved", save_format="tf")
    words = ("evaluate", str(tmp_path / "saved"), "--dataset", TINY.dataset, "--json")
    code, out, err = outcome(capsys, *words)
    assert code == 0, err
    assert json.loads(out) == {**json.loads(expected), "model": str(tmp_path / "saved")}
    code, _, err = outcome(capsys, *words[:2])
    assert code == 2 and "saved is a model without a recipe: name its data with --data" in err


def test_the_split_that_is_taken_unasked_is_in_the_help(capsys):
    for command, split in (("evaluate", "test"), ("compare", "validation")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"({split})" in capsys.readouterr().out.split("--split", 2)[2].split("--")[0]


def test_json_of_a_study_ends_its_line(capsys, tmp_path, tiny):
    words = ("compare", "tiny", "--methods", "ste_sign,float", "--seeds", "1", "--json")
    code, out, _ = outcome(capsys, *words, "--workdir", str(tmp_path))
    assert code == 0 and out.endswith("\n}\n")
    assert json.loads(out) == json.loads((tmp_path / "compare.json").read_text())


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_a_terminal_of_ascii_gets_the_result(tmp_path, environment):
    """A study has a sign in its table that such a terminal lacks."""
    script = """
        import sys
        from pathlib import Path
        from hbnn_larq import files
        from hbnn_larq.training import search
        from hbnn_larq.training.cli import main

        def searched(recipe, workdir, **_):
            files.write(Path(workdir) / "search.md", "98.02 " + chr(177) + " 0.93" + chr(10))
            return {}

        search.search = searched
        sys.exit(main(["search", "digits", "--radii", "1", "--workdir", sys.argv[1]]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        env={**os.environ, **environment}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"98.02 ? 0.93\n"


def test_evaluate_names_what_is_missing(capsys, tmp_path):
    code, _, err = outcome(capsys, "evaluate", str(tmp_path))
    assert code == 2 and "holds no run: there is no recipe.json in it" in err
    (tmp_path / "recipe.json").write_text(TINY.to_json())
    code, _, err = outcome(capsys, "evaluate", str(tmp_path))
    assert code == 2 and "`hbnn train` writes it when a run is finished" in err


def test_evaluate_says_that_a_file_is_no_model_before_it_asks_for_data(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    code, _, err = outcome(capsys, "evaluate", str(tmp_path / "notes.txt"))
    assert code == 2 and "notes.txt" in err and "--dataset" not in err


def test_among_few_classes_no_top_5_is_told(capsys, tmp_path, tiny):
    assert outcome(capsys, "train", "tiny", "--workdir", str(tmp_path))[0] == 0
    code, out, _ = outcome(capsys, "evaluate", str(tmp_path))
    assert code == 0 and re.fullmatch(
        r"[\d.]+ % top-1, loss [\d.]+ on 12 test images of generated-8x8x1-3\n", out
    )


def test_data_without_a_name_is_not_the_current_folder(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "runs/x", "--data", ""])
    assert "an empty name (the current folder is .)" in capsys.readouterr().err


def test_a_command_whose_output_is_closed_ends_well():
    script = "import sys; from hbnn_larq.training.cli import main; sys.exit(main(['recipes']))"
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, script], capture_output=True
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("train", "digits", "--workdir"),
        ("compare", "digits", "--methods", "a,b", "--workdir"),
        ("search", "digits", "--workdir"),
        ("demo", "--workdir"),
        ("zoo", "publish"),
    ],
)
def test_a_folder_without_a_name_is_not_the_current_one(capsys, words):
    """As from an unset variable: --workdir "$DIR"."""
    with pytest.raises(SystemExit) as stopped:
        main([*words, ""])
    assert stopped.value.code == 2
    assert "an empty name (the current folder is .)" in capsys.readouterr().err


def test_no_study_goes_into_the_folder_of_a_run(capsys, tmp_path, tiny, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY.changed(kernel_quantizer="hyperbolic"))
    (tmp_path / "recipe.json").write_text(TINY.to_json())
    for words in (("compare", "tiny", "--methods", "ste_sign,float"),
                  ("search", "tiny", "--radii", "1")):  # fmt: skip
        code, _, err = outcome(capsys, *words, "--workdir", str(tmp_path))
        assert code == 2 and f"{words[0]}: {tmp_path} holds a run (recipe.json)" in err


def test_the_decay_of_a_recipe_is_not_made_for_a_users_pictures(capsys, tmp_path, tiny):
    words = ("train", "tiny", "--set", "dataset=pictures", "--set", "epochs=1")
    code, out, _ = outcome(capsys, *words, "--workdir", str(tmp_path))
    notice = "latent_decay=0.05 is that of tiny, not rescaled for your pictures; the flips it makes"
    assert code == 0 and f"decay    {notice} are said below\n" in out


@pytest.mark.parametrize(
    "error",
    [MemoryError("no 9 TiB"), tf.errors.ResourceExhaustedError(None, None, "no 9 TiB\nat all")],
    ids=["Python", "TensorFlow"],
)
def test_what_takes_too_much_memory_is_said_with_what_takes_less(
    capsys, tmp_path, monkeypatch, tiny, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(run, "fit", fail)
    code, _, err = outcome(capsys, "train", "tiny", "--workdir", str(tmp_path))
    assert code == 1 and err == (
        "hbnn: out of memory (no 9 TiB). Less is taken by a smaller batch_size, image_size or "
        "width (--set FIELD=VALUE).\n"
    )


@pytest.mark.parametrize(
    "error", [FloatingPointError("step 3: loss nan"), run.Stopped("stopped after step 3")]
)
def test_a_fault_in_a_run_is_exit_code_1(capsys, tmp_path, monkeypatch, tiny, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(run, "fit", fail)
    code, _, err = outcome(capsys, "train", "tiny", "--workdir", str(tmp_path))
    assert code == 1 and err == f"hbnn: {error}\n"


def test_a_full_disk_is_named_with_the_way_out(capsys, tmp_path, monkeypatch, tiny):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "history.csv"
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(run, "fit", lambda *_, **__: files.write(path, ""))
    code, _, err = outcome(capsys, "train", "tiny", "--workdir", str(tmp_path))
    assert code == 2 and err == (
        f"hbnn: No space left on device: {path}. Free some space there and run the same command "
        "again\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_its_answer_and_nothing_of_tensorflow():
    script = Path(sys.executable).with_name("hbnn")
    if not script.exists():
        pytest.skip("the package is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [script, "recipes", "digits"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("name  ")
    assert done.stderr == ""


def test_a_run_that_goes_further_is_shown_as_it_is_now(capsys, tmp_path, tiny, monkeypatch):
    """Results and model are those of the earlier stop until it ends."""
    words = ("train", "tiny", "--workdir", str(tmp_path))
    assert outcome(capsys, *words, "--set", "stop_epoch=1")[0] == 0
    code, out, _ = outcome(capsys, "evaluate", str(tmp_path))
    assert code == 0 and "earlier" not in out
    with monkeypatch.context() as patch:
        patch.setattr(run._Run, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert outcome(capsys, *words)[0] == 1
    assert [row["epoch"] for row in pictures.history_of(tmp_path)[1]] == [1, 2]
    said = f"{tmp_path / 'model.keras'} is of an earlier run (stop_epoch 1 there, None here"
    for command in (["evaluate"], ["plot", "--surface", "line", "--points", "3"]):
        code, out, _ = outcome(capsys, *command, str(tmp_path))
        assert code == 0 and out.startswith(said)
    assert outcome(capsys, *words)[0] == 0
    code, out, _ = outcome(capsys, "evaluate", str(tmp_path))
    assert code == 0 and "earlier" not in out


@pytest.mark.parametrize("command", ["train", "recipes"])
@pytest.mark.parametrize("count", [1077, 5000])
def test_holding_out_all_there_is_is_said_of_hold_out(capsys, tmp_path, command, count):
    words = [command, "digits", "--set", f"hold_out={count}"]
    words += ["--workdir", str(tmp_path / "run")] if command == "train" else []
    code, _, err = outcome(capsys, *words)
    assert (code, err) == (
        2,
        f"hbnn: recipe digits: hold_out={count} leaves none of 1,077 training images to train on; "
        "hold out fewer.\n",
    )


def test_a_command_ends_without_a_word_where_nobody_reads_on():
    script = "import sys; from hbnn_larq.training.cli import main; sys.exit(main(['recipes']))"
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},  # as the command `hbnn` sets it
    )
    child.stdout.close()  # before it has written anything
    assert child.stderr.read() == b""
    assert child.wait() == 128 + signal.SIGPIPE
