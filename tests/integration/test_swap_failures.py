"""S-04, S-05, S-06, S-09, F31: a swap that fails in any phase leaves the old version serving, with its state."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

import blackhole_core as bh
from blackhole_core.hooks import replace
from tests.integration.managed import LEVELS, Callers, Log, manager, released, running_functions, wheel
from tests.plugins.build import build_wheel, plugin_dir
from tests.stage import eventually

IN_PROCESS = ("none", "thread")


def _edited(version: str, file: str, old: str, new: str, tmp_path: Path) -> Path:
    """Return a wheel of counter 2.0.0 with one edit, as ``version``."""
    tree = plugin_dir("counter", "2.0.0", tmp_path / version)
    for path in tree.rglob("*"):
        if path.is_file():
            path.write_text(path.read_text("utf-8").replace("2.0.0", version), "utf-8")
    path = tree / file
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")
    return build_wheel(tree, tmp_path / version / "dist")


_CODE = "notes_counter/__init__.py"
_CLASS = "class Counter:\n"


def _new(kind: str, tmp_path: Path) -> Path:
    """Return the wheel of a counter whose swap fails in the way of ``kind``."""
    match kind:
        case "needs a plugin":
            return _edited("2.20.0", "notes_counter/plugin.yaml", "state:", "dependencies: [{name: nowhere}]\nstate:", tmp_path)
        case "needs a distribution":
            return _edited("2.21.0", "pyproject.toml", "dependencies = [", 'dependencies = ["no-such>=1", ', tmp_path)
        case "does not fit the spec":
            return _edited("2.22.0", _CODE, "    def total(self) -> int:\n", "    def total(self, surprise: int) -> int:\n", tmp_path)
        case "hangs at import":
            return _edited("2.23.0", _CODE, _CLASS, "import notes_api\nnotes_api.hang()\n\n" + _CLASS, tmp_path)
        case "exits":
            return _edited("2.24.0", _CODE, _CLASS, "raise SystemExit(5)\n\n" + _CLASS, tmp_path)
        case "migration raises":
            return _edited(
                "2.25.0", _CODE, '            return {"total": state["count"], "history": []}', "            return {}[1]", tmp_path
            )
        case "migration returns nothing":
            return _edited(
                "2.26.0", _CODE, '            return {"total": state["count"], "history": []}', "            return None", tmp_path
            )
        case "interrupts":
            return _edited("2.27.0", _CODE, "        with self._lock:\n            self._total = state", "        raise KeyboardInterrupt\n        with self._lock:\n            self._total = state", tmp_path)  # fmt: skip
        case _:
            return wheel("counter", kind, tmp_path)


#: What fails, in which phase, and words of the sentence that says so.
FAILURES = [
    ("3.0.0", "prepare", "no migration leads there"),
    ("2.5.0", "prepare", "notes_counter/__init__.py"),
    ("needs a plugin", "prepare", "nowhere"),
    ("needs a distribution", "prepare", "no-such"),
    ("2.2.0", "load", "import raised, on purpose"),
    ("2.3.0", "load", "sick"),
    ("2.6.0", "load", "plugin_start raised, on purpose"),
    ("exits", "load", "5"),
    ("2.1.0", "import", "import_state raised, on purpose"),
    ("interrupts", "import", "KeyboardInterrupt"),
    ("migration raises", "import", "migration 1 → 2"),
    ("migration returns nothing", "import", "returned None"),
    ("does not fit the spec", "load", "surprise"),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kind", "phase", "words"), FAILURES, ids=[kind for kind, *_ in FAILURES])
def test_the_old_version_serves_on(level: str, kind: str, phase: str, words: str, tmp_path: Path) -> None:
    """S-04, S-06, F31: the phase is named, callers notice nothing, the old object and its state are still there."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        pm.hook.add(amount=5)
        before = pm.get_plugin("counter")
        with Callers(2, lambda: pm.hook.add(amount=1)) as callers:
            with pytest.raises(bh.SwapFailed, match="the old version serves on") as caught:
                pm.swap("counter", source=_new(kind, tmp_path))
            pm.hook.add(amount=1)
        assert caught.value.phase == phase
        assert words in str(caught.value)
        assert callers.failures == []
        assert pm.hook.total() == [5 + 1 + len(callers.answers)]
        assert pm.hook.version() == ["1.0.0"]
        assert pm.get_plugin("counter") is before
        counter = pm.plugin("counter")
        assert (str(counter.id), counter.phase, counter.isolation) == ("counter@1.0.0", bh.Phase.RUNNING, level)
        [failed] = log.of("swap.failed")
        assert failed.data["phase"] == phase
        # The next swap is none the worse for it.
        assert pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).ok
        assert pm.hook.total() == [6 + len(callers.answers)]


