"""pyuring/prep_sockets.py and messages.py on the real kernel: each request does its thing.

Goal: what liburing's helpers for sockets promise is seen from outside, over loopback: the other end has got the
bytes, the socket has the address, the notification has come. Where this kernel lacks a request or a flag, the
test skips and says which Linux brought it. The last third is about memory: every kind of argument is dropped,
resized and overwritten while the kernel still uses it.
"""
import array
import contextlib
import errno
import gc
import mmap
import os
import socket
import struct
import time
import weakref

import pytest
from onkernel import collect, needs, one

from pyuring import abi, syscalls
from pyuring.batch import Batch
from pyuring.messages import Msghdr, recvmsg_out
from pyuring.ring import CQE, Ring
from pyuring.sockaddr import SockAddr, pack, unpack

LONG = 30       # seconds: far more than anything here takes. Only a failed test waits that long
MORE, NOTIF, BUFFER = abi.IORING_CQE_F_MORE, abi.IORING_CQE_F_NOTIF, abi.IORING_CQE_F_BUFFER
FIXED, LINK, HARDLINK = abi.IOSQE_FIXED_FILE, abi.IOSQE_IO_LINK, abi.IOSQE_IO_HARDLINK
ANY_SLOT = abi.IORING_FILE_INDEX_ALLOC
RELEASE = os.uname().release
MODES = {"default": None, "flags=0": 0}


@pytest.fixture(params=MODES)
def ring(request, io_uring):
    with Ring(32, flags=MODES[request.param]) as ring:
        yield ring


@pytest.fixture
def pair():
    """A connected pair of AF_UNIX stream sockets."""
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def tcp(listener):
    """Both ends of a TCP connection over loopback."""
    with socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            yield client, server


