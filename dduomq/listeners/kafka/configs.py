"""Configuration in Kafka's words: DescribeConfigs, AlterConfigs, IncrementalAlterConfigs."""

from collections.abc import Iterable, Mapping

from dduomq.actors.admin import ConfigValue
from dduomq.errors import DduomqError, InvalidConfig, InvalidRequest
from dduomq.listeners.admit import Operation
from dduomq.listeners.kafka.asking import Asking, Body
from dduomq.listeners.kafka.codes import code_of
from dduomq.listeners.kafka.group_configs import alter_group, group_config

TOPIC, BROKER, GROUP = 2, 4, 32
SET, DELETE, APPEND, SUBTRACT = range(4)
OPERATIONS = ("SET", "DELETE", "APPEND", "SUBTRACT")
FROM_TOPIC, FROM_BROKER, FROM_DEFAULT, FROM_GROUP = 1, 4, 5, 8
TEXT, WHOLE = 2, 5


def topic_entries(values: Iterable[ConfigValue]) -> list[Body]:
    """A topic's settings, for CreateTopics and DescribeConfigs."""
    return [
        {
            "name": entry.key,
            "value": entry.value,
            "read_only": False,
            "config_source": FROM_DEFAULT if entry.is_default else FROM_TOPIC,
            "is_sensitive": False,
            "config_type": _type_of(entry.value),
            "documentation": entry.doc,
        }
        for entry in values
    ]


def _type_of(value: str) -> int:
    return WHOLE if value.removeprefix("-").isdigit() else TEXT


def _broker_entries(values: Iterable[ConfigValue]) -> list[Body]:
    """The node's own: to be read; they are set where the node is started."""
    return [
        {**entry, "read_only": True, "config_source": FROM_DEFAULT if value.is_default else FROM_BROKER}
        for entry, value in zip(topic_entries(values), values, strict=True)
    ]


def _group_entries(config: Mapping[str, tuple[str, bool]]) -> list[Body]:
    return [
        {
            "name": name,
            "value": value,
            "read_only": False,
            "config_source": FROM_DEFAULT if is_default else FROM_GROUP,
            "is_sensitive": False,
            "config_type": _type_of(value),
            "documentation": None,
        }
        for name, (value, is_default) in config.items()
    ]


async def describe_configs(asking: Asking) -> Body:
    """Every setting of the topics, the groups and this node, with where its value comes from."""
    return {"results": [await _described(asking, resource) for resource in asking.body["resources"]]}


async def _described(asking: Asking, resource: Body) -> Body:
    place = {"resource_type": resource["resource_type"], "resource_name": resource["resource_name"]}
    try:
        entries = await _entries(asking, resource["resource_type"], resource["resource_name"])
    except DduomqError as error:
        return {**place, "error_code": code_of(error), "error_message": error.message, "configs": []}
    wanted = resource["configuration_keys"]
    found = [entry for entry in entries if wanted is None or entry["name"] in wanted]
    return {**place, "error_code": 0, "error_message": None, "configs": [_shown(asking, entry) for entry in found]}


async def _entries(asking: Asking, kind: int, name: str) -> list[Body]:
    services = asking.services
    if kind == GROUP:
        return _group_entries(await group_config(asking, name))
    services.gate.admit(asking.context, Operation.DESCRIBE, name)
    if kind == TOPIC:
        return topic_entries(services.admin.config_of(name))
    if kind == BROKER:
        if name not in {"", str(services.node_id)}:
            raise InvalidRequest(f"this is node {services.node_id}, not {name!r}")
        return _broker_entries(services.settings)
    raise InvalidRequest(f"resources of type {kind} have no configuration; 2 are topics, 4 is the node, 32 are groups")


def _shown(asking: Asking, entry: Body) -> Body:
    own = [{"name": entry["name"], "value": entry["value"], "source": entry["config_source"]}]
    return {
        **entry,
        "synonyms": own if asking.body["include_synonyms"] else [],
        "documentation": entry["documentation"] if asking.body["include_documentation"] else None,
    }


async def alter_configs(asking: Asking) -> Body:
    """The settings given are the topic's own; all others go back to their default."""
    responses = []
    for resource in asking.body["resources"]:
        given = {entry["name"]: entry["value"] for entry in resource["configs"]}
        responses.append(await _altered(asking, resource, given, is_whole=True))
    return {"responses": responses}


async def incremental_alter_configs(asking: Asking) -> Body:
    """Only what is named is changed (KIP-339)."""
    responses = []
    for resource in asking.body["resources"]:
        try:
            changes = _changes(resource["configs"])
        except DduomqError as error:
            responses.append(_result(resource, error))
        else:
            responses.append(await _altered(asking, resource, changes, is_whole=False))
    return {"responses": responses}


def _changes(entries: Iterable[Body]) -> dict[str, str | None]:
    changes: dict[str, str | None] = {}
    for entry in entries:
        name, operation = entry["name"], entry["config_operation"]
        if name in changes:
            raise InvalidRequest(f"{name} is changed twice")
        if operation in {APPEND, SUBTRACT}:
            raise InvalidConfig(f"{name} is no list: {OPERATIONS[operation]} can't be done to it")
        if operation not in {SET, DELETE}:
            raise InvalidRequest(f"there is no operation {operation}; 0 sets, 1 puts back the default")
        if operation == SET and entry["value"] is None:
            raise InvalidRequest(f"{name} is to be set, but to nothing")
        changes[name] = entry["value"] if operation == SET else None
    return changes


async def _altered(asking: Asking, resource: Body, given: Mapping[str, str | None], *, is_whole: bool) -> Body:
    services, name = asking.services, resource["resource_name"]
    try:
        if resource["resource_type"] == GROUP:
            await alter_group(asking, name, given, is_whole=is_whole)
            return _result(resource, None)
        services.gate.admit(asking.context, Operation.ALTER, name)
        if resource["resource_type"] != TOPIC:
            raise InvalidRequest(
                "topics and groups are configured this way; the node's own settings are given at its start"
            )
        own = services.admin.route(name).record.config
        changes = {**dict.fromkeys(own), **given} if is_whole else dict(given)
        await services.admin.alter_topic(name, changes, validate_only=asking.body["validate_only"])
    except DduomqError as error:
        return _result(resource, error)
    return _result(resource, None)


def _result(resource: Body, error: DduomqError | None) -> Body:
    return {
        "error_code": 0 if error is None else code_of(error),
        "error_message": None if error is None else error.message,
        "resource_type": resource["resource_type"],
        "resource_name": resource["resource_name"],
    }
