"""registration.py - one method an io_uring_register operation: what a ring is to know beforehand.

Files, buffers and buffer rings that requests then name by number, an eventfd that tells of
completions, limits, credentials, and questions to the kernel. The names and the order of arguments
are liburing's (io_uring_register_files(3) is register_files here), with Python objects for C's
pointers and lengths. Ring inherits all of it; each method is one system call and does not touch the
queues.

The numbers, and what arg and nr_args are for each, stand in abi.py. What is registered for the
kernel to read or write later stays where it is (ring.py keeps it) until it is unregistered, or the
ring is closed. Read next: registered.py, the comfortable way to most of this.
"""
from __future__ import annotations

import struct

from . import abi, errors, syscalls
from .arguments import bad_field, fileno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FILES = 1 << 20         # IORING_MAX_FIXED_FILES in io_uring/rsrc.c


class Registration:
    """The register_* methods of a Ring."""

    __slots__ = ()

    # What Ring supplies: the system call, -> zero or more, or -errno; and room for keepers.
    _register: Callable[..., int]
    _registered: dict[str, object]

    def _registering(self, name, opcode, arg=None, nr_args=0):
        """The system call; its failure is an OSError that bears the operation's name."""
        result = self._register(opcode, arg, nr_args)
        if result < 0:
            raise errors.os_error(-result, name)
        return result

    def register_probe(self) -> frozenset[int]:
        """The opcodes (IORING_OP_*) that this kernel supports. Linux 5.6; OSError EINVAL before.

        io_uring_register_probe(3).
        """
        data = bytearray(abi.PROBE.size + 256 * abi.PROBE_OP.size)
        self._registering("register_probe", abi.IORING_REGISTER_PROBE, syscalls.pin(data), 256)
        _, count, _ = abi.PROBE.unpack_from(data)
        rows = abi.PROBE_OP.iter_unpack(memoryview(data)[abi.PROBE.size:][:count * 8])
        return frozenset(op for op, _, flags, _ in rows if flags & abi.IO_URING_OP_SUPPORTED)

    def register_files_sparse(self, nr_files: int) -> None:
        """Make a table of `nr_files` empty slots for direct descriptors (IOSQE_FIXED_FILE, file_index).

        OSError: EINVAL before Linux 5.19; EMFILE beyond RLIMIT_NOFILE; EBUSY where there is a table.
        io_uring_register_files_sparse(3).
        """
        if not isinstance(nr_files, int):
            raise TypeError(f"nr_files {nr_files!r} is not an int: give how many slots")
        if not 1 <= nr_files <= MAX_FILES:
            raise ValueError(f"nr_files {nr_files} is outside 1..{MAX_FILES}, the kernel's limit")
        table = bytearray(abi.RSRC_REGISTER.pack(nr_files, abi.IORING_RSRC_REGISTER_SPARSE, 0, 0, 0))
        self._registering("register_files_sparse", abi.IORING_REGISTER_FILES2, syscalls.pin(table), len(table))

    def register_eventfd(self, fd) -> None:
        """Signal an eventfd(2) with each completion. Linux 5.2. io_uring_register_eventfd(3).

        Under DEFER_TASKRUN polling the ring's own fd never wakes; this does. Drain the eventfd
        first, then reap().
        """
        word = bytearray(4)
        try:
            struct.pack_into("=i", word, 0, fileno(fd))
        except struct.error:
            raise bad_field(fd=fileno(fd)) from None
        self._registering("register_eventfd", abi.IORING_REGISTER_EVENTFD, syscalls.pin(word), 1)

    def unregister_eventfd(self) -> None:
        """Undo register_eventfd(). OSError ENXIO when there was none. Linux 5.2."""
        self._registering("unregister_eventfd", abi.IORING_UNREGISTER_EVENTFD)
