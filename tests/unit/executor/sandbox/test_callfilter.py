"""The filter of system calls, run by an interpreter of its instructions: what each call is answered, on both machines."""

from __future__ import annotations

import errno
import struct
from typing import Final

import pytest

from blackhole_core.executor.sandbox.callfilter import Condition, Rule, assemble, rules_for
from blackhole_core.executor.sandbox.syscalls import AUDIT_ARCH, LAST_KNOWN, NUMBERS

_MACHINES: Final = tuple(NUMBERS)
_ALLOW, _KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_STRICT: Final = {"programs": False, "own_root": False, "own_ipc": False, "own_pids": False, "truncates": False}
_LOOSE: Final = dict.fromkeys(_STRICT, True)


def _run(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = AUDIT_ARCH["x86_64"]) -> int:
    """Run ``program`` as the kernel would on one call (bpf(4): five kinds of instructions)."""
    words = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", number, arch, 0, *words)
    steps = list(struct.iter_unpack("=HBBI", program))
    place, value = 0, 0
    while True:
        code, if_true, if_false, operand = steps[place]
        place += 1
        if code == 0x20:
            [value] = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            value &= operand
        elif code == 0x15:
            place += if_true if value == operand else if_false
        elif code == 0x35:
            place += if_true if value >= operand else if_false
        else:
            assert code == 0x06
            return operand


def _answer(name: str, *arguments: int, machine: str = "x86_64", **holds: bool) -> str:
    program = assemble(rules_for(**{**_LOOSE, **holds}), machine)
    result = _run(program, NUMBERS[machine][name], arguments, AUDIT_ARCH[machine])
    return "allowed" if result == _ALLOW else errno.errorcode[result & 0xFFFF] if result & ~0xFFFF == _ERRNO else "killed"


@pytest.mark.parametrize("machine", _MACHINES)
@pytest.mark.parametrize("name", ["ptrace", "mount", "unshare", "setns", "bpf", "io_uring_setup", "keyctl", "userfaultfd", "pidfd_getfd"])
def test_what_no_program_needs(name: str, machine: str) -> None:
    """A25: calls that have opened a way out before are refused, whatever else holds."""
    assert _answer(name, machine=machine) == "EPERM"


@pytest.mark.parametrize("machine", _MACHINES)
def test_sockets(machine: str) -> None:
    """A20, H3: no socket of any family; pairs of streams, which every event loop needs, but none of datagrams, which send to any address."""
    assert {_answer("socket", family, 1, machine=machine) for family in range(46)} == {"EACCES"}
    assert [_answer(name, 3, machine=machine) for name in ("connect", "bind", "listen", "accept4")] == ["EACCES"] * 4
    pairs = {kind: _answer("socketpair", 1, kind | 0o2000000 | 0o4000, 0, machine=machine) for kind in (1, 2, 3, 5)}
    assert pairs == {1: "allowed", 2: "EACCES", 3: "EACCES", 5: "allowed"}
    assert _answer("socketpair", 2, 1, machine=machine) == "EACCES"


@pytest.mark.parametrize("machine", _MACHINES)
def test_new_processes_but_no_new_namespaces(machine: str) -> None:
    """H8: fork and threads go on; namespaces do not, and clone3, whose flags lie in memory, is not there."""
    thread, fork, new_user, new_time = 0x3D0F00, 0x1200011, 0x1000_0011, 0x11
    assert [_answer("clone", flags, machine=machine) for flags in (thread, fork, new_user, new_time)] == [
        "allowed",
        "allowed",
        "EPERM",
        "allowed",
    ]
    assert _answer("clone3", machine=machine) == "ENOSYS"


@pytest.mark.parametrize("machine", _MACHINES)
def test_programs(machine: str) -> None:
    """A16: programs are executed only by who may execute some."""
    assert _answer("execve", machine=machine, programs=False) == _answer("execveat", machine=machine, programs=False) == "EACCES"
    assert _answer("execve", machine=machine, programs=True) == "allowed"


@pytest.mark.parametrize("machine", _MACHINES)
def test_set_user_id_bits(machine: str) -> None:
    """No file can be made, or be given, the bits with which it would act for the host's user when somebody else executes it."""
    create, plain = 0o101, 0o2
    assert [_answer("fchmodat", 0, 0, mode, machine=machine) for mode in (0o644, 0o4755, 0o2755)] == ["allowed", "EPERM", "EPERM"]
    assert [_answer("openat", 0, 0, create, mode, machine=machine) for mode in (0o644, 0o4755)] == ["allowed", "EPERM"]
    assert _answer("openat", 0, 0, plain, 0o4755, machine=machine) == "allowed"  # the mode means nothing then, and may be anything
    assert _answer("openat2", machine=machine) == "ENOSYS"


