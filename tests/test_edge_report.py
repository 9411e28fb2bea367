"""Conversion and its report: what is binary, what is not and why; a broken file is seen."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import zoo
from hbnn_larq.edge import Preprocessing, convert, metadata, predict, report
from hbnn_larq.edge.device import device_commands
from hbnn_larq.edge.flatbuffer import BINARY_CONV, TFLiteFile, pack_bits, unpack_bits
from hbnn_larq.edge.rewrites import rewrite

pytest.importorskip("larq_compute_engine")


def conv(filters, quantizer, name=None, **kwargs):
    kwargs = {"padding": "same", "pad_values": 1.0, "input_quantizer": "ste_sign", **kwargs}
    return lq.layers.QuantConv2D(
        filters, 3, use_bias=False, kernel_quantizer=quantizer, name=name, **kwargs
    )


def batch_norm(name=None):
    return tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def randomize(model, seed=0):
    """Random weights everywhere: base points away from 0, batch norms away from the identity."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        noise = rng.normal(size=weight.shape)
        if "variance" in weight.name:
            noise = rng.uniform(0.5, 2.0, size=weight.shape)
        weight.assign((0.4 * noise if noise.ndim > 1 else noise).astype(np.float32))
    return model


def net(*layers, shape=(8, 8, 32), name="net"):
    return randomize(tf.keras.Sequential([tf.keras.Input(shape), *layers], name=name))


def three_layers(quantizer="hyperbolic", name="three_layers"):
    return net(
        tf.keras.layers.Conv2D(32, 3, padding="same", use_bias=False, name="stem"),
        batch_norm(),
        conv(32, quantizer, "conv_1"),
        batch_norm(),
        conv(64, quantizer, "conv_2", strides=2),
        batch_norm("bn_2"),
        tf.keras.layers.GlobalAveragePooling2D(),
        tf.keras.layers.Dense(10, name="head"),
        name=name,
    )


def images(count=12, shape=(8, 8, 32), seed=1):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def op_names(tflite):
    return [op.name for op in TFLiteFile(metadata.strip(tflite)).ops]


@pytest.fixture(scope="module")
def converted():
    tf.keras.utils.set_random_seed(0)
    model = three_layers()
    return model, convert(model)


# --- convert ------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic", "hyperbolic_boundary", "epc"])
def test_a_net_converts_to_binary_ops_and_the_report_is_clean(quantizer):
    model = three_layers(quantizer)
    tflite = convert(model)
    assert op_names(tflite).count(BINARY_CONV) == 2
    result = report(model, tflite, images())
    assert result.ok, result.faults
    assert result.binary_placed == result.binary_asked == 2
    layers = {layer.layer: layer for layer in result.layers}
    assert layers["conv_1"].writes == "bits" and layers["conv_2"].writes == "numbers"
    assert {layers[name].batch_norm for name in ("stem", "conv_1", "conv_2")} == {"fused"}
    assert {layer.weights for layer in result.layers} == {"equal"}
    assert layers["conv_1"].packed_bytes == 32 * 9 * 4 <= layers["conv_1"].bytes
    assert result.agreement.images == 12 and result.agreement.top1 > 0.8
    np.testing.assert_allclose(predict(tflite, images()), model.predict(images()), atol=1e-3)


def test_the_file_is_written_whole_and_equals_the_returned_bytes(tmp_path, converted):
    model, expected = converted
    path = tmp_path / "net.tflite"
    assert convert(model, path) == path.read_bytes() == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.tflite"]


def test_converting_the_folded_model_gives_the_same_file(converted):
    model, expected = converted
    assert convert(hbnn_larq.fold(model)) == expected


def test_trap_m7_a_mixed_precision_net_converts():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = three_layers("ste_sign")
        assert report(model, convert(model), images()).ok
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def test_several_inputs_and_outputs():
    left, right = tf.keras.Input((6, 6, 32), name="left"), tf.keras.Input((6, 6, 32), name="right")
    shared = conv(32, "hyperbolic", "shared")
    a, b = shared(left), shared(right)
    outputs = [tf.keras.layers.Add()([a, b]), conv(64, "hyperbolic", "own")(b)]
    model = randomize(tf.keras.Model([left, right], outputs))
    data = [images(5, (6, 6, 32)), images(5, (6, 6, 32), seed=2)]
    tflite = convert(model)
    assert op_names(tflite).count(BINARY_CONV) == 3
    for got, expected in zip(predict(tflite, data), model.predict(data), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-3)
    result = report(model, tflite, data)
    assert result.ok, result.faults
    assert [layer.layer for layer in result.layers] == ["shared", "own"]


def test_convert_refuses_a_model_without_a_binary_layer(tmp_path):
    model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(2)], name="floats")
    with pytest.raises(ValueError, match=r"'floats' has no layer with a binary kernel.*TFLite"):
        convert(model, tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


def test_convert_refuses_a_path_it_cannot_write(tmp_path, converted):
    model, _ = converted
    with pytest.raises(FileNotFoundError, match=r"convert\(model, .*there is no folder.*Make it"):
        convert(model, tmp_path / "missing" / "net.tflite")
    with pytest.raises(IsADirectoryError, match=r"is a folder. Name a file in it"):
        convert(model, tmp_path)


def test_convert_refuses_groups_that_only_the_reference_kernel_runs():
    model = net(conv(64, "ste_sign", "grouped", groups=2), shape=(8, 8, 64))
    with pytest.raises(ValueError, match=r"'grouped' is a grouped binary convolution \(groups=2\)"):
        convert(model)


def test_a_sign_layer_in_front_counts_as_an_input_quantizer():
    sign = tf.keras.layers.Activation(lq.quantizers.ste_sign)
    model = net(batch_norm(), sign, conv(32, "ste_sign", input_quantizer=None, name="conv_1"))
    result = report(model, convert(model), images())
    assert result.ok, result.faults
    assert result.layers[0].asked == "1-bit"


def test_a_sign_layer_is_judged_by_what_it_was_given():
    """±1 in both, so only what the sign saw tells rounding from a moved threshold."""
    sign = tf.keras.layers.Activation(lq.quantizers.ste_sign)
    model = net(
        conv(32, "ste_sign", "conv_1"),
        batch_norm(),
        sign,
        conv(32, "ste_sign", input_quantizer=None, name="conv_2"),
    )
    tflite = convert(model)
    result = report(model, tflite, images())
    assert result.ok, result.faults
    broken = report(model, mutate(tflite, change_one_threshold), images())
    assert re.search(r"conv_2: \d+ of \d+ input signs differ", broken.faults[0])
    assert broken.agreement.signs["conv_2"].largest > 100


def test_convert_refuses_open_input_sizes_and_subclassed_models():
    flexible = net(conv(32, "ste_sign"), shape=(None, None, 32))
    with pytest.raises(ValueError, match=r"has the open shape .*fixed\s+sizes"):
        convert(flexible)

    class Net(tf.keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match=r"convert\(model\): .*subclassed model"):
        convert(Net())
    with pytest.raises(TypeError, match=r"expected a tf.keras.Model, got str"):
        convert("net.keras")


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 32), (1, 8, 8, 1), (8, 1, 1)])
@pytest.mark.parametrize("with_batch_norm", [False, True])
def test_a_spatial_factor_behind_a_binary_conv_is_refused(shape, with_batch_norm):
    image = tf.keras.Input((8, 8, 32))
    x = conv(32, "ste_sign", "scaled")(image)
    x = batch_norm()(x) if with_batch_norm else x
    factor = np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)
    with pytest.raises(ValueError, match=r"'.*scaled' is multiplied by a constant of shape"):
        convert(tf.keras.Model(image, x * factor))


