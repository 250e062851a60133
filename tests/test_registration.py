"""pyuring/registration.py and resources.py: what each io_uring_register operation does to the real kernel.

Requests that use what was registered are filled by Ring._sqe() here, which is under test elsewhere. What a
kernel does not know is skipped only if it says so: EINVAL, from one that can't be asked (register_query(),
Linux 6.18) whether it should have known. The last part is about memory: what is registered stays where it is.
"""
import array
import contextlib
import ctypes
import errno
import gc
import mmap
import os
import re
import select
import socket
import struct
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from onkernel import collect, interrupted_at, needs, one
from prepbytes import INCLUDE

import pyuring.registration as registration
import pyuring.resources as resources
from pyuring import abi, ring_fd, syscalls
from pyuring.registration import register_bpf_filter_task, register_query, register_sync_msg
from pyuring.resources import reg_wait
from pyuring.ring import CQE, Ring, _orphans

LONG = 30       # seconds: far more than anything here takes
SELECT, FIXED = abi.IOSQE_BUFFER_SELECT, abi.IOSQE_FIXED_FILE
PAGE = mmap.PAGESIZE
NOWHERE = 2**64 - 1     # the offset of what has none: pipes
ALLOC = 0xFFFFFFFF      # IORING_FILE_INDEX_ALLOC


@pytest.fixture(params=[None, 0], ids=["default", "flags=0"])
def ring(request, io_uring):
    with Ring(8, flags=request.param) as ring:
        yield ring


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        file.write(bytes(range(256)))
        yield file


def knows(opcode):
    """Whether this kernel says that it has this register operation: True, False, or None for "can't say"."""
    try:
        return register_query().nr_register_opcodes > opcode
    except OSError:
        return None


@contextlib.contextmanager
def brought_by(version, opcode=None, code=errno.EINVAL):
    """Skips where the kernel is too old for what is in the block, and refuses it with EINVAL; or, what needs no
    ring, with EBADF, as it looks for one first."""
    try:
        yield
    except OSError as error:
        # Who can be asked is 6.18 at least, and has all that 6.18 has.
        if error.errno not in (code, errno.EBADF) or knows(opcode or 0):
            raise
        pytest.skip(f"Linux {os.uname().release} answers {error}: that came with Linux {version}")


def refused(code, function, *arguments, **keywords):
    """The call fails with this errno; another one is the caller's, who may know why."""
    try:
        function(*arguments, **keywords)
    except OSError as error:
        if error.errno != code:
            raise
    else:
        pytest.fail("was not refused")


def fixed(ring, opcode, fd, buffer, buf_index, *, offset=0, keep=True, **fields):
    """READ_FIXED or WRITE_FIXED of a whole buffer."""
    address, size, keeper = syscalls.writable(buffer)
    ring._sqe(opcode, getattr(fd, "fileno", lambda: fd)(), address, size, offset, buf_index=buf_index,
              keeper=keeper if keep else None, **fields)


def read_fixed(ring, fd, buffer, buf_index, **fields):
    fixed(ring, abi.IORING_OP_READ_FIXED, fd, buffer, buf_index, **fields)
    return one(ring).res


class Weak(bytearray):
    """A bytearray whose end can be seen."""


def churn():
    """Uses memory that has been freed for something else."""
    gc.collect()
    return [bytearray(os.urandom(256)) for _ in range(500)]


@pytest.fixture
def busy_collector():
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def stays(buffer):
    """Whether somebody keeps the buffer where it is."""
    try:
        buffer.append(0)
    except BufferError:
        return True
    buffer.pop()
    return False


# ---- all of them

# liburing's functions that stand for io_uring_register(2), and where theirs is here.
HERE = {
    "io_uring_register_query": registration, "io_uring_register_sync_msg": registration,
    "io_uring_register_bpf_filter_task": registration, "io_uring_enable_rings": Ring, "io_uring_resize_rings": Ring,
    "io_uring_close_ring_fd": Ring, "io_uring_set_iowait": Ring, "io_uring_setup_buf_ring": Ring,
    "io_uring_free_buf_ring": Ring, "io_uring_buf_ring_head": Ring, "io_uring_clone_buffers": Ring,
    "io_uring_clone_buffers_offset": Ring,
    **{f"io_uring_{name}": Ring for name in """
        register_bpf_filter register_buf_ring register_buffers register_buffers_sparse register_buffers_tags
        register_buffers_update_tag register_clock register_eventfd register_eventfd_async register_file_alloc_range
        register_files register_files_sparse register_files_tags register_files_update register_files_update_tag
        register_ifq register_iowq_aff register_iowq_max_workers register_napi register_personality register_probe
        register_region register_restrictions register_ring_fd register_sync_cancel register_wait_reg
        register_zcrx_ctrl unregister_buf_ring unregister_buffers unregister_eventfd unregister_files
        unregister_iowq_aff unregister_napi unregister_personality unregister_ring_fd""".split()},
}


@pytest.mark.parametrize("name", sorted(HERE))
def test_each_of_liburings_functions_is_here(name):
    assert callable(getattr(HERE[name], name[len("io_uring_"):]))


def test_liburing_has_no_function_that_is_missing_here():
    if not (INCLUDE / "liburing.h").exists():
        pytest.skip(f"no {INCLUDE / 'liburing.h'}: install liburing's headers (liburing-dev)")
    text = (INCLUDE / "liburing.h").read_text()
    theirs = set(re.findall(r"\bio_uring_(?:un)?register_\w+(?=\()", text)) - {
        "io_uring_register_restrictions_task"}
    assert theirs and theirs <= set(HERE)


def test_each_register_opcode_is_used():
    sources = "".join(Path(module.__file__).read_text(encoding="utf-8")
                      for module in (registration, resources, ring_fd, sys.modules[Ring.__module__]))
    opcodes = [name for name in vars(abi) if re.match(r"IORING_(UN)?REGISTER_", name)
               and name not in ("IORING_REGISTER_SRC_REGISTERED", "IORING_REGISTER_DST_REPLACE")]
    assert len(opcodes) > 38
    assert not [name for name in opcodes if f"abi.{name}" not in sources.replace(" IORING_", " abi.IORING_")]


# ---- buffers

def test_registered_buffers_are_read_into_and_written_from(ring, file):
    buffers = [bytearray(16), bytearray(100)]
    ring.register_buffers(buffers)
    assert read_fixed(ring, file, buffers[1], 1, offset=50) == 100
    assert buffers[1] == bytes(range(50, 150))
    buffers[0][:] = b"sixteen bytes..."
    fixed(ring, abi.IORING_OP_WRITE_FIXED, file, buffers[0], 0, offset=3)
    assert one(ring).res == 16
    assert os.pread(file.fileno(), 20, 0) == b"\0\1\2sixteen bytes...\x13"


def test_what_is_outside_a_registered_buffer_is_efault(ring, file):
    buffers = [bytearray(16), bytearray(16)]
    ring.register_buffers(buffers)
    assert read_fixed(ring, file, buffers[1], 0) == -errno.EFAULT
    assert read_fixed(ring, file, buffers[0], 2) == -errno.EFAULT
    assert buffers == [bytes(16)] * 2


def test_a_ring_has_one_table_of_buffers_at_a_time(ring, file):
    refused(errno.ENXIO, ring.unregister_buffers)
    first, second = bytearray(16), bytearray(16)
    ring.register_buffers([first])
    refused(errno.EBUSY, ring.register_buffers, [second])
    assert stays(first) and not stays(second)
    ring.unregister_buffers()
    assert not stays(first)
    ring.register_buffers([second])
    assert read_fixed(ring, file, second, 0) == 16


