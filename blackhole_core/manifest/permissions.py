"""The vocabulary of permissions: ``word`` or ``area:action[:value]``, as text, as a value, and how much each of them is.

The vocabulary is closed: a word that is not known is an error, never ignored, so that a typing mistake cannot become a permission that is silently
not asked for. The five coarse words are those of the first Blackhole. Two spellings of one permission are one value with one canonical spelling.
What one permission is worth where another is asked for stands in :mod:`~blackhole_core.manifest.coverage`; who grants what is decided elsewhere. Pure.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import attrs

from blackhole_core.ids import canonical_name
from blackhole_core.manifest.addresses import Address, Public, parse_address
from blackhole_core.manifest.kinds import did_you_mean

__all__ = ["WORDS", "Exact", "Level", "Pattern", "Permission", "Place", "canonical", "level_of", "parse_permission", "permission_problem"]

#: Coarse words, each a whole area.
WORDS: Final = ("filesystem", "network", "system", "other_plugins", "user_data")
#: Characters of one permission. PATH_MAX of Linux is 4,096; nobody can judge a longer one when asked to grant it.
MAX_PERMISSION: Final = 1024

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLUGIN: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._-]*(?:/[A-Za-z0-9*_.]+)?")
_PLACE: Final = re.compile(r"(\$\{(?:data|plugin|config|cache)\}|)((?:/.*)?)")
#: Directories of the kernel: through them a process reaches itself, others and devices.
_KERNEL: Final = ("proc", "sys", "dev")


class Level(enum.StrEnum):
    """How much a permission is, least first."""

    NORMAL = "normal"  #: the plugin's own data, and services made for every plugin: needs no grant
    ASK = "ask"  #: the operator decides
    DANGEROUS = "dangerous"  #: the operator decides, and is told that it is as much as running without walls, or near it
    SIGNATURE = "signature"  #: only for a plugin signed by the operator; this version checks no signatures, so nobody has it


# --- what stands behind the second colon --------------------------------------------------------------------------------


@attrs.frozen
class Place:
    """A path and all below it: ``root`` is ``""`` for an absolute one, or a directory of the plugin such as ``${data}``."""

    root: str
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.root + "".join(f"/{part}" for part in self.parts) or "/"

    def covers(self, other: Place) -> bool:
        if not self.root and not self.parts:
            return True  # the plugin's directories lie somewhere in it, too
        return self.root == other.root and other.parts[: len(self.parts)] == self.parts

    def meet(self, other: Place) -> Place | None:
        return other if self.covers(other) else self if other.covers(self) else None


@attrs.frozen
class Pattern:
    """Plugins (or events) by a pattern in which ``*`` stands for any characters, and their hooks by another."""

    name: str
    hook: str = "*"

    def __str__(self) -> str:
        return self.name if self.hook == "*" else f"{self.name}/{self.hook}"

    def covers(self, other: Pattern) -> bool:
        return _matches(self.name, other.name) and _matches(self.hook, other.hook)

    def meet(self, other: Pattern) -> Pattern | None:
        """Return what is in both; None also when that has no spelling: ``a*`` and ``*b`` share more than ``a*b``."""
        name, hook = _narrower(self.name, other.name), _narrower(self.hook, other.hook)
        return None if name is None or hook is None else Pattern(name, hook)


@attrs.frozen
class Exact:
    """One thing by its name, or (None) all there are."""

    name: str | None = None

    def __str__(self) -> str:
        return self.name or ""

    def covers(self, other: Exact) -> bool:
        return self.name in (None, other.name)

    def meet(self, other: Exact) -> Exact | None:
        return other if self.covers(other) else self if other.covers(self) else None


def _matches(pattern: str, other: str) -> bool:
    """Whether all that ``other`` matches is matched by ``pattern``: its stars can only be met by stars."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), other) is not None


def _narrower(one: str, other: str) -> str | None:
    return other if _matches(one, other) else one if _matches(other, one) else None


# --- the value ----------------------------------------------------------------------------------------------------------

Value: TypeAlias = Place | Address | Public | Pattern | Exact


@attrs.frozen
class Permission:
    """One permission, made by :func:`parse_permission`. ``str`` gives the canonical spelling. A coarse word has no action and no value."""

    area: str
    action: str = ""
    value: Value | None = None

    def __str__(self) -> str:
        return ":".join(filter(None, (self.area, self.action, "" if self.value is None else str(self.value))))


