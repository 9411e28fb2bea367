"""fold, unfold, binary_weights: the bits and the logits survive, and nothing else is needed."""

import subprocess
import sys
import textwrap

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import rebuilding
from hbnn_larq.folding import binary_weights, fold, unfold

HYPERBOLIC = ["hyperbolic", "hyperbolic_boundary", "epc"]
QUANTIZERS = ["ste_sign", *HYPERBOLIC]


def conv(filters, quantizer, name=None, **kwargs):
    return lq.layers.QuantConv2D(
        filters,
        3,
        padding="same",
        pad_values=1.0,
        use_bias=False,
        input_quantizer=kwargs.pop("input_quantizer", "ste_sign"),
        kernel_quantizer=quantizer,
        name=name,
        **kwargs,
    )


def small_net(quantizer, *, shape=(8, 8, 3)):
    """Stem, two binary convs around a shortcut, binary dense, float head."""
    image = tf.keras.Input(shape)
    x = tf.keras.layers.Conv2D(8, 3, padding="same", name="stem")(image)
    x = tf.keras.layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    y = conv(8, quantizer, "conv_1")(x)
    y = tf.keras.layers.BatchNormalization(momentum=0.9, name="bn_1")(y)
    x = tf.keras.layers.Add()([x, y])
    x = conv(16, quantizer, "conv_2", strides=2)(x)
    x = tf.keras.layers.BatchNormalization(momentum=0.9, name="bn_2")(x)
    x = tf.keras.layers.Flatten()(x)
    x = lq.layers.QuantDense(
        6, input_quantizer="ste_sign", kernel_quantizer=quantizer, name="dense"
    )(x)
    return tf.keras.Model(image, tf.keras.layers.Dense(4, name="head")(x), name="small_net")


