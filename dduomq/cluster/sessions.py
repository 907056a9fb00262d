"""When a member that leads may say that a node's session is over.

Pure; time is in ticks of the quorum's own clock, so a process that was held up lets nobody expire for it. Nodes beat to
every voter, so whoever leads next knows when it heard whom. Always true: a session is not expired before its time-out
has passed since a beat was answered by a leader that was sure to lead. Such a beat may have missed the new leader; but
a majority stood by the old one after it was sent, and gives nobody else a vote for the shortest election time-out. So a
new leader waits for the rest of the session's time-out, counted from its election; for whom it never heard, for all.
"""

from collections.abc import Iterable

from dduomq.cluster.quorum_state import SessionRecord

AGAIN_TICKS = 20  # a command to expire that may have been lost is repeated


class SessionClock:
    """What one member has heard, and since when it leads."""

    def __init__(self, tick_ms: int, election_ticks: int) -> None:
        self.now = 0
        self._tick_ms = tick_ms
        self._election_ticks = election_ticks
        self._seen: dict[int, int] = {}  # since when it is in the state
        self._heard: dict[int, int] = {}
        self._led_since: int | None = None
        self._told: dict[int, int] = {}

    def heard(self, session: int) -> None:
        self._heard[session] = self.now

    def leads(self, *, is_leader: bool) -> None:
        """To be told whenever it may have changed."""
        if not is_leader:
            self._led_since = None
        elif self._led_since is None:
            self._led_since = self.now
            self._told.clear()

    def tick(self, sessions: Iterable[SessionRecord], applied: int) -> list[int]:
        """Time passes. Sessions to be expired now; none unless this member leads."""
        self.now += 1
        known = {one.session: one for one in sessions}
        self._seen = {s: self._seen.get(s, self.now) for s in known}
        self._heard = {s: at for s, at in self._heard.items() if s in known or s > applied}
        if self._led_since is None:
            return []
        due = []
        for session, record in known.items():
            if self.now >= self._due(record, self._led_since) and self.now >= self._told.get(session, 0):
                self._told[session] = self.now + AGAIN_TICKS
                due.append(session)
        self._told = {s: at for s, at in self._told.items() if s in known}
        return due

    def _due(self, record: SessionRecord, led_since: int) -> int:
        ticks = -(-record.timeout_ms // self._tick_ms) + 1  # a beat may have come at the end of a tick
        heard = self._heard.get(record.session)
        if heard is None:
            return max(led_since, self._seen[record.session]) + ticks
        return max(heard + ticks, led_since + ticks - self._election_ticks)
