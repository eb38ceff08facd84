"""Hook callers: what ``pm.hook.<name>`` is.

``pm.hook.transform`` is a plain function, because a call through an object costs 220 ns more than the 160 ns that a whole
generated function needs (CPython 3.11). The function and its :class:`HookCaller` share one namespace: the object's
``__dict__`` *is* the function's, so every attribute and method of pluggy's ``HookCaller`` is there on the function, and
``isinstance(pm.hook.transform, HookCaller)`` holds. Being a function it must not be stored as a class attribute, where
Python would bind it as a method.

Invariants, kept under the manager's ``hook_lock``:

* ``_hookimpls`` is never changed in place; readers without the lock see the list from before or after a change.
* While a gate is closed over the hook, the function's code is the gate's, whatever changes behind it.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pluggy import HookCaller as PluggyHookCaller
from pluggy import HookImpl, HookRelay
from pluggy._callers import _multicall, _raise_wrapfail
from pluggy._hooks import HookSpec, _SubsetHookCaller

from blackhole_core.hooks import attribution, many
from blackhole_core.hooks.compiling import (
    MISSING,
    Body,
    direct_body,
    forwarding_body,
    generic_body,
    parameters_of,
    unrolled_body,
    wrapped_body,
)
from blackhole_core.hooks.door import Door
from blackhole_core.hooks.inflight import Ticket
from blackhole_core.hooks.order import inserted
from blackhole_core.hooks.probe import Measure
from blackhole_core.hooks.slowcalls import SlowPath, with_extra
from blackhole_core.hooks.switching import CodeSwitch, Compiled, compiled, new_function
from blackhole_core.hooks.unwinding import second_yield, unwind

if TYPE_CHECKING:
    from blackhole_core.hooks.manager import HookManager
    from blackhole_core.hooks.telemetry import Meter, SlowCall

__all__ = ["HookCaller", "HookRelay", "SubsetHookCaller"]

#: pluggy's public surface of a caller, plus what pluggy itself and its tests call on one.
_METHODS: Final = (
    "_add_hookimpl",
    "_apply_defaults",
    "_maybe_apply_history",
    "_remove_plugin",
    "_verify_all_args_are_provided",
    "call_extra",
    "call_historic",
    "get_hookimpls",
    "has_spec",
    "is_historic",
    "map",
    "set_specification",
)

#: For calls that ran in pluggy's loop: no line of a generated body says which implementation failed.
_NO_LINES: Final[Mapping[int, int]] = MappingProxyType({})


class _FunctionsToo(type):
    """Lets ``isinstance`` see the caller behind a caller function."""

    def __instancecheck__(cls, instance: object) -> bool:
        behind = getattr(instance, "__hookcaller__", instance) if type(instance) is FunctionType else instance
        return super().__instancecheck__(behind)


class HookCaller(PluggyHookCaller, metaclass=_FunctionsToo):
    """The state behind one caller function: implementations, specification, history, closed gates, running calls."""

    # These shadow the slots of pluggy's class, so that the values live in the namespace shared with the function.
    name: str = ""  # type: ignore[misc]  # the base has a slot of this name
    spec: HookSpec | None = None
    _hookexec: Any = None  # type: ignore[misc]  # the base has a slot of this name
    _hookimpls: Any = ()  # type: ignore[misc]  # the base has a slot of this name
    _call_history: Any = None

    def __init__(self, manager: HookManager, name: str, namespace: Any = None, spec_opts: Any = None) -> None:
        self.function = new_function(name, __name__)
        self.function.__dict__.update(self.__dict__)
        self.__dict__ = self.function.__dict__
        self.__hookcaller__ = self
        self.manager = manager
        self.switch = CodeSwitch(self.function)
        self.door = Door(name, manager.hook_lock)
        #: The state to serve once the last gate opens, when it is already compiled.
        self.ready: Compiled | None = None
        #: Counts the changes of what :meth:`build` looks at; code that was built for an earlier one must not be stored.
        self.revision = 0
        #: How many calls of the hook are made together, kept for the next window.
        self.plan: many.Plan | None = None
        #: What telemetry counted of this hook, None if that was never on.
        self.meter: Meter | None = None
        for method in _METHODS:
            self.__dict__[method] = getattr(self, method)
        super().__init__(name, manager._hookexec)
        if namespace is not None:
            PluggyHookCaller.set_specification(self, namespace, spec_opts)
        with manager.hook_lock:
            self.changed()

    def __repr__(self) -> str:
        return f"<HookCaller {self.name!r}>"

    # --- pluggy's methods, safe against calls and changes from other threads -------------------------------------------

    def set_specification(self, specmodule_or_class: Any, spec_opts: Any) -> None:
        with self.manager.hook_lock:
            super().set_specification(specmodule_or_class, spec_opts)
            self.changed()

    def _add_hookimpl(self, hookimpl: HookImpl) -> None:
        with self.manager.hook_lock:
            self.put(inserted(self._hookimpls, hookimpl))

    def _remove_plugin(self, plugin: Any) -> None:
        with self.manager.hook_lock:
            remaining = [impl for impl in self._hookimpls if impl.plugin != plugin]
            if len(remaining) == len(self._hookimpls):
                raise ValueError(f"plugin {plugin!r} not found")
            self.put(remaining)

    def _verify_all_args_are_provided(self, kwargs: Mapping[str, object]) -> None:
        warn_of_missing(self.spec, kwargs)

    def call_extra(self, methods: Sequence[Callable[..., object]], kwargs: Mapping[str, object]) -> Any:
        with SlowPath(self, self._hookimpls):
            given = self.given(kwargs)
            return self._hookexec(self.name, with_extra(self._hookimpls, methods), given, self.firstresult())

    def call_historic(self, result_callback: Callable[[Any], None] | None = None, kwargs: Mapping[str, object] | None = None) -> None:
        with SlowPath(self, self._hookimpls):
            assert self._call_history is not None
            given = self._apply_defaults(kwargs or {})
            self._verify_all_args_are_provided(given)
            with self.manager.hook_lock:  # one instant: an implementation joins before it, or finds it in the history
                self._call_history.append((given, result_callback))
                impls = self._hookimpls.copy()
            results = self._hookexec(self.name, impls, given, False)
            if result_callback is not None and isinstance(results, list):
                for result in results:
                    result_callback(result)

    def join(self, hookimpl: HookImpl) -> None:
        """Give a new implementation every recorded historic call, then add it: no call is missed, none is given twice."""
        done = 0
        while True:
            with self.manager.hook_lock:
                pending = self._call_history[done:] if self._call_history else []
                if not pending:
                    self._add_hookimpl(hookimpl)
                    return
            self.replay(hookimpl, pending)
            done += len(pending)

    def replay(self, hookimpl: HookImpl, calls: Sequence[Any]) -> None:
        """Give ``hookimpl`` the historic ``calls``, as pluggy does when a plugin is registered late."""
        for kwargs, result_callback in calls:
            results = self._hookexec(self.name, [hookimpl], kwargs, False)
            if results and result_callback is not None:
                result_callback(results[0])

    # --- running a call ------------------------------------------------------------------------------------------------

    def __call__(self, **kwargs: object) -> Any:
        return self.function(**kwargs)

    def map(self, calls: Iterable[Mapping[str, Any]], *, window: int = 64, return_exceptions: bool = False) -> list[Any]:
        """Return what calling the hook with each of ``calls`` would have given, in order; see ``blackhole_core.hooks.many``.

        Each of ``calls`` holds the keyword arguments of one call. They are taken ``window`` at a time, so ``calls`` may be
        endless as long as something ends it. The first exception is raised, with a note that says which call it is of; with
        ``return_exceptions`` it takes the place of the result, and the other calls are made all the same.
        """
        return many.map_calls(functools.partial(many.answer, self), calls, window, return_exceptions)

    def given(self, kwargs: Mapping[str, object]) -> Mapping[str, object]:
        """Return the arguments of a call with the spec's defaults, or warn of missing ones, as pluggy does."""
        assert not self.is_historic(), "Cannot directly call a historic hook - use call_historic instead."
        given = self._apply_defaults({name: value for name, value in kwargs.items() if value is not MISSING})
        self._verify_all_args_are_provided(given)
        return given

    def firstresult(self) -> bool:
        """Tell whether the hook stops at the first result."""
        return bool(self.spec.opts.get("firstresult")) if self.spec is not None else False

    def _first(self, kwargs: dict[str, object]) -> Any:
        """Serve the first call after a change: compile the hook, then call it."""
        with self.manager.hook_lock:
            if self.switch.serving.lazy and not self.door.gates:
                self.switch.store(self.build(self._hookimpls))
        return self.function(**kwargs)

    def _gated(self, kwargs: dict[str, object]) -> Any:
        """Serve a call that found a gate closed: wait, then call; or pass on what served before the gate closed."""
        ticket = self.door.enter(self.manager.gate_timeout)
        try:
            with self.manager.hook_lock:
                passing = self.passing() if self.door.gates else None
            if passing is None:
                return self.function(**kwargs)
            return self._pass(kwargs, passing)
        finally:
            self.door.leave(ticket)

    def passing(self) -> Sequence[HookImpl]:
        """Return what a call runs that every closed gate let through. Under the manager's lock."""
        impls: Sequence[HookImpl] = self._hookimpls
        for gate in self.door.gates:
            impls = gate.as_before(self.name, impls)
        return impls

    def _pass(self, kwargs: Mapping[str, object], impls: Sequence[HookImpl]) -> Any:
        """Run a call that a closed gate let through."""
        measured = self.measured_aside()
        failed = True
        try:
            result = self._hookexec(self.name, list(impls), self.given(kwargs), self.firstresult())
            failed = False
            return result
        except BaseException as error:
            self.attribute(error, impls)
            raise
        finally:
            if measured is not None:
                measured.ended(failed=failed)

    def measured_aside(self) -> SlowCall | None:
        """Begin to measure a call that pluggy runs; None while telemetry is off."""
        return None if self.manager.measuring is None else self.measured().slow()

    def measured(self) -> Meter:
        """Return what telemetry counts of this hook, made when it is first needed."""
        with self.manager.hook_lock:
            if self.meter is None:
                from blackhole_core.hooks.telemetry import Meter  # only for who turns it on

                self.meter = Meter(locked=self.manager.evidence == "counter")
            return self.meter

    def attribute(self, error: BaseException, impls: Sequence[HookImpl], lines: Mapping[int, int] = _NO_LINES) -> None:
        """Note on ``error`` which labelled plugin it came from; a manager without labels leaves exceptions untouched."""
        label_of = self.manager.label_of
        if label_of is not None:
            attribution.annotate(error, hook=self.name, impls=impls, lines=lines, label_of=label_of)

    # --- the code behind the function; all under the manager's lock ------------------------------------------------------

    def put(self, impls: list[HookImpl]) -> None:
        """Put ``impls`` behind the hook."""
        self.__dict__["_hookimpls"] = impls
        self.changed()

    def changed(self) -> None:
        """Make the next call see what stands behind the hook now."""
        self.ready = None
        self.revise()
        if not self.door.gates:
            self.switch.store(self.next_state())

    def next_state(self) -> Compiled:
        """Return the code that serves what stands behind the hook now; compiling waits for the first call.

        Not with old-style wrappers: a warning of pluggy's finds its caller by counting frames, also at the first call.
        """
        lazy = not any(impl.hookwrapper for impl in self._hookimpls)
        return self._state(forwarding_body("first"), lazy=True) if lazy else self.build(self._hookimpls)

    def revise(self) -> None:
        """Note that what was built for this hook so far is out of date."""
        self.revision += 1
        self.manager.revision += 1
        self.plan = None

    def gate_state(self) -> Compiled:
        """Return the code that makes callers wait."""
        return self._state(forwarding_body("gated"), counts=False)

    def build(self, impls: Sequence[HookImpl]) -> Compiled:
        """Compile the hook for ``impls`` (pluggy's order: called last to first)."""
        order = list(reversed(impls))
        parameters = parameters_of(self.spec, order)
        firstresult = self.firstresult()
        counted = self.manager.evidence == "counter"
        sample = self._sample(order)
        measure: Measure = "no" if sample is None else "always" if sample == 1 else "asking" if counted else "skipping"
        if parameters is None or self.is_historic() or not self.manager.calls_plainly():
            return self._state(
                generic_body(firstresult=firstresult, counted=counted, measure=measure), impls, sample=sample, attributed=False
            )
        given: Mapping[str, object] = self.spec.kwargdefaults if self.spec is not None else {}
        defaults = {name: given.get(name, MISSING) for name in parameters}
        if any(impl.hookwrapper for impl in order):
            body = wrapped_body(parameters, firstresult=firstresult, counted=counted, measure=measure)
            return self._state(body, impls, defaults=defaults, sample=sample, attributed=False)
        write = unrolled_body if any(impl.wrapper for impl in order) else direct_body
        body = write(parameters, order, firstresult=firstresult, counted=counted, measure=measure)
        return self._state(body, impls, defaults=defaults, sample=sample)

    def _sample(self, order: Sequence[HookImpl]) -> int | None:
        """Return of how many calls one is timed, None while nothing is measured; each, when it leaves the thread: the time is small beside that."""
        if self.manager.measuring is None or not any(getattr(type(impl.plugin), "__elsewhere__", False) for impl in order):
            return self.manager.measuring
        return 1

    def _state(
        self,
        body: Body,
        impls: Sequence[HookImpl] = (),
        *,
        defaults: Mapping[str, object] | None = None,
        lazy: bool = False,
        counts: bool = True,
        sample: int | None = None,
        attributed: bool = True,
    ) -> Compiled:
        order = list(reversed(impls))

        def value(plain: str, state: int) -> object:
            if plain.startswith("_bh_f") and plain[5:].isdigit():
                return order[int(plain[5:])].function
            return values[plain](state)

        values: dict[str, Callable[[int], object]] = {
            "_bh_positional": lambda _state: refuse_positional,
            "_bh_exec": lambda _state: self._hookexec,
            "_bh_given": lambda _state: self.given,
            "_bh_first": lambda _state: self._first,
            "_bh_gated": lambda _state: self._gated,
            "_bh_impls": lambda _state: impls,
            "_bh_name": lambda _state: self.name,
            "_bh_multicall": lambda _state: self._hookexec if any(impl.hookwrapper for impl in impls) else _multicall,
            "_bh_next": lambda _state: next,
            "_bh_Stop": lambda _state: StopIteration,
            "_bh_wrapfail": lambda _state: _raise_wrapfail,
            "_bh_again_yielded": lambda _state: second_yield,
            "_bh_unwind": lambda _state: unwind,
            "_bh_failed": lambda _state: functools.partial(self.attribute, lines=body.lines),
            "_bh_enter": lambda state: functools.partial(self._enter_state, state),
            "_bh_leave": lambda _state: self.door.leave,
            "_bh_again": lambda _state: self._again,
        }
        if sample is None:
            return compiled(body, self.name, value, defaults=defaults, lazy=lazy, counts=counts)
        tally = self.measured().tally(body, order if attributed else None, firstresult=self.firstresult(), sample=sample)
        values.update(tally.globals(self.switch.put))
        state = compiled(body, self.name, value, defaults=defaults, lazy=lazy, counts=counts)
        tally.counts_in(state.code)
        return state

    # --- the counted path (interpreters where a frame proves nothing) ----------------------------------------------------

    def _enter_state(self, state: int) -> Ticket | None:
        """Count a call that arrived in ``state``; None if another state serves by now and the call must begin again."""
        with self.manager.hook_lock:
            return self.door.admit() if self.switch.serving.state == state else None

    def _again(self, kwargs: Mapping[str, object]) -> Any:
        return self.function(**{name: value for name, value in kwargs.items() if value is not MISSING})


