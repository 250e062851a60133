"""ConnectMachine: the whole table, pair by pair; then walks, planned and random.

No socket and no kernel here: the machine is a table, and all of it can be looked at.
"""
import errno
import random
import time
from errno import (
    EACCES, EADDRNOTAVAIL, EAGAIN, EALREADY, EBADF, ECANCELED, ECONNABORTED, ECONNREFUSED,
    ECONNRESET, EHOSTUNREACH, EINPROGRESS, EINTR, EISCONN, ENOENT, EPIPE, ETIMEDOUT,
)

import pytest

from pyuring import machine as m
from pyuring.machine import ConnectMachine, ConnectStateError

#: What may answer an action, as the comments of ACTIONS say it.
ANSWERED_BY = {
    m.ATTEMPT: m.ANSWERS,
    m.CALL: m.ANSWERS,
    m.CONNECT: m.ANSWERS + (m.EXPIRED,),
    m.WAIT: (m.READY, m.HANGUP, m.EXPIRED, m.SNDTIMEO),
    m.SLEEP: (m.READY, m.EXPIRED, m.SNDTIMEO),
    m.LOOK: (m.CLEAN, m.DIRTY, m.STALE),
    m.CHECK: (m.CLEAN, m.DIRTY),
    m.INSPECT: (m.INTACT, m.DISCONNECTED),
    m.FETCH: m.ANSWERS,
    m.SCRUB: m.ANSWERS,
    m.FINISH: (),
}

#: And what only some states are answered besides: TRYING belongs to a ring; the others may block in
#: connect(2), and it is the kernel that waits for SO_SNDTIMEO.
ALSO = {
    (m.TRYING, m.ATTEMPT): (m.SETTLED,),
    (m.CALLING, m.ATTEMPT): (m.SNDTIMEO,),
    (m.RETRYING, m.ATTEMPT): (m.SNDTIMEO,),
    (m.CONNECTING, m.CONNECT): (m.SNDTIMEO,),
    (m.WAITING, m.WAIT): m.ANSWERS,
}

ENTRANCES = sorted({(state, action) for state, action, _ in m.NEXT.values()})


def answers_to(state, action):
    return ANSWERED_BY[action] + ALSO.get((state, action), ())


def machine_in(state, error=77):
    machine = ConnectMachine()
    machine.state, machine.error = state, error
    return machine


def walk(events):
    """Feed (event, errno) pairs -> the machine, and the actions that it gave."""
    machine = ConnectMachine()
    return machine, [machine.feed(*event) for event in events]


# -- the table -------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", m.STATES)
def test_every_pair_has_a_row_or_raises_and_changes_nothing(state):
    for event in m.EVENTS:
        machine = machine_in(state)
        if (state, event) not in m.NEXT:
            with pytest.raises(ConnectStateError, match=f"^{event} while {state}$"):
                machine.feed(event, ECONNREFUSED)
            assert (machine.state, machine.error, machine.timed_out) == (state, 77, False)
            continue
        next_state, action, error = m.NEXT[state, event]
        assert machine.feed(event, ECONNREFUSED) == action
        assert machine.state == next_state
        assert machine.error == {m.KEEP: 77, m.TAKE: ECONNREFUSED, m.TIMED_OUT: 0}.get(error, error)
        assert machine.timed_out == (error == m.TIMED_OUT)


def test_the_table_names_only_what_is_declared():
    for (state, event), (next_state, action, error) in m.NEXT.items():
        assert state in m.STATES
        assert event in m.EVENTS
        assert next_state in m.STATES
        assert action in m.ACTIONS
        assert error in (m.KEEP, m.TAKE, m.TIMED_OUT, 0) or error in errno.errorcode
        assert (next_state == m.DONE) == (action == m.FINISH)


