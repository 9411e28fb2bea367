"""Checkpoint files: whole or absent, the newest whole one is found, a full disk is survived."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from hbnn_larq.training import checkpoints

ARRAYS = {"conv/kernel:0": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int64(7)}


def test_round_trip_is_exact(tmp_path):
    state = {"loss": 0.1 + 0.2, "history": [{"epoch": 1}], "none": None}
    checkpoints.save(tmp_path, 12, ARRAYS, state, keep=2)
    found = checkpoints.newest(tmp_path)
    assert found.step == 12 and found.state == state
    assert set(found.arrays) == set(ARRAYS)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], value)
        assert found.arrays[name].dtype == value.dtype


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 20, 100):
        checkpoints.save(tmp_path, step, ARRAYS, {}, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-000000020.npz",
        "step-000000100.npz",
    ]


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_do_not_crowd_out_whole_ones(tmp_path, keep):
    """A run that skipped them goes on from before, and what it saves must stay."""
    for step in (90, 100):
        checkpoints.save(tmp_path, step, ARRAYS, {}, keep=2).write_bytes(b"cut off")
    for step in (10, 20):
        checkpoints.save(tmp_path, step, ARRAYS, {}, keep=keep)
    found = checkpoints.newest(tmp_path)
    assert found is not None and found.step == 20


def test_leftovers_of_killed_writes_are_cleared(tmp_path):
    path = checkpoints.save(tmp_path, 1, ARRAYS, {}, keep=2)
    left = [path.with_name(f".step-000000002.npz.{pid}.tmp") for pid in (17, 4711)]
    for each in left:
        each.write_bytes(b"half")
    other = path.with_name("notes.tmp")
    other.write_text("not ours")
    newest = checkpoints.save(tmp_path, 2, ARRAYS, {}, keep=2)
    assert sorted(tmp_path.iterdir()) == sorted([path, newest, other])


def test_no_directory_means_no_checkpoint(tmp_path):
    assert checkpoints.newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_checkpoint_is_skipped_with_a_notice(tmp_path, share):
    checkpoints.save(tmp_path, 1, ARRAYS, {"good": True}, keep=5)
    path = checkpoints.save(tmp_path, 2, ARRAYS, {"good": False}, keep=5)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    notices = []
    found = checkpoints.newest(tmp_path, notices.append)
    assert found.step == 1 and found.state == {"good": True}
    assert len(notices) == 1 and notices[0].startswith(f"skipped damaged checkpoint {path}")


def test_one_wrong_byte_in_an_array_is_noticed(tmp_path):
    path = checkpoints.save(tmp_path, 1, ARRAYS, {}, keep=5)
    content = bytearray(path.read_bytes())
    where = content.index(ARRAYS["conv/kernel:0"].tobytes())
    content[where + 5] ^= 1
    path.write_bytes(content)
    notices = []
    assert checkpoints.newest(tmp_path, notices.append) is None
    assert len(notices) == 1


def test_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(tmp_path):
    # A limit on file size stands in for a full disk: the write fails half-way in both.
    script = textwrap.dedent(
        f"""
        import resource, pathlib, numpy as np
        from hbnn_larq.training import checkpoints
        directory = pathlib.Path({str(tmp_path)!r})
        checkpoints.save(directory, 1, {{"a": np.zeros(10)}}, {{}}, keep=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        checkpoints.save(directory, 2, {{"a": np.zeros(100_000)}}, {{}}, keep=1)
        """
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert "cannot write checkpoint" in last and "step-000000002.npz" in last
    assert "step-000000001.npz is intact. Free some space" in last
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.npz"]
    assert checkpoints.newest(tmp_path).step == 1


@pytest.mark.parametrize(
    "place, value",
    [(10, 9), (10, 99), (8, 1), (8, 32)],
    ids=["deflated", "compressed unknown", "encrypted", "patched"],
)
def test_whatever_a_damaged_archive_claims_it_is_skipped(tmp_path, place, value):
    """One byte of its directory: each makes `zipfile` raise another kind of error."""
    checkpoints.save(tmp_path, 1, ARRAYS, {"good": True}, keep=5)
    path = checkpoints.save(tmp_path, 2, ARRAYS, {"good": False}, keep=5)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + place] = value
    path.write_bytes(content)
    notices = []
    assert checkpoints.newest(tmp_path, notices.append).step == 1
    assert len(notices) == 1 and notices[0].startswith(f"skipped damaged checkpoint {path} (")


def without(path, name):
    """Rewrites a checkpoint without one of its arrays, otherwise whole."""
    with np.load(path) as file:
        left = {key: file[key] for key in file.files if key != name}
    with open(path, "wb") as file:
        np.savez(file, **left)


def test_a_checkpoint_that_lost_an_array_is_skipped(tmp_path):
    checkpoints.save(tmp_path, 1, ARRAYS, {}, keep=5)
    path = checkpoints.save(tmp_path, 2, ARRAYS, {}, keep=5)
    without(path, "n")
    notices = []
    assert checkpoints.newest(tmp_path, notices.append).step == 1
    lost = "1 of its arrays are missing, the first n"
    assert notices == [f"skipped damaged checkpoint {path} ({lost})"]


def test_a_checkpoint_of_an_earlier_version_lists_no_arrays_and_loads(tmp_path):
    path = checkpoints.save(tmp_path, 1, ARRAYS, {}, keep=5)
    state = np.frombuffer(b'{"loss": 1.5}', np.uint8)
    with open(path, "wb") as file:
        np.savez(file, **ARRAYS, **{"state.json": state})
    found = checkpoints.newest(tmp_path, notice=pytest.fail)
    assert found.state == {"loss": 1.5} and set(found.arrays) == set(ARRAYS)
