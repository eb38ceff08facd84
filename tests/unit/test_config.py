"""``blackhole.yaml`` and ``PluginManager(config=…)``: the same rules, every problem at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest
import yaml

from blackhole_core.config import HostConfig, PluginConfig, config_schema, parse_config, read_config
from blackhole_core.errors import ConfigError
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.restart import RestartPolicy

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"

EVERYTHING: dict[str, Any] = {
    "project": "notes",
    "specs": ["notes_api:NotesSpecs"],
    "sources": ["plugins", "dist/upper-1.0.0-py3-none-any.whl"],
    "state_dir": "state",
    "default_isolation": "thread",
    "safe_mode": False,
    "audit": True,
    "allow": ["count*"],
    "deny": ["count-evil"],
    "watch": ["counter"],
    "telemetry": {"sample": 7},
    "keep_snapshots": 3,
    "zygote": "ahead",
    "call_timeout": 20,
    "start_timeout": 5,
    "stop_grace": 1,
    "hang_grace": 2,
    "heartbeat": 0.5,
    "hung_after": 20,
    "poison_deaths": 2,
    "max_calls": 100,
    "probation": 10,
    "breaker": {"failures": 3, "period": 30, "open": 10},
    "drain_timeout": 3,
    "state_timeout": 4,
    "max_message": 65536,
    "share_results": True,
    "sandbox": "native",
    "unenforced": "allow",
    "isolation_fallback": "process",
    "container": {"runtime": "runc", "image": "python:3.11"},
    "vm": {"spare": True},
    "restart": {"intensity": 2, "period": 30, "delay": 0.5, "max_delay": 5},
    "plugins": {
        "counter": {
            "isolation": "process",
            "source": "counter",
            "version": "2.0.0",
            "enabled": True,
            "threads": 4,
            "call_timeout": 10,
            "start_timeout": 6,
            "stop_grace": 0,
            "hang_grace": 0,
            "heartbeat": 2,
            "hung_after": 0,
            "poison_deaths": 0,
            "max_calls": 1,
            "probation": 0,
            "breaker": {},
            "drain_timeout": 0,
            "state_timeout": 7,
            "max_message": 4096,
            "share_results": False,
            "sandbox": "off",
            "unenforced": "refuse",
            "isolation_fallback": "thread",
            "container": {"runtime": "crun"},
            "vm": {"spare": False},
            "restart": {"intensity": 0},
            "config": {"language": "en", "deep": {"list": [1, None, True]}},
            "environment": ["HOME"],
            "grant": ["network:connect:example.org:443"],
            "resources": {"cpu": 50, "memory": 100, "disk": 10, "network": 1, "pids": 8},
        }
    },
}


def _written(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "blackhole.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value), encoding="utf-8")
    return path


def _problems(value: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(value)
    return [str(problem) for problem in caught.value.problems]


def test_a_file_and_a_mapping_give_the_same(tmp_path: Path) -> None:
    """Every key, read from YAML and given by a program."""
    from_file = read_config(_written(tmp_path, EVERYTHING))
    from_mapping = parse_config(EVERYTHING)
    assert attrs.evolve(from_mapping, directory=from_file.directory) == from_file
    assert from_file.plugins["counter"].restart == RestartPolicy(intensity=0)


def test_everything_is_covered_by_the_example_above() -> None:
    """A key that is added must be tried here."""
    assert set(EVERYTHING) == {field.name for field in attrs.fields(HostConfig)} - {"directory"}
    assert set(EVERYTHING["plugins"]["counter"]) == {field.name for field in attrs.fields(PluginConfig)}


def test_nothing_said_is_the_default() -> None:
    """None, an empty mapping and an empty file are one configuration."""
    assert parse_config(None) == parse_config({})
    assert parse_config(None).plugins == {}


def test_a_checked_configuration_is_taken_as_it_is() -> None:
    """A program may read the file itself first."""
    config = parse_config(EVERYTHING)
    assert parse_config(config) is config


def test_the_path_of_a_file_may_be_text(tmp_path: Path) -> None:
    """``PluginManager(config="blackhole.yaml")``."""
    assert parse_config(str(_written(tmp_path, {"keep_snapshots": 4}))).keep_snapshots == 4


def test_every_problem_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    """An operator corrects a file in one go."""
    text = """\
keep_snapshots: 0
safe_mode: maybe
default_isolation: proces
restart: {delay: 20}
plugins:
  counter: {threads: many, isolaton: none}
  '../etc': {}
