"""pyuring/prep_sockets.py: which argument lands in which of the 64 bytes, and what is refused. Cases as in
prepbytes.py. What the requests do is in test_sockets.py, what a msghdr points to in test_messages.py."""
import ctypes
import errno
import socket
import struct
import sys

import pytest
from prepbytes import (  # noqa: F401
    BIG, DATA, IN, LEN, PLACE, SIN, SIN6, UD, as_liburing, ask_liburing, exact_bytes, fake, sent,
)

from pyuring.batch import Batch
from pyuring.messages import Msghdr
from pyuring.prep_sockets import SocketPrep
from pyuring.ring import Ring
from pyuring.sockaddr import SockAddr

@pytest.fixture
def ring(fake):
    """Of a kernel that may know how to send a list of buffers."""
    with Ring(4) as ring:
        ring.features |= 1 << 14        # IORING_FEAT_RECVSEND_BUNDLE
        yield ring


ALLOC = 0xFFFFFFFF              # IORING_FILE_INDEX_ALLOC
ROOM = bytearray(range(128))    # for an address, of any length
ROOM_LEN = struct.pack("=i", 128)
OUT = Msghdr(("127.0.0.1", 0x1234), [DATA, DATA])
BACK = Msghdr(16, [IN], 64)

CASES = {
    "socket": (
        lambda r: r.prep_socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 17, user_data=UD),
        {"opcode": 45, "fd": 10, "off": 0o2000002, "len": 17, "user_data": UD}, {},
        "io_uring_prep_socket(s, AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 17, 0); s->user_data = UD"),
    "socket into a slot": (
        lambda r: r.prep_socket(2, 1, 0, 3, file_index=5, sqe_flags=8),
        {"opcode": 45, "fd": 2, "off": 1, "op_flags": 3, "file_index": 5, "flags": 8}, {},
        "io_uring_prep_socket_direct(s, AF_INET, SOCK_STREAM, 0, 4, 3); s->flags = 8"),
    "socket into any slot": (
        lambda r: r.prep_socket(2, 1, file_index=0xFFFFFFFF),
        {"opcode": 45, "fd": 2, "off": 1, "file_index": 0xFFFFFFFF}, {},
        "io_uring_prep_socket_direct_alloc(s, AF_INET, SOCK_STREAM, 0, 0)"),
    "socket_direct": (
        lambda r: r.prep_socket_direct(10, 2, 17, 4, 3, user_data=UD, sqe_flags=8),
        {"opcode": 45, "fd": 10, "off": 2, "len": 17, "op_flags": 3, "file_index": 5, "flags": 8, "user_data": UD}, {},
        "io_uring_prep_socket_direct(s, AF_INET6, SOCK_DGRAM, 17, 4, 3); s->flags = 8; s->user_data = UD"),
    # In C _ALLOC - 1, which liburing adds one to: before 2.4 _ALLOC itself came out as 0.
    "socket_direct, any slot": (
        lambda r: r.prep_socket_direct(2, 1),
        {"opcode": 45, "fd": 2, "off": 1, "file_index": ALLOC}, {},
        "io_uring_prep_socket_direct(s, AF_INET, SOCK_STREAM, 0, IORING_FILE_INDEX_ALLOC - 1, 0)"),
    "socket_direct, the last slot": (
        lambda r: r.prep_socket_direct(2, 1, file_index=ALLOC - 2),
        {"opcode": 45, "fd": 2, "off": 1, "file_index": ALLOC - 1}, {},
        "io_uring_prep_socket_direct(s, AF_INET, SOCK_STREAM, 0, IORING_FILE_INDEX_ALLOC - 2, 0)"),
    "socket_direct_alloc": (
        lambda r: r.prep_socket_direct_alloc(2, 1, 6, 3, user_data=UD, sqe_flags=1),
        {"opcode": 45, "fd": 2, "off": 1, "len": 6, "op_flags": 3, "file_index": ALLOC, "user_data": UD, "flags": 1},
        {},
        "io_uring_prep_socket_direct_alloc(s, AF_INET, SOCK_STREAM, 6, 3); s->user_data = UD; s->flags = 1"),
    "bind": (
        lambda r: r.prep_bind(5, ("127.0.0.1", 0x1234), user_data=UD, sqe_flags=4, personality=0x0201),
        {"opcode": 56, "fd": 5, "off": 16, "user_data": UD, "flags": 4, "personality": 0x0201}, {"addr": SIN},
        "io_uring_prep_bind(s, 5, p, 16); s->user_data = UD; s->flags = 4; s->personality = 0x0201"),
    "bind unix path": (
        lambda r: r.prep_bind(5, "/run/x"),
        {"opcode": 56, "fd": 5, "off": 9}, {"addr": struct.pack("=H", 1) + b"/run/x\0"},
        "io_uring_prep_bind(s, 5, p, 9)"),
    "listen": (
        lambda r: r.prep_listen(5, 7, user_data=UD, sqe_flags=4),
        {"opcode": 57, "fd": 5, "len": 7, "user_data": UD, "flags": 4}, {},
        "io_uring_prep_listen(s, 5, 7); s->user_data = UD; s->flags = 4"),
    "listen by default": (
        lambda r: r.prep_listen(5), {"opcode": 57, "fd": 5, "len": 128}, {}, "io_uring_prep_listen(s, 5, 128)"),
    "connect": (
        lambda r: r.prep_connect(5, ("127.0.0.1", 0x1234), user_data=UD, sqe_flags=4, personality=0x0201),
        {"opcode": 16, "fd": 5, "off": 16, "user_data": UD, "flags": 4, "personality": 0x0201}, {"addr": SIN},
        "io_uring_prep_connect(s, 5, p, 16); s->user_data = UD; s->flags = 4; s->personality = 0x0201"),
    "connect ipv6 with flow and scope": (
        lambda r: r.prep_connect(5, ("::1", 0x1234, 0x45678, 7)),
        {"opcode": 16, "fd": 5, "off": 28}, {"addr": SIN6}, "io_uring_prep_connect(s, 5, p, 28)"),
    "connect unix path": (
        lambda r: r.prep_connect(5, "/run/x"),
        {"opcode": 16, "fd": 5, "off": 9}, {"addr": struct.pack("=H", 1) + b"/run/x\0"},
        "io_uring_prep_connect(s, 5, p, 9)"),
    "connect abstract name": (
        lambda r: r.prep_connect(5, b"\0xy"),
        {"opcode": 16, "fd": 5, "off": 5}, {"addr": struct.pack("=H", 1) + b"\0xy"},
        "io_uring_prep_connect(s, 5, p, 5)"),
    "connect SockAddr": (
        lambda r: r.prep_connect(5, SockAddr(b"\x63\x00any bytes")),
        {"opcode": 16, "fd": 5, "off": 11}, {"addr": b"\x63\x00any bytes"}, "io_uring_prep_connect(s, 5, p, 11)"),
    "accept": (
        lambda r: r.prep_accept(5, user_data=UD),
        {"opcode": 13, "fd": 5, "op_flags": 0o2000000, "user_data": UD}, {},
        "io_uring_prep_accept(s, 5, 0, 0, SOCK_CLOEXEC); s->user_data = UD"),
    "accept with addr and addrlen": (
        lambda r: r.prep_accept(5, IN, LEN, 0o4000, ioprio=6, personality=9),
        {"opcode": 13, "fd": 5, "op_flags": 0o4000, "ioprio": 6, "personality": 9},
        {"addr": bytes(IN), "off": struct.pack("=i", 10)},
        "io_uring_prep_accept(s, 5, p, (socklen_t *)p, SOCK_NONBLOCK); s->ioprio = 6; s->personality = 9"),
    "accept with addr alone": (
        lambda r: r.prep_accept(5, IN, flags=0),
        {"opcode": 13, "fd": 5}, {"addr": bytes(IN), "off": struct.pack("=i", 10)},
        "io_uring_prep_accept(s, 5, p, (socklen_t *)p, 0)"),
    "accept multishot": (
        lambda r: r.prep_accept(5, flags=0, ioprio=1),
        {"opcode": 13, "fd": 5, "ioprio": 1}, {}, "io_uring_prep_multishot_accept(s, 5, 0, 0, 0)"),
    "accept into a slot": (
        lambda r: r.prep_accept(5, flags=0, file_index=8),
        {"opcode": 13, "fd": 5, "file_index": 8}, {}, "io_uring_prep_accept_direct(s, 5, 0, 0, 0, 7)"),
    "accept_direct": (
        lambda r: r.prep_accept_direct(5, IN, LEN, 0o4000, 7, user_data=UD, sqe_flags=8, ioprio=4, personality=9),
        {"opcode": 13, "fd": 5, "op_flags": 0o4000, "file_index": 8, "user_data": UD, "flags": 8, "ioprio": 4,
         "personality": 9},
        {"addr": bytes(IN), "off": struct.pack("=i", 10)},
        "io_uring_prep_accept_direct(s, 5, p, (socklen_t *)p, SOCK_NONBLOCK, 7); s->user_data = UD; s->flags = 8; "
        "s->ioprio = 4; s->personality = 9"),
    "accept_direct, any slot": (
        lambda r: r.prep_accept_direct(5),
        {"opcode": 13, "fd": 5, "file_index": ALLOC}, {},
        "io_uring_prep_accept_direct(s, 5, 0, 0, 0, IORING_FILE_INDEX_ALLOC - 1)"),
    "multishot_accept": (
        lambda r: r.prep_multishot_accept(5, user_data=UD, sqe_flags=1),
        {"opcode": 13, "fd": 5, "op_flags": 0o2000000, "ioprio": 1, "user_data": UD, "flags": 1}, {},
        "io_uring_prep_multishot_accept(s, 5, 0, 0, SOCK_CLOEXEC); s->user_data = UD; s->flags = 1"),
    "multishot_accept with addr": (
        lambda r: r.prep_multishot_accept(5, ROOM, None, 0, ioprio=4, personality=9),
        {"opcode": 13, "fd": 5, "ioprio": 5, "personality": 9}, {"addr": bytes(ROOM), "off": ROOM_LEN},
        "io_uring_prep_multishot_accept(s, 5, p, (socklen_t *)p, 0); s->ioprio |= 4; s->personality = 9"),
    "multishot_accept_direct": (
        lambda r: r.prep_multishot_accept_direct(5, ROOM, flags=0o4000, user_data=UD, sqe_flags=1, personality=9),
        {"opcode": 13, "fd": 5, "op_flags": 0o4000, "ioprio": 1, "file_index": ALLOC, "user_data": UD, "flags": 1,
         "personality": 9},
        {"addr": bytes(ROOM), "off": ROOM_LEN},
        "io_uring_prep_multishot_accept_direct(s, 5, p, (socklen_t *)p, SOCK_NONBLOCK); s->user_data = UD; "
        "s->flags = 1; s->personality = 9"),
    "shutdown": (
        lambda r: r.prep_shutdown(5, socket.SHUT_RDWR, user_data=UD, sqe_flags=1),
        {"opcode": 34, "fd": 5, "len": 2, "user_data": UD, "flags": 1}, {},
        "io_uring_prep_shutdown(s, 5, SHUT_RDWR); s->user_data = UD; s->flags = 1"),
    "send": (
        lambda r: r.prep_send(5, DATA, flags=0x4000, user_data=UD, sqe_flags=0x10, ioprio=1),
        {"opcode": 26, "fd": 5, "len": 12, "op_flags": 0x4000, "user_data": UD, "flags": 0x10, "ioprio": 1},
        {"addr": DATA},
        "io_uring_prep_send(s, 5, p, 12, MSG_NOSIGNAL); s->user_data = UD; s->flags = 0x10; s->ioprio = 1"),
    "send a part": (
        lambda r: r.prep_send(5, memoryview(DATA)[3:], 4),
        {"opcode": 26, "fd": 5, "len": 4}, {"addr": b"lve "}, "io_uring_prep_send(s, 5, p, 4, 0)"),
    "send a provided buffer": (
        lambda r: r.prep_send(5, None, 64, sqe_flags=0x20, buf_group=0x0304),
        {"opcode": 26, "fd": 5, "len": 64, "flags": 0x20, "buf_index": 0x0304}, {},
        "io_uring_prep_send(s, 5, 0, 64, 0); s->flags = 0x20; s->buf_group = 0x0304"),
    "send a list": (
        lambda r: r.prep_send(5, [DATA, IN], ioprio=1),
        {"opcode": 26, "fd": 5, "len": 2, "ioprio": 0x21}, {"addr": b""},
        "io_uring_prep_send(s, 5, p, 2, 0); s->ioprio = 0x21"),
    "sendto": (
        lambda r: r.prep_sendto(5, DATA, 11, 0x4000, ("127.0.0.1", 0x1234), user_data=UD, sqe_flags=0x10, ioprio=1),
        {"opcode": 26, "fd": 5, "len": 11, "op_flags": 0x4000, "file_index": 16 << 16 * BIG, "user_data": UD,
         "flags": 0x10, "ioprio": 1}, {"addr": DATA[:11], "off": SIN},
        "io_uring_prep_sendto(s, 5, p, 11, MSG_NOSIGNAL, (struct sockaddr *)p, 16); s->user_data = UD; "
        "s->flags = 0x10; s->ioprio = 1"),
    "sendto nobody in particular": (
        lambda r: r.prep_sendto(5, DATA),
        {"opcode": 26, "fd": 5, "len": 12}, {"addr": DATA}, "io_uring_prep_sendto(s, 5, p, 12, 0, 0, 0)"),
    "sendto a list of buffers": (
        lambda r: r.prep_sendto(5, (DATA,), address=("::1", 0x1234, 0x45678, 7)),
        {"opcode": 26, "fd": 5, "len": 1, "ioprio": 0x20, "file_index": 28 << 16 * BIG}, {"addr": b"", "off": SIN6},
        "io_uring_prep_sendto(s, 5, p, 1, 0, (struct sockaddr *)p, 28); s->ioprio = 0x20"),
    "sendto with a provided buffer": (
        lambda r: r.prep_sendto(5, None, 9, 0, "/run/x", sqe_flags=0x20, buf_group=3),
        {"opcode": 26, "fd": 5, "len": 9, "file_index": 9 << 16 * BIG, "flags": 0x20, "buf_index": 3},
        {"off": struct.pack("=H", 1) + b"/run/x\0"},
        "io_uring_prep_sendto(s, 5, 0, 9, 0, (struct sockaddr *)p, 9); s->flags = 0x20; s->buf_group = 3"),
    "send_set_addr": (
        lambda r: (r.prep_send(5, DATA, 11, 0x4000, user_data=UD, sqe_flags=0x10, ioprio=1),
                   r.prep_send_set_addr(("127.0.0.1", 0x1234)))[1],
        {"opcode": 26, "fd": 5, "len": 11, "op_flags": 0x4000, "file_index": 16 << 16 * BIG, "user_data": UD,
         "flags": 0x10, "ioprio": 1}, {"addr": DATA[:11], "off": SIN},
        "io_uring_prep_send(s, 5, p, 11, MSG_NOSIGNAL); io_uring_prep_send_set_addr(s, (struct sockaddr *)p, 16); "
        "s->user_data = UD; s->flags = 0x10; s->ioprio = 1"),
    "send_set_addr for send_zc": (
        lambda r: (r.prep_send_zc(5, DATA), r.prep_send_set_addr(("::1", 0x1234, 0x45678, 7)))[1],
        {"opcode": 47, "fd": 5, "len": 12, "file_index": 28 << 16 * BIG}, {"addr": DATA, "off": SIN6},
        "io_uring_prep_send_zc(s, 5, p, 12, 0, 0); io_uring_prep_send_set_addr(s, (struct sockaddr *)p, 28)"),
    "send_bundle": (
        lambda r: r.prep_send_bundle(5, 64, 0x4000, user_data=UD, ioprio=1, buf_group=0x0304),
        {"opcode": 26, "fd": 5, "len": 64, "op_flags": 0x4000, "user_data": UD, "flags": 0x20, "ioprio": 0x11,
         "buf_index": 0x0304}, {},
        "io_uring_prep_send_bundle(s, 5, 64, MSG_NOSIGNAL); s->user_data = UD; s->flags = 0x20; s->ioprio |= 1; "
        "s->buf_group = 0x0304"),
    "send_bundle by default": (
        lambda r: r.prep_send_bundle(5, sqe_flags=4),
        {"opcode": 26, "fd": 5, "flags": 0x24, "ioprio": 0x10}, {},
        "io_uring_prep_send_bundle(s, 5, 0, 0); s->flags = 0x24"),
    "send_zc": (
        lambda r: r.prep_send_zc(5, DATA, 11, 0x4000, 9, user_data=UD, sqe_flags=0x10),
        {"opcode": 47, "fd": 5, "len": 11, "op_flags": 0x4000, "ioprio": 9, "user_data": UD, "flags": 0x10},
        {"addr": DATA[:11]},
        "io_uring_prep_send_zc(s, 5, p, 11, MSG_NOSIGNAL, 9); s->user_data = UD; s->flags = 0x10"),
    "send_zc to an address": (
        lambda r: r.prep_send_zc(5, DATA, address=("127.0.0.1", 0x1234)),
        {"opcode": 47, "fd": 5, "len": 12, "file_index": 16 << 16 * BIG}, {"addr": DATA, "off": SIN},
        "io_uring_prep_send_zc(s, 5, p, 12, 0, 0); io_uring_prep_send_set_addr(s, (struct sockaddr *)p, 16)"),
    "send_zc of a list": (
        lambda r: r.prep_send_zc(5, [DATA] * 3, None, 0, 8),
        {"opcode": 47, "fd": 5, "len": 3, "ioprio": 0x28}, {"addr": b""},
        "io_uring_prep_send_zc(s, 5, p, 3, 0, 0x28)"),
    "send_zc_fixed": (
        lambda r: r.prep_send_zc_fixed(5, memoryview(IN)[2:], 7, 0x4000, 8, 0x0304, user_data=UD, sqe_flags=0x10),
        {"opcode": 47, "fd": 5, "len": 7, "op_flags": 0x4000, "ioprio": 12, "buf_index": 0x0304, "user_data": UD,
         "flags": 0x10}, {"addr": bytes(IN[2:9])},
        "io_uring_prep_send_zc_fixed(s, 5, p, 7, MSG_NOSIGNAL, 8, 0x0304); s->user_data = UD; s->flags = 0x10"),
    "send_zc_fixed of a list to an address": (
        lambda r: r.prep_send_zc_fixed(5, [IN, IN], address=SockAddr(SIN)),
        {"opcode": 47, "fd": 5, "len": 2, "ioprio": 0x24, "file_index": 16 << 16 * BIG}, {"addr": b"", "off": SIN},
        "io_uring_prep_send_zc_fixed(s, 5, p, 2, 0, 0x20, 0); "
        "io_uring_prep_send_set_addr(s, (struct sockaddr *)p, 16)"),
    "sendmsg": (
        lambda r: r.prep_sendmsg(5, OUT, 0x4000, user_data=UD, sqe_flags=0x10, ioprio=1),
        {"opcode": 9, "fd": 5, "len": 1, "op_flags": 0x4000, "user_data": UD, "flags": 0x10, "ioprio": 1},
        {"addr": b""},
        "io_uring_prep_sendmsg(s, 5, (struct msghdr *)p, MSG_NOSIGNAL); s->user_data = UD; s->flags = 0x10; "
        "s->ioprio = 1"),
    "sendmsg_zc": (
        lambda r: r.prep_sendmsg_zc(5, OUT, 0x4000, user_data=UD, sqe_flags=0x10, ioprio=8),
        {"opcode": 48, "fd": 5, "len": 1, "op_flags": 0x4000, "user_data": UD, "flags": 0x10, "ioprio": 8},
        {"addr": b""},
        "io_uring_prep_sendmsg_zc(s, 5, (struct msghdr *)p, MSG_NOSIGNAL); s->user_data = UD; s->flags = 0x10; "
        "s->ioprio = 8"),
    "sendmsg_zc_fixed": (
        lambda r: r.prep_sendmsg_zc_fixed(5, OUT, 0x4000, 0x0304, user_data=UD, sqe_flags=0x10, ioprio=8),
        {"opcode": 48, "fd": 5, "len": 1, "op_flags": 0x4000, "user_data": UD, "flags": 0x10, "ioprio": 12,
         "buf_index": 0x0304}, {"addr": b""},
        "io_uring_prep_sendmsg_zc_fixed(s, 5, (struct msghdr *)p, MSG_NOSIGNAL, 0x0304); s->user_data = UD; "
        "s->flags = 0x10; s->ioprio |= 8"),
    "recv": (
        lambda r: r.prep_recv(5, IN, flags=0x40, user_data=UD),
        {"opcode": 27, "fd": 5, "len": 10, "op_flags": 0x40, "user_data": UD}, {"addr": bytes(IN)},
        "io_uring_prep_recv(s, 5, p, 10, MSG_DONTWAIT); s->user_data = UD"),
    "recv from inside a buffer": (
        lambda r: r.prep_recv(5, memoryview(IN)[2:], 3, ioprio=1),
        {"opcode": 27, "fd": 5, "len": 3, "ioprio": 1}, {"addr": bytes(IN[2:5])},
        "io_uring_prep_recv(s, 5, p, 3, 0); s->ioprio = 1"),
    "recv with a provided buffer": (
        lambda r: r.prep_recv(5, None, 64, sqe_flags=0x20, buf_group=0x0304, ioprio=2),
        {"opcode": 27, "fd": 5, "len": 64, "flags": 0x20, "buf_index": 0x0304, "ioprio": 2}, {},
        "io_uring_prep_recv(s, 5, 0, 64, 0); s->flags = 0x20; s->buf_group = 0x0304; s->ioprio = 2"),
    "recv_multishot": (
        lambda r: r.prep_recv_multishot(5, None, 64, 0x40, user_data=UD, ioprio=0x11, buf_group=0x0304, optlen=999),
        {"opcode": 27, "fd": 5, "len": 64, "op_flags": 0x40, "flags": 0x20, "buf_index": 0x0304, "ioprio": 0x13,
         "file_index": 999, "user_data": UD}, {},
        "io_uring_prep_recv_multishot(s, 5, 0, 64, MSG_DONTWAIT); s->flags = 0x20; s->buf_group = 0x0304; "
        "s->ioprio |= 0x11; s->user_data = UD; s->file_index = 999"),
    "recv_multishot by default": (
        lambda r: r.prep_recv_multishot(5, sqe_flags=1),
        {"opcode": 27, "fd": 5, "flags": 0x21, "ioprio": 2}, {},
        "io_uring_prep_recv_multishot(s, 5, 0, 0, 0); s->flags = 0x21"),
    "recvmsg": (
        lambda r: r.prep_recvmsg(5, BACK, 0x40, user_data=UD, sqe_flags=0x30, ioprio=1, buf_group=0x0304),
        {"opcode": 10, "fd": 5, "len": 1, "op_flags": 0x40, "user_data": UD, "flags": 0x30, "ioprio": 1,
         "buf_index": 0x0304}, {"addr": b""},
        "io_uring_prep_recvmsg(s, 5, (struct msghdr *)p, MSG_DONTWAIT); s->user_data = UD; s->flags = 0x30; "
        "s->ioprio = 1; s->buf_group = 0x0304"),
    "recvmsg_multishot": (
        lambda r: r.prep_recvmsg_multishot(5, BACK, 0x40, user_data=UD, sqe_flags=0x10, ioprio=1, buf_group=0x0304),
        {"opcode": 10, "fd": 5, "len": 1, "op_flags": 0x40, "user_data": UD, "flags": 0x30, "ioprio": 3,
         "buf_index": 0x0304}, {"addr": b""},
        "io_uring_prep_recvmsg_multishot(s, 5, (struct msghdr *)p, MSG_DONTWAIT); s->user_data = UD; "
        "s->flags = 0x30; s->ioprio |= 1; s->buf_group = 0x0304"),
    "recv_zc": (        # liburing has no helper; test/zcrx.c of liburing fills it in like this
        lambda r: r.prep_recv_zc(5, 4096, 0x40, zcrx_ifq_idx=9, user_data=UD, sqe_flags=1),
        {"opcode": 58, "fd": 5, "len": 4096, "op_flags": 0x40, "ioprio": 2, "file_index": 9, "user_data": UD,
         "flags": 1}, {},
        "io_uring_prep_rw(58, s, 5, 0, 4096, 0); s->msg_flags = MSG_DONTWAIT; "
        "s->ioprio |= 2; s->file_index = 9; s->user_data = UD; s->flags = 1"),
    "recv_zc by default": (
        lambda r: r.prep_recv_zc(5),
        {"opcode": 58, "fd": 5, "ioprio": 2}, {},
        "io_uring_prep_rw(58, s, 5, 0, 0, 0); s->ioprio |= 2"),
    "uring_cmd": (
        lambda r: r.prep_uring_cmd(0x89ABCDEF, 5, user_data=UD, sqe_flags=1),
        {"opcode": 46, "fd": 5, "off": 0x89ABCDEF << 32 * BIG, "user_data": UD, "flags": 1}, {},
        "io_uring_prep_uring_cmd(s, 0x89ABCDEF, 5); s->user_data = UD; s->flags = 1"),
    "uring_cmd with everything": (
        lambda r: r.prep_uring_cmd(7, 5, cmd=b"0123456789abcdef", addr=2**40 + 3, len=9, flags=1, buf_index=0x0304,
                                   file_index=0x89ABCDEF),
        {"opcode": 46, "fd": 5, "off": 7 << 32 * BIG, "addr": 2**40 + 3, "len": 9, "op_flags": 1,
         "buf_index": 0x0304, "file_index": 0x89ABCDEF, "addr3": int.from_bytes(b"01234567", sys.byteorder),
         "attr_type_mask": int.from_bytes(b"89abcdef", sys.byteorder)}, {},
        "io_uring_prep_uring_cmd(s, 7, 5); memcpy(s->cmd, \"0123456789abcdef\", 16); s->addr = (1ULL << 40) + 3; "
        "s->len = 9; s->uring_cmd_flags = 1; s->buf_index = 0x0304; s->file_index = 0x89ABCDEF"),
    "uring_cmd with a few bytes": (
        lambda r: r.prep_uring_cmd(7, 5, cmd=bytearray(b"012345678")),
        {"opcode": 46, "fd": 5, "off": 7 << 32 * BIG, "addr3": int.from_bytes(b"01234567", sys.byteorder),
         "attr_type_mask": int.from_bytes(b"8\0\0\0\0\0\0\0", sys.byteorder)}, {},
        "io_uring_prep_uring_cmd(s, 7, 5); memcpy(s->cmd, \"012345678\", 9)"),
    "cmd_sock to get an option": (
        lambda r: r.prep_cmd_sock(2, 5, 1, 0x2003, IN, 4, user_data=UD, sqe_flags=1),
        {"opcode": 46, "fd": 5, "off": 2 << 32 * BIG, "addr": 1 << 32 | 0x2003 if BIG else 0x2003 << 32 | 1,
         "file_index": 4, "user_data": UD, "flags": 1}, {"addr3": bytes(IN[:4])},
        "io_uring_prep_cmd_sock(s, 2, 5, SOL_SOCKET, 0x2003, p, 4); s->user_data = UD; "
        "s->flags = 1"),
    "cmd_sock to set an option": (
        lambda r: r.prep_cmd_sock(3, 5, 6, 1, -2),
        {"opcode": 46, "fd": 5, "off": 3 << 32 * BIG, "addr": 6 << 32 | 1 if BIG else 1 << 32 | 6, "file_index": 4},
        {"addr3": struct.pack("=i", -2)},
        "io_uring_prep_cmd_sock(s, 3, 5, 6, 1, p, 4)"),
    "cmd_sock to set an option of bytes": (
        lambda r: r.prep_cmd_sock(3, 5, 6, 13, b"cubic"),
        {"opcode": 46, "fd": 5, "off": 3 << 32 * BIG, "addr": 6 << 32 | 13 if BIG else 13 << 32 | 6,
         "file_index": 5}, {"addr3": b"cubic"},
        "io_uring_prep_cmd_sock(s, 3, 5, 6, 13, p, 5)"),
    "cmd_sock to ask": (
        lambda r: r.prep_cmd_sock(1, 5),
        {"opcode": 46, "fd": 5, "off": 1 << 32 * BIG}, {},
        "io_uring_prep_cmd_sock(s, 1, 5, 0, 0, 0, 0)"),
    "cmd_sock for timestamps": (
        lambda r: r.prep_cmd_sock(4, 5),
        {"opcode": 46, "fd": 5, "off": 4 << 32 * BIG}, {},
        "io_uring_prep_cmd_sock(s, 4, 5, 0, 0, 0, 0)"),
    "cmd_getsockname": (
        lambda r: r.prep_cmd_getsockname(5, IN, LEN, user_data=UD, sqe_flags=1),
        {"opcode": 46, "fd": 5, "off": 5 << 32 * BIG, "user_data": UD, "flags": 1},
        {"addr": bytes(IN), "addr3": struct.pack("=i", 10)},
        "io_uring_prep_cmd_getsockname(s, 5, (struct sockaddr *)p, (socklen_t *)p, 0); s->user_data = UD; "
        "s->flags = 1"),
    "cmd_getsockname of the peer": (
        lambda r: r.prep_cmd_getsockname(5, ROOM, peer=1),
        {"opcode": 46, "fd": 5, "off": 5 << 32 * BIG, "file_index": 1}, {"addr": bytes(ROOM), "addr3": ROOM_LEN},
        "io_uring_prep_cmd_getsockname(s, 5, (struct sockaddr *)p, (socklen_t *)p, 1)"),
}


