"""Streams to the network that travel as frames: the host's end against an enemy, and both ends with the programs that plugins are."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.relay.carrier import MAX_STREAMS
from blackhole_core.executor.relay.host import Relay
from blackhole_core.executor.relay.messages import VERDICT_HEAD, Ask, Verdict, decode_verdict, encode_ask
from blackhole_core.executor.relay.rules import Rules
from blackhole_core.executor.relay.streams import MAX_DATA, WINDOW, Frame, Frames, Kind, encode_frame
from tests.integration.netclient import serve_echo, serving
from tests.stage import eventually


@attrs.define
class Guest:
    """The other end of the port."""

    port: socket.socket
    relay: Relay
    breaches: list[str]
    frames: Frames = attrs.field(factory=Frames)
    heard: list[Frame] = attrs.field(factory=list)

    def say(self, kind: Kind, stream: int, data: bytes = b"", *, amount: int = 0) -> None:
        self.port.sendall(encode_frame(kind, stream, data, amount=amount))

    def hear(self) -> Frame:
        while not self.heard:
            data = self.port.recv(1 << 16)
            assert data, f"the host hung up: {self.breaches}"
            self.heard += self.frames.feed(data)
        return self.heard.pop(0)

    def open(self, stream: int, port: int) -> Verdict:
        self.say(Kind.OPEN, stream, encode_ask(Ask("127.0.0.1", port)))
        frame = self.hear()
        assert (frame.kind, frame.stream) == (Kind.DATA, stream)
        self.say(Kind.CREDIT, stream, amount=len(frame.data))
        [size] = VERDICT_HEAD.unpack(frame.data[: VERDICT_HEAD.size])
        return decode_verdict(frame.data[VERDICT_HEAD.size :][:size])


@contextlib.contextmanager
def _attached(*given: str, launched: Callable[[int], Any] = os.dup) -> Iterator[tuple[Relay, Any, list[str]]]:
    """A relay with one guest; what ``launched`` makes of the guest's descriptor."""
    breaches: list[str] = []
    with contextlib.closing(Relay(lambda name, plugin, **data: None)) as relay:
        attachment = relay.attach("guest", Rules(given, given), None, breaches.append, framed=True)
        try:
            result = launched(attachment.descriptor)
            attachment.launched()
            yield relay, result, breaches
        finally:
            attachment.close()


@pytest.fixture
def echo() -> Iterator[int]:
    with serving(serve_echo) as port:
        yield port


@pytest.fixture
def guest(echo: int) -> Iterator[Guest]:
    with _attached(f"network:connect:127.0.0.1:{echo}") as (relay, descriptor, breaches), socket.socket(fileno=descriptor) as port:
        port.settimeout(20)
        yield Guest(port, relay, breaches)


def test_a_stream_is_opened_talks_and_ends(guest: Guest, echo: int) -> None:
    """The verdict comes first, then bytes, both directions end by themselves, and the number is free."""
    for _ in range(2):
        assert guest.open(7, echo) == Verdict()
        guest.say(Kind.DATA, 7, b"ping")
        assert guest.hear() == Frame(Kind.DATA, 7, b"ping")
        guest.say(Kind.END, 7)
        assert [guest.hear().kind, guest.hear().kind] == [Kind.END, Kind.CLOSE]
        guest.say(Kind.CLOSE, 7)
    usage = guest.relay.usage("guest")
    assert usage is not None
    assert usage.sent == 8


def test_what_is_not_granted_is_refused_by_the_stream(guest: Guest) -> None:
    """As at every level: the host judges each request."""
    verdict = guest.open(1, 9)
    assert "may not connect to 127.0.0.1:9" in verdict.text
    assert [guest.hear().kind, guest.hear().kind] == [Kind.END, Kind.CLOSE]
    assert guest.breaches == []


