"""Look for bytes that make a reader fail in a way it must not: `python -m tests.fuzz SECONDS`. What is found is kept in the corpus."""

from __future__ import annotations

import hashlib
import random
import sys
import time
from pathlib import Path

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS

CORPUS = Path(__file__).parents[1] / "corpus"


def main(seconds: float) -> int:
    """Feed every reader in turn; return how many new findings there are."""
    end, found, tried = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        seed = time.time_ns()
        for name, reader in READERS.items():
            chance = random.Random(f"{name}, {seed}")
            for _ in range(max(1, 1000 // reader.cost)):
                data = mutated(chance, reader.samples)
                tried += 1
                try:
                    reader.read(data)
                except (RecursionError, MemoryError) as error:
                    found += _keep(name, data, error)
                except reader.errors:
                    continue
                except Exception as error:
                    found += _keep(name, data, error)
    print(f"{tried} inputs, {found} findings")
    return found


def _keep(name: str, data: bytes, error: Exception) -> int:
    file = CORPUS / name / f"found-{hashlib.sha256(data).hexdigest()[:12]}.bin"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    print(f"{file}: {error!r}")
    return 1


if __name__ == "__main__":
    sys.exit(1 if main(float(sys.argv[1])) else 0)
