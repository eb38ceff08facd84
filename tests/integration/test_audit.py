"""What plugins in the host's own process do beside their permissions is noticed, and never stopped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.executor import auditor
from tests.integration.managed import Log, manager

pytestmark = pytest.mark.stays  # an audit hook cannot be taken back, and costs every later swap its open hooks

CODE = '''
"""A plugin that does what it is told."""
import os
import socket
import subprocess

import blackhole_core as bh


class Doer:
    def __init__(self):
        with open(__file__) as file:
            self.code = file.read()

    @bh.hookimpl
    def plugin_handle(self, request):
        return getattr(self, request["method"])(**request["params"])

    def read(self, path):
        with open(path) as file:
            return file.read()

    def write(self, path):
        with open(path, "w") as file:
            file.write("x")

    def write_by_descriptor(self, path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))

    def rename(self, path, to):
        os.rename(path, to)

    def connect(self, port):
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass

    def listen(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))

    def execute(self):
        return subprocess.run(["/bin/true"]).returncode

    def late_import(self):
        import another_module
        return another_module.WORD

    @bh.hookimpl
    def plugin_start(self, context):
        self.hook = context.hook

    def ask(self):
        return self.hook.transform(text="x")
'''


@pytest.fixture
def doer(tmp_path: Path) -> Path:
    tree = tmp_path / "doer"
    tree.mkdir()
    (tree / "doer.py").write_text(CODE)
    return tree


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def declare(tree: Path, *permissions: str) -> Path:
    manifest = {"name": "doer", "version": "1.0.0", "entry": "doer:Doer", "optional_permissions": list(permissions)}
    (tree / "plugin.yaml").write_text(json.dumps(manifest))
    return tree


def noticed(log: Log) -> list[tuple[str, str]]:
    return [(event.data["permission"], event.data["operation"]) for event in log.of("plugin.noticed")]


@pytest.mark.parametrize("level", ["none", "thread"])
def test_what_no_permission_names_is_told_once(level: str, doer: Path, tmp_path: Path, listening: int) -> None:
    """P-01 at the levels that cannot enforce: reading, writing, connecting, listening, starting programs; all of it works, and is told."""
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("s")
    log = Log()
    with manager({"audit": True}, log=log) as pm:
        pm.load("doer", source=declare(doer, "network"), isolation=level)
        for _ in range(3):
            assert pm.execute("doer", "read", params={"path": str(secret)}) == "s"
        pm.execute("doer", "write", params={"path": str(out)})
        pm.execute("doer", "write_by_descriptor", params={"path": str(tmp_path / "fd")})
        pm.execute("doer", "rename", params={"path": str(out), "to": str(tmp_path / "b")})
        pm.execute("doer", "connect", params={"port": listening})
        pm.execute("doer", "listen")
        assert pm.execute("doer", "execute") == 0
    assert noticed(log) == [
        (f"filesystem:read:{secret}", "open"),
        (f"filesystem:write:{out}", "open"),
        (f"filesystem:write:{tmp_path}/fd", "open"),
        (f"filesystem:write:{tmp_path}/b", "os.rename"),
        (f"network:connect:127.0.0.1:{listening}", "socket.getaddrinfo"),
        ("network:listen:127.0.0.1", "socket.bind"),
        ("process:exec:/bin/true", "subprocess.Popen"),
    ]


def test_what_is_permitted_is_not_told(doer: Path, tmp_path: Path, listening: int) -> None:
    """A granted directory, address and program; its own code, which it may always read."""
    (tmp_path / "a").write_text("s")
    log = Log()
    asked = (f"filesystem:read:{tmp_path}", f"filesystem:write:{tmp_path}", "network:connect:127.0.0.0/8", "process:exec:/bin/true")
    with manager({"audit": True, "plugins": {"doer": {"grant": list(asked)}}}, log=log) as pm:
        plugin = pm.load("doer", source=declare(doer, *asked), isolation="none")
        pm.execute("doer", "read", params={"path": str(tmp_path / "a")})
        pm.execute("doer", "write", params={"path": str(tmp_path / "b")})
        pm.execute("doer", "connect", params={"port": listening})
        pm.execute("doer", "execute")
        assert set(plugin.enforcement.values()) == {"advisory"}
    assert noticed(log) == []


def test_what_the_host_does_is_not_the_plugins(doer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code outside the plugin is passed over, also where the plugin calls it by a hook; so is what an import reads."""
    log = Log()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "another_module.py").write_text("WORD = 'imported'")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")

    class OfTheHost:
        @bh.HookimplMarker("notes")
        def transform(self, text: str) -> str:
            return (tmp_path / "hosts").read_text()

    with manager({"audit": True}, log=log) as pm:
        pm.load("doer", source=declare(doer), isolation="none")
        (tmp_path / "hosts").write_text("mine")
        pm.register(OfTheHost())
        assert pm.execute("doer", "ask") == ["mine"]
        assert pm.execute("doer", "late_import") == "imported"
    assert noticed(log) == []


