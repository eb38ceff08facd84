"""Plugins that import one another's code: which generation of the other one a generation's imports mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from blackhole_core.loader.universe import Universe

USER = """
def lazily():
    from partner_base import WORD
    return WORD

def by_name():
    import importlib
    return importlib.import_module("partner_base").WORD

def deeper():
    import partner_base.deep
    return partner_base.deep.WORD
"""


def write_base(root: Path, word: str) -> Path:
    package = root / "partner_base"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(f"WORD = {word!r}\n")
    (package / "deep.py").write_text(f"WORD = {word!r}\n")
    return root


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    user = tmp_path / "user"
    user.mkdir()
    (user / "partner_user.py").write_text(USER)
    return write_base(tmp_path / "base", "one"), user


@pytest.mark.parametrize("function", ["lazily", "by_name", "deeper"])
def test_an_old_user_stays_with_the_old_base(roots: tuple[Path, Path], function: str) -> None:
    """While the old base lives, code that was loaded on it imports it, even at its very first lazy import after the switch."""
    base, user = roots
    old_base = Universe(["partner_base"], base, "b1")
    old_base.load("partner_base")
    old_user = Universe(["partner_user"], user, "u1")
    old = old_user.load("partner_user")
    new_base = Universe(["partner_base"], write_base(base, "two"), "b2")
    new_base.load("partner_base")
    new_user = Universe(["partner_user"], user, "u2")
    new = new_user.load("partner_user")
    try:
        assert getattr(old, function)() == "one"
        assert getattr(new, function)() == "two"
        old_base.release()
        assert getattr(old, function)() == "two", "with the old base gone, the active one is all there is"
    finally:
        for universe in (new_user, old_user, new_base, old_base):
            universe.release()


def test_a_base_that_is_put_back_is_the_users_again(roots: tuple[Path, Path]) -> None:
    """When the new base is given up, old and later code import the same old one."""
    base, user = roots
    old_base = Universe(["partner_base"], base, "b1")
    old_base.load("partner_base")
    old_user = Universe(["partner_user"], user, "u1")
    old = old_user.load("partner_user")
    new_base = Universe(["partner_base"], write_base(base, "two"), "b2")
    new_base.load("partner_base")
    new_base.release()
    try:
        assert old.lazily() == "one"  # type: ignore[attr-defined]  # the module, or object, is the test's own
    finally:
        old_user.release()
        old_base.release()


def test_a_universe_knows_whose_code_it_imports(roots: tuple[Path, Path]) -> None:
    """Only what was imported counts, and only what another plugin owns."""
    base, user = roots
    old_base = Universe(["partner_base"], base, "b1")
    old_base.load("partner_base")
    old_user = Universe(["partner_user"], user, "u1")
    old = old_user.load("partner_user")
    try:
        assert old_user.imports == set()
        old.lazily()  # type: ignore[attr-defined]  # the module, or object, is the test's own
        assert old_user.imports == {"partner_base"}
        assert old_base.imports == set()
    finally:
        old_user.release()
        old_base.release()
