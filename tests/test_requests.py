"""The requests of pyuring/prep.py that are neither files' nor sockets' nor plain timers, on the real kernel.

Each test looks at the effect: the other ring has the CQE, the sleeper is awake, the child is gone, epoll(7) tells of
the fd. What lands in which field of the SQE is test_prep.py's; how long memory is kept, test_lifetime.py's.
"""
import array
import ctypes
import errno
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

import pytest
from onkernel import LONG, RELEASE, collect, known, needs, nothing, one, other, results, ring  # noqa: F401

from pyuring import abi
from pyuring.ring import CQE, Ring
from pyuring.waiting import EpollEvents, FutexWaitv, Siginfo

LINK = abi.IOSQE_IO_LINK


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:         # a test has closed it
            pass


class Worker(threading.Thread):
    """A thread whose exception is the test's."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self.function, self.result, self.error = function, None, None
        self.start()

    def run(self):
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error

    def done(self):
        self.join(LONG)
        assert not self.is_alive(), f"it still runs after {LONG} s"
        if self.error:
            raise self.error
        return self.result


def child(function):
    """The process ID of a child that ends with what function() returns; 99 for an exception."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            code = function() or 0
        finally:
            os._exit(code)
    return pid


# ======================================================================================================== NOP

def injected(ring, result, **keywords):
    """prep_nop with a result; skips where the kernel ignores NOP's flags, or refuses all of them."""
    ring.prep_nop(result=result, **keywords)
    cqe = one(ring)
    if cqe.res != result:
        assert cqe.res in (0, -errno.EINVAL) and abi.IORING_OP_BIND not in ring.register_probe()
        pytest.skip(f"Linux {RELEASE} answers IORING_NOP_INJECT_RESULT with {cqe.res}: it came with 6.10")
    return cqe


@pytest.mark.parametrize("result", [1, 2**31 - 1, -1, -errno.ETIME, -2**31])
def test_nop_answers_what_it_was_told_to(result, ring):
    assert injected(ring, result, user_data=7) == CQE(7, result, 0)


def test_a_nop_that_fails_breaks_its_chain(ring):
    injected(ring, 1)
    ring.prep_nop(result=-errno.EIO, user_data=1, sqe_flags=LINK)
    ring.prep_nop(result=3, user_data=2)
    assert collect(ring, 2) == [CQE(1, -errno.EIO, 0), CQE(2, -errno.ECANCELED, 0)]
    ring.prep_nop(result=3, user_data=1, sqe_flags=LINK)
    ring.prep_nop(result=-errno.EIO, user_data=2)
    assert collect(ring, 2) == [CQE(1, 3, 0), CQE(2, -errno.EIO, 0)]


def test_nop_looks_up_a_file_and_a_slot(ring, pipe):
    injected(ring, 1)
    ring.prep_nop(nop_flags=abi.IORING_NOP_FILE, fd=pipe[0])
    assert known(one(ring).res, "IORING_NOP_FILE", "6.13") == 0
    ring.prep_nop(nop_flags=abi.IORING_NOP_FILE, fd=2**31 - 1, user_data=1, sqe_flags=LINK)
    ring.prep_nop(user_data=2)
    got = results(ring, 2)
    assert got[1] in (0, -errno.EBADF), "the first kernels had it fail and say 0 (io_nop(), 6.13)"
    assert got[2] == -errno.ECANCELED
    ring.register_files_sparse(2)
    ring.prep_openat(-100, "/", os.O_RDONLY | os.O_DIRECTORY, file_index=2)
    assert one(ring).res == 0
    for slot, answer in ((1, 0), (0, -errno.ECANCELED), (2, -errno.ECANCELED)):
        ring.prep_nop(nop_flags=abi.IORING_NOP_FILE | abi.IORING_NOP_FIXED_FILE, fd=slot, user_data=1,
                      sqe_flags=LINK)
        ring.prep_nop(user_data=2)
        assert results(ring, 2)[2] == answer, slot


def test_nop_completes_in_task_work(ring):
    injected(ring, 1)
    ring.prep_nop(nop_flags=abi.IORING_NOP_TW, result=-5, user_data=7)
    assert known(one(ring).res, "IORING_NOP_TW", "6.16") == -5


