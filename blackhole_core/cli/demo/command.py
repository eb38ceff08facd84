"""``blackhole demo``: the options, the words around it, and the table at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blackhole_core.cli.exits import Exit
from blackhole_core.cli.output import clean, print_json, print_table
from blackhole_core.ids import Isolation

if TYPE_CHECKING:
    from blackhole_core.cli.demo.corpus import Corpus
    from blackhole_core.cli.demo.display import Display
    from blackhole_core.cli.demo.show import Plan, Show

__all__ = ["demo"]

#: The levels that can be shown.
_LEVELS = ("none", "thread", "process", "container", "vm")


@click.command()
@click.option("--limit", type=click.IntRange(min=20), help="Count only so many files, at least 20.")
@click.option(
    "--levels", metavar="LEVEL,...", help=f"The isolation levels to show, of {', '.join(_LEVELS)}; those that can run here if left out."
)
@click.option("--threads", type=click.IntRange(1, 64), default=8, show_default=True, help="Threads that call the plugin.")
@click.option("--seconds", type=click.FloatRange(min=1), help="Count so few files that it takes about this long.")
@click.option("--json", "as_json", is_flag=True, help="Show nothing meanwhile and print one JSON document at the end.")
def demo(limit: int | None, levels: str | None, threads: int, seconds: float | None, as_json: bool) -> None:
    """Show plugins at work: called by many threads, swapped, rolled back and killed meanwhile, and nothing lost.

    Counts lines, words and identifiers of every file of Python's standard library through a plugin, at each isolation level in turn, and compares
    the sums with a plain loop. Ends with code 1 when they differ.
    """
    from blackhole_core.cli.demo.corpus import read_corpus
    from blackhole_core.cli.demo.display import SilentDisplay
    from blackhole_core.cli.demo.show import Plan, play

    plan = Plan(_levels(levels), threads, limit, seconds)
    corpus = read_corpus(limit=limit)
    if not as_json:
        _introduce(plan, corpus)
    show = play(plan, SilentDisplay() if as_json else _display(), corpus)
    if as_json:
        print_json(show.as_dict())
    else:
        _conclude(show)
    raise SystemExit(Exit.FAILED if show.problems else Exit.OK)


def _levels(text: str | None) -> tuple[Isolation, ...]:
    if text is None:
        from blackhole_core.executor.levels import levels_here

        return tuple(level.isolation for level in levels_here() if level.available and level.isolation.value in _LEVELS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in _LEVELS]
    if unknown or not names:
        raise click.BadParameter(f"wanted some of {', '.join(_LEVELS)}, got {text!r}", param_hint="--levels")
    return tuple(map(Isolation, dict.fromkeys(names)))


def _not_shown(plan: Plan) -> list[tuple[str, str]]:
    """Return the levels that cannot run here, with the reasons, where all that can are shown."""
    from blackhole_core.executor.levels import levels_here

    known = levels_here()
    here = {level.isolation for level in known if level.available}
    return [(level.isolation.value, level.reason) for level in known if not level.available] if here <= set(plan.levels) else []


def _display() -> Display:
    import sys

    from blackhole_core.cli.demo.display import PlainDisplay, RichDisplay

    return RichDisplay() if sys.stdout.isatty() else PlainDisplay()


def _introduce(plan: Plan, corpus: Corpus) -> None:
    levels = ", ".join(level.value for level in plan.levels)
    for level, reason in _not_shown(plan):
        click.echo(f"Level {level} is not shown: {clean(reason)}")
    click.echo(
        f"The plugin `wordcount` counts lines, words and identifiers of {len(corpus.sources)} files of Python's standard library\n"
        f"({corpus.characters / 1e6:.0f} million characters), called by {plan.threads} threads, at the isolation levels {levels} in turn.\n"
        "While they call, it is swapped from version 1.0.0 to 2.0.0, rolled back and swapped again, with its sums; where it has a worker\n"
        "process, that is killed as well. At the end everything must be as if one plain loop had counted, which comes first.\n"
    )


def _conclude(show: Show) -> None:
    headings = ("LEVEL", "CALLS", "CALLS/S", "SWAPS", "LONGEST GATE", "KILLED", "RESTARTS", "RETRIED", "FAILED", "LOST")
    rows = (
        (
            outcome.level,
            outcome.calls,
            f"{outcome.rate:.0f}",
            outcome.swaps,
            f"{outcome.longest_gate * 1000:.0f} ms",
            outcome.kills,
            outcome.restarts,
            outcome.retried,
            outcome.failed,
            outcome.lost,
        )
        for outcome in show.outcomes
    )
    click.echo()
    print_table(headings, rows, empty="")
    totals = show.wanted
    click.echo(
        f"\nplain loop: {totals.files} files, {totals.lines} lines, {totals.words} words, {totals.identifiers} identifiers in {show.plain_seconds:.1f} s"
    )
    if show.problems:
        for problem in show.problems:
            click.echo(f"blackhole: {clean(problem)}", err=True)
        return
    click.echo("Every level gave the same sums, and the plugin's own sums came through every swap: nothing failed, nothing was lost.\n")
    for outcome in show.outcomes:
        if outcome.calls < show.files:
            click.echo(
                f"At level {outcome.level} only the first {outcome.calls} files were counted: an emulated processor takes twenty times as long."
            )
        if outcome.under_load < outcome.swaps:
            click.echo(
                f"At level {outcome.level} the calls were over before {outcome.swaps - outcome.under_load} of the swaps; count more files to see all under load."
            )
    click.echo(
        "LONGEST GATE is how long calls waited at most in a swap: for calls that had begun to end, and the state to be handed over.\n"
        "RETRIED are calls on a worker at the moment it was killed: they get the error WorkerDied, here they are made again.\n"
        "\nTry next:\n"
        "  blackhole doctor                      which levels run on this machine\n"
        "  blackhole check PATH                  look over a plugin before it is released\n"
        "  blackhole run --project wordcount     a standing host; then, from another terminal: blackhole ps"
    )
