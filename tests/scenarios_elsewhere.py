"""scenarios_elsewhere.py - what other projects test about connect, done here in our own way.

gVisor (test/syscalls/linux) is a kernel that wants to answer as Linux does, liburing (test) is the
library next to IORING_OP_CONNECT: both know well what can go wrong. The names are theirs. Where they
expect a certain errno, connect(2) gives it here, and that is what is compared.

What they do to sockets that do not block and what goes on in a ring (fixed files, linked timeouts, a
sockaddr that is overwritten after submission) is no matter of connect(2)'s; test_ring.py has those.

Read first: scenarios.py, networks.py.
"""
import contextlib
import os
import select
import socket
import struct
import threading
from pathlib import Path
from select import POLLERR, POLLIN, POLLOUT, POLLWRNORM
from socket import (
    AF_INET, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY, MSG_PEEK, SHUT_RD, SHUT_RDWR, SHUT_WR, SO_ACCEPTCONN,
    SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET, TCP_NODELAY, TCP_SYNCNT,
)

from networks import ALONE, network
from parity import TCP, UDP, UNIX, UNIX_STREAM, listen, look, scenario
from pyuring import sockaddr
from pyuring.sockaddr import UNSPEC, SockAddr
from scenarios import STREAM, Recorder, begun, patience, refused_in_the_background
from scenarios_other import (
    TCP_PLAIN, any_server, bound_client, family_only, port_of, troupe, unix, wait_for,
)


# -- gVisor, tcp_socket.cc --------------------------------------------------------------------------------
@scenario(*TCP)
def gvisor_connect_on_established_connection(stage):
    """Both ends of it."""
    server = stage.listener()
    stage.client()
    stage.connect(server)
    accepted = stage.accept(server)
    stage.connect(stage.sock.getpeername())
    stage.connect(server, sock=accepted)


@scenario(*TCP)
def gvisor_non_blocking_connect_retry(stage):
    server = stage.bound()
    stage.client()
    stage.connect(server)
    server.listen()
    stage.connect(server)
    stage.call("accept", lambda: stage.accept(server))


def no_listener(stage, *takers):
    refused_in_the_background(stage)
    for what, take in takers:
        stage.call(what, take)
    stage.connect(stage.bound(), times=2)


@scenario(*TCP)
def gvisor_non_blocking_connect_no_listener(stage):
    """E12: SO_ERROR, then a read that finds the end, then a connect that blocks: ECONNABORTED."""
    no_listener(stage, ("SO_ERROR", stage.so_error), ("recv", lambda: stage.sock.recv(1)))


@scenario(*TCP)
def gvisor_non_blocking_connect_no_listener_read(stage):
    """E12."""
    no_listener(stage, *2 * [("recv", lambda: stage.sock.recv(1))])


@scenario(*TCP)
def gvisor_non_blocking_connect_no_listener_peek(stage):
    """E12."""
    no_listener(stage, *2 * [("peek", lambda: stage.sock.recv(1, MSG_PEEK))])


@scenario(*TCP)
def gvisor_listen_connect_parallel(stage):
    """A crowd of them at the same time, all to one listener."""
    crowd_of(stage, [stage.client() for _ in range(100)])


@scenario(*TCP)
def gvisor_listen_connect_parallel_non_blocking(stage):
    """And each hears EINPROGRESS first."""
    crowd_of(stage, [stage.client(blocking=False) for _ in range(100)])


