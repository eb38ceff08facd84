"""Changing the names of a generation is one step: no bytecode runs while it happens, so no other thread can."""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Iterable, Iterator
from types import FrameType, ModuleType
from typing import Any

import pytest

from blackhole_core.loader.names import Names
from blackhole_core.loader.rename import Step, apply, forgetting, renaming

SOURCE = """
import enum, functools, dataclasses
class Colour(enum.Enum):
    RED = 1
class Meta(type):
    def __setattr__(cls, name, value): raise RuntimeError("plugin code ran")
class Strict(metaclass=Meta):
    class Inner: pass
    @staticmethod
    def static(): pass
@functools.lru_cache
def cached(): pass
def plain(): pass
class Proxy:
    @property
    def __class__(self): raise RuntimeError("plugin code ran")
    def __getattr__(self, name): raise RuntimeError("plugin code ran")
proxy = Proxy()
"""


@pytest.fixture
def module() -> Iterator[ModuleType]:
    module = sys.modules["acme"] = ModuleType("acme")
    exec(SOURCE, vars(module))
    yield module
    for name in ("acme", "acme@7"):
        sys.modules.pop(name, None)


def events_during(steps: Iterable[Step]) -> int:
    """Return how many bytecodes and calls the interpreter ran while the steps were applied."""
    count = 0

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += 1
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        apply(steps)
    finally:
        sys.settrace(former)
    return count


def test_no_bytecode_runs_between_the_steps(module: ModuleType) -> None:
    """Applying a whole plan runs exactly the bytecodes of applying nothing, Enum and other metaclasses included."""
    names = Names(["acme"], "7")
    plan = renaming({"acme": module}, str, names.private)
    assert len(plan) > 10
    events_during([])  # some versions of Python trace the first call less closely
    assert events_during(plan) == events_during([])


def test_everything_that_carries_the_name_is_renamed_and_back(module: ModuleType) -> None:
    """Key, __name__, classes, nested classes, functions, static methods and lru_cache wrappers follow, without running plugin code."""
    names = Names(["acme"], "7")
    carriers: list[Any] = [module.Colour, module.Strict, module.Strict.Inner, module.Strict.static, module.cached, module.plain]
    apply(renaming({"acme": module}, str, names.private))
    assert sys.modules["acme@7"] is module
    assert "acme" not in sys.modules
    assert module.__name__ == "acme@7"
    assert {carrier.__module__ for carrier in carriers} == {"acme@7"}
    apply(renaming({"acme": module}, names.private, str))
    assert sys.modules["acme"] is module
    assert "acme@7" not in sys.modules
    assert {carrier.__module__ for carrier in carriers} == {"acme"} == {module.__name__}


def test_what_was_imported_from_elsewhere_keeps_its_name(module: ModuleType) -> None:
    """Classes and functions of other packages that the module uses are not touched."""
    vars(module)["borrowed"] = enum.Enum
    vars(module)["wrapper"] = functools.wraps
    apply(renaming({"acme": module}, str, Names(["acme"], "7").private))
    assert (enum.Enum.__module__, functools.wraps.__module__) == ("enum", "functools")
    apply(forgetting(["acme"], Names(["acme"], "7").private))
    assert "acme@7" not in sys.modules


@pytest.mark.parametrize(
    ("name", "private"),
    [
        ("acme", "acme@7"),
        ("acme.core", "acme@7.core"),
        ("nsp.plug.x.y", "nsp.plug@7.x.y"),
        ("nsp", "nsp"),
        ("acmeter", "acmeter"),
        ("json", "json"),
    ],
)
def test_private_names_lead_back_to_canonical_ones(name: str, private: str) -> None:
    """The tag stands behind the owned prefix; foreign names have no private spelling."""
    names = Names(["acme", "nsp.plug"], "7")
    assert names.private(name) == private
    assert names.canonical(private) == name
    assert Names(["acme"], "8").canonical("acme@7.core") == "acme@7.core"


@pytest.mark.parametrize(
    ("package", "name", "level", "absolute"),
    [
        ("acme", "util", 1, "acme.util"),
        ("acme@7.sub", "util", 2, "acme.util"),
        ("acme@7.sub", "", 1, "acme.sub"),
        ("acme", "json", 0, "json"),
    ],
)
def test_relative_names_are_resolved_to_canonical_ones(package: str, name: str, level: int, absolute: str) -> None:
    """Dots count from the package's canonical name, whichever spelling it has at the moment."""
    assert Names(["acme"], "7").absolute(name, level, {"__package__": package}) == absolute


@pytest.mark.parametrize(
    ("namespace", "sentence"), [({}, "no known parent package"), ({"__package__": "acme"}, "beyond top-level package")]
)
def test_relative_imports_from_nowhere_fail_as_pythons_do(namespace: dict[str, Any], sentence: str) -> None:
    """A relative import outside a package, or above the top, is the same ImportError as Python's own."""
    with pytest.raises(ImportError, match=f"attempted relative import.*{sentence}"):
        Names(["acme"], "7").absolute("x", 2, namespace)
