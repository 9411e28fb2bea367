"""Every rival in the zoo's networks: trained, saved, folded, converted, compared, resumed."""

import json
import shutil

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import doctor, edge, optimizers, rivals, zoo
from hbnn_larq.training import compare, data, run
from hbnn_larq.training.models import build_model
from hbnn_larq.training.recipe import Recipe

KERNELS = [
    "abc_net", "binary_connect", "bireal", "dorefa", "dsq", "fda", "irnet", "md_softmax_s",
    "md_tanh", "md_tanh_s", "rbnn", "recu", "slb", "xnor", "xnor_plus_plus",
]  # fmt: skip
MAPPED = ["irnet", "recu", "rbnn", "xnor"]
NETS = {
    "VGGSmall": {"width": 1 / 16},
    "ResNet18": {"width": 1 / 16},
    "ResNet20": {"width": 1 / 2},
    "ResNet34": {"width": 1 / 16, "stem": "imagenet"},
    "BiRealNet18": {"width": 1 / 16, "stem": "imagenet"},
    "BiRealNet34": {"width": 1 / 16, "stem": "imagenet"},
}
SLOWER = ("ResNet18", "ResNet20", "ResNet34", "BiRealNet34")  # as all rivals in every network


pytestmark = pytest.mark.usefixtures("many_networks")


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    """Compiling each small shape would take most of the time; test_span.py compares both paths."""
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


def network(net, kernel, inputs="approx_sign"):
    size = 32 if net == "VGGSmall" else 16
    return getattr(zoo, net)(
        input_shape=(size, size, 3), num_classes=4, kernel_quantizer=kernel,
        input_quantizer=inputs, **NETS[net],
    )  # fmt: skip


def one_step(model, rng):
    model.compile(
        optimizers.MobiusSGD(0.05, 0.9),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = rng.normal(size=(4, *model.input_shape[1:])).astype("float32")
    history = model.fit(
        x, np.arange(4), epochs=1, verbose=0, callbacks=[rivals.TrainingProgress(2)]
    )
    assert np.isfinite(history.history["loss"][0])
    return x


def goes_through_everything(model, path, rng):
    x = one_step(model, rng)
    model.save(path)
    np.testing.assert_array_equal(tf.keras.models.load_model(path)(x), model(x))
    folded = hbnn_larq.fold(model)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-5, atol=1e-5)
    held = {
        type(q).__module__.partition(".")[0]
        for layer in folded.layers
        for name in ("kernel_quantizer", "input_quantizer")
        if (q := getattr(layer, name, None)) is not None
    }
    for name, bits in hbnn_larq.binary_weights(folded).items():
        np.testing.assert_array_equal(bits, hbnn_larq.binary_weights(model)[name])
    return held


# Those that keep variables, those whose scale is learned, and one that is but a function: all of
# them are among the slow.
@pytest.mark.parametrize("kernel", ["rbnn", "recu", "slb", "xnor_plus_plus", "dorefa"])
def test_a_rival_in_a_network(kernel, tmp_path, rng):
    assert goes_through_everything(network("VGGSmall", kernel), tmp_path / "m.keras", rng) == {
        "larq"
    }


@pytest.mark.parametrize(
    "net",
    [pytest.param(net, marks=pytest.mark.slow) if net in SLOWER else net for net in list(NETS)[1:]],
)
def test_a_rival_in_every_network(net, tmp_path, rng):
    kernel = dict(zip(NETS, ["", "irnet", "recu", "xnor_plus_plus", "md_tanh_s", "dsq"]))[net]  # noqa: B905
    goes_through_everything(network(net, kernel, "ede_sign"), tmp_path / "m.keras", rng)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [*KERNELS, *(f"{host}+hyperbolic" for host in MAPPED)])
@pytest.mark.parametrize("net", [n for n in NETS if "34" not in n])  # deeper, of the same blocks
def test_every_rival_in_every_network(net, kernel, tmp_path, rng):
    host, plus, _ = kernel.partition("+")
    model = network(net, rivals.Mapped("hyperbolic", host) if plus else kernel)
    goes_through_everything(model, tmp_path / "m.keras", rng)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["ede_sign", "fourier_sign", "rbnn_sign", "recu_sign"])
def test_every_activation_in_a_network(inputs, tmp_path, rng):
    held = goes_through_everything(network("ResNet20", "ste_sign", inputs), tmp_path / "m.h5", rng)
    # RBNN's takes a mean at inference, which no quantizer of Larq does.
    assert held == ({"larq", "hbnn_larq"} if inputs == "rbnn_sign" else {"larq"})


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_distribution_loss_in_a_network(net, rng):
    model = network(net, "ste_sign")
    signs = [i for i, la in enumerate(model.layers) if getattr(la, "input_quantizer", None)]
    before = model.layers[: signs[-1]]
    assert rivals.add_distribution_loss(model) == [
        layer.name for layer in before if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]
    one_step(model, rng)
    assert hbnn_larq.fold(model).losses == []