def test_nop_with_flags_that_no_kernel_knows_is_einval(ring):
    injected(ring, 1)
    ring.prep_nop(nop_flags=1 << 31)
    assert one(ring).res == -errno.EINVAL


@pytest.mark.parametrize("flags", [abi.IORING_SETUP_SQE128, abi.IORING_SETUP_SQE_MIXED])
def test_nop128_takes_two_slots_and_one_cqe(flags, ring):
    needs(ring, abi.IORING_OP_NOP128)
    with Ring(8, flags=flags) as wide:
        for i in range(20):
            wide.prep_nop128(result=i, user_data=i)
            wide.prep_nop(user_data=100)
            assert results(wide, 2) == {i: i, 100: 0}


# ============================================================================================ messages to a ring

def test_a_message_arrives_in_another_ring(ring, other):
    needs(ring, abi.IORING_OP_MSG_RING)
    ring.prep_msg_ring(other, 42, 2**64 - 2, user_data=7)
    assert one(ring) == CQE(7, 0, 0)
    assert one(other) == CQE(2**64 - 2, 42, 0)
    nothing(ring)
    nothing(other)


def test_a_ring_can_send_a_message_to_itself(ring):
    needs(ring, abi.IORING_OP_MSG_RING)
    ring.prep_msg_ring(ring, 42, 1, user_data=7)
    assert results(ring, 2) == {7: 0, 1: 42}


@pytest.mark.parametrize("length, res", [(-1, -1), (-2**31, -2**31), (2**31 - 1, 2**31 - 1), (2**31, -2**31),
                                         (2**32 - 1, -1)])
def test_a_messages_length_is_a_signed_res_there(length, res, ring, other):
    needs(ring, abi.IORING_OP_MSG_RING)
    ring.prep_msg_ring(other, length, 1)
    ring.submit()
    assert one(other) == CQE(1, res, 0)
    assert one(ring).res == 0


def test_a_message_wakes_a_thread_that_waits_in_its_ring(ring):
    needs(ring, abi.IORING_OP_MSG_RING)
    rings, ready = [], threading.Event()

    def wait():
        with Ring(4) as mine:
            rings.append(mine)
            ready.set()
            got = [mine.wait_cqe(LONG) for _ in range(3)]
            ready.wait(LONG)        # the ring stays until the sender has what it wanted
            return got
    worker = Worker(wait)
    assert ready.wait(LONG)
    ready.clear()
    for i in range(3):
        ring.prep_msg_ring(rings[0], i, 100 + i, user_data=i)
        assert one(ring) == CQE(i, 0, 0)
    ready.set()
    assert worker.done() == [CQE(100, 0, 0), CQE(101, 1, 0), CQE(102, 2, 0)]


def test_a_message_comes_from_another_process(ring):
    needs(ring, abi.IORING_OP_MSG_RING)
    mine = os.dup(ring.fd)              # the child lets go of the Ring, not of this

    def send():
        with Ring(4) as theirs:
            theirs.prep_msg_ring(mine, os.getpid(), 5)
            return -one(theirs).res
    pid = child(send)
    os.close(mine)
    assert one(ring) == CQE(5, pid, 0)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_message_to_what_is_no_ring_is_ebadfd(ring, pipe):
    needs(ring, abi.IORING_OP_MSG_RING)
    ring.prep_msg_ring(pipe[0], 1, 1)
    assert one(ring).res == -errno.EBADFD


def test_a_message_into_a_full_cq_is_kept_for_later(ring):
    needs(ring, abi.IORING_OP_MSG_RING)
    with Ring(1, cq_entries=2) as small:
        for i in range(9):
            ring.prep_msg_ring(small, i, i)
            assert one(ring).res == 0
        assert collect(small, 9) == [CQE(i, i, 0) for i in range(9)]


@pytest.mark.parametrize("cqe_flags", [0, abi.IORING_CQE_F_MORE, 0xabcd0000 | abi.IORING_CQE_F_SOCK_NONEMPTY])
def test_a_message_can_say_what_flags_it_is_to_have(cqe_flags, ring, other):
    needs(ring, abi.IORING_OP_MSG_RING)
    ring.prep_msg_ring_cqe_flags(other, -3, 9, 0, cqe_flags, user_data=7)
    known(one(ring).res, "IORING_MSG_RING_FLAGS_PASS", "6.3")
    assert one(other) == CQE(9, -3, cqe_flags)


