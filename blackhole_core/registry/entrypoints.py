"""Entry points as text: which plugins a distribution says it has, without importing any. Pure."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Final

from blackhole_core.errors import SourceError

__all__ = ["entry_groups", "parse_entry"]

_ENTRY: Final = re.compile(r"(?P<module>[\w.]+)\s*(?::\s*(?P<attribute>[\w.]+))?\s*(?:\[.*\])?\s*")


def entry_groups(text: str) -> Mapping[str, Mapping[str, str]]:
    """Return group → name → object reference of an ``entry_points.txt``.

    Raises :class:`~blackhole_core.errors.SourceError` when the text is not one.
    """
    import configparser

    parser = configparser.RawConfigParser(delimiters=("=",), default_section="\0", empty_lines_in_values=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case; documented in configparser
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise SourceError(f"its entry_points.txt is not readable: {error}".replace("\n", " ")) from error
    return {group: dict(parser.items(group)) for group in parser.sections()}


def parse_entry(value: str) -> tuple[str, str]:
    """Return ``(module, entry)`` of an object reference such as ``pkg.mod:Class [extra]``; ``entry`` is without blanks and extras.

    Raises :class:`~blackhole_core.errors.SourceError` when it names no module.
    """
    match = _ENTRY.fullmatch(value)
    if match is not None:
        words = [*match["module"].split("."), *(match["attribute"].split(".") if match["attribute"] else ())]
        if all(word.isidentifier() and not keyword.iskeyword(word) for word in words):
            entry = match["module"] if match["attribute"] is None else f"{match['module']}:{match['attribute']}"
            return match["module"], entry
    raise SourceError(f"wanted an entry point such as package.module:attribute, got {value[:100]!r}")
