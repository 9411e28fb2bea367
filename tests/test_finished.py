"""What is done with a finished run is done with its own classes, mean and scale."""

import json
from dataclasses import replace

import numpy as np
import pytest
from micro import micro_model

from hbnn_larq.training import data, run
from hbnn_larq.training.cli import main
from hbnn_larq.training.finished import dataset_of, finished_run
from hbnn_larq.training.recipe import Recipe

RECIPE = Recipe(
    name="tiny", source="a test", dataset="tiny", model="vgg_small", width=1 / 32,
    kernel_quantizer="ste_sign", epochs=1, batch_size=15, latent_decay=0.05, hold_out=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and its data."""
    dataset = data.generated((8, 8, 1), 3, train=35, validation=9, test=12, difficulty=0.2)
    # Means of one's own are often of another kind of number, which JSON does not take.
    dataset = replace(dataset, mean=(np.float32(128.0),))
    dataset = replace(dataset, validation=dataset.train.chosen(np.arange(0)))
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "build_model", micro_model)
        run.fit(RECIPE, folder, dataset=dataset, say=lambda _: None)
    return folder, dataset


@pytest.fixture
def at_hand(monkeypatch):
    """Makes a data set the one that is loaded, whatever its name."""

    def put(dataset):
        monkeypatch.setattr(data, "load", lambda *_, **__: dataset)

    return put


def looked_at(folder, name=None):
    lines = []
    return dataset_of(folder, RECIPE, name, say=lines.append), lines


def test_the_data_of_a_run_is_as_it_was_in_training(trained, at_hand):
    folder, dataset = trained
    at_hand(dataset)
    found, lines = looked_at(folder)
    assert lines == []
    assert found.fingerprint() == dataset.with_hold_out(5).fingerprint()
    assert len(found.validation) == 5


def test_other_images_are_seen_through_the_eyes_of_the_run(trained, at_hand):
    folder, dataset = trained
    brighter = data.generated((8, 8, 1), 3, train=20, validation=9, test=12, seed=8)
    at_hand(replace(brighter, mean=(100.0,), scale=(50.0,)))
    found, (line,) = looked_at(folder, "other")
    assert (found.mean, found.scale) == (dataset.mean, dataset.scale)
    assert "but other images, of which some may have been trained on" in line


def test_images_of_another_white_reach_the_network_as_those_of_the_run_do(trained, at_hand):
    """The same pictures, kept as fractions."""
    folder, dataset = trained
    images = dataset.test.images[:4]
    at_hand(
        replace(dataset, white=1.0, test=replace(dataset.test, images=dataset.test.images / 255))
    )
    found, _ = looked_at(folder)
    np.testing.assert_allclose(
        found.normalize(images / 255), dataset.normalize(images), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "names, said",
    [
        (("class 0", "class 2", "class 1"), "number 1 is 'class 1' there, 'class 2' here"),
        (("class 0", "class 1", "class 2", "more"), "3 there, 4 here"),
    ],
)
def test_other_classes_are_refused(trained, at_hand, capsys, names, said):
    folder, dataset = trained
    at_hand(replace(dataset, class_names=names, num_classes=len(names)))
    with pytest.raises(ValueError, match=rf"run on other classes than those of .*\({said}\)"):
        looked_at(folder)
    for words in (["evaluate"], ["report", str(folder / "none.tflite")]):
        assert main([*words[:1], str(folder), *words[1:]]) == 2
        assert said in capsys.readouterr().err


def test_a_run_of_an_earlier_version_takes_its_own_data_alone(trained, at_hand, tmp_path):
    folder, dataset = trained
    results = finished_run(folder)[1]
    del results["input"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    at_hand(dataset)
    assert looked_at(tmp_path)[0].mean == dataset.mean
    at_hand(replace(dataset, mean=(100.0,)))
    with pytest.raises(ValueError, match=r"holds a run on other data \(content"):
        looked_at(tmp_path)
