"""What importing us costs over importing pluggy, in fresh interpreters: ``python -m benchmarks.import_time [--json FILE]``."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Final

from benchmarks.harness import Case, Loop, main

#: Milliseconds that the import of the manager may take over pluggy's.
BUDGET: Final = 60

_MODULES: Final = ("pluggy", "blackhole_core", "blackhole_core.manager")
_PROGRAM: Final = "import time; begun = time.perf_counter(); import {}; print(time.perf_counter() - begun)"


def importing(module: str) -> Loop:
    """Return the loop that imports ``module`` in ``n`` fresh interpreters and adds up what the imports alone took."""

    def loop(count: int) -> float:
        command = [sys.executable, "-c", _PROGRAM.format(module)]
        return sum(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(count))

    return loop


def median_milliseconds(module: str, rounds: int = 15) -> float:
    """Return the median time of one import."""
    return sorted(importing(module)(1) for _ in range(rounds))[rounds // 2] * 1000


def run() -> int:
    """Measure, print, and say what stands over pluggy."""
    begun = time.perf_counter()
    cases = [Case("import in a fresh interpreter", module, importing(module)) for module in _MODULES]
    status = main("Importing", "pluggy", cases)
    pluggy = median_milliseconds("pluggy")
    for module in _MODULES[1:]:
        print(f"{module}: {median_milliseconds(module) - pluggy:.1f} ms over pluggy (budget {BUDGET} ms)")
    print(f"measured in {time.perf_counter() - begun:.0f} s")
    return status


if __name__ == "__main__":
    raise SystemExit(run())
