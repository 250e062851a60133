"""resources.py - what a ring is lent for longer than a request: buffers, files, buffer rings, regions.

The half of io_uring_register(2) that hands memory and files over; registration.py has the other one,
and says what goes for both. Ring inherits all of it. Read next: registered.py.

Some facts about the memory of a registration
---------------------------------------------
The kernel takes hold of the pages of a registered buffer and writes to them however Python uses that
memory by then. So the buffer stays where it is, from before the call: `_registered` has its keeper.
When may that go? Unregistering is not the end: since Linux 6.13 it returns at once, and requests that
were in flight go on with the old buffer (io_sqe_buffers_unregister() in io_uring/rsrc.c; before, it
waited for them). Two things tell:
    a tag          its CQE comes when the last user of the buffer is done. So a tag is a request to
                   us: it is in _inflight, its keeper in _keepers, and reap() lets go of both
    without one    as soon as every request that was in flight then has ended, which is looked at
                   whenever something else is registered; or when the ring is closed
Memory of a buffer ring likewise, and what its buffers are in.
"""
from __future__ import annotations

import mmap
import struct
from _thread import get_ident

from . import abi, errors, syscalls
from .arguments import U32, U64, check_timeout, fileno, timespec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_FILES = 1 << 20         # IORING_MAX_FIXED_FILES in io_uring/rsrc.c
MAX_BUFFERS = 1 << 14       # IORING_MAX_REG_BUFFERS; before Linux 5.13 it was UIO_MAXIOV, 1024
MAX_BUFFER_SIZE = 1 << 30   # io_validate_user_buf_range()
MAX_BUF_RING = 1 << 15      # io_register_pbuf_ring() in io_uring/kbuf.c: head and tail have 16 bits

_IOVEC = struct.Struct("PN")                # struct iovec, as this process has it


class Shared:
    """Memory that a registration shares with the kernel, until one of the two lets go of it.

    view      its bytes; released at the end, so that nobody writes to what is the kernel's no longer
    keepers   what has to stay as long as requests that were in flight then
    """

    __slots__ = ("view", "keepers", "_views", "_mapping")

    def __init__(self, memory, mapping=None):
        _, _, keeper = syscalls.writable(memory)
        self.view = memoryview(memory).cast("B")
        self.keepers = [keeper]
        self._views = [self.view]
        self._mapping = mapping         # what is to be unmapped in the end

    def cast(self, format: str) -> memoryview:
        """The same memory in another format, released together with the rest."""
        view = self.view.cast(format)
        self._views.append(view)
        return view

    def close(self) -> None:
        """Release the views, unmap the memory. May be called twice."""
        self.keepers = []
        for thing in self._views:
            try:
                thing.release()
            except BufferError:         # somebody has made a buffer of it: not ours to take away
                pass
        if self._mapping is not None:
            try:
                self._mapping.close()
            except BufferError:         # likewise; it goes with the last of them
                pass


