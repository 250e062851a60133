"""What the tests of prep_*.py share: the same request three times, and what must be equal.

A case is
    name: (call, fields, {pointer field: bytes it points to}, C)
The first word of the name is the method's, without prep_. `call` is given a Ring. `fields` are put together
here from the offsets in linux/io_uring.h, not from abi.SQE. C is the same call with liburing's header, where
    s   the SQE, zeroed before
    p   stands for every pointer: its value differs and is masked, its target is compared by exact_bytes()
    UD  the number below
"""
import array
import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from fakekernel import FakeKernel

from pyuring.ring import Ring

# Where liburing's headers are, for one that is not installed: its src/include.
INCLUDE = Path(os.environ.get("PYURING_LIBURING", "/usr/include"))

# struct io_uring_sqe: offset and size in bytes of each field.
PLACE = {"opcode": (0, 1), "flags": (1, 1), "ioprio": (2, 2), "fd": (4, 4), "off": (8, 8), "addr": (16, 8),
         "len": (24, 4), "op_flags": (28, 4), "user_data": (32, 8), "buf_index": (40, 2), "personality": (42, 2),
         "file_index": (44, 4), "addr3": (48, 8), "attr_type_mask": (56, 8),
         "cmd_op": (8, 4)}           # a part of off

U64 = 2**64 - 1
UD = 0x8899AABBCCDDEEFF         # a user_data with its top bit set, and no byte twice
BIG = sys.byteorder == "big"


def u32_halves(mask):
    """poll32_events on this machine: on a big-endian one the two halves change places (io_uring.h)."""
    return (mask << 16 | mask >> 16) & 0xFFFFFFFF if BIG else mask


def expected(fields):
    sqe = bytearray(64)
    for name, value in fields.items():
        at, size = PLACE[name]
        sqe[at:at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, sys.byteorder)
    return bytes(sqe)


def sin(port, host):
    """struct sockaddr_in, by hand."""
    return struct.pack("=H", 2) + struct.pack("!H", port) + bytes(host) + bytes(8)


def ts(seconds, nanoseconds):
    """struct __kernel_timespec."""
    return struct.pack("=qq", seconds, nanoseconds)


SIN = sin(0x1234, (127, 0, 0, 1))
SIN6 = (struct.pack("=H", 10) + bytes.fromhex("1234 00045678 00000000000000000000000000000001".replace(" ", ""))
        + struct.pack("=I", 7))
IN = bytearray(b"in and out")           # what the kernel would write to
LEN = array.array("i", [10])
DATA = b"twelve bytes"

@pytest.fixture
def fake(monkeypatch):
    kernel = FakeKernel()
    kernel.install(monkeypatch)
    return kernel


@pytest.fixture
def ring(fake):
    with Ring(4) as ring:
        yield ring


def sent(fake, ring):
    """Submits, and gives the one SQE that was there as the kernel sees it."""
    assert ring.submit() == 1
    return fake.submitted[-1]


def masked(sqe, pointers):
    sqe = bytearray(sqe)
    for name in pointers:
        at, size = PLACE[name]
        sqe[at:at + size] = bytes(size)
    return bytes(sqe)


def exact_bytes(case, fake, ring):
    """The call makes these fields, and the pointers point there."""
    call, fields, pointers, _ = case
    assert call(ring) is None
    assert ring.sq_ready == 1
    assert not fake.enters, "prep_* submits nothing"
    sqe = fake.raw_sqe(0)
    assert masked(sqe, pointers).hex() == expected(fields).hex()
    for field, content in pointers.items():
        at, size = PLACE[field]
        address = int.from_bytes(sqe[at:at + size], sys.byteorder)
        assert ctypes.string_at(address, len(content)) == content


def as_liburing(name, case, fake, ring, theirs):
    """The call makes what liburing makes; `theirs` is what ask_liburing() answered."""
    if name not in theirs:
        pytest.skip(f"the liburing in {INCLUDE} lacks {', '.join(_helpers(case[3]))}")
    call, _, pointers, _ = case
    call(ring)
    for field in pointers:
        at, size = PLACE[field]
        assert any(theirs[name][at:at + size]), "a pointer in C too"
    assert masked(fake.raw_sqe(0), pointers).hex() == masked(theirs[name], pointers).hex()


def _helpers(code):
    return re.findall(r"\bio_uring_\w+(?=\()", code)


def ask_liburing(cases, directory):
    """What liburing's helpers fill in: {case: 64 bytes}, without those that this liburing lacks."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler to ask liburing with")
    header = INCLUDE / "liburing.h"
    if not header.exists():
        pytest.skip(f"no {header}: install liburing's headers (liburing-dev)")
    text = header.read_text()
    known = {name: code for name, (_, _, _, code) in cases.items()
             if code and all(re.search(rf"\b{helper}\(", text) for helper in _helpers(code))}
    body = "\n".join(f"    memset(s, 0, sizeof sqe); {code}; show(s);" for code in known.values())
    source = f"""
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <liburing.h>
        #include <stdint.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/socket.h>
        static void show(struct io_uring_sqe *s) {{
            for (int i = 0; i < 64; i++) printf("%02x", ((unsigned char *)s)[i]);
            puts("");
        }}
        int main(void) {{
            const unsigned long long UD = 0x{UD:x}ULL;
            struct io_uring_sqe sqe[2], *s = sqe;
            static char memory[128], *p = memory;
            {body}
            return 0;
        }}"""
    (directory / "prep.c").write_text(source)
    made = subprocess.run([compiler, "-w", "-I", str(INCLUDE), "-o", str(directory / "prep"),
                           str(directory / "prep.c")],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if made.returncode:
        errors = [line for line in made.stderr.splitlines() if "error" in line or "undefined" in line]
        pytest.skip(f"this liburing can't be compiled against: {(errors or ['?'])[0]}")
    shown = subprocess.run([str(directory / "prep")], capture_output=True, text=True, timeout=60, check=True)
    return dict(zip(known, (bytes.fromhex(line) for line in shown.stdout.split())))
