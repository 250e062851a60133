"""scenarios_other.py - what a connect meets besides a TCP port on loopback: AF_UNIX paths and names, UDP,
addresses that make no sense, things that are not sockets.

Read scenarios.py first; read next: scenarios_network.py.
"""
import contextlib
import os
import select
import socket
import struct
import threading
import time
from pathlib import Path
from socket import (
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, IPPROTO_ICMP, IPPROTO_IPV6, IPPROTO_TCP,
    IPV6_V6ONLY, MSG_NOSIGNAL, SHUT_RD, SHUT_RDWR, SO_BINDTODEVICE, SO_BROADCAST, SO_LINGER,
    SO_PASSCRED, SO_REUSEADDR, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SOL_SOCKET,
)

from networks import CLONE_FS, ELSEWHERE, check, libc, network
from parity import LIMIT, TCP, UDP, UNIX, UNIX_STREAM, Stage, listen, look, scenario
from pyuring import sockaddr
from pyuring.driver import RingDriver
from pyuring.sockaddr import UNSPEC, SockAddr
from scenarios import STREAM, patience

INET = (*TCP, *UDP)
ANY = (*INET, *UNIX)
TCP_PLAIN = ("tcp4", "tcp6")


def family_only(family):
    return SockAddr(struct.pack("=H", family))


def unix(path):
    """A sockaddr_un with just these bytes for a path."""
    return SockAddr(struct.pack("=H", AF_UNIX) + path)


def troupe(stage, kind):
    """A stage of another kind beside this one, for servers that the client's kind can't make."""
    return stage.enter_context(Stage(kind, stage.way))


def any_server(stage):
    """Somewhere to connect to, be it a stream or not."""
    return stage.bound() if stage.kind in (*UDP, "unixdgram") else stage.listener()


def port_of(sock):
    return sock.getsockname()[1]


def bound_client(stage):
    """A client with a port, or a path, of its own choice."""
    stage.sock = stage.bound()
    stage.servers.remove(stage.sock)
    return stage.sock


# -- AF_UNIX: names ------------------------------------------------------------------------------------
@scenario(*UNIX)
def unix_missing_path(stage):
    stage.client()
    stage.connect(stage.name(), times=2)
    server = stage.bound()
    if stage.kind != "unixdgram":
        server.listen()
    stage.connect(server)


@scenario(*UNIX)
def unix_below_a_file(stage):
    """ENOTDIR."""
    path = stage.name()
    Path(path).touch()
    stage.client()
    stage.connect(path + "/x", times=2)


@scenario(*UNIX)
def unix_regular_file(stage):
    path = stage.name()
    Path(path).touch()
    stage.client()
    stage.connect(path, times=2)


@scenario(*UNIX)
def unix_directory(stage):
    stage.client()
    stage.connect(os.path.dirname(stage.name()), times=2)


@scenario(*UNIX)
def unix_symbolic_links(stage):
    """To a socket, to nothing, to itself (ELOOP)."""
    server = any_server(stage)
    for target in ("nothing", "itself", server.getsockname()):
        link = stage.name() + "-" + os.path.basename(target)
        os.symlink(link if target == "itself" else target, link)
        stage.client()
        stage.connect(link)


@scenario(*UNIX)
def unix_stale_file(stage):
    """The socket is gone, its file is still there."""
    server = any_server(stage)
    path = server.getsockname()
    server.close()
    stage.client()
    stage.connect(path, times=2)


@scenario(*UNIX)
def unix_file_removed(stage):
    """The other way round."""
    server = any_server(stage)
    path = server.getsockname()
    os.rename(path, path + "-moved")
    stage.client()
    stage.connect(path)
    stage.connect(path + "-moved")


@scenario(*UNIX)
def unix_unknown_abstract_name(stage):
    stage.client()
    stage.connect(b"\0pyuring has no such name", times=2)


@scenario(*UNIX)
def unix_abstract_name(stage):
    """A name of the kernel's own choice, and the same with one byte more."""
    server = stage.make()
    server.bind("")
    if stage.kind != "unixdgram":
        server.listen()
    stage.client()
    stage.connect(server.getsockname() + b"\0")
    stage.connect(server, times=2)


@scenario(*UNIX)
def unix_empty_name(stage):
    stage.client()
    stage.connect(family_only(AF_UNIX), times=2)


