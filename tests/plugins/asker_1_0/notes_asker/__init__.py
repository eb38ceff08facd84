"""A plugin that asks the host's plugins, itself among them, while a call to it runs."""

from __future__ import annotations

from typing import Any

import blackhole_core as bh

hookimpl = bh.HookimplMarker("notes")


class Asker:
    def __init__(self) -> None:
        self._context: Any = None

    @bh.hookimpl
    def plugin_start(self, context: Any) -> None:
        self._context = context

    @hookimpl
    def transform(self, text: str) -> str:
        return f"asker:{text}"

    @hookimpl
    def version(self) -> str:
        return "1.0.0"

    @hookimpl
    def ask(self, text: str) -> str:
        """Obey ``VERB:REST``.

        ``transform:TEXT`` asks all plugins to transform TEXT and joins the answers with ``|``; ``add:N`` lets them add N; ``fail:KIND`` lets
        them misbehave; ``nest:N`` asks itself N times over, each call inside the one before, then transforms ``end``.
        """
        hook = self._context.hook
        verb, _, rest = text.partition(":")
        match verb:
            case "transform":
                return "|".join(hook.transform(text=rest))
            case "add":
                return "|".join(str(total) for total in hook.add(amount=int(rest)))
            case "fail":
                return "|".join(hook.fail(kind=rest))
            case "nest" if rest != "0":
                return f"{rest}>" + "|".join(hook.ask(text=f"nest:{int(rest) - 1}"))
            case "nest":
                return "0>" + "|".join(hook.transform(text="end"))
        raise ValueError(f"asker knows no verb {verb!r}")
