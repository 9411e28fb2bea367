"""`hbnn demo`, `recipes`, `train`, `evaluate`, `plot`, `compare` and `search`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hbnn_larq.training.cli.commands import (
    add_changes,
    add_command,
    add_unreadable,
    apply_changes,
    changed,
    folder,
    model_of,
    network_of,
    voice,
)

__all__ = ["register"]

# Fields that a network is built from, which takes seconds.
_OF_NETWORK = (
    "model", "width", "stem", "shortcut", "kernel_quantizer", "input_quantizer", "layer_r",
    "dataset",
)  # fmt: skip


def register(commands: Any) -> None:
    """Adds the commands to the parser of `hbnn`."""
    demo = add_command(
        commands,
        "demo",
        _demo,
        "train four small nets on real digits, convert and check the hyperbolic one",
        "hbnn demo --quick",
    )
    demo.add_argument(
        "--workdir", type=folder, default="runs/demo", help="folder of the runs (%(default)s)"
    )
    demo.add_argument("--quick", action="store_true", help="under a minute, for CI: fewer epochs")
    demo.add_argument("--seed", type=int, default=0, help="of all four nets (%(default)s)")
    demo.add_argument("--json", action="store_true", help="print the results as JSON")

    recipes = add_command(
        commands,
        "recipes",
        _recipes,
        "list the recipes, or show one with the flips to expect",
        "hbnn recipes cifar10-resnet18",
    )
    recipes.add_argument("name", nargs="?", help="show this one in full")
    add_changes(recipes)
    recipes.add_argument("--json", action="store_true", help="print as JSON")

    train = add_command(
        commands,
        "train",
        _train,
        "train a recipe; run the same command again to go on after a crash",
        "hbnn train digits --workdir runs/digits --set r=0.5 --set epochs=20",
    )
    train.add_argument("name", help="a recipe of `hbnn recipes`")
    train.add_argument("--workdir", type=folder, required=True, help="folder of the run")
    add_changes(train)
    _add_data(train)
    train.add_argument(
        "--strategy",
        default="one",
        choices=("one", "mirrored", "multiworker"),
        help="devices to train on (%(default)s); multiworker needs TF_CONFIG",
    )
    train.add_argument("--flips-every", type=int, default=10, metavar="N",
                       help="count sign flips in one step of N (%(default)s)")  # fmt: skip
    train.add_argument("--checkpoint-every", type=int, metavar="N",
                       help="steps between checkpoints (default: each epoch)")  # fmt: skip
    train.add_argument("--keep", type=int, default=2, metavar="N",
                       help="checkpoints to keep (%(default)s)")  # fmt: skip
    train.add_argument("--json", action="store_true", help="print the results as JSON at the end")

    evaluate = add_command(
        commands,
        "evaluate",
        _evaluate,
        "accuracy of a trained run or model file",
        "hbnn evaluate runs/digits --split test",
    )
    evaluate.add_argument(
        "path", metavar="run", help="folder of a run, or a model file with --dataset"
    )
    evaluate.add_argument("--dataset", help="name of a data set; default: the run's own")
    _add_data(evaluate)
    evaluate.add_argument("--split", default="test", choices=("train", "validation", "test"),
                          help="whose accuracy (%(default)s)")  # fmt: skip
    evaluate.add_argument("--json", action="store_true", help="print as JSON")
    plot = add_command(
        commands,
        "plot",
        _plot,
        "draw the learning curves and flips of runs, finished or not, or slices through the loss",
        "hbnn plot runs/digits runs/asked -o plots",
    )
    plot.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; several share axes")
    plot.add_argument(
        "-o", "--output", metavar="DIR", help="folder for the plots; default: that of a single run"
    )
    plot.add_argument("--surface", choices=("line", "plane"),
                      help="instead: a slice through the loss of a finished run")  # fmt: skip
    plot.add_argument("--points", type=int, default=15, metavar="N",
                      help="of a surface, along each direction (%(default)s)")  # fmt: skip
    plot.add_argument("--seed", type=int, default=0, help="of directions (%(default)s)")
    plot.add_argument("--images", type=int, default=1000, metavar="N",
                      help="of a surface, at most, for validation (%(default)s)")  # fmt: skip
    _add_data(plot)
    plot.add_argument("--json", action="store_true", help="print the files as JSON")
    _register_studies(commands)


def _register_studies(commands: Any) -> None:
    compare = add_command(
        commands,
        "compare",
        _compare,
        "train methods under one budget and compare them seed by seed",
        "hbnn compare digits --methods ste_sign,hyperbolic,float --seeds 3 --workdir runs/compare",
    )
    compare.add_argument("name", help="a recipe of `hbnn recipes`")
    compare.add_argument("--methods", required=True, metavar="A,B,...",
                         help="kernel quantizers (hyperbolic, ste_sign, irnet, ...) or float; "
                         "hyperbolic:r=1 changes a field, irnet+hyperbolic puts a map in front; "
                         "the first is the reference")  # fmt: skip
    compare.add_argument("--split", default="validation", choices=("validation", "test"),
                         help="where to compare (%(default)s)")  # fmt: skip

    search = add_command(
        commands,
        "search",
        _search,
        "search r with several seeds per value (needs keras-tuner)",
        "hbnn search digits --radii 0.01,0.05,0.5,5 --seeds 3 --workdir runs/search "
        "--variants hyperbolic,hyperbolic_boundary",
    )
    search.add_argument("name", help="a hyperbolic recipe of `hbnn recipes`")
    search.add_argument("--radii", metavar="R,R,...", help="values to try; else --low to --high")
    search.add_argument("--low", type=float, default=0.01, help="lowest r (%(default)s)")
    search.add_argument("--high", type=float, default=5.0, help="highest r (%(default)s)")
    search.add_argument("--variants", metavar="A,B,...",
                        help="kernel quantizers to try each r with, such as hyperbolic,"
                        "hyperbolic_boundary (default: the recipe's)")  # fmt: skip
    search.add_argument("--per-layer", action="store_true",
                        help="an r of its own for each binary layer (a grid has "
                        "RADII ** LAYERS trials)")  # fmt: skip
    search.add_argument("--tuner", default="grid",
                        choices=("grid", "random", "bayesian", "hyperband"),
                        help="how values are chosen (%(default)s)")  # fmt: skip
    search.add_argument("--trials", type=int, default=6, metavar="N",
                        help="how many random and bayesian try (%(default)s)")  # fmt: skip
    for study in (compare, search):
        study.add_argument("--workdir", type=folder, required=True, help="folder of the study")
        study.add_argument("--seeds", type=int, default=3, metavar="N",
                           help="runs of each (%(default)s)")  # fmt: skip
        add_changes(study)
        _add_data(study)
        study.add_argument("--json", action="store_true", help="print the results as JSON")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=folder, metavar="DIR", help="folder with the files of the data set"
    )
    add_unreadable(parser)


def _demo(arguments: argparse.Namespace) -> int:
    from hbnn_larq.training.demo import demo

    say = voice(arguments)
    results = demo(arguments.workdir, quick=arguments.quick, seed=arguments.seed, say=say)
    if arguments.json:
        print(json.dumps(results, indent=2))
    return 0 if results["edge"]["ok"] else 1


def _recipes(arguments: argparse.Namespace) -> int:
    from hbnn_larq.training.recipes import RECIPES, find

    if arguments.name is None:
        if arguments.set:
            raise ValueError(f"hbnn recipes --set {arguments.set[0]}: of which recipe? Name one.")
        if arguments.json:
            print(json.dumps([asdict(recipe) for recipe in RECIPES.values()], indent=2))
            return 0
        width = max(map(len, RECIPES))
        print(f"{'recipe':{width}}  paper top-1  source")
        for recipe in RECIPES.values():
            claim = "-" if recipe.paper_top1 is None else _percent(recipe.paper_top1)
            print(f"{recipe.name:{width}}  {claim:>11}  {recipe.source}")
        return 0
    from hbnn_larq.training import data
    from hbnn_larq.training.data import steps_of, training_images

    original = find(arguments.name)
    recipe, notices = apply_changes(original, arguments)
    images = training_images(recipe.dataset) - recipe.hold_out
    for notice in notices:
        voice(arguments)(f"decay    {notice}")
    if set(_OF_NETWORK) & set(original.differences(recipe)):
        at_hand = data.needs_no_files(recipe.dataset)
        network_of(recipe, data.load(recipe.dataset) if at_hand else None)
    forecast = recipe.forecast(images)
    steps_of(recipe.dataset, images, recipe.batch_size)  # refuses batches of more than that
    if arguments.json:
        print(json.dumps({**asdict(recipe), "forecast": asdict(forecast)}, indent=2))
        return 0
    for field, value in asdict(recipe).items():
        print(f"{field:17}  {_shown(value)}")
    if recipe.binary_weights:
        print(f"{f'flips {forecast.origin}':17}  {forecast}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from hbnn_larq.training import data, run
    from hbnn_larq.training.recipes import find
    from hbnn_larq.training.strategies import make_strategy

    say = voice(arguments)
    # Before anything else: collective operations can only be set up at the start.
    strategy = make_strategy(arguments.strategy)
    original = find(arguments.name)
    recipe, notices = apply_changes(original, arguments)
    dataset = data.load(
        recipe.dataset,
        arguments.data,
        image_size=recipe.image_size,
        unreadable=arguments.unreadable,
        say=say,
    )
    images = len(dataset.train) - recipe.hold_out
    _describe(original, recipe, notices, images, arguments.workdir, say)
    results = run.fit(
        recipe,
        arguments.workdir,
        dataset=dataset,
        strategy=strategy,
        say=say,
        flips_every=arguments.flips_every,
        checkpoint_every=arguments.checkpoint_every,
        keep=arguments.keep,
    )
    if arguments.json:
        print(json.dumps(results, indent=2))
        return 0
    accuracy, flips = results["accuracy"], results["flips"]
    validated = accuracy["validation_top1"]
    print(
        f"accuracy {accuracy['test_top1']:.2f} % of {results['images']['test']:,} test images"
        + (f" (validation {validated:.2f} %)" if validated is not None else "")
    )
    if flips:
        origin = recipe.forecast(images).origin
        print(
            f"flips    {100 * flips['predicted_per_step']:.2f} % per step {origin}, "
            f"{100 * flips['measured_per_step']:.2f} % measured: {flips['verdict']}"
        )
    print(f"saved    {Path(arguments.workdir) / 'model.keras'}, results.json and plots beside it")
    return 0


def _describe(
    original: Any, recipe: Any, notices: list[str], images: int, workdir: str, say: Any
) -> None:
    differences = {
        field: pair
        for field, pair in original.differences(recipe).items()
        if not field.startswith("paper_")
    }
    changed = ", ".join(
        f"{k}={_shown(new)} (was {_shown(old)})" for k, (old, new) in differences.items()
    )
    say(f"recipe   {original.name} ({original.source}){' with ' + changed if changed else ''}")
    for notice in notices:
        say(f"decay    {notice}")
    if recipe.binary_weights and recipe.swings_weights:
        say("decay    momentum will swing weights through zero: add --set decay=decoupled")
    if recipe.paper_top1 is not None:
        say(f"paper    {_percent(recipe.paper_top1)} top-1 claimed")
    elif original.paper_top1 is not None:
        say("paper    no number: changed from its row")
    if recipe.binary_weights:
        forecast = recipe.forecast(images)
        say(f"flips    {forecast.origin} {forecast}")
    say(f"folder   {workdir}        resume: run the same command again")


def _percent(claim: float) -> str:
    """With the digits that the paper prints: 93.0, 69.34."""
    return f"{claim:.2f}".removesuffix("0") + " %"


def _shown(value: Any) -> str:
    """A field's value as one would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _evaluate(arguments: argparse.Namespace) -> int:
    from hbnn_larq import rebuilding
    from hbnn_larq.training import data, finished, run

    path, recipe = model_of(arguments.path, "hbnn evaluate")
    name = arguments.dataset or (recipe and recipe.dataset)
    if name is None:
        rebuilding.load(path, call="hbnn evaluate")  # no model at all is the greater mistake
        raise ValueError(f"{path} is a model without a recipe: name its data with --dataset")
    say = voice(arguments)
    options = {"unreadable": arguments.unreadable, "say": say}
    if recipe:
        if remark := finished.remark_on_model(path.parent, recipe):
            say(remark)
        dataset = finished.dataset_of(path.parent, recipe, name, arguments.data, **options)
    else:
        dataset = data.load(name, arguments.data, **options)
    model = rebuilding.load(path, call="hbnn evaluate")
    figures = run.evaluate(model, dataset, arguments.split)
    if arguments.json:
        print(json.dumps({"model": str(path), "data": name, **figures}, indent=2))
    else:
        # Among five classes or fewer, the right one is always one of the first five.
        place = f" in {arguments.data}" if arguments.data else ""
        of_five = f"{figures['top5']:.2f} % top-5, " if dataset.num_classes > 5 else ""
        print(
            f"{figures['top1']:.2f} % top-1, {of_five}loss {figures['loss']:.4f} on "
            f"{figures['images']:,} {figures['split']} images of {name}{place}"
        )
    return 0