def test_the_way_round_a_spatial_factor_works_and_a_channel_factor_is_free():
    image = tf.keras.Input((8, 8, 32))
    rng = np.random.default_rng(0)
    spatial, channel = rng.uniform(0.5, 2, (8, 8, 1)), rng.uniform(0.5, 2, 32)
    x = conv(32, "ste_sign")(image) * channel.astype(np.float32)
    x = tf.keras.layers.MaxPool2D(1)(x) * spatial.astype(np.float32)
    model = randomize(tf.keras.Model(image, x))
    assert report(model, convert(model), images()).ok


class Spatial(tf.keras.layers.Layer):
    """A factor for each place of the image."""

    def build(self, shape):
        self.factor = self.add_weight("factor", (*shape[1:3], 1), initializer="random_normal")

    def call(self, inputs):
        return inputs * self.factor


@pytest.mark.parametrize("conv_first", [True, False])
def test_a_spatial_factor_behind_a_sum_of_two_branches_is_free(conv_first):
    """The converter moves a factor into one convolution, not through a sum of it and another."""
    image = tf.keras.Input((8, 8, 32))
    branches = [conv(32, "ste_sign")(image), image]
    x = Spatial()(tf.keras.layers.add(branches if conv_first else branches[::-1]))
    model = randomize(tf.keras.Model(image, x))
    assert report(model, convert(model), images()).ok


class Masked(tf.keras.layers.Conv2D):
    """A pruned convolution: its kernel is a product of two constants once frozen."""

    def build(self, shape):
        super().build(shape)
        self.mask = self.add_weight("mask", self.kernel.shape, initializer="ones", trainable=False)

    def call(self, inputs):
        return tf.nn.conv2d(inputs, self.kernel * self.mask, 1, "SAME")


def test_a_product_of_constants_is_no_factor_behind_a_convolution():
    model = net(Masked(32, 3), batch_norm(), conv(32, "ste_sign"))
    assert report(model, convert(model), images()).ok


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_whole_number_inputs_convert(dtype):
    image = tf.keras.Input((8, 8, 3), dtype=dtype)
    x = tf.keras.layers.Conv2D(32, 3)(tf.keras.layers.Rescaling(1 / 255)(image))
    model = randomize(tf.keras.Model(image, conv(32, "ste_sign")(x)))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(dtype)
    tflite = convert(model)
    assert TFLiteFile(metadata.strip(tflite)).inputs[0].dtype == dtype
    assert report(model, tflite, pixels).ok


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs_are_refused_by_name(dtype):
    image = tf.keras.Input((8, 8, 32), dtype=dtype, name="picture")
    model = tf.keras.Model(image, conv(32, "ste_sign")(image))
    message = rf"convert\(model\): input 'picture' is {dtype}, .* tf.keras.Input\(shape\)"
    with pytest.raises(ValueError, match=message):
        convert(model)


def test_an_op_that_no_interpreter_knows_is_named():
    sparse = lq.layers.QuantLocallyConnected2D(
        4, 3, implementation=3, kernel_quantizer="ste_sign", input_quantizer="ste_sign"
    )
    model = net(conv(32, "ste_sign"), sparse)
    with pytest.raises(ValueError, match=r"SparseTensorDenseMatMul.*implementation=1"):
        convert(model)


@pytest.mark.parametrize(
    "end, way_out", [("SIGSEGV", "Convert the model in halves"), ("SIGKILL", "memory runs out")]
)
def test_a_crash_of_the_converter_is_an_error_message(
    monkeypatch, tmp_path, converted, end, way_out
):
    script = tmp_path / "child.py"
    script.write_text(f"import os, signal\nos.kill(os.getpid(), signal.{end})\n")
    monkeypatch.setattr("hbnn_larq.edge.conversion.CHILD", script)
    out = tmp_path / "out"
    out.mkdir()
    message = rf"converter crashed \({end}\); this process is unharmed .* {way_out}"
    with pytest.raises(RuntimeError, match=message):
        convert(converted[0], out / "net.tflite")
    assert not list(out.iterdir())


def test_a_full_folder_of_temporary_files_is_named(monkeypatch, converted):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"convert\(model\): cannot write what .* set TMPDIR"):
        convert(converted[0])


def test_importing_edge_loads_no_lce():
    code = (
        "import sys, hbnn_larq.edge; print([m for m in sys.modules if 'larq_compute_engine' in m])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_lce_itself_can_be_imported_after_us(converted):
    predict(converted[1], images(1))
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    data = images(2)
    np.testing.assert_array_equal(
        Interpreter(converted[1]).predict(data), predict(converted[1], data)
    )


def test_a_full_disk_is_named_and_leaves_nothing(monkeypatch, tmp_path, converted):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "net.tflite"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"cannot write '{path}' \(No space left .*another path"):
        convert(converted[0], path)
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path, converted):
    model, expected = converted
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "net.tflite", tmp_path / "there" / "real.tflite"
    link.symlink_to(target)
    convert(model, link)
    assert link.is_symlink() and target.read_bytes() == expected
    assert [entry.name for entry in target.parent.iterdir()] == ["real.tflite"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path, converted):
    """As /dev/null must: to convert there is to ask whether a model converts."""
    model, expected = converted
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    convert(model, pipe)
    reader.join(10)
    assert pipe.is_fifo() and read == [expected]


class Shifted(tf.keras.layers.Layer):
    """A sign about a threshold of its own for each channel, less the image's mean."""

    def build(self, shape):
        self.threshold = self.add_weight("threshold", shape[-1:], initializer="random_normal")

    def call(self, inputs):
        mean = tf.reduce_mean(inputs, axis=[1, 2, 3], keepdims=True)
        return lq.math.sign(inputs - mean - self.threshold)


def test_a_sign_of_something_else_is_judged_by_that():
    model = net(
        conv(32, "ste_sign", "conv_1", input_quantizer=Shifted()),
        batch_norm(),
        conv(32, "ste_sign", "conv_2", input_quantizer=Shifted()),
    )
    with tf.keras.utils.custom_object_scope({"Shifted": Shifted}):
        tflite = convert(model)
        result = report(model, tflite, images())
        assert result.ok, result.faults
        assert result.binary_placed == 2 and {"MEAN", "SUB"} <= set(result.ops)
        broken = mutate(tflite, lambda file: drop_batch_norm(file, binary_ops(file)[0], None))
        assert "conv_2" in report(model, broken, images()).faults[0]