@pytest.mark.parametrize("names", [m.STATES, m.EVENTS, m.ACTIONS], ids=["STATES", "EVENTS", "ACTIONS"])
def test_names_are_distinct_and_every_one_is_used(names):
    assert len(set(names)) == len(names)
    used = {word for pair, (state, action, _) in m.NEXT.items() for word in (*pair, state, action)}
    assert set(names) <= used
    assert all(getattr(m, name) == name for name in names)


@pytest.mark.parametrize("state, action", ENTRANCES)
def test_a_state_takes_all_documented_answers_to_its_action_and_no_other_event(state, action):
    accepted = {event for at, event in m.NEXT if at == state}
    assert set(answers_to(state, action)) <= accepted
    explained = {event for at, way in ENTRANCES if at == state for event in answers_to(at, way)}
    assert accepted == explained


def test_all_actions_have_documented_answers():
    assert set(ANSWERED_BY) == set(m.ACTIONS)
    assert {event for events in ANSWERED_BY.values() for event in events} <= set(m.EVENTS)


def test_only_idle_takes_a_start_and_takes_all_of_them():
    assert {event for state, event in m.NEXT if state == m.IDLE} == set(m.STARTS)
    assert {state for state, event in m.NEXT if event in m.STARTS} == {m.IDLE}


def _reachable(start, edges):
    seen, new = set(), {start}
    while new:
        seen |= new
        new = {there for here, there in edges if here in seen} - seen
    return seen


EDGES = {(state, row[0]) for (state, _), row in m.NEXT.items()}


def test_every_state_can_be_reached_from_idle():
    assert _reachable(m.IDLE, EDGES) == set(m.STATES)


@pytest.mark.parametrize("start", m.STARTS)
def test_every_start_can_come_to_done(start):
    assert m.DONE in _reachable(m.NEXT[m.IDLE, start][0], EDGES)


def test_done_can_be_reached_from_every_state_and_is_left_by_no_row():
    assert _reachable(m.DONE, {(there, here) for here, there in EDGES}) == set(m.STATES)
    assert not [event for state, event in m.NEXT if state == m.DONE]


def test_no_round_without_a_wait():
    # A way back to the same state without WAIT, SLEEP or CONNECT (which waits in the kernel) would
    # spin where a kernel repeats itself.
    busy = {(state, row[0]) for (state, _), row in m.NEXT.items()
            if row[1] not in (m.WAIT, m.SLEEP, m.CONNECT)}
    for state, after in busy:
        assert state not in _reachable(after, busy)


def test_only_a_wait_or_an_answer_of_the_ring_ends_in_timed_out():
    timed_out = {key for key, row in m.NEXT.items() if row[2] == m.TIMED_OUT}
    assert {event for _, event in timed_out} == {m.EXPIRED}
    assert timed_out == {key for key in m.NEXT if key[1] == m.EXPIRED}


# -- errnos as events ------------------------------------------------------------------------------
def test_every_errno_is_one_of_answers():
    for code in [0, *errno.errorcode]:
        event = m.EVENT_OF.get(code, m.ERROR)
        assert event in m.ANSWERS
        assert (event in (m.FAILED, m.RESET)) == (code in m.FAILURES)
        assert (event == m.CONNECTED) == (code == 0)


def test_errnos_that_steer_have_events_of_their_own():
    assert {code: event for code, event in m.EVENT_OF.items() if event != m.FAILED} == {
        0: m.CONNECTED, EINPROGRESS: m.PENDING, ECANCELED: m.PENDING, EALREADY: m.ALREADY,
        EINTR: m.INTERRUPTED, EISCONN: m.ISCONN, EAGAIN: m.AGAIN, ECONNRESET: m.RESET}