def test_tags_tell_when_buffers_are_free(ring, file):
    buffers = [bytearray(16) for _ in range(3)]
    with brought_by("5.13", abi.IORING_REGISTER_BUFFERS2):
        ring.register_buffers_tags(buffers, [71, 0, 73])
    assert read_fixed(ring, file, buffers[0], 0) == 16
    assert ring.reap() == []
    new = bytearray(16)
    assert ring.register_buffers_update_tag(0, [new], [74]) == 1
    assert one(ring) == CQE(71, 0, 0)
    assert not stays(buffers[0]) and stays(buffers[1])
    assert read_fixed(ring, file, new, 0, offset=5) == 16
    assert new == bytes(range(5, 21))
    assert ring.register_buffers_update_tag(1, [None, None]) == 2
    assert one(ring) == CQE(73, 0, 0)
    assert not any(map(stays, buffers)) and stays(new)
    assert read_fixed(ring, file, buffers[1], 1) == -errno.EFAULT


def test_the_tag_of_a_buffer_in_use_comes_when_that_ends(ring, pipe):
    needs(ring, abi.IORING_OP_READ)
    buffer = bytearray(4)
    with brought_by("5.13", abi.IORING_REGISTER_BUFFERS2):
        ring.register_buffers_tags([buffer], [7])
    fixed(ring, abi.IORING_OP_READ_FIXED, pipe[0], buffer, 0, offset=NOWHERE, user_data=1, keep=False)
    ring.submit()
    assert ring.register_buffers_update_tag(0, [None]) == 1
    assert ring.reap() == []
    assert stays(buffer)
    os.write(pipe[1], b"late")
    assert sorted(collect(ring, 2)) == [CQE(1, 4, 0), CQE(7, 0, 0)]
    assert buffer == b"late"
    assert not stays(buffer)


def test_a_tag_that_is_a_requests_user_data_too_does_not_release_its_memory(ring, pipe, file):
    needs(ring, abi.IORING_OP_READ)
    registered, in_flight = bytearray(4), bytearray(4)
    with brought_by("5.13", abi.IORING_REGISTER_BUFFERS2):
        ring.register_buffers_tags([registered], [7])
    ring.prep_read(pipe[0], in_flight, user_data=7)
    ring.submit()
    ring.register_buffers_update_tag(0, [None])
    assert one(ring) == CQE(7, 0, 0)
    assert stays(in_flight)
    os.write(pipe[1], b"done")
    assert one(ring) == CQE(7, 4, 0)
    assert not stays(in_flight) and not stays(registered)


def test_a_sparse_table_is_filled_slot_by_slot(ring, file):
    with brought_by("5.19", abi.IORING_REGISTER_BUFFERS2):
        ring.register_buffers_sparse(4)
    buffer = bytearray(8)
    assert read_fixed(ring, file, buffer, 2) == -errno.EFAULT
    assert ring.register_buffers_update_tag(2, [buffer]) == 1
    assert read_fixed(ring, file, buffer, 2) == 8
    refused(errno.EINVAL, ring.register_buffers_update_tag, 3, [bytearray(8), bytearray(8)])
    assert not ring._registered["asked"]


def test_buffers_that_are_not_registered_after_all_are_not_kept(ring):
    ring.register_buffers([bytearray(8)])
    buffer = bytearray(8)
    refused(errno.EBUSY, ring.register_buffers, [buffer])
    with contextlib.suppress(OSError):
        ring.register_buffers_tags([buffer], [5])
    with contextlib.suppress(OSError):
        ring.register_buffers_update_tag(1, [buffer], [5])
    assert not stays(buffer)
    assert not ring._inflight and not ring._keepers


@pytest.mark.parametrize("how", ["Ring", "fd", "closed source"])
def test_cloned_buffers_are_usable(how, io_uring, file):
    buffers = [bytearray(16), bytearray(16)]
    with Ring(4) as src, Ring(4) as dst:
        with brought_by("6.12", abi.IORING_REGISTER_CLONE_BUFFERS):
            refused(errno.ENXIO, dst.clone_buffers, src)
        src.register_buffers(buffers)
        dst.clone_buffers(src if how != "fd" else src.fd)
        if how == "Ring":
            refused(errno.EBUSY, dst.clone_buffers, src)
        if how == "closed source":
            src.close()
        assert read_fixed(dst, file, buffers[1], 1) == 16
        assert buffers[1] == bytes(range(16))
        assert all(map(stays, buffers))
    assert not any(map(stays, buffers))


def test_some_buffers_are_cloned_to_where_others_are(io_uring, file):
    theirs, ours = [bytearray(16) for _ in range(3)], [bytearray(16) for _ in range(2)]
    with Ring(4) as src, Ring(4) as dst:
        src.register_buffers(theirs)
        dst.register_buffers(ours)
        with brought_by("6.13", abi.IORING_REGISTER_MEM_REGION):
            refused(errno.EBUSY, dst.clone_buffers_offset, src, 1, 1, 2)
            dst.clone_buffers_offset(src, 1, 1, 2, abi.IORING_REGISTER_DST_REPLACE)
        src.close()
        assert [stays(buffer) for buffer in theirs] == [False, True, True]
        assert [stays(buffer) for buffer in ours] == [True, False]
        for index, buffer in enumerate([ours[0], theirs[1], theirs[2]]):
            assert read_fixed(dst, file, buffer, index, offset=index) == 16
            assert buffer == bytes(range(index, index + 16))


BAD_BUFFERS = {
    "none": ([], ValueError, "0"),
    "one too many": ([bytearray(1)] * 16385, ValueError, "16385"),
    "an empty one": ([bytearray(1), bytearray()], ValueError, "buffer 1"),
    "read-only": ([b"bytes"], TypeError, "bytes"),
    "a str": (["text"], TypeError, "str"),
    "no list": (5, TypeError, "int"),
}


@pytest.mark.parametrize("name", BAD_BUFFERS)
def test_bad_buffers_are_refused_by_name(name, ring):
    buffers, exception, names = BAD_BUFFERS[name]
    for register in (lambda: ring.register_buffers(buffers), lambda: ring.register_buffers_update_tag(0, buffers),
                     lambda: ring.register_buffers_tags(buffers, [0])):
        with pytest.raises(exception, match=names):
            register()
    assert not ring._registered.get("buffers")


@pytest.mark.parametrize("tags, exception, names", [
    ([1], ValueError, "1 tags for 2"), ([1, -1], ValueError, "-1"), ([1, 2**64], ValueError, str(2**64)),
    ([1, "x"], TypeError, "x"), ([1, None], TypeError, "None"),
])
def test_bad_tags_are_refused_by_name(tags, exception, names, ring):
    for register in (lambda: ring.register_buffers_tags([bytearray(1)] * 2, tags),
                     lambda: ring.register_files_tags([0, 1], tags)):
        with pytest.raises(exception, match=names):
            register()
    assert not ring._inflight


# ---- files

def read_slot(ring, slot, buffer, **fields):
    ring.prep_read(slot, buffer, offset=0, sqe_flags=FIXED, **fields)
    return one(ring).res