def randomize(model, seed=0):
    """Random weights everywhere: base points away from 0, batch norms away from the identity."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        noise = rng.normal(size=weight.shape)
        if "variance" in weight.name:
            noise = rng.uniform(0.5, 2.0, size=weight.shape)
        weight.assign((0.4 * noise if noise.ndim > 1 else noise).astype(np.float32))
    return model


def images(count=5, shape=(8, 8, 3), seed=1):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def assert_plain(model):
    layers = list(model._flatten_layers())
    assert not [layer for layer in layers if type(layer).__module__.startswith("hbnn_larq")]
    assert not [weight.name for weight in model.weights if "base_point" in weight.name]


# --- fold ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_fold_keeps_every_logit_bit(quantizer):
    model = randomize(small_net(quantizer))
    folded = fold(model)
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))
    np.testing.assert_array_equal(folded(images()), model(images()))
    assert_plain(folded)
    for name in ("conv_1", "conv_2", "dense"):
        layer = folded.get_layer(name)
        assert type(layer.kernel_quantizer) is lq.quantizers.SteSign
        np.testing.assert_array_equal(np.abs(layer.get_weights()[0]), 1)


@pytest.mark.parametrize("quantizer", HYPERBOLIC)
def test_the_test_nets_have_base_points_that_matter(quantizer):
    model = randomize(small_net(quantizer))
    latent_signs = np.where(model.get_layer("conv_1").kernel.latent_variable.numpy() >= 0, 1, -1)
    assert np.mean(latent_signs != binary_weights(model)["conv_1"]) > 0.02


@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic"])
def test_fold_leaves_its_source_alone_and_is_idempotent(quantizer):
    model = randomize(small_net(quantizer))
    before = model.get_weights()
    once = fold(model)
    twice = fold(once)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert once.get_config() == twice.get_config()
    for a, b in zip(once.get_weights(), twice.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic"])
def test_fold_inside_a_quantized_scope_gives_the_same_model(quantizer):
    model = randomize(small_net(quantizer))
    expected = fold(model).get_weights()
    with lq.context.quantized_scope(True):
        folded = fold(model)
    for a, b in zip(expected, folded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_fold_enters_sequential_nested_and_shared(quantizer):
    inner_input = tf.keras.Input((8, 8, 3))
    twice = conv(3, quantizer, "shared")
    inner = tf.keras.Model(inner_input, twice(twice(inner_input)), name="inner")
    model = tf.keras.Sequential(
        [
            inner,
            tf.keras.Sequential(
                [conv(4, quantizer, "in_sequential"), tf.keras.layers.BatchNormalization()],
                name="block",
            ),
            tf.keras.layers.TimeDistributed(
                lq.layers.QuantConv1D(
                    2, 3, kernel_quantizer=quantizer, input_quantizer="ste_sign", name="wrapped"
                ),
                name="rows",
            ),
            tf.keras.layers.GlobalAveragePooling2D(),
        ]
    )
    model.build((None, 8, 8, 3))
    randomize(model)
    folded = fold(model)
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))
    assert_plain(folded)
    assert isinstance(folded, tf.keras.Sequential)
    assert len(folded.get_layer("inner").weights) == 1, "a shared layer stays one layer"
    assert list(binary_weights(folded)) == ["inner/shared", "block/in_sequential", "rows/wrapped"]


@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic"])
def test_fold_keeps_several_inputs_and_outputs_by_name(quantizer):
    left, right = tf.keras.Input((6, 6, 4), name="left"), tf.keras.Input((6, 6, 4), name="right")
    shared = conv(4, quantizer, "shared")
    a, b = shared(left), shared(right)
    outputs = {"sum": tf.keras.layers.Add()([a, b]), "left": conv(2, quantizer)(a)}
    model = randomize(tf.keras.Model({"left": left, "right": right}, outputs))
    data = {"left": images(3, (6, 6, 4)), "right": images(3, (6, 6, 4), seed=2)}
    expected, got = model.predict(data), fold(model).predict(data)
    assert set(got) == {"sum", "left"}
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


def test_fold_of_a_layer_shared_between_a_nested_model_and_its_owner():
    shared = conv(3, "ste_sign", "shared")
    inner_input = tf.keras.Input((8, 8, 3))
    inner = tf.keras.Model(inner_input, shared(inner_input))
    image = tf.keras.Input((8, 8, 3))
    model = randomize(tf.keras.Model(image, shared(inner(image))))
    folded = fold(model)
    assert len(folded.weights) == 1
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))


LAYERS = {
    "Conv1D": (lq.layers.QuantConv1D, dict(filters=4, kernel_size=3), (9, 3)),
    "Conv2D": (lq.layers.QuantConv2D, dict(filters=4, kernel_size=3), (6, 6, 3)),
    "Conv3D": (lq.layers.QuantConv3D, dict(filters=4, kernel_size=2), (4, 4, 4, 2)),
    "Dense": (lq.layers.QuantDense, dict(units=5), (7,)),
    "Conv2DTranspose": (lq.layers.QuantConv2DTranspose, dict(filters=3, kernel_size=3), (4, 4, 2)),
    "Conv3DTranspose": (
        lq.layers.QuantConv3DTranspose,
        dict(filters=2, kernel_size=2),
        (3, 3, 3, 2),
    ),
    "LocallyConnected1D": (
        lq.layers.QuantLocallyConnected1D,
        dict(filters=2, kernel_size=2),
        (5, 2),
    ),
    "LocallyConnected2D": (
        lq.layers.QuantLocallyConnected2D,
        dict(filters=2, kernel_size=2),
        (4, 4, 2),
    ),
    "DepthwiseConv2D": (lq.layers.QuantDepthwiseConv2D, dict(kernel_size=3), (6, 6, 3)),
    "SeparableConv1D": (
        lq.layers.QuantSeparableConv1D,
        dict(filters=4, kernel_size=3),
        (9, 3),
    ),
    "SeparableConv2D": (
        lq.layers.QuantSeparableConv2D,
        dict(filters=4, kernel_size=3),
        (6, 6, 3),
    ),
}


@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic"])
@pytest.mark.parametrize("kind", LAYERS)
def test_fold_and_binary_weights_know_every_larq_layer(kind, quantizer):
    cls, kwargs, shape = LAYERS[kind]
    arguments = {
        "DepthwiseConv2D": ["depthwise_quantizer"],
        "SeparableConv1D": ["depthwise_quantizer", "pointwise_quantizer"],
        "SeparableConv2D": ["depthwise_quantizer", "pointwise_quantizer"],
    }.get(kind, ["kernel_quantizer"])
    layer = cls(**kwargs, **dict.fromkeys(arguments, quantizer), name="layer")
    model = tf.keras.Sequential([tf.keras.Input(shape), layer])
    randomize(model)
    folded = fold(model)
    data = images(3, shape)
    np.testing.assert_array_equal(folded.predict(data), model.predict(data))
    assert_plain(folded)
    bits = binary_weights(model)
    expected = (
        ["layer/depthwise_kernel", "layer/pointwise_kernel"] if len(arguments) == 2 else ["layer"]
    )
    assert list(bits) == expected
    for array in bits.values():
        assert array.dtype == np.int8 and set(np.unique(array)) <= {-1, 1}
    np.testing.assert_array_equal(
        np.concatenate([array.ravel() for array in bits.values()]),
        np.concatenate([w.numpy().ravel() for w in folded.weights if "kernel" in w.name]),
    )


def test_fold_keeps_the_state_of_other_layers():
    normalization = tf.keras.layers.Normalization()
    normalization.adapt(images(20))
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            normalization,
            conv(4, "ste_sign"),
            tf.keras.layers.PReLU(alpha_initializer="random_uniform"),
            tf.keras.layers.Lambda(lambda x: 2 * x),
            tf.keras.layers.BatchNormalization(trainable=False),
        ]
    )
    randomize(model.layers[-1])
    folded = fold(model)
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))
    assert folded.layers[-1].trainable is False


def test_fold_of_a_frozen_model():
    model = randomize(small_net("ste_sign"))
    model.trainable = False
    folded = fold(model)
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))
    assert not folded.trainable_weights


def test_fold_passes_plain_functions_through():
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            tf.keras.layers.Activation(lq.quantizers.ste_sign),
            conv(4, lq.quantizers.ste_sign, input_quantizer=lambda x: lq.math.sign(x - 0.1)),
        ]
    )
    folded = fold(randomize(model))
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))


def test_fold_keeps_ternary_and_scaled_signs_of_larq():
    model = tf.keras.Sequential(
        [tf.keras.Input((8, 8, 3)), conv(4, "ste_tern"), conv(4, "magnitude_aware_sign")]
    )
    randomize(model)
    folded = fold(model)
    kinds = [type(layer.kernel_quantizer).__name__ for layer in folded.layers]
    assert kinds == ["SteTern", "MagnitudeAwareSign"]
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))


class ScaledSign(tf.keras.layers.Layer):
    """A quantizer from elsewhere: sign times one constant."""

    precision = 1

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs):
        return self.scale * lq.math.sign(inputs)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@pytest.mark.parametrize("scale", [0.25, 0.3, [0.1, 0.2, -0.3, 0.0]])
def test_a_foreign_scaled_sign_becomes_its_values(scale):
    model = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), conv(4, ScaledSign(scale), "c")])
    with tf.keras.utils.custom_object_scope({"ScaledSign": ScaledSign}):
        folded = fold(randomize(model))
        bits = binary_weights(model)["c"]
    quantizer = folded.layers[0].kernel_quantizer
    assert type(quantizer) is lq.quantizers.NoOp and quantizer.precision == 1
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))
    np.testing.assert_array_equal(binary_weights(folded)["c"], bits)
    assert set(np.unique(bits)) == {-1, 1}
    if isinstance(scale, list):
        latent = model.get_layer("c").kernel.latent_variable.numpy()
        np.testing.assert_array_equal(bits[..., :2], np.where(latent[..., :2] < 0, -1, 1))
        np.testing.assert_array_equal(bits[..., 2], np.where(latent[..., 2] < 0, 1, -1))
        assert np.all(bits[..., 3] == 1), "whatever its sign, a channel times 0 is +1"
    again = fold(folded)
    np.testing.assert_array_equal(again.get_weights()[0], folded.get_weights()[0])


def test_a_foreign_kernel_that_is_no_scaled_sign_stays():
    class PerWeight(ScaledSign):
        def call(self, inputs):
            return lq.math.sign(inputs) * tf.range(1.0, 4.0)[:, None]

    model = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), conv(4, PerWeight(1.0))])
    with tf.keras.utils.custom_object_scope({"PerWeight": PerWeight}):
        folded = fold(randomize(model))
    assert type(folded.layers[0].kernel_quantizer) is PerWeight


class PlainAtInference(ScaledSign):
    """A sign whose gradient is its own."""

    def call(self, inputs):
        return lq.quantizers.swish_sign(inputs, 3.0)


class SignOfDeviation(ScaledSign):
    """Not the sign of what it is given."""

    def call(self, inputs):
        return lq.math.sign(inputs - tf.reduce_mean(inputs, axis=[1, 2, 3], keepdims=True))


@pytest.mark.parametrize(
    "quantizer, kind",
    [(PlainAtInference, lq.quantizers.SteSign), (SignOfDeviation, SignOfDeviation)],
)
def test_a_foreign_input_quantizer_becomes_ste_sign_where_it_is_one(quantizer, kind):
    layer = conv(4, "ste_sign", input_quantizer=quantizer(1.0))
    model = randomize(tf.keras.Sequential([tf.keras.Input((8, 8, 3)), layer]))
    with tf.keras.utils.custom_object_scope({quantizer.__name__: quantizer}):
        folded = fold(model)
    assert type(folded.layers[0].input_quantizer) is kind
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))


# --- files --------------------------------------------------------------------------------------

LOADER = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hbnn_larq":
            raise ImportError("hbnn_larq is blocked here")

sys.meta_path.insert(0, Blocked())
import numpy as np
import larq
import tensorflow as tf
try:
    import hbnn_larq
except ImportError:
    pass
else:
    raise SystemExit("the block does not work")
images = np.load("images.npy")
for name in ("folded.keras", "folded.h5", "folded"):
    model = tf.keras.models.load_model(name)
    np.testing.assert_array_equal(model.predict(images, verbose=0), np.load("logits.npy"))
print("loaded all three")
"""


