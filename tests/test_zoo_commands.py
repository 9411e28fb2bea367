"""hbnn summary and hbnn zoo, as typed."""

import dataclasses
import json

import pytest

from hbnn_larq import zoo
from hbnn_larq.training import models, recipes
from hbnn_larq.training.cli import main
from hbnn_larq.zoo import pretrained


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch, tmp_path):
    monkeypatch.delenv(pretrained.BASE_VARIABLE, raising=False)
    monkeypatch.setenv(pretrained.CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def nothing_published(monkeypatch, tmp_path):
    """A registry without files, whatever ships with the package."""
    rows = pretrained.read_registry(pretrained.PACKAGED / pretrained.REGISTRY)
    folder = tmp_path / "packaged"
    folder.mkdir()
    bare = [pretrained.Pretrained(r.model, r.weights, r.architecture, r.train) for r in rows]
    pretrained.write_registry(folder / pretrained.REGISTRY, bare)
    monkeypatch.setattr(pretrained, "PACKAGED", folder)


SMALL = ["--set", "width=0.25", "--set", "input_shape=(16, 16, 1)"]


def test_summary_of_a_model_of_the_zoo(capsys):
    assert main(["summary", "vgg_small", *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "VGGSmall"
    assert lines[-1] == "training   285,696 base points more, none of them deployed"


def test_summary_as_json(capsys):
    arguments = ["--set", "kernel_quantizer=None", "--set", "input_quantizer=None"]
    assert main(["summary", "VGGSmall", *SMALL, *arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["totals"]["bytes"] == content["float_twin"]["bytes"]


def test_summary_of_a_file_and_of_a_run(tmp_path, capsys):
    zoo.ResNet20(width=0.25, input_shape=(8, 8, 1)).save(tmp_path / "model.keras")
    for path in (tmp_path / "model.keras", tmp_path):
        assert main(["summary", str(path)]) == 0
        assert capsys.readouterr().out.startswith("ResNet20\n")


def test_summary_of_a_folder_without_a_model(tmp_path, capsys):
    said = {"empty": f"{tmp_path / 'empty'} holds no run", "begun": "when a run is finished"}
    for name, message in said.items():
        (tmp_path / name).mkdir()
        if name == "begun":
            (tmp_path / name / "recipe.json").write_text("{}")
        assert main(["summary", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("hbnn summary: ") and message in error


@pytest.mark.parametrize(
    "words, message",
    [
        (["summary", "VGGSmal"], 'no model "VGGSmal" in the zoo, and no such file. Closest: VGGS'),
        (["summary", "VGGSmall", "--set", "widht=1"], '"widht". Closest: width.'),
        (["summary", "VGGSmall", "--set", "width"], "expected ARGUMENT=VALUE, such as width=0.5."),
        (["summary", "VGGSmall", "--set", "width=-1"], "VGGSmall(width=-1): width multiplies"),
        (["zoo", "verify", "VGGSmall"], "which weights? See hbnn zoo list"),
        (["zoo", "download", "VGGSmall", "none"], "VGGSmall knows 'digits', 'cifar10', 'cifar100'"),
        (["zoo", "publish", "nowhere"], "there is no model.keras, so this is no finished run"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(("hbnn: ", "hbnn zoo verify "))
    assert message in error


def test_list_says_how_to_train_what_is_missing(nothing_published, capsys):
    assert main(["zoo", "list"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "imagenet-resnet34" in x)
    command = "hbnn train imagenet-resnet34 --workdir runs/imagenet-resnet34"
    assert " ".join(line.split()) == f"ResNet34 imagenet - - not trained yet: {command}"


def test_a_base_without_a_registry_is_said_in_one_line(tmp_path, capsys):
    assert main(["zoo", "list", "--from", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "VGGSmall" in said.out
    assert said.err.startswith(f"hbnn: list_pretrained: {tmp_path} has no registry.json, so these")
    assert said.err.count("\n") == 1


def test_a_base_that_is_not_there_is_wrong_use(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(pretrained.BASE_VARIABLE, "file:///tmp")
    for words in (["list"], ["verify"], ["download", "VGGSmall", "mine"]):
        assert main(["zoo", *words]) == 2
        assert "'file:///tmp', where weights are looked for" in capsys.readouterr().err


def test_download_of_untrained_weights_says_how(nothing_published, capsys):
    assert main(["zoo", "download", "VGGSmall", "digits"]) == 2
    assert "Train them with `hbnn train digits --workdir runs/digits`" in capsys.readouterr().err


def test_verify_without_any_weights(nothing_published, capsys):
    assert main(["zoo", "verify"]) == 0
    assert "no pretrained weights to verify" in capsys.readouterr().out


def test_what_ships_is_verified(capsys):
    """Hashes, loading, and the test accuracy on the card, measured again."""
    assert main(["zoo", "verify", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    shipped = [row for row in pretrained.list_pretrained() if row.file]
    assert [(c["model"], c["weights"]) for c in checks] == [(r.model, r.weights) for r in shipped]
    assert all(check["ok"] for check in checks)


def test_a_card_names_the_command_of_the_run_that_was_finished(tmp_path, capsys):
    """While it goes further, `recipe.json` is that of another command."""
    finished = recipes.find("digits").changed(epochs=3, stop_epoch=1, width=1 / 16)
    models.build_model(finished, (16, 16, 1), 10).save(tmp_path / "model.keras")
    results = {"recipe": dataclasses.asdict(finished), "accuracy": {}, "history": []}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "recipe.json").write_text(finished.changed(stop_epoch=None).to_json())
    words = ["zoo", "publish", str(tmp_path), "--to", str(tmp_path / "to"), "--name", "x", "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["command"] == (
        "hbnn train digits --workdir runs/digits --set width=0.0625 --set epochs=3 "
        "--set stop_epoch=1 --keep-decay"
    )
    assert "is of an earlier run (stop_epoch 1 there, None here)" in said.err


@pytest.mark.slow
def test_from_training_to_weights_by_name(nothing_published, tmp_path, monkeypatch, capsys):
    run, folder = str(tmp_path / "run"), str(tmp_path / "published")
    assert main(["train", "digits", "--workdir", run, "--set", "epochs=1"]) == 0
    assert main(["zoo", "publish", run, "--to", folder, "--json"]) == 0
    card = json.loads(capsys.readouterr().out.split("\n{", 1)[1].join(["{", ""]))
    assert card["command"].startswith("hbnn train digits --workdir runs/digits --set epochs=1")
    assert main(["zoo", "verify", "VGGSmall", "digits", "--from", folder]) == 0
    assert "as its card says" in capsys.readouterr().out
    monkeypatch.setenv(pretrained.BASE_VARIABLE, folder)
    assert zoo.VGGSmall(weights="digits").output_shape == (None, 10)

    # A card that claims more than the weights can do.
    registry = tmp_path / "published" / pretrained.REGISTRY
    content = json.loads(registry.read_text())
    content["weights"][0]["metrics"]["test_top1"] += 20
    registry.write_text(json.dumps(content))
    assert main(["zoo", "verify", "VGGSmall", "digits"]) == 1
    assert "but its card says" in capsys.readouterr().out
