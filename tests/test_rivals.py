"""Laws of every rival inside Larq layers, and every way to keep a model that has them."""

import json

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


def quantized_again(quantizer, prepare=lambda quantizer: None):
    """A kernel as the layer uses it, and what becomes of it in the place of the latent one."""
    layer = lq.layers.QuantConv2D(6, 3, kernel_quantizer=quantizer)
    layer.build((1, 8, 8, 4))
    prepare(layer.kernel_quantizer)
    once = kernel_of(layer)
    layer.kernel.assign(once)
    return once, kernel_of(layer)


@pytest.mark.parametrize("alias", KERNELS)
def test_quantizing_twice_changes_nothing_but_rotations_do(alias):
    """At the start of training; what a model saved inside quantized_scope(True) amounts to."""
    once, twice = quantized_again(alias)
    if alias == "rbnn":
        assert np.mean(np.sign(twice) != np.sign(once)) > 0.1
    else:
        np.testing.assert_allclose(twice, once, rtol=1e-6)


@pytest.mark.parametrize("alias", ["recu", "xnor_plus_plus"])
def test_quantizing_twice_turns_channels_of_negative_scale(alias):
    mirror = np.where(np.arange(6) % 2, -1.0, 1.0).astype("float32")
    once, twice = quantized_again(alias, lambda q: q.alpha.assign(mirror * q.alpha))
    np.testing.assert_array_equal(twice, mirror * once)


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
def test_gradients_pass_an_activation_at_inference_as_in_training(alias, rng):
    """As of fine-tuning behind `base(x, training=False)`."""
    x, towards = tf.constant(rng.normal(size=(2, 2, 5, 5, 3)), tf.float32)
    quantizer = lq.quantizers.get(alias)
    passed = []
    for training in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(quantizer(x, training=training) * towards)
        passed.append(tape.gradient(loss, x).numpy())
    assert np.any(passed[1] != 0)
    if alias != "recu_sign":  # whose activations are standardised in training alone
        np.testing.assert_array_equal(*passed)


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


# All but CMIM, a model around others, which has none: tests/test_cmim.py.
KINDS = (getattr(rivals, name) for name in rivals.__all__)
CLASSES = [kind for kind in KINDS if isinstance(kind, type) and kind is not rivals.CMIM]


@pytest.mark.parametrize("kind", CLASSES)
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


# The quick run has every way to hold state: none, a clock, a rotation, latents of a value axis.
KEPT = ["xnor", "irnet", "rbnn", "recu", "slb", "dsq", "xnor_plus_plus"]


