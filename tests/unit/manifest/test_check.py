"""The rules of ``plugin.yaml``: what is impossible is named, all of it at once."""

from __future__ import annotations

import pytest

from blackhole_core.errors import ManifestError, Problem
from blackhole_core.ids import Isolation
from blackhole_core.manifest.model import Dependency, Manifest, Resources, StateDeclaration
from blackhole_core.manifest.parse import parse_manifest

HEAD = "name: echo\nversion: 1.0.0\n"

SEED = b"""\
name: echo
version: 1.0.0
description: Simple echo plugin for testing
author: Blackhole Team
license: MIT

capabilities:
  - computation

permissions:
  - network

resources:
  cpu: 50      # 50% of one core
  memory: 100  # 100MB

isolation: process

dependencies: []
"""


def parse(text: str) -> Manifest:
    return parse_manifest(text.encode(), file="plugin.yaml")


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    return caught.value.problems


def test_the_seeds_manifest() -> None:
    """The manifest that the project began with is read, field for field."""
    assert parse_manifest(SEED, file="plugin.yaml") == Manifest(
        name="echo",
        version="1.0.0",
        description="Simple echo plugin for testing",
        author="Blackhole Team",
        license="MIT",
        capabilities=("computation",),
        permissions=("network",),
        resources=Resources(cpu=50.0, memory=100.0),
        isolation=Isolation.PROCESS,
    )


def test_every_key() -> None:
    """Each key reaches its field."""
    manifest = parse(
        HEAD + "isolation: none\nthreads: 4\ntimeout: 1.5\nentry: a.b:C.d\nstate: {version: 3, migrates: [1, 2]}\n"
        "resources: {cpu: 0.5, memory: 64, disk: 10, network: 2.5, pids: 8}\n"
        "dependencies:\n  - {name: store, version: '>=1,<2'}\n  - {name: log, optional: true}\n"
        "config: {a: {b: [1]}}\nconfig_schema: {type: object, properties: {a: true}, required: [a]}\nx-mine: {deep: [1]}\n"
    )
    assert manifest.isolation is Isolation.NONE
    assert (manifest.threads, manifest.timeout, manifest.entry) == (4, 1.5, "a.b:C.d")
    assert manifest.state == StateDeclaration(version=3, migrates=(1, 2))
    assert manifest.resources == Resources(cpu=0.5, memory=64.0, disk=10.0, network=2.5, pids=8)
    assert manifest.dependencies == (Dependency("store", ">=1,<2"), Dependency("log", optional=True))
    assert manifest.config == {"a": {"b": [1]}}
    assert manifest.config_schema == {"type": "object", "properties": {"a": True}, "required": ["a"]}
    assert manifest.extensions == {"x-mine": {"deep": [1]}}


def test_defaults() -> None:
    """A manifest of a name and a version has the defaults: level process, one call at a time, no limits."""
    assert parse(HEAD) == Manifest(name="echo", version="1.0.0")


@pytest.mark.parametrize(("written", "meant"), [("1.0", "1.0"), ("1.10", "1.10"), ("2", "2"), ("'1.10'", "1.10"), ("1.0.0rc1", "1.0.0rc1")])
def test_version_without_quotes(written: str, meant: str) -> None:
    """An unquoted version is what the author wrote, though YAML reads ``1.10`` as the number 1.1."""
    assert parse(f"name: echo\nversion: {written}\n").version == meant


