r"""The flip-rate law: how many binary weights change sign per step, from the recipe alone.

`sign` ignores scale, so the size of a latent vector only sets how far one step turns it. Weight
decay shrinks the vector and updates (nearly orthogonal to it) grow it until both balance; from
then on each step of SGD turns it by about

\\[ \theta = \sqrt{2 \eta \lambda / (1 + \mu)} \\]

radians (\\(\eta\\) learning rate, \\(\lambda\\) coupled weight decay, \\(\mu\\) momentum), and a
rotation by \\(\theta\\) changes the sign of a share \\(\theta / \pi\\) of its entries. Radius,
granularity, width and gradient scale drop out. The balance is reached once the sum of
\\(\eta \lambda\\) over training is about 1; far below that the net is starved of flips,
whatever the quantizer.

So a recipe is not (learning rate, decay, epochs) but (learning rate, **sum** of learning rate
times decay, steps), and a run that is shortened must raise its decay in proportion.

The prediction is close to an upper bound. At the balance nets stay 8 to 16 % below it; where
the gradient dies out, as when the training set is learned by heart, norms lag behind and flips
fall further.

Everything here is plain arithmetic on floats: no TensorFlow is imported. Learning rates are given
as the values of a schedule, one per step (or any even sample of them, such as one per epoch).

# References
- The angle of the balance: [Spherical Motion Dynamics](https://arxiv.org/abs/2006.08419)
- The law for binary nets, its check values and the thresholds: ours, measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

__all__ = [
    "COSINE_MEAN",
    "Verdict",
    "angle_per_step",
    "decay_for_flip_rate",
    "decay_for_sum",
    "decay_sum",
    "flips_per_step",
    "mean_flips_per_step",
    "overshoot",
    "rescaled_decay",
    "verdict",
]

Verdict = Literal["starved", "few", "healthy", "many", "too many"]

COSINE_MEAN = 2 / math.pi
"""Mean of sqrt(lr) over a cosine schedule that falls to 0, relative to its first value."""

# Shares of weights per step, from 103 training runs of about 1,200 steps each: up to 0.1 % left
# nets 8 to 13 points short, 0.4 to 1.2 % made no difference, 2.2 % cost 4 points again.
STARVED_BELOW = 0.001
HEALTHY_FROM = 0.004
HEALTHY_TO = 0.012
TOO_MANY_ABOVE = 0.02
# With swings of 8 to 18 %, runs of 170 to 300 steps lost 10 points on average to decoupled decay.
MOST_OVERSHOOT = 0.01
# Sums of lr * decay: 0.03 starved, 0.7 as good as any, 2.4 the same, about 2.9 in the paper.
STARVED_SUM = 0.3
SETTLED_SUM = 1.0


def angle_per_step(learning_rate: float, weight_decay: float, momentum: float = 0.0) -> float:
    r"""Angle by which one step turns a latent vector once decay and updates balance.

    \\[ \theta = \sqrt{2 \eta \lambda / (1 + \mu)} \\]

    # Arguments
        learning_rate: step size of SGD, 0 or above.
        weight_decay: decay coupled to the gradient (`gradient + weight_decay * weight`), 0 or
            above. An L2 penalty `l2(c)` in Keras is a decay of `2 * c`.
        momentum: of heavy-ball SGD, in [0, 1).

    # Returns
        Radians per step.

    # Raises
        ValueError: for a negative or non-finite rate or decay, or a momentum outside [0, 1).

    !!! example
        ```python
        angle_per_step(0.1, 0.04, momentum=0.9)  # 0.0649
        ```
    """
    _check("angle_per_step", learning_rate=learning_rate, weight_decay=weight_decay)
    _check_momentum("angle_per_step", momentum)
    return math.sqrt(2 * learning_rate * weight_decay / (1 + momentum))


def flips_per_step(learning_rate: float, weight_decay: float, momentum: float = 0.0) -> float:
    r"""Share of binary weights that change sign in one step at the balance, \\(\theta / \pi\\).

    # Arguments
        learning_rate, weight_decay, momentum: as in `angle_per_step`.

    # Returns
        A share in [0, 1]: 0.01 is one weight in a hundred per step.
    """
    return min(angle_per_step(learning_rate, weight_decay, momentum) / math.pi, 1.0)


def mean_flips_per_step(
    learning_rates: Sequence[float], weight_decay: float, momentum: float = 0.0
) -> float:
    """Mean over a schedule of the predicted share of weights that flip per step.

    # Arguments
        learning_rates: the schedule's values, one per step or an even sample of them.
        weight_decay, momentum: as in `angle_per_step`.

    # Returns
        A share in [0, 1]. For a cosine schedule: its first value's share times 2/pi.

    # Raises
        ValueError: for an empty schedule, and as `angle_per_step`.

    !!! example
        ```python
        cosine = [0.05 * (1 + math.cos(math.pi * step / 1200)) for step in range(1200)]
        mean_flips_per_step(cosine, 0.04, momentum=0.9)  # 0.0131
        ```
    """
    _check_schedule("mean_flips_per_step", learning_rates)
    total = sum(flips_per_step(rate, weight_decay, momentum) for rate in learning_rates)
    return total / len(learning_rates)


def decay_sum(learning_rates: Sequence[float], weight_decay: float) -> float:
    """Sum over training of learning rate times decay: how far the balance can be reached.

    # Arguments
        learning_rates: one value per step, all of them (not a sample: this is a sum).
        weight_decay: coupled decay, 0 or above.

    # Returns
        The sum, without unit. About 2.9 in the paper's CIFAR recipe; 1 to 3 is a good aim.
    """
    _check_schedule("decay_sum", learning_rates)
    _check("decay_sum", weight_decay=weight_decay)
    return weight_decay * math.fsum(learning_rates)


def decay_for_sum(target: float, learning_rates: Sequence[float]) -> float:
    """Decay that gives a wanted sum of learning rate times decay.

    # Arguments
        target: the wanted sum, 0 or above.
        learning_rates: one value per step, at least one of them above 0.

    # Returns
        The coupled weight decay.

    # Raises
        ValueError: for a negative target or a schedule that is zero throughout.
    """
    _check_schedule("decay_for_sum", learning_rates)
    _check("decay_for_sum", target=target)
    total = math.fsum(learning_rates)
    if not total > 0:
        raise ValueError(
            "decay_for_sum: every learning rate is 0, so no decay reaches "
            f"a sum of {target}. Give a schedule with a rate above 0."
        )
    return target / total


def decay_for_flip_rate(
    target: float, learning_rates: Sequence[float], momentum: float = 0.0
) -> float:
    """Decay whose predicted mean flips per step equal a wanted share.

    Undoes `mean_flips_per_step`.

    # Arguments
        target: wanted share of weights per step, in [0, 0.5]; 0.004 to 0.012 is healthy.
        learning_rates: as in `mean_flips_per_step`, at least one of them above 0.
        momentum: of heavy-ball SGD, in [0, 1).

    # Returns
        The coupled weight decay.

    # Raises
        ValueError: for a target outside [0, 0.5] or a schedule that is zero throughout.
    """
    _check_schedule("decay_for_flip_rate", learning_rates)
    _check_momentum("decay_for_flip_rate", momentum)
    if not 0 <= target <= 0.5:
        raise ValueError(
            f"decay_for_flip_rate(target={target}): a share of weights per step, in [0, 0.5]; "
            "one percent is 0.01."
        )
    mean_root = sum(math.sqrt(rate) for rate in learning_rates) / len(learning_rates)
    if not mean_root > 0:
        raise ValueError(
            "decay_for_flip_rate: every learning rate is 0, so no decay makes a weight flip. "
            "Give a schedule with a rate above 0."
        )
    return (math.pi * target / mean_root) ** 2 * (1 + momentum) / 2


def rescaled_decay(
    weight_decay: float, learning_rates: Sequence[float], new_learning_rates: Sequence[float]
) -> float:
    """Decay that keeps the sum of learning rate times decay when the schedule changes.

    # Arguments
        weight_decay: decay of the old schedule.
        learning_rates: the old schedule, one value per step.
        new_learning_rates: the new schedule, one value per step.

    # Returns
        The decay for the new schedule.

    !!! example
        A run cut from 600 epochs to 20 at the same rates needs 30 times the decay.
    """
    return decay_for_sum(decay_sum(learning_rates, weight_decay), new_learning_rates)


def verdict(flips: float, total: float | None = None) -> Verdict:
    """What a share of flips per step means for training.

    | flips per step | verdict |
    |---|---|
    | below 0.1 % | starved |
    | 0.1 to 0.4 % | few (healthy where the sum of lr * decay is 1 or more: time makes up for it) |
    | 0.4 to 1.2 % | healthy |
    | 1.2 to 2 % | many |
    | above 2 % | too many |

    A sum of learning rate times decay below 0.3 is "starved" at any rate but the highest, because
    the balance that a prediction supposes is never reached.

    # Arguments
        flips: share of weights per step, predicted or measured, 0 or above.
        total: sum of learning rate times decay over training (`decay_sum`), where it is known.

    # Returns
        One of "starved", "few", "healthy", "many", "too many".
    """
    _check("verdict", flips=flips)
    if flips > TOO_MANY_ABOVE * (1 + 1e-9):  # a decay solved for the limit may round beyond it
        return "too many"
    if total is not None:
        _check("verdict", total=total)
        if total < STARVED_SUM:
            return "starved"
        if total >= SETTLED_SUM and 0 < flips < HEALTHY_FROM:
            return "healthy"
    if flips < STARVED_BELOW:
        return "starved"
    if flips < HEALTHY_FROM:
        return "few"
    return "healthy" if flips <= HEALTHY_TO else "many"


def overshoot(learning_rate: float, weight_decay: float, momentum: float = 0.0) -> float:
    r"""How far momentum and coupled decay, left alone, swing a weight beyond zero.

    Heavy-ball SGD on a decay term is a damped spring,
    \\[ w_{t+1} = (1 + \mu - \eta \lambda) w_t - \mu w_{t-1}. \\]
    Up to \\(\eta \lambda = (1 - \sqrt\mu)^2\\) it creeps to zero; beyond, it swings through by
    \\(\sqrt{\mu}^{\,\pi / \phi}\\) of where it began, with
    \\(\cos\phi = (1 + \mu - \eta\lambda) / 2 \sqrt\mu\\). A binary layer whose weights do so
    changes all its signs at once, and forgets what they had learned.

    # Arguments
        learning_rate: the highest of the schedule.
        weight_decay: coupled decay.
        momentum: of heavy-ball SGD, in [0, 1).

    # Returns
        A share: 0 where nothing swings, 0.1 where a weight of 1 comes to -0.1. Above 1 it grows
        from swing to swing. (Between steps; at low momentum no step may hit the very crest.)

    !!! example
        ```python
        overshoot(0.1, 0.03, momentum=0.9)  # 0.0002
        overshoot(0.1, 0.1, momentum=0.9)  # 0.15
        ```
    """
    _check("overshoot", learning_rate=learning_rate, weight_decay=weight_decay)
    _check_momentum("overshoot", momentum)
    root = math.sqrt(momentum)
    product = learning_rate * weight_decay
    if product <= (1 - root) ** 2:
        return 0.0
    first = product - 1  # beyond zero already with the first step
    if product >= (1 + root) ** 2:  # and from side to side with every other
        return first
    return max(first, root ** (math.pi / math.acos((1 + momentum - product) / (2 * root))))


def _check(call: str, **values: float) -> None:
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{call}({name}={value}): {name} must be a finite number, 0 or above.")


def _check_momentum(call: str, momentum: float) -> None:
    if not 0 <= momentum < 1:
        raise ValueError(f"{call}(momentum={momentum}): momentum must be at least 0 and below 1.")


def _check_schedule(call: str, learning_rates: Sequence[float]) -> None:
    if len(learning_rates) == 0:
        raise ValueError(f"{call}: the schedule is empty. Give at least one learning rate.")
    for rate in learning_rates:
        if not (rate >= 0 and math.isfinite(rate)):
            raise ValueError(
                f"{call}: the schedule holds {rate}; every learning rate must be a finite "
                "number, 0 or above."
            )
