"""02_nop_through_ring.py - the same NOP through pyuring.Ring, with heads and tails printed.

New here: the Ring. Before: 01_three_syscalls.py. Needs Linux 5.1.
What to see: who moves which counter. prep_* fills SQEs, which nobody has seen yet; submit()
publishes our tail, and the kernel moves the head when it has taken them; it then moves the CQ's
tail, and reap() moves the CQ's head.

Try: prep five NOPs, so that the fifth finds the ring full. Then Ring(4, submit_when_full=True).
Next: 03_connect_timeout.py.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring


def show(ring, when):
    # Private names: this is the inside of the ring, which a program need not know.
    sq, cq = ring._sq, ring._cq
    print(f"{when:<28} SQ head {sq[ring._sq_head]} tail {sq[ring._sq_tail]}"
          f"  (ours {ring._sqe_tail})   CQ head {cq[ring._cq_head]} tail {cq[ring._cq_tail]}")


def main():
    try:
        ring = pyuring.Ring(4)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    with ring:
        print(ring)
        show(ring, "a new ring")
        for user_data in (10, 20, 30):
            ring.prep_nop(user_data=user_data)
            show(ring, f"prep_nop(user_data={user_data})")
        print("submit() ->", ring.submit())
        show(ring, "submitted")
        for cqe in ring.reap():
            print("reap() ->", cqe)
        show(ring, "reaped")


main()