def shared_net(twice):
    """Two branches through one encoder; `twice` puts another call of it inside the encoder."""
    shared = conv(32, "ste_sign", "shared")
    inside = tf.keras.Input((8, 8, 32))
    x = shared(shared(inside)) if twice else shared(inside)
    encoder = tf.keras.Model(inside, batch_norm()(conv(32, "ste_sign", "own")(x)), name="encoder")
    left, right = tf.keras.Input((8, 8, 32)), tf.keras.Input((8, 8, 32))
    both = tf.keras.layers.Concatenate()([encoder(left), encoder(right)])
    return randomize(tf.keras.Model([left, right], both))


@pytest.mark.parametrize("twice", [False, True])
def test_a_nested_model_that_is_called_twice(twice):
    model = shared_net(twice)
    result = report(model, convert(model), [images(), images(seed=2)])
    assert result.ok, result.faults
    assert result.binary_placed == 2 and result.ops[BINARY_CONV] == (6 if twice else 4)


def test_layers_whose_paths_are_alike_are_told_apart():
    inner = tf.keras.Sequential([tf.keras.Input((8, 8, 32)), conv(32, "ste_sign", "b")], name="a")
    model = net(inner, batch_norm(), conv(32, "ste_sign", "a/b"))
    assert list(hbnn_larq.binary_weights(model)) == ["a/b", "a/b_1"]
    result = report(model, convert(model), images())
    assert result.ok, result.faults
    assert [layer.layer for layer in result.layers] == ["a/b", "a/b_1"]


# --- device -------------------------------------------------------------------------------------


def test_device_commands_quote_a_path_with_spaces():
    text = device_commands("my dir/it's a net.tflite")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    assert ["adb", "push", "my dir/it's a net.tflite", "/data/local/tmp/"] in lines
    assert ["scp", "my dir/it's a net.tflite", "pi@raspberrypi.local:"] in lines
    assert [
        "hbnn",
        "benchmark",
        "my dir/it's a net.tflite",
        "--device-output",
        "phone.txt",
    ] in lines
    # adb and ssh hand their words to another shell, joined by spaces.
    phone, pi = (
        shlex.split(" ".join(words[2 : words.index("2>&1")]))
        for words in lines
        if "--graph=" in " ".join(words)
    )
    assert phone[1] == "--graph=/data/local/tmp/it's a net.tflite"
    assert pi[1] == "--graph=it's a net.tflite"


# --- predict ------------------------------------------------------------------------------------


def test_predict_names_what_is_wrong(tmp_path, converted):
    _, tflite = converted
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing.tflite"):
        predict(tmp_path / "nothing.tflite", images())
    (tmp_path / "text.tflite").write_text("not a model")
    with pytest.raises(ValueError, match=r"this is not a .tflite file"):
        predict(tmp_path / "text.tflite", images())
    with pytest.raises(ValueError, match=r"takes images of shape \(n, 8, 8, 32\).*got \(2, 9, 9"):
        predict(tflite, np.zeros((2, 9, 9, 32)))
    with pytest.raises(ValueError, match=r"the file has 1 inputs, got 2 arrays"):
        predict(tflite, [images(), images()])
    with pytest.raises(ValueError, match=r"n at least 1, got \(0, 8, 8, 32\)"):
        predict(tflite, images(0))
    with pytest.raises(ValueError, match=r"predict\(threads=0\): a whole number, 1 or above"):
        predict(tflite, images(), threads=0)
    with pytest.raises(TypeError, match=r"tflite must be the bytes .* got int"):
        predict(3, images())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_refused_and_crashes_nothing(tmp_path, converted, share):
    model, tflite = converted
    (tmp_path / "net.tflite").write_bytes(metadata.strip(tflite)[: int(share * len(tflite))])
    for use in (lambda p: predict(p, images()), lambda p: report(model, p, images())):
        with pytest.raises(ValueError, match=r"this .tflite file is damaged"):
            use(tmp_path / "net.tflite")


def test_a_file_of_tensorflows_own_converter_is_named_as_such(converted):
    from hbnn_larq.edge.twins import float_twin

    result = report(converted[0], float_twin(converted[0]), images(2))
    assert "not one op of LCE, so another converter made it. Fix: make it" in result.faults[0]


def test_threads_do_not_change_the_result(converted):
    _, tflite = converted
    np.testing.assert_array_equal(predict(tflite, images(3)), predict(tflite, images(3), threads=2))


# --- the op-placement table ---------------------------------------------------------------------

KWARGS = {"input_quantizer": "ste_sign", "use_bias": False}


def flat(*layers):
    return [tf.keras.layers.Flatten(), *layers]


# row of the table: layers, ops that must be there, binary?, bytes it may take, reason and fix
PLACEMENT = {
    "conv, same-one pad": (
        lambda q: [conv(32, q), batch_norm()],
        ["LceQuantize", "LceBconv2d"],
        (0, 9_000),
        None,
    ),
    "conv, same-zero pad": (
        lambda q: [conv(32, q, pad_values=0.0), batch_norm()],
        ["LceQuantize", "LceBconv2d"],
        (0, 9_000),
        None,
    ),
    "conv, weights only binary": (
        lambda q: [conv(32, q, input_quantizer=None, pad_values=0.0), batch_norm()],
        ["CONV_2D"],
        (36_864, 50_000),
        r"1-bit weights, computed by CONV_2D in float: its inputs are float.*approx_sign",
    ),
    "depthwise": (
        lambda q: [
            lq.layers.QuantDepthwiseConv2D(
                3, padding="same", pad_values=1.0, depthwise_quantizer=q, **KWARGS
            ),
            batch_norm(),
        ],
        ["LceQuantize", "LceDequantize", "PADV2", "DEPTHWISE_CONV_2D"],
        (1_152, 10_000),
        r"DEPTHWISE_CONV_2D in float: LCE has no binary depthwise convolution.*groups=1",
    ),
    "groups=2": (
        lambda q: [conv(32, q, groups=2), batch_norm()],
        ["LceQuantize", "LceDequantize", "PADV2", "CONV_2D"],
        (18_432, 30_000),
        r"CONV_2D in float: it is grouped, 16 input channels per group.*groups=1",
    ),
    "QuantDense 64": (
        lambda q: flat(lq.layers.QuantDense(64, kernel_quantizer=q, **KWARGS)),
        ["RESHAPE", "LceQuantize", "LceDequantize", "FULLY_CONNECTED"],
        (524_288, 540_000),
        r"FULLY_CONNECTED in float: LCE has no binary dense op.*dense_to_conv",
    ),
    "same as 1x1 conv": (
        lambda q: [
            tf.keras.layers.Reshape((1, 1, 2048)),
            lq.layers.QuantConv2D(64, 1, kernel_quantizer=q, **KWARGS),
        ],
        ["RESHAPE", "LceQuantize", "LceBconv2d"],
        (16_384, 20_000),
        None,
    ),
}


