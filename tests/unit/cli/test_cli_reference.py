"""The page docs/reference/cli.md says what the program does: it cannot rot without a test that fails."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from blackhole_core.cli.exits import Exit
from blackhole_core.cli.main import main

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text("utf-8")
SECTIONS = {match[1]: match[2] for match in re.finditer(r"^### `blackhole ([a-z ]+)`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)}


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        yield " ".join((*path, name)), command


COMMANDS = dict(commands(main))


def test_every_command_has_its_section_and_no_other_has() -> None:
    """Commands that come and go do so on the page, too."""
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_says_what_the_help_says(name: str) -> None:
    """Usage and description are those of ``--help``."""
    command = COMMANDS[name]
    usage = " ".join((f"blackhole {name}", *command.collect_usage_pieces(click.Context(command))))
    assert f"```text\n{usage}\n```" in SECTIONS[name]
    for paragraph in inspect.cleandoc((command.help or "").partition("\b")[0]).strip().split("\n\n"):
        assert paragraph in SECTIONS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_has_every_option_and_no_other(name: str) -> None:
    """Each option is in the table with the words of its help."""
    options = {option for parameter in COMMANDS[name].params if isinstance(parameter, click.Option) for option in parameter.opts}
    table = "\n".join(line for line in SECTIONS[name].splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(-[-a-z]+)`", table)) == options
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert (parameter.help or "").rstrip(".") in table


@pytest.mark.parametrize("code", Exit)
def test_the_page_has_every_exit_code(code: Exit) -> None:
    """The table of exit codes is that of the program."""
    assert f"| {code.value} | {code.meaning} |" in PAGE


def test_the_page_has_no_other_exit_code() -> None:
    """Nothing is promised that no command does."""
    table = PAGE.partition("## Exit codes")[2].partition("##")[0]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == [str(code.value) for code in Exit]
