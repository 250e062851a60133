"""05_links_and_timeouts.py - requests that wait for each other, and a clock for one of them.

New here: IOSQE_IO_LINK, a flag of an SQE: "the next one begins when I have succeeded". So a whole
conversation can be handed over in one call. If one fails, those behind it are never begun: their
answer is -ECANCELED. To fail is to have a res below 0; a read or write also fails by being short (a
receive only with MSG_WAITALL, measured on 6.18). More of that: "Some facts about chains and clocks" in
pyuring/prep.py.
LINK_TIMEOUT behind a request is a clock for it, not a step: whichever ends first cancels the other, and
both answer, the timeout sometimes first. If the chain is to go on behind the clock, it needs the flag, too.
Before: 03_out_of_order.py, where every request went its own way, and 04_whose_buffer.py.
Needs Linux 5.6; the last part, pyuring.connect(), works everywhere.

Try: (a) In part 3 connect to `nobody` instead of `silent`: the connect fails at once, so the clock is
not needed any more, and it is the timeout that is -ECANCELED.
(b) In `conversation` take the flag of the connect away: the send no longer waits for its end. It is
begun on a socket that is still connecting, so in part 2 it says -ECONNREFUSED, as the connect does, and
no longer -ECANCELED, and in part 1 its answer may come before the connect's (both measured on 6.18).
(c) In `conversation` give the flag to the receive, too, and put a prep_link_timeout(LIMIT,
user_data=4) behind it: four answers to wait for. The clock is the receive's alone, and begins when
that begins. In part 2 that never happens, and the clock's answer is -ECANCELED like the others.
(d) A pause: in `conversation` put ring.prep_timeout(0.3, user_data=4, sqe_flags=IOSQE_IO_LINK) before the
send, and wait for four answers. Guess first: does the send run? Then give the timeout
flags=IORING_TIMEOUT_ETIME_SUCCESS (from pyuring.abi; Linux 5.16), and guess again.
If something never answers, watch: `with ring, pyuring.trace(ring, sys.stdout):`.
Next: 06_cancelling.py.
"""
import errno
import os
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring
from pyuring.abi import IOSQE_IO_LINK

LIMIT = 0.2                         # seconds
NAMES = {1: "connect", 2: "send", 3: "receive", 4: "timeout"}       # by user_data


def serve_once(server):
    peer, _ = server.accept()
    with peer:
        peer.sendall(peer.recv(100).upper())


def show_answers(ring, count):
    ring.submit_and_wait(count, timeout=5)
    cqes = ring.reap()
    for cqe in cqes:
        result = f"-{errno.errorcode[-cqe.res]}" if cqe.res < 0 else cqe.res
        print(f"  {NAMES[cqe.user_data]}: {result}")
    if len(cqes) < count:
        print(f"  {count - len(cqes)} never answered: which, and why?")


def conversation(ring, address):
    """Connect, say something, hear something: three requests, one system call."""
    answer = bytearray(100)
    with socket.socket() as sock:
        ring.prep_connect(sock, address, user_data=1, sqe_flags=IOSQE_IO_LINK)
        ring.prep_send(sock, b"hello", user_data=2, sqe_flags=IOSQE_IO_LINK)
        ring.prep_recv(sock, answer, user_data=3)           # the last of a chain has no flag
        show_answers(ring, 3)
    print("  in the buffer:", bytes(answer).rstrip(b"\0"))


def limited(ring, address):
    """A connect with a clock."""
    with socket.socket() as sock:
        ring.prep_connect(sock, address, user_data=1, sqe_flags=IOSQE_IO_LINK)
        ring.prep_link_timeout(LIMIT, user_data=4)
        show_answers(ring, 2)


def in_one_call(address):
    with socket.socket() as sock:
        try:
            pyuring.connect(sock, address, timeout=LIMIT)
            print("  connected")
        except OSError as error:            # also TimeoutError, which is one
            print(f"  {type(error).__name__}: {error}")


def over_the_ring(server, nobody, silent):
    try:
        ring = pyuring.Ring(8)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    with ring:
        print("1. A chain to a server:")
        threading.Thread(target=serve_once, args=(server,), daemon=True).start()
        conversation(ring, server.getsockname())
        print("2. The same chain to a port where nobody listens:")
        conversation(ring, nobody)
        print(f"3. A connect that gets no answer, with a clock of {LIMIT} s:")
        limited(ring, silent)


def main():
    with socket.socket() as server, socket.socket() as bound, socket.socket() as full, \
            socket.socket() as first, socket.socket() as second:
        for sock in server, bound, full:
            sock.bind(("127.0.0.1", 0))
        server.listen()
        full.listen(0)                      # a listener that has no room left answers nobody
        for filler in first, second:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        over_the_ring(server, bound.getsockname(), full.getsockname())
        print("4. The same by pyuring.connect(), with or without io_uring:")
        in_one_call(full.getsockname())


main()
