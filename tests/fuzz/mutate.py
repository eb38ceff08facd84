"""Damage bytes in the ways that parsers fall for. Pure: the same seed damages them in the same way."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["mutated"]

#: Heads of msgpack that claim much or nest, ends of numbers, what separates texts.
_HEADS: Final = (0x00, 0x7F, 0x80, 0x81, 0x8F, 0x90, 0x91, 0x92, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC4, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCF, 0xD3, 0xD4, 0xD5,
                 0xD8, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF, 0x0A, 0x0D, 0x20, 0x22, 0x2C, 0x3A, 0x5B, 0x5D, 0x7B, 0x7D)  # fmt: skip
#: Bytes of one input at most: more than any reader takes as one message here.
_LONGEST: Final = 200_000


def mutated(chance: random.Random, samples: Sequence[bytes]) -> bytes:
    """Return one of the samples, damaged in one to four ways."""
    data = bytearray(chance.choice(samples))
    for _ in range(chance.choice((1, 1, 2, 4))):
        chance.choice(_WAYS)(data, chance, samples)
        del data[_LONGEST:]
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _flip(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice(_HEADS)


def _cut(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    del data[_place(data, chance) :]


def _remove(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    start = _place(data, chance)
    del data[start : start + chance.randrange(1, 20)]


def _insert(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    start = _place(data, chance)
    data[start:start] = chance.randbytes(chance.randrange(1, 20))


def _repeat(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    start = _place(data, chance)
    data[start:start] = data[start : start + chance.choice((1, 2, 5, 50))] * chance.choice((2, 10, 1000, 5000))


def _claim(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    start = _place(data, chance)
    number = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
    data[start : start + 4] = (number % 2**32).to_bytes(4, chance.choice(("big", "little")))


def _nest(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    start = _place(data, chance)
    data[start:start] = chance.choice((b"\x91", b"\x81\xa1a", b"[", b"{a: ", b"\xd4\x01\x91")) * chance.choice((10, 500, 20_000))


def _splice(data: bytearray, chance: random.Random, samples: Sequence[bytes]) -> None:
    other = chance.choice(samples)
    start = chance.randrange(len(other) + 1)
    data[_place(data, chance) :] = other[start:]


_WAYS: Final[tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...]] = (
    _flip, _flip, _set, _set, _cut, _remove, _insert, _repeat, _claim, _nest, _splice,
)  # fmt: skip
