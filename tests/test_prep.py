"""pyuring/prep.py and arguments.py: which argument lands in which of the 64 bytes, and what is refused.

Cases as in prepbytes.py. Read first: that; next: test_prep_files.py, test_prep_sockets.py.
"""
import array
import ctypes
import math
import mmap
import os
import socket
import struct
import sys

import pytest
from prepbytes import (  # noqa: F401
    DATA, IN, LEN, PLACE, SIN, U64, UD, as_liburing, ask_liburing, exact_bytes, expected, fake, ring, sent, ts,
    u32_halves,
)

from pyuring.arguments import Timespec
from pyuring.prep import Prep
from pyuring.ring import Ring
from pyuring.waiting import EPOLL_EVENT, EpollEvents, FutexWaitv, Siginfo

WORD = bytearray(b"\x01\x02\x03\x04and more")
OTHER = array.array("I", [5, 6])

CASES = {
    "nop": (
        lambda r: r.prep_nop(),
        {"opcode": 0, "fd": -1}, {}, "io_uring_prep_nop(s)"),
    "nop with everything": (
        lambda r: r.prep_nop(user_data=UD, sqe_flags=0x7f),
        {"opcode": 0, "fd": -1, "flags": 0x7f, "user_data": UD}, {},
        "io_uring_prep_nop(s); s->flags = 0x7f; s->user_data = UD"),
    "nop with a result": (
        lambda r: r.prep_nop(result=-110, user_data=UD),
        {"opcode": 0, "fd": -1, "op_flags": 1, "len": -110, "user_data": UD}, {},
        "io_uring_prep_nop(s); s->rw_flags = 1; s->len = -110; s->user_data = UD"),
    "nop with something to look up": (
        lambda r: r.prep_nop(nop_flags=0x2e, fd=5, buf_index=7, big_cqe=(UD, 3)),
        {"opcode": 0, "fd": 5, "op_flags": 0x2e, "buf_index": 7, "off": UD, "addr": 3}, {},
        "io_uring_prep_nop(s); s->rw_flags = 0x2e; s->fd = 5; s->buf_index = 7; s->off = UD; s->addr = 3"),
    "nop128": (
        lambda r: r.prep_nop128(user_data=UD, sqe_flags=4),
        {"opcode": 63, "fd": -1, "flags": 4, "user_data": UD}, {},
        "io_uring_prep_nop128(s); s->flags = 4; s->user_data = UD"),
    "nop128 with a result": (
        lambda r: r.prep_nop128(result=2**31 - 1, nop_flags=2, fd=9),
        {"opcode": 63, "fd": 9, "op_flags": 3, "len": 2**31 - 1}, {},
        "io_uring_prep_nop128(s); s->fd = 9; s->rw_flags = 3; s->len = 0x7fffffff"),
    "poll_add": (
        lambda r: r.prep_poll_add(5, 0x2001, user_data=UD),
        {"opcode": 6, "fd": 5, "op_flags": u32_halves(0x2001), "user_data": UD}, {},
        "io_uring_prep_poll_add(s, 5, 0x2001); s->user_data = UD"),
    "poll_add with a bit above 15": (
        lambda r: r.prep_poll_add(5, 0x80000004),
        {"opcode": 6, "fd": 5, "op_flags": u32_halves(0x80000004)}, {},
        "io_uring_prep_poll_add(s, 5, 0x80000004)"),
    "poll_multishot": (
        lambda r: r.prep_poll_multishot(5, 1, user_data=UD),
        {"opcode": 6, "fd": 5, "len": 1, "op_flags": u32_halves(1), "user_data": UD}, {},
        "io_uring_prep_poll_multishot(s, 5, 1); s->user_data = UD"),
    "poll_remove": (
        lambda r: r.prep_poll_remove(UD, user_data=3),
        {"opcode": 7, "fd": -1, "addr": UD, "user_data": 3}, {},
        "io_uring_prep_poll_remove(s, UD); s->user_data = 3"),
    "poll_update": (
        lambda r: r.prep_poll_update(UD, U64, 4, 6, user_data=3),
        {"opcode": 7, "fd": -1, "addr": UD, "off": U64, "len": 6, "op_flags": u32_halves(4), "user_data": 3}, {},
        "io_uring_prep_poll_update(s, UD, -1ULL, 4, 6); s->user_data = 3"),
    "timeout": (
        lambda r: r.prep_timeout(1.5, 3, 0x20, user_data=UD),
        {"opcode": 11, "fd": -1, "off": 3, "len": 1, "op_flags": 0x20, "user_data": UD},
        {"addr": ts(1, 500_000_000)},
        "io_uring_prep_timeout(s, (struct __kernel_timespec *)p, 3, 0x20); s->user_data = UD"),
    "timeout with a Timespec": (
        lambda r: r.prep_timeout(Timespec(2**63 - 1, 999_999_999)),
        {"opcode": 11, "fd": -1, "len": 1}, {"addr": ts(2**63 - 1, 999_999_999)},
        "io_uring_prep_timeout(s, (struct __kernel_timespec *)p, 0, 0)"),
    "timeout in nanoseconds": (
        lambda r: r.prep_timeout(1.5, 0, 0x80),
        {"opcode": 11, "fd": -1, "len": 1, "op_flags": 0x80, "addr": 1_500_000_000}, {},
        "io_uring_prep_timeout(s, (void *)1500000000, 0, 0x80)"),
    "timeout_remove": (
        lambda r: r.prep_timeout_remove(UD, 1, user_data=3),
        {"opcode": 12, "fd": -1, "addr": UD, "op_flags": 1, "user_data": 3}, {},
        "io_uring_prep_timeout_remove(s, UD, 1); s->user_data = 3"),
    "timeout_update": (
        lambda r: r.prep_timeout_update(0, UD, 1, user_data=3),
        {"opcode": 12, "fd": -1, "addr": UD, "op_flags": 3, "user_data": 3}, {"off": ts(0, 0)},
        "io_uring_prep_timeout_update(s, (struct __kernel_timespec *)p, UD, 1); s->user_data = 3"),
    "timeout_update in nanoseconds": (
        lambda r: r.prep_timeout_update(Timespec(1, 7), UD, 0x80),
        {"opcode": 12, "fd": -1, "addr": UD, "off": 1_000_000_007, "op_flags": 0x82}, {},
        "io_uring_prep_timeout_update(s, (void *)1000000007, UD, 0x80)"),
    "link_timeout": (
        lambda r: r.prep_link_timeout(0.25, 0x20, user_data=UD, sqe_flags=4),
        {"opcode": 15, "fd": -1, "len": 1, "op_flags": 0x20, "user_data": UD, "flags": 4},
        {"addr": ts(0, 250_000_000)},
        "io_uring_prep_link_timeout(s, (struct __kernel_timespec *)p, 0x20); s->user_data = UD; s->flags = 4"),
    "cancel": (
        lambda r: r.prep_cancel(UD, 1, user_data=3),
        {"opcode": 14, "fd": -1, "addr": UD, "op_flags": 1, "user_data": 3}, {},
        "io_uring_prep_cancel(s, (void *)(uintptr_t)UD, 1); s->user_data = 3"),
    "cancel64": (
        lambda r: r.prep_cancel64(UD),
        {"opcode": 14, "fd": -1, "addr": UD}, {}, "io_uring_prep_cancel64(s, UD, 0)"),
    "cancel_fd": (
        lambda r: r.prep_cancel_fd(5, 1, user_data=3),
        {"opcode": 14, "fd": 5, "op_flags": 3, "user_data": 3}, {},
        "io_uring_prep_cancel_fd(s, 5, 1); s->user_data = 3"),
    "provide_buffers": (
        lambda r: r.prep_provide_buffers(IN, 5, 2, 0xABCD, 7, user_data=UD),
        {"opcode": 31, "fd": 2, "len": 5, "off": 7, "buf_index": 0xABCD, "user_data": UD}, {"addr": bytes(IN)},
        "io_uring_prep_provide_buffers(s, p, 5, 2, 0xabcd, 7); s->user_data = UD"),
    "remove_buffers": (
        lambda r: r.prep_remove_buffers(2, 0xABCD, user_data=UD),
        {"opcode": 32, "fd": 2, "buf_index": 0xABCD, "user_data": UD}, {},
        "io_uring_prep_remove_buffers(s, 2, 0xabcd); s->user_data = UD"),
    "msg_ring": (
        lambda r: r.prep_msg_ring(5, 7, UD, user_data=3, sqe_flags=1),
        {"opcode": 40, "fd": 5, "len": 7, "off": UD, "flags": 1, "user_data": 3}, {},
        "io_uring_prep_msg_ring(s, 5, 7, UD, 0); s->user_data = 3; s->flags = 1"),
    "msg_ring of a failure": (
        lambda r: r.prep_msg_ring(5, -110, 0),
        {"opcode": 40, "fd": 5, "len": -110}, {}, "io_uring_prep_msg_ring(s, 5, -110, 0, 0)"),
    "msg_ring_cqe_flags": (
        lambda r: r.prep_msg_ring_cqe_flags(5, 7, UD, 0, 0x40002, user_data=3),
        {"opcode": 40, "fd": 5, "len": 7, "off": UD, "op_flags": 2, "file_index": 0x40002, "user_data": 3}, {},
        "io_uring_prep_msg_ring_cqe_flags(s, 5, 7, UD, 0, 0x40002); s->user_data = 3"),
    "msg_ring_fd": (
        lambda r: r.prep_msg_ring_fd(5, 3, 8, UD, 1, user_data=3),
        {"opcode": 40, "fd": 5, "addr": 1, "addr3": 3, "file_index": 9, "off": UD, "op_flags": 1, "user_data": 3}, {},
        "io_uring_prep_msg_ring_fd(s, 5, 3, 8, UD, 1); s->user_data = 3"),
    "msg_ring_fd into any slot": (
        lambda r: r.prep_msg_ring_fd(5, 3, 0xffffffff, UD),
        {"opcode": 40, "fd": 5, "addr": 1, "addr3": 3, "file_index": 0xffffffff, "off": UD}, {},
        "io_uring_prep_msg_ring_fd(s, 5, 3, IORING_FILE_INDEX_ALLOC, UD, 0)"),
    "msg_ring_fd_alloc": (
        lambda r: r.prep_msg_ring_fd_alloc(5, 3, UD, user_data=3),
        {"opcode": 40, "fd": 5, "addr": 1, "addr3": 3, "file_index": 0xffffffff, "off": UD, "user_data": 3}, {},
        "io_uring_prep_msg_ring_fd_alloc(s, 5, 3, UD, 0); s->user_data = 3"),
    "futex_wait": (
        lambda r: r.prep_futex_wait(WORD, 0x04030201, user_data=UD, sqe_flags=4),
        {"opcode": 51, "fd": 2, "off": 0x04030201, "addr3": 0xffffffff, "user_data": UD, "flags": 4},
        {"addr": bytes(WORD)},
        "io_uring_prep_futex_wait(s, (uint32_t *)p, 0x04030201, 0xffffffff, 2, 0); s->user_data = UD; s->flags = 4"),
    "futex_wait with everything": (
        lambda r: r.prep_futex_wait(OTHER, 2**32 - 1, 0x80000001, 0x82),
        {"opcode": 51, "fd": 0x82, "off": 2**32 - 1, "addr3": 0x80000001}, {"addr": bytes(OTHER)},
        "io_uring_prep_futex_wait(s, (uint32_t *)p, 0xffffffff, 0x80000001, 0x82, 0)"),
    "futex_wake": (
        lambda r: r.prep_futex_wake(memoryview(OTHER)[1:], 2**31 - 1, 1, 0x82, user_data=UD),
        {"opcode": 52, "fd": 0x82, "off": 2**31 - 1, "addr3": 1, "user_data": UD}, {"addr": bytes(OTHER)[4:]},
        "io_uring_prep_futex_wake(s, (uint32_t *)p, 0x7fffffff, 1, 0x82, 0); s->user_data = UD"),
    "futex_waitv": (
        lambda r: r.prep_futex_waitv([FutexWaitv(9, WORD), FutexWaitv(6, memoryview(OTHER)[1:], 0x82)], user_data=UD),
        {"opcode": 53, "len": 2, "user_data": UD}, {"addr": struct.pack("=Q", 9)},
        "io_uring_prep_futex_waitv(s, (void *)p, 2, 0); s->user_data = UD"),
    "waitid": (
        lambda r: r.prep_waitid(1, 99, Siginfo(), 4 | 0x01000000, user_data=UD),
        {"opcode": 50, "fd": 99, "len": 1, "file_index": 0x01000004, "user_data": UD}, {"off": bytes(128)},
        "io_uring_prep_waitid(s, P_PID, 99, (void *)p, 0x01000004, 0); s->user_data = UD"),
    "waitid without infop": (
        lambda r: r.prep_waitid(0, 0, None, 4),
        {"opcode": 50, "fd": 0, "file_index": 4}, {}, "io_uring_prep_waitid(s, P_ALL, 0, NULL, 4, 0)"),
    "epoll_ctl": (
        lambda r: r.prep_epoll_ctl(5, 6, 1, 0x80000001, UD, user_data=3),
        {"opcode": 29, "fd": 5, "off": 6, "len": 1, "user_data": 3}, {"addr": EPOLL_EVENT.pack(0x80000001, UD)},
        "io_uring_prep_epoll_ctl(s, 5, 6, 1, (struct epoll_event *)p); s->user_data = 3"),
    "epoll_ctl without data": (
        lambda r: r.prep_epoll_ctl(5, 6, 3, 4),
        {"opcode": 29, "fd": 5, "off": 6, "len": 3},
        {"addr": EPOLL_EVENT.pack(4, 0)[:-8] + struct.pack("=iI", 6, 0)},
        "io_uring_prep_epoll_ctl(s, 5, 6, 3, (struct epoll_event *)p)"),
    "epoll_ctl that forgets": (
        lambda r: r.prep_epoll_ctl(5, 6, 2),
        {"opcode": 29, "fd": 5, "off": 6, "len": 2}, {}, "io_uring_prep_epoll_ctl(s, 5, 6, 2, NULL)"),
    "epoll_wait": (
        lambda r: r.prep_epoll_wait(5, EpollEvents(3), user_data=UD),
        {"opcode": 59, "fd": 5, "len": 3, "user_data": UD}, {"addr": bytes(3 * EPOLL_EVENT.size)},
        "io_uring_prep_epoll_wait(s, 5, (struct epoll_event *)p, 3, 0); s->user_data = UD"),
    "epoll_wait for fewer than fit": (
        lambda r: r.prep_epoll_wait(5, bytearray(50), 2),
        {"opcode": 59, "fd": 5, "len": 2}, {"addr": bytes(50)},
        "io_uring_prep_epoll_wait(s, 5, (struct epoll_event *)p, 2, 0)"),
}


