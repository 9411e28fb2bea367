"""Laws of every rival inside Larq layers, and every way to keep a model that has them."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import callbacks, optimizers, rivals

KERNELS = [
    "abc_net", "binary_connect", "bireal", "dorefa", "dsq", "fda", "irnet", "md_softmax_s",
    "md_tanh", "md_tanh_s", "rbnn", "recu", "slb", "xnor", "xnor_plus_plus",
]  # fmt: skip
CENTRED = ("abc_net", "irnet", "recu", "rbnn")  # their sign is not that of the latent weight
INPUTS = ["ede_sign", "fourier_sign", "rbnn_sign", "recu_sign"]
SCHEDULED = ["fda", "irnet", "md_softmax_s", "md_tanh", "md_tanh_s", "rbnn", "recu", "slb"]


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    """Compiling each small shape would take most of the time; test_span.py compares both paths."""
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


def small_model(kernel, inputs="approx_sign"):
    image = x = tf.keras.Input((6, 6, 2))
    for filters in (4, 5):
        x = lq.layers.QuantConv2D(
            filters, 3, input_quantizer=inputs, kernel_quantizer=kernel, pad_values=1.0,
            padding="same", use_bias=False,
        )(x)  # fmt: skip
        x = tf.keras.layers.BatchNormalization(momentum=0.9)(x)
    return tf.keras.Model(image, tf.keras.layers.Dense(3)(tf.keras.layers.Flatten()(x)))


def trained(model, rng, epochs=2, **kwargs):
    model.compile(
        optimizers.MobiusSGD(0.05, 0.9),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = rng.normal(size=(8, 6, 6, 2)).astype("float32")
    clock = [rivals.TrainingProgress(4)]
    model.fit(x, np.arange(8) % 3, epochs=epochs, verbose=0, callbacks=clock, **kwargs)
    return x


def kernel_of(layer):
    with lq.context.quantized_scope(True):
        return tf.convert_to_tensor(layer.kernel).numpy()


# ------------------------------------------------------------------ the binary kernel


@pytest.mark.parametrize("alias", KERNELS)
def test_a_kernel_is_one_scale_a_channel_times_signs(alias, rng):
    layer = lq.layers.QuantConv2D(6, 3, kernel_quantizer=alias)
    layer.build((1, 8, 8, 4))
    kernel = kernel_of(layer)
    assert kernel.shape == layer.kernel.shape and np.all(kernel != 0)
    for o in range(6):
        assert len(np.unique(np.abs(kernel[..., o]))) == 1
    assert {1, -1} == set(np.unique(np.sign(kernel)))
    if alias not in CENTRED:
        np.testing.assert_array_equal(kernel >= 0, layer.kernel.latent_variable.numpy() >= 0)


@pytest.mark.parametrize("alias", KERNELS)
def test_the_layer_computes_with_what_the_scope_shows(alias, rng):
    layer = lq.layers.QuantConv2D(6, 3, kernel_quantizer=alias, use_bias=False)
    x = tf.constant(rng.normal(size=(2, 8, 8, 4)), tf.float32)
    out = layer(x)
    np.testing.assert_array_equal(out, tf.nn.conv2d(x, kernel_of(layer), 1, "VALID"))
    with lq.context.quantized_scope(True):
        np.testing.assert_array_equal(layer.get_weights()[0], kernel_of(layer))


@pytest.mark.parametrize("alias", KERNELS)
def test_quantizing_twice_changes_nothing_but_rotations_do(alias, rng):
    """So a model saved inside quantized_scope(True) keeps its bits; RBNN's must be folded."""
    layer = lq.layers.QuantConv2D(6, 3, kernel_quantizer=alias)
    layer.build((1, 8, 8, 4))
    once = kernel_of(layer)
    layer.kernel.assign(once)
    if alias == "rbnn":
        assert np.mean(np.sign(kernel_of(layer)) != np.sign(once)) > 0.1
    else:
        np.testing.assert_allclose(kernel_of(layer), once, rtol=1e-6)


