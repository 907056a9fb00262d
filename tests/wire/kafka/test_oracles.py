"""Our codec against two that no one here wrote: what we write they read, and write again byte for byte.

That the fields mean the same is `test_schemas`; here it is the bytes: lengths, compact forms, tags, nulls.
"""

import functools
import importlib
import io
import warnings
from importlib.util import find_spec
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dduomq.wire.kafka.primitives import Reader, size_of
from dduomq.wire.kafka.registry import APIS
from dduomq.wire.kafka.tables import consumer_groups, share
from tests.wire.kafka.samples import message
from tests.wire.kafka.strategies import integers, messages
from tests.wire.kafka.test_schemas import snake

HAS_KIO = find_spec("kio") is not None
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its definitions in an old way
    admin = importlib.import_module("kafka.protocol.admin")
    consumer = importlib.import_module("kafka.protocol.consumer")
    producer = importlib.import_module("kafka.protocol.producer")
    metadata = importlib.import_module("kafka.protocol.metadata")

SAMPLES = 12
EXTREMES = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOT_IN_KIO = {
    ("Produce", version): "its definitions are of Kafka 4, which keeps only the numbers of these"
    for version in range(3)
}
NOT_IN_KAFKA_PYTHON = {
    (api.name, version): "it has the classic protocol only"
    for api in (*consumer_groups.TABLES, *share.TABLES)
    for version in range(api.first, api.last + 1)
}
needs_kio = pytest.mark.skipif(not HAS_KIO, reason="kio is not there for this Python")
TIMES = (-1, 0, 1, 10**9, 253_402_300_799_999)  # of what kio makes a date: none, and the years 1970 to 9999


def cases(without=()):
    return [
        pytest.param(api, kind, version, id=f"{api.name}-{kind}-v{version}")
        for api in APIS.values()
        for kind in ("request", "response")
        for version in range(api.first, api.last + 1)
        if (api.name, version) not in without
    ]


def ours(api, kind, version, seed):
    """(value, its bytes by our codec)."""
    table = api.request if kind == "request" else api.response
    value = message(table.fields, version, Random(f"{api.key} {kind} {version} {seed}"))
    chunks = table.encode(value, version)
    data = b"".join(bytes(chunk) for chunk in chunks)
    assert sum(map(size_of, chunks)) == len(data)
    return table, value, data


def agrees(value, found):
    """Whether what was read is what was written; there may be more, at its default."""
    if isinstance(value, dict) and isinstance(found, dict):
        return all(agrees(held, found[name]) for name, held in value.items())
    if isinstance(value, list | tuple) and isinstance(found, list | tuple):
        return len(value) == len(found) and all(map(agrees, value, found))
    return value == (bytes(found) if isinstance(found, memoryview) else found)


@pytest.mark.parametrize(("api", "kind", "version"), cases())
def test_what_we_write_we_read(api, kind, version):
    """To the last byte, with what is left out at its default."""
    for seed in range(SAMPLES):
        table, value, data = ours(api, kind, version, seed)
        source = Reader(memoryview(data))
        found = table.read(source, version)
        assert source.position == len(data)
        assert agrees(value, found)
        absent = {field.name: field.default for field in table.fields if field.name not in value}
        assert {name: found[name] for name in absent} == absent


@functools.cache
def kio_codec(name, kind, version):
    """kio's reader and writer of a message."""
    serial = importlib.import_module("kio.serial")
    module = importlib.import_module(f"kio.schema.{snake(name)}.v{version}.{kind}")
    entity = getattr(module, f"{name}{kind.capitalize()}")
    return serial.entity_reader(entity), serial.entity_writer(entity)


def by_kio(api, kind, version, data):
    """What kio writes of what it has read."""
    read, write = kio_codec(api.name, kind, version)
    found, size = read(data, 0)
    assert size == len(data), "kio has not read everything"
    out = io.BytesIO()
    write(out, found)
    return out.getvalue()


