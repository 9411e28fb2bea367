"""What every `hbnn` command has in common: how it is declared, and where it prints."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "add_changes",
    "add_command",
    "add_unreadable",
    "apply_changes",
    "changed",
    "folder",
    "model_of",
    "network_of",
    "refuse_converted",
    "voice",
]


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    example: str,
) -> argparse.ArgumentParser:
    """Adds a command, whose parser is at hand for messages as `arguments.parser`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=f"example: {example}"
    )
    parser.set_defaults(run=_while_it_is_read(run), parser=parser)
    return parser


def _while_it_is_read(
    run: Callable[[argparse.Namespace], int],
) -> Callable[[argparse.Namespace], int]:
    """The command, which ends without a word where its reader has left: `hbnn recipes | head`."""

    def until_nobody_reads(arguments: argparse.Namespace) -> int:
        try:
            code = run(arguments)
            if sys.stdout is not None:  # it may be closed
                sys.stdout.flush()
            return code
        except BrokenPipeError:
            # What is still in the buffer would fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE  # as a shell has it

    return until_nobody_reads


def refuse_converted(path: str, call: str) -> None:
    """Raises where a converted file is given in place of the model it was made from."""
    if Path(path).suffix == ".tflite" and Path(path).is_file():
        raise ValueError(
            f"{call}: {path!r} is a converted file. Name the Keras model it was made from: a run "
            f"folder, or a .keras, .h5 or SavedModel file. What the converted file holds is said "
            f"by: hbnn report MODEL {path}"
        )


def model_of(path: str, call: str) -> tuple[Path, Any]:
    """The model file of a run and the run's recipe, or a model file or SavedModel and None."""
    refuse_converted(path, call)
    folder = Path(path)
    if (folder / "recipe.json").exists():
        from hbnn_larq.training.recipe import Recipe

        model = folder / "model.keras"
        if not model.exists():
            raise FileNotFoundError(
                f"{call}: there is no {model}; `hbnn train` writes it when a run is finished"
            )
        return model, Recipe.read(folder / "recipe.json")
    if folder.is_dir() and not (folder / "saved_model.pb").exists():
        raise ValueError(
            f"{call}: {path} holds no run: there is no recipe.json in it, and no saved_model.pb of "
            "a SavedModel."
        )
    if not folder.exists():
        raise FileNotFoundError(f"{call}: there is no file or folder {path!r}.")
    return folder, None


def network_of(recipe: Any, dataset: Any) -> Any:
    """The untrained network of a recipe; where its data is not at hand, for what is known of it."""
    from hbnn_larq.training.models import build_model
    from hbnn_larq.zoo.images import DATASETS

    facts = dataset or DATASETS.get(recipe.dataset, DATASETS["cifar10"])
    return build_model(recipe, facts.image_shape, facts.num_classes)


def voice(arguments: argparse.Namespace) -> Callable[[str], None]:
    """What prints a line of progress; standard output is left to the result where it is JSON."""
    stream = sys.stderr if arguments.json else sys.stdout
    return lambda line: print(line, file=stream, flush=True)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Adds `--set` and `--keep-decay`, which change a recipe."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe; may be given several times",
    )
    parser.add_argument(
        "--keep-decay",
        action="store_true",
        help="do not rescale latent_decay when the schedule changes",
    )


def folder(word: str) -> str:
    """A folder's name, as a type for `argparse`; an empty one would be the current folder."""
    if not word:
        raise argparse.ArgumentTypeError("an empty name (the current folder is .)")
    return word


def add_unreadable(parser: argparse.ArgumentParser) -> None:
    """Adds `--unreadable`, to commands that read a folder of the user's."""
    parser.add_argument(
        "--unreadable",
        default="error",
        choices=("error", "skip"),
        help="what to do with files in your own folders that are no pictures (%(default)s)",
    )


def apply_changes(original: Any, arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """The recipe with --set applied and, unless refused, its decay rescaled."""
    from hbnn_larq.training import data
    from hbnn_larq.training.recipe import keep_decay_sum

    changes = {}
    for word in arguments.set:
        field, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--set {word}: write it as FIELD=VALUE, such as --set epochs=20")
        changes[field] = value
    recipe = original.changed(**changes)
    # How many pictures a user's folder holds is not known yet, and no recipe is made for them.
    given = arguments.keep_decay or "latent_decay" in changes
    if given or recipe == original:
        return recipe, []
    if recipe.dataset == "pictures":
        if recipe.latent_decay == 0 or not recipe.binary_weights or recipe.flip_rate is not None:
            return recipe, []
        return recipe, [
            f"latent_decay={recipe.latent_decay:.4g} is that of {original.name}, not rescaled for "
            "your pictures; the flips it makes are said below"
        ]
    recipe, notice = keep_decay_sum(
        original,
        recipe,
        old_images=data.training_images(original.dataset) - original.hold_out,
        new_images=data.training_images(recipe.dataset) - recipe.hold_out,
        decouple="decay" not in changes,
    )
    return recipe, [notice] if notice else []


def changed(original: Any, arguments: argparse.Namespace) -> Any:
    """The recipe with its changes, said aloud where its decay was rescaled for them."""
    recipe, notices = apply_changes(original, arguments)
    for notice in notices:
        voice(arguments)(f"decay    {notice}")
    return recipe
