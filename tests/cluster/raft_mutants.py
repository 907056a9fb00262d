"""Known bugs of Raft and of its log, as changes to the product: the simulation must find each of them.

`SEEDS_NEEDED` says how many seeds, from seed 0 on, it took to find each when it was planted.
"""

import attrs

from dduomq.cluster import raft_conf, wal
from dduomq.cluster.raft import Raft
from dduomq.cluster.raft_election import Elector
from dduomq.cluster.raft_leader import Leadership
from dduomq.cluster.raft_log import RaftLog
from dduomq.cluster.wal import Wal
from dduomq.testing.raft_host import APPLY, SAVE, SEND, Host
from dduomq.wire.raft_messages import Configuration, LogEntry

_init, _on_append, _reached, _has_quorum = Elector.__init__, Raft._on_append, raft_conf.reached, raft_conf.has_quorum


# --- elections --------------------------------------------------------------------------------------


def _forget_the_vote(self, *arguments):
    _init(self, *arguments)
    self.vote = None


def _vote_for_anybody(self, message):
    self.vote = None
    _on_vote_asked(self, message)


def _count_the_own_vote_at_once(self, role, **how):
    _stand(self, role, **how)
    self._own_vote_is_stored()


_on_vote_asked, _stand = Elector._on_vote_asked, Elector._stand


# --- logs -------------------------------------------------------------------------------------------


def _accept_without_the_term(self, message):
    if message.previous_index <= self.log.last:
        message = attrs.evolve(message, previous_term=self.log.term_at(message.previous_index))
    _on_append(self, message)


def _keep_what_conflicts(self, entries):
    self._extend([entry for entry in entries if entry.index > self.last])


def _commit_what_was_not_compared(self, message):
    _on_append(self, message)
    self.log.commit_to(message.commit)


def _stable_whatever_it_is_now(self, entry):
    self.stable = max(self.stable, min(entry.index, self.last))


# --- leaders ----------------------------------------------------------------------------------------


def _count_an_older_term(self):
    marks = {peer: progress.match for peer, progress in self.progress.items()}
    return raft_conf.reached(self._log.configuration, {**marks, self._me: self.own_match()})


def _with_learners(configuration):
    return Configuration(configuration.members)


def _change_while_a_change_is_under_way(self, change):
    leadership = self._leading()
    configuration = raft_conf.changed(self.log.configuration, change)
    return self._take(leadership, LogEntry(self.log.last + 1, self.term, configuration=configuration))


def _confirm_reads_at_once(self):
    return self.reads.confirmed(self.reads.number)


# --- disks ------------------------------------------------------------------------------------------


def _send_first(self, ready, send):
    if self._next == SAVE:
        self._send(ready, send)
        self._next = SEND
    elif self._next == SEND:
        self._save(ready)
        self._next = APPLY
    else:
        _do(self, ready, send)


_do = Host._do


class _NoSync:
    """Files that say they have synced."""

    def __init__(self, files):
        self._files = files

    def __getattr__(self, name):
        return (lambda _path: None) if name == "sync" else getattr(self._files, name)


def _append_without_sync(self, save):
    files, self._files = self._files, _NoSync(self._files)
    _append(self, save)
    self._files = files


def _begin_anew_without_saying_so(self, hard_state, entries):
    if entries:
        self.save(hard_state, entries)


def _settle_without_sync(files, directory, segments):
    _settle(_NoSync(files), directory, segments)


_append, _settle = Wal._append, wal._settle

RAFT_MUTANTS = {
    "an entry of an older term is committed by counting": [(Leadership, "committable", _count_an_older_term)],
    "own entries count before they are synced": [(Leadership, "own_match", lambda self: self._log.last)],
    "the vote is forgotten by a restart": [(Elector, "__init__", _forget_the_vote)],
    "the own vote counts before it is on the disk": [(Elector, "_stand", _count_the_own_vote_at_once)],
    "messages leave before the sync": [(Host, "_do", _send_first)],
    "a vote is given to a shorter log": [(RaftLog, "is_up_to_date", lambda *_: True)],
    "a second vote is given in a term": [(Elector, "_on_vote_asked", _vote_for_anybody)],
    "an append is accepted without a look at the term": [(Raft, "_on_append", _accept_without_the_term)],
    "conflicting entries are not taken out": [(RaftLog, "append", _keep_what_conflicts)],
    "what was not compared is committed": [(Raft, "_on_append", _commit_what_was_not_compared)],
    "a write counts for entries that were cut meanwhile": [(RaftLog, "stored", _stable_whatever_it_is_now)],
    "a learner counts for a commit": [(raft_conf, "reached", lambda c, marks: _reached(_with_learners(c), marks))],
    "a learner counts for an election": [
        (raft_conf, "has_quorum", lambda c, peers: _has_quorum(_with_learners(c), peers))
    ],
    "the lease is ignored": [(Elector, "_hears_leader", lambda _self: False)],
    "members change two at a time": [(Raft, "change", _change_while_a_change_is_under_way)],
    "reads are answered without asking the others": [(Leadership, "confirmed_reads", _confirm_reads_at_once)],
    "a new leader reads at once": [(Leadership, "has_committed", property(lambda _self: True))],
    "nobody names unknown outcomes": [(Elector, "_name_the_unknown", lambda *_: None)],
    "anybody stands": [(Elector, "_may_stand", lambda _self: True)],
    "a save is not synced": [(Wal, "_append", _append_without_sync)],
    "what a killed process has left is not synced": [(wal, "_settle", _settle_without_sync)],
    "a log goes on behind a received snapshot": [(Wal, "begin_anew", _begin_anew_without_saying_so)],
}
SEEDS_NEEDED = {
    "an entry of an older term is committed by counting": 41,
    "own entries count before they are synced": 2,
    "the vote is forgotten by a restart": 41,
    "the own vote counts before it is on the disk": 18,
    "messages leave before the sync": 1,
    "a vote is given to a shorter log": 1,
    "a second vote is given in a term": 19,
    "an append is accepted without a look at the term": 1,
    "conflicting entries are not taken out": 1,
    "what was not compared is committed": 1,
    "a write counts for entries that were cut meanwhile": 12,
    "a learner counts for a commit": 11,
    "a learner counts for an election": 2,
    "the lease is ignored": 3,
    "members change two at a time": 21,
    "reads are answered without asking the others": 1,
    "a new leader reads at once": 1,
    "nobody names unknown outcomes": 3,
    "anybody stands": 28,
    "a save is not synced": 1,
    "what a killed process has left is not synced": 23,
    "a log goes on behind a received snapshot": 1,
}