def _study(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Recipe, data set and voice of a study."""
    from hbnn_larq.training import data
    from hbnn_larq.training.recipes import find

    say = voice(arguments)
    recipe = changed(find(arguments.name), arguments)
    dataset = data.load(
        recipe.dataset,
        arguments.data,
        image_size=recipe.image_size,
        unreadable=arguments.unreadable,
        say=say,
    )
    return recipe, dataset, say


def _plot(arguments: argparse.Namespace) -> int:
    from hbnn_larq.training import pictures

    runs, say = arguments.runs, voice(arguments)
    if len(runs) > 1 and arguments.surface:
        raise ValueError(f"hbnn plot --surface {arguments.surface}: of one run; {len(runs)} given.")
    if len(runs) > 1 and arguments.output is None:
        raise ValueError("hbnn plot: several runs share no folder; name one with -o DIR.")
    if arguments.surface:
        written = pictures.slice_loss(
            runs[0],
            arguments.surface,
            points=arguments.points,
            seed=arguments.seed,
            images=arguments.images,
            data_folder=arguments.data,
            unreadable=arguments.unreadable,
            output=arguments.output,
            say=say,
        )
    else:
        written = pictures.plot(runs, arguments.output, say=say)
    names = [str(path) for path in written]
    print(json.dumps(names) if arguments.json else "\n".join(names))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from hbnn_larq.training.compare import compare, table

    recipe, dataset, say = _study(arguments)
    outcome = compare(
        recipe,
        arguments.methods.split(","),
        arguments.workdir,
        seeds=arguments.seeds,
        dataset=dataset,
        split=arguments.split,
        say=say,
    )
    if arguments.json:
        print(json.dumps(outcome, indent=2))
    else:
        print(table(outcome), end="")
    return 0


def _search(arguments: argparse.Namespace) -> int:
    from hbnn_larq.training.search import search

    recipe, dataset, say = _study(arguments)
    try:
        radii = [float(word) for word in arguments.radii.split(",")] if arguments.radii else None
    except ValueError:
        raise ValueError(f"--radii {arguments.radii}: numbers with commas between them") from None
    outcome = search(
        recipe,
        arguments.workdir,
        radii=radii,
        low=arguments.low,
        high=arguments.high,
        trials=arguments.trials,
        seeds=arguments.seeds,
        tuner=arguments.tuner,
        variants=arguments.variants.split(",") if arguments.variants else None,
        per_layer=arguments.per_layer,
        dataset=dataset,
        say=say,
    )
    if outcome is None:  # a worker of a parallel search: its chief prints the table
        return 0
    if arguments.json:
        print(json.dumps(outcome, indent=2))
    else:
        print((Path(arguments.workdir) / "search.md").read_text(encoding="utf-8"), end="")
    return 0
