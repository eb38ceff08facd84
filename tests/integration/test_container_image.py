"""A plugin in a container made from an image: whose files and interpreter it has, what of its host it still sees, and that its walls are the same."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import blackhole_core as bh
from blackhole_core.errors import IsolationUnavailable, LoadFailed
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.launch.oci.launcher import _FIRST_PROGRAM_IN_IMAGE
from blackhole_core.manifest.model import Container
from tests.images import archive, interpreter_layer, write_layout, write_saved
from tests.integration.managed import Log, manager
from tests.integration.test_container_walls import _NETWORK, _PLUGIN, _PROCESSES, _RIGHTS
from tests.levels import require_level, require_program
from tests.plugins.build import plugin_dir
from tests.stage import Running, Stage, eventually

_ENVIRONMENT = ("PATH=/usr/local/bin:/usr/bin", "OF_THE_IMAGE=yes", "HOME=/root")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    require_level("container")
    return interpreter_layer({"/etc/motd": b"of the image", "/etc/hosts": b"", "/var/lib/kept": b"", "/srv/kept": b""})


@pytest.fixture(scope="module")
def images(base: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an image, and where images are laid out."""
    directory = tmp_path_factory.mktemp("images")
    write_layout(directory / "layout", [base], environment=_ENVIRONMENT)
    return directory