# ------------------------------------------------------------------ to the device


def small_net(kernel, inputs="approx_sign"):
    image = x = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
    for filters in (32, 32):
        x = tf.keras.layers.BatchNormalization(momentum=0.9)(x)
        x = lq.layers.QuantConv2D(
            filters, 3, input_quantizer=inputs, kernel_quantizer=kernel, pad_values=1.0,
            padding="same", use_bias=False,
        )(x)  # fmt: skip
    x = tf.keras.layers.BatchNormalization(momentum=0.9)(x)
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(image, tf.keras.layers.Dense(4)(x))


def converts(kernel, inputs, rng, net=None):
    pytest.importorskip("larq_compute_engine")
    model = network(net, kernel, inputs) if net else small_net(kernel, inputs)
    one_step(model, rng)
    x = rng.normal(size=(8, *model.input_shape[1:])).astype("float32")
    tflite = edge.convert(model)
    report = edge.report(model, tflite, x)
    assert report.ok, str(report)
    np.testing.assert_allclose(edge.predict(tflite, x), model(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", ["recu", "irnet", "rbnn", "xnor_plus_plus", "dsq", "md_tanh_s"])
def test_converts_to_binary_ops(kernel, rng):
    converts(kernel, "approx_sign", rng)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_converts_to_binary_ops(kernel, rng):
    converts(kernel, "approx_sign", rng)


@pytest.mark.slow
@pytest.mark.parametrize(
    "net, kernel, inputs",
    [
        ("VGGSmall", "md_softmax_s", "approx_sign"),
        ("VGGSmall", ("epc", "irnet"), "ede_sign"),
        ("ResNet18", "rbnn", "rbnn_sign"),
        ("ResNet20", "fda", "fourier_sign"),
        ("ResNet34", "slb", "approx_sign"),
        ("ResNet34", ("hyperbolic", "rbnn"), "rbnn_sign"),
        ("BiRealNet18", "xnor_plus_plus", "ste_sign"),
        ("BiRealNet18", ("hyperbolic_boundary", "recu"), "recu_sign"),
        ("BiRealNet34", "dsq", "approx_sign"),
    ],
)
def test_rivals_of_every_network_convert(net, kernel, inputs, rng):
    converts(rivals.Mapped(*kernel) if isinstance(kernel, tuple) else kernel, inputs, rng, net)


@pytest.mark.parametrize("inputs", ["ede_sign", "recu_sign", "rbnn_sign"])
def test_activations_convert_to_binary_ops(inputs, rng):
    converts("irnet", inputs, rng)


def test_a_mapped_host_converts(rng):
    converts(rivals.Mapped("hyperbolic", "recu"), "recu_sign", rng)


def test_a_rank_one_scale_is_refused_before_the_converter_crashes(rng):
    pytest.importorskip("larq_compute_engine")
    image = tf.keras.Input((8, 8, 32))
    x = lq.layers.QuantConv2D(
        32, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", use_bias=False
    )(image)
    scale = rivals.RankOneScale()
    model = tf.keras.Model(image, scale(x))
    scale.set_weights([rng.random(n).astype("float32") for n in (6, 6, 32)])
    with pytest.raises(ValueError, match=r"multiplied by a constant of shape \(6, 6, 32\)"):
        edge.convert(model)


def test_real_activations_are_named_as_the_reason(rng):
    """The 1/32 rows (BinaryConnect, mirror descent) are training results only."""
    pytest.importorskip("larq_compute_engine")
    model = small_net("binary_connect", None)
    assert {"float-inputs"} <= {finding.code for finding in doctor.examine(model)}
    report = edge.report(model, edge.convert(model), rng.normal(size=(4, 8, 8, 3)))
    assert not report.ok
    assert "its inputs are float, and LCE has no op for 1-bit weights" in report.to_markdown()


# ------------------------------------------------------------------ recipes


def tiny_recipe(**changes):
    recipe = Recipe(
        name="tiny", source="a test", dataset="tiny", model="vgg_small", width=1 / 32,
        epochs=3, batch_size=10, latent_decay=0.05,
    )  # fmt: skip
    return recipe.changed(**changes)


def tiny_data():
    return data.generated((8, 8, 1), 3, train=30, validation=9, test=9, difficulty=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["rbnn", "slb"])
def test_a_stopped_run_resumes_exactly(kernel, tmp_path):
    """Stopped within an epoch and at the end of one: the weights of the unbroken run."""
    recipe, dataset = tiny_recipe(kernel_quantizer=kernel, input_quantizer="ede_sign"), tiny_data()
    whole = run.fit(
        recipe, tmp_path / "whole", dataset=dataset, say=lambda _: None, checkpoint_every=1, keep=99
    )
    kept = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    assert len(kept) >= 9
    expected = tf.keras.models.load_model(tmp_path / "whole" / "model.keras").get_weights()
    for steps in (3, 4):  # an epoch has 3 steps
        folder = tmp_path / f"from_{steps}"
        (folder / "checkpoints").mkdir(parents=True)
        shutil.copy(tmp_path / "whole" / "recipe.json", folder)
        for path in kept:
            if int("".join(c for c in path.stem if c.isdigit())) <= steps:
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, folder / "checkpoints" / path.name)
        said = []
        again = run.fit(recipe, folder, dataset=dataset, say=said.append)
        assert f"resumed from step {steps} of 9" in "".join(said)
        got = tf.keras.models.load_model(folder / "model.keras").get_weights()
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        assert again["accuracy"] == whole["accuracy"]


def test_a_run_moves_the_clock(tmp_path):
    recipe = tiny_recipe(kernel_quantizer="irnet", input_quantizer="ede_sign")
    run.fit(recipe, tmp_path / "run", dataset=tiny_data(), say=lambda _: None)
    model = tf.keras.models.load_model(tmp_path / "run" / "model.keras")
    clocks = {round(float(q.progress), 6) for q in rivals.scheduled_quantizers(model)}
    assert clocks == {round(2 / 3, 6)}  # of the last epoch's start


def test_a_map_in_front_takes_the_recipe_s_radius():
    recipe = compare.method(tiny_recipe(), "irnet+hyperbolic:r=0.7:granularity=layer")
    model = build_model(recipe, (8, 8, 1), 3)
    found = [q for layer in model.layers if (q := getattr(layer, "kernel_quantizer", None))]
    assert len(found) == 5 and {type(q) for q in found} == {rivals.Mapped}
    assert {(q.map.r, q.map.granularity, type(q.host)) for q in found} == {
        (0.7, "layer", rivals.IRNet)
    }


@pytest.mark.slow
def test_compare_takes_rivals_by_alias(tmp_path):
    methods = ["ste_sign", "irnet:input_quantizer=ede_sign", "recu+epc:epc_size=3"]
    outcome = compare.compare(
        tiny_recipe(epochs="1"), methods, tmp_path, seeds=1, dataset=tiny_data(),
        say=lambda _: None,
    )  # fmt: skip
    assert [row["method"] for row in outcome["methods"]] == methods
    recipes = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("recipe.json"))]
    assert {(r["kernel_quantizer"], r["input_quantizer"]) for r in recipes} == {
        ("ste_sign", "approx_sign"), ("irnet", "ede_sign"), ("recu+epc", "approx_sign")
    }  # fmt: skip


