"""The seam between the manager and the isolation levels: a runner runs one instance of a plugin at one level.

Everything above this file is the same for every level. A runner knows nothing of hook callers, versions or swaps; it is
given a :class:`RunnerSpec`, starts the plugin, answers calls and stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs

from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.leases import Leases
from blackhole_core.executor.timers import Timers
from blackhole_core.executor.wire.frames import DEFAULT_MAX_MESSAGE
from blackhole_core.executor.wire.signature import Signature
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.loader.snapshot import Sources
from blackhole_core.loader.universe import Universe
from blackhole_core.manifest.model import Container, VirtualMachine
from blackhole_core.messages import Call, Calls, Replies, Surface
from blackhole_core.scratch import Scratch

if TYPE_CHECKING:
    from blackhole_core.executor.auditor import Auditor

__all__ = ["Host", "InProcess", "Limits", "Runner", "RunnerSpec", "call_one_by_one"]


@attrs.frozen
class Limits:
    """The deadlines and caps of one plugin; the operator's configuration has already been applied."""

    call_timeout: float | None = (
        300.0  #: seconds a caller waits whose context has no deadline of its own; long enough for any call worth waiting for
    )
    start_timeout: float = 30.0  #: seconds from launch to "loaded"; heavy imports on a busy machine take ten
    stop_grace: float = 5.0  #: seconds between asking to stop and killing
    hang_grace: float = 5.0  #: seconds a call may run on after its caller gave up, before its thread or worker counts as hung
    heartbeat: float = 1.0  #: seconds between two questions to a worker that owes an answer whether it is alive
    hung_after: float = 30.0  #: seconds without an answer to that after which it counts as hung; 0: never
    poison_deaths: int = 3  #: workers that one and the same call may end before it is not run any more; 0: any number
    threads: int = 1  #: calls that run at once
    max_message: int = DEFAULT_MAX_MESSAGE  #: bytes of one call or reply
    share_results: bool = (
        False  #: whether arrays among the results are looked at where the worker put them, and could change them; else copied
    )


@attrs.frozen(eq=False)
class RunnerSpec:
    """What is to be run: code, identity and limits."""

    id: PluginId
    generation: int
    entry: str
    path: Path
    packages: tuple[str, ...]
    project: str
    limits: Limits
    config: Mapping[str, Any]
    environment: Mapping[str, str] = attrs.field(factory=dict)
    imported: tuple[str, ...] = ()  #: modules that the version before had imported; those that still exist are imported at the start
    confinement: Confinement = Confinement()
    container: Container = Container()
    vm: VirtualMachine = VirtualMachine()
    declared: bool = False  #: whether it has a manifest, which says what it may do
    changeable: bool = True  #: whether its files may change on disk while it runs (not those in the versioned store)
    sources: Sources | None = None  #: the text that its first worker was loaded from; None: what is on disk


@attrs.frozen(eq=False)
class Host:
    """What a runner may use of its host. One per manager, closed by the manager after the last runner stopped."""

    hook: Any  #: the host's hook relay, for calls back
    signature: Callable[[str], Signature | None]  #: the annotations of a hook's spec, None when it has none
    hook_names: Callable[[], tuple[str, ...]]  #: hooks that have a spec
    is_firstresult: Callable[[str], bool]
    exception_type: Callable[[str, str], type[Exception] | None]  #: (module, name) → a type a worker may raise in the host
    timers: Timers
    emit: Callable[..., object]
    auditor: Auditor | None = None  #: notices what plugins in this process do, where the operator asked for that
    scratch: Scratch = attrs.field(factory=Scratch)  #: where temporary directories are made, closed like the rest
    services: Any = None  #: level-specific machinery that is shared, see :mod:`blackhole_core.executor.levels`


class Runner(Protocol):
    """One instance of a plugin at one level.

    ``start`` is called once; ``call`` from any thread until ``stop``; ``stop`` and ``kill`` are idempotent and leave no thread, process, module
    or file behind.
    """

    @property
    def level(self) -> Isolation:
        """The level it runs its instance at."""

    def start(self) -> Surface:
        """Bring the plugin up: import, make its object, find what it offers. Not yet ``plugin_start``.

        :raises Exception: it could not be brought up; nothing is left behind.
        """

    def plugin_object(self) -> Any:
        """Return what is registered with the hook manager: the plugin itself, or a proxy with the same signatures."""

    def call(self, call: Call) -> Any:
        """Run one call and return its result.

        :raises CallTimeout: no answer within the deadline of the context, or the plugin's own.
        :raises WorkerDied: the process that ran it ended.
        :raises Exception: what the plugin raised, with a note that names plugin, hook and level.
        """

    def call_many(self, calls: Calls) -> Replies:
        """Run several calls and return what came of them; none is run twice.

        There is at least one reply. A call that fails with an :class:`Exception` has its failure in the replies, noted as :meth:`call` notes it; what
        is none (Ctrl-C) is raised, and no further call is begun. Calls may be left out at the end, unbegun: because one before them
        failed and ``stop_at_failure`` is set, because the deadline passed, or because the plugin stops.

        Each call has ``call_timeout`` for itself, counted from its begin or a little earlier; a deadline of the context holds for all of
        them. When it passes, what has been answered stays answered, what runs, or may have run, fails with :class:`CallTimeout`, and the rest is left out.
        """

    def enforcement(self) -> Mapping[str, str]:
        """Return how each permission that the plugin asks for and each of its limits is enforced: kernel, broker, advisory or none.

        The keys are permissions in canonical spelling, and ``resources.memory`` and the like.
        """

    def drained(self, timeout: float | None) -> bool:
        """Wait until no call is queued or running here; False when ``timeout`` seconds passed first."""

    def stop(self) -> None:
        """End orderly, within the plugin's ``stop_grace``; what does not end by itself is ended."""


@runtime_checkable
class InProcess(Protocol):
    """What a runner has beside when the plugin's code runs in this very process."""

    leases: Leases  #: what the plugin takes through its context, undone by ``stop``
    universe: Universe  #: its modules, released by ``stop``


def call_one_by_one(call: Callable[[Call], Any], calls: Calls) -> Replies:
    """Do :meth:`Runner.call_many` with a runner's :meth:`Runner.call`."""
    results: list[Any] = []
    failures: dict[int, BaseException] = {}
    for args in calls.rows():
        try:
            results.append(call(Call(calls.hook, args, index=calls.index)))
        except Exception as error:
            failures[len(results)] = error
            results.append(None)
            if calls.stop_at_failure:
                break
    return Replies(results, failures)