@pytest.mark.parametrize("name", CASES)
def test_exact_bytes_and_what_they_point_to(name, fake, ring):
    exact_bytes(CASES[name], fake, ring)


def test_every_prep_method_has_a_case():
    have = {name for name in vars(SocketPrep) if name.startswith("prep_")}
    assert have == {"prep_" + name.split()[0].rstrip(",") for name in CASES} | {"prep_uring_cmd128"}


@pytest.fixture(scope="module")
def liburing(tmp_path_factory):
    return ask_liburing(CASES, tmp_path_factory.mktemp("liburing"))


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes_as_liburing(name, fake, ring, liburing):
    as_liburing(name, CASES[name], fake, ring, liburing)


# ------------------------------------------------------------------------------------- lists, changes, 128 bytes

def words(sqe, name, *targets):
    """The numbers at the address in this field of the SQE."""
    at, size = PLACE[name]
    address = int.from_bytes(sqe[at:at + size], sys.byteorder)
    return struct.unpack(f"@{len(targets)}N", ctypes.string_at(address, len(targets) * struct.calcsize("N")))


@pytest.mark.parametrize("fill", [
    lambda r, buffers: r.prep_send(5, buffers), lambda r, buffers: r.prep_sendto(5, buffers, address="/x"),
    lambda r, buffers: r.prep_send_zc(5, buffers), lambda r, buffers: r.prep_send_zc_fixed(5, buffers),
], ids=["send", "sendto", "send_zc", "send_zc_fixed"])
def test_a_list_of_buffers_is_an_array_of_iovecs(fill, fake, ring):
    fill(ring, [DATA, b"", memoryview(IN)[2:5]])
    first, size, _, none, second, part = words(fake.raw_sqe(0), "addr", *range(6))
    assert (size, none, part) == (12, 0, 3)
    assert ctypes.string_at(first, size) == DATA
    assert ctypes.string_at(second, part) == IN[2:5]


