"""Broken models and what the doctor says about each; healthy ones, about which it says nothing."""

import json

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import doctor, zoo
from hbnn_larq.optimizers import GeodesicSGD, GroupedAdam, MobiusSGD

SETTINGS = {"padding": "same", "pad_values": 1.0, "use_bias": False}


def conv(filters=32, quantizer="hyperbolic", **kwargs):
    kwargs = {"input_quantizer": "approx_sign", **SETTINGS, **kwargs}
    return lq.layers.QuantConv2D(filters, 3, kernel_quantizer=quantizer, **kwargs)


def norm(**kwargs):
    return tf.keras.layers.BatchNormalization(momentum=0.9, **kwargs)


def net(*layers, channels=32):
    """A healthy frame: float stem and head around the layers under test."""
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            tf.keras.layers.Conv2D(channels, 3, padding="same"),
            norm(),
            *layers,
            norm(),
            tf.keras.layers.GlobalAveragePooling2D(),
            tf.keras.layers.Dense(4),
        ]
    )


def with_weights(model, name, change):
    layer = model.get_layer(name)
    variable = layer.kernel.latent_variable if hasattr(layer, "kernel") else layer.gamma
    variable.assign(change(variable.numpy()))
    return model


def with_base_point(model, name, share):
    (point,) = model.get_layer(name).kernel_quantizer.base_points
    value = np.zeros(point.shape, np.float32)
    value[0, 0, 0] = share / np.sqrt(0.05)
    point.assign(value)
    return model


class Scale(tf.keras.layers.Layer):
    """A quantizer with a weight of its own, as people write them."""

    precision = 1

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, inputs):
        return self.scale * lq.math.sign(inputs)


def dead_channel(x):
    return lq.math.sign(x) * tf.constant([0.0] + [0.5] * 31)


def soft_sign(x):
    return tf.tanh(x)


dead_channel.precision = soft_sign.precision = 1


def same_initializer():
    initializer = tf.keras.initializers.GlorotNormal(seed=1)
    return [
        conv(kernel_initializer=initializer, name="a"),
        norm(),
        conv(kernel_initializer=initializer, name="b"),
    ]


def shared_quantizer():
    quantizer = Scale()
    return [conv(quantizer=quantizer, name="a"), norm(), conv(quantizer=quantizer, name="b")]


