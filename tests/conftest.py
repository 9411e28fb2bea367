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


@pytest.fixture(scope="module", autouse=True)
def without_old_graphs():
    """Lets go of the graphs of a finished module, which would add up to 17 GB over the whole run.

    TensorFlow registers the gradient of every traced `tf.custom_gradient` under a name of its own
    and for good, and with it the graph.
    """
    yield
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import ops

        sys.modules["tensorflow"].keras.backend.clear_session()
        registered = ops.gradient_registry._registry
        for name in [name for name in registered if name.startswith("CustomGradient-")]:
            del registered[name]
        gc.collect()


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)
