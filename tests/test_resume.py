"""A real process, killed with SIGKILL at random moments, ends where the unbroken one ends."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hbnn_larq.training import checkpoints

# A child that trains a small net and prints a line per step, so that the parent knows where it is.
CHILD = """
import sys
from hbnn_larq.training import data, run, steps
from hbnn_larq.training.recipe import Recipe

recipe = Recipe(
    name="tiny", source="a test", dataset="tiny", model="vgg_small", width=1 / 32,
    kernel_quantizer={quantizer!r}, epochs=6, batch_size=10, latent_decay=0.05,
)
dataset = data.generated((8, 8, 1), 3, train=55, validation=9, test=9, difficulty=0.2)
one_step = steps.TrainStep.__call__
def announced(self, images, labels):
    print("step", flush=True)
    return one_step(self, images, labels)
steps.TrainStep.__call__ = announced
run.fit(recipe, sys.argv[1], dataset=dataset, say=print, checkpoint_every=3, flips_every=2)
print("finished", flush=True)
"""


def start(workdir, quantizer):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(quantizer=quantizer), str(workdir)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def run_and_kill(workdir, quantizer, rng):
    """Kills the child a random moment after a random step; True where it had finished before."""
    child = start(workdir, quantizer)
    steps_left = rng.randint(1, 14)
    for line in child.stdout:
        if line.startswith("finished"):
            break
        if line.startswith("step"):
            steps_left -= 1
            if steps_left == 0:
                time.sleep(rng.uniform(0, 0.03))
                child.send_signal(signal.SIGKILL)
                break
    child.stdout.close()
    return child.wait() == 0


def resumes_exactly(tmp_path, quantizer, kills, seed):
    rng = random.Random(seed)
    assert start(tmp_path / "straight", quantizer).wait() == 0
    finished = False
    for _ in range(kills):
        finished = finished or run_and_kill(tmp_path / "killed", quantizer, rng)
    if not finished:
        assert start(tmp_path / "killed", quantizer).wait() == 0
    straight, killed = (
        checkpoints.newest(tmp_path / name / "checkpoints") for name in ("straight", "killed")
    )
    assert straight.step == killed.step == 36
    assert set(straight.arrays) == set(killed.arrays)
    for name, value in straight.arrays.items():  # weights, momenta, step counts, signs
        np.testing.assert_array_equal(value, killed.arrays[name], err_msg=name)
    assert straight.state["history"] == killed.state["history"]


def test_killed_process_resumes_exactly(tmp_path):
    resumes_exactly(tmp_path, "ste_sign", kills=1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["hyperbolic", "epc"])
def test_process_killed_many_times_resumes_exactly(tmp_path, quantizer):
    resumes_exactly(tmp_path, quantizer, kills=8, seed=2)
