"""What holds for every command: help, exit codes, one sentence for an error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import blackhole_core
from blackhole_core.cli.exits import Exit
from blackhole_core.cli.failing import HostFailure, NoHost, ReportingGroup
from blackhole_core.cli.main import main
from blackhole_core.errors import BlackholeError, ConfigError, Problem


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        yield (*path, name)


@pytest.mark.parametrize("words", [(), *commands(main)], ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...], runner: CliRunner) -> None:
    """-h and --help say what a command is for, and how to use it."""
    long, short = (runner.invoke(main, [*words, option]) for option in ("--help", "-h"))
    assert long.exit_code == short.exit_code == Exit.OK
    assert long.output == short.output
    assert long.output.startswith(f"Usage: {' '.join(('main', *words))}")


def test_the_version_is_that_of_the_package(runner: CliRunner) -> None:
    """--version names program and version."""
    assert runner.invoke(main, ["--version"]).output == f"blackhole, version {blackhole_core.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    """``blackhole --help`` needs neither the manager nor rich nor yaml."""
    program = (
        "import sys; from blackhole_core.cli.main import main; main(['--help'], standalone_mode=False)\n"
        "heavy = {'blackhole_core.manager', 'rich', 'yaml', 'msgspec', 'watchfiles', 'pluggy', 'packaging'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "words",
    [
        ("ps",),
        ("call", "transform", "text=x"),
        ("call", "--plugin", "x"),
        ("load", "x"),
        ("unload", "x"),
        ("swap", "x", "2.0.0"),
        ("rollback", "x"),
        ("reload", "x"),
        ("state", "list", "x"),
        ("state", "export", "x", "file"),
        ("logs",),
        ("logs", "-f"),
        ("stop",),
    ],
    ids=" ".join,
)
def test_without_a_host_a_command_says_how_to_start_one(words: tuple[str, ...], runner: CliRunner) -> None:
    """Code 3 and one sentence, for every command that needs a host."""
    result = runner.invoke(main, words)
    assert result.exit_code == Exit.NO_HOST
    assert result.stderr == "blackhole: no host is running; start one with: blackhole run\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ("nope",),
        ("call",),
        ("call", "hook", "text"),
        ("call", "hook", "--data", "x"),
        ("call", "--plugin", "x", "a", "b"),
        ("call", "--plugin", "x", "--params", "{"),
        ("call", "--plugin", "x", "--params", "[]"),
        ("call", "hook", "--timeout", "0"),
        ("swap",),
        ("swap", "x", "--isolation", "moon"),
        ("swap", "x", "--source", "missing"),
        ("check",),
        ("list",),
        ("run",),
        ("run", "missing.yaml"),
        ("logs", "-n", "-1"),
        ("doctor", "--require", "moon"),
        ("demo", "--levels", "moon"),
        ("demo", "--levels", ""),
        ("demo", "--limit", "0"),
        ("completion", "powershell"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_usage_error(words: tuple[str, ...], runner: CliRunner) -> None:
    """Code 2 for what cannot be understood."""
    result = runner.invoke(main, words)
    assert result.exit_code == Exit.USAGE
    assert "Error: " in result.stderr


def raising(error: BaseException) -> click.Group:
    @click.group(cls=ReportingGroup)
    @click.option("--debug", is_flag=True)
    def group(debug: bool) -> None:
        pass

    @group.command()
    def fail() -> None:
        raise error

    return group


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (BlackholeError("it is so"), Exit.FAILED, "it is so"),
        (NoHost("nobody there"), Exit.NO_HOST, "nobody there"),
        (HostFailure("KeyError", "from afar"), Exit.FAILED, "from afar"),
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), Exit.FAILED, "x.yaml: No such file or directory"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "interrupted"),
        (BlackholeError("bell \a and \x1b[2J"), Exit.FAILED, "bell \\x07 and \\x1b[2J"),
        (ValueError("oops"), Exit.FAILED, "ValueError: oops (this is a fault of blackhole itself; --debug shows where)"),
        (
            ConfigError([Problem(file="f", line=n, path="p", wanted="w", got="g") for n in (1, 2)]),
            Exit.FAILED,
            "f:1: p: wanted w, got g\nf:2: p: wanted w, got g",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_is_a_sentence_and_a_code(error: BaseException, code: Exit, sentence: str) -> None:
    """Each error ends with its code and one sentence on standard error, without traceback."""
    result = CliRunner().invoke(raising(error), ["fail"])
    assert (result.exit_code, result.stderr, result.stdout) == (code, f"blackhole: {sentence}\n", "")


def test_debug_shows_the_traceback() -> None:
    """--debug shows where it was raised, here and in the host."""
    result = CliRunner().invoke(raising(HostFailure("KeyError", "from afar", "Traceback: in the host\n")), ["--debug", "fail"])
    assert result.exit_code == Exit.FAILED
    assert "in fail\n    raise error" in result.stderr
    assert "In the host:\nTraceback: in the host\n" in result.stderr
    assert result.stderr.endswith("blackhole: from afar\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion_script(shell: str, runner: CliRunner) -> None:
    """The script calls back into the program."""
    result = runner.invoke(main, ["completion", shell])
    assert result.exit_code == Exit.OK
    assert f"_BLACKHOLE_COMPLETE={shell}_complete" in result.stdout


def test_completion_without_a_host_offers_no_names(runner: CliRunner) -> None:
    """Tab after ``blackhole swap`` is quick and quiet when nothing runs."""
    from blackhole_core.cli.where import plugin_names

    with click.Context(main) as ctx:
        assert plugin_names(ctx, ctx.command.params[0], "") == []


def test_a_broken_configuration_here_is_reported_by_commands_that_use_it(runner: CliRunner) -> None:
    """A blackhole.yaml in the way of finding the host is not passed over."""
    Path("blackhole.yaml").write_text("project: 3\nnope: 1\n")
    result = runner.invoke(main, ["ps"])
    assert result.exit_code == Exit.FAILED
    assert "blackhole.yaml:1: project: wanted" in result.stderr
    assert "blackhole.yaml:2: nope" in result.stderr


def test_an_unsafe_runtime_directory_is_refused(runner: CliRunner, tmp_path: Path) -> None:
    """A socket in a directory that others can write to is not talked to."""
    (tmp_path / "run" / "blackhole").mkdir()
    (tmp_path / "run" / "blackhole").chmod(0o777)
    result = runner.invoke(main, ["ps"])
    assert result.exit_code == Exit.FAILED
    assert "has mode 0777, wanted 0700" in result.stderr
