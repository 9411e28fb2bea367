"""The formulas of the rivals: values worked out by hand, gradients written again in NumPy."""

import math

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq.rivals import (
    DSQ,
    FDA,
    RBNN,
    SLB,
    ABCNet,
    BinaryConnect,
    DoReFaSign,
    EDESign,
    FourierSign,
    IRNet,
    MDSoftmaxS,
    MDTanh,
    MDTanhS,
    RBNNSign,
    ReCU,
    ReCUSign,
    XNORPlusPlus,
    dsq,
    fda,
    irnet,
    rad,
    rbnn,
    recu,
    soft_signs,
)
from hbnn_larq.rivals.gradients import away_from_zero
from hbnn_larq.rivals.standardization import standardize

AXIS = (0, 1, 2)


@pytest.fixture
def w(rng):
    kernel = rng.normal(size=(3, 3, 4, 6)).astype("float32")
    kernel[0, 0, 0, 0] = 0.0
    return kernel


@pytest.fixture
def g(rng):
    return rng.normal(size=(3, 3, 4, 6)).astype("float32")


def forward_backward(quantizer, w, g, *, training=False, progress=None):
    """The binary kernel, the gradient to w, and those to the quantizer's own variables."""
    x = tf.constant(w)
    quantizer.build(x.shape)
    if progress is not None:
        quantizer.progress.assign(progress)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = quantizer(x, training=training)
    gradients = tape.gradient(y, [x, *quantizer.trainable_weights], output_gradients=tf.constant(g))
    return y.numpy(), *(h.numpy() for h in gradients)


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def standardize_gradient(w, g, epsilon=0.0):
    """baselines' formula for the way back through per-filter standardisation."""
    n = math.prod(w.shape[:-1])
    w0 = w - w.mean(AXIS)
    s_sq = (w0**2).sum(AXIS) / (n - 1) + epsilon
    return (g - g.mean(AXIS) - w0 * (w0 * g).sum(AXIS) / ((n - 1) * s_sq)) / np.sqrt(s_sq)


# ------------------------------------------------------------------ standardisation


@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 0.3])
def test_standardisation_and_its_gradient(w, g, epsilon):
    x = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = standardize(x, AXIS, epsilon=epsilon)
    expected = (w - w.mean(AXIS)) / np.sqrt(w.var(AXIS, ddof=1) + epsilon)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    got = tape.gradient(y, x, output_gradients=tf.constant(g))
    np.testing.assert_allclose(got, standardize_gradient(w, g, epsilon), atol=2e-6)


def test_a_filter_of_equal_weights_is_zero_with_a_finite_gradient(g):
    x = tf.fill((3, 3, 4, 6), 0.7)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = standardize(x, AXIS)
    np.testing.assert_allclose(y, 0.0, atol=1e-6)
    assert np.abs(tape.gradient(y, x, output_gradients=tf.constant(g)).numpy()).max() < 10


# ------------------------------------------------------------------ IR-Net


@pytest.mark.parametrize(
    ("progress", "t", "k", "at_0", "at_1"),
    [(0.0, 0.1, 10.0, 1.0, 0.990), (0.5, 1.0, 1.0, 1.0, 0.420), (1.0, 10.0, 1.0, 10.0, 0.0)],
)
def test_ede_schedule(progress, t, k, at_0, at_1):
    got_t, got_k = irnet.ede_parameters(progress, 0.1, 10.0)
    assert float(got_t) == pytest.approx(t, rel=1e-6)
    assert float(got_k) == pytest.approx(k, rel=1e-6)
    window = irnet.ede(tf.constant([0.0, 1.0]), got_t, got_k)
    np.testing.assert_allclose(window, [at_0, at_1], atol=6e-4)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_irnet(w, g, progress):
    b, g_w = forward_backward(IRNet(), w, g, progress=progress)
    hat = standardize(tf.constant(w), AXIS).numpy()
    np.testing.assert_array_equal(b, sign(hat))  # Gaussian filters: the scale is 1
    t = 0.1 * 100**progress
    k = max(1 / t, 1.0)
    window = k * t * (1 - np.tanh(t * hat) ** 2)
    np.testing.assert_allclose(g_w, standardize_gradient(w, g * window), atol=1e-5 * k * t)


