"""Which system calls nothing in a container may make, as the OCI runtime specification writes it: the worker's own filter, as far as it can be in force before the first program
runs in there. It is what holds even of an interpreter that would not build walls around itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Final

from blackhole_core.executor.sandbox.callfilter import Condition, Rule, rules_for

__all__ = ["PROFILE", "profile"]

#: Bits of an argument that count: the others of the register are not looked at by calls that take an int.
_WORD: Final = 0xFFFF_FFFF
#: Calls that come to be denied later: process 1 and the worker have to end with their parents.
_STILL_NEEDED: Final = frozenset({"prctl"})


def profile(rules: Iterable[Rule]) -> dict[str, Any]:
    """Return the filter of these rules."""
    unconditional: dict[int, list[str]] = {}
    conditional: list[dict[str, Any]] = []
    for rule in rules:
        if rule.conditions:
            conditional += [
                _deny([rule.name], rule.error, arguments) for arguments in itertools.product(*map(_alternatives, rule.conditions))
            ]
        else:
            unconditional.setdefault(rule.error, []).append(rule.name)
    return {
        "defaultAction": "SCMP_ACT_ALLOW",  # of this architecture; a call by the numbers of another one ends the program
        "syscalls": [*(_deny(names, error, ()) for error, names in unconditional.items()), *conditional],
    }


def _deny(names: list[str], error: int, arguments: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": error, "args": list(arguments)}


def _alternatives(condition: Condition) -> list[dict[str, Any]]:
    """Return comparisons of which one holds where ``condition`` does: the format knows equality under a mask, and no inequality under one."""
    if not condition.negated:
        return [_masked(condition, condition.mask, value) for value in condition.values]
    if condition.mask == _WORD:
        [value] = condition.values
        return [{"index": condition.argument, "value": value, "op": "SCMP_CMP_NE"}]
    if condition.values == (0,):
        bits = (1 << number for number in range(condition.mask.bit_length()))
        return [_masked(condition, bit, bit) for bit in bits if bit & condition.mask]
    others = (value for value in range(condition.mask + 1) if value & condition.mask == value and value not in condition.values)
    return [_masked(condition, condition.mask, value) for value in others]


def _masked(condition: Condition, mask: int, value: int) -> dict[str, Any]:
    return {"index": condition.argument, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


PROFILE: Final = profile(
    rule
    for rule in rules_for(
        programs=True, own_root=True, own_ipc=True, own_pids=True, truncates=True
    )  # the engine has yet to execute the interpreter
    if rule.name not in _STILL_NEEDED
)
