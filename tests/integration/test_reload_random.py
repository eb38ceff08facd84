"""Random edits of a plugin of several modules: after each reload it answers as a fresh interpreter does that imports the same tree."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from blackhole_core.loader.universe import Universe

NAMES: Final = ("a", "b", "c", "d")
#: Shrinking starts an interpreter for every attempt; without explaining, a failure is small enough within a minute.
PHASES: Final = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]

_tags = itertools.count()

#: How one module reaches another: at import by name, by module, relatively; inside a function; through a star; through importlib.
IMPORTS: Final = {
    "name": ("from q.{m} import value as {m}_value, K as {m}_K\n", "[{m}_K, {m}_value(depth - 1)]"),
    "module": ("import q.{m}\n", "[q.{m}.K, q.{m}.value(depth - 1)]"),
    "alias": ("import q.{m} as {m}_alias\n", "[{m}_alias.K, {m}_alias.value(depth - 1)]"),
    "relative": ("from . import {m}\n", "[{m}.K, {m}.value(depth - 1)]"),
    "star": ("from q.{m} import *\n", "[{m}_only]"),
    "lazy": ("", "late('{m}', depth)"),
    "dynamic": ("import importlib\n", "[importlib.import_module('q.{m}').value(depth - 1)]"),
}


@attrs.frozen
class Module:
    """What stands in one module: a constant, what it imports and how, whether it is a package, whether it is broken."""

    constant: int
    uses: tuple[tuple[str, str], ...] = ()
    package: bool = False
    broken: str = ""

    def text(self, name: str) -> str:
        heads = [IMPORTS[how][0].format(m=other) for other, how in self.uses]
        # A package's own relative imports begin one level deeper.
        heads = [head.replace("from . import", "from .. import") if self.package else head for head in heads]
        terms = [IMPORTS[how][1].format(m=other) for other, how in self.uses]
        return (
            "".join(heads)
            + f"K = {self.constant}\n{name}_only = K\n__all__ = ['{name}_only']\n"
            + "def late(m, depth):\n    scope = {}\n    exec(f'from q.{m} import value, K', scope)\n    return [scope['K'], scope['value'](depth - 1)]\n"
            + f"def value(depth):\n    return [K, __name__ == 'q.{name}' or '@' in __name__] + (depth > 0 and [{', '.join(terms)}] or [])\n"
            + self.broken
        )


Tree = dict[str, Module]
links = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(sorted(IMPORTS))), max_size=3, unique_by=lambda link: link[0]).map(tuple)
broken = st.sampled_from(["", "", "", "", "", "", "1 / 0\n", "def (\n", "import q.nothing\n", "raise SystemExit\n"])
modules = st.builds(Module, st.integers(0, 99), links, st.booleans(), broken)
edits = st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), modules))
sequences = st.lists(st.lists(edits, min_size=1, max_size=3), min_size=1, max_size=5)

START: Final[Tree] = {"a": Module(1, (("b", "name"),)), "b": Module(2), "c": Module(3, (("a", "lazy"),))}


def files(tree: Tree) -> dict[str, str]:
    """Return the tree as files; the package imports all its modules in order."""
    imports = "".join(f"import q.{name}\n" for name in sorted(tree))
    answers = ", ".join(f"'{name}': q.{name}.value(2)" for name in sorted(tree))
    found = {"q/__init__.py": f"{imports}import q\ndef answer(): return {{{answers}}}\n"}
    for name, module in tree.items():
        found[f"q/{name}/__init__.py" if module.package else f"q/{name}.py"] = module.text(name)
    return found


def write(root: Path, tree: Tree) -> None:
    shutil.rmtree(root / "q", ignore_errors=True)
    for name, text in files(tree).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


#: Imports every tree in a process that has imported nothing: one interpreter, one fork for each.
FRESH: Final = """
import json, os, sys
sys.dont_write_bytecode = True
def outcome(function):
    try:
        return function()
    except (Exception, SystemExit) as error:
        return type(error).__name__
def load():
    import q
    return outcome(q.answer)
for root in sys.argv[1:]:
    if os.fork() == 0:
        sys.path.insert(0, root)
        print(json.dumps(outcome(load)), flush=True)
        os._exit(0)
    os.wait()
"""


def in_fresh_interpreters(roots: list[Path]) -> list[object]:
    done = subprocess.run([sys.executable, "-S", "-E", "-c", FRESH, *map(str, roots)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def outcome(function: Any) -> Any:
    try:
        return json.loads(json.dumps(function()))
    except (Exception, SystemExit) as error:
        return type(error).__name__


@settings(max_examples=40, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(sequences)
def test_after_any_edits_a_reload_answers_as_a_fresh_interpreter(sequence: list[list[tuple[str, Module | None]]]) -> None:
    """Changed, added and deleted modules, module ↔ package, every way to import, circles, errors of every kind, edited in place."""
    trees = [START]
    for changes in sequence:
        tree = {**trees[-1], **dict(changes)}  # type: ignore[dict-item]  # a test may give anything
        trees.append({name: module for name, module in tree.items() if module is not None})
    with tempfile.TemporaryDirectory() as scratch:
        roots = [Path(scratch) / str(number) for number in range(len(trees))]
        for root, tree in zip(roots, trees, strict=True):
            write(root, tree)
        compare(trees, in_fresh_interpreters(roots), Path(scratch) / "plugin")


def compare(trees: list[Tree], expected: list[object], place: Path) -> None:
    """Load each tree after the other from one place, two generations at a time, and compare each with ``expected``."""
    serving: Universe | None = None
    answer: Any = None
    answered: object = None
    try:
        for tree, wanted in zip(trees, expected, strict=True):
            write(place, tree)
            following = Universe(["q"], place, f"random-{next(_tags)}")
            new, error = load(following)
            if new is None:
                assert error == wanted
                assert serving is None or serving.active
                following.release()
            else:
                assert outcome(new) == wanted
                if serving is not None:
                    assert outcome(answer) == answered, "the generation that was replaced answers otherwise now"
                    serving.release()
                serving, answer, answered = following, new, wanted
            # Active code that looks for a module that was missing finds it when it appears on disk; all else is as it was.
            assert serving is None or answered == "ModuleNotFoundError" or outcome(answer) == answered
    finally:
        if serving is not None:
            serving.release()
    assert not [name for name in sys.modules if name == "q" or name.startswith(("q.", "q@"))]


def load(universe: Universe) -> tuple[Any, str]:
    """Return the plugin's function, or None and what was raised."""
    try:
        return universe.load("q:answer"), ""
    except (Exception, SystemExit) as error:
        return None, type(error).__name__
