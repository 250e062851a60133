"""pyuring/registered.py: a pool of buffers, a table of files, and rings of provided buffers, on the real kernel.

The main question of each part: does something come back too early (a buffer that is still in use is given to
somebody else) or never? Requests are filled by Ring._sqe() where their prep_* are under test elsewhere.
"""
import array
import contextlib
import errno
import gc
import mmap
import os
import random
import select
import socket
import sys
import threading
import weakref

import pytest
from onkernel import interrupted_at
from test_registration import (
    ALLOC, LONG, NOWHERE, brought_by, churn, collect, fixed, in_child, in_thread, needs, one, refused,
)

import pyuring.registered as registered
from pyuring import abi, syscalls
from pyuring.registered import BufferRing, FixedBuffers, FixedFiles, NoneFree
from pyuring.ring import CQE, Ring

SELECT, FIXED, LINK = abi.IOSQE_BUFFER_SELECT, abi.IOSQE_FIXED_FILE, abi.IOSQE_IO_HARDLINK
MULTI, BUNDLE = abi.IORING_RECV_MULTISHOT, abi.IORING_RECVSEND_BUNDLE
MMAP, INC = abi.IOU_PBUF_RING_MMAP, abi.IOU_PBUF_RING_INC
MORE, BUFFER = abi.IORING_CQE_F_MORE, abi.IORING_CQE_F_BUFFER


@pytest.fixture(params=[None, 0], ids=["default", "flags=0"])
def ring(request, io_uring):
    with Ring(64, flags=request.param) as ring:
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


@pytest.fixture(params=[700, 1], ids=["gc", "gc always"])
def collector(request):
    before = gc.get_threshold()
    gc.set_threshold(request.param)
    yield
    gc.set_threshold(*before)


def read_fixed(ring, fd, buffer, **fields):
    fixed(ring, abi.IORING_OP_READ_FIXED, fd, buffer, buffer.index, offset=NOWHERE, **fields)


# ---- fixed buffers

def test_each_buffer_of_a_pool_is_lent_once(ring):
    with FixedBuffers(ring, 3, 100) as pool:
        assert pool.free == 3
        buffers = [pool.acquire() for _ in range(3)]
        assert sorted(buffer.index for buffer in buffers) == [0, 1, 2]
        with pytest.raises(NoneFree, match="3 buffers"):
            pool.acquire()
        for buffer in buffers:
            buffer.view[:] = bytes([buffer.index]) * 100
        assert [bytes(buffer) for buffer in buffers] == [bytes([buffer.index]) * 100 for buffer in buffers]
        index = buffers[1].index
        buffers[1].release()
        buffers[1].release()
        assert pool.free == 1
        assert pool.acquire().index == index
    with pytest.raises(ValueError, match="closed"):
        pool.acquire()


def test_a_buffer_of_the_pool_is_read_into_and_written_from(ring, pipe):
    with FixedBuffers(ring, 2, 4096) as pool, pool.acquire() as first, pool.acquire() as second:
        first.view[:5] = b"hello"
        address, _, keeper = syscalls.readable(first)
        ring._sqe(abi.IORING_OP_WRITE_FIXED, pipe[1], address, 5, NOWHERE, buf_index=first.index, keeper=keeper)
        assert one(ring).res == 5
        read_fixed(ring, pipe[0], second)
        assert one(ring).res == 5
        assert bytes(second.view[:5]) == b"hello"
        assert len(second) == 4096 and bytes(second)[:5] == b"hello"
        del keeper


def test_pages_of_a_pool_begin_where_pages_do(ring):
    with FixedBuffers(ring, 2, mmap.PAGESIZE) as pool:
        assert all(syscalls.writable(pool.acquire())[0] % mmap.PAGESIZE == 0 for _ in range(2))


def test_a_buffer_in_flight_is_free_when_the_request_ends(ring, pipe, collector):
    with FixedBuffers(ring, 1, 8) as pool:
        with pool.acquire() as buffer:
            read_fixed(ring, pipe[0], buffer, user_data=1)
            ring.submit()
        with pytest.raises(NoneFree):
            pool.acquire()
        os.write(pipe[1], b"late")
        assert one(ring) == CQE(1, 4, 0)
        with pool.acquire() as buffer:
            assert bytes(buffer.view[:4]) == b"late"


