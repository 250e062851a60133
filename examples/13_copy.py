"""13_copy.py - a copy tool, to keep: 13_copy.py SOURCE DEST. With no arguments it shows itself at work.

New here: a real program. DEPTH chunks of the file are under way at a time, each in a slot with its own
buffer: read, write what was read, take the next. A slot has one request in flight, so its number is
the user_data. Minded are short reads and writes, errors, a source that shrinks; and with a plain loop
sources without a size (pipes, /proc), and machines without io_uring.
Before: 03 (out of order), 04 (buffers), 06 (closing a ring cancels what is in flight).
Needs Linux 5.6, and works everywhere. Does not keep holes, owners or times.

Try: DEPTH = 1: as many system calls as the plain loop has, and more to do for each. In the page cache
all is memcpy(), and depth buys little; copy from a disk or a network, and try 1, 16 and 64 again.
Next: pyuring/ring.py, which has no secrets left, or machine.py.
"""
import filecmp
import os
import stat
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring

CHUNK = 128 * 1024                  # bytes
DEPTH = 16                          # chunks under way


def copy_over(ring, source, dest, size):
    """Copy `size` bytes from one fd to another -> (requests, system calls)."""
    chunks = ((at, min(at + CHUNK, size)) for at in range(0, size, CHUNK))
    slots = [memoryview(bytearray(CHUNK)) for _ in range(DEPTH)]
    places = {}                     # slot -> where it reads next, its chunk's end, bytes yet to be written
    requests = enters = 0

    def read(slot, at, end):
        places[slot] = at, end, None
        ring.prep_read(source, slots[slot], end - at, at, user_data=slot)

    def write(slot, at, end, data):
        places[slot] = at, end, data
        ring.prep_write(dest, data, offset=at, user_data=slot)

    for slot, chunk in zip(range(DEPTH), chunks):       # zip asks for a slot first, so no chunk is lost
        read(slot, *chunk)
    while places:
        ring.submit_and_wait(1)
        enters += 1
        for slot, res, _ in ring.reap():
            requests += 1
            at, end, data = places[slot]
            if res < 0:
                raise OSError(-res, f"{'read' if data is None else 'write'} at {at}: {os.strerror(-res)}")
            if res == 0:
                raise OSError(f"the source ended at {at} of {size}: it has shrunk meanwhile")
            if data is None:
                write(slot, at, end, slots[slot][:res])         # perhaps fewer than asked
            elif res < len(data):
                write(slot, at + res, end, data[res:])          # the rest of a short write
            elif at + res < end:
                read(slot, at + res, end)                       # the rest of a short read
            else:                                               # this chunk is done: the next
                del places[slot]
                if chunk := next(chunks, None):
                    read(slot, *chunk)
    return requests, enters


def copy_plainly(source, dest):
    """The same with read(2) and write(2), to the end of the file, where one more read finds nothing."""
    calls = 1
    while data := memoryview(os.read(source, CHUNK)):
        calls += 1
        while data:
            data = data[os.write(dest, data):]
            calls += 1
    return calls, calls


def copy(source_path, dest_path, ring):
    """Copy a file, over the ring if there is one -> a line about how it went. OSError if it did not."""
    began = time.perf_counter()
    if os.path.isdir(dest_path):
        dest_path = os.path.join(dest_path, os.path.basename(source_path))
    with open(source_path, "rb", buffering=0) as source:
        if os.path.exists(dest_path) and os.path.samefile(source_path, dest_path):
            raise OSError(f"{source_path} and {dest_path} are one file")    # which "wb" would empty
        mode, size = os.fstat(source.fileno()).st_mode, os.fstat(source.fileno()).st_size
        with open(dest_path, "wb", 0, opener=lambda path, flags: os.open(path, flags, mode & 0o777)) as dest:
            if ring and size and stat.S_ISREG(mode):
                how = "io_uring", *copy_over(ring, source, dest, size)
            else:
                how = "read(2) and write(2)", *copy_plainly(source.fileno(), dest.fileno())
    return "{}: {} reads and writes in {} system calls".format(*how) + f", {time.perf_counter() - began:.3f} s"


def demonstrate(ring):
    with tempfile.TemporaryDirectory() as folder:
        source, dest = os.path.join(folder, "source"), os.path.join(folder, "dest")
        with open(source, "wb") as file:
            file.write(os.urandom(1 << 20) * 16 + b"and a bit")
        for way in (ring, None) if ring else (None,):
            print(copy(source, dest, way))
            print("  the same bytes:", filecmp.cmp(source, dest, shallow=False))


def work(ring):
    try:
        print(copy(*sys.argv[1:], ring)) if sys.argv[1:] else demonstrate(ring)
    except OSError as error:
        sys.exit(f"13_copy.py: {error}")


if len(sys.argv) not in (1, 3):
    sys.exit("usage: 13_copy.py [SOURCE DEST]")
try:
    with pyuring.Ring(DEPTH) as the_ring:
        work(the_ring)
except pyuring.RingUnavailable as no_ring:
    print(f"No io_uring here: {no_ring.reason}. {no_ring.remedy}.")
    work(None)