def crowd_of(stage, crowd):
    server = stage.listener(128)
    answers = Recorder(stage)
    threads = [threading.Thread(target=stage.connect, args=(server, sock)) for sock in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.in_any_order()


@scenario(*TCP_PLAIN)       # MPTCP's own never arrives (6.18)
def gvisor_self_connect_send_recv(stage):
    """And the same with a shutdown of either half afterwards."""
    for how in None, SHUT_WR, SHUT_RD:
        bound_client(stage)
        stage.connect(stage.sock)
        stage.call("send", stage.sock.send, b"x")
        stage.note("recv", stage.sock.recv(2))
        if how is not None:
            stage.call("shutdown", stage.sock.shutdown, how)
        stage.connect(stage.sock)


def non_blocking_connect(stage, events):
    server = stage.listener()
    stage.client(blocking=False)
    stage.connect2(server)
    stage.accept(server)
    wait_for(stage.sock, events)
    stage.so_error()
    stage.connect(server, times=2)


@scenario(*TCP)
def gvisor_non_blocking_connect_poll_out(stage):
    non_blocking_connect(stage, POLLOUT)


@scenario(*TCP)
def gvisor_non_blocking_connect_poll_wr_norm(stage):
    non_blocking_connect(stage, POLLWRNORM)


@scenario(*TCP)
def gvisor_non_blocking_connect_poll_wr_norm_poll_out(stage):
    non_blocking_connect(stage, POLLWRNORM | POLLOUT)


def remote_close(stage):
    server = stage.listener()
    stage.client(blocking=False)
    stage.connect2(server)
    stage.accept(server).close()
    wait_for(stage.sock, POLLIN)
    return server


@scenario(*TCP)
def gvisor_non_blocking_connect_remote_close(stage):
    """0, and only then EISCONN."""
    stage.connect(remote_close(stage), times=2)


@scenario(*TCP)
def gvisor_non_blocking_connect_remote_close_then_blocking(stage):
    server = remote_close(stage)
    stage.sock.setblocking(True)
    stage.connect(server, times=2)


@scenario(*TCP)
def gvisor_blocking_connect_refused(stage):
    """The port is held by a socket that is bound, as by ReserveLocalPort()."""
    reserved = stage.bound()
    reserved.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    stage.client()
    stage.connect(reserved)


@scenario(*TCP)
def gvisor_cleanup_on_connection_refused(stage):
    """E7: the client's port is free again, somebody takes it, and the second answer is as the first."""
    server = stage.bound()
    bound_client(stage)
    own = stage.sock.getsockname()
    stage.connect(server)
    stage.call("bind", stage.make().bind, own)
    stage.connect(server)


@scenario(*TCP)
def gvisor_non_blocking_connect_refused(stage):
    """POLLHUP without having asked for anything."""
    refused_in_the_background(stage)
    wait_for(stage.sock, 0)
    stage.connect(stage.bound())


def shutdown_connecting_socket(stage, how):
    """A connect is under way that nobody waits for."""
    server = stage.silent()
    begun(stage, server)
    stage.call("shutdown", stage.sock.shutdown, how)
    stage.poll()
    server.close()
    stage.connect(stage.bound(), times=2)


@scenario(*TCP, slow=True)
def gvisor_shutdown_read_connecting_socket(stage):
    shutdown_connecting_socket(stage, SHUT_RD)


@scenario(*TCP, slow=True)
def gvisor_shutdown_write_connecting_socket(stage):
    shutdown_connecting_socket(stage, SHUT_WR)


@scenario(*TCP, slow=True)
def gvisor_shutdown_read_write_connecting_socket(stage):
    shutdown_connecting_socket(stage, SHUT_RDWR)


@scenario(*TCP, aftermaths=(look, listen))       # see v4_mapped_and_then_not()
def gvisor_connect_unspecified_address(stage):
    """All of it zero but the family; and the same as a v4 address in a v6 one."""
    for host in ("", "::ffff:0.0.0.0") if stage.kind == "tcp6" else ("",):
        stage.client()
        stage.connect((host, 0), times=2)


@scenario(*TCP)
def gvisor_get_socket_accept_conn_with_shutdown(stage):
    """A listener that was shut down is none; it connects to another one."""
    bound_client(stage)
    stage.sock.listen()
    stage.connect(stage.listener())
    stage.call("shutdown", stage.sock.shutdown, SHUT_RD)
    stage.note("SO_ACCEPTCONN", stage.sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN))
    stage.connect(stage.listener(), times=2)


# -- gVisor, socket_inet_loopback.cc ---------------------------------------------------------------------
@scenario("tcp6", "udp6")
def gvisor_dual_stack_v6_listener_v4_connect(stage):
    """ENETUNREACH: bound to ::1, to a v4 address."""
    stage.client().bind(("::1", 0))
    stage.connect(("::ffff:127.0.0.1", 9), times=2)


