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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Final, Literal

import attrs
from pluggy import HookImpl
from pluggy._hooks import HookSpec

__all__ = [
    "MISSING",
    "OWN_PREFIX",
    "Body",
    "compile_body",
    "direct_body",
    "forwarding_body",
    "generic_body",
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


def parameters_of(spec: HookSpec | None, impls: Iterable[HookImpl]) -> tuple[str, ...] | None:
    """Name what callers pass: the spec's parameters, else everything the implementations require; None if unusual."""
    names = [*spec.argnames, *spec.kwargnames] if spec is not None else [name for impl in impls for name in impl.argnames]
    if all(name.isidentifier() and not keyword.iskeyword(name) and not name.startswith(OWN_PREFIX) for name in names):
        return tuple(dict.fromkeys(names))
    return None


def direct_body(parameters: Sequence[str], order: Sequence[HookImpl], *, firstresult: bool, counted: bool) -> Body:
    """Call each of ``order`` in turn, with pluggy's meaning of None and of ``firstresult``; none of them is a wrapper."""
    given = set(parameters)
    block: list[str] = []
    marks: dict[int, int] = {}
    for index, impl in enumerate(order):
        marks[len(block)] = index
        call = _call(index, impl, given)
        block += [f"_bh_r = {call}", "if _bh_r is not None: return _bh_r"] if firstresult else [f"_bh_r{index} = {call}"]
    block += ["return None"] if firstresult else _collected(range(len(order)))
    return _guarded(_head(parameters, firstresult, order), block, parameters, marks=marks, counted=counted)


def unrolled_body(parameters: Sequence[str], order: Sequence[HookImpl], *, firstresult: bool, counted: bool) -> Body:
    """Call new-style wrappers around the others, each step written out; pluggy calls the wrappers first, so ``order`` has them first.

    ``_bh_open`` holds the wrappers that are inside their ``yield``, newest first. The way back up is written out for results; as soon as something
    raises, ``_bh_unwind`` goes the rest of it, outside of any ``except`` block, so that exceptions get the context they have in pluggy.
    """
    given = set(parameters)
    wrappers = [index for index, impl in enumerate(order) if impl.wrapper]
    lines: list[tuple[str, int | None]] = [("_bh_error = None", None), ("_bh_open = ()", None), ("try:", None)]
    for depth, index in enumerate(wrappers):
        lines += [
            (f"    _bh_g{depth} = {_call(index, order[index], given)}", index),
            (f"    try: _bh_next(_bh_g{depth})", index),
            (f"    except _bh_Stop: _bh_wrapfail(_bh_g{depth}, 'did not yield')", None),
            (f"    _bh_open = {_generators(depth + 1)}", None),
        ]
    lines += [(f"    {line}", index) for line, index in _inner_calls(order, given, firstresult)]
    lines += [("except BaseException as _bh_e: _bh_error = _bh_e", None)]
    for depth in reversed(range(len(wrappers))):
        lines += [
            ("if _bh_error is None:", None),
            (f"    try: _bh_g{depth}.send(_bh_r)", wrappers[depth]),
            ("    except _bh_Stop as _bh_s: _bh_r = _bh_s.value", None),
            (f"    except BaseException as _bh_e: _bh_error, _bh_open = _bh_e, {_generators(depth)}", None),
            (f"    else: _bh_error, _bh_open = _bh_again_yielded(_bh_g{depth}), {_generators(depth)}", wrappers[depth]),
        ]
    lines += [
        ("if _bh_error is None: return _bh_r", None),
        ("try: return _bh_unwind(_bh_open, _bh_error)", None),
        ("finally: del _bh_error", None),  # its traceback holds this frame
    ]
    marks = {offset: index for offset, (_, index) in enumerate(lines) if index is not None}
    return _guarded(_head(parameters, firstresult, order), [line for line, _ in lines], parameters, marks=marks, counted=counted)


def _inner_calls(order: Sequence[HookImpl], given: set[str], firstresult: bool) -> Iterator[tuple[str, int | None]]:
    """Yield the calls of what is not a wrapper, leaving the result in ``_bh_r``, each with the implementation it is of."""
    inner = [index for index, impl in enumerate(order) if not impl.wrapper]
    if not firstresult:
        yield from ((f"_bh_r{index} = {_call(index, order[index], given)}", index) for index in inner)
        yield f"_bh_r = {_listed(inner)}", None
        return
    yield "_bh_r = None", None
    for place, index in enumerate(inner):
        yield (
            (
                f"_bh_r = {_call(index, order[index], given)}"
                if place == 0
                else f"if _bh_r is None: _bh_r = {_call(index, order[index], given)}"
            ),
            index,
        )


def _generators(count: int) -> str:
    """Return the tuple of the first ``count`` wrappers, newest first."""
    return f"({''.join(f'_bh_g{depth}, ' for depth in reversed(range(count)))})"


def _call(index: int, impl: HookImpl, given: set[str]) -> str:
    return f"_bh_f{index}({', '.join(_arguments(impl, given))})"


def wrapped_body(parameters: Sequence[str], *, firstresult: bool, counted: bool) -> Body:
    """Hand checked arguments straight to pluggy's ``_multicall``, which runs old-style wrappers, too."""
    given = "".join(f"{name!r}: {name}, " for name in parameters)
    block = [f"return _bh_multicall(_bh_name, _bh_impls, {{{given}**_bh_x}}, {firstresult})"]
    return _guarded(_head(parameters, firstresult, ()), block, parameters, marks={}, counted=counted)


def generic_body(*, firstresult: bool, counted: bool) -> Body:
    """Check the arguments as pluggy does and hand them to ``_hookexec``."""
    return _guarded(list(_ANY_ARGUMENTS), [f"return {_generically('_bh_x', firstresult)}"], (), marks={}, counted=counted)


def forwarding_body(target: Literal["first", "gated"]) -> Body:
    """Pass the keyword arguments as one dict to the global ``target``: compile, then call; or wait at the gate, then call."""
    return Body("\n".join([*_ANY_ARGUMENTS, f"    return _bh_{target}(_bh_x)"]))


def compile_body(body: Body, name: str, state: int) -> tuple[CodeType, dict[str, str]]:
    """Return a code object of its own for one state, and the globals it needs: plain name to the name in this state."""
    template = _template(body.source)
    names = {plain: sys.intern(f"{plain}.{state}") for plain in template.co_names if plain.startswith(OWN_PREFIX)}
    code = template.replace(
        co_name=name,
        co_qualname=name,
        co_filename=f"<hook {name}>",
        co_names=tuple(names.get(plain, plain) for plain in template.co_names),
        co_consts=tuple(MISSING if constant is ... else constant for constant in template.co_consts),
    )
    return code, names


@functools.lru_cache(maxsize=_TEMPLATES)
def _template(source: str) -> CodeType:
    module = compile(source, "<hook>", "exec", dont_inherit=True)
    return next(constant for constant in module.co_consts if isinstance(constant, CodeType))


def _head(parameters: Sequence[str], firstresult: bool, order: Sequence[HookImpl]) -> list[str]:
    # ``...`` stands for MISSING: it may be compared with ``is`` without a SyntaxWarning and is replaced in the constants.
    listed = "".join(f"{name}=None, " for name in parameters)
    lines = [f"def hook(*_bh_p, {listed}**_bh_x):", _POSITIONAL]
    if parameters:
        lines.append(f"    if {_any_of(f'{name} is ...' for name in parameters)}: return {_generically(_as_dict(parameters), firstresult)}")
    extras = {name for impl in order for name in impl.kwargnames} - set(parameters)
    if extras:  # an implementation's own default may be overridden by an argument that the spec does not know
        unknown = _any_of(f"{name!r} in _bh_x" for name in sorted(extras))
        lines.append(f"    if {unknown}: return {_generically(_as_dict(parameters), firstresult)}")
    return lines


def _generically(arguments: str, firstresult: bool) -> str:
    return f"_bh_exec(_bh_name, [*_bh_impls], _bh_given({arguments}), {firstresult})"


def _as_dict(parameters: Sequence[str]) -> str:
    return "{" + "".join(f"{name!r}: {name}, " for name in parameters) + "**_bh_x}"


def _any_of(conditions: Iterable[str]) -> str:
    return " or ".join(conditions)


def _arguments(impl: HookImpl, given: set[str]) -> Iterator[str]:
    yield from impl.argnames
    yield from (f"{name}={name}" for name in impl.kwargnames if name in given)


def _collected(indices: Sequence[int]) -> list[str]:
    """Return the results as a list, without None; most hooks have none, so that is asked first."""
    if not indices:
        return ["return []"]
    return [f"if {_none_among(indices)}:", f"    return {_filtered(indices)}", f"return [{_results(indices)}]"]


def _listed(indices: Sequence[int]) -> str:
    return f"{_filtered(indices)} if {_none_among(indices)} else [{_results(indices)}]" if indices else "[]"


def _none_among(indices: Sequence[int]) -> str:
    return _any_of(f"_bh_r{index} is None" for index in indices)


def _filtered(indices: Sequence[int]) -> str:
    return f"[_bh_one for _bh_one in ({_results(indices)},) if _bh_one is not None]"


def _results(indices: Sequence[int]) -> str:
    return ", ".join(f"_bh_r{index}" for index in indices)


def _guarded(head: list[str], block: list[str], parameters: Sequence[str], *, marks: Mapping[int, int], counted: bool) -> Body:
    """Wrap ``block`` so that a failure is attributed (free until something is raised) and, if asked, the call is counted.

    ``marks`` maps a line of ``block``, counted from 0, to the index, in call order, of the implementation that runs there.
    """
    indent = "        "
    if counted:
        head = [*head, "    _bh_ticket = _bh_enter()", f"    if _bh_ticket is None: return _bh_again({_as_dict(parameters)})"]
    lines = [*head, "    try:"]
    first = len(lines) + 1
    lines.extend(indent + line for line in block)
    lines += ["    except BaseException as _bh_e:", "        _bh_failed(_bh_e, _bh_impls)", "        raise"]
    if counted:
        lines += ["    finally:", "        _bh_leave(_bh_ticket)"]
    return Body("\n".join(lines), {first + offset: index for offset, index in marks.items()})
