"""What an audit event says a plugin does, and whether its permissions name that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.noticing import EVENTS, wanted_by, without_permission
from blackhole_core.manifest.permissions import parse_permission


@pytest.mark.parametrize(
    ("event", "args", "expected"),
    [
        ("open", ("/a//b/../c", "r", 0), ["filesystem:read:/a/c"]),
        ("open", (b"/a", "rb+", 0), ["filesystem:write:/a"]),
        ("open", (Path("/a"), None, os.O_RDONLY), ["filesystem:read:/a"]),
        ("open", ("/a", None, os.O_WRONLY), ["filesystem:write:/a"]),
        ("open", ("/a b", "r", 0), ["filesystem:read:/a b"]),
        ("open", (5, "r", 0), []),
        ("open", ("/dev/null", "w", 0), []),
        ("os.listdir", (None,), [f"filesystem:read:{Path.cwd()}"]),
        ("os.rename", ("/a", "/b", -1, -1), ["filesystem:write:/a", "filesystem:write:/b"]),
        ("os.symlink", ("/a", "/b", -1), ["filesystem:write:/b"]),
        ("os.remove", ("/a", -1), ["filesystem:write:/a"]),
        ("socket.connect", (None, ("10.0.0.1", 80)), ["network:connect:10.0.0.1:80"]),
        ("socket.connect", (None, ("::ffff:10.0.0.1", 80, 0, 0)), ["network:connect:10.0.0.1:80"]),
        ("socket.connect", (None, ("fe80::1%eth0", 80, 0, 2)), ["network:connect:[fe80::1]:80"]),
        ("socket.connect", (None, "/run/docker.sock"), ["filesystem:write:/run/docker.sock"]),
        ("socket.connect", (None, b"\0abstract"), []),
        ("socket.sendto", (None, ("Example.org", 53)), ["network:connect:example.org:53"]),
        ("socket.bind", (None, ("", 0)), ["network:listen:0.0.0.0"]),
        ("socket.getaddrinfo", ("example.org", 443, 0, 0, 0), ["network:connect:example.org:443"]),
        ("socket.getaddrinfo", (b"example.org", "https", 0, 0, 0), ["network:connect:example.org"]),
        ("socket.getaddrinfo", (None, 80, 0, 0, 0), []),
        ("socket.gethostbyname", ("example.org",), ["network:connect:example.org"]),
        ("subprocess.Popen", ("git", ["git"], None, None), ["process:exec:git"]),
        ("os.system", (b"ls",), ["process:exec:/bin/sh"]),
        ("os.posix_spawn", ("/bin/true", ["true"], {}), ["process:exec:/bin/true"]),
        ("os.spawn", (0, "/bin/true", [], {}), ["process:exec:/bin/true"]),
        ("sys._getframe", (None,), []),
    ],
)
def test_what_an_event_takes(event: str, args: tuple[Any, ...], expected: list[str]) -> None:
    """In the words of permissions, whatever type Python passes."""
    assert [str(one) for one in wanted_by(event, args)] == expected


@pytest.mark.parametrize(
    ("event", "args", "have", "missing"),
    [
        ("open", ("/srv/a", "r", 0), ("filesystem:read:/srv",), []),
        ("open", ("/srv/a", "w", 0), ("filesystem:read:/srv",), ["filesystem:write:/srv/a"]),
        ("open", ("/own/code.py", "r", 0), (), []),
        ("open", ("/own/code.py", "w", 0), (), ["filesystem:write:/own/code.py"]),
        ("open", ("/owner", "r", 0), (), ["filesystem:read:/owner"]),
        ("socket.connect", (None, ("93.184.216.34", 443)), ("network:connect:example.org:443",), []),
        ("socket.connect", (None, ("93.184.216.34", 80)), ("network:connect:example.org:443",), ["network:connect:93.184.216.34:80"]),
        ("socket.connect", (None, ("127.0.0.1", 443)), ("network:connect:example.org:443",), ["network:connect:127.0.0.1:443"]),
        ("socket.connect", (None, ("127.0.0.1", 443)), ("network",), ["network:connect:127.0.0.1:443"]),
        ("socket.getaddrinfo", ("evil.org", 443), ("network:connect:example.org",), ["network:connect:evil.org:443"]),
        ("socket.getaddrinfo", ("evil.org", 443), ("network",), []),
        ("subprocess.Popen", ("/usr/bin/git", [], None, None), ("process:exec:/usr/bin/git",), []),
    ],
)
def test_what_no_permission_names(event: str, args: tuple[Any, ...], have: tuple[str, ...], missing: list[str]) -> None:
    """A name that is allowed stands for the public addresses it may have; its own files a plugin may read."""
    found = without_permission(wanted_by(event, args), map(parse_permission, have), ("/own",))
    assert [str(one) for one in found] == missing


@given(st.sampled_from(sorted(EVENTS)), st.text(max_size=20), st.integers())
def test_any_text_is_taken(event: str, text: str, number: int) -> None:
    """What a plugin passes to an operation may be anything; the event is then nothing, or something that can be told."""
    shapes = {
        "open": (text, "r", 0),
        "socket.connect": (None, (text, number)),
        "socket.sendto": (None, (text, number)),
        "socket.bind": (None, text),
    }
    try:
        found = wanted_by(event, shapes.get(event, (text, text)))
    except (UnicodeError, ValueError):
        return
    for one in found:
        assert str(one)
