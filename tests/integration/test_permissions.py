"""Nothing is permitted by asking: admission, updates that ask for more, grants and revocations of plugins that run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.errors import GrantsError
from tests.integration.managed import LEVELS, Callers, Log, manager
from tests.levels import require_level

ASKER = '''
"""A plugin that tells its version, what it sees of its environment, and carries a number."""
import os

import blackhole_core as bh

hookimpl = bh.HookimplMarker("notes")


class Asker:
    def __init__(self):
        self.number = 0

    @hookimpl
    def version(self):
        return "{version}"

    @bh.hookimpl
    def plugin_handle(self, request):
        self.number += 1
        return os.environ.get(request["method"], "not there") if request["method"] else self.number

    @bh.hookimpl
    def plugin_export_state(self):
        return self.number

    @bh.hookimpl
    def plugin_import_state(self, state):
        self.number = state
'''


def asker(tmp_path: Path, version: str, permissions: Sequence[str] = (), optional: Sequence[str] = ()) -> Path:
    """Write version ``version`` of the plugin, which asks for these permissions, and return its directory."""
    tree = tmp_path / f"asker-{version}"
    tree.mkdir()
    (tree / "asker.py").write_text(ASKER.replace("{version}", version))
    declared = {"permissions": list(permissions), "optional_permissions": list(optional)}
    manifest = {"name": "asker", "version": version, "entry": "asker:Asker", **declared}
    (tree / "plugin.yaml").write_text(json.dumps(manifest))  # JSON is YAML
    return tree


def granting(*permissions: str, **more: Any) -> Mapping[str, Any]:
    return {"plugins": {"asker": {"grant": list(permissions), **more}}}


@pytest.mark.parametrize("level", LEVELS)
def test_a_plugin_that_needs_what_nobody_granted_does_not_start(level: str, tmp_path: Path) -> None:
    """P-01: at no level; it is listed as FAILED, and the sentence says what is missing and the command that grants it."""
    log = Log()
    with manager(log=log) as pm:
        with pytest.raises(bh.LoadFailed) as caught:
            pm.load("asker", source=asker(tmp_path, "1.0.0", ("host:log", "network", "filesystem:read:/srv//a")), isolation=level)
        cause = caught.value.__cause__
        assert isinstance(cause, bh.PermissionDenied)
        assert cause.missing == ("network", "filesystem:read:/srv/a")
        assert cause.command == "blackhole grant asker network filesystem:read:/srv/a"
        assert str(caught.value).endswith(
            "plugin asker@1.0.0 asks for network, filesystem:read:/srv/a, and was not granted that; "
            "grant it with: blackhole grant asker network filesystem:read:/srv/a"
        )
        plugin = pm.plugin("asker")
        assert plugin.phase is bh.Phase.FAILED
        assert plugin.permissions.missing == cause.missing
        [denied] = log.of("permission.denied")
        assert denied.data == {"version": "1.0.0", "missing": list(cause.missing), "command": cause.command}


@pytest.mark.parametrize("level", [*LEVELS, "container"])
def test_it_starts_once_it_is_granted(level: str, tmp_path: Path) -> None:
    """A wider grant will do; what is granted and not asked for is not given."""
    require_level(level)
    tree = asker(tmp_path, "1.0.0", ("filesystem:read:/srv/a",), ("env:HOME",))
    with manager() as pm:
        with pytest.raises(bh.LoadFailed):
            pm.load("asker", source=tree, isolation=level)
        assert pm.grant("Asker", "filesystem:read:/srv/", "network") == ("filesystem:read:/srv", "network")
        plugin = pm.load("asker", source=tree, isolation=level)
        assert plugin.phase is bh.Phase.RUNNING
        assert plugin.permissions.effective == ("filesystem:read:/srv/a",)
        assert (plugin.permissions.missing, plugin.permissions.outdated) == (("env:HOME",), False)


def test_what_the_configuration_grants_is_granted(tmp_path: Path) -> None:
    """Nothing else is needed."""
    with manager(granting("network")) as pm:
        pm.load("asker", source=asker(tmp_path, "1.0.0", ("network:connect:example.org:443",)), isolation="none")
        assert pm.plugin("asker").permissions.effective == ("network:connect:example.org:443",)


def test_a_part_of_what_it_needs_is_not_enough(tmp_path: Path) -> None:
    """An old, narrower grant is no answer to a wider request."""
    tree = asker(tmp_path, "1.0.0", ("network",))
    with manager(granting("network:connect:example.org")) as pm, pytest.raises(bh.LoadFailed, match="asks for network, and was not"):
        pm.load("asker", source=tree, isolation="none")


def test_one_that_is_denied_stops_no_other(tmp_path: Path) -> None:
    """F-01: load_all names it and goes on."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    (good / "fine.py").write_text("class Fine: ...")
    (good / "plugin.yaml").write_text("name: fine\nversion: 1.0.0\nentry: fine:Fine\nisolation: none\n")
    bad.mkdir()
    with manager({"sources": [str(good), str(asker(bad, "1.0.0", ("system",)))]}) as pm:
        report = pm.load_all()
        assert report.loaded == ("fine",)
        assert isinstance(report.failed["asker"].__cause__, bh.PermissionDenied)


