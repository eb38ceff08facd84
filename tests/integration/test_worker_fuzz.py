"""Real workers that send damaged messages: each is cut off or goes on, its caller is told, and nobody else notices."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from blackhole_core.errors import BlackholeError, RemoteError
from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS
from tests.stage import Running, Stage, eventually

#: Starting one takes a tenth of a second: `tests/fuzz` tries thousands without a worker.
WORKERS = 12


@pytest.mark.parametrize("moment", ["in a call", "while it comes up"])
def test_damaged_frames_cost_their_sender_only(stage: Stage, moment: str) -> None:
    """A02, A04, A05: after any such stream the caller has a value or a typed error, the host its threads, and another plugin its answers."""
    other = stage.start("counter")
    chance = random.Random(f"workers, {moment}")
    for number in range(1, WORKERS + 1):
        noise = b"".join(mutated(chance, READERS["frames"].samples)[:20_000] for _ in range(3))
        begin = "come_up()\nhear()\n" if moment == "in a call" else ""
        runner = stage.hostile(
            f"{begin}try:\n    raw({noise!r})\nexcept OSError:\n    pass\nos._exit(3)", start_timeout=10.0, call_timeout=10.0
        )
        try:
            running = Running(runner, runner.start())
            assert isinstance(running("transform", "x"), str | None)
        except (BlackholeError, TypeError):
            pass
        except Exception as error:  # one that the damaged message itself described
            assert isinstance(error, RemoteError) or "worker" in "".join(getattr(error, "__notes__", ())), repr(error)  # noqa: PT017 - it need not be raised
        assert eventually(lambda: runner.pid is None)  # noqa: B023 - asked at once
        assert other("add", 1) == number


_CHANNEL = """
import fcntl, os, stat
class Plugin:
    @hookimpl
    def transform(self, text: str) -> str:
        return text
    @hookimpl
    def raw(self, value):
        written = 0
        for descriptor in range(3, 30):
            try:
                if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_WRONLY:
                    written += os.write(descriptor, value) > 0
            except OSError:
                pass
        return written
"""


@pytest.mark.parametrize("noise", [b"\xff" * 64, b"\x00\x00\x00\x02\x91\x63", b"\x00\x00\x00\x04\x93\x05\x63\xc0"])
def test_a_plugin_that_writes_into_its_own_channel(stage: Stage, noise: bytes, tmp_path: Path) -> None:
    """A05: plugin code can reach the worker's descriptors; what it writes there ends its own worker, with the reason, and the next one serves."""
    other = stage.start("counter")
    plugin = stage.start("adhoc", **stage.write(tmp_path, _CHANNEL))
    ends: list[object] = []
    plugin.remote.watch(ends.append)
    try:
        assert plugin("raw", noise) >= 1
    except BlackholeError:
        pass
    assert eventually(lambda: ends)
    assert "it broke the protocol" in str(ends[0].reason)  # type: ignore[attr-defined]  # the module, or object, is the test's own
    plugin.remote.restart(lambda via: None)
    assert (plugin("transform", "next"), other("add", 1)) == ("next", 1)
