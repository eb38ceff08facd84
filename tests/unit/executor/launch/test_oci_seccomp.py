"""The filter of a container and that of its worker are one list: each call is judged alike, whichever form the list is written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.launch.oci.seccomp import PROFILE, profile
from blackhole_core.executor.sandbox.callfilter import Condition, Rule, rules_for

_RULES = rules_for(programs=True, own_root=True, own_ipc=True, own_pids=True, truncates=True)
_BITS = st.integers(0, 31).map(lambda number: 1 << number)
_ARGUMENT = st.one_of(
    st.integers(0, 20), _BITS, st.lists(_BITS, max_size=4).map(sum), st.sampled_from([0x5412, 0x541C]), st.integers(0, 2**32 - 1)
)


def _holds(condition: Condition, arguments: Sequence[int]) -> bool:
    return (arguments[condition.argument] & condition.mask in condition.values) != condition.negated


def _answer_of_rules(rules: Sequence[Rule], name: str, arguments: Sequence[int]) -> int:
    return next((rule.error for rule in rules if rule.name == name and all(_holds(one, arguments) for one in rule.conditions)), 0)


def _matches(comparison: Mapping[str, Any], arguments: Sequence[int]) -> bool:
    value = arguments[comparison["index"]]
    if comparison["op"] == "SCMP_CMP_NE":
        return bool(value != comparison["value"])
    assert comparison["op"] == "SCMP_CMP_MASKED_EQ"
    return bool(value & comparison["value"] == comparison["valueTwo"])


def _answer_of_profile(made: Mapping[str, Any], name: str, arguments: Sequence[int]) -> int:
    for rule in made["syscalls"]:
        if name in rule["names"] and all(_matches(one, arguments) for one in rule["args"]):
            return int(rule["errnoRet"])
    return 0


@given(st.sampled_from([*sorted({rule.name for rule in _RULES}), "read"]), st.tuples(*[_ARGUMENT] * 6))
def test_both_forms_judge_every_call_alike(name: str, arguments: tuple[int, ...]) -> None:
    """With whatever arguments."""
    assert _answer_of_profile(profile(_RULES), name, arguments) == _answer_of_rules(_RULES, name, arguments)


def test_what_the_registers_hold_beyond_an_argument_does_not_matter() -> None:
    """The kernel looks at 32 bits of a request; a filter that compared 64 would let it pass with another bit set."""
    assert _answer_of_profile(PROFILE, "ioctl", (0, 0x5412 | 1 << 40, 0, 0, 0, 0)) > 0


def test_what_is_needed_to_begin_is_not_denied_yet() -> None:
    """The engine executes the interpreter, and what that begins with has itself ended with its parent."""
    denied = {name for rule in PROFILE["syscalls"] for name in rule["names"]}
    assert not denied & {"execve", "execveat", "prctl"}
    assert {"setdomainname", "mount", "socket"} <= denied
