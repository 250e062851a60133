"""reasons.py - why the connect machine does what it does: one sentence for each row of machine.NEXT.

    WHY[state, event] == (action, sentence)

The action is the row's, written once more: a test compares both tables, so that a row which is added, taken
away or sent elsewhere can't keep a sentence that was true before.

Read machine.py beside it. `python3 -m pyuring explain` tells a connect with these.
"""
from __future__ import annotations

from .machine import (
    AGAIN, ALREADY, ANSWERS, ATTEMPT, BACKING_OFF, CALL, CALLING, CHECK, CHECKING, CLEAN, CONFIRMING, CONNECT,
    CONNECTED, CONNECTING, DIRTY, DISCONNECTED, ERROR, EXPIRED, FAILED, FETCH, FETCHING, FINISH, HANGUP, IDLE,
    INSPECT, INSPECTING, INTACT, INTERRUPTED, ISCONN, LOOK, LOOKING, NATIVE, PENDING, READY, RESET, RETRYING,
    SCRUB, SCRUBBING, SETTLED, SLEEP, SNDTIMEO, STALE, START, START_FRESH, START_NATIVE, START_PLAIN,
    START_SYSCALL, TRYING, WAIT, WAITING,
)


def _rows(state, events, action, sentence):
    return {(state, event): (action, sentence) for event in events}


# What several states say in the same words.
_BEGUN = "The handshake is under way and takes its time, so wait for its end."
_OTHERS = "A handshake was under way already, begun by somebody else, so wait for its end as connect(2) would."
_STANDS = "This is the outcome: no handshake was begun, so nothing is left to clean up."
_TIMEOUT = "The caller's time has run out; as after connect(2), the handshake goes on in the kernel."