@scenario(*UNIX)
def unix_too_long(stage):
    """110 bytes are a sockaddr_un, 111 are too many."""
    for size in 109, 108:
        stage.client()
        stage.connect(unix(b"x" * size), times=2)


@scenario(*UNIX)
def unix_path_with_and_without_nul(stage):
    """unix(7), BUGS: a path need not end in NUL. What comes after a NUL does not count."""
    path = os.fsencode(any_server(stage).getsockname())
    for end in b"", b"\0", b"\0more":
        stage.client()
        stage.connect(unix(path + end))


@scenario(*UNIX_STREAM, slow=True)
def unix_full_backlog_nonblocking(stage):
    """E16: EAGAIN, until there is room."""
    server = stage.silent()
    stage.client(blocking=False)
    pending = stage.begin(server)
    stage.accept(server)
    pending.finish()
    stage.empty(server)         # connected or not, a socket must not find it full
    stage.connect(server, times=2)


@scenario(*UNIX, slow=True)
def unix_relative_path(stage):
    """E17."""
    server = any_server(stage)
    stage.client()
    apart(stage, lambda: stage.connect(os.path.basename(server.getsockname()), times=2))


@scenario(*UNIX_STREAM, slow=True)
def unix_relative_path_full_backlog(stage):
    """E17: a worker thread may look the name up, from its own current directory."""
    def play():
        pending = stage.begin(os.path.basename(server.getsockname()))
        stage.empty(server)
        pending.finish()
    server = stage.silent()
    stage.client()
    apart(stage, play)


def apart(stage, play):
    """Do something in the stage's folder: in a thread that has a current directory of its own."""
    problems = []

    def run():
        try:
            check(libc.unshare(CLONE_FS), "unshare(CLONE_FS)")
            os.chdir(stage.folder)
            play()
        except Exception as error:
            problems.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]


@scenario(*UNIX)
def unix_permission_denied(stage):
    server = any_server(stage)
    os.chmod(server.getsockname(), 0)
    stage.client()
    with as_nobody():
        stage.connect(server, times=2)
    os.chmod(server.getsockname(), 0o777)
    stage.connect(server)


@contextlib.contextmanager
def as_nobody():
    """Have this thread, where it is root's, look at files as somebody who may not read them all."""
    before = libc.setfsuid(65534) if os.geteuid() == 0 else None
    try:
        yield
    finally:
        if before is not None:
            libc.setfsuid(before)


# -- AF_UNIX: who is there -----------------------------------------------------------------------------
@scenario(*UNIX)
def unix_wrong_type(stage):
    """EPROTOTYPE, from the two types that it is not; then a server of its own."""
    stage.client()
    for kind in UNIX:
        if kind != stage.kind:
            stage.connect(any_server(troupe(stage, kind)))
    stage.connect(any_server(stage))


@scenario(*UNIX_STREAM)
def unix_bound_client(stage):
    bound_client(stage)
    server = stage.bound()
    stage.connect(server)
    server.listen()
    stage.connect(server, times=2)


@scenario(*UNIX)
def unix_to_itself(stage):
    bound_client(stage)
    stage.connect(stage.sock, times=2)


@scenario(*UNIX)
def unix_gets_a_name(stage):
    """unix(7): SO_PASSCRED binds it to a name, while it connects."""
    stage.client().setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
    stage.connect(any_server(stage), times=2)


@scenario(*UNIX_STREAM)
def unix_listener_is_shut_down(stage):
    server = stage.listener()
    server.shutdown(SHUT_RD)
    stage.client()
    stage.connect(server, times=2)


@scenario(*UNIX)
def unix_shut_down_client(stage):
    stage.call("shutdown", stage.client().shutdown, SHUT_RDWR)
    stage.connect(any_server(stage), times=2)


@scenario(*UNIX_STREAM)
def unix_unspec(stage):
    """EINVAL: a stream can't be dissolved."""
    server = stage.listener()
    stage.client()
    stage.connect(SockAddr(UNSPEC))
    stage.connect(server)
    stage.connect(SockAddr(UNSPEC))
    stage.connect(family_only(0))
    stage.connect(server)


