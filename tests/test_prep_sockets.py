"""pyuring/prep_sockets.py: which argument lands in which of the 64 bytes. Cases as in prepbytes.py."""
import socket
import struct

import pytest
from prepbytes import (  # noqa: F401
    DATA, IN, LEN, SIN, SIN6, UD, as_liburing, ask_liburing, exact_bytes, fake, ring,
)

from pyuring.prep_sockets import SocketPrep
from pyuring.sockaddr import SockAddr

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
}


@pytest.mark.parametrize("name", CASES)
def test_exact_bytes_and_what_they_point_to(name, fake, ring):
    exact_bytes(CASES[name], fake, ring)


def test_every_prep_method_has_a_case():
    have = {name for name in vars(SocketPrep) if name.startswith("prep_")}
    assert have == {"prep_" + name.split()[0] for name in CASES}


@pytest.fixture(scope="module")
def liburing(tmp_path_factory):
    return ask_liburing(CASES, tmp_path_factory.mktemp("liburing"))


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes_as_liburing(name, fake, ring, liburing):
    as_liburing(name, CASES[name], fake, ring, liburing)
