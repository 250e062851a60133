"""pyuring/prep_files.py: which argument lands in which of the 64 bytes. Cases as in prepbytes.py."""
from pathlib import Path

import pytest
from prepbytes import DATA, IN, U64, UD, as_liburing, ask_liburing, exact_bytes, fake, ring  # noqa: F401

from pyuring.prep_files import FilePrep

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
