"""10_connect_bug.py - the bug of IORING_OP_CONNECT, reproduced and repaired.

New here: why pyuring.connect() exists. Connect one socket three times to a port where nobody listens.
connect(2) says ECONNREFUSED three times, as it should. Kernels around 6.2 said ECONNREFUSED,
ECONNABORTED, ECONNREFUSED over io_uring. After its wait, the opcode read the socket's error past the
place in connect(2) that also cleans up. Later forms hide that by trying again, or are right and get
something else wrong; today's still leaves the socket half-way, and who meets that is the next to use
it: a connect(2), or a listen(2). The forms have letters, and are called eras: B is the bug.
Before: 09_machine_by_hand.py, the rules that repair it. LATE_REFUSAL there ends with a SCRUB.
Needs no particular kernel: pyuring/eras.py acts each era out with plain system calls. Only "this
kernel's" is a real IORING_OP_CONNECT (Linux 5.5), and says so where io_uring is blocked.

Try: add "A" and "E" to SHOWN. Both look right here: what they get wrong are other stories, such as a
refusal that comes late, and `python3 -m pyuring replay E` tells them. Then replay your own kernel:
its version is what `uname -r` says, and the row "this kernel's" shows whether that is the truth.
Next: 11_connect_many.py.
"""
import errno
import os
import socket
import sys
import textwrap
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring
from pyuring import eras

SHOWN = "BCDF"
RIGHT = ["ECONNREFUSED"] * 4 + ["0"]


def name(code):
    return errno.errorcode.get(code, str(code))


def by_pyuring(sock, address, strategy=None):
    try:
        pyuring.connect(sock, address, strategy=strategy)
    except pyuring.RingUnavailable:
        raise
    except OSError as error:
        return error.errno
    return 0


def story(connect, address):
    """`connect` three times on one socket, and then connect(2) itself; and on another, once, then listen."""
    with socket.socket() as sock:
        answers = [name(connect(sock, address)) for _ in range(3)]
        answers.append(name(eras.by_connect2(sock, address)))
    with socket.socket() as sock:
        connect(sock, address)
        try:
            sock.listen()
            answers.append("0")
        except OSError as error:
            answers.append(name(error.errno))
    return answers


def row(who, connect, address):
    try:
        answers = story(connect, address)
    except pyuring.RingUnavailable as error:
        print(f"{who:<15}", f"No io_uring here: {error.reason}. {error.remedy}.")
        return
    marked = [answer if answer == right else answer + " !" for answer, right in zip(answers, RIGHT)]
    print(f"{who:<15}", *(f"{answer:<15}" for answer in marked))


def main():
    with socket.socket() as bound:              # has a port, and does not listen
        bound.bind(("127.0.0.1", 0))
        address = bound.getsockname()
        print(f"{'':<15}", *(f"{column:<15}" for column in
                             ("1st connect", "2nd", "3rd", "then connect(2)", "or listen(2)")))
        row("connect(2)", eras.by_connect2, address)
        for letter in SHOWN:
            row(f"era {letter}", partial(eras.act, letter), address)
        row("this kernel's", partial(by_pyuring, strategy="native"), address)
        row("pyuring", by_pyuring, address)
    print('\n"!" marks what connect(2) would not have said, or left behind. The eras:')
    for letter in SHOWN:
        print(f"  {letter}  {eras.ERAS[letter].what}")
        print(textwrap.fill(eras.releases(letter), 100, initial_indent="     ", subsequent_indent="     "))


main()
