r"""The rule by which source text is counted; a pure function from text to three numbers.

* lines: line ends (``\n``), and a last line without one;
* words: what ``str.split()`` splits;
* identifiers: tokens of type ``NAME`` (:mod:`tokenize`) that are identifiers and not keywords. Text that does not tokenize, such as half a program,
  is split into runs of ``\w`` instead, and those that are identifiers and not keywords count, in strings and comments too.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from keyword import kwlist
from typing import Final, NamedTuple

__all__ = ["Counts", "count_source"]

_NAME_LIKE: Final = re.compile(r"\w+")
#: How tokenize refuses a text. UnicodeError: lone surrogates, and in Python 3.13 some texts with a stray carriage return.
_NOT_PYTHON: Final = (tokenize.TokenError, SyntaxError, UnicodeError)
_KEYWORDS: Final = frozenset(kwlist)


class Counts(NamedTuple):
    """The counts of one source text, each in its own unit."""

    lines: int
    words: int
    identifiers: int


def count_source(source: str) -> Counts:
    """Count ``source``; never raises for what the text holds."""
    return Counts(_lines(source), len(source.split()), _identifiers(source))


def _lines(source: str) -> int:
    unfinished = bool(source) and not source.endswith("\n")
    return source.count("\n") + unfinished


def _identifiers(source: str) -> int:
    try:
        return _count_names(_name_tokens(source))
    except _NOT_PYTHON:  # found wherever the text stops being Python, often at its very end
        return _count_names(_NAME_LIKE.findall(source))


def _name_tokens(source: str) -> Iterator[str]:
    """Yield the names one by one: a list of all tokens of a big file takes tens of megabytes."""
    return (string for kind, string, *_ in tokenize.generate_tokens(io.StringIO(source).readline) if kind == tokenize.NAME)


def _count_names(names: Iterable[str]) -> int:
    return sum(1 for name in names if name not in _KEYWORDS and name.isidentifier())
