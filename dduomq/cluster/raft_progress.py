"""What a leader knows of one follower's log, and what it may send it now.

Pure. Three ways to send, as etcd's: PROBE while it is not known where the logs agree, one message at a time; PIPELINE,
where they do: many messages under way, bounded by their number and each by its bytes; SNAPSHOT while one is on its
way, and nothing else. Always true: match < next; no more than `in_flight_max` messages with entries are taken to be
under way.
"""

from collections import deque

from dduomq.wire.raft_messages import LogEntry

PROBE, PIPELINE, SNAPSHOT = "probe", "pipeline", "snapshot"


class Progress:
    """One follower or learner."""

    __slots__ = (
        "_in_flight", "_in_flight_max", "commit_sent", "is_active", "is_owed", "is_waiting", "match", "next", "round",
        "snapshot_index", "snapshot_ticks", "state",
    )  # fmt: skip

    def __init__(self, next_index: int, in_flight_max: int) -> None:
        self.state = PROBE
        self.match = 0
        self.next = next_index
        self.round = 0  # the last round of heartbeats that it answered
        self.commit_sent = 0
        self.is_active = True  # heard from since the last look; new ones have the benefit of the doubt
        self.is_owed = True  # a message is due even without entries
        self.is_waiting = False  # a probe is under way
        self.snapshot_index = 0
        self.snapshot_ticks = 0
        self._in_flight: deque[int] = deque()  # the last index of each message
        self._in_flight_max = in_flight_max

    @property
    def may_send(self) -> bool:
        if self.state == PROBE:
            return not self.is_waiting
        return self.state == PIPELINE and len(self._in_flight) < self._in_flight_max

    def sent(self, entries: tuple[LogEntry, ...], commit: int) -> None:
        """An `Append` with these is on its way."""
        self.is_owed = False
        self.is_waiting = self.state == PROBE
        self.commit_sent = max(self.commit_sent, min(commit, self.next - 1 + len(entries)))
        if entries and self.state == PIPELINE:
            self.next = entries[-1].index + 1
            self._in_flight.append(entries[-1].index)

    def sent_snapshot(self, index: int) -> None:
        self.state = SNAPSHOT
        self.snapshot_index = index
        self.snapshot_ticks = 0
        self.is_owed = False
        self._in_flight.clear()

    def appended(self, match: int) -> bool:
        """It has stored up to there; True if that is news."""
        self.is_waiting = False
        is_news = match > self.match
        self.match = max(self.match, match)
        self.next = max(self.next, match + 1)
        while self._in_flight and self._in_flight[0] <= match:
            self._in_flight.popleft()
        if self.state == PROBE or (self.state == SNAPSHOT and self.match >= self.snapshot_index):
            self._pipeline()
        return is_news

    def _pipeline(self) -> None:
        self.state = PIPELINE
        self.next = self.match + 1
        self.is_owed = True  # perhaps only to say what is committed
        self._in_flight.clear()

    def refused(self, previous_index: int, agreed: int) -> None:
        """It lacks `previous_index`; the logs may be the same up to `agreed`. Old news is ignored."""
        if self.state == SNAPSHOT or previous_index <= self.match:
            return
        if self.state == PROBE and previous_index != self.next - 1:
            return
        self.probe()
        self.next = max(self.match + 1, min(agreed + 1, previous_index))

    def probe(self) -> None:
        """Messages were lost, or may have been: find out where the logs agree."""
        self.state = PROBE
        self.next = self.match + 1
        self.is_waiting = False
        self.is_owed = True
        self._in_flight.clear()

    def answered_heartbeat(self, last: int) -> None:
        """It lives. If it lacks something, ask again: what was sent may be lost, and only a gap brings that out."""
        self.is_waiting = False
        if self.match < last:
            self.is_owed = True
            if len(self._in_flight) >= self._in_flight_max:
                self._in_flight.popleft()

    def tick(self, snapshot_ticks_max: int) -> None:
        """A snapshot that is not answered for so long is given up."""
        if self.state == SNAPSHOT:
            self.snapshot_ticks += 1
            if self.snapshot_ticks >= snapshot_ticks_max:
                self.probe()
