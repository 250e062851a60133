"""registered.py - fixed buffers, fixed files and provided buffers, with somebody who keeps the books.

resources.py has the bare operations; here are three objects over them, for what a ring is told once and
requests then name by number:

    FixedBuffers   a pool of buffers that the kernel has mapped: prep_read_fixed(), prep_write_fixed(), ...
    FixedFiles     a table of files that are no file descriptors: direct descriptors, IOSQE_FIXED_FILE
    BufferRing     buffers that the kernel picks from when data comes: IOSQE_BUFFER_SELECT

Some facts about lending memory
-------------------------------
A buffer of a pool has two users: whoever took it, and perhaps a request that is in flight with it. It is
free when the last of them is done, and that is not always the one who says release(): a server that
sends what it has received, without copying it, is done with the buffer when the send is.

So nobody here counts users. What is lent is a window: an object that exports a piece of the memory, and
that a weak reference watches. Each memoryview of it keeps it alive, slices and casts too, and so does
the ring while a request uses it. When it is gone, nobody can look any more, and the buffer is free.
release(), or the end of a `with`, only takes our own view away: what is used after that is a
ValueError, never somebody else's data.
"""
from __future__ import annotations

import mmap
from _thread import RLock
from _weakref import ref
from collections import deque
from errno import EEXIST, EINVAL
from struct import Struct

from . import syscalls
from .abi import (
    BUF, IORING_CQE_BUFFER_SHIFT, IORING_CQE_F_BUF_MORE, IORING_CQE_F_BUFFER,
)
from .arguments import fileno
from .resources import MAX_BUF_RING, MAX_BUFFER_SIZE, MAX_BUFFERS, MAX_FILES, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .ring import Ring

# An entry of a buffer ring without its last two bytes: in the first entry those are the tail, and
# pack_into() clears what it writes to (see ring.py), which the kernel might see.
_ENTRY = Struct("=QIH")
_TAIL = (BUF.size - 2) // 2         # where the tail is, in units of 16 bits
assert _ENTRY.size == BUF.size - 2


class NoneFree(RuntimeError):
    """All buffers, or slots, are in use: release() one, or make room for more."""


class _Watch(ref):
    """A weak reference to a window that knows which buffer it is of."""

    __slots__ = ("number",)
    number: int


def _let_go(view):
    try:
        view.release()
    except BufferError:         # numpy, say, has made an array of it: the window stays while that does
        pass


# -- buffers ---------------------------------------------------------------------------------------------
class FixedBuffer:
    """A buffer of a pool: prep_* take it as it is.

    index   its number, for buf_index
    view    its bytes, as a memoryview
    """

    __slots__ = ("index", "view", "_window")

    def __init__(self, index: int, window):
        self.index = index
        self.view = memoryview(window).cast("B")
        self._window = window

    def __buffer__(self, flags):
        if self._window is None:
            raise ValueError("this buffer was released: acquire() another")
        return memoryview(self._window).cast("B")

    def __len__(self) -> int:
        return len(self.view)

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def release(self) -> None:
        """Give it back. It is free as soon as no request and no slice of `view` uses it any more."""
        _let_go(self.view)
        self._window = None

    def __enter__(self) -> FixedBuffer:
        return self

    def __exit__(self, *exc_info) -> None:
        self.release()

    def __repr__(self):
        return f"<pyuring.registered.FixedBuffer {self.index}{'' if self._window is not None else ' released'}>"


