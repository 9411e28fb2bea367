"""Runs the LCE converter in a process of its own: a crash in it is then only an exit status.

Started by `conversion.py` as a script, never imported: it needs nothing but the standard library
and the converter's compiled library, so it is up in a tenth of a second.

    python converter_child.py LIBRARY JOB.json GRAPH.pb OUT.tflite
"""

import importlib.util
import json
import os
import sys


def main(library: str, job_path: str, graph_path: str, out_path: str) -> None:
    spec = importlib.util.spec_from_file_location("_tf_tfl_flatbuffer", library)
    assert spec is not None and spec.loader is not None
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    with open(job_path, encoding="utf-8") as file:
        job = json.load(file)
    with open(graph_path, "rb") as file:
        graph = file.read()
    tflite = converter.convert_graphdef_to_tflite_flatbuffer(
        graph,
        job["inputs"],
        job["dtypes"],
        job["shapes"],
        job["outputs"],
        job["quantize"],
        job["target"],
        None,
    )
    with open(out_path, "wb") as file:
        file.write(tflite)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # the library may crash while it is unloaded, after the work is done