@pytest.mark.filterwarnings("ignore:.*Invalid binary grouped convolution")
@pytest.mark.parametrize("quantizer", ["ste_sign", "hyperbolic"])
@pytest.mark.parametrize("row", PLACEMENT)
def test_op_placement_table(row, quantizer):
    layers, ops, (least, most), fault = PLACEMENT[row]
    model = net(*layers(quantizer))
    tflite = convert(model, rewrites=())
    assert op_names(tflite) == ops
    assert least <= len(tflite) <= most
    result = report(model, tflite, images(4))
    assert result.layers[0].op == ops[-1], "the layer was matched to another op"
    if fault is None:
        assert result.ok, result.faults
    else:
        assert not result.ok
        assert len(result.faults) == 1, result.faults

        assert re.search(fault, result.faults[0]), result.faults
    assert result.agreement.max_difference < 1e-2


@pytest.mark.filterwarnings("error:.*the LCE converter says")
def test_the_converters_own_complaint_becomes_a_warning():
    with pytest.raises(UserWarning, match=r"Invalid binary grouped convolution.*goes on with a f"):
        convert(net(conv(32, "ste_sign", groups=2)))


def scaled_by_the_data(x):
    """XNOR-Net's activations: their sign times their mean size."""
    return lq.math.sign(x) * tf.reduce_mean(tf.abs(x), axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "layer, reason",
    [
        (
            lambda: conv(32, "ste_sign", input_quantizer="ste_heaviside", pad_values=0.0),
            r"its input quantizer SteHeaviside does not give ±1",
        ),
        (
            lambda: conv(32, "ste_sign", input_quantizer=scaled_by_the_data),
            r"scaled_by_the_data does not give ±1 .* no scale that depends on the data",
        ),
        (
            lambda: tf.keras.Sequential(
                [
                    tf.keras.layers.Flatten(),
                    lq.layers.QuantDense(
                        64, input_quantizer="ste_heaviside", kernel_quantizer="ste_sign"
                    ),
                ]
            ),
            r"dense_to_conv knows plain signs only, not SteHeaviside",
        ),
        (lambda: conv(32, "ste_sign", pad_values=-1.0), r"pads with -1.0; LCE knows \+1 and 0"),
        (
            lambda: lq.layers.QuantConv2DTranspose(32, 3, kernel_quantizer="ste_sign", **KWARGS),
            r"LCE has no binary op for QuantConv2DTranspose",
        ),
        (
            lambda: lq.layers.QuantSeparableConv2D(
                32, 3, depthwise_quantizer="ste_sign", pointwise_quantizer="ste_sign", **KWARGS
            ),
            r"no binary depthwise",
        ),
    ],
)
def test_other_reasons_for_float(layer, reason):

    model = net(layer())
    result = report(model, convert(model), images(2))
    assert any(re.search(reason, fault) for fault in result.faults), result.faults
    assert not result.ok


ZOO = {
    "VGGSmall": 32,
    "ResNet20": 32,
    "ResNet18": 32,
    "ResNet34": 64,
    "BiRealNet18": 64,
    "BiRealNet34": 64,
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "ResNet20")) for n in ZOO]
)
def test_every_zoo_model_is_binary_in_its_file(name):
    size = ZOO[name]
    model = randomize(getattr(zoo, name)(input_shape=(size, size, 3), num_classes=10))
    result = report(model, convert(model), images(4, (size, size, 3)))
    assert result.ok, result.faults
    assert result.binary_placed == result.binary_asked == result.ops[BINARY_CONV] > 4
    assert result.file_bytes < result.float_bytes / 15


def test_the_list_of_zoo_models_is_complete():
    assert sorted(ZOO) == sorted(zoo.MODELS)


# --- mutations: a broken file must not pass -----------------------------------------------------


def mutate(tflite, change):
    file = TFLiteFile(metadata.strip(tflite))
    change(file)
    return file.to_bytes()


def set_constant(file, tensor, value):
    buffer = file.graph.tensors[tensor.index].buffer
    file.model.buffers[buffer].data = np.frombuffer(value.tobytes(), np.uint8)


def binary_ops(file):
    return [op for op in file.ops if op.name == BINARY_CONV]


def flip_one_bit(file):
    filters = binary_ops(file)[0].inputs[1]
    signs = unpack_bits(filters.data, 32).copy()
    signs[5, 1, 2, 7] *= -1
    set_constant(file, filters, pack_bits(signs))


def swap_two_output_channels(file):
    filters = binary_ops(file)[1].inputs[1]
    set_constant(file, filters, filters.data[[1, 0, *range(2, 64)]])


def swap_two_input_channels(file):
    filters = binary_ops(file)[1].inputs[1]
    signs = unpack_bits(filters.data, 32)[..., [1, 0, *range(2, 32)]]
    set_constant(file, filters, pack_bits(signs))


def turn_one_filter(file):
    filters = binary_ops(file)[1].inputs[1]
    signs = unpack_bits(filters.data, 32).copy()
    signs[3] *= -1
    set_constant(file, filters, pack_bits(signs))


def drop_the_last_batch_norm(file):
    _, _, multiplier, bias, _ = binary_ops(file)[1].inputs
    set_constant(file, multiplier, np.ones_like(multiplier.data))
    set_constant(file, bias, np.zeros_like(bias.data))


def drop_the_batch_norm_inside_a_threshold(file):
    threshold = binary_ops(file)[0].inputs[4]
    middle = 32 * 9 // 2  # what a convolution of 288 bits compares with when no batch norm follows
    set_constant(file, threshold, np.full_like(threshold.data, middle))


def swap_two_multipliers(file):
    multiplier = binary_ops(file)[1].inputs[2]
    set_constant(file, multiplier, multiplier.data[[1, 0, *range(2, 64)]])


def change_one_threshold(file):
    threshold = binary_ops(file)[0].inputs[4]
    set_constant(file, threshold, threshold.data + np.eye(1, 32, 4, dtype="<i4")[0] * 6)


def change_the_head(file):
    head = next(op for op in file.ops if op.name == "FULLY_CONNECTED").inputs[1]
    set_constant(file, head, head.data * np.where(np.eye(10, 64) > 0, 1.5, 1).astype("<f4"))


def change_the_head_bias(file):
    bias = next(op for op in file.ops if op.name == "FULLY_CONNECTED").inputs[2]
    set_constant(file, bias, bias.data + np.float32(0.1))


def change_one_weight_of_the_head(file):
    head = next(op for op in file.ops if op.name == "FULLY_CONNECTED").inputs[1]
    weights = head.data.copy()
    weights[3, 17] *= 1.0001
    set_constant(file, head, weights)