class SubsetHookCaller(_SubsetHookCaller):
    """pluggy's proxy to a caller without some plugins; its calls wait at the same gates and are counted like the others."""

    __slots__ = ()

    _orig: HookCaller

    def _verify_all_args_are_provided(self, kwargs: Mapping[str, object]) -> None:
        warn_of_missing(self.spec, kwargs)

    def __call__(self, **kwargs: object) -> Any:
        behind = self._orig.__hookcaller__
        with SlowPath(behind, behind._hookimpls):
            given = behind.given(kwargs)
            return self._hookexec(self.name, self._hookimpls.copy(), given, behind.firstresult())

    def map(self, calls: Iterable[Mapping[str, Any]], *, window: int = 64, return_exceptions: bool = False) -> list[Any]:
        """Do :meth:`HookCaller.map`, one call after the other."""
        return many.map_calls(functools.partial(many.loop, self), calls, window, return_exceptions)

    def call_extra(self, methods: Sequence[Callable[..., object]], kwargs: Mapping[str, object]) -> Any:
        behind = self._orig.__hookcaller__
        with SlowPath(behind, behind._hookimpls):
            given = behind.given(kwargs)
            return self._hookexec(self.name, with_extra(self._hookimpls, methods), given, behind.firstresult())

    def call_historic(self, result_callback: Callable[[Any], None] | None = None, kwargs: Mapping[str, object] | None = None) -> None:
        behind = self._orig.__hookcaller__
        with SlowPath(behind, behind._hookimpls):
            super().call_historic(result_callback, kwargs)


def warn_of_missing(spec: HookSpec | None, kwargs: Mapping[str, object]) -> None:
    """Warn of the spec's arguments that a call does not give, in pluggy's words, pointing at the code that calls."""
    if spec is None:
        return
    for argument in spec.argnames:  # no list unless there is something to say
        if argument not in kwargs:
            _warn_of_missing([name for name in spec.argnames if name not in kwargs])
            return


def _warn_of_missing(names: Sequence[str]) -> None:
    listed = ", ".join(map(repr, names))
    message = f"Argument(s) {listed} which are declared in the hookspec cannot be found in this hook call"
    warnings.warn(message, stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """Count the frames from the one above this function up to the first that is not part of the call machinery."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(attribution.MACHINERY):
        frame = frame.f_back
        level += 1
    return level


def refuse_positional(given: tuple[object, ...]) -> NoReturn:
    """Raise what Python raises for positional arguments to pluggy's caller object."""
    raise TypeError(f"HookCaller.__call__() takes 1 positional argument but {len(given) + 1} were given")
