"""Whether level vm can run here: a question for ``doctor``, and before every guest. Quick; nothing is made and nothing fetched."""

from __future__ import annotations

import os

from blackhole_core.executor.guest.images import Images, cache_directory
from blackhole_core.executor.guest.kernel import NoKernel
from blackhole_core.executor.guest.tools import BUSYBOX, install_command, machine_reason, missing_programs, static_busybox

__all__ = ["vm_missing"]


def vm_missing() -> str:
    """Return what is missing and what to do, empty when nothing is."""
    if reason := machine_reason():
        return reason
    missing = missing_programs()
    if missing:
        return _advise(f"{', '.join(missing)} not found", missing)
    if static_busybox() is None:
        return _advise(f"the {BUSYBOX} here needs shared libraries, the guest needs one that does not", [BUSYBOX])
    try:
        Images(cache_directory(os.environ)).kernel()
    except NoKernel as reason_:
        return str(reason_)
    return ""


def _advise(what: str, missing: list[str]) -> str:
    command = install_command(missing)
    return f"{what}; `{command}` installs what is missing" if command else f"{what}; install {', '.join(missing)}"
