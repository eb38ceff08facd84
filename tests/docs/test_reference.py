"""The reference says all there is and nothing else: it is compared with the code it describes."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import blackhole_core
from blackhole_core import errors
from blackhole_core.executor.launch.process import PASSED_ON
from blackhole_core.executor.runner import Limits
from blackhole_core.executor.wire import plain
from blackhole_core.executor.wire.buffers import ROWS
from blackhole_core.hookspecs import CONTRACTS, LifecycleSpecs
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.phase import TRANSITIONS, Phase
from blackhole_core.lifecycle.report import PHASES
from blackhole_core.lifecycle.restart import RestartPolicy

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

#: Attributes that are there for the library itself.
INTERNAL = {"wire"}


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def sections(text: str, level: int) -> dict[str, str]:
    """Return heading → text of the sections of one level."""
    parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip((heading.removesuffix(" †") for heading in parts[1::2]), parts[2::2], strict=True))


def first_cells(text: str) -> list[str]:
    """Return what stands in backticks in the first cell of each table row."""
    return [word for row in re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE) for word in re.findall(r"`([^`]+)`", row)]


def own_attributes(name: str) -> set[str]:
    """Return the public attributes that the class sets itself."""
    tree = ast.parse(inspect.getsource(errors))
    (body,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    targets = [node for node in ast.walk(body) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return {node.attr for node in targets} - INTERNAL


# --- errors ----------------------------------------------------------------------------------------------------------

ERROR_SECTIONS = sections(page("reference/errors.md"), 3)


def test_every_error_has_its_section() -> None:
    """The page has one section for each error class but the base."""
    assert sorted(ERROR_SECTIONS) == sorted(set(errors.__all__) - {"BlackholeError", "Problem"})


@pytest.mark.parametrize("name", ERROR_SECTIONS)
def test_an_error_is_described_as_it_is(name: str) -> None:
    """Its section says when it is raised and names exactly the attributes that it has."""
    section = ERROR_SECTIONS[name].partition("\n## ")[0]
    assert "**Raised when**" in section
    assert set(first_cells(section)) == own_attributes(name)


def test_errors_outside_the_front_door_are_marked() -> None:
    """The dagger stands at exactly the errors that ``blackhole_core`` does not offer."""
    marked = set(re.findall(r"^### (\w+) †$", page("reference/errors.md"), re.MULTILINE))
    assert marked == {name for name in ERROR_SECTIONS if name not in blackhole_core.__all__}


# --- contracts -------------------------------------------------------------------------------------------------------


def test_every_contract_has_its_section() -> None:
    """Table and sections name the contracts in the order of a plugin's life."""
    assert list(sections(page("reference/contracts.md"), 2)) == list(CONTRACTS)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_is_shown_with_its_arguments(name: str) -> None:
    """Table and section show the arguments that the spec has."""
    arguments = [argument for argument in inspect.signature(getattr(LifecycleSpecs, name)).parameters if argument != "self"]
    shown = f"`{name}({', '.join(arguments)})`"
    text = page("reference/contracts.md")
    assert f"| [{shown}]" in text
    assert sections(text, 2)[name].lstrip().startswith(shown)


# --- levels ----------------------------------------------------------------------------------------------------------


def test_every_level_has_its_row() -> None:
    """README and reference name all levels, weakest first."""
    here = sections(page("reference/levels.md"), 2)["The levels"]
    assert first_cells(here) == [level.value for level in Isolation]
    readme = sections((ROOT / "README.md").read_text("utf-8"), 2)["Levels"]
    assert first_cells(readme) == [level.value for level in Isolation]


def test_every_plain_type_has_its_row() -> None:
    """The table of what crosses names exactly the types that the wire takes."""
    kinds: set[type] = {*plain._SCALARS, *plain._SCALAR_EXTENSIONS, *plain._SEQUENCE_EXTENSIONS, *ROWS, list, dict}
    table = sections(page("reference/levels.md"), 3)["Open positions: plain data"]
    blocks = ["memoryview", "array.array", "numpy.ndarray"]
    assert sorted(first_cells(table)) == sorted([*blocks, *(kind.__name__ for kind in kinds)])


_LIMITS, _RESTART = Limits(), RestartPolicy()


