"""What of a host's import path another interpreter has a use for."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["beyond_library"]


def beyond_library(import_path: Iterable[str]) -> tuple[str, ...]:
    """Return the entries that exist, without those of this interpreter's standard library, which each interpreter has itself."""
    import sysconfig  # reads much; only who starts another interpreter needs it

    paths = (*(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")), sysconfig.get_config_var("DESTSHARED"))
    own = {os.path.realpath(path) for path in paths if path}
    return tuple(entry for entry in import_path if os.path.exists(entry) and os.path.realpath(entry) not in own)  # noqa: PTH110 - it is text
