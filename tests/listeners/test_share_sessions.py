"""Share sessions of a node's connections: what goes to others at the end of one."""

import pytest

from dduomq.actors.actor import Mailbox
from dduomq.listeners.kafka.share_sessions import ShareSessionNotFound, ShareSessions
from dduomq.listeners.taking import Spot

HERE, LEFT = (Spot("t", "f" * 32, at) for at in range(2))


async def opened(sessions, mailbox):
    session = await sessions.open("g", "m", mailbox)
    session.update([HERE, LEFT], [])
    session.update([], [LEFT.place])
    return session


async def released(mailbox):
    return [(message.group, message.member_id, message.places) for message in mailbox._take(10)]


@pytest.mark.parametrize("way", ["close", "abandon", "open anew"])
async def test_what_the_session_fetches_goes_to_others_and_nothing_else(way):
    """The member may hold records of other partitions, by its sessions with the nodes that lead those."""
    newest, mailbox = {}, Mailbox("groups-0")
    sessions = ShareSessions(newest)
    await opened(sessions, mailbox)
    if way == "close":
        await sessions.close("g", "m")
    elif way == "abandon":
        sessions.abandon()
    else:
        await ShareSessions(newest).open("g", "m", mailbox)
    assert await released(mailbox) == [("g", "m", (HERE.place,))]
    with pytest.raises(ShareSessionNotFound):
        sessions.next("g", "m", 1)
