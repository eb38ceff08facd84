"""Level vm: a worker is the one program of a virtual machine, and QEMU is a child process of the host.

The guest has no network and sees no file of the host: what it runs comes on read-only disks (the interpreter, what the host can import, the plugin's
code), each at the path it has here, so that nothing that is said of files has to be translated. Its three serial ports are sockets whose other ends the
host holds: the protocol, the worker's output (with the kernel's warnings), and the worker's exit status in words.

QEMU is ended in three ways when its host dies: by the kernel (it asks for that before it becomes QEMU, on the thread that lives as long as the launcher),
by the :mod:`~blackhole_core.executor.launch.guard`, and by a guest that finds its channel closed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.errors import IsolationUnavailable, LoadFailed
from blackhole_core.executor.guest.images import WORKER_UID, CannotBuild, Images, cache_directory
from blackhole_core.executor.guest.initramfs import Plan, disk_name
from blackhole_core.executor.guest.interpreter import interpreter_program
from blackhole_core.executor.guest.kernel import Kernel, NoKernel
from blackhole_core.executor.guest.orders import Orders, encode_orders
from blackhole_core.executor.launch.child import Child, LaunchSpec, Start
from blackhole_core.executor.launch.clock import tsc_khz
from blackhole_core.executor.launch.execute import taken_over
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.vmarchive import archive_for
from blackhole_core.executor.launch.vmchild import Sockets, VmChild
from blackhole_core.executor.launch.vmcommand import Accelerator, Machine, memory_of, processors_of
from blackhole_core.executor.launch.vmmemory import Shape, keep_memory, slot_for
from blackhole_core.executor.launch.vmmonitor import Monitor, MonitorFailed, open_state
from blackhole_core.executor.launch.vmprocess import start_qemu
from blackhole_core.executor.launch.vmproof import machine_marks, prove_accelerator
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.ids import Isolation
from blackhole_core.manifest.permissions import Level, level_of, parse_permission

__all__ = ["VmLauncher", "images_for", "refuse_spare"]

#: Variables a worker in a guest gets from the host's environment: how to spell text and time. What names places here means nothing there.
_PASSED_ON: Final = ("TZ", "LANG", "LC_ALL", "LC_CTYPE")
#: The worker's program: it waits for orders, as the guest's only program.
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; from blackhole_core.executor.guest.inside import main; main(sys.argv.pop(1) == 'tell')"
)
#: Bytes of random numbers that a guest is given.
_ENTROPY: Final = 64
#: Areas of permissions that a guest can be given: variables, what goes over the channel, and connections, which the relay makes.
_INSIDE: Final = frozenset({"env", "host", "plugin", "other_plugins", "network"})
#: Seconds in which a file system is made; it is a few blocks of an empty file.
_MKFS_SECONDS: Final = 60.0


@attrs.frozen
class _Ground:
    """What is the same for all guests of one launcher."""

    kernel: Kernel
    initramfs: Path
    interpreter: Path
    accelerator: Accelerator
    tsc_khz: int
    host: tuple[str, ...]


class VmLauncher:
    """Brings up virtual machines. Images and the verdict about KVM are made by the thread that first needs them; QEMU is started by one thread of its own.

    ``_lock`` guards what is made once: the kernel, the archive, the interpreter's disk, the accelerator and the pace of the counter.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._lock = threading.Lock()
        self._ground: _Ground | None = None
        self._unkept: dict[bytes, str] = {}  # why guests of a shape boot each time
        self._guard: Guard | None = None  # touched by the starting thread, and by close
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="blackhole-vm-launcher")

    def launch(self, spec: LaunchSpec) -> Child:
        """Bring up a guest; it has not booted yet.

        :raises IsolationUnavailable: something it is made of is missing.
        :raises OSError: the system refused; nothing is left behind.
        """
        plugin = spec.plugin
        assert plugin is not None, "a guest is made for a plugin"
        refuse_ungivable(plugin)
        try:
            shape, code, data = self._prepare(plugin, spec.import_path)
            memory, reason = self._memory(shape)
        except (CannotBuild, NoKernel) as error:
            raise IsolationUnavailable(Isolation.VM.value, str(error)) from None
        try:
            return self._start(spec, shape, code, data, memory, reason)
        except MonitorFailed as error:
            assert memory is not None, "only a guest that slept has a monitor"
            memory.unlink(missing_ok=True)
            self._images.progress(f"a virtual machine did not go on from its memory, which is made anew: {error}")
        return self._start(spec, shape, code, data, *self._memory(shape))

    def _prepare(self, plugin: RunnerSpec, import_path: Sequence[str]) -> tuple[Shape, Path, Path | None]:
        """Return what a guest for ``plugin`` is before it has orders, the disk with the plugin's code, and the one for its data."""
        ground = self._get_ground()
        data = data_disk(plugin)
        code = self._images.plugin(plugin.path, plugin.packages, (str(plugin.confinement.data),) if data is not None else ())
        common = (ground.interpreter, *self._images.imports(import_path))
        resources = plugin.confinement.resources
        resumes = ground.accelerator.name == "tcg"
        plan = Plan(
            command=(str(interpreter_program()), "-I", "-S", "-c", _PROGRAM, "tell" if resumes else "", *import_path),
            layers=len(common),
            disks=len(common) + 1 + (data is not None),
        )
        machine = Machine(
            kernel=ground.kernel.image,
            accelerator=ground.accelerator,
            disks=common,
            memory=memory_of(resources),
            processors=processors_of(resources),
            tsc_khz=ground.tsc_khz,
        )
        data_slot = 0 if data is None else data.stat().st_size
        return Shape(machine, ground.initramfs, plan, slot_for(code), data_slot, ground.host), code, data

    def _memory(self, shape: Shape) -> tuple[Path | None, str]:
        """Return the memory that a guest of this shape goes on from; None, and why, where it is to boot."""
        if shape.machine.accelerator.name != "tcg":
            return None, ""  # the processor boots one in half a second
        reason = self._unkept.get(shape.digest(), "")
        if not reason:
            try:
                return keep_memory(self._images, shape), ""
            except CannotBuild as error:
                reason = self._unkept[shape.digest()] = str(error)
                self._images.progress(f"each virtual machine will boot: {reason}")
        return None, reason

    def _start(self, spec: LaunchSpec, shape: Shape, code: Path, data: Path | None, memory: Path | None, reason: str) -> Child:
        """Bring up a guest of this shape, and tell it what it is to do.

        :raises MonitorFailed: it does not go on from its memory; it is ended.
        """
        with contextlib.ExitStack() as opened:
            sockets = opened.enter_context(Sockets())
            machine = attrs.evolve(
                sockets.connected(shape.machine),
                disks=(*shape.machine.disks, code),
                data=data,
                relay=spec.descriptors[0] if spec.descriptors else -1,
            )
            if memory is None:
                archive = opened.enter_context(archive_for(shape.initramfs, shape.plan.text()))
                machine = attrs.evolve(machine, archive=archive.fileno())
            else:
                state = open_state(memory, machine.memory)
                opened.callback(os.close, state)
                machine = attrs.evolve(machine, state=state, held=memory, resumed=True, monitor=sockets.guest_monitor)
            disk = None if data is None else opened.enter_context(held_disk(spec.plugin, data))
            start = Start("vm", _how(machine, reason))
            child = self._starter.submit(self._bring_up, machine, sockets, disk, start).result()
            try:
                if machine.resumed:
                    with Monitor(sockets.monitor) as monitor:
                        monitor.resume(machine.state)
                self._command(child, _orders(spec, machine))
            except BaseException:
                child.discard()
                raise
            return child

    def _command(self, child: Child, orders: Orders) -> None:
        try:
            data = encode_orders(orders)
        except ValueError as error:
            raise OSError(errno.E2BIG, str(error)) from None
        if os.write(child.send, data) != len(data):
            raise OSError(errno.ENOBUFS, "the system took not all of what a virtual machine is told")

    def close(self) -> None:
        self._starter.shutdown()
        if self._guard is not None:
            self._guard.close()

    def _get_ground(self) -> _Ground:
        with self._lock:
            if self._ground is None:
                kernel = self._images.kernel()
                accelerator = prove_accelerator(self._images, kernel)
                self._ground = _Ground(
                    kernel,
                    self._images.initramfs(kernel),
                    self._images.interpreter(),
                    accelerator,
                    0 if accelerator.name == "kvm" else tsc_khz(),
                    tuple(machine_marks()),
                )
            return self._ground

    # --- the thread that starts --------------------------------------------------------------------------------------

    def _bring_up(self, machine: Machine, sockets: Sockets, disk: int | None, start: Start) -> Child:
        if self._guard is None:
            self._guard = Guard()
        guard = self._guard
        process = start_qemu(machine)
        pidfd = taken_over(process, guard)
        channel, send, output, status = sockets.hand_over()
        kept = None if disk is None else os.dup(disk)
        return VmChild(process.pid, pidfd, channel, send, output, status, disk=kept, start=start, on_reap=lambda: guard.forget(process.pid))


