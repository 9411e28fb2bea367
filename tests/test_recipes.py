"""Recipes: changed by name, never with a claim they did not earn, decay kept in proportion."""

import json

import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import flip_rate, poincare, zoo
from hbnn_larq.optimizers import is_base_point
from hbnn_larq.training import data, models, run
from hbnn_larq.training.recipe import CHOICES, Recipe, keep_decay_sum
from hbnn_larq.training.recipes import GEODESIC, PAPER, RECIPES, find
from hbnn_larq.training.schedules import Schedule

BASE = Recipe(
    name="base", source="a test", dataset="digits", model="vgg_small", epochs=600, batch_size=256,
    weight_decay=5e-4, latent_decay=5e-4, paper_top1=93.0, paper_top5=99.0,
)  # fmt: skip


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_schedule_is_the_same_in_the_graph_and_in_numpy(shape, warmup):
    schedule = Schedule(0.1, 50, warmup_steps=warmup, shape=shape)
    in_graph = [float(schedule(step)) for step in range(50)]
    np.testing.assert_allclose(in_graph, schedule.values(), rtol=1e-6, atol=1e-9)


def test_schedule_warms_up_and_falls_to_zero():
    rates = Schedule(0.1, 1000, warmup_steps=10).values()
    np.testing.assert_allclose(rates[:11], 0.1 * np.array([*range(1, 11), 10]) / 10)
    assert rates[10:].argmax() == 0 and rates[-1] < 1e-6
    assert float(Schedule(0.1, 1000)(5000)) == 0


def test_schedule_round_trips():
    schedule = Schedule(0.2, 30, warmup_steps=3, shape="linear")
    again = Schedule.from_config(schedule.get_config())
    np.testing.assert_array_equal(schedule.values(), again.values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"learning_rate": 0, "steps": 5}, r"Schedule\(learning_rate=0\)"),
        ({"learning_rate": 1, "steps": 5, "warmup_steps": 5}, "fewer steps of warm-up"),
        ({"learning_rate": 1, "steps": 5, "shape": "step"}, "one of cosine, linear, constant"),
    ],
)
def test_schedule_names_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)


def test_text_is_read_as_the_type_of_the_field():
    changed = BASE.changed(r="0.5", epochs="20", kernel_quantizer="none", base_point_decay="1e-3")
    assert (changed.r, changed.epochs) == (0.5, 20)
    assert changed.kernel_quantizer is None and changed.base_point_decay == 1e-3


def test_a_claim_survives_a_change_of_seed_only():
    assert BASE.changed(seed=3).paper_top1 == 93.0
    assert BASE.changed(r=0.05).paper_top1 == 93.0
    assert BASE.changed(r=0.5).paper_top1 is None
    assert BASE.changed(epochs=20).paper_top5 is None


def test_a_claim_is_kept_or_dropped_and_never_set():
    assert BASE.changed(paper_top1=93.0) == BASE
    assert BASE.changed(paper_top1=None).paper_top1 is None
    for changes in ({"paper_top1": 99}, {"paper_top5": "98", "epochs": 20}):
        with pytest.raises(ValueError, match=r"paper_top[15]=9[98].0: a claim of the source is"):
            BASE.changed(**changes)


