"""bench_ring.py - what a request costs: NOPs and 4 KiB reads from the page cache, in bulk and one by one.

Question: how much of the speed of C over liburing does Python reach? Against a C program over liburing
in the same mode (SINGLE_ISSUER | DEFER_TASKRUN), a loop of os.pread(), and the package `liburing` of
PyPI where that is installed.

    prep, reap      ring.prep_*() for each request, submit_and_wait(), reap()
    batch           a Batch that was filled in before: ring.run(); for reads its offsets are patched

Rounds are interleaved; printed are medians of nanoseconds a request, and the median of the ratios round
by round. All on one CPU. CPU is the process's, user and system; start-up and a warm-up excluded.

    python3 tests/bench/bench_ring.py [ROUNDS]
"""
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pyuring                                          # noqa: E402
from _report import head, median, ratio_of_medians      # noqa: E402
from storm_network import compiled                      # noqa: E402

SIZE, FILE_SIZE = 4096, 8 << 20
AIMS = {("NOP, 1 at a time", "CPU"): 0.25, ("NOP, 32 at a time", "CPU"): 0.35, ("NOP, 256 at a time", "CPU"): 0.40,
        ("read, 32 at a time", "CPU"): 0.85}
PREAD_AIM = 0.95


# -- contestants in Python: each answers how many requests it did ------------------------------------------
def nops_one_by_one(ring, batch, count):
    for _ in range(0, count, batch):
        for i in range(batch):
            ring.prep_nop(user_data=i)
        ring.submit_and_wait(batch)
        for user_data, res, flags in ring.reap():
            assert not res


def nops_in_a_batch(ring, batch, count):
    requests = pyuring.Batch()
    for i in range(batch):
        requests.prep_nop(user_data=i)
    for _ in range(0, count, batch):
        for user_data, res, flags in ring.run(requests):
            assert not res


def reads_one_by_one(ring, batch, count, fd, buffers):
    offset = 0
    for _ in range(0, count, batch):
        for i in range(batch):
            ring.prep_read(fd, buffers[i], SIZE, offset, user_data=i)
            offset = (offset + SIZE) % FILE_SIZE
        ring.submit_and_wait(batch)
        for user_data, res, flags in ring.reap():
            assert res == SIZE


def reads_in_a_batch(ring, batch, count, fd, buffers):
    requests, offset = pyuring.Batch(), 0
    for i in range(batch):
        requests.prep_read(fd, buffers[i], SIZE, 0, user_data=i)
    offsets = requests.offsets
    for _ in range(0, count, batch):
        offsets[:] = array("Q", range(offset, offset + batch * SIZE, SIZE))     # 32 times offsets[i] = ...: 3 us
        offset = (offset + batch * SIZE) % FILE_SIZE
        for user_data, res, flags in ring.run(requests):
            assert res == SIZE


def preads(ring, batch, count, fd, buffers):
    offset, pread = 0, os.pread
    for _ in range(count):
        assert len(pread(fd, SIZE, offset)) == SIZE
        offset = (offset + SIZE) % FILE_SIZE


def preads_into(ring, batch, count, fd, buffers):
    offset, preadv, into = 0, os.preadv, [buffers[0]]
    for _ in range(count):
        assert preadv(fd, into, offset) == SIZE
        offset = (offset + SIZE) % FILE_SIZE


def nops_liburing(ring, batch, count):
    import liburing as lib
    theirs, cqe = lib.Ring(), lib.Cqe()
    lib.io_uring_queue_init(batch, theirs, lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN)
    for _ in range(0, count, batch):
        for i in range(batch):
            sqe = lib.io_uring_get_sqe(theirs)
            lib.io_uring_prep_nop(sqe)
            sqe.user_data = i
        lib.io_uring_submit_and_wait(theirs, batch)
        taken = 0
        for _ in lib.CqeIter(theirs, cqe):
            assert not cqe[0].res
            taken += 1
        lib.io_uring_cq_advance(theirs, taken)
    lib.io_uring_queue_exit(theirs)


def in_python(function, batch, count, *arguments):
    with pyuring.Ring(batch) as ring:
        function(ring, batch, count // 10 or batch, *arguments)
        cpu, wall = time.process_time(), time.perf_counter()
        function(ring, batch, count, *arguments)
        return time.process_time() - cpu, time.perf_counter() - wall


def main(rounds):
    head("What one request costs, nanoseconds of CPU and of time.")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "file")
        path.write_bytes(os.urandom(FILE_SIZE))
        program, why = compiled(directory, "ring", "ring.c", "-luring")
        if program is None:
            print(f"missing: C: {why}")
        has_liburing = importlib.util.find_spec("liburing") is not None
        if not has_liburing:
            print("missing: no module liburing")
        with open(path, "rb") as file:
            for batch, count in ((1, 50_000), (32, 320_000), (256, 512_000)):
                kinds = {"batch": nops_in_a_batch, "prep, reap": nops_one_by_one}
                if has_liburing:
                    kinds["liburing (PyPI)"] = nops_liburing
                compare(f"NOP, {batch} at a time", "nop", batch, count, rounds, program, path, kinds, ())
            kinds = {"batch": reads_in_a_batch, "prep, reap": reads_one_by_one, "os.pread": preads,
                     "os.preadv into a buffer": preads_into}
            buffers = [bytearray(SIZE) for _ in range(32)]
            compare("read, 32 at a time", "read", 32, 64_000, rounds, program, path, kinds, (file.fileno(), buffers))


def compare(title, what, batch, count, rounds, program, path, kinds, arguments):
    contestants = {name: lambda function=function: in_python(function, batch, count, *arguments)
                   for name, function in kinds.items()}
    if program:
        for name, mode in ("C liburing", what), *((("C pread", "pread"),) if what == "read" else ()):
            contestants[name] = lambda mode=mode: in_c(program, mode, batch, count, path)
    times = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        for name in order:
            times[name].append(contestants[name]())
        order.append(order.pop(0))
    base = "C liburing" if program else "batch"
    print(f"\n{title:<28}{'CPU ns':>9}{'wall ns':>9}{f'of {base}: CPU':>20}{'wall':>8}")
    for name in contestants:
        cpu, wall = zip(*times[name])
        of_cpu, of_wall = (ratio_of_medians([t[i] for t in times[base]], [t[i] for t in times[name]]) for i in (0, 1))
        print(f"  {name:<26}{median(cpu) / count * 1e9:9.0f}{median(wall) / count * 1e9:9.0f}{of_cpu:20.2f}{of_wall:8.2f}"
              f"{'   lost' if of_cpu < 1 and name in ('batch', 'prep, reap') else ''}")
        if program and name == "batch":
            aim = AIMS[title, "CPU"]
            print(f"    {'met' if of_cpu >= aim else 'MISSED'}: {of_cpu:.2f} of C, aim {aim}")
    if what == "read":
        ratio = ratio_of_medians([t[0] for t in times["os.pread"]], [t[0] for t in times["batch"]])
        print(f"    {'met' if ratio >= PREAD_AIM else 'MISSED'}: batch has {ratio:.2f} of os.pread's speed, aim {PREAD_AIM}")


def in_c(program, mode, batch, count, path):
    said = subprocess.run([program, mode, str(batch), str(count), str(path)], check=True, stdout=subprocess.PIPE,
                          text=True).stdout
    return tuple(map(float, said.split()))


main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
