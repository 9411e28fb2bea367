"""Files of a run that were damaged, or edited by hand: named with the way out by every reader."""

import json

import pytest

from hbnn_larq.training import search
from hbnn_larq.training.cli import main
from hbnn_larq.training.finished import finished_run
from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.saved_json import read_object
from hbnn_larq.zoo.publish import publish

TINY = Recipe(name="tiny", source="a test", dataset="generated-8x8x1-3", model="vgg_small")
WAY_OUT = "Remove the file and run the command that wrote it again."
NO_OBJECT = {
    "empty": (b"", "Expecting value: line 1 column 1 (char 0)"),
    "cut": (b'{"recipe": {', "Expecting property name"),
    "list": (b"[]", "it holds no JSON object"),
    "number": (b"3", "it holds no JSON object"),
    "latin-1": ('{"name": "größe"}'.encode("latin-1"), "'utf-8' codec can't decode byte 0xf6"),
    "deep": (b"[" * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("case", NO_OBJECT)
def test_what_is_no_object_is_named(tmp_path, case):
    content, reason = NO_OBJECT[case]
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_object(path)
    said = str(error.value)
    assert said.startswith(f"{path} is damaged ({reason}") and said.endswith(f"). {WAY_OUT}")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_bytes(b"\xef\xbb\xbf" + TINY.to_json().encode())
    assert Recipe.read(path) == TINY


@pytest.mark.parametrize(
    "change, reason",
    [
        ('{"epochs": Infinity}', "epochs=inf: expected a whole number."),
        ('{"epochs": 1e999}', "epochs=inf: expected a whole number."),
        (f'{{"r": 1{"0" * 400}}}', "expected a number."),
        ('{"latent_decay": NaN}', "latent_decay=nan must be a number, 0 or above."),
        ('{"colour": 1}', 'a recipe has no field "colour".'),
    ],
)
def test_a_recipe_that_does_not_hold_is_named_with_its_file(tmp_path, change, reason):
    path = tmp_path / "recipe.json"
    content = json.dumps({**json.loads(TINY.to_json()), "MARK": 0})
    path.write_text(content.replace('"MARK": 0', change[1:-1]))
    with pytest.raises(ValueError) as error:
        Recipe.read(path)
    assert str(error.value).startswith(f"{path}: ") and reason in str(error.value)
    assert str(error.value).endswith(WAY_OUT)


@pytest.mark.parametrize("lost", ["recipe", "accuracy", "history"])
def test_results_without_a_part_are_named(tmp_path, lost):
    results = {"recipe": json.loads(TINY.to_json()), "accuracy": {}, "history": []}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert finished_run(tmp_path) == (TINY, results)
    for content in ({k: v for k, v in results.items() if k != lost}, {**results, lost: 3}):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError) as error:
            finished_run(tmp_path)
        assert str(error.value) == f"{path} is damaged (no {lost} in it). {WAY_OUT}"


SEEN = {"class_names": ["a", "b"], "mean": [0.5], "scale": [2.0], "white": 255.0}


@pytest.mark.parametrize(
    "part, spoilt",
    [
        ("input", [1]),
        ("input", {key: SEEN[key] for key in ("mean", "scale", "white")}),
        ("input", {**SEEN, "white": 0}),
        ("input", {**SEEN, "mean": ["a"]}),
        ("input", {**SEEN, "mean": [0.5, 0.5]}),
        ("input", {**SEEN, "scale": [float("nan")]}),
        ("data", "x"),
        ("data", {}),
        ("flips", "x"),
        ("flips", {"measured_per_step": 0.1}),
        ("findings", [{"colour": 1}]),
        ("images", {}),
        ("images", 3),
        ("history", [{}]),
        ("history", [3]),
        ("versions", "x"),
    ],
)
def test_results_with_a_spoilt_part_are_named(tmp_path, part, spoilt):
    """Not with the error of whoever reads it first; an earlier version lacked some."""
    finding = {"code": "starved", "where": "conv", "message": "stands still", "fix": "more decay"}
    results = {
        "recipe": json.loads(TINY.to_json()), "accuracy": {}, "history": [{"loss": 1.0}],
        "images": {"train": 3}, "data": {"content": "abc"}, "input": SEEN, "findings": [finding],
        "flips": {"predicted_per_step": 0.1, "measured_per_step": 0.1}, "versions": {},
    }  # fmt: skip
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert finished_run(tmp_path) == (TINY, results)
    path.write_text(json.dumps({**results, part: spoilt}))
    with pytest.raises(ValueError) as error:
        finished_run(tmp_path)
    assert str(error.value) == f"{path} is damaged (no {part} in it). {WAY_OUT}"


@pytest.mark.parametrize("name", ["recipe.json", "results.json"])
@pytest.mark.parametrize(
    "words", [["evaluate"], ["plot"], ["plot", "--surface", "line"], ["doctor"], ["convert"]]
)
def test_commands_say_which_file_is_damaged(capsys, tmp_path, name, words):
    (tmp_path / "recipe.json").write_text(TINY.to_json())
    (tmp_path / "model.keras").write_text("looked at later")
    (tmp_path / name).write_text("[]")
    if words == ["convert"]:
        words = ["convert", "-o", str(tmp_path / "x.tflite")]
    if name == "results.json" and words[0] in ("convert", "doctor"):
        pytest.skip("reads no results before the model")
    code = main([words[0], str(tmp_path), *words[1:]])
    assert code == 2
    assert capsys.readouterr().err == (
        f"hbnn: {tmp_path / name} is damaged (it holds no JSON object). {WAY_OUT}\n"
    )


def test_publish_from_python_names_damaged_results(tmp_path):
    (tmp_path / "model.keras").write_text("looked at later")
    path = tmp_path / "results.json"
    for content, reason in (("[]", "it holds no JSON object"), ("{}", "no recipe in it")):
        path.write_text(content)
        with pytest.raises(ValueError) as error:
            publish(tmp_path, tmp_path / "mirror")
        assert str(error.value) == f"{path} is damaged ({reason}). {WAY_OUT}"
    assert not (tmp_path / "mirror").exists()


def test_train_names_a_damaged_recipe(capsys, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.npz").write_bytes(b"")
    (tmp_path / "recipe.json").write_text("{}")
    code = main(["train", "digits", "--workdir", str(tmp_path)])
    assert code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"hbnn: {tmp_path / 'recipe.json'}: not a recipe: name, source, ")
    assert err.endswith(f"{WAY_OUT}\n") and err.count("\n") == 1


def test_a_search_names_its_damaged_settings(tmp_path):
    run = tmp_path / "runs" / "hyperbolic" / "r-1" / "seed-0"
    run.mkdir(parents=True)
    (run / "recipe.json").write_text(TINY.to_json())
    path = tmp_path / "settings.json"
    for content, said in (("[]", f"{path} is damaged"), ("{}", f"{path}: not a recipe: name")):
        path.write_text(content)
        with pytest.raises(ValueError) as error:
            search._claim(tmp_path, TINY, {}, {})
        assert str(error.value).startswith(said) and str(error.value).endswith(WAY_OUT)
