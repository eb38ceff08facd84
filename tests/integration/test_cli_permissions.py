"""``blackhole permissions``, ``grant`` and ``revoke``, with a host that runs and without one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from blackhole_core.cli.exits import Exit
from blackhole_core.cli.main import main

MANIFEST = {
    "name": "mail",
    "version": "1.0.0",
    "entry": "mail:Mail",
    "isolation": "none",
    "permissions": ["network:connect:smtp.example.org:465", "host:log"],
    "optional_permissions": ["env:MAIL_USER", "filesystem"],
}


class Place:
    """A directory with a configuration and one plugin that asks for permissions, in which commands are run."""

    def __init__(self, root: Path) -> None:
        self.here = root / "here"
        self.runtime = root / "run"
        self.runtime.mkdir(0o700)
        tree = self.here / "mail"
        tree.mkdir(parents=True)
        (tree / "mail.py").write_text("class Mail: ...")
        self.write(MANIFEST)
        (self.here / "blackhole.yaml").write_text("project: notes\nstate_dir: state\nsources: [mail]\n")

    def write(self, manifest: dict[str, Any]) -> None:
        (self.here / "mail" / "plugin.yaml").write_text(json.dumps(manifest))

    def run(self, *words: str, code: Exit = Exit.OK) -> str:
        with contextlib.chdir(self.here):
            result = CliRunner(env={"XDG_RUNTIME_DIR": str(self.runtime), "BLACKHOLE_SOCKET": None}).invoke(main, words)
        assert result.exit_code == code, result.output
        return result.stdout if code == Exit.OK else result.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    @contextlib.contextmanager
    def host(self) -> Iterator[None]:
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.runtime)}
        command = [sys.executable, "-m", "blackhole_core.cli", "run", "--json"]
        with subprocess.Popen(command, cwd=self.here, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if json.loads(line).get("name") == "host.ready":
                        break
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                process.stdout.read()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def table(text: str) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in (line.split("  ") for line in text.splitlines()) for row in [[cell.strip() for cell in row if cell]]}


def test_a_running_host_is_asked_and_told(place: Place) -> None:
    """P-03: what is missing is shown; after the grant the plugin loads; a revocation says what remains; the file has it all."""
    with place.host():
        shown = table(place.run("permissions", "mail"))
        assert shown["network:connect:smtp.example.org:465"] == ["ask", "required", "no", "-"]
        assert shown["host:log"] == ["normal", "required", "not needed", "-"]
        assert shown["filesystem"] == ["dangerous", "optional", "no", "-"]
        failed = place.run("load", "mail", code=Exit.FAILED)
        assert "grant it with: blackhole grant mail network:connect:smtp.example.org:465" in failed
        said = place.run("grant", "mail", "network:connect:*.example.org", "system")
        assert "mail is granted network:connect:*.example.org (level ask)\n" in said
        assert "mail is granted system (level dangerous)\n" in said
        assert "load it with: blackhole load mail\n" in said
        assert "does not ask" not in said  # system holds env:MAIL_USER
        place.run("load", "mail")
        found = place.json("permissions", "mail")
        assert found["effective"] == ["network:connect:smtp.example.org:465", "host:log", "env:MAIL_USER"]
        assert table(place.run("permissions", "mail"))["host:log"] == ["normal", "required", "not needed", "none"]
        enforced = place.run("info", "mail").partition("PERMISSION OR LIMIT")[2]
        assert table(enforced)["network:connect:smtp.example.org:465"] == ["none"]
        assert (found["missing"], found["phase"], found["outdated"]) == (["filesystem"], "running", False)

        said = place.run("grant", "mail", "filesystem:read:/etc/aliases", "device:gpu")
        assert "mail 1.0.0 does not ask for device:gpu" in said
        assert "it runs without that until: blackhole reload mail" in said
        shown = table(place.run("permissions", "mail"))
        assert shown["filesystem"][2] == "only filesystem:read:/etc/aliases"
        assert shown["device:gpu"] == ["dangerous", "-", "yes", "-"]
        place.run("reload", "mail")
        assert not place.json("permissions", "mail")["outdated"]

        assert "only a part of system" in place.run("revoke", "mail", "env:MAIL_USER", code=Exit.FAILED)
        done = place.json("revoke", "mail", "system", "network")
        assert done["revoked"] == ["network:connect:*.example.org", "system"]
        assert "runs at level none without walls" in done["remains"]
        assert "nothing of that was granted to mail" in place.run("revoke", "mail", "network")
        events = [record["name"] for record in place.json("logs") if record["kind"] == "event" and record["name"].startswith("permission.")]
        assert events == ["permission.denied", "permission.denied", "permission.granted", "permission.granted", "permission.revoked"]
    kept = json.loads((place.here / "state" / "grants.json").read_text())
    assert [one["permission"] for one in kept["grants"]] == ["filesystem:read:/etc/aliases", "device:gpu"]


def test_without_a_host_the_file_is_used(place: Place) -> None:
    """The next host finds the grant; what the configuration grants can be revoked before it starts."""
    shown = table(place.run("permissions", "mail"))
    assert shown["network:connect:smtp.example.org:465"] == ["ask", "required", "no", "-"]
    assert place.json("grant", "mail", "network:connect:SMTP.example.org:465", "--versions", "<2")["granted"] == [
        "network:connect:smtp.example.org:465"
    ]
    assert table(place.run("permissions", "mail"))["network:connect:smtp.example.org:465"][2] == "yes"
    place.write({**MANIFEST, "version": "2.0.0"})
    assert table(place.run("permissions", "mail"))["network:connect:smtp.example.org:465"][2] == "no"
    place.write(MANIFEST)
    with place.host():
        assert place.json("permissions", "mail")["phase"] == "running"
    assert "network:connect:smtp.example.org:465 is revoked from mail" in place.run("revoke", "mail", "network")
    config = place.here / "blackhole.yaml"
    config.write_text(config.read_text() + "plugins: {mail: {grant: [network]}}\n")
    assert table(place.run("permissions", "mail"))["network"] == ["dangerous", "-", "yes", "-"]
    place.run("revoke", "mail", "network")
    assert table(place.run("permissions", "mail"))["network"] == ["dangerous", "-", "withdrawn", "-"]


def test_a_grant_may_come_before_the_plugin(place: Place) -> None:
    """A name that is not known yet is taken; one that can be none is not."""
    with place.host():
        assert place.json("grant", "later", "network")["now"] is None
        assert "cannot be the name of a plugin" in place.run("grant", "../x", "network", code=Exit.FAILED)


@pytest.mark.parametrize("command", ["grant", "revoke"])
def test_strange_characters_never_reach_the_terminal(place: Place, command: str) -> None:
    """A18: what is typed or was written into a manifest is shown escaped."""
    error = place.run(command, "mail", "env:\x1b[31m\u202eX", code=Exit.FAILED)
    assert "is no permission" in error
    assert error.rstrip("\n").isprintable()


def test_where_no_host_runs_and_no_file_is_known_nothing_is_granted(place: Place) -> None:
    """The sentence says what is missing."""
    (place.here / "blackhole.yaml").write_text("project: notes\n")
    assert "names no state_dir" in place.run("grant", "mail", "network", code=Exit.NO_HOST)
    (place.here / "blackhole.yaml").unlink()
    assert "no host is running" in place.run("grant", "mail", "network", code=Exit.NO_HOST)


def test_another_project_s_grants_are_not_touched(place: Place) -> None:
    """``--project`` names a host that does not run: the configuration here is not its."""
    assert "no host is running" in place.run("grant", "mail", "network", "--project", "other", code=Exit.NO_HOST)
    assert not (place.here / "state").exists()


def test_the_file_beside_another_configuration_is_found(place: Place, tmp_path: Path) -> None:
    """``--config`` from elsewhere."""
    place.here, here = tmp_path, place.here
    place.run("grant", "mail", "network", "--config", str(here / "blackhole.yaml"))
    assert (here / "state" / "grants.json").exists()


def test_a_damaged_file_is_a_sentence(place: Place) -> None:
    """Nothing is shown as granted."""
    (place.here / "state").mkdir()
    (place.here / "state" / "grants.json").write_text("[]")
    for words in (("permissions", "mail"), ("grant", "mail", "network"), ("revoke", "mail", "network")):
        assert "grants.json cannot be used" in place.run(*words, code=Exit.FAILED)
