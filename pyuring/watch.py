"""watch.py - how a ring is watched: what pyuring.trace() and the `explain` command are made of.

A Watch tells of each enter, of the SQEs that it hands over, and of CQEs as they are taken; a Trace prints that.

How it gets in between, and out again
-------------------------------------
Every enter of every ring goes through the one name syscalls.enter. While anything is traced that name
stands for a function that looks whose ring it is; afterwards it is the real one again. So an enter can't be
missed, whichever path leads there, and a ring costs nothing when no ring of the process is traced (while one
is, the others pay for a look into a short list).

CQEs are taken without any system call, so for those the ring gets another class for a while: a subclass of
its own that overrides the few methods which move the CQ head, and that sends run() the long way round.

Read decode.py for what is printed of an entry; read next: explain.py.
"""
from __future__ import annotations

import struct
import time
from _thread import get_ident

from . import abi, syscalls
from .arguments import U32
from .ring import Ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

_watches: list[Watch] = []          # those that are on, of this process
_real_enter: Any = None             # what syscalls.enter was before the first of them


class Watch:
    """Calls tell(kind, fields) with everything a ring does, until close().

    kind       fields
    enter      fd, to_submit, min_complete, flags, timeout (seconds, or None), sq, cq (each (head, tail)), sqes
    entered    result (as the system call gave it, or -errno), elapsed (seconds), sq, cq
    published  sq, cq, sqes: handed to the kernel's thread without a system call (SQPOLL)
    reaped     cq, before (the head, before), cqes
    register   opcode, nr_args, result
    sqes, cqes are lists of (number, decode.Entry), where the number is the counter at which it lay in the
    queue.
    """

    def __init__(self, ring: Ring, tell) -> None:
        if ring.closed:
            raise ring._unusable()
        if any(watch.ring is ring for watch in _watches):
            raise ValueError(f"{ring!r} is traced already")
        from . import decode        # only who traces pays for that import
        self._decode = decode
        self.ring = ring
        self._tell = tell
        self._class = type(ring)
        self._opcodes: dict[int, int] = {}      # user_data -> opcode, of what is under way
        ring.__class__ = _traced(self._class)
        _begin(self)

    def close(self) -> None:
        """End it: the ring is as it was."""
        if self in _watches:
            _end(self)
            self.ring.__class__ = self._class

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    # -- what it sees -----------------------------------------------------------------------------
    def queues(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((SQ head, tail), (CQ head, tail)) as they are in the shared memory now."""
        ring = self.ring
        sq, cq = ring._sq, ring._cq
        return (sq[ring._sq_head], sq[ring._sq_tail]), (cq[ring._cq_head], cq[ring._cq_tail])

    def is_for(self, fd: int, flags: int) -> bool:
        """Whether an enter with this fd and these flags is this ring's. A registered number (see
        register_ring_fd()) is a thread's own, and other threads may have the same."""
        ring = self.ring
        return fd == ring._enter_fd and not (flags ^ ring._enter_flags) & abi.IORING_ENTER_REGISTERED_RING \
            and (not flags & abi.IORING_ENTER_REGISTERED_RING or ring._owner == get_ident())

    def entering(self, fd: int, to_submit: int, min_complete: int, flags: int) -> None:
        """Tell of an enter that is about to be made."""
        sq, cq = self.queues()
        # With SQ_REWIND the kernel begins at SQE 0 each time, whatever head and tail say.
        first = 0 if self.ring._rewinds else sq[0]
        timeout = None
        if flags & abi.IORING_ENTER_EXT_ARG and not flags & abi.IORING_ENTER_EXT_ARG_REG:
            seconds, nanoseconds = abi.TIMESPEC.unpack(self.ring._wait_timespec)
            timeout = seconds + nanoseconds / 1e9
        self._tell("enter", {"fd": fd, "to_submit": to_submit, "min_complete": min_complete, "flags": flags,
                             "timeout": timeout, "sq": sq, "cq": cq, "sqes": self.sqes(first, to_submit)})

    def entered(self, result: int, elapsed: float) -> None:
        """Tell how it went."""
        sq, cq = self.queues()
        self._tell("entered", {"result": result, "elapsed": elapsed, "sq": sq, "cq": cq})

    def published(self, first: int) -> None:
        """Tell of SQEs from counter `first` to the tail, which the kernel's own thread takes."""
        sq, cq = self.queues()
        if sq[1] != first:
            self._tell("published", {"sq": sq, "cq": cq, "sqes": self.sqes(first, (sq[1] - first) & U32)})

    def reaped(self, head: int, raw_cqes: list[bytes]) -> None:
        """Tell of CQEs that were taken from counter `head` on."""
        _, cq = self.queues()
        if raw_cqes:
            self._tell("reaped", {"cq": cq, "before": head, "cqes": [
                ((head + i) & U32, self._answer(raw)) for i, raw in enumerate(raw_cqes)]})

    def registered(self, opcode: int, nr_args: int, result: int) -> None:
        """Tell of an io_uring_register."""
        self._tell("register", {"opcode": opcode, "nr_args": nr_args, "result": result})

    def sqes(self, first: int, count: int) -> list:
        """The `count` SQEs from counter `first` on, decoded."""
        ring, found, counter = self.ring, [], first
        end = (first + min(count, ring.sq_entries)) & U32
        size = 1 << ring._sqe_shift
        while counter != end:
            at = (counter & ring._sq_mask) << ring._sqe_shift
            raw = bytes(ring._sqes[at:at + size])
            slots = 1
            if ring.flags & abi.IORING_SETUP_SQE_MIXED and raw[0] in _WIDE:     # it has two slots
                raw, slots = bytes(ring._sqes[at:at + 128]), 2
            entry = self._decode.sqe(raw)
            self._opcodes[entry.user_data] = raw[0]
            found.append((counter, entry))
            counter = (counter + slots) & U32
            if (end - counter) & U32 > ring.sq_entries:     # half an SQE, which the kernel will refuse
                break
        return found

    def _answer(self, raw):
        user_data, _, flags = abi.CQE.unpack_from(raw)
        opcode = self._opcodes.get(user_data)
        if not flags & abi.IORING_CQE_F_MORE:
            self._opcodes.pop(user_data, None)
        return self._decode.cqe(raw, opcode)


