"""pyuring/ring.py: the two queues.

First over a FakeKernel, which does on command what a real one does once in a while: full and wrapping queues, short
submissions, overflow, signals in the worst moment. Then over the real one: each opcode does its thing, memory in
flight stays where it is, and close(), threads, forks and signals leave nothing behind.
"""
import array
import contextlib
import errno
import gc
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import pytest
from fakekernel import FEATURES, FakeKernel
from onkernel import collect, interrupted_at, needs, one, results

from pyuring import abi, errors, layout, ring as ring_module, syscalls
from pyuring.ring import CQE, Ring, _orphans
from pyuring.sockaddr import unpack

U64 = 2**64 - 1
LONG = 30       # seconds: far more than anything here takes. Only a failed test waits that long


# =================================================================================================== fake kernel

@pytest.fixture
def make(monkeypatch):
    """make(entries, kernel arguments) -> (ring, fake)"""
    rings = []

    def make(entries=8, *, features=FEATURES, refuse=0, setup_errno=0, sq_start=0, cq_start=0, **options):
        fake = FakeKernel(features=features, refuse=refuse, setup_errno=setup_errno, sq_start=sq_start,
                          cq_start=cq_start)
        fake.install(monkeypatch)
        ring = Ring(entries, **options)
        rings.append((ring, fake))
        return ring, fake

    yield make
    for ring, fake in rings:
        fake.install(monkeypatch)
        fake.script.clear()
        ring.close()


def nops(ring, *user_data):
    for each in user_data:
        ring.prep_nop(user_data=each)


def seen(fake):
    return [sqe["user_data"] for sqe in fake.submitted]


# ---- setup

S, D, C = abi.IORING_SETUP_SINGLE_ISSUER, abi.IORING_SETUP_DEFER_TASKRUN, abi.IORING_SETUP_CQSIZE


@pytest.mark.parametrize("refuse, tried", [(0, [S | D]), (D, [S | D, S]), (S | D, [S | D, S, 0])])
def test_flags_the_kernel_does_not_know_are_given_up_one_by_one(refuse, tried, make):
    ring, fake = make(refuse=refuse)
    assert fake.setups == tried
    assert ring.flags == tried[-1]


@pytest.mark.parametrize("refuse, tried", [(0, [S | D | C]), (D, [S | D | C, S | C]), (S | D, [S | D | C, S | C, C])])
def test_giving_flags_up_keeps_the_size_of_the_cq(refuse, tried, make):
    ring, fake = make(4, refuse=refuse, cq_entries=64)
    assert fake.setups == tried
    assert (ring.sq_entries, ring.cq_entries) == (4, 64)


def test_flags_that_were_asked_for_are_not_given_up(make):
    with pytest.raises(OSError, match="0x3000") as caught:
        make(flags=S | D, refuse=D)
    assert caught.value.errno == errno.EINVAL


def test_a_cq_size_that_is_refused_is_not_given_up(make):
    with pytest.raises(OSError) as caught:
        make(4, refuse=C, cq_entries=64)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EACCES,
                                  errno.EFAULT])
def test_setup_that_fails_otherwise_is_tried_once_and_explained(code, make, monkeypatch):
    with pytest.raises(errors.RingUnavailable) as caught:
        make(setup_errno=code)
    assert ring_module.syscalls.setups == [S | D]
    assert caught.value.errno == code
    assert caught.value.cause in errors.CAUSES
    assert caught.value.reason in str(caught.value)
    assert caught.value.remedy in str(caught.value)


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("single", [True, False])
def test_a_map_that_fails_leaves_nothing_open(step, single, make, monkeypatch):
    maps = 2 if single else 3
    if step >= maps:
        pytest.skip("with SINGLE_MMAP there is no third map")
    real, count = FakeKernel.map_ring, iter(range(9))

    def map_ring(self, *arguments):
        if next(count) == step:
            raise OSError(errno.EMFILE, "as mmap.mmap(), which dups the fd")
        return real(self, *arguments)
    monkeypatch.setattr(FakeKernel, "map_ring", map_ring)
    with pytest.raises(errors.RingUnavailable) as caught:
        make(features=FEATURES if single else FEATURES & ~abi.IORING_FEAT_SINGLE_MMAP)
    assert caught.value.cause == "nofile"
    assert ring_module.syscalls.fd == -1


@pytest.mark.parametrize("features, offsets", [
    (FEATURES, {abi.IORING_OFF_SQ_RING, abi.IORING_OFF_SQES}),
    (FEATURES & ~abi.IORING_FEAT_SINGLE_MMAP, {abi.IORING_OFF_SQ_RING, abi.IORING_OFF_CQ_RING, abi.IORING_OFF_SQES}),
], ids=["one map", "two maps"])
@pytest.mark.parametrize("entries, cq_entries", [(1, None), (8, None), (8, 4096), (1024, 1024)])
def test_both_queues_work_in_one_map_and_in_two(features, offsets, entries, cq_entries, make):
    ring, fake = make(entries, features=features, cq_entries=cq_entries)
    assert set(fake.maps) == offsets
    fake.answer = fake.at_once
    for batch in range(3):
        nops(ring, *range(batch, batch + entries))
        assert ring.submit_and_wait(entries) == entries
        assert ring.reap() == [CQE(i, 0, 0) for i in range(batch, batch + entries)]


def test_entries_are_rounded_up_by_the_kernel_and_all_can_be_used(make):
    ring, fake = make(5)
    assert (ring.sq_entries, ring.cq_entries, ring.sq_space_left) == (8, 16, 8)
    nops(ring, *range(8))
    assert ring.submit() == 8


# ---- a full SQ

def test_a_full_sq_raises_and_loses_nothing(make):
    ring, fake = make(4)
    nops(ring, 1, 2, 3, 4)
    for _ in range(2):
        with pytest.raises(errors.SubmissionQueueFull, match="all 4 SQEs"):
            ring.prep_nop(user_data=5)
    assert (ring.sq_ready, ring.sq_space_left) == (4, 0)
    assert ring.submit() == 4
    ring.prep_nop(user_data=5)
    ring.submit()
    assert seen(fake) == [1, 2, 3, 4, 5]


def test_a_request_that_found_no_sqe_keeps_nothing(make):
    ring, fake = make(1)
    ring.prep_nop(user_data=1)
    buffer = bytearray(8)
    with pytest.raises(errors.SubmissionQueueFull):
        ring.prep_recv(5, buffer, user_data=7)
    buffer += b"free to grow"
    assert 7 not in ring._inflight


def test_submit_when_full_goes_on_for_ever(make):
    ring, fake = make(4, submit_when_full=True)
    nops(ring, *range(23))
    assert seen(fake) == list(range(20))
    assert ring.sq_ready == 3
    ring.submit()
    assert seen(fake) == list(range(23))


@pytest.mark.parametrize("link", [abi.IOSQE_IO_LINK, abi.IOSQE_IO_HARDLINK,
                                  abi.IOSQE_IO_LINK | abi.IOSQE_CQE_SKIP_SUCCESS])
def test_submit_when_full_never_cuts_a_chain(link, make):
    ring, fake = make(4, submit_when_full=True)
    nops(ring, 1, 2, 3)
    ring.prep_nop(user_data=4, sqe_flags=link)
    with pytest.raises(errors.SubmissionQueueFull, match="chain"):
        ring.prep_nop(user_data=5)
    assert not fake.enters
    assert ring.sq_ready == 4


def test_submit_when_full_goes_on_after_the_last_of_a_chain(make):
    ring, fake = make(2, submit_when_full=True)
    ring.prep_nop(user_data=1, sqe_flags=abi.IOSQE_IO_LINK)
    nops(ring, 2, 3)
    assert seen(fake) == [1, 2]


@pytest.mark.parametrize("result, exception", [(0, errors.SubmissionQueueFull), (-errno.EAGAIN, BlockingIOError),
                                               (-errno.EBUSY, OSError), (-errno.EINTR, errors.SubmissionQueueFull)])
def test_submit_when_full_raises_where_the_kernel_takes_nothing(result, exception, make):
    ring, fake = make(2, submit_when_full=True)
    nops(ring, 1, 2)
    fake.script = [result]
    with pytest.raises(exception):
        ring.prep_nop(user_data=3)
    assert ring.sq_ready == 2
    ring.prep_nop(user_data=3)
    assert seen(fake) == [1, 2]


def test_submit_when_full_makes_do_with_one_free_sqe(make):
    ring, fake = make(4, submit_when_full=True)
    nops(ring, 1, 2, 3, 4)
    fake.script = [1]
    ring.prep_nop(user_data=5)
    assert ring.sq_ready == 4
    assert seen(fake) == [1]


# ---- counters that wrap

STARTS = [0, 1, 2**31 - 3, 2**31, 2**32 - 1, 2**32 - 2, 2**32 - 8, 2**32 - 11]


@pytest.mark.parametrize("sq_start", STARTS)
@pytest.mark.parametrize("cq_start", [0, 2**31 - 1, 2**32 - 1, 2**32 - 16, 2**32 - 17])
def test_heads_and_tails_wrap_past_2_32(sq_start, cq_start, make):
    ring, fake = make(8, sq_start=sq_start, cq_start=cq_start)
    fake.answer = fake.at_once
    expected = 0
    for batch in (8, 1, 7, 8, 3, 8, 8):
        assert (ring.sq_ready, ring.sq_space_left, ring.cq_ready) == (0, 8, 0)
        nops(ring, *range(expected, expected + batch))
        assert ring.sq_ready == batch
        assert ring.submit() == batch
        assert ring.cq_ready == batch
        assert ring.reap() == [CQE(i, 0, 0) for i in range(expected, expected + batch)]
        expected += batch
    assert seen(fake) == list(range(expected))