@scenario(*UNIX)
def unix_pair(stage):
    """Connected by socketpair(2)."""
    stage.sock, other = map(stage.enter_context, socket.socketpair(stage.family, stage.type))
    stage.connect(any_server(stage), times=2)


@scenario("unixdgram")
def unixdgram_dissolves_and_connects_again(stage):
    first, second = stage.bound(), stage.bound()
    stage.client()
    stage.connect(first, times=2)
    stage.connect(second)
    stage.connect(SockAddr(UNSPEC), times=2)
    stage.call("send", stage.sock.send, b"x")
    stage.connect(first)
    stage.connect(family_only(0))


@scenario("unixdgram")
def unixdgram_peer_has_another_peer(stage):
    """EPERM: who is connected takes nothing from others."""
    server, other = stage.bound(), stage.bound()
    server.connect(other.getsockname())
    stage.client()
    stage.connect(server, times=2)
    stage.connect(other)


@scenario("unixdgram")
def unixdgram_peer_closes(stage):
    server, other = stage.bound(), stage.bound()
    stage.client()
    stage.connect(server)
    address = stage.address(server)
    server.close()
    stage.connect(address)
    stage.call("send", stage.sock.send, b"x")
    stage.connect(address)
    stage.connect(other)


# -- UDP ---------------------------------------------------------------------------------------------------
@scenario(*UDP)
def udp_connects_again(stage):
    first, second = stage.bound(), stage.bound()
    stage.client()
    stage.connect(first, times=2)
    stage.connect(second)
    stage.connect(second, sock=first)
    stage.call("send", stage.sock.send, b"x")


@scenario(*UDP)
def udp_dissolves(stage):
    server = stage.bound()
    stage.client()
    for address in SockAddr(UNSPEC), family_only(0):
        stage.connect(address)
        stage.connect(server)
        stage.connect(address, times=2)
        stage.call("send", stage.sock.send, b"x")


@scenario(*UDP)
def udp_bound_client(stage):
    bound_client(stage)
    stage.connect(stage.bound())
    stage.connect(SockAddr(UNSPEC))
    stage.connect(stage.sock)


@scenario(*UDP)
def udp_pending_error(stage):
    """connect does not take what an earlier datagram met."""
    server, other = stage.bound(), stage.bound()
    address = stage.address(server)
    server.close()
    stage.client()
    stage.connect(address)
    stage.call("send", stage.sock.send, b"x")
    wait_for(stage.sock, select.POLLERR)
    stage.connect(other)
    stage.connect(SockAddr(UNSPEC))
    stage.connect(address)


@scenario(*UDP)
def udp_pending_error_is_taken(stage):
    server = stage.bound()
    address = stage.address(server)
    server.close()
    stage.client()
    stage.connect(address)
    for _ in range(2):
        stage.call("send", stage.sock.send, b"x")
        wait_for(stage.sock, select.POLLERR)
        stage.connect(address)
        stage.so_error()


@scenario(*UDP)
def udp_shut_down(stage):
    stage.call("shutdown", stage.client().shutdown, SHUT_RDWR)
    stage.connect(stage.bound(), times=2)
    stage.call("shutdown", stage.sock.shutdown, SHUT_RDWR)
    stage.connect(stage.bound())


@scenario(*UDP)
def udp_nonblocking(stage):
    stage.client(blocking=False)
    stage.connect(stage.bound(), times=2)


@scenario("udp4")
def udp_broadcast(stage):
    """EACCES without SO_BROADCAST, or ENETUNREACH without a route."""
    stage.client()
    stage.connect(("255.255.255.255", 9), times=2)
    stage.connect(("127.255.255.255", 9))
    stage.sock.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)
    stage.connect(("127.255.255.255", 9))


@scenario(*UDP)
def udp_port_0(stage):
    stage.client()
    stage.connect((stage.host, 0), times=2)
    stage.call("send", stage.sock.send, b"x")


@scenario(*UDP)
def udp_any_address(stage):
    stage.client()
    stage.connect(("", port_of(stage.bound())), times=2)


def wait_for(sock, events):
    """Wait for what another thread of the kernel is about to do."""
    poll = select.poll()
    poll.register(sock, events)
    poll.poll(LIMIT * 1000)


