"""The plain loop counts by the stated rule, and both releases of the plugin count the same."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackhole_core.cli.demo.corpus import Source, read_corpus
from blackhole_core.cli.demo.plainloop import Totals, count_plainly, sum_plainly
from blackhole_core.cli.demo.releases import RELEASES, release_trees

CASES = {
    "nothing": ("", Totals(1, 0, 0, 0)),
    "one line": ("x = 1\n", Totals(1, 1, 3, 1)),
    "a last line without its end": ("x = 1\ny = x", Totals(1, 2, 6, 3)),
    "a form feed is no line end": ("a\fb\n", Totals(1, 1, 2, 2)),
    "keywords are no identifiers": ("if x is None: pass\n", Totals(1, 1, 5, 1)),
    "strings and comments hold none": ("'a b' # c d\n", Totals(1, 1, 5, 0)),
    "no Python: a string that never ends": ("x = '''abc def\n", Totals(1, 1, 4, 2)),
    "no Python: a wrong dedent": ("if a:\n        b\n    c\n", Totals(1, 3, 4, 3)),
    "a stray carriage return": ("\r\x85", Totals(1, 1, 0, 0)),
    "a lone surrogate": ("a = b # \udc80\n(", Totals(1, 2, 6, 2)),
    "no Python: digits before letters": ("(9lives\n", Totals(1, 1, 1, 0)),
}


def load(version: str) -> ModuleType:
    """Import one release from its tree; the fixture forgets it again, so that the next one can have the name."""
    package = release_trees()[version] / "blackhole_wordcount"
    spec = importlib.util.spec_from_file_location("blackhole_wordcount", package / "__init__.py", submodule_search_locations=[str(package)])
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["blackhole_wordcount"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The plugin class of one release."""
    yield load(request.param).WordCount
    for name in [name for name in sys.modules if name.partition(".")[0] == "blackhole_wordcount"]:
        del sys.modules[name]


def counted(release: Any, text: str) -> Totals:
    """Count ``text`` with a fresh plugin, called with the arguments it takes, as a host does."""
    plugin = release()
    offered = {"path": "a.py", "source": text}
    plugin.count(**{name: offered[name] for name in inspect.signature(plugin.count).parameters})
    return Totals(**plugin.totals())


@pytest.mark.parametrize(("text", "totals"), CASES.values(), ids=CASES)
def test_what_counts(text: str, totals: Totals) -> None:
    """Each text of the table has the counts that stand beside it."""
    assert count_plainly(text) == totals


def test_sums_are_over_all_sources() -> None:
    """The loop adds up file by file; no file, no sum."""
    assert sum_plainly([Source("a", "x\n"), Source("b", "y z\n")]) == Totals(2, 2, 3, 3)
    assert sum_plainly([]) == Totals()


@pytest.mark.parametrize("text", [text for text, _ in CASES.values()], ids=CASES)
def test_both_releases_count_as_the_plain_loop(release: Any, text: str) -> None:
    """Written independently, the plugin and the loop agree on every difficult text."""
    assert counted(release, text) == count_plainly(text)


@settings(deadline=None)  # the first example pays for imports
@given(text=st.text(alphabet=st.sampled_from("ab_9é²·名 \n\t\f\v\x1c\x85\u2028'\"\\#([{:=\0\r"), max_size=60))
def test_they_agree_on_any_text(release: Any, text: str) -> None:
    """No text, however strange, is counted differently."""
    assert counted(release, text) == count_plainly(text)


def test_they_agree_on_part_of_the_library(release: Any) -> None:
    """The first hundred files of the standard library sum up to the same."""
    sources = read_corpus(limit=100).sources
    plugin = [counted(release, source.text) for source in sources]

    assert sum(plugin, Totals()) == sum_plainly(sources)
