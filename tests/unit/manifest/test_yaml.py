"""The strict YAML reader: plain data only, every refusal named, nothing hostile takes long."""

from __future__ import annotations

import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import Problem
from blackhole_core.manifest.yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Document, Node, load_strict


def read(text: str | bytes) -> Document:
    return load_strict(text.encode() if isinstance(text, str) else text, file="a.yaml")


def root(text: str) -> Node:
    document = read(text)
    assert document.problems == ()
    assert document.root is not None
    return document.root


def only_problem(text: str | bytes) -> Problem:
    (problem,) = read(text).problems
    return problem


def test_values_and_lines() -> None:
    """A document gives plain values, and each value knows the line of its key."""
    node = root("a: 1\nb:\n  - x\n  - c: {d: [true]}\n")
    assert node.plain() == {"a": 1, "b": ["x", {"c": {"d": [True]}}]}
    assert node.value["b"].line == 2
    assert node.value["b"].value[1].line == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("~", None),
        ("", None),
        ("null", None),
        ("True", True),
        ("'1'", "1"),
        ('"true"', "true"),
        ("|-\n  1", "1"),
        ("1.2.3", "1.2.3"),
        (".", "."),
        ("=", "="),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    """Scalars are read by YAML 1.2's core schema: the surprises of 1.1 are text."""
    found = root(f"a: {text}\n").value["a"].value
    assert found == value
    assert type(found) is type(value)


def test_source_text_is_kept() -> None:
    """``version: 1.10`` is a number whose source text is still there."""
    node = root("a: 1.10\nb: '1.10'\n")
    assert (node.value["a"].value, node.value["a"].text) == (1.1, "1.10")
    assert node.value["b"].text is None


@pytest.mark.parametrize(
    ("text", "line", "path", "wanted", "got"),
    [
        ("a: &x 1\n", 1, "a", "plain values", "the anchor &x"),
        ("b: 1\na: *x\n", 2, "a", "plain values", "the alias *x"),
        ("a: !!python/object:os.system x\n", 1, "a", "plain values", "the tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !x {}\n", 1, "a", "plain values", "the tag '!x'"),
        ("a: 1\nb: 2\na: 3\n", 3, "a", "each key once", "'a' a second time (first on line 1)"),
        ("a:\n  <<: {b: 1}\n", 2, "a", "plain keys", "the merge key <<"),
        ("a: {1: 2}\n", 1, "a", "keys that are text", "1; put it in quotes"),
        ("true: 2\n", 1, "", "keys that are text", "true; put it in quotes"),
        ("[a]: 2\n", 1, "", "keys that are text", "a list"),
        ("a: 1\n---\nb: 2\n", 2, "", "one document", "a second one"),
        ("- a\n", 1, "", "a mapping of keys to values", "a list"),
        ("just text\n", 1, "", "a mapping of keys to values", "'just text'"),
        ("", 1, "", "a mapping of keys to values", "an empty file"),
        ("# nothing\n", 1, "", "a mapping of keys to values", "an empty file"),
        ("---\n", 1, "", "a mapping of keys to values", "an empty file"),
        ("a: 1\n b: 2\n", 2, "", "valid YAML", "mapping values are not allowed here"),
        ("a: [1\n", 2, "", "valid YAML", "while parsing a flow sequence"),
        ("a: 1\n\tb: 2\n", 2, "", "valid YAML", "'\\t'"),
        ("a: b\x00c\n", 1, "", "printable characters", "U+0000"),
        ("a: x\nb: \x1b[2J\n", 2, "", "printable characters", "U+001B"),
        ('a: "\\ud800"\n', 1, "a", "text that UTF-8 can hold", "'\\ud800'"),
        (f"a: {'9' * 65}\n", 1, "a", "a number of at most 64 characters", "one of 65"),
        (b"a: \xff\n", 1, "", "UTF-8", "byte 0xff at offset 3"),
        (b"\xef\xbb\xbfa: 1\n", 1, "", "UTF-8 without a byte order mark", "a byte order mark"),
        ("a: 1\n".encode("utf-16"), 1, "", "UTF-8 without a byte order mark", "a byte order mark"),
    ],
)
def test_refusals(text: str | bytes, line: int, path: str, wanted: str, got: str) -> None:
    """A48: what is not plain data is refused, with file, line, path, what was wanted and what was got."""
    problem = only_problem(text)
    assert (problem.file, problem.line, problem.path, problem.wanted) == ("a.yaml", line, path, wanted)
    assert got in problem.got


