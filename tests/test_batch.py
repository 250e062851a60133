"""pyuring/batch.py: requests that are filled in once, pushed at once, and counted."""
import errno
import gc
import os
import socket
import struct

import pytest
from fakekernel import FakeKernel
from onkernel import LONG, needs, results

from pyuring import Batch, errors
from pyuring.abi import (
    IORING_CQE_F_MORE, IORING_OP_MSG_RING, IORING_SETUP_CQE32, IORING_SETUP_SQE128, IORING_SETUP_SQPOLL,
    IOSQE_CQE_SKIP_SUCCESS, IOSQE_IO_LINK,
)
from pyuring.ring import Ring, _orphans


@pytest.fixture
def make(monkeypatch):
    """make(entries, kernel arguments) -> (ring, fake)"""
    rings = []

    def make(entries=8, **arguments):
        fake = FakeKernel(**arguments)
        fake.install(monkeypatch)
        ring = Ring(entries)
        rings.append((ring, fake))
        return ring, fake

    yield make
    for ring, fake in rings:
        fake.install(monkeypatch)
        ring.close()


def nops(*user_data):
    batch = Batch()
    for each in user_data:
        batch.prep_nop(user_data=each)
    return batch


# -- what is submitted ------------------------------------------------------------------------------------
@pytest.mark.parametrize("sq_start", [0, 5, 2**32 - 3])
def test_a_batch_submits_what_prep_on_the_ring_would(make, sq_start):
    """Round the array's corner, and where the counters wrap."""
    data, buffer = b"data", bytearray(16)

    def fill(target):
        target.prep_write(4, data, 4, 99, user_data=1, sqe_flags=IOSQE_IO_LINK)
        target.prep_read(5, buffer, 8, user_data=2**64 - 1, ioprio=3, personality=4)
        target.prep_nop(user_data=3)
        target.prep_accept(6, flags=0, user_data=4)
        target.prep_poll_add(7, 1, user_data=5)
    ring, fake = make(8, sq_start=sq_start)
    batch = Batch()
    fill(batch)
    assert len(batch) == 5
    ring.push(batch)
    assert ring.sq_ready == 5 and not fake.enters
    assert ring.submit() == 5
    of_batch = fake.submitted[:]
    other, fake = make(8, sq_start=sq_start)
    fill(other)
    other.submit()
    assert of_batch == fake.submitted
    fake.complete((1,), (2**64 - 1,), (3,), (4,), (5,))
    other.reap()


def test_a_batch_without_room_is_not_pushed_in_part(make):
    ring, fake = make(4)
    ring.prep_nop(user_data=9)
    with pytest.raises(errors.SubmissionQueueFull, match="4 requests, and 3 of 4"):
        ring.push(nops(1, 2, 3, 4))
    assert ring.sq_ready == 1
    fake.answer = fake.at_once
    ring.submit_and_wait(1)
    assert ring.reap_raw() == [(9, 0, 0)]
    ring.push(nops(1, 2, 3, 4))
    ring.submit_and_wait(4)
    assert len(ring.reap()) == 4


def test_bad_fields_are_named_and_leave_the_batch_as_it_was():
    batch = nops(1)
    with pytest.raises(ValueError, match="user_data -1"):
        batch.prep_nop(user_data=-1)
    with pytest.raises(ValueError, match="counts"):
        batch.prep_nop(sqe_flags=IOSQE_CQE_SKIP_SUCCESS)
    with pytest.raises(ValueError, match="64 bytes"):
        batch._sqe128(63, -1)
    assert len(batch) == 1


@pytest.mark.parametrize("flags", [IORING_SETUP_SQE128, IORING_SETUP_CQE32])
def test_rings_with_larger_entries_take_no_batches(flags, io_uring):
    try:
        ring = Ring(8, flags=flags)
    except OSError as error:
        assert error.errno == errno.EINVAL
        pytest.skip(f"{error} (Linux 5.19)")
    with ring, pytest.raises(ValueError, match="64 and CQEs of 16"):
        ring.push(nops(1))


# -- what comes back --------------------------------------------------------------------------------------
def test_completions_are_plain_tuples_in_their_order(io_uring):
    with Ring(32) as ring:
        batch = nops(*range(32))
        for _ in range(100):
            assert ring.run(batch) == [(i, 0, 0) for i in range(32)]
        assert type(ring.run(batch)[0]) is tuple


def test_reap_raw_fetches_what_overflowed(make):
    ring, fake = make(4, cq_start=2**32 - 5)
    fake.answer = fake.at_once
    for _ in range(4):
        ring.push(nops(*range(4)))
        ring.submit()
    assert fake.overflow
    assert [cqe[0] for cqe in ring.reap_raw()] == [*range(4)] * 4


