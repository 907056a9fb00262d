"""What the groups' log holds: what went in comes out; what is damaged is refused, not guessed."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.errors import CorruptMessage, UnsupportedVersion
from dduomq.groups import records
from dduomq.groups.subscription import topics_of

TEXT, NUMBER, BYTES = st.text(max_size=9), st.integers(0, 2**31), st.binary(max_size=9)
PROTOCOLS = st.lists(st.tuples(TEXT, BYTES)).map(tuple)
MEMBERS = st.builds(records.MemberRecord, TEXT, st.none() | TEXT, TEXT, TEXT, NUMBER, NUMBER, PROTOCOLS, BYTES)


@given(group=st.text(max_size=30), topic=st.text(max_size=32), partition=st.integers(0, 2**31 - 1))
def test_keys_come_back(group, topic, partition):
    """Both kinds."""
    for key in (records.OffsetKey(group, (topic, partition)), records.GroupKey(group)):
        assert records.decode_key(records.encode_key(key)) == key


@given(offset=st.integers(0, 2**63 - 1), epoch=st.integers(-1, 2**31 - 1), text=st.text(max_size=50))
def test_offsets_come_back(offset, epoch, text):
    """With a field that a later release may add, too."""
    committed = records.Committed(offset, epoch, text, 17)
    data = records.encode_offset(committed)
    assert records.decode_offset(data) == committed
    assert records.decode_offset(cbor2.dumps([*cbor2.loads(data), "new"])) == committed


@given(members=st.lists(MEMBERS, max_size=4).map(tuple), generation=st.integers(0, 2**31 - 1))
def test_groups_come_back(members, generation):
    """With all their members."""
    record = records.GroupRecord("consumer", generation, None, "leader", members, 5)
    assert records.decode_group(records.encode_group(record)) == record


def test_other_releases_and_damage():
    """A kind from the future is passed over, a version from the future refused, junk is junk."""
    assert records.decode_key(cbor2.dumps(["lease", "g", 1])) is None
    with pytest.raises(UnsupportedVersion):
        records.decode_offset(cbor2.dumps([2, 0, 0, "", 0]))
    for junk in (b"", b"\xff", cbor2.dumps("text"), cbor2.dumps([1])):
        with pytest.raises(CorruptMessage):
            records.decode_key(junk)


def test_topics_of_a_subscription():
    """Version, topics, then what nobody here looks at."""
    assert topics_of(b"\x00\x01\x00\x00\x00\x02\x00\x01a\x00\x02bc\xff\xff\xff\xff") == ("a", "bc")
    assert topics_of(b"") == topics_of(b"\x00\x01\x7f\xff\xff\xff") == ()
