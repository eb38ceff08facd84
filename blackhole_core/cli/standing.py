"""A standing host: a manager made from ``blackhole.yaml``, kept running until a signal or a ``stop``, with a control socket.

Order of the beginning: claim the socket, listen for signals, make the manager, answer requests, load, watch. Order of the end: let
nobody new in, close the manager (plugins stop, workers end), end the connections, give the socket up.

A signal handler may only do what is safe at any instruction: it writes one byte into a pipe, and the main thread, which waits on
that pipe, does the rest. A second signal ends the process at once; workers end with their host.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import attrs

from blackhole_core.cli.control.answers import HostDoor
from blackhole_core.cli.control.claim import SocketClaim
from blackhole_core.cli.control.records import RecordHandler, Records
from blackhole_core.cli.control.server import ControlServer
from blackhole_core.config import HostConfig
from blackhole_core.errors import BlackholeError
from blackhole_core.lifecycle.loading import LoadReport
from blackhole_core.manager import PluginManager

__all__ = ["StopSignal", "find_specs", "serve"]


#: What a byte in the pipe may be that asks for the end: the number of a signal, as the interpreter writes it, or our own mark.
_ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT, ord("!")})


class StopSignal:
    """Tells the main thread to end the host: by SIGTERM, by SIGINT, or by :meth:`give` from any thread. Used as a context, on the main thread."""

    def __init__(self, at_once: Callable[[int], object]) -> None:
        self._at_once = at_once
        self._given = 0
        self._previous: dict[int, Any] = {}
        self._previous_wake = -1
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)

    def __enter__(self) -> Self:
        # A signal that comes between Python's last look for one and the read() below would wait for the end of that read: so the byte is written by
        # the interpreter's own handler, which runs at once.
        self._previous_wake = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(self._previous_wake)
        os.close(self._reading)
        os.close(self._writing)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._given += 1
        if self._given > 1:
            self._at_once(number)

    def give(self) -> None:
        """Ask for the end."""
        try:
            os.write(self._writing, b"!")
        except BlockingIOError:  # asked for 64 Ki times already
            pass

    def wait(self) -> None:
        """Return when the end was asked for."""
        while os.read(self._reading, 1)[0] not in _ENDS:
            pass  # another signal, which is somebody else's business


@attrs.frozen
class Standing:
    """A host that has begun to serve."""

    manager: PluginManager
    loaded: LoadReport
    socket: Path


def serve(
    project: str,
    config: HostConfig,
    socket_path: Path,
    *,
    records: Records,
    watch: Callable[[PluginManager], object],
    ready: Callable[[Standing], object],
) -> None:
    """Run a host until it is told to stop; ``watch`` is called when all is loaded, ``ready`` after it."""
    with contextlib.ExitStack() as stack:
        claim = stack.enter_context(SocketClaim(socket_path))
        stop = stack.enter_context(StopSignal(lambda number: _end_at_once(claim, number)))
        stack.enter_context(_recorded(records))
        manager = _make_manager(project, config)
        door = HostDoor(manager, records, stop.give, time.time())
        server = ControlServer(claim.listen(), door.answer, records)
        stack.callback(server.close)
        stack.callback(manager.on_event(records.add_event))
        stack.callback(manager.close)
        stack.callback(server.stop_accepting)
        server.start()
        loaded = manager.load_all()
        watch(manager)
        ready(Standing(manager, loaded, socket_path))
        stop.wait()
        records.add_host_event("host.stopping")


def _make_manager(project: str, config: HostConfig) -> PluginManager:
    manager = PluginManager(project, config=config)
    try:
        for spec in find_specs(config):
            manager.add_hookspecs(spec)
    except BaseException:
        manager.close()
        raise
    return manager


def find_specs(config: HostConfig) -> Iterator[Any]:
    """Yield the hook specs that the configuration names; modules beside the configuration file can be imported.

    :raises BlackholeError: one cannot be.
    """
    directory = str(config.directory)
    if config.specs and directory not in sys.path:
        sys.path.insert(0, directory)
    for text in config.specs:
        module_name, _, attribute = text.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split(".") if attribute else ():
                found = getattr(found, part)
        except Exception as error:  # the host's own code, with whatever it raises at import
            raise BlackholeError(
                f"the hook specs {text!r} that the configuration names cannot be used: {type(error).__name__}: {error}"
            ) from error
        yield found


@contextlib.contextmanager
def _recorded(records: Records) -> Iterator[None]:
    """Keep what is logged under ``blackhole`` in ``records``, from INFO on, while the host runs."""
    logger = logging.getLogger("blackhole")
    handler = RecordHandler(records)
    before = logger.level
    logger.addHandler(handler)
    if before == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _end_at_once(claim: SocketClaim, number: int) -> None:
    claim.release()
    os._exit(128 + number)
