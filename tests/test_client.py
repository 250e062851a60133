"""connect() and its relatives on real sockets. What they answer in every scenario, beside connect(2),
is test_parity.py's; here is what else they promise.

A twin test runs the same steps twice, on two sockets: once with connect(2) itself, once with
pyuring. What the calls answered and what the sockets look like afterwards must be equal.
"""
import contextlib
import errno
import gc
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from errno import EAGAIN, EALREADY, EBADF, ECONNREFUSED, ECONNRESET, EINPROGRESS, EINTR, ENOTSOCK
from pathlib import Path
from select import POLLIN, POLLOUT, POLLRDHUP
from socket import AF_INET, AF_INET6, AF_UNIX, SO_ERROR, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET

import pytest

import pyuring
from parity import wait_until_asleep
from pyuring import client, errors, sockaddr, syscalls
from pyuring.client import connect, create_connection
from pyuring.many import connect_many
from pyuring.driver import IPPROTO_MPTCP
from pyuring.ring import Ring
from pyuring.sockaddr import SockAddr

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 20.0         # seconds: a bound against hangs, not a claim
SYN_SENT = 2
UNSPEC = SockAddr(bytes(16))


def _why_no_inet6():
    try:
        with socket.socket(AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        return f"no IPv6 loopback here: {error}"
    return ""


def _why_no_mptcp():
    try:
        socket.socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        return f"no MPTCP here: {error}"
    return ""


WHY_NOT = {"tcp6": _why_no_inet6(), "mptcp": _why_no_mptcp()}


# -- worlds: what there is to connect to -----------------------------------------------------------
class World:
    """One kind of stream socket, a listener and a place where nobody listens."""

    def __init__(self, kind, directory):
        self.kind, self.stack, self.directory, self.count = kind, contextlib.ExitStack(), directory, 0
        self.family = {"tcp6": AF_INET6, "tcp": AF_INET, "mptcp": AF_INET}.get(kind, AF_UNIX)
        self.listener = self.bound()
        self.listener.listen(128)
        self.refused = self.name(self.bound())

    def socket(self):
        return self.stack.enter_context(self.unmanaged())

    def unmanaged(self):
        type_ = SOCK_SEQPACKET if self.kind == "seqpacket" else SOCK_STREAM
        return socket.socket(self.family, type_, IPPROTO_MPTCP if self.kind == "mptcp" else 0)

    def bound(self):
        sock = self.socket()
        self.count += 1
        sock.bind({AF_INET: ("127.0.0.1", 0), AF_INET6: ("::1", 0)}.get(
            self.family, os.path.join(self.directory, str(self.count))))
        return sock

    def full(self):
        """A listener whose accept queue is full."""
        sock = self.bound()
        sock.listen(0)
        for _ in range(1 if self.family == AF_UNIX else 3):
            filler = self.socket()
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        return sock

    @staticmethod
    def name(sock):
        return sock.getsockname()

    @property
    def listening(self):
        return self.listener.getsockname()

    def connect2(self, sock, address):
        """connect(2) -> 0 or its errno."""
        raw = address.raw if isinstance(address, SockAddr) else sockaddr.pack(self.family, address)
        return -syscalls.connect(sock.fileno(), raw)

    def cells(self, sock):
        """What can be seen of a socket, with names that two runs can be compared by."""
        return (poll_mask(sock), self._named(sock.getpeername), self._named(sock.getsockname),
                sock.getsockopt(SOL_SOCKET, SO_ERROR), os.get_blocking(sock.fileno()))

    def _named(self, ask):
        try:
            name = ask()
        except OSError as error:
            return error.errno
        if name == self.listening:
            return name
        if isinstance(name, tuple):     # an ephemeral port differs from run to run
            return name[0], name[1] and "some port"
        return name and "some name"


def poll_mask(sock, timeout_ms=0, interest=POLLIN | POLLOUT | POLLRDHUP):
    poll = select.poll()
    poll.register(sock, interest)
    return sum(mask for _, mask in poll.poll(timeout_ms))


def until(condition):
    """Wait for something that has no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def under_way(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == SYN_SENT


def asking(strategy, timeout=None):
    """pyuring.connect() as connect2() is called: 0 or the errno."""
    def ask(sock, address):
        try:
            connect(sock, address, timeout, strategy=strategy)
        except socket.timeout as error:
            return "timed out" if error.errno is None else error.errno
        except OSError as error:
            return error.errno
        return 0
    return ask


@contextlib.contextmanager
def in_thread(function, *arguments):
    """Runs beside the body; afterwards the yielded list holds what it answered."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function(*arguments)))
    thread.start()
    try:
        yield answers
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it hangs"


def undisturbed(function, *arguments):
    """The answer, from a thread that never had a ring: closing one makes the kernel interrupt the
    thread that used it once more, and connect(2) may answer EINTR to that."""
    with in_thread(function, *arguments) as answers:
        pass
    return answers[0]


@pytest.fixture
def world(request, tmp_path):
    kind = getattr(request, "param", "tcp")
    if WHY_NOT.get(kind):
        pytest.skip(WHY_NOT[kind])
    world = World(kind, str(tmp_path))
    with world.stack:
        yield world


TCP_KINDS = ["tcp", "tcp6", "mptcp"]
ALL_KINDS = TCP_KINDS + ["unix", "seqpacket"]
on_all_kinds = pytest.mark.parametrize("world", ALL_KINDS, indirect=True)
on_tcp_kinds = pytest.mark.parametrize("world", TCP_KINDS, indirect=True)


@pytest.fixture(params=["blocking", "nonblocking", "timeout"])
def mode(request):
    """Sets a socket's mode; all of them are waited for."""
    timeout = {"blocking": None, "nonblocking": 0.0, "timeout": PATIENCE}[request.param]
    return lambda sock: sock.settimeout(timeout)


# -- twins -----------------------------------------------------------------------------------------
def refused_thrice(world, sock, ask):
    yield from (ask(sock, world.refused) for _ in range(3))


def refused_then_listening(world, sock, ask):
    late = world.bound()
    yield ask(sock, world.name(late))
    late.listen()
    yield from (ask(sock, world.name(late)) for _ in range(3))


def connected_thrice(world, sock, ask):
    yield from (ask(sock, world.listening) for _ in range(3))


def refused_elsewhere_when_connected(world, sock, ask):
    yield ask(sock, world.listening)
    yield ask(sock, world.refused)


def refused_with_a_name_of_its_own(world, sock, ask):
    sock.bind(("127.0.0.1", 0) if world.family == AF_INET else ("::1", 0) if world.family == AF_INET6
              else os.path.join(world.directory, f"own{sock.fileno()}"))
    name = sock.getsockname()
    for _ in range(2):
        yield ask(sock, world.refused)
        own = sock.getsockname()
        yield own == name if world.family == AF_UNIX else own[1] == name[1]


def listening_itself(world, sock, ask):
    if world.family != AF_UNIX:
        sock.listen()
        yield ask(sock, world.listening)
        yield ask(sock, world.refused)


def dissolved(world, sock, ask):
    yield ask(sock, UNSPEC)
    yield ask(sock, world.listening)
    yield ask(sock, UNSPEC)
    yield world.cells(sock)
    yield ask(sock, world.listening)


def dissolved_after_a_failure(world, sock, ask):
    yield ask(sock, world.refused)
    yield ask(sock, UNSPEC)
    yield world.cells(sock)
    yield ask(sock, world.refused)


def peer_gone(world, sock, ask):
    yield ask(sock, world.listening)
    accepted = world.listener.accept()[0]
    accepted.close()
    poll_mask(sock, 1000, POLLIN)
    yield ask(sock, world.listening)


def peer_reset(world, sock, ask):
    yield ask(sock, world.listening)
    accepted = world.listener.accept()[0]
    accepted.setsockopt(SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()
    poll_mask(sock, 1000, POLLIN)
    yield ask(sock, world.listening)
    yield sock.getsockopt(SOL_SOCKET, SO_ERROR)
    yield ask(sock, world.listening)


def over_and_out(world, sock, ask):
    # Both directions shut, no error, TCP closed: what E12 looks like, too.
    yield ask(sock, world.listening)
    accepted = world.listener.accept()[0]
    sock.shutdown(socket.SHUT_WR)
    poll_mask(accepted, 1000, POLLIN)
    accepted.close()
    poll_mask(sock, 1000, POLLRDHUP)
    yield ask(sock, world.listening)
    yield ask(sock, world.refused)


def shut_down_when_fresh(world, sock, ask):
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    yield ask(sock, world.refused)
    yield ask(sock, world.listening)
    yield ask(sock, world.listening)


def error_taken_before(world, sock, ask):
    # E12
    sock.setblocking(False)
    world.connect2(sock, world.refused)
    poll_mask(sock, 1000)
    yield sock.getsockopt(SOL_SOCKET, SO_ERROR)
    sock.setblocking(True)
    yield from (ask(sock, world.refused) for _ in range(3))


def error_taken_before_and_now_it_listens(world, sock, ask):
    late = world.bound()
    sock.setblocking(False)
    world.connect2(sock, world.name(late))
    poll_mask(sock, 1000)
    yield sock.getsockopt(SOL_SOCKET, SO_ERROR)
    sock.setblocking(True)
    late.listen()
    yield from (ask(sock, world.name(late)) for _ in range(3))


def failed_before(world, sock, ask):
    sock.setblocking(False)
    world.connect2(sock, world.refused)
    poll_mask(sock, 1000)
    sock.setblocking(True)
    yield from (ask(sock, world.refused) for _ in range(2))


def connected_before(world, sock, ask):
    sock.setblocking(False)
    world.connect2(sock, world.listening)
    poll_mask(sock, 1000, POLLOUT)
    sock.setblocking(True)
    yield from (ask(sock, world.listening) for _ in range(2))


def strange_addresses(world, sock, ask):
    good = sockaddr.pack(world.family, world.listening)
    for raw in (b"", b"\2", good[:2], good[:7], good + bytes(20), bytes(129), bytes(500),
                b"\xff\xff" + good[2:], b"\1\0" + good[2:]):
        yield ask(sock, SockAddr(raw))
    yield ask(sock, world.listening)


def of_another_family(world, sock, ask):
    for family, address in ((AF_INET, ("127.0.0.1", 9)), (AF_INET6, ("::1", 9)), (AF_UNIX, "/x")):
        if family != world.family:
            yield ask(sock, SockAddr(sockaddr.pack(family, address)))
    yield ask(sock, world.listening)


def port_0_and_the_any_address(world, sock, ask):
    if world.family == AF_INET:
        hosts = "127.0.0.1", "0.0.0.0"
    elif world.family == AF_INET6:
        hosts = "::1", "::"
    else:
        return
    for host in hosts:
        yield ask(sock, (host, 0))
        yield ask(sock, (host, world.refused[1]))
    yield ask(sock, (hosts[1], world.listening[1]))


def disturbed_by_other_errors(world, sock, ask):
    # Bound to a place that is taken by a connection to the same place: EADDRNOTAVAIL.
    if world.family != AF_INET:
        return
    first = world.socket()
    for either in (first, sock):
        either.setsockopt(SOL_SOCKET, socket.SO_REUSEADDR, 1)
    first.bind(("127.0.0.1", 0))
    sock.bind(first.getsockname())
    yield ask(first, world.listening)
    yield ask(sock, world.listening)
    yield ask(sock, world.refused)


EVERYWHERE = [refused_thrice, refused_then_listening, connected_thrice, listening_itself,
              refused_elsewhere_when_connected, refused_with_a_name_of_its_own, peer_gone,
              strange_addresses, of_another_family, port_0_and_the_any_address,
              disturbed_by_other_errors]
ON_TCP = [dissolved, dissolved_after_a_failure, peer_reset, over_and_out, shut_down_when_fresh,
          error_taken_before, error_taken_before_and_now_it_listens, failed_before, connected_before]


def run_twin(world, scenario, ask):
    """The answers, then the socket's looks, then what connect(2) and listen(2) say to it."""
    sock = world.socket()
    seen = list(scenario(world, sock, ask))
    seen.append(world.cells(sock))
    seen += [world.connect2(sock, world.refused), world.connect2(sock, world.listening)]
    seen.append(world.cells(sock))
    sock = world.socket()
    seen += list(scenario(world, sock, ask))
    try:
        sock.listen()
        seen.append("listens")
    except OSError as error:
        seen.append(error.errno)
    return seen


@pytest.mark.parametrize("world", ["tcp", "mptcp"], indirect=True)
@pytest.mark.parametrize("scenario", EVERYWHERE + ON_TCP)
def test_twin_of_connect_2_once_the_kernel_is_known(world, scenario, io_uring):
    # What the driver finds out from a first success spares it a step with every later one.
    other = world.bound()
    other.listen()
    for _ in range(2):
        with world.unmanaged() as sock:
            connect(sock, world.name(other), strategy="emulated")
    expected = undisturbed(run_twin, world, scenario, world.connect2)
    assert run_twin(world, scenario, asking("emulated")) == expected


@pytest.mark.parametrize("world, scenario", [
    (kind, scenario) for kind in ALL_KINDS
    for scenario in (refused_thrice, refused_then_listening, connected_thrice)], indirect=["world"],
    ids=lambda value: getattr(value, "__name__", value))
def test_sockets_of_any_mode_answer_as_blocking_ones_and_keep_their_mode(world, scenario, honest, mode):
    expected = undisturbed(lambda: list(scenario(world, world.socket(), world.connect2)))
    sock = world.socket()
    mode(sock)
    before = sock.gettimeout(), os.get_blocking(sock.fileno())
    assert list(scenario(world, sock, asking(honest))) == expected
    assert (sock.gettimeout(), os.get_blocking(sock.fileno())) == before


@on_all_kinds
@pytest.mark.parametrize("default", [None, 0.0, 5.0])
def test_an_fd_stays_open_its_owners_and_in_its_mode(world, strategy, default):
    socket.setdefaulttimeout(default)
    try:
        for blocking in (True, False):
            sock = world.socket()
            os.set_blocking(sock.fileno(), blocking)
            assert asking(strategy)(sock.fileno(), world.refused) == ECONNREFUSED
            assert os.get_blocking(sock.fileno()) == blocking
        sock = world.socket()
        os.set_blocking(sock.fileno(), True)
        connect(sock.fileno(), world.listening, strategy=strategy)
        assert sock.getpeername() == world.listening
        assert os.get_blocking(sock.fileno())
        assert world.listener.accept()[0].close() is None
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.parametrize("timeout", [None, 0.0, 0.01])
def test_an_fd_has_no_timeout_of_its_own_only_the_one_given(honest, silent, timeout, monkeypatch):
    socket.setdefaulttimeout(timeout)
    try:
        with socket.socket() as sock:
            with pytest.raises(socket.timeout, match=r"after 0\.02 s"):
                connect(sock.fileno(), silent, 0.02, strategy=honest)
    finally:
        socket.setdefaulttimeout(None)


def test_a_bad_fd_is_an_oserror(strategy, listener):
    with open(os.devnull) as file:
        with pytest.raises(OSError) as caught:
            connect(file.fileno(), listener.getsockname(), strategy=strategy)
        assert caught.value.errno == ENOTSOCK
        number = os.dup(file.fileno())
    os.close(number)
    for fd in (number, -1):
        with pytest.raises(OSError) as caught:
            connect(fd, listener.getsockname(), strategy=strategy)
        assert caught.value.errno == EBADF


# -- other families, other forms of address --------------------------------------------------------
def test_unix_addresses_in_every_form(strategy, tmp_path, monkeypatch):
    name = f"\0pyuring-{os.getpid()}-{time.monotonic_ns()}".encode()
    path = tmp_path / "s"
    with socket.socket(AF_UNIX) as plain, socket.socket(AF_UNIX) as abstract:
        plain.bind(str(path))
        abstract.bind(name)
        plain.listen()
        abstract.listen()
        monkeypatch.chdir(tmp_path)
        for address, peer in [(path, str(path)), (str(path), str(path)), (bytes(path), str(path)),
                              ("s", str(path)), (name, name), (bytearray(name), name),
                              (SockAddr(sockaddr.pack(AF_UNIX, "s")), str(path))]:
            with socket.socket(AF_UNIX) as sock:
                connect(sock, address, strategy=strategy)
                assert sock.getpeername() == peer


@pytest.mark.parametrize("type_", [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET])
def test_unix_failures_are_connect_2s(honest, tmp_path, type_):
    (tmp_path / "file").touch()
    with contextlib.ExitStack() as stack:
        def unix(type_, name=None, listen=False):
            sock = stack.enter_context(socket.socket(AF_UNIX, type_))
            if name:
                sock.bind(str(tmp_path / name))
            if listen:
                sock.listen()
            return sock

        unix(SOCK_STREAM, "stream", True), unix(SOCK_SEQPACKET, "packets", True)
        unix(SOCK_DGRAM, "dgrams"), unix(type_, "deaf")
        answers = []
        for ask in (lambda sock, address: -syscalls.connect(sock.fileno(), sockaddr.pack(AF_UNIX, address)),
                    asking(honest)):
            sock = unix(type_)
            answers.append([ask(sock, str(tmp_path / name)) for name in
                            ("missing", "file", "file/below", ".", "deaf")]
                           + [ask(unix(type_), str(tmp_path / name)) for name in
                              ("stream", "packets", "dgrams", "stream")]
                           + [ask(sock, b"\0pyuring-nobody"), ask(sock, b"\0"), ask(sock, "")])
        assert answers[0] == answers[1]
        assert 0 in answers[0]


def _udp_steps(ask, taker):
    with socket.socket(AF_INET, SOCK_DGRAM) as sock, socket.socket(AF_INET, SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()
        closed.close()
        yield ask(sock, taker)
        yield sock.getpeername()
        yield ask(sock, nobody)
        sock.send(b"x")                     # answered by ICMP port unreachable
        poll_mask(sock, 1000, 0)
        yield ask(sock, taker)
        yield sock.getsockopt(SOL_SOCKET, SO_ERROR)
        yield ask(sock, UNSPEC)
        try:
            yield sock.getpeername()
        except OSError as error:
            yield error.errno
        yield ask(sock, SockAddr(b"\2\0"))
        yield ask(sock, ("255.255.255.255", 9))


def test_udp_connects_reconnects_and_dissolves(honest):
    with socket.socket(AF_INET, SOCK_DGRAM) as taker:
        taker.bind(("127.0.0.1", 0))

        def connect2(sock, address):
            raw = address.raw if isinstance(address, SockAddr) else sockaddr.pack(AF_INET, address)
            return -syscalls.connect(sock.fileno(), raw)

        expected = list(_udp_steps(connect2, taker.getsockname()))
        assert list(_udp_steps(asking(honest), taker.getsockname())) == expected


@pytest.mark.parametrize("world", ["tcp6"], indirect=True)
def test_inet6_addresses_of_two_three_and_four_parts(world, strategy):
    for address in (world.listening[:2], world.listening[:3], world.listening,
                    SockAddr(sockaddr.pack(AF_INET6, world.listening))):
        with world.unmanaged() as sock:
            connect(sock, address, strategy=strategy)
            assert sock.getpeername() == world.listening


def test_names_are_resolved(strategy, listener):
    with socket.socket() as sock:
        connect(sock, ("localhost", listener.getsockname()[1]), strategy=strategy)
        assert sock.getpeername() == listener.getsockname()


# -- errors ----------------------------------------------------------------------------------------
def test_errors_are_oserrors_with_the_address_in_the_message(strategy, refused):
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError) as caught:
        connect(sock, refused, strategy=strategy)
    assert caught.value.errno == ECONNREFUSED
    assert f"127.0.0.1:{refused[1]}" in str(caught.value)
    assert os.strerror(ECONNREFUSED) in str(caught.value)


@on_all_kinds
@pytest.mark.parametrize("given", ["argument", "socket", "both"])
def test_a_timeout_is_a_timeout_error_and_a_socket_timeout(world, strategy, given):
    full = world.name(world.full())
    sock = world.socket()
    if given != "argument":
        sock.settimeout(0.03 if given == "socket" else PATIENCE)
    elif world.kind not in ("tcp", "unix"):
        sock.setblocking(False)
    if strategy == "native" and world.family == AF_UNIX and not os.get_blocking(sock.fileno()):
        with pytest.raises(BlockingIOError):        # as the kernel says it: not a word about waiting
            connect(sock, full, strategy=strategy)
        return
    mode = sock.gettimeout(), os.get_blocking(sock.fileno())
    with pytest.raises(TimeoutError) as caught:
        connect(sock, full, None if given == "socket" else 0.03, strategy=strategy)
    assert (sock.gettimeout(), os.get_blocking(sock.fileno())) == mode
    assert isinstance(caught.value, socket.timeout)
    assert isinstance(caught.value, errors.ConnectTimeout)
    assert caught.value.errno is None
    assert str(caught.value) == f"connect to {sockaddr.format_address(full)}: timed out after 0.03 s"


@on_tcp_kinds
def test_after_a_timeout_the_handshake_goes_on_as_after_one_of_socket_connect(world, honest):
    full = world.name(world.full())
    sock = world.socket()
    for _ in range(3):
        assert asking(honest, 0.02)(sock, full) == "timed out"
    assert under_way(sock)
    sock.setblocking(False)
    assert world.connect2(sock, full) == EALREADY
    assert world.cells(sock)[1:2] == (errno.ENOTCONN,)


@pytest.mark.parametrize("timeout", [0, 0.0, 0.001, 5, 1e9])
def test_any_timeout_is_enough_on_loopback_where_there_is_nothing_to_wait_for(honest, listener, refused,
                                                                               timeout):
    with socket.socket() as sock:
        assert asking(honest, timeout)(sock, refused) == ECONNREFUSED
        connect(sock, listener.getsockname(), timeout, strategy=honest)


@pytest.mark.parametrize("timeout", [threading.TIMEOUT_MAX, 1e9])
def test_the_longest_timeouts_do_not_wrap_round(strategy, silent, timeout):
    with socket.socket() as sock, _Interruption(lambda: under_way(sock)):
        with pytest.raises(KeyboardInterrupt):
            connect(sock, silent, timeout, strategy=strategy)


@pytest.mark.parametrize("timeout", [0, 1e-9])
def test_a_timeout_of_nothing_ends_at_once(strategy, silent, timeout):
    with socket.socket() as sock:
        with pytest.raises(socket.timeout):
            connect(sock, silent, timeout, strategy=strategy)


def test_so_sndtimeo_is_honoured_as_by_connect_2(world, honest):
    full = world.name(world.full())

    def three(ask):
        sock = world.socket()
        sock.setsockopt(SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 30_000))
        return [ask(sock, full) for _ in range(3)], world.cells(sock)

    expected = undisturbed(three, world.connect2)
    assert expected[0] == [EINPROGRESS, EALREADY, EALREADY]
    assert three(asking(honest)) == expected


@pytest.mark.parametrize("world", ["unix", "seqpacket"], indirect=True)
def test_so_sndtimeo_of_a_full_unix_backlog_is_honoured_as_by_connect_2(world, honest):
    full = world.name(world.full())

    def two(ask):
        sock = world.socket()
        sock.setsockopt(SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 20_000))
        return [ask(sock, full) for _ in range(2)], world.cells(sock)

    expected = undisturbed(two, world.connect2)
    assert expected[0] == [EAGAIN, EAGAIN]
    assert two(asking(honest)) == expected