def test_an_empty_list_of_buffers_is_no_iovec(fake, ring):
    ring.prep_send(5, [])
    sqe = sent(fake, ring)
    assert (sqe["len"], sqe["ioprio"]) == (0, 0x20)


@pytest.mark.parametrize("fill", [
    lambda r: r.prep_send(5, [DATA]), lambda r: r.prep_sendto(5, (DATA,)), lambda r: r.prep_send_zc(5, []),
    lambda r: r.prep_send_zc_fixed(5, [IN]),
], ids=["send", "sendto", "send_zc", "send_zc_fixed"])
def test_a_list_is_refused_where_the_kernel_would_send_the_addresses(fill, fake, ring):
    ring.features = 0
    with pytest.raises(OSError, match="prep_sendmsg") as caught:
        fill(ring)
    assert caught.value.errno == errno.EINVAL
    assert ring.sq_ready == 0


def test_as_many_buffers_as_the_kernel_takes(fake, ring):
    ring.prep_send(5, [b"x"] * 1024)
    assert sent(fake, ring)["len"] == 1024


@pytest.mark.parametrize("before, names", [
    (lambda r: None, "no SQE"),
    (lambda r: (r.prep_send(5, DATA), r.submit()), "no SQE"),
    (lambda r: (r.prep_send(5, DATA), r.prep_nop()), "opcode 0"),
    (lambda r: r.prep_recv(5, IN), "opcode 27"),
    (lambda r: r.prep_sendmsg(5, OUT), "prep_send_zc"),
])
def test_send_set_addr_changes_nothing_but_a_send_that_waits(before, names, fake, ring):
    before(ring)
    sqes = bytes(fake.sqes)
    with pytest.raises(ValueError, match=names):
        ring.prep_send_set_addr(("127.0.0.1", 1))
    assert bytes(fake.sqes) == sqes
    assert sum(map(len, ring._keepers.values())) <= 2