@pytest.mark.parametrize("quantizer", ["hyperbolic"])
def test_folded_files_load_where_hbnn_larq_is_not_installed(tmp_path, quantizer):
    model = randomize(small_net(quantizer))
    np.save(tmp_path / "images.npy", images())
    np.save(tmp_path / "logits.npy", model.predict(images()))
    folded = fold(model)
    folded.save(tmp_path / "folded.keras")
    folded.save(tmp_path / "folded.h5")
    folded.save(tmp_path / "folded", save_format="tf")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOADER)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "loaded all three" in run.stdout, run.stderr


@pytest.mark.parametrize("quantizer", HYPERBOLIC)
def test_trap_m4_weights_move_between_plain_and_hyperbolic_nets(tmp_path, quantizer):
    hyperbolic, plain = randomize(small_net(quantizer)), randomize(small_net("ste_sign"), seed=3)

    # The trap: neither file fits the other net, since one has base points.
    hyperbolic.save_weights(tmp_path / "hyperbolic.h5")
    with pytest.raises(ValueError, match=r"Weight count mismatch"):
        small_net("ste_sign").load_weights(tmp_path / "hyperbolic.h5")

    fold(hyperbolic).save_weights(tmp_path / "folded.h5")
    published = small_net("ste_sign")
    published.load_weights(tmp_path / "folded.h5")
    np.testing.assert_array_equal(published.predict(images()), hyperbolic.predict(images()))

    plain.save(tmp_path / "plain.h5")
    warm = unfold(tmp_path / "plain.h5", quantizer)
    np.testing.assert_array_equal(warm.predict(images()), plain.predict(images()))
    warm.save_weights(tmp_path / "warm.h5")
    small_net(quantizer).load_weights(tmp_path / "warm.h5")


