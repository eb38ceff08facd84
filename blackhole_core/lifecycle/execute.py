"""``pm.execute``: the seed's generic call, one request to one plugin by name, at every level."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from blackhole_core.callcontext import earliest, get_deadline
from blackhole_core.errors import CallTimeout, PluginError
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.turnstile import TurnstileTimeout

__all__ = ["execute"]


def execute(member: Member, method: str | None, params: Mapping[str, Any] | None, data: bytes) -> Any:
    """Send one request to the plugin's ``plugin_handle`` and return its answer.

    :raises PluginError: the plugin does not run, or handles no requests.
    """
    request = {"method": method, "params": dict(params or {}), "data": data}
    instance = member.instance
    limit = instance.spec.limits.call_timeout if instance is not None else None
    waiting_since = time.monotonic()
    deadline = get_deadline() or earliest(None if limit is None else waiting_since + limit)
    try:
        with member.turnstile.passage(deadline):
            instance = member.instance  # the one that serves now; a swap may have been waited for
            if instance is None:
                raise PluginError(member.label, f"plugin {member.label} is not running (phase {member.phase})")
            if not instance.takes_part("plugin_handle"):
                raise PluginError(member.label, f"plugin {member.label} implements no plugin_handle, it answers no execute()")
            return instance.contract("plugin_handle", request=request)
    except TurnstileTimeout:
        raise CallTimeout(
            member.label, "plugin_handle", time.monotonic() - waiting_since, where="executed: no, a swap was under way"
        ) from None
