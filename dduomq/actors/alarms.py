"""One clock for all actors that wait for a time: they say when, and get an `Alarm` then.

Always true: an alarm comes at its time or later, never earlier; one that an actor no longer needs comes all the
same, and finds nothing to do.
"""

import heapq

import attrs
import trio

from dduomq.actors.actor import Mailbox, Message


@attrs.frozen(kw_only=True)
class Alarm(Message):
    pass


class Alarms:
    """Times are monotonic seconds. `run` is one task of the node."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Mailbox]] = []
        self._serial = 0
        self._sooner = trio.Event()

    def wake(self, mailbox: Mailbox, at: float) -> None:
        """Send `mailbox` an `Alarm` at that time."""
        self._serial += 1
        if not self._due or at < self._due[0][0]:
            self._sooner.set()
        heapq.heappush(self._due, (at, self._serial, mailbox))

    async def run(self) -> None:
        while True:
            self._sooner = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                await self._sooner.wait()
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2].post(Alarm())
