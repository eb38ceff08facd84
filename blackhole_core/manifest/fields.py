"""Every key of a ``plugin.yaml``, in one table: check, JSON Schema and documentation are made from it."""

from __future__ import annotations

import keyword
from collections.abc import Callable
from typing import Final

from blackhole_core.ids import NAME, Isolation, canonical_name
from blackhole_core.manifest.images import stored_problem
from blackhole_core.manifest.kinds import Choice, Field, Flag, ListOf, Number, Path, Plain, Record, Report, Text
from blackhole_core.manifest.model import Container, Dependency, Manifest, Resources, SnapshotPolicy, StateDeclaration, VirtualMachine
from blackhole_core.manifest.permissions import canonical, permission_problem
from blackhole_core.manifest.yaml import Node

__all__ = ["CAPABILITIES", "DEPENDENCY", "MANIFEST", "PERMISSIONS", "RESOURCES", "SNAPSHOT", "STATE", "VM", "container"]

#: What a plugin may say that it offers (the seed's list and the two that its examples use).
CAPABILITIES: Final = ("storage", "networking", "computation", "ui", "integration", "analytics")

#: % of one core: 1,024 cores, more than one machine has today.
MAX_CPU: Final = 102_400
#: MB: 16 TB, the largest memory of one machine on sale.
MAX_MEMORY: Final = 16_000_000
#: MB: 1 PB.
MAX_DISK: Final = 1_000_000_000
#: Mbps: 1 Tbit/s, faster than any network card.
MAX_NETWORK: Final = 1_000_000
#: The kernel's PID_MAX_LIMIT on 64 bit.
MAX_PIDS: Final = 4_194_304
#: Threads of one plugin: each takes 8 MB of address space and a share of the interpreter lock; more is a mistake.
MAX_THREADS: Final = 1024
#: Seconds, 31 days: below the longest wait of a lock on every platform (threading.TIMEOUT_MAX is 49 days at the least).
MAX_TIMEOUT: Final = 2_678_400
#: Seconds between two snapshots: each asks the plugin and may write to disk.
MIN_SNAPSHOT: Final = 1
#: State versions count up by one with each change of schema; a 31-bit number is written in every snapshot's header.
MAX_STATE_VERSION: Final = 2**31 - 1

_JSON_TYPES: Final = ("null", "boolean", "object", "array", "number", "string", "integer")


def _name_problem(text: str) -> str | None:
    return None if NAME.fullmatch(text) else ""


def _version_problem(text: str) -> str | None:
    from packaging.version import InvalidVersion, Version  # 10 ms; only who checks a manifest pays for it

    try:
        Version(text)
    except InvalidVersion:
        return ""
    return None


def _range_problem(text: str) -> str | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return "; write >=1.0 or ==1.0" if _version_problem(text) is None else ""
    return None


def _entry_problem(text: str) -> str | None:
    module, colon, attribute = text.partition(":")
    paths = [module, attribute] if colon else [module]
    words = [word for path in paths for word in path.split(".")]
    return None if all(word.isidentifier() and not keyword.iskeyword(word) for word in words) else ""


def _json_schema(node: Node, path: Path, report: Report) -> None:
    """Check as much of a JSON Schema as can be told by looking at its outermost keys; ``node`` is a mapping."""
    members = node.value
    kind = members.get("type")
    if kind is not None:
        words = [child.value for child in kind.value] if isinstance(kind.value, list) else [kind.value]
        if not words or not all(isinstance(word, str) and word in _JSON_TYPES for word in words):
            report.add(kind, (*path, "type"), f"one of {', '.join(_JSON_TYPES)}, or a list of them")
        elif "object" not in words:
            report.add(kind, (*path, "type"), "object, because config is a mapping")
    required = members.get("required")
    if required is not None and not (isinstance(required.value, list) and all(isinstance(child.value, str) for child in required.value)):
        report.add(required, (*path, "required"), "a list of keys")
    _properties(members.get("properties"), (*path, "properties"), report)


def _properties(node: Node | None, path: Path, report: Report) -> None:
    if node is None:
        return
    if not isinstance(node.value, dict):
        report.add(node, path, "a mapping of keys to schemas")
        return
    for name, child in node.value.items():
        if not isinstance(child.value, dict | bool):
            report.add(child, (*path, name), "a schema (a mapping)")


_NAME: Final = Text(
    "a name of at most 100 ASCII letters, digits and . _ - that begins and ends with a letter or digit",
    rule=_name_problem,
    number_as_text=True,
    pattern=f"^{NAME.pattern}$",
)
_STATE_VERSION: Final = Number("", least=0, most=MAX_STATE_VERSION, whole=True)

