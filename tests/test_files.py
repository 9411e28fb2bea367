"""A file is whole or as it was, and nothing else stays beside it."""

import pytest

from hbnn_larq.files import replaced


@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_fails_leaves_all_as_it_was(tmp_path, before):
    path = tmp_path / "table.csv"
    if before is not None:
        path.write_text(before)
    with pytest.raises(OSError, match="disk full"), replaced(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert [file.read_text() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replaced(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("table.csv", "new")]
