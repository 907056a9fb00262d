"""The replicated state: what a command comes to, once; what a snapshot keeps; what messages of members may be."""

from random import Random

import cbor2
import pytest

from dduomq.actors.quorum_wire import RaftInbox, _frames
from dduomq.cluster import commands
from dduomq.cluster.commands import BeginSession, ClientReplaced, EndSession, ExpireSession, NewClient, Origin, Transact
from dduomq.cluster.ports import Check, Del, MetadataConflict, Put, SessionLost
from dduomq.cluster.quorum_state import QuorumState, encode_frozen
from dduomq.errors import UnsupportedVersion, WireError
from dduomq.wire import raft
from dduomq.wire.peer_hello import Founder
from dduomq.wire.peer_metadata import RaftMessages
from dduomq.wire.raft_messages import Heartbeat, Peer


class Log:
    """Applies commands one after the other, as a member does."""

    def __init__(self, state=None):
        self.state = state or QuorumState("c", (Founder(1, "a"),))
        self.index = 1

    def __call__(self, command):
        self.index += 1
        return self.state.apply(self.index, commands.encode(command))

    def client(self, node=1):
        return self(NewClient(node))[0].value


def test_a_command_that_is_sent_twice_is_carried_out_once():
    """The second one comes to the same, even a conflict that is none any more; numbers given up are refused."""
    log = Log()
    client = log.client()
    first = Transact(Origin(client, 1, 1), 0, (Put("/a", b"1"),))
    conflict = Transact(Origin(client, 2, 1), 0, (Check("/b", 7), Put("/b", b"1")))
    assert log(first)[0].value == 1
    assert log(conflict)[0].code == MetadataConflict.code
    log(Transact(Origin(client, 3, 1), 0, (Put("/b", b"2"),)))
    again, changes = log(first)
    assert (again.value, changes) == (1, [])
    assert log(conflict)[0].code == MetadataConflict.code
    assert log.state.metadata.revision == 2
    log(Transact(Origin(client, 4, 3), 0, (Put("/b", b"3"),)))
    late, changes = log(first)
    assert (late.code, changes) == (ClientReplaced.code, [])


def test_a_node_that_begins_anew_is_another_client():
    """What its life before has sent does nothing any more; that of other nodes does."""
    log = Log()
    old, other = log.client(1), log.client(2)
    new = log.client(1)
    assert log(Transact(Origin(old, 1, 1), 0, (Put("/a", b""),)))[0].code == ClientReplaced.code
    assert log(Transact(Origin(new, 1, 1), 0, (Put("/a", b""),)))[0].code == 0
    assert log(Transact(Origin(other, 1, 1), 0, (Put("/b", b""),)))[0].code == 0
    assert log.state.metadata.get("/a").version == 1


def test_sessions_own_their_keys():
    """They go together, in one step; a key that is written anew without a session stays; another's session is none."""
    log = Log()
    client = log.client()
    session = log(BeginSession(Origin(client, 1, 1), 1, 1_000))[0].value
    assert session == log.index
    put = (Put("/e1", b"", is_ephemeral=True), Put("/e2", b"", is_ephemeral=True), Put("/e3", b"", is_ephemeral=True))
    assert log(Transact(Origin(client, 2, 1), session + 1, put))[0].code == SessionLost.code
    assert log.state.metadata.revision == 0
    log(Transact(Origin(client, 3, 1), session, put))
    log(Transact(Origin(client, 4, 1), 0, (Put("/e2", b"stays"), Del("/e3"))))
    _, changes = log(ExpireSession(session))
    assert [(one.key, one.value) for one in changes] == [("/e1", None)]
    assert log(ExpireSession(session))[1] == []
    assert [one.key for one in log.state.metadata.scan("/")] == ["/e2"]
    second = log(BeginSession(Origin(client, 5, 1), 1, 1_000))[0].value
    log(Transact(Origin(client, 6, 1), second, put[:1]))
    third, changes = log(BeginSession(Origin(client, 7, 1), 1, 1_000))
    assert [one.key for one in changes] == ["/e1"]
    assert list(log.state.sessions) == [third.value]
    log(EndSession(Origin(client, 8, 1), third.value))
    assert not log.state.sessions


