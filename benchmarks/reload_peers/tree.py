"""The plugin that every contender reloads: so many files of ordinary code, and the edit that is made to one of them.

Six of the files are ``__init__``, the others are modules of about 125 lines: a dataclass, an enum, a class with methods, functions. So 16
files are 1,250 lines and 50 files 5,600. Each module has a function ``stamp`` whose result an edit changes, and the plugin's one hook
answers with the stamps of all modules, so that an answer tells which edits it is made of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

__all__ = ["PACKAGE", "PROJECT", "Tree", "plant"]

#: The package's name, and the entry point group of the host.
PACKAGE: Final = "acme"
PROJECT: Final = "bench"

_SUBPACKAGES: Final = ("core", "storage", "web", "jobs", "model")

_STAMP: Final = "def stamp() -> int:\n    return {value}{padding}\n"

_MODULE: Final = '''"""Module {number}: what the {number}th part of an ordinary plugin looks like."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LIMIT = {number} + 100
TABLE = {{name: index for index, name in enumerate(("red", "green", "blue", "black", "white"))}}


class Kind{number}(enum.Enum):
    SMALL = 1
    LARGE = 2
    HUGE = 3


@dataclasses.dataclass(frozen=True)
class Record{number}:
    """One row."""

    name: str
    size: int = 0
    weight: float = 1.0
    kind: Kind{number} = Kind{number}.SMALL
    tags: tuple[str, ...] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> float:
        return self.size * self.weight

    def heavier(self, by: float) -> Record{number}:
        return dataclasses.replace(self, weight=self.weight + by)


class Store{number}:
    """Keeps rows by name."""

    def __init__(self, rows: Iterable[Record{number}] = ()) -> None:
        self._rows = {{row.name: row for row in rows}}
        self._hits = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Record{number}]:
        yield from self._rows.values()

    def put(self, row: Record{number}) -> None:
        if len(self._rows) >= LIMIT:
            raise ValueError(f"more than {{LIMIT}} rows")
        self._rows[row.name] = row

    def get(self, name: str) -> Record{number} | None:
        self._hits += 1
        return self._rows.get(name)

    def total(self) -> float:
        return math.fsum(row.total for row in self)

    def by_kind(self) -> dict[Kind{number}, list[Record{number}]]:
        groups: dict[Kind{number}, list[Record{number}]] = {{}}
        for row in self:
            groups.setdefault(row.kind, []).append(row)
        return groups


@functools.lru_cache(maxsize=64)
def factor(count: int) -> int:
    return math.prod(range(1, max(2, count)))


def parse(text: str) -> Record{number}:
    name, _, rest = text.partition(":")
    size, _, weight = rest.partition(":")
    try:
        return Record{number}(name.strip(), int(size or 0), float(weight or 1.0))
    except ValueError as error:
        raise ValueError(f"wanted name:size:weight, got {{text!r}}") from error


def render(rows: Iterable[Record{number}], *, wide: bool = False) -> str:
    lines = []
    for row in rows:
        line = f"{{row.name:<20}} {{row.size:>8}} {{row.weight:>8.2f}}"
        if wide:
            line += f" {{row.kind.name}} {{','.join(row.tags)}}"
        lines.append(line)
    return "\\n".join(lines)


def summary(store: Store{number}) -> dict[str, float]:
    total = store.total()
    return {{"rows": len(store), "total": total, "mean": total / len(store) if len(store) else 0.0}}


def colours(names: Iterable[str]) -> list[int]:
    return sorted(TABLE[name] for name in names if name in TABLE)


def merge(*stores: Store{number}) -> Store{number}:
    merged = Store{number}()
    for store in stores:
        for row in store:
            merged.put(row)
    return merged


def heaviest(store: Store{number}, count: int = 3) -> list[str]:
    ranked = sorted(store, key=lambda row: (row.weight, row.name), reverse=True)
    return [row.name for row in ranked[:count]]


def split(store: Store{number}, limit: int) -> tuple[Store{number}, Store{number}]:
    small = Store{number}(row for row in store if row.size <= limit)
    large = Store{number}(row for row in store if row.size > limit)
    return small, large


'''

_PLUGIN: Final = '''"""The plugin: its one hook answers with the stamps of all modules."""

from __future__ import annotations

import pluggy

{imports}

hookimpl = pluggy.HookimplMarker("bench")

MODULES = ({modules},)


class Plugin:
    @hookimpl
    def stamps(self) -> list[int]:
        return [module.stamp() for module in MODULES]
'''

_PYPROJECT: Final = """[project]
name = "acme"
version = "1.0.0"
dependencies = ["pluggy>=1.0"]

[project.entry-points.bench]
acme = "acme.plugin:Plugin"
"""

_MANIFEST: Final = """name: acme
version: 1.0.0
description: An ordinary plugin, to be reloaded
author: Blackhole
license: MIT
capabilities: [computation]
isolation: none
config: {size: 3}
state: {version: 1}
"""


@attrs.frozen
class Tree:
    """A plugin's project directory and its modules with a ``stamp``, in the order in which the hook answers with them."""

    root: Path
    modules: tuple[Path, ...]

    def edit(self, index: int, value: int) -> Path:
        """Let the ``index``-th module's stamp be ``value`` from now on; the file is written in place and closed. Returns its path.

        The length of the file changes with the value: a tool that compares sizes and whole seconds shall see the edit as well.
        """
        file = self.modules[index]
        text = file.read_text()
        kept = text[: text.index("def stamp()")]
        file.write_text(kept + _stamp(value))
        return file

    def module_name(self, index: int) -> str:
        return ".".join(self.modules[index].relative_to(self.root).with_suffix("").parts)


def plant(root: Path, files: int, package_name: str = PACKAGE) -> Tree:
    """Write a plugin of so many Python files below ``root`` (a new directory); 8 is the least.

    One of them is the plugin's own module, six are ``__init__``.
    """
    package = root / package_name
    names = [f"{_SUBPACKAGES[number % len(_SUBPACKAGES)]}.part{number}" for number in range(files - len(_SUBPACKAGES) - 2)]
    for place in (package, *(package / name for name in _SUBPACKAGES)):
        place.mkdir(parents=True)
        (place / "__init__.py").write_text('"""A package."""\n')
    (root / "pyproject.toml").write_text(_PYPROJECT)
    (package / "plugin.yaml").write_text(_MANIFEST)
    imports = "\n".join(f"from {package_name}.{name.partition('.')[0]} import {name.partition('.')[2]}" for name in sorted(names))
    modules = ", ".join(name.partition(".")[2] for name in names)
    (package / "plugin.py").write_text(_PLUGIN.format(imports=imports, modules=modules))
    paths = []
    for number, name in enumerate(names):
        path = package.joinpath(*name.split(".")).with_suffix(".py")
        path.write_text(_MODULE.format(number=number) + _stamp(0))
        paths.append(path)
    return Tree(root, tuple(paths))


def _stamp(value: int) -> str:
    return _STAMP.format(value=value, padding="  # " + "." * (value % 60 + 1))
