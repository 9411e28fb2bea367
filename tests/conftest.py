"""Every test starts from the same seeds, whichever others run before it."""

import gc
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SEED = 20260101

TWO_DEVICES = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""


def pytest_collection_finish():
    """TensorFlow's million objects stay: no collection need look through them again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    """Seeds Python, NumPy and, once a test module has imported it, TensorFlow."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].keras.utils.set_random_seed(SEED)


def let_graphs_go():
    """Frees the graphs of finished tests, which would add up to 20 GB over a run."""
    if "hbnn_larq.span" in sys.modules:
        span = sys.modules["hbnn_larq.span"]
        sys.modules["tensorflow"].keras.backend.clear_session()
        span.forget_gradients(span.custom_gradients())
        gc.collect()
        gc.freeze()  # what is left stays, and need not be looked through again for seconds


@pytest.fixture(scope="module", autouse=True)
def without_graphs_of_other_modules():
    yield
    let_graphs_go()


@pytest.fixture
def many_networks(request, monkeypatch):
    """For modules of many networks, none of which outlives its test.

    The slow ones do without XLA, which compiles the same maps anew for each network and keeps 150
    MB of that to the end of the process, and are cleaned up behind one by one. The few others have
    it, and wait for the end of the module, since collecting takes seconds.
    """
    slow = request.node.get_closest_marker("slow") is not None
    if slow:
        monkeypatch.setenv("HBNN_LARQ_XLA", "0")
    yield
    if slow:
        let_graphs_go()


@pytest.fixture
def on_two_devices():
    """Runs a script in a process whose CPU is two logical devices, and returns what it printed.

    A process of its own, since devices are set at the start of one.
    """

    def run(script, **environment):
        done = subprocess.run(
            [sys.executable, "-c", TWO_DEVICES + textwrap.dedent(script)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)
