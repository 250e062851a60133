"""pyuring/prep_files.py: which argument lands in which of the 64 bytes, and what is refused.

Cases as in prepbytes.py. What the requests do is in test_files.py.
"""
import array
import ctypes
import mmap
import os
import struct
from pathlib import Path

import pytest
from prepbytes import (  # noqa: F401
    DATA, IN, U64, UD, as_liburing, ask_liburing, exact_bytes, fake, ring, sent,
)

from pyuring import syscalls
from pyuring.abi import IORING_FILE_INDEX_ALLOC as ALLOC
from pyuring.prep_files import FilePrep
from pyuring.structs import SIZEOF_STATX, AttrPI, OpenHow, Statx

CWD = -100


def address(buffer):
    return syscalls.readable(buffer)[0]


def iov(*buffers):
    """struct iovec[]: what prep_readv's and its kin's pointer points to."""
    return b"".join(struct.pack("PN", address(buffer), len(buffer)) for buffer in buffers)


def pi(flags, app_tag, buffer, seed):
    """struct io_uring_attr_pi."""
    return struct.pack("=HHIQQQ", flags, app_tag, len(buffer), address(buffer), seed, 0)


OUT = bytearray(b"another one")
PAGES = mmap.mmap(-1, 3 * mmap.PAGESIZE)
STAT = Statx(bytes(range(256)))
PAIR = array.array("i", [7, 8])
IOC = {"ppc64le": 1 << 29, "ppc64": 1 << 29, "sparc64": 1 << 29, "alpha": 1 << 29}.get(os.uname().machine, 0)