def test_a_stream_that_the_guest_does_not_read_holds_up_no_other(guest: Guest, echo: int) -> None:
    """The host sends no more than it has credit for; what it may send meanwhile goes by."""
    guest.open(1, echo)
    guest.open(2, echo)
    sent = 0
    data = bytes(MAX_DATA)
    back = 0
    while back < WINDOW:  # all that the host may send unread
        if sent < WINDOW:
            guest.say(Kind.DATA, 1, data)
            sent += len(data)
        while back < sent:
            frame = guest.hear()
            if frame.kind is Kind.DATA:
                back += len(frame.data)
    guest.say(Kind.DATA, 1, b"more")  # the host gave credit for what it passed on
    guest.say(Kind.DATA, 2, b"ping")
    while (frame := guest.hear()).kind is Kind.CREDIT:
        pass
    assert frame == Frame(Kind.DATA, 2, b"ping")
    guest.say(Kind.CREDIT, 1, amount=4)
    assert guest.hear() == Frame(Kind.DATA, 1, b"more")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([struct.pack("<BII", 9, 1, 0)], "a frame of kind 9"),
        ([encode_frame(Kind.DATA, 5, b"x")], "a frame data for stream 5, which there is not"),
        ([struct.pack("<BII", Kind.OPEN, 1, 513)], "a frame open with 513 bytes"),
        ([struct.pack("<BII", Kind.DATA, 1, MAX_DATA + 1)], "a frame data with 32769 bytes"),
        ([struct.pack("<BII", Kind.END, 1, 1)], "a frame end with 1 bytes"),
        ([encode_frame(Kind.OPEN, 1, b"\xc1")], "not a request to the relay"),
        ([encode_frame(Kind.OPEN, 1, encode_ask(Ask("x", 1)))] * 2, "stream 1 was opened twice"),
        ([encode_frame(Kind.OPEN, 1, encode_ask(Ask("x", 1))), encode_frame(Kind.CREDIT, 1, amount=WINDOW + 1)], "credit for bytes"),
        ([encode_frame(Kind.OPEN, 1, encode_ask(Ask("x", 1))), encode_frame(Kind.END, 1), encode_frame(Kind.DATA, 1, b"x")], "was ended"),
        ([encode_frame(Kind.OPEN, number, encode_ask(Ask("x", 1))) for number in range(MAX_STREAMS + 1)], "opened beside 512 others"),
    ],
)
def test_a_guest_that_does_not_keep_to_the_rules_is_ended(guest: Guest, words: list[bytes], said: str) -> None:
    """Whatever is said, in one piece or byte by byte, the host says why it ends the guest."""
    for word in words:
        guest.port.sendall(word)
    assert eventually(lambda: guest.breaches)
    assert said in guest.breaches[0]


