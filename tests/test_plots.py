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


ODD = ("_ste", "a$b^$", "a$\\frac$", "x_1", "cost $5", "$")


def test_names_are_shown_as_they_are(drawn):
    """A name that begins with _ is left out of a legend, one between $ is read as a formula."""
    _, accuracies = drawn(plots.learning_curves, dict.fromkeys(ODD, history()))
    assert [shown(text) for text in names(accuracies)] == list(ODD)


def shown(text):
    """What matplotlib draws for a label, which must not be a formula to it."""
    from matplotlib import cbook

    assert not cbook.is_math_text(text)
    return text.replace(r"\$", "$").lstrip("\u200b")


@pytest.mark.parametrize("plot", [plots.learning_curves, plots.flips_of_runs])
def test_long_names_leave_room_for_the_lines(drawn, plot):
    rows = [{**row, "flips_per_step": 0.1, "flips_vs_init": 0.2} for row in history()]
    long = [f"runs/{'x' * 200}/{end}" for end in ("one", "two")]
    axes = drawn(plot, dict.fromkeys(long, rows))
    labels = names(axes[1])
    assert len(set(labels)) == 2 and max(map(len, labels)) <= plots.LONGEST_NAME
    assert [label[-3:] for label in labels] == ["one", "two"] and labels[0].startswith("runs/x")
    for each in axes:
        assert each.get_position().width > 0.3


def test_groups_are_named_as_they_are(drawn):
    values = {"_a$b^$": [1.0, 2.0], f"{'x' * 200}": [2.0]}
    (axes,) = drawn(plots.accuracies, values)
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert shown(ticks[0]) == "_a$b^$" and len(ticks[1]) <= plots.LONGEST_NAME


def test_radii_that_were_stopped_early_are_crosses_off_the_line(drawn):
    values = {"ball": {0.01: [90.0, 92.0], 1.0: [91.0, 93.0]}, "boundary": {0.5: [89.0]}}
    (whole,) = drawn(plots.radius_study, values)
    assert names(whole) == ["ball", "boundary"]
    (axes,) = drawn(plots.radius_study, values, stopped={"ball": {0.1: [40.0, 50.0]}})
    assert names(axes) == ["ball", "ball, stopped early", "boundary"]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [[*map(tuple, line.get_xydata())] for line in crosses] == [[(0.1, 40.0), (0.1, 50.0)]]
    means = [line for line in axes.lines if line.get_label() == "ball"]
    assert [list(line.get_ydata()) for line in means] == [[91.0, 92.0]]