# Each: what is wrong, how to build it, the code, a piece of the message or fix.
BROKEN = {
    "shared quantizer": (lambda: net(*shared_quantizer()), "shared-quantizer", "a and b"),
    "one initializer": (lambda: net(*same_initializer()), "equal-kernels", "a and b"),
    "heaviside kernel": (lambda: net(conv(quantizer="ste_heaviside")), "wrong-slot", "activations"),
    "dorefa kernel": (lambda: net(conv(quantizer=lq.quantizers.DoReFa(1))), "wrong-slot", "mode="),
    "scaled sign on inputs": (
        lambda: net(conv(input_quantizer="magnitude_aware_sign")),
        "wrong-slot",
        "approx_sign",
    ),
    "no batch norm": (
        lambda: net(conv(name="a"), tf.keras.layers.MaxPool2D(), conv(name="b")),
        "no-batch-norm",
        "sign of 'b' without a batch normalization",
    ),
    "relu before sign": (
        lambda: net(tf.keras.layers.ReLU(), conv()),
        "sign-of-positive",
        "every sign is +1",
    ),
    "sign of the image": (
        lambda: tf.keras.Sequential([tf.keras.Input((8, 8, 3)), conv(), norm()]),
        "sign-of-input",
        "first layer a float one",
    ),
    "binary weights only": (
        lambda: net(conv(input_quantizer=None, pad_values=0.0)),
        "float-inputs",
        "weights are stored as floats: it will run in float",
    ),
    "depthwise": (
        lambda: net(
            lq.layers.QuantDepthwiseConv2D(
                3, input_quantizer="ste_sign", depthwise_quantizer="hyperbolic"
            )
        ),
        "no-binary-op",
        "depthwise",
    ),
    "transposed": (
        lambda: net(
            lq.layers.QuantConv2DTranspose(
                8, 3, input_quantizer="ste_sign", kernel_quantizer="hyperbolic"
            )
        ),
        "no-binary-op",
        "QuantConv2DTranspose",
    ),
    "groups": (
        lambda: net(conv(groups=2)),
        "groups",
        "16 input channels per group; LCE has no fast kernel for groups: it will run in float",
    ),
    "wide groups": (
        lambda: net(conv(groups=2), channels=64),
        "groups",
        "convert refuses it",
    ),
    "heaviside inputs": (
        lambda: net(conv(input_quantizer="ste_heaviside", pad_values=0.0, padding="valid")),
        "inputs-not-signs",
        "SteHeaviside does not give ±1",
    ),
    "a scale of zero": (
        lambda: net(conv(quantizer=dead_channel)),
        "zero-scale",
        "the scale of 1 of 32 output channels is 0",
    ),
    "soft weights": (
        lambda: net(conv(quantizer=soft_sign)),
        "kernel-not-signs",
        "not a sign times one factor per output channel: it will run in float",
    ),
    "padding with -1": (
        lambda: net(conv(pad_values=-1.0)),
        "pad-values",
        "it will run in float",
    ),
    "33 channels": (
        lambda: net(conv(), channels=33),
        "channels",
        "33 input channels are packed as 64",
    ),
    "zero padding": (lambda: net(conv(pad_values=0.0)), "pad-values", "pad_values=1.0"),
    "zeros around an image smaller than the kernel": (
        lambda: net(conv(pad_values=0.0, dilation_rate=4)),
        "pad-values",
        "LCE sums them wrong around an image of 8x8, smaller than the kernel",
    ),
    "weight clip": (
        lambda: net(conv(kernel_constraint="weight_clip")),
        "constraint",
        "never clipped",
    ),
    "regularizer": (lambda: net(conv(kernel_regularizer="l2")), "regularizer", "latent_decay"),
    "NaN": (
        lambda: with_weights(net(conv(name="a")), "a", lambda w: w * np.nan),
        "not-finite",
        "a/kernel:0 holds NaN",
    ),
    "starved latents": (
        lambda: with_weights(net(conv(quantizer="ste_sign", name="a")), "a", lambda w: 90 * w),
        "starved-latents",
        "weight_clip",
    ),
    "one-sided kernel": (
        lambda: with_weights(net(conv(name="a")), "a", np.abs),
        "one-sided-kernel",
        "all its 9216 binary weights are +1",
    ),
    "p that does nothing": (
        lambda: with_base_point(net(conv(name="a")), "a", 1e-6),
        "idle-base-points",
        "0.00%",
    ),
    "p at the edge": (lambda: with_base_point(net(conv(name="a")), "a", 0.99), "edge", "99.0%"),
    "saturated map": (
        lambda: with_weights(net(conv(name="a")), "a", lambda w: 60 * w),
        "saturated",
        "tanh is 1",
    ),
    "dead batch norm": (
        lambda: with_weights(net(conv(), norm(name="b"), conv()), "b", np.zeros_like),
        "dead-batch-norm",
        "carry nothing",
    ),
}


@pytest.mark.filterwarnings("ignore:The initializer")
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_gets_its_message(case):
    build, code, text = BROKEN[case]
    findings = doctor.examine(build())
    assert len(findings) == 1, [str(finding) for finding in findings]
    (finding,) = findings
    assert finding.code == code and text in str(finding), str(finding)
    assert finding.fix[0].isupper() and finding.fix.endswith(".")


def test_there_are_many_broken_models_and_all_kinds_of_trouble():
    assert len(BROKEN) >= 15 and len({code for _, code, _ in BROKEN.values()}) >= 15


@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic", "hyperbolic_boundary", "epc"])
def test_a_healthy_net_gets_none(quantizer):
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    model = net(conv(quantizer=quantizer), norm(), conv(quantizer=quantizer))
    assert doctor.examine(model, optimizer=MobiusSGD(0.1, latent_decay=5e-4), images=images) == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if "34" in n else n for n in zoo.MODELS],
)
def test_the_zoo_is_healthy(name):
    model = getattr(zoo, name)(input_shape=(64, 64, 3), num_classes=10)
    findings = doctor.examine(model)
    assert findings == [], [str(finding) for finding in findings]


