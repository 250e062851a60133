"""A seccomp filter that takes io_uring away, as container runtimes do. Can't be undone: use a child.

    import seccomp; seccomp.block(errno.EPERM)
    python3 tests/seccomp.py EPERM python3 -c '...'      runs a command without io_uring

prctl(2), seccomp(2). The numbers 425 to 427 are io_uring's on every architecture but alpha, so the
filter does not ask which one it is on.
"""
import ctypes
import errno
import os
import struct
import sys

FIRST, LAST = 425, 427              # io_uring_setup, io_uring_enter, io_uring_register
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
LOAD, JUMP_GE, JUMP_GT, RETURN = 0x20, 0x35, 0x25, 0x06     # BPF_LD|W|ABS, BPF_JMP|..|K, BPF_RET|K


def block(code: int) -> None:
    """From now on io_uring_setup, _enter and _register fail with errno `code` in this thread (and
    in threads and processes that it starts). OSError where the kernel takes no filter."""
    # code u16, jump if true u8, if false u8, operand u32: struct sock_filter
    program = b"".join(struct.pack("=HBBI", *step) for step in (
        (LOAD, 0, 0, 0),                                # seccomp_data.nr
        (JUMP_GE, 0, 2, FIRST),
        (JUMP_GT, 1, 0, LAST),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | code),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW)))
    steps = ctypes.create_string_buffer(program, len(program))
    sock_fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(steps)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                      (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(sock_fprog), 0, 0)):
        if prctl(*arguments):
            code = ctypes.get_errno()
            raise OSError(code, f"prctl {arguments[0]}: {os.strerror(code)}")


if __name__ == "__main__":
    if len(sys.argv) < 3 or not hasattr(errno, sys.argv[1]):
        sys.exit("usage: seccomp.py ERRNO-NAME COMMAND [ARGUMENT...]")
    block(getattr(errno, sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
