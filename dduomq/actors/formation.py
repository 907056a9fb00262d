"""How a node without a cluster gets into one: asks around, decides, and tells its member of the quorum.

The decisions and their reasons are in `cluster/formation.py`. Always true: it ends when the member has begun; it says
what it waits for once, and again when that changes; that it is refused matters more than whom it waits for.
"""

import structlog
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.link import Links
from dduomq.actors.quorum_messages import OFFLINE, WAITING, Begin, QuorumView
from dduomq.cluster.formation import Found, Heard, JoinThrough, Wait, next_step
from dduomq.cluster.handshake import PeerBook
from dduomq.cluster.quorum_state import cluster_id_of, first_snapshot
from dduomq.errors import DduomqError
from dduomq.limits import QUORUM_ATTEMPT_MS, QUORUM_FORMING_MS
from dduomq.wire.peer_hello import AskFacts, Founder
from dduomq.wire.peer_metadata import Join


class Formation:
    """`run` is a task of the node."""

    def __init__(
        self, mailbox: Mailbox, view: QuorumView, links: Links, book: PeerBook, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._mailbox = mailbox
        self._view = view
        self._links = links
        self._book = book
        self._log = log
        self._told = ""

    async def run(self) -> None:
        """Until this node has a cluster."""
        await self._view.opened.wait()
        while self._view.lifecycle in {WAITING, OFFLINE}:
            if self._view.lifecycle == WAITING:
                await self._step()
            await trio.sleep(QUORUM_FORMING_MS / 1000)

    async def _step(self) -> None:
        book = self._book
        me = Founder(book.node_id, book.directory_id)
        step = next_step(me, book.wanted, await self._ask_around())
        if isinstance(step, Found):
            snapshot = first_snapshot(step.founders)
            self._mailbox.post(Begin(cluster_id=cluster_id_of(step.founders), snapshot=snapshot))
        elif isinstance(step, JoinThrough):
            await self._join(step)
        else:
            self._tell(step)

    async def _join(self, step: JoinThrough) -> None:
        request = Join(self._book.host, self._book.port)
        try:
            await self._links.link(step.node).request(request, timeout_s=2 * QUORUM_ATTEMPT_MS / 1000)
        except DduomqError as error:
            self._tell(Wait(f"node {step.node} can't let this one in yet: {error.message}"))
        else:
            self._mailbox.post(Begin(cluster_id=step.cluster_id, snapshot=None))

    async def _ask_around(self) -> dict[int, Heard]:
        """What each node says that can be reached now."""
        heard: dict[int, Heard] = {}

        async def ask_one(node: int) -> None:
            link = self._links.link(node)
            try:
                facts, _ = await link.request(AskFacts(), timeout_s=QUORUM_ATTEMPT_MS / 1000)
            except DduomqError:
                return  # it says nothing, so it is waited for
            heard[node] = Heard(link.directory_id, facts)

        async with trio.open_nursery() as nursery:
            for node in self._links.nodes:
                nursery.start_soon(ask_one, node)
        return heard

    def _tell(self, step: Wait) -> None:
        refusals = [self._links.link(node).refusal for node in self._links.nodes]
        if any(refusals):
            step = Wait(next(filter(None, refusals)), is_wrong=True)
        self._view.reason = step.reason
        if step.reason != self._told:
            self._told = step.reason
            (self._log.error if step.is_wrong else self._log.info)("cluster_waits", reason=step.reason)
