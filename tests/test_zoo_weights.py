"""Weights in files and by name: what is loaded is the network that was trained, or an error."""

import dataclasses
import errno
import functools
import http.server
import json
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

import hbnn_larq
from hbnn_larq import rivals, zoo
from hbnn_larq.optimizers import is_base_point
from hbnn_larq.training.recipe import Recipe
from hbnn_larq.zoo import pretrained, weight_files
from hbnn_larq.zoo.publish import publish

SMALL = {"input_shape": (8, 8, 1), "width": 1 / 16}
PLAIN = {**SMALL, "kernel_quantizer": "ste_sign"}


def shaken(model):
    """Weights as after training: nothing is at its initial value any more."""
    rng = np.random.default_rng(3)
    for layer in model.layers:
        for variable in layer.weights:
            scale = 0.3 if is_base_point(variable) else 1.0
            variable.assign(scale * rng.uniform(0.2, 1.0, variable.shape))
        if hasattr(layer, "kernel"):
            layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(4).normal(size=(32, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def trained():
    """A hyperbolic network whose base points matter."""
    model = shaken(zoo.VGGSmall(**SMALL))
    latents = {name: signs for name, signs in hbnn_larq.binary_weights(model).items()}
    plain = zoo.VGGSmall(**PLAIN)
    for layer in plain.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights()[: len(layer.weights)])
    flipped = [np.mean(latents[k] != v) for k, v in hbnn_larq.binary_weights(plain).items()]
    assert min(flipped) > 0.01
    return model


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    architecture = {"input_shape": [8, 8, 1], "num_classes": 10, "width": 1 / 16}
    weight_files.save_weights(trained, folder / "published.npz", architecture=architecture)
    trained.save(folder / "model.keras")
    trained.save(folder / "model.h5")
    trained.save_weights(folder / "weights.h5")
    trained.save_weights(folder / "keras.weights.h5")
    trained.save_weights(folder / "checkpoint")
    hbnn_larq.fold(trained).save(folder / "folded.keras")
    hbnn_larq.fold(trained).save_weights(folder / "folded.h5")
    return folder


EVERY_FORMAT = [
    "published.npz",
    "model.keras",
    "model.h5",
    pytest.param("saved_model", marks=pytest.mark.slow),
    "weights.h5",
    "keras.weights.h5",
    "checkpoint",
    "folded.keras",
    "folded.h5",
]
BY_NAME = [name for name in EVERY_FORMAT if name not in ("keras.weights.h5", "checkpoint")]


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_every_format_gives_the_trained_network(name, files, trained, images):
    if name == "saved_model":
        trained.save(files / name)  # takes long: not for the quick run
    model = zoo.VGGSmall(**SMALL, weights=files / name)
    np.testing.assert_array_equal(model(images), trained(images))


@pytest.mark.parametrize("name", BY_NAME)
def test_network_without_top_equals_the_full_one(name, files, trained, images):
    """larq-zoo #157: weights without a top that had come from another place."""
    if name == "saved_model":
        trained.save(files / name)
    model = zoo.VGGSmall(**SMALL, weights=files / name, include_top=False)
    features = tf.keras.Model(trained.input, trained.get_layer("conv5_act").output)
    np.testing.assert_array_equal(model(images), features(images))


def test_network_without_top_takes_other_sizes(files):
    model = zoo.VGGSmall(weights=files / "published.npz", include_top=False, input_shape=(24, 8, 1))
    assert model.output_shape == (None, 3, 1, 32)


@pytest.mark.parametrize("quantizer", ["hyperbolic", "hyperbolic_boundary", "epc", "ste_sign"])
@pytest.mark.parametrize("name", ["published.npz", "folded.keras", "folded.h5"])
def test_a_folded_network_fits_any_sign_quantizer(name, quantizer, files, trained, images):
    model = zoo.VGGSmall(**SMALL, kernel_quantizer=quantizer, weights=files / name)
    np.testing.assert_array_equal(model(images), trained(images))
    points = [v for v in model.trainable_variables if is_base_point(v)]
    assert all(not np.any(point) for point in points)


def test_published_weights_still_train(files):
    """Latents in the size of a fresh start, not at the edge of the ball."""
    model = zoo.VGGSmall(weights=files / "published.npz")
    fresh = zoo.VGGSmall(**SMALL)
    for layer, new in zip(model.layers, fresh.layers, strict=True):
        if hasattr(layer, "kernel_quantizer"):
            latents = [each.kernel.latent_variable.numpy() for each in (layer, new)]
            sizes = [float(np.sqrt(np.mean(latent**2))) for latent in latents]
            assert sizes[0] == pytest.approx(sizes[1], rel=0.2)


def test_published_file_tells_its_architecture(files):
    model = zoo.VGGSmall(weights=files / "published.npz")
    assert model.input_shape == (None, 8, 8, 1)
    assert weight_files.describe(files / "published.npz")["model"] == "VGGSmall"


def test_published_file_holds_a_bit_for_a_weight(files):
    with np.load(files / "published.npz") as archive:
        assert archive["conv5/kernel_bits"].nbytes == 3 * 3 * 32 * 32 // 8
        assert not any("base_point" in name for name in archive.files)


def test_the_same_weights_give_the_same_bytes(trained, tmp_path):
    first, second = (
        weight_files.save_weights(trained, tmp_path / name, architecture={}) for name in "ab"
    )
    assert first == second == (tmp_path / "a").read_bytes()


def test_float_weights_of_a_twin(tmp_path, images):
    twin = shaken(zoo.VGGSmall(**SMALL, kernel_quantizer=None, input_quantizer=None))
    weight_files.save_weights(twin, tmp_path / "twin.npz", architecture={})
    loaded = zoo.VGGSmall(
        **SMALL, kernel_quantizer=None, input_quantizer=None, weights=tmp_path / "twin.npz"
    )
    np.testing.assert_array_equal(loaded(images), twin(images))


# Files that do not fit


def damaged(files, tmp_path, name):
    copy = tmp_path / name
    content = (files / name).read_bytes()
    copy.write_bytes(content[: len(content) // 2])
    return copy


@pytest.mark.parametrize("name", ["published.npz", "weights.h5", "model.h5"])
def test_damaged_files_are_named(name, files, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}'?: the file is damaged, or not what its name"):
        zoo.VGGSmall(**SMALL, weights=damaged(files, tmp_path, name))


def test_damaged_keras_file_is_named(files, tmp_path):
    with pytest.raises(ValueError, match=r"model.keras' is not a Keras model that can be loaded"):
        zoo.VGGSmall(**SMALL, weights=damaged(files, tmp_path, "model.keras"))


def test_flipped_bit_in_a_published_file_is_found(files, tmp_path):
    content = bytearray((files / "published.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad.npz': the file is damaged"):
        zoo.VGGSmall(weights=tmp_path / "bad.npz")


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"weights='runs/none.h5': there is no such file"):
        zoo.VGGSmall(weights="runs/none.h5")
    with pytest.raises(FileNotFoundError, match=r"none.npz': there is no such file"):
        zoo.VGGSmall(weights="runs/none.npz")


def test_unknown_kind_of_file_is_named(tmp_path):
    (tmp_path / "weights.txt").write_text("")
    with pytest.raises(ValueError, match=r"weights.txt'.*not a weights file by its name"):
        zoo.VGGSmall(weights=tmp_path / "weights.txt")


@pytest.mark.parametrize("format", ["weights.h5", "model.keras"])
def test_top_less_file_in_a_full_network(format, tmp_path):
    backbone = zoo.VGGSmall(**PLAIN, include_top=False)
    (backbone.save if "keras" in format else backbone.save_weights)(tmp_path / f"x{format}")
    with pytest.raises(ValueError, match=r"no weights for 'fc'.*without top.*include_top=False"):
        zoo.VGGSmall(**PLAIN, weights=tmp_path / f"x{format}")


def test_file_of_another_network(tmp_path):
    other = zoo.ResNet20(input_shape=(8, 8, 1), width=0.25, kernel_quantizer="ste_sign")
    other.save_weights(tmp_path / "other.h5")
    with pytest.raises(ValueError, match=r"belongs to another network than this VGGSmall"):
        zoo.VGGSmall(**PLAIN, weights=tmp_path / "other.h5")
    weight_files.save_weights(other, tmp_path / "other.npz", architecture={})
    with pytest.raises(ValueError, match=r"the file holds a ResNet20"):
        zoo.VGGSmall(**PLAIN, weights=tmp_path / "other.npz")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"width": 1 / 8}, "conv0/kernel has shape .*, in the file .*another width"),
        ({"num_classes": 7}, r"fc/kernel has shape \(32, 7\), in the file \(32, 10\)"),
        ({"input_shape": (16, 16, 1)}, "fc/kernel has shape .*Is it of another width, input"),
    ],
)
def test_weights_of_another_shape(arguments, message, files):
    with pytest.raises(ValueError, match=message):
        zoo.VGGSmall(**{**SMALL, **arguments}, weights=files / "weights.h5")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"width": 0.5}, r"width=0.5\): these weights were trained with width=0.0625. Leave width"),
        ({"num_classes": 7}, r"num_classes=7\): these weights were trained with num_classes=10"),
        ({"input_shape": (16, 16, 1)}, r"input_shape=\(8, 8, 1\); include_top=False takes other"),
        ({"input_shape": (8, 8, 3)}, r"trained with input_shape=\(8, 8, 1\)\."),
    ],
)
def test_other_architecture_than_the_published_one(arguments, message, files):
    with pytest.raises(ValueError, match=message):
        zoo.VGGSmall(**arguments, weights=files / "published.npz")


