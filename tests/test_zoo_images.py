"""From pictures to inputs, from logits to names."""

import json

import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import zoo
from hbnn_larq.zoo.images import DATASETS


@pytest.mark.parametrize("dataset", DATASETS)
def test_shape_type_and_normalisation(dataset, rng):
    facts = DATASETS[dataset]
    raw = rng.uniform(0, 16 if dataset == "digits" else 255, facts.image_shape)
    result = zoo.preprocess_input(raw, dataset)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    assert result.shape == facts.image_shape
    if dataset != "imagenet":  # which resizes
        want = (raw - np.array(facts.mean)) / np.array(facts.scale)
        np.testing.assert_allclose(result, want, atol=1e-5)


@pytest.mark.parametrize("dataset", DATASETS)
def test_batches_and_tensors(dataset, rng):
    raw = rng.uniform(0, 16, (3, *DATASETS[dataset].image_shape)).astype("float32")
    batch = zoo.preprocess_input(tf.constant(raw), dataset)
    assert tf.is_tensor(batch)
    np.testing.assert_allclose(batch[1], zoo.preprocess_input(raw[1], dataset), atol=1e-5)


def test_digits_are_those_of_the_training_set():
    from sklearn.datasets import load_digits

    from hbnn_larq.training import data

    dataset = data.load("digits")
    facts = DATASETS["digits"]
    assert (dataset.image_shape, dataset.num_classes) == (facts.image_shape, facts.num_classes)
    assert dataset.class_names == facts.names
    seen = zoo.preprocess_input(load_digits().images[..., None], "digits")
    trained_on = dataset.normalize(dataset.test.images)
    in_seen = {image.tobytes() for image in seen}
    assert all(image.tobytes() in in_seen for image in trained_on)


def test_normalisation_is_that_of_the_recipes():
    from hbnn_larq.training import cifar, data
    from hbnn_larq.training.recipes import find

    for row in zoo.list_pretrained():
        recipe, facts = find(row.train.split()[2]), DATASETS[row.weights]
        assert recipe.dataset == row.weights
        if recipe.normalization == "imagenet":
            constants = data.IMAGENET_MEAN, data.IMAGENET_SCALE
        elif row.weights in cifar.ARCHIVES:
            archive = cifar.ARCHIVES[row.weights]
            constants = archive.mean, archive.scale
        else:  # digits: compared image by image above; imagenet: by name
            continue
        np.testing.assert_allclose((facts.mean, facts.scale), constants)
        assert facts.constants == recipe.normalization


@pytest.mark.parametrize("shape", [(300, 500, 3), (256, 256, 3), (180, 100, 3)])
def test_middle_of_an_imagenet_picture(shape):
    """A picture that brightens from left to right keeps its middle in the middle."""
    raw = np.zeros(shape, np.uint8)
    raw[:] = np.linspace(0, 255, shape[1])[None, :, None].astype(np.uint8)
    result = zoo.preprocess_input(raw)
    facts = DATASETS["imagenet"]
    back = result * np.array(facts.scale) + np.array(facts.mean)
    assert back[:, 111:113].mean() == pytest.approx(127, abs=2)
    step = np.diff(back[112, :, 0]).mean() * 256 / min(shape[:2])
    assert step == pytest.approx(255 / shape[1], rel=0.05)


@pytest.mark.parametrize("shape", [(300, 500, 3), (180, 101, 3), (2, 401, 257, 3)])
def test_pictures_of_a_size_that_only_the_run_tells(shape, rng):
    """As in a `tf.data` pipeline behind `decode_jpeg`: the very numbers of one at a time."""
    raw = rng.integers(0, 256, shape, dtype=np.uint8)
    unknown = tf.TensorSpec((None,) * (len(shape) - 1) + (3,), tf.uint8)
    pipeline = tf.data.Dataset.from_generator(lambda: [raw], output_signature=unknown)
    pipeline = pipeline.map(zoo.preprocess_input)
    assert pipeline.element_spec.shape[-3:] == DATASETS["imagenet"].image_shape
    np.testing.assert_array_equal(next(iter(pipeline)), zoo.preprocess_input(raw))


