"""CMIM: its loss against numpy, what a step leaves alone, and a student that stays a plain net."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import optimizers, rivals, zoo

IMAGES = 12


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


def net(kernel=None, filters=4, regularizer=None, size=6):
    inputs = "approx_sign" if kernel else None
    pixels = tf.keras.Input((size, size, 2))
    x = tf.keras.layers.Conv2D(filters, 3, kernel_regularizer=regularizer)(pixels)
    x = tf.keras.layers.BatchNormalization(momentum=0.9)(x)
    x = lq.layers.QuantConv2D(filters, 3, input_quantizer=inputs, kernel_quantizer=kernel)(x)
    x = tf.keras.layers.BatchNormalization(momentum=0.9)(x)
    x = tf.keras.layers.Dense(3)(tf.keras.layers.Flatten()(x))
    return tf.keras.Model(pixels, tf.keras.layers.Activation("linear")(x))


def content(rng, images=IMAGES):
    return rng.normal(size=(images, 6, 6, 2)).astype("float32"), np.arange(images) % 3


def taught(kernel="irnet", optimizer=None, **settings):
    tf.keras.utils.set_random_seed(3)
    teacher, student = net(filters=5), net(kernel)
    model = rivals.CMIM(student, teacher, IMAGES, size=7, **settings)
    model.compile(
        optimizer or tf.keras.optimizers.Adam(0.01),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ["accuracy"],
    )
    return model, teacher


def batches(x, y, size=4):
    return tf.data.Dataset.from_tensor_slices(((x, np.arange(len(x))), y)).batch(size)


def unit(z):
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def test_the_loss_is_that_of_the_paper():
    found = rivals.contrastive_loss(tf.constant([0.2, 0.1]), tf.constant([[0.1], [0.3]]), 4)
    noise = 1 / 4
    expected = -np.mean(
        np.log([0.2 / (0.2 + noise), 0.1 / (0.1 + noise)])
        + np.log([noise / (0.1 + noise), noise / (0.3 + noise)])
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isfinite(rivals.contrastive_loss(tf.constant([0.0]), tf.constant([[0.1]]), 4))


def test_two_steps_against_numpy(rng):
    model, teacher = taught(weight=0.7, temperature=0.2, negatives=IMAGES, memory=0.25)
    x, _ = content(rng)
    (of_student, of_teacher), partition = model._banks, None
    features = {
        whose: tf.keras.Model(whole.input, whole.layers[-2].input)
        for whose, whole in (("student", model.student), ("teacher", teacher))
    }
    for index in ([3, 0, 7], [3, 8, 1]):
        banks = of_student.numpy(), of_teacher.numpy()
        heads = [(h.kernel.numpy(), h.bias.numpy()) for h in model._heads]
        seen = features["student"](x[index], training=True).numpy()
        known = features["teacher"](x[index], training=False).numpy()
        zs = [unit(f @ k + b) for f, (k, b) in zip((seen, known), heads, strict=True)]
        model((x[index], np.array(index)), training=True)
        (found,) = model.losses

        critics = [np.exp(z @ bank.T / 0.2) for z, bank in zip(zs, banks[::-1], strict=True)]
        if partition is None:  # every image is there, once, so the mean is over all of them
            partition = [critic.mean() * IMAGES for critic in critics]
        noise, expected = (IMAGES - 1) / IMAGES, 0.0
        for critic, total in zip(critics, partition, strict=True):
            h = critic / total
            own = np.eye(IMAGES, dtype=bool)[index]
            expected -= np.log(h[own] / (h[own] + noise)).sum() / 3
            expected -= np.log(noise / (h[~own] + noise)).sum() / 3
        np.testing.assert_allclose(found, 0.7 * expected, rtol=1e-5)

        for bank, before, z in zip((of_student, of_teacher), banks, zs, strict=True):
            rest = [i for i in range(IMAGES) if i not in index]
            np.testing.assert_array_equal(bank.numpy()[rest], before[rest])
            mixed = unit(0.25 * before[index] + 0.75 * z)
            np.testing.assert_allclose(bank.numpy()[index], mixed, atol=1e-5)


def test_the_teacher_teaches_and_stays(rng):
    model, teacher = taught()
    x, y = content(rng)
    before = [v.numpy() for v in teacher.variables]
    with tf.GradientTape() as tape:
        model((x, np.arange(IMAGES)), training=True)
        (loss,) = model.losses
    latents = model.student.layers[3].kernel
    assert np.abs(tape.gradient(loss, latents)).max() > 0  # through the features, not the logits
    model.fit(batches(x, y), epochs=2, verbose=0)
    for old, new in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    mine = {id(v) for v in model.variables}
    assert not any(id(v) in mine for v in teacher.variables)
    assert teacher.trainable


def test_the_student_comes_to_agree_with_its_teacher(rng):
    """What the student says of an image comes closest to what its teacher says of it."""
    model, _ = taught(optimizer=tf.keras.optimizers.Adam(0.02), weight=1.0)
    x, y = content(rng)

    def recognized():
        pairs = model._seeing(x)[1], model._taught(tf.constant(x))
        zs = [
            unit(head(tf.reshape(f, (IMAGES, -1))).numpy())
            for head, f in zip(model._heads, pairs, strict=True)
        ]
        return np.mean(np.argmax(zs[0] @ zs[1].T, 1) == np.arange(IMAGES))

    before = recognized()
    model.fit(batches(x, y, 6), epochs=60, verbose=0)
    assert recognized() >= max(0.7, before + 0.3)


def test_in_inference_it_is_the_student(rng, tmp_path):
    model, _ = taught("hyperbolic")
    x, y = content(rng)
    model.fit(batches(x, y), epochs=1, verbose=0, validation_data=(x, y))
    expected = model.student.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    np.testing.assert_array_equal(model((x, np.arange(IMAGES)), training=False), model.student(x))
    assert model.evaluate(x, y, verbose=0, return_dict=True) == model.evaluate(
        batches(x, y), verbose=0, return_dict=True
    )
    model.student.save(tmp_path / "student.keras")
    kept = tf.keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(kept.predict(x, verbose=0), expected)
    np.testing.assert_allclose(
        hbnn_larq.fold(model.student).predict(x, verbose=0), expected, atol=1e-5
    )
    with pytest.raises(NotImplementedError, match=r"Save `model\.student`"):
        model.save(tmp_path / "all.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["student.keras"]
    for call in (hbnn_larq.fold, hbnn_larq.edge.convert):
        with pytest.raises(ValueError, match=r"Give the student alone: its attribute \.student"):
            call(model)


def drawn_of_7(model, step):
    model._draws.assign(step)
    return model._others(tf.constant([7], tf.int64)).numpy()[0]


def test_images_are_compared_with_others_only():
    model, _ = taught(negatives=400)
    index = tf.range(IMAGES, dtype=tf.int64)
    every = np.sort(model._others(index).numpy(), 1)
    for own, others in enumerate(every):
        assert others.tolist() == [i for i in range(IMAGES) if i != own]
    model, _ = taught(negatives=5)
    drawn = [model._others(index).numpy()]
    model._draws.assign_add(1)
    drawn.append(model._others(index).numpy())
    assert drawn[0].shape == (IMAGES, 5)
    assert not np.array_equal(*drawn)
    for others in drawn:
        assert not np.any(others == np.arange(IMAGES)[:, None])
        assert others.min() >= 0 and others.max() < IMAGES
    every = np.concatenate([drawn_of_7(model, step) for step in range(40)])
    assert set(every) == set(range(IMAGES)) - {7}


@pytest.mark.slow
def test_a_run_that_is_taken_up_again_ends_the_same(rng, tmp_path):
    x, y = content(rng)
    whole, _ = taught(negatives=5)
    whole.fit(batches(x, y), epochs=3, verbose=0)
    first, teacher = taught(negatives=5)
    first.fit(batches(x, y), epochs=1, verbose=0)
    first.save_weights(tmp_path / "weights")
    again, others = taught(negatives=5)
    for new, old in zip(others.variables, teacher.variables, strict=True):
        new.assign(old)
    again.fit(batches(x, y), epochs=1, verbose=0)  # makes the slots of the optimizer
    again.load_weights(tmp_path / "weights").assert_consumed()
    again.fit(batches(x, y), epochs=3, initial_epoch=1, verbose=0)
    for one, other in zip(whole.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)


def test_clocks_flips_and_losses_of_the_student_count_once(rng):
    steps = 6
    optimizer = optimizers.GeodesicSGD(0.05, others=tf.keras.optimizers.Adam(0.01))
    model, _ = taught(optimizer=optimizer)
    x, y = content(rng)
    clock = rivals.TrainingProgress(4)
    filters = [model.student.layers[3].kernel.numpy().reshape(-1, 4).T]
    model.fit(batches(x, y), epochs=steps // 3, verbose=0, callbacks=[clock])
    (quantizer,) = rivals.scheduled_quantizers(model)
    assert float(quantizer.progress) == 0.25
    filters.append(model.student.layers[3].kernel.numpy().reshape(-1, 4).T)
    # On the sphere, by the optimizer that knows latent weights: turned, and as long as before.
    assert np.all(np.sum(unit(filters[0]) * unit(filters[1]), 1) < 0.999)
    lengths = [np.linalg.norm(each, axis=1) for each in filters]
    np.testing.assert_allclose(*lengths, rtol=1e-4)
    regular = rivals.CMIM(net("irnet", regularizer="l2"), net(), IMAGES)
    regular((x, np.arange(IMAGES)), training=True)
    assert len(regular.losses) == 2


def test_networks_of_the_zoo():
    student = zoo.ResNet18(input_shape=(16, 16, 1), width=0.125, stem="cifar")
    teacher = zoo.VGGSmall(
        input_shape=(16, 16, 1), width=0.125, kernel_quantizer=None, input_quantizer=None
    )
    model = rivals.CMIM(student, teacher, 5)
    x = np.zeros((2, 16, 16, 1), "float32")
    assert model((x, np.arange(2)), training=True).shape == (2, 10)
    assert [head.kernel.shape[0] for head in model._heads] == [
        whole.layers[-1].input_shape[-1] for whole in (student, teacher)
    ]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_under_mixed_precision_the_comparison_is_in_float32(policy, rng):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        model, _ = taught()
        x, _ = content(rng)
        model((x, np.arange(IMAGES)), training=True)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    (loss,) = model.losses
    assert loss.dtype == tf.float32 and np.isfinite(loss)
    assert all(bank.dtype == tf.float32 for bank in model._banks)


def test_what_does_not_fit_is_said(rng):
    model, teacher = taught()
    x, y = content(rng)
    with pytest.raises(
        ValueError, match=r"a batch for training is \(\(images, indices\), labels\)"
    ):
        model.fit(x, y, verbose=0)
    for index in (IMAGES, -1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="none of the 12 training images"):
            model((x[:1], np.array([index])), training=True)
    with pytest.raises(ValueError, match=r"of shape \(6, 6, 2\), the teacher of \(7, 7, 2\)"):
        rivals.CMIM(net("irnet"), net(size=7), IMAGES)

    class Own(tf.keras.Model):
        pass

    with pytest.raises(TypeError, match=r"teacher=.* must be a Functional or Sequential"):
        rivals.CMIM(net("irnet"), Own(), IMAGES)
    bare = tf.keras.Sequential([tf.keras.Input((6, 6, 2)), tf.keras.layers.Flatten()])
    with pytest.raises(TypeError, match="has no layer with weights"):
        rivals.CMIM(bare, teacher, IMAGES)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("images", 1), ("images", 3.5), ("weight", 0), ("temperature", 0.01), ("negatives", 0),
        ("size", 0), ("memory", 1.5), ("seed", -1),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_named(argument, value):
    settings = {"images": IMAGES, argument: value}
    with pytest.raises(ValueError, match=f"CMIM.*{argument}={value}"):
        rivals.CMIM(net("irnet"), net(), **settings)


def test_several_devices_are_refused(rng):
    model, _ = taught()
    x, _ = content(rng)
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with pytest.raises(ValueError, match="Train without a strategy"):
        strategy.run(lambda: model((x, np.arange(IMAGES)), training=True))
