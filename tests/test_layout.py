"""pyuring/layout.py, and what setup flags change in ring.py: every IORING_SETUP_*, on the real kernel.

A flag that this kernel does not know is skipped with what io_uring_setup said; versions prove nothing (distributions
backport).
"""
import errno
import gc
import mmap
import os
import select
import socket
import threading
import time

import pytest

from pyuring import abi
from pyuring.abi import (
    IORING_FEAT_MIN_TIMEOUT, IORING_FEAT_NO_IOWAIT, IORING_FEAT_REG_REG_RING, IORING_SETUP_ATTACH_WQ,
    IORING_SETUP_CQE32, IORING_SETUP_CQE_MIXED, IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_NO_MMAP, IORING_SETUP_NO_SQARRAY,
    IORING_SETUP_REGISTERED_FD_ONLY, IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_SQ_AFF, IORING_SETUP_SQ_REWIND,
    IORING_SETUP_SQE128, IORING_SETUP_SQE_MIXED, IORING_SETUP_SQPOLL, IOSQE_IO_LINK,
)
from pyuring.layout import MAX_CQ_ENTRIES, MAX_ENTRIES, NAMES, memory_size
from pyuring.ring import CQE, BigCQE, Ring

DEFER = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN
S = {name[len("IORING_SETUP_"):]: value for value, name in NAMES.items()}


@pytest.fixture
def make(io_uring):
    """make(flag names, Ring's arguments) -> a Ring, or a skip with the kernel's reason."""
    rings = []

    def make(names, entries=8, **arguments):
        flags = sum(S[name] for name in names.split())
        try:
            rings.append(Ring(entries, flags=flags, **arguments))
            if flags & IORING_SETUP_SQPOLL and not rings[-1].features & abi.IORING_FEAT_SQPOLL_NONFIXED:
                pytest.skip("before Linux 5.11 SQPOLL is for registered files alone, and 5.10.46 gives it up "
                            "(EOWNERDEAD) when a duplicate of the fd is closed")
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            pytest.skip(f"{names}: {error}")
        return rings[-1]

    yield make
    for ring in rings:
        ring.close()


def nops(ring, count, rounds=3):
    """`count` requests at a time, some times over, and each is answered once."""
    for _ in range(rounds):
        for number in range(count):
            ring.prep_nop(user_data=number)
        assert ring.submit_and_wait(count) == count
        assert sorted(cqe.user_data for cqe in ring.reap()) == list(range(count))


# -- flags ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("names", [
    "SQPOLL", "SQPOLL SQ_AFF", "SQPOLL SINGLE_ISSUER", "SQPOLL SQE128 CQE32", "COOP_TASKRUN",
    "COOP_TASKRUN TASKRUN_FLAG", "SUBMIT_ALL", "CLAMP", "NO_SQARRAY", "SINGLE_ISSUER DEFER_TASKRUN NO_SQARRAY",
    "SQE128", "CQE32", "SQE128 CQE32", "SINGLE_ISSUER DEFER_TASKRUN SQE128 CQE32", "CQE_MIXED", "SQE_MIXED",
    "SQE_MIXED CQE_MIXED", "NO_MMAP", "NO_MMAP NO_SQARRAY", "NO_MMAP SQE128 CQE32",
    "NO_MMAP REGISTERED_FD_ONLY", "NO_MMAP REGISTERED_FD_ONLY SINGLE_ISSUER DEFER_TASKRUN",
    "NO_SQARRAY SQ_REWIND", "NO_SQARRAY SQ_REWIND SINGLE_ISSUER DEFER_TASKRUN",
])
def test_a_ring_with_these_flags_works_as_any_other(names, make):
    ring = make(names, 16)
    for name in names.split():
        assert ring.flags & S[name], name
    nops(ring, 16)
    here, there = socket.socketpair()
    with here, there:
        buffer = bytearray(8)
        ring.prep_recv(here, buffer, user_data=7)
        ring.submit()
        there.sendall(b"answered")
        cqe = ring.wait_cqe(10)
        assert (cqe.user_data, cqe.res, bytes(buffer)) == (7, 8, b"answered")
        ring.prep_recv(here, buffer)        # and is closed with something in flight
        ring.submit()
    ring.close()
    assert ring.closed
    buffer += b"free again"


