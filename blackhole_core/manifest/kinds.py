"""The kinds of value a declaration may hold. Each checks one node and describes itself as JSON Schema: one source of truth.

A kind never raises on bad input: it notes a problem in the :class:`Report` and returns anything. What was built may only be used when the report is
empty. All of it is pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import attrs

from blackhole_core.errors import Problem
from blackhole_core.manifest.yaml import Node, dotted, show

__all__ = ["Choice", "Field", "Flag", "Kind", "ListOf", "Number", "Plain", "Record", "Report", "Text", "did_you_mean"]

Path = tuple[str | int, ...]

#: What no declared text may hold: controls (a terminal would obey them) and the marks that turn the direction of writing.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class Report:
    """Collects the problems of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def add(self, node: Node, path: Path, wanted: str, got: str | None = None) -> None:
        """Note that ``node`` at ``path`` is not what was wanted; ``got`` defaults to the value itself."""
        self.problems.append(
            Problem(file=self.file, line=node.line, path=dotted(path), wanted=wanted, got=show(node) if got is None else got)
        )


class Kind(Protocol):
    """What may stand at one place."""

    def read(self, node: Node, path: Path, report: Report) -> Any:
        """Return the value of ``node``; note in ``report`` what is wrong with it."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the values this kind accepts."""
        ...


def did_you_mean(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return ``"; did you mean 'isolation'?"`` when one of ``known`` is near, else nothing."""
    import difflib  # only for a message

    near = difflib.get_close_matches(word.strip().lower()[:60], list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


@attrs.frozen
class Text:
    """Text. ``rule`` returns what is wrong with a value, in words, or None; ``number_as_text`` takes ``1.0`` as the author wrote it."""

    wanted: str = "text"
    rule: Callable[[str], str | None] = attrs.field(default=lambda _: None)
    number_as_text: bool = False
    pattern: str | None = None

    def read(self, node: Node, path: Path, report: Report) -> str:
        value = node.value
        if self.number_as_text and node.text and isinstance(value, int | float) and not isinstance(value, bool):
            value = node.text
        if not isinstance(value, str):
            report.add(node, path, self.wanted)
        elif found := _UNPRINTABLE.search(value):
            report.add(node, path, f"{self.wanted} without control characters", f"U+{ord(found[0]):04X} in {show(node)}")
        elif (reason := self.rule(value)) is not None:
            report.add(node, path, self.wanted, f"{show(node)}{reason}")
        return str(value)

    def schema(self) -> dict[str, Any]:
        out: dict[str, Any] = {"type": ["string", "number"] if self.number_as_text else "string"}
        return out if self.pattern is None else {**out, "pattern": self.pattern}


@attrs.frozen
class Choice:
    """One word of several, exactly as written."""

    words: tuple[str, ...]
    build: Callable[[str], Any] = str

    def read(self, node: Node, path: Path, report: Report) -> Any:
        value = node.value
        if isinstance(value, str) and value in self.words:
            return self.build(value)
        hint = did_you_mean(value, self.words) if isinstance(value, str) else ""
        report.add(node, path, f"one of {', '.join(self.words)}", show(node) + hint)
        return None

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}


@attrs.frozen
class Flag:
    """``true`` or ``false``."""

    def read(self, node: Node, path: Path, report: Report) -> bool:
        if not isinstance(node.value, bool):
            report.add(node, path, "true or false")
        return bool(node.value)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@attrs.frozen
class Number:
    """A finite number in a range of ``unit``. ``above`` is excluded, ``least`` and ``most`` are included."""

    unit: str
    most: int
    above: int | None = None
    least: int | None = None
    whole: bool = False

    @property
    def wanted(self) -> str:
        low = f"above {self.above}" if self.least is None else f"from {self.least}"
        sort = "a whole number" if self.whole else "a number"
        return f"{sort} {low} up to {self.most}{' ' if self.unit else ''}{self.unit}"

    def read(self, node: Node, path: Path, report: Report) -> float | int:
        value = node.value
        sort = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, sort):
            hint = "; write it without quotes" if isinstance(value, str) and re.fullmatch(r"[0-9.]+", value) else ""
            report.add(node, path, self.wanted, show(node) + hint)
            return 0
        if not self._inside(value):
            report.add(node, path, self.wanted)
            return 0
        return value if self.whole else float(value)

    def _inside(self, value: float) -> bool:
        if not math.isfinite(value) or value > self.most:
            return False
        return (self.above is None or value > self.above) and (self.least is None or value >= self.least)

    def schema(self) -> dict[str, Any]:
        out: dict[str, Any] = {"type": "integer" if self.whole else "number", "maximum": self.most}
        if self.above is not None:
            out["exclusiveMinimum"] = self.above
        if self.least is not None:
            out["minimum"] = self.least
        return out


@attrs.frozen
class Plain:
    """A mapping of the author's own making. ``rule`` notes what is wrong inside it."""

    wanted: str = "a mapping"
    rule: Callable[[Node, Path, Report], None] | None = None

    def read(self, node: Node, path: Path, report: Report) -> Any:
        if not isinstance(node.value, dict):
            report.add(node, path, self.wanted)
        elif self.rule is not None:
            self.rule(node, path, report)
        return node.plain()

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}