def test_irnet_scale_is_a_power_of_two():
    """mean|x| of 0.798 gives 1; a filter with three large weights of 36 gives 0.25."""
    rare = np.zeros((3, 3, 4, 2), "float32")
    rare[..., 0] = np.random.default_rng(0).normal(size=(3, 3, 4))
    rare.reshape(-1, 2)[:3, 1] = [1.0, -1.0, 1.0]
    hat = standardize(tf.constant(rare), AXIS)
    size = np.abs(hat).mean(AXIS)
    scale = irnet.power_of_two_scale(hat, AXIS).numpy().ravel()
    np.testing.assert_array_equal(scale, 2.0 ** np.round(np.log2(size)))
    assert scale[0] == 1.0 and scale[1] < 1.0


def test_ede_sign_of_activations(rng):
    a = tf.constant(rng.normal(size=(2, 4, 4, 3)), tf.float32)
    quantizer = EDESign()
    quantizer.build(a.shape)
    quantizer.progress.assign(0.5)
    with tf.GradientTape() as tape:
        tape.watch(a)
        b = quantizer(a)
    np.testing.assert_array_equal(b, sign(a.numpy()))
    np.testing.assert_allclose(tape.gradient(b, a), 1 - np.tanh(a) ** 2, atol=1e-6)


# ------------------------------------------------------------------ ReCU


@pytest.mark.parametrize(
    ("progress", "tau"), [(0, 0.85), (0.25, 0.8731), (0.5, 0.9029), (0.75, 0.9410), (1, 0.99)]
)
def test_recu_schedule(progress, tau):
    assert float(recu.tau_at(progress, 0.85, 0.99)) == pytest.approx(tau, abs=5e-5)


@pytest.mark.parametrize(("tau", "limit"), [(0.85, 1.204), (0.99, 3.912)])
def test_recu_clamp(tau, limit, rng):
    kernel = tf.constant(rng.standard_t(3, size=(3, 3, 64, 8)), tf.float32)
    clamped = recu.rectified_clamp(kernel, tau, AXIS).numpy()
    free = recu.SPREAD * standardize(kernel, AXIS, epsilon=1e-5).numpy()
    assert np.abs(clamped).max() / np.abs(free).mean() == pytest.approx(limit, abs=1e-3)
    assert free.std() == pytest.approx(2.83, abs=0.01)


@pytest.mark.parametrize(
    ("law", "tau", "mean_size", "deviations", "beyond"),
    [
        ("laplace", 0.85, 2.0, 0.851, 0.3),  # tau is a quantile of Laplace's law: 2 - 2 tau beyond
        ("laplace", 0.99, 2.0, 2.766, 0.02),
        ("normal", 0.85, 2.257, 0.961, 0.3367),
        ("normal", 0.99, 2.257, 3.121, 0.0018),
    ],
)
def test_recu_clamp_of_laplace_and_gauss_weights(law, tau, mean_size, deviations, beyond, rng):
    """The limit, in mean sizes and in deviations, and the share of weights that it clamps."""
    kernel = np.linspace(0.5, 3, 32) * getattr(rng, law)(size=(3, 3, 512, 32))
    kernel = tf.constant(kernel + rng.normal(size=32), tf.float32)
    size = np.abs(recu.rectified_clamp(kernel, tau, AXIS).numpy())
    limit = size.max()
    assert limit / -math.log(2 - 2 * tau) == pytest.approx(mean_size, rel=0.01)
    assert limit / math.sqrt(8) == pytest.approx(deviations, rel=0.01)
    assert np.mean(size == limit) == pytest.approx(beyond, rel=0.02, abs=2e-4)


def test_recu(w, g):
    quantizer = ReCU()
    b, g_w, g_alpha = forward_backward(quantizer, w, g, progress=0.0)
    alpha = quantizer.alpha.numpy()
    assert np.all((alpha >= 0.1) & (alpha < 1.0))
    free = recu.SPREAD * standardize(tf.constant(w), AXIS, epsilon=1e-5).numpy()
    inside = np.abs(free) <= -np.abs(free).mean() * math.log(2 - 2 * 0.85)
    assert 0.5 < inside.mean() < 0.9
    np.testing.assert_allclose(b, alpha * sign(free), rtol=1e-6)
    expected = recu.SPREAD * standardize_gradient(w, g * alpha * inside, 1e-5)
    np.testing.assert_allclose(g_w, expected, atol=1e-5)
    np.testing.assert_allclose(g_alpha, (g * sign(free)).sum(AXIS), atol=1e-5)


