"""The native protocol's requests about recurring messages, carried out."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dduomq.actors.actor import ask
from dduomq.actors.wheel_messages import EndSchedule, ListSchedules, PauseSchedule, PutSchedule
from dduomq.delay.records import NEW, NO_ORIGIN, Parked, Target
from dduomq.delay.schedule import PAUSED_MS, make
from dduomq.delay.wheel import Scheduled
from dduomq.errors import InvalidTopic, MessageTooLarge, ScheduleNotFound
from dduomq.ids import INTERNAL_PREFIX
from dduomq.limits import SCHEDULED_BYTES_MAX
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.delaying import DELIVERED_OVERHEAD_BYTES
from dduomq.listeners.services import Services
from dduomq.wire import native
from dduomq.wire import native_schedule as wire
from dduomq.wire.batch import HEADER_BYTES
from dduomq.wire.delay import WISHES
from dduomq.wire.records import size_of


async def _add(services: Services, context: Context, body: wire.AddSchedule) -> native.Done:
    services.gate.admit(context, Operation.WRITE, body.topic)
    if body.topic.startswith(INTERNAL_PREFIX):
        raise InvalidTopic(f"topic {body.topic!r} is the broker's own: only it writes there")
    now_ms = services.clock.wall_ms()
    schedule = make(body.name, body.rule, body.timezone, body.missed, now_ms)
    route = services.routes.check(body.topic, body.partition)
    headers = [(one.name, one.content) for one in body.headers if one.name not in WISHES]
    size = size_of(body.key, body.value, headers) + HEADER_BYTES + DELIVERED_OVERHEAD_BYTES + len(body.name) * 4
    most = min(route.settings.max_message_bytes, SCHEDULED_BYTES_MAX)
    if size > most:
        raise MessageTooLarge(f"the message takes up to {size} bytes, {most} is the most for one that recurs")
    if body.replace:
        for one in await _named(services, body.name):
            services.gate.admit(context, Operation.ALTER, one.target.topic)
    target = Target(body.topic, route.record.topic_id, body.partition)
    message = Parked(
        schedule.due(now_ms), NEW, -1, target, NO_ORIGIN, body.key, body.value, headers, schedule.encode()
    )  # fmt: skip
    mailbox = await services.delays.schedule_wheel(body.name)
    await ask(
        mailbox,
        lambda reply: PutSchedule(name=body.name, message=message, replace=body.replace, reply=reply, size_bytes=size),
    )
    return native.Done()


async def _find(services: Services) -> list[Scheduled]:
    found: list[Scheduled] = []
    for mailbox in services.delays.wheels:
        found += await ask(mailbox, lambda reply: ListSchedules(reply=reply))
    return sorted(found, key=lambda one: one.schedule.name)


async def _named(services: Services, name: str) -> list[Scheduled]:
    """The one of that name, or none: only its own wheel is asked, so that it can be found while others are away."""
    if not services.delays.wheels:
        return []
    mailbox = await services.delays.schedule_wheel(name)
    found: tuple[Scheduled, ...] = await ask(mailbox, lambda reply: ListSchedules(reply=reply))
    return [one for one in found if one.schedule.name == name]


async def _list(services: Services, context: Context, _body: wire.ListSchedules) -> wire.SchedulesListed:
    services.gate.admit(context, Operation.DESCRIBE, "*")
    return wire.SchedulesListed(tuple(map(_listing, await _find(services))))


def _listing(one: Scheduled) -> wire.ScheduleListing:
    schedule, (due_ms, _) = one.schedule, one.pair
    return wire.ScheduleListing(
        schedule.name, one.target.topic, one.target.partition, schedule.rule, schedule.timezone, str(schedule.missed),
        schedule.is_paused, -1 if due_ms == PAUSED_MS else due_ms,
    )  # fmt: skip


async def _admit(services: Services, context: Context, name: str, operation: Operation) -> None:
    """Whoever may do it to the topic may do it to the schedule. Raises `ScheduleNotFound`."""
    for one in await _named(services, name):
        services.gate.admit(context, operation, one.target.topic)
        return
    raise ScheduleNotFound(f"there is no schedule {name!r}")


async def _pause(services: Services, context: Context, body: wire.PauseSchedule) -> native.Done:
    await _admit(services, context, body.name, Operation.ALTER)
    mailbox = await services.delays.schedule_wheel(body.name)
    await ask(mailbox, lambda reply: PauseSchedule(name=body.name, is_paused=body.is_paused, reply=reply))
    return native.Done()


async def _delete(services: Services, context: Context, body: wire.DeleteSchedule) -> native.Done:
    await _admit(services, context, body.name, Operation.DELETE)
    mailbox = await services.delays.schedule_wheel(body.name)
    await ask(mailbox, lambda reply: EndSchedule(name=body.name, reply=reply))
    return native.Done()


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    wire.AddSchedule: _add,
    wire.ListSchedules: _list,
    wire.PauseSchedule: _pause,
    wire.DeleteSchedule: _delete,
}