def test_a_batch_is_held_until_its_last_completion(io_uring):
    """Dropped by the caller while it is in flight: the kernel writes to memory that is still there."""
    here, there = socket.socketpair()
    with here, there, Ring(8) as ring:
        batch = Batch()
        buffers = [bytearray(4) for _ in range(4)]
        for i, buffer in enumerate(buffers):
            batch.prep_recv(here, buffer, user_data=i)
        ring.push(batch)
        ring.submit()
        del batch, buffer
        gc.collect()
        for buffer in buffers:
            with pytest.raises(BufferError):
                buffer.append(1)
        there.send(b"0000111122223333")
        ring.submit_and_wait(4)
        assert len(ring.reap_raw()) == 4
        assert sorted(map(bytes, buffers)) == [b"0000", b"1111", b"2222", b"3333"]
        ring.run(nops(7))                   # another one, and the ring lets go of the first
        gc.collect()
        for buffer in buffers:
            buffer.append(1)


@pytest.mark.parametrize("reap", ["reap", "reap_raw"])
def test_multishot_requests_count_once(make, reap):
    ring, fake = make(8)
    batch = Batch()
    batch.prep_poll_multishot(3, 1, user_data=1)
    batch.prep_nop(user_data=2)
    ring.push(batch)
    ring.submit()
    fake.complete((1, 1, IORING_CQE_F_MORE), (1, 1, IORING_CQE_F_MORE), (2, 0, 0))
    assert len(getattr(ring, reap)()) == 3
    assert ring._bulk == 1
    fake.complete((1, -errno.ECANCELED, 0))
    getattr(ring, reap)()
    assert ring._bulk == 0


def test_single_requests_beside_a_batch_are_accounted_for(io_uring):
    here, there = socket.socketpair()
    with here, there, Ring(8) as ring:
        buffer = bytearray(4)
        ring.prep_recv(here, buffer, user_data=100)
        ring.submit()
        assert ring.run(nops(1, 2)) == [(1, 0, 0), (2, 0, 0)]
        with pytest.raises(BufferError):
            buffer.append(1)
        there.send(b"four")
        ring.submit_and_wait(1)
        assert ring.reap_raw() == [(100, 4, 0)]
        buffer.append(1)


def test_one_user_data_for_two_things_is_refused(make):
    """Only user_data tells whose a completion is, and with it what may be let go of."""
    ring, fake = make(8)
    ring.prep_nop(user_data=5)
    with pytest.raises(ValueError, match="user_data 5 is in use"):
        ring.push(nops(4, 5))
    assert ring.sq_ready == 1
    ring.push(nops(6, 7))
    with pytest.raises(ValueError, match="user_data 7 is in use"):
        ring.prep_nop(user_data=7)
    ring.submit()
    fake.complete((5,), (6,), (7,))
    ring.reap_raw()
    ring.prep_nop(user_data=7)
    ring.submit()
    fake.complete((7,))
    ring.reap_raw()
    assert not ring._bulk and not ring._inflight


def test_the_same_batch_many_times_in_flight(io_uring):
    with Ring(64) as ring:
        batch = nops(1, 2, 3)
        for _ in range(10):
            ring.push(batch)
        ring.submit_and_wait(30)
        assert len(ring.reap_raw()) == 30
        assert ring._bulk == 0


def test_close_cancels_a_batch_and_waits(io_uring):
    here, there = socket.socketpair()
    with here, there:
        buffer = bytearray(4)
        batch = Batch()
        batch.prep_recv(here, buffer, user_data=1)
        with Ring(8) as ring:
            ring.push(batch)
            ring.submit()
        del batch
        assert not _orphans
        there.send(b"late")
        assert buffer == bytes(4)
        buffer.append(1)


