"""The whole demo: read, count plainly, count through the plugin at each level, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from blackhole_core.cli.demo.act import Act, Outcome
from blackhole_core.cli.demo.corpus import Corpus, Source, read_corpus
from blackhole_core.cli.demo.display import Display
from blackhole_core.cli.demo.plainloop import Totals, sum_plainly
from blackhole_core.cli.demo.releases import build_releases
from blackhole_core.ids import Isolation
from blackhole_core.scratch import Scratch

__all__ = ["IN_MACHINE", "Plan", "Show", "play"]

#: The name of the first part, which is no level.
PLAIN = "plain loop"
#: Files that are counted in a virtual machine, at most: where QEMU emulates the processor, one takes half a second.
IN_MACHINE = 60


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
    wanted_in_machine: Totals  #: of the first :data:`IN_MACHINE` files

    @property
    def problems(self) -> list[str]:
        return [problem for outcome in self.outcomes for problem in outcome.problems(self._wanted_at(outcome.level))]

    def _wanted_at(self, level: str) -> Totals:
        return self.wanted_in_machine if level == Isolation.VM else self.wanted

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
            outcomes = tuple(_play_level(level, releases, counted, plan, display) for level in plan.levels)
    finally:
        display.end()
    wanted_in_machine = sum_plainly(counted[:IN_MACHINE])
    return Show(len(counted), sum(len(source.text) for source in counted), wanted, plain_seconds, outcomes, wanted_in_machine)


def _play_level(level: Isolation, releases: Mapping[str, Path], counted: Sequence[Source], plan: Plan, display: Display) -> Outcome:
    sources = counted[:IN_MACHINE] if level is Isolation.VM else counted
    return Act(level, releases, sources, threads=plan.threads, display=display).play()


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