def test_latents_of_base_points_are_not_taken_for_plain_weights(files):
    for name in ("weights.h5", "model.keras", "model.h5"):
        with pytest.raises(ValueError, match=r"trained with base points.*has none.*fold"):
            zoo.VGGSmall(**PLAIN, weights=files / name)
    with pytest.raises(ValueError, match=r"holds base points.*this model has none"):
        zoo.VGGSmall(**PLAIN, weights=files / "checkpoint")


def test_another_radius_is_another_network(files):
    other = hbnn_larq.quantizers.Hyperbolic(r=2.0)
    message = r"turns \d+ of \d+ signs.*trained with Hyperbolic\(r=0.05.*Hyperbolic\(r=2.0"
    with pytest.raises(ValueError, match=message):
        zoo.VGGSmall(**SMALL, kernel_quantizer=other, weights=files / "model.keras")


def test_activations_of_a_whole_model_are_part_of_it(tmp_path, images):
    """Its file tells them; a gradient may differ, and so may real activations, to begin with."""
    source = shaken(zoo.VGGSmall(**PLAIN, input_quantizer=lq.quantizers.DoReFa(k_bit=3)))
    source.save(tmp_path / "model.keras")
    message = (
        r"conv1' was trained with the input quantizer .*'k_bit': 3.* has .*ApproxSign.*Pass in"
    )
    with pytest.raises(ValueError, match=message):
        zoo.VGGSmall(**PLAIN, weights=tmp_path / "model.keras")
    for activations in (lq.quantizers.DoReFa(k_bit=3), None):
        model = zoo.VGGSmall(**PLAIN, weights=tmp_path / "model.keras", input_quantizer=activations)
        assert np.array_equal(model(images), source(images)) == (activations is not None)


