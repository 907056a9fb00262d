"""Crash, restart, back-off, and the end of patience."""

from typing import ClassVar

import attrs
import pytest
import trio
import trio.testing

from dduomq.actors.actor import Actor, Mailbox, Message, ask
from dduomq.actors.supervisor import CannotRestart, Supervisor, TooManyCrashes
from dduomq.errors import DduomqError
from dduomq.limits import RESTARTS_MAX
from dduomq.observe import silent_log


@attrs.frozen(kw_only=True)
class Work(Message):
    breaks: bool = False


class Worker(Actor):
    HANDLERS: ClassVar = {Work: "on_work"}
    born: ClassVar[list] = []

    def __init__(self, mailbox):
        super().__init__(mailbox)
        self.events = []
        self.born.append(self)

    def on_work(self, message):
        if message.breaks:
            raise ValueError("broken on purpose")
        message.reply.set(len(self.born))

    def on_crash(self, error):
        self.events.append(type(error).__name__)

    async def quiesce(self):
        self.events.append("quiet")


@pytest.fixture
def mailbox():
    Worker.born.clear()
    return Mailbox("worker")


async def test_a_crashed_actor_is_replaced_behind_the_same_mailbox(nursery, mailbox, autojump_clock):
    """The asker gets a retriable error, the next request reaches the successor."""
    Supervisor(nursery, silent_log()).start(mailbox, Worker)
    with pytest.raises(DduomqError) as caught:
        await ask(mailbox, lambda reply: Work(breaks=True, reply=reply))
    assert caught.value.retriable
    assert await ask(mailbox, lambda reply: Work(reply=reply)) == 2


async def test_the_successor_waits_until_the_predecessor_is_quiet(nursery, mailbox, autojump_clock):
    """on_crash, then quiesce, then the restart."""
    Supervisor(nursery, silent_log()).start(mailbox, Worker)
    with pytest.raises(DduomqError):
        await ask(mailbox, lambda reply: Work(breaks=True, reply=reply))
    await ask(mailbox, lambda reply: Work(reply=reply))
    assert Worker.born[0].events == ["ValueError", "quiet"]


async def test_too_many_crashes_end_the_nursery(mailbox, autojump_clock):
    """A supervisor gives up after its bound, with the reason."""
    with pytest.RaisesGroup(TooManyCrashes):
        async with trio.open_nursery() as nursery:
            Supervisor(nursery, silent_log()).start(mailbox, Worker)
            for _ in range(RESTARTS_MAX + 1):
                mailbox.offer(Work(breaks=True))
                await trio.sleep(6)


async def test_crashes_far_apart_are_forgiven(nursery, mailbox, autojump_clock):
    """Only crashes within the window count."""
    Supervisor(nursery, silent_log()).start(mailbox, Worker)
    for _ in range(RESTARTS_MAX * 3):
        mailbox.offer(Work(breaks=True))
        await trio.sleep(30)
    assert await ask(mailbox, lambda reply: Work(reply=reply)) == RESTARTS_MAX * 3 + 1


async def test_the_status_tells_restarts_and_the_last_error(nursery, mailbox, autojump_clock):
    """Console and metrics see how often an actor crashed, and of what."""
    supervisor = Supervisor(nursery, silent_log())
    supervisor.start(mailbox, Worker)
    mailbox.offer(Work(breaks=True))
    await trio.sleep(1)
    (status,) = supervisor.statuses()
    assert (status.name, status.restarts, status.last_error) == ("worker", 1, "ValueError: broken on purpose")


async def test_the_crash_of_an_actor_that_can_not_be_restarted_is_the_end(mailbox, autojump_clock):
    """What runs below it would be run twice by a successor that knows of nothing."""

    class Only(Worker):
        CAN_RESTART: ClassVar = False

    async def run():
        async with trio.open_nursery() as nursery:
            Supervisor(nursery, silent_log()).start(mailbox, Only)
            with pytest.raises(DduomqError):
                await ask(mailbox, lambda reply: Work(breaks=True, reply=reply))
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert [type(error) for error in caught.value.exceptions] == [CannotRestart]
    assert len(Worker.born) == 1
    assert Worker.born[0].events == ["ValueError", "quiet"]
