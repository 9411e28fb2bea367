"""ImageNet as tensorflow-datasets writes it: any image at any moment, nothing decoded too early."""

import io
import time

import numpy as np
import pytest
import tensorflow as tf
from micro import micro_model
from PIL import Image

from hbnn_larq.training import data, folders, run, tfrecords
from hbnn_larq.training.recipe import Recipe

tfds = pytest.importorskip("tensorflow_datasets")

CLASSES = ("n01", "n02", "n03")


class Imagenet2012(tfds.core.GeneratorBasedBuilder):
    """The features, splits and version of the real one, with noise for images."""

    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, manager):
        return {
            "train": self._generate_examples(0, 13),
            "validation": self._generate_examples(1, 7),
        }

    def _generate_examples(self, seed, count):
        rng = np.random.default_rng(seed)
        for number in range(count):
            file = io.BytesIO()
            side = 20 + number
            Image.fromarray(rng.integers(0, 255, (side, 30, 3), np.uint8)).save(file, "JPEG")
            file.seek(0)
            yield number, {"image": file, "label": number % 3, "file_name": f"{number}.JPEG"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A data folder of tensorflow-datasets with several files per split."""
    monkeypatch.setattr(folders, "IMAGENET_CLASSES", len(CLASSES))
    shards = "tensorflow_datasets.core.utils.shard_utils.ShardConfig.get_number_shards"
    monkeypatch.setattr(shards, lambda self, *_, **__: 3, raising=True)
    Imagenet2012(data_dir=str(tmp_path)).download_and_prepare()
    place = tmp_path / "imagenet2012" / "5.1.0"
    assert len(list(place.glob("*-train.tfrecord-*-of-00003"))) == 3
    return tmp_path


def silent(line):
    pass


def test_every_record_is_found_with_its_label(home):
    loaded = data.load("imagenet", home, image_size=16, say=silent)
    assert loaded.class_names == CLASSES and loaded.image_shape == (16, 16, 3)
    assert [len(split) for split in (loaded.train, loaded.validation, loaded.test)] == [13, 0, 7]
    builder = tfds.builder_from_directory(str(home / "imagenet2012" / "5.1.0"))
    for split, which in ((loaded.train, "train"), (loaded.test, "validation")):
        read = split.reader()
        theirs = tfds.as_numpy(builder.as_dataset(split=which))
        for index, example in enumerate(theirs):
            mine = tf.io.decode_jpeg(read(tf.constant(index)), channels=3).numpy()
            np.testing.assert_array_equal(mine, example["image"])
            assert split.labels[index] == example["label"]


def test_batches_are_full_shuffles_that_resume_exactly(home):
    loaded = data.load("imagenet", home, image_size=16, say=silent)
    whole = list(data.training_batches(loaded, batch_size=5, epochs=2, seed=0))
    assert [images.shape for images, _ in whole] == [(5, 16, 16, 3)] * 2 + [(3, 16, 16, 3)] + [
        (5, 16, 16, 3)
    ] * 2 + [(3, 16, 16, 3)]
    for epoch in (whole[:3], whole[3:]):
        seen = np.concatenate([labels.numpy() for _, labels in epoch])
        np.testing.assert_array_equal(np.sort(seen), np.sort(loaded.train.labels))
    rest = list(data.training_batches(loaded, batch_size=5, epochs=2, seed=0, first_step=4))
    for (images, labels), (again, same) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, same)


def test_evaluation_reads_the_split_in_order(home):
    loaded = data.load("imagenet", home, image_size=16, say=silent)
    ((images, labels),) = data.evaluation_batches(loaded, loaded.test)
    assert images.shape == (7, 16, 16, 3)
    np.testing.assert_array_equal(labels, loaded.test.labels)


@pytest.mark.parametrize("inside", [".", "imagenet2012/5.1.0"])
def test_the_files_are_read_through_once(home, monkeypatch, inside):
    lines = []
    first = data.load("imagenet", home, image_size=16, say=lines.append)
    assert [line.split(" of ")[0] for line in lines] == ["reading train", "reading validation"]
    monkeypatch.setattr(tfrecords, "_scanned", None)  # must not be called
    second = data.load("imagenet", home / inside, image_size=16, say=lines.append)
    np.testing.assert_array_equal(first.train.places, second.train.places)
    np.testing.assert_array_equal(first.train.labels, second.train.labels)
    assert len(lines) == 2


def test_the_folder_of_tensorflow_datasets_needs_no_mention(home, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))
    assert len(data.load("imagenet", say=silent).train) == 13


def test_an_index_of_other_files_is_made_anew(home):
    data.load("imagenet", home, say=silent)
    index = home / "imagenet2012" / "5.1.0" / "hbnn_larq-train.npz"
    for spoilt in (b"nonsense", b""):
        index.write_bytes(spoilt)
        assert len(data.load("imagenet", home, say=silent).train) == 13
    np.savez(index, sizes=[1, 2, 3], places=np.zeros((0, 3)), labels=np.zeros(0))
    assert len(data.load("imagenet", home, say=silent).train) == 13


def test_an_index_that_fails_in_whatever_way_is_made_anew(home, monkeypatch):
    data.load("imagenet", home, say=silent)

    def encrypted(*_, **__):  # as one changed bit of its header makes it
        raise RuntimeError("File 'sizes.npy' is encrypted, password required for extraction")

    monkeypatch.setattr(np, "load", encrypted)
    assert len(data.load("imagenet", home, say=silent).train) == 13


def test_an_index_that_cannot_be_kept_is_no_error(home, monkeypatch):
    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tfrecords, "replaced", read_only)
    lines = []
    assert len(data.load("imagenet", home, say=lines.append).train) == 13
    assert sum("(Read-only file system): it is made in each run" in line for line in lines) == 2


def test_a_damaged_and_a_missing_file_are_named(home):
    place = home / "imagenet2012" / "5.1.0"
    file = sorted(place.glob("*-train.tfrecord-*"))[1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=rf"{file.name} is damaged \(.*\). Prepare it again: tfds"):
        data.load("imagenet", home, say=silent)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{file.name} is missing. Prepare it again: tfds build"):
        data.load("imagenet", home, say=silent)


def test_other_classes_are_refused(home, monkeypatch):
    monkeypatch.setattr(folders, "IMAGENET_CLASSES", 1000)
    with pytest.raises(ValueError, match="has 3 classes, not 1,000"):
        data.load("imagenet", home, say=silent)


@pytest.mark.parametrize("named", [True, False])
def test_without_files_both_ways_are_named_in_no_time(tmp_path, monkeypatch, named):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(ValueError) as error:
        data.load("imagenet", tmp_path if named else None)
    assert time.monotonic() - started < 1
    said = str(error.value)
    assert f"{tmp_path} holds neither train and val nor imagenet2012" in said
    assert ("no folder was given" in said) is not named
    assert "Two ways: unpack the archives, so that --data FOLDER holds train/CLASS/*.JPEG" in said
    assert "run `tfds build imagenet2012` and pass no --data." in said


def test_a_file_that_vanishes_while_a_run_reads_is_named(home, tmp_path, monkeypatch):
    loaded = data.load("imagenet", home, image_size=16, say=silent)
    monkeypatch.setattr(run, "build_model", micro_model)
    for file in (home / "imagenet2012" / "5.1.0").glob("*-train.tfrecord-*"):
        file.unlink()
    recipe = Recipe(
        name="gone", source="a test", dataset="imagenet", model="resnet18", batch_size=5
    )
    with pytest.raises(ValueError, match=r"^step 0: the record at byte .* of .*train.tfrecord-"):
        run.fit(recipe, tmp_path / "run", dataset=loaded, say=silent)


def test_no_iterator_waits_for_the_tuner_when_it_ends(home, monkeypatch):
    tuned, begin = [], tf.data.Dataset.__iter__

    def begins(self):
        tuned.append(self.options().autotune.enabled)
        return begin(self)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", begins)
    loaded = data.load("imagenet", home, image_size=16, say=silent)
    next(iter(data.training_batches(loaded, batch_size=5, epochs=2, seed=0)))
    list(data.evaluation_batches(loaded, loaded.test))
    assert tuned == [False] * 4  # two splits are scanned, then each read
