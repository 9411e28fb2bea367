"""Pictures in folders: the splits, the crops, and what is said about files that do not fit."""

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from micro import micro_model

from hbnn_larq.training import data, folders, run
from hbnn_larq.training.recipe import Recipe

from PIL import Image  # isort: skip


def paint(path, colour, size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def own(tmp_path):
    """Thirty red and thirty blue pictures, in class folders only."""
    for number in range(30):
        paint(tmp_path / "blue" / f"{number}.png", (0, 0, 200))
        paint(tmp_path / "red" / f"{number}.jpg", (200, 0, 0))
    return tmp_path


def test_own_pictures_are_split_per_class_and_squared(own):
    loaded = data.load("pictures", own, image_size=8)
    assert loaded.class_names == ("blue", "red") and loaded.image_shape == (8, 8, 3)
    sizes = [len(split) for split in (loaded.train, loaded.validation, loaded.test)]
    assert sum(sizes) == 60 and sizes[0] > sizes[2] > 0 and sizes[1] > 0
    for split in (loaded.train, loaded.validation, loaded.test):
        colour = split.images.mean(axis=(1, 2))
        np.testing.assert_array_equal(split.labels, (colour[:, 0] > 100).astype(int))


def test_a_picture_stays_in_its_split_when_others_are_added(own):
    before = folders._divided(folders._listed(own))
    paint(own / "red" / "another.png", (200, 0, 0))
    after = folders._divided(folders._listed(own))
    for split, classes in before.items():
        for name, paths in classes.items():
            assert set(paths) <= set(after[split][name])


def test_given_splits_are_kept(tmp_path):
    for split, count in (("train", 4), ("validation", 1), ("test", 2)):
        for name in ("a", "b"):
            for number in range(count):
                paint(tmp_path / split / name / f"{number}.png", (number, 0, 0))
    loaded = data.load("pictures", tmp_path, image_size=4)
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [8, 2, 4]


def test_train_may_be_a_class(tmp_path):
    for number in range(30):
        paint(tmp_path / "car" / f"{number}.png", (number, 0, 0))
        paint(tmp_path / "train" / f"{number}.png", (0, number, 0))
    assert data.load("pictures", tmp_path, image_size=4).class_names == ("car", "train")


@pytest.mark.parametrize("absent", [("validation",), ("test",), ("validation", "test")])
def test_splits_that_are_not_given_are_named(tmp_path, absent):
    for split in {"train", "validation", "test"}.difference(absent):
        for name in ("a", "b"):
            paint(tmp_path / split / name / "0.png", (0, 0, 0))
    message = f"holds a folder train with classes in it, so it needs {' and '.join(absent)} too"
    with pytest.raises(ValueError, match=message):
        data.load("pictures", tmp_path, image_size=4)


def test_middle_of_a_wide_picture_is_taken(tmp_path):
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, 4:8] = 255
    Image.fromarray(picture).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(folders.picture(tmp_path / "wide.png", (4, 4)), 255)