@pytest.mark.parametrize("alias", KERNELS)
def test_the_sign_of_zero_is_plus_one(alias):
    """A kernel of zeros is all of one sign, +1 where its scale is not 0 as well."""
    layer = lq.layers.QuantConv2D(6, 3, kernel_quantizer=alias)
    layer.build((1, 8, 8, 4))
    layer.kernel.assign(tf.zeros_like(layer.kernel.latent_variable))
    kernel = kernel_of(layer)
    assert np.all(np.isfinite(kernel)) and np.all(kernel >= 0)
    assert np.all(kernel > 0) or alias in ("abc_net", "bireal", "dorefa", "fda", "xnor")


@pytest.mark.parametrize("alias", KERNELS)
def test_gradients_are_finite_and_reach_every_variable(alias, rng):
    layer = lq.layers.QuantConv2D(6, 3, kernel_quantizer=alias)
    x = tf.constant(rng.normal(size=(2, 8, 8, 4)), tf.float32)
    layer(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True) ** 2)
    for variable, gradient in zip(
        layer.trainable_weights, tape.gradient(loss, layer.trainable_weights), strict=True
    ):
        assert np.all(np.isfinite(gradient)), variable.name
        assert np.any(gradient.numpy() != 0) or "theta" in variable.name, variable.name


@pytest.mark.parametrize("alias", [a for a in KERNELS if a not in ("bireal", "xnor")])
@pytest.mark.parametrize("layer", ["transpose", "dense", "depthwise"])
def test_scales_are_per_filter_whatever_the_layout(alias, layer, rng):
    make, shape, where = {
        "transpose": (lq.layers.QuantConv2DTranspose, (1, 5, 5, 3), 2),
        "dense": (lq.layers.QuantDense, (1, 12), 1),
        "depthwise": (None, (1, 5, 5, 3), None),
    }[layer]
    if layer == "depthwise":
        made = lq.layers.QuantDepthwiseConv2D(3, depthwise_quantizer=alias)
        made.build(shape)
        with lq.context.quantized_scope(True):
            kernel = tf.convert_to_tensor(made.depthwise_kernel).numpy().reshape(9, 3).T
    else:
        made = make(*((4, 3) if layer == "transpose" else (4,)), kernel_quantizer=alias)
        made.build(shape)
        kernel = np.moveaxis(kernel_of(made), where, 0).reshape(4, -1)
    assert all(len(np.unique(np.abs(row))) == 1 for row in kernel)


