"""Run pluggy's own test suite, whole, with our manager in place of pluggy's.

    python -m tests.compat.run [--cache DIR] [--manager MODULE:CLASS]

Takes pluggy's source distribution from the package index (kept in the cache directory), unpacks it into a temporary directory
and runs its ``testing/`` directory twice in processes of their own: first on pluggy itself, which says how many tests there
are, then on our manager. There pytest itself runs on our manager too. Exit status: 0 only if every test passed on ours and
exactly as many ran as on pluggy.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Final

import attrs

PLUGGY: Final = "1.7.0"
DEFAULT_MANAGER: Final = "blackhole_core:PluginManager"

#: Seconds one run of the suite may take; it takes about five.
_TIMEOUT: Final = 600


@attrs.frozen
class Outcome:
    """How one run ended: pytest's exit status and its counts."""

    status: int
    tests: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        return f"{self.tests} tests, {self.tests - self.failed - self.skipped} passed, {self.failed} failed, {self.skipped} skipped"


def fetch_sdist(cache: Path) -> Path:
    """Return pluggy's source distribution in ``cache``, downloaded by pip if it is not there."""
    archive = cache / f"pluggy-{PLUGGY}.tar.gz"
    if not archive.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--dest",
            str(cache),
            f"pluggy=={PLUGGY}",
        ]
        subprocess.run(command, check=True)
    return archive


def unpack(archive: Path, target: Path) -> Path:
    """Unpack ``archive`` below ``target``, refusing members that would leave it; return the one directory inside."""
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    (root,) = target.iterdir()
    return root


def run_suite(root: Path, manager: str | None, report: Path) -> Outcome:
    """Run ``root``'s suite in a process of its own, on ``manager`` or, for None, on pluggy's."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("session.py")), manager or "", str(report)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE_"))}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    ended = subprocess.run(command, cwd=root / "testing", env=environment, timeout=_TIMEOUT, check=False)
    return outcome_of(report, ended.returncode)


def outcome_of(report: Path, status: int) -> Outcome:
    """Read the counts from pytest's XML report; a run that wrote none counts as no test at all."""
    if not report.is_file():
        return Outcome(status, 0, 0, 0)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, f"{report} holds no test suite"
    return Outcome(
        status, int(suite.get("tests", 0)), int(suite.get("failures", 0)) + int(suite.get("errors", 0)), int(suite.get("skipped", 0))
    )


def ensure_benchmark_plugin() -> None:
    """Install pytest-benchmark, which part of the suite needs, if it is missing: nothing is left out."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "pytest-benchmark"], check=True)


def verdict(theirs: Outcome, ours: Outcome) -> str | None:
    """Return what is wrong, None if our manager is a full replacement."""
    if theirs.status != 0 or theirs.tests == 0:
        return f"pluggy's suite does not pass on pluggy itself here ({theirs}): nothing can be concluded"
    if ours.tests != theirs.tests or ours.skipped > theirs.skipped:
        return (
            f"pluggy's suite has {theirs.tests} tests ({theirs.skipped} skipped), on our manager ran {ours.tests} ({ours.skipped} skipped)"
        )
    if ours.status != 0 or ours.failed:
        return f"{ours.failed} tests of pluggy's suite fail on our manager"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Fetch, run twice, compare, print."""
    parser = argparse.ArgumentParser(prog="tests.compat", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=Path(".nox") / "compat-cache", help="where the source distribution is kept")
    parser.add_argument("--manager", default=DEFAULT_MANAGER, help="MODULE:CLASS to test")
    options = parser.parse_args(arguments)
    ensure_benchmark_plugin()
    archive = fetch_sdist(options.cache.resolve())
    print(f"{archive.name} sha256 {hashlib.sha256(archive.read_bytes()).hexdigest()}")
    with tempfile.TemporaryDirectory(prefix="blackhole-compat-") as scratch:
        root = unpack(archive, Path(scratch) / "sdist")
        theirs = run_suite(root, None, Path(scratch) / "theirs.xml")
        ours = run_suite(root, options.manager, Path(scratch) / "ours.xml")
    print(f"pluggy {PLUGGY} on pluggy:  {theirs}")
    print(f"pluggy {PLUGGY} on {options.manager}:  {ours}")
    wrong = verdict(theirs, ours)
    if wrong is not None:
        print(f"NOT COMPATIBLE: {wrong}", file=sys.stderr)
        return 1
    print("COMPATIBLE: all of it passes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
