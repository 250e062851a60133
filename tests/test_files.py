"""pyuring/prep_files.py on the real kernel: each request does its thing, and memory in flight stays where it is.

The bytes of the SQEs are in test_prep_files.py. Where a file system may differ (tmpfs, ext4, hostfs, ...), what the
system call answers is what is expected here.
"""
import array
import contextlib
import errno
import fcntl
import gc
import mmap
import os
import stat
import struct
import time
import weakref

import pytest
from onkernel import collect, needs, results

from pyuring import abi, syscalls
from pyuring.abi import IORING_FILE_INDEX_ALLOC as ALLOC, IOSQE_FIXED_FILE as FIXED, IOSQE_IO_LINK as LINK
from pyuring.ring import CQE, Ring
from pyuring.structs import (
    AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE, RENAME_EXCHANGE, RENAME_NOREPLACE, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RWF_APPEND,
    SPLICE_F_NONBLOCK, STATX_ALL, STATX_BASIC_STATS, STATX_BTIME, STATX_DIOALIGN, STATX_MNT_ID, STATX_SIZE,
    SYNC_FILE_RANGE_WAIT_AFTER, SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE, AttrPI, OpenHow, Statx,
)

LONG = 30       # seconds: far more than anything here takes. Only a failed test waits that long
MODES = {"default": None, "flags=0": 0}
CLOEXEC = os.O_CLOEXEC
TEXT = b"the quick brown fox jumps over the lazy dog"


@pytest.fixture(params=MODES)
def ring(request, io_uring):
    with Ring(8, flags=MODES[request.param]) as ring:
        yield ring


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in reader, writer:
        with contextlib.suppress(OSError):      # a test may have closed it
            os.close(fd)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory, and the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dfd(here):
    """An fd of another one, here/d."""
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def file(here):
    """A file with TEXT in it, open for both."""
    fd = os.open("file", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, TEXT, 0)
    yield fd
    with contextlib.suppress(OSError):
        os.close(fd)


@pytest.fixture
def memfd():
    """A file with TEXT in it, of a file system that every kernel has."""
    fd = os.memfd_create("pyuring")
    os.pwrite(fd, TEXT, 0)
    yield fd
    os.close(fd)


def too_old(what, since):
    pytest.skip(f"Linux {os.uname().release} has no {what}, which came with {since}")


def done(ring):
    """Submits one request, and gives its result."""
    return collect(ring, 1)[0].res


class Group:
    """A provided buffer ring of `count` buffers of `size` bytes; count is a power of two."""

    def __init__(self, ring, group, count, size):
        self.size, self.memory = size, [bytearray(size) for _ in range(count)]
        self.keepers = [syscalls.writable(buffer) for buffer in self.memory]
        entries = mmap.mmap(-1, mmap.PAGESIZE)
        for bid, (at, length, _) in enumerate(self.keepers):
            abi.BUF.pack_into(entries, abi.BUF.size * bid, at, length, bid, 0)
        try:
            ring.register_buf_ring(entries, count, group)
        except OSError as error:
            assert error.errno == errno.EINVAL
            too_old("provided buffer rings", "5.19")
        ring._registered[f"test group {group}"] = self  # as long as the ring, whatever is still in flight
        struct.pack_into("=H", entries, 14, count)      # the tail: all of them are the kernel's now

    def taken(self, cqe):
        """What a CQE says that was read."""
        assert cqe.flags & abi.IORING_CQE_F_BUFFER
        return bytes(self.memory[cqe.flags >> abi.IORING_CQE_BUFFER_SHIFT][:cqe.res])


@pytest.fixture
def table(ring):
    """The ring has 4 empty slots for files."""
    try:
        ring.register_files_sparse(4)
    except OSError as error:
        assert error.errno == errno.EINVAL
        too_old("sparse file tables", "5.19")
    return 4


def fds():
    return set(os.listdir("/proc/self/fd"))


def read_slot(ring, slot, size=64, offset=0):
    """What a slot's file has, or -errno."""
    buffer = bytearray(size)
    ring.prep_read(slot, buffer, offset=offset, sqe_flags=FIXED)
    res = done(ring)
    return bytes(buffer[:res]) if res >= 0 else res


# ------------------------------------------------------------------------------------------ opening and closing

