"""A hostile plugin in a container tries what it is not to do: each attempt is a real one, and what it meets is the kernel's answer."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from blackhole_core.errors import LimitExceeded
from blackhole_core.executor.confinement import Confinement
from blackhole_core.manifest.model import Resources
from tests.integration.netclient import Client, confined, serve_echo, serving
from tests.stage import Running, Stage

_PLUGIN = """
import asyncio, ctypes, errno, os, socket, subprocess, sys
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    "Make a system call by its C function, or its number, and raise what it failed with."
    made = libc.syscall(name, *arguments) if isinstance(name, int) else getattr(libc, name)(*arguments)
    if made == -1:
        raise OSError(ctypes.get_errno(), name)
    return made

class Plugin:
    @hookimpl
    def raw(self, value):
        try:
            return "did it: %r" % (eval(value, globals()),)
        except OSError as error:
            return errno.errorcode.get(error.errno, type(error).__name__)
"""


_GONE, _READ_ONLY, _DENIED, _FORBIDDEN, _FULL = "ENOENT", "EROFS", "EACCES", "EPERM", "ENOSPC"

#: What comes of a device that was granted, if the machine has it.
_KVM = "did it: None" if Path("/dev/kvm").exists() else _GONE
_DEVICES = "did it: ['kvm']" if Path("/dev/kvm").exists() else "did it: []"

_FILES = {
    "open('/etc/shadow')": _GONE,
    "open('{home}/secret')": _GONE,
    "open('/proc/{host}/environ')": _GONE,
    "open('/run/docker.sock')": _GONE,
    "os.listdir('/sys')": _GONE,
    "os.listdir('/home')": _GONE,
    "open('/dev/shm/{shared}')": _GONE,
    "open('/owned', 'w')": _READ_ONLY,
    "open('/usr/owned', 'w')": _READ_ONLY,
    "open('/etc/passwd', 'a')": _READ_ONLY,
    "open('{prefix}/owned', 'w')": _READ_ONLY,
    "open('{home}/code/owned', 'w')": _READ_ONLY,
    "os.utime('{home}/code/adhoc.py')": _READ_ONLY,
    "os.unlink('{home}/code/adhoc.py')": _READ_ONLY,
    "os.link('{home}/code/adhoc.py', '/tmp/adhoc.py')": "EXDEV",
    "open('/tmp/own', 'w').write('x')": "did it: 1",
    "os.posix_fallocate(os.open('/tmp/full', os.O_CREAT | os.O_RDWR), 0, 1 << 30)": _FULL,
    "os.posix_fallocate(os.open('/dev/shm/full', os.O_CREAT | os.O_RDWR), 0, 1 << 30)": _FULL,
}
_NETWORK = {
    "socket.socket(socket.AF_INET)": _DENIED,
    "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)": _DENIED,
    "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)": _DENIED,
    "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)": _DENIED,
    "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)": _DENIED,
    "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)": _DENIED,
    "socket.socket(socket.AF_VSOCK)": _DENIED,
    "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)": _DENIED,
    "socket.socket(socket.AF_UNIX)": _DENIED,
    "socket.socketpair()[0].connect('{home}/socket')": _DENIED,
    "socket.socketpair()[0].connect('\\0blackhole-walls')": _DENIED,
    "socket.getaddrinfo('example.org', 80)": "gaierror",
    "open('/proc/net/dev').read().count(':')": "did it: 1",
    "asyncio.run(asyncio.sleep(0, 'a loop'))": "did it: 'a loop'",
}
_RIGHTS = {
    "call('unshare', 0x10000000)": _FORBIDDEN,
    "call('unshare', 0x00020000)": _FORBIDDEN,
    "call('setns', os.open('/proc/self/ns/mnt', os.O_RDONLY), 0)": _FORBIDDEN,
    "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)": _FORBIDDEN,
    "call('mount', None, b'/usr', None, 32, None)": _FORBIDDEN,
    "call('umount2', b'/usr', 2)": _FORBIDDEN,
    "os.chroot('/tmp')": _FORBIDDEN,
    "os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0))": _FORBIDDEN,
    "os.setuid(12345)": _FORBIDDEN,
    "os.chown('/tmp', 12345, 12345)": _FORBIDDEN,
    "os.setpriority(os.PRIO_PROCESS, 0, -5)": _DENIED,
    "open('/proc/sys/kernel/hostname', 'w')": _READ_ONLY,
    "open('/dev/tty')": "ENXIO",
    "[line.split()[1] for line in open('/proc/self/status') if line[:3] == 'Cap']": f"did it: {['0' * 16] * 5}",
    "[line.split()[1] for line in open('/proc/self/status') if line[:8] in ('NoNewPri', 'Seccomp:')]": "did it: ['1', '2']",
}
_PROCESSES = {
    "os.kill({host}, 0)": "ESRCH",
    "os.kill(1, 9)": _FORBIDDEN,
    "os.execv('/bin/sh', ['sh'])": _DENIED,
    "len([name for name in os.listdir('/proc') if name.isdigit()])": "did it: 2",
    "call('ptrace', 16, 1, 0, 0)": _FORBIDDEN,
    "open('/proc/1/mem', 'rb')": _DENIED,
    "open('/proc/1/environ', 'rb').read()": _DENIED,
    "os.readlink('/proc/1/fd/3')": _DENIED,
    "os.open('/proc/1/fd/3', os.O_RDWR)": _DENIED,
}
#: Calls that have no function in the C library, by their numbers on x86_64.
_NUMBERS = {
    "bpf": 321,
    "io_uring_setup": 425,
    "userfaultfd": 323,
    "perf_event_open": 298,
    "process_vm_readv": 310,
    "pidfd_getfd": 438,
    "keyctl": 250,
}


@pytest.mark.parametrize("attempts", [_FILES, _NETWORK, _RIGHTS, _PROCESSES], ids=["files", "network", "rights", "processes"])
def test_what_it_tries(attempts: dict[str, str], tmp_path: Path) -> None:
    """A15, A16, A21 to A23, A30 to A35, A39, A67: each attempt is denied, and the plugin serves on."""
    (tmp_path / "secret").write_text("the host's")
    with contextlib.ExitStack() as stack:
        for address in (str(tmp_path / "socket"), "\0blackhole-walls"):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listening.bind(address)
            listening.listen()
        shared = stack.enter_context(tempfile.NamedTemporaryFile(dir="/dev/shm"))
        words = {"{home}": str(tmp_path), "{host}": str(os.getpid()), "{prefix}": sys.base_prefix, "{shared}": Path(shared.name).name}
        plugin = _attacker(stack, tmp_path)
        answers = {}
        for attempt in attempts:
            exact = attempt
            for word, value in words.items():
                exact = exact.replace(word, value)
            answers[attempt] = plugin("raw", exact)
    assert answers == attempts


def test_what_it_found_is_what_is_reported(tmp_path: Path) -> None:
    """The worker tried its walls: what it asks for and was not granted is denied by the kernel; what it was granted it can do, and no more."""
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "note").write_text("read me")
    asked = (f"filesystem:read:{tmp_path}/given", "filesystem:write:/srv", "network:connect:example.org:443", "process:exec:/bin/sh")
    with Stage(level="container").closing() as stage:
        stage.confinement = Confinement(requested=asked, granted=asked[:1])
        plugin = stage.start("adhoc", **stage.write(tmp_path / "code", _PLUGIN))
        assert plugin("raw", f"open('{tmp_path}/given/note').read()") == "did it: 'read me'"
        assert plugin("raw", f"open('{tmp_path}/given/note', 'w')") == _READ_ONLY
        assert plugin.runner.enforcement() == dict.fromkeys(asked, "kernel")
        assert plugin.remote.facts.walls_report.open == {}
        assert {"Landlock", "seccomp", "mount namespace", "pid namespace"} <= plugin.remote.facts.walls_report.layers.keys()


def test_the_network_that_it_was_granted_goes_through_the_host(tmp_path: Path) -> None:
    """One address and no other; the container has no network of its own."""
    with Stage(level="container").closing() as stage, serving(serve_echo) as port, serving(serve_echo) as other:
        client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}"))
        program = "import socket\nwith socket.create_connection(('127.0.0.1', {}), timeout=10) as sock:\n    sock.sendall(b'ping')\n    return sock.recv(4)"
        assert client(program.format(port)) == "b'ping'"
        assert client(program.format(other)).startswith("PermissionError")
        assert client.running.runner.enforcement() == {f"network:connect:127.0.0.1:{port}": "broker"}


@pytest.mark.parametrize(
    ("permission", "attempts"),
    [
        ("filesystem", {"open('{note}').read()": "did it: 'read me'", "open('{note}', 'w')": _READ_ONLY, "os.path.exists('/proc/{host}')": "did it: False"}),
        ("filesystem:write:{home}", {"open('{note}', 'r+').read()": "did it: 'read me'", "open('/etc/hostname')": _GONE}),
        ("process:exec:/bin/sh", {"subprocess.run(['/bin/sh', '-c', 'exit 7']).returncode": "did it: 7", "os.execv('/bin/ls', ['ls'])": _GONE}),
        ("device:kvm", {"os.close(os.open('/dev/kvm', os.O_RDWR))": _KVM, "sorted(set(os.listdir('/dev')) & {'kvm', 'mem', 'vda', 'sda'})": _DEVICES}),
        ("env:PATH", {"os.open('/dev/kvm', os.O_RDWR)": _GONE, "os.path.exists('/proc/{host}')": "did it: False"}),
    ],
)  # fmt: skip
def test_what_it_was_granted_is_there(permission: str, attempts: dict[str, str]) -> None:
    """Files in the spelling that was granted, also all of them; a program with what it loads; a device, and no other."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home, Stage(level="container").closing() as stage:
        Path(home, "note").write_text("read me")
        granted = permission.replace("{home}", home)
        stage.confinement = Confinement(requested=(granted,), granted=(granted,))
        plugin = stage.start("adhoc", **stage.write(Path(home, "code"), _PLUGIN))
        words = {"{note}": f"{home}/note", "{host}": str(os.getpid())}
        for attempt, answer in attempts.items():
            exact = attempt
            for word, value in words.items():
                exact = exact.replace(word, value)
            assert plugin("raw", exact) == answer