@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_trap_m7_a_half_precision_net_folds_to_float32(policy, quantizer):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        model = randomize(small_net(quantizer))
        bits = binary_weights(model)
        folded = fold(model)
        assert tf.keras.mixed_precision.global_policy().name == policy
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert folded.dtype_policy.name == "float32"
    assert {layer.dtype_policy.name for layer in folded._flatten_layers()} == {"float32"}
    for name, array in binary_weights(folded).items():
        np.testing.assert_array_equal(array, bits[name])
    twin = small_net("ste_sign")
    twin.set_weights(folded.get_weights())
    np.testing.assert_array_equal(folded.predict(images()), twin.predict(images()))


# --- unfold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", HYPERBOLIC)
def test_unfold_keeps_signs_latents_and_logits(quantizer):
    plain = randomize(small_net("ste_sign"))
    warm = unfold(plain, quantizer)
    np.testing.assert_array_equal(warm.predict(images()), plain.predict(images()))
    for name in ("conv_1", "conv_2", "dense"):
        np.testing.assert_array_equal(
            warm.get_layer(name).kernel.latent_variable, plain.get_layer(name).kernel
        )
        points = warm.get_layer(name).kernel_quantizer.base_points
        assert points and not any(np.any(point) for point in points)


@pytest.mark.parametrize("name", ["plain.keras", "plain.h5", "plain"])
def test_unfold_reads_every_file_format(tmp_path, name):
    plain = randomize(small_net("ste_sign"))
    plain.save(tmp_path / name, **({} if "." in name else {"save_format": "tf"}))
    warm = unfold(str(tmp_path / name), "hyperbolic")
    np.testing.assert_array_equal(warm.predict(images()), plain.predict(images()))