def test_recu_activation(rng):
    a = tf.constant(3 + 2 * rng.normal(size=(2, 4, 4, 3)), tf.float32)
    quantizer = ReCUSign()
    np.testing.assert_array_equal(quantizer(a, training=False), sign(a.numpy()))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(a)
        b = quantizer(a, training=True)
        spread = np.sqrt(a.numpy().var((1, 2, 3), ddof=1, keepdims=True) + 1e-5)
        scaled = a / tf.sqrt(tf.math.reduce_variance(a, (1, 2, 3), keepdims=True) * 48 / 47 + 1e-5)
    np.testing.assert_array_equal(b, sign(a.numpy()))
    window = np.maximum(0, 2 - 2 * np.abs(a.numpy() / spread))
    expected = tape.gradient(scaled, a, output_gradients=tf.constant(window, tf.float32))
    np.testing.assert_allclose(tape.gradient(b, a), expected, atol=1e-6)


# ------------------------------------------------------------------ RBNN


@pytest.mark.parametrize(
    ("n", "expected"),
    [(576, (24, 24)), (1152, (32, 36)), (2304, (48, 48)), (4608, (64, 72)), (144, (12, 12)),
     (288, (16, 18)), (7, (1, 7))],
)  # fmt: skip
def test_rbnn_factors(n, expected):
    assert rbnn.factors(n) == expected


@pytest.mark.parametrize(
    ("progress", "height"), [(0.0, 1.414), (0.4, 1.414), (2 / 3, 1.414), (1.0, 14.14)]
)
def test_rbnn_window(progress, height):
    t, k = irnet.ede_parameters(progress, 0.01, 10.0)
    edge = math.sqrt(2) / t
    window = rbnn.triangle(tf.stack([0.0, 0.999 * edge, 1.001 * edge]), t, k).numpy()
    assert window[0] == pytest.approx(height, rel=1e-3)
    assert window[1] > 0 and window[2] == 0


@pytest.mark.parametrize("detach", [False, True])
def test_rbnn(w, g, detach):
    """The natural gradient to the weights, angles and scales, with theta = 0.4 everywhere."""
    quantizer = RBNN(detach_rotation=detach)
    quantizer.build(w.shape)
    quantizer.theta.assign(tf.fill(6, 0.4))
    quantizer.alpha.assign(np.arange(1, 7, dtype="float32"))
    b, g_w, g_theta, g_alpha = forward_backward(quantizer, w, g, progress=1.0)
    w2 = standardize(tf.constant(w), AXIS).numpy()
    r1, r2 = quantizer.rotation_1.numpy(), quantizer.rotation_2.numpy()

    def as_matrix(x):  # (out, in, kh, kw) order, as in PyTorch
        return x.transpose(3, 2, 0, 1).reshape(6, 6, 6)

    def as_kernel(x):
        return x.reshape(6, 4, 3, 3).transpose(2, 3, 1, 0)

    rotated = as_kernel(r1.T @ as_matrix(w2) @ r2)
    w3 = w2 + math.sin(0.4) * (rotated - w2)
    alpha = np.arange(1, 7)
    np.testing.assert_allclose(b, alpha * sign(w3), rtol=1e-6)
    window = np.maximum(0, math.sqrt(2) * 10 - 100 * np.abs(w3))
    G = g * alpha * window
    share = math.sin(0.4)
    back = (1 - share) * G + (0 if detach else share * as_kernel(r1 @ as_matrix(G) @ r2.T))
    np.testing.assert_allclose(g_w, standardize_gradient(w, back), atol=2e-3)
    np.testing.assert_allclose(
        g_theta, math.cos(0.4) * (G * (rotated - w2)).sum(AXIS), rtol=2e-4, atol=2e-3
    )
    np.testing.assert_allclose(g_alpha, (g * sign(w3)).sum(AXIS), atol=1e-4)


