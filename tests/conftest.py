"""Every test starts from the same seeds, whichever others run before it."""

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


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)
