"""A partition as one of several replicas: it leads, or it follows, as the newest record says.

Part of `PartitionActor`, which owns all state. Always true: a leader serves in one leader epoch from the end of its
log on, and never in one in which an earlier life of it may have served; a follower takes from the leader of its epoch
only; what changes hands has been written to its end before. Who leads and loses its disk says so, and names another.
"""

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

import attrs

from dduomq.actors.partition_following import FollowerPart, Replica
from dduomq.actors.partition_messages import Append, Fetch, Purge, ReplicasState
from dduomq.actors.replica_messages import (
    Assign,
    Change,
    FollowerAt,
    Following,
    NotAReplica,
    RecordWritten,
    ReplicaFetch,
)
from dduomq.cluster.image import NO_LEADER, PartitionRecord
from dduomq.errors import (
    DduomqError,
    LeaderNotAvailable,
    NotEnoughReplicas,
    NotLeader,
    RequestTimedOut,
)
from dduomq.log.plans import ReadPlan
from dduomq.log.plog import Appended, PartitionLog
from dduomq.log.recover import RecoveryReport
from dduomq.log.replica_log import ReplicaLog
from dduomq.log.settings import Durability
from dduomq.replica.leader import Leadership

SERIALS = count(1)  # of all changes, so that what an earlier life asked for means nothing to its successor


