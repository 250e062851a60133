"""09_machine_by_hand.py - the rules of a connect, without a socket, a ring or a clock.

New here: ConnectMachine, which decides what pyuring.connect() does next. It does nothing itself: an
event goes in, an action comes out ("sans-IO"). Elsewhere a driver carries the action out and feeds
back what it saw. Here we are the driver, and the kernel, too: we make the answers up. So a refusal
that takes a minute in a real network, or an error of another kernel, takes no time at all. That is
how the tests reach every case, and how you can.
Before: 05_links_and_timeouts.py ended with pyuring.connect(). This is what is inside it.
Needs no io_uring and no particular Linux: the rules are data.

Try: in LATE_REFUSAL replace the last two answers by CLEAN: that kernel does clean up, and the story is
a step shorter. Then AT_ONCE = (START, CLEAN, CONNECTED, ISCONN). SETTLED is a 0 on a kernel that is
known to leave the socket as it should; CONNECTED is a 0 on any other, and the machine asks
connect(2) to make sure: see E8 in machine.py. Leave ISCONN out, and the story has no outcome yet.
Next: 10_connect_bug.py, the same with a socket.
"""
import errno
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pyuring
from pyuring.machine import (
    CLEAN, CONNECTED, DIRTY, EXPIRED, FAILED, HANGUP, INTACT, ISCONN, PENDING, READY, SETTLED, START,
)

MEANING = {         # what each action asks a driver to do
    "LOOK": "how did the last user leave the socket?",
    "ATTEMPT": "begin a connect, without waiting",
    "CALL": "ask connect(2), which can't block here",
    "WAIT": "poll until the socket is writable, or time is up",
    "INSPECT": "is that still our handshake?",
    "CHECK": "did the failure leave it half-way?",
    "SCRUB": "disconnect it, so that the next connect starts afresh",
    "FINISH": "tell the caller",
}

# A story: what we answer, one after the other; an errno with those that carry one.
AT_ONCE = (START, CLEAN, SETTLED)
LATE_SUCCESS = (START, CLEAN, (PENDING, errno.EINPROGRESS), READY, CONNECTED)
LATE_REFUSAL = (START, CLEAN, (PENDING, errno.EINPROGRESS), HANGUP, INTACT,
                (FAILED, errno.ECONNREFUSED), DIRTY, CONNECTED)
TIME_IS_UP = (START, CLEAN, (PENDING, errno.EINPROGRESS), EXPIRED)
OTHERS_CONNECTED_IT = (START, CLEAN, (ISCONN, errno.EISCONN))


def tell(title, story):
    print(title)
    machine = pyuring.ConnectMachine()
    for answer in story:
        event, code = answer if isinstance(answer, tuple) else (answer, 0)
        action = machine.feed(event, code)
        said = f"{event} ({errno.errorcode[code]})" if code else event
        print(f"  {said:<22} -> {machine.state:<11} {action:<8} {MEANING[action]}")
    if machine.state != "DONE":
        print("  no outcome yet:", machine)
    elif machine.timed_out:
        print("  outcome: the caller's time is up")
    else:
        print("  outcome:", errno.errorcode[machine.error] if machine.error else "connected")


def main():
    print("No io_uring is needed here, no socket and no clock: only the table in machine.py.")
    print(f"  {'what we answer':<22}    {'state':<11} what the machine wants next")
    tell("Connected at once, as on loopback:", AT_ONCE)
    tell("Connected after a wait:", LATE_SUCCESS)
    tell("Refused after a wait, by a kernel that forgets to clean up:", LATE_REFUSAL)
    tell("Nobody answers:", TIME_IS_UP)
    tell("Somebody else had connected it:", OTHERS_CONNECTED_IT)
    print("An answer that makes no sense is refused, and changes nothing:")
    machine = pyuring.ConnectMachine()
    machine.feed(START)
    try:
        machine.feed(READY)
    except pyuring.ConnectStateError as error:
        print(f"  {type(error).__name__}: {error}")
    print(" ", machine)


main()