def test_registered_files_are_named_by_slot(ring, file, tmp_path):
    needs(ring, abi.IORING_OP_READ)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.write(other, b"other")
    ring.register_files([file, None, other, -1])
    os.close(other)
    buffer = bytearray(8)
    assert read_slot(ring, 0, buffer) == 8 and buffer == bytes(range(8))
    assert read_slot(ring, 2, buffer) == 5 and buffer[:5] == b"other"
    for slot in (1, 3, 4):
        assert read_slot(ring, slot, buffer) == -errno.EBADF
    refused(errno.EBUSY, ring.register_files, [file])
    ring.unregister_files()
    assert read_slot(ring, 0, buffer) == -errno.EBADF
    refused(errno.ENXIO, ring.unregister_files)


def test_a_registered_file_is_open_until_it_is_unregistered(ring, pipe):
    reader, writer = pipe
    ring.register_files([writer])
    os.close(writer)
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    ring.unregister_files()
    assert select.select([reader], [], [], LONG)[0]
    assert os.read(reader, 1) == b"", "the last writer is gone"


def test_files_are_updated_skipped_and_removed(ring, file, tmp_path):
    needs(ring, abi.IORING_OP_READ)
    with open(tmp_path / "other", "w+b", buffering=0) as other:
        other.write(b"other")
        ring.register_files([file, file, None])
        with brought_by("5.12"):
            if ring.register_files_update(0, [other, abi.IORING_REGISTER_FILES_SKIP, other]) == 1:
                raise OSError(errno.EINVAL, "register_files_update: IORING_REGISTER_FILES_SKIP")
    buffer = bytearray(5)
    assert [read_slot(ring, slot, buffer) and bytes(buffer) for slot in range(3)] == [
        b"other", bytes(range(5)), b"other"]
    assert ring.register_files_update(1, [None]) == 1
    assert read_slot(ring, 1, buffer) == -errno.EBADF
    refused(errno.EINVAL, ring.register_files_update, 2, [file, file])


def test_an_update_that_fails_in_the_middle_tells_how_far_it_came(ring, file):
    needs(ring, abi.IORING_OP_READ)
    gone = os.dup(file.fileno())
    os.close(gone)
    ring.register_files([None] * 3)
    assert ring.register_files_update(0, [file, gone, file]) == 1
    refused(errno.EBADF, ring.register_files_update, 1, [gone])
    buffer = bytearray(5)
    assert [read_slot(ring, slot, buffer) for slot in range(3)] == [5, -errno.EBADF, -errno.EBADF]
    with brought_by("5.13", abi.IORING_REGISTER_FILES_UPDATE2):
        assert ring.register_files_update_tag(0, [file, gone, file], [5, 6, 7]) == 1
    assert ring._inflight == {5: 1}


def test_tags_tell_when_files_are_let_go_of(ring, file):
    with brought_by("5.13", abi.IORING_REGISTER_FILES2):
        ring.register_files_tags([file, file, None], [71, 72, 0])
    assert ring.reap() == []
    assert ring.register_files_update_tag(0, [file], [74]) == 1
    assert one(ring) == CQE(71, 0, 0)
    assert ring.register_files_update(0, [-1, -1]) == 2
    assert sorted(collect(ring, 2)) == [CQE(72, 0, 0), CQE(74, 0, 0)]
    assert not ring._inflight
    refused(errno.EINVAL, ring.register_files_update_tag, 0, [-1], [75])
    assert not ring._inflight


def test_direct_descriptors_get_slots_from_the_range(ring):
    needs(ring, abi.IORING_OP_SOCKET)
    ring.register_files_sparse(8)
    with brought_by("6.0", abi.IORING_REGISTER_FILE_ALLOC_RANGE):
        ring.register_file_alloc_range(5, 2)
    for _ in range(3):
        ring.prep_socket(socket.AF_UNIX, socket.SOCK_STREAM, file_index=ALLOC)
    assert sorted(cqe.res for cqe in collect(ring, 3)) == [-errno.ENFILE, 5, 6]
    refused(errno.EINVAL, ring.register_file_alloc_range, 7, 2)


@pytest.mark.parametrize("nr, exception", [(0, ValueError), (-1, ValueError), (2**20 + 1, ValueError), ("5", TypeError)])
def test_a_bad_number_of_slots_is_refused_by_name(nr, exception, ring):
    with pytest.raises(exception, match=str(nr)):
        ring.register_files_sparse(nr)
    with pytest.raises(exception, match=str(nr)):
        ring.register_buffers_sparse(nr)


@pytest.mark.parametrize("files, exception, names", [
    ([], ValueError, "no files"), ([-2], ValueError, "-2"), ([2**31], ValueError, str(2**31)),
    (["0"], TypeError, "str"), ([0, 1.5], TypeError, "float"),
])
def test_bad_files_are_refused_by_name(files, exception, names, ring):
    with pytest.raises(exception, match=names):
        ring.register_files(files)


# ---- eventfd

def test_eventfd_async_tells_of_what_a_worker_did(ring):
    event = ctypes.CDLL(None).eventfd(0, os.O_CLOEXEC)
    try:
        ring.register_eventfd_async(event)
        ring.prep_nop(user_data=1)
        assert one(ring).user_data == 1
        assert not select.select([event], [], [], 0)[0]
        ring.prep_nop(user_data=2, sqe_flags=abi.IOSQE_ASYNC)
        ring.submit()
        assert select.select([event], [], [], LONG)[0]
        assert one(ring) == CQE(2, 0, 0)
        refused(errno.EBUSY, ring.register_eventfd, event)
        ring.unregister_eventfd()
    finally:
        os.close(event)


# ---- credentials

def test_a_request_is_made_by_its_personality(ring, tmp_path):
    needs(ring, abi.IORING_OP_OPENAT)
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    for directory in (tmp_path, *list(tmp_path.parents)[:-1]):
        os.chmod(directory, os.stat(directory).st_mode | 0o111)
    me = ring.register_personality()
    os.seteuid(65534)
    try:
        nobody = ring.register_personality()
    finally:
        os.seteuid(0)
    assert nobody != me

    def opened(personality):
        ring.prep_openat(-100, secret, os.O_RDONLY | os.O_CLOEXEC, personality=personality)
        res = one(ring).res
        if res >= 0:
            os.close(res)
        return min(res, 0)
    assert [opened(0), opened(me), opened(nobody)] == [0, 0, -errno.EACCES]
    ring.unregister_personality(nobody)
    assert opened(nobody) == -errno.EINVAL
    refused(errno.EINVAL, ring.unregister_personality, nobody)


def test_a_personality_that_nobody_registered_is_einval(ring, tmp_path):
    needs(ring, abi.IORING_OP_OPENAT)
    id = ring.register_personality()
    assert id > 0
    for personality, res in ((id, -errno.ENOENT), (id + 1, -errno.EINVAL)):
        ring.prep_openat(-100, tmp_path / "nothing", os.O_RDONLY, personality=personality)
        assert one(ring).res == res
    ring.unregister_personality(id)


# ---- restrictions

@pytest.fixture(params=[0, abi.IORING_SETUP_SINGLE_ISSUER | abi.IORING_SETUP_DEFER_TASKRUN],
                ids=["flags=0", "default"])
def disabled(request, io_uring):
    """A ring that is not enabled yet."""
    with brought_by("5.10" if not request.param else "6.1"):
        ring = Ring(8, flags=abi.IORING_SETUP_R_DISABLED | request.param)
    with ring:
        yield ring


def enable(ring):
    ring.enable_rings()
    try:
        ring.submit()
    except OSError as error:
        pytest.skip(f"this kernel does not enable it: {error}")         # 5.10.46


