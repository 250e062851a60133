"""arguments.py - Python objects as an SQE wants them: numbers, and memory that stays where it is.

An SQE holds numbers only: file descriptors, sizes, and addresses of memory that the kernel will read
or write. What turns a path, a buffer, a socket's address or a time into these is here. Whatever has
an address also has a keeper: as long as somebody holds that, the memory is where it was, however the
caller drops, resizes or collects the object. ring.py holds it until the request's last CQE.

Bad input is found here, before the kernel is asked, and the error names the value and the remedy.

Leans on syscalls.py (addresses) and sockaddr.py. Read beside it: prep.py, which puts all this into SQEs.
"""
from __future__ import annotations

import os
import struct
import sys
from _thread import TIMEOUT_MAX
from collections import namedtuple

from . import sockaddr, syscalls
from .abi import ATTR_PI, IORING_FILE_INDEX_ALLOC, IORING_RW_ATTR_FLAG_PI, IOSQE_BUFFER_SELECT, TIMESPEC

U32 = 0xFFFF_FFFF
U64 = 0xFFFF_FFFF_FFFF_FFFF


class Timespec(namedtuple("Timespec", "tv_sec tv_nsec")):
    """`struct __kernel_timespec`: whole seconds from 0, and nanoseconds below 10**9."""

    __slots__ = ()
    tv_sec: int
    tv_nsec: int


