"""Flip counting on kernels whose flips are known, and the first layer that went wrong."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import binary_weights, callbacks, metrics, quantizers


def tiny_model() -> tf.keras.Model:
    return tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(4, 3, input_shape=(6, 6, 1), name="stem"),
            lq.layers.QuantConv2D(
                4, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", name="binary_conv"
            ),
            tf.keras.layers.Flatten(),
            lq.layers.QuantDense(3, kernel_quantizer="ste_sign", name="binary_dense"),
        ]
    )


def negate_first(variable: tf.Variable, count: int) -> None:
    value = variable.latent_variable.numpy()
    value.reshape(-1)[:count] *= -1
    variable.assign(value)


@pytest.fixture
def model():
    tf.keras.utils.set_random_seed(0)
    return tiny_model()


def test_binary_kernels_are_the_one_bit_kernels_only(model):
    assert list(callbacks.binary_kernels(model)) == ["binary_conv", "binary_dense"]


def test_kernels_of_nested_models_with_one_name_stay_apart():
    outer = tf.keras.Sequential([tiny_model(), tf.keras.layers.Reshape((3, 1, 1))])
    inner = lq.layers.QuantConv2D(1, 1, kernel_quantizer="ste_sign", name="binary_conv")
    outer.add(inner)
    assert list(callbacks.binary_kernels(outer)) == ["binary_conv", "binary_dense", "binary_conv_2"]


def test_counter_counts_exactly_the_signs_that_changed(model):
    counter = callbacks.FlipCounter(model)
    before = counter.signs()
    kernels = callbacks.binary_kernels(model)
    negate_first(kernels["binary_conv"], 5)
    negate_first(kernels["binary_dense"], 2)
    flips, now = counter.flips_since(before)
    assert flips == {"binary_conv": 5, "binary_dense": 2}
    assert counter.flips_since(now)[0] == {"binary_conv": 0, "binary_dense": 0}
    assert counter.share(flips) == 7 / sum(counter.sizes.values())


def test_counter_of_a_float_model_is_empty():
    counter = callbacks.FlipCounter(
        tf.keras.Sequential([tf.keras.layers.Dense(2, input_shape=(3,))])
    )
    assert counter.signs() == []
    assert counter.flips_since([]) == ({}, [])
    assert np.isnan(counter.share({}))


class NegateFive(tf.keras.callbacks.Callback):
    """Negates the first five weights of the conv in every step, after the (zero) update."""

    def on_train_batch_end(self, batch, logs=None):
        negate_first(callbacks.binary_kernels(self.model)["binary_conv"], 5)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_monitor_reports_known_flips(model, every):
    model.compile(tf.keras.optimizers.SGD(0.0), "mse")
    monitor = callbacks.FlipMonitor(every=every)
    history = model.fit(
        np.zeros((12, 6, 6, 1)), np.zeros((12, 3)), batch_size=4, epochs=2, verbose=0,
        callbacks=[NegateFive(), monitor],
    )  # fmt: skip
    size = 3 * 3 * 4 * 4
    total = size + 4 * 3 * 2 * 2
    for epoch, row in enumerate(monitor.history):
        assert row["flips_per_step"] == {"binary_conv": pytest.approx(5 / size), "binary_dense": 0}
        # three steps an epoch: negated an odd number of times, then an even number
        assert row["flips_per_epoch"]["binary_conv"] == pytest.approx(5 / size)
        assert row["flips_vs_init"]["binary_conv"] == pytest.approx([5 / size, 0][epoch])
    gain = metrics.information_gain(5 / size)
    assert monitor.history[0]["information_gain"]["binary_conv"] == pytest.approx(gain)
    assert history.history["flips_per_step"] == pytest.approx([5 / total] * 2)
    assert history.history["flips_vs_init"] == pytest.approx([5 / total, 0])
    assert history.history["information_gain"] == pytest.approx([gain / 2, 0])


def test_monitor_counts_a_step_of_every_epoch_however_short(model):
    model.compile(tf.keras.optimizers.SGD(0.0), "mse")
    monitor = callbacks.FlipMonitor(every=10)
    history = model.fit(
        np.zeros((12, 6, 6, 1)), np.zeros((12, 3)), batch_size=4, epochs=5, verbose=0,
        callbacks=[NegateFive(), monitor],
    )  # fmt: skip
    total = 3 * 3 * 4 * 4 + 4 * 3 * 2 * 2
    assert history.history["flips_per_step"] == pytest.approx([5 / total] * 5)


def test_an_epoch_of_which_nothing_was_counted_has_no_figure(model):
    """A generator tells no length before the first epoch ends: nothing says which step is last."""
    model.compile(tf.keras.optimizers.SGD(0.0), "mse")
    batches = tf.data.Dataset.from_tensor_slices((np.zeros((4, 6, 6, 1)), np.zeros((4, 3))))
    batches = batches.batch(4).filter(lambda x, y: True)  # of unknown length
    monitor = callbacks.FlipMonitor(every=10)
    logs = model.fit(batches, epochs=1, verbose=0, callbacks=[monitor]).history
    assert logs["flips_per_step"] == [0.0]  # of the first step
    monitor._step = 1
    monitor.on_epoch_begin(1)
    monitor.on_train_batch_begin(0)
    monitor.on_train_batch_end(0)
    later = {}
    monitor.on_epoch_end(1, later)
    assert np.isnan(later["flips_per_step"]) and later["flips_per_epoch"] == 0.0


def test_monitor_refuses_steps_that_it_cannot_see(model):
    model.compile("sgd", "mse", steps_per_execution=2)
    with pytest.raises(ValueError) as error:
        model.fit(np.zeros((4, 6, 6, 1)), np.zeros((4, 3)), batch_size=1, verbose=0,
                  callbacks=[callbacks.FlipMonitor()])  # fmt: skip
    assert str(error.value) == (
        "FlipMonitor(every=1): the model was compiled with steps_per_execution=2, so weights are "
        "seen after 2 steps, not after one. Compile it with steps_per_execution=1."
    )


def test_monitor_under_a_strategy(on_two_devices):
    """It counts what one device counts: all replicas hold the same weights."""
    out = on_two_devices(
        """
        import larq as lq
        import numpy as np

        import hbnn_larq

        def train(strategy):
            tf.keras.utils.set_random_seed(0)
            with strategy.scope():
                model = tf.keras.Sequential([
                    lq.layers.QuantDense(32, kernel_quantizer="hyperbolic", input_shape=(20,)),
                    tf.keras.layers.Dense(4),
                ])
                model.compile("adam", "mse")
            monitor = hbnn_larq.callbacks.FlipMonitor()
            x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
            logs = model.fit(x, x[:, :4], batch_size=16, epochs=2, shuffle=False, verbose=0,
                             callbacks=[monitor]).history
            return logs["flips_per_step"] + logs["flips_vs_init"]

        one = train(tf.distribute.get_strategy())
        two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        assert min(one) > 0, one
        np.testing.assert_allclose(two, one, rtol=1e-6)
        """
    )
    assert "Error" not in out


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["tf.keras.optimizers.schedules.CosineDecay(0.02, 8)", "0.02"])
def test_asked_flips_are_read_under_a_strategy(on_two_devices, rate):
    """By the monitor in each step, and by the doctor after `fit`."""
    out = on_two_devices(
        f"""
        import larq as lq
        import numpy as np

        import hbnn_larq
        from hbnn_larq import doctor, optimizers

        def train(strategy):
            tf.keras.utils.set_random_seed(0)
            with strategy.scope():
                model = tf.keras.Sequential([
                    lq.layers.QuantDense(32, kernel_quantizer="irnet", input_shape=(20,)),
                    tf.keras.layers.Dense(4),
                ])
                model.compile(optimizers.GeodesicSGD({rate}, others="adam"), "mse")
            x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
            logs = model.fit(x, x[:, :4], batch_size=16, epochs=2, verbose=0,
                             callbacks=[hbnn_larq.callbacks.FlipMonitor()]).history
            found = doctor.examine(model, optimizer=model.optimizer)
            return logs["flips_asked"], [finding.code for finding in found]

        one = train(tf.distribute.get_strategy())
        two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        assert min(one[0]) > 0, one
        np.testing.assert_allclose(two[0], one[0], rtol=1e-6)
        assert one[1] == two[1] == ["float-inputs", "standing-schedule"], (one, two)
        """
    )
    assert "Error" not in out


def test_monitor_leaves_a_float_model_alone():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(3,))])
    model.compile("sgd", "mse")
    history = model.fit(
        np.zeros((4, 3)), np.zeros((4, 1)), verbose=0, callbacks=[callbacks.FlipMonitor()]
    )
    assert set(history.history) == {"loss"}


@pytest.mark.parametrize("bad", [0, -1, 1.5, "1"])
def test_monitor_names_a_bad_interval(bad):
    with pytest.raises(ValueError, match=r"FlipMonitor\(every=.*1 or above"):
        callbacks.FlipMonitor(every=bad)


def test_stop_on_nan_names_the_layer_whose_weights_went_first(model):
    class Poison(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                kernel = callbacks.binary_kernels(self.model)["binary_dense"]
                kernel.assign(np.full(kernel.shape, np.nan))

    model.compile("sgd", "mse")
    with pytest.raises(FloatingPointError, match=r"training step 1 .*layer binary_dense"):
        model.fit(
            np.zeros((12, 6, 6, 1)), np.zeros((12, 3)), batch_size=4, verbose=0,
            callbacks=[Poison(), callbacks.StopOnNaN()],
        )  # fmt: skip


def test_stop_on_nan_says_so_when_the_targets_are_at_fault(model):
    model.compile(tf.keras.optimizers.SGD(1.0), "mse")
    with pytest.raises(FloatingPointError, match=r"step 0 .*all weights, so the forward pass"):
        model.fit(
            np.ones((4, 6, 6, 1)), np.full((4, 3), np.nan), verbose=0,
            callbacks=[callbacks.StopOnNaN()],
        )  # fmt: skip


def test_stop_on_nan_lets_a_healthy_run_finish(model):
    model.compile("sgd", "mse")
    history = model.fit(
        np.zeros((4, 6, 6, 1)), np.zeros((4, 3)), epochs=2, verbose=0,
        callbacks=[callbacks.StopOnNaN()],
    )  # fmt: skip
    assert len(history.history["loss"]) == 2


def test_first_non_finite_looks_at_weights_inputs_and_outputs(model):
    images = np.ones((2, 6, 6, 1), "float32")
    assert callbacks.first_non_finite(model, images) is None
    assert callbacks.first_non_finite(model, images * np.inf) == "inputs"
    stem = model.get_layer("stem")
    stem.kernel.assign(tf.fill(stem.kernel.shape, 3e38))
    assert callbacks.first_non_finite(model) is None
    assert callbacks.first_non_finite(model, 1e3 * images) == "output of layer stem"
    stem.bias.assign([0, 0, np.nan, 0])
    assert callbacks.first_non_finite(model) == "weights of layer stem (stem/bias:0)"


def test_first_non_finite_puts_the_moving_statistics_back():
    model = tf.keras.Sequential(
        [tf.keras.layers.BatchNormalization(input_shape=(3,)), tf.keras.layers.Dense(1)]
    )
    before = model.get_weights()
    callbacks.first_non_finite(model, np.ones((4, 3), "float32"))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_monitor_takes_whole_numbers_of_numpy_and_no_booleans():
    assert type(callbacks.FlipMonitor(every=np.int64(2)).every) is int
    with pytest.raises(ValueError) as error:
        callbacks.FlipMonitor(every=True)
    assert str(error.value) == "FlipMonitor(every=True): a whole number, 1 or above."


def watched_run(built: bool, every: int):
    """Two epochs of five steps of a model that has its input shape, or gets it with a batch."""
    shape = {"input_shape": (6,)} if built else {}
    start = tf.keras.initializers.RandomUniform(-0.05, 0.05, seed=3)
    model = tf.keras.Sequential(
        [lq.layers.QuantDense(40, kernel_quantizer="ste_sign", kernel_initializer=start, **shape)]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)).astype("f"), rng.normal(size=(20, 40)).astype("f")
    model.compile("adam", "mse")
    monitor = callbacks.FlipMonitor(every=every)
    watch = [monitor, callbacks.StopOnNaN()]
    logs = model.fit(x, y, 4, epochs=2, shuffle=False, verbose=0, callbacks=watch).history
    return logs, monitor.history


@pytest.mark.parametrize("every", [1, 2])
def test_a_model_that_its_first_batch_builds_is_watched_from_there(every):
    (logs, rows), (late_logs, late_rows) = watched_run(True, every), watched_run(False, every)
    assert logs.keys() == late_logs.keys() and "flips_per_step" in logs
    np.testing.assert_allclose(late_logs["loss"], logs["loss"], rtol=1e-5)
    for what in ("flips_per_step", "flips_per_epoch"):  # of the second epoch, which is whole
        assert list(late_rows[1][what].values()) == list(rows[1][what].values())
    assert len(late_rows) == 2 and late_logs["flips_vs_init"][0] > 0


def test_a_model_that_its_first_batch_builds_is_stopped_too():
    model = tf.keras.Sequential([tf.keras.layers.Dense(3, name="late")])
    model.compile(tf.keras.optimizers.SGD(float("inf")), "mse")
    with pytest.raises(FloatingPointError, match=r"step 0 .* not finite: all weights"):
        model.fit(np.ones((4, 2)), np.ones((4, 3)), verbose=0, callbacks=[callbacks.StopOnNaN()])


@pytest.mark.parametrize("granularity", ["filter", "layer"])
@pytest.mark.parametrize(
    "make",
    [quantizers.Hyperbolic, quantizers.HyperbolicBoundary, quantizers.EPC],
    ids=lambda make: make.__name__,
)
def test_what_base_points_do_is_told_in_signs(make, granularity):
    layer = lq.layers.QuantDense(4, kernel_quantizer=make(r=1.0, granularity=granularity))
    model = tf.keras.Sequential([tf.keras.Input((6,)), layer, tf.keras.layers.Dense(2)])
    assert callbacks.base_point_flips(model) == {layer.name: 0.0}
    latent = np.where(np.arange(24).reshape(6, 4) % 3, 0.1, -0.1)
    layer.kernel.assign(latent)
    (point, *_) = layer.kernel_quantizer.base_points
    moved = np.zeros((6, 4))
    moved[0, 1:] = [-0.5, 0.5, 0.5]  # stronger than the weights there, which are 0.1, 0.1 and -0.1
    point.assign(moved)
    before = [v.numpy() for v in layer.trainable_weights]
    signs = binary_weights(model)[layer.name]
    changed = np.argwhere(signs != np.sign(latent)).tolist()
    assert changed == [[0, 1], [0, 3]]
    assert callbacks.base_point_flips(model) == {layer.name: pytest.approx(2 / 24)}
    for old, now in zip(before, layer.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, now.numpy())


def test_base_points_of_a_model_without_them():
    assert callbacks.base_point_flips(tf.keras.Sequential([tf.keras.layers.Dense(2)])) == {}