def test_restrictions_refuse_what_they_do_not_allow(disabled, file):
    ring = disabled
    ring.register_restrictions([
        (abi.IORING_RESTRICTION_SQE_OP, abi.IORING_OP_NOP),
        (abi.IORING_RESTRICTION_SQE_OP, abi.IORING_OP_TIMEOUT),
        (abi.IORING_RESTRICTION_SQE_FLAGS_ALLOWED, abi.IOSQE_ASYNC | abi.IOSQE_IO_LINK),
        (abi.IORING_RESTRICTION_REGISTER_OP, abi.IORING_REGISTER_PROBE),
    ])
    refused(errno.EBUSY, ring.register_restrictions, [(abi.IORING_RESTRICTION_SQE_OP, abi.IORING_OP_NOP)])
    enable(ring)

    def answer(prep, *arguments, **keywords):
        prep(*arguments, user_data=1, **keywords)
        return one(ring).res
    assert answer(ring.prep_nop) == 0
    assert answer(ring.prep_nop, sqe_flags=abi.IOSQE_ASYNC) == 0
    assert answer(ring.prep_nop, sqe_flags=abi.IOSQE_IO_DRAIN) == -errno.EACCES
    assert answer(ring.prep_poll_add, file, 1) == -errno.EACCES
    assert answer(ring.prep_timeout, 0.001) == -errno.ETIME
    assert abi.IORING_OP_NOP in ring.register_probe()
    refused(errno.EACCES, ring.register_buffers, [bytearray(4)])
    refused(errno.EACCES, ring.register_files, [file])


def test_restrictions_can_demand_flags(disabled):
    ring = disabled
    ring.register_restrictions([(abi.IORING_RESTRICTION_SQE_OP, abi.IORING_OP_NOP),
                                (abi.IORING_RESTRICTION_SQE_FLAGS_REQUIRED, abi.IOSQE_ASYNC)])
    enable(ring)
    for flags, res in ((0, -errno.EACCES), (abi.IOSQE_ASYNC, 0)):
        ring.prep_nop(sqe_flags=flags)
        assert one(ring).res == res


def test_a_ring_that_is_enabled_takes_no_restrictions(ring):
    refused(errno.EBADFD, ring.register_restrictions, [(abi.IORING_RESTRICTION_SQE_OP, abi.IORING_OP_NOP)])


@pytest.mark.parametrize("res", [[], [5], [(1,)], [(1, 2, 3)], [(1, 256)], [(-1, 0)], [("x", 1)]])
def test_bad_restrictions_are_refused_by_name(res, ring):
    with pytest.raises(ValueError, match=re.escape(repr(res[0])) if res else "no restrictions"):
        ring.register_restrictions(res)


# ---- worker threads. They belong to the thread, and what is said of them outlives the ring: so one for each test

def in_thread(function):
    """What the function returned, or raised, in a thread of its own."""
    got = []

    def run():
        try:
            got.append((True, function()))
        except BaseException as error:
            got.append((False, error))
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LONG)
    good, value = got[0]
    if not good:
        raise value
    return value


def workers():
    """The CPUs that each io_uring worker of this process may use, by its thread ID."""
    found = {}
    for tid in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            with open(f"/proc/self/task/{tid}/comm") as comm:
                if not comm.read().startswith("iou-wrk"):
                    continue
            found[tid] = os.sched_getaffinity(int(tid))
    return found


@pytest.fixture
def fifos(tmp_path):
    """Two that nobody has opened: opening one for reading blocks a worker until somebody writes to it."""
    paths = tmp_path / "first", tmp_path / "second"
    for path in paths:
        os.mkfifo(path)
    return paths