def test_openat_creates_a_file_below_the_directory(ring, dfd):
    needs(ring, abi.IORING_OP_OPENAT)
    umask = os.umask(0o027)
    try:
        ring.prep_openat(dfd, "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY | CLOEXEC, 0o666)
        fd = done(ring)
    finally:
        os.umask(umask)
    os.write(fd, b"written")
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    os.close(fd)
    with open("d/new", "rb") as new:
        assert new.read() == b"written"
    assert stat.S_IMODE(os.stat("d/new").st_mode) == 0o640
    ring.prep_openat(dfd, "new", os.O_CREAT | os.O_EXCL)
    assert done(ring) == -errno.EEXIST


def test_open_starts_at_the_working_directory(ring, file):
    needs(ring, abi.IORING_OP_OPENAT)
    ring.prep_open(b"file", os.O_RDONLY)
    fd = done(ring)
    assert os.read(fd, 99) == TEXT
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == 0, "as given: without O_CLOEXEC"
    os.close(fd)
    ring.prep_open("nothing", os.O_RDONLY)
    assert done(ring) == -errno.ENOENT


def test_openat2_goes_no_further_than_it_may(ring, file, dfd):
    needs(ring, abi.IORING_OP_OPENAT2)
    os.symlink("../file", "d/link")
    for path, how, expected in [
            ("../file", OpenHow(os.O_RDONLY, resolve=RESOLVE_BENEATH), -errno.EXDEV),
            ("link", OpenHow(os.O_RDONLY, resolve=RESOLVE_NO_SYMLINKS), -errno.ELOOP),
            ("../file", OpenHow(1 << 63), -errno.EINVAL),
            ("../file", OpenHow(os.O_RDONLY, mode=0o600), -errno.EINVAL)]:
        ring.prep_openat2(dfd, path, how)
        res = done(ring)
        if res >= 0 and expected == -errno.EINVAL and not ring.features & abi.IORING_FEAT_EXT_ARG:
            os.close(res)           # one of these does not matter to Linux 5.10.46
        else:
            assert res == expected
    ring.prep_openat2(dfd, "link", OpenHow(os.O_RDONLY | CLOEXEC))
    fd = done(ring)
    assert os.read(fd, 99) == TEXT
    os.close(fd)
    ring.prep_openat2(dfd, "new", OpenHow(os.O_CREAT | os.O_WRONLY, 0o600, RESOLVE_BENEATH))
    os.close(done(ring))
    assert stat.S_IMODE(os.stat("d/new").st_mode) == 0o600


OPEN_DIRECT = {
    "openat": lambda r, dfd, slot: r.prep_openat(dfd, "../file", os.O_RDONLY,
                                                 file_index=slot if slot == ALLOC else slot + 1),
    "openat_direct": lambda r, dfd, slot: r.prep_openat_direct(dfd, "../file", os.O_RDONLY, 0, slot),
    "open_direct": lambda r, dfd, slot: r.prep_open_direct("file", os.O_RDONLY, 0, slot),
    "openat2": lambda r, dfd, slot: r.prep_openat2(dfd, "../file", OpenHow(os.O_RDONLY),
                                                   file_index=slot if slot == ALLOC else slot + 1),
    "openat2_direct": lambda r, dfd, slot: r.prep_openat2_direct(dfd, "../file", OpenHow(os.O_RDONLY), slot),
}


@pytest.mark.parametrize("how", OPEN_DIRECT)
def test_a_direct_open_fills_a_slot_and_no_fd(how, ring, table, file, dfd):
    before = fds()
    for slot in (3, 0):
        OPEN_DIRECT[how](ring, dfd, slot)
        assert done(ring) == 0
        assert read_slot(ring, slot) == TEXT
    OPEN_DIRECT[how](ring, dfd, ALLOC)
    assert done(ring) == 1, "the first that is free"
    assert read_slot(ring, 1) == TEXT
    assert fds() == before
    OPEN_DIRECT[how](ring, dfd, ALLOC)
    assert done(ring) == 2
    OPEN_DIRECT[how](ring, dfd, ALLOC)
    assert done(ring) == -errno.ENFILE
    OPEN_DIRECT[how](ring, dfd, table)
    assert done(ring) == -errno.EINVAL, "beyond the end"


def test_a_direct_open_replaces_what_is_in_the_slot(ring, table, file, here):
    (here / "other").write_bytes(b"other")
    for path, content in ("file", TEXT), ("other", b"other"):
        ring.prep_open_direct(path, os.O_RDONLY, 0, 2)
        assert done(ring) == 0
        assert read_slot(ring, 2) == content


def test_close_closes(ring, pipe):
    needs(ring, abi.IORING_OP_CLOSE)
    ring.prep_close(pipe[1])
    assert done(ring) == 0
    assert os.read(pipe[0], 1) == b"", "the end of the pipe"
    with pytest.raises(OSError):
        os.fstat(pipe[1])
    ring.prep_close(pipe[1])
    assert done(ring) == -errno.EBADF


def test_close_direct_empties_the_slot_and_nothing_else(ring, table, pipe):
    for slot in range(2):
        ring.prep_open_direct("/dev/null", os.O_RDONLY, 0, slot)
        assert done(ring) == 0
    before = fds()
    ring.prep_close_direct(0)
    assert done(ring) == 0
    assert fds() == before
    assert read_slot(ring, 0) == -errno.EBADF
    assert read_slot(ring, 1) == b""
    ring.prep_close_direct(0)
    assert done(ring) == -errno.EBADF
    ring.prep_close_direct(table)
    assert done(ring) == -errno.EINVAL
    ring.prep_close_direct(1, sqe_flags=FIXED)
    assert done(ring) == -errno.EBADF


def test_without_a_table_there_are_no_slots(ring, file):
    needs(ring, abi.IORING_OP_SOCKET)           # 5.19: before 5.15 file_index is not looked at
    ring.prep_open_direct("file", os.O_RDONLY, 0, 0)
    assert done(ring) == -errno.ENXIO
    ring.prep_open_direct("file", os.O_RDONLY)
    assert done(ring) == -errno.ENFILE
    ring.prep_close_direct(0)
    assert done(ring) == -errno.ENXIO


def test_a_chain_opens_reads_and_closes_without_any_fd(ring, table, file):
    buffer = bytearray(64)
    ring.prep_open_direct("file", os.O_RDONLY, 0, 1, user_data=1, sqe_flags=LINK)
    ring.prep_read(1, buffer, len(TEXT), 0, user_data=2, sqe_flags=LINK | FIXED)
    ring.prep_close_direct(1, user_data=3)
    before = fds()
    got = results(ring, 3)
    if got[2] == -errno.EBADF and not ring.features & abi.IORING_FEAT_LINKED_FILE:
        too_old("IORING_FEAT_LINKED_FILE", "5.17")
    assert got == {1: 0, 2: len(TEXT), 3: 0}
    assert buffer[:len(TEXT)] == TEXT
    assert fds() == before


# ----------------------------------------------------------------------------------------- reading and writing

def test_readv_fills_one_buffer_after_the_other(ring, file):
    buffers = [bytearray(4), bytearray(), array.array("H", bytes(6)), memoryview(bytearray(64))[3:]]
    ring.prep_readv(file, buffers, 0)
    assert done(ring) == len(TEXT)
    assert b"".join(bytes(memoryview(buffer).cast("B")) for buffer in buffers)[:len(TEXT)] == TEXT


def test_readv_reads_at_the_offset_or_on_from_the_position(ring, file):
    buffer = bytearray(5)
    ring.prep_readv(file, [buffer], 4)
    assert (done(ring), buffer) == (5, b"quick")
    for expected in TEXT[:5], TEXT[5:10]:
        ring.prep_readv(file, [buffer])
        assert (done(ring), bytes(buffer)) == (5, expected)
    assert os.lseek(file, 0, os.SEEK_CUR) == 10


def test_readv_at_the_end_reads_nothing(ring, file):
    ring.prep_readv(file, [bytearray(5)], len(TEXT))
    assert done(ring) == 0
    ring.prep_readv(file, [], 0)
    assert done(ring) == 0


def test_readv_takes_a_provided_buffer(ring, pipe):
    group = Group(ring, 7, 2, 16)
    ring.prep_readv(pipe[0], [bytearray(16)], 0, sqe_flags=abi.IOSQE_BUFFER_SELECT, buf_group=7)
    ring.submit()
    os.write(pipe[1], b"provided")
    assert group.taken(collect(ring, 1)[0]) == b"provided"


def test_readv2_with_nowait_does_not_wait(ring, pipe):
    ring.prep_readv2(pipe[0], [bytearray(4)], -1, os.RWF_NOWAIT)
    assert done(ring) in (-errno.EAGAIN, -errno.EOPNOTSUPP), "before 6.4 pipes don't know RWF_NOWAIT"
    ring.prep_readv2(pipe[0], [bytearray(4)], 0, 1 << 31)
    assert done(ring) in (-errno.EOPNOTSUPP, -errno.EINVAL), "no such flag"


def test_writev_writes_one_buffer_after_the_other(ring, file):
    ring.prep_writev(file, [b"one", bytearray(b"two"), memoryview(b"three"), b"", array.array("B", b"four")], 4)
    assert done(ring) == 15
    assert os.pread(file, 99, 0) == TEXT[:4] + b"onetwothreefour" + TEXT[19:]


def test_writev_of_1024_buffers_is_one_write(ring, memfd):
    ring.prep_writev(memfd, [bytes([i & 255]) for i in range(1024)], 0)
    assert done(ring) == 1024
    assert os.pread(memfd, 2000, 0) == bytes(range(256)) * 4


def test_writev2_appends_where_it_is_told_to(ring, file):
    ring.prep_writev2(file, [b" and", b" more"], 0, RWF_APPEND)
    assert done(ring) == 9
    assert os.pread(file, 99, 0) == TEXT + b" and more"


def test_read_multishot_goes_on_until_the_end(ring, pipe):
    needs(ring, abi.IORING_OP_READ_MULTISHOT)
    group = Group(ring, 7, 4, 16)
    ring.prep_read_multishot(pipe[0], 0, -1, 7, user_data=5)
    for text in b"one", b"two", b"three":
        ring.submit()
        os.write(pipe[1], text)
        cqe, = collect(ring, 1)
        assert cqe.user_data == 5 and cqe.flags & abi.IORING_CQE_F_MORE
        assert group.taken(cqe) == text
        assert ring._inflight == {5: 1}
    os.close(pipe[1])
    cqe, = collect(ring, 1)
    assert (cqe.user_data, cqe.res, cqe.flags & abi.IORING_CQE_F_MORE) == (5, 0, 0)
    assert not ring._inflight


def test_read_multishot_ends_when_the_group_is_empty(ring, pipe):
    needs(ring, abi.IORING_OP_READ_MULTISHOT)
    group = Group(ring, 7, 2, 4)
    ring.prep_read_multishot(pipe[0], buf_group=7)
    os.write(pipe[1], b"more than it holds")
    first, second, last = collect(ring, 3)
    assert group.taken(first) + group.taken(second) == b"more tha"
    assert (last.res, last.flags & abi.IORING_CQE_F_MORE) == (-errno.ENOBUFS, 0)


def test_read_multishot_of_a_file_is_refused(ring, file):
    needs(ring, abi.IORING_OP_READ_MULTISHOT)
    Group(ring, 7, 2, 4)
    ring.prep_read_multishot(file, 0, 0, 7)
    assert done(ring) == -errno.EBADFD


def test_protection_information_needs_a_device_that_keeps_some(ring, file):
    """None does here, so the answer is the kernel's no: it looked at the attributes."""
    if not ring.features & abi.IORING_FEAT_RW_ATTR:
        too_old("IORING_FEAT_RW_ATTR", "6.14")
    for call in (lambda pi: ring.prep_read(file, bytearray(512), offset=0, attr_pi=pi),
                 lambda pi: ring.prep_write(file, bytes(512), offset=0, attr_pi=pi),
                 lambda pi: ring.prep_readv(file, [bytearray(512)], 0, attr_pi=pi),
                 lambda pi: ring.prep_writev2(file, [bytes(512)], 0, attr_pi=pi)):
        call(AttrPI(bytearray(8)))
        assert done(ring) in (-errno.EINVAL, -errno.EOPNOTSUPP)
    assert os.pread(file, 999, 0) == TEXT


# --------------------------------------------------------------------------------------------- fixed buffers

@pytest.fixture
def registered(ring):
    """Two registered buffers of a page each."""
    buffers = bytearray(4096), bytearray(4096)
    ring.register_buffers(list(buffers))
    return buffers


def test_fixed_reads_and_writes_move_bytes_of_registered_buffers(ring, registered, file):
    first, second = registered
    ring.prep_read_fixed(file, first, 9, 0, 0)
    assert done(ring) == 9
    assert first[:12] == TEXT[:9] + bytes(3)
    ring.prep_read_fixed(file, memoryview(second)[100:105], offset=4, buf_index=1)
    assert done(ring) == 5
    assert second[99:106] == b"\0quick\0"
    second[200:204] = b"FAST"
    ring.prep_write_fixed(file, memoryview(second)[200:204], offset=4, buf_index=1)
    assert done(ring) == 4
    ring.prep_write_fixed(file, first, 3, len(TEXT))
    assert done(ring) == 3
    assert os.pread(file, 99, 0) == b"the FASTk" + TEXT[9:] + b"the"


def test_fixed_reads_and_writes_go_on_from_the_position(ring, registered, file):
    buffer = registered[0]
    for expected in TEXT[:5], TEXT[5:10]:
        ring.prep_read_fixed(file, buffer, 5)
        assert (done(ring), bytes(buffer[:5])) == (5, expected)
    ring.prep_write_fixed(file, buffer, 2)
    assert done(ring) == 2
    assert os.pread(file, 3, 9) == TEXT[9:10] + TEXT[5:7]


FIXED_RW = {
    "read_fixed": lambda r, fd, buf, index: r.prep_read_fixed(fd, buf, offset=0, buf_index=index),
    "write_fixed": lambda r, fd, buf, index: r.prep_write_fixed(fd, buf, offset=0, buf_index=index),
    "readv_fixed": lambda r, fd, buf, index: r.prep_readv_fixed(fd, [buf], 0, 0, index),
    "writev_fixed": lambda r, fd, buf, index: r.prep_writev_fixed(fd, [buf], 0, 0, index),
}


@pytest.mark.parametrize("how", FIXED_RW)
def test_a_fixed_request_stays_inside_its_buffer(how, ring, registered, file):
    needs(ring, getattr(abi, "IORING_OP_" + how.upper()))
    for buffer, index in [(bytearray(8), 0), (registered[0], 1), (registered[0], 2)]:
        FIXED_RW[how](ring, file, buffer, index)
        assert done(ring) == -errno.EFAULT
    assert os.pread(file, 99, 0) == TEXT


def test_vectored_fixed_reads_and_writes_take_parts_in_any_order(ring, registered, file):
    needs(ring, abi.IORING_OP_READV_FIXED, abi.IORING_OP_WRITEV_FIXED)
    view = memoryview(registered[1])
    ring.prep_readv_fixed(file, [view[500:504], view[10:15]], 0, 0, 1)
    assert done(ring) == 9
    assert (registered[1][500:504], registered[1][10:15]) == (TEXT[:4], TEXT[4:9])
    ring.prep_writev_fixed(file, [view[10:15], view[500:503]], len(TEXT), 0, 1)
    assert done(ring) == 8
    assert os.pread(file, 99, 0) == TEXT + b"quickthe"
    ring.prep_writev_fixed(file, [view[10:15]], 0, RWF_APPEND, 1)
    assert done(ring) == 5
    assert os.pread(file, 99, 0) == TEXT + b"quickthequick"


# ------------------------------------------------------------------------------------- from one fd to another

def test_splice_moves_bytes_between_a_pipe_and_a_file(ring, file, pipe):
    needs(ring, abi.IORING_OP_SPLICE)
    ring.prep_splice(file, 4, pipe[1], -1, 5)
    assert done(ring) == 5
    assert os.lseek(file, 0, os.SEEK_CUR) == 0, "an offset of its own"
    ring.prep_splice(pipe[0], -1, file, 0, 99)
    assert done(ring) == 5
    assert os.pread(file, 99, 0) == b"quick" + TEXT[5:]


def test_splice_goes_on_from_the_position_and_ends_at_the_end(ring, file, pipe):
    needs(ring, abi.IORING_OP_SPLICE)
    os.lseek(file, 4, os.SEEK_SET)
    ring.prep_splice(file, -1, pipe[1], -1, 99)
    assert done(ring) == len(TEXT) - 4
    assert os.read(pipe[0], 99) == TEXT[4:]
    ring.prep_splice(file, -1, pipe[1], -1, 99)
    assert done(ring) == 0


def test_splice_knows_slots(ring, file, pipe):
    needs(ring, abi.IORING_OP_SPLICE)
    ring.register_files([file, pipe[1]])
    ring.prep_splice(0, 0, 1, -1, 5, abi.SPLICE_F_FD_IN_FIXED, sqe_flags=FIXED)
    assert done(ring) == 5
    assert os.read(pipe[0], 99) == TEXT[:5]


def test_splice_needs_a_pipe(ring, file):
    needs(ring, abi.IORING_OP_SPLICE)
    ring.prep_splice(file, 0, file, 99, 5)
    assert done(ring) == -errno.EINVAL


def test_tee_copies_and_leaves(ring, pipe):
    needs(ring, abi.IORING_OP_TEE)
    reader, writer = os.pipe()
    try:
        os.write(pipe[1], TEXT)
        ring.prep_tee(pipe[0], writer, 9)
        assert done(ring) == 9
        assert os.read(reader, 99) == TEXT[:9]
        assert os.read(pipe[0], 99) == TEXT
        ring.prep_tee(pipe[0], writer, 9, SPLICE_F_NONBLOCK)
        assert done(ring) == -errno.EAGAIN
    finally:
        os.close(reader)
        os.close(writer)


def test_pipe_makes_one(ring):
    needs(ring, abi.IORING_OP_PIPE)
    pair = array.array("i", [-1, -1])
    ring.prep_pipe(pair, CLOEXEC | os.O_NONBLOCK)
    assert done(ring) == 0
    reader, writer = pair
    try:
        os.write(writer, b"through")
        assert os.read(reader, 99) == b"through"
        assert not os.get_blocking(reader) and not os.get_inheritable(writer)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("slot, expected", [(1, {1, 2}), (ALLOC, {0, 1})])
def test_pipe_direct_fills_two_slots_and_no_fd(slot, expected, ring, table):
    needs(ring, abi.IORING_OP_PIPE)
    before = fds()
    pair = bytearray(8)
    ring.prep_pipe_direct(pair, 0, slot)
    assert done(ring) == 0
    reader, writer = struct.unpack("=ii", pair)
    assert {reader, writer} == expected
    if slot != ALLOC:
        assert (reader, writer) == (slot, slot + 1)
    assert fds() == before
    ring.prep_write(writer, b"through", sqe_flags=FIXED)
    assert done(ring) == 7
    assert read_slot(ring, reader, offset=-1) == b"through"


def test_pipe_direct_has_no_room_for_one_end(ring, table):
    needs(ring, abi.IORING_OP_PIPE)
    pair = array.array("i", [-1, -1])
    ring.prep_pipe_direct(pair, 0, table - 1)
    assert done(ring) == -errno.EINVAL
    for slot in range(table - 1):
        ring.prep_open_direct("/dev/null", os.O_RDONLY, 0, slot)
        assert done(ring) == 0
    ring.prep_pipe_direct(pair)
    assert done(ring) == -errno.ENFILE
    ring.prep_close_direct(table - 1)
    assert done(ring) == -errno.EBADF, "the one end that had room is gone again"


# ------------------------------------------------------------------------------------------ size, blocks, caches

def test_fsync_answers_as_the_system_call(ring, file, pipe):
    for flags in 0, abi.IORING_FSYNC_DATASYNC:
        ring.prep_fsync(file, flags)
        assert done(ring) == 0
        ring.prep_fsync(pipe[0], flags)
        assert done(ring) == -errno.EINVAL, "nothing to sync"
    ring.prep_fsync(file, 1 << 31)
    assert done(ring) == -errno.EINVAL, "no such flag"


def test_fsync_takes_a_range(ring, file):
    ring.prep_fsync(file, offset=4096, len=4096)
    assert done(ring) == 0


def test_fsync_waits_for_the_write_it_is_linked_to(ring, file):
    ring.prep_write(file, b"THE", offset=0, user_data=1, sqe_flags=LINK)
    ring.prep_fsync(file, user_data=2)
    first, second = collect(ring, 2)
    assert (first, second) == (CQE(1, 3, 0), CQE(2, 0, 0))
    assert os.pread(file, 3, 0) == b"THE"


def test_sync_file_range_answers_as_the_system_call(ring, file, pipe):
    needs(ring, abi.IORING_OP_SYNC_FILE_RANGE)
    flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER
    ring.prep_sync_file_range(file, 0, 0, flags)
    assert done(ring) == 0
    ring.prep_sync_file_range(file, 4096, 4096, flags)
    assert done(ring) == 0
    ring.prep_sync_file_range(file, 0, 0, 8)
    assert done(ring) == -errno.EINVAL
    ring.prep_sync_file_range(pipe[0], 0, 0, flags)
    assert done(ring) == -errno.ESPIPE


def test_fallocate_grows_holds_and_punches(ring, memfd):
    needs(ring, abi.IORING_OP_FALLOCATE)
    blocks = os.fstat(memfd).st_blocks
    ring.prep_fallocate(memfd, FALLOC_FL_KEEP_SIZE, 4096, 4 * 4096)
    assert done(ring) == 0
    assert os.fstat(memfd).st_size == len(TEXT)
    assert os.fstat(memfd).st_blocks > blocks
    ring.prep_fallocate(memfd, 0, 0, 10_000)
    assert done(ring) == 0
    assert os.fstat(memfd).st_size == 10_000
    os.pwrite(memfd, b"x" * 10_000, 0)
    ring.prep_fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 200)
    assert done(ring) == 0
    assert os.pread(memfd, 20_000, 0) == b"x" * 100 + bytes(200) + b"x" * 9_700
    ring.prep_fallocate(memfd, 0, 0, 0)
    assert done(ring) == -errno.EINVAL


