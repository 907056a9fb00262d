"""Known bugs of queues, as changes to the product: the simulation must find each of them."""

import attrs

from dduomq.actors.coordinator_queue import Queues
from dduomq.groups.queue import ACCEPT, ACQUIRED, AVAILABLE, NEVER, RELEASE, Change, Queue

_store, _apply, _settle = Queues._store, Queue.apply, Queue.settle
_acquire, _expire = Queue.acquire, Queue.expire


def _store_nothing(_self, _group, _entries, then, _replies):
    then()


def _answer_first(self, group, entries, then, replies):
    then()
    _store(self, group, entries, lambda: None, [])
    del replies


def _lock_for_a_third(self, records, now, wall_ms):
    _apply(self, [attrs.evolve(r, ms=r.ms // 3) if r.state == ACQUIRED else r for r in records], now, wall_ms)


def _expire_without_asking(self, now, wall_ms, *, limit, can_ask):
    del can_ask
    return _expire(self, now, wall_ms, limit=limit, can_ask=lambda _member: False)


def _expire_never(self, _now, _wall_ms, *, limit, can_ask):
    del limit, can_ask
    self._locks_due = NEVER
    return Change(), {}


def _accept_some(self, member, endings, **more):
    """Every seventh record comes again."""
    wrong = [
        attrs.evolve(ending, kind=RELEASE) if ending.kind == ACCEPT and ending.first % 7 == 0 else ending
        for ending in endings
    ]
    return _settle(self, member, wrong, **more)


def _pass_one(self, member, wanted, most, **more):
    """Of what is fresh the first is left out."""
    skipped = range(wanted.start + 1, wanted.stop) if wanted.start == self.end and len(wanted) > 1 else wanted
    return _acquire(self, member, skipped, most, **more)


def _give_to_everybody(self, member, wanted, most, **more):
    """Who has it does not matter."""
    for span in self._spans:
        if span.first in wanted and span.holder and span.first % 5 == 0:
            self.apply([attrs.evolve(span.record(), state=AVAILABLE, holder="", ms=0)], more["now"], more["wall_ms"])
    return _acquire(self, member, wanted, most, **more)


QUEUE_MUTANTS = {
    "who has a record is not stored": [(Queues, "_store", _store_nothing)],
    "an ack is answered before it is stored": [(Queues, "_store", _answer_first)],
    "locks are shorter than was said, and nobody is asked": [
        (Queue, "apply", _lock_for_a_third),
        (Queue, "expire", _expire_without_asking),
    ],
    "locks do not end": [(Queue, "expire", _expire_never)],
    "some acks are releases": [(Queue, "settle", _accept_some)],
    "a fresh record is passed": [(Queue, "acquire", _pass_one)],
    "a record is given to two": [(Queue, "acquire", _give_to_everybody)],
}
