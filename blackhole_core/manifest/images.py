"""How an image is named: a reference as podman and docker know it, or the path of one in the OCI layout. Pure.

``oci:/srv/images/tools`` is a directory or a tar archive in that layout (or what ``docker save`` writes), ``oci:/srv/images/tools:1.2`` the one in it that is called so.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LAYOUT", "reference_problem", "stored_problem"]

#: What a path of an image begins with.
LAYOUT: Final = "oci:"
#: ``[host[:port]/]name[:tag][@digest]``, of the distribution specification; the digest is what cannot be changed afterwards.
_REFERENCE: Final = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
#: Characters of a reference; registries take 255 for a name.
_LONGEST: Final = 512


def reference_problem(text: str) -> str | None:
    """Say what is wrong with an image's name in a host's configuration, as the end of a sentence that begins with it, or None."""
    if text.startswith(LAYOUT):
        return None if text.startswith(f"{LAYOUT}/") else "; after oci: comes an absolute path"
    return stored_problem(text)


def stored_problem(text: str) -> str | None:
    """Say what is wrong with an image's name in a manifest, likewise: a plugin may not name files of its host."""
    if text.startswith(LAYOUT):
        return "; only the host's configuration can name an image by its path"
    return None if len(text) <= _LONGEST and _REFERENCE.fullmatch(text) else ""
    return None
