"""A map of the ball in front of a host: the identity at p = 0, and everything a quantizer owes."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import callbacks, optimizers, poincare, quantizers, rivals
from hbnn_larq.rivals import Mapped

MAPS = ["hyperbolic", "hyperbolic_boundary", "epc"]
STANDARDISING = ["irnet", "recu", "rbnn"]


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    """Compiling each small shape would take most of the time; test_span.py compares both paths."""
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


def conv(quantizer, rng, kernel=None, **kwargs):
    layer = lq.layers.QuantConv2D(
        8, 3, kernel_quantizer=quantizer, input_quantizer="ede_sign", use_bias=False, **kwargs
    )
    layer.build((None, 6, 6, 16))
    if kernel is not None:
        layer.kernel.assign(kernel)
    return layer


def same_state(host, mapped):
    """Gives the host inside `mapped` the variables of `host`."""
    inner = mapped.host
    for name in ("progress", "alpha", "theta", "rotation_1", "rotation_2"):
        if hasattr(host, name):
            getattr(inner, name).assign(getattr(host, name))


def move(layer, rng, size=0.5):
    for p in layer.kernel_quantizer.base_points:
        value = rng.normal(size=p.shape)
        ball = poincare.ball_of(p)
        value *= size / np.sqrt(ball.r * np.sum(value**2, ball.axis, keepdims=True))
        p.assign(value)


def output_and_gradient(layer, x):
    with tf.GradientTape() as tape:
        y = layer(x)
        loss = tf.reduce_sum(y * tf.sin(tf.range(y.shape[-1], dtype=tf.float32)))
    return y.numpy(), tape.gradient(loss, layer.kernel).numpy()


@pytest.mark.parametrize("host", STANDARDISING)
@pytest.mark.parametrize("map", MAPS)
def test_at_the_origin_the_plug_in_is_its_host(map, host, rng):
    """Outputs equal bit for bit, gradients in direction; for IR-Net and RBNN in size too.

    The map rescales filters at p = 0, and the host standardises them: ReCU up to its epsilon of
    1e-5 beside a variance of 0.01. Gradients at the edge of the ball lose what tanh saturates.
    """
    kernel = (0.1 * rng.normal(size=(3, 3, 16, 8))).astype("float32")
    x = tf.constant(rng.normal(size=(2, 6, 6, 16)), tf.float32)
    alone = conv(host, rng, kernel)
    plugged = conv(Mapped(map, host), rng, kernel)
    same_state(alone.kernel_quantizer, plugged.kernel_quantizer)
    for progress in (0.0, 0.4):
        alone.kernel_quantizer.progress.assign(progress)
        plugged.kernel_quantizer.host.progress.assign(progress)
        y, g = output_and_gradient(alone, x)
        z, h = output_and_gradient(plugged, x)
        np.testing.assert_array_equal(z, y)
        # ReCU: the epsilon, relative to the variance before and after the map
        tolerance = 5e-3 if host == "recu" else 2e-5
        np.testing.assert_allclose(h, g, atol=tolerance * np.abs(g).max())


@pytest.mark.parametrize("map", MAPS)
@pytest.mark.parametrize("host", ["irnet", "magnitude_aware_sign"])
def test_elsewhere_it_is_the_host_of_the_mapped_point(map, host, rng):
    kernel = (0.1 * rng.normal(size=(3, 3, 16, 8))).astype("float32")
    layer = conv(Mapped(map, host), rng, kernel)
    move(layer, rng)
    ball = layer.kernel_quantizer.map
    points = [tf.constant(p.latent_variable.numpy()) for p in ball.base_points]
    if map == "epc":
        w = tf.constant(kernel)
        for p in points:
            w = poincare.expmap(p, w, r=ball.r, axis=(0, 1, 2))
    else:
        function = poincare.expmap if map == "hyperbolic" else poincare.boundary_map
        w = function(points[0], tf.constant(kernel), r=ball.r, axis=(0, 1, 2))
    alone = conv(host, rng, w)
    with lq.context.quantized_scope(True):
        got, expected = (tf.convert_to_tensor(x.kernel).numpy() for x in (layer, alone))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.any(np.sign(got) != np.sign(kernel))  # p != 0 does something


def test_base_points_are_found_everywhere(rng):
    model = tf.keras.Sequential(
        [
            lq.layers.QuantConv2D(
                4, 3, kernel_quantizer=Mapped("epc", "recu"), input_shape=(5, 5, 2), name="conv"
            ),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(3),
        ]
    )
    points = [v for v in model.trainable_variables if optimizers.is_base_point(v)]
    assert len(points) == 2 and all(p.shape == (3, 3, 2, 4) for p in points)
    model.compile(optimizers.MobiusSGD(0.1, 0.9), "mse")
    model.fit(rng.normal(size=(4, 5, 5, 2)), np.zeros((4, 3)), verbose=0)
    assert all(np.any(p.latent_variable.numpy() != 0) for p in points)
    assert 0 < callbacks.base_point_shares(model)["conv"] < 1
    assert [float(q.progress) for q in rivals.scheduled_quantizers(model)] == [0.0]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("host", ["irnet", "rbnn", "xnor"])
def test_saving_and_loading(suffix, host, tmp_path, rng):
    image = tf.keras.Input((5, 5, 4))
    y = image
    shared = Mapped("hyperbolic", host)
    for _ in range(2):  # one object for both: each layer gets its own
        y = lq.layers.QuantConv2D(4, 3, padding="same", kernel_quantizer=shared)(y)
    model = tf.keras.Model(image, y)
    for layer in model.layers[1:]:
        move(layer, rng)
    rivals.begin_epoch(model, 1, 3)
    model.save(tmp_path / f"model{suffix}")
    loaded = tf.keras.models.load_model(tmp_path / f"model{suffix}")
    x = rng.normal(size=(2, 5, 5, 4)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))
    twin = tf.keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(twin(x), model(x))
    first, second = (layer.kernel_quantizer for layer in model.layers[1:])
    assert first is shared and second.map is not first.map and second.host is not first.host


def test_rotations_are_fitted_to_the_mapped_kernel(rng):
    """RBNN behind a map sees points of the ball, so its rotations depend on p."""
    rotations = []
    for size in (0.0, 0.8):
        tf.keras.utils.set_random_seed(1)
        layer = conv(Mapped("hyperbolic", "rbnn"), rng)
        move(layer, np.random.default_rng(2), size)
        rivals.begin_epoch(layer, 1, 2)
        rotations.append(layer.kernel_quantizer.host.rotation_1.numpy())
    assert np.abs(rotations[0] - rotations[1]).max() > 0.05


def test_settings_reach_the_parts():
    quantizer = Mapped(quantizers.Hyperbolic(r=0.3), rivals.IRNet(t_min=0.02))
    again = Mapped.from_config(quantizer.get_config())
    assert again.map.r == 0.3 and again.host.t_min == 0.02 and again.precision == 1
    constrained = Mapped("hyperbolic", "binary_connect")
    assert constrained.kernel_constraint is not None
    assert not Mapped("hyperbolic", "irnet").clips_gradient
    assert Mapped("hyperbolic", "xnor").clips_gradient


def test_mixed_precision(rng):
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layers = [conv(Mapped("hyperbolic", host), rng) for host in ("irnet", "xnor")]
        outputs = [layer(tf.ones((1, 6, 6, 16))) for layer in layers]
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert {y.dtype for y in outputs} == {tf.float16}
    assert all(p.dtype == tf.float32 for layer in layers for p in layer.kernel_quantizer.weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ste_sign", "irnet"), r"Mapped\(map='ste_sign'\): the map is one of the ball"),
        (("nothing", "irnet"), "Mapped: map='nothing': there is no such quantizer"),
        (("hyperbolic", "nothing"), "Mapped: host='nothing': there is no such quantizer"),
        (("hyperbolic", "epc"), r"Mapped\(host='epc'\): the host binarises a kernel and holds no"),
        (("hyperbolic", "ede_sign"), r"Mapped\(host='ede_sign'\): the host binarises a kernel"),
        (("hyperbolic", None), r"Mapped\(host=None\): name a quantizer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mapped(*arguments)


def quantized_again(layer):
    """A kernel as the layer uses it, and what becomes of it in the place of the latent one."""
    kernels = []
    with lq.context.quantized_scope(True):
        for _ in range(2):
            kernels.append(tf.convert_to_tensor(layer.kernel).numpy())
            layer.kernel.assign(kernels[-1])
    return kernels


@pytest.mark.parametrize("host", ["abc_net", "dorefa", "fda", "xnor"])
def test_quantizing_twice_loses_size(host, rng):
    """An analytic scale is that of the point, which the map brings nearer to 0 each time."""
    once, twice = quantized_again(conv(Mapped("hyperbolic", host), rng))
    np.testing.assert_array_equal(np.sign(twice), np.sign(once))
    assert np.all(np.abs(twice) < 0.999 * np.abs(once))


@pytest.mark.parametrize("host", ["irnet", "recu", "xnor"])
def test_quantizing_twice_turns_signs_once_a_base_point_has_moved(host, rng):
    """The second time the map acts on other points; `fold` keeps the bits."""
    layer = conv(Mapped("hyperbolic", host), rng)
    move(layer, rng, 0.8)
    once, twice = quantized_again(layer)
    assert np.any(np.sign(twice) != np.sign(once))


def test_a_function_as_host_is_left_as_it_was(rng):
    """One function serves every layer of the process: nothing of one of them may stick to it."""
    before = dict(vars(lq.quantizers.ste_sign))
    conv(Mapped("hyperbolic", lq.quantizers.ste_sign), rng)
    assert vars(lq.quantizers.ste_sign) == before