@pytest.mark.parametrize("sq_start", STARTS)
def test_a_full_sq_is_full_wherever_the_counter_stands(sq_start, make):
    ring, fake = make(8, sq_start=sq_start)
    nops(ring, *range(8))
    assert (ring.sq_ready, ring.sq_space_left) == (8, 0)
    with pytest.raises(errors.SubmissionQueueFull):
        ring.prep_nop()
    fake.script = [3]
    assert ring.submit() == 3
    nops(ring, 8, 9, 10)
    with pytest.raises(errors.SubmissionQueueFull):
        ring.prep_nop()
    assert ring.submit() == 8
    assert seen(fake) == list(range(11))


@pytest.mark.parametrize("cq_start", STARTS)
def test_a_full_cq_is_read_whole_wherever_the_counter_stands(cq_start, make):
    ring, fake = make(4, cq_start=cq_start)
    fake.complete(*[(i, -i, i) for i in range(8)])
    assert ring.cq_ready == 8
    assert ring.reap(3) == [CQE(0, 0, 0), CQE(1, -1, 1), CQE(2, -2, 2)]
    fake.complete((8,), (9,), (10,))
    assert [cqe.user_data for cqe in ring.reap()] == list(range(3, 11))
    assert ring.peek_cqe() is None


@pytest.mark.parametrize("sq_start, cq_start", [(0, 0), (2**32 - 50, 2**32 - 100), (2**31 - 9, 2**32 - 1)])
def test_any_mixture_of_steps_keeps_order_and_count(sq_start, cq_start, make):
    """A random walk over all that can be done with the two queues, against a plain list as the model."""
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    ring, fake = make(8, sq_start=sq_start, cq_start=cq_start, cq_entries=8)
    fake.answer = fake.at_once
    made = submitted = 0
    got = []
    for _ in range(2000):
        step = dice.randrange(5)
        if step == 0:
            for _ in range(dice.randrange(10)):
                if made - submitted == 8:
                    with pytest.raises(errors.SubmissionQueueFull):
                        ring.prep_nop()
                    break
                ring.prep_nop(user_data=made)
                made += 1
        elif step == 1:
            short = dice.randrange(made - submitted + 1)
            fake.script = dice.choice([[], [short], [-errno.EINTR]])
            consumed = ring.submit()
            submitted += consumed
        elif step == 2:
            fake.script = dice.choice([[], [-errno.EINTR], [0]])
            submitted += ring.submit_and_wait(dice.randrange(9), timeout=0)
        elif step == 3:
            got += ring.reap(dice.choice([None, None, 0, 1, 5]))
        else:
            cqe = ring.peek_cqe()
            got += [cqe] if cqe else []
        fake.script = []
        assert submitted == len(fake.submitted)
        assert ring.sq_ready == made - submitted == 8 - ring.sq_space_left
        assert [cqe.user_data for cqe in got] == list(range(len(got)))
        assert len(got) + ring.cq_ready + len(fake.overflow) == submitted
        assert sum(ring._inflight.values()) == made - len(got)
    submitted += ring.submit()
    while len(got) < made:
        new = ring.reap()
        assert new
        got += new
    assert [cqe.user_data for cqe in got] == list(range(made)) == seen(fake)
    assert made > 1000
    assert not ring._inflight


# ---- submitting

@pytest.mark.parametrize("consumed", range(5))
def test_what_a_short_submission_leaves_stays_ready(consumed, make):
    ring, fake = make(8)
    nops(ring, *range(5))
    fake.script = [consumed]
    assert ring.submit() == consumed
    assert ring.sq_ready == 5 - consumed
    nops(ring, 5, 6)
    assert ring.submit() == 7 - consumed
    assert seen(fake) == list(range(7))


def test_after_a_short_submission_it_does_not_wait(make):
    ring, fake = make(8)
    nops(ring, 1, 2, 3)
    fake.script = [2]
    assert ring.submit_and_wait(1) == 2
    assert len(fake.enters) == 1
    assert ring.sq_ready == 1


def test_submit_with_nothing_to_submit_is_0(make):
    ring, fake = make()
    assert ring.submit() == ring.submit_and_get_events() == ring.submit_and_wait(0) == 0


def test_submit_and_get_events_asks_for_them(make):
    ring, fake = make()
    ring.prep_nop()
    assert ring.submit_and_get_events() == 1
    assert fake.enters == [(1, 0, abi.IORING_ENTER_GETEVENTS)]


def test_waiting_for_what_is_already_there_asks_nobody(make):
    ring, fake = make()
    fake.complete((1,), (2,))
    assert ring.submit_and_wait(2) == 0
    assert ring.wait_cqe() == CQE(1, 0, 0)
    assert not fake.enters


def test_wait_cqe_submits_nothing(make):
    ring, fake = make(refuse=S | D)
    ring.prep_nop(user_data=1)

    def another(to_submit, min_complete, flags):
        assert (to_submit, min_complete) == (0, 1)
        fake.complete((9,))
    fake.script = [another]
    assert ring.wait_cqe() == CQE(9, 0, 0)
    assert ring.sq_ready == 1
    assert not fake.submitted


def test_wait_cqe_leaves_a_half_submitted_queue_alone(make):
    ring, fake = make(refuse=S | D)
    nops(ring, 1, 2, 3)
    fake.script = [1, lambda *_: fake.complete((1,))]
    assert ring.submit() == 1
    assert ring.wait_cqe(1) == CQE(1, 0, 0)
    assert ring.sq_ready == 2
    assert ring.submit() == 2


@pytest.mark.parametrize("code, text", [(errno.EBUSY, "reap() first"), (errno.EAGAIN, "no memory"),
                                        (errno.EBADR, "completions were lost"), (errno.EFAULT, "io_uring_enter")])
@pytest.mark.parametrize("call", [Ring.submit, Ring.submit_and_get_events, Ring.submit_and_wait,
                                  lambda ring: ring.submit_and_wait(1, 5)])
def test_enter_that_fails_says_what_to_do_and_loses_nothing(code, text, call, make):
    ring, fake = make()
    nops(ring, 1, 2)
    fake.script = [-code]
    with pytest.raises(OSError) as caught:
        call(ring)
    assert caught.value.errno == code
    assert text in str(caught.value)
    assert ring.sq_ready == 2
    assert ring.submit() == 2


def test_eexist_names_the_thread(make):
    ring, fake = make()
    ring.prep_nop()
    fake.script = [-errno.EEXIST]
    with pytest.raises(ValueError, match="another thread"):
        ring.submit()
    assert ring.sq_ready == 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_a_filter_that_comes_after_the_ring_is_explained(code, make):
    ring, fake = make()
    ring.prep_nop()
    fake.script = [-code]
    with pytest.raises(errors.RingUnavailable) as caught:
        ring.submit()
    assert caught.value.errno == code


# ---- waits that are interrupted

def test_an_interrupted_wait_goes_on(make):
    ring, fake = make()
    nops(ring, 1, 2)
    fake.script = [2, -errno.EINTR, -errno.EINTR, lambda *_: fake.complete((1,))]
    assert ring.submit_and_wait(1) == 2
    assert [to_submit for to_submit, _, _ in fake.enters] == [2, 0, 0, 0]
    assert ring.reap() == [CQE(1, 0, 0)]


def test_a_wait_that_ends_with_0_and_too_few_cqes_goes_on(make):
    """An interrupted wait is 0 and not EINTR when a CQE is unread (io_cqring_wait, Linux)."""
    ring, fake = make()

    def one_more(*_):
        fake.complete((7,))
        return 0
    fake.script = [one_more, one_more, one_more]
    assert ring.submit_and_wait(3) == 0
    assert ring.cq_ready == 3
    assert len(fake.enters) == 3


def test_a_submission_that_is_interrupted_before_it_began_is_done_again(make):
    ring, fake = make()
    fake.answer = fake.at_once
    nops(ring, 1, 2)
    fake.script = [-errno.EINTR]
    assert ring.submit_and_wait(2) == 2
    assert seen(fake) == [1, 2]


def test_submit_without_waiting_comes_back_from_eintr(make):
    ring, fake = make()
    ring.prep_nop()
    fake.script = [-errno.EINTR]
    assert ring.submit() == 0
    assert ring.sq_ready == 1


@pytest.mark.parametrize("call", [Ring.submit, Ring.submit_and_wait, lambda ring: ring.submit_and_wait(1, 5)])
def test_ctrl_c_after_the_sqes_were_consumed_does_not_submit_them_twice(call, make):
    ring, fake = make()
    nops(ring, 1, 2, 3)
    fake.script = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        call(ring)
    assert ring.sq_ready == 0
    assert ring.sq_space_left == 8
    ring.prep_nop(user_data=4)
    assert ring.submit() == 1
    assert seen(fake) == [1, 2, 3, 4]


def test_ctrl_c_in_the_middle_of_a_wait_keeps_what_the_kernel_uses(make):
    ring, fake = make()
    buffer = bytearray(4)
    ring.prep_recv(5, buffer, user_data=1)
    fake.script = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        ring.submit_and_wait(1)
    with pytest.raises(BufferError):
        buffer += b"grow"
    fake.complete((1, 4))
    assert ring.wait_cqe() == CQE(1, 4, 0)
    buffer += b"grow"


