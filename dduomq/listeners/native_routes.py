"""The native protocol's questions about who keeps what, answered."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dduomq.errors import CoordinatorNotAvailable, InvalidRequest
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.services import Services
from dduomq.wire import native_routes as wire


async def _find_coordinator(
    services: Services, context: Context, body: wire.FindCoordinator
) -> wire.CoordinatorFound:  # fmt: skip
    if body.kind not in {wire.GROUP, wire.WHEEL, wire.SCHEDULE}:
        raise InvalidRequest(f"nobody coordinates a {body.kind!r}: it is group, wheel or schedule")
    node_id = services.node_id  # wheels are reached through every node
    if body.kind == wire.GROUP:
        services.gate.admit(context, Operation.DESCRIBE, f"group:{body.key}")
        node_id = await services.groups.leader(body.key)
    node = services.node(context.listener, node_id)
    if node is None:
        raise CoordinatorNotAvailable(f"node {node_id} coordinates {body.key!r}, and is not there at the moment")
    return wire.CoordinatorFound(node.node_id, node.host, node.port)


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    wire.FindCoordinator: _find_coordinator,
}