def _how(machine: Machine, reason: str) -> str:
    if machine.resumed:
        return f"{machine.accelerator}, resumed from memory"
    return f"{machine.accelerator}, booted: {reason}" if reason else str(machine.accelerator)


def _orders(spec: LaunchSpec, machine: Machine) -> Orders:
    assert spec.plugin is not None, "a guest is made for a plugin"
    confinement = spec.plugin.confinement
    resources = confinement.resources
    names = [disk_name(number) for number in range(len(machine.disks) + 1)]
    return Orders(
        layers=tuple(names[:-1]),
        environment={**environment(os.environ), **spec.environment},
        user=WORKER_UID,
        tasks=resources.pids or 0,
        data=str(confinement.data) if machine.data is not None else "",
        data_disk=names[-1] if machine.data is not None else "",
        temporary="size=50%" if resources.disk is None else f"size={round(resources.disk * 1024)}k",
        now=time.time_ns() if machine.resumed else 0,
        entropy=os.urandom(_ENTROPY),
        network=machine.relay >= 0,
    )


def refuse_ungivable(plugin: RunnerSpec) -> None:
    """Let a plugin pass that was granted nothing which is outside the machine: this version has no way to it.

    :raises IsolationUnavailable: it was granted a file, a device or a program of the host.
    """
    granted = map(parse_permission, plugin.confinement.effective)
    outside = [str(one) for one in granted if one.area not in _INSIDE and level_of(one) is not Level.NORMAL]
    if outside:
        raise IsolationUnavailable(
            Isolation.VM.value,
            f"plugin {plugin.id} was granted {', '.join(outside)}, and this version has no way from a virtual machine to files, devices and "
            "programs of the host. Run it at level container, or revoke that if the plugin can do without it",
        )


