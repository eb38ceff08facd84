"""Edits of every kind, each as a plugin before and after, reloaded through the manager; the table in the docs is made from this list.

``python tests/integration/test_reload_scenarios.py`` writes the table into ``docs/explanation/what-reload-does.md``.
"""

from __future__ import annotations

import string
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

import blackhole_core as bh
from blackhole_core.errors import LoadFailed, SwapFailed
from blackhole_core.loader import leaks

PAGE: Final = Path(__file__).parents[2] / "docs" / "explanation" / "what-reload-does.md"
BEGIN: Final = "<!-- the table: made by tests/integration/test_reload_scenarios.py -->\n"
END: Final = "<!-- end of the table -->\n"

hookspec = bh.HookspecMarker("scenarios")


class Specs:
    @hookspec
    def answer(self) -> object: ...

    @hookspec
    def hold(self) -> object: ...

    @hookspec
    def extra(self) -> object: ...


#: The plugin's own class: it asks ``p/ask.py``, so that no scenario is about the plugin object.
ENTRY: Final = """
import blackhole_core as bh
from p import ask
hookimpl = bh.HookimplMarker("scenarios")
class Plugin:
    @hookimpl
    def answer(self): return ask.answer()
    @hookimpl
    def hold(self): return ask.hold()
"""

#: What host-kept code gets that imports for the first time after its generation has been released.
RELEASED: Final = "ImportError"

Files = Mapping[str, str | bytes | None]


@attrs.frozen
class Scenario:
    """One edit. Files are named as modules of the plugin's package ``p`` (``sub/a`` is ``p/sub/a.py``); None deletes one.

    ``ask`` is an expression over the modules of ``p`` that it names; ``kept`` is one whose value, a callable, the host keeps from before the edit.
    """

    name: str
    group: str
    edit: str
    before: Files
    after: Files
    ask: str
    old: object
    new: object
    kept: str = ""  #: an expression that gives a callable; level none only, a worker hands out no objects
    still: object = None  #: what the kept callable answers after the edit
    leak: str = ""  #: what the report says of what stays behind; level none only, a worker takes everything along
    error: str = ""  #: the edit cannot be loaded: what the error mentions
    note: str = ""