@pytest.fixture(autouse=True)
def in_64_bytes(monkeypatch):
    """What nop128 has in its first 64 bytes; how 128 lie in a ring is test_ring.py's."""
    monkeypatch.setattr(Ring, "_sqe128", Ring._sqe, raising=False)


@pytest.mark.parametrize("name", CASES)
def test_exact_bytes_and_what_they_point_to(name, fake, ring):
    exact_bytes(CASES[name], fake, ring)


def test_every_prep_method_has_a_case():
    have = {name for name in vars(Prep) if name.startswith("prep_")}
    assert have == {"prep_" + name.split()[0] for name in CASES}


@pytest.fixture(scope="module")
def liburing(tmp_path_factory):
    return ask_liburing(CASES, tmp_path_factory.mktemp("liburing"))


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes_as_liburing(name, fake, ring, liburing):
    as_liburing(name, CASES[name], fake, ring, liburing)


def test_an_sqe_keeps_nothing_of_the_one_that_was_there_before(fake, ring):
    ring.prep_read(5, IN, 4, 99, rw_flags=1, ioprio=1, personality=1, user_data=UD, sqe_flags=1)
    for _ in range(3):
        ring.prep_socket(1, 2, 3, 4, file_index=5)
    ring.submit()
    for _ in range(4):
        ring.prep_nop()
    assert [fake.raw_sqe(i).hex() for i in range(4)] == [expected({"fd": -1}).hex()] * 4


