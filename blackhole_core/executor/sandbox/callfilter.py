"""Which system calls a worker may make, as a program for the kernel's packet filter (``seccomp(2)``, ``bpf(4)``). Pure: names in, bytes out.

What is on no list is let through: a list of what a Python program with arbitrary extensions needs would be wrong every month. So the filter takes away what opens doors, and
Landlock and namespaces hold the rest. It closes what they leave open here: every socket, also those in the file system; datagram pairs, which can send to any address;
metadata, which Landlock does not cover; set-user-id bits, with which a file in the plugin's directory would act for the host's user outside.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from blackhole_core.executor.sandbox.syscalls import AUDIT_ARCH, LAST_KNOWN, NUMBERS

__all__ = ["Condition", "Rule", "assemble", "rules_for"]

# Instructions, linux/bpf_common.h: load a word of the call; compare; and; return.
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
# Answers, linux/seccomp.h.
_ALLOW, _KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
# Where struct seccomp_data has the call's number, the machine, and the first argument; each takes 8 bytes, the low word first.
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
#: Numbers of x32, a second door to each call on x86_64.
_X32: Final = 0x4000_0000

#: ``clone(2)`` flags that make namespaces: CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET; _NEWTIME is one of clone3 alone.
_NEW_NAMESPACE: Final = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000
#: ``ioctl(2)`` requests that put characters into a terminal's input: TIOCSTI, TIOCLINUX.
_TERMINAL_INPUT: Final = (0x5412, 0x541C)
#: Set-user-id and set-group-id of a file's mode; O_CREAT and the bit of O_TMPFILE of the flags with which a mode counts.
_SET_ID, _CREATES = 0o6000, 0x40 | 0x40_0000
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE = 1, 1, 5, 0xF
#: ``prctl(2)``: whether, and with what signal, the kernel ends a process whose parent ended.
_PR_SET_PDEATHSIG: Final = 1

#: No program needs them, and each has opened a way out before, or is one.
_NEVER: Final = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp", "perf_event_open", "bpf", "userfaultfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),  # it makes sockets and opens files without passing here
    *("mount", "umount2", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
    *("pivot_root", "chroot", "unshare", "setns", "listns", "open_by_handle_at", "name_to_handle_at", "fanotify_init", "file_setattr"),
    *("keyctl", "add_key", "request_key", "personality", "modify_ldt", "iopl", "ioperm", "vhangup", "syslog", "lookup_dcookie"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff", "acct"),
    *("quotactl", "quotactl_fd", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
    *("nfsservctl", "sysfs", "ustat", "uselib", "_sysctl", "move_pages", "migrate_pages", "mbind", "set_mempolicy", "mknod", "mknodat"),
)
_SOCKETS: Final = ("socket", "connect", "bind", "listen", "accept", "accept4")
_CHANGE_MODE: Final = (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2), ("creat", 1))
#: What the owner of a file may do to it through its name, or a descriptor that can only be read, whatever Landlock says.
_METADATA: Final = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "utime", "utimes", "futimesat", "utimensat"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
)
#: Calls that name a process, and which argument does; those whose first argument says what the other one is, and what it must say: a process.
_OF_A_PROCESS: Final = (
    *(("prlimit64", 0), ("sched_setaffinity", 0), ("sched_setattr", 0), ("sched_setparam", 0), ("sched_setscheduler", 0)),
    *(("setpriority", 1), ("ioprio_set", 1)),
)
_OF_A_KIND: Final = (("setpriority", 0), ("ioprio_set", 1))
_SYSTEM_V: Final = ("shmget", "msgget", "semget", "mq_open")


@attrs.frozen
class Condition:
    """Whether the argument number ``argument``, of which the bits of ``mask`` count, is one of ``values``; ``negated``: is none of them."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFF_FFFF
    negated: bool = False


@attrs.frozen
class Rule:
    """The call ``name`` fails with ``error`` when all conditions hold."""

    name: str
    error: int
    conditions: tuple[Condition, ...] = ()