def test_the_released_rbnn_gradient_is_zero_at_the_start(w, g):
    _, detached, *_ = forward_backward(RBNN(detach_rotation=True), w, g, progress=0.0)
    _, full, *_ = forward_backward(RBNN(), w, g, progress=0.0)
    assert np.abs(detached).max() < 1e-5 < 0.1 < np.abs(full).max()


def test_rotations_stay_orthogonal_and_come_nearer_to_signs(rng):
    x = rng.normal(size=(16, 6, 8))
    r1, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    r2, _ = np.linalg.qr(rng.normal(size=(8, 8)))

    def distance(r1, r2):
        rotated = r1.T @ x @ r2
        return np.sum((sign(rotated) - rotated) ** 2)

    distances = [distance(r1, r2)]
    for _ in range(4):
        r1, r2 = rbnn.bi_rotation(x, r1, r2)
        np.testing.assert_allclose(r1.T @ r1, np.eye(6), atol=1e-12)
        np.testing.assert_allclose(r2.T @ r2, np.eye(8), atol=1e-12)
        distances.append(distance(r1, r2))
    assert np.all(np.diff(distances) <= 1e-9) and distances[-1] < 0.9 * distances[0]


def test_rbnn_activation_takes_the_mean_off(rng):
    a = tf.constant(5 + rng.normal(size=(2, 4, 4, 3)), tf.float32)
    quantizer = RBNNSign()
    for training in (False, True):
        b = quantizer(a, training=training)
        np.testing.assert_array_equal(b, sign(a - a.numpy().mean((1, 2, 3), keepdims=True)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rbnn_activation_sums_in_float32(dtype, rng):
    """65,536 numbers around 3 add up to more than float16 holds, at inference as in training."""
    a = tf.cast(rng.normal(3, 0.5, size=(2, 32, 32, 64)), dtype)
    exact = a.numpy().astype("float64")
    expected = sign(exact - exact.mean((1, 2, 3), keepdims=True))
    for training in (False, True):
        b = RBNNSign(dtype=dtype)(a, training=training)
        assert b.dtype == dtype
        assert np.mean(b.numpy().astype("float64") != expected) < 1e-4


@pytest.mark.parametrize(("progress", "t"), [(0.0, 1.0), (0.8, 10**0.4), (1.0, 10.0)])
def test_rbnn_activation_gradient(progress, t, rng):
    """The window of the kernel, but with k = 1 and t >= 1, then back through each image's scale."""
    mean, spread = np.array([[3.0, -1.0], [0.5, 4.0]]).reshape(2, 2, 1, 1, 1)
    a = (mean + spread * rng.normal(size=(2, 6, 6, 8))).astype("float32")
    g = rng.normal(size=a.shape).astype("float32")
    _, g_a = forward_backward(RBNNSign(), a, g, training=True, progress=progress)
    # an image is now as a filter
    a, g, g_a = (np.moveaxis(x, 0, -1).astype("float64") for x in (a, g, g_a))
    standard = (a - a.mean(AXIS)) / a.std(AXIS, ddof=1)
    window = np.maximum(0, math.sqrt(2) * t - t**2 * np.abs(standard))
    assert 0.05 < np.mean(window > 0) < 0.9
    np.testing.assert_allclose(g_a, standardize_gradient(a, g * window), atol=1e-5 * t**2)


# ------------------------------------------------------------------ soft signs


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.9])
def test_beta_is_the_published_geometric_schedule(progress):
    steps = int(progress * 500)
    assert float(soft_signs.beta_at(progress, 1.02**500)) == pytest.approx(1.02**steps, rel=1e-4)


@pytest.mark.parametrize("epoch", [0, 150, 151, 300, 450, 499])
def test_slb_temperature_is_the_published_one(epoch):
    expected = 1.03 ** max(0, min(epoch, 450) - 150)
    got = soft_signs.temperature_at(epoch / 500, 1.03**300, 0.3, 0.9)
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_mirror_descent_forward_and_gradient(w, g):
    beta = 2e4**0.2
    for kind, inside, factor in (
        (MDTanhS, beta * w, 1.0),
        (MDSoftmaxS, beta * w / 2, 2.0),
        (MDTanh, beta * w, 1.0),  # no epoch has passed: no offset yet
    ):
        b, g_w = forward_backward(kind(), w, g, training=True, progress=0.2)
        np.testing.assert_allclose(b, np.tanh(inside), atol=1e-6)
        np.testing.assert_allclose(g_w, factor * g, rtol=1e-5)
        for training, progress in ((False, 0.2), (True, 1.0)):
            hard = forward_backward(kind(), w, g, training=training, progress=progress)[0]
            np.testing.assert_array_equal(hard, sign(w))