# ------------------------------------------------------------------------------------------------------- time

@pytest.mark.parametrize("seconds, spec", [
    (0, (0, 0)), (0.0, (0, 0)), (-0.0, (0, 0)), (1, (1, 0)), (True, (1, 0)), (0.5, (0, 500_000_000)),
    (0.1, (0, 100_000_000)), (1e-9, (0, 1)), (1e-10, (0, 1)), (5e-324, (0, 1)),      # never rounded down to "at once"
    (0.999_999_999_9, (1, 0)), (1 - 2**-53, (1, 0)), (2.25, (2, 250_000_000)),
    (1_700_000_000.5, (1_700_000_000, 500_000_000)), (Timespec(0, 0), (0, 0)), (Timespec(5, 999_999_999),
                                                                               (5, 999_999_999)),
])
def test_seconds_become_a_timespec_rounded_up(seconds, spec, fake, ring):
    ring.prep_timeout(seconds)
    address = int.from_bytes(fake.raw_sqe(0)[16:24], sys.byteorder)
    assert ctypes.string_at(address, 16) == ts(*spec)


# --------------------------------------------------------------------------------------------------- pointers

BUFFERS = {
    "bytes": lambda: b"abcdefgh", "bytearray": lambda: bytearray(b"abcdefgh"),
    "memoryview": lambda: memoryview(bytearray(b"abcdefgh")), "read-only view": lambda: memoryview(b"abcdefgh"),
    "array": lambda: array.array("B", b"abcdefgh"), "wide array": lambda: array.array("H", b"abcdefgh"),
    "two dimensions": lambda: memoryview(bytearray(b"abcdefgh")).cast("B", (2, 4)),
    "ctypes": lambda: (ctypes.c_char * 8)(*b"abcdefgh"),
    "bytes subclass": lambda: type("B", (bytes,), {})(b"abcdefgh"),
    "slice": lambda: memoryview(bytearray(b"xxabcdefghxx"))[2:10],
}


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.parametrize("method", ["prep_send", "prep_write"])
def test_every_kind_of_buffer_can_be_read_from(kind, method, fake, ring):
    getattr(ring, method)(5, BUFFERS[kind]())           # the only reference is the ring's
    sqe = sent(fake, ring)
    assert sqe["len"] == 8
    assert ctypes.string_at(sqe["addr"], 8) == b"abcdefgh"


