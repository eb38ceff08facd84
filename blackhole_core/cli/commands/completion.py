"""``blackhole completion``: the script that makes a shell complete commands, options and plugin names."""

from __future__ import annotations

import click

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    r"""Print the completion script for a shell.

    \b
    bash: eval "$(blackhole completion bash)"       in ~/.bashrc
    zsh:  eval "$(blackhole completion zsh)"        in ~/.zshrc
    fish: blackhole completion fish | source        in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    make = get_completion_class(shell)
    assert make is not None  # the three that click has
    click.echo(make(ctx.find_root().command, {}, "blackhole", "_BLACKHOLE_COMPLETE").source())