@pytest.mark.parametrize(
    ("line", "path", "wanted", "got"),
    [
        ("isolaton: process", "isolaton", "one of the keys name, version", "an unknown key; did you mean 'isolation'?"),
        ("x-: 1", "x-", "your own x-… key", "an unknown key"),
        ("isolation: 'Process '", "isolation", "one of none, thread, process, container, vm", "'Process '; did you mean 'process'?"),
        ("isolation: Process", "isolation", "one of none, thread, process, container, vm", "'Process'"),
        ("isolation: null", "isolation", "one of none", "nothing (null)"),
        ("isolation: [process]", "isolation", "one of none", "a list"),
        ("resources: {cpu: -1}", "resources.cpu", "a number above 0", "-1"),
        ("resources: {cpu: 0}", "resources.cpu", "a number above 0", "0"),
        ("resources: {cpu: 1e999}", "resources.cpu", "a number above 0", "1e999"),
        ("resources: {cpu: .nan}", "resources.cpu", "a number above 0", ".nan"),
        ("resources: {cpu: .inf}", "resources.cpu", "a number above 0", ".inf"),
        ("resources: {cpu: '100'}", "resources.cpu", "a number above 0", "'100'; write it without quotes"),
        ("resources: {cpu: true}", "resources.cpu", "a number above 0", "true"),
        ("resources: {cpu: 50%}", "resources.cpu", "a number above 0", "'50%'"),
        ("resources: {memory: 0}", "resources.memory", "a number above 0 up to 16000000 MB", "0"),
        ("resources: {memory: 9999999999}", "resources.memory", "up to 16000000 MB", "9999999999"),
        ("resources: {disk: [1]}", "resources.disk", "MB", "a list"),
        ("resources: {network: -0.1}", "resources.network", "Mbps", "-0.1"),
        ("resources: {pids: 1.5}", "resources.pids", "a whole number from 1", "1.5"),
        ("resources: {pids: 0}", "resources.pids", "a whole number from 1", "0"),
        ("resources: {pids: true}", "resources.pids", "a whole number from 1", "true"),
        ("resources: {ram: 1}", "resources.ram", "one of the keys cpu, memory, disk, network, pids", "an unknown key"),
        ("resources: {x-ram: 1}", "resources.x-ram", "one of the keys cpu", "an unknown key"),
        ("resources: 5", "resources", "a mapping with the keys cpu", "5"),
        ("threads: 0", "threads", "a whole number from 1 up to 1024", "0"),
        ("threads: 1025", "threads", "a whole number from 1 up to 1024", "1025"),
        ("timeout: 0", "timeout", "a number above 0", "0"),
        ("timeout: .inf", "timeout", "a number above 0", ".inf"),
        ("capabilities: [storage, strage]", "capabilities[1]", "one of storage, networking", "'strage'; did you mean 'storage'?"),
        ("capabilities: [ui, ui]", "capabilities[1]", "each only once", "'ui' again (first at capabilities[0])"),
        ("capabilities: storage", "capabilities", "a list of capabilities", "'storage'"),
        ("description:", "description", "text", "nothing (null)"),
        ("description: 5", "description", "text", "5"),
        ('author: "a\\x1b[2J"', "author", "text without control characters", "U+001B"),
        ('author: "a\\u202eb"', "author", "text without control characters", "U+202E"),
        ("entry: a/b.py", "entry", "module or module:attribute", "'a/b.py'"),
        ("entry: ../a:b", "entry", "module or module:attribute", "'../a:b'"),
        ("entry: 'a:'", "entry", "module or module:attribute", "'a:'"),
        ("entry: a.class:b", "entry", "module or module:attribute", "'a.class:b'"),
        ("container: {image: 'Tools:1'}", "container.image", "a reference of an image", "'Tools:1'"),
        (
            "container: {image: 'oci:/srv/tools'}",
            "container.image",
            "a reference of an image",
            "'oci:/srv/tools'; only the host's configuration can",
        ),
        ("config: []", "config", "a mapping", "a list"),
        ("config_schema: true", "config_schema", "a JSON Schema (a mapping)", "true"),
        ("config_schema: {type: dict}", "config_schema.type", "one of null, boolean", "'dict'"),
        ("config_schema: {type: string}", "config_schema.type", "object, because config is a mapping", "'string'"),
        ("config_schema: {properties: [a]}", "config_schema.properties", "a mapping of keys to schemas", "a list"),
        ("config_schema: {properties: {a: text}}", "config_schema.properties.a", "a schema (a mapping)", "'text'"),
        ("config_schema: {required: a}", "config_schema.required", "a list of keys", "'a'"),
        ("state: {version: -1}", "state.version", "a whole number from 0", "-1"),
        ("state: {version: 1.0}", "state.version", "a whole number from 0", "1.0"),
        ("state: {migrates: 1}", "state.migrates", "a list of state versions", "1"),
        ("state: {snapshot: {}}", "state.snapshot", "every or on_change: true, or both", "neither"),
        ("state: {snapshot: {on_change: false}}", "state.snapshot", "every or on_change: true, or both", "neither"),
        ("state: {snapshot: {every: 0.5}}", "state.snapshot.every", "a number from 1 up to 2678400 seconds", "0.5"),
        ("state: {snapshot: {every: 5, often: true}}", "state.snapshot.often", "one of the keys every, on_change", "an unknown key"),
        ("state: {migrates: [1, 1]}", "state.migrates[1]", "each only once", "1 again"),
        ("dependencies: {a: 1}", "dependencies", "a list of mappings", "a mapping"),
        ("dependencies: [a]", "dependencies[0]", "a mapping with the keys name, version, optional", "'a'"),
        ("dependencies: [{version: '>1'}]", "dependencies[0].name", "this key", "nothing; it must be there"),
        ("dependencies: [{name: a, version: 1.0}]", "dependencies[0].version", "a PEP 440 range", "1.0; write >=1.0 or ==1.0"),
        ("dependencies: [{name: a, version: '>=x'}]", "dependencies[0].version", "a PEP 440 range", "'>=x'"),
        ("dependencies: [{name: a, optional: yes}]", "dependencies[0].optional", "true or false", "'yes'"),
        ("dependencies: [{name: a_b}, {name: A-B}]", "dependencies[1]", "each only once", "'a-b' again (first at dependencies[0])"),
        ("dependencies: [{name: Echo}]", "dependencies[0].name", "another plugin", "'Echo', the plugin itself"),
    ],
)
def test_one_problem(line: str, path: str, wanted: str, got: str) -> None:
    """A47: an impossible declaration is one problem that names file, line, path, what was wanted and what was got."""
    (problem,) = problems(HEAD + line + "\n")
    assert (problem.file, problem.line, problem.path) == ("plugin.yaml", 3, path)
    assert wanted in problem.wanted
    assert got in problem.got


