"""The io_uring kernel ABI as data: numbers, flags, struct layouts, the opcode table.

Skim this file as a table; there is no logic in it. Constants keep the spelling of the C header, one on a
line, so that one grep finds a name here and in the kernel. The order is that of a ring's life: set it up, map
it, fill an SQE, read a CQE, enter, register.

A version after a constant is the Linux release it first appeared in; where none stands, it could not be
established. Versions explain, they never decide: distributions backport, so code asks the kernel (`features`,
IORING_REGISTER_PROBE, or simply trying).

Facts: include/uapi/linux/io_uring.h of Linux, io_uring_setup(2), io_uring_enter(2), io_uring_register(2), and
the other manual pages of liburing. tests/test_abi.py compares all of it with the header of the machine it
runs on.

Read next: syscalls.py (the three system calls), then ring.py (the rings).
"""

from __future__ import annotations

from collections import namedtuple
from struct import Struct

# ============================================================================================== system calls
# os.uname().machine -> (io_uring_setup, io_uring_enter, io_uring_register)
#
# System calls this young have the same number nearly everywhere; alpha adds 110. A 32-bit process on a 64-bit
# kernel may see the kernel's machine name, and still gets the right numbers.
#
# A machine that is not listed is refused: a guessed number is some other system call. Left out on purpose:
# mips, where the number depends on the ABI of the process (o32, n64, n32) and uname does not tell which; and
# ia64, which counts from 1024.

SYSCALLS = {
    "x86_64":      (425, 426, 427),
    "i386":        (425, 426, 427),
    "i486":        (425, 426, 427),
    "i586":        (425, 426, 427),
    "i686":        (425, 426, 427),
    "aarch64":     (425, 426, 427),
    "aarch64_be":  (425, 426, 427),
    "armv5tel":    (425, 426, 427),
    "armv6l":      (425, 426, 427),
    "armv7l":      (425, 426, 427),
    "armv8l":      (425, 426, 427),
    "riscv64":     (425, 426, 427),
    "riscv32":     (425, 426, 427),
    "ppc64le":     (425, 426, 427),
    "ppc64":       (425, 426, 427),
    "ppc":         (425, 426, 427),
    "s390x":       (425, 426, 427),
    "loongarch64": (425, 426, 427),
    "parisc64":    (425, 426, 427),
    "parisc":      (425, 426, 427),
    "sparc64":     (425, 426, 427),
    "sparc":       (425, 426, 427),
    "m68k":        (425, 426, 427),
    "alpha":       (535, 536, 537),
}

# ============================================================================================ io_uring_setup
# params.flags, asked for by us. An unknown bit is EINVAL, so each can be tried.

IORING_SETUP_IOPOLL             = 1 << 0   # 5.1   busy-wait for completions (storage only)
IORING_SETUP_SQPOLL             = 1 << 1   # 5.1   a kernel thread reads the SQ
IORING_SETUP_SQ_AFF             = 1 << 2   # 5.1   ... on the CPU named in sq_thread_cpu
IORING_SETUP_CQSIZE             = 1 << 3   # 5.5   cq_entries is set, not twice sq_entries
IORING_SETUP_CLAMP              = 1 << 4   # 5.6   too many entries: take the maximum, no EINVAL
IORING_SETUP_ATTACH_WQ          = 1 << 5   # 5.6   share the workers of the ring in wq_fd
IORING_SETUP_R_DISABLED         = 1 << 6   # 5.10  born disabled, see IORING_REGISTER_ENABLE_RINGS
IORING_SETUP_SUBMIT_ALL         = 1 << 7   # 5.18  a bad SQE does not stop the batch
IORING_SETUP_COOP_TASKRUN       = 1 << 8   # 5.19  no interrupt for completions, wait for a kernel entry
IORING_SETUP_TASKRUN_FLAG       = 1 << 9   # 5.19  tell of pending work by IORING_SQ_TASKRUN
IORING_SETUP_SQE128             = 1 << 10  # 5.19  every SQE has 128 bytes
IORING_SETUP_CQE32              = 1 << 11  # 5.19  every CQE has 32 bytes
IORING_SETUP_SINGLE_ISSUER      = 1 << 12  # 6.0   one task submits; another gets EEXIST
IORING_SETUP_DEFER_TASKRUN      = 1 << 13  # 6.1   completion work only inside enter(GETEVENTS)
IORING_SETUP_NO_MMAP            = 1 << 14  # 6.5   the rings are in memory of ours
IORING_SETUP_REGISTERED_FD_ONLY = 1 << 15  # 6.5   return a registered index, not an fd
IORING_SETUP_NO_SQARRAY         = 1 << 16  # 6.6   no index array: slot i is SQE i
IORING_SETUP_HYBRID_IOPOLL      = 1 << 17  # 6.13  IOPOLL that sleeps first
IORING_SETUP_CQE_MIXED          = 1 << 18  # 6.18  16 and 32 byte CQEs in one ring
IORING_SETUP_SQE_MIXED          = 1 << 19  # 6.19  64 and 128 byte SQEs in one ring
IORING_SETUP_SQ_REWIND          = 1 << 20  # 7.0   every submit starts at SQE 0

# params.features, told by the kernel.

IORING_FEAT_SINGLE_MMAP     = 1 << 0   # 5.4   one mmap holds SQ ring and CQ ring
IORING_FEAT_NODROP          = 1 << 1   # 5.5   a full CQ ring loses nothing, the kernel keeps it
IORING_FEAT_SUBMIT_STABLE   = 1 << 2   # 5.5   what an SQE points to has been read once it is consumed
IORING_FEAT_RW_CUR_POS      = 1 << 3   # 5.6   off == -1 means the current file position
IORING_FEAT_CUR_PERSONALITY = 1 << 4   # 5.6   credentials of whoever called enter
IORING_FEAT_FAST_POLL       = 1 << 5   # 5.7   not ready: armed poll instead of a blocked worker
IORING_FEAT_POLL_32BITS     = 1 << 6   # 5.9   POLL_ADD takes all 32 epoll bits
IORING_FEAT_SQPOLL_NONFIXED = 1 << 7   # 5.11  SQPOLL with plain fds
IORING_FEAT_EXT_ARG         = 1 << 8   # 5.11  enter takes a timeout: IORING_ENTER_EXT_ARG
IORING_FEAT_NATIVE_WORKERS  = 1 << 9   # 5.12  workers are threads of the process
IORING_FEAT_RSRC_TAGS       = 1 << 10  # 5.13  registered files and buffers: tags, update in place
IORING_FEAT_CQE_SKIP        = 1 << 11  # 5.17  IOSQE_CQE_SKIP_SUCCESS works
IORING_FEAT_LINKED_FILE     = 1 << 12  # 5.17  in a chain, the file is looked up when its turn comes
IORING_FEAT_REG_REG_RING    = 1 << 13  # 6.3   register through a registered ring
IORING_FEAT_RECVSEND_BUNDLE = 1 << 14  # 6.10  IORING_RECVSEND_BUNDLE; send from provided buffers
IORING_FEAT_MIN_TIMEOUT     = 1 << 15  # 6.12  min_wait_usec in the argument of enter
IORING_FEAT_RW_ATTR         = 1 << 16  # 6.14  read and write take attributes (attr_ptr)
IORING_FEAT_NO_IOWAIT       = 1 << 17  # 6.15  IORING_ENTER_NO_IOWAIT works

