"""One contender in a process of its own: ``python -m benchmarks.reload_peers.contender NAME ROOT``.

It loads the plugin in ROOT in its own way and writes ``ready``. Then, for each line ``INDEX VALUE``, it calls the plugin until the
``INDEX``-th stamp of the answer is ``VALUE`` and writes the monotonic time in ns at which that call returned (0: it never did).
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from benchmarks.reload_peers.tree import PACKAGE, PROJECT

__all__ = ["CONTENDERS"]

#: Calls the plugin and returns its stamps.
Call = Callable[[], list[int]]

#: Seconds between two calls. Short beside what is measured, and long beside a call, so that the poller does not take the interpreter away
#: from a reload in the same process.
_PAUSE: Final = 0.0005

#: Seconds after which an edit counts as never seen.
_PATIENCE: Final = 10.0

#: The settings of Blackhole's own watch, for the contender that reloads by hand.
_STEP_MS: Final = 3
_DEBOUNCE_MS: Final = 1600


@contextmanager
def _blackhole(root: Path, isolation: str) -> Iterator[Call]:
    import blackhole_core as bh

    class Specs:
        @bh.HookspecMarker(PROJECT)
        def stamps(self) -> list[int]: ...  # type: ignore[empty-body]  # a spec has none

    with bh.PluginManager(PROJECT) as pm:
        pm.add_hookspecs(Specs)
        pm.load(PACKAGE, source=root, isolation=isolation)
        pm.watch(PACKAGE)
        yield lambda: cast("list[int]", pm.hook.stamps()[0])


@contextmanager
def _none(root: Path) -> Iterator[Call]:
    with _blackhole(root, "none") as call:
        yield call


@contextmanager
def _process(root: Path) -> Iterator[Call]:
    with _blackhole(root, "process") as call:
        yield call


def _imported(root: Path) -> Call:
    """Import the plugin as any program would; its object is kept, as a host keeps it."""
    sys.path.insert(0, str(root))
    plugin = importlib.import_module(f"{PACKAGE}.plugin").Plugin()
    return cast("Call", plugin.stamps)


@contextmanager
def _jurigged(root: Path) -> Iterator[Call]:
    import jurigged  # type: ignore[import-untyped]  # a peer, without types

    watcher = jurigged.watch(pattern=f"{root}/**/*.py", logger=lambda event: None)
    call = _imported(root)
    yield call
    watcher.stop()


@contextmanager
def _ipython(root: Path) -> Iterator[Call]:
    """``%autoreload 2``, its check run before each call as IPython runs it before each cell. There is no watcher to wait for."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "autoreload")
    shell.run_line_magic("autoreload", "2")
    call = _imported(root)

    def checked() -> list[int]:
        shell.events.trigger("pre_run_cell", None)
        return call()

    checked()
    yield checked


@contextmanager
def _importlib(root: Path) -> Iterator[Call]:
    """``importlib.reload`` of the saved module alone, on notice of a watch with Blackhole's settings and without its settling time."""
    from watchfiles import watch

    call = _imported(root)
    stop = threading.Event()

    def follow() -> None:
        for batch in watch(root, step=_STEP_MS, debounce=_DEBOUNCE_MS, stop_event=stop, rust_timeout=200):
            for _change, path in batch:
                name = ".".join(Path(path).relative_to(root).with_suffix("").parts)
                if path.endswith(".py") and name in sys.modules:
                    importlib.reload(sys.modules[name])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    yield call
    stop.set()
    thread.join()


@contextmanager
def _hmr(root: Path) -> Iterator[Call]:
    """With hmr: it reloads what an entry file depends on; it wants Python 3.12."""
    from reactivity.hmr.api import SyncReloaderAPI  # type: ignore[import-not-found]  # a peer, without types

    sys.path.insert(0, str(root))
    entry = root / "entry.py"
    entry.write_text(f"from {PACKAGE}.plugin import Plugin\n\nplugin = Plugin()\nplugin.stamps()\n")
    with SyncReloaderAPI(str(entry), includes=(str(root),)):
        yield cast("Call", sys.modules[f"{PACKAGE}.plugin"].Plugin().stamps)


CONTENDERS: Final = {
    "none": _none,
    "process": _process,
    "jurigged": _jurigged,
    "hmr": _hmr,
    "IPython": _ipython,
    "importlib.reload": _importlib,
}


def _await(call: Call, index: int, value: int) -> int:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if call()[index] == value:
            return time.monotonic_ns()
        time.sleep(_PAUSE)
    return 0


def main() -> None:
    """Serve the driver until it closes standard input."""
    name, root = sys.argv[1], Path(sys.argv[2])
    with CONTENDERS[name](root) as call:
        call()
        print("ready", flush=True)
        for line in sys.stdin:
            index, value = map(int, line.split())
            print(_await(call, index, value), flush=True)


if __name__ == "__main__":
    main()