@pytest.fixture
def udp():
    """Two UDP sockets on 127.0.0.1, bound and not connected."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as left, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as right:
        for sock in (left, right):
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(LONG)
        yield left, right


def too_old(res, since, what, *errnos):
    """Skips where the kernel answers that it does not know this; otherwise the answer itself."""
    if -res in (errnos or (errno.EINVAL,)):
        pytest.skip(f"Linux {RELEASE} answers {what} with {errno.errorcode[-res]}: it came with Linux {since}")
    return res


def makes(family, kind=socket.SOCK_STREAM):
    """A socket of that family; skips where the kernel has none."""
    try:
        return socket.socket(family, kind)
    except OSError as error:
        pytest.skip(f"this kernel has no {socket.AddressFamily(family).name}: {error}")


def until_last(ring):
    """Submits, and gives the CQEs up to the one without IORING_CQE_F_MORE."""
    got = [one(ring)]
    while got[-1].flags & MORE:
        got.append(one(ring))
    return got


def slots(ring, count):
    try:
        ring.register_files_sparse(count)
    except OSError as error:
        too_old(-error.errno, "5.19", "register_files_sparse")
        raise


class Buffers:
    """Provided buffers in a ring of their own (IORING_REGISTER_PBUF_RING), filled up once."""

    def __init__(self, ring, group, count, size):
        self.data, self.size = bytearray(count * size), size
        self.table = mmap.mmap(-1, mmap.PAGESIZE)           # on a page of its own
        address, _, keeper = syscalls.writable(self.data)
        try:
            ring.register_buf_ring(self.table, 1 << (count - 1).bit_length(), group)
        except OSError as error:
            too_old(-error.errno, "5.19", "IORING_REGISTER_PBUF_RING")
            raise
        ring._registered[f"test buffers {group}"] = keeper      # as long as the ring, whatever is still in flight
        for bid in range(count):
            struct.pack_into("=QIH", self.table, bid * abi.BUF.size, address + bid * size, size, bid)
        struct.pack_into("=H", self.table, 14, count)       # the tail

    def __getitem__(self, bid):
        return memoryview(self.data)[bid * self.size:(bid + 1) * self.size]

    def received(self, cqe):
        """What a CQE says is in its buffer."""
        assert cqe.flags & BUFFER
        return bytes(self[cqe.flags >> abi.IORING_CQE_BUFFER_SHIFT][:cqe.res])


def fd_of(res):
    assert res >= 0, os.strerror(-res)
    return res


# ================================================================================== from the first call to the last

def test_socket_makes_a_socket_of_that_kind(ring):
    needs(ring, abi.IORING_OP_SOCKET)
    ring.prep_socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with socket.socket(fileno=fd_of(one(ring).res)) as sock:
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)
        assert not os.get_inheritable(sock.fileno())
        assert not os.get_blocking(sock.fileno())


def test_a_server_and_its_connection_live_in_slots_alone(ring, tmp_path):
    """socket, bind, listen and accept in one chain, then recv and send: no Python socket on this side."""
    needs(ring, abi.IORING_OP_BIND, abi.IORING_OP_LISTEN)
    slots(ring, 4)
    path = str(tmp_path / "listener")
    ring.prep_socket_direct(socket.AF_UNIX, socket.SOCK_STREAM, file_index=2, user_data=1, sqe_flags=LINK)
    ring.prep_bind(2, path, user_data=2, sqe_flags=LINK | FIXED)
    ring.prep_listen(2, 5, user_data=3, sqe_flags=LINK | FIXED)
    ring.prep_accept_direct(2, file_index=3, user_data=4, sqe_flags=FIXED)
    assert collect(ring, 3) == [CQE(1, 0, 0), CQE(2, 0, 0), CQE(3, 0, 0)]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.send(b"question")
        assert (one(ring).user_data, one_recv(ring, 3)) == (4, b"question")
        ring.prep_send(3, b"answer", sqe_flags=FIXED)
        assert one(ring).res == 6
        assert client.recv(99) == b"answer"


def one_recv(ring, slot):
    buffer = bytearray(99)
    ring.prep_recv(slot, buffer, sqe_flags=FIXED)
    return bytes(buffer[:one(ring).res])


def test_socket_direct_takes_the_slot_it_is_given(ring, listener):
    needs(ring, abi.IORING_OP_SOCKET)
    slots(ring, 3)
    for _ in range(2):          # a socket that is there is replaced
        ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, 2)
        assert one(ring) == CQE(0, 0, 0)
        ring.prep_connect(2, listener.getsockname(), sqe_flags=FIXED)
        assert one(ring).res == 0
        peer, _ = listener.accept()
        with peer:
            ring.prep_send(2, b"from a slot", sqe_flags=FIXED)
            assert one(ring).res == 11
            assert peer.recv(99) == b"from a slot"


@pytest.mark.parametrize("prep", [
    lambda ring: ring.prep_socket_direct_alloc(socket.AF_INET, socket.SOCK_STREAM),
    lambda ring: ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM),
    lambda ring: ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, ANY_SLOT),
], ids=["alloc", "direct by default", "direct, any"])
def test_socket_direct_takes_free_slots_until_there_is_none(prep, ring):
    needs(ring, abi.IORING_OP_SOCKET)
    slots(ring, 3)
    for _ in range(4):
        prep(ring)
    assert [cqe.res for cqe in collect(ring, 4)] == [0, 1, 2, -errno.ENFILE]


def test_a_slot_beyond_the_table_or_without_one_is_refused(ring):
    needs(ring, abi.IORING_OP_SOCKET)
    ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, 0)
    assert one(ring).res == -errno.ENXIO
    slots(ring, 3)
    ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, 3)
    assert one(ring).res == -errno.EINVAL


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_bind_and_listen_make_a_listener(family, host, ring):
    needs(ring, abi.IORING_OP_BIND, abi.IORING_OP_LISTEN)
    with makes(family) as sock, makes(family) as client:
        ring.prep_bind(sock, (host, 0))
        bound = one(ring).res
        if bound == -errno.EADDRNOTAVAIL:
            pytest.skip(f"this machine has no {host}")
        assert bound == 0
        assert sock.getsockname()[1]
        ring.prep_listen(sock)
        assert one(ring).res == 0
        client.connect(sock.getsockname())
        accepted, peer = sock.accept()
        accepted.close()
        assert peer == client.getsockname()


def test_bind_says_why_not(ring, listener):
    needs(ring, abi.IORING_OP_BIND, abi.IORING_OP_LISTEN)
    with socket.socket() as sock:
        ring.prep_bind(sock, listener.getsockname())
        ring.prep_listen(99999)
        assert [cqe.res for cqe in collect(ring, 2)] == [-errno.EADDRINUSE, -errno.EBADF]


def test_bind_takes_an_abstract_name(ring):
    needs(ring, abi.IORING_OP_BIND)
    name = b"\0pyuring-%d" % os.getpid()
    with socket.socket(socket.AF_UNIX) as sock:
        ring.prep_bind(sock, name)
        assert one(ring).res == 0
        assert sock.getsockname() == name


def test_connect_and_shutdown(ring, listener):
    needs(ring, abi.IORING_OP_SHUTDOWN)
    with socket.socket() as client:
        ring.prep_connect(client, listener.getsockname())
        assert one(ring).res == 0
        server, _ = listener.accept()
        with server:
            ring.prep_shutdown(client, socket.SHUT_WR)
            assert one(ring).res == 0
            assert server.recv(1) == b""
            server.send(b"the other way is open")
            assert client.recv(99) == b"the other way is open"


# ============================================================================================================ accept

def test_accept_tells_the_peers_address(ring, listener):
    for addrlen in (None, array.array("i", [128])):
        addr = bytearray(128)
        with socket.create_connection(listener.getsockname()) as client:
            ring.prep_accept(listener, addr, addrlen)
            with socket.socket(fileno=fd_of(one(ring).res)) as server:
                assert server.getpeername() == client.getsockname()
                assert not os.get_inheritable(server.fileno())
            assert unpack(addr) == client.getsockname()
        assert addrlen is None or addrlen[0] == 16


def test_accept_direct_takes_the_slot_it_is_given(ring, listener):
    needs(ring, abi.IORING_OP_SOCKET)       # Linux 5.19, with registered files that are sparse
    slots(ring, 3)
    addr = bytearray(128)
    for _ in range(2):
        with socket.create_connection(listener.getsockname()) as client:
            ring.prep_accept_direct(listener, addr, file_index=1)
            assert one(ring).res == 0
            assert unpack(addr) == client.getsockname()
            client.send(b"hello")
            assert one_recv(ring, 1) == b"hello"


def test_accept_direct_takes_free_slots_until_there_is_none(ring, listener):
    needs(ring, abi.IORING_OP_SOCKET)
    slots(ring, 2)
    with contextlib.ExitStack() as stack:
        for expected in (0, 1, -errno.ENFILE):
            stack.enter_context(socket.create_connection(listener.getsockname()))
            ring.prep_accept_direct(listener)
            assert one(ring).res == expected


def connect_all(listener, count, stack):
    return [stack.enter_context(socket.create_connection(listener.getsockname()[:2])) for _ in range(count)]


def test_multishot_accept_gives_several_connections(ring, listener):
    ring.prep_multishot_accept(listener, user_data=7)
    with contextlib.ExitStack() as stack:
        for _ in range(2):          # those that come together, and those that come later
            clients = connect_all(listener, 3, stack)
            cqes = collect(ring, 1)
            too_old(cqes[0].res, "5.19", "IORING_ACCEPT_MULTISHOT")
            cqes += collect(ring, 2)
            assert all(cqe.user_data == 7 and cqe.flags & MORE for cqe in cqes)
            servers = [stack.enter_context(socket.socket(fileno=fd_of(cqe.res))) for cqe in cqes]
            assert [server.getpeername() for server in servers] == [client.getsockname() for client in clients]
            assert not any(os.get_inheritable(server.fileno()) for server in servers)
        ring.prep_cancel(7, user_data=8)
        assert {cqe.user_data: cqe[1:] for cqe in collect(ring, 2)} == {7: (-errno.ECANCELED, 0), 8: (0, 0)}


def test_multishot_accept_tells_the_latest_peers_address(ring, listener):
    addr = bytearray(128)
    ring.prep_multishot_accept(listener, addr)
    ring.submit()
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client, = connect_all(listener, 1, stack)
            cqe = one(ring)
            stack.enter_context(socket.socket(fileno=too_old(cqe.res, "5.19", "IORING_ACCEPT_MULTISHOT")))
            assert cqe.flags & MORE
            assert unpack(addr) == client.getsockname()


def test_multishot_accept_direct_fills_the_slots(ring, listener):
    needs(ring, abi.IORING_OP_SOCKET)
    slots(ring, 2)
    ring.prep_multishot_accept_direct(listener)
    ring.submit()
    with contextlib.ExitStack() as stack:
        for slot in (0, 1):
            client, = connect_all(listener, 1, stack)
            cqe = one(ring)
            assert (cqe.res, cqe.flags & MORE) == (slot, MORE)
            client.send(b"%d" % slot)
            assert one_recv(ring, slot) == b"%d" % slot
        connect_all(listener, 1, stack)
        assert one(ring)[1:] == (-errno.ENFILE, 0)


def test_the_kernel_takes_the_last_peers_size_for_the_room_there_is(io_uring):
    """Why prep_multishot_accept() refuses less than 128 bytes: with 16 for AF_INET6's 28 bytes, the second
    connection is written 12 bytes beyond them. Here they lie in a larger buffer."""
    with Ring(8) as ring, makes(socket.AF_INET6) as listener, contextlib.ExitStack() as stack:
        try:
            listener.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"this machine has no ::1: {error}")
        listener.listen()
        large, addrlen = bytearray(b"\xEE" * 64), bytearray(struct.pack("=i", 16))
        addr, _, keeper = syscalls.writable(large)
        length, _, second = syscalls.writable(addrlen)
        ring._sqe(abi.IORING_OP_ACCEPT, listener.fileno(), addr, off=length,
                  ioprio=abi.IORING_ACCEPT_MULTISHOT, keeper=(keeper, second))
        ring.submit()
        beyond = []
        for _ in range(2):
            connect_all(listener, 1, stack)
            res = too_old(one(ring).res, "5.19", "IORING_ACCEPT_MULTISHOT")
            stack.enter_context(socket.socket(fileno=res))
            beyond.append(bytes(large[16:]).rstrip(b"\xEE"))
        assert struct.unpack("=i", addrlen) == (28,)
        assert beyond[0] == b""
        assert len(beyond[1]) == 12


# ============================================================================================================== send

def takes_lists(ring):
    if not ring.features & abi.IORING_FEAT_RECVSEND_BUNDLE:
        pytest.skip(f"Linux {RELEASE} takes no list of buffers: Linux 6.17")


def test_a_list_of_buffers_is_sent_as_one(ring, tcp):
    needs(ring, abi.IORING_OP_SEND)
    takes_lists(ring)
    ring.prep_send(tcp[0], [b"several ", bytearray(b"buffers"), memoryview(b", one message")])
    assert too_old(one(ring).res, "6.17", "IORING_SEND_VECTORIZED") == 28
    assert tcp[1].recv(28, socket.MSG_WAITALL) == b"several buffers, one message"


@pytest.mark.parametrize("fill", [
    lambda ring, sock, to: ring.prep_sendto(sock, b"datagram", None, 0, to),
    lambda ring, sock, to: ring.prep_sendto(sock, b"datagram, cut", 8, address=to),
    lambda ring, sock, to: ring.prep_sendto(sock.fileno(), b"datagram", address=SockAddr(pack(2, to))),
    lambda ring, sock, to: (ring.prep_send(sock, b"datagram"), ring.prep_send_set_addr(to)),
], ids=["sendto", "sendto a part", "sendto a SockAddr", "send, send_set_addr"])
def test_a_datagram_goes_to_its_address(fill, ring, udp):
    needs(ring, abi.IORING_OP_SEND)
    fill(ring, udp[0], udp[1].getsockname())
    assert too_old(one(ring).res, "6.1", "an address for SEND", errno.EDESTADDRREQ) == 8
    assert udp[1].recvfrom(99) == (b"datagram", udp[0].getsockname())


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET6])
@pytest.mark.parametrize("fileno", [False, True])
def test_sendto_takes_paths_names_and_ipv6(family, fileno, ring, tmp_path):
    needs(ring, abi.IORING_OP_SEND)
    addresses = {socket.AF_UNIX: [str(tmp_path / "x"), b"\0pyuring %d" % os.getpid()],
                 socket.AF_INET6: [("::1", 0)]}[family]
    for address in addresses:
        with makes(family, socket.SOCK_DGRAM) as left, makes(family, socket.SOCK_DGRAM) as right:
            try:
                right.bind(address)
            except OSError as error:
                pytest.skip(f"this machine has no {address}: {error}")
            right.settimeout(LONG)
            ring.prep_sendto(left.fileno() if fileno else left, b"hi", address=right.getsockname())
            too_old(one(ring).res, "6.1", "an address for SEND", errno.EDESTADDRREQ, errno.ENOTCONN)
            assert right.recv(9) == b"hi"


def test_sendto_nobody_goes_to_the_peer(ring, pair):
    needs(ring, abi.IORING_OP_SEND)
    ring.prep_sendto(pair[0], b"to whom it may concern")
    assert one(ring).res == 22
    assert pair[1].recv(99) == b"to whom it may concern"


def test_send_takes_a_provided_buffer(ring, pair):
    needs(ring, abi.IORING_OP_SEND)
    buffers = Buffers(ring, 3, 2, 4)
    buffers.data[:] = b"firstwo!"
    for _ in range(2):
        ring.prep_send(pair[0], None, 0, sqe_flags=abi.IOSQE_BUFFER_SELECT, buf_group=3)
        cqe = one(ring)
        if not ring.features & abi.IORING_FEAT_RECVSEND_BUNDLE:
            pytest.skip(f"Linux {RELEASE} takes no provided buffer for send (res {cqe.res}): Linux 6.10")
        assert cqe.res == 4
    assert pair[1].recv(99) == b"firstwo!"


def test_send_bundle_sends_all_buffers_in_order(ring, tcp):
    if not ring.features & abi.IORING_FEAT_RECVSEND_BUNDLE:
        pytest.skip(f"Linux {RELEASE} has no IORING_FEAT_RECVSEND_BUNDLE: Linux 6.10")
    buffers = Buffers(ring, 3, 8, 1000)
    buffers.data[:] = os.urandom(8000)
    ring.prep_send_bundle(tcp[0], buf_group=3)
    cqes = until_last(ring)
    assert cqes[0].flags & BUFFER and not cqes[0].flags >> abi.IORING_CQE_BUFFER_SHIFT
    assert cqes[-1].res >= 0 or cqes[-1].res == -errno.ENOBUFS
    assert sum(cqe.res for cqe in cqes if cqe.res > 0) == 8000
    tcp[0].shutdown(socket.SHUT_WR)
    with tcp[1].makefile("rb") as file:
        assert file.read() == buffers.data


# ========================================================================================================= zero copy

def zero_copy(ring):
    """The two CQEs of a zero-copy send: (bytes sent, what the notification says)."""
    sent, done = collect(ring, 2)
    assert sent.flags & MORE and not sent.flags & NOTIF
    assert done.flags & NOTIF and not done.flags & MORE
    assert sent.user_data == done.user_data
    return sent.res, done.res & 0xFFFFFFFF


ZC = {
    "send_zc": (abi.IORING_OP_SEND_ZC, lambda ring, sock, data, flags: ring.prep_send_zc(
        sock, data, zc_flags=flags, user_data=7)),
    "sendmsg_zc": (abi.IORING_OP_SENDMSG_ZC, lambda ring, sock, data, flags: ring.prep_sendmsg_zc(
        sock, Msghdr(None, [data[:100], data[100:]]), ioprio=flags, user_data=7)),
}


@pytest.mark.parametrize("kind", ZC)
def test_zero_copy_answers_twice(kind, ring, tcp):
    opcode, prep = ZC[kind]
    needs(ring, opcode)
    data = os.urandom(20000)
    prep(ring, tcp[0], data, 0)
    assert zero_copy(ring) == (20000, 0)
    assert tcp[1].recv(20000, socket.MSG_WAITALL) == data


@pytest.mark.parametrize("kind", ZC)
def test_zero_copy_over_loopback_reports_that_it_copied(kind, ring, tcp):
    opcode, prep = ZC[kind]
    needs(ring, opcode)
    prep(ring, tcp[0], bytes(5000), abi.IORING_SEND_ZC_REPORT_USAGE)
    first = one(ring)
    too_old(first.res, "6.2", "IORING_SEND_ZC_REPORT_USAGE")
    done = one(ring)
    assert (first.res, done.res & 0xFFFFFFFF, done.flags) == (5000, abi.IORING_NOTIF_USAGE_ZC_COPIED, NOTIF)


@pytest.mark.parametrize("kind", ZC)
def test_zero_copy_is_refused_by_sockets_that_cannot(kind, ring, pair):
    opcode, prep = ZC[kind]
    needs(ring, opcode)
    prep(ring, pair[0], bytes(200), 0)
    assert until_last(ring)[0].res == -errno.EOPNOTSUPP
    assert not ring._keepers


@pytest.mark.parametrize("fill", [
    lambda ring, sock, to: ring.prep_send_zc(sock, b"datagram", address=to),
    lambda ring, sock, to: (ring.prep_send_zc(sock, b"datagram"), ring.prep_send_set_addr(to)),
    lambda ring, sock, to: (takes_lists(ring), ring.prep_send_zc(sock, [b"data", b"gram"], address=to)),
    lambda ring, sock, to: ring.prep_sendmsg_zc(sock, Msghdr(to, [b"data", b"gram"])),
], ids=["send_zc", "send_zc, send_set_addr", "send_zc of a list", "sendmsg_zc"])
def test_a_datagram_goes_to_its_address_zero_copy(fill, ring, udp):
    needs(ring, abi.IORING_OP_SEND_ZC, abi.IORING_OP_SENDMSG_ZC)
    fill(ring, udp[0], udp[1].getsockname())
    first = one(ring)
    too_old(first.res, "6.17", "IORING_SEND_VECTORIZED")
    assert (first.res, one(ring).flags) == (8, NOTIF)
    assert udp[1].recvfrom(99) == (b"datagram", udp[0].getsockname())


def test_zero_copy_from_a_registered_buffer(ring, tcp):
    needs(ring, abi.IORING_OP_SEND_ZC)
    buffer = bytearray(os.urandom(8192))
    ring.register_buffers([buffer])
    ring.prep_send_zc_fixed(tcp[0], memoryview(buffer)[1000:], 5000, buf_index=0)
    assert zero_copy(ring) == (5000, 0)
    assert tcp[1].recv(5000, socket.MSG_WAITALL) == buffer[1000:6000]
    ring.prep_send_zc_fixed(tcp[0], bytearray(100))             # not in there
    assert until_last(ring)[0].res == -errno.EFAULT


def test_messages_from_a_registered_buffer(ring, tcp):
    needs(ring, abi.IORING_OP_SENDMSG_ZC)
    buffer = bytearray(os.urandom(8192))
    ring.register_buffers([buffer])
    view = memoryview(buffer)
    ring.prep_sendmsg_zc_fixed(tcp[0], Msghdr(None, [view[:100], view[4000:4100]]), 0, 0)
    first, *others = until_last(ring)
    assert too_old(first.res, "6.15", "IORING_RECVSEND_FIXED_BUF for sendmsg") == 200
    assert others[-1].flags == NOTIF
    assert tcp[1].recv(200, socket.MSG_WAITALL) == buffer[:100] + buffer[4000:4100]
    ring.prep_sendmsg_zc_fixed(tcp[0], Msghdr(None, [bytearray(100)]))
    assert until_last(ring)[0].res == -errno.EFAULT


def test_zero_copy_says_how_it_failed_and_lets_go(ring, udp):
    needs(ring, abi.IORING_OP_SEND_ZC)
    ring.prep_send_zc(udp[0], b"to nobody", user_data=1)
    assert until_last(ring)[0].res == -errno.EDESTADDRREQ
    ring.prep_send_zc(udp[0], b"in silence", user_data=1, sqe_flags=abi.IOSQE_CQE_SKIP_SUCCESS)
    assert until_last(ring)[0].res == -errno.EINVAL
    assert not ring._keepers and not ring._inflight


# ========================================================================================================== messages

def with_control(res):
    return too_old(res, "later than 5.10", "control data")


def test_sendmsg_gathers_and_recvmsg_scatters(ring, pair):
    ring.prep_sendmsg(pair[0], Msghdr(None, [b"several ", b"", bytearray(b"buffers")]))
    assert one(ring).res == 15
    parts = [bytearray(3), bytearray(0), bytearray(5), bytearray(99)]
    msg = Msghdr(iov=parts)
    ring.prep_recvmsg(pair[1], msg)
    assert one(ring).res == 15
    assert [bytes(part).rstrip(b"\0") for part in parts] == [b"sev", b"", b"eral ", b"buffers"]
    assert (msg.address, msg.control, msg.namelen, msg.controllen) == (None, [], 0, 0)
    assert not msg.flags & socket.MSG_TRUNC


def test_sendmsg_goes_to_its_address_and_recvmsg_tells_where_from(ring, udp):
    ring.prep_sendmsg(udp[0], Msghdr(udp[1].getsockname(), [b"data", b"gram"]))
    assert one(ring).res == 8
    for fd in (udp[1], udp[1].fileno()):
        buffer = bytearray(99)
        msg = Msghdr(128, [buffer])
        ring.prep_recvmsg(fd, msg, socket.MSG_PEEK)
        assert one(ring).res == 8
        assert buffer.rstrip(b"\0") == b"datagram"
        assert (msg.address, msg.namelen, msg.flags) == (udp[0].getsockname(), 16, 0)


def test_recvmsg_writes_the_address_into_a_buffer_of_the_callers(ring, udp):
    udp[0].sendto(b"x", udp[1].getsockname())
    name = bytearray(b"\xEE" * 20)
    msg = Msghdr(name, [bytearray(1)])
    ring.prep_recvmsg(udp[1], msg)
    assert one(ring).res == 1
    assert name == pack(socket.AF_INET, udp[0].getsockname()) + b"\xEE" * 4
    assert msg.address == udp[0].getsockname()


def test_an_address_that_is_cut_short_is_told_by_its_length(ring, udp):
    udp[0].sendto(b"x", udp[1].getsockname())
    msg = Msghdr(6, [bytearray(1)])
    ring.prep_recvmsg(udp[1], msg)
    assert one(ring).res == 1
    assert msg.namelen == 16
    assert msg.address == SockAddr(pack(socket.AF_INET, udp[0].getsockname())[:6])


def test_a_message_that_is_cut_short_is_told_by_its_flags(ring, udp):
    udp[0].sendto(b"too long", udp[1].getsockname())
    buffer = bytearray(3)
    msg = Msghdr(None, [buffer])
    ring.prep_recvmsg(udp[1], msg)
    assert one(ring).res == 3
    assert (buffer, msg.flags) == (b"too", socket.MSG_TRUNC)


def test_file_descriptors_go_through_control_data(ring, pair):
    reader, writer = os.pipe()
    os.write(writer, b"through the other one")
    fds = array.array("i", [reader])
    ring.prep_sendmsg(pair[0], Msghdr(None, [b"fd"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]))
    res = one(ring).res
    os.close(reader)
    os.close(writer)
    assert with_control(res) == 2
    msg = Msghdr(None, [bytearray(9)], 256)
    ring.prep_recvmsg(pair[1], msg, socket.MSG_CMSG_CLOEXEC)
    assert one(ring).res == 2
    # Some kernels add SCM_INQ, for which nobody asked (github.com/axboe/liburing/issues/1509).
    data, = [data for level, kind, data in msg.control if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)]
    fd, = struct.unpack("=i", data)
    try:
        assert msg.flags == socket.MSG_CMSG_CLOEXEC
        assert not os.get_inheritable(fd)
        assert os.read(fd, 99) == b"through the other one"
    finally:
        os.close(fd)


IP_RECVTTL, IP_TTL = 12, 2


def test_control_data_is_what_socket_recvmsg_gives(ring, udp):
    """Two messages at once: the sender's TTL, and the address that it was sent to."""
    udp[1].setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    udp[1].setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_PKTINFO", 8), 1)
    ttl = (socket.IPPROTO_IP, IP_TTL, struct.pack("=i", 77))
    ring.prep_sendmsg(udp[0], Msghdr(udp[1].getsockname(), [b"x"], [ttl]))
    assert with_control(one(ring).res) == 1
    data, control, flags, address = udp[1].recvmsg(9, 256, socket.MSG_PEEK)
    room = bytearray(256)
    for space in (256, room):
        msg = Msghdr(128, [bytearray(9)], space)
        ring.prep_recvmsg(udp[1], msg, socket.MSG_PEEK)
        assert one(ring).res == 1
        assert (msg.control, msg.flags, msg.address) == (control, flags, address)
    assert ttl in msg.control and len(msg.control) == 2
    assert room.rstrip(b"\0")


