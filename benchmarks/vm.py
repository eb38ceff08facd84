"""A plugin in a virtual machine: ``python -m benchmarks.vm [--rounds N] [--json FILE] [--check]``.

*Start* is from the wish to load a plugin until its first call has answered, beside a bare boot: the same kernel, disks and interpreter, until the interpreter's first byte has
come through the serial port. *Crash to next answer* is from the SIGKILL of a machine until the plugin has answered, where another one stands by (`vm.spare`) beside where none does. *Round trip* is one call of about 110 bytes there and back, beside as many bytes that a bare loop of reads and writes echoes over the same kind of port, and beside
level process. All take turns within one run; which accelerator ran the guests stands in the title.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

import attrs

import blackhole_core as bh
from benchmarks.harness import options
from benchmarks.levels import PAYLOAD, Beside, in_turns, manager, plugin_at, rows, start, trip
from benchmarks.results import Document, publish
from blackhole_core.executor.guest.images import Images, cache_directory
from blackhole_core.executor.guest.initramfs import Plan
from blackhole_core.executor.guest.interpreter import interpreter_program
from blackhole_core.executor.launch.clock import tsc_khz
from blackhole_core.executor.launch.vmarchive import archive_for
from blackhole_core.executor.launch.vmchild import Sockets
from blackhole_core.executor.launch.vmcommand import Machine, qemu_command
from blackhole_core.executor.launch.vmproof import prove_accelerator

_ROUNDS: Final = 5
#: Echoes of which one bare round trip is the mean.
_ECHOES: Final = 200
#: What is aimed at, as times better than the peer: at most 1.5 times its time, at most twice.
_START, _TRIP = 1 / 1.5, 1 / 2

#: Restarts that follow one another at once are not put off.
_RESTART: Final = {"restart": {"intensity": 1000, "period": 0.01, "delay": 0, "max_delay": 0}}
#: Seconds between two looks whether a machine stands by, which takes a second or two.
_LOOK: Final = 0.02

_ECHO: Final = "import os; os.write(4, b'x')\nwhile data := os.read(3, 65536): os.write(4, data)"


@attrs.frozen
class _Bare:
    """A guest that runs nothing but a loop."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    seconds: float  #: from the wish to the first byte

    def echo(self) -> float:
        data = b"x" * 110
        begun = time.perf_counter()
        for _ in range(_ECHOES):
            self.channel.sendall(data)
            missing = len(data)
            while missing:
                missing -= len(self.channel.recv(missing))
        return (time.perf_counter() - begun) / _ECHOES


@contextlib.contextmanager
def _bare() -> Iterator[_Bare]:
    """Boot a bare guest, for the length of the block."""
    images = Images(cache_directory(os.environ))
    kernel = images.kernel()
    accelerator = prove_accelerator(images, kernel)
    disks = (images.interpreter(), *images.imports(sys.path))
    plan = Plan((str(interpreter_program()), "-I", "-S", "-c", _ECHO), len(disks), len(disks))
    pace = 0 if accelerator.name == "kvm" else tsc_khz()
    with archive_for(images.initramfs(kernel), plan.text()) as archive, Sockets() as sockets:
        machine = sockets.connected(Machine(kernel.image, accelerator, archive.fileno(), disks=disks, tsc_khz=pace))
        begun = time.perf_counter()
        process = subprocess.Popen(qemu_command(machine), pass_fds=machine.descriptors, stdin=subprocess.DEVNULL)
        with process, socket.socket(fileno=os.dup(sockets.channel)) as channel:
            channel.setblocking(True)
            assert channel.recv(1) == b"x"
            try:
                yield _Bare(process, channel, time.perf_counter() - begun)
            finally:
                process.kill()


def _boot() -> float:
    with _bare() as guest:
        return guest.seconds


@contextlib.contextmanager
def _crashing(spare: bool) -> Iterator[Callable[[], float]]:
    """Yield what ends the machine of a plugin and returns the seconds until it answers again."""
    with manager({"vm": {"spare": spare}, **_RESTART}) as (pm, source):
        pm.load("echo", source=source, isolation="vm")
        plugin = pm.plugin("echo")

        def await_spare() -> None:
            while plugin.spare is not None and plugin.spare.phase != "ready":
                time.sleep(_LOOK)

        def crash() -> float:
            assert plugin.pid is not None
            begun = time.perf_counter()
            os.kill(plugin.pid, signal.SIGKILL)
            with contextlib.suppress(bh.WorkerDied):  # as whoever calls meanwhile
                pm.hook.echo(value=PAYLOAD)
            pm.hook.echo(value=PAYLOAD)
            taken = time.perf_counter() - begun
            await_spare()  # it comes up in the background, and is to disturb no other figure
            return taken

        await_spare()
        yield crash


def _measure(rounds: int) -> dict[str, list[float]]:
    with contextlib.ExitStack() as opened:
        in_process, in_guest = (opened.enter_context(plugin_at(level)) for level in ("process", "vm"))
        pm, source = opened.enter_context(manager())
        guest = opened.enter_context(_bare())
        stood_by, alone = (opened.enter_context(_crashing(spare)) for spare in (True, False))
        what: dict[str, Callable[[], float]] = {
            "boot": _boot,
            "start": lambda: start(pm, source, "vm"),
            "stood by": stood_by,
            "alone": alone,
            "echo": guest.echo,
            "process": lambda: trip(in_process),
            "vm": lambda: trip(in_guest),
        }
        return in_turns(what, rounds)


_TABLE: Final = (
    Beside("start to first answer", "start", "boot", "bare boot to the interpreter's first byte", "ms", 1e3, _START),
    Beside("crash to next answer, another machine stands by", "stood by", "alone", "without one", "ms", 1e3),
    Beside("round trip", "vm", "echo", "bare echo over virtio-serial", "µs", 1e6, _TRIP),
    Beside("round trip", "vm", "process", "level process", "µs", 1e6),
)


def main() -> int:
    """Be the command line."""
    asked = options(__doc__, default_rounds=_ROUNDS)
    images = Images(cache_directory(os.environ))
    accelerator = prove_accelerator(images, images.kernel())
    title = f"A plugin in a virtual machine, {accelerator.name}"
    return publish(Document(title, tuple(rows(_measure(asked.rounds), _TABLE))), to=asked.json, check=asked.check)


if __name__ == "__main__":
    raise SystemExit(main())