# struct io_uring_params, in and out: 28 fields.
#    0 sq_entries      10 sq_off.head          19 cq_off.head
#    1 cq_entries      11 sq_off.tail          20 cq_off.tail
#    2 flags           12 sq_off.ring_mask     21 cq_off.ring_mask
#    3 sq_thread_cpu   13 sq_off.ring_entries  22 cq_off.ring_entries
#    4 sq_thread_idle  14 sq_off.flags         23 cq_off.overflow
#    5 features        15 sq_off.dropped       24 cq_off.cqes
#    6 wq_fd           16 sq_off.array         25 cq_off.flags
#    7 resv[0]         17 sq_off.resv1         26 cq_off.resv1
#    8 resv[1]         18 sq_off.user_addr     27 cq_off.user_addr
#    9 resv[2]
# The offsets count bytes from the start of the mapped ring. user_addr is for IORING_SETUP_NO_MMAP.
#
# "=" in all of these: native byte order, no padding of the compiler's. The kernel is this machine, and the
# header spells its padding out. An "x" is a reserved byte: packed as 0, as the kernel demands.
PARAMS = Struct("=10I8IQ8IQ")
assert PARAMS.size == 120

# ====================================================================================================== mmap
# The offset given to mmap(2) picks what to map.

IORING_OFF_SQ_RING    = 0           # 5.1   and the CQ ring too, under IORING_FEAT_SINGLE_MMAP
IORING_OFF_CQ_RING    = 0x8000000   # 5.1
IORING_OFF_SQES       = 0x10000000  # 5.1
IORING_OFF_PBUF_RING  = 0x80000000  # 6.4   | buffer group << IORING_OFF_PBUF_SHIFT
IORING_OFF_PBUF_SHIFT = 16          # 6.4
IORING_OFF_MMAP_MASK  = 0xf8000000  # 6.4

# The flags words inside the rings.

IORING_SQ_NEED_WAKEUP      = 1 << 0  # 5.1   the SQPOLL thread sleeps: enter with IORING_ENTER_SQ_WAKEUP
IORING_SQ_CQ_OVERFLOW      = 1 << 1  # 5.8   CQEs wait in the kernel: enter with GETEVENTS to get them
IORING_SQ_TASKRUN          = 1 << 2  # 5.19  completion work waits for an enter

IORING_CQ_EVENTFD_DISABLED = 1 << 0  # 5.8   written by us: no eventfd wakeups for now

# ======================================================================================================= SQE
# struct io_uring_sqe, 64 bytes. Most fields are unions; the opcode says which member is meant.
#
#   at  as  field        also known as (where)
#    0  B   opcode
#    1  B   flags        IOSQE_*
#    2  H   ioprio       an I/O priority, or the IORING_RECVSEND_*, _SEND_*, _RECV_*, _ACCEPT_* flags
#    4  i   fd           a slot instead, under IOSQE_FIXED_FILE
#    8  Q   off          addr2; cmd_op (32 bits at 8; 32 of padding at 12)
#   16  Q   addr         splice_off_in; level (32 bits at 16) and optname (32 bits at 20)
#   24  I   len          bytes or number of iovecs; IORING_POLL_* flags
#   28  I   op_flags     rw_flags, fsync_flags, poll_events (16 bits), poll32_events, sync_range_flags,
#                        msg_flags, timeout_flags, accept_flags, cancel_flags, open_flags, statx_flags,
#                        fadvise_advice, splice_flags, rename_flags, unlink_flags, hardlink_flags,
#                        xattr_flags, msg_ring_flags, uring_cmd_flags, waitid_flags, futex_flags,
#                        install_fd_flags, nop_flags, pipe_flags
#   32  Q   user_data    comes back in the CQE, never looked at
#   40  H   buf_index    buf_group, under IOSQE_BUFFER_SELECT
#   42  H   personality
#   44  I   file_index   splice_fd_in (signed), zcrx_ifq_idx, optlen; addr_len (16 bits at 44)
#   48  Q   addr3        attr_ptr, optval; command bytes start here (16, or 80 in a 128-byte SQE)
#   56  Q   pad2         attr_type_mask
#
# op_flags and pad2 are names of ours; the rest is the header's.
SQE = Struct("=BBHiQQIIQHHIQQ")
assert SQE.size == 64

IOSQE_FIXED_FILE       = 1 << 0  # 5.1   fd is an index into the registered files
IOSQE_IO_DRAIN         = 1 << 1  # 5.2   start after all before it, hold all behind it
IOSQE_IO_LINK          = 1 << 2  # 5.3   the next SQE starts when this one succeeded
IOSQE_IO_HARDLINK      = 1 << 3  # 5.5   ... when this one is done, however it ended
IOSQE_ASYNC            = 1 << 4  # 5.6   straight to a worker, no attempt inline
IOSQE_BUFFER_SELECT    = 1 << 5  # 5.7   the kernel takes a buffer from group buf_group
IOSQE_CQE_SKIP_SUCCESS = 1 << 6  # 5.17  no CQE unless it fails

# file_index, for the opcodes that make a file: 0 means a normal fd, N means slot N - 1. This value lets the
# kernel choose the slot, and the choice comes back in res.
IORING_FILE_INDEX_ALLOC = 0xffffffff  # 5.19

# =================================================================================================== opcodes
# In bands of the kernel that brought them. The comment is what the request does; OPCODES, at the end of the
# file, says which fields it takes.