def test_plain_sign_weights_warm_start_a_hyperbolic_network(tmp_path, images):
    plain = shaken(zoo.VGGSmall(**PLAIN))
    plain.save_weights(tmp_path / "plain.h5")
    warm = zoo.VGGSmall(**SMALL, weights=tmp_path / "plain.h5")
    np.testing.assert_array_equal(warm(images), plain(images))


def test_signs_do_not_fit_a_quantizer_with_zeros(files):
    with pytest.raises(ValueError, match=r"these weights are signs.*SteHeaviside.*sign quantizer"):
        zoo.VGGSmall(**SMALL, kernel_quantizer="ste_heaviside", weights=files / "published.npz")


@pytest.mark.parametrize(
    "quantizer, named", [(None, "None"), ("dorefa_quantizer", "DoReFa"), ("ste_tern", "SteTern")]
)
def test_weights_that_are_no_signs_are_not_published(quantizer, named, run, tmp_path):
    model = shaken(zoo.VGGSmall(**SMALL, kernel_quantizer=quantizer))
    model.save(run / "model.keras")
    message = (
        rf"run'\): the weights of layer 'conv1' are no signs \(its kernel quantizer: {named}\), and"
        r".*Use the model itself: weights='.*run/model.keras'"
    )
    with pytest.raises(ValueError, match=message):
        publish(run, tmp_path / "mirror")
    assert not (tmp_path / "mirror").exists()


def test_scaled_signs_are_not_published(tmp_path):
    model = shaken(zoo.VGGSmall(**SMALL, kernel_quantizer="magnitude_aware_sign"))
    with pytest.raises(ValueError, match=r"MagnitudeAwareSign\) gives scaled signs"):
        weight_files.save_weights(model, tmp_path / "x.npz", architecture={})
    assert list(tmp_path.iterdir()) == []


