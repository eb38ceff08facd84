"""``python -m blackhole_core.cli`` is ``blackhole``."""

from __future__ import annotations

from blackhole_core.cli.main import main

main(prog_name="blackhole")
