"""What keeps an old generation alive, and who is named for it: the patterns of the study, each with its verdict."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from blackhole_core.loader import holders
from blackhole_core.loader.leaks import Canary
from blackhole_core.loader.universe import Universe

WriteTree = Callable[[Path, dict[str, str]], Path]

#: The module of every pattern: something with methods, something to call, something to wait on.
PLUGIN = """
import contextvars, dataclasses, enum, functools, logging, queue, threading, typing
stop = threading.Event()

class C:
    def method(self, *args): pass

@dataclasses.dataclass
class D:
    x: int = 0
    def method(self): pass

def function(*args, **kwargs): pass

def undo(host): pass
"""


@attrs.frozen
class Pattern:
    """What a plugin does, the words that must stand in the one sentence about it (empty: it must be free), and how the test cleans up."""

    id: str
    body: str
    words: tuple[str, ...] = ()
    undo: str = "pass"
    more: str = ""  #: more module text


KEPT = [
    Pattern(
        "atexit",
        "import atexit; atexit.register(function)",
        ("function acme.function is registered with atexit", "context.atexit"),
        "import atexit; atexit.unregister(function)",
    ),
    Pattern(
        "running thread",
        "t = threading.Thread(target=wait, name='poller'); t.start(); host.threads.append(t)",
        ("thread 'poller' is still running, in wait (", "context.thread"),
        "stop.set(); host.threads.pop().join()",
        "def wait(): stop.wait()",
    ),
    Pattern(
        "pending Timer",
        "t = threading.Timer(1000, function); t.start(); host.threads.append(t)",
        ("the pending threading.Timer", "will call function acme.function", "context.timer"),
        "t = host.threads.pop(); t.cancel(); t.join()",
    ),
    Pattern(
        "socketserver thread",
        "host.serve(Handler)",
        ("thread 'server' is still running with", ""),
        "host.end_serving()",
        "import socketserver\nclass Handler(socketserver.BaseRequestHandler):\n    def handle(self): pass",
    ),
    Pattern(
        "handler on own logger",
        "logging.getLogger('acme').addHandler(Handler())",
        ("an instance of acme.Handler is a handler of logger 'acme'", "context.add_log_handler"),
        "logging.getLogger('acme').handlers.clear()",
        "class Handler(logging.Handler):\n    def emit(self, record): pass",
    ),
    Pattern(
        "handler on root logger",
        "logging.getLogger().addHandler(Handler())",
        ("is a handler of logger 'root'",),
        "[logging.root.removeHandler(h) for h in list(logging.root.handlers) if isinstance(h, Handler)]",
        "class Handler(logging.Handler):\n    def emit(self, record): pass",
    ),
    Pattern(
        "filter on a logger",
        "logging.getLogger('acme').addFilter(function)",
        ("function acme.function is a filter of logger 'acme'", "context.add_log_filter"),
        "logging.getLogger('acme').filters.clear()",
    ),
    Pattern(
        "formatter of the host's handler",
        "host.handler.setFormatter(F())",
        ("an instance of acme.F is used by a handler of logger 'leakhost'",),
        "host.handler.setFormatter(None)",
        "class F(logging.Formatter):\n    def format(self, record): return ''",
    ),
    Pattern(
        "signal handler",
        "import signal; signal.signal(signal.SIGUSR2, function)",
        ("function acme.function is the handler of signal SIGUSR2", "context.signal"),
        "import signal; signal.signal(signal.SIGUSR2, signal.SIG_DFL)",
    ),
    Pattern(
        "sys.excepthook",
        "import sys; sys.excepthook = function",
        ("sys.excepthook is function acme.function", "context.patch"),
        "import sys; sys.excepthook = sys.__excepthook__",
    ),
    Pattern(
        "threading.excepthook",
        "threading.excepthook = function",
        ("threading.excepthook is function acme.function",),
        "threading.excepthook = threading.__excepthook__",
    ),
    Pattern(
        "sys.settrace",
        "threading.setprofile(function)",
        ("function acme.function was given to threading.setprofile",),
        "threading.setprofile(None)",
    ),
    Pattern(
        "patched function",
        "host.original = host.greet; host.greet = function",
        ("leakhost.greet is function acme.function", "context.patch"),
        "host.greet = host.original",
    ),
    Pattern(
        "patched method",
        "host.original = host.Thing.act; host.Thing.act = function",
        ("function acme.function is kept in leakhost.Thing.act", "context.patch"),
        "host.Thing.act = host.original",
    ),
    Pattern(
        "builtins",
        "import builtins; builtins.acme_tool = function",
        ("builtins.acme_tool is function acme.function",),
        "import builtins; del builtins.acme_tool",
    ),
    Pattern(
        "host's lru_cache",
        "host.cached(C)",
        ("class acme.C is in the functools.lru_cache of leakhost.cached", "context.lease(cached.cache_clear)"),
        "host.cached.cache_clear()",
    ),
    Pattern(
        "host's singledispatch",
        "host.show.register(C, function)",
        ("is registered with the functools.singledispatch function leakhost.show", "level process"),
        "host.reset_show()",
    ),
    Pattern(
        "copyreg",
        "import copyreg; copyreg.pickle(C, function)",
        ("is kept in", "dispatch_table"),
        "import copyreg; del copyreg.dispatch_table[C]",
    ),
    Pattern(
        "codecs",
        "import codecs; codecs.register(function)",
        ("function acme.function is registered with codecs.register", "codecs.unregister"),
        "import codecs; codecs.unregister(function)",
    ),
    Pattern(
        "weakref.finalize",
        "import weakref; weakref.finalize(host.thing, function)",
        ("function acme.function is the function of a weakref.finalize", "finalizer.detach"),
        "host.renew()",
    ),
    Pattern(
        "context variable",
        "host.variable.set(C())",
        ("an instance of acme.C is the value of context variable 'leakhost'",),
        "host.variable.set(None)",
    ),
    Pattern("threading.local", "host.local.value = C()", ("an instance of acme.C is kept in a threading.local",), "del host.local.value"),
    Pattern("queue item", "host.queue.put(C())", ("an instance of acme.C is an item of a queue.Queue",), "host.queue.get()"),
    Pattern(
        "SimpleQueue item",
        "host.simple_queue.put(C())",
        ("an instance of acme.C is an item of a _queue.SimpleQueue",),
        "host.simple_queue.get()",
    ),
    Pattern(
        "stored exception",
        "host.error = caught()",
        ("a traceback through", "is kept in leakhost.error"),
        "host.error = None",
        "def caught():\n    try:\n        raise ValueError('stored')\n    except ValueError as error:\n        return error",
    ),
    Pattern(
        "sys.last_value",
        "import sys; sys.last_value = caught()",
        ("is kept in sys.last_value",),
        "import sys; del sys.last_value",
        "def caught():\n    try:\n        raise ValueError('stored')\n    except ValueError as error:\n        return error",
    ),
    Pattern(
        "suspended generator",
        "g = numbers(); next(g); host.kept.append(g)",
        ("the suspended generator numbers is kept in leakhost.kept",),
        "host.kept.clear()",
        "def numbers():\n    yield 1",
    ),
    Pattern(
        "suspended coroutine",
        "c = later(); c.send(None); host.kept.append(c)",
        ("the suspended coroutine later is kept in leakhost.kept",),
        "host.kept.pop().close()",
        "class Pause:\n    def __await__(self): yield\nasync def later(): await Pause()",
    ),
    Pattern("bound method", "host.kept.append(C().method)", ("C", "is kept in leakhost.kept"), "host.kept.clear()"),
    Pattern(
        "partial",
        "host.kept.append(functools.partial(function))",
        ("a partial of acme.function is kept in leakhost.kept",),
        "host.kept.clear()",
    ),
    Pattern(
        "dataclass instance",
        "host.kept.append(D())",
        ("an instance of acme.D is kept in leakhost.kept", "context.lease"),
        "host.kept.clear()",
    ),
    Pattern(
        "instance in a host object",
        "host.thing.plugin = C()",
        ("an instance of acme.C is kept in leakhost.thing",),
        "del host.thing.plugin",
    ),
    Pattern(
        "gc.callbacks",
        "import gc; gc.callbacks.append(function)",
        ("function acme.function is kept in gc.callbacks",),
        "import gc; gc.callbacks.remove(function)",
    ),
    Pattern(
        "meta_path finder",
        "import sys; sys.meta_path.append(Finder())",
        ("an instance of acme.Finder is kept in sys.meta_path",),
        "import sys; sys.meta_path.pop()",
        "class Finder:\n    def find_spec(self, *args): return None",
    ),
    Pattern(
        "pluggy plugin",
        "host.pluggy.register(C())",
        ("an instance of acme.C is registered with a pluggy manager of project 'leakhost'", "manager.unregister"),
        "[host.pluggy.unregister(p) for p in host.pluggy.get_plugins()]",
    ),
    Pattern(
        "mock.patch",
        "from unittest import mock; mock.patch.object(host, 'greet', function).start()",
        ("leakhost.greet is function acme.function",),
        "from unittest import mock; mock.patch.stopall()",
    ),
    Pattern(
        "multiprocessing Finalize",
        "from multiprocessing.util import Finalize; Finalize(None, function, exitpriority=1)",
        ("is kept in multiprocessing.util._finalizer_registry",),
        "from multiprocessing import util; util._finalizer_registry.clear()",
    ),
    Pattern(
        "pending asyncio task",
        "host.start(work())",
        ("asyncio task 'acme-task' runs the suspended coroutine work", "context.task"),
        "host.end_tasks()",
        "async def work():\n    import asyncio\n    await asyncio.sleep(1000)",
    ),
    Pattern(
        "pending call_later",
        "host.loop.call_later(1000, function)",
        ("an event loop will call function acme.function",),
        "host.end_tasks()",
    ),
    Pattern(
        "warnings filter",
        "import warnings; warnings.simplefilter('ignore', category=W)",
        ("class acme.W is kept in warnings.filters",),
        "import warnings; warnings.filters.pop(0)",
        "class W(Warning):\n    def method(self): pass",
    ),
    Pattern(
        "sqlite3 adapter",
        "import sqlite3; sqlite3.register_adapter(C, function)",
        ("is kept in", "adapters"),
        "import sqlite3; del sqlite3.adapters[C, sqlite3.PrepareProtocol]",
    ),
    Pattern("host class derived", "host.derived = type('Sub', (C,), {'__module__': 'leakhost'})", ("leakhost",), "del host.derived"),
]

FREE = [
    Pattern("plain module", "pass"),
    Pattern(
        "subclass of a host class",
        "make(host)",
        more="def make(host):\n    class Sub(host.Thing):\n        def act(self): pass\n    return Sub().act()",
    ),
    Pattern("ABC.register", "host.Abstract.register(C); isinstance(C(), host.Abstract)"),
    Pattern("own lru_cache", "own(C)", more="@functools.lru_cache\ndef own(c): return c"),
    Pattern("logging.getLogger", "logging.getLogger('acme.free').debug('x %s', C())"),
    Pattern("list[C]", "list[C]; dict[str, C]"),
    Pattern("C | None", "C | None"),
    Pattern(
        "typing of a plugin's class",
        "typing.List[C]; typing.Optional[C]; typing.Callable[[C], C]; typing.get_type_hints(typed)",
        more="def typed(c: 'C') -> 'C | None': pass",
    ),
    Pattern("Generic of a plugin's class", "host.Box[C]"),
    Pattern("idle ThreadPoolExecutor of the host", "host.pool.submit(function).result()"),
    Pattern("plain data", "host.kept.append({'a': [1, 2.0, 'x', b'y', None]})", undo="host.kept.clear()"),
    Pattern("linecache and inspect", "import inspect, linecache; inspect.getsource(C); linecache.checkcache()"),
    Pattern(
        "enum, dataclass, NamedTuple, TypedDict, Protocol",
        "isinstance(C(), P); D() == D(); E(1); N(1)",
        more="class E(enum.Enum):\n    A = 1\nclass N(typing.NamedTuple):\n    x: int\nclass T(typing.TypedDict):\n    x: int\n@typing.runtime_checkable\nclass P(typing.Protocol):\n    def method(self): ...",
    ),
    Pattern("json, pickle, copy", "import json, pickle, copy; json.dumps([1], default=function); copy.deepcopy(D()); pickle.dumps(D())"),
    Pattern(
        "argparse, mimetypes, re, struct",
        "import argparse, mimetypes, re, struct; argparse.ArgumentParser().add_argument('--x', type=function); re.sub('a', lambda m: 'b', 'a'); struct.pack('i', 1); mimetypes.guess_type('a.txt')",
    ),
    Pattern("a timer that fired", "t = threading.Timer(0, function); t.start(); t.join()"),
    Pattern("a thread that ended", "t = threading.Thread(target=function); t.start(); t.join()"),
]

HOST = """
import abc, asyncio, contextvars, functools, logging, queue, socketserver, threading, types, typing, weakref
from concurrent.futures import ThreadPoolExecutor
import pluggy