@pytest.mark.parametrize("level", [*LEVELS, "container"])
def test_an_update_that_asks_for_more_waits_for_the_grant(level: str, tmp_path: Path) -> None:
    """P-03, A46: the old version serves on with its state, the listeners hear what is pending; after the grant the same swap works."""
    require_level(level)
    log = Log()
    with manager(granting("env:A"), log=log) as pm:
        pm.load("asker", source=asker(tmp_path, "1.0.0", ("env:A",)), isolation=level)
        pm.execute("asker")
        new = asker(tmp_path, "2.0.0", ("env:A", "network"))
        with Callers(2, lambda: pm.hook.version()) as callers, pytest.raises(bh.SwapFailed) as caught:
            pm.swap("asker", source=new)
        assert callers.failures == []
        assert set(map(tuple, callers.answers)) <= {("1.0.0",)}
        assert caught.value.phase == "prepare"
        assert isinstance(caught.value.cause, bh.PermissionDenied)
        [pending] = log.of("permission.pending")
        assert pending.data == {"version": "2.0.0", "missing": ["network"], "command": "blackhole grant asker network"}
        assert log.of("permission.denied") == []
        assert (pm.plugin("asker").version, pm.plugin("asker").phase) == ("1.0.0", bh.Phase.RUNNING)
        pm.grant("asker", "network")
        assert pm.swap("asker", source=new).to_version == "2.0.0"
        assert pm.execute("asker") == 2


def test_an_update_that_asks_for_less_has_less_at_once(tmp_path: Path) -> None:
    """P-03: what it does not ask for any more is not given, though it stays granted."""
    with manager(granting("network", "env:A")) as pm:
        pm.load("asker", source=asker(tmp_path, "1.0.0", ("network", "env:A")), isolation="process")
        pm.swap("asker", source=asker(tmp_path, "2.0.0", ("env:A",)))
        found = pm.plugin("asker").permissions
        assert (found.effective, found.at_start) == (("env:A",), ("env:A",))
        assert "network" in found.granted


def test_a_grant_for_some_versions_is_none_for_the_next(tmp_path: Path) -> None:
    """The operator is asked again."""
    with manager() as pm:
        pm.grant("asker", "network", versions="<2")
        pm.load("asker", source=asker(tmp_path, "1.0.0", ("network",)), isolation="none")
        with pytest.raises(bh.SwapFailed, match="asks for network"):
            pm.swap("asker", source=asker(tmp_path, "2.0.0", ("network",)))


