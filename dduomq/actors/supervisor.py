"""Who watches the actors: crash, back-off, restart, and the end of patience.

Always true: a crashed actor's parked requests are answered, and what it had in flight has ended, before its
successor starts; the mailbox stays the same, so nobody needs a new address. An actor that can't be restarted ends the
node. After `RESTARTS_MAX` crashes
within `RESTART_WINDOW_MS` the supervisor gives up and the node stops with the reason.

`RANKS` is the one table against waiting in a circle: a blocking `put` goes only from a lower number to a
higher one.
"""

from collections.abc import Callable

import attrs
import structlog
import trio

from dduomq.actors.actor import Actor, Mailbox
from dduomq.errors import DduomqError
from dduomq.limits import (
    RESTART_BACKOFF_MS,
    RESTART_BACKOFF_MS_MAX,
    RESTART_WINDOW_MS,
    RESTARTS_MAX,
)

RANKS = {
    "listener": 0, "admin": 1, "janitor": 2, "router": 3, "controller": 4, "coordinator": 4, "wheel": 4, "quorum": 5,
    "partition": 5, "disk": 6,
}  # fmt: skip


class TooManyCrashes(DduomqError):
    """An actor crashed again and again; the node stops rather than go on guessing."""

    code = 1105


class CannotRestart(DduomqError):
    """An actor crashed whose state nobody else has; the node stops, and reads it anew when it starts."""

    code = 1107


@attrs.frozen
class ActorStatus:
    """What console and metrics may know of one actor."""

    name: str
    restarts: int
    last_error: str | None
    mailbox: object


class Supervisor:
    """Starts actors in one nursery and restarts those that crash."""

    def __init__(self, nursery: trio.Nursery, log: structlog.stdlib.BoundLogger) -> None:
        self._nursery = nursery
        self._log = log
        self._watched: dict[str, _Watch] = {}

    def start(self, mailbox: Mailbox, make: Callable[[Mailbox], Actor]) -> None:
        """Run the actor that `make(mailbox)` gives until it stops of its own will."""
        watch = _Watch(mailbox)
        self._watched[mailbox.name] = watch
        self._nursery.start_soon(self._run, watch, make, name=mailbox.name)

    async def _run(self, watch: "_Watch", make: Callable[[Mailbox], Actor]) -> None:
        mailbox = watch.mailbox
        try:
            while True:
                actor = make(mailbox)
                try:
                    await actor.run()
                    return
                except Exception as error:
                    actor.on_crash(error)
                    with trio.CancelScope(shield=True):
                        await actor.quiesce()
                    if not actor.CAN_RESTART:
                        self._log.error("actor_crashed", actor=mailbox.name, exc_info=error)
                        raise CannotRestart(f"{mailbox.name} crashed: {type(error).__name__}: {error}") from error
                    pause_ms = watch.crashed(error, trio.current_time())
                    self._log.error("actor_crashed", actor=mailbox.name, pause_ms=pause_ms, exc_info=error)
                    await trio.sleep(pause_ms / 1000)
                except trio.Cancelled:
                    actor.on_crash(trio.BrokenResourceError("cancelled"))
                    with trio.CancelScope(shield=True):
                        await actor.quiesce()
                    raise
        finally:
            mailbox.close()
            if self._watched.get(mailbox.name) is watch:  # not its successor of the same name
                del self._watched[mailbox.name]

    def statuses(self) -> list[ActorStatus]:
        return [watch.status() for watch in self._watched.values()]


class _Watch:
    """The crash history of one actor."""

    __slots__ = ("_crashes", "_last_error", "_restarts", "mailbox")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self._crashes: tuple[float, ...] = ()
        self._restarts = 0
        self._last_error: str | None = None

    def crashed(self, error: Exception, now: float) -> int:
        """Note a crash; the pause before the restart in ms. Raises `TooManyCrashes`."""
        self._restarts += 1
        self._last_error = f"{type(error).__name__}: {error}"
        recent = tuple(at for at in self._crashes if now - at < RESTART_WINDOW_MS / 1000)
        self._crashes = (*recent, now)
        if len(self._crashes) > RESTARTS_MAX:
            raise TooManyCrashes(
                f"{self.mailbox.name} crashed {len(self._crashes)} times in a minute, last with {self._last_error}"
            ) from error
        return min(RESTART_BACKOFF_MS << len(recent), RESTART_BACKOFF_MS_MAX)

    def status(self) -> ActorStatus:
        return ActorStatus(self.mailbox.name, self._restarts, self._last_error, self.mailbox.statistics())
