"""The actor kernel: a task, a mailbox, and a slot for each answer.

An actor is a subclass of `Actor` whose `HANDLERS` maps message classes to method names. Its loop drains the
mailbox, hands each message to its method, then calls `after_drain` once: that is where one plan, one disk
job and all answers are made. Handlers are plain functions, so an actor can wait for nothing but its mailbox.

Always true:
- messages of one sender are handled in the order they were put;
- a mailbox holds no more than its bounds: `put` waits, `offer` refuses; only `post`, for completions of work
  that the actor itself has in flight and for timers, is bounded by that work instead;
- every request put into a mailbox is answered: by its handler, or with an error when the actor ends;
- an answer is given once; a second one is a bug and raises `InvariantBroken`.

The shape is Hewitt's actor under trio's structured concurrency; drain-then-act is group commit as in
"Implementation techniques for main memory database systems" (DeWitt et al., 1984).
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import trio

from dduomq.errors import DduomqError, InvariantBroken, NodeStopping
from dduomq.limits import DRAIN_MESSAGES_MAX, MAILBOX_BYTES_MAX, MAILBOX_MESSAGES_MAX

T = TypeVar("T")
DRAINS_WITHOUT_YIELD_MAX = 16


class Reply(Generic[T]):
    """A slot for one answer, awaited by `wait` or handed to `on_done(value, error)` at once."""

    __slots__ = ("_abandoned", "_error", "_on_done", "_task", "_value", "done")

    def __init__(self, on_done: Callable[[T | None, BaseException | None], None] | None = None) -> None:
        self.done = False
        self._on_done = on_done
        self._value: T | None = None
        self._error: BaseException | None = None
        self._task: trio.lowlevel.Task | None = None
        self._abandoned = False

    def set(self, value: T) -> None:
        self._finish(value, None)

    def fail(self, error: BaseException) -> None:
        self._finish(None, error)

    def _finish(self, value: T | None, error: BaseException | None) -> None:
        if self.done:
            raise InvariantBroken("a request was answered twice")
        self.done = True
        if self._on_done is not None:
            self._on_done(value, error)
            return
        if self._abandoned:
            _close(value)
            return
        self._value, self._error = value, error
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> T:
        """The answer, or its error raised. When cancelled, an answer that holds a lease is closed."""
        if not self.done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set() was called with a T

    def abandon(self) -> None:
        """Nobody will await this any more: a lease in the answer is closed."""
        self._abandoned = True
        if self.done:
            _close(self._value)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        self._abandoned = True
        return trio.lowlevel.Abort.SUCCEEDED


def _close(value: object) -> None:
    close = getattr(value, "close", None)
    if close is not None:
        close()


@attrs.frozen(kw_only=True)
class Message:
    """Base of all messages. A request has a `reply`; `size_bytes` counts against the mailbox."""

    reply: Reply[Any] | None = None
    size_bytes: int = 0

    def refuse(self, error: BaseException) -> None:
        """Answer with `error`, unless an answer was given."""
        if self.reply is not None and not self.reply.done:
            self.reply.fail(error)


@attrs.frozen(kw_only=True)
class Resign(Message):
    """Another node does this actor's work from now on: whoever waits, or comes later, is told `error`."""

    error: DduomqError


@attrs.frozen
class MailboxStatistics:
    messages: int
    bytes: int
    handled: int
    refused: int
    putters_waiting: int