MUTATIONS = {
    flip_one_bit: r"conv_1: 1 of 9216 weight bits differ \(output channels 5\)",
    swap_two_output_channels: r"conv_2: \d+ of 18432 weight bits differ \(output channels 0, 1\)",
    swap_two_input_channels: r"conv_2: \d+ of 18432 weight bits differ",
    turn_one_filter: r"logits differ from Keras by up to",
    drop_the_last_batch_norm: r"logits differ from Keras by up to",
    drop_the_batch_norm_inside_a_threshold: r"conv_2: \d+ of \d+ input signs differ from Keras",
    swap_two_multipliers: r"logits differ from Keras by up to",
    change_one_threshold: r"conv_2: \d+ of \d+ input signs differ from Keras",
    change_the_head: r"head: weights of \d+ output channels differ",
    change_the_head_bias: r"logits differ from Keras by up to",
    change_one_weight_of_the_head: r"head: weights of 1 output channels differ \(3\)",
}


def test_an_unmutated_rewrite_of_the_file_passes(converted):
    model, tflite = converted
    again = mutate(tflite, lambda file: None)
    result = report(model, again, images())
    assert result.ok, result.faults
    np.testing.assert_array_equal(predict(again, images(3)), predict(tflite, images(3)))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.__name__)
def test_a_mutated_file_does_not_pass(converted, mutation):

    model, tflite = converted
    result = report(model, mutate(tflite, mutation), images(24))
    assert not result.ok
    text = " | ".join(result.faults)
    assert re.search(MUTATIONS[mutation], text), text


# The same in a deeper net: shortcuts, float convolutions between binary ones, channels that do not
# fill a word, a clip, a shared sign. Every binary convolution in turn.


def residual_net(seed):
    image = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(16, 3, padding="same", use_bias=False)(image)
    x = batch_norm()(x)
    for block, filters in enumerate((16, 48)):
        shortcut = x
        if block:
            shortcut = tf.keras.layers.AveragePooling2D(2)(x)
            shortcut = batch_norm()(tf.keras.layers.Conv2D(filters, 1, use_bias=False)(shortcut))
        y = conv(filters, "hyperbolic", f"b{block}c1", strides=1 + block)(x)
        y = conv(filters, "hyperbolic", f"b{block}c2")(batch_norm()(y))
        x = tf.keras.layers.Add()([batch_norm()(y), shortcut])
        x = tf.clip_by_value(x, -1.0, 1.0)
    x = batch_norm()(conv(64, "hyperbolic", "last")(x))
    x = tf.keras.layers.Dense(5)(tf.keras.layers.GlobalAveragePooling2D()(x))
    return randomize(tf.keras.Model(image, x, name="residual"), seed)


@pytest.fixture(
    scope="module", params=[0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))]
)
def deep(request):
    tf.keras.utils.set_random_seed(request.param)
    model = residual_net(request.param)
    return model, convert(model)


def flip_any_bit(file, op, rng):
    words = op.inputs[1].data.copy()
    words.flat[rng.integers(words.size)] ^= np.int32(1) << rng.integers(31)
    set_constant(file, op.inputs[1], words)


def swap_two_channels(file, op, rng):
    one, other = rng.choice(op.inputs[1].shape[0], 2, replace=False)
    words = op.inputs[1].data.copy()
    words[[one, other]] = words[[other, one]]
    set_constant(file, op.inputs[1], words)


def drop_batch_norm(file, op, rng):
    _, filters, multiplier, bias, threshold = op.inputs
    if threshold is not None and threshold.data is not None:
        set_constant(file, threshold, np.full_like(threshold.data, np.prod(filters.shape[1:]) * 16))
    else:
        set_constant(file, multiplier, np.full_like(multiplier.data, -2.0))
        set_constant(file, bias, np.zeros_like(bias.data))


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("mutation", [flip_any_bit, swap_two_channels, drop_batch_norm])
def test_a_mutation_anywhere_in_a_deeper_net_does_not_pass(deep, mutation, place):
    model, tflite = deep
    rng = np.random.default_rng(place)
    broken = mutate(tflite, lambda file: mutation(file, binary_ops(file)[place], rng))
    result = report(model, broken, images(8, (8, 8, 3)))
    assert not result.ok
    if mutation is flip_any_bit:
        assert re.search(
            r"1 of \d+ weight bits differ|1 bits are set in the padding", result.faults[0]
        )


def test_the_deeper_net_itself_passes_far_from_the_limit(deep):
    model, tflite = deep
    result = report(model, tflite, images(48, (8, 8, 3), seed=3))
    assert result.ok, result.faults
    assert max(signs.largest for signs in result.agreement.signs.values()) < 0.1
    assert len(result.agreement.signs) == 5


def test_one_wrong_bit_in_a_wide_layer_is_read_from_the_file():
    """Images would not tell: one of 4,608 summands, in one of 128 channels."""
    model = net(batch_norm(), conv(128, "hyperbolic", "wide"), shape=(2, 2, 512))
    tflite = convert(model)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        broken = mutate(tflite, lambda f, rng=rng: flip_any_bit(f, binary_ops(f)[0], rng))
        result = report(model, broken)  # without a single image
        assert "wide: 1 of 589824 weight bits differ" in result.faults[0]


def test_a_file_of_other_weights_is_said_to_be_one(converted):
    """One fault in place of two for each layer: the converter has done nothing wrong."""
    _, tflite = converted
    result = report(randomize(three_layers(), seed=9), tflite, images())
    assert not result.ok
    assert result.faults[0] == (
        "not one of the model's 2 1-bit kernels is among the 2 binary convolutions of the file: it "
        "was converted from another model, or from other weights. Fix: convert this model, or "
        "report with the model that the file was made from."
    )
    assert not any("converter" in fault or "conv_" in fault for fault in result.faults)
    rows = [row for row in result.layers if row.asked == "1-bit"]
    assert [row.weights for row in rows] == ["not in the file"] * 2
    assert {row.reason for row in rows} == {"the file holds other weights"}


def test_a_file_with_one_layer_of_its_own_names_that_layer(converted):
    model, tflite = converted
    other = tf.keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    changed = randomize(three_layers(), seed=9).get_layer("conv_2")
    other.get_layer("conv_2").set_weights(changed.get_weights())
    faults = report(other, tflite, images()).faults
    assert any("conv_2: no op of the file carries its weights" in fault for fault in faults)
    assert any("the file has 1 binary convolution" in fault for fault in faults)


def test_a_sign_turned_by_rounding_is_no_fault():
    """Activations one rounding error around zero: signs differ, the report explains them."""
    model = net(conv(32, "ste_sign", "conv_1"), batch_norm("bn"), conv(32, "ste_sign", "conv_2"))
    # Batch norm sends a sum that occurs in every channel to exactly 0, then is moved by less than
    # rounding does: whoever adds in another order gets other signs there.
    rng = np.random.default_rng(0)
    gamma, _, mean, variance = model.get_layer("bn").get_weights()
    occurring = np.asarray(model.layers[0](images()))[0, 0, 0]
    beta = -gamma * (occurring - mean) / np.sqrt(variance + 1e-5)
    model.get_layer("bn").set_weights([gamma, beta, mean, variance])
    tflite = convert(model)
    nudge = 1e-6 * rng.normal(size=32) * np.abs(gamma)
    model.get_layer("bn").set_weights([gamma, beta + nudge, mean, variance])
    result = report(model, tflite, images())
    row = result.layers[1]
    assert row.signs_differ > 0, "the test does not test what it says"
    assert result.ok, result.faults


