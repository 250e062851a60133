"""02_heads_and_tails.py - NOPs through pyuring.Ring, with heads and tails printed at each step.

New here: the Ring, and who moves which counter. prep_*() fills SQEs in, which nobody has seen yet.
submit() publishes our tail and calls io_uring_enter; in there the kernel moves the SQ's head over
what it has taken, and the CQ's tail over its answers. reap() moves the CQ's head. "ours" is our own
count of what is filled in, ahead of the SQ's tail, which the kernel sees, until that is published.
Before: 01_three_syscalls.py, where all of this was done by hand.
Needs Linux 5.1.

Heads and tails only ever grow, and wrap at 2**32. Which slot of the array one means is `counter & mask`,
where mask = entries - 1: in the second round the tail is 6, and 6 & 3 is 2. Look at the drawings: the
requests go round.

Try: ROUND = (10, 20, 30, 40, 50). The fifth finds all 4 SQEs taken, and SubmissionQueueFull says
what to do. Then Ring(4, submit_when_full=True): the fifth prep_nop() submits the four before it.
Or `with ring, pyuring.trace(ring, sys.stdout):`, which prints each SQE, CQE and counter as it goes.
Next: 03_out_of_order.py.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring

ROUND = (10, 20, 30)                # the user_data of the requests in each round


def drawing(head, tail, entries):
    """Slots as the ring's array has them: # between head and tail, so in use; . free."""
    in_use = {counter % entries for counter in range(head, tail)}
    return "".join(".#"[slot in in_use] for slot in range(entries))


def show(ring, when):
    # Private names: this is the inside of the ring, which a program need not know.
    sq_head, sq_tail = ring._sq[ring._sq_head], ring._sq[ring._sq_tail]
    cq_head, cq_tail = ring._cq[ring._cq_head], ring._cq[ring._cq_tail]
    ours = ring._sqe_tail           # ahead of the SQ's tail by what is filled in and not published
    sq, cq = drawing(sq_head, ours, ring.sq_entries), drawing(cq_head, cq_tail, ring.cq_entries)
    print(f"  {when:<24} SQ head {sq_head} tail {sq_tail} ours {ours} [{sq}]"
          f"   CQ head {cq_head} tail {cq_tail} [{cq}]")


def main():
    try:
        ring = pyuring.Ring(4)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    with ring:
        print(f"{ring.sq_entries} SQEs, {ring.cq_entries} CQEs")
        for number in (1, 2):
            print(f"round {number}:")
            show(ring, "at first")
            for user_data in ROUND:
                ring.prep_nop(user_data=user_data)
                show(ring, f"prep_nop(user_data={user_data})")
            ring._publish()                 # the first half of submit(): a store to the SQ's tail
            show(ring, "published")
            consumed = ring.submit()        # the other half: io_uring_enter
            show(ring, f"submit() -> {consumed}")
            cqes = ring.reap()
            show(ring, f"reap() -> {len(cqes)} CQEs")
            for cqe in cqes:
                print("   ", cqe)


main()