def test_control_data_that_is_cut_short_comes_as_far_as_it_goes(ring, udp):
    udp[1].setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    udp[0].sendto(b"x", udp[1].getsockname())
    for space in (0, 5, socket.CMSG_LEN(0), socket.CMSG_LEN(2), socket.CMSG_LEN(4)):
        _, control, flags, _ = udp[1].recvmsg(9, space, socket.MSG_PEEK)
        msg = Msghdr(None, [bytearray(9)], space)
        ring.prep_recvmsg(udp[1], msg, socket.MSG_PEEK)
        assert with_control(one(ring).res) == 1
        assert (msg.control, msg.flags & ~socket.MSG_PEEK) == (control, flags & ~socket.MSG_PEEK), space


def test_one_msghdr_can_be_sent_and_received_again_and_again(ring, udp):
    out, data = Msghdr(udp[1].getsockname(), [b"again"]), bytearray(9)
    back = Msghdr(128, [data])
    for _ in range(3):
        ring.prep_sendmsg(udp[0], out)
        ring.prep_sendmsg(udp[0], out)
        assert [cqe.res for cqe in collect(ring, 2)] == [5, 5]
        for _ in range(2):
            ring.prep_recvmsg(udp[1], back)
            assert one(ring).res == 5
            assert back.address == udp[0].getsockname()
            assert data.startswith(b"again")
    assert out.address == udp[1].getsockname()


