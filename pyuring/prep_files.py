"""prep_files.py - requests on files and paths: which argument goes into which field of the SQE.

What the arguments may be, and the keywords that all prep_* take, stand at the head of prep.py; what
the fields are called, at the SQE in abi.py. Read next: prep_sockets.py.
"""
from __future__ import annotations

from .abi import (
    IORING_OP_CLOSE, IORING_OP_OPENAT, IORING_OP_READ, IORING_OP_WRITE,
)
from .arguments import U64, fileno, path_at, some

TYPE_CHECKING = False       # typing itself is not imported at run time: it costs more than we do
if TYPE_CHECKING:
    from collections.abc import Callable


class FilePrep:
    """The prep_* methods for files and paths."""

    __slots__ = ()

    _sqe: Callable[..., None]           # what Ring supplies: fills the next free SQE

    def prep_openat(self, dfd, path, flags: int, mode: int = 0o777, *, user_data: int = 0,
                    sqe_flags: int = 0, personality: int = 0, file_index: int = 0) -> None:
        """openat(2). CQE res: the new fd, or -errno.

        dfd     a directory's fd, or AT_FDCWD (-100)
        path    str, bytes or os.PathLike, without NUL
        flags   O_*, as given: add O_CLOEXEC, which os.open() always has (PEP 446), unless children
                are to inherit it
        Linux 5.6. io_uring_prep_openat(3).
        """
        address, keeper = path_at(path)
        self._sqe(IORING_OP_OPENAT, fileno(dfd), address, mode, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, personality=personality,
                  file_index=file_index, keeper=keeper)

    def prep_close(self, fd: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """close(2). CQE res: 0 or -errno. A Python object that owns the fd does not learn of it:
        give what socket.detach() or os.dup() answers. Requests on that fd are not ended by this.

        Linux 5.6. io_uring_prep_close(3).
        """
        self._sqe(IORING_OP_CLOSE, fileno(fd), user_data=user_data, sqe_flags=sqe_flags)

    def prep_read(self, fd, buf, nbytes: int | None = None, offset: int = -1, *,
                  user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                  rw_flags: int = 0, buf_group: int = 0) -> None:
        """pread(2), or read(2) where offset is -1. CQE res: bytes read, 0 at the end, or -errno.

        nbytes     bytes of buf that may be filled; None for all of it
        offset     bytes from the start of the file; -1 for the file's own position, and for what
                   has none (pipes, sockets)
        rw_flags   RWF_*, as for preadv2(2)
        Linux 5.6. io_uring_prep_read(3).
        """
        address, size, keeper = some(buf, nbytes, True, sqe_flags)
        self._sqe(IORING_OP_READ, fileno(fd), address, size, U64 if offset == -1 else offset,
                  op_flags=rw_flags, user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio,
                  personality=personality, buf_index=buf_group, keeper=keeper)

    def prep_write(self, fd, buf, nbytes: int | None = None, offset: int = -1, *,
                   user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                   rw_flags: int = 0) -> None:
        """pwrite(2), or write(2) where offset is -1. CQE res: bytes written, or -errno.

        nbytes, offset, rw_flags   as for prep_read
        Linux 5.6. io_uring_prep_write(3).
        """
        address, size, keeper = some(buf, nbytes, False, sqe_flags)
        self._sqe(IORING_OP_WRITE, fileno(fd), address, size, U64 if offset == -1 else offset,
                  op_flags=rw_flags, user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio,
                  personality=personality, keeper=keeper)