# -- patching ---------------------------------------------------------------------------------------------
def test_offsets_move_on(io_uring, tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(struct.pack("=1024I", *range(1024)))
    buffers = [bytearray(4) for _ in range(8)]
    with open(path, "rb") as file, Ring(8) as ring:
        batch = Batch()
        for i, buffer in enumerate(buffers):
            batch.prep_read(file, buffer, 4, 4 * i, user_data=i)
        offsets = batch.offsets
        assert offsets.tolist() == [4 * i for i in range(8)]
        for start in range(0, 1024, 8):
            for i in range(8):
                offsets[i] = 4 * (start + i)
            assert all(res == 4 for _, res, _ in ring.run(batch))
            assert [int.from_bytes(b, "little" if struct.pack("=H", 1) == b"\1\0" else "big") for b in buffers] \
                == list(range(start, start + 8))
        with pytest.raises(ValueError, match="complete"):
            batch.prep_nop()


def test_file_descriptors_can_be_changed(io_uring):
    with Ring(8) as ring:
        one, other = os.pipe(), os.pipe()
        try:
            batch, buffer = Batch(), bytearray(1)
            batch.prep_read(one[0], buffer, user_data=1)
            fds = batch.fds
            for pipe in one, other:
                fds[0] = pipe[0]
                os.write(pipe[1], b"%d" % pipe[0])
                assert ring.run(batch) == [(1, 1, 0)]
                assert buffer == (b"%d" % pipe[0])[:1]
                os.read(pipe[0], 9) if len(b"%d" % pipe[0]) > 1 else None
        finally:
            for fd in one + other:
                os.close(fd)


def test_what_has_no_position_has_no_offsets():
    batch = nops(1)
    with pytest.raises(ValueError, match="no position"):
        batch.offsets


def test_a_batch_works_with_sqpoll(io_uring):
    try:
        ring = Ring(32, flags=IORING_SETUP_SQPOLL)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
        pytest.skip(str(error))
    with ring:
        batch = nops(*range(32))
        for _ in range(50):
            got = ring.run(batch)
            while len(got) < 32:
                ring.submit_and_wait(1)
                got += ring.reap_raw()
            assert sorted(got) == [(i, 0, 0) for i in range(32)]
            while ring.sq_space_left < 32:
                ring.sqring_wait()


# -- beside other things ----------------------------------------------------------------------------------
def test_what_outlives_a_batch_is_refused(make):
    ring, _ = make()
    batch = Batch()
    with pytest.raises(ValueError, match="not in a Batch"):
        batch.prep_provide_buffers(bytearray(64), 32, 2, 1)
    with pytest.raises(ValueError, match="the ring's fd"):
        batch.prep_msg_ring(ring, 0, 1)
    batch.prep_msg_ring(ring.fd, 0, 1)
    batch.prep_remove_buffers(2, 1)
    assert len(batch) == 2


@pytest.fixture
def pipes():
    """Two pipes: [(reader, writer), ...]"""
    pipes = [os.pipe(), os.pipe()]
    yield pipes
    for fds in pipes:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("wait", [Ring.reap, Ring.reap_raw], ids=["reap", "reap_raw"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a request"])
def test_a_message_with_the_user_data_of_a_batch_does_not_end_it(wait, beside, pipes, io_uring):
    with Ring(4) as ring, Ring(4) as sender:
        needs(sender, IORING_OP_MSG_RING)
        batch = Batch()
        batch.prep_read(pipes[0][0], bytearray(8), user_data=7)
        if beside:
            ring.prep_poll_add(pipes[1][0], 0, user_data=8)
        ring.push(batch)
        ring.submit()
        for data in 7, 9:
            sender.prep_msg_ring(ring, 5, data)
        assert results(sender, 2) == {0: 0}
        ring.submit_and_wait(2, timeout=LONG)
        assert [tuple(cqe) for cqe in wait(ring)] == [(7, 5, 0), (9, 5, 0)]
        assert ring._bulk == 1 and 7 in ring._owed() and 9 not in ring._owed()
        os.write(pipes[0][1], b"8 bytes.")
        ring.submit_and_wait(1, timeout=LONG)
        assert [tuple(cqe) for cqe in wait(ring)] == [(7, 8, 0)]
        assert not ring._bulk and 7 not in ring._owed()


def test_a_message_that_comes_while_a_batch_runs_is_no_answer_to_it(pipes, io_uring):
    """The quick way of run(), which counts nothing: a message in the place of the second read."""
    with Ring(4) as ring, Ring(4) as sender:
        needs(sender, IORING_OP_MSG_RING)
        batch = Batch()
        for user_data, (reader, _) in enumerate(pipes, 1):
            batch.prep_read(reader, bytearray(1), user_data=user_data)
        for _ in range(2):
            for _, writer in pipes:
                os.write(writer, b"x")
            assert {cqe[:2] for cqe in ring.run(batch)} == {(1, 1), (2, 1)}
        os.write(pipes[0][1], b"x")
        sender.prep_msg_ring(ring, 5, 2)
        assert results(sender, 1) == {0: 0}
        assert {cqe[:2] for cqe in ring.run(batch)} == {(1, 1), (2, 5)}
        assert ring._bulk == 1
        os.write(pipes[1][1], b"x")
        ring.submit_and_wait(1, timeout=LONG)
        assert ring.reap_raw() == [(2, 1, 0)] and not ring._bulk