@scenario("tcp6", "udp6")
def gvisor_dual_stack_v4_listener_v6_connect(stage):
    """EAFNOSUPPORT: bound to a v4 address, to ::1."""
    stage.client().bind(("::ffff:127.0.0.1", 0))
    stage.connect(("::1", 9), times=2)


@scenario("tcp6", "udp6")
def gvisor_dual_stack_address_operations(stage):
    """Bound to any address, to a v4 one."""
    server = any_server(troupe(stage, stage.kind.replace("6", "4")))
    stage.client().setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
    stage.sock.bind(("::", 0))
    stage.connect(("::ffff:127.0.0.1", port_of(server)), times=2)
    stage.connect(("::ffff:0.0.0.0", port_of(server)))


@scenario(*TCP)
def gvisor_tcp_listen_shutdown_listen(stage):
    server = stage.listener(5)
    stage.call("shutdown", server.shutdown, SHUT_RD)
    stage.call("listen", server.listen, 5)
    for _ in range(5):
        stage.client()
        stage.connect(server)


@scenario(*TCP)
def gvisor_tcp_listen_shutdown(stage):
    """Of its write half: nothing happens. Of its read half: refused."""
    server = stage.listener(2)
    for how in SHUT_WR, SHUT_RD:
        stage.call("shutdown", server.shutdown, how)
        stage.client()
        stage.connect(server)


def hangup_during_connect(stage, hang_up):
    """They do this a hundred times, and take whatever the client has reached; here connect(2) plays it ten times."""
    server = stage.listener(0)
    stage.client(blocking=False)
    stage.connect2(server)
    stage.sock.setblocking(True)
    address = stage.address(server)
    hang_up(server)
    wait_for(stage.sock, 0)
    stage.poll()
    stage.connect(address, times=2)


@scenario(*TCP, rounds=10)
def gvisor_tcp_listen_close_during_connect(stage):
    hangup_during_connect(stage, socket.socket.close)


@scenario(*TCP, rounds=10)
def gvisor_tcp_listen_shutdown_during_connect(stage):
    hangup_during_connect(stage, lambda server: server.shutdown(SHUT_RD))


def listen_hangup_connecting_read(stage, hang_up):
    """One that is connected and one that is on its way, when the listener goes."""
    server = stage.silent()
    begun(stage, server)
    address = stage.address(server)
    hang_up(server)
    wait_for(stage.sock, POLLERR)
    stage.poll()
    stage.call("recv", stage.sock.recv, 1)
    stage.connect(address, times=2)


@scenario(*TCP, slow=True)
def gvisor_tcp_listen_close_connecting_read(stage):
    listen_hangup_connecting_read(stage, socket.socket.close)


@scenario(*TCP, slow=True)
def gvisor_tcp_listen_shutdown_connecting_read(stage):
    listen_hangup_connecting_read(stage, lambda server: server.shutdown(SHUT_RD))


@scenario(*TCP)
def gvisor_tcp_listen_close(stage):
    """Some are accepted, some are not; and then comes one too late."""
    server = stage.listener()
    crowd = [stage.client() for _ in range(10)]
    for sock in crowd:
        stage.connect(server, sock)
    for _ in range(4):
        stage.accept(server)
    address = stage.address(server)
    server.close()
    for sock in crowd[4:]:
        wait_for(sock, POLLERR)
    for sock in crowd:
        stage.connect(address, sock)
    stage.client()
    stage.connect(address, times=2)


@scenario(*TCP)
def gvisor_tcp_backlog(stage):
    """Each that is accepted makes room for one more; all of them can send."""
    server = stage.listener(2)
    for number in range(8):
        stage.client()
        stage.connect(server)
        stage.call("send", stage.sock.send, b"x")
        if number >= 2:
            stage.note("accepted", stage.accept(server).recv(1))
    stage.connect(server)


@scenario(*TCP)
def gvisor_tcp_non_blocking_connect_close(stage):
    """Sockets that are closed at once do the next one no harm."""
    server = stage.listener()
    for _ in range(10):
        stage.client(blocking=False)
        stage.connect2(server)
        stage.sock.close()
    stage.client()
    stage.connect(server, times=2)


