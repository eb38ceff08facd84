"""What the generated body of a measured call has more than others, as source lines. Pure.

The block that calls the implementations stands in a measured body twice: once for calls that are only counted, once for those that are timed.
``_bh_laps`` is None in the former. In the latter it is a list of (index, nanoseconds): the clock at the begin, with index -1, and after
each step, with the index, in call order, of the implementation that the step belongs to.

Counting must not cost a call at level none a quarter of its time, some 30 ns. So the counted block stands inside a ``for`` over an iterator
that ends when the next call is to be timed: no number is made, nothing is compared, and no Python function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

import attrs

__all__ = ["COUNTED", "TIMED", "UNMEASURED", "Line", "Measure", "Probe", "measured", "unmarked"]

#: A line of source, and the index, in call order, of the implementation that it calls.
Line: TypeAlias = tuple[str, int | None]

#: Not at all; one call in so many is timed, found by an iterator that ends; the same, found by asking at each call; each call is timed.
Measure = Literal["no", "skipping", "asking", "always"]

_INDENT: Final = "    "
#: An interrupt inside ``_bh_turn`` must find the name bound.
_TURN: Final = ("_bh_laps = None", "_bh_laps = _bh_turn()")


def unmarked(*lines: str) -> list[Line]:
    """Return lines that call no implementation."""
    return [(line, None) for line in lines]


def measured(write: Callable[[Probe], Sequence[Line]], how: Measure) -> list[Line]:
    """Return the block that ``write`` gives, or the two blocks with the choice between them. Each ends by returning."""
    if how == "no":
        return list(write(UNMEASURED))
    if how == "always":
        return [*unmarked(*_TURN), *write(TIMED)]
    counted = [(_INDENT + line, index) for line, index in write(COUNTED)]
    if how == "asking":
        return [*unmarked(*_TURN, "if _bh_laps is None:"), *counted, *write(TIMED)]
    return [*unmarked("for _bh_laps in _bh_quiet:"), *counted, *unmarked(*_TURN), *write(TIMED)]


@attrs.frozen
class Probe:
    """The additional lines of one block."""

    counts: bool
    times: bool

    def lap(self, index: int) -> str:
        """Take the time of a step, behind a simple statement in its line."""
        return f"; _bh_laps.append(({index}, _bh_clock()))" if self.times else ""

    def record(self) -> list[str]:
        """Put a timed call into the books."""
        return ["_bh_record(_bh_laps)"] if self.times else []

    def answered(self, index: int) -> list[str]:
        """End the call with the result of ``index``, if that is one."""
        if not self.counts:
            return ["if _bh_r is not None: return _bh_r"]
        return ["if _bh_r is not None:", *(_INDENT + line for line in (*self.ended(index), *self.record(), "return _bh_r"))]

    def ended(self, index: int) -> list[str]:
        """Count that the way through the implementations ended at ``index``; of the first that is known from the others."""
        return [f"for _bh_one in _bh_ended{index}: break"] if self.counts and index > 0 else []

    def reached(self, index: int) -> str:
        """Remember, before a simple statement in its line, how far the call got."""
        return f"_bh_at = {index}; " if self.counts else ""

    def ended_there(self) -> list[str]:
        """Count that the way through the implementations ended where :meth:`reached` says."""
        return ["_bh_ended_at(_bh_at)"] if self.counts else []

    def went_wrong(self) -> str:
        """Count the failure of an implementation on the way in, behind a simple statement in its line; ``_bh_e`` has just been caught."""
        return "; _bh_went_wrong(_bh_e, _bh_laps)" if self.counts else ""

    def erred(self, index: int) -> str:
        """Count that a wrapper failed on the way back, behind a simple statement in its line."""
        return f"; _bh_erred({index}, _bh_laps)" if self.counts else ""

    def unwinding(self) -> str:
        """Return the further argument with which unwinding tells what each wrapper did."""
        return ", _bh_unwound(_bh_laps)" if self.counts else ""

    def failed(self) -> list[str]:
        """Count that the call failed; ``_bh_e`` has just been caught."""
        return ["_bh_call_failed(_bh_e, _bh_laps)"] if self.counts else []

    def aside(self, statement: str, condition: str) -> list[str]:
        """Leave the generated body by ``statement`` under a condition: such a call is counted, what plugins do in it is not."""
        if not self.counts:
            return [f"if {condition}: {statement}"]
        return [
            f"if {condition}:",
            "    _bh_next(_bh_aside)",
            f"    try: {statement}",
            "    except BaseException: _bh_next(_bh_aside_failed); raise",
        ]


UNMEASURED: Final = Probe(counts=False, times=False)
COUNTED: Final = Probe(counts=True, times=False)
TIMED: Final = Probe(counts=True, times=True)