class Thing:
    def act(self): pass

class Abstract(abc.ABC): pass

T = typing.TypeVar("T")
class Box(typing.Generic[T]): pass

def greet(): pass

@functools.lru_cache
def cached(key): return 1

def reset_show():
    global show
    @functools.singledispatch
    def show(value): pass
    show.__qualname__ = "show"
    globals()["show"] = show

reset_show()
threads, kept, tasks = [], [], []
thing, local, error = Thing(), threading.local(), None
queue, simple_queue = queue.Queue(), queue.SimpleQueue()
variable = contextvars.ContextVar("leakhost", default=None)
pluggy = pluggy.PluginManager("leakhost")
handler = logging.NullHandler()
logging.getLogger("leakhost").addHandler(handler)
pool = ThreadPoolExecutor(1)
pool.submit(int).result()

def renew():
    global thing
    thing = Thing()

def serve(handler):
    global server
    server = socketserver.TCPServer(("127.0.0.1", 0), handler)
    threads.append(threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.001}, name="server"))
    threads[-1].start()

def end_serving():
    server.shutdown()
    server.server_close()
    threads.pop().join()
    globals().pop("server")

loop = asyncio.new_event_loop()

def start(coroutine):
    tasks.append(loop.create_task(coroutine, name="acme-task"))
    loop.run_until_complete(asyncio.sleep(0))

