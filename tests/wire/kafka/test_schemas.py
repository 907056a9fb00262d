"""Our tables against Kafka's own message definitions, as kafka-python carries them: field by field, every version."""

import functools
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from dduomq.wire.kafka.registry import APIS
from dduomq.wire.kafka.schema import DEFAULTS, NUMBERS
from dduomq.wire.kafka.tables import consumer_groups, share

FOLDER = Path(find_spec("kafka").origin).parent / "protocol" / "schemas" / "resources"
KINDS = {"bool": "boolean"}
# Versions that Kafka defines, or defined, and the carried definitions do not: (API, version). kio has the groups'.
NOT_CARRIED = {
    *(("Produce", version) for version in range(3)),
    *(
        (api.name, version)
        for api in (*consumer_groups.TABLES, *share.TABLES)
        for version in range(api.first, api.last + 1)
    ),
}


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


@functools.cache
def definitions():
    found = {}
    for path in FOLDER.rglob("*.json"):
        text = "\n".join(line for line in path.read_text().splitlines() if not line.strip().startswith("//"))
        message = json.loads(re.sub(r"\s//.*", "", text))
        if "apiKey" in message:
            found[message["apiKey"], message["type"]] = message
    return found


def inside(versions, version):
    """Whether `3+`, `0-2`, `4` or `none` holds a version."""
    if not versions or versions == "none":
        return False
    first, dash, last = versions.removesuffix("+").partition("-")
    top = float("inf") if versions.endswith("+") else int(last) if dash else int(first)
    return int(first) <= version <= top


def default_of(field, kind, *, is_array):
    text = field.get("default")
    if text == "null":
        return None
    if is_array:
        return ()
    if kind in NUMBERS:
        return int(str(text), 0) if text not in {None, ""} else 0
    if kind == "boolean":
        return str(text).lower() == "true"
    return DEFAULTS.get(kind) if text is None else text


def kafkas(fields, commons, version):
    """Kafka's fields of one version, in our terms."""
    shown = []
    for field in fields:
        if not inside(field["versions"], version):
            continue
        is_array = field["type"].startswith("[]")
        kind = KINDS.get(field["type"].removeprefix("[]"), field["type"].removeprefix("[]"))
        inner = field.get("fields") or commons.get(kind)
        is_tagged = inside(field.get("taggedVersions"), version)
        is_nullable = inside(field.get("nullableVersions"), version)
        shown.append((
            snake(field["name"]), "{}" if inner else kind, is_array, is_nullable, field["tag"] if is_tagged else None,
            () if inner and not is_array else default_of(field, kind, is_array=is_array),
            kafkas(inner, commons, version) if inner else [],
        ))  # fmt: skip
    return shown


def ours(fields, version):
    return [
        (
            field.name, field.kind, field.is_array, version in field.nullable, field.tag,
            () if field.kind == "{}" and not field.is_array and field.default is not None else field.default,
            ours(field.fields, version),
        )
        for field in fields
        if version in field.versions
    ]  # fmt: skip


def null_by_default(fields):
    """A structure that is null by default says so in both."""
    return [(*field[:5], () if field[1] == "{}" and not field[2] else field[5], null_by_default(field[6]))
            for field in fields]  # fmt: skip


def cases():
    return [
        pytest.param(api, kind, version, id=f"{api.name}-{kind}-v{version}")
        for api in APIS.values()
        for kind in ("request", "response")
        for version in range(api.first, api.last + 1)
        if (api.name, version) not in NOT_CARRIED
    ]


@pytest.mark.parametrize(("api", "kind", "version"), cases())
def test_tables_are_kafkas(api, kind, version):
    """Names, types, order, nullability, tags and defaults."""
    message = definitions()[api.key, kind]
    assert inside(message["validVersions"], version), f"Kafka has {message['validVersions']}"
    assert inside(message["flexibleVersions"], version) == api.is_flexible(version)
    commons = {struct["name"]: struct["fields"] for struct in message.get("commonStructs", [])}
    table = (api.request if kind == "request" else api.response).fields
    assert null_by_default(ours(table, version)) == null_by_default(kafkas(message["fields"], commons, version))


def test_no_version_is_left_out():
    """What Kafka has and we have not is a decision, written here."""
    missing = {}
    for api in APIS.values():
        if (api.key, "request") not in definitions():
            continue
        valid = definitions()[api.key, "request"]["validVersions"]
        last = int(valid.rpartition("-")[2]) - definitions()[api.key, "request"].get("latestVersionUnstable", False)
        if last > api.last:
            missing[api.name] = (api.last, last)
    assert missing == {
        "OffsetCommit": (9, 10),  # by topic id
        "OffsetFetch": (9, 10),  # by topic id
    }
