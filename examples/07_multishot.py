"""07_multishot.py - one request, many answers, each in a buffer that the kernel picked.

New here: multishot, and provided buffers. A receive that stays: it answers each time data comes, and
IORING_CQE_F_MORE in a CQE's flags says "I go on". But then whose buffer does it write to, and when
may that be used again? So the ring is given a group of buffers beforehand. The kernel takes one as
data comes, names it in the CQE's flags, and it is ours until we give it back. When all are with us,
the answer is -ENOBUFS, without MORE: the request is over, and has to be made again.
Before: 04_whose_buffer.py and 06_cancelling.py, where each request had its own buffer.
Needs Linux 6.0 (multishot receive); buffer rings are from 5.19. Where it is older, the script says so
and receives as in the rungs before: a request and a buffer for each message.

Try: BUFFERS = 8: one request is enough for everything. With 4 it is not: why? (Look at what the
last answer of the first request would have needed.) Then GREEDY = False: each buffer goes back as
soon as it has been read, so two are enough for any number of messages.
Next: 08_direct_descriptors.py.
"""
import errno
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring
from pyuring.abi import IORING_CQE_BUFFER_SHIFT, IORING_CQE_F_BUFFER, IORING_CQE_F_MORE
from pyuring.registered import BufferRing

BUFFERS = 2                         # a power of two
GREEDY = True                       # keep what was received, instead of giving the buffers back
MESSAGES = (b"one", b"two", b"three", b"four")


def show(cqe):
    res = f"-{errno.errorcode[-cqe.res]}" if cqe.res < 0 else cqe.res
    more = "MORE" if cqe.flags & IORING_CQE_F_MORE else "no MORE"
    number = f", buffer {cqe.flags >> IORING_CQE_BUFFER_SHIFT}" if cqe.flags & IORING_CQE_F_BUFFER else ""
    print(f"  CQE: res {res}, {more}{number}")


def receive(ring, here, there, buffers):
    """-> False on a kernel that has no multishot receive."""
    requests, kept = 0, []
    waiting = list(MESSAGES)
    while True:
        ring.prep_recv_multishot(here, buf_group=buffers.bgid, user_data=1)
        ring.submit()
        requests += 1
        print(f"request {requests} is in flight, {buffers.available} of {BUFFERS} buffers are the kernel's")
        more = True
        while more:
            if waiting:
                there.send(waiting.pop(0))      # now and not all before: to see them come one by one
            elif there.fileno() >= 0:
                there.close()                   # the other side hangs up: an answer of 0 bytes
            cqe = ring.wait_cqe()
            more = cqe.flags & IORING_CQE_F_MORE
            if cqe.res == -errno.EINVAL and requests == 1:
                return False
            show(cqe)
            if cqe.res == 0:
                print(f"That was the end. {len(MESSAGES)} messages took {requests} requests.")
                return True
            if cqe.res > 0:
                held = buffers.hold(cqe)        # ours from here to held.release()
                print("      ", bytes(held))
                kept.append(held)
                if not GREEDY:
                    kept.pop().release()
        print("  The request is over, as all buffers are with us. What came stays in the socket.")
        print("  We give the buffers back and ask again.")
        while kept:
            kept.pop().release()


def receive_one_by_one(ring):
    buffer = bytearray(16)
    here, there = socket.socketpair()
    for number, message in enumerate(MESSAGES, 1):
        there.send(message)
        ring.prep_recv(here, buffer, user_data=number)
        ring.submit()
        print(f"  request {number}:", bytes(buffer[:ring.wait_cqe().res]))
    here.close()
    there.close()


def main():
    try:
        ring = pyuring.Ring(8)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps messages apart
    with ring, here, there:
        try:
            with BufferRing(ring, BUFFERS, 16) as buffers:
                done = receive(ring, here, there, buffers)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            print("No buffer rings here: this kernel is older than 5.19.")
            done = False
        if not done:
            print("No multishot receive here: it came with Linux 6.0. So a request for each message:")
            receive_one_by_one(ring)


main()