# -- walks -----------------------------------------------------------------------------------------
#: name: ([(event, errno, the action it leads to)], error, timed_out)
WALKS = {
    "refused at once, on a kernel that cleans up": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.FAILED, ECONNREFUSED, m.CHECK),
        (m.CLEAN, 0, m.FINISH)], ECONNREFUSED, False),
    "E7, E11: refused at once, left as connecting": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.FAILED, ECONNREFUSED, m.CHECK),
        (m.DIRTY, 0, m.SCRUB), (m.CONNECTED, 0, m.FINISH)], ECONNREFUSED, False),
    "E11: what the scrubbing says is nobody's business": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.FAILED, EHOSTUNREACH, m.CHECK), (m.DIRTY, 0, m.SCRUB),
        (m.ERROR, EBADF, m.FINISH)], EHOSTUNREACH, False),
    "refused late, over a ring": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT), (m.HANGUP, 0, m.INSPECT),
        (m.INTACT, 0, m.ATTEMPT), (m.FAILED, ECONNREFUSED, m.CHECK), (m.CLEAN, 0, m.FINISH)],
        ECONNREFUSED, False),
    "refused late, in a worker thread (5.5, 5.6)": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.INTERRUPTED, EINTR, m.WAIT), (m.HANGUP, 0, m.INSPECT),
        (m.INTACT, 0, m.ATTEMPT), (m.FAILED, ECONNREFUSED, m.CHECK), (m.CLEAN, 0, m.FINISH)],
        ECONNREFUSED, False),
    "refused late, with plain system calls": ([
        (m.START_SYSCALL, 0, m.ATTEMPT), (m.PENDING, EINPROGRESS, m.WAIT), (m.HANGUP, 0, m.INSPECT),
        (m.INTACT, 0, m.ATTEMPT), (m.FAILED, ECONNREFUSED, m.CHECK), (m.CLEAN, 0, m.FINISH)],
        ECONNREFUSED, False),
    "refused late, waiting in connect(2)": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT),
        (m.FAILED, ECONNREFUSED, m.FINISH)], ECONNREFUSED, False),
    "E22: dissolved by another thread, waiting in connect(2)": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT),
        (m.FAILED, EPIPE, m.FINISH)], EPIPE, False),
    "a signal ends the wait in connect(2), and the next one is a poll": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT),
        (m.INTERRUPTED, EINTR, m.WAIT), (m.READY, 0, m.ATTEMPT), (m.CONNECTED, 0, m.FINISH)], 0, False),
    "E13: joined in connect(2), and another thread took the outcome": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.ALREADY, EALREADY, m.WAIT),
        (m.ISCONN, EISCONN, m.FINISH)], 0, False),
    "reset late": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT), (m.HANGUP, 0, m.INSPECT),
        (m.INTACT, 0, m.ATTEMPT), (m.RESET, ECONNRESET, m.CHECK), (m.CLEAN, 0, m.FINISH)],
        ECONNRESET, False),
    "timed out by the kernel": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT), (m.HANGUP, 0, m.INSPECT),
        (m.INTACT, 0, m.ATTEMPT), (m.FAILED, ETIMEDOUT, m.CHECK), (m.CLEAN, 0, m.FINISH)],
        ETIMEDOUT, False),
    "connected at once, on a kernel not known yet": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.CONNECTED, 0, m.CALL),
        (m.ISCONN, EISCONN, m.FINISH)], 0, False),
    "connected at once, on a kernel known to settle": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.SETTLED, 0, m.FINISH)], 0, False),
    "E8: connected, and connect(2) has to finish it": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.CONNECTED, 0, m.CALL), (m.CONNECTED, 0, m.FINISH)], 0, False),
    "E8: connected, and reset before connect(2) could finish it": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.CONNECTED, 0, m.CALL), (m.RESET, ECONNRESET, m.FINISH)],
        ECONNRESET, False),
    "connected late": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT), (m.READY, 0, m.ATTEMPT),
        (m.CONNECTED, 0, m.FINISH)], 0, False),
    "connected late, and another thread took the outcome": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT), (m.READY, 0, m.ATTEMPT),
        (m.ISCONN, EISCONN, m.FINISH)], 0, False),
    "connected before": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.ISCONN, EISCONN, m.FINISH)], EISCONN, False),
    "poll woke for nothing": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT), (m.READY, 0, m.ATTEMPT),
        (m.PENDING, ECANCELED, m.WAIT), (m.READY, 0, m.ATTEMPT), (m.CONNECTED, 0, m.FINISH)], 0, False),
    "E9: shut down while pending": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT), (m.HANGUP, 0, m.INSPECT),
        (m.DISCONNECTED, 0, m.FETCH), (m.CONNECTED, 0, m.CHECK), (m.CLEAN, 0, m.FINISH)],
        ECONNABORTED, False),
    "E9: shut down while pending, and SO_ERROR knows why": ([
        (m.START_SYSCALL, 0, m.ATTEMPT), (m.PENDING, EINPROGRESS, m.WAIT), (m.HANGUP, 0, m.INSPECT),
        (m.DISCONNECTED, 0, m.FETCH), (m.RESET, ECONNRESET, m.CHECK), (m.CLEAN, 0, m.FINISH)],
        ECONNRESET, False),
    "E10: ECONNRESET, and SO_ERROR has the true error": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.RESET, ECONNRESET, m.FETCH),
        (m.FAILED, ECONNREFUSED, m.CHECK), (m.DIRTY, 0, m.SCRUB), (m.CONNECTED, 0, m.FINISH)],
        ECONNREFUSED, False),
    "E10: ECONNRESET, and it is the true error": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.RESET, ECONNRESET, m.FETCH),
        (m.CONNECTED, 0, m.CHECK), (m.CLEAN, 0, m.FINISH)], ECONNRESET, False),
    "E12: error taken before": ([
        (m.START, 0, m.LOOK), (m.DIRTY, 0, m.CALL), (m.FAILED, ECONNABORTED, m.FINISH)],
        ECONNABORTED, False),
    "E12: it only looked so, and was connected once": ([
        (m.START, 0, m.LOOK), (m.DIRTY, 0, m.CALL), (m.ISCONN, EISCONN, m.FINISH)], EISCONN, False),
    "E13: pending before, then connected": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.ALREADY, EALREADY, m.WAIT),
        (m.READY, 0, m.ATTEMPT), (m.CONNECTED, 0, m.FINISH)], 0, False),
    "E13: pending before, then refused": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.ALREADY, EALREADY, m.WAIT),
        (m.HANGUP, 0, m.INSPECT), (m.INTACT, 0, m.ATTEMPT), (m.FAILED, ECONNREFUSED, m.CHECK),
        (m.DIRTY, 0, m.SCRUB), (m.CONNECTED, 0, m.FINISH)], ECONNREFUSED, False),
    "E14: SO_SNDTIMEO of our own handshake": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT),
        (m.SNDTIMEO, 0, m.FINISH)], EINPROGRESS, False),
    "E14: SO_SNDTIMEO of one that was pending before": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.ALREADY, EALREADY, m.WAIT),
        (m.SNDTIMEO, 0, m.FINISH)], EALREADY, False),
    "E14: SO_SNDTIMEO inside connect(2), first": ([
        (m.START_SYSCALL, 0, m.ATTEMPT), (m.SNDTIMEO, EINPROGRESS, m.FINISH)], EINPROGRESS, False),
    "E14: SO_SNDTIMEO inside connect(2), again": ([
        (m.START_SYSCALL, 0, m.ATTEMPT), (m.SNDTIMEO, EALREADY, m.FINISH)], EALREADY, False),
    "E14: a signal, and then SO_SNDTIMEO inside connect(2)": ([
        (m.START_SYSCALL, 0, m.ATTEMPT), (m.INTERRUPTED, EINTR, m.WAIT), (m.READY, 0, m.ATTEMPT),
        (m.SNDTIMEO, EALREADY, m.FINISH)], EALREADY, False),
    "the caller's timeout": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.PENDING, ECANCELED, m.WAIT), (m.EXPIRED, 0, m.FINISH)],
        0, True),
    "the caller's timeout, pending before": ([
        (m.START, 0, m.LOOK), (m.CLEAN, 0, m.ATTEMPT), (m.ALREADY, EALREADY, m.WAIT),
        (m.EXPIRED, 0, m.FINISH)], 0, True),
    "no route": ([
        (m.START_FRESH, 0, m.ATTEMPT), (m.ERROR, EADDRNOTAVAIL, m.FINISH)], EADDRNOTAVAIL, False),
    "unix: connected": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.CONNECTED, 0, m.FINISH)], 0, False),
    "unix: missing path": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.ERROR, ENOENT, m.FINISH)], ENOENT, False),
    "unix: not listening": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.FAILED, ECONNREFUSED, m.FINISH)], ECONNREFUSED, False),
    "unix: full backlog, tried until there is room": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.AGAIN, EAGAIN, m.SLEEP), (m.READY, 0, m.CONNECT),
        (m.AGAIN, EAGAIN, m.SLEEP), (m.READY, 0, m.CONNECT), (m.CONNECTED, 0, m.FINISH)], 0, False),
    "unix: full backlog, tried until the caller's timeout": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.AGAIN, EAGAIN, m.SLEEP), (m.EXPIRED, 0, m.FINISH)], 0, True),
    "unix: full backlog, waited for in the kernel until the caller's timeout": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.EXPIRED, 0, m.FINISH)], 0, True),
    "unix: full backlog, tried until SO_SNDTIMEO": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.AGAIN, EAGAIN, m.SLEEP), (m.SNDTIMEO, 0, m.FINISH)],
        EAGAIN, False),
    "unix: full backlog, SO_SNDTIMEO inside the kernel": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.ERROR, EAGAIN, m.FINISH)], EAGAIN, False),
    "unix: a signal on the way": ([
        (m.START_PLAIN, 0, m.CONNECT), (m.INTERRUPTED, EINTR, m.CONNECT), (m.CONNECTED, 0, m.FINISH)],
        0, False),
    "native: connected": ([(m.START_NATIVE, 0, m.CONNECT), (m.CONNECTED, 0, m.FINISH)], 0, False),
    "native: the caller's timeout": ([
        (m.START_NATIVE, 0, m.CONNECT), (m.EXPIRED, 0, m.FINISH)], 0, True),
    **{f"native: {errno.errorcode[code]} goes through": (
        [(m.START_NATIVE, 0, m.CONNECT), (event, code, m.FINISH)], code, False)
       for event, code in [(m.ALREADY, EALREADY), (m.PENDING, EINPROGRESS), (m.FAILED, ECONNABORTED),
                           (m.RESET, ECONNRESET), (m.ISCONN, EISCONN), (m.AGAIN, EAGAIN),
                           (m.INTERRUPTED, EINTR), (m.ERROR, EACCES), (m.FAILED, EPIPE)]},
}


