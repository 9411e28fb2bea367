"""The CIFAR archives: exact format, every kind of wrong file, and no minutes of waiting."""

import hashlib
import tarfile
import time
from dataclasses import replace

import numpy as np
import pytest

from hbnn_larq.training import cifar, data

RECORDS = 6


@pytest.fixture(params=["cifar10", "cifar100"])
def archive(request, tmp_path, monkeypatch):
    """A miniature of an official archive, unpacked: same layout, six images per file."""
    official = cifar.ARCHIVES[request.param]
    monkeypatch.setattr(cifar, "TEST_RECORDS", RECORDS)
    monkeypatch.setitem(cifar.ARCHIVES, request.param, replace(official, records=RECORDS))
    folder = tmp_path / official.folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for file in (*official.train, official.test):
        records = rng.integers(0, 256, (RECORDS, official.label_bytes + 3072), np.uint8)
        records[:, : official.label_bytes] %= 10
        (folder / file).write_bytes(records.tobytes())
    names = "\n".join(f"class{number}" for number in range(official.num_classes))
    (folder / official.names).write_text(names + "\n\n")
    return request.param, tmp_path


def test_images_and_labels_are_those_of_the_records(archive):
    name, folder = archive
    official = cifar.ARCHIVES[name]
    loaded = data.load(name, folder)
    assert len(loaded.train) == RECORDS * len(official.train) and len(loaded.test) == RECORDS
    assert loaded.image_shape == (32, 32, 3) and len(loaded.validation) == 0
    raw = (folder / official.folder / official.test).read_bytes()
    record = raw[official.label_bytes + 3072 :][: official.label_bytes + 3072]  # the second one
    assert loaded.test.labels[1] == record[official.label_bytes - 1]  # the fine label
    pixels = record[official.label_bytes :]
    row, column = 5, 7
    for channel in range(3):
        place = 1024 * channel + 32 * row + column
        assert loaded.test.images[1, row, column, channel] == pixels[place]
    assert loaded.class_names[3] == "class3"


def test_the_folder_itself_or_its_parent_will_do(archive):
    name, folder = archive
    inner = data.load(name, folder / cifar.ARCHIVES[name].folder)
    np.testing.assert_array_equal(inner.test.images, data.load(name, folder).test.images)


def test_packed_archive_is_read_if_its_checksum_is_right(archive, tmp_path, monkeypatch):
    name, folder = archive
    official = cifar.ARCHIVES[name]
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / official.file, "w:gz") as tar:
        tar.add(folder / official.folder, official.folder)
    with pytest.raises(ValueError, match=rf"has MD5 \w+, the official archive {official.md5}"):
        data.load(name, packed)
    digest = hashlib.md5((packed / official.file).read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.ARCHIVES, name, replace(official, md5=digest))
    loaded = data.load(name, packed)
    np.testing.assert_array_equal(loaded.train.images, data.load(name, folder).train.images)


def test_file_of_the_wrong_length_is_named(archive):
    name, folder = archive
    official = cifar.ARCHIVES[name]
    path = folder / official.folder / official.train[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{path.name} in .* bytes, not .*Two ways: fetch http"):
        data.load(name, folder)


def test_missing_training_file_is_named(archive):
    name, folder = archive
    official = cifar.ARCHIVES[name]
    (folder / official.folder / official.train[0]).unlink()
    with pytest.raises(ValueError, match=rf"cannot read {official.train[0]} in .*No such file"):
        data.load(name, folder)


@pytest.mark.parametrize("spoilt", [None, b"\xff\xfe"])
def test_a_missing_or_damaged_list_of_names_is_named(archive, spoilt):
    name, folder = archive
    official = cifar.ARCHIVES[name]
    path = folder / official.folder / official.names
    path.unlink() if spoilt is None else path.write_bytes(spoilt)
    with pytest.raises(ValueError, match=rf"{path.name} in .*(No such file|names 1 classes, not)"):
        data.load(name, folder)


def test_labels_out_of_range_are_refused(archive):
    name, folder = archive
    official = cifar.ARCHIVES[name]
    path = folder / official.folder / official.test
    raw = bytearray(path.read_bytes())
    raw[official.label_bytes - 1] = 200
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"{path.name} in .* has the label 200, of 100? classes"):
        data.load(name, folder)


def test_empty_folder_names_what_was_looked_for_and_both_ways(tmp_path):
    with pytest.raises(ValueError) as error:
        data.load("cifar10", tmp_path)
    assert "holds neither cifar-10-binary.tar.gz nor cifar-10-batches-bin/test_batch.bin" in str(
        error.value
    )
    assert "pass --data FOLDER; or, on a machine with network, pip install" in str(error.value)
    with pytest.raises(ValueError, match=r"cifar10: there is no folder .*nowhere. Two ways"):
        data.load("cifar10", tmp_path / "nowhere")


def test_python_version_is_recognised(tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_text("")
    with pytest.raises(ValueError, match=r"cifar-100-python.tar.gz is another format"):
        data.load("cifar100", tmp_path)


def test_without_network_it_fails_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    nowhere = "http://127.0.0.1:9/"  # the discard port: nothing listens there
    monkeypatch.setattr(cifar, "_url", lambda archive: nowhere)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    pytest.importorskip("tensorflow_datasets")
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"not on this machine, and http.* cannot be reached. Two"):
        data.load("cifar10")
    assert time.monotonic() - started < 20  # most of it is the import of tensorflow-datasets