def test_a_batch_may_receive_addresses_that_are_longer_than_the_room_for_them(ring, udp):
    """The second time the kernel takes 16 for the room, as that is what it wrote there itself."""
    batch, msg = Batch(), Msghdr(6, [bytearray(1)])
    batch.prep_recvmsg(udp[1], msg)
    memory = msg._name_room.obj
    assert len(memory) == 128
    for written in (6, 16):
        udp[0].sendto(b"x", udp[1].getsockname())
        assert [cqe[1] for cqe in ring.run(batch)] == [1]
        assert bytes(memory[:written]) == pack(socket.AF_INET, udp[0].getsockname())[:written]
        assert not any(memory[written:])


def test_recvmsg_puts_its_data_into_a_provided_buffer(ring, udp):
    buffers = Buffers(ring, 3, 2, 100)
    udp[0].sendto(b"datagram", udp[1].getsockname())
    udp[0].sendto(b"datagram", udp[1].getsockname())
    for iov, expected in ((), b"datagram"), ([bytearray(4)], b"data"):
        msg = Msghdr(128, iov)
        ring.prep_recvmsg(udp[1], msg, sqe_flags=abi.IOSQE_BUFFER_SELECT, buf_group=3)
        cqe = one(ring)
        assert buffers.received(cqe) == expected
        assert msg.address == udp[0].getsockname()
        assert not any(map(any, iov))


# =========================================================================================================== receive