def source(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else textwrap.dedent(text).encode()


CLASS = "class C:\n    def m(self): return 1\n"
SCENARIOS: list[Scenario] = []


def scenario(
    group: str, name: str, edit: str, before: Files | str, after: Files | str, ask: str, old: object, new: object, **more: Any
) -> None:
    """Add one; plain text is the module ``a``."""
    both = [{"a": tree} if isinstance(tree, str) else tree for tree in (before, after)]
    SCENARIOS.append(Scenario(name, group, edit, both[0], both[1], ask, old, new, **more))


# fmt: off
# --- functions --------------------------------------------------------------------------------------------------------------

F1, F2 = "def f(): return 1\n", "def f(): return 2\n"
FUNCTIONS = "Functions"
scenario(FUNCTIONS, 'body', 'the body of a function', F1, F2, 'a.f()', 1, 2, kept='a.f', still=1)
scenario(FUNCTIONS, 'added', 'a function is added', F1, F1 + 'def g(): return 2\n', "[hasattr(a, 'g'), a.f()]", [False, 1], [True, 1])
scenario(FUNCTIONS, 'removed', 'a function is removed', F1 + 'def g(): return 1\n', F1, "hasattr(a, 'g')", True, False, kept='a.g', still=1)
scenario(FUNCTIONS, 'renamed', 'a function is renamed', F1, 'def g(): return 2\n', "[name for name in ('f', 'g') if hasattr(a, name)]", ['f'], ['g'])
scenario(FUNCTIONS, 'moved', 'ten lines above a function', F1, '# c\n' * 10 + F1, 'a.f.__code__.co_firstlineno', 1, 11, kept='lambda f=a.f: f.__code__.co_firstlineno', still=1)
scenario(FUNCTIONS, 'default', 'a default value', 'def f(x=1): return x\n', 'def f(x=2): return x\n', 'a.f()', 1, 2, kept='a.f', still=1)
scenario(FUNCTIONS, 'signature', 'a parameter is added', 'def f(x): return x\n', 'def f(x, y): return x + y\n', 'a.f.__code__.co_argcount', 1, 2, kept='lambda f=a.f: f(5)', still=5)
scenario(FUNCTIONS, 'docstring', 'a docstring', 'def f():\n    "one"\n', 'def f():\n    "two"\n', 'a.f.__doc__', 'one', 'two')
scenario(FUNCTIONS, 'annotations', 'an annotation', "def f(x: 'int'): ...\n", "def f(x: 'str'): ...\n", "__import__('typing').get_type_hints(a.f)['x'].__name__", 'int', 'str')
scenario(FUNCTIONS, 'future_annotations', '`from __future__ import annotations` is added', 'def f(x: int): ...\n', 'from __future__ import annotations\ndef f(x: int): ...\n', "repr(a.f.__annotations__['x'])", "<class 'int'>", "'int'")
scenario(FUNCTIONS, 'to_generator', 'a function becomes a generator', F1, 'def f(): yield 2\n', 'list(a.f()) if not isinstance(a.f(), int) else a.f()', 1, [2])
scenario(FUNCTIONS, 'to_coroutine', 'a function becomes a coroutine', F1, 'async def f(): return 2\n', "__import__('inspect').iscoroutinefunction(a.f)", False, True)
scenario(FUNCTIONS, 'lambda_in_table', 'a lambda in a table', "T = {'k': lambda: 1}\n", "T = {'k': lambda: 2}\n", "a.T['k']()", 1, 2, kept="a.T['k']", still=1)
scenario(FUNCTIONS, 'comment', 'only a comment', F1, '# new\n' + F1, 'a.f()', 1, 1, note='loaded all the same: line numbers moved')
scenario(FUNCTIONS, 'global_name', 'a helper that a kept function calls by name', 'def h(): return 1\ndef f(): return h()\n', 'def h(): return 2\ndef f(): return h()\n', 'a.f()', 1, 2, kept='a.f', still=1)
scenario(FUNCTIONS, 'partial', 'a function in a kept `functools.partial`', 'def f(x): return [1, x]\n', 'def f(x): return [2, x]\n', 'a.f(5)', [1, 5], [2, 5], kept="__import__('functools').partial(a.f, 5)", still=[1, 5])

# --- classes ----------------------------------------------------------------------------------------------------------------

CLASSES = "Classes"
scenario(CLASSES, 'method', 'the body of a method', CLASS, CLASS.replace('1', '2'), 'a.C().m()', 1, 2, kept='lambda c=a.C(): c.m()', still=1)
scenario(CLASSES, 'method_added', 'a method is added', CLASS, CLASS + '    def n(self): return 2\n', "hasattr(a.C(), 'n')", False, True, kept="lambda c=a.C(): hasattr(c, 'n')", still=False)
scenario(CLASSES, 'method_removed', 'a method is removed', CLASS + '    def n(self): return 1\n', CLASS, "hasattr(a.C(), 'n')", True, False, kept='lambda c=a.C(): c.n()', still=1)
scenario(CLASSES, 'method_renamed', 'a method is renamed', CLASS, CLASS.replace('m(', 'n('), "[n for n in ('m', 'n') if hasattr(a.C(), n)]", ['m'], ['n'], kept='lambda c=a.C(): c.m()', still=1)
scenario(CLASSES, 'bound_method', 'a method whose bound object is kept', CLASS, CLASS.replace('1', '2'), 'a.C().m()', 1, 2, kept='a.C().m', still=1)
scenario(CLASSES, 'attribute', 'a class attribute', 'class C: x = 1\n', 'class C: x = 2\n', 'a.C.x', 1, 2, kept='lambda c=a.C(): c.x', still=1)
scenario(CLASSES, 'renamed', 'a class is renamed', 'class C: pass\n', 'class D: pass\n', "[n for n in ('C', 'D') if hasattr(a, n)]", ['C'], ['D'])
scenario(CLASSES, 'init_attribute', '`__init__` sets one attribute more, and a method uses it', 'class C:\n    def m(self): return 1\n', 'class C:\n    def __init__(self): self.y = 2\n    def m(self): return self.y\n', 'a.C().m()', 1, 2, kept='lambda c=a.C(): c.m()', still=1)
scenario(CLASSES, 'property_to_method', 'a property becomes a method', 'class C:\n    @property\n    def m(self): return 1\n', 'class C:\n    def m(self): return 2\n', 'a.C().m if isinstance(a.C().m, int) else a.C().m()', 1, 2, kept='lambda c=a.C(): c.m', still=1)
scenario(CLASSES, 'static_to_class', 'a staticmethod becomes a classmethod', "class C:\n    @staticmethod\n    def m(): return 'C'\n", "class C:\n    @classmethod\n    def m(cls): return cls.__name__ + '!'\n", 'a.C.m()', 'C', 'C!')
scenario(CLASSES, 'bases', 'a base class is added', 'class B:\n    def n(self): return 9\nclass C: pass\n', 'class B:\n    def n(self): return 9\nclass C(B): pass\n', '[b.__name__ for b in a.C.__mro__]', ['C', 'object'], ['C', 'B', 'object'], kept="lambda c=a.C(): hasattr(c, 'n')", still=False)
scenario(CLASSES, 'base_in_other_module', 'a method of a base class in another module', {'a': CLASS, 'b': 'from p.a import C\nclass D(C): pass\n'}, {'a': CLASS.replace('1', '2')}, 'b.D().m()', 1, 2, kept='lambda d=b.D(): d.m()', still=1)
SUPER = "class B:\n    def m(self): return 1\nclass C(B):\n    def m(self): return super().m() + 10\n"
scenario(CLASSES, 'super', 'a method with zero-argument `super()`', SUPER, SUPER.replace('10', '20'), 'a.C().m()', 11, 21, kept='lambda c=a.C(): c.m()', still=11)
META = "class M(type):\n    def __call__(cls): return {v}\nclass C(metaclass=M): pass\n"
scenario(CLASSES, 'metaclass', 'a metaclass', META.format(v=1), META.format(v=2), 'a.C()', 1, 2, kept='a.C', still=1)
scenario(CLASSES, 'metaclass_added', 'a class gets a metaclass', 'class C: pass\n', 'class M(type): pass\nclass C(metaclass=M): pass\n', 'type(a.C).__name__', 'type', 'M')
SLOTS = "class C:\n    __slots__ = ({names})\n    def __init__(self):\n        for name in self.__slots__: setattr(self, name, name)\n    def m(self): return [getattr(self, n) for n in self.__slots__]\n"
scenario(CLASSES, 'slots', '`__slots__` grows', SLOTS.format(names="'x',"), SLOTS.format(names="'x', 'y'"), 'a.C().m()', ['x'], ['x', 'y'], kept='lambda c=a.C(): c.m()', still=['x'])
DC = "import dataclasses\n@dataclasses.dataclass\nclass C:\n    x: int = 1\n"
scenario(CLASSES, 'dataclass_field', 'a dataclass field is added', DC, DC + "    y: 'int' = 2\n", 'repr(a.C())', 'C(x=1)', 'C(x=1, y=2)', kept='lambda c=a.C(): repr(c)', still='C(x=1)')
scenario(CLASSES, 'dataclass_slots', 'a dataclass gets `slots=True`', DC, DC.replace('dataclass\n', 'dataclass(slots=True)\n'), "hasattr(a.C(), '__dict__')", True, False, kept='lambda c=a.C(): repr(c)', still='C(x=1)')
NT = "import typing\nclass C(typing.NamedTuple):\n    x: int = 1\n"
scenario(CLASSES, 'namedtuple_field', 'a NamedTuple field is added', NT, NT + '    y: int = 2\n', 'list(a.C())', [1], [1, 2], kept='lambda c=a.C(): repr(c)', still='C(x=1)')
TD = "import typing\nclass C(typing.TypedDict):\n    x: 'int'\n"
scenario(CLASSES, 'typeddict_key', 'a TypedDict key is added', TD, TD + "    y: 'str'\n", "sorted(__import__('typing').get_type_hints(a.C))", ['x'], ['x', 'y'])
PR = "import typing\n@typing.runtime_checkable\nclass P(typing.Protocol):\n    def m(self): ...\nclass C:\n    def {name}(self): ...\n"
scenario(CLASSES, 'protocol', 'what a runtime protocol is checked against', PR.format(name='n'), PR.format(name='m'), 'isinstance(a.C(), a.P)', False, True)
EN = "import enum\nclass E(enum.Enum):\n    A = 1\n"
scenario(CLASSES, 'enum_value', 'the value of an enum member', EN, EN.replace('1', '5'), '[a.E.A.value, a.E(a.E.A.value).name]', [1, 'A'], [5, 'A'], kept='lambda e=a.E.A: e.value', still=1)
scenario(CLASSES, 'enum_member_added', 'an enum member is added', EN, EN + '    B = 2\n', '[e.name for e in a.E]', ['A'], ['A', 'B'])
scenario(CLASSES, 'enum_member_removed', 'an enum member is removed', EN + '    B = 2\n', EN, '[e.name for e in a.E]', ['A', 'B'], ['A'], kept='lambda e=a.E.B: e.name', still='B')
scenario(CLASSES, 'nested', 'a nested class', 'class C:\n    class D:\n        x = 1\n', 'class C:\n    class D:\n        x = 2\n', 'a.C.D.x', 1, 2)
scenario(CLASSES, 'abstract', 'an abstract method is added', 'import abc\nclass C(abc.ABC): pass\n', 'import abc\nclass C(abc.ABC):\n    @abc.abstractmethod\n    def m(self): ...\n', 'sorted(a.C.__abstractmethods__)', [], ['m'])
scenario(CLASSES, 'generic', 'a generic class', "import typing\nT = typing.TypeVar('T')\nclass C(typing.Generic[T]):\n    x = 1\n", "import typing\nT = typing.TypeVar('T')\nclass C(typing.Generic[T]):\n    x = 2\n", 'a.C[int]().x', 1, 2)
scenario(CLASSES, 'isinstance', 'an instance from before the edit, asked by the new code', {'a': 'class C: pass\n', 'ask': "from p import a\ndef answer(): return 1\ndef hold():\n    import sys\n    c = a.C()\n    return lambda: isinstance(c, sys.modules['p.a'].C)\n"}, {'a': 'class C: x = 2\n', 'ask': 'from p import a\ndef answer(): return 2\n'}, '', 1, 2, kept='-', still=False, note='two classes of one name; share types through a package no plugin owns')
scenario(CLASSES, 'descriptor', 'a descriptor in another module', {'d': 'class D:\n    def __get__(self, obj, cls): return 1\n', 'a': 'from .d import D\nclass C:\n    x = D()\n'}, {'d': 'class D:\n    def __get__(self, obj, cls): return 2\n'}, 'a.C().x', 1, 2, kept='lambda c=a.C(): c.x', still=1)

# --- decorators, caches, registries -----------------------------------------------------------------------------------------

DECORATORS = "Decorators, caches and registries"
DECO = "import functools\ndef deco(fn):\n    @functools.wraps(fn)\n    def w(*x): return ['{d}', fn(*x)]\n    return w\n"
USE = "from p.d import deco\n@deco\ndef f(): return {v}\n"
scenario(DECORATORS, 'decorated_body', 'the body of a decorated function', {'d': DECO.format(d='d'), 'a': USE.format(v=1)}, {'a': USE.format(v=2)}, 'a.f()', ['d', 1], ['d', 2], kept='a.f', still=['d', 1])
scenario(DECORATORS, 'decorator_itself', 'a decorator in another module', {'d': DECO.format(d='d'), 'a': USE.format(v=1)}, {'d': DECO.format(d='e')}, 'a.f()', ['d', 1], ['e', 1], kept='a.f', still=['d', 1])
scenario(DECORATORS, 'decorator_removed', 'a decorator is taken away', {'d': DECO.format(d='d'), 'a': USE.format(v=1)}, {'a': F2}, 'a.f()', ['d', 1], 2)
scenario(DECORATORS, 'class_decorator', 'a class decorator', 'def deco(c):\n    c.x = 1\n    return c\n@deco\nclass C: pass\n', 'def deco(c):\n    c.x = 2\n    return c\n@deco\nclass C: pass\n', 'a.C.x', 1, 2)
LRU = "import functools\nruns = []\n@functools.lru_cache\ndef f(x):\n    runs.append(x)\n    return [{v}, x]\n"
scenario(DECORATORS, 'lru_cache', 'a cached function, after it has cached', {'a': LRU.format(v=1), 'ask': 'from p import a\ndef answer(): return [a.f(7), a.f(7), len(a.runs)]\n'}, {'a': LRU.format(v=2)}, '', [[1, 7], [1, 7], 1], [[2, 7], [2, 7], 1], note='the cache begins empty')
CP = "import functools\nclass C:\n    @functools.cached_property\n    def x(self): return {v}\n"
scenario(DECORATORS, 'cached_property', 'a cached property', CP.format(v=1), CP.format(v=2), 'a.C().x', 1, 2, kept='lambda c=a.C(): c.x', still=1)
CM = "import contextlib\n@contextlib.contextmanager\ndef c():\n    yield {v}\ndef f():\n    with c() as x: return x\n"
scenario(DECORATORS, 'context_manager', 'a context manager', CM.format(v=1), CM.format(v=2), 'a.f()', 1, 2, kept='a.f', still=1)
SD = "import functools\n@functools.singledispatch\ndef f(x): return 'other'\n"
scenario(DECORATORS, 'singledispatch', 'a `singledispatch` implementation is added', {'a': SD, 'b': ''}, {'b': "from p.a import f\n@f.register\ndef _(x: int): return 'int'\n"}, 'a.f(1) if b else 0', 'other', 'int', kept='lambda f=a.f: f(1)', still='other')
REG = {'a': 'class Base:\n    known = []\n    def __init_subclass__(cls): Base.known.append(cls.x)\n', 'b': 'from p.a import Base\nclass C(Base): x = 1\n'}
scenario(DECORATORS, 'init_subclass', 'a class that registers itself (`__init_subclass__`)', REG, {'b': 'from p.a import Base\nclass C(Base): x = 2\n'}, 'a.Base.known if b else 0', [1], [2], note='registered once, not twice')
scenario(DECORATORS, 'registry', 'a function that registers itself in a list of the plugin', {'r': 'known = []\n', 'a': 'from p import r\n@r.known.append\ndef f(): return 1\n'}, {'a': 'from p import r\n@r.known.append\ndef g(): return 2\n'}, '[f() for f in r.known] if a else 0', [1], [2], note='the list begins empty')
scenario(DECORATORS, 'registry_shrinks', 'a registration is taken away', {'r': 'known = {}\n', 'a': "from p.r import known\nknown['x'] = 1\nknown['y'] = 2\n"}, {'a': "from p.r import known\nknown['x'] = 1\n"}, 'sorted(r.known) if a else 0', ['x', 'y'], ['x'])

# --- closures and what is in flight ------------------------------------------------------------------------------------------

KEPT = "its generation was released when its calls had ended; a call under way keeps it"
FLIGHT = "Closures and calls in flight"
scenario(FLIGHT, 'closure', 'a factory whose closure is kept', "def make(x):\n    def inner(): return ['v1', x]\n    return inner\n", "def make(x):\n    def inner(): return ['v2', x]\n    return inner\n", 'a.make(5)()', ['v1', 5], ['v2', 5], kept='a.make(5)', still=['v1', 5])
GEN = "def h(): return {v}\ndef g():\n    while True: yield h()\n"
scenario(FLIGHT, 'generator', 'a generator that is under way', GEN.format(v=1), GEN.format(v=2), 'next(a.g())', 1, 2, kept='(lambda g: (next(g), g)[1].__next__)(a.g())', still=1)
CORO = "import types\n@types.coroutine\ndef pause(): yield\ndef h(): return {v}\nasync def c():\n    await pause()\n    from p.late import L\n    return [h(), L]\ndef finish(c):\n    try: c.send(None)\n    except StopIteration as end: return end.value\ndef whole():\n    c_ = c()\n    c_.send(None)\n    return finish(c_)\n"
scenario(FLIGHT, 'coroutine', 'a coroutine that is suspended, and then imports', {'a': CORO.format(v=1), 'late': 'L = 1\n'}, {'a': CORO.format(v=2), 'late': 'L = 2\n'}, 'a.whole()', [1, 1], [2, 2], kept='(lambda c, f=a.finish: (c.send(None), lambda: f(c))[1])(a.c())', still=RELEASED, note=KEPT)
AGEN = "def h(): return {v}\nasync def g():\n    while True: yield h()\ndef one(g):\n    try: g.__anext__().send(None)\n    except StopIteration as end: return end.value\n"
scenario(FLIGHT, 'async_generator', 'an asynchronous generator that is under way', AGEN.format(v=1), AGEN.format(v=2), 'a.one(a.g())', 1, 2, kept='(lambda g, one=a.one: (one(g), lambda: one(g))[1])(a.g())', still=1)
scenario(FLIGHT, 'lazy_import', 'a module that a kept function has not imported yet', {'a': 'def f():\n    from p.late import L\n    from .late import L as M\n    return [L, M]\n', 'late': 'L = 1\n'}, {'late': 'L = 2\n'}, 'a.f()', [1, 1], [2, 2], kept='a.f', still=RELEASED)
scenario(FLIGHT, 'lazy_import_module', 'the same through `importlib.import_module`', {'a': "import importlib\ndef f(): return importlib.import_module('p.late').L\n", 'late': 'L = 1\n'}, {'late': 'L = 2\n'}, 'a.f()', 1, 2, kept='a.f', still=RELEASED)
scenario(FLIGHT, 'lazy_exec', 'the same in `exec`', {'a': "def f():\n    scope = {}\n    exec('from p.late import L', scope)\n    return scope['L']\n", 'late': 'L = 1\n'}, {'late': 'L = 2\n'}, 'a.f()', 1, 2, kept='a.f', still=RELEASED)
THREAD = "import threading\nfrom p import late\ndef f():\n    out = []\n    def run():\n        from p.late import L\n        out.append(L)\n    t = threading.Thread(target=run)\n    t.start()\n    t.join()\n    return out[0]\n"
scenario(FLIGHT, 'lazy_thread', 'the same in a thread', {'a': THREAD, 'late': 'L = 1\n'}, {'late': 'L = 2\n'}, 'a.f()', 1, 2)
scenario(FLIGHT, 'deleted_lazy', 'a module that a kept function has not imported yet is deleted', {'a': 'def f():\n    from p.late import L\n    return L\n', 'late': 'L = 1\n'}, {'a': F2, 'late': None}, 'a.f()', 1, 2, kept='a.f', still=RELEASED)

# --- modules ----------------------------------------------------------------------------------------------------------------

MODULES = "Modules and names"
K = "from p.a import K\ndef g(): return K\n"
scenario(MODULES, 'constant_imported', 'a constant that another module imported by name', {'a': 'K = 1\n', 'b': K}, {'a': 'K = 2\n'}, 'b.g()', 1, 2, kept='b.g', still=1)
scenario(MODULES, 'derived', 'a constant from which another module computed one', {'a': 'K = 1\n', 'b': 'from p import a\nD = a.K * 10\n'}, {'a': 'K = 2\n'}, 'b.D', 10, 20)
scenario(MODULES, 'constant_removed', 'a constant is removed', 'K = 1\nX = 2\n', 'X = 2\n', "hasattr(a, 'K')", True, False)
scenario(MODULES, 'reexport', 'a function that the package re-exports', {'__init__': 'from p.a import f\n', 'a': F1}, {'a': F2}, "__import__('p').f()", 1, 2)
scenario(MODULES, 'reexport_added', 'the package re-exports one name more', {'__init__': '', 'a': F1}, {'__init__': 'from .a import f\n'}, "hasattr(__import__('p'), 'f')", False, True)
scenario(MODULES, 'star', '`__all__` of a star import', {'a': "__all__ = ['x']\nx, y = 1, 2\n", 'b': 'from p.a import *\n'}, {'a': "__all__ = ['x', 'y']\nx, y = 1, 2\n"}, "[hasattr(b, 'x'), hasattr(b, 'y')]", [True, False], [True, True])
scenario(MODULES, 'shared_list', 'a list that two modules share', {'a': 'L = []\ndef f(): return 1\n', 'b': 'from p.a import L\nL.append(7)\n'}, {'a': 'L = []\ndef f(): return 2\n'}, '[b.L is a.L, a.L, a.f()]', [True, [7], 1], [True, [7], 2])
scenario(MODULES, 'import_effects', 'what a module does when it is imported', {'a': 'K = 1\n', 'b': 'from p import a\nruns = [a.K]\n'}, {'a': 'K = 2\n'}, 'b.runs', [1], [2], note='every module runs again, once')
scenario(MODULES, 'run_time_state', 'the initial value of a global that was counted up', {'a': 'n = 0\ndef up():\n    global n\n    n += 1\n    return n\n', 'ask': 'from p import a\ndef answer(): return [a.up(), a.up()][-1]\n'}, {'a': 'n = 100\ndef up():\n    global n\n    n += 1\n    return n\n'}, '', 2, 102, note='globals begin anew; what must survive goes through `plugin_export_state`')
scenario(MODULES, 'circular', 'modules that import each other', {'a': 'from p import b\ndef f(): return 1\n', 'b': 'from p import a\ndef g(): return [a.f(), 10]\n'}, {'a': 'from p import b\ndef f(): return 2\n'}, 'b.g()', [1, 10], [2, 10], kept='b.g', still=[1, 10])
scenario(MODULES, 'new_module', 'a module is added and imported', {'a': F1}, {'a': 'from .new import X\ndef f(): return X\n', 'new': 'X = 5\n'}, 'a.f()', 1, 5)
scenario(MODULES, 'new_package', 'a package is added and imported', {'a': F1}, {'a': 'from p.s.t import X\ndef f(): return X\n', 's/__init__': '', 's/t': 'X = 5\n'}, 'a.f()', 1, 5)
scenario(MODULES, 'module_deleted', 'a module is deleted', {'a': F1, 'b': 'X = 1\n', 'ask': "import importlib.util\nfrom p import a\ndef answer(): return [a.f(), importlib.util.find_spec('p.b') is not None]\n"}, {'a': F2, 'b': None}, '', [1, True], [2, False])
scenario(MODULES, 'module_renamed', 'a module is renamed', {'a': F1, 'b': 'from p import a\ndef g(): return a.f()\n', 'ask': "import sys\nfrom p import b\ndef answer(): return [b.g(), 'p.a' in sys.modules]\n"}, {'a': None, 'a2': F2, 'b': 'from p import a2\ndef g(): return a2.f()\n'}, '', [1, True], [2, False])
scenario(MODULES, 'module_to_package', 'a module becomes a package', {'a': F1}, {'a': None, 'a/__init__': 'from .inner import f\n', 'a/inner': F2}, 'a.f()', 1, 2, kept='a.f', still=1)
scenario(MODULES, 'package_to_module', 'a package becomes a module', {'a/__init__': 'from .inner import f\n', 'a/inner': F1}, {'a/__init__': None, 'a/inner': None, 'a': F2}, 'a.f()', 1, 2, kept='a.f', still=1)
scenario(MODULES, 'submodule_deep', 'a module two packages down, by relative imports', {'s/__init__': '', 's/t/__init__': '', 's/t/u': 'from ... import a\nfrom ..v import V\ndef f(): return [a.K, V]\n', 's/v': 'V = 1\n', 'a': 'K = 1\n'}, {'s/v': 'V = 2\n', 'a': 'K = 2\n'}, "__import__('p.s.t.u').s.t.u.f()", [1, 1], [2, 2])
scenario(MODULES, 'module_getattr', 'a module `__getattr__`', 'def __getattr__(name):\n    from p.b import K\n    return [name, K]\n', "def __getattr__(name):\n    from p.b import K\n    return [name, K, 'new']\n", 'a.anything', ['anything', 1], ['anything', 1, 'new'])
SCENARIOS[-1] = attrs.evolve(SCENARIOS[-1], before={**SCENARIOS[-1].before, "b": "K = 1\n"})
scenario(MODULES, 'optional_import', 'a module for which another had a fall-back appears', {'a': "try:\n    from p.fast import V\nexcept ImportError:\n    V = 'slow'\n"}, {'fast': "V = 'fast'\n"}, 'a.V', 'slow', 'fast')
scenario(MODULES, 'logger', 'a module with a logger', 'import logging\nlog = logging.getLogger(__name__)\nV = 1\n', 'import logging\nlog = logging.getLogger(__name__)\nV = 2\n', '[a.log.name, a.V]', ['p.a', 1], ['p.a', 2], note='names of loggers stay canonical')
scenario(MODULES, 'own_module', '`sys.modules[__name__]` in a kept function', 'import sys\nV = 1\ndef f(): return sys.modules[__name__].V\n', 'import sys\nV = 2\ndef f(): return sys.modules[__name__].V\n', 'a.f()', 1, 2, kept='a.f', still='KeyError', note='a released generation is not in `sys.modules`')
scenario(MODULES, 'written_out_module', "`sys.modules['p.a']`, written out, in a kept function", "import sys\nV = 1\ndef f(): return sys.modules['p.a'].V\n", "import sys\nV = 2\ndef f(): return sys.modules['p.a'].V\n", 'a.f()', 1, 2, kept='a.f', still=2, note='nobody is asked, so it is the active generation: write `import`')
scenario(MODULES, 'encoding', 'the encoding of a file', "V = 'ä'\n", "# coding: latin-1\nV = 'ö'\n".encode('latin-1').decode('latin-1'), 'a.V', 'ä', 'ö')
SCENARIOS[-1] = attrs.evolve(SCENARIOS[-1], after={"a": "# coding: latin-1\nV = 'ö'\n".encode("latin-1")})
scenario(MODULES, 'emptied', 'a module becomes empty', {'a': F1, 'ask': "from p import a\ndef answer(): return hasattr(a, 'f')\n"}, {'a': ''}, '', True, False)
scenario(MODULES, 'data_file', 'package data', {'a': "import importlib.resources\ndef f(): return importlib.resources.files('p').joinpath('words.txt').read_text()\n", 'words.txt': 'one'}, {'words.txt': 'two'}, 'a.f()', 'one', 'two', note='data is read from disk when it is asked for, only source text is kept')
PICK = "import pickle\nclass C:\n    def m(self): return {v}\n"
scenario(MODULES, 'pickle', 'an instance pickled before the edit, read after it', {'a': PICK.format(v=1), 'ask': "import pickle\nfrom p import a\ndef answer(): return pickle.loads(b'cp.a\\nC\\n(tR.').m()\n"}, {'a': PICK.format(v=2)}, '', 1, 2)
scenario(MODULES, 'source_shown', '`inspect.getsource` of a kept function', 'def f(): return 1  # one\n', 'def f(): return 2  # two\n', "__import__('inspect').getsource(a.f).split('# ')[1]", 'one\n', 'two\n', kept="lambda f=a.f: __import__('inspect').getsource(f).split('# ')[1]", still='one\n')
TB = "def f(): raise ValueError  # {v}\ndef line():\n    import traceback\n    try: f()\n    except ValueError as e: return [traceback.extract_tb(e.__traceback__)[-1].lineno, traceback.extract_tb(e.__traceback__)[-1].line[-3:]]\n"
scenario(MODULES, 'traceback', 'ten lines above code that raises', TB.format(v='one'), '#\n' * 10 + TB.format(v='two'), 'a.line()', [1, 'one'], [11, 'two'], kept='a.line', still=[1, 'one'])
scenario(MODULES, 'two_files', "two files together, each needing the other's new text", {'a': 'def f(): return 1\n', 'z': 'from p.a import f\ndef g(): return f()\n'}, {'a': 'def f2(): return 2\n', 'z': 'from p.a import f2\ndef g(): return f2()\n'}, 'z.g()', 1, 2, kept='z.g', still=1)
scenario(MODULES, 'two_files_reversed', 'the same, where the one that imports sorts first', {'a': 'from p.z import f\ndef g(): return f()\n', 'z': 'def f(): return 1\n'}, {'a': 'from p.z import f2\ndef g(): return f2()\n', 'z': 'def f2(): return 2\n'}, 'a.g()', 1, 2, kept='a.g', still=1)

# --- edits that cannot be loaded ---------------------------------------------------------------------------------------------

FAILURES = "Edits that cannot be loaded: the old version serves on, the same objects, and the error names file and line"
scenario(FAILURES, 'syntax', 'a syntax error', F1, 'def f(:\n', 'a.f()', 1, 1, error='a.py:1')
scenario(FAILURES, 'indentation', 'a wrong indentation', F1, 'def f():\n    x = 1\n  return 2\n', 'a.f()', 1, 1, error='a.py:3')
scenario(FAILURES, 'null_byte', 'a file with a null byte', F1, {'a': b'V = 1\x00\n'}, 'a.f()', 1, 1, error='a.py')
scenario(FAILURES, 'missing_module', 'a missing module is imported', F1, 'import no_such_module_anywhere\n' + F2, 'a.f()', 1, 1, error="No module named 'no_such_module_anywhere'")
scenario(FAILURES, 'missing_name', 'a name that is gone is imported', {'a': 'K = 1\n', 'b': K}, {'a': 'J = 2\n'}, 'b.g()', 1, 1, error="cannot import name 'K' from 'p.a'")
scenario(FAILURES, 'raises', 'a module raises while it is imported', F1, F2 + '1 / 0\n', 'a.f()', 1, 1, error='ZeroDivisionError')
scenario(FAILURES, 'exits', 'a module calls `sys.exit`', F1, F2 + 'raise SystemExit(3)\n', 'a.f()', 1, 1, error='3')
scenario(FAILURES, 'second_of_two', 'two files, of which the second cannot be loaded', {'a': F1, 'b': 'from p.a import f\n'}, {'a': F2, 'b': "from p.a import f\nraise RuntimeError('half')\n"}, '[a.f(), b.f()]', [1, 1], [1, 1], error='half', kept='a.f', still=1)
scenario(FAILURES, 'unimported_broken', 'a module that nothing has imported yet does not parse', {'a': F1, 'lazy': 'X = 1\n'}, {'lazy': 'X = (\n'}, 'a.f()', 1, 1, error='lazy.py')
scenario(FAILURES, 'entry_gone', "the plugin's own class is gone", F1, {'entry': 'class Other: pass\n'}, 'a.f()', 1, 1, error='Plugin')

# --- the plugin as a whole ---------------------------------------------------------------------------------------------------

WHOLE = "The plugin as a whole"
STATE = ENTRY + "    n = {v}\n    @bh.hookimpl\n    def plugin_export_state(self): return {{'n': self.n}}\n    @bh.hookimpl\n    def plugin_import_state(self, state): self.n = state['n'] + 1\n    @hookimpl\n    def extra(self): return self.n\n"
scenario(WHOLE, 'state', 'a plugin with state', {'entry': STATE.format(v=10), 'a': F1}, {'entry': STATE.format(v=50), 'a': F2}, 'a.f()', [1, 10], [2, 11], note='exported by the old version, imported by the new one')
EXTRA = "    @hookimpl\n    def extra(self): return 'here'\n"
scenario(WHOLE, 'hook_added', 'a hook implementation is added', {'entry': ENTRY, 'a': F1}, {'entry': ENTRY + EXTRA}, 'a.f()', [1], [1, 'here'])
scenario(WHOLE, 'hook_removed', 'a hook implementation is removed', {'entry': ENTRY + EXTRA, 'a': F1}, {'entry': ENTRY}, 'a.f()', [1, 'here'], [1])
IMPORT_FAILS = STATE.replace("self.n = state['n'] + 1", "raise ValueError('cannot take that')")
scenario(WHOLE, 'state_refused', 'a version that refuses the state', {'entry': STATE.format(v=10), 'a': F1}, {'entry': IMPORT_FAILS.format(v=50), 'a': F2}, 'a.f()', [1, 10], [1, 10], error='cannot take that')
START_FAILS = ENTRY + "    @bh.hookimpl\n    def plugin_start(self): raise OSError('port taken')\n"
scenario(WHOLE, 'start_fails', 'a version that does not start', {'entry': ENTRY, 'a': F1}, {'entry': START_FAILS, 'a': F2}, 'a.f()', [1], [1], error='port taken')
HOOK_UNDONE = "import atexit, p.a as a\n" + ENTRY + "    @bh.hookimpl\n    def plugin_stop(self): atexit.unregister(a.at_end)\n"
ATEXIT = {'entry': HOOK_UNDONE, 'a': 'import atexit\ndef at_end(): pass\natexit.register(at_end)\nV = 1\n', 'ask': 'import atexit\nfrom p import a\nbase = None\ndef answer(): return a.V\n'}
scenario(WHOLE, 'atexit', '`atexit` at import, undone in `plugin_stop`', ATEXIT, {'a': str(ATEXIT['a']).replace('V = 1', 'V = 2')}, '', [1], [2])

PATCH = ENTRY + "    @bh.hookimpl\n    def plugin_start(self, context):\n        import string\n        context.patch(string, 'capwords', lambda text: [text, {v}])\n"
WORDS = {'ask': "import string\ndef answer(): return string.capwords('a b')\n"}
scenario(WHOLE, 'context_patch', '`context.patch` of a foreign module', {'entry': PATCH.format(v=1), **WORDS}, {'entry': PATCH.format(v=2)}, '', [['a b', 1]], [['a b', 2]])
scenario(WHOLE, 'context_patch_gone', '`context.patch` of a foreign module is taken away', {'entry': PATCH.format(v=1), **WORDS}, {'entry': ENTRY}, '', [['a b', 1]], ['A B'], note='what was there is put back')
SHOUT = "import string\ndef shout(text): return text.upper()\nstring.capwords = shout\n"
scenario(WHOLE, 'plain_patch', 'a foreign module is patched by hand, and then not any more', SHOUT + F1, F2, 'a.f()', [1], [2], leak='string.capwords is function p.a.shout')


# fmt: on
# --- running them ------------------------------------------------------------------------------------------------------------


def file_of(root: Path, name: str) -> Path:
    return root / "p" / (name if "." in name else f"{name}.py")


def write(root: Path, files: Files) -> None:
    for name, text in files.items():
        file = file_of(root, name)
        if text is None:
            file.unlink()
            if not any(file.parent.iterdir()):
                file.parent.rmdir()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source(text))