def kio_integers(field):
    """kio knows the errors by name and makes dates of times; other numbers are not bound."""
    if field.name.endswith("error_code"):
        return st.sampled_from([code.value for code in importlib.import_module("kio.schema.errors").ErrorCode])
    is_time = field.name.endswith("timestamp") or (field.kind == "int64" and field.name.endswith("_ms"))
    return st.sampled_from(TIMES) if is_time else integers(field)


def kafka_pythons(api, kind):
    name = f"{api.name}{kind.capitalize()}"
    return next((found for room in (admin, consumer, producer, metadata) if (found := getattr(room, name, None))), None)


def by_kafka_python(api, kind, version, data):
    """What kafka-python writes of what it has read."""
    found = kafka_pythons(api, kind).decode(data, version=version)
    found._header = None  # it was decoded without one
    return bytes(found.encode(version=version))


def is_misread(api, kind, value):
    """kafka-python reads ApiVersions with an error as version 0, whatever it asked for; kio covers that."""
    return api.name == "ApiVersions" and kind == "response" and bool(value["error_code"])


def test_each_version_has_an_oracle():
    """One of the two at least; what either has not is named above, with the reason."""
    assert not NOT_IN_KIO.keys() & NOT_IN_KAFKA_PYTHON.keys()
    lacking = {name for name, _ in NOT_IN_KAFKA_PYTHON}
    for api in APIS.values():
        for kind in ("request", "response"):
            assert (kafka_pythons(api, kind) is None) == (api.name in lacking)


@needs_kio
@pytest.mark.parametrize("missing", sorted(NOT_IN_KIO))
def test_what_kio_lacks_it_lacks_still(missing):
    name, version = missing
    assert find_spec(f"kio.schema.{snake(name)}") is not None
    assert find_spec(f"kio.schema.{snake(name)}.v{version}") is None


@needs_kio
@pytest.mark.parametrize(("api", "kind", "version"), cases(NOT_IN_KIO))
def test_kio_reads_and_writes_the_same(api, kind, version):
    """Aiven's compiled codec."""
    for seed in range(SAMPLES):
        _, _, data = ours(api, kind, version, seed)
        assert by_kio(api, kind, version, data) == data


@needs_kio
@pytest.mark.parametrize(("api", "kind", "version"), cases(NOT_IN_KIO))
def test_kio_agrees_on_extremes(api, kind, version):
    """Numbers at both ends, lengths where they grow by a byte, null wherever it may be."""
    table = api.request if kind == "request" else api.response

    @EXTREMES
    @given(messages(table.fields, version, kio_integers))
    def agree(value):
        data = b"".join(bytes(chunk) for chunk in table.encode(value, version))
        assert by_kio(api, kind, version, data) == data

    agree()


@pytest.mark.parametrize(("api", "kind", "version"), cases(NOT_IN_KAFKA_PYTHON))
def test_kafka_python_reads_and_writes_the_same(api, kind, version):
    """Its generic codec over Kafka's own definitions."""
    for seed in range(SAMPLES):
        _, value, data = ours(api, kind, version, seed)
        assert is_misread(api, kind, value) or by_kafka_python(api, kind, version, data) == data


@pytest.mark.parametrize(("api", "kind", "version"), cases(NOT_IN_KAFKA_PYTHON))
def test_kafka_python_and_we_agree_on_extremes(api, kind, version):
    """The same for any number at all; and we read what we wrote."""
    table = api.request if kind == "request" else api.response

    @EXTREMES
    @given(messages(table.fields, version))
    def agree(value):
        data = b"".join(bytes(chunk) for chunk in table.encode(value, version))
        source = Reader(memoryview(data))
        assert agrees(value, table.read(source, version))
        assert source.position == len(data)
        assert is_misread(api, kind, value) or by_kafka_python(api, kind, version, data) == data

    agree()
