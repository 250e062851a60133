"""tracing.py - trace(ring): what a ring does, printed as it does it, the way strace prints system calls.

    with pyuring.trace(ring):           # to stderr
        ring.prep_nop(user_data=7)
        ring.submit_and_wait(1)
        ring.reap()

    enter(fd 3, to_submit 1, min_complete 1, GETEVENTS)   SQ head 0 tail 1   CQ head 0 tail 0
      SQE 0: NOP user_data=7
      = 1 in 14 us   SQ head 1 tail 1   CQ head 0 tail 1
    reaped: CQ head 0 -> 1
      CQE 0: NOP user_data=7 res=0

Only the door: how that works stands in watch.py, to be read next, and what is printed of an entry in decode.py.
"""
from __future__ import annotations

import sys

from .ring import Ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from .watch import Trace


def trace(ring: Ring, file: TextIO | None = None, *, fields: bool = False) -> Trace:
    """Print what a ring does from now on: each io_uring_enter with its arguments and result, the SQEs that it
    hands over, the CQEs as they are reaped, heads and tails before and after.

    ring     any pyuring.Ring that is not closed; for the thread that owns it. ValueError if it is traced already
    file     a text stream; None for sys.stderr. Flushed after each line, as an enter may wait for ever
    fields   True: each entry as a table with its raw bytes; False: in one line

    -> a Trace, for `with`, or whose close() ends it; so does closing the ring. The ring goes on either way, and
    is kept alive meanwhile. What the SQEs point to (addresses, times, paths) is read before the kernel is
    entered, and shown, too.

    A request that goes to the kernel without an enter (SQPOLL) is shown when it is published. What is shown
    costs tens of microseconds an entry, so timing under it is not the ring's own.
    """
    from .watch import Trace        # only who traces pays for that import
    return Trace(ring, sys.stderr if file is None else file, fields)
