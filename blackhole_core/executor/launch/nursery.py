"""Where the zygote of one host lives: made when it is needed, replaced when it died or the host has changed, not tried again at once in vain.

Everything here is done by the launcher's thread.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Mapping
from typing import Final

from blackhole_core.executor.launch.child import LaunchSpec
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.plumbing import Plumbing
from blackhole_core.executor.launch.standing import Standing, read_standing
from blackhole_core.executor.launch.zygote import SpawnFailed, Spawning, Zygote, ZygoteLost, start_zygote

__all__ = ["NoZygote", "Nursery", "read_at_start"]

_logger: Final = logging.getLogger("blackhole.launch")

#: Seconds in which no zygote is tried after one could not be had: a try costs as much as a worker, and its cause lasts.
_HOLD_OFF: Final = 30.0
#: Zygotes that one request may use up: the one that was there, and a new one.
_TRIES: Final = 2
#: First of a worker's own numbers: after the three standard streams.
_FIRST: Final = 3

#: All limits there are: a worker that was forked must have the host's, not the zygote's.
_LIMITS: Final = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
#: Variables that the loader, the C library or the interpreter reads when a program starts, by their beginnings: a fork comes too late for them.
_AT_START: Final = ("LD_", "LC_", "LANG", "LOCPATH", "GLIBC_", "MALLOC_", "PYTHON")


class NoZygote(Exception):
    """A worker cannot come from a zygote; says why."""


class Nursery:
    """Forks workers from one zygote after the other. :meth:`close` ends the last."""

    def __init__(self, base: Callable[[], Mapping[str, str]]) -> None:
        """``base`` returns the environment that every worker gets now."""
        self._base = base
        self._zygote: Zygote | None = None
        self._standing: Standing | None = None
        self._environment: Mapping[str, str] = {}
        self._given_up: tuple[float, str] | None = None  # until when (``time.monotonic()``), and why

    @property
    def pidfd(self) -> int | None:
        """Becomes readable when the zygote has died; None while there is none."""
        return self._zygote.pidfd if self._zygote is not None else None

    def warm(self, spec: LaunchSpec) -> None:
        """Have a zygote ready; where none can be had, that is logged and told by the next :meth:`fork`."""
        try:
            self._ready(spec, read_standing())
        except (NoZygote, OSError):
            return

    def fork(self, spec: LaunchSpec, environment: Mapping[str, str], pipes: Plumbing, guard: Guard) -> tuple[int, int]:
        """Fork a worker, which ``guard`` watches before it runs. Return its process id and pidfd.

        :raises NoZygote: it must be started in another way.
        :raises OSError: the system refused.
        """
        standing = read_standing()
        spawning = _spawning(spec, environment, pipes, standing.umask)
        for _ in range(_TRIES):
            zygote = self._ready(spec, standing)
            early = read_at_start(environment, self._environment)
            if early:
                raise NoZygote(f"{early} is read when a program starts")
            try:
                return zygote.fork(spawning, guard)
            except SpawnFailed as error:
                _logger.warning("the zygote could not bring up a worker for plugin %s, it is executed instead: %s", spec.name, error)
                raise NoZygote(str(error)) from None
            except ZygoteLost as error:
                self.bury(str(error))
        raise NoZygote("zygotes died one after the other")

    def bury(self, reason: str) -> None:
        """Clear away a zygote that is of no use any more; the next request makes another one."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            _logger.warning("the zygote that forks workers was lost (%s): %s; workers are not affected", reason, zygote.bury())

    def close(self) -> None:
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()

    def _ready(self, spec: LaunchSpec, standing: Standing) -> Zygote:
        if self._zygote is not None and (self._standing != standing or read_at_start(self._base(), self._environment)):
            self.close()  # the host is not what it was: it may have given something away
        if self._zygote is None:
            self._zygote = self._start(spec)
            self._standing = standing
        return self._zygote

    def _start(self, spec: LaunchSpec) -> Zygote:
        now = time.monotonic()
        if self._given_up is not None and now < self._given_up[0]:
            raise NoZygote(self._given_up[1])
        self._environment = dict(self._base())
        try:
            zygote = start_zygote(spec.import_path, self._environment)
        except ZygoteLost as error:
            self._given_up = (now + _HOLD_OFF, f"no zygote can be had: {error}")
            _logger.warning("%s; workers are executed, which takes longer", self._given_up[1])
            raise NoZygote(self._given_up[1]) from None
        self._given_up = None
        return zygote


def read_at_start(wanted: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    """Return the name of a variable that differs and takes effect only when a program starts, None when there is none."""
    names = sorted(wanted.keys() | there.keys())
    return next((name for name in names if name.startswith(_AT_START) and wanted.get(name) != there.get(name)), None)


def _spawning(spec: LaunchSpec, environment: Mapping[str, str], pipes: Plumbing, umask: int) -> Spawning:
    program = (pipes.worker_receive, pipes.worker_send, *spec.descriptors)
    numbers = tuple(range(_FIRST, _FIRST + len(program)))
    return Spawning(
        descriptors=((pipes.worker_output, 1), (pipes.worker_output, 2), *zip(program, numbers, strict=True)),
        receive=numbers[0],
        send=numbers[1],
        further=numbers[2:],
        import_path=spec.import_path,
        environment=environment,
        umask=umask,
        limits=_limits(),
    )


def _limits() -> tuple[tuple[int, int, int], ...]:
    """Return what ``setrlimit`` would have to be given for a process to be limited as this one is."""
    return tuple((number, *resource.getrlimit(number)) for number in _LIMITS)
