"""A host whose workers, threads and clock are simulated; everything between them is the product's own."""

from __future__ import annotations

import select
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import attrs

import blackhole_core as bh
from blackhole_core.executor import connection, listening
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.executor.sandbox.walls import Enclosure
from blackhole_core.executor.workerfactory import WorkerFactory
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.guard import Guard
from blackhole_core.lifecycle.loading import Loader
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.registry.candidate import Candidate
from tests.simulated.scheduler import Scheduler, simulated
from tests.simulated.worker import Machine

__all__ = ["Simulation", "simulation"]


@attrs.frozen
class Simulation:
    """``pm`` is a real manager."""

    scheduler: Scheduler
    machine: Machine
    pm: bh.PluginManager


class _Factory(WorkerFactory):
    """The product's own, without a directory for temporary files: nobody writes any."""

    def _enclose(self, spec: Any) -> Enclosure:
        return Enclosure()


@contextmanager
def simulation(seed: int, candidates: dict[str, Candidate], sources: dict[str, str], config: dict[str, Any]) -> Iterator[Simulation]:
    """Give a host of project ``histories`` that finds a version of its one plugin in ``candidates`` where somebody names it as source; their code is in ``sources``."""
    with ExitStack() as stack:
        scheduler = stack.enter_context(simulated(seed))
        machine = Machine(scheduler, sources)
        poller = types.SimpleNamespace(poll=machine.poll, POLLIN=select.POLLIN, POLLOUT=select.POLLOUT, POLLERR=select.POLLERR)
        stack.enter_context(patch.multiple(connection, os=machine.os(), select=poller, wait_readable=machine.wait_readable))
        stack.enter_context(patch.object(listening, "os", machine.os()))
        for function in (Supervisor.__init__, Guard.__init__):  # their clock is a default, bound long ago
            stack.enter_context(patch.object(function, "__defaults__", (lambda: scheduler.now,)))
        pm = bh.PluginManager("histories", config=config)
        parts: Any = pm.parts

        def make(level: Isolation, spec: Any) -> RemoteRunner:
            return RemoteRunner(spec, _Factory(parts._host, level, machine, parts._levels._pump, (), machine, lane=False, arena=False))  # type: ignore[arg-type]  # what stands for a launcher and a limiter

        parts._levels.make = make
        parts.find = lambda name, version, source: candidates[source.name]
        parts.registry.again = lambda candidate: candidate
        stack.enter_context(patch.object(Loader, "_admit_alone", lambda self, candidate: None))  # no file is looked at
        yield Simulation(scheduler, machine, pm)