def test_unreadable_file_is_fatal_or_skipped_with_a_count(own):
    (own / "red" / "broken.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"broken.jpg is no picture .*--unreadable skip"):
        data.load("pictures", own, image_size=8)
    lines = []
    loaded = data.load("pictures", own, image_size=8, unreadable="skip", say=lines.append)
    assert sum(len(s) for s in (loaded.train, loaded.validation, loaded.test)) == 60
    assert lines == [f"unreadable files left out: 1, the first {own / 'red' / 'broken.jpg'}"]


def test_a_name_that_is_not_utf8_is_a_name(own):
    """As in an archive of an older system: the file is read, and splits as any other."""
    odd = own / "red" / os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(own / "red" / "0.jpg", odd)
    loaded = data.load("pictures", own, image_size=8)
    assert sum(len(s) for s in (loaded.train, loaded.validation, loaded.test)) == 61
    odd.unlink()


@pytest.mark.parametrize("name", [b"two\nlines", b"caf\xe9"])
def test_a_class_that_no_file_could_hold_as_a_label_is_refused_before_training(own, name):
    odd = own / os.fsdecode(name)
    shutil.copytree(own / "red", odd)
    with pytest.raises(
        ValueError, match=r"is no label that a converted file can hold .* Rename it"
    ):
        data.load("pictures", own, image_size=8)
    shutil.rmtree(odd)


def test_hidden_files_are_no_pictures_and_links_to_nowhere_are_missed(own):
    before = data.load("pictures", own, image_size=8).fingerprint()
    (own / "red" / "._0.jpg").write_bytes(b"what a Mac keeps beside a file")
    assert data.load("pictures", own, image_size=8).fingerprint() == before
    (own / "red" / "gone.jpg").symlink_to(own / "not mounted.jpg")
    with pytest.raises(ValueError, match=r"gone.jpg is no picture .*No such file"):
        data.load("pictures", own, image_size=8)


@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda folder: None, "has 0 class folders; at least 2"),
        (lambda folder: paint(folder / "a" / "0.png", "red"), "has 1 class folders; at least 2"),
        (
            lambda folder: [paint(folder / "a" / "0.png", "red"), (folder / "b").mkdir()],
            "b holds no picture. Known endings: .jpg",
        ),
        (
            lambda folder: [paint(folder / c / "0.png", "red") for c in "ab"],
            "class a has 1 pictures, too few to split",
        ),
        (
            lambda folder: [
                paint(folder / s / c / "0.png", "red")
                for s, classes in (("train", "ab"), ("validation", "ab"), ("test", "ac"))
                for c in classes
            ],
            r"train and test have different class folders \(b, c\)",
        ),
    ],
    ids=["empty", "one class", "no picture", "one each", "other classes"],
)
def test_folders_that_do_not_fit_are_named(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(ValueError, match=message):
        data.load("pictures", tmp_path)


def test_too_many_pictures_for_memory_are_refused_before_decoding(own, monkeypatch):
    monkeypatch.setattr(folders, "MEMORY_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"60 pictures of 8x8 take more than .* smaller size"):
        data.load("pictures", own, image_size=8)


def test_files_are_asked_for_where_they_are_needed_and_refused_where_not():
    with pytest.raises(ValueError, match="pictures: say where its files are with --data FOLDER"):
        data.load("pictures")
    with pytest.raises(ValueError, match="digits needs no files; leave out --data x"):
        data.load("digits", "x")


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """ImageNet's layout with two classes; red grows to the right, so that crops can be told."""
    monkeypatch.setattr(folders, "IMAGENET_CLASSES", 2)
    ramp = np.zeros((40, 60, 3), np.uint8)
    ramp[..., 0] = np.arange(60) * 4
    for split, count in (("train", 5), ("val", 3)):
        for label, name in enumerate(("n01", "n02")):
            for number in range(count):
                path = tmp_path / split / name / f"{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                ramp[..., 2] = 200 * label
                Image.fromarray(ramp).save(path, quality=95)
    return tmp_path


def test_imagenet_is_read_from_disk_in_batches_of_the_right_shape(imagenet):
    loaded = data.load("imagenet", imagenet, image_size=16)
    assert loaded.image_shape == (16, 16, 3)
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [10, 0, 6]
    batches = list(data.training_batches(loaded, batch_size=4, epochs=2, seed=0))
    assert [images.shape[0] for images, _ in batches] == [4, 4, 2] * 2
    for images, labels in batches:
        blue = images.numpy()[..., 2].mean(axis=(1, 2))
        np.testing.assert_array_equal(labels, (blue > 0).astype(int))


def test_imagenet_crops_differ_but_resume_exactly(imagenet):
    loaded = data.load("imagenet", imagenet, image_size=16)
    whole = list(data.training_batches(loaded, batch_size=4, epochs=2, seed=0))
    rest = list(data.training_batches(loaded, batch_size=4, epochs=2, seed=0, first_step=4))
    for (images, labels), (again, same) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, same)
    reds = np.concatenate([images.numpy()[..., 0].mean(axis=(1, 2)) for images, _ in whole])
    assert len(np.unique(reds.round(3))) > 15  # of 20 crops


def test_imagenet_evaluation_takes_the_middle(imagenet):
    loaded = data.load("imagenet", imagenet, image_size=16)
    ((images, labels),) = data.evaluation_batches(loaded, loaded.test)
    assert images.shape == (6, 16, 16, 3) and labels.numpy().tolist() == [0] * 3 + [1] * 3
    red = images.numpy()[0, :, :, 0] * loaded.scale[0] + loaded.mean[0]
    # The shorter side 40 becomes 18; the middle 16 of its 27 columns are columns 12 to 48 of 60.
    assert red[:, 0].mean() == pytest.approx(4 * 13, abs=6)
    assert red[:, -1].mean() == pytest.approx(4 * 46, abs=6)


def test_imagenet_layouts_that_do_not_fit_are_named(imagenet, monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "IMAGENET_CLASSES", 1000)
    with pytest.raises(ValueError, match="2 classes in train and 2 in val; both need the same 1,0"):
        data.load("imagenet", imagenet)
    with pytest.raises(
        ValueError, match=r"elsewhere holds neither train and val nor .*train/CLASS"
    ):
        data.load("imagenet", tmp_path / "elsewhere")


def test_broken_imagenet_files_are_named_when_they_come_up(imagenet, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "build_model", micro_model)
    broken = imagenet / "train" / "n02" / "3.JPEG"
    broken.write_bytes(broken.read_bytes()[:400])
    loaded = data.load("imagenet", imagenet, image_size=16)
    recipe = Recipe(
        name="tiny", source="a test", dataset="imagenet", model="vgg_small", batch_size=1,
        kernel_quantizer="ste_sign",
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"step \d+: .*n02/3.JPEG cannot be read .*unreadable skip"
    ):
        run.fit(recipe, tmp_path / "run", dataset=loaded, say=lambda line: None)


def test_a_broken_picture_is_named_in_evaluation_too(imagenet, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "build_model", micro_model)
    broken = imagenet / "val" / "n02" / "1.JPEG"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:400])
    loaded = data.load("imagenet", imagenet, image_size=16)
    recipe = Recipe(
        name="tiny", source="a test", dataset="imagenet", model="vgg_small", batch_size=5,
        kernel_quantizer="ste_sign", epochs=1,
    )  # fmt: skip
    message = r"imagenet: .*n02/1.JPEG cannot be read as a picture. Mend .* --unreadable skip"
    for take in (
        lambda: list(data.evaluation_batches(loaded, loaded.test, batch_size=2)),
        lambda: data.spread_out(loaded, loaded.test, 6),
        lambda: run.fit(recipe, tmp_path / "run", dataset=loaded, say=lambda line: None),
    ):
        with pytest.raises(ValueError, match=message):
            take()
    broken.write_bytes(whole)
    lines = []
    run.fit(recipe, tmp_path / "run", dataset=loaded, say=lines.append)
    assert lines[0] == "resumed from step 2 of 2"


