"""Whole answers of the discovery index: who has entry points of one group on one path, and the stamps by which that still holds.

An answer is taken from tables (:mod:`~blackhole_core.registry.indextable`) and compares exactly what they compare: every directory of the path, everything loose in them, and the
``entry_points.txt`` of those who declare the group. So it is right when they would be, and costs nothing for all the distributions that have no part in it. It exists only for a path of plain
directories; one that is missing has the stamp of nothing.

Not all of a path is known to be settled when an answer is made: what is small is not kept on disk, and a new process reads it for the first time. Such an answer is kept with the moment
since which its stamps stand. It answers nobody, but when a look finds the same stamps again and that moment is long enough ago, all of it was read twice, and
the answer counts from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blackhole_core.registry.indexstamp import NOTHING, Stamp, settle, stamp_at
from blackhole_core.registry.indextable import FIELD, PART, POINTS, Table, pairs

if TYPE_CHECKING:
    from importlib.metadata import Distribution

__all__ = ["Answer", "Declarer", "answer_from_text", "answer_key", "answer_to_text", "make_answer"]

#: Distributions in one directory from which on an answer is worth a file; fewer are read as quickly.
_MANY: Final = 8


class Declarer(NamedTuple):
    """A distribution with entry points of the group that was asked for."""

    name: str  #: normalised as ``importlib.metadata`` does
    place: str  #: its metadata directory; empty when ``found`` is set
    points: tuple[tuple[str, str], ...]  #: name and value of each
    damaged: bool = False  #: its ``entry_points.txt`` cannot be made out, so it may have any
    found: Any = None  #: the distribution, where something else than a directory has it

    @property
    def distribution(self) -> Distribution:
        """What ``importlib.metadata`` makes of it."""
        if self.found is not None:
            return self.found  # type: ignore[no-any-return]  # mypy cannot know more
        from importlib.metadata import Distribution

        return Distribution.at(self.place)


class Answer(NamedTuple):
    """Who declares a group, and how to tell that it is still so."""

    seen: int  #: when the stamps were first seen all together (ns since boot), 0 once everything is settled
    paths: tuple[str, ...]  #: what is compared
    stamps: str  #: of ``paths``, as one text that is compared as a whole
    declarers: tuple[Declarer, ...]
    kept: bool  #: there are so many distributions that it is worth a file

    def holds(self) -> bool:
        """Tell whether everything is as it was, and can be trusted to show it."""
        return not self.seen and repr([stamp_at(path) for path in self.paths]) == self.stamps


def answer_key(group: str, entries: Sequence[str]) -> str | None:
    """Return what an answer is kept under; None where there can be none: a relative path is another directory in every process."""
    joined = "".join((group, *entries))
    return FIELD.join((group, *entries)) if joined.isprintable() and all(entry[:1] == "/" for entry in entries) else None


def make_answer(
    group: str, tables: Sequence[Table], declarers: Sequence[Declarer], before: Answer | None, begun: int, ended: int
) -> Answer | None:
    """Return the answer that a look between ``begun`` and ``ended`` (ns since boot) found in ``tables``, one for each directory of the path; None when it cannot be kept.

    ``before`` is the last one to the same question.
    """
    compared: list[tuple[str, Stamp]] = [(table.directory, table.stamp) for table in tables]
    for table in tables:
        compared += [(f"{table.directory}/{path}", stamp) for path, stamp in table.checks]
        compared += [(f"{table.directory}/{member.place}/{POINTS}", member.stamp) for member in table.members(group) if member.stamp]
        if any(stamp == NOTHING for _path, stamp in table.checks):  # not ours to see: it is looked for each time
            return None
    answer = Answer(
        ended,
        tuple(path for path, _stamp in compared),
        repr([stamp for _path, stamp in compared]),
        tuple(declarers),
        any(table.distributions >= _MANY for table in tables),
    )
    if all(table.settled for table in tables):
        return answer._replace(seen=0)
    if before is not None and (before.paths, before.stamps) == (answer.paths, answer.stamps) and before.seen <= begun:
        return answer._replace(seen=settle(begun, before.seen))
    return answer


def answer_to_text(answer: Answer, key: str, machine: str, clock: str) -> str:
    """Return ``answer`` as text. ``clock`` names the one its moment is on."""
    return PART.join(
        (
            machine,
            key,
            f"{answer.seen} {clock}" if answer.seen else "",
            answer.stamps,
            FIELD.join(answer.paths),
            *(
                FIELD.join((one.name, one.place, "d" if one.damaged else "", *(x for point in one.points for x in point)))
                for one in answer.declarers
            ),
        )
    )


def answer_from_text(text: str, key: str, machine: str) -> tuple[Answer, str] | None:
    """Return the answer and on which clock its moment is; None when it is to another question, or of another start of a machine.

    :raises ValueError: this is no answer.
    """
    where, question, moment, stamps, paths, *declared = text.split(PART)
    if where != machine or question != key:
        return None
    seen, _, clock = moment.partition(" ")
    return Answer(int(seen or 0), tuple(paths.split(FIELD)), stamps, tuple(map(_declarer, declared)), kept=True), clock


def _declarer(text: str) -> Declarer:
    name, place, damaged, *points = text.split(FIELD)
    return Declarer(name, place, pairs(points), damaged == "d")