@pytest.fixture
def stage(images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage whose plugins run in that image."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(images))
    with Stage(level="container").closing() as stage:
        stage.container = Container(image=f"oci:{images}/layout")
        yield stage


def _attacker(stage: Stage, directory: Path, *granted: str) -> Running:
    stage.confinement = Confinement(requested=granted, granted=granted, data=directory / "data")
    return stage.start("adhoc", **stage.write(directory / "code", _PLUGIN))


def _laid_out(images: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in (images / "blackhole" / "images").rglob("*"))


def test_its_files_are_those_of_the_image(stage: Stage, images: Path) -> None:
    """With the image's interpreter and variables; of the host it has what it was granted, its data, its code, and what its host can import."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        Path(home, "note").write_text("read me")
        plugin = _attacker(stage, Path(home), f"filesystem:read:{home}/note", "process:exec:/usr/local/bin/python3")
        before = _laid_out(images)
        answers = {
            "open('/etc/motd').read()": "did it: 'of the image'",
            "sorted(os.listdir('/var'))": "did it: ['lib', 'tmp']",
            "open('/etc/os-release')": "ENOENT",
            "sys.executable": "did it: '/usr/local/bin/python3'",
            "(os.environ['OF_THE_IMAGE'], os.environ['PATH'])": "did it: ('yes', '/usr/local/bin:/usr/bin')",
            f"open('{home}/note').read()": "did it: 'read me'",
            f"open('{home}/data/own', 'w').write('x')": "did it: 1",
            "open('/tmp/own', 'w').write('x')": "did it: 1",
            "open('/etc/motd', 'a')": "EROFS",
            "open('/var/lib/kept', 'a')": "EROFS",
            "open('/var/new', 'w')": "EROFS",
            "open('/new', 'w')": "EROFS",
            f"open({sys.modules['blackhole_core'].__file__!r})": "ENOENT",
            "open(sys.modules['blackhole_core'].__file__, 'a')": "EROFS",
            "__import__('notes_api').__name__": "did it: 'notes_api'",
            "subprocess.run(['/usr/local/bin/python3', '-I', '-c', 'raise SystemExit(7)']).returncode": "did it: 7",
        }
        assert {attempt: plugin("raw", attempt) for attempt in answers} == answers
        assert Path(home, "data", "own").read_text() == "x"
        assert plugin.remote.facts.transport == "shared memory"
    assert _laid_out(images) == before


def test_its_walls_are_the_same(stage: Stage, tmp_path: Path) -> None:
    """A15, A16, A30 to A35: what is tried without an image, and what comes of it. Programs of the image are no exception."""
    plugin = _attacker(stage, tmp_path)
    attempts = {**_NETWORK, **_RIGHTS, **_PROCESSES}
    attempts = {attempt: answer for attempt, answer in attempts.items() if "{" not in attempt} | {
        "os.execv('/usr/local/bin/python3', ['python3'])": "EACCES",
        f"os.kill({os.getpid()}, 0)": "ESRCH",
    }
    assert {attempt: plugin("raw", attempt) for attempt in attempts} == attempts
    assert plugin.remote.facts.walls_report.open == {}


def test_all_files_of_the_host_are_not_to_be_had_with_an_image(stage: Stage, tmp_path: Path) -> None:
    """They would be where the image's are."""
    with pytest.raises(LoadFailed, match="all files of this machine would hide those of its image; grant what it needs"):
        _attacker(stage, tmp_path, "filesystem")


def test_an_image_in_which_no_plugin_can_run_says_what_it_lacks(base: bytes, stage: Stage, tmp_path: Path) -> None:
    """Whatever it is: what the interpreter in there said last is the error."""
    with tarfile.open(fileobj=io.BytesIO(base)) as tar:
        library = next(Path(name) for name in tar.getnames() if "/libpthread.so" in name)
    write_layout(tmp_path / "layout", [base, archive((f"{library.parent}/.wh.{library.name}", b""))], environment=_ENVIRONMENT)
    stage.container = Container(image=f"oci:{tmp_path}/layout")
    complaint = (
        r"has no msgspec for its Python 3\.\d+, and that of this host cannot be used there \(libpthread.*\): install msgspec in the image"
    )
    with pytest.raises(IsolationUnavailable, match=complaint):
        _attacker(stage, tmp_path)


def test_an_interpreter_that_is_too_old_says_so() -> None:
    """Before anything of ours is imported, which it could not read."""
    program = "import sys; sys.version_info = (3, 9, 2)\n" + _FIRST_PROGRAM_IN_IMAGE
    done = subprocess.run([sys.executable, "-I", "-c", program, "3", "/none"], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == "the Python of the image is 3.9, and a plugin needs 3.11 or later in there\n"


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Podman with images of its own."""
    program = require_program("podman", "BLACKHOLE_REQUIRE_PODMAN")
    settings = f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/podman"\nrunroot = "{tmp_path}/podman-run"\n'
    (tmp_path / "storage.conf").write_text(settings)
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    yield program
    shutil.rmtree(tmp_path / "podman", ignore_errors=True)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Docker with a daemon of its own, which touches neither the machine's images nor its network."""
    program, daemon = (require_program(name, "BLACKHOLE_REQUIRE_DOCKER") for name in ("docker", "dockerd"))
    if os.geteuid():
        pytest.skip("a daemon of docker's needs root")
    with tempfile.TemporaryDirectory(prefix="docker-", dir="/var/tmp") as directory, Path(directory, "log").open("wb") as log:
        where = [f"--{option}={directory}/{option}" for option in ("data-root", "exec-root", "pidfile")]
        address = f"unix://{directory}/socket"
        network = ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        with subprocess.Popen([daemon, *where, *network, f"--host={address}"], stdout=log, stderr=log) as running:
            monkeypatch.setenv("DOCKER_HOST", address)
            monkeypatch.setenv("DOCKER_CONFIG", directory)
            try:
                answers = eventually(
                    lambda: not subprocess.run([program, "version"], capture_output=True, timeout=20, check=False).returncode, 60
                )
                if not answers:
                    pytest.skip(f"no daemon of docker's runs here: {Path(directory, 'log').read_text().splitlines()[-1:]}")
                yield program
            finally:
                running.terminate()


@pytest.mark.parametrize("supplier", ["podman", "docker"])
def test_an_image_of_a_program_that_keeps_images(
    supplier: str, base: bytes, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """By its name: a plugin with it is called, swapped with its state, one that the program has not is not fetched."""
    program = request.getfixturevalue(supplier)
    monkeypatch.setattr("blackhole_core.executor.launch.oci.image.suppliers.SUPPLIERS", (supplier,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(images))
    write_saved(tmp_path / "saved.tar", [base], "localhost/blackhole-test:1", [*_ENVIRONMENT, f"OF={supplier}"])
    subprocess.run([program, "load", "--quiet", "--input", str(tmp_path / "saved.tar")], check=True, capture_output=True, timeout=60)
    log = Log()
    plugins = {
        "counter": {"isolation": "container", "container": {"image": "localhost/blackhole-test:1"}},
        "full": {"isolation": "container", "container": {"image": "localhost/blackhole-test:2"}},
    }
    with manager({"plugins": plugins}, log=log) as pm:
        counter = pm.load("counter", source=plugin_dir("counter", "1.0.0", tmp_path / "1"))
        assert pm.hook.add(amount=1) == [1]
        pm.swap("counter", source=plugin_dir("counter", "2.0.0", tmp_path / "2"))
        assert pm.hook.add(amount=1) == [2]
        assert counter.isolation is bh.Isolation.CONTAINER
        refusal = rf"wants the image 'localhost/blackhole-test:2', .*{supplier} does not have it \(`{supplier} pull localhost/"
        with pytest.raises(LoadFailed, match=refusal):
            pm.load("full", source=plugin_dir("full", "1.0.0", tmp_path / "3"))
        assert pm.plugin("full").phase == "failed"
    assert any(f"{supplier} writes image" in event.data["said"] for event in log.of("image.unpacking"))