def rules_for(*, programs: bool, own_root: bool, own_ipc: bool, own_pids: bool, truncates: bool, pid: int = 0) -> tuple[Rule, ...]:
    """Return the rules of a worker, whose process id is ``pid``.

    ``programs``: it may execute some. The others say what holds already: a root in which nothing but its own can be changed, objects of System V IPC of its own, process ids
    of its own, and that Landlock covers ``truncate(2)``.
    """
    not_stream = Condition(1, (_SOCK_STREAM, _SOCK_SEQPACKET), _SOCK_TYPE, negated=True)
    rules = [
        *_deny(_NEVER, errno.EPERM),
        *_deny(_SOCKETS, errno.EACCES),
        Rule("socketpair", errno.EACCES, (Condition(0, (_AF_UNIX,), negated=True),)),
        Rule("socketpair", errno.EACCES, (not_stream,)),
        Rule("clone3", errno.ENOSYS),  # its flags lie in memory, where they cannot be judged; the C library falls back to clone
        Rule("clone", errno.EPERM, (Condition(0, (0,), _NEW_NAMESPACE, negated=True),)),
        *(Rule("ioctl", errno.EPERM, (Condition(1, (request,)),)) for request in _TERMINAL_INPUT),
        Rule("prctl", errno.EPERM, (Condition(0, (_PR_SET_PDEATHSIG,)),)),
        *(Rule(name, errno.EPERM, (Condition(place, (0,), _SET_ID, negated=True),)) for name, place in _CHANGE_MODE),
        *(_create_with_id(name, flags) for name, flags in (("open", 1), ("openat", 2))),
        Rule("openat2", errno.ENOSYS),  # likewise
    ]
    # Other kinds reach the process that keeps it.
    rules += [Rule(name, errno.EPERM, (Condition(0, (kind,), negated=True),)) for name, kind in _OF_A_KIND]
    if not programs:
        rules += _deny(("execve", "execveat"), errno.EACCES)
    if not own_root:
        rules += _deny(_METADATA, errno.EPERM)
        if not truncates:
            rules += _deny(("truncate",), errno.EPERM)
    if not own_ipc:
        rules += _deny(_SYSTEM_V, errno.EPERM)
    if not own_pids:
        rules += _deny(("setsid", "setpgid"), errno.EPERM)  # or what it forks outlives it: its group is what ends with it
        rules += _only_itself(pid)
    return tuple(rules)


def _deny(names: Iterable[str], error: int) -> list[Rule]:
    return [Rule(name, error) for name in names]


def _only_itself(pid: int) -> list[Rule]:
    """Deny what a process may do to every other one of its user: a limit on processor time that has passed ends the host."""
    return [Rule(name, errno.EPERM, (Condition(place, (0, pid), negated=True),)) for name, place in _OF_A_PROCESS]


def _create_with_id(name: str, flags: int) -> Rule:
    return Rule(name, errno.EPERM, (Condition(flags, (0,), _CREATES, negated=True), Condition(flags + 1, (0,), _SET_ID, negated=True)))


def assemble(rules: Sequence[Rule], machine: str) -> bytes:
    """Return the program; a rule about a call that ``machine`` does not have is left out.

    :raises KeyError: a machine whose numbers are not known.
    """
    numbers = NUMBERS[machine]
    code = [
        *(_step(_LOAD, _MACHINE), _step(_EQUAL, AUDIT_ARCH[machine], 1, 0), _step(_RETURN, _KILL)),
        *(_step(_LOAD, _NUMBER), _step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _KILL)),
        *(_step(_AT_LEAST, LAST_KNOWN + 1, 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)),
    ]
    for rule in rules:
        if rule.name in numbers:
            code += _block(rule, numbers[rule.name])
    return b"".join((*code, _step(_RETURN, _ALLOW)))


def _block(rule: Rule, number: int) -> list[bytes]:
    """Return one rule. The call's number is loaded before and after it."""
    answer = _step(_RETURN, _ERRNO | rule.error)
    if not rule.conditions:
        return [_step(_EQUAL, number, 0, 1), answer]
    after = [answer, _step(_LOAD, _NUMBER)]  # the last step is where a condition that fails leads
    for condition in reversed(rule.conditions):
        after = [*_check(condition, len(after) - 1), *after]
    return [_step(_EQUAL, number, 0, len(after)), *after]


def _check(condition: Condition, beyond: int) -> list[bytes]:
    """Return the steps of one condition: it falls through when the condition holds, else leaves out ``beyond`` steps after its own."""
    head = [_step(_LOAD, _ARGUMENTS + 8 * condition.argument)]
    if condition.mask != 0xFFFF_FFFF:
        head.append(_step(_AND, condition.mask))
    last = len(condition.values) - 1
    if condition.negated:
        return [*head, *(_step(_EQUAL, value, last - place + beyond, 0) for place, value in enumerate(condition.values))]
    return [*head, *(_step(_EQUAL, value, last - place, beyond if place == last else 0) for place, value in enumerate(condition.values))]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return a ``struct sock_filter``; the last two are how many steps to leave out."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
