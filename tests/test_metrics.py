"""Flips, information gain and distance to the edge on hand-made arrays."""

import numpy as np
import pytest

from hbnn_larq import metrics


def test_flip_share_counts_signs_and_takes_zero_as_positive():
    assert metrics.flip_share([1, -1, -1, 1], [1, 1, -1, -1]) == 0.5
    assert metrics.flip_share([0.0, -0.0, -2.0, 3.0], [0.1, 5.0, -1.0, -0.5]) == 0.25
    assert metrics.flip_share([True, False], [True, True]) == 0.5


def test_flip_share_names_both_shapes():
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        metrics.flip_share([1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match="empty"):
        metrics.flip_share([], [])


def test_information_gain_at_its_known_points():
    np.testing.assert_allclose(metrics.information_gain([0, 0.5, 1]), [0, 1, 0])
    assert metrics.information_gain(0.11) == pytest.approx(0.4999, abs=1e-4)


def test_information_gain_is_symmetric():
    q = np.linspace(0, 1, 101)
    np.testing.assert_allclose(
        metrics.information_gain(q), metrics.information_gain(1 - q), atol=1e-14
    )


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_information_gain_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match=r"a probability lies in \[0, 1\]"):
        metrics.information_gain(bad)


def test_sign_entropy():
    assert metrics.sign_entropy([1, -1]) == 1
    assert metrics.sign_entropy(np.ones((3, 3))) == 0
    with pytest.raises(ValueError, match="empty"):
        metrics.sign_entropy([])


def test_edge_share_is_one_on_the_sphere_of_the_ball():
    r = 0.05
    p = np.zeros((3, 3, 4, 2))
    p[0, 0, 0] = [1 / np.sqrt(r), 0.5 / np.sqrt(r)]
    np.testing.assert_allclose(metrics.edge_share(p, r=r, axis=(0, 1, 2)), [1, 0.5])
    for bad in (0, None, float("nan"), True):
        with pytest.raises(ValueError, match=rf"edge_share\(r={bad!r}\): a number above 0"):
            metrics.edge_share(p, r=bad, axis=-1)