@pytest.mark.parametrize("alias", INPUTS)
def test_an_activation_is_a_sign_in_training_and_at_inference(alias, rng):
    a = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    a[0, 0, 0, 0] = 0.0
    quantizer = lq.quantizers.get(alias)
    outputs = [quantizer(a, training=training).numpy() for training in (False, True)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    shift = a.mean((1, 2, 3), keepdims=True) if alias == "rbnn_sign" else 0.0
    np.testing.assert_array_equal(outputs[0], np.where(a >= shift, 1.0, -1.0))


# ------------------------------------------------------------------ keeping and loading


@pytest.mark.parametrize("kind", [getattr(rivals, n) for n in rivals.__all__ if n[0].isupper()])
def test_config_round_trip(kind):
    first = kind(3) if kind is rivals.TrainingProgress else kind()
    if kind is rivals.TrainingProgress:
        assert first.epochs == 3
        return
    config = first.get_config()
    again = kind.from_config(config).get_config()
    assert again.keys() == config.keys()
    assert {k: v for k, v in again.items() if k not in ("name", "map", "host")} == {
        k: v for k, v in config.items() if k not in ("name", "map", "host")
    }


def test_settings_survive_the_config():
    settings = {
        rivals.IRNet: {"t_min": 0.02, "t_max": 3.0},
        rivals.EDESign: {"t_min": 0.02, "t_max": 3.0},
        rivals.ReCU: {"tau_min": 0.6, "tau_max": 0.7},
        rivals.RBNN: {"t_min": 0.02, "t_max": 3.0, "detach_rotation": True},
        rivals.RBNNSign: {"t_min": 0.02, "t_max": 3.0},
        rivals.MDTanhS: {"final_beta": 7.0},
        rivals.SLB: {"final_temperature": 7.0, "start": 0.1, "stop": 0.4},
        rivals.DSQ: {"alpha": 0.3},
        rivals.BinaryConnect: {"clip_value": 0.5},
        rivals.DistributionLoss: {"weight": 0.5},
    }
    for kind, values in settings.items():
        config = kind.from_config(kind(**values).get_config()).get_config()
        assert {name: config[name] for name in values} == values, kind


@pytest.mark.parametrize(
    ("kernel", "inputs"),
    [*((k, "approx_sign") for k in KERNELS), *(("irnet", i) for i in INPUTS)],
)
def test_a_kept_model_is_the_same_model(kernel, inputs, tmp_path, rng):
    model = small_model(kernel, inputs)
    x = trained(model, rng)
    kept = [tf.keras.models.clone_model(model)]
    kept[0].set_weights(model.get_weights())
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        kept.append(tf.keras.models.load_model(tmp_path / f"model{suffix}"))
    model.save_weights(tmp_path / "checkpoint")
    kept.append(tf.keras.models.model_from_json(model.to_json()))
    kept[-1].load_weights(tmp_path / "checkpoint").assert_existing_objects_matched()
    for twin in kept:
        np.testing.assert_array_equal(twin(x), model(x))
        for a, b in zip(twin.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    trained(kept[1], rng)  # and it goes on training


@pytest.mark.parametrize("alias", ["recu", "rbnn"])
def test_a_saved_model_too(alias, tmp_path, rng):
    model = small_model(alias)
    x = trained(model, rng)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(tf.keras.models.load_model(tmp_path / "model")(x), model(x))


def test_names_follow_the_layer(tmp_path):
    """A checkpoint finds variables by name, and an .h5 file needs them unique in a nested model."""
    image = tf.keras.Input((6, 6, 2))
    x = image
    for name in ("a", "b"):
        x = lq.layers.QuantConv2D(
            4, 3, input_quantizer="ede_sign", kernel_quantizer="irnet", use_bias=False, name=name
        )(x)
    inner = tf.keras.Model(image, x)
    outer_image = tf.keras.Input((6, 6, 2))
    model = tf.keras.Model(outer_image, inner(outer_image))
    assert [w.name for w in model.non_trainable_weights] == [
        "a/kernel_progress:0", "a/input_progress:0", "b/kernel_progress:0", "b/input_progress:0",
    ]  # fmt: skip
    rivals.begin_epoch(model, 1, 4)
    model.save(tmp_path / "nested.h5")
    loaded = tf.keras.models.load_model(tmp_path / "nested.h5")
    assert [float(q.progress) for q in rivals.scheduled_quantizers(loaded)] == [0.25] * 4


def test_a_loaded_quantizer_knows_its_layer(tmp_path, rng):
    """In a transposed convolution filters are not the last axis, after loading as before."""
    image = tf.keras.Input((5, 5, 3))
    y = lq.layers.QuantConv2DTranspose(4, 3, kernel_quantizer="hyperbolic")(image)
    y = lq.layers.QuantConv2DTranspose(6, 3, kernel_quantizer="xnor_plus_plus")(y)
    tf.keras.Model(image, y).save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert [layer.kernel_quantizer._axis for layer in loaded.layers[1:]] == [(0, 1, 3)] * 2
    names = [weight.name for weight in loaded.layers[1].weights]
    assert sum(name.endswith("kernel_base_point:0") for name in names) == 1


# ------------------------------------------------------------------ one of its own


@pytest.mark.parametrize("make", [lambda: rivals.ReCU(), lambda: rivals.EDESign()])
def test_one_object_for_several_layers(make, rng):
    shared = make()
    name = "kernel_quantizer" if isinstance(shared, rivals.ReCU) else "input_quantizer"
    layers = [lq.layers.QuantDense(3, **{name: shared}) for _ in range(2)]
    held = [getattr(layer, name) for layer in layers]
    assert held[0] is shared and held[1] is not shared and type(held[1]) is type(shared)
    for layer in layers:
        layer(tf.zeros((1, 2)))
    assert held[0].progress is not held[1].progress


def test_a_kernel_rival_is_refused_for_inputs():
    with pytest.raises(ValueError, match=r"QuantDense\(input_quantizer=IRNet.*cannot quantize its"):
        lq.layers.QuantDense(3, input_quantizer="irnet")


def test_binary_connect_clips_its_latent_weights(rng):
    layer = lq.layers.QuantDense(3, kernel_quantizer=rivals.BinaryConnect(0.5))
    layer(tf.zeros((1, 2)))
    tf.keras.optimizers.SGD(10.0).apply_gradients([(tf.ones((2, 3)), layer.kernel)])
    np.testing.assert_array_equal(layer.kernel.latent_variable, -0.5 * np.ones((2, 3)))
    own = lq.layers.QuantDense(
        3, kernel_quantizer="binary_connect", kernel_constraint=lq.constraints.WeightClip(0.1)
    )
    own(tf.zeros((1, 2)))
    assert own.kernel.constraint.clip_value == 0.1


def test_the_warning_of_starved_weights_is_for_windows(caplog):
    warned = set()
    for alias in KERNELS:
        caplog.clear()
        lq.layers.QuantDense(3, kernel_quantizer=alias)
        if "starved weights" in caplog.text:
            warned.add(alias)
    assert warned == {"bireal", "dsq", "fda", "xnor", "xnor_plus_plus"}


def test_summary_counts_what_is_deployed():
    def profile(quantizer, inputs="approx_sign"):
        p = lq.models.ModelProfile(small_model(quantizer, inputs))
        return p.weight_count(1), p.weight_count(32), p.op_count("mac", 1), p.op_count("mac", 32)

    plain = profile("ste_sign")
    for alias in ("irnet", "recu", "rbnn", "dsq", rivals.Mapped("hyperbolic", "rbnn")):
        assert profile(alias) == plain
    assert profile("irnet", "ede_sign") == plain


@pytest.mark.parametrize("alias", ["irnet", "recu", "rbnn", "dsq", "md_tanh_s", "xnor_plus_plus"])
def test_flip_ratio_counts_signs(alias, rng):
    with lq.context.metrics_scope(["flip_ratio"]):
        layer = lq.layers.QuantDense(4, kernel_quantizer=alias)
    x = tf.ones((1, 16))
    layer(x)
    quantizer = layer.kernel_quantizer
    quantizer.flip_ratio.reset_state()
    layer(x)
    for variable in quantizer.trainable_weights:
        if "alpha" in variable.name or "upper" in variable.name:
            variable.assign(0.9 * variable)  # a scale that moves flips nothing
    layer(x)
    assert float(quantizer.flip_ratio.result()) == 0.0
    layer.kernel.assign(-layer.kernel.latent_variable)
    layer(x)
    assert float(quantizer.flip_ratio.total) == pytest.approx(1.0)


@pytest.mark.parametrize("alias", ["irnet", "recu", "rbnn", "dsq", "slb"])
def test_mixed_precision_reads_every_latent_weight(alias, rng):
    """Latent weights below the smallest float16 keep their signs; the layer computes in half."""
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layer = lq.layers.QuantConv2D(
            4, 3, kernel_quantizer=alias, input_quantizer="ede_sign", use_bias=False
        )
        twin = lq.layers.QuantConv2D(4, 3, kernel_quantizer=alias, use_bias=False, dtype="float32")
        x = tf.ones((1, 3, 3, 2))
        assert layer(x).dtype == tf.float16
        twin(x)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    layer.kernel.assign(1e-9 * rng.normal(size=layer.kernel.shape))
    twin.set_weights(layer.get_weights()[: len(twin.get_weights())])
    assert all(v.dtype == tf.float32 for v in layer.weights)
    np.testing.assert_allclose(tf.cast(layer(x), tf.float32), twin(x), rtol=2e-3, atol=1e-6)
    np.testing.assert_array_equal(np.sign(kernel_of(layer)), np.sign(kernel_of(twin)))


# ------------------------------------------------------------------ the clock


@pytest.mark.parametrize("alias", SCHEDULED)
def test_fit_moves_the_clock_at_each_epoch(alias, rng):
    model = small_model(alias, "ede_sign")
    seen = []

    class Note(tf.keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append({float(q.progress) for q in rivals.scheduled_quantizers(model)})

    model.compile("sgd", "mse")
    x = rng.normal(size=(4, 6, 6, 2)).astype("float32")
    model.fit(
        x, np.zeros((4, 3)), batch_size=2, epochs=3, verbose=0,
        callbacks=[rivals.TrainingProgress(4), Note()],
    )  # fmt: skip
    assert len(list(rivals.scheduled_quantizers(model))) == 4
    assert seen == [{0.0}, {0.0}, {0.25}, {0.25}, {0.5}, {0.5}]


def test_the_clock_stops_at_one_and_leaves_other_models_alone():
    model = small_model("irnet")
    rivals.begin_epoch(model, 9, 4)
    assert {float(q.progress) for q in rivals.scheduled_quantizers(model)} == {1.0}
    rivals.begin_epoch(small_model("ste_sign"), 0, 4)


def test_epochs_move_the_rotations_of_rbnn(rng):
    model = small_model("rbnn")
    before = [q.rotation_1.numpy() for q in rivals.scheduled_quantizers(model)]
    rivals.begin_epoch(model, 1, 4)
    for quantizer, old in zip(rivals.scheduled_quantizers(model), before, strict=True):
        new = quantizer.rotation_1.numpy()
        assert np.abs(new - old).max() > 0.01
        np.testing.assert_allclose(new.T @ new, np.eye(len(new)), atol=1e-5)


@pytest.mark.parametrize("alias", ["irnet", "recu", "rbnn", "slb", "md_tanh"])
def test_two_calls_of_fit_are_one(alias, tmp_path, rng):
    """Saved after two epochs, loaded and gone on: the weights of the unbroken run, bit for bit."""
    x, y = rng.normal(size=(8, 6, 6, 2)).astype("float32"), np.arange(8) % 3
    start = small_model(alias)

    def fit(model, first, last):
        model.fit(x, y, shuffle=False, initial_epoch=first, epochs=last, verbose=0,
                  callbacks=[rivals.TrainingProgress(4)])  # fmt: skip
        return model

    whole = tf.keras.models.clone_model(start)
    whole.set_weights(start.get_weights())
    for model in (start, whole):
        model.compile(
            tf.keras.optimizers.SGD(0.05, 0.9),
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    fit(whole, 0, 4)
    fit(start, 0, 2).save(tmp_path / "half.keras")
    resumed = fit(tf.keras.models.load_model(tmp_path / "half.keras"), 2, 4)
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_recalibration_moves_batch_norm_to_the_hard_weights(rng):
    model = small_model("md_tanh_s")
    rivals.begin_epoch(model, 1, 10)
    x = rng.normal(size=(64, 6, 6, 2)).astype("float32")
    for _ in range(80):
        model(x, training=True)  # statistics of the soft weights
    conv, norm = model.layers[1], model.layers[2]
    hard = tf.keras.Model(model.input, conv.output)(x, training=False)
    variance = hard.numpy().var((0, 1, 2))
    assert np.all(norm.moving_variance.numpy() < 0.5 * variance)
    rivals.recalibrate_batch_norm(model, [x] * 80)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=0.02)
    for quantizer in rivals.scheduled_quantizers(model):
        assert float(quantizer.progress) == pytest.approx(0.1)


def test_soft_training_counts_flips_of_the_hard_kernel(rng):
    model = small_model("slb")
    counter = callbacks.FlipCounter(model)
    before = counter.signs()
    trained(model, rng)
    flips, _ = counter.flips_since(before)
    bits = hbnn_larq.binary_weights(model)
    for signs, name in zip(before, counter.names, strict=True):
        changed = np.sum(np.where(signs, 1, -1) != bits[name])
        assert flips[name] == changed


# ------------------------------------------------------------------ RAD, rank-one scales


def test_distribution_loss_layer_adds_its_loss_in_training_only(rng):
    layer = rivals.DistributionLoss(0.5)
    x = tf.constant(rng.normal(size=(4, 3, 3, 2)), tf.float32)
    np.testing.assert_array_equal(layer(x, training=True), x)
    assert float(layer.losses[0]) == pytest.approx(
        0.5 * float(rivals.rad.distribution_loss(x)), rel=1e-6
    )
    layer(x, training=False)
    assert layer.losses == []


def test_add_distribution_loss(rng):
    """On every batch norm that a sign sees, through activations; the mean over them, times 2."""
    model = small_model("ste_sign")
    x = rng.normal(size=(8, 6, 6, 2)).astype("float32")
    assert rivals.add_distribution_loss(model, 2.0) == [model.layers[2].name]
    inside = tf.keras.Model(model.input, model.layers[2].output)
    expected = 2.0 * float(rivals.rad.distribution_loss(inside(x, training=True)))
    model(x, training=True)
    assert float(tf.add_n(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert tf.keras.models.clone_model(model).losses == []


def test_add_distribution_loss_without_a_place():
    plain = tf.keras.Sequential([tf.keras.layers.Dense(3, input_shape=(2,))])
    with pytest.raises(ValueError, match="no batch normalization in front of"):
        rivals.add_distribution_loss(plain)


def test_rank_one_scale(rng):
    layer = rivals.RankOneScale()
    x = tf.constant(rng.normal(size=(2, 3, 4, 5)), tf.float32)
    np.testing.assert_array_equal(layer(x), x)
    values = [rng.normal(size=n).astype("float32") for n in (3, 4, 5)]
    layer.set_weights(values)
    expected = np.einsum("bhwc,h,w,c->bhwc", x, *values)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"RankOneScale got an input of shape \(None, None, 4, 5\)"
    ):
        rivals.RankOneScale()(tf.keras.Input((None, 4, 5)))


# ------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rivals.IRNet(t_min=0), r"IRNet\(t_min=0\): a number above 0"),
        (lambda: rivals.EDESign(t_min=5.0, t_max=1.0), r"EDESign\(t_min=5.0\): at most t_max, 1"),
        (lambda: rivals.RBNN(t_max=float("nan")), r"RBNN\(t_max=nan\)"),
        (lambda: rivals.ReCU(tau_max=1.0), r"ReCU\(tau_max=1.0\): a quantile below 1"),
        (lambda: rivals.ReCU(tau_min=0.5), r"ReCU\(tau_min=0.5\): a number above 0.5"),
        (lambda: rivals.ReCU(tau_min=0.9, tau_max=0.8), r"ReCU\(tau_min=0.9\): at most tau_max"),
        (lambda: rivals.MDTanh(final_beta=1), r"MDTanh\(final_beta=1\): a number above 1"),
        (lambda: rivals.SLB(start=0.9), r"SLB\(start=0.9\): at least 0 and below stop, 0.9"),
        (lambda: rivals.DSQ(alpha=0.9), r"DSQ\(alpha=0.9\): a number above 0.05, at most 0.5"),
        (lambda: rivals.BinaryConnect(True), r"BinaryConnect\(clip_value=True\)"),
        (lambda: rivals.DistributionLoss(-1), r"DistributionLoss\(weight=-1\)"),
        (lambda: rivals.TrainingProgress(0), r"TrainingProgress\(epochs=0\): a whole number, 1 or"),
        (lambda: rivals.TrainingProgress(2.0), r"TrainingProgress\(epochs=2.0\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
