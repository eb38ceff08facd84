"""The heartbeat's rule: what a look at a worker leads to. A fake clock throughout."""

from __future__ import annotations

from blackhole_core.executor.heartbeat import Beat, HeartbeatPolicy, Pulse, beat

POLICY = HeartbeatPolicy(heartbeat=1.0, hung_after=3.0)


def test_a_worker_that_owes_nothing_is_left_alone() -> None:
    """An idle host does nothing."""
    assert beat(Pulse(0.0), 1.0, POLICY, owes=False) == (Pulse(1.0), Beat.REST)


def test_one_that_owes_an_answer_is_asked() -> None:
    """The first look only asks."""
    assert beat(Pulse(0.0), 1.0, POLICY, owes=True) == (Pulse(1.0, asked=True), Beat.ASK)


def test_silence_is_counted_from_the_question_and_ends_it() -> None:
    """F06: three looks in vain are three seconds."""
    pulse, now, said = Pulse(0.0), 0.0, []
    while not said or said[-1] is not Beat.HUNG:
        now += 1.0
        pulse, what = beat(pulse, now, POLICY, owes=True)
        said.append(what)
    assert said == [Beat.ASK, Beat.WAIT, Beat.WAIT, Beat.HUNG]


def test_each_answer_begins_anew_so_a_long_call_is_no_silence() -> None:
    """F-11: sixty seconds of one call, every question answered."""
    pulse = Pulse(0.0)
    for second in range(1, 61):
        pulse, what = beat(pulse, float(second), POLICY, owes=True)
        assert what is Beat.ASK
        pulse = pulse.answered()


def test_a_host_that_was_stopped_counts_one_look() -> None:
    """F-13: the answer lies unread before a host that could not read it."""
    pulse, what = beat(Pulse(1.0, asked=True), 3600.0, POLICY, owes=True)
    assert (pulse.silent, what) == (1.0, Beat.WAIT)


def test_a_worker_that_the_host_holds_still_is_not_silent() -> None:
    """The limits' duty cycle."""
    pulse = Pulse(1.0, asked=True, silent=2.9)
    for now in range(2, 100):
        pulse, what = beat(pulse, float(now), POLICY, owes=True, paused=True)
        assert what is Beat.WAIT
    assert pulse.silent == 2.9


def test_a_question_that_is_open_when_it_owes_nothing_stays_so() -> None:
    """The next call finds it, and the time between does not count."""
    pulse, what = beat(Pulse(1.0, asked=True, silent=1.0), 2.0, POLICY, owes=False)
    assert what is Beat.REST
    pulse, what = beat(pulse.resumed(500.0), 500.5, POLICY, owes=True)
    assert (pulse.silent, what) == (1.5, Beat.WAIT)


def test_no_heartbeat_is_a_choice() -> None:
    """``hung_after: 0``."""
    assert HeartbeatPolicy()
    assert not HeartbeatPolicy(hung_after=0.0)