def end_tasks():
    for task in tasks: task.cancel()
    async def end(): await asyncio.gather(*tasks, return_exceptions=True)
    loop.run_until_complete(end())
    tasks.clear()
    for handle in loop._scheduled: handle.cancel()

def close():
    pool.shutdown()
    loop.close()
    logging.getLogger("leakhost").removeHandler(handler)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    """A host with one of everything that a plugin can be left in."""
    module = types.ModuleType("leakhost")
    sys.modules["leakhost"] = module
    exec(HOST, vars(module))
    yield module
    module.close()  # type: ignore[attr-defined]  # the module, or object, is the test's own
    del sys.modules["leakhost"]


@pytest.fixture
def leave(
    host: Any, make_universe: Callable[..., Universe], tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Pattern], Canary]]:
    """Return a function that loads a plugin, lets it do what the pattern says, and releases it; what is left is cleaned up afterwards."""
    monkeypatch.setattr(holders, "_SECONDS", 60.0)  # who it is does not depend on how busy the machine is
    left: list[Canary] = []

    def leave(pattern: Pattern) -> Canary:
        text = f"{PLUGIN}\n{pattern.more}\ndef leak(host):\n    {pattern.body}\ndef undo(host):\n    {pattern.undo}\n"
        universe = make_universe(("acme",), write_tree(tmp_path, {"acme.py": text}))
        leak: Any = universe.load("acme:leak")
        leak(host)
        canary = Canary(universe, "plugin acme@1.0, generation 1")
        left.append(canary)
        del leak
        universe.release()
        return canary

    yield leave
    for canary in left:
        for thing in canary._belongings.alive:
            if isinstance(thing, dict):
                thing["undo"](host)


def names(patterns: list[Pattern]) -> list[Any]:
    return [pytest.param(pattern, id=pattern.id) for pattern in patterns]


@pytest.mark.parametrize("pattern", names(KEPT))
def test_who_keeps_a_generation_is_named(pattern: Pattern, leave: Callable[[Pattern], Canary]) -> None:
    """Something that a plugin left behind keeps its generation: one sentence says what, which plugin, who has it and what to do."""
    found = leave(pattern).leaks(at_any_cost=True)
    assert found
    assert all(sentence.startswith("plugin acme@1.0, generation 1: ") for sentence in found)
    assert any(all(word in sentence for word in pattern.words) for sentence in found), "\n".join(found)


@pytest.mark.parametrize("pattern", names(FREE))
def test_what_keeps_nothing_is_not_reported(pattern: Pattern, leave: Callable[[Pattern], Canary]) -> None:
    """Ordinary use of the language and the library leaves nothing behind."""
    assert leave(pattern).leaks(at_any_cost=True) == ()
