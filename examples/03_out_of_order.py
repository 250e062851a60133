"""03_out_of_order.py - answers come when they are ready, not in the order of the requests.

New here: several requests at once that take their time, and a dict from user_data to what each was
for. user_data is 64 bits that travel from SQE to CQE untouched. Nothing else in a CQE says what it
answers: neither the file nor the opcode is in there.
Before: 02_heads_and_tails.py, whose NOPs were done at once and so came back in order.
Needs Linux 5.6 (READ and WRITE; IORING_OP_TIMEOUT is from 5.4).

A timeout that has run out has done what it was for, and its res is -ETIME all the same. The kernel takes
any res below 0 for a failure, which matters in a chain of requests (05_links_and_timeouts.py).

Try: leave the write out. Nobody feeds the pipe, so the read never ends: three answers come, and the
loop waits for the fourth for ever. Give it wait_cqe(timeout=1), which raises a TimeoutError instead.
Or swap 0.3 and 0.1 in the two calls, and the answers 2 and 3 swap places, too.
Next: 04_whose_buffer.py.
"""
import errno
import itertools
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring


def main():
    try:
        ring = pyuring.Ring(8)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    reading, writing = os.pipe()
    buffer = bytearray(16)
    with ring:
        numbers = itertools.count(1)
        asked = {}                  # user_data -> what it was for

        def user_data_for(what):
            number = next(numbers)
            asked[number] = what
            print(f"  {number}: {what}")
            return number

        print("Asked, in this order:")
        ring.prep_read(reading, buffer, user_data=user_data_for("read a pipe that is still empty"))
        ring.prep_timeout(0.3, user_data=user_data_for("a timeout of 0.3 s"))
        ring.prep_timeout(0.1, user_data=user_data_for("a timeout of 0.1 s"))
        ring.prep_nop(user_data=user_data_for("nothing (NOP)"))
        print("One system call hands over all four:", ring.submit())

        print("Answered, in this order:")
        while asked:
            cqe = ring.wait_cqe()
            what = asked.pop(cqe.user_data)
            res = f"-{errno.errorcode[-cqe.res]}" if cqe.res < 0 else cqe.res
            print(f"  {cqe.user_data}: {what}: res {res}")
            if cqe.user_data == 3:
                print("  so now, asked as well:")
                ring.prep_write(writing, b"hello", user_data=user_data_for("write to that pipe"))
                ring.submit()
                print("  and answered:")
        print("The pipe brought", bytes(buffer[:5]))
    os.close(reading)
    os.close(writing)


main()
