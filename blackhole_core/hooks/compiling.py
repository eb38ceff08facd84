"""Source text of hook callers: from the shape of a hook to a code object. Pure; knows no manager and no plugin.

A caller is one Python function. Its body is generated for exactly the implementations that stand behind the hook, and a
change replaces the function's ``__code__``. Rules that every generated body keeps:

* **One code object per state.** Two states never share a code object, because a live code object is the proof that a
  call which began in that state is still running (:mod:`blackhole_core.hooks.inflight`).
* **Implementations are reached through the function's globals, never through the code's constants.** CPython does not
  collect cycles through code objects, and manager → caller → implementation → plugin → manager is the usual cycle.
  Each state has its own global names (``_bh_f0.17``), so that one ``__code__`` store still switches everything at once.
* **Anything unusual goes to pluggy's own machinery**: a missing argument, a name that cannot be a parameter, monitoring, a
  host's own ``_hookexec``, a direct call of a historic hook. No frame more than pluggy has lies between: its warnings find
  the calling code by counting frames.
"""

from __future__ import annotations

import functools
import keyword
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import CodeType
from typing import Final, Literal

import attrs
from pluggy import HookImpl
from pluggy._hooks import HookSpec

from blackhole_core.hooks.probe import COUNTED, UNMEASURED, Line, Measure, Probe, measured, unmarked

__all__ = [
    "MISSING",
    "OWN_PREFIX",
    "Body",
    "compile_body",
    "direct_body",
    "forwarding_body",
    "generic_body",
    "global_name",
    "parameters_of",
    "unrolled_body",
    "wrapped_body",
]

#: Names of generated code begin with it; a hook whose parameters do too is called generically.
OWN_PREFIX: Final = "_bh_"

#: How many distinct shapes of hooks are remembered as compiled code: compiling one takes about 200 µs, renaming 5 µs.
_TEMPLATES: Final = 1024

_POSITIONAL: Final = f"    if {OWN_PREFIX}p: {OWN_PREFIX}positional({OWN_PREFIX}p)"

_ANY_ARGUMENTS: Final = ("def hook(*_bh_p, **_bh_x):", _POSITIONAL)


class _Missing:
    """The value of a parameter that the caller did not give."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Final = _Missing()


@attrs.frozen
class Body:
    """One generated body. ``lines`` maps a line number to the index, in call order, of the implementation called there."""

    source: str
    lines: dict[int, int] = attrs.field(factory=dict)


def parameters_of(spec: HookSpec | None, impls: Sequence[HookImpl]) -> tuple[str, ...] | None:
    """Name what callers pass: the spec's parameters, else everything the implementations require; None if unusual.

    It is unusual, too, when an implementation requires what the spec does not have: registered before the spec, and refused by it too late.
    """
    required = [name for impl in impls for name in impl.argnames]
    names = [*spec.argnames, *spec.kwargnames] if spec is not None else required
    if not set(required) <= set(names):
        return None
    return _usable(tuple(names))


@functools.lru_cache(maxsize=256)  # many calls at once ask for each window
def _usable(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return each of ``names`` once, None when one of them cannot be that of a parameter."""
    if all(name.isidentifier() and not keyword.iskeyword(name) and not name.startswith(OWN_PREFIX) for name in names):
        return tuple(dict.fromkeys(names))
    return None


def direct_body(parameters: Sequence[str], order: Sequence[HookImpl], *, firstresult: bool, counted: bool, measure: Measure = "no") -> Body:
    """Call each of ``order`` in turn, with pluggy's meaning of None and of ``firstresult``; none of them is a wrapper."""
    given = set(parameters)

    def write(probe: Probe) -> list[Line]:
        lines: list[Line] = []
        for index, impl in enumerate(order):
            lines.append((f"{'_bh_r' if firstresult else f'_bh_r{index}'} = {_call(index, impl, given)}{probe.lap(index)}", index))
            lines += unmarked(*probe.answered(index)) if firstresult else []
        last = [*probe.ended(len(order) - 1), *probe.record(), "return None"] if firstresult else _collected(range(len(order)), probe)
        return [*lines, *unmarked(*last)]

    return _guarded(_head(parameters, firstresult, order, measure), write, parameters, counted=counted, measure=measure)


def unrolled_body(
    parameters: Sequence[str], order: Sequence[HookImpl], *, firstresult: bool, counted: bool, measure: Measure = "no"
) -> Body:
    """Call new-style wrappers around the others, each step written out; pluggy calls the wrappers first, so ``order`` has them first.

    ``_bh_open`` holds the wrappers that are inside their ``yield``, newest first. The way back up is written out for results; as soon as something
    raises, ``_bh_unwind`` goes the rest of it, outside of any ``except`` block, so that exceptions get the context they have in pluggy.
    """

    def write(probe: Probe) -> list[Line]:
        return [*_way_in(order, set(parameters), firstresult, probe), *_way_back(order, probe)]

    return _guarded(_head(parameters, firstresult, order, measure), write, parameters, counted=counted, measure=measure)