def test_recv_multishot_takes_a_buffer_a_time_until_there_is_none(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    buffers = Buffers(ring, 3, 4, 8)
    ring.prep_recv_multishot(pair[0], user_data=7, buf_group=3)
    ring.submit()
    for text in (b"one", b"two", b"three"):
        pair[1].send(text)
        cqe = one(ring)
        too_old(cqe.res, "6.0", "IORING_RECV_MULTISHOT")
        assert (cqe.user_data, cqe.flags & MORE) == (7, MORE)
        assert buffers.received(cqe) == text
    pair[1].send(b"longer than a buffer")
    cqes = until_last(ring)
    assert buffers.received(cqes[0]) == b"longer t"
    assert cqes[-1].res == -errno.ENOBUFS


def test_recv_multishot_ends_with_the_stream(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    Buffers(ring, 3, 4, 8)
    ring.prep_recv_multishot(pair[0], buf_group=3)
    ring.submit()
    pair[1].shutdown(socket.SHUT_WR)
    cqe = one(ring)
    too_old(cqe.res, "6.0", "IORING_RECV_MULTISHOT")
    assert (cqe.res, cqe.flags & MORE) == (0, 0)


def test_recv_multishot_takes_so_much_a_time_and_so_much_in_all(ring, tcp):
    needs(ring, abi.IORING_OP_RECV)
    buffers = Buffers(ring, 3, 16, 64)
    tcp[1].sendall(bytes(range(100)))
    ring.prep_recv_multishot(tcp[0], None, 10, buf_group=3, optlen=30)
    cqes = until_last(ring)
    too_old(cqes[0].res, "6.17", "a length for multishot recv")
    assert b"".join(map(buffers.received, cqes)) == bytes(range(30))
    assert [cqe.res for cqe in cqes] == [10, 10, 10]


def test_recv_multishot_with_bundles_takes_several_buffers_a_time(ring, tcp):
    if not ring.features & abi.IORING_FEAT_RECVSEND_BUNDLE:
        pytest.skip(f"Linux {RELEASE} has no IORING_FEAT_RECVSEND_BUNDLE: Linux 6.10")
    buffers = Buffers(ring, 3, 16, 10)
    data = os.urandom(95)
    ring.prep_recv_multishot(tcp[0], ioprio=abi.IORING_RECVSEND_BUNDLE, buf_group=3)
    ring.submit()
    tcp[1].sendall(data)
    at, largest = 0, 0
    while at < 95:
        cqe = one(ring)
        first = cqe.flags >> abi.IORING_CQE_BUFFER_SHIFT
        start = first * 10          # the buffers of a bundle follow each other, and here in memory as well
        assert bytes(buffers.data[start:start + cqe.res]) == data[at:at + cqe.res]
        at, largest = at + cqe.res, max(largest, cqe.res)
    assert largest > 10


def test_recvmsg_multishot_tells_address_control_and_payload(ring, udp):
    udp[1].setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    buffers = Buffers(ring, 3, 4, 16 + 128 + 64 + 100)
    msg = Msghdr(128, (), 64)
    ring.prep_recvmsg_multishot(udp[1], msg, user_data=7, buf_group=3)
    ring.submit()
    for text in (b"one", b"", b"three" * 20):
        udp[0].sendto(text, udp[1].getsockname())
        cqe = one(ring)
        too_old(cqe.res, "6.0", "IORING_RECV_MULTISHOT")
        assert cqe.user_data == 7 and cqe.flags & BUFFER
        buffer = buffers[cqe.flags >> abi.IORING_CQE_BUFFER_SHIFT]
        for part in (buffer, buffer[:cqe.res]):
            out = recvmsg_out(part, msg)
            assert out.address == udp[0].getsockname()
            assert bytes(out.name) == pack(socket.AF_INET, udp[0].getsockname())
            assert bytes(out.payload) == text
            assert (out.flags, out.payloadlen) == (0, len(text))
            assert len(out.control) == socket.CMSG_SPACE(4)
            assert out.messages == [(socket.IPPROTO_IP, IP_TTL, struct.pack("=i", 64))]
        if not cqe.flags & MORE:            # an empty datagram ends it: taken for a stream's end
            assert text == b""
            ring.prep_recvmsg_multishot(udp[1], msg, user_data=7, buf_group=3)
            ring.submit()


@pytest.mark.parametrize("flags", [0, socket.MSG_TRUNC])
def test_recvmsg_multishot_cuts_short_and_says_so(flags, ring, udp):
    buffers = Buffers(ring, 3, 4, 16 + 8 + 10)
    msg = Msghdr(8)
    ring.prep_recvmsg_multishot(udp[1], msg, flags, buf_group=3)
    ring.submit()
    udp[0].sendto(b"longer than ten bytes", udp[1].getsockname())
    cqe = one(ring)
    too_old(cqe.res, "6.0", "IORING_RECV_MULTISHOT")
    assert cqe.res == 34
    out = recvmsg_out(buffers.received(cqe), msg)
    assert out.payload == b"longer tha"
    assert out.flags & socket.MSG_TRUNC
    assert out.payloadlen == (21 if flags else 10)
    assert out.name == pack(socket.AF_INET, udp[0].getsockname())[:8]


def test_recvmsg_multishot_ends_where_a_buffer_has_no_room_for_its_header(ring, udp):
    Buffers(ring, 3, 4, 16 + 8)
    ring.prep_recvmsg_multishot(udp[1], Msghdr(9), buf_group=3)
    ring.submit()
    udp[0].sendto(b"x", udp[1].getsockname())
    cqe = one(ring)
    too_old(cqe.res, "6.0", "IORING_RECV_MULTISHOT")
    assert (cqe.res, cqe.flags & MORE) == (-errno.EFAULT, 0)


def test_recv_zc_without_a_queue_of_the_network_card_is_refused(ring, tcp):
    needs(ring, abi.IORING_OP_RECV_ZC)
    ring.prep_recv_zc(tcp[0], 4096, zcrx_ifq_idx=3)
    assert one(ring).res == -errno.EINVAL


# ========================================================================================================== commands

def command(ring):
    """The answer to a socket command; skips where this kernel has none."""
    return too_old(one(ring).res, "6.7", "socket commands", errno.EOPNOTSUPP)


@pytest.fixture
def commands(ring):
    needs(ring, abi.IORING_OP_URING_CMD)
    return ring


def test_cmd_sock_tells_what_waits(commands, tcp):
    tcp[1].sendall(b"five!")
    tcp[0].recv(1, socket.MSG_PEEK)
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_SIOCINQ, tcp[0])
    assert command(commands) == 5
    tcp[0].setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            tcp[0].send(bytes(65536))
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_SIOCOUTQ, tcp[0])
    assert command(commands) > 0


def test_cmd_sock_gets_options(commands, udp):
    value = bytearray(b"\xEE" * 8)
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_GETSOCKOPT, udp[0], socket.SOL_SOCKET, socket.SO_RCVBUF, value)
    assert command(commands) == 4
    assert value == struct.pack("=i", udp[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)) + b"\xEE" * 4
    value = array.array("i", [0, 0])
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_GETSOCKOPT, udp[0], socket.SOL_SOCKET, socket.SO_TYPE, value, 4)
    assert command(commands) == 4
    assert list(value) == [socket.SOCK_DGRAM, 0]


def test_cmd_sock_sets_options(commands, tcp):
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_SETSOCKOPT, tcp[0], socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
    assert command(commands) == 0
    assert tcp[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 10000
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_SETSOCKOPT, tcp[0], socket.IPPROTO_TCP, socket.TCP_NODELAY,
                           struct.pack("=i", 1))
    assert command(commands) == 0
    assert tcp[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    linger = struct.pack("=ii", 1, 3)
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_SETSOCKOPT, tcp[0], socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert command(commands) == 0
    assert tcp[0].getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == linger
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_SETSOCKOPT, tcp[0], socket.IPPROTO_TCP, socket.TCP_CONGESTION,
                           b"none of that name")
    assert one(commands).res in (-errno.ENOENT, -errno.EPERM)


def test_commands_that_are_none_are_refused(commands, pair, tcp, tmp_path):
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_SIOCINQ, pair[0])            # AF_UNIX
    commands.prep_cmd_sock(99, tcp[0])
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_GETSOCKOPT, tcp[0], socket.IPPROTO_TCP, socket.TCP_NODELAY,
                           bytearray(4))
    with open(tmp_path / "file", "w") as file:
        commands.prep_uring_cmd(7, file)
        assert {cqe.res for cqe in collect(commands, 4)} == {-errno.EOPNOTSUPP}