@attrs.frozen
class ListOf:
    """A list of one kind; ``unique`` returns what no two items may share, for an item."""

    item: Kind
    wanted: str
    unique: Callable[[Any], Any] | None = None
    unique_items: bool = False

    def read(self, node: Node, path: Path, report: Report) -> tuple[Any, ...]:
        if not isinstance(node.value, list):
            report.add(node, path, self.wanted)
            return ()
        seen: dict[Any, int] = {}
        values = []
        for index, child in enumerate(node.value):
            before = len(report.problems)
            value = self.item.read(child, (*path, index), report)
            values.append(value)
            if len(report.problems) > before or self.unique is None:
                continue
            first = seen.setdefault(self.unique(value), index)
            if first != index:
                report.add(child, (*path, index), "each only once", f"{self.unique(value)!r} again (first at {dotted((*path, first))})")
        return tuple(values)

    def schema(self) -> dict[str, Any]:
        out: dict[str, Any] = {"type": "array", "items": self.item.schema()}
        return {**out, "uniqueItems": True} if self.unique_items else out


@attrs.frozen
class Field:
    """One key: what may stand there and what it means. A key that is not required keeps the default of the value that is built."""

    name: str
    kind: Kind
    about: str
    required: bool = False


@attrs.frozen
class Record:
    """A mapping with known keys, built into a value. ``extensions`` names the argument that takes the author's ``x-…`` keys."""

    build: Callable[..., Any]
    fields: tuple[Field, ...]
    extensions: str | None = None

    def read(self, node: Node, path: Path, report: Report) -> Any:
        if not isinstance(node.value, dict):
            report.add(node, path, f"a mapping with the keys {', '.join(field.name for field in self.fields)}")
            return None
        before = len(report.problems)
        values: dict[str, Any] = {}
        for field in self.fields:
            child = node.value.get(field.name)
            if child is not None:
                values[field.name] = field.kind.read(child, (*path, field.name), report)
            elif field.required:
                report.add(node, (*path, field.name), "this key", "nothing; it must be there")
        own = self._unknown(node, path, report)
        if self.extensions is not None:
            values[self.extensions] = own
        return self.build(**values) if len(report.problems) == before else None

    def _unknown(self, node: Node, path: Path, report: Report) -> dict[str, Any]:
        known = {field.name: field for field in self.fields}
        own: dict[str, Any] = {}
        for name, child in node.value.items():
            if name in known:
                continue
            if self.extensions is not None and name.startswith("x-") and len(name) > 2:
                own[name] = child.plain()
                continue
            more = " (or your own x-… key)" if self.extensions is not None else ""
            report.add(child, (*path, name), f"one of the keys {', '.join(known)}{more}", f"an unknown key{did_you_mean(name, known)}")
        return own

    def schema(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "type": "object",
            "properties": {field.name: {**field.kind.schema(), "description": field.about} for field in self.fields},
            "additionalProperties": False,
        }
        if required := [field.name for field in self.fields if field.required]:
            out["required"] = required
        if self.extensions is not None:
            out["patternProperties"] = {"^x-.": {}}
        return out