@scenario(*TCP)
def gvisor_tcp_info_state(stage):
    """Closed, connected, closed by the other."""
    server = stage.listener()
    stage.client()
    stage.note("state", stage.tcp_state(stage.sock))
    stage.connect(server)
    stage.note("state", stage.tcp_state(stage.sock))
    stage.accept(server).close()
    wait_for(stage.sock, POLLIN)
    stage.note("state", stage.tcp_state(stage.sock))
    stage.connect(server)


@scenario(*TCP, slow=True)
def gvisor_tcp_backlog_accept_all(stage):
    """As many as there is room for; who comes after them waits until all are accepted."""
    server = stage.listener(3)
    for _ in range(4):
        stage.client()
        stage.connect(server)
    stage.client()
    pending = stage.begin(server)
    stage.empty(server)
    pending.finish()


# -- gVisor, accept_bind.cc, socket_unix_*.cc, connect_external.cc ----------------------------------------
def path_and_name(stage):
    """A path, and an abstract name."""
    return stage.name(), b"\0" + os.fsencode(stage.name())


@scenario(*UNIX_STREAM)
def gvisor_double_connect(stage):
    for address in path_and_name(stage):
        server = stage.make()
        server.bind(address)
        server.listen()
        stage.client()
        stage.connect(address, times=2)


@scenario(*UNIX)
def gvisor_connect_with_wrong_type(stage):
    """EPROTOTYPE for a path, ECONNREFUSED for a name."""
    kinds = [kind for kind in UNIX if kind != stage.kind]
    for address, kind in zip(path_and_name(stage), kinds):
        server = troupe(stage, kind).make()
        server.bind(address)
        if kind != "unixdgram":
            server.listen()
        stage.client()
        stage.connect(address, times=2)


@scenario(*UNIX)
def gvisor_connect_non_listening(stage):
    for address in path_and_name(stage):
        server = stage.make()
        server.bind(address)
        server.close()
        stage.client()
        stage.connect(address, times=2)


@scenario("unixdgram")
def gvisor_bind_connect(stage):
    """Both ends have a name."""
    for address in path_and_name(stage):
        server = stage.make()
        server.bind(address)
        stage.client().bind(stage.name())
        stage.connect(address, times=2)


@scenario(*UNIX_STREAM)
def gvisor_connect_without_listen(stage):
    """NonListening in connect_external.cc too."""
    for address in path_and_name(stage):
        stage.make().bind(address)
        stage.client()
        stage.connect(address, times=2)


@scenario(*UNIX)
def gvisor_connect_to_file_path(stage):
    stage.client()
    stage.connect(unix(b"/tmp".ljust(108, b"\0")), times=2)


@scenario(*UNIX)
def gvisor_connect_to_invalid_abstract_path(stage):
    stage.client()
    stage.connect(unix(b"\0nonexistent".ljust(108, b"\0")), times=2)


@scenario(*UNIX)
def gvisor_self_connect(stage):
    """EINVAL for a listener, 0 for datagrams."""
    for address in path_and_name(stage):
        stage.client().bind(address)
        if stage.kind != "unixdgram":
            stage.sock.listen()
        stage.connect(address, times=2)


@scenario(*UNIX)
def gvisor_auto_bind_success(stage):
    """The five hexadecimal digits that the kernel makes up are a name to connect to."""
    server = stage.make()
    server.bind("")
    if stage.kind != "unixdgram":
        server.listen()
    stage.client()
    stage.connect(unix(server.getsockname()))


@scenario(*UNIX)
def gvisor_address_after_null(stage):
    """Abstract names: what comes after a NUL, slashes, and the length all count."""
    name = b"\0" + os.fsencode(stage.name())
    server = stage.make()
    server.bind(name + b"\0b")
    if stage.kind != "unixdgram":
        server.listen()
    stage.client()
    for end in b"", b"\0", b"\0b/", b"\0b\0", b"\0b":
        stage.connect(name + end)


@scenario(*UNIX)
def gvisor_bind_connect_in_sub_namespace(stage):
    """ECONNREFUSED: an abstract name of another network."""
    with network("up"):
        server = stage.make()
    server.bind("")
    if stage.kind != "unixdgram":
        server.listen()
    stage.client()
    stage.connect(unix(server.getsockname()), times=2)


