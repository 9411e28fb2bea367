"""Where the Larq Compute Engine's two compiled libraries are, found without importing LCE.

`import larq_compute_engine` loads the converter, 180 MB, into the process. Converting wants it in
a process of its own, and predicting does not want it at all.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

INSTALL = 'pip install "larq-compute-engine>=0.16,<0.17"'
_INTERPRETER = "larq_compute_engine.tflite.python.interpreter_wrapper_lite"


def converter_library(call: str) -> Path:
    return _library(call, "mlir", "_tf_tfl_flatbuffer")


def interpreter_library(call: str) -> Path:
    return _library(call, "tflite", "python", "interpreter_wrapper_lite")


def interpreter_module(call: str) -> Any:
    """The compiled interpreter module, under the name by which LCE itself would import it."""
    if _INTERPRETER not in sys.modules:
        spec = importlib.util.spec_from_file_location(_INTERPRETER, interpreter_library(call))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[_INTERPRETER] = module
    return sys.modules[_INTERPRETER]


def _library(call: str, *parts: str) -> Path:
    package = importlib.util.find_spec("larq_compute_engine")
    if package is None or not package.submodule_search_locations:
        raise ImportError(
            f"{call}: larq-compute-engine is not installed here. Install it with: {INSTALL}"
        )
    folder = Path(package.submodule_search_locations[0]).joinpath(*parts[:-1])
    libraries = [path for path in folder.glob(f"{parts[-1]}.*") if path.suffix in (".so", ".pyd")]
    if not libraries:
        raise ImportError(
            f"{call}: the larq-compute-engine in {folder} has no compiled {parts[-1]}; its wheels "
            f"are for Linux x86_64, macOS and Windows. Reinstall it there with: {INSTALL}"
        )
    return libraries[0]