@pytest.mark.parametrize("flags, named", [
    (IORING_SETUP_SQ_AFF, "SQ_AFF needs IORING_SETUP_SQPOLL"),
    (S["HYBRID_IOPOLL"], "HYBRID_IOPOLL needs IORING_SETUP_IOPOLL"),
    (S["TASKRUN_FLAG"], "TASKRUN_FLAG needs IORING_SETUP_COOP_TASKRUN or IORING_SETUP_DEFER_TASKRUN"),
    (IORING_SETUP_DEFER_TASKRUN, "DEFER_TASKRUN needs IORING_SETUP_SINGLE_ISSUER"),
    (IORING_SETUP_REGISTERED_FD_ONLY, "REGISTERED_FD_ONLY needs IORING_SETUP_NO_MMAP"),
    (IORING_SETUP_SQ_REWIND, "SQ_REWIND needs IORING_SETUP_NO_SQARRAY"),
    (IORING_SETUP_SQPOLL | S["COOP_TASKRUN"], "SQPOLL and IORING_SETUP_COOP_TASKRUN exclude"),
    (IORING_SETUP_SQPOLL | S["COOP_TASKRUN"] | S["TASKRUN_FLAG"], "SQPOLL and IORING_SETUP_COOP_TASKRUN exclude"),
    (IORING_SETUP_SQPOLL | DEFER, "SQPOLL and IORING_SETUP_DEFER_TASKRUN exclude"),
    (IORING_SETUP_SQPOLL | IORING_SETUP_SQ_REWIND | IORING_SETUP_NO_SQARRAY,
     "SQPOLL and IORING_SETUP_SQ_REWIND exclude"),
    (IORING_SETUP_SQE128 | IORING_SETUP_SQE_MIXED, "SQE128 and IORING_SETUP_SQE_MIXED exclude"),
    (IORING_SETUP_CQE32 | IORING_SETUP_CQE_MIXED, "CQE32 and IORING_SETUP_CQE_MIXED exclude"),
])
def test_flags_that_exclude_each_other_are_refused_by_name(flags, named, monkeypatch):
    monkeypatch.setattr("pyuring.layout.syscalls.setup", None)          # the kernel is not asked
    with pytest.raises(ValueError, match=named):
        Ring(8, flags=flags)


@pytest.mark.parametrize("flags", [
    S["HYBRID_IOPOLL"], IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_SQPOLL | S["COOP_TASKRUN"],
    IORING_SETUP_SQPOLL | DEFER, S["TASKRUN_FLAG"], IORING_SETUP_REGISTERED_FD_ONLY,
    IORING_SETUP_CQE32 | IORING_SETUP_CQE_MIXED, IORING_SETUP_SQ_REWIND,
    IORING_SETUP_SQE128 | IORING_SETUP_SQE_MIXED,
])
def test_the_kernel_refuses_them_too(flags, io_uring, monkeypatch):
    """Else check_flags() would forbid what can be."""
    monkeypatch.setattr("pyuring.ring.check_flags", lambda flags: None)
    with pytest.raises(OSError) as caught:
        Ring(8, flags=flags).close()
    assert caught.value.errno == errno.EINVAL


def test_clamp_takes_the_largest_ring_instead_of_refusing(make):
    ring = make("CLAMP", MAX_ENTRIES + 1)
    assert (ring.sq_entries, ring.cq_entries) == (MAX_ENTRIES, MAX_CQ_ENTRIES)


