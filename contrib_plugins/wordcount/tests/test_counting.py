"""The rule of counting, case by case."""

from __future__ import annotations

import pytest
from blackhole_wordcount.counting import Counts, count_source

CASES = {
    "nothing": ("", Counts(0, 0, 0)),
    "one line": ("x = 1\n", Counts(1, 3, 1)),
    "a last line without its end": ("x = 1\ny = x", Counts(2, 6, 3)),
    "only line ends": ("\n\n\n", Counts(3, 0, 0)),
    "a form feed is no line end": ("a\fb\n", Counts(1, 2, 2)),
    "keywords are no identifiers": ("if x is None: pass\n", Counts(1, 5, 1)),
    "soft keywords are": ("match x:\n    case _: pass\n", Counts(2, 5, 4)),
    "strings and comments hold no identifiers": ("'a b' # c d\n", Counts(1, 5, 0)),
    "letters of the world": ("größe = 名\n", Counts(1, 3, 2)),
    "a string that never ends": ("x = '''abc def\n", Counts(1, 4, 2)),
    "a bracket that never closes": ("f(a, if\n", Counts(1, 2, 2)),
    "a wrong dedent": ("if a:\n        b\n    c\n", Counts(3, 4, 3)),
    "digits before letters are no name": ("(9lives\n", Counts(1, 1, 0)),
    "a stray carriage return": ("\r\x85", Counts(1, 0, 0)),
    "a lone surrogate": ("a = b # \udc80\n(", Counts(2, 6, 2)),
    "names in strings count once it is no Python": ("'a' (if\n", Counts(1, 2, 1)),
}


@pytest.mark.parametrize(("source", "counts"), CASES.values(), ids=CASES)
def test_what_counts(source: str, counts: Counts) -> None:
    """Each text of the table has the counts that stand beside it."""
    assert count_source(source) == counts