def test_a_flood_is_told_in_part(doer: Path, tmp_path: Path) -> None:
    """A14: one instance takes no more than a bounded number of events, and the last one says so."""
    log = Log()
    with manager({"audit": True}, log=log) as pm:
        pm.load("doer", source=declare(doer), isolation="none")
        for number in range(200):
            pm.execute("doer", "write", params={"path": str(tmp_path / f"f{number}")})
    told = log.of("plugin.noticed")
    assert len(told) == 50
    assert [event.data["last"] for event in told] == [False] * 49 + [True]


def test_no_more_than_a_bounded_number_of_operations_is_looked_at(doer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A14: each once, and after so many none: a plugin that walks a disk fills no queue."""
    looked: list[str] = []
    monkeypatch.setattr(auditor, "MAX_SEEN", 40)
    monkeypatch.setattr(auditor, "wanted_by", lambda event, args: looked.append(event) or ())
    with manager({"audit": True}) as pm:
        pm.load("doer", source=declare(doer), isolation="none")
        looked.clear()
        for _ in range(3):
            pm.execute("doer", "write", params={"path": str(tmp_path / "same")})
        assert looked == ["open"]
        for number in range(auditor.MAX_SEEN + 10):
            pm.execute("doer", "write", params={"path": str(tmp_path / f"f{number}")})
    assert len(looked) < auditor.MAX_SEEN


def test_strange_arguments_break_nothing(doer: Path) -> None:
    """What the operation itself says is what the plugin gets."""
    with manager({"audit": True}) as pm:
        pm.load("doer", source=declare(doer), isolation="none")
        for path in ("", "/no/such\nfile", "\udcff", 10**9):
            with pytest.raises((OSError, ValueError)):
                pm.execute("doer", "read", params={"path": path})


def test_without_the_key_nothing_is_hooked_and_the_levels_say_none(doer: Path) -> None:
    """An audit hook cannot be removed, so nobody gets one without asking."""
    code = """
import sys, blackhole_core as bh
added = []
sys.addaudithook(lambda event, args: added.append(event) if event == "sys.addaudithook" else None)
audit = sys.argv[2] == "True"
with bh.PluginManager("notes", config={"audit": audit}) as pm:
    plugin = pm.load("doer", source=sys.argv[1], isolation="none")
    print(len(added), *plugin.enforcement.values())
with bh.PluginManager("notes", config={"audit": audit}) as pm:
    pm.load("doer", source=sys.argv[1], isolation="none")
    print(len(added))
"""
    declare(doer, "env:HOME", "filesystem")

    def run(audit: bool) -> list[str]:
        command = [sys.executable, "-c", code, str(doer), str(audit)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=dict(os.environ)).stdout.split()

    assert run(audit=False) == ["0", "none", "none", "0"]
    assert run(audit=True) == ["1", "none", "advisory", "1"]


def test_a_plugin_that_ended_is_watched_no_longer(doer: Path, tmp_path: Path) -> None:
    """Neither it nor its modules are kept; the next version is watched anew."""
    log = Log()
    read: dict[str, Any] = {"path": str(tmp_path / "x")}
    (tmp_path / "x").write_text("s")
    with manager({"audit": True}, log=log) as pm:
        pm.load("doer", source=declare(doer), isolation="none")
        pm.execute("doer", "read", params=read)
        pm.unload("doer")
        assert log.of("plugin.leaked") == []
        pm.load("doer", source=doer, isolation="none")
        pm.execute("doer", "read", params=read)
        assert pm.plugin("doer").phase is bh.Phase.RUNNING
    assert len(noticed(log)) == 2