# -- SQPOLL -----------------------------------------------------------------------------------------------
def test_sqpoll_sleeps_and_is_woken(make):
    """After sq_thread_idle milliseconds the thread sleeps, and the next submission wakes it: many times."""
    ring = make("SQPOLL", sq_thread_idle=1)
    for number in range(20):
        end = time.monotonic() + 10
        while not ring._sq[ring._sq_flags] & abi.IORING_SQ_NEED_WAKEUP:
            assert time.monotonic() < end, "the thread does not go to sleep"
        ring.prep_nop(user_data=number)
        assert ring.submit() == 1
        assert ring.wait_cqe(10).user_data == number


def test_sqpoll_awake_takes_requests_without_a_system_call(make, monkeypatch):
    ring = make("SQPOLL", sq_thread_idle=5000)
    ring.prep_nop()
    ring.submit_and_wait(1)
    ring.reap()
    monkeypatch.setattr("pyuring.ring.syscalls.enter", None)
    ring.prep_nop(user_data=5)
    assert ring.submit() == 1
    end = time.monotonic() + 10
    while not ring.cq_ready:
        assert time.monotonic() < end
    monkeypatch.undo()
    assert ring.reap() == [CQE(5, 0, 0)]


def test_sqpoll_never_misses_a_wakeup(make):
    """The store of the tail and the load of NEED_WAKEUP must not change places: a lost wake-up would be a hang."""
    ring = make("SQPOLL", sq_thread_idle=1)
    for number in range(3000):
        ring.prep_nop(user_data=number)
        ring.submit()
        assert ring.wait_cqe(10).user_data == number


def test_a_full_sq_waits_for_sqpolls_thread(make):
    ring = make("SQPOLL", 4, submit_when_full=True, cq_entries=4096)
    for number in range(2000):
        ring.prep_nop(user_data=number)
    seen = []
    ring.submit()
    while len(seen) < 2000:
        seen.append(ring.wait_cqe(10).user_data)
    assert seen == list(range(2000))
    ring.sqring_wait()
    assert ring.sq_space_left


# -- disabled, shared -------------------------------------------------------------------------------------
def test_a_disabled_ring_refuses_until_it_is_enabled(make):
    ring = make("R_DISABLED")
    ring.prep_nop(user_data=3)
    with pytest.raises(OSError, match="enable_rings") as caught:
        ring.submit()
    assert caught.value.errno == errno.EBADFD
    ring.enable_rings()
    try:
        assert ring.submit_and_wait(1) == 1
    except OSError as error:
        pytest.skip(f"this kernel does not enable it: {error}")         # 5.10.46
    assert ring.reap() == [CQE(3, 0, 0)]
    with pytest.raises(OSError):
        ring.enable_rings()


def test_a_disabled_ring_can_be_closed_with_something_prepared(make):
    ring = make("R_DISABLED")
    buffer = bytearray(4)
    ring.prep_read(0, buffer)
    ring.close()
    buffer.append(1)


def test_a_disabled_ring_belongs_to_the_thread_that_enables_it(make):
    ring = make("R_DISABLED SINGLE_ISSUER DEFER_TASKRUN")
    ended = []

    def work():
        ring.enable_rings()
        nops(ring, 4)
        ring.close()
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended


def test_attach_wq_shares_workers(make):
    first = make("CLAMP")
    second = make("ATTACH_WQ", wq_fd=first)
    nops(second, 8)
    with pytest.raises(OSError) as caught, open("/dev/null") as other:
        Ring(8, flags=IORING_SETUP_ATTACH_WQ, wq_fd=other).close()
    assert caught.value.errno in (errno.EINVAL, errno.EBADF)


# -- memory -----------------------------------------------------------------------------------------------
def test_a_ring_in_memory_of_the_callers(make):
    memory = [mmap.mmap(-1, size) for size in memory_size(8)]
    ring = make("NO_MMAP", memory=tuple(memory))
    nops(ring, 8)
    assert any(memory[1][:64]), "the SQEs are here"
    with pytest.raises(BufferError):
        memory[0].close()           # the kernel writes there
    ring.close()
    for each in memory:
        each.close()


@pytest.mark.parametrize("entries, cq_entries, flags", [(1, None, 0), (8, 64, 0), (100, None, S["NO_SQARRAY"]),
                                                        (256, None, S["SQE128"] | S["CQE32"]), (4096, 8192, 0)])
