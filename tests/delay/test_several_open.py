"""Two batches of one target on their way, and more behind them: refused, lost, gone, and a node that dies between."""

import pytest
import trio

from dduomq.actors import wheel_sending
from dduomq.actors.alarms import Alarm
from dduomq.actors.wheel_messages import Sent
from dduomq.actors.wheel_sending import WheelSending
from dduomq.delay.wheel import OPEN_MAX
from dduomq.errors import DiskFull, MessageTooLarge, OutOfOrderSequence
from dduomq.ids import DEAD, DELAYED_GROUP
from tests.delay.helpers import kill, one_machine, replayed, wheel_of
from tests.delay.test_delayed import arrivals, read, running, values


class Held:
    """The first batch for `t` is held until `let_go`; so another one comes behind it, and what is more is held back."""

    def __init__(self, monkeypatch):
        self.plain, self.held, self.is_open = WheelSending._send, [], False
        monkeypatch.setattr(WheelSending, "_send", lambda sending, one: self.send(sending, one))

    def send(self, sending, one):
        if one.fired.target.topic == "t" and not self.is_open:
            one.again_at = float("inf")
            self.held.append((sending, one))
        else:
            self.plain(sending, one)

    def let_go(self):
        self.is_open = True
        ((sending, one),) = self.held
        one.again_at = 0.0
        sending._mailbox.post(Alarm())


async def three_batches(mq):
    """One after another: the first is held when the second is due."""
    for n in range(6):
        await mq.send("t", str(n), delay=1 + n)
    await trio.sleep(10)
    assert await values(mq) == []


async def test_what_waits_behind_one_another_comes_in_its_order(autojump_clock, monkeypatch):
    held = Held(monkeypatch)
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        await three_batches(mq)
        assert await mq.admin.count_delayed() == 6
        held.let_go()
        found = await arrivals(mq, 6)
        assert [record.raw_value for record in found] == [b"%d" % n for n in range(6)]
        assert await mq.admin.count_delayed() == 0


@pytest.mark.parametrize("arrived", [0, 1, 2, 3])
async def test_all_that_may_have_arrived_is_sent_again_and_comes_once(autojump_clock, monkeypatch, arrived):
    """The node dies when so many of the batches have arrived, before that is written down."""
    held, plain, count = Held(monkeypatch), WheelSending._arrived, []
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            number, _ = await wheel_of(node, "t")
            await three_batches(mq)

            def arrive(self, one):
                count.append(one)
                if len(count) == arrived:
                    kill(machine)
                plain(self, one)

            monkeypatch.setattr(WheelSending, "_arrived", arrive)
            if arrived:
                held.let_go()
                await trio.sleep(5)
            else:
                kill(machine)
        assert len(replayed(machine, number).open[next(iter(replayed(machine, number).open))]) == OPEN_MAX
        async with running(machine) as (_, _, mq):
            held.is_open = True
            await trio.sleep(30)
            assert await values(mq) == [str(n) for n in range(6)]


async def test_what_has_arrived_is_known_again_though_a_limit_was_lowered(autojump_clock, monkeypatch):
    """Else it would become a dead letter as well, and another batch would get its sequence, and be taken for it."""
    held = Held(monkeypatch)
    monkeypatch.setattr(wheel_sending, "NOTE_DELIVERED_S", 10**9)
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            node.services.topics.wanted(DEAD, DELAYED_GROUP)
            await mq.send("t", "0", delay=1)
            await mq.send("t", "1", delay=2)
            await trio.sleep(10)
            held.let_go()
            await arrivals(mq, 2)
            number, _ = await wheel_of(node, "t")
            assert [len(open_) for open_ in replayed(machine, number).open.values()] == [2]
            await mq.admin.alter_topic("t", set={"max.message.bytes": "100"})
            kill(machine)
        async with running(machine) as (_, _, mq):
            await trio.sleep(30)
            assert await values(mq, "dlq.delayed") == []
            await mq.admin.alter_topic("t", set={"max.message.bytes": "100000"})
            for n in range(2, 6):
                await mq.send("t", str(n), delay=1)
                await trio.sleep(2)
            assert await values(mq) == [str(n) for n in range(6)]


@pytest.mark.parametrize("end", ["none", "kill"])
async def test_all_that_is_open_when_the_topic_goes_rests_once(autojump_clock, monkeypatch, end):
    """Two batches are on their way, and more is held back behind them."""
    held = Held(monkeypatch)
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            number, _ = await wheel_of(node, "t")
            await three_batches(mq)
            assert [len(open_) for open_ in replayed(machine, number).open.values()] == [2]
            await mq.admin.delete_topic("t")
            held.let_go()
            if end == "kill":
                await trio.sleep(0.3)
                kill(machine)
            else:
                await trio.sleep(30)
        async with running(machine) as (_, _, mq):
            await trio.sleep(60)
            assert await values(mq, "dlq.delayed") == [str(n) for n in range(6)]
            assert await mq.admin.count_delayed() == 0


@pytest.mark.parametrize("end", ["none", "kill"])
@pytest.mark.parametrize("error", [OutOfOrderSequence, MessageTooLarge, DiskFull])
async def test_one_that_is_refused_holds_up_none_behind_it(autojump_clock, monkeypatch, error, end):
    """It goes out anew, or becomes a dead letter; the batch behind it has never been sent, and gets a free sequence.

    Of one that finds no room for the moment nothing changes: it is sent again, and the one behind it waits.
    """
    held, refused = Held(monkeypatch), []
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            await mq.admin.create_topic("t", partitions=1)
            node.services.topics.wanted(DEAD, DELAYED_GROUP)
            await trio.sleep(1)
            await three_batches(mq)

            def send(sending, one):
                """The target refuses the first batch."""
                if one.fired.target.topic == "t" and not refused:
                    one.again_at, one.serial = float("inf"), 10**9
                    refused.append(one)
                    sending.sent(Sent(target=one.fired.target, serial=one.serial, acked=None, error=error("no")))
                else:
                    held.plain(sending, one)

            monkeypatch.setattr(WheelSending, "_send", send)
            held.let_go()
            if end == "kill":
                await trio.sleep(0.5)
                kill(machine)
            else:
                await trio.sleep(30)
        async with running(machine) as (_, _, mq):
            await trio.sleep(60)
            dead = await values(mq, "dlq.delayed")
            assert len(refused) == 1
            assert dead == (["0"] if error is MessageTooLarge else [])
            if error is DiskFull:
                assert [record.raw_value for record in await read(mq, "t")] == [b"%d" % n for n in range(6)]
            assert sorted(await values(mq) + dead) == [str(n) for n in range(6)]
