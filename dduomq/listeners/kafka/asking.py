"""What every handler of a Kafka request is given."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import attrs

from dduomq.listeners.admit import Context
from dduomq.listeners.kafka.codes import UnknownTopicId
from dduomq.listeners.kafka.share_sessions import ShareSessions
from dduomq.listeners.services import Services
from dduomq.wire.kafka.primitives import NO_ID

Body: TypeAlias = dict[str, Any]


@attrs.frozen
class Asking:
    """A request's body and version, who asks, and whom to ask; `sessions` are the connection's."""

    services: Services
    context: Context
    version: int
    body: Body
    sessions: ShareSessions

    def topic_name(self, name: str | None, topic_id: str) -> str:
        """A topic's name, which newer clients give by its id. Raises `UnknownTopicId`."""
        if topic_id == NO_ID:
            return name or ""
        found = self.services.routes.name_of(topic_id)
        if found is None:
            raise UnknownTopicId
        return found


Handler: TypeAlias = Callable[[Asking], Awaitable[Body]]
