"""Where the keys of a cluster stand in ZooKeeper.

    /dduomq/NAME/revision             written by every transaction: its result tells the transaction's own number
    /dduomq/NAME/keys/=DIR/=REST      one node a key: DIR is its part up to the second "/", REST what follows

Always true: both parts are escaped, so that a "/" in them makes no node; every key has exactly one path, and every
path below `keys` one key.
"""

from collections.abc import Iterable
from urllib.parse import quote, unquote


class Names:
    """Where keys stand, below `root`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.keys = f"{root}/keys"
        self.revision = f"{root}/revision"

    def directory(self, key: str) -> str:
        """The node above a key's: its part up to the second "/"."""
        return f"{self.keys}/={quote(_directory(key), safe='')}"

    def path(self, key: str) -> str:
        rest = key[len(_directory(key)) :]
        return f"{self.directory(key)}/={quote(rest, safe='')}"

    def key(self, path: str) -> str:
        """The key of a node."""
        directory, name = path.removeprefix(f"{self.keys}/").split("/")
        return unquote(directory[1:]) + unquote(name[1:])

    def fixed(self, prefix: str) -> str | None:
        """The one directory of all keys that begin with `prefix`, or None if it has to be looked for."""
        return self.directory(prefix) if _directory(prefix) else None

    def matching(self, names: Iterable[str], prefix: str) -> list[str]:
        """The directories, of those with these names, that may have keys that begin with `prefix`."""
        found = []
        for name in sorted(names):
            directory = unquote(name[1:])
            if directory.startswith(prefix) or prefix.startswith(directory):
                found.append(f"{self.keys}/{name}")
        return found


def _directory(key: str) -> str:
    return key[: key.find("/", 1) + 1]