@pytest.mark.parametrize("machine", _MACHINES)
def test_what_other_layers_do_not_do(machine: str) -> None:
    """H2: without a root of its own, metadata of readable files stays as it is; without own process ids, nobody leaves the group that ends with the worker."""
    for name, wall in (
        ("fchmod", "own_root"),
        ("utimensat", "own_root"),
        ("setxattr", "own_root"),
        ("shmget", "own_ipc"),
        ("setsid", "own_pids"),
    ):
        assert _answer(name, machine=machine) == "allowed", name
        assert _answer(name, machine=machine, **{wall: False}) == "EPERM", name
    assert _answer("truncate", own_root=False, machine=machine) == "allowed"
    assert _answer("truncate", own_root=False, truncates=False, machine=machine) == "EPERM"


@pytest.mark.parametrize("machine", _MACHINES)
def test_other_processes_of_the_user(machine: str) -> None:
    """Without process ids of its own it can set limits, priority and processors of itself alone: the kernel would let it for all that its user runs."""
    rules = rules_for(**{**_LOOSE, "own_pids": False}, pid=77)
    program = assemble(rules, machine)

    def allowed(name: str, *arguments: int) -> bool:
        return _run(program, NUMBERS[machine][name], arguments, AUDIT_ARCH[machine]) == _ALLOW

    for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        assert [allowed(name, pid) for pid in (0, 77, 78)] == [True, True, False], name
    assert [allowed("setpriority", *pair) for pair in ((0, 0), (0, 77), (0, 1), (1, 0), (2, 0))] == [True, True, False, False, False]
    assert [allowed("ioprio_set", *pair) for pair in ((1, 0), (1, 1), (3, 0))] == [True, False, False]
    assert _answer("prlimit64", 78, machine=machine) == "allowed"


def test_terminals_and_parents() -> None:
    """H9: no characters into a terminal's input; and a worker cannot decide to outlive its host."""
    assert [_answer("ioctl", 0, request) for request in (0x5401, 0x5412, 0x541C, 0xFFFF_FFFF_0000_5412)] == [
        "allowed",
        "EPERM",
        "EPERM",
        "EPERM",
    ]
    assert [_answer("prctl", option) for option in (1, 15)] == ["EPERM", "allowed"]


def test_other_doors() -> None:
    """H8: calls of another architecture, and of x32, end the process; calls newer than the list are not there."""
    program = assemble(rules_for(**_STRICT), "x86_64")
    assert _run(program, 1, arch=AUDIT_ARCH["aarch64"]) == _KILL
    assert _run(program, 0x4000_0000 | 41) == _KILL
    assert _run(program, LAST_KNOWN + 1) == _ERRNO | errno.ENOSYS
    assert _run(program, 0) == _ALLOW


@pytest.mark.parametrize("machine", _MACHINES)
def test_what_is_on_no_list_is_allowed(machine: str) -> None:
    """Exactly the calls of the rules are judged: every other number passes, with every argument zero."""
    rules = rules_for(**_STRICT)
    program = assemble(rules, machine)
    judged = {NUMBERS[machine][rule.name] for rule in rules if rule.name in NUMBERS[machine]}
    refused = {number for number in range(LAST_KNOWN + 1) if _run(program, number, arch=AUDIT_ARCH[machine]) != _ALLOW}
    assert refused <= judged
    assert len(refused) > 90


def test_several_tests_of_several_values() -> None:
    """A rule holds when all of its tests do; a test when the masked argument is one of its values, or none of them."""
    rule = Rule("ioctl", errno.EPERM, (Condition(0, (1, 2, 3)), Condition(1, (0x10, 0x20), mask=0xF0, negated=True)))
    program = assemble((rule, Rule("prctl", errno.EACCES)), "x86_64")
    ioctl, prctl = NUMBERS["x86_64"]["ioctl"], NUMBERS["x86_64"]["prctl"]
    answers = [_run(program, ioctl, pair) for pair in ((1, 0x30), (3, 0x3F), (2, 0x1F), (3, 0x20), (4, 0x30))]
    assert answers == [_ERRNO | errno.EPERM] * 2 + [_ALLOW] * 3
    assert _run(program, prctl) == _ERRNO | errno.EACCES


def test_its_size() -> None:
    """The kernel takes 4,096 instructions (BPF_MAXINSNS)."""
    assert len(assemble(rules_for(**_STRICT), "x86_64")) // 8 < 1000