# The registry


def test_every_row_builds_its_network_and_names_a_command():
    for row in zoo.list_pretrained():
        assert row.model in zoo.MODELS
        assert row.train.startswith("hbnn train ")
        assert "file" in dataclasses.asdict(row)
    assert ("VGGSmall", "digits") in {(row.model, row.weights) for row in zoo.list_pretrained()}


def test_commands_of_the_registry_name_recipes():
    from hbnn_larq.training.recipes import RECIPES

    commands = {row.train.split()[2] for row in zoo.list_pretrained()}
    assert commands <= set(RECIPES)


def test_rows_with_a_file_have_a_right_one():
    for row in zoo.list_pretrained():
        if row.file is None:
            continue
        path = pretrained.PACKAGED / row.file
        assert path.exists()
        assert path.stat().st_size == row.bytes < 1_000_000
        model = getattr(zoo, row.model)(weights=row.weights)
        card = json.loads((pretrained.PACKAGED / row.card).read_text())
        assert card["sha256"] == row.sha256
        assert {"recipe", "seed", "command", "metrics", "versions", "licence", "data"} <= set(card)
        assert list(model.input_shape[1:]) == row.architecture["input_shape"]


def test_untrained_weights_name_the_command(monkeypatch):
    monkeypatch.delenv(pretrained.BASE_VARIABLE, raising=False)
    message = r"not been trained and published yet. Train them with `hbnn train cifar10-resnet18"
    with pytest.raises(ValueError, match=message):
        zoo.ResNet18(weights="cifar10")


def test_unknown_name_lists_the_known():
    message = r"`weights` argument should be either `None`.*ResNet18 knows 'cifar10', 'cifar100'"
    with pytest.raises(ValueError, match=message):
        zoo.ResNet18(weights="cifar")
    with pytest.raises(ValueError, match=r"ResNet20 has no pretrained ones; 'digits' is for VGGS"):
        zoo.ResNet20(weights="digits")


# Publishing