@pytest.mark.parametrize("kind", [kind for kind in BUFFERS if kind not in
                                  ("bytes", "read-only view", "bytes subclass")])
@pytest.mark.parametrize("method", ["prep_recv", "prep_read"])
def test_every_kind_of_writable_buffer_is_written_in_place(kind, method, fake, ring):
    buffer = BUFFERS[kind]()
    getattr(ring, method)(5, buffer)
    sqe = sent(fake, ring)
    assert sqe["len"] == 8
    ctypes.memmove(sqe["addr"], b"ABCDEFGH", 8)
    assert bytes(memoryview(buffer)) == b"ABCDEFGH"


@pytest.mark.parametrize("method", ["prep_recv", "prep_read", "prep_send", "prep_write"])
def test_an_empty_buffer_is_no_error(method, fake, ring):
    getattr(ring, method)(5, bytearray())
    assert sent(fake, ring)["len"] == 0


def test_an_empty_buffer_stays_resizable(ring):
    buffer = bytearray()
    ring.prep_recv(5, buffer)
    buffer += b"nothing is pinned where there is nothing"


def test_memory_mapped_files_can_be_written_to(fake, ring):
    with mmap.mmap(-1, 4096) as mapping:
        ring.prep_recv(5, mapping)
        sqe = sent(fake, ring)
        ctypes.memmove(sqe["addr"], b"here", 4)
        assert mapping[:4] == b"here"
        fake.complete((0, 4))
        ring.reap()


def test_a_socket_stands_for_its_fd_and_family(fake, ring):
    with socket.socket(socket.AF_INET6) as sock:
        ring.prep_connect(sock, ("::1", 80))
        assert sent(fake, ring)["fd"] == sock.fileno()
        with pytest.raises(ValueError, match="127.0.0.1"):
            ring.prep_connect(sock, ("127.0.0.1", 80))      # an IPv4 address, and an IPv6 socket


def test_a_ring_stands_for_its_fd(fake, ring):
    ring.prep_poll_add(ring, 1)
    assert sent(fake, ring)["fd"] == ring.fd


# -------------------------------------------------------------------------------------------------- bad input

class Fileno:
    def __init__(self, answer):
        self.answer = answer

    def fileno(self):
        return self.answer


def closed_socket():
    sock = socket.socket()
    sock.close()
    return sock


def closed_file():
    with open("/dev/null") as file:
        pass
    return file


