"""The host's side of the relay, asked by who may be an enemy: everything is bounded, and nobody else is disturbed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.relay.bounds import Bounds, Seats
from blackhole_core.executor.relay.bridge import NearSocket
from blackhole_core.executor.relay.dial import Found
from blackhole_core.executor.relay.host import Relay, RelayClosed
from blackhole_core.executor.relay.messages import VERDICT_HEAD, Ask, Verdict, decode_ask, decode_verdict, encode_ask
from blackhole_core.executor.relay.rules import NOTHING, Rules
from tests.integration.netclient import serve_echo, serving
from tests.stage import eventually

HERE = ("network:connect:127.0.0.1",)
QUICK = Bounds(connect_seconds=0.2, idle_seconds=3600, linger_seconds=0.2, sweep=0.01)


@attrs.define
class Enemy:
    """A worker that speaks to the relay as it likes."""

    control: socket.socket
    attachment: Any
    breaches: list[str] = attrs.field(factory=list)

    def send(self, data: bytes, *descriptors: int) -> None:
        socket.send_fds(self.control, [data], descriptors, socket.MSG_NOSIGNAL)

    def ask(self, host: str, port: int, preface: int = 0) -> socket.socket:
        """Ask for a connection, and return the near end."""
        near, far = socket.socketpair()
        near.settimeout(10)
        with far:
            try:
                self.send(encode_ask(Ask(host, port, preface)), far.fileno())
            except OSError:
                near.close()
                raise
        return near

    def connect(self, host: str, port: int) -> socket.socket:
        near = self.ask(host, port)
        assert verdict_of(near) == Verdict()
        return near


def verdict_of(near: socket.socket) -> Verdict:
    [size] = VERDICT_HEAD.unpack(near.recv(VERDICT_HEAD.size, socket.MSG_WAITALL))
    return decode_verdict(near.recv(size, socket.MSG_WAITALL))


class Hosts:
    """Makes relays and who asks them, and ends all of it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.stack = contextlib.ExitStack()

    def relay(self, resolve: Callable[[str, int], Sequence[Found]] | None = None, **options: Any) -> Relay:
        def nobody(host: str, port: int) -> Sequence[Found]:
            raise socket.gaierror(socket.EAI_NONAME, "nobody")

        relay = Relay(lambda name, plugin, **data: self.events.append((name, plugin, data)), resolve=resolve or nobody, **options)
        self.stack.callback(relay.close)
        return relay

    def enemy(self, relay: Relay, *given: str, plugin: str = "enemy", granted: tuple[str, ...] = ()) -> Enemy:
        breaches: list[str] = []
        attachment = relay.attach(plugin, Rules(given, (*given, *granted)), None, breaches.append)
        control = socket.socket(fileno=os.dup(attachment.descriptor))
        control.settimeout(10)
        attachment.launched()
        self.stack.enter_context(control)
        self.stack.callback(attachment.close)
        return Enemy(control, attachment, breaches)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    with hosts.stack:
        yield hosts


def talks(near: socket.socket) -> bool:
    near.sendall(b"ping")
    return near.recv(4, socket.MSG_WAITALL) == b"ping"


# --- where a name leads -------------------------------------------------------------------------------------------------


def _answers(*addresses: str) -> Callable[[str, int], list[Found]]:
    return lambda host, port: [Found(socket.AF_INET, (address, port)) for address in addresses]


def test_only_an_address_that_was_judged_is_connected_to(hosts: Hosts) -> None:
    """A24: one that is not allowed is passed over, the one that is allowed is the one connected to, and the name is looked up once."""
    asked = []

    def rebinding(host: str, port: int) -> list[Found]:
        asked.append(host)
        return _answers("127.0.0.2", "127.0.0.1" if len(asked) == 1 else "127.0.0.3")(host, port)

    with serving(serve_echo) as port:
        enemy = hosts.enemy(hosts.relay(rebinding), f"network:connect:good.example:{port}", granted=HERE)
        with enemy.connect("GOOD.example.", port) as near:
            assert talks(near)
        assert asked == ["good.example"]
        assert ("network.connected", "enemy", {"host": "good.example", "port": port, "address": "127.0.0.1"}) in hosts.events


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1"])
def test_a_name_that_leads_inside_is_denied_and_does_not_tell_where(hosts: Hosts, address: str) -> None:
    """A24."""
    enemy = hosts.enemy(hosts.relay(_answers(address)), "network:connect:evil.example:80")
    with enemy.ask("evil.example", 80) as near:
        verdict = verdict_of(near)
    assert (verdict.error, address in verdict.text) == (errno.EACCES, False)
    assert hosts.events == [("network.denied", "enemy", {"host": "evil.example", "port": 80, "by": "address"})]


