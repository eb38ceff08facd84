"""A plugin that is a module: functions instead of methods, and parts that are imported in every usual way.

Each part says the version it believes to be of. After a swap all of them must say the new one (S-17).
"""

from __future__ import annotations

import importlib
import importlib.resources
from pathlib import Path

import pluggy

from notes_modplug import eager as eager_absolute

from . import eager as eager_relative

hookimpl = pluggy.HookimplMarker("notes")

VERSION = "1.0.0"


@hookimpl
def transform(text: str) -> str:
    return f"{text} by modplug"


@hookimpl
def version() -> str:
    """Return the one version that all parts agree on, or what each of them says."""
    said = {part: pick(part) for part in PARTS}
    return VERSION if set(said.values()) == {VERSION} else repr(said)


@hookimpl
def pick(text: str) -> str | None:
    """Return what the part named ``text`` says; None when there is no such part."""
    part = PARTS.get(text)
    return None if part is None else part()


def _lazy_relative() -> str:
    from . import lazy

    return lazy.VERSION


def _lazy_absolute() -> str:
    import notes_modplug.deep.lazy

    return notes_modplug.deep.lazy.VERSION


def _lazy_by_name() -> str:
    named: str = importlib.import_module(".named", __name__).VERSION
    return named


def _data_beside_file() -> str:
    return Path(__file__).with_name("version.txt").read_text(encoding="utf-8").strip()


def _data_as_resource() -> str:
    return importlib.resources.files(__name__).joinpath("version.txt").read_text(encoding="utf-8").strip()


#: Name of a part → how to ask it.
PARTS = {
    "module": lambda: VERSION,
    "eager_relative": lambda: eager_relative.VERSION,
    "eager_absolute": lambda: eager_absolute.VERSION,
    "lazy_relative": _lazy_relative,
    "lazy_absolute": _lazy_absolute,
    "lazy_by_name": _lazy_by_name,
    "data_beside_file": _data_beside_file,
    "data_as_resource": _data_as_resource,
}
