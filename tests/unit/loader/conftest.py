"""Small plugins written to disk, and a net that catches a test which leaves a universe behind."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blackhole_core.loader import universe as universe_module
from blackhole_core.loader.universe import Universe

WriteTree = Callable[[Path, dict[str, str]], Path]

#: Every construct that must stay inside its generation, each as a function of one argument-free plugin. V is the version.
ACME = {
    "acme/__init__.py": """
        V = {v}
        from .core import Plugin
    """,
    "acme/core.py": """
        import dataclasses
        import enum
        import threading
        from acme.util import HELPER
        V = {v}

        class Colour(enum.Enum):
            RED = {v}

        @dataclasses.dataclass
        class Point:
            x: "int" = {v}

            class Inner:
                pass

        class Plugin:
            def version(self): return (V, HELPER)

            def lazy(self, number):
                # Absolute, relative, aliased and from-package imports of a module nobody has imported before.
                name = f"late{{number}}"
                scope = {{"__package__": "acme", "__name__": "acme.core"}}
                exec(f"from acme.{{name}} import V as a\\nfrom .{{name}} import V as b\\nimport acme.{{name}} as c\\nfrom . import {{name}} as d", scope)
                return (scope["a"], scope["b"], scope["c"].V, scope["d"].V)

            def absolute(self):
                from acme.util import HELPER
                import acme.util
                import acme.util as aliased
                return (HELPER, acme.util.HELPER, acme.V, aliased.HELPER)

            def relative(self):
                from .util import HELPER
                from . import util
                from . import V
                return (HELPER, util.HELPER, V)

            def in_thread(self):
                found = []
                thread = threading.Thread(target=lambda: found.extend(self.absolute()))
                thread.start()
                thread.join()
                return tuple(found)

            def numbers(self):
                for _ in range(100):
                    from acme.util import HELPER
                    yield HELPER
    """,
    "acme/util.py": "HELPER = {v}\n",
    **{f"acme/late{number}.py": "V = {v}\n" for number in range(40)},
}


@pytest.fixture
def write_tree() -> WriteTree:
    def write(root: Path, files: dict[str, str]) -> Path:
        for name, text in files.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        return root

    return write


@pytest.fixture
def acme(tmp_path: Path, write_tree: WriteTree) -> Callable[[int], Path]:
    """Return a function that writes version ``v`` of the plugin ``acme`` into a directory of its own."""

    def write(v: int) -> Path:
        return write_tree(tmp_path / f"acme-{v}", {name: textwrap.dedent(text).format(v=v) for name, text in ACME.items()})

    return write


@pytest.fixture
def make_universe(request: pytest.FixtureRequest) -> Iterator[Callable[..., Universe]]:
    """Return a function that makes universes; those still loaded at the end are released."""
    made: list[Universe] = []

    def make(packages: tuple[str, ...], path: Path, *, fresh: bool = True) -> Universe:
        made.append(Universe(packages, path, f"{request.node.name.partition('[')[0]}-{len(made)}", fresh=fresh))
        return made[-1]

    yield make
    for universe in reversed(made):
        universe.release()


@pytest.fixture(autouse=True)
def no_generation_left() -> Iterator[None]:
    """After each test no module of a test plugin and no generation is left."""
    before = set(sys.modules)
    yield
    assert not universe_module._table.stack
    assert not [name for name in set(sys.modules) - before if "@" in name or name.partition(".")[0] in ("acme", "nsp", "solo")]
