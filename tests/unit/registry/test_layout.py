"""What file names say: packages, modules, places of manifests, digests, entry points."""

from __future__ import annotations

import pytest

from blackhole_core.errors import SourceError
from blackhole_core.registry.digest import code_digest
from blackhole_core.registry.entrypoints import entry_groups, parse_entry
from blackhole_core.registry.layout import belongs, manifest_places, module_file, owned_packages


@pytest.mark.parametrize(
    ("files", "packages"),
    [
        (["upper/__init__.py", "upper/a.py", "upper/b/__init__.py"], ("upper",)),
        (["upper.py"], ("upper",)),
        (["upper.cpython-311-x86_64-linux-gnu.so"], ("upper",)),
        (["upper/__init__.cpython-311-x86_64-linux-gnu.so", "upper/x.py"], ("upper",)),
        (["acme/upper/__init__.py", "acme/lower.py"], ("acme.lower", "acme.upper")),
        (["a/b/c/__init__.py", "a/b/c/d/__init__.py"], ("a.b.c",)),
        (["upper/__init__.py", "upper/data/x.py"], ("upper",)),
        (["upper-1.0.dist-info/METADATA", "upper-1.0.dist-info/x.py", "bin/my-tool.py", "README.md"], ()),
        (["/abs.py", "upper.pyc"], ()),
    ],
)
def test_owned_packages(files: list[str], packages: tuple[str, ...]) -> None:
    """Packages, modules, extension modules and parts of namespaces are owned by their dotted names."""
    assert owned_packages(files) == packages


def test_belongs() -> None:
    """A file is part of a package, is a module, or is a manifest; a README is neither."""
    packages = ("acme.upper", "lower")
    assert [
        name
        for name in ("acme/upper/x/y.txt", "acme/x.py", "lower.py", "lower.plugin.yaml", "plugin.yaml", "README.md")
        if belongs(name, packages)
    ] == [
        "acme/upper/x/y.txt",
        "lower.py",
        "lower.plugin.yaml",
        "plugin.yaml",
    ]


def test_module_file() -> None:
    """A module's file is its package's ``__init__``, the module, or an extension module."""
    files = {"a/__init__.py", "b.py", "c.cpython-311-x86_64-linux-gnu.so", "a/b.py"}
    assert [module_file(name, files) for name in ("a", "b", "c", "a.b", "d", "a.c")] == [
        "a/__init__.py",
        "b.py",
        "c.cpython-311-x86_64-linux-gnu.so",
        "a/b.py",
        None,
        None,
    ]


def test_manifest_places() -> None:
    """The nearest manifest comes first; one at the top of the import path is nobody's."""
    files = {"plugin.yaml", "a/plugin.yaml", "a/b/plugin.yaml", "a/b/c.plugin.yaml", "d.plugin.yaml"}
    assert manifest_places("a.b.c", files) == ("a/b/c.plugin.yaml", "a/b/plugin.yaml", "a/plugin.yaml")
    assert manifest_places("a.b", files) == ("a/b/plugin.yaml", "a/plugin.yaml")
    assert manifest_places("d", files) == ("d.plugin.yaml",)
    assert manifest_places("e", files) == ()


def test_digest() -> None:
    """A digest changes with a name and with a content, and not with the order."""
    one = code_digest([("a", "1"), ("b", "2")])
    assert one == code_digest([("b", "2"), ("a", "1")])
    assert len({one, code_digest([("a", "2"), ("b", "1")]), code_digest([("ab", "12")]), code_digest([("a", "1")])}) == 4


@pytest.mark.parametrize(
    ("value", "parsed"),
    [("a", ("a", "a")), ("a.b:C.d", ("a.b", "a.b:C.d")), ("a : b [extra]", ("a", "a:b"))],
)
def test_entry(value: str, parsed: tuple[str, str]) -> None:
    """An object reference is a module, or a module and an attribute; extras and blanks are dropped."""
    assert parse_entry(value) == parsed


@pytest.mark.parametrize("value", ["", "a:", ":b", "a-b:c", "a/b.py", "../a:b", "a..b", "a:b:c", "import:x", "1a"])
def test_entry_that_is_none(value: str) -> None:
    """What is no object reference is refused, with what was got."""
    with pytest.raises(SourceError, match="wanted an entry point such as package.module:attribute, got"):
        parse_entry(value)


def test_entry_points_file() -> None:
    """Groups and names keep their case; a colon in a name does not end it."""
    assert entry_groups("[notes]\nUpper = a:B\n\n[x.y]\na:b = c\n") == {"notes": {"Upper": "a:B"}, "x.y": {"a:b": "c"}}
    with pytest.raises(SourceError, match=r"entry_points.txt is not readable"):
        entry_groups("upper = a:B\n")
    with pytest.raises(SourceError, match=r"entry_points.txt is not readable"):
        entry_groups("[notes]\nupper\n")