def has_reader(path):
    """Whether somebody has opened the FIFO for reading, or is about to."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        assert error.errno == errno.ENXIO
        return False
    return True


def test_a_worker_runs_where_it_is_told_to(io_uring, fifos):
    cpu = max(os.sched_getaffinity(0))

    def work():
        with Ring(4) as ring:
            needs(ring, abi.IORING_OP_OPENAT)
            if not ring.features & abi.IORING_FEAT_NATIVE_WORKERS:
                pytest.skip(f"Linux {os.uname().release} has no workers that are threads of the process")
            with brought_by("5.14", abi.IORING_REGISTER_IOWQ_AFF):
                ring.register_iowq_aff({cpu})
            before = set(workers())
            ring.prep_openat(-100, fifos[0], os.O_RDONLY, sqe_flags=abi.IOSQE_ASYNC)
            ring.submit()
            deadline = time.monotonic() + LONG
            while not has_reader(fifos[0]) and time.monotonic() < deadline:
                os.sched_yield()
            new = {tid: cpus for tid, cpus in workers().items() if tid not in before}
            os.close(one(ring).res)
            ring.unregister_iowq_aff()
            return list(new.values())
    assert in_thread(work)[0] == {cpu}


def test_max_workers_answers_what_was_and_is_obeyed(io_uring, fifos):
    def work():
        with Ring(4) as ring:
            needs(ring, abi.IORING_OP_OPENAT)
            with brought_by("5.15", abi.IORING_REGISTER_IOWQ_MAX_WORKERS):
                bound, unbound = ring.register_iowq_max_workers(1, 3)
            assert bound > 0 and unbound > 0
            assert ring.register_iowq_max_workers() == (1, 3)
            for number, path in enumerate(fifos):
                ring.prep_openat(-100, path, os.O_RDONLY, user_data=number, sqe_flags=abi.IOSQE_ASYNC)
            ring.submit()
            deadline = time.monotonic() + LONG
            while not (opened := [has_reader(path) for path in fifos])[0] and time.monotonic() < deadline:
                os.sched_yield()
            # The only worker waits in the first one (or did, until has_reader() came).
            assert opened[0]
            got = {}
            while len(got) < 2 and time.monotonic() < deadline:
                has_reader(fifos[1])
                got.update((cqe.user_data, cqe.res) for cqe in ring.reap())
            assert list(got) == [0, 1], "one after the other"
            for fd in got.values():
                os.close(fd)
            assert ring.register_iowq_max_workers(2, 2) == (1, 3)
    in_thread(work)


@pytest.mark.parametrize("call, exception, names", [
    (lambda ring: ring.register_iowq_aff([]), ValueError, "no CPUs"),
    (lambda ring: ring.register_iowq_aff([-1]), ValueError, "-1"),
    (lambda ring: ring.register_iowq_aff(["0"]), TypeError, "'0'"),
    (lambda ring: ring.register_iowq_max_workers(-1), ValueError, "bound -1"),
    (lambda ring: ring.register_iowq_max_workers(0, 2**31), ValueError, "unbound 2147483648"),
    (lambda ring: ring.unregister_personality(-1), ValueError, "-1"),
    (lambda ring: ring.register_file_alloc_range(-1, 1), ValueError, "off -1"),
    (lambda ring: ring.register_sync_cancel(-1), ValueError, "target -1"),
    (lambda ring: ring.register_sync_cancel(0, timeout=-1), ValueError, "-1"),
    (lambda ring: ring.register_sync_cancel(0, opcode=256), ValueError, "opcode 256"),
    (lambda ring: ring.register_clock(-1), ValueError, "clockid -1"),
    (lambda ring: ring.register_napi(-1), ValueError, "busy_poll_to -1"),
    (lambda ring: ring.register_buf_ring(None, 3, 1, abi.IOU_PBUF_RING_MMAP), ValueError, "power of two"),
    (lambda ring: ring.register_buf_ring(None, 65536, 1, abi.IOU_PBUF_RING_MMAP), ValueError, "65536"),
    (lambda ring: ring.register_buf_ring(None, 4, 1), ValueError, "MMAP"),
    (lambda ring: ring.register_buf_ring(mmap.mmap(-1, PAGE), 4, 1, abi.IOU_PBUF_RING_MMAP), ValueError, "MMAP"),
    (lambda ring: ring.register_buf_ring(memoryview(mmap.mmap(-1, PAGE))[8:], 4, 1), ValueError, "page"),
    (lambda ring: ring.register_buf_ring(mmap.mmap(-1, PAGE), 1024, 1), ValueError, "16384"),
    (lambda ring: ring.setup_buf_ring(4, 65536), ValueError, "bgid 65536"),
    (lambda ring: ring.setup_buf_ring(0, 1), ValueError, "nentries 0"),
    (lambda ring: ring.buf_ring_head(-1), ValueError, "bgid -1"),
    (lambda ring: ring.register_region(100), ValueError, "100"),
    (lambda ring: ring.register_region(PAGE + 1), ValueError, str(PAGE + 1)),
    (lambda ring: ring.register_region(PAGE, memory=bytearray(1)), ValueError, "page"),
    (lambda ring: ring.register_wait_reg([]), ValueError, "0 bytes"),
    (lambda ring: ring.register_wait_reg([b"x"]), ValueError, "1 bytes"),
    (lambda ring: ring.register_ifq(1, 0, 0, mmap.mmap(-1, PAGE)), ValueError, "rq_entries 0"),
    (lambda ring: ring.register_zcrx_ctrl(-1, 0), ValueError, "zcrx_id -1"),
    (lambda ring: ring.register_bpf_filter(0, [(1, 2, 3)]), ValueError, "BPF instruction"),
    (lambda ring: ring.register_bpf_filter(0, [(6, 0, 0, 0)], pdu_size=256), ValueError, "pdu_size 256"),
    (lambda ring: register_query(3), ValueError, "query_op 3"),
    (lambda ring: register_sync_msg(ring, 2**32, 0), ValueError, "len 4294967296"),
    (lambda ring: register_sync_msg(ring, 0, -1), ValueError, "-1"),
    (lambda ring: register_sync_msg(ring, 0, "x"), TypeError, "'x'"),
    (lambda ring: register_sync_msg(2**31, 0, 0), ValueError, "fd 2147483648"),
    (lambda ring: reg_wait(-1), ValueError, "-1"),
    (lambda ring: reg_wait(1, -1), ValueError, "-1"),
])
def test_bad_input_is_refused_by_name(call, exception, names, ring):
    with pytest.raises(exception, match=names):
        call(ring)


# ---- buffer rings

def provide(view, memory, size, *, first=0, tail=0):
    """Puts memory, `size` bytes a buffer, into a ring of provided buffers."""
    address, length, keeper = syscalls.writable(memory)
    entries = len(view) // 16
    for number in range(length // size):
        struct.pack_into("=QIH", view, (tail + number) % entries * 16, address + number * size, size, first + number)
    view.cast("H")[7] = tail + length // size
    return keeper


def recv_selected(ring, sock, bgid, size=0, **fields):
    ring._sqe(abi.IORING_OP_RECV, sock.fileno(), 0, size, sqe_flags=SELECT, buf_index=bgid, **fields)
    return one(ring)


@pytest.mark.parametrize("flags", [0, abi.IOU_PBUF_RING_MMAP], ids=["ours", "the kernel's"])
def test_a_buffer_ring_provides_its_buffers_in_order(flags, ring):
    left, right = socket.socketpair()
    with left, right:
        with brought_by("6.4" if flags else "5.19", abi.IORING_REGISTER_PBUF_RING if not flags else None):
            view = ring.setup_buf_ring(4, 5, flags)
        memory = bytearray(32)
        keeper = provide(view, memory, 16, first=7)
        for number, text in enumerate([b"first", b"second"]):
            right.send(text)
            cqe = recv_selected(ring, left, 5)
            assert (cqe.res, cqe.flags & abi.IORING_CQE_F_BUFFER, cqe.flags >> 16) == (len(text), 1, 7 + number)
            assert memory[16 * number:].startswith(text)
        right.send(b"third")
        assert recv_selected(ring, left, 5).res == -errno.ENOBUFS
        with brought_by("6.8", abi.IORING_REGISTER_PBUF_STATUS):
            assert ring.buf_ring_head(5) == 2
        keeper = provide(view, memory, 32, first=1, tail=2)
        assert recv_selected(ring, left, 5).res == 5
        assert memory.startswith(b"third")
        ring.free_buf_ring(5)
        with pytest.raises(ValueError):
            view[0]
        right.send(b"fourth")
        assert recv_selected(ring, left, 5).res == -errno.ENOBUFS
        refused(errno.ENOENT, ring.free_buf_ring, 5)
        del keeper


def test_a_buffer_ring_in_memory_of_the_callers(ring):
    memory = mmap.mmap(-1, PAGE)
    with brought_by("5.19", abi.IORING_REGISTER_PBUF_RING):
        ring.register_buf_ring(memory, 4, 1)
    refused(errno.EEXIST, ring.register_buf_ring, mmap.mmap(-1, PAGE), 4, 1)
    with pytest.raises(BufferError):
        memory.close()
    ring.unregister_buf_ring(1)
    memory.close()


def test_buffers_are_consumed_bit_by_bit(ring):
    with brought_by("6.12"):
        view = ring.setup_buf_ring(1, 1, abi.IOU_PBUF_RING_INC)
    memory = bytearray(16)
    keeper = provide(view, memory, 16)
    left, right = socket.socketpair()
    with left, right:
        for text, more in ((b"one", True), (b"two", True), (b"three 7890", False)):
            right.send(text)
            cqe = recv_selected(ring, left, 1)
            assert cqe.res == len(text)
            assert bool(cqe.flags & abi.IORING_CQE_F_BUF_MORE) == more
    assert memory == b"onetwothree 7890"
    del keeper


def test_unmapped_rings_leave_no_map(ring):
    with brought_by("6.4"):
        ring.setup_buf_ring(4, 1, abi.IOU_PBUF_RING_MMAP)
    view = ring.setup_buf_ring(4, 2, abi.IOU_PBUF_RING_MMAP)
    ring.free_buf_ring(1)
    ring.close()            # and what is left of it nothing_left_behind() would find
    with pytest.raises(ValueError):
        view[0]


# ---- the old way

def test_provided_buffers_are_picked_and_removed(ring):
    needs(ring, abi.IORING_OP_PROVIDE_BUFFERS, abi.IORING_OP_RECV)
    memory = bytearray(48)
    left, right = socket.socketpair()
    with left, right:
        ring.prep_provide_buffers(memory, 16, 3, 9, 4)
        assert one(ring).res >= 0
        right.send(b"data")
        cqe = recv_selected(ring, left, 9, 16)
        assert cqe.res == 4 and cqe.flags & abi.IORING_CQE_F_BUFFER
        at = 16 * ((cqe.flags >> 16) - 4)
        assert memory[at:at + 4] == b"data"
        ring.prep_remove_buffers(5, 9)
        assert one(ring).res == 2
        right.send(b"data")
        assert recv_selected(ring, left, 9, 16).res == -errno.ENOBUFS
        ring.prep_remove_buffers(5, 1000)
        assert one(ring).res == -errno.ENOENT


# ---- cancelling and waiting

def test_sync_cancel_cancels(ring, pipe):
    needs(ring, abi.IORING_OP_READ)
    # Nothing in flight yet: Linux 5.10 waits for all requests before it refuses an operation that it does not know.
    with brought_by("6.0", abi.IORING_REGISTER_SYNC_CANCEL):
        refused(errno.ENOENT, ring.register_sync_cancel, 3)
    buffer = bytearray(4)
    for user_data in (1, 2, 2):
        ring.prep_read(pipe[0], buffer, user_data=user_data)
    ring.submit()
    with brought_by("6.0", abi.IORING_REGISTER_SYNC_CANCEL):
        refused(errno.ENOENT, ring.register_sync_cancel, 3)
        assert ring.register_sync_cancel(1) == 0
    assert one(ring) == CQE(1, -errno.ECANCELED, 0)
    ring.register_sync_cancel(fd=pipe[0], flags=abi.IORING_ASYNC_CANCEL_FD | abi.IORING_ASYNC_CANCEL_ALL, timeout=LONG)
    assert collect(ring, 2) == [CQE(2, -errno.ECANCELED, 0)] * 2
    assert not stays(buffer)


def test_sync_cancel_by_opcode_leaves_the_others_alone(ring, pipe):
    needs(ring, abi.IORING_OP_READ)
    if abi.IORING_OP_READ_MULTISHOT not in ring.register_probe():
        pytest.skip(f"Linux {os.uname().release} is older than IORING_ASYNC_CANCEL_OP (6.6)")
    buffer = bytearray(4)
    ring.prep_read(pipe[0], buffer, user_data=1)
    ring.prep_poll_add(pipe[0], select.POLLIN, user_data=1)
    ring.submit()
    ring.register_sync_cancel(opcode=abi.IORING_OP_POLL_ADD, flags=abi.IORING_ASYNC_CANCEL_OP)
    assert one(ring) == CQE(1, -errno.ECANCELED, 0)
    assert stays(buffer)


def test_sync_cancel_asks_for_what_it_was_told_and_goes_on_after_a_signal(ring, monkeypatch):
    asked, answers = [], [-errno.EINTR, -errno.ETIME]

    def register(fd, opcode, arg=None, nr_args=0):
        raw = ctypes.string_at(ctypes.addressof(arg._obj), abi.SYNC_CANCEL_REG.size)
        asked.append(abi.SYNC_CANCEL_REG.unpack(raw))
        return answers.pop(0)
    monkeypatch.setattr("pyuring.ring.syscalls.register", register)
    with pytest.raises(TimeoutError, match="5 s"):
        ring.register_sync_cancel(2**64 - 1, 7, 0x21, 5, 9)
    (addr, fd, flags, *first, opcode), (_, _, _, *second, _) = asked
    assert (addr, fd, flags, opcode) == (2**64 - 1, 7, 0x21, 9)
    assert [0, 0] < second <= first <= [5, 0]


def test_the_clock_can_be_chosen(ring):
    with brought_by("6.12", abi.IORING_REGISTER_CLOCK):
        ring.register_clock(time.CLOCK_BOOTTIME)
    start = time.monotonic()
    ring.submit_and_wait(1, timeout=0.01)
    assert time.monotonic() - start >= 0.01
    ring.register_clock(time.CLOCK_MONOTONIC)
    refused(errno.EINVAL, ring.register_clock, time.CLOCK_REALTIME)


@pytest.mark.parametrize("ours", [False, True], ids=["the kernel's", "ours"])
def test_a_region_is_shared_once(ours, ring):
    memory = mmap.mmap(-1, 2 * PAGE) if ours else None
    with brought_by("6.13", abi.IORING_REGISTER_MEM_REGION):
        view = ring.register_region(2 * PAGE, memory=memory)
    assert len(view) == 2 * PAGE and not view.readonly
    view[-1] = 5
    refused(errno.EBUSY, ring.register_region, PAGE)
    if ours:
        assert memory[-1] == 5
        with pytest.raises(BufferError):
            memory.close()
        ring.close()
        memory.close()


def test_registered_waits_end_when_they_say(disabled, pipe):
    with brought_by("6.13", abi.IORING_REGISTER_MEM_REGION):
        waits = disabled.register_wait_reg([reg_wait(0.02), reg_wait(LONG, 0.02), reg_wait()])
    ring = disabled
    ring.enable_rings()

    def waited(wait_nr, index):
        start = time.monotonic()
        ring.submit_and_wait_reg(wait_nr, index)
        return time.monotonic() - start
    assert 0.02 <= waited(1, 0) < LONG / 2, "its time"
    ring.prep_nop(user_data=1)
    assert 0.02 <= waited(2, 1) < LONG / 2, "its min wait, as one completion is there"
    assert ring.reap() == [CQE(1, 0, 0)]
    ring.prep_nop(user_data=2)
    waited(1, 2)
    assert ring.reap() == [CQE(2, 0, 0)]
    waits[64:128] = reg_wait(0.03)
    assert 0.03 <= waited(1, 1) < LONG / 2, "its new time"


def test_waits_are_registered_before_the_ring_is_enabled(ring):
    with brought_by("6.13", abi.IORING_REGISTER_MEM_REGION):
        view = ring.register_region(PAGE)
    ring.close()
    with Ring(4) as other:
        refused(errno.EINVAL, other.register_wait_reg, [reg_wait(1)])
    with pytest.raises(ValueError):
        view[0]


def test_reg_wait_packs_what_the_kernel_reads():
    assert reg_wait(1.5, 0.25) == struct.pack("=qqIIQI28x", 1, 500_000_000, 250_000, 1, 0, 0)
    assert reg_wait() == bytes(64)


# ---- network cards

def test_napi_answers_what_was(ring):
    try:
        with brought_by("6.9", abi.IORING_REGISTER_NAPI):
            before = ring.register_napi(50, True)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("this kernel was built without CONFIG_NET_RX_BUSY_POLL")
        raise
    assert before.prefer_busy_poll is False
    assert ring.register_napi(20) == (50, True)
    assert ring.unregister_napi() == (20, False)
    assert ring.unregister_napi() == (0, False)


def capable(number):
    with open("/proc/self/status") as status:
        return int(re.search(r"CapEff:\s*(\w+)", status.read())[1], 16) >> number & 1


NET_ADMIN = 12


def test_a_ring_with_small_cqes_gets_no_interface_queue(ring):
    code = errno.EINVAL if capable(NET_ADMIN) or knows(abi.IORING_REGISTER_ZCRX_IFQ) is None else errno.EPERM
    area = mmap.mmap(-1, PAGE)
    refused(code, ring.register_ifq, 1, 0, 8, area)
    area.close()


@pytest.mark.parametrize("interface, code", [("lo", errno.EOPNOTSUPP), (2**31 - 1, errno.ENODEV)])
def test_an_interface_that_is_no_network_card_is_refused(interface, code, io_uring):
    flags = abi.IORING_SETUP_SINGLE_ISSUER | abi.IORING_SETUP_DEFER_TASKRUN | abi.IORING_SETUP_CQE32
    if not knows(abi.IORING_REGISTER_ZCRX_IFQ):
        pytest.skip(f"Linux {os.uname().release} can't say whether it has zero-copy receive (6.15, and the query 6.18)")
    if not capable(NET_ADMIN):
        pytest.skip("this needs CAP_NET_ADMIN")
    area = mmap.mmap(-1, PAGE)
    with Ring(8, flags=flags) as ring:
        if interface == "lo":
            interface = socket.if_nametoindex("lo")
        try:
            refused(code, ring.register_ifq, interface, 0, 8, area)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip(f"{error}: built without zero-copy receive (CONFIG_IO_URING_ZCRX)")
    area.close()


def test_an_interface_queue_that_is_not_there_can_t_be_controlled(ring):
    known = knows(abi.IORING_REGISTER_ZCRX_CTRL)
    with pytest.raises(OSError) as caught:
        ring.register_zcrx_ctrl(5, abi.ZCRX_CTRL_FLUSH_RQ)
    assert caught.value.errno in ((errno.ENXIO, errno.EOPNOTSUPP) if known else (errno.EINVAL,))


# ---- filters

DENY, ALLOW = [(0x06, 0, 0, 0)], [(0x06, 0, 0, 1)]          # BPF_RET | BPF_K


def filtering(function, *arguments, **keywords):
    """Skips where there are no filters: an older kernel, or one built without."""
    try:
        with brought_by("7.0", abi.IORING_REGISTER_BPF_FILTER):
            return function(*arguments, **keywords)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EOPNOTSUPP):
            pytest.skip(f"{error}: not allowed, or not built in")
        raise


def test_a_filter_denies_what_it_returns_0_for(ring):
    # Where user_data, the lower half of which is at 0 on a little-endian machine, is 5: deny.
    low = 0 if sys.byteorder == "little" else 4
    program = [(0x20, 0, 0, low), (0x15, 0, 1, 5), (0x06, 0, 0, 0), (0x06, 0, 0, 1)]
    filtering(ring.register_bpf_filter, abi.IORING_OP_NOP, program)
    for user_data in (4, 5, 6):
        ring.prep_nop(user_data=user_data)
    assert sorted(collect(ring, 3)) == [CQE(4, 0, 0), CQE(5, -errno.EACCES, 0), CQE(6, 0, 0)]


def test_a_filter_can_deny_all_the_rest(ring):
    filtering(ring.register_bpf_filter, abi.IORING_OP_NOP, ALLOW, abi.IO_URING_BPF_FILTER_DENY_REST)
    ring.prep_nop(user_data=1)
    ring.prep_timeout(0, user_data=2)
    assert sorted(collect(ring, 2)) == [CQE(1, 0, 0), CQE(2, -errno.EACCES, 0)]


def test_the_size_of_what_a_filter_sees_is_told(ring):
    filtering(ring.register_bpf_filter, abi.IORING_OP_NOP, ALLOW)
    with pytest.raises(OSError, match="pdu_size is 12") as caught:
        ring.register_bpf_filter(abi.IORING_OP_SOCKET, ALLOW, pdu_size=200)
    assert caught.value.errno == errno.EMSGSIZE


def test_a_filter_of_the_thread_is_on_each_of_its_new_rings(io_uring):
    """In a child: there is no way to get rid of it."""
    def child():
        register_bpf_filter_task(abi.IORING_OP_NOP, DENY)
        with Ring(4) as ring:
            ring.prep_nop()
            return one(ring).res == -errno.EACCES
    with Ring(4) as ring:
        filtering(ring.register_bpf_filter, abi.IORING_OP_NOP, ALLOW)
    assert in_child(child) == 0


def in_child(function):
    """The exit code of a forked child: 0 when function() was true, 1 when not, 2 when it raised."""
    pid = os.fork()
    if not pid:
        code = 2
        try:
            code = 0 if function() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ---- without a ring

def test_query_and_probe_say_the_same(ring):
    with brought_by("6.18"):
        answer = register_query()
    assert ring.register_probe() <= set(range(answer.nr_request_opcodes))
    assert answer.nr_request_opcodes - 1 in ring.register_probe()
    assert answer.nr_register_opcodes > abi.IORING_REGISTER_QUERY
    assert ring.features & ~answer.feature_flags == 0 and ring.features == answer.feature_flags
    assert ring.flags & ~answer.ring_setup_flags == 0
    assert answer.enter_flags & abi.IORING_ENTER_GETEVENTS
    assert answer.sqe_flags & FIXED


@pytest.mark.parametrize("query_op", [abi.IO_URING_QUERY_ZCRX, abi.IO_URING_QUERY_SCQ])
def test_a_query_that_is_younger_than_the_kernel_is_refused(query_op, io_uring):
    with brought_by("6.18"):
        known = register_query().nr_query_opcodes
    if query_op < known:
        assert any(register_query(query_op))
    else:
        refused(errno.EOPNOTSUPP, register_query, query_op)


def test_a_message_comes_from_a_thread_without_a_ring(ring):
    def send():
        with brought_by("6.13", abi.IORING_REGISTER_SEND_MSG_RING):
            register_sync_msg(ring, 5, 2**64 - 2)
            register_sync_msg(ring.fd, -7, 1, cqe_flags=1 << 16 | 1)
    in_thread(send)
    assert collect(ring, 2) == [CQE(2**64 - 2, 5, 0), CQE(1, -7, 1 << 16 | 1)]


def test_a_message_of_such_a_thread_ends_no_request_of_the_same_user_data(ring, pipe):
    buffer = bytearray(8)
    ring.prep_read(pipe[0], buffer, user_data=5)
    ring.submit()

    def send():
        with brought_by("6.13", abi.IORING_REGISTER_SEND_MSG_RING):
            register_sync_msg(ring, 1, 5)
    in_thread(send)
    assert collect(ring, 1) == [CQE(5, 1, 0)]
    with pytest.raises(BufferError):
        buffer.append(0)
    os.write(pipe[1], b"8 bytes.")
    assert collect(ring, 1) == [CQE(5, 8, 0)]
    buffer.append(0)


def test_a_message_to_what_is_no_ring_is_refused(pipe):
    with brought_by("6.13", abi.IORING_REGISTER_SEND_MSG_RING):
        refused(errno.EBADFD, register_sync_msg, pipe[0], 0, 0)


# ---- memory

def test_memory_that_the_caller_drops_stays_while_it_is_registered(ring, file, busy_collector):
    buffer = Weak(256)
    ring.register_buffers([buffer])
    watch, address = weakref.ref(buffer), syscalls.writable(buffer)[0]
    del buffer
    keep = churn()
    assert watch() is not None
    ring._sqe(abi.IORING_OP_READ_FIXED, file.fileno(), address, 256, 0)
    assert one(ring).res == 256
    assert watch() == bytes(range(256))
    for resize in (lambda: watch().append(0), lambda: watch().clear(), lambda: watch().extend(b"x" * 9999)):
        with pytest.raises(BufferError):
            resize()
    ring.unregister_buffers()
    gc.collect()
    assert watch() is None
    del keep


def test_a_buffer_that_is_unregistered_in_flight_stays_until_the_requests_end(ring, pipe, busy_collector):
    if not ring.features & abi.IORING_FEAT_RW_ATTR:
        pytest.skip("before Linux 6.13 unregistering waits for the request, which here waits for us")
    buffer = Weak(8)
    ring.register_buffers([buffer])
    fixed(ring, abi.IORING_OP_READ_FIXED, pipe[0], buffer, 0, offset=NOWHERE, user_data=1, keep=False)
    ring.submit()
    ring.unregister_buffers()
    watch = weakref.ref(buffer)
    del buffer
    keep = churn()
    assert watch() is not None
    ring.register_buffers([bytearray(8)])
    assert watch() is not None
    os.write(pipe[1], b"the end.")
    assert one(ring) == CQE(1, 8, 0)
    assert watch() == b"the end."
    ring.unregister_buffers()
    gc.collect()
    assert watch() is None
    del keep


def test_what_starts_later_does_not_hold_an_old_buffer(ring, pipe):
    """Else a ring in which there is always something in flight would keep all that it ever had."""
    buffer = bytearray(8)
    ring.register_buffers([buffer])
    ring.prep_poll_add(pipe[0], select.POLLIN, user_data=1)
    ring.submit()
    if not ring.features & abi.IORING_FEAT_RW_ATTR:
        ring._retire([syscalls.writable(buffer)[2]])
        ring._registered["buffers"] = []
    else:
        ring.unregister_buffers()
    ring.prep_poll_add(pipe[0], select.POLLIN, user_data=2)
    ring.submit()
    assert stays(buffer)
    ring.prep_poll_remove(1, user_data=3)
    collect(ring, 2)
    if not ring.features & abi.IORING_FEAT_RW_ATTR:
        ring._retire([])
    else:
        ring.register_buffers([bytearray(8)])
    assert not stays(buffer)


def test_closing_a_ring_lets_go_of_everything(ring, pipe, busy_collector):
    buffers = [bytearray(8) for _ in range(3)]
    ring.register_buffers([buffers[0]])
    ring.prep_provide_buffers(buffers[1], 8, 1, 3)
    with contextlib.suppress(OSError):
        ring.register_files_tags([pipe[0]], [7])
    one(ring)
    ring.prep_read(pipe[0], buffers[2])
    ring.submit()
    assert all(map(stays, buffers))
    ring.close()
    assert not any(map(stays, buffers))


def test_what_a_request_may_still_use_stays_when_the_ring_is_closed_elsewhere(io_uring, pipe):
    with brought_by("6.0"):
        ring = Ring(8, flags=abi.IORING_SETUP_SINGLE_ISSUER)
    buffer, provided = bytearray(8), bytearray(8)
    ring.register_buffers([buffer])
    ring.prep_provide_buffers(provided, 8, 1, 3)
    one(ring)
    ring.prep_read(pipe[0], None, 8, sqe_flags=SELECT, buf_group=3)
    ring.submit()
    in_thread(ring.close)
    assert stays(buffer) and stays(provided)
    _orphans.clear()


def test_a_ring_closed_elsewhere_keeps_nothing_where_nothing_is_in_flight(io_uring):
    ring = Ring(8)
    buffer = bytearray(8)
    ring.register_buffers([buffer])
    in_thread(ring.close)
    assert not stays(buffer)
    assert not _orphans


def test_a_ring_that_was_never_enabled_lets_go_of_everything(disabled):
    buffer = bytearray(8)
    disabled.register_buffers([buffer])
    disabled.prep_nop()
    disabled.close()
    assert not stays(buffer)
    assert not _orphans


def test_a_forked_child_takes_nothing_from_its_parent(ring, file):
    buffers = [bytearray(16)]
    ring.register_buffers(buffers)
    view = None
    with contextlib.suppress(OSError):
        view = ring.setup_buf_ring(4, 1, abi.IOU_PBUF_RING_MMAP)

    def child():
        buffers[0].append(0)
        buffers[0][:] = b"child"
        ring.close()
        with open("/proc/self/maps") as maps:
            return "io_uring" not in maps.read()
    assert in_child(child) == 0
    assert read_fixed(ring, file, buffers[0], 0) == 16
    assert buffers[0] == bytes(range(16))
    if view is not None:
        memory = bytearray(16)
        keeper = provide(view, memory, 16)
        left, right = socket.socketpair()
        with left, right:
            right.send(b"parent")
            assert recv_selected(ring, left, 1).res == 6
        assert memory.startswith(b"parent")
        del keeper


@pytest.mark.parametrize("what", [
    lambda ring, buffers: ring.register_buffers(buffers),
    lambda ring, buffers: ring.register_buffers_tags(buffers, [5, 6]),
    lambda ring, buffers: ring.register_buffers_update_tag(0, buffers, [0, 6]),
], ids=["register", "register with tags", "update"])
def test_ctrl_c_between_any_two_bytecodes_unpins_nothing_that_is_registered(what, io_uring, monkeypatch):
    """The kernel has a buffer from the system call on, whose return may be all that is heard of it."""
    update = "update" in what.__code__.co_names[0]
    n, raised = 0, True
    while raised:
        n += 1
        with Ring(4) as ring:
            if update:
                with brought_by("5.13", abi.IORING_REGISTER_BUFFERS2):
                    ring.register_buffers_tags([bytearray(8), None], [0, 0])
            asked = []
            real = syscalls.register
            monkeypatch.setattr(syscalls, "register", lambda *arguments: asked.append(real(*arguments)) or asked[-1])
            buffers = [bytearray(8), bytearray(8)]
            raised = interrupted_at(n, lambda: what(ring, buffers), resources)
            monkeypatch.undo()
            if asked:
                with brought_by("5.13", abi.IORING_REGISTER_BUFFERS2):
                    if asked[0] < 0:
                        raise OSError(-asked[0], "register")
                assert all(map(stays, buffers))
            else:
                assert raised
            del buffers, asked
        gc.collect(1)
    assert n > 100


@pytest.mark.parametrize("use", [
    lambda ring: ring.register_buffers([bytearray(1)]), lambda ring: ring.register_buffers_tags([bytearray(1)], [1]),
    lambda ring: ring.register_files([0]), lambda ring: ring.unregister_buffers(),
    lambda ring: ring.setup_buf_ring(1, 1), lambda ring: ring.register_personality(),
    lambda ring: ring.register_sync_cancel(1), lambda ring: ring.register_region(PAGE),
])
def test_a_closed_ring_says_so_and_keeps_nothing(use, ring):
    ring.close()
    with pytest.raises(ValueError, match="closed"):
        use(ring)
    assert not ring._inflight and not ring._keepers and not ring._registered


def test_registering_from_another_thread_is_refused(io_uring):
    with brought_by("6.0"):
        ring = Ring(4, flags=abi.IORING_SETUP_SINGLE_ISSUER)
    with ring:
        buffer = bytearray(8)
        with pytest.raises(ValueError, match="another thread"):
            in_thread(lambda: ring.register_buffers([buffer]))
        gc.collect()            # the exception's traceback
        assert not stays(buffer)


def test_what_it_may_be_is_any_buffer(ring, file):
    buffers = [array.array("I", [0] * 4), mmap.mmap(-1, 16), memoryview(bytearray(32))[8:24]]
    with brought_by("5.14 (shared memory)", code=errno.EOPNOTSUPP):
        ring.register_buffers(buffers)
    for number, buffer in enumerate(buffers):
        assert read_fixed(ring, file, buffer, number) == 16
        assert bytes(memoryview(buffer).cast("B")) == bytes(range(16))


def test_a_tagged_buffer_does_not_keep_a_polled_ring_from_closing(io_uring):
    """Its tag counts as in flight, and with IORING_SETUP_IOPOLL close() waits for what is."""
    with Ring(4, flags=abi.IORING_SETUP_IOPOLL) as ring:
        with brought_by("5.13", abi.IORING_REGISTER_BUFFERS2):
            ring.register_buffers_tags([bytearray(4096)], [7])
        begin = time.monotonic()
        ring.close()
        assert time.monotonic() - begin < 1
