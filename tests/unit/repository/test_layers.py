"""The rules about imports hold, and the checks of them can fail: each contract is broken once, in a copy of the package."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "blackhole_core"

#: Modules that only decide: no input or output, clock, thread or randomness.
PURE = (
    "executor.wire",
    "lifecycle.health",
    "lifecycle.phase",
    "lifecycle.restart",
    "manifest.check",
    "registry.resolve",
    "state.migrate",
)


def lint_imports(directory: Path, contract: str) -> str:
    """Return what import-linter prints about the package in ``directory``, judged by one contract."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache", "--no-logo"]
    run = subprocess.run(
        [*command, "--contract", contract],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return run.stdout + run.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a directory with a copy of the package that a test may break."""
    shutil.copytree(PACKAGE, tmp_path / "blackhole_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def add_import(directory: Path, module: str, statement: str) -> None:
    path = directory / "blackhole_core" / f"{module.replace('.', '/')}.py"
    path.write_text(f"{path.read_text()}\n{statement}\n")


@pytest.mark.parametrize(
    ("contract", "module", "statement", "said"),
    [
        ("layers", "ids", "import blackhole_core.messages", "blackhole_core.ids -> blackhole_core.messages"),
        (
            "layers",
            "state.migrate",
            "import blackhole_core.registry.candidate",
            "blackhole_core.state.migrate -> blackhole_core.registry.candidate",
        ),
        ("layers", "events", "from blackhole_core import PluginManager", "blackhole_core.events -> blackhole_core "),
        ("pure", "manifest.check", "import time", "blackhole_core.manifest.check -> time"),
        ("pure", "state.migrate", "import blackhole_core.events", "blackhole_core.state.migrate is not allowed to import"),
    ],
    ids=["upwards", "sibling", "from-the-front-door", "clock", "through-another-module"],
)
def test_a_contract_can_be_broken(copy: Path, contract: str, module: str, statement: str, said: str) -> None:
    """An import that a contract forbids breaks it, and the module is named."""
    add_import(copy, module, statement)
    printed = lint_imports(copy, contract)
    assert "1 broken" in printed
    assert said in printed


def test_every_pure_module_is_under_contract() -> None:
    """A module that is meant to be pure and exists is listed in the contract; a rename cannot drop it unnoticed."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (listed,) = (contract["source_modules"] for contract in contracts if contract["id"] == "pure")
    present = [
        name
        for name in PURE
        if PACKAGE.joinpath(*name.split(".")).exists() or PACKAGE.joinpath(*name.split(".")).with_suffix(".py").exists()
    ]
    missing = [name for name in present if f"blackhole_core.{name}" not in listed]
    assert not missing, f"add to source_modules of the contract 'pure' in pyproject.toml: {missing}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*/__init__.py")), ids=lambda path: str(path.parent.relative_to(PACKAGE)))
def test_a_package_imports_nothing_by_itself(path: Path) -> None:
    """Importing one module of a package does not import its neighbours: workers and start-up stay small."""
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")] == []
