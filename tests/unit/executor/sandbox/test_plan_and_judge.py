"""From grants to walls, and from what a worker found to what its operator is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.confinement import Confinement, Unenforced
from blackhole_core.executor.sandbox.judge import layers_of, refuse_open
from blackhole_core.executor.sandbox.plan import draw_up
from blackhole_core.executor.sandbox.probe import ALL_LAYERS
from blackhole_core.executor.wire.policy import Layer, Policy, Wall, WallReport
from blackhole_core.ids import Isolation


def _policy(confinement: Confinement, import_path: tuple[str, ...] = (), temporary: Path | None = None) -> Policy:
    return draw_up(confinement, plugin=Path(__file__).parent, import_path=import_path, layers=ALL_LAYERS, temporary=temporary)


def test_everything_is_required_unless_the_operator_says_otherwise() -> None:
    """Without a word every wall must hold; ``unenforced: allow`` requires none."""
    assert set(_policy(Confinement()).required) == set(Wall)
    assert _policy(Confinement(unenforced=Unenforced.ALLOW)).required == ()


def test_its_data_directory(tmp_path: Path) -> None:
    """It may be written, nothing else may, and it is the worker's home."""
    (tmp_path / "a" / "data").mkdir(parents=True)
    policy = _policy(Confinement(data=tmp_path / "a" / "data"))
    [place] = [place for place in policy.places if place.write]
    assert place.target == policy.home == os.fsencode(tmp_path / "a" / "data")


def test_where_temporary_files_go(tmp_path: Path) -> None:
    """A directory made for it where it has no root of its own; else a file system in memory, and not where the host's programs lie."""
    policy = _policy(Confinement(), temporary=tmp_path)
    assert (policy.temporary, policy.temporary_size) == (os.fsencode(tmp_path), 0)
    policy = _policy(Confinement())
    assert policy.temporary == b"/tmp"
    assert policy.temporary_size > 0
    assert _policy(Confinement(), import_path=("/tmp",)).temporary == b"/var/tmp"


def test_the_files_it_tries_are_not_granted() -> None:
    """What the worker tries to read and write is there, and not among its places; where everything is readable nothing is tried."""
    policy = _policy(Confinement())
    assert Path(os.fsdecode(policy.unreadable)).exists()
    assert os.access(policy.unwritable, os.W_OK)
    everything = Confinement(requested=("filesystem",), granted=("filesystem",))
    assert _policy(everything).unreadable == b""


_OPEN = WallReport(
    {Layer.LANDLOCK: "Function not implemented", Layer.SECCOMP: ""},
    {Wall.FILES: "it can read /etc/passwd"},
)


def test_an_open_wall_is_refused() -> None:
    """The sentence says what could be done, what is missing, and both ways out."""
    with pytest.raises(IsolationUnavailable) as caught:
        refuse_open(_policy(Confinement()), _OPEN, Isolation.PROCESS)
    assert str(caught.value) == (
        "isolation level 'process' cannot run here: a worker tried its own walls, and they do not hold (files: it can read /etc/passwd). Missing here: "
        "Landlock (Function not implemented). Allow user namespaces here, or use a kernel with Landlock and seccomp; or set `unenforced: allow` for this "
        "plugin to run it all the same"
    )
    refuse_open(_policy(Confinement(unenforced=Unenforced.ALLOW)), _OPEN, Isolation.PROCESS)


def test_an_open_wall_in_a_container_is_refused_in_its_words() -> None:
    """It was the engine that built some of them: what is named is what can be done about that."""
    with pytest.raises(IsolationUnavailable) as caught:
        refuse_open(_policy(Confinement()), _OPEN, Isolation.CONTAINER)
    assert str(caught.value).startswith(
        "isolation level 'container' cannot run here: a worker tried its own walls inside its container, and they"
    )
    assert "another engine (`container: {runtime: …}`; `blackhole doctor` names those that work), or level vm; or set" in str(caught.value)
    assert "bubblewrap" not in str(caught.value)
    assert "user namespaces" not in str(caught.value)


def test_what_holds_is_what_was_tried() -> None:
    """Each wall that did not open counts; without a report there are none."""
    assert layers_of(WallReport({Layer.SECCOMP: ""})) == ["files", "network", "programs"]
    assert layers_of(_OPEN) == ["network", "programs"]
    assert layers_of(WallReport()) == []
