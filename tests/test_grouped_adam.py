"""GroupedAdam is Keras's Adam, with one decoupled decay for each group of variables."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import callbacks, doctor, flip_rate, rivals
from hbnn_larq.optimizers import GeodesicSGD, GroupedAdam, MobiusSGD
from hbnn_larq.training.models import build_optimizer
from hbnn_larq.training.recipe import Recipe, keep_decay_sum

RECIPE = Recipe(
    name="adam", source="a test", dataset="digits", model="vgg_small", kernel_quantizer="ste_sign",
    optimizer="adam", learning_rate=0.003, latent_decay=1.0, weight_decay=0.5, epochs=4,
)  # fmt: skip


def network():
    """A binary kernel, a real kernel and a bias."""
    model = tf.keras.Sequential(
        [
            lq.layers.QuantDense(4, kernel_quantizer="ste_sign", use_bias=False, input_shape=(6,)),
            tf.keras.layers.Dense(3, bias_initializer="ones"),
        ]
    )
    return model


def weights_after(optimizer, steps, rng):
    tf.keras.utils.set_random_seed(0)
    model = network()
    for _ in range(steps):
        gradients = [
            tf.constant(rng.normal(size=v.shape), tf.float32) for v in model.trainable_variables
        ]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return model.get_weights()


def test_without_decay_it_is_keras_adam_bit_for_bit():
    theirs = weights_after(tf.keras.optimizers.Adam(0.01), 5, np.random.default_rng(0))
    ours = weights_after(GroupedAdam(0.01), 5, np.random.default_rng(0))
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "decays, shares",
    [
        ({"weight_decay": 0.5, "latent_decay": 2.0}, (2.0, 0.5, 0.0)),
        ({"weight_decay": 0.5}, (0.5, 0.5, 0.0)),
        ({"weight_decay": 0.5, "latent_decay": 0.0, "decay_all": True}, (0.0, 0.5, 0.5)),
    ],
)
def test_each_group_shrinks_by_its_own_decay(decays, shares):
    """With no gradient a step of Adam is 0, so that the decay alone is seen."""
    model, optimizer = network(), GroupedAdam(0.1, **decays)
    before = model.get_weights()
    zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    for old, new, share in zip(before, model.get_weights(), shares, strict=True):
        np.testing.assert_allclose(new, old * (1 - 0.1 * share), rtol=1e-6)


def test_each_group_decays_at_its_own_rate():
    """Five times the rate is five times the decay in a step, as of everything else."""
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(2, 3, bias_initializer="ones", input_shape=(4, 4, 1)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(3),
        ]
    )
    optimizer = GroupedAdam(
        0.1, weight_decay=0.5, decay_all=True, threshold_rate=5.0, convolution_rate=3.0
    )
    before = model.get_weights()
    zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    for old, new, rate in zip(before, model.get_weights(), (0.3, 0.5, 0.1, 0.5), strict=True):
        np.testing.assert_allclose(new, old * (1 - rate * 0.5), rtol=1e-6)


@pytest.mark.slow
def test_two_devices_decay_as_one(on_two_devices):
    printed = on_two_devices("""
        import numpy as np, tensorflow as tf, larq as lq, hbnn_larq

        def train(strategy):
            tf.keras.utils.set_random_seed(3)
            with strategy.scope():
                model = tf.keras.Sequential([
                    lq.layers.QuantDense(6, kernel_quantizer="ste_sign", input_shape=(5,)),
                    tf.keras.layers.Dense(3),
                ])
                model.compile(
                    hbnn_larq.optimizers.GroupedAdam(
                        0.01, weight_decay=0.5, latent_decay=5.0, threshold_rate=5.0),
                    "mse")
            rng = np.random.default_rng(0)
            x, y = rng.normal(size=(32, 5)), rng.normal(size=(32, 3))
            start = model.get_weights()
            model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
            return start, model.get_weights()

        start, one = train(tf.distribute.get_strategy())
        _, two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        print(max(np.abs(a - b).max() for a, b in zip(one, two)))
        print(np.linalg.norm(one[0]) / np.linalg.norm(start[0]))
    """)
    apart, left = map(float, printed.split()[-2:])
    assert apart < 1e-5
    assert left < 0.75  # twelve steps of 5 % each, and what Adam added


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_with_the_model_and_goes_on(suffix, tmp_path, rng):
    x, y = rng.normal(size=(16, 6)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")

    def train(m):
        m.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)

    model = network()
    adam = GroupedAdam(
        0.01, 0.8, weight_decay=0.1, latent_decay=0.5, decay_all=True, threshold_rate=5.0
    )
    model.compile(GeodesicSGD(0.01, others=adam), "mse")
    train(model)
    model.save(tmp_path / f"model{suffix}")
    train(model)
    loaded = tf.keras.models.load_model(tmp_path / f"model{suffix}")
    assert loaded.optimizer.others.get_config() == model.optimizer.others.get_config()
    train(loaded)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_flips_stay_somewhat_below_the_law_at_the_balance(rng):
    """As for SGD, with (1 - beta_1) times the learning rate; Adam's own scaling costs some more."""
    rate, decay = 0.01, 1.0
    head = tf.keras.layers.Dense(4, trainable=False)
    norm = tf.keras.layers.BatchNormalization(momentum=0.9, scale=False)
    binary = lq.layers.QuantDense(
        64, kernel_quantizer="ste_sign", use_bias=False, input_shape=(512,), name="binary"
    )
    model = tf.keras.Sequential([binary, norm, head])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(GroupedAdam(rate, latent_decay=decay), loss)

    def train(steps, *watchers):
        images = rng.normal(size=(32 * steps, 512)).astype(np.float32)
        labels = rng.integers(0, 4, 32 * steps)
        model.fit(images, labels, batch_size=32, verbose=0, callbacks=list(watchers))

    train(round(4 / (rate * decay)))
    monitor = callbacks.FlipMonitor()
    train(200, monitor)
    measured = monitor.history[0]["flips_per_step"]["binary"]
    law = flip_rate.flips_per_step((1 - 0.9) * rate, decay, 0.9)
    assert 0.75 < measured / law < 0.95


