"""What the echo plugin answers, and that its three declarations of itself agree."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from typing import Any

import pluggy
import pytest
import yaml
from blackhole_echo import Echo

from blackhole_core.hookspecs import PROJECT, LifecycleSpecs


def ask(**request: Any) -> Any:
    """Send a request as a host does: through the contract, by keyword."""
    pm = pluggy.PluginManager(PROJECT)
    pm.add_hookspecs(LifecycleSpecs)
    pm.register(Echo())
    [answer] = pm.hook.plugin_handle(request={"method": None, "params": {}, "data": b"", **request})
    return answer


@pytest.mark.parametrize("data", [b"hi", b"", bytes(range(256))])
def test_the_answer_is_the_data_after_a_greeting(data: bytes) -> None:
    """Whatever bytes come in go out behind ``Echo: ``."""
    assert ask(data=data) == b"Echo: " + data


def test_the_method_may_be_named() -> None:
    """``echo`` is the one method there is."""
    assert ask(method="echo", data=b"hi") == b"Echo: hi"


def test_another_method_is_refused_by_name() -> None:
    """A typing mistake in the method's name is an error that quotes it."""
    with pytest.raises(ValueError, match="asked for 'ecko'"):
        ask(method="ecko")


def test_the_distribution_and_the_manifest_agree() -> None:
    """Name and version in ``plugin.yaml`` are those that pip knows."""
    manifest = yaml.safe_load(importlib.resources.files("blackhole_echo").joinpath("plugin.yaml").read_text(encoding="utf-8"))

    assert manifest["version"] == importlib.metadata.version("blackhole-echo")
    [entry] = importlib.metadata.entry_points(group="blackhole.plugins", name=manifest["name"])
    assert entry.load() is Echo