@pytest.mark.parametrize("name", ["", "a b", "-a", "a-", "\u0430pple", "a/b", "..", "a" * 101, "a\\n"])
def test_names_that_are_none(name: str) -> None:
    """A61: a name is ASCII letters, digits, dots, dashes; a Cyrillic look-alike is refused."""
    (problem,) = problems(f'name: "{name}"\nversion: "1"\n')
    assert problem.path == "name"


@pytest.mark.parametrize("version", ["latest", "1.0-final-2", "v", "", "1..0", "1.0 ; rm"])
def test_versions_that_are_none(version: str) -> None:
    """A version that PEP 440 does not know is refused."""
    (problem,) = problems(f"name: echo\nversion: '{version}'\n")
    assert problem.path == "version"


def test_what_must_be_there() -> None:
    """Name and version must be there; both are named when both are missing."""
    assert [problem.path for problem in problems("description: x\n")] == ["name", "version"]


def test_all_problems_at_once_in_the_order_of_lines() -> None:
    """Problems of the reader and of the rules come together, by line."""
    found = problems("name: 'a b'\nversion: x\nresources: {cpu: -1, cpu: 5}\nthreads: &t 0\nisolatio: 1\n")
    assert [(problem.line, problem.path) for problem in found] == [
        (1, "name"),
        (2, "version"),
        (3, "resources.cpu"),
        (3, "resources.cpu"),
        (4, "threads"),
        (4, "threads"),
        (5, "isolatio"),
    ]


def test_the_error_prints_every_problem() -> None:
    """The error's text has a line for each problem, beginning with file and line as editors jump to."""
    with pytest.raises(ManifestError) as caught:
        parse("name: echo\nversion: x\nthreads: 0\n")
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["plugin.yaml:2:", "plugin.yaml:3:"]


