"""One suite for every sandbox: a plugin that tries to get out by the real system calls, as root and as nobody, forked and executed, with and without namespaces."""

from __future__ import annotations

import functools
import os
from typing import Any, Final

import pytest

from tests.confined import NOBODY, run_host

#: What an attack may be answered that does not get through: denied, or what it is about is not there.
_DENIED: Final = frozenset({"EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS", "ESRCH", "ENXIO", "SIGSYS", "EXDEV"})
#: What comes of a name that cannot be looked up: ``socket.gaierror`` has numbers of its own.
_NO_RESOLVER: Final = frozenset({"[Errno -3] Temporary failure in name resolution", "[Errno -2] Name or service not known", "-3", "-2"})

#: The names of memory that host and worker share.
_MEMORY: Final = ("blackhole-lane", "blackhole-arena")

_needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
_CASES: Final = [
    pytest.param(
        uid, namespaces, zygote, id=f"{who}-{'namespaces' if namespaces else 'no namespaces'}-{'zygote' if zygote else 'exec'}", marks=marks
    )
    for who, uid, marks in (("self", os.getuid(), ()), ("nobody", NOBODY, _needs_root))
    for namespaces in (True, False)
    for zygote in (True, False)
]


@functools.cache
def _found(uid: int, namespaces: bool, zygote: bool) -> dict[str, Any]:
    """Have everything tried, once for each case."""
    return run_host(uid=uid, namespaces=namespaces, zygote=zygote)


@pytest.mark.parametrize(("uid", "namespaces", "zygote"), _CASES)
def test_nothing_gets_out(uid: int, namespaces: bool, zygote: bool) -> None:
    """A15-A35: every attempt is denied, or finds nothing."""
    attacks = _found(uid, namespaces, zygote)["attacks"]
    others = {"EINVAL"} if namespaces else set()  # in its user namespace there are no other users
    passed = {
        name: answer
        for name, answer in attacks.items()
        if answer not in _DENIED | _NO_RESOLVER and not (name.startswith("A33 become") and answer in others)
    }
    assert passed == {}
    assert len(attacks) > 80


@pytest.mark.parametrize(("uid", "namespaces", "zygote"), _CASES)
def test_what_a_plugin_needs_goes_on(uid: int, namespaces: bool, zygote: bool) -> None:
    """Files of its own, threads, child processes, event loops, imports: nothing that a well-behaved plugin does is in the way."""
    found = _found(uid, namespaces, zygote)
    troubles = {name: answer for name, answer in found["healthy"].items() if answer != "allowed"}
    if not namespaces:
        troubles.pop("a lock between processes")  # it lies in /dev/shm, which all processes of the machine share
    assert troubles == {}
    assert found["transport"] == "shared memory"


@pytest.mark.parametrize(("uid", "namespaces", "zygote"), _CASES)
def test_what_it_is(uid: int, namespaces: bool, zygote: bool) -> None:
    """It is who it was, without capabilities and new privileges, filtered, and the host sees it by its own process id."""
    found = _found(uid, namespaces, zygote)
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines() if ":\t" in line)
    assert found["about"]["uid"] == found["seen_uid"] == uid
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["NSpid"].split()[-1]) == found["about"]["pid"]
    assert found["start"].startswith("zygote" if zygote else "exec")
    assert found["open"] == {}


@pytest.mark.parametrize(("uid", "namespaces", "zygote"), _CASES)
def test_what_it_has(uid: int, namespaces: bool, zygote: bool) -> None:
    """Only listed variables and descriptors, temporary files as large as they may be, a name that is not the host's."""
    found = _found(uid, namespaces, zygote)
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
    if namespaces:
        assert found["about"]["hostname"] == "blackhole"


@pytest.mark.parametrize(("uid", "namespaces", "zygote"), _CASES)
def test_what_is_reported_is_what_was_built(uid: int, namespaces: bool, zygote: bool) -> None:
    """Each layer that cannot be had is named with its reason, and no other."""
    layers = _found(uid, namespaces, zygote)["layers"]
    missing = {name for name, reason in layers.items() if reason}
    assert missing == set()
    wanted = {"no capabilities", "no new privileges", "Landlock", "Landlock scope", "seccomp"}
    spaces = {f"{kind} namespace" for kind in ("user", "pid", "mount", "network", "ipc", "uts")} | {"private /proc"}
    assert set(layers) == (wanted | spaces if namespaces else wanted)
