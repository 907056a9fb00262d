"""The native protocol's questions about who keeps what, answered."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dduomq.errors import InvalidRequest
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.services import Services
from dduomq.wire import native_routes as wire


async def _find_coordinator(
    services: Services, context: Context, body: wire.FindCoordinator
) -> wire.CoordinatorFound:  # fmt: skip
    if body.kind not in {wire.GROUP, wire.WHEEL, wire.SCHEDULE}:
        raise InvalidRequest(f"nobody coordinates a {body.kind!r}: it is group, wheel or schedule")
    if body.kind == wire.GROUP:
        services.gate.admit(context, Operation.DESCRIBE, f"group:{body.key}")
    return wire.CoordinatorFound(services.node_id, *services.advertised(context.listener))


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    wire.FindCoordinator: _find_coordinator,
}
