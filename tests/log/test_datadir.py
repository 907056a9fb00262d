"""The data directory: one owner, one format, one node at a time."""

import pytest

from dduomq.errors import DataDirError
from dduomq.log.datadir import CLEAN, META, open_data_dir
from dduomq.log.files import RealFiles
from dduomq.log.memory import MemoryFiles


@pytest.fixture(params=["real", "memory"])
def place(request, tmp_path):
    """(files, a path for a data directory that is not there yet)."""
    return (RealFiles() if request.param == "real" else MemoryFiles()), str(tmp_path / "data")


def test_a_new_directory_is_given_an_identity(place):
    """It is written once and found again; a new directory has nothing to recover."""
    files, path = place
    first = open_data_dir(files, path, 1, "id-one")
    assert (first.directory_id, first.clean) == ("id-one", True)
    first.close()
    second = open_data_dir(files, path, 1, "id-two")
    assert second.directory_id == "id-one"
    second.close()
    assert b"node_id = 1" in files.read(f"{path}/{META}")


def test_only_a_clean_stop_is_clean(place):
    """The marker is there from the orderly end to the next start, and never while a node runs."""
    files, path = place
    directory = open_data_dir(files, path, 1, "id")
    directory.take_clean(files)
    directory.close()
    crashed = open_data_dir(files, path, 1, "id")
    assert not crashed.clean
    crashed.mark_clean(files)
    crashed.close()
    stopped = open_data_dir(files, path, 1, "id")
    assert stopped.clean
    stopped.take_clean(files)
    assert not files.exists(f"{path}/{CLEAN}")
    stopped.close()
    crashed_again = open_data_dir(files, path, 1, "id")
    assert not crashed_again.clean
    crashed_again.close()


def test_two_nodes_do_not_share_a_directory(place):
    """The second is told so, and what it can do."""
    files, path = place
    held = open_data_dir(files, path, 1, "id")
    with pytest.raises(DataDirError, match=r"in use by another running node; stop it, or give this one another --data"):
        open_data_dir(files, path, 1, "id")
    held.close()
    open_data_dir(files, path, 1, "id").close()


def test_another_nodes_directory_is_refused(place):
    """With the id that it belongs to; the lock is let go of."""
    files, path = place
    open_data_dir(files, path, 1, "id").close()
    with pytest.raises(DataDirError, match="belongs to node 1; start with --id 1"):
        open_data_dir(files, path, 2, "id")
    open_data_dir(files, path, 1, "id").close()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"least_reader_version = 1", b"least_reader_version = 2", "newer dduomq"),
        (b"node_id = 1", b"node = 1", "damaged"),
        (b"format_version", b"= = =", "damaged"),
        (b"Who", b"\xff\xfe", "damaged"),
        (b"node_id = 1", b'node_id = "one"', "damaged"),
        (b"node_id = 1", b"node_id = [1]", "damaged"),
        (b"least_reader_version = 1", b'least_reader_version = "new"', "damaged"),
    ],
)
def test_a_directory_that_can_not_be_read_is_left_alone(place, old, new, says):
    """A newer format, or an identity that makes no sense: one clear error, and nothing is changed."""
    files, path = place
    open_data_dir(files, path, 1, "id").close()
    changed = files.read(f"{path}/{META}").replace(old, new, 1)
    files.replace(f"{path}/{META}", changed)
    with pytest.raises(DataDirError, match=says):
        open_data_dir(files, path, 1, "id")
    assert files.read(f"{path}/{META}") == changed


def test_a_newer_format_that_this_version_may_read_is_opened(place):
    """The least reader version decides, not the format's own."""
    files, path = place
    open_data_dir(files, path, 1, "id").close()
    meta = files.read(f"{path}/{META}").replace(b"\nformat_version = 1", b"\nformat_version = 9")
    files.replace(f"{path}/{META}", meta)
    directory = open_data_dir(files, path, 1, "other")
    assert directory.directory_id == "id"
    directory.close()


def test_a_strangers_directory_is_not_taken_over(place):
    """Files without an identity beside them are somebody else's."""
    files, path = place
    files.make_dir(path)
    files.write_at(f"{path}/thesis.tex", [b"years of work"], 0)
    with pytest.raises(DataDirError, match=r"not a dduomq data directory \(thesis\.tex is in it\)"):
        open_data_dir(files, path, 1, "id")
    assert not files.exists(f"{path}/{META}")


def test_a_path_that_can_not_be_a_directory_is_refused(tmp_path):
    """A file is in the way: the system's reason, and what to do."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataDirError, match=r"can't be used: .*choose another with --data"):
        open_data_dir(RealFiles(), str(tmp_path / "file" / "data"), 1, "id")
