"""Which files an argument means: one file, a partition's directory, or a whole data directory.

Always true: files come in the order partition, base offset, kind; a file that is named is shown whatever its
name, a directory gives only what the log keeps there.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

import attrs

from dduomq.errors import ConfigError
from dduomq.log.segment import parse_name


class Kind(Enum):
    """What is in a file, told by its name."""

    LOG = ".log"
    INDEX = ".index"
    TIME_INDEX = ".timeindex"
    SNAPSHOT = ".snapshot"
    TXN_INDEX = ".txnindex"
    CHECKPOINT = "checkpoint"


PLAIN_NAMES = {"leader-epoch-checkpoint", "partition.metadata", "recovery-point", "log-start-offset"}


@attrs.frozen
class Target:
    """One file to dump. `base_offset` is what its name says, 0 if it says nothing."""

    path: Path
    kind: Kind
    base_offset: int


def target_of(path: Path) -> Target | None:
    """The file's kind, None if dump knows nothing about such names."""
    if path.name in PLAIN_NAMES:
        return Target(path, Kind.CHECKPOINT, 0)
    for kind in Kind:
        if path.suffix == kind.value:
            return Target(path, kind, parse_name(path.name, kind.value) or 0)
    return None


def expand(arguments: Sequence[str], *, logs_only: bool) -> list[Target]:
    """The files that the arguments mean; an empty partition has none.

    Raises `ConfigError` for names that mean nothing, and when there is nothing at all.
    """
    found: list[Target] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found += _inside(path, logs_only=logs_only)
        elif not path.exists():
            raise ConfigError(f"{argument}: no such file or directory")
        else:
            target = target_of(path)
            if target is None:
                known = ", ".join(kind.value for kind in Kind if kind is not Kind.CHECKPOINT)
                raise ConfigError(f"{argument}: not a file of a log; those end in {known}")
            found.append(target)
    if not found:
        where = ", ".join(arguments)
        raise ConfigError(f"{where}: no log files there; a partition's are in DATA/topics/TOPIC-PARTITION")
    return found


def _inside(directory: Path, *, logs_only: bool) -> Iterator[Target]:
    paths = [path for path in directory.rglob("*") if not path.parent.name.endswith(".deleted")]
    targets = [target for path in paths if (target := target_of(path)) is not None]
    order = list(Kind)
    targets.sort(key=lambda target: (target.path.parent, target.base_offset, order.index(target.kind)))
    for target in targets:
        if target.path.is_file() and (target.kind is Kind.LOG or not logs_only) and _is_named_by_offset(target):
            yield target


def _is_named_by_offset(target: Target) -> bool:
    """Other files may end in `.log`, too: the node's metadata is no log of records."""
    return target.kind is Kind.CHECKPOINT or parse_name(target.path.name, target.kind.value) is not None