# ---- 5.1 ----
IORING_OP_NOP             = 0   # nothing, and a CQE
IORING_OP_READV           = 1   # preadv2(2)
IORING_OP_WRITEV          = 2   # pwritev2(2)
IORING_OP_FSYNC           = 3   # fsync(2), fdatasync(2)
IORING_OP_READ_FIXED      = 4   # read into a registered buffer
IORING_OP_WRITE_FIXED     = 5   # write from a registered buffer
IORING_OP_POLL_ADD        = 6   # poll(2), once or multishot
IORING_OP_POLL_REMOVE     = 7   # end a poll, or change it
# ---- 5.2 ----
IORING_OP_SYNC_FILE_RANGE = 8   # sync_file_range(2)
# ---- 5.3 ----
IORING_OP_SENDMSG         = 9   # sendmsg(2)
IORING_OP_RECVMSG         = 10  # recvmsg(2), once or multishot
# ---- 5.4 ----
IORING_OP_TIMEOUT         = 11  # a timer, or a count of completions
# ---- 5.5 ----
IORING_OP_TIMEOUT_REMOVE  = 12  # end a timer, or change it
IORING_OP_ACCEPT          = 13  # accept4(2), once or multishot
IORING_OP_ASYNC_CANCEL    = 14  # cancel another request
IORING_OP_LINK_TIMEOUT    = 15  # a time limit for the request linked before it
IORING_OP_CONNECT         = 16  # connect(2), nearly: see ERRATA.md
# ---- 5.6 ----
IORING_OP_FALLOCATE       = 17  # fallocate(2)
IORING_OP_OPENAT          = 18  # openat(2)
IORING_OP_CLOSE           = 19  # close(2), of an fd or of a slot
IORING_OP_FILES_UPDATE    = 20  # IORING_REGISTER_FILES_UPDATE as a request
IORING_OP_STATX           = 21  # statx(2)
IORING_OP_READ            = 22  # pread(2)
IORING_OP_WRITE           = 23  # pwrite(2)
IORING_OP_FADVISE         = 24  # posix_fadvise(2)
IORING_OP_MADVISE         = 25  # madvise(2)
IORING_OP_SEND            = 26  # send(2), sendto(2)
IORING_OP_RECV            = 27  # recv(2), once or multishot
IORING_OP_OPENAT2         = 28  # openat2(2)
IORING_OP_EPOLL_CTL       = 29  # epoll_ctl(2)
# ---- 5.7 ----
IORING_OP_SPLICE          = 30  # splice(2)
IORING_OP_PROVIDE_BUFFERS = 31  # give buffers to a group (the old way; see IORING_REGISTER_PBUF_RING)
IORING_OP_REMOVE_BUFFERS  = 32  # take them back
# ---- 5.8 ----
IORING_OP_TEE             = 33  # tee(2)
# ---- 5.11 ----
IORING_OP_SHUTDOWN        = 34  # shutdown(2)
IORING_OP_RENAMEAT        = 35  # renameat2(2)
IORING_OP_UNLINKAT        = 36  # unlinkat(2)
# ---- 5.15 ----
IORING_OP_MKDIRAT         = 37  # mkdirat(2)
IORING_OP_SYMLINKAT       = 38  # symlinkat(2)
IORING_OP_LINKAT          = 39  # linkat(2)
# ---- 5.18 ----
IORING_OP_MSG_RING        = 40  # post a CQE, or a file, to another ring
# ---- 5.19 ----
IORING_OP_FSETXATTR       = 41  # fsetxattr(2)
IORING_OP_SETXATTR        = 42  # setxattr(2)
IORING_OP_FGETXATTR       = 43  # fgetxattr(2)
IORING_OP_GETXATTR        = 44  # getxattr(2)
IORING_OP_SOCKET          = 45  # socket(2)
IORING_OP_URING_CMD       = 46  # a command of the file's own, as ioctl(2) is
# ---- 6.0 ----
IORING_OP_SEND_ZC         = 47  # send(2) without a copy: a second CQE when the buffer is free
# ---- 6.1 ----
IORING_OP_SENDMSG_ZC      = 48  # sendmsg(2) likewise
# ---- 6.7 ----
IORING_OP_READ_MULTISHOT  = 49  # read(2) again and again, into provided buffers
IORING_OP_WAITID          = 50  # waitid(2)
IORING_OP_FUTEX_WAIT      = 51  # futex_wait(2)
IORING_OP_FUTEX_WAKE      = 52  # futex_wake(2)
IORING_OP_FUTEX_WAITV     = 53  # futex_waitv(2)
# ---- 6.8 ----
IORING_OP_FIXED_FD_INSTALL = 54  # a normal fd for a registered file
# ---- 6.9 ----
IORING_OP_FTRUNCATE       = 55  # ftruncate(2)
# ---- 6.11 ----
IORING_OP_BIND            = 56  # bind(2)
IORING_OP_LISTEN          = 57  # listen(2)
# ---- 6.15 ----
IORING_OP_RECV_ZC         = 58  # receive into memory the network card fills
IORING_OP_EPOLL_WAIT      = 59  # epoll_wait(2)
IORING_OP_READV_FIXED     = 60  # preadv2(2) into a registered buffer
IORING_OP_WRITEV_FIXED    = 61  # pwritev2(2) from a registered buffer
# ---- 6.16 ----
IORING_OP_PIPE            = 62  # pipe2(2)
# ---- 6.19 ----
IORING_OP_NOP128          = 63  # NOP in a 128-byte SQE
IORING_OP_URING_CMD128    = 64  # URING_CMD in a 128-byte SQE

# ========================================================================================== flags by opcode

# NOP, in op_flags
IORING_NOP_INJECT_RESULT = 1 << 0  # 6.10  res is what len says
IORING_NOP_FILE          = 1 << 1  # 6.13  look the file fd up, and do nothing with it
IORING_NOP_FIXED_FILE    = 1 << 2  # 6.13  ... in the registered files
IORING_NOP_FIXED_BUFFER  = 1 << 3  # 6.13  look registered buffer buf_index up
IORING_NOP_TW            = 1 << 4  # 6.16  complete in task work, as what was not ready does
IORING_NOP_CQE32         = 1 << 5  # 6.18  post a 32-byte CQE; off and addr are its second half

# READ, WRITE and their kin, in attr_type_mask (the last 8 bytes of the SQE)
IORING_RW_ATTR_FLAG_PI = 1 << 0  # 6.14  attr_ptr points to protection information

# struct io_uring_attr_pi, at attr_ptr: flags (IO_INTEGRITY_CHK_*), app_tag, len (bytes), addr, seed
ATTR_PI = Struct("=HHIQQ8x")
assert ATTR_PI.size == 32

# FSYNC, in op_flags
IORING_FSYNC_DATASYNC = 1 << 0  # 5.1   fdatasync(2)

# SPLICE and TEE, in op_flags, beside SPLICE_F_* of splice(2)
SPLICE_F_FD_IN_FIXED = 1 << 31  # 5.7   splice_fd_in is a slot

# POLL_ADD and POLL_REMOVE, in len: op_flags holds the events
IORING_POLL_ADD_MULTI        = 1 << 0  # 5.13  a CQE each time, until one comes without F_MORE
IORING_POLL_UPDATE_EVENTS    = 1 << 1  # 5.13  POLL_REMOVE changes the events of a poll ...
IORING_POLL_UPDATE_USER_DATA = 1 << 2  # 5.13  ... or its user_data
IORING_POLL_ADD_LEVEL        = 1 << 3  # 6.0   in the header, but refused: EINVAL, seen on 6.18

# TIMEOUT, TIMEOUT_REMOVE and LINK_TIMEOUT, in op_flags
IORING_TIMEOUT_ABS           = 1 << 0  # 5.5   a point in time, not a span
IORING_TIMEOUT_UPDATE        = 1 << 1  # 5.11  TIMEOUT_REMOVE changes a TIMEOUT
IORING_TIMEOUT_BOOTTIME      = 1 << 2  # 5.15  CLOCK_BOOTTIME
IORING_TIMEOUT_REALTIME      = 1 << 3  # 5.15  CLOCK_REALTIME
IORING_LINK_TIMEOUT_UPDATE   = 1 << 4  # 5.15  TIMEOUT_REMOVE changes a LINK_TIMEOUT
IORING_TIMEOUT_ETIME_SUCCESS = 1 << 5  # 5.16  expiry does not break a chain
IORING_TIMEOUT_MULTISHOT     = 1 << 6  # 6.4   fires repeatedly; off is how often, 0 for ever
IORING_TIMEOUT_IMMEDIATE_ARG = 1 << 7  # 7.1   addr is nanoseconds, not a pointer
IORING_TIMEOUT_CLOCK_MASK    = IORING_TIMEOUT_BOOTTIME | IORING_TIMEOUT_REALTIME
IORING_TIMEOUT_UPDATE_MASK   = IORING_TIMEOUT_UPDATE | IORING_LINK_TIMEOUT_UPDATE

