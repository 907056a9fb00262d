"""A mailbox that leads to an actor wherever it is: here, or on the node that leads its partition.

Not an actor: what is put in goes on at once, to the local mailbox or over the link. Always true: every request is
answered, or refused with an error that may be tried again; appends of one door travel one after the other, so they
arrive in the order they were put in, also when the partition comes to be led here meanwhile; who puts something in
waits while too much is under way, and no longer.
"""

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import attrs
import trio

from dduomq.actors import calls
from dduomq.actors.actor import Mailbox, Message, Reply
from dduomq.actors.partition_messages import Append, Fetch, Watcher
from dduomq.cluster.ports import PeerLinks, PeerUnavailable
from dduomq.errors import DduomqError, LeaderNotAvailable
from dduomq.limits import CALLS_PER_DOOR_MAX
from dduomq.ports import Clock
from dduomq.wire.peer_calls import Call

LOOK_AGAIN_S = 0.05
Where: TypeAlias = Mailbox | int | None


@attrs.frozen
class Corridor:
    """What all doors of a node share. `background(function, *arguments)` runs a coroutine function beside all else."""

    links: PeerLinks
    clock: Clock
    background: Callable[..., None]


class Door(Mailbox):
    """`where()` gives the local mailbox, the number of the node to ask, or None while nobody leads."""

    __slots__ = ("_appends", "_corridor", "_in_flight", "_is_busy", "_number", "_place", "_slot", "_topic_id", "_where")

    def __init__(
        self, name: str, corridor: Corridor, place: int, topic_id: str, number: int, where: Callable[[], Where]
    ) -> None:
        super().__init__(name)
        self._corridor = corridor
        self._place = place
        self._topic_id = topic_id
        self._number = number
        self._where = where
        self._appends: deque[Message] = deque()
        self._is_busy = False
        self._in_flight = 0
        self._slot: trio.Event | None = None  # set when there is room again

    def _here(self, message: Message) -> Mailbox | None:
        """The local mailbox, if that is where the message goes now: an append goes behind those before it."""
        where = self._where()
        is_behind = self._is_busy and isinstance(message, Append)
        return where if isinstance(where, Mailbox) and not is_behind else None

    def offer(self, message: Message) -> bool:
        here = self._here(message)
        if here is not None:
            return here.offer(message)
        if self._in_flight >= CALLS_PER_DOOR_MAX:
            self.refused += 1
            return False
        self._in_flight += 1
        if isinstance(message, Append):
            self._appends.append(message)
            if not self._is_busy:
                self._is_busy = True
                self._corridor.background(self._carry_appends)
        else:
            self._corridor.background(self._carry, message)
        return True

    async def put(self, message: Message) -> None:
        while True:
            here = self._here(message)
            if here is not None:
                await here.put(message)
                return
            if self.offer(message):
                return
            self._slot = self._slot or trio.Event()
            await self._slot.wait()

    def post(self, message: Message) -> None:
        here = self._here(message)
        if here is not None:
            here.post(message)
        elif not self.offer(message):
            message.refuse(LeaderNotAvailable(f"{self.name} has too much to carry"))

    async def _carry_appends(self) -> None:
        try:
            while self._appends:
                await self._carry(self._appends.popleft())
        finally:
            self._is_busy = False

    async def _carry(self, message: Message) -> None:
        try:
            where = self._where()
            if isinstance(where, Mailbox):
                await where.put(message)
            elif where is None:
                message.refuse(LeaderNotAvailable(f"{self.name} has no leader at the moment"))
            else:
                await self._ask(where, message)
        except BaseException as error:
            message.refuse(error if isinstance(error, DduomqError) else PeerUnavailable(f"{self.name}: {error}"))
            if not isinstance(error, DduomqError):
                raise
        finally:
            self._in_flight -= 1
            if self._slot is not None:
                self._slot.set()
                self._slot = None

    async def _ask(self, node: int, message: Message) -> None:
        now = self._corridor.clock.monotonic()
        call, payload, timeout_s = calls.encode(message, self._place, self._topic_id, self._number, now)
        answer, found = await self._corridor.links.link(node).request(call, payload, timeout_s=timeout_s)
        value = calls.decode_answer(message, answer, found)
        if message.reply is not None and not message.reply.done:
            message.reply.set(value)
        watcher: Watcher | None = getattr(message, "watcher", None)
        if watcher is not None and not (isinstance(message, Fetch) and value.size >= message.min_bytes):
            self._corridor.background(_wake_soon, watcher)


async def _wake_soon(watcher: Watcher) -> None:
    """Nothing that happens on another node wakes anybody here: whoever waits for it is to look again."""
    await trio.sleep(LOOK_AGAIN_S)
    watcher.wake()


async def answer_call(mailbox: Mailbox, call: Call, payload: memoryview, now: float) -> object:
    """What the actor behind `mailbox` answers to the call; None at once to what wants no answer."""
    reply: Reply[object] = Reply()
    message = calls.decode(call, payload, now, reply)
    if isinstance(message, calls.NOTICES):
        mailbox.post(attrs.evolve(message, reply=None))
        return None
    await mailbox.put(message)
    return await reply.wait()