def test_without_images_a_file_is_not_called_right(converted):
    result = report(*converted)
    assert not result.ok and result.agreement is None
    assert result.faults == ("no images were given, so the file was not compared with Keras",)


def test_the_report_leaves_the_model_as_it_was(converted):
    model, tflite = converted
    before = model.predict(images())
    report(model, tflite, images())
    np.testing.assert_array_equal(model.predict(images()), before)


def test_json_and_markdown(converted):
    result = report(*converted, images())
    content = json.loads(result.to_json())
    assert content["ok"] is True and content["ops"][BINARY_CONV] == 2
    assert content["layers"][1]["layer"] == "conv_1" and content["agreement"]["images"] == 12
    text = result.to_markdown()
    assert text.startswith("# three_layers: OK\n")
    assert "2 of 2 1-bit kernels are binary in the file." in text
    assert "| conv_1 (QuantConv2D) | 1-bit | LceBconv2d |" in text


# --- rewrites -----------------------------------------------------------------------------------


def scaled_with_a_dead_channel(x):
    scale = tf.constant([0.0] + [0.5] * 31)
    return lq.math.sign(x) * scale


scaled_with_a_dead_channel.precision = 1


def almost_dead(x):
    """LCE takes 1e-7 for 0."""
    return lq.math.sign(x) * tf.constant([1e-7] + [0.5] * 31)


almost_dead.precision = 1

REWRITE_CASES = {
    "dense_to_conv": lambda: flat(
        lq.layers.QuantDense(
            64, kernel_quantizer="hyperbolic", input_quantizer="ste_sign", activation="relu"
        )
    ),
    "drop_activations": lambda: [
        conv(32, "hyperbolic"),
        batch_norm(),
        tf.keras.layers.Activation("hard_tanh"),
        tf.keras.layers.MaxPool2D(2),
        tf.keras.layers.Rescaling(3.0),
        conv(32, "hyperbolic"),
    ],
    "split_scales": lambda: [conv(32, scaled_with_a_dead_channel), batch_norm()],
}
# The same rewrite in its other forms.
MORE_CASES = {
    "scaled dense": (
        "dense_to_conv",
        lambda: flat(
            lq.layers.QuantDense(
                64, kernel_quantizer="magnitude_aware_sign", input_quantizer="ste_sign"
            )
        ),
    ),
    "dense with a dead channel": (
        "dense_to_conv",
        lambda: flat(
            lq.layers.QuantDense(
                32, kernel_quantizer=scaled_with_a_dead_channel, input_quantizer="ste_sign"
            ),
            batch_norm(),
        ),
    ),
    "almost dead channel": ("split_scales", lambda: [conv(32, almost_dead), batch_norm()]),
    "dead channel behind inputs with a clock": (
        "split_scales",
        lambda: [conv(32, scaled_with_a_dead_channel, input_quantizer="rbnn_sign"), batch_norm()],
    ),
}
ALL_CASES = {**{name: (name, layers) for name, layers in REWRITE_CASES.items()}, **MORE_CASES}


@pytest.mark.parametrize("case", ALL_CASES)
def test_a_rewrite_makes_the_file_smaller_and_keeps_the_logits(case):
    name, layers = ALL_CASES[case]
    model = net(*layers())
    plain, smaller = convert(model, rewrites=()), convert(model, rewrites=[name])
    assert len(metadata.strip(smaller)) < len(metadata.strip(plain))
    expected = predict(plain, images())
    np.testing.assert_allclose(
        predict(smaller, images()), expected, rtol=0, atol=1e-5 * np.max(np.abs(expected))
    )
    result = report(model, smaller, images())
    assert result.ok, result.faults
    assert result.rewrites and {change["name"] for change in result.rewrites} == {name}
    assert f"({name})" in result.to_markdown()
    others = [other for other in REWRITE_CASES if other != name]
    assert metadata.strip(convert(model, rewrites=others)) == metadata.strip(plain)


# --- zeros around an image smaller than the kernel: LCE sums them wrong -------------------------

# kernel, dilation, image, strides; and whether a side of the image is shorter than the kernel's.
SMALL_IMAGES = [
    (3, 1, (1, 1), 1, True),
    (3, 1, (2, 2), 1, True),
    (3, 1, (2, 2), 2, True),
    (3, 1, (3, 3), 1, False),
    (3, 1, (2, 8), 1, True),
    ((1, 3), 1, (8, 2), 1, True),
    ((1, 3), 1, (2, 8), 1, False),
    (3, 2, (4, 4), 1, True),
    (3, 2, (5, 5), 1, False),
    (5, 1, (4, 8), 2, True),
    (2, 1, (1, 1), 1, True),
]


