"""machine.py - ConnectMachine: what to do next, so that a connect ends as connect(2) would end it.

No socket, no ring and no clock in this file: events go in, actions come out. A driver (driver.py,
read it next) carries the actions out, over a ring or with plain system calls, and feeds back what
it saw. All decisions are in the table NEXT; nothing else in the package knows the rules.

Some facts about connect
------------------------
connect(2) on a TCP socket that blocks is three steps: send the SYN, wait for the handshake to end,
take its outcome. The last one is the only place in the kernel that cleans up after a failure: it
takes the pending error, sets the socket back to unconnected and disconnects it, so that the next
connect starts afresh (__inet_stream_connect in net/ipv4/af_inet.c).

IORING_OP_CONNECT runs the first step without blocking, waits by poll, and takes the outcome in its
own way, which took eight forms between Linux 5.5 and 7.3. Some of those ways read the error and
skip the clean-up: the next connect(2) then finds a handshake that ended with no error left to
report, and says ECONNABORTED. So a table that wants connect(2)'s answers on every kernel

  - asks for one attempt at a time, and lets nobody wait inside it: an attempt that is still under
    way when it returns is cancelled, and the wait is our own (WAIT);
  - takes the outcome by a second attempt, a fresh request that goes straight through the kernel's
    own third step, in every version (RETRYING);
  - looks after the socket where the first attempt already took the outcome (CONFIRMING, CHECKING).

The comments in the table name the errata, each a way in which some kernel's IORING_OP_CONNECT
differs (the numbers are those of eras.py):

  E7   refused, and again: ECONNABORTED instead of ECONNREFUSED      6.0.3, 6.1-6.1.21, 6.2-6.2.8
  E8   connected, and again: 0 instead of EISCONN                    6.1 to 6.6.1, with gaps
  E9   shut down while pending: a new connect starts by itself       5.7-6.0, 6.1.63-6.1.128, ...
  E10  any late failure is ECONNRESET; SO_ERROR has the true one     6.14, 6.15-6.15.7, ...
  E11  after a failure the socket is left as connecting              6.1-6.1.62, 6.1.147 and later,
                                                                     6.16 and later, still in 7.3
  E12  error taken by SO_ERROR before: no ECONNABORTED               6.1.22 and later
  E13  a handshake was under way already: EALREADY, does not wait    all
  E14  SO_SNDTIMEO is ignored                                        5.7 and later
  E23  an ICMP error that does not end the handshake ends the        6.1-6.1.62, 6.1.147 and later,
       request: 0, on a socket that is not connected                 6.16 and later, still in 7.3
  E24  MPTCP: the error of an earlier connect, for one that          as E23
       succeeds
"""
from __future__ import annotations

from errno import (
    EAGAIN, EALREADY, ECANCELED, ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH,
    EINPROGRESS, EINTR, EISCONN, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPIPE,
    EPROTO, ETIMEDOUT,
)

# -- states: what the machine is waiting to hear ----------------------------------------------------
IDLE = "IDLE"                   # nothing has begun
LOOKING = "LOOKING"             # how the socket was left by whoever used it before
TRYING = "TRYING"               # what the first attempt over the ring gave
CALLING = "CALLING"             # what a connect(2) gave
WAITING = "WAITING"             # the end of the handshake; `error` is what to say if SO_SNDTIMEO
                                # ends the wait: EINPROGRESS, or EALREADY if others began it
INSPECTING = "INSPECTING"       # whether it is still that handshake, or somebody disconnected us
RETRYING = "RETRYING"           # the outcome of the handshake, by one more attempt
FETCHING = "FETCHING"           # the error that SO_ERROR holds
CONFIRMING = "CONFIRMING"       # what connect(2) says after success
CHECKING = "CHECKING"           # whether the failure left the socket as connecting
SCRUBBING = "SCRUBBING"         # that it has been disconnected
CONNECTING = "CONNECTING"       # the result of one connect that waits in the kernel
BACKING_OFF = "BACKING_OFF"     # the time for another one
NATIVE = "NATIVE"               # the result of IORING_OP_CONNECT, whatever it is
DONE = "DONE"

STATES = (IDLE, LOOKING, TRYING, CALLING, WAITING, INSPECTING, RETRYING, FETCHING, CONFIRMING,
          CHECKING, SCRUBBING, CONNECTING, BACKING_OFF, NATIVE, DONE)

# -- events: what was heard -------------------------------------------------------------------------
START = "START"                 # begin: a TCP or MPTCP socket in an unknown state, over a ring
START_FRESH = "START_FRESH"     # begin: one that was made just now, and goes after a failure
START_SYSCALL = "START_SYSCALL"  # begin: one in an unknown state, with plain system calls
START_PLAIN = "START_PLAIN"     # begin: any other socket (AF_UNIX, UDP, ...)
START_NATIVE = "START_NATIVE"   # begin: one IORING_OP_CONNECT and its result

