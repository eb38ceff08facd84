"""``blackhole vm``: what virtual machines are made of."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from blackhole_core.cli.exits import Exit
from blackhole_core.cli.output import clean, json_option, print_json, print_table

__all__ = ["vm"]


@click.group()
def vm() -> None:
    """Make ready what level vm needs."""


@vm.command()
@click.option(
    "--kernel",
    "image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Boot guests with this kernel (a bzImage with its modules beside it or in /lib/modules) from now on.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep everything here instead of in the user's cache, where hosts look for it.",
)
@json_option
def build(image: Path | None, output: Path | None, as_json: bool) -> None:
    """Make the images that guests are started from: kernel, interpreter, and what this Python can import.

    Hosts make them at first use, too; only a kernel is never fetched but by this command, where the system has none that will do. What is there already is
    not made again. The same input gives the same bytes. Ends with code 4 when something is missing.
    """
    from blackhole_core.executor.guest.images import CannotBuild, Images, cache_directory
    from blackhole_core.executor.guest.kernel import NoKernel
    from blackhole_core.executor.guest.tools import how_to_install, machine_reason, missing_programs
    from blackhole_core.executor.launch.vmproof import prove_accelerator
    from blackhole_core.executor.levels import import_path

    missing = missing_programs()
    if reason := machine_reason() or (f"{', '.join(missing)} not found; `{how_to_install(missing)}` installs them" if missing else ""):
        _fail(reason)
    images = Images(
        output.absolute() if output is not None else cache_directory(os.environ), lambda said: click.echo(clean(said), err=True)
    )
    try:
        kernel = images.choose_kernel(image) if image is not None else images.kernel(fetch=True)
        made: dict[str, Any] = {
            "kernel": str(kernel.image),
            "release": kernel.release,
            "initramfs": str(images.initramfs(kernel)),
            "interpreter": str(images.interpreter()),
            "imports": [str(path) for path in images.imports(import_path())],
            "accelerator": str(prove_accelerator(images, kernel)),
        }
    except (CannotBuild, NoKernel) as error:
        _fail(str(error))
    if as_json:
        print_json(made)
    else:
        print_table(
            ("WHAT", "WHERE"), [(what, ", ".join(value) if isinstance(value, list) else value) for what, value in made.items()], empty=""
        )


def _fail(reason: str) -> NoReturn:
    click.echo(f"blackhole: {clean(reason)}", err=True)
    sys.exit(Exit.PROBLEMS)
