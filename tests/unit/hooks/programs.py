"""Random programs for a plugin manager, and what happens when they run: for comparing two managers that should be the same.

A program is data: specs, plugins with implementations that do things (also to the manager, while a call runs), and operations. Running it gives a log of
everything that a host or a plugin could see: order, arguments, results, exceptions with causes and contexts, warnings and where they point.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

import attrs
import pluggy

__all__ = ["Program", "drawn", "run"]

HOOKS: Final = ("h0", "h1", "h2")
PARAMETERS: Final = ("x", "y", "z")
PLUGINS: Final = 4
#: Calls inside of calls, and steps of a whole program, after which plugins only answer: programs that call themselves must end.
DEPTH: Final = 3
STEPS: Final = 150
#: Characters of a value that are shown when two runs differ.
LONGEST: Final = 2000

hookspec = pluggy.HookspecMarker("t")
hookimpl = pluggy.HookimplMarker("t")


class Boom(Exception):
    """What plugins raise."""


class Base(BaseException):
    """What ``except Exception`` does not see."""


_ERRORS: Final[dict[str, type[BaseException]]] = {
    "boom": Boom,
    "stop": StopIteration,
    "base": Base,
    "runtime": RuntimeError,
    "key": KeyError,
}


@attrs.frozen
class Spec:
    """One hook of the specs class."""

    hook: str
    parameters: tuple[str, ...]
    defaults: int  #: so many of the last parameters have one
    kind: str  #: "", "firstresult" or "historic"
    warns: bool
    warns_of: tuple[str, ...]


@attrs.frozen
class Impl:
    """One implementation of a plugin."""

    attribute: str
    hook: str  #: given as ``specname`` if it is not the attribute
    parameters: tuple[str, ...]
    defaults: int
    kind: str  #: plain, wrapper or old
    options: tuple[str, ...]
    before: str  #: what a wrapper does before its ``yield``
    action: tuple[Any, ...]


@attrs.frozen
class Program:
    """Everything that is drawn."""

    specs: tuple[tuple[Spec, ...], ...]
    plugins: tuple[tuple[Impl, ...], ...]
    operations: tuple[tuple[Any, ...], ...]


# --- drawing ---------------------------------------------------------------------------------------------------------


def _often(random: Random, percent: int) -> bool:
    return random.randrange(100) < percent


def _some(random: Random, names: Sequence[str]) -> tuple[str, ...]:
    """Return some of ``names``, in any order."""
    found = list(names)
    random.shuffle(found)
    return tuple(found[: random.randrange(len(found) + 1)])


def _arguments(random: Random) -> dict[str, Any]:
    """Return the arguments of a call: mostly right ones, else some are missing, unknown or odd."""
    if _often(random, 70):
        return {name: place for place, name in enumerate(PARAMETERS)}
    return {name: random.choice([None, 1, ...]) for name in _some(random, [*PARAMETERS, "extra"])}


def _doing(random: Random) -> tuple[Any, ...]:
    """Return something that a host or a plugin does with the manager."""
    hook, plugin = random.choice(HOOKS), random.randrange(PLUGINS)
    what = random.choice(
        [*["call"] * 6, "held", "held", "extra", "subset", "historic", "register", "unregister", "unregister", "block", "unblock"]
    )
    match what:
        case "call" | "held":
            return what, hook, _arguments(random)
        case "extra":
            return what, hook, _arguments(random), tuple(_some(random, PARAMETERS) for _ in range(random.randrange(3)))
        case "subset":
            return what, hook, _some(random, [str(number) for number in range(PLUGINS)]), _arguments(random)
        case "historic":
            return what, hook, _arguments(random), random.choice(["", "listen", "listen", "boom"])
        case "unregister":
            return what, plugin, _often(random, 50)
    return what, plugin


def _operation(random: Random) -> tuple[Any, ...]:
    if _often(random, 80):
        return _doing(random)
    return random.choice(
        [
            ("specs", random.randrange(2)),
            ("monitor", _often(random, 50)),
            ("pending",),
            ("telemetry", random.choice([None, 1, 3])),
            ("telemetry", random.choice([None, 1, 3])),
        ]
    )


def _spec(random: Random, hook: str) -> Spec:
    parameters = PARAMETERS if _often(random, 80) else _some(random, PARAMETERS)
    return Spec(
        hook,
        parameters,
        random.randrange(len(parameters) + 1) if _often(random, 40) else 0,
        random.choice(["", "", "", "firstresult", "firstresult", "historic"]),
        _often(random, 10),
        _some(random, parameters) if _often(random, 10) else (),
    )


def _action(random: Random, kind: str) -> tuple[Any, ...]:
    if kind == "wrapper":
        on_result = random.choice(["pass", "pass", "replace", "replace", "raise", "raise stop", "yield again", "do nothing"])
        on_error = random.choice(["let pass", "swallow", "swallow none", "raise again", "raise other", "raise from", "yield again"])
        return on_result, on_error, _doing(random)
    if kind == "old":
        return random.choice(["pass", "pass", "look", "force result", "force exception", "raise", "yield again"]), "", _doing(random)
    what = random.choice([*["return"] * 5, "raise", "raise from", "raise the same", "do", "do"])
    if what == "return":
        return what, random.choice([None, None, 0, "r", (), False])
    return (what, _doing(random)) if what == "do" else (what, random.choice(sorted(_ERRORS)))


def _impl(random: Random, attribute: str) -> Impl:
    kind = random.choice(["plain", "plain", "plain", "wrapper", "wrapper", "old"])
    parameters = _some(random, PARAMETERS)
    return Impl(
        attribute,
        random.choice(HOOKS) if _often(random, 20) else attribute,
        (*parameters, "unknown") if _often(random, 2) else parameters,
        random.randrange(len(parameters) + 1) if _often(random, 25) else 0,
        kind,
        tuple(option for option in ("tryfirst", "trylast", "optionalhook") if _often(random, 25)),
        random.choice([*[""] * 12, "do", "do", "raise", "no yield", *(["no generator"] if _often(random, 20) else [])])
        if kind != "plain"
        else "",
        _action(random, kind),
    )


def drawn(random: Random) -> Program:
    """Draw a program: it adds specs, registers plugins, and then does things in any order."""
    begin = [("specs", 0), *(("register", number) for number in range(PLUGINS) if _often(random, 80))]
    if _often(random, 30):
        random.shuffle(begin)
    return Program(
        specs=tuple(tuple(_spec(random, hook) for hook in HOOKS if _often(random, 85)) or (_spec(random, HOOKS[0]),) for _ in range(2)),
        plugins=tuple(tuple(_impl(random, hook) for hook in HOOKS if _often(random, 70)) for _ in range(PLUGINS)),
        operations=(*begin, *(_operation(random) for _ in range(random.randrange(1, 13)))),
    )


# --- running ---------------------------------------------------------------------------------------------------------


class _Plugin:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


class _World:
    """One run of a program on one manager."""

    def __init__(self, program: Program, manager: pluggy.PluginManager) -> None:
        self.program = program
        self.manager = manager
        self.log: list[Any] = []
        self.depth = 0
        self.held: dict[str, Any] = {}
        self.errors: dict[str, BaseException] = {name: kind("always the same") for name, kind in _ERRORS.items()}
        self.plugins = [self._plugin(number, impls) for number, impls in enumerate(program.plugins)]
        self.undo: Callable[[], None] | None = None

    def run(self) -> list[Any]:
        for operation in self.program.operations:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                self.log.append(("operation", operation[0]))
                self.attempt(operation)
            self.log.append([(warning.category, str(warning.message), warning.filename, warning.lineno) for warning in warned])
            self.log.append(self.standing())
        return self.log

    def attempt(self, doing: Sequence[Any]) -> None:
        try:
            self.log.append(("result", _short(self.do(doing))))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.log.append(("error", described(error)))

    def standing(self) -> Any:
        """Return what can be asked of the manager."""
        hooks = {name: getattr(self.manager.hook, name) for name in HOOKS if hasattr(self.manager.hook, name)}
        return (
            [(name, str(plugin)) for name, plugin in self.manager.list_name_plugin()],
            {name: [(impl.plugin_name, impl.opts) for impl in hook.get_hookimpls()] for name, hook in hooks.items()},
            {name: (hook.has_spec(), hook.is_historic(), hook.name) for name, hook in hooks.items()},
            [[hook.name for hook in self.manager.get_hookcallers(plugin) or ()] for plugin in self.plugins],
            [self.manager.is_blocked(f"p{number}") for number in range(PLUGINS)],
        )

    def do(self, doing: Sequence[Any]) -> Any:
        what, *rest = doing
        return getattr(self, f"do_{what}")(*rest)

    def hook(self, name: str) -> Any:
        hook = getattr(self.manager.hook, name)
        self.held.setdefault(name, hook)
        return hook

    def do_call(self, hook: str, arguments: dict[str, Any]) -> Any:
        return self.hook(hook)(**arguments)

    def do_held(self, hook: str, arguments: dict[str, Any]) -> Any:
        return (self.held.get(hook) or self.hook(hook))(**arguments)

    def do_extra(self, hook: str, arguments: dict[str, Any], methods: Sequence[tuple[str, ...]]) -> Any:
        made = [self._function(f"extra{place}", given, 0, lambda tag, values: (tag, values)) for place, given in enumerate(methods)]
        return self.hook(hook).call_extra(made, arguments)

    def do_subset(self, hook: str, without: Sequence[str], arguments: dict[str, Any]) -> Any:
        return self.manager.subset_hook_caller(hook, [self.plugins[int(number)] for number in without])(**arguments)

    def do_historic(self, hook: str, arguments: dict[str, Any], callback: str) -> Any:
        def listen(result: Any) -> None:
            self.log.append(("callback", result))
            if callback == "boom":
                raise Boom("callback")

        return self.hook(hook).call_historic(listen if callback else None, arguments)

    def do_register(self, number: int) -> Any:
        return self.manager.register(self.plugins[number], f"p{number}")

    def do_unregister(self, number: int, by_name: bool) -> Any:
        done = self.manager.unregister(name=f"p{number}") if by_name else self.manager.unregister(self.plugins[number])
        return repr(done)

    def do_block(self, number: int) -> None:
        self.manager.set_blocked(f"p{number}")

    def do_unblock(self, number: int) -> bool:
        return self.manager.unblock(f"p{number}")

    def do_specs(self, number: int) -> None:
        namespace: dict[str, Any] = {}
        for spec in self.program.specs[number]:
            options: dict[str, Any] = {spec.kind: True} if spec.kind else {}
            if spec.warns:
                options["warn_on_impl"] = DeprecationWarning(f"{spec.hook} is old")
            if spec.warns_of:
                options["warn_on_impl_args"] = {name: DeprecationWarning(f"{name} is old") for name in spec.warns_of}
            function = self._function(spec.hook, ("self", *spec.parameters), spec.defaults, lambda _tag, _values: None)
            function.__qualname__ = f"Specs.{spec.hook}"  # pluggy leaves out ``self`` where a class is named
            namespace[spec.hook] = hookspec(**options)(function)
        self.manager.add_hookspecs(type(f"Specs{number}", (), namespace))

    def do_pending(self) -> None:
        self.manager.check_pending()

    def do_monitor(self, on: bool) -> None:
        if self.undo is not None:
            self.undo()
            self.undo = None
        if on:
            self.undo = self.manager.add_hookcall_monitoring(
                lambda name, impls, arguments: self.log.append(("before", name, [impl.plugin_name for impl in impls], dict(arguments))),
                lambda outcome, name, _impls, _arguments: self.log.append(("after", name, type(outcome.exception))),
            )

    def do_telemetry(self, sample: int | None) -> None:
        """Only one of the two has it; what both do must not differ."""
        telemetry = getattr(self.manager, "telemetry", None)
        if telemetry is not None and sample is None:
            telemetry.stop()
        elif telemetry is not None:
            telemetry.start(sample=sample)

    # --- plugins ---------------------------------------------------------------------------------------------------------

    def _plugin(self, number: int, impls: Sequence[Impl]) -> _Plugin:
        plugin = _Plugin(f"p{number}")
        for impl in impls:
            tag = f"p{number}.{impl.attribute}"
            body = getattr(self, f"_{impl.kind}")(impl)
            function = self._function(
                tag, impl.parameters, impl.defaults, body, generator=impl.kind != "plain" and impl.before != "no generator"
            )
            options: dict[str, Any] = dict.fromkeys(impl.options, True)
            if impl.kind != "plain":
                options["wrapper" if impl.kind == "wrapper" else "hookwrapper"] = True
            if impl.hook != impl.attribute:
                options["specname"] = impl.hook
            setattr(plugin, impl.attribute, hookimpl(**options)(function))
        return plugin

    def _function(
        self, tag: str, parameters: Sequence[str], defaults: int, body: Callable[[str, Any], Any], *, generator: bool = False
    ) -> Callable[..., Any]:
        """Make a function with these very parameters that hands its arguments to ``body``."""
        plain = len(parameters) - defaults
        listed = ", ".join(name if place < plain else f"{name}='own {name}'" for place, name in enumerate(parameters))
        values = "".join(f"{name}, " for name in parameters if name != "self")
        way = "return (yield from body(tag, values))" if generator else "return body(tag, values)"
        source = f"def made({listed}):\n    values = ({values})\n    {way}\n"
        space: dict[str, Any] = {"body": body, "tag": tag}
        exec(compile(source, f"<{tag}>", "exec"), space)
        return space["made"]  # type: ignore[no-any-return]  # mypy cannot know more

    def _entered(self, tag: str, values: Any) -> bool:
        """Note a step; tell whether the plugin may still do anything but answer."""
        self.log.append((tag, values))
        return self.depth < DEPTH and len(self.log) < STEPS

    def _inside(self, doing: Sequence[Any]) -> Any:
        """Do something with the manager from inside a call."""
        self.depth += 1
        try:
            return self.do(doing)
        finally:
            self.depth -= 1

    def _plain(self, impl: Impl) -> Callable[[str, Any], Any]:
        def body(tag: str, values: Any) -> Any:
            may = self._entered(tag, values)
            match impl.action:
                case ("return", value):
                    return value
                case ("raise", kind):
                    raise _ERRORS[kind](tag)
                case ("raise from", kind):
                    raise _ERRORS[kind](tag) from Boom("cause")
                case ("raise the same", kind):
                    raise self.errors[kind]
                case ("do", doing) if may:
                    return self._inside(doing)
            return "tired"

        return body

    def _before(self, impl: Impl, tag: str, values: Any) -> None:
        may = self._entered(tag, values)
        if impl.before == "raise":
            raise Boom(tag, "before")
        if impl.before == "do" and may:
            with contextlib.suppress(Exception):
                self._inside(impl.action[2])

    def _wrapper(self, impl: Impl) -> Callable[[str, Any], Any]:
        on_result, on_error, _doing = impl.action

        def body(tag: str, values: Any) -> Iterator[Any]:
            self._before(impl, tag, values)
            if impl.before == "no yield":
                return "never"
            try:
                result = yield
            except GeneratorExit:  # dropped at some time after the call
                raise
            except BaseException as error:
                self.log.append((tag, "error", type(error), _short(error.args)))
                again, answer = _after_error(on_error, tag, error)
            else:
                self.log.append((tag, "result", _short(result)))
                again, answer = _after_result(on_result, tag, result)
            if again:
                yield
            return answer

        return self._no_generator if impl.before == "no generator" else body

    def _no_generator(self, tag: str, values: Any) -> None:
        self._entered(tag, values)

    def _old(self, impl: Impl) -> Callable[[str, Any], Any]:
        after = impl.action[0]

        def body(tag: str, values: Any) -> Iterator[Any]:
            self._before(impl, tag, values)
            if impl.before == "no yield":
                return
            outcome = yield
            if isinstance(outcome.exception, GeneratorExit):  # dropped at some time after the call
                return
            self.log.append((tag, "outcome", type(outcome.exception), _short(outcome.exception or outcome.get_result())))
            if after == "look":
                outcome.get_result()
            if after == "force result":
                outcome.force_result((tag, "forced"))
            if after == "force exception":
                outcome.force_exception(Boom(tag, "forced"))
            if after == "raise":
                raise Boom(tag, "teardown")
            if after == "yield again":
                yield

        return self._no_generator if impl.before == "no generator" else body


def _after_error(action: str, tag: str, error: BaseException) -> tuple[bool, Any]:
    """Do what a wrapper does with an error; return whether it yields again, and its answer."""
    match action:
        case "let pass" | "raise again":
            raise error
        case "raise other":
            raise Boom(tag, "other")
        case "raise from":
            raise Boom(tag, "other") from error
        case "swallow none":
            return False, None
    return action == "yield again", "swallowed"


def _after_result(action: str, tag: str, result: Any) -> tuple[bool, Any]:
    """Do what a wrapper does with a result; return whether it yields again, and its answer."""
    match action:
        case "raise":
            raise Boom(tag, "after")
        case "raise stop":
            raise StopIteration(tag)
        case "pass":
            return False, result
        case "replace":
            return False, (tag, result)
    return action == "yield again", None


def described(error: BaseException) -> Any:
    """Return everything that a host can compare of an exception and of those it came from: each once, naming others by their number."""
    found: list[BaseException] = [error]
    numbers: dict[int, int] = {id(error): 0}

    def number(other: BaseException | None) -> int | None:
        if other is not None and id(other) not in numbers:
            numbers[id(other)] = len(found)
            found.append(other)
        return None if other is None else numbers[id(other)]

    return [
        {
            "type": type(one),
            "args": _short(one.args),
            "notes": getattr(one, "__notes__", None),
            "cause": number(one.__cause__),
            "context": number(one.__context__),
            "suppressed": one.__suppress_context__,
        }
        for one in found  # grows on the way
    ]


def _short(value: Any) -> str:
    """Return a text for a value that may be nested deep: the same for equal ones."""
    text = repr(value)
    return text if len(text) < LONGEST else f"{text[:LONGEST]}… {hash(text)}"


def run(program: Program, manager: pluggy.PluginManager) -> list[Any]:
    """Run a program and return its log."""
    before = sys.unraisablehook
    # A generator that is dropped in the middle may raise where nobody can catch it; when that happens is up to the interpreter.
    sys.unraisablehook = lambda _unraisable: None
    try:
        return _World(program, manager).run()
    finally:
        sys.unraisablehook = before
