"""From walls to the arguments of ``bwrap``, and when it is taken."""

from __future__ import annotations

import pytest

from blackhole_core.executor.confinement import Sandbox
from blackhole_core.executor.launch.bwrap.arguments import AROUND, arguments, mounted
from blackhole_core.executor.sandbox.bubblewrap import takes_bubblewrap
from blackhole_core.executor.wire.policy import Layer, Place, Policy


def _policy(*places: Place, around: tuple[Layer, ...] = AROUND) -> Policy:
    return Policy(places, (), (), 1, temporary_size=4096, around=around)


def _place(path: str, source: str = "", *, write: bool = False, device: bool = False) -> Place:
    return Place((source or path).encode(), path.encode(), write, device=device)


def test_outer_places_come_first() -> None:
    """Or they would hide what lies in them."""
    places = [_place("/a/b/c"), _place("/z"), _place("/a")]
    assert [place.target for place in mounted(places)] == [b"/a", b"/z", b"/a/b/c"]


def test_another_spelling_inside_a_place_is_left_out() -> None:
    """It is a link there already, over which nothing can be mounted when it is absolute; elsewhere the spelling is a place of its own."""
    places = [_place("/venv"), _place("/venv/lib64", "/venv/lib"), _place("/opt/python"), _place("/lib", "/usr/lib"), _place("/usr/lib")]
    assert [place.target for place in mounted(places)] == [b"/lib", b"/venv", b"/opt/python", b"/usr/lib"]


def test_each_place_has_its_rights() -> None:
    """Read-only unless it may be written; by descriptor, but for devices."""
    places = [_place("/code"), _place("/data", write=True), _place("/dev/kvm", device=True)]
    words = " ".join(arguments(_policy(*places), zip(places, (7, 8, -1), strict=True), {}))
    assert "--ro-bind-fd 7 /code --bind-fd 8 /data --dev-bind /dev/kvm /dev/kvm" in words
    assert words.index("--tmpfs /dev ") < words.index("/dev/kvm")


def test_the_root_is_read_only_in_the_end() -> None:
    """All that is made for it comes before; temporary files have a bounded place."""
    words = arguments(_policy(_place("/tmp/x")), [(_place("/tmp/x"), 5)], {"/proc/keys": False, "/proc/acpi": True})
    text = " ".join(words)
    assert text.endswith("--remount-ro /proc --remount-ro /dev --remount-ro / --chdir /")
    assert "--perms 1777 --size 4096 --tmpfs /tmp --ro-bind-fd 5 /tmp/x" in text
    assert "--proc /proc --ro-bind /dev/null /proc/keys --tmpfs /proc/acpi --remount-ro /proc/acpi" in text
    assert "--cap-drop ALL" in text
    assert "--die-with-parent" in words


def test_no_memory_without_bound() -> None:
    """Where its size cannot be told there is none that could be written: temporary files have a directory, and the rest becomes read-only."""
    words = arguments(Policy((), (), (), 1, around=AROUND), [], {})
    assert [words[place + 1] for place, word in enumerate(words) if word == "--tmpfs"] == ["/dev"]
    assert "--size" not in words


def test_every_namespace() -> None:
    """All of them; without a user namespace only where there can be none."""
    for without in ((), (Layer.USER,)):
        around = tuple(layer for layer in AROUND if layer not in without)
        made = {word for word in arguments(_policy(around=around), [], {}) if word.startswith("--unshare")}
        assert made == {f"--unshare-{name}" for name in ("pid", "net", "ipc", "uts", "cgroup-try")} | (
            set() if without else {"--unshare-user"}
        )


@pytest.mark.parametrize(
    ("wanted", "root_of_its_own", "works", "taken"),
    [
        (Sandbox.BUBBLEWRAP, True, None, True),
        (Sandbox.BUBBLEWRAP, False, None, True),
        (Sandbox.AUTO, True, None, False),
        (Sandbox.AUTO, False, True, True),
        (Sandbox.AUTO, False, False, False),
        (Sandbox.NATIVE, True, None, False),
        (Sandbox.NATIVE, False, None, False),
    ],
)
def test_when_it_is_taken(wanted: Sandbox, root_of_its_own: bool, works: bool | None, taken: bool) -> None:
    """Where it is asked for, and where it alone can give a worker a root; whether it works is asked only where that decides."""

    def ask() -> bool:
        assert works is not None
        return works

    assert takes_bubblewrap(wanted, root_of_its_own=root_of_its_own, works=ask) is taken
