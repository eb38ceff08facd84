"""The host's configuration: ``blackhole.yaml`` or ``PluginManager(config=…)``, checked as strictly as a manifest.

What the operator writes here wins over what a manifest declares. Every problem is reported at once, with file, line, path,
what was wanted and what was found.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from blackhole_core.errors import ConfigError
from blackhole_core.executor.confinement import Sandbox, Unenforced
from blackhole_core.executor.runner import Limits
from blackhole_core.executor.wire.frames import DEFAULT_MAX_MESSAGE
from blackhole_core.hooks.telemetry import DEFAULT_SAMPLE
from blackhole_core.ids import NAME, Isolation, canonical_name
from blackhole_core.lifecycle.breaker import BreakerPolicy
from blackhole_core.lifecycle.guard import GuardPolicy
from blackhole_core.lifecycle.restart import RestartPolicy
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.manifest.fields import PERMISSIONS, RESOURCES, VM, container
from blackhole_core.manifest.images import reference_problem
from blackhole_core.manifest.kinds import Choice, Field, Flag, Kind, ListOf, Number, Plain, Record, Report, Text
from blackhole_core.manifest.model import Container, Resources, VirtualMachine
from blackhole_core.manifest.yaml import Node, load_strict

__all__ = ["HostConfig", "PluginConfig", "TelemetryConfig", "config_schema", "parse_config", "read_config"]

#: Bytes of a configuration file; a host with a thousand configured plugins stays below it.
MAX_CONFIG: Final = 1024 * 1024
#: Seconds; a week. A longer deadline is a mistake.
_MAX_SECONDS: Final = 7 * 24 * 3600
#: Deaths; so many are remembered.
_MAX_POISON_DEATHS: Final = 64
#: Calls; more threads than a host has.
_MAX_CALLS: Final = 100_000
#: Bytes; what one frame of the protocol can carry.
_MAX_MESSAGE: Final = 2**31


@attrs.frozen(kw_only=True)
class _Shared:
    """What may be said of all plugins and of one; None where nothing was said."""

    call_timeout: float | None = None
    start_timeout: float | None = None
    stop_grace: float | None = None
    hang_grace: float | None = None
    heartbeat: float | None = None
    hung_after: float | None = None
    poison_deaths: int | None = None
    probation: float | None = None
    max_calls: int | None = None
    breaker: BreakerPolicy | None = None
    drain_timeout: float | None = None
    state_timeout: float | None = None
    max_message: int | None = None
    share_results: bool | None = None
    sandbox: Sandbox | None = None
    unenforced: Unenforced | None = None
    isolation_fallback: Isolation | None = None
    container: Container | None = None
    vm: VirtualMachine | None = None
    restart: RestartPolicy | None = None


@attrs.frozen(kw_only=True)
class PluginConfig(_Shared):
    """What the operator says of one plugin; None where nothing was said."""

    isolation: Isolation | None = None
    source: str | None = None
    version: str | None = None
    enabled: bool = True
    threads: int | None = None
    config: Mapping[str, Any] = attrs.field(factory=dict)
    environment: tuple[str, ...] = ()
    grant: tuple[str, ...] = ()
    resources: Resources = Resources()


@attrs.frozen
class TelemetryConfig:
    """That hook calls are counted, and one in ``sample`` is timed."""

    sample: int = DEFAULT_SAMPLE


@attrs.frozen(kw_only=True)
class HostConfig(_Shared):
    """A checked configuration. ``directory`` is what relative paths in it are relative to."""

    project: str | None = None
    specs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    state_dir: str | None = None
    default_isolation: Isolation | None = None
    safe_mode: bool = False
    audit: bool = False
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    keep_snapshots: int = 10
    zygote: str = "lazy"
    telemetry: TelemetryConfig | None = None
    plugins: Mapping[str, PluginConfig] = attrs.field(factory=dict)
    directory: Path = attrs.field(factory=Path.cwd)

    def path(self, text: str) -> Path:
        """Return a path of the configuration, made absolute by where the configuration lies."""
        return self.directory / Path(text).expanduser()

    def plugin(self, name: str) -> PluginConfig:
        """Return what is said of the plugin ``name``, in any spelling of its name."""
        wanted = canonical_name(name)
        return next((said for known, said in self.plugins.items() if canonical_name(known) == wanted), PluginConfig())

    def settings(self, name: str, default_isolation: Isolation) -> Settings:
        """Return the settings of the plugin ``name``: what is said of it, else of all plugins, else the defaults."""
        said = self.plugin(name)

        def choose(key: str, default: Any) -> Any:
            return next((value for value in (getattr(said, key), getattr(self, key)) if value is not None), default)

        defaults, limits = Settings(), Limits()
        return Settings(
            isolation=said.isolation,
            default_isolation=self.default_isolation or default_isolation,
            limits=Limits(
                call_timeout=choose("call_timeout", limits.call_timeout),
                start_timeout=choose("start_timeout", limits.start_timeout),
                stop_grace=choose("stop_grace", limits.stop_grace),
                hang_grace=choose("hang_grace", limits.hang_grace),
                heartbeat=choose("heartbeat", limits.heartbeat),
                hung_after=choose("hung_after", limits.hung_after),
                poison_deaths=choose("poison_deaths", limits.poison_deaths),
                threads=said.threads or limits.threads,
                max_message=choose("max_message", DEFAULT_MAX_MESSAGE),
                share_results=choose("share_results", limits.share_results),
            ),
            call_timeout_set=said.call_timeout is not None,
            threads_set=said.threads is not None,
            start_timeout_set=choose("start_timeout", None) is not None,
            config=said.config,
            environment={variable: os.environ[variable] for variable in said.environment if variable in os.environ},
            sandbox=choose("sandbox", defaults.sandbox),
            unenforced=choose("unenforced", defaults.unenforced),
            isolation_fallback=choose("isolation_fallback", defaults.isolation_fallback),
            container=choose("container", defaults.container),
            vm=choose("vm", defaults.vm),
            grant=said.grant,
            resources=said.resources,
            restart=choose("restart", defaults.restart),
            probation=choose("probation", defaults.probation),
            guard=GuardPolicy(choose("breaker", None), choose("max_calls", None)),
            drain_timeout=choose("drain_timeout", defaults.drain_timeout),
            state_timeout=choose("state_timeout", defaults.state_timeout),
        )


# --- the table -------------------------------------------------------------------------------------------------------


@attrs.frozen
class _MapOf:
    """A mapping from names to one kind."""

    item: Kind
    wanted: str

    def read(self, node: Node, path: tuple[str | int, ...], report: Report) -> Mapping[str, Any]:
        if not isinstance(node.value, dict):
            report.add(node, path, self.wanted)
            return {}
        seen: dict[str, str] = {}
        for name, child in node.value.items():
            if NAME.fullmatch(name) is None:
                report.add(child, (*path, name), "the name of a plugin", repr(name))
            twin = seen.setdefault(canonical_name(name), name)
            if twin != name:
                report.add(child, (*path, name), "each plugin only once", f"{name!r}, which is {twin!r} in another spelling")
        return {name: self.item.read(child, (*path, name), report) for name, child in node.value.items()}

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.item.schema()}


@attrs.frozen
class _Restart:
    """The restart policy, whose keys must fit together."""

    record: Record

    def read(self, node: Node, path: tuple[str | int, ...], report: Report) -> RestartPolicy | None:
        try:
            policy: RestartPolicy | None = self.record.read(node, path, report)
        except ValueError as error:
            report.add(node, path, "settings that fit together", str(error))
            return None
        return policy

    def schema(self) -> dict[str, Any]:
        return self.record.schema()


def _name_list(what: str) -> ListOf:
    return ListOf(Text(), f"a list of {what}")


_SECONDS: Final = Number("seconds", above=0, most=_MAX_SECONDS)
_GRACE: Final = Number("seconds", least=0, most=_MAX_SECONDS)
_LEVEL: Final = Choice(tuple(Isolation), Isolation)
_RESTART: Final = _Restart(
    Record(
        RestartPolicy,
        (
            Field("intensity", Number("restarts", least=0, most=1000, whole=True), "Restarts allowed within the period."),
            Field("period", _SECONDS, "The period, seconds."),
            Field(
                "delay",
                _GRACE,
                "Seconds before the second restart of a period; the first is immediate, each further one waits twice as long.",
            ),
            Field("max_delay", _GRACE, "The longest such wait, seconds."),
        ),
    )
)
_BREAKER: Final = Record(
    BreakerPolicy,
    (
        Field("failures", Number("failures", least=1, most=1000, whole=True), "Failures within the period that open it."),
        Field("period", _SECONDS, "The period, seconds."),
        Field("open", _SECONDS, "Seconds for which calls are refused before one is tried."),
    ),
)
_TELEMETRY: Final = Record(
    TelemetryConfig,
    (Field("sample", Number("calls", least=1, most=1_000_000, whole=True), "One call in so many is timed; all are counted."),),
)
#: What may be said of all plugins and of one.
_SHARED: Final = (
    Field("call_timeout", _SECONDS, "Seconds a caller waits for one call at levels thread and process."),
    Field("start_timeout", _SECONDS, "Seconds a plugin may take to start."),
    Field("stop_grace", _GRACE, "Seconds between asking a plugin to stop and ending it."),
    Field("hang_grace", _GRACE, "Seconds a call may run on after its caller gave up, before its thread or worker counts as hung."),
    Field("heartbeat", _SECONDS, "Seconds between two questions to a worker that owes an answer whether it is alive."),
    Field("hung_after", _GRACE, "Seconds without an answer to that after which it is ended as hung; 0: never."),
    Field(
        "poison_deaths",
        Number("workers", least=0, most=_MAX_POISON_DEATHS, whole=True),
        "Workers that one and the same call may end before it is not run any more; 0: any number.",
    ),
    Field("probation", _GRACE, "Seconds after a swap in which a death of the new version brings the old one back; 0: it does not."),
    Field(
        "max_calls",
        Number("calls", least=1, most=_MAX_CALLS, whole=True),
        "Calls of the plugin that may wait or run at once; one more fails at once.",
    ),
    Field("breaker", _BREAKER, "When a plugin that fails is not called for a while; {} is enough to turn it on."),
    Field("drain_timeout", _GRACE, "Seconds a swap waits for calls that had begun."),
    Field("state_timeout", _SECONDS, "Seconds for each of export, migration and import of state."),
    Field("max_message", Number("bytes", least=1024, most=_MAX_MESSAGE, whole=True), "Bytes of one call or reply at level process."),
    Field("share_results", Flag(), "true: the host looks at arrays among results where the worker put them, who could still change them."),
    Field("sandbox", Choice(tuple(Sandbox), Sandbox), "What builds the walls around a worker at level process."),
    Field(
        "unenforced",
        Choice(tuple(Unenforced), Unenforced),
        "Whether a plugin starts of which a denial or limit cannot be enforced here.",
    ),
    Field("isolation_fallback", _LEVEL, "The level for a plugin whose own cannot run here; if left out such a plugin does not start."),
    Field("container", container(reference_problem), "How it is run at level container, whatever its manifest says."),
    Field("vm", VM, "How it is run at level vm, whatever its manifest says."),
    Field("restart", _RESTART, "When a plugin that dies is given up."),
)
_PLUGIN: Final = Record(
    PluginConfig,
    (
        Field("isolation", _LEVEL, "The level it runs at, whatever its manifest says."),
        Field("source", Text(), "A directory, a wheel or a directory of wheels to take it from."),
        Field("version", Text(number_as_text=True), "The version to load; the highest if left out."),
        Field("enabled", Flag(), "false: it is not loaded."),
        Field("threads", Number("calls", least=1, most=1024, whole=True), "Calls that may run at once."),
        *_SHARED,
        Field("config", Plain(), "Its configuration, over the manifest's defaults."),
        Field("environment", _name_list("names of environment variables"), "Variables of the host that its worker gets."),
        Field("grant", PERMISSIONS, "Permissions it is granted, of those it asks for."),
        Field("resources", RESOURCES, "Its limits; each that is named wins over the manifest's."),
    ),
)
_HOST: Final = Record(
    HostConfig,
    (
        Field("project", Text(), "Project name of the hooks, and the entry point group; for ``blackhole run``."),
        Field("specs", _name_list("module:Class of hook specs"), "Hook specs to add; for ``blackhole run``."),
        Field(
            "sources",
            _name_list("paths"),
            "Directories, wheels and directories of wheels to look for plugins in, beside the installed ones.",
        ),
        Field("state_dir", Text(), "Where snapshots and unpacked wheels are kept."),
        Field("default_isolation", _LEVEL, "Level of plugins without a manifest."),
        Field("safe_mode", Flag(), "true: load nothing."),
        Field("audit", Flag(), "true: tell what plugins at levels none and thread do that their permissions do not name."),
        Field("allow", _name_list("plugin names or patterns"), "Only these may be loaded."),
        Field("deny", _name_list("plugin names or patterns"), "These may not be loaded; wins over allow."),
        Field("watch", _name_list("plugin names"), "Plugins to reload when their source changes; for ``blackhole run``."),
        Field("telemetry", _TELEMETRY, "Count and time hook calls; {} is enough to turn it on."),
        Field("keep_snapshots", Number("snapshots", least=1, most=10_000, whole=True), "Snapshots kept per plugin."),
        Field(
            "zygote",
            Choice(("lazy", "ahead", "off")),
            "Fork workers from a process started with the first of them, or with the host, or execute each worker.",
        ),
        *_SHARED,
        Field("plugins", _MapOf(_PLUGIN, "a mapping of plugin names to their settings"), "Settings of single plugins."),
    ),
)


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``blackhole.yaml``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Blackhole host configuration", **_HOST.schema()}


def read_config(path: Path) -> HostConfig:
    """Read and check ``blackhole.yaml``.

    :raises ConfigError: every problem in it.
    :raises OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_CONFIG + 1)
    document = load_strict(data, file=str(path), max_bytes=MAX_CONFIG)
    if document.root is None:
        raise ConfigError(document.problems)
    return _check(document.root, str(path), path.absolute().parent, document.problems)


def parse_config(value: Mapping[str, Any] | HostConfig | Path | str | None) -> HostConfig:
    """Return the configuration from what a program gives: a mapping of the same shape as the file, its path, or nothing."""
    if value is None:
        return HostConfig()
    if isinstance(value, HostConfig):
        return value
    if isinstance(value, str | Path):
        return read_config(Path(value))
    return _check(_node(value), "config", Path.cwd(), ())


def _check(root: Node, file: str, directory: Path, problems: tuple[Any, ...]) -> HostConfig:
    report = Report(file)
    config: HostConfig | None = _HOST.read(root, (), report)
    found = [*problems, *report.problems]
    if found or config is None:
        raise ConfigError(sorted(found, key=lambda problem: problem.line or 0))
    return attrs.evolve(config, directory=directory)


def _node(value: Any) -> Node:
    """Return a plain value as the tree a file would give; line 0 means "not from a file"."""
    if isinstance(value, Mapping):
        return Node({str(key): _node(item) for key, item in value.items()}, 0)
    if isinstance(value, list | tuple | set | frozenset):
        return Node([_node(item) for item in value], 0)
    return Node(str(value) if isinstance(value, Path | Isolation) else value, 0)
