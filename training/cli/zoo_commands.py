"""`hbnn summary` and `hbnn zoo`."""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hbnn_larq.training.cli.commands import add_command, folder, model_of, voice

__all__ = ["register"]


def register(commands: Any) -> None:
    """Adds the commands to the parser of `hbnn`."""
    summary = add_command(
        commands,
        "summary",
        _summary,
        "bits, shapes, multiply-adds and deployed bytes of a network, beside its float twin",
        "hbnn summary ResNet18 --set width=0.5 --set num_classes=100",
    )
    summary.add_argument("model", help="a model of the zoo, a model file, or the folder of a run")
    summary.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="ARGUMENT=VALUE",
        help="an argument of the zoo's model; may be given several times",
    )
    summary.add_argument("--json", action="store_true", help="print as JSON")

    zoo = commands.add_parser(
        "zoo",
        help="list, download, verify and publish pretrained weights",
        description="List, download, verify and publish pretrained weights.",
        epilog="example: hbnn zoo list",
    )
    actions = zoo.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = add_command(
        actions,
        "list",
        _list,
        "the registry: what exists, and how to train the rest",
        "hbnn zoo list",
    )
    _add_base(listing)
    listing.add_argument("--json", action="store_true", help="print as JSON")

    download = add_command(
        actions,
        "download",
        _download,
        "fetch the file of some pretrained weights",
        "hbnn zoo download ResNet18 cifar10 --from https://example.org/weights",
    )
    _add_name(download)
    _add_base(download)
    download.add_argument("--cache", metavar="DIR", help="folder to keep it in")

    verify = add_command(
        actions,
        "verify",
        _verify,
        "check files of pretrained weights: hash, load, and test accuracy where data is at hand",
        "hbnn zoo verify VGGSmall digits",
    )
    _add_name(verify, optional=True)
    _add_base(verify)
    verify.add_argument("--cache", metavar="DIR", help="folder of downloads")
    verify.add_argument("--json", action="store_true", help="print as JSON")

    publish = add_command(
        actions,
        "publish",
        _publish,
        "turn a finished run into weights file, model card and registry row",
        "hbnn zoo publish runs/cifar10-resnet18 --to published",
    )
    publish.add_argument("workdir", type=folder, help="folder of a finished `hbnn train`")
    publish.add_argument("--to", default="published", metavar="DIR", help="folder (%(default)s)")
    publish.add_argument("--name", help="name of the weights (default: the data set's)")
    publish.add_argument("--licence", default="Apache-2.0", help="of the weights (%(default)s)")
    publish.add_argument("--json", action="store_true", help="print the card as JSON")


def _add_name(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    number: Any = "?" if optional else None
    parser.add_argument("model", nargs=number, help="a model of the zoo, such as VGGSmall")
    parser.add_argument("weights", nargs=number, help="name of the weights, such as digits")


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="base",
        metavar="URL|DIR",
        help="where the files are (default: the environment variable HBNN_LARQ_WEIGHTS)",
    )


# ------------------------------------------------------------------ summary


def _summary(arguments: argparse.Namespace) -> int:
    from hbnn_larq.summary import summarize

    summary = summarize(_model(arguments.model, arguments.set))
    print(summary.to_json() if arguments.json else summary)
    return 0


def _model(name: str, changes: list[str]) -> Any:
    from hbnn_larq import rebuilding, zoo

    by_lower = {model.lower().replace("_", ""): model for model in zoo.MODELS}
    known = by_lower.get(name.lower().replace("_", ""))
    if known is not None:
        return getattr(zoo, known)(**_arguments(getattr(zoo, known), known, changes))
    path = Path(name)
    if not path.exists():
        close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
        hint = f" Closest: {by_lower[close[0]]}." if close else ""
        raise ValueError(
            f'no model "{name}" in the zoo, and no such file.{hint} The zoo has '
            f"{', '.join(zoo.MODELS)}."
        )
    if changes:
        raise ValueError(f"--set changes a model of the zoo; {name} is a file and is as it is.")
    call = "hbnn summary"
    model = path / "model.keras"
    if not model.exists():
        model, _ = model_of(name, call)
    return rebuilding.load(model, call=f"{call} {name}")


def _arguments(function: Any, name: str, changes: list[str]) -> dict[str, Any]:
    import inspect

    known = list(inspect.signature(function).parameters)
    arguments = {}
    for change in changes:
        argument, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change}: expected ARGUMENT=VALUE, such as width=0.5.")
        if argument not in known:
            close = difflib.get_close_matches(argument, known, n=1, cutoff=0.4)
            hint = f" Closest: {close[0]}." if close else ""
            raise ValueError(f'{name} has no argument "{argument}".{hint}')
        try:
            arguments[argument] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[argument] = text  # a plain word, such as an alias
    return arguments


# ------------------------------------------------------------------ zoo


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints what the zoo warns of without the line of code that it is from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"hbnn: {message}", file=sys.stderr)
        yield


