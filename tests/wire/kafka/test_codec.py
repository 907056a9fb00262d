"""The codec against hostile bytes: an error of ours or a value, never anything else, and never much memory."""

import contextlib
import tracemalloc
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.errors import DduomqError, WireError
from dduomq.limits import KAFKA_ELEMENTS_MAX
from dduomq.wire.kafka.primitives import Reader, Writer
from dduomq.wire.kafka.registry import APIS
from dduomq.wire.kafka.schema import STRING_BYTES_MAX, parse, reader, writer
from dduomq.wire.kafka.session import Session
from tests.listeners.fuzzing import Finding
from tests.wire.kafka.fuzzing import MUTANTS, fuzz_codec
from tests.wire.kafka.samples import message

VERSIONS = [(api, version) for api in APIS.values() for version in range(api.first, api.last + 1)]
IDS = [f"{api.name}-v{version}" for api, version in VERSIONS]


def request(api, version, seed=0):
    value = message(api.request.fields, version, Random(f"{api.key} {version} {seed}"))
    return b"".join(bytes(chunk) for chunk in api.request.encode(value, version))


@pytest.mark.parametrize(("api", "version"), VERSIONS, ids=IDS)
def test_a_request_cut_anywhere_is_refused(api, version):
    """At each byte: what is left out can't be guessed."""
    data = request(api, version)
    for end in range(len(data)):
        with pytest.raises(WireError):
            api.request.read(Reader(memoryview(data[:end])), version)


@pytest.mark.parametrize(("api", "version"), VERSIONS, ids=IDS)
def test_a_request_with_a_wrong_byte_is_refused_or_read(api, version):
    """Every byte set to what is most awkward for lengths, counts and numbers."""
    data = request(api, version, seed=1)
    for at in range(len(data)):
        for byte in (0x00, 0x7F, 0x80, 0xFF):
            try:
                api.request.read(Reader(memoryview(data[:at] + bytes([byte]) + data[at + 1 :])), version)
            except WireError:
                continue


@pytest.mark.parametrize("seed", range(10))
def test_faulty_requests_are_refused_or_read(seed):
    """A little of it with every run; `./scripts/fuzz --codec` goes on for as long as one likes."""
    assert fuzz_codec(seed) == MUTANTS * len(VERSIONS)


def test_a_bug_of_the_codec_is_found(monkeypatch):
    """With the seed and the bytes that show it."""
    monkeypatch.setattr(Reader, "text", lambda source, size: str(source.take(size), "utf-8"))
    with pytest.raises(Finding, match=r"seed \d+: \w+ v\d+: UnicodeDecodeError.* from [0-9a-f]+$"):
        sum(map(fuzz_codec, range(10)))


@given(key=st.sampled_from(sorted(APIS)), version=st.integers(-1, 20), rest=st.binary(max_size=400))
def test_a_session_takes_any_bytes(key, version, rest):
    """A request, or an error that ends the connection."""
    frame = key.to_bytes(2, "big") + version.to_bytes(2, "big", signed=True) + rest
    try:
        Session().receive(memoryview(bytearray(frame)))
    except DduomqError:
        return


@given(data=st.binary(max_size=100))
def test_a_session_takes_any_header(data):
    """Unknown keys, half a header, names that are not UTF-8."""
    try:
        Session().receive(memoryview(bytearray(data)))
    except DduomqError:
        return


@pytest.mark.parametrize("name", ["Metadata", "DescribeTopicPartitions", "CreateTopics", "OffsetCommit"])
def test_a_million_tiny_elements_do_not_fit(name):
    """Two bytes on the wire must not become hundreds in memory, a million times."""
    api = next(api for api in APIS.values() if api.name == name)
    data = bytearray(b"\x01" * 2_000_000)
    out = Writer()
    if name == "OffsetCommit":
        out.out += b"\x02g"
        out.int32(1)
        out.uvarint(1)
        out.uvarint(0)
    out.uvarint(1_000_001)
    data[: len(out.out)] = out.out
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            api.request.read(Reader(memoryview(data)), api.last)
        assert tracemalloc.get_traced_memory()[1] < 1_000 * KAFKA_ELEMENTS_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x02, 0x03, 0xFF])
@pytest.mark.parametrize(("api", "version"), [(api, api.last) for api in APIS.values()])
def test_a_mebibyte_of_the_same_costs_no_more_than_its_elements(api, version, byte):
    """Whatever is made of it before it is refused, or read."""
    data = memoryview(bytes([byte]) * 2**20)
    tracemalloc.start()
    try:
        with contextlib.suppress(WireError):
            api.request.read(Reader(data), version)
        assert tracemalloc.get_traced_memory()[1] < 1_000 * KAFKA_ELEMENTS_MAX
    finally:
        tracemalloc.stop()


TABLE = parse("""
    name string 0+ nullable=1+
    many [int32] 0+ nullable=1+ default=null
    inner {} 2+ nullable=2+ default=null
        number int16 2+ default=7
    extra string 2+ tag=3 default=none
""")