def test_memory_size_is_enough(entries, cq_entries, flags, make):
    names = " ".join(name for name, value in S.items() if flags & value)
    ring = make(f"NO_MMAP {names}", entries, cq_entries=cq_entries,
                memory=tuple(mmap.mmap(-1, size) for size in memory_size(entries, cq_entries, flags)))
    nops(ring, ring.sq_entries, 1)


@pytest.mark.parametrize("what", ["too small", "not at a page's start", "read-only"])
def test_memory_that_will_not_do_is_refused_before_the_kernel_sees_it(what, io_uring, monkeypatch):
    rings, sqes = memory_size(8)
    memory = [mmap.mmap(-1, rings), mmap.mmap(-1, sqes)]
    given = {"too small": (memory[0], memoryview(memory[1])[:64]),
             "not at a page's start": (memoryview(mmap.mmap(-1, rings + 4096))[64:], memory[1]),
             "read-only": (bytes(rings), memory[1])}[what]
    monkeypatch.setattr("pyuring.layout.syscalls.setup", None)
    with pytest.raises((ValueError, TypeError), match="mmap|read-only"):
        Ring(8, flags=IORING_SETUP_NO_MMAP, memory=given)
    monkeypatch.undo()
    del given
    gc.collect()
    for each in memory:
        each.close()


def test_a_ring_without_a_file_descriptor_takes_none(make):
    before = len(os.listdir("/proc/self/fd"))
    ring = make("NO_MMAP REGISTERED_FD_ONLY")
    assert len(os.listdir("/proc/self/fd")) == before
    assert ring.fd == -1
    nops(ring, 8)
    assert ring.register_probe()
    with pytest.raises(ValueError, match="no file descriptor"):
        select.select([ring], [], [], 0)
    others = []

    def other():
        with pytest.raises(ValueError, match="another thread"):
            ring.prep_nop()
        others.append(True)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert others


# -- SQEs and CQEs of other sizes ---------------------------------------------------------------------------
def test_cqes_of_32_bytes_carry_16_more(make):
    ring = make("CQE32")
    ring.prep_nop(user_data=4)
    ring.submit_and_wait(1)
    cqe, = ring.reap()
    assert cqe == (4, 0, 0)
    assert isinstance(cqe, BigCQE) and isinstance(cqe, CQE)
    assert cqe.big_cqe == (0, 0)
    user_data, res, flags = cqe


def test_a_mixed_cq_gives_what_each_request_asked_for(make):
    """NOP with IORING_NOP_CQE32 answers with 32 bytes; at the array's end the kernel fills up."""
    ring = make("CQE_MIXED", 8, cq_entries=8)
    for number in range(50):
        small, big = 2 * number, 2 * number + 1
        ring.prep_nop(user_data=small)
        ring._sqe(abi.IORING_OP_NOP, -1, op_flags=abi.IORING_NOP_CQE32, user_data=big)
        ring.submit_and_wait(2)
        cqes = ring.reap()
        while len(cqes) < 2:
            ring.get_events()
            cqes += ring.reap()
        assert [cqe.user_data for cqe in cqes] == [small, big]
        assert [type(cqe) for cqe in cqes] == [CQE, BigCQE]
        assert cqes[1].flags & abi.IORING_CQE_F_32
    ring._sqe(abi.IORING_OP_NOP, -1, op_flags=abi.IORING_NOP_CQE32, user_data=1)
    ring.prep_nop(user_data=2)
    ring.submit_and_wait(2)
    assert [cqe.user_data for cqe in ring.reap(1)] == [1]
    assert [cqe.user_data for cqe in ring.reap(1)] == [2]