def test_ftruncate_cuts_and_grows(ring, file, pipe):
    needs(ring, abi.IORING_OP_FTRUNCATE)
    ring.prep_ftruncate(file, 9)
    assert done(ring) == 0
    assert os.pread(file, 99, 0) == TEXT[:9]
    ring.prep_ftruncate(file, 12)
    assert done(ring) == 0
    assert os.pread(file, 99, 0) == TEXT[:9] + bytes(3)
    ring.prep_ftruncate(pipe[0], 0)
    assert done(ring) == -errno.EINVAL


def forgets(fd, dontneed):
    """Whether dontneed() takes a file's first page out of the cache."""
    os.pread(fd, 1, 0)
    dontneed()
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:                     # a file system that does not know RWF_NOWAIT
        pass
    return False


FADVISE = {"fadvise": lambda r, *arguments: r.prep_fadvise(*arguments),
           "fadvise64": lambda r, *arguments: r.prep_fadvise64(*arguments)}


@pytest.mark.parametrize("how", FADVISE)
def test_fadvise_does_what_posix_fadvise_does(how, ring, file, pipe):
    needs(ring, abi.IORING_OP_FADVISE)
    length = 4096 if how == "fadvise" else 2**33
    FADVISE[how](ring, file, 0, length, os.POSIX_FADV_SEQUENTIAL)
    if done(ring) == -errno.EINVAL and how == "fadvise64":
        too_old("fadvise of 64-bit lengths", "6.11")
    FADVISE[how](ring, file, 0, length, 77)
    assert done(ring) == -errno.EINVAL
    FADVISE[how](ring, pipe[0], 0, length, os.POSIX_FADV_NORMAL)
    assert done(ring) == -errno.ESPIPE
    os.fsync(file)

    def dontneed():
        FADVISE[how](ring, file, 0, length, os.POSIX_FADV_DONTNEED)
        assert done(ring) == 0

    # A page that was just written may be busy (up to 0.15 s, seen on ext4); tmpfs has nothing but its cache. So: if
    # the system call does it, again and again, then so does the request at least once.
    deadline, by_system_call = time.monotonic() + 0.5, 0
    while not forgets(file, dontneed) and (time.monotonic() < deadline or by_system_call):
        by_system_call += forgets(file, lambda: os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED))
        assert by_system_call < 20


