"""eras.py - a user-mode Linux 6.1 whose IORING_OP_CONNECT is that of an earlier era, chosen at boot.

The kernel's io_connect() was rewritten six times between 5.7 and 6.16, and each form gave other wrong
answers. No distribution ships the older forms any more, so EDITS puts them back into Debian's
linux-source-6.1, all of them into one kernel:

    linux io_connect_era=B ...

    A  5.7 .. 6.0            poll, then connect again
    B  6.1 .. 6.1.21         poll, then only the socket's pending error
    C  6.1.22 .. 6.1.62      B, and one retry after ECONNABORTED
    D  6.1.63 .. 6.1.128     connect again, with ECONNABORTED still retried once
    E  6.1.129 .. 6.1.146    D, and a wakeup with EPOLLERR makes it ECONNRESET
    F  6.1.147 ..            as the source stands; the control: it has to agree with Debian's own 6.1

What is around io_connect() (poll, io-wq, TCP) is 6.1's in all of them. lab.py, which calls build(), boots
them; read that next. The version numbers are those of the stable changelogs of 6.1.
"""
import os
import shutil
import subprocess
import sys

ERAS = "ABCDEF"

# (file, a few lines of it that occur exactly once, what to put in their place)
EDITS = (
    ("io_uring/net.c",
     "int io_connect(struct io_kiocb *req, unsigned int issue_flags)\n{\n",
     """char io_connect_era = 'F';

static int __init io_connect_era_setup(char *text)
{
	io_connect_era = *text;
	return 1;
}
__setup("io_connect_era=", io_connect_era_setup);

int io_connect(struct io_kiocb *req, unsigned int issue_flags)
{
	const char era = io_connect_era;
"""),
    # At entry. B and C: a wakeup is the end, and the socket's error the result. E: the wakeup (see
    # poll.c below) has judged already. Only F asks poll; A and D go on and connect again.
    ("io_uring/net.c",
     "\tif (connect->in_progress) {\n\t\tstruct poll_table_struct pt",
     """	if (era == 'E' && (req->flags & REQ_F_FAIL)) {
		ret = -ECONNRESET;
		goto out;
	}
	if (connect->in_progress && (era == 'B' || era == 'C'))
		goto get_sock_err;
	if (connect->in_progress && era == 'F') {
		struct poll_table_struct pt"""),
    # A and B: ECONNABORTED is an answer like any other.
    ("io_uring/net.c",
     "ret == -EINPROGRESS || ret == -ECONNABORTED)",
     "ret == -EINPROGRESS || (ret == -ECONNABORTED && era >= 'C'))"),
    # A remembers nothing from one attempt to the next.
    ("io_uring/net.c",
     "\t\t\tconnect->in_progress = true;",
     "\t\t\tconnect->in_progress = era != 'A';"),
    ("io_uring/poll.c",
     "\t\tif (req->apoll_events & EPOLLONESHOT)\n\t\t\treturn IOU_POLL_DONE;\n",
     """		{
			extern char io_connect_era;

			if (io_connect_era == 'E' && (req->cqe.res & EPOLLERR))
				req_set_fail(req);
		}
		if (req->apoll_events & EPOLLONESHOT)
			return IOU_POLL_DONE;
"""),
)

# On top of user-mode Linux's defconfig. Everything is built in: there is no file system for modules.
ENABLE = """IO_URING NET INET IPV6 UNIX PACKET NETDEVICES DUMMY VETH TUN INET_DIAG MPTCP MPTCP_IPV6 HOSTFS TMPFS
DEVTMPFS NAMESPACES NET_NS USER_NS SECCOMP SECCOMP_FILTER DEBUG_INFO_NONE""".split()
DISABLE = "MODULES DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT WERROR".split()
TOOLS = "make cc flex bison bc xz tar".split()


def missing_tools():
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def build(tree):
    """Edit and build the unpacked source -> path of the kernel. Seconds when it was built before."""
    for name, old, new in EDITS:
        edit(tree / name, old, new)
    make = ["make", "-C", tree, "ARCH=um"]
    log = tree.parent / f"{tree.name}.log"
    with open(log, "wb") as output:
        def run(*command):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            if done.returncode:
                raise SystemExit(f"eras.py: {' '.join(map(str, command))} failed; see {log}")

        if not (tree / ".config").exists():
            run(*make, "defconfig")
            switches = [word for name in ENABLE for word in ("-e", name)]
            switches += [word for name in DISABLE for word in ("-d", name)]
            run(tree / "scripts" / "config", "--file", tree / ".config", *switches)
            run(*make, "olddefconfig")
        run(*make, f"-j{os.cpu_count()}", "linux")
    return tree / "linux"


def edit(path, old, new):
    """Put `new` for `old`, which the file must have exactly once. Leaves an edited file alone."""
    text = path.read_text()
    if text.count(new) == 1:
        return
    if text.count(old) != 1:
        sys.exit(f"eras.py: {path} has {text.count(old)} times, not once:\n{old}"
                 "\nThis source is another one than the edits were written for (Debian's 6.1.176).")
    path.write_text(text.replace(old, new))


if __name__ == "__main__":
    sys.exit("eras.py is run by lab.py: python3 tests/kernels/lab.py era-B")