GAPS = memoryview(bytearray(10))[::2]
BACKWARDS = memoryview(bytearray(10))[::-1]
# (call, exception, what the message names)
BAD = {
    "user_data below 0": (lambda r: r.prep_nop(user_data=-1), ValueError, "user_data -1 "),
    "user_data of 65 bits": (lambda r: r.prep_nop(user_data=2**64), ValueError, str(2**64)),
    "user_data a str": (lambda r: r.prep_nop(user_data="7"), TypeError, "user_data '7'"),
    "user_data a float": (lambda r: r.prep_nop(user_data=1.0), TypeError, "user_data 1.0"),
    "user_data None": (lambda r: r.prep_nop(user_data=None), TypeError, "user_data None"),
    "user_data below 0, with a buffer": (lambda r: r.prep_recv(5, bytearray(4), user_data=-1), ValueError,
                                         "user_data -1 "),
    "sqe_flags too wide": (lambda r: r.prep_nop(sqe_flags=256), ValueError, "sqe_flags 256"),
    "sqe_flags below 0": (lambda r: r.prep_nop(sqe_flags=-1), ValueError, "sqe_flags -1"),
    "sqe_flags a str": (lambda r: r.prep_nop(sqe_flags="IOSQE_IO_LINK"), TypeError, "IOSQE_IO_LINK"),
    "sqe_flags None, with a buffer": (lambda r: r.prep_recv(5, bytearray(4), sqe_flags=None), TypeError, "None"),
    "ioprio too wide": (lambda r: r.prep_send(5, b"", ioprio=65536), ValueError, "ioprio 65536"),
    "personality too wide": (lambda r: r.prep_connect(5, "/x", personality=65536), ValueError, "personality 65536"),
    "file_index too wide": (lambda r: r.prep_accept(5, file_index=2**32), ValueError, str(2**32)),
    "buf_group too wide": (lambda r: r.prep_recv(5, bytearray(1), buf_group=65536), ValueError, "65536"),
    "fd of 32 bits": (lambda r: r.prep_close(2**31), ValueError, f"fd {2**31}"),
    "fd below 32 bits": (lambda r: r.prep_close(-2**31 - 1), ValueError, str(-2**31 - 1)),
    "fd a str": (lambda r: r.prep_close("5"), TypeError, "str"),
    "fd None": (lambda r: r.prep_shutdown(None, 2), TypeError, "NoneType"),
    "fd a float": (lambda r: r.prep_poll_add(5.0, 1), TypeError, "float"),
    "a closed socket": (lambda r: r.prep_shutdown(closed_socket(), 2), ValueError, "closed"),
    "a closed socket to send to": (lambda r: r.prep_send(closed_socket(), b"x"), ValueError, "closed"),
    "a closed socket to connect": (lambda r: r.prep_connect(closed_socket(), ("127.0.0.1", 1)), ValueError, "closed"),
    "a closed file": (lambda r: r.prep_read(closed_file(), bytearray(1)), ValueError, "closed"),
    "fileno() beyond 32 bits": (lambda r: r.prep_close(Fileno(2**31)), ValueError, str(2**31)),
    "fileno() below 0": (lambda r: r.prep_close(Fileno(-1)), ValueError, "closed"),
    "send of a str": (lambda r: r.prep_send(5, "text"), TypeError, "str"),
    "send of None": (lambda r: r.prep_send(5, None), TypeError, "NoneType"),
    "send of an int": (lambda r: r.prep_send(5, 5), TypeError, "int"),
    "recv into bytes": (lambda r: r.prep_recv(5, b"read-only"), TypeError, "bytes is read-only"),
    "recv into a read-only view": (lambda r: r.prep_recv(5, memoryview(b"x")), TypeError, "read-only"),
    "read into bytes": (lambda r: r.prep_read(5, bytes(4)), TypeError, "bytes is read-only"),
    "recv without a buffer": (lambda r: r.prep_recv(5, None, 4), TypeError, "NoneType"),
    "recv with gaps": (lambda r: r.prep_recv(5, GAPS), ValueError, "(2,)"),
    "send with gaps": (lambda r: r.prep_send(5, GAPS), ValueError, "gaps"),
    "write backwards": (lambda r: r.prep_write(5, BACKWARDS), ValueError, "(-1,)"),
    "send more than there is": (lambda r: r.prep_send(5, b"four", 5), ValueError, "5"),
    "recv more than fits": (lambda r: r.prep_recv(5, bytearray(4), 5), ValueError, "4 bytes"),
    "read less than nothing": (lambda r: r.prep_read(5, bytearray(4), -1), ValueError, "-1"),
    "write more than there is": (lambda r: r.prep_write(5, b"", 1), ValueError, "1"),
    "a length in float": (lambda r: r.prep_recv(5, bytearray(4), 2.0), TypeError, "2.0"),
    "a length in str": (lambda r: r.prep_recv(5, bytearray(4), "2"), TypeError, "'2'"),
    "provided buffer below 0": (lambda r: r.prep_recv(5, None, -1, sqe_flags=0x20), ValueError, "-1"),
    "provided buffer too large": (lambda r: r.prep_read(5, None, 2**32, sqe_flags=0x20), ValueError, str(2**32)),
    "an offset below -1": (lambda r: r.prep_read(5, bytearray(4), 4, -2), ValueError, "-2"),
    "an offset of 65 bits": (lambda r: r.prep_write(5, b"x", 1, 2**64), ValueError, str(2**64)),
    "an offset in float": (lambda r: r.prep_write(5, b"x", 1, 0.0), TypeError, "0.0"),
    "flags below 0": (lambda r: r.prep_send(5, b"x", flags=-1), ValueError, "-1"),
    "rw_flags of 33 bits": (lambda r: r.prep_read(5, bytearray(1), rw_flags=2**32), ValueError, str(2**32)),
    "accept into read-only memory": (lambda r: r.prep_accept(5, bytes(16)), TypeError, "read-only"),
    "accept with a read-only addrlen": (lambda r: r.prep_accept(5, bytearray(16), bytes(4)), TypeError, "read-only"),
    "accept with a short addrlen": (lambda r: r.prep_accept(5, bytearray(16), bytearray(3)), ValueError, "3 bytes"),
    "accept with an addrlen beyond addr": (
        lambda r: r.prep_accept(5, bytearray(16), array.array("i", [17])), ValueError, "17"),
    "accept with an int for addrlen": (lambda r: r.prep_accept(5, bytearray(16), 16), TypeError, "int"),
    "a socket type below 0": (lambda r: r.prep_socket(2, -1), ValueError, "-1"),
    "a protocol below 0": (lambda r: r.prep_socket(2, 1, -1), ValueError, "-1"),
    "a domain in str": (lambda r: r.prep_socket("AF_INET", 1), TypeError, "AF_INET"),
    "shutdown below 0": (lambda r: r.prep_shutdown(5, -1), ValueError, "-1"),
    "poll mask below 0": (lambda r: r.prep_poll_add(5, -1), (ValueError, TypeError), "-1"),
    "poll mask of 33 bits": (lambda r: r.prep_poll_multishot(5, 2**32), ValueError, str(2**32)),
    "poll mask a str": (lambda r: r.prep_poll_add(5, "in"), TypeError, "in"),
    "poll_remove below 0": (lambda r: r.prep_poll_remove(-1), ValueError, "-1"),
    "poll_update to 65 bits": (lambda r: r.prep_poll_update(1, 2**64, 1, 4), ValueError, str(2**64)),
    "cancel of 65 bits": (lambda r: r.prep_cancel(2**64), ValueError, str(2**64)),
    "cancel of an object": (lambda r: r.prep_cancel64("request"), TypeError, "request"),
    "cancel_fd closed": (lambda r: r.prep_cancel_fd(closed_socket()), ValueError, "closed"),
    "timeout below 0": (lambda r: r.prep_timeout(-0.001), ValueError, "-0.001"),
    "timeout NaN": (lambda r: r.prep_timeout(math.nan), ValueError, "nan"),
    "timeout inf": (lambda r: r.prep_timeout(math.inf), ValueError, "inf"),
    "timeout -inf": (lambda r: r.prep_link_timeout(-math.inf), ValueError, "-inf"),
    "timeout a str": (lambda r: r.prep_timeout("1"), TypeError, "'1'"),
    "timeout None": (lambda r: r.prep_timeout(None), TypeError, "None"),
    "timeout complex": (lambda r: r.prep_timeout(1j), TypeError, "1j"),
    "timeout a plain tuple": (lambda r: r.prep_timeout((1, 0)), TypeError, "(1, 0)"),
    "timeout beyond all bounds": (lambda r: r.prep_timeout(1e300), ValueError, "1e+300"),
    "timeout beyond all floats": (lambda r: r.prep_timeout(10**400), ValueError, "1000000000"),
    "timeout count below 0": (lambda r: r.prep_timeout(1, -1), ValueError, "-1"),
    "Timespec below 0": (lambda r: r.prep_timeout(Timespec(-1, 0)), ValueError, "tv_sec=-1"),
    "Timespec of 64 bits": (lambda r: r.prep_timeout(Timespec(2**63, 0)), ValueError, str(2**63)),
    "Timespec with a second of ns": (lambda r: r.prep_link_timeout(Timespec(0, 10**9)), ValueError, str(10**9)),
    "Timespec with ns below 0": (lambda r: r.prep_timeout_update(Timespec(1, -1), 7), ValueError, "tv_nsec=-1"),
    "Timespec of floats": (lambda r: r.prep_timeout(Timespec(0.5, 0)), ValueError, "0.5"),
    "a nop's result of 33 bits": (lambda r: r.prep_nop(result=2**32), ValueError, f"result {2**32}"),
    "a nop's result in float": (lambda r: r.prep_nop(result=1.0), TypeError, "result 1.0"),
    "nop_flags of 33 bits": (lambda r: r.prep_nop(nop_flags=2**32), ValueError, str(2**32)),
    "an immediate time beyond 63 bits": (lambda r: r.prep_timeout(2**34, 0, 0x80), ValueError, str(2**34)),
    "a message's res of 33 bits": (lambda r: r.prep_msg_ring(5, 2**32, 0), ValueError, f"len {2**32}"),
    "a message's res in str": (lambda r: r.prep_msg_ring(5, "1", 0), TypeError, "len '1'"),
    "a message's data below 0": (lambda r: r.prep_msg_ring(r, 1, -1), ValueError, "data -1"),
    "a message's data unhashable": (lambda r: r.prep_msg_ring(r, 1, []), TypeError, "data []"),
    "a message's flags in str": (lambda r: r.prep_msg_ring(r, 1, 1, "0"), TypeError, "'0'"),
    "a message's CQE flags of 33 bits": (
        lambda r: r.prep_msg_ring_cqe_flags(r, 1, 1, 0, 2**32), ValueError, str(2**32)),
    "a message's CQE flags None": (lambda r: r.prep_msg_ring_cqe_flags(r, 1, 1, 0, None), TypeError, "None"),
    "a message to a closed ring": (lambda r: r.prep_msg_ring(closed_socket(), 1, 1), ValueError, "closed"),
    "a message to no ring": (lambda r: r.prep_msg_ring(None, 1, 1), TypeError, "NoneType"),
    "a slot below 0": (lambda r: r.prep_msg_ring_fd(r, -1, 0, 1), ValueError, "source_fd -1"),
    "a target slot below 0": (lambda r: r.prep_msg_ring_fd(r, 0, -1, 1), ValueError, "target_fd -1"),
    "the slot whose field would say any": (
        lambda r: r.prep_msg_ring_fd(r, 0, 0xfffffffe, 1), ValueError, f"target_fd {0xfffffffe}"),
    "a slot of 64 bits": (lambda r: r.prep_msg_ring_fd(r, 2**40, 0, 1), ValueError, f"source_fd {2**40}"),
    "a slot in str": (lambda r: r.prep_msg_ring_fd_alloc(r, "0", 1), TypeError, "source_fd '0'"),
    "a futex in bytes": (lambda r: r.prep_futex_wait(bytes(4), 0), TypeError, "read-only"),
    "a futex that is an int": (lambda r: r.prep_futex_wake(7, 0), TypeError, "int"),
    "a futex of 3 bytes": (lambda r: r.prep_futex_wait(bytearray(3), 0), ValueError, "3 bytes"),
    "a futex of no bytes": (lambda r: r.prep_futex_wait(bytearray(), 0), ValueError, "0 bytes"),
    "a futex that is not aligned": (
        lambda r: r.prep_futex_wait(memoryview(bytearray(8))[1:], 0), ValueError, "not aligned"),
    "a futex with a node that is not aligned": (
        lambda r: r.prep_futex_wait(memoryview(bytearray(16))[4:], 0, 1, 6), ValueError, "its 8 bytes"),
    "a futex's value below 0": (lambda r: r.prep_futex_wait(WORD, -1), ValueError, "val -1"),
    "a futex's value of 33 bits": (lambda r: r.prep_futex_wait(WORD, 2**32), ValueError, f"val {2**32}"),
    "a futex's value in float": (lambda r: r.prep_futex_wait(WORD, 1.0), TypeError, "val 1.0"),
    "a futex's mask 0": (lambda r: r.prep_futex_wait(WORD, 1, 0), ValueError, "mask 0"),
    "a waker's mask 0": (lambda r: r.prep_futex_wake(WORD, 1, 0), ValueError, "mask 0"),
    "futex_flags in str": (lambda r: r.prep_futex_wake(WORD, 1, 1, "2"), TypeError, "'2'"),
    "futex_flags of 33 bits": (lambda r: r.prep_futex_wake(WORD, 1, 1, 2**32 + 2), ValueError, str(2**32 + 2)),
    "waking as many as a C int has not": (lambda r: r.prep_futex_wake(WORD, 2**31), ValueError, f"val {2**31}"),
    "waking fewer than none": (lambda r: r.prep_futex_wake(WORD, -1), ValueError, "val -1"),
    "waking None": (lambda r: r.prep_futex_wake(WORD, None), TypeError, "None"),
    "no futexes": (lambda r: r.prep_futex_waitv([]), ValueError, "0 futexes"),
    "129 futexes": (lambda r: r.prep_futex_waitv([FutexWaitv(0, WORD)] * 129), ValueError, "129 futexes"),
    "futexes as plain tuples": (lambda r: r.prep_futex_waitv([(0, WORD, 2)]), TypeError, "tuple"),
    "a futex of many in bytes": (
        lambda r: r.prep_futex_waitv([FutexWaitv(0, WORD), FutexWaitv(0, bytes(4))]), TypeError, "read-only"),
    "a futex of many with a value of 33 bits": (
        lambda r: r.prep_futex_waitv([FutexWaitv(2**32, WORD)]), ValueError, str(2**32)),
    "infop too short": (lambda r: r.prep_waitid(0, 0, bytearray(127), 4), ValueError, "127 bytes"),
    "infop empty": (lambda r: r.prep_waitid(0, 0, bytearray(), 4), ValueError, "0 bytes"),
    "infop read-only": (lambda r: r.prep_waitid(0, 0, bytes(128), 4), TypeError, "read-only"),
    "waitid for a str": (lambda r: r.prep_waitid(1, "99", None, 4), TypeError, "str"),
    "waitid with options below 0": (lambda r: r.prep_waitid(0, 0, None, -1), ValueError, "-1"),
    "epoll events of 33 bits": (lambda r: r.prep_epoll_ctl(5, 6, 1, 2**32), ValueError, f"events {2**32}"),
    "epoll data below 0": (lambda r: r.prep_epoll_ctl(5, 6, 1, 1, -1), ValueError, "data -1"),
    "epoll data an object": (lambda r: r.prep_epoll_ctl(5, 6, 1, 1, ""), TypeError, "data ''"),
    "an epoll operation below 0": (lambda r: r.prep_epoll_ctl(5, 6, -1, 1), ValueError, "-1"),
    "epoll of a closed file": (lambda r: r.prep_epoll_ctl(5, closed_file(), 1, 1), ValueError, "closed"),
    "no room for an event": (lambda r: r.prep_epoll_wait(5, bytearray(EPOLL_EVENT.size - 1)), ValueError, "1..0"),
    "more events than there is room for": (lambda r: r.prep_epoll_wait(5, EpollEvents(2), 3), ValueError, "1..2"),
    "no events": (lambda r: r.prep_epoll_wait(5, EpollEvents(2), 0), ValueError, "maxevents 0"),
    "a number of events in float": (lambda r: r.prep_epoll_wait(5, EpollEvents(2), 1.0), TypeError, "1.0"),
    "events into bytes": (lambda r: r.prep_epoll_wait(5, bytes(99)), TypeError, "read-only"),
    "a path with NUL": (lambda r: r.prep_openat(-100, "a\0b", 0), ValueError, r"a\x00b"),
    "a path in bytes with NUL": (lambda r: r.prep_openat(-100, b"\0", 0), ValueError, "NUL"),
    "a path that is None": (lambda r: r.prep_openat(-100, None, 0), TypeError, "NoneType"),
    "a path that is an fd": (lambda r: r.prep_openat(-100, 3, 0), TypeError, "int"),
    "openat with mode below 0": (lambda r: r.prep_openat(-100, "f", 0, -1), ValueError, "-1"),
    "port 70000": (lambda r: r.prep_connect(5, ("127.0.0.1", 70000)), ValueError, "70000"),
    "port -1": (lambda r: r.prep_connect(5, ("127.0.0.1", -1)), ValueError, "-1"),
    "port a str": (lambda r: r.prep_connect(5, ("127.0.0.1", "80")), TypeError, "80"),
    "a host name": (lambda r: r.prep_connect(5, ("localhost", 80)), ValueError, "localhost"),
    "a host name, IPv6": (lambda r: r.prep_connect(5, ("localhost", 80, 0, 0)), ValueError, "localhost"),
    "provide_buffers beyond the buffer": (lambda r: r.prep_provide_buffers(bytearray(9), 5, 2, 1), ValueError,
                                          "2 buffers of 5 bytes"),
    "provide_buffers of 0 bytes": (lambda r: r.prep_provide_buffers(bytearray(9), 0, 2, 1), ValueError, "0 bytes"),
    "provide_buffers read-only": (lambda r: r.prep_provide_buffers(b"123", 3, 1, 1), TypeError, "bytes is read-only"),
    "provide_buffers, group 65536": (lambda r: r.prep_provide_buffers(bytearray(9), 3, 3, 65536), ValueError,
                                     "buf_index 65536"),
    "remove_buffers, group -1": (lambda r: r.prep_remove_buffers(1, -1), ValueError, "buf_index -1"),
    "no port": (lambda r: r.prep_connect(5, ("127.0.0.1",)), TypeError, "127.0.0.1"),
    "address None": (lambda r: r.prep_connect(5, None), TypeError, "None"),
    "unix path too long": (lambda r: r.prep_connect(5, "/" + "x" * 107), ValueError, "108"),
    "unix path with NUL": (lambda r: r.prep_connect(5, "/x\0y"), ValueError, "NUL"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name_and_enqueues_nothing(name, fake, ring):
    call, exception, names = BAD[name]
    with pytest.raises(exception) as caught:
        call(ring)
    assert names in str(caught.value)
    assert ring.sq_ready == 0
    ring._count_expected()
    assert not ring._inflight and not ring._keepers and not ring._chain_keepers, "a request nobody will answer"
    ring.prep_nop(user_data=UD)         # and the ring is as good as before
    assert ring.submit() == 1
    assert [sqe["user_data"] for sqe in fake.submitted] == [UD]


def test_a_refused_buffer_is_not_kept(ring):
    buffer = bytearray(4)
    with pytest.raises(ValueError):
        ring.prep_recv(5, buffer, 5)
    with pytest.raises(ValueError):
        ring.prep_recv(5, buffer, user_data=-1)
    with pytest.raises(ValueError):
        ring.prep_provide_buffers(buffer, 4, 1, 65536)
    buffer += b"may grow"


def test_memory_that_is_provided_again_and_again_is_kept_once(ring):
    memory = bytearray(64)
    for _ in range(2):
        ring.prep_provide_buffers(memory, 16, 4, 1)
        ring.prep_provide_buffers(memoryview(memory)[16:32], 16, 1, 1)
        ring._drop_unsubmitted()
    assert len(ring._registered["provided", 1]) == 2
    with pytest.raises(BufferError):
        memory.append(0)
    ring.close()
    memory.append(0)


def test_a_buffer_beyond_32_bits_is_refused(tmp_path, ring):
    if sys.maxsize < 2**32:
        pytest.skip("a 32-bit process has no such buffers")
    with open(tmp_path / "sparse", "w+b") as file:
        file.truncate(2**32)
        with mmap.mmap(file.fileno(), 2**32) as mapping:
            with pytest.raises(ValueError, match="len 4294967296"):
                ring.prep_recv(5, mapping)
            ring.prep_recv(5, mapping, 2**32 - 1)
            ring.close()


# ------------------------------------------------------------------------------------------------- structures

def test_room_for_events_is_refused_by_name():
    for bad, exception in ((0, ValueError), (-1, ValueError), ("3", TypeError), (1.5, TypeError)):
        with pytest.raises(exception, match=f"maxevents {bad!r}"):
            EpollEvents(bad)


def test_futexes_of_many_are_packed_one_after_the_other(fake, ring):
    ring.prep_futex_waitv(FutexWaitv(i, memoryview(OTHER)[i:], 2 + 128 * i) for i in range(2))
    sqe = sent(fake, ring)
    address, _ = OTHER.buffer_info()
    assert ctypes.string_at(sqe["addr"], 48) == struct.pack("=QQIIQQII", 0, address, 2, 0, 1, address + 4, 130, 0)


def test_epoll_event_is_what_the_c_compiler_makes_of_it():
    fields = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]
    packed = {"_pack_": 1, "_layout_": "ms"} if os.uname().machine == "x86_64" else {}
    event = type("epoll_event", (ctypes.Structure,), {**packed, "_fields_": fields})
    assert EPOLL_EVENT.size == ctypes.sizeof(event)
    assert bytes(event(1, UD)) == EPOLL_EVENT.pack(1, UD)
