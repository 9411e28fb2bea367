"""Laws of GeodesicSGD: a set angle, whatever the scale of gradients and latents."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import callbacks, quantizers
from hbnn_larq.callbacks import FlipMonitor
from hbnn_larq.optimizers import (
    GeodesicSGD,
    MobiusSGD,
    default,
    filter_axis_of,
    is_base_point,
    is_latent,
)
from hbnn_larq.training import recipes
from hbnn_larq.training.models import build_optimizer

DIRECTIONS = ["momentum", "sign", "adaptive"]


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


def dense(quantizer="ste_sign", units=4):
    built = lq.layers.QuantDense(units, kernel_quantizer=quantizer)
    built(tf.zeros((1, 6)))
    return built


def latent(layer):
    return layer.kernel.latent_variable


def angles(before, after):
    """Between the columns of two matrices."""
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    lengths = np.linalg.norm(before, axis=0) * np.linalg.norm(after, axis=0)
    return np.arccos(np.clip(np.sum(before * after, axis=0) / lengths, -1, 1))


def step(optimizer, layer, gradient):
    optimizer.apply_gradients([(tf.constant(gradient, tf.float32), layer.kernel)])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic_boundary", "approx_sign"])
def test_every_filter_turns_by_the_angle_and_keeps_its_length(direction, quantizer, rng):
    layer = dense(quantizer)
    optimizer = GeodesicSGD(0.02, direction=direction)
    for _ in range(5):
        before = latent(layer).numpy()
        gradient = rng.normal(size=(6, 4))
        step(optimizer, layer, gradient)
        after = latent(layer).numpy()
        np.testing.assert_allclose(angles(before, after), np.pi * 0.02, rtol=1e-3)
        np.testing.assert_allclose(
            np.linalg.norm(after, axis=0), np.linalg.norm(before, axis=0), rtol=1e-6
        )


def test_a_layer_turns_as_one_vector(rng):
    layer = dense()
    before = latent(layer).numpy()
    step(GeodesicSGD(0.02, granularity="layer"), layer, rng.normal(size=(6, 4)))
    after = latent(layer).numpy()
    whole = angles(before.reshape(-1, 1), after.reshape(-1, 1))
    np.testing.assert_allclose(whole, np.pi * 0.02, rtol=1e-3)
    assert np.ptp(angles(before, after)) > 1e-3


def test_against_the_equations(rng):
    """Three steps of the docstring, column by column, in float64."""
    layer = dense()
    x, m = latent(layer).numpy().astype(np.float64), np.zeros((6, 4))
    optimizer, turn = GeodesicSGD(0.03, momentum=0.8, memory=None), np.pi * 0.03
    for _ in range(3):
        gradient = rng.normal(size=(6, 4))
        step(optimizer, layer, gradient)
        for k in range(4):
            length = np.linalg.norm(x[:, k])
            at = x[:, k] / length
            mixed = 0.8 * m[:, k] + gradient[:, k]
            mixed -= at * (at @ mixed)
            u = mixed / np.linalg.norm(mixed)
            x[:, k] = length * (np.cos(turn) * at - np.sin(turn) * u)
            m[:, k] = np.linalg.norm(mixed) * (np.cos(turn) * u + np.sin(turn) * at)
    np.testing.assert_allclose(latent(layer), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "memory, momentum", [(0.05, 0.9), (0.1, 0.8), (0.2, 0.9), (1 / 3, 0.9), (0.01, 0.9)]
)
def test_momentum_remembers_no_longer_than_its_memory(direction, memory, momentum, rng):
    """While 1 / (1 - kept) steps flip `memory` of the weights, unless `momentum` forgets sooner."""
    gradients = rng.normal(size=(4, 6, 4))
    layers = dense(), dense()
    layers[1].set_weights(layers[0].get_weights())
    kept = max(0.0, min(momentum, 1 - 0.02 / memory))
    for layer, optimizer in zip(
        layers,
        (
            GeodesicSGD(0.02, momentum=momentum, memory=memory, direction=direction),
            GeodesicSGD(0.02, momentum=kept, memory=None, direction=direction),
        ),
        strict=True,
    ):
        for gradient in gradients:
            step(optimizer, layer, gradient)
    np.testing.assert_allclose(*(latent(layer).numpy() for layer in layers), atol=1e-6)


def test_memory_follows_the_schedule(rng):
    """As the flips fall, more is kept: by the second step's rate, not by the first's."""
    layer = dense()
    x, gradients = latent(layer).numpy().astype(np.float64), rng.normal(size=(2, 6, 4))
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.04, 0.03])
    optimizer = GeodesicSGD(schedule, momentum=0.9, memory=0.05)
    for gradient in gradients:
        step(optimizer, layer, gradient)
    for k in range(4):
        length = np.linalg.norm(x[:, k])
        at, turn = x[:, k] / length, np.pi * 0.04
        m = gradients[0][:, k] - at * (at @ gradients[0][:, k])
        u, steep = m / np.linalg.norm(m), np.linalg.norm(m)
        m = steep * (np.cos(turn) * u + np.sin(turn) * at)
        at = np.cos(turn) * at - np.sin(turn) * u
        mixed = (1 - 0.03 / 0.05) * m + gradients[1][:, k]
        mixed -= at * (at @ mixed)
        turn = np.pi * 0.03
        x[:, k] = length * (np.cos(turn) * at - np.sin(turn) * mixed / np.linalg.norm(mixed))
    np.testing.assert_allclose(latent(layer), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_the_scale_of_the_loss_does_not_matter(direction, scale, rng):
    """To the bit, so that loss scaling and the width of the net change nothing."""
    gradients = rng.normal(size=(4, 6, 4)).astype("float32")
    layers = dense(), dense()
    layers[1].set_weights(layers[0].get_weights())
    for layer, factor in zip(layers, (1.0, scale), strict=True):
        optimizer = GeodesicSGD(0.02, direction=direction)
        for gradient in gradients:
            step(optimizer, layer, gradient * factor)
    np.testing.assert_array_equal(*(latent(layer).numpy() for layer in layers))


@pytest.mark.parametrize("direction", ["sign", "adaptive"])
def test_signs_and_squares_are_of_the_part_that_turns(direction, rng):
    """A gradient along a vector would only lengthen it, so it has no say in where that turns."""
    layer, flips = dense(), 0.02
    x = latent(layer).numpy().astype(np.float64)
    unit = x / np.linalg.norm(x, axis=0)
    gradient = rng.normal(size=x.shape) + 5 * unit
    step(GeodesicSGD(flips, direction=direction), layer, gradient)
    way = gradient - unit * np.sum(unit * gradient, axis=0)
    way = np.sign(way) if direction == "sign" else way / np.abs(gradient)
    way -= unit * np.sum(unit * way, axis=0)
    way /= np.linalg.norm(way, axis=0)
    turned = np.cos(np.pi * flips) * unit - np.sin(np.pi * flips) * way
    expected = turned * np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(latent(layer), expected, rtol=1e-4, atol=1e-5)


def test_zero_angle_moves_nothing(rng):
    layer = dense()
    before = latent(layer).numpy()
    step(GeodesicSGD(0.0), layer, rng.normal(size=(6, 4)))
    np.testing.assert_allclose(latent(layer), before, rtol=1e-6)


def test_no_more_than_half_can_be_asked_for(rng):
    """Half the weights flip at a right angle; a callback may set what it likes."""
    layers, gradient = (dense(), dense()), rng.normal(size=(6, 4))
    for layer, rate in zip(layers, (0.5, 3.0), strict=True):
        latent(layer).assign(tf.ones((6, 4)) + np.eye(6, 4))
        optimizer = GeodesicSGD(0.5)
        optimizer.learning_rate = rate
        step(optimizer, layer, gradient)
    np.testing.assert_array_equal(*(latent(layer).numpy() for layer in layers))


def test_zero_gradient_moves_nothing():
    layer = dense()
    before = latent(layer).numpy()
    step(GeodesicSGD(0.02), layer, np.zeros((6, 4)))
    np.testing.assert_allclose(latent(layer), before, rtol=1e-6)


def test_everything_else_goes_to_others(rng):
    layer = dense("hyperbolic_boundary")
    kernel, bias, point = layer.kernel, layer.bias, layer.kernel_quantizer.base_points[0]
    assert [is_latent(v) for v in (kernel, bias, point)] == [True, False, False]
    before = [v.numpy() for v in (bias, point)]
    optimizer = GeodesicSGD(0.02, others=tf.keras.optimizers.SGD(0.5))
    gradients = [tf.constant(rng.normal(size=v.shape), tf.float32) for v in (kernel, bias, point)]
    optimizer.apply_gradients(zip(gradients, (kernel, bias, point), strict=True))
    np.testing.assert_allclose(bias, before[0] - 0.5 * gradients[1], rtol=1e-6)
    np.testing.assert_allclose(point, before[1] - 0.5 * gradients[2], rtol=1e-6)


def test_filters_of_every_layer_type():
    """One filter per output channel; of a depthwise kernel, per input channel and multiplier."""
    image, line = tf.zeros((1, 8, 8, 3)), tf.zeros((1, 8, 3))
    options = {"kernel_quantizer": "ste_sign"}
    layers = lq.layers
    for layer, inputs, expected in [
        (layers.QuantConv2D(4, 3, **options), image, (0, 1, 2)),
        (layers.QuantConv1D(4, 3, **options), line, (0, 1)),
        (layers.QuantConv2DTranspose(4, 3, **options), image, (0, 1, 3)),
        (layers.QuantDepthwiseConv2D(3, depthwise_quantizer="ste_sign"), image, (0, 1)),
        (layers.QuantDense(4, **options), line, (0,)),
    ]:
        layer(inputs)
        kernel = getattr(layer, "depthwise_kernel", None)
        kernel = layer.kernel if kernel is None else kernel
        assert filter_axis_of(kernel) == expected, type(layer).__name__


def test_filters_of_one_weight_turn_together(rng):
    """One number has no direction; the kernel of all of them has one."""
    depthwise = lq.layers.QuantDepthwiseConv2D(1, depthwise_quantizer="ste_sign")
    depthwise(tf.zeros((1, 8, 8, 5)))
    kernel = depthwise.depthwise_kernel
    before = kernel.latent_variable.numpy().reshape(-1, 1)
    gradient = tf.constant(rng.normal(size=kernel.shape), tf.float32)
    GeodesicSGD(0.1).apply_gradients([(gradient, kernel)])
    after = kernel.latent_variable.numpy().reshape(-1, 1)
    np.testing.assert_allclose(angles(before, after), 0.1 * np.pi, rtol=1e-5)


def test_real_kernels_are_not_turned():
    layer = lq.layers.QuantDense(4)
    layer(tf.zeros((1, 6)))
    assert not is_latent(layer.kernel)
    eight = lq.layers.QuantDense(4, kernel_quantizer=lq.quantizers.DoReFa(8, mode="weights"))
    eight(tf.zeros((1, 6)))
    assert not is_latent(eight.kernel)


# ------------------------------------------------------------------ in Keras


def data(rng):
    x = rng.normal(size=(16, 6)).astype("float32")
    return x, np.eye(3, dtype="float32")[np.arange(16) % 3]


def model_with(optimizer):
    model = tf.keras.Sequential(
        [tf.keras.Input((6,)), dense("hyperbolic_boundary"), tf.keras.layers.Dense(3)]
    )
    model.compile(optimizer, "mse")
    return model


def train(model, x, y):
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)


def full_optimizer(direction):
    return GeodesicSGD(
        tf.keras.optimizers.schedules.CosineDecay(0.05, 16),
        others=MobiusSGD(tf.keras.optimizers.schedules.CosineDecay(0.05, 16), 0.9),
        direction=direction,
        memory=0.2,
    )


def test_the_default_is_the_setting_of_the_study(rng):
    """The optimizer of the recipe that was published, schedules and all."""
    recipe = recipes.find("digits-geodesic")
    images = recipe.batch_size * 5
    published, ours = build_optimizer(recipe, images), default(5 * recipe.epochs)
    for _ in range(3):
        assert type(published) is type(ours)
        left, right = ({**opt.get_config(), "others": None} for opt in (published, ours))
        for key in ("flip_rate", "learning_rate"):
            assert (key in left) == (key in right)
            left.pop(key, None), right.pop(key, None)
        for step in (0, 1, 100, 199):
            rates = (float(opt._learning_rate(step)) for opt in (published, ours))
            np.testing.assert_allclose(*rates, rtol=1e-5, atol=1e-9)
        assert left == right
        published, ours = (getattr(opt, "others", None) for opt in (published, ours))
    assert published is ours is None


@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic"])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_default_is_saved_with_the_model_and_goes_on(quantizer, suffix, tmp_path, rng):
    x, y = data(rng)
    model = tf.keras.Sequential([tf.keras.Input((6,)), dense(quantizer), tf.keras.layers.Dense(3)])
    model.compile(default(16), "mse")
    train(model, x, y)
    model.save(tmp_path / f"model{suffix}")
    train(model, x, y)
    loaded = tf.keras.models.load_model(tmp_path / f"model{suffix}")
    train(loaded, x, y)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "quantizer",
    [
        quantizers.Hyperbolic(r=0.05),
        quantizers.Hyperbolic(r=0.05, granularity="layer"),
        quantizers.HyperbolicBoundary(r=1.0),
        quantizers.EPC(r=0.05),
    ],
    ids=lambda q: f"{type(q).__name__}-{q.granularity}",
)
def test_under_the_default_a_map_is_one(quantizer, rng):
    """Base points change signs, and stay far from the edge."""
    x = rng.normal(size=(256, 32)).astype("float32")
    y = np.sign(x @ rng.normal(size=(32, 3)))
    model = tf.keras.Sequential(
        [
            tf.keras.Input((32,)),
            lq.layers.QuantDense(64, kernel_quantizer=quantizer),
            tf.keras.layers.BatchNormalization(momentum=0.9),
            tf.keras.layers.Activation("tanh"),
            tf.keras.layers.Dense(3),
        ]
    )
    model.compile(default(128), "mse")
    model.fit(x, y, epochs=8, batch_size=16, verbose=0)
    (share,) = callbacks.base_point_flips(model).values()
    assert share > 0.01
    assert max(callbacks.base_point_shares(model).values()) < 0.9


def test_nothing_is_left_for_a_second_one_inside():
    with pytest.raises(ValueError, match=r"GeodesicSGD\(others=<.*latent weights have this optim"):
        GeodesicSGD(0.01, others=GeodesicSGD(0.02))


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None])
def test_a_default_for_no_steps(steps):
    message = r"optimizers.default\(steps=.*\): a whole number, 1 or above"
    with pytest.raises(ValueError, match=message):
        default(steps)


@pytest.mark.parametrize("flips", [0, 2, 0.51, float("nan"), "0.02", None])
def test_a_default_of_no_flips_or_too_many(flips):
    with pytest.raises(ValueError, match=r"default\(flip_rate=.*two percent is 0.02"):
        default(100, flip_rate=flips)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_saved_with_the_model_and_goes_on(suffix, direction, tmp_path, rng):
    """Two epochs, save, load, two more: the weights of four epochs in one go."""
    x, y = data(rng)
    model = model_with(full_optimizer(direction))
    train(model, x, y)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    train(model, x, y)
    loaded = tf.keras.models.load_model(path)
    assert type(loaded.optimizer) is GeodesicSGD
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    train(loaded, x, y)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tf_checkpoint_goes_on(tmp_path, rng):
    x, y = data(rng)

    def compiled():
        model = model_with(full_optimizer("adaptive"))
        return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    model, checkpoint = compiled()
    train(model, x, y)
    path = checkpoint.save(tmp_path / "checkpoint")
    train(model, x, y)
    other, checkpoint = compiled()
    checkpoint.restore(path)
    train(other, x, y)
    for a, b in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_cloned_models_and_plain_keras_layers_know_their_filters(rng):
    model = model_with("sgd")
    clone = tf.keras.models.clone_model(model)
    assert filter_axis_of(clone.layers[0].kernel) == (0,)


def test_callbacks_set_and_show_the_flip_rate(rng):
    x, y = data(rng)
    model = model_with(GeodesicSGD(0.02, others="adam"))
    halve = tf.keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = model.fit(x, y, epochs=2, callbacks=[halve], verbose=0)
    np.testing.assert_allclose(history.history["lr"], [0.01, 0.005], rtol=1e-6)


@pytest.mark.parametrize("every", [1, 2])
def test_the_monitor_shows_what_was_asked_beside_what_happened(every, rng):
    x, y = data(rng)
    rates = tf.keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.3, 0.1])
    model = model_with(GeodesicSGD(rates, others="sgd"))
    monitor = FlipMonitor(every=every)
    logs = model.fit(x, y, batch_size=4, epochs=2, callbacks=[monitor], verbose=0).history
    np.testing.assert_allclose(logs["flips_asked"], [0.3, 0.1], rtol=1e-6)
    assert 0.05 < logs["flips_per_step"][0] < 0.6
    plain = model_with("sgd").fit(x, y, callbacks=[FlipMonitor()], verbose=0).history
    assert "flips_asked" not in plain


def test_traced_once(rng):
    layer = dense()
    optimizer = GeodesicSGD(0.02)
    optimizer.build([layer.kernel])

    @tf.function
    def train(gradient):
        optimizer.apply_gradients([(gradient, layer.kernel)])

    for _ in range(5):
        train(tf.ones((6, 4)))
    assert train.experimental_get_tracing_count() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel, optimizer, half_within",
    [
        ("ste_sign", "GeodesicSGD(0.01, others=tf.keras.optimizers.SGD(0.05, 0.9))", 0.02),
        (
            "hyperbolic_boundary",
            "GeodesicSGD(0.01, direction='adaptive', memory=0.07, others='sgd')",
            0.02,
        ),
        ("hyperbolic", "default(12)", 0.05),
    ],
)
def test_two_devices_and_half_precision_train_as_one(
    kernel, optimizer, half_within, on_two_devices
):
    printed = on_two_devices(
        """
        import numpy as np, tensorflow as tf, larq as lq, hbnn_larq

        def train(strategy, policy):
            tf.keras.utils.set_random_seed(3)
            tf.keras.mixed_precision.set_global_policy(policy)
            with strategy.scope():
                model = tf.keras.Sequential([
                    lq.layers.QuantConv2D(
                        6, 3, kernel_quantizer="KERNEL", input_shape=(6, 6, 2)),
                    tf.keras.layers.Flatten(),
                    tf.keras.layers.Dense(3, kernel_initializer="zeros", dtype="float32"),
                ])
                optimizer = hbnn_larq.optimizers.OPTIMIZER
                if policy != "float32":
                    optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
                model.compile(optimizer,
                    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            rng = np.random.default_rng(0)
            x = rng.normal(size=(32, 6, 6, 2)).astype("float32")
            model.fit(x, np.arange(32) % 3, batch_size=8, epochs=3, shuffle=False, verbose=0)
            return model.get_weights()

        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        one = train(tf.distribute.get_strategy(), "float32")
        two = train(mirrored, "float32")
        half = train(tf.distribute.get_strategy(), "mixed_float16")
        print(max(np.abs(a - b).max() for a, b in zip(one, two)))
        print(max(np.abs(a - b).max() for a, b in zip(one, half)))
        """.replace("KERNEL", kernel).replace("OPTIMIZER", optimizer),
        HBNN_LARQ_XLA="0",
    )
    two, half = map(float, printed.split()[-2:])
    assert two < 1e-5
    assert half < half_within


def test_long_training_keeps_lengths(rng):
    """Ten thousand steps: rounding does not let the vectors grow or shrink."""
    layer = dense()
    before = np.linalg.norm(latent(layer), axis=0)
    optimizer = GeodesicSGD(0.05)
    optimizer.build([layer.kernel])
    kernel = latent(layer)

    @tf.function
    def many():
        for _ in tf.range(10_000):
            optimizer.apply_gradients([(tf.random.normal((6, 4)), layer.kernel)])

    many()
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), before, rtol=2e-5)


# ------------------------------------------------------------------ one of both without work


def two_kinds(trainable=True):
    """A model with a latent and an ordinary kernel, and its variables."""
    model = tf.keras.Sequential(
        [
            lq.layers.QuantDense(4, kernel_quantizer="hyperbolic", name="bits", use_bias=False),
            tf.keras.layers.Dense(3, name="head", use_bias=False),
        ]
    )
    model.build((None, 6))
    model.get_layer("bits").trainable = trainable
    return model


@pytest.mark.parametrize("starved", ["mine", "others"])
@pytest.mark.parametrize(
    "make, is_mine",
    [
        (lambda: GeodesicSGD(0.02, others="sgd"), is_latent),
        (lambda: MobiusSGD(0.02, others=tf.keras.optimizers.Adam()), is_base_point),
    ],
)
def test_one_of_both_optimizers_may_get_no_gradient(make, is_mine, starved):
    model, optimizer = two_kinds(), make()
    variables = model.trainable_variables
    reached = [is_mine(v) == (starved == "others") for v in variables]
    before = [v.numpy() for v in variables]
    gradients = [tf.ones(v.shape) if r else None for v, r in zip(variables, reached, strict=True)]
    with pytest.warns(UserWarning, match="no gradient reaches .*; they stay"):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    moved = [not np.array_equal(b, v.numpy()) for b, v in zip(before, variables, strict=True)]
    assert moved == reached
    assert int(optimizer.iterations) == 1
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        optimizer.apply_gradients([(None, v) for v in variables])


def test_steps_are_counted_where_no_weight_is_binary():
    flips = tf.keras.optimizers.schedules.PolynomialDecay(0.1, 10, 0.0)
    for model in (two_kinds(trainable=False), tf.keras.Sequential([tf.keras.layers.Dense(2)])):
        model.compile(GeodesicSGD(flips, others="sgd"), "mse")
        before = model.predict(tf.ones((4, 6)), verbose=0)
        model.fit(tf.ones((4, 6)), tf.zeros_like(before), epochs=3, verbose=0)
        assert int(model.optimizer.iterations) == 3
        assert float(model.optimizer.learning_rate) == pytest.approx(0.08)  # of the last step
        assert np.ptp(model.predict(tf.ones((4, 6)), verbose=0) - before) > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda **ema: GeodesicSGD(0.05, tf.keras.optimizers.SGD(0.1, **ema), **ema),
        lambda **ema: MobiusSGD(0.1, others=tf.keras.optimizers.SGD(0.1, **ema), **ema),
    ],
)
def test_moving_averages_are_put_in_place_by_both(make):
    """With a momentum of 1 the average is the start, whatever the steps did."""
    model = two_kinds()
    model.compile(make(use_ema=True, ema_momentum=1.0), "mse")
    before = model.get_weights()
    model.fit(tf.ones((4, 6)), tf.ones((4, 3)), epochs=3, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.compile(make(), "mse")
    model.fit(tf.ones((4, 6)), tf.ones((4, 3)), epochs=3, verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GeodesicSGD(0.02, "adam", use_ema=True),
            "GeodesicSGD(use_ema=True): it averages the variables that this optimizer moves, and "
            "use_ema of `others` is False; give both the same.",
        ),
        (
            lambda: MobiusSGD(0.1, others=tf.keras.optimizers.Adam(use_ema=True)),
            "MobiusSGD(use_ema=False): it averages the variables that this optimizer moves, and "
            "use_ema of `others` is True; give both the same.",
        ),
    ],
)
def test_half_a_model_is_not_averaged(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


# ------------------------------------------------------------------ bad input


def test_legacy_optimizers_are_refused():
    legacy = tf.keras.optimizers.legacy.SGD()
    for optimizer in (GeodesicSGD, MobiusSGD):
        message = rf"{optimizer.__name__}\(others=.*: a legacy optimizer can neither be built nor"
        with pytest.raises(TypeError, match=message):
            optimizer(0.01, others=legacy)


@pytest.mark.parametrize("others", ["no such", None])
def test_others_that_are_no_optimizer(others):
    with pytest.raises(ValueError, match=r"GeodesicSGD\(others=.*\): not an optimizer; give one"):
        GeodesicSGD(0.01, others=others)


def test_a_decay_that_turns_nothing_is_refused():
    message = r"GeodesicSGD\(weight_decay=0.1\): it would only shorten .*; give it to `others`"
    with pytest.raises(ValueError, match=message):
        GeodesicSGD(0.01, weight_decay=0.1)


@pytest.mark.parametrize("key", ["lr", "learning_rate"])
def test_a_learning_rate_is_refused(key):
    """Keras would take `lr` and ignore it."""
    with pytest.raises(TypeError, match=rf"GeodesicSGD\({key}=0.05\): .*; give flip_rate, and"):
        GeodesicSGD(**{key: 0.05})


@pytest.mark.parametrize(
    "rate", [-0.01, 0.51, float("nan"), float("inf"), np.float32(0.6), "0.1", None]
)
def test_shares_that_are_none(rate):
    with pytest.raises(ValueError, match=r"GeodesicSGD\(flip_rate=.*\): a share of the weights"):
        GeodesicSGD(rate)


@pytest.mark.parametrize("key", ["momentum", "squares"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), "0.9", None])
def test_momentum_out_of_range(key, value):
    with pytest.raises(ValueError, match=rf"GeodesicSGD\({key}=.*\): at least 0 and below 1"):
        GeodesicSGD(**{key: value})


@pytest.mark.parametrize("memory", [0, -0.1, 1.01, float("nan"), float("inf"), "0.05", True])
def test_a_memory_that_is_no_share(memory):
    with pytest.raises(ValueError, match=r"GeodesicSGD\(memory=.*\): a number above 0, at most 1"):
        GeodesicSGD(memory=memory)
    assert GeodesicSGD(memory=1).memory == 1.0


def test_unknown_choices():
    with pytest.raises(ValueError, match=r"granularity='row'\): one of filter, layer"):
        GeodesicSGD(granularity="row")
    with pytest.raises(ValueError, match=r"direction='up'\): one of momentum, sign, adaptive"):
        GeodesicSGD(direction="up")


def test_a_kernel_without_filters():
    """A QuantizedVariable made by hand: nobody knows how its filters lie."""
    variable = lq.quantized_variable.QuantizedVariable.from_variable(
        tf.Variable(tf.ones((6, 4)), name="by_hand"), lq.quantizers.SteSign(), precision=1
    )
    pair = [(tf.ones((6, 4)), variable)]
    with pytest.raises(ValueError, match="nobody noted which axes of by_hand:0 form a filter"):
        GeodesicSGD(0.01).apply_gradients(pair)
    GeodesicSGD(0.01, granularity="layer").apply_gradients(pair)
