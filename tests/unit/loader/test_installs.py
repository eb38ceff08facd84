"""Real editable installs, written by their own build backends, and real C extensions, compiled here."""

from __future__ import annotations

import importlib
import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.loader.universe import Universe

MakeUniverse = Callable[..., Universe]
WriteTree = Callable[[Path, dict[str, str]], Path]

MODULES = {
    "__init__.py": "V = 1\n\ndef lazy():\n    from acme.late import V\n    from importlib.metadata import version\n    return V, version('acme-plugin')\n",
    "late.py": "V = 1\n",
}

HATCHLING = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "acme-plugin"
version = "1.0"
[tool.hatch.build.targets.wheel]
packages = ["{packages}"]
"""

SETUPTOOLS = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "acme-plugin"
version = "1.0"
[tool.setuptools.packages.find]
where = ["{where}"]
include = ["acme*"]
"""

BACKENDS = {
    "hatchling-flat": ("", HATCHLING.format(packages="acme")),
    "hatchling-src": ("src/", HATCHLING.format(packages="src/acme")),
    "setuptools-flat": ("", SETUPTOOLS.format(where=".")),
    "setuptools-src": ("src/", SETUPTOOLS.format(where="src")),
    "setuptools-finder": (
        "odd/",
        SETUPTOOLS.format(where="odd") + "[tool.setuptools.package-dir]\nacme = 'odd/acme'\n",
    ),
}


@pytest.fixture(params=BACKENDS)
def installed(request: pytest.FixtureRequest, tmp_path: Path, write_tree: WriteTree) -> Iterator[Path]:
    """Install a plugin as editable into a directory of its own that is on sys.path as a site directory; return where its package lies."""
    prefix, pyproject = BACKENDS[request.param]
    backend = "hatchling.build" if request.param.startswith("hatchling") else "setuptools.build_meta"
    pytest.importorskip(backend)
    # What the backends build editable wheels with (setuptools from 70.1 on brings its own).
    pytest.importorskip("editables" if backend.startswith("hatchling") else "wheel")
    project = write_tree(tmp_path / "project", {f"{prefix}acme/{name}": text for name, text in MODULES.items()})
    (project / "pyproject.toml").write_text(pyproject)
    target = tmp_path / "site"
    # What pip does: ask the backend for the editable wheel, and unpack that.
    script = f"import {backend} as backend; backend.build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=project, check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    before = list(sys.path), list(sys.meta_path), list(sys.path_hooks), set(sys.modules)
    site.addsitedir(str(target))
    importlib.invalidate_caches()
    yield project / prefix / "acme"
    sys.path[:], sys.meta_path[:], sys.path_hooks[:] = before[:3]
    for name in set(sys.modules) - before[3]:
        if name.startswith(("__editable__", "_acme")):
            del sys.modules[name]


def test_an_editable_install_is_loaded_and_edited(installed: Path, make_universe: MakeUniverse, tmp_path: Path) -> None:
    """Flat and src layout, by path entry or by finder: found through what pip wrote, edits in the source tree make generations side by side."""
    old = make_universe(("acme",), tmp_path / "site")
    first: Any = old.load("acme")
    assert Path(first.__file__) == installed / "__init__.py"
    (installed / "late.py").write_text("V = 2\n")
    second: Any = make_universe(("acme",), tmp_path / "site").load("acme")
    assert (first.lazy(), second.lazy()) == ((1, "1.0"), (2, "1.0"))
    assert importlib.import_module("acme.late").V == 2


# --- C extensions -----------------------------------------------------------------------------------------------------------

EXTENSION = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
static int calls = 0;
static PyObject *version(PyObject *self, PyObject *ignored) {{ return Py_BuildValue("ii", {v}, ++calls); }}
static PyMethodDef methods[] = {{{{"version", version, METH_NOARGS, NULL}}, {{NULL, NULL, 0, NULL}}}};
{init}
"""
SINGLE_PHASE = """
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", NULL, -1, methods};
PyMODINIT_FUNC PyInit_fast(void) { return PyModule_Create(&module); }
"""
MULTI_PHASE = """
static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", NULL, 0, methods, slots};
PyMODINIT_FUNC PyInit_fast(void) { return PyModuleDef_Init(&module); }
"""


@pytest.fixture(params=["single phase", "multi phase"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int, Path], Path]:
    """Return a function that compiles version ``v`` of ``acme.fast`` into a package below a directory."""
    compiler = shutil.which("cc")
    include = sysconfig.get_path("include")
    if compiler is None or not (Path(include) / "Python.h").exists():
        pytest.skip("no C compiler, or no Python headers, to build an extension with")
    init = SINGLE_PHASE if request.param == "single phase" else MULTI_PHASE

    def make(v: int, root: Path) -> Path:
        (root / "acme").mkdir(parents=True, exist_ok=True)
        (root / "acme" / "__init__.py").write_text(
            "def lazy():\n    from acme.fast import version\n    from . import fast\n    return version()[0], fast.version()[0]\n"
        )
        (tmp_path / "fast.c").write_text(EXTENSION.format(v=v, init=init))
        library = root / "acme" / f"fast{sysconfig.get_config_var('EXT_SUFFIX')}"
        beside = tmp_path / f"built-{v}.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O0", f"-I{include}", tmp_path / "fast.c", "-o", beside], check=True, timeout=60)
        beside.replace(library)
        return root

    return make


def test_both_versions_of_an_extension_live_from_their_own_paths(
    build: Callable[[int, Path], Path], make_universe: MakeUniverse, tmp_path: Path
) -> None:
    """Versioned directories: machine code and its static data are each generation's own, imported lazily, and again after a third version."""
    modules: list[Any] = [make_universe(("acme",), build(v, tmp_path / str(v)), fresh=False).load("acme") for v in (1, 2, 3)]
    for _ in range(2):
        assert [module.lazy() for module in modules] == [(1, 1), (2, 2), (3, 3)]
    assert [importlib.import_module("acme.fast").version()[0]] == [3]


def test_an_extension_that_changed_at_its_path_is_refused(
    build: Callable[[int, Path], Path], make_universe: MakeUniverse, tmp_path: Path
) -> None:
    """The old machine code would be served silently; so the load fails, says why and what to do, and the old generation serves on."""
    root = build(1, tmp_path / "dev")
    old: Any = make_universe(("acme",), root).load("acme")
    assert old.lazy() == (1, 1)
    build(2, root)
    sentence = (
        "the C extension .*fast.*has changed since this process loaded it, and a process keeps the code it loaded from a path; "
        "put the new version into another directory .* or run the plugin at isolation level process"
    )
    with pytest.raises(ImportError, match=sentence):
        make_universe(("acme",), root).load("acme.fast")
    assert old.lazy() == (1, 1)
