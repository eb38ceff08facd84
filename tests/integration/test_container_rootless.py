"""A host without root's rights, and the limits of its containers: with control groups that were given to it, and without any."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.levels import require_level
from tests.plugins.build import NOTES_API

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody, and give him control groups")

_ROOT = Path(__file__).parents[2]
_GROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")

_PROGRAM = """
import json, os, sys
from pathlib import Path
sys.path[:0] = {path!r}
here, groups = Path({here!r}), {groups!r}
for group in groups:
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
from tests.confined import _become
_become(65534, here)
from blackhole_core.errors import LimitExceeded, LoadFailed
from blackhole_core.executor.confinement import Confinement
from blackhole_core.manifest.model import Resources
from tests.integration.test_container_walls import _PLUGIN
from tests.stage import Stage
found = {{}}
with Stage(level="container").closing() as stage:
    options = stage.write(here / "code", _PLUGIN)
    greedy = stage.start("adhoc", **options, confinement=Confinement(resources=Resources(memory=96, cpu=50)))
    found |= greedy.runner.enforcement()
    try:
        greedy("raw", "len([bytearray(os.urandom(1 << 20)) for _ in range(400)])")
    except LimitExceeded as error:
        found["died"] = error.limit
    try:
        found |= stage.make("adhoc", "container", **options, confinement=Confinement(resources=Resources(pids=20))).enforcement()
    except LoadFailed as error:
        found["refused"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture
def here() -> Iterator[Path]:
    """A directory that nobody can come to; the tests' own are closed to all others."""
    require_level("container")
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def delegated() -> Iterator[list[str]]:
    """Control groups of nobody's."""
    if not all((_GROUPS / name).is_dir() for name in _CONTROLLERS):
        pytest.skip("the controllers are not those of version 1 here")
    groups = [Path(tempfile.mkdtemp(prefix="blackhole-test-", dir=_GROUPS / name)) for name in _CONTROLLERS]
    for group in groups:
        for path in (group, *group.iterdir()):
            os.chown(path, 65534, 65534)
    yield list(map(str, groups))
    for group in groups:
        group.rmdir()


def _found(here: Path, groups: list[str]) -> dict[str, str]:
    program = _PROGRAM.format(path=[str(_ROOT), str(NOTES_API)], here=str(here), groups=groups)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(here), "XDG_CACHE_HOME": str(here), "TMPDIR": str(here), "HOME": "/"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_with_control_groups_of_its_own(here: Path, delegated: list[str]) -> None:
    """Every limit is the kernel's; the groups can be removed afterwards."""
    assert _found(here, delegated) == {
        "resources.memory": "kernel",
        "resources.cpu": "kernel",
        "resources.pids": "kernel",
        "died": "memory",
    }


def test_without_control_groups(here: Path) -> None:
    """The host holds memory and processor itself; what only a control group can hold is refused, with the reason."""
    found = _found(here, [])
    assert "its limit pids cannot be enforced here: only a control group can hold it" in found.pop("refused")
    assert found == {"resources.memory": "broker", "resources.cpu": "broker", "died": "memory"}
