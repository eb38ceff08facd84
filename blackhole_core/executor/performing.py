"""How a worker runs the calls of its plugin: each in a context of its own, and what came of it encoded."""

from __future__ import annotations

import contextvars
import time
from typing import Any, Final

import msgspec

from blackhole_core.callcontext import bound_deadline
from blackhole_core.executor.context import PluginContext
from blackhole_core.executor.failure import cannot_cross, to_wire, too_large
from blackhole_core.executor.hostcalls import HostCalls, HostRelay, request
from blackhole_core.executor.hosted import Hosted
from blackhole_core.executor.leases import Leases
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import Claim, decode_open
from blackhole_core.executor.wire.parcels import Parcel, Shelf, TooLarge
from blackhole_core.executor.wire.plain import NotPlain, decode_plain, encode_plain
from blackhole_core.executor.workerbinding import WorkerBinding, settle

__all__ = ["Performer"]

#: Seconds after which no further one of many calls is begun for one request: a drain, and every other caller, waits for the whole of it.
_MANY_SECONDS: Final = 0.005


class Performer:
    """Runs the calls of the plugin that ``load`` asked for, as ``bind`` says that its values travel. Any thread."""

    def __init__(self, load: codec.Load, bind: codec.Bind, hosted: Hosted, leases: Leases, calls: HostCalls, shelf: Shelf | None) -> None:
        self._load = load
        self._contracts = hosted.contracts
        self._leases = leases
        self._calls = calls
        self._shelf = shelf
        self._max_message = load.max_message
        self._bindings = tuple(
            WorkerBinding(implementation.hook, function, implementation.argnames, types)
            for function, implementation, types in zip(hosted.implementations, hosted.surface.implementations, bind.types, strict=True)
        )
        self._change_told = False  # since the host last asked for the state

    def implementation(self, number: int, index: int, args: Any, timeout: float | None) -> bytes | codec.WireFailure:
        """Run one call of an implementation, or many one after the other, each in a context of its own."""
        if index >= 0:
            return contextvars.copy_context().run(self._perform, number, self._bindings[index], args, timeout, self._shelf)
        binding, begun, size = self._bindings[~index], time.monotonic(), 0
        outcomes: list[bytes | codec.WireFailure] = []
        stop_at_failure, several = codec.decode_many(args)
        for one in several:
            passed = time.monotonic() - begun
            if outcomes and (passed > _MANY_SECONDS or size > codec.MANY_BYTES):
                break  # others wait for their turn; the host asks again for the rest
            left = None if timeout is None else timeout - passed
            outcome = contextvars.copy_context().run(self._perform, number, binding, one, left)
            outcomes.append(outcome)
            if isinstance(outcome, bytes):
                size += len(outcome)
            elif stop_at_failure:
                break
        return codec.encode_outcomes(outcomes)

    def contract(self, number: int, hook: str, args: Any, timeout: float | None) -> bytes | codec.WireFailure:
        """Run one of the hooks that every plugin may have, likewise."""
        return contextvars.copy_context().run(self._perform, number, hook, args, timeout)

    def _perform(  # the name by which executor.standing knows where a call begins
        self, number: int, target: WorkerBinding | str, args: bytes | msgspec.Raw | Claim, timeout: float | None, shelf: Shelf | None = None
    ) -> bytes | codec.WireFailure:
        """Run one call, of an implementation or the contract of that name; return the result or what went wrong."""
        request.set(number)
        if timeout is not None:
            bound_deadline(time.monotonic() + timeout)
        try:
            result = self._contract(target, args) if isinstance(target, str) else target.call(args, shelf)
        except NotPlain as error:
            return cannot_cross("the result" + (f" at {error.path}" if error.path else ""), error.type_name)
        except TooLarge as error:
            return too_large(error.size, self._max_message)
        except BaseException as error:
            return to_wire(error)
        if len(result) > self._max_message:
            return too_large(len(result), self._max_message)
        if type(result) is Parcel:
            result.handed = True
        return result

    def _contract(self, hook: str, data: bytes | msgspec.Raw | Claim) -> bytes:
        args = decode_open(data)
        if hook == "plugin_start":
            args = tuple(self._context() for _ in args)
        elif hook == "plugin_stop":
            self._leases.stopping.set()
        elif hook == "plugin_export_state":
            self._change_told = False  # first: what changes from now on may not be in what it gives
        return encode_plain(settle(self._contracts[hook](*args)), self._shelf)

    def _context(self) -> PluginContext:
        load = self._load
        config = decode_plain(load.config)
        return PluginContext(load.name, load.version, load.generation, config, HostRelay(self._calls), self._leases, self._tell_change)

    def _tell_change(self) -> None:
        """Tell the host that the plugin's state changed; more than one thread may tell it twice, which does no harm."""
        if not self._change_told:
            self._change_told = True
            self._calls.send(codec.StateChanged())
