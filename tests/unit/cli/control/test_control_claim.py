"""One host per socket, and a dead host's socket is nobody's."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.cli.control.claim import HostRunning, SocketClaim, sweep
from blackhole_core.cli.where import Where
from blackhole_core.errors import BlackholeError


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(os.environ["TMPDIR"]) / f"c{os.getpid()}"
    directory.mkdir(0o700)
    yield directory / "t.sock"
    for left in directory.iterdir():
        left.unlink()
    directory.rmdir()


def _killed_host(path: Path) -> None:
    """Have a process listen at ``path`` and be killed."""
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom blackhole_core.cli.control.claim import SocketClaim\n"
        "claim = SocketClaim(Path(sys.argv[1])); sock = claim.listen(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9


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


def test_a_disk_without_room_for_the_lock(path: Path) -> None:
    """F20: the claim is given up in a sentence, holds nothing back and leaves nothing: the next one, with room, is had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(BlackholeError, match=r"t\.sock\.lock cannot be written: File too large; make room there"):
            SocketClaim(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(path.parent.iterdir()) == []
    SocketClaim(path).release()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    """A socket nobody listens at any more is removed by who holds the claim."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with SocketClaim(path) as claim, claim.listen(), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_claim_of_a_killed_process_is_free(path: Path) -> None:
    """SIGKILL leaves socket and lock file behind, and neither stops the next host."""
    _killed_host(path)
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


def test_sockets_of_killed_hosts_are_swept(path: Path) -> None:
    """F11: of all projects; what a living host has, what has no lock, and what is no socket stays."""
    dead, stranger, other = (path.with_name(name) for name in ("dead.sock", "stranger.sock", "file.sock"))
    _killed_host(dead)
    with socket.socket(socket.AF_UNIX) as theirs, SocketClaim(path) as claim, claim.listen(), socket.socket(socket.AF_UNIX) as client:
        theirs.bind(str(stranger))
        other.write_text("precious")
        other.with_name("file.sock.lock").touch()
        other.with_name("link.sock.lock").symlink_to(other)
        assert sweep(path.parent) == (dead, other)
        assert {left.name for left in path.parent.iterdir()} == {
            "t.sock",
            "t.sock.lock",
            "stranger.sock",
            "file.sock",
            "link.sock.lock",
        }
        assert other.read_text() == "precious"
        client.connect(str(path))


def test_the_host_that_is_meant_is_the_one_that_lives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``--project`` a command finds the only host running, whatever others that were killed have left."""
    directory = path.parent / "blackhole"
    directory.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path.parent))
    monkeypatch.chdir(directory)
    _killed_host(directory / "dead.sock")
    with SocketClaim(directory / "lives.sock") as claim, claim.listen():
        assert Where().path() == directory / "lives.sock"
    directory.rmdir()


def test_hosts_that_start_while_others_sweep(path: Path) -> None:
    """A sweep that has the lock for a moment is not taken for a host."""
    done = threading.Event()

    def sweep_on() -> None:
        while not done.is_set():
            sweep(path.parent)

    sweeping = [threading.Thread(target=sweep_on) for _ in range(3)]
    for thread in sweeping:
        thread.start()
    try:
        for _ in range(30):
            with SocketClaim(path) as claim:
                claim.listen().close()
                assert path.is_socket()
    finally:
        done.set()
        for thread in sweeping:
            thread.join()
