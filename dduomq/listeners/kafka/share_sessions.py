"""Share sessions (KIP-932): which partitions a member fetches from, so that it need not say so each time.

Always true: a member has one session with a node, which belongs to one connection; when that ends, or the session is
begun anew, here or elsewhere, or closed, what its member has of the session's partitions goes to others, and what it
has by its sessions with other nodes does not; a request of a session counts once, by its epoch.
"""

from collections.abc import Iterable
from typing import TypeAlias

import attrs

from dduomq.actors.actor import Mailbox
from dduomq.actors.coordinator_queue_messages import ReleaseHeld
from dduomq.errors import DduomqError
from dduomq.groups.records import Place
from dduomq.limits import SHARE_SESSIONS_PER_CONNECTION_MAX
from dduomq.listeners.taking import Spot

OPEN, CLOSE = 0, -1
EPOCHS = 2**31
Member: TypeAlias = tuple[str, str]  # (group, member id)


class ShareSessionNotFound(DduomqError):
    """There is no such share session on this connection, or no longer: open one with epoch 0."""

    code = 122
    retriable = True


class InvalidShareSessionEpoch(DduomqError):
    """The request is not the next one of its share session: open the session anew with epoch 0."""

    code = 123
    retriable = True


class TooManyShareSessions(DduomqError):
    """The connection has as many share sessions as are allowed."""

    code = 133
    retriable = True


@attrs.define
class ShareSession:
    """`epoch` is the next request's; `spots`: what it fetches from, in the order of whose turn it is."""

    group: str
    member_id: str
    mailbox: Mailbox
    epoch: int = 1
    spots: dict[Place, Spot] = attrs.field(factory=dict)

    def update(self, added: Iterable[Spot], forgotten: Iterable[Place]) -> None:
        self.spots.update({spot.place: spot for spot in added})
        for place in forgotten:
            self.spots.pop(place, None)

    def turn(self) -> list[Spot]:
        """Its partitions; another one is the first the next time."""
        spots = list(self.spots.values())
        if spots:
            self.spots[spots[0].place] = self.spots.pop(spots[0].place)
        return spots

    def released(self) -> ReleaseHeld:
        return ReleaseHeld(group=self.group, member_id=self.member_id, places=tuple(self.spots))


class ShareSessions:
    """Those of one connection. `newest` are those of all connections."""

    __slots__ = ("_held", "_newest")

    def __init__(self, newest: dict[Member, ShareSession]) -> None:
        self._held: dict[Member, ShareSession] = {}
        self._newest = newest

    async def open(self, group: str, member_id: str, mailbox: Mailbox) -> ShareSession:
        """A new one in place of the one before, whichever connection has that. Raises `TooManyShareSessions`."""
        before = self._newest.pop((group, member_id), None)
        self._held = {key: held for key, held in self._held.items() if self._newest.get(key) is held}
        if before is not None:
            await before.mailbox.put(before.released())
        if len(self._held) >= SHARE_SESSIONS_PER_CONNECTION_MAX:
            raise TooManyShareSessions
        session = self._held[group, member_id] = self._newest[group, member_id] = ShareSession(
            group, member_id, mailbox
        )  # fmt: skip
        return session

    def next(self, group: str, member_id: str, epoch: int) -> ShareSession:
        """The session that a request belongs to. Raises `ShareSessionNotFound` or `InvalidShareSessionEpoch`."""
        session = self._held.get((group, member_id))
        if session is None or self._newest.get((group, member_id)) is not session:
            raise ShareSessionNotFound
        if epoch == CLOSE:
            return session
        if epoch != session.epoch:
            raise InvalidShareSessionEpoch(f"the share session expects epoch {session.epoch}, not {epoch}")
        session.epoch = epoch % (EPOCHS - 1) + 1
        return session

    async def close(self, group: str, member_id: str) -> None:
        """If there is one."""
        session = self._held.pop((group, member_id), None)
        if session is not None and self._newest.get((group, member_id)) is session:
            del self._newest[group, member_id]
            await session.mailbox.put(session.released())

    def abandon(self) -> None:
        """The connection has ended. A coordinator with too much to do frees the records when their locks expire."""
        for key, session in self._held.items():
            if self._newest.get(key) is session:
                del self._newest[key]
                session.mailbox.offer(session.released())
        self._held.clear()
