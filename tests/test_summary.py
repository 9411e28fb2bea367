"""The summary tells what the converted file holds, and never counts a base point."""

import json

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import zoo
from hbnn_larq.summary import summarize


def binary_conv(filters, **arguments):
    return lq.layers.QuantConv2D(
        filters,
        3,
        input_quantizer="approx_sign",
        kernel_quantizer="hyperbolic",
        padding="same",
        pad_values=1.0,
        use_bias=False,
        **arguments,
    )


def net(*layers, shape=(8, 8, 40)):
    return tf.keras.Sequential([tf.keras.layers.Input(shape), *layers], name="net")


def test_table_of_a_small_network():
    model = net(
        binary_conv(8, name="conv"),
        tf.keras.layers.BatchNormalization(name="bn"),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(10, name="fc"),
    )
    assert str(summarize(model)).splitlines() == [
        "net",
        "layer  output  bits w  bits a  weights     MACs   bytes  float bytes",
        "--------------------------------------------------------------------",
        "conv    8x8x8       1       1    2,880  184,320     640       11,520",
        "bn      8x8x8      32               16                0           32",
        "fc         10      32      32    5,130    5,120  20,520       20,520",
        "--------------------------------------------------------------------",
        "total                            8,026  189,440  21,160       32,072",
        "",
        "binary     2,880 weights, 184,320 MACs (97.3%)",
        "real       5,146 weights, 5,120 MACs",
        "deployed   21,160 bytes of weights, float twin 32,072 (1.5x)",
        "training   2,880 base points more, none of them deployed",
    ]


@pytest.mark.parametrize("quantizer", ["hyperbolic", "hyperbolic_boundary", "epc"])
def test_base_points_are_training_only(quantizer):
    shape = {"input_shape": (16, 16, 1), "width": 0.25}
    plain = summarize(zoo.ResNet20(kernel_quantizer="ste_sign", **shape))
    model = zoo.ResNet20(kernel_quantizer=quantizer, **shape)
    summary = summarize(model)
    assert summary.layers == plain.layers
    assert plain.base_points == 0
    assert summary.base_points == plain.binary_weights * (2 if quantizer == "epc" else 1)


def test_base_points_are_not_in_larqs_summary_either():
    shape = {"input_shape": (16, 16, 1), "width": 0.25}
    plain, hyperbolic = (
        lq.models.ModelProfile(zoo.ResNet20(kernel_quantizer=quantizer, **shape))
        for quantizer in ("ste_sign", "hyperbolic")
    )
    assert hyperbolic.generate_table() == plain.generate_table()
    assert hyperbolic.generate_summary() == plain.generate_summary()


@pytest.mark.parametrize("name", zoo.MODELS)
def test_float_columns_are_those_of_the_twin(name):
    shape = {"input_shape": (32, 32, 3), "width": 0.25}
    binary = summarize(getattr(zoo, name)(kernel_quantizer="ste_sign", **shape))
    twin = summarize(getattr(zoo, name)(kernel_quantizer=None, input_quantizer=None, **shape))
    assert twin.bytes == twin.float_bytes == binary.float_bytes
    assert twin.real_macs == binary.binary_macs + binary.real_macs
    assert twin.binary_weights == twin.binary_macs == 0


@pytest.mark.parametrize(
    "name, arguments, kilobytes, twin_megabytes",
    [
        ("VGGSmall", {}, 934, 18.6),
        ("ResNet18", {}, 1432, 44.0),
        ("ResNet18", {"stem": "imagenet"}, 4186, 46.7),
        ("ResNet34", {}, 5478, 87.2),
    ],
)
def test_sizes_of_the_full_networks(name, arguments, kilobytes, twin_megabytes):
    summary = summarize(getattr(zoo, name)(kernel_quantizer="ste_sign", **arguments))
    assert round(summary.bytes / 1e3) == kilobytes
    assert round(summary.float_bytes / 1e6, 1) == twin_megabytes


def test_binary_weights_with_real_activations_count_as_float():
    arguments = {"input_shape": (16, 16, 1), "width": 0.25}
    half = summarize(zoo.VGGSmall(input_quantizer=None, **arguments))
    assert half.binary_weights > 0
    assert half.binary_macs == 0
    assert half.bytes == half.float_bytes


