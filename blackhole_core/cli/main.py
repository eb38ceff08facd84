"""The program ``blackhole``: which commands there are, and what holds for all of them."""

from __future__ import annotations

import click

import blackhole_core
from blackhole_core.cli.commands import host, logs, look, operate, permissions, ps, state, vm
from blackhole_core.cli.commands.completion import completion
from blackhole_core.cli.demo.command import demo
from blackhole_core.cli.failing import ReportingGroup

__all__ = ["main"]


@click.group(cls=ReportingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(blackhole_core.__version__, package_name="blackhole-core", prog_name="blackhole")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, too.")
def main(debug: bool) -> None:
    """Host plugins, swap them while calls flow, isolate their faults.

    New here? `blackhole demo` shows it all at work, `blackhole doctor` what runs on this machine.
    """


for command in (
    *(look.doctor, look.check, look.list_plugins, look.info),
    *(host.run, host.watch),
    ps.ps,
    *(operate.call, operate.load, operate.unload, operate.swap, operate.rollback, operate.reload),
    *(permissions.permissions, permissions.grant, permissions.revoke),
    state.state,
    vm.vm,
    *(logs.logs, logs.stop),
    demo,
    completion,
):
    main.add_command(command)