def test_a_name_server_that_hangs_holds_up_nobody_else(hosts: Hosts) -> None:
    """A plugin has so many look-ups at a time; each ends in time, and the next plugin has its own."""
    hanging = threading.Event()

    def resolve(host: str, port: int) -> list[Found]:
        if host == "slow.example":
            hanging.wait(10)
        return _answers("127.0.0.1")(host, port)

    with serving(serve_echo) as port:
        relay = hosts.relay(resolve, bounds=attrs.evolve(QUICK, connect_seconds=1.0))
        slow = hosts.enemy(relay, f"network:connect:slow.example:{port}")
        other = hosts.enemy(relay, f"network:connect:quick.example:{port}", plugin="other", granted=HERE)
        waiting = [slow.ask("slow.example", port) for _ in range(20)]
        try:
            with other.connect("quick.example", port) as near:
                assert talks(near)
            assert sum(thread.name == "blackhole-lookup" for thread in threading.enumerate()) <= QUICK.lookups
            assert {verdict_of(near).error for near in waiting} == {socket.EAI_AGAIN}
        finally:
            hanging.set()
            for near in waiting:
                near.close()


# --- who does not hold to the protocol ----------------------------------------------------------------------------------


def _with(descriptor: Callable[[], int]) -> Callable[[Enemy, bytes], None]:
    def send(enemy: Enemy, data: bytes) -> None:
        number = descriptor()
        enemy.send(data, number)
        os.close(number)

    return send


_GOOD = encode_ask(Ask("127.0.0.1", 1))


def _one_of_a_pair() -> int:
    one, other = socket.socketpair()
    other.close()
    return one.detach()


_stream = _with(_one_of_a_pair)