MADVISE = {"madvise": lambda r, *arguments: r.prep_madvise(*arguments),
           "madvise64": lambda r, *arguments: r.prep_madvise64(*arguments)}


@pytest.mark.parametrize("how", MADVISE)
def test_madvise_dontneed_empties_pages_and_no_others(how, ring):
    needs(ring, abi.IORING_OP_MADVISE)
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 4 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * 4 * page
        MADVISE[how](ring, memoryview(memory)[page:], 2 * page, mmap.MADV_DONTNEED)
        if done(ring) == -errno.EINVAL and how == "madvise64":
            too_old("madvise of 64-bit lengths", "6.11")
        assert memory[:] == b"x" * page + bytes(2 * page) + b"x" * page
        MADVISE[how](ring, memory, None, mmap.MADV_DONTNEED)
        assert done(ring) == 0
        assert memory[:] == bytes(4 * page)
        MADVISE[how](ring, memory, None, 7777)
        assert done(ring) == -errno.EINVAL


# ------------------------------------------------------------------------------------------------------- statx

def test_statx_tells_what_stat_tells(ring, file):
    needs(ring, abi.IORING_OP_STATX)
    os.link("file", "second name")
    st = Statx()
    ring.prep_statx(AT_FDCWD, "file", 0, STATX_ALL, st)
    assert done(ring) == 0
    assert st.stx_mask & STATX_BASIC_STATS == STATX_BASIC_STATS
    there = os.stat("file")
    assert [st.stx_mode, st.stx_ino, st.stx_nlink, st.stx_uid, st.stx_gid, st.stx_size, st.stx_blocks,
            st.stx_blksize] == [there.st_mode, there.st_ino, 2, there.st_uid, there.st_gid, len(TEXT),
                                there.st_blocks, there.st_blksize]
    assert os.makedev(st.stx_dev_major, st.stx_dev_minor) == there.st_dev
    assert [st.stx_atime.ns, st.stx_mtime.ns, st.stx_ctime.ns] == [there.st_atime_ns, there.st_mtime_ns,
                                                                  there.st_ctime_ns]
    if st.stx_mask & STATX_BTIME:
        assert st.stx_btime.ns <= there.st_ctime_ns