def zero_padded(kernel, dilation, strides, **kwargs):
    kwargs = {
        "kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign", "use_bias": False, **kwargs,
    }  # fmt: skip
    return lq.layers.QuantConv2D(
        32, kernel, strides=strides, dilation_rate=dilation, padding="same", pad_values=0.0,
        name="small", **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("kernel, dilation, shape, strides, small", SMALL_IMAGES, ids=str)
def test_zeros_around_a_small_image(kernel, dilation, shape, strides, small):
    shape = (*shape, 32)
    model = net(zero_padded(kernel, dilation, strides), shape=shape)
    x = images(4, shape)
    expected = model.predict(x, verbose=0)

    plain = convert(model, rewrites=())
    assert np.array_equal(predict(plain, x), expected) is not small
    faults = report(model, plain).faults
    named = [fault for fault in faults if "smaller than its" in fault]
    assert len(named) == small, faults
    for fault in named:
        assert fault.startswith("small: zeros pad its image of ") and "wrong sums" in fault
        assert 'rewrite "pad_with_ones"' in fault and "pad_values=1.0" in fault

    tflite = convert(model)
    assert op_names(tflite).count(BINARY_CONV) == 1
    np.testing.assert_array_equal(predict(tflite, x), expected)
    result = report(model, tflite, x)
    assert result.ok, result.faults
    assert [change["name"] for change in result.rewrites] == ["pad_with_ones"] * small


@pytest.mark.parametrize(
    "kwargs",
    [
        {"kernel_quantizer": "hyperbolic", "use_bias": True, "activation": "relu"},
        {"kernel_quantizer": "magnitude_aware_sign"},
        {"kernel_quantizer": scaled_with_a_dead_channel, "use_bias": True},
        {"input_quantizer": "rbnn_sign"},
    ],
    ids=["bias and activation", "scales", "a scale of 0", "inputs with a clock"],
)
@pytest.mark.parametrize("int8", [False, True])
def test_zeros_around_a_small_image_in_a_net(kwargs, int8):
    """As at the end of larq-zoo's Bi-Real Net on 64x64 pixels: shortcuts, and a sign behind."""
    image = tf.keras.Input((4, 4, 32))
    x = conv(32, "ste_sign", strides=2)(image)
    x = shortcut = batch_norm()(x)
    x = tf.keras.layers.Add()([batch_norm()(zero_padded(3, 1, 1, **kwargs)(x)), shortcut])
    x = batch_norm()(conv(32, "ste_sign", "next", pad_values=0.0)(x))
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    model = randomize(tf.keras.Model(image, tf.keras.layers.Dense(10)(x)))
    pictures = images(32, (4, 4, 32))
    tflite = convert(model, int8_images=pictures if int8 else None)
    result = report(model, tflite, pictures)
    assert result.ok, result.faults
    assert result.binary_placed == result.binary_asked == 3
    mended = [c["layer"] for c in result.rewrites if c["name"] == "pad_with_ones"]
    assert mended == ["small", "next"]


def test_a_float_layer_is_padded_with_zeros_as_it_was():
    """Weights alone are 1-bit: LCE has nothing to do with it."""
    model = net(
        lq.layers.QuantConv2D(32, 3, padding="same", kernel_quantizer="ste_sign"), shape=(2, 2, 32)
    )
    assert metadata.read(convert(model)).rewrites == ()


def test_zeros_around_images_of_several_sizes_are_named():
    image = tf.keras.Input((8, 8, 32))
    shared, pool = zero_padded(3, 1, 1), tf.keras.layers.GlobalAveragePooling2D()
    small = tf.keras.layers.AveragePooling2D(4)(image)
    x = tf.keras.layers.Add()([pool(shared(image)), pool(shared(small))])
    model = randomize(tf.keras.Model(image, x))
    tflite = convert(model)
    assert metadata.read(tflite).rewrites == ()
    (fault,) = report(model, tflite, images()).faults[:1]
    assert "small: zeros pad its image of 2x2" in fault
    assert "pad_with_ones" not in fault and fault.endswith("Fix: pad_values=1.0.")


def test_dense_to_conv_is_exact_to_the_last_bit():
    model = net(*REWRITE_CASES["dense_to_conv"]())
    folded = hbnn_larq.fold(model)
    rewritten, _ = rewrite(folded, ["dense_to_conv"], call="test", size=None)
    np.testing.assert_array_equal(rewritten(images()), folded(images()))


@pytest.mark.parametrize("shape", [(5, 64), (4, 6, 64), (2, 3, 4, 64)])
@pytest.mark.parametrize("use_bias", [False, True])
def test_dense_to_conv_takes_any_rank(shape, use_bias):
    dense = lq.layers.QuantDense(
        100, input_quantizer="ste_sign", kernel_quantizer="hyperbolic", use_bias=use_bias
    )
    model = net(batch_norm(), dense, shape=shape)
    folded = hbnn_larq.fold(model)
    rewritten, changes = rewrite(folded, ["dense_to_conv"], call="test", size=None)
    assert len(changes) == 1 and not changes[0].skipped
    np.testing.assert_array_equal(rewritten(images(3, shape)), folded(images(3, shape)))
    result = report(model, convert(model), images(3, shape))
    assert result.ok, result.faults
    assert result.binary_placed == 1


DENSE = {"kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign"}


def dense_in_a_wrapper(image):
    return tf.keras.layers.TimeDistributed(lq.layers.QuantDense(64, **DENSE))(image)


def dense_of_two_ranks(image):
    dense = lq.layers.QuantDense(64, **DENSE)
    flat = tf.keras.layers.GlobalAveragePooling2D()(image)
    return tf.keras.layers.Add()([dense(image), dense(flat)])


def conv_of_two_sizes(image):
    shared = conv(32, scaled_with_a_dead_channel)
    small = tf.keras.layers.AveragePooling2D()(image)
    pool = tf.keras.layers.GlobalAveragePooling2D()
    return tf.keras.layers.Add()([pool(shared(image)), pool(shared(small))])


@pytest.mark.parametrize("layer", [dense_in_a_wrapper, dense_of_two_ranks, conv_of_two_sizes])
def test_a_layer_without_one_input_shape_is_left_alone_and_the_reason_is_true(layer):
    image = tf.keras.Input((8, 8, 32))
    model = randomize(tf.keras.Model(image, layer(image)))
    tflite = convert(model)
    assert metadata.read(tflite).rewrites == ()
    result = report(model, tflite, images())
    assert len(result.faults) == 1, result.faults
    assert "call the layer by itself, on inputs of one shape" in result.faults[0]
    np.testing.assert_allclose(predict(tflite, images()), model.predict(images()), atol=1e-3)


def halved(x):
    return 0.5 * x


def test_a_small_dense_layer_may_have_a_function_of_its_own():
    dense = lq.layers.QuantDense(8, **DENSE, activation=halved)
    model = net(batch_norm(), dense, shape=(32,))
    (change,) = metadata.read(convert(model)).rewrites
    assert change["name"] == "dense_to_conv"


def tiny_dense():
    return net(
        lq.layers.QuantDense(4, name="tiny", **KWARGS, kernel_quantizer="ste_sign"), shape=(16,)
    )


def test_a_rewrite_that_would_make_the_file_larger_is_skipped_and_said_so():
    model = tiny_dense()
    tflite = convert(model)
    assert metadata.strip(tflite) == metadata.strip(convert(model, rewrites=()))
    result = report(model, tflite, images(4, (16,)))
    (change,) = result.rewrites
    assert change["name"] == "dense_to_conv" and change["skipped"]
    assert re.fullmatch(r"left as it is: the file would be \d+ bytes larger", change["change"])
    assert "Not rewritten:\n- tiny: left as it is: the file would be" in result.to_markdown()
    assert "Fix: make this layer float: binary it would cost more" in result.faults[0]


@pytest.mark.parametrize("filters", [1, 10, 64])
@pytest.mark.parametrize("inputs", [3, 16, 100])
def test_no_rewrite_makes_a_file_larger(inputs, filters):
    """From where a rewrite costs to where it saves; the line between is measured."""
    model = net(
        batch_norm(),
        tf.keras.layers.Activation("hard_tanh"),
        lq.layers.QuantDense(filters, **KWARGS, kernel_quantizer="magnitude_aware_sign"),
        shape=(inputs,),
    )
    assert len(metadata.strip(convert(model))) <= len(metadata.strip(convert(model, rewrites=())))


@pytest.mark.parametrize("limits, dropped", [((-1.0, 1.0), True), ((0.0, 1.0), False)])
def test_drop_activations_knows_a_clip(limits, dropped):
    image = tf.keras.Input((8, 8, 32))
    x = batch_norm()(conv(32, "ste_sign")(image))
    x = conv(32, "ste_sign")(tf.clip_by_value(x, *limits))
    model = randomize(tf.keras.Model(image, x))
    tflite = convert(model)
    assert bool(metadata.read(tflite).rewrites) is dropped
    assert report(model, tflite, images()).ok


def test_drop_activations_keeps_what_something_else_sees():
    image = tf.keras.Input((8, 8, 32))
    x = tf.keras.layers.Activation("hard_tanh", name="seen")(batch_norm()(image))
    model = randomize(tf.keras.Model(image, tf.keras.layers.Add()([x, conv(32, "ste_sign")(x)])))
    tflite = convert(model)
    assert metadata.read(tflite).rewrites == ()
    last = net(conv(32, "ste_sign"), tf.keras.layers.Activation("tanh"))
    assert metadata.read(convert(last)).rewrites == ()


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_drop_activations_keeps_what_is_an_output_too(pooled, nested):
    image = tf.keras.Input((8, 8, 32))
    seen = tf.keras.layers.Activation("tanh")(batch_norm()(image))
    seen = tf.keras.layers.MaxPool2D()(seen) if pooled else seen
    model = tf.keras.Model(image, [conv(32, "ste_sign")(seen), seen])
    if nested:
        outer = tf.keras.Input((8, 8, 32))
        model = tf.keras.Model(outer, model(outer))
    model = randomize(model)
    tflite = convert(model)
    assert metadata.read(tflite).rewrites == ()
    for got, expected in zip(predict(tflite, images()), model.predict(images()), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-3)


def test_an_unknown_rewrite_is_refused(converted):
    with pytest.raises(ValueError, match=r"no rewrite 'dens'. There are 'dense_to_conv', 'drop_"):
        convert(converted[0], rewrites=["dens"])


def test_a_long_sum_of_equal_weights_is_no_fault():
    """Kernels of ±alpha in float, as in larq-zoo's DoReFaNet: sums in float32 were 1e-6 off."""
    layer = lq.layers.QuantConv2D(
        32, 5, kernel_quantizer="magnitude_aware_sign", use_bias=False, name="float",
        input_quantizer=lq.quantizers.DoReFa(2),
    )  # fmt: skip
    model = net(layer, batch_norm(), shape=(6, 6, 96))
    result = report(model, convert(model), images(4, (6, 6, 96)))
    (fault,) = result.faults
    assert "asked for 1-bit, computed by CONV_2D in float" in fault


# --- int8 ---------------------------------------------------------------------------------------


def test_int8_reaches_only_what_lies_behind_the_last_sign():
    model = net(
        tf.keras.layers.Conv2D(32, 3, padding="same", name="stem"),
        batch_norm(),
        conv(32, "hyperbolic", "conv_1"),
        batch_norm(),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(10, name="head"),
    )
    plain, smaller = convert(model), convert(model, int8_images=images(60, seed=5))
    assert len(smaller) < len(plain) - 0.7 * 3 * 2048 * 10, "the head's floats became bytes"
    ops = {op.name: op for op in TFLiteFile(metadata.strip(smaller)).ops}
    assert ops["FULLY_CONNECTED"].inputs[1].dtype == np.int8
    assert ops["CONV_2D"].inputs[1].dtype == np.float32
    result = report(model, smaller, images())
    assert result.ok, result.faults
    assert {s.unexplained for s in result.agreement.signs.values()} == {0}
    assert 1e-5 < result.agreement.followed_difference < 0.05
    assert "Dense computes in int8 (int8)" in result.to_markdown()
    assert not report(model, mutate(smaller, flip_one_bit), images()).ok


def test_int8_goes_together_with_rewrites():
    """It stopped at layers that a rewrite had put in the place of others."""
    model = net(
        conv(32, "hyperbolic"),
        batch_norm(),
        tf.keras.layers.Activation("hard_tanh"),
        *flat(lq.layers.QuantDense(64, input_quantizer="ste_sign", kernel_quantizer="hyperbolic")),
        tf.keras.layers.Dense(10),
    )
    tflite = convert(model, int8_images=images(60, seed=5))
    result = report(model, tflite, images())
    assert result.ok, result.faults
    names = [change["name"] for change in result.rewrites]
    assert names == ["drop_activations", "dense_to_conv", "int8"]


# --- metadata -----------------------------------------------------------------------------------


def test_preprocessing_and_labels_travel_in_the_file(tmp_path, converted):
    model, plain = converted
    how = Preprocessing(scale=1 / 255, mean=(0.5,) * 32, std=(0.25,) * 32)
    labels = [f"class {i}" for i in range(10)]
    tflite = convert(model, tmp_path / "net.tflite", preprocessing=how, labels=labels)
    found = metadata.read((tmp_path / "net.tflite").read_bytes())
    assert found.preprocessing == how and found.labels == tuple(labels)
    assert found.made_by.startswith("hbnn_larq ")
    assert metadata.strip(tflite) == metadata.strip(plain), "the network itself does not change"
    np.testing.assert_array_equal(predict(tflite, images()), predict(plain, images()))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 32), np.uint8)
    np.testing.assert_allclose(found.preprocessing(pixels), (pixels / 255 - 0.5) / 0.25, atol=1e-6)


