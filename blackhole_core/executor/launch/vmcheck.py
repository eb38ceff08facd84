"""Whether level vm can run here: a question for ``doctor``, and before every guest. Quick; nothing is made and nothing fetched."""

from __future__ import annotations

import os

from blackhole_core.executor.guest.images import Images, cache_directory
from blackhole_core.executor.guest.kernel import NoKernel
from blackhole_core.executor.guest.tools import BUSYBOX, how_to_install, machine_reason, missing_programs, static_busybox
from blackhole_core.executor.launch.vmproof import remembered_accelerator

__all__ = ["vm_facts", "vm_missing"]


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


def vm_facts() -> str:
    """Return how guests run here and what they are made of, for people who look at this machine; ``none`` where they do not."""
    if vm_missing():
        return "none"
    images = Images(cache_directory(os.environ))
    kernel = images.kernel()
    accelerator = remembered_accelerator(images)
    runs = f"run by {accelerator}" if accelerator is not None else "not known yet whether KVM runs them"
    return f"kernel {kernel.release}, {runs}; images in {images.directory}, {images.size() // 2**20} MB"


def _advise(what: str, missing: list[str]) -> str:
    return f"{what}; `{how_to_install(missing)}` installs what is missing"
