/* xstate.c - lets user-mode Linux run on CPUs with a large register file (AVX-512, AMX). lab.py compiles
 * it and preloads it; read that next.
 *
 * User-mode Linux restores a process's registers with PTRACE_SETREGSET, NT_X86_XSTATE, and gives a fixed
 * number of bytes: 2696 in Debian's 5.10.46 and 6.1.176. A host kernel whose xstate is larger refuses that
 * with EFAULT, and the guest panics with "ptrace set fp regs failed, errno = 14" (measured on a CPU with
 * AMX, host 6.18.44). So this ptrace() reads the whole area, puts the given bytes at its start (the layout
 * is the CPU's own, growing at the end) and writes the whole area. Every other request passes as it is.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

static char area[1 << 16];      /* user-mode Linux has one thread that traces */

long ptrace(enum __ptrace_request request, ...)
{
	va_list list;
	va_start(list, request);
	long pid = va_arg(list, int);
	void *addr = va_arg(list, void *), *data = va_arg(list, void *);
	va_end(list);

	struct iovec *given = data, whole = { area, sizeof area };
	if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE) {
		long result = syscall(SYS_ptrace, PTRACE_GETREGSET, pid, addr, &whole);
		if (result < 0)
			return result;
		if (given->iov_len < whole.iov_len) {
			memcpy(area, given->iov_base, given->iov_len);
			data = &whole;
		}
	}
	/* The system call stores what it peeked; the C function returns it, and errno tells. */
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long word;
		if (syscall(SYS_ptrace, request, pid, addr, &word) < 0)
			return -1;
		errno = 0;
		return word;
	}
	return syscall(SYS_ptrace, request, pid, addr, data);
}
