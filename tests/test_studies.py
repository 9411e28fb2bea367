"""Comparing and searching: the same budget for all, nothing trained twice, noise called noise."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from micro import micro_model

from hbnn_larq import files
from hbnn_larq.callbacks import binary_kernels
from hbnn_larq.training import (
    compare,
    data,
    models,
    repeats,
    run,
    search,
    search_report,
)
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
    # Of ten such intervals all hold with 95 %: t at 0.9975 and 2 degrees of freedom is 14.09.
    wide = repeats.paired_difference([2, 4, 6], [1, 2, 3], comparisons=10)
    assert wide.high - 2 == pytest.approx(14.089 / math.sqrt(3), rel=1e-3)


def test_one_pair_is_never_beyond_noise():
    difference = repeats.paired_difference([2.0], [1.0])
    assert (
        difference.within_noise and str(difference) == "+1.00 (no interval: one pair, or all alike)"
    )


def test_equal_differences_are_a_coincidence_and_no_certainty():
    """Accuracies are counts of images, so that a few of them often differ by the same."""
    images = 270
    first, other = ([100 * n / images for n in hits] for hits in ((250, 262), (247, 259)))
    difference = repeats.paired_difference(first, other)
    assert difference.within_noise and math.isnan(difference.low)
    verdict = search_report._verdict(of_one_r({"hyperbolic": {1.0: first, 2.0: other}}), None, 2)
    assert verdict.endswith("every difference is within noise")
    scores = of_one_r({"hyperbolic": {1.0: first}, "hyperbolic_boundary": {1.0: other}})
    assert search_report._verdict(scores, None, 2).endswith(
        "boundary and ball do not differ beyond noise (-1.11 points, too few seeds for an interval,"
        " over 1 values of r)"
    )
    three = [*first, 2.0], [*other, 2 - 100 * 3 / 270]
    assert math.isnan(repeats.paired_difference(*three, comparisons=15).low)
    scores = of_one_r({"hyperbolic": dict(zip((1.0, 2.0), three, strict=True))})
    assert search_report._verdict(scores, None, 3).endswith("every difference is within noise")


def test_settings_that_are_one_are_seldom_told_apart_on_few_images(rng):
    """Six settings, three seeds, 270 images of which 99 % are right: the promise is 5 %."""
    wrong = 0
    for _ in range(200):
        scores = 100 * rng.binomial(270, 0.99, (6, 3)) / 270
        variants = {"hyperbolic": dict(enumerate(scores.tolist(), 1))}
        verdict = search_report._verdict(of_one_r(variants), None, 3)
        wrong += not verdict.endswith("every difference is within noise")
    assert wrong <= 10


def test_a_comparison_without_interval_is_json_still(tmp_path, tiny, monkeypatch):
    def constant(recipe, workdir, **_):
        top1 = 90.0 + recipe.seed + (recipe.kernel_quantizer is None)
        return {"accuracy": {"validation_top1": top1}, "flips": None, "seconds": 1.0}

    monkeypatch.setattr(run, "fit", constant)
    compare.compare(TINY, ["ste_sign", "float"], tmp_path, seeds=2, dataset=tiny, say=silent)

    def refuse(word):
        raise ValueError(word)

    outcome = json.loads((tmp_path / "compare.json").read_text(), parse_constant=refuse)
    assert outcome["methods"][1]["difference"] == {
        "mean": 1.0, "low": None, "high": None, "within_noise": True,
    }  # fmt: skip


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


@pytest.mark.parametrize(
    "words, activation, own",
    [
        ("recu", "approx_sign", "recu_sign"),
        ("irnet+hyperbolic:r=1", "ste_sign", "ede_sign"),
        ("rbnn", "approx_sign", "rbnn_sign"),
        ("fda", "approx_sign", "fourier_sign"),
        ("rbnn", "rbnn_sign", None),
        ("recu:input_quantizer=ste_sign", "approx_sign", None),  # as somebody asked
        ("recu", None, None),
        ("slb", "approx_sign", None),
        ("hyperbolic", "approx_sign", None),
    ],
)
def test_a_kernel_without_the_activation_it_was_published_with_is_named(words, activation, own):
    recipe = TINY.changed(input_quantizer=activation)
    remark = compare._not_as_published(words, compare.method(recipe, words))
    if own is None:
        assert remark is None
    else:
        assert remark == (
            f"{words}: its kernel alone, with the recipe's activation {activation}; as published "
            f"it is {words}:input_quantizer={own}"
        )


def test_compare_says_so_before_it_trains(tmp_path, tiny, trained):
    said = []

    def say(line):
        said.append((line, len(trained)))

    compare.compare(TINY, ["ste_sign", "recu"], tmp_path, seeds=2, dataset=tiny, say=say)
    remark = compare._not_as_published("recu", compare.method(TINY, "recu"))
    assert said[0] == (remark, 0) and len(trained) == 4
    assert [line for line, _ in said].count(remark) == 1


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


@pytest.mark.parametrize("first", [True, False])
def test_a_method_that_diverges_does_not_end_the_others(tmp_path, tiny, monkeypatch, first):
    def constant(recipe, workdir, **_):
        if recipe.kernel_quantizer is None and recipe.seed == 1:
            raise FloatingPointError("step 1: loss nan")
        return {
            "accuracy": {"validation_top1": 90.0 + recipe.seed**2},
            "flips": {"measured_per_step": 0.01},
            "seconds": 1.0,
        }

    monkeypatch.setattr(run, "fit", constant)
    methods = ["ste_sign", "float", "hyperbolic"]
    if first:
        methods = ["float", "ste_sign", "hyperbolic"]
    said = []
    outcome = compare.compare(TINY, methods, tmp_path, seeds=2, dataset=tiny, say=said.append)
    assert "float: diverged (step 1: loss nan)" in said
    rows = {row["method"]: row for row in outcome["methods"]}
    assert list(rows) == methods
    assert (rows["float"]["top1"], rows["float"]["text"]) == ([], "diverged")
    assert rows["hyperbolic"]["top1"] == [90.0, 91.0]
    assert (rows["hyperbolic"]["difference"] is None) == first
    assert json.loads((tmp_path / "compare.json").read_text()) == outcome
    wanted = (
        "| float | diverged | reference | - | - |" if first else "| float | diverged | - | - | - |"
    )
    assert wanted in (tmp_path / "compare.md").read_text()
    assert (tmp_path / "compare.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda d: compare.compare(TINY, ["float"], "x", dataset=d), "two or more different"),
        (lambda d: compare.compare(TINY, ["a", "a"], "x", dataset=d), "two or more different"),
        (lambda d: compare.compare(TINY, ["a", "b"], "x", dataset=d, split="train"), "split='tr"),
        (lambda d: compare.method(TINY, "epc:r"), r"method 'epc:r': write it as QUANTIZER or"),
        (lambda d: search.search(compare.method(TINY, "float"), "x"), "which has no r"),
        (
            lambda d: search.search(TINY, "x", tuner="best"),
            "grid, random, bayesian, hyperband",
        ),
        (lambda d: search.search(TINY, "x"), "give the radii to try"),
        (lambda d: search.search(TINY, "x", radii=[0.0, 1.0]), "r=0.0 must be a finite number"),
        (lambda d: search.search(TINY, "x", tuner="random", low=2, high=1), "low must be below"),
        (lambda d: search.search(TINY, "x", tuner="random", trials=0), r"trials=0\): how many"),
        (lambda d: search.search(TINY, "x", radii=[1.0], variants=["float"]), "different ones of"),
        (lambda d: search.search(TINY, "x", radii=[1.0], variants=["epc"] * 2), "different ones"),
    ],
)
def test_bad_studies_are_named_before_anything_is_trained(tiny, trained, call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny)
    assert trained == []


def test_a_misspelt_method_shows_before_the_others_have_run(tmp_path, tiny, trained):
    with pytest.raises(ValueError, match="foo"):
        compare.compare(TINY, ["ste_sign", "foo"], tmp_path, dataset=tiny, say=silent)
    assert trained == [] and list(tmp_path.iterdir()) == []


def test_choosing_on_test_images_must_be_asked_for(tmp_path, tiny):
    bare = data.Dataset(**{**vars(tiny), "validation": tiny.train.chosen(np.arange(0))})
    with pytest.raises(ValueError, match=r"no validation split. Hold some training images out"):
        compare.compare(TINY, ["float", "ste_sign"], tmp_path, dataset=bare)
    with pytest.raises(ValueError, match="r must not be chosen on test images"):
        search.search(TINY, tmp_path, radii=[0.1, 1.0], dataset=bare)


keras_tuner = pytest.importorskip("keras_tuner")


def test_killed_search_goes_on_and_ends_like_the_unbroken_one(tmp_path, tiny, trained):
    arguments = {"radii": [5.0, 0.05], "seeds": 2, "dataset": tiny}
    whole = search.search(TINY, tmp_path / "whole", say=silent, **arguments)
    assert sorted(trained) == sorted(f"r-{r}/seed-{seed}" for r in ("0.05", "5") for seed in (0, 1))
    trained.clear()

    def kill_in_third_run(line):
        if line.startswith("  epoch 1/2") and len(trained) == 3:
            raise Killed

    with pytest.raises(Killed):
        search.search(TINY, tmp_path / "broken", say=kill_in_third_run, **arguments)
    done = trained[:2]
    trained.clear()
    again = search.search(TINY, tmp_path / "broken", say=silent, **arguments)
    assert not set(done) & set(trained), "a finished run was trained again"
    assert len(trained) == 2
    assert again["rows"] == whole["rows"] and again["verdict"] == whole["verdict"]
    assert [row["r"] for row in again["rows"]] == [0.05, 5.0]
    assert (tmp_path / "broken" / "search.png").exists()
    assert "Verdict" in (tmp_path / "broken" / "search.md").read_text()


class Killed(BaseException):
    """Not an Exception, as a real kill is none."""


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("in the first trial", marks=pytest.mark.slow),
        "in the second",
        pytest.param("between two", marks=pytest.mark.slow),
    ],
)
def test_a_grid_killed_with_trials_to_come_tries_them_all(
    tmp_path, tiny, trained, monkeypatch, moment
):
    arguments = {"radii": [5.0, 0.05, 0.5], "seeds": 1, "dataset": tiny}

    def kill(line):
        if line.startswith("  epoch 2/2") and len(trained) == 1 + ("second" in moment):
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "between two":
            calls = []
            create = keras_tuner.Oracle.create_trial

            def killed_before_the_second(oracle, tuner_id):
                calls.append(tuner_id)
                if len(calls) == 2:
                    raise Killed
                return create(oracle, tuner_id)

            patch.setattr(keras_tuner.Oracle, "create_trial", killed_before_the_second)
            kill = silent
        search.search(TINY, tmp_path, say=kill, **arguments)
    outcome = search.search(TINY, tmp_path, say=silent, **arguments)
    assert [row["r"] for row in outcome["rows"]] == [0.05, 0.5, 5.0]
    assert len(set(trained)) == 3 and len(trained) == (3 if moment == "between two" else 4)


def test_a_kill_cannot_leave_half_a_state_file(tmp_path, tiny, monkeypatch):
    """keras-tuner empties its files before it writes them anew."""
    whole, write = set(), files.write
    monkeypatch.setattr(
        files, "write", lambda path, content: (whole.add(Path(path)), write(path, content))
    )
    search.search(TINY, tmp_path, radii=[0.1, 1.0], seeds=1, dataset=tiny, say=silent)
    assert set((tmp_path / "tuner").rglob("*.json")) <= whole
    assert len(list((tmp_path / "tuner").rglob("*.json"))) == 4  # oracle, tuner, two trials


@pytest.mark.parametrize(
    "changes",
    [
        {"radii": [0.1, 5.0]},
        pytest.param({"tuner": "random", "trials": 1}, marks=pytest.mark.slow),
        pytest.param({"variants": ["hyperbolic_boundary"]}, marks=pytest.mark.slow),
    ],
)
def test_a_search_without_its_settings_answers_what_it_is_asked(tmp_path, tiny, trained, changes):
    """Removing them is what one is told to do where they are damaged; the runs are kept."""
    arguments = {"radii": [0.1, 1.0], "seeds": 1, "dataset": tiny, "say": silent}
    recipe = TINY.changed(epochs=1)
    before = search.search(recipe, tmp_path, **arguments)
    (tmp_path / "settings.json").unlink()
    assert search.search(recipe, tmp_path, **arguments) == before and len(trained) == 2
    (tmp_path / "settings.json").unlink()
    outcome = search.search(recipe, tmp_path, **{**arguments, **changes})
    assert outcome["variants"] == changes.get("variants", ["hyperbolic"])
    asked = changes.get("radii", [0.1, 1.0])
    assert {row["r"] for row in outcome["rows"]} <= set(asked)
    assert len(outcome["rows"]) == changes.get("trials", 2)


def test_damaged_state_of_the_tuner_is_named_with_the_way_out(tmp_path, tiny, trained):
    arguments = {"radii": [0.1, 1.0], "seeds": 1, "dataset": tiny, "say": silent}
    recipe = TINY.changed(epochs=1)
    before = search.search(recipe, tmp_path, **arguments)
    tuner = tmp_path / "tuner"
    whole = {path: path.read_bytes() for path in tuner.rglob("*.json")}
    assert len(whole) == 4
    for path in whole:
        for spoilt in (b"", b"[]", whole[path][:-9], None):
            path.unlink() if spoilt is None else path.write_bytes(spoilt)
            try:
                found = search.search(recipe, tmp_path, **arguments)
            except ValueError as error:
                assert str(error).startswith(f"{tuner} is damaged (")
                assert str(error).endswith(
                    "Remove that folder and run the same command again: finished runs are kept."
                )
            else:  # it was not needed
                assert found == before
            for other, content in whole.items():
                other.write_bytes(content)
    shutil.rmtree(tuner)
    assert search.search(recipe, tmp_path, **arguments) == before and len(trained) == 2


@pytest.mark.slow
def test_one_search_gives_the_table_of_ball_and_boundary(tmp_path, tiny, trained):
    outcome = search.search(
        TINY, tmp_path, radii=[1.0, 0.1], seeds=2, dataset=tiny, say=silent,
        variants=["hyperbolic", "hyperbolic_boundary"],
    )  # fmt: skip
    assert len(trained) == len(set(trained)) * 2 == 8  # the same folders under each variant
    for row in outcome["rows"]:
        for variant, cell in row["accuracy"].items():
            for seed, value in enumerate(cell["top1"]):
                folder = tmp_path / "runs" / variant / f"r-{row['r']:g}" / f"seed-{seed}"
                results = json.loads((folder / "results.json").read_text())
                assert results["accuracy"]["validation_top1"] == value
                recipe = results["recipe"]
                assert (recipe["r"], recipe["kernel_quantizer"]) == (row["r"], variant)
    lines = (tmp_path / "search.md").read_text().splitlines()
    assert lines[0] == (
        "tiny: validation top-1 (%), mean ± std over 2 seeds, 2 epochs; 30 images, so one image "
        "is 3.3 points."
    )
    assert lines[2] == "| r | ball | boundary |"
    cells = [outcome["rows"][0]["accuracy"][variant]["text"] for variant in outcome["variants"]]
    assert lines[4] == f"| 0.1 | {cells[0]} | {cells[1]} |"
    assert lines[-1].startswith("Verdict (paired by seed, 95 % intervals): ball: r=")
    assert "boundary and ball " in lines[-1] and "over 2 values of r" in lines[-1]
    assert (tmp_path / "search.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "scores, expected",
    [
        (
            {"hyperbolic": {0.1: [90, 92, 91], 1.0: [91, 90, 92.5]}},
            "ball: r=1 has the highest mean, but every difference is within noise",
        ),
        (
            {"hyperbolic": {0.1: [80, 81, 82], 1.0: [90, 91.1, 92], 5.0: [90, 91, 91.9]}},
            "ball: r=1 has the highest mean; only r=0.1 is worse beyond noise",
        ),
        (
            {"hyperbolic": {1.0: [90, 91, 92]}, "hyperbolic_boundary": {1.0: [80, 81, 82.1]}},
            "ball: r=1 alone was trained to the end; boundary: r=1 alone was trained to the end; "
            "boundary and ball differ (-9.97 points [-10.11, -9.82] over 1 values of r)",
        ),
        (
            {"hyperbolic": {1.0: [90, 91, 92]}, "hyperbolic_boundary": {1.0: [91, 90, 92]}},
            "ball: r=1 alone was trained to the end; boundary: r=1 alone was trained to the end; "
            "boundary and ball do not differ beyond noise (+0.00 points [-2.48, +2.48] over 1 "
            "values of r)",
        ),
    ],
)
def test_verdicts_call_noise_noise(scores, expected):
    keyed = {v: {(r,): values for r, values in of.items()} for v, of in scores.items()}
    assert search_report._verdict(keyed, None, 3) == expected


def of_one_r(scores):
    return {v: {(r,): values for r, values in of.items()} for v, of in scores.items()}


def test_variants_are_compared_seed_by_seed_however_many_r_there_are():
    """Runs of one seed at several r share that seed, so they are no pairs of their own."""
    ball = {r: [90.0, 90.0, 90.0] for r in (0.1, 1.0, 5.0)}
    boundary = {r: [91.0 + r / 100, 92.0, 93.0] for r in ball}
    verdict = search_report._verdict(
        of_one_r({"hyperbolic": ball, "hyperbolic_boundary": boundary}), None, 3
    )
    # Means over r: 1.0203, 2, 3. Student's t at 2 degrees of freedom is 4.303.
    means = [1 + 6.1 / 300, 2, 3]
    half = 4.303 * np.std(means, ddof=1) / math.sqrt(3)
    low, high = np.mean(means) - half, np.mean(means) + half
    assert f"do not differ beyond noise ({np.mean(means):+.2f} points [{low:+.2f}, " in verdict
    assert f"{high:+.2f}] over 3 values of r)" in verdict
    # With a third variant there are two such intervals: t at 0.9875 is 6.205.
    scores = {"hyperbolic": ball, "hyperbolic_boundary": boundary, "epc": ball}
    verdict = search_report._verdict(of_one_r(scores), None, 3)
    half *= 6.205 / 4.303
    assert f"[{np.mean(means) - half:+.2f}, {np.mean(means) + half:+.2f}] over 3" in verdict


@pytest.mark.parametrize("values, seeds", [(3, 3), (3, 5), (6, 3), (6, 5)])
def test_where_r_has_no_effect_a_verdict_rarely_names_one(values, seeds):
    """The best is picked before it is compared, so every pair of values counts as a comparison.

    Of 100,000 studies, 4.0 %, 4.2 %, 2.7 % and 3.2 % name one, in the order above; with one
    comparison for each of the others it was 5.9 %, 6.2 %, 7.5 % and 8.8 %.
    """
    rng, studies, named = np.random.default_rng(7), 2000, 0
    for _ in range(studies):
        scores = {float(r): list(rng.normal(90, 1, seeds)) for r in range(1, values + 1)}
        verdict = search_report._verdict(of_one_r({"hyperbolic": scores}), None, seeds)
        named += "worse beyond noise" in verdict
    # 5 % and three standard deviations of such a count, as no more than 5 % is promised.
    assert named / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert named > 0


def test_a_diverging_r_is_shown_and_the_others_are_tried(tmp_path, tiny, monkeypatch):
    fit, tried = run.fit, []

    def diverging(recipe, workdir, **arguments):
        tried.append((recipe.r, recipe.seed))
        if recipe.r > 0.5 and recipe.seed == 1:
            raise FloatingPointError("step 3: loss nan is not finite")
        return fit(recipe, workdir, **arguments)

    monkeypatch.setattr(run, "fit", diverging)
    lines = []
    arguments = {"radii": [0.1, 1.0, 5.0], "seeds": 2, "dataset": tiny}
    outcome = search.search(TINY, tmp_path, say=lines.append, **arguments)
    assert [row["r"] for row in outcome["rows"]] == arguments["radii"]
    cells = [row["accuracy"]["hyperbolic"] for row in outcome["rows"]]
    assert cells[0]["mean"] == pytest.approx(np.mean(cells[0]["top1"]))
    for cell in cells[1:]:
        assert cell == {"epochs": 2, "top1": None, "mean": None, "std": None, "text": "diverged"}
    assert outcome["best_r"] == {"hyperbolic": 0.1}
    assert outcome["verdict"] == (
        "ball: r=0.1 alone was trained to the end; ball: r=1, r=5 diverged"
    )
    assert "| 5 | diverged |" in (tmp_path / "search.md").read_text()
    said = "hyperbolic r=5: diverged (step 3: loss nan is not finite)"
    assert said in lines
    before = len(tried)
    assert search.search(TINY, tmp_path, say=silent, **arguments) == outcome
    assert len(tried) == before, "what diverged was trained again"


def test_where_every_r_diverges_the_report_says_so(tmp_path, tiny, monkeypatch):
    def diverging(*_, **__):
        raise FloatingPointError("step 3: loss nan is not finite")

    monkeypatch.setattr(run, "fit", diverging)
    outcome = search.search(TINY, tmp_path, radii=[0.1, 1.0], seeds=2, dataset=tiny, say=silent)
    assert outcome["verdict"] == "no r was trained to the end; ball: r=0.1, r=1 diverged"
    assert outcome["best_r"] == {}
    assert "| 1 | diverged |" in (tmp_path / "search.md").read_text()


@pytest.mark.parametrize(
    "recipe, settings, message",
    [
        (TINY, {"seeds": 0}, r"seeds=0: how many runs of each"),
        (TINY.changed(batch_size=5000), {}, r"batch_size=5000: .* has 36 training images"),
        (TINY.changed(hold_out=5000), {}, r"hold_out=5000"),
    ],
)
def test_a_mistake_does_not_lock_the_folder_of_a_search(tmp_path, tiny, recipe, settings, message):
    arguments = {"radii": [0.1], "seeds": 1, "dataset": tiny, "say": silent}
    with pytest.raises(ValueError, match=message):
        search.search(recipe, tmp_path / "search", **{**arguments, **settings})
    assert not (tmp_path / "search").exists()


def test_a_search_that_trained_nothing_is_in_nobodys_way(tmp_path, tiny, monkeypatch):
    def stop(*_, **__):
        raise run.Stopped("before the first step")

    arguments = {"seeds": 1, "dataset": tiny, "say": silent}
    with monkeypatch.context() as patch, pytest.raises(run.Stopped):
        patch.setattr(run, "fit", stop)
        search.search(TINY, tmp_path, radii=[0.1, 1.0], **arguments)
    # Trials of that search would be taken for trials of this one, if they stayed.
    outcome = search.search(TINY, tmp_path, radii=[0.5], **arguments)
    assert [row["r"] for row in outcome["rows"]] == [0.5]
    with pytest.raises(ValueError, match=r"holds a search with other settings \(radii "):
        search.search(TINY, tmp_path, radii=[0.1, 1.0], **arguments)


@pytest.mark.slow
def test_hyperband_goes_on_from_what_it_stopped_and_survives_a_kill(tmp_path, tiny, trained):
    recipe = TINY.changed(epochs=3)
    arguments = {"tuner": "hyperband", "seeds": 1, "dataset": tiny, "low": 0.01, "high": 1.0}
    lines = []
    whole = search.search(recipe, tmp_path / "whole", say=lines.append, **arguments)
    resumed = [line for line in lines if line.startswith("  resumed from step 2 of 6")]
    assert resumed, "a promoted trial did not go on from its checkpoint"
    epochs = {row["r"]: row["accuracy"]["hyperbolic"]["epochs"] for row in whole["rows"]}
    assert set(epochs.values()) == {1, 3}
    table = (tmp_path / "whole" / "search.md").read_text()
    assert "(stopped at epoch 1)" in table
    # One epoch of a run is one epoch, whoever was promoted later.
    begun = [line for line in lines if line.startswith("  epoch 1/")]
    assert len(begun) == len(epochs) and len(set(trained)) == len(epochs)
    trained.clear()

    def kill_in_fifth_run(line):
        if line.startswith("  epoch 1/") and len(trained) == 5:
            raise Killed

    with pytest.raises(Killed):
        search.search(recipe, tmp_path / "broken", say=kill_in_fifth_run, **arguments)
    again = search.search(recipe, tmp_path / "broken", say=silent, **arguments)
    assert again["rows"] == whole["rows"]


@pytest.mark.slow
def test_each_layer_gets_its_own_r(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(run, "build_model", models.build_model)
    recipe = TINY.changed(width=1 / 16, epochs=1)
    big = data.generated((16, 16, 1), 3, train=36, validation=30, test=30, difficulty=0.2)
    outcome = search.search(
        recipe, tmp_path, tuner="random", trials=2, seeds=1, per_layer=True, dataset=big, say=silent
    )
    model = models.build_model(recipe, big.image_shape, 3)
    layers = list(binary_kernels(model))
    assert len(layers) == 5
    for row in outcome["rows"]:
        assert list(row["r"]) == layers and len(set(row["r"].values())) == 5
    state = json.loads((tmp_path / "tuner" / "oracle.json").read_text())
    names = [each["config"]["name"] for each in state["hyperparameters"]["space"]]
    assert names == [f"r/{layer}" for layer in layers]
    (folder, _) = sorted((tmp_path / "runs" / "hyperbolic").glob("layers-*/seed-0"))
    results = json.loads((folder / "results.json").read_text())
    saved = tf.keras.models.load_model(folder / "model.keras", compile=False)
    got = {layer: saved.get_layer(layer).kernel_quantizer.r for layer in layers}
    assert got in [row["r"] for row in outcome["rows"]]
    assert tuple(got.values()) == Recipe.from_json(json.dumps(results["recipe"])).layer_radii
    assert f"Layers, in this order: {', '.join(layers)}." in (tmp_path / "search.md").read_text()
    with pytest.raises(ValueError, match=r"6 radii on each of 5 layers are 7,776 trials"):
        search.search(recipe, tmp_path, radii=[1, 2, 3, 4, 5, 6], per_layer=True, dataset=big)


def test_random_search_draws_within_bounds_and_folder_is_for_one_search(tmp_path, tiny):
    arguments = {"tuner": "random", "trials": 2, "seeds": 1, "dataset": tiny, "say": silent}
    outcome = search.search(TINY, tmp_path, low=0.01, high=1.0, **arguments)
    radii = [row["r"] for row in outcome["rows"]]
    assert len(radii) == 2 and all(0.01 <= r <= 1.0 for r in radii)
    assert outcome["verdict"].startswith("one seed per r: no verdict")
    with pytest.raises(ValueError, match=r"holds a search with other settings \(\w+ "):
        search.search(TINY, tmp_path, low=0.01, high=2.0, **arguments)


def test_a_search_says_nothing_on_standard_output_by_itself(tmp_path, tiny, capsys):
    for _ in range(2):  # the second time keras-tuner reloads its state and would say so
        search.search(TINY, tmp_path, radii=[0.1], seeds=1, dataset=tiny, say=silent)
    assert capsys.readouterr().out == ""


def test_stopping_a_search_is_not_swallowed_by_the_tuner(tmp_path, tiny, monkeypatch):
    def stop(*_, **__):
        raise run.Stopped("stopped after step 3")

    monkeypatch.setattr(run, "fit", stop)
    with pytest.raises(run.Stopped, match="stopped after step 3"):
        search.search(TINY, tmp_path, radii=[0.1, 1.0], dataset=tiny, say=silent)


@pytest.fixture(scope="module")
def others():
    """As many images of the same shape and classes, but others."""
    return data.generated((8, 8, 1), 3, train=36, validation=30, test=30, difficulty=0.2, seed=8)


def test_what_was_compared_on_other_data_is_no_answer(tmp_path, tiny, others):
    arguments = {"seeds": 1, "say": silent}
    before = compare.compare(TINY, ["ste_sign", "float"], tmp_path, dataset=tiny, **arguments)
    with pytest.raises(ValueError, match=r"ste_sign.seed-0 holds a run on other data \(content "):
        compare.compare(TINY, ["ste_sign", "float"], tmp_path, dataset=others, **arguments)
    assert before == json.loads((tmp_path / "compare.json").read_text())
    for path in tmp_path.glob("*/seed-0/results.json"):  # as an earlier version wrote them
        results = json.loads(path.read_text())
        del results["data"]
        path.write_text(json.dumps(results))
    assert compare.compare(TINY, ["ste_sign", "float"], tmp_path, dataset=others, **arguments)


def test_a_search_does_not_go_on_with_other_data(tmp_path, tiny, others):
    arguments = {"radii": [0.1], "seeds": 1, "say": silent}
    search.search(TINY, tmp_path, dataset=tiny, **arguments)
    with pytest.raises(ValueError, match=r"holds a search on other data \(content "):
        search.search(TINY, tmp_path, dataset=others, **arguments)
    settings = json.loads((tmp_path / "settings.json").read_text())
    del settings["data"]  # as an earlier version wrote them
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    search.search(TINY, tmp_path, dataset=tiny, **arguments)


def test_an_r_for_all_layers_replaces_one_for_each():
    layered = TINY.changed(layer_r="0.1,0.2")
    assert layered.changed(r=0.5).layer_radii is None
    assert layered.changed(r=TINY.r).layer_radii is None  # also where r itself stays
    assert compare.method(layered, "hyperbolic:r=0.5").layer_radii is None
    assert search.Point("hyperbolic", (0.5,)).applied_to(layered).layer_radii is None
    # Whoever names both, or neither, keeps what each layer has.
    assert TINY.changed(r=0.5, layer_r="0.1,0.2").layer_radii == (0.1, 0.2)
    assert compare.method(layered, "hyperbolic").layer_radii == (0.1, 0.2)
    assert compare.method(layered, "hyperbolic:layer_r=1 2").layer_radii == (1, 2)


def test_a_search_for_one_r_refuses_a_recipe_with_one_for_each_layer(tmp_path, tiny, trained):
    with pytest.raises(ValueError) as error:
        search.search(
            TINY.changed(layer_r="0.1"), tmp_path, radii=[0.05, 5.0], dataset=tiny, say=silent
        )
    assert str(error.value) == (
        "search: tiny has layer_r='0.1', an r for each layer, and one r for all would take its "
        "place. Set it to none (--set layer_r=none), or search one for each (--per-layer)."
    )
    assert trained == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "field, value, why",
    [
        ("name", "evil", "belongs to the recipe"),
        ("source", "nowhere", "belongs to the recipe"),
        ("paper_top1", "99", "belongs to the recipe"),
        ("dataset", "textures", "is the same for all methods"),
        ("hold_out", "5", "is the same for all methods"),
        ("image_size", "64", "is the same for all methods"),
        ("seed", "7", "is the same for all methods"),
        ("epochs", "4", "is the same for all methods"),
        ("stop_epoch", "1", "is the same for all methods"),
        ("batch_size", "9", "is the same for all methods"),
    ],
)
def test_methods_share_data_seeds_and_steps(field, value, why):
    with pytest.raises(ValueError) as error:
        compare.method(TINY, f"hyperbolic:{field}={value}")
    assert str(error.value).startswith(f"method 'hyperbolic:{field}={value}': {field} {why}")


def test_the_folder_of_a_method_is_one_folder_of_its_own():
    names = [
        "ste_sign",
        "irnet+hyperbolic:r=0.5:input_quantizer=ede_sign",
        "epc:layer_r=0.1 0.2",
        "epc:layer_r=0.1/0.2",
        "epc:stem=../../evil",
        f"epc:layer_r={' '.join(['0.123456789'] * 40)}",
        f"epc:layer_r={' '.join(['0.123456789'] * 41)}",
        "..",
    ]
    folders = [compare.folder_of(words) for words in names]
    # As ever where nothing stands in the way, so that studies go on.
    assert folders[:2] == ["ste_sign", "irnet+hyperbolic-r=0.5-input_quantizer=ede_sign"]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert Path(folder).parts == (folder,) and folder != ".." and len(folder) < 200
        assert folder.isprintable() and " " not in folder


@pytest.mark.parametrize(
    "words, message",
    [
        ("ste_sign:kernel_quantizer=recu", "ste_sign sets kernel_quantizer already; write recu."),
        (
            "irnet:r=1:kernel_quantizer=recu:input_quantizer=ede_sign",
            "irnet sets kernel_quantizer already; write recu:r=1:input_quantizer=ede_sign.",
        ),
        ("float:kernel_quantizer=recu", "float sets kernel_quantizer already; write recu."),
        (
            "float:input_quantizer=ste_sign",
            "float sets input_quantizer already; write none:input_quantizer=ste_sign.",
        ),
    ],
)
def test_methods_refuse_a_field_that_their_first_word_sets(words, message):
    with pytest.raises(ValueError) as error:
        compare.method(TINY, words)
    way_out = message.split("write ")[1].removesuffix(".")
    assert str(error.value) == (
        f"method {words!r}: the first word of a method names its quantizer, and {message}"
    )
    compare.method(TINY, way_out)


def test_a_method_may_have_real_weights_and_binary_activations():
    changed = compare.method(TINY, "none:input_quantizer=ste_sign")
    assert (changed.kernel_quantizer, changed.input_quantizer) == (None, "ste_sign")
