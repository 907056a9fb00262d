"""Directories of partitions that are not what their names say any more: what a deletion, a move or a crash left behind.

Always true: no topic is given the records of another one that had its name before it; what is removed belongs surely to
a partition that is not to be here, anything else is left to the operator, and named to him.
"""

import re
from collections.abc import Collection, Mapping

from dduomq.log.files import Files

METADATA = "partition.metadata"
TOPIC_ID_LINE = re.compile(rb"^topic_id: ([0-9a-f]{32})$", re.MULTILINE)  # a torn one must not match
GRAVE, STRAY = ".deleted", ".stray"


def owner_of(files: Files, directory: str) -> str | None:
    """The topic id that a partition's directory was made for; None where that was not written whole."""
    try:
        found = TOPIC_ID_LINE.search(files.read(f"{directory}/{METADATA}"))
    except FileNotFoundError:
        return None
    return None if found is None else found[1].decode()


def put_aside(files: Files, directory: str, topic_id: str) -> None:
    """Free the name, if what lies there is another topic's: one that was deleted while this node was not there."""
    owner = owner_of(files, directory)
    if owner in {topic_id, None}:
        return
    aside = f"{directory}.{owner}{STRAY}"
    files.remove_tree(aside)
    files.rename(directory, aside)
    files.sync_dir(directory.rpartition("/")[0])


def sweep(files: Files, topics_directory: str, known: Mapping[str, str], elsewhere: Collection[str]) -> list[str]:
    """Remove what a deletion or a move left behind; the names of directories that belong to no topic.

    `known`: the id of the topic that has the name of a directory; `elsewhere`: those that other nodes keep now.
    """
    files.make_dir(topics_directory)
    strangers = []
    for name in files.list(topics_directory):
        path = f"{topics_directory}/{name}"
        if name.endswith(GRAVE):
            files.remove_tree(path)
        elif name not in known:
            strangers.append(name)
        elif name in elsewhere or owner_of(files, path) not in {known[name], None}:
            grave = f"{path}{GRAVE}"
            files.rename(path, grave)
            files.sync_dir(topics_directory)
            files.remove_tree(grave)
    return strangers