def test_statx_knows_devices_links_and_open_files(ring, file):
    needs(ring, abi.IORING_OP_STATX)
    os.symlink("file", "link")
    st = Statx()
    for dfd, path, flags, there in [
            (AT_FDCWD, "/dev/null", 0, os.stat("/dev/null")), (AT_FDCWD, "link", 0, os.stat("file")),
            (AT_FDCWD, "link", AT_SYMLINK_NOFOLLOW, os.lstat("link")), (file, "", AT_EMPTY_PATH, os.fstat(file))]:
        ring.prep_statx(dfd, path, flags, STATX_BASIC_STATS, st)
        assert done(ring) == 0
        assert (st.stx_mode, st.stx_ino, st.stx_size) == (there.st_mode, there.st_ino, there.st_size)
        assert os.makedev(st.stx_rdev_major, st.stx_rdev_minor) == there.st_rdev
    before = bytes(st)
    ring.prep_statx(AT_FDCWD, "nothing", 0, STATX_BASIC_STATS, st)
    assert done(ring) == -errno.ENOENT
    assert st == before


def test_statx_tells_of_newer_things_where_the_kernel_does(ring, file):
    needs(ring, abi.IORING_OP_STATX)
    st = Statx()
    ring.prep_statx(file, "", AT_EMPTY_PATH, STATX_MNT_ID | STATX_DIOALIGN, st)
    assert done(ring) == 0
    if st.stx_mask & STATX_MNT_ID:
        with open(f"/proc/self/fdinfo/{file}") as info:
            assert f"mnt_id:\t{st.stx_mnt_id}\n" in info.readlines()
    if st.stx_mask & STATX_DIOALIGN and st.stx_dio_offset_align:
        assert st.stx_dio_offset_align & st.stx_dio_offset_align - 1 == 0


# ------------------------------------------------------------------------------------------------------- paths

def test_rename_moves_a_name(ring, file, dfd):
    needs(ring, abi.IORING_OP_RENAMEAT)
    ring.prep_rename("file", "new")
    assert done(ring) == 0
    ring.prep_renameat(AT_FDCWD, "new", dfd, "deeper")
    assert done(ring) == 0
    assert sorted(os.listdir()) == ["d"] and os.listdir("d") == ["deeper"]
    ring.prep_renameat(dfd, "deeper", AT_FDCWD, "file")
    assert done(ring) == 0
    assert os.stat("file").st_ino == os.fstat(file).st_ino
    ring.prep_rename("nothing", "new")
    assert done(ring) == -errno.ENOENT


def test_renameat_spares_or_exchanges(ring, here):
    needs(ring, abi.IORING_OP_RENAMEAT)
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    ring.prep_renameat(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE)
    assert done(ring) == -errno.EEXIST
    ring.prep_renameat(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE)
    assert done(ring) == 0
    assert [(here / name).read_text() for name in "ab"] == ["b", "a"]


def test_link_gives_a_second_name(ring, file, dfd):
    needs(ring, abi.IORING_OP_LINKAT)
    ring.prep_link("file", "two")
    assert done(ring) == 0
    ring.prep_linkat(AT_FDCWD, "two", dfd, "three")
    assert done(ring) == 0
    assert os.fstat(file).st_nlink == 3
    assert os.path.samefile("file", "d/three")
    ring.prep_link("file", "two")
    assert done(ring) == -errno.EEXIST


@pytest.mark.parametrize("flags, is_link", [(0, True), (AT_SYMLINK_FOLLOW, False)])
def test_link_follows_a_symbolic_link_only_where_asked(flags, is_link, ring, file):
    needs(ring, abi.IORING_OP_LINKAT)
    os.symlink("file", "symlink")
    ring.prep_link("symlink", "new", flags)
    assert done(ring) == 0
    assert os.path.islink("new") is is_link


def test_unlink_takes_a_name_away(ring, file, dfd):
    needs(ring, abi.IORING_OP_UNLINKAT)
    os.link("file", "d/two")
    ring.prep_unlink("file")
    assert done(ring) == 0
    ring.prep_unlinkat(dfd, "two")
    assert done(ring) == 0
    assert os.fstat(file).st_nlink == 0
    ring.prep_unlink("file")
    assert done(ring) == -errno.ENOENT


def test_unlink_needs_a_flag_for_directories(ring, dfd):
    needs(ring, abi.IORING_OP_UNLINKAT)
    os.mkdir("d/e")
    ring.prep_unlink("d/e")
    assert done(ring) == -errno.EISDIR
    ring.prep_unlinkat(dfd, "e", AT_REMOVEDIR)
    assert done(ring) == 0
    ring.prep_unlink("d", AT_REMOVEDIR)
    assert done(ring) == 0
    assert os.listdir() == []


def test_mkdir_makes_directories(ring, dfd):
    needs(ring, abi.IORING_OP_MKDIRAT)
    umask = os.umask(0o022)
    try:
        ring.prep_mkdir("new")
        assert done(ring) == 0
        ring.prep_mkdirat(dfd, b"deeper", 0o770)
        assert done(ring) == 0
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat("new").st_mode) == 0o755
    assert stat.S_IMODE(os.stat("d/deeper").st_mode) == 0o750
    ring.prep_mkdir("new")
    assert done(ring) == -errno.EEXIST


def test_symlink_leads_anywhere(ring, dfd):
    needs(ring, abi.IORING_OP_SYMLINKAT)
    ring.prep_symlink("nowhere/at all", "link")
    assert done(ring) == 0
    ring.prep_symlinkat(b"/\xff", dfd, "deeper")
    assert done(ring) == 0
    assert os.readlink("link") == "nowhere/at all"
    assert os.readlink(b"d/deeper") == b"/\xff"
    ring.prep_symlink("x", "link")
    assert done(ring) == -errno.EEXIST


