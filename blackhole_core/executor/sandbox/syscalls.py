"""Numbers of system calls, from ``asm/unistd_64.h`` (x86_64), ``asm-generic/unistd.h`` (aarch64) and the kernel's own table. A missing name does not exist there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["AUDIT_ARCH", "LAST_KNOWN", "NUMBERS"]

#: What seccomp calls the machine, ``linux/audit.h``.
AUDIT_ARCH: Final[Mapping[str, int]] = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

#: The highest number that was looked at when these lists were made. What came later is not judged and so not let through.
LAST_KNOWN: Final = 470

# fmt: off
NUMBERS: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440, "mount": 165, "umount2": 166,
        "move_mount": 429, "open_tree": 428, "open_tree_attr": 467, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "listns": 470, "bpf": 321,
        "perf_event_open": 298, "keyctl": 250, "add_key": 248, "request_key": 249, "userfaultfd": 323, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "kexec_load": 246, "kexec_file_load": 320, "init_module": 175,
        "finit_module": 313, "delete_module": 176, "open_by_handle_at": 304, "name_to_handle_at": 303, "reboot": 169, "swapon": 167,
        "swapoff": 168, "acct": 163, "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "personality": 135,
        "quotactl": 179, "quotactl_fd": 443, "syslog": 103, "iopl": 172, "ioperm": 173, "modify_ldt": 154, "vhangup": 153,
        "pidfd_getfd": 438, "kcmp": 312, "move_pages": 279, "migrate_pages": 256, "mbind": 237, "set_mempolicy": 238,
        "fanotify_init": 300, "lookup_dcookie": 212, "nfsservctl": 180, "sysfs": 139, "ustat": 136, "uselib": 134, "_sysctl": 156,
        "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "sendto": 44, "clone": 56,
        "clone3": 435, "execve": 59, "execveat": 322, "ioctl": 16, "prctl": 157, "setsid": 112, "setpgid": 109, "chmod": 90, "fchmod": 91,
        "fchmodat": 268, "fchmodat2": 452, "chown": 92, "lchown": 94, "fchown": 93, "fchownat": 260, "utime": 132, "utimes": 235,
        "futimesat": 261, "utimensat": 280, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "setxattrat": 463, "removexattr": 197,
        "lremovexattr": 198, "fremovexattr": 199, "removexattrat": 466, "file_setattr": 469, "truncate": 76, "shmget": 29, "msgget": 68,
        "semget": 64, "mq_open": 240, "open": 2, "openat": 257, "openat2": 437, "creat": 85, "mknod": 133, "mknodat": 259,
        "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446, "seccomp": 317, "close_range": 436,
        "capset": 126, "capget": 125, "sethostname": 170, "setdomainname": 171,
        "setpriority": 141, "ioprio_set": 251, "prlimit64": 302, "sched_setaffinity": 203,
        "sched_setattr": 314, "sched_setparam": 142, "sched_setscheduler": 144,
    },
    "aarch64": {
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "process_madvise": 440, "mount": 40, "umount2": 39,
        "move_mount": 429, "open_tree": 428, "open_tree_attr": 467, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "listns": 470, "bpf": 280,
        "perf_event_open": 241, "keyctl": 219, "add_key": 217, "request_key": 218, "userfaultfd": 282, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "kexec_load": 104, "kexec_file_load": 294, "init_module": 105,
        "finit_module": 273, "delete_module": 106, "open_by_handle_at": 265, "name_to_handle_at": 264, "reboot": 142, "swapon": 224,
        "swapoff": 225, "acct": 89, "settimeofday": 170, "clock_settime": 112, "clock_adjtime": 266, "adjtimex": 171, "personality": 92,
        "quotactl": 60, "quotactl_fd": 443, "syslog": 116, "vhangup": 58, "pidfd_getfd": 438, "kcmp": 272, "move_pages": 239,
        "migrate_pages": 238, "mbind": 235, "set_mempolicy": 237, "fanotify_init": 262, "lookup_dcookie": 18, "nfsservctl": 42,
        "socket": 198, "socketpair": 199, "connect": 203, "bind": 200, "listen": 201, "accept": 202, "accept4": 242, "sendto": 206,
        "clone": 220, "clone3": 435, "execve": 221, "execveat": 281, "ioctl": 29, "prctl": 167, "setsid": 157, "setpgid": 154,
        "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54, "utimensat": 88, "setxattr": 5, "lsetxattr": 6,
        "fsetxattr": 7, "setxattrat": 463, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "removexattrat": 466,
        "file_setattr": 469, "truncate": 45, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "openat": 56, "openat2": 437,
        "mknodat": 33, "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446, "seccomp": 277,
        "close_range": 436, "capset": 91, "capget": 90, "sethostname": 161, "setdomainname": 162,
        "setpriority": 140, "ioprio_set": 30, "prlimit64": 261, "sched_setaffinity": 122,
        "sched_setattr": 274, "sched_setparam": 118, "sched_setscheduler": 119,
    },
}
# fmt: on
