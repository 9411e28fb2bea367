"""From a trained model to a file for the Larq Compute Engine (LCE), checked on the way.

`convert` writes the .tflite, `report` says what is in it and whether it computes what Keras
computes, `predict` runs it, `benchmark` times it beside its float and int8 twins. Everything works
on any Larq model; nothing here imports LCE before it is needed.
"""

from hbnn_larq.edge.conversion import convert
from hbnn_larq.edge.metadata import Preprocessing
from hbnn_larq.edge.reporting import Report, report
from hbnn_larq.edge.running import predict
from hbnn_larq.edge.timing import Benchmark, benchmark

__all__ = [
    "Benchmark",
    "Preprocessing",
    "Report",
    "benchmark",
    "convert",
    "predict",
    "report",
]