def test_recipe_round_trips_through_json():
    assert Recipe.from_json(BASE.to_json()) == BASE
    for recipe in RECIPES.values():
        assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: BASE.changed(wdecay=0),
            'a recipe has no field "wdecay". Closest: .*weight_decay.* hbnn recipes base',
        ),
        (lambda: BASE.changed(epochs="many"), "epochs='many': expected a whole number."),
        (lambda: BASE.changed(epochs=1.5), "epochs=1.5: expected a whole number."),
        (lambda: BASE.changed(decay_all="perhaps"), "decay_all='perhaps': expected true or false"),
        (lambda: BASE.changed(base_point_decay="x"), "expected a number or none"),
        (lambda: BASE.changed(epochs=0), "recipe base: epochs=0 must be a whole number, 1 or abo"),
        (lambda: BASE.changed(learning_rate="nan"), "learning_rate=nan must be a finite number"),
        (lambda: BASE.changed(momentum=1.0), "momentum=1.0 must be at least 0 and below 1"),
        (
            lambda: BASE.changed(base_point_start=1),
            "base_point_start=1.0 must be at least 0 and be",
        ),
        (lambda: BASE.changed(epc_size=0), "recipe base: epc_size=0 must be a whole number, 1 or"),
        (lambda: BASE.changed(clock="batch"), "clock='batch' must be one of epoch, step"),
        (lambda: BASE.changed(warmup_epochs=600), "warmup_epochs=600 must be 0 to epochs - 1"),
        (lambda: BASE.changed(schedule="step"), "schedule='step' must be one of cosine, linear"),
        (lambda: BASE.changed(latent_decay=-1), "latent_decay=-1.0 must be a number, 0 or above"),
        (lambda: Recipe.from_json("{"), "not a recipe: the text is no JSON"),
        (lambda: Recipe.from_json("{}"), "name, source, dataset and model must be given"),
        (
            lambda: Recipe.from_json(json.dumps({**vars(BASE), "colour": 1})),
            'no field "colour"',
        ),
        (lambda: find("digit"), 'no recipe "digit". Closest: digits'),
        (lambda: find("zzz"), 'no recipe "zzz". All of them: hbnn recipes'),
    ],
)
def test_bad_recipes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_forecast_of_the_paper_recipe():
    forecast = BASE.forecast(50_000)
    assert forecast.steps == 117_600
    assert forecast.decay_sum == pytest.approx(2.94, abs=0.01)
    assert forecast.flips_per_step == pytest.approx(0.00147, abs=1e-5)
    assert forecast.verdict == "healthy"
    assert str(forecast) == (
        "0.15 % of the binary weights per step, sum of lr * decay 2.94 over 117,600 steps: healthy"
    )


@pytest.mark.parametrize(
    "changes, cure",
    [
        ({"epochs": 20}, "more epochs, latent_decay or learning_rate"),
        ({"epochs": 1, "batch_size": 1024, "latent_decay": 0.06}, "more epochs"),
    ],
)
def test_a_starved_forecast_says_why_and_what_helps(changes, cure):
    forecast = BASE.changed(**changes).forecast(50_000)
    assert forecast.decay_sum < 0.3
    assert str(forecast).endswith(f" steps: starved (the sum is below 0.3: {cure})")


def test_shortening_keeps_the_sum_and_says_so():
    short, notice = keep_decay_sum(
        BASE, BASE.changed(epochs=20), old_images=50_000, new_images=50_000
    )
    assert short.latent_decay == pytest.approx(0.015, rel=1e-3)
    assert short.weight_decay == BASE.weight_decay and short.base_point_decay is None
    rates = short.learning_rates(50_000).tolist()
    assert flip_rate.decay_sum(rates, short.latent_decay) == pytest.approx(2.94, abs=0.01)
    assert "latent_decay 0.0005 -> 0.015" in notice
    assert "(epochs changed); --keep-decay keeps the old value" in notice


def test_a_run_of_very_few_steps_is_not_made_to_forget():
    old = find("digits")
    tiny, notice = keep_decay_sum(old, old.changed(epochs=2), old_images=1077, new_images=1077)
    assert tiny.forecast(1077).flips_per_step == pytest.approx(flip_rate.TOO_MANY_ABOVE)
    assert tiny.latent_decay > old.latent_decay
    assert "the most before a net forgets: the sum of lr * decay falls from 2.04 to 0.31" in notice


@pytest.mark.parametrize("epochs, decay", [(32, "coupled"), (30, "decoupled"), (5, "decoupled")])
def test_a_decay_that_would_swing_weights_is_decoupled(epochs, decay):
    """0.1 x latent_decay passes the overshoot of one percent between 32 and 30 epochs."""
    old = find("digits")
    short, notice = keep_decay_sum(
        old, old.changed(epochs=epochs), old_images=1077, new_images=1077
    )
    assert short.decay == decay
    assert ("; decoupled from the gradient, or momentum" in notice) == (decay == "decoupled")
    swing = flip_rate.overshoot(short.learning_rate, short.latent_decay, short.momentum)
    assert (swing > 0.01) == (decay == "decoupled")
    assert models.build_optimizer(short, 1077).decoupled == (decay == "decoupled")
    asked = old.changed(epochs=epochs, decay="decoupled")  # by the user: nothing to say
    _, notice = keep_decay_sum(old, asked, old_images=1077, new_images=1077)
    assert "decoupled" not in notice
    kept, notice = keep_decay_sum(
        old, old.changed(epochs=epochs), old_images=1077, new_images=1077, decouple=False
    )
    assert kept.decay == "coupled" and "decoupled" not in notice


