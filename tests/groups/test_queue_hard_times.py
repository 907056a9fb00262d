"""Queues through what seldom happens: words that come late or twice, connections that break, groups that stand still."""

from tests.client.test_queue import running
from tests.groups.test_coordinator_share import from_the_beginning, offsets, topic

ACCEPT, RELEASE, REJECT, RENEW = 1, 2, 3, 4
LOCK_S = 30
HOUR_S = 3_600


# --- one member at a time ---------------------------------------------------------------------------


async def test_a_connection_that_is_found_dead_late(autojump_clock):
    """The member goes on by a new one. What it has taken there is its own when the old one ends."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        assert (await one.fetch(records=0))["error_code"] == 0
        old = one.wire
        await one.connect()
        assert offsets(await one.take()) == list(range(10))
        await old.aclose()
        assert await two.take(wait_ms=2_000) == []
        assert await one.acknowledge((0, 9, ACCEPT)) == (0, 0)


async def test_a_session_that_is_begun_by_another_connection(autojump_clock):
    """What the member had by the old one goes to others, and the old one is told that it has no session any more."""
    async with running() as machine, machine.node(), machine.client() as mq:
        await topic(mq)
        one, two = await from_the_beginning(machine, "one", "two")
        assert offsets(await one.take()) == list(range(10))
        old, session = one.wire, one.session
        await one.connect()
        assert (await one.fetch(records=0))["error_code"] == 0
        assert await two.take(wait_ms=2_000) == [(at, 2) for at in range(10)]
        one.wire = old
        assert await one.acknowledge((0, 9, ACCEPT), session=session) == (122, None)


# --- nothing is lost, nothing comes again -----------------------------------------------------------


# --- no work for nothing ----------------------------------------------------------------------------
