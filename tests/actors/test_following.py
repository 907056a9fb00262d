"""What is held of a part of the metadata, however late a change comes."""

from dduomq.actors.following import Following
from dduomq.cluster.ports import Changed, Versioned


def test_an_old_deletion_does_not_take_out_what_has_come_back():
    """Scans and changes may come by different ways, so an older change after a newer state."""
    seen = []
    following = Following("/nodes/", lambda: seen.append(following.held))
    following._all([Versioned("/nodes/1", b"back", 7)])
    following._one(Changed("/nodes/1", None, 6))
    assert seen == [[Versioned("/nodes/1", b"back", 7)]]
    following._one(Changed("/nodes/1", None, 8))
    assert seen[1:] == [[]]