def timespec(ts) -> Timespec:
    """Seconds (int, float) or a Timespec as a checked Timespec, rounded up to the nanosecond."""
    if isinstance(ts, Timespec):
        if not (isinstance(ts.tv_sec, int) and 0 <= ts.tv_sec < 1 << 63
                and isinstance(ts.tv_nsec, int) and 0 <= ts.tv_nsec < 10**9):
            raise ValueError(f"{ts} is no time: tv_sec is an int from 0, tv_nsec 0..999999999")
        return ts
    seconds = check_timeout(ts)
    if seconds is None:
        raise TypeError("a time in seconds is needed here, not None")
    whole = int(seconds)
    nanoseconds = -int((whole - seconds) * 1e9 // 1)        # rounded up, away from zero
    return Timespec(whole + 1, 0) if nanoseconds >= 10**9 else Timespec(whole, nanoseconds)


def check_timeout(timeout):
    """`timeout` itself, if it is None (wait for ever) or a number of seconds that can be waited."""
    if timeout is None:
        return None
    try:
        if 0 <= timeout <= TIMEOUT_MAX:
            return timeout
    except TypeError:
        raise TypeError(f"timeout {timeout!r} is not a number: give seconds, or None to wait for "
                        "ever") from None
    raise ValueError(f"timeout {timeout!r} is outside 0..{TIMEOUT_MAX:.0f}: give seconds, or "
                     "None to wait for ever")


def fileno(fd) -> int:
    """The number of an int or of anything with fileno(); ValueError for what is closed."""
    if type(fd) is int or isinstance(fd, int):
        return fd
    try:
        number = fd.fileno()
    except AttributeError:
        raise TypeError(f"a file descriptor is needed (an int, or an object with fileno()), not "
                        f"{type(fd).__name__}") from None
    if number < 0:
        raise ValueError(f"{fd!r} is closed: open a new one")
    return number


def poll32(poll_mask: int) -> int:
    """Poll events (select.POLL*) as the SQE has them."""
    # poll32_events replaced a 16-bit field and keeps its place in the word: on a big-endian
    # machine the halves are swapped (io_uring.h, "word-reversed for BE").
    if sys.byteorder == "big":
        return (poll_mask << 16 | poll_mask >> 16) & U32
    return poll_mask


def fileno32(fd) -> int:
    """fileno() for a field of 32 bits without sign: AT_FDCWD, -100, is 0xffffff9c there."""
    number = fileno(fd)
    if not -1 << 31 <= number < 1 << 31:
        raise bad_field(fd=number)
    return number & U32


def slot_field(file_index, what: str = "file_index") -> int:
    """A slot of the registered file table as the SQE's file_index has it: plus one, as 0 means a normal
    fd; IORING_FILE_INDEX_ALLOC is itself."""
    if not isinstance(file_index, int):
        raise TypeError(f"{what} {file_index!r} is not an int: give a slot's number, or "
                        "IORING_FILE_INDEX_ALLOC")
    if file_index == IORING_FILE_INDEX_ALLOC:
        return file_index
    if not 0 <= file_index < IORING_FILE_INDEX_ALLOC - 1:
        raise ValueError(f"{what} {file_index} is no slot: they count from 0; "
                         "IORING_FILE_INDEX_ALLOC lets the kernel choose one")
    return file_index + 1


def cmd_op64(cmd_op: int) -> int:
    """URING_CMD's cmd_op as the SQE's off has it, whose first four bytes it is."""
    if not 0 <= cmd_op <= U32:
        raise ValueError(f"cmd_op {cmd_op} is outside 0..{U32}, what the SQE's field holds")
    return cmd_op << 32 if sys.byteorder == "big" else cmd_op


# -- memory: (address, size in bytes, keeper) --------------------------------------------------------
def some(buf, size, kernel_writes: bool, sqe_flags: int = 0) -> tuple[int, int, object]:
    """The first `size` bytes of a buffer, None for all of it.

    With IOSQE_BUFFER_SELECT buf may be None: the kernel picks one of the group, and size limits it.
    """
    if size is not None and not isinstance(size, int):
        raise TypeError(f"length {size!r} is not an int: give how many bytes of the buffer")
    if buf is None and sqe_flags & IOSQE_BUFFER_SELECT:
        return 0, size or 0, None
    address, length, keeper = syscalls.writable(buf) if kernel_writes else syscalls.readable(buf)
    if size is not None and not 0 <= size <= length:
        raise ValueError(f"a length of {size} is outside the buffer of {length} bytes")
    return address, length if size is None else size, keeper


_IOVEC = struct.Struct("PN")    # struct iovec: a pointer and a size_t, as wide as this process has them
IOV_MAX = 1024                  # UIO_MAXIOV in include/uapi/linux/uio.h


def iovecs(buffers, kernel_writes: bool) -> tuple[int, int, object]:
    """A list of buffers as an array of `struct iovec`: (address, how many, keeper of it and of them)."""
    if not isinstance(buffers, (list, tuple)):
        buffers = _listed(buffers)
    export = syscalls.writable if kernel_writes else syscalls.readable
    exports = [export(buffer) for buffer in buffers]
    if len(exports) > IOV_MAX:
        raise ValueError(f"{len(exports)} buffers are more than the kernel takes at once, {IOV_MAX}: "
                         "use several requests")
    raw = b"".join([_IOVEC.pack(address, size) for address, size, _ in exports])
    return syscalls.address_of(raw), len(exports), (raw, exports)


def _listed(buffers):
    # One buffer instead of a list of them has items too: ints, or a byte each for an mmap.
    try:
        memoryview(buffers)
    except TypeError:
        try:
            return list(buffers)
        except TypeError:
            pass
    raise TypeError(f"a list of buffers is needed here, not {type(buffers).__name__}: put it in []")


def int32s(numbers, least: int, kernel_writes: bool) -> tuple[int, int, object]:
    """A buffer of native 32-bit ints, at least `least` of them: (address, how many, keeper)."""
    address, size, keeper = (syscalls.writable if kernel_writes else syscalls.readable)(numbers)
    width = memoryview(numbers).itemsize
    if width not in (1, 4) or size % 4:
        raise ValueError(f"{type(numbers).__name__} with items of {width} bytes, {size} in all: 32-bit "
                         "ints are needed, such as array.array('i', ...)")
    if size < 4 * least:
        raise ValueError(f"{size} bytes have no room for {least} ints: give array.array('i', [-1] * {least})")
    return address, size // 4, keeper


def attributes(attr_pi, keeper, kernel_writes: bool) -> tuple[int, int, object]:
    """A structs.AttrPI as the SQE has it: (addr3, attr_type_mask, keeper of it and of `keeper`)."""
    try:
        address, size, second = (syscalls.writable if kernel_writes else syscalls.readable)(attr_pi.buf)
        raw = ATTR_PI.pack(attr_pi.flags, attr_pi.app_tag, size, address, attr_pi.seed)
    except AttributeError:
        raise TypeError(f"attr_pi is {type(attr_pi).__name__}: give a structs.AttrPI") from None
    except struct.error:
        raise ValueError(f"{attr_pi} does not fit struct io_uring_attr_pi: flags and app_tag have 16 bits, "
                         "seed has 64") from None
    return syscalls.address_of(raw), IORING_RW_ATTR_FLAG_PI, (raw, second, keeper)


def sockaddr_at(fd, address) -> tuple[int, int, object]:
    """A socket's address, for the family of the socket `fd`; with a number for fd, of the family that
    its shape tells."""
    if type(address) is sockaddr.SockAddr:
        raw = address.raw
    else:
        family = getattr(fd, "family", None)
        if family is None:
            family = sockaddr.guess_family(address)
        raw = sockaddr.pack(family, address, resolve=False)
    return syscalls.address_of(raw), len(raw), raw


def path_at(path, what="path") -> tuple[int, object]:
    """A path (str, bytes, os.PathLike) as C has it: (address, keeper)."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError(f"{what} {path!r} has an embedded NUL: the kernel would stop there")
    raw += b"\0"
    return syscalls.address_of(raw), raw


def timespec_at(ts) -> tuple[int, object]:
    """Seconds or a Timespec as `struct __kernel_timespec`: (address, keeper)."""
    raw = TIMESPEC.pack(*timespec(ts))
    return syscalls.address_of(raw), raw


_WIDTHS = {"opcode": 8, "sqe_flags": 8, "ioprio": 16, "len": 32, "op_flags": 32, "buf_index": 16,
           "personality": 16, "file_index": 32}


def bad_field(**fields):
    """The exception for a field that does not fit its place in the SQE."""
    for name, value in fields.items():
        if not isinstance(value, int):
            return TypeError(f"{name} {value!r} is not an int: give a number")
        if name == "fd":
            low, high = -1 << 31, (1 << 31) - 1
        else:
            low, high = 0, (1 << _WIDTHS.get(name, 64)) - 1
        if not low <= value <= high:
            return ValueError(f"{name} {value} is outside {low}..{high}, what the SQE's field holds: "
                              "give a number in there")
    raise AssertionError(fields)