@pytest.mark.parametrize(
    ("says", "send", "data"),
    [
        ("not a request", _stream, b"\xde\xad\xbe\xef"),
        ("not a request", _stream, encode_ask(Ask("", 1))),
        ("not a request", _stream, encode_ask(Ask("a", 0))),
        ("not a request", _stream, encode_ask(Ask("a", 1, 1 << 40))),
        ("not a request", _stream, b"\x94\xa1a\x01\x00\x00"),
        ("more than 512 bytes", _stream, b"x" * 100_000),
        ("without a stream", Enemy.send, _GOOD),
        ("without a stream", Enemy.send, b"garbage"),
        ("no socket", _with(lambda: os.open("/dev/null", os.O_RDWR)), _GOOD),
        ("no local stream", _with(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()), _GOOD),
        ("no local stream", _with(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()), _GOOD),
    ],
)
def test_what_is_no_request_ends_the_worker_and_nothing_else(
    hosts: Hosts, says: str, send: Callable[[Enemy, bytes], None], data: bytes
) -> None:
    """It is told to whoever ends workers, nothing more is read, and another plugin does not notice."""
    with serving(serve_echo) as port:
        relay = hosts.relay()
        other = hosts.enemy(relay, *HERE, plugin="other")
        enemy = hosts.enemy(relay, *HERE)
        send(enemy, data)
        assert eventually(lambda: enemy.breaches)
        assert says in enemy.breaches[0]
        with other.connect("127.0.0.1", port) as near:
            assert talks(near)
        assert len(enemy.breaches) == 1


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91" * 500, b"\x93\xa1\xff\x01\x00"])
def test_garbage_is_not_decoded(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a request"):
        decode_ask(data)


def test_more_connections_than_a_plugin_may_have_are_refused(hosts: Hosts) -> None:
    """The others go on; the host's descriptors are not used up."""
    with serving(serve_echo) as port:
        relay = hosts.relay(seats=Seats(40))
        enemy, other = hosts.enemy(relay, *HERE), hosts.enemy(relay, *HERE, plugin="other")
        before = len(os.listdir("/proc/self/fd"))
        asked = [enemy.ask("127.0.0.1", port) for _ in range(100)]
        verdicts = [verdict_of(near) for near in asked]
        assert sorted({verdict.error for verdict in verdicts}) == [0, errno.EMFILE]
        assert sum(not verdict.error for verdict in verdicts) == 20
        assert "plugin enemy has 20 connections, the most it may have" in {verdict.text for verdict in verdicts}
        # here, to the server, and the server's; those that were refused are closed after they were told
        assert eventually(lambda: len(os.listdir("/proc/self/fd")) - before - len(asked) <= 3 * 20)
        with other.connect("127.0.0.1", port) as near:
            assert talks(near)
        for near in asked:
            near.close()
        assert eventually(lambda: relay.usage("enemy") and relay.usage("enemy").connections == 0)  # type: ignore[union-attr]  # there is one
        with enemy.connect("127.0.0.1", port) as near:
            assert talks(near)


def test_a_flood_of_requests_is_taken_at_its_rate(hosts: Hosts) -> None:
    """What is beyond it is not read: the sender has to wait, the host has not more to do."""
    relay = hosts.relay(bounds=Bounds(asks_per_second=0.001, asks_at_once=30))
    enemy = hosts.enemy(relay, "network:connect:a.example")
    enemy.control.setblocking(False)
    asked: list[socket.socket] = []
    with contextlib.suppress(BlockingIOError):
        asked.extend(enemy.ask("127.0.0.1", 1) for _ in range(2000))  # keeps those before the one that raises
    assert len(asked) < 2000
    for near in asked[:30]:
        assert verdict_of(near).error == errno.EACCES
    asked[30].settimeout(0.05)
    with pytest.raises(TimeoutError):
        asked[30].recv(1)
    for near in asked:
        near.close()


def test_denials_do_not_flood_the_log(hosts: Hosts) -> None:
    """Some are told at once; the next one says how many were not."""
    enemy = hosts.enemy(hosts.relay(bounds=Bounds(asks_at_once=1000)), *HERE)
    for _ in range(200):
        with enemy.ask("127.0.0.2", 1) as near:
            verdict_of(near)
    assert 50 <= len(hosts.events) < 100
    assert eventually(lambda: _deny_again(enemy) and hosts.events[-1][2].get("untold", 0) > 0)


def _deny_again(enemy: Enemy) -> bool:
    with enemy.ask("127.0.0.2", 1) as near:
        return verdict_of(near).error == errno.EACCES


# --- streams that are not what they seem --------------------------------------------------------------------------------


def test_a_stream_from_a_worker_never_blocks_the_relay() -> None:
    """Its flag lies in what the worker holds, too; nothing here relies on it."""
    near, far = socket.socketpair()
    with near, NearSocket(fileno=far.detach()) as taken:
        taken.setblocking(True)
        with pytest.raises(BlockingIOError):
            taken.recv(1)
        with pytest.raises(BlockingIOError):
            taken.recv_into(bytearray(1))
        assert taken.send(bytes(1 << 20)) < 1 << 20
        with pytest.raises(BlockingIOError):
            taken.send(b"x")


def test_a_worker_that_kept_the_hosts_end_sees_the_end_all_the_same(hosts: Hosts) -> None:
    """A child that was forked at the wrong moment may hold it."""
    with serving(lambda connection: connection.sendall(b"bye")) as port:
        enemy = hosts.enemy(hosts.relay(), *HERE)
        near, far = socket.socketpair()
        near.settimeout(10)
        with near, far:
            enemy.send(encode_ask(Ask("127.0.0.1", port)), far.fileno())
            assert verdict_of(near) == Verdict()
            near.shutdown(socket.SHUT_WR)
            assert near.recv(100, socket.MSG_WAITALL) == b"bye"


def test_a_preface_that_is_not_there_ends_the_connection(hosts: Hosts) -> None:
    with serving(serve_echo) as port:
        enemy = hosts.enemy(hosts.relay(), *HERE)
        with enemy.ask("127.0.0.1", port, preface=1000) as near:
            assert verdict_of(near) == Verdict()
            assert near.recv(1) == b""


def test_connections_that_nobody_uses_end(hosts: Hosts) -> None:
    """After their time; and at once, when the worker closed what it had ended before in one direction."""
    with serving(serve_echo) as port:
        relay = hosts.relay(bounds=attrs.evolve(QUICK, idle_seconds=0.05))
        with hosts.enemy(relay, *HERE).connect("127.0.0.1", port) as near:
            assert near.recv(1) == b""
    ended, waiting = threading.Event(), threading.Event()

    def wait(connection: socket.socket) -> None:
        connection.recv(1)
        ended.set()
        waiting.wait(10)

    with serving(wait) as port:
        relay = hosts.relay(bounds=QUICK)
        near = hosts.enemy(relay, *HERE, plugin="other").connect("127.0.0.1", port)
        near.shutdown(socket.SHUT_WR)
        assert ended.wait(10)  # so the relay knows of the one direction, and of no more
        near.close()
        assert eventually(lambda: ("network.closed", "other") in [event[:2] for event in hosts.events])
        waiting.set()


# --- the host's own wishes ----------------------------------------------------------------------------------------------


def test_taking_everything_away_closes_every_connection(hosts: Hosts) -> None:
    """When ``confine`` returns; also one that was told that it is connected an instant before."""
    with serving(serve_echo) as port:
        enemy = hosts.enemy(hosts.relay(), *HERE)
        for _ in range(30):
            enemy.attachment.confine(Rules(HERE, HERE))
            with enemy.connect("127.0.0.1", port) as near:
                enemy.attachment.confine(NOTHING)
                assert near.recv(1) == b""


def test_a_listener_may_take_a_permission_away(hosts: Hosts) -> None:
    """It runs on the relay's own thread."""
    with serving(serve_echo) as port:
        enemy: Enemy | None = None

        def emit(name: str, plugin: str, **data: Any) -> None:
            if name == "network.connected":
                assert enemy is not None
                enemy.attachment.confine(NOTHING)

        relay = Relay(emit)
        hosts.stack.callback(relay.close)
        enemy = hosts.enemy(relay, *HERE)
        with enemy.connect("127.0.0.1", port) as near:
            assert near.recv(1) == b""


def test_a_closed_relay_has_ended_everything(hosts: Hosts) -> None:
    """Connections, sessions, thread; what comes later is told so or does nothing."""
    with serving(serve_echo) as port:
        relay = hosts.relay()
        enemy = hosts.enemy(relay, *HERE)
        with enemy.connect("127.0.0.1", port) as near:
            relay.close()
            assert near.recv(1) == b""
        enemy.attachment.confine(NOTHING)
        enemy.attachment.close()
        relay.close()
        with pytest.raises(RelayClosed, match="closed"):
            hosts.enemy(relay, *HERE)