class ReplicaPart(FollowerPart):
    """What a `PartitionActor` does when its partition has a record. Its `_replica` is then not None."""

    if not TYPE_CHECKING:
        __slots__ = ()

    # --- who leads ----------------------------------------------------------------------------------

    def _assigned(self, message: Assign) -> None:
        replica = self._replica
        if replica is None or message.version <= replica.version:
            return
        before = replica.record
        replica.record, replica.version = message.record, message.version
        self._spec = attrs.evolve(self._spec, record=message.record, record_version=message.version)
        if (before.leader, before.leader_epoch) != (message.record.leader, message.record.leader_epoch):
            replica.must_renew = False
            self._step_down(self._not_leader())
            self._spec = attrs.evolve(self._spec, leader_epoch=message.record.leader_epoch)
        elif replica.leadership is not None:
            record = message.record
            replica.serial = 0
            now = self._world.clock.monotonic()
            replica.leadership.assign(record.replicas, record.isr, self._settings.min_insync_replicas, now=now)
            self._watch_followers(replica)
            if self._log is not None:
                self._count(self._log)
            self._answer_purges(replica)
            _wake(replica)  # whoever is in sync no more must ask anew
        self._take_role()

    def _take_role(self) -> None:
        """Lead or follow, as the record says, once the log is open and nothing of before is being written."""
        replica, log = self._replica, self._log
        if replica is None or replica.leadership is not None or replica.is_following or self._closing is not None:
            return
        if self._offline is not None:
            self._resign(replica)
        if not isinstance(log, ReplicaLog) or self._writing is not None:
            return
        record, me = replica.record, self._world.node_id
        if record.leader == me:
            if log.damaged_from is not None and len(record.isr) > 1:
                self._resign(replica)  # another one has it whole: from there it is mended
            elif replica.must_renew:
                self._renew(replica)
            else:
                self._lead(replica, log)
        elif record.leader != NO_LEADER and me in record.replicas:
            self._follow(replica, log)

    def _lead(self, replica: Replica, log: ReplicaLog) -> None:
        record, world = replica.record, self._world
        log.leader_epoch = record.leader_epoch
        replica.leadership = Leadership(
            world.node_id, record.replicas, record.isr, min_isr=self._settings.min_insync_replicas,
            epoch_start=log.log_end_offset, now=world.clock.monotonic(), lag_max_s=world.replica_lag_max_ms / 1000,
        )  # fmt: skip
        self._logger.info("leading", leader_epoch=record.leader_epoch, log_end_offset=log.log_end_offset)
        self._watch_followers(replica)
        self._count(log)
        self._flush(log)

    def _watch_followers(self, replica: Replica) -> None:
        if self._world.changes is not None and len(replica.record.replicas) > 1:
            self._world.changes.lead(self.mailbox)

    def _follow(self, replica: Replica, log: ReplicaLog) -> None:
        """Ask for what comes behind our log; what is in it must be safe first, as to ask says that it is."""
        if self._safe_end(log) < log.log_end_offset:
            self._flush(log)
            return
        replica.is_following = True
        record = replica.record
        if self._world.follows is not None:
            self._world.follows.follow(
                Following(
                    self.mailbox, record.topic_id, record.partition, record.leader, record.leader_epoch,
                    log.log_end_offset, log.last_epoch, log.log_start_offset,
                )
            )  # fmt: skip

    def _step_down(self, error: DduomqError) -> None:
        """Whoever waits for this leadership is told; of a fetch under way the rest is dropped."""
        replica = self._replica
        assert replica is not None
        replica.serial = 0
        self._leave(replica)
        replica.leadership, replica.is_following = None, False
        waits, self._append_waits = self._append_waits, []
        for append in waits:
            append.refuse(error)
        self._refuse_unacked(replica, error)
        self._refuse_purges(replica, error)
        self._drop_in_hand(replica, error)
        self._wake_watchers()
        _wake(replica)

    def _refuse_purges(self, replica: Replica, error: DduomqError) -> None:
        purges, replica.purges = replica.purges, []
        for _, purge in purges:
            purge.refuse(error)

    def _refuse_unacked(self, replica: Replica, error: DduomqError) -> None:
        for parked in (self._unacked, replica.local):
            while parked:
                parked.popleft()[1].refuse(error)

    def _leave(self, replica: Replica) -> None:
        """Nobody sends for this replica any more, nor asks it about its followers."""
        if self._world.follows is not None:
            self._world.follows.unfollow(self.mailbox)
        if self._world.changes is not None:
            self._world.changes.unlead(self.mailbox)

    def _not_leader(self) -> DduomqError:
        assert self._replica is not None
        leader = self._replica.record.leader
        if leader == NO_LEADER:
            return LeaderNotAvailable(f"{self.mailbox.name} has no leader: no replica in sync is alive")
        if leader == self._world.node_id:
            return LeaderNotAvailable(f"node {leader} is about to lead {self.mailbox.name}; try again")
        return NotLeader(f"node {leader} leads {self.mailbox.name}, not node {self._world.node_id}")

    # --- leading ------------------------------------------------------------------------------------

    def _check_leads(self) -> Leadership:
        assert self._replica is not None
        if self._replica.leadership is None:
            raise self._not_leader()
        return self._replica.leadership

    def _is_to_lead(self) -> bool:
        """Whether it is this node that leads as soon as its log is open."""
        assert self._replica is not None
        return self._log is None and self._offline is None and self._replica.record.leader == self._world.node_id

    def _may_write(self) -> bool:
        return self._replica is None or self._replica.leadership is not None

    def _check_append(self, append: Append) -> None:
        if self._is_to_lead():
            return
        leadership = self._check_leads()
        if append.acks < 0 and leadership.is_short:
            raise NotEnoughReplicas(
                f"{self.mailbox.name}: {len(leadership.isr)} of {len(leadership.replicas)} replicas are in sync, "
                f"min.insync.replicas is {leadership.min_isr}"
            )

    def _park_local(self, log: PartitionLog, append: Append, outcome: Appended) -> None:
        """An append that this node's own disk is enough for."""
        assert self._replica is not None
        if outcome.last_offset < self._safe_end(log):
            self._ack(log, append, outcome)
        else:
            self._replica.local.append((outcome.last_offset, append, outcome))

    def _check_known(self) -> None:
        """Raises while older leaders may have acked what does not count here yet."""
        if self._replica is None:
            return
        self._check_leads()
        if self._log is not None and not self._is_mark_known(self._log):
            raise LeaderNotAvailable(f"{self.mailbox.name} has a new leader, which waits for its followers; try again")

    def _is_mark_known(self, log: PartitionLog) -> bool:
        if self._replica is None:
            return True
        leadership = self._replica.leadership
        return leadership is not None and leadership.is_known(log.high_watermark)

    def _term_of(self, message: Fetch) -> Callable[[], bool]:
        """Tells a follower's fetch whether this leadership still lasts. Behind its end the log may be cut."""
        replica = self._replica
        if replica is None or not isinstance(message, ReplicaFetch):
            return _always
        leadership = replica.leadership
        return lambda: leadership is not None and replica.leadership is leadership

    def _wrote(self) -> None:
        """The log has grown by a leader's appends."""
        replica = self._replica
        assert replica is not None
        if replica.leadership is None:  # it was written while the leadership went
            self._refuse_unacked(replica, self._not_leader())
            self._take_role()
        _wake(replica)

    def _safe(self, log: PartitionLog) -> None:
        """More of the log is as durable here as it must be."""
        replica = self._replica
        assert replica is not None
        if replica.leadership is not None:
            self._count(log)
        elif replica.in_hand is not None:
            self._answer_leader(replica, log)
        else:
            self._take_role()

    def _count(self, log: PartitionLog) -> None:
        """Move the high watermark as far as all in sync are."""
        replica = self._replica
        assert replica is not None
        leadership = replica.leadership
        if leadership is None:
            return
        safe = self._safe_end(log)
        local = replica.local
        while local and local[0][0] < safe:
            _, append, outcome = local.popleft()
            self._ack(log, append, outcome)
        before = log.high_watermark
        self._advance(log, leadership.high_watermark(safe, before))
        if log.high_watermark != before and replica.watchers:
            plan = self._nothing(log)
            for watcher in replica.watchers:
                watcher.note(plan)

    def _replica_fetch(self, log: PartitionLog, message: ReplicaFetch) -> None:
        replica, leadership = self._replica, self._check_leads()
        assert replica is not None
        if message.follower not in leadership.followers:
            raise NotAReplica(f"node {message.follower} keeps no replica of {self.mailbox.name}")
        self._check_epoch(message.leader_epoch)
        if leadership.is_void(message.follower, message.standing) or (message.watcher and message.watcher.gone):
            raise LeaderNotAvailable(f"{self.mailbox.name} must be asked for anew")
        end = log.log_end_offset
        is_above = message.offset >= log.log_start_offset
        if is_above and message.last_fetched_epoch >= 0 and self._diverges(log, message):
            return
        if not is_above or message.offset > end:  # it sees from the marks what to do
            self._park_fetch(log, attrs.evolve(message, watcher=None))
            return
        now = self._world.clock.monotonic()
        leadership.fetched(
            message.follower, message.offset, message.follower_epoch, log_end=end, now=now,
            log_start=message.log_start_offset, standing=message.standing,
        )  # fmt: skip
        self._answer_purges(replica)
        self._count(log)
        has_lost = message.follower in leadership.isr and message.offset < log.high_watermark
        if has_lost or message.follower not in leadership.isr:
            self._change_isr(log)
        plan = log.read_plan(message.offset, message.max_bytes, end)
        if plan is None:
            self._park_fetch(log, message)
        elif isinstance(plan, ReadPlan):
            self._answer_fetch(log, message, plan)
        else:
            self._seek(plan, message, can_wait=message.follower not in leadership.isr)

    def _purged(self, message: Purge, start: int) -> None:
        """The log begins at `start` here. Whoever may lead next must know, else what was purged would come back."""
        replica = self._replica
        if replica is None:
            if message.reply is not None:
                message.reply.set(start)
        elif replica.leadership is None:
            message.refuse(self._not_leader())
        else:
            replica.purges.append((start, message))
            _wake(replica)
            self._answer_purges(replica)

    def _answer_purges(self, replica: Replica) -> None:
        if not replica.purges or replica.leadership is None or self._log is None:
            return
        kept = replica.leadership.start_of_all(self._log.log_start_offset)
        done = [held for held in replica.purges if held[0] <= kept]
        replica.purges = [held for held in replica.purges if held[0] > kept]
        for start, purge in done:
            if purge.reply is not None:
                purge.reply.set(start)

    # --- the in-sync set ----------------------------------------------------------------------------

    def _change_isr(self, log: PartitionLog) -> None:
        """Propose the set as it should be, unless a change is on its way."""
        replica = self._replica
        assert replica is not None
        leadership, record = replica.leadership, replica.record
        if leadership is None or leadership.is_changing or replica.serial:
            return
        mark = log.high_watermark
        late = leadership.lagging(mark, log.log_end_offset, self._world.clock.monotonic())
        joining = leadership.joining(mark, log.log_start_offset)
        isr = tuple(
            node for node in record.replicas if (node in record.isr and node not in late) or node in joining
        )  # fmt: skip
        if set(isr) == set(record.isr):
            return
        leadership.propose(isr)
        self._logger.info("isr_change", isr=list(isr), before=list(record.isr))
        changed = attrs.evolve(record, isr=isr, partition_epoch=record.partition_epoch + 1, is_recovering=False)
        self._propose(replica, changed, {node: leadership.epoch_of(node) for node in joining})

    def _propose(self, replica: Replica, record: PartitionRecord, epochs: dict[int, int]) -> None:
        if self._world.changes is not None:
            replica.serial = next(SERIALS)
            self._world.changes.propose(Change(self.mailbox, replica.serial, record, replica.version, epochs))

    def _record_written(self, message: RecordWritten) -> None:
        replica = self._replica
        if replica is None:
            return
        is_ours = message.serial == replica.serial
        if is_ours:
            replica.serial = 0
            if replica.leadership is not None and (message.record is None or message.version <= replica.version):
                replica.leadership.withdraw()
        if message.record is not None:
            self._assigned(Assign(record=message.record, version=message.version))
        if is_ours and self._log is not None:
            self._count(self._log)
        self._take_role()

    def _check_replicas(self) -> None:
        now = self._world.clock.monotonic()
        for parked in (self._unacked, self._replica.local if self._replica is not None else self._unacked):
            late = [append for _, append, _ in parked if append.deadline < now]
            if late:
                kept = [waiting for waiting in parked if waiting[1].deadline >= now]
                parked.clear()
                parked.extend(kept)
            for append in late:
                append.refuse(RequestTimedOut("it is stored here, but not on all replicas in sync in the time given"))
        if self._log is not None:
            self._change_isr(self._log)

    def _renew(self, replica: Replica) -> None:
        """The same leader in a new epoch; or another one, if this node may have lost what it had acked."""
        record = replica.record
        if replica.serial:
            return
        if replica.may_have_lost and len(record.isr) > 1:
            self._resign(replica)
            return
        again = attrs.evolve(
            record, leader_epoch=record.leader_epoch + 1, partition_epoch=record.partition_epoch + 1
        )  # fmt: skip
        self._propose(replica, again, {})

    def _resign(self, replica: Replica) -> None:
        """Another one that is in sync is to lead, and this node is in sync no more."""
        record, me = replica.record, self._world.node_id
        others = tuple(node for node in record.isr if node != me)
        if record.leader != me or not others or replica.serial:
            return
        self._logger.warning("leader_resigns", successor=others[0])
        without = attrs.evolve(
            record, leader=others[0], isr=others, leader_epoch=record.leader_epoch + 1,
            partition_epoch=record.partition_epoch + 1,
        )  # fmt: skip
        self._propose(replica, without, {})

    # --- open, shut ---------------------------------------------------------------------------------

    def _replica_opened(self, report: RecoveryReport | None) -> None:
        """The log has been opened, for the first time, after a cut, or after a restore; None: it could not be."""
        replica = self._replica
        assert replica is not None
        message, replica.in_hand = replica.in_hand, None
        if message is not None:
            log = self._log
            if isinstance(log, ReplicaLog) and replica.batches:  # it was cut for them
                replica.in_hand = message
                self._write_replicated(replica, log)
            elif isinstance(log, ReplicaLog):
                assert message.reply is not None
                message.reply.set(FollowerAt(log.log_end_offset, log.last_epoch, log.log_start_offset))
            else:
                message.refuse(self._offline or LeaderNotAvailable())
        elif report is not None:
            is_unsynced = not self._spec.clean and self._settings.durability is not Durability.FSYNC
            replica.must_renew = self._spec.is_found or not report.is_new
            replica.may_have_lost = report.is_new or is_unsynced
        if self._offline is not None:
            replica.is_following = False
            self._leave(replica)
        self._take_role()

    def _replica_state(self) -> ReplicasState | None:
        replica = self._replica
        if replica is None:
            return None
        leadership = replica.leadership
        role = "leading" if leadership is not None else "following" if replica.is_following else "waiting"
        followers = {} if leadership is None else leadership.followers
        positions = tuple((node, held.position) for node, held in followers.items())
        return ReplicasState(role, replica.record.leader, replica.record.isr, positions)

    def _is_settled(self) -> bool:
        """Whether all that was ever acked can be read here."""
        replica, log = self._replica, self._log
        if replica is None:
            return True
        leadership = replica.leadership
        if leadership is None or log is None or not leadership.is_known(log.high_watermark):
            return False
        return log.high_watermark >= log.log_end_offset  # an append that was given up in doubt may count yet


def _always() -> bool:
    return True


def _wake(replica: Replica) -> None:
    watchers, replica.watchers = replica.watchers, []
    for watcher in watchers:
        watcher.wake()
