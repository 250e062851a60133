"""syscalls.py - the C boundary: three system calls, one memory map, and the addresses of things.

io_uring is three system calls. setup makes a ring and answers a file descriptor; mmap shows its
memory to us; enter tells the kernel that we put requests there, and waits for answers; register
is for everything else. This is the only module that imports ctypes. Nothing here knows what a
ring is: that is ring.py, to be read next.

Results are the kernel's own: zero or more, or -errno. errno is read in the line after the call,
before anything else can run in between.
"""
from __future__ import annotations

import ctypes
import mmap
import os
from _thread import allocate_lock       # threading.Lock; the module threading is 1 ms of import
from ctypes import addressof, byref, c_char, c_char_p, c_size_t, c_uint, c_void_p, get_errno
from errno import ENOSYS

from .abi import SYSCALLS

# None is the running program itself: no search for a libc, which would need a compiler or
# ldconfig on musl and in distroless images. CDLL and not PyDLL: a thread that waits in enter has
# to let the others run.
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_connect = _libc.connect

# No argtypes: with them a call costs 1.1-1.8 us, without 0.5-0.7 (CPython 3.11-3.13). The price:
# a bare int travels as a C int of 32 bits. That holds every fd, count and flag below; an address
# must cross as a ctypes object.
_SETUP, _ENTER, _REGISTER = SYSCALLS.get(os.uname().machine, (None, None, None))


def setup(entries: int, params: bytearray, fds: list | None = None) -> int:
    """io_uring_setup(2): a ring of at least `entries` SQEs -> its fd, or -errno.

    params   120 bytes, `struct io_uring_params` (abi.PARAMS): flags in, sizes and offsets out
    fds      gets the fd, before anything else can happen
    """
    if _SETUP is None:
        return -ENOSYS      # a guessed number would be some other system call
    fds = [] if fds is None else fds
    # A signal handler that raises runs between any two bytecodes, also between the system call and the
    # assignment of what it answered. Here both are in one: list.extend() of a map, all of it in C.
    fds.extend(map(_syscall, (_SETUP,), (c_uint(entries),), (byref(c_char.from_buffer(params)),)))
    return fds[-1] if fds[-1] >= 0 else -get_errno()


def enter(fd: int, to_submit: int, min_complete: int, flags: int, arg=None, size: int = 0) -> int:
    """io_uring_enter(2): submit, wait, or both -> how many SQEs were consumed, or -errno.

    arg, size   a ctypes object made by pin() and its length in bytes, or None: the signal mask,
                or with IORING_ENTER_EXT_ARG `struct io_uring_getevents_arg`
    Lets other threads run. A signal ends a wait with -EINTR; Python's handlers run after that.
    """
    # The seventh argument of syscall(3) has no register left on x86-64 and goes over the stack. Of
    # its eight bytes a C int fills four, the kernel reads all: EINVAL, now and then.
    result = _syscall(_ENTER, fd, to_submit, min_complete, flags, arg, size and c_size_t(size))
    return result if result >= 0 else -get_errno()


def register(fd: int, opcode: int, arg=None, nr_args: int = 0) -> int:
    """io_uring_register(2) -> zero or more, or -errno. `arg` is made by pin(), or None."""
    result = _syscall(_REGISTER, fd, c_uint(opcode), arg, c_uint(nr_args))
    return result if result >= 0 else -get_errno()


def map_ring(fd: int, size: int, offset: int) -> mmap.mmap:
    """The part of the ring's memory at `offset` (abi.IORING_OFF_*), shared with the kernel.

    mmap.mmap keeps a duplicate of the fd for itself, so a ring lives until its maps are closed.
    """
    return mmap.mmap(fd, size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0),
                     mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)


def close(fd: int) -> None:
    """close(2)."""
    os.close(fd)


def connect(fd: int, raw: bytes) -> int:
    """connect(2) with a packed sockaddr, exactly as the kernel answers: 0 or -errno.

    socket.connect() is no help here: after EINTR it goes on waiting with poll and SO_ERROR,
    which leaves the socket in another state than connect(2) does, and it wants a Python address.
    """
    result = _connect(fd, c_char_p(raw), len(raw))
    return result if result >= 0 else -get_errno()


# -- addresses -----------------------------------------------------------------------------------
# The kernel reads and writes our memory by address, after the call that named it has returned.
# An address alone keeps nothing alive. Each of these therefore also answers a keeper: as long as
# the keeper lives, the memory stays where it is (a bytearray can't be resized, a bytes can't be
# freed). ring.py holds keepers until the request's last CQE.

def address_of(data: bytes) -> int:
    """The address of a bytes object's data, good for as long as the object lives.

    c_char_p holds the pointer; reading its eight bytes as c_void_p gives it back as a number.
    """
    return c_void_p.from_buffer(c_char_p(data)).value or 0


