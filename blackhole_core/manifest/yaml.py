"""Read YAML strictly: plain data only, and every value knows its line. No I/O; the bytes come in.

Refused, each as a :class:`~blackhole_core.errors.Problem`: too many bytes or values, deep nesting, anything but UTF-8 without a byte
order mark, anchors, aliases, merge keys, tags, duplicate keys, keys that are not text, a second document, a top level that
is not a mapping.

Rules:

* The pure-Python parser of PyYAML is used, never the C one: that recurses in C and ends the process on deep nesting.
* Nothing here recurses further than :data:`MAX_DEPTH`, and the scanner is stopped at that depth too: left alone it looks a
  kilobyte ahead and takes quadratic time over ``[[[[…``.
* Scalars mean what YAML **1.2**'s core schema says. ``no``, ``on``, ``1_000``, ``1:30`` and ``2026-01-01`` are text. The source text of
  a scalar is kept beside its value, so that ``version: 1.10`` can be read as the author meant it.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

from blackhole_core.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_VALUES", "Document", "Node", "load_strict"]

#: Bytes. The largest manifest seen in the wild (Home Assistant, VS Code, dify) is under 20 KiB; 64 KiB parses in well under a second.
MAX_BYTES: Final = 64 * 1024
#: Mappings and lists inside each other. A JSON Schema under ``config_schema`` uses about ten.
MAX_DEPTH: Final = 20
#: Keys, values and list items. Bounds the time: the parser takes about 20 µs for each, so that no input takes 100 ms.
MAX_VALUES: Final = 3_000
#: Characters of one number. Longer ones are a mistake or an attack (turning digits into an int takes quadratic time).
MAX_NUMBER: Final = 64
#: Problems reported of one document; after that the rest is noise.
MAX_PROBLEMS: Final = 50

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]+")
_OCT: Final = re.compile(r"0o[0-7]+")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL: Final = re.compile(r"(?P<sign>[-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@attrs.frozen(eq=False)
class Node:
    """One value of a document.

    ``value`` is a dict of text to :class:`Node`, a list of :class:`Node`, or a scalar (str, int, float, bool, None). ``line`` counts from 1; in a
    mapping it is the line of the key. ``text`` is the source of a scalar that stood there without quotes, else None.
    """

    value: Any
    line: int
    text: str | None = None

    def plain(self) -> Any:
        """Return the value as ordinary dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def __repr__(self) -> str:
        return f"<Node line {self.line}: {show(self)}>"


@attrs.frozen
class Document:
    """What was read. ``root`` is a mapping, or None when nothing could be made of the bytes; with ``problems`` it must not be obeyed."""

    file: str
    root: Node | None
    problems: tuple[Problem, ...]


def load_strict(data: bytes, *, file: str, max_bytes: int = MAX_BYTES) -> Document:
    """Read one YAML document that is a mapping.

    Nothing is raised for bad input: every refusal is in ``problems``. When the document could be read to its end, ``root`` is there beside them, so
    that the caller can add the problems it finds itself and report all at once.
    """
    text, problem = _decode(data, file, max_bytes)
    if problem is not None:
        return Document(file, None, (problem,))
    return _Composer(text, file).document()