@pytest.mark.parametrize(
    "changes, notice",
    [
        ({"epochs": 2, "learning_rate": 1.0}, "latent_decay stays 0.03, as more than 2.0% of"),
        ({"epochs": 4, "learning_rate": 1.0, "schedule": "constant"}, "latent_decay 0.03 -> 0.0"),
        ({"momentum": 0.99}, "through zero (momentum changed)"),
    ],
)
def test_it_is_decoupled_whether_or_not_it_is_rescaled(changes, notice):
    old = find("digits")
    new, said = keep_decay_sum(old, old.changed(**changes), old_images=1077, new_images=1077)
    assert new.decay == "decoupled" and notice in said
    assert "decoupled from the gradient, or momentum would swing weights through zero" in said


def test_another_momentum_rescales_no_decay_of_adam():
    """It counts in the law's rates of Adam, but the schedule is as it was."""
    old = find("digits").changed(optimizer="adam")
    new = old.changed(momentum=0.8)
    assert keep_decay_sum(old, new, old_images=1077, new_images=1077) == (new, None)


def test_a_decay_that_may_not_grow_is_said_to_stay():
    """Ten times the rate in a hundredth of the steps: already the old decay flips too many."""
    old = BASE.changed(latent_decay=0.02)
    new = old.changed(epochs=2, learning_rate=5.0)
    kept, notice = keep_decay_sum(old, new, old_images=50_000, new_images=50_000)
    assert kept == new.changed(decay="decoupled")
    notice = notice.split("; ")[0]
    assert notice.startswith("latent_decay stays 0.02, as more than 2.0% of flips per step are nev")
    assert notice.endswith(" (epochs, learning_rate changed)")


def test_a_restless_recipe_keeps_its_flips():
    old = BASE.changed(latent_decay=1.0)
    short = old.changed(epochs=60, learning_rate=0.05)
    short, notice = keep_decay_sum(old, short, old_images=50_000, new_images=50_000)
    had = old.forecast(50_000).flips_per_step
    assert had > flip_rate.TOO_MANY_ABOVE
    assert short.forecast(50_000).flips_per_step == pytest.approx(had, rel=1e-3)
    assert "for as many flips as before: the sum of lr * decay falls from " in notice


def test_where_nothing_decays_nothing_is_rescaled():
    old = BASE.changed(latent_decay=0.0, base_point_decay=1e-4)
    new = old.changed(epochs=60)
    assert keep_decay_sum(old, new, old_images=50_000, new_images=50_000) == (new, None)


def test_a_decay_of_base_points_that_is_set_is_rescaled_too():
    old = BASE.changed(base_point_decay=1e-4)
    short, notice = keep_decay_sum(
        old, old.changed(epochs=60), old_images=50_000, new_images=50_000
    )
    assert short.base_point_decay == pytest.approx(1e-3, rel=1e-2)
    assert notice.startswith(
        "latent_decay 0.0005 -> 0.005 and base_point_decay 0.0001 -> 0.0009999"
    )
    assert notice.endswith("; --keep-decay keeps the old values")


@pytest.mark.parametrize(
    "changes",
    [{"r": 0.5}, {"seed": 4}, {"epochs": 20, "latent_decay": 0.01}],
    ids=["another field", "seed", "decay given"],
)
def test_decay_is_left_alone_where_it_should_be(changes):
    new = BASE.changed(**changes)
    assert keep_decay_sum(BASE, new, old_images=50_000, new_images=50_000) == (new, None)


def test_decay_of_a_float_net_is_left_alone():
    old = BASE.changed(kernel_quantizer=None)
    new = old.changed(epochs=20)
    assert keep_decay_sum(old, new, old_images=50_000, new_images=50_000) == (new, None)


