"""Asking a worker what it has imported: it is answered, given up or ended, and nothing a worker says of it piles up."""

from __future__ import annotations

import threading
import time

import msgspec

from blackhole_core.executor.imported import Questions
from blackhole_core.executor.wire import codec

#: Seconds for what must happen.
LONG = 20.0


def _answering(questions: Questions, *names: str, times: int = 1) -> object:
    def send(message: msgspec.Struct) -> None:
        assert isinstance(message, codec.AskImported)
        for _ in range(times):
            questions.hear(codec.Imported(message.id, names))

    return questions.ask(send, LONG)


def test_the_answer_is_what_the_worker_says_without_what_is_no_name() -> None:
    """Names come in the worker's order; what could not be a module's name is left out."""
    questions = Questions()
    assert _answering(questions, "acme", "acme.core", "", "acme.", "acme..x", "../etc", "acme.a b") == ("acme", "acme.core")


def test_an_answer_that_comes_twice_or_unasked_is_dropped() -> None:
    """Each question has one answer, and the next question its own."""
    questions = Questions()
    questions.hear(codec.Imported(1, ("early",)))
    assert _answering(questions, "acme", times=3) == ("acme",)
    questions.hear(codec.Imported(1, ("late",)))
    assert _answering(questions, "other") == ("other",)


def test_a_silent_worker_is_unknown() -> None:
    """No answer within the deadline is None, and the answer that comes then does no harm."""
    questions = Questions()
    asked: list[msgspec.Struct] = []
    begun = time.monotonic()
    assert questions.ask(asked.append, 0.02) is None
    assert time.monotonic() - begun < LONG
    questions.hear(codec.Imported(1, ("acme",)))
    assert _answering(questions, "acme") == ("acme",)


def test_the_end_of_the_worker_wakes_who_asked() -> None:
    """Nobody waits for a dead worker: neither who asked before its death nor who asks after it."""
    questions = Questions()
    asked = threading.Event()
    answers: list[object] = []
    asker = threading.Thread(target=lambda: answers.append(questions.ask(lambda _: asked.set(), LONG)))
    begun = time.monotonic()
    asker.start()
    assert asked.wait(LONG)
    questions.end()
    asker.join(LONG)
    assert answers == [None]
    assert questions.ask(lambda _: None, LONG) is None
    assert time.monotonic() - begun < LONG
