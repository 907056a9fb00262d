"""Our codec against two that no one here wrote: what we write they read, and write again byte for byte.

That the fields mean the same is `test_schemas`; here it is the bytes: lengths, compact forms, tags, nulls.
"""

import importlib
import io
import warnings
from random import Random

import pytest

from dduomq.wire.kafka.primitives import Reader, size_of
from dduomq.wire.kafka.registry import APIS
from tests.wire.kafka.samples import message
from tests.wire.kafka.test_schemas import snake

kio_serial = pytest.importorskip("kio.serial", reason="kio is not there for this Python")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its definitions in an old way
    admin = importlib.import_module("kafka.protocol.admin")
    consumer = importlib.import_module("kafka.protocol.consumer")
    producer = importlib.import_module("kafka.protocol.producer")
    metadata = importlib.import_module("kafka.protocol.metadata")

SAMPLES = 12
# Versions that kio's definitions (Kafka 4.0) do not have.
NOT_IN_KIO = {("Produce", version) for version in range(3)}


def cases():
    return [
        pytest.param(api, kind, version, id=f"{api.name}-{kind}-v{version}")
        for api in APIS.values()
        for kind in ("request", "response")
        for version in range(api.first, api.last + 1)
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


@pytest.mark.parametrize(("api", "kind", "version"), cases())
def test_kio_reads_and_writes_the_same(api, kind, version):
    """Aiven's compiled codec."""
    if (api.name, version) in NOT_IN_KIO:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"kio.schema.{snake(api.name)}.v{version}.{kind}")
        return
    module = importlib.import_module(f"kio.schema.{snake(api.name)}.v{version}.{kind}")
    entity = getattr(module, f"{api.name}{kind.capitalize()}")
    for seed in range(SAMPLES):
        _, _, data = ours(api, kind, version, seed)
        found = kio_serial.entity_reader(entity)(data, 0)
        assert found[1] == len(data), "kio has not read everything"
        out = io.BytesIO()
        kio_serial.entity_writer(entity)(out, found[0])
        assert out.getvalue() == data


@pytest.mark.parametrize(("api", "kind", "version"), cases())
def test_kafka_python_reads_and_writes_the_same(api, kind, version):
    """Its generic codec over Kafka's own definitions."""
    name = f"{api.name}{kind.capitalize()}"
    cls = next((found for room in (admin, consumer, producer, metadata) if (found := getattr(room, name, None))), None)
    assert cls is not None, f"kafka-python has no {name}"
    for seed in range(SAMPLES):
        _, value, data = ours(api, kind, version, seed)
        if api.name == "ApiVersions" and value.get("error_code"):
            continue  # it reads such an answer as version 0, whatever it asked for
        found = cls.decode(data, version=version)
        found._header = None  # it was decoded without one
        assert bytes(found.encode(version=version)) == data