def ask_module(case: Scenario) -> str:
    modules = [name for name in ("a", "b", "d", "r", "z") if any(f == name or f.startswith(f"{name}/") for f in case.before)]
    imports = f"from p import {', '.join(modules)}\n" if modules else ""
    return f"{imports}def answer(): return {case.ask}\ndef hold(): return {case.kept or None}\n"


def prepare(root: Path, case: Scenario) -> Path:
    (root / "p").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "1"\n[project.entry-points.scenarios]\np = "p.entry:Plugin"\n')
    write(root, {"__init__": "", "entry": ENTRY, "ask": ask_module(case), **case.before})
    return root


@pytest.fixture
def manager() -> Iterator[bh.PluginManager]:
    with bh.PluginManager("scenarios") as pm:
        pm.add_hookspecs(Specs)
        yield pm


def answers(pm: bh.PluginManager, case: Scenario) -> object:
    """Ask; for scenarios about the whole plugin with what ``extra`` answers beside it."""
    found = pm.hook.answer()
    assert len(found) == 1
    return [*found, *pm.hook.extra()] if case.group == WHOLE else found[0]


def plain(value: object) -> object:
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def what_it_answers(kept: Callable[[], object]) -> object:
    """Call what the host kept; an ImportError that says that the generation was released, or a KeyError, is an answer too."""
    try:
        return plain(kept())
    except ImportError as error:
        return RELEASED if "was released" in str(error) else repr(error)
    except KeyError:
        return "KeyError"