class FixedBuffers:
    """A pool of buffers that the kernel has mapped once and for all, instead of for each request.

        with FixedBuffers(ring, 4, 65536) as pool:
            with pool.acquire() as buffer:
                ring.prep_read_fixed(fd, buffer, offset=0, buf_index=buffer.index)
                ring.submit_and_wait()
                print(bytes(buffer.view[:ring.wait_cqe().res]))

    count   how many, up to 16384 (1024 before Linux 5.13); number i of the pool is buf_index i
    size    bytes of each, up to 1 GiB. They lie one behind the other, the first at the start of a page:
            so with a multiple of the page size all do, as O_DIRECT wants it

    A ring has one table of buffers (OSError EBUSY for a second), and all of it counts against
    RLIMIT_MEMLOCK (OSError ENOMEM). Linux 5.1. io_uring_registered_buffers(7).
    """

    __slots__ = ("ring", "count", "size", "_window", "_free", "_watches", "_closed")

    def __init__(self, ring: Ring, count: int, size: int):
        check("count", count, 1, MAX_BUFFERS, "the kernel's limits")
        check("size", size, 1, MAX_BUFFER_SIZE, "the kernel's limits")
        self.ring, self.count, self.size = ring, count, size
        memory = mmap.mmap(-1, count * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._window = syscalls.windows(memory, size)
        self._free = list(reversed(range(count)))
        self._watches: dict[int, _Watch] = {}
        self._closed = False
        view = memoryview(memory)
        ring.register_buffers([view[at:at + size] for at in range(0, count * size, size)])

    def acquire(self) -> FixedBuffer:
        """A buffer that nobody uses; its contents are what the last one left. NoneFree if there is none.

        It is yours until release(), the end of a `with`, or until you drop it.
        """
        if self._closed:
            raise ValueError("this pool is closed: make a new one")
        try:
            index = self._free.pop()
        except IndexError:
            raise NoneFree(f"all {self.count} buffers are in use: release() one, wait for a request that uses "
                           "one, or make a larger pool") from None
        window = self._window(index)
        watch = _Watch(window, self._gone)
        watch.number = index
        self._watches[id(watch)] = watch
        return FixedBuffer(index, window)

    def _gone(self, watch):
        self._watches.pop(id(watch), None)
        self._free.append(watch.number)

    @property
    def free(self) -> int:
        """How many buffers can be acquired."""
        return len(self._free)

    def close(self) -> None:
        """Unregister the buffers. Requests in flight, and views, keep what they use."""
        if not self._closed and not self.ring.closed:
            self.ring.unregister_buffers()
        self._closed = True

    def __enter__(self) -> FixedBuffers:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def __repr__(self):
        return f"<pyuring.registered.FixedBuffers {self.free} of {self.count} free, {self.size} bytes each>"


# -- files -----------------------------------------------------------------------------------------------
class Slot(int):
    """The number of a slot in a table of fixed files: what requests take for `fd`, with IOSQE_FIXED_FILE.

    In `with`, or by release(), it is emptied and given back.
    """

    _files: FixedFiles

    @property
    def file_index(self) -> int:
        """For the field of that name, which has 0 for "no slot": the number plus one."""
        return self + 1

    def release(self) -> None:
        """Close what is in the slot, if anything is, and give the slot back."""
        self._files.release(self)

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *exc_info) -> None:
        if self in self._files:
            self.release()


class FixedFiles:
    """A table of open files that have no file descriptor, or no need of one. Requests name them by slot.

        with FixedFiles(ring, 64) as files, files.allocate() as slot:
            there, here = IOSQE_FIXED_FILE, IOSQE_IO_LINK
            ring.prep_socket(AF_INET, SOCK_STREAM, file_index=slot.file_index, sqe_flags=here)
            ring.prep_connect(slot, ("192.0.2.1", 80), sqe_flags=there | here)
            ring.prep_send(slot, b"GET / HTTP/1.0\\r\\n\\r\\n", sqe_flags=there)
            ring.submit_and_wait(3)

    No socket object, no file descriptor, one system call. A chain ends with prep_close_direct(slot), or
    leaves that to release(). What is there already comes in by register():

            slot = files.register(sock)
            ring.prep_recv(slot, buffer, sqe_flags=IOSQE_FIXED_FILE)

    count          how many slots, up to RLIMIT_NOFILE (OSError EMFILE)
    kernel_slots   how many of them, at the end, the kernel hands out itself: for multishot accept and
                   other requests with IORING_FILE_INDEX_ALLOC (Linux 6.0). Call release() for those,
                   too, where no request closes them

    A ring has one table (OSError EBUSY for a second). Linux 5.19. io_uring_registered_files(7).
    """

    __slots__ = ("ring", "count", "_free", "_taken", "_ours", "_closed")

    def __init__(self, ring: Ring, count: int, *, kernel_slots: int = 0):
        check("count", count, 1, MAX_FILES, "the kernel's limits")
        check("kernel_slots", kernel_slots, 0, count, "what the table has")
        self.ring, self.count = ring, count
        self._ours = count - kernel_slots
        self._free = list(reversed(range(self._ours)))
        self._taken: set[int] = set()
        self._closed = False
        ring.register_files_sparse(count)
        try:
            # Without that it would hand out what allocate() has, and nobody has filled yet.
            ring.register_file_alloc_range(self._ours, kernel_slots)
        except OSError as error:
            if kernel_slots or error.errno != EINVAL:
                ring.unregister_files()
                raise

    def allocate(self) -> Slot:
        """A slot of our own, empty: for file_index of requests that open something. NoneFree if all are
        taken."""
        if self._closed:
            raise ValueError("this table is closed: make a new one")
        try:
            number = self._free.pop()
        except IndexError:
            raise NoneFree(f"all {self._ours} slots are taken: release() one, or make a larger table") from None
        self._taken.add(number)
        return self._slot(number)

    def _slot(self, number):
        slot = Slot(number)
        slot._files = self
        return slot

    def register(self, fd) -> Slot:
        """Put an open file into a slot of our own. It stays open there, whoever closes the descriptor."""
        slot = self.allocate()
        try:
            self.ring.register_files_update(slot, [fileno(fd)])
        except BaseException:
            self.free(slot)
            raise
        return slot

    def release(self, slot: int) -> None:
        """Close what is in the slot, if anything is, and give the slot back. Requests in flight go on."""
        if not self._ours <= slot < self.count and slot not in self:
            raise ValueError(f"slot {int(slot)} is not in use: it was released already, or never allocated")
        if not self.ring.closed:
            self.ring.register_files_update(slot, [-1])
        if slot < self._ours:
            self.free(slot)

    def free(self, slot: int) -> None:
        """Give a slot back that is empty: a request has closed what was in it. No system call."""
        if slot not in self:
            raise ValueError(f"slot {int(slot)} is not in use: it was released already, or never allocated")
        self._taken.remove(slot)
        self._free.append(int(slot))

    def __contains__(self, slot: int) -> bool:
        return slot in self._taken

    def close(self) -> None:
        """Unregister the table, and with it close what is in there. Requests in flight go on."""
        if not self._closed and not self.ring.closed:
            self.ring.unregister_files()
        self._closed = True
        self._taken.clear()

    def __enter__(self) -> FixedFiles:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def __repr__(self):
        return f"<pyuring.registered.FixedFiles {len(self._taken)} of {self.count} slots taken>"


