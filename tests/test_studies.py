"""Comparing and searching: the same budget for all, nothing trained twice, noise called noise."""

import json
import math

import numpy as np
import pytest
from micro import micro_model

from hbnn_larq.training import compare, data, repeats, run, search
from hbnn_larq.training.recipe import Recipe

TINY = Recipe(
    name="tiny", source="a test", dataset="tiny", model="vgg_small", kernel_quantizer="hyperbolic",
    epochs=2, batch_size=18, latent_decay=0.05, learning_rate=0.02,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return data.generated((8, 8, 1), 3, train=36, validation=30, test=30, difficulty=0.2)


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    def with_radius(recipe, image_shape, num_classes):
        return micro_model(recipe, image_shape, num_classes)

    monkeypatch.setattr(run, "build_model", with_radius)


@pytest.fixture
def trained(monkeypatch):
    """Names of the folders in which `fit` was called, in order."""
    folders = []
    fit = run.fit

    def noted(recipe, workdir, **arguments):
        folders.append(f"{workdir.parent.name}/{workdir.name}")
        return fit(recipe, workdir, **arguments)

    monkeypatch.setattr(run, "fit", noted)
    return folders


def silent(line):
    pass


def test_spread_and_paired_difference_against_numpy_and_a_textbook_value():
    values = [98.0, 97.0, 99.5]
    found = repeats.spread(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert str(found) == "98.17 ± 1.26" and str(repeats.spread([5.0])) == "5.00"
    # Differences 1, 2, 3: mean 2, s.e. 1/sqrt(3), Student's t at 2 degrees of freedom 4.303.
    difference = repeats.paired_difference([2, 4, 6], [1, 2, 3])
    assert difference.mean == 2
    assert difference.high - 2 == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert difference.within_noise and "within noise" in str(difference)
    assert not repeats.paired_difference([2.0, 2.1, 2.2], [1, 1, 1]).within_noise


def test_one_pair_is_never_beyond_noise():
    difference = repeats.paired_difference([2.0], [1.0])
    assert difference.within_noise and str(difference) == "+1.00 (one pair: no interval)"


@pytest.mark.parametrize(
    "words, kernel, inputs, r",
    [
        ("float", None, None, 0.05),
        ("ste_sign", "ste_sign", "approx_sign", 0.05),
        ("hyperbolic:r=0.5", "hyperbolic", "approx_sign", 0.5),
    ],
)
def test_methods_change_the_quantizer_and_the_fields_they_name(words, kernel, inputs, r):
    changed = compare.method(TINY, words)
    assert (changed.kernel_quantizer, changed.input_quantizer, changed.r) == (kernel, inputs, r)
    assert set(TINY.differences(changed)) <= {"kernel_quantizer", "input_quantizer", "r"}


def test_compare_trains_every_method_and_seed_once(tmp_path, tiny, trained):
    arguments = {"seeds": 2, "dataset": tiny, "say": silent}
    outcome = compare.compare(TINY, ["ste_sign", "float"], tmp_path, **arguments)
    expected = [f"{method}/seed-{seed}" for method in ("ste_sign", "float") for seed in (0, 1)]
    assert trained == expected
    assert [row["method"] for row in outcome["methods"]] == ["ste_sign", "float"]
    assert outcome == json.loads((tmp_path / "compare.json").read_text())
    for row in outcome["methods"]:
        for seed, value in enumerate(row["top1"]):
            folder = tmp_path / row["method"] / f"seed-{seed}"
            results = json.loads((folder / "results.json").read_text())
            assert results["accuracy"]["validation_top1"] == value
            assert results["steps"] == 4
    table = (tmp_path / "compare.md").read_text()
    assert "| ste_sign | " in table and "| reference |" in table
    assert (tmp_path / "compare.png").stat().st_size > 1000

    # One more method: what is there is read, not trained.
    compare.compare(TINY, ["ste_sign", "float", "approx_sign"], tmp_path, **arguments)
    assert trained == [*expected, "approx_sign/seed-0", "approx_sign/seed-1"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda d: compare.compare(TINY, ["float"], "x", dataset=d), "two or more different"),
        (lambda d: compare.compare(TINY, ["a", "a"], "x", dataset=d), "two or more different"),
        (lambda d: compare.compare(TINY, ["a", "b"], "x", dataset=d, split="train"), "split='tr"),
        (lambda d: compare.method(TINY, "epc:r"), r"method 'epc:r': write it as QUANTIZER or"),
        (lambda d: search.search(compare.method(TINY, "float"), "x"), "which has no r"),
        (lambda d: search.search(TINY, "x", tuner="best"), "one of grid, random, bayesian"),
        (lambda d: search.search(TINY, "x"), "give the radii to try"),
        (lambda d: search.search(TINY, "x", radii=[0.0, 1.0]), "r=0.0 must be a finite number"),
        (lambda d: search.search(TINY, "x", tuner="random", low=2, high=1), "low must be below"),
    ],
)
def test_bad_studies_are_named_before_anything_is_trained(tiny, trained, call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny)
    assert trained == []