def test_null_is_not_empty():
    """Neither for strings nor for arrays; where null is not allowed it is refused, both ways."""
    for flexible in (False, True):
        read, write = reader(TABLE, 1, flexible=flexible), writer(TABLE, 1, flexible=flexible)
        for value in ({"name": None, "many": None}, {"name": "", "many": []}):
            out = Writer()
            write(out, value)
            found = read(Reader(memoryview(out.out)))
            assert (found["name"], found["many"]) == (value["name"], value["many"])
        old = reader(TABLE, 0, flexible=flexible)
        out = Writer()
        write(out, {"name": None, "many": []})
        with pytest.raises(WireError):
            old(Reader(memoryview(out.out)))
        with pytest.raises(ValueError, match="can't be null"):
            writer(TABLE, 0, flexible=flexible)(Writer(), {"name": None, "many": []})


@pytest.mark.parametrize("flexible", [False, True])
def test_a_string_is_no_longer_than_any_version_can_tell(flexible):
    """Or else a name given in the compact form could not be told to whoever asks in an old version."""
    table = parse("name string 0+")
    read, write = reader(table, 0, flexible=flexible), writer(table, 0, flexible=flexible)
    longest = {"name": "x" * STRING_BYTES_MAX}
    out = Writer()
    write(out, longest)
    assert read(Reader(memoryview(out.out))) == longest
    out = Writer()
    writer(table, 0, flexible=True)(out, {"name": "x" * (STRING_BYTES_MAX + 1)})
    with pytest.raises(WireError, match="a string has 32768 bytes"):
        reader(table, 0, flexible=True)(Reader(memoryview(out.out)))


@pytest.mark.parametrize("flexible", [False, True])
def test_the_most_elements_and_one_more(flexible):
    """They are counted over the whole request, however many arrays they are in."""
    table = parse("""
        rows [] 0+
            cells [int8] 0+
    """)
    read, write = reader(table, 0, flexible=flexible), writer(table, 0, flexible=flexible)
    for extra in (0, 1):
        out = Writer()
        write(
            out,
            {
                "rows": [
                    {"cells": [1] * (KAFKA_ELEMENTS_MAX // 2 - 1)},
                    {"cells": [1] * (KAFKA_ELEMENTS_MAX // 2 - 1 + extra)},
                ]
            },
        )
        if not extra:
            assert len(read(Reader(memoryview(out.out)))["rows"]) == 2
        else:
            with pytest.raises(WireError, match="more than 200000 array elements"):
                read(Reader(memoryview(out.out)))


def grown(fields):
    """The table of a later Kafka: each structure has tagged fields that are not known here."""
    added = parse("""
        added string 0+ tag=77
        added_structure {} 0+ tag=9999
            number int64 0+
    """)
    return (*(attrs.evolve(field, fields=grown(field.fields)) if field.fields else field for field in fields), *added)


def with_news(value):
    """A value for a grown table."""
    if isinstance(value, list):
        return [with_news(item) for item in value]
    if not isinstance(value, dict):
        return value
    news = {"added": "news", "added_structure": {"number": 5}}
    return {**{name: with_news(item) for name, item in value.items()}, **news}


@pytest.mark.parametrize(("api", "version"), [case for case in VERSIONS if case[0].is_flexible(case[1])])
def test_what_later_versions_of_kafka_add_is_skipped(api, version):
    """In every structure of every API, as KIP-482 promises; the rest is read as if nothing had been added."""
    for table in (api.request, api.response):
        for seed in range(3):
            value = message(table.fields, version, Random(seed))
            plain = b"".join(bytes(chunk) for chunk in table.encode(value, version))
            out = Writer()
            writer(grown(table.fields), version, flexible=True)(out, with_news(value))
            data = b"".join(bytes(chunk) for chunk in out.chunks())
            assert len(data) > len(plain)
            source = Reader(memoryview(data))
            assert table.read(source, version) == table.read(Reader(memoryview(plain)), version)
            assert source.position == len(data)


def test_unknown_tags_are_skipped():
    """As KIP-482 promises to those who add them; a known tag of a wrong length is refused."""
    read = reader(TABLE, 2, flexible=True)
    known = b"\x03\x03\x03hi"
    head = b"\x02a\x01\xff"
    found = read(Reader(memoryview(head + b"\x02" + known + b"\x09\x02??")))
    assert (found["name"], found["many"], found["inner"], found["extra"]) == ("a", [], None, "hi")
    assert read(Reader(memoryview(head + b"\x00")))["extra"] == "none"
    with pytest.raises(WireError):
        read(Reader(memoryview(head + b"\x01\x03\x02\x03hi")))
    with pytest.raises(WireError):
        read(Reader(memoryview(head + b"\x01\x03\xff\xff\xff\xff\x0fhi")))


def test_an_absent_field_has_its_default():
    """So that nobody has to ask for the version."""
    found = reader(TABLE, 1, flexible=False)(Reader(memoryview(b"\x00\x01a\x00\x00\x00\x00")))
    assert found == {"name": "a", "many": [], "inner": None, "extra": "none"}