CONNECTED = "CONNECTED"         # 0
PENDING = "PENDING"             # EINPROGRESS, or ECANCELED: the handshake is under way; or 0, and
                                # it is not over (E23)
ALREADY = "ALREADY"             # EALREADY: it was so before
INTERRUPTED = "INTERRUPTED"     # EINTR
ISCONN = "ISCONN"               # EISCONN
AGAIN = "AGAIN"                 # EAGAIN, on a socket that is set not to block
RESET = "RESET"                 # ECONNRESET
FAILED = "FAILED"               # another of FAILURES
ERROR = "ERROR"                 # any other errno: no handshake was begun

SETTLED = "SETTLED"             # 0, on a kernel that is known to leave success as it should (E8)
READY = "READY"                 # the socket is writable; or the pause is over
HANGUP = "HANGUP"               # poll(2) reports POLLERR or POLLHUP, or may have missed it
EXPIRED = "EXPIRED"             # the caller's timeout ran out
SNDTIMEO = "SNDTIMEO"           # the socket's own SO_SNDTIMEO ran out

STALE = "STALE"                 # an error from long ago is still to be told (MPTCP)
CLEAN = "CLEAN"                 # the socket is in no half-ended handshake
DIRTY = "DIRTY"                 # TCP is closed, no error is left, and nobody has cleaned up
INTACT = "INTACT"               # the handshake that we wait for has ended
DISCONNECTED = "DISCONNECTED"   # it is gone: shutdown(2) or connect(AF_UNSPEC) from elsewhere

STARTS = (START, START_FRESH, START_SYSCALL, START_PLAIN, START_NATIVE)
ANSWERS = (CONNECTED, PENDING, ALREADY, INTERRUPTED, ISCONN, AGAIN, RESET, FAILED, ERROR)
EVENTS = STARTS + ANSWERS + (SETTLED, READY, HANGUP, EXPIRED, SNDTIMEO, STALE, CLEAN, DIRTY,
                              INTACT, DISCONNECTED)

# -- actions: what a driver is to do, and which events may answer it ---------------------------------
ATTEMPT = "ATTEMPT"             # connect without waiting, by the driver's own means -> ANSWERS;
                                # while CALLING its means are connect(2);
                                # over a ring, while TRYING, also SETTLED; where the driver may
                                # block in connect(2) instead, SNDTIMEO
CALL = "CALL"                   # connect(2), which can't block here -> ANSWERS
CONNECT = "CONNECT"             # connect, and wait for it in the kernel -> ANSWERS, EXPIRED,
                                # from connect(2) also SNDTIMEO
WAIT = "WAIT"                   # poll for POLLOUT -> READY, HANGUP, EXPIRED, SNDTIMEO; or, where
                                # the driver may block, wait in connect(2) -> ANSWERS, SNDTIMEO
SLEEP = "SLEEP"                 # a pause, each longer than the last -> READY, EXPIRED, SNDTIMEO
LOOK = "LOOK"                   # how was the socket left? -> CLEAN, DIRTY, STALE
CHECK = "CHECK"                 # does it need scrubbing now? -> CLEAN, DIRTY
INSPECT = "INSPECT"             # is our handshake still there? -> INTACT, DISCONNECTED
FETCH = "FETCH"                 # getsockopt(SO_ERROR) -> ANSWERS
SCRUB = "SCRUB"                 # connect(2) with AF_UNSPEC -> ANSWERS
FINISH = "FINISH"               # read `error` and `timed_out`

ACTIONS = (ATTEMPT, CALL, CONNECT, WAIT, SLEEP, LOOK, CHECK, INSPECT, FETCH, SCRUB, FINISH)

# -- what becomes of `error` -------------------------------------------------------------------------
KEEP = None                     # stays as it is
TAKE = -1                       # the errno that came with the event
TIMED_OUT = -2                  # 0, and `timed_out` is set; any other number is an errno itself

#: The errors that end a handshake; the kernel has (or has not) cleaned up after them.
FAILURES = frozenset((
    ECONNREFUSED, ECONNRESET, ECONNABORTED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN,
    ENETDOWN, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPROTO, EPIPE))


def _rows(state, events, row):
    return {(state, event): row for event in events}


