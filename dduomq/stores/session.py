"""How long a session with an engine may still be counted on, by this node's own clock.

Always true: it is counted from when a beat was sent that was answered, so this node gives up before the engine does.
What was lost once never comes back: a new session is another one.
"""

import trio

BEATS_PER_SESSION = 3
RETRY_S = 0.1  # after a beat that was not answered


class LocalSession:
    """A `Session` that is kept up by whoever calls `extend`. `sent`: when it was asked for."""

    __slots__ = ("_deadline", "_lost", "timeout_s")

    def __init__(self, sent: float, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._deadline = sent + timeout_s
        self._lost = trio.Event()

    @property
    def is_valid(self) -> bool:
        return not self._lost.is_set() and trio.current_time() < self._deadline

    def extend(self, deadline: float) -> bool:
        """A beat was answered; False if that came too late."""
        if not self.is_valid:
            self.lose()
            return False
        self._deadline = max(self._deadline, deadline)
        return True

    def lose(self) -> None:
        """The engine has ended it, or this node does."""
        self._lost.set()

    async def wait_lost(self) -> None:
        """Returns at once when it is lost already."""
        while self.is_valid:
            with trio.move_on_after(self._deadline - trio.current_time()):
                await self._lost.wait()
        self._lost.set()
