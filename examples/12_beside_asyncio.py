"""12_beside_asyncio.py - a ring beside an ordinary asyncio program.

New here: two things that wait, in one thread. asyncio's loop sleeps in epoll and must learn when the
ring has answers. So the ring is given an eventfd, a counter in the kernel that is readable while it
is not zero. Each completion adds to it, and the loop calls us when it is readable. Each request
gets a Future; a dict from user_data to Future is all the glue there is.
Before: 03_out_of_order.py, which had that dict, and waited in the ring instead of in a loop.
Needs Linux 5.6 (eventfd from 5.2). Works with every setup flag; where io_uring is blocked it says why.

The order of the three steps in `on_event` matters. With DEFER_TASKRUN, the default here on 6.1 and
later, the eventfd tells of work that the kernel will only finish when we enter:
  1. drain the eventfd, so that what comes from now on wakes us again
  2. enter with GETEVENTS, in which the kernel posts the CQEs
  3. reap. What was posted after 1 was either reaped, or has made the eventfd readable again.
Drained last, it would swallow the news of what came between 3 and 1, and we would sleep on it.

Try: leave step 1 out. All of it still works, but the eventfd stays readable, so the loop never sleeps:
look at the count of wakeups. Then leave step 2 out instead. That works here, as reap() enters by
itself when the CQ looks empty; with one CQE there already it would not, and other answers would
stay in the kernel, with the eventfd drained and nobody to wake us.
Next: 13_copy.py.
"""
import asyncio
import ctypes
import itertools
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring

EVENTFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


def eventfd():
    if hasattr(os, "eventfd"):                              # Python 3.10
        return os.eventfd(0, EVENTFD_FLAGS)
    return ctypes.CDLL(None).eventfd(0, EVENTFD_FLAGS)


class AsyncRing:
    """A Ring whose requests are awaited: await ring.do(ring.ring.prep_read, fd, buffer)."""

    def __init__(self):
        self.ring = pyuring.Ring(64)
        self.wakeups = 0
        self._futures = {}                                  # user_data -> Future
        self._numbers = itertools.count(1)
        self._event = eventfd()
        self.ring.register_eventfd(self._event)
        asyncio.get_running_loop().add_reader(self._event, self.on_event)

    def on_event(self):
        self.wakeups += 1
        os.read(self._event, 8)                             # 1. drain: reading sets it to zero
        self.ring.get_events()                              # 2. enter with GETEVENTS
        for cqe in self.ring.reap():                        # 3.
            future = self._futures.pop(cqe.user_data)
            if not future.done():                           # the awaiting task may be cancelled
                future.set_result(cqe.res)

    async def do(self, prep, *args):
        number = next(self._numbers)
        future = self._futures[number] = asyncio.get_running_loop().create_future()
        prep(*args, user_data=number)
        self.ring.submit()
        return await future

    def close(self):
        asyncio.get_running_loop().remove_reader(self._event)
        self.ring.close()
        os.close(self._event)


async def ticker():
    """Stands for all that the program does besides."""
    for tick in range(1, 5):
        await asyncio.sleep(0.05)
        print("  asyncio: tick", tick)


async def main():
    try:
        ring = AsyncRing()
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        print("The rest of the program runs all the same:")
        return await ticker()
    reading, writing = os.pipe()
    heard, stored = bytearray(16), bytearray(16)

    async def listen():
        res = await ring.do(ring.ring.prep_read, reading, heard)
        print("  ring: the pipe brought", bytes(heard[:res]))

    async def store(file):
        res = await ring.do(ring.ring.prep_write, file, b"to a file", 9, 0)
        print("  ring: wrote", res, "bytes to a file")
        res = await ring.do(ring.ring.prep_read, file, stored, 16, 0)
        print("  ring: read", bytes(stored[:res]), "back")
        await ring.do(ring.ring.prep_timeout, 0.12)   # between the ticks 2 and 3
        await ring.do(ring.ring.prep_write, writing, b"at last")

    with tempfile.TemporaryFile() as file:
        await asyncio.gather(ticker(), listen(), store(file))
    print("Woken by the eventfd", ring.wakeups, "times. Open requests:", len(ring._futures))
    ring.close()
    os.close(reading)
    os.close(writing)


asyncio.run(main())