def test_a_guest_may_not_send_what_nobody_asked_for(guest: Guest) -> None:
    """What waits in the host for a server that does not read is bounded."""
    guest.open(1, 9)  # refused: nobody will read what comes now
    with contextlib.suppress(ConnectionError):
        for _ in range(WINDOW // MAX_DATA + 1):
            guest.say(Kind.DATA, 1, bytes(MAX_DATA))
    assert eventually(lambda: guest.breaches)
    assert "that were not asked for" in guest.breaches[0]


def test_streams_that_are_closed_before_they_are_judged_keep_nothing(guest: Guest, echo: int) -> None:
    """A guest may open and close for ever: what it does not want any more is not asked for, so the host's descriptors are not used up."""
    before, most = _descriptors(), 0
    words = encode_frame(Kind.OPEN, 1, encode_ask(Ask("127.0.0.1", 9))) + encode_frame(Kind.CLOSE, 1)
    for _ in range(100):
        guest.port.sendall(words * 50)
        while guest.hear() != Frame(Kind.CLOSE, 1):
            pass
        most = max(most, _descriptors())
    assert most - before < 2 * MAX_STREAMS
    for _ in range(100 * 49):
        while guest.hear() != Frame(Kind.CLOSE, 1):
            pass
    assert guest.breaches == []
    assert guest.open(2, echo) == Verdict()


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_frames_are_the_same_however_they_are_cut() -> None:
    """Whole, and byte by byte."""
    words = encode_frame(Kind.OPEN, 1, b"abc") + encode_frame(Kind.CREDIT, 2**32 - 1, amount=5) + encode_frame(Kind.END, 3)
    whole = list(Frames().feed(words))
    frames = Frames()
    assert [frame for number in range(len(words)) for frame in frames.feed(words[number : number + 1])] == whole
    assert whole == [Frame(Kind.OPEN, 1, b"abc"), Frame(Kind.CREDIT, 2**32 - 1, b"", 5), Frame(Kind.END, 3)]
    with pytest.raises(ProtocolError):
        list(Frames().feed(bytes(9)))


_PLUGIN = """
import sys
from blackhole_core.executor.relay.port import begin
from blackhole_core.executor.relay.stage import install
install(begin(int(sys.argv[1])))
import asyncio, errno, os, select, socket, threading
echo = int(sys.argv[2])
def talk(word):
    with socket.create_connection(("127.0.0.1", echo), 20) as sock:
        sock.sendall(word)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(1 << 20):
            answer += data
        return answer == word
assert talk(b"ping")
assert talk(bytes(range(256)) * 8192)  # 2 MB, which does not fit into any window
try:
    socket.create_connection(("127.0.0.1", 9), 20)
except PermissionError as error:
    assert "may not connect" in str(error), error
sock = socket.socket()
sock.setblocking(False)
assert sock.connect_ex(("127.0.0.1", echo)) == errno.EINPROGRESS
select.select([], [sock], [], 20)
assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
sock.setblocking(True)
sock.sendall(b"x")
assert sock.recv(1) == b"x"
pid = os.fork()
if not pid:
    os._exit(0 if talk(b"child") else 1)
assert os.waitpid(pid, 0)[1] == 0
async def one(number):
    reader, writer = await asyncio.open_connection("127.0.0.1", echo)
    writer.write(b"%d" % number)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer) == number
async def many():
    return await asyncio.gather(*map(one, range(60)))
assert all(asyncio.run(many()))
kept = [socket.create_connection(("127.0.0.1", echo), 20) for _ in range(100)]
for sock in kept:
    sock.shutdown(socket.SHUT_WR)  # and is closed with its other direction open
    sock.close()
print("well", flush=True)
os._exit(0)
"""


def test_programs_use_it_as_they_use_a_network(echo: int) -> None:
    """Both ends, in two processes, as in a machine and its host: streams larger than every window, many at once, refusals, forks."""

    def launch(descriptor: int) -> subprocess.Popen[str]:
        quiet = "ignore::DeprecationWarning"  # Python 3.12 and later say that of every fork in such a process
        command = [sys.executable, "-W", quiet, "-c", _PLUGIN, str(descriptor), str(echo)]
        os.set_blocking(descriptor, False)
        return subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with _attached(f"network:connect:127.0.0.1:{echo}", launched=launch) as (relay, program, breaches), program:
        said = program.communicate(timeout=60)
        assert (breaches, said) == ([], ("well\n", ""))
        assert eventually(lambda: relay.usage("guest").connections == 0)  # type: ignore[union-attr]  # there is one


def test_a_way_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are descriptors for the relay's socket, and none for the guest's port."""
    pair, made = socket.socketpair, list[socket.socket]()

    def one_pair(*kind: int) -> tuple[socket.socket, socket.socket]:
        if made:
            raise OSError(errno.EMFILE, "too many open files")
        made.extend(pair(*kind))
        return made[0], made[1]

    with contextlib.closing(Relay(lambda name, plugin, **data: None)) as relay:
        relay.attach("first", Rules((), ()), None, lambda breach: None).close()  # its thread runs
        monkeypatch.setattr(socket, "socketpair", one_pair)
        with pytest.raises(OSError, match="too many open files"):
            relay.attach("guest", Rules((), ()), None, lambda breach: None, framed=True)
    assert [one.fileno() for one in made] == [-1, -1]
