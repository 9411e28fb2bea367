"""Pictures of training runs, read back from the figures that would be written."""

import itertools
import warnings

import numpy as np
import pytest

from hbnn_larq import plots


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """What a plot drew, after it was rendered without a warning."""

    def draw(plot, *arguments, **named):
        kept = []
        write = plots._write
        monkeypatch.setattr(
            plots, "_write", lambda figure, path: kept.append(figure) or write(figure, path)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            path = plot(*arguments, tmp_path / "plot.png", **named)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert [file.name for file in tmp_path.iterdir()] == ["plot.png"]
        return kept[0].axes

    return draw


def history(validation=True):
    return [
        {
            "epoch": epoch,
            "loss": 1 / epoch,
            "train_top1": 10.0 * epoch,
            "validation_loss": 2 / epoch if validation else None,
            "validation_top1": 9.0 * epoch if validation else None,
        }
        for epoch in (1, 2, 3)
    ]


def names(axes):
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_learning_curves_show_both_losses(drawn):
    losses, accuracies = drawn(plots.learning_curves, {"one": history(), "two": history()})
    shown = [(list(line.get_ydata()), line.get_linestyle()) for line in losses.lines]
    assert shown == [([1, 1 / 2, 1 / 3], "-"), ([2, 1, 2 / 3], "--")] * 2
    assert names(losses) == ["training", "validation"]
    assert [list(line.get_ydata()) for line in accuracies.lines] == [[9, 18, 27]] * 2
    assert names(accuracies) == ["one", "two"]
    for axes in (losses, accuracies):  # a run has one colour
        colors = [line.get_color() for line in axes.lines]
        assert len(set(colors)) == 2 and colors == sorted(colors)


@pytest.mark.parametrize("runs", [["run"], ["run", "another", "third"]])
def test_learning_curves_without_validation(drawn, runs):
    rows = history(validation=False)
    losses, accuracies = drawn(plots.learning_curves, {run: rows for run in runs})
    assert len(losses.lines) == len(runs) and names(losses) == ["training"]
    assert list(accuracies.lines[0].get_ydata()) == [10, 20, 30]
    assert accuracies.get_ylabel() == "training accuracy (%)"


def test_one_epoch_is_a_dot_and_epochs_are_whole(drawn):
    losses, accuracies = drawn(plots.learning_curves, {"run": history()[:1]})
    assert {line.get_marker() for line in (*losses.lines, *accuracies.lines)} == {"."}
    layers = {"a": 0.01}
    rows = [{"epoch": 1, "layers": {"flips_per_step": layers, "flips_vs_init": layers}}]
    for axes in drawn(plots.flips_per_layer, rows):
        assert axes.lines[0].get_marker() == "."
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_a_net_that_turned_over_is_within_the_picture(drawn):
    layers = {"a": 0.87}
    rows = [{"epoch": 1, "layers": {"flips_per_step": layers, "flips_vs_init": layers}}]
    _, initial = drawn(plots.flips_per_layer, rows)
    assert initial.get_ylim()[1] > 87


MIXED = ["irnet+hyperbolic_boundary", "recu+hyperbolic_boundary", "bnn", "dsq", "fda", "slb"]


@pytest.mark.parametrize(
    "names, long",
    [
        (["aaa", "bbb", "ccc", "ddd"], False),
        ([f"irnet:input_quantizer={name}" for name in "abcd"], True),
        (MIXED, True),
    ],
)
def test_names_of_methods_do_not_overlap(drawn, names, long):
    (axes,) = drawn(plots.accuracies, {name: [90.0, 91.0] for name in names})
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    if long:  # turned: they end at their ticks, and the next one begins below
        assert all(label.get_rotation() > 0 for label in axes.get_xticklabels())
    else:
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0 and min(box.y0 for box in boxes) >= 0


@pytest.mark.parametrize("count", [1, 12, 13, 40])
@pytest.mark.parametrize("predicted", [{}, {"flips_predicted": 0.01}])
def test_flips_of_few_layers_are_named_and_of_many_coloured(drawn, count, predicted):
    layers = {f"a_layer_with_a_long_name_{k}": 0.001 * (k + 1) for k in range(count)}
    rows = [
        {"epoch": e, "layers": {"flips_per_step": layers, "flips_vs_init": layers}, **predicted}
        for e in (1, 2)
    ]
    steps, initial, *colorbar = drawn(plots.flips_per_layer, rows)
    expected = [[100 * share] * 2 for share in layers.values()]
    law = [[1.0, 1.0]] if predicted else []
    np.testing.assert_allclose([line.get_ydata() for line in steps.lines], expected + law)
    np.testing.assert_allclose([line.get_ydata() for line in initial.lines], expected)
    assert len(colorbar) == (count > plots.MOST_NAMED)
    assert names(steps) == [
        *([] if colorbar else layers),
        *(["flip-rate law"] if predicted else []),
    ]
    colors = [str(line.get_color()) for line in initial.lines]
    assert len(set(colors)) == count if colorbar else len(set(colors)) == min(count, 10)
    assert steps.get_position().width > 0.2  # of the picture


def test_flips_of_runs_share_axes(drawn):
    """A line a run, its prediction dashed in the same colour."""
    rows = [
        {"epoch": e, "flips_per_step": 0.01 * e, "flips_vs_init": 0.1 * e, "flips_predicted": 0.02}
        for e in (1, 2, 3)
    ]
    bare = [{k: v for k, v in row.items() if k != "flips_predicted"} for row in rows]
    steps, initial = drawn(plots.flips_of_runs, {"a": rows, "b": bare})
    lines = [(line.get_color(), line.get_linestyle()) for line in steps.lines]
    assert lines == [("C0", "-"), ("C0", "--"), ("C1", "-")]
    np.testing.assert_allclose(steps.lines[0].get_ydata(), [1, 2, 3])
    np.testing.assert_allclose(initial.lines[1].get_ydata(), [10, 20, 30])
    assert names(initial) == ["a", "b"]
