"""larq-zoo's own networks, as built, in what this library offers for any Larq model."""

import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import callbacks, doctor, optimizers
from hbnn_larq.edge import convert, report

larq_zoo = pytest.importorskip("larq_zoo")
pytest.importorskip("larq_compute_engine")

# On 64x64 pixels the last stage of all of these sees 2x2; all but QuickNet pad with zeros, and on
# images that small LCE sums zeros wrong.
NETS = {
    "QuickNetSmall": larq_zoo.sota.QuickNetSmall,
    "BiRealNet": larq_zoo.literature.BiRealNet,
    "BinaryDenseNet28": larq_zoo.literature.BinaryDenseNet28,
    "BinaryResNetE18": larq_zoo.literature.BinaryResNetE18,
    "MeliusNet22": larq_zoo.literature.MeliusNet22,
    "RealToBinaryNet": larq_zoo.literature.RealToBinaryNet,
}


def build(name):
    tf.keras.utils.set_random_seed(0)
    return NETS[name](input_shape=(64, 64, 3), num_classes=10, weights=None)


@pytest.fixture
def images(rng):
    return rng.normal(size=(8, 64, 64, 3)).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_trained_by_asked_flips_and_converted(name, images):
    model = build(name)
    model.compile(optimizers.default(steps=4), tf.keras.losses.SparseCategoricalCrossentropy())
    monitor = callbacks.FlipMonitor()
    before = hbnn_larq.binary_weights(model)
    history = model.fit(
        images, np.arange(8), batch_size=4, epochs=2, verbose=0, callbacks=[monitor]
    ).history
    assert np.all(np.isfinite(history["loss"]))
    # Flips in the last epoch, as many as were asked for; a step turns rows that have a gradient.
    assert 0.7 < history["flips_per_step"][-1] / history["flips_asked"][-1] < 1.1
    after = hbnn_larq.binary_weights(model)
    assert all(np.any(before[layer] != after[layer]) for layer in after)
    result = report(model, convert(model), images)
    assert result.ok, result.faults
    assert result.binary_placed == result.binary_asked == len(after)


@pytest.mark.slow
def test_the_doctor_reads_them(images):
    assert doctor.examine(build("QuickNetSmall"), images=images) == []
    findings = doctor.examine(build("BiRealNet"), images=images)
    padded = [finding for finding in findings if finding.code == "pad-values"]
    assert len(padded) == 16
    assert sum("LCE sums them wrong" in finding.message for finding in padded) == 3
