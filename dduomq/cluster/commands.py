"""What the quorum's log holds: commands, and what each came to.

Pure. A command is CBOR `[kind, version, ...]`. Always true: a command that a node sends on behalf of its callers names
the client that the node is and a number of that client's, so that one which is sent twice is carried out once; `oldest`
is the lowest number that the client still waits for, so nobody need remember what came before.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs
import cbor2

from dduomq.cluster.ports import Check, Del, Operation, Put
from dduomq.errors import UnsupportedVersion
from dduomq.wire.cluster_errors import ClientReplaced as ClientReplaced

VERSION = 1
_NEW_CLIENT, _TRANSACT, _BEGIN_SESSION, _END_SESSION, _EXPIRE_SESSION = 1, 2, 3, 4, 5
_PUT, _DEL, _CHECK = 1, 2, 3


@attrs.frozen
class Origin:
    """Who sends a command: the client's id is the index of the entry that made it."""

    client: int
    number: int
    oldest: int


@attrs.frozen
class NewClient:
    """A node begins to send commands; what an earlier client of the node had sent is of no interest any more."""

    node: int


@attrs.frozen
class Transact:
    """`session` is that of ephemeral keys, 0 for none."""

    origin: Origin
    session: int
    operations: tuple[Operation, ...]


@attrs.frozen
class BeginSession:
    """The node's session before it ends. The session's id is the index of this entry."""

    origin: Origin
    node: int
    timeout_ms: int


@attrs.frozen
class EndSession:
    origin: Origin
    session: int


@attrs.frozen
class ExpireSession:
    """The leader's own: nothing was heard of that node for too long."""

    session: int


Command: TypeAlias = NewClient | Transact | BeginSession | EndSession | ExpireSession


@attrs.frozen
class Outcome:
    """`code` 0 or an error's; `value`: a transaction's version, a session's or a client's id."""

    code: int
    value: int = 0
    message: str = ""


def _plain(operation: Operation) -> list[object]:
    if isinstance(operation, Put):
        return [_PUT, operation.key, operation.value, operation.is_ephemeral]
    if isinstance(operation, Del):
        return [_DEL, operation.key]
    return [_CHECK, operation.key, operation.version]


def _operation(plain: Sequence[Any]) -> Operation:
    if plain[0] == _PUT:
        return Put(plain[1], plain[2], plain[3])
    if plain[0] == _DEL:
        return Del(plain[1])
    return Check(plain[1], plain[2])


def encode(command: Command) -> bytes:
    fields: list[object]
    match command:
        case NewClient():
            fields = [_NEW_CLIENT, VERSION, command.node]
        case ExpireSession():
            fields = [_EXPIRE_SESSION, VERSION, command.session]
        case Transact():
            operations = [_plain(one) for one in command.operations]
            fields = [_TRANSACT, VERSION, *attrs.astuple(command.origin), command.session, operations]
        case BeginSession():
            fields = [_BEGIN_SESSION, VERSION, *attrs.astuple(command.origin), command.node, command.timeout_ms]
        case EndSession():
            fields = [_END_SESSION, VERSION, *attrs.astuple(command.origin), command.session]
    return cbor2.dumps(fields)


def decode(data: bytes) -> Command:
    """Raises `UnsupportedVersion` for what this release does not know."""
    kind, version, *fields = cbor2.loads(data)
    if version > VERSION or not _NEW_CLIENT <= kind <= _EXPIRE_SESSION:
        raise UnsupportedVersion(
            f"the metadata's log holds a command of type {kind} version {version}, written by a newer dduomq; "
            "start that version on this node, too"
        )
    if kind == _NEW_CLIENT:
        return NewClient(fields[0])
    if kind == _EXPIRE_SESSION:
        return ExpireSession(fields[0])
    origin = Origin(*fields[:3])
    if kind == _TRANSACT:
        return Transact(origin, fields[3], tuple(_operation(one) for one in fields[4]))
    if kind == _BEGIN_SESSION:
        return BeginSession(origin, fields[3], fields[4])
    return EndSession(origin, fields[3])
