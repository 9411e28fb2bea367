"""Recipes that ask for flips instead of setting learning rate and decay of the latents."""

import numpy as np
import pytest
import tensorflow as tf
from micro import micro_model

from hbnn_larq.optimizers import GeodesicSGD, MobiusSGD
from hbnn_larq.training import checkpoints, data, run
from hbnn_larq.training.models import build_optimizer
from hbnn_larq.training.recipe import Recipe, keep_decay_sum
from hbnn_larq.training.textures import CLASSES, textures, textures_hard

ASKING = Recipe(
    name="asking", source="a test", dataset="tiny", model="vgg_small", width=1 / 32,
    kernel_quantizer="ste_sign", epochs=3, batch_size=10, flip_rate=0.02,
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


def test_the_optimizer_of_a_recipe():
    of_flips = {"flip_granularity": "layer", "flip_direction": "sign", "flip_memory": 0.05}
    optimizer = build_optimizer(ASKING.changed(momentum=0.8, **of_flips), 35)
    assert type(optimizer) is GeodesicSGD and type(optimizer.others) is MobiusSGD
    assert (optimizer.granularity, optimizer.direction) == ("layer", "sign")
    assert optimizer.memory == 0.05
    assert optimizer.momentum == optimizer.others.momentum == 0.8
    steps = tf.range(12)
    asked = [float(optimizer._learning_rate(step)) for step in steps]
    rates = [float(optimizer.others._learning_rate(step)) for step in steps]
    np.testing.assert_allclose(np.divide(asked, 0.02), np.divide(rates, 0.1), rtol=1e-5)
    assert type(build_optimizer(ASKING.changed(kernel_quantizer=None), 35)) is MobiusSGD
    half = build_optimizer(ASKING.changed(precision="mixed_float16"), 35)
    assert type(half.inner_optimizer) is GeodesicSGD


def test_a_run_gets_about_the_flips_that_it_asks_for(tiny, tmp_path):
    recipe = ASKING.changed(epochs=10)
    results = run.fit(recipe, tmp_path, dataset=tiny, say=silent, flips_every=1)
    flips = results["flips"]
    assert flips["predicted_per_step"] == pytest.approx(0.01, rel=0.05)  # mean of the cosine
    assert 0.4 < flips["measured_per_step"] / flips["predicted_per_step"] < 1.3
    assert flips["decay_sum"] is None
    expected = recipe.flips_expected(35)
    for row in results["history"]:
        of_epoch = expected[row["step"] - 4 : row["step"]]
        assert row["flips_predicted"] == pytest.approx(np.mean(of_epoch))


def test_resumed_bit_for_bit(tiny, tmp_path):
    """Slots of both optimizers are in the checkpoint."""
    recipe = ASKING.changed(
        flip_direction="adaptive", flip_memory=0.05, kernel_quantizer="hyperbolic_boundary"
    )
    whole = run.fit(recipe, tmp_path / "whole", dataset=tiny, say=silent)
    part = tmp_path / "part"

    class Killed(Exception):
        pass

    def kill(line):
        if line.startswith("epoch 2"):
            raise Killed

    with pytest.raises(Killed):
        run.fit(recipe, part, dataset=tiny, say=kill, checkpoint_every=5)
    assert checkpoints.newest(part / "checkpoints", silent).step == 5
    resumed = run.fit(recipe, part, dataset=tiny, say=silent)
    assert resumed["accuracy"] == whole["accuracy"]
    one, two = (
        tf.keras.models.load_model(path / "model.keras", compile=False).get_weights()
        for path in (tmp_path / "whole", part)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_forecast_says_that_it_is_asked():
    forecast = ASKING.changed(epochs=100).forecast(1000)
    assert forecast.steps == 10_000 and forecast.decay_sum is None
    assert forecast.origin == "asked for"
    assert str(forecast) == (
        "1.00 % of the binary weights per step, the mean of a schedule from 2.00 %, over 10,000 "
        "steps: healthy"
    )
    constant = ASKING.changed(epochs=100, schedule="constant", flip_rate=0.01).forecast(1000)
    assert str(constant) == "1.00 % of the binary weights per step over 10,000 steps: healthy"


def test_a_shorter_run_asks_for_the_same_flips():
    short = ASKING.changed(epochs=1)
    assert keep_decay_sum(ASKING, short, old_images=35, new_images=35) == (short, None)


@pytest.mark.parametrize("value", [0, -0.01, 0.6, "nan"])
def test_flip_rates_that_are_none(value):
    with pytest.raises(ValueError, match=r"flip_rate=.* must be none, or a share of the weights"):
        ASKING.changed(flip_rate=value)


def test_base_points_that_step_toward_take_no_decay():
    message = r"base_point_decay=0.1 must be none with base_point_step=\"toward\""
    with pytest.raises(ValueError, match=message):
        ASKING.changed(base_point_step="toward", base_point_decay=0.1)


# ------------------------------------------------------------------ the set that the study uses


def test_textures_are_what_they_say():
    made = textures()
    assert [len(split) for split in (made.train, made.validation, made.test)] == [3000, 1000, 2400]
    assert made.image_shape == (32, 32, 3) and made.num_classes == len(CLASSES) == 10
    for split in (made.train, made.validation, made.test):
        counts = np.bincount(split.labels, minlength=10)
        assert np.ptp(counts) == 0
    assert len({image.tobytes() for image in made.train.images}) == 3000
    again = textures()
    np.testing.assert_array_equal(made.test.images, again.test.images)
    assert not np.array_equal(made.test.images, textures(seed=8).test.images)
    pixels = made.normalize(made.train.images).reshape(-1, 3)
    np.testing.assert_allclose(pixels.mean(axis=0, dtype=np.float64), 0, atol=1e-3)
    np.testing.assert_allclose(pixels.std(axis=0, dtype=np.float64), 1, atol=1e-3)


def test_hard_textures_are_the_same_pictures_in_more_noise():
    easy, hard = textures(), textures_hard()
    assert data.load("textures-hard").name == hard.name == "textures-hard"
    np.testing.assert_array_equal(easy.test.labels, hard.test.labels)
    blurred, rough = [], []
    for made in (easy, hard):
        images = made.test.images.astype(float)
        blurred.append(images.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4)).ravel())
        rough.append(np.abs(np.diff(images, axis=1)).mean())
    assert np.corrcoef(blurred)[0, 1] > 0.98
    assert rough[1] > 1.2 * rough[0]