@pytest.fixture
def sent_file(ring, other, tmp_path):
    """A file in slot 1 of ring's table, and two slots in the other's."""
    needs(ring, abi.IORING_OP_MSG_RING)
    (tmp_path / "file").write_bytes(b"went over")
    for table, slots in ((ring, 3), (other, 2)):
        try:
            table.register_files_sparse(slots)
        except OSError as error:
            assert error.errno == errno.EINVAL
            pytest.skip(f"Linux {RELEASE} has no sparse file tables: they came with 5.19")
    ring.prep_openat(-100, tmp_path / "file", os.O_RDONLY, file_index=2)
    assert one(ring).res == 0
    res, _ = pass_on(ring, other, "prep_msg_ring_fd", 0, 0, 0)
    assert known(res, "IORING_MSG_SEND_FD", "6.0") == -errno.EBADF


def what_is_in(ring, slot):
    buffer = bytearray(32)
    ring.prep_read(slot, buffer, offset=0, sqe_flags=abi.IOSQE_FIXED_FILE)
    res = one(ring).res
    return bytes(buffer[:res]) if res >= 0 else res


def pass_on(ring, other, method, *arguments):
    """Sends a file; -> res here, the CQEs there. The receiver has to look before the sender is told (task work)."""
    getattr(ring, method)(other, *arguments, user_data=7)
    ring.submit()
    other.submit_and_get_events()
    return one(ring).res, other.reap()


def test_a_file_arrives_in_the_slot_that_was_named(ring, other, sent_file):
    assert pass_on(ring, other, "prep_msg_ring_fd", 1, 0, 99) == (0, [CQE(99, 0, 0)])
    assert what_is_in(other, 0) == b"went over"
    assert what_is_in(other, 1) == -errno.EBADF
    assert what_is_in(ring, 1) == b"went over", "it has both now"


@pytest.mark.parametrize("method, arguments", [
    ("prep_msg_ring_fd_alloc", (1, 99)), ("prep_msg_ring_fd", (1, abi.IORING_FILE_INDEX_ALLOC, 99))])
def test_a_file_arrives_in_a_free_slot(method, arguments, ring, other, sent_file):
    res, there = pass_on(ring, other, method, *arguments)
    assert (res, there) == (0, [CQE(99, 0, 0)])
    res, there = pass_on(ring, other, method, *arguments)
    assert (res, there) == (1, [CQE(99, 1, 0)])
    assert what_is_in(other, 0) == what_is_in(other, 1) == b"went over"
    assert pass_on(ring, other, method, *arguments) == (-errno.ENFILE, [])


def test_a_file_can_arrive_without_a_cqe(ring, other, sent_file):
    assert pass_on(ring, other, "prep_msg_ring_fd", 1, 0, 99, abi.IORING_MSG_RING_CQE_SKIP) == (0, [])
    assert what_is_in(other, 0) == b"went over"
    other._count_expected()
    assert 99 not in other._inflight, "it waits for a CQE that was not asked for"


def test_a_file_that_is_not_there_cannot_be_sent(ring, other, sent_file):
    assert pass_on(ring, other, "prep_msg_ring_fd", 0, 0, 99) == (-errno.EBADF, [])
    assert pass_on(ring, other, "prep_msg_ring_fd", 1, 2, 99) == (-errno.EINVAL, [])
    ring.prep_msg_ring_fd(ring, 1, 0, 99)
    assert one(ring).res == -errno.EINVAL, "not to itself"


# ==================================================================================================== futexes

# The number of futex(2), which glibc has no function for.
SYS_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}.get(os.uname().machine)
FUTEX_WAIT, FUTEX_WAKE = 0, 1