def test_send_set_addr_is_refused_where_sqes_have_two_sizes(ring):
    ring.prep_send(5, DATA)
    ring.flags |= 1 << 19           # IORING_SETUP_SQE_MIXED
    with pytest.raises(ValueError, match="SQE_MIXED"):
        ring.prep_send_set_addr(("127.0.0.1", 1))


@pytest.mark.parametrize("start", [0, 2**32 - 1])
def test_send_set_addr_changes_the_last_of_several(start, monkeypatch):
    from fakekernel import FakeKernel
    fake = FakeKernel(sq_start=start)
    fake.install(monkeypatch)
    with Ring(2) as ring:
        ring.prep_send(5, b"one", user_data=1)
        ring.prep_send(5, b"two", user_data=2)
        ring.prep_send_set_addr("/run/x")
        ring.submit()
        assert [(sqe["user_data"], bool(sqe["off"]), sqe["file_index"]) for sqe in fake.submitted] == [
            (1, False, 0), (2, True, 9 << 16 * BIG)]


@pytest.mark.parametrize("sqe_flags", [0, 0x40, 0x44])
def test_send_set_addr_keeps_the_address_as_long_as_the_request(sqe_flags, fake, ring):
    """0x40 is IOSQE_CQE_SKIP_SUCCESS: no CQE will tell; 0x44 links it to the next, whose CQE does."""
    name = SockAddr(SIN * 100)

    def count():        # apart from assert, whose own variables would count
        return sys.getrefcount(name.raw)
    before = count()
    ring.prep_send(5, DATA, user_data=1, sqe_flags=sqe_flags)
    ring.prep_send_set_addr(name)
    assert count() == before + 1
    ring.prep_nop(user_data=2)
    ring.submit()
    assert count() == before + 1
    fake.complete((2, 0, 0) if sqe_flags else (1, 12, 0))
    ring.reap()
    assert count() == before + (sqe_flags == 0x40)
    fake.complete((1, 0, 0), (2, 0, 0))         # so that close() finds nothing to wait for