def test_softmax_over_two_levels_is_a_tanh(w, rng):
    """P+ - P- of two logits is what one latent weight, their difference, gives."""
    other = rng.normal(size=w.shape).astype("float32")
    p = tf.nn.softmax(1.7 * tf.stack([other, other + w], -1)).numpy()
    np.testing.assert_allclose(p[..., 1] - p[..., 0], np.tanh(1.7 * w / 2), atol=1e-6)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_md_tanh_is_exponentiated_gradient_descent(kind, rng):
    """A step m of the optimizer is the multiplicative step on (1 + w) / (1 - w), at any beta."""
    layer = lq.layers.QuantDense(3, kernel_quantizer="md_tanh")
    layer.build((None, 5))
    quantizer, latent = layer.kernel_quantizer, layer.kernel.latent_variable
    optimizer = getattr(tf.keras.optimizers, kind)(0.01)
    optimizer.build([layer.kernel])
    for progress in (0.0, 0.1, 0.25):
        before = quantizer(latent, training=True).numpy().astype("float64")
        quantizer.move_to(progress)
        after = quantizer(latent, training=True).numpy().astype("float64")
        np.testing.assert_allclose(after, before, atol=1e-6)  # a new beta leaves w where it is
        v, g = latent.numpy(), rng.normal(size=(5, 3)).astype("float32")
        with tf.GradientTape() as tape:
            tape.watch(latent)
            w = quantizer(latent, training=True)
        np.testing.assert_allclose(tape.gradient(w, latent, output_gradients=g), g)
        optimizer.apply_gradients([(tf.constant(g), layer.kernel)])
        m = latent.numpy() - v
        rho = (1 + after) / (1 - after) * np.exp(2 * 2e4**progress * m)
        moved = quantizer(latent, training=True).numpy()
        np.testing.assert_allclose(moved, (rho - 1) / (rho + 1), atol=1e-5)


def test_slb_has_the_gradient_of_two_logits(w, g):
    """SGD on both logits moves their difference by what SGD on the difference does."""
    progress, rate = 0.5, 0.01
    temperature = soft_signs.temperature_at(progress, 1.03**300, 0.3, 0.9)
    logits = tf.stack([tf.zeros_like(w), tf.constant(w)], -1)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        p = tf.nn.softmax(temperature * logits)
        soft = p[..., 1] - p[..., 0]
    step = -rate * tape.gradient(soft, logits, output_gradients=tf.constant(g)).numpy()
    b, g_d = forward_backward(SLB(), w, g, training=True, progress=progress)
    np.testing.assert_allclose(b, soft, atol=1e-5)
    np.testing.assert_allclose(-rate * g_d, step[..., 1] - step[..., 0], atol=1e-5)


def test_slb_is_hard_from_the_end_of_the_temperature_phase(w, g):
    b, g_d = forward_backward(SLB(), w, g, training=True, progress=0.9)
    np.testing.assert_array_equal(b, sign(w))
    np.testing.assert_array_equal(g_d, 0.0)


# ------------------------------------------------------------------ DSQ, FDA


def test_dsq_reaches_its_range_at_its_range():
    upper, alpha = tf.constant(0.8), tf.constant(0.2)
    x = tf.constant([-2.0, -0.8, 0.0, 0.8, 2.0])
    np.testing.assert_allclose(
        dsq.soft_step(x, upper, alpha), [-0.8, -0.8, 0.0, 0.8, 0.8], atol=1e-6
    )


