"""One session, one purpose. A newcomer needs two of them: ``nox -s demo`` and ``nox -s tests``.

Every session runs on the Python that runs nox, in a plain virtual environment; what it needs is listed once, in the
``[dependency-groups]`` of ``pyproject.toml``. Arguments after ``--`` go to the program that the session runs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"  # the first with nox.project.dependency_groups
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests", "lint", "typing", "layers", "docs"]
nox.options.error_on_missing_interpreters = True

HERE = Path(__file__).parent

#: Most tests wait for a process or a deadline, and one process of pytest keeps a third of a core busy. Each file is run by one of them, so what its
#: fixtures build is built once; which file is begun when is the order of collection, see ``tests/conftest.py``.
SIDE_BY_SIDE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")

PYPROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, package: bool = True) -> None:
    """Install dependency groups and, unless told not to, this project as an editable install."""
    requirements = nox.project.dependency_groups(PYPROJECT, *groups) if groups else ()
    project = ("-e", ".") if package else ()
    session.install("--quiet", *requirements, *project)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite in two processes; warnings are errors, leaks are failures. ``python -m pytest PATH`` runs a part of it in one."""
    install(session, "tests")
    if "vm" in os.environ.get("BLACKHOLE_REQUIRE_LEVELS", "").split(","):
        session.run("blackhole", "vm", "build")  # fetches a kernel where there is none, once
    session.run("python", "-m", "pytest", *SIDE_BY_SIDE, *session.posargs)


@nox.session
def machines(session: nox.Session) -> None:
    """Run what takes minutes where virtual machines are emulated: what every level must do, their column of the table of faults, twenty swaps, the demo."""
    install(session, "tests")
    session.run("blackhole", "vm", "build")
    tests = ("tests/conformance", "tests/integration/test_vm_life.py", "tests/integration/test_demo.py")
    environment = {"BLACKHOLE_MACHINES": "yes", "BLACKHOLE_REQUIRE_LEVELS": "vm"}
    session.run("python", "-m", "pytest", *tests, "-k", "vm", *session.posargs, env=environment)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the test suite and report branch coverage of the package, as far as it runs in the host or the command line."""
    install(session, "tests")
    session.run("python", "-m", "pytest", "--cov", "--cov-report=term-missing:skip-covered", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Show real plugins called, swapped, rolled back and killed under load at each level."""
    session.install("--quiet", "-e", ".[demo]")
    session.run("blackhole", "demo", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and formatting."""
    install(session, "lint", package=False)
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the package, and of typing/, which is code a user would write."""
    install(session, "typing")
    session.run("mypy", *session.posargs)
    # What the tests lean on. Apart from the rest, because the folder typing/ must not be taken for the module of that name.
    session.run("mypy", "--explicit-package-bases", "tests/conftest.py", "tests/leaks.py", "tests/levels.py")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports only point down and that the pure modules are pure."""
    install(session, "layers")
    session.run("lint-imports", "--no-logo", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning or a dangling reference fails it. The code blocks are run by ``tests``."""
    install(session, "docs")
    session.run("python", "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html", *session.posargs)


@nox.session
def compat(session: nox.Session) -> None:
    """Run pluggy's own test suite with our manager in place of its own."""
    install(session, "tests")
    session.run("python", "-m", "tests.compat.run", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Crash and swap a plugin behind walls for ten minutes under load (``-- --seconds N`` for another time); no call may be lost, nothing may grow."""
    install(session, "tests")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against the peers, side by side, and print ratios."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel, check their metadata, and use the installed wheel from outside the checkout."""
    install(session, "build", package=False)
    dist = HERE / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    session.run("twine", "check", "--strict", *map(str, sorted(dist.iterdir())))
    (wheel,) = dist.glob("*.whl")
    session.install("--quiet", "--force-reinstall", str(wheel))
    session.chdir(session.create_tmp())
    session.run("python", "-c", "import blackhole_core; print(blackhole_core.__version__, blackhole_core.__file__)")
    session.run("blackhole", "--version")
