"""What should become of one plugin, step by step: the model that histories are compared with. Pure."""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["FAULTS", "POLICY", "Model"]

#: version → what is wrong with it.
FAULTS: Final = {
    "1.0.0": "",
    "2.0.0": "",
    "3.0.0": "start",
    "4.0.0": "health",
    "5.0.0": "import",
    "6.0.0": "export",
    "7.0.0": "dies in import",
}
#: Deaths within ``period`` seconds; each restart is immediate, so that a real worker's clock makes no difference.
POLICY: Final = {"intensity": 2, "period": 60.0, "delay": 0.0, "max_delay": 0.0}


@attrs.define
class Model:
    """Each step returns what its caller should get: a value, or the name of an error and what it says."""

    version: str | None = None
    broken: bool = False
    failed: bool = False  # it could not be loaded
    count: int = 0  # what the plugin counts
    kept: int | None = None  # that of the newest snapshot
    previous: str | None = None
    deaths: tuple[float, ...] = ()
    now: float = 0.0

    @property
    def phase(self) -> str:
        if self.version is None:
            return "failed" if self.failed else "stopped"
        return "broken" if self.broken else "running"

    def load(self, version: str) -> object:
        if self.version is not None:
            return "LoadFailed"
        self.failed = FAULTS[version] in ("start", "health")
        if self.failed:
            return "LoadFailed"
        self.version, self.broken, self.count, self.deaths, self.previous = version, False, 0, (), None
        return version

    def unload(self) -> object:
        self.version, self.broken, self.failed = None, False, False
        return None

    def call(self, death: str) -> object:
        if self.version is None:
            return None
        if self.broken:
            return "PluginBroken"
        if death == "no":
            self.count += 1
            return self.count
        self.die()
        return "WorkerDied unknown"

    def together(self, calls: int, end: str) -> object:
        """The first is held until ``end`` has begun; what waits behind it begins after that, in order."""
        if self.version is None or self.broken:
            return [self.call("no") for _ in range(calls)]
        if end == "crash":
            return [self.call("after"), *(self.call("no") for _ in range(calls - 1))]
        got = [self.call("no") for _ in range(calls)]
        return [*got, self.swap("2.0.0")] if end == "swap" else got

    def die(self) -> None:
        if self.version is None or self.broken:
            return
        self.deaths = tuple(death for death in self.deaths if self.now - death <= POLICY["period"])
        if len(self.deaths) >= POLICY["intensity"]:
            self.broken = True
            return
        self.deaths = (*self.deaths, self.now)
        self.count = self.kept or 0

    def swap(self, version: str | None) -> object:
        if self.version is None or version is None:
            return "SwapFailed prepare"
        if version == self.version and not self.broken:
            return "unchanged"
        fault = FAULTS[version]
        if fault in ("start", "health"):
            return "SwapFailed load"
        if self.broken:
            if self.kept is not None and "import" in fault:
                return "SwapFailed load"
            self.count = self.kept or 0
        elif FAULTS[self.version] == "export":
            return "SwapFailed export"
        else:
            self.kept = self.count
            if "import" in fault:
                return "SwapFailed import"
        self.version, self.previous, self.broken, self.deaths = version, self.version, False, ()
        return version

    def rollback(self) -> object:
        return self.swap(self.previous)

    def snapshot(self) -> object:
        if self.version is None or self.broken or FAULTS[self.version] == "export":
            return "not kept"
        self.kept = self.count
        return self.kept

    def wait(self, seconds: float) -> object:
        self.now += seconds
        return None