def test_dsq(w, g):
    quantizer = DSQ(alpha=0.3)
    quantizer.build(w.shape)
    quantizer.upper.assign(0.9)
    b, g_w, g_upper, g_alpha = forward_backward(quantizer, w, g)
    np.testing.assert_allclose(b, 0.9 * sign(w), rtol=1e-6)
    assert len(np.unique(np.abs(b))) == 1

    def soft(upper, alpha):
        k = np.log(2 / alpha - 1) / (2 * upper)
        inside = upper / (1 - alpha) * np.tanh(k * w.astype("float64"))
        return np.where(np.abs(w) <= upper, inside, upper * sign(w))

    k = np.log(2 / 0.3 - 1) / 1.8
    slope = 0.9 / 0.7 * k * (1 - np.tanh(k * w) ** 2)
    np.testing.assert_allclose(g_w, g * slope * (np.abs(w) <= 0.9), atol=1e-5)
    step = 1e-6
    by_upper = np.sum(g * (soft(0.9 + step, 0.3) - soft(0.9 - step, 0.3))) / (2 * step)
    by_alpha = np.sum(g * (soft(0.9, 0.3 + step) - soft(0.9, 0.3 - step))) / (2 * step)
    assert g_upper == pytest.approx(by_upper, rel=1e-3)
    assert g_alpha == pytest.approx(by_alpha, rel=1e-3)


@pytest.mark.parametrize(("progress", "n"), [(0.0, 9), (0.5, 13), (0.999, 17), (1.0, 18)])
def test_fourier_window(progress, n):
    assert float(fda.terms_at(progress)) == n
    x = np.array([0.0, 1e-6, -0.3, 0.7, 1.0, 1.01], "float32")
    series = sum(np.cos((2 * i + 1) * 0.1 * x.astype("float64")) for i in range(n + 1))
    expected = 0.4 / math.pi * series * (np.abs(x) <= 1)
    np.testing.assert_allclose(fda.fourier(tf.constant(x), n), expected, rtol=1e-5, atol=1e-6)