_WIDE = (abi.IORING_OP_NOP128, abi.IORING_OP_URING_CMD128)


# -- getting in between --------------------------------------------------------------------------------
def _begin(watch):
    global _real_enter
    if not _watches:
        _real_enter, syscalls.enter = syscalls.enter, _enter
    _watches.append(watch)


def _end(watch):
    _watches.remove(watch)
    if not _watches:
        syscalls.enter = _real_enter


def _enter(fd, to_submit, min_complete, flags, arg=None, size=0):
    """Stands for syscalls.enter while a ring is traced."""
    watch = next((watch for watch in _watches if watch.is_for(fd, flags)), None)
    if watch is None:
        return _real_enter(fd, to_submit, min_complete, flags, arg, size)
    watch.entering(fd, to_submit, min_complete, flags)
    began = time.perf_counter()
    result = _real_enter(fd, to_submit, min_complete, flags, arg, size)
    watch.entered(result, time.perf_counter() - began)
    return result


def _watch_of(ring):
    return next(watch for watch in _watches if watch.ring is ring)


class _Traced:
    """Put before a ring's class while it is traced: the methods that do something without an enter."""

    __slots__ = ()

    def _take(self, max):
        head = self._cq[self._cq_head]
        taken = super()._take(max)
        _watch_of(self).reaped(head, [
            abi.CQE.pack(*cqe) + (struct.pack("=QQ", *cqe.big_cqe) if hasattr(cqe, "big_cqe") else b"")
            for cqe in taken])
        return taken

    def _take_bytes(self):
        head = self._cq[self._cq_head]
        raw = super()._take_bytes()
        _watch_of(self).reaped(head, [raw[at:at + 16] for at in range(0, len(raw), 16)])
        return raw

    def run(self, batch, wait_nr=None):
        self._ran = None            # the short way takes CQEs by itself
        return super().run(batch, wait_nr)

    def _publish(self):
        first = self._sq[self._sq_tail]
        tail = super()._publish()
        if self._sqpoll:
            _watch_of(self).published(first)
        return tail

    def _register(self, opcode, arg=None, nr_args=0):
        result = super()._register(opcode, arg, nr_args)
        _watch_of(self).registered(opcode, nr_args, result)
        return result

    def _release(self, why):
        super()._release(why)
        _watch_of(self).close()     # of a ring that is closed, or left to the parent by a fork


