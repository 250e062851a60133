"""03_connect_timeout.py - a connect with a time limit: by hand over the ring, then in one call.

New here: a link. Two requests, the second a LINK_TIMEOUT: a clock for the first. Both answer, and
the timeout's answer may come first; the connect's own `res` tells how it ended.
Before: 02_nop_through_ring.py. Needs Linux 5.5; the last part works everywhere.

Try: a timeout of 5 seconds and `address` of a port where nobody listens. Take IOSQE_IO_LINK away.
"""
import errno
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring
from pyuring.abi import IOSQE_IO_LINK

CONNECT, TIMEOUT = 1, 2             # our names for the two requests: they come back as user_data


def by_hand(address):
    try:
        ring = pyuring.Ring(4)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    with ring, socket.socket() as sock:
        ring.prep_connect(sock, address, user_data=CONNECT, sqe_flags=IOSQE_IO_LINK)
        ring.prep_link_timeout(0.2, user_data=TIMEOUT)
        ring.submit_and_wait(2)
        for cqe in ring.reap():
            name = {CONNECT: "connect", TIMEOUT: "timeout"}[cqe.user_data]
            result = errno.errorcode[-cqe.res] if cqe.res < 0 else cqe.res
            print(f"  {name}: {result}")


def in_one_call(address):
    with socket.socket() as sock:
        try:
            pyuring.connect(sock, address, timeout=0.2)
            print("  connected")
        except OSError as error:        # also TimeoutError, which is one
            print(f"  {type(error).__name__}: {error}")


def main():
    # A listener that has no room left answers nobody: connects to it stay under way.
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        print("A connect that gets no answer, limited to 0.2 s, over the ring:")
        by_hand(listener.getsockname())
        print("The same by pyuring.connect():")
        in_one_call(listener.getsockname())


main()
