"""ring_fd.py - what a ring tells the kernel about itself: by which number to find it, how large it is.

Ring inherits these methods, and most programs need none of them. Read next: prep.py. What
else a ring can be told is in registration.py.
"""
from __future__ import annotations

import struct
from _thread import get_ident
from errno import EINVAL, EOPNOTSUPP

from . import abi, errors, syscalls
from .abi import (
    IORING_ENTER_NO_IOWAIT, IORING_ENTER_REGISTERED_RING, IORING_FEAT_NO_IOWAIT,
    IORING_FEAT_REG_REG_RING, IORING_SETUP_CQSIZE, IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_NO_MMAP,
    IORING_SETUP_NO_SQARRAY,
)
from .arguments import U32
from .layout import MAX_CQ_ENTRIES, MAX_ENTRIES, Layout, check_entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class RingFd:
    """Methods of a Ring about the ring itself."""

    __slots__ = ()

    # What Ring supplies.
    fd: int
    flags: int
    features: int
    _layout: Layout
    _gone: str
    _enter_fd: int
    _enter_flags: int
    _registering: Callable[..., int]

    def enable_rings(self) -> None:
        """Begin to take requests, after IORING_SETUP_R_DISABLED. The ring then belongs to this thread.

        OSError EBADFD where it is enabled already. Linux 5.10. io_uring_enable_rings(3).
        """
        if self._gone:
            raise self._unusable()
        self._owner = get_ident()
        self._registering("enable_rings", abi.IORING_REGISTER_ENABLE_RINGS)
        self._disabled = False

    def register_ring_fd(self) -> None:
        """Enter the kernel by a number that is found faster than a file descriptor, in this thread alone.

        OSError: EBUSY where 16 rings of this thread have one (IO_RINGFD_REG_MAX); EINVAL before Linux 5.18.
        io_uring_register_ring_fd(3).
        """
        if not self._enter_flags & IORING_ENTER_REGISTERED_RING:
            update = bytearray(abi.RSRC_UPDATE.pack(U32, 0, self.fd))       # U32: any free number
            self._registering("register_ring_fd", abi.IORING_REGISTER_RING_FDS, syscalls.pin(update), 1)
            self._enter_fd, = struct.unpack_from("=I", update)
            self._enter_flags |= IORING_ENTER_REGISTERED_RING

    def unregister_ring_fd(self) -> None:
        """Undo register_ring_fd(). ValueError where the number is all that there is of the ring.

        Linux 5.18. io_uring_unregister_ring_fd(3).
        """
        if self.fd < 0:
            raise ValueError("this ring has no file descriptor to go back to")
        if self._enter_flags & IORING_ENTER_REGISTERED_RING:
            update = bytearray(abi.RSRC_UPDATE.pack(self._enter_fd, 0, 0))
            self._registering("unregister_ring_fd", abi.IORING_UNREGISTER_RING_FDS, syscalls.pin(update), 1)
            self._enter_fd = self.fd
            self._enter_flags &= ~IORING_ENTER_REGISTERED_RING

    def close_ring_fd(self) -> None:
        """Close the file descriptor and keep the number of register_ring_fd(). The maps of the ring's
        memory hold duplicates of it all the same: mmap.mmap does that.

        OSError EINVAL before Linux 6.3 (IORING_FEAT_REG_REG_RING). io_uring_close_ring_fd(3).
        """
        if not self.features & IORING_FEAT_REG_REG_RING:
            raise errors.os_error(EINVAL, "close_ring_fd (Linux 6.3, IORING_FEAT_REG_REG_RING)")
        self.register_ring_fd()
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._layout.fd, self._layout.registered = self._enter_fd, True
            syscalls.close(fd)

    def set_iowait(self, enable_iowait: bool) -> None:
        """Whether a wait counts as iowait, which makes the CPU's clock faster and statistics stranger.
        It does unless told otherwise. OSError EOPNOTSUPP before Linux 6.15. io_uring_set_iowait(3).
        """
        if not self.features & IORING_FEAT_NO_IOWAIT:
            raise errors.os_error(EOPNOTSUPP, "set_iowait (Linux 6.15, IORING_FEAT_NO_IOWAIT)")
        self._enter_flags &= ~IORING_ENTER_NO_IOWAIT
        if not enable_iowait:
            self._enter_flags |= IORING_ENTER_NO_IOWAIT

    def resize_rings(self, sq_entries: int, cq_entries: int | None = None) -> None:
        """Give the queues other sizes; what is in them stays.

        sq_entries, cq_entries   as for a new ring. OSError EOVERFLOW where what is there has no room
        Only with DEFER_TASKRUN, and with NO_SQARRAY: where the array of indices has moved to the kernel
        does not tell (sq_off.array comes back as 0: measured on 6.18). Linux 6.13. io_uring_resize_rings(3).
        """
        check_entries("sq_entries", sq_entries, MAX_ENTRIES, None)
        if cq_entries is not None:
            check_entries("cq_entries", cq_entries, MAX_CQ_ENTRIES, None)
        if self._gone:
            raise self._unusable()
        needed = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_NO_SQARRAY
        if self.flags & (needed | IORING_SETUP_NO_MMAP) != needed or self.fd < 0:
            raise ValueError("resize_rings() is for rings with IORING_SETUP_DEFER_TASKRUN and NO_SQARRAY, without "
                             "NO_MMAP, and with their file descriptor")
        fields = [sq_entries, cq_entries or 0, IORING_SETUP_CQSIZE if cq_entries else 0, *[0] * 25]
        params = bytearray(abi.PARAMS.pack(*fields))
        self._publish()             # the kernel moves what lies between its head and tail
        last_sqe_flags = self._last_sqe_flags
        self._registering("resize_rings", abi.IORING_REGISTER_RESIZE_RINGS, syscalls.pin(params), 1)
        try:
            self._adopt(self._layout.resized(params))
        except BaseException:
            self._release("lost its memory when it was resized: make a new one")
            raise
        self._last_sqe_flags = last_sqe_flags