# -- TCP: where to -------------------------------------------------------------------------------------
@scenario(*TCP)
def tcp_any_address(stage):
    """0.0.0.0 and :: mean this machine."""
    server = stage.bound()
    stage.client()
    stage.connect(("", port_of(server)), times=2)
    server.listen()
    stage.connect(("", port_of(server)), times=2)


@scenario(*TCP)
def tcp_port_0(stage):
    stage.client()
    stage.connect((stage.host, 0), times=2)
    stage.connect(("", 0))


@scenario("tcp4", "mptcp4")
def tcp_to_many(stage):
    """Broadcast and multicast."""
    stage.client()
    for host in "255.255.255.255", "127.255.255.255", "224.0.0.1":
        stage.connect((host, 9), times=2)


@scenario("tcp6")
def tcp_to_many_ipv6(stage):
    stage.client()
    for host in "ff02::1", "ff01::1":
        stage.connect((host, 9), times=2)


@scenario("tcp6", "udp6")
def link_local_address(stage):
    """Without a scope, and with the loopback's, where no such network is."""
    stage.client()
    stage.connect(("fe80::1", 9), times=2)
    stage.connect(("fe80::1", 9, 0, 1), times=2)


@scenario("tcp6", "udp6")
def scope_that_is_not_there(stage):
    stage.client()
    stage.connect((stage.host, 9, 0, 0x7fff_ffff), times=2)
    stage.connect(("fe80::1", 9, 0, 0x7fff_ffff))


@scenario("tcp6", "udp6")
def flow_label(stage):
    """ipv6(7): a label that nobody has asked the kernel for counts only with IPV6_FLOWINFO_SEND (33)."""
    stage.client()
    server = any_server(stage)
    target = (stage.host, port_of(server), 0x12345, 0)
    stage.sock.setsockopt(IPPROTO_IPV6, 33, 1)
    stage.connect(target, times=2)
    stage.sock.setsockopt(IPPROTO_IPV6, 33, 0)
    stage.connect(target)


@scenario("tcp6", "udp6")
def v4_mapped(stage):
    """A v6 socket to a v4 server."""
    server = any_server(troupe(stage, stage.kind.replace("6", "4")))
    stage.client()
    stage.connect(("::ffff:127.0.0.1", port_of(server)), times=2)
    stage.connect(SockAddr(UNSPEC))
    stage.connect(("::ffff:127.0.0.1", port_of(server)))


@scenario("tcp6", aftermaths=(look, listen))
def v4_mapped_refused(stage):
    server = troupe(stage, "tcp4").bound()
    stage.client()
    stage.connect(("::ffff:127.0.0.1", port_of(server)), times=2)
    stage.connect(("::ffff:0.0.0.0", port_of(server)))


@scenario("tcp6", slow=True, aftermaths=(look, listen))
def v4_mapped_and_then_not(stage):
    """Such a socket stays with IPv4: this handshake never ends (6.18)."""
    server = troupe(stage, "tcp4").listener()
    stage.client()
    stage.connect(("::ffff:127.0.0.1", port_of(server)))
    stage.connect(SockAddr(UNSPEC))
    patience(stage)
    stage.connect(stage.listener(), times=2)


@scenario("tcp6", "udp6")
def v4_mapped_not_wanted(stage):
    """IPV6_V6ONLY."""
    server = any_server(troupe(stage, stage.kind.replace("6", "4")))
    stage.client().setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
    stage.connect(("::ffff:127.0.0.1", port_of(server)), times=2)
    stage.connect(any_server(stage))


@scenario("tcp6", "udp6")
def v4_mapped_from_a_v6_address(stage):
    server = any_server(troupe(stage, stage.kind.replace("6", "4")))
    bound_client(stage)
    stage.connect(("::ffff:127.0.0.1", port_of(server)), times=2)


@scenario(*INET)
def from_loopback_to_elsewhere(stage):
    """The kernel lets no packet with a loopback address out."""
    stage.enter_context(network("up"))
    bound_client(stage)
    stage.connect((ELSEWHERE[stage.family], 9), times=2)
    stage.connect(any_server(stage))


# -- TCP: the socket's own state -------------------------------------------------------------------------
@scenario(*TCP)
def tcp_unspec(stage):
    """Unconnected, connected, and with nothing but the family."""
    server = stage.listener()
    stage.client()
    for address in SockAddr(UNSPEC), family_only(0):
        stage.connect(address)
        stage.connect(server)
        stage.connect(address, times=2)
    stage.connect(stage.bound())
    stage.connect(server)


