"""A host of its own for tests of the sandbox: as whom it runs, whether it may make namespaces, and how its workers are started.

Run as a program it starts the plugin ``prober`` with walls, has it try everything, and prints what came of it as JSON. An unprivileged host cannot read an interpreter or a checkout
below somebody's home directory; so it gets a mount namespace in which they can be reached, and nothing else of that home.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

__all__ = ["EVALUATING", "NOBODY", "run_host"]

#: A user that owns nothing.
NOBODY: Final = 65534
#: A plugin module for :meth:`tests.stage.Stage.write`: it evaluates what it is sent, and says which error of the system came of that.
EVALUATING: Final = """
import os, resource, subprocess
class Plugin:
    @hookimpl
    def raw(self, value):
        try:
            return eval(value)
        except OSError as error:
            return type(error).__name__
"""
_ROOT: Final = Path(__file__).parents[1]
_SECONDS: Final = 60.0


def run_host(
    *,
    uid: int,
    namespaces: bool,
    zygote: bool,
    ahead: bool = False,
    what: str = "probe",
    sandbox: str = "native",
    unenforced: str = "refuse",
) -> dict[str, Any]:
    """Run a host and return what it printed. ``namespaces``: whether the kernel lets it make any; ``ahead``: the worker has made them before it was wanted."""
    order = {
        "uid": uid,
        "namespaces": namespaces,
        "zygote": zygote,
        "ahead": ahead,
        "what": what,
        "sandbox": sandbox,
        "unenforced": unenforced,
    }
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(order), *sys.path],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# --- in the host -----------------------------------------------------------------------------------------------------


def _become(uid: int, directory: Path) -> None:
    if uid == os.getuid():
        return
    _open_the_way([sys.prefix, sys.base_prefix, str(_ROOT), *sys.path, str(directory)])
    os.chown(directory, uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _libc().prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as after execve; or its own files in /proc would belong to root


def _open_the_way(paths: list[str]) -> None:
    """Have everybody reach ``paths``, by a mount namespace in which directories on the way that are closed are replaced by open ones."""
    _checked(_libc().unshare(0x20000), "unshare")  # CLONE_NEWNS
    _mount(None, "/", 1 << 18 | 1 << 14)  # MS_PRIVATE | MS_REC
    closed: dict[Path, list[Path]] = {}
    for path in {Path(path).resolve() for path in paths if Path(path).exists()}:
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                closed.setdefault(parent, []).append(path)
                break
    for parent, below in closed.items():
        stash = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="bh-stash-"))  # not a name that the leak check of a neighbour would find
        for number, path in enumerate(below):
            kept = stash / str(number)
            kept.mkdir() if path.is_dir() else kept.touch()
            _mount(str(path), str(kept), 1 << 12 | 1 << 14)  # MS_BIND | MS_REC
        _checked(_libc().mount(b"tmpfs", os.fsencode(parent), b"tmpfs", ctypes.c_ulong(0), b"mode=755"), "mount")
        for number, path in enumerate(below):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True) if (stash / str(number)).is_dir() else path.touch()
            _mount(str(stash / str(number)), str(path), 1 << 13)  # MS_MOVE
            (stash / str(number)).rmdir() if (stash / str(number)).is_dir() else (stash / str(number)).unlink()
        stash.rmdir()


def _mount(source: str | None, target: str, flags: int) -> None:
    _checked(
        _libc().mount(None if source is None else os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None),
        f"mount {target}",
    )


def _forbid_namespaces() -> None:
    """Have the kernel refuse namespaces to this process and all it starts, as an administrator may."""
    from blackhole_core.executor.sandbox import callfilter, seccomp
    from blackhole_core.executor.sandbox.capabilities import forbid_new_privileges

    forbid_new_privileges()
    seccomp.install(callfilter.assemble([callfilter.Rule("unshare", errno.EPERM)], os.uname().machine))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def main() -> None:
    order = json.loads(sys.argv[1])
    sys.path[:] = dict.fromkeys([str(_ROOT), str(_ROOT / "tests" / "plugins" / "notes_api"), *sys.argv[2:]])
    directory = Path(tempfile.mkdtemp(prefix="bh-confined-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        child = os.fork()
        if not child:
            status = 1
            try:
                _become(order["uid"], directory)
                if not order["namespaces"]:
                    _forbid_namespaces()
                print(json.dumps(_host(order, directory)), flush=True)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
    finally:
        shutil.rmtree(directory)
    sys.exit(os.waitstatus_to_exitcode(status))


def _host(order: dict[str, Any], directory: Path) -> dict[str, Any]:
    os.environ["SECRET"] = "of the host"
    os.environ["TMPDIR"] = str(directory / "host-tmp")
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
    (directory / "host-tmp").mkdir()
    for name in ("data", "foreign"):
        (directory / name).mkdir(mode=0o755)
    (directory / "foreign" / "secret").write_text("secret")
    from tests.plugins.build import HERE

    shutil.copytree(HERE / "prober_1_0", directory / "prober")
    (directory / "prober" / "library.py").write_text("")
    from blackhole_core.executor.confinement import Confinement, Sandbox, Unenforced
    from tests.stage import Stage, eventually

    confinement = Confinement(sandbox=Sandbox(order["sandbox"]), unenforced=Unenforced(order["unenforced"]), data=directory / "data")
    stage = Stage(zygote=order["zygote"])
    try:
        other = stage.start("full", confinement=Confinement(sandbox=Sandbox.OFF))
        ready = None
        if order["ahead"]:
            stage.start("counter", confinement=Confinement(sandbox=Sandbox(order["sandbox"])))
            nursery = stage.launcher._nursery
            assert eventually(lambda: nursery._spare is not None and nursery._spare[0].namespaces)
            assert nursery._spare is not None
            ready = nursery._spare[0].pid
        prober = stage.start("prober", path=directory / "prober", entry="notes_prober:Prober", confinement=confinement)
        worker = prober.remote._traffic.worker
        assert ready is None or (worker is not None and worker.connection.child.pid == ready)
        return globals()[f"_{order['what']}"](directory, prober, other)
    finally:
        stage.close()


def _look(directory: Path, prober: Any, other: Any) -> dict[str, Any]:
    """Have it try everything but how much it can write: what it writes may be on a disk."""
    return _probe(directory, prober, other, fill=False)


def _probe(directory: Path, prober: Any, other: Any, *, fill: bool = True) -> dict[str, Any]:
    """Have it try everything that the rim of this host has."""
    with (
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mail,
    ):
        listening.bind(str(directory / "socket"))
        listening.listen()
        abstract.bind(f"\0blackhole-test-{os.getpid()}")
        abstract.listen()
        mail.bind(str(directory / "mail"))
        mail.settimeout(0)
        facts = {
            "host": os.getpid(),
            "other_worker": other.pid,
            "foreign": str(directory / "foreign" / "secret"),
            "foreign_directory": str(directory / "foreign"),
            "library": str(directory / "prober" / "library.py"),
            "data": str(directory / "data"),
            "home": "/root",
            "unix_socket": str(directory / "socket"),
            "unix_datagram": str(directory / "mail"),
            "abstract_socket": f"blackhole-test-{os.getpid()}",
        }
        found: dict[str, Any] = prober("raw", facts)
    found["environment"] = prober("pick", "environment").split()
    found["descriptors"] = prober("pick", "descriptors").splitlines()
    found["filled"] = prober("pick", "fill") if fill and prober.remote.facts.walls_report.layers.get("mount namespace") == "" else "ENOSPC"
    found["layers"] = prober.remote.facts.walls_report.layers
    found["open"] = prober.remote.facts.walls_report.open
    found["start"] = prober.remote.facts.start_way
    found["transport"] = prober.remote.facts.transport
    found["seen_uid"] = Path(f"/proc/{prober.pid}").stat().st_uid
    found["status"] = Path(f"/proc/{prober.pid}/status").read_text()
    return found


if __name__ == "__main__":
    main()