# ACCEPT, in ioprio (op_flags holds SOCK_* of accept4(2))
IORING_ACCEPT_MULTISHOT  = 1 << 0  # 5.19  a CQE for each connection
IORING_ACCEPT_DONTWAIT   = 1 << 1  # 6.10  none there: EAGAIN
IORING_ACCEPT_POLL_FIRST = 1 << 2  # 6.10  wait before trying

# ASYNC_CANCEL and IORING_REGISTER_SYNC_CANCEL, in op_flags
IORING_ASYNC_CANCEL_ALL      = 1 << 0  # 5.19  all that match; res is how many
IORING_ASYNC_CANCEL_FD       = 1 << 1  # 5.19  match the fd, not the user_data
IORING_ASYNC_CANCEL_ANY      = 1 << 2  # 5.19  match everything
IORING_ASYNC_CANCEL_FD_FIXED = 1 << 3  # 6.0   the fd is a slot
IORING_ASYNC_CANCEL_USERDATA = 1 << 4  # 6.6   match user_data too; alone it is the default
IORING_ASYNC_CANCEL_OP       = 1 << 5  # 6.6   match the opcode too

# SEND, RECV and their kin, in ioprio (op_flags holds MSG_* of send(2))
IORING_RECVSEND_POLL_FIRST  = 1 << 0  # 5.19  wait before trying
IORING_RECV_MULTISHOT       = 1 << 1  # 6.0   a CQE for each arrival, into provided buffers
IORING_RECVSEND_FIXED_BUF   = 1 << 2  # 6.0   the data is in registered buffer buf_index
IORING_SEND_ZC_REPORT_USAGE = 1 << 3  # 6.2   the notification tells whether it was copied after all
IORING_RECVSEND_BUNDLE      = 1 << 4  # 6.10  several provided buffers in one request
IORING_SEND_VECTORIZED      = 1 << 5  # 6.17  addr is an array of iovecs

# In res of a zero-copy notification that was asked for IORING_SEND_ZC_REPORT_USAGE
IORING_NOTIF_USAGE_ZC_COPIED = 1 << 31  # 6.2

# MSG_RING: the command is in addr ...
IORING_MSG_DATA    = 0  # 5.18  len becomes res, off becomes user_data
IORING_MSG_SEND_FD = 1  # 6.0   a registered file goes over

# ... and the flags in op_flags
IORING_MSG_RING_CQE_SKIP   = 1 << 0  # 6.0   no CQE there (not for MSG_DATA)
IORING_MSG_RING_FLAGS_PASS = 1 << 1  # 6.3   file_index becomes the flags of the CQE there

# EPOLL_CTL, in len (linux/eventpoll.h)
EPOLL_CTL_ADD = 1  # 5.6   watch an fd
EPOLL_CTL_DEL = 2  # 5.6   do not any more
EPOLL_CTL_MOD = 3  # 5.6   change for what, or the data

# FUTEX_WAIT and FUTEX_WAKE in fd, FUTEX_WAITV in each of its futexes (linux/futex.h)
FUTEX2_SIZE_U8   = 0x00  # 6.7   the word's size. Only U32 can be waited for so far, the others are EINVAL
FUTEX2_SIZE_U16  = 0x01  # 6.7
FUTEX2_SIZE_U32  = 0x02  # 6.7
FUTEX2_SIZE_U64  = 0x03  # 6.7
FUTEX2_NUMA      = 0x04  # 6.16  behind the word stands the number of a NUMA node, of the same size
FUTEX2_MPOL      = 0x08  # 6.16  the node is the one of the word's memory policy
FUTEX2_PRIVATE   = 128   # 6.7   of this process alone: found faster
FUTEX2_SIZE_MASK = 0x03  # 6.7

FUTEX_BITSET_MATCH_ANY = 0xffffffff  # 6.7   in addr3: any waker wakes, any waiter is woken
FUTEX_WAITV_MAX        = 128         # 6.7   in len of FUTEX_WAITV

# FIXED_FD_INSTALL, in op_flags
IORING_FIXED_FD_NO_CLOEXEC = 1 << 0  # 6.8

# URING_CMD, in op_flags
IORING_URING_CMD_FIXED = 1 << 0  # 6.1   the data is in registered buffer buf_index
IORING_URING_CMD_MASK  = IORING_URING_CMD_FIXED

# URING_CMD on a block device, in cmd_op: ioctl numbers, _IO(0x12, n) of linux/blkdev.h
BLOCK_URING_CMD_DISCARD        = 0x12 << 8 | 0  # 6.12  forget a range of bytes: addr=offset, addr3=how many
BLOCK_URING_CMD_ZONE_RESET_ALL = 0x12 << 8 | 1  #       rewind all zones; not yet in 7.2

# The direction in an ioctl number that carries no data (_IOC_NONE) is 0, except on these machines.
IOC_NONE = dict.fromkeys(("ppc64le", "ppc64", "ppc", "sparc64", "sparc", "alpha"), 1 << 29)

# URING_CMD on a socket, in cmd_op
SOCKET_URING_OP_SIOCINQ      = 0  # bytes waiting to be read
SOCKET_URING_OP_SIOCOUTQ     = 1  # bytes waiting to be sent
SOCKET_URING_OP_GETSOCKOPT   = 2  # 6.7   SOL_SOCKET only; res is the length
SOCKET_URING_OP_SETSOCKOPT   = 3  # 6.7
SOCKET_URING_OP_TX_TIMESTAMP = 4  # 6.17  multishot
SOCKET_URING_OP_GETSOCKNAME  = 5  # 6.19  the peer's name too

# In flags of a TX_TIMESTAMP CQE, above the IORING_CQE_F_* bits
IORING_TIMESTAMP_HW_SHIFT   = 16       # 6.17
IORING_TIMESTAMP_TYPE_SHIFT = 17       # 6.17
IORING_CQE_F_TSTAMP_HW      = 1 << 16  # 6.17  the card took the time

# ======================================================================================================= CQE
# struct io_uring_cqe: user_data, res (>= 0, or -errno), flags. 32-byte CQEs have 16 more behind it.
CQE = Struct("=QiI")
assert CQE.size == 16

IORING_CQE_F_BUFFER        = 1 << 0   # 5.7   the upper 16 bits name the provided buffer
IORING_CQE_F_MORE          = 1 << 1   # 5.13  not the last CQE of this request
IORING_CQE_F_SOCK_NONEMPTY = 1 << 2   # 5.19  there is more to receive
IORING_CQE_F_NOTIF         = 1 << 3   # 6.0   zero-copy send: the buffer is free now
IORING_CQE_F_BUF_MORE      = 1 << 4   # 6.12  the provided buffer stays in use (IOU_PBUF_RING_INC)
IORING_CQE_F_SKIP          = 1 << 5   # 6.18  filler in a mixed ring, ignore it
IORING_CQE_F_32            = 1 << 15  # 6.18  this one has 32 bytes, in a mixed ring

IORING_CQE_BUFFER_SHIFT = 16  # 5.7   flags >> this: the buffer's ID

