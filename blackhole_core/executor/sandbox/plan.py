"""From what confines an instance to the walls of its worker. In the host."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from blackhole_core.executor.confinement import Confinement, Unenforced
from blackhole_core.executor.sandbox.imageroot import ImageRoot
from blackhole_core.executor.sandbox.places import Granted, interpreter_places, is_in, places_of, simplify, spelled
from blackhole_core.executor.wire import policy as policy_module
from blackhole_core.executor.wire.policy import Layer, Place, Policy, Wall
from blackhole_core.manifest.permissions import parse_permission

__all__ = ["TEMPORARY_SIZE", "draw_up"]

#: Bytes of a worker's private /tmp, which is memory; a limit on memory counts it, too.
TEMPORARY_SIZE: Final = 256 * 2**20
#: Where it is, in a root of its own: the first that is no place of the host's, as where its programs lie in /tmp.
_TEMPORARY: Final = (b"/tmp", b"/var/tmp", b"/run/tmp", b"/blackhole-tmp")
#: The number of no process, for a worker that could see another one under the host's: above the kernel's PID_MAX_LIMIT.
_NO_PROCESS: Final = 2**22 + 1
#: Files that a host can read and no plugin needs, to find out whether it can.
_UNREADABLE: Final = ("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname")
#: ``setrlimit(2)``: no core files, which would hold what the plugin knew.
_RLIMIT_CORE: Final = 4


def draw_up(
    confinement: Confinement,
    *,
    plugin: Path,
    import_path: Sequence[str],
    layers: Iterable[Layer],
    temporary: Path | None,
    around: Iterable[Layer] = (),
    image: ImageRoot | None = None,
) -> Policy:
    """Return the walls of a worker of the plugin at ``plugin``, which has to build ``layers``, and finds ``around`` there.

    ``temporary`` is a directory made for it, None where it has a root, and so a /tmp, of its own. ``image`` is what that root is made of, None: of this machine.

    :raises UnsafePath: a granted path leads somewhere else than it says.
    """
    around = tuple(around)
    own = _own_directories(confinement, plugin)
    granted = Granted([parse_permission(text) for text in confinement.effective], own, image)
    private = () if temporary is None else (_whole(temporary, write=True),)
    needed = interpreter_places((*import_path, str(plugin))) if image is None else (*image.places(import_path), *spelled(str(plugin)))
    places = simplify((*needed, *places_of(granted), *private))
    own_temporary = next(path for path in _TEMPORARY if not any(is_in(path, place.target) for place in places if place.target != b"/"))
    writable = own.get("${data}", temporary)
    return Policy(
        places=places,
        layers=tuple(layers),
        required=tuple(Wall) if confinement.unenforced is Unenforced.REFUSE else (),
        around=around,
        host=os.getpid() if Layer.PID not in around else _NO_PROCESS,
        programs=granted.programs,
        temporary=own_temporary if temporary is None else os.fsencode(temporary),
        temporary_size=TEMPORARY_SIZE if temporary is None else 0,
        home=os.fsencode(writable) if writable is not None else own_temporary,
        unreadable=_first(_UNREADABLE, places, write=False) if image is None else os.fsencode(image.unreadable),
        unwritable=_first((policy_module.__file__,), places, write=True) if image is None else image.unwritable,
        limits=((_RLIMIT_CORE, 0, 0),),
    )


def _own_directories(confinement: Confinement, plugin: Path) -> Mapping[str, Path]:
    """Return the plugin's own directories by the names that permissions have for them."""
    return {"${plugin}": plugin} if confinement.data is None else {"${plugin}": plugin, "${data}": confinement.data}


def _whole(path: Path, *, write: bool) -> Place:
    return Place(os.fsencode(os.path.realpath(path)), os.fsencode(path), write)


def _first(candidates: Iterable[str], places: Sequence[Place], *, write: bool) -> bytes:
    """Return the first file that the host can open and the worker must not be able to; empty when there is none."""
    for candidate in candidates:
        path = os.fsencode(os.path.realpath(candidate))
        allowed = any(is_in(path, place.source) for place in places if place.write or not write)
        if not allowed and os.access(path, os.W_OK if write else os.R_OK):
            return path
    return b""
