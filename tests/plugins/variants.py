"""Versions of the test plugins that exist as a few edits of another version, as values.

A variant names the tree it starts from and what it changes there. Every edit must find its text exactly once, so a variant cannot silently
become its base when the base changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

__all__ = ["VARIANTS", "Edit", "Key", "Variant", "apply_variant"]

#: Plugin name and version.
Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Edit:
    """Replace ``old``, which stands exactly once in ``file``, by ``new``."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Variant:
    """``base`` with another version number everywhere and ``edits`` on top."""

    base: Key
    edits: tuple[Edit, ...] = field(default=())


_COUNTER = "notes_counter/__init__.py"
_MANIFEST = "notes_counter/plugin.yaml"
_START = '        """Nothing to get ready."""'
_HEALTH = "    def plugin_health(self) -> bool | str:\n        return True"
_INIT = "    def __init__(self) -> None:\n"
_EXPORT = "    def plugin_export_state(self) -> State:\n"
_IMPORT = "    def plugin_import_state(self, state: State) -> None:\n"


def _counter(old: str, new: str, file: str = _COUNTER) -> Variant:
    return Variant(("counter", "2.0.0"), (Edit(file, old, new),))


VARIANTS: Final[Mapping[Key, Variant]] = {
    # import_state raises
    ("counter", "2.1.0"): _counter(_IMPORT, _IMPORT + '        raise RuntimeError("import_state raised, on purpose")\n'),
    # the module cannot be imported
    ("counter", "2.2.0"): _counter(
        "import blackhole_core as bh\n", 'import blackhole_core as bh\n\nraise RuntimeError("import raised, on purpose")\n'
    ),
    # says that it is ill
    ("counter", "2.3.0"): _counter(_HEALTH, _HEALTH.replace("return True", 'return "sick"')),
    # export_state raises
    ("counter", "2.4.0"): _counter(_EXPORT, _EXPORT + '        raise RuntimeError("export_state raised, on purpose")\n'),
    # is not Python
    ("counter", "2.5.0"): _counter("class Counter:\n", "class Counter\n"),
    # plugin_start raises
    ("counter", "2.6.0"): _counter(_START, '        raise RuntimeError("plugin_start raised, on purpose")'),
    # import_state never returns
    ("counter", "2.7.0"): _counter(_IMPORT, _IMPORT + "        import notes_api\n\n        notes_api.hang()\n"),
    # its constructor ends the process
    ("counter", "2.8.0"): _counter(_INIT, _INIT + "        import os\n\n        os._exit(7)\n"),
    # export_state never returns
    ("counter", "2.9.0"): _counter(_EXPORT, _EXPORT + "        import notes_api\n\n        notes_api.hang()\n"),
    # exports what no snapshot can hold
    ("counter", "2.10.0"): _counter(_EXPORT, _EXPORT + "        return object()\n"),
    # no way leads to its state version
    ("counter", "3.0.0"): _counter("state: {version: 2, migrates: [1]}", "state: {version: 4, migrates: []}", _MANIFEST),
    ("upper", "2.0.0"): Variant(("upper", "1.0.0"), (Edit("notes_upper/__init__.py", "return text.upper()", 'return text.upper() + "!"'),)),
    ("modplug", "2.0.0"): Variant(("modplug", "1.0.0")),
    ("full", "2.0.0"): Variant(("full", "1.0.0")),
}


def apply_variant(variant: Variant, version: str, root: Path) -> None:
    """Turn the copy of ``variant.base`` at ``root`` into ``version``. An edit that does not find its text raises ``LookupError``."""
    for edit in variant.edits:
        path = root / edit.file
        text = path.read_text(encoding="utf-8")
        if (found := text.count(edit.old)) != 1:
            raise LookupError(f"{edit.file}: wanted {edit.old!r} once, found it {found} times")
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
    for path in root.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(variant.base[1], version), encoding="utf-8")
