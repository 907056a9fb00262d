"""The data directory: whose it is, that nobody else uses it, and whether it was left in order.

Always true: a directory of another node, of a newer format, or in use is refused before anything in it is
touched; the clean-shutdown marker is there only while no node runs on the directory.
"""

import tomllib

from dduomq.errors import DataDirError, DduomqError
from dduomq.log.files import Files

FORMAT_VERSION = 1
LEAST_READER_VERSION = 1
META, LOCK, CLEAN = "meta.toml", "lock", "clean-shutdown"


class DataDir:
    """An opened data directory. `clean` tells whether the last node on it ended in good order."""

    def __init__(self, path: str, directory_id: str, *, clean: bool, lock: object) -> None:
        self.path = path
        self.directory_id = directory_id
        self.clean = clean
        self._lock = lock

    def take_clean(self, files: Files) -> None:
        """From here on a crash is a crash."""
        if self.clean:
            files.remove(f"{self.path}/{CLEAN}")
            files.sync_dir(self.path)

    def mark_clean(self, files: Files) -> None:
        """Every log is closed and synced."""
        files.replace(f"{self.path}/{CLEAN}", b"1\n")

    def close(self) -> None:
        """Let another node have it."""
        close = getattr(self._lock, "close", None)
        if close is not None:
            close()


def open_data_dir(files: Files, path: str, node_id: int, new_id: str) -> DataDir:
    """Lock `path` and check, or write, its identity. Raises `DataDirError` that says what to do."""
    try:
        files.make_dir(path)
        lock = files.lock(f"{path}/{LOCK}")
    except DataDirError as error:
        raise DataDirError(f"{error.message}; stop it, or give this one another --data") from None
    except (OSError, DduomqError) as error:
        raise DataDirError(
            f"the data directory {path} can't be used: {_reason(error)}; choose another with --data"
        ) from None
    directory = DataDir(path, new_id, clean=files.exists(f"{path}/{CLEAN}"), lock=lock)
    try:
        if files.exists(f"{path}/{META}"):
            directory.directory_id = _check_identity(files.read(f"{path}/{META}"), path, node_id)
        else:
            _refuse_foreign(files, path)
            files.replace(f"{path}/{META}", _identity(node_id, new_id))
            directory.clean = True
    except BaseException:
        directory.close()
        raise
    return directory


def _reason(error: Exception) -> str:
    if isinstance(error, DduomqError):
        return error.message
    return getattr(error, "strerror", None) or str(error)


def _identity(node_id: int, directory_id: str) -> bytes:
    lines = [
        "# Who this data directory belongs to. Written once; not to be edited.",
        f"format_version = {FORMAT_VERSION}",
        f"least_reader_version = {LEAST_READER_VERSION}",
        f"node_id = {node_id}",
        f'directory_id = "{directory_id}"',
    ]
    return ("\n".join(lines) + "\n").encode()


def _check_identity(data: bytes, path: str, node_id: int) -> str:
    try:
        meta = tomllib.loads(data.decode())
        least, owner, directory_id = int(meta["least_reader_version"]), int(meta["node_id"]), meta["directory_id"]
    except (ValueError, KeyError, TypeError):
        raise DataDirError(f"{path}/{META} is damaged; restore it from a copy") from None
    if least > FORMAT_VERSION:
        raise DataDirError(
            f"{path} was written by a newer dduomq (format {meta.get('format_version')}); this one reads up to "
            f"{FORMAT_VERSION}. Install the newer version, or give another --data"
        )
    if owner != node_id:
        raise DataDirError(f"{path} belongs to node {owner}; start with --id {owner}, or give another --data")
    return str(directory_id)


def _refuse_foreign(files: Files, path: str) -> None:
    """A directory full of somebody else's files is not made into a data directory by accident."""
    strangers = [name for name in files.list(path) if name not in {LOCK, "lost+found"}]
    if strangers:
        raise DataDirError(
            f"{path} is not empty and has no {META}: it is not a dduomq data directory ({strangers[0]} is in it); "
            "give an empty one with --data"
        )