# (state, event): (next state, action, error)
NEXT = {
    (IDLE, START):              (LOOKING,    LOOK,    KEEP),
    (IDLE, START_FRESH):        (TRYING,     ATTEMPT, KEEP),
    (IDLE, START_SYSCALL):      (CALLING,    ATTEMPT, KEEP),
    (IDLE, START_PLAIN):        (CONNECTING, CONNECT, KEEP),
    (IDLE, START_NATIVE):       (NATIVE,     CONNECT, KEEP),

    # E12: the error of an earlier attempt was read (SO_ERROR), and the clean-up is still to come.
    # connect(2) does it and says ECONNABORTED, without blocking; the opcode would hide that.
    (LOOKING, CLEAN):           (TRYING,     ATTEMPT, KEEP),
    (LOOKING, DIRTY):           (CALLING,    CALL,    KEEP),
    # E24: an error that not even AF_UNSPEC took from an MPTCP socket. The opcode would report it as the
    # outcome of this connect; connect(2) does not look at it.
    (LOOKING, STALE):           (CALLING,    ATTEMPT, KEEP),

    # The first attempt over a ring. On loopback it often is the only one.
    (TRYING, CONNECTED):        (CONFIRMING, CALL,    KEEP),        # E8
    (TRYING, SETTLED):          (DONE,       FINISH,  0),
    (TRYING, PENDING):          (WAITING,    WAIT,    EINPROGRESS),  # E23, too
    (TRYING, INTERRUPTED):      (WAITING,    WAIT,    EINPROGRESS),  # cancelled in a worker thread
    (TRYING, ALREADY):          (WAITING,    WAIT,    EALREADY),     # E13
    (TRYING, RESET):            (FETCHING,   FETCH,   TAKE),        # E10: perhaps not the truth
    (TRYING, FAILED):           (CHECKING,   CHECK,   TAKE),        # E7, E11
    **_rows(TRYING, (ISCONN, AGAIN, ERROR), (DONE, FINISH, TAKE)),

    # connect(2) itself: what it says is the outcome, and what it leaves is right.
    (CALLING, CONNECTED):       (DONE,       FINISH,  0),
    (CALLING, PENDING):         (WAITING,    WAIT,    EINPROGRESS),
    (CALLING, INTERRUPTED):     (WAITING,    WAIT,    EINPROGRESS),  # and the handshake goes on
    (CALLING, ALREADY):         (WAITING,    WAIT,    EALREADY),
    **_rows(CALLING, (ISCONN, AGAIN, RESET, FAILED, ERROR, SNDTIMEO), (DONE, FINISH, TAKE)),

    # The wait. E14: SO_SNDTIMEO gives the errno of the attempt that is being waited for.
    (WAITING, READY):           (RETRYING,   ATTEMPT, KEEP),
    (WAITING, HANGUP):          (INSPECTING, INSPECT, KEEP),
    (WAITING, EXPIRED):         (DONE,       FINISH,  TIMED_OUT),
    (WAITING, SNDTIMEO):        (DONE,       FINISH,  KEEP),

    # Two things can be had only by being asleep in connect(2), so a connect that is alone and has
    # no timeout waits there: EPIPE when another thread's AF_UNSPEC dissolves it (6.1; before, and
    # for whoever polls, it looks like a shutdown), and that shutdown(2) and AF_UNSPEC are refused
    # with EBUSY meanwhile (E21: measured on 5.10.218 and 5.10.262). What connect(2) says is then
    # the outcome, cleaned up. EISCONN: another thread took it; both waited for one connection.
    **_rows(WAITING, (CONNECTED, ISCONN), (DONE, FINISH, 0)),
    **_rows(WAITING, (PENDING, ALREADY, INTERRUPTED), (WAITING, WAIT, KEEP)),
    **_rows(WAITING, (AGAIN, RESET, FAILED, ERROR), (DONE, FINISH, TAKE)),

    # E9: an attempt on a socket that somebody disconnected meanwhile would connect it again. A
    # blocking connect(2) then reports what SO_ERROR holds after a shutdown(2), or ECONNABORTED
    # (measured on 6.18). Seen from a poll, an AF_UNSPEC from elsewhere is the same.
    (INSPECTING, INTACT):       (RETRYING,   ATTEMPT, KEEP),
    (INSPECTING, DISCONNECTED): (FETCHING,   FETCH,   ECONNABORTED),

    # The handshake is over, and a fresh attempt takes its outcome as connect(2) does. EISCONN: a
    # connect in another thread took it first; the two waited for the same connection.
    (RETRYING, CONNECTED):      (DONE,       FINISH,  0),
    (RETRYING, ISCONN):         (DONE,       FINISH,  0),
    **_rows(RETRYING, (PENDING, ALREADY, INTERRUPTED), (WAITING, WAIT, KEEP)),
    (RETRYING, RESET):          (CHECKING,   CHECK,   TAKE),
    (RETRYING, FAILED):         (CHECKING,   CHECK,   TAKE),
    **_rows(RETRYING, (AGAIN, ERROR, SNDTIMEO), (DONE, FINISH, TAKE)),

    # SO_ERROR 0 (CONNECTED) leaves the error that brought us here.
    (FETCHING, CONNECTED):      (CHECKING,   CHECK,   KEEP),
    **_rows(FETCHING, ANSWERS[1:], (CHECKING, CHECK, TAKE)),

    # E8: where the opcode left the socket as connecting, this connect(2) finishes it and says 0;
    # elsewhere it says EISCONN. A failure here came after the handshake, and is worth reporting.
    (CONFIRMING, CONNECTED):    (DONE,       FINISH,  0),
    # PENDING: fast open, where the SYN goes with the first send.
    **_rows(CONFIRMING, (ISCONN, PENDING, ALREADY, INTERRUPTED, AGAIN), (DONE, FINISH, 0)),
    **_rows(CONFIRMING, (RESET, FAILED, ERROR), (DONE, FINISH, TAKE)),

    # E7, E11: disconnecting by hand is what the kernel's own clean-up does; a bound port stays.
    (CHECKING, CLEAN):          (DONE,       FINISH,  KEEP),
    (CHECKING, DIRTY):          (SCRUBBING,  SCRUB,   KEEP),
    **_rows(SCRUBBING, ANSWERS, (DONE, FINISH, KEEP)),

    # For what is not TCP no such history is known: one connect, whose result stands. Only a full
    # AF_UNIX backlog on a socket that does not block has nothing to poll for, so we come again.
    (CONNECTING, CONNECTED):    (DONE,       FINISH,  0),
    (CONNECTING, PENDING):      (WAITING,    WAIT,    EINPROGRESS),
    (CONNECTING, ALREADY):      (WAITING,    WAIT,    EALREADY),
    (CONNECTING, INTERRUPTED):  (CONNECTING, CONNECT, KEEP),
    (CONNECTING, AGAIN):        (BACKING_OFF, SLEEP,  KEEP),
    (CONNECTING, EXPIRED):      (DONE,       FINISH,  TIMED_OUT),
    **_rows(CONNECTING, (ISCONN, RESET, FAILED, ERROR, SNDTIMEO), (DONE, FINISH, TAKE)),
    (BACKING_OFF, READY):       (CONNECTING, CONNECT, KEEP),
    (BACKING_OFF, EXPIRED):     (DONE,       FINISH,  TIMED_OUT),
    (BACKING_OFF, SNDTIMEO):    (DONE,       FINISH,  EAGAIN),

    (NATIVE, CONNECTED):        (DONE,       FINISH,  0),
    (NATIVE, EXPIRED):          (DONE,       FINISH,  TIMED_OUT),
    **_rows(NATIVE, ANSWERS[1:], (DONE, FINISH, TAKE)),
}

