"""A search over several processes: keras-tuner's chief and workers, on one machine."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from micro import micro_model

from hbnn_larq.training import data, run, search
from hbnn_larq.training.recipe import Recipe

pytest.importorskip("keras_tuner")

HERE = str(Path(__file__).parent)
ROLE = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
TINY = Recipe(
    name="tiny", source="a test", dataset="tiny", model="vgg_small", kernel_quantizer="hyperbolic",
    epochs=3, batch_size=18, latent_decay=0.05, learning_rate=0.02,
)  # fmt: skip
RADII = (0.05, 0.5, 5.0)

PROCESS = """
import sys
sys.path.insert(0, {here!r})
from test_search_workers import micro_model, run, searched
run.build_model = micro_model
print("outcome", searched(sys.argv[1]) is not None, flush=True)
"""


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    monkeypatch.setattr(run, "build_model", micro_model)


def searched(workdir):
    return search.search(
        TINY,
        workdir,
        radii=RADII,
        seeds=2,
        dataset=data.generated((8, 8, 1), 3, train=36, validation=30, test=30, difficulty=0.2),
        say=lambda line: print(line, flush=True),
    )


def start(name, port, workdir):
    # gRPC takes the environment's proxy even for the loopback address.
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS.format(here=HERE), str(workdir)],
        env=environment | dict(zip(ROLE, (name, "127.0.0.1", str(port)), strict=True)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_workers_share_the_trials_and_a_killed_one_goes_on(tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = tmp_path / "together"
    chief, one, two = (start(name, port, together) for name in ("chief", "one", "two"))
    said = []
    for line in one.stdout:
        said.append(line)
        if line.startswith("  epoch 2/3"):
            one.kill()
            break
    one.wait()
    again = start("one", port, together)
    outputs = {
        name: process.communicate(timeout=300)
        for name, process in (("chief", chief), ("again", again), ("two", two))
    }
    for process, (out, err) in zip((chief, again, two), outputs.values(), strict=True):
        assert process.returncode == 0, out + err[-2000:]
    lines = [*said, *outputs["again"][0].splitlines(), *outputs["two"][0].splitlines()]
    assert any(re.match(r"  resumed from step [24] of 6", line) for line in lines)
    # Three values of r with two seeds: six runs, each begun once, whoever took it.
    assert sum(line.startswith("  epoch 1/3") for line in lines) == 6
    for name in ("again", "two"):
        assert "no trial is left; the chief writes" in outputs[name][0]
        assert "outcome False" in outputs[name][0]
    assert "outcome True" in outputs["chief"][0] and "epoch" not in outputs["chief"][0]

    for name in ROLE:
        monkeypatch.delenv(name, raising=False)
    alone = searched(tmp_path / "alone")
    assert json.loads((together / "search.json").read_text()) == alone


@pytest.mark.parametrize("given", [ROLE[1:], ROLE[:2], ROLE[1:2]])
def test_a_half_described_cluster_is_named(tmp_path, monkeypatch, given):
    for name in ROLE:
        monkeypatch.delenv(name, raising=False)
    for name in given:
        monkeypatch.setenv(name, "1")
    missing = " and ".join(name for name in ROLE if name not in given)
    with pytest.raises(ValueError, match=rf"KERASTUNER_ORACLE_IP is set and {missing} is not"):
        searched(tmp_path)