def test_ctrl_c_between_any_two_bytecodes_leaves_a_ring_that_works(make):
    """And the kernel never has memory that was released: what it may write to is pinned at each return."""
    n, raised = 0, True
    while raised:
        n += 1
        ring, fake = make()
        buffers = {}

        def work():
            for user_data in (1, 2, 1, 1):
                buffer = bytearray(8)
                buffers[len(buffers)] = user_data, buffer
                ring.prep_recv(5, buffer, user_data=user_data)
                ring.submit()
                fake.complete(*[(sqe["user_data"], 8) for sqe in fake.submitted[:-1:2]])
                del fake.submitted[:-1:2]
                ring.reap()
        raised = interrupted_at(n, work, ring_module)
        assert ring.sq_ready <= 1
        ring.submit()
        for sqe in fake.submitted:          # has no CQE yet
            for user_data, buffer in buffers.values():
                if user_data == sqe["user_data"] and syscalls.writable(buffer)[0] == sqe["addr"]:
                    with pytest.raises(BufferError):
                        buffer += b"in flight"
        for user_data in range(20, 30):
            ring.prep_nop(user_data=user_data)
            ring.submit()
        fake.complete(*[(user_data, 0) for user_data in range(20, 30)])
        assert [cqe.user_data for cqe in ring.reap()][-10:] == list(range(20, 30))
        ring.close()
        gc.collect(1)       # the interrupt's traceback holds frames, and those what they had just pinned
        for _, buffer in buffers.values():
            buffer += b"released at the end, at the latest"
    assert n > 400


# ---- overflow

@pytest.mark.parametrize("extra", [1, 8, 50])
@pytest.mark.parametrize("refuse", [0, S | D])
def test_overflown_cqes_are_fetched_in_order_and_none_is_lost(extra, refuse, make):
    ring, fake = make(4, refuse=refuse)
    fake.complete(*[(i,) for i in range(8 + extra)])
    assert ring.cq_ready == 8
    assert [cqe.user_data for cqe in ring.reap()] == list(range(8 + extra))
    assert ring.reap() == []


def test_reap_with_a_max_fetches_no_more_than_that_from_the_overflow(make):
    ring, fake = make(4)
    fake.complete(*[(i,) for i in range(20)])
    got = []
    for limit in (3, 7, 1, 0, 5, 99):
        new = ring.reap(limit)
        assert len(new) == min(limit, 20 - len(got))
        got += new
    assert [cqe.user_data for cqe in got] == list(range(20))


def test_peek_cqe_walks_through_the_overflow(make):
    ring, fake = make(2)
    fake.complete(*[(i,) for i in range(9)])
    assert [ring.peek_cqe().user_data for _ in range(9)] == list(range(9))
    assert ring.peek_cqe() is None


def test_wait_cqe_walks_through_the_overflow(make):
    ring, fake = make(2)
    fake.complete(*[(i,) for i in range(9)])
    assert [ring.wait_cqe().user_data for _ in range(9)] == list(range(9))
    with pytest.raises(TimeoutError):
        ring.wait_cqe(0)


def test_reap_ends_when_the_kernel_flags_overflow_and_gives_nothing(make):
    ring, fake = make(2)
    fake.complete(*[(i,) for i in range(5)])
    fake.flush = lambda: None
    assert [cqe.user_data for cqe in ring.reap()] == [0, 1, 2, 3]
    assert ring.reap() == []


# ---- time limits

def test_the_time_limit_goes_to_enter_in_nanoseconds(make):
    ring, fake = make()
    assert ring.submit_and_wait(1, timeout=1.5) == 0
    assert 1.4e9 < fake.timeouts[0] <= 1_500_000_000
    assert fake.enters[0] == (0, 1, abi.IORING_ENTER_GETEVENTS | abi.IORING_ENTER_EXT_ARG)


def test_an_interrupted_wait_goes_on_with_what_is_left_of_its_time(make, monkeypatch):
    ring, fake = make()
    now = [100.0]
    monkeypatch.setattr("pyuring.ring.time.monotonic", lambda: now[0])

    def interrupted_after(seconds):
        def step(*_):
            now[0] += seconds
            return -errno.EINTR
        return step
    fake.script = [interrupted_after(1), interrupted_after(2.5), interrupted_after(5.5), interrupted_after(9)]
    assert ring.submit_and_wait(1, timeout=10) == 0
    assert fake.timeouts == [10 * 10**9, 9 * 10**9, 6_500_000_000, 10**9]


def test_a_wait_that_has_run_out_ends_although_eintr_never_stops(make):
    ring, fake = make()
    fake.enter = lambda *_: -errno.EINTR
    assert ring.submit_and_wait(1, timeout=0.01) == 0


def test_unread_cqes_do_not_hide_that_the_time_ran_out(make):
    """The kernel answers 0, and not ETIME, when CQEs are unread: too few, but the time is up."""
    ring, fake = make()
    fake.complete((1,))
    assert ring.submit_and_wait(2, timeout=0) == 0
    assert ring.cq_ready == 1


def test_wait_cqe_says_how_long_it_waited(make):
    ring, fake = make()
    with pytest.raises(TimeoutError, match="0.25 s") as caught:
        ring.wait_cqe(0.25)
    assert caught.value.errno is None
    assert type(caught.value) is TimeoutError       # ConnectTimeout is for connects


@pytest.mark.parametrize("bad, exception", [(-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
                                            ("1", TypeError), (2**40, ValueError)])
def test_bad_timeouts_are_refused_before_anything_is_submitted(bad, exception, make):
    ring, fake = make()
    ring.prep_nop()
    with pytest.raises(exception, match="timeout"):
        ring.submit_and_wait(1, bad)
    with pytest.raises(exception, match="timeout"):
        ring.wait_cqe(bad)
    assert not fake.enters


@pytest.mark.parametrize("bad, exception", [(-1, ValueError), (17, ValueError), (2**32, ValueError),
                                            ("1", TypeError), (1.0, TypeError), (None, TypeError)])
def test_a_bad_wait_nr_is_refused_before_anything_is_submitted(bad, exception, make):
    ring, fake = make()
    ring.prep_nop()
    with pytest.raises(exception):
        ring.submit_and_wait(bad)
    assert not fake.submitted


@pytest.mark.parametrize("bad, exception", [(-1, ValueError), ("1", TypeError), (1.5, TypeError)])
def test_a_bad_max_is_refused_and_takes_nothing(bad, exception, make):
    ring, fake = make()
    fake.complete(*[(i,) for i in range(3)])
    with pytest.raises(exception):
        ring.reap(bad)
    assert [cqe.user_data for cqe in ring.reap()] == [0, 1, 2]


def test_the_longest_timeout_there_is_can_be_waited_for(make, monkeypatch):
    """Subtracting the clock from the deadline can round to more than was asked for."""
    for now in (0.1, 1.7, 1234.567891, 98765.4321, 3e6 + 1 / 3):
        for features in (FEATURES, FEATURES & ~abi.IORING_FEAT_EXT_ARG):
            ring, fake = make(features=features)
            monkeypatch.setattr("pyuring.ring.time.monotonic", lambda: now)
            fake.script = [lambda *_: fake.complete((1,), (2,))]
            if not features & abi.IORING_FEAT_EXT_ARG:
                fake.complete((1,))             # the epoll instance wakes at once
            assert ring.submit_and_wait(2, timeout=threading.TIMEOUT_MAX) == 0
            assert ring.cq_ready >= 2


# ---- no EXT_ARG (before Linux 5.11)

OLD = FEATURES & ~abi.IORING_FEAT_EXT_ARG


@pytest.mark.parametrize("wait_nr", [1, 3])
def test_without_ext_arg_a_wait_ends_when_enough_has_come(wait_nr, make):
    ring, fake = make(features=OLD, refuse=S | D)
    fake.answer = fake.at_once
    nops(ring, *range(wait_nr))
    assert ring.submit_and_wait(wait_nr, timeout=LONG) == wait_nr
    assert ring.cq_ready == wait_nr
    assert all(not flags & abi.IORING_ENTER_EXT_ARG for _, _, flags in fake.enters)


def test_without_ext_arg_each_completion_wakes_the_wait(make):
    """poll(2) would go on saying "readable"; edge-triggered epoll waits for the next one."""
    ring, fake = make(features=OLD, refuse=S | D)
    ring.prep_nop(user_data=1)

    def complete(*cqes):
        return lambda *_: fake.complete(*cqes)
    fake.script = [complete((1,)), complete((2,)), complete((3,))]
    assert ring.submit_and_wait(3, timeout=LONG) == 1
    assert ring.cq_ready == 3


@pytest.mark.parametrize("ready", [0, 1, 2])
def test_without_ext_arg_the_time_runs_out_all_the_same(ready, make):
    ring, fake = make(features=OLD, refuse=S | D)
    fake.complete(*[(i,) for i in range(ready)])
    assert ring.submit_and_wait(3, timeout=0.01) == 0
    assert len(ring.reap()) == ready
    with pytest.raises(TimeoutError):
        ring.wait_cqe(timeout=0)


def test_without_ext_arg_a_short_submission_ends_the_call(make):
    ring, fake = make(features=OLD, refuse=S | D)
    nops(ring, 1, 2, 3)
    fake.script = [1]
    assert ring.submit_and_wait(1, timeout=LONG) == 1


# ---- what the kernel may still touch

def test_memory_is_kept_from_prep_to_cqe(make):
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1)
    with pytest.raises(BufferError):
        buffer.append(0)                # filled, not submitted: submit() would hand it over
    ring.submit()
    with pytest.raises(BufferError):
        buffer.append(0)
    fake.complete((1, 8))
    with pytest.raises(BufferError):
        buffer.append(0)                # there, not seen
    ring.reap()
    buffer.append(0)