#: The event of ANSWERS that an errno (0 for success) stands for; ERROR where it is not in here.
EVENT_OF = {
    0: CONNECTED, EINPROGRESS: PENDING, ECANCELED: PENDING, EALREADY: ALREADY, EINTR: INTERRUPTED,
    EISCONN: ISCONN, EAGAIN: AGAIN, **dict.fromkeys(FAILURES, FAILED), ECONNRESET: RESET,
}


class ConnectStateError(RuntimeError):
    """An event that its state does not expect; the machine stays as it was."""


class ConnectMachine:
    """One connect, from START to DONE. Feed it an event, do what it answers, feed what you saw.

    state      one of STATES
    error      0, or the errno of connect(2), once `state` is DONE
    timed_out  True when the caller's timeout ended it
    A machine that is no longer wanted is dropped: it holds nothing.
    """

    __slots__ = ("state", "error", "timed_out")

    def __init__(self) -> None:
        self.state = IDLE
        self.error = 0
        self.timed_out = False

    def feed(self, event: str, code: int = 0) -> str:
        """Take one event, with the errno it came from -> the next of ACTIONS.

        ConnectStateError when the event makes no sense now.
        """
        try:
            state, action, error = NEXT[self.state, event]
        except KeyError:
            raise ConnectStateError(f"{event} while {self.state}") from None
        self.state = state
        if error is not None:
            if error >= 0:
                self.error = error
            elif error == TAKE:
                self.error = code
            else:
                self.error, self.timed_out = 0, True
        return action

    def __repr__(self) -> str:
        ended = ", timed out" if self.timed_out else f", error {self.error}"
        return f"<ConnectMachine {self.state}{ended if self.state == DONE else ''}>"