def test_grants_outlive_their_host(tmp_path: Path) -> None:
    """With a state directory they are there for the next host; without one they end with the manager."""
    tree, state = asker(tmp_path, "1.0.0", ("network",)), tmp_path / "state"
    with manager(state_dir=state) as pm:
        pm.grant("asker", "network")
    with manager(state_dir=state) as pm:
        pm.load("asker", source=tree, isolation="none")
    with manager() as pm, pytest.raises(bh.LoadFailed):
        pm.load("asker", source=tree, isolation="none")


def test_no_grant_is_read_from_a_damaged_file(tmp_path: Path) -> None:
    """Who asks for nothing starts; who asks is refused with the file's name; nothing is taken for granted."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "grants.json").write_text("{}")
    with manager(granting("network"), state_dir=state) as pm:
        with pytest.raises(bh.LoadFailed, match=r"grants\.json cannot be used"):
            pm.load("asker", source=asker(tmp_path, "1.0.0", ("network",)), isolation="none")
        pm.load("asker", source=asker(tmp_path, "2.0.0", ("host:log", "filesystem:write:${data}")), isolation="none")


def test_a_plugin_without_a_manifest_asks_for_nothing(tmp_path: Path) -> None:
    """It is a plain pluggy plugin."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "pyproject.toml").write_text(
        '[project]\nname = "plain"\nversion = "1"\n[project.entry-points.notes]\nplain = "plain:Plain"\n'
    )
    (tmp_path / "plain" / "plain.py").write_text("class Plain: ...")
    with manager() as pm:
        pm.load("plain", source=tmp_path / "plain")
        assert pm.plugin("plain").permissions.required == ()


# --- a worker's environment ----------------------------------------------------------------------------------------------


def test_a_worker_reads_the_variables_it_was_granted_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P-01, H-10: env:NAME is enforced by what the worker is given; a revoked one is gone from the next worker."""
    monkeypatch.setenv("GRANTED", "yes")
    monkeypatch.setenv("REFUSED", "secret")
    with manager(granting("env:GRANTED", sandbox="off")) as pm:
        tree = asker(tmp_path, "1.0.0", (), ("env:GRANTED", "env:REFUSED"))
        pm.load("asker", source=tree, isolation="process")
        assert [pm.execute("asker", name) for name in ("GRANTED", "REFUSED")] == ["yes", "not there"]
        pm.revoke("asker", "env:GRANTED")
        pm.unload("asker")
        pm.load("asker", source=tree, isolation="process")
        assert pm.execute("asker", "GRANTED") == "not there"


# --- revoking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_where_there_are_no_walls_a_revocation_says_so(level: str, tmp_path: Path) -> None:
    """P-05: nothing pretends; the plugin goes on and is not started again with it."""
    log = Log()
    with manager(granting("network", sandbox="off"), log=log) as pm:
        tree = asker(tmp_path, "1.0.0", ("network",))
        pm.load("asker", source=tree, isolation=level)
        done = pm.revoke("asker", "network")
        assert done.permissions == ("network",)
        assert f"runs at level {level} without walls" in done.remains
        assert log.of("permission.revoked")[0].data == {"permissions": ["network"], "remains": done.remains}
        found = pm.plugin("asker").permissions
        assert (found.effective, found.at_start, found.outdated, found.withdrawn) == ((), ("network",), True, ("network",))
        pm.unload("asker")
        with pytest.raises(bh.LoadFailed, match="asks for network"):
            pm.load("asker", source=tree, isolation=level)


def test_a_revocation_that_changes_nothing_for_the_plugin_is_done(tmp_path: Path) -> None:
    """What it did not ask for it did not have; what was not granted cannot be taken."""
    with manager(granting("network", "system", sandbox="off")) as pm:
        pm.load("asker", source=asker(tmp_path, "1.0.0", ("network",)), isolation="none")
        assert pm.revoke("asker", "system").remains == ""
        assert pm.revoke("asker", "env:NEVER").permissions == ()
        with pytest.raises(GrantsError, match="only a part"):
            pm.revoke("asker", "network:connect:example.org")
        assert pm.plugin("asker").permissions.effective == ("network",)


def test_the_next_worker_of_a_plugin_has_what_is_granted_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P-05: a worker that is started in the place of a dead one does not get back what was revoked."""
    monkeypatch.setenv("GRANTED", "yes")
    log = Log()
    with manager(granting("env:GRANTED", sandbox="off"), log=log) as pm:
        plugin = pm.load("asker", source=asker(tmp_path, "1.0.0", ("env:GRANTED",)), isolation="process")
        assert pm.execute("asker", "GRANTED") == "yes"
        pm.revoke("asker", "env:GRANTED")
        assert plugin.pid is not None
        subprocess.run(["kill", "-9", str(plugin.pid)], check=True, timeout=10)
        log.wait("worker.restarted")
        assert pm.execute("asker", "GRANTED") == "not there"


