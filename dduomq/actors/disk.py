"""The disk actor: the jobs of all partitions, a few threads, one hop for many.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| DiskJob | router, partition | DiskJob.done(result) | nothing | runs in a disk thread with its neighbours |

Always true: a job that was taken runs to its end, whatever happens to who asked; `done` is called once, on
the event loop, with the result or the exception.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import attrs
import trio

from dduomq.actors.actor import Actor, Mailbox, Message
from dduomq.ports import DiskExecutor, Job


@attrs.frozen(kw_only=True)
class DiskJob(Message):
    """`run()` in a worker; then `done(result or exception)` on the event loop."""

    run: Job
    done: Callable[[object], None]

    def refuse(self, error: BaseException) -> None:
        self.done(error)


class DiskActor(Actor):
    """Shares the waiting jobs out over the threads that are free."""

    __slots__ = ("_executor", "_free", "_waiting", "hops", "jobs")
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {DiskJob: "_on_job"}

    def __init__(self, mailbox: Mailbox, executor: DiskExecutor) -> None:
        super().__init__(mailbox)
        self._executor = executor
        self._free = executor.threads
        self._waiting: list[DiskJob] = []
        self.hops = 0
        self.jobs = 0

    def _on_job(self, job: DiskJob) -> None:
        self._waiting.append(job)

    def after_drain(self) -> None:
        while self._free and self._waiting:
            share = -(-len(self._waiting) // self._free)
            jobs, self._waiting = self._waiting[:share], self._waiting[share:]
            self._free -= 1
            self.hops += 1
            self.jobs += len(jobs)
            self._executor.submit([job.run for job in jobs], partial(self._done, jobs))

    def _done(self, jobs: list[DiskJob], results: list[object]) -> None:
        self._free += 1
        for job, result in zip(jobs, results, strict=True):
            job.done(result)
        self.after_drain()


class DiskClient:
    """One actor's way to the disk: submits its jobs, and knows when none is in flight any more."""

    __slots__ = ("_disk", "_idle", "in_flight")

    def __init__(self, disk: Mailbox) -> None:
        self._disk = disk
        self.in_flight = 0
        self._idle: list[Callable[[], None]] = []

    def submit(self, run: Job, done: Callable[[object], None]) -> None:
        """Run a job; `done` gets its result or its exception. Bounded by the asker's own state."""
        self.in_flight += 1

        def finished(result: object) -> None:
            self.in_flight -= 1
            done(result)
            if not self.in_flight:
                waiting, self._idle = self._idle, []
                for wake in waiting:
                    wake()

        self._disk.post(DiskJob(run=run, done=finished))

    async def idle(self) -> None:
        """Wait until no job is in flight."""
        while self.in_flight:  # who else waited for that may have begun the next one
            event = trio.Event()
            self.when_idle(event.set)
            await event.wait()

    def when_idle(self, wake: Callable[[], None]) -> None:
        """Call `wake` as soon as no job is in flight."""
        if self.in_flight:
            self._idle.append(wake)
        else:
            wake()
