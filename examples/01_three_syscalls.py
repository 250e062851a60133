"""01_three_syscalls.py - io_uring with nothing but its three system calls.

New here: everything. No pyuring: ctypes for the calls, mmap for the memory, struct for the bytes.
One request that does nothing (NOP) goes in, one answer comes out.
Before: nothing. The words: an SQE (submission queue entry) is a request, a CQE (completion queue
entry) an answer. Each queue is a ring with a head and a tail, in memory that the kernel sees, too.
Needs Linux 5.4 and a machine that allows io_uring; says so if it does not.

Try: NOPS = 3, and head and tail move by three. Then OPCODE = 255, which is more than the kernel says it
knows: the answer's res is -22. A negative res is an errno, and 22 is EINVAL (see errno(3)). Both at once:
consumed 1, SQ head 1 and tail 3, as the kernel stops at the first request that it refuses, and leaves the
others for the next enter (IORING_SETUP_SUBMIT_ALL, Linux 5.18, makes it go on; io_uring_setup(2)).
Next: 02_heads_and_tails.py, the same through pyuring.Ring.
"""
import ctypes
import mmap
import os
import struct
import sys

NOPS = 1
OPCODE = 0                          # IORING_OP_NOP
SETUP, ENTER, REGISTER = 425, 426, 427      # the same nearly everywhere; not on alpha, mips and ia64
GETEVENTS = 1                       # a flag of enter: wait for answers
PROBE = 8                           # an operation of register: which opcodes are there (Linux 5.6)
SQ_RING, SQES = 0, 0x10000000       # mmap offsets: the two rings; the requests themselves
SINGLE_MMAP = 1                     # a feature bit: both rings are in one map (Linux 5.4)

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# 1. io_uring_setup(entries, params) makes a ring and says, in params, how its memory is laid out.
params = (ctypes.c_uint32 * 30)()   # struct io_uring_params is 120 bytes
ring_fd = libc.syscall(SETUP, 8, ctypes.byref(params))
if ring_fd < 0:
    code = ctypes.get_errno()
    why = {38: "this kernel has no io_uring, or a sandbox hides it",                    # ENOSYS
           1: "the sysctl kernel.io_uring_disabled or a seccomp profile forbids it"}    # EPERM
    print(f"No io_uring here: io_uring_setup said {os.strerror(code)!r}:",
          why.get(code, "see io_uring_setup(2)"))
    print("`python3 -m pyuring doctor` knows more, and what to do.")
    sys.exit(0)
sq_entries, cq_entries, features = params[0], params[1], params[5]
# Offsets in bytes: struct io_sqring_offsets begins at word 10 of params, io_cqring_offsets at word 20.
sq_head, sq_tail, sq_mask, _, _, _, sq_array = params[10:17]
cq_head, cq_tail, cq_mask, _, _, cq_cqes = params[20:26]
print(f"setup: fd {ring_fd}, room for {sq_entries} requests and {cq_entries} answers")
assert features & SINGLE_MMAP, "this example wants Linux 5.4 or later"

# 2. mmap(2) shows that memory to us. The kernel sees the same bytes.
size = max(sq_array + 4 * sq_entries, cq_cqes + 16 * cq_entries)
rings = mmap.mmap(ring_fd, size, offset=SQ_RING)
sqes = mmap.mmap(ring_fd, 64 * sq_entries, offset=SQES)
words = memoryview(rings).cast("I")         # 32-bit words: the heads, the tails, the index array


def show(when):
    print(f"{when:<12} SQ head {words[sq_head // 4]} tail {words[sq_tail // 4]}"
          f"    CQ head {words[cq_head // 4]} tail {words[cq_tail // 4]}")


show("at first:")

# 3. io_uring_register(fd, operation, argument, count) is for all that is told or asked beforehand.
probe = ctypes.create_string_buffer(16 + 8 * 256)               # struct io_uring_probe, 256 opcodes
if libc.syscall(REGISTER, ring_fd, PROBE, probe, 256) == 0:
    print(f"register: this kernel knows the opcodes 0 to {probe[0][0]}")

# 4. Write requests (SQEs, 64 bytes each) and move the tail over them: that publishes them.
for i in range(NOPS):
    tail = words[sq_tail // 4]
    index = tail & words[sq_mask // 4]
    sqe = bytearray(64)
    sqe[0] = OPCODE                                     # the first byte
    struct.pack_into("=Q", sqe, 32, 1000 + i)           # user_data: comes back in the answer
    sqes[index * 64:index * 64 + 64] = bytes(sqe)
    # The queue itself is this array of indices, so SQEs could be queued in another order than they lie in.
    words[sq_array // 4 + index] = index                # everybody: entry 0 means SQE 0, 1 means 1, ...
    words[sq_tail // 4] = tail + 1
show("published:")

# 5. io_uring_enter(fd, to_submit, min_complete, flags): the kernel looks, and here we wait too.
consumed = libc.syscall(ENTER, ring_fd, NOPS, NOPS, GETEVENTS, None, 0)
print(f"enter: the kernel consumed {consumed}")
show("entered:")

# 6. Read the answers (CQEs, 16 bytes each) and move the head over them: that gives the slots back.
while words[cq_head // 4] != words[cq_tail // 4]:
    head = words[cq_head // 4]
    at = cq_cqes + (head & words[cq_mask // 4]) * 16
    user_data, res, flags = struct.unpack_from("=QiI", rings, at)
    print(f"answer: user_data {user_data}, res {res}, flags {flags}")
    words[cq_head // 4] = head + 1
show("answered:")

# Views before maps, maps before the fd: mmap keeps a duplicate of it.
words.release()
sqes.close()
rings.close()
os.close(ring_fd)