# -- waiting, and what ends it ---------------------------------------------------------------------
@pytest.mark.parametrize("world", ["unix", "seqpacket"], indirect=True)
@pytest.mark.parametrize("timeout", [None, PATIENCE])
@pytest.mark.parametrize("end, expected", [("accept", 0), ("close", ECONNREFUSED)])
def test_a_full_unix_backlog_is_waited_for(world, honest, mode, timeout, end, expected):
    full = world.full()
    address, sock = world.name(full), world.socket()
    mode(sock)
    with in_thread(asking(honest, timeout), sock, address) as answers:
        # A connect that waits shows nothing; so the end may come before it or after.
        if end == "accept":
            world.stack.enter_context(full.accept()[0])
        else:
            full.close()
    assert answers == [expected]


@on_tcp_kinds
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_shutdown_from_another_thread_ends_it_as_it_ends_connect_2(world, honest, timeout):
    # E9
    listening = world.full()
    full = world.name(listening)

    def steps(ask):
        sock, busy = world.socket(), None
        with in_thread(ask, sock, full) as answers:
            until(lambda: under_way(sock))
            wait_until_asleep(threading.enumerate()[-1])    # sooner: the next test
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError as error:        # E21: 5.10.218, 6.1.33 to 6.1.59, and the connect goes on
                busy = error
                listening.close()
        if busy is not None:
            pytest.skip(f"shutdown(2) while connect(2) waits: {busy}")
        return answers, world.cells(sock), world.connect2(sock, world.refused)

    expected = steps(world.connect2)
    if expected[0] == [EINTR] or expected[0] == [0]:
        pytest.skip(f"connect(2) itself gave {expected[0]}")
    assert steps(asking(honest, timeout)) == expected