"""
    path = _written(tmp_path, text)
    problems = _problems(path)
    assert sorted(problem.partition(" wanted ")[0] for problem in problems) == [
        f"{path}:1: keep_snapshots:",
        f"{path}:2: safe_mode:",
        f"{path}:3: default_isolation:",
        f"{path}:4: restart:",
        f"{path}:6: plugins.counter.isolaton:",
        f"{path}:6: plugins.counter.threads:",
        f"{path}:7: plugins.'../etc':",
    ]
    joined = "\n".join(problems)
    assert "did you mean 'process'?" in joined
    assert "did you mean 'isolation'?" in joined
    assert "0 <= delay <= max_delay" in joined


def test_a_rule_over_several_keys_hides_no_other_problem() -> None:
    """A restart policy that makes no sense is one problem among the others, at its own place."""
    problems = _problems({"restart": {"delay": 99}, "plugins": {"counter": {"restart": {"delay": 99}, "threads": 0}}, "unknown": 1})
    assert len(problems) == 4
    assert any("plugins.counter.restart" in problem for problem in problems)


def test_a_problem_of_a_mapping_names_the_argument() -> None:
    """There is no file and no line."""
    [problem] = _problems({"keep_snapshot": 1})
    assert problem.startswith("config")
    assert "did you mean 'keep_snapshots'?" in problem


def test_one_plugin_in_two_spellings_is_a_problem() -> None:
    """Neither of two settings silently wins."""
    [problem] = _problems({"plugins": {"Foo_Bar": {}, "foo-bar": {}}})
    assert "another spelling" in problem


@pytest.mark.parametrize(
    "wrong",
    [
        {"call_timeout": 0},
        {"call_timeout": float("inf")},
        {"call_timeout": True},
        {"start_timeout": "5"},
        {"stop_grace": -1},
        {"max_message": 1},
        {"max_message": 2.5},
        {"allow": "counter"},
        {"sources": [1]},
        {"plugins": []},
        {"plugins": {"counter": None}},
        {"plugins": {"x y": {}}},
        {"restart": {"intensity": -1}},
        {"restart": {"period": 0}},
        {"default_isolation": "Process "},
    ],
)
def test_impossible_values_are_refused(wrong: dict[str, Any]) -> None:
    """What cannot be obeyed is never guessed at."""
    assert len(_problems(wrong)) == 1


def test_what_is_no_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    """Anchors, duplicate keys and the like: the strict loader's word."""
    assert "blackhole.yaml:2" in _problems(_written(tmp_path, "keep_snapshots: 1\nkeep_snapshots: 2\n"))[0]


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    """Nothing is made up for it."""
    with pytest.raises(FileNotFoundError):
        parse_config(tmp_path / "none.yaml")


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the host was started; in a mapping they are relative to where the program runs."""
    config = read_config(_written(tmp_path, EVERYTHING))
    monkeypatch.chdir("/")
    assert config.path("plugins") == tmp_path / "plugins"
    assert config.path("/abs") == Path("/abs")
    assert parse_config({}).path("plugins") == Path("/plugins")
    monkeypatch.setenv("HOME", "/home/someone")
    assert config.path("~/plugins") == Path("/home/someone/plugins")


def test_what_is_said_of_one_plugin_wins_over_what_is_said_of_all() -> None:
    """Key by key, in any spelling of its name; the restart policy is one value."""
    config = parse_config(EVERYTHING)
    own, other = config.settings("Counter", Isolation.NONE), config.settings("other", Isolation.NONE)
    assert (own.isolation, other.isolation) == (Isolation.PROCESS, None)
    assert (own.limits.call_timeout, other.limits.call_timeout) == (10.0, 20.0)
    assert (own.drain_timeout, other.drain_timeout) == (0.0, 3.0)
    assert (own.restart.intensity, own.restart.period) == (0, 60.0)
    assert other.restart.period == 30.0
    assert other.default_isolation is Isolation.THREAD


def test_the_configurations_default_level_wins_over_the_programs() -> None:
    """The operator always wins."""
    assert parse_config({}).settings("x", Isolation.PROCESS).default_isolation is Isolation.PROCESS
    assert parse_config({"default_isolation": "none"}).settings("x", Isolation.PROCESS).default_isolation is Isolation.NONE


def test_a_timeout_for_all_leaves_a_manifests_own_alone() -> None:
    """Only what is said of the plugin itself overrides its manifest."""
    config = parse_config({"call_timeout": 5, "plugins": {"a": {"call_timeout": 6}}})
    assert not config.settings("b", Isolation.NONE).call_timeout_set
    assert config.settings("a", Isolation.NONE).call_timeout_set


def test_only_named_variables_that_are_set_reach_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """H-10: nothing of the host's environment is given by accident."""
    monkeypatch.setenv("GRANTED", "yes")
    monkeypatch.delenv("UNSET", raising=False)
    config = parse_config({"plugins": {"a": {"environment": ["GRANTED", "UNSET"]}}})
    assert config.settings("a", Isolation.NONE).environment == {"GRANTED": "yes"}
    assert "PATH" in os.environ


# --- the published page and schema ---------------------------------------------------------------------------------------


def _keys(schema: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, kind in schema.get("properties", {}).items():
        found.add(f"{prefix}{name}")
        found |= _keys(kind, f"{prefix}{name}.")
        if isinstance(kind.get("additionalProperties"), dict):
            found |= _keys(kind["additionalProperties"], f"{prefix}{name}.NAME.")
    return found


def test_the_published_schema_is_the_programs() -> None:
    """An editor that uses the file says what the program says."""
    assert json.loads((REFERENCE / "config.schema.json").read_text("utf-8")) == config_schema()


def test_the_schema_accepts_what_the_program_accepts() -> None:
    """The example with every key is valid, a wrong one is not."""
    validator = jsonschema.Draft202012Validator(config_schema())
    validator.check_schema(config_schema())
    assert list(validator.iter_errors(EVERYTHING)) == []
    assert list(validator.iter_errors({"keep_snapshots": 0, "nothing": 1}))


def test_the_page_describes_every_key_and_no_other() -> None:
    """The first column of its tables against the schema."""
    page = (REFERENCE / "configuration.md").read_text("utf-8")
    described = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert described == _keys(config_schema())


def test_the_example_of_the_page_is_valid() -> None:
    """What is shown can be copied."""
    page = (REFERENCE / "configuration.md").read_text("utf-8")
    blocks = [block.split("```")[0] for block in page.split("```yaml\n")[1:]]
    assert blocks
    for block in blocks:
        parse_config(yaml.safe_load(block))
