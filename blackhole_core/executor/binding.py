"""What one implementation's annotations mean for its calls across a process boundary.

Everything that can be known to be impossible is refused here, when the plugin is loaded, and not at the first call.
"""

from __future__ import annotations

from typing import Any

import attrs

from blackhole_core.errors import CannotCross
from blackhole_core.executor.runner import Host
from blackhole_core.executor.wire.codec import BoundTypes, HookInfo
from blackhole_core.executor.wire.signature import ArgumentsEncoder, ResultDecoder, Signature
from blackhole_core.executor.wire.types import contains_any, expression_of, uncrossable
from blackhole_core.messages import Implementation

__all__ = ["Binding", "bind", "describe_hooks", "refuse_uncrossable"]


@attrs.frozen(eq=False)
class Binding:
    """The host's codecs for one implementation, and what the worker is told of its types."""

    arguments: ArgumentsEncoder
    result: ResultDecoder
    types: BoundTypes


def bind(implementation: Implementation, signature: Signature | None, plugin: str) -> Binding:
    """Return the codecs of ``implementation`` under the spec's ``signature`` (None: the hook has no spec, everything is plain data).

    :raises CannotCross: the annotations tell that a call can never cross.
    """
    known = signature or Signature()
    refuse_uncrossable(implementation, known, plugin)
    types = [known.type_of(name) for name in implementation.argnames]
    return Binding(
        ArgumentsEncoder(types),
        ResultDecoder(known.result),
        BoundTypes(tuple(None if contains_any(kind) else expression_of(kind) for kind in types), contains_any(known.result)),
    )


def refuse_uncrossable(implementation: Implementation, signature: Signature, plugin: str) -> None:
    """Raise :class:`CannotCross` for what no worker can take or give, naming hook and argument."""
    hook = implementation.hook
    if implementation.is_generator or implementation.options.get("wrapper") or implementation.options.get("hookwrapper"):
        advice = "run the plugin at level none or thread, or make the wrapper a plain implementation"
        raise CannotCross(
            plugin, hook, "a generator implementation (hook wrapper)", "its two halves run around other plugins' code", advice
        )
    named = [(f"argument {name!r}", signature.type_of(name), name) for name in implementation.argnames]
    for what, kind, name in [*named, ("the result", signature.result, "")]:
        if contains_any(kind):
            continue
        culprit = uncrossable(kind)
        if culprit is not None:
            raise CannotCross(plugin, hook, what, culprit, "run the plugin at level none or thread, or change the spec")
        if name and expression_of(kind) is None and name not in implementation.annotated:
            advice = "annotate it in the plugin's implementation, so that the worker can make one"
            raise CannotCross(plugin, hook, what, _spelled(kind), advice)


def describe_hooks(host: Host) -> dict[str, HookInfo]:
    """Return what a worker must know to call the host's hooks."""
    return {name: _describe(host, name) for name in host.hook_names()}


def _describe(host: Host, name: str) -> HookInfo:
    signature = host.signature(name) or Signature()
    expression = None if contains_any(signature.result) else expression_of(signature.result)
    if expression is not None and not host.is_firstresult(name):
        expression = f"list[{expression}]"
    return HookInfo(tuple(argument for argument, kind in signature.args.items() if not contains_any(kind)), expression is None, expression)


def _spelled(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else repr(kind)