# Table 2 and 3 of the paper, typed in a second time: (recipe, top-1, top-5).
CLAIMS = """
cifar10-resnet18 93.0
cifar10-resnet18-boundary 92.8
cifar10-resnet18-w1a32 94.8
cifar10-resnet18-float 94.8
cifar10-vggsmall 93.0
cifar10-vggsmall-boundary 92.8
cifar10-vggsmall-float 94.1
cifar100-resnet18 71.6
cifar100-resnet18-boundary 71.2
cifar100-resnet18-w1a32 74.8
cifar100-resnet18-float 77.0
cifar100-vggsmall 72.5
cifar100-vggsmall-boundary 72.2
cifar100-vggsmall-float 75.5
imagenet-resnet18 61.5 83.3
imagenet-resnet18-boundary 61.5 83.3
imagenet-resnet18-float 69.6 89.2
imagenet-resnet34 65.7 86.2
imagenet-resnet34-boundary 65.6 86.0
imagenet-resnet34-float 73.3 91.3
cifar100-resnet18-r0.01-e120 69.34
cifar100-resnet18-r0.05-e120 69.50
cifar100-resnet18-r0.1-e120 69.45
cifar100-resnet18-r0.5-e120 69.33
cifar100-resnet18-r1-e120 69.19
cifar100-resnet18-r5-e120 68.84
cifar100-resnet18-boundary-r0.01-e120 69.24
cifar100-resnet18-boundary-r0.05-e120 69.31
cifar100-resnet18-boundary-r0.1-e120 68.96
cifar100-resnet18-boundary-r0.5-e120 69.16
cifar100-resnet18-boundary-r1-e120 69.47
cifar100-resnet18-boundary-r5-e120 69.01
"""


def test_claims_are_those_of_the_tables_and_nothing_else_has_one():
    expected = {}
    for line in CLAIMS.split("\n"):
        if line:
            name, *numbers = line.split()
            expected[name] = [float(number) for number in numbers]
    found = {
        name: [claim for claim in (recipe.paper_top1, recipe.paper_top5) if claim is not None]
        for name, recipe in RECIPES.items()
    }
    assert {name: claims for name, claims in found.items() if claims} == expected
    assert {recipe.name for recipe in PAPER} == set(expected)


def test_paper_settings():
    for recipe in PAPER:
        imagenet = recipe.dataset == "imagenet"
        assert (recipe.epochs, recipe.batch_size) == ((250, 512) if imagenet else (600, 256))
        assert recipe.weight_decay == recipe.latent_decay == (1e-4 if imagenet else 5e-4)
        assert (recipe.learning_rate, recipe.schedule, recipe.momentum) == (0.1, "cosine", 0.9)


def test_early_stop_shortens_the_forecast_but_not_the_schedule():
    recipe = find("cifar100-resnet18-r0.05-e120")
    assert recipe.forecast(50_000).steps == 120 * 196
    assert len(recipe.learning_rates(50_000)) == 600 * 196
    with pytest.raises(ValueError, match=r"stop_epoch=601 must be none or 1 to epochs \(600\)"):
        recipe.changed(stop_epoch=601)


def test_what_we_would_train_is_the_default_on_every_network_of_the_paper():
    """Everything but quantizers and optimizer stays that of the row whose twin it is."""
    rows = {r.name: r for r in PAPER if r.source.endswith("W/A 1/1, D_0.05")}
    assert [twin.name for twin in GEODESIC] == [f"{name}-geodesic" for name in rows]
    chosen = find("digits-geodesic").differences(find("digits-ste-sign"))
    by_optimizer = set(chosen) - {"name", "source", "latent_decay"}  # which has no say
    for (name, row), twin in zip(rows.items(), GEODESIC, strict=True):
        assert all(getattr(twin, f) == getattr(find("digits-geodesic"), f) for f in by_optimizer)
        of_net = (
            {"kernel_quantizer", "input_quantizer"} if "resnet" in name else {"kernel_quantizer"}
        )
        changed = set(twin.differences(row))
        aside = {"name", "source", "latent_decay", "paper_top1", "paper_top5"}
        assert changed - by_optimizer - aside == of_net
        assert twin.kernel_quantizer == "ste_sign" and twin.paper_top1 is twin.paper_top5 is None
        assert twin.input_quantizer == ("rbnn_sign" if "resnet" in name else "approx_sign")
        assert RECIPES[name] == row and RECIPES[twin.name] == twin


def test_every_paper_recipe_has_a_small_sibling_without_a_claim():
    for recipe in (*PAPER, *GEODESIC):
        small = RECIPES[f"{recipe.name}-small"]
        assert small.kernel_quantizer == recipe.kernel_quantizer and small.r == recipe.r
        assert small.dataset.startswith("generated-") and small.paper_top1 is None


def test_names_are_their_keys_and_data_sets_exist():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert data.training_images(recipe.dataset) > 0


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_binary_recipe_is_predicted_to_flip_enough(name):
    recipe = RECIPES[name]
    if recipe.binary_weights:
        forecast = recipe.forecast(data.training_images(recipe.dataset))
        assert forecast.verdict in ("healthy", "few", "many")
        if recipe.flip_rate is None:
            assert 0.3 <= forecast.decay_sum <= 3.5


