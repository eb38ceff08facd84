"""Run benchmarks, one process each: ``python -m benchmarks [NAME …] [--json FILE] [--check] [--rounds N]``.

A benchmark is a file of this folder that can be run, most of them a row of the table in ``docs/explanation/performance.md``; without names all
of them run. What else is given goes to each benchmark.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

#: What can be run here and measures nothing.
_NOT_BENCHMARKS: Final = frozenset({"__main__", "crash_peers", "page", "process_peers"})


def known() -> dict[str, str]:
    """Return the benchmarks there are, and what each is about: the first words of its docstring."""
    return {file.stem: about for file in sorted(Path(__file__).parent.glob("*.py")) if (about := _about(file)) is not None}


def _about(file: Path) -> str | None:
    source = file.read_text()
    if file.stem in _NOT_BENCHMARKS or '\nif __name__ == "__main__":' not in source:
        return None
    docstring = ast.get_docstring(ast.parse(source)) or "?"
    return docstring.partition("\n")[0].partition(": ``")[0].rstrip(".")


def main() -> int:
    """Run what was asked for; the exit status is 1 when any of it failed."""
    benchmarks = known()
    listed = "\n".join(f"  {name:<15} {about}" for name, about in benchmarks.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure side by side with the peers. Without names everything is measured, which takes a while.",
        epilog=f"benchmarks:\n{listed}\n\n`python -m benchmarks.NAME --help` shows what one of them takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure")
    parser.add_argument("--list", action="store_true", help="show the benchmarks and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of all of them there, for `python -m benchmarks.page`")
    options, passed_on = parser.parse_known_args()
    if options.list:
        print(listed)
        return 0
    unknown = sorted(set(options.names) - set(benchmarks))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(benchmarks)}")
    return _run_all(options.names or list(benchmarks), options.json, passed_on)


def _run_all(names: list[str], to: Path | None, passed_on: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        files = {name: Path(folder, f"{name}.json") for name in names}
        failed = [name for name, file in files.items() if not _run(name, file if to is not None else None, passed_on)]
        if to is not None:  # those that measured and missed a target have written theirs, too
            found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
            to.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, to: Path | None, passed_on: list[str]) -> bool:
    command = [sys.executable, "-m", f"benchmarks.{name}", *passed_on]
    if to is not None:
        command += ["--json", str(to)]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