def run_folder(files, folder):
    folder.mkdir()
    shutil.copy(files / "model.keras", folder)
    recipe = Recipe("tiny", "a test", dataset="toys", model="vgg_small", width=1 / 16, seed=5)
    results = {
        "recipe": json.loads(recipe.to_json()),
        "history": [],
        "images": {"train": 3, "validation": 2, "test": 1},
        "input": {"class_names": ["a", "b", "c"], "mean": [0.5], "scale": [2.0], "white": 255.0},
        "accuracy": {"test_top1": 91.5},
        "steps": 9,
        "versions": {"larq": "0.14"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def run(files, tmp_path):
    """What `hbnn train` leaves behind, as far as publishing needs it."""
    return run_folder(files, tmp_path / "run")


@pytest.fixture(scope="module")
def publication(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("publication")
    return folder / "mirror", *publish(run_folder(files, folder / "run"), folder / "mirror")


@pytest.fixture
def mirror(publication, tmp_path, monkeypatch):
    """A copy for this test alone, which may take it apart."""
    published, row, card = publication
    shutil.copytree(published, tmp_path / "mirror")
    monkeypatch.setenv(pretrained.BASE_VARIABLE, str(tmp_path / "mirror"))
    monkeypatch.setenv(pretrained.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "mirror", row, card


def test_a_rival_is_published_without_what_only_training_needs(run, tmp_path, images):
    def rival():
        return rivals.Mapped("hyperbolic", "irnet")

    trained = shaken(zoo.VGGSmall(**SMALL, kernel_quantizer=rival, num_classes=3))
    trained.save(run / "model.keras")
    row, _ = publish(run, tmp_path / "mirror")
    file = tmp_path / "mirror" / row.file
    with np.load(file) as archive:
        assert not [name for name in archive.files if "progress" in name]
    for quantizer in ("hyperbolic", "ste_sign", rival):
        model = zoo.VGGSmall(weights=file, kernel_quantizer=quantizer)
        np.testing.assert_array_equal(model(images), trained(images))


def test_latent_weights_do_not_go_without_the_clock_of_their_quantizer(files, tmp_path):
    plain = shaken(zoo.VGGSmall(**PLAIN))
    plain.save_weights(tmp_path / "plain.h5")
    with pytest.raises(ValueError, match="has the variables"):
        zoo.VGGSmall(**{**PLAIN, "kernel_quantizer": "irnet"}, weights=tmp_path / "plain.h5")


def test_publishing_does_not_warn_of_starved_weights(run, tmp_path, caplog):
    publish(run, tmp_path / "mirror")
    assert "starved" not in caplog.text


def test_the_card_says_what_the_network_takes_and_tells_apart(mirror, run):
    _, _, card = mirror
    assert card["input"] == json.loads((run / "results.json").read_text())["input"]


def test_published_run_loads_by_name(mirror, trained, images):
    model = zoo.VGGSmall(weights="toys")
    np.testing.assert_array_equal(model(images), trained(images))


def test_publish_writes_file_card_and_row(mirror):
    folder, row, card = mirror
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [row.file, row.card, "registry.json"]
    )
    assert row.file == f"vggsmall-toys-{row.sha256[:8]}.npz"
    assert json.loads((folder / row.card).read_text()) == card
    assert card["metrics"] == {"test_top1": 91.5}
    assert card["seed"] == 5
    assert card["command"] == "hbnn train tiny --workdir runs/tiny"
    assert card["licence"] == "Apache-2.0"
    assert card["versions"]["larq"] == "0.14"
    assert pretrained.sha256_of(folder / row.file) == row.sha256


def test_publishing_again_replaces_the_row(mirror, run):
    folder, row, _ = mirror
    publish(run, folder, weights="others")
    publish(run, folder)
    rows = pretrained.read_registry(folder / "registry.json")
    assert [r.weights for r in rows] == ["toys", "others"]
    assert rows[0] == row


def test_a_new_version_takes_the_place_of_the_old(mirror, run, trained, tmp_path):
    folder, old, _ = mirror
    other = hbnn_larq.fold(trained)
    other.get_layer("fc").bias.assign_add(np.ones(10))
    other.save(run / "model.keras")
    new, _ = publish(run, folder)
    assert new.file != old.file
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [new.file, new.card, "registry.json"]
    )


def test_normalisation_must_be_that_of_preprocess_input(run, tmp_path):
    message = r"constants of 'dataset', preprocess_input\(..., 'cifar10'\) with .*'imagenet'"
    with pytest.raises(ValueError, match=message):
        publish(run, tmp_path / "mirror", weights="cifar10")


def test_a_name_of_the_package_is_not_published(run, tmp_path, monkeypatch):
    """`weights=` would go on to mean what the package has."""
    packaged = pretrained.Pretrained("VGGSmall", "toys", {}, "hbnn train x", "x.npz", "0" * 64)
    waiting = pretrained.Pretrained("VGGSmall", "waiting", {}, "hbnn train x")
    folder = tmp_path / "packaged"
    folder.mkdir()
    pretrained.write_registry(folder / "registry.json", [packaged, waiting])
    monkeypatch.setattr(pretrained, "PACKAGED", folder)
    message = (
        r"run'\): weights='toys' of VGGSmall means those in the package.*another name \(--name"
    )
    with pytest.raises(ValueError, match=message):
        publish(run, tmp_path / "mirror")
    assert not (tmp_path / "mirror").exists()
    publish(run, tmp_path / "mirror", weights="waiting")
    assert publish(run, folder)[0].sha256 != packaged.sha256  # a new version of the package's own


@pytest.mark.parametrize(
    "name", ["a/b", "../up", "..", "", " a", "a ", "v1.0", "a\nb", "-a", "a?b"]
)
def test_names_that_weights_could_not_mean_are_not_published(name, run, tmp_path):
    message = rf"run', weights={re.escape(repr(name))}\): a name is made of letters.*\(--name\)"
    with pytest.raises(ValueError, match=message):
        publish(run, tmp_path / "mirror", weights=name)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_cannot_be_one_is_not_out_of_space(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"cannot write in .*/file \(File exists\); .*Name another fo"
    ):
        publish(run, tmp_path / "file")


def test_a_changed_file_of_a_folder_names_both_hashes(mirror):
    folder, row, _ = mirror
    (folder / row.file).write_bytes(b"changed")
    with pytest.raises(ValueError, match=rf"expected sha256 {row.sha256}, got [0-9a-f]{{64}}"):
        zoo.VGGSmall(weights="toys")


def test_a_missing_file_of_a_folder_is_named(mirror):
    folder, row, _ = mirror
    (folder / row.file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"there is no {row.file} in .*mirror"):
        zoo.VGGSmall(weights="toys")


def test_a_run_that_goes_further_is_published_as_far_as_it_was_finished(run, tmp_path):
    """`recipe.json` tells what is being trained, the results what the weights were trained by."""
    finished = json.loads((run / "results.json").read_text())["recipe"]
    (run / "recipe.json").write_text(json.dumps({**finished, "seed": 6, "width": 1.0}))
    _, card = publish(run, tmp_path / "mirror")
    assert (card["recipe"], card["seed"]) == (finished, 5)


@pytest.mark.parametrize("name", ["model.keras", "results.json"])
def test_unfinished_run_is_named(name, run, tmp_path):
    (run / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"there is no {name}, so this is no finished run"):
        publish(run, tmp_path / "mirror")
    assert not (tmp_path / "mirror").exists()


def test_a_wrong_recipe_publishes_nothing(run, tmp_path):
    results = json.loads((run / "results.json").read_text())
    results["recipe"]["width"] = 1 / 8
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"conv0/kernel has shape"):
        publish(run, tmp_path / "mirror")
    assert list((tmp_path / "mirror").iterdir()) == []


@pytest.mark.parametrize("part", ["npz", "card", "registry"])
@pytest.mark.parametrize("again", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_full_disk_publishes_nothing(part, again, run, mirror, tmp_path, monkeypatch):
    """Whichever of the three files does not fit: what was there stays as it was, and that is all"""
    folder = mirror[0] if again else tmp_path / "fresh"
    before = {p: p.read_bytes() for p in folder.iterdir()} if again else {}
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "accuracy": {"test_top1": 92.0}}))
    write_bytes, write_text = Path.write_bytes, Path.write_text

    def full(write):
        def fails(path, content, *args, **kwargs):
            if part in path.name:
                write(path, content[:10], *args, **kwargs)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, content, *args, **kwargs)

        return fails

    monkeypatch.setattr(Path, "write_bytes", full(write_bytes))
    monkeypatch.setattr(Path, "write_text", full(write_text))
    with pytest.raises(OSError, match=r"cannot write in .* \(No space left on device\); nothing"):
        publish(run, folder)
    after = {p: p.read_bytes() for p in folder.iterdir()}
    assert after.keys() == before.keys()
    assert {p for p in before if p.suffix != ".json"} <= {p for p in after if after[p] == before[p]}