@pytest.mark.parametrize(("version", "words"), [("2.4.0", "export_state raised, on purpose"), ("2.10.0", "object")])
@pytest.mark.parametrize("level", LEVELS)
def test_an_export_that_fails_leaves_the_old_version_serving(level: str, version: str, words: str, tmp_path: Path) -> None:
    """S-05: a version that cannot give its state away keeps it."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", version, tmp_path), isolation=level)
        pm.hook.add(amount=5)
        with pytest.raises(bh.SwapFailed, match=words) as caught:
            pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        assert caught.value.phase == "export"
        assert pm.hook.total() == [5]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.leaks("at level none a hung thread of the plugin ends only when the test lets it go")
def test_an_export_that_hangs_is_given_up(level: str, tmp_path: Path) -> None:
    """S-05: the gate opens again after ``state_timeout``; in this process the state is kept, a hung worker is replaced."""
    log = Log()
    with released(), manager({"state_timeout": 0.2, "hang_grace": 0.1, "stop_grace": 0.3, "drain_timeout": 0.5}, log=log) as pm:
        pm.load("counter", source=wheel("counter", "2.9.0", tmp_path), isolation=level)
        pm.hook.add(amount=5)
        with pytest.raises(bh.SwapFailed, match="no answer within") as caught:
            pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        assert caught.value.phase == "export"
        if level == "process":
            log.wait("worker.restarted")
            assert pm.hook.version() == ["2.9.0"]
        else:
            assert pm.hook.total() == [5]
            log.wait("plugin.thread_left" if level == "none" else "plugin.quarantined")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.leaks("a hung thread of the discarded version ends only when the test lets it go")
def test_an_import_that_hangs_is_given_up(level: str, tmp_path: Path) -> None:
    """S-06: the new version is discarded, the old one goes on with its state."""
    # Of the timeouts here the old version needs a part: it gives its state away, or comes up, in them.
    with released(), manager({"state_timeout": 1.5, "stop_grace": 0.3}) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        pm.hook.add(amount=5)
        with pytest.raises(bh.SwapFailed, match="no answer within") as caught:
            pm.swap("counter", source=wheel("counter", "2.7.0", tmp_path))
        assert caught.value.phase == "import"
        assert (pm.hook.total(), pm.hook.version()) == ([5], ["1.0.0"])


@pytest.mark.parametrize("level", ["thread", "process"])
@pytest.mark.leaks("at level thread a hung import ends only when the test lets it go")
def test_a_start_that_hangs_is_given_up(level: str, tmp_path: Path) -> None:
    """H-06: a version that never gets ready is given up after ``start_timeout``, while the old one serves."""
    with released(), manager({"start_timeout": 3, "stop_grace": 0.3}) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        with pytest.raises(bh.SwapFailed, match="start_timeout|no answer within") as caught:
            pm.swap("counter", source=_new("hangs at import", tmp_path))
        assert caught.value.phase == "load"
        assert pm.hook.version() == ["1.0.0"]


def test_a_version_that_ends_its_process_at_start_is_refused(tmp_path: Path) -> None:
    """S-04: ``os._exit(7)`` in a constructor ends a worker, not the host, and not the old version."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        pid = pm.plugin("counter").pid
        with pytest.raises(bh.SwapFailed, match="exited with status 7") as caught:
            pm.swap("counter", source=wheel("counter", "2.8.0", tmp_path))
        assert caught.value.phase == "load"
        assert (pm.hook.total(), pm.plugin("counter").pid) == ([5], pid)


