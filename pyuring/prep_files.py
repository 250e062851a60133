"""prep_files.py - requests on files and paths: which argument goes into which field of the SQE.

What the arguments may be, and the keywords that all prep_* take, stand at the head of prep.py; what
the fields are called, at the SQE in abi.py; AT_*, STATX_* and what else the standard library lacks,
in structs.py. Beyond those, here:
    buffers      a list of buffers, filled or written one after the other: at most 1024
    rw_flags     RWF_*, as for preadv2(2); prep_readv2 and its kin call them flags
    attr_pi      a structs.AttrPI (Linux 6.14; older kernels do not look at it: ask
                 features & IORING_FEAT_RW_ATTR)
    oldpath, newpath, ...   paths, as path; olddfd, newdfd, ... as dfd. A dfd is never a slot
    file_index   in prep_*_direct the number of a slot itself, as liburing has it, or
                 IORING_FILE_INDEX_ALLOC: the kernel takes a free one, and CQE res is its number. The
                 keyword file_index of prep_openat and prep_openat2 is the bare field of the SQE: a
                 slot plus one, 0 for a normal fd. A slot that is taken is closed first

Most calls beyond plain reads and writes block, so the kernel gives them to worker threads
(REQ_F_FORCE_ASYNC in io_uring/fs.c and its neighbours). Read next: prep_sockets.py.
"""
from __future__ import annotations

import os
import struct
import sys
from mmap import PAGESIZE, mmap

from .abi import (
    BLOCK_URING_CMD_DISCARD, BLOCK_URING_CMD_ZONE_RESET_ALL, IOC_NONE, IORING_FILE_INDEX_ALLOC, IORING_OP_CLOSE,
    IORING_OP_FADVISE, IORING_OP_FALLOCATE, IORING_OP_FGETXATTR, IORING_OP_FILES_UPDATE, IORING_OP_FIXED_FD_INSTALL,
    IORING_OP_FSETXATTR, IORING_OP_FSYNC, IORING_OP_FTRUNCATE, IORING_OP_GETXATTR, IORING_OP_LINKAT,
    IORING_OP_MADVISE, IORING_OP_MKDIRAT, IORING_OP_OPENAT, IORING_OP_OPENAT2, IORING_OP_PIPE, IORING_OP_READ,
    IORING_OP_READ_FIXED, IORING_OP_READ_MULTISHOT, IORING_OP_READV, IORING_OP_READV_FIXED, IORING_OP_RENAMEAT,
    IORING_OP_SETXATTR, IORING_OP_SPLICE, IORING_OP_STATX, IORING_OP_SYMLINKAT, IORING_OP_SYNC_FILE_RANGE,
    IORING_OP_TEE, IORING_OP_UNLINKAT, IORING_OP_URING_CMD, IORING_OP_WRITE, IORING_OP_WRITE_FIXED,
    IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED, IOSQE_BUFFER_SELECT, IOSQE_FIXED_FILE,
)
from .arguments import (
    U64, attributes, cmd_op64, fileno, fileno32, int32s, iovecs, path_at, slot_field, some,
)
from .structs import AT_FDCWD, OPEN_HOW, SIZEOF_STATX, OpenHow
from .syscalls import address_of

TYPE_CHECKING = False       # typing itself is not imported at run time: it costs more than we do
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Union

    from .structs import AttrPI

    Buffer = Any            # whatever exports one; collections.abc.Buffer is Python 3.12
    Dfd = Any               # an int, or whatever has fileno()
    Path = Union[str, bytes, os.PathLike]

_IOC_NONE = IOC_NONE.get(os.uname().machine, 0)