@pytest.mark.parametrize("name", WALKS)
def test_walk_ends_as_connect_would(name):
    steps, error, timed_out = WALKS[name]
    machine, actions = walk([(event, code) for event, code, _ in steps])
    assert actions == [action for _, _, action in steps]
    assert machine.state == m.DONE
    assert (machine.error, machine.timed_out) == (error, timed_out)


def test_walks_pass_through_every_state_and_every_action():
    states, actions = {m.IDLE}, set()
    for steps, _, _ in WALKS.values():
        machine = ConnectMachine()
        for event, code, _ in steps:
            actions.add(machine.feed(event, code))
            states.add(machine.state)
    assert states == set(m.STATES)
    assert actions == set(m.ACTIONS)


# -- what becomes of `error` -----------------------------------------------------------------------
def _row_with(error):
    return next(key for key, row in m.NEXT.items() if row[2] == error and key[0] != m.IDLE)


@pytest.mark.parametrize("error, expected, timed_out", [
    (m.KEEP, 77, False), (m.TAKE, 55, False), (m.TIMED_OUT, 0, True), (0, 0, False),
    (EINPROGRESS, EINPROGRESS, False), (EALREADY, EALREADY, False), (EAGAIN, EAGAIN, False),
    (ECONNABORTED, ECONNABORTED, False)])
