"""The flip-rate law against the values that were measured, and its own identities."""

import math
import subprocess
import sys

import numpy as np
import pytest

from hbnn_larq import flip_rate

# lr 0.1, decay 0.04, momentum 0.9, cosine over 1,200 steps: the set-up that was measured.
STEPS = 1200
COSINE = [0.05 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]


def test_prediction_for_the_measured_recipe():
    assert flip_rate.mean_flips_per_step(COSINE, 0.04, 0.9) == pytest.approx(0.0131, abs=1e-4)


def test_prediction_for_three_times_the_rate():
    rates = [3 * rate for rate in COSINE]
    assert flip_rate.mean_flips_per_step(rates, 0.04, 0.9) == pytest.approx(0.0228, abs=5e-5)


@pytest.mark.parametrize("scale, measured", [(1, 0.0120), (3, 0.0220)])
def test_prediction_is_within_15_percent_of_the_measured_flips(scale, measured):
    rates = [scale * rate for rate in COSINE]
    assert flip_rate.mean_flips_per_step(rates, 0.04, 0.9) == pytest.approx(measured, rel=0.15)


def test_sums_of_the_paper_and_of_the_run_cut_short():
    paper = [0.05 * (1 + math.cos(math.pi * step / 117_600)) for step in range(117_600)]
    assert flip_rate.decay_sum(paper, 5e-4) == pytest.approx(2.94, abs=0.01)
    assert flip_rate.decay_sum(COSINE, 5e-4) == pytest.approx(0.03, abs=0.001)
    assert flip_rate.decay_sum(COSINE, 0.04) == pytest.approx(2.4, abs=0.01)


def test_cosine_mean_is_the_mean_root_of_a_cosine_schedule():
    first = flip_rate.flips_per_step(0.1, 0.04, 0.9)
    mean = flip_rate.mean_flips_per_step(COSINE, 0.04, 0.9)
    assert mean / first == pytest.approx(flip_rate.COSINE_MEAN, rel=1e-3)


@pytest.mark.parametrize("target", [0.001, 0.01, 0.2])
def test_decay_for_flip_rate_undoes_the_prediction(target):
    decay = flip_rate.decay_for_flip_rate(target, COSINE, 0.9)
    assert flip_rate.mean_flips_per_step(COSINE, decay, 0.9) == pytest.approx(target)


def test_rescaled_decay_keeps_the_sum():
    short = COSINE[::30]
    decay = flip_rate.rescaled_decay(5e-4, COSINE, short)
    assert flip_rate.decay_sum(short, decay) == pytest.approx(flip_rate.decay_sum(COSINE, 5e-4))
    assert decay == pytest.approx(30 * 5e-4, rel=0.03)


@pytest.mark.parametrize(
    "rate, decay, momentum", [(0.1, 0.04, 0.9), (0.1, 0.04, 0.0), (0.1, 0.01, 0.9)]
)
def test_law_on_the_simplest_system_that_obeys_it(rate, decay, momentum):
    """One latent vector, a scale-invariant loss whose gradient is noise, and decay."""
    rng = np.random.default_rng(0)
    weight, velocity = rng.normal(size=2048), np.zeros(2048)
    angles, flips = [], []
    for step in range(4000):
        noise = rng.normal(size=weight.size)
        norm = np.linalg.norm(weight)
        gradient = (noise - weight * (noise @ weight) / norm**2) / norm
        velocity = momentum * velocity + gradient + decay * weight
        moved = weight - rate * velocity
        if step >= 2000:
            angles.append(math.acos(moved @ weight / (norm * np.linalg.norm(moved))))
            flips.append(np.mean((moved >= 0) != (weight >= 0)))
        weight = moved
    assert np.mean(angles) == pytest.approx(
        flip_rate.angle_per_step(rate, decay, momentum), rel=0.01
    )
    assert np.mean(flips) == pytest.approx(
        flip_rate.flips_per_step(rate, decay, momentum), rel=0.03
    )