def test_a_broken_validation_picture_costs_no_step(imagenet, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "build_model", micro_model)
    loaded = data.load("imagenet", imagenet, image_size=16)
    recipe = Recipe(
        name="tiny", source="a test", dataset="imagenet", model="vgg_small", batch_size=2,
        kernel_quantizer="ste_sign", epochs=2, hold_out=2,
    )  # fmt: skip
    unbroken = run.fit(recipe, tmp_path / "unbroken", dataset=loaded, say=lambda line: None)
    held = loaded.with_hold_out(2).validation
    broken = Path(str(held.paths[-1]))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:400])
    for said in (None, "resumed from step 4 of 8"):
        lines = []
        with pytest.raises(ValueError, match=f"{broken.name} cannot be read as a picture"):
            run.fit(recipe, tmp_path / "run", dataset=loaded, say=lines.append)
        assert said is None or lines[0] == said
    broken.write_bytes(whole)
    mended = run.fit(recipe, tmp_path / "run", dataset=loaded, say=lambda line: None)
    assert {**mended, "seconds": 0} == {**unbroken, "seconds": 0}


def test_pictures_that_only_pillow_can_read_are_left_out_of_imagenet(imagenet):
    whole = Image.open(imagenet / "train" / "n01" / "0.JPEG")
    whole.save(imagenet / "train" / "n01" / "a.webp")
    whole.save(imagenet / "train" / "n01" / "b.bmp")
    cut = (imagenet / "train" / "n01" / "b.bmp").read_bytes()[:900]
    (imagenet / "train" / "n01" / "c.bmp").write_bytes(cut)
    loaded = data.load("imagenet", imagenet, unreadable="skip", say=lambda line: None)
    names = {path.rsplit("/", 1)[1] for path in loaded.train.paths}
    assert names == {"b.bmp", *(f"{number}.JPEG" for number in range(5))}


@pytest.mark.parametrize(
    "spoil", [lambda whole: whole[:400], lambda whole: b"", lambda whole: b"x"]
)
def test_broken_imagenet_files_are_skipped_with_a_count(imagenet, spoil):
    for name in ("train/n02/3.JPEG", "val/n01/0.JPEG"):
        (imagenet / name).write_bytes(spoil((imagenet / name).read_bytes()))
    lines = []
    loaded = data.load("imagenet", imagenet, unreadable="skip", say=lines.append)
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [9, 0, 5]
    assert not any(path.endswith("n02/3.JPEG") for path in loaded.train.paths)
    assert lines == [
        "looking at 10 files",
        f"unreadable files left out: 1, the first {imagenet / 'train/n02/3.JPEG'}",
        "looking at 6 files",
        f"unreadable files left out: 1, the first {imagenet / 'val/n01/0.JPEG'}",
    ]