def test_unfold_gives_each_layer_its_own_copy():
    quantizer = hbnn_larq.quantizers.Hyperbolic(r=0.5)
    warm = unfold(small_net("ste_sign"), quantizer)
    copies = [warm.get_layer(name).kernel_quantizer for name in ("conv_1", "conv_2", "dense")]
    assert len({id(copy) for copy in [*copies, quantizer]}) == 4
    assert {copy.r for copy in copies} == {0.5}


def test_unfold_of_a_hyperbolic_net_keeps_the_signs_it_acted_with():
    model = randomize(small_net("hyperbolic"))
    warm = unfold(model, "epc")
    np.testing.assert_array_equal(warm.predict(images()), model.predict(images()))
    # The latents keep their size, so the optimizer starts from the same angles.
    np.testing.assert_array_equal(
        np.abs(warm.get_layer("conv_1").kernel.latent_variable),
        np.abs(model.get_layer("conv_1").kernel.latent_variable),
    )


def test_unfold_then_fold_is_fold():
    plain = randomize(small_net("ste_sign"))
    direct, around = fold(plain), fold(unfold(plain, "hyperbolic"))
    for a, b in zip(direct.get_weights(), around.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unfold_names_what_is_wrong(tmp_path):
    plain = small_net("ste_sign")
    with pytest.raises(FileNotFoundError, match=r"unfold\(model, 'hyperbolic'\).*nothing.keras"):
        unfold(tmp_path / "nothing.keras", "hyperbolic")
    plain.save_weights(tmp_path / "weights.h5")
    with pytest.raises(ValueError, match=r"holds weights only needs the model first"):
        unfold(tmp_path / "weights.h5", "hyperbolic")
    with pytest.raises(ValueError, match=r"unfold\(model, 'hyperbollic'\): no such quantizer"):
        unfold(plain, "hyperbollic")
    with pytest.raises(TypeError, match=r"name a quantizer"):
        unfold(plain, None)
    with pytest.raises(TypeError, match=r"expected a tf.keras.Model or the path"):
        unfold(3, "hyperbolic")
    float_net = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"no layer of .* has a kernel quantizer that gives ±1"):
        unfold(float_net, "hyperbolic")
    with pytest.raises(ValueError, match=r"turns \d+ of \d+ signs of layer 'conv_1'"):
        unfold(randomize(plain), "ste_tern")


# --- binary_weights -----------------------------------------------------------------------------


def test_binary_weights_are_what_the_layer_convolves_with():
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            lq.layers.QuantConv2D(4, 3, kernel_quantizer="hyperbolic", use_bias=False, name="c"),
        ]
    )
    randomize(model)
    bits = binary_weights(model)["c"]
    expected = tf.nn.conv2d(images(), bits.astype(np.float32), 1, "VALID")
    np.testing.assert_array_equal(model(images()), expected)