@pytest.mark.parametrize(
    "flips, expected",
    [
        (0.0005, "starved"),
        (0.0017, "few"),
        (0.004, "healthy"),
        (0.012, "healthy"),
        (0.015, "many"),
        (0.022, "too many"),
    ],
)
def test_verdict_of_the_measured_rates(flips, expected):
    assert flip_rate.verdict(flips) == expected


@pytest.mark.parametrize("steps", range(17, 400, 17))
def test_a_decay_solved_for_the_limit_is_within_it(steps):
    rates = [0.1 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    decay = flip_rate.decay_for_flip_rate(flip_rate.TOO_MANY_ABOVE, rates, 0.9)
    assert flip_rate.verdict(flip_rate.mean_flips_per_step(rates, decay, 0.9)) == "many"


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("times", [0.5, 0.99, 1.01, 1.2, 3, 10])
def test_overshoot_is_that_of_the_recurrence(momentum, times):
    """Heavy-ball SGD on nothing but decay, from rest; beyond critical damping it swings."""
    product = times * (1 - math.sqrt(momentum)) ** 2
    weight, velocity, lowest = 1.0, 0.0, 1.0
    for _ in range(5000):
        velocity = momentum * velocity - 0.1 * (product / 0.1) * weight
        weight += velocity
        lowest = min(lowest, weight)
    swing = flip_rate.overshoot(0.1, product / 0.1, momentum)
    assert (swing == 0) == (times < 1)
    # To 0 from above where nothing swings; else from step to step, whose crest lies between two.
    assert -min(lowest, 0) == pytest.approx(swing, rel=0.12, abs=1e-12)


def test_overshoot_at_the_ends():
    assert flip_rate.overshoot(0.1, 0.0, 0.9) == 0
    assert flip_rate.overshoot(0.5, 1.0) == 0  # no momentum: a step takes half of a weight
    assert flip_rate.overshoot(1.5, 1.0) == 0.5  # from 1 to 1 - 1.5
    assert flip_rate.overshoot(1.0, 1.9, 0.5) == pytest.approx(0.9)
    assert flip_rate.overshoot(1.0, 4.0, 0.9) == 3.0
    with pytest.raises(ValueError, match=r"overshoot\(momentum=1\)"):
        flip_rate.overshoot(0.1, 0.1, 1)


def test_verdict_with_the_sum_of_training():
    paper, cut_short = 0.00147, 0.00147  # same rates and decay, 100 times fewer steps
    assert flip_rate.verdict(paper, total=2.9) == "healthy"
    assert flip_rate.verdict(cut_short, total=0.03) == "starved"
    assert flip_rate.verdict(0.0, total=3.0) == "starved"
    assert flip_rate.verdict(0.03, total=0.03) == "too many"


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: flip_rate.angle_per_step(-1, 0),
            r"angle_per_step\(learning_rate=-1\).*0 or above",
        ),
        (
            lambda: flip_rate.angle_per_step(1, math.nan),
            r"angle_per_step\(weight_decay=nan\).*finite",
        ),
        (lambda: flip_rate.angle_per_step(1, 1, 1.0), r"momentum=1.0\).*below 1"),
        (
            lambda: flip_rate.mean_flips_per_step([], 1),
            r"mean_flips_per_step: the schedule is empty",
        ),
        (lambda: flip_rate.decay_sum([0.1, math.inf], 1), r"decay_sum: the schedule holds inf"),
        (lambda: flip_rate.decay_for_sum(1, [0.0]), r"decay_for_sum: every learning rate is 0"),
        (
            lambda: flip_rate.decay_for_flip_rate(5, [0.1]),
            r"decay_for_flip_rate\(target=5\).*one percent is 0.01",
        ),
        (lambda: flip_rate.decay_for_flip_rate(0.1, [0.0]), r"every learning rate is 0"),
        (lambda: flip_rate.verdict(-0.1), r"verdict\(flips=-0.1\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_module_itself_needs_no_tensorflow():
    source = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('flip_rate', {flip_rate.__file__!r});"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", source]).returncode == 0
