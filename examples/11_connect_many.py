"""11_connect_many.py - hundreds of connects at a time, and an outcome for each as it comes.

New here: connect_many(). An iterable of addresses goes in, from which it takes only as many as may be
under way at a time (concurrency); out come Outcomes, one for each address, in the order in which
they end. None raises: an error is part of the outcome. The ones that never answer do not hold up
the others, and all wait together, so that a hundred of them take as long as one.
Before: 08_direct_descriptors.py (most connects here are such chains) and 05, where one had a clock.
Needs Linux 5.19 to be at its best. Where it is older, or io_uring is blocked, the outcomes are the same:
which way was taken, and why, is the first line.

Try: CONCURRENCY = 4. Each of the 24 silent ones then holds one of four places for TIMEOUT seconds, and
the whole takes 24 / 4 times as long as one. Then put the silent ones last in the chain: the first
outcome comes at once again, and the whole takes as long as before.
Next: 12_beside_asyncio.py.
"""
import collections
import itertools
import os
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring

CONCURRENCY = 64
TIMEOUT = 0.3                       # seconds for each
OPEN, CLOSED, SILENT = 120, 56, 24  # how many connects to each of three ports


def what_happened(outcome):
    if outcome.ok:
        return "connected"
    if isinstance(outcome.error, TimeoutError):     # before OSError: it is one
        return "no answer"
    return type(outcome.error).__name__


def main():
    can = pyuring.probe()
    print(f"strategy: {can.strategy}" + ("" if can.available else
                                         f", as there is no io_uring here: {can.reason}. {can.remedy}."))
    with socket.socket() as server, socket.socket() as bound, socket.socket() as full, \
            socket.socket() as first, socket.socket() as second:
        for sock in server, bound, full:
            sock.bind(("127.0.0.1", 0))
        server.listen(OPEN)                         # room for all; nobody needs to accept them
        full.listen(0)                              # no room left: answers nobody
        for filler in first, second:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())

        taken = 0

        def addresses():
            """A generator, to see how far ahead it is read."""
            nonlocal taken
            for address in itertools.chain([full.getsockname()] * SILENT, [server.getsockname()] * OPEN,
                                           [bound.getsockname()] * CLOSED):
                taken += 1
                yield address

        count, began = collections.Counter(), time.monotonic()
        for number, outcome in enumerate(pyuring.connect_many(
                addresses(), timeout=TIMEOUT, concurrency=CONCURRENCY), 1):
            count[what_happened(outcome)] += 1
            if number == 1:
                print(f"the first outcome came when {taken} of {OPEN + CLOSED + SILENT} addresses "
                      f"were taken: {what_happened(outcome)} after {outcome.elapsed * 1000:.1f} ms")
            last = outcome
        took = time.monotonic() - began
        print(f"the last outcome: {what_happened(last)} after {last.elapsed:.2f} s: {last.error}")
        for what in sorted(count):
            print(f"{what}: {count[what]}")
        print(f"{sum(count.values())} connects in {took:.2f} s. The silent ones alone, one after the "
              f"other: {SILENT * TIMEOUT:.1f} s")


main()