@_plain_warnings()
def _list(arguments: argparse.Namespace) -> int:
    from hbnn_larq import zoo

    rows = zoo.list_pretrained(arguments.base)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    model, weights = (max(len(getattr(row, name)) for row in rows) for name in ("model", "weights"))
    print(f"{'model':{model}}  {'weights':{weights}}  top-1    size      file, or how to train it")
    for row in rows:
        top1 = row.metrics.get("test_top1")
        accuracy = f"{top1:.2f} %" if top1 is not None else "-"
        size = f"{row.bytes / 1e3:.1f} kB" if row.bytes else "-"
        way = row.file or f"not trained yet: {row.train}"
        print(f"{row.model:{model}}  {row.weights:{weights}}  {accuracy:7}  {size:8}  {way}")
    return 0


@_plain_warnings()
def _download(arguments: argparse.Namespace) -> int:
    from hbnn_larq.zoo.pretrained import bar, fetch, find

    row = find(arguments.model, arguments.weights, arguments.base)
    progress = bar(row.file) if row.file else None
    print(fetch(row, base=arguments.base, cache=arguments.cache, progress=progress))
    return 0


@_plain_warnings()
def _verify(arguments: argparse.Namespace) -> int:
    from hbnn_larq.zoo.pretrained import bar, fetch, find, list_pretrained

    if arguments.model and not arguments.weights:
        raise ValueError(f"hbnn zoo verify {arguments.model}: which weights? See hbnn zoo list")
    if arguments.model:
        rows = [find(arguments.model, arguments.weights, arguments.base)]
    else:
        rows = [row for row in list_pretrained(arguments.base) if row.file]
    checks = []
    for row in rows:
        path = fetch(row, base=arguments.base, cache=arguments.cache, progress=bar(row.weights))
        checks.append({"model": row.model, "weights": row.weights, **_check(row, path)})
    if arguments.json:
        print(json.dumps(checks, indent=2))
    else:
        for check in checks:
            print(f"{check['model']} {check['weights']}: {check['verdict']}")
        if not checks:
            print("no pretrained weights to verify")
    return 0 if all(check["ok"] for check in checks) else 1


def _check(row: Any, path: Path) -> dict[str, Any]:
    """Loads a file whose hash is right, and measures it where its data set is at hand."""
    from hbnn_larq import zoo

    model = getattr(zoo, row.model)(**row.architecture, weights=path)
    claimed = row.metrics.get("test_top1")
    dataset = _dataset(row.weights)
    if dataset is None or claimed is None:
        return {"ok": True, "verdict": "sha256 right, loads; test accuracy not measured (no data)"}
    from hbnn_larq.training.run import evaluate

    measured = float(evaluate(model, dataset)["top1"])
    same = abs(measured - claimed) < 0.5 / max(1, len(dataset.test)) * 100
    verdict = f"sha256 right, loads, test accuracy {measured:.2f} %"
    verdict += ", as its card says" if same else f", but its card says {claimed:.2f} %"
    return {"ok": same, "measured_top1": measured, "claimed_top1": claimed, "verdict": verdict}


def _dataset(name: str) -> Any:
    """A data set that needs no download, or `None`."""
    from hbnn_larq.training import data

    return data.load(name) if name == "digits" else None


def _publish(arguments: argparse.Namespace) -> int:
    from hbnn_larq.training.finished import remark_on_model
    from hbnn_larq.training.recipe import Recipe
    from hbnn_larq.zoo.publish import publish

    workdir = Path(arguments.workdir)
    begun = workdir / "recipe.json"
    if begun.exists() and (remark := remark_on_model(workdir, Recipe.read(begun))):
        voice(arguments)(remark)
    row, card = publish(
        workdir,
        arguments.to,
        weights=arguments.name,
        command=_command(workdir),
        licence=arguments.licence,
    )
    if arguments.json:
        print(json.dumps(card, indent=2))
        return 0
    folder = Path(arguments.to)
    print(f"file     {folder / str(row.file)}  ({row.bytes:,} bytes)")
    print(f"sha256   {row.sha256}")
    print(f"card     {folder / str(row.card)}")
    print(f"registry {folder / 'registry.json'}")
    print(f"to use   HBNN_LARQ_WEIGHTS={os.path.abspath(folder)}")
    return 0


def _command(workdir: Path) -> str | None:
    """The command that trains the run again, its changes to the named recipe included."""
    from hbnn_larq.training.finished import finished_run
    from hbnn_larq.training.recipes import find

    finished = finished_run(workdir)
    if finished is None:
        return None
    recipe, _ = finished
    try:
        changes = recipe.differences(find(recipe.name))
    except ValueError:  # a recipe of the user's own
        print(f"hbnn: {recipe.name} is no named recipe; the card holds it in full", file=sys.stderr)
        return None
    words = [f"hbnn train {recipe.name} --workdir runs/{recipe.name}"]
    words += [f"--set {field}={mine}" for field, (mine, _) in changes.items()]
    return " ".join([*words, "--keep-decay"] if changes else words)
