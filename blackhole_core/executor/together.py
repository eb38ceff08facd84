"""Many calls of one implementation with one request: how many go together, and what came of each."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec

from blackhole_core.callcontext import get_deadline
from blackhole_core.errors import ProtocolError
from blackhole_core.executor.failure import Rebuilder
from blackhole_core.executor.pace import Pace
from blackhole_core.executor.runner import call_one_by_one
from blackhole_core.executor.values import Values
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import Claim
from blackhole_core.messages import HOST, Call, Calls, Replies

__all__ = ["Together"]


@attrs.frozen(eq=False)
class Together:
    """Runs many calls by one runner's means.

    ``call`` runs one, ``exchange`` sends the request ``(hook, space, index, arguments)`` and returns the body of its answer, ``attribute`` notes on an
    error whose it is, ``alone`` says whether calls must be sent one by one just now, ``closed`` whether no call is run any more.
    """

    values: Values
    rebuilder: Rebuilder
    call: Callable[[Call], Any]
    exchange: Callable[[str, str, int, bytes], bytes | msgspec.Raw | Claim]
    attribute: Callable[[BaseException, str], object]
    alone: Callable[[], bool]
    closed: Callable[[], bool]
    _paces: Final[collections.defaultdict[int, Pace]] = attrs.field(factory=lambda: collections.defaultdict(Pace), init=False)

    def run(self, calls: Calls) -> Replies:
        """Do what :meth:`Runner.call_many <blackhole_core.executor.runner.Runner.call_many>` says."""
        deadline = get_deadline()
        results: list[Any] = []
        failures: dict[int, BaseException] = {}
        while True:
            some = self._run_some(calls.some(len(results), calls.count) if results else calls)
            failures.update((len(results) + place, error) for place, error in some.failures.items())
            results += some.results
            ended = self.closed() or (deadline is not None and deadline <= time.monotonic())
            if len(results) >= calls.count or ended or (failures and calls.stop_at_failure):
                return Replies(results, failures)

    def _run_some(self, calls: Calls) -> Replies:
        """Run the first of the calls, as many as are worth sending with one request."""
        pace = self._paces[calls.index]
        count = 1 if self.alone() else min(pace.count(), calls.count)
        begun = time.monotonic()
        if count == 1:
            replies = call_one_by_one(self.call, calls.some(0, 1))
        else:
            replies = self._run_together(calls, count)
        pace.took(len(replies.results), time.monotonic() - begun)
        return replies

    def _run_together(self, calls: Calls, count: int) -> Replies:
        """Run the first of the calls, at most ``count``, with one request. When that is not answered, each of them may have run."""
        hook, index = calls.hook, calls.index
        results: list[Any] = []
        failures: dict[int, BaseException] = {}
        data: list[bytes] = []
        try:
            data = self.values.encode_some(hook, index, calls.some(0, count).rows())
            answer = self.exchange(hook, HOST, ~index, codec.encode_many(data, calls.stop_at_failure))
            if isinstance(answer, Claim):
                raise ProtocolError("the outcomes of many calls beside the message")
            for outcome in codec.decode_outcomes(answer, len(data)):
                try:
                    if isinstance(outcome, codec.WireFailure):
                        raise self.rebuilder.rebuild(outcome, hook)
                    results.append(self.values.decode(hook, HOST, index, outcome))
                except Exception as error:
                    self.attribute(error, hook)
                    failures[len(results)] = error
                    results.append(None)
        except Exception as error:
            self.attribute(error, hook)
            results = [None] * max(1, len(data))
            failures = dict.fromkeys(range(len(results)), error)
        return Replies(results, failures)
