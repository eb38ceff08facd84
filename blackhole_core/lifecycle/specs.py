"""What the host's hook specs say of types: the annotations of each hook, and the exceptions a worker may raise in the host."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from blackhole_core.executor.wire.signature import Signature
from blackhole_core.executor.wire.types import annotations_of
from blackhole_core.hooks.manager import HookManager

__all__ = ["SpecBook"]


class SpecBook:
    """Reads the specs of one manager. Signatures are kept by spec object: a spec that is replaced is read again."""

    def __init__(self, hooks: HookManager) -> None:
        self._hooks = hooks
        self._read: dict[str, tuple[Any, Signature]] = {}

    def names(self) -> tuple[str, ...]:
        """Return the hooks that have a spec."""
        return tuple(caller.name for caller in self._hooks.callers() if caller.has_spec())

    def is_firstresult(self, hook: str) -> bool:
        """Whether the hook answers with one result and not a list."""
        caller = self._hooks.caller(hook)
        return caller is not None and caller.spec is not None and bool(caller.spec.opts.get("firstresult"))

    def signature(self, hook: str) -> Signature | None:
        """Return the annotations of the hook's spec, None when it has none."""
        caller = self._hooks.caller(hook)
        spec = caller.spec if caller is not None else None
        if spec is None:
            return None
        kept = self._read.get(hook)
        if kept is None or kept[0] is not spec:
            annotations = annotations_of(spec.function)
            result = annotations.pop("return", Any)
            kept = self._read[hook] = (spec, Signature(annotations, result))
        return kept[1]

    def exception_type(self, module: str, name: str) -> type[Exception] | None:
        """Return an exception class of a module that holds specs: part of the host's API, so it may cross."""
        namespaces = (caller.spec.namespace for caller in self._hooks.callers() if caller.spec is not None)
        if all(getattr(namespace, "__module__", getattr(namespace, "__name__", None)) != module for namespace in namespaces):
            return None
        kind = getattr(sys.modules.get(module), name, None)
        return kind if inspect.isclass(kind) and issubclass(kind, Exception) else None