def test_trained_weights_are_healthy():
    from hbnn_larq.training import data

    model, digits = zoo.VGGSmall(weights="digits"), data.load("digits")
    findings = doctor.examine(model, images=digits.normalize(digits.test.images[:32]))
    assert findings == [], [str(finding) for finding in findings]


def test_activations_that_say_nothing():
    shift = tf.keras.layers.Rescaling(1.0, offset=100.0)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    model = net(shift, conv(name="a"))
    findings = doctor.examine(model, images=images)
    assert {finding.code for finding in findings} == {"one-sided-inputs", "saturated-inputs"}
    broken = np.full_like(images, np.nan)
    assert {f.code for f in doctor.examine(net(conv()), images=broken)} == {"not-finite"}


def _codes(quantizer, scale=1.0, activation=None, kernel="ste_sign"):
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    tf.keras.utils.set_random_seed(0)
    model = net(
        tf.keras.layers.Conv2D(32, 3, padding="same", activation=activation),
        tf.keras.layers.Rescaling(scale),
        conv(input_quantizer=quantizer, quantizer=kernel),
    )
    return {finding.code for finding in doctor.examine(model, images=images)}


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("quantizer", ["rbnn_sign", "recu_sign"])
def test_signs_that_scale_each_image_are_not_saturated(quantizer, scale):
    assert _codes(quantizer, scale) == set()


def test_a_window_is_that_of_the_quantizer():
    assert _codes("ste_sign", 1e4) == {"saturated-inputs"}
    assert _codes("ede_sign", 8.0) == set()  # wide open at first
    assert _codes("ede_sign", 1e7) == {"saturated-inputs"}


def test_a_sign_behind_a_rectifier_may_see_the_mean():
    assert _codes("ste_sign", activation="relu") >= {"one-sided-inputs"}
    assert _codes("rbnn_sign", activation="relu") == set()
    # Two bits, from 0 to 1, which no binary op takes: that, and nothing of signs.
    assert _codes("dorefa_quantizer", activation="relu") == {"inputs-not-signs"}


@pytest.mark.parametrize("kernel", ["ste_sign", "xnor_plus_plus", "fda", "dsq", "bireal"])
def test_starved_latents_of_every_clipped_gradient(kernel):
    def codes(factor):
        model = net(conv(quantizer=kernel, name="a"))
        latent = model.get_layer("a").kernel
        latent.assign(latent * factor)
        return {finding.code for finding in doctor.examine(model)}

    assert "starved-latents" not in codes(1.0)
    assert "starved-latents" in codes(1000.0)


