"""Laws of the kernel quantizers, inside every Larq layer and through every way to keep a model."""

import json
import logging
import subprocess
import sys

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import optimizers, poincare
from hbnn_larq.quantizers import EPC, Hyperbolic, HyperbolicBoundary

KINDS = {"hyperbolic": Hyperbolic, "hyperbolic_boundary": HyperbolicBoundary, "epc": EPC}


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    """Compiling each small shape would take most of the time; test_span.py compares both paths."""
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


def move_base_points(model, rng, size=0.5):
    """Base points of `sqrt(r) |p| = size` per vector, so that p decides many signs."""
    for variable in model.trainable_weights:
        if optimizers.is_base_point(variable):
            ball = poincare.ball_of(variable)
            p = rng.normal(size=variable.shape)
            norm = np.sqrt(ball.r * np.sum(p * p, ball.axis, keepdims=True))
            variable.assign(p * size / norm)


def small_model(quantizer, **kwargs):
    def block(x, filters):
        x = lq.layers.QuantConv2D(
            filters,
            3,
            input_quantizer="approx_sign",
            kernel_quantizer=quantizer,
            pad_values=1.0,
            padding="same",
            use_bias=False,
            **kwargs,
        )(x)
        return tf.keras.layers.BatchNormalization(momentum=0.9)(x)

    inputs = tf.keras.Input((6, 6, 2))
    x = block(block(inputs, 4), 5)
    x = tf.keras.layers.Dense(3, dtype="float32")(tf.keras.layers.Flatten()(x))
    return tf.keras.Model(inputs, x)