@pytest.mark.parametrize(
    "decode, shape",
    [(tf.io.decode_jpeg, r"\(None, None, None\)"), (tf.io.decode_image, "<unknown>")],
)
def test_a_decoder_that_does_not_tell_the_channels(decode, shape):
    jpeg = tf.io.encode_jpeg(np.zeros((9, 9, 3), np.uint8))
    pipeline = tf.data.Dataset.from_tensors(jpeg).map(decode)
    message = rf"image of shape {shape}, 'imagenet'.*expected \(height, width, 3\).*channels=3"
    with pytest.raises(ValueError, match=message):
        pipeline.map(zoo.preprocess_input)


def test_constants_of_the_literature():
    assert DATASETS["cifar10"].mean == pytest.approx((123.675, 116.28, 103.53))
    assert DATASETS["cifar100"].scale == pytest.approx((68.1615, 65.382, 70.431))
    assert len(DATASETS["cifar100"].names) == len(set(DATASETS["cifar100"].names)) == 100
    assert list(DATASETS["cifar100"].names) == sorted(DATASETS["cifar100"].names)


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100"])
def test_names_come_with_probabilities(dataset, rng):
    logits = rng.normal(size=(4, DATASETS[dataset].num_classes))
    decoded = zoo.decode_predictions(logits, top=3, dataset=dataset)
    for row, predictions in zip(logits, decoded, strict=True):
        shares = np.exp(row) / np.exp(row).sum()
        best = np.argsort(-row)[:3]
        names = [DATASETS[dataset].names[k] for k in best]
        assert [(int(k), name) for k, name, _ in predictions] == list(zip(best, names, strict=True))
        np.testing.assert_allclose([share for *_, share in predictions], shares[best])


def test_probabilities_stay_as_they_are():
    shares = np.full((1, 10), 0.1)
    assert zoo.decode_predictions(shares, 1, dataset="digits", from_logits=False) == [
        [("0", "0", 0.1)]
    ]


def test_imagenet_names_from_keras_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    logits = np.zeros((1, 1000))
    logits[0, 281] = 9
    assert zoo.decode_predictions(logits, 1)[0][0][:2] == ("281", "class 281")
    (tmp_path / "models").mkdir()
    index = {str(k): [f"n{k:08}", f"name {k}"] for k in range(1000)}
    (tmp_path / "models" / "imagenet_class_index.json").write_text(json.dumps(index))
    assert zoo.decode_predictions(logits, 1)[0][0][:2] == ("n00000281", "name 281")


@pytest.mark.parametrize(
    "shape, dataset, message",
    [
        ((32, 32, 3), "mnist", r"dataset='mnist'.*'digits', 'cifar10', 'cifar100', 'imagenet'"),
        ((32, 32), "cifar10", r"shape \(32, 32\), 'cifar10'.*expected \(height, width, 3\)"),
        ((32, 32, 1), "cifar10", r"expected \(height, width, 3\)"),
        ((28, 28, 3), "cifar10", r"pictures are 32x32. Resize it first"),
        ((9, 9, 1), "digits", r"pictures are 16x16"),
    ],
)
def test_bad_pictures_are_named(shape, dataset, message):
    with pytest.raises(ValueError, match=message):
        zoo.preprocess_input(np.zeros(shape), dataset)


@pytest.mark.parametrize(
    "shape, dataset, message",
    [
        ((2, 10), "imagenet", r"expected \(batch, 1000\). Data sets with as many.*digits, cifar10"),
        ((10,), "digits", r"expected \(batch, 10\)"),
        ((2, 10), "stl10", r"decode_predictions\(dataset='stl10'\)"),
    ],
)
def test_bad_predictions_are_named(shape, dataset, message):
    with pytest.raises(ValueError, match=message):
        zoo.decode_predictions(np.zeros(shape), dataset=dataset)
