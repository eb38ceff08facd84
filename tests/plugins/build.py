"""Put the test plugins on disk: as source trees, as wheels, as installed distributions. No network, no build isolation.

A plugin is asked for by name and version; the tree of ``upper`` 1.0.0 is ``upper_1_0/`` here, versions that differ in a few lines are made
from another one (see :mod:`tests.plugins.variants`). Each wheel is built once per test session and kept in memory (a few kB), so nothing is left on disk.
"""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from hatchling.builders.wheel import WheelBuilder

from tests.plugins.variants import VARIANTS, Key, apply_variant

__all__ = ["HERE", "NOTES_API", "build_wheel", "install_plugin", "known_plugins", "plugin_dir", "plugin_wheel"]

HERE: Final = Path(__file__).parent

#: What must be on ``sys.path`` (of hosts that tests start as well) for ``import notes_api``.
NOTES_API: Final = HERE / "notes_api"

_FOLDER: Final = re.compile(r"(?P<name>.+)_(?P<major>\d+)_(?P<minor>\d+)")
_LEFTOVERS: Final = shutil.ignore_patterns("__pycache__", ".*_cache")


def known_plugins() -> tuple[Key, ...]:
    """Return (name, version) of every test plugin there is."""
    return tuple(sorted({*_trees(), *VARIANTS}))


def plugin_dir(name: str, version: str, out: Path) -> Path:
    """Copy the source tree of a plugin to ``out/<name>-<version>``, where a test may edit it, and return that path.

    Raises ``LookupError`` for a plugin that does not exist and ``FileExistsError`` when the copy is already there.
    """
    key = (name, version)
    variant = VARIANTS.get(key)
    base = key if variant is None else variant.base
    trees = _trees()
    if base not in trees:
        raise LookupError(f"there is no test plugin {name} {version}; known: {', '.join(f'{n} {v}' for n, v in known_plugins())}")
    target = out / f"{name}-{version}"
    shutil.copytree(trees[base], target, ignore=_LEFTOVERS)
    if variant is not None:
        apply_variant(variant, version, target)
    return target


def plugin_wheel(name: str, version: str, out: Path) -> Path:
    """Write the wheel of a plugin into the directory ``out``, which is made if need be, and return its path."""
    filename, content = _plugin_wheel(name, version)
    out.mkdir(parents=True, exist_ok=True)
    path = out / filename
    path.write_bytes(content)
    return path


def build_wheel(project_dir: Path, out: Path) -> Path:
    """Build the wheel of the hatchling project at ``project_dir`` into ``out`` and return its path. Safe from several threads.

    The builder is given its directory, so the process's working directory is left alone.
    """
    [wheel] = WheelBuilder(str(project_dir)).build(directory=str(out), versions=["standard"])
    return Path(wheel)


def install_plugin(name: str, version: str, site: Path) -> Path:
    """Install a plugin into ``site`` as ``pip install --no-deps --target`` would, over another version too; return its ``.dist-info``.

    A wheel of pure Python without scripts or data files is installed by unpacking it; ours are all of that kind.
    """
    _, content = _plugin_wheel(name, version)
    with tempfile.TemporaryFile() as spool:
        spool.write(content)
        with zipfile.ZipFile(spool) as wheel:
            names = wheel.namelist()
            tops = {entry.partition("/")[0] for entry in names}
            for top in tops:
                _uninstall(top, site)
            wheel.extractall(site)
    [info] = (top for top in tops if top.endswith(".dist-info"))
    return site / info


def _uninstall(top: str, site: Path) -> None:
    """Remove ``top`` from ``site``; of a ``.dist-info`` every version."""
    pattern = f"{top.partition('-')[0]}-*.dist-info" if top.endswith(".dist-info") else top
    for path in site.glob(pattern):
        shutil.rmtree(path)


@functools.cache
def _plugin_wheel(name: str, version: str) -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="blackhole-test-wheel-") as scratch:
        wheel = build_wheel(plugin_dir(name, version, Path(scratch)), Path(scratch, "dist"))
        return wheel.name, wheel.read_bytes()


@functools.cache
def _trees() -> dict[Key, Path]:
    """Map (name, version) to the tree that is checked in for it."""
    matches = ((path, _FOLDER.fullmatch(path.name)) for path in HERE.iterdir() if path.is_dir())
    return {(match["name"], f"{match['major']}.{match['minor']}.0"): path for path, match in matches if match}