# ============================================================================================ io_uring_enter

IORING_ENTER_GETEVENTS       = 1 << 0  # 5.1   wait for min_complete CQEs
IORING_ENTER_SQ_WAKEUP       = 1 << 1  # 5.1   wake the SQPOLL thread
IORING_ENTER_SQ_WAIT         = 1 << 2  # 5.10  wait until the SQ ring has room (SQPOLL)
IORING_ENTER_EXT_ARG         = 1 << 3  # 5.11  the argument is a GETEVENTS_ARG, not a sigset
IORING_ENTER_REGISTERED_RING = 1 << 4  # 5.18  fd is an index from IORING_REGISTER_RING_FDS
IORING_ENTER_ABS_TIMER       = 1 << 5  # 6.12  the timeout is a point in time
IORING_ENTER_EXT_ARG_REG     = 1 << 6  # 6.13  the argument is the offset of a registered REG_WAIT
IORING_ENTER_NO_IOWAIT       = 1 << 7  # 6.15  do not count the sleep as iowait

# struct __kernel_timespec: tv_sec, tv_nsec. 64 bits each, on 32-bit machines as well.
TIMESPEC = Struct("=qq")
assert TIMESPEC.size == 16

# struct io_uring_getevents_arg: sigmask (address), sigmask_sz, min_wait_usec (6.12, before that 0),
# ts (address of a TIMESPEC, or 0)
GETEVENTS_ARG = Struct("=QIIQ")
assert GETEVENTS_ARG.size == 24

# struct io_uring_reg_wait: ts.tv_sec, ts.tv_nsec, min_wait_usec, flags, sigmask (address), sigmask_sz
REG_WAIT = Struct("=qqIIQI28x")
assert REG_WAIT.size == 64

IORING_REG_WAIT_TS = 1 << 0  # 6.13  ts counts

# ========================================================================================= io_uring_register
# The opcode, then what arg and nr_args are.

IORING_REGISTER_BUFFERS          = 0   # 5.1   iovec[], how many
IORING_UNREGISTER_BUFFERS        = 1   # 5.1   -
IORING_REGISTER_FILES            = 2   # 5.1   int32[], how many; -1 is an empty slot
IORING_UNREGISTER_FILES          = 3   # 5.1   -
IORING_REGISTER_EVENTFD          = 4   # 5.2   int32, 1
IORING_UNREGISTER_EVENTFD        = 5   # 5.2   -
IORING_REGISTER_FILES_UPDATE     = 6   # 5.5   RSRC_UPDATE, how many fds
IORING_REGISTER_EVENTFD_ASYNC    = 7   # 5.6   int32, 1; only for what did not complete inline
IORING_REGISTER_PROBE            = 8   # 5.6   PROBE and PROBE_OP[], how many PROBE_OPs
IORING_REGISTER_PERSONALITY      = 9   # 5.6   -; returns the personality's ID
IORING_UNREGISTER_PERSONALITY    = 10  # 5.6   nothing, the ID
IORING_REGISTER_RESTRICTIONS     = 11  # 5.10  RESTRICTION[], how many
IORING_REGISTER_ENABLE_RINGS     = 12  # 5.10  -
IORING_REGISTER_FILES2           = 13  # 5.13  RSRC_REGISTER, its size
IORING_REGISTER_FILES_UPDATE2    = 14  # 5.13  RSRC_UPDATE2, its size
IORING_REGISTER_BUFFERS2         = 15  # 5.13  RSRC_REGISTER, its size
IORING_REGISTER_BUFFERS_UPDATE   = 16  # 5.13  RSRC_UPDATE2, its size
IORING_REGISTER_IOWQ_AFF         = 17  # 5.14  cpu_set_t, its size
IORING_UNREGISTER_IOWQ_AFF       = 18  # 5.14  -
IORING_REGISTER_IOWQ_MAX_WORKERS = 19  # 5.15  uint32[2] (IO_WQ_BOUND, IO_WQ_UNBOUND), 2; old values come back
IORING_REGISTER_RING_FDS         = 20  # 5.18  RSRC_UPDATE[], how many
IORING_UNREGISTER_RING_FDS       = 21  # 5.18  RSRC_UPDATE[], how many
IORING_REGISTER_PBUF_RING        = 22  # 5.19  BUF_REG, 1
IORING_UNREGISTER_PBUF_RING      = 23  # 5.19  BUF_REG, 1
IORING_REGISTER_SYNC_CANCEL      = 24  # 6.0   SYNC_CANCEL_REG, 1
IORING_REGISTER_FILE_ALLOC_RANGE = 25  # 6.0   FILE_INDEX_RANGE, 0 (liburing; its manual says 1)
IORING_REGISTER_PBUF_STATUS      = 26  # 6.8   BUF_STATUS, 1
IORING_REGISTER_NAPI             = 27  # 6.9   NAPI, 1; old values come back
IORING_UNREGISTER_NAPI           = 28  # 6.9   NAPI or nothing, 1
IORING_REGISTER_CLOCK            = 29  # 6.12  CLOCK_REGISTER, 0
IORING_REGISTER_CLONE_BUFFERS    = 30  # 6.12  CLONE_BUFFERS, 1
IORING_REGISTER_SEND_MSG_RING    = 31  # 6.13  SQE with a MSG_RING, 1; the fd is -1
IORING_REGISTER_ZCRX_IFQ         = 32  # 6.15  struct io_uring_zcrx_ifq_reg, 1
IORING_REGISTER_RESIZE_RINGS     = 33  # 6.13  PARAMS, 1
IORING_REGISTER_MEM_REGION       = 34  # 6.13  MEM_REGION_REG, 1
IORING_REGISTER_QUERY            = 35  # 6.18  QUERY_HDR, 0; the fd may be -1
IORING_REGISTER_ZCRX_CTRL        = 36  # 6.19  struct zcrx_ctrl, 0
IORING_REGISTER_BPF_FILTER       = 37  # 7.0   struct io_uring_bpf, 1

IORING_REGISTER_USE_REGISTERED_RING = 1 << 31  # 6.3   or-ed to the opcode: fd is a registered ring

IO_WQ_BOUND   = 0  # 5.15  index: workers for regular files and block devices
IO_WQ_UNBOUND = 1  # 5.15  index: workers for everything else

# struct io_uring_probe: last_op, ops_len, resv
# and behind it ops_len times struct io_uring_probe_op: op, resv, flags, resv2
PROBE = Struct("=BBH12x")
PROBE_OP = Struct("=BBHI")
assert PROBE.size == 16
assert PROBE_OP.size == 8

IO_URING_OP_SUPPORTED = 1 << 0  # 5.6   in flags of a PROBE_OP

# struct io_uring_query_hdr: next_entry (address), query_data (address), query_op, size, result
QUERY_HDR = Struct("=QQIIi12x")
assert QUERY_HDR.size == 40

# struct io_uring_query_opcode: nr_request_opcodes, nr_register_opcodes, feature_flags, ring_setup_flags,
# enter_flags, sqe_flags, nr_query_opcodes
QUERY_OPCODE = Struct("=IIQQQQI4x")
assert QUERY_OPCODE.size == 48

