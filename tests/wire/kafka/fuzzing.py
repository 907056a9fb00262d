"""Requests of every API with faults, by chance, against the codec alone; the same seed, the same bytes.

What must hold: `WireError` or a value, never anything else; and a value is written and read again as it was.
"""

from random import Random

from dduomq.errors import WireError
from dduomq.wire.kafka.primitives import Reader
from dduomq.wire.kafka.registry import APIS
from tests.listeners.fuzzing import Finding, mutate
from tests.wire.kafka.samples import message

MUTANTS = 4


def encoded(api, value, version):
    return b"".join(bytes(chunk) for chunk in api.request.encode(value, version))


def fuzz_codec(seed):
    """One run: each version of each API; how many requests were read or refused. Raises `Finding`."""
    rng, count = Random(seed), 0
    for api in APIS.values():
        for version in range(api.first, api.last + 1):
            plain = encoded(api, message(api.request.fields, version, rng), version)
            for _ in range(MUTANTS):
                data = bytearray(plain)
                for _ in range(rng.choice((1, 1, 2, 4))):
                    mutate(data, rng)
                _try(seed, api, version, bytes(data))
                count += 1
    return count


def _try(seed, api, version, data):
    try:
        read_twice(api, version, data)
    except Exception as error:
        raise Finding(f"seed {seed}: {api.name} v{version}: {error!r} from {data.hex()}") from error


def read_twice(api, version, data):
    """Read, and read again what is written of it."""
    try:
        found = api.request.read(Reader(memoryview(data)), version)
    except WireError:
        return
    again = encoded(api, found, version)
    source = Reader(memoryview(again))
    assert api.request.read(source, version) == found, "what was read is read differently when written again"
    assert source.position == len(again)