_classes: dict[type, type] = {}


def _traced(kind):
    """A subclass of a Ring's class that lies in memory as that does, so that a ring can change over."""
    if kind not in _classes:
        _classes[kind] = type(kind.__name__, (_Traced, kind), {"__slots__": (), "__doc__": kind.__doc__,
                                                               "__module__": kind.__module__})
    return _classes[kind]


# -- printing ------------------------------------------------------------------------------------------
class Trace(Watch):
    """What pyuring.trace() makes. `with` it, or close() it: that ends the printing, and leaves the ring as it was."""

    def __init__(self, ring: Ring, file: TextIO, fields: bool = False) -> None:
        self._file = file
        self._fields = fields
        super().__init__(ring, self._print)

    def _print(self, kind, fields):
        self._file.write("".join(line + "\n" for line in lines_of(kind, fields, self._fields)))
        self._file.flush()


def lines_of(kind: str, told: dict, fields: bool = False) -> list[str]:
    """What a Watch told, for people. `fields`: each entry as a table, not in one line."""
    if kind == "enter":
        lines = [f"enter(fd {told['fd']}, to_submit {told['to_submit']}, min_complete {told['min_complete']}, "
                 f"{_enter_flags(told)})   {_queues(told)}"]
    elif kind == "entered":
        return [f"  = {_result(told['result'])} in {in_words(told['elapsed'])}   {_queues(told)}"]
    elif kind == "published":
        lines = [f"published, for the kernel's thread   {_queues(told)}"]
    elif kind == "reaped":
        lines = [f"reaped: CQ head {told['before']} -> {told['cq'][0]}"]
    else:
        assert kind == "register"
        return [f"register({_register_name(told['opcode'])}, {told['nr_args']}) = {_result(told['result'])}"]
    for what in ("sqes", "cqes"):
        for number, entry in told.get(what, ()):
            if fields:
                name = {"SQE": entry.name, "CQE": f"answers {entry.name}" if entry.name else ""}[entry.kind]
                lines.append(f"  {entry.kind} {number}: {name}")
                lines += ["    " + line for line in entry.lines()]
            else:
                lines.append(f"  {entry.kind} {number}: {entry.brief()}")
    return lines


def _queues(told):
    (sq_head, sq_tail), (cq_head, cq_tail) = told["sq"], told["cq"]
    return f"SQ head {sq_head} tail {sq_tail}   CQ head {cq_head} tail {cq_tail}"


def _enter_flags(told):
    from . import decode
    flags = decode.enter_flags(told["flags"]).replace("IORING_ENTER_", "")
    return flags if told["timeout"] is None else f"{flags}, timeout {in_words(told['timeout'])}"


def _result(result):
    if result >= 0:
        return str(result)
    from . import decode
    return decode.errno_text(result)


def _register_name(opcode):
    number = opcode & ~abi.IORING_REGISTER_USE_REGISTERED_RING
    names = [name for name, value in vars(abi).items() if value == number
             and name.startswith(("IORING_REGISTER_", "IORING_UNREGISTER_"))
             and not name.startswith(("IORING_REGISTER_SRC_", "IORING_REGISTER_DST_"))]
    return names[0] if names else str(number)


def in_words(seconds: float) -> str:
    """A span of time with its unit: us below a millisecond, ms below a second, else s."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    # From 0.9995 s on three digits would be 1e+03 ms.
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.6g} s"
