"""What other nodes ask the actors of this one: see `dduomq/actors/door.py` for their side.

Always true: only an actor of this node answers; a question that has come to the wrong node is refused, never passed on.
"""

from collections.abc import Sequence

from dduomq.actors.actor import Mailbox
from dduomq.actors.calls import encode_answer
from dduomq.actors.door import answer_call
from dduomq.actors.partition_messages import FetchPlan
from dduomq.errors import NotCoordinator, UnknownTopicOrPartition, WheelNotAvailable, WireError
from dduomq.listeners.fetch import make_resident
from dduomq.listeners.services import Services
from dduomq.ports import Buffer
from dduomq.wire.peer_calls import COORDINATOR, PARTITION, REPLICA, WHEEL, Call, CallAnswer


async def call(services: Services, body: Call, payload: memoryview) -> tuple[CallAnswer, Sequence[Buffer]]:
    """Put the message to its actor; the answer, with what was read behind it. Raises what the actor refuses with."""
    value = await answer_call(_mailbox(services, body), body, payload, services.clock.monotonic())
    if isinstance(value, FetchPlan) and value.lease is not None and not value.is_resident:
        try:
            await make_resident(services.disk, value.lease, value.position, value.size)
        except BaseException:
            value.close()
            raise
    return encode_answer(value)


def _mailbox(services: Services, body: Call) -> Mailbox:
    if body.place in {PARTITION, REPLICA}:
        name = services.routes.name_of(body.topic_id)
        if name is None:
            raise UnknownTopicOrPartition(f"there is no topic with the id {body.topic_id}")
        find = services.routes.partition if body.place == PARTITION else services.routes.replica
        return find(name, body.number)
    if body.place == WHEEL:
        wheel = services.delays.where(body.number)
        if isinstance(wheel, Mailbox):
            return wheel
        raise WheelNotAvailable(f"wheel {body.number} is on another node; try again")
    if body.place == COORDINATOR:
        coordinator = services.groups.where(body.number)
        if isinstance(coordinator, Mailbox):
            return coordinator
        raise NotCoordinator(f"coordinator {body.number} is on another node")
    raise WireError(f"there are no actors of kind {body.place}")