CASES = {
    "openat": (
        lambda r: r.prep_openat(-100, "/tmp/\u00e9", 0o1101, 0o640, user_data=UD, personality=2),
        {"opcode": 18, "fd": -100, "len": 0o640, "op_flags": 0o1101, "user_data": UD, "personality": 2},
        {"addr": "/tmp/\u00e9".encode() + b"\0"},
        "io_uring_prep_openat(s, AT_FDCWD, p, 01101, 0640); s->user_data = UD; s->personality = 2"),
    "openat into a slot": (
        lambda r: r.prep_openat(4, Path("f"), 0, file_index=1),
        {"opcode": 18, "fd": 4, "len": 0o777, "file_index": 1}, {"addr": b"f\0"},
        "io_uring_prep_openat_direct(s, 4, p, 0, 0777, 0)"),
    "close": (
        lambda r: r.prep_close(5, user_data=UD),
        {"opcode": 19, "fd": 5, "user_data": UD}, {}, "io_uring_prep_close(s, 5); s->user_data = UD"),
    "read": (
        lambda r: r.prep_read(5, IN, user_data=UD),
        {"opcode": 22, "fd": 5, "off": U64, "len": 10, "user_data": UD}, {"addr": bytes(IN)},
        "io_uring_prep_read(s, 5, p, 10, -1); s->user_data = UD"),
    "read at an offset": (
        lambda r: r.prep_read(5, IN, 4, 2**40 + 3, rw_flags=8, ioprio=0x2001, personality=2),
        {"opcode": 22, "fd": 5, "off": 2**40 + 3, "len": 4, "op_flags": 8, "ioprio": 0x2001, "personality": 2},
        {"addr": bytes(IN[:4])},
        "io_uring_prep_read(s, 5, p, 4, (1ULL << 40) + 3); s->rw_flags = 8; s->ioprio = 0x2001; "
        "s->personality = 2"),
    "read with a provided buffer": (
        lambda r: r.prep_read(5, None, 64, 0, sqe_flags=0x20, buf_group=9),
        {"opcode": 22, "fd": 5, "len": 64, "flags": 0x20, "buf_index": 9}, {},
        "io_uring_prep_read(s, 5, 0, 64, 0); s->flags = 0x20; s->buf_group = 9"),
    "write": (
        lambda r: r.prep_write(5, DATA, user_data=UD),
        {"opcode": 23, "fd": 5, "off": U64, "len": 12, "user_data": UD}, {"addr": DATA},
        "io_uring_prep_write(s, 5, p, 12, -1); s->user_data = UD"),
    "write at an offset": (
        lambda r: r.prep_write(5, bytearray(DATA), 6, 7, rw_flags=0x10, ioprio=1, personality=3),
        {"opcode": 23, "fd": 5, "off": 7, "len": 6, "op_flags": 0x10, "ioprio": 1, "personality": 3},
        {"addr": DATA[:6]},
        "io_uring_prep_write(s, 5, p, 6, 7); s->rw_flags = 0x10; s->ioprio = 1; s->personality = 3"),
    "openat into a chosen slot": (
        lambda r: r.prep_openat(4, b"f", 0, file_index=ALLOC),
        {"opcode": 18, "fd": 4, "len": 0o777, "file_index": ALLOC}, {"addr": b"f\0"},
        "io_uring_prep_openat(s, 4, p, 0, 0777); s->file_index = IORING_FILE_INDEX_ALLOC"),
    "openat_direct": (
        lambda r: r.prep_openat_direct(4, "f", 2, 0o600, 6, user_data=UD, sqe_flags=4, personality=3),
        {"opcode": 18, "fd": 4, "len": 0o600, "op_flags": 2, "file_index": 7, "user_data": UD, "flags": 4,
         "personality": 3}, {"addr": b"f\0"},
        "io_uring_prep_openat_direct(s, 4, p, O_RDWR, 0600, 6); s->user_data = UD; s->flags = 4; "
        "s->personality = 3"),
    "openat_direct into slot 0": (
        lambda r: r.prep_openat_direct(CWD, "f", 0, 0, 0),
        {"opcode": 18, "fd": CWD, "file_index": 1}, {"addr": b"f\0"},
        "io_uring_prep_openat_direct(s, AT_FDCWD, p, 0, 0, 0)"),
    "openat_direct into a chosen slot": (
        lambda r: r.prep_openat_direct(CWD, "f", 0),
        {"opcode": 18, "fd": CWD, "len": 0o777, "file_index": ALLOC}, {"addr": b"f\0"},
        # Not ALLOC itself: liburing 2.3 adds one to that, too, and opens a normal fd. This suits all.
        "io_uring_prep_openat_direct(s, AT_FDCWD, p, 0, 0777, IORING_FILE_INDEX_ALLOC - 1)"),
    "open": (
        lambda r: r.prep_open("f", 0o1101, 0o640, user_data=UD, personality=2),
        {"opcode": 18, "fd": CWD, "len": 0o640, "op_flags": 0o1101, "user_data": UD, "personality": 2},
        {"addr": b"f\0"}, "io_uring_prep_open(s, p, 01101, 0640); s->user_data = UD; s->personality = 2"),
    "open_direct": (
        lambda r: r.prep_open_direct("f", 1, 0o640, 9, user_data=UD, sqe_flags=16),
        {"opcode": 18, "fd": CWD, "len": 0o640, "op_flags": 1, "file_index": 10, "user_data": UD, "flags": 16},
        {"addr": b"f\0"}, "io_uring_prep_open_direct(s, p, 1, 0640, 9); s->user_data = UD; s->flags = 16"),
    "openat2": (
        lambda r: r.prep_openat2(4, "f", OpenHow(0o101, 0o640, 8), user_data=UD, personality=2),
        {"opcode": 28, "fd": 4, "len": 24, "user_data": UD, "personality": 2},
        {"addr": b"f\0", "off": struct.pack("=QQQ", 0o101, 0o640, 8)},
        "io_uring_prep_openat2(s, 4, p, (struct open_how *)p); s->user_data = UD; s->personality = 2"),
    "openat2 into a slot": (
        lambda r: r.prep_openat2(4, "f", OpenHow(2**64 - 1, 2**64 - 1, 2**64 - 1), file_index=1),
        {"opcode": 28, "fd": 4, "len": 24, "file_index": 1}, {"addr": b"f\0", "off": b"\xff" * 24},
        "io_uring_prep_openat2_direct(s, 4, p, (struct open_how *)p, 0)"),
    "openat2_direct": (
        lambda r: r.prep_openat2_direct(4, "f", OpenHow(2), 6, user_data=UD),
        {"opcode": 28, "fd": 4, "len": 24, "file_index": 7, "user_data": UD},
        {"addr": b"f\0", "off": struct.pack("=QQQ", 2, 0, 0)},
        "io_uring_prep_openat2_direct(s, 4, p, (struct open_how *)p, 6); s->user_data = UD"),
    "close_direct": (
        lambda r: r.prep_close_direct(6, user_data=UD, sqe_flags=16),
        {"opcode": 19, "file_index": 7, "user_data": UD, "flags": 16}, {},
        "io_uring_prep_close_direct(s, 6); s->user_data = UD; s->flags = 16"),
    "read with protection information": (
        lambda r: r.prep_read(5, IN, offset=0, attr_pi=AttrPI(OUT, 5, 0x1234, 2**63)),
        {"opcode": 22, "fd": 5, "len": 10, "attr_type_mask": 1},
        {"addr": bytes(IN), "addr3": pi(5, 0x1234, OUT, 2**63)},
        "io_uring_prep_read(s, 5, p, 10, 0); ((__u64 *)s)[6] = (uintptr_t)p; ((__u64 *)s)[7] = 1"),
    "write with protection information": (
        lambda r: r.prep_write(5, DATA, offset=0, attr_pi=AttrPI(DATA)),
        {"opcode": 23, "fd": 5, "len": 12, "attr_type_mask": 1}, {"addr": DATA, "addr3": pi(0, 0, DATA, 0)},
        "io_uring_prep_write(s, 5, p, 12, 0); ((__u64 *)s)[6] = (uintptr_t)p; ((__u64 *)s)[7] = 1"),
    "readv": (
        lambda r: r.prep_readv(5, [IN, OUT], user_data=UD, sqe_flags=16, ioprio=3, personality=2, rw_flags=8),
        {"opcode": 1, "fd": 5, "off": U64, "len": 2, "user_data": UD, "flags": 16, "ioprio": 3, "personality": 2,
         "op_flags": 8}, {"addr": iov(IN, OUT)},
        "io_uring_prep_readv(s, 5, (struct iovec *)p, 2, -1); s->user_data = UD; s->flags = 16; s->ioprio = 3; "
        "s->personality = 2; s->rw_flags = 8"),
    "readv with a provided buffer": (
        lambda r: r.prep_readv(5, (IN,), 0, sqe_flags=0x20, buf_group=9),
        {"opcode": 1, "fd": 5, "len": 1, "flags": 0x20, "buf_index": 9}, {"addr": iov(IN)},
        "io_uring_prep_readv(s, 5, (struct iovec *)p, 1, 0); s->flags = 0x20; s->buf_group = 9"),
    "readv with protection information": (
        lambda r: r.prep_readv(5, [OUT], 0, attr_pi=AttrPI(IN, 1)),
        {"opcode": 1, "fd": 5, "len": 1, "attr_type_mask": 1}, {"addr": iov(OUT), "addr3": pi(1, 0, IN, 0)},
        "io_uring_prep_readv(s, 5, (struct iovec *)p, 1, 0); ((__u64 *)s)[6] = (uintptr_t)p; "
        "((__u64 *)s)[7] = 1"),
    "readv2": (
        lambda r: r.prep_readv2(5, iter([IN]), 2**40, 8, user_data=UD),
        {"opcode": 1, "fd": 5, "off": 2**40, "len": 1, "op_flags": 8, "user_data": UD}, {"addr": iov(IN)},
        "io_uring_prep_readv2(s, 5, (struct iovec *)p, 1, 1ULL << 40, RWF_NOWAIT); s->user_data = UD"),
    "writev": (
        lambda r: r.prep_writev(5, [DATA, bytearray(), OUT], user_data=UD, ioprio=3, rw_flags=2),
        {"opcode": 2, "fd": 5, "off": U64, "len": 3, "user_data": UD, "ioprio": 3, "op_flags": 2},
        {"addr": iov(DATA, bytearray(), OUT)},
        "io_uring_prep_writev(s, 5, (struct iovec *)p, 3, -1); s->user_data = UD; s->ioprio = 3; s->rw_flags = 2"),
    "writev2": (
        lambda r: r.prep_writev2(5, [DATA], 7, 0x10, user_data=UD, personality=2),
        {"opcode": 2, "fd": 5, "off": 7, "len": 1, "op_flags": 0x10, "user_data": UD, "personality": 2},
        {"addr": iov(DATA)},
        "io_uring_prep_writev2(s, 5, (struct iovec *)p, 1, 7, RWF_APPEND); s->user_data = UD; s->personality = 2"),
    "read_multishot": (
        lambda r: r.prep_read_multishot(5, 0, -1, 9, user_data=UD, sqe_flags=1),
        {"opcode": 49, "fd": 5, "off": U64, "buf_index": 9, "user_data": UD, "flags": 0x21}, {},
        "io_uring_prep_read_multishot(s, 5, 0, -1, 9); s->user_data = UD; s->flags |= 1"),
    "read_fixed": (
        lambda r: r.prep_read_fixed(5, IN, 4, 2**40, 3, user_data=UD, ioprio=2, rw_flags=8),
        {"opcode": 4, "fd": 5, "off": 2**40, "len": 4, "buf_index": 3, "user_data": UD, "ioprio": 2, "op_flags": 8},
        {"addr": bytes(IN[:4])},
        "io_uring_prep_read_fixed(s, 5, p, 4, 1ULL << 40, 3); s->user_data = UD; s->ioprio = 2; s->rw_flags = 8"),
    "write_fixed": (
        lambda r: r.prep_write_fixed(5, memoryview(IN)[2:], buf_index=0xFFFF, user_data=UD, sqe_flags=1),
        {"opcode": 5, "fd": 5, "off": U64, "len": 8, "buf_index": 0xFFFF, "user_data": UD, "flags": 1},
        {"addr": bytes(IN[2:])}, "io_uring_prep_write_fixed(s, 5, p, 8, -1, 0xFFFF); s->user_data = UD; s->flags = 1"),
    "readv_fixed": (
        lambda r: r.prep_readv_fixed(5, [OUT, IN], 7, 8, 3, user_data=UD),
        {"opcode": 60, "fd": 5, "off": 7, "len": 2, "op_flags": 8, "buf_index": 3, "user_data": UD},
        {"addr": iov(OUT, IN)},
        "io_uring_prep_readv_fixed(s, 5, (struct iovec *)p, 2, 7, RWF_NOWAIT, 3); s->user_data = UD"),
    "writev_fixed": (
        lambda r: r.prep_writev_fixed(5, [OUT], buf_index=3, user_data=UD),
        {"opcode": 61, "fd": 5, "off": U64, "len": 1, "buf_index": 3, "user_data": UD}, {"addr": iov(OUT)},
        "io_uring_prep_writev_fixed(s, 5, (struct iovec *)p, 1, -1, 0, 3); s->user_data = UD"),
    "splice": (
        lambda r: r.prep_splice(5, -1, 6, 2**40, 99, 0x80000001, user_data=UD, sqe_flags=1),
        {"opcode": 30, "fd": 6, "off": 2**40, "addr": U64, "len": 99, "op_flags": 0x80000001, "file_index": 5,
         "user_data": UD, "flags": 1}, {},
        "io_uring_prep_splice(s, 5, -1, 6, 1LL << 40, 99, SPLICE_F_FD_IN_FIXED | SPLICE_F_MOVE); "
        "s->user_data = UD; s->flags = 1"),
    "splice out of a file": (
        lambda r: r.prep_splice(5, 7, 6, -1, 2**32 - 1),
        {"opcode": 30, "fd": 6, "off": U64, "addr": 7, "len": 2**32 - 1, "file_index": 5}, {},
        "io_uring_prep_splice(s, 5, 7, 6, -1, -1, 0)"),
    "tee": (
        lambda r: r.prep_tee(5, 6, 99, 2, user_data=UD),
        {"opcode": 33, "fd": 6, "len": 99, "op_flags": 2, "file_index": 5, "user_data": UD}, {},
        "io_uring_prep_tee(s, 5, 6, 99, SPLICE_F_NONBLOCK); s->user_data = UD"),
    "pipe": (
        lambda r: r.prep_pipe(PAIR, 0o2000000, user_data=UD),
        {"opcode": 62, "op_flags": 0o2000000, "user_data": UD}, {"addr": bytes(PAIR)},
        "io_uring_prep_pipe(s, (int *)p, O_CLOEXEC); s->user_data = UD"),
    "pipe_direct": (
        lambda r: r.prep_pipe_direct(PAIR, 0o4000, 6, user_data=UD),
        {"opcode": 62, "op_flags": 0o4000, "file_index": 7, "user_data": UD}, {"addr": bytes(PAIR)},
        "io_uring_prep_pipe_direct(s, (int *)p, O_NONBLOCK, 6); s->user_data = UD"),
    "pipe_direct into chosen slots": (
        lambda r: r.prep_pipe_direct(PAIR),
        {"opcode": 62, "file_index": ALLOC}, {"addr": bytes(PAIR)},
        "io_uring_prep_pipe_direct(s, (int *)p, 0, IORING_FILE_INDEX_ALLOC)"),
    "fsync": (
        lambda r: r.prep_fsync(5, 1, user_data=UD, sqe_flags=2),
        {"opcode": 3, "fd": 5, "op_flags": 1, "user_data": UD, "flags": 2}, {},
        "io_uring_prep_fsync(s, 5, IORING_FSYNC_DATASYNC); s->user_data = UD; s->flags = 2"),
    "fsync of a range": (
        lambda r: r.prep_fsync(5, offset=2**40, len=4096),
        {"opcode": 3, "fd": 5, "off": 2**40, "len": 4096}, {},
        "io_uring_prep_fsync(s, 5, 0); s->off = 1ULL << 40; s->len = 4096"),
    "sync_file_range": (
        lambda r: r.prep_sync_file_range(5, 4096, 2**40, 7, user_data=UD),
        {"opcode": 8, "fd": 5, "len": 4096, "off": 2**40, "op_flags": 7, "user_data": UD}, {},
        "io_uring_prep_sync_file_range(s, 5, 4096, 1ULL << 40, 7); s->user_data = UD"),
    "fallocate": (
        lambda r: r.prep_fallocate(5, 3, 2**40, 2**41, user_data=UD),
        {"opcode": 17, "fd": 5, "len": 3, "off": 2**40, "addr": 2**41, "user_data": UD}, {},
        "io_uring_prep_fallocate(s, 5, 3, 1ULL << 40, 1ULL << 41); s->user_data = UD"),
    "ftruncate": (
        lambda r: r.prep_ftruncate(5, 2**40, user_data=UD),
        {"opcode": 55, "fd": 5, "off": 2**40, "user_data": UD}, {},
        "io_uring_prep_ftruncate(s, 5, 1LL << 40); s->user_data = UD"),
    "fadvise": (
        lambda r: r.prep_fadvise(5, 2**40, 4096, 4, user_data=UD),
        {"opcode": 24, "fd": 5, "off": 2**40, "len": 4096, "op_flags": 4, "user_data": UD}, {},
        "io_uring_prep_fadvise(s, 5, 1ULL << 40, 4096, 4); s->user_data = UD"),
    "fadvise64": (
        lambda r: r.prep_fadvise64(5, 2**40, 2**41, 4, user_data=UD),
        {"opcode": 24, "fd": 5, "off": 2**40, "addr": 2**41, "op_flags": 4, "user_data": UD}, {},
        "io_uring_prep_fadvise64(s, 5, 1ULL << 40, 1ULL << 41, 4); s->user_data = UD"),
    "madvise": (
        lambda r: r.prep_madvise(PAGES, 4096, 4, user_data=UD),
        {"opcode": 25, "fd": -1, "len": 4096, "op_flags": 4, "user_data": UD}, {"addr": PAGES[:4096]},
        "io_uring_prep_madvise(s, p, 4096, 4); s->user_data = UD"),
    "madvise64": (
        lambda r: r.prep_madvise64(PAGES, 4096, 4, user_data=UD),
        {"opcode": 25, "fd": -1, "off": 4096, "op_flags": 4, "user_data": UD}, {"addr": PAGES[:4096]},
        "io_uring_prep_madvise64(s, p, 4096, 4); s->user_data = UD"),
    "statx": (
        lambda r: r.prep_statx(4, "f", 0x1100, 0xfff, STAT, user_data=UD, personality=2),
        {"opcode": 21, "fd": 4, "len": 0xfff, "op_flags": 0x1100, "user_data": UD, "personality": 2},
        {"addr": b"f\0", "off": bytes(STAT)},
        "io_uring_prep_statx(s, 4, p, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, 0xfff, (struct statx *)p); "
        "s->user_data = UD; s->personality = 2"),
    "renameat": (
        lambda r: r.prep_renameat(4, "old", CWD, b"new", 2, user_data=UD, personality=2),
        {"opcode": 35, "fd": 4, "len": 2**32 - 100, "op_flags": 2, "user_data": UD, "personality": 2},
        {"addr": b"old\0", "off": b"new\0"},
        "io_uring_prep_renameat(s, 4, p, AT_FDCWD, p, 2); s->user_data = UD; s->personality = 2"),
    "rename": (
        lambda r: r.prep_rename("old", Path("new"), user_data=UD),
        {"opcode": 35, "fd": CWD, "len": 2**32 - 100, "user_data": UD}, {"addr": b"old\0", "off": b"new\0"},
        "io_uring_prep_rename(s, p, p); s->user_data = UD"),
    "linkat": (
        lambda r: r.prep_linkat(4, "old", 5, "new", 0x400, user_data=UD, personality=2),
        {"opcode": 39, "fd": 4, "len": 5, "op_flags": 0x400, "user_data": UD, "personality": 2},
        {"addr": b"old\0", "off": b"new\0"},
        "io_uring_prep_linkat(s, 4, p, 5, p, AT_SYMLINK_FOLLOW); s->user_data = UD; s->personality = 2"),
    "link": (
        lambda r: r.prep_link("old", "new", 0x400, user_data=UD),
        {"opcode": 39, "fd": CWD, "len": 2**32 - 100, "op_flags": 0x400, "user_data": UD},
        {"addr": b"old\0", "off": b"new\0"}, "io_uring_prep_link(s, p, p, AT_SYMLINK_FOLLOW); s->user_data = UD"),
    "unlinkat": (
        lambda r: r.prep_unlinkat(4, "f", 0x200, user_data=UD, personality=2),
        {"opcode": 36, "fd": 4, "op_flags": 0x200, "user_data": UD, "personality": 2}, {"addr": b"f\0"},
        "io_uring_prep_unlinkat(s, 4, p, AT_REMOVEDIR); s->user_data = UD; s->personality = 2"),
    "unlink": (
        lambda r: r.prep_unlink("f", 0x200, user_data=UD),
        {"opcode": 36, "fd": CWD, "op_flags": 0x200, "user_data": UD}, {"addr": b"f\0"},
        "io_uring_prep_unlink(s, p, AT_REMOVEDIR); s->user_data = UD"),
    "mkdirat": (
        lambda r: r.prep_mkdirat(4, "d", 0o750, user_data=UD, personality=2),
        {"opcode": 37, "fd": 4, "len": 0o750, "user_data": UD, "personality": 2}, {"addr": b"d\0"},
        "io_uring_prep_mkdirat(s, 4, p, 0750); s->user_data = UD; s->personality = 2"),
    "mkdir": (
        lambda r: r.prep_mkdir("d", user_data=UD),
        {"opcode": 37, "fd": CWD, "len": 0o777, "user_data": UD}, {"addr": b"d\0"},
        "io_uring_prep_mkdir(s, p, 0777); s->user_data = UD"),
    "symlinkat": (
        lambda r: r.prep_symlinkat("to", 4, "link", user_data=UD, personality=2),
        {"opcode": 38, "fd": 4, "user_data": UD, "personality": 2}, {"addr": b"to\0", "off": b"link\0"},
        "io_uring_prep_symlinkat(s, p, 4, p); s->user_data = UD; s->personality = 2"),
    "symlink": (
        lambda r: r.prep_symlink("to", "link", user_data=UD),
        {"opcode": 38, "fd": CWD, "user_data": UD}, {"addr": b"to\0", "off": b"link\0"},
        "io_uring_prep_symlink(s, p, p); s->user_data = UD"),
    "getxattr": (
        lambda r: r.prep_getxattr("user.x", IN, "f", 4, user_data=UD, personality=2),
        {"opcode": 44, "len": 4, "user_data": UD, "personality": 2},
        {"addr": b"user.x\0", "off": bytes(IN[:4]), "addr3": b"f\0"},
        "io_uring_prep_getxattr(s, p, p, p, 4); s->user_data = UD; s->personality = 2"),
    "getxattr of the length alone": (
        lambda r: r.prep_getxattr(b"user.x", None, "f"),
        {"opcode": 44}, {"addr": b"user.x\0", "addr3": b"f\0"}, "io_uring_prep_getxattr(s, p, 0, p, 0)"),
    "fgetxattr": (
        lambda r: r.prep_fgetxattr(5, "user.x", IN, user_data=UD),
        {"opcode": 43, "fd": 5, "len": 10, "user_data": UD}, {"addr": b"user.x\0", "off": bytes(IN)},
        "io_uring_prep_fgetxattr(s, 5, p, p, 10); s->user_data = UD"),
    "setxattr": (
        lambda r: r.prep_setxattr("user.x", DATA, b"f", 1, 6, user_data=UD, personality=2),
        {"opcode": 42, "len": 6, "op_flags": 1, "user_data": UD, "personality": 2},
        {"addr": b"user.x\0", "off": DATA[:6], "addr3": b"f\0"},
        "io_uring_prep_setxattr(s, p, p, p, 1, 6); s->user_data = UD; s->personality = 2"),
    "fsetxattr": (
        lambda r: r.prep_fsetxattr(5, "user.x", DATA, 2, user_data=UD),
        {"opcode": 41, "fd": 5, "len": 12, "op_flags": 2, "user_data": UD}, {"addr": b"user.x\0", "off": DATA},
        "io_uring_prep_fsetxattr(s, 5, p, p, 2, 12); s->user_data = UD"),
    "fixed_fd_install": (
        lambda r: r.prep_fixed_fd_install(5, 1, user_data=UD, sqe_flags=16),
        {"opcode": 54, "fd": 5, "op_flags": 1, "user_data": UD, "flags": 0x11}, {},
        "io_uring_prep_fixed_fd_install(s, 5, IORING_FIXED_FD_NO_CLOEXEC); s->user_data = UD; s->flags |= 16"),
    "files_update": (
        lambda r: r.prep_files_update([7, -1, -2], 2, user_data=UD),
        {"opcode": 20, "fd": -1, "len": 3, "off": 2, "user_data": UD}, {"addr": struct.pack("=iii", 7, -1, -2)},
        "io_uring_prep_files_update(s, (int *)p, 3, 2); s->user_data = UD"),
    "files_update from a buffer": (
        lambda r: r.prep_files_update(PAIR),
        {"opcode": 20, "fd": -1, "len": 2}, {"addr": bytes(PAIR)}, "io_uring_prep_files_update(s, (int *)p, 2, 0)"),
    "files_update in chosen slots": (
        lambda r: r.prep_files_update(PAIR, ALLOC),
        {"opcode": 20, "fd": -1, "len": 2, "off": U64}, {"addr": bytes(PAIR)},
        "io_uring_prep_files_update(s, (int *)p, 2, IORING_FILE_INDEX_ALLOC)"),
    "cmd_discard": (
        lambda r: r.prep_cmd_discard(5, 2**40, 2**41, user_data=UD),
        {"opcode": 46, "fd": 5, "cmd_op": IOC | 0x1200, "addr": 2**40, "addr3": 2**41, "user_data": UD}, {},
        "io_uring_prep_cmd_discard(s, 5, 1ULL << 40, 1ULL << 41); s->user_data = UD"),
    "cmd_zone_reset_all": (
        lambda r: r.prep_cmd_zone_reset_all(5, user_data=UD),
        {"opcode": 46, "fd": 5, "cmd_op": IOC | 0x1201, "user_data": UD}, {},
        "io_uring_prep_cmd_zone_reset_all(s, 5); s->user_data = UD"),
}