def _way_in(order: Sequence[HookImpl], given: set[str], firstresult: bool, probe: Probe) -> list[Line]:
    """Return the lines up to the results, the wrappers being inside their ``yield``."""
    lines = unmarked("_bh_error = None", "_bh_open = ()", "try:")
    for depth, index in enumerate(_wrappers(order)):
        lines += [
            (f"    _bh_g{depth} = {_call(index, order[index], given)}", index),
            (f"    try: _bh_next(_bh_g{depth})", index),
            (f"    except _bh_Stop: _bh_wrapfail(_bh_g{depth}, 'did not yield')", None),
            (f"    _bh_open = {_generators(depth + 1)}{probe.lap(index)}", None),
        ]
    lines += [(f"    {line}", index) for line, index in _inner_calls(order, given, firstresult, probe)]
    return [*lines, (f"except BaseException as _bh_e: _bh_error = _bh_e{probe.went_wrong()}", None)]


def _inner_calls(order: Sequence[HookImpl], given: set[str], firstresult: bool, probe: Probe) -> Iterator[Line]:
    """Yield the calls of what is not a wrapper, leaving the result in ``_bh_r``, each with the implementation it is of."""
    inner = [index for index, impl in enumerate(order) if not impl.wrapper]
    if not firstresult:
        for index in inner:
            yield f"_bh_r{index} = {_call(index, order[index], given)}{probe.lap(index)}", index
        yield f"_bh_r = {_listed(inner)}", None
        return
    yield "_bh_r = None", None
    for place, index in enumerate(inner):
        asked = "" if place == 0 else "if _bh_r is None: "
        yield f"{asked}{probe.reached(index)}_bh_r = {_call(index, order[index], given)}{probe.lap(index)}", index
    if inner:
        yield from unmarked(*probe.ended_there())


def _way_back(order: Sequence[HookImpl], probe: Probe) -> list[Line]:
    """Return the lines that send the result through the wrappers, innermost first, and end the call."""
    wrappers = _wrappers(order)
    lines: list[Line] = []
    for depth in reversed(range(len(wrappers))):
        index, erred = wrappers[depth], probe.erred(wrappers[depth])
        lines += [
            ("if _bh_error is None:", None),
            (f"    try: _bh_g{depth}.send(_bh_r)", index),
            (f"    except _bh_Stop as _bh_s: _bh_r = _bh_s.value{probe.lap(index)}", None),
            (f"    except BaseException as _bh_e: _bh_error, _bh_open = _bh_e, {_generators(depth)}{erred}", None),
            (f"    else: _bh_error, _bh_open = _bh_again_yielded(_bh_g{depth}), {_generators(depth)}{erred}", index),
        ]
    ending = [f"    {line}" for line in (*probe.record(), "return _bh_r")]
    return [
        *lines,
        *unmarked("if _bh_error is None:", *ending),
        *unmarked("try:", f"    _bh_r = _bh_unwind(_bh_open, _bh_error{probe.unwinding()})", *ending),
        *unmarked("finally: del _bh_error"),  # its traceback holds this frame
    ]


def _wrappers(order: Sequence[HookImpl]) -> list[int]:
    return [index for index, impl in enumerate(order) if impl.wrapper]


def _generators(count: int) -> str:
    """Return the tuple of the first ``count`` wrappers, newest first."""
    return f"({''.join(f'_bh_g{depth}, ' for depth in reversed(range(count)))})"


def _call(index: int, impl: HookImpl, given: set[str]) -> str:
    return f"_bh_f{index}({', '.join(_arguments(impl, given))})"


def wrapped_body(parameters: Sequence[str], *, firstresult: bool, counted: bool, measure: Measure = "no") -> Body:
    """Hand checked arguments straight to pluggy's ``_multicall``, which runs old-style wrappers, too."""
    given = "".join(f"{name!r}: {name}, " for name in parameters)
    write = _whole(f"_bh_multicall(_bh_name, _bh_impls, {{{given}**_bh_x}}, {firstresult})")
    return _guarded(_head(parameters, firstresult, (), measure), write, parameters, counted=counted, measure=measure)


def generic_body(*, firstresult: bool, counted: bool, measure: Measure = "no") -> Body:
    """Check the arguments as pluggy does and hand them to ``_hookexec``."""
    return _guarded(list(_ANY_ARGUMENTS), _whole(_generically("_bh_x", firstresult)), (), counted=counted, measure=measure)


def _whole(call: str) -> Callable[[Probe], list[Line]]:
    """Return the writer of a call in which pluggy runs the implementations: its time is that of the hook and of no plugin."""
    return lambda probe: unmarked(f"_bh_r = {call}{probe.lap(-1)}", *probe.record(), "return _bh_r")