# --------------------------------------------------------------------------------------------- extended attributes

@pytest.fixture
def attributes(ring, file):
    """A function that says what the system call answers: 0, or -errno where this file system has no attributes."""
    needs(ring, abi.IORING_OP_SETXATTR)
    try:
        os.setxattr("file", "user.here", b"yes")
    except OSError as error:
        ring.prep_setxattr("user.new", b"value", "file")
        assert done(ring) == -error.errno
        pytest.skip(f"setxattr(2) says {error.strerror} for {os.getcwd()}, and so does the ring")


def test_xattrs_are_set_and_got_by_path(ring, file, attributes):
    ring.prep_setxattr("user.colour", bytearray(b"blue and more"), "file", 0, 4)
    assert done(ring) == 0
    assert os.getxattr("file", "user.colour") == b"blue"
    value = bytearray(10)
    ring.prep_getxattr("user.colour", value, "file")
    assert (done(ring), value) == (4, b"blue" + bytes(6))
    ring.prep_getxattr("user.colour", None, "file")
    assert done(ring) == 4
    ring.prep_getxattr("user.colour", value, "file", 3)
    assert done(ring) == -errno.ERANGE
    ring.prep_getxattr("user.none", value, "file")
    assert done(ring) == -errno.ENODATA


def test_xattrs_are_set_and_got_by_fd(ring, file, attributes):
    ring.prep_fsetxattr(file, b"user.colour", b"green")
    assert done(ring) == 0
    assert os.getxattr(file, "user.colour") == b"green"
    value = bytearray(5)
    ring.prep_fgetxattr(file, "user.colour", value)
    assert (done(ring), value) == (5, b"green")
    ring.prep_fgetxattr(file, "user.colour", None)
    assert done(ring) == 5


def test_xattrs_are_created_or_replaced_only_where_asked(ring, file, attributes):
    ring.prep_setxattr("user.here", b"again", "file", os.XATTR_CREATE)
    assert done(ring) == -errno.EEXIST
    ring.prep_fsetxattr(file, "user.none", b"new", os.XATTR_REPLACE)
    assert done(ring) == -errno.ENODATA
    ring.prep_fsetxattr(file, "user.here", b"", os.XATTR_REPLACE)
    assert done(ring) == 0
    assert os.getxattr(file, "user.here") == b""


# -------------------------------------------------------------------------------------- the table of registered files

@pytest.mark.parametrize("flags, inheritable", [(0, False), (abi.IORING_FIXED_FD_NO_CLOEXEC, True)])
def test_fixed_fd_install_gives_a_normal_fd(flags, inheritable, ring, table, file):
    needs(ring, abi.IORING_OP_FIXED_FD_INSTALL)
    ring.prep_open_direct("file", os.O_RDONLY, 0, 2)
    assert done(ring) == 0
    ring.prep_fixed_fd_install(2, flags)
    fd = done(ring)
    assert os.read(fd, 99) == TEXT
    assert os.get_inheritable(fd) is inheritable
    ring.prep_close_direct(2)
    assert done(ring) == 0
    assert os.pread(fd, 99, 0) == TEXT, "either is closed without the other"
    os.close(fd)
    ring.prep_fixed_fd_install(2)
    assert done(ring) == -errno.EBADF
    ring.prep_fixed_fd_install(0, 1 << 31)
    assert done(ring) in (-errno.EINVAL, -errno.EBADF)


def test_files_update_fills_and_empties_slots(ring, file, memfd):
    needs(ring, abi.IORING_OP_FILES_UPDATE)
    ring.register_files([-1] * 4)
    with os.fdopen(os.dup(file)) as second:
        ring.prep_files_update([second, memfd], 1)
        assert done(ring) == 2
    assert read_slot(ring, 0) == -errno.EBADF
    assert read_slot(ring, 1) == TEXT, "also when its fd is closed"
    ring.prep_files_update(array.array("i", [-1]), 1)
    assert done(ring) == 1
    assert read_slot(ring, 1) == -errno.EBADF
    assert read_slot(ring, 2) == TEXT
    ring.prep_files_update([9999], 0)
    assert done(ring) == -errno.EBADF
    ring.prep_files_update([memfd], 4)
    assert done(ring) == -errno.EINVAL


def test_files_update_skips_slots(ring, memfd):
    needs(ring, abi.IORING_OP_FILES_UPDATE)
    if not ring.features & abi.IORING_FEAT_RSRC_TAGS:       # 5.13; to skip came with 5.12
        too_old("IORING_REGISTER_FILES_SKIP", "5.12")
    ring.register_files([memfd, memfd])
    ring.prep_files_update([abi.IORING_REGISTER_FILES_SKIP, -1])
    assert done(ring) == 2
    assert read_slot(ring, 0) == TEXT
    assert read_slot(ring, 1) == -errno.EBADF


def test_files_update_chooses_slots(ring, table, memfd):
    ring.prep_open_direct("/dev/null", os.O_RDONLY, 0, 0)
    assert done(ring) == 0
    chosen = array.array("i", [memfd, memfd])
    ring.prep_files_update(chosen, ALLOC)
    assert done(ring) == 2
    assert set(chosen) == {1, 2}
    assert read_slot(ring, 2) == TEXT


def test_files_update_without_a_table_is_refused(ring, memfd):
    needs(ring, abi.IORING_OP_FILES_UPDATE)
    ring.prep_files_update([memfd])
    assert done(ring) in (-errno.ENXIO, -errno.EINVAL)      # the latter on 5.10.46


# ------------------------------------------------------------------------------------------------- block devices

LOOP_CONFIGURE, LOOP_CLR_FD, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C01, 0x4C82     # linux/loop.h
LO_FLAGS_AUTOCLEAR = 4


@pytest.fixture
def disk(ring, here):
    """The fd of a block device of 1 MiB, all b"x": a loop device over a file. Goes away when it is closed."""
    needs(ring, abi.IORING_OP_URING_CMD)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no block device to spoil: /dev/loop-control: {error.strerror}")
    (here / "disk").write_bytes(b"x" * 2**20)
    backing = os.open("disk", os.O_RDWR)
    device = -1
    try:
        for _ in range(8):              # somebody else may take the free one first: EBUSY
            device = os.open(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}", os.O_RDWR)
            config = struct.pack("=II", backing, 512)       # struct loop_config, its loop_info64 at 8
            config += struct.pack("=52xI", LO_FLAGS_AUTOCLEAR).ljust(232, b"\0") + bytes(64)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, config)
                break
            except OSError as error:
                os.close(device)
                device = -1
                if error.errno != errno.EBUSY:
                    raise
    except OSError as error:
        pytest.skip(f"no block device to spoil: {error}")
    finally:
        os.close(control)
        os.close(backing)
    assert device >= 0
    yield device
    os.close(device)


def test_discard_forgets_a_range_of_a_disk(ring, disk):
    ring.prep_cmd_discard(disk, 8192, 4096)
    answer = done(ring)
    if answer in (-errno.EOPNOTSUPP, -errno.EINVAL, -errno.ENOTTY):
        too_old("BLOCK_URING_CMD_DISCARD", "6.12")
    assert answer == 0
    assert os.pread(disk, 2**20, 0) == b"x" * 8192 + bytes(4096) + b"x" * (2**20 - 3 * 4096)
    for offset, size in (100, 512), (0, 100), (2**20, 512), (0, 0):
        ring.prep_cmd_discard(disk, offset, size)
        assert done(ring) == -errno.EINVAL