def test_a_registry_does_not_reach_beyond_its_folder(mirror, tmp_path):
    """It may be served by anybody, and so may the hash in it."""
    registry = mirror[0] / "registry.json"
    registry.write_text(registry.read_text().replace(mirror[1].file, f"../{mirror[1].file}"))
    with pytest.raises(ValueError, match=rf"'../{mirror[1].file}' is no plain name of a file"):
        zoo.VGGSmall(weights="toys")


# Sign, sign of what is above an image's mean, k bits, ReLU: other networks with the same weights.
ACTIVATIONS = {
    "approx_sign": lambda: "approx_sign",
    "rbnn_sign": lambda: "rbnn_sign",
    "ede_sign": lambda: rivals.EDESign(t_min=0.2, t_max=7.0),
    "dorefa": lambda: lq.quantizers.DoReFa(k_bit=3),
    "real": lambda: None,
}


@pytest.fixture
def published_with(run, tmp_path, monkeypatch):
    """Publishes a network with these activations as "toys", and gives the network."""

    def published(activations):
        model = shaken(zoo.VGGSmall(**SMALL, input_quantizer=activations))
        model.save(run / "model.keras")
        row, _ = publish(run, tmp_path / "mirror")
        monkeypatch.setenv(pretrained.BASE_VARIABLE, str(tmp_path / "mirror"))
        return model, tmp_path / "mirror" / row.file

    return published


def activations_of(model):
    quantizer = model.get_layer("conv1").input_quantizer
    names = ("name", "trainable", "dtype")
    config = quantizer.get_config().items() if quantizer is not None else ()
    return type(quantizer), {k: v for k, v in config if k not in names}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_come_with_the_weights(name, published_with, images):
    trained, file = published_with(ACTIVATIONS[name]())
    for weights in ("toys", file):
        model = zoo.VGGSmall(weights=weights)
        np.testing.assert_array_equal(model(images), trained(images))
        assert activations_of(model) == activations_of(trained)


