"""What keeps a plugin to its permissions, as far as anything does: one table, asked with the layers that hold around it. Pure.

A level answers with the layers that really hold for an instance, found by trying, never with those that were wanted. Without a layer nothing is enforced,
and the answer is ``none``; an area that no layer stands for is never called enforced.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from blackhole_core.manifest.coverage import parts
from blackhole_core.manifest.permissions import Permission, parse_permission

__all__ = ["Enforced", "Layer", "report"]


class Enforced(enum.StrEnum):
    """How a permission is enforced, strongest first."""

    KERNEL = "kernel"  #: the operating system, or the machine around it, refuses all else
    BROKER = "broker"  #: it goes through the host, which refuses all else, and the kernel closes the ways past the host
    ADVISORY = "advisory"  #: what is noticed is told; nothing is prevented
    NONE = "none"  #: nothing


class Layer(enum.StrEnum):
    """One thing that holds around a plugin. Which of them a level builds from what is its own business."""

    AUDIT = "audit"  #: an audit hook in this interpreter notes what passes by
    ENVIRONMENT = "environment"  #: its environment was built from nothing
    FILES = "files"  #: it reaches only the files and devices that were given to it
    NETWORK = "network"  #: it reaches no network by itself
    PROGRAMS = "programs"  #: it starts only the programs that were given to it
    RELAY = "relay"  #: the host opens connections for it and asks for each


_ALTERNATIVES: Final[Mapping[tuple[str, str], tuple[tuple[frozenset[Layer], Enforced], ...]]] = {
    area: tuple((frozenset(layers), kind) for layers, kind in alternatives)
    for areas, alternatives in (
        ((("filesystem", "read"), ("filesystem", "write")), (({Layer.FILES}, Enforced.KERNEL), ({Layer.AUDIT}, Enforced.ADVISORY))),
        (
            (("network", "connect"),),
            (
                ({Layer.NETWORK, Layer.RELAY}, Enforced.BROKER),
                ({Layer.NETWORK}, Enforced.KERNEL),  # without a relay it connects to nothing
                ({Layer.AUDIT}, Enforced.ADVISORY),
            ),
        ),
        ((("network", "listen"),), (({Layer.NETWORK}, Enforced.KERNEL), ({Layer.AUDIT}, Enforced.ADVISORY))),
        ((("process", "exec"),), (({Layer.PROGRAMS}, Enforced.KERNEL), ({Layer.AUDIT}, Enforced.ADVISORY))),
        ((("env", ""),), (({Layer.ENVIRONMENT}, Enforced.KERNEL),)),  # reading a variable raises no audit event
        ((("device", "gpu"), ("device", "kvm"), ("device", "audio")), (({Layer.FILES}, Enforced.KERNEL),)),
        # plugin:* and host:* have no row: there is no broker for calls between plugins and no such service of the host yet.
    )
    for area in areas
}
_ORDER: Final = tuple(Enforced)


def report(requested: Iterable[str], layers: Collection[Layer]) -> dict[str, str]:
    """Return how each of the permissions a plugin asks for is enforced when ``layers`` hold around it; the keys are in canonical spelling.

    What holds its limits is told by :func:`~blackhole_core.executor.limits.enforcing.limit_enforcement`.
    """
    return {str(asked): _enforced(asked, layers).value for asked in map(parse_permission, requested)}


def _enforced(asked: Permission, layers: Collection[Layer]) -> Enforced:
    """Return how ``asked`` is enforced; a coarse word as its weakest part."""
    return max((_of_part(part, layers) for part in parts(asked)), key=_ORDER.index)


def _of_part(part: Permission, layers: Collection[Layer]) -> Enforced:
    alternatives = _ALTERNATIVES.get((part.area, part.action), ())
    return next((kind for needed, kind in alternatives if needed.issubset(layers)), Enforced.NONE)
