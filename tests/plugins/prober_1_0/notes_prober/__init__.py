"""Tries to get out: each probe makes the real system call, and says ``allowed`` or the name of the error. ``raw(facts)`` runs all of them.
Where a wall is missing none of them does harm: what they would change was made for the test, or is set to what it is.

``facts`` are what an attacker may know of the host: its process id, files of its, sockets of its, a worker of another plugin.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from notes_api import hookimpl

_libc = ctypes.CDLL(None, use_errno=True)
_MACHINE = os.uname().machine
#: Numbers of system calls that have no function, on x86_64 and aarch64.
_NUMBERS = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "pivot_root": (155, 41),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "kexec_load": (246, 104),
    "pidfd_getfd": (438, 438),
    "open_by_handle_at": (304, 265),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "init_module": (175, 105),
    "fsopen": (430, 430),
    "setxattr": (188, 5),
}
_NEW_USER = 0x1000_0000
_MPTCP, _VSOCK, _ALG, _PACKET = 262, 40, 38, 17


def _outcome(action: Callable[[], Any]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "allowed"


def _call(name: str, *arguments: int | bytes) -> None:
    words = (ctypes.c_long(word) if isinstance(word, int) else word for word in arguments)
    if _libc.syscall(ctypes.c_long(_NUMBERS[name][_MACHINE != "x86_64"]), *words) < 0:
        raise OSError(ctypes.get_errno(), name)


def _socket(family: int, kind: int, protocol: int = 0) -> None:
    socket.socket(family, kind, protocol).close()


def _read(path: str) -> None:
    with Path(path).open("rb") as file:
        file.read(1)


def _write(path: str) -> None:
    with Path(path).open("ab"):
        pass


def _connect(address: str | bytes) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(address)


def _send_to(address: str) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"x", address)


def _chain(*actions: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: [action() for action in actions]


def _set_id(directory: str) -> None:
    path = Path(directory, "helper")
    path.write_text("#!/bin/sh\n")
    path.chmod(0o4755)


def _link_in(foreign: str, directory: str) -> None:
    os.link(foreign, os.path.join(directory, "linked"))


def _in_child(action: Callable[[], Any]) -> str:
    """Run ``action`` in a forked child and say how that ended: what it does may end the process."""
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else "allowed" if code == 0 else "refused"


def _files(facts: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    foreign, code, data, denied = facts["foreign"], __file__, facts["data"], facts["foreign_directory"]
    library = facts["library"]
    return {
        "A15 read a foreign file": lambda: _read(foreign),
        "A15 list a foreign directory": lambda: os.listdir(denied),
        "A15 list the root": lambda: os.listdir("/"),
        "A15 read /etc/shadow": lambda: _read("/etc/shadow"),
        "A15 read /etc/passwd": lambda: _read("/etc/passwd"),
        "A15 list the host's home": lambda: os.listdir(facts["home"]),
        "A15 read through its own root": lambda: _read("/proc/self/root/etc/passwd"),
        "A15 read through the first process": lambda: _read("/proc/1/root/etc/passwd"),
        "A16 write a foreign file": lambda: _write(foreign),
        "A16 write its own code": lambda: _write(code),
        "A16 write a library": lambda: _write(os.__file__),
        "A16 create beside a library": lambda: _write(os.path.join(os.path.dirname(library), "evil.py")),
        "A16 remove a library": lambda: os.unlink(library),
        "A16 rename a library": lambda: os.rename(library, library + ".old"),
        "A16 truncate a foreign file": lambda: os.truncate(foreign, 0),
        "A16 truncate its own code": lambda: os.truncate(code, 0),
        "A17 read by a link of its own": _chain(
            lambda: os.symlink(foreign, os.path.join(data, "link")), lambda: _read(os.path.join(data, "link"))
        ),
        "A19 link a foreign file": lambda: _link_in(foreign, data),
        "A19 link a library": lambda: _link_in(library, data),
        "A20 chmod a foreign file": lambda: os.chmod(foreign, 0o777),
        "A20 chmod its own code": lambda: os.chmod(code, 0o777),
        "A20 fchmod its own code": lambda: _fchmod(code),
        "A20 utime a library": lambda: os.utime(library),
        "A20 setxattr on its own code": lambda: _call("setxattr", code.encode(), b"user.x", b"1", 1, 0),
        "A33 make a set-user-id program": lambda: _set_id(data),
        "A33 create with the set-user-id bit": lambda: os.close(os.open(os.path.join(data, "made"), os.O_CREAT | os.O_WRONLY, 0o4755)),
        "A37 mount a disk": lambda: _read("/dev/vda"),
        "write kernel settings": lambda: _write("/proc/sys/kernel/core_pattern"),
        "memory devices": lambda: _read("/dev/mem"),
    }


def _fchmod(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o777)
    finally:
        os.close(descriptor)


def _network(facts: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    return {
        "A21 TCP": lambda: _socket(socket.AF_INET, stream),
        "A21 TCP over IPv6": lambda: _socket(socket.AF_INET6, stream),
        "A21 UDP": lambda: _socket(socket.AF_INET, datagram),
        "A21 ICMP": lambda: _socket(socket.AF_INET, datagram, socket.IPPROTO_ICMP),
        "A21 raw": lambda: _socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "A21 MPTCP": lambda: _socket(socket.AF_INET, stream, _MPTCP),
        "A21 netlink": lambda: _socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "A21 packets": lambda: _socket(_PACKET, socket.SOCK_RAW),
        "A21 vsock": lambda: _socket(_VSOCK, stream),
        "A21 alg": lambda: _socket(_ALG, socket.SOCK_SEQPACKET),
        "A22 a socket of the host in a file": lambda: _connect(facts["unix_socket"]),
        "A22 an abstract socket of the host": lambda: _connect(b"\0" + facts["abstract_socket"].encode()),
        "A22 a datagram from a pair": lambda: _send_to(facts["unix_datagram"]),
        "A23 a name": lambda: socket.getaddrinfo("example.org", 80),
        "A25 bind": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    }


def _processes(facts: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    host, other = facts["host"], facts["other_worker"]
    return {
        "A31 signal the host": lambda: os.kill(host, 0),
        "A31 stop the host": lambda: os.kill(host, signal.SIGCONT),
        "A31 signal another worker": lambda: os.kill(other, 0),
        "A32 read the host's environment": lambda: _read(f"/proc/{host}/environ"),
        "A32 read the host's memory": lambda: _read(f"/proc/{host}/mem"),
        "A32 list the host's descriptors": lambda: os.listdir(f"/proc/{host}/fd"),
        "A32 read the first process": lambda: _read("/proc/1/environ"),
        "A32 read another worker": lambda: _read(f"/proc/{other}/environ"),
        "A30 ptrace": lambda: _call("ptrace", 16, host, 0, 0),
        "A30 process_vm_readv": lambda: _call("process_vm_readv", host, 0, 0, 0, 0, 0),
        "A30 pidfd_getfd": lambda: _call("pidfd_getfd", 0, 0, 0),
        "A30 priority of the host": lambda: os.setpriority(os.PRIO_PROCESS, host, 0),
        "A30 priority of the user": lambda: os.setpriority(os.PRIO_USER, 0, 0),
        "A30 limits of the host": lambda: resource.prlimit(host, resource.RLIMIT_CORE, (0, 0)),
        "A30 processors of the host": lambda: os.sched_setaffinity(host, os.sched_getaffinity(0)),
    }


def _kernel(facts: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    return {
        "A29 execute a shell": lambda: _execute("/bin/sh"),
        "A29 execute the interpreter": lambda: _execute(sys.executable),
        "A29 execute from memory": lambda: _execute_from_memory(),
        "A30 new user namespace": lambda: _call("unshare", _NEW_USER),
        "A30 clone3": lambda: _call("clone3", 0, 0),
        "A30 setns": lambda: _call("setns", 0, 0),
        "A30 mount": lambda: _call("mount", b"none", b"/", b"no such file system", 0, 0),
        "A30 new mount interface": lambda: _call("fsopen", b"tmpfs", 0),
        "A30 pivot_root": lambda: _call("pivot_root", b".", b"."),
        "A30 chroot": lambda: os.chroot("/"),
        "A30 bpf": lambda: _call("bpf", 0, 0, 0),
        "A30 io_uring": lambda: _call("io_uring_setup", 1, 0),
        "A30 userfaultfd": lambda: _call("userfaultfd", 0),
        "A30 keyctl": lambda: _call("keyctl", 0, -4, 0),
        "A30 perf": lambda: _call("perf_event_open", 0, 0, -1, -1, 0),
        "A30 kexec": lambda: _call("kexec_load", 0, 0, 0, 0),
        "A30 load a module": lambda: _call("init_module", 0, 0, b""),
        "A30 open_by_handle_at": lambda: _call("open_by_handle_at", -100, 0, 0),
        "A30 openat2": lambda: _call("openat2", -100, b"/etc/passwd", 0, 0),
        "A33 become user 1": lambda: os.setuid(1),
        "A33 become root": lambda: os.setresuid(0, 0, 0) if os.getuid() else os.setgroups([1]),
        "A33 set the host's name": lambda: socket.sethostname(socket.gethostname()),
        "A34 put characters into a terminal": lambda: fcntl.ioctl(1, 0x5412, b"x"),
        "A34 open the terminal": lambda: _read("/dev/tty"),
        "A35 core files": lambda: _raise_limit(resource.RLIMIT_CORE),
        "outlive the host": lambda: _prctl(1, 0),
    }


def _raise_limit(which: int) -> None:
    try:
        resource.setrlimit(which, (1, 1))
    except ValueError:  # how Python says EPERM here
        raise PermissionError(errno.EPERM, "setrlimit") from None


def _prctl(*words: int) -> None:
    if _libc.prctl(*(ctypes.c_ulong(word) for word in words), 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _execute(program: str) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.execv(program, [program, "-c", ""])
        except OSError as error:
            os.write(writing, str(error.errno).encode())
        os._exit(1)
    os.close(writing)
    answer = os.read(reading, 16)
    os.close(reading)
    os.waitpid(child, 0)
    if answer:
        raise OSError(int(answer), program)


def _execute_from_memory() -> None:
    file = os.memfd_create("program", 0)
    try:
        os.write(file, b"#!/bin/sh\n")
        _execute(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _healthy(facts: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """What a well-behaved plugin does, and must still be able to."""
    data = facts["data"]
    return {
        "write its data": lambda: Path(data, "notes.txt").write_text("mine"),
        "rename in its data": lambda: os.replace(os.path.join(data, "notes.txt"), os.path.join(data, "renamed.txt")),
        "make a directory": lambda: os.makedirs(os.path.join(data, "a", "b")),
        "read its code": lambda: _read(__file__),
        "a temporary file": _temporary,
        "import from the standard library": lambda: __import__("sqlite3"),
        "import an extension": lambda: __import__("msgspec"),
        "local time": lambda: time.localtime(),
        "random numbers": lambda: os.urandom(8),
        "a thread": _thread,
        "a child process": lambda: None if _in_child(lambda: None) == "allowed" else _fail(errno.ECHILD),
        "an event loop": _event_loop,
        "a lock between processes": lambda: __import__("multiprocessing").Lock(),
        "discard output": lambda: _write("/dev/null"),
        "shared memory": lambda: os.close(os.memfd_create("x")),
        "look at itself": lambda: os.listdir("/proc/self/fd"),
    }


def _temporary() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "x").write_text("y")


def _thread() -> None:
    import threading

    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _event_loop() -> None:
    import asyncio

    asyncio.run(asyncio.sleep(0))


def _fail(code: int) -> None:
    raise OSError(code, "")


class Prober:
    @hookimpl
    def raw(self, value: Any) -> Any:
        probes = {
            **_files(value),
            **_network(value),
            **_processes(value),
            **_kernel(value),
        }
        results = {name: _outcome(probe) for name, probe in probes.items()}
        results["A30 a call of x32"] = (
            _in_child(lambda: _libc.syscall(ctypes.c_long(0x4000_0000 | 39))) if _MACHINE == "x86_64" else "SIGSYS"
        )
        healthy = {name: _outcome(probe) for name, probe in _healthy(value).items()}
        return {"attacks": results, "healthy": healthy, "about": _about()}

    @hookimpl
    def pick(self, text: str) -> str | None:
        """Do one thing that leaves something behind."""
        match text:
            case "environment":
                return " ".join(sorted(os.environ))
            case "descriptors":
                return "\n".join(sorted(set(map(_target, os.listdir("/proc/self/fd")))))
            case "setsid":
                return _escape()
            case "fill":
                return _fill()
        return None


def _target(descriptor: str) -> str:
    try:
        return re.sub(r":\[\d+\]", "", os.readlink(f"/proc/self/fd/{descriptor}"))
    except FileNotFoundError:
        return "the listing itself"


def _about() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "hostname": socket.gethostname(),
        "cwd": os.getcwd(),
        "threads": len(os.listdir("/proc/self/task")),
    }


def _escape() -> str:
    """Leave a grandchild in a session of its own that would live for ever, and say its process id; or why that could not be."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setsid()
        except OSError as error:
            os.write(writing, errno.errorcode[error.errno].encode())
        grandchild = os.fork()
        if grandchild:
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.write(writing, b" alive")
        while True:
            signal.pause()
    os.waitpid(child, 0)
    os.close(writing)
    said = b""
    while b"alive" not in said:
        said += os.read(reading, 100)
    os.close(reading)
    return said.decode().strip()


def _fill() -> str:
    """Write until there is no more room for temporary files, at most 2 GB."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        try:
            for _ in range(2048):
                file.write(bytes(2**20))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "allowed"