class Resources:
    """The register_* methods of a Ring that hand over memory and files."""

    __slots__ = ()

    # What Ring supplies: the system call, -> zero or more, or -errno; who is in flight; and room for
    # keepers: "buffers" has (keeper, tag) for each slot, "retired" what was unregistered, "asked" what
    # a call is about that has not returned (or was interrupted by Ctrl-C); others are Shared.
    _register: Callable[..., int]
    _check_owner: Callable[[], None]
    _owner: int | None
    _owed: Callable[[], set]
    _registered: dict
    _inflight: dict[int, int]
    _silent: set[int]
    _keepers: dict[int, list]
    fd: int

    def _registering(self, name, opcode, arg=None, nr_args=0):
        """The system call; its failure is an OSError that bears the operation's name."""
        result = self._register(opcode, arg, nr_args)
        if result < 0:
            raise errors.os_error(-result, name)
        return result

    # -- memory: when it goes, see the head of this file -----------------------------------------------
    def _pinning(self, keepers, tags, name, opcode, arg, nr_args, *, update=False):
        """_registering() with keepers that are in place before the call -> how many slots it changed."""
        if self._owner != get_ident():
            self._check_owner()
        asked = self._registered.setdefault("asked", [])
        asked.append(keepers)           # if Ctrl-C ends this, they stay there until the ring is closed
        self._promise(keepers, tags)
        result = self._register(opcode, arg, nr_args)
        done = max(result, 0) if update or result < 0 else len(keepers)
        self._unpromise(keepers[done:], tags[done:])
        if result < 0:
            asked.pop()
            raise errors.os_error(-result, name)
        return done

    def _settle(self):
        """What _pinning() was about has its place now."""
        self._registered["asked"].pop()

    def _promise(self, keepers, tags):
        for keeper, tag in zip(keepers, tags):
            if tag:
                self._inflight[tag] = self._inflight.get(tag, 0) + 1
                if keeper is not None:
                    self._keepers.setdefault(tag, []).append(keeper)

    def _unpromise(self, keepers, tags):
        # Nothing was reaped since _promise(): each one's is still the last.
        for keeper, tag in zip(reversed(keepers), reversed(tags)):
            if tag:
                if keeper is not None:
                    self._keepers[tag].pop()
                    if not self._keepers[tag]:
                        del self._keepers[tag]
                self._inflight[tag] -= 1
                if not self._inflight[tag]:
                    del self._inflight[tag]

    def _live_tags(self):
        """Tags of buffers that are registered, and how often: they count as in flight, and are no requests."""
        live: dict[int, int] = {}
        for _, tag in self._registered.get("buffers", ()):
            live[tag] = live.get(tag, 0) + 1
        return live

    def _retire(self, keepers):
        """Let go of what was unregistered, as soon as nothing that was in flight then is."""
        live = self._live_tags()
        owed = {user_data for user_data in self._owed()
                if user_data in self._silent or self._inflight.get(user_data, 1) > live.get(user_data, 0)}
        retired = [(theirs & owed, kept) for theirs, kept in self._registered.get("retired", ())]
        retired.append((owed, keepers))
        self._registered["retired"] = [(theirs, kept) for theirs, kept in retired if theirs and kept]

    def _replace(self, off, entries):
        """Slots from `off` on have these (keeper, tag) now, as _pinning() has made sure."""
        table = self._registered.setdefault("buffers", [])
        table.extend([(None, 0)] * (off + len(entries) - len(table)))
        self._retire([keeper for keeper, tag in table[off:off + len(entries)] if keeper is not None and not tag])
        table[off:off + len(entries)] = entries
        self._settle()

    def _registered_memory(self):
        """All keepers there are, for a ring that is closed while requests may be in flight."""
        return [shared.keepers if isinstance(shared, Shared) else shared for shared in self._registered.values()]

    def _forget_registered(self):
        """The ring is gone: unmap what the kernel lent, and let go of everything."""
        for shared in self._registered.values():
            if isinstance(shared, Shared):
                shared.close()
        self._registered.clear()

    # -- buffers ---------------------------------------------------------------------------------------
    def register_buffers(self, buffers: Sequence) -> None:
        """Map buffers into the kernel once and for all, for prep_read_fixed() and other prep_*_fixed:
        number i is buf_index=i there.

        buffers   up to 16384 writable buffers (1024 before Linux 5.13) of 1 byte to 1 GiB; None for
                  an empty slot (5.13). They can't be resized until they are unregistered
        OSError: EBUSY where there is a table; ENOMEM beyond RLIMIT_MEMLOCK, which counts every page.
        Linux 5.1. io_uring_register_buffers(3), io_uring_registered_buffers(7).
        """
        iovecs, keepers = _iovecs(buffers)
        self._pinning(keepers, [], "register_buffers", abi.IORING_REGISTER_BUFFERS,
                      syscalls.pin(iovecs), len(keepers))
        self._replace(0, [(keeper, 0) for keeper in keepers])

    def register_buffers_tags(self, buffers: Sequence, tags: Sequence[int]) -> None:
        """As register_buffers(), and tell when each is free: a CQE whose user_data is the buffer's tag,
        once it is unregistered or replaced and no request uses it any more. 0 is no tag.

        OSError as for register_buffers(). Linux 5.13. io_uring_register_buffers_tags(3).
        """
        iovecs, keepers = _iovecs(buffers)
        tags = _check_tags(tags, len(keepers))
        self._register_rsrc("register_buffers_tags", abi.IORING_REGISTER_BUFFERS2, iovecs, keepers, tags)
        self._replace(0, list(zip(keepers, tags)))

    def register_buffers_sparse(self, nr: int) -> None:
        """Make a table of `nr` empty slots, for register_buffers_update_tag() to fill.

        OSError: EBUSY where there is a table, EINVAL before Linux 5.19. io_uring_register_buffers_sparse(3).
        """
        check("nr", nr, 1, MAX_BUFFERS)
        self._register_sparse("register_buffers_sparse", abi.IORING_REGISTER_BUFFERS2, nr)

    def register_buffers_update_tag(self, off: int, buffers: Sequence, tags: Sequence[int] | None = None) -> int:
        """Replace the buffers from slot `off` on -> how many were: fewer, if one in the middle failed.

        buffers, tags   as for register_buffers_tags(); None empties a slot
        Requests that use an old buffer go on with it. OSError: ENXIO where there is no table, EINVAL beyond
        its end; else as for register_buffers(). Linux 5.13. io_uring_register_buffers_update_tag(3).
        """
        check("off", off, 0, U32)
        iovecs, keepers = _iovecs(buffers)
        tags = _check_tags(tags, len(keepers))
        done = self._update_rsrc("register_buffers_update_tag", abi.IORING_REGISTER_BUFFERS_UPDATE, off,
                                 iovecs, keepers, tags)
        self._replace(off, list(zip(keepers, tags))[:done])
        return done

    def unregister_buffers(self) -> None:
        """Undo register_buffers() and its kin. OSError ENXIO where there is no table.

        Linux 5.1. Before 6.13 it waits until no request uses them. io_uring_unregister_buffers(3).
        """
        self._registering("unregister_buffers", abi.IORING_UNREGISTER_BUFFERS)
        table = self._registered.get("buffers", ())
        self._retire([keeper for keeper, tag in table if keeper is not None and not tag])
        self._registered.pop("buffers", None)

    def clone_buffers(self, src: Resources | int) -> None:
        """Register the same buffers as another ring, without the cost of mapping them again.

        src   a Ring, whose buffers then stay in place for this one, too; or a ring's file descriptor,
              and then that is yours to see to
        OSError: EBUSY where there is a table; ENXIO where `src` has none; EEXIST where it is another
        thread's. Linux 6.12. io_uring_clone_buffers(3).
        """
        self.clone_buffers_offset(src, 0, 0, 0)

    def clone_buffers_offset(self, src: Resources | int, dst_off: int, src_off: int, nr: int, flags: int = 0) -> None:
        """As clone_buffers(), for `nr` of them: from slot `src_off` there to `dst_off` here. 0 for all.

        flags   IORING_REGISTER_DST_REPLACE: what is here may be overwritten, and more appended (else EBUSY)
        Linux 6.13. io_uring_clone_buffers_offset(3).
        """
        theirs = []
        if isinstance(src, Resources):
            theirs = src._registered.get("buffers", [])
            if src.fd < 0:              # only a number is left of it
                flags |= abi.IORING_REGISTER_SRC_REGISTERED
            number = src._enter_fd if src.fd < 0 else src.fd
        else:
            number = fileno(src)
        for name, value in (("dst_off", dst_off), ("src_off", src_off), ("nr", nr), ("flags", flags)):
            check(name, value, 0, U32)
        cloned = [keeper for keeper, _ in (theirs[src_off:src_off + nr] if nr else theirs)]
        data = bytearray(abi.CLONE_BUFFERS.pack(number & U32, flags, src_off, dst_off, nr))
        self._pinning(cloned, [], "clone_buffers", abi.IORING_REGISTER_CLONE_BUFFERS, syscalls.pin(data), 1)
        self._replace(dst_off, [(keeper, 0) for keeper in cloned])

    # -- files -----------------------------------------------------------------------------------------
    def register_files(self, files: Sequence) -> None:
        """Make a table of open files: with IOSQE_FIXED_FILE, fd i in a request is number i of these.

        files   ints, or objects with fileno(); None or -1 for an empty slot. They stay open for the
                ring, whoever closes them
        OSError: EBUSY where there is a table; EMFILE beyond RLIMIT_NOFILE (liburing would raise that
        limit; we leave it to you); EBADF for one that is closed, or a ring.
        Linux 5.1. io_uring_register_files(3), io_uring_registered_files(7).
        """
        fds = _fds(files)
        self._registering("register_files", abi.IORING_REGISTER_FILES, syscalls.pin(fds), len(fds) // 4)

    def register_files_tags(self, files: Sequence, tags: Sequence[int]) -> None:
        """As register_files(), with a CQE for each file that is let go of: see register_buffers_tags().

        OSError as for register_files(). Linux 5.13. io_uring_register_files_tags(3).
        """
        fds = _fds(files)
        tags = _check_tags(tags, len(fds) // 4)
        self._register_rsrc("register_files_tags", abi.IORING_REGISTER_FILES2, fds, [None] * len(tags), tags)
        self._settle()

    def register_files_sparse(self, nr_files: int) -> None:
        """Make a table of `nr_files` empty slots for direct descriptors (IOSQE_FIXED_FILE, file_index).

        OSError: EINVAL before Linux 5.19; EMFILE beyond RLIMIT_NOFILE; EBUSY where there is a table.
        io_uring_register_files_sparse(3).
        """
        check("nr_files", nr_files, 1, MAX_FILES, "the kernel's limit")
        self._register_sparse("register_files_sparse", abi.IORING_REGISTER_FILES2, nr_files)

    def register_files_update(self, off: int, files: Sequence) -> int:
        """Replace the files from slot `off` on -> how many were: fewer, if one in the middle failed.

        files   as for register_files(); IORING_REGISTER_FILES_SKIP leaves a slot as it is (Linux 5.12)
        Requests that use an old file go on with it. OSError: ENXIO where there is no table, EINVAL beyond
        its end, EBADF for the first that is closed. Linux 5.5. io_uring_register_files_update(3).
        """
        check("off", off, 0, U32)
        fds = _fds(files, abi.IORING_REGISTER_FILES_SKIP)
        address, _, keeper = syscalls.writable(fds)
        data = bytearray(abi.RSRC_UPDATE.pack(off, 0, address))
        done = self._registering("register_files_update", abi.IORING_REGISTER_FILES_UPDATE,
                                 syscalls.pin(data), len(fds) // 4)
        del keeper
        return done

    def register_files_update_tag(self, off: int, files: Sequence, tags: Sequence[int]) -> int:
        """As register_files_update(), OSErrors too, with tags. Linux 5.13. io_uring_register_files_update_tag(3)."""
        check("off", off, 0, U32)
        fds = _fds(files, abi.IORING_REGISTER_FILES_SKIP)
        tags = _check_tags(tags, len(fds) // 4)
        done = self._update_rsrc("register_files_update_tag", abi.IORING_REGISTER_FILES_UPDATE2, off, fds,
                                 [None] * len(tags), tags)
        self._settle()
        return done

    def unregister_files(self) -> None:
        """Undo register_files() and its kin. OSError ENXIO where there is no table.

        Linux 5.1. Before 6.13 it waits until no request uses them. io_uring_unregister_files(3).
        """
        self._registering("unregister_files", abi.IORING_UNREGISTER_FILES)

    def register_file_alloc_range(self, off: int, len: int) -> None:
        """Let IORING_FILE_INDEX_ALLOC take slots from `off` to `off + len` only.

        OSError EINVAL where the table ends before that. Linux 6.0. io_uring_register_file_alloc_range(3).
        """
        check("off", off, 0, U32)
        check("len", len, 0, U32)
        data = bytearray(abi.FILE_INDEX_RANGE.pack(off, len, 0))
        self._registering("register_file_alloc_range", abi.IORING_REGISTER_FILE_ALLOC_RANGE, syscalls.pin(data))

    def _register_rsrc(self, name, opcode, data, keepers, tags):
        address, _, data_keeper = syscalls.writable(data)
        tags_at, _, tags_keeper = syscalls.writable(bytearray(struct.pack(f"={len(tags)}Q", *tags)))
        arg = bytearray(abi.RSRC_REGISTER.pack(len(tags), 0, 0, address, tags_at))
        self._pinning(keepers, tags, name, opcode, syscalls.pin(arg), len(arg))
        del data_keeper, tags_keeper            # their work is done when the call has returned

    def _register_sparse(self, name, opcode, nr):
        arg = bytearray(abi.RSRC_REGISTER.pack(nr, abi.IORING_RSRC_REGISTER_SPARSE, 0, 0, 0))
        self._registering(name, opcode, syscalls.pin(arg), len(arg))

    def _update_rsrc(self, name, opcode, off, data, keepers, tags):
        address, _, data_keeper = syscalls.writable(data)
        tags_at, _, tags_keeper = syscalls.writable(bytearray(struct.pack(f"={len(tags)}Q", *tags)))
        arg = bytearray(abi.RSRC_UPDATE2.pack(off, 0, address, tags_at, len(tags), 0))
        done = self._pinning(keepers, tags, name, opcode, syscalls.pin(arg), len(arg), update=True)
        del data_keeper, tags_keeper
        return done

    # -- provided buffers ------------------------------------------------------------------------------
    def register_buf_ring(self, ring_addr, ring_entries: int, bgid: int, flags: int = 0, *,
                          min_left: int = 0) -> None:
        """Register a ring of provided buffers: with IOSQE_BUFFER_SELECT and buf_group=bgid, a request
        takes one when it needs it. registered.BufferRing is all of this, and the buffers.

        ring_addr      writable buffer of 16 bytes an entry, at the start of a page as mmap.mmap(-1, n)
                       is: struct io_uring_buf (abi.BUF); None with IOU_PBUF_RING_MMAP. What its
                       entries point to is yours to keep in place
        ring_entries   a power of two, at most 32768
        bgid           the buffer group, 0 to 65535. OSError EEXIST where it is in use
        flags          IOU_PBUF_RING_MMAP (Linux 6.4), IOU_PBUF_RING_INC (6.12)
        min_left       with INC: a buffer in which no more than that is left is used up (newest kernels)
        Linux 5.19. io_uring_register_buf_ring(3), io_uring_provided_buffers(7).
        """
        check("ring_entries", ring_entries, 1, MAX_BUF_RING)
        if ring_entries & ring_entries - 1:
            raise ValueError(f"ring_entries {ring_entries} is not a power of two: give "
                             f"{1 << ring_entries.bit_length()}, or half of that")
        if (ring_addr is None) != bool(flags & abi.IOU_PBUF_RING_MMAP):
            raise ValueError("IOU_PBUF_RING_MMAP means that the memory is the kernel's: give either that flag or "
                             "a buffer of yours")
        shared = None
        address = 0
        if ring_addr is not None:
            address = pages_at(ring_addr, ring_entries * abi.BUF.size)
            shared = Shared(ring_addr)
        self._register_buf_ring(shared, address, ring_entries, bgid, flags, min_left)

    def _register_buf_ring(self, shared, address, ring_entries, bgid, flags, min_left):
        data = bytearray(abi.BUF_REG.size)
        for name, value, high in (("bgid", bgid, 0xFFFF), ("flags", flags, 0xFFFF), ("min_left", min_left, U32)):
            check(name, value, 0, high)
        abi.BUF_REG.pack_into(data, 0, address, ring_entries, bgid, flags, min_left)
        self._pinning([shared], [], "register_buf_ring", abi.IORING_REGISTER_PBUF_RING, syscalls.pin(data), 1)
        if shared is not None:
            self._registered["buf_ring", bgid] = shared
        self._settle()

    def unregister_buf_ring(self, bgid: int) -> None:
        """Undo register_buf_ring(). Requests that have taken a buffer go on with it; those that take one
        later find none (-ENOBUFS). OSError: ENOENT, or EINVAL, where there is no such group.

        Linux 5.19. io_uring_unregister_buf_ring(3).
        """
        check("bgid", bgid, 0, 0xFFFF)
        data = bytearray(abi.BUF_REG.pack(0, 0, bgid, 0, 0))
        self._registering("unregister_buf_ring", abi.IORING_UNREGISTER_PBUF_RING, syscalls.pin(data), 1)
        shared = self._registered.pop(("buf_ring", bgid), None)
        if shared is not None:
            self._retire(shared.keepers)
            shared.close()

    def setup_buf_ring(self, nentries: int, bgid: int, flags: int = 0, *, min_left: int = 0) -> memoryview:
        """register_buf_ring() with memory that is made here, or with IOU_PBUF_RING_MMAP by the kernel.
        -> its bytes: `nentries` times abi.BUF, all zero. They are released with the group.

        Linux 5.19. io_uring_setup_buf_ring(3).
        """
        if not flags & abi.IOU_PBUF_RING_MMAP:
            check("nentries", nentries, 1, MAX_BUF_RING)
            memory = mmap.mmap(-1, nentries * abi.BUF.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.register_buf_ring(memory, nentries, bgid, flags, min_left=min_left)
        else:
            if self.fd < 0:
                raise ValueError("this ring has no file descriptor to map a ring of the kernel's by: leave "
                                 "IOU_PBUF_RING_MMAP out")
            self.register_buf_ring(None, nentries, bgid, flags, min_left=min_left)
            try:
                self._registered["buf_ring", bgid] = self._mapped(
                    nentries * abi.BUF.size, abi.IORING_OFF_PBUF_RING | bgid << abi.IORING_OFF_PBUF_SHIFT)
            except BaseException:
                self.unregister_buf_ring(bgid)
                raise
        return self._registered["buf_ring", bgid].view

    def _mapped(self, size, offset):
        mapping = syscalls.map_ring(self.fd, size, offset)
        return Shared(mapping, mapping)

    def free_buf_ring(self, bgid: int) -> None:
        """Undo setup_buf_ring(). Linux 5.19. io_uring_free_buf_ring(3)."""
        self.unregister_buf_ring(bgid)

    def buf_ring_head(self, bgid: int) -> int:
        """Where the kernel stands in a ring of provided buffers: a counter of 16 bits, of buffers taken.

        OSError: ENOENT, or EINVAL, where there is no such ring. Linux 6.8. io_uring_buf_ring_head(3).
        """
        check("bgid", bgid, 0, 0xFFFF)
        data = bytearray(abi.BUF_STATUS.pack(bgid, 0))
        self._registering("buf_ring_head", abi.IORING_REGISTER_PBUF_STATUS, syscalls.pin(data), 1)
        return abi.BUF_STATUS.unpack(data)[1]

    # -- regions ---------------------------------------------------------------------------------------
    def register_region(self, size: int, flags: int = 0, *, memory=None) -> memoryview:
        """Share `size` bytes with the kernel, for good; a ring can have one such region. -> its bytes.

        size     a multiple of the page size
        flags    IORING_MEM_REGION_REG_WAIT_ARG: it holds times to wait, see register_wait_reg()
        memory   writable buffer of that size at the start of a page; None for the kernel's memory
        OSError: EBUSY for a second one; EINVAL for REG_WAIT_ARG on a ring that is enabled: it wants
        IORING_SETUP_R_DISABLED. Linux 6.13. io_uring_register_region(3).
        """
        check("size", size, mmap.PAGESIZE, 1 << 40)
        if size % mmap.PAGESIZE:
            raise ValueError(f"size {size} is no multiple of the page size, {mmap.PAGESIZE}")
        check("flags", flags, 0, U64)
        shared, address, kind = None, 0, 0
        if memory is not None:
            address, kind = pages_at(memory, size), abi.IORING_MEM_REGION_TYPE_USER
            shared = Shared(memory)
        region = bytearray(abi.REGION_DESC.pack(address, size, kind, 0, 0))
        at, _, keeper = syscalls.writable(region)
        data = bytearray(abi.MEM_REGION_REG.pack(at, flags))
        self._pinning([shared], [], "register_region", abi.IORING_REGISTER_MEM_REGION, syscalls.pin(data), 1)
        del keeper
        if shared is None:
            shared = self._mapped(size, abi.REGION_DESC.unpack(region)[4])
        self._registered["region"] = shared
        self._settle()
        return shared.view

    def register_wait_reg(self, waits: Sequence[bytes]) -> memoryview:
        """Times to wait that submit_and_wait_reg() names by number, so that none has to be handed over
        with each wait. -> their bytes: write reg_wait() to [64 * i:64 * i + 64] to change one.

        waits   what reg_wait() makes; the ring has to be disabled still, see register_region(), and OSErrors
                are as there. The bytes stay with the ring until it is closed
        Linux 6.13. io_uring_submit_and_wait_reg(3), io_uring_register_region(3).
        """
        data = b"".join(waits)
        if not data or len(data) % abi.REG_WAIT.size:
            raise ValueError(f"{len(data)} bytes are no list of waits: give what reg_wait() makes, "
                             f"{abi.REG_WAIT.size} bytes each")
        size = whole_pages(len(data))
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = self.register_region(size, abi.IORING_MEM_REGION_REG_WAIT_ARG, memory=memory)
        view[:len(data)] = data
        return view


def reg_wait(timeout: float | None = None, min_wait: float = 0.0) -> bytes:
    """`struct io_uring_reg_wait`, for register_wait_reg(): how long to wait.

    timeout    seconds; None waits for ever
    min_wait   seconds after which one completion is enough
    """
    ts = (0, 0) if timeout is None else timespec(timeout)
    check_timeout(min_wait)
    return abi.REG_WAIT.pack(*ts, min(round(min_wait * 1e6), U32),
                             0 if timeout is None else abi.IORING_REG_WAIT_TS, 0, 0)


# -- Python objects as the kernel wants them ---------------------------------------------------------------
def check(name: str, value: int, low: int, high: int, what: str = "what fits there") -> None:
    """A number that the kernel would refuse, or that does not fit its field, is refused here, by name."""
    if not isinstance(value, int):
        raise TypeError(f"{name} {value!r} is not an int: give a number")
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is outside {low}..{high}, {what}")


def whole_pages(size: int) -> int:
    """`size`, rounded up to the end of a page."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def pages_at(buffer, size: int) -> int:
    """The address of a writable buffer that starts a page and has at least `size` bytes."""
    address, length, _ = syscalls.writable(buffer)
    if length < size or address % mmap.PAGESIZE:
        raise ValueError(f"{length} bytes at {address:#x}: give {size} at the start of a page, as "
                         f"mmap.mmap(-1, {size}) has")
    return address


def _fds(files, lowest=-1):
    """An array of int32; -1 for an empty slot."""
    fds = bytearray()
    for file in files:
        number = -1 if file is None else fileno(file)
        check("fd", number, lowest, (1 << 31) - 1)
        fds += struct.pack("=i", number)
    if not fds:
        raise ValueError("no files: give at least one, or register_files_sparse()")
    return fds


def _iovecs(buffers):
    """(an array of struct iovec, the keepers of what they point to)."""
    iovecs, keepers = bytearray(), []
    for number, buffer in enumerate(buffers):
        address, size, keeper = (0, 0, None) if buffer is None else syscalls.writable(buffer)
        if buffer is not None:
            check(f"the size of buffer {number}", size, 1, MAX_BUFFER_SIZE, "the kernel's limits")
        iovecs += _IOVEC.pack(address, size)
        keepers.append(keeper)
    check("how many buffers there are,", len(keepers), 1, MAX_BUFFERS, "the kernel's limits")
    return iovecs, keepers


def _check_tags(tags, nr):
    tags = [0] * nr if tags is None else list(tags)
    for tag in tags:
        check("tag", tag, 0, U64)
    if len(tags) != nr:
        raise ValueError(f"{len(tags)} tags for {nr}: give one for each, 0 for none")
    return tags