def names() -> list[str]:
    return [f"{case.group.split()[0].rstrip(',').lower()}-{case.name}" for case in SCENARIOS]


@pytest.mark.parametrize("level", ["none", "process"])
@pytest.mark.parametrize("case", SCENARIOS, ids=names())
def test_what_reload_does(
    case: Scenario,
    level: str,
    manager: bh.PluginManager,
    tmp_path: Path,
    require_level: Callable[[str], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next call is answered by the new text, whole; what was kept goes on with the old; what cannot be loaded changes nothing."""
    require_level(level)
    monkeypatch.setattr(string, "capwords", string.capwords)  # some plugins leave another one there
    for limit in ("_CHEAP", "_BUSY"):  # look for leaks at once: the heap of a test session is large, and it may have other threads
        monkeypatch.setattr(leaks, limit, float("inf"))
    monkeypatch.setattr(leaks._rations, "_not_before", 0.0)
    root = prepare(tmp_path, case)
    manager.load("p", source=root, isolation=level)
    assert plain(answers(manager, case)) == case.old
    kept: Any = manager.hook.hold()[0] if case.kept and level == "none" else None
    write(root, case.after)
    if case.error:
        with pytest.raises((SwapFailed, LoadFailed)) as caught:
            manager.reload("p")
        assert case.error in str(caught.value)
    else:
        report = manager.reload("p")
        assert report is not None
        assert not report.unchanged
        if case.leak and level == "none":
            assert any(case.leak in leak for leak in report.leaks or ())
    assert plain(answers(manager, case)) == case.new
    if kept is not None:
        assert what_it_answers(kept) == case.still
    if level == "none":
        undo(root, case)
        manager.reload("p")
        if case.group != WHOLE:  # state has moved on there
            assert plain(answers(manager, case)) == case.old


def undo(root: Path, case: Scenario) -> None:
    """Put every file of the edit back as it was."""
    written = {"entry": ENTRY, "ask": ask_module(case), "__init__": ""}
    write(root, {name: case.before.get(name, written.get(name)) for name in case.after})


# --- the page ----------------------------------------------------------------------------------------------------------------


def cell(value: object) -> str:
    return "`" + repr(value).replace("|", "\\|") + "`"


def table() -> str:
    lines = []
    for group in dict.fromkeys(case.group for case in SCENARIOS):
        lines += [f"### {group}", "", "| edit | before | target: the next call | what the host had kept | |", "|---|---|---|---|---|"]
        for case in SCENARIOS:
            if case.group == group:
                kept = cell(case.still) if case.kept else ""
                note = (
                    f"refused: “{case.error}”" if case.error else f"stays, and the report says: “{case.leak}”" if case.leak else case.note
                )
                lines.append(f"| {case.edit} | {cell(case.old)} | {cell(case.new)} | {kept} | {note} |")
        lines.append("")
    return "\n".join(lines)


def page_with(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def test_the_page_shows_these_scenarios() -> None:
    """The table in the docs is this list. When it is not, run this file as a program."""
    text = PAGE.read_text("utf-8")
    assert text == page_with(text)


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text("utf-8")), "utf-8")
    sys.exit()
