"""The harness of the benchmarks, as far as it measures nothing: results, ratios, tables, the chart and the page."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.__main__ import known
from benchmarks.chart import chart
from benchmarks.harness import Case, Samples, compare
from benchmarks.page import main as write_page
from benchmarks.page import missed, with_tables
from benchmarks.results import Document, Result, publish, read, scaled

PAGE = "# Fast\n\nby hand\n\n<!-- benchmarks: begin -->\nold\n<!-- benchmarks: end -->\n\nby hand, too\n"


def samples(contender: str, *seconds: float, row: str = "echo") -> Samples:
    return Samples(Case(row, contender, lambda _count: 0.0), seconds)


def document(*results: Result) -> Document:
    return Document("Calls", results, machine={"date": "2026-11-22", "cpu": "a <fast> one", "cores": "2"}, versions={"pluggy": "1.7.0"})


def test_every_benchmark_says_what_it_is_about() -> None:
    """What can be run is listed with the first words of its docstring; tools and shared parts are not."""
    listed = known()
    assert {"dispatch", "swap", "scale"} <= set(listed)
    assert not {"harness", "results", "page", "chart", "__main__"} & set(listed)
    assert all(listed.values()), listed


def test_ratios_are_taken_within_rounds() -> None:
    """The median of the rounds' ratios, not the ratio of the medians: what slows a round down slows all its contenders down."""
    report = compare("t", "ours", [samples("ours", 1e-6, 2e-6, 9e-6), samples("peer", 3e-6, 6e-6, 27e-6)], {("echo", "peer"): 2.5})
    [result] = report.document().results
    assert (result.ratio, result.beside, result.verdict) == (pytest.approx(3.0), "peer", "met")


def test_a_target_for_what_was_not_measured_is_refused() -> None:
    """A row that was renamed does not lose its target unseen."""
    with pytest.raises(ValueError, match="'ech' beside peer"):
        compare("t", "ours", [samples("ours", 1.0), samples("peer", 2.0)], {("ech", "peer"): 2.5})


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (Result("r", 5, "ms", at_most=5), "met"),
        (Result("r", 5.1, "ms", at_most=5), "missed"),
        (Result("r", 5, "ms", "p", 10, 2.0, at_least=2), "met"),
        (Result("r", 5, "ms", "p", 9, 1.8, at_least=2), "missed"),
        (Result("r", 5, "ms", "p", 9, 1.8), ""),
    ],
)
def test_the_verdict_is_the_targets(result: Result, verdict: str) -> None:
    """At the limit it is met; without a target nothing is said."""
    assert result.verdict == verdict


def test_a_missed_target_fails_only_a_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures are for people; who wants an exit status asks for it, and is told which row."""
    found = document(Result("slow", 5.1, "ms", at_most=5), Result("fine", 1, "ms", at_most=5))
    assert publish(found, to=tmp_path / "out.json", check=False) == 0
    assert publish(found, to=None, check=True) == 1
    assert "targets missed: slow (≤ 5 ms)" in capsys.readouterr().out
    assert publish(document(), to=None, check=True, lost=["row"]) == 1


def test_figures_survive_being_written(tmp_path: Path) -> None:
    """What is read back makes the same table."""
    found = document(Result("r", 5.0, "µs", "pluggy", 10.0, 2.0, 0.05, at_least=1.5, note="n"), Result("alone", 3.0, "", at_most=4))
    assert publish(found, to=tmp_path / "out.json", check=False) == 0
    again = read(json.loads((tmp_path / "out.json").read_text()))
    assert again == found


def test_one_unit_for_a_row() -> None:
    """A peer is shown in the unit of the subject."""
    assert scaled([2.5e-5, 3e-3]) == ("µs", [pytest.approx(25), pytest.approx(3000)])
    assert scaled([3e-9]) == ("ns", [pytest.approx(3)])


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    """Prose on the page is by hand, and stays."""
    assert with_tables(PAGE, "new") == PAGE.replace("old", "\nnew\n")
    for broken in ("nothing", PAGE + PAGE, PAGE.replace("begin", "start")):
        with pytest.raises(ValueError, match="once each"):
            with_tables(broken, "new")


def test_missed_targets_are_listed_once() -> None:
    """A ratio is missed beside each peer, a limit only once, and what was met is not among them."""
    rows = (
        Result("echo", 2.0, "µs", "pipe", 4.0, 2.0, at_least=5),
        Result("echo", 2.0, "µs", "rpyc", 20.0, 10.0, at_least=5),
        Result("stall", 21.0, "ms", "pipe", 1.0, 0.05, at_most=20),
        Result("stall", 21.0, "ms", "rpyc", 1.0, 0.05, at_most=20),
    )
    assert missed({"call": document(*rows)}).splitlines()[2:] == [
        "| call | echo | pipe | 2 times | ≥ 5 times |",
        "| call | stall |  | 21 ms | ≤ 20 ms |",
    ]
    assert missed({"call": document(rows[1])}) == ""


def test_a_page_is_made_of_several_runs(tmp_path: Path) -> None:
    """A second run with one benchmark keeps the others' figures; the same benchmark is replaced."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for number, names in enumerate((["calls", "swap"], ["swap"])):
        figures = {name: document(Result(f"{name} {number}", 5.0, "µs", "pluggy", 10.0, 2.0, at_least=1.5)).as_data() for name in names}
        (tmp_path / "run.json").write_text(json.dumps(figures))
        assert write_page([str(tmp_path / "run.json"), "--page", str(page)]) == 0
    text = page.read_text()
    assert "calls 0" in text
    assert "swap 1" in text
    assert "swap 0" not in text
    assert "pluggy 1.7.0" in text
    assert "by hand, too" in text
    assert ET.fromstring((tmp_path / "page.svg").read_text()).tag.endswith("svg")


def test_the_chart_shows_ratios_and_escapes_names() -> None:
    """One bar for each ratio, in the class of its verdict; rows on their own have none."""
    drawn = chart(
        [document(Result("a < b", 1, "ms", "p & q", 5, 5.0, at_least=2), Result("r", 1, "ms", "p", 0.5, 0.5), Result("s", 1, "ms"))]
    )
    tree = ET.fromstring(drawn)
    bars = [one.get("class") for one in tree.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["ground", "met", "plain"]
    assert "a < b / p & q" in [one.text for one in tree.iter("{http://www.w3.org/2000/svg}text")]