def test_with_a_user_data_used_twice_memory_is_kept_until_both_are_done(make):
    ring, fake = make()
    first, second = bytearray(1), bytearray(1)
    ring.prep_recv(5, first, user_data=1)
    ring.prep_recv(5, second, user_data=1)
    ring.submit()
    fake.complete((1, 1))
    ring.reap()
    for buffer in (first, second):      # nobody can tell which it was
        with pytest.raises(BufferError):
            buffer.append(0)
    fake.complete((1, 1))
    ring.reap()
    first.append(0)
    second.append(0)
    assert not ring._inflight


def test_multishot_keeps_memory_until_the_cqe_without_more(make):
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1, ioprio=abi.IORING_RECV_MULTISHOT)
    ring.submit()
    for _ in range(3):
        fake.complete((1, 8, abi.IORING_CQE_F_MORE))
        assert ring.reap() == [CQE(1, 8, abi.IORING_CQE_F_MORE)]
        with pytest.raises(BufferError):
            buffer.append(0)
    fake.complete((1, 0))
    ring.reap()
    buffer.append(0)


def test_accept_keeps_both_of_its_buffers(make):
    ring, fake = make()
    address, size = bytearray(16), array.array("i", [16])
    ring.prep_accept(5, address, size, user_data=1)
    ring.submit()
    for grow in (lambda: address.append(0), lambda: size.append(0)):
        with pytest.raises(BufferError):
            grow()
    fake.complete((1, 9))
    ring.reap()
    address.append(0)
    size.append(0)


def test_a_cqe_that_nobody_asked_for_is_handed_on(make):
    """As IORING_OP_MSG_RING from another ring posts them."""
    ring, fake = make()
    fake.complete((99, 1, 2))
    assert ring.reap() == [CQE(99, 1, 2)]
    assert not ring._inflight


SKIP = abi.IOSQE_CQE_SKIP_SUCCESS


def test_the_next_of_the_chain_answers_for_one_that_skips_its_cqe(make):
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1, sqe_flags=SKIP | abi.IOSQE_IO_LINK)
    ring.prep_nop(user_data=2)
    ring.submit()
    with pytest.raises(BufferError):
        buffer.append(0)
    fake.complete((2, 0))
    ring.reap()
    buffer.append(0)


def test_nobody_answers_for_one_that_skips_its_cqe_outside_a_chain(make):
    """The NOP's CQE says nothing about the RECV before it."""
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1, sqe_flags=SKIP)
    ring.prep_nop(user_data=2)
    ring.submit()
    fake.complete((2, 0))
    ring.reap()
    with pytest.raises(BufferError):
        buffer.append(0)
    ring.close()
    _orphans.clear()


def test_the_last_of_a_chain_that_skips_is_not_answered_for_by_the_next_chain(make):
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_nop(user_data=1, sqe_flags=abi.IOSQE_IO_LINK)
    ring.prep_recv(5, buffer, user_data=2, sqe_flags=SKIP)
    ring.prep_nop(user_data=3)
    ring.submit()
    fake.complete((1, 0), (3, 0))
    ring.reap()
    with pytest.raises(BufferError):
        buffer.append(0)
    ring.close()
    _orphans.clear()


def test_the_failure_of_one_that_skips_does_not_release_the_memory_of_another(make):
    """Both have user_data 0, the default: the CQE belongs to the CLOSE, and RECV goes on."""
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer)
    ring.prep_close(99, sqe_flags=SKIP)
    ring.submit()
    fake.complete((0, -errno.EBADF))
    ring.reap()
    with pytest.raises(BufferError):
        buffer.append(0)
    fake.complete((0, 8))
    ring.reap()
    ring.close()
    buffer.append(0)


# ---- close

def test_close_cancels_by_user_data_until_there_is_nothing(make):
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1)
    ring.prep_recv(5, buffer, user_data=U64)
    ring.submit()
    cancelled = []

    def answer(sqe):
        if sqe["opcode"] != abi.IORING_OP_ASYNC_CANCEL:
            return []
        target = sqe["addr"]
        if target in cancelled:
            return [(sqe["user_data"], -errno.ENOENT)]
        cancelled.append(target)
        return [(sqe["user_data"], 0), (target, -errno.ECANCELED)]
    fake.answer = answer
    ring.close()
    assert sorted(cancelled) == [1, U64]
    buffer.append(0)
    assert not _orphans


def test_close_drops_what_was_never_submitted(make):
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1, sqe_flags=abi.IOSQE_IO_LINK)
    ring.close()
    assert all(sqe["opcode"] == abi.IORING_OP_ASYNC_CANCEL for sqe in fake.submitted)
    buffer.append(0)


def test_close_gets_through_a_full_sq_and_a_full_cq(make):
    ring, fake = make(2)
    ring.prep_recv(5, bytearray(8), user_data=1)
    ring.submit()
    nops(ring, 2, 3)
    fake.complete(*[(i + 100,) for i in range(9)])
    ring.close()
    assert not _orphans


def test_close_reaps_first_where_the_kernel_takes_nothing_while_the_cq_is_full(make):
    """Linux 5.5 and following: EBUSY while completions wait that the CQ had no room for."""
    ring, fake = make(2)
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1)
    ring.submit()
    fake.complete(*[(i + 100,) for i in range(9)])
    real = fake.enter

    def busy(fd, to_submit, min_complete, flags, *rest):
        return -errno.EBUSY if fake.overflow and to_submit else real(fd, to_submit, min_complete, flags, *rest)
    fake.enter = busy
    ring.close()
    buffer.append(0)


def test_close_keeps_what_it_could_not_cancel(make, monkeypatch):
    monkeypatch.setattr(ring_module, "_CLOSE_PATIENCE", 0.02)
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1)
    ring.submit()
    fake.answer = lambda sqe: [(sqe["user_data"], -errno.EALREADY)]
    ring.close()
    assert ring.closed
    with pytest.raises(BufferError):
        buffer.append(0)
    _orphans.clear()
    gc.collect()
    buffer.append(0)


@pytest.mark.parametrize("answers", [[2, 1], [1, 2]])
def test_close_waits_until_a_whole_round_of_cancels_found_nothing(answers, make):
    """A request that waits in a chain is not found by a cancel, and may still start when the one before it ends. So
    "not found" counts only when nothing else was found either."""
    ring, fake = make()
    buffer = bytearray(8)
    for user_data in answers:
        ring.prep_recv(5, buffer, user_data=user_data)
    ring.submit()
    alive = {1}                 # 2 waits for 1, and starts when that is cancelled

    def answer(sqe):
        target = sqe["addr"]
        if target not in alive:
            return [(sqe["user_data"], -errno.ENOENT)]
        with pytest.raises(BufferError):
            buffer.append(0)
        alive.remove(target)
        if target == 1:
            alive.add(2)
        return [(sqe["user_data"], 0), (target, -errno.ECANCELED)]
    fake.answer = answer
    ring.close()
    assert not alive
    buffer.append(0)


def test_close_with_ctrl_c_in_it_still_closes_and_keeps_the_memory(make):
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1)
    ring.submit()
    fake.script = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        ring.close()
    assert ring.closed
    assert fake.fd == -1
    with pytest.raises(BufferError):
        buffer.append(0)
    _orphans.clear()
    gc.collect()


@pytest.mark.parametrize("code", [errno.EBADFD, errno.EOWNERDEAD])
def test_close_where_the_kernel_takes_nothing_any_more_keeps_the_memory(code, make):
    ring, fake = make()
    buffer = bytearray(8)
    ring.prep_recv(5, buffer, user_data=1)
    ring.submit()
    fake.script = [-code] * 9
    ring.close()
    assert ring.closed
    assert fake.fd == -1
    with pytest.raises(BufferError):
        buffer.append(0)
    _orphans.clear()
    gc.collect()


def test_close_that_is_interrupted_anywhere_can_be_called_again_and_frees_nothing_too_soon(make):
    n, raised, leaks = 0, True, 0
    while raised:
        n += 1
        ring, fake = make()
        buffers = [bytearray(8) for _ in range(2)]
        for user_data, buffer in zip((1, U64), buffers):
            ring.prep_recv(5, buffer, user_data=user_data)
        ring.submit()
        alive = [(sqe["user_data"], sqe["addr"]) for sqe in fake.submitted]

        def answer(sqe):
            for each in alive:
                if each[0] == sqe["addr"]:
                    alive.remove(each)
                    return [(sqe["user_data"], 0), (each[0], -errno.ECANCELED)]
            return [(sqe["user_data"], -errno.ENOENT)]
        fake.answer = answer
        raised = interrupted_at(n, ring.close, ring_module)
        ring.close()
        assert ring.closed
        if fake.fd >= 0:                # between the field's last value and close(2): better than closing twice
            leaks += 1
            fake.close(fake.fd)
        addresses = [address for _, address in alive]
        for buffer in buffers:
            if syscalls.writable(buffer)[0] in addresses:
                with pytest.raises(BufferError):
                    buffer += b"in flight"
        _orphans.clear()
    assert n > 400
    assert leaks < 20


