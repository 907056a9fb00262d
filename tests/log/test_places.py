"""Hints to where reads go on: right ones save the index, none is believed unseen."""

from dduomq.log.memory import MemoryFiles
from dduomq.log.places import PLACES_MAX, Places
from dduomq.log.plans import ReadPlan, Seek
from dduomq.wire.records import encode


def seek(offset, end):
    return Seek("log", "index", 0, (), 0, 0, 0, end, offset, 1_000, 300)


def files_of(batches):
    files, position, starts = MemoryFiles(), 0, []
    for at in range(batches):
        data = encode([(1, b"k", b"x" * 200, [])])
        data[:8] = at.to_bytes(8, "big")
        files.write_at("log", [data], position)
        starts.append(position)
        position += len(data)
    return files, starts, position


def test_a_read_goes_on_where_the_last_one_ended():
    """The walk begins there, and finds the same as it would by the index."""
    files, starts, end = files_of(10)
    places = Places()
    plan = seek(3, end).run(files)
    places.note(plan)
    after = places.nearer(seek(plan.next_offset, end))
    assert after.begin_position == starts[plan.next_offset]
    assert after.run(files) == seek(plan.next_offset, end).run(files)


def test_a_place_of_another_file_or_beyond_the_end_is_no_help():
    """Then the index is asked."""
    places = Places()
    places.note(ReadPlan("other", 0, 100, 5))
    assert places.nearer(seek(5, 1_000)) == seek(5, 1_000)
    places.note(ReadPlan("log", 0, 1_000, 6))
    assert places.nearer(seek(6, 1_000)) == seek(6, 1_000)


def test_few_places_are_kept():
    """However many readers there are."""
    places = Places()
    for offset in range(10 * PLACES_MAX):
        places.note(ReadPlan("log", offset, 1, offset))
    assert len(places._ends) == PLACES_MAX