@pytest.mark.parametrize("level", IN_PROCESS)
def test_a_refused_version_leaves_no_code_behind(level: str, tmp_path: Path) -> None:
    """S-04: the modules of the new version are gone; those of the old one are the ones that were there."""
    import sys

    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        before = {name for name in sys.modules if "notes_counter" in name}
        for version in ("2.1.0", "2.2.0", "2.3.0"):
            with pytest.raises(bh.SwapFailed):
                pm.swap("counter", source=wheel("counter", version, tmp_path))
        assert {name for name in sys.modules if "notes_counter" in name} == before


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("level", LEVELS)
def test_ctrl_c_at_the_switch_leaves_one_whole_version(level: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S-06: interrupted right before or after its hooks were switched, the old version serves on, under its name, and can be swapped."""
    commit = replace._commit

    def interrupted(*wanted: Any) -> None:
        monkeypatch.undo()
        if moment == "after":
            commit(*wanted)
        raise KeyboardInterrupt

    with manager() as pm:
        pm.load("full", source=wheel("full", "1.0.0", tmp_path), isolation=level)
        before = pm.get_plugin("full")
        new = wheel("full", "2.0.0", tmp_path)
        monkeypatch.setattr(replace, "_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pm.swap("full", source=new)
        assert (pm.hook.version(), str(pm.plugin("full").id)) == (["1.0.0"], "full@1.0.0")
        assert pm.get_plugin("full") is before
        assert pm.swap("full", source=new).ok
        assert pm.hook.version() == ["2.0.0"]


class _Told:
    @bh.HookspecMarker("notes")(historic=True)
    def told(self, name: str) -> int:
        """Take note of ``name``; answer with the number of the process."""
        raise NotImplementedError


@attrs.define
class _LastWords:
    """Two historic calls. If armed, a worker (without walls: it says its process id itself) that has answered the first is killed, and is seen to be dead before it is told of the second."""

    pm: bh.PluginManager
    armed: bool

    def __attrs_post_init__(self) -> None:
        self.pm.add_hookspecs(_Told)
        self.pm.hook.told.call_historic(self._answered, {"name": "ada"})
        self.pm.hook.told.call_historic(None, {"name": "bob"})

    def _answered(self, pid: int) -> None:
        if self.armed:
            os.kill(pid, signal.SIGKILL)
            assert eventually(lambda: not Path(f"/proc/{pid}").exists())


def _told(version: str, tmp_path: Path) -> Path:
    """Return a wheel of ``full`` that takes note of what it is told."""
    tree = plugin_dir("full", "1.0.0", tmp_path / f"told-{version}")
    for path in tree.rglob("*"):
        if path.is_file():
            path.write_text(path.read_text("utf-8").replace("1.0.0", version), "utf-8")
    code = tree / "notes_full" / "__init__.py"
    told = "    @hookimpl\n    def told(self, name: str) -> int:\n        return os.getpid()\n\n"
    text = code.read_text("utf-8").replace("from typing import Any\n", "import os\nfrom typing import Any\n")
    old = "    @hookimpl\n    def transform"
    assert text.count(old) == 1
    code.write_text(text.replace(old, told + old), "utf-8")
    return build_wheel(tree, tmp_path / f"told-{version}" / "dist")


def test_a_worker_that_dies_while_it_is_told_fails_the_swap(tmp_path: Path) -> None:
    """S-09: nobody starts another one for a version that does not serve yet, so no historic call waits for it."""
    with manager({"call_timeout": 20, "sandbox": "off"}) as pm:
        last_words = _LastWords(pm, armed=False)
        pm.load("full", source=_told("1.0.0", tmp_path), isolation="process")
        last_words.armed = True
        with pytest.raises(bh.SwapFailed, match="SIGKILL") as caught:
            pm.swap("full", source=_told("2.0.0", tmp_path))
        assert caught.value.phase == "switch"
        assert pm.hook.version() == ["1.0.0"]
        last_words.armed = False
        assert pm.swap("full", source=_told("3.0.0", tmp_path)).ok


def test_a_worker_that_dies_while_it_is_told_fails_the_load(tmp_path: Path) -> None:
    """H-05: the same, and nothing of it stays registered."""
    with manager({"call_timeout": 20, "sandbox": "off"}) as pm:
        last_words = _LastWords(pm, armed=True)
        with pytest.raises(bh.LoadFailed, match="SIGKILL"):
            pm.load("full", source=_told("1.0.0", tmp_path), isolation="process")
        assert not pm.has_plugin("full")
        assert pm.hook.version() == []
        last_words.armed = False
        assert pm.load("full", source=_told("2.0.0", tmp_path), isolation="process").phase is bh.Phase.RUNNING


# --- calls that do not end, and calls that wait ---------------------------------------------------------------------------


@attrs.frozen
class _Stuck:
    """A call of ``slow`` that runs until :func:`_release`."""

    thread: threading.Thread
    answers: list[Any]


def _stuck(pm: bh.PluginManager) -> _Stuck:
    begun = threading.Event()
    answers: list[Any] = []

    def call() -> None:
        begun.set()
        try:
            answers.append(pm.hook.slow(seconds=60.0))
        except bh.BlackholeError as error:
            answers.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait()
    return _Stuck(thread, answers)


#: Without walls, behind which a worker would not see the file of :func:`_release`.
_OPEN: dict[str, Any] = {"sandbox": "off"}

#: What ``slow`` does in the wheels of :func:`_full`: it ends with a file, which a worker sees as well, and not with a time, which may pass before the swap has come to the point in question.
_WAIT = """until = time.monotonic() + seconds
        while not os.path.exists({mark!r}) and time.monotonic() < until and not release.wait(0.005):
            pass"""


def _full(version: str, tmp_path: Path, contracts: str = "") -> Path:
    """Return a wheel of ``full`` whose ``slow`` runs until :func:`_release`, with more methods."""
    tree = plugin_dir("full", "1.0.0", tmp_path / f"full-{version}")
    for path in tree.rglob("*"):
        if path.is_file():
            path.write_text(path.read_text("utf-8").replace("1.0.0", version), "utf-8")
    code = tree / "notes_full" / "__init__.py"
    text = code.read_text("utf-8")
    for old, new in (
        ("    @hookimpl\n    def transform", contracts + "    @hookimpl\n    def transform"),
        ("from notes_api import", "import os\nimport time\nimport blackhole_core as bh\nfrom notes_api import"),
        ("release.wait(seconds)", _WAIT.format(mark=str(tmp_path / "released"))),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    code.write_text(text, "utf-8")
    return build_wheel(tree, tmp_path / f"full-{version}" / "dist")


def _keeper(version: str, tmp_path: Path) -> Path:
    """Return such a wheel with state: the slow call must be drained."""
    contracts = (
        "    @bh.hookimpl\n    def plugin_export_state(self):\n        return {'started': self._started}\n\n"
        "    @bh.hookimpl\n    def plugin_import_state(self, state):\n        self._started = state['started']\n\n"
    )
    return _full(version, tmp_path, contracts)


def _wait_until_running(pm: bh.PluginManager, level: str) -> None:
    """Wait until the slow call is on its way in the plugin: what begins after the gate closed would only wait."""
    deadline = time.monotonic() + 10
    parts = pm.parts
    instance = parts.supervisor.member("full").instance
    assert instance is not None
    if level == "none":
        while "slow" not in running_functions():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return
    while instance.runner.drained(0):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("level", LEVELS)
def test_a_call_that_does_not_end_aborts_the_swap(level: str, tmp_path: Path) -> None:
    """S-10: at the drain deadline the swap is given up, and the stuck call's version serves on."""
    with released(), manager(_OPEN | {"stop_grace": 0.3}) as pm:
        pm.load("full", source=_keeper("1.0.0", tmp_path), isolation=level)
        stuck = _stuck(pm)
        _wait_until_running(pm, level)
        with pytest.raises(bh.SwapFailed, match="did not end within 0.1 s") as caught:
            pm.swap("full", source=_keeper("2.0.0", tmp_path), timeout=0.1)
        assert caught.value.phase == "export"
        assert str(pm.plugin("full").id) == "full@1.0.0"
        _release(stuck, tmp_path)
        assert pm.hook.version() == ["1.0.0"]


@pytest.mark.parametrize("level", LEVELS)
def test_force_goes_on_without_a_call_that_does_not_end(level: str, tmp_path: Path) -> None:
    """S-10: with ``force`` one live version is left: the new one. The stuck call still ends on the old one."""
    log = Log()
    with released(), manager(_OPEN | {"stop_grace": 0.3, "state_timeout": 5, "plugins": {"full": {"threads": 2}}}, log=log) as pm:
        pm.load("full", source=_keeper("1.0.0", tmp_path), isolation=level)
        stuck = _stuck(pm)
        _wait_until_running(pm, level)
        report = pm.swap("full", source=_keeper("2.0.0", tmp_path), timeout=0.1, force=True)
        assert (report.ok, report.retiring) == (True, True)
        assert pm.hook.version() == ["2.0.0"]
        _release(stuck, tmp_path)
        assert stuck.answers == [["1.0.0"]]
        assert log.wait("plugin.retired").data["version"] == "1.0.0"


@pytest.mark.parametrize("level", LEVELS)
def test_a_long_call_ends_on_the_version_it_began_on(level: str, tmp_path: Path) -> None:
    """S-02: without state nobody waits for it: new calls go to the new version meanwhile, and the old one ends after its last call."""
    log = Log()
    with released(), manager(_OPEN, log=log) as pm:
        pm.load("full", source=_full("1.0.0", tmp_path), isolation=level)
        stuck = _stuck(pm)
        _wait_until_running(pm, level)
        report = pm.swap("full", source=_full("2.0.0", tmp_path))
        assert report.retiring
        assert pm.hook.version() == ["2.0.0"]
        assert log.of("plugin.retired") == []
        _release(stuck, tmp_path)
        assert stuck.answers == [["1.0.0"]]
        log.wait("plugin.retired")


@pytest.mark.parametrize("level", LEVELS)
def test_new_calls_of_a_plugin_with_state_wait_for_the_long_call(level: str, tmp_path: Path) -> None:
    """S-02, S-22: they are answered by the new version, or their own deadline passes, and then they never began."""
    with released(), manager(_OPEN) as pm:
        pm.load("full", source=_keeper("1.0.0", tmp_path), isolation=level)
        new = _keeper("2.0.0", tmp_path)
        stuck = _stuck(pm)
        _wait_until_running(pm, level)
        closed = threading.Event()
        pm.on_event(lambda event: closed.set() if event.data.get("phase") == "export" else None)
        swap = threading.Thread(target=lambda: pm.swap("full", source=new))
        swap.start()
        assert closed.wait(10)
        with pytest.raises(bh.CallTimeout, match="never began"), bh.deadline(0.05):
            pm.hook.version()
        answers: list[Any] = []
        caller = threading.Thread(target=lambda: answers.append(pm.hook.version()))
        caller.start()
        _release(stuck, tmp_path)
        swap.join(30)
        caller.join(30)
        assert answers == [["2.0.0"]]
        assert stuck.answers == [["1.0.0"]]


def _release(stuck: _Stuck, tmp_path: Path) -> None:
    (tmp_path / "released").touch()
    stuck.thread.join(30)
    assert not stuck.thread.is_alive()