@pytest.mark.parametrize(
    "kind, given, told",
    [
        ("approx_sign", "rbnn_sign", r"'rbnn_sign'\): .* trained with .*'ApproxSign'"),
        ("rbnn_sign", "approx_sign", r"'approx_sign'\): .* trained with .*'RBNNSign', .*t_min"),
        ("dorefa", "dorefa_quantizer", r"'dorefa_quantizer'\): .* trained with .*'k_bit': 3"),
        ("approx_sign", None, r"None\): these weights were trained with binary activations"),
        ("real", "approx_sign", r"'approx_sign'\): these weights were trained with real activ"),
    ],
)
def test_other_activations_than_those_of_the_weights(kind, given, told, published_with):
    _, file = published_with(ACTIVATIONS[kind]())
    for weights in ("toys", file):
        with pytest.raises(ValueError, match=f"input_quantizer={told}.*Leave input_quantizer out"):
            zoo.VGGSmall(weights=weights, input_quantizer=given)


@pytest.mark.parametrize("given", ["ste_sign", lambda: rivals.EDESign(t_max=3.0), "approx_sign"])
def test_activations_may_differ_in_their_gradient(given, published_with, images):
    """To train on with: the network is the same."""
    trained, _ = published_with("ede_sign")
    model = zoo.VGGSmall(weights="toys", input_quantizer=given)
    np.testing.assert_array_equal(model(images), trained(images))
    assert activations_of(model) == activations_of(zoo.VGGSmall(**SMALL, input_quantizer=given))


def test_weights_published_before_activations_were_recorded(files, trained, images):
    """As those in the package: only whether activations are binary is known of them."""
    assert "input_quantizer" not in weight_files.describe(files / "published.npz")["architecture"]
    for given in ({}, {"input_quantizer": "ste_sign"}):
        model = zoo.VGGSmall(weights=files / "published.npz", **given)
        np.testing.assert_array_equal(model(images), trained(images))
    with pytest.raises(ValueError, match=r"binary activations. Leave input_quantizer out"):
        zoo.VGGSmall(weights=files / "published.npz", input_quantizer=None)
    packaged = zoo.VGGSmall(weights="digits")
    assert activations_of(packaged) == (lq.quantizers.ApproxSign, {})


def test_activations_of_several_kinds_are_not_published(run, tmp_path):
    """The record has room for one."""
    kinds = iter(["rbnn_sign", *["approx_sign"] * 4])
    shaken(zoo.VGGSmall(**SMALL, input_quantizer=lambda: next(kinds))).save(run / "model.keras")
    message = r"'conv2' has the input quantizer .*ApproxSign.* before it .*RBNNSign.* one for all"
    with pytest.raises(ValueError, match=message):
        publish(run, tmp_path / "mirror")
    assert not (tmp_path / "mirror").exists()


def test_damaged_registry_is_named(mirror):
    (mirror[0] / "registry.json").write_text("{}")
    with pytest.raises(ValueError, match=r"registry.json is no registry of weights"):
        zoo.VGGSmall(weights="toys")


# Over HTTP: the whole way from a name to a network


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; the server may have other bytes to answer with, and break off."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if server.answer is None or not self.path.endswith("registry.json"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.answer)))
        self.end_headers()
        self.wfile.write(server.answer[: server.cut_after])