def test_metadata_names_what_is_wrong(converted):
    with pytest.raises(ValueError, match=r"got 2 labels for 10 outputs"):
        convert(converted[0], labels=["a", "b"])
    with pytest.raises(ValueError, match=r"scale and std not 0"):
        Preprocessing(std=0.0)
    message = r"preprocessing has 3 numbers as its mean, and the model takes images of 32 channels"
    with pytest.raises(ValueError, match=message):
        convert(converted[0], preprocessing=Preprocessing(mean=(0.1, 0.2, 0.3)))


def test_labels_come_back_as_they_were(converted):
    odd = ["a\u2028x", "a\x0bx", "a\x85x", " a ", "", "a\x1cx", "\u00e9", "h", "i", "j"]
    for labels in (odd, np.array(odd)):
        assert metadata.read(convert(converted[0], labels=labels)).labels == tuple(odd)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_label_with_a_line_break_is_refused(end):
    with pytest.raises(ValueError, match=r"convert\(m\): the label 'a\\.* holds a line break"):
        metadata.check_labels([f"a{end}x", "b"], 2, "convert(m)")


@pytest.mark.parametrize("cut", [1, 22, 100])
def test_a_record_that_was_cut_off_is_said_to_be(converted, cut):
    """Without it the device would feed raw pixels, and nobody would know why."""
    _, tflite = converted
    assert metadata.read(metadata.strip(tflite)) == metadata.Metadata()
    for use in (metadata.read, metadata.strip, lambda file: report(converted[0], file)):
        with pytest.raises(ValueError, match=r"this .tflite file is damaged.* was cut off"):
            use(tflite[:-cut])


# --- bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 64])
def test_pack_and_unpack_are_inverse(rng, channels):
    signs = rng.choice([-1, 1], (3, 2, channels)).astype(np.int8)
    words = pack_bits(signs)
    assert words.shape == (3, 2, -(-channels // 32)) and words.dtype == np.int32
    np.testing.assert_array_equal(unpack_bits(words, channels), signs)


def test_the_bit_order_is_lces(converted):
    model, tflite = converted
    op = binary_ops(TFLiteFile(metadata.strip(tflite)))[1]
    bits = unpack_bits(op.inputs[1].data, 32)
    expected = hbnn_larq.binary_weights(model)["conv_2"].transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(bits, expected)
