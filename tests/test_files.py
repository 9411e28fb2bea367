"""A file is whole or as it was, and nothing else stays beside it."""

import errno
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hbnn_larq.files import replaced, write


@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_fails_leaves_all_as_it_was(tmp_path, before):
    path = tmp_path / "table.csv"
    if before is not None:
        path.write_text(before)
    full = re.escape(f"{os.strerror(errno.ENOSPC)}: '{path}'")
    with pytest.raises(OSError, match=full), replaced(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [file.read_text() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replaced(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("table.csv", "new")]
    for content in ("grün\n", "grün\n".encode()):
        write(path, content)
        assert path.read_bytes() == "grün\n".encode()


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    link, target = tmp_path / "link", tmp_path / "table.csv"
    link.symlink_to(target)  # to nothing yet, then to a file
    for text in ("new", "newer"):
        with replaced(link) as temporary:
            temporary.write_text(text)
        assert link.is_symlink() and target.read_text() == text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "table.csv"]


def test_a_pipe_or_device_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    with replaced(pipe) as target:
        target.write_text("new")
    reader.join(10)
    assert pipe.is_fifo() and read == ["new"]


def test_threads_of_one_process_write_at_once(tmp_path):
    """Each to a file of its own, and the last one's stays whole."""
    path, barrier = tmp_path / "table.csv", threading.Barrier(8)

    def write(number):
        with replaced(path) as temporary:
            temporary.write_text(str(number) * 1000)
            barrier.wait(timeout=30)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(8))) == [None] * 8
    (text,) = [file.read_text() for file in tmp_path.iterdir()]
    assert text in {str(number) * 1000 for number in range(8)}
