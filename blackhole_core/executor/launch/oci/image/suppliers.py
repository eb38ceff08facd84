"""The programs that keep images here: podman and docker. They are asked for one they have, and never fetch any: that is for who runs the host."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.launch.oci.engines import COMMAND_SECONDS, last_complaint
from blackhole_core.executor.launch.oci.image.errors import BadImage
from blackhole_core.executor.launch.packages import install_command
from blackhole_core.printable import printable

__all__ = ["SUPPLIERS", "Supplier", "find_image", "suppliers_here"]

#: Seconds for writing an image of several GB to a slow disk.
_SAVE_SECONDS: Final = 1800.0
_ID: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
#: In the order in which they are asked; the first is a program that needs no daemon.
SUPPLIERS: Final = ("podman", "docker")


@attrs.frozen
class Supplier:
    """One program; both take the same commands."""

    name: str
    program: str

    def problem(self) -> str:
        """Return why it cannot be asked, empty when it can: where it is a client, nobody may answer."""
        return self._said(["image", "ls", "--quiet"])[1]

    def find(self, reference: str) -> str | None:
        """Return the id of the image that ``reference`` names, hexadecimal; None where there is none.

        :raises BadImage: it cannot be asked.
        """
        said, _ = self._said(["image", "inspect", "--format", "{{.Id}}", reference])
        if found := _ID.fullmatch(said):
            return found[1]
        if problem := self.problem():
            raise BadImage(f"{self.name} does not work here: {problem}")
        return None

    def save(self, image: str, to: Path) -> None:
        """Write the image with that id to a file.

        :raises BadImage: that failed.
        """
        _, complaint = self._said(["save", "--output", str(to), image], _SAVE_SECONDS)
        if complaint:
            raise BadImage(f"{self.name} cannot write it: {complaint}")

    def _said(self, arguments: list[str], seconds: float = COMMAND_SECONDS) -> tuple[str, str]:
        """Run it. Return what it said, and why it failed, empty when it did not."""
        try:
            done = subprocess.run(
                [self.program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "", f"no answer within {seconds:g} s"
        except OSError as error:
            return "", str(error)
        if done.returncode == 0:
            return done.stdout.strip(), ""
        return "", printable(last_complaint(done.stderr), 500) or f"it ended with status {done.returncode}"


def suppliers_here(path: str | None) -> list[Supplier]:
    """Return those that are installed."""
    found = ((name, shutil.which(name, path=path)) for name in SUPPLIERS)
    return [Supplier(name, program) for name, program in found if program is not None]


def find_image(reference: str, path: str | None) -> tuple[Supplier, str]:
    """Return who has the image, and its id.

    :raises BadImage: nobody has; the message says what to do.
    """
    reasons = []
    for supplier in (here := suppliers_here(path)):
        try:
            image = supplier.find(reference)
        except BadImage as error:
            reasons.append(str(error))
            continue
        if image is not None:
            return supplier, image
        reasons.append(f"{supplier.name} does not have it (`{supplier.name} pull {reference}`)")
    if not here:
        reasons.append(f"neither {' nor '.join(SUPPLIERS)} is installed, who keep images ({install_command('podman')})")
    raise BadImage("; ".join(reasons))
