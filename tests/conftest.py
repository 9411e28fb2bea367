"""Every test starts from the same seeds, whichever others run before it."""

import gc
import os
import random
import sys

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SEED = 20260101


@pytest.fixture(autouse=True)
def seeded():
    """Seeds Python, NumPy and, once a test module has imported it, TensorFlow."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].keras.utils.set_random_seed(SEED)


def let_graphs_go():
    """Frees the graphs of finished tests, which would add up to 20 GB over a run.

    TensorFlow registers the gradient of every traced `tf.custom_gradient` under a name of its own
    and for good, and with it the graph.
    """
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import ops

        sys.modules["tensorflow"].keras.backend.clear_session()
        registered = ops.gradient_registry._registry
        for name in [name for name in registered if name.startswith("CustomGradient-")]:
            del registered[name]
        gc.collect()


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
def rng():
    return np.random.default_rng(SEED)
