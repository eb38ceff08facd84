"""The control server against clients that mean harm, or are just broken: each is answered or dropped, and nothing else is disturbed."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.cli.control import server as server_module
from blackhole_core.cli.control.client import ControlClient
from blackhole_core.cli.control.protocol import (
    MAX_ANSWER,
    MAX_REQUEST,
    AnyRequest,
    Describe,
    Error,
    Execute,
    Logs,
    Plugins,
    decode_answer,
    encode,
)
from blackhole_core.cli.control.records import Records
from blackhole_core.cli.control.server import MAX_CONNECTIONS, MAX_STREAMS, ControlServer, Patience, listen
from blackhole_core.cli.control.wire import PeerGone, SlowPeer, receive_frame, send_frame
from blackhole_core.cli.failing import HostFailure, NoHost
from blackhole_core.events import Event

#: Seconds within which something that must happen has happened, also on a busy machine.
SOON = 10.0


class Host:
    """A server whose answers the test decides on."""

    def __init__(self, path: Path, patience: Patience) -> None:
        self.path = path
        self.records = Records()
        self.answer: Callable[[AnyRequest], Any] = lambda request: type(request).__name__
        self.server = ControlServer(listen(path), lambda request: self.answer(request), self.records, patience)
        self.server.start()

    def client(self, **options: float) -> ControlClient:
        return ControlClient(self.path, **options)

    def works(self) -> bool:
        return self.client().ask(Plugins(), seconds=SOON) == "Plugins"

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.path))  # blocking, so that it waits for room in the listener's queue
            sock.settimeout(SOON)
            yield sock


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory whose paths are short enough for sockets."""
    short = Path(os.environ["TMPDIR"]) / f"s{os.getpid()}"
    short.mkdir(0o700)
    yield short
    for left in short.iterdir():
        left.unlink()
    short.rmdir()


