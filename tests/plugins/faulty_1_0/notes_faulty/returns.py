"""Faults in what is returned. ``fail`` is specified to return a string."""

from __future__ import annotations

from typing import Any

#: A little more than 100 MB: above what any frame should be allowed to be.
BIG = 100 * 1024 * 1024 + 1  # characters
DEPTH = 100_000  # lists inside lists


def cyclic() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def deep() -> list[Any]:
    """Return more nesting than any recursive encoder survives (A04)."""
    nested: list[Any] = []
    for _ in range(DEPTH):
        nested = [nested]
    return nested


KINDS: dict[str, Any] = {
    "none": lambda: "well",
    "unserialisable": object,
    "wrong_type": lambda: 17,
    "cyclic": cyclic,
    "lambda": lambda: lambda: None,
    "generator": lambda: (number for number in range(3)),
    "big": lambda: "x" * BIG,
    "deep": deep,
    "surrogate": lambda: "\ud800",  # a str that is not UTF-8
    "huge_int": lambda: 1 << 100,
    "nan": lambda: float("nan"),
}