def refuse_spare(plugin: RunnerSpec) -> None:
    """Let a plugin pass that has no disk of its own, or wants no spare machine.

    :raises LoadFailed: it has both.
    """
    if plugin.vm.spare and plugin.confinement.data is not None and plugin.confinement.resources.disk is not None:
        raise LoadFailed(
            str(plugin.id),
            "a spare virtual machine (vm: {spare: true}) is wanted beside one with a disk of the plugin's own (resources.disk), which only one machine can "
            "have. Leave out one of the two: without a spare a machine that dies is replaced in about a second; without the disk the plugin's state is "
            "still kept by the host",
        )


def images_for(emit: Callable[..., object]) -> Images:
    """Return the images of this user; what is being made is told as events."""
    return Images(cache_directory(os.environ), lambda said: emit("vm.building", said=said))


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker in a guest, without what is granted to its plugin."""
    passed = {name: environ[name] for name in _PASSED_ON if name in environ}
    spelled = {} if {"LANG", "LC_ALL", "LC_CTYPE"} & passed.keys() else {"LC_CTYPE": "C.UTF-8"}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", **spelled, **passed}  # noqa: S108 - the guest's


def data_disk(plugin: RunnerSpec) -> Path | None:
    """Return the disk for the plugin's own data, made when it is first wanted; None for a plugin that named no size for one, or has no place for data.

    :raises CannotBuild: it cannot be made.
    :raises OSError: there is no room for it.
    """
    directory = plugin.confinement.data
    size = plugin.confinement.resources.disk
    if directory is None or size is None:
        return None
    disk = directory / "vm-disk.ext4"
    if not disk.exists():
        with disk.open("xb") as file:
            file.truncate(round(size * 1024 * 1024))
        try:
            subprocess.run(
                ["mkfs.ext4", "-q", "-E", f"root_owner={WORKER_UID}:{WORKER_UID}", str(disk)],
                capture_output=True,
                text=True,
                timeout=_MKFS_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            disk.unlink()
            said = getattr(error, "stderr", None) or str(error)
            raise CannotBuild(f"the data disk of {plugin.id} cannot be made: {said.strip()}; mkfs.ext4 is in package e2fsprogs") from None
    return disk


@contextlib.contextmanager
def held_disk(plugin: RunnerSpec | None, disk: Path) -> Iterator[int]:
    """Hold a data disk for one guest, as long as a copy of the descriptor that this gives is open: two that write to it destroy it.

    :raises IsolationUnavailable: another guest has it, as when a plugin is swapped from vm to vm.
    """
    assert plugin is not None, "a guest is made for a plugin"
    with disk.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IsolationUnavailable(
                Isolation.VM.value,
                f"the data disk of {plugin.id.name}, {disk}, is in use by another virtual machine. A plugin with a disk of its own (resources.disk) cannot be "
                "swapped from vm to vm, for the old version writes to it until the new one serves: unload it and load the new version, or swap it by way of "
                "level process, which carries its state and leaves the disk",
            ) from None
        yield opened.fileno()
