"""06_cancelling.py - taking a request back.

New here: IORING_OP_ASYNC_CANCEL, a request about another one, which it names by its user_data. Both
answer. The cancel's res says whether it found what it was to cancel; the other one's own res says
how that ended. Cancelled is not finished: until its own CQE is here, its buffer is the kernel's.
Before: 05_links_and_timeouts.py, where a clock did the cancelling; 04_whose_buffer.py.
Needs Linux 5.6; part 4 needs 5.19 and says so where it is older.

So there are three outcomes of a cancel to be ready for: 0, found and stopped; -ENOENT, not there (any
more); -EALREADY, at work in a worker thread, so it may be stopped or not (reading a disk can't be).
io_uring_cancelation(7).

Try: in part 2 move the os.write() behind show_answers(), and make the submit_and_wait(1) a submit():
the cancel comes in time now, and the data stays in the pipe. (On 5.10 a worker thread waits for this
pipe, measured, and the third outcome can be seen: -EALREADY, and -EINTR for the read.) In part 3 give
the cancel the flag IORING_ASYNC_CANCEL_ALL: it takes both reads, its res is 2, and a third answer is
there to wait for.
Next: 07_multishot.py.
"""
import errno
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring
from pyuring.abi import IORING_ASYNC_CANCEL_ALL

CANCEL = 100                        # the user_data of our cancels; those of the reads are 1, 2, ...


def read_silence(ring, silence, user_data):
    """A read that never ends by itself: nobody writes to that pipe."""
    ring.prep_read(silence, bytearray(16), user_data=user_data)


def show_answers(ring, count):
    ring.submit_and_wait(count)
    for cqe in ring.reap():
        who = "the cancel" if cqe.user_data == CANCEL else f"read {cqe.user_data}"
        print(f"  {who}: {'-' + errno.errorcode[-cqe.res] if cqe.res < 0 else cqe.res}")


def main():
    try:
        ring = pyuring.Ring(16)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    silence, keep_open = os.pipe()
    reading, writing = os.pipe()
    with ring:
        print("1. A read that waits for data is cancelled:")
        read_silence(ring, silence, user_data=1)
        ring.submit()
        ring.prep_cancel(1, user_data=CANCEL)
        show_answers(ring, 2)

        print("2. A cancel that comes too late:")
        os.write(writing, b"data")
        ring.prep_read(reading, bytearray(16), user_data=2)
        ring.submit_and_wait(1)     # its CQE is in the CQ; we have not looked yet
        ring.prep_cancel(2, user_data=CANCEL)
        show_answers(ring, 2)
        print("  Too late is no failure: the data is here, and must not be forgotten.")

        print("3. Two requests with one user_data: a cancel takes one of them.")
        read_silence(ring, silence, user_data=3)
        read_silence(ring, silence, user_data=3)
        ring.submit()
        ring.prep_cancel(3, user_data=CANCEL)
        show_answers(ring, 2)

        print("4. All requests on a file: the other one, and two more. res counts them.")
        read_silence(ring, silence, user_data=4)
        read_silence(ring, silence, user_data=5)
        ring.submit()
        ring.prep_cancel_fd(silence, IORING_ASYNC_CANCEL_ALL, user_data=CANCEL)
        ring.submit_and_wait(1)
        answers = {cqe.user_data: cqe.res for cqe in ring.reap()}
        if answers.get(CANCEL) == -errno.EINVAL:
            print("  the cancel: -EINVAL. This kernel is older than 5.19: it cancels by user_data only.")
        else:
            while len(answers) < 1 + answers.get(CANCEL, 1):
                cqe = ring.wait_cqe()
                answers[cqe.user_data] = cqe.res
            print("  the cancel:", answers.pop(CANCEL))
            print("  the reads:", ", ".join(f"-{errno.errorcode[-res]}" for res in answers.values()))

        read_silence(ring, silence, user_data=6)
        ring.submit()
    print("5. Read 6 was still in flight at the end of the `with`: close() has cancelled it, and")
    print("  waited for its CQE. Only then was its buffer let go. Closed:", ring.closed)
    for fd in silence, keep_open, reading, writing:
        os.close(fd)


main()
