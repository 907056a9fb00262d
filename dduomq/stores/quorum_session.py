"""A node's session with the quorum, and the beats that keep it.

Always true: the session is a record in the replicated state, so only the log ends it; beats go to every voter, whoever
leads; `is_valid` counts from when a beat was sent that a leader answered which was sure to lead. A moment without a
leader makes it invalid, and loses nothing.
"""

import trio

from dduomq.actors.actor import Mailbox, ask
from dduomq.actors.link import Links
from dduomq.actors.quorum_messages import BeatCame, QuorumView
from dduomq.errors import DduomqError
from dduomq.wire.peer_metadata import Beat, BeatAnswer

BEATS_PER_TIMEOUT = 5


class QuorumSession:
    """A `dduomq.cluster.ports.Session`."""

    def __init__(
        self, session: int, timeout_ms: int, asked_at: float, mailbox: Mailbox, view: QuorumView, links: Links
    ) -> None:
        self.session = session
        self.timeout_s = timeout_ms / 1000
        self._sure_at = asked_at
        self._mailbox = mailbox
        self._view = view
        self._links = links
        self._over = trio.Event()

    @property
    def is_valid(self) -> bool:
        return not self.is_over and trio.current_time() < self._sure_at + self.timeout_s

    @property
    def is_over(self) -> bool:
        """Whether the log has ended it."""
        if self._view.is_over(self.session):
            self._over.set()
        return self._over.is_set()

    async def wait_lost(self) -> None:
        """Returns when the log has ended it, as far as this node has heard."""
        await self._over.wait()

    def close(self) -> None:
        """This node itself ends it."""
        self._over.set()

    async def watch(self) -> None:
        """A task: look at the state whenever sessions have changed in it."""
        while not self.is_over:
            await self._view.changed()

    async def beat(self) -> None:
        """A task: tell every voter, until it is over."""
        async with trio.open_nursery() as nursery:
            while not self.is_over:
                for voter in self._view.configuration.voters:
                    nursery.start_soon(self._beat_one, voter.node)
                await trio.sleep(self.timeout_s / BEATS_PER_TIMEOUT)
            nursery.cancel_scope.cancel()

    async def _beat_one(self, node: int) -> None:
        sent_at = trio.current_time()
        try:
            answer = await self._ask(node)
        except DduomqError:
            return  # the next beat follows soon
        if answer.is_over:
            self._over.set()
        elif answer.is_sure:
            self._sure_at = max(self._sure_at, sent_at)

    async def _ask(self, node: int) -> BeatAnswer:
        if node == self._links.own:
            return await ask(self._mailbox, lambda reply: BeatCame(session=self.session, reply=reply))
        answer, _ = await self._links.link(node).request(Beat(self.session), timeout_s=self.timeout_s)
        found: BeatAnswer = answer
        return found
