"""One host per socket, and a dead host's socket is nobody's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.cli.control.claim import HostRunning, SocketClaim
from blackhole_core.errors import BlackholeError


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(os.environ["TMPDIR"]) / f"c{os.getpid()}"
    directory.mkdir(0o700)
    yield directory / "t.sock"
    for left in directory.iterdir():
        left.unlink()
    directory.rmdir()


def test_a_second_claim_is_refused(path: Path) -> None:
    """Who comes second is told which process has it; afterwards it is free."""
    with SocketClaim(path), pytest.raises(HostRunning, match=f"process {os.getpid()}"):
        SocketClaim(path)
    SocketClaim(path).release()


def test_a_claim_leaves_nothing(path: Path) -> None:
    """Socket and lock are gone after it; releasing twice is once."""
    claim = SocketClaim(path)
    claim.listen().close()
    assert path.is_socket()
    claim.release()
    claim.release()
    assert list(path.parent.iterdir()) == []


def test_a_stale_socket_is_replaced(path: Path) -> None:
    """A socket nobody listens at any more is removed by who holds the claim."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with SocketClaim(path) as claim, claim.listen(), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_claim_of_a_killed_process_is_free(path: Path) -> None:
    """SIGKILL leaves socket and lock file behind, and neither stops the next host."""
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom blackhole_core.cli.control.claim import SocketClaim\n"
        "claim = SocketClaim(Path(sys.argv[1])); sock = claim.listen(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert {left.name for left in path.parent.iterdir()} == {"t.sock", "t.sock.lock"}
    with SocketClaim(path) as claim:
        claim.listen().close()


def test_what_is_no_socket_is_not_removed(path: Path) -> None:
    """A file of somebody at the socket's path stays, and the sentence says so."""
    path.write_text("precious")
    with SocketClaim(path) as claim, pytest.raises(BlackholeError, match="is no socket and was not made by a host"):
        claim.listen()
    assert path.read_text() == "precious"
    path.unlink()
