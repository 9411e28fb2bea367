"""hbnn convert, report, predict, benchmark: what they print, and their exit codes."""

import json

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq.edge import Benchmark, benchmark, convert, device, timing
from hbnn_larq.training.cli import main

pytest.importorskip("larq_compute_engine")


def digits_net(channels=1, classes=10, **conv):
    settings = {"padding": "same", "pad_values": 1.0, "use_bias": False, **conv}
    model = tf.keras.Sequential(
        [
            tf.keras.Input((16, 16, channels)),
            tf.keras.layers.Conv2D(32, 3, padding="same"),
            tf.keras.layers.BatchNormalization(),
            lq.layers.QuantConv2D(
                32, 3, input_quantizer="ste_sign", kernel_quantizer="hyperbolic", **settings
            ),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.GlobalAveragePooling2D(),
            tf.keras.layers.Dense(classes),
        ],
        name="digits_net",
    )
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and its file, converted by the command itself."""
    path = tmp_path_factory.mktemp("cli")
    tf.keras.utils.set_random_seed(0)
    digits_net().save(path / "net.keras")
    words = [str(path / "net.keras"), "-o", str(path / "net.tflite"), "--data", "digits"]
    assert main(["convert", *words]) == 0
    return path


def test_convert_prints_the_report_and_saves(folder, capsys, tmp_path):
    out = tmp_path / "again.tflite"
    code = main(["convert", str(folder / "net.keras"), "-o", str(out), "--data", "digits"])
    text = capsys.readouterr().out
    assert code == 0
    assert "# digits_net: OK" in text and "1 of 1 1-bit kernels are binary" in text
    assert text.endswith(f"saved {out}\n")
    assert out.read_bytes() == (folder / "net.tflite").read_bytes()


def test_convert_exits_1_where_a_layer_lands_in_float(tmp_path, capsys):
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 32)),
            lq.layers.QuantConv2D(32, 3, kernel_quantizer="ste_sign", name="weight_only"),
        ]
    )
    model.save(tmp_path / "net.keras")
    code = main(
        ["convert", str(tmp_path / "net.keras"), "-o", str(tmp_path / "net.tflite"), "--json"]
    )
    result = json.loads(capsys.readouterr().out)
    assert code == 1 and result["ok"] is False
    assert "weight_only: asked for 1-bit weights, computed by CONV_2D" in result["faults"][0]


def test_convert_exits_2_when_used_wrongly(folder, tmp_path, capsys):
    net, out = str(folder / "net.keras"), str(tmp_path / "x.tflite")
    assert main(["convert", str(tmp_path / "no.keras"), "-o", out]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
    assert main(["convert", net, "-o", str(tmp_path / "no" / "x.tflite")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    (tmp_path / "labels.txt").write_text("a\nb\n")
    assert main(["convert", net, "-o", out, "--labels", str(tmp_path / "labels.txt")]) == 2
    assert "got 2 labels for 10 outputs" in capsys.readouterr().err
    assert main(["convert", net, "-o", out, "--data", "generated"]) == 2
    assert "the model takes (16, 16, 1)" in capsys.readouterr().err
    assert main(["convert", net, "-o", out, "--images", "0"]) == 2
    assert "compare on at least 1 image" in capsys.readouterr().err


def test_convert_to_int8(folder, tmp_path, capsys):
    words = ["convert", str(folder / "net.keras"), "-o", str(tmp_path / "net.tflite"), "--int8"]
    assert main(words) == 2
    assert "name them with --data" in capsys.readouterr().err
    assert main([*words, "--data", "digits"]) == 0
    assert "Dense computes in int8" in capsys.readouterr().out


def test_report(folder, capsys):
    words = ["report", str(folder / "net.keras"), str(folder / "net.tflite"), "--images", "8"]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["ok"] and result["agreement"]["images"] == 8
    assert result["sizes"]["float"] > result["sizes"]["int8"] > 0
    assert "random noise" in captured.err
    assert main([*words, "--no-twins"]) == 0
    assert "Int8 twin" not in capsys.readouterr().out


def test_predict_uses_preprocessing_and_labels_of_the_file(folder, tmp_path, capsys):
    from hbnn_larq.edge import predict
    from hbnn_larq.training import data

    dataset = data.load("digits")
    raw = dataset.test.images[0]  # 0 to 16; an image file has 0 to 255
    np.save(tmp_path / "scan.npy", raw * np.float32(255 / 16))
    assert main(["predict", str(folder / "net.tflite"), str(tmp_path / "scan.npy"), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    logits = predict(folder / "net.tflite", dataset.normalize(raw[np.newaxis]))[0]
    assert result["classes"][0]["class"] == int(np.argmax(logits))
    assert result["classes"][0]["label"] == dataset.class_names[int(np.argmax(logits))]
    assert len(result["classes"]) == 3
    assert result["classes"][0]["probability"] == pytest.approx(
        np.exp(logits.max()) / np.exp(logits).sum(), rel=1e-4
    )


def test_an_image_file_gives_what_keras_gives_for_its_pixels(folder, tmp_path, capsys):
    """From a PNG through the file's own preprocessing to the probability, against Keras."""
    from hbnn_larq.training import data

    dataset = data.load("digits")
    raw = dataset.test.images[3]
    pixels = np.round(raw * (255 / 16)).astype(np.uint8)
    (tmp_path / "scan.png").write_bytes(tf.io.encode_png(pixels).numpy())
    words = [str(folder / "net.tflite"), str(tmp_path / "scan.png"), "--json"]
    assert main(["predict", *words]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    model = tf.keras.models.load_model(folder / "net.keras")
    seen = dataset.normalize(pixels[np.newaxis] * (16 / 255))
    probability = float(np.max(tf.nn.softmax(model(seen))))
    assert result["classes"][0]["probability"] == pytest.approx(probability, rel=1e-4)


def test_predict_reads_and_resizes_image_files(folder, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 1), np.uint8)
    (tmp_path / "scan.png").write_bytes(tf.io.encode_png(pixels).numpy())
    assert main(["predict", str(folder / "net.tflite"), str(tmp_path / "scan.png")]) == 0
    assert "scan.png: " in capsys.readouterr().out
    (tmp_path / "text.png").write_text("no image")
    assert main(["predict", str(folder / "net.tflite"), str(tmp_path / "text.png")]) == 2
    said = capsys.readouterr().err
    assert "is no picture that can be read (cannot identify image file" in said
    assert main(["predict", str(folder), "image.png"]) == 2
    assert f"Convert the run first: hbnn convert {folder} -o FILE.tflite" in capsys.readouterr().err
    assert main(["predict", str(folder / "net.tflite"), str(tmp_path / "none.png")]) == 2
    assert "there is no image" in capsys.readouterr().err


