"""The whole demo: read, count plainly, count through the plugin at each level, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from blackhole_core.cli.demo.act import Act, Outcome
from blackhole_core.cli.demo.corpus import Corpus, Source, read_corpus
from blackhole_core.cli.demo.display import Display
from blackhole_core.cli.demo.plainloop import Totals, sum_plainly
from blackhole_core.cli.demo.releases import build_releases
from blackhole_core.ids import Isolation
from blackhole_core.scratch import Scratch

__all__ = ["Plan", "Show", "play"]

#: The name of the first part, which is no level.
PLAIN = "plain loop"


@attrs.frozen
class Plan:
    """What is asked for."""

    levels: tuple[Isolation, ...] = (Isolation.NONE, Isolation.THREAD, Isolation.PROCESS)
    threads: int = 8
    limit: int | None = None  #: files
    seconds: float | None = None  #: about how long the whole may take

    @property
    def parts(self) -> tuple[str, ...]:
        return (PLAIN, *(level.value for level in self.levels))

    def share(self) -> float | None:
        """Return the seconds that the plain loop may take, so that all parts together keep to ``seconds``.

        A level takes about as long as the plain loop, at most half as long again: it does the same counting, with swaps in between.
        """
        return None if self.seconds is None else self.seconds / (1 + 1.5 * len(self.levels))


@attrs.frozen
class Show:
    """What the whole demo showed."""

    files: int
    characters: int
    wanted: Totals
    plain_seconds: float
    outcomes: tuple[Outcome, ...]

    @property
    def problems(self) -> list[str]:
        return [problem for outcome in self.outcomes for problem in outcome.problems(self.wanted)]

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "files": self.files,
            "characters": self.characters,
            "plain_loop": {"seconds": self.plain_seconds, "totals": attrs.asdict(self.wanted)},
            "levels": [{**attrs.asdict(outcome), "calls_per_second": outcome.rate} for outcome in self.outcomes],
        }


def play(plan: Plan, display: Display, corpus: Corpus | None = None) -> Show:
    """Play the demo.

    :raises BlackholeError: there is nothing to count, or the plugins cannot be built.
    """
    corpus = corpus or read_corpus(limit=plan.limit)
    try:
        display.begin(plan.parts, len(corpus.sources))
        began = time.monotonic()
        counted: list[Source] = []
        wanted = sum_plainly(_until(corpus.sources, plan.share(), counted, display))
        plain_seconds = time.monotonic() - began
        display.begin(plan.parts, len(counted))  # the time may have been up before the last file
        with Scratch() as scratch:
            releases = build_releases(scratch.new("demo"))
            outcomes = tuple(Act(level, releases, counted, threads=plan.threads, display=display).play() for level in plan.levels)
    finally:
        display.end()
    return Show(len(counted), sum(len(source.text) for source in counted), wanted, plain_seconds, outcomes)


def _until(
    sources: Sequence[Source],
    seconds: float | None,
    counted: list[Source],
    display: Display,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Source]:
    """Yield the sources one by one into ``counted``, until the time is up; at least one."""
    began = clock()
    for number, source in enumerate(sources):
        if counted and seconds is not None and clock() - began > seconds:
            return
        counted.append(source)
        yield source
        display.advance(PLAIN, number + 1)
