"""The `hbnn` command: argument parsing and printing; each command is one call of a library.

Exit codes: 0 done, 1 a fault was found (or the run was stopped), 2 used wrongly.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import logging
import sys
from collections.abc import Sequence

__all__ = ["main"]

_COMMAND_MODULES = ("train_commands", "edge_commands", "zoo_commands")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `hbnn` command.

    # Arguments
        argv: words after `hbnn`; those of the process by default.

    # Returns
        The exit code.
    """
    # Advice about retracing is for programmers; a study makes one graph per run on purpose.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in a terminal without a sign, ? takes its place
            stream.reconfigure(errors="replace")
    try:
        parser = _parser()
        arguments, unknown = parser.parse_known_args(argv)
        if unknown:  # said by the command's own parser, for its usage
            arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return arguments.run(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        text = _text(error)
        # Some errors name the command that they are of.
        print(text if text.startswith("hbnn ") else f"hbnn: {text}", file=sys.stderr)
        return 2
    except _out_of_memory() as error:
        first = str(error).partition("\n")[0]
        print(
            f"hbnn: out of memory ({first}). Less is taken by a smaller batch_size, image_size or "
            "width (--set FIELD=VALUE).",
            file=sys.stderr,
        )
        return 1
    except (FloatingPointError, _stopped()) as error:
        print(f"hbnn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hbnn: interrupted", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hbnn",
        description="Hyperbolic binary neural networks: train, verify, ship.",
        epilog="example: hbnn demo --quick",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in _COMMAND_MODULES:
        importlib.import_module(f"{__name__}.{name}").register(commands)
    return parser


def _stopped() -> type[BaseException]:
    """The exception of a stopped run, without importing TensorFlow for its sake."""
    module = sys.modules.get("hbnn_larq.training.run")
    return module.Stopped if module else KeyboardInterrupt


def _out_of_memory() -> tuple[type[Exception], ...]:
    """Python's error for it and TensorFlow's, without importing TensorFlow for its sake."""
    module = sys.modules.get("tensorflow")
    return (MemoryError, module.errors.ResourceExhaustedError) if module else (MemoryError,)


def _text(error: Exception) -> str:
    """An error's message; of an OSError without its number."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        full = where and error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ". Free some space there and run the same command again" if full else ""
        return f"{error.strerror}{where}{hint}"
    return str(error)