def test_a_buffer_that_is_dropped_comes_back(ring):
    with FixedBuffers(ring, 1, 8) as pool:
        buffer = pool.acquire()
        del buffer
        gc.collect()
        view = pool.acquire().view
        gc.collect()
        assert pool.free == 0, "somebody looks at it"
        part = view[3:5]
        del view
        gc.collect()
        assert pool.free == 0
        del part
        gc.collect()
        assert pool.free == 1


def test_a_released_buffer_is_nobodys(ring):
    with FixedBuffers(ring, 1, 8) as pool:
        buffer = pool.acquire()
        view = buffer.view
        buffer.release()
        for use in (lambda: ring.prep_recv(0, buffer), lambda: view[0], lambda: bytes(buffer), lambda: len(buffer)):
            with pytest.raises(ValueError):
                use()
        assert "released" in repr(buffer)
        assert pool.free == 1 and "1 of 1 free" in repr(pool)


def test_other_requests_take_a_buffer_of_the_pool_too(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    with FixedBuffers(ring, 1, 8) as pool:
        with pool.acquire() as buffer:
            ring.prep_recv(pair[0], buffer)
            ring.submit()
        assert pool.free == 0
        pair[1].send(b"x")
        assert one(ring).res == 1
        assert pool.free == 1


def test_a_pool_whose_ring_is_closed_first(io_uring):
    with Ring(4) as ring:
        pool = FixedBuffers(ring, 2, 8)
        buffer = pool.acquire()
        ring.close()
        buffer.view[0] = 1
        pool.close()
        buffer.release()


def test_a_pool_that_is_closed_in_flight_keeps_the_memory(ring, pipe, collector):
    if not ring.features & abi.IORING_FEAT_RW_ATTR:
        pytest.skip("before Linux 6.13 unregistering waits for the request, which here waits for us")
    with FixedBuffers(ring, 1, 8) as pool, pool.acquire() as buffer:
        read_fixed(ring, pipe[0], buffer, keep=False)
        ring.submit()
        view = buffer.view[:]
    del pool, buffer
    keep = churn()
    os.write(pipe[1], b"late")
    assert one(ring).res == 4
    assert view[:4] == b"late"
    del keep


def test_a_ring_has_one_pool_at_a_time(ring):
    with FixedBuffers(ring, 1, 8):
        refused(errno.EBUSY, FixedBuffers, ring, 1, 8)
    FixedBuffers(ring, 1, 8).close()


@pytest.mark.parametrize("count, size, exception, names", [
    (0, 1, ValueError, "count 0"), (16385, 1, ValueError, "16385"), (1, 0, ValueError, "size 0"),
    (1, 2**30 + 1, ValueError, "size"), ("1", 1, TypeError, "count '1'"), (1, 1.5, TypeError, "size 1.5"),
])
def test_a_bad_pool_is_refused_by_name(count, size, exception, names, ring):
    with pytest.raises(exception, match=names):
        FixedBuffers(ring, count, size)


# ---- fixed files

@pytest.fixture
def files(ring):
    with brought_by("5.19"):
        files = FixedFiles(ring, 4)
    with files:
        yield files


def open_fds():
    return set(os.listdir("/proc/self/fd"))


def close_slot(ring, slot, **fields):
    ring._sqe(abi.IORING_OP_CLOSE, 0, file_index=slot.file_index, **fields)


def test_a_connection_without_a_socket_object_and_without_a_descriptor(ring, files, listener):
    needs(ring, abi.IORING_OP_SOCKET)
    before = open_fds()
    with files.allocate() as slot:
        ring.prep_socket(socket.AF_INET, socket.SOCK_STREAM, file_index=slot.file_index, user_data=1, sqe_flags=LINK)
        ring.prep_connect(slot, listener.getsockname(), user_data=2, sqe_flags=FIXED | LINK)
        ring.prep_send(slot, b"no descriptor", user_data=3, sqe_flags=FIXED | LINK)
        ring.prep_shutdown(slot, socket.SHUT_WR, user_data=4, sqe_flags=FIXED)
        assert collect(ring, 4) == [CQE(1, 0, 0), CQE(2, 0, 0), CQE(3, 13, 0), CQE(4, 0, 0)]
        assert open_fds() == before
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(100) == b"no descriptor"
            peer.send(b"answer")
            buffer = bytearray(10)
            ring.prep_recv(slot, buffer, sqe_flags=FIXED)
            assert one(ring).res == 6 and buffer.startswith(b"answer")
    assert files._free[-1] == slot


def test_a_chain_from_socket_to_close_leaves_an_empty_slot(ring, files, listener):
    needs(ring, abi.IORING_OP_SOCKET)
    for _ in range(3):
        slot = files.allocate()
        ring.prep_socket(socket.AF_INET, socket.SOCK_STREAM, file_index=slot.file_index, user_data=1, sqe_flags=LINK)
        ring.prep_connect(slot, listener.getsockname(), user_data=2, sqe_flags=FIXED | LINK)
        ring.prep_send(slot, b"bye", user_data=3, sqe_flags=FIXED | LINK)
        close_slot(ring, slot, user_data=4)
        assert [cqe.res for cqe in collect(ring, 4)] == [0, 0, 3, 0]
        ring.prep_send(slot, b"gone", sqe_flags=FIXED)
        assert one(ring).res == -errno.EBADF
        files.free(slot)
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(100) == b"bye"
            assert peer.recv(100) == b""


def test_releasing_a_slot_closes_what_is_in_it(ring, files, pair):
    left, right = pair
    slot = files.register(left)
    left.close()
    ring.prep_send(slot, b"still open", sqe_flags=FIXED)
    assert one(ring).res == 10
    assert right.recv(100) == b"still open"
    slot.release()
    assert select.select([right], [], [], LONG)[0]
    assert right.recv(100) == b""
    assert slot not in files


def test_slots_are_taken_once_and_given_back_once(files, pair):
    slots = [files.allocate() for _ in range(3)] + [files.register(pair[0])]
    assert sorted(slots) == [0, 1, 2, 3]
    assert all(slot in files for slot in slots)
    with pytest.raises(NoneFree, match="4 slots"):
        files.allocate()
    slots[1].release()
    for again in (slots[1].release, lambda: files.free(slots[1]), lambda: files.release(9)):
        with pytest.raises(ValueError, match="not in use"):
            again()
    assert files.allocate() == slots[1]
    assert "4 of 4" in repr(files)


def test_a_file_that_cannot_be_registered_takes_no_slot(files):
    gone = os.dup(0)
    os.close(gone)
    refused(errno.EBADF, files.register, gone)
    with pytest.raises(TypeError):
        files.register("0")
    assert not files._taken


def test_the_kernel_hands_out_its_own_slots_and_never_ours(ring):
    needs(ring, abi.IORING_OP_SOCKET)
    with brought_by("6.0", abi.IORING_REGISTER_FILE_ALLOC_RANGE):
        files = FixedFiles(ring, 6, kernel_slots=2)
    with files:
        ours = files.allocate()
        for _ in range(3):
            ring.prep_socket(socket.AF_UNIX, socket.SOCK_STREAM, file_index=ALLOC)
        assert sorted(cqe.res for cqe in collect(ring, 3)) == [-errno.ENFILE, 4, 5]
        assert ours < 4
        files.release(4)
        ring.prep_socket(socket.AF_UNIX, socket.SOCK_STREAM, file_index=ALLOC)
        assert one(ring).res == 4
    with FixedFiles(ring, 2):
        ring.prep_socket(socket.AF_UNIX, socket.SOCK_STREAM, file_index=ALLOC)
        assert one(ring).res == -errno.ENFILE


def test_a_table_that_is_closed_while_a_request_uses_it(ring, pair):
    needs(ring, abi.IORING_OP_RECV)
    if not ring.features & abi.IORING_FEAT_RW_ATTR:
        pytest.skip("before Linux 6.13 unregistering waits for the request, which here waits for us")
    buffer = bytearray(4)
    with FixedFiles(ring, 1) as files:
        slot = files.register(pair[0])
        ring.prep_recv(slot, buffer, sqe_flags=FIXED)
        ring.submit()
    pair[1].send(b"late")
    assert one(ring).res == 4
    assert buffer == b"late"
    with pytest.raises(ValueError, match="closed"):
        files.allocate()


def test_a_table_whose_ring_is_closed_first(io_uring):
    with Ring(4) as ring:
        with brought_by("5.19"):
            files = FixedFiles(ring, 2)
        with files, files.allocate() as slot:
            ring.close()
        assert slot not in files


@pytest.mark.parametrize("count, kernel_slots, names", [(0, 0, "count 0"), (2**20 + 1, 0, "count"), (2, 3, "kernel_slots 3")])
def test_a_bad_table_is_refused_by_name(count, kernel_slots, names, ring):
    with pytest.raises(ValueError, match=names):
        FixedFiles(ring, count, kernel_slots=kernel_slots)


# ---- provided buffers

KINDS = {"ours": 0, "the kernel's": MMAP, "incremental": INC, "the kernel's, incremental": MMAP | INC}


def make(ring, entries, size, *, flags=0, **keywords):
    with brought_by({0: "5.19", MMAP: "6.4"}.get(flags, "6.12")):
        return BufferRing(ring, entries, size, flags=flags, **keywords)


@pytest.fixture(params=KINDS)
def buffers(request, ring):
    """Four of 16 bytes."""
    with make(ring, 4, 16, flags=KINDS[request.param]) as buffers:
        yield buffers


def recv(ring, sock, buffers, size=0, ioprio=0, user_data=1, **fields):
    ring._sqe(abi.IORING_OP_RECV, sock.fileno(), 0, size, sqe_flags=SELECT, ioprio=ioprio, buf_index=buffers.bgid,
              user_data=user_data, **fields)


def received(ring, sock, buffers, size=0, ioprio=0):
    recv(ring, sock, buffers, size, ioprio)
    return one(ring)


def known_flags(cqe, what):
    if cqe.res == -errno.EINVAL:
        pytest.skip(f"Linux {os.uname().release} answers {what} with EINVAL")
    return cqe


def pending(buffers):
    """The buffers that are the kernel's, by what stands in the ring itself: from its head to our tail."""
    head = buffers.ring.buf_ring_head(buffers.bgid)
    count = buffers._words[7] - head & 0xFFFF
    assert count <= buffers.entries
    entries = [abi.BUF.unpack_from(buffers._entries, (head + n) % buffers.entries * 16) for n in range(count)]
    return [bid for _, _, bid, _ in entries]


def needs_head(ring, buffers):
    with brought_by("6.8", abi.IORING_REGISTER_PBUF_STATUS):
        ring.buf_ring_head(buffers.bgid)


LOOKS = ("view", "take", "copy", "hold")


def look(buffers, cqe, how):
    """The bytes that a CQE brought, looked at in one of the four ways."""
    if how == "view":
        with buffers.view(cqe) as data:
            return bytes(data)
    if how == "take":
        return b"".join(bytes(data) for data in buffers.take(cqe))
    if how == "copy":
        return buffers.copy(cqe)
    held = buffers.hold(cqe)
    data = bytes(held)
    held.release()
    return data


@pytest.mark.parametrize("how", LOOKS)
def test_data_is_there_and_buffers_come_back(how, ring, buffers, pair):
    left, right = pair
    for n in range(20):
        right.send(bytes([n]) * 11)
        data = b""
        while len(data) < 11:
            data += look(buffers, received(ring, left, buffers), how)
        assert data == bytes([n]) * 11
    assert buffers.available == 4


def test_when_all_buffers_are_held_there_is_none_until_one_is_released(ring, buffers, pair):
    left, right = pair
    held = []
    for n in range(4):
        right.send(bytes([n]) * 16)
        held.append(buffers.hold(received(ring, left, buffers)))
    right.send(b"more")
    cqe = received(ring, left, buffers)
    assert cqe.res == -errno.ENOBUFS and look(buffers, cqe, "copy") == b""
    assert [bytes(each) for each in held] == [bytes([n]) * 16 for n in range(4)]
    held[2].release()
    held[2].release()
    assert buffers.available == 1
    with buffers.view(received(ring, left, buffers)) as data:
        assert data == b"more"
    assert [bytes(each) for each in held] == [bytes([n]) * 16 for n in (0, 1)] + [b""] + [bytes([3]) * 16]


def test_the_end_of_a_stream_brings_nothing(ring, buffers, pair):
    pair[1].close()
    cqe = received(ring, pair[0], buffers)
    assert cqe.res == 0
    with buffers.view(cqe) as data:
        assert data == b""
    assert buffers.available == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ioprio", [MULTI, BUNDLE, MULTI | BUNDLE], ids=["multishot", "bundles", "multishot bundles"])
def test_any_stream_arrives_whole(ioprio, kind, ring, pair, collector):
    """Random sizes, looked at in all ways, held for a while and given back in any order."""
    if ioprio & BUNDLE and not ring.features & abi.IORING_FEAT_RECVSEND_BUNDLE:
        pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_RECVSEND_BUNDLE")
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    left, right = pair
    right.setblocking(False)
    sent, got = bytearray(), bytearray()
    held = []
    with make(ring, 8, rng.choice([1, 7, 64]), flags=KINDS[kind]) as buffers:
        armed = False
        for _ in range(150):
            data = rng.getrandbits(8 * 100).to_bytes(100, "big")[:rng.randrange(1, 100)]
            with contextlib.suppress(BlockingIOError):
                sent += data[:right.send(data)]
            while len(got) < len(sent):
                if not armed:
                    recv(ring, left, buffers, ioprio=ioprio)
                    armed = True
                ring.submit_and_wait(1, timeout=LONG)
                cqes = ring.reap()
                assert cqes
                for cqe in cqes:
                    known_flags(cqe, "multishot receive")
                    armed = bool(cqe.flags & MORE)
                    if cqe.res == -errno.ENOBUFS:
                        rng.shuffle(held)
                        while held:
                            held.pop().release()
                        continue
                    assert cqe.res > 0
                    how = rng.choice(LOOKS)
                    if how == "view" and ioprio & BUNDLE:
                        how = "take"
                    if how == "hold" and rng.random() < 0.5:
                        held.append(buffers.hold(cqe))
                        got += bytes(held[-1])
                    else:
                        got += look(buffers, cqe, how)
                    if held and rng.random() < 0.3:
                        held.pop(rng.randrange(len(held))).release()
            assert got == sent
        for each in held:
            each.release()
        assert buffers.available == 8
        with contextlib.suppress(OSError):
            assert sorted(pending(buffers)) == list(range(8))
        if armed:
            ring.prep_cancel(1, user_data=2)
            collect(ring, 2)


def test_a_bundle_is_several_buffers_in_order(ring, pair):
    if not ring.features & abi.IORING_FEAT_RECVSEND_BUNDLE:
        pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_RECVSEND_BUNDLE")
    left, right = pair
    with make(ring, 8, 4) as buffers:
        right.send(b"zero")
        right.send(b"one.")
        first, second = [buffers.hold(received(ring, left, buffers)) for _ in range(2)]
        second.release()            # out of order: 2 3 4 5 6 7 1 0
        first.release()
        right.send(b"abcdefghijklmnopqrstuvwxyz")
        got = []
        while len(b"".join(got)) < 26:          # 6.18 ends a bundle where the ring's array ends
            cqe = received(ring, left, buffers, ioprio=BUNDLE)
            if cqe.res > 4:
                with pytest.raises(ValueError, match="several buffers"):
                    buffers.view(cqe)
            out = 8 - -(-cqe.res // 4)
            for number, view in enumerate(buffers.take(cqe)):
                got.append(bytes(view))
                assert buffers.available == out + number, "those before have come back"
        assert got == [b"abcd", b"efgh", b"ijkl", b"mnop", b"qrst", b"uvwx", b"yz"]
        assert buffers.available == 8


def test_a_loop_that_breaks_off_gives_everything_back(ring, pair):
    if not ring.features & abi.IORING_FEAT_RECVSEND_BUNDLE:
        pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_RECVSEND_BUNDLE")
    with make(ring, 8, 4) as buffers:
        pair[1].send(b"abcdefghijkl")
        for view in buffers.take(received(ring, pair[0], buffers, ioprio=BUNDLE)):
            assert view == b"abcd"
            break
        gc.collect()
        assert buffers.available == 8
        pair[1].send(b"abcdefghijkl")
        buffers.take(received(ring, pair[0], buffers, ioprio=BUNDLE))       # not even begun
        gc.collect()
        assert buffers.available == 8


def test_what_was_given_back_cannot_be_looked_at(ring, buffers, pair):
    pair[1].send(b"secret")
    with buffers.view(received(ring, pair[0], buffers)) as data:
        assert data == b"secret"
    with pytest.raises(ValueError):
        data[0]
    pair[1].send(b"secret")
    for data in buffers.take(received(ring, pair[0], buffers)):
        pass
    with pytest.raises(ValueError):
        data[0]


def test_a_slice_or_an_array_of_a_view_keeps_the_buffer_out(ring, pair):
    with make(ring, 1, 16) as buffers:
        for keep in (lambda view: view[1:3], lambda view: memoryview(view).cast("H"), syscalls.writable,
                     lambda view: syscalls.windows(view, 2)(1)):
            pair[1].send(b"secret")
            with buffers.view(received(ring, pair[0], buffers)) as data:
                kept = keep(data)
            assert buffers.available == 0
            del data
            assert buffers.available == 0
            del kept
            gc.collect()
            assert buffers.available == 1


def test_an_echo_without_a_copy_sends_what_was_received(ring, pair, collector):
    """The send waits; meanwhile its buffer is neither the kernel's nor overwritten."""
    needs(ring, abi.IORING_OP_SEND)
    left, right = pair
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    left.setblocking(False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += left.send(bytes(4096))
    left.setblocking(True)
    with make(ring, 2, 16) as buffers:
        right.send(b"to be echoed")
        with buffers.view(received(ring, left, buffers)) as data:
            ring.prep_send(left, data, user_data=7)
            ring.submit()
        del data
        keep = churn()
        assert buffers.available == 1
        for n in range(5):
            right.send(bytes([n]) * 16)
            assert buffers.copy(received(ring, left, buffers)) == bytes([n]) * 16
        while filled:
            filled -= len(right.recv(min(filled, 65536)))
        assert one(ring) == CQE(7, 12, 0)
        assert right.recv(100) == b"to be echoed"
        assert buffers.available == 2
        del keep


def test_buffers_come_back_from_other_threads(ring, pair):
    left, right = pair
    with make(ring, 2, 16) as buffers:
        for n in range(50):
            right.send(bytes([n]) * 16)
            held = buffers.hold(received(ring, left, buffers))
            assert in_thread(lambda: (bytes(held), held.release())[0]) == bytes([n]) * 16
            del held
        assert buffers.available == 2


def test_two_threads_that_give_back_at_once_lose_nothing(io_uring, pair):
    """Against one thread that takes: the books are kept by whoever comes, one at a time."""
    left, right = pair
    before = sys.getswitchinterval()
    with Ring(8) as ring, make(ring, 16, 4) as buffers:
        work, stop = [], threading.Event()

        def give_back():
            while not stop.is_set() or work:
                with contextlib.suppress(IndexError):
                    work.pop().release()
        threads = [threading.Thread(target=give_back) for _ in range(2)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for n in range(500):
                right.send(n.to_bytes(4, "big"))
                while (cqe := received(ring, left, buffers)).res == -errno.ENOBUFS:
                    pass
                work.append(buffers.hold(cqe))
                assert bytes(work[-1] if work else b"") in (n.to_bytes(4, "big"), b"")
        finally:
            stop.set()
            for thread in threads:
                thread.join(LONG)
            sys.setswitchinterval(before)
        gc.collect()
        assert buffers.available == 16
        needs_head(ring, buffers)
        assert sorted(pending(buffers)) == list(range(16))


def test_the_tail_wraps_past_2_16(ring, pair):
    needs(ring, abi.IORING_OP_READ)
    zero = os.open("/dev/zero", os.O_RDONLY)
    try:
        with make(ring, 64, 1) as buffers:
            for _ in range(2**16 // 64 + 3):
                for _ in range(64):
                    ring.prep_read(zero, None, 1, sqe_flags=SELECT, buf_group=buffers.bgid)
                for cqe in collect(ring, 64):
                    assert cqe.res == 1
                    buffers.give_back(cqe)
            assert buffers._tail == 64 * 4
            assert buffers.available == 64
    finally:
        os.close(zero)


def test_a_cqe_is_taken_once(ring, pair):
    with make(ring, 2, 16) as buffers, make(ring, 2, 16) as others:
        assert buffers.bgid != others.bgid
        pair[1].send(b"once")
        cqe = received(ring, pair[0], buffers)
        held = buffers.hold(cqe)
        for again in (buffers.hold, buffers.copy, buffers.give_back):
            with pytest.raises(ValueError, match="taken already"):
                again(cqe)
        held.release()
        with pytest.raises(ValueError, match="buffer 9"):
            buffers.hold(CQE(0, 1, 9 << 16 | BUFFER))
        assert buffers.available == 2


def test_groups_find_a_number_of_their_own(ring, pair):
    needs(ring, abi.IORING_OP_PROVIDE_BUFFERS)
    ring.prep_provide_buffers(bytearray(8), 8, 1, 0)
    one(ring)
    with make(ring, 1, 1, bgid=1), make(ring, 1, 1) as third, make(ring, 1, 1) as fourth:
        assert [third.bgid, fourth.bgid] == [2, 3]
        refused(errno.EEXIST, BufferRing, ring, 1, 1, 3)
        third.close()
        with make(ring, 1, 1) as again:
            assert again.bgid == 2


def test_entries_are_filled_before_the_tail_moves(ring, monkeypatch):
    seen = []
    real = syscalls.fence

    def fence():
        seen.append((buffers._words[7], [abi.BUF.unpack_from(buffers._entries, 16 * n)[1:3] for n in range(4)]))
        real()
    with make(ring, 4, 16) as buffers:
        assert buffers._words[7] == 4
        monkeypatch.setattr(registered.syscalls, "fence", fence)
        buffers.copy(CQE(0, 40, 1 << 16 | BUFFER))      # of three buffers, as if the kernel had sent it
        assert seen == [(4, [(16, 1), (16, 2), (16, 3), (16, 3)])]
        assert buffers._words[7] == 7


def test_sending_from_provided_buffers(ring, pair):
    if not ring.features & abi.IORING_FEAT_RECVSEND_BUNDLE:
        pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_RECVSEND_BUNDLE")
    left, right = pair

    def send(ioprio):
        ring._sqe(abi.IORING_OP_SEND, left.fileno(), sqe_flags=SELECT, ioprio=ioprio, buf_index=buffers.bgid)
        return one(ring)
    with make(ring, 4, 16, provide=False) as buffers:
        assert send(0).res == -errno.ENOBUFS
        for text in (b"one", b"two and", b"three", b"four"):
            buffers.push(text)
        with pytest.raises(NoneFree, match="4 buffers"):
            buffers.push(b"five")
        cqe = send(0)
        assert cqe.res == 3 and right.recv(100) == b"one"
        buffers.give_back(cqe)
        buffers.push(b"more")
        cqe = send(BUNDLE)
        assert right.recv(100) == b"two andthreefourmore"
        assert [bytes(view) for view in buffers.take(cqe)] == [b"two and", b"three", b"four", b"more"]
        for n in range(4):
            buffers.push(bytes([n + 1]) * 16)
        cqe = send(BUNDLE)
        assert cqe.res == 64 and right.recv(100) == b"".join(bytes([n + 1]) * 16 for n in range(4))
        buffers.give_back(cqe)
        for bad in (b"", bytes(17)):
            with pytest.raises(ValueError, match=str(len(bad))):
                buffers.push(bad)
    with make(ring, 1, 16) as buffers, pytest.raises(ValueError, match="provide=False"):
        buffers.push(b"x")


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_that_is_closed_while_a_request_waits_for_data(kind, ring, pair, collector):
    buffers = make(ring, 2, 16, flags=KINDS[kind])
    recv(ring, pair[0], buffers)
    ring.submit()
    memory = weakref.ref(buffers._memory)
    buffers.close()
    buffers.close()
    del buffers
    keep = churn()
    assert memory() is not None
    pair[1].send(b"to nowhere")
    assert one(ring).res == -errno.ENOBUFS
    ring.setup_buf_ring(1, 9)
    ring.free_buf_ring(9)       # this is a moment when it is looked at
    gc.collect()
    assert memory() is None
    del keep


def test_a_buffer_a_worker_has_taken_stays_when_the_group_is_closed(ring, tmp_path, collector):
    """A read that a worker does takes its buffer first, and then waits: here for a writer of the FIFO."""
    needs(ring, abi.IORING_OP_READ)
    needs_head(ring, make(ring, 1, 16))
    buffers = make(ring, 2, 16)
    reader, writer = os.pipe()
    try:
        ring.prep_read(reader, None, 16, sqe_flags=SELECT | abi.IOSQE_ASYNC, buf_group=buffers.bgid, user_data=1)
        ring.submit()
        memory = weakref.ref(buffers._memory)
        buffers.close()
        del buffers
        keep = churn()
        assert memory() is not None
        os.write(writer, b"late")
        assert one(ring).res in (4, -errno.ENOBUFS)
        del keep
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_that_is_dropped_stays_until_the_ring_is_closed(kind, io_uring, pair, collector):
    with Ring(8) as ring:
        buffers = make(ring, 2, 16, flags=KINDS[kind])
        bgid, memory = buffers.bgid, weakref.ref(buffers._memory)
        recv(ring, pair[0], buffers)
        ring.submit()
        del buffers
        keep = churn()
        assert memory() is not None
        pair[1].send(b"dropped")
        assert one(ring).res == 7
        assert memory()[:7] == b"dropped" and bgid == 0
        del keep
    gc.collect()
    assert memory() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_whose_ring_is_closed_first(kind, io_uring, pair):
    with Ring(8) as ring, make(ring, 2, 16, flags=KINDS[kind]) as buffers:
        pair[1].send(b"read late")
        first = received(ring, pair[0], buffers)
        pair[1].send(b"read late")
        second = received(ring, pair[0], buffers)
        with buffers.view(first) as data:
            ring.close()
            assert data == b"read late"
        assert buffers.copy(second)[:6] in (b"read l", b"late")     # the memory is there, the kernel is not


def test_a_forked_child_takes_nothing_from_its_parent(ring, pair):
    with make(ring, 2, 16, flags=MMAP) as buffers, FixedBuffers(ring, 1, 8) as pool:
        pair[1].send(b"parent")
        cqe = received(ring, pair[0], buffers)

        def child():
            with buffers.view(cqe) as data:
                copied = bytes(data)
                data[:] = b"child!"
            buffers.close()
            pool.close()
            with open("/proc/self/maps") as maps:
                return copied == b"parent" and "io_uring" not in maps.read()
        assert in_child(child) == 0
        assert buffers.copy(cqe) == b"parent"
        pair[1].send(b"again")
        assert buffers.copy(received(ring, pair[0], buffers)) == b"again"


def test_a_kernel_without_buffer_rings_says_einval(ring, monkeypatch):
    monkeypatch.setattr("pyuring.ring.syscalls.register", lambda *arguments: -errno.EINVAL)
    with pytest.raises(OSError, match="register_buf_ring") as caught:
        BufferRing(ring, 2, 16)
    assert caught.value.errno == errno.EINVAL
    assert not [key for key in ring._registered if isinstance(key, tuple)]


@pytest.mark.parametrize("arguments, exception, names", [
    ((3, 16), ValueError, "power of two"), ((0, 16), ValueError, "entries 0"), ((65536, 16), ValueError, "65536"),
    ((4, 0), ValueError, "size 0"), ((4, 16, 65536), ValueError, "bgid 65536"), (("4", 16), TypeError, "entries '4'"),
])
def test_a_bad_buffer_ring_is_refused_by_name(arguments, exception, names, ring):
    with pytest.raises(exception, match=names):
        BufferRing(ring, *arguments)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")      # Ctrl-C in a callback
def test_ctrl_c_between_any_two_bytecodes_gives_no_buffer_to_two(io_uring, pair):
    """It may cost a buffer, but what the kernel has nobody else looks at, and the group goes on."""
    left, right = pair
    n, raised, lost = 0, True, 0
    while raised:
        n += 1
        with Ring(8) as ring, make(ring, 4, 4) as buffers:
            needs_head(ring, buffers)
            held = []

            def work():
                for how in LOOKS:
                    right.send(how.encode())
                    cqe = received(ring, left, buffers)
                    held.append(buffers.hold(cqe)) if how == "hold" else look(buffers, cqe, how)
            raised = interrupted_at(n, work, registered)
            gc.collect(1)
            kernels = pending(buffers)
            assert len(set(kernels)) == len(kernels)
            for each in held:
                addresses = {syscalls.writable(view)[0] - buffers._address for view in each.views}
                assert not addresses & {4 * bid for bid in kernels}
                each.release()
            left.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                left.recv(100)
            left.setblocking(True)
            if buffers.available:
                right.send(b"on")
                assert buffers.copy(received(ring, left, buffers)) == b"on"
            lost += buffers.available < 4
    assert n > 300
    assert lost < n


def test_views_in_cycles_come_back_in_the_middle_of_anything(ring, pair):
    """The collector runs between any two bytecodes here, and ends views while the books are being kept."""
    left, right = pair
    before = gc.get_threshold()
    with make(ring, 8, 4) as buffers:
        gc.set_threshold(1)
        try:
            for n in range(300):
                right.send(n.to_bytes(4, "big"))
                cqe = received(ring, left, buffers)
                if cqe.res == -errno.ENOBUFS:
                    gc.collect()
                    cqe = received(ring, left, buffers)
                cycle = [buffers.hold(cqe)]
                cycle.append(cycle)
                assert bytes(cycle[0]) == n.to_bytes(4, "big")
        finally:
            gc.set_threshold(*before)
        del cycle
        gc.collect()
        assert buffers.available == 8
        needs_head(ring, buffers)
        assert sorted(pending(buffers)) == list(range(8))


def test_it_works_with_arrays_made_of_a_view(ring, pair):
    with make(ring, 1, 16) as buffers:
        pair[1].send(array.array("I", [1, 2, 3]).tobytes())
        with buffers.view(received(ring, pair[0], buffers)) as data:
            assert list(data.cast("I")) == [1, 2, 3]
        assert buffers.available == 1
        assert "bgid=0 1 of 1" in repr(buffers)
