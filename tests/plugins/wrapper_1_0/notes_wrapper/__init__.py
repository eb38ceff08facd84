"""Wrappers around ``transform``: a generator one inside, an old-style one around it."""

from __future__ import annotations

from collections.abc import Generator

import pluggy

hookimpl = pluggy.HookimplMarker("notes")


class Wrapper:
    @hookimpl(wrapper=True)
    def transform(self, text: str) -> Generator[None, list[str], list[str]]:
        results = yield
        return [f"[{result}]" for result in results]

    @hookimpl(hookwrapper=True, tryfirst=True, specname="transform")
    def old_transform(self, text: str) -> Generator[None, pluggy.Result[list[str]], None]:
        outcome = yield
        outcome.force_result([f"({result})" for result in outcome.get_result()])
