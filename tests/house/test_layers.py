"""The layering rule: imports go only downward. `LAYERS` is the one place where a room's layer stands."""

import os
import subprocess
import sys

import pytest
from house_source import ROOT, Import, Module, imports, modules

# A room is a folder or a file right below the package. Think hard before moving one up or adding a line
# to the exceptions: the layers are what makes the broker testable on a virtual clock.
LAYERS = {
    0: {"ids", "errors", "limits", "ports"},
    1: {"wire"},
    2: {"log", "replica", "groups", "delay", "cluster", "query"},
    3: {"actors", "stores"},
    4: {"listeners", "client", "console", "blocking"},
    5: {
        "cli",
        "address",
        "builder",
        "engine",
        "membership",
        "node",
        "config",
        "observe",
        "system",
        "kernel_sync",
        "heap",
        "run",
        "dump",
        "dumping",
        "testing",
    },
}
LAYER_OF = {room: layer for layer, rooms in LAYERS.items() for room in rooms}

# Rooms of one layer that may import one another.
SAME_LAYER = {
    ("stores", "actors"),  # the embedded store writes through the disk actor
    ("replica", "log"),  # what parts a follower's log from its leader's is the history of its epochs
    ("blocking", "client"),
    ("dump", "dumping"),
    *(
        (a, b)
        for a in LAYERS[5]
        for b in (
            "config",
            "observe",
            "system",
            "kernel_sync",
            "heap",
            "address",
            "builder",
            "engine",
            "membership",
            "node",
            "run",
        )
    ),
}
# Rooms that may import less than their layer allows: the highest layer, and what is let through by name.
CLIENT_ROOMS = {"client", "blocking"}
HIGHEST = {"client": 1, "blocking": 1, "dump": 2, "dumping": 2}
EXCEPTIONS = {
    ("dduomq.dumping.replay", "dduomq.client"),  # `--replay` publishes through the client, loaded when used
    ("dduomq.dumping.replay", "dduomq.blocking"),
    ("dduomq.dump", "dduomq.run"),
    ("dduomq.cluster.wal", "dduomq.log.files"),  # the one door to the disk is the quorum's, too
}
# What the pure layers may not touch, and the doors where they may.
IMPURE = {"trio", "anyio", "asyncio", "os", "socket", "time", "random", "threading", "structlog", "secrets"}
DOORS = {"dduomq.log.files": {"os", "threading"}}


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _complaint(module: Module, found: Import) -> str | None:
    if not _within(found.module, "dduomq"):
        return None
    if any(_within(module.name, a) and _within(found.module, b) for a, b in EXCEPTIONS):
        return None
    room = found.module.split(".")[1] if "." in found.module else ""
    if room in {"", module.room}:
        return None
    if room not in LAYER_OF:
        return f"{room} stands in no layer"
    highest = HIGHEST.get(module.room, LAYER_OF[module.room])
    if LAYER_OF[room] < highest or (LAYER_OF[room] == highest and module.room in HIGHEST):
        return None
    if LAYER_OF[room] == LAYER_OF[module.room] and (LAYER_OF[room] == 0 or (module.room, room) in SAME_LAYER):
        return None
    return f"layer {LAYER_OF[module.room]} ({module.room}) may not import {found.module}"


def test_every_room_has_a_layer() -> None:
    """A new folder or file below the package must be given a place in the table."""
    rooms = {module.room for module in modules()} - {""}
    assert rooms <= set(LAYER_OF), f"not in LAYERS: {sorted(rooms - set(LAYER_OF))}"


def test_imports_go_only_downward() -> None:
    """No module imports a higher layer, nor a room beside it that it has no business with."""
    wrong = [
        f"{module}:{found.line}: {complaint}"
        for module in modules()
        if module.room
        for found in imports(module)
        if (complaint := _complaint(module, found))
    ]
    assert not wrong, "\n".join(wrong)


def test_exceptions_are_loaded_late() -> None:
    """What dump may borrow from the client is imported inside a function: dumping never loads a client."""
    wrong = [
        f"{module}:{found.line}: {found.module}"
        for module in modules()
        if module.room in {"dump", "dumping"}
        for found in imports(module)
        if found.module.split(".")[1:2] in (["client"], ["blocking"]) and not found.late
    ]
    assert not wrong, "\n".join(wrong)


def test_pure_layers_do_not_touch_the_world() -> None:
    """Layers 0 to 2 have no clock, no chance, no thread, no socket and no log; one door leads to the disk."""
    wrong = []
    for module in modules():
        if not module.room or LAYER_OF[module.room] > 2:
            continue
        banned = IMPURE - DOORS.get(module.name, set())
        for found in imports(module):
            borrowed_type = module.name == "dduomq.ports" and found.module == "random"
            if found.module.split(".")[0] in banned and not borrowed_type:
                wrong.append(f"{module}:{found.line}: {found.module}")
    assert not wrong, "\n".join(wrong)


def test_no_relative_imports() -> None:
    """An import names its module in full, so that a search finds it."""
    wrong = [f"{module}:{i.line}" for module in modules() for i in imports(module) if i.module.startswith(".")]
    assert not wrong, "\n".join(wrong)


LOADED = [
    (
        "dduomq.node",
        [
            "aiokafka",
            "kafka",
            "kazoo",
            "httpx",
            "typer",
            "rich.progress",
            "dduomq.client",
            "dduomq.testing",
            "dduomq.cli",
        ],
    ),
    ("dduomq", ["trio", "anyio", "aiokafka", "cbor2", "dduomq.client", "dduomq.node"]),
    ("dduomq.client.client", ["trio", "structlog", "typer", "rich", "dduomq.node", "dduomq.log", "dduomq.actors"]),
    ("dduomq.dump", ["trio", "anyio", "structlog", "typer", "rich", "dduomq.client", "dduomq.node"]),
    ("dduomq.cli.app", ["trio", "aiokafka", "dduomq.node", "dduomq.client", "rich.progress"]),
]


@pytest.mark.parametrize(("name", "unwanted"), LOADED)
def test_import_loads_only_what_it_needs(name: str, unwanted: list[str]) -> None:
    """Start-up stays quick because the parts that are not used are not loaded."""
    code = f"import sys, {name}; print(*(m for m in {unwanted!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=os.environ
    )
    assert done.stdout.strip() == "", f"importing {name} also loads {done.stdout.strip()}"
