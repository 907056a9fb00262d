"""The actor kernel: mailbox, answers, drain, bounds."""

from typing import ClassVar

import attrs
import pytest
import trio
import trio.testing

from dduomq.actors.actor import Actor, Mailbox, Message, Reply, ask
from dduomq.errors import DduomqError, InvalidRequest, InvariantBroken, NodeStopping


@attrs.frozen(kw_only=True)
class Add(Message):
    number: int


@attrs.frozen(kw_only=True)
class Break(Message):
    pass


@attrs.frozen(kw_only=True)
class Refuse(Message):
    pass


@attrs.frozen(kw_only=True)
class Stop(Message):
    pass


class Adder(Actor):
    HANDLERS: ClassVar = {Add: "on_add", Break: "on_break", Refuse: "on_refuse", Stop: "on_stop"}

    def __init__(self, mailbox):
        super().__init__(mailbox)
        self.total = 0
        self.drains = []
        self._here = []

    def on_add(self, message):
        self.total += message.number
        self._here.append(message.number)
        if message.reply is not None:
            message.reply.set(self.total)

    def on_break(self, _message):
        raise ZeroDivisionError("broken on purpose")

    def on_refuse(self, _message):
        raise InvalidRequest("no")

    def on_stop(self, _message):
        self.stop()

    def after_drain(self):
        self.drains.append(self._here)
        self._here = []


async def test_ask_gets_the_answer(nursery):
    """A request put into the mailbox is answered by its handler."""
    mailbox = Mailbox("adder")
    nursery.start_soon(Adder(mailbox).run)
    assert await ask(mailbox, lambda reply: Add(number=2, reply=reply)) == 2
    assert await ask(mailbox, lambda reply: Add(number=3, reply=reply)) == 5


async def test_a_dduomq_error_from_a_handler_is_the_answer(nursery):
    """A handler refuses by raising; the actor goes on."""
    mailbox = Mailbox("adder")
    nursery.start_soon(Adder(mailbox).run)
    with pytest.raises(InvalidRequest, match="no"):
        await ask(mailbox, lambda reply: Refuse(reply=reply))
    assert await ask(mailbox, lambda reply: Add(number=1, reply=reply)) == 1


async def test_everything_that_waits_is_drained_in_order_before_one_after_drain(nursery):
    """Messages put while the actor is busy are handled together, in the order of their putting."""
    mailbox = Mailbox("adder")
    adder = Adder(mailbox)
    for number in range(10):
        assert mailbox.offer(Add(number=number))
    nursery.start_soon(adder.run)
    await trio.testing.wait_all_tasks_blocked()
    assert adder.drains == [list(range(10))]


async def test_completions_come_before_messages(nursery):
    """What is posted is handled before what was put earlier."""
    mailbox = Mailbox("adder")
    adder = Adder(mailbox)
    mailbox.offer(Add(number=1))
    mailbox.post(Add(number=2))
    nursery.start_soon(adder.run)
    await trio.testing.wait_all_tasks_blocked()
    assert adder.drains == [[2, 1]]


async def test_an_offer_to_a_full_mailbox_is_refused_and_counted():
    """A mailbox never holds more messages than its bound."""
    mailbox = Mailbox("small", messages_max=2)
    assert [mailbox.offer(Add(number=n)) for n in range(3)] == [True, True, False]
    assert mailbox.statistics().messages == 2
    assert mailbox.statistics().refused == 1


async def test_a_mailbox_is_bounded_in_bytes_but_takes_one_message_of_any_size():
    """The byte bound refuses the second large message, never the first."""
    mailbox = Mailbox("small", bytes_max=100)
    assert mailbox.offer(Add(number=1, size_bytes=1000))
    assert not mailbox.offer(Add(number=1, size_bytes=1))


async def test_put_waits_until_there_is_room(nursery, autojump_clock):
    """A put into a full mailbox is done as soon as the actor has drained it."""
    mailbox = Mailbox("small", messages_max=1)
    mailbox.offer(Add(number=1))
    done = []

    async def put():
        await mailbox.put(Add(number=2))
        done.append(True)

    nursery.start_soon(put)
    await trio.testing.wait_all_tasks_blocked()
    assert not done
    assert mailbox.statistics().putters_waiting == 1
    assert len(await mailbox.drain()) == 1
    await trio.testing.wait_all_tasks_blocked()
    assert done
    assert len(await mailbox.drain()) == 1


async def test_a_cancelled_put_leaves_nothing_behind(autojump_clock):
    """Cancelling a waiting put puts nothing and frees its place in the line."""
    mailbox = Mailbox("small", messages_max=1)
    mailbox.offer(Add(number=1))
    with trio.move_on_after(1):
        await mailbox.put(Add(number=2))
    assert mailbox.statistics().putters_waiting == 0
    assert mailbox.statistics().messages == 1


async def test_a_crash_answers_all_that_was_in_hand():
    """The request that crashed the actor and those behind it are failed, and the crash is raised."""
    mailbox = Mailbox("adder")
    replies = [Reply(), Reply()]
    mailbox.offer(Break(reply=replies[0]))
    mailbox.offer(Add(number=1, reply=replies[1]))
    with pytest.raises(ZeroDivisionError):
        await Adder(mailbox).run()
    for reply in replies:
        with pytest.raises(DduomqError):
            await reply.wait()


async def test_a_closed_mailbox_answers_everybody():
    """What waits when a mailbox closes, and what comes later, is answered with the reason."""
    mailbox = Mailbox("adder")
    before, after = Reply(), Reply()
    mailbox.offer(Add(number=1, reply=before))
    mailbox.close()
    mailbox.offer(Add(number=1, reply=after))
    for reply in (before, after):
        with pytest.raises(NodeStopping):
            await reply.wait()


async def test_stop_ends_the_loop_after_the_messages_in_hand():
    """Messages drained together with a stop are still handled."""
    mailbox = Mailbox("adder")
    adder = Adder(mailbox)
    mailbox.offer(Stop())
    mailbox.offer(Add(number=7))
    await adder.run()
    assert adder.total == 7


async def test_answering_twice_is_a_bug():
    """The second answer to a request raises."""
    reply = Reply()
    reply.set(1)
    with pytest.raises(InvariantBroken):
        reply.set(2)


async def test_an_answer_nobody_awaits_is_closed(autojump_clock):
    """A lease in the answer to a cancelled request does not leak."""

    class Leased:
        closed = False

        def close(self):
            self.closed = True

    late, abandoned = Leased(), Leased()
    reply = Reply()
    with trio.move_on_after(1):
        await reply.wait()
    reply.set(late)
    assert late.closed
    other = Reply()
    other.set(abandoned)
    other.abandon()
    assert abandoned.closed


async def test_on_done_is_called_at_once():
    """A reply made with a callback hands the answer on without a task."""
    seen = []
    Reply(lambda value, error: seen.append((value, error))).set(3)
    assert seen == [(3, None)]


async def test_a_busy_mailbox_lets_other_tasks_run(nursery, autojump_clock):
    """An actor that posts to itself for ever does not starve the rest."""
    mailbox = Mailbox("busy")

    class Busy(Adder):
        def on_add(self, message):
            self.mailbox.post(message)

    nursery.start_soon(Busy(mailbox).run)
    mailbox.post(Add(number=1))
    for _ in range(100):
        await trio.lowlevel.checkpoint()
    nursery.cancel_scope.cancel()