def test_fda(w, g):
    b, g_w = forward_backward(FDA(), w, g, progress=0.0)
    alpha = np.abs(w).mean(AXIS)
    np.testing.assert_allclose(b, alpha * sign(w), rtol=1e-5)
    np.testing.assert_allclose(
        g_w, alpha * g * fda.fourier(tf.constant(w), 9).numpy(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("progress", "n"), [(0.0, 9), (0.5, 13), (1.0, 18)])
def test_fourier_sign_has_the_slope_of_the_truncated_square_wave(progress, n, rng):
    a, g = rng.normal(size=(2, 3, 4, 4, 6)).astype("float32")
    a.flat[:6] = [0.0, 1e-6, 1.0, -1.0, 1.001, -1.001]
    b, g_a = forward_backward(FourierSign(), a, g, training=True, progress=progress)
    np.testing.assert_array_equal(b, sign(a))
    x = tf.constant(a, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        odd = range(1, 2 * n + 2, 2)
        wave = 4 / math.pi * sum(tf.sin(0.1 * i * x) / i for i in odd)
    slope = tape.gradient(wave, x).numpy() * (np.abs(a) <= 1)
    assert slope.flat[0] == pytest.approx(0.4 * (n + 1) / math.pi)
    np.testing.assert_allclose(g_a, g * slope, rtol=1e-5, atol=2e-6)


# ------------------------------------------------------------------ scales


@pytest.mark.parametrize("alias", ["xnor", "bireal"])
def test_xnor_and_bireal_by_hand(alias):
    """One mean size a channel, 1 and 0.75, in the kernel and in the gradient to |w| <= 1.

    XNOR's exact gradient also has sign(w) / n * sum(g sign(w)), which comes through the scale,
    here of size 5/3 everywhere; Larq leaves it out. Bi-Real's released code has no scale there.
    """
    w = np.array([[0.5, -0.25], [-1.5, 0.0], [1.0, 2.0]], "float32").reshape(1, 1, 3, 2)
    g = np.array([[2.0, 4.0], [8.0, -4.0], [1.0, 13.0]], "float32").reshape(w.shape)
    b, g_w = forward_backward(lq.quantizers.get(alias), w, g, training=True)
    np.testing.assert_array_equal(b[0, 0], [[1, -0.75], [-1, 0.75], [1, 0.75]])
    np.testing.assert_array_equal(g_w[0, 0], [[2, 3], [0, -3], [1, 0]])


def test_xnor_plus_plus(w, g):
    quantizer = XNORPlusPlus()
    quantizer.build(w.shape)
    quantizer.alpha.assign([1.0, 2.0, -3.0, 4.0, 5.0, 6.0])
    b, g_w, g_alpha = forward_backward(quantizer, w, g)
    alpha = np.array([1, 2, -3, 4, 5, 6])
    np.testing.assert_array_equal(b, alpha * sign(w))
    np.testing.assert_allclose(g_w, alpha * g * (np.abs(w) <= 1), rtol=1e-6)
    np.testing.assert_allclose(g_alpha, (g * sign(w)).sum(AXIS), atol=1e-5)


def test_dorefa(w, g):
    b, g_w = forward_backward(DoReFaSign(), w, g)
    np.testing.assert_allclose(b, np.abs(w).mean() * sign(w), rtol=1e-6)
    np.testing.assert_array_equal(g_w, g)


def test_binary_connect(w, g):
    quantizer = BinaryConnect(clip_value=0.5)
    b, g_w = forward_backward(quantizer, 3 * w, g)
    np.testing.assert_array_equal(b, 0.5 * sign(w))
    np.testing.assert_array_equal(g_w, g)
    clipped = quantizer.kernel_constraint(tf.constant([-2.0, 0.25]))
    np.testing.assert_array_equal(clipped, [-0.5, 0.25])


def test_abc_net(w, g):
    w = w + 0.3
    b, g_w = forward_backward(ABCNet(), w, g)
    signs = sign(w - w.mean())
    alpha = (signs * w).mean()
    np.testing.assert_allclose(b, alpha * signs, rtol=1e-5)
    np.testing.assert_allclose(g_w, alpha * g, rtol=1e-5)
    # alpha is the least-squares scale of these signs
    error = [np.sum((w - a * signs) ** 2) for a in (alpha - 0.01, alpha, alpha + 0.01)]
    assert error[1] == min(error)


def test_scales_keep_away_from_zero_and_from_the_other_sign():
    scale = tf.constant([0.0, 1e-9, -1e-9, 0.5, -2.0])
    with tf.GradientTape() as tape:
        tape.watch(scale)
        kept = away_from_zero(scale)
    np.testing.assert_allclose(kept, [1e-3, 1e-3, -1e-3, 0.5, -2.0])
    np.testing.assert_array_equal(tape.gradient(kept, scale), 1.0)


# ------------------------------------------------------------------ RAD


@pytest.mark.parametrize(
    ("mean", "deviation", "expected"),
    [
        (0.0, 2.0, 0.0),  # well spread
        (0.0, 1.0, 1.0),  # too little reaches the window: (2 - 0 - 1)^2
        (0.0, 6.0, 4.0),  # saturated: (6 - 4)^2
        (3.0, 2.0, 5.0),  # one-sided: 9 - 4
    ],
)
def test_distribution_loss(mean, deviation, expected):
    half = np.array([mean - deviation, mean + deviation], "float32")
    x = tf.constant(np.tile(half, 16).reshape(2, 4, 4, 1))
    assert float(rad.distribution_loss(x)) == pytest.approx(expected, abs=1e-4)


# ------------------------------------------------------------------ DSQ's trained slope


@pytest.mark.parametrize(("outside", "edge"), [(-0.4, 0.05), (0.9, 0.5)])
def test_the_slope_of_dsq_has_the_gradient_of_its_edge(outside, edge, w, g):
    quantizer = DSQ()
    quantizer.build(w.shape)
    results = []
    for alpha in (outside, edge):
        quantizer.alpha.assign(alpha)
        results.append(forward_backward(quantizer, w, g))
    assert abs(results[1][-1]) > 0.1
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("outside", "direction"), [(-0.4, 1.0), (0.9, -1.0)])
def test_the_slope_of_dsq_comes_back_from_outside_its_range(outside, direction, w, g):
    quantizer = DSQ()
    quantizer.build(w.shape)
    quantizer.alpha.assign(outside)
    gradient = forward_backward(quantizer, w, g)[-1]
    back = -np.sign(direction * gradient) * g  # the loss falls towards the range
    optimizer = tf.keras.optimizers.SGD(1e-3, 0.9)
    for _ in range(100):
        gradient = forward_backward(quantizer, w, back)[-1]
        optimizer.apply_gradients([(tf.constant(gradient), quantizer.alpha)])
        if 0.05 < float(quantizer.alpha) < 0.5:
            return
    pytest.fail(f"alpha is {float(quantizer.alpha)} and stays there")
