"""The networks are those of the literature, to the last weight and multiplication."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf
from zookeeper import ComponentField, Field, component, configure, task

from hbnn_larq import zoo

BINARY = {"kernel_quantizer": "ste_sign"}  # a kernel variable each, nothing else to count


def trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, tf.keras.layers.Conv2D)]


def binary_convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, lq.layers.QuantConv2D)]


def small(name):
    """The smallest form of a model that still has every layer."""
    return {
        "VGGSmall": {"input_shape": (8, 8, 1), "width": 1 / 32},
        "ResNet20": {"input_shape": (16, 16, 1), "width": 0.25},
    }.get(name, {"input_shape": (16, 16, 1), "width": 1 / 16})


# Sums of the layer-by-layer tables in the code bases named in the docstrings of the models:
# trainable weights, binary weights, and multiply-adds with binary and with real weights.
TABLE = {
    "VGGSmall": ({}, 4_660_106, 4_571_136, 603_979_776, 3_620_864),
    "VGGSmall, CIFAR-100": ({"num_classes": 100}, 5_397_476, 4_571_136, 603_979_776, 4_358_144),
    "ResNet18": ({}, 11_001_162, 10_985_472, 547_356_672, 1_774_592),
    "ResNet18, CIFAR-100": ({"num_classes": 100}, 11_047_332, 10_985_472, 547_356_672, 1_820_672),
    "ResNet18, real_conv": (
        {"shortcut": "real_conv"},
        11_174_986,
        10_985_472,
        547_356_672,
        1_774_592 + 3 * 2_097_152,
    ),
    "ResNet18, binary_conv": (
        {"shortcut": "binary_conv"},
        11_174_986,
        11_157_504,
        547_356_672 + 3 * 2_097_152,
        1_774_592,
    ),
    "ResNet20": ({}, 269_850, 267_264, 40_108_032, 443_008),
    "ResNet20, subsample_pad": (
        {"shortcut": "subsample_pad"},
        269_850,
        267_264,
        40_108_032,
        443_008,
    ),
    "ResNet18, ImageNet": (
        {"input_shape": (224, 224, 3)},
        11_690_536,
        10_985_472,
        1_676_279_808,
        137_793_536,
    ),
    "ResNet34": ({}, 21_798_696, 21_086_208, 3_525_967_872, 137_793_536),
    "BiRealNet18": ({}, 11_689_512, 10_985_472, 1_676_279_808, 137_793_536),
    "BiRealNet34": ({}, 21_797_672, 21_086_208, 3_525_967_872, 137_793_536),
}


@pytest.mark.parametrize("row", TABLE)
def test_counts_equal_the_tables(row):
    arguments, weights, binary_weights, binary_macs, real_macs = TABLE[row]
    model = getattr(zoo, row.split(",")[0])(**BINARY, **arguments)
    profile = lq.models.ModelProfile(model)
    assert trainable(model) == weights
    assert profile.weight_count(bitwidth=1) == binary_weights
    assert profile.op_count("mac", 1) == binary_macs
    assert profile.op_count("mac", 32) == real_macs


def test_every_kernel_but_first_last_and_shortcut_is_binary():
    model = zoo.ResNet18(**BINARY, shortcut="real_conv", **small("ResNet18"))
    real = [layer.name for layer in convolutions(model) if layer not in binary_convolutions(model)]
    assert real == ["stem", "s2b1short", "s3b1short", "s4b1short"]
    assert isinstance(model.layers[-1], tf.keras.layers.Dense)


ORDER = {
    "VGGSmall": "conv0 conv0_bn conv0_act conv1 conv1_pool conv1_bn conv1_act conv2 conv2_bn "
    "conv2_act conv3 conv3_pool conv3_bn conv3_act conv4 conv4_bn conv4_act conv5 conv5_pool "
    "conv5_bn conv5_act flatten fc",
    "ResNet18": "stem stem_bn s1b1c1 s1b1c1_bn s1b1c1_act s1b1c2 s1b1c2_bn s1b1_add s1b1_act",
    "ResNet20": "stem stem_bn stem_act s1b1c1 s1b1c1_bn s1b1c1_add s1b1c1_act s1b1c2 s1b1c2_bn "
    "s1b1c2_add s1b1c2_act",
    "BiRealNet18": "stem stem_bn s1b1c1 s1b1c1_bn s1b1c1_add s1b1c2 s1b1c2_bn s1b1c2_add",
}


@pytest.mark.parametrize("name", ORDER)
def test_order_of_layers(name):
    model = getattr(zoo, name)(**BINARY, **small(name))
    order = ORDER[name].split()
    assert [layer.name for layer in model.layers[1:]][: len(order)] == order


def test_imagenet_stem_normalises_clips_and_pools():
    model = zoo.ResNet18(**BINARY, stem="imagenet", input_shape=(32, 32, 3), width=1 / 16)
    names = [layer.name for layer in model.layers[1:5]]
    assert names == ["stem", "stem_bn", "stem_act", "stem_pool"]
    assert model.get_layer("stem_pool").output_shape[1:3] == (8, 8)


def test_pooling_behind_batch_normalisation():
    model = zoo.VGGSmall(**BINARY, pool_before_bn=False, **small("VGGSmall"))
    names = [layer.name for layer in model.layers]
    assert names.index("conv1_bn") + 1 == names.index("conv1_pool")


def test_pool_order_leaves_logits_alone_where_gamma_is_positive(rng):
    before = zoo.VGGSmall(**BINARY, **small("VGGSmall"))
    after = zoo.VGGSmall(**BINARY, **small("VGGSmall"), pool_before_bn=False)
    for layer in before.layers:
        after.get_layer(layer.name).set_weights(layer.get_weights())
    images = rng.normal(size=(5, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(before(images), after(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["VGGSmall", "ResNet18", "ResNet20", "BiRealNet18"])
def test_padding_and_constants(name):
    model = getattr(zoo, name)(**BINARY, **small(name))
    for layer in binary_convolutions(model):
        assert layer.pad_values == 1.0
        assert not layer.use_bias
        assert layer.kernel_constraint is None
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


def test_binary_activations_are_clipped(rng):
    model = zoo.ResNet18(**BINARY, **small("ResNet18"))
    layer = model.get_layer("s1b1c1_act")
    values = rng.normal(size=(2, 4, 4, 4)).astype("float32") * 2
    np.testing.assert_array_equal(layer(values, -1.0, 1.0), np.clip(values, -1, 1))
    assert layer.inbound_nodes[0].call_args[1:] == (-1.0, 1.0)


def test_relu_and_zero_padding_where_activations_are_real():
    for kernel_quantizer in ("ste_sign", None):
        model = zoo.ResNet18(
            kernel_quantizer=kernel_quantizer, input_quantizer=None, **small("ResNet18")
        )
        assert {layer.pad_values for layer in binary_convolutions(model)} == {0.0}
        activations = [layer for layer in model.layers if layer.name.endswith("_act")]
        assert {type(layer) for layer in activations} == {tf.keras.layers.ReLU}


@pytest.mark.parametrize("name", ["VGGSmall", "ResNet18", "ResNet20", "BiRealNet18"])
def test_float_twin_has_the_same_weights_and_is_not_linear(name, rng):
    binary = getattr(zoo, name)(**BINARY, **small(name))
    twin = getattr(zoo, name)(kernel_quantizer=None, input_quantizer=None, **small(name))
    assert trainable(twin) == trainable(binary)
    assert [w.shape for w in twin.weights] == [w.shape for w in binary.weights]
    assert lq.models.ModelProfile(twin).weight_count(bitwidth=1) == 0
    images = rng.normal(size=(2, *twin.input_shape[1:])).astype("float32")
    sum_of_parts = twin(images[:1]) + twin(images[1:]) - twin(0 * images[:1])
    assert np.abs(twin(images[:1] + images[1:]) - sum_of_parts).max() > 1e-3


def spread(model, layer):
    return float(np.std(model.get_layer(layer).kernel.latent_variable))


def test_initial_values():
    tf.keras.utils.set_random_seed(0)
    vgg = zoo.VGGSmall(**BINARY, width=0.25)
    recu = zoo.ResNet18(**BINARY, width=0.25)
    irnet = zoo.ResNet18(**BINARY, width=0.25, shortcut="real_conv")
    assert spread(vgg, "conv2") == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert spread(recu, "s2b1c1") == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.03)
    assert spread(irnet, "s2b1c1") == pytest.approx((1 / 3 / (9 * 16)) ** 0.5, rel=0.03)
    assert np.std(vgg.get_layer("fc").kernel) == pytest.approx(0.01, rel=0.05)
    limit = 128**-0.5
    for variable in recu.get_layer("fc").weights:
        assert limit / 2 < np.abs(variable).max() <= limit


def test_layers_of_one_shape_start_apart():
    """A Keras initializer draws the same numbers each time it is called."""
    model = zoo.ResNet18(**BINARY, **small("ResNet18"))
    first, second = (model.get_layer(name).get_weights()[0] for name in ("s1b1c1", "s1b1c2"))
    assert np.mean(first == second) < 0.01


def test_the_seed_decides_the_start():
    models = []
    for _ in range(2):
        tf.keras.utils.set_random_seed(7)
        models.append(zoo.ResNet20(**BINARY, **small("ResNet20")))
    for first, second in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "arguments, gamma",
    [
        ({"stem": "cifar"}, 1.0),
        ({"stem": "imagenet"}, 1e-8),
        ({"stem": "imagenet", "gamma_init": 1.0}, 1.0),
        ({"stem": "imagenet", "input_quantizer": None}, 1.0),
    ],
)
def test_initial_gamma(arguments, gamma):
    model = zoo.ResNet18(**BINARY, **small("ResNet18"), **arguments)
    assert np.all(model.get_layer("s1b1c1_bn").gamma.numpy() == np.float32(gamma))
    assert np.all(model.get_layer("bn1d").gamma.numpy() == 1)


def test_zero_channels_stand_on_both_sides(rng):
    model = zoo.ResNet18(**BINARY, **small("ResNet18"))  # 4, 8, 16, 32 channels
    shortcut = tf.keras.Model(model.input, model.get_layer("s2b1short_pad").output)
    values = shortcut(rng.normal(size=(3, 16, 16, 1))).numpy()
    assert values.shape[1:] == (8, 8, 8)
    assert np.all(np.abs(values[..., 2:6]).max(axis=(0, 1, 2)) > 0)
    assert np.abs(values[..., :2]).max() == np.abs(values[..., 6:]).max() == 0


# Quantizers: anything Larq takes, and makers of them.


class Halves(lq.quantizers.SteSign):
    """A quantizer that says how many of it were made."""

    made = 0

    def __init__(self, **kwargs):
        type(self).made += 1
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    "quantizer",
    [Halves(), Halves, lambda: Halves(), tf.keras.utils.serialize_keras_object(Halves())],
    ids=["object", "class", "maker", "config"],
)
def test_each_layer_has_its_own_quantizer(quantizer):
    with tf.keras.utils.custom_object_scope({"Halves": Halves}):
        model = zoo.ResNet20(kernel_quantizer=quantizer, **small("ResNet20"))
    quantizers = [layer.kernel_quantizer for layer in binary_convolutions(model)]
    assert all(isinstance(q, Halves) for q in quantizers)
    assert len({id(q) for q in quantizers}) == 18


def test_a_function_of_a_tensor_is_used_as_it_is():
    model = zoo.VGGSmall(kernel_quantizer=lq.quantizers.approx_sign, **small("VGGSmall"))
    kernel = model.get_layer("conv1").kernel
    with lq.context.quantized_scope(True):
        assert set(np.unique(tf.convert_to_tensor(kernel))) == {-1.0, 1.0}


def test_a_copied_quantizer_keeps_its_metrics():
    quantizer = lq.quantizers.SteSign(metrics=["flip_ratio"])
    model = zoo.VGGSmall(kernel_quantizer=quantizer, **small("VGGSmall"))
    assert len([m for m in model.metrics if "flip_ratio" in m.name]) == 5


# larq-zoo's manner


@task
class Experiment:
    """The fields of a larq-zoo experiment that concern the model."""

    @component
    class Digits:
        num_classes: int = Field(7)

    dataset: Digits = ComponentField(Digits)
    model: tf.keras.Model = ComponentField(zoo.vgg_small.VGGSmallFactory)

    def run(self):
        return self.model


def test_factory_is_a_component_of_an_experiment():
    experiment = Experiment()
    settings = {"model.width": 1 / 32, "model.input_shape": (8, 8, 1)}
    configure(experiment, {**settings, "model.kernel_quantizer": "ste_sign"})
    assert experiment.run().output_shape == (None, 7)  # the dataset's number of classes
    assert experiment.model is experiment.model


def test_factory_by_name():
    experiment = Experiment()
    configure(experiment, {"model": "ResNet20Factory", "model.width": 0.25, "model.num_classes": 3})
    assert experiment.model.name == "ResNet20"
    assert experiment.model.output_shape == (None, 3)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_no_top_and_keras_tensor(name):
    shape = small(name)["input_shape"]
    image = tf.keras.layers.Input(shape)
    arguments = {**BINARY, "width": small(name)["width"]}
    model = getattr(zoo, name)(input_tensor=image, include_top=False, **arguments)
    assert model.input is image
    assert len(model.output_shape) == 4
    with_top = getattr(zoo, name)(input_shape=shape, num_classes=5, **arguments)
    assert with_top.output_shape == (None, 5)
    names = [layer.name for layer in model.layers[1:]]
    assert [layer.name for layer in with_top.layers[1:]][: len(names)] == names


def test_input_tensor_may_come_from_other_layers():
    image = tf.keras.layers.Input((8, 8, 1))
    scaled = tf.keras.layers.Rescaling(2.0)(image)
    model = zoo.VGGSmall(**BINARY, input_tensor=scaled, width=1 / 32)
    assert model.layers[1].name.startswith("rescaling")


def test_no_top_takes_any_size():
    model = zoo.ResNet18(
        **BINARY, input_shape=(None, None, 3), stem="cifar", include_top=False, width=1 / 16
    )
    assert model(tf.zeros((1, 24, 40, 3))).shape == (1, 3, 5, 32)


def test_logits_are_float32_under_a_half_precision_policy():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = zoo.ResNet20(**BINARY, **small("ResNet20"))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert model.get_layer("s1b1c1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError):
        zoo.ResNet18((32, 32, 3))


BAD = [
    ("VGGSmall", {"input_shape": (4, 4, 3)}, "Input size must be at least 8x8"),
    ("VGGSmall", {"input_shape": (32, 32)}, "must be a tuple of three integers"),
    ("VGGSmall", {"input_shape": (32, 32, None)}, "number of channels, the last entry"),
    ("VGGSmall", {"input_shape": (None, None, 3)}, "pass include_top=False"),
    ("VGGSmall", {"num_classes": 0}, r"VGGSmall\(num_classes=0\): a whole number, 1 or above"),
    ("VGGSmall", {"num_classes": 2.5}, "num_classes=2.5.*whole number, 1 or above"),
    ("VGGSmall", {"width": 0}, r"VGGSmall\(width=0\).*number above 0"),
    ("VGGSmall", {"width": float("nan")}, "width=nan.*number above 0"),
    ("VGGSmall", {"width": "half"}, "width='half'.*number above 0"),
    (
        "VGGSmall",
        {"kernel_quantizer": "hyperbolik"},
        "'hyperbolik': there is no such quantizer. Closest: hyperbolic",
    ),
    ("VGGSmall", {"input_quantizer": 1}, "input_quantizer=1 is a int, not a quantizer"),
    ("VGGSmall", {"pool_before_bn": "yes"}, "pool_before_bn='yes'.*True or False"),
    ("ResNet18", {"stem": "tiny"}, "stem='tiny'.*'cifar', 'imagenet'"),
    ("ResNet18", {"shortcut": "conv"}, "shortcut='conv'.*'avgpool_pad', .*'avgpool_conv'"),
    ("ResNet18", {"shortcut_per": "net"}, "shortcut_per='net'.*'block', 'conv'"),
    ("ResNet18", {"gamma_init": 0}, "gamma_init=0.*above 0"),
    ("ResNet18", {"input_shape": (None, None, 3)}, "the stem must be named"),
    ("ResNet18", {"input_shape": 32}, "must be a tuple of three integers"),
    *(
        (name, {"input_tensor": 3}, rf"{name}\(input_tensor=3\): .*tf.keras.layers.Input")
        for name in ("VGGSmall", "ResNet18")
    ),
    ("VGGSmall", {"input_tensor": "image"}, r"VGGSmall\(input_tensor='image'\): .*Input"),
]


@pytest.mark.parametrize("name, arguments, message", BAD)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(zoo, name)(**{**BINARY, **arguments})


def test_two_different_input_shapes_are_refused():
    image = tf.keras.layers.Input((16, 16, 3))
    with pytest.raises(ValueError, match=r"input_shape=\(32, 32, 3\).*\(16, 16, 3\)"):
        zoo.ResNet18(input_tensor=image, input_shape=(32, 32, 3))
