"""What a permission that was granted is worth where another one is asked for. Pure.

A permission is a set of things that may be done. ``covers(granted, requested)`` says that the second set lies in the first; ``meet`` gives what is in
both. The coarse words are sets of finer ones:

* ``network``: connect to every host with a public address. A name opens public addresses only, however it was granted; private ones, those of
  the link and of this machine are opened by naming them (see :func:`opens`), so no record in somebody's name server leads there.
* ``filesystem``: read every path, and write ``${data}``.
* ``system``: start every program, read every variable of the environment.
* ``other_plugins``: call every plugin. ``user_data``: the service ``host:userdata``.

Where the overlap of two permissions has no spelling of its own, it counts as none: too little is given, never too much.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from blackhole_core.manifest.addresses import Address, Public, is_public
from blackhole_core.manifest.permissions import Exact, Level, Pattern, Permission, Place, level_of, parse_permission

__all__ = ["covers", "effective", "lacking", "meet", "opens", "parts"]

_PARTS: Final[dict[str, tuple[Permission, ...]]] = {
    "filesystem": (Permission("filesystem", "read", Place("")), Permission("filesystem", "write", Place("${data}"))),
    "network": (Permission("network", "connect", Public()),),
    "system": (Permission("process", "exec", Exact()), Permission("env", value=Exact())),
    "other_plugins": (Permission("plugin", "call", Pattern("*")),),
    "user_data": (Permission("host", "userdata"),),
}
#: What every plugin has without asking the operator.
_OWN: Final = tuple(
    parse_permission(text)
    for text in ("filesystem:read:${data}", "filesystem:write:${data}", "filesystem:read:${cache}", "filesystem:write:${cache}")
) + tuple(parse_permission(text) for text in ("filesystem:read:${plugin}", "host:log", "host:clock", "host:kv"))


def parts(permission: Permission) -> tuple[Permission, ...]:
    """Return the finer permissions that a coarse word stands for; any other permission is its only part."""
    return (permission,) if permission.action or permission.value is not None else _PARTS[permission.area]


def covers(granted: Permission, requested: Permission) -> bool:
    """Whether ``granted`` allows all that ``requested`` asks for. Reflexive and transitive; two coarse and fine spellings may cover each other."""
    return _all_covered((granted,), requested)


def _all_covered(granted: Iterable[Permission], requested: Permission) -> bool:
    have = [part for one in granted for part in parts(one)]
    return all(any(_part_covers(part, wanted) for part in have) for wanted in parts(requested))


def _part_covers(granted: Permission, requested: Permission) -> bool:
    if (granted.area, granted.action) != (requested.area, requested.action):
        return False
    return granted.value is None or granted.value.covers(requested.value)  # type: ignore[arg-type]  # one area and action, one kind of value


def meet(one: Permission, other: Permission) -> tuple[Permission, ...]:
    """Return permissions that both allow: the narrower one, or what their parts share."""
    if covers(one, other):
        return (other,)
    if covers(other, one):
        return (one,)
    return tuple(shared for part in parts(one) for its in parts(other) if (shared := _shared(part, its)) is not None)


def _shared(one: Permission, other: Permission) -> Permission | None:
    if (one.area, one.action) != (other.area, other.action):
        return None
    if one.value is None:
        return one
    value = one.value.meet(other.value)  # type: ignore[arg-type]  # one area and action, one kind of value
    spelled = value is not None and not isinstance(value, Public) and value != Exact()
    return Permission(one.area, one.action, value) if spelled else None


# --- what a plugin gets -------------------------------------------------------------------------------------------------


def effective(requested: Iterable[str], granted: Iterable[str]) -> tuple[str, ...]:
    """Return what a plugin that asks for ``requested`` may do when it was granted ``granted``, in canonical spelling, in the order of asking.

    Each request that is of level normal, or covered by what is granted, is given as it was asked for. Of any other one that part is given which a grant
    names: a narrower grant gives the narrower permission, one for something else gives nothing. Nothing is given that was not asked for, and nothing
    of level signature.
    """
    grants = [parse_permission(text) for text in granted]
    given: list[Permission] = []
    for asked in map(parse_permission, requested):
        if level_of(asked) is Level.SIGNATURE:
            continue
        if _is_given(asked, grants):
            given.append(asked)
        else:
            given += [shared for grant in grants for shared in meet(grant, asked)]
    return tuple(str(permission) for permission in _without_covered(given))


def lacking(requested: Iterable[str], granted: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``requested`` that are not wholly given by ``granted``, in canonical spelling."""
    grants = [parse_permission(text) for text in granted]
    asked = dict.fromkeys(parse_permission(text) for text in requested)
    return tuple(str(one) for one in asked if level_of(one) is Level.SIGNATURE or not _is_given(one, grants))


def _is_given(asked: Permission, grants: Sequence[Permission]) -> bool:
    return level_of(asked) is Level.NORMAL or _all_covered((*_OWN, *grants), asked)


def _without_covered(given: Sequence[Permission]) -> tuple[Permission, ...]:
    """Leave out what another one says already; of two that say the same, the later."""
    kept: list[Permission] = []
    for one in given:
        if any(covers(other, one) for other in kept):
            continue
        kept = [*(other for other in kept if not covers(one, other)), one]
    return tuple(kept)


# --- who may be connected to --------------------------------------------------------------------------------------------


def opens(given: Iterable[str], granted: Iterable[str], host: str, port: int, address: str | None = None) -> bool:
    """Whether a plugin may connect to ``host`` (a name or an IP address) at ``port``, which is (has been resolved to) ``address``.

    ``given`` is what is in effect, ``granted`` what the operator granted. A name must be given; where it leads to an address that is not public, some
    permission of either must name that address: so the operator can open a name of the own network by granting its addresses beside it, and nobody
    else can. Without ``address`` only the name is judged, as before it is resolved.

    :raises ValueError: ``host`` or ``address`` cannot be one.
    """
    wanted = parse_permission(f"network:connect:{_bracketed(host)}:{port}")
    allowed = [parse_permission(text) for text in given]
    if not any(covers(one, wanted) for one in allowed):
        return False
    if address is None or (isinstance(wanted.value, Address) and wanted.value.network is not None):
        return True
    resolved = parse_permission(f"network:connect:{_bracketed(address)}:{port}")
    assert isinstance(resolved.value, Address) and resolved.value.network is not None, "a resolver answers with addresses"  # noqa: PT018 - one assertion, for mypy
    if is_public(resolved.value.network):
        return True
    return any(covers(one, resolved) for one in (*allowed, *map(parse_permission, granted)))


def _bracketed(host: str) -> str:
    """Return an IPv6 address in the brackets that permissions have around it."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return host
    return f"[{host}]"
