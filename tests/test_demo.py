"""The demo: what its screen says, and (slow) that the whole of it holds together."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hbnn_larq.training import demo

ACCURACY = {"validation_top1": 98.0, "test_top1": 98.67, "test_top5": 100.0, "test_loss": 0.05}
FLIPS = {
    "predicted_per_step": 0.0114, "measured_per_step": 0.0061, "decay_sum": 2.04,
    "verdict": "healthy", "vs_init": 0.486, "information_gain": 1.0,
}  # fmt: skip
RESULTS = {
    "quick": False,
    "seed": 0,
    "epochs": 40,
    "images": {"train": 1077, "validation": 270, "test": 450},
    "accuracy": {label: ACCURACY for label in demo.RUNS},
    "flips": {label: FLIPS for label in demo.RUNS} | {"float": None},
    "edge": {
        "ok": True, "faults": [], "bytes": 70_000, "float_bytes": 1_050_000,
        "binary_layers": 5, "binary_ops": 5, "agreeing": 450, "largest_difference": 9.5e-6,
    },
    "seconds": 150.2,
}  # fmt: skip


def test_screen_holds_everything_on_one_screen():
    lines = demo.screen(RESULTS, Path("runs/demo"))
    text = "\n".join(lines)
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    for part in (
        "450 test images no net has seen, 40 epochs",
        "98.67 %       98.67 %       98.67 %       98.67 %",
        "1.14 %        1.14 %        1.14 %             -",
        "0.61 %        0.61 %        0.61 %             -",
        "70.0 kB, float twin 1050.0 kB (15.0 times larger)",
        "5 of 5 binary layers run on bits",
        "same digit on 450 of 450 test images, largest difference of a logit 9.5e-06",
        "runs/demo",
    ):
        assert part in text
    assert "FAULT" not in text and "quick" not in text


def test_screen_says_when_it_is_quick_and_when_something_is_wrong(tmp_path):
    edge = {**RESULTS["edge"], "ok": False, "faults": ["conv3 is a float op"]}
    text = "\n".join(demo.screen({**RESULTS, "quick": True, "edge": edge}, tmp_path))
    assert "(quick: too few to judge by)" in text
    assert "FAULT: conv3 is a float op" in text


@pytest.mark.slow
def test_the_whole_demo_on_one_epoch(tmp_path, monkeypatch):
    pytest.importorskip("larq_compute_engine")
    monkeypatch.setattr(demo, "QUICK_EPOCHS", 1)
    narrow = {label: replace(recipe, width=1 / 16) for label, recipe in demo.RUNS.items()}
    monkeypatch.setattr(demo, "RUNS", narrow)
    results = demo.demo(tmp_path, quick=True, say=lambda line: None)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["edge"]["ok"], results["edge"]["faults"]
    assert results["edge"]["binary_ops"] == results["edge"]["binary_layers"] == 5
    assert (tmp_path / "model.tflite").stat().st_size == results["edge"]["bytes"]
    for name in ("learning_curves.png", "flips.png", "report.md", "report.json"):
        assert (tmp_path / name).stat().st_size > 500
    again = demo.demo(tmp_path, quick=True, say=lambda line: None)
    assert again["accuracy"] == results["accuracy"] and again["edge"] == results["edge"]