def test_another_program_s_grant_counts_at_the_next_start(tmp_path: Path) -> None:
    """The command line or a second host changes the same file."""
    tree, state = asker(tmp_path, "1.0.0", ("network",)), tmp_path / "state"
    with manager(state_dir=state) as pm:
        with pytest.raises(bh.LoadFailed):
            pm.load("asker", source=tree, isolation="none")
        code = f"import blackhole_core as bh\nwith bh.PluginManager('notes', state_dir={str(state)!r}) as pm: pm.grant('asker', 'network')"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        assert pm.load("asker", source=tree, isolation="none").phase is bh.Phase.RUNNING


def test_behind_walls_the_plugin_is_swapped_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P-05: what it can do without is gone from the next call on; its state goes along, and no call is lost or fails."""
    monkeypatch.setenv("GRANTED", "yes")
    log = Log()
    with manager(granting("env:GRANTED", sandbox="native", unenforced="allow"), log=log) as pm:
        plugin = pm.load("asker", source=asker(tmp_path, "1.0.0", (), ("env:GRANTED",)), isolation="process")
        assert (pm.execute("asker"), pm.execute("asker", "GRANTED")) == (1, "yes")
        with Callers(2, lambda: pm.execute("asker", "GRANTED")) as callers:
            done = pm.revoke("asker", "env:GRANTED")
            assert done.remains == ""
            assert pm.execute("asker", "GRANTED") == "not there"
        assert callers.failures == []
        assert set(callers.answers) <= {"yes", "not there"}
        assert plugin.generation == 2
        assert pm.execute("asker") > 2
        assert not plugin.permissions.outdated
        assert log.of("permission.revoked")[0].data["remains"] == ""


def test_behind_walls_a_plugin_that_needs_it_goes_on_and_the_operator_is_told(tmp_path: Path) -> None:
    """P-05: it could not start again, and others may need it; what the next worker gets is narrower all the same."""
    with manager(granting("env:GRANTED", sandbox="native", unenforced="allow")) as pm:
        plugin = pm.load("asker", source=asker(tmp_path, "1.0.0", ("env:GRANTED",)), isolation="process")
        done = pm.revoke("asker", "env:GRANTED")
        assert done.remains.endswith("needs what was revoked and could not start anew; its walls stand until: blackhole unload asker")
        assert (plugin.phase, plugin.generation, plugin.permissions.outdated) == (bh.Phase.RUNNING, 1, True)


def test_a_swap_to_the_same_version_takes_new_grants_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no no-op when what the plugin may do has changed."""
    monkeypatch.setenv("LATER", "yes")
    with manager(granting(sandbox="off")) as pm:
        tree = asker(tmp_path, "1.0.0", (), ("env:LATER",))
        pm.load("asker", source=tree, isolation="process")
        assert pm.swap("asker", source=tree).unchanged
        pm.grant("asker", "env:LATER")
        assert pm.plugin("asker").permissions.outdated
        assert not pm.swap("asker", source=tree).unchanged
        assert pm.execute("asker", "LATER") == "yes"
        assert pm.swap("asker", source=tree).unchanged