@pytest.fixture
def host(directory: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    host = Host(directory / "t.sock", getattr(request, "param", Patience()))
    yield host
    host.server.close()


def answer_of(sock: socket.socket) -> Any:
    return decode_answer(receive_frame(sock, limit=MAX_ANSWER, seconds=SOON))


def is_cut_off(sock: socket.socket) -> bool:
    """Tell whether the server ended the connection (within the socket's timeout)."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


# --- what it is for -----------------------------------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_only(host: Host) -> None:
    """The socket's mode lets nobody else connect."""
    assert host.path.stat().st_mode & 0o777 == 0o600


def test_a_request_is_answered(host: Host) -> None:
    """The client gets what the answer function returned."""
    host.answer = lambda request: {"you asked": getattr(request, "name", None)}
    assert host.client().ask(Describe("x"), seconds=SOON) == {"you asked": "x"}


def test_no_descriptor_to_accept_with(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """F18: a connection that comes when the host is out of descriptors waits, which the log says, and is served when there are some again."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    host.answer = lambda request: "well"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            sock.connect(str(host.path))
            deadline = time.monotonic() + SOON
            while "cannot accept a connection: Too many open files" not in caplog.text:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        send_frame(sock, encode(Describe("x"), limit=MAX_ANSWER), seconds=SOON)
        assert answer_of(sock).value == "well"


def test_an_error_reaches_the_asker_and_nobody_else(host: Host) -> None:
    """Whatever the answer function raises is told to the client with type, sentence and traceback."""

    def fail(request: AnyRequest) -> Any:
        raise LookupError("there is no such thing")

    host.answer = fail
    with pytest.raises(HostFailure, match="there is no such thing") as caught:
        host.client().ask(Plugins(), seconds=SOON)
    assert caught.value.type_name == "LookupError"
    assert "in fail" in caught.value.remote_traceback


def test_a_value_that_cannot_be_sent_is_an_error(host: Host) -> None:
    """An answer that JSON cannot hold, or that is too big, gives a sentence in its place."""
    host.answer = lambda request: object()
    with pytest.raises(HostFailure, match="the answer cannot be sent"):
        host.client().ask(Plugins(), seconds=SOON)


def test_many_requests_at_once_are_all_answered(host: Host) -> None:
    """Fifty clients at once, more than are served at one time, all get their own answer: who finds it full asks again."""
    host.answer = lambda request: request.name if isinstance(request, Describe) else None
    got: list[str] = []

    def ask(number: int) -> None:
        got.append(host.client().ask(Describe(str(number)), seconds=SOON))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=int) == [str(number) for number in range(50)]


def test_the_biggest_request_is_taken(host: Host) -> None:
    """Data as big as the cap allows arrives whole."""
    host.answer = lambda request: len(request.data) if isinstance(request, Execute) else None
    size = MAX_REQUEST * 3 // 4 - 1000  # base64 makes four bytes of three
    assert host.client().ask(Execute("x", data=b"x" * size), seconds=SOON) == size


# --- garbage ------------------------------------------------------------------------------------------------------------

GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(64),
    "random": bytes(range(255, -1, -1)),
    "1 GB": struct.pack(">I", 2**30) + b"x" * 100,
    "4 GB": b"\xff\xff\xff\xff",
    "no JSON": struct.pack(">I", 5) + b"\xff\xfe\x00\x01\x02",
    "a list": struct.pack(">I", 2) + b"[]",
    "unknown command": struct.pack(">I", 18) + b'{"command":"nope"}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_answered_with_an_error(name: str, host: Host) -> None:
    """Bytes that are no request get one error and the connection's end; the next client is served."""
    with host.connection() as sock:
        sock.sendall(GARBAGE[name])
        answer = answer_of(sock)
        assert isinstance(answer, Error)
        assert answer.type == "ProtocolError"
        assert is_cut_off(sock)
    assert host.works()


def test_a_length_alone_allocates_nothing(host: Host) -> None:
    """A claim of 1 GB is refused on its four bytes, without waiting for more."""
    with host.connection() as sock:
        sock.sendall(struct.pack(">I", 2**30))
        answer = answer_of(sock)
    assert "1073741824 bytes" in answer.message


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", struct.pack(">I", 100), struct.pack(">I", 100) + b'{"command"'])
def test_a_client_that_goes_away_is_forgotten(sent: bytes, host: Host) -> None:
    """A request that ends in its middle disturbs nothing."""
    with host.connection() as sock:
        sock.sendall(sent)
    assert host.works()


@pytest.mark.parametrize("host", [Patience(request=0.2)], indirect=True)
def test_a_client_that_sends_nothing_is_dropped(host: Host) -> None:
    """Silence has an end: an error, then the end of the connection; others are served meanwhile."""
    with host.connection() as sock:
        assert host.works()
        answer = answer_of(sock)
        assert isinstance(answer, Error)
        assert "sent 0 of 4 bytes before the deadline" in answer.message
        assert is_cut_off(sock)


@pytest.mark.parametrize("host", [Patience(request=0.3)], indirect=True)
def test_a_slow_drip_gets_no_more_time(host: Host) -> None:
    """One byte at a time, each well within the deadline, does not prolong it."""
    with host.connection() as sock:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in struct.pack(">I", 1000) + b" " * 1000:
                sock.sendall(bytes([byte]))
                if time.monotonic() - began > SOON:
                    pytest.fail("the server still listens")
                threading.Event().wait(0.02)  # the drip itself: the pace is what is tested
        assert time.monotonic() - began < SOON
    assert host.works()


@pytest.mark.parametrize("host", [Patience(answer=0.2)], indirect=True)
def test_a_client_that_does_not_read_is_dropped(host: Host) -> None:
    """An answer bigger than the socket's buffer, never read, costs a deadline and nothing else."""
    done = threading.Event()

    def answer(request: AnyRequest) -> Any:
        if isinstance(request, Plugins):
            return "Plugins"
        done.set()
        return "x" * (MAX_ANSWER // 2)

    host.answer = answer
    with host.connection() as sock:
        send_frame(sock, encode(Describe("x"), limit=MAX_REQUEST), seconds=SOON)
        assert done.wait(SOON)
        assert host.works()
        _until(lambda: not host.server._threads)
    assert host.works()


def test_a_client_that_goes_away_while_it_is_answered_is_forgotten(host: Host) -> None:
    """The end of a connection during the answer is no error of the host."""
    asked, may_answer = threading.Event(), threading.Event()

    def answer(request: AnyRequest) -> Any:
        if isinstance(request, Plugins):
            return "Plugins"
        asked.set()
        may_answer.wait(SOON)
        return "x" * 10_000_000

    host.answer = answer
    with host.connection() as sock:
        send_frame(sock, encode(Describe("x"), limit=MAX_REQUEST), seconds=SOON)
        assert asked.wait(SOON)
    may_answer.set()
    assert host.works()


def test_two_hundred_connections_are_bounded(host: Host) -> None:
    """A flood of silent connections gets at most so many threads; those over it are told, and afterwards all is as before."""
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(host.connection()) for _ in range(200)]
        refused = flood[-1]
        assert isinstance(answer := answer_of(refused), Error)
        assert answer.busy
        assert len(host.server._threads) <= MAX_CONNECTIONS
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("blackhole-control-")]
        assert len(names) <= MAX_CONNECTIONS
    assert host.works()


def test_somebody_else_is_not_let_in(host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A process of another user, should it get at the socket, is cut off before a byte is read."""
    uid = os.geteuid()
    monkeypatch.setattr(server_module, "peer_credentials", lambda sock: (4711, uid + 1))
    with caplog.at_level("WARNING", "blackhole.control"), host.connection() as sock:
        assert is_cut_off(sock)
    assert f"refused process 4711 of user {uid + 1}" in caplog.text


# --- streams ------------------------------------------------------------------------------------------------------------


def event(name: str, plugin: str = "") -> Event:
    return Event(name, plugin, 1.0, {})


def test_a_stream_gives_the_past_and_what_comes(host: Host) -> None:
    """Records before and after the request arrive in order, of the plugin that was named."""
    host.records.add_event(event("a", "x"))
    stream = host.client().follow(Logs("x", follow=True))
    assert next(stream)["name"] == "a"
    host.records.add_event(event("b", "other"))
    host.records.add_event(event("c", "x"))
    assert next(stream)["name"] == "c"
    stream.close()  # type: ignore[attr-defined]  # the module, or object, is the test's own


def test_a_stream_ends_with_the_host(host: Host) -> None:
    """Followers are let go when the server closes."""
    host.records.add_event(event("a"))
    stream = host.client().follow(Logs(follow=True))
    next(stream)
    host.server.close()
    assert list(stream) == []


def test_a_slow_follower_is_told_and_dropped(host: Host) -> None:
    """A follower that falls behind loses the stream with a notice; whoever logs is never held up."""
    host.records.waiting = 10
    host.records.add_event(event("first"))
    stream = host.client().follow(Logs(follow=True))
    assert next(stream)["name"] == "first"
    began = time.monotonic()
    for number in range(20_000):  # far more than the socket's buffers hold
        host.records.add("log", "", 1.0, level="info", logger="x", text=f"{number} " + "x" * 1000)
    assert time.monotonic() - began < SOON
    with pytest.raises(HostFailure, match="too slow, .* records were dropped"):
        for _ in stream:
            pass


def test_a_follower_that_goes_is_noticed_at_once(host: Host) -> None:
    """The thread of a stream ends with its reader, not with the next record."""
    host.records.add_event(event("a"))
    stream = host.client().follow(Logs(follow=True))
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # the module, or object, is the test's own
    _until(lambda: not host.server._threads)


def test_streams_leave_room_for_requests(host: Host) -> None:
    """As many followers as there may be, and requests are still served; one more follower is told."""
    host.records.add_event(event("a"))
    streams = [host.client().follow(Logs(follow=True)) for _ in range(MAX_STREAMS)]
    for stream in streams:
        next(stream)
    assert host.works()
    with pytest.raises(HostFailure, match=f"serves {MAX_STREAMS} streams already"):
        next(host.client().follow(Logs(follow=True)))
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]  # the module, or object, is the test's own


# --- the end ------------------------------------------------------------------------------------------------------------


def test_closing_ends_silent_connections(host: Host) -> None:
    """A connection that sends nothing does not hold up the end."""
    with host.connection() as sock:
        _until(lambda: bool(host.server._threads))
        began = time.monotonic()
        host.server.close()
        assert time.monotonic() - began < SOON / 2
        assert is_cut_off(sock)


@pytest.mark.parametrize("host", [Patience(close=0.1)], indirect=True)
def test_a_request_that_hangs_does_not_hold_up_the_end(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Plugin code that never returns is left behind with a warning."""
    asked, release = threading.Event(), threading.Event()

    def answer(request: AnyRequest) -> Any:
        asked.set()
        release.wait(SOON)

    host.answer = answer
    try:
        with host.connection() as sock:
            send_frame(sock, encode(Plugins(), limit=MAX_REQUEST), seconds=SOON)
            assert asked.wait(SOON)
            with caplog.at_level("WARNING", "blackhole.control"):
                host.server.close()
        assert "is left behind" in caplog.text
    finally:
        release.set()


def test_without_a_host_the_client_says_so(directory: Path) -> None:
    """No socket, a socket nobody listens at, and a file that is none: one sentence with what to do."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "dead.sock"))
    (directory / "file").write_text("")
    for name in ("missing", "dead.sock", "file"):
        with pytest.raises(NoHost, match=f"no host is running at {directory / name} .*start one with: blackhole run"):
            ControlClient(directory / name).ask(Plugins(), seconds=SOON)


def test_a_host_that_never_answers_has_a_deadline(host: Host) -> None:
    """The client waits as long as it was told to."""
    release = threading.Event()
    host.answer = lambda request: release.wait(SOON)
    try:
        with pytest.raises(HostFailure, match="gave no answer"):
            host.client().ask(Plugins(), seconds=0.1)
    finally:
        release.set()


def test_frames_have_one_deadline_for_all_of_it() -> None:
    """Receiving and sending stop at the deadline, however the bytes come."""
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"\x00\x00")
        with pytest.raises(SlowPeer, match="sent 2 of 4 bytes"):
            receive_frame(other, limit=10, seconds=0.05)
        with pytest.raises(SlowPeer, match="did not read"):
            send_frame(one, bytes(50_000_000), seconds=0.05)
        other.close()
        with pytest.raises(PeerGone):
            send_frame(one, b"x" * 100, seconds=SOON)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