@pytest.fixture
def filled128(monkeypatch):
    """What goes to the method that fills an SQE of 128 bytes."""
    calls = []
    monkeypatch.setattr(Ring, "_sqe128", lambda self, *arguments, **words: calls.append((arguments, words)))
    return calls


FIELDS = {"addr": 8, "len": 9, "off": 7 << 32 * BIG, "op_flags": 1, "buf_index": 2, "file_index": 3, "user_data": UD,
          "sqe_flags": 4, "keeper": DATA}


@pytest.mark.parametrize("size", [0, 16, 17, 80])
def test_uring_cmd128_fills_an_sqe_of_128_bytes(size, filled128, ring):
    ring.prep_uring_cmd128(7, 5, cmd=bytearray(range(size)), addr=8, len=9, flags=1, buf_index=2, file_index=3,
                           user_data=UD, sqe_flags=4, keeper=DATA)
    assert filled128 == [((64, 5), dict(FIELDS, cmd=bytes(range(size)) + bytes(80 - size)))]
    assert ring.sq_ready == 0


@pytest.mark.parametrize("size", [0, 16, 17, 80])
def test_uring_cmd_takes_80_bytes_where_every_sqe_has_128(size, filled128, ring):
    ring.flags |= 1 << 10           # IORING_SETUP_SQE128
    ring.prep_uring_cmd(7, 5, cmd=bytearray(range(size)), addr=8, len=9, flags=1, buf_index=2, file_index=3,
                        user_data=UD, sqe_flags=4, keeper=DATA)
    assert filled128 == [((46, 5), dict(FIELDS, cmd=bytes(range(size)) + bytes(80 - size)))]