WHY = {
    **_rows(IDLE, [START], LOOK,
            "Whoever used this socket before may have left a failed handshake that nobody cleaned up, so look first."),
    **_rows(IDLE, [START_FRESH], ATTEMPT,
            "The socket was made just now, so there is nothing to look for: try to connect, without waiting."),
    **_rows(IDLE, [START_SYSCALL], ATTEMPT,
            "With plain system calls connect(2) itself sees how the socket was left: try it."),
    **_rows(IDLE, [START_PLAIN], CONNECT,
            "It is not TCP: no kernel is known to get it wrong, so one connect is all there is to do."),
    **_rows(IDLE, [START_NATIVE], CONNECT,
            "The bare opcode was asked for: one IORING_OP_CONNECT, and what it says is told as it is."),

    **_rows(LOOKING, [CLEAN], ATTEMPT,
            "Nothing half-ended is left on the socket, so try to connect over the ring, without waiting."),
    **_rows(LOOKING, [DIRTY], CALL,
            "An earlier handshake failed and nobody cleaned up: connect(2) does that, and says ECONNABORTED (E12)."),

    **_rows(LOOKING, [STALE], ATTEMPT,
            "MPTCP still holds the error of an earlier connect, which the opcode would take for this one's (E24): "
            "try with connect(2)."),

    **_rows(TRYING, [CONNECTED], CALL,
            "Some kernels leave the socket as still connecting after success (E8): one connect(2) settles that, and "
            "says EISCONN where all was well."),
    **_rows(TRYING, [SETTLED], FINISH,
            "It is connected, and this kernel was seen before to leave success as it should: done."),
    **_rows(TRYING, [PENDING], WAIT, _BEGUN),
    **_rows(TRYING, [INTERRUPTED], WAIT,
            "The request was taken back in a worker thread, and the handshake goes on without it: wait for its end."),
    **_rows(TRYING, [ALREADY], WAIT, _OTHERS),
    **_rows(TRYING, [RESET], FETCH,
            "Some kernels say ECONNRESET for any failure (E10), so ask the socket for the true one."),
    **_rows(TRYING, [FAILED], CHECK,
            "The handshake failed; the opcode may have left the socket as still connecting (E7, E11), so look."),
    **_rows(TRYING, [ISCONN, AGAIN, ERROR], FINISH, _STANDS),

    **_rows(CALLING, [CONNECTED], FINISH, "connect(2) says that it is connected, and that is so."),
    **_rows(CALLING, [PENDING], WAIT, _BEGUN),
    **_rows(CALLING, [INTERRUPTED], WAIT,
            "A signal ended the call and the handshake goes on: wait for its end, as a second call would."),
    **_rows(CALLING, [ALREADY], WAIT, _OTHERS),
    **_rows(CALLING, [ISCONN, AGAIN, RESET, FAILED, ERROR], FINISH,
            "connect(2) itself said so, and it has cleaned up: this is the outcome."),
    **_rows(CALLING, [SNDTIMEO], FINISH,
            "The socket's own SO_SNDTIMEO has run out inside connect(2): its errno is the outcome."),

    **_rows(WAITING, [READY], ATTEMPT,
            "The handshake is over: a fresh attempt takes its outcome the way connect(2) does, on every kernel."),
    **_rows(WAITING, [HANGUP], INSPECT,
            "poll(2) tells of an error or a hang-up; before trying again, see whether it is still our handshake, as "
            "an attempt would otherwise begin another one (E9)."),
    **_rows(WAITING, [EXPIRED], FINISH, _TIMEOUT),
    **_rows(WAITING, [SNDTIMEO], FINISH,
            "The socket's own SO_SNDTIMEO has run out, which the opcode ignores (E14): say what connect(2) would."),
    **_rows(WAITING, [CONNECTED], FINISH,
            "connect(2), in which we waited, says that it is connected: that is the outcome."),
    **_rows(WAITING, [ISCONN], FINISH,
            "Another thread took the success of the same connection first: it is connected."),
    **_rows(WAITING, [PENDING, ALREADY, INTERRUPTED], WAIT,
            "The wait ended and the handshake has not: wait on."),
    **_rows(WAITING, [AGAIN, RESET, FAILED, ERROR], FINISH,
            "connect(2), in which we waited, took the outcome and has cleaned up: this is it."),

    **_rows(INSPECTING, [INTACT], ATTEMPT,
            "It is still our handshake, and it has ended: a fresh attempt takes its outcome as connect(2) does."),
    **_rows(INSPECTING, [DISCONNECTED], FETCH,
            "Another thread has disconnected the socket, and an attempt would connect it again (E9): only fetch what "
            "it left as the error."),

    **_rows(RETRYING, [CONNECTED], FINISH, "The second attempt took the outcome, and it is success."),
    **_rows(RETRYING, [ISCONN], FINISH,
            "A connect in another thread took the success first; the two waited for the same connection."),
    **_rows(RETRYING, [PENDING, ALREADY, INTERRUPTED], WAIT,
            "The handshake is not over after all: wait on."),
    **_rows(RETRYING, [RESET, FAILED], CHECK,
            "The second attempt took the outcome, a failure; see whether it left the socket as it should (E7, E11)."),
    **_rows(RETRYING, [AGAIN, ERROR], FINISH, _STANDS),
    **_rows(RETRYING, [SNDTIMEO], FINISH,
            "The socket's own SO_SNDTIMEO has run out inside connect(2): its errno is the outcome."),

    **_rows(FETCHING, [CONNECTED], CHECK,
            "SO_ERROR holds nothing, so the error that is known already stands; see how the socket was left."),
    **_rows(FETCHING, ANSWERS[1:], CHECK,
            "SO_ERROR holds the true error; see how the socket was left."),

    **_rows(CONFIRMING, [CONNECTED], FINISH,
            "The opcode had left the socket as still connecting (E8), and connect(2) has settled it: connected."),
    **_rows(CONFIRMING, [ISCONN], FINISH,
            "The kernel had finished the connect properly, as EISCONN shows: connected."),
    **_rows(CONFIRMING, [PENDING], FINISH,
            "With TCP fast open the SYN goes with the first send, so this is all that connect(2) would do."),
    **_rows(CONFIRMING, [ALREADY, INTERRUPTED, AGAIN], FINISH,
            "The opcode said that it is connected, and this says nothing against it."),
    **_rows(CONFIRMING, [RESET, FAILED, ERROR], FINISH,
            "The connection was made and has failed since, which is worth reporting."),

    **_rows(CHECKING, [CLEAN], FINISH,
            "The socket is in no half-ended state, so the next connect or listen on it will work: done."),
    **_rows(CHECKING, [DIRTY], SCRUB,
            "TCP is closed, no error is left, and nobody has cleaned up (E7, E11): a later connect or listen would "
            "fail, so disconnect it by hand, as connect(2)'s own clean-up does."),
    **_rows(SCRUBBING, [CONNECTED], FINISH,
            "That connect(2) with AF_UNSPEC answered 0 (hence the event's name); the socket is disconnected, and the "
            "error of the connect is the outcome."),
    **_rows(SCRUBBING, ANSWERS[1:], FINISH,
            "The socket is disconnected, and whatever that said, the error of the connect is the outcome."),

    **_rows(CONNECTING, [CONNECTED], FINISH, "The one connect says that it is connected."),
    **_rows(CONNECTING, [PENDING], WAIT, _BEGUN),
    **_rows(CONNECTING, [ALREADY], WAIT, _OTHERS),
    **_rows(CONNECTING, [INTERRUPTED], CONNECT, "A signal ended the wait, not the connect: once more."),
    **_rows(CONNECTING, [AGAIN], SLEEP,
            "The listener's backlog is full and the socket does not wait, and there is nothing to poll for: come "
            "again in a moment."),
    **_rows(CONNECTING, [EXPIRED], FINISH, "The caller's time has run out, and the request was taken back."),
    **_rows(CONNECTING, [ISCONN, RESET, FAILED, ERROR], FINISH,
            "The one connect says so, and for what is not TCP its result stands."),
    **_rows(CONNECTING, [SNDTIMEO], FINISH,
            "The socket's own SO_SNDTIMEO has run out inside connect(2): its errno is the outcome."),
    **_rows(BACKING_OFF, [READY], CONNECT, "The pause is over: try once more."),
    **_rows(BACKING_OFF, [EXPIRED], FINISH, "The caller's time has run out before there was room in the backlog."),
    **_rows(BACKING_OFF, [SNDTIMEO], FINISH,
            "The socket's own SO_SNDTIMEO has run out before there was room: EAGAIN, as connect(2) says."),

    **_rows(NATIVE, [CONNECTED], FINISH, "The opcode says 0, and that is told as it is."),
    **_rows(NATIVE, [EXPIRED], FINISH, "The caller's time has run out, and the request was taken back."),
    **_rows(NATIVE, ANSWERS[1:], FINISH, "The opcode says so, and that is told as it is, right or wrong."),
}

#: What each action of the machine comes to, in a few words.
DOING = {
    ATTEMPT: "try to connect, without waiting", CALL: "call connect(2)",
    CONNECT: "connect, and wait for it in the kernel",
    WAIT: "wait for the end of the handshake", SLEEP: "pause", LOOK: "look how the socket was left",
    CHECK: "see whether it needs scrubbing", INSPECT: "see whether our handshake is still there",
    FETCH: "getsockopt(SO_ERROR)", SCRUB: "connect(2) with AF_UNSPEC, which disconnects", FINISH: "done",
}
