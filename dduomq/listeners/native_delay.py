"""The native protocol's requests about delayed messages, carried out."""

from collections.abc import Awaitable, Callable, Mapping
from heapq import merge
from typing import Any

from dduomq.actors.actor import Mailbox, ask
from dduomq.actors.wheel_messages import CancelDelayed, FindDelayed, ListDelayed, Reschedule, Waiting, WaitingMessages
from dduomq.delay.records import Pair
from dduomq.errors import InvalidRequest
from dduomq.limits import DELAY_LIST_MAX
from dduomq.listeners.admit import Context, Operation
from dduomq.listeners.services import Services
from dduomq.wire import native
from dduomq.wire import native_delay as wire
from dduomq.wire.delay import check_due, delay_id, parse_delay_id


async def _list(services: Services, context: Context, body: wire.ListDelayed) -> wire.DelayedMessages:
    if not 0 < body.limit <= DELAY_LIST_MAX:
        raise InvalidRequest(f"a list has 1 to {DELAY_LIST_MAX} messages, not {body.limit}; ask for more with `after`")
    services.gate.admit(context, Operation.DESCRIBE, body.topic or "*")
    after = (-1, -1, -1)
    if body.after:
        wheel, *pair = parse_delay_id(body.after)
        after = (pair[0], wheel, pair[1])
    lists, count = [], 0
    for number, mailbox in enumerate(services.delays.wheels):
        found = await _ask_list(mailbox, body, _behind(after, number))
        count += found.count
        lists.append([_described(number, one) for one in found.messages])
    merged = merge(*lists, key=lambda one: _order(one.delay_id))
    return wire.DelayedMessages(tuple(one for one, _ in zip(merged, range(body.limit), strict=False)), count)


async def _ask_list(mailbox: Mailbox, body: wire.ListDelayed, after: Pair) -> WaitingMessages:
    return await ask(mailbox, lambda reply: ListDelayed(topic=body.topic, after=after, limit=body.limit, reply=reply))


def _order(text: str) -> tuple[int, int, int]:
    wheel, due_ms, number = parse_delay_id(text)
    return due_ms, wheel, number


def _behind(after: tuple[int, int, int], wheel: int) -> Pair:
    """Where a wheel's part of the list goes on: of one time, the wheels come in their order."""
    due_ms, last_wheel, number = after
    if wheel == last_wheel:
        return due_ms, number
    return (due_ms, -1) if wheel > last_wheel else (due_ms + 1, -1)


def _described(wheel: int, one: Waiting) -> wire.DelayedMessage:
    return wire.DelayedMessage(delay_id(wheel, *one.pair), one.pair[0], one.target.topic, one.target.partition)


async def _cancel(services: Services, context: Context, body: wire.CancelDelayed) -> native.Done:
    mailbox, pair = await _find(services, context, body.delay_id, Operation.DELETE)
    await ask(mailbox, lambda reply: CancelDelayed(pair=pair, reply=reply))
    return native.Done()


async def _reschedule(services: Services, context: Context, body: wire.RescheduleDelayed) -> wire.Rescheduled:
    mailbox, pair = await _find(services, context, body.delay_id, Operation.ALTER)
    due_ms = check_due(body.deliver_at_ms, services.clock.wall_ms())
    moved: Pair = await ask(mailbox, lambda reply: Reschedule(pair=pair, due_ms=due_ms, reply=reply))
    return wire.Rescheduled(delay_id(parse_delay_id(body.delay_id)[0], *moved))


async def _find(services: Services, context: Context, text: str, operation: Operation) -> tuple[Mailbox, Pair]:
    """The wheel and the message's id there, if whoever asks may touch its topic."""
    wheel, due_ms, number = parse_delay_id(text)
    mailbox = services.delays.by_number(wheel)
    found: Waiting = await ask(mailbox, lambda reply: FindDelayed(pair=(due_ms, number), reply=reply))
    services.gate.admit(context, operation, found.target.topic)
    return mailbox, (due_ms, number)


HANDLERS: Mapping[type, Callable[[Services, Context, Any], Awaitable[object]]] = {
    wire.ListDelayed: _list,
    wire.CancelDelayed: _cancel,
    wire.RescheduleDelayed: _reschedule,
}
