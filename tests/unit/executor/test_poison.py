"""The rule by which a call is found to kill its workers. A fake clock."""

from __future__ import annotations

from blackhole_core.executor.poison import Fingerprint, PoisonPolicy, Quarantine, after_answer, after_death, fingerprint, recent

POLICY = PoisonPolicy(deaths=3, period=60.0)
BAD, GOOD, OTHER = (Fingerprint("transform", name.encode()) for name in ("bad", "good", "other"))


def _deaths(*deaths: tuple[float, set[Fingerprint]]) -> tuple[Quarantine, list[Fingerprint | None]]:
    quarantine, said = Quarantine(), []
    for now, suspects in deaths:
        quarantine, convicted = after_death(quarantine, now, suspects, POLICY)
        said.append(convicted)
    return quarantine, said


def test_the_same_call_three_times_is_convicted() -> None:
    """And its deaths are forgotten: they are explained."""
    quarantine, said = _deaths((1, {BAD}), (2, {BAD}), (3, {BAD}))
    assert said == [None, None, BAD]
    assert quarantine == Quarantine((), (BAD,))


def test_other_calls_in_between_change_nothing() -> None:
    """It is the sum that counts."""
    assert _deaths((1, {BAD}), (2, {GOOD}), (3, {BAD}), (4, {OTHER}), (5, {BAD}))[1][-1] == BAD


def test_deaths_long_ago_do_not_count() -> None:
    """Seconds 0 and 70 are more than a period apart."""
    assert _deaths((0, {BAD}), (30, {BAD}), (70, {BAD}))[1] == [None, None, None]


def test_one_that_always_ran_beside_it_is_not_convicted_for_it() -> None:
    """Nobody can tell which it was, until a death without the other."""
    assert _deaths((1, {BAD, GOOD}), (2, {BAD, GOOD}), (3, {BAD, GOOD}), (4, {BAD}))[1] == [None, None, None, BAD]


def test_an_answer_is_an_alibi() -> None:
    """A call that is well most of the time dies of something else."""
    quarantine, _ = _deaths((1, {GOOD}), (2, {GOOD, BAD}))
    quarantine = after_answer(quarantine, GOOD)
    assert quarantine.deaths == ((2, frozenset({BAD})),)
    assert after_death(quarantine, 3, {GOOD}, POLICY)[1] is None


def test_a_death_without_a_call_convicts_nobody() -> None:
    """F01: killed while it was idle."""
    assert _deaths((1, set()), (2, set()), (3, set()))[1] == [None, None, None]


def test_after_the_period_there_is_nothing_to_look_out_for() -> None:
    """Calls are compared with suspects only as long as that can lead to anything; who was convicted stays so."""
    quarantine, _ = _deaths((1, set()))
    assert quarantine
    assert not recent(quarantine, 62, POLICY)
    assert recent(Quarantine((), (BAD,)), 1e9, POLICY)


def test_it_can_be_turned_off() -> None:
    """``poison_deaths: 0``."""
    assert after_death(Quarantine(), 1.0, {BAD}, PoisonPolicy(deaths=0)) == (Quarantine(), None)


def test_what_is_kept_is_bounded() -> None:
    """Thousands of deaths, convictions and calls at once."""
    quarantine = Quarantine()
    for number in range(1000):
        quarantine, _ = after_death(quarantine, 0.0, {Fingerprint("x", b"%d" % number)}, PoisonPolicy(deaths=1))
    assert (len(quarantine.convicted), quarantine.convicted[-1].digest) == (256, b"999")
    for _ in range(1000):
        quarantine, _ = after_death(quarantine, 0.0, {BAD, GOOD}, POLICY)
    assert len(quarantine.deaths) == 64
    crowd = {Fingerprint("x", b"%d" % number) for number in range(65)}
    assert after_death(Quarantine(), 0.0, crowd, POLICY)[0].deaths == ((0.0, frozenset()),)


def test_a_fingerprint_tells_calls_apart() -> None:
    """By hook, space, implementation and arguments, and by nothing else."""
    one = fingerprint("transform", "host", 0, b"args")
    assert one == fingerprint("transform", "host", 0, b"args")
    others = [fingerprint("add", "host", 0, b"args"), fingerprint("transform", "contract", 0, b"args")]
    others += [fingerprint("transform", "host", 1, b"args"), fingerprint("transform", "host", 0, b"other")]
    assert len({one, *others}) == 5
