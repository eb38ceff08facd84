"""Run benchmarks, one process each: ``python -m benchmarks [NAME …] [--rounds N] [--json FOLDER] [--check]``.

A benchmark is a file of this folder; without names all of them run. ``--json`` takes a folder here and gets one file per benchmark.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

#: What lies beside the benchmarks and is none.
_NOT_BENCHMARKS: Final = frozenset({"__init__", "__main__", "harness"})


def known() -> list[str]:
    """Return the names of the benchmarks there are."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in _NOT_BENCHMARKS)


def main() -> int:
    """Run what was asked for; the exit status is 1 when any of it failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure side by side with the peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(known())}")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write NAME.json files there")
    options, passed_on = parser.parse_known_args()
    unknown = sorted(set(options.names) - set(known()))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(known())}")
    if options.json is not None:
        options.json.mkdir(parents=True, exist_ok=True)
    failed = [name for name in options.names or known() if not _run(name, options.json, passed_on)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, folder: Path | None, passed_on: list[str]) -> bool:
    command = [sys.executable, "-m", f"benchmarks.{name}", *passed_on]
    if folder is not None:
        command += ["--json", str(folder / f"{name}.json")]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
