"""A swap in a host that has audit hooks, which run Python code in the middle of every switch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: A host with such a hook, which lets other threads have their turn between two hooks of a switch.
HOST = '''
import sys, threading, time
from pathlib import Path
import blackhole_core as bh

hookspec = bh.HookspecMarker("pair")

class Specs:
    @hookspec(firstresult=True)
    def first(self): ...
    @hookspec(firstresult=True)
    def last(self): ...

def version(number):
    place = Path(f"pair-{number}")
    place.mkdir()
    (place / "pair.py").write_text(f"""
import blackhole_core as bh
hookimpl = bh.HookimplMarker("pair")
class Pair:
    @hookimpl
    def first(self): return {number}
    @hookimpl
    def last(self): return {number}
""")
    (place / "plugin.yaml").write_text(f"name: pair\\nversion: {number}.0.0\\nentry: pair:Pair\\nisolation: none\\n")
    return place

torn, ended = [], threading.Event()

def call(pm):
    while not ended.is_set():
        earlier, later = pm.hook.first(), pm.hook.last()
        if later < earlier:
            torn.append((earlier, later))
        ended.wait(0.0002)  # or the swaps would mostly wait for their turn

with bh.PluginManager("pair") as pm:
    pm.add_hookspecs(Specs)
    pm.load("pair", source=version(1))
    sys.addaudithook(lambda event, args: event == "object.__setattr__" and args[1] == "__code__" and time.sleep(0.002))
    callers = [threading.Thread(target=call, args=(pm,)) for _ in range(3)]
    for caller in callers:
        caller.start()
    for number in range(2, 12):
        assert pm.swap("pair", source=version(number)).ok
    ended.set()
    for caller in callers:
        caller.join()
    assert pm.hook.first() == pm.hook.last() == 11
assert not torn, torn[:3]
'''


def test_no_caller_sees_a_swap_half_done(tmp_path: Path) -> None:
    """S-01: who saw the new version behind one hook does not see the old one behind another, though the interpreter changes threads in between."""
    result = subprocess.run([sys.executable, "-c", HOST], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