def test_a_shutdown_at_any_moment_ends_it(world, honest):
    """E9: just after the SYN, before the thread that connects waits, it used to begin another connect."""
    if honest == "emulated" and "E9" in (pyuring.probe().connect or ()):
        pytest.skip("E9: where the shutdown meets the attempt itself, this kernel begins another connect")
    listening = world.full()
    full, busy = world.name(listening), None
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(200):
            with world.unmanaged() as sock, in_thread(asking(honest), sock, full) as answers:
                until(lambda: under_way(sock))
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError as error:        # E21, and the connect goes on
                    busy = error
                    listening.close()
            if busy is not None:
                pytest.skip(f"shutdown(2) while connect(2) waits: {busy}")
            assert answers == [ECONNRESET]
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("end, expected", [("closed", ECONNREFUSED), ("listening", 0)])
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "under way before"])
def test_a_late_outcome(world, end, expected, before, io_uring):
    # The accept queue is full, so the SYN is dropped; its retransmission, a second later, meets what
    # has become of the listener. E7, E10, E11; under way before: E13. All strategies in one second.
    full = world.full()
    address = world.name(full)
    asks = [world.connect2, asking("emulated"), asking("syscall"), asking("emulated", PATIENCE),
            asking("syscall", PATIENCE)]
    socks = [world.socket() for _ in asks]
    with contextlib.ExitStack() as stack:
        for sock in socks:
            if before:
                sock.setblocking(False)
                assert world.connect2(sock, address) == EINPROGRESS
                sock.setblocking(True)
        answers = [stack.enter_context(in_thread(ask, sock, address))
                   for ask, sock in zip(asks, socks)]
        until(lambda: all(under_way(sock) for sock in socks))
        if end == "closed":
            full.close()
        else:
            full.listen(128)
    assert answers == [[expected]] * len(asks)

    looks = []
    for sock in socks:
        looks.append((world.cells(sock), world.connect2(sock, world.refused), world.cells(sock)))
    assert looks == looks[:1] * len(looks)


