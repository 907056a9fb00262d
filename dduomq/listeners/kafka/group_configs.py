"""Settings of share groups in Kafka's words (KIP-932): where queues begin, how long locks are, how many deliveries."""

import re
from collections.abc import Callable, Mapping

import trio

from dduomq.actors.actor import ask
from dduomq.actors.coordinator_queue_messages import ConfigureQueues
from dduomq.errors import CoordinatorLoading, InvalidConfig
from dduomq.groups.records import ShareRecord
from dduomq.limits import QUEUE_DELIVERIES_MAX, QUEUE_LOCK_MS_MAX, QUEUE_LOCK_MS_MIN
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking
from dduomq.listeners.kafka.groups import coordinator

START, LOCK, DELIVERIES = "share.auto.offset.reset", "share.record.lock.duration.ms", "share.delivery.count.limit"
BY_DURATION = "by_duration:"
DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d{1,3})?)S)?)?", re.IGNORECASE)
UNITS_MS = (86_400_000, 3_600_000, 60_000, 1_000)
DIGITS_MAX = 12
TRIES, AGAIN_S = 50, 0.1


def _start(value: str) -> str:
    """A duration is kept as milliseconds back from now."""
    if value in {"earliest", "latest"}:
        return value
    found = DURATION.fullmatch(value.removeprefix(BY_DURATION)) if value.startswith(BY_DURATION) else None
    parts = found.groups() if found is not None and len(value) < len(BY_DURATION) + 4 * DIGITS_MAX else ()
    if not any(parts):
        raise InvalidConfig(f"{START} is earliest, latest or by_duration:PT1H, not {value!r}")
    return f"-{sum(int(float(text) * unit) for text, unit in zip(parts, UNITS_MS, strict=True) if text)}"


def _shown_start(start: str) -> str:
    return f"{BY_DURATION}PT{int(start[1:]) / 1000:.3f}S" if start.startswith("-") else start


def _whole(name: str, low: int, high: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not value.isdecimal() or len(value) > DIGITS_MAX or not low <= int(value) <= high:
            raise InvalidConfig(f"{name} is a number from {low} to {high}, not {value!r}")
        return int(value)

    return read


# Kafka's name: (ours, how it is read)
SETTINGS: Mapping[str, tuple[str, Callable[[str], str | int]]] = {
    START: ("start", _start),
    LOCK: ("lock_ms", _whole(LOCK, QUEUE_LOCK_MS_MIN, QUEUE_LOCK_MS_MAX)),
    DELIVERIES: ("deliveries", _whole(DELIVERIES, 1, QUEUE_DELIVERIES_MAX)),
}


async def group_config(asking: Asking, group: str) -> dict[str, tuple[str, bool]]:
    """Name to value, and whether that is the default."""
    record = await _configured(asking, group, Operation.DESCRIBE, {})
    default = ShareRecord()
    shown: dict[str, tuple[str, bool]] = {START: (_shown_start(record.start), record.start == default.start)}
    shown[LOCK] = str(record.lock_ms), record.lock_ms == default.lock_ms
    shown[DELIVERIES] = str(record.deliveries), record.deliveries == default.deliveries
    return shown


async def alter_group(asking: Asking, group: str, changes: Mapping[str, str | None], *, is_whole: bool) -> None:
    """None puts back the default; `is_whole`: so does what is not named."""
    known: dict[str, str | int | None] = dict.fromkeys(ours for ours, _ in SETTINGS.values()) if is_whole else {}
    for name, value in changes.items():
        if name not in SETTINGS:
            raise InvalidConfig(f"a group has no setting {name!r}; there are {', '.join(SETTINGS)}")
        ours, read = SETTINGS[name]
        known[ours] = None if value is None else read(value)
    if known and not asking.body["validate_only"]:
        await _configured(asking, group, Operation.ALTER, known)


async def _configured(
    asking: Asking, group: str, operation: Operation, changes: Mapping[str, str | int | None]
) -> ShareRecord:  # fmt: skip
    """Waits while the coordinator reads its log: those who ask here don't try again."""
    mailbox = await coordinator(asking, group, operation)
    for _ in range(TRIES):
        try:
            return await ask(mailbox, lambda reply: ConfigureQueues(group=group, changes=changes, reply=reply))
        except CoordinatorLoading:
            await trio.sleep(AGAIN_S)
    raise CoordinatorLoading