def test_an_unknown_method_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"'irnett'.*there is no such quantizer"):
        compare.compare(
            tiny_recipe(epochs="1"), ["irnett", "ste_sign"], tmp_path, seeds=1,
            dataset=tiny_data(), say=lambda _: None,
        )  # fmt: skip


# Every image stands twice in a batch, so each of two devices gets the same half: the weights must
# agree with those of one device, float error aside. The clock moves in between.
EQUAL = """
import numpy as np
import larq as lq
from hbnn_larq import rivals
from hbnn_larq.training import steps, strategies

rng = np.random.default_rng(0)
images = np.repeat(rng.normal(size=(6, 6, 6, 2)), 2, axis=0).astype("float32")
labels = np.repeat(np.arange(6) % 3, 2)

def train(strategy, kernel):
    tf.keras.utils.set_random_seed(0)
    with strategy.scope():
        model = tf.keras.Sequential([
            lq.layers.QuantConv2D(
                8, 3, input_quantizer="ede_sign", kernel_quantizer=kernel, use_bias=False,
                input_shape=(6, 6, 2),
            ),
            tf.keras.layers.BatchNormalization(momentum=0.9),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(3),
        ])
        optimizer = tf.keras.optimizers.SGD(0.05, 0.9)
        optimizer.build(model.trainable_variables)
    step = steps.TrainStep(model, optimizer, num_classes=3, strategy=strategy)
    for epoch in range(4):
        rivals.begin_epoch(model, epoch, 8)
        assert step(tf.constant(images), tf.constant(labels)).finite
    clocks = {float(q.progress.read_value()) for q in rivals.scheduled_quantizers(model)}
    assert clocks == {0.375}, clocks
    return [v.read_value().numpy() for v in model.variables if v.trainable]

mirrored = strategies.make_strategy("mirrored")  # once: collectives are numbered by process
mapped = lambda: rivals.Mapped("hyperbolic", "recu")
for make in (lambda: "irnet", lambda: "recu", lambda: "rbnn", lambda: "slb", mapped):
    one = train(tf.distribute.get_strategy(), make())
    two = train(mirrored, make())
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
"""


@pytest.mark.slow
def test_two_devices_take_the_steps_of_one(on_two_devices):
    on_two_devices(EQUAL)
