"""Every network of the zoo, in every form: it trains, survives a file, folds, and converts."""

import importlib.util
import itertools
import json
import pathlib

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import zoo
from hbnn_larq.optimizers import MobiusSGD, is_base_point, is_latent
from hbnn_larq.summary import summarize

CIFAR = {"input_shape": (16, 16, 1), "width": 1 / 16}
IMAGENET = {"input_shape": (32, 32, 3), "width": 1 / 16, "stem": "imagenet", "num_classes": 20}
FORMS = {
    "VGGSmall": ("VGGSmall", {**CIFAR, "width": 1 / 32}),
    "VGGSmall, pool behind": ("VGGSmall", {**CIFAR, "pool_before_bn": False}),
    "ResNet18": ("ResNet18", CIFAR),
    "ResNet18, real_conv": ("ResNet18", {**CIFAR, "shortcut": "real_conv"}),
    "ResNet18, binary_conv": ("ResNet18", {**CIFAR, "shortcut": "binary_conv"}),
    "ResNet18, imagenet": ("ResNet18", IMAGENET),
    "ResNet20": ("ResNet20", {**CIFAR, "width": 0.25}),
    "ResNet20, subsample_pad": ("ResNet20", {**CIFAR, "shortcut": "subsample_pad", "width": 0.25}),
    "ResNet34": ("ResNet34", IMAGENET),
    "BiRealNet18": ("BiRealNet18", CIFAR),
    "BiRealNet34, imagenet": ("BiRealNet34", IMAGENET),
}
QUICK = ("VGGSmall", "ResNet18")
QUANTIZERS = {
    "hyperbolic": {},
    "boundary": {"kernel_quantizer": "hyperbolic_boundary"},
    "epc": {"kernel_quantizer": "epc"},
    "ste_sign": {"kernel_quantizer": "ste_sign"},
    "1/32": {"input_quantizer": None},
    "twin": {"kernel_quantizer": None, "input_quantizer": None},
}


pytestmark = pytest.mark.usefixtures("many_networks")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def forms(quick=QUICK):
    return [form if form in quick else slow(form) for form in FORMS]


def forms_and_quantizers():
    """Two networks with every quantizer, the others with those that change the network itself."""
    pairs = []
    for form, quantizer in itertools.product(FORMS, QUANTIZERS):
        if form not in QUICK and quantizer not in ("hyperbolic", "1/32", "twin"):
            continue
        quick = form == "VGGSmall" and quantizer in ("hyperbolic", "ste_sign", "1/32", "twin")
        pairs.append((form, quantizer) if quick else slow(form, quantizer))
    return pairs


def build(form, quantizer="hyperbolic", **more):
    name, arguments = FORMS[form]
    return getattr(zoo, name)(**{**arguments, **QUANTIZERS[quantizer], **more})


def shaken(model, rng):
    """As after training: base points, statistics and offsets are not at their start."""
    for layer in model.layers:
        for variable in layer.weights:
            if is_base_point(variable):
                variable.assign(rng.normal(size=variable.shape) * 0.05)
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    return model


def batch(model, rng, size=8):
    images = rng.normal(size=(size, *model.input_shape[1:])).astype("float32")
    return images, rng.integers(0, model.output_shape[-1], size)


def binary_convs(model):
    return [layer for layer in model.layers if isinstance(layer, lq.layers.QuantConv2D)]


@pytest.mark.parametrize("form, quantizer", forms_and_quantizers())
def test_one_training_step_moves_every_weight(form, quantizer, rng):
    # At 1e-8 the gradient behind a scale is below the last place of the weight; see below.
    start = {"gamma_init": 1.0} if FORMS[form][1].get("stem") == "imagenet" else {}
    model = build(form, quantizer, **start)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(MobiusSGD(0.1, momentum=0.9), loss)
    before = [variable.numpy() for variable in latent_variables(model)]
    first = model.train_on_batch(*batch(model, rng))
    assert np.isfinite(first)
    model.train_on_batch(*batch(model, rng))  # base points start at 0, some gradients with them
    for old, variable in zip(before, latent_variables(model), strict=True):
        assert np.all(np.isfinite(variable.numpy()))
        assert np.any(old != variable.numpy()), variable.name