def readable(buffer) -> tuple[int, int, object]:
    """(address, size in bytes, keeper) of anything that exports a buffer, for the kernel to read.

    Read-only buffers other than bytes are copied, now: ctypes can't take their address.
    """
    if type(buffer) is bytes:
        return address_of(buffer), len(buffer), buffer
    view = _bytes_view(buffer)
    if view.readonly:
        data = bytes(view)
        return address_of(data), len(data), data
    return _pinned(view)


def writable(buffer) -> tuple[int, int, object]:
    """(address, size in bytes, keeper) of a buffer that the kernel may write to."""
    view = _bytes_view(buffer)
    if view.readonly:
        raise TypeError(f"the kernel writes to this buffer, and {type(buffer).__name__} is "
                        "read-only: pass a bytearray")
    return _pinned(view)


def _bytes_view(buffer) -> memoryview:
    try:
        view = memoryview(buffer)
    except TypeError:
        if hasattr(type(buffer), "__buffer__"):     # PEP 688, which Python itself knows since 3.12
            return buffer.__buffer__(0)
        raise TypeError(f"a buffer is needed (bytes, bytearray, memoryview, array, mmap), not "
                        f"{type(buffer).__name__}") from None
    if not view.c_contiguous:
        raise ValueError(f"the buffer has gaps (strides {view.strides}): pass a contiguous one")
    return view


def _pinned(view: memoryview) -> tuple[int, int, object]:
    if not view.nbytes:
        return 0, 0, None
    keeper = c_char.from_buffer(view)       # exports the buffer, which forbids resizing it
    return addressof(keeper), view.nbytes, keeper


def windows(memory, size: int):
    """A function from i to the i-th `size` bytes of a writable buffer, as an object of its own that
    weakref can watch.

    That lives as long as any memoryview of it, slices and casts and our own keepers included. So its
    end tells that nobody looks at that part any more.
    """
    kind = c_char * size        # once: making a type takes ten times as long as making one of it
    return lambda number: kind.from_buffer(memory, number * size)


def pin(buffer: bytearray):
    """`buffer` as an argument for enter() and register(); keep what it answers."""
    return byref(c_char.from_buffer(buffer))


def offset(number: int):
    """A number as an argument for enter(), where the kernel takes it for a place in registered memory."""
    return c_size_t(number)


def peek(address: int, size: int) -> bytes | None:
    """Up to `size` bytes of this process's memory at `address`; None where nothing can be read there.

    For looking at what an SQE points to, which may be anything. Read through a file, since a pointer that
    is wrong then gives EIO, where following it would end the process. proc_pid_mem(5).
    """
    if not 0 < address < 1 << 63:
        return None
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:             # no /proc, no file descriptor left, or not for this process
        return None
    try:
        return os.pread(memory, size, address) or None
    except (OSError, OverflowError):
        return None
    finally:
        os.close(memory)


# -- ordering ------------------------------------------------------------------------------------
# Some facts about order between CPUs
# -----------------------------------
# Memory that two CPUs share has no clock. On x86 a CPU's stores are seen in their order and its loads
# happen in theirs; only a load may overtake an earlier store (Intel SDM volume 3, "Memory Ordering").
# Armv8 promises none of that, unless the instruction says so: store-release, load-acquire. The kernel
# uses these for its side of the rings, and the comment that opens io_uring/io_uring.c asks the same
# of ours. Python has no such instruction. What it has:
#
#   - memoryview.cast("I")[i] = n is one aligned store: seen whole or not at all. Which order the stores
#     of one thread are seen in is up to the CPU, the interpreter does not exchange them.
#   - In our own system call the kernel runs on this CPU, in program order. So the common way, to fill,
#     publish, enter, reap, with DEFER_TASKRUN, needs nothing at all.
#   - Where another CPU looks at the same time, a lock's atomic instructions have to do: fence(). That
#     is so with a kernel thread that polls the SQ (SQPOLL), and for completions that interrupts or
#     worker threads post (any ring without DEFER_TASKRUN): in ring.py, under "ordering".

def fence() -> None:
    """A full memory barrier, as near as plain Python comes to one.

    Releasing a lock is an atomic read-modify-write with release order, taking it one with acquire
    order. On x86 either is a full barrier; on Armv8 a load-acquire may not pass an earlier
    store-release, so a store before fence() is seen before a load after it. (Arm Architecture
    Reference Manual, "load-acquire, store-release"; about 0.2 us. A lock of its own for each call,
    so that threads need not agree about one.)
    """
    lock = allocate_lock()
    lock.acquire()
    lock.release()
    lock.acquire()
