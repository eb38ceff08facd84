"""The two released versions of ``wordcount`` as wheels, built without the network from the trees that come with the checkout or the package."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from blackhole_core.errors import BlackholeError
from blackhole_core.scratch import Scratch

__all__ = ["RELEASES", "build_releases", "release_trees"]

#: Version → place of its tree below the plugin's own: the newest is the plugin's current tree.
RELEASES: Final[Mapping[str, str]] = {"1.0.0": "releases/1.0.0", "2.0.0": "."}

_HERE: Final = Path(__file__).parent
#: Where ``contrib_plugins/wordcount`` lies: inside an installed package, or in the checkout this file is part of.
_PLACES: Final = (_HERE / "plugins" / "wordcount", _HERE.parents[2] / "contrib_plugins" / "wordcount")


def release_trees(places: tuple[Path, ...] = _PLACES) -> dict[str, Path]:
    """Return version → source tree, from the first of ``places`` that has the plugin."""
    for place in places:
        if (place / "pyproject.toml").is_file():
            return {version: place / folder for version, folder in RELEASES.items()}
    looked = " and ".join(str(place) for place in places)
    raise BlackholeError(f"the source of the demo's plugin wordcount is missing; looked in {looked}; reinstall blackhole-core")


def build_releases(out: Path, places: tuple[Path, ...] = _PLACES) -> dict[str, Path]:
    """Build the wheel of each release into ``out`` and return version → wheel.

    Needs hatchling, which the extra ``demo`` brings; without it raises :class:`~blackhole_core.errors.BlackholeError`.
    """
    try:
        from hatchling.builders.wheel import WheelBuilder
    except ModuleNotFoundError as error:
        raise BlackholeError(
            "the demo builds its plugins as wheels with hatchling, which is missing: pip install 'blackhole-core[demo]'"
        ) from error

    wheels = {}
    for version, tree in release_trees(places).items():
        with Scratch() as scratch:
            # A copy, because hatchling obeys the .gitignore of whatever repository lies around the tree it builds.
            copy = shutil.copytree(
                tree, scratch.new("demo") / "tree", ignore=shutil.ignore_patterns("releases", "tests", "__pycache__", ".*")
            )
            [wheel] = WheelBuilder(str(copy)).build(directory=str(out), versions=["standard"])
        wheels[version] = Path(wheel)
    return wheels
