"""A host from its beginning to its end, whatever ends it, and one that reloads what a developer saves."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blackhole_core.cli.exits import Exit
from tests.integration.cli_place import CONFIG, SOON, Place, alive, until, worker_of
from tests.plugins.build import plugin_dir


@pytest.fixture
def place(require_level: Callable[[str], object]) -> Iterator[Place]:
    require_level("process")
    with tempfile.TemporaryDirectory(prefix="h") as folder:  # short, because a socket lies in it
        yield Place(Path(folder))


# --- beginning and end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_an_orderly_end(number: signal.Signals, place: Place) -> None:
    """SIGTERM and Ctrl-C: the plugins are taken out, code 0, the worker has ended, no socket is left."""
    with place.host() as host:
        worker = worker_of(place, "counter")
        host.process.send_signal(number)
        host.wait_for("host.stopping")
        assert {host.wait_for("plugin.unloaded")["plugin"] for _ in range(2)} == {"counter", "upper"}
        assert host.process.wait(SOON) == 0
        assert not alive(worker)
        assert list(place.socket.parent.iterdir()) == []


def test_stop_waits_until_the_host_has_ended(place: Place) -> None:
    """After ``blackhole stop`` host and worker are gone, and the next one can begin at once."""
    with place.host() as host:
        worker = worker_of(place, "counter")
        assert place.run("stop") == f"the host (process {host.process.pid}) has ended\n"
        assert host.process.wait(0.5) == 0
        assert not alive(worker)
    with place.host():
        place.run("stop")


def test_a_killed_host_leaves_no_worker_and_no_obstacle(place: Place) -> None:
    """F-16: after SIGKILL of the host its workers end by themselves, and a new host takes its stale socket over."""
    with place.host() as host:
        worker = worker_of(place, "counter")
        place.run("call", "add", "amount=1")
        assert host.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not alive(worker), "the worker ended")
    assert place.socket.is_socket()
    assert "no host is running" in place.run("ps", code=Exit.NO_HOST)
    with place.host():
        assert alive(worker_of(place, "counter"))
        place.run("stop")


def test_the_host_outlives_a_worker_that_dies(place: Place) -> None:
    """F-01: a worker that is killed is restarted, ps shows it, the caller gets the reason."""
    with place.host() as host:
        place.run("load", "faulty")
        error = place.run("call", "fail", "kind=sigkill_self", code=Exit.FAILED)
        assert "was killed by SIGKILL during hook 'fail' (executed: unknown)" in error
        host.wait_for("worker.restarted")
        assert place.json("call", "fail", "kind=none") == ["well"]
        assert next(plugin["restarts"] for plugin in place.json("ps") if plugin["name"] == "faulty") == 1
        assert host.end(signal.SIGTERM) == 0


def test_a_call_that_hangs_has_a_deadline_and_does_not_hold_up_the_end(place: Place) -> None:
    """``--timeout`` bounds the call; the host can be stopped while it still hangs."""
    with place.host() as host:
        place.run("load", "faulty")
        assert "gave no answer within" in place.run("call", "fail", "kind=hang", "--timeout", "0.5", code=Exit.FAILED)
        assert "HI" in place.json("call", "transform", "text=hi")
        assert host.end(signal.SIGTERM) == 0


def test_the_second_signal_ends_at_once(place: Place) -> None:
    """A plugin that holds up the orderly end does not hold up the second Ctrl-C; its worker ends, too."""
    (place.here / "blackhole.yaml").write_text(CONFIG.replace("enabled: false", "stop_grace: 600, drain_timeout: 600"))
    with place.host() as host:
        worker = worker_of(place, "faulty")
        caller = place.start("call", "fail", "kind=ignore_sigterm", "--timeout", "600")
        until(lambda: _busy(worker), "the call has begun")
        host.process.send_signal(signal.SIGINT)
        host.wait_for("host.stopping")
        assert host.end(signal.SIGINT) == Exit.INTERRUPTED
        until(lambda: not alive(worker), "the worker ended")
        caller.communicate(timeout=SOON)
        assert caller.returncode == Exit.NO_HOST


def _busy(worker: int) -> bool:
    """Tell whether the worker ignores SIGTERM by now, which its hook does first."""
    status = Path(f"/proc/{worker}/status").read_text()
    ignored = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(ignored >> (signal.SIGTERM - 1) & 1)


def test_one_bad_plugin_does_not_stop_the_host(place: Place) -> None:
    """A plugin that cannot be loaded is reported and listed as failed; the others serve."""
    plugin_dir("raises_at_import", "1.0.0", place.here)
    (place.here / "blackhole.yaml").write_text(CONFIG + "sources: [raises_at_import-1.0.0]\n")
    with place.output_of("run", "--json") as host:
        ready = host.wait_for("host.ready")["data"]
        assert set(ready["loaded"]) == {"counter", "upper"}
        assert "raises_at_import" in ready["failed"]
        failed = next(plugin for plugin in place.json("ps") if plugin["name"] == "raises_at_import")
        assert failed["phase"] == "failed"
        assert "RuntimeError" in failed["last_error"]
        assert "raises_at_import: " in place.run("ps")
        assert host.end(signal.SIGTERM) == 0


def test_safe_mode_loads_nothing(place: Place) -> None:
    """``--safe-mode`` brings the host up without plugins, so that a bad one can be dealt with."""
    with place.host("run", "--safe-mode") as host:
        assert place.json("ps") == []
        assert host.end(signal.SIGTERM) == 0


def test_specs_that_cannot_be_used_end_the_start(place: Place) -> None:
    """A host whose specs are missing does not begin: the sentence names them."""
    (place.here / "blackhole.yaml").write_text('project: notes\nspecs: ["notes_api:Nope"]\n')
    assert "the hook specs 'notes_api:Nope' that the configuration names cannot be used: AttributeError" in place.run(
        "run", code=Exit.FAILED
    )
    assert list(place.socket.parent.iterdir()) == []


def test_a_broken_configuration_ends_the_start(place: Place) -> None:
    """Every problem of blackhole.yaml is printed."""
    (place.here / "blackhole.yaml").write_text("project: notes\nstate_dri: x\ndefault_isolation: moon\n")
    error = place.run("run", code=Exit.FAILED)
    assert "blackhole.yaml:2: state_dri" in error
    assert "blackhole.yaml:3: default_isolation" in error


def test_the_host_goes_on_when_nobody_reads_its_output(place: Place) -> None:
    """A closed pipe at the host's output costs the output and nothing else."""
    process = place.start("run", "--json")
    try:
        until(lambda: '"host.ready"' in place._run_here(("logs", "--json"))[1], "all is loaded")
        assert process.stdout is not None
        process.stdout.close()
        for _ in range(3):
            place.run("swap", "counter", "--source", "../wheels")
            place.run("rollback", "counter")
        assert place.json("call", "transform", "text=hi") == ["HI"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
    finally:
        process.kill()
        process.wait(SOON)
        assert process.stderr is not None
        process.stderr.close()


# --- developing ---------------------------------------------------------------------------------------------------------


def test_watch_reloads_what_is_saved(place: Place) -> None:
    """A save is served with the state; a broken one is reported with its traceback and the old code serves; a good one recovers."""
    tree = plugin_dir("counter", "1.0.0", place.here)
    (place.here / "blackhole.yaml").write_text(
        f'project: notes\nspecs: ["notes_api:NotesSpecs"]\nallow: [counter]\nsources: [{tree.name}]\nplugins: {{counter: {{isolation: thread, source: {tree.name}}}}}\n'
    )
    file = tree / "notes_counter" / "__init__.py"
    good = file.read_text()
    with place.host("watch") as host:
        place.run("call", "add", "amount=5")
        file.write_text(good.replace('return "1.0.0"', 'return "edited"'))
        done = host.wait_for("reload.done")["data"]
        assert done["files"] == ["__init__.py"]
        assert done["report"]["state_bytes"] > 0
        assert (place.json("call", "version"), place.json("call", "total")) == (["edited"], [5])
        file.write_text(good + "\nraise RuntimeError('half done')\n")
        failed = host.wait_for("reload.failed")["data"]
        assert "RuntimeError: half done" in failed["traceback"]
        assert place.json("call", "version") == ["edited"]
        file.write_text(good)
        host.wait_for("reload.done")
        assert (place.json("call", "version"), place.json("call", "total")) == (["1.0.0"], [5])
        assert host.end(signal.SIGINT) == 0


def _developed(place: Place) -> tuple[Path, str]:
    """Have the project run the plugin ``upper`` from its sources; return the file and what is in it."""
    tree = plugin_dir("upper", "1.0.0", place.here)
    (place.here / "blackhole.yaml").write_text(
        f'project: notes\nspecs: ["notes_api:NotesSpecs"]\nallow: [upper]\nplugins: {{upper: {{source: {tree.name}}}}}\n'
    )
    file = tree / "notes_upper" / "__init__.py"
    return file, file.read_text()


def test_watch_brings_in_a_plugin_that_was_broken_at_the_start(place: Place) -> None:
    """A plugin that cannot be loaded when development begins is loaded by the save that mends it."""
    file, good = _developed(place)
    file.write_text("raise RuntimeError('not yet')\n")
    with place.host("watch") as host:
        assert place.json("ps")[0]["phase"] == "failed"
        file.write_text(good)
        host.wait_for("plugin.loaded")
        assert place.json("call", "transform", "text=hi") == ["HI"]
        assert host.end(signal.SIGTERM) == 0


def test_watch_for_people_frames_the_traceback(place: Place) -> None:
    """Without --json a reload is one line, and a failure a framed traceback."""
    file, good = _developed(place)
    with place.output_of("watch", "upper") as host:
        host.line_with("project notes: upper loaded, save a file to reload")
        file.write_text(good.replace("text.upper()", "text.lower()"))
        line = host.line_with("upper: __init__.py changed → 1.0.0")
        assert "generation 2" in line
        assert "no state to carry" in line
        file.write_text(good.replace("class Upper", "raise RuntimeError('half done')\nclass Upper"))
        host.line_with("upper does not work")
        host.line_with("RuntimeError: half done")
        assert host.end(signal.SIGTERM) == 0
