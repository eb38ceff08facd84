"""What a plugin was granted it has behind its walls, and no more; without walls that hold, its code does not come into the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.errors import IsolationUnavailable, LoadFailed
from blackhole_core.executor import startup
from blackhole_core.executor.confinement import Confinement, Sandbox, Unenforced
from blackhole_core.executor.sandbox import walls
from blackhole_core.executor.sandbox.kernel import open_exactly
from blackhole_core.executor.wire.policy import Layer, WallReport
from tests.bubbles import require_bubblewrap
from tests.confined import EVALUATING
from tests.stage import Running, Stage

_IMPORTED = "import pathlib\npathlib.Path({mark!r}).touch()\n"


def _start(stage: Stage, tmp_path: Path, *permissions: str, source: str = EVALUATING, **confinement: Any) -> Running:
    walls = Confinement(**{"sandbox": Sandbox.NATIVE, "requested": permissions, "granted": permissions, **confinement})
    return stage.start("adhoc", confinement=walls, **stage.write(tmp_path / "plugin", source))


@pytest.fixture(params=["namespaces", "no namespaces", "bubblewrap"])
def sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """With all layers there are, without those that an administrator may forbid, and inside ``bwrap``."""
    if request.param == "bubblewrap":
        require_bubblewrap()
        return Sandbox.BUBBLEWRAP
    if request.param == "no namespaces":
        report = WallReport(dict.fromkeys((Layer.LANDLOCK, Layer.SECCOMP), ""))
        monkeypatch.setattr(walls, "what_holds", lambda import_path: report)
    return Sandbox.NATIVE


def test_files(stage: Stage, tmp_path: Path, sandbox: Sandbox) -> None:
    """What was granted to be read can be read, what was granted to be written can be written, their neighbours neither."""
    for name in ("read", "written", "neither"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    plugin = _start(stage, tmp_path, f"filesystem:read:{tmp_path}/read", f"filesystem:write:{tmp_path}/written", sandbox=sandbox)
    tries = {name: plugin("raw", f"open({str(tmp_path / name / 'file')!r}).read()") for name in ("read", "written", "neither")}
    assert tries == {"read": "read", "written": "written", "neither": tries["neither"]}
    assert tries["neither"] in {"FileNotFoundError", "PermissionError"}
    assert plugin("raw", f"open({str(tmp_path / 'written' / 'new')!r}, 'w').write('here')") == 4
    assert (tmp_path / "written" / "new").read_text() == "here"
    assert plugin("raw", f"open({str(tmp_path / 'read' / 'new')!r}, 'w')") in {"OSError", "PermissionError"}
    assert plugin.runner.enforcement() == {
        f"filesystem:read:{tmp_path}/read": "kernel",
        f"filesystem:write:{tmp_path}/written": "kernel",
    }


def test_programs(stage: Stage, tmp_path: Path, sandbox: Sandbox) -> None:
    """The program that was granted runs, behind the same walls; another one does not."""
    plugin = _start(stage, tmp_path, "process:exec:/bin/echo", "process:exec:/bin/cat", sandbox=sandbox)
    assert plugin("raw", "subprocess.run(['/bin/echo', 'hi'], capture_output=True).stdout") == b"hi\n"
    assert plugin("raw", "subprocess.run(['/bin/ls']).returncode") in {"PermissionError", "FileNotFoundError"}
    assert plugin("raw", "subprocess.run(['/bin/cat', '/etc/passwd'], capture_output=True).stdout") == b""


@pytest.mark.parametrize("permission", ["filesystem", "filesystem:read:/"])
def test_all_files(permission: str, stage: Stage, tmp_path: Path, sandbox: Sandbox) -> None:
    """It sees the host's files, none of which it can write; /dev, /proc and temporary files are still its own."""
    (tmp_path / "file").write_text("here")
    plugin = _start(stage, tmp_path, permission, sandbox=sandbox)
    assert plugin("raw", "open('/etc/passwd').read()") == Path("/etc/passwd").read_text()
    assert plugin("raw", f"open({str(tmp_path / 'file')!r}).read()") == "here"
    assert plugin("raw", f"open({str(tmp_path / 'file')!r}, 'w')") in {"OSError", "PermissionError"}
    assert plugin("raw", f"os.listdir('/proc/{os.getpid()}/fd')") in {"FileNotFoundError", "PermissionError"}
    assert plugin("raw", "__import__('tempfile').TemporaryFile().write(b'here')") == 4


def test_a_grant_that_leads_elsewhere(stage: Stage, tmp_path: Path) -> None:
    """A17: a link in a directory that the plugin can write does not widen its grants: it does not start, and why is said."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "out").symlink_to("/etc")
    with pytest.raises(
        LoadFailed, match="what it was granted cannot be given: .*/data/out leads to /etc, out of .*/data, which the plugin can write"
    ):
        _start(stage, tmp_path, "filesystem:read:${data}/out", data=tmp_path / "data")


def test_a_link_that_was_put_there_meanwhile(tmp_path: Path) -> None:
    """What the host resolved has no link in it; one that is there now is not followed, in no part of the path."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for path in (tmp_path / "link", tmp_path / "link" / "below"):
        with pytest.raises(OSError, match="openat2"):
            open_exactly(bytes(path))


def test_walls_that_do_not_hold(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H7: what was promised by the machine is tried by the worker, which does not import the plugin when it was wrong."""
    monkeypatch.setattr(walls, "what_holds", lambda import_path: WallReport({Layer.UTS: ""}))
    mark = tmp_path / "imported"
    source = _IMPORTED.format(mark=str(mark)) + EVALUATING
    with pytest.raises(IsolationUnavailable, match=r"a worker tried its own walls, and they do not hold \(files: it can read /etc/"):
        _start(stage, tmp_path, source=source)
    with monkeypatch.context() as careless:
        careless.setattr(
            startup, "refuse_open", lambda policy, report, level: None
        )  # the worker itself does not go on, whatever its host does
        with pytest.raises(LoadFailed, match="before it was ready"):
            _start(stage, tmp_path, source=source)
    assert not mark.exists()
    permission = f"filesystem:read:{tmp_path}"
    plugin = _start(stage, tmp_path, permission, source=source, unenforced=Unenforced.ALLOW)
    assert mark.exists()
    assert plugin.runner.enforcement() == {permission: "none"}
    assert set(plugin.remote.facts.walls_report.open) >= {"files", "network", "programs", "processes"}
