"""From the wish for a worker to its first answer: ``python -m benchmarks.worker_start [--rounds N] [--crowds N] [--json FILE] [--check]``.

Each contender brings up a process that answers one call, and is waited for. Ours has loaded a plugin of one file by then, through runner, protocol
and loader, as at every load, restart and swap; the peers' have imported a function of two lines. *forked* is a worker from the zygote
(the usual way), *executed* one without it; *walls* are those of a sandbox, which are all tried before the plugin is loaded. The first row is without a
plugin: until our worker has said hello, which is as much as the peers do. The time in which a process ends again is not counted. After each, the machine rests for a
moment: what is done ahead of the next start (a spare worker; nothing at the peers) is done as in a host that does not start workers all the time.

A crowd is so many workers, all alive at once, from the first wish to the last answer, without rest. The peers start all of them and then
collect the answers; ours are started by four threads, as a start returns only when the plugin is up.

This file imports nothing at its top: ``multiprocessing`` imports it in each of the peers' processes.
"""

from __future__ import annotations

if __name__ == "__main__":
    from benchmarks.start_contenders.measuring import run

    raise SystemExit(run(__doc__))