@pytest.mark.parametrize(
    "layer",
    [
        lq.layers.QuantDense(64, input_quantizer="ste_sign", kernel_quantizer="ste_sign"),
        lq.layers.QuantConv2D(
            64, 3, groups=2, input_quantizer="ste_sign", kernel_quantizer="ste_sign"
        ),
        lq.layers.QuantConv2D(64, 3, kernel_quantizer="ste_sign"),
    ],
    ids=["dense", "grouped", "real input"],
)
def test_layers_without_a_binary_operation_count_as_float(layer):
    summary = summarize(net(layer))
    assert summary.bytes == summary.float_bytes == 4 * layer.count_params()


def test_each_weight_counts_by_its_own_bits():
    """A bias is real beside a binary kernel, as is the pointwise kernel of a separable layer."""
    signs = {"input_quantizer": "ste_sign", "padding": "same"}
    biased = lq.layers.QuantConv2D(32, 3, kernel_quantizer="ste_sign", **signs)
    summary = summarize(net(biased, shape=(6, 6, 32)))
    assert (summary.binary_weights, summary.real_weights) == (9 * 32 * 32, 32)
    assert (summary.binary_macs, summary.real_macs) == (36 * 9 * 32 * 32, 0)
    separable = lq.layers.QuantSeparableConv2D(
        16, 3, depthwise_quantizer="ste_sign", use_bias=False, **signs
    )
    summary = summarize(net(separable, shape=(6, 6, 32)))
    assert (summary.binary_weights, summary.real_weights) == (9 * 32, 32 * 16)
    assert (summary.binary_macs, summary.real_macs) == (36 * 9 * 32, 36 * 32 * 16)
    assert "binary     288 weights, 10,368 MACs (36.0%)" in str(summary)


@pytest.mark.parametrize("quantizer", [None, "ste_sign"])
def test_a_transposed_convolution_works_once_for_each_pixel_it_is_given(quantizer):
    layer = lq.layers.QuantConv2DTranspose(
        16, 3, strides=2, input_quantizer=quantizer, kernel_quantizer=quantizer, use_bias=False
    )
    summary = summarize(net(layer, shape=(8, 8, 16)))
    assert summary.binary_macs + summary.real_macs == 64 * 9 * 16 * 16
    assert (summary.real_macs == 0) == (quantizer is not None)


def test_work_on_pictures_of_any_size_is_open():
    for layer in (binary_conv(8), tf.keras.layers.Conv2DTranspose(4, 3)):
        summary = summarize(net(layer, shape=(None, None, 8)))
        assert summary.layers[0].macs is None
        assert summary.binary_macs == summary.real_macs == 0


def test_layers_of_a_nested_model_count_once():
    inner = net(binary_conv(8, name="conv"), tf.keras.layers.BatchNormalization(name="bn"))
    outer = summarize(net(inner))
    assert [layer.name for layer in outer.layers] == ["net/conv", "net/bn"]
    assert outer.bytes == summarize(inner).bytes


def test_json_has_layers_totals_and_twin():
    summary = summarize(net(binary_conv(8, name="conv")))
    content = json.loads(summary.to_json())
    assert content["model"] == "net"
    assert content["layers"][0]["macs"] == content["totals"]["binary_macs"] == 184_320
    assert content["totals"]["base_points_while_training"] == 2_880
    assert content["float_twin"] == {"real_weights": 2880, "real_macs": 184_320, "bytes": 11_520}


def test_bad_models_are_named():
    with pytest.raises(TypeError, match=r"expected a tf\.keras\.Model, got str"):
        summarize("net")
    unbuilt = tf.keras.Sequential([tf.keras.layers.Dense(1)], name="open")
    with pytest.raises(ValueError, match=r"'open' has no weights yet\. Call model\.build"):
        summarize(unbuilt)


def test_bytes_are_those_in_the_file(rng):
    """Weights in the flatbuffer, but for the shapes of paddings and reshapes."""
    pytest.importorskip("larq_compute_engine")
    from hbnn_larq.edge.flatbuffer import TFLiteFile

    model = zoo.VGGSmall(input_shape=(16, 16, 1), width=0.25)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            statistics = [rng.uniform(0.5, 1.5, w.shape) for w in layer.weights]
            layer.set_weights(statistics)
    fc = model.get_layer("fc")
    fc.bias.assign(np.arange(1.0, 11.0))
    file = TFLiteFile(hbnn_larq.edge.convert(model))
    held = sum(op.nbytes for op in file.ops if op.name != "RESHAPE")
    thresholds = 4 * 8 * model.get_layer("conv5").filters  # at most: four bytes for each channel
    assert 0 <= summarize(model).bytes - held <= thresholds