@pytest.fixture
def server(mirror, monkeypatch):
    handler = functools.partial(Handler, directory=str(mirror[0]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.answer, server.cut_after, server.ranges = None, None, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv(pretrained.BASE_VARIABLE, f"{server.url}/")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def served(mirror, server):
    return mirror


@pytest.fixture
def offline(monkeypatch):
    """Called, it takes the network away."""

    def unplug():
        def fails(*args, **kwargs):
            raise urllib.error.URLError(OSError("network is unreachable"))

        monkeypatch.setattr(urllib.request, "urlopen", fails)

    return unplug


def test_weights_by_name_from_a_server_and_then_offline(served, trained, images, offline):
    first = zoo.VGGSmall(weights="toys")
    np.testing.assert_array_equal(first(images), trained(images))
    offline()
    again = zoo.VGGSmall(weights="toys")
    np.testing.assert_array_equal(again(images), trained(images))


@pytest.mark.parametrize("name", ["a b", "ü", "a_b-2"])
def test_every_name_that_is_published_is_found_over_http(name, served, run, trained, images):
    publish(run, served[0], weights=name)
    np.testing.assert_array_equal(zoo.VGGSmall(weights=name)(images), trained(images))


def test_offline_without_a_cache_says_so(served, offline):
    offline()
    with pytest.raises(ConnectionError, match="cannot be reached"):
        zoo.VGGSmall(weights="toys")


def test_a_damaged_cache_is_fetched_again(served, tmp_path, trained, images):
    zoo.VGGSmall(weights="toys")
    cached = tmp_path / "cache" / served[1].file
    cached.write_bytes(b"rotten")
    model = zoo.VGGSmall(weights="toys")
    np.testing.assert_array_equal(model(images), trained(images))
    assert pretrained.sha256_of(cached) == served[1].sha256


def test_a_mirror_without_a_registry_serves_files_only(served):
    (served[0] / "registry.json").unlink()
    with pytest.raises(ValueError, match="VGGSmall knows 'digits'"):
        zoo.VGGSmall(weights="toys")
    path = pretrained.fetch(served[1])
    assert pretrained.sha256_of(path) == served[1].sha256


def test_all_who_ask_a_server_at_once_are_told(served, tmp_path, monkeypatch):
    """On an empty cache, where whoever comes second finds the first one's file half moved."""
    for turn in range(10):
        monkeypatch.setenv(pretrained.CACHE_VARIABLE, str(tmp_path / f"cache{turn}"))
        with ThreadPoolExecutor(8) as pool:
            rows = list(pool.map(lambda _: pretrained.find("VGGSmall", "toys"), range(8)))
        assert rows == [served[1]] * 8
        assert len(list((tmp_path / f"cache{turn}").iterdir())) == 1


def names():
    return [row.weights for row in zoo.list_pretrained() if row.weights in ("toys", "others")]


@pytest.mark.parametrize(
    "answer", [b"<html>Log in to this network</html>", b"{}", b"[1]", b"\xff\xfe", b""]
)
def test_an_answer_that_is_no_registry_does_not_take_the_place_of_one(answer, server, offline):
    """As that of a network that wants a login first."""
    server.answer = answer
    with pytest.raises(ValueError, match=rf"{server.url}/registry.json is no registry of weights"):
        names()
    server.answer = None
    assert names() == ["toys"]
    server.answer = answer
    with pytest.warns(
        UserWarning, match=rf"{server.url}/registry.json is no registry.*one kept from an ear"
    ):
        assert names() == ["toys"]
    offline()
    assert names() == ["toys"]


def test_a_registry_that_broke_off_is_never_gone_on_with(server, served, run, tmp_path):
    """It may be another one by then, of which no part fits the old."""
    server.answer, server.cut_after = (served[0] / "registry.json").read_bytes(), 400
    with pytest.raises(ConnectionError, match=r"broke off after 400 bytes. Without a network"):
        names()
    cache = tmp_path / "cache"
    assert not cache.exists() or list(cache.iterdir()) == []
    publish(run, served[0], weights="others")
    server.answer = None
    assert names() == ["toys", "others"]
    server.answer, server.cut_after = b"x" * 500, 400
    assert names() == ["toys", "others"]
    assert server.ranges == [None] * len(server.ranges)


# A base that is not what it should be


@pytest.mark.parametrize("base", ["nowhere", "file:///tmp", "htp://example.org"])
def test_a_base_that_is_not_there_is_named(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(pretrained.BASE_VARIABLE, base)
    message = rf"'{base}'.*there is no such folder, and it is no http.*{pretrained.BASE_VARIABLE}"
    with pytest.raises(FileNotFoundError, match=message):
        zoo.list_pretrained()
    with pytest.raises(FileNotFoundError, match=message):
        zoo.VGGSmall(weights="mine")
    zoo.VGGSmall(weights="digits")  # the package is asked first


@pytest.mark.parametrize("remote", [False, True])
def test_a_base_without_a_registry_is_named(remote, mirror, request):
    base = request.getfixturevalue("server").url if remote else str(mirror[0])
    (mirror[0] / "registry.json").unlink()
    with pytest.raises(ValueError, match=rf"VGGSmall knows 'digits'.*; {base}/? has no registry.j"):
        zoo.VGGSmall(weights="toys")
    with pytest.warns(UserWarning, match=rf"{base}/? has no registry.json.*package.s weights only"):
        assert names() == []


def test_an_unknown_name_lists_those_of_the_base_too(mirror):
    with pytest.raises(ValueError, match=r"VGGSmall knows 'digits', .*, 'toys'\."):
        zoo.VGGSmall(weights="toy")


def test_a_listing_without_a_base_warns_of_nothing(monkeypatch):
    monkeypatch.delenv(pretrained.BASE_VARIABLE, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.list_pretrained()
