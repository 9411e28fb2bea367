"""The README's code runs as printed."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_training_and_shipping(tmp_path, monkeypatch, capsys):
    pytest.importorskip("larq_compute_engine")
    monkeypatch.chdir(tmp_path)
    training, shipping, asking, *_ = python_blocks()
    lines = [line for line in training.splitlines() if line.strip()]
    assert len(lines) <= 25 and "Hyperbolic(r=0.05)" in training
    scope: dict = {}
    exec(compile(training, "README.md (training)", "exec"), scope)
    history = scope["model"].history.history
    assert max(history["val_accuracy"]) > 0.8, "the example does not learn"
    exec(compile(shipping, "README.md (shipping)", "exec"), scope)
    assert scope["report"].ok and (tmp_path / "plain.keras").exists()
    assert "LceBconv2d" in capsys.readouterr().out
    folded = scope["hbnn_larq"].fold(scope["model"])
    x = scope["images"][:8]
    np.testing.assert_array_equal(folded(x), scope["model"](x))
    # A fresh one: where base points have grown, the share is another (docs/method.md).
    scope["model"] = scope["tf"].keras.models.clone_model(scope["model"])
    exec(compile(asking, "README.md (asking for flips)", "exec"), scope)
    assert type(scope["model"].optimizer) is scope["hbnn_larq"].optimizers.GeodesicSGD
    monitor = scope["hbnn_larq"].callbacks.FlipMonitor()
    scope["model"].fit(
        scope["images"][:1400], scope["labels"][:1400], verbose=0, callbacks=[monitor]
    )
    for share in monitor.history[0]["flips_per_step"].values():
        assert 0.01 < share < 0.04  # two percent are asked for


def test_every_command_is_written_as_it_can_be_given():
    """With whatever stands for a name: `hbnn search NAME` alone would be refused."""
    from hbnn_larq.training.cli import _parser

    text = README.read_text(encoding="utf-8")
    listed = re.search(r"## Commands\n\n```\n(.*?)```", text, re.DOTALL)[1].splitlines()
    commands = [line[:34] if line[33:34] in ("", " ") else line for line in listed]
    commands += re.findall(r"`(hbnn\s[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    commands = [command for command in commands if command.startswith("hbnn")]
    assert len(commands) > 15
    for command in commands:
        words = [word.split("|")[0] for word in shlex.split(command)[1:]]
        more = {"list": [], "convert": []}.get(words[-1], [])
        _, unknown = _parser().parse_known_args([*words, *more])
        assert not unknown, command
