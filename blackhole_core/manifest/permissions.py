"""The grammar of a permission a plugin asks for: ``word`` or ``area:action[:value]``. Syntax only; who grants what is decided elsewhere.

The vocabulary is closed: a word that is not known is an error, never ignored, so that a typing mistake cannot become a permission that is silently
not asked for. The five coarse words are those of the first Blackhole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from blackhole_core.manifest.kinds import did_you_mean

__all__ = ["WORDS", "permission_problem"]

#: Coarse words, each a whole area.
WORDS: Final = ("filesystem", "network", "system", "other_plugins", "user_data")
#: Characters of one permission. PATH_MAX of Linux is 4,096; nobody can judge a longer one when asked to grant it.
MAX_PERMISSION: Final = 1024

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9*_.-]+)(?:/[0-9]{1,3})?(?::[0-9]{1,5})?")
_PLUGIN: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._-]*(?:/[A-Za-z0-9*_.]+)?")
_PLACE: Final = re.compile(r"(?:\$\{(?:data|plugin|config|cache)\}(?:/.*)?|/.*)")
#: Directories of the kernel: through them a process reaches itself, others and devices.
_KERNEL: Final = re.compile(r"/(?:proc|sys|dev)(?:/|$)")


def permission_problem(text: str) -> str | None:
    """Say what is wrong with a permission, as the end of a sentence that begins with it, or None."""
    if len(text) > MAX_PERMISSION:
        return f" with more than {MAX_PERMISSION} characters"
    if any(character.isspace() or not character.isprintable() for character in text):
        return " with a blank or control character in it"
    area, *rest = text.split(":", 2)
    if not rest:
        return None if area in WORDS else f"; the words are {', '.join(WORDS)}{did_you_mean(area, WORDS)}"
    if area == "env":
        return _environment(text.removeprefix("env:"))
    if area not in _AREAS:
        known = (*_AREAS, "env")
        return f"; the areas are {', '.join(known)}{did_you_mean(area, known)}"
    return _action(area, rest[0], rest[1] if len(rest) > 1 else None)


def _action(area: str, action: str, value: str | None) -> str | None:
    actions = _AREAS[area]
    if action not in actions:
        return f"; the actions of {area} are {', '.join(actions)}{did_you_mean(action, tuple(actions))}"
    rule = actions[action]
    if rule is None:
        return None if value is None else f"; {area}:{action} takes no value"
    if value is None:
        return f"; {area}:{action} needs a value"
    return rule(value)


def _environment(name: str) -> str | None:
    return None if _ENV_NAME.fullmatch(name) else "; env: takes the name of one variable"


def _place(path: str) -> str | None:
    if not _PLACE.fullmatch(path):
        return "; a path is absolute or begins with ${data}, ${plugin}, ${config} or ${cache}"
    if ".." in path.split("/"):
        return "; a path has no .. in it"
    if _KERNEL.match(re.sub(r"/(?:\./|/)+", "/", path)):
        return "; /proc, /sys and /dev are never granted"
    return None


def _program(path: str) -> str | None:
    return _place(path) if path.startswith("/") else "; a program is named by its absolute path"


def _address(address: str) -> str | None:
    if not _ADDRESS.fullmatch(address):
        return "; an address is host, host:port, *.suffix, an IP address or network"
    port = re.search(r"(?<=[^:]):([0-9]+)$", address)
    return f"; port {port[1]} is not one of 1 to 65535" if port and not 1 <= int(port[1]) <= 65535 else None


def _plugin(pattern: str) -> str | None:
    return None if _PLUGIN.fullmatch(pattern) else "; a plugin is a name or pattern, with /hook behind it if need be"


_AREAS: Final[Mapping[str, Mapping[str, Callable[[str], str | None] | None]]] = {
    "filesystem": {"read": _place, "write": _place},
    "network": {"connect": _address, "listen": _address},
    "process": {"exec": _program},
    "device": {"gpu": None, "kvm": None, "audio": None},
    "plugin": {"call": _plugin, "event": _plugin},
    "host": {"log": None, "clock": None, "kv": None, "userdata": None, "admin": None},
}
