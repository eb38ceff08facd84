"""Which engine runs containers, what happens where none does, and a host without root's rights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import blackhole_core as bh
from blackhole_core.errors import IsolationUnavailable, LoadFailed
from blackhole_core.executor.launch.oci import choosing
from blackhole_core.executor.launch.oci.choosing import choose_engine, container_missing, verdicts
from tests.images import interpreter_layer, write_layout
from tests.integration.managed import Log, manager
from tests.levels import require_level
from tests.plugins.build import NOTES_API, plugin_dir

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a host that was never here."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(choosing, "_known", {})


def _verdicts_file(tmp_path: Path) -> Path:
    return tmp_path / "blackhole" / "containers" / "verdicts.json"


@pytest.fixture
def runc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A program called runc that is found first and fails; it says how often it was run."""
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "runc"
    program.write_text(f"#!/bin/sh\necho x >> {tmp_path}/runs\necho 'no such luck' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return program


def _runs(tmp_path: Path) -> int:
    return (tmp_path / "runs").read_text().count("x")


def test_an_engine_is_chosen_that_has_proved_it(tmp_path: Path) -> None:
    """The verdict is on disk, and holds for this program and boot; a second host does not try again."""
    require_level("container")
    engine = choose_engine()
    [(key, reason)] = [item for item in json.loads(_verdicts_file(tmp_path).read_text()).items() if item[0].startswith(engine.name)]
    assert reason == ""
    assert engine.program in key
    assert key.endswith(Path("/proc/sys/kernel/random/boot_id").read_text().strip())


def test_a_failure_is_remembered_until_somebody_asks_again(runc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the engine's own; ``doctor`` asks again, and so does a changed program."""
    with pytest.raises(IsolationUnavailable, match="runc cannot run a container here: .*no such luck"):
        choose_engine("runc")
    monkeypatch.setattr(choosing, "_known", {})
    assert "no such luck" in container_missing("runc")
    assert _runs(tmp_path) == 1
    verdicts("runc", again=True)
    assert _runs(tmp_path) == 2
    runc.write_text(runc.read_text().replace("no such luck", "another reason"))
    assert "another reason" in container_missing("runc")


def test_a_damaged_file_of_verdicts_is_no_verdict(runc: Path, tmp_path: Path) -> None:
    """It is tried again and the file replaced."""
    _verdicts_file(tmp_path).parent.mkdir(parents=True, mode=0o700)
    (tmp_path / "blackhole").chmod(0o700)
    _verdicts_file(tmp_path).write_text("{")
    assert "no such luck" in container_missing("runc")
    assert len(json.loads(_verdicts_file(tmp_path).read_text())) == 1


def test_what_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine, and the command of this distribution."""
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    assert container_missing().count("is not installed (") == 3
    assert "install runc" in container_missing()


def test_every_engine_that_proved_itself_runs_a_plugin(tmp_path: Path) -> None:
    """Through its whole life: a call, a death and the restart after it, the end; nothing is left."""
    working = [name for name, (_, reason) in verdicts(again=True).items() if not reason]
    assert bool(working) == (container_missing() == "")
    source = plugin_dir("counter", "1.0.0", tmp_path / "plugins")
    for name in working:
        log = Log()
        with manager({"plugins": {"counter": {"isolation": "container", "container": {"runtime": name}}}}, log=log) as pm:
            counter = pm.load("counter", source=source)
            assert pm.hook.add(amount=1) == [1]
            assert counter.start == f"container: {name}"
            assert counter.pid is not None
            os.kill(counter.pid, signal.SIGKILL)
            log.wait("worker.restarted")
            assert len(pm.hook.add(amount=1)) == 1
    assert {path.name for path in _verdicts_file(tmp_path).parent.iterdir()} == {"all", "verdicts.json"}


_IMAGE = {"counter": {"isolation": "container", "container": {"image": "oci:/nowhere"}}}


def test_a_plugin_whose_level_cannot_run_fails_and_says_why(tmp_path: Path) -> None:
    """Nothing weaker is used; an image that is not there is what can be run nowhere."""
    require_level("container")
    with manager({"plugins": _IMAGE}) as pm:
        with pytest.raises(
            LoadFailed,
            match="isolation level 'container' cannot run here: plugin counter@1.0.0 wants the image 'oci:/nowhere', which .*No such file",
        ):
            pm.load("counter", source=plugin_dir("counter", "1.0.0", tmp_path))
        assert pm.plugin("counter").phase == "failed"
        assert "oci:/nowhere" in str(pm.plugin("counter").last_error)


def test_the_level_that_the_operator_allows_instead(tmp_path: Path) -> None:
    """It is used, shown, and told of."""
    log = Log()
    with manager({"isolation_fallback": "thread", "plugins": _IMAGE}, log=log) as pm:
        pm.load("counter", source=plugin_dir("counter", "1.0.0", tmp_path))
        assert pm.plugin("counter").isolation is bh.Isolation.THREAD
        assert pm.hook.add(amount=1) == [1]
    [event] = log.of("plugin.level_fallback")
    assert (event.data["wanted"], event.data["level"]) == ("container", "thread")
    assert event.data["reason"]


#: Makes every directory above what a host needs passable for others, in a mount namespace of its own, and becomes nobody.
_AS_NOBODY = """
set -e
mount --make-rprivate /
for path in "$@"; do
    top=/$(echo "$path" | cut -d/ -f2)
    if [ "$(stat -c %a "$top")" = 700 ] && [ ! -e "$top/.passable" ]; then
        mkdir -p /tmp/.held$$ && mount --rbind "$top" /tmp/.held$$
        mount -t tmpfs -o mode=755 tmpfs "$top" && touch "$top/.passable"
        for one in "$@"; do case "$one" in "$top"/*) mkdir -p "$one"; mount --bind "/tmp/.held$$${one#"$top"}" "$one";; esac; done
        umount -l /tmp/.held$$ && rmdir /tmp/.held$$
    fi
done
cd /
exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all --inh-caps -all env -i PATH="$PATH" HOME=/ XDG_RUNTIME_DIR="$HERE" XDG_CACHE_HOME="$HERE" \\
    PYTHONDONTWRITEBYTECODE=1 "$PYTHON" -c "$PROGRAM"
"""

_PROGRAM = """
import os, sys
sys.path[:] = {path!r}
from blackhole_core.manifest.model import Container
from tests.stage import Stage
with Stage(level="container").closing() as stage:
    full = stage.start("full")
    print(os.geteuid(), full("transform", "abc"), full.remote.facts.transport, full.remote.facts.start_way)
    print(sorted(os.listdir({here!r} + "/blackhole/containers")))
with Stage(level="container").closing() as stage:
    full = stage.start("full", container=Container(image="oci:{here}/image"))
    print(full("transform", "abc"), full.remote.facts.start_way, dict(full.remote.facts.walls_report.open))
print(sorted(os.listdir({here!r} + "/blackhole/containers")))
"""


@pytest.fixture
def here() -> Iterator[Path]:
    """A directory of nobody's that nobody can come to; the tests' own are closed to all others."""
    directory = Path(tempfile.mkdtemp(dir=Path(tempfile.gettempdir()).parent))
    os.chown(directory, 65534, 65534)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody; any other user runs every test here without root's rights")
def test_a_host_without_rights(here: Path) -> None:
    """Rootless: in a user namespace, with everything else the same, images among it, and nothing left."""
    require_level("container")
    write_layout(here / "image", [interpreter_layer()], environment=["PATH=/usr/local/bin"])
    prefixes = {str(Path(one).resolve()) for one in (sys.prefix, sys.base_prefix, str(_ROOT)) if not one.startswith("/usr")}
    path = [str(_ROOT), str(NOTES_API), *(entry for entry in sys.path if entry)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _AS_NOBODY, "sh", *sorted(prefixes)],
        env={
            "PATH": os.environ["PATH"],
            "HERE": str(here),
            "PYTHON": sys.executable,
            "PROGRAM": _PROGRAM.format(path=path, here=str(here)),
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    first, while_running, in_image, after = done.stdout.splitlines() or ["", "", "", done.stderr]
    assert first.startswith("65534 cba shared memory container: "), done.stderr
    assert len(eval(while_running)) == 3
    assert in_image.startswith("cba container: ")
    assert in_image.endswith(" {}")
    assert eval(after) == ["all", "verdicts.json"]
