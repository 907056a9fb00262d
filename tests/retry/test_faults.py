"""Whatever dies while records step aside: each is in one place, and each copy is there once (I22, I30, I31)."""

from random import Random

import pytest
import trio

from dduomq.actors.coordinator_aside import SettingAside
from dduomq.actors.coordinator_handover import Handover
from dduomq.actors.wheel import WheelActor
from dduomq.wire import origin
from tests.client.test_consuming import until
from tests.delay.helpers import clean_often, crash_once, fail_write
from tests.retry.helpers import Work, lag, letters, one_machine, read, running, working

RECORDS = 30
LADDER = [1, 2]
DEAD = 99


def tries_needed(value):
    """The try in which the work on a record succeeds."""
    return (1, 2, 3, DEAD)[int(value) % 4]


async def handler(record):
    if record.attempt < tries_needed(record.raw_value):
        raise ValueError(f"not in try {record.attempt}")


class Lives:
    """A machine whose node dies now and then; its clients stay."""

    def __init__(self, machine):
        self.machine = machine

    async def begin(self):
        self._ending, self._ended = trio.Event(), trio.Event()
        await self.machine.nursery.start(self._live, self._ending, self._ended)

    async def _live(self, ending, ended, task_status):
        async with self.machine.node():
            task_status.started()
            await ending.wait()
        ended.set()

    async def end(self, how="stop"):
        if how == "kill":
            self.machine.platter.kill()
        elif how == "power loss":
            self.machine.platter.lose_power()
        if how != "stop":
            self.machine.network.crash()
        self._ending.set()
        await self._ended.wait()


async def check(mq, work):
    """Every record has ended in one way, and every copy is there once."""
    await until(lambda: all(
        work.tries_of(str(n))[-1:] == [min(tries_needed(n), len(LADDER) + 1)] for n in range(RECORDS)
    ))  # fmt: skip
    await trio.sleep(30)
    for n in range(RECORDS):
        tries = set(work.tries_of(str(n)))
        assert tries == set(range(1, min(tries_needed(n), len(LADDER) + 1) + 1)), n
    rest = await letters(mq)
    assert sorted(int(letter.value) for letter in rest) == [n for n in range(RECORDS) if tries_needed(n) == DEAD]
    assert all(letter.attempts == len(LADDER) + 1 for letter in rest)
    copies = [
        tuple(record.header(name) for name in (
            origin.ORIGIN_PARTITION_HEADER, origin.ORIGIN_OFFSET_HEADER, origin.ATTEMPT_HEADER
        ))
        for record in await read(mq, "retry.g")
    ]  # fmt: skip
    assert len(copies) == len(set(copies)), "a copy is there twice"
    assert set((await lag(mq)).values()) == {0}


async def story(seed):
    """A node that dies again and again; members that stay, and members that die with what they have not committed."""
    rng = Random(seed)
    async with one_machine() as machine:
        lives, work = Lives(machine), Work()
        await lives.begin()
        async with machine.client() as mq:
            await mq.admin.create_topic("t", partitions=2)
            for n in range(RECORDS):
                await mq.send("t", str(n), partition=n % 2)
        options = {"retry": LADDER, "run": {"concurrency": 4, "ordered": "none"}, "commit_interval": 0.3}
        for _ in range(2):
            async with working(machine, work, handler, seed=rng.getrandbits(32), **options):
                await trio.sleep(rng.random() * rng.choice([0.1, 1, 4]))
                await lives.end(rng.choice(["kill", "power loss"]))
            await lives.begin()
        async with machine.client() as mq, working(machine, work, handler, seed=rng.getrandbits(32), **options):
            for _ in range(3):
                await trio.sleep(rng.random() * rng.choice([0.05, 0.5, 3]))
                await lives.end(rng.choice(["kill", "power loss", "stop"]))
                await trio.sleep(rng.random() * 3)
                await lives.begin()
            await check(mq, work)
        await lives.end()


@pytest.mark.parametrize("seed", range(30))
async def test_a_node_that_dies_again_and_again(autojump_clock, seed, monkeypatch):
    if seed % 3 == 0:
        clean_often(monkeypatch, 2_000, 500)
    await story(seed)


@pytest.mark.parametrize("which", range(1, 4))
@pytest.mark.parametrize(
    ("owner", "name"),
    [(Handover, "_read"), (Handover, "_found"), (Handover, "_park"), (Handover, "handed_over"),
     (Handover, "_note"), (SettingAside, "_entries"), (WheelActor, "_on_park"), (WheelActor, "_parked")],
)  # fmt: skip
async def test_an_actor_that_crashes(autojump_clock, monkeypatch, owner, name, which):
    """At that step of handing over, for the first, second or third time."""
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=2)
        for n in range(RECORDS):
            await mq.send("t", str(n), partition=n % 2)
        async with working(machine, work, handler, retry=LADDER, run={"concurrency": 4, "ordered": "none"}):
            for _ in range(which):
                crash_once(monkeypatch, owner, name)
                await trio.sleep(0.3)
            await check(mq, work)


@pytest.mark.parametrize("topic", ["__groups", "__delay", "retry.g", "dlq.g"])
@pytest.mark.parametrize("which", [1, 3, 6])
async def test_a_disk_that_is_full_for_a_moment(autojump_clock, monkeypatch, topic, which):
    work = Work()
    async with running() as (machine, _, mq):
        await mq.admin.create_topic("t", partitions=2)
        for n in range(RECORDS):
            await mq.send("t", str(n), partition=n % 2)
        fail_write(monkeypatch, topic=topic, which=which)
        async with working(machine, work, handler, retry=LADDER, run={"concurrency": 4, "ordered": "none"}):
            await check(mq, work)
