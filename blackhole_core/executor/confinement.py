"""What confines one instance: a value, made from manifest, grants and configuration, applied by its level."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path

import attrs

from blackhole_core.manifest.coverage import effective
from blackhole_core.manifest.model import Resources

__all__ = ["Confinement", "Sandbox", "Unenforced"]


class Sandbox(enum.StrEnum):
    """What builds the walls around a worker of level process."""

    AUTO = "auto"  #: the strongest of the others that works here
    BUBBLEWRAP = "bubblewrap"  #: the program ``bwrap``, and the layers of NATIVE inside
    NATIVE = "native"  #: namespaces, Landlock and seccomp, set up by the worker itself before plugin code is in reach
    OFF = "off"  #: none: the worker has the rights of its host


class Unenforced(enum.StrEnum):
    """What to do when something that was denied or limited cannot be enforced here."""

    REFUSE = "refuse"  #: the plugin does not start, and says why
    ALLOW = "allow"  #: it starts, and ``enforcement`` says what is not enforced


@attrs.frozen
class Confinement:
    """``requested`` (needed and optional) and ``granted`` are permissions in any spelling; only what is in both is given."""

    sandbox: Sandbox = Sandbox.OFF
    unenforced: Unenforced = Unenforced.REFUSE
    requested: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()
    resources: Resources = Resources()
    data: Path | None = None  #: the plugin's own directory, which it may write; None where it has none

    @property
    def effective(self) -> tuple[str, ...]:
        """What the plugin may do, in canonical spelling: what it asked for as far as it is granted, or needs no grant.

        A grant that is wider than the request gives the request, one that is narrower gives what is granted (a file of a directory, one host of the
        network); see :func:`blackhole_core.manifest.coverage.effective`. Everything else is denied.
        """
        return effective(self.requested, self.granted)

    def environment(self, host: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of the host's environment that the plugin may read beside those that every worker gets."""
        given = self.effective
        if "system" in given:
            return dict(host)
        names = (permission.removeprefix("env:") for permission in given if permission.startswith("env:"))
        return {name: host[name] for name in names if name in host}