def ring_fds():
    """The fds of this process that are rings."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" in os.readlink(f"/proc/self/fd/{fd}"):
                found.append(int(fd))
        except OSError:         # the one that listed them
            pass
    return found


def test_a_ring_whose_making_is_interrupted_anywhere_leaves_nothing(io_uring):
    assert not ring_fds()
    n, raised = 0, True
    while raised:
        n += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)    # nobody got the ring, to close it
            rings = []
            raised = interrupted_at(n, lambda: rings.append(Ring(1)), ring_module, layout, syscalls)
            rings.clear()
            gc.collect(1)
        assert not ring_fds(), n
    assert n > 500
    with open("/proc/self/maps") as maps:
        assert "io_uring" not in maps.read()


# ---- fences

@pytest.mark.parametrize("refuse, fences", [(0, False), (D, True), (S | D, True)])
def test_a_fence_stands_where_others_post_cqes_and_nowhere_else(refuse, fences, make):
    ring, fake = make(refuse=refuse)
    fake.complete((1,))
    ring.reap()
    assert bool(fake.fences) == fences


def test_fence_can_be_called_from_two_threads_at_once():
    """Each call has a lock of its own: with a shared one, two at once could wait for each other for ever."""
    started = threading.Barrier(2)
    done = []

    def work():
        started.wait()
        for _ in range(20000):
            syscalls.fence()
        done.append(True)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert done == [True, True]


# =================================================================================================== real kernel

MODES = {"default": None, "flags=0": 0}


@pytest.fixture(params=MODES)
def ring(request, io_uring):
    with Ring(8, flags=MODES[request.param]) as ring:
        yield ring


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def known(res, what):
    """Skips where this kernel does not know a flag."""
    if res == -errno.EINVAL:
        pytest.skip(f"Linux {os.uname().release} answers {what} with EINVAL")
    return res


# ---- the queues

def test_one_nop(ring):
    ring.prep_nop(user_data=7)
    assert ring.submit() == 1
    assert ring.wait_cqe(LONG) == CQE(7, 0, 0)
    assert ring.peek_cqe() is None


@pytest.mark.parametrize("user_data", [0, 1, 2**31, 2**32, 2**63 - 1, 2**63, U64 - 1, U64])
def test_every_user_data_is_the_callers(user_data, ring):
    ring.prep_nop(user_data=user_data)
    assert one(ring) == CQE(user_data, 0, 0)


def test_batches_of_nops_come_back_once_each(ring):
    for batch in range(200):
        nops(ring, *range(batch, batch + 8))
        assert ring.submit_and_wait(8) == 8
        assert sorted(cqe.user_data for cqe in ring.reap()) == list(range(batch, batch + 8))


def test_completions_come_in_any_order(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    buffer = bytearray(4)
    ring.prep_recv(pair[0], buffer, user_data=1)
    ring.prep_nop(user_data=2)
    assert one(ring).user_data == 2
    pair[1].send(b"late")
    assert one(ring) == CQE(1, 4, 0)
    assert buffer == b"late"


def test_an_overflowing_cq_loses_nothing(io_uring):
    with Ring(4, cq_entries=4) as ring:
        if not ring.features & abi.IORING_FEAT_NODROP:
            pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_NODROP")
        submitted = 0
        while submitted < 40:
            nops(ring, *range(submitted, submitted + 4))
            submitted += 4
            try:
                ring.submit()
            except OSError as error:            # older kernels take nothing more
                assert error.errno == errno.EBUSY
                break
        got = []
        while len(got) < submitted - ring.sq_ready:
            new = ring.reap()
            assert new
            got += new
        got += collect(ring, submitted - len(got)) if len(got) < submitted else []
        assert [cqe.user_data for cqe in got] == list(range(submitted))


def test_close_with_an_overflown_cq(io_uring, pair):
    buffer = bytearray(4)
    with Ring(4, cq_entries=4) as ring:
        needs(ring, abi.IORING_OP_RECV)
        ring.prep_recv(pair[0], buffer, user_data=99)
        ring.submit()
        for _ in range(3):
            nops(ring, 1, 2, 3, 4)
            try:
                ring.submit()
            except OSError as error:            # older kernels take nothing more
                assert error.errno == errno.EBUSY
                break
    buffer += b"free"


@pytest.mark.parametrize("entries", [1, 2, 3, 4096, 32768])
def test_any_number_of_entries(entries, io_uring):
    with Ring(entries) as ring:
        assert ring.sq_entries >= entries
        assert ring.cq_entries == 2 * ring.sq_entries
        nops(ring, *range(ring.sq_entries))
        assert ring.submit_and_wait(ring.sq_entries) == ring.sq_entries
        assert len(ring.reap()) == ring.sq_entries


@pytest.mark.parametrize("arguments, exception, names", [
    ({"entries": 0}, ValueError, "entries 0"), ({"entries": -1}, ValueError, "entries -1"),
    ({"entries": 32769}, ValueError, "32769"), ({"entries": 2**40}, ValueError, str(2**40)),
    ({"entries": "8"}, TypeError, "'8'"), ({"entries": 8.0}, TypeError, "8.0"),
    ({"entries": None}, TypeError, "None"),
    ({"entries": 8, "cq_entries": 7}, ValueError, "cq_entries 7"),
    ({"entries": 8, "cq_entries": 0}, ValueError, "cq_entries 0"),
    ({"entries": 8, "cq_entries": 65537}, ValueError, "65537"),
    ({"entries": 8, "cq_entries": "16"}, TypeError, "'16'"),
    ({"flags": 1 << 31}, ValueError, hex(1 << 31)), ({"flags": -1}, ValueError, "flags"),
    ({"flags": 1 << 21}, ValueError, "0x200000"), ({"wq_fd": 3}, ValueError, "ATTACH_WQ"),
    ({"memory": (bytearray(1), bytearray(1))}, ValueError, "NO_MMAP"),
    ({"flags": "0"}, TypeError, "'0'"),
])
def test_a_ring_that_cannot_be_is_refused_by_name(arguments, exception, names):
    with pytest.raises(exception) as caught:
        Ring(**arguments)
    assert names in str(caught.value)


def test_entries_are_clamped_where_the_caller_says_so(io_uring):
    try:
        ring = Ring(100_000, flags=abi.IORING_SETUP_CLAMP)
    except OSError as error:
        known(-error.errno, "IORING_SETUP_CLAMP")
        raise
    with ring:
        assert ring.sq_entries == 32768


@pytest.mark.parametrize("free", [0, 1, 2])
def test_without_file_descriptors_left_the_error_says_so(free, io_uring):
    """A ring takes three: its own, and one for each of its two maps."""
    code = f"""
import os, resource
from pyuring import errors
from pyuring.ring import Ring
lowest = os.dup(0)
os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + {free}, lowest + {free}))
before = None
try:
    Ring(8)
except errors.RingUnavailable as error:
    print(error.cause, error.errno)
again = os.open("/dev/null", os.O_RDONLY) if {free} else None       # nothing has been kept
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=Path(__file__).resolve().parent.parent,
                          capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"nofile {errno.EMFILE}\n", "")


# ---- time

@pytest.fixture(params=["EXT_ARG", "no EXT_ARG"])
def either(request, ring):
    """A ring that has its time limits from enter, and one as if before Linux 5.11, which has none."""
    if request.param == "no EXT_ARG":
        if ring.flags & D:
            pytest.skip("DEFER_TASKRUN (6.1) is younger than EXT_ARG (5.11): no kernel has this combination")
        ring.features &= ~abi.IORING_FEAT_EXT_ARG
    elif not ring.features & abi.IORING_FEAT_EXT_ARG:
        pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_EXT_ARG")
    return ring


@pytest.mark.parametrize("timeout", [0, 1e-9, 0.02])
def test_a_wait_ends_when_its_time_is_up(timeout, either):
    began = time.monotonic()
    assert either.submit_and_wait(1, timeout=timeout) == 0
    assert either.cq_ready == 0
    with pytest.raises(TimeoutError, match="timed out"):
        either.wait_cqe(timeout)
    assert time.monotonic() - began >= 2 * timeout      # not before, that is


def test_a_time_limit_is_understood_whatever_lies_on_the_stack(ring):
    """The last argument of enter goes over the stack on x86-64, as eight bytes: all of them must be ours."""
    def deeper(n):
        assert ring.submit_and_wait(1, timeout=0) == 0
        sorted(range(n), key=lambda i: -i)
        if n:
            deeper(n - 1)
    deeper(100)


@pytest.mark.parametrize("wait_nr", [1, 3])
def test_a_wait_with_a_time_limit_ends_when_enough_has_come(wait_nr, either, pair):
    needs(either, abi.IORING_OP_RECV)
    buffers = [bytearray(1) for _ in range(wait_nr)]
    for i, buffer in enumerate(buffers):
        either.prep_recv(pair[0], buffer, user_data=i)
    either.submit()
    sender = threading.Thread(target=lambda: [pair[1].send(b"x") for _ in buffers])
    sender.start()
    assert either.submit_and_wait(wait_nr, timeout=LONG) == 0
    sender.join()
    assert sorted(cqe[:2] for cqe in either.reap()) == [(i, 1) for i in range(wait_nr)]


def test_a_wait_for_three_ends_with_two_when_the_time_is_up(either):
    nops(either, 1, 2)
    assert either.submit_and_wait(3, timeout=0.02) == 2
    assert len(either.reap()) == 2


def test_wait_nr_0_submits_and_does_not_wait(either):
    either.prep_nop(user_data=5)
    assert either.submit_and_wait(0, timeout=LONG) == 1
    assert one(either) == CQE(5, 0, 0)


def test_a_very_long_time_limit_is_accepted(either):
    nops(either, 1)
    either.submit()
    either.prep_timeout(0.01, user_data=2)
    assert either.submit_and_wait(2, timeout=threading.TIMEOUT_MAX) == 1
    assert {cqe.user_data for cqe in either.reap()} == {1, 2}