@pytest.mark.parametrize("names", ["SQE128", "SQE_MIXED"])
def test_requests_of_128_bytes(names, make):
    ring = make(names, 8)
    known = ring.register_probe()
    for number in range(30):
        ring.prep_nop(user_data=0)
        ring._sqe128(abi.IORING_OP_NOP128, -1, user_data=1, cmd=b"c" * 80)
        ring.submit_and_wait(2)
        cqes = {cqe.user_data: cqe.res for cqe in ring.reap()}
        assert cqes[0] == 0
        if abi.IORING_OP_NOP128 in known:
            assert cqes[1] == 0
        else:
            assert cqes.get(1, -errno.EINVAL) == -errno.EINVAL


def test_requests_of_128_bytes_need_a_ring_for_them(io_uring):
    with Ring(8) as ring:
        with pytest.raises(ValueError, match="SQE128"):
            ring._sqe128(abi.IORING_OP_NOP128, -1)
        assert not ring.sq_ready


def test_a_command_of_more_than_80_bytes_is_refused(make):
    with pytest.raises(ValueError, match="81 bytes"):
        make("SQE128")._sqe128(abi.IORING_OP_NOP128, -1, cmd=bytes(81))


# -- SQ_REWIND --------------------------------------------------------------------------------------------
def test_what_a_short_submission_leaves_is_submitted_next(make):
    """SQ_REWIND: an SQE that the kernel refuses outright ends the submission; those behind it move to the front."""
    ring = make("NO_SQARRAY SQ_REWIND")
    ring.prep_nop(user_data=1)
    ring._sqe(abi.IORING_OP_NOP, -1, ioprio=1, user_data=2)         # EINVAL
    ring.prep_nop(user_data=3)
    ring.prep_nop(user_data=4)
    assert ring.submit() == 2
    assert ring.sq_ready == 2
    assert ring.submit_and_wait(4) == 2
    assert [cqe[:2] for cqe in ring.reap()] == [(1, 0), (2, -errno.EINVAL), (3, 0), (4, 0)]


# -- IOPOLL -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("names", ["IOPOLL", "IOPOLL HYBRID_IOPOLL", "IOPOLL SQPOLL"])
def test_iopoll_finds_completions_only_when_asked(names, make, tmp_path):
    ring = make(names)
    ring.prep_nop(user_data=1)
    ring.submit()
    assert ring.wait_cqe(10).user_data == 1
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no O_DIRECT here: {error}")
    buffer = mmap.mmap(-1, 4096)
    try:
        ring.prep_read(fd, buffer, 4096, 0, user_data=2)
        ring.submit()
        cqe = ring.wait_cqe(10)
        assert cqe.user_data == 2
        # EOPNOTSUPP (or EINVAL): this file system or device can't be polled.
        assert cqe.res in (4096, -errno.EOPNOTSUPP, -errno.EINVAL)
    finally:
        os.close(fd)
        ring.close()
        buffer.close()


# -- the ring's own fd, sizes and waits -------------------------------------------------------------------
def test_a_registered_ring_is_entered_by_its_number(io_uring, monkeypatch):
    with Ring(8) as ring:
        try:
            ring.register_ring_fd()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pytest.skip(f"{error} (Linux 5.18)")
        entered = []
        real = ring_syscalls().enter
        monkeypatch.setattr("pyuring.ring.syscalls.enter", lambda fd, *rest: entered.append(fd) or real(fd, *rest))
        nops(ring, 8)
        assert set(entered) == {ring._enter_fd} != {ring.fd}
        ring.unregister_ring_fd()
        entered.clear()
        nops(ring, 8)
        assert set(entered) == {ring.fd}


def ring_syscalls():
    from pyuring import ring
    return ring.syscalls


def test_a_ring_works_on_without_its_fd(io_uring):
    with Ring(8) as ring:
        if not ring.features & IORING_FEAT_REG_REG_RING:
            pytest.skip("no IORING_FEAT_REG_REG_RING (Linux 6.3)")
        fd = ring.fd
        ring.close_ring_fd()
        assert ring.fd == -1
        with pytest.raises(OSError):
            os.fstat(fd)
        nops(ring, 8)
        assert ring.register_probe()
        with pytest.raises(ValueError, match="file descriptor"):
            ring.unregister_ring_fd()
        with pytest.raises(ValueError, match="file descriptor"):
            ring.resize_rings(16)


