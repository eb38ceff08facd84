"""Which engine runs containers here: the first that is installed and has proved that it can, by running one.

A proof is a real container with a real worker program in it, up and ended again; it takes a tenth of a second. What came of it is kept in memory, and on disk beside the
containers, where it holds for the same program, interpreter and boot of the kernel. ``again`` asks for a new one.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.launch.child import Child, LaunchSpec, wait_readable
from blackhole_core.executor.launch.oci.binds import interpreter
from blackhole_core.executor.launch.oci.engines import ENGINES, Engine, find_engine, last_complaint
from blackhole_core.executor.launch.oci.gvisor import GvisorLauncher
from blackhole_core.executor.launch.oci.image.store import Unpacked
from blackhole_core.executor.launch.oci.launcher import ContainerLauncher
from blackhole_core.executor.launch.oci.place import containers_directory
from blackhole_core.executor.launch.packages import install_command
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.frames import frame
from blackhole_core.printable import printable

__all__ = ["choose_engine", "container_missing", "launcher_for", "verdicts"]

#: The file with the verdicts of earlier trials.
_FILE: Final = "verdicts.json"
#: Bytes of it that are read: some hundred verdicts.
_MOST: Final = 65_536
#: Seconds for a worker to come up and speak: half of one, unless the machine is busy.
_HELLO_SECONDS: Final = 30.0

_known: dict[str, str] = {}  # key → why the engine cannot run containers, empty when it can
_lock: Final = threading.Lock()  # one trial at a time, and guards what is known


def choose_engine(runtime: str | None = None) -> Engine:
    """Return the engine to use: the one that ``runtime`` names, else the first that works.

    :raises IsolationUnavailable: says for each why not.
    """
    reasons = []
    for name, (engine, reason) in verdicts(runtime).items():
        if engine is not None and not reason:
            return engine
        reasons.append(f"{name} {reason}")
    raise IsolationUnavailable("container", "; ".join(reasons))


def container_missing(runtime: str | None = None) -> str:
    """Return why no container can run here, empty when one can."""
    if sys.platform != "linux":
        return f"containers are a thing of Linux, this is {sys.platform}"
    try:
        choose_engine(runtime)
    except IsolationUnavailable as error:
        return error.reason
    return ""


def verdicts(runtime: str | None = None, *, again: bool = False) -> dict[str, tuple[Engine | None, str]]:
    """Return each engine by name, None where it is not installed, with the reason why it cannot be used, empty where it can.

    Without ``again`` those after the first that works are not tried, and are left out.
    """
    found: dict[str, tuple[Engine | None, str]] = {}
    for candidate in ENGINES if runtime is None else [engine for engine in ENGINES if engine.name == runtime]:
        engine = find_engine(candidate, os.environ.get("PATH"))
        if engine is None:
            found[candidate.name] = (None, f"is not installed ({install_command(candidate.name)})")
            continue
        reason = _verdict(engine, again)
        found[candidate.name] = (engine, reason and f"cannot run a container here: {reason}")
        if not reason and not again:
            break
    return found


def _verdict(engine: Engine, again: bool) -> str:
    key = _key(engine)
    with _lock:
        if again or key not in _known:
            remembered = {} if again else _read()
            if key not in remembered:
                remembered = {**_read(), key: _try(engine)}
                _write(remembered)
            _known[key] = remembered[key]
        return _known[key]


def _key(engine: Engine) -> str:
    """Return what a verdict holds for: this very program, interpreter, user, and boot of this kernel."""
    found = Path(engine.program).stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    program = f"{engine.program} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
    return f"{engine.name} {program} {interpreter()} {os.geteuid()} {platform.release()} {boot}"


def _try(engine: Engine) -> str:
    """Bring up a container, have its worker say hello, and end it. Return why that failed, empty when it did not."""
    launcher = launcher_for(engine)
    try:
        child = launcher.launch(LaunchSpec("trial", [str(Path(entry).absolute()) for entry in sys.path]))
        try:
            return _greeted(child)
        finally:
            child.discard()
    except IsolationUnavailable as error:
        return error.reason
    except OSError as error:
        return str(error)
    finally:
        launcher.close()


def _greeted(child: Child) -> str:
    """Return why the worker did not say hello, empty when it did."""
    os.write(child.send, frame(codec.encode(codec.Confine(None))))
    if not wait_readable(child.receive, int(_HELLO_SECONDS * 1000)):
        return f"a worker said nothing for {_HELLO_SECONDS:g} s"
    if os.read(child.receive, 1):
        return ""
    said = os.read(child.output, _MOST).decode("utf-8", "replace") if wait_readable(child.output, 0) else ""
    return printable(last_complaint(said), 2000) or "a worker ended without a word"


def launcher_for(engine: Engine, image: Unpacked | None = None) -> ContainerLauncher:
    """Return what brings up containers by ``engine``, made from ``image`` if there is one."""
    return ContainerLauncher(engine, image=image) if engine.passes else GvisorLauncher(engine, image=image)


def _file() -> Path:
    return containers_directory(os.environ, os.geteuid()) / _FILE


def _read() -> dict[str, str]:
    try:
        with _file().open("rb") as file:
            found: Any = json.loads(file.read(_MOST))
    except (OSError, ValueError):
        return {}  # there is none, or it was cut off: tried again
    return {key: reason for key, reason in found.items() if isinstance(reason, str)} if isinstance(found, dict) else {}


def _write(found: dict[str, str]) -> None:
    """Keep the verdicts of this boot; when that is not possible the next process tries again."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    try:
        descriptor, name = tempfile.mkstemp(prefix=_FILE, dir=_file().parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({key: reason for key, reason in found.items() if key.endswith(boot)}, file)
        Path(name).replace(_file())
    except OSError:
        pass