def test_timeout_fires(ring):
    ring.prep_timeout(0.001, user_data=1)
    assert one(ring) == CQE(1, -errno.ETIME, 0)


def test_timeout_ends_after_so_many_completions(ring):
    ring.prep_timeout(LONG, count=2, user_data=1)
    nops(ring, 2, 3)
    assert results(ring, 3) == {1: 0, 2: 0, 3: 0}


def test_timeout_remove(ring):
    ring.prep_timeout(LONG, user_data=1)
    ring.prep_timeout_remove(1, user_data=2)
    ring.prep_timeout_remove(77, user_data=3)
    assert results(ring, 3) == {1: -errno.ECANCELED, 2: 0, 3: -errno.ENOENT}


def test_timeout_update(ring):
    ring.prep_timeout(LONG, user_data=1)
    ring.prep_timeout_update(0.001, 1, user_data=2)
    got = results(ring, 1)
    known(got.get(2, 0), "IORING_TIMEOUT_UPDATE")
    got.update(results(ring, 1))
    assert got == {1: -errno.ETIME, 2: 0}


def test_timeout_at_a_point_in_time(ring):
    ring.prep_timeout(time.clock_gettime(time.CLOCK_MONOTONIC), flags=abi.IORING_TIMEOUT_ABS, user_data=1)
    assert one(ring) == CQE(1, -errno.ETIME, 0)