@pytest.mark.parametrize("name", CASES)
def test_exact_bytes_and_what_they_point_to(name, fake, ring):
    exact_bytes(CASES[name], fake, ring)


def test_every_prep_method_has_a_case():
    have = {name for name in vars(FilePrep) if name.startswith("prep_")}
    assert have == {"prep_" + name.split()[0] for name in CASES}


@pytest.fixture(scope="module")
def liburing(tmp_path_factory):
    return ask_liburing(CASES, tmp_path_factory.mktemp("liburing"))


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes_as_liburing(name, fake, ring, liburing):
    as_liburing(name, CASES[name], fake, ring, liburing)


# -------------------------------------------------------------------------------------------------- bad input

class Closed:
    def fileno(self):
        return -1


PAGE = mmap.PAGESIZE
# (call, exception, what the message names)
BAD = {
    "one buffer for a list": (lambda r: r.prep_readv(5, bytearray(4)), TypeError, "bytearray: put it in []"),
    "bytes for a list": (lambda r: r.prep_writev(5, b"text"), TypeError, "bytes: put it in []"),
    "a view for a list": (lambda r: r.prep_readv2(5, memoryview(IN)), TypeError, "memoryview: put it in []"),
    "an array for a list": (lambda r: r.prep_writev2(5, PAIR), TypeError, "array: put it in []"),
    "an mmap for a list": (lambda r: r.prep_readv_fixed(5, PAGES), TypeError, "mmap: put it in []"),
    "an int for a list": (lambda r: r.prep_writev(5, 5), TypeError, "int: put it in []"),
    "None for a list": (lambda r: r.prep_readv(5, None), TypeError, "NoneType: put it in []"),
    "a str for a list": (lambda r: r.prep_writev(5, "text"), TypeError, "str"),
    "a str in a list": (lambda r: r.prep_writev(5, [b"fine", "text"]), TypeError, "str"),
    "read into bytes in a list": (lambda r: r.prep_readv(5, [bytearray(1), b"x"]), TypeError, "bytes is read-only"),
    "gaps in a list": (lambda r: r.prep_writev(5, [memoryview(IN)[::2]]), ValueError, "gaps"),
    "1025 buffers": (lambda r: r.prep_writev(5, [b"x"] * 1025), ValueError, "1025 buffers"),
    "1025 buffers to read into": (lambda r: r.prep_readv_fixed(5, (bytearray(1) for _ in range(1025))), ValueError,
                                  "1025 buffers"),
    "an offset below -1": (lambda r: r.prep_readv(5, [IN], -2), ValueError, "off -2"),
    "an offset in float": (lambda r: r.prep_write_fixed(5, IN, 1, 0.0), TypeError, "0.0"),
    "a buf_index of 17 bits": (lambda r: r.prep_read_fixed(5, IN, buf_index=65536), ValueError, "buf_index 65536"),
    "a buf_index below 0": (lambda r: r.prep_writev_fixed(5, [IN], buf_index=-1), ValueError, "buf_index -1"),
    "read_fixed of more than there is": (lambda r: r.prep_read_fixed(5, IN, 11), ValueError, "11"),
    "read_fixed without a buffer": (lambda r: r.prep_read_fixed(5, None, 4), TypeError, "NoneType"),
    "write_fixed of what can't be registered": (lambda r: r.prep_write_fixed(5, b"x"), TypeError, "bytes"),
    "multishot into a group of 17 bits": (lambda r: r.prep_read_multishot(5, 0, -1, 65536), ValueError, "65536"),
    "multishot of less than nothing": (lambda r: r.prep_read_multishot(5, -1), ValueError, "len -1"),
    "attr_pi a tuple": (lambda r: r.prep_read(5, IN, attr_pi=(IN, 0, 0, 0)), TypeError, "tuple"),
    "attr_pi a bytearray": (lambda r: r.prep_writev(5, [IN], attr_pi=bytearray(8)), TypeError, "AttrPI"),
    "attr_pi read into bytes": (lambda r: r.prep_read(5, IN, attr_pi=AttrPI(b"x")), TypeError, "read-only"),
    "attr_pi of no buffer": (lambda r: r.prep_write(5, IN, attr_pi=AttrPI(8)), TypeError, "int"),
    "attr_pi with wide flags": (lambda r: r.prep_write(5, IN, attr_pi=AttrPI(IN, 65536)), ValueError, "65536"),
    "attr_pi with a str": (lambda r: r.prep_write(5, IN, attr_pi=AttrPI(IN, "1")), ValueError, "flags='1'"),
    "openat_direct with O_CLOEXEC": (lambda r: r.prep_openat_direct(CWD, "f", os.O_CLOEXEC), ValueError, "O_CLOEXEC"),
    "openat2_direct with O_CLOEXEC": (lambda r: r.prep_openat2_direct(CWD, "f", OpenHow(os.O_CLOEXEC)), ValueError,
                                      "O_CLOEXEC"),
    "pipe_direct with O_CLOEXEC": (lambda r: r.prep_pipe_direct(PAIR, os.O_CLOEXEC), ValueError, "O_CLOEXEC"),
    "flags in str": (lambda r: r.prep_open_direct("f", "O_RDWR"), TypeError, "O_RDWR"),
    "a slot below 0": (lambda r: r.prep_openat_direct(CWD, "f", 0, 0, -1), ValueError, "file_index -1"),
    "a slot of 32 bits": (lambda r: r.prep_open_direct("f", 0, 0, ALLOC - 1), ValueError, str(ALLOC - 1)),
    "a slot of 33 bits": (lambda r: r.prep_pipe_direct(PAIR, 0, 2**32), ValueError, str(2**32)),
    "a slot in str": (lambda r: r.prep_close_direct("0"), TypeError, "'0'"),
    "no slot": (lambda r: r.prep_open_direct("f", 0, 0, None), TypeError, "None"),
    "close of any slot": (lambda r: r.prep_close_direct(ALLOC), ValueError, "closes nothing"),
    "openat2 with flags": (lambda r: r.prep_openat2(CWD, "f", 0), TypeError, "int: give an OpenHow"),
    "openat2 with a tuple": (lambda r: r.prep_openat2(CWD, "f", (0, 0, 0)), TypeError, "tuple: give an OpenHow"),
    "OpenHow below 0": (lambda r: r.prep_openat2(CWD, "f", OpenHow(0, -1)), ValueError, "mode=-1"),
    "OpenHow of 65 bits": (lambda r: r.prep_openat2_direct(CWD, "f", OpenHow(2**64)), ValueError, str(2**64)),
    "OpenHow in str": (lambda r: r.prep_openat2(CWD, "f", OpenHow("r")), ValueError, "flags='r'"),
    "a short statxbuf": (lambda r: r.prep_statx(CWD, "f", 0, 0, bytearray(255)), ValueError, "255 bytes"),
    "a statxbuf of bytes": (lambda r: r.prep_statx(CWD, "f", 0, 0, bytes(256)), TypeError, "read-only"),
    "no statxbuf": (lambda r: r.prep_statx(CWD, "f", 0, 0, None), TypeError, "NoneType"),
    "a mask of 33 bits": (lambda r: r.prep_statx(CWD, "f", 0, 2**32, Statx()), ValueError, str(2**32)),
    "an oldpath with NUL": (lambda r: r.prep_rename("a\0b", "c"), ValueError, r"oldpath 'a\x00b'"),
    "a newpath with NUL": (lambda r: r.prep_link("a", b"b\0"), ValueError, "newpath"),
    "a target with NUL": (lambda r: r.prep_symlink("\0", "b"), ValueError, "target"),
    "a linkpath that is None": (lambda r: r.prep_symlinkat("a", CWD, None), TypeError, "NoneType"),
    "a name with NUL": (lambda r: r.prep_getxattr("user.\0", IN, "f"), ValueError, "name"),
    "a newdfd of 32 bits": (lambda r: r.prep_renameat(CWD, "a", 2**31, "b"), ValueError, f"fd {2**31}"),
    "a newdfd that is closed": (lambda r: r.prep_linkat(CWD, "a", Closed(), "b"), ValueError, "closed"),
    "an olddfd that is None": (lambda r: r.prep_linkat(None, "a", CWD, "b"), TypeError, "NoneType"),
    "a mode below 0": (lambda r: r.prep_mkdir("d", -1), ValueError, "-1"),
    "a value in str": (lambda r: r.prep_setxattr("user.x", "text", "f"), TypeError, "str"),
    "no value": (lambda r: r.prep_fsetxattr(5, "user.x", None), TypeError, "NoneType"),
    "a value read into bytes": (lambda r: r.prep_fgetxattr(5, "user.x", b"text"), TypeError, "read-only"),
    "a length beyond the value": (lambda r: r.prep_getxattr("user.x", IN, "f", 11), ValueError, "11"),
    "splice from a closed file": (lambda r: r.prep_splice(Closed(), -1, 5, -1, 1), ValueError, "closed"),
    "splice from an fd of 32 bits": (lambda r: r.prep_splice(2**31, -1, 5, -1, 1), ValueError, f"fd {2**31}"),
    "splice from below -1": (lambda r: r.prep_splice(5, -2, 6, -1, 1), ValueError, "addr -2"),
    "tee of 33 bits": (lambda r: r.prep_tee(5, 6, 2**32), ValueError, str(2**32)),
    "a pipe into one int": (lambda r: r.prep_pipe(array.array("i", [0])), ValueError, "4 bytes"),
    "a pipe into longs": (lambda r: r.prep_pipe(array.array("q", [0, 0])), ValueError, "8 bytes"),
    "a pipe into a list": (lambda r: r.prep_pipe([-1, -1]), TypeError, "list"),
    "a pipe into bytes": (lambda r: r.prep_pipe_direct(bytes(8)), TypeError, "read-only"),
    "files_update of nothing": (lambda r: r.prep_files_update([]), ValueError, "no room for 1"),
    "files_update of half an int": (lambda r: r.prep_files_update(bytearray(6)), ValueError, "6 in all"),
    "files_update of 32 bits": (lambda r: r.prep_files_update([2**31]), ValueError, str(2**31)),
    "files_update of a closed file": (lambda r: r.prep_files_update([Closed()]), ValueError, "closed"),
    "files_update before slot 0": (lambda r: r.prep_files_update([5], -1), ValueError, "-1"),
    "chosen slots into a list": (lambda r: r.prep_files_update([5], ALLOC), TypeError, "list"),
    "chosen slots into bytes": (lambda r: r.prep_files_update(bytes(4), ALLOC), TypeError, "read-only"),
    "madvise off a page": (lambda r: r.prep_madvise(memoryview(PAGES)[8:], 8, 4), ValueError, "8 bytes into a page"),
    "madvise of a part of a page": (lambda r: r.prep_madvise64(memoryview(PAGES)[:8], None, 4), ValueError,
                                    f"8 bytes are no whole pages of {PAGE}"),
    "madvise of more than there is": (lambda r: r.prep_madvise(PAGES, 3 * PAGE + 1, 4), ValueError, "outside"),
    "madvise of bytes": (lambda r: r.prep_madvise(bytes(PAGE), None, 4), TypeError, "read-only"),
    "fallocate of less than nothing": (lambda r: r.prep_fallocate(5, 0, 0, -1), ValueError, "-1"),
    "ftruncate below 0": (lambda r: r.prep_ftruncate(5, -1), ValueError, "-1"),
    "fadvise beyond 4 GiB": (lambda r: r.prep_fadvise(5, 0, 2**32, 4), ValueError, str(2**32)),
    "discard below 0": (lambda r: r.prep_cmd_discard(5, -1, 512), ValueError, "-1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name_and_enqueues_nothing(name, fake, ring):
    call, exception, names = BAD[name]
    with pytest.raises(exception) as caught:
        call(ring)
    assert names in str(caught.value)
    assert ring.sq_ready == 0
    assert not ring._inflight and not ring._keepers and not ring._chain_keepers, "a request nobody will answer"


def test_1024_buffers_are_no_error(fake, ring):
    ring.prep_writev(5, [DATA] * 1024)
    sqe = sent(fake, ring)
    assert sqe["len"] == 1024
    assert ctypes.string_at(sqe["addr"], 1024 * struct.calcsize("PN")) == iov(DATA) * 1024


def test_no_buffers_are_no_error(fake, ring):
    ring.prep_readv(5, [])
    assert sent(fake, ring)["len"] == 0


@pytest.mark.parametrize("call", [
    lambda r, value: r.prep_setxattr("user.x", value, "f"),
    lambda r, value: r.prep_write(5, DATA, attr_pi=AttrPI(value)),
], ids=["xattr", "attr_pi"])
def test_an_empty_buffer_is_no_error(call, fake, ring):
    call(ring, bytearray())
    assert sent(fake, ring)["opcode"] in (42, 23)


def test_a_part_of_an_mmap_may_be_named_for_madvise(fake, ring):
    ring.prep_madvise(PAGES, 8, 4)                      # the kernel rounds up, and stays inside the mmap
    assert sent(fake, ring)["len"] == 8
    ring.prep_madvise(memoryview(PAGES)[PAGE:2 * PAGE], None, 4)
    assert sent(fake, ring)["addr"] == address(PAGES) + PAGE


def test_a_statxbuf_may_be_any_writable_memory_of_256_bytes(fake, ring):
    memory = bytearray(SIZEOF_STATX + 8)
    ring.prep_statx(CWD, "f", 0, 0, memory)
    assert sent(fake, ring)["off"] == address(memory)


@pytest.mark.parametrize("call", [
    lambda r, pi: r.prep_read(5, bytearray(4), attr_pi=pi), lambda r, pi: r.prep_writev(5, [b"data"], attr_pi=pi),
    lambda r, pi: r.prep_write_fixed(5, bytearray(4), attr_pi=pi),
], ids=["read", "writev", "write_fixed"])
def test_protection_information_stays_in_place_until_the_cqe(call, fake, ring):
    information = bytearray(range(8))
    call(ring, AttrPI(information, 1, 2, 3))
    sqe = sent(fake, ring)
    keep = [b"\xdd" * 32 for _ in range(1000)]
    raw = ctypes.string_at(sqe["addr3"], 32)
    assert raw == pi(1, 2, information, 3)
    with pytest.raises(BufferError):
        information.append(0)
    fake.complete((0, 4))
    ring.reap()
    information.append(0)
    del keep