def trained_model(quantizer, rng):
    model = small_model(quantizer)
    model.compile(
        optimizers.MobiusSGD(0.1, 0.9),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = rng.normal(size=(8, 6, 6, 2)).astype("float32")
    model.fit(x, np.arange(8) % 3, batch_size=4, epochs=2, verbose=0)
    move_base_points(model, rng)
    return model, x


# ------------------------------------------------------------------ the map


@pytest.mark.parametrize("granularity", ["filter", "layer"])
def test_signs_of_the_latent_weights_at_zero_base_point(kind, granularity, rng):
    v = rng.normal(size=(3, 3, 4, 6)).astype("float32")
    v[0, 0, 0, :] = 0.0
    out = kind(granularity=granularity)(tf.constant(v)).numpy()
    np.testing.assert_array_equal(out, np.where(v >= 0, 1.0, -1.0))


@pytest.mark.parametrize("granularity", ["filter", "layer"])
def test_base_points_start_as_far_out_as_told(kind, granularity):
    """Every vector at `start / sqrt(r)` from the centre, in its own direction; the signs follow."""
    quantizer = kind(r=0.3, granularity=granularity, start=0.6)
    layer = lq.layers.QuantConv2DTranspose(5, 3, kernel_quantizer=quantizer)
    layer.build((None, 4, 4, 2))
    quantizer = layer.kernel_quantizer
    ball = poincare.ball_of(quantizer.base_points[0])
    points = [p.numpy() for p in quantizer.base_points]
    for p in points:
        norms = np.sqrt(0.3 * np.sum(p * p, ball.axis))
        np.testing.assert_allclose(norms, 0.6, rtol=1e-6)
        assert norms.size == (5 if granularity == "filter" else 1)
    filters = np.moveaxis(np.stack(points), 3, 1).reshape(-1, 18)
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    cosines = (filters @ filters.T)[~np.eye(len(filters), dtype=bool)]
    assert np.abs(cosines).max() < 0.9
    latent = layer.kernel.latent_variable
    expected = np.where(quantizer.image(tf.convert_to_tensor(latent)) >= 0, 1, -1)
    with lq.context.quantized_scope(True):
        np.testing.assert_array_equal(tf.convert_to_tensor(layer.kernel), expected)
    assert np.any(expected != np.where(latent >= 0, 1, -1))


def test_a_start_is_drawn_from_the_seed(kind):
    def points():
        tf.keras.utils.set_random_seed(7)
        layer = lq.layers.QuantDense(4, kernel_quantizer=kind(start=0.5))
        layer.build((None, 9))
        return [p.numpy() for p in layer.kernel_quantizer.base_points]

    np.testing.assert_array_equal(points(), points())


@pytest.mark.parametrize("start", [1, 1.5, -0.1, float("nan"), "0.5", True, None])
def test_a_start_outside_of_the_ball_is_named(kind, start):
    with pytest.raises(ValueError) as error:
        kind(start=start)
    what = "a share of the ball's radius, at least 0 and below 1."
    assert str(error.value) == f"{kind.__name__}(start={start!r}): {what}"


def test_all_zero_kernel_is_all_plus_one(kind):
    np.testing.assert_array_equal(kind()(tf.zeros((2, 2, 3, 4))), 1.0)


@pytest.mark.parametrize("granularity", ["filter", "layer"])
def test_gradient_is_the_map_s_own_unclipped(kind, granularity, rng):
    maps = {Hyperbolic: poincare.expmap, HyperbolicBoundary: poincare.boundary_map}
    axis = (0, 1, 2) if granularity == "filter" else (0, 1, 2, 3)
    quantizer = kind(r=0.3, granularity=granularity)
    v = tf.constant(20 * rng.normal(size=(3, 3, 4, 6)), tf.float32)
    dy = tf.constant(rng.normal(size=v.shape), tf.float32)
    quantizer.build(v.shape)
    points = [tf.constant(0.1 * rng.normal(size=v.shape), tf.float32) for _ in quantizer.weights]
    for variable, value in zip(quantizer.base_points, points, strict=True):
        variable.assign(value)

    with tf.GradientTape() as tape:
        tape.watch(v)
        out = quantizer(v)
    got = tape.gradient(out, [v, *quantizer.trainable_weights], output_gradients=dy)

    with tf.GradientTape() as tape:
        tape.watch([v, *points])
        if kind is EPC:
            w = v
            for p in points:
                w = poincare.expmap(p, w, r=0.3, axis=axis)
        else:
            w = maps[kind](points[0], v, r=0.3, axis=axis)
    expected = tape.gradient(w, [v, *points], output_gradients=dy)
    np.testing.assert_array_equal(out, np.where(w.numpy() >= 0, 1.0, -1.0))
    for a, b in zip(got, expected, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(tf.convert_to_tensor(a), b, atol=1e-6 * scale)


def test_eager_and_graph_agree(kind, rng):
    quantizer = kind()
    v = tf.constant(rng.normal(size=(3, 3, 4, 6)), tf.float32)

    def run():
        with tf.GradientTape() as tape:
            tape.watch(v)
            out = quantizer(v)
        return [out, *tape.gradient(out, [v, *quantizer.trainable_weights], output_gradients=v)]

    for a, b in zip(run(), tf.function(run)(), strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(a), tf.convert_to_tensor(b))


# ------------------------------------------------------------------ layers of Larq

# Layer, input shape, and how to pick the weights of output filter o out of a kernel.
LAYERS = {
    "dense": (lambda q: lq.layers.QuantDense(5, kernel_quantizer=q), (7,)),
    "conv1d": (lambda q: lq.layers.QuantConv1D(5, 3, kernel_quantizer=q), (8, 3)),
    "conv2d": (lambda q: lq.layers.QuantConv2D(5, 3, kernel_quantizer=q), (6, 6, 3)),
    "conv3d": (lambda q: lq.layers.QuantConv3D(5, 2, kernel_quantizer=q), (4, 4, 4, 3)),
    "conv2d_transpose": (
        lambda q: lq.layers.QuantConv2DTranspose(5, 3, kernel_quantizer=q),
        (4, 4, 3),
    ),
    "conv3d_transpose": (
        lambda q: lq.layers.QuantConv3DTranspose(5, 2, kernel_quantizer=q),
        (3, 3, 3, 2),
    ),
    "depthwise": (
        lambda q: lq.layers.QuantDepthwiseConv2D(3, depthwise_quantizer=q, depth_multiplier=2),
        (6, 6, 3),
    ),
    "separable1d": (
        lambda q: lq.layers.QuantSeparableConv1D(
            5, 3, depthwise_quantizer=q, pointwise_quantizer=q
        ),
        (8, 3),
    ),
    "separable2d": (
        lambda q: lq.layers.QuantSeparableConv2D(
            5, 3, depthwise_quantizer=q, pointwise_quantizer=q
        ),
        (6, 6, 3),
    ),
    "local1d": (lambda q: lq.layers.QuantLocallyConnected1D(5, 3, kernel_quantizer=q), (8, 3)),
    "local2d": (
        lambda q: lq.layers.QuantLocallyConnected2D(5, 3, kernel_quantizer=q),
        (5, 5, 2),
    ),
}
FILTER_SHAPES = {  # lengths of the vectors, by name of the weight
    "dense": {"kernel": 7},
    "conv1d": {"kernel": 9},
    "conv2d": {"kernel": 27},
    "conv3d": {"kernel": 24},
    "conv2d_transpose": {"kernel": 27},
    "conv3d_transpose": {"kernel": 16},
    "depthwise": {"depthwise_kernel": 9},
    "separable1d": {"depthwise_kernel": 3, "pointwise_kernel": 3},
    "separable2d": {"depthwise_kernel": 9, "pointwise_kernel": 3},
    "local1d": {"kernel": 9},
    "local2d": {"kernel": 18},
}


@pytest.mark.parametrize("granularity", ["filter", "layer"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_trains_its_base_points(name, granularity, rng, monkeypatch):
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")  # test_span.py compares both paths
    make, shape = LAYERS[name]
    layer = make(Hyperbolic(granularity=granularity))
    x = tf.constant(rng.normal(size=(2, *shape)), tf.float32)
    layer(x)
    points = [w for w in layer.trainable_weights if optimizers.is_base_point(w)]
    assert len(points) == len(FILTER_SHAPES[name])
    for point, (weight, length) in zip(points, FILTER_SHAPES[name].items(), strict=True):
        kernel = getattr(layer, weight)
        assert point.shape == kernel.shape and point.name.endswith(f"{weight}_base_point:0")
        vector = np.prod([kernel.shape[a] for a in poincare.ball_of(point).axis])
        assert vector == (length if granularity == "filter" else np.prod(kernel.shape))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    for point, gradient in zip(points, tape.gradient(loss, points), strict=True):
        assert np.all(np.isfinite(gradient)) and np.any(gradient.numpy() != 0), point.name
    with lq.context.quantized_scope(True):
        for weight in FILTER_SHAPES[name]:
            assert set(np.unique(getattr(layer, weight).numpy())) == {-1.0, 1.0}


def test_a_vector_a_filter(rng):
    """Shrinking one filter changes that filter's gradient alone; a layer is one vector."""
    changed = {}
    for granularity in ("filter", "layer"):
        layer = lq.layers.QuantConv2D(
            4, 3, kernel_quantizer=Hyperbolic(r=1.0, granularity=granularity)
        )
        x = tf.constant(rng.normal(size=(2, 5, 5, 3)), tf.float32)
        layer(x)
        gradients = []
        for factor in (1.0, 0.5):
            kernel = layer.kernel.latent_variable
            kernel.assign(kernel * tf.constant([1.0, 1.0, factor, 1.0]))
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x) * x[:, :3, :3, :1])
            gradients.append(tape.gradient(loss, layer.kernel).numpy())
        differs = np.abs(gradients[0] - gradients[1]).max((0, 1, 2)) > 1e-7
        changed[granularity] = differs.tolist()
    assert changed == {"filter": [False, False, True, False], "layer": [True] * 4}


@pytest.mark.parametrize("kernel", ["hyperbolic", "irnet", "fda"])
@pytest.mark.parametrize(
    "implementation, stored", [(2, "each pixel outside the window too"), (3, "one list of numbers")]
)
def test_local_kernels_that_hold_no_filters_are_refused(implementation, stored, kernel):
    """Numbers outside the window act on nothing, and would be part of each filter's statistics."""
    layer = lq.layers.QuantLocallyConnected2D(
        5, 3, kernel_quantizer=kernel, implementation=implementation
    )
    with pytest.raises(ValueError, match=rf'{stored}.*: use granularity="layer" or impl.*=1'):
        layer(tf.zeros((1, 5, 5, 2)))


# ------------------------------------------------------------------ keeping and loading


def test_config_round_trip(kind):
    quantizer = kind(r=0.7, granularity="layer", start=0.25)
    copy = kind.from_config(quantizer.get_config())
    assert type(copy) is kind
    assert copy.get_config() == quantizer.get_config()
    assert copy.get_config()["r"] == 0.7 and copy.get_config()["granularity"] == "layer"
    assert copy.get_config()["start"] == 0.25


def test_cluster_size_is_kept():
    assert EPC.from_config(EPC(size=5).get_config()).size == 5


@pytest.mark.parametrize("alias", KINDS)
def test_alias(alias):
    assert type(lq.quantizers.get(alias)) is KINDS[alias]


@pytest.mark.parametrize(
    "suffix", [".keras", ".h5", pytest.param("", marks=pytest.mark.slow, id="saved_model")]
)
def test_a_saved_model_is_the_same_model(kind, suffix, tmp_path, rng):
    model, x = trained_model(kind(), rng)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    np.testing.assert_array_equal(loaded(x), model(x))
    assert [optimizers.is_base_point(w) for w in loaded.trainable_weights] == [
        optimizers.is_base_point(w) for w in model.trainable_weights
    ]
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded.fit(x, np.arange(8) % 3, verbose=0)  # and goes on training


def test_checkpoint_clone_and_json(kind, tmp_path, rng):
    model, x = trained_model(kind(), rng)
    model.save_weights(tmp_path / "checkpoint")
    twins = [
        tf.keras.models.clone_model(model),
        tf.keras.models.model_from_json(model.to_json()),
    ]
    for twin in twins:
        assert not np.array_equal(twin(x), model(x))
    twins[0].set_weights(model.get_weights())
    twins[1].load_weights(tmp_path / "checkpoint").assert_existing_objects_matched()
    for twin in twins:
        np.testing.assert_array_equal(twin(x), model(x))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_base_points_of_the_wrong_shape(suffix, tmp_path, rng):
    model, _ = trained_model(EPC(size=2), rng)
    model.save_weights(tmp_path / f"m{'.weights.h5' if suffix == '.keras' else suffix}")
    other = small_model(EPC(size=3))
    with pytest.raises(ValueError, match=r"base points|expects \d+ weight"):
        other.load_weights(tmp_path / f"m{'.weights.h5' if suffix == '.keras' else suffix}")


# ------------------------------------------------------------------ traps that users met


def test_m1_summary_counts_what_is_deployed(rng):
    """Larq's table of the hyperbolic net is that of its plain twin, whatever its base points."""

    def profile(quantizer):
        p = lq.models.ModelProfile(small_model(quantizer))
        return (
            p.weight_count(1),
            p.weight_count(32),
            p.memory,
            p.op_count("mac", 1),
            p.op_count("mac", 32),
            p.fp_equivalent_memory,
        )

    plain = profile("ste_sign")
    assert plain[0] == 9 * (2 * 4 + 4 * 5)
    for alias in KINDS:
        assert profile(alias) == plain


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_m2_saving_binary_weights_changes_no_bit(kind, suffix, tmp_path, rng):
    model, x = trained_model(kind(), rng)
    with lq.context.quantized_scope(True):
        kernels = [w for w in model.get_weights() if w.ndim == 4]
        assert any(set(np.unique(w)) == {-1.0, 1.0} for w in kernels)
        model.save(tmp_path / f"binary{suffix}")
    loaded = tf.keras.models.load_model(tmp_path / f"binary{suffix}")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_m2_quantizing_twice_would_change_bits(kind, rng):
    """The trap that the test above guards: signs of signs, at the same base point, are others."""
    quantizer = kind()
    quantizer.build((3, 3, 16, 16))
    for p in quantizer.base_points:
        p.assign(rng.normal(size=p.shape).astype("float32") * 0.5 / np.sqrt(144 * quantizer.r))
    once = quantizer(tf.constant(rng.normal(size=(3, 3, 16, 16)), tf.float32))
    assert np.any(quantizer(once).numpy() != once.numpy())


def test_m3_one_object_for_several_layers(kind, rng):
    shared = kind(r=0.4)
    model = small_model(shared)
    owners = [
        layer.kernel_quantizer for layer in model.layers if hasattr(layer, "kernel_quantizer")
    ]
    assert owners[0] is shared and owners[1] is not shared
    assert [q.get_config()["r"] for q in owners] == [0.4, 0.4]
    points = [p.ref() for q in owners for p in q.base_points]
    assert len(set(points)) == len(points) == 2 * len(shared.base_points)


def test_m3_two_weights_of_one_layer():
    layer = lq.layers.QuantSeparableConv2D(
        4, 3, depthwise_quantizer=(q := Hyperbolic()), pointwise_quantizer=q
    )
    layer(tf.zeros((1, 5, 5, 2)))
    assert layer.depthwise_quantizer is not layer.pointwise_quantizer


def test_m3_by_force_names_both_owners():
    first = lq.layers.QuantDense(3, kernel_quantizer="hyperbolic", name="first")
    second = lq.layers.QuantDense(3, kernel_quantizer="hyperbolic", name="second")
    second.kernel_quantizer = first.kernel_quantizer
    first(tf.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"of first/kernel and cannot serve second/kernel"):
        second(tf.zeros((1, 2)))


def test_m5_flip_ratio_through_metrics_scope(kind, rng):
    with lq.context.metrics_scope(["flip_ratio"]):
        model = small_model(kind())
    model.compile("sgd", "mse")
    x = rng.normal(size=(4, 6, 6, 2)).astype("float32")
    model(x)
    names = [name for name in model.metrics_names if name.startswith("flip_ratio/")]
    assert len(names) == 2
    quantizer = model.layers[1].kernel_quantizer
    kernel = model.layers[1].kernel.latent_variable
    quantizer.flip_ratio.reset_state()
    model(x)
    signs = np.sign(kernel.numpy())
    kernel.assign(tf.where(tf.range(4) == 0, -kernel, kernel))  # turns one filter of four
    model(x)
    assert np.any(np.sign(kernel.numpy()) != signs)
    assert quantizer.flip_ratio.result().numpy() * (
        quantizer.flip_ratio.count.numpy() - 1
    ) == pytest.approx(0.25)


def test_m6_no_false_warning_of_starved_weights(kind, caplog):
    with caplog.at_level(logging.WARNING, logger="larq.layers_base"):
        small_model(kind())
        assert caplog.text == ""
        small_model("ste_sign")  # the warning is true here, and stays
    assert "starved weights" in caplog.text


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_m7_mixed_precision_reads_every_latent_weight(kind, policy, rng):
    """Latent weights below the smallest float16 keep their signs; the layer computes in half."""
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        layer = lq.layers.QuantConv2D(4, 3, kernel_quantizer=kind(), use_bias=False)
        out = layer(tf.ones((1, 3, 3, 2)))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert out.dtype == policy.removeprefix("mixed_")
    latent = 1e-9 * rng.normal(size=layer.kernel.shape)
    layer.kernel.latent_variable.assign(latent)
    assert layer.kernel.dtype == tf.float32
    assert all(p.dtype == tf.float32 for p in layer.kernel_quantizer.base_points)
    expected = np.sign(latent).sum((0, 1, 2))
    np.testing.assert_array_equal(
        tf.cast(layer(tf.ones((1, 3, 3, 2))), tf.float32)[0, 0, 0], expected
    )


def test_float64_layers_stay_float64(rng):
    layer = lq.layers.QuantDense(3, kernel_quantizer="hyperbolic", dtype="float64")
    assert layer(tf.zeros((1, 4), tf.float64)).dtype == tf.float64
    assert layer.kernel_quantizer.base_points[0].dtype == tf.float64


@pytest.mark.slow
def test_two_devices_train_as_one(on_two_devices):
    printed = on_two_devices(
        """
        import numpy as np, tensorflow as tf, larq as lq, hbnn_larq

        def train(strategy):
            tf.keras.utils.set_random_seed(3)
            with strategy.scope():
                model = tf.keras.Sequential([
                    lq.layers.QuantConv2D(6, 3, kernel_quantizer="epc", input_shape=(6, 6, 2)),
                    tf.keras.layers.Flatten(),
                    tf.keras.layers.Dense(3, kernel_initializer="zeros"),
                ])
                optimizer = hbnn_larq.optimizers.MobiusSGD(
                    0.05, 0.9, latent_decay=0.01, weight_decay=1e-3)
                model.compile(tf.keras.mixed_precision.LossScaleOptimizer(optimizer),
                    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            rng = np.random.default_rng(0)
            x = rng.normal(size=(32, 6, 6, 2)).astype("float32")
            model.fit(x, np.arange(32) % 3, batch_size=8, epochs=3, shuffle=False, verbose=0)
            return model.get_weights()

        one = train(tf.distribute.get_strategy())
        two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        assert len(one) == 6 and np.abs(one[2]).max() > 1e-3, [w.shape for w in one]
        print(max(np.abs(a - b).max() for a, b in zip(one, two)))
        """,
        HBNN_LARQ_XLA="1",
    )
    assert float(printed.split()[-1]) < 1e-5


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("r", [0, -0.05, float("nan"), float("inf"), "0.05", None])
def test_r_that_names_no_ball(kind, r):
    name = kind.__name__
    with pytest.raises(ValueError, match=rf"{name}\(r=.*\): r must be a finite number above 0"):
        kind(r=r)


def test_unknown_granularity(kind):
    with pytest.raises(ValueError, match=r"granularity='channel'\): \"filter\" makes one vector"):
        kind(granularity="channel")


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_cluster_without_points(size):
    with pytest.raises(ValueError, match=r"EPC\(size=.*a whole number, 1 or above"):
        EPC(size=size)


def test_quantizer_of_kernels_in_the_slot_of_inputs(kind):
    with pytest.raises(ValueError, match=r"QuantDense\(input_quantizer=.*cannot quantize its inp"):
        lq.layers.QuantDense(3, input_quantizer=kind())


@pytest.mark.parametrize("dtype", ["int32", "complex64"])
def test_kernels_that_are_no_floats(kind, dtype):
    with pytest.raises(TypeError, match=f"kernel of dtype {dtype}"):
        kind()(tf.cast(tf.ones((3, 4)), dtype))


def test_activations_have_no_fixed_shape(kind):
    with pytest.raises(ValueError, match=r"got a tensor of shape \(None, 4\).*kernel_quantizer"):
        kind()(tf.keras.Input((4,)))


def test_keras_3_is_refused_with_the_way_out():
    script = "import tensorflow as tf; tf.keras.__version__ = '3.3.3'; import hbnn_larq"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1
    assert (
        "found Keras 3.3.3" in run.stderr and 'pip install "tensorflow>=2.15,<2.16"' in run.stderr
    )


def test_unknown_name_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'quantiser'"):
        _ = hbnn_larq.quantiser


def test_clusters_take_numbers_of_numpy():
    config = json.loads(json.dumps(EPC(np.float32(0.5), size=np.int64(3)).get_config()))
    assert (config["r"], config["size"]) == (0.5, 3)