def test_uring_cmd_is_the_same_command(commands, tcp):
    tcp[1].sendall(b"five!")
    tcp[0].recv(1, socket.MSG_PEEK)
    commands.prep_uring_cmd(abi.SOCKET_URING_OP_SIOCINQ, tcp[0])
    assert command(commands) == 5


@pytest.mark.parametrize("flags", [None, abi.IORING_SETUP_SQE128], ids=["64 bytes", "128 bytes"])
def test_uring_cmd_hands_its_bytes_over(flags, io_uring, tcp):
    """The first 8 are what prep_cmd_sock() calls optval, file_index is its optlen, addr level and optname."""
    try:
        ring = Ring(8, flags=flags)
    except OSError as error:
        too_old(-error.errno, "5.19", "IORING_SETUP_SQE128")
        raise
    with ring:
        needs(ring, abi.IORING_OP_URING_CMD)
        linger = struct.pack("=ii", 1, 3)
        address, size, keeper = syscalls.readable(linger)
        option, = struct.unpack("=Q", struct.pack("=II", socket.SOL_SOCKET, socket.SO_LINGER))
        ring.prep_uring_cmd(abi.SOCKET_URING_OP_SETSOCKOPT, tcp[0], cmd=struct.pack("=Q", address), addr=option,
                            file_index=size, keeper=keeper)
        assert command(ring) == 0
        assert tcp[0].getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == linger


def test_uring_cmd_of_dev_null(commands):
    with open("/dev/null", "rb") as null:
        commands.prep_uring_cmd(1, null, cmd=b"whatever")
        assert too_old(one(commands).res, "6.3", "a command for /dev/null", errno.EOPNOTSUPP) == 0


def test_uring_cmd128_asks_a_socket(io_uring, tcp):
    try:
        ring = Ring(8, flags=abi.IORING_SETUP_SQE128)
    except OSError as error:
        too_old(-error.errno, "5.19", "IORING_SETUP_SQE128")
        raise
    with ring:
        ring.prep_uring_cmd128(abi.SOCKET_URING_OP_SIOCINQ, tcp[0])
        res = one(ring).res
        needs(ring, abi.IORING_OP_URING_CMD128)
        assert res == 0


@pytest.mark.parametrize("peer", [0, 1])
def test_getsockname_through_the_ring(peer, commands, tcp):
    expected = tcp[0].getpeername() if peer else tcp[0].getsockname()
    for addrlen in (None, array.array("i", [128])):
        addr = bytearray(128)
        commands.prep_cmd_getsockname(tcp[0], addr, addrlen, peer)
        assert too_old(one(commands).res, "6.19", "GETSOCKNAME", errno.EOPNOTSUPP) == 0
        assert unpack(addr) == expected
        assert addrlen is None or addrlen[0] == 16


SO_TIMESTAMPING = getattr(socket, "SO_TIMESTAMPING", 37)        # include/uapi/asm-generic/socket.h
TX_SOFTWARE, SOFTWARE, OPT_ID, TX_SCHED, OPT_TSONLY = 1 << 1, 1 << 4, 1 << 7, 1 << 8, 1 << 11   # net_tstamp.h
SCM_TSTAMP_SND, SCM_TSTAMP_SCHED = 0, 1


def test_timestamps_of_what_was_sent_arrive(io_uring, udp):
    try:
        ring = Ring(8, flags=abi.IORING_SETUP_CQE32)
    except OSError as error:
        too_old(-error.errno, "5.19", "IORING_SETUP_CQE32")
        raise
    with ring:
        needs(ring, abi.IORING_OP_URING_CMD)
        udp[0].setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, TX_SOFTWARE | SOFTWARE | OPT_ID | TX_SCHED | OPT_TSONLY)
        udp[0].connect(udp[1].getsockname())
        ring.prep_cmd_sock(abi.SOCKET_URING_OP_TX_TIMESTAMP, udp[0], user_data=7)
        ring.submit()
        for key in range(3):
            before = time.time_ns()
            ring.prep_send(udp[0], b"x", user_data=8)
            cqes = collect(ring, 1)
            if cqes[0].user_data == 7:
                too_old(cqes[0].res, "6.17", "TX_TIMESTAMP", errno.EOPNOTSUPP, errno.EINVAL)
            cqes += collect(ring, 2)
            after = time.time_ns()
            assert {cqe.res for cqe in cqes if cqe.user_data == 8} == {1}
            stamps = [cqe for cqe in cqes if cqe.user_data == 7]
            assert all(cqe.res == key and cqe.flags & MORE for cqe in stamps)
            assert {cqe.flags >> abi.IORING_TIMESTAMP_TYPE_SHIFT for cqe in stamps} == {
                SCM_TSTAMP_SCHED, SCM_TSTAMP_SND}
            for cqe in stamps:
                seconds, nanoseconds = cqe.big_cqe
                assert before <= seconds * 10**9 + nanoseconds <= after
                assert not cqe.flags & abi.IORING_CQE_F_TSTAMP_HW
        ring.prep_cancel(7, user_data=9)
        assert {cqe.user_data: cqe.res for cqe in collect(ring, 2)} == {7: -errno.ECANCELED, 9: 0}


def test_timestamps_need_a_ring_with_room_for_them(commands, udp):
    commands.prep_cmd_sock(abi.SOCKET_URING_OP_TX_TIMESTAMP, udp[0])
    assert one(commands).res in (-errno.EINVAL, -errno.EOPNOTSUPP)


# ================================================================================================== memory in flight
# What is submitted behind a recv on an empty socket, IOSQE_IO_HARDLINK between them, waits with all its arguments
# until something is sent there: so also what otherwise is done at once can be looked at in flight.

class Weak(bytearray):
    """A bytearray whose end can be seen."""