def test_error_after_a_row(error, expected, timed_out):
    state, event = _row_with(error)
    machine = machine_in(state, error=77)
    machine.feed(event, 55)
    assert (machine.error, machine.timed_out) == (expected, timed_out)


def test_markers_of_the_error_column_are_no_errnos():
    assert m.KEEP is None
    assert {m.TAKE, m.TIMED_OUT}.isdisjoint(errno.errorcode)
    assert 0 not in (m.TAKE, m.TIMED_OUT)


def test_a_done_machine_takes_nothing_any_more():
    machine, _ = walk([(m.START_NATIVE, 0), (m.FAILED, ECONNREFUSED)])
    for event in m.EVENTS:
        with pytest.raises(ConnectStateError):
            machine.feed(event)
    assert (machine.state, machine.error) == (m.DONE, ECONNREFUSED)


def test_machine_has_no_room_for_anything_else():
    with pytest.raises(AttributeError):
        ConnectMachine().sock = None


def test_repr_tells_the_state_and_how_it_ended():
    machine = ConnectMachine()
    assert repr(machine) == "<ConnectMachine IDLE>"
    machine.feed(m.START_NATIVE)
    assert repr(machine) == "<ConnectMachine NATIVE>"
    machine.feed(m.FAILED, ECONNREFUSED)
    assert repr(machine) == f"<ConnectMachine DONE, error {ECONNREFUSED}>"
    machine, _ = walk([(m.START_NATIVE, 0), (m.EXPIRED, 0)])
    assert repr(machine) == "<ConnectMachine DONE, timed out>"