@scenario(*STREAM)
def connects_while_listening(stage):
    """EISCONN for TCP, EINVAL for AF_UNIX."""
    bound_client(stage)
    stage.sock.listen()
    stage.connect(stage.listener(), times=2)
    stage.connect(stage.sock)


@scenario(*TCP)
def shut_down_before(stage):
    stage.call("shutdown", stage.client().shutdown, SHUT_RDWR)
    stage.connect(stage.listener(), times=2)


@scenario(*TCP)
def shut_down_before_refused(stage):
    stage.call("shutdown", stage.client().shutdown, SHUT_RDWR)
    stage.connect(stage.bound(), times=2)


@scenario("tcp4", "mptcp4")
def shut_down_before_unreachable(stage):
    """An error that began no handshake leaves the shutdown as it was: the next one connects, and can't send."""
    stage.call("shutdown", stage.client().shutdown, SHUT_RDWR)
    stage.connect(("224.0.0.1", 9))
    stage.connect(stage.listener())
    stage.call("send", stage.sock.send, b"x", MSG_NOSIGNAL)


@scenario(*TCP)
def shut_down_after(stage):
    server = stage.listener()
    stage.client()
    stage.connect(server)
    stage.call("shutdown", stage.sock.shutdown, SHUT_RDWR)
    stage.connect(server, times=2)


@scenario(*TCP)
def closed_by_both(stage):
    """At the end of a connection the socket is not as new: EISCONN still, until it is dissolved."""
    server = stage.listener()
    stage.client()
    stage.connect(server)
    stage.accept(server).close()
    stage.call("recv", stage.sock.recv, 1)
    stage.call("shutdown", stage.sock.shutdown, SHUT_RDWR)
    wait_for(stage.sock, 0)
    stage.connect(server, times=2)
    stage.connect(SockAddr(UNSPEC))
    stage.connect(server)


@scenario(*TCP)
def reset_and_error_taken(stage):
    """The state CLOSE, and no error, after a connection that there was."""
    server = stage.listener()
    stage.client()
    stage.connect(server)
    reset(stage.accept(server))
    wait_for(stage.sock, select.POLLERR)
    stage.so_error()
    stage.connect(server, times=2)
    stage.connect(SockAddr(UNSPEC))
    stage.connect(server)


@scenario(*STREAM)
def never_accepted(stage):
    """The listener is closed before it accepts: TCP is reset, AF_UNIX at its end."""
    server = stage.listener()
    stage.client()
    stage.connect(server)
    address = stage.address(server)
    server.close()
    stage.connect(address)
    stage.call("recv", stage.sock.recv, 1)
    stage.connect(address, times=2)


def reset(sock):
    """Close with a RST."""
    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@scenario(*TCP)
def bound_client_refused(stage):
    server = stage.bound()
    bound_client(stage)
    stage.connect(server, times=2)
    server.listen()
    stage.connect(server, times=2)


@scenario(*TCP)
def bound_to_any_address(stage):
    """The address is the kernel's choice and goes again, the port is ours and stays."""
    server = stage.bound()
    stage.client().bind(("", 0))
    stage.connect(server, times=2)
    server.listen()
    stage.connect(server)


@scenario(*TCP)
def same_port_to_the_same_server(stage):
    """EADDRNOTAVAIL: there would be two connections with the same four numbers."""
    server = stage.listener()
    first = bound_client(stage)
    first.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    stage.client().setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    stage.sock.bind(first.getsockname())
    stage.connect(server, sock=first)
    stage.connect(server, times=2)
    stage.connect(stage.bound())
    stage.connect(stage.listener())


@scenario(*TCP)
def tcp_to_itself(stage):
    """Its own SYN is its answer."""
    bound_client(stage)
    stage.connect(stage.sock, times=2)


