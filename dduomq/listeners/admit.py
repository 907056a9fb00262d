"""The gate: every request passes here before an actor sees it.

Always true: a request that was not admitted has no effect. What is allowed and what it costs is decided by
the two functions of a `Gate`; the default allows everything and charges nothing.
"""

from collections.abc import Callable
from enum import Enum

import attrs

from dduomq.errors import Unauthorized


class Operation(Enum):
    """Kafka's words for what may be done."""

    READ = "read"
    WRITE = "write"
    CREATE = "create"
    DELETE = "delete"
    ALTER = "alter"
    DESCRIBE = "describe"


@attrs.frozen
class Context:
    """Who asks, over which door. `principal` is `anonymous` until somebody logs in."""

    principal: str
    client: str
    listener: str
    peer: str


def allow_all(_context: Context, _operation: Operation, _resource: str) -> bool:
    return True


def charge_nothing(_context: Context, _size_bytes: int) -> int:
    return 0


@attrs.frozen
class Gate:
    """`authorize` says whether; `charge` says how many ms the client is to be slowed down."""

    authorize: Callable[[Context, Operation, str], bool] = allow_all
    charge: Callable[[Context, int], int] = charge_nothing

    def admit(self, context: Context, operation: Operation, resource: str) -> None:
        """Raises `Unauthorized` that names who, what and where."""
        if not self.authorize(context, operation, resource):
            raise Unauthorized(f"{context.principal} may not {operation.value} {resource!r}")