@scenario(*UNIX_STREAM, slow=True)
def gvisor_listen_zero_backlog(stage):
    """One finds room. The next waits, as long as SO_SNDTIMEO says, and so does who has a place already."""
    server = stage.listener(0)
    stage.client()
    patience(stage)
    stage.connect(server, times=2)
    stage.client()
    patience(stage)
    stage.connect(server, times=2)


@scenario("unixdgram")
def gvisor_dgram_double_connect(stage):
    server = stage.bound()
    stage.client()
    stage.connect(server, times=2)
    stage.call("send", stage.sock.send, b"")
    stage.note("recv", server.recv(1))


@scenario(*UNIX_STREAM)
def gvisor_stream_listener_close(stage):
    """One that was never accepted: ECONNRESET to its reader."""
    server = stage.listener()
    stage.client()
    stage.connect(server)
    server.close()
    stage.call("recv", stage.sock.recv, 1)
    stage.connect(stage.listener())


# -- gVisor, udp_socket.cc ---------------------------------------------------------------------------------
@scenario(*UDP)
def gvisor_udp_connect_binds(stage):
    stage.client()
    stage.connect(stage.bound())
    stage.note("port", port_of(stage.sock) != 0)


@scenario(*UDP)
def gvisor_udp_connect_write_to_invalid_port(stage):
    """ECONNREFUSED in SO_ERROR, and not from the next connect."""
    server = stage.bound()
    stage.client()
    stage.connect(server)
    address = stage.address(server)
    server.close()
    stage.call("send", stage.sock.send, b"x" * 512)
    wait_for(stage.sock, POLLERR)
    stage.so_error()
    stage.connect(address)


@scenario(*UDP)
def gvisor_udp_receive_after_disconnect(stage):
    """Twice, with a datagram in between."""
    server = stage.bound()
    stage.client()
    for _ in range(2):
        stage.connect(server)
        server.sendto(b"x", stage.sock.getsockname())
        stage.note("recv", stage.sock.recv(2))
        stage.connect(family_only(0))


@scenario(*UDP)
def gvisor_udp_connect(stage):
    stage.client()
    stage.connect(stage.bound())
    stage.call("bind", stage.sock.bind, ("", 0))
    other = stage.bound()
    stage.connect(other)
    stage.note("peer", stage.sock.getpeername() == other.getsockname())


@scenario(*UDP)
def gvisor_udp_connect_any_zero(stage):
    """All zero but the family: 0, and yet no peer; then dissolved."""
    stage.client()
    stage.connect(("", 0))
    stage.call("getpeername", stage.sock.getpeername)
    stage.connect(family_only(0))


@scenario(*UDP)
def gvisor_udp_connect_any_with_port(stage):
    server = stage.make()
    server.bind(("", 0))
    stage.client()
    stage.connect(("", port_of(server)))
    stage.call("getpeername", stage.sock.getpeername)
    stage.connect(family_only(0))


@scenario(*UDP)
def gvisor_udp_disconnect_after_bind(stage):
    """Bound to an address, to any, and not at all: what stays of it."""
    server = stage.bound()
    for address in (stage.host, 0), ("", 0), None:
        stage.client()
        if address:
            stage.sock.bind(address)
        for unspec in SockAddr(UNSPEC), SockAddr(bytes(128)):
            stage.connect(server)
            stage.connect(unspec)
            stage.note("name", (stage.sock.getsockname()[0], port_of(stage.sock) != 0))
            stage.call("getpeername", stage.sock.getpeername)


@scenario(*UDP)
def gvisor_udp_disconnect_after_bind_to_unspec(stage):
    """AF_UNSPEC is an address to bind to, for IPv4."""
    stage.client()
    bind = stage.sock.bind if stage.kind == "udp6" else lambda address: stage.sock.bind(("", 0))
    stage.call("bind", bind, ("", 0))
    stage.connect(stage.bound())
    stage.connect(SockAddr(bytes(128)))


@scenario(*UDP)
def gvisor_udp_connect_bad_address(stage):
    """EINVAL: nothing but the family."""
    stage.client()
    stage.connect(family_only(stage.family), times=2)