def test_choosing_on_test_images_must_be_asked_for(tmp_path, tiny):
    bare = data.Dataset(**{**vars(tiny), "validation": tiny.train.chosen(np.arange(0))})
    with pytest.raises(ValueError, match=r"no validation split. Hold some training images out"):
        compare.compare(TINY, ["float", "ste_sign"], tmp_path, dataset=bare)
    with pytest.raises(ValueError, match="r must not be chosen on test images"):
        search.search(TINY, tmp_path, radii=[0.1, 1.0], dataset=bare)


pytest.importorskip("keras_tuner")


def test_killed_search_goes_on_and_ends_like_the_unbroken_one(tmp_path, tiny, trained, monkeypatch):
    arguments = {"radii": [5.0, 0.05], "seeds": 2, "dataset": tiny}
    whole = search.search(TINY, tmp_path / "whole", say=silent, **arguments)
    assert sorted(trained) == sorted(f"r-{r}/seed-{seed}" for r in ("0.05", "5") for seed in (0, 1))
    trained.clear()

    class Killed(BaseException):
        """Not an Exception, as a real kill is none."""

    def kill_in_third_run(line):
        if line.startswith("  epoch 1/2") and len(trained) == 3:
            raise Killed

    with pytest.raises(Killed):
        search.search(TINY, tmp_path / "broken", say=kill_in_third_run, **arguments)
    done = trained[:2]
    trained.clear()
    lines = []
    again = search.search(TINY, tmp_path / "broken", say=lines.append, **arguments)
    assert not set(done) & set(trained), "a finished run was trained again"
    assert len(trained) == 2
    assert again["rows"] == whole["rows"] and again["verdict"] == whole["verdict"]
    assert [row["r"] for row in again["rows"]] == [0.05, 5.0]
    assert (tmp_path / "broken" / "search.png").exists()
    assert "Verdict" in (tmp_path / "broken" / "search.md").read_text()


def test_random_search_draws_within_bounds_and_folder_is_for_one_search(tmp_path, tiny):
    arguments = {"tuner": "random", "trials": 2, "seeds": 1, "dataset": tiny, "say": silent}
    outcome = search.search(TINY, tmp_path, low=0.01, high=1.0, **arguments)
    radii = [row["r"] for row in outcome["rows"]]
    assert len(radii) == 2 and all(0.01 <= r <= 1.0 for r in radii)
    assert outcome["verdict"].startswith("one seed per r: no verdict")
    with pytest.raises(ValueError, match="holds a search with other settings"):
        search.search(TINY, tmp_path, low=0.01, high=2.0, **arguments)


def test_stopping_a_search_is_not_swallowed_by_the_tuner(tmp_path, tiny, monkeypatch):
    def stop(*_, **__):
        raise run.Stopped("stopped after step 3")

    monkeypatch.setattr(run, "fit", stop)
    with pytest.raises(run.Stopped, match="stopped after step 3"):
        search.search(TINY, tmp_path, radii=[0.1, 1.0], dataset=tiny, say=silent)