@pytest.mark.parametrize(
    ("name", "said", "value"),
    [
        ("how-to/isolate-a-plugin.md", r"`call_timeout` of the configuration, which is (\S+) seconds", _LIMITS.call_timeout),
        ("how-to/isolate-a-plugin.md", r"`hang_grace` seconds longer \((\S+),", _LIMITS.hang_grace),
        ("how-to/isolate-a-plugin.md", r"More than (\S+) deaths within", _RESTART.intensity),
        ("how-to/isolate-a-plugin.md", r"deaths within (\S+)\s+seconds", _RESTART.period),
        ("explanation/isolation.md", r"`hang_grace` seconds \((\S+)\)", _LIMITS.hang_grace),
        ("explanation/isolation.md", r"then after (\S+) s,", _RESTART.delay),
        ("explanation/isolation.md", r"up to (\S+) s\.", _RESTART.max_delay),
        ("explanation/isolation.md", r"More than (\S+) deaths within", _RESTART.intensity),
        ("explanation/isolation.md", r"deaths within (\S+)\s+seconds", _RESTART.period),
        ("reference/levels.md", r"`call_timeout`, (\S+) s", _LIMITS.call_timeout),
        ("reference/levels.md", r"`hang_grace` \((\S+) s\) later", _LIMITS.hang_grace),
        ("reference/levels.md", r"at most (\S+) deep", plain.MAX_DEPTH),
        ("adr/0012-deadlines.md", r"else (\S+) seconds", _LIMITS.call_timeout),
    ],
)
def test_a_default_on_a_page_is_the_default(name: str, said: str, value: float) -> None:
    """A number that a page calls the default is what the code has."""
    numbers = re.findall(said, re.sub(r"\s+", " ", page(name)))
    assert numbers
    assert {float(number) for number in numbers} == {value}


def test_the_variables_a_worker_gets_are_those_on_the_page() -> None:
    """The guide lists exactly the environment variables that are passed on."""
    paragraph = re.search(r"A worker gets only (.+?) of the host's environment", page("how-to/isolate-a-plugin.md"), re.DOTALL)
    assert paragraph is not None
    assert set(re.findall(r"`(\w+)`", paragraph[1])) == set(PASSED_ON)


# --- phases ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module("phase_diagram").draw


def test_every_phase_has_its_row() -> None:
    """The page explains each phase, in order."""
    assert first_cells(page("reference/phases.md")) == [phase.value for phase in Phase]


def test_the_drawing_has_every_step_of_the_table(draw: Any) -> None:
    """One arrow for each transition, no other, and a box for each phase."""
    drawing = draw(TRANSITIONS)
    steps = re.findall(r'data-step="(\w+) (\w+)"', drawing)
    assert sorted(steps) == sorted((begin.value, end.value) for begin, ends in TRANSITIONS.items() for end in ends)
    assert re.findall(r">([A-Z]+)</text>", drawing) == [phase.value.upper() for phase in TRANSITIONS]


def test_a_phase_without_a_place_cannot_be_drawn(draw: Any) -> None:
    """A phase that is added to the table and not to the drawing fails the build."""
    with pytest.raises(KeyError, match="resting"):
        draw({"found": frozenset({"resting"})})


# --- the rest --------------------------------------------------------------------------------------------------------


def test_every_public_name_is_on_a_page_of_the_reference() -> None:
    """What ``blackhole_core`` offers is described."""
    text = "\n".join(path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md"))
    missing = [name for name in blackhole_core.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", text)]
    assert missing == []


def test_the_layers_of_the_architecture_are_those_that_are_checked() -> None:
    """The page's table has the layers of the import contract, in order; those in parentheses come later."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    wanted = [{part.strip(" ()") for part in layer.split("|")} for layer in layers]
    table = sections(page("explanation/architecture.md"), 2)["Layers"]
    rows = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == wanted


def test_the_phases_of_a_swap_are_explained_in_order() -> None:
    """The explanation's table has the phases that a report has."""
    order = sections(page("explanation/swap.md"), 2)["The order"]
    assert tuple(word for word in first_cells(order) if word in PHASES) == PHASES


def test_the_readme_links_to_what_is_there() -> None:
    """Each local link of the README leads to a file."""
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def commands(pattern: str) -> set[str]:
    """Return what ``pattern`` finds on all pages for users."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
    return {word for path in pages for word in re.findall(pattern, path.read_text("utf-8"))}


def test_the_nox_sessions_of_the_pages_exist() -> None:
    """Whoever types ``nox -s demo`` finds a session of that name."""
    tree = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"demo", "tests"} <= commands(r"nox -s (\w+)") <= sessions


def test_the_commands_of_the_pages_exist() -> None:
    """Whoever types ``$ blackhole swap`` finds a command of that name."""
    from click import Context

    from blackhole_core.cli.main import main

    assert commands(r"(?m)^\$ blackhole (\w+)") <= set(main.list_commands(Context(main)))
