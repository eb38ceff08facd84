"""Hosts with the plugin ``faulty`` and a neighbour, and what comes of a fault in one of them.

Run as a program this is a host that makes hosts: each line of its input asks for one fault, which is done in a fork of it, so that it costs some milliseconds and
may end that host; the answer is one line of JSON. A host in which nothing moves any more is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import notes_api

import blackhole_core as bh
from tests.plugins.build import HERE, NOTES_API

__all__ = ["COLUMNS", "PATIENCE", "ROOT", "STANDSTILL", "Nursery", "after", "fault_host", "judge"]

#: column → what is configured for all plugins. The order is that of the table.
COLUMNS: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": {"default_isolation": "none"},
    "thread": {"default_isolation": "thread"},
    "process, no walls": {"default_isolation": "process", "sandbox": "off"},
    "process": {"default_isolation": "process", "sandbox": "native"},
    "container": {"default_isolation": "container"},
    "vm": {"default_isolation": "vm"},
}
#: A worker is replaced at once however many have died, and a call that kills is not put aside: each fault is looked at by itself.
_PATIENT: Final = {
    "restart": {"intensity": 1000, "period": 0.01, "delay": 0, "max_delay": 0},
    "poison_deaths": 0,
    "hang_grace": 0.2,
    "stop_grace": 1.0,
}

#: Seconds after which a host that is expected to stand still does, when it has said nothing and not ended; every other host may take PATIENCE.
STANDSTILL: Final = 1.5
PATIENCE: Final = 30.0
ROOT: Final = Path(__file__).parents[2]


@contextlib.contextmanager
def fault_host(column: str, resources: Mapping[str, float] = {}) -> Iterator[bh.PluginManager]:
    """Yield a manager with ``faulty``, limited to ``resources``, and its neighbour ``upper``, both at the level of ``column``."""
    # A directory of its own, which a limit of disk is about, a plugin has only where the host has one for state.
    state = tempfile.TemporaryDirectory() if "disk" in resources else contextlib.nullcontext()
    config = {**COLUMNS[column], **_PATIENT, "plugins": {"faulty": {"resources": dict(resources)}}}
    with state as directory, bh.PluginManager("notes", config=config, state_dir=directory) as pm:
        pm.add_hookspecs(notes_api.NotesSpecs)
        pm.load("upper", source=HERE / "upper_1_0")
        pm.load("faulty", source=HERE / "faulty_1_0")
        yield pm


def judge(pm: bh.PluginManager, kind: str, seconds: float) -> str:
    """Commit one fault, whose call may take ``seconds``; return what its caller got, and whether it took a new worker to have both plugins answer again.

    :raises RuntimeError: they do not answer again.
    """
    before = pm.plugin("faulty").pid
    with bh.deadline(seconds):
        outcome = _outcome(pm, kind)
    answers = _answers_again(pm)
    give_up = time.monotonic() + 3
    # A stopped worker is woken to be ended, and may answer once more in between.
    while outcome == "CallTimeout" and before is not None and pm.plugin("faulty").pid == before and time.monotonic() < give_up:
        answers = _answers_again(pm)
    if sorted(answers) != ["HI", "hi"]:
        raise RuntimeError(f"after {kind} the plugins answered {answers}")
    return outcome if pm.plugin("faulty").pid == before else f"{outcome}, new worker"


def _answers_again(pm: bh.PluginManager) -> list[str]:
    """Return what both answer. A call that is on its way to a worker which is about to end is told so, and made again."""
    with bh.deadline(20):
        while True:
            with contextlib.suppress(bh.WorkerDied):
                return list(pm.hook.transform(text="hi"))


def _outcome(pm: bh.PluginManager, kind: str) -> str:
    try:
        [answer] = pm.hook.fail(kind=kind)
    except BaseException as error:
        return type(error).__name__
    return str(answer) if answer in ("allowed", "refused") else "returns"


def after(name: str) -> str:
    """Return whether a process called ``name`` has outlived the plugin, which was unloaded, and end that."""
    looks = 250  # counted, for a machine that stands still for a second would let what is ending look as if it stayed
    while (left := _called(name)) and looks:
        looks -= 1
        time.sleep(0.01)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return "outlives the plugin" if left else "ends with the plugin"


def _called(name: str) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            # "PID (NAME) STATE …": what has ended and waits for somebody to look is gone.
            if place.name.isdigit() and f"({name}) " in (said := place.joinpath("stat").read_text()) and f"({name}) Z" not in said:
                found.append(int(place.name))
    return found


class Nursery:
    """A process that forks a host for each fault. Used by one thread."""

    def __init__(self) -> None:
        path = os.pathsep.join(map(str, (ROOT, NOTES_API)))
        command = [sys.executable, "-m", "tests.conformance.fault_hosts"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
        )

    def ask(self, **what: Any) -> str:
        """Commit the fault in a host of its own; return what came of it, or how that host ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return str(json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(20)


def _serve() -> None:
    """Fork a host for each line until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the plugin prints
    with fault_host("thread"):
        pass  # what every host imports is imported once
    for line in sys.stdin:
        request = json.loads(line)
        patience = request.pop("patience")
        receive, send = os.pipe()
        host = os.fork()
        if host == 0:
            os.close(receive)
            _be_host(send, **request)
            return  # through the ordinary end of an interpreter, where plugins may still have something to say
        os.close(send)
        print(json.dumps(_watch(host, receive, patience)), file=replies, flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(host, signal.SIGKILL)  # what its plugin has started


def _be_host(send: int, column: str, kind: str, seconds: float, name: str, unloads: bool, resources: dict[str, float]) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sys.stdin = os.fdopen(0, closefd=False)  # the old one belongs to the one that forked us, with what it has read ahead
    try:
        with fault_host(column, resources) as pm:
            outcome = judge(pm, kind.replace("{host}", str(os.getpid())), seconds)
            if unloads:
                pm.unload("faulty")
            if name:
                outcome = f"{outcome}, {after(name)}"
            notes_api.release.set()
    except bh.LoadFailed:
        outcome = "does not start"
    os.write(send, outcome.encode())


def _watch(host: int, receive: int, patience: float) -> str:
    """Return what the host says, and how it ended if that was not orderly."""
    deadline, text, status = time.monotonic() + patience, b"", 0
    with open(receive, "rb", buffering=0) as answer:
        while (ended := os.waitpid(host, os.WNOHANG | os.WUNTRACED))[0] == 0 and time.monotonic() < deadline:
            select.select([], [], [], 0.005)
        if ended[0] == 0 or os.WIFSTOPPED(ended[1]):
            os.kill(host, signal.SIGKILL)
            os.waitpid(host, 0)
            return "the host stands still" if ended[0] == 0 else "the host is stopped"
        status = ended[1]
        os.set_blocking(receive, False)  # a process that the plugin left behind may hold the other end
        text = answer.read() or b""
    code = os.waitstatus_to_exitcode(status)
    if code == 0 and text:
        return text.decode()
    how = f"ends the host ({signal.Signals(-code).name if code < 0 else f'status {code}'})"
    return f"{text.decode()}, {how}" if text else how


if __name__ == "__main__":
    _serve()