def test_zone_reset_all_is_refused_by_a_disk_without_zones(ring, disk):
    ring.prep_cmd_zone_reset_all(disk)
    assert done(ring) in (-errno.EOPNOTSUPP, -errno.EINVAL, -errno.ENOTTY)
    assert os.pread(disk, 2**20, 0) == b"x" * 2**20


@pytest.mark.parametrize("command", [lambda r, fd: r.prep_cmd_discard(fd, 0, 4096),
                                     lambda r, fd: r.prep_cmd_zone_reset_all(fd)])
def test_block_commands_are_for_block_devices(command, ring, file):
    needs(ring, abi.IORING_OP_URING_CMD)
    command(ring, file)
    assert done(ring) == -errno.EOPNOTSUPP
    assert os.pread(file, 99, 0) == TEXT


# ---------------------------------------------------------------------------------------------- memory in flight
#
# A read of an empty pipe keeps a request in flight, and every request that is linked behind it. While it does, nobody
# but the ring has what the request was given: it is dropped, its memory, if it was freed, is overwritten, and Python
# collects after every allocation. Then the pipe gets its byte, and what was asked for must be what is done.

class Weak(bytearray):
    """A bytearray whose end can be seen."""


class WeakStatx(Statx):
    """A Statx whose end can be seen."""


def overwrite():
    """Uses memory that has been freed for something else: every size up to 600 bytes, and a few large ones."""
    return [bytes([0xDD]) * size for size in [*range(1, 600), 1000, 4096, 16 * 1024] for _ in range(8)]


@pytest.fixture
def greedy():
    """The collector runs as often as it can."""
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*threshold)


def names(what):
    """A path, or a part of one, that nobody else has: not interned, and long enough to be freed at once."""
    return "".join(["a long name of a ", what, " that is made only for this request ", "x" * 60])


LONG_VALUE = bytes(range(1, 200))


def opened(fd):
    with os.fdopen(fd, "rb") as file:
        return file.read() == TEXT


# name: (opcode, what is there before, the request, is its effect right). The request's arguments are made in the
# call; what it returns is watched until the CQE, and then given to the check.
def before_nothing():
    pass


def a_long_file():
    with open(names("file"), "wb") as file:
        file.write(TEXT)


def a_long_file_with_attribute():
    a_long_file()
    os.setxattr(names("file"), "user." + names("attribute"), LONG_VALUE)


def output(make, call):
    """A request that fills something: made here, and watched."""
    def prep(ring, fd):
        thing = make()
        call(ring, fd, thing)
        return thing
    return prep


IN_FLIGHT = {
    # what is written, or looked up, by address
    "openat": (abi.IORING_OP_OPENAT, a_long_file,
               lambda r, fd: r.prep_open(names("file"), os.O_RDONLY | CLOEXEC, user_data=2),
               lambda got, thing: opened(got)),
    "openat2": (abi.IORING_OP_OPENAT2, a_long_file,
                lambda r, fd: r.prep_openat2(AT_FDCWD, names("file"), OpenHow(os.O_RDONLY | CLOEXEC), user_data=2),
                lambda got, thing: opened(got)),
    "write": (abi.IORING_OP_WRITE, before_nothing,
              lambda r, fd: r.prep_write(fd, bytes(bytearray(LONG_VALUE)), offset=0, user_data=2),
              lambda got, thing: got == 199 and thing is None),
    "writev": (abi.IORING_OP_WRITEV, before_nothing,
               lambda r, fd: r.prep_writev(fd, [bytes(bytearray(LONG_VALUE[i:i + 1])) for i in range(199)], 0,
                                           user_data=2),
               lambda got, thing: got == 199),
    "writev2 of an iterator": (abi.IORING_OP_WRITEV, before_nothing,
                               lambda r, fd: r.prep_writev2(fd, (bytearray(part) for part in (
                                   LONG_VALUE[:100], LONG_VALUE[100:])), 0, user_data=2),
                               lambda got, thing: got == 199),
    "rename": (abi.IORING_OP_RENAMEAT, a_long_file,
               lambda r, fd: r.prep_rename(names("file"), names("new"), user_data=2),
               lambda got, thing: got == 0 and os.path.exists(names("new"))),
    "link": (abi.IORING_OP_LINKAT, a_long_file,
             lambda r, fd: r.prep_link(names("file"), names("new"), user_data=2),
             lambda got, thing: got == 0 and os.path.samefile(names("file"), names("new"))),
    "unlink": (abi.IORING_OP_UNLINKAT, a_long_file,
               lambda r, fd: r.prep_unlink(names("file"), user_data=2),
               lambda got, thing: got == 0 and not os.path.exists(names("file"))),
    "mkdir": (abi.IORING_OP_MKDIRAT, before_nothing,
              lambda r, fd: r.prep_mkdir(names("directory"), user_data=2),
              lambda got, thing: got == 0 and os.path.isdir(names("directory"))),
    "symlink": (abi.IORING_OP_SYMLINKAT, before_nothing,
                lambda r, fd: r.prep_symlink(names("target"), names("link"), user_data=2),
                lambda got, thing: got == 0 and os.readlink(names("link")) == names("target")),
    "setxattr": (abi.IORING_OP_SETXATTR, a_long_file_with_attribute,
                 lambda r, fd: r.prep_setxattr("user." + names("other"), bytes(bytearray(LONG_VALUE)),
                                               names("file"), user_data=2),
                 lambda got, thing: got == 0 and os.getxattr(names("file"), "user." + names("other")) == LONG_VALUE),
    "files_update": (abi.IORING_OP_FILES_UPDATE, before_nothing,
                     lambda r, fd: r.prep_files_update([fd] * 50, user_data=2),
                     lambda got, thing: got == 50),
    # what is filled
    "read": (abi.IORING_OP_READ, a_long_file,
             output(lambda: Weak(64), lambda r, fd, thing: r.prep_read(fd, thing, offset=0, user_data=2)),
             lambda got, thing: got == len(TEXT) and thing[:got] == TEXT),
    "readv": (abi.IORING_OP_READV, a_long_file,
              output(lambda: Weak(64), lambda r, fd, thing: r.prep_readv(
                  fd, [memoryview(thing)[:9], memoryview(thing)[9:]], 0, user_data=2)),
              lambda got, thing: got == len(TEXT) and thing[:got] == TEXT),
    "statx": (abi.IORING_OP_STATX, a_long_file,
              output(WeakStatx, lambda r, fd, thing: r.prep_statx(
                  AT_FDCWD, names("file"), 0, STATX_SIZE, thing, user_data=2)),
              lambda got, thing: got == 0 and thing.stx_size == len(TEXT)),
    "getxattr": (abi.IORING_OP_GETXATTR, a_long_file_with_attribute,
                 output(lambda: Weak(199), lambda r, fd, thing: r.prep_getxattr(
                     "user." + names("attribute"), thing, names("file"), user_data=2)),
                 lambda got, thing: got == 199 and thing == LONG_VALUE),
    "pipe": (abi.IORING_OP_PIPE, before_nothing,
             output(lambda: Weak(8), lambda r, fd, thing: r.prep_pipe(thing, CLOEXEC, user_data=2)),
             lambda got, thing: got == 0 and [os.close(each) for each in struct.unpack("=ii", thing)] == [None, None]),
    "madvise": (abi.IORING_OP_MADVISE, before_nothing,
                output(lambda: mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
                       lambda r, fd, thing: r.prep_madvise(thing, None, mmap.MADV_DONTNEED, user_data=2)),
                lambda got, thing: got == 0),
}