@pytest.mark.parametrize("seed", range(5))
def test_a_snapshot_is_the_state(seed):
    """At any moment: from there on both go on alike, outcomes, versions and all."""
    rng, log = Random(seed), Log()
    clients = [log.client(node) for node in (1, 2, 3)]
    sessions = [log(BeginSession(Origin(clients[0], 1, 1), 1, 1_000))[0].value]
    copy = None
    for number in range(2, 200):
        client = rng.choice(clients)
        key = f"/{rng.randrange(10)}"
        held = log.state.metadata.get(key)
        version = 0 if held is None else held.version
        writes = rng.choice([(Put(key, rng.randbytes(3)),), (Del(key),), (Put(key, b"e", is_ephemeral=True),)])
        origin = Origin(client, number, max(number - 20, 1))
        command = Transact(origin, sessions[0], (Check(key, version + rng.randrange(2)), *writes))
        if number == 150:
            command = ExpireSession(sessions[0])
        if number == 100:
            copy = Log(QuorumState.thaw(encode_frozen(log.state.freeze())))
            copy.index = log.index
        results = [each(command) for each in (log, copy) if each is not None]
        assert results[0] == results[-1]
    assert encode_frozen(log.state.freeze()) == encode_frozen(copy.state.freeze())
    assert (copy.state.cluster_id, copy.state.founders) == ("c", (Founder(1, "a"),))


def test_what_a_newer_release_wrote_is_refused():
    """By a command and by a snapshot: the member goes no further, and says which release to start."""
    state = QuorumState()
    for plain in ([9, 1, 0], [1, 2, 5]):
        with pytest.raises(UnsupportedVersion, match="newer"):
            state.apply(1, cbor2.dumps(plain))
    with pytest.raises(UnsupportedVersion, match="newer"):
        QuorumState.thaw(cbor2.dumps([2, "", []]))


ONE, TWO = Peer(1, "a"), Peer(2, "b")


def beat(number, source=ONE):
    return Heartbeat(source=source, target=TWO, term=number, commit=0, round=0)


def test_messages_travel_together_and_large_ones_in_pieces(monkeypatch):
    """They come out as they went in; when a piece is lost, the rest of that message is passed over."""
    monkeypatch.setattr("dduomq.actors.quorum_wire.LINK_PIECE_BYTES", 50)
    taken = []
    inbox = RaftInbox(lambda: "c", taken.extend)
    encoded = [raft.encode(beat(number)) for number in range(1, 8)]
    large = [raft.encode(beat(9, Peer(1, "a" * 200)))]
    frames = [*_frames("c", iter(encoded)), *_frames("c", iter(large))]
    assert len(frames) > 9
    for body, payload in frames:
        inbox.take(1, body, memoryview(b"".join(payload)))
    assert [one.term for one in taken] == [*range(1, 8), 9]
    taken.clear()
    for body, payload in [*_frames("c", iter(large))][1:]:
        inbox.take(1, body, memoryview(b"".join(payload)))
    assert taken == []


def test_messages_of_others_are_not_taken():
    """Of another cluster: passed over. In another's name, or nonsense: the connection ends."""
    taken = []
    inbox = RaftInbox(lambda: "c", taken.extend)
    data = raft.encode(beat(1))
    inbox.take(1, RaftMessages("other", (len(data),)), memoryview(data))
    RaftInbox(lambda: "", taken.extend).take(1, RaftMessages("", (len(data),)), memoryview(data))
    assert taken == []
    bad = [
        (2, RaftMessages("c", (len(data),)), data),
        (1, RaftMessages("c", (len(data) + 1,)), data),
        (1, RaftMessages("c", (len(data) + 1, -1)), data),
        (1, RaftMessages("c", (5,)), b"\xff\x01\xff\xff\xff"),
        (1, RaftMessages("c", (), 10, 5), b""),
        (1, RaftMessages("c", (), 0, 2**40), b"x"),
    ]
    for node, body, payload in bad:
        with pytest.raises(WireError):
            inbox.take(node, body, memoryview(payload))
    rng = Random(1)
    for _ in range(500):
        spoilt = bytearray(data)
        spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            inbox.take(1, RaftMessages("c", (len(data),)), memoryview(spoilt))
        except (WireError, UnsupportedVersion):
            continue
    assert all(one.source == ONE or one.source.node == 1 for one in taken)