def show(node: Node) -> str:
    """Return a value for an error message: short, on one line, with nothing in it that a terminal would obey."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        shown = ascii(value) if not value.isprintable() else repr(value)
        return shown if len(shown) <= 80 else f"{shown[:70]}… ({len(value)} characters)"
    return node.text if node.text is not None else str(value)


def _decode(data: bytes, file: str, max_bytes: int) -> tuple[str, Problem | None]:
    if len(data) > max_bytes:
        return "", Problem(file=file, line=None, path="", wanted=f"at most {max_bytes} bytes", got=f"{len(data)} bytes")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "", Problem(file=file, line=1, path="", wanted="UTF-8 without a byte order mark", got="a byte order mark")
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return "", Problem(file=file, line=line, path="", wanted="UTF-8", got=f"byte 0x{data[error.start]:02x} at offset {error.start}")


class _Refused(Exception):
    """Reading cannot go on; the problem is already noted."""


class _Composer:
    """Builds the tree from the parser's events and notes every problem on the way."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._problems: list[Problem] = []
        self._values = 0

    def document(self) -> Document:
        root: Node | None = None
        with contextlib.suppress(_Refused):  # the problem is noted
            root = self._parse()
        return Document(self._file, root, tuple(self._problems))

    def _parse(self) -> Node | None:
        import yaml  # 15 ms; only who reads a manifest pays for it

        try:
            return self._read(_events(self._text))
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            self._note(line, (), "printable characters", f"character U+{_code_point(error.character):04X}")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            self._note(None if mark is None else mark.line + 1, (), "valid YAML", reason)
        return None

    def _read(self, events: Iterator[Any]) -> Node:
        from yaml import events as kinds

        next(events)  # StreamStart
        first = next(events)
        if not isinstance(first, kinds.DocumentStartEvent):
            self._refuse(1, (), "a mapping of keys to values", "an empty file")
        root = self._node(next(events), events, ())
        next(events)  # DocumentEnd
        after = next(events)
        if not isinstance(after, kinds.StreamEndEvent):
            self._refuse(_line(after), (), "one document", "a second one")
        if not isinstance(root.value, dict):
            empty = root.value is None
            self._refuse(1 if empty else root.line, (), "a mapping of keys to values", "an empty file" if empty else show(root))
        return root

    def _node(self, event: Any, events: Iterator[Any], path: tuple[str | int, ...]) -> Node:
        from yaml import events as kinds

        self._values += 1
        line = _line(event)
        if self._values > MAX_VALUES:
            self._refuse(line, path, f"at most {MAX_VALUES} values", "more")
        if isinstance(event, kinds.AliasEvent):
            self._note(line, path, "plain values", f"the alias *{event.anchor!s:.40}; write the value out")
            return Node(None, line)
        if event.anchor is not None:
            self._note(line, path, "plain values", f"the anchor &{event.anchor!s:.40}; write the value out")
        if event.tag is not None:
            self._note(line, path, "plain values", f"the tag {event.tag[:60]!a}; leave it out")
        if isinstance(event, kinds.ScalarEvent):
            return self._scalar(event, line, path)
        if len(path) >= MAX_DEPTH:
            self._refuse(line, path[:3], f"at most {MAX_DEPTH} levels of nesting", "more")
        if isinstance(event, kinds.SequenceStartEvent):
            return self._sequence(events, line, path)
        return self._mapping(events, line, path)

    def _sequence(self, events: Iterator[Any], line: int, path: tuple[str | int, ...]) -> Node:
        from yaml import events as kinds

        items: list[Node] = []
        while not isinstance(event := next(events), kinds.SequenceEndEvent):
            items.append(self._node(event, events, (*path, len(items))))
        return Node(items, line)

    def _mapping(self, events: Iterator[Any], line: int, path: tuple[str | int, ...]) -> Node:
        from yaml import events as kinds

        members: dict[str, Node] = {}
        while not isinstance(event := next(events), kinds.MappingEndEvent):
            key = self._node(event, events, (*path, "?"))
            name = self._key(key, path)
            value = self._node(next(events), events, (*path, name or "?"))
            if name is None:
                continue
            if name in members:
                self._note(key.line, (*path, name), "each key once", f"{name!r} a second time (first on line {members[name].line})")
                continue
            members[name] = attrs.evolve(value, line=key.line)
        return Node(members, line)

    def _key(self, key: Node, path: tuple[str | int, ...]) -> str | None:
        if key.text == "<<":
            self._note(key.line, path, "plain keys", "the merge key <<; write the keys out")
            return None
        if not isinstance(key.value, str):
            self._note(key.line, path, "keys that are text", f"{show(key)}; put it in quotes" if key.text else show(key))
            return None
        return key.value

    def _scalar(self, event: Any, line: int, path: tuple[str | int, ...]) -> Node:
        if _SURROGATE.search(event.value):
            self._note(line, path, "text that UTF-8 can hold", ascii(event.value)[:80])
            return Node("", line)
        if event.style is not None:  # quoted, or a block: always text
            return Node(event.value, line)
        if len(event.value) > MAX_NUMBER and _FLOAT.fullmatch(event.value):
            self._note(line, path, f"a number of at most {MAX_NUMBER} characters", f"one of {len(event.value)}")
            return Node(0, line)
        return Node(_resolve(event.value), line, event.value)

    def _note(self, line: int | None, path: tuple[str | int, ...], wanted: str, got: str) -> None:
        self._problems.append(Problem(file=self._file, line=line, path=dotted(path), wanted=wanted, got=got))
        if len(self._problems) >= MAX_PROBLEMS:
            raise _Refused

    def _refuse(self, line: int, path: tuple[str | int, ...], wanted: str, got: str) -> None:
        self._note(line, path, wanted, got)
        raise _Refused


def dotted(path: tuple[str | int, ...]) -> str:
    """Return ``("dependencies", 1, "version")`` as ``dependencies[1].version``; keys that are not words are quoted."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
            continue
        word = part if re.fullmatch(r"[\w$?-]{1,60}", part) else ascii(part[:60])
        out += f".{word}" if out else word
    return out


def _resolve(text: str) -> Any:
    """Return what an unquoted scalar means by the core schema of YAML 1.2 (chapter 10.3.2)."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    return _number(text) if text[0] in "+-.0123456789" else text


def _number(text: str) -> int | float | str:
    if _INT.fullmatch(text):
        return int(text)
    if _OCT.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if special := _SPECIAL.fullmatch(text):
        return float("nan") if special["sign"] is None else float(f"{special['sign']}inf")
    return text


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _code_point(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


def _events(text: str) -> Iterator[Any]:
    """Yield the parser's events, one at a time as they are asked for."""
    parser = _bounded_parser()(text)
    while parser.check_event():
        yield parser.get_event()


def _bounded_parser() -> Any:
    """Return PyYAML's reader, scanner and parser in one class whose scanner stops at :data:`MAX_DEPTH`."""
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner, ScannerError

    class BoundedParser(Reader, Scanner, Parser):
        def __init__(self, stream: str) -> None:
            Reader.__init__(self, stream)
            Scanner.__init__(self)
            Parser.__init__(self)

        def fetch_flow_collection_start(self, token: Any) -> None:
            if self.flow_level >= MAX_DEPTH:
                raise ScannerError(f"more than {MAX_DEPTH} levels of nesting", None, "written with [ and {", self.get_mark())
            super().fetch_flow_collection_start(token)

    return BoundedParser
