"""Laws of MobiusSGD, against the paper's equations in numpy."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import flip_rate, poincare
from hbnn_larq.optimizers import STEP_RULES, GroupedAdam, MobiusSGD, is_base_point, is_latent
from hbnn_larq.quantizers import Hyperbolic, HyperbolicBoundary
from hbnn_larq.rivals import Mapped

R = 0.5


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


def layer(**kwargs):
    built = lq.layers.QuantDense(4, kernel_quantizer="hyperbolic", **kwargs)
    built.kernel_quantizer.r = R
    built(tf.zeros((1, 6)))
    return built


def point(value):
    variable = tf.Variable(tf.cast(value, tf.float32))
    poincare.put_in_ball(variable, r=R, axis=(0,))
    return variable


def paper_step(p, g, eta):
    """Eq. 16 with the gradient put into the ball by exp_0, column by column, from the text."""
    p, g = np.asarray(p, np.float64), np.asarray(g, np.float64)
    out = np.empty_like(p)
    for k in range(p.shape[1]):
        a, b = p[:, k], g[:, k]
        norm = np.sqrt(R) * np.linalg.norm(b)
        q = -np.tanh(eta * norm) * b / norm
        dot, aa, qq = R * a @ q, R * a @ a, R * q @ q
        out[:, k] = ((1 + 2 * dot + qq) * a + (1 - aa) * q) / (1 + 2 * dot + aa * qq)
    return out


def test_who_is_who():
    dense = layer()
    kernel, bias, base_point = (
        next(w for w in dense.weights if name in w.name) for name in ("kernel:0", "bias", "_base")
    )
    assert [is_base_point(w) for w in (kernel, bias, base_point)] == [False, False, True]
    assert [is_latent(w) for w in (kernel, bias, base_point)] == [True, False, False]


def test_base_points_take_equation_16(rng):
    p, g = rng.normal(size=(2, 6, 3)) * [[[0.2]], [[3.0]]]
    variable = point(p)
    MobiusSGD(0.3, momentum=0.9).apply_gradients([(tf.cast(g, tf.float32), variable)])
    np.testing.assert_allclose(variable, paper_step(p, g, 0.3), rtol=1e-6)


def test_the_rest_takes_keras_sgd(rng):
    values = [rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=5).astype("float32")]
    ours, keras = ([tf.Variable(v) for v in values] for _ in range(2))
    optimizers = MobiusSGD(0.1, 0.9, nesterov=True), tf.keras.optimizers.SGD(0.1, 0.9, True)
    for _ in range(4):
        gradients = [tf.constant(rng.normal(size=v.shape), tf.float32) for v in values]
        optimizers[0].apply_gradients(zip(gradients, ours, strict=True))
        optimizers[1].apply_gradients(zip(gradients, keras, strict=True))
    for a, b in zip(ours, keras, strict=True):
        np.testing.assert_array_equal(a, b)


def test_equations_14_and_15(rng):
    """Training the latent by SGD is w_t = exp_p(w~ - eta dL/dw~)."""
    p = tf.constant(rng.normal(size=(6, 3)) * 0.2, tf.float32)
    latent = tf.Variable(rng.normal(size=(6, 3)).astype("float32"))
    start = latent.numpy()
    with tf.GradientTape() as tape:
        w = poincare.expmap(p, latent, r=R, axis=0)
        loss = tf.reduce_sum(tf.sin(3.0 * w))
    g = tape.gradient(loss, latent)
    MobiusSGD(0.1).apply_gradients([(g, latent)])
    expected = poincare.expmap(p, start - np.float32(0.1) * g.numpy(), r=R, axis=0)
    np.testing.assert_allclose(poincare.expmap(p, latent, r=R, axis=0), expected, rtol=1e-6)


def test_decay_is_l2_in_the_gradient_by_group(rng):
    dense = layer()
    zero = [tf.zeros_like(w) for w in dense.trainable_weights]
    p0 = 0.1 * rng.normal(size=(6, 4)).astype("float32")
    for w in dense.trainable_weights:
        w.assign(p0 if is_base_point(w) else tf.ones_like(w))
    optimizer = MobiusSGD(0.5, weight_decay=0.1, latent_decay=0.2, base_point_decay=0.3)
    optimizer.apply_gradients(zip(zero, dense.trainable_weights, strict=True))
    np.testing.assert_allclose(dense.kernel.latent_variable, 1 - 0.5 * 0.2, rtol=1e-6)
    np.testing.assert_array_equal(dense.bias, 1.0)  # neither latent nor of rank above 1
    moved = paper_step(p0, 0.3 * p0, 0.5)
    np.testing.assert_allclose(
        dense.kernel_quantizer.base_points[0].latent_variable, moved, rtol=1e-6
    )


def shrunk(variable, steps, **decay):
    """What no gradient at all makes of a latent, step by step."""
    optimizer = MobiusSGD(0.1, 0.9, **decay)
    optimizer.build([variable])
    path = [variable.numpy()]
    for _ in range(steps):
        optimizer.apply_gradients([(tf.zeros_like(variable), variable)])
        path.append(variable.numpy())
    return np.array(path)


@pytest.mark.parametrize("decay", [0.05, 0.3, 2.0])
def test_decoupled_decay_changes_no_sign_and_coupled_decay_all(decay):
    start = np.array([[-3.0, 1.0], [0.2, -1e-3]], np.float32)
    coupled = shrunk(tf.Variable(start), 200, weight_decay=decay)
    path = shrunk(tf.Variable(start), 200, weight_decay=decay, decoupled=True)
    lowest = (coupled / start).min(axis=0)
    np.testing.assert_allclose(lowest, -flip_rate.overshoot(0.1, decay, 0.9), rtol=0.1)
    assert np.all(path / start >= 0) and np.all(np.diff(np.abs(path), axis=0) <= 0)
    share = min(0.1 * decay / (1 - 0.9), 1.0)  # off a weight in each step
    np.testing.assert_allclose(path[1:], path[:-1] * (1 - share), rtol=1e-5, atol=1e-30)


def test_decoupled_decay_is_coupled_decay_in_the_long_run():
    start = np.ones((2, 2), np.float32)
    coupled = shrunk(tf.Variable(start), 3000, weight_decay=5e-3)
    path = shrunk(tf.Variable(start), 3000, weight_decay=5e-3, decoupled=True)
    assert path[-1, 0, 0] == pytest.approx(np.exp(-15), rel=0.05)
    np.testing.assert_allclose(np.log(coupled[1000:]), np.log(path[1000:]), rtol=0.06)


def test_decoupled_decay_is_kept_with_the_optimizer():
    config = MobiusSGD(0.1, 0.9, weight_decay=0.1, decoupled=True).get_config()
    assert MobiusSGD.from_config(config).decoupled is True
    del config["decoupled"]  # of a file from before
    assert MobiusSGD.from_config(config).decoupled is False


def with_thresholds(make, rng, **options):
    """Weights of a net with a kernel, a bias, a scale and a shift after seven steps."""
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Dense(3, bias_initializer="ones", input_shape=(4,)),
            tf.keras.layers.BatchNormalization(beta_initializer="ones"),
        ]
    )
    optimizer = make(**options)
    for _ in range(7):
        gradients = [tf.constant(rng.normal(size=v.shape), tf.float32) for v in model.variables[:4]]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return [v.numpy() for v in model.trainable_variables]


@pytest.mark.parametrize(
    "make, options",
    [
        (MobiusSGD, {}),
        (MobiusSGD, {"weight_decay": 0.3, "decay_all": True}),
        (MobiusSGD, {"weight_decay": 0.3, "decay_all": True, "decoupled": True, "momentum": 0.9}),
        (MobiusSGD, {"momentum": 0.9, "nesterov": True}),
        (GroupedAdam, {"weight_decay": 0.3}),
        (GroupedAdam, {"weight_decay": 0.3, "decay_all": True}),
        (GroupedAdam, {"amsgrad": True}),
    ],
)
def test_thresholds_learn_at_a_rate_of_their_own(make, options):
    """As if they alone had an optimizer whose learning rate is that many times as high."""

    def train(learning_rate, **more):
        return with_thresholds(
            make, np.random.default_rng(0), learning_rate=learning_rate, **options, **more
        )

    slow, fast, both = train(0.01), train(0.05), train(0.01, threshold_rate=5.0)
    np.testing.assert_array_equal(both[0], slow[0])  # the kernel
    for thresholds in zip(both[1:], fast[1:], strict=True):
        np.testing.assert_allclose(*thresholds, rtol=2e-5, atol=1e-6)
    for thresholds in zip(train(0.01, threshold_rate=1.0), slow, strict=True):
        np.testing.assert_array_equal(*thresholds)


@pytest.mark.parametrize("make", [MobiusSGD, GroupedAdam])
def test_scales_that_a_quantizer_trains_are_no_thresholds(make):
    layer = lq.layers.QuantConv2D(4, 3, kernel_quantizer="rbnn", input_shape=(8, 8, 4))
    tf.keras.Sequential([layer])
    before = {v.name: v.numpy() for v in layer.trainable_variables}
    optimizer = make(0.01, threshold_rate=10)
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in layer.trainable_variables])
    moved = {v.name: before[v.name] - v.numpy() for v in layer.trainable_variables}
    assert len(moved) == 4
    for name, step in moved.items():
        wanted = 0.1 if "bias" in name else 0.01
        np.testing.assert_allclose(step, wanted, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("make", [MobiusSGD, GroupedAdam])
def test_real_convolutions_learn_at_a_rate_of_their_own(make):
    """Neither binary kernels nor the dense layer do."""
    model = tf.keras.Sequential([
        tf.keras.layers.Conv2D(4, 3, name="real", input_shape=(8, 8, 3)),
        lq.layers.QuantConv2D(4, 3, kernel_quantizer="ste_sign", name="binary"),
        lq.layers.QuantConv2D(4, 1, kernel_quantizer="slb", name="states"),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(4, name="dense"),
    ])  # fmt: skip
    variables = model.trainable_variables
    before = [v.numpy() for v in variables]
    optimizer = make(0.01, threshold_rate=10, convolution_rate=3)
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables])
    for v, old in zip(variables, before, strict=True):
        wanted = {"real/kernel:0": 0.03}.get(v.name, 0.1 if "bias" in v.name else 0.01)
        np.testing.assert_allclose(old - v.numpy(), wanted, rtol=1e-3, err_msg=v.name)
    config = optimizer.get_config()
    assert make.from_config(config).convolution_rate == 3
    del config["convolution_rate"]  # of a file from before
    assert make.from_config(config).convolution_rate == 1


@pytest.mark.parametrize("quantizer", ["hyperbolic", "rbnn"])
@pytest.mark.parametrize("make", [MobiusSGD, GroupedAdam])
def test_no_decay_is_none_as_in_keras(make, quantizer):
    def train(weight_decay):
        tf.keras.utils.set_random_seed(0)
        layer = lq.layers.QuantDense(4, kernel_quantizer=quantizer, input_shape=(8,))
        model = tf.keras.Sequential([layer])
        optimizer = make(0.01, weight_decay=weight_decay)
        if make is GroupedAdam:
            optimizer = MobiusSGD(0.01, others=optimizer)
        model.compile(optimizer, "mse")
        model.fit(tf.ones((8, 8)), tf.ones((8, 4)), epochs=2, verbose=0)
        return model.get_weights()

    for none, zero in zip(train(None), train(0.0), strict=True):
        np.testing.assert_array_equal(none, zero)


@pytest.mark.parametrize("make", [MobiusSGD, GroupedAdam])
def test_the_rate_of_thresholds_is_kept_with_the_optimizer(make):
    config = make(threshold_rate=10).get_config()
    assert make.from_config(config).threshold_rate == 10
    del config["threshold_rate"]  # of a file from before
    assert make.from_config(config).threshold_rate == 1


@pytest.mark.parametrize("make", [MobiusSGD, GroupedAdam])
@pytest.mark.parametrize("key", ["threshold_rate", "convolution_rate"])
@pytest.mark.parametrize("rate", [0, -1.0, float("inf"), float("nan"), None, "3", True])
def test_factors_on_the_rate_that_are_none(make, key, rate):
    with pytest.raises(ValueError, match=rf"{make.__name__}\({key}=.*\): a finite number above 0"):
        make(**{key: rate})


def test_decays_left_out():
    dense = layer()
    kernel, bias, p = dense.trainable_weights
    assert [MobiusSGD(weight_decay=0.1).decay_of(w) for w in (kernel, bias, p)] == [0.1, 0.0, 0.1]
    assert MobiusSGD(weight_decay=0.1, latent_decay=0.2).decay_of(p) == 0.2
    assert MobiusSGD(weight_decay=0.1, decay_all=True).decay_of(bias) == 0.1


@pytest.mark.parametrize("step", STEP_RULES)
def test_a_thousand_absurd_steps_stay_in_the_ball(step, rng):
    variable = point(rng.normal(size=(6, 3)) * 0.1)
    decay = None if step == "toward" else 0.1
    optimizer = MobiusSGD(1e6, step=step, base_point_decay=decay)

    @tf.function
    def train(gradient):
        optimizer.apply_gradients([(gradient, variable)])

    optimizer.build([variable])
    for k in range(1000):
        gradient = rng.normal(size=(6, 3)) * 10.0 ** rng.uniform(-30, 30)
        gradient[k % 6, 0] = [np.inf, np.nan, 0.0][k % 3]
        train(tf.cast(gradient, tf.float32))
        inside = R * np.sum(variable.numpy().astype("float64") ** 2, 0)
        assert np.all(inside < 1.0), (k, inside)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_any_keras_optimizer_trains_safely(optimizer, rng):
    model = tf.keras.Sequential([tf.keras.Input((6,)), layer(), tf.keras.layers.Dense(3)])
    keras = tf.keras.optimizers.get(optimizer)
    keras.learning_rate = 0.05
    model.compile(keras, "mse")
    x = rng.normal(size=(16, 6)).astype("float32")
    base_point = model.layers[0].kernel_quantizer.base_points[0]
    base_point.assign(3.0 * tf.ones_like(base_point))  # far outside
    history = model.fit(x, np.eye(3)[np.arange(16) % 3], epochs=20, verbose=0).history["loss"]
    out = model(x).numpy()
    assert np.all(np.isfinite(out))
    assert np.all(np.isfinite(base_point.latent_variable)), history


def test_a_schedule_moves_both_kinds():
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.0])
    p, w = point(np.full((6, 3), 0.1)), tf.Variable(tf.ones((2, 2)))
    optimizer = MobiusSGD(schedule)
    after = []
    for _ in range(3):
        optimizer.apply_gradients([(tf.ones_like(v), v) for v in (p, w)])
        after.append([p.numpy().copy(), w.numpy().copy()])
    for first, second, third in zip(*after, strict=True):
        assert np.all(first != 1.0) and np.all(first != np.float32(0.1))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(second, third)


def test_base_points_have_no_momentum_slot():
    dense = layer()
    optimizer = MobiusSGD(0.1, 0.9)
    optimizer.build(dense.trainable_weights)
    slots = [v.name for v in optimizer.variables if "/m/" in v.name or v.name.startswith("m/")]
    assert len(slots) == 2 and not any("base_point" in name for name in slots)


# Not SavedModel: from it Keras 2.15 restores no slots, of its own SGD neither.
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("with_adam", [False, True], ids=["sgd", "adam"])
def test_saved_with_the_model_and_goes_on(with_adam, suffix, tmp_path, rng):
    """Two epochs, save, load, two more: the weights of four epochs in one go."""
    x = rng.normal(size=(16, 6)).astype("float32")
    y = np.eye(3, dtype="float32")[np.arange(16) % 3]
    kwargs = {"others": tf.keras.optimizers.Adam(0.01)} if with_adam else {"momentum": 0.9}
    model = tf.keras.Sequential([tf.keras.Input((6,)), layer(), tf.keras.layers.Dense(3)])
    model.compile(MobiusSGD(0.05, base_point_decay=0.01, **kwargs), "mse")

    def train(m):
        m.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)

    train(model)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    train(model)
    loaded = tf.keras.models.load_model(path)
    assert type(loaded.optimizer) is MobiusSGD
    assert loaded.optimizer.get_config().keys() == model.optimizer.get_config().keys()
    train(loaded)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tf_checkpoint_goes_on(tmp_path, rng):
    x = rng.normal(size=(16, 6)).astype("float32")
    y = np.eye(3, dtype="float32")[np.arange(16) % 3]

    def compiled():
        model = tf.keras.Sequential([tf.keras.Input((6,)), layer(), tf.keras.layers.Dense(3)])
        model.compile(MobiusSGD(0.05, 0.9, latent_decay=0.01), "mse")
        return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    def train(m):
        m.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)

    model, checkpoint = compiled()
    train(model)
    path = checkpoint.save(tmp_path / "checkpoint")
    train(model)
    other, checkpoint = compiled()
    checkpoint.restore(path)
    train(other)
    for a, b in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_others_leave_base_points_alone(rng):
    dense = layer()
    before = [w.numpy().copy() for w in dense.trainable_weights]
    optimizer = MobiusSGD(0.0, others=tf.keras.optimizers.Adam(0.1))
    optimizer.apply_gradients([(tf.ones_like(w), w) for w in dense.trainable_weights])
    after = [w.numpy() for w in dense.trainable_weights]
    np.testing.assert_allclose(after[0], before[0] - 0.1, atol=1e-5)
    np.testing.assert_allclose(after[1], before[1] - 0.1, atol=1e-5)
    np.testing.assert_array_equal(after[2], before[2])
    MobiusSGD(0.1).apply_gradients([(tf.ones_like(dense.weights[2]), dense.weights[2])])
    assert np.any(dense.weights[2].numpy() != before[2])


def test_traced_once(rng):
    variable = point(rng.normal(size=(6, 3)) * 0.1)
    optimizer = MobiusSGD(0.1)
    optimizer.build([variable])

    @tf.function
    def train(gradient):
        optimizer.apply_gradients([(gradient, variable)])

    for _ in range(5):
        train(tf.ones_like(variable))
    assert train.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("key", ["weight_decay", "latent_decay", "base_point_decay"])
@pytest.mark.parametrize("value", [-1e-4, float("nan"), float("inf"), "x", True])
def test_decays_that_are_none(key, value):
    with pytest.raises(ValueError, match=rf"MobiusSGD\({key}=.*\): a decay is a number of at l"):
        MobiusSGD(**{key: value})


@pytest.mark.parametrize("value", ["x", True])
def test_decays_of_adam_that_are_none(value):
    with pytest.raises(ValueError, match=r"GroupedAdam\(weight_decay=.*\): a decay is a number"):
        GroupedAdam(weight_decay=value)


@pytest.mark.parametrize("rate", [0, -1.0, None, True])
def test_rates_of_base_points_that_are_none(rate):
    with pytest.raises(ValueError, match=r"MobiusSGD\(base_point_rate=.*\): a finite number above"):
        MobiusSGD(base_point_rate=rate)


@pytest.mark.parametrize("others", [None, "adam"])
def test_base_points_with_a_rate_of_their_own(others, rng):
    """As if they alone had an optimizer with that rate, decay and all; the rest sees nothing."""
    p, fast_p, w, same_w = (point(np.full((6, 3), 0.1)), point(np.full((6, 3), 0.1)),
                            tf.Variable(tf.ones((2, 2))), tf.Variable(tf.ones((2, 2))))  # fmt: skip
    slow, fast = (
        MobiusSGD(0.01, base_point_decay=0.1, base_point_rate=rate, others=others)
        for rate in (1.0, 30.0)
    )
    alone_p = point(np.full((6, 3), 0.1))
    alone = MobiusSGD(0.3, base_point_decay=0.1)
    for optimizer, variables in ((slow, [p, w]), (fast, [fast_p, same_w]), (alone, [alone_p])):
        optimizer.build(variables)
    for _ in range(3):
        gradient = tf.constant(rng.normal(size=(6, 3)), tf.float32)
        slow.apply_gradients([(gradient, p), (tf.ones((2, 2)), w)])
        fast.apply_gradients([(gradient, fast_p), (tf.ones((2, 2)), same_w)])
        alone.apply_gradients([(gradient, alone_p)])
    np.testing.assert_allclose(fast_p.numpy(), alone_p.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(w.numpy(), same_w.numpy())
    assert np.abs(fast_p.numpy() - p.numpy()).max() > 0.1
    config = fast.get_config()
    assert MobiusSGD.from_config(config).base_point_rate == 30
    del config["base_point_rate"]  # of a file from before
    assert MobiusSGD.from_config(config).base_point_rate == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_step_toward_goes_a_share_of_the_geodesic_whatever_the_gradient(share, size, rng):
    start = rng.normal(size=(6, 3)) * 0.3
    gradient = rng.normal(size=(6, 3))
    variable = point(start)
    optimizer = MobiusSGD(0.1, step="toward", base_point_rate=10 * share or 1e-9)
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant(size * gradient, tf.float32), variable)])
    space = {"r": R, "axis": (0,)}
    aim = tf.constant(-0.5 / R**0.5 * gradient / np.linalg.norm(gradient, axis=0), tf.float32)
    start = tf.constant(start, tf.float32)
    gone, left = (poincare.distance(a, b, **space) for a, b in ((start, variable), (variable, aim)))
    whole = poincare.distance(start, aim, **space)
    np.testing.assert_allclose(gone, share * whole, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(left, (1 - share) * whole, rtol=1e-4, atol=1e-3)


def test_a_step_toward_without_a_gradient_stays():
    variable = point(np.full((6, 3), 0.1))
    optimizer = MobiusSGD(0.1, step="toward")
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.zeros((6, 3)), variable)])
    np.testing.assert_array_equal(variable.numpy(), np.full((6, 3), 0.1, np.float32))


@pytest.mark.parametrize(
    "quantizer, reach",
    [
        (Hyperbolic(r=0.05), np.tanh(0.05**0.5 * 0.4 * 6**0.5) / 0.05**0.5),
        (Hyperbolic(r=0.05, granularity="layer"), np.tanh(0.05**0.5 * 0.4 * 18**0.5) / 0.05**0.5),
        (Hyperbolic(r=4.0), 0.25),  # half way to the edge of a ball of radius 0.5
        (HyperbolicBoundary(r=0.05), 0.5 / 0.05**0.5),  # weights on the sphere, whatever latents
        (Mapped(Hyperbolic(r=4.0), "irnet"), 0.25),
        (
            Mapped(Hyperbolic(r=0.05), "irnet"),
            np.tanh(0.05**0.5 * 0.4 * 6**0.5) / 0.05**0.5,
        ),
    ],
    ids=["filter", "layer", "half way", "boundary", "host", "host, filter"],
)
def test_base_points_go_toward_no_farther_than_the_weights_are(quantizer, reach, rng):
    dense = lq.layers.QuantDense(3, kernel_quantizer=quantizer)
    dense.build((None, 6))
    dense.kernel.assign(np.full((6, 3), 0.4))
    (p,) = dense.kernel_quantizer.base_points
    optimizer = MobiusSGD(1.0, step="toward")
    optimizer.build([p])
    optimizer.apply_gradients([(tf.constant(rng.normal(size=(6, 3)), tf.float32), p)])
    axis = None if getattr(quantizer, "granularity", "") == "layer" else 0
    np.testing.assert_allclose(np.linalg.norm(p.numpy(), axis=axis), reach, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MobiusSGD(momentum=1.5),
            "MobiusSGD(momentum=1.5): at least 0 and at most 1.",
        ),
        (
            lambda: MobiusSGD(momentum=float("nan")),
            "MobiusSGD(momentum=nan): at least 0 and at most 1.",
        ),
        (
            lambda: MobiusSGD(-1.0),
            "MobiusSGD(learning_rate=-1.0): a finite number of at least 0, or a schedule.",
        ),
        (
            lambda: GroupedAdam(float("nan")),
            "GroupedAdam(learning_rate=nan): a finite number of at least 0, or a schedule.",
        ),
        (lambda: GroupedAdam(beta_1=1.5), "GroupedAdam(beta_1=1.5): at least 0 and below 1."),
    ],
)
def test_what_would_climb_or_diverge_is_named(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(
    "make", [lambda: MobiusSGD(0.1, weight_decay=0.1), lambda: GroupedAdam(0.1, weight_decay=0.1)]
)
def test_what_is_excluded_from_decay_keeps_its_size(make):
    kept, decayed = tf.Variable(tf.ones((2, 2)), name="kept"), tf.Variable(tf.ones((2, 2)))
    optimizer = make()
    optimizer.exclude_from_weight_decay(var_names=["kept"])
    optimizer.apply_gradients([(tf.zeros((2, 2)), v) for v in (kept, decayed)])
    np.testing.assert_array_equal(kept, 1.0)
    np.testing.assert_allclose(decayed, 0.99, rtol=1e-6)
    assert (optimizer.decay_of(kept), optimizer.decay_of(decayed)) == (0.0, 0.1)


def test_unknown_step():
    with pytest.raises(ValueError, match=r"step='mobius'\): the rules are exp0, literal, riem"):
        MobiusSGD(step="mobius")


def test_arguments_without_effect():
    with pytest.raises(ValueError, match="would have no effect"):
        MobiusSGD(momentum=0.9, others="adam")
    with pytest.raises(ValueError, match="would have no effect"):
        MobiusSGD(decoupled=True, others="adam")
    with pytest.raises(
        ValueError, match="threshold_rate and convolution_rate would have no effect"
    ):
        MobiusSGD(threshold_rate=10.0, others="adam")
    with pytest.raises(ValueError, match=r"base_point_decay=0.1, step=\"toward\"\): .* no effect"):
        MobiusSGD(base_point_decay=0.1, step="toward")
    with pytest.raises(ValueError, match=r"decay_all, decoupled, .* would have no effect"):
        MobiusSGD(decay_all=True, others="adam")
    with pytest.raises(ValueError, match=r"momentum=1.0, decoupled=True\): .* must be below 1"):
        MobiusSGD(momentum=1.0, decoupled=True)