class Mailbox:
    """A bounded queue with one reader. Every sender shares it; it outlives the actor's restarts."""

    __slots__ = (
        "_bytes", "_closed", "_drains", "_internal", "_putters", "_queue", "_reader",
        "bytes_max", "handled", "messages_max", "name", "refused",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        messages_max: int = MAILBOX_MESSAGES_MAX,
        bytes_max: int = MAILBOX_BYTES_MAX,
    ) -> None:
        self.name = name
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.handled = 0
        self.refused = 0
        self._queue: list[Message] = []
        self._internal: list[Message] = []
        self._bytes = 0
        self._drains = 0
        self._reader: trio.lowlevel.Task | None = None
        self._putters: deque[trio.lowlevel.Task] | None = None
        self._closed: BaseException | None = None

    def _is_full(self, message: Message) -> bool:
        if len(self._queue) >= self.messages_max:
            return True
        return bool(self._queue) and self._bytes + message.size_bytes > self.bytes_max

    def offer(self, message: Message) -> bool:
        """Put without waiting; False when full. A request put into a closed mailbox is answered with why."""
        if self._closed is not None:
            message.refuse(self._closed)
            return True
        if self._is_full(message):
            self.refused += 1
            return False
        self._queue.append(message)
        self._bytes += message.size_bytes
        self._wake()
        return True

    def post(self, message: Message) -> None:
        """Put a completion; it is handled before all other messages and never refused."""
        if self._closed is not None:
            message.refuse(self._closed)
            return
        self._internal.append(message)
        self._wake()

    async def put(self, message: Message) -> None:
        """Put, waiting while the mailbox is full. Only toward a lower rank: see `supervisor.RANKS`."""
        while not self.offer(message):
            if self._putters is None:
                self._putters = deque()
            task = trio.lowlevel.current_task()
            self._putters.append(task)

            def abort(_raise_cancel: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                assert self._putters is not None
                self._putters.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

    async def drain(self, messages_max: int = DRAIN_MESSAGES_MAX) -> list[Message]:
        """Wait for at least one message; all that wait, completions first, at most `messages_max`."""
        if not self._internal and not self._queue:
            self._drains = 0
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_drain)
        elif self._drains >= DRAINS_WITHOUT_YIELD_MAX:
            self._drains = 0
            await trio.lowlevel.checkpoint()
        else:
            self._drains += 1
            await trio.lowlevel.checkpoint_if_cancelled()
        return self._take(messages_max)

    def _take(self, messages_max: int) -> list[Message]:
        taken, self._internal = self._internal, []
        if len(self._queue) <= messages_max:
            taken += self._queue
            self._queue = []
            self._bytes = 0
        else:
            part = self._queue[:messages_max]
            del self._queue[:messages_max]
            self._bytes -= sum(message.size_bytes for message in part)
            taken += part
        self.handled += len(taken)
        if self._putters:
            for task in self._putters:
                trio.lowlevel.reschedule(task)
            self._putters.clear()
        return taken

    def _wake(self) -> None:
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None

    def _abort_drain(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    @property
    def is_closed(self) -> bool:
        return self._closed is not None

    def refuse(self, message: Message) -> None:
        """Answer a message that is not handled any more as those are that come later."""
        message.refuse(self._closed or NodeStopping(f"{self.name} has stopped"))

    def close(self, error: BaseException | None = None) -> None:
        """Refuse all that waits and all that comes, with `error`, or with what was said the first time."""
        self._closed = self._closed or error or NodeStopping(f"{self.name} has stopped")
        for message in self._take(len(self._queue)):
            message.refuse(self._closed)

    def statistics(self) -> MailboxStatistics:
        """A frozen picture, for metrics and console."""
        waiting = len(self._internal) + len(self._queue)
        return MailboxStatistics(waiting, self._bytes, self.handled, self.refused, len(self._putters or ()))


class Actor:
    """One task that owns its state. Subclasses fill in `HANDLERS` and the methods it names.

    `CAN_RESTART`: its state can be made again from what lasts; else its crash is the end of the node.
    """

    HANDLERS: ClassVar[Mapping[type[Message], str]] = {}
    CAN_RESTART: ClassVar[bool] = True
    __slots__ = ("mailbox", "stopped")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.stopped = False

    async def run(self) -> None:
        """Handle messages until `stop`. An exception from a handler is a crash: see `supervisor`."""
        handlers = {cls: getattr(self, name) for cls, name in self.HANDLERS.items()}
        self.on_start()
        while not self.stopped:
            messages = await self.mailbox.drain()
            for at, message in enumerate(messages):
                if self.mailbox.is_closed:
                    self.mailbox.refuse(message)
                    continue
                try:
                    handlers[type(message)](message)
                except DduomqError as error:
                    if isinstance(error, InvariantBroken) or message.reply is None or message.reply.done:
                        self._fail_rest(messages[at:], error)
                        raise
                    message.reply.fail(error)
                except Exception as error:
                    self._fail_rest(messages[at:], error)
                    raise
            self.after_drain()

    def _fail_rest(self, messages: list[Message], cause: Exception) -> None:
        error = NodeStopping(f"{self.mailbox.name} crashed and starts again: {type(cause).__name__}")
        for message in messages:
            message.refuse(error)

    def stop(self) -> None:
        """End after the messages in hand."""
        self.stopped = True

    def resign(self, message: Resign) -> None:
        """End, as another node goes on with the work."""
        self.on_crash(message.error)
        self.mailbox.close(message.error)
        self.stop()

    def on_start(self) -> None:
        """Called once before the first message."""

    def after_drain(self) -> None:
        """Called after each batch of messages."""

    def on_crash(self, error: BaseException) -> None:
        """Answer everything parked with a retriable error; the state is thrown away after this."""

    async def quiesce(self) -> None:
        """Wait until nothing that this incarnation started still touches the world."""


async def ask(mailbox: Mailbox, make: Callable[[Reply[T]], Message]) -> T:
    """Put the message that `make(reply)` gives and await its answer."""
    reply: Reply[T] = Reply()
    await mailbox.put(make(reply))
    return await reply.wait()