class FilePrep:
    """The prep_* methods for files and paths."""

    __slots__ = ()

    _sqe: Callable[..., None]           # what Ring supplies: fills the next free SQE

    # -- opening and closing -----------------------------------------------------------------------
    def prep_openat(self, dfd, path, flags: int, mode: int = 0o777, *, user_data: int = 0,
                    sqe_flags: int = 0, personality: int = 0, file_index: int = 0) -> None:
        """openat(2). CQE res: the new fd, or -errno.

        dfd          a directory's fd, or AT_FDCWD (-100)
        path         str, bytes or os.PathLike, without NUL
        flags        O_*, as given: add O_CLOEXEC, which os.open() always has (PEP 446), unless
                     children are to inherit it
        file_index   a slot plus one, or IORING_FILE_INDEX_ALLOC; as prep_openat_direct, where it is
                     the slot itself
        Linux 5.6. io_uring_prep_openat(3).
        """
        address, keeper = path_at(path)
        self._sqe(IORING_OP_OPENAT, fileno(dfd), address, mode, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, personality=personality,
                  file_index=file_index, keeper=keeper)

    def prep_openat_direct(self, dfd, path, flags: int, mode: int = 0o777,
                           file_index: int = IORING_FILE_INDEX_ALLOC, *, user_data: int = 0,
                           sqe_flags: int = 0, personality: int = 0) -> None:
        """openat(2) into a slot of the registered file table, without a normal fd: later requests name
        it with IOSQE_FIXED_FILE.

        flags        O_* without O_CLOEXEC: no child inherits a slot
        file_index   the slot, or IORING_FILE_INDEX_ALLOC (Linux 5.19)
        CQE res: 0 for a given slot, the slot for a chosen one, or -errno: -EINVAL beyond the end of
        the table, -ENXIO without one; -ENFILE where the kernel is to choose and none is free.
        Linux 5.15. io_uring_prep_openat_direct(3).
        """
        self.prep_openat(dfd, path, _inherits_nothing(flags), mode, user_data=user_data,
                         sqe_flags=sqe_flags, personality=personality,
                         file_index=slot_field(file_index))

    def prep_open(self, path, flags: int, mode: int = 0o777, *, user_data: int = 0,
                  sqe_flags: int = 0, personality: int = 0) -> None:
        """open(2): prep_openat() from the working directory.

        CQE res: the new fd, or -errno. Linux 5.6. io_uring_prep_open(3).
        """
        self.prep_openat(AT_FDCWD, path, flags, mode, user_data=user_data, sqe_flags=sqe_flags,
                         personality=personality)

    def prep_open_direct(self, path, flags: int, mode: int = 0o777,
                         file_index: int = IORING_FILE_INDEX_ALLOC, *, user_data: int = 0,
                         sqe_flags: int = 0, personality: int = 0) -> None:
        """prep_openat_direct() from the working directory.

        CQE res as there. Linux 5.15. io_uring_prep_open_direct(3).
        """
        self.prep_openat_direct(AT_FDCWD, path, flags, mode, file_index, user_data=user_data,
                                sqe_flags=sqe_flags, personality=personality)

    def prep_openat2(self, dfd, path, how: OpenHow, *, user_data: int = 0, sqe_flags: int = 0,
                     personality: int = 0, file_index: int = 0) -> None:
        """openat2(2). CQE res: the new fd, or -errno.

        how          an OpenHow: flags, mode, and how far the path may lead
        file_index   a slot plus one, as for prep_openat
        Linux 5.6. io_uring_prep_openat2(3).
        """
        address, keeper = path_at(path)
        raw = _open_how(how)
        self._sqe(IORING_OP_OPENAT2, fileno(dfd), address, OPEN_HOW.size, address_of(raw),
                  user_data=user_data, sqe_flags=sqe_flags, personality=personality,
                  file_index=file_index, keeper=(keeper, raw))

    def prep_openat2_direct(self, dfd, path, how: OpenHow,
                            file_index: int = IORING_FILE_INDEX_ALLOC, *, user_data: int = 0,
                            sqe_flags: int = 0, personality: int = 0) -> None:
        """openat2(2) into a slot; file_index and CQE res as for prep_openat_direct.

        Linux 5.15. io_uring_prep_openat2_direct(3).
        """
        _open_how(how)
        _inherits_nothing(how.flags)
        self.prep_openat2(dfd, path, how, user_data=user_data, sqe_flags=sqe_flags,
                          personality=personality, file_index=slot_field(file_index))

    def prep_close(self, fd: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """close(2). CQE res: 0 or -errno. A Python object that owns the fd does not learn of it:
        give what socket.detach() or os.dup() answers. Requests on that fd are not ended by this.

        Linux 5.6. io_uring_prep_close(3).
        """
        self._sqe(IORING_OP_CLOSE, fileno(fd), user_data=user_data, sqe_flags=sqe_flags)

    def prep_close_direct(self, file_index: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """Empty a slot of the registered file table. Without IOSQE_FIXED_FILE: that is -EBADF.

        file_index   the slot itself
        CQE res: 0, -EBADF for an empty slot, -EINVAL beyond the table's end, -ENXIO without a table.
        Linux 5.15. io_uring_prep_close_direct(3).
        """
        if file_index == IORING_FILE_INDEX_ALLOC:       # plus one it would be 0, and close fd 0
            raise ValueError("file_index IORING_FILE_INDEX_ALLOC closes nothing: give a slot's number")
        self._sqe(IORING_OP_CLOSE, 0, user_data=user_data, sqe_flags=sqe_flags,
                  file_index=slot_field(file_index))

    # -- reading and writing -----------------------------------------------------------------------
    def prep_read(self, fd, buf, nbytes: int | None = None, offset: int = -1, *,
                  user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                  rw_flags: int = 0, buf_group: int = 0, attr_pi: AttrPI | None = None) -> None:
        """pread(2), or read(2) where offset is -1. CQE res: bytes read, 0 at the end, or -errno.

        nbytes     bytes of buf that may be filled; None for all of it
        offset     bytes from the start of the file; -1 for the file's own position, and for what
                   has none (pipes, sockets)
        rw_flags   RWF_*, as for preadv2(2)
        Linux 5.6. io_uring_prep_read(3).
        """
        address, size, keeper = some(buf, nbytes, True, sqe_flags)
        addr3, mask, keeper = (0, 0, keeper) if attr_pi is None else attributes(attr_pi, keeper, True)
        self._sqe(IORING_OP_READ, fileno(fd), address, size, U64 if offset == -1 else offset,
                  op_flags=rw_flags, user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio,
                  personality=personality, buf_index=buf_group, addr3=addr3, attr_type_mask=mask,
                  keeper=keeper)

    def prep_write(self, fd, buf, nbytes: int | None = None, offset: int = -1, *,
                   user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                   rw_flags: int = 0, attr_pi: AttrPI | None = None) -> None:
        """pwrite(2), or write(2) where offset is -1. CQE res: bytes written, or -errno.

        nbytes, offset, rw_flags   as for prep_read
        Linux 5.6. io_uring_prep_write(3).
        """
        address, size, keeper = some(buf, nbytes, False, sqe_flags)
        addr3, mask, keeper = (0, 0, keeper) if attr_pi is None else attributes(attr_pi, keeper, False)
        self._sqe(IORING_OP_WRITE, fileno(fd), address, size, U64 if offset == -1 else offset,
                  op_flags=rw_flags, user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio,
                  personality=personality, addr3=addr3, attr_type_mask=mask, keeper=keeper)

    def prep_readv(self, fd, buffers: Iterable[Buffer], offset: int = -1, *, user_data: int = 0,
                   sqe_flags: int = 0, ioprio: int = 0, personality: int = 0, rw_flags: int = 0,
                   buf_group: int = 0, attr_pi: AttrPI | None = None) -> None:
        """preadv(2): one read into several buffers. CQE res: bytes read in all, or -errno.

        offset   as for prep_read
        Linux 5.1, offset -1 5.6. io_uring_prep_readv(3).
        """
        self._rw(IORING_OP_READV, True, fd, iovecs(buffers, True), offset, rw_flags, buf_group, attr_pi,
                 user_data, sqe_flags, ioprio, personality)

    def prep_readv2(self, fd, buffers: Iterable[Buffer], offset: int = -1, flags: int = 0, *,
                    user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                    buf_group: int = 0, attr_pi: AttrPI | None = None) -> None:
        """preadv2(2): prep_readv() with RWF_* in flags.

        CQE res: bytes read in all, or -errno. Linux 5.1. io_uring_prep_readv2(3).
        """
        self._rw(IORING_OP_READV, True, fd, iovecs(buffers, True), offset, flags, buf_group, attr_pi,
                 user_data, sqe_flags, ioprio, personality)

    def prep_writev(self, fd, buffers: Iterable[Buffer], offset: int = -1, *, user_data: int = 0,
                    sqe_flags: int = 0, ioprio: int = 0, personality: int = 0, rw_flags: int = 0,
                    attr_pi: AttrPI | None = None) -> None:
        """pwritev(2): one write from several buffers. CQE res: bytes written in all, or -errno.

        offset   as for prep_read
        Linux 5.1, offset -1 5.6. io_uring_prep_writev(3).
        """
        self._rw(IORING_OP_WRITEV, False, fd, iovecs(buffers, False), offset, rw_flags, 0, attr_pi,
                 user_data, sqe_flags, ioprio, personality)

    def prep_writev2(self, fd, buffers: Iterable[Buffer], offset: int = -1, flags: int = 0, *,
                     user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                     attr_pi: AttrPI | None = None) -> None:
        """pwritev2(2): prep_writev() with RWF_* in flags.

        CQE res: bytes written in all, or -errno. Linux 5.1. io_uring_prep_writev2(3).
        """
        self._rw(IORING_OP_WRITEV, False, fd, iovecs(buffers, False), offset, flags, 0, attr_pi,
                 user_data, sqe_flags, ioprio, personality)

    def prep_read_multishot(self, fd, nbytes: int = 0, offset: int = -1, buf_group: int = 0, *,
                            user_data: int = 0, sqe_flags: int = 0, personality: int = 0) -> None:
        """read(2) again and again, into provided buffers (IOSQE_BUFFER_SELECT is added): a CQE each
        time, with IORING_CQE_F_MORE until the last. For what can be polled: pipes, ttys, not files.

        nbytes      0 for as much as a buffer holds; anything else is -EINVAL (measured on 6.18)
        offset      0 or -1 for what has no position
        buf_group   the group to take buffers from; flags >> IORING_CQE_BUFFER_SHIFT is which one
        CQE res: bytes read; 0 at the end; -ENOBUFS when the group is empty; -EBADFD for a file that
        can't be polled. Linux 6.7. io_uring_prep_read_multishot(3), io_uring_multishot(7).
        """
        self._sqe(IORING_OP_READ_MULTISHOT, fileno(fd), 0, nbytes, U64 if offset == -1 else offset,
                  user_data=user_data, sqe_flags=sqe_flags | IOSQE_BUFFER_SELECT,
                  personality=personality, buf_index=buf_group)

    # -- reading and writing in registered buffers -------------------------------------------------
    def prep_read_fixed(self, fd, buf, nbytes: int | None = None, offset: int = -1,
                        buf_index: int = 0, *, user_data: int = 0, sqe_flags: int = 0,
                        ioprio: int = 0, personality: int = 0, rw_flags: int = 0,
                        attr_pi: AttrPI | None = None) -> None:
        """prep_read() into a registered buffer, whose pages the kernel need not look up.

        buf         that buffer, or a part of it (a memoryview's slice)
        buf_index   its number in register_buffers()
        CQE res as for prep_read; -EFAULT where buf is not inside buffer buf_index.
        Linux 5.1, offset -1 5.6. io_uring_prep_read_fixed(3).
        """
        self._rw(IORING_OP_READ_FIXED, True, fd, some(buf, nbytes, True), offset, rw_flags, buf_index,
                 attr_pi, user_data, sqe_flags, ioprio, personality)

    def prep_write_fixed(self, fd, buf, nbytes: int | None = None, offset: int = -1,
                         buf_index: int = 0, *, user_data: int = 0, sqe_flags: int = 0,
                         ioprio: int = 0, personality: int = 0, rw_flags: int = 0,
                         attr_pi: AttrPI | None = None) -> None:
        """prep_write() from a registered buffer; buf and buf_index as for prep_read_fixed.

        CQE res as for prep_write; -EFAULT where buf is not inside buffer buf_index.
        Linux 5.1, offset -1 5.6. io_uring_prep_write_fixed(3).
        """
        # Writable, though only read: of another view syscalls.readable() makes a copy, which is not
        # the registered buffer.
        self._rw(IORING_OP_WRITE_FIXED, False, fd, some(buf, nbytes, True), offset, rw_flags, buf_index,
                 attr_pi, user_data, sqe_flags, ioprio, personality)

    def prep_readv_fixed(self, fd, buffers: Iterable[Buffer], offset: int = -1, flags: int = 0,
                         buf_index: int = 0, *, user_data: int = 0, sqe_flags: int = 0,
                         ioprio: int = 0, personality: int = 0,
                         attr_pi: AttrPI | None = None) -> None:
        """prep_readv2() into several parts of one registered buffer.

        buffers     parts of that buffer, in any order
        buf_index   its number in register_buffers()
        CQE res as for prep_readv; -EFAULT where a part is not inside buffer buf_index.
        Linux 6.15. io_uring_prep_readv_fixed(3).
        """
        self._rw(IORING_OP_READV_FIXED, True, fd, iovecs(buffers, True), offset, flags, buf_index,
                 attr_pi, user_data, sqe_flags, ioprio, personality)

    def prep_writev_fixed(self, fd, buffers: Iterable[Buffer], offset: int = -1, flags: int = 0,
                          buf_index: int = 0, *, user_data: int = 0, sqe_flags: int = 0,
                          ioprio: int = 0, personality: int = 0,
                          attr_pi: AttrPI | None = None) -> None:
        """prep_writev2() from several parts of one registered buffer, as for prep_readv_fixed.

        CQE res: bytes written in all, or -errno. Linux 6.15. io_uring_prep_writev_fixed(3).
        """
        self._rw(IORING_OP_WRITEV_FIXED, False, fd, iovecs(buffers, True), offset, flags, buf_index,
                 attr_pi, user_data, sqe_flags, ioprio, personality)

    def _rw(self, opcode, kernel_writes, fd, memory, offset, rw_flags, buf_index, attr_pi, user_data,
            sqe_flags, ioprio, personality):
        address, size, keeper = memory
        addr3, mask, keeper = (0, 0, keeper) if attr_pi is None else attributes(attr_pi, keeper, kernel_writes)
        self._sqe(opcode, fileno(fd), address, size, U64 if offset == -1 else offset,
                  op_flags=rw_flags, user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio,
                  personality=personality, buf_index=buf_index, addr3=addr3, attr_type_mask=mask,
                  keeper=keeper)

    # -- from one fd to another --------------------------------------------------------------------
    def prep_splice(self, fd_in: Dfd, off_in: int, fd_out: Dfd, off_out: int, nbytes: int,
                    splice_flags: int = 0, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """splice(2): move bytes between two fds, of which one is a pipe. CQE res: how many, 0 at the
        end, or -errno.

        fd_in              with SPLICE_F_FD_IN_FIXED a slot; for fd_out IOSQE_FIXED_FILE says so
        off_in, off_out    bytes from the start of the file; -1 for its own position, and for a pipe
        splice_flags       SPLICE_F_*
        Linux 5.7. io_uring_prep_splice(3).
        """
        self._sqe(IORING_OP_SPLICE, fileno(fd_out), U64 if off_in == -1 else off_in, nbytes,
                  U64 if off_out == -1 else off_out, op_flags=splice_flags, user_data=user_data,
                  sqe_flags=sqe_flags, file_index=fileno32(fd_in))

    def prep_tee(self, fd_in: Dfd, fd_out: Dfd, nbytes: int, splice_flags: int = 0, *,
                 user_data: int = 0, sqe_flags: int = 0) -> None:
        """tee(2): copy bytes from one pipe to another, and leave them in the first. CQE res: how many,
        0 at the end, or -errno.

        fd_in, fd_out, splice_flags   as for prep_splice
        Linux 5.8. io_uring_prep_tee(3).
        """
        self._sqe(IORING_OP_TEE, fileno(fd_out), 0, nbytes, op_flags=splice_flags,
                  user_data=user_data, sqe_flags=sqe_flags, file_index=fileno32(fd_in))

    def prep_pipe(self, fds: Buffer, pipe_flags: int = 0, *, user_data: int = 0,
                  sqe_flags: int = 0) -> None:
        """pipe2(2). CQE res: 0 or -errno.

        fds          writable buffer of two native ints, array.array("i", [-1, -1]): the fd to read
                     from, then that to write to, once the CQE is there
        pipe_flags   O_*, as given: add O_CLOEXEC, as for prep_openat
        Linux 6.16. io_uring_prep_pipe(3).
        """
        address, _, keeper = int32s(fds, 2, True)
        self._sqe(IORING_OP_PIPE, 0, address, op_flags=pipe_flags, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    def prep_pipe_direct(self, fds: Buffer, pipe_flags: int = 0,
                         file_index: int = IORING_FILE_INDEX_ALLOC, *, user_data: int = 0,
                         sqe_flags: int = 0) -> None:
        """pipe2(2) into two slots of the registered file table.

        fds          as for prep_pipe, for the numbers of the slots
        pipe_flags   O_* without O_CLOEXEC
        file_index   the slot to read from, the next one is to write to; IORING_FILE_INDEX_ALLOC lets
                     the kernel choose two
        What was in a given slot is closed first (measured on 6.18; the manual page says that it fails).
        CQE res: 0 or -errno: -EINVAL where the table ends between the two, -ENFILE where not two are
        free. Linux 6.16. io_uring_prep_pipe_direct(3).
        """
        address, _, keeper = int32s(fds, 2, True)
        self._sqe(IORING_OP_PIPE, 0, address, op_flags=_inherits_nothing(pipe_flags),
                  user_data=user_data, sqe_flags=sqe_flags, file_index=slot_field(file_index),
                  keeper=keeper)

    # -- size, blocks, caches ----------------------------------------------------------------------
    def prep_fsync(self, fd, fsync_flags: int = 0, *, offset: int = 0, len: int = 0,
                   user_data: int = 0, sqe_flags: int = 0) -> None:
        """fsync(2): what was written before is on the disk. CQE res: 0 or -errno.

        fsync_flags   IORING_FSYNC_DATASYNC for fdatasync(2)
        offset, len   a range, in bytes; 0 and 0 for all
        It does not wait for writes that are in flight: link it to them, or reap them first.
        Linux 5.1. io_uring_prep_fsync(3).
        """
        self._sqe(IORING_OP_FSYNC, fileno(fd), 0, len, offset, op_flags=fsync_flags,
                  user_data=user_data, sqe_flags=sqe_flags)

    def prep_sync_file_range(self, fd, len: int = 0, offset: int = 0, flags: int = 0, *,
                             user_data: int = 0, sqe_flags: int = 0) -> None:
        """sync_file_range(2): write back dirty pages of a range, without its metadata. CQE res: 0 or
        -errno.

        len     bytes; 0 to the end of the file
        flags   SYNC_FILE_RANGE_*
        Linux 5.2. io_uring_prep_sync_file_range(3).
        """
        self._sqe(IORING_OP_SYNC_FILE_RANGE, fileno(fd), 0, len, offset, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags)

    def prep_fallocate(self, fd, mode: int, offset: int, len: int, *, user_data: int = 0,
                       sqe_flags: int = 0) -> None:
        """fallocate(2): give a range its blocks, take them, or move them. CQE res: 0 or -errno.

        mode   FALLOC_FL_*; 0 for blocks, and a file that grows to hold them
        Linux 5.6. io_uring_prep_fallocate(3).
        """
        self._sqe(IORING_OP_FALLOCATE, fileno(fd), len, mode, offset, user_data=user_data,
                  sqe_flags=sqe_flags)

    def prep_ftruncate(self, fd, len: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """ftruncate(2): make a file exactly `len` bytes long. CQE res: 0 or -errno.

        Linux 6.9. io_uring_prep_ftruncate(3).
        """
        self._sqe(IORING_OP_FTRUNCATE, fileno(fd), off=len, user_data=user_data,
                  sqe_flags=sqe_flags)

    def prep_fadvise(self, fd, offset: int, len: int, advice: int, *, user_data: int = 0,
                     sqe_flags: int = 0) -> None:
        """posix_fadvise(2): what a range of a file will be used for. CQE res: 0 or -errno.

        len      bytes, below 4 GiB; 0 to the end of the file
        advice   os.POSIX_FADV_*
        Linux 5.6. io_uring_prep_fadvise(3).
        """
        self._sqe(IORING_OP_FADVISE, fileno(fd), 0, len, offset, op_flags=advice,
                  user_data=user_data, sqe_flags=sqe_flags)

    def prep_fadvise64(self, fd, offset: int, len: int, advice: int, *, user_data: int = 0,
                       sqe_flags: int = 0) -> None:
        """prep_fadvise() for a range of any length. CQE res: -EINVAL from a kernel that lacks it.

        Linux 6.11. io_uring_prep_fadvise64(3).
        """
        self._sqe(IORING_OP_FADVISE, fileno(fd), len, off=offset, op_flags=advice,
                  user_data=user_data, sqe_flags=sqe_flags)

    def prep_madvise(self, addr, length: int | None, advice: int, *, user_data: int = 0,
                     sqe_flags: int = 0) -> None:
        """madvise(2): what memory of ours will be used for. CQE res: 0 or -errno.

        addr     a writable buffer that begins a page: an mmap, or its slice at a multiple of
                 mmap.PAGESIZE
        length   bytes of it, below 4 GiB, None for all; the kernel rounds up to whole pages
        advice   mmap.MADV_*
        Linux 5.6. io_uring_prep_madvise(3).
        """
        address, size, keeper = _pages(addr, length)
        self._sqe(IORING_OP_MADVISE, -1, address, size, op_flags=advice, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    def prep_madvise64(self, addr, length: int | None, advice: int, *, user_data: int = 0,
                       sqe_flags: int = 0) -> None:
        """prep_madvise() for memory of any length. CQE res: -EINVAL from a kernel that lacks it.

        Linux 6.11. io_uring_prep_madvise64(3).
        """
        address, size, keeper = _pages(addr, length)
        self._sqe(IORING_OP_MADVISE, -1, address, off=size, op_flags=advice, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    # -- paths -------------------------------------------------------------------------------------
    def prep_statx(self, dfd, path, flags: int, mask: int, statxbuf: Buffer, *, user_data: int = 0,
                   sqe_flags: int = 0, personality: int = 0) -> None:
        """statx(2). CQE res: 0 or -errno.

        path       "" with AT_EMPTY_PATH for the file that dfd is
        flags      AT_*
        mask       STATX_*: what to look for. stx_mask says what was found, more or less than that
        statxbuf   a structs.Statx, or any writable buffer of 256 bytes; filled once the CQE is there
        Linux 5.6. io_uring_prep_statx(3).
        """
        address, keeper = path_at(path)
        result, size, second = some(statxbuf, None, True)
        if size < SIZEOF_STATX:
            raise ValueError(f"statxbuf has {size} bytes: the kernel writes {SIZEOF_STATX}, give a Statx()")
        self._sqe(IORING_OP_STATX, fileno(dfd), address, mask, result, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, personality=personality,
                  keeper=(keeper, second))

    def prep_renameat(self, olddfd: Dfd, oldpath: Path, newdfd: Dfd, newpath: Path, flags: int = 0,
                      *, user_data: int = 0, sqe_flags: int = 0, personality: int = 0) -> None:
        """renameat2(2). CQE res: 0 or -errno.

        flags   RENAME_*; 0 replaces what newpath names
        Linux 5.11. io_uring_prep_renameat(3).
        """
        self._two_paths(IORING_OP_RENAMEAT, olddfd, oldpath, newdfd, newpath, flags, user_data,
                        sqe_flags, personality)

    def prep_rename(self, oldpath: Path, newpath: Path, *, user_data: int = 0, sqe_flags: int = 0,
                    personality: int = 0) -> None:
        """rename(2). CQE res: 0 or -errno. Linux 5.11. io_uring_prep_rename(3)."""
        self._two_paths(IORING_OP_RENAMEAT, AT_FDCWD, oldpath, AT_FDCWD, newpath, 0, user_data,
                        sqe_flags, personality)

    def prep_linkat(self, olddfd: Dfd, oldpath: Path, newdfd: Dfd, newpath: Path, flags: int = 0,
                    *, user_data: int = 0, sqe_flags: int = 0, personality: int = 0) -> None:
        """linkat(2): another name for a file. CQE res: 0 or -errno.

        flags   AT_SYMLINK_FOLLOW, AT_EMPTY_PATH (with an empty oldpath: the file that olddfd is)
        Linux 5.15. io_uring_prep_linkat(3).
        """
        self._two_paths(IORING_OP_LINKAT, olddfd, oldpath, newdfd, newpath, flags, user_data,
                        sqe_flags, personality)

    def prep_link(self, oldpath: Path, newpath: Path, flags: int = 0, *, user_data: int = 0,
                  sqe_flags: int = 0, personality: int = 0) -> None:
        """link(2), with flags as for prep_linkat. CQE res: 0 or -errno.

        Linux 5.15. io_uring_prep_link(3).
        """
        self._two_paths(IORING_OP_LINKAT, AT_FDCWD, oldpath, AT_FDCWD, newpath, flags, user_data,
                        sqe_flags, personality)

    def _two_paths(self, opcode, olddfd, oldpath, newdfd, newpath, flags, user_data, sqe_flags,
                   personality):
        old, keeper = path_at(oldpath, "oldpath")
        new, second = path_at(newpath, "newpath")
        self._sqe(opcode, fileno(olddfd), old, fileno32(newdfd), new, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, personality=personality,
                  keeper=(keeper, second))

    def prep_unlinkat(self, dfd, path, flags: int = 0, *, user_data: int = 0, sqe_flags: int = 0,
                      personality: int = 0) -> None:
        """unlinkat(2). CQE res: 0 or -errno.

        flags   AT_REMOVEDIR for a directory, as rmdir(2)
        Linux 5.11. io_uring_prep_unlinkat(3).
        """
        address, keeper = path_at(path)
        self._sqe(IORING_OP_UNLINKAT, fileno(dfd), address, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, personality=personality, keeper=keeper)

    def prep_unlink(self, path, flags: int = 0, *, user_data: int = 0, sqe_flags: int = 0,
                    personality: int = 0) -> None:
        """unlink(2), with flags as for prep_unlinkat. CQE res: 0 or -errno.

        Linux 5.11. io_uring_prep_unlink(3).
        """
        self.prep_unlinkat(AT_FDCWD, path, flags, user_data=user_data, sqe_flags=sqe_flags,
                           personality=personality)

    def prep_mkdirat(self, dfd, path, mode: int = 0o777, *, user_data: int = 0, sqe_flags: int = 0,
                     personality: int = 0) -> None:
        """mkdirat(2); the umask takes its bits from mode. CQE res: 0 or -errno.

        Linux 5.15. io_uring_prep_mkdirat(3).
        """
        address, keeper = path_at(path)
        self._sqe(IORING_OP_MKDIRAT, fileno(dfd), address, mode, user_data=user_data,
                  sqe_flags=sqe_flags, personality=personality, keeper=keeper)

    def prep_mkdir(self, path, mode: int = 0o777, *, user_data: int = 0, sqe_flags: int = 0,
                   personality: int = 0) -> None:
        """mkdir(2). CQE res: 0 or -errno. Linux 5.15. io_uring_prep_mkdir(3)."""
        self.prep_mkdirat(AT_FDCWD, path, mode, user_data=user_data, sqe_flags=sqe_flags,
                          personality=personality)

    def prep_symlinkat(self, target: Path, newdirfd: Dfd, linkpath: Path, *, user_data: int = 0,
                       sqe_flags: int = 0, personality: int = 0) -> None:
        """symlinkat(2): a link at linkpath that leads to `target`, which need not exist. CQE res: 0 or
        -errno.

        Linux 5.15. io_uring_prep_symlinkat(3).
        """
        leads_to, keeper = path_at(target, "target")
        link, second = path_at(linkpath, "linkpath")
        self._sqe(IORING_OP_SYMLINKAT, fileno(newdirfd), leads_to, off=link, user_data=user_data,
                  sqe_flags=sqe_flags, personality=personality, keeper=(keeper, second))

    def prep_symlink(self, target: Path, linkpath: Path, *, user_data: int = 0, sqe_flags: int = 0,
                     personality: int = 0) -> None:
        """symlink(2). CQE res: 0 or -errno. Linux 5.15. io_uring_prep_symlink(3)."""
        self.prep_symlinkat(target, AT_FDCWD, linkpath, user_data=user_data, sqe_flags=sqe_flags,
                            personality=personality)

    # -- extended attributes -----------------------------------------------------------------------
    def prep_getxattr(self, name: str | bytes, value: Buffer | None, path,
                      len: int | None = None, *, user_data: int = 0, sqe_flags: int = 0,
                      personality: int = 0) -> None:
        """getxattr(2). CQE res: bytes of the value, -ENODATA without such an attribute, -ERANGE where
        it is longer than len, or another -errno.

        name    with its namespace, "user.colour"
        value   writable buffer; None or an empty one asks only how long the value is
        path    from the working directory; a symbolic link is followed
        len     bytes of the buffer that may be filled; None for all of it
        Linux 5.19. io_uring_prep_getxattr(3).
        """
        self._xattr(IORING_OP_GETXATTR, 0, name, value, path, len, 0, True, user_data, sqe_flags,
                    personality)

    def prep_fgetxattr(self, fd, name: str | bytes, value: Buffer | None, len: int | None = None,
                       *, user_data: int = 0, sqe_flags: int = 0, personality: int = 0) -> None:
        """fgetxattr(2); name, value, len and CQE res as for prep_getxattr.

        Linux 5.19. io_uring_prep_fgetxattr(3).
        """
        self._xattr(IORING_OP_FGETXATTR, fileno(fd), name, value, None, len, 0, True, user_data,
                    sqe_flags, personality)

    def prep_setxattr(self, name: str | bytes, value: Buffer, path, flags: int = 0,
                      len: int | None = None, *, user_data: int = 0, sqe_flags: int = 0,
                      personality: int = 0) -> None:
        """setxattr(2). CQE res: 0 or -errno.

        name, path   as for prep_getxattr
        value        buffer, of which len bytes are taken; None for all of it
        flags        os.XATTR_CREATE (-EEXIST where it is there), os.XATTR_REPLACE (-ENODATA where not)
        Linux 5.19. io_uring_prep_setxattr(3).
        """
        self._xattr(IORING_OP_SETXATTR, 0, name, value, path, len, flags, False, user_data,
                    sqe_flags, personality)

    def prep_fsetxattr(self, fd, name: str | bytes, value: Buffer, flags: int = 0,
                       len: int | None = None, *, user_data: int = 0, sqe_flags: int = 0,
                       personality: int = 0) -> None:
        """fsetxattr(2); name, value, flags and len as for prep_setxattr. CQE res: 0 or -errno.

        Linux 5.19. io_uring_prep_fsetxattr(3).
        """
        self._xattr(IORING_OP_FSETXATTR, fileno(fd), name, value, None, len, flags, False,
                    user_data, sqe_flags, personality)

    def _xattr(self, opcode, fd, name, value, path, size, flags, kernel_writes, user_data,
               sqe_flags, personality):
        named, keeper = path_at(name, "name")
        if value is None and kernel_writes:
            value = bytearray()
        at, size, second = some(value, size, kernel_writes)
        where, third = path_at(path) if path is not None else (0, None)
        self._sqe(opcode, fd, named, size, at, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, personality=personality, addr3=where,
                  keeper=(keeper, second, third))

    # -- the table of registered files -------------------------------------------------------------
    def prep_fixed_fd_install(self, fd: int, flags: int = 0, *, user_data: int = 0,
                              sqe_flags: int = 0) -> None:
        """A normal fd for the file in slot `fd` (IOSQE_FIXED_FILE is added), which stays there as well.
        CQE res: the fd, or -errno; -EBADF for an empty slot.

        flags   IORING_FIXED_FD_NO_CLOEXEC: children inherit it
        Linux 6.8. io_uring_prep_fixed_fd_install(3).
        """
        self._sqe(IORING_OP_FIXED_FD_INSTALL, fileno(fd), op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags | IOSQE_FIXED_FILE)

    def prep_files_update(self, fds: Buffer | list, offset: int = 0, *, user_data: int = 0,
                          sqe_flags: int = 0) -> None:
        """Put files into slots of the registered table, as register_files_update() does at once.

        fds      a list of fds, or a buffer of native ints: -1 empties a slot,
                 IORING_REGISTER_FILES_SKIP leaves it as it is (Linux 5.12)
        offset   the first slot, the others follow; IORING_FILE_INDEX_ALLOC lets the kernel choose
                 (Linux 5.19): fds is then a writable buffer, and holds the slots once the CQE is there
        CQE res: how many, or -errno; -ENXIO without a table. Linux 5.6. io_uring_prep_files_update(3).
        """
        chosen = offset == IORING_FILE_INDEX_ALLOC
        if isinstance(fds, (list, tuple)):
            if chosen:
                raise TypeError(f"the slots chosen can't be written into a {type(fds).__name__}: give "
                                "array.array('i', fds)")
            fds = b"".join([fileno32(fd).to_bytes(4, sys.byteorder) for fd in fds])
        address, count, keeper = int32s(fds, 1, chosen)
        self._sqe(IORING_OP_FILES_UPDATE, -1, address, count, U64 if chosen else offset,
                  user_data=user_data, sqe_flags=sqe_flags, keeper=keeper)

    # -- block devices -----------------------------------------------------------------------------
    def prep_cmd_discard(self, fd, offset: int, nbytes: int, *, user_data: int = 0,
                         sqe_flags: int = 0) -> None:
        """Tell a block device that a range of it is no longer needed, as ioctl BLKDISCARD; unlike that,
        several at a time, and without a lock against reads and writes. CQE res: 0 or -errno;
        -EOPNOTSUPP where the device can't or fd is none, -EINVAL for a range that is not made of
        whole sectors.

        Linux 6.12. io_uring_prep_cmd_discard(3).
        """
        self._sqe(IORING_OP_URING_CMD, fileno(fd), offset,
                  off=cmd_op64(_IOC_NONE | BLOCK_URING_CMD_DISCARD), addr3=nbytes,
                  user_data=user_data, sqe_flags=sqe_flags)

    def prep_cmd_zone_reset_all(self, fd, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """Rewind all zones of a zoned block device. CQE res: 0 or -errno; -EOPNOTSUPP where it has no
        zones, -EINVAL from a kernel that does not know this.

        Younger than Linux 7.2. io_uring_prep_cmd_zone_reset_all(3).
        """
        self._sqe(IORING_OP_URING_CMD, fileno(fd),
                  off=cmd_op64(_IOC_NONE | BLOCK_URING_CMD_ZONE_RESET_ALL), user_data=user_data,
                  sqe_flags=sqe_flags)


# -- arguments that only these requests have ------------------------------------------------------
def _open_how(how):
    """An OpenHow as the bytes of `struct open_how`."""
    if not isinstance(how, OpenHow):
        raise TypeError(f"how is {type(how).__name__}: give an OpenHow(flags, mode, resolve)")
    try:
        return OPEN_HOW.pack(*how)
    except struct.error:
        raise ValueError(f"{how} does not fit struct open_how: flags, mode and resolve are ints of "
                         "64 bits, from 0") from None


def _inherits_nothing(flags):
    """The flags for a file in a slot, which the kernel would refuse with -EINVAL if O_CLOEXEC is among
    them (__io_openat_prep() in io_uring/openclose.c)."""
    if isinstance(flags, int) and flags & os.O_CLOEXEC:
        raise ValueError(f"flags {flags:#o} have O_CLOEXEC: leave it out, no child inherits a slot")
    return flags


def _pages(memory, length):
    """some() for memory that is to be whole pages."""
    address, size, keeper = some(memory, length, True)
    if address % PAGESIZE:
        raise ValueError(f"this {type(memory).__name__} begins {address % PAGESIZE} bytes into a page: "
                         "madvise(2) is for whole pages, give an mmap")
    # The kernel rounds up. Behind an mmap's last byte is nothing; behind another buffer's, somebody
    # else's memory, which MADV_DONTNEED would empty.
    if size % PAGESIZE and not isinstance(memory, mmap):
        raise ValueError(f"{size} bytes are no whole pages of {PAGESIZE}: the kernel would round up, "
                         "beyond this buffer")
    return address, size, keeper