@pytest.mark.parametrize(
    ("kernel", "inputs"),
    [
        *((k, "approx_sign") for k in KEPT),
        *(("irnet", i) for i in ("ede_sign", "rbnn_sign")),
        *(pytest.param(k, "approx_sign", marks=pytest.mark.slow) for k in KERNELS if k not in KEPT),
        *(pytest.param("irnet", i, marks=pytest.mark.slow) for i in ("fourier_sign", "recu_sign")),
    ],
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


class SeenClock(tf.keras.callbacks.Callback):
    """What every schedule of a model stands at as each batch begins."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append({float(q.progress) for q in rivals.scheduled_quantizers(self.model)})


@pytest.mark.parametrize("alias", SCHEDULED)
def test_fit_moves_the_clock_at_each_epoch(alias, rng):
    model = small_model(alias, "ede_sign")
    clock = SeenClock()
    model.compile("sgd", "mse")
    x = rng.normal(size=(4, 6, 6, 2)).astype("float32")
    model.fit(
        x, np.zeros((4, 3)), batch_size=2, epochs=3, verbose=0,
        callbacks=[rivals.TrainingProgress(4), clock],
    )  # fmt: skip
    assert len(list(rivals.scheduled_quantizers(model))) == 4
    assert clock.seen == [{0.0}, {0.0}, {0.25}, {0.25}, {0.5}, {0.5}]


@pytest.mark.parametrize("alias", SCHEDULED)
def test_fit_moves_the_clock_at_each_step_if_told_their_number(alias, rng):
    model = small_model(alias, "ede_sign")
    clock = SeenClock()
    model.compile("sgd", "mse")
    x = rng.normal(size=(6, 6, 6, 2)).astype("float32")
    model.fit(
        x, np.zeros((6, 3)), batch_size=2, initial_epoch=1, epochs=4, verbose=0,
        callbacks=[rivals.TrainingProgress(4, 2), clock],
    )  # fmt: skip
    # An epoch of three steps where two were announced: the third waits at the end of the epoch.
    assert clock.seen == [{s} for s in (0.25, 0.375, 0.5, 0.5, 0.625, 0.75, 0.75, 0.875, 1.0)]


def test_rotations_are_fitted_once_an_epoch_however_often_the_clock_moves(rng):
    model = small_model("rbnn")
    rivals.begin_epoch(model, 0, 4)
    before = [q.rotation_1.numpy() for q in rivals.scheduled_quantizers(model)]
    rivals.move_clock(model, 0.125)
    for quantizer, old in zip(rivals.scheduled_quantizers(model), before, strict=True):
        assert float(quantizer.progress) == 0.125
        np.testing.assert_array_equal(quantizer.rotation_1.numpy(), old)


def test_a_step_of_the_clock_leaves_the_weights_of_mirror_descent(rng):
    """When beta grows, the offset takes up the difference: u = beta v + c stays."""
    model = small_model("md_tanh")
    x = trained(model, rng)
    rivals.move_clock(model, 0.3)
    quantizer = next(rivals.scheduled_quantizers(model))
    before = quantizer.dual(quantizer.read_latent()).numpy()
    rivals.move_clock(model, 0.4)
    after = quantizer.dual(quantizer.read_latent()).numpy()
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert np.abs(before).max() > 0.1 and np.all(np.isfinite(model(x)))


def test_the_clock_stops_at_one_and_leaves_other_models_alone():
    model = small_model("irnet")
    rivals.begin_epoch(model, 9, 4)
    assert {float(q.progress) for q in rivals.scheduled_quantizers(model)} == {1.0}
    rivals.begin_epoch(small_model("ste_sign"), 0, 4)
    rivals.move_clock(small_model("ste_sign"), 0.5)


def test_epochs_move_the_rotations_of_rbnn(rng):
    model = small_model("rbnn")
    before = [q.rotation_1.numpy() for q in rivals.scheduled_quantizers(model)]
    rivals.begin_epoch(model, 1, 4)
    for quantizer, old in zip(rivals.scheduled_quantizers(model), before, strict=True):
        new = quantizer.rotation_1.numpy()
        assert np.abs(new - old).max() > 0.01
        np.testing.assert_allclose(new.T @ new, np.eye(len(new)), atol=1e-5)


@pytest.mark.parametrize("steps", [None, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("alias", ["irnet", "recu", "rbnn", "slb", "md_tanh"])
def test_two_calls_of_fit_are_one(alias, steps, tmp_path, rng):
    """Saved after two epochs, loaded and gone on: the weights of the unbroken run, bit for bit."""
    x, y = rng.normal(size=(8, 6, 6, 2)).astype("float32"), np.arange(8) % 3
    start = small_model(alias)

    def fit(model, first, last):
        model.fit(x, y, batch_size=4, shuffle=False, initial_epoch=first, epochs=last, verbose=0,
                  callbacks=[rivals.TrainingProgress(4, steps)])  # fmt: skip
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


@pytest.mark.parametrize("trained_before", [True, False])
def test_recalibration_reaches_a_call_that_the_user_traced(trained_before, rng):
    """The trace of soft weights is not used for hard ones, nor one of hard ones kept."""
    plain = small_model("md_tanh_s")
    rivals.begin_epoch(plain, 1, 10)

    class Traced(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = plain

        @tf.function
        def call(self, inputs, training=None):
            return self.inner(inputs, training=training)

    model = Traced()
    x = rng.normal(size=(64, 6, 6, 2)).astype("float32")
    model(x, training=trained_before)
    soft = plain(x, training=True)
    hard = tf.keras.Model(plain.input, plain.layers[1].output)(x, training=False)
    rivals.recalibrate_batch_norm(model, [x] * 80)
    np.testing.assert_allclose(
        plain.layers[2].moving_variance, hard.numpy().var((0, 1, 2)), rtol=0.02
    )
    np.testing.assert_allclose(model(x, training=True), soft, atol=1e-5)
    assert not tf.config.functions_run_eagerly()


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
    model(x, training=True)
    assert len(model.losses) == 1
    # Published is an end some epochs before that of training.
    assert rivals.add_distribution_loss(model, 0) == [model.layers[2].name]
    model(x, training=True)
    assert model.losses == []


def test_distribution_loss_can_end_between_two_calls_of_fit(rng):
    """Then training goes on as if it had never been there, but for where it has come to."""
    x, y = rng.normal(size=(8, 6, 6, 2)).astype("float32"), np.zeros(8, int)
    nets = [small_model("ste_sign") for _ in range(2)]
    for net in nets:
        net.compile("sgd", "sparse_categorical_crossentropy")
    with_loss, without = nets
    rivals.add_distribution_loss(with_loss, 2.0)
    with_loss.fit(x, y, verbose=0)
    without.set_weights(with_loss.get_weights())
    rivals.add_distribution_loss(with_loss, 0)
    for net in nets:
        net.fit(x, y, verbose=0, shuffle=False)
    for one, other in zip(with_loss.variables, without.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)


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
        (lambda: rivals.SLB(start=0.9), r"SLB\(start=0.9\): a number, at least 0, below stop, 0.9"),
        (lambda: rivals.DSQ(alpha=0.9), r"DSQ\(alpha=0.9\): a number above 0.05, at most 0.5"),
        (lambda: rivals.BinaryConnect(True), r"BinaryConnect\(clip_value=True\)"),
        (lambda: rivals.DistributionLoss(-1), r"DistributionLoss\(weight=-1\)"),
        (
            lambda: rivals.add_distribution_loss(None, -1),
            r"add_distribution_loss\(weight=-1\): a finite number, 0 or above",
        ),
        (lambda: rivals.TrainingProgress(0), r"TrainingProgress\(epochs=0\): a whole number, 1 or"),
        (lambda: rivals.TrainingProgress(2.0), r"TrainingProgress\(epochs=2.0\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------ what does not train stays


def frozen_signs(model):
    return [kernel_of(layer) for layer in model.layers if hasattr(layer, "kernel_quantizer")]


def from_name(kernel):
    host, plus, ball = kernel.partition("+")
    return rivals.Mapped(ball, host) if plus else host


@pytest.mark.parametrize("kernel", ["rbnn", "rbnn+hyperbolic"])
@pytest.mark.parametrize("how", ["attribute", "argument", "model", "loaded"])
def test_a_frozen_rbnn_layer_keeps_its_kernel(kernel, how, tmp_path, rng):
    """Rotations are fitted to weights that train; those of a frozen layer would turn its signs."""
    image = tf.keras.Input((6, 6, 2))
    body = lq.layers.QuantConv2D(
        4, 3, kernel_quantizer=from_name(kernel), use_bias=False, trainable=how != "argument"
    )
    inner = tf.keras.Model(image, body(image))
    if how == "model":
        inner.trainable = False
    elif how in ("attribute", "loaded"):
        body.trainable = False
    if how == "loaded":
        inner.save(tmp_path / "frozen.keras")
        inner = tf.keras.models.load_model(tmp_path / "frozen.keras")
    before = frozen_signs(inner)
    head = tf.keras.layers.Dense(3)(tf.keras.layers.Flatten()(inner.output))
    model = tf.keras.Model(inner.input, head)
    model.compile("sgd", "mse")
    x = rng.normal(size=(4, 6, 6, 2)).astype("float32")
    model.fit(x, np.zeros((4, 3)), epochs=2, verbose=0, callbacks=[rivals.TrainingProgress(2)])
    assert {float(q.progress) for q in rivals.scheduled_quantizers(model)} == {0.0}
    for a, b in zip(frozen_signs(inner), before, strict=True):
        np.testing.assert_array_equal(a, b)
    model.layers[1].trainable = True  # and it goes on where it trains again
    rivals.begin_epoch(model, 1, 2)
    assert np.any(frozen_signs(inner)[0] != before[0])


def test_rotations_wait_where_weights_are_not_finite():
    """What trains reports such weights by its loss; a decomposition that fails would hide it."""
    model = small_model("rbnn")
    quantizer = model.layers[1].kernel_quantizer
    before = quantizer.rotation_1.numpy()
    latent = model.layers[1].kernel.latent_variable
    latent.assign(tf.fill(latent.shape, np.nan))
    rivals.begin_epoch(model, 1, 4)
    np.testing.assert_array_equal(quantizer.rotation_1, before)
    assert {float(q.progress) for q in rivals.scheduled_quantizers(model)} == {0.25}


@pytest.mark.parametrize("decay_all", [False, True])
def test_the_released_rbnn_trains_by_decay_of_its_angles_alone(decay_all, rng):
    model = small_model(rivals.RBNN(detach_rotation=True))
    model.compile(
        optimizers.MobiusSGD(0.1, 0.9, weight_decay=5e-4, decay_all=decay_all),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = rng.normal(size=(8, 6, 6, 2)).astype("float32")
    model.fit(x, np.arange(8) % 3, epochs=4, verbose=0)
    moved = np.abs(model.layers[1].kernel_quantizer.theta.numpy() - np.pi / 2)
    assert np.all(moved > 1e-4) if decay_all else np.all(moved < 1e-6)


# ------------------------------------------------------------------ RAD in a model that trains


def rad_model():
    model = small_model("ste_sign")
    assert rivals.add_distribution_loss(model, 2.0) == [model.layers[2].name]
    return model


def rad_loss(model, x):
    inside = tf.keras.Model(model.input, model.layers[2].output)
    return 2.0 * float(rivals.rad.distribution_loss(inside(x, training=True)))


@pytest.fixture
def batch(rng):
    return rng.normal(size=(8, 6, 6, 2)).astype("float32"), np.zeros((8, 3), "float32")


def test_the_added_loss_is_there_in_training_only(batch):
    x, y = batch
    plain, model = small_model("ste_sign"), rad_model()
    model.set_weights(plain.get_weights())
    for m in (plain, model):
        m.compile(tf.keras.optimizers.SGD(0.0), "mse")
    model(x, training=False)
    assert model.losses == []
    assert model.evaluate(x, y, verbose=0) == plain.evaluate(x, y, verbose=0)
    added = rad_loss(model, x)
    history = [m.fit(x, y, verbose=0, validation_data=(x, y)).history for m in (plain, model)]
    assert added > 0.1
    assert history[1]["loss"][0] - history[0]["loss"][0] == pytest.approx(added, rel=1e-5)
    assert history[1]["val_loss"] == history[0]["val_loss"]


def test_the_loss_may_be_added_between_two_fits(batch):
    x, y = batch
    model = small_model("ste_sign")
    model.compile(tf.keras.optimizers.SGD(0.0), "mse")
    before = model.fit(x, y, verbose=0).history["loss"][0]
    rivals.add_distribution_loss(model)
    after = model.fit(x, y, verbose=0).history["loss"][0]
    assert after - before == pytest.approx(rad_loss(model, x), rel=1e-5)


def test_adding_the_loss_again_replaces_it(batch):
    model = rad_model()
    rivals.add_distribution_loss(model, 0.5)
    model(batch[0], training=True)
    assert float(tf.add_n(model.losses)) == pytest.approx(rad_loss(model, batch[0]) / 4, rel=1e-5)


@pytest.mark.parametrize("name", ["model", "model.keras", "model.h5"])
@pytest.mark.parametrize("fitted", [False, True])
def test_a_model_with_the_added_loss_is_saved_without_it(name, fitted, tmp_path, batch):
    x, y = batch
    model = rad_model()
    if fitted:
        model.compile("sgd", "mse")
        model.fit(x, y, verbose=0)
    model.save(tmp_path / name)
    loaded = tf.keras.models.load_model(tmp_path / name)
    np.testing.assert_array_equal(loaded(x), model(x))
    np.testing.assert_array_equal(loaded(x, training=True), model(x, training=True))
    assert loaded.losses == [] and len(model.losses) == 1


# ------------------------------------------------------------------ folding


LOCAL = {
    "1d": (lambda q: lq.layers.QuantLocallyConnected1D(3, 2, kernel_quantizer=q), (5, 4)),
    "2d": (lambda q: lq.layers.QuantLocallyConnected2D(3, 2, kernel_quantizer=q), (4, 4, 2)),
}


@pytest.mark.parametrize("kernel", ["fda", "rbnn", "recu", "xnor_plus_plus", "fda+hyperbolic"])
@pytest.mark.parametrize("kind", LOCAL)
def test_fold_knows_that_each_place_of_a_local_layer_has_scales_of_its_own(kind, kernel, rng):
    make, shape = LOCAL[kind]
    image = tf.keras.Input(shape)
    model = tf.keras.Model(image, make(from_name(kernel))(image))
    x = rng.normal(size=(2, *shape)).astype("float32")
    folded = hbnn_larq.fold(model)
    assert type(folded.layers[1].kernel_quantizer).__module__.startswith("larq.")
    np.testing.assert_array_equal(folded(x), model(x))


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (rivals.IRNet, {"t_min": np.float32(0.5), "t_max": np.int64(5)}),
        (rivals.EDESign, {"t_min": np.float16(0.5)}),
        (rivals.MDTanhS, {"final_beta": np.int64(5)}),
        (
            rivals.SLB,
            {"final_temperature": np.int32(9), "start": np.float32(0), "stop": np.int8(1)},
        ),
        (rivals.ReCU, {"tau_min": np.float32(0.75)}),
        (rivals.BinaryConnect, {"clip_value": np.int64(2)}),
        (rivals.DistributionLoss, {"weight": np.float32(0.5)}),
    ],
)
def test_numbers_of_numpy_are_numbers(kind, arguments):
    config = json.loads(json.dumps(kind(**arguments).get_config()))
    assert {name: config[name] for name in arguments} == arguments
    kind.from_config(config)


def test_whole_numbers_of_numpy_are_epochs():
    assert type(rivals.TrainingProgress(np.int64(5)).epochs) is int
    model = small_model("irnet")
    rivals.begin_epoch(model, np.int64(1), np.int32(4))
    assert {float(q.progress) for q in rivals.scheduled_quantizers(model)} == {0.25}


SHARE = "a number, at least 0, below stop, 0.9."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rivals.SLB(start=None), f"SLB(start=None): {SHARE}"),
        (lambda: rivals.SLB(start="0.3"), f"SLB(start='0.3'): {SHARE}"),
        (lambda: rivals.SLB(start=False), f"SLB(start=False): {SHARE}"),
        (lambda: rivals.SLB(stop="0.9"), "SLB(stop='0.9'): a number above 0, at most 1."),
        (lambda: rivals.IRNet(t_min=None), "IRNet(t_min=None): a number above 0."),
        (
            lambda: rivals.TrainingProgress(True),
            "TrainingProgress(epochs=True): a whole number, 1 or above.",
        ),
        (
            lambda: rivals.TrainingProgress(5, 0),
            "TrainingProgress(steps_per_epoch=0): a whole number, 1 or above.",
        ),
        (
            lambda: rivals.move_clock(small_model("irnet"), 1.5),
            "move_clock(progress=1.5): a number from 0 to 1.",
        ),
        (
            lambda: rivals.begin_epoch(small_model("irnet"), 0, None),
            "begin_epoch(epochs=None): a whole number, 1 or above.",
        ),
        (
            lambda: rivals.begin_epoch(small_model("irnet"), 0.5, 4),
            "begin_epoch(epoch=0.5): a whole number, 0 or above.",
        ),
    ],
)  # fmt: skip
def test_what_is_no_number_is_named(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


# ------------------------------------------------------------------ batches without labels

WAY_OUT = (
    "Give batches of the inputs alone: tf.data.Dataset.from_tensor_slices(x).batch(64) of an array "
    "x, (x for x, y in batches) where labels come along."
)


@pytest.mark.parametrize(
    ("batches", "given"),
    [
        (lambda x: x, "(6, 6, 2)"),
        (lambda x: tf.data.Dataset.from_tensor_slices(x), "(6, 6, 2)"),
        (
            lambda x: tf.data.Dataset.from_tensor_slices((x, np.arange(8))).batch(4),
            "(4, 6, 6, 2) and (4,)",
        ),
    ],
    ids=["array", "images one by one", "with labels"],
)
@pytest.mark.parametrize("with_input", [True, False])
def test_recalibration_names_what_is_no_batch_of_inputs(batches, given, with_input, rng):
    x = rng.normal(size=(8, 6, 6, 2)).astype("float32")
    model = small_model("slb")
    if not with_input:
        model = tf.keras.Sequential(model.layers[1:])
        model(x)
    before = model.get_weights()
    with pytest.raises(ValueError) as error:
        rivals.recalibrate_batch_norm(model, batches(x))
    assert str(error.value) == (
        f"recalibrate_batch_norm(model, batches): a batch of shape {given}, where the model takes "
        f"(None, 6, 6, 2). {WAY_OUT}"
    )
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("form", [tuple, list, lambda pair: dict(zip("ab", pair, strict=True))])
def test_recalibration_of_two_inputs(form, rng):
    a, b = tf.keras.Input((3,), name="a"), tf.keras.Input((4, 3), name="b")
    norm = tf.keras.layers.BatchNormalization()
    model = tf.keras.Model([a, b], norm(a + tf.reduce_sum(b, 1)))
    before = norm.moving_mean.numpy()
    batch = form([rng.normal(size=(8, *x.shape[1:])).astype("float32") for x in (a, b)])
    rivals.recalibrate_batch_norm(model, [batch])
    assert np.all(norm.moving_mean.numpy() != before)


# ------------------------------------------------------------------ built by the first batch


def lazy_model(kernel):
    return tf.keras.Sequential(
        [
            lq.layers.QuantConv2D(4, 3, input_quantizer="ede_sign", kernel_quantizer=kernel),
            tf.keras.layers.Flatten(),
            lq.layers.QuantDense(3, input_quantizer="ede_sign", kernel_quantizer=kernel),
        ]
    )


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_a_model_built_by_its_first_batch_catches_up(built, steps_per_execution, rng, monkeypatch):
    """One move an epoch, of each quantizer: also of those that the epoch's first batch made."""
    x = rng.normal(size=(16, 6, 6, 2)).astype("float32")
    model, seen, moved = lazy_model("rbnn"), [], []
    if built:
        model.build((None, 6, 6, 2))
    move_to = rivals.progress.Scheduled.move_to

    def noted(quantizer, progress):
        moved.append(progress)
        move_to(quantizer, progress)

    monkeypatch.setattr(rivals.progress.Scheduled, "move_to", noted)

    class Note(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append({float(q.progress) for q in rivals.scheduled_quantizers(model)})

    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    model.fit(
        x, np.zeros((16, 3)), batch_size=4, initial_epoch=3, epochs=5, verbose=0,
        callbacks=[rivals.TrainingProgress(6), Note()],
    )  # fmt: skip
    batches = 4 // steps_per_execution
    assert seen == [{0.5}] * batches + [{np.float32(4 / 6)}] * batches
    assert moved == [0.5] * 4 + [4 / 6] * 4


def test_the_clock_waits_for_no_logs():
    """A callback with batch hooks makes Keras fetch the losses of every step, unless it says so."""
    clock = tf.keras.callbacks.CallbackList([rivals.TrainingProgress(2)])
    assert clock._batch_hooks_support_tf_logs


SOFT = ["md_softmax_s", "md_tanh", "md_tanh_s", "slb"]


@pytest.mark.parametrize("kernel", SOFT)
def test_a_tensor_says_as_well_whether_this_is_training(kernel, rng):
    model = small_model(kernel)
    rivals.add_distribution_loss(model)
    x = trained(model, rng, epochs=1)[:3]
    weights = model.get_weights()

    @tf.function
    def in_graph(flag):
        return model(x, training=flag), tf.add_n(model.losses or [0.0])

    def call(how, flag):
        model.set_weights(weights)  # batch normalization learns in training
        return how(flag)

    hard, none = call(in_graph, False)
    soft, loss = call(in_graph, True)
    assert np.abs(hard - soft).max() > 1e-3
    assert float(none) == 0 < float(loss)
    for flag, logits, penalty in ((False, hard, none), (True, soft, loss)):
        found = call(in_graph, tf.constant(flag))
        np.testing.assert_allclose(found[0], logits, atol=1e-5)
        np.testing.assert_allclose(found[1], penalty, rtol=1e-5)
        found = call(lambda flag: model(x, training=flag), tf.constant(flag))
        np.testing.assert_allclose(found, logits, atol=1e-5)
        np.testing.assert_allclose(sum(model.losses), penalty, rtol=1e-5)


@pytest.mark.parametrize("kernel", SOFT)
@pytest.mark.parametrize("progress", [0.25, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_frozen_layer_is_as_hard_in_training(kernel, progress, rng):
    """As its batch normalization, which Keras freezes so; and its clock stands."""
    body = small_model(kernel)
    x = trained(body, rng)
    rivals.move_clock(body, progress)
    body.trainable = False
    np.testing.assert_allclose(body(x, training=True), body(x, training=False), atol=1e-6)
    before = body.get_weights()
    whole = tf.keras.Sequential([tf.keras.Input((6, 6, 2)), body, tf.keras.layers.Dense(3)])
    trained(whole, rng, epochs=3)
    for old, new in zip(before, body.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    rivals.move_clock(whole, 0.5)
    assert {float(q.progress) for q in rivals.scheduled_quantizers(body)} == {progress}
    body.trainable = True
    rivals.move_clock(whole, 0.5)
    assert {float(q.progress) for q in rivals.scheduled_quantizers(body)} == {0.5}


def test_the_doctor_lets_frozen_schedules_stand(rng):
    from hbnn_larq import doctor

    body = small_model("slb")
    body.trainable = False
    whole = tf.keras.Sequential([tf.keras.Input((6, 6, 2)), body, tf.keras.layers.Dense(3)])
    trained(whole, rng)
    found = {finding.code for finding in doctor.examine(whole, optimizer=whole.optimizer)}
    assert "standing-schedule" not in found