# struct io_uring_query_zcrx: register_flags (ZCRX_REG_*), area_flags (IORING_ZCRX_AREA_*), nr_ctrl_opcodes,
# features (ZCRX_FEATURE_*), rq_hdr_size, rq_hdr_alignment
QUERY_ZCRX = Struct("=QQIIII8x")
assert QUERY_ZCRX.size == 40

# struct io_uring_query_scq: hdr_size, hdr_alignment
QUERY_SCQ = Struct("=QQ")
assert QUERY_SCQ.size == 16

IO_URING_QUERY_OPCODES = 0  # 6.18  query_op; query_data points to a QUERY_OPCODE
IO_URING_QUERY_ZCRX    = 1  #       zero-copy receive: a QUERY_ZCRX
IO_URING_QUERY_SCQ     = 2  #       sizes of the ring headers: a QUERY_SCQ

# struct io_uring_sync_cancel_reg: addr (the user_data), fd, flags (IORING_ASYNC_CANCEL_*),
# timeout.tv_sec, timeout.tv_nsec (-1, -1: none), opcode (6.6, for IORING_ASYNC_CANCEL_OP)
SYNC_CANCEL_REG = Struct("=QiIqqB31x")
assert SYNC_CANCEL_REG.size == 64

# ---- registered files and buffers ----

# struct io_uring_rsrc_register: nr, flags, resv2, data (address), tags (address)
RSRC_REGISTER = Struct("=IIQQQ")
assert RSRC_REGISTER.size == 32

IORING_RSRC_REGISTER_SPARSE = 1 << 0  # 5.19  all slots empty, data is 0

# struct io_uring_rsrc_update: offset, resv, data (address of int32[]; for RING_FDS the fd itself)
RSRC_UPDATE = Struct("=IIQ")
assert RSRC_UPDATE.size == 16

# struct io_uring_rsrc_update2: offset, resv, data (address), tags (address), nr, resv2
RSRC_UPDATE2 = Struct("=IIQQII")
assert RSRC_UPDATE2.size == 32

IORING_REGISTER_FILES_SKIP = -2  # 5.12  leave this slot as it is

# struct io_uring_file_index_range: off, len, resv
FILE_INDEX_RANGE = Struct("=IIQ")
assert FILE_INDEX_RANGE.size == 16

# struct io_uring_clone_buffers: src_fd, flags, src_off, dst_off, nr
CLONE_BUFFERS = Struct("=IIIII12x")
assert CLONE_BUFFERS.size == 32

IORING_REGISTER_SRC_REGISTERED = 1 << 0  # 6.12  src_fd is a registered ring
IORING_REGISTER_DST_REPLACE    = 1 << 1  # 6.13  overwrite what is there

# ---- provided buffer rings ----
# The ring is ring_entries times struct io_uring_buf: addr, len, bid, resv. The tail that we publish lies in
# the resv of the first entry, so at byte 14 of the ring.
BUF = Struct("=QIHH")
assert BUF.size == 16

# struct io_uring_buf_reg: ring_addr, ring_entries (a power of two, at most 32768), bgid, flags, min_left
# (newest kernels, with IOU_PBUF_RING_INC; else 0)
BUF_REG = Struct("=QIHHI20x")
assert BUF_REG.size == 40

IOU_PBUF_RING_MMAP = 1  # 6.4   the kernel allocates the ring: mmap at IORING_OFF_PBUF_RING
IOU_PBUF_RING_INC  = 2  # 6.12  a buffer may be used up bit by bit

# struct io_uring_buf_status: buf_group (in), head (out)
BUF_STATUS = Struct("=II32x")
assert BUF_STATUS.size == 40

# struct io_uring_recvmsg_out: namelen, controllen, payloadlen, flags. A multishot RECVMSG puts it at the
# start of the buffer.
RECVMSG_OUT = Struct("=IIII")
assert RECVMSG_OUT.size == 16

# ---- the rest ----

# struct io_uring_restriction: opcode (IORING_RESTRICTION_*), then register_op, sqe_op or sqe_flags
RESTRICTION = Struct("=HB13x")
assert RESTRICTION.size == 16

IORING_RESTRICTION_REGISTER_OP        = 0  # 5.10  allow this io_uring_register opcode
IORING_RESTRICTION_SQE_OP             = 1  # 5.10  allow this IORING_OP
IORING_RESTRICTION_SQE_FLAGS_ALLOWED  = 2  # 5.10  allow these IOSQE bits
IORING_RESTRICTION_SQE_FLAGS_REQUIRED = 3  # 5.10  demand these IOSQE bits

# struct io_uring_clock_register: clockid
CLOCK_REGISTER = Struct("=I12x")
assert CLOCK_REGISTER.size == 16

# struct io_uring_napi: busy_poll_to (microseconds), prefer_busy_poll
NAPI = Struct("=IB11x")
assert NAPI.size == 16

# struct io_uring_region_desc: user_addr, size, flags, id, mmap_offset
REGION_DESC = Struct("=QQIIQ32x")
assert REGION_DESC.size == 64

IORING_MEM_REGION_TYPE_USER = 1  # 6.13  in flags: the memory is ours, at user_addr

# struct io_uring_mem_region_reg: region_uptr (address of a REGION_DESC), flags
MEM_REGION_REG = Struct("=QQ16x")
assert MEM_REGION_REG.size == 32

IORING_MEM_REGION_REG_WAIT_ARG = 1  # 6.13  in flags: the region holds REG_WAITs

# ---- zero-copy receive ----

# struct io_uring_zcrx_ifq_reg: if_idx, if_rxq, rq_entries, flags (ZCRX_REG_*), area_ptr (address of a
# ZCRX_AREA_REG), region_ptr (address of a REGION_DESC), then out: offsets.head, offsets.tail, offsets.rqes
# (where these lie in the region), zcrx_id; rx_buf_len (in)
ZCRX_IFQ_REG = Struct("=IIIIQQIII20xII24x")
assert ZCRX_IFQ_REG.size == 96

# struct io_uring_zcrx_area_reg: addr, len, rq_area_token (out), flags, dmabuf_fd
ZCRX_AREA_REG = Struct("=QQQII16x")
assert ZCRX_AREA_REG.size == 48

# struct io_uring_zcrx_rqe: off, len. An entry of the refill queue: a buffer that goes back to the card.
ZCRX_RQE = Struct("=QI4x")
assert ZCRX_RQE.size == 16

# struct zcrx_ctrl: zcrx_id, op, zc_export.zcrx_fd (out)
ZCRX_CTRL = Struct("=II16xI44x")
assert ZCRX_CTRL.size == 72

IORING_ZCRX_AREA_SHIFT  = 48      # 6.15  off >> this: the area
IORING_ZCRX_AREA_DMABUF = 1       # 6.16  in flags of an area: its memory is dmabuf_fd's

ZCRX_REG_IMPORT = 1 << 0  #       share what another ring exported
ZCRX_REG_NODEV  = 1 << 1  #       no network card: everything is copied

ZCRX_FEATURE_RX_PAGE_SIZE = 1 << 0  #       rx_buf_len is understood

ZCRX_CTRL_FLUSH_RQ = 0  # 6.19  take what is in the refill queue, now
ZCRX_CTRL_EXPORT   = 1  # 6.19  make an fd that other rings can import

