"""The controller: one node of the cluster, which sees to it that every partition has a leader that lives.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| NodesSeen | registration | nothing | nothing | who is alive; all partitions are looked at again |
| ReignBegun | clerk | nothing | nothing | this node is the controller, and knows nothing yet |
| ReignEnded | clerk | nothing | nothing | it is not any more |
| TopicsHeld | clerk | nothing | nothing | all topics |
| TopicHeld | clerk | nothing | nothing | one topic made, changed or deleted |
| PartitionsHeld | clerk | nothing | nothing | all partitions |
| PartitionHeld | clerk | nothing | nothing | one partition made, changed or deleted |
| PartitionsRead | clerk | nothing | nothing | all, read after certain nodes had registered: those may be admitted |
| BatchDone | clerk | nothing | nothing | what became of some changes |
| AdmissionDone | clerk | nothing | nothing | nodes that registered anew count as alive |
| ControllerTick | clerk | nothing | nothing | preferred leaders, what is left of deleted topics |
| GoOn | controller | nothing | nothing | the next decisions |
| DescribeController | admin | ControllerStatus | nothing | none |

Every node has one; only that of the node that is the controller does anything. What is to be done about a partition
`cluster.control` says; this actor knows what there is, and what is under way. Always true: of each partition at most
one change is under way; at most `CONTROLLER_BATCHES_MAX` transactions are.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

import structlog
import trio

from dduomq.actors.actor import Actor, Mailbox, Message, ask
from dduomq.actors.controller_clerk import Clerk
from dduomq.actors.controller_image import ControllerImage
from dduomq.actors.controller_messages import (
    AdmissionDone,
    BatchDone,
    ControllerStatus,
    ControllerTick,
    DescribeController,
    GoOn,
    NodesSeen,
    PartitionHeld,
    PartitionsHeld,
    PartitionsRead,
    ReignBegun,
    ReignEnded,
    TopicHeld,
    TopicsHeld,
    Wish,
)
from dduomq.actors.registration import Registration
from dduomq.actors.supervisor import Supervisor
from dduomq.cluster.image import TopicRecord
from dduomq.cluster.ports import MetadataStore
from dduomq.limits import CONTROLLER_BATCH_PARTITIONS, CONTROLLER_BATCHES_MAX, CONTROLLER_DECISIONS_MAX
from dduomq.ports import Clock, Rng


class Office(Protocol):
    """Who carries out what the controller wants; answers come as messages. See `controller_clerk.Clerk`."""

    def write(self, wishes: "list[Wish]") -> None: ...

    def read(self, epochs: Mapping[int, int]) -> None: ...

    def admit(self, admitted: Mapping[int, int]) -> None: ...

    def resign(self) -> None: ...


class ControllerActor(Actor):
    __slots__ = ("_batches", "_has_more", "_image", "_is_unclean", "_log", "_office", "_reign")
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        NodesSeen: "_on_nodes_seen",
        ReignBegun: "_on_reign_begun",
        ReignEnded: "_on_reign_ended",
        TopicsHeld: "_on_topics_held",
        TopicHeld: "_on_topic_held",
        PartitionsHeld: "_on_partitions_held",
        PartitionHeld: "_on_partition_held",
        PartitionsRead: "_on_partitions_read",
        BatchDone: "_on_batch_done",
        AdmissionDone: "_on_admission_done",
        ControllerTick: "_on_tick",
        GoOn: "_on_go_on",
        DescribeController: "_on_describe",
    }

    def __init__(
        self,
        mailbox: Mailbox,
        office: Office,
        is_unclean: Callable[[TopicRecord], bool],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`is_unclean` says whether a topic allows unclean elections."""
        super().__init__(mailbox)
        self._office = office
        self._is_unclean = is_unclean
        self._log = log
        self._image: ControllerImage | None = None
        self._reign = 0
        self._batches = 0
        self._has_more = False

    # --- what there is ------------------------------------------------------------------------------

    def _on_nodes_seen(self, message: NodesSeen) -> None:
        if self._image is not None:
            self._image.set_nodes(message.nodes)

    def _on_reign_begun(self, message: ReignBegun) -> None:
        self._reign, self._batches = message.reign, 0
        self._image = ControllerImage(
            message.reign, message.admitted, self._is_unclean, own=message.own, timeout_ms=message.timeout_ms
        )
        self._image.set_nodes(message.nodes)

    def _on_reign_ended(self, message: ReignEnded) -> None:
        if message.reign == self._reign:
            self._reign, self._image = 0, None

    def _image_of(self, reign: int) -> ControllerImage | None:
        return self._image if reign == self._reign else None

    def _on_topics_held(self, message: TopicsHeld) -> None:
        image = self._image_of(message.reign)
        if image is not None:
            image.set_topics(message.topics)

    def _on_topic_held(self, message: TopicHeld) -> None:
        image = self._image_of(message.reign)
        if image is not None:
            image.set_topic(message.name, message.record, message.version)

    def _on_partitions_held(self, message: PartitionsHeld) -> None:
        image = self._image_of(message.reign)
        if image is not None:
            image.set_partitions(message.records)

    def _on_partition_held(self, message: PartitionHeld) -> None:
        image = self._image_of(message.reign)
        if image is not None:
            image.hold(message.written)

    def _on_partitions_read(self, message: PartitionsRead) -> None:
        image = self._image_of(message.reign)
        if image is not None:
            image.read(message.epochs, message.records)

    def _on_batch_done(self, message: BatchDone) -> None:
        image = self._image_of(message.reign)
        if image is not None:
            self._batches -= 1
            for outcome in message.outcomes:
                image.landed(outcome)

    def _on_admission_done(self, message: AdmissionDone) -> None:
        image = self._image_of(message.reign)
        if image is not None:
            image.set_admitted(message.admitted)
            self._log.info("nodes_admitted", nodes=sorted(message.admitted))

    def _on_tick(self, message: ControllerTick) -> None:
        image = self._image_of(message.reign)
        if image is not None:
            silent = image.give_up(message.now_ms)
            if silent:
                self._log.warning("nodes_silent", nodes=silent)
            image.tick(message.now_ms)

    def _on_go_on(self, _message: GoOn) -> None:
        self._has_more = False

    def _on_describe(self, message: DescribeController) -> None:
        assert message.reply is not None
        image = self._image
        counts = (0, 0, 0) if image is None else (len(image.waiting), len(image.flying), len(image.records))
        message.reply.set(ControllerStatus(self._reign, *counts))

    # --- what is to be done -------------------------------------------------------------------------

    def after_drain(self) -> None:
        """Hand out the next changes, as many as may be under way at once."""
        image = self._image
        if image is None or not image.is_whole:
            return
        looked = 0
        while self._batches < CONTROLLER_BATCHES_MAX and image.waiting and looked < CONTROLLER_DECISIONS_MAX:
            wishes: list[Wish] = []
            while image.waiting and len(wishes) < CONTROLLER_BATCH_PARTITIONS and looked < CONTROLLER_DECISIONS_MAX:
                looked += 1
                wish = image.next_wish()
                if wish is not None:
                    wishes.append(wish)
                    if wish.topic is not None:  # its check is one more operation: it goes alone
                        break
            if wishes:
                self._batches += 1
                self._office.write(wishes)
        if image.waiting:
            if self._batches < CONTROLLER_BATCHES_MAX and not self._has_more:
                self._has_more = True
                self.mailbox.post(GoOn())
            return
        unread = image.next_read()
        if unread:
            self._office.read(unread)
        admitted = image.next_admission()
        if admitted is not None:
            self._office.admit(admitted)

    def on_crash(self, error: BaseException) -> None:
        """The next incarnation knows nothing, so the reign ends."""
        self._office.resign()


class Controller:
    """This node's part in being the controller. `is_unclean` says whether a topic allows unclean elections."""

    def __init__(
        self,
        store: MetadataStore,
        registration: Registration,
        *,
        supervisor: Supervisor,
        is_unclean: Callable[[TopicRecord], bool],
        clock: Clock,
        rng: Rng,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.mailbox = Mailbox("controller")
        self._registration = registration
        self._supervisor = supervisor
        self._is_unclean = is_unclean
        self._log = log
        self._clerk = Clerk(store, registration, self.mailbox, clock, rng, log)

    @property
    def epoch(self) -> int:
        """The controller epoch while this node is the controller, else 0."""
        return self._clerk.epoch

    def start(self, nursery: trio.Nursery) -> None:
        """Run from now on."""
        self._supervisor.start(self.mailbox, lambda box: ControllerActor(box, self._clerk, self._is_unclean, self._log))
        self._registration.on_change(lambda nodes: self.mailbox.post(NodesSeen(nodes=nodes)))
        nursery.start_soon(self._clerk.run)

    async def status(self) -> ControllerStatus:
        """What it is about."""
        return await ask(self.mailbox, lambda reply: DescribeController(reply=reply))
