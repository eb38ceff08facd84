"""``pm.execute``: the seed's generic call, one request to one plugin by name, at every level."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from blackhole_core.callcontext import get_deadline
from blackhole_core.errors import CallTimeout, PluginError
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.turnstile import TurnstileTimeout

__all__ = ["execute"]


def execute(member: Member, method: str | None, params: Mapping[str, Any] | None, data: bytes) -> Any:
    """Send one request to the plugin's ``plugin_handle`` and return its answer.

    :raises PluginError: the plugin does not run, or handles no requests.
    :raises BreakerOpen: it failed too often of late.
    :raises TooManyCalls: as many of its calls wait or run as may.
    :raises CallTimeout: the deadline passed.
    """
    request = {"method": method, "params": dict(params or {}), "data": data}
    begun = time.monotonic()
    try:
        # The one that serves when the call begins: a swap may have been waited for.
        with member.turnstile.passage(_deadline(member, begun), lambda: member.instance) as instance:
            if instance is None:
                raise PluginError(member.label, f"plugin {member.label} is not running (phase {member.phase})")
            if not instance.takes_part("plugin_handle"):
                raise PluginError(member.label, f"plugin {member.label} implements no plugin_handle, it answers no execute()")
            if instance.guard is not None:
                return instance.guard.call("plugin_handle", lambda: instance.contract("plugin_handle", request=request))
            return instance.contract("plugin_handle", request=request)
    except TurnstileTimeout:
        waited = time.monotonic() - begun
        raise CallTimeout(member.label, "plugin_handle", waited, where="executed: no, a swap was under way") from None


def _deadline(member: Member, now: float) -> float | None:
    """Return the deadline that was set for this call, else the plugin's own."""
    inherited, instance = get_deadline(), member.instance
    if inherited is not None or instance is None or instance.spec.limits.call_timeout is None:
        return inherited
    return now + instance.spec.limits.call_timeout