# -- random walks ----------------------------------------------------------------------------------
CODES = {event: [code for code in [0, *errno.errorcode] if m.EVENT_OF.get(code, m.ERROR) == event]
         for event in m.ANSWERS}


def test_random_walks_of_documented_answers_never_raise_and_end_consistently():
    # Whatever a kernel may say, in any order, as long as it is an answer to the action.
    seed = time.time_ns()
    print(f"seed {seed}")
    random_ = random.Random(seed)
    for _ in range(3000):
        machine, heard = ConnectMachine(), []
        event, code = random_.choice(m.STARTS), 0
        action = machine.feed(event)
        while action != m.FINISH:
            assert machine.state != m.DONE
            assert not machine.timed_out
            event = random_.choice(answers_to(machine.state, action))
            code = random_.choice(CODES[event]) if event in m.ANSWERS else 0
            if event == m.SNDTIMEO and action in (m.ATTEMPT, m.CONNECT):
                code = random_.choice([EINPROGRESS, EALREADY, EAGAIN])
            before = machine.error
            action = machine.feed(event, code)
            heard.append((event, code))
            assert machine.error in (0, before, code, EINPROGRESS, EALREADY, EAGAIN, ECONNABORTED)
            assert len(heard) < 10_000, heard[-10:]
        assert machine.state == m.DONE
        if machine.timed_out:
            assert heard[-1][0] == m.EXPIRED
            assert machine.error == 0
        elif machine.error == 0:
            # Nobody is told that he is connected unless the kernel has said so.
            assert {0, EISCONN} & {code for event, code in heard
                                   if event in m.ANSWERS or event == m.SETTLED}, heard
        elif machine.error not in [code for _, code in heard]:
            assert (heard[-1][0] == m.SNDTIMEO
                    or machine.error == ECONNABORTED and (m.DISCONNECTED, 0) in heard), heard