@pytest.mark.parametrize("name", IN_FLIGHT)
def test_what_a_request_was_given_may_be_dropped(name, ring, here, pipe, greedy):
    opcode, before, prep, right = IN_FLIGHT[name]
    needs(ring, opcode, abi.IORING_OP_READ)
    try:
        before()
    except OSError as error:
        pytest.skip(f"setxattr(2) says {error.strerror} for {here}")
    fd = os.open(names("file"), os.O_RDWR | os.O_CREAT)
    try:
        if name == "files_update":
            ring.register_files([-1] * 50)
        ring.prep_read(pipe[0], bytearray(1), user_data=1, sqe_flags=LINK)
        thing = prep(ring, fd)
        watch = weakref.ref(thing) if thing is not None else lambda: None
        del thing
        keep = overwrite()
        assert ring.submit() == 2
        keep += overwrite()
        assert ring.peek_cqe() is None, "nothing has happened so far"
        os.write(pipe[1], b"x")
        while ring.cq_ready < 2:
            ring.submit_and_wait(2, timeout=LONG)
        thing = watch()
        got = {cqe.user_data: cqe.res for cqe in ring.reap()}
        assert got[1] == 1
        assert right(got[2], thing), got[2]
        if name.startswith("write"):
            assert os.pread(fd, 999, 0) == LONG_VALUE
        del thing, keep
        gc.collect()
        assert watch() is None, "and when it is answered, the ring lets go"
        assert not ring._keepers
    finally:
        os.close(fd)


@pytest.mark.parametrize("call", [
    lambda r, fd, buffer: r.prep_readv(fd, [buffer, bytearray(5)], user_data=1),
    lambda r, fd, buffer: r.prep_readv2(fd, [bytearray(5), memoryview(buffer)[2:]], user_data=1),
    lambda r, fd, buffer: r.prep_read(fd, buffer, user_data=1),
], ids=["readv", "readv2 of a view", "read"])
def test_a_buffer_in_flight_cannot_be_resized(call, ring, pipe, greedy):
    needs(ring, abi.IORING_OP_READ)
    buffer = bytearray(4)
    call(ring, pipe[0], buffer)
    ring.submit()
    for resize in (lambda: buffer.append(0), buffer.pop, buffer.clear, lambda: buffer.extend(bytes(9999))):
        with pytest.raises(BufferError):
            resize()
    os.write(pipe[1], b"x")
    assert done(ring) == 1
    buffer.extend(bytes(9999))


def test_a_list_of_buffers_may_be_changed_in_flight(ring, pipe, greedy):
    buffers = [Weak(4), Weak(4)]
    watches = [weakref.ref(buffer) for buffer in buffers]
    ring.prep_readv(pipe[0], buffers)
    ring.submit()
    buffers.clear()
    keep = overwrite()
    os.write(pipe[1], b"12345678")
    ring.submit_and_wait(1, timeout=LONG)
    assert [bytes(watch()) for watch in watches] == [b"1234", b"5678"]
    assert done(ring) == 8
    del keep
    gc.collect()
    assert [watch() for watch in watches] == [None, None]


def test_what_writev_writes_late_is_what_was_given(ring, pipe, greedy):
    """A full pipe: the write waits, while its bytes have no other owner than the ring."""
    os.set_blocking(pipe[1], False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(pipe[1], bytes(4096))
    os.set_blocking(pipe[1], True)
    ring.prep_writev(pipe[1], [bytes(bytearray([i])) * 300 for i in range(1, 9)])
    ring.submit()
    keep = overwrite()
    while filled:
        filled -= len(os.read(pipe[0], min(filled, 65536)))
    assert done(ring) == 2400
    assert os.read(pipe[0], 4096) == b"".join(bytes([i]) * 300 for i in range(1, 9))
    del keep


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_a_cancelled_readv_lets_go_of_its_buffers(end, ring, pipe, greedy):
    buffers = [bytearray(4), bytearray(4)]
    ring.prep_readv(pipe[0], buffers, user_data=1)
    ring.submit()
    with pytest.raises(BufferError):
        buffers[1].append(0)
    if end == "cancel":
        ring.prep_cancel(1, user_data=2)
        got = results(ring, 2)
        assert got[1] in (-errno.ECANCELED, -errno.EINTR)
    else:
        ring.close()
    for buffer in buffers:
        buffer.append(0)
    os.write(pipe[1], b"late")
    assert buffers == [bytearray(5), bytearray(5)]


def test_buffers_of_a_silent_readv_stay_until_the_chain_answers(ring, pipe, greedy):
    if not ring.features & abi.IORING_FEAT_CQE_SKIP:
        too_old("IORING_FEAT_CQE_SKIP", "5.17")
    buffer = bytearray(4)
    ring.prep_readv(pipe[0], [buffer], user_data=1, sqe_flags=LINK | abi.IOSQE_CQE_SKIP_SUCCESS)
    ring.prep_nop(user_data=2)
    ring.submit()
    keep = overwrite()
    with pytest.raises(BufferError):
        buffer.append(0)
    os.write(pipe[1], b"done")
    assert collect(ring, 1) == [CQE(2, 0, 0)]
    assert buffer == b"done"
    buffer.append(0)
    del keep


def test_fixed_buffers_are_kept_by_their_requests_too(ring, pipe, greedy):
    needs(ring, abi.IORING_OP_READ_FIXED)
    buffer = bytearray(4096)
    ring.register_buffers([buffer])
    requests = [lambda: ring.prep_read_fixed(pipe[0], memoryview(buffer)[10:12])]
    if abi.IORING_OP_READV_FIXED in ring.register_probe():
        requests.append(lambda: ring.prep_readv_fixed(pipe[0], [memoryview(buffer)[10:11], memoryview(buffer)[11:12]]))
    for request in requests:
        request()
        ring.submit()
        assert len(ring._keepers[0]) == 1
        keep = overwrite()
        os.write(pipe[1], b"in")
        assert done(ring) == 2
        assert buffer[:14] == bytes(10) + b"in" + bytes(2)
        assert not ring._keepers
        buffer[10:12] = bytes(2)
        del keep


def test_an_mmap_under_madvise_cannot_be_closed(ring, pipe, greedy):
    needs(ring, abi.IORING_OP_MADVISE, abi.IORING_OP_READ)
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    ring.prep_read(pipe[0], bytearray(1), sqe_flags=LINK)
    ring.prep_madvise(memory, None, mmap.MADV_NORMAL)
    ring.submit()
    with pytest.raises(BufferError):
        memory.close()
    os.write(pipe[1], b"x")
    assert [cqe.res for cqe in collect(ring, 2)] == [1, 0]
    memory.close()


def test_a_refused_request_pins_nothing(ring, greedy):
    buffers = [bytearray(4), bytearray(4)]
    st = bytearray(256)
    for call in (lambda: ring.prep_readv(5, [*buffers, b"read-only"]), lambda: ring.prep_readv(5, buffers, -2),
                 lambda: ring.prep_readv(None, buffers), lambda: ring.prep_statx(AT_FDCWD, "f", 0, 2**32, st),
                 lambda: ring.prep_statx(None, "f", 0, 0, st), lambda: ring.prep_pipe(buffers[0])):
        with pytest.raises((TypeError, ValueError)):
            call()
    for buffer in (*buffers, st):
        buffer.append(0)
