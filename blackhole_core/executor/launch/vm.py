"""Level vm: a worker is the one program of a virtual machine, and QEMU is a child process of the host.

The guest has no network and sees no file of the host: what it runs comes on read-only disks (the interpreter, what the host can import, the plugin's
code), each at the path it has here, so that nothing that is said of files has to be translated. Its three serial ports are sockets whose other ends the
host holds: the protocol, the worker's output (with the kernel's warnings), and the worker's exit status in words.

QEMU is ended in three ways when its host dies: by the kernel (it asks for that before it becomes QEMU, on the thread that lives as long as the launcher),
by the :mod:`~blackhole_core.executor.launch.guard`, and by a guest that finds its channel closed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.guest.images import WORKER_UID, CannotBuild, Images, cache_directory
from blackhole_core.executor.guest.initramfs import Plan
from blackhole_core.executor.guest.interpreter import interpreter_program
from blackhole_core.executor.guest.kernel import Kernel, NoKernel
from blackhole_core.executor.launch.child import Child, LaunchSpec, Start
from blackhole_core.executor.launch.clock import tsc_khz
from blackhole_core.executor.launch.execute import taken_over
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.vmarchive import archive_for
from blackhole_core.executor.launch.vmchild import Sockets, VmChild
from blackhole_core.executor.launch.vmcommand import Accelerator, Machine, memory_of, processors_of, qemu_command
from blackhole_core.executor.launch.vmproof import prove_accelerator
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.ids import Isolation
from blackhole_core.manifest.permissions import Level, level_of, parse_permission

__all__ = ["VmLauncher", "images_for"]

#: Variables a worker in a guest gets from the host's environment: how to spell text and time. What names places here means nothing there.
_PASSED_ON: Final = ("TZ", "LANG", "LC_ALL", "LC_CTYPE")
#: The worker's program: it gives up being root before anything else, then is the worker that it is at every level.
_PROGRAM: Final = """
import os, sys
user, tasks = map(int, sys.argv[1:3])
if tasks:
    from resource import RLIMIT_NPROC, setrlimit
    setrlimit(RLIMIT_NPROC, (tasks, tasks))
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
sys.path[:] = sys.argv[3:]
del sys.argv[1:]
from blackhole_core.executor.worker import serve
serve(3, 4, ())
"""
#: What becomes QEMU: it asks to be killed when the thread that started it ends, and goes at once if that has happened already.
_BECOME: Final = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); os.getppid() == int(sys.argv[1]) or os._exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
#: Areas of permissions that a guest can be given: variables, and what goes over the channel.
_INSIDE: Final = frozenset({"env", "host", "plugin", "other_plugins"})
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


class VmLauncher:
    """Brings up virtual machines. Images and the verdict about KVM are made by the thread that first needs them; QEMU is started by one thread of its own.

    ``_lock`` guards what is made once: the kernel, the archive, the interpreter's disk, the accelerator and the pace of the counter.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._lock = threading.Lock()
        self._ground: _Ground | None = None
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
            ground = self._get_ground()
            data = data_disk(plugin)
            disks = (
                ground.interpreter,
                *self._images.imports(spec.import_path),
                self._images.plugin(plugin.path, plugin.packages, (str(plugin.confinement.data),) if data is not None else ()),
            )
        except (CannotBuild, NoKernel) as error:
            raise IsolationUnavailable(Isolation.VM.value, str(error)) from None
        resources = plugin.confinement.resources
        plan = Plan(
            command=(str(interpreter_program()), "-I", "-S", "-c", _PROGRAM, str(WORKER_UID), str(resources.pids or 0), *spec.import_path),
            environment={**environment(os.environ), **spec.environment},
            disks=len(disks),
            data=str(plugin.confinement.data) if data is not None else "",
            temporary="size=50%" if resources.disk is None else f"size={round(resources.disk * 1024)}k",
        )
        with archive_for(ground.initramfs, plan.text()) as archive, Sockets() as sockets:
            machine = Machine(
                kernel=ground.kernel.image,
                archive=archive.fileno(),
                accelerator=ground.accelerator,
                console=sockets.guest_console,
                disks=disks,
                data=data,
                memory=memory_of(resources),
                processors=processors_of(resources),
                channel=sockets.guest_channel,
                output=sockets.guest_output,
                status=sockets.guest_status,
                tsc_khz=ground.tsc_khz,
            )
            start = Start("vm", str(ground.accelerator))
            return self._starter.submit(self._bring_up, machine, sockets, start).result()

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
                )
            return self._ground

    # --- the thread that starts --------------------------------------------------------------------------------------

    def _bring_up(self, machine: Machine, sockets: Sockets, start: Start) -> Child:
        if self._guard is None:
            self._guard = Guard()
        guard = self._guard
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *qemu_command(machine)],
            stdin=subprocess.DEVNULL,
            stdout=sockets.guest_console,
            stderr=sockets.guest_console,
            pass_fds=machine.descriptors,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            cwd="/",
            start_new_session=True,  # its own group to be killed as one, and no Ctrl-C of the host's terminal
        )
        pidfd = taken_over(process, guard)
        channel, send, output, status = sockets.hand_over()
        return VmChild(process.pid, pidfd, channel, send, output, status, start=start, on_reap=lambda: guard.forget(process.pid))


def refuse_ungivable(plugin: RunnerSpec) -> None:
    """Let a plugin pass that was granted nothing which is outside the machine: this version has no way to it.

    :raises IsolationUnavailable: it was granted a file, a network, a device or a program of the host.
    """
    granted = map(parse_permission, plugin.confinement.effective)
    outside = [str(one) for one in granted if one.area not in _INSIDE and level_of(one) is not Level.NORMAL]
    if outside:
        raise IsolationUnavailable(
            Isolation.VM.value,
            f"plugin {plugin.id} was granted {', '.join(outside)}, and this version has no way from a virtual machine to files, network, devices and "
            "programs of the host. Run it at level container, or revoke that if the plugin can do without it",
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

    Two guests cannot have it at once: QEMU refuses the second. So a swap from vm to vm of a plugin with such a disk fails, and the old version serves on.

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