def test_what_only_a_signed_plugin_may_have_is_never_given(tmp_path: Path) -> None:
    """Neither the configuration nor a grant can, and no command is shown that would not work."""
    with manager(granting("host:admin")) as pm:
        with pytest.raises(bh.LoadFailed, match="host:admin, network, and was not granted that; not all of it can be granted") as caught:
            pm.load("asker", source=asker(tmp_path, "1.0.0", ("host:admin", "network")), isolation="none")
        assert isinstance(caught.value.__cause__, bh.PermissionDenied)
        assert caught.value.__cause__.command == ""
        with pytest.raises(GrantsError, match="checks no signatures"):
            pm.grant("asker", "host:admin")


def test_a_revocation_waits_for_a_swap_that_was_admitted_before(tmp_path: Path) -> None:
    """What that swap started with the grants of before is narrowed as soon as it serves."""
    log, reached, go_on = Log(), threading.Event(), threading.Event()

    def hold(event: bh.Event) -> None:
        if event.name == "swap.phase" and event.data["phase"] == "switch":
            reached.set()
            assert go_on.wait(30)

    with manager(granting("env:A"), log=log) as pm:
        pm.load("asker", source=asker(tmp_path, "1.0.0", (), ("env:A",)), isolation="none")
        pm.on_event(hold)
        new = asker(tmp_path, "2.0.0", (), ("env:A",))
        swapping = threading.Thread(target=lambda: pm.swap("asker", source=new))
        revoking = threading.Thread(target=lambda: pm.revoke("asker", "env:A"))
        swapping.start()
        assert reached.wait(30)
        revoking.start()
        revoking.join(0.3)
        assert revoking.is_alive()
        go_on.set()
        swapping.join(30)
        revoking.join(30)
        instance = pm.parts.supervisor.member("asker").instance
        assert instance is not None
        assert (instance.id.version, instance.confinement.effective) == ("2.0.0", ())


def test_grants_swaps_and_revocations_at_once_end_as_the_last_word_says(tmp_path: Path) -> None:
    """Whatever a swap was admitted with, a revocation that came meanwhile holds for what it started."""
    one, two = (asker(tmp_path, version, (), ("env:A",)) for version in ("1.0.0", "2.0.0"))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with manager() as pm:
            pm.load("asker", source=one, isolation="none")
            stop = threading.Event()
            failures: list[BaseException] = []

            def swaps() -> None:
                while not stop.is_set():
                    for tree in (two, one):
                        try:
                            pm.swap("asker", source=tree)
                        except bh.SwapInProgress:
                            pass  # a revocation is under way
                        except BaseException as error:
                            failures.append(error)

            thread = threading.Thread(target=swaps)
            thread.start()
            try:
                for _ in range(60):
                    pm.grant("asker", "env:A")
                    pm.revoke("asker", "env:A")
                    # What serves now was narrowed, or was started after the revocation; a swap that began before it has ended.
                    instance = pm.parts.supervisor.member("asker").instance
                    assert instance is not None
                    assert instance.confinement.effective == ()
            finally:
                stop.set()
                thread.join(30)
            assert failures == []
    finally:
        sys.setswitchinterval(before)


def test_what_enforces_each_permission_is_told_of_what_was_built(tmp_path: Path) -> None:
    """P-04: behind walls kernel and broker, without them no more than the environment; what nobody brokers is none."""
    asked = ("filesystem:read:/srv", "network:connect:example.org:443", "process:exec:/bin/true", "env:A", "plugin:call:store", "host:log")

    def enforced(sandbox: str) -> list[str]:
        with manager(granting(*asked[:-1], sandbox=sandbox)) as pm:
            pm.load("asker", source=tmp_path / "asker-1.0.0", isolation="process")
            return [pm.plugin("asker").enforcement[one] for one in asked]

    asker(tmp_path, "1.0.0", asked)
    assert enforced("off") == ["none", "none", "none", "kernel", "none", "none"]
    assert enforced("native") == ["kernel", "broker", "kernel", "kernel", "none", "none"]
