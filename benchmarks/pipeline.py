"""Does the data keep up with the training step? Images per second of each, and their ratio.

    python benchmarks/pipeline.py --out benchmarks/pipeline.json
    python benchmarks/pipeline.py --only digits cifar10 --rounds 2      # does it run at all

Each pipeline is the one that `hbnn train` uses, over files in the exact formats, made here: the
CIFAR archive in its binary layout, a folder of pictures, ImageNet-sized JPEGs (500x375) as a folder
and as TFRecords of tensorflow-datasets. The step is the real one of the recipe that goes with the
data, on a batch that is in memory already. Both use all cores, as they do in training, where they
also compete for them: a pipeline needs about 1 / ratio of the machine. Run it on an idle machine.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from timing import KEEP_MEMORY, machine, save, start_again_with

start_again_with({**KEEP_MEMORY, "TF_CPP_MIN_LOG_LEVEL": "3"})

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from hbnn_larq.training import cifar, data, folders, models, recipes, steps  # noqa: E402

tf.get_logger().setLevel("ERROR")

IMAGENET_SIZE = (375, 500)  # height and width of a typical image
QUALITY = 92


def pictures(shape: tuple[int, int], count: int) -> Iterator[bytes]:
    """JPEG files of smooth colours with some noise, about as large as photographs."""
    from PIL import Image

    rng = np.random.default_rng(0)
    height, width = shape
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=QUALITY)
        yield file.getvalue()


def cifar10(folder: Path) -> data.Dataset:
    archive = cifar.ARCHIVES["cifar10"]
    place = folder / archive.folder
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*archive.train, archive.test):
        records = rng.integers(0, 256, (archive.records, 1 + cifar.PIXELS), np.uint8)
        records[:, 0] %= 10
        (place / name).write_bytes(records.tobytes())
    (place / archive.names).write_text("\n".join(f"class{n}" for n in range(10)))
    return data.load("cifar10", folder)


def own_pictures(folder: Path) -> data.Dataset:
    for number, content in enumerate(pictures((240, 320), 400)):
        path = folder / f"class{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return data.load("pictures", folder, image_size=64)


def imagenet_folders(folder: Path) -> data.Dataset:
    folders.IMAGENET_CLASSES = 4
    for split, count in (("train", 512), ("val", 8)):
        for number, content in enumerate(pictures(IMAGENET_SIZE, count)):
            path = folder / split / f"n{number % 4}" / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return data.load("imagenet", folder)


def imagenet_records(folder: Path) -> data.Dataset:
    import tensorflow_datasets as tfds

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=[f"n{number}" for number in range(4)]),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {
                name: self._generate_examples(count)
                for name, count in (("train", 512), ("validation", 8))
            }

        def _generate_examples(self, count):
            for number, content in enumerate(pictures(IMAGENET_SIZE, count)):
                image = {"image": io.BytesIO(content), "label": number % 4, "file_name": ""}
                yield number, image

    folders.IMAGENET_CLASSES = 4
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        Imagenet2012(data_dir=str(folder)).download_and_prepare()
    return data.load("imagenet", folder, say=lambda line: None)


# Name: how the data set is made, the recipe whose step goes with it, and its batch where memory
# or patience of a small machine ask for another than the recipe's.
PIPELINES: dict[str, tuple[Callable[[Path], data.Dataset], str, int | None]] = {
    "digits": (lambda folder: data.load("digits"), "digits", None),
    "cifar10": (cifar10, "cifar10-resnet18", 64),
    "pictures 64x64": (own_pictures, "cifar10-vggsmall", 64),
    "imagenet folders": (imagenet_folders, "imagenet-resnet18", 32),
    "imagenet tfds": (imagenet_records, "imagenet-resnet18", 32),
}


def pipeline_speed(dataset: data.Dataset, batch: int, seconds: float) -> float:
    """Images per second of the training pipeline alone."""
    batches = iter(data.training_batches(dataset, batch_size=batch, epochs=100_000, seed=0))
    for _ in range(6):  # past start-up, and past what was prefetched meanwhile
        next(batches)
    images, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        images += len(next(batches)[1])
    return images / elapsed


def training_step(recipe_name: str, dataset: data.Dataset, batch: int) -> Callable[[], object]:
    """A call that takes one training step of a recipe on a batch in memory."""
    recipe = recipes.find(recipe_name)
    tf.keras.utils.set_random_seed(0)
    model = models.build_model(recipe, dataset.image_shape, dataset.num_classes)
    optimizer = models.build_optimizer(recipe, len(dataset.train))
    optimizer.build(model.trainable_variables)
    step = steps.TrainStep(model, optimizer, num_classes=dataset.num_classes)
    images, labels = next(iter(data.training_batches(dataset, batch_size=batch, epochs=1, seed=0)))
    return lambda: step(images, labels)


def step_speed(step: Callable[[], object], batch: int, seconds: float) -> float:
    """Images per second of the step alone; at least two steps."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 2:
        step()
        count += 1
    return batch * count / elapsed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[n.split()[0] for n in PIPELINES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--out", default="pipeline.json", help="where the figures go")
    args = parser.parse_args()
    results: dict = {
        "machine": machine(("tensorflow", "tensorflow-datasets", "numpy", "hbnn_larq")),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "pipelines": {},
    }
    print(json.dumps(results["machine"], indent=2))
    print(f"\n{'images per second':18}{'pipeline':>10}{'step':>9}{'ratio':>8}  step of")
    for name, (make, recipe, chosen) in PIPELINES.items():
        if args.only and name.split()[0] not in args.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            dataset = make(Path(folder))
            batch = chosen or recipes.find(recipe).batch_size
            step = training_step(recipe, dataset, batch)
            step(), step()  # compilation and the first touch of memory
            rounds = [
                (
                    pipeline_speed(dataset, batch, args.seconds),
                    step_speed(step, batch, args.seconds),
                )
                for _ in range(args.rounds)
            ]
        fed, used = (float(np.median(column)) for column in zip(*rounds, strict=True))
        ratio = float(np.median([a / b for a, b in rounds]))
        results["pipelines"][name] = {
            "recipe": recipe,
            "batch": batch,
            "pipeline_images_per_second": fed,
            "step_images_per_second": used,
            "ratio": ratio,
            "load_average": os.getloadavg()[0],
        }
        print(f"{name:18}{fed:10,.0f}{used:9,.1f}{ratio:8,.0f}  {recipe}, batch {batch}")
        tf.keras.backend.clear_session()
    save(results, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