@scenario(*UDP)
def gvisor_udp_connect_to_zero_port(stage):
    """Unbound, bound, connected to itself."""
    stage.client()
    stage.connect((stage.host, 0))
    bound_client(stage)
    stage.connect((stage.host, 0))
    stage.connect(stage.sock)
    stage.connect((stage.host, 0))
    stage.call("getpeername", stage.sock.getpeername)


@scenario(*UDP)
def gvisor_udp_reconnect_does_not_clear_shutdown(stage):
    for how in SHUT_RD, SHUT_WR:
        server = stage.bound()
        stage.client()
        stage.connect(server)
        stage.call("shutdown", stage.sock.shutdown, how)
        stage.connect(server)
        stage.call("send", stage.sock.send, b"x")


@scenario("udp6")
def gvisor_udp_connect_inet4_sockaddr(stage):
    """glibc's getaddrinfo() relies on it."""
    stage.client()
    stage.connect(SockAddr(sockaddr.pack(AF_INET, ("127.0.0.1", 9))), times=2)
    stage.note("name", stage.sock.getsockname()[0])


# -- liburing ----------------------------------------------------------------------------------------------
@scenario(*TCP)
def liburing_connect_with_no_peer(stage):
    """connect.c: ECONNREFUSED, from a port that was bound and is free again."""
    server = stage.bound()
    server.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
    address = stage.address(server)
    server.close()
    stage.client().setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    stage.connect(address)


@scenario(*TCP)
def liburing_connect(stage):
    """connect.c: 0, on a socket that does not block."""
    stage.client(blocking=False).setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    stage.connect(stage.listener())
    stage.so_error()


@scenario(*TCP, slow=True)
def liburing_connect_timeout(stage):
    """connect.c has a linked timeout, connect(2) only SO_SNDTIMEO: EINPROGRESS, and it goes on."""
    server = stage.silent()
    stage.client().setsockopt(SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100))
    stage.connect(server, times=2)


@scenario(*TCP)
def liburing_connect_rep(stage):
    """connect-rep.c: a bound client, refused 32 times."""
    server = stage.bound()
    bound_client(stage)
    stage.connect(server, times=32)


@scenario(*TCP, slow=True, polled=True)
def liburing_conn_unreach(stage):
    """conn-unreach.c: shut down while there is no answer."""
    conn_unreach(stage, True)


@scenario(*TCP, slow=True, polled="only")
def liburing_conn_unreach_nonblocking(stage):
    """The form that conn-unreach.c itself has: O_NONBLOCK."""
    conn_unreach(stage, False)


def conn_unreach(stage, blocking):
    stage.enter_context(network("alone and patient"))
    stage.client(blocking)
    stage.sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    with contextlib.suppress(OSError):          # MPTCP has neither
        stage.sock.setsockopt(IPPROTO_TCP, TCP_SYNCNT, 3)
        stage.sock.setsockopt(IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
    pending = stage.begin((ALONE[stage.family], 12345))
    stage.call("shutdown", stage.sock.shutdown, SHUT_RDWR)
    pending.finish()


@scenario(*STREAM)
def liburing_accept_reuse(stage):
    """accept-reuse.c, socket.c, bind-listen.c: one after the other, each a new socket."""
    server = stage.listener()
    for _ in range(8):
        stage.client()
        stage.connect(server)
        stage.accept(server).close()
        stage.call("recv", stage.sock.recv, 1)


@scenario(*UNIX_STREAM)
def liburing_unix_reconnect(stage):
    """Issue 486: a path that is not there, then is bound, then listens."""
    path = stage.name()
    stage.client()
    stage.connect(path)
    server = stage.make()
    server.bind(path)
    stage.connect(path)
    server.listen()
    stage.connect(path)
    Path(path).unlink()
    stage.connect(path)


@scenario(*TCP_PLAIN)
def liburing_poll_mask_on_refusal(stage):
    """Issue 1217."""
    refused_in_the_background(stage)
    poll = select.poll()
    poll.register(stage.sock, POLLOUT)
    stage.note("poll", poll.poll()[0][1])
    stage.connect(stage.bound())
