"""What is particular to walls that begin with ``bwrap``; what they have in common with the others is tested with those."""

from __future__ import annotations

import os
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.cli.doctor import examine
from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.confinement import Confinement, Sandbox
from blackhole_core.executor.launch.bwrap import running
from blackhole_core.executor.launch.packages import install_command
from blackhole_core.executor.sandbox.bubblewrap import bubblewrap_here
from blackhole_core.manifest.model import Resources
from tests.bubbles import require_bubblewrap
from tests.confined import EVALUATING, run_host
from tests.stage import Running, Stage, eventually


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def _start(stage: Stage, tmp_path: Path, *permissions: str, **confinement: Any) -> Running:
    walls = Confinement(sandbox=Sandbox.BUBBLEWRAP, requested=permissions, granted=permissions, **confinement)
    return stage.start("adhoc", confinement=walls, **stage.write(tmp_path / "plugin", EVALUATING))


def test_it_is_not_there(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for and is not there is refused, with how to get it, and not replaced in silence."""
    monkeypatch.delenv("BLACKHOLE_BWRAP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    how = install_command("bubblewrap")
    sentence = rf"plugin adhoc@1.0.0 is to run with `sandbox: bubblewrap`, and there is no program bwrap on PATH; install it \({how}\)"
    with pytest.raises(IsolationUnavailable, match=sentence):
        _start(stage, tmp_path)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (None, "cannot be executed: No such file or directory"),
        (
            "echo 'bwrap: No permissions to create new namespace' >&2; exit 1",
            "makes no sandbox here: No permissions to create new namespace",
        ),
        ("exit 3", "makes no sandbox here: it ended with status 3"),
        ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "a worker tried its own walls, and they do not hold"),
    ],
)
def test_it_is_of_no_use(program: str | None, why: str, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that makes no sandbox, or says so and makes none, is found out by trying; the refusal says what it said."""
    named = tmp_path / "bwrap"
    if program is not None:
        named.write_text(f"#!/bin/sh\n{program}\n")
        named.chmod(0o755)
    monkeypatch.setenv("BLACKHOLE_BWRAP", str(named))
    with pytest.raises(IsolationUnavailable, match=why):
        _start(stage, tmp_path)


def test_it_fails_later(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that worked when it was tried and does not now: the start fails with its words, and nothing is left."""
    require_bubblewrap()
    failing = tmp_path / "bwrap"
    failing.write_text("#!/bin/sh\necho 'bwrap: Creating new namespace failed: No space left on device' >&2; exit 1\n")
    failing.chmod(0o755)
    with monkeypatch.context() as broken:
        broken.setattr(running, "find_program", lambda environ: str(failing))
        with pytest.raises(IsolationUnavailable, match="could not start a worker: Creating new namespace failed: No space left on device"):
            _start(stage, tmp_path)
    assert _start(stage, tmp_path)("raw", "1 + 1") == 2


def test_auto_takes_it_where_a_worker_can_make_no_namespace() -> None:
    """What ``unshare`` may not do, ``bwrap`` still can here; as where it is installed set-user-id."""
    require_bubblewrap()
    found = run_host(uid=os.getuid(), namespaces=False, zygote=True, sandbox="auto")
    assert found["start"] == "exec: bubblewrap"
    assert found["open"] == {}
    assert found["layers"]["mount namespace"] == ""


def test_auto_is_native_where_that_works(stage: Stage, tmp_path: Path) -> None:
    """It is quicker, and has the same walls."""
    walls = Confinement(sandbox=Sandbox.AUTO)
    plugin = stage.start("adhoc", confinement=walls, **stage.write(tmp_path / "plugin", EVALUATING))
    assert plugin.remote.facts.start_way is not None
    assert plugin.remote.facts.start_way.startswith("zygote")


def test_its_limits(stage: Stage, tmp_path: Path) -> None:
    """It has its own limits before it is told anything, and its control group holds the worker that the host sees."""
    require_bubblewrap()
    plugin = _start(stage, tmp_path, resources=Resources(disk=10, pids=20), data=tmp_path / "data")
    most = plugin("raw", "resource.getrlimit(resource.RLIMIT_FSIZE)")
    assert tuple(most) == (10 * 2**20,) * 2 != resource.getrlimit(resource.RLIMIT_FSIZE)
    assert plugin("raw", "os.getpid()") == 2
    usage = plugin.remote.facts.usage
    assert usage.memory is not None
    assert usage.pids is not None
    assert usage.threads is not None


def test_what_bwrap_holds(stage: Stage, tmp_path: Path) -> None:
    """Neither it nor process 1 keeps a pipe of the worker open: its end is seen."""
    require_bubblewrap()
    plugin = _start(stage, tmp_path)
    own = _open(plugin.pid) & {os.readlink(f"/proc/{plugin.pid}/fd/{number}") for number in (1, 2)}  # noqa: PTH115 - text
    first = _parent(plugin.pid)
    bwrap = _parent(first)
    assert Path(f"/proc/{bwrap}/comm").read_text() == "bwrap\n"
    assert own
    for pid in (first, bwrap):
        assert not own & _open(pid)


def _open(pid: int) -> set[str]:
    return {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH115 - the targets are text


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_its_end_is_told_before_its_number_is_free(stage: Stage, tmp_path: Path) -> None:
    """To who sends signals to that number, as at every level."""
    require_bubblewrap()
    worker = _start(stage, tmp_path).remote._traffic.worker
    assert worker is not None
    told: list[bool] = []
    worker.connection.child.before_reap(lambda: told.append(True))
    worker.connection.kill()
    assert eventually(lambda: told)


def test_a_place_that_was_replaced_by_a_link(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host resolved has no link in it; one that is there when it is mounted is not followed, and the start fails."""
    require_bubblewrap()
    (tmp_path / "secret").mkdir()
    granted = tmp_path / "granted"
    granted.mkdir()
    begin = running.begin

    def replaced(*args: Any) -> Any:
        granted.rmdir()
        granted.symlink_to("secret")
        return begin(*args)

    monkeypatch.setattr(running, "begin", replaced)
    with pytest.raises(OSError, match="openat2"):
        _start(stage, tmp_path, f"filesystem:read:{granted}")


def test_the_trial_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is tried once, and again when the program is another one."""
    counted = tmp_path / "bwrap"
    counted.write_text(f"#!/bin/sh\necho tried >> {tmp_path}/count\nexit 1\n")
    counted.chmod(0o755)
    monkeypatch.setenv("BLACKHOLE_BWRAP", str(counted))
    for _ in range(2):
        assert bubblewrap_here(()).problem
    assert (tmp_path / "count").read_text() == "tried\n"
    shutil.copy(counted, tmp_path / "other")
    (tmp_path / "other").replace(counted)
    assert bubblewrap_here(()).problem
    assert (tmp_path / "count").read_text() == "tried\ntried\n"


def test_doctor_says_whether_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is and of which version, or why it is of no use and how to get it; that is no problem of the machine's."""
    require_bubblewrap()
    report = examine(None, tmp_path)
    [found] = [finding for finding in report.findings if finding.what == "bubblewrap"]
    assert re.fullmatch(r"bubblewrap \d+\.\d+\.\d+ at /.*bwrap: works", found.facts)
    monkeypatch.delenv("BLACKHOLE_BWRAP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    [found] = [finding for finding in examine(None, tmp_path).findings if finding.what == "bubblewrap"]
    assert found.facts.startswith(f"not usable: there is no program bwrap on PATH; install it ({install_command('bubblewrap')})")
    assert not found.problem
