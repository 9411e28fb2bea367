"""`hbnn convert`, `report`, `predict`, `benchmark` and `doctor`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hbnn_larq.training.cli.commands import (
    add_changes,
    add_command,
    add_unreadable,
    changed,
    model_of,
    network_of,
    voice,
)

if TYPE_CHECKING:
    import numpy as np

    from hbnn_larq.edge.flatbuffer import TFLiteFile
    from hbnn_larq.training.data import Dataset
    from hbnn_larq.training.recipe import Recipe

__all__ = ["register"]

REWRITES = ("dense_to_conv", "drop_activations", "pad_with_ones", "split_scales")
IMAGES = 64


def register(commands: Any) -> None:
    """Adds the commands to the parser of `hbnn`."""
    convert = add_command(
        commands,
        "convert",
        _convert,
        "convert a model to a .tflite for the Larq Compute Engine, and check it",
        "hbnn convert runs/digits -o digits.tflite",
    )
    _add_model(convert)
    convert.add_argument("-o", "--output", required=True, metavar="FILE.tflite")
    _add_images(convert)
    convert.add_argument("--labels", metavar="FILE", help="text file, one class name a line; "
                         "default: those of the data")  # fmt: skip
    convert.add_argument(
        "--no-rewrite",
        action="append",
        default=[],
        choices=(*REWRITES, "all"),
        help="leave out a rewrite, made for the size of the file or around a fault of LCE; may be "
        "given several times",
    )
    convert.add_argument(
        "--int8",
        action="store_true",
        help="float layers behind the last sign in 8 bits, ranges from training images",
    )
    convert.add_argument("--json", action="store_true", help="print the report as JSON")

    report = add_command(
        commands,
        "report",
        _report,
        "say what a .tflite really holds, layer by layer, and whether it agrees with Keras",
        "hbnn report runs/digits digits.tflite --json",
    )
    _add_model(report)
    report.add_argument("file", metavar="FILE.tflite")
    _add_images(report)
    report.add_argument("--json", action="store_true", help="print as JSON, not Markdown")

    predict = add_command(
        commands,
        "predict",
        _predict,
        "classify image files with a .tflite, preprocessed as the file says",
        "hbnn predict digits.tflite scan.png",
    )
    predict.add_argument("file", metavar="FILE.tflite")
    predict.add_argument("image", nargs="+", help="a picture, or .npy of pixels 0-255")
    predict.add_argument("--top", type=int, default=3, metavar="K", help="classes (%(default)s)")
    predict.add_argument("--json", action="store_true", help="print as JSON")

    benchmark = add_command(
        commands,
        "benchmark",
        _benchmark,
        "time a .tflite, beside its float and int8 twins where the model is given",
        "hbnn benchmark digits.tflite --model runs/digits --threads 1 2",
    )
    benchmark.add_argument("file", metavar="FILE.tflite")
    benchmark.add_argument("--model", help="run folder or model file, for the twins")
    benchmark.add_argument("--threads", type=int, nargs="+", metavar="N",
                           help="default: 1, 2, 4, ... up to this machine's cores")  # fmt: skip
    benchmark.add_argument("--runs", type=int, default=60, help="per file (%(default)s)")
    benchmark.add_argument("--keep-twins", action="store_true",
                           help="write the twins beside the file, for a device")  # fmt: skip
    benchmark.add_argument("--device-output", nargs="+", metavar="FILE",
                           help="only read back what lce_benchmark_model printed")  # fmt: skip
    benchmark.add_argument("--json", action="store_true", help="print as JSON")

    doctor = add_command(
        commands,
        "doctor",
        _doctor,
        "look for what keeps a binary network from learning, or from being small on a device",
        "hbnn doctor cifar10-resnet18",
    )
    doctor.add_argument("subject", metavar="MODEL|RECIPE",
                        help="a recipe's name, a run folder or a model file")  # fmt: skip
    doctor.add_argument("--data", metavar="NAME|DIR",
                        help="data set whose test images to look at, or its folder")  # fmt: skip
    add_unreadable(doctor)
    add_changes(doctor)
    doctor.add_argument("--json", action="store_true", help="print as JSON")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a run, or a .keras, .h5 or SavedModel file")


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="NAME|DIR",
                        help="data set to compare on, or the folder of the run's pictures or "
                        "archive; default: the run's own, or noise")  # fmt: skip
    add_unreadable(parser)
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N",
                        help="test images to compare on (%(default)s)")  # fmt: skip
    parser.add_argument("--no-twins", action="store_true",
                        help="leave out the sizes of the float and int8 twins")  # fmt: skip


def _convert(arguments: argparse.Namespace) -> int:
    from hbnn_larq import edge

    model, recipe = _load(arguments.model, "hbnn convert")
    dataset = _data_of(model, recipe, arguments.model, arguments)
    labels: tuple[str, ...] = dataset.class_names if dataset else ()
    if arguments.labels:
        try:
            text = Path(arguments.labels).read_text(encoding="utf-8")
            labels = tuple(text.removesuffix("\n").split("\n"))
        except UnicodeDecodeError:
            raise ValueError(
                f"hbnn convert --labels {arguments.labels}: not a text file in UTF-8. Give one "
                "class name a line."
            ) from None
    preprocessing = None
    if dataset is not None:
        scale = dataset.white / 255
        preprocessing = edge.Preprocessing(scale=scale, mean=dataset.mean, std=dataset.scale)
    images = _images(model, dataset, arguments.images)
    skipped = set(REWRITES) if "all" in arguments.no_rewrite else set(arguments.no_rewrite)
    try:
        content = edge.convert(
            model,
            arguments.output,
            rewrites=[name for name in REWRITES if name not in skipped],
            preprocessing=preprocessing,
            labels=labels,
            int8_images=_calibration(dataset) if arguments.int8 else None,
        )
    except RuntimeError as error:
        print(f"hbnn: {error}", file=sys.stderr)
        return 1
    report = edge.report(model, content, images, twins=not arguments.no_twins)
    print(report.to_json() if arguments.json else report.to_markdown(), end="")
    if not arguments.json:
        print(f"\nsaved {arguments.output}")
    return 0 if report.ok else 1


def _report(arguments: argparse.Namespace) -> int:
    from hbnn_larq import edge

    model, recipe = _load(arguments.model, "hbnn report")
    dataset = _data_of(model, recipe, arguments.model, arguments)
    images = _images(model, dataset, arguments.images)
    report = edge.report(model, arguments.file, images, twins=not arguments.no_twins)
    print(report.to_json() if arguments.json else report.to_markdown(), end="")
    return 0 if report.ok else 1


def _predict(arguments: argparse.Namespace) -> int:
    import numpy as np

    from hbnn_larq.edge import metadata
    from hbnn_larq.edge.flatbuffer import TFLiteFile
    from hbnn_larq.edge.running import Interpreter, as_inputs, read_tflite

    call = f"hbnn predict {arguments.file}"
    if Path(arguments.file).is_dir():
        raise ValueError(
            f"{call}: a folder. Convert the run first: hbnn convert {arguments.file} -o FILE.tflite"
        )
    content = read_tflite(arguments.file, call=call)
    record = metadata.read(content)
    if record.preprocessing is None:
        raise ValueError(
            f"{call}: the file does not say how pixels become its input. Convert it with "
            "convert(..., preprocessing=Preprocessing(...)), or with `hbnn convert --data NAME`."
        )
    if arguments.top < 1:
        raise ValueError(f"{call}: --top {arguments.top}: must be at least 1")
    interpreter, file = Interpreter(content, call=call), TFLiteFile(content)
    inputs = interpreter.inputs
    shapes = [output.shape for output in file.outputs]
    if len(inputs) != 1 or len(inputs[0].shape) != 3 or len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"{call}: this command names the class of an image, and the file takes "
            f"{' and '.join(str(taker.shape) for taker in inputs)} and gives "
            f"{' and '.join(map(str, shapes))}. Run it with hbnn_larq.edge.predict(file, arrays)."
        )
    ending = _ending(file)
    results = []
    for path in arguments.image:
        pixels = _pixels(path, inputs[0].shape)
        image = as_inputs(record.preprocessing(pixels)[np.newaxis], inputs, call=call)
        (outputs,) = interpreter.run(image)
        ranked = _ranked(outputs[0], ending, record.labels)[: arguments.top]
        results.append({"image": path, "classes": ranked})
    if arguments.json:
        print(json.dumps(results, indent=2))
        return 0
    for result in results:
        print(f"{result['image']}: {', '.join(map(_rank, result['classes']))}")
    return 0


def _benchmark(arguments: argparse.Namespace) -> int:
    from hbnn_larq.edge import device, timing

    path = Path(arguments.file)
    if not path.is_file():
        raise FileNotFoundError(f"hbnn benchmark: there is no file {arguments.file!r}.")
    if arguments.device_output:
        timings = [
            line
            for output in map(Path, arguments.device_output)
            for line in device.read_device_output(
                output.read_text(encoding="utf-8", errors="replace"), path, where=output.stem
            )
        ]
        result = timing.Benchmark(tuple(timings), "")
    else:
        if arguments.keep_twins and not arguments.model:
            raise ValueError(
                "--keep-twins: the twins are made from the model; name it with --model"
            )
        model = _load(arguments.model, "hbnn benchmark")[0] if arguments.model else None
        try:
            result = timing.benchmark(
                path,
                model,
                threads=arguments.threads,
                runs=arguments.runs,
                keep_twins=arguments.keep_twins,
            )
        except RuntimeError as error:
            print(f"hbnn: {error}", file=sys.stderr)
            return 1
    print(result.to_json() if arguments.json else result.to_markdown(), end="\n" * arguments.json)
    if not arguments.json and not arguments.device_output:
        commands = device.device_commands(path, arguments.threads or (1,))
        print("\nTo measure on a device:\n\n" + commands)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from hbnn_larq import doctor
    from hbnn_larq.training import data, models
    from hbnn_larq.training.recipes import find

    subject, folder = arguments.subject, Path(arguments.subject)
    recipe: Recipe | None = None
    if not folder.exists():
        if folder.suffix or len(folder.parts) > 1:
            raise FileNotFoundError(f"hbnn doctor: there is no file or folder {subject!r}.")
        try:
            recipe = find(subject)
        except ValueError as error:
            raise ValueError(
                f"hbnn doctor: there is no file or folder {subject!r}, and {error}"
            ) from None
        recipe = changed(recipe, arguments)
        dataset = _data_at_hand(None, recipe, arguments)
        model = network_of(recipe, dataset)
    else:
        if arguments.set:
            raise ValueError(
                f"hbnn doctor --set {arguments.set[0]}: {subject} is trained already, by the "
                "recipe beside it; only a recipe of `hbnn recipes` can be changed."
            )
        model, recipe = _load(subject, "hbnn doctor")
        dataset = _data_at_hand(model, recipe, arguments)
    images = None if dataset is None else data.spread_out(dataset, dataset.test, IMAGES)[0]
    optimizer, rates = None, None
    if recipe is not None and recipe.binary_weights:
        count = _trained_on(folder)
        if count is None:
            count = (
                len(dataset.train)
                if dataset
                else data.training_images(recipe.dataset) - recipe.hold_out
            )
        optimizer = models.build_optimizer(recipe, count)
        rates = recipe.learning_rates(count).tolist()
    findings = doctor.examine(model, optimizer=optimizer, learning_rates=rates, images=images)
    findings += _found_in_training(folder)
    if arguments.json:
        print(doctor.to_json(findings))
    else:
        for group in _alike(findings):
            names = [finding.where for finding in group]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            print(replace(group[0], where=", ".join(names[:3]) + more))
        count = len(findings)
        print(
            f"{count} finding{'s' * (count != 1)}" if count else f"{subject}: nothing wrong found"
        )
    return 1 if findings else 0


def _alike(findings: list[Any]) -> list[list[Any]]:
    """Findings that say the same of several layers, together."""
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.message, finding.fix), []).append(finding)
    return list(groups.values())


def _trained_on(folder: Path) -> int | None:
    """How many images a finished run saw in an epoch."""
    from hbnn_larq.training.finished import finished_run

    finished = finished_run(folder)
    images = finished and finished[1].get("images")
    return images and images["train"]


def _found_in_training(folder: Path) -> list[Any]:
    """What a finished run says of itself: findings of its first epochs, flips over all of it."""
    from hbnn_larq import doctor
    from hbnn_larq.flip_rate import SETTLED_SUM
    from hbnn_larq.training.finished import finished_run

    finished = finished_run(folder)
    results = finished[1] if finished else {}
    findings = [doctor.Finding(**finding) for finding in results.get("findings") or []]
    flips, recipe = results.get("flips"), results.get("recipe") or {}
    said = any(finding.code == "flips-off-the-law" for finding in findings)
    asked = recipe.get("flip_rate") is not None
    # In a run so short, the law foretells nothing; its schedule is found starved by itself.
    short = flips and (flips.get("decay_sum") or SETTLED_SUM) < SETTLED_SUM
    if flips and not said and not asked and not short:
        findings += doctor.examine_epoch(
            {},
            {},
            predicted=flips["predicted_per_step"],
            measured=flips["measured_per_step"],
            latent_decay=recipe.get("latent_decay"),
        )
    return findings


def _load(path: str, call: str) -> tuple[Any, Recipe | None]:
    """The model of a run folder or file, and the recipe of a run."""
    file, recipe = model_of(path, call)
    import hbnn_larq  # noqa: F401  (registers the quantizers)
    from hbnn_larq import rebuilding
    from hbnn_larq.training.finished import remark_on_model

    if recipe and (remark := remark_on_model(file.parent, recipe)):
        print(remark, file=sys.stderr)

    return rebuilding.load(file, call=call), recipe


def _data_of(
    model: Any, recipe: Recipe | None, place: str, arguments: argparse.Namespace
) -> Dataset | None:
    """The data that a model belongs to: named, in a folder, or what its recipe names."""
    from hbnn_larq.training import data, finished

    word = arguments.data
    folder = word if word and word not in data.dataset_names() and Path(word).is_dir() else None
    name = word if folder is None else None
    name = name or (recipe.dataset if recipe else folder and "pictures")
    if not name:
        return None
    options = {"unreadable": arguments.unreadable, "say": voice(arguments)}
    if recipe:
        return finished.dataset_of(Path(place), recipe, name, folder, **options)
    return data.load(name, folder, image_size=model.inputs[0].shape[1], **options)


def _data_at_hand(
    model: Any, recipe: Recipe | None, arguments: argparse.Namespace
) -> Dataset | None:
    """As `_data_of`, but none where nobody named it and it would have to be fetched."""
    from hbnn_larq.training import data

    if recipe is not None and not arguments.data and not data.needs_no_files(recipe.dataset):
        return None
    return _data_of(model, recipe, arguments.subject, arguments)


def _calibration(dataset: Dataset | None) -> np.ndarray:
    if dataset is None:
        raise ValueError("--int8 measures ranges on training images: name them with --data")
    from hbnn_larq.training import data

    return data.spread_out(dataset, dataset.train, 200)[0]


def _images(model: Any, dataset: Dataset | None, count: int) -> Any:
    from hbnn_larq.edge.running import inputs_of, noise
    from hbnn_larq.training import data

    if count < 1:
        raise ValueError(f"--images {count}: compare on at least 1 image")
    if dataset is not None:
        if tuple(model.inputs[0].shape[1:]) != dataset.image_shape:
            raise ValueError(
                f"--data {dataset.name}: its images are {dataset.image_shape}, the model takes "
                f"{tuple(model.inputs[0].shape[1:])}. Name the data that the model was made for."
            )
        return data.spread_out(dataset, dataset.test, count)[0]
    print("no data named: comparing on random noise (--data NAME for images)", file=sys.stderr)
    arrays = noise(inputs_of(model), count)
    return arrays[0] if len(arrays) == 1 else arrays


def _pixels(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """An image file as pixels 0 to 255 of the network's size, as training on pictures reads it."""
    import numpy as np

    from hbnn_larq.training import folders

    if not Path(path).is_file():
        raise FileNotFoundError(f"hbnn predict: there is no image {path!r}.")
    height, width, channels = shape
    if not path.endswith(".npy"):
        if channels not in (1, 3, 4):
            raise ValueError(
                f"hbnn predict: the file takes images of {channels} channels, which no picture "
                "has. Give arrays, in .npy files."
            )
        try:
            return folders.picture(Path(path), (height, width), channels).astype(np.float32)
        except OSError as error:
            raise ValueError(
                f"hbnn predict: {path!r} is no picture that can be read ({error})."
            ) from None
    try:
        pixels = np.load(path)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"hbnn predict: {path!r} is no array of NumPy ({error}).") from None
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.shape != shape:
        raise ValueError(
            f"hbnn predict: {path!r} has shape {pixels.shape}; the file takes {shape}."
        )
    if not np.all(np.isfinite(pixels)):
        raise ValueError(f"hbnn predict: {path!r} holds NaN or infinity, which no pixel is.")
    return pixels.astype(np.float32)


def _ending(file: TFLiteFile) -> str:
    """The op that makes the outputs, behind those that only write them in another form."""
    makers = {tensor.index: op for op in file.ops for tensor in op.outputs}
    op = makers.get(file.outputs[0].index)
    while op is not None and op.name in ("DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE"):
        op = makers.get(op.inputs[0].index) if op.inputs[0] is not None else None
    return op.name if op is not None else ""


def _ranked(outputs: np.ndarray, ending: str, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """The classes, best first: with probabilities, or the output itself where it is but one."""
    import numpy as np

    scores, kind = outputs.astype(np.float64), "probability"
    if ending not in ("SOFTMAX", "LOGISTIC"):  # logits
        if len(scores) == 1:
            kind = "output"
        else:
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
    return [
        {"class": int(k), "label": labels[k] if labels else f"class {k}", kind: float(scores[k])}
        for k in np.argsort(-scores)
    ]


def _rank(found: dict[str, Any]) -> str:
    if "output" in found:
        return f"{found['label']} {found['output']:.4g}"
    return f"{found['label']} {found['probability']:.1%}"