DEPENDENCY: Final = Record(
    Dependency,
    (
        Field("name", _NAME, "Name of the other plugin.", required=True),
        Field(
            "version",
            Text("a PEP 440 range such as >=1.2,<2", rule=_range_problem, number_as_text=True),
            "Range of versions that will do; any if left out.",
        ),
        Field("optional", Flag(), "true: start without it, but after it if it is there."),
    ),
)
PERMISSIONS: Final = ListOf(
    Text("a permission (word or area:action:value)", rule=permission_problem), "a list of permissions", canonical, unique_items=True
)
RESOURCES: Final = Record(
    Resources,
    (
        Field("cpu", Number("% of one core", above=0, most=MAX_CPU), "Percent of one core: 50 is half a core, 200 two."),
        Field("memory", Number("MB", above=0, most=MAX_MEMORY), "Memory, MB."),
        Field("disk", Number("MB", above=0, most=MAX_DISK), "Disk space for its own data, MB."),
        Field("network", Number("Mbps", above=0, most=MAX_NETWORK), "Network bandwidth, Mbps."),
        Field("pids", Number("processes and threads", least=1, most=MAX_PIDS, whole=True), "Processes and threads."),
    ),
)
SNAPSHOT: Final = Record(
    SnapshotPolicy,
    (
        Field("every", Number("seconds", least=MIN_SNAPSHOT, most=MAX_TIMEOUT), "Seconds between two snapshots."),
        Field("on_change", Flag(), "true: soon after the plugin called context.state_changed(), at most once a second."),
    ),
)
STATE: Final = Record(
    StateDeclaration,
    (
        Field("version", _STATE_VERSION, "Schema version of the plugin's state; raise it when the shape of the state changes."),
        Field(
            "migrates",
            ListOf(_STATE_VERSION, "a list of state versions", unique=int, unique_items=True),
            "Other versions its migration reads and writes; left out: the plugin is asked.",
        ),
        Field("snapshot", SNAPSHOT, "When the host saves the state by itself, so that a worker that dies loses little."),
    ),
)
#: Programs that can run a container.
RUNTIMES: Final = ("runc", "crun", "runsc")


def container(rule: Callable[[str], str | None]) -> Record:
    """Return the keys of a container, whose image has a name by this rule."""
    return Record(
        Container,
        (
            Field("runtime", Choice(RUNTIMES), "The program that runs it; the first that works here if left out."),
            Field(
                "image",
                Text("a reference of an image such as docker.io/library/python:3.11-slim", rule=rule),
                "An image to run it in, which is here already; the host's own system and interpreter if left out.",
            ),
        ),
    )


VM: Final = Record(
    VirtualMachine,
    (Field("spare", Flag(), "true: another machine stands by, and takes the place of one that dies; it takes as much memory again."),),
)


MANIFEST: Final = Record(
    Manifest,
    (
        Field("name", _NAME, "Name of the plugin, unique in a host.", required=True),
        Field(
            "version",
            Text("a PEP 440 version such as 1.2.0", rule=_version_problem, number_as_text=True),
            "Version of the plugin.",
            required=True,
        ),
        Field("description", Text(), "One sentence for people."),
        Field("author", Text(), "Who made it."),
        Field("license", Text(), "SPDX licence expression."),
        Field(
            "capabilities",
            ListOf(Choice(CAPABILITIES), "a list of capabilities", unique=str, unique_items=True),
            "What it offers.",
        ),
        Field(
            "permissions",
            PERMISSIONS,
            "What it asks to touch. Nothing is granted by asking; it does not start before all of it is granted.",
        ),
        Field("optional_permissions", PERMISSIONS, "What it asks to touch and can do without."),
        Field("resources", RESOURCES, "What it may use; a key left out means no limit is declared."),
        Field("isolation", Choice(tuple(Isolation), Isolation), "How far it is kept from the host; process if left out."),
        Field("container", container(stored_problem), "How it is run at level container."),
        Field("vm", VM, "How it is run at level vm."),
        Field(
            "dependencies",
            ListOf(
                DEPENDENCY, "a list of mappings with name, version, optional", unique=lambda dependency: canonical_name(dependency.name)
            ),
            "Other plugins it needs.",
        ),
        Field("config", Plain(), "Default configuration, overridden by the host's."),
        Field("config_schema", Plain("a JSON Schema (a mapping)", rule=_json_schema), "JSON Schema of its configuration."),
        Field("state", STATE, "What it says about its state."),
        Field(
            "threads",
            Number("calls", least=1, most=MAX_THREADS, whole=True),
            "Calls that may run at once at levels thread and process; 1 if left out.",
        ),
        Field(
            "timeout", Number("seconds", above=0, most=MAX_TIMEOUT), "Seconds a caller waits for one call; the host's default if left out."
        ),
        Field(
            "entry",
            Text("module or module:attribute", rule=_entry_problem),
            "Where the plugin object is, for a source without entry points.",
        ),
    ),
    extensions="extensions",
)