def test_a_float_net_is_not_called_healthy():
    """Nothing is wrong with it but that it is no binary net, and `convert` refuses it."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(3, input_shape=(4,))], name="plain")
    (found,) = doctor.examine(model)
    assert (found.code, found.where) == ("no-binary-layer", "plain")


def test_the_examined_model_still_works():
    model = net(conv())
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    before = model(images)
    doctor.examine(model, images=images)
    np.testing.assert_array_equal(model(images), before)


def cosine(rate, steps):
    return [rate / 2 * (1 + np.cos(np.pi * step / steps)) for step in range(steps)]


def test_a_starved_schedule_is_foreseen_and_the_named_decay_mends_it():
    rates = cosine(0.1, 1200)
    (finding,) = doctor.examine_schedule(rates, 5e-4, 0.9)
    assert finding.code == "starved-of-flips" and "over 1200 steps" in finding.message
    decay = float(finding.fix.split("to about ")[1].split(",")[0])
    assert doctor.examine_schedule(rates, decay, 0.9) == []


def test_a_restless_schedule_is_foreseen_and_the_named_decay_mends_it():
    rates = cosine(0.3, 1200)
    (finding,) = doctor.examine_schedule(rates, 0.2, 0.9)
    assert finding.code == "too-many-flips"
    decay = float(finding.fix.split("to about ")[1].rstrip("."))
    assert doctor.examine_schedule(rates, decay, 0.9) == []


def test_a_decay_that_swings_weights_is_foreseen_and_both_ways_out_mend_it():
    def found(**decay):
        optimizer = MobiusSGD(0.1, momentum=0.9, **decay)
        return doctor.examine(net(conv()), optimizer=optimizer, learning_rates=cosine(0.1, 300))

    (finding,) = found(latent_decay=0.09)
    assert finding.code == "decay-swings-weights"
    assert "swing weights 13% beyond zero" in finding.message
    assert found(latent_decay=0.09, decoupled=True) == []
    lower = float(finding.fix.split("lower latent_decay to ")[1].split(",")[0])
    assert "decay-swings-weights" not in [f.code for f in found(latent_decay=lower)]


@pytest.mark.parametrize("asked", [False, True])
def test_thresholds_that_adam_cannot_move_far_are_named_and_a_factor_mends_it(asked):
    def found(steps, **rate):
        optimizer = GroupedAdam(0.003, latent_decay=20.0, **rate)
        if asked:
            optimizer = GeodesicSGD(0.01, others=MobiusSGD(0.003, others=optimizer))
        rates = cosine(0.003, steps)
        findings = doctor.examine(net(conv()), optimizer=optimizer, learning_rates=rates)
        return [finding for finding in findings if finding.code == "slow-thresholds"]

    (finding,) = found(300)
    assert "in these 300 steps the shifts" in finding.message
    assert "come about 0.45 standard deviations far" in finding.message
    factor = float(finding.fix.split("threshold_rate=")[1].split(")")[0])
    assert found(300, threshold_rate=factor) == []
    assert found(1500, threshold_rate=1.0) == []
    assert len(found(1200, threshold_rate=1.0)) == 1


def test_steady_gradients_move_a_threshold_that_far_however_large_they_are():
    shift = tf.Variable(tf.zeros(4))
    optimizer = GroupedAdam(0.003, threshold_rate=10.0)
    for _ in range(50):
        optimizer.apply_gradients([(tf.constant([1e-3, 1.0, -20.0, 1e6]), shift)])
    np.testing.assert_allclose(np.abs(shift), 50 * 0.03, rtol=1e-3)


def test_the_schedule_is_examined_with_the_optimizer():
    optimizer = MobiusSGD(0.1, momentum=0.9, latent_decay=5e-4)
    findings = doctor.examine(net(conv()), optimizer=optimizer, learning_rates=cosine(0.1, 1200))
    assert [finding.code for finding in findings] == ["starved-of-flips"]


@pytest.mark.parametrize(
    "asked, codes",
    [(0.0005, ["starved-of-flips"]), (0.001, []), (0.05, []), (0.2, ["too-many-flips"])],
)
@pytest.mark.parametrize("scheduled", [True, False])
def test_flips_that_are_asked_for_are_not_predicted(asked, codes, scheduled):
    """No decay, and yet not starved: only the number asked for can be wrong."""
    flips = tf.keras.optimizers.schedules.CosineDecay(asked, 1200) if scheduled else asked
    optimizer = GeodesicSGD(flips, others=MobiusSGD(0.1, momentum=0.9))
    findings = doctor.examine(net(conv()), optimizer=optimizer, learning_rates=cosine(0.1, 1200))
    assert [finding.code for finding in findings] == codes
    assert all(f"asks for {asked:.2%} of the weights" in f.message for f in findings)


def test_a_warm_up_does_not_hide_the_flips_that_are_asked_for():
    class WarmUp(tf.keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01 * tf.minimum(tf.cast(step, tf.float32) / 500, 1.0)

    assert doctor.examine(net(conv()), optimizer=GeodesicSGD(WarmUp())) == []


def test_the_law_says_nothing_of_latents_that_another_optimizer_moves():
    optimizer = MobiusSGD(0.1, others=tf.keras.optimizers.Adam(), base_point_decay=0.1)
    assert doctor.examine(net(conv()), optimizer=optimizer, learning_rates=cosine(0.1, 1200)) == []


def test_a_schedule_that_nobody_moves(rng):
    """`fit` without TrainingProgress leaves every rival at its start."""
    model = net(conv(quantizer="recu", input_quantizer="ede_sign"))
    model.compile("sgd", "mse")
    assert doctor.examine(model, optimizer=model.optimizer) == []
    images = rng.normal(size=(8, 8, 8, 3)).astype(np.float32)
    model.fit(images, np.zeros((8, 4)), epochs=2, verbose=0)
    (finding,) = doctor.examine(model, optimizer=model.optimizer)
    assert finding.code == "standing-schedule" and "TrainingProgress(epochs)" in finding.fix
    assert finding.message == (
        "after 2 steps the schedules of 2 quantizers (EDESign, ReCU) still stand at their start"
    )
    callback = hbnn_larq.rivals.TrainingProgress(2)
    model.fit(images, np.zeros((8, 4)), epochs=2, verbose=0, callbacks=[callback])
    assert doctor.examine(model, optimizer=model.optimizer) == []


def test_a_kernel_that_is_one_list_of_numbers():
    layer = lq.layers.QuantLocallyConnected2D(
        4, 3, input_quantizer="approx_sign", kernel_quantizer="ste_sign", implementation=3
    )
    codes = [finding.code for finding in doctor.examine(net(layer))]
    assert codes == ["no-binary-op"]


def test_base_points_without_decay():
    optimizer = MobiusSGD(0.1, latent_decay=5e-4, base_point_decay=0.0)
    findings = doctor.examine(net(conv()), optimizer=optimizer)
    assert [finding.code for finding in findings] == ["undecayed-base-points"]
    assert doctor.examine(net(conv(quantizer="ste_sign")), optimizer=optimizer) == []


def test_an_epoch_without_flips(rng):
    bits = {name: rng.choice([-1, 1], (3, 3, 4, 8)).astype(np.int8) for name in "abc"}
    after = {name: array.copy() for name, array in bits.items()}
    after["b"][0, 0, 0, :2] *= -1
    after["c"][0, 0] *= -1
    findings = doctor.examine_epoch(bits, after)
    assert [(f.code, f.where) for f in findings] == [
        ("never-flips", "a"),
        ("filters-never-flip", "b"),
    ]
    assert "6 of its 8 filters" in findings[1].message
    assert all("GeodesicSGD" in finding.fix for finding in findings)
    # 288 weights, 36 a filter: five flips at 0.4 % a step take 5 and 35 steps.
    for steps, expected in [(4, []), (5, findings[:1]), (34, findings[:1]), (35, findings)]:
        assert doctor.examine_epoch(bits, after, steps=steps) == expected
    off = doctor.examine_epoch({}, {}, predicted=0.01, measured=0.001)
    assert [f.code for f in off] == ["flips-off-the-law"] and "latent_decay" not in off[0].fix
    (off,) = doctor.examine_epoch({}, {}, predicted=0.01, measured=0.0025, latent_decay=0.002)
    assert off.fix.endswith("latent_decay of about 0.032 instead of 0.002 would make up for it.")
    assert doctor.examine_epoch({}, {}, predicted=0.01, measured=0.008) == []


def test_versions(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda package: "9.9.1")
    codes = {(f.code, f.where) for f in doctor.examine(net(conv()))}
    assert codes == {("version", package) for package in doctor.VERSIONS}


def test_float64_is_named():
    tf.keras.mixed_precision.set_global_policy("float64")
    try:
        findings = doctor.examine(net(conv(quantizer="ste_sign", name="a")))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert [(f.code, f.where) for f in findings] == [("float64", "a")]


def test_json_and_bad_input():
    findings = doctor.examine(net(conv(pad_values=0.0)))
    content = json.loads(doctor.to_json(findings))
    assert content["ok"] is False and content["findings"][0]["code"] == "pad-values"
    with pytest.raises(TypeError, match=r"examine\(model\): expected a tf.keras.Model, got str"):
        doctor.examine("net.keras")


def test_the_doctor_is_reached_from_the_package():
    assert hbnn_larq.doctor is doctor