def futex2(word, op, val):
    """futex(2) on an array("I"), as another program would: result or -errno."""
    if not SYS_FUTEX or sys.maxsize < 2**32:
        pytest.skip(f"the number of futex(2) on {os.uname().machine} is not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    limit = struct.pack("=qq", LONG, 0)
    result = libc.syscall(SYS_FUTEX, ctypes.c_void_p(word.buffer_info()[0]), op, val, limit, None, 0)
    return result if result >= 0 else -ctypes.get_errno()


def word(*values):
    return array.array("I", values or [0])


def test_a_futex_is_woken_by_another_thread(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    futex = word(5)
    ring.prep_futex_wait(futex, 5, user_data=1)
    nothing(ring)

    def wake():
        with Ring(4) as mine:
            futex[0] = 6
            mine.prep_futex_wake(futex, 1, user_data=2)
            return one(mine)
    worker = Worker(wake)
    assert one(ring) == CQE(1, 0, 0)
    assert worker.done() == CQE(2, 1, 0), "one was woken"


def test_a_futex_is_woken_by_futex_2_and_wakes_it(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    futex = word(5)
    ring.prep_futex_wait(futex, 5, user_data=1)
    nothing(ring)
    assert futex2(futex, FUTEX_WAKE, 1) == 1
    assert one(ring) == CQE(1, 0, 0)

    worker = Worker(lambda: futex2(futex, FUTEX_WAIT, 5))
    woken = 0
    while not woken:                # until the thread sleeps
        assert worker.is_alive()
        ring.prep_futex_wake(futex, 1, user_data=2)
        woken = one(ring).res
    assert worker.done() == 0


def test_a_futex_with_another_value_does_not_wait(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    ring.prep_futex_wait(word(5), 6)
    assert one(ring).res == -errno.EAGAIN


def test_waking_wakes_as_many_as_it_says(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    futex = word()
    for i in range(1, 6):
        ring.prep_futex_wait(futex, 0, user_data=i)
    ring.submit()
    for many, woken in ((0, 0), (2, 2), (2**31 - 1, 3), (1, 0)):
        ring.prep_futex_wake(futex, many, user_data=9)
        got = collect(ring, woken + 1)
        assert CQE(9, woken, 0) in got
        assert sum(cqe.res == 0 for cqe in got if cqe.user_data < 9) == woken


def test_a_mask_decides_who_is_woken(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    futex = word()
    ring.prep_futex_wait(futex, 0, 0b0110, user_data=1)
    ring.prep_futex_wake(futex, 1, 0b1001, user_data=2)
    assert one(ring) == CQE(2, 0, 0)
    ring.prep_futex_wake(futex, 1, 0b0011, user_data=2)
    assert results(ring, 2) == {1: 0, 2: 1}


def test_a_private_futex_is_another_one_than_a_shared_one(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    futex, private = word(), abi.FUTEX2_SIZE_U32 | abi.FUTEX2_PRIVATE
    ring.prep_futex_wait(futex, 0, futex_flags=private, user_data=1)
    ring.prep_futex_wake(futex, 1, user_data=2)
    assert one(ring) == CQE(2, 0, 0)
    ring.prep_futex_wake(futex, 1, futex_flags=private, user_data=2)
    assert results(ring, 2) == {1: 0, 2: 1}


def test_a_slice_of_a_buffer_is_a_futex_of_its_own(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    futexes = word(1, 2, 3)
    ring.prep_futex_wait(memoryview(futexes)[1:2], 2, user_data=1)
    for i in (0, 2):
        ring.prep_futex_wake(memoryview(futexes)[i:], 1, user_data=2)
        assert one(ring) == CQE(2, 0, 0)
    ring.prep_futex_wake(memoryview(futexes)[1:], 1, user_data=2)
    assert results(ring, 2) == {1: 0, 2: 1}


def test_a_futex_in_shared_memory_is_woken_by_another_process(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    with mmap.mmap(-1, mmap.PAGESIZE) as shared:
        ring.prep_futex_wait(shared, 0, user_data=1)
        nothing(ring)

        def wake():
            with Ring(4) as mine:
                shared[0] = 1
                mine.prep_futex_wake(shared, 1)
                return one(mine).res
        pid = child(wake)
        assert one(ring) == CQE(1, 0, 0)
        assert shared[0] == 1
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, "how many it woke"


def test_a_futex_gives_up_when_its_linked_timeout_says_so(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    ring.prep_futex_wait(word(), 0, user_data=1, sqe_flags=LINK)
    ring.prep_link_timeout(0.001, user_data=2)
    got = results(ring, 2)
    assert got[1] == -errno.ECANCELED
    assert got[2] in (1, -errno.ETIME), "how many it cancelled, on 6.18"


def test_a_futex_wait_can_be_cancelled(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    futex = word()
    ring.prep_futex_wait(futex, 0, user_data=1)
    ring.prep_cancel(1, user_data=2)
    assert results(ring, 2) == {1: -errno.ECANCELED, 2: 1}, "how many, although not asked for _ALL"
    ring.prep_futex_wake(futex, 1)
    assert one(ring).res == 0, "nobody is left"


@pytest.mark.parametrize("size", [abi.FUTEX2_SIZE_U8, abi.FUTEX2_SIZE_U16, abi.FUTEX2_SIZE_U64])
def test_other_sizes_than_32_bits_are_for_later_kernels(size, ring):
    needs(ring, abi.IORING_OP_FUTEX_WAIT)
    ring.prep_futex_wait(array.array("Q", [0]), 0, 1, futex_flags=size, user_data=1)
    ring.prep_cancel(1, user_data=2)
    assert results(ring, 2)[1] in (-errno.EINVAL, -errno.ECANCELED)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_many_futexes_answer_which_was_woken(which, ring):
    needs(ring, abi.IORING_OP_FUTEX_WAITV)
    futexes = [word(7), bytearray(8), mmap.mmap(-1, 4096)]
    ring.prep_futex_waitv((FutexWaitv(7, futexes[0], abi.FUTEX2_SIZE_U32 | abi.FUTEX2_PRIVATE),
                           FutexWaitv(0, futexes[1]), FutexWaitv(0, futexes[2])), user_data=1)
    nothing(ring)

    def wake():
        with Ring(4) as mine:
            mine.prep_futex_wake(futexes[which], 1, futex_flags=abi.FUTEX2_SIZE_U32
                                 | (0 if which else abi.FUTEX2_PRIVATE))
            return one(mine).res
    worker = Worker(wake)
    assert one(ring) == CQE(1, which, 0)
    assert worker.done() == 1
    futexes[2].close()


def test_128_futexes_can_be_waited_for(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAITV)
    futexes = word(*range(128))
    ring.prep_futex_waitv((FutexWaitv(i, memoryview(futexes)[i:]) for i in range(128)), user_data=1)
    ring.prep_futex_wake(memoryview(futexes)[127:], 1, user_data=2)
    assert results(ring, 2) == {1: 127, 2: 1}


def test_many_futexes_do_not_wait_where_one_has_another_value(ring):
    needs(ring, abi.IORING_OP_FUTEX_WAITV)
    ring.prep_futex_waitv([FutexWaitv(0, word()), FutexWaitv(1, word())])
    assert one(ring).res == -errno.EAGAIN


# =================================================================================================== children

@pytest.fixture
def sleeper(pipe):
    """A child that ends with status 7 once the pipe's writing end is closed, or as a signal tells it to."""
    def sleep():
        os.close(pipe[1])
        os.read(pipe[0], 1)
        return 7
    pid = child(sleep)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def fields(info):
    return info.si_pid, info.si_uid, info.si_signo, info.si_status, info.si_code


def test_a_child_that_exits_is_waited_for(ring, pipe, sleeper):
    needs(ring, abi.IORING_OP_WAITID)
    info = Siginfo()
    ring.prep_waitid(os.P_PID, sleeper, info, os.WEXITED, user_data=1)
    nothing(ring)
    assert fields(info) == (0, 0, 0, 0, 0)
    os.close(pipe[1])
    assert one(ring) == CQE(1, 0, 0)
    assert fields(info) == (sleeper, os.getuid(), signal.SIGCHLD, 7, os.CLD_EXITED)
    assert repr(info) == (f"Siginfo(si_pid={sleeper}, si_uid={os.getuid()}, si_signo={int(signal.SIGCHLD)}, "
                          f"si_status=7, si_code={os.CLD_EXITED})")
    with pytest.raises(ChildProcessError):
        os.waitpid(sleeper, 0)
    ring.prep_waitid(os.P_PID, sleeper, None, os.WEXITED)
    assert one(ring).res == -errno.ECHILD


@pytest.fixture
def pidfd(sleeper):
    if not hasattr(os, "P_PIDFD"):
        yield None
        return
    fd = os.pidfd_open(sleeper)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("how", ["P_PID", "P_PGID", "P_ALL", "P_PIDFD"])
def test_every_way_to_say_which_child_and_wnowait_leaves_it(how, ring, sleeper, pidfd):
    needs(ring, abi.IORING_OP_WAITID)
    if not hasattr(os, how):
        pytest.skip(f"this Python was built without os.{how}")
    os.setpgid(sleeper, sleeper)        # so that no other child of this process is meant
    which = {"P_ALL": 0, "P_PIDFD": pidfd}.get(how, sleeper)
    info = Siginfo()
    ring.prep_waitid(getattr(os, how), which, info, os.WEXITED | os.WNOWAIT)
    nothing(ring)
    os.kill(sleeper, signal.SIGTERM)
    assert one(ring).res == 0
    theirs = os.waitid(os.P_PID, sleeper, os.WEXITED)
    assert fields(info) == fields(theirs)
    assert fields(info)[3:] == (signal.SIGTERM, os.CLD_KILLED)


def test_a_child_that_stops_and_goes_on_is_seen(ring, sleeper):
    needs(ring, abi.IORING_OP_WAITID)
    for sent, options, status, code in (
            (signal.SIGSTOP, os.WSTOPPED, signal.SIGSTOP, os.CLD_STOPPED),
            (signal.SIGCONT, os.WCONTINUED, signal.SIGCONT, os.CLD_CONTINUED)):
        info = Siginfo()
        ring.prep_waitid(os.P_PID, sleeper, info, options)
        os.kill(sleeper, sent)
        assert one(ring).res == 0
        assert fields(info) == (sleeper, os.getuid(), signal.SIGCHLD, status, code)


def test_wnohang_does_not_wait(ring, sleeper):
    needs(ring, abi.IORING_OP_WAITID)
    info = Siginfo()
    ring.prep_waitid(os.P_PID, sleeper, info, os.WEXITED | os.WNOHANG)
    assert one(ring).res == 0
    assert info.si_pid == 0 and info.si_signo == 0


def test_a_child_is_waited_for_without_asking_what_became_of_it(ring, pipe, sleeper):
    needs(ring, abi.IORING_OP_WAITID)
    ring.prep_waitid(os.P_PID, sleeper, None, os.WEXITED, user_data=1)
    os.close(pipe[1])
    assert one(ring) == CQE(1, 0, 0)
    with pytest.raises(ChildProcessError):
        os.waitpid(sleeper, 0)


def test_a_wait_for_a_child_can_be_cancelled(ring, sleeper):
    needs(ring, abi.IORING_OP_WAITID)
    info = Siginfo()
    ring.prep_waitid(os.P_PID, sleeper, info, os.WEXITED, user_data=1)
    ring.prep_cancel(1, user_data=2)
    assert results(ring, 2) == {1: -errno.ECANCELED, 2: 1}, "how many, although not asked for _ALL"
    assert os.waitid(os.P_PID, sleeper, os.WEXITED | os.WNOHANG) is None, "it lives"


def test_a_wait_for_a_child_gives_up_when_its_linked_timeout_says_so(ring, sleeper):
    needs(ring, abi.IORING_OP_WAITID)
    ring.prep_waitid(os.P_PID, sleeper, Siginfo(), os.WEXITED, user_data=1, sqe_flags=LINK)
    ring.prep_link_timeout(0.001, user_data=2)
    got = results(ring, 2)
    assert got[1] == -errno.ECANCELED
    assert got[2] in (1, -errno.ETIME), "how many it cancelled, on 6.18"


def test_waitid_without_options_is_einval(ring):
    needs(ring, abi.IORING_OP_WAITID)
    ring.prep_waitid(os.P_ALL, 0, Siginfo(), 0)
    assert one(ring).res == -errno.EINVAL


# ====================================================================================================== epoll

IN, OUT = select.EPOLLIN, select.EPOLLOUT


@pytest.fixture
def epoll():
    with select.epoll() as epoll:
        yield epoll


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def ctl(ring, *arguments):
    ring.prep_epoll_ctl(*arguments)
    return one(ring).res


def test_epoll_watches_what_it_is_told_to(ring, epoll, pair):
    needs(ring, abi.IORING_OP_EPOLL_CTL)
    fd = pair[0].fileno()
    assert ctl(ring, epoll, pair[0], abi.EPOLL_CTL_ADD, IN) == 0
    assert epoll.poll(0) == []
    pair[1].send(b"x")
    assert epoll.poll(LONG) == [(fd, IN)]
    assert ctl(ring, epoll, pair[0], abi.EPOLL_CTL_ADD, IN) == -errno.EEXIST
    assert ctl(ring, epoll.fileno(), fd, abi.EPOLL_CTL_MOD, OUT) == 0
    assert epoll.poll(LONG) == [(fd, OUT)]
    assert ctl(ring, epoll, pair[0], abi.EPOLL_CTL_DEL) == 0
    assert epoll.poll(0) == []
    assert ctl(ring, epoll, pair[0], abi.EPOLL_CTL_DEL) == -errno.ENOENT
    assert ctl(ring, epoll, 2**31 - 1, abi.EPOLL_CTL_ADD, IN) == -errno.EBADF


def test_epoll_events_are_waited_for(ring, epoll, pair):
    needs(ring, abi.IORING_OP_EPOLL_WAIT)
    epoll.register(pair[0], IN)
    events = EpollEvents(4)
    ring.prep_epoll_wait(epoll, events, user_data=1)
    nothing(ring)
    worker = Worker(lambda: pair[1].send(b"x"))
    assert one(ring) == CQE(1, 1, 0)
    worker.done()
    assert events.fds(1) == [(pair[0].fileno(), IN)] == epoll.poll(0)


def test_epoll_events_bear_the_64_bits_they_were_given(ring, epoll, pair):
    needs(ring, abi.IORING_OP_EPOLL_WAIT)
    data = {pair[0].fileno(): 2**64 - 2, pair[1].fileno(): 0x0123456789ABCDEF}
    for fd, number in data.items():
        assert ctl(ring, epoll, fd, abi.EPOLL_CTL_ADD, IN | OUT, number) == 0
    pair[0].send(b"x")
    events = EpollEvents(4)
    ring.prep_epoll_wait(epoll, events)
    assert one(ring).res == 2
    assert sorted(events.data(2)) == [(0x0123456789ABCDEF, IN | OUT), (2**64 - 2, OUT)]


def test_epoll_gives_no_more_events_than_there_is_room_for(ring, epoll, pair):
    needs(ring, abi.IORING_OP_EPOLL_WAIT)
    for sock in pair:
        epoll.register(sock, OUT)
    buffer = EpollEvents(2)
    ring.prep_epoll_wait(epoll, buffer, 1)
    assert one(ring).res == 1
    assert len(buffer.fds(1)) == 1 and not any(buffer[len(buffer) // 2:])
    plain = bytearray(len(buffer))
    ring.prep_epoll_wait(epoll, plain)
    assert one(ring).res == 2


def test_an_epoll_wait_can_be_cancelled(ring, epoll, pair):
    needs(ring, abi.IORING_OP_EPOLL_WAIT)
    epoll.register(pair[0], IN)
    ring.prep_epoll_wait(epoll, EpollEvents(1), user_data=1)
    ring.prep_cancel(1, user_data=2)
    assert results(ring, 2) == {1: -errno.ECANCELED, 2: 0}


def test_epoll_of_what_is_no_epoll_is_einval(ring, pipe):
    needs(ring, abi.IORING_OP_EPOLL_CTL)
    assert ctl(ring, pipe[0], pipe[1], abi.EPOLL_CTL_ADD, OUT) == -errno.EINVAL


# ======================================================================================================= time

MORE = abi.IORING_CQE_F_MORE


def test_a_multishot_timeout_fires_so_many_times(ring):
    ring.prep_timeout(0.001, 3, abi.IORING_TIMEOUT_MULTISHOT, user_data=1)
    known(one(ring).res, "IORING_TIMEOUT_MULTISHOT", "6.4")
    assert collect(ring, 2) == [CQE(1, -errno.ETIME, MORE), CQE(1, -errno.ETIME, 0)]
    nothing(ring)


def test_a_multishot_timeout_goes_on_until_it_is_removed(ring):
    ring.prep_timeout(0.001, 0, abi.IORING_TIMEOUT_MULTISHOT, user_data=1)
    known(one(ring).res, "IORING_TIMEOUT_MULTISHOT", "6.4")
    assert collect(ring, 4) == [CQE(1, -errno.ETIME, MORE)] * 4
    ring.prep_timeout_remove(1, user_data=2)
    got = {}
    while len(got) < 2:
        cqe = one(ring)
        if not cqe.flags & MORE:
            got[cqe.user_data] = cqe.res
    assert got == {1: -errno.ECANCELED, 2: 0}
    nothing(ring)


def test_a_timeout_by_another_clock(ring):
    for clock, flag in ((getattr(time, "CLOCK_BOOTTIME", 7), abi.IORING_TIMEOUT_BOOTTIME),
                        (time.CLOCK_REALTIME, abi.IORING_TIMEOUT_REALTIME)):
        soon = time.clock_gettime(clock) + 0.01
        ring.prep_timeout(soon, 0, abi.IORING_TIMEOUT_ABS | flag, user_data=1)
        assert known(one(ring).res, "IORING_TIMEOUT_BOOTTIME", "5.15") == -errno.ETIME
        assert time.clock_gettime(clock) >= soon


@pytest.mark.parametrize("flags, after", [(0, -errno.ECANCELED), (abi.IORING_TIMEOUT_ETIME_SUCCESS, 0)])
def test_a_timeout_is_a_failure_unless_it_is_said_to_be_none(flags, after, ring):
    ring.prep_timeout(0.001, 0, flags, user_data=1, sqe_flags=LINK)
    ring.prep_nop(user_data=2)
    got = results(ring, 2)
    if flags and got == {1: -errno.ECANCELED, 2: -errno.ECANCELED}:     # a chain with an error in it never begins
        known(-errno.EINVAL, "IORING_TIMEOUT_ETIME_SUCCESS", "5.16")
    known(got[1], "IORING_TIMEOUT_ETIME_SUCCESS", "5.16")
    assert got == {1: -errno.ETIME, 2: after}


def test_a_linked_timeout_gets_a_new_time(ring, pipe):
    needs(ring, abi.IORING_OP_READ)
    ring.prep_read(pipe[0], bytearray(1), user_data=1, sqe_flags=LINK)
    ring.prep_link_timeout(LONG, user_data=2)
    ring.prep_timeout_update(0.001, 2, abi.IORING_LINK_TIMEOUT_UPDATE, user_data=3)
    got = results(ring, 1)
    if got.get(3) == -errno.EINVAL:
        pytest.skip(f"Linux {RELEASE} answers IORING_LINK_TIMEOUT_UPDATE with EINVAL: it came with 5.15")
    got.update(results(ring, 2))
    assert got[1] in (-errno.ECANCELED, -errno.EINTR)
    assert (got[2], got[3]) == (-errno.ETIME, 0)


def test_a_time_can_travel_in_the_sqe(ring, pipe):
    immediate = abi.IORING_TIMEOUT_IMMEDIATE_ARG
    ring.prep_timeout(0.002, 0, immediate, user_data=1)
    began = time.monotonic()
    assert known(one(ring).res, "IORING_TIMEOUT_IMMEDIATE_ARG", "7.1") == -errno.ETIME
    assert time.monotonic() - began > 0.001
    ring.prep_timeout(LONG, user_data=1)
    ring.prep_timeout_update(0.001, 1, immediate, user_data=2)
    assert results(ring, 2) == {1: -errno.ETIME, 2: 0}
    ring.prep_read(pipe[0], bytearray(1), user_data=1, sqe_flags=LINK)
    ring.prep_link_timeout(0.001, immediate, user_data=2)
    assert results(ring, 2)[2] == -errno.ETIME
