"""What becomes of acknowledged records when an actor crashes, or a recovery fails, and somebody else goes on."""

import pytest
import trio
import trio.testing

from dduomq.log.plans import FlushPlan
from dduomq.testing.disk import Faults
from tests.sim.machine import Machine

BEFORE_A_CHECKPOINT, AFTER_A_CHECKPOINT = 0.5, 8.0


def crash_at_the_next_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FlushPlan.run

    def crash(_self: FlushPlan, _files: object) -> None:
        monkeypatch.setattr(FlushPlan, "run", run)
        raise RuntimeError("a bug in a disk job")

    monkeypatch.setattr(FlushPlan, "run", crash)


@pytest.mark.parametrize("pause_s", [BEFORE_A_CHECKPOINT, AFTER_A_CHECKPOINT])
async def test_a_crashed_partition_keeps_what_was_acknowledged(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    """After a start from a clean directory, too: its successor must look at the log, not trust it."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            async with machine.client() as mq:
                await mq.admin.create_topic("t", partitions=1)
            await machine.send(range(5))
        machine.network.crash()
        async with machine.node() as node:
            await trio.sleep(pause_s)
            await machine.send(range(5, 10))
            crash_at_the_next_sync(monkeypatch)
            await machine.send(range(10, 13))
            assert {status.name: status.restarts for status in node.actors()}["t-0"] == 1
            assert await machine.values() == list(range(13))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pause_s", [BEFORE_A_CHECKPOINT, AFTER_A_CHECKPOINT])
async def test_a_log_that_could_not_be_recovered_is_not_trusted_after_an_orderly_stop(
    autojump_clock: trio.testing.MockClock, pause_s: float
) -> None:
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            async with machine.client() as mq:
                await mq.admin.create_topic("t", partitions=1)
            await machine.send(range(5))
            await trio.sleep(pause_s)
            await machine.send(range(5, 10))
            machine.platter.kill()
            machine.network.crash()
        machine.platter.faults = Faults(sync_fails=1.0)
        async with machine.node(), machine.client() as mq:
            assert (await mq.admin.describe_topic("t")).partitions[0].state != "online"
        machine.platter.faults = Faults()
        machine.network.crash()
        async with machine.node():
            async with machine.client() as mq:
                assert (await mq.admin.describe_topic("t")).partitions[0].state != "online", "its sync has failed"
                await mq.admin.restore_log("t", 0)
            assert await machine.values() == list(range(10))
            await machine.send(range(10, 12))
        nursery.cancel_scope.cancel()


async def test_a_failed_sync_is_not_forgotten_when_its_actor_crashes(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor must not believe a later sync: the kernel has marked the pages clean."""
    run = FlushPlan.run

    def fail_and_crash(self: FlushPlan, files: object) -> None:
        monkeypatch.setattr(FlushPlan, "run", run)
        try:
            run(self, files)  # type: ignore[arg-type]
        except Exception as error:
            raise RuntimeError("a bug that hides a failed sync") from error

    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            async with machine.client() as mq:
                await mq.admin.create_topic("t", partitions=1)
            await machine.send(range(5))
            machine.platter.faults = Faults(sync_fails=1.0)
            monkeypatch.setattr(FlushPlan, "run", fail_and_crash)
            async with machine.client() as mq:
                await mq.send_async("t", "lost?")
                await trio.sleep(1)
                machine.platter.faults = Faults()
                assert "offline" in (await mq.admin.describe_topic("t")).partitions[0].state
        nursery.cancel_scope.cancel()


async def test_a_crashed_partition_keeps_the_settings_of_now(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(), machine.client() as mq:
            await mq.admin.create_topic("t", partitions=1)
            await mq.admin.alter_topic("t", {"durability": "pagecache"})
            await machine.send(range(1))
            await mq.admin.alter_topic("t", {"durability": "fsync"})
            crash_at_the_next_sync(monkeypatch)
            await machine.send(range(1, 3))
            assert (await mq.send("t", "3")).durability == "fsync"
        nursery.cancel_scope.cancel()