def test_too_many_bytes() -> None:
    """A48: a file over the cap is refused by its size, before it is decoded."""
    assert only_problem(b"\xff" * (MAX_BYTES + 1)).got == f"{MAX_BYTES + 1} bytes"


def test_refusals_come_together() -> None:
    """A document with several refusals has them all, and its root, so that the caller's own problems can be added."""
    document = read("a: &x 1\nb: !t 2\na: 3\nc: 4\n")
    assert [problem.line for problem in document.problems] == [1, 2, 3]
    assert document.root is not None
    assert document.root.plain() == {"a": 1, "b": 2, "c": 4}


def test_problems_are_bounded() -> None:
    """A file with thousands of faults gives some of them, also when a syntax error follows the last."""
    assert len(read("a: 1\n" * 2000).problems) == 50
    assert len(read("a: 1\n" * 50 + "b: [\n").problems) == 50


def test_deepest_and_one_more() -> None:
    """Nesting up to the limit is read; one level more is refused."""
    assert read("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)).problems == ()
    assert "levels of nesting" in str(only_problem("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH))


@pytest.mark.parametrize("opening", ["[", "{a: ["])
def test_the_scanner_itself_stops(opening: str) -> None:
    """A48: brackets are counted where they are scanned: the scanner looks a kilobyte ahead before the first event comes out."""
    assert "written with [ and {" in only_problem("a: " + opening * 5000).got


def _fill(unit: str, head: str = "") -> bytes:
    return (head + unit * (MAX_BYTES // len(unit)))[:MAX_BYTES].encode()


HOSTILE = {
    "flow lists": _fill("[", "a: "),
    "flow mappings": _fill("{a: "),
    "block lists": _fill("- "),
    "block mappings": "".join(" " * depth + "a:\n" for depth in range(340)).encode(),
    "complex keys": _fill("? "),
    "alias bomb": b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(2500)),
    "cyclic alias": b"a: &a [*a]\n",
    "merge bomb": b"".join(b"a%d: &a%d\n  <<: [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(2000)),
    "one alias often": _fill("*a,", "a: &a x\nb: ["),
    "wide list": _fill("- a\n"),
    "wide flow": _fill("a,", "a: ["),
    "many keys": b"".join(b"k%d: 1\n" % i for i in range(6000)),
    "duplicates": _fill("a: 1\n"),
    "long number": _fill("9", "a: "),
    "colons": _fill(":"),
    "quotes": _fill('"'),
    "exclamation": _fill("!", "a: "),
    "100 MB": b"a" * 100_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_costs_little(name: str) -> None:
    """A48: a bomb is refused with little memory and without deep recursion (on a thread with a small stack nothing overflows)."""
    data = HOSTILE[name]
    results: list[Document] = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: results.append(load_strict(data, file="bomb")))
        tracemalloc.start()
        thread.start()
        thread.join()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        threading.stack_size(before)
    assert results[0].problems
    assert peak < 20_000_000


def test_number_of_values_is_capped() -> None:
    """The parser is left as soon as a document has more values than any manifest has: time is bounded by the cap, not by the input."""
    problem = only_problem("a: [" + "b, " * MAX_VALUES + "]")
    assert problem.wanted == f"at most {MAX_VALUES} values"


@given(st.binary(max_size=300))
def test_any_bytes_give_a_document(data: bytes) -> None:
    """Whatever the bytes are, the reader answers with a document or with problems, never with an exception."""
    document = read(data)
    assert document.problems or isinstance(document.root, Node)


@given(st.text(alphabet="ab01:-?[]{},&*!|>'\"%@#. \n\t<", max_size=60))
def test_any_yaml_like_text_gives_a_document(text: str) -> None:
    """Text made of YAML's own signs never breaks the reader."""
    document = read(text)
    assert document.problems or isinstance(document.root, Node)
