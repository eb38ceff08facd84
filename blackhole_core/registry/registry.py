"""The registry: what plugins there are, and which of them this host allows."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from blackhole_core.errors import BlackholeError, SourceError, UnknownPlugin
from blackhole_core.ids import canonical_name
from blackhole_core.registry.candidate import Candidate, Discovery, Origin, Unusable
from blackhole_core.registry.discovery import installed, without_clashes

if TYPE_CHECKING:
    from blackhole_core.registry.store import WheelStore

__all__ = ["PluginRegistry"]


class PluginRegistry:
    """Knows the plugins of one group: the installed ones and those at local sources it was told of.

    Owns the list of sources and the last discovery, an immutable value that is replaced as a whole: readers never wait for a look at the disk, and never see
    half of one. Safe to use from any thread.
    """

    def __init__(self, group: str, *, store: WheelStore, allow: Collection[str] | None = None, deny: Collection[str] = ()) -> None:
        self.group = group
        self.store = store
        self._allow = None if allow is None else tuple(allow)
        self._deny = tuple(deny)
        self._sources: dict[Path, None] = {}  # a dict, because it keeps the order and a host may have a thousand; replaced, never changed
        self._found: Discovery | None = None
        self._lock = threading.Lock()  # guards the two fields above, held for assignments only
        self._looking = threading.Lock()  # one look at the disk at a time, so that an older one never replaces a newer one

    def __repr__(self) -> str:
        found = self._found
        seen = "not looked yet" if found is None else f"{len(found.candidates)} found, {len(found.problems)} unusable"
        return f"<PluginRegistry {self.group!r}: {seen}>"

    def refresh(self) -> Discovery:
        """Look again at the installed distributions and at every source, and return what there is now."""
        from blackhole_core.registry.source import candidates_at

        with self._looking:
            with self._lock:
                sources = self._sources
            found = installed(self.group)
            for source in sources:
                found += candidates_at(source, group=self.group, store=self.store)
            found = without_clashes(found)
            with self._lock:
                self._found = found
            return found

    def add_source(self, path: Path | str) -> None:
        """Remember a directory, wheel or directory of wheels; it is looked at from the next :meth:`refresh` on. Twice is once."""
        source = Path(path).absolute()
        with self._lock:
            if source not in self._sources:
                self._sources = {**self._sources, source: None}
                self._found = None

    def candidates(self) -> Mapping[str, tuple[Candidate, ...]]:
        """Return canonical name → its candidates, as the last look found them (the first call looks)."""
        grouped: dict[str, tuple[Candidate, ...]] = {}
        for candidate in self._last().candidates:
            name = canonical_name(candidate.name)
            grouped[name] = (*grouped.get(name, ()), candidate)
        return MappingProxyType(grouped)

    def problems(self) -> tuple[Unusable, ...]:
        """Return what was found and cannot be used, with the reasons, as the last look found it."""
        return self._last().problems

    def find(self, name: str, *, version: str | None = None, source: Path | str | None = None) -> Candidate:
        """Look now and return the plugin ``name``: at ``source`` if it is given, else among all.

        Without ``version`` the highest one is taken. Raises what is wrong with the plugin when it was found and cannot be used,
        :class:`~blackhole_core.errors.UnknownPlugin` or :class:`~blackhole_core.errors.SourceError` when it is not there.
        """
        from blackhole_core.registry.source import candidates_at, select

        found = self.refresh() if source is None else candidates_at(Path(source), group=self.group, store=self.store)
        try:
            return select(found.candidates, name, version)
        except BlackholeError as error:
            self._raise_reason(found, name, error, anywhere=source is not None and not found.candidates)
            raise

    def again(self, candidate: Candidate) -> Candidate:
        """Return ``candidate`` if its code is still what it was, so that a version that ran before can run again.

        Raises :class:`~blackhole_core.errors.SourceError` when it is gone or was overwritten.
        """
        from blackhole_core.registry.source import candidates_at

        if candidate.origin is Origin.WHEEL:
            self.store.verify(candidate.path)
            return candidate
        source = candidate.source if candidate.origin is Origin.DIRECTORY else None
        found = self.refresh() if source is None else candidates_at(source, group=self.group, store=self.store)
        same = [known for known in found.candidates if known.id == candidate.id and known.digest == candidate.digest]
        if not same:
            there = ", ".join(str(known.id) for known in found.candidates if known.name == candidate.name) or "nothing of that name"
            raise SourceError(
                f"the code of {candidate.id} that ran before is not at {candidate.source} any more (there is {there}); "
                "keep versions as wheels to be able to go back, or install it again and swap"
            )
        return same[0]

    def allows(self, name: str) -> str | None:
        """Return None when this host allows the plugin ``name``, else the sentence why not. Deny wins."""
        plugin = canonical_name(name)
        if pattern := next((pattern for pattern in self._deny if _matches(plugin, pattern)), None):
            return f"plugin {name!r} is denied by the host's configuration (deny: {pattern})"
        if self._allow is None or any(_matches(plugin, pattern) for pattern in self._allow):
            return None
        return f"plugin {name!r} is not in the allow list of the host's configuration (allow: {', '.join(self._allow) or 'nothing'})"

    def _last(self) -> Discovery:
        found = self._found
        return self.refresh() if found is None else found

    @staticmethod
    def _raise_reason(found: Discovery, name: str, error: BlackholeError, *, anywhere: bool) -> None:
        """Raise the reason why ``name`` was found and cannot be used, if that is why the look-up failed."""
        named = [problem for problem in found.problems if anywhere or canonical_name(problem.name) == canonical_name(name)]
        if named and (isinstance(error, UnknownPlugin) or anywhere):
            raise named[0].error from error


def _matches(plugin: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(plugin, canonical_name(pattern))