@functools.lru_cache(maxsize=4096)  # the same few are compared again and again
def parse_permission(text: str) -> Permission:
    """Return the permission that ``text`` spells.

    :raises ValueError: it is none; the message ends a sentence that begins with the text.
    """
    if len(text) > MAX_PERMISSION:
        raise ValueError(f" with more than {MAX_PERMISSION} characters")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError(" with a blank or control character in it")
    area, colon, rest = text.partition(":")
    if not colon:
        if area not in WORDS:
            raise ValueError(f"; the words are {', '.join(WORDS)}{did_you_mean(area, WORDS)}")
        return Permission(area)
    if area == "env":
        return Permission("env", value=_environment(rest))
    if area not in _AREAS:
        known = (*_AREAS, "env")
        raise ValueError(f"; the areas are {', '.join(known)}{did_you_mean(area, known)}")
    action, colon, value = rest.partition(":")
    return _action(area, action, value if colon else None)


def permission_problem(text: str) -> str | None:
    """Say what is wrong with a permission, as the end of a sentence that begins with it, or None."""
    try:
        parse_permission(text)
    except ValueError as problem:
        return str(problem)
    return None


def canonical(text: str) -> str:
    """Return the one spelling of the permission that ``text`` spells.

    :raises ValueError: it is none.
    """
    return str(parse_permission(text))


def _action(area: str, action: str, value: str | None) -> Permission:
    actions = _AREAS[area]
    if action not in actions:
        raise ValueError(f"; the actions of {area} are {', '.join(actions)}{did_you_mean(action, tuple(actions))}")
    read = actions[action]
    if read is None:
        if value is not None:
            raise ValueError(f"; {area}:{action} takes no value")
        return Permission(area, action)
    if value is None:
        raise ValueError(f"; {area}:{action} needs a value")
    return Permission(area, action, read(value))


def _environment(name: str) -> Exact:
    if not _ENV_NAME.fullmatch(name):
        raise ValueError("; env: takes the name of one variable")
    return Exact(name)


def _place(path: str) -> Place:
    found = _PLACE.fullmatch(path)
    if not path or found is None:
        raise ValueError("; a path is absolute or begins with ${data}, ${plugin}, ${config} or ${cache}")
    root, rest = found.groups()
    parts = tuple(part for part in rest.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ValueError("; a path has no .. in it")
    if not root and parts[:1] and parts[0] in _KERNEL:
        raise ValueError("; /proc, /sys and /dev are never granted")
    return Place(root, parts)


def _program(path: str) -> Exact:
    if not path.startswith("/"):
        raise ValueError("; a program is named by its absolute path")
    place = _place(path)
    if not place.parts or path.endswith("/"):
        raise ValueError("; a program is a file, this is a directory")
    return Exact(str(place))


def _plugin(pattern: str) -> Pattern:
    """Return the pattern of plugins, whose names are one in all their spellings."""
    found = _event(pattern)
    return attrs.evolve(found, name=re.sub(r"\*+", "*", canonical_name(found.name)))


def _event(pattern: str) -> Pattern:
    if not _PLUGIN.fullmatch(pattern):
        raise ValueError("; a plugin is a name or pattern, with /hook behind it if need be")
    name, slash, hook = re.sub(r"\*+", "*", pattern).partition("/")
    return Pattern(name, hook if slash else "*")


_AREAS: Final[Mapping[str, Mapping[str, Callable[[str], Value] | None]]] = {
    "filesystem": {"read": _place, "write": _place},
    "network": {"connect": parse_address, "listen": parse_address},
    "process": {"exec": _program},
    "device": {"gpu": None, "kvm": None, "audio": None},
    "plugin": {"call": _plugin, "event": _event},
    "host": {"log": None, "clock": None, "kv": None, "userdata": None, "admin": None},
}

# --- how much it is -----------------------------------------------------------------------------------------------------

#: What is a plugin's own, by what it may do there; its code it may read and not change.
_OWN: Final = {"read": ("${data}", "${cache}", "${plugin}"), "write": ("${data}", "${cache}")}
#: Services made for every plugin. What the host keeps of its users is not one of them, nor is ruling the host.
_NORMAL_SERVICES: Final = ("log", "clock", "kv")


def level_of(permission: Permission) -> Level:
    """Return how much ``permission`` is."""
    match permission:
        case Permission("filesystem", action, Place() as place):
            if place.root in _OWN[action]:
                return Level.NORMAL
            return Level.DANGEROUS if action == "write" or not (place.root or place.parts) else Level.ASK
        case Permission("network", _, Address() as address):
            return Level.DANGEROUS if address.is_broad else Level.ASK
        case Permission("host", "admin"):
            return Level.SIGNATURE
        case Permission("host", action):
            return Level.NORMAL if action in _NORMAL_SERVICES else Level.ASK
        case Permission("process" | "device") | Permission("filesystem" | "network" | "system"):
            return Level.DANGEROUS
    return Level.ASK
