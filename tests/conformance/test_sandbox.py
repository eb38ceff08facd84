"""One suite for every sandbox: a plugin that tries to get out by the real system calls, as root and as nobody, forked and executed, with and
without namespaces, with namespaces that were made ahead of time, and inside ``bwrap``."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from blackhole_core.executor.launch.bwrap.program import VARIABLE, find_program
from tests.bubbles import require_bubblewrap
from tests.confined import NOBODY, run_host

#: What an attack may be answered that does not get through: denied, or what it is about is not there.
_DENIED: Final = frozenset({"EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS", "ESRCH", "ENXIO", "SIGSYS", "EXDEV"})
#: What comes of a name that cannot be looked up: ``socket.gaierror`` has numbers of its own.
_NO_RESOLVER: Final = frozenset({"[Errno -3] Temporary failure in name resolution", "[Errno -2] Name or service not known", "-3", "-2"})

#: The names of memory that host and worker share.
_MEMORY: Final = ("blackhole-lane", "blackhole-arena")


@attrs.frozen
class _Case:
    """Whose user id, which back end, whether the host may make namespaces, whether its workers are forked, and have made theirs before they are wanted."""

    uid: int
    sandbox: str
    namespaces: bool
    zygote: bool
    ahead: bool = False


_needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
#: Inside ``bwrap`` none is, and without namespaces there is no such place.
_WAYS: Final = (
    *(("native", namespaces, zygote) for namespaces in (True, False) for zygote in (True, False)),
    ("native", True, True, True),
    ("bubblewrap", True, False),
)
_CASES: Final = [
    pytest.param(
        _Case(uid, *way),
        id=f"{who}-{way[0]}-{'namespaces' if way[1] else 'no namespaces'}-{('ahead' if way[3:] else 'zygote') if way[2] else 'exec'}",
        marks=marks,
    )
    for who, uid, marks in (("self", os.getuid(), ()), ("nobody", NOBODY, _needs_root))
    for way in _WAYS
]


@functools.cache
def _found(case: _Case) -> dict[str, Any]:
    """Have everything tried, once for each case."""
    if case.sandbox == "bubblewrap":
        require_bubblewrap()
    return run_host(**attrs.asdict(case))


@pytest.mark.parametrize("case", _CASES)
def test_nothing_gets_out(case: _Case) -> None:
    """A15-A35: every attempt is denied, or finds nothing."""
    attacks = _found(case)["attacks"]
    assert _passed(attacks, user_namespace=case.namespaces) == {}
    assert len(attacks) > 80


def _passed(attacks: dict[str, str], *, user_namespace: bool) -> dict[str, str]:
    """Return the attempts that got through; in a user namespace of its own there are no other users."""
    others = {"EINVAL"} if user_namespace else set()
    return {
        name: answer
        for name, answer in attacks.items()
        if answer not in _DENIED | _NO_RESOLVER and not (name.startswith("A33 become") and answer in others)
    }


@pytest.mark.parametrize("case", _CASES)
def test_what_a_plugin_needs_goes_on(case: _Case) -> None:
    """Files of its own, threads, child processes, event loops, imports: nothing that a well-behaved plugin does is in the way."""
    found = _found(case)
    troubles = {name: answer for name, answer in found["healthy"].items() if answer != "allowed"}
    if not case.namespaces:
        troubles.pop("a lock between processes")  # it lies in /dev/shm, which all processes of the machine share
    assert troubles == {}
    assert found["transport"] == "shared memory"


@pytest.mark.parametrize("case", _CASES)
def test_what_it_is(case: _Case) -> None:
    """It is who it was, without capabilities and new privileges, filtered, and the host sees it by its own process id."""
    found = _found(case)
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines() if ":\t" in line)
    assert found["about"]["uid"] == found["seen_uid"] == case.uid
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["NSpid"].split()[-1]) == found["about"]["pid"]
    assert found["start"].startswith("zygote" if case.zygote else "exec")
    assert (found["start"] == "exec: bubblewrap") is (case.sandbox == "bubblewrap")
    assert found["open"] == {}


@pytest.mark.parametrize("case", _CASES)
def test_what_it_has(case: _Case) -> None:
    """Only listed variables and descriptors, temporary files as large as they may be, a name that is not the host's."""
    found = _found(case)
    assert set(found["environment"]) <= {"HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "PYTHONDONTWRITEBYTECODE", "TMPDIR", "TZ"}
    assert "SECRET" not in found["environment"]
    assert set(found["descriptors"]) <= {
        "/dev/null",
        "pipe",
        "the listing itself",
        "anon_inode:[eventpoll]",
        "anon_inode:[eventfd]",
        *(f"/memfd:{name} (deleted)" for name in _MEMORY),
    }
    assert found["filled"] == "ENOSPC"
    assert found["about"]["cwd"] == "/"
    if case.namespaces:
        assert found["about"]["hostname"] == "blackhole"


@pytest.mark.parametrize("case", _CASES)
def test_what_is_reported_is_what_was_built(case: _Case) -> None:
    """Each layer that cannot be had is named with its reason, and no other."""
    layers = _found(case)["layers"]
    missing = {name for name, reason in layers.items() if reason}
    assert missing == set()
    wanted = {"no capabilities", "no new privileges", "Landlock", "Landlock scope", "seccomp"}
    spaces = {f"{kind} namespace" for kind in ("user", "pid", "mount", "network", "ipc", "uts")} | {"private /proc"}
    assert set(layers) == (wanted | spaces if case.namespaces else wanted)


@_needs_root
def test_bwrap_that_is_set_user_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by nobody it acts with root's rights: nothing gets out, and what it may not give, memory of a size, is a directory or not there."""
    require_bubblewrap()
    program = find_program(os.environ)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        if os.statvfs(directory).f_flag & os.ST_NOSUID:
            pytest.skip("no program in /var/tmp can be set-user-id")
        Path(directory).chmod(0o755)
        own = shutil.copy(program, directory)
        Path(own).chmod(0o4755)
        monkeypatch.setenv(VARIABLE, own)
        found = run_host(uid=NOBODY, namespaces=True, zygote=True, sandbox="bubblewrap", what="look")
    assert found["start"] == "exec: bubblewrap"
    assert _passed(found["attacks"], user_namespace=True) == {}
    assert [name for name, answer in found["healthy"].items() if answer != "allowed"] == ["a lock between processes"]
    assert found["open"] == {}