def test_a_request_of_a_timed_out_connect_is_not_left_in_the_kernel(strategy, silent):
    # A request in flight would hold the socket open: its handshake would outlive close().
    sock = socket.socket()
    with pytest.raises(socket.timeout):
        connect(sock, silent, 0.02, strategy=strategy)
    port = sock.getsockname()[1]
    assert port in _ports_in_handshake(silent)
    sock.close()
    assert port not in _ports_in_handshake(silent)


def _ports_in_handshake(to):
    """The local ports of all handshakes with this address that are under way on this machine."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in list(file)[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows
            if int(row[3], 16) == SYN_SENT and int(row[2].split(":")[1], 16) == to[1]}


# -- native ----------------------------------------------------------------------------------------
@on_all_kinds
@pytest.mark.parametrize("scenario", [refused_thrice, connected_thrice])
def test_native_gives_what_the_kernel_gives(world, scenario, io_uring):
    def bare(sock, address):
        with Ring(2) as ring:
            ring.prep_connect(sock, address)
            ring.submit_and_wait(1)
            return -ring.reap()[0].res

    expected = list(scenario(world, world.socket(), bare))
    assert list(scenario(world, world.socket(), asking("native"))) == expected


# -- Ctrl-C ----------------------------------------------------------------------------------------
class _Interruption:
    """Raises KeyboardInterrupt in the main thread, again and again until it has arrived. Once is not
    enough: a signal that comes just before a system call begins does not end it."""

    def __init__(self, when):
        self.when, self.stop = when, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        until(self.when)
        while not self.stop.wait(0.02):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def _handler(self, *_):
        if not self.stop.is_set():
            self.stop.set()
            raise KeyboardInterrupt

    def __enter__(self):
        self.before = signal.signal(signal.SIGUSR1, self._handler)
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        signal.signal(signal.SIGUSR1, self.before)


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_ctrl_c_leaves_nothing_in_flight(strategy, silent, listener, timeout):
    fds = os.listdir("/proc/self/fd")
    sock = socket.socket()
    began = time.monotonic()
    with _Interruption(lambda: under_way(sock)):
        with pytest.raises(KeyboardInterrupt) as caught:
            connect(sock, silent, timeout, strategy=strategy)
    took = time.monotonic() - began
    assert caught.tb is not None        # while a traceback still holds all that there was
    assert os.get_blocking(sock.fileno())
    assert under_way(sock)              # as after a Ctrl-C in connect(2)
    port = sock.getsockname()[1]
    sock.close()
    assert port not in _ports_in_handshake(silent)        # no request holds it
    assert os.listdir("/proc/self/fd") == fds
    with socket.socket() as another:
        connect(another, listener.getsockname(), strategy=strategy)
    assert took < 1.5, "cancelling took its time"


@pytest.mark.parametrize("world", ["unix"], indirect=True)
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_ctrl_c_in_a_wait_for_a_full_unix_backlog_cancels_it(world, strategy, timeout):
    # In a ring this one waits in a worker thread of the kernel.
    full, sock = world.full(), world.socket()
    began = time.monotonic()
    with _Interruption(lambda: time.monotonic() > began + 0.05):
        with pytest.raises(KeyboardInterrupt):
            connect(sock, world.name(full), timeout, strategy=strategy)
    accepted = full.accept()[0]
    accepted.close()
    assert not poll_mask(full)          # nobody else came in
    connect(sock, world.name(full), strategy=strategy)


@pytest.mark.parametrize("raises", [False, True])
def test_a_signal_handler_that_returns_does_not_end_a_connect(strategy, silent, raises):
    calls = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        with socket.socket() as sock, pytest.raises(socket.timeout):
            connect(sock, silent, 0.1, strategy=strategy)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls


def test_a_signal_handler_may_itself_connect(strategy, silent, listener, refused):
    # While another connect waits in the same thread, and longer than that one has time.
    seen = []

    def handler(*_):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            seen.append([asking(strategy)(one, listener.getsockname()),
                         asking(strategy)(two, refused), asking(strategy, 0.2)(three, silent)])

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with socket.socket() as sock:
            assert asking(strategy, 0.1)(sock, silent) == "timed out"
        with socket.socket() as sock:
            assert asking(strategy)(sock, refused) == ECONNREFUSED
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == [[0, ECONNREFUSED, "timed out"]]


class _StopAfter:
    """Raises KeyboardInterrupt at the n-th opcode inside the package; `where` tells the line."""

    package = os.path.dirname(pyuring.__file__)

    def __init__(self, n):
        self.left, self.where = n, None

    def _opcode(self, frame):
        self.left -= 1
        if self.left == 0:
            self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
            raise KeyboardInterrupt

    if hasattr(sys, "monitoring"):          # 3.12, whose sys.settrace() misses opcodes
        def _instruction(self, code, offset):
            if not code.co_filename.startswith(self.package):
                return sys.monitoring.DISABLE
            return self._opcode(sys._getframe(1))

        def run(self, function):
            monitoring = sys.monitoring
            tool, instruction = monitoring.DEBUGGER_ID, monitoring.events.INSTRUCTION
            monitoring.use_tool_id(tool, "pyuring tests")
            monitoring.register_callback(tool, instruction, self._instruction)
            monitoring.set_events(tool, instruction)
            try:
                return function()
            finally:
                monitoring.set_events(tool, 0)
                monitoring.register_callback(tool, instruction, None)
                monitoring.free_tool_id(tool)
    else:
        def _called(self, frame, event, arg):
            if not frame.f_code.co_filename.startswith(self.package):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return self._traced

        def _traced(self, frame, event, arg):
            if event == "opcode":
                self._opcode(frame)
            return self._traced

        def run(self, function):
            sys.settrace(self._called)
            try:
                return function()
            finally:
                sys.settrace(None)


def _fds():
    return sorted(os.listdir("/proc/self/fd"), key=int)


@pytest.mark.parametrize("target", ["listener", "refused", "silent"])
def test_ctrl_c_at_any_opcode(target, strategy, request, listener, monkeypatch):
    # The thread has its ring already, as after its first connect; making one is tested below.
    address = request.getfixturevalue(target)
    address = address.getsockname() if target == "listener" else address
    expected = {"listener": {0, }, "refused": {ECONNREFUSED}, "silent": {"timed out"}}[target]
    ask = asking(strategy, 0.002 if target == "silent" else None)

    def warm_up():
        with socket.socket() as sock:
            connect(sock, listener.getsockname(), strategy=strategy)
        while True:         # as the accept queue is not for ever
            with contextlib.suppress(BlockingIOError):
                listener.setblocking(False)
                listener.accept()[0].close()
                continue
            return

    warm_up()
    fds = _fds()
    counter = _StopAfter(0)
    with socket.socket() as sock:
        assert counter.run(lambda: ask(sock, address)) in expected
    opcodes = -counter.left
    seed = time.time_ns()
    stride = 1 + opcodes // 400
    print(f"seed {seed}, {opcodes} opcodes, stride {stride}")
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_type))
    n, interrupted = 1 + random.Random(seed).randrange(stride), 0
    while n < opcodes + 20:
        stop = _StopAfter(n)
        sock = socket.socket()
        try:
            answer = stop.run(lambda: ask(sock, address))
        except KeyboardInterrupt:
            interrupted += 1
        else:
            assert answer in expected, (n, stop.where)
        where = f"opcode {n} at {stop.where}"
        assert os.get_blocking(sock.fileno()), where
        port = sock.getsockname()[1]
        sock.close()
        if target == "silent" and interrupted % 20 == 0:
            assert port not in _ports_in_handshake(address), where
        warm_up()
        if _fds() != fds:
            gc.collect()
            assert _fds() == fds, where
        n += stride
    assert interrupted > opcodes // stride // 3, "the test itself does not work"
    assert not [type_ for type_ in unraisable if type_ is not ResourceWarning]


def test_ctrl_c_at_any_opcode_while_the_thread_gets_its_ring(io_uring, listener, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    seed = time.time_ns()
    print(f"seed {seed}")
    fds, n, ended, lost = _fds(), 1 + random.Random(seed).randrange(7), False, []
    while not ended:
        vars(client._local).clear()
        stop = _StopAfter(n)
        with socket.socket() as sock:
            try:
                stop.run(lambda: connect(sock, listener.getsockname(), strategy="emulated"))
                ended = stop.where is None
            except KeyboardInterrupt:
                pass
        vars(client._local).clear()
        with contextlib.suppress(BlockingIOError):
            listener.setblocking(False)
            while True:
                listener.accept()[0].close()
        if _fds() != fds:
            gc.collect()
        for fd in set(_fds()) - set(fds):
            lost.append(stop.where)
            os.close(int(fd))
        n += 7
    print("lost at", lost)
    assert n > 700
    # Between io_uring_setup(2) and the assignment of its result, nobody knows the number.
    assert len(lost) <= 8, lost


# -- threads, fork ---------------------------------------------------------------------------------
def test_threads_have_rings_of_their_own_and_leave_nothing(strategy, listener, refused):
    listener.listen(256)
    fds, barrier, rings, answers = _fds(), threading.Barrier(8), [], []

    def work():
        barrier.wait(PATIENCE)
        for _ in range(10):
            with socket.socket() as one, socket.socket() as two:
                answers.append((asking(strategy)(one, listener.getsockname()),
                                asking(strategy)(two, refused)))
        if strategy != "syscall":
            rings.append(client._local.driver.ring.fd)
        barrier.wait(PATIENCE)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    refusals = {ECONNREFUSED, ECONNRESET} if strategy == "native" else {ECONNREFUSED}       # E10
    assert [(connected, refused in refusals) for connected, refused in answers] == [(0, True)] * 80
    assert len(set(rings)) == (0 if strategy == "syscall" else 8)
    assert _fds() == fds


def test_a_ring_stays_with_its_thread_and_is_used_again(io_uring, listener):
    rings = set()
    for _ in range(3):
        with socket.socket() as sock:
            connect(sock, listener.getsockname(), strategy="emulated")
        rings.add(client._local.driver)
    assert len(rings) == 1


def test_parent_and_child_both_connect_after_a_fork(strategy, listener, refused):
    with socket.socket() as sock:
        connect(sock, listener.getsockname(), strategy=strategy)
    pid = os.fork()
    if not pid:
        code = 1
        with contextlib.suppress(BaseException):
            for _ in range(3):
                with socket.socket() as sock:
                    connect(sock, listener.getsockname(), 5, strategy=strategy)
                with socket.socket() as sock:
                    assert asking(strategy, 5)(sock, refused) == ECONNREFUSED
            code = 0
        os._exit(code)
    for _ in range(3):
        with socket.socket() as sock:
            connect(sock, listener.getsockname(), 5, strategy=strategy)
        with socket.socket() as sock:
            assert asking(strategy, 5)(sock, refused) == ECONNREFUSED
    assert os.waitpid(pid, 0)[1] == 0


# -- bad input -------------------------------------------------------------------------------------
@pytest.fixture
def no_syscall(monkeypatch):
    def never(*_):
        raise AssertionError("the kernel was asked")

    for name in ("setup", "enter", "register", "connect"):
        monkeypatch.setattr(syscalls, name, never)


GOOD = ("127.0.0.1", 9)


@pytest.mark.parametrize("family, address, error, words", [
    (AF_INET, ("127.0.0.1", 70000), ValueError, "70000"), (AF_INET, ("127.0.0.1", -1), ValueError, "-1"),
    (AF_INET, ("127.0.0.1", "80"), TypeError, "80"), (AF_INET, ("127.0.0.1", 80.0), TypeError, "80.0"),
    (AF_INET, ("127.0.0.1", None), TypeError, "port"),
    (AF_INET, ("::1", 80), ValueError, "::1"), (AF_INET, ("::1", 80, 0, 0), TypeError, "shape"),
    (AF_INET, "127.0.0.1:80", TypeError, "shape"), (AF_INET, "/path", TypeError, "shape"),
    (AF_INET, None, TypeError, "None"), (AF_INET, ["127.0.0.1", 80], TypeError, "shape"),
    (AF_INET, (None, 80), TypeError, "host"), (AF_INET, ("a\0b", 80), ValueError, "NUL"),
    (AF_INET6, ("127.0.0.1", 80), ValueError, "127.0.0.1"), (AF_INET6, ("::1", 70000), ValueError, "70000"),
    (AF_INET6, ("::1", 80, 1 << 20), ValueError, "flowinfo"),
    (AF_INET6, ("::1", 80, 0, -1), ValueError, "scope"), (AF_INET6, "/path", TypeError, "shape"),
    (AF_UNIX, GOOD, TypeError, "AF_UNIX"), (AF_UNIX, None, TypeError, "AF_UNIX"),
    (AF_UNIX, 5, TypeError, "AF_UNIX"), (AF_UNIX, "a\0b", ValueError, "NUL"),
    (AF_UNIX, "x" * 108, ValueError, "108"), (AF_UNIX, b"\0" + b"x" * 108, ValueError, "109"),
], ids=repr)
def test_a_bad_address_is_told_before_the_kernel_is_asked(no_syscall, family, address, error, words):
    try:
        sock = socket.socket(family)
    except OSError as reason:
        pytest.skip(str(reason))
    with sock:
        for strategy in (None, *client.STRATEGIES):
            with pytest.raises(error, match=words):
                connect(sock, address, strategy=strategy)


@pytest.mark.parametrize("arguments, error, words", [
    ({"timeout": -1}, ValueError, "-1"), ({"timeout": -0.001}, ValueError, "timeout"),
    ({"timeout": float("nan")}, ValueError, "nan"), ({"timeout": float("inf")}, ValueError, "inf"),
    ({"timeout": 1e30}, ValueError, "timeout"), ({"timeout": "5"}, TypeError, "'5'"),
    ({"timeout": [5]}, TypeError, "timeout"), ({"timeout": 1j}, TypeError, "timeout"),
    ({"strategy": "fast"}, ValueError, "fast"), ({"strategy": ""}, ValueError, "strategy"),
    ({"strategy": b"native"}, ValueError, "strategy"),
], ids=repr)
def test_bad_arguments_are_told_before_the_kernel_is_asked(no_syscall, arguments, error, words):
    with socket.socket() as sock, pytest.raises(error, match=words):
        connect(sock, GOOD, **arguments)
    with pytest.raises(error, match=words):
        create_connection(GOOD, **arguments)
    with pytest.raises(error, match=words):
        connect_many([GOOD], **arguments)       # at the call, not at the first next()


@pytest.mark.parametrize("sock, error", [
    (None, TypeError), ("3", TypeError), (3.0, TypeError), (object(), TypeError), ([], TypeError)],
    ids=repr)
def test_what_is_no_socket_is_told_before_the_kernel_is_asked(no_syscall, sock, error):
    with pytest.raises(error, match="neither a socket nor a file descriptor"):
        connect(sock, GOOD)


def test_a_closed_socket_is_told_before_the_kernel_is_asked(no_syscall):
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError, match="closed"):
        connect(sock, GOOD)


def test_a_tls_socket_is_refused_before_the_kernel_is_asked(no_syscall):
    ssl = pytest.importorskip("ssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with context.wrap_socket(socket.socket(), server_hostname="localhost") as sock:
        with pytest.raises(TypeError, match="TLS"):
            connect(sock, GOOD)


def test_a_subclass_of_socket_is_a_socket(strategy, listener):
    class Mine(socket.socket):
        pass

    with Mine() as sock:
        connect(sock, listener.getsockname(), strategy=strategy)
        assert sock.getpeername() == listener.getsockname()


@pytest.mark.parametrize("arguments, error", [
    ({"concurrency": 0}, ValueError), ({"concurrency": -1}, ValueError), ({"concurrency": 1.5}, ValueError),
    ({"concurrency": None}, ValueError)], ids=repr)
def test_bad_arguments_of_connect_many(no_syscall, arguments, error):
    with pytest.raises(error):
        connect_many([GOOD], **arguments)
    with pytest.raises(TypeError):
        connect_many(5)


@pytest.mark.parametrize("address, error", [
    ("127.0.0.1:80", TypeError), (("127.0.0.1",), TypeError), (("127.0.0.1", 80, 0), TypeError),
    (("127.0.0.1", 80.0), TypeError), (("127.0.0.1", 65536), ValueError), (None, TypeError)], ids=repr)
def test_a_bad_address_of_create_connection(no_syscall, address, error):
    with pytest.raises(error):
        create_connection(address)
    with pytest.raises(ValueError):
        create_connection(GOOD, happy_eyeballs_delay=-1)


def test_connect_is_audited_as_socket_connect_is():
    # Hooks can't be taken off again: a child.
    _child("""
        events = []
        sys.addaudithook(lambda name, args: events.append(args) if name == "socket.connect" else None)
        pyuring.connect(sock, address, strategy="syscall")
        assert events == [(sock, address)], events
        list(pyuring.connect_many([address]))
        assert [args[1] for args in events] == [address] * 2
        """)


# -- create_connection -----------------------------------------------------------------------------
def test_create_connection_gives_a_connected_socket(strategy, listener):
    for host in ("127.0.0.1", "localhost"):
        with create_connection((host, listener.getsockname()[1]), strategy=strategy) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert sock.gettimeout() is None


@pytest.mark.parametrize("default", [None, 3.0])
@pytest.mark.parametrize("timeout", [None, 5, 0.5])
def test_create_connection_leaves_its_timeout_on_the_socket(strategy, listener, default, timeout):
    socket.setdefaulttimeout(default)
    try:
        with create_connection(listener.getsockname(), timeout, strategy=strategy) as sock:
            assert sock.gettimeout() == (timeout if timeout is not None else default)
    finally:
        socket.setdefaulttimeout(None)


def test_create_connection_with_no_time_ends_at_once(strategy, silent):
    for timeout in (0, 0.01):
        with pytest.raises(socket.timeout):
            create_connection(silent, timeout, strategy=strategy)


def test_create_connection_binds_its_source_address(strategy, listener):
    with create_connection(listener.getsockname(), source_address=("127.0.0.2", 0),
                           strategy=strategy) as sock:
        assert sock.getsockname()[0] == "127.0.0.2"


def _resolving(monkeypatch, *found):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [
        (family, SOCK_STREAM, proto, "", address) for family, proto, address in found])


def test_create_connection_tries_all_that_a_name_resolves_to(strategy, listener, refused, monkeypatch):
    _resolving(monkeypatch, (AF_INET, 6, refused), (12345, 0, None), (AF_INET, 6, refused),
               (AF_INET, 6, listener.getsockname()))
    with create_connection(("some.name", 1), strategy=strategy) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_create_connection_raises_the_last_error(strategy, refused, silent, monkeypatch):
    _resolving(monkeypatch, (AF_INET, 6, silent), (AF_INET, 6, refused))
    with pytest.raises(ConnectionRefusedError):
        create_connection(("some.name", 1), 0.01, strategy=strategy)
    _resolving(monkeypatch, (AF_INET, 6, refused), (AF_INET, 6, silent))
    with pytest.raises(socket.timeout):
        create_connection(("some.name", 1), 0.01, strategy=strategy)


def test_create_connection_raises_all_errors_where_that_can_be(strategy, refused, silent, monkeypatch):
    _resolving(monkeypatch, (AF_INET, 6, silent), (AF_INET, 6, refused))
    expected = Exception if sys.version_info < (3, 11) else ExceptionGroup      # noqa: F821
    with pytest.raises(expected) as caught:
        create_connection(("some.name", 1), 0.01, all_errors=True, strategy=strategy)
    if sys.version_info >= (3, 11):
        assert [type(error) for error in caught.value.exceptions] == [
            errors.ConnectTimeout, ConnectionRefusedError]
    else:
        assert isinstance(caught.value, ConnectionRefusedError)


@pytest.mark.parametrize("found, order", [
    ("", ""), ("a", "a"), ("aab", "aba"), ("abab", "abab"), ("baaab", "babaa"), ("aaabbc", "abcaba")])
def test_families_take_turns(found, order):
    families = dict(zip("abc", (AF_INET6, AF_INET, AF_UNIX)))
    answers = [(families[letter], number) for number, letter in enumerate(found)]
    turns = client._interleave(answers)
    assert sorted(turns) == sorted(answers)
    assert [family for family, _ in turns] == [families[letter] for letter in order]
    for family in families.values():
        numbers = [number for its, number in turns if its == family]
        assert numbers == sorted(numbers)


def test_the_next_address_is_tried_while_the_first_is_silent(strategy, listener, silent, monkeypatch):
    _resolving(monkeypatch, (AF_INET, 6, silent), (AF_INET, 6, silent), (AF_INET, 6, listener.getsockname()))
    before = _ports_in_handshake(silent)
    for delay in 0.01, 0:
        with create_connection(("some.name", 1), happy_eyeballs_delay=delay, strategy=strategy) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert sock.gettimeout() is None
            assert os.get_blocking(sock.fileno())
            assert _ports_in_handshake(silent) <= before        # the losers are gone already
    with create_connection(listener.getsockname(), strategy=strategy):      # and another works as ever
        pass


def test_a_failure_does_not_wait_for_the_delay(strategy, listener, refused, monkeypatch):
    _resolving(monkeypatch, (AF_INET, 6, refused), (AF_INET, 6, listener.getsockname()))
    with create_connection(("some.name", 1), happy_eyeballs_delay=1e6, strategy=strategy):
        pass


def test_tries_begin_one_delay_after_the_other(strategy, silent, monkeypatch):
    _resolving(monkeypatch, *[(AF_INET, 6, silent)] * 3)
    begun = []

    def audit(name, arguments):
        if name == "socket.connect" and enabled:
            begun.append(time.monotonic())
    enabled = [True]
    sys.addaudithook(audit)
    with pytest.raises(TimeoutError if sys.version_info >= (3, 10) else socket.timeout):
        create_connection(("some.name", 1), 0.2, happy_eyeballs_delay=0.03, strategy=strategy)
    enabled.clear()
    assert len(begun) == 3
    assert begun[1] - begun[0] >= 0.03
    assert begun[2] - begun[1] >= 0.03


def test_without_a_delay_each_has_its_time_alone(strategy, silent, listener, monkeypatch):
    _resolving(monkeypatch, (AF_INET, 6, silent), (AF_INET, 6, listener.getsockname()))
    began = time.monotonic()
    with create_connection(("some.name", 1), 0.1, happy_eyeballs_delay=None, strategy=strategy) as sock:
        assert sock.gettimeout() == 0.1
    assert time.monotonic() - began >= 0.1


def test_all_errors_come_in_the_order_of_the_addresses(strategy, silent, refused, monkeypatch):
    _resolving(monkeypatch, (AF_INET, 6, silent), (AF_INET, 6, refused))
    with pytest.raises(ConnectionRefusedError):         # the last address's, not the last to fail
        create_connection(("some.name", 1), 0.05, happy_eyeballs_delay=0.001, strategy=strategy)
    if sys.version_info >= (3, 11):
        with pytest.raises(Exception) as caught:
            create_connection(("some.name", 1), 0.05, happy_eyeballs_delay=0.001, strategy=strategy,
                              all_errors=True)
        assert [type(error) for error in caught.value.exceptions] == [
            errors.ConnectTimeout, ConnectionRefusedError]


def test_ctrl_c_while_several_are_tried_leaves_nothing(strategy, silent, monkeypatch):
    _resolving(monkeypatch, *[(AF_INET, 6, silent)] * 3)
    fds, ports = _fds(), _ports_in_handshake(silent)
    # Those of the fixture's own end after two minutes.
    with _Interruption(lambda: len(_ports_in_handshake(silent) - ports) >= 3):
        with pytest.raises(KeyboardInterrupt):
            create_connection(("some.name", 1), happy_eyeballs_delay=0.01, strategy=strategy)
    assert _fds() == fds
    assert not _ports_in_handshake(silent) - ports


def test_create_connection_of_a_name_without_addresses_is_an_oserror(strategy, monkeypatch):
    _resolving(monkeypatch)
    for all_errors in (False, True):
        with pytest.raises(OSError, match="some.name"):
            create_connection(("some.name", 1), all_errors=all_errors, strategy=strategy)


def test_the_port_of_create_connection_may_be_a_service_or_none(strategy, monkeypatch):
    asked, real = [], socket.getaddrinfo

    def getaddrinfo(host, port, *arguments):
        asked.append(port)
        return real(host, port, *arguments)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for port in "65534", b"65534", None:
        with pytest.raises(ConnectionRefusedError):
            create_connection(("127.0.0.1", port), strategy=strategy)
    assert asked == ["65534", b"65534", None]
    with pytest.raises(socket.gaierror, match="^.Errno -8. connect to 127.0.0.1:no-such-service: "):
        create_connection(("127.0.0.1", "no-such-service"), strategy=strategy)


@pytest.mark.parametrize("source", [5, "10.0.0.1", ("10.0.0.1",), ("10.0.0.1", 1, 2), ("10.0.0.1", "80")])
def test_a_source_address_that_is_none_is_named(source):
    with pytest.raises(TypeError, match="source_address .* is not a pair|port '80' is not an integer"):
        create_connection(("127.0.0.1", 9), source_address=source)


@pytest.mark.parametrize("delay, error", [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_a_bad_happy_eyeballs_delay_is_named(delay, error):
    with pytest.raises(error, match="happy_eyeballs_delay"):
        create_connection(("127.0.0.1", 9), happy_eyeballs_delay=delay)


def test_what_stands_in_the_way_of_create_connection_comes_with_the_address(strategy, monkeypatch):
    with pytest.raises(OSError, match="connect to 127.0.0.1:9 from 192.0.2.1:0: ") as caught:
        create_connection(("127.0.0.1", 9), source_address=("192.0.2.1", 0), strategy=strategy)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with pytest.raises(socket.gaierror, match="connect to 127.0.0.1:9 from .::1.:0: "):
        create_connection(("127.0.0.1", 9), source_address=("::1", 0), strategy=strategy)
    for code in errno.EMFILE, errno.ENFILE:
        def full(*_, code=code, **__):
            raise OSError(code, "no address in here")
        with monkeypatch.context() as patch, pytest.raises(OSError, match="connect to 127.0.0.1:9: ") as caught:
            patch.setattr(socket, "socket", full)
            create_connection(("127.0.0.1", 9), strategy=strategy)
        assert caught.value.errno == code


def test_a_name_that_does_not_resolve_is_a_gaierror(strategy, monkeypatch):
    def getaddrinfo(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(sockaddr, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror):
        create_connection(("name.invalid", 80), strategy=strategy)
    with socket.socket() as sock, pytest.raises(socket.gaierror):
        connect(sock, ("name.invalid", 80), strategy=strategy)
    outcome, = connect_many([("name.invalid", 80)], strategy=strategy)
    assert isinstance(outcome.error, socket.gaierror)
    assert outcome.address == ("name.invalid", 80)
    assert not outcome.ok


def test_no_cycle_keeps_a_failed_create_connection_alive(strategy, refused):
    gc.disable()
    try:
        gc.collect()
        try:
            create_connection(refused, strategy=strategy)
        except ConnectionRefusedError:
            pass
        assert gc.collect() == 0
    finally:
        gc.enable()


# -- children: limits, filters ---------------------------------------------------------------------
def _child(code, **environment):
    """Run `code` in a child, with warnings as errors. It finds: sock, address (listening), listener,
    refused (an address), pyuring."""
    prelude = textwrap.dedent("""
        import contextlib, errno, os, resource, socket, sys
        import pyuring, seccomp
        from pyuring import client
        from pyuring.errors import RingUnavailable
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        address = listener.getsockname()
        deaf = socket.socket()
        deaf.bind(("127.0.0.1", 0))
        refused = deaf.getsockname()
        sock = socket.socket()
        """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning",
         "-c", prelude + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
    return done.stdout


_LIMIT = """
    def descriptors(count):
        lowest = os.dup(0)
        os.close(lowest)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    """


@pytest.mark.parametrize("left", range(6))
def test_connect_works_with_hardly_a_descriptor_left(left):
    # A ring takes three: its own, and one for each of its two maps.
    _child(_LIMIT + f"""
    descriptors({left})
    pyuring.connect(sock, address)
    try:
        pyuring.connect(sock, address)
    except OSError as error:
        assert error.errno == errno.EISCONN
    else:
        raise AssertionError
    """)


def test_an_explicit_strategy_without_a_descriptor_says_so(io_uring):
    for left in (0, 1, 2):
        _child(_LIMIT + f"""
    descriptors({left})
    for strategy in ("emulated", "native"):
        try:
            pyuring.connect(sock, address, strategy=strategy)
        except RingUnavailable as error:
            assert (error.errno, error.cause) == (errno.EMFILE, "nofile"), error
            assert error.remedy
        else:
            raise AssertionError
    pyuring.connect(sock, address, strategy="syscall")
    """)


@pytest.mark.parametrize("strategy_", [None, "emulated", "syscall"])
def test_connect_many_makes_do_with_few_descriptors(strategy_):
    if strategy_ == "emulated":
        with contextlib.suppress(errors.RingUnavailable):
            Ring(1).close()
            _few_descriptors(strategy_)
        return
    _few_descriptors(strategy_)


def _few_descriptors(strategy):
    _child(_LIMIT + f"""
    descriptors(8)
    outcomes = list(pyuring.connect_many([address, refused] * 50, timeout=10, strategy={strategy!r}))
    assert sum(outcome.ok for outcome in outcomes) == 50, outcomes
    assert sum(isinstance(outcome.error, ConnectionRefusedError) for outcome in outcomes) == 50, outcomes
    kept = list(pyuring.connect_many([address] * 10, timeout=10, keep=True, strategy={strategy!r}))
    assert len(kept) == 10
    assert {{error.errno for _, error, _, _ in kept if error}} == {{errno.EMFILE}}, kept
    assert any(outcome.ok for outcome in kept)
    """)


_FILTER = """
    def filter(name):
        try:
            seccomp.block(getattr(errno, name))
        except OSError as error:
            print(f"no seccomp filter can be installed: {error}")
            sys.exit(77)
    """


@pytest.mark.parametrize("code", ["EPERM", "ENOSYS"])
def test_behind_a_seccomp_filter_plain_system_calls_do_it(io_uring, code):
    _child(_FILTER + f"""
    filter({code!r})
    for _ in range(2):
        with socket.socket() as sock:
            pyuring.connect(sock, address)
            assert sock.getpeername() == address
        with socket.socket() as sock:
            try:
                pyuring.connect(sock, refused)
            except ConnectionRefusedError:
                pass
            else:
                raise AssertionError
    assert all(outcome.ok for outcome in pyuring.connect_many([address] * 3))
    pyuring.create_connection(address).close()
    other = socket.socket()
    for strategy in ("emulated", "native"):
        for call in (lambda: pyuring.connect(other, address, strategy=strategy),
                     lambda: pyuring.create_connection(address, strategy=strategy),
                     lambda: list(pyuring.connect_many([address], strategy=strategy))):
            try:
                call()
            except RingUnavailable as error:
                assert error.errno == errno.{code}
                assert error.cause == "seccomp", error.cause
                assert "seccomp" in error.remedy and "425" in error.remedy, error.remedy
            else:
                raise AssertionError(strategy)
    pyuring.connect(socket.socket(), address, strategy="syscall")
    """)


@pytest.mark.parametrize("code", ["EPERM", "ENOSYS"])
def test_a_filter_that_comes_after_the_ring_changes_nothing_for_the_default(io_uring, code):
    _child(_FILTER + f"""
    pyuring.connect(sock, address, strategy="emulated")
    filter({code!r})
    for _ in range(2):
        with socket.socket() as sock:
            pyuring.connect(sock, address, 5)
            assert sock.getpeername() == address
    with socket.socket() as sock:
        try:
            pyuring.connect(sock, refused)
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError
    """)


@pytest.mark.parametrize("code", ["EPERM", "ENOSYS"])
def test_a_filter_that_comes_after_the_ring_is_told_to_who_insists(io_uring, code):
    _child(_FILTER + f"""
    pyuring.connect(sock, address, strategy="emulated")
    filter({code!r})
    for _ in range(2):
        with socket.socket() as sock:
            try:
                pyuring.connect(sock, address, strategy="emulated")
            except RingUnavailable as error:
                assert error.cause == "seccomp"
            else:
                raise AssertionError
    """)


def test_a_kernel_whose_ring_does_not_copy_at_submission_is_not_used(monkeypatch, listener):
    closed = []

    class Old:
        features, fd = 0, 3

        def __init__(self, *_, **__):
            pass

        prep_nop = submit_and_wait = reap = __init__

        def close(self):
            closed.append(self)

    monkeypatch.setattr(client, "Ring", Old)
    with socket.socket() as sock:
        connect(sock, listener.getsockname())
    with socket.socket() as sock, pytest.raises(errors.RingUnavailable, match="5.5") as caught:
        connect(sock, listener.getsockname(), strategy="emulated")
    assert caught.value.cause == "missing"
    assert len(closed) == 2


def test_what_the_kernel_refused_for_good_is_not_asked_again(monkeypatch, listener):
    asked = []
    monkeypatch.setattr(client, "_refused", None)

    def refuse(code):
        def setup(*_):
            asked.append(code)
            return -code
        monkeypatch.setattr(syscalls, "setup", setup)

    def connects():
        with socket.socket() as sock:
            connect(sock, listener.getsockname())

    refuse(errno.ENOMEM)            # may pass
    connects()
    connects()
    assert asked == [errno.ENOMEM] * 2
    asked.clear()
    refuse(errno.EPERM)
    connects()
    connects()
    assert asked == [errno.EPERM]


def test_any_refusal_of_setup_leaves_plain_system_calls(listener):
    # EINVAL, say, which is none of the errnos that io_uring_setup(2) gives for being blocked.
    code = f"""
