"""What a member of the quorum keeps on the disk beside its log: who it is.

    DATA/quorum/member      the id of this directory, and "new" or "member"

Plain functions, to be run as disk jobs. Always true: a directory's id is made with it and lost with it, so what a
member has promised is never taken for the promise of a directory that does not know of it; "member" stands there before
anything is said to the quorum, and a log that is gone after that is refused.
"""

from dduomq.actors.quorum_messages import OpenedMember
from dduomq.cluster.raft_ready import HardState
from dduomq.cluster.wal import Wal, open_wal
from dduomq.errors import CorruptMessage
from dduomq.log.files import Files
from dduomq.wire.raft_messages import Snapshot

_NEW, _MEMBER = "new", "member"


def open_member(files: Files, directory: str, new_id: str) -> OpenedMember:
    """Read it all. Raises `CorruptMessage` and others with what to do."""
    files.make_dir(directory)
    path = f"{directory}/member"
    if files.exists(path):
        member_id, state = _read(files, path)
    elif any(name.startswith(("wal-", "snapshot-")) for name in files.list(directory)):
        raise CorruptMessage(f"{path} is missing, but there is a log beside it; {_remedy(directory)}")
    else:
        member_id, state = new_id, _NEW
        _write(files, directory, member_id, state)
    wal, recovered = open_wal(files, directory)
    if state == _MEMBER and recovered.is_new:
        raise CorruptMessage(f"{directory} is that of a member, but its log is gone; {_remedy(directory)}")
    return OpenedMember(wal, recovered, member_id)


def begin_member(files: Files, directory: str, member: OpenedMember, snapshot: Snapshot | None) -> HardState:
    """From here on it takes part. What it begins with is kept first."""
    hard_state = member.recovered.stored.hard_state
    if snapshot is not None:
        hard_state = HardState(snapshot.term)
        member.wal.save(hard_state, (), snapshot)
    elif member.recovered.is_new:
        member.wal.save(hard_state, ())
    mark_member(files, directory, member)
    return hard_state


def mark_member(files: Files, directory: str, member: OpenedMember) -> Wal:
    """Written at each start, as a crash may have come before it the first time."""
    if _read(files, f"{directory}/member")[1] != _MEMBER:
        _write(files, directory, member.member_id, _MEMBER)
    return member.wal


def _read(files: Files, path: str) -> tuple[str, str]:
    words = files.read(path).decode("utf-8", "replace").split()
    if len(words) != 2 or words[1] not in {_NEW, _MEMBER}:
        raise CorruptMessage(f"{path} is damaged; {_remedy(path.rpartition('/')[0])}")
    return words[0], words[1]


def _write(files: Files, directory: str, member_id: str, state: str) -> None:
    files.replace(f"{directory}/member", f"{member_id} {state}\n".encode())


def _remedy(directory: str) -> str:
    return (
        f"run `dduomq cluster remove` for this node on another one, delete {directory}, and start this one again: it "
        "joins as a new member, and the others have all that it had"
    )