@pytest.fixture
def eager():
    """Whatever can be collected is, at every allocation."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def churn():
    """Uses memory that has been freed for something else: sizes of all that stands in an SQE here."""
    gc.collect()
    return [bytearray(b"\xDD" * size) for size in (8, 16, 28, 56, 110, 128, 256, 1000, 5000) for _ in range(100)]


@pytest.fixture
def held(pair):
    """held(ring, since, fill): submits what fill() fills in, so that it waits until release()."""
    def hold(ring, since, fill):
        needs(ring, abi.IORING_OP_RECV)
        ring.prep_recv(pair[0], bytearray(1), user_data=1, sqe_flags=HARDLINK)
        fill()
        before = churn()            # what the kernel reads when it is submitted, must last that long
        ring.submit()
        cqes = ring.reap()
        while cqes and ring._inflight:      # one of the chain was refused, and with it all are
            cqes.append(one(ring))
        for cqe in cqes:
            too_old(cqe.res, since, "one of these")
        assert not cqes
        return before, churn()
    return hold


def release(ring, pair):
    """Lets it go on, and gives its CQEs."""
    pair[1].send(b"!")
    assert one(ring)[:2] == (1, 1)
    return until_last(ring)


def data():
    """5000 bytes that are no constant, so that nobody else keeps them."""
    return bytes(bytearray(range(250)) * 20)


def parts():
    return [data()[:100], bytearray(data()[100:300]), memoryview(data())[300:]]


SENDS = {
    "send bytes": lambda ring, sock, to: ring.prep_send(sock, data(), user_data=2),
    "send a bytearray": lambda ring, sock, to: ring.prep_send(sock, bytearray(data()), user_data=2),
    "send what is copied": lambda ring, sock, to: ring.prep_send(sock, memoryview(data()), user_data=2),
    "send a list": lambda ring, sock, to: (takes_lists(ring), ring.prep_send(sock, parts(), user_data=2)),
    "sendto": lambda ring, sock, to: ring.prep_sendto(sock, data(), address=to(), user_data=2),
    "send, send_set_addr": lambda ring, sock, to: (
        ring.prep_send(sock, data(), user_data=2), ring.prep_send_set_addr(to())),
    "send_zc": lambda ring, sock, to: ring.prep_send_zc(sock, bytearray(data()), address=to(), user_data=2),
    "send_zc of a list": lambda ring, sock, to: (
        takes_lists(ring), ring.prep_send_zc(sock, parts(), address=to(), user_data=2)),
    "sendmsg": lambda ring, sock, to: ring.prep_sendmsg(sock, Msghdr(to(), parts()), user_data=2),
    "sendmsg with control": lambda ring, sock, to: ring.prep_sendmsg(
        sock, Msghdr(to(), parts(), [(socket.IPPROTO_IP, IP_TTL, struct.pack("=i", 77))]), user_data=2),
    "sendmsg_zc": lambda ring, sock, to: ring.prep_sendmsg_zc(sock, Msghdr(to(), parts()), user_data=2),
}


@pytest.mark.parametrize("name", SENDS)
def test_what_is_sent_late_is_what_was_given(name, ring, udp, pair, held, eager):
    needs(ring, *[op for word, op in (("send_zc", abi.IORING_OP_SEND_ZC), ("sendmsg_zc", abi.IORING_OP_SENDMSG_ZC))
                  if name.startswith(word)])
    udp[1].setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    host, port = udp[1].getsockname()
    if name in ("send bytes", "send a bytearray", "send what is copied", "send a list"):
        udp[0].connect((host, port))
    since = "6.17" if "list" in name else "later than 5.10" if "control" in name else "6.1"
    keep = held(ring, since, lambda: SENDS[name](ring, udp[0], lambda: (str(host), int(port))))
    cqe = release(ring, pair)[0]
    too_old(cqe.res, since, name, errno.EINVAL, errno.EDESTADDRREQ)
    assert cqe == CQE(2, 5000, cqe.flags)
    received, control, _, sender = udp[1].recvmsg(9999, 64)
    assert (received, sender) == (data(), udp[0].getsockname())
    assert control[0][2] == struct.pack("=i", 77 if "control" in name else 64)
    assert not ring._keepers
    del keep


def test_addresses_may_go_as_soon_as_they_are_given(ring, tmp_path, pair, held, eager):
    needs(ring, abi.IORING_OP_BIND, abi.IORING_OP_LISTEN)
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        def fill():
            ring.prep_bind(listener, str(path), user_data=2, sqe_flags=HARDLINK)
            ring.prep_listen(listener, user_data=3, sqe_flags=HARDLINK)
            ring.prep_connect(client, os.fsencode(path), user_data=4)
        keep = held(ring, "6.11", fill)
        assert release(ring, pair) == [CQE(2, 0, 0)]
        assert collect(ring, 2) == [CQE(3, 0, 0), CQE(4, 0, 0)]
        assert client.getpeername() == str(path)
    assert not ring._keepers
    del keep


def test_option_values_may_go_as_soon_as_they_are_given(commands, tcp, pair, held, eager):
    values = Weak(8)
    watch = weakref.ref(values)

    def fill():
        commands.prep_cmd_sock(abi.SOCKET_URING_OP_SETSOCKOPT, tcp[0], socket.SOL_SOCKET, socket.SO_RCVBUF, 5000,
                               user_data=2, sqe_flags=HARDLINK)
        commands.prep_cmd_sock(abi.SOCKET_URING_OP_SETSOCKOPT, tcp[0], socket.SOL_SOCKET, socket.SO_LINGER,
                               struct.pack("=ii", 1, 3), user_data=3, sqe_flags=HARDLINK)
        commands.prep_cmd_sock(abi.SOCKET_URING_OP_GETSOCKOPT, tcp[0], socket.SOL_SOCKET, socket.SO_LINGER, values,
                               user_data=4)
    keep = held(commands, "6.7", fill)
    del values, fill
    assert watch() is not None
    pair[1].send(b"!")
    commands.submit_and_wait(4, timeout=LONG)
    taken = bytes(watch())
    cqes = collect(commands, 4)
    too_old(cqes[1].res, "6.7", "socket commands", errno.EOPNOTSUPP)
    assert [cqe.res for cqe in cqes] == [1, 0, 0, 8]
    assert taken == struct.pack("=ii", 1, 3)
    assert tcp[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 10000
    assert watch() is None
    del keep


def watched(*sizes):
    """So many bytearrays, and a function for the bytes in them that keeps none alive."""
    buffers = [Weak(size) for size in sizes]
    watches = [weakref.ref(buffer) for buffer in buffers]
    return buffers, lambda: [watch() if watch() is None else bytes(watch()) for watch in watches]


def test_what_recvmsg_fills_in_stays_until_its_cqe(ring, udp, eager):
    udp[1].setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    (name, control, first, second), look = watched(128, 64, 3, 99)
    ring.prep_recvmsg(udp[1], Msghdr(name, [first, second], control))
    del name, control, first, second
    ring.submit()
    keep = churn()
    assert None not in look()
    udp[0].sendto(b"datagram", udp[1].getsockname())
    ring.submit_and_wait(1, timeout=LONG)
    name, control, first, second = look()
    assert with_control(one(ring).res) == 8
    assert first + second.rstrip(b"\0") == b"datagram"
    assert unpack(name) == udp[0].getsockname()
    assert struct.pack("=i", 64) in control
    assert look() == [None] * 4
    del keep


@pytest.mark.parametrize("prep", [
    lambda ring, listener, addr, addrlen: ring.prep_accept(listener, addr, addrlen),
    lambda ring, listener, addr, addrlen: ring.prep_accept_direct(listener, addr, addrlen),
    lambda ring, listener, addr, addrlen: ring.prep_multishot_accept(listener, addr, addrlen, user_data=7),
    lambda ring, listener, addr, addrlen: ring.prep_multishot_accept_direct(listener, addr, addrlen, user_data=7),
], ids=["accept", "accept_direct", "multishot_accept", "multishot_accept_direct"])
def test_what_accept_fills_in_stays_until_its_last_cqe(prep, ring, listener, eager):
    needs(ring, abi.IORING_OP_SOCKET)
    slots(ring, 4)
    (addr, addrlen), look = watched(128, 4)
    addrlen[:] = struct.pack("=i", 128)
    prep(ring, listener, addr, addrlen)
    del addr, addrlen
    ring.submit()
    with contextlib.ExitStack() as stack:
        more = True
        for _ in range(3):
            keep = churn()
            client, = connect_all(listener, 1, stack)
            ring.submit_and_wait(1, timeout=LONG)
            addr, addrlen = look()
            cqe = one(ring)
            if prep.__code__.co_names[0].endswith("accept"):
                stack.enter_context(socket.socket(fileno=fd_of(cqe.res)))
            assert unpack(addr) == client.getsockname()
            assert struct.unpack("=i", addrlen) == (16,)
            more = bool(cqe.flags & MORE)
            if not more:
                break
        if more:
            ring.prep_cancel(7)
            collect(ring, 2)
    assert look() == [None, None]
    del keep


def test_what_getsockname_fills_in_stays_until_its_cqe(commands, tcp, pair, held, eager):
    (addr, addrlen), look = watched(128, 4)
    addrlen[:] = struct.pack("=i", 128)
    keep = held(commands, "6.19", lambda: commands.prep_cmd_getsockname(tcp[0], addr, addrlen))
    del addr, addrlen
    assert None not in look()
    pair[1].send(b"!")
    commands.submit_and_wait(2, timeout=LONG)
    addr, addrlen = look()
    res = collect(commands, 2)[1].res
    assert look() == [None, None]
    too_old(res, "6.19", "GETSOCKNAME", errno.EOPNOTSUPP)
    assert unpack(addr) == tcp[0].getsockname()
    assert struct.unpack("=i", addrlen) == (16,)
    del keep


def test_a_msghdr_stays_until_multishot_recvmsg_has_ended(ring, udp, eager):
    buffers = Buffers(ring, 3, 4, 16 + 128 + 64 + 100)
    (name, control), look = watched(128, 64)
    ring.prep_recvmsg_multishot(udp[1], Msghdr(name, (), control), user_data=7, buf_group=3)
    del name, control
    ring.submit()
    like = Msghdr(128, (), 64)
    for text in (b"one", b"two"):
        keep = churn()
        udp[0].sendto(text, udp[1].getsockname())
        cqe = one(ring)
        too_old(cqe.res, "6.0", "IORING_RECV_MULTISHOT")
        out = recvmsg_out(buffers.received(cqe), like)
        assert (out.address, bytes(out.payload)) == (udp[0].getsockname(), text)
        assert look() == [bytes(128), bytes(64)]
    ring.prep_cancel(7)
    collect(ring, 2)
    assert look() == [None, None]
    del keep


# ---- zero copy: in use until the notification

@pytest.fixture
def stuffed():
    """Both ends of a TCP connection in whose send queue there are bytes that the other end has no room for."""
    with socket.socket() as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            client.setblocking(False)
            stuffing = client.send(bytes(100_000))
            client.setblocking(True)
            yield client, server, stuffing


def read_all(sock, size):
    received = bytearray()
    while len(received) < size:
        more = sock.recv(size - len(received))
        assert more
        received += more
    return received


ZC_LATE = {
    "send_zc": (abi.IORING_OP_SEND_ZC, lambda ring, sock, one, two: ring.prep_send_zc(sock, one, user_data=7)),
    "send_zc of a list": (abi.IORING_OP_SEND_ZC, lambda ring, sock, one, two: (
        takes_lists(ring), ring.prep_send_zc(sock, [one, two], user_data=7))),
    "sendmsg_zc": (abi.IORING_OP_SENDMSG_ZC, lambda ring, sock, one, two: ring.prep_sendmsg_zc(
        sock, Msghdr(None, [one, two]), user_data=7)),
}


@pytest.mark.parametrize("kind", ZC_LATE)
def test_what_is_sent_zero_copy_stays_until_its_notification(kind, ring, stuffed, eager):
    opcode, prep = ZC_LATE[kind]
    needs(ring, opcode)
    client, server, before = stuffed
    (first, second), look = watched(5000, 5000)
    first[:], second[:] = data(), data()[::-1]
    prep(ring, client, first, second)
    sent = one(ring)
    too_old(sent.res, "6.17", "IORING_SEND_VECTORIZED")
    assert sent.flags & MORE
    count = sent.res // 5000
    for buffer in (first, second)[:count]:          # no longer in the request, and still in use
        with pytest.raises(BufferError):
            buffer.append(0)
    del first, second, buffer
    keep = churn()
    assert None not in look()[:count]
    assert not ring.reap(), "the notification came too soon for this test"
    received = read_all(server, before + sent.res)
    assert bytes(received[before:]) == (data() + data()[::-1])[:sent.res]
    assert one(ring) == CQE(7, 0, NOTIF)
    assert look() == [None, None]
    del keep


# ---- resizing, and the end of the ring

def in_flight(ring, udp, listener, buffer):
    """Every way to have `buffer` (of 128 bytes) in flight for long: what begins it."""
    return {
        "recv": lambda: ring.prep_recv(udp[0], buffer),
        "recvmsg, iov": lambda: ring.prep_recvmsg(udp[0], Msghdr(None, [bytearray(1), buffer])),
        "recvmsg, name": lambda: ring.prep_recvmsg(udp[0], Msghdr(buffer, [bytearray(1)])),
        "recvmsg, control": lambda: ring.prep_recvmsg(udp[0], Msghdr(None, [bytearray(1)], buffer)),
        "accept, addr": lambda: ring.prep_accept(listener, buffer),
        "accept, addrlen": lambda: ring.prep_accept(listener, bytearray(128), buffer),
        "multishot_accept": lambda: ring.prep_multishot_accept(listener, buffer),
        "accept_direct": lambda: ring.prep_accept_direct(listener, buffer),
    }


# Whatever else would be done at once: (opcode, what fills it in).
BEHIND = {
    "send": (26, lambda ring, sock, buffer, **more: ring.prep_send(sock, buffer, **more)),
    "send a list": (26, lambda ring, sock, buffer, **more: (
        takes_lists(ring), ring.prep_send(sock, [b"", buffer], **more))),
    "sendto": (26, lambda ring, sock, buffer, **more: ring.prep_sendto(
        sock, buffer, address=("127.0.0.1", 9), **more)),
    "send_zc": (47, lambda ring, sock, buffer, **more: ring.prep_send_zc(sock, buffer, **more)),
    "send_zc_fixed": (47, lambda ring, sock, buffer, **more: ring.prep_send_zc_fixed(sock, buffer, **more)),
    "sendmsg": (9, lambda ring, sock, buffer, **more: ring.prep_sendmsg(sock, Msghdr(None, [buffer]), **more)),
    "sendmsg_zc": (48, lambda ring, sock, buffer, **more: ring.prep_sendmsg_zc(sock, Msghdr(None, [buffer]), **more)),
    "sendmsg_zc_fixed": (48, lambda ring, sock, buffer, **more: ring.prep_sendmsg_zc_fixed(
        sock, Msghdr(None, [buffer]), **more)),
    "getsockopt": (46, lambda ring, sock, buffer, **more: ring.prep_cmd_sock(
        abi.SOCKET_URING_OP_GETSOCKOPT, sock, socket.SOL_SOCKET, socket.SO_TYPE, buffer, **more)),
    "setsockopt": (46, lambda ring, sock, buffer, **more: ring.prep_cmd_sock(
        abi.SOCKET_URING_OP_SETSOCKOPT, sock, socket.SOL_SOCKET, 0, buffer, **more)),
    "getsockname": (46, lambda ring, sock, buffer, **more: ring.prep_cmd_getsockname(sock, buffer, **more)),
    "getsockname, addrlen": (46, lambda ring, sock, buffer, **more: ring.prep_cmd_getsockname(
        sock, bytearray(128), buffer, **more)),
}


def assert_pinned(buffer):
    for resize in (lambda: buffer.append(0), buffer.pop, buffer.clear, lambda: buffer.extend(b"x" * 9999)):
        with pytest.raises(BufferError):
            resize()


@pytest.mark.parametrize("name", list(in_flight(None, None, None, None)))
def test_what_is_in_flight_cannot_be_resized_and_can_after_close(name, io_uring, udp, listener):
    buffer = bytearray(struct.pack("=i", 128).ljust(128, b"\0"))
    with Ring(8) as ring:
        needs(ring, abi.IORING_OP_RECV)
        if name == "accept_direct":
            slots(ring, 2)
        in_flight(ring, udp, listener, buffer)[name]()
        ring.submit()
        if ring.reap():
            needs(ring, abi.IORING_OP_SOCKET)       # old ones refuse the flag at once
        assert_pinned(buffer)
    buffer += b"close() has cancelled it"


@pytest.mark.parametrize("name", BEHIND)
def test_what_waits_in_a_chain_cannot_be_resized_and_can_after_its_cqe(name, ring, udp, pair, held):
    opcode, prep = BEHIND[name]
    needs(ring, opcode)
    if "fixed" in name:
        ring.register_buffers([bytearray(8192)])     # another one: that lets go of it later
    buffer = bytearray(struct.pack("=i", 128).ljust(128, b"\0"))
    held(ring, "6.15 (sendmsg_zc_fixed) or 6.17 (lists)", lambda: prep(ring, udp[0], buffer))
    assert_pinned(buffer)
    release(ring, pair)
    buffer += b"nobody uses it any more"


def test_close_lets_go_of_everything(io_uring, udp, listener, pair, eager):
    buffers, look = watched(*[128] * 20)
    with Ring(32) as ring:
        needs(ring, abi.IORING_OP_RECV)
        there = ring.register_probe()
        for buffer in buffers:
            buffer[:4] = struct.pack("=i", 128)
        names = [name for name in in_flight(None, None, None, None)
                 if name != "accept_direct" and (name != "multishot_accept" or abi.IORING_OP_SOCKET in there)]
        begin = [in_flight(ring, udp, listener, buffers.pop())[name] for name in names]
        for fill in begin:
            fill()
        chain = [prep for name, (opcode, prep) in BEHIND.items() if opcode in there and "list" not in name
                 and "fixed" not in name]
        ring.prep_recv(pair[0], bytearray(1), user_data=1, sqe_flags=HARDLINK)
        for prep in chain:
            prep(ring, udp[0], buffers.pop(), sqe_flags=HARDLINK)
        ring.submit()
        refused = len(ring.reap())          # by old kernels
        begin = fill = buffer = None
        churn()
        assert len(look()) - look().count(None) >= len(names) + len(chain) - refused
    buffers.clear()
    assert set(look()) == {None}