def test_a_copied_folder_is_the_same_data_and_a_changed_one_is_not(own, tmp_path_factory):
    known = data.load("pictures", own, image_size=8).fingerprint()
    copy = tmp_path_factory.mktemp("copy") / "pictures"
    shutil.copytree(own, copy)
    assert data.load("pictures", copy, image_size=8).fingerprint() == known
    paint(copy / "red" / "3.jpg", (0, 200, 0))  # of the same name, so in the same split
    changed = data.load("pictures", copy, image_size=8).fingerprint()
    assert {key for key in known if known[key] != changed[key]} == {"content"}


def test_images_on_disk_are_told_apart_by_their_names(imagenet, tmp_path_factory):
    known = data.load("imagenet", imagenet).fingerprint()
    copy = tmp_path_factory.mktemp("copy") / "images"
    shutil.copytree(imagenet, copy)
    assert data.load("imagenet", copy).fingerprint() == known
    (copy / "train" / "n01" / "0.JPEG").rename(copy / "train" / "n01" / "9.JPEG")
    changed = data.load("imagenet", copy).fingerprint()
    assert {key for key in known if known[key] != changed[key]} == {"content"}


def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path):
    grey = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert Image.open(tmp_path / "grey.png").mode.startswith("I;16")
    expected = np.arange(256).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(folders.picture(tmp_path / "grey.png", (16, 16)), expected)
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "wide.tiff")
    assert Image.open(tmp_path / "wide.tiff").mode == "I"
    np.testing.assert_array_equal(folders.picture(tmp_path / "wide.tiff", (16, 16)), expected)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.ones((8, 8), np.float32), "its values are fractions"),
        (np.full((8, 8), -1, np.int32), "its values from -1 to -1 are not those of 16 bits"),
    ],
)
def test_values_whose_white_is_not_known_are_refused_with_the_file(own, values, message):
    Image.fromarray(values).save(own / "red" / "odd.png", format="TIFF")
    with pytest.raises(ValueError, match=rf"odd.png is no picture that can be read \({message}"):
        data.load("pictures", own, image_size=8)


def test_pictures_are_turned_as_their_camera_noted(tmp_path):
    """Orientation 6: the camera was turned, and the left edge of the sensor is the top."""
    stored = np.zeros((8, 8, 3), np.uint8)
    stored[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    upright = folders.picture(tmp_path / "turned.png", (8, 8))
    assert (upright[:4] == 255).all() and (upright[4:] == 0).all()


def bomb(path):
    """A picture of a few bytes that says it is 30,000 pixels wide and high."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_a_picture_too_large_to_decode_is_as_good_as_unreadable(own):
    bomb(own / "red" / "bomb.png")
    with pytest.raises(ValueError, match=r"bomb.png is no picture .*exceeds limit.*skip"):
        data.load("pictures", own, image_size=8)
    lines = []
    data.load("pictures", own, image_size=8, unreadable="skip", say=lines.append)
    assert lines == [f"unreadable files left out: 1, the first {own / 'red' / 'bomb.png'}"]


def test_an_imagenet_picture_too_large_is_left_out_as_well(imagenet):
    bomb(imagenet / "train" / "n02" / "3.JPEG")
    loaded = data.load("imagenet", imagenet, unreadable="skip", say=lambda line: None)
    assert len(loaded.train) == 9


@pytest.mark.parametrize("which", ["train", "test"])
def test_no_class_is_skipped_away(own, which):
    for path in folders._divided(folders._listed(own))[which]["red"]:
        path.write_text("no picture")
    with pytest.raises(ValueError, match=f"{which}: no picture of class red is left, as none"):
        data.load("pictures", own, image_size=8, unreadable="skip", say=lambda line: None)


@pytest.mark.parametrize("which", ["train", "val"])
def test_no_class_of_imagenet_is_skipped_away(imagenet, which):
    for path in (imagenet / which / "n02").iterdir():
        path.write_text("no picture")
    with pytest.raises(ValueError, match=f"{which}: no picture of class n02 is left"):
        data.load("imagenet", imagenet, unreadable="skip", say=lambda line: None)
