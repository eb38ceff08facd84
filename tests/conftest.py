"""What every test gets: a leak check around it, a private temporary directory, levels that may not go missing."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from blackhole_core.ids import Isolation
from tests import leaks, levels

if TYPE_CHECKING:
    from tests.stage import Stage

# A shell that starts this in the background has SIGINT ignored, which every child would inherit: no test that presses Ctrl-C would end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests judge values, never how long one example took, or was made, on a busy machine. Here, because it holds for what is collected afterwards.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

#: Seconds to remove the temporary directory of a host of this process: on a disk that others keep busy it takes more than the product gives it, and
#: what it then leaves to the next host would count as left behind by the test.
TIME_TO_REMOVE = 60.0

#: Seconds; the default is 5 ms. At 10 µs threads are switched some 500 times as often, which opens races that a year of
#: ordinary runs would not meet.
FAST_SWITCH_INTERVAL = 1e-5


@pytest.fixture(scope="session", autouse=True)
def private_temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this run, and every process it starts, a temporary directory of its own: what appears in it is ours."""
    tmp_path_factory.getbasetemp()  # settled first: pytest keeps its own directories where people look for them
    # Directly below the system's directory, because a Unix socket's path may have at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="bh-"))
    previous = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    try:
        yield directory
    finally:
        tempfile.tempdir = None
        if previous is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = previous
        shutil.rmtree(directory)


@pytest.fixture(scope="session", autouse=True)
def time_to_remove() -> Iterator[None]:
    """Have hosts of this process remove their temporary directories however busy the disk is."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("blackhole_core.scratch.REMOVE_SECONDS", TIME_TO_REMOVE)
        yield


@pytest.fixture(scope="session", autouse=True)
def private_cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep this run, and every process it starts, out of the user's cache, but for what virtual machines are made of.

    That is named by its content, and its kernel was fetched by `blackhole vm build`.
    """
    from blackhole_core.executor.guest.images import cache_directory

    machines = cache_directory(os.environ)
    cache = tmp_path_factory.mktemp("cache")
    if machines.is_dir():
        (cache / "blackhole").mkdir()
        (cache / "blackhole/vm").symlink_to(machines)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_leaks_from_the_session(private_temporary_directory: Path) -> Iterator[None]:
    """Fail the last test when a fixture of a wider scope left something behind."""
    before = leaks.take_census()
    yield
    _judge(leaks.settle(before, leaks.GRACE), "the test session")


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest, nothing_leaks_from_the_session: None) -> Iterator[None]:
    """Fail a test that leaves a thread, a child, a descriptor, a file or a plugin generation behind."""
    if request.node.get_closest_marker("leaks"):
        yield
        return
    before = leaks.take_census()
    yield
    _judge(leaks.settle(before, leaks.GRACE), request.node.nodeid)


def _judge(found: list[leaks.Leak], where: str) -> None:
    if found:
        pytest.fail(f"{where} left behind:\n" + "\n".join(map(str, found)), pytrace=False)


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Switch threads every 10 µs while the test runs."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(FAST_SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


@pytest.fixture
def require_level() -> Callable[[str], Isolation]:
    """Return a function that skips the test when a level cannot run here, and fails it when that level must."""
    return levels.require_level


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that change their process for good behind all others, and so their files: where several processes share the files, they begin them in this order."""

    def stays(item: pytest.Item) -> bool:
        return item.get_closest_marker("stays") is not None

    files = {item.path for item in items if stays(item)}
    items.sort(key=lambda item: (item.path in files, stays(item)))


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Return a small host for runners; at the end what hangs on ``notes_api.release`` is let go of, and everything stopped."""
    # Here, because the tests of this file have no test plugins.
    import notes_api  # type: ignore[import-not-found]  # it lies on the path of pytest, not of mypy

    from tests.stage import Stage

    stage = Stage()
    yield stage
    notes_api.release.set()
    stage.close()
    notes_api.release.clear()