def test_the_optimizer_of_a_recipe():
    optimizer = build_optimizer(RECIPE, 64)
    assert type(optimizer) is MobiusSGD and type(optimizer.others) is GroupedAdam
    asked = RECIPE.changed(flip_rate=0.01, momentum=0.8, threshold_rate=10, convolution_rate=3)
    optimizer = build_optimizer(asked, 64)
    assert type(optimizer) is GeodesicSGD
    adam = optimizer.others.others
    assert (adam.threshold_rate, adam.convolution_rate) == (10, 3)
    assert build_optimizer(asked.changed(optimizer="sgd"), 64).others.convolution_rate == 3
    for words in ("adam", "sgd"):
        faster = asked.changed(optimizer=words, base_point_rate=7)
        assert build_optimizer(faster, 64).others.base_point_rate == 7
    layers = asked.changed(granularity="layer"), asked.changed(flip_granularity="layer")
    assert [build_optimizer(r, 64).granularity for r in layers] == ["filter", "layer"]
    model = network()
    assert [adam.decay_of(v) for v in model.trainable_variables] == [1.0, 0.5, 0.0]
    assert (adam.beta_1, optimizer.momentum) == (0.8, 0.8)


def test_base_points_decay_like_their_latents(rng):
    layer = lq.layers.QuantDense(4, kernel_quantizer="hyperbolic")
    layer(tf.zeros((1, 6)))
    (point,) = layer.kernel_quantizer.base_points
    assert build_optimizer(RECIPE, 64).decay_of(point) == 1.0
    assert build_optimizer(RECIPE.changed(base_point_decay=0.2), 64).decay_of(point) == 0.2


def test_a_change_of_optimizer_keeps_the_flips():
    """Adam's steps count a tenth of SGD's with the same momentum, so its decay must be ten-fold."""
    sgd = RECIPE.changed(optimizer="sgd", learning_rate=0.1, latent_decay=0.02, epochs=100)
    adam, said = keep_decay_sum(sgd, sgd.changed(optimizer="adam"), old_images=64, new_images=64)
    assert adam.latent_decay == pytest.approx(0.2)
    assert said.startswith("latent_decay 0.02 -> 0.2, so that the sum of lr * decay stays")
    assert adam.forecast(64).flips_per_step == pytest.approx(sgd.forecast(64).flips_per_step)
    assert adam.forecast(64).decay_sum == pytest.approx(sgd.forecast(64).decay_sum)


def test_the_doctor_knows_its_law():
    starved = RECIPE.changed(latent_decay=1e-4)
    rates = starved.learning_rates(64).tolist()
    optimizer = build_optimizer(starved, 64)
    findings = doctor.examine(network(), optimizer=optimizer, learning_rates=rates)
    (starving,) = [finding for finding in findings if finding.code == "starved-of-flips"]
    assert "Raise latent_decay from 0.0001" in starving.fix


@pytest.mark.parametrize("key", ["weight_decay", "latent_decay"])
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_decays_that_are_none(key, value):
    with pytest.raises(ValueError, match=rf"GroupedAdam\({key}=.*\): a decay is a number of at"):
        GroupedAdam(**{key: value})


def test_trained_scales_of_a_layer_are_no_thresholds():
    """As those that a quantizer trains: XNOR-Net++'s scale is the same in either place."""
    scale = rivals.RankOneScale()
    scale.build((None, 4, 4, 3))
    norm = tf.keras.layers.BatchNormalization()
    norm.build((None, 3))
    optimizer = GroupedAdam(0.01, threshold_rate=10.0)
    assert [optimizer.rate_of(v) for v in scale.trainable_weights] == [1.0] * 3
    assert [optimizer.rate_of(v) for v in norm.trainable_weights] == [10.0] * 2
