"""What every `hbnn` command has in common: how it is declared, and where it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["add_command", "refuse_converted", "voice"]


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
    parser.set_defaults(run=run, parser=parser)
    return parser


def refuse_converted(path: str, call: str) -> None:
    """Raises where a converted file is given in place of the model it was made from."""
    if Path(path).suffix == ".tflite" and Path(path).is_file():
        raise ValueError(
            f"{call}: {path!r} is a converted file. Name the Keras model it was made from: a run "
            f"folder, or a .keras, .h5 or SavedModel file. What the converted file holds is said "
            f"by: hbnn report MODEL {path}"
        )


def voice(arguments: argparse.Namespace) -> Callable[[str], None]:
    """What prints a line of progress; standard output is left to the result where it is JSON."""
    stream = sys.stderr if arguments.json else sys.stdout
    return lambda line: print(line, file=stream, flush=True)
