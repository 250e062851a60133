"""08_direct_descriptors.py - a socket that has no file descriptor and no Python object.

New here: direct descriptors. A ring can have a table of files of its own, and requests name them by
slot, with IOSQE_FIXED_FILE. SOCKET can put its socket right into a slot; as the slot's number is
known beforehand, the whole life of that socket fits into one chain: socket, connect, send, close.
One system call, nothing for Python to make or to forget. connect_many() works like that.
Before: 05_links_and_timeouts.py (chains), 07_multishot.py (what a ring is told beforehand).
Needs Linux 5.19 for IORING_OP_SOCKET and tables with empty slots. Where it is older, the script says so
and shows what there is since 5.5: a socket of Python's that goes on in a slot after its close().

The links are hard ones (IOSQE_IO_HARDLINK): those go on after a failure, too, so that the close
always runs. A failed connect is then followed by a send that fails on its own (-EPIPE).

Try: replace HARD by IOSQE_IO_LINK. For the port where nobody listens the close is then -ECANCELED like
the send. The socket stays in its slot, until the end of `with files.allocate()` empties that.
Next: 09_machine_by_hand.py.
"""
import errno
import os
import socket
import sys
from socket import AF_INET, MSG_WAITALL, SOCK_STREAM

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring
from pyuring.abi import IOSQE_FIXED_FILE as FIXED
from pyuring.abi import IOSQE_IO_HARDLINK as HARD
from pyuring.registered import FixedFiles

STEPS = {1: "socket", 2: "connect", 3: "send", 4: "close"}      # by user_data


def open_files():
    return len(os.listdir("/proc/self/fd"))


def show_answers(ring):
    for cqe in sorted(ring.reap()):
        res = f"-{errno.errorcode[-cqe.res]}" if cqe.res < 0 else cqe.res
        print(f"  {STEPS[cqe.user_data]}: {res}")


def a_whole_life(ring, files, address):
    with files.allocate() as slot:              # only a number: nothing is in there yet
        print(f"  slot {int(slot)} is ours; this process has {open_files()} open files")
        ring.prep_socket(AF_INET, SOCK_STREAM, file_index=slot.file_index, user_data=1, sqe_flags=HARD)
        ring.prep_connect(slot, address, user_data=2, sqe_flags=FIXED | HARD)
        ring.prep_send(slot, b"from a slot", flags=MSG_WAITALL, user_data=3, sqe_flags=FIXED | HARD)
        ring.prep_close_direct(slot, user_data=4)
        print("  system calls: 1, requests:", ring.submit_and_wait(4))
        show_answers(ring)
        print(f"  this process has {open_files()} open files, as before")


def before_5_19(ring, address):
    sock = socket.create_connection(address)
    ring.register_files([sock])                 # the table: slot 0
    sock.close()                                # the descriptor is gone; the connection is not
    print("  the socket's descriptor is closed, its file is in slot 0")
    ring.prep_send(0, b"from a slot", user_data=3, sqe_flags=FIXED)
    ring.submit_and_wait(1)
    show_answers(ring)
    ring.unregister_files()                     # now it is


def received(listener):
    peer, _ = listener.accept()
    with peer:
        return peer.recv(100)


def main():
    try:
        ring = pyuring.Ring(8)
    except pyuring.RingUnavailable as error:
        print(f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    with ring, socket.socket() as listener, socket.socket() as bound:
        for sock in listener, bound:
            sock.bind(("127.0.0.1", 0))
        listener.listen()
        try:
            files = FixedFiles(ring, 4)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            print("No direct sockets here: this kernel is older than 5.19. But a table there is:")
            before_5_19(ring, listener.getsockname())
            print("The server heard", received(listener))
            return
        with files:
            print("To a server:")
            a_whole_life(ring, files, listener.getsockname())
            print("  the server heard", received(listener))
            print("To a port where nobody listens:")
            a_whole_life(ring, files, bound.getsockname())


main()
