"""Say in a note which plugin an exception came from. Works on the traceback after the fact, so success costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from pluggy import HookImpl

__all__ = ["MACHINERY", "annotate"]

#: Frames of these modules belong to the machinery of a call, neither to the code that calls nor to a plugin.
MACHINERY: Final = ("blackhole_core.hooks.", "pluggy.")


def annotate(
    error: BaseException,
    *,
    hook: str,
    impls: Sequence[HookImpl],
    lines: Mapping[int, int],
    label_of: Callable[[str], str | None],
) -> None:
    """Note on ``error``, and on the errors it was raised from, which labelled plugin's implementation of ``hook`` failed.

    ``lines`` maps lines of the generated body to indices into the call order; where it is empty the call ran in pluggy's
    loop and the implementation is recognised by its code. An exception that left no implementation of this call (a bad
    argument, pluggy's own errors) gets no note; neither does one of a plugin without a label.
    """
    own = _own_frames(error.__traceback__)
    for failure in _with_contexts(error):
        entry = _last_entry(failure.__traceback__, own)
        if entry is None:
            continue
        impl = _by_line(entry, impls, lines) or _by_code(entry, impls)
        label = label_of(impl.plugin_name) if impl is not None else None
        if label is not None:
            _note_once(failure, f"plugin {label}, hook {hook}, level none")


def _with_contexts(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__context__


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _is_machinery(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(MACHINERY)


def _own_frames(traceback: TracebackType | None) -> list[FrameType]:
    """Return the frames of this call's machinery: those before the traceback first enters other code."""
    own: list[FrameType] = []
    for entry in _entries(traceback):
        if not _is_machinery(entry.tb_frame):
            break
        own.append(entry.tb_frame)
    return own


def _last_entry(traceback: TracebackType | None, own: Sequence[FrameType]) -> TracebackType | None:
    """Return the innermost entry of this call's machinery.

    An error that passed through a wrapper enters the machinery twice; the inner entry is where it came from.
    """
    found = None
    for entry in _entries(traceback):
        if any(entry.tb_frame is frame for frame in own):
            found = entry
    while found is not None and found.tb_next is not None and _is_machinery(found.tb_next.tb_frame):
        found = found.tb_next  # pluggy runs old-style wrappers inside a generator of its own
    return found


def _by_line(entry: TracebackType, impls: Sequence[HookImpl], lines: Mapping[int, int]) -> HookImpl | None:
    index = lines.get(entry.tb_lineno)
    return None if index is None else impls[len(impls) - 1 - index]


def _by_code(entry: TracebackType, impls: Sequence[HookImpl]) -> HookImpl | None:
    """Recognise the implementation that pluggy's loop entered; several may share one function."""
    running = entry.tb_frame.f_locals.get("hook_impl")
    if entry.tb_next is None:
        return None
    frame = entry.tb_next.tb_frame
    same = [impl for impl in impls if _code_of(impl.function) is frame.f_code]
    if len(same) > 1:
        same = [impl for impl in same if _is_bound_to_first_argument(impl.function, frame)] or same
    return next((impl for impl in same if impl is running), same[0] if same else None)


def _code_of(function: Any) -> CodeType | None:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _is_bound_to_first_argument(function: Any, frame: FrameType) -> bool:
    bound = getattr(function, "__self__", None)
    names = frame.f_code.co_varnames
    return bound is not None and bool(names) and frame.f_locals.get(names[0]) is bound


def _note_once(error: BaseException, note: str) -> None:
    """Add the note unless it is there: a cached exception that is raised again must not collect copies."""
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