def test_link_timeout_that_fires_cancels_the_request(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    ring.prep_recv(pair[0], bytearray(4), user_data=1, sqe_flags=abi.IOSQE_IO_LINK)
    ring.prep_link_timeout(0.001, user_data=2)
    assert results(ring, 2) == {1: -errno.ECANCELED, 2: -errno.ETIME}


def test_link_timeout_goes_when_the_request_is_done(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    buffer = bytearray(4)
    ring.prep_recv(pair[0], buffer, user_data=1, sqe_flags=abi.IOSQE_IO_LINK)
    ring.prep_link_timeout(LONG, user_data=2)
    ring.submit()
    pair[1].send(b"fast")
    assert results(ring, 2) == {1: 4, 2: -errno.ECANCELED}
    assert buffer == b"fast"


# ---- each opcode does its thing

def test_files_are_opened_written_read_and_closed(ring, tmp_path):
    needs(ring, abi.IORING_OP_OPENAT, abi.IORING_OP_READ, abi.IORING_OP_WRITE, abi.IORING_OP_CLOSE)
    name = "b\u00fccher"
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        ring.prep_openat(directory, name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, user_data=1)
        fd = one(ring).res
        assert fd >= 0
        assert not os.get_inheritable(fd)
        ring.prep_write(fd, b"0123456789", user_data=2)
        assert one(ring).res == 10
        ring.prep_write(fd, memoryview(b"xABCx")[1:], 3, 4, user_data=3)
        assert one(ring).res == 3
        buffer = bytearray(16)
        ring.prep_read(fd, buffer, user_data=4)             # the file's own position: at its end
        assert one(ring).res == 0
        ring.prep_read(fd, memoryview(buffer)[1:], 9, 2, user_data=5)
        assert one(ring).res == 8
        assert bytes(buffer) == b"\0" + b"23ABC789" + bytes(7)
        ring.prep_close(fd, user_data=6)
        assert one(ring).res == 0
        ring.prep_close(fd, user_data=7)
        assert one(ring).res == -errno.EBADF
    finally:
        os.close(directory)
    assert (tmp_path / name).read_bytes() == b"0123ABC789"
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_openat_of_what_is_not_there_is_enoent(ring, tmp_path):
    needs(ring, abi.IORING_OP_OPENAT)
    ring.prep_openat(-100, tmp_path / "nothing", os.O_RDONLY)
    assert one(ring).res == -errno.ENOENT


def test_pipes(ring, pipe):
    needs(ring, abi.IORING_OP_READ, abi.IORING_OP_WRITE)
    reader, writer = pipe
    buffer = bytearray(8)
    ring.prep_read(reader, buffer, user_data=1)
    ring.submit()
    ring.prep_write(writer, b"through", user_data=2)
    assert results(ring, 2) == {1: 7, 2: 7}
    assert buffer == b"through\0"


def test_a_connection_from_socket_to_shutdown(ring):
    """Both ends over the ring: socket, connect, accept, send, recv, shutdown, close."""
    needs(ring, abi.IORING_OP_SOCKET, abi.IORING_OP_SHUTDOWN)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ring.prep_socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, user_data=1)
        client = one(ring).res
        assert client >= 0
        assert not os.get_inheritable(client)
        peer, size = bytearray(128), array.array("i", [128])
        ring.prep_accept(listener, peer, size, user_data=2)
        ring.prep_connect(client, listener.getsockname(), user_data=3)
        got = results(ring, 2)
        assert got[3] == 0
        server = got[2]
        assert server >= 0
        assert not os.get_inheritable(server)
        assert size[0] == 16
        with socket.socket(fileno=os.dup(client)) as same:
            assert unpack(peer[:size[0]]) == same.getsockname()
        buffer = bytearray(16)
        ring.prep_recv(server, buffer, user_data=4)
        ring.prep_send(client, b"hello", user_data=5)
        assert results(ring, 2) == {4: 5, 5: 5}
        assert buffer[:5] == b"hello"
        ring.prep_shutdown(client, socket.SHUT_WR, user_data=6)
        assert one(ring).res == 0
        ring.prep_recv(server, buffer, user_data=7)
        assert one(ring).res == 0
        ring.prep_close(client, user_data=8)
        ring.prep_close(server, user_data=9)
        assert results(ring, 2) == {8: 0, 9: 0}


def test_accept_multishot(ring, listener):
    ring.prep_accept(listener, ioprio=abi.IORING_ACCEPT_MULTISHOT, user_data=1)
    ring.submit()
    with socket.create_connection(listener.getsockname()), socket.create_connection(listener.getsockname()):
        for _ in range(2):
            cqe = one(ring)
            known(cqe.res, "IORING_ACCEPT_MULTISHOT")
            assert cqe.flags & abi.IORING_CQE_F_MORE
            os.close(cqe.res)
        assert ring._inflight == {1: 1}
        ring.prep_cancel(1, user_data=2)
        assert results(ring, 2) == {1: -errno.ECANCELED, 2: 0}
    assert not ring._inflight


def test_connect_that_is_refused(ring, refused):
    with socket.socket() as sock:
        ring.prep_connect(sock, refused)
        assert one(ring).res == -errno.ECONNREFUSED


def test_connect_to_unix_sockets(ring, tmp_path):
    for address in (str(tmp_path / "s"), b"\0pyuring test " + os.urandom(8)):
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(address)
            server.listen()
            ring.prep_connect(client, address)
            assert one(ring).res == 0
            ring.prep_accept(server)
            res = one(ring).res
            assert res >= 0
            os.close(res)


def test_poll_add(ring, pair):
    ring.prep_poll_add(pair[0], select.POLLIN, user_data=1)
    ring.prep_poll_add(pair[0], select.POLLOUT, user_data=2)
    assert one(ring) == CQE(2, select.POLLOUT, 0)
    pair[1].send(b"x")
    user_data, res, flags = one(ring)
    assert (user_data, flags) == (1, 0)
    assert res & select.POLLIN          # 5.10.46 tells all that the waker said, asked for or not


def test_poll_remove(ring, pair):
    ring.prep_poll_add(pair[0], select.POLLIN, user_data=1)
    ring.submit()
    ring.prep_poll_remove(1, user_data=2)
    assert results(ring, 2) == {1: -errno.ECANCELED, 2: 0}
    ring.prep_poll_remove(1, user_data=3)
    assert one(ring).res == -errno.ENOENT


def test_poll_multishot_goes_on_until_it_is_removed(ring, pair):
    ring.prep_poll_multishot(pair[0], select.POLLIN, user_data=1)
    ring.submit()
    for _ in range(3):
        pair[1].send(b"x")
        cqe = one(ring)
        known(cqe.res, "IORING_POLL_ADD_MULTI")
        assert cqe == CQE(1, select.POLLIN, abi.IORING_CQE_F_MORE)
        pair[0].recv(9)
    assert ring._inflight == {1: 1}
    ring.prep_poll_remove(1, user_data=2)
    assert results(ring, 2) == {1: -errno.ECANCELED, 2: 0}
    assert not ring._inflight


def test_poll_update_changes_the_events(ring, pair):
    ring.prep_poll_add(pair[0], select.POLLIN, user_data=1)
    ring.submit()
    ring.prep_poll_update(1, 0, select.POLLOUT, abi.IORING_POLL_UPDATE_EVENTS, user_data=2)
    got = results(ring, 1)
    assert known(got.get(2, 0), "IORING_POLL_UPDATE_EVENTS") == 0
    if 1 not in got:            # both may have come at once
        got.update(polled_unless_lost(ring))
    elif 2 not in got:
        got.update(results(ring, 1))
    assert got == {1: select.POLLOUT, 2: 0}


def polled_unless_lost(ring):
    """The completion of poll 1, which fires as poll_update 2 arms it anew. Skips where the kernel lost it.

    5.10.218 and 6.16.12 say that the update went well, post nothing for the poll, and no longer know it
    either; 5.10.262, 6.12.117, 6.18.44 and 7.2.13 post it (measured on each). So whether it can still come
    needs no wait: poll_remove finds none, and two more turns through the kernel posted only their own.
    """
    got = {}
    ring.prep_poll_remove(1, user_data=3)
    while 3 not in got:
        got.update(results(ring, 1))
    ring.prep_nop(user_data=4)
    while 4 not in got:
        got.update(results(ring, 1))
    posted = ring._cq[ring._cq_tail]
    if got == {3: -errno.ENOENT, 4: 0} and posted == 3 and not ring.cq_ready:      # 2, 3 and 4: all were read
        pytest.skip(f"Linux {os.uname().release} loses a poll that fires as it is updated")
    assert got.pop(3) == -errno.ENOENT and got.pop(4) == 0
    return got


def test_poll_update_changes_the_user_data(ring, pair):
    ring.prep_poll_add(pair[0], select.POLLIN, user_data=1)
    ring.submit()
    ring.prep_poll_update(1, U64, 0, abi.IORING_POLL_UPDATE_USER_DATA, user_data=2)
    assert known(one(ring).res, "IORING_POLL_UPDATE_USER_DATA") == 0
    pair[1].send(b"x")
    assert one(ring) == CQE(U64, select.POLLIN, 0)


def test_cancel_by_user_data(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    ring.prep_recv(pair[0], bytearray(1), user_data=U64)
    ring.submit()
    ring.prep_cancel(U64, user_data=2)
    assert results(ring, 2) == {U64: -errno.ECANCELED, 2: 0}
    ring.prep_cancel64(U64, user_data=3)
    assert one(ring).res == -errno.ENOENT


def test_cancel_all_with_the_same_user_data(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    for _ in range(3):
        ring.prep_recv(pair[0], bytearray(1), user_data=1)
    ring.submit()
    ring.prep_cancel(1, abi.IORING_ASYNC_CANCEL_ALL, user_data=2)
    got = collect(ring, 1)
    if got[0].user_data == 2:
        known(got[0].res, "IORING_ASYNC_CANCEL_ALL")
    got += collect(ring, 3)
    assert sorted(got) == [CQE(1, -errno.ECANCELED, 0)] * 3 + [CQE(2, 3, 0)]
    assert not ring._inflight


@pytest.mark.parametrize("flags, cancelled", [(0, 1), (abi.IORING_ASYNC_CANCEL_ALL, 2)])
def test_cancel_by_fd(flags, cancelled, ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    ring.prep_recv(pair[0], bytearray(1), user_data=1)
    ring.prep_recv(pair[0], bytearray(1), user_data=2)
    ring.prep_recv(pair[1], bytearray(1), user_data=3)
    ring.submit()
    ring.prep_cancel_fd(pair[0], flags, user_data=4)
    got = {cqe.user_data: cqe.res for cqe in [one(ring)]}
    known(got.get(4, 0), "IORING_ASYNC_CANCEL_FD")
    got.update(results(ring, cancelled))
    assert got.pop(4) == (cancelled if flags else 0)
    assert list(got.values()) == [-errno.ECANCELED] * cancelled
    assert 3 not in got


def test_register_probe_has_what_is_used(ring):
    have = ring.register_probe()
    assert {abi.IORING_OP_NOP, abi.IORING_OP_CONNECT} <= have
    assert all(type(op) is int for op in have)


def test_register_eventfd_wakes(ring, pair):
    if not hasattr(os, "eventfd"):
        pytest.skip("os.eventfd() came with Python 3.10")
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        ring.register_eventfd(event)
        ring.prep_poll_add(pair[0], select.POLLIN, user_data=1)
        ring.submit()
        assert select.select([event], [], [], 0)[0] == []
        pair[1].send(b"x")
        assert select.select([event], [], [], LONG)[0] == [event]
        os.eventfd_read(event)
        assert [cqe.user_data for cqe in ring.reap()] == [1]
        ring.unregister_eventfd()
        with pytest.raises(OSError) as caught:
            ring.unregister_eventfd()
        assert caught.value.errno == errno.ENXIO
    finally:
        os.close(event)


@pytest.mark.parametrize("fd, exception", [(-5, OSError), (2**31, (ValueError, OverflowError)), ("3", TypeError)])
def test_register_eventfd_refuses_what_is_none(fd, exception, ring):
    with pytest.raises(exception):
        ring.register_eventfd(fd)


# ---- memory in flight

class Weak(bytearray):
    """A bytearray whose end can be seen."""


def churn():
    """Uses memory that has been freed for something else."""
    gc.collect()
    return [bytearray(os.urandom(256)) for _ in range(500)]


def test_memory_that_the_caller_drops_is_kept_until_the_cqe(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    buffer = Weak(256)
    ring.prep_recv(pair[0], buffer, user_data=1)
    ring.submit()
    watch = weakref.ref(buffer)
    del buffer
    churn()
    assert watch() is not None
    pair[1].send(bytes(range(256)))
    ring.submit_and_wait(1, timeout=LONG)
    assert bytes(watch()) == bytes(range(256))
    assert ring.reap() == [CQE(1, 256, 0)]
    gc.collect()
    assert watch() is None


def test_what_is_written_late_is_still_what_was_given(ring, pipe):
    """A full pipe: the write waits, while the bytes have no other owner than the ring."""
    needs(ring, abi.IORING_OP_WRITE)
    reader, writer = pipe
    os.set_blocking(writer, False)
    filled = 0
    try:
        while True:
            filled += os.write(writer, bytes(4096))
    except BlockingIOError:
        pass
    os.set_blocking(writer, True)
    seed = random.randrange(2**32)
    print("seed", seed)
    ring.prep_write(writer, random.Random(seed).getrandbits(8 * 4096).to_bytes(4096, "big"), user_data=1)
    ring.submit()
    keep = churn()
    while filled:
        filled -= len(os.read(reader, min(filled, 65536)))
    assert one(ring) == CQE(1, 4096, 0)
    assert os.read(reader, 4096) == random.Random(seed).getrandbits(8 * 4096).to_bytes(4096, "big")
    del keep


def test_a_bytearray_in_flight_cannot_be_resized(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    buffer = bytearray(4)
    ring.prep_recv(pair[0], buffer)
    ring.submit()
    for resize in (lambda: buffer.append(0), buffer.pop, buffer.clear, lambda: buffer.extend(b"x" * 9999)):
        with pytest.raises(BufferError):
            resize()
    pair[1].send(b"fine")
    assert one(ring).res == 4
    assert buffer == b"fine"
    buffer.extend(b"x" * 9999)


def test_addresses_paths_and_times_may_go_as_soon_as_they_are_given(ring, listener, tmp_path):
    needs(ring, abi.IORING_OP_OPENAT)
    with socket.socket() as sock:
        for _ in range(3):
            ring.prep_connect(sock, tuple(listener.getsockname()), user_data=1)
            ring.prep_openat(-100, str(tmp_path / ("x" * 100)), os.O_RDONLY, user_data=2)
            ring.prep_timeout(0.001, user_data=3)
            churn()
            got = results(ring, 3)
            assert got.pop(1) in (0, -errno.EISCONN)
            assert got == {2: -errno.ENOENT, 3: -errno.ETIME}
    assert not ring._keepers


def test_cqe_skip_success(ring, pair):
    needs(ring, abi.IORING_OP_SEND)
    if not ring.features & abi.IORING_FEAT_CQE_SKIP:
        pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_CQE_SKIP")
    ring.prep_send(pair[0], bytearray(b"quiet"), user_data=1, sqe_flags=SKIP | abi.IOSQE_IO_LINK)
    ring.prep_nop(user_data=2)
    assert ring.submit_and_wait(1) == 2
    assert ring.reap() == [CQE(2, 0, 0)]
    assert pair[1].recv(9) == b"quiet"
    ring.prep_shutdown(-1 & 0x7FFFFFFF, socket.SHUT_RD, user_data=3, sqe_flags=SKIP)
    assert one(ring) == CQE(3, -errno.EBADF, 0)


def test_memory_of_a_request_that_skips_its_cqe_stays_until_close(io_uring, pair):
    with Ring(8) as ring:
        if not ring.features & abi.IORING_FEAT_CQE_SKIP:
            pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_CQE_SKIP")
        buffer = bytearray(8)
        ring.prep_recv(pair[0], buffer, user_data=1, sqe_flags=SKIP)
        ring.prep_nop(user_data=2)
        assert one(ring).user_data == 2
        with pytest.raises(BufferError):
            buffer.append(0)
    buffer.append(0)        # close() has cancelled it


# ---- the end

def test_close_cancels_what_is_in_flight_and_comes_back(ring, pair, pipe, listener):
    needs(ring, abi.IORING_OP_RECV, abi.IORING_OP_READ)
    buffer = bytearray(4)
    ring.prep_recv(pair[0], buffer, user_data=1)
    ring.prep_read(pipe[0], buffer, user_data=2)
    ring.prep_accept(listener, buffer, user_data=3)
    ring.prep_timeout(3600, user_data=4)
    ring.prep_poll_add(pair[1], select.POLLIN, user_data=U64)
    ring.prep_poll_add(pair[1], select.POLLIN, user_data=U64)
    ring.prep_read(pipe[0], buffer, user_data=5, sqe_flags=abi.IOSQE_ASYNC)
    ring.submit()
    began = time.monotonic()
    ring.close()
    assert time.monotonic() - began < ring_module._CLOSE_PATIENCE, "it waited for something that never came"
    buffer += b"all done"
    pair[1].send(b"late")
    os.write(pipe[1], b"late")
    assert buffer == b"\0\0\0\0all done"
    ring.close()
    assert ring.closed
    assert ring.fd == -1
    assert repr(ring) == "<pyuring.Ring closed>"


def test_close_ends_a_chain_that_has_not_begun(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    buffer = bytearray(4)
    ring.prep_recv(pair[0], buffer, user_data=1, sqe_flags=abi.IOSQE_IO_HARDLINK)
    ring.prep_recv(pair[0], buffer, user_data=2, sqe_flags=abi.IOSQE_IO_HARDLINK)
    ring.prep_recv(pair[1], buffer, user_data=3)
    ring.submit()
    ring.close()
    buffer += b"free"


def test_close_keeps_memory_where_a_drain_holds_its_cancels_back(io_uring, pair, monkeypatch):
    """All requests behind an IOSQE_IO_DRAIN wait for those before it; so do the cancels."""
    monkeypatch.setattr(ring_module, "_CLOSE_PATIENCE", 0.05)
    buffer = bytearray(4)
    with Ring(8) as ring:
        needs(ring, abi.IORING_OP_RECV)
        ring.prep_recv(pair[0], buffer, user_data=1)
        ring.prep_recv(pair[0], buffer, user_data=2, sqe_flags=abi.IOSQE_IO_DRAIN)
        ring.submit()
    with pytest.raises(BufferError):
        buffer += b"grow"
    _orphans.clear()


@pytest.mark.parametrize("use", [
    lambda ring: ring.prep_nop(), lambda ring: ring.submit(), lambda ring: ring.submit_and_wait(1),
    lambda ring: ring.submit_and_get_events(), lambda ring: ring.peek_cqe(), lambda ring: ring.wait_cqe(0),
    lambda ring: ring.wait_cqe(), lambda ring: ring.reap(), lambda ring: ring.sq_ready,
    lambda ring: ring.sq_space_left, lambda ring: ring.cq_ready, lambda ring: ring.register_probe(),
    lambda ring: ring.prep_recv(0, bytearray(1)), lambda ring: ring.register_eventfd(0),
    lambda ring: ring.unregister_eventfd(),
])
def test_a_closed_ring_says_so(use, ring):
    ring.close()
    with pytest.raises(ValueError, match="closed"):
        use(ring)


def test_close_without_anything_in_flight_asks_the_kernel_nothing(make):
    ring, fake = make()
    ring.close()
    assert not fake.enters


@pytest.mark.parametrize("strict", [False, True])
def test_a_ring_that_was_not_closed_warns_and_is_closed(strict, io_uring, pair, monkeypatch):
    """Also with -W error, where the warning is an exception (that __del__ can't raise)."""
    buffer = bytearray(4)
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: caught.append(type(args.exc_value)))
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("error" if strict else "always")
        ring = Ring(8)
        ring.prep_recv(pair[0], buffer)
        ring.submit()
        fd = ring.fd
        del ring
        gc.collect()
    if strict:
        assert caught == [ResourceWarning]
    else:
        assert [warning.category for warning in record] == [ResourceWarning]
        assert f"fd={fd}" in str(record[0].message)
    with pytest.raises(OSError):
        os.fstat(fd)
    buffer += b"free"


def test_a_ring_that_was_refused_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError):
            Ring(0)
        Ring.__new__(Ring).__del__()
        gc.collect()


# ---- threads and forks

def in_thread(function):
    """What function raised in another thread, None for nothing."""
    outcome = []

    def run():
        try:
            function()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LONG)
    assert outcome, "the thread never came back"
    return outcome[0]


@pytest.mark.parametrize("use", [
    lambda ring: ring.prep_nop(), lambda ring: ring.submit(), lambda ring: ring.submit_and_wait(0),
    lambda ring: ring.reap(), lambda ring: ring.peek_cqe(), lambda ring: ring.wait_cqe(0),
    lambda ring: ring.register_probe(),
])
def test_another_thread_is_told_off_and_changes_nothing(use, io_uring):
    with Ring(8) as ring:
        if not ring.flags & S:
            pytest.skip(f"Linux {os.uname().release} has no IORING_SETUP_SINGLE_ISSUER")
        ring.prep_nop(user_data=1)
        error = in_thread(lambda: use(ring))
        assert isinstance(error, ValueError)
        assert "thread" in str(error)
        assert ring.sq_ready == 1
        assert collect(ring, 1) == [CQE(1, 0, 0)]


def test_with_flags_0_another_thread_may_take_over(io_uring):
    with Ring(8, flags=0) as ring:
        ring.prep_nop(user_data=1)

        def other():
            assert collect(ring, 1) == [CQE(1, 0, 0)]
        assert in_thread(other) is None


def test_closing_from_another_thread_keeps_the_memory(io_uring, pair):
    ring = Ring(8)
    if not ring.flags & S:
        ring.close()
        pytest.skip(f"Linux {os.uname().release} has no IORING_SETUP_SINGLE_ISSUER")
    buffer = bytearray(4)
    ring.prep_recv(pair[0], buffer)
    ring.submit()
    assert in_thread(ring.close) is None
    assert ring.closed
    with pytest.raises(BufferError):
        buffer.append(0)
    _orphans.clear()
    gc.collect()


def test_closing_from_a_thread_with_the_number_of_the_owner_that_ended(io_uring, pair):
    """Threads' numbers are used again: the kernel knows better, and says EEXIST."""
    rings = []

    def owner():
        rings.append(Ring(8))
        rings[0].prep_recv(pair[0], bytearray(4))
        rings[0].submit()
    assert in_thread(owner) is None

    def heir():
        rings[0]._owner = threading.get_ident()         # as it often is anyway
        rings[0].close()
    assert in_thread(heir) is None
    assert rings[0].closed
    _orphans.clear()


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


def test_a_forked_child_has_no_ring_and_the_parents_is_unharmed(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    buffer = bytearray(4)
    ring.prep_recv(pair[0], buffer, user_data=1)
    ring.submit()
    ring.prep_nop(user_data=2)

    def child():
        for use in (lambda: ring.prep_nop(), lambda: ring.submit(), lambda: ring.reap(), lambda: ring.sq_ready,
                    lambda: ring.register_probe()):
            try:
                use()
            except ValueError as error:
                if "parent process" not in str(error):
                    return False
            else:
                return False
        ring.close()
        with Ring(4) as own:
            own.prep_nop(user_data=9)
            return own.submit() == 1 and own.wait_cqe(LONG) == CQE(9, 0, 0) and ring.closed
    assert in_child(child) == 0
    assert not ring.closed
    assert ring.sq_ready == 1
    assert one(ring) == CQE(2, 0, 0)
    pair[1].send(b"safe")
    assert one(ring) == CQE(1, 4, 0)
    assert buffer == b"safe"


def test_a_child_holds_nothing_of_the_ring(ring):

    def child():
        with open("/proc/self/maps") as maps:
            mapped = "io_uring" in maps.read()
        return not mapped and not ring_fds()
    assert in_child(child) == 0


# ---- signals

class Interrupt(Exception):
    pass


@contextlib.contextmanager
def alarms(handler, seconds=0.01):
    """SIGALRM every so often while this lasts."""
    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def once(armed):
    """A handler that raises if there is something in `armed`, and takes it out: so it can't raise where nobody
    catches."""
    def handler(signum, frame):
        if armed:
            armed.clear()
            raise Interrupt
    return handler


@pytest.mark.parametrize("timeout", [None, LONG])
def test_a_handler_that_raises_ends_the_wait_and_leaves_a_ring_that_works(timeout, either, pair):
    needs(either, abi.IORING_OP_RECV)
    buffer = bytearray(4)
    either.prep_recv(pair[0], buffer, user_data=1)
    armed = [True]
    with pytest.raises(Interrupt):
        with alarms(once(armed)):
            either.submit_and_wait(1, timeout)
    assert either.sq_ready == 0
    pair[1].send(b"more")
    assert one(either)[:2] == (1, 4)        # 6.1 may add IORING_CQE_F_SOCK_NONEMPTY
    assert buffer == b"more"
    nops(either, 2, 3)
    assert sorted(results(either, 2)) == [2, 3]


@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.parametrize("wait_nr", [1, 2])
def test_a_handler_that_returns_lets_the_wait_go_on(timeout, wait_nr, either, pair):
    """The third signal sends what the wait is for; with wait_nr 2 a CQE lies unread all the time."""
    needs(either, abi.IORING_OP_RECV)
    either.prep_recv(pair[0], bytearray(4), user_data=1)
    if wait_nr == 2:
        nops(either, 2)
    ticks = []

    def handler(signum, frame):
        ticks.append(either.cq_ready)
        if len(ticks) == 3:
            pair[1].send(b"done")
    with alarms(handler):
        assert either.submit_and_wait(wait_nr, timeout) == wait_nr
    assert len(ticks) >= 3
    assert either.cq_ready == wait_nr


def test_a_time_limit_holds_through_signals(either):
    ticks = []
    with alarms(lambda *_: ticks.append(1)):
        with pytest.raises(TimeoutError):
            either.wait_cqe(0.05)
    assert ticks


def test_signals_in_any_moment_of_submit_and_wait_lose_nothing(ring):
    """A handler that raises again and again, wherever it meets us. What was made comes back exactly once."""
    armed, made, got = [], 0, []
    with alarms(once(armed), 0.001):
        for _ in range(100):
            for _ in range(ring.sq_space_left):
                ring.prep_nop(user_data=made)
                made += 1
            try:
                armed.append(True)
                while True:
                    ring.submit_and_wait(1, timeout=0.0002)
            except Interrupt:
                pass
            got += ring.reap()
    got += collect(ring, made - len(got))
    assert sorted(cqe.user_data for cqe in got) == list(range(made))