import errno, socket, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
import seccomp
seccomp.block(errno.EINVAL)
import pyuring
with socket.socket() as sock:
    pyuring.connect(sock, {listener.getsockname()!r})
    assert sock.getpeername() == {listener.getsockname()!r}
assert [outcome.ok for outcome in pyuring.connect_many([{listener.getsockname()!r}])] == [True]
try:
    pyuring.connect(socket.socket(), {listener.getsockname()!r}, strategy="emulated")
except pyuring.RingUnavailable as error:
    assert error.cause == "unknown", error
else:
    raise AssertionError
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_an_int_needs_no_descriptor_more(listener):
    code = f"""
import os, resource, socket, sys
sys.path.insert(0, {str(ROOT)!r})
import pyuring
sock = socket.socket()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
pyuring.connect(sock.fileno(), {listener.getsockname()!r})
assert sock.getpeername() == {listener.getsockname()!r}
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                            stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("fd", [-1, 10**6])
def test_an_int_that_is_no_descriptor_is_named(fd):
    with pytest.raises(OSError, match=rf"connect to 127\.0\.0\.1:9 on fd {fd}: Bad file") as caught:
        connect(fd, ("127.0.0.1", 9))
    assert caught.value.errno == errno.EBADF


def test_what_could_not_be_an_argument_is_refused_early():
    with pytest.raises(ValueError, match=str(2**40)):
        connect(2**40, ("127.0.0.1", 9))
    with pytest.raises(TypeError, match="one address"):
        pyuring.connect_many("127.0.0.1:80")
    with pytest.raises(ValueError, match="99999"):
        pyuring.create_connection(("127.0.0.1", 9), source_address=("127.0.0.1", 99999))