def test_a_limit_ends_the_worker_and_not_process_1(tmp_path: Path) -> None:
    """A35: who takes more memory than it may is ended, and the caller is told which limit that was."""
    with Stage(level="container").closing() as stage:
        stage.confinement = Confinement(resources=Resources(memory=96, cpu=50, pids=32))
        plugin = stage.start("adhoc", **stage.write(tmp_path / "code", _PLUGIN))
        with pytest.raises(LimitExceeded, match="limit memory: at most 96 MB"):
            plugin("raw", "len([bytearray(os.urandom(1 << 20)) for _ in range(400)])")
        assert plugin.runner.enforcement().keys() == {"resources.memory", "resources.cpu", "resources.pids"}
        assert "none" not in plugin.runner.enforcement().values()


def test_its_own_directory_is_all_it_may_write(tmp_path: Path) -> None:
    """What it puts there is there for the next container."""
    with Stage(level="container").closing() as stage:
        stage.confinement = Confinement(data=tmp_path / "data")
        for number in range(2):
            plugin = stage.start("adhoc", **stage.write(tmp_path / "code", _PLUGIN))
            assert plugin("raw", f"open('{tmp_path}/data/kept', 'a').write('x')") == "did it: 1"
            assert (tmp_path / "data" / "kept").read_text() == "x" * (number + 1)
            stage.hooks.unregister(name="adhoc")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_calls_that_have_no_function(tmp_path: Path) -> None:
    """A30: made by their numbers."""
    with contextlib.ExitStack() as stack:
        plugin = _attacker(stack, tmp_path)
        answers = {name: plugin("raw", f"call({number}, 0, 0, 0, 0, 0, 0)") for name, number in _NUMBERS.items()}
    assert answers == dict.fromkeys(_NUMBERS, _FORBIDDEN)


def _attacker(stack: contextlib.ExitStack, directory: Path) -> Running:
    stage = stack.enter_context(Stage(level="container").closing())
    return stage.start("adhoc", **stage.write(directory / "code", _PLUGIN))
