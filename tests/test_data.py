"""Splits that stay fixed, batches that depend on (seed, step) alone, bad requests named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hbnn_larq.training import data

DIGITS_CHECK = 454430  # of labels times positions in the test split


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def small():
    return data.generated((8, 8, 3), 3, train=20, validation=6, test=6)


def batches(dataset, **arguments):
    return [
        (images.numpy(), labels.numpy())
        for images, labels in data.training_batches(dataset, **arguments)
    ]


def test_digits_split_is_60_15_25_and_stratified(digits):
    assert [len(split) for split in (digits.train, digits.validation, digits.test)] == [
        1077,
        270,
        450,
    ]
    assert digits.image_shape == (16, 16, 1)
    for split in (digits.train, digits.validation, digits.test):
        shares = np.bincount(split.labels) / len(split)
        assert np.all(np.abs(shares - 0.1) < 0.01)


def test_digits_splits_have_no_image_in_common_and_lose_none(digits):
    from sklearn.datasets import load_digits

    everything = np.concatenate(
        [split.images for split in (digits.train, digits.validation, digits.test)]
    )
    scans = everything[:, ::2, ::2, 0].reshape(len(everything), -1)
    original = load_digits().data
    np.testing.assert_array_equal(
        scans[np.lexsort(scans.T)], original[np.lexsort(original.T)].astype(np.float32)
    )


def test_digits_split_never_changes(digits):
    # Published accuracies stand on this very split.
    assert digits.test.labels[:12].tolist() == data.digits().test.labels[:12].tolist()
    assert int((digits.test.labels * np.arange(450)).sum()) == DIGITS_CHECK


def test_normalize_scales_digits_to_minus_one_to_one(digits):
    scaled = digits.normalize(digits.train.images)
    assert scaled.min() == -1 and scaled.max() == 1 and scaled.dtype == np.float32


def test_generated_is_a_function_of_its_arguments():
    one, two = (data.generated((8, 6, 2), 4, train=8, validation=4, test=4) for _ in range(2))
    np.testing.assert_array_equal(one.train.images, two.train.images)
    other = data.generated((8, 6, 2), 4, train=8, validation=4, test=4, seed=8)
    assert not np.array_equal(one.train.images, other.train.images)
    assert one.train.images.shape == (8, 8, 6, 2) and one.train.images.dtype == np.uint8
    assert np.bincount(one.train.labels).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 2), (1, 5, 1), (5, 7, 3)])
def test_generated_takes_any_shape(shape):
    made = data.generated(shape, 2, train=2, validation=2, test=2)
    assert made.image_shape == shape


def test_noise_free_classes_can_be_told_apart(small):
    easy = data.generated((16, 16, 1), 5, train=50, validation=5, test=50, difficulty=0.0)
    train = easy.normalize(easy.train.images).reshape(50, -1)
    test = easy.normalize(easy.test.images).reshape(50, -1)
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    nearest = easy.train.labels[np.argmax(test @ train.T, axis=1)]
    assert np.mean(nearest == easy.test.labels) > 0.9


def test_every_image_is_seen_once_per_epoch_in_another_order(small):
    plain = data.Dataset(**{**vars(small), "augmentation": data.Augmentation()})
    seen = batches(plain, batch_size=8, epochs=2, seed=1)
    assert [len(labels) for _, labels in seen] == [8, 8, 4] * 2
    expected = plain.normalize(plain.train.images).reshape(20, -1)
    orders = []
    for epoch in (seen[:3], seen[3:]):
        flat = np.concatenate([images for images, _ in epoch]).reshape(20, -1)
        order = [int(np.argmin(np.abs(expected - row).sum(axis=1))) for row in flat]
        labels = np.concatenate([labels for _, labels in epoch])
        assert sorted(order) == list(range(20))
        np.testing.assert_array_equal(labels, plain.train.labels[order])
        orders.append(order)
    assert orders[0] != orders[1]


def test_batches_with_indices_say_which_images_they_are(small):
    plain = batches(small, batch_size=8, epochs=2, seed=3, first_step=1)
    named = data.training_batches(
        small, batch_size=8, epochs=2, seed=3, first_step=1, with_indices=True
    )
    for (images, labels), ((same, indices), again) in zip(plain, named, strict=True):
        np.testing.assert_array_equal(images, same)
        np.testing.assert_array_equal(labels, again)
        np.testing.assert_array_equal(labels, small.train.labels[indices])


@pytest.mark.parametrize("first_step", [0, 1, 3, 4, 5, 6])
def test_resumed_batches_equal_the_unbroken_ones(digits, small, first_step):
    whole = batches(small, batch_size=8, epochs=2, seed=3)
    rest = batches(small, batch_size=8, epochs=2, seed=3, first_step=first_step)
    assert len(rest) == len(whole) - first_step
    for (images, labels), (again, same) in zip(whole[first_step:], rest, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, same)


def test_seed_changes_order_and_crops(small):
    one = batches(small, batch_size=20, epochs=1, seed=1)[0][0]
    two = batches(small, batch_size=20, epochs=1, seed=2)[0][0]
    assert not np.array_equal(one, two)


def test_shift_crops_a_window_of_the_padded_image():
    image = np.arange(1, 26, dtype=np.float32).reshape(1, 5, 5, 1)
    windows = set()
    for step in range(200):
        moved = data._augment(image, data.Augmentation(shift=1, fill=-1.0), [0, step]).numpy()
        windows.add(moved.tobytes())
    padded = np.pad(image[0, :, :, 0], 1, constant_values=-1)
    expected = {
        padded[top : top + 5, left : left + 5].tobytes() for top in range(3) for left in range(3)
    }
    assert windows == expected


def test_flip_mirrors_about_half_of_the_images():
    images = np.tile(np.float32([[0, 1]]).reshape(1, 1, 2, 1), (10_000, 1, 1, 1))
    flipped = data._augment(images, data.Augmentation(flip=True), [0, 5]).numpy()
    assert abs(flipped[:, 0, 0, 0].mean() - 0.5) < 0.02  # four standard deviations
    np.testing.assert_array_equal(flipped.sum(axis=2), np.ones((10_000, 1, 1)))


def test_evaluation_batches_keep_order_and_do_not_augment(small):
    images, labels = zip(*data.evaluation_batches(small, small.test, batch_size=4), strict=True)
    np.testing.assert_allclose(
        np.concatenate(images), small.normalize(small.test.images), atol=1e-6
    )
    np.testing.assert_array_equal(np.concatenate(labels), small.test.labels)


def test_images_spread_over_a_split_are_of_all_its_classes():
    """Folders are read class by class: the first images would be of one class alone."""
    images = np.zeros((60, 2, 2, 1), np.uint8) + np.arange(60, dtype=np.uint8)[:, None, None, None]
    split = data.Split(images, np.repeat(np.arange(3), 20))
    dataset = data.Dataset("own", split, split, split, 3, (0.0,), (1.0,), data.Augmentation(),
                           ("a", "b", "c"))  # fmt: skip
    chosen, labels = data.spread_out(dataset, split, 6)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(chosen[:, 0, 0, 0] // 20, labels)
    assert len(data.spread_out(dataset, split, 100)[0]) == 60


def test_a_shaped_name_makes_a_set_of_that_shape():
    made = data.load("generated-8x6x2-4")
    assert made.name == "generated-8x6x2-4"
    assert made.image_shape == (8, 6, 2) and made.num_classes == 4
    assert len(made.train) == data.training_images(made.name)


def test_imagenet_constants_need_three_channels(digits, small):
    assert small.normalized_as("dataset") is small
    gray = np.full((1, 1, 1, 3), [123.675, 116.28, 103.53])
    np.testing.assert_allclose(small.normalized_as("imagenet").normalize(gray), 0, atol=1e-5)
    with pytest.raises(ValueError, match="three channels; digits has 1"):
        digits.normalized_as("imagenet")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: data.load("digit"), 'no data set "digit". Closest: digits'),
        (lambda: data.generated((8, 8), 3), r"image_shape=\(8, 8\)\): \(height, width, channels\)"),
        (lambda: data.generated(num_classes=1), "at least 2 classes"),
        (lambda: data.generated(difficulty=-1), "difficulty=-1"),
        (lambda: data.Split(np.zeros((2, 3, 3)), np.zeros(2)), r"images of shape \(2, 3, 3\)"),
    ],
)
def test_bad_requests_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("batch_size", [0, 21])
def test_impossible_batch_sizes_are_named(small, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size={batch_size}: .*1 to 20"):
        data.training_batches(small, batch_size=batch_size, epochs=1, seed=0)


def test_labels_beyond_the_class_count_are_named(small):
    with pytest.raises(ValueError, match="labels from 0 to 2, but num_classes=2 allows 0 to 1"):
        data.Dataset(**{**vars(small), "num_classes": 2})


def test_the_fingerprint_tells_data_apart_and_nothing_else():
    def made(**changes):
        return data.generated(**{"image_shape": (8, 8, 1), "num_classes": 3, "train": 9,
                                 "validation": 6, "test": 6, **changes})  # fmt: skip

    known = made().fingerprint()
    assert known == replace(made(), name="elsewhere").fingerprint()
    assert known == json.loads(json.dumps(known))
    one_pixel = made()
    one_pixel.test.images[5, 7, 7, 0] ^= 1
    other_labels = made()
    other_labels.train.labels[:2] = other_labels.train.labels[1::-1].copy()
    assert other_labels.train.labels[0] != made().train.labels[0]
    swapped = made().train.chosen(np.array([1, 0, *range(2, 9)]))
    others = [
        made(seed=8), made(train=12), made(num_classes=2), made(image_shape=(8, 4, 2)), one_pixel,
        other_labels,
        replace(made(), train=swapped), replace(made(), class_names=("a", "b", "c")),
        replace(made(), mean=(100.0,)), replace(made(), augmentation=data.Augmentation(shift=3)),
    ]  # fmt: skip
    found = [known, *(other.fingerprint() for other in others)]
    assert len({json.dumps(each) for each in found}) == len(found)


def test_a_fingerprint_is_asked_of_nobody_who_had_none(small):
    data.require_same(None, small.fingerprint(), "x holds a run")
    data.require_same(small.fingerprint(), small.fingerprint(), "x holds a run")