def forwarding_body(target: Literal["first", "gated"]) -> Body:
    """Pass the keyword arguments as one dict to the global ``target``: compile, then call; or wait at the gate, then call."""
    return Body("\n".join([*_ANY_ARGUMENTS, f"    return _bh_{target}(_bh_x)"]))


def compile_body(body: Body, name: str, state: int) -> tuple[CodeType, dict[str, str]]:
    """Return a code object of its own for one state, and the globals it needs: plain name to the name in this state."""
    template = _template(body.source)
    names = {plain: sys.intern(global_name(plain, state)) for plain in template.co_names if plain.startswith(OWN_PREFIX)}
    code = template.replace(
        co_name=name,
        co_qualname=name,
        co_filename=f"<hook {name}>",
        co_names=tuple(names.get(plain, plain) for plain in template.co_names),
        co_consts=tuple(MISSING if constant is ... else constant for constant in template.co_consts),
    )
    return code, names


def global_name(plain: str, state: int) -> str:
    """Return what a name of a body is called in the globals of one state."""
    return f"{plain}.{state}"


@functools.lru_cache(maxsize=_TEMPLATES)
def _template(source: str) -> CodeType:
    module = compile(source, "<hook>", "exec", dont_inherit=True)
    return next(constant for constant in module.co_consts if isinstance(constant, CodeType))


def _head(parameters: Sequence[str], firstresult: bool, order: Sequence[HookImpl], measure: Measure) -> list[str]:
    # ``...`` stands for MISSING: it may be compared with ``is`` without a SyntaxWarning and is replaced in the constants.
    listed = "".join(f"{name}=None, " for name in parameters)
    lines = [f"def hook(*_bh_p, {listed}**_bh_x):", _POSITIONAL]
    unusual: list[str] = []
    probe = UNMEASURED if measure == "no" else COUNTED
    generically = f"return {_generically(_as_dict(parameters), firstresult)}"
    if parameters:
        unusual += probe.aside(generically, _any_of(f"{name} is ..." for name in parameters))
    extras = {name for impl in order for name in impl.kwargnames} - set(parameters)
    if extras:  # an implementation's own default may be overridden by an argument that the spec does not know
        unusual += probe.aside(generically, _any_of(f"{name!r} in _bh_x" for name in sorted(extras)))
    return [*lines, *(f"    {line}" for line in unusual)]


def _generically(arguments: str, firstresult: bool) -> str:
    return f"_bh_exec(_bh_name, [*_bh_impls], _bh_given({arguments}), {firstresult})"


def _as_dict(parameters: Sequence[str]) -> str:
    return "{" + "".join(f"{name!r}: {name}, " for name in parameters) + "**_bh_x}"


def _any_of(conditions: Iterable[str]) -> str:
    return " or ".join(conditions)


def _arguments(impl: HookImpl, given: set[str]) -> Iterator[str]:
    yield from impl.argnames
    yield from (f"{name}={name}" for name in impl.kwargnames if name in given)


def _collected(indices: Sequence[int], probe: Probe) -> list[str]:
    """Return the results as a list, without None; most hooks have none, so that is asked first."""
    if not indices:
        return [*probe.record(), "return []"]
    return [*probe.record(), f"if {_none_among(indices)}:", f"    return {_filtered(indices)}", f"return [{_results(indices)}]"]


def _listed(indices: Sequence[int]) -> str:
    return f"{_filtered(indices)} if {_none_among(indices)} else [{_results(indices)}]" if indices else "[]"


def _none_among(indices: Sequence[int]) -> str:
    return _any_of(f"_bh_r{index} is None" for index in indices)


def _filtered(indices: Sequence[int]) -> str:
    return f"[_bh_one for _bh_one in ({_results(indices)},) if _bh_one is not None]"


def _results(indices: Sequence[int]) -> str:
    return ", ".join(f"_bh_r{index}" for index in indices)


def _guarded(
    head: list[str], write: Callable[[Probe], Sequence[Line]], parameters: Sequence[str], *, counted: bool, measure: Measure
) -> Body:
    """Wrap the block that ``write`` gives so that a failure is attributed (free until something is raised) and, if asked, the call is counted."""
    indent = "        "
    if counted:
        head = [*head, "    _bh_ticket = _bh_enter()", f"    if _bh_ticket is None: return _bh_again({_as_dict(parameters)})"]
    lines = [*head, "    try:"]
    first = len(lines) + 1
    block = measured(write, measure)
    lines += [indent + line for line, _ in block]
    failed = () if measure == "no" else COUNTED.failed()
    lines += ["    except BaseException as _bh_e:", *(indent + line for line in (*failed, "_bh_failed(_bh_e, _bh_impls)", "raise"))]
    if counted:
        lines += ["    finally:", "        _bh_leave(_bh_ticket)"]
    return Body("\n".join(lines), {first + offset: index for offset, (_, index) in enumerate(block) if index is not None})
