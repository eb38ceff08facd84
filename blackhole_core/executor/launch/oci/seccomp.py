"""Which system calls nothing in a container may make, as the OCI runtime specification writes it. It is in force before the first program runs in there.

What a worker does without from then on, executing programs for example, it gives up itself; this is what holds even before that.
"""

from __future__ import annotations

import errno
from typing import Any, Final

__all__ = ["PROFILE"]

#: ``clone(2)`` flags that make namespaces: CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET.
_NEW_NAMESPACES: Final = (0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000)
#: ``ioctl(2)`` requests that put characters into a terminal's input: TIOCSTI, TIOCLINUX.
_TERMINAL_INPUT: Final = (0x5412, 0x541C)
_AF_UNIX: Final = 1

#: No program needs them, and each has opened a way out before, or is one.
_NEVER: Final = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp", "perf_event_open", "bpf", "userfaultfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),  # it makes sockets and opens files without passing here
    *("mount", "umount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
    *("pivot_root", "chroot", "unshare", "setns", "open_by_handle_at", "name_to_handle_at", "fanotify_init"),
    *("keyctl", "add_key", "request_key", "personality", "modify_ldt", "iopl", "ioperm", "vhangup", "syslog", "lookup_dcookie"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff", "acct"),
    *("quotactl", "quotactl_fd", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
    *("nfsservctl", "sysfs", "ustat", "uselib", "_sysctl", "move_pages", "migrate_pages", "mbind", "set_mempolicy", "mknod", "mknodat"),
)
#: No socket can be made or connected, whatever its family: the loopback of the container leads nowhere, but others (AF_VSOCK, AF_ALG) know no namespace.
_SOCKETS: Final = ("socket", "connect", "bind", "listen", "accept", "accept4")


def _deny(names: tuple[str, ...], error: int, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": error, "args": list(arguments)}


def _has_flag(flag: int) -> dict[str, Any]:
    return {"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}


PROFILE: Final[dict[str, Any]] = {
    "defaultAction": "SCMP_ACT_ALLOW",  # of this architecture; a call by the numbers of another one ends the program
    "syscalls": [
        _deny(_NEVER, errno.EPERM),
        _deny(_SOCKETS, errno.EACCES),
        _deny(("socketpair",), errno.EACCES, {"index": 0, "value": _AF_UNIX, "op": "SCMP_CMP_NE"}),
        _deny(("clone3",), errno.ENOSYS),  # its flags lie in memory, where they cannot be judged; the C library falls back to clone
        *(_deny(("clone",), errno.EPERM, _has_flag(flag)) for flag in _NEW_NAMESPACES),
        *(_deny(("ioctl",), errno.EPERM, {"index": 1, "value": request, "op": "SCMP_CMP_EQ"}) for request in _TERMINAL_INPUT),
    ],
}