@pytest.mark.slow
def test_scales_that_start_at_almost_nothing_grow_from_the_last_stage_on(rng):
    model = build("ResNet18, imagenet")
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(MobiusSGD(0.1, momentum=0.9), loss)
    images, labels = batch(model, rng)
    for _ in range(12):
        model.train_on_batch(images, labels)
    scales = {v.name: np.abs(v).max() for v in model.trainable_variables if "gamma" in v.name}
    assert len(scales) == 21
    assert min(scales.values()) > 1e-4, scales


def latent_variables(model):
    return [getattr(v, "latent_variable", v) for v in model.trainable_variables]


@pytest.mark.parametrize("format", ["model.keras", "model.h5"])
@pytest.mark.parametrize("form, quantizer", forms_and_quantizers())
def test_saved_and_loaded_it_is_the_same_network(form, quantizer, format, rng, tmp_path):
    model = shaken(build(form, quantizer), rng)
    model.save(tmp_path / format)
    loaded = tf.keras.models.load_model(tmp_path / format, compile=False)
    images, _ = batch(model, rng)
    np.testing.assert_array_equal(loaded(images), model(images))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    assert sum(map(is_latent, loaded.variables)) == sum(map(is_latent, model.variables))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_saved_model_is_the_same_network(form, rng, tmp_path):
    test_saved_and_loaded_it_is_the_same_network(form, "hyperbolic", "saved_model", rng, tmp_path)


@pytest.mark.parametrize("form, quantizer", forms_and_quantizers())
def test_folded_it_gives_equal_logits(form, quantizer, rng):
    model = shaken(build(form, quantizer), rng)
    folded = hbnn_larq.fold(model)
    images, _ = batch(model, rng, 32)
    np.testing.assert_array_equal(folded(images), model(images))
    assert not any(map(is_base_point, folded.variables))
    if QUANTIZERS[quantizer].get("kernel_quantizer", "") is not None:
        assert {type(layer.kernel_quantizer).__name__ for layer in binary_convs(folded)} == {
            "SteSign"
        }


@pytest.mark.parametrize("form", forms(quick=("ResNet18",)))
def test_converted_every_binary_convolution_is_binary(form, rng):
    pytest.importorskip("larq_compute_engine")
    from hbnn_larq.edge.flatbuffer import BINARY_CONV, TFLiteFile

    model = shaken(build(form), rng)
    content = hbnn_larq.edge.convert(model)
    operations = [op.name for op in TFLiteFile(content).ops]
    real = [x for x in model.layers if type(x) is tf.keras.layers.Conv2D]
    assert operations.count(BINARY_CONV) == len(binary_convs(model))
    assert operations.count("CONV_2D") == len(real)
    images, _ = batch(model, rng, 16)
    want, got = model(images).numpy(), hbnn_larq.edge.predict(content, images)
    assert np.mean(np.argmax(want, 1) == np.argmax(got, 1)) >= 15 / 16


# The sizes in docs/zoo.md


PATH = pathlib.Path(__file__).parents[1] / "docs" / "make_zoo.py"
SPEC = importlib.util.spec_from_file_location("make_zoo", PATH)
make_zoo = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_zoo)
RECORDED = json.loads(make_zoo.FILES.read_text())


def test_page_is_what_the_models_say():
    assert make_zoo.page() == make_zoo.PAGE.read_text(), "run: python docs/make_zoo.py"


def test_recorded_files_are_really_binary():
    assert list(RECORDED) == list(make_zoo.models())
    for label, model in make_zoo.models().items():
        file, held = RECORDED[label], summarize(model).bytes
        assert file["operations"]["LceBconv2d"] == len(binary_convs(model))
        # Besides its weights a file holds the graph, and it may hold thresholds for scales.
        graph = 400 * sum(file["operations"].values())
        assert -0.01 * held < file["bytes"] - held < graph


@pytest.mark.slow
@pytest.mark.parametrize("label", make_zoo.ROWS)
def test_converted_files_have_the_recorded_size_and_operations(label):
    pytest.importorskip("larq_compute_engine")
    measured = make_zoo.measure(make_zoo.models()[label])
    assert measured["operations"] == RECORDED[label]["operations"]
    assert measured["bytes"] == pytest.approx(RECORDED[label]["bytes"], rel=0.002)