def test_predict_takes_the_middle_as_training_on_pictures_does(folder, tmp_path, capsys):
    """A wide photo is cropped, not squeezed."""
    rng = np.random.default_rng(0)
    middle = rng.integers(0, 256, (16, 16, 1), np.uint8)
    side = np.full((16, 8, 1), 255, np.uint8)
    wide = np.concatenate([side, middle, side], axis=1)
    for name, pixels in (("middle", middle), ("wide", wide)):
        (tmp_path / f"{name}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    paths = [str(tmp_path / f"{name}.png") for name in ("middle", "wide")]
    assert main(["predict", str(folder / "net.tflite"), *paths, "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert one["classes"] == two["classes"]


def test_predict_reads_a_photo_as_training_does(tmp_path):
    """Turned as the camera noted, scaled and cropped alike, to the last bit."""
    from PIL import Image

    from hbnn_larq.training import folders
    from hbnn_larq.training.cli import edge_commands

    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (30, 50, 3), np.uint8))
    exif = photo.getexif()
    exif[274] = 6  # a quarter turn
    photo.save(tmp_path / "photo.jpg", exif=exif)
    seen = edge_commands._pixels(str(tmp_path / "photo.jpg"), (16, 16, 3))
    np.testing.assert_array_equal(seen, folders.picture(tmp_path / "photo.jpg", (16, 16)))
    grey = np.asarray(photo.convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    seen = edge_commands._pixels(str(tmp_path / "grey.png"), (30, 50, 1))
    np.testing.assert_array_equal(seen[..., 0], grey)


@pytest.fixture
def pictures_run(tmp_path):
    """A run on a user's own pictures, as `hbnn train` leaves it, and the folder of the pictures."""
    from hbnn_larq.training import data, recipes

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (18, 16, 3), np.uint8)
            path = tmp_path / "own" / name / f"{number}.png"
            path.write_bytes(tf.io.encode_png(pixels).numpy())
    recipe = recipes.find("digits").changed(dataset="pictures", image_size=16)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(recipe.to_json())
    dataset = data.load("pictures", tmp_path / "own", image_size=16)
    seen = {"class_names": ["cat", "dog"], "white": 255.0}
    seen |= {"mean": list(dataset.mean), "scale": list(dataset.scale)}
    results = {"recipe": json.loads(recipe.to_json()), "accuracy": {}, "history": []}
    results |= {"images": {"train": 24}, "data": dataset.fingerprint(), "input": seen}
    (run / "results.json").write_text(json.dumps(results))
    digits_net(channels=3, classes=2).save(run / "model.keras")
    return run, tmp_path / "own"


def test_a_run_on_own_pictures_converts_with_their_folder(pictures_run, tmp_path, capsys):
    from hbnn_larq.edge import metadata
    from hbnn_larq.training import data

    run, own = pictures_run
    words = [str(run), "-o", str(tmp_path / "net.tflite"), "--no-twins", "--json"]
    assert main(["convert", *words]) == 2
    assert "say where its files are with --data FOLDER" in capsys.readouterr().err
    assert main(["convert", *words, "--data", str(own), "--int8"]) in (0, 1)
    dataset = data.load("pictures", own, image_size=16)
    assert json.loads(capsys.readouterr().out)["agreement"]["images"] == len(dataset.test) > 0
    record = metadata.read((tmp_path / "net.tflite").read_bytes())
    assert record.labels == ("cat", "dog")
    pixels = dataset.test.images[0]
    np.testing.assert_allclose(record.preprocessing(pixels), dataset.normalize(pixels), rtol=1e-6)


def test_a_converted_run_keeps_its_own_classes_and_normalisation(pictures_run, tmp_path, capsys):
    from hbnn_larq.edge import metadata
    from hbnn_larq.training import data

    run, own = pictures_run
    there = json.loads((run / "results.json").read_text())["input"]
    for number in range(9):  # brighter than those before
        pixels = np.full((18, 16, 3), 255, np.uint8)
        (own / "dog" / f"white-{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    assert data.load("pictures", own, image_size=16).mean[0] > there["mean"][0] + 1
    file = tmp_path / "net.tflite"
    words = ["convert", str(run), "-o", str(file), "--no-twins", "--json", "--data", str(own)]
    assert main(words) in (0, 1)
    assert f"{own} has the classes that {run} was trained on, but other images" in (
        capsys.readouterr().err
    )
    record = metadata.read(file.read_bytes())
    assert record.preprocessing.mean == tuple(there["mean"])
    assert record.preprocessing.std == tuple(there["scale"])
    file.unlink()

    (own / "cat").rename(own / "puma")
    assert main(words) == 2 and not file.exists()
    assert (
        f"{run} holds a run on other classes than those of {own} (number 0 is 'cat' there, 'dog' "
        "here). Name the data it was trained on, or other images of the same classes."
    ) in capsys.readouterr().err


def test_what_was_left_out_in_training_can_be_left_out_later(pictures_run, tmp_path, capsys):
    run, own = pictures_run
    (own / "cat" / "broken.jpg").write_text("no picture")
    words = [str(run), "--data", str(own), "--json"]
    for command in (["convert", "-o", str(tmp_path / "net.tflite"), "--no-twins"], ["doctor"]):
        assert main([*command, *words]) == 2
        assert "--unreadable skip" in capsys.readouterr().err
        assert main([*command, *words, "--unreadable", "skip"]) in (0, 1)
        out, err = capsys.readouterr()
        assert json.loads(out) and "unreadable files left out: 1" in err


def test_a_model_without_its_pictures_can_be_examined_and_timed(pictures_run, folder, capsys):
    run, own = pictures_run
    for words in ([str(run)], [str(run), "--data", str(own)]):
        assert main(["doctor", *words, "--json"]) in (0, 1)
        codes = {finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]}
        assert "not-finite" not in codes
    words = [str(folder / "net.tflite"), "--model", str(run), "--threads", "1", "--runs", "1"]
    assert main(["benchmark", *words]) == 0


@pytest.mark.parametrize("ending", ["one", "sigmoid", "softmax", "logits"])
def test_predict_says_what_the_outputs_are(ending, tmp_path, capsys):
    """One output is no class of two, and sigmoids are no logits."""
    from hbnn_larq import edge

    tf.keras.utils.set_random_seed(0)
    last = {"one": None, "logits": None}.get(ending, ending)
    model = digits_net(classes=1 if ending == "one" else 3)
    model.add(tf.keras.layers.Activation(last) if last else tf.keras.layers.Flatten())
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 1), np.uint8)
    np.save(tmp_path / "scan.npy", pixels)
    path = tmp_path / "net.tflite"
    edge.convert(model, path, preprocessing=edge.Preprocessing())
    assert main(["predict", str(path), str(tmp_path / "scan.npy"), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    outputs = model(pixels[np.newaxis] / np.float32(255)).numpy()[0]
    if ending == "logits":
        outputs = tf.nn.softmax(outputs).numpy()
    kind = "output" if ending == "one" else "probability"
    found = {entry["class"]: entry[kind] for entry in result["classes"]}
    np.testing.assert_allclose(
        [found[k] for k in range(len(outputs))], outputs, rtol=1e-4, atol=1e-5
    )
    assert main(["predict", str(path), str(tmp_path / "scan.npy")]) == 0
    shown = capsys.readouterr().out
    assert ("%" in shown) is (ending != "one")


def test_predict_names_what_it_cannot_classify(folder, tmp_path, capsys):
    from hbnn_larq import edge

    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "none.npy", np.zeros((0, 5, 1)))
    np.save(tmp_path / "nan.npy", np.full((16, 16, 1), np.nan))
    for name, said in (
        ("empty", "is no array of NumPy"),
        ("none", "has shape (0, 5, 1); the file takes (16, 16, 1)."),
        ("nan", "holds NaN or infinity, which no pixel is."),
    ):
        path = str(tmp_path / f"{name}.npy")
        assert main(["predict", str(folder / "net.tflite"), path]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"hbnn predict: {path!r}") and said in error
    image = tf.keras.Input((16, 16, 1))
    net = digits_net()
    both = tf.keras.Model(image, [net(image), net.layers[0](image)])
    edge.convert(both, tmp_path / "two.tflite", preprocessing=edge.Preprocessing())
    assert main(["predict", str(tmp_path / "two.tflite"), "scan.png"]) == 2
    assert "takes (16, 16, 1) and gives (1, 10) and (1, 16, 16, 32)" in capsys.readouterr().err


def test_a_model_of_whole_numbers_converts_and_is_timed(tmp_path, capsys):
    tf.keras.utils.set_random_seed(0)
    pixels = tf.keras.Input((16, 16, 1), dtype="uint8")
    model = tf.keras.Model(pixels, digits_net()(tf.keras.layers.Rescaling(1 / 255)(pixels)))
    model.save(tmp_path / "net.keras")
    words = [str(tmp_path / "net.keras"), "-o", str(tmp_path / "net.tflite")]
    assert main(["convert", *words]) == 0
    assert f"saved {tmp_path / 'net.tflite'}" in capsys.readouterr().out
    words = [str(tmp_path / "net.tflite"), "--model", str(tmp_path / "net.keras")]
    assert main(["benchmark", *words, "--threads", "1", "--runs", "1"]) == 0


def test_convert_does_not_write_over_a_model(folder, capsys, tmp_path):
    before = (folder / "net.keras").read_bytes()
    assert main(["convert", str(folder / "net.keras"), "-o", str(folder / "net.keras")]) == 2
    assert "that is the name of a Keras model" in capsys.readouterr().err
    with pytest.raises(ValueError, match="that is the name of a Keras model"):
        convert(digits_net(), folder / "net.keras")
    assert (folder / "net.keras").read_bytes() == before
    (tmp_path / "labels.txt").write_bytes(b"caf\xe9")
    words = [str(folder / "net.keras"), "-o", str(tmp_path / "net.tflite")]
    assert main(["convert", *words, "--labels", str(tmp_path / "labels.txt")]) == 2
    assert "not a text file in UTF-8" in capsys.readouterr().err


def test_predict_refuses_a_file_that_does_not_say_how(folder, tmp_path, capsys):
    from hbnn_larq.edge import metadata

    bare = tmp_path / "bare.tflite"
    bare.write_bytes(metadata.strip((folder / "net.tflite").read_bytes()))
    assert main(["predict", str(bare), "scan.png"]) == 2
    assert "does not say how pixels become its input" in capsys.readouterr().err


def test_benchmark_times_the_file_beside_its_twins(folder, capsys):
    words = [str(folder / "net.tflite"), "--model", str(folder / "net.keras")]
    assert main(["benchmark", *words, "--threads", "1", "--runs", "3", "--json"]) == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    assert [t["name"] for t in timings] == ["lce", "float", "int8"]
    for t in timings:
        assert t["runs"] == 3 and 0 < t["p10_ms"] <= t["median_ms"] <= t["p90_ms"]
        assert t["bytes"] > 0 and t["peak_mb"] > 0


def test_benchmark_prints_the_commands_for_a_device(folder, capsys):
    assert main(["benchmark", str(folder / "net.tflite"), "--threads", "1", "--runs", "3"]) == 0
    text = capsys.readouterr().out
    assert "lce_benchmark_model --graph=/data/local/tmp/net.tflite --num_threads=1" in text
    assert "scp lce_benchmark_model_aarch64 pi@raspberrypi.local:lce_benchmark_model" in text
    assert "float.tflite" not in text, "there is none"


def test_benchmark_keeps_the_twins_for_the_device(folder, tmp_path, capsys):
    file = tmp_path / "net.tflite"
    file.write_bytes((folder / "net.tflite").read_bytes())
    words = ["benchmark", str(file), "--threads", "1", "2", "--runs", "1", "--keep-twins"]
    assert main(words) == 2
    assert "name it with --model" in capsys.readouterr().err
    assert main([*words, "--model", str(folder / "net.keras")]) == 0
    text = capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {
        "net.tflite",
        "net.float.tflite",
        "net.int8.tflite",
    }
    runs = [
        line for line in text.splitlines() if line.startswith("adb shell") and "--graph" in line
    ]
    assert len(runs) == 6 and sum("tee -a phone.txt" in run for run in runs) == 5
    with pytest.raises(ValueError, match=r"keep_twins=True .* needs the file's path"):
        benchmark(file.read_bytes(), digits_net(), keep_twins=True)


@pytest.mark.parametrize("machine, said", [("x86_64", True), ("aarch64", False)])
def test_benchmark_says_that_x86_runs_reference_code(monkeypatch, folder, machine, said):
    monkeypatch.setattr(timing.platform, "machine", lambda: machine)
    result = benchmark(folder / "net.tflite", threads=np.int64(1), runs=1, warmup=0)
    assert ("reference code" in result.note) is said
    assert ("reference code" in result.to_markdown()) is said


# As TensorFlow Lite's tool prints it: up to 2.10 or so, since then, and through Android's log.
OLD = """\
STARTING!
Num threads: [4]
Graph: [/data/local/tmp/net.tflite]
INFO: Loaded model net.tflite
count=10 first=900 curr=500 min=480 max=900 avg=530.5 std=120
Running benchmark for at least 50 iterations
count=50 first=501 curr=498 min=470 max=640 avg=505.25 std=30
Inference timings in us: Init: 812, First inference: 900, Warmup (avg): 530.5, Inference (avg): 505.25
Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.75
"""  # noqa: E501
NEW = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [50]
INFO: Num threads: [{threads}]
INFO: Graph: [{graph}]
INFO: Signature to run: []
INFO: #threads used for CPU inference: [{threads}]
INFO: Loaded model {graph}
INFO: The input model file size (MB): 0.016
INFO: Initialized session in 1.2ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=7 first={slow} curr=2000 min=1990 max={slow} avg=2010 std=5 p5=1990 median=2000 p95={slow}

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=1500 curr=1490 min=1480 max=1700 avg=1.52e+03 std=9 p5=1485 median=1510 p95=1600

INFO: Inference timings in us: Init: 1200, First inference: 2100, Warmup (avg): 2010, Inference (avg): 1520
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=4.25 overall=5.5
"""  # noqa: E501


def test_benchmark_reads_a_device_back_into_the_same_table(folder, tmp_path, capsys):
    (tmp_path / "phone.txt").write_text(OLD)
    words = [str(folder / "net.tflite"), "--device-output", str(tmp_path / "phone.txt")]
    assert main(["benchmark", *words]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert "| 4 | 0.51 (0.47 to 0.64) |" in row
    assert "2.8 MB | phone (mean, min to max) |" in row
    with pytest.raises(ValueError, match=r"there is no line like 'count=50"):
        device.read_device_output("nothing", "net.tflite", where="phone")


def test_several_runs_and_devices_fill_one_table(folder, tmp_path, capsys):
    runs = [("net.tflite", 1), ("net.float.tflite", 1), ("net.tflite", 2)]
    texts = [NEW.format(graph=f"/data/{graph}", threads=n, slow=2100) for graph, n in runs]
    texts[1] = texts[1].replace("median=1510", "median=3020")
    (tmp_path / "pi.txt").write_text("".join(texts))
    log = "07-14 13:14:52.097 22838 22838 I tflite  : "
    lines = NEW.format(graph="net.tflite", threads=4, slow=2100).splitlines()
    (tmp_path / "phone.txt").write_text("".join(f"{log}{line}\n" for line in lines))
    outputs = [str(tmp_path / name) for name in ("pi.txt", "phone.txt")]
    words = ["benchmark", str(folder / "net.tflite"), "--device-output", *outputs]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["timings"]
    assert [(row["name"], row["threads"]) for row in rows] == [
        ("lce", 1),
        ("float", 1),
        ("lce", 2),
        ("lce", 4),
    ]
    assert rows[0]["bytes"] == (folder / "net.tflite").stat().st_size and rows[0]["runs"] == 50
    assert rows[1]["bytes"] == 16_000, "as the tool says, where the file is not here"
    assert (rows[0]["median_ms"], rows[0]["p10_ms"], rows[0]["p90_ms"]) == (1.51, 1.485, 1.6)
    assert rows[3]["where"] == "phone (p5 to p95)" and rows[3]["peak_mb"] == 5.5
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "| 1 | 1.51 (1.49 to 1.60) | 0.50x | 5.5 MB | pi (p5 to p95) |" in text


def test_equal_times_are_printed_without_statistics_by_the_tool():
    (row,) = device.read_device_output(
        "count=1 curr=700\ncount=50 curr=498(all same)\n", "net.tflite", where="board"
    )
    assert (row.runs, row.median_ms, row.p10_ms, row.p90_ms) == (50, 0.498, 0.498, 0.498)


def test_the_output_of_another_file_is_refused(folder, tmp_path, capsys):
    (tmp_path / "pi.txt").write_text(NEW.format(graph="other.tflite", threads=1, slow=2100))
    words = [str(folder / "net.tflite"), "--device-output", str(tmp_path / "pi.txt")]
    assert main(["benchmark", *words]) == 2
    assert "the device ran 'other.tflite', not 'net.tflite' or its twins" in capsys.readouterr().err


def test_benchmark_refuses_nonsense(folder):
    with pytest.raises(ValueError, match=r"give the .tflite file, the Keras model, or both"):
        benchmark()
    with pytest.raises(
        ValueError, match=r"benchmark\(threads\[1\]=0\): a whole number, 1 or above"
    ):
        benchmark(folder / "net.tflite", threads=[1, 0])
    with pytest.raises(ValueError, match=r"benchmark\(threads=\[\]\): at least one number"):
        benchmark(folder / "net.tflite", threads=[])
    with pytest.raises(ValueError, match=r"benchmark\(runs=0.5\): a whole number, 1 or above"):
        benchmark(folder / "net.tflite", runs=0.5)
    assert main(["benchmark", str(folder / "none.tflite")]) == 2


def test_markdown_compares_with_the_float_twin_on_as_many_threads():
    rows = [
        timing.Timing(name, 1000, threads, 1, ms, ms, ms, None, "here")
        for name, threads, ms in [("lce", 1, 3.0), ("float", 1, 6.0), ("lce", 2, 2.0)]
    ]
    text = Benchmark(tuple(rows), "").to_markdown()
    assert "| 3.00 (3.00 to 3.00) | 0.50x |" in text and "| 2.00 (2.00 to 2.00) |  |" in text


def test_doctor_on_recipes(capsys):
    assert main(["doctor", "digits"]) == 0
    assert capsys.readouterr().out == "digits: nothing wrong found\n"
    assert main(["doctor", "digitss"]) == 2
    assert 'no recipe "digitss". Closest: digits' in capsys.readouterr().err
    for words in (["runs/none.keras"], ["nothing"], ["ResNet18"]):
        assert main(["doctor", *words]) == 2
        assert f"hbnn doctor: there is no file or folder {words[0]!r}" in capsys.readouterr().err


def test_doctor_on_a_recipe_looks_at_the_data_that_is_named(tmp_path, capsys, monkeypatch):
    from PIL import Image

    from hbnn_larq import doctor

    assert main(["doctor", "digits", "--data", "texures"]) == 2
    assert 'no data set "texures". Closest: textures' in capsys.readouterr().err
    rng = np.random.default_rng(0)
    for name in ("left", "middle", "right"):
        (tmp_path / name).mkdir()
        for number in range(8):
            pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    seen = {}

    def examine(model, *, images, **_):
        seen.update(model=model, images=images)
        return []

    monkeypatch.setattr(doctor, "examine", examine)
    fields = ("dataset=pictures", "image_size=16", "hold_out=0", "batch_size=4")
    words = [word for field in fields for word in ("--set", field)]
    assert main(["doctor", "digits", *words, "--data", str(tmp_path)]) == 0
    assert seen["model"].output_shape == (None, 3)
    assert seen["images"].shape[1:] == (16, 16, 3)


def test_doctor_names_a_starved_recipe_before_it_runs(capsys, folder):
    assert main(["doctor", "digits", "--set", "epochs=2", "--keep-decay", "--json"]) == 1
    assert "starved-of-flips" in [
        found["code"] for found in json.loads(capsys.readouterr().out)["findings"]
    ]
    assert main(["doctor", "digits", "--set", "epochs=2"]) == 0  # its decay is rescaled
    assert capsys.readouterr().out.startswith("decay    ")
    assert main(["doctor", str(folder / "net.keras"), "--set", "r=1"]) == 2
    assert "only a recipe of `hbnn recipes` can be changed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["doctor", "convert", "report", "evaluate"])
def test_a_converted_file_in_place_of_a_model_is_named(folder, capsys, command):
    file = str(folder / "net.tflite")
    more = {"convert": ["-o", "never.tflite"], "report": [file]}
    assert main([command, file, *more.get(command, [])]) == 2
    assert capsys.readouterr().err == (
        f"hbnn {command}: {file!r} is a converted file. Name the Keras model it was made from: a "
        "run folder, or a .keras, .h5 or SavedModel file. What the converted file holds is said "
        f"by: hbnn report MODEL {file}\n"
    )


def test_doctor_says_what_is_alike_once(capsys):
    assert main(["doctor", "cifar10-resnet18-w1a32"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("s1b1c1, s1b1c2, s1b2c1 and 13 more: its inputs are float, and LCE")
    assert lines[-1] == "16 findings" and len(lines) == 3


def test_doctor_on_a_model_file(folder, tmp_path, capsys):
    assert main(["doctor", str(folder / "net.keras"), "--data", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "findings": []}
    digits_net(pad_values=0.0).save(tmp_path / "net.keras")
    assert main(["doctor", str(tmp_path / "net.keras")]) == 1
    text = capsys.readouterr().out
    assert "[pad-values]\n    Set pad_values=1.0." in text and text.endswith("1 finding\n")


def test_doctor_on_a_run_tells_what_was_found_in_training(tmp_path, capsys):
    from hbnn_larq.training import recipes

    run = tmp_path / "run"
    recipe = json.loads(recipes.find("digits").to_json())
    results = {"recipe": recipe, "accuracy": {}, "history": []}
    digits_net().save(run, save_format="tf")
    flips = {"predicted_per_step": 0.01, "measured_per_step": 0.001}
    (run / "results.json").write_text(json.dumps({**results, "flips": flips}))
    assert main(["doctor", str(run)]) == 1
    assert "0.10% of the weights flipped per step, 1.00% were predicted" in capsys.readouterr().out
    flips["decay_sum"] = 0.006  # three steps: no decay would make up for what the law says
    (run / "results.json").write_text(json.dumps({**results, "flips": flips}))
    assert main(["doctor", str(run)]) == 0
    assert "nothing wrong found" in capsys.readouterr().out
    found = {"code": "never-flips", "where": "conv1", "message": "not one flipped", "fix": "Look."}
    flips["measured_per_step"] = 0.01
    (run / "results.json").write_text(json.dumps({**results, "flips": flips, "findings": [found]}))
    assert main(["doctor", str(run)]) == 1
    text = capsys.readouterr().out
    assert text == "conv1: not one flipped [never-flips]\n    Look.\n1 finding\n"


@pytest.mark.parametrize("command", ["convert", "report", "predict", "benchmark", "doctor"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"example: hbnn {command} " in capsys.readouterr().out


def test_the_rewrites_the_command_offers_are_those_there_are():
    from hbnn_larq.edge.rewrites import REWRITES
    from hbnn_larq.training.cli import edge_commands

    assert tuple(REWRITES) == edge_commands.REWRITES