# ---- filters ----

# struct io_uring_bpf: cmd_type, cmd_flags, filter.opcode, filter.flags, filter.filter_len (instructions),
# filter.pdu_size (what the filter expects; the kernel's own value comes back with EMSGSIZE),
# filter.filter_ptr (address of struct sock_filter[])
BPF = Struct("=HH4xIIIB3xQ40x")
assert BPF.size == 72

IO_URING_BPF_CMD_FILTER = 1  # 7.0   cmd_type

IO_URING_BPF_FILTER_DENY_REST = 1  # 7.0   opcodes without a filter are denied
IO_URING_BPF_FILTER_SZ_STRICT = 2  #       pdu_size must be the kernel's

# ========================================================================================== the opcode table
# One row an opcode, so that OPCODES[n].number == n.
#
#   number   as IORING_OP_*
#   name     lower case, as in IORING_OP_NAME
#   since    the Linux release that brought it; a helper or a flag may be younger than its opcode
#   fields   what the request reads from its SQE. `a=b` puts b into field a, `op_flags=MSG_*` names the values
#            that go there. `len` is bytes unless said otherwise. "slot" is file_index: 0 for a normal fd,
#            else slot + 1. Not repeated, because the same for all: user_data, flags (IOSQE_*), personality
#   helpers  liburing's functions that fill it, without `io_uring_`. A bare prep_rw means that liburing has no
#            helper of its own for it; prep_send_set_addr amends an SQE that is already a send

Opcode = namedtuple("Opcode", "number name since fields helpers")
Opcode.__doc__ = "A row of OPCODES, see above."