@scenario(*INET)
def bound_to_device(stage):
    stage.client()
    stage.call("SO_BINDTODEVICE", stage.sock.setsockopt, SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")
    if stage.kind in TCP:
        stage.connect(stage.bound(), times=2)
    stage.connect(any_server(stage))


@scenario(*TCP)
def repair(stage):
    """TCP_REPAIR (19), by which a connection is carried over from elsewhere: connect sends nothing."""
    stage.enter_context(network("up"))
    bound_client(stage)
    stage.call("TCP_REPAIR", stage.sock.setsockopt, IPPROTO_TCP, 19, 1)
    stage.connect(stage.bound(), times=2)


# -- fast open ------------------------------------------------------------------------------------------
TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE = 23, 30, 34


def fast_open_option(stage, option):
    stage.call(f"option {option}", stage.sock.setsockopt, IPPROTO_TCP, option, 1)


@scenario(*TCP)
def fast_open_without_a_cookie(stage):
    """There is none yet, so this is a connect like any other, which asks for one."""
    stage.client()
    fast_open_option(stage, TCP_FASTOPEN_CONNECT)
    server = stage.bound()
    stage.connect(server, times=2)
    server.listen()
    stage.connect(server)
    stage.call("send", stage.sock.send, b"x")
    stage.connect(server)


def deferred(stage, server, blocking=True, options=(TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE)):
    """connect sends nothing, it only says 0; the first send connects.

    Another connect before that waits for a handshake that nobody has begun. So would pyuring, if it asked
    again what the first one had said (E8), hence the SO_SNDTIMEO, and the look at the clock.
    """
    stage.client(blocking)
    for option in options:
        fast_open_option(stage, option)
    # As in a process that has not connected yet.
    stage.callback(setattr, RingDriver, "_settles", RingDriver._settles)
    RingDriver._settles = False
    patience(stage, 6)
    begin = time.monotonic()
    stage.connect(server)
    stage.note("waited", time.monotonic() - begin > 5)
    patience(stage, 0, 20_000)


@scenario(*TCP)
def fast_open_needs_no_cookie(stage):
    server = stage.listener()
    deferred(stage, server)
    stage.call("send", stage.sock.send, b"x")
    stage.connect(server, times=2)


@scenario(*TCP, aftermaths=(look, listen))
def fast_open_needs_no_cookie_refused(stage):
    """It is the send that hears of it."""
    server = stage.bound()
    deferred(stage, server)
    stage.call("send", stage.sock.send, b"x")
    stage.connect(server, times=2)


@scenario(*TCP, aftermaths=(look, listen))
def fast_open_nothing_sent(stage):
    server = stage.listener()
    deferred(stage, server)
    stage.connect(server)


@scenario(*TCP)
def fast_open_nonblocking(stage):
    server = stage.listener()
    deferred(stage, server, blocking=False)
    stage.call("send", stage.sock.send, b"x")
    wait_for(stage.sock, select.POLLOUT)
    stage.connect(server)


@scenario(*TCP_PLAIN)
def fast_open_with_a_cookie(stage):
    """The first connection brings the cookie for the second."""
    stage.enter_context(network("fast open"))
    server = stage.listener()
    server.setsockopt(IPPROTO_TCP, TCP_FASTOPEN, 16)
    stage.client()
    fast_open_option(stage, TCP_FASTOPEN_CONNECT)
    stage.connect2(server)
    stage.call("send", stage.sock.send, b"x")
    deferred(stage, server, options=[TCP_FASTOPEN_CONNECT])
    stage.call("send", stage.sock.send, b"x")
    stage.connect(server)


# -- wrong arguments ----------------------------------------------------------------------------------
@scenario(*ANY)
def wrong_lengths(stage):
    """Too short, too long, and longer than need be, of an address that would do. Not among them: NULL, and
    a length below 0, which no call of pyuring's can express."""
    address = stage.address(any_server(stage)).raw
    for size in 0, 1, 2, 3, 15, 16, 23, 24, 27, 28, 110, 111, 128, 129:
        stage.client()
        stage.note("size", size)
        stage.connect(SockAddr(address[:size].ljust(size, b"\0")))


@scenario(*ANY)
def wrong_lengths_on_one_socket(stage):
    server = any_server(stage)
    address = stage.address(server).raw
    stage.client()
    for size in 1, 4, 129:
        stage.connect(SockAddr(address[:size].ljust(size, b"\0")))
    stage.connect(server)


@scenario(*ANY)
def wrong_families(stage):
    """Addresses of other families, right in themselves, and those of no family."""
    others = {
        "in": sockaddr.pack(AF_INET, ("127.0.0.1", 9)),
        "in6": sockaddr.pack(AF_INET6, ("::1", 9)),
        "un": sockaddr.pack(AF_UNIX, "/nowhere"),
        "packet": struct.pack("=H", AF_PACKET).ljust(20, b"\0"),
        "12345": struct.pack("=H", 12345).ljust(28, b"\0"),
        "65535": struct.pack("=H", 65535).ljust(16, b"\0"),
        "unspec with more": struct.pack("=HH4s8x", 0, socket.htons(9), b"\x7f\0\0\1"),
    }
    for what, raw in others.items():
        if struct.unpack_from("=H", raw)[0] != stage.family:
            stage.client()
            stage.note("as", what)
            stage.connect(SockAddr(raw), times=2)


# -- not a socket, or not one that connects ------------------------------------------------------------
def no_socket(stage, make):
    """The same with an address that would do, and with none that makes sense."""
    fd = make()
    for address in ("127.0.0.1", 9), SockAddr(b""), SockAddr(bytes(129)):
        stage.connect(address, sock=fd)


def closing(stage, fd):
    stage.callback(os.close, fd)
    return fd


@scenario("tcp4", aftermaths=())
def pipe(stage):
    no_socket(stage, lambda: [closing(stage, fd) for fd in os.pipe()][1])


@scenario("tcp4", aftermaths=())
def dev_null(stage):
    no_socket(stage, lambda: closing(stage, os.open("/dev/null", os.O_RDWR)))


@scenario("tcp4", aftermaths=())
def regular_file(stage):
    no_socket(stage, lambda: closing(stage, os.open(__file__, os.O_RDONLY)))


@scenario("tcp4", aftermaths=())
def path_only(stage):
    """O_PATH."""
    no_socket(stage, lambda: closing(stage, os.open("/dev/null", os.O_PATH)))


@scenario("tcp4", aftermaths=())
def epoll(stage):
    no_socket(stage, lambda: stage.enter_context(select.epoll()).fileno())


@scenario("tcp4", aftermaths=())
def closed_fd(stage):
    """A number that nobody has: the highest that may be opened."""
    no_socket(stage, lambda: os.sysconf("SC_OPEN_MAX") - 1)


@scenario("tcp4", aftermaths=())
def negative_fd(stage):
    for fd in -1, -100:
        no_socket(stage, lambda fd=fd: fd)


@scenario(*TCP)
def socket_by_fd(stage):
    """A number does as well as a socket."""
    server = stage.bound()
    stage.client()
    stage.connect(server, sock=stage.sock.fileno(), times=2)
    server.listen()
    stage.connect(server, sock=stage.sock.fileno(), times=2)


@scenario("tcp4", aftermaths=())
def other_families(stage):
    """Whatever else this kernel has sockets of, and each with what it takes for an address.

    Not AF_VSOCK: where it has no loopback, such a connect goes to the machine's host.
    """
    loopback = sockaddr.pack(AF_INET, ("127.0.0.1", 9))
    for what, arguments, raw in (
            ("netlink", (AF_NETLINK, SOCK_RAW, 0), struct.pack("=HxxII", AF_NETLINK, 0, 0)),
            ("netlink group", (AF_NETLINK, SOCK_RAW, 0), struct.pack("=HxxII", AF_NETLINK, 0, 1)),
            ("packet", (AF_PACKET, SOCK_DGRAM, 0), struct.pack("=H", AF_PACKET).ljust(20, b"\0")),
            ("raw", (AF_INET, SOCK_RAW, IPPROTO_ICMP), loopback),
            ("ping", (AF_INET, SOCK_DGRAM, IPPROTO_ICMP), loopback),
            ("alg", (38, 5, 0), struct.pack("=H", 38).ljust(88, b"\0")),
            ("smc", (43, SOCK_STREAM, 0), loopback),
            ("sctp", (AF_INET, SOCK_STREAM, 132), loopback),
            ("udplite", (AF_INET, SOCK_DGRAM, 136), loopback)):
        try:
            sock = stage.enter_context(socket.socket(*arguments))
        except OSError:
            continue
        stage.note("of", what)
        for address in SockAddr(raw), SockAddr(raw), SockAddr(UNSPEC), SockAddr(raw[:4]):
            stage.connect(address, sock=sock)
