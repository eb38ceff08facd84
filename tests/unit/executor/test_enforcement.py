"""What keeps a plugin to its permissions is told of the layers that hold, and never more."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from blackhole_core.executor.enforcement import Enforced, Layer, report

ASKED = (
    *("filesystem:read:/srv", "network:connect:example.org", "network:listen:127.0.0.1:80", "process:exec:/bin/true", "env:HOME"),
    *("device:gpu", "plugin:call:store", "plugin:event:x.*", "host:kv", "network", "filesystem", "system", "other_plugins", "user_data"),
)


def kinds(*layers: Layer) -> str:
    """Return the first letter of each answer: kernel, broker, advisory, none."""
    return "".join(kind[0] for kind in report(ASKED, layers).values())


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((), "nnnnnnnnnnnnnn"),
        ((Layer.AUDIT,), "aaaannnnnaannn"),
        ((Layer.ENVIRONMENT,), "nnnnknnnnnnnnn"),
        ((Layer.ENVIRONMENT, Layer.FILES, Layer.NETWORK, Layer.PROGRAMS), "kkkkkknnnkkknn"),
        ((Layer.ENVIRONMENT, Layer.FILES, Layer.NETWORK, Layer.PROGRAMS, Layer.RELAY), "kbkkkknnnbkknn"),
        ((Layer.RELAY,), "nnnnnnnnnnnnnn"),
        ((Layer.PROGRAMS,), "nnnknnnnnnnnnn"),
    ],
)
def test_the_table(layers: tuple[Layer, ...], expected: str) -> None:
    """P-01: a relay without a closed network keeps nobody; a coarse word is as strong as its weakest part; what nobody brokers is none."""
    assert kinds(*layers) == expected


def test_no_layer_makes_anything_weaker() -> None:
    """But that a relay opens by the host what was closed by the kernel."""
    order = list(Enforced)
    for number in range(len(Layer)):
        for layers in itertools.combinations(Layer, number):
            before = report(ASKED, layers)
            for more in set(Layer) - {*layers, Layer.RELAY}:
                after = report(ASKED, (*layers, more))
                assert all(order.index(Enforced(after[key])) <= order.index(Enforced(before[key])) for key in before)


def test_the_keys_are_canonical() -> None:
    """One permission is named in one way."""
    assert report(("filesystem:read:/a//b",), ()) == {"filesystem:read:/a/b": "none"}


def test_the_page_says_what_the_table_says() -> None:
    """docs/explanation/isolation.md, column by column."""
    page = (Path(__file__).parents[3] / "docs" / "explanation" / "isolation.md").read_text("utf-8")
    columns = ((), (Layer.AUDIT,), (Layer.ENVIRONMENT,), tuple(set(Layer) - {Layer.AUDIT}))
    examples = {":".join(asked.split(":")[:2]): asked for asked in ASKED if ":" in asked}
    examples |= {"filesystem:write": "filesystem:write:/srv", "env": "env:HOME", "device": "device:gpu", "host": "host:kv"}
    rows = [line.strip("| ").split(" | ") for line in page.partition("| permission | levels none")[2].partition("\n\n")[0].splitlines()[2:]]
    told = {name: kinds for names, *kinds in rows for name in re.findall(r"`([^`]+)`", names)}
    assert told == {name: [report((examples[name],), layers)[examples[name]] for layers in columns] for name in told}
    assert {name.split(":")[0] for name in told} == {asked.split(":")[0] for asked in ASKED if ":" in asked}