@pytest.mark.parametrize(
    "permission",
    [
        "network",
        "filesystem",
        "system",
        "other_plugins",
        "user_data",
        "filesystem:read:/srv/models",
        "filesystem:write:${data}",
        "filesystem:read:${plugin}/data files.txt".replace(" ", "_"),
        "network:connect:api.example.org:443",
        "network:connect:*.example.org",
        "network:connect:10.0.0.0/8",
        "network:connect:[::1]:80",
        "network:listen:127.0.0.1:8080",
        "process:exec:/usr/bin/git",
        "env:HTTP_PROXY",
        "device:gpu",
        "plugin:call:vendor.store/hook",
        "plugin:event:vendor.*",
        "host:log",
    ],
)
def test_permissions(permission: str) -> None:
    """The whole vocabulary of permissions is taken."""
    assert parse(HEAD + f"permissions: ['{permission}']\n").permissions == (permission,)


@pytest.mark.parametrize(
    ("permission", "got"),
    [
        ("netwrok", "did you mean 'network'?"),
        ("Network", "did you mean 'network'?"),
        ("", "the words are"),
        ("fs:read:/a", "the areas are"),
        ("filesystem:raed:/a", "did you mean 'read'?"),
        ("filesystem:read", "needs a value"),
        ("filesystem:read:relative", "a path is absolute"),
        ("filesystem:read:/a/../../etc", "no .. in it"),
        ("filesystem:read:${data}/..", "no .. in it"),
        ("filesystem:read:${home}/x", "a path is absolute or begins with ${data}"),
        ("filesystem:read:/proc/self", "/proc, /sys and /dev"),
        ("filesystem:read://proc//self", "/proc, /sys and /dev"),
        ("filesystem:read:/./proc", "/proc, /sys and /dev"),
        ("filesystem:read:/dev", "/proc, /sys and /dev"),
        ("filesystem:read:/a b", "blank or control character"),
        ("process:exec:git", "absolute path"),
        ("network:connect:a:0", "port 0"),
        ("network:connect:a:70000", "port 70000"),
        ("network:connect:http://a", "an address is"),
        ("env:A=B", "the name of one variable"),
        ("device:usb", "the actions of device"),
        ("device:gpu:0", "takes no value"),
        ("plugin:call:../x", "a plugin is"),
        ("host:root", "the actions of host"),
        ("filesystem:read:/" + "a" * 2000, "more than 1024 characters"),
    ],
)
def test_permissions_that_are_none(permission: str, got: str) -> None:
    """A18, A47: a permission outside the closed grammar is refused with the reason."""
    (problem,) = problems(HEAD + f"permissions: ['{permission}']\n")
    assert problem.path == "permissions[0]"
    assert got in problem.got


@pytest.mark.parametrize("escape", ["\\0", "\\n", "\\x7f", "\\u202e"])
def test_permissions_hold_no_control_characters(escape: str) -> None:
    """A18: a NUL or control character in a path is refused."""
    (problem,) = problems(HEAD + f'permissions: ["filesystem:read:/a{escape}b"]\n')
    assert problem.path == "permissions[0]"


def test_optional_permissions() -> None:
    """What a plugin can do without stands apart."""
    manifest = parse(HEAD + "permissions: [network]\noptional_permissions: ['env:HOME', system]\n")
    assert (manifest.permissions, manifest.optional_permissions) == (("network",), ("env:HOME", "system"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("permissions: ['filesystem:read:/a', 'filesystem:read:/a//.']\n", "permissions[1]"),
        ("permissions: [network]\noptional_permissions: [system, network]\n", "optional_permissions[1]"),
        ("permissions: ['env:A', 'plugin:call:a_b']\noptional_permissions: ['plugin:call:A-B/*']\n", "optional_permissions[0]"),
    ],
)
def test_a_permission_is_asked_for_once_in_whatever_spelling(text: str, path: str) -> None:
    """A47: needed and optional exclude each other."""
    (problem,) = problems(HEAD + text)
    assert problem.path == path
    assert "again" in problem.got


def test_a_wrong_permission_among_the_optional_ones_is_one_problem() -> None:
    """It is read as strictly, and nothing else is said of it."""
    (problem,) = problems(HEAD + "permissions: [network]\noptional_permissions: [netwrok, 5]\n")[:1]
    assert problem.path == "optional_permissions[0]"
