"""The programs that run OCI bundles: how each is called, and what each cannot do. One interface, the command line that they share."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import attrs

__all__ = ["ENGINES", "Engine", "find_engine"]

#: Seconds for a command that only tells or removes something.
COMMAND_SECONDS: Final = 20.0


@attrs.frozen
class Engine:
    """One program. ``options`` come before each command. ``passes`` says whether it passes descriptors into the container beside the standard streams,
    and has that on the host's own kernel, so that memory can be shared.
    """

    name: str
    program: str = ""  #: its path
    options: tuple[str, ...] = ()
    passes: bool = True

    def run(self, root: Path, bundle: Path, container: str) -> list[str]:
        """Return the command that runs a container until it ends, with descriptor 3 passed in if it can be."""
        passed = ["--preserve-fds", "1"] if self.passes else []
        return [*self._begin(root), "run", "--bundle", str(bundle), *passed, container]

    def delete(self, root: Path, container: str) -> list[str]:
        """Return the command that ends a container, whatever state it is in, and removes all that belongs to it."""
        return [*self._begin(root), "delete", "--force", container]

    def _begin(self, root: Path) -> list[str]:
        return [self.program, *self.options, "--root", str(root)]

    def version(self) -> str:
        """Return the first line of what it says about its version; empty when it says nothing."""
        try:
            said = subprocess.run([self.program, "--version"], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return said.stdout.partition("\n")[0].strip()


#: In the order in which they are tried.
ENGINES: Final = (Engine("runc"), Engine("crun"), Engine("runsc", options=("--network=none", "--ignore-cgroups"), passes=False))
#: Where system programs are that a user's PATH may not name.
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_engine(engine: Engine, path: str | None) -> Engine | None:
    """Return the engine with its program as found on ``path`` or where systems keep theirs; None when there is none."""
    program = shutil.which(engine.name, path=path) or shutil.which(engine.name, path=_SYSTEM_PATH)
    return attrs.evolve(engine, program=program) if program else None


_LEVELS: Final = re.compile(r"time=\S+ level=(?:error|fatal|warning|info|debug) msg=")


def last_complaint(log: str) -> str:
    """Return the last line an engine wrote, without when and how loud it was; empty when it wrote nothing."""
    lines = [line for line in log.splitlines() if line.strip()]
    last = _LEVELS.sub("", lines[-1]).strip() if lines else ""
    quoted = len(last) > 1 and last[0] == last[-1] == '"'
    return last[1:-1].replace('\\"', '"') if quoted else last