def test_known_sizes_of_training_splits_are_right():
    for name in ("digits", "generated"):
        assert data.training_images(name) == len(data.load(name).train)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [f"{r.name}-small" for r in (*PAPER, *GEODESIC) if not r.stop_epoch]
)
def test_every_small_sibling_takes_two_steps(tmp_path, name):
    recipe = find(name).changed(epochs=1, batch_size=8)
    shape = tuple(int(side) for side in recipe.dataset.split("-")[1].split("x"))
    tiny = data.generated(shape, 10, train=16, validation=4, test=4)
    results = run.fit(recipe, tmp_path, dataset=tiny, say=lambda line: None)
    assert results["steps"] == 2


def test_every_model_of_the_zoo_is_a_choice_of_a_recipe():
    assert set(models._ZOO) == set(CHOICES["model"])
    for name, model in models._ZOO.items():
        assert model.__name__.lower() == name.replace("_", "")
    assert {model.__name__ for model in models._ZOO.values()} == set(zoo.MODELS)


def test_bireal_net_has_the_choices_of_a_resnet():
    recipe = BASE.changed(model="bireal_net18", width=1 / 16, stem="cifar", shortcut="avgpool_conv")
    model = models.build_model(recipe, (16, 16, 1), 3)
    assert model.name == "BiRealNet18" and len(quantized_layers(model)) == 16


@pytest.mark.parametrize("text", ["0.05,x", "0.1,-1", "", "inf"])
def test_radii_of_layers_must_be_numbers(text):
    with pytest.raises(ValueError, match=r"layer_r=.* must be none, or finite numbers above 0"):
        BASE.changed(layer_r=text)


def test_equal_radii_of_layers_are_one_shared_radius():
    recipe = BASE.changed(width=1 / 16, r=0.5)
    weights = []
    for layer_r in (None, "0.5, 0.5 0.5,0.5,0.5"):
        tf.keras.utils.set_random_seed(0)
        model = models.build_model(recipe.changed(layer_r=layer_r), (16, 16, 1), 3)
        assert {layer.kernel_quantizer.r for layer in quantized_layers(model)} == {0.5}
        weights.append(model.get_weights())
    for shared, own in zip(*weights, strict=True):
        np.testing.assert_array_equal(shared, own)


@pytest.mark.parametrize(
    "words, said",
    [
        ("hyperbolic+irnet", r"is written QUANTIZER\+MAP: irnet\+hyperbolic; the maps are hyperb"),
        ("irnet+hyperbolik", r"is written QUANTIZER\+MAP; the maps are hyperbolic, hyperbolic_b"),
    ],
)
def test_a_map_stands_behind_its_host(words, said):
    with pytest.raises(ValueError, match=said):
        models.build_model(BASE.changed(width=1 / 16, kernel_quantizer=words), (16, 16, 1), 3)


@pytest.mark.parametrize("layer_r", ["1", "1,2,3,4,5,6"])
def test_there_must_be_as_many_radii_as_binary_layers(layer_r):
    with pytest.raises(ValueError, match=r"layer_r='.*' has [16] values for 5 binary layers: \w+"):
        models.build_model(BASE.changed(width=1 / 16, layer_r=layer_r), (16, 16, 1), 3)


@pytest.mark.parametrize(
    "kind",
    [
        "hyperbolic",
        pytest.param("hyperbolic_boundary", marks=pytest.mark.slow),
        pytest.param("epc", marks=pytest.mark.slow),
        "irnet+epc",
    ],
)
def test_base_points_are_as_many_and_start_as_far_out_as_told(kind):
    recipe = BASE.changed(kernel_quantizer=kind, width=1 / 16, base_point_start=0.4, epc_size=3)
    model = models.build_model(recipe, (16, 16, 1), 3)
    points = [v for v in model.trainable_weights if is_base_point(v)]
    assert len(points) == 5 * (3 if "epc" in kind else 1)
    for p in points:
        ball = poincare.ball_of(p)
        norms = np.sqrt(ball.r * np.sum(np.square(p), ball.axis))
        np.testing.assert_allclose(norms, 0.4, rtol=1e-5)


def quantized_layers(model):
    return [layer for layer in model.layers if getattr(layer, "kernel_quantizer", None)]