@pytest.fixture
def resizable(make):
    ring = make("SINGLE_ISSUER DEFER_TASKRUN NO_SQARRAY", 4)
    try:
        ring.resize_rings(8)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip(f"{error} (Linux 6.13)")
    assert (ring.sq_entries, ring.cq_entries) == (8, 16)
    return ring


def test_a_ring_that_the_kernel_would_break_is_not_resized(io_uring):
    with Ring(4) as ring, pytest.raises(ValueError, match="NO_SQARRAY"):
        ring.resize_rings(8)


def test_resizing_keeps_what_is_in_the_queues_and_in_flight(resizable):
    here, there = socket.socketpair()
    with here, there:
        buffer = bytearray(4)
        resizable.prep_recv(here, buffer, user_data=9)
        resizable.submit()                              # in flight
        resizable.prep_nop(user_data=1)
        resizable.submit_and_wait(1)                    # in the CQ
        resizable.prep_nop(user_data=2)                 # in the SQ
        resizable.resize_rings(64, 256)
        assert (resizable.sq_entries, resizable.cq_entries) == (64, 256)
        assert (resizable.sq_ready, resizable.cq_ready) == (1, 1)
        there.send(b"four")
        resizable.submit_and_wait(3, 10)
        assert sorted(resizable.reap()) == [CQE(1, 0, 0), CQE(2, 0, 0), CQE(9, 4, 0)]
        assert buffer == b"four"
    nops(resizable, 64)


def test_resizing_refuses_to_lose_anything(resizable):
    nops(resizable, 8)
    for number in range(8):
        resizable.prep_nop(user_data=number)
    resizable.submit_and_wait(8)
    with pytest.raises(OSError) as caught:
        resizable.resize_rings(2, 4)
    assert caught.value.errno == errno.EOVERFLOW
    assert [cqe.user_data for cqe in resizable.reap()] == list(range(8))
    nops(resizable, 8)


def test_a_minimal_wait_ends_with_less(io_uring):
    """Two are waited for, one has come: after min_wait that is enough."""
    with Ring(8) as ring:
        if not ring.features & IORING_FEAT_MIN_TIMEOUT:
            with pytest.raises(OSError, match="MIN_TIMEOUT"):
                ring.submit_and_wait(2, 60, min_wait=0.01)
            pytest.skip("no IORING_FEAT_MIN_TIMEOUT (Linux 6.12)")
        ring.prep_nop(user_data=1)
        began = time.monotonic()
        ring.submit_and_wait(2, 60, min_wait=0.01)
        assert time.monotonic() - began < 50
        assert ring.reap() == [CQE(1, 0, 0)]


def test_set_iowait(io_uring):
    with Ring(8) as ring:
        if not ring.features & IORING_FEAT_NO_IOWAIT:
            with pytest.raises(OSError):
                ring.set_iowait(False)
            pytest.skip("no IORING_FEAT_NO_IOWAIT (Linux 6.15)")
        ring.set_iowait(False)
        nops(ring, 8)
        ring.set_iowait(True)
        nops(ring, 8)


# -- chains in queues that end ----------------------------------------------------------------------------
def test_a_chain_is_not_torn_at_the_end_of_a_mixed_sq(make):
    ring = make("SQE_MIXED", 8)
    for _ in range(7):
        ring.prep_nop()
    ring.submit_and_wait(7)
    ring.reap()
    ring.prep_nop(user_data=1, sqe_flags=0)
    ring._last_sqe_flags = IOSQE_IO_LINK
    ring._sqe_tail = 7
    with pytest.raises(OSError, match="half"):
        ring._sqe128(abi.IORING_OP_NOP128, -1)
    ring._sqe_tail = 8
    ring._last_sqe_flags = 0


def test_every_flag_has_a_name():
    assert len(NAMES) == 21 and all(flag & (flag - 1) == 0 for flag in NAMES)