# -- provided buffers ------------------------------------------------------------------------------------
class Held:
    """What a CQE brought, in buffers that are not the kernel's again until release().

    views   memoryviews: one; several for a bundle; none where nothing came
    """

    __slots__ = ("views",)

    def __init__(self, views: list[memoryview]):
        self.views = views

    def release(self) -> None:
        """Give the buffers back. Each goes as soon as no request and no slice of its view uses it."""
        views, self.views = self.views, []
        for view in views:
            _let_go(view)

    def __bytes__(self) -> bytes:
        return b"".join(self.views)

    def __enter__(self) -> list[memoryview]:
        return self.views

    def __exit__(self, *exc_info) -> None:
        self.release()

    def _in_turn(self):
        try:
            while self.views:
                yield self.views[0]
                _let_go(self.views.pop(0))
        finally:
            self.release()


class _HeldView(Held):
    """The same, where it is one view."""

    __slots__ = ()

    def __enter__(self):
        return self.views[0] if self.views else memoryview(b"")


class BufferRing:
    """Buffers of which the kernel takes one when data is there, not when a request is made: a thousand
    connections that are mostly silent share a few.

        with BufferRing(ring, 64, 4096) as buffers:
            ring.prep_recv_multishot(sock, buf_group=buffers.bgid)      # with IOSQE_BUFFER_SELECT
            ring.submit()
            while True:
                cqe = ring.wait_cqe()
                with buffers.view(cqe) as data:
                    ring.prep_send(sock, data)      # no copy: the buffer comes back when that is done
                    ring.submit()

    entries    how many: a power of two, up to 32768
    size       bytes of each
    bgid       the buffer group, 0 to 65535; None for one that is free
    flags      IOU_PBUF_RING_MMAP: the ring lies in the kernel's memory (Linux 6.4)
               IOU_PBUF_RING_INC: a buffer is used up bit by bit, by one request after the other (6.12).
               Then each CQE has to come here, in order. Not for regular files: of a buffer they use up
               what was asked for, however short the read was (measured on 6.18)
    min_left   with INC: a buffer in which no more than that is left is used up
    provide    False: the kernel gets no buffers but those that push() fills, for sending (6.10)

    However the data of a CQE is looked at, its buffers come back by themselves:
        with buffers.view(cqe) as data       one memoryview, until the end of the block
        for data in buffers.take(cqe)        one after the other; also for bundles, which have several
        data = buffers.copy(cqe)             bytes, and the buffers are back at once
        held = buffers.hold(cqe)             until held.release(), perhaps much later
    A CQE of -ENOBUFS says that they were all out; a multishot request has ended with it.

    OSError EINVAL before Linux 5.19. io_uring_provided_buffers(7), io_uring_setup_buf_ring(3).
    """

    __slots__ = (
        "ring", "entries", "size", "bgid", "_mask", "_memory", "_address", "_window", "_entries", "_words", "_tail",
        "_bids", "_places", "_lengths", "_starts", "_uses", "_provide", "_free", "_news", "_watches", "_lock",
        "_busy", "_closed",
    )

    def __init__(self, ring: Ring, entries: int, size: int, bgid: int | None = None, *, flags: int = 0,
                 min_left: int = 0, provide: bool = True):
        check("entries", entries, 1, MAX_BUF_RING, "the kernel's limits")
        check("size", size, 1, MAX_BUFFER_SIZE, "a reasonable size")
        self.ring, self.entries, self.size = ring, entries, size
        self._mask = entries - 1
        self._memory = mmap.mmap(-1, entries * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._address, _, keeper = syscalls.writable(self._memory)
        self._window = syscalls.windows(self._memory, size)
        self.bgid = self._set_up(bgid, flags, min_left)
        shared = ring._registered["buf_ring", self.bgid]
        shared.keepers.append(keeper)
        self._entries, self._words = shared.view, shared.cast("H")

        self._tail = 0                          # a counter of 16 bits
        self._bids = [0] * entries              # which buffer each entry of the ring is about
        self._places = [-1] * entries           # of each buffer: the counter of its entry, -1 when it is ours
        self._lengths = [size] * entries
        self._starts = [0] * entries            # how much the kernel has used up (INC)
        self._uses = [0] * entries              # by the kernel, and by windows of ours
        self._provide = provide
        self._free: list[int] = []              # buffers for push()
        # What happened to uses: (buffer, change, bytes in it). From anywhere: a window may end in another
        # thread, or in the middle of any bytecode.
        self._news = deque((bid, 0, 0) for bid in range(entries))
        self._watches: dict[int, _Watch] = {}
        self._lock, self._busy = RLock(), False
        self._closed = False
        self._settle()

    def _set_up(self, bgid, flags, min_left):
        numbers = range(1 << 16) if bgid is None else (bgid,)
        for number in numbers:
            if ("buf_ring", number) in self.ring._registered and bgid is None:
                continue
            try:
                self.ring.setup_buf_ring(self.entries, number, flags, min_left=min_left)
            except OSError as error:
                if bgid is None and error.errno == EEXIST:      # by prep_provide_buffers()
                    continue
                raise
            return number
        raise NoneFree("all buffer groups of this ring are in use")

    # -- giving --------------------------------------------------------------------------------------
    def _settle(self):
        """Give the kernel what nobody uses any more."""
        while self._news:
            with self._lock:            # another thread waits here; the same one has it already, and
                if self._busy:          # is further up this stack, at one of the lines below
                    return
                try:
                    self._busy = True
                    self._work_off()
                finally:
                    self._busy = False

    def _work_off(self):
        if self._closed or self.ring._gone:
            self._news.clear()
            return
        uses = self._uses
        while self._news:
            bid, change, length = self._news.popleft()
            uses[bid] += change
            if uses[bid]:
                continue
            if self._provide or length:
                slot = self._tail & self._mask
                _ENTRY.pack_into(self._entries, slot * BUF.size, self._address + bid * self.size,
                                 length or self.size, bid)
                self._bids[slot], self._places[bid] = bid, self._tail
                self._lengths[bid], self._starts[bid] = length or self.size, 0
                uses[bid] = 1
                self._tail = self._tail + 1 & 0xFFFF
            else:
                self._free.append(bid)
        if self._words[_TAIL] != self._tail:
            # ordering   The kernel loads the tail with acquire, and may do so at any time: a worker
            #            thread picks buffers, too, even under DEFER_TASKRUN. So the entries must be
            #            seen before the tail is: release order, which the fence is more than enough for.
            #            Then one aligned store of 16 bits.
            # ownership  The entries, and the memory they name, are the kernel's from here on.
            syscalls.fence()
            self._words[_TAIL] = self._tail

    def push(self, data) -> None:
        """With provide=False: fill a buffer with these bytes and queue it behind the others, for
        prep_send(sock, None, buf_group=bgid) or prep_send_bundle(). NoneFree if all are queued, or not
        given back yet: give_back(), with the CQEs that say they are sent.

        data   1 to `size` bytes; copied
        """
        data = memoryview(data).cast("B")
        if self._provide:
            raise ValueError("this BufferRing has given all its buffers to the kernel: make one with provide=False "
                             "for sending")
        check("the length of data", len(data), 1, self.size, "what a buffer holds")
        try:
            bid = self._free.pop()
        except IndexError:
            raise NoneFree(f"all {self.entries} buffers are in use: give_back() those that are sent") from None
        self._memory[bid * self.size:bid * self.size + len(data)] = data
        self._news.append((bid, 0, len(data)))
        self._settle()

    # -- taking --------------------------------------------------------------------------------------
    def hold(self, cqe) -> Held:
        """What this CQE brought, until release() gives it back: from anywhere, as late as you like.

        ValueError for a CQE whose buffer was taken already.
        """
        return Held([self._lend(*piece) for piece in self._taken(cqe)])

    def view(self, cqe) -> _HeldView:
        """`with buffers.view(cqe) as data`: what this CQE brought, as one memoryview, until the end of the
        block; of 0 bytes where it brought nothing. ValueError for a bundle of several buffers: take().
        """
        res, flags = cqe[1], cqe[2]
        if flags & IORING_CQE_F_BUFFER:
            bid = flags >> IORING_CQE_BUFFER_SHIFT
            if bid < self.entries and res > self._lengths[bid] - self._starts[bid]:
                raise ValueError(f"{res} bytes are in several buffers: take() them one by one, or copy()")
        return _HeldView([self._lend(*piece) for piece in self._taken(cqe)])

    def take(self, cqe) -> Iterator[memoryview]:
        """`for data in buffers.take(cqe)`: what this CQE brought, buffer for buffer. Each is given back
        when the loop goes on."""
        return self.hold(cqe)._in_turn()

    def copy(self, cqe) -> bytes:
        """What this CQE brought, copied; the buffers are given back at once."""
        pieces = self._taken(cqe)
        data = b"".join([self._memory[bid * self.size + start:bid * self.size + start + size]
                         for bid, start, size in pieces])
        self._news.extend([(bid, -1, 0) for bid, _, _ in pieces])
        self._settle()
        return data

    def give_back(self, cqe) -> None:
        """Give the buffers of this CQE back without a look at them."""
        self._news.extend([(bid, -1, 0) for bid, _, _ in self._taken(cqe)])
        self._settle()

    def _taken(self, cqe):
        """Where its data lies: (buffer, offset, bytes) of each piece, which each is a use of the buffer."""
        # A bundle names the first of its buffers, and the others follow in the order in which they were
        # put into the ring. All but the last are full.
        res, flags = cqe[1], cqe[2]
        if not flags & IORING_CQE_F_BUFFER:
            return []
        bid = flags >> IORING_CQE_BUFFER_SHIFT
        if bid >= self.entries:
            raise ValueError(f"buffer {bid} is none of group {self.bgid}: the CQE is of another group")
        left, place = max(res, 0), self._places[bid]
        pieces = []
        while True:
            if place < 0 or place != self._places[bid]:
                raise ValueError(f"buffer {bid} of group {self.bgid} is not the kernel's: this CQE was taken "
                                 "already, or is of another group")
            start = self._starts[bid]
            size = min(left, self._lengths[bid] - start)
            left -= size
            if not left and flags & IORING_CQE_F_BUF_MORE:
                self._starts[bid] = start + size        # the kernel goes on with the rest of it
                if size:
                    self._news.append((bid, +1, 0))
            else:
                self._places[bid] = -1                  # the piece is its user now, instead of the kernel
                if not size:
                    self._news.append((bid, -1, 0))
            if size:
                pieces.append((bid, start, size))
            if not left:
                break
            place = place + 1 & 0xFFFF
            bid = self._bids[place & self._mask]
        self._settle()
        return pieces

    def _lend(self, bid, start, size):
        window = self._window(bid)
        watch = _Watch(window, self._gone)
        watch.number = bid
        self._watches[id(watch)] = watch
        return memoryview(window).cast("B")[start:start + size]

    def _gone(self, watch):
        self._watches.pop(id(watch), None)
        self._news.append((watch.number, -1, 0))
        self._settle()

    # -- the rest ------------------------------------------------------------------------------------
    @property
    def available(self) -> int:
        """How many buffers are the kernel's, as far as CQEs have been taken."""
        return sum(place >= 0 for place in self._places)

    def close(self) -> None:
        """Unregister the group. Requests in flight, and views, keep what they use; requests that want a
        buffer after that find none (-ENOBUFS)."""
        if not self._closed and not self.ring.closed:
            self.ring.free_buf_ring(self.bgid)
        self._closed = True

    def __enter__(self) -> BufferRing:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def __repr__(self):
        return (f"<pyuring.registered.BufferRing bgid={self.bgid} {self.available} of {self.entries} with the "
                f"kernel, {self.size} bytes each>")
