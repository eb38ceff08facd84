"""``docs/reference/events.md`` against every event that the package tells."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import blackhole_core

PACKAGE = Path(blackhole_core.__file__).parent
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "events.md"

#: What ``ThreadRunner._report`` adds to the events it is told to emit.
REPORTED = {"version", "thread", "stack"}

_NAME = re.compile(r"[a-z_]+\.[a-z_]+")


def _told() -> dict[str, set[str]]:
    """Return event name → names of its data, from the calls of ``emit`` in the source."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0].value
            if function in {"emit", "_emit", "_report", "tell"} and isinstance(name, str) and _NAME.fullmatch(name):
                found[name] |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                found[name] |= REPORTED if function == "_report" else set()
    return dict(found)


def _documented() -> dict[str, set[str]]:
    """Return the same from the tables of the page; what is in brackets is passed with ``**`` and not seen in the source."""
    rows = [line.split("|")[1:-1] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): set(re.findall(r"`(\w+)`", re.sub(r"\[.*?\]", "", row[-1]))) for row in rows}


def test_every_event_is_described_with_its_data() -> None:
    """A listener's author finds every name and every key on the page, and nothing that is never told."""
    assert _documented() == _told()
