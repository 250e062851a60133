"""04_whose_buffer.py - from submit to its CQE, a request's buffer is the kernel's.

New here: memory. An SQE holds an address, no Python object. The kernel writes there when data comes,
long after the call that named it has returned, and asks nobody. Three things follow, shown in turn:
who looks too early sees nothing, who writes meanwhile is overwritten, and who frees or moves the
memory gets other people's data damaged. pyuring can prevent the third, and does: it pins what an SQE
points to until the CQE. The first two are yours to mind, in every language.
Before: 03_out_of_order.py, where a read waited for its pipe.
Needs Linux 5.6.

Try: read 3 bytes instead of 8 in part 1. The list keeps more of its own, and the rest of KERNEL stays
in the pipe, for part 2 to find. Then take pyuring's pin away in part 2, as in C: after the submit(),
`ring._keepers.clear()` (a private name). extend() now works and moves the bytes, and the kernel
writes to where they lay, which is somebody else's by then: Python crashed right there (on 6.18).
Next: 05_links_and_timeouts.py.
"""
import os
import sys
import weakref

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring


class Buffer(bytearray):
    """A bytearray that a weakref can watch: that tells when Python frees it."""


def look_and_write_too_early(ring, reading, writing):
    buffer = bytearray(b"................")
    ring.prep_read(reading, buffer, 8, user_data=1)
    ring.submit()
    print("  submitted, no CQE yet:      ", bytes(buffer))
    buffer[:] = b"my shopping list"         # Python lets us: it does not know about the kernel
    print("  we write into it meanwhile: ", bytes(buffer))
    os.write(writing, b"KERNEL")
    cqe = ring.wait_cqe()
    print("  the CQE is here, res", cqe.res, "so:", bytes(buffer))
    print("  Only the first", cqe.res, "bytes are the answer's. The list is spoilt.")


def resize_too_early(ring, reading, writing):
    buffer = bytearray(16)
    ring.prep_read(reading, buffer, user_data=2)
    ring.submit()
    try:
        buffer.extend(b"more room, so the bytes might have to move")
        print("  extend(): done, and the kernel has the old address")
    except BufferError as error:
        print("  extend():", type(error).__name__, "-", error)
    os.write(writing, b"hello")
    cqe = ring.wait_cqe()
    print("  the CQE is here, res", cqe.res, "and the buffer:", bytes(buffer[:cqe.res]))
    buffer.extend(b"more room")
    print("  extend() after it: fine")


def free_too_early(ring, reading, writing):
    buffer = Buffer(16)
    watch = weakref.ref(buffer)
    ring.prep_read(reading, buffer, user_data=3)
    del buffer                              # in C: free(buffer). Nobody here has it any more
    ring.submit()
    print("  after `del buffer`:", "still there, the ring holds it" if watch() is not None else "freed")
    os.write(writing, b"for nobody")
    cqe = ring.wait_cqe()
    print("  the CQE is here, res", cqe.res, "- written to memory that was still a buffer")
    print("  after the CQE:     ", "still there" if watch() is not None else "freed")


def main():
    try:
        ring = pyuring.Ring(8)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    reading, writing = os.pipe()
    with ring:
        print("1. Looked at, and written to, while the kernel has it:")
        look_and_write_too_early(ring, reading, writing)
        print("2. Resized while the kernel has it:")
        resize_too_early(ring, reading, writing)
        print("3. Dropped while the kernel has it:")
        free_too_early(ring, reading, writing)
    os.close(reading)
    os.close(writing)


main()