OPCODES = (
    # ---- 5.1 ----
    Opcode(0, "nop", "5.1", "op_flags=IORING_NOP_*, len=result to inject; fd, buf_index to look up",
           ("prep_nop",)),
    Opcode(1, "readv", "5.1", "fd, addr=iovec[], len=count, off=position, op_flags=RWF_*, ioprio",
           ("prep_readv", "prep_readv2")),
    Opcode(2, "writev", "5.1", "fd, addr=iovec[], len=count, off=position, op_flags=RWF_*, ioprio",
           ("prep_writev", "prep_writev2")),
    Opcode(3, "fsync", "5.1", "fd, op_flags=IORING_FSYNC_*; off and len=range, 0 and 0 for all",
           ("prep_fsync",)),
    Opcode(4, "read_fixed", "5.1", "fd, addr, len, off=position, buf_index, op_flags=RWF_*, ioprio",
           ("prep_read_fixed",)),
    Opcode(5, "write_fixed", "5.1", "fd, addr, len, off=position, buf_index, op_flags=RWF_*, ioprio",
           ("prep_write_fixed",)),
    Opcode(6, "poll_add", "5.1", "fd, op_flags=events (halves swapped on big-endian), len=IORING_POLL_ADD_*",
           ("prep_poll_add", "prep_poll_multishot")),
    Opcode(7, "poll_remove", "5.1",
           "addr=user_data of the poll; to change it: off=new user_data, op_flags=events, len=IORING_POLL_*",
           ("prep_poll_remove", "prep_poll_update")),
    # ---- 5.2 ----
    Opcode(8, "sync_file_range", "5.2", "fd, off, len, op_flags=SYNC_FILE_RANGE_*",
           ("prep_sync_file_range",)),
    # ---- 5.3 ----
    Opcode(9, "sendmsg", "5.3", "fd, addr=msghdr, len=1, op_flags=MSG_*, ioprio=IORING_RECVSEND_*",
           ("prep_sendmsg",)),
    Opcode(10, "recvmsg", "5.3", "fd, addr=msghdr, len=1, op_flags=MSG_*, ioprio=IORING_RECV*, buf_group",
           ("prep_recvmsg", "prep_recvmsg_multishot")),
    # ---- 5.4 ----
    Opcode(11, "timeout", "5.4", "addr=timespec, len=1, off=CQEs to wait for, op_flags=IORING_TIMEOUT_*",
           ("prep_timeout",)),
    # ---- 5.5 ----
    Opcode(12, "timeout_remove", "5.5",
           "addr=user_data of the timeout, op_flags=IORING_TIMEOUT_*; to change it: off=timespec",
           ("prep_timeout_remove", "prep_timeout_update")),
    Opcode(13, "accept", "5.5",
           "fd, addr=sockaddr, off=address of its length, op_flags=SOCK_*, slot, ioprio=IORING_ACCEPT_*",
           ("prep_accept", "prep_accept_direct", "prep_multishot_accept", "prep_multishot_accept_direct")),
    Opcode(14, "async_cancel", "5.5", "addr=user_data, or fd, or len=opcode; op_flags=IORING_ASYNC_CANCEL_*",
           ("prep_cancel", "prep_cancel64", "prep_cancel_fd")),
    Opcode(15, "link_timeout", "5.5", "addr=timespec, len=1, op_flags=IORING_TIMEOUT_*",
           ("prep_link_timeout",)),
    Opcode(16, "connect", "5.5", "fd, addr=sockaddr, off=addrlen",
           ("prep_connect",)),
    # ---- 5.6 ----
    Opcode(17, "fallocate", "5.6", "fd, off=position, addr=length, len=mode",
           ("prep_fallocate",)),
    Opcode(18, "openat", "5.6", "fd=directory, addr=path, len=mode, op_flags=O_*, slot",
           ("prep_openat", "prep_openat_direct", "prep_open", "prep_open_direct")),
    Opcode(19, "close", "5.6", "fd, or slot",
           ("prep_close", "prep_close_direct")),
    Opcode(20, "files_update", "5.6", "addr=int32[], len=count, off=first slot",
           ("prep_files_update",)),
    Opcode(21, "statx", "5.6", "fd=directory, addr=path, len=STATX_* mask, off=statx, op_flags=AT_*",
           ("prep_statx",)),
    Opcode(22, "read", "5.6", "fd, addr=buffer, len, off=position, op_flags=RWF_*, ioprio, buf_group",
           ("prep_read",)),
    Opcode(23, "write", "5.6", "fd, addr=buffer, len, off=position, op_flags=RWF_*, ioprio",
           ("prep_write",)),
    Opcode(24, "fadvise", "5.6", "fd, off, len (or addr, if more than 32 bits), op_flags=POSIX_FADV_*",
           ("prep_fadvise", "prep_fadvise64")),
    Opcode(25, "madvise", "5.6", "addr, len (or off, if more than 32 bits), op_flags=MADV_*",
           ("prep_madvise", "prep_madvise64")),
    Opcode(26, "send", "5.6",
           "fd, addr=buffer, len, op_flags=MSG_*, ioprio=IORING_RECVSEND_*; "
           "to a sockaddr: off=sockaddr, addr_len (16 bits at 44)",
           ("prep_send", "prep_sendto", "prep_send_bundle", "prep_send_set_addr")),
    Opcode(27, "recv", "5.6", "fd, addr=buffer, len, op_flags=MSG_*, ioprio=IORING_RECV*, buf_group",
           ("prep_recv", "prep_recv_multishot")),
    Opcode(28, "openat2", "5.6", "fd=directory, addr=path, len=size of open_how, off=open_how, slot",
           ("prep_openat2", "prep_openat2_direct")),
    Opcode(29, "epoll_ctl", "5.6", "fd=epoll, off=fd to watch, len=EPOLL_CTL_*, addr=epoll_event",
           ("prep_epoll_ctl",)),
    # ---- 5.7 ----
    Opcode(30, "splice", "5.7",
           "file_index=fd in, addr=offset in, fd=fd out, off=offset out, len, op_flags=SPLICE_F_*",
           ("prep_splice",)),
    Opcode(31, "provide_buffers", "5.7", "addr=memory, len of each, fd=count, off=first buffer ID, buf_group",
           ("prep_provide_buffers",)),
    Opcode(32, "remove_buffers", "5.7", "fd=count, buf_group",
           ("prep_remove_buffers",)),
    # ---- 5.8 ----
    Opcode(33, "tee", "5.8", "file_index=fd in, fd=fd out, len, op_flags=SPLICE_F_*",
           ("prep_tee",)),
    # ---- 5.11 ----
    Opcode(34, "shutdown", "5.11", "fd, len=SHUT_*",
           ("prep_shutdown",)),
    Opcode(35, "renameat", "5.11",
           "fd=old directory, addr=old path, len=new directory, off=new path, op_flags=RENAME_*",
           ("prep_renameat", "prep_rename")),
    Opcode(36, "unlinkat", "5.11", "fd=directory, addr=path, op_flags=AT_REMOVEDIR or 0",
           ("prep_unlinkat", "prep_unlink")),
    # ---- 5.15 ----
    Opcode(37, "mkdirat", "5.15", "fd=directory, addr=path, len=mode",
           ("prep_mkdirat", "prep_mkdir")),
    Opcode(38, "symlinkat", "5.15", "addr=target, fd=directory, off=path of the link",
           ("prep_symlinkat", "prep_symlink")),
    Opcode(39, "linkat", "5.15",
           "fd=old directory, addr=old path, len=new directory, off=new path, op_flags=AT_*",
           ("prep_linkat", "prep_link")),
    # ---- 5.18 ----
    Opcode(40, "msg_ring", "5.18",
           "fd=ring, addr=IORING_MSG_*, off=user_data there, op_flags=IORING_MSG_RING_*; "
           "MSG_DATA: len=res there, file_index=flags there; MSG_SEND_FD: addr3=slot here, slot there",
           ("prep_msg_ring", "prep_msg_ring_cqe_flags", "prep_msg_ring_fd", "prep_msg_ring_fd_alloc")),
    # ---- 5.19 ----
    Opcode(41, "fsetxattr", "5.19", "fd, addr=name, off=value, len, op_flags=XATTR_*",
           ("prep_fsetxattr",)),
    Opcode(42, "setxattr", "5.19", "addr3=path, addr=name, off=value, len, op_flags=XATTR_*",
           ("prep_setxattr",)),
    Opcode(43, "fgetxattr", "5.19", "fd, addr=name, off=value, len",
           ("prep_fgetxattr",)),
    Opcode(44, "getxattr", "5.19", "addr3=path, addr=name, off=value, len",
           ("prep_getxattr",)),
    Opcode(45, "socket", "5.19", "fd=domain, off=type, len=protocol, slot",
           ("prep_socket", "prep_socket_direct", "prep_socket_direct_alloc")),
    Opcode(46, "uring_cmd", "5.19",
           "fd, cmd_op (32 bits at 8), op_flags=IORING_URING_CMD_*, buf_index, 16 bytes at 48 for the file; "
           "socket options: level at 16, optname at 20, optlen at 44, optval at 48",
           ("prep_uring_cmd", "prep_cmd_sock", "prep_cmd_getsockname", "prep_cmd_discard",
            "prep_cmd_zone_reset_all")),
    # ---- 6.0 ----
    Opcode(47, "send_zc", "6.0",
           "fd, addr=buffer, len, op_flags=MSG_*, ioprio=IORING_RECVSEND_* and IORING_SEND_*, buf_index; "
           "to a sockaddr: off=sockaddr, addr_len (16 bits at 44)",
           ("prep_send_zc", "prep_send_zc_fixed")),
    # ---- 6.1 ----
    Opcode(48, "sendmsg_zc", "6.1",
           "fd, addr=msghdr, len=1, op_flags=MSG_*, ioprio=IORING_RECVSEND_* and IORING_SEND_*, buf_index",
           ("prep_sendmsg_zc", "prep_sendmsg_zc_fixed")),
    # ---- 6.7 ----
    Opcode(49, "read_multishot", "6.7", "fd, len, off=position, buf_group, flags=IOSQE_BUFFER_SELECT",
           ("prep_read_multishot",)),
    Opcode(50, "waitid", "6.7", "len=P_*, fd=id, off=siginfo, file_index=W* options",
           ("prep_waitid",)),
    Opcode(51, "futex_wait", "6.7", "addr=futex, off=expected value, addr3=bit mask, fd=FUTEX2_*",
           ("prep_futex_wait",)),
    Opcode(52, "futex_wake", "6.7", "addr=futex, off=how many to wake, addr3=bit mask, fd=FUTEX2_*",
           ("prep_futex_wake",)),
    Opcode(53, "futex_waitv", "6.7", "addr=futex_waitv[], len=count",
           ("prep_futex_waitv",)),
    # ---- 6.8 ----
    Opcode(54, "fixed_fd_install", "6.8",
           "fd=registered file, flags=IOSQE_FIXED_FILE, op_flags=IORING_FIXED_FD_*",
           ("prep_fixed_fd_install",)),
    # ---- 6.9 ----
    Opcode(55, "ftruncate", "6.9", "fd, off=length",
           ("prep_ftruncate",)),
    # ---- 6.11 ----
    Opcode(56, "bind", "6.11", "fd, addr=sockaddr, off=addrlen",
           ("prep_bind",)),
    Opcode(57, "listen", "6.11", "fd, len=backlog",
           ("prep_listen",)),
    # ---- 6.15 ----
    Opcode(58, "recv_zc", "6.15", "fd, len, file_index=zcrx_ifq_idx, ioprio=IORING_RECV_MULTISHOT",
           ("prep_rw",)),
    Opcode(59, "epoll_wait", "6.15", "fd=epoll, addr=epoll_event[], len=count",
           ("prep_epoll_wait",)),
    Opcode(60, "readv_fixed", "6.15", "as readv, with the iovecs inside registered buffer buf_index",
           ("prep_readv_fixed",)),
    Opcode(61, "writev_fixed", "6.15", "as writev, with the iovecs inside registered buffer buf_index",
           ("prep_writev_fixed",)),
    # ---- 6.16 ----
    Opcode(62, "pipe", "6.16", "addr=int32[2] to fill, op_flags=O_*, slot (and the one after it)",
           ("prep_pipe", "prep_pipe_direct")),
    # ---- 6.19 ----
    Opcode(63, "nop128", "6.19", "as nop, in a 128-byte SQE",
           ("prep_nop128",)),
    Opcode(64, "uring_cmd128", "6.19", "as uring_cmd, with 80 bytes at 48 for the file",
           ("prep_uring_cmd128",)),
)
