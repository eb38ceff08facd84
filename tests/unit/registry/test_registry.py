"""The registry: what there is, looked at afresh, and what the host allows."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from blackhole_core.errors import ManifestError, NameClash, SourceError, UnknownPlugin
from blackhole_core.registry.registry import PluginRegistry
from blackhole_core.registry.store import WheelStore
from tests.unit.registry.wheels import WheelMaker, manifest, plugin_wheel


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    return path


@pytest.fixture
def registry(tmp_path: Path) -> PluginRegistry:
    return PluginRegistry("notes", store=WheelStore(tmp_path / "store"))


def test_installed_and_local(site: Path, tmp_path: Path, registry: PluginRegistry) -> None:
    """Installed plugins and those of remembered sources are found together, by canonical name."""
    plugin_wheel("Up_Per").install(site)
    plugin_wheel("lower").write(tmp_path / "dist")
    registry.add_source(tmp_path / "dist")
    registry.add_source(str(tmp_path / "dist"))
    assert sorted(registry.candidates()) == ["lower", "up-per"]
    assert [len(found) for found in registry.candidates().values()] == [1, 1]
    assert registry.find("UP.PER").name == "Up_Per"
    assert registry.problems() == ()
    assert "2 found, 0 unusable" in repr(registry)


def test_find_looks_afresh(site: Path, registry: PluginRegistry) -> None:
    """An upgrade by pip is found by the next ``find``, without restarting the host."""
    old = plugin_wheel().install(site)
    assert registry.find("upper").id.version == "1.0.0"
    shutil.rmtree(old)
    plugin_wheel(version="1.1.0").install(site)
    assert registry.find("upper").id.version == "1.1.0"
    assert registry.find("upper", version="1.1").id.version == "1.1.0"
    with pytest.raises(SourceError, match=r"there is no version 1.0.0 of plugin 'upper'; there is 1.1.0"):
        registry.find("upper", version="1.0.0")


def test_find_at_a_source(site: Path, tmp_path: Path, registry: PluginRegistry) -> None:
    """A named source is the only place looked at, and is not remembered."""
    plugin_wheel(version="9.0").install(site)
    plugin_wheel(version="2.0").write(tmp_path / "dist")
    assert registry.find("upper", source=tmp_path / "dist").id.version == "2.0"
    assert registry.find("upper").id.version == "9.0"


def test_versions_of_one_plugin_are_no_clash(site: Path, tmp_path: Path, registry: PluginRegistry) -> None:
    """Of one plugin, installed and in a directory of wheels, all versions stand side by side; the highest is taken."""
    plugin_wheel(version="1.0").install(site)
    plugin_wheel(version="2.0").write(tmp_path / "dist")
    registry.add_source(tmp_path / "dist")
    assert len(registry.candidates()["upper"]) == 2
    assert registry.find("upper").id.version == "2.0"


def test_two_distributions_of_one_name(site: Path, tmp_path: Path, registry: PluginRegistry) -> None:
    """A61: a wheel of another distribution that calls its plugin like an installed one is a clash; neither is taken."""
    plugin_wheel().install(site)
    rival = WheelMaker(
        "rival",
        "9.0",
        {"rival/__init__.py": b"", "rival/plugin.yaml": manifest("Upper", "9.0").encode()},
        {"notes": {"upper": "rival"}},
    )
    rival.write(tmp_path / "dist")
    registry.add_source(tmp_path / "dist")
    with pytest.raises(NameClash) as caught:
        registry.find("upper")
    assert "of upper" in str(caught.value)
    assert "of rival" in str(caught.value)
    assert registry.candidates() == {}


def test_unusable_plugins_say_why(site: Path, tmp_path: Path, registry: PluginRegistry) -> None:
    """Asked for a plugin that was found and cannot be used, the registry raises what is wrong with it, not "unknown"."""
    plugin_wheel("bad", threads=0).install(site)
    with pytest.raises(ManifestError, match="threads"):
        registry.find("bad")
    with pytest.raises(UnknownPlugin):
        registry.find("other")
    with pytest.raises(SourceError, match="there is nothing at"):
        registry.find("any", source=tmp_path / "gone")
    assert [problem.name for problem in registry.problems()] == ["bad"]


@pytest.mark.parametrize(
    ("allow", "deny", "name", "why"),
    [
        (None, (), "upper", None),
        (["upper"], (), "Upper", None),
        (["acme.*"], (), "acme_upper", None),
        (["lower", "acme.*"], (), "upper", "plugin 'upper' is not in the allow list of the host's configuration (allow: lower, acme.*)"),
        ([], (), "upper", "plugin 'upper' is not in the allow list of the host's configuration (allow: nothing)"),
        (None, ["Up*"], "upper", "plugin 'upper' is denied by the host's configuration (deny: Up*)"),
        (["upper"], ["*"], "upper", "plugin 'upper' is denied by the host's configuration (deny: *)"),
        (None, ["foo_bar"], "Foo.Bar", "plugin 'Foo.Bar' is denied by the host's configuration (deny: foo_bar)"),
    ],
)
def test_allow_and_deny(tmp_path: Path, allow: list[str] | None, deny: list[str], name: str, why: str | None) -> None:
    """Patterns match names in their one spelling; deny wins; an empty allow list allows nothing."""
    registry = PluginRegistry("notes", store=WheelStore(tmp_path), allow=allow, deny=deny)
    assert registry.allows(name) == why


def test_many_threads(site: Path, tmp_path: Path, registry: PluginRegistry) -> None:
    """Looks, sources and readers from many threads at once: each sees a whole discovery, and no source is lost."""
    plugin_wheel("installed").install(site)
    errors: list[BaseException] = []
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        try:
            plugin_wheel(f"local{number}").write(tmp_path / f"dist{number}")
            barrier.wait(30)
            registry.add_source(tmp_path / f"dist{number}")
            for _ in range(3):
                assert registry.find(f"local{number}").name == f"local{number}"
                assert "installed" in registry.candidates()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(registry.refresh().candidates) == 7