def test_binary_weights_skip_float_ternary_and_marked_kernels():
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            tf.keras.layers.Conv2D(3, 3),
            conv(4, None),
            conv(4, "ste_tern"),
            conv(4, lq.quantizers.NoOp(precision=1)),
            conv(4, "magnitude_aware_sign", "scaled"),
        ]
    )
    assert list(binary_weights(randomize(model))) == ["scaled"]


def test_binary_weights_of_a_subclassed_model():
    class Net(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = conv(4, "ste_sign", "conv")

        def call(self, inputs):
            return self.conv(inputs)

    net = Net()
    net(images())
    assert list(binary_weights(net)) == ["conv"]


def test_binary_weights_refuse_a_zero_one_kernel():
    model = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), conv(4, "ste_heaviside", "c")])
    with pytest.raises(ValueError, match=r"layer 'c' has a 1-bit kernel with zeros.*SteHeaviside"):
        binary_weights(randomize(model))
    with pytest.raises(TypeError, match=r"expected a tf.keras.Model, got list"):
        binary_weights([])


# --- refusals -----------------------------------------------------------------------------------


def test_fold_refuses_what_it_cannot_rebuild():
    class Net(tf.keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.conv = conv(4, "ste_sign", "conv")

        def call(self, inputs):
            return self.conv(inputs)

    class Block(tf.keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.conv = conv(4, "ste_sign", "hidden_conv")

        def call(self, inputs):
            return self.conv(inputs)

    net = Net()
    net(images())
    with pytest.raises(ValueError, match=r"fold\(model\): 'net' \(Net\) is a subclassed model"):
        fold(net)
    block = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), Block(name="block")])
    with pytest.raises(ValueError, match=r"'block' .Block. makes the quantized layer 'hidden"):
        fold(block)
    with pytest.raises(ValueError, match=r"is not built, so it has no weights"):
        fold(tf.keras.Sequential([conv(4, "ste_sign")]))
    with pytest.raises(TypeError, match=r"expected a tf.keras.Model, got str"):
        fold("model.keras")
    with pytest.raises(TypeError, match=r"expected a tf.keras.Model, got NoneType"):
        fold(None)


def test_fold_of_a_functional_subclass_is_a_plain_model():
    class Mine(tf.keras.Model):
        def train_step(self, data):
            raise NotImplementedError

    image = tf.keras.Input((8, 8, 3))
    model = randomize(Mine(image, conv(4, "ste_sign")(image)))
    folded = fold(model)
    assert type(folded) is not Mine
    np.testing.assert_array_equal(folded.predict(images()), model.predict(images()))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (tf.keras.layers.Dense(3), (4,)),
        (tf.keras.layers.Conv2D(3, 2), (3, 3, 2)),
        (tf.keras.layers.Conv1DTranspose(3, 2), (3, 2)),
        (tf.keras.layers.Conv2DTranspose(3, 2), (3, 3, 2)),
        (tf.keras.layers.DepthwiseConv2D(2, depth_multiplier=3), (3, 3, 2)),
        (tf.keras.layers.LocallyConnected1D(3, 2), (4, 2)),
        (tf.keras.layers.LocallyConnected2D(3, 2), (3, 3, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, tf.keras.layers.Layer) else "",
)
def test_a_row_of_filters_makes_one_channel(layer, shape, rng):
    """The rows are in the order of the output's channels, place by place in a local layer."""
    x = rng.normal(size=(1, *shape)).astype("float32")
    channels = layer(x).shape[-1]
    name = "depthwise_kernel" if hasattr(layer, "depthwise_kernel") else "kernel"
    kernel = getattr(layer, name)
    indices = np.arange(kernel.shape.num_elements()).reshape(kernel.shape)
    for row, members in enumerate(rebuilding.filters(layer, name, indices)):
        kernel.assign(np.isin(indices, members).astype("float32"))
        out = layer(x).numpy() - (layer.bias.numpy() if layer.bias is not None else 0)
        touched = set(np.nonzero(out)[-1])
        assert touched == {row % channels}