def test_uring_cmd128_needs_a_ring_for_it(ring):
    with pytest.raises(ValueError, match="IORING_SETUP_SQE128"):
        ring.prep_uring_cmd128(7, 5)
    assert ring.sq_ready == 0


# --------------------------------------------------------------------------------------------------------- batches
# Their SQEs are given to the kernel again and again, and it finds the sizes that it wrote itself.

@pytest.mark.parametrize("fill, exception, names", [
    (lambda b: b.prep_send(5, [DATA]), OSError, "Batch"),
    (lambda b: (b.prep_send(5, DATA), b.prep_send_set_addr(("127.0.0.1", 1))), ValueError, "prep_sendto"),
    (lambda b: b.prep_accept(5, bytearray(16)), ValueError, "128"),
    (lambda b: b.prep_accept_direct(5, bytearray(127)), ValueError, "128"),
    (lambda b: b.prep_cmd_getsockname(5, bytearray(16)), ValueError, "128"),
    (lambda b: b.prep_recvmsg(5, Msghdr(bytearray(16))), ValueError, "128"),
    (lambda b: b.prep_uring_cmd128(7, 5), ValueError, "64 bytes"),
    (lambda b: b.prep_uring_cmd(7, 5, cmd=bytes(17)), ValueError, "17 bytes"),
], ids=["list", "send_set_addr", "accept", "accept_direct", "getsockname", "recvmsg", "uring_cmd128", "uring_cmd"])
def test_what_a_batch_cannot_have_is_refused_by_name(fill, exception, names):
    batch = Batch()
    with pytest.raises(exception, match=names):
        fill(batch)
    assert len(batch) == (1 if "sendto" in names else 0)


