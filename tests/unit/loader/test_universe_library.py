"""What the standard library derives from a module's name works in every generation: active, set aside, and active again."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.loader.universe import Universe

MakeUniverse = Callable[..., Universe]
WriteTree = Callable[[Path, dict[str, str]], Path]

PLUGIN = {
    "acme/__init__.py": """
        from acme.kinds import *
        def __getattr__(name):
            if name.startswith("late_"):
                import importlib
                return getattr(importlib.import_module("." + name, __name__), "V")
            raise AttributeError(name)
    """,
    "acme/late_one.py": "V = {v}\n",
    "acme/left.py": "from acme import right\nV = {v}\ndef pair():\n    return V, right.V\n",
    "acme/right.py": "from acme import left\nV = {v}\ndef pair():\n    return V, left.V\n",
    "acme/space/part.py": "V = {v}\n",
    "acme/kinds.py": '''
        from __future__ import annotations
        import collections, copy, dataclasses, enum, functools, inspect, pickle, sys, threading, typing, contextlib, abc
        __all__ = ["Item", "Shade"]
        V = {v}

        class Shade(enum.Flag):
            DARK = enum.auto()
            LIGHT = enum.auto()
        @dataclasses.dataclass(order=True)
        class Item:
            name: str = "item"
            shade: Shade = Shade.DARK
            count: typing.ClassVar[int] = {v}
        class Row(typing.NamedTuple):
            item: Item
            other: Optional = {v}
        Pair = collections.namedtuple("Pair", "a b")
        class Options(typing.TypedDict, total=False):
            item: Item
        @typing.runtime_checkable
        class Named(typing.Protocol):
            name: str
        T = typing.TypeVar("T", bound="Item")
        class Box(typing.Generic[T]):
            def get(self: Box[T]) -> T: ...
        class Base(abc.ABC):
            @abc.abstractmethod
            def run(self): ...
        class Outer:
            class Inner:
                "the inner one of {v}"
            @functools.cached_property
            def inner(self): return Outer.Inner()
        class Oops(Exception): pass
        Optional = typing.Optional[Item]
        @functools.singledispatch
        def kind(thing): return "other"
        @kind.register
        def _(thing: Item): return "item {v}"
        @kind.register
        def _(thing: Shade): return "shade {v}"

        def checks():
            """Return what each feature says, by name; every value must mention only this generation."""
            here = sys.modules[__name__]
            item = Item()
            yield "class var", [f.name for f in dataclasses.fields(Item)] == ["name", "shade"] and Item.count == {v}
            yield "replace", dataclasses.replace(item, name="x") == Item("x")
            yield "hints", typing.get_type_hints(Item)["shade"] is Shade
            yield "hints of a named tuple", typing.get_type_hints(Row)["other"] == Optional
            yield "hints of a typed dict", typing.get_type_hints(Options) == {{"item": Item}}
            yield "hints of a method", typing.get_type_hints(Box.get)["self"] == Box[T]
            yield "protocol", isinstance(item, Named) and not isinstance(3, Named)
            yield "flag", Shade(3) == Shade.DARK | Shade.LIGHT
            yield "dispatch", (kind(item), kind(Shade.DARK), kind(1)) == ("item {v}", "shade {v}", "other")
            yield "module", inspect.getmodule(Item) is here and inspect.getmodule(checks) is here
            yield "source", "the inner one of {v}" in inspect.getsource(Outer.Inner) and "item {v}" in inspect.getsource(kind.dispatch(Item))
            yield "class pickles", all(pickle.loads(pickle.dumps(c, p)) is c for c in (Item, Outer.Inner, Row, Oops, Base) for p in range(2, 6))
            values = [item, Shade.LIGHT, Shade(3), Row(item), Pair(1, 2), Options(item=item), Oops({v})]
            yield "value pickles", all(type(pickle.loads(pickle.dumps(v))) is type(v) for v in values)
            yield "copies", all(type(copy.deepcopy(v)) is type(v) for v in values)
            yield "abstract", inspect.isabstract(Base)
            from acme import left, right
            yield "circular", (left.pair(), right.pair()) == (({v}, {v}), ({v}, {v}))
            import acme, acme.space.part
            yield "namespace inside", acme.space.part.V == {v}
            yield "module getattr", acme.__getattr__("late_one") == {v}
            yield "star", acme.Item is Item and acme.Shade is Shade and not hasattr(acme, "Row")
            scope = {{}}
            exec("from acme.kinds import V as a\\nimport acme.kinds as b\\nclass C: pass", scope)
            yield "exec", (scope["a"], scope["b"].V) == ({v}, {v})
            found = []
            thread = threading.Thread(target=lambda: found.append(__import__("acme.kinds").kinds.V))
            thread.start(); thread.join()
            yield "thread", found == [{v}]
            with contextlib.suppress(Oops):
                raise Oops
            yield "type of generic", Box[Item].__args__ == (Item,)
    ''',
}


@pytest.fixture
def place(tmp_path: Path, write_tree: WriteTree) -> Callable[[int], Path]:
    def write(v: int) -> Path:
        return write_tree(
            tmp_path / str(v),
            {name: textwrap.dedent(text).format(v=v) if "{v}" in text else textwrap.dedent(text) for name, text in PLUGIN.items()},
        )

    return write


def failing(kinds: Any) -> list[str]:
    checks: Iterator[tuple[str, bool]] = kinds.checks()
    return [name for name, holds in checks if not holds]


@pytest.mark.parametrize("fresh", [True, False], ids=["development", "store"])
def test_every_feature_in_every_standing(fresh: bool, make_universe: MakeUniverse, place: Callable[[int], Path]) -> None:
    """Active, replaced while the newer is active, and active again after an abort: nothing answers for the other generation."""
    old = make_universe(("acme",), place(1), fresh=fresh)
    first: Any = old.load("acme.kinds")
    assert failing(first) == []
    new = make_universe(("acme",), place(2), fresh=fresh)
    second: Any = new.load("acme.kinds")
    for kinds in (first, second, first):
        assert failing(kinds) == []
    new.release()
    assert failing(first) == []
    assert inspect.getmodule(first.Item) is sys.modules["acme.kinds"]


def test_features_used_for_the_first_time_when_set_aside(make_universe: MakeUniverse, place: Callable[[int], Path]) -> None:
    """Nothing of it had been touched before the switch: no type hint resolved, no class pickled, no submodule imported."""
    first: Any = make_universe(("acme",), place(1)).load("acme.kinds")
    second: Any = make_universe(("acme",), place(2)).load("acme.kinds")
    assert failing(first) == []
    assert failing(second) == []


def test_what_the_active_generation_pickles_is_portable(make_universe: MakeUniverse, place: Callable[[int], Path]) -> None:
    """The bytes carry canonical names only, and the host's own imports and pickles mean the active generation."""
    make_universe(("acme",), place(1)).load("acme.kinds")
    second: Any = make_universe(("acme",), place(2)).load("acme.kinds")
    data = pickle.dumps([second.Item(), second.Shade.DARK, second.Row(second.Item())])
    assert b"@" not in data
    assert type(pickle.loads(data)[0]) is importlib.import_module("acme.kinds").Item is second.Item