def test_what_a_batch_can_have(fake, ring):
    batch = Batch()
    batch.prep_accept(5, ROOM, user_data=1)
    batch.prep_accept(5, None, user_data=2)
    batch.prep_recvmsg(5, Msghdr(16, [IN]), user_data=3)        # whose room has more behind it
    batch.prep_recvmsg(5, Msghdr(bytearray(128)), user_data=4)
    ring.push(batch)
    assert ring.submit() == 4
    assert [sqe["user_data"] for sqe in fake.submitted] == [1, 2, 3, 4]
    batch = Batch()
    batch.prep_cmd_getsockname(5, ROOM, user_data=5)
    batch.prep_uring_cmd(7, 5, cmd=bytes(16), user_data=6)
    batch.prep_sendto(5, DATA, address="/run/x", user_data=7)
    ring.push(batch)
    with pytest.raises(ValueError, match="a Batch's"):
        ring.prep_send_set_addr("/run/y")
    ring.submit()
    fake.complete(*[(n, 0, 0) for n in range(1, 8)])
    ring.reap()


# ----------------------------------------------------------------------------------------------------- bad input

class Closed:
    def fileno(self):
        return -1


GAPS = memoryview(bytearray(10))[::2]
# (call, exception, what the message names)
BAD = {
    "a slot below 0": (lambda r: r.prep_socket_direct(2, 1, file_index=-1), ValueError, "file_index -1 "),
    "a slot that would be _ALLOC": (lambda r: r.prep_socket_direct(2, 1, 0, ALLOC - 1), ValueError, str(ALLOC - 1)),
    "a slot of 33 bits": (lambda r: r.prep_accept_direct(5, file_index=2**32), ValueError, str(2**32)),
    "a slot in str": (lambda r: r.prep_accept_direct(5, file_index="1"), TypeError, "'1'"),
    "a socket with CLOEXEC into a slot": (
        lambda r: r.prep_socket_direct(2, 1 | socket.SOCK_CLOEXEC, 0, 4), ValueError, "SOCK_CLOEXEC"),
    "a socket with CLOEXEC into any slot": (
        lambda r: r.prep_socket_direct_alloc(2, 1 | socket.SOCK_CLOEXEC), ValueError, "SOCK_CLOEXEC"),
    "accept with CLOEXEC into a slot": (
        lambda r: r.prep_accept_direct(5, None, None, socket.SOCK_CLOEXEC), ValueError, "SOCK_CLOEXEC"),
    "accept with CLOEXEC by default": (lambda r: r.prep_accept(5, file_index=3), ValueError, "file_index 3"),
    "accept again and again into 16 bytes": (
        lambda r: r.prep_multishot_accept(5, bytearray(16)), ValueError, "16 bytes"),
    "accept again and again into 127 bytes": (
        lambda r: r.prep_multishot_accept_direct(5, bytearray(127)), ValueError, "128"),
    "accept by ioprio into 16 bytes": (lambda r: r.prep_accept(5, bytearray(16), ioprio=1), ValueError, "128"),
    "accept into a closed slot": (lambda r: r.prep_multishot_accept(Closed()), ValueError, "closed"),
    "a domain of 33 bits": (lambda r: r.prep_socket_direct_alloc(2**32, 1), ValueError, str(2**32)),
    "bind to a name": (lambda r: r.prep_bind(5, ("localhost", 80)), ValueError, "localhost"),
    "bind to None": (lambda r: r.prep_bind(5, None), TypeError, "None"),
    "bind of nothing": (lambda r: r.prep_bind(None, "/x"), TypeError, "NoneType"),
    "listen below 0": (lambda r: r.prep_listen(5, -1), ValueError, "-1"),
    "listen to str": (lambda r: r.prep_listen(5, "8"), TypeError, "'8'"),
    "sendto a name": (lambda r: r.prep_sendto(5, b"x", address=("localhost", 80)), ValueError, "localhost"),
    "sendto an int": (lambda r: r.prep_sendto(5, b"x", None, 0, 7), TypeError, "7"),
    "sendto more than addr_len": (
        lambda r: r.prep_sendto(5, b"x", None, 0, SockAddr(bytes(65536))), ValueError, "65536 bytes"),
    "a length with a list": (lambda r: r.prep_send(5, [b"x"], 1), ValueError, "len 1 "),
    "a list with None in it": (lambda r: r.prep_send(5, [b"x", None]), TypeError, "NoneType"),
    "a list of ints": (lambda r: r.prep_send_zc(5, [1, 2]), TypeError, "int"),
    "a list of str": (lambda r: r.prep_send_zc_fixed(5, ["x"]), TypeError, "str"),
    "a list with gaps": (lambda r: r.prep_send(5, [GAPS]), ValueError, "gaps"),
    "a list of 1025": (lambda r: r.prep_send(5, [b"x"] * 1025), ValueError, "1025"),
    "one buffer, said to be a list": (lambda r: r.prep_send(5, bytes(16), ioprio=0x20), TypeError, "bytes"),
    "one buffer, said to be a list, zero-copy": (
        lambda r: r.prep_send_zc(5, bytearray(16), None, 0, 0x20), TypeError, "bytearray"),
    "a provided buffer, said to be a list": (
        lambda r: r.prep_send(5, None, 16, ioprio=0x20, sqe_flags=0x20), TypeError, "NoneType"),
    "send_zc of None": (lambda r: r.prep_send_zc(5, None), TypeError, "NoneType"),
    "send_zc more than there is": (lambda r: r.prep_send_zc(5, b"four", 5), ValueError, "5"),
    "zc_flags too wide": (lambda r: r.prep_send_zc(5, b"x", zc_flags=65536), ValueError, "65536"),
    "send_zc_fixed with a buf_index too wide": (
        lambda r: r.prep_send_zc_fixed(5, b"x", buf_index=65536), ValueError, "65536"),
    "a bundle below 0": (lambda r: r.prep_send_bundle(5, -1), ValueError, "-1"),
    "a bundle of a group too wide": (lambda r: r.prep_send_bundle(5, buf_group=65536), ValueError, "65536"),
    "sendmsg of bytes": (lambda r: r.prep_sendmsg(5, b"x"), TypeError, "Msghdr is needed"),
    "sendmsg_zc of None": (lambda r: r.prep_sendmsg_zc(5, None), TypeError, "NoneType"),
    "sendmsg of what is to be received": (lambda r: r.prep_sendmsg(5, BACK), TypeError, "name is room"),
    "sendmsg of room for control": (lambda r: r.prep_sendmsg(5, Msghdr(control=9)), TypeError, "control is room"),
    "sendmsg to a name": (lambda r: r.prep_sendmsg(5, Msghdr(("localhost", 80))), ValueError, "localhost"),
    "sendmsg of None in a list": (lambda r: r.prep_sendmsg(5, Msghdr(None, [None])), TypeError, "NoneType"),
    "sendmsg of 1025": (lambda r: r.prep_sendmsg(5, Msghdr(None, [b"x"] * 1025)), ValueError, "1025"),
    "recvmsg into a list": (lambda r: r.prep_recvmsg(5, [bytearray(4)]), TypeError, "list"),
    "recvmsg from an address": (lambda r: r.prep_recvmsg(5, OUT), TypeError, "127.0.0.1"),
    "recvmsg of messages": (
        lambda r: r.prep_recvmsg(5, Msghdr(control=[(1, 1, b"")])), TypeError, "control is what is to be sent"),
    "recvmsg into bytes": (lambda r: r.prep_recvmsg(5, Msghdr(iov=[b"four"])), TypeError, "bytes is read-only"),
    "recvmsg with a name in bytes": (
        lambda r: r.prep_recvmsg(5, Msghdr(memoryview(b"name"))), TypeError, "read-only"),
    "recvmsg with control in bytes": (lambda r: r.prep_recvmsg(5, Msghdr(control=b"c")), TypeError, "read-only"),
    "recvmsg_multishot of None": (lambda r: r.prep_recvmsg_multishot(5, None), TypeError, "NoneType"),
    "recv_multishot into a buffer": (lambda r: r.prep_recv_multishot(5, bytearray(4)), TypeError, "bytearray"),
    "recv_multishot below 0": (lambda r: r.prep_recv_multishot(5, None, -1), ValueError, "-1"),
    "recv_multishot of a group too wide": (
        lambda r: r.prep_recv_multishot(5, buf_group=65536), ValueError, "65536"),
    "recv_zc of a queue below 0": (lambda r: r.prep_recv_zc(5, zcrx_ifq_idx=-1), ValueError, "-1"),
    "a command below 0": (lambda r: r.prep_uring_cmd(-1, 5), ValueError, "cmd_op -1 "),
    "a command of 33 bits": (lambda r: r.prep_uring_cmd128(2**32, 5), ValueError, str(2**32)),
    "a command in str": (lambda r: r.prep_uring_cmd("DISCARD", 5), TypeError, "DISCARD"),
    "a command of 17 bytes": (lambda r: r.prep_uring_cmd(7, 5, cmd=bytes(17)), ValueError, "17 bytes"),
    "a command of 81 bytes": (lambda r: r.prep_uring_cmd128(7, 5, cmd=bytes(81)), ValueError, "81 bytes"),
    "a command of an int": (lambda r: r.prep_uring_cmd(7, 5, cmd=16), TypeError, "int"),
    "a level below 0": (lambda r: r.prep_cmd_sock(2, 5, -1, 1, IN), ValueError, "level -1 "),
    "an option in str": (lambda r: r.prep_cmd_sock(2, 5, 1, "SO_TYPE", IN), TypeError, "SO_TYPE"),
    "an option to get into nothing": (lambda r: r.prep_cmd_sock(2, 5, 1, 3), TypeError, "optval None"),
    "an option to get into bytes": (lambda r: r.prep_cmd_sock(2, 5, 1, 3, bytes(4)), TypeError, "read-only"),
    "an option to get into an int": (lambda r: r.prep_cmd_sock(2, 5, 1, 3, 4), TypeError, "int"),
    "an option to get beyond its buffer": (
        lambda r: r.prep_cmd_sock(2, 5, 1, 3, bytearray(4), 5), ValueError, "4 bytes"),
    "an option of 33 bits": (lambda r: r.prep_cmd_sock(3, 5, 1, 3, 2**31), ValueError, str(2**31)),
    "an option to set beyond its buffer": (lambda r: r.prep_cmd_sock(3, 5, 1, 3, 1, 8), ValueError, "8"),
    "getsockname by cmd_sock": (
        lambda r: r.prep_cmd_sock(5, 5, 1, 3, IN), ValueError, "prep_cmd_getsockname"),
    "getsockname into bytes": (lambda r: r.prep_cmd_getsockname(5, bytes(16)), TypeError, "read-only"),
    "getsockname beyond addr": (
        lambda r: r.prep_cmd_getsockname(5, bytearray(9), LEN), ValueError, "10, and addr has 9"),
    "getsockname with a short addrlen": (
        lambda r: r.prep_cmd_getsockname(5, IN, bytearray(3)), ValueError, "3 bytes"),
    "getsockname of a closed one": (lambda r: r.prep_cmd_getsockname(Closed(), IN), ValueError, "closed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name_and_enqueues_nothing(name, fake, ring):
    call, exception, names = BAD[name]
    with pytest.raises(exception) as caught:
        call(ring)
    assert names in str(caught.value)
    assert ring.sq_ready == 0
    assert not ring._inflight and not ring._keepers and not ring._chain_keepers, "a request nobody will answer"
    ring.prep_nop(user_data=UD)         # and the ring is as good as before
    assert sent(fake, ring)["user_data"] == UD
