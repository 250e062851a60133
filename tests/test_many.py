"""connect_many(): every address once, whatever happens; what it leaves behind; and chains, which are
requests without a Python socket.
"""
import contextlib
import errno
import gc
import itertools
import os
import pathlib
import random
import socket
import struct
import threading
import time
import warnings
from errno import EADDRNOTAVAIL, ECONNREFUSED, ECONNRESET, ENFILE, EPIPE
from socket import AF_INET, AF_INET6, AF_UNIX

import pytest

import networks
import parity
from pyuring import abi, client, errors, many, sockaddr
from pyuring.abi import IORING_FEAT_NATIVE_WORKERS
from pyuring.client import connect
from pyuring.many import CHECK, CONNECT, SOCKET, Outcome, connect_many
from pyuring.ring import Ring
from pyuring.sockaddr import SockAddr
from test_client import (                                           # noqa: F401  (world is a fixture)
    PATIENCE, _child, _fds, _Interruption, _LIMIT, _ports_in_handshake, until, world,
)


@pytest.mark.parametrize("concurrency", [1, 2, 7, 256])
def test_every_address_gives_one_outcome(strategy, listener, refused, silent, tmp_path, concurrency):
    seed = time.time_ns()
    print(f"seed {seed}")
    path = str(tmp_path / "listening")
    with socket.socket(AF_UNIX) as unix:
        unix.bind(path)
        unix.listen(128)
        expected = {listener.getsockname(): 0, refused: ECONNREFUSED, silent: "timed out", path: 0,
                    "/missing/path": errno.ENOENT, path.encode(): 0,
                    SockAddr(sockaddr.pack(AF_INET, refused)): ECONNREFUSED,
                    SockAddr(b"\0\0abc"): errno.EAFNOSUPPORT}
        addresses = list(expected) * 3
        random.Random(seed).shuffle(addresses)
        outcomes = list(connect_many(addresses, timeout=0.02, concurrency=concurrency, strategy=strategy))
    assert sorted(repr(outcome.address) for outcome in outcomes) == sorted(map(repr, addresses))
    for outcome in outcomes:
        error = outcome.error
        got = 0 if error is None else "timed out" if isinstance(error, errors.ConnectTimeout) else error.errno
        if outcome.address != listener.getsockname() or got:
            assert got == expected[outcome.address] or outcome.address in (path, path.encode()), outcome
        assert outcome.ok == (got == 0)
        assert outcome.sock is None
        assert outcome.elapsed >= 0
        if error is not None and outcome.address not in ("x",) and got != errno.EAFNOSUPPORT:
            assert sockaddr.format_address(outcome.address) in str(error)


def test_connect_many_of_nothing(strategy):
    assert list(connect_many([], strategy=strategy)) == []


def test_an_outcome_is_a_tuple_with_names():
    outcome = Outcome(("a", 1), None, 0.5, None)
    assert outcome.ok
    assert not outcome._replace(error=OSError()).ok
    address, error, elapsed, sock = outcome
    assert (address, error, elapsed, sock) == (("a", 1), None, 0.5, None)


@pytest.mark.parametrize("default", [None, 3.0])
def test_kept_sockets_are_connected_and_as_new_ones_are(strategy, listener, refused, default):
    socket.setdefaulttimeout(default)
    try:
        outcomes = list(connect_many([listener.getsockname(), refused] * 5, keep=True, strategy=strategy))
    finally:
        socket.setdefaulttimeout(None)
    kept = [outcome.sock for outcome in outcomes if outcome.ok]
    assert len(kept) == 5
    assert all(outcome.sock is None for outcome in outcomes if not outcome.ok)
    for sock in kept:
        assert sock.getpeername() == listener.getsockname()
        assert sock.gettimeout() == default
        assert os.get_blocking(sock.fileno()) == (default is None)
        sock.close()


@pytest.mark.parametrize("concurrency", [1, 3, 10])
def test_no_more_are_under_way_than_allowed(strategy, silent, concurrency, monkeypatch):
    # Each job has a socket from when its address is taken to when its outcome is there.
    open_, most = set(), [0]
    real = socket.socket

    class Counted(real):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            open_.add(id(self))
            most[0] = max(most[0], len(open_))

        def close(self):
            open_.discard(id(self))
            super().close()

    monkeypatch.setattr(client.socket, "socket", Counted)
    outcomes = list(connect_many([silent] * 20, timeout=0.01, concurrency=concurrency, strategy=strategy,
                                 keep=True))        # without, there may be no Python socket at all
    assert len(outcomes) == 20
    assert most[0] == concurrency
    assert not open_


def test_addresses_are_taken_only_as_connects_finish(strategy, listener):
    taken = []

    def addresses():
        for number in range(50):
            taken.append(number)
            yield listener.getsockname()

    outcomes = connect_many(addresses(), concurrency=3, strategy=strategy)
    assert taken == []
    for count, outcome in enumerate(outcomes, 1):
        assert outcome.ok
        assert len(taken) <= count + 3
    assert count == 50


def test_a_slow_source_does_not_eat_up_the_time_of_what_it_gave_before(strategy, listener):
    # The first connect is under way, or at least begun, while the second address is awaited.
    def addresses():
        yield listener.getsockname()
        time.sleep(0.15)            # slow is the matter here
        yield listener.getsockname()

    outcomes = list(connect_many(addresses(), timeout=0.1, strategy=strategy))
    assert [outcome.ok for outcome in outcomes] == [True, True]


def test_a_slow_source_is_not_waited_for_with_outcomes_in_hand(strategy, listener):
    # A generator that wants to know what became of its last address gets to know it.
    if strategy != "syscall":
        with Ring(1) as ring:
            if not ring.features & IORING_FEAT_NATIVE_WORKERS:
                pytest.skip("before 5.12 a connect may be finished by a worker thread, a moment later")
    seen = []

    def addresses():
        for number in range(5):
            time.sleep(0.002)       # slower than many._SLOW
            assert len(seen) == number or number < 1
            yield listener.getsockname()

    for outcome in connect_many(addresses(), strategy=strategy):
        seen.append(outcome)
    assert len(seen) == 5


@pytest.mark.parametrize("to", ["listener", "refused"])
def test_an_outcome_does_not_wait_for_the_next_item_of_a_slow_source(strategy, to, request):
    if strategy != "syscall":
        with Ring(1) as ring:
            if not ring.features & IORING_FEAT_NATIVE_WORKERS:
                pytest.skip("before 5.12 a connect may be finished by a worker thread, a moment later")
    there = request.getfixturevalue(to)
    address, seen = there if to == "refused" else there.getsockname(), []

    def addresses():
        for number in range(5):
            assert len(seen) == number
            yield address
            time.sleep(0.002)       # slower than many._SLOW

    for outcome in connect_many(addresses(), strategy=strategy):
        assert outcome.ok == (to == "listener")
        seen.append(outcome)
    assert len(seen) == 5


def test_the_time_of_an_outcome_begins_with_its_connect(strategy, refused, monkeypatch):
    # A clock that is moved on only by a source that takes its time, and by the look-up of a name.
    clock = [1000.0]
    monkeypatch.setattr(many.time, "monotonic", lambda: clock[0])

    def addresses():
        for _ in range(3):
            clock[0] += 10
            yield refused

    outcomes = list(connect_many(addresses(), strategy=strategy))
    assert [outcome.elapsed for outcome in outcomes] == [0] * 3


def test_an_iterator_closed_early_leaves_nothing(strategy, listener, silent, refused):
    fds, ports = _fds(), _ports_in_handshake(silent)        # two of the fixture's
    outcomes = connect_many([silent] * 20 + [listener.getsockname()] * 3, timeout=PATIENCE, strategy=strategy)
    assert next(outcomes).ok
    assert len(_ports_in_handshake(silent) - ports) == 20
    outcomes.close()
    assert _fds() == fds
    assert _ports_in_handshake(silent) <= ports
    outcomes = connect_many([refused] * 20, strategy=strategy)
    next(outcomes)
    del outcomes
    assert _fds() == fds
    connect_many([refused], strategy=strategy)       # never begun
    assert _fds() == fds


def test_outcomes_that_nobody_took_are_closed_with_the_iterator(strategy, listener, monkeypatch):
    monkeypatch.setattr(many, "_TRUST", 0.01)           # all of them end at once
    fds = _fds()
    outcomes = connect_many([listener.getsockname()] * 20, keep=True, strategy=strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = next(outcomes)
        outcomes.close()
        gc.collect()
        assert len(_fds()) == len(fds) + 1
        first.sock.close()
    assert _fds() == fds
    assert list(outcomes) == []


def test_the_iterator_is_its_own_iterator(strategy, listener):
    outcomes = connect_many([listener.getsockname()] * 3, strategy=strategy)
    assert iter(outcomes) is outcomes
    assert [outcome.ok for outcome in outcomes] == [True] * 3


@pytest.mark.parametrize("address", ["/a/path", b"\0name", bytearray(b"path"), ("127.0.0.1", 80),
                                     ("::1", 80, 0, 0), SockAddr(bytes(16)), pathlib.Path("/a/path")])
def test_one_address_instead_of_many_is_named(address):
    with pytest.raises(TypeError, match="is one address: give a list of them"):
        connect_many(address)


BEGUN = """
    import gc, threading, warnings
    hanging = socket.socket()
    hanging.bind(("127.0.0.1", 0))
    hanging.listen(0)
    fillers = [socket.socket() for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(hanging.getsockname())
    pyuring.probe()
    fds = len(os.listdir("/proc/self/fd"))
    warnings.simplefilter("error")
    noise = []
    sys.unraisablehook = noise.append
    def take(outcomes):
        outcome = next(outcomes)
        if outcome.sock:
            outcome.sock.close()
        assert outcome.ok
    def begin(addresses):
        addresses = addresses + [address] * 3 + [hanging.getsockname()] * 10
        outcomes = pyuring.connect_many(addresses, concurrency=12, %s)
        take(outcomes)
        return outcomes
    def refuses(call, why):
        try:
            call()
        except ValueError as error:
            assert why in str(error), error
        else:
            raise AssertionError("did not refuse")
"""
WAYS = pytest.mark.parametrize("keywords", ["", "keep=True", "strategy='syscall'"])


@WAYS
@pytest.mark.parametrize("names", ["[]", "[('localhost', address[1])]"])
def test_a_forked_child_can_only_drop_the_iterator(keywords, names):
    _child(BEGUN % keywords + f"""
    outcomes = begin({names})
    pid = os.fork()
    if not pid:
        refuses(lambda: next(outcomes), "belongs to the parent process")
        refuses(outcomes.close, "belongs to the parent process")
        del outcomes
        gc.collect()
        assert not noise, noise
        # The resolver has descriptors of its own, which a fork may copy.
        assert {names} or len(os.listdir("/proc/self/fd")) <= fds
        another = pyuring.connect_many([address])
        assert next(another).ok
        another.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    take(outcomes)                      # nothing has happened to the parent's
    outcomes.close()
    """)


@WAYS
def test_another_thread_can_only_drop_the_iterator(keywords):
    _child(BEGUN % keywords + """
    def other():
        try:
            refuses(lambda: next(box[0]), "belongs to another thread")
            refuses(box[0].close, "belongs to another thread")
            drop and box.clear()
            gc.collect()
        except BaseException as error:
            noise.append(error)
    for drop in False, True:
        box = [begin([])]
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        if box:
            take(box[0])                # nothing has happened to it
            box.pop().close()
        gc.collect()
        assert not noise, noise
        assert len(os.listdir("/proc/self/fd")) == fds, drop
    # Made here and begun there is fine.
    outcomes = pyuring.connect_many([address])
    thread = threading.Thread(target=lambda: box.extend(outcomes))
    thread.start()
    thread.join()
    assert box[0].ok
    """)


@pytest.mark.parametrize("exception", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_of_the_source_comes_through_and_leaves_nothing(strategy, silent, exception):
    fds = _fds()

    def addresses():
        yield from [silent] * 5
        raise exception

    with pytest.raises(exception):
        list(connect_many(addresses(), timeout=PATIENCE, strategy=strategy))
    assert _fds() == fds


def test_a_bad_address_among_others_is_the_callers_mistake_and_leaves_nothing(strategy, silent):
    fds = _fds()
    for bad, error in [(("127.0.0.1", 70000), ValueError), (5, TypeError), (("a",), TypeError),
                       ("x" * 200, ValueError), (("127.0.0.1", "80"), TypeError)]:
        with pytest.raises(error):
            list(connect_many([silent, bad], timeout=PATIENCE, strategy=strategy))
        assert _fds() == fds


def test_ctrl_c_in_connect_many_leaves_nothing(strategy, silent):
    fds, ports = _fds(), _ports_in_handshake(silent)        # two of the fixture's
    with _Interruption(lambda: len(_ports_in_handshake(silent) - ports) >= 10):
        with pytest.raises(KeyboardInterrupt):
            list(connect_many([silent] * 10, timeout=PATIENCE, strategy=strategy))
    assert _fds() == fds
    assert _ports_in_handshake(silent) <= ports


def test_outcomes_come_in_the_order_in_which_connects_end(strategy, listener, monkeypatch):
    # Jobs only: keep=True, and all of them go to the kernel together.
    monkeypatch.setattr(many, "_TRUST", 0.01)
    order = []
    for driver in many.RingDriver, many.SyscallDriver:
        def go_on(self, job, event, code=0, real=driver._go_on):
            real(self, job, event, code)
            if job.machine.state == "DONE":
                order.append(job.context[0])
        monkeypatch.setattr(driver, "_go_on", go_on)
    addresses = [("127.0.0.%d" % number, listener.getsockname()[1]) for number in range(1, 9)]
    outcomes = list(connect_many(addresses, keep=True, strategy=strategy))
    for outcome in outcomes:
        if outcome.sock:
            outcome.sock.close()
    assert [outcome.address for outcome in outcomes] == order
    assert len(order) == 8


def test_connect_many_resolves_names(strategy, listener):
    port = listener.getsockname()[1]
    outcomes = list(connect_many([("localhost", port)] * 2, strategy=strategy))
    assert [(outcome.address, outcome.error) for outcome in outcomes] == [(("localhost", port), None)] * 2


@pytest.mark.parametrize("world", ["tcp6"], indirect=True)
def test_connect_many_over_inet6(world, strategy):
    outcomes = list(connect_many([world.listening, world.listening[:2], world.refused], strategy=strategy))
    assert sorted(outcome.ok for outcome in outcomes) == [False, True, True]


def test_many_more_than_the_ring_holds(honest, silent, refused):
    outcomes = list(connect_many([silent] * 150 + [refused] * 150, timeout=0.05, concurrency=100,
                                 strategy=honest))
    assert sum(isinstance(outcome.error, errors.ConnectTimeout) for outcome in outcomes) == 150
    assert sum(isinstance(outcome.error, ConnectionRefusedError) for outcome in outcomes) == 150


def test_two_connect_manys_can_be_taken_from_in_turns(strategy, listener, refused):
    one = connect_many([listener.getsockname()] * 5, strategy=strategy)
    two = connect_many([refused] * 5, strategy=strategy)
    for left, right in zip(one, two):
        assert left.ok
        assert not right.ok
        with socket.socket() as sock:
            connect(sock, listener.getsockname(), strategy=strategy)
    assert not list(one) + list(two)


# -- chains ----------------------------------------------------------------------------------------
@pytest.fixture
def chains(io_uring, monkeypatch):
    """Only chains: nobody gets a Python socket. Gives the number of chains that were begun."""
    with Ring(1) as ring:
        if not ring.features & abi.IORING_FEAT_CQE_SKIP:
            pytest.skip("no IOSQE_CQE_SKIP_SUCCESS (5.17)")
        try:
            ring.register_files_sparse(1)
        except OSError as error:
            pytest.skip(f"no IORING_RSRC_REGISTER_SPARSE (5.19): {error}")
    begun = []
    begin = many._Chains.begin
    monkeypatch.setattr(many._Chains, "begin", lambda self, task: begun.append(task) or begin(self, task))
    real = many._Many._start

    def start(self, *arguments, **keywords):
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", None)
            return real(self, *arguments, **keywords)
    monkeypatch.setattr(many._Many, "_start", start)
    return begun


def answers(outcomes):
    """Each outcome's errno by its address; a timeout of ours is "timed out"."""
    return {outcome.address: 0 if outcome.ok else
            "timed out" if isinstance(outcome.error, errors.ConnectTimeout) else outcome.error.errno
            for outcome in outcomes}


@pytest.mark.parametrize("timeout", [None, PATIENCE])
@pytest.mark.parametrize("world", ["tcp", "tcp6"], indirect=True)
def test_chains_connect_and_are_refused_without_a_python_socket(world, chains, timeout):  # noqa: F811
    addresses = [world.listening, world.refused]
    outcomes = list(connect_many(addresses * 100, timeout=timeout, concurrency=16))
    assert len(outcomes) == len(chains) == 200
    assert answers(outcomes) == {world.listening: 0, world.refused: ECONNREFUSED}
    for outcome in outcomes:
        if outcome.error:
            assert type(outcome.error) is ConnectionRefusedError
            assert sockaddr.format_address(world.refused) in str(outcome.error)


def test_the_outcome_of_a_chain_does_not_wait_for_the_next_item(chains, refused):
    # However fast the source was before: once it is slow, nothing that is there waits for it.
    seen = []

    def addresses():
        yield from [refused] * 400
        time.sleep(0.002)       # slower than many._SLOW
        for number in range(5):
            yield refused
            before = len(seen)
            time.sleep(0.002)
            assert before == 401 + number

    for outcome in connect_many(addresses()):
        seen.append(outcome)
    assert len(seen) == len(chains) == 405


def test_the_kernel_itself_ends_a_chain_whose_time_is_over(chains, silent, refused):
    outcomes = list(connect_many([silent, refused] * 20, timeout=0.03))
    assert answers(outcomes) == {silent: "timed out", refused: ECONNREFUSED}
    assert all(0.03 <= outcome.elapsed < PATIENCE for outcome in outcomes if outcome.address == silent)
    assert len(chains) == 40


def test_no_more_chains_are_under_way_than_allowed(chains, silent):
    before, most = _ports_in_handshake(silent), 0
    outcomes = connect_many([silent] * 30, timeout=0.05, concurrency=7)
    for _ in outcomes:
        most = max(most, len(_ports_in_handshake(silent) - before))
    assert 0 < most <= 7


def small_rings(monkeypatch, entries):
    make = client.make_ring
    monkeypatch.setattr(client, "make_ring", lambda wanted: make(min(wanted, entries)))


def test_more_chains_than_the_cq_has_entries(chains, silent, refused, monkeypatch):
    small_rings(monkeypatch, 32)
    addresses = [silent] * 150 + [refused] * 150
    outcomes = list(connect_many(addresses, timeout=0.1, concurrency=300))
    assert len(outcomes) == len(chains) == 300
    assert answers(outcomes) == {silent: "timed out", refused: ECONNREFUSED}


def test_chains_take_no_descriptor(chains, silent, listener):
    fds = _fds()
    outcomes = connect_many(itertools.chain([silent] * 100, [listener.getsockname()]))
    assert next(outcomes).ok
    assert len(_fds()) - len(fds) <= 3          # the ring, and what it was mapped through
    outcomes.close()
    assert _fds() == fds


@pytest.mark.parametrize("concurrency", [(1 << 20) + 1, 10**12])
def test_more_chains_than_the_kernel_has_slots_are_as_many_as_it_has(chains, refused, monkeypatch, concurrency):
    asked, real = [], Ring.register_files_sparse

    def register(ring, count):
        asked.append(count)
        real(ring, min(count, 100))         # a table of that size takes a descriptor limit as high
    monkeypatch.setattr(Ring, "register_files_sparse", register)
    outcomes = list(connect_many([refused] * 5, concurrency=concurrency))
    assert [outcome.error.errno for outcome in outcomes] == [ECONNREFUSED] * 5
    assert asked == [1 << 20]


def test_more_chains_than_the_descriptor_limit_allows_are_fewer_and_that_is_said():
    _child(_LIMIT + """
    import errno
    from pyuring import many
    descriptors(40)
    outcomes = pyuring.connect_many([address, refused] * 100, concurrency=1000)
    assert sum(outcome.ok for outcome in outcomes) == 100
    if outcomes.held_back:      # where there are direct descriptors
        assert set(outcomes.held_back) == {errno.EMFILE}, outcomes.held_back
    """)


def test_a_connect_that_says_0_on_an_unconnected_socket_is_done_again_with_care(chains, listener, refused,
                                                                                monkeypatch):
    # E23: then the CHECK at the end of a chain fails.
    monkeypatch.undo()
    ended(monkeypatch, lambda task, position, res:
          (task, CHECK, -EPIPE) if position is None else (task, position, res), 40)
    real, again = many._Many._start, []

    def start(self, *arguments, chain=True):
        again.append(chain)
        return real(self, *arguments, chain=chain)
    monkeypatch.setattr(many._Many, "_start", start)
    monkeypatch.setattr(many, "probe", lambda: Errata(["E23"]))
    good = listener.getsockname()
    outcomes = list(connect_many([good, refused] * 20))
    assert len(outcomes) == 40
    assert answers(outcomes) == {good: 0, refused: ECONNREFUSED}
    assert again.count(False) == 20


class Errata:
    """Capabilities of a kernel that is said to have these."""

    def __init__(self, connect):
        self.connect = connect


@pytest.mark.parametrize("met, code", [(["E10"], 0), ([], ECONNRESET)])
def test_a_reset_is_asked_again_where_the_kernel_says_it_for_other_errors(chains, listener, monkeypatch,
                                                                          met, code):
    monkeypatch.undo()
    ended(monkeypatch, lambda task, position, res: (task, CONNECT, -ECONNRESET), 5)
    monkeypatch.setattr(many, "probe", lambda: Errata(met))
    outcomes = list(connect_many([listener.getsockname()] * 5))
    assert [outcome.error and outcome.error.errno or 0 for outcome in outcomes] == [code] * 5


def ended(monkeypatch, change, times):
    """Make something else of what came of the first chains that end."""
    real, left = many._Chains._completions, [times]

    def completions(self):
        of_jobs = real(self)
        for index, end in enumerate(self.ended):
            if left[0]:
                left[0] -= 1
                self.ended[index] = change(*end)
        return of_jobs
    monkeypatch.setattr(many._Chains, "_completions", completions)


def test_without_room_for_a_socket_a_chain_waits_and_that_is_said(chains, listener, silent, monkeypatch):
    ended(monkeypatch, lambda task, position, res: (task, SOCKET, -ENFILE), 5)
    # With one under way that never ends, it is worth waiting.
    outcomes = connect_many([silent] + [listener.getsockname()] * 20)
    assert all(next(outcomes).ok for _ in range(20))
    assert outcomes.held_back == {ENFILE: 5}
    outcomes.close()


def test_without_room_and_nothing_under_way_it_is_an_error(chains, listener, monkeypatch):
    ended(monkeypatch, lambda task, position, res: (task, SOCKET, -ENFILE), 1)
    outcome, = connect_many([listener.getsockname()])
    assert outcome.error.errno == ENFILE


def test_the_check_is_left_out_where_connect_says_the_truth(chains, listener, monkeypatch):
    seen = []
    pack = many._Chains._pack
    monkeypatch.setattr(many._Chains, "_pack", lambda self, *a: seen.append(pack(self, *a)) or seen[-1])
    for met, requests in ([], 3), (["E23"], 4), (None, 4):
        monkeypatch.setattr(many, "probe", lambda met=met: Errata(met))
        outcome, = connect_many([listener.getsockname()])
        assert outcome.ok
        assert len(seen.pop()) == requests * abi.SQE.size


def namespaces(set_up):
    """A fixture: a network namespace of its own, whose thread stays for the module's other tests."""
    @pytest.fixture(scope="module")
    def there():
        try:
            return networks.namespace(set_up)
        except (OSError, parity.Skip) as why:
            return why

    return there


@contextlib.contextmanager
def inside(there):
    if isinstance(there, Exception):
        pytest.skip(f"no network namespace: {there}")
    with networks.inside(there):
        yield


def no_way():
    networks.loopback_up()
    networks.add_route(AF_INET, 0, networks.NO_WAY["unreachable"])


no_way_out = namespaces(no_way)


def test_where_there_is_no_way_chains_say_so(chains, no_way_out):
    with inside(no_way_out):
        outcomes = list(connect_many([("192.0.2.1", 9)] * 20, timeout=PATIENCE))
    assert answers(outcomes) == {("192.0.2.1", 9): errno.EHOSTUNREACH}
    assert len(outcomes) == len(chains) == 20


behind_a_router = namespaces(networks.behind_a_router)


def test_a_router_that_says_no_is_never_a_connection(strategy, behind_a_router):
    # E23: there the opcode may say 0, of a socket that is not connected. connect(2) waits for all its
    # SYNs to be refused (EHOSTUNREACH), which takes longer than this.
    if strategy == "native":
        pytest.skip("native says what the opcode says")
    with inside(behind_a_router):
        outcomes = list(connect_many([("192.0.2.1", 9)] * 3, timeout=0.5, strategy=strategy))
    assert answers(outcomes)[("192.0.2.1", 9)] in ("timed out", errno.EHOSTUNREACH)
    assert not any(outcome.ok for outcome in outcomes)


# -- scarce ports ----------------------------------------------------------------------------------
def ten_ports():
    networks.link_up(1)
    networks.set_sysctl("ipv4/ip_local_port_range", "40000 40009")


few_ports = namespaces(ten_ports)


def test_scarce_ports_are_waited_for(strategy, few_ports):
    with inside(few_ports), socket.socket() as server:
        server.bind(("127.0.0.1", 50000))
        server.listen(64)
        stop = threading.Event()
        taken = [socket.create_connection(server.getsockname()) for _ in range(10)]
        outcomes = connect_many([("127.0.0.1", 50000)] * 60, concurrency=30, strategy=strategy,
                                timeout=PATIENCE)

        def accept_later():
            until(lambda: outcomes.held_back)
            for sock in taken:
                sock.close()
            accept_and_reset(server, stop)

        accepting = threading.Thread(target=accept_later)
        accepting.start()
        try:
            got = list(outcomes)
        finally:
            stop.set()
            accepting.join()
    assert [outcome.error for outcome in got if not outcome.ok] == []
    assert len(got) == 60
    assert set(outcomes.held_back) == {EADDRNOTAVAIL}


def accept_and_reset(server, stop):
    """Take what comes, and give its port back with an RST: no TIME_WAIT."""
    server.settimeout(0.05)
    while not stop.is_set():
        try:
            sock = server.accept()[0]
        except TimeoutError:
            continue
        except OSError:         # socket.timeout is one, before 3.10
            continue
        sock.settimeout(PATIENCE)
        sock.recv(1)            # until the other side has closed; a connect may see an earlier RST
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def test_ports_that_are_never_free_are_an_error_in_the_end(strategy, few_ports, monkeypatch):
    monkeypatch.setattr(many, "_PORT_PAUSES", (0.001,))
    monkeypatch.setattr(many, "_PORT_PATIENCE", 0.1)
    with inside(few_ports), no_port_left() as (full, _):
        outcomes = connect_many([full] * 30, concurrency=4, strategy=strategy)
        got = list(outcomes)
    assert [outcome.error.errno for outcome in got] == [EADDRNOTAVAIL] * 30
    # 4 are held back for all that time, the others find that it is over.
    assert set(outcomes.held_back) == {EADDRNOTAVAIL}
    assert outcomes.held_back[EADDRNOTAVAIL] >= 4


def test_a_port_for_another_destination_is_none_for_this_one_but_shows_that_there_are_some(
        strategy, few_ports, monkeypatch):
    monkeypatch.setattr(many, "_PORT_PAUSES", (0.001,))
    monkeypatch.setattr(many, "_PORT_PATIENCE", 0.1)

    def addresses():
        yield full
        for _ in range(40):         # longer than the patience
            time.sleep(0.01)
            yield other

    with inside(few_ports), no_port_left() as (full, other):
        got = list(connect_many(addresses(), strategy=strategy))
    assert got[-1].address == full
    assert answers(got) == {full: EADDRNOTAVAIL, other: ECONNREFUSED}
    assert len(got) == 41


def test_other_destinations_go_on_while_ports_are_waited_for(strategy, few_ports):
    with inside(few_ports), no_port_left() as (full, other):
        outcomes = connect_many([full] * 3 + [other] * 20, concurrency=4, strategy=strategy)
        for _ in range(20):
            outcome = next(outcomes)
            assert (outcome.address, outcome.error.errno) == (other, ECONNREFUSED)
        assert set(outcomes.held_back) == {EADDRNOTAVAIL}
        outcomes.close()


def test_what_waits_for_a_port_counts_as_under_way(strategy, few_ports):
    taken = []

    def addresses():
        for number in range(20):
            taken.append(number)
            yield full

    with inside(few_ports), no_port_left() as (full, other):
        outcomes = connect_many(itertools.chain(addresses(), [other]), concurrency=5, strategy=strategy)
        closer = threading.Timer(0.3, lambda: taken.append("late"))
        closer.start()
        with _Interruption(lambda: "late" in taken), pytest.raises(KeyboardInterrupt):
            next(outcomes)
        closer.join()
        outcomes.close()
    assert taken == [*range(5), "late"]


@contextlib.contextmanager
def no_port_left():
    """(a listener's address, for which all of the ten ports are taken; another where nobody listens)"""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 50000))
        server.listen(64)
        for _ in range(10):
            sock = stack.enter_context(socket.create_connection(server.getsockname()))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))   # no TIME_WAIT
        yield server.getsockname(), ("127.0.0.1", 50001)


def no_inet6():
    ten_ports()
    networks.set_sysctl("ipv6/conf/all/disable_ipv6", "1")


without_inet6 = namespaces(no_inet6)


def test_no_local_address_is_the_outcome_at_once(strategy, without_inet6):
    nowhere = [("::1", port) for port in range(1, 21)]
    with inside(without_inet6), no_port_left() as (full, other):
        outcomes = connect_many([*nowhere, other], strategy=strategy)
        assert answers(outcomes) == {**dict.fromkeys(nowhere, EADDRNOTAVAIL), other: ECONNREFUSED}
        assert outcomes.held_back == {}
        # And does not count against a shortage that passes.
        outcomes = connect_many([*nowhere, full, other], strategy=strategy)
        assert answers([next(outcomes) for _ in range(21)]) == {
            **dict.fromkeys(nowhere, EADDRNOTAVAIL), other: ECONNREFUSED}
        assert set(outcomes.held_back) == {EADDRNOTAVAIL}
        outcomes.close()


# -- scarce memory and descriptors ----------------------------------------------------------------
@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
def test_without_memory_for_a_connect_a_chain_waits_and_that_is_said(chains, listener, silent, monkeypatch, code):
    ended(monkeypatch, lambda task, position, res: (task, CONNECT, -code), 5)
    outcomes = connect_many([silent] + [listener.getsockname()] * 20)
    assert all(next(outcomes).ok for _ in range(20))
    assert outcomes.held_back == {code: 5}
    outcomes.close()
    ended(monkeypatch, lambda task, position, res: (task, CONNECT, -code), 1)
    outcome, = connect_many([listener.getsockname()])
    assert outcome.error.errno == code


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
def test_without_memory_for_a_connect_a_job_waits_and_that_is_said(strategy, listener, silent, monkeypatch, code):
    left = [5]
    for driver in many.RingDriver, many.SyscallDriver:
        def go_on(self, job, event, number=0, real=driver._go_on):
            real(self, job, event, number)
            if job.machine.state == "DONE" and left[0]:
                left[0] -= 1
                job.machine.error = code
        monkeypatch.setattr(driver, "_go_on", go_on)
    outcomes = connect_many([silent] + [listener.getsockname()] * 20, keep=True, strategy=strategy)
    for _ in range(20):
        next(outcomes).sock.close()
    assert outcomes.held_back == {code: 5}
    outcomes.close()
    left[0] = 1
    outcome, = connect_many([listener.getsockname()], keep=True, strategy=strategy)
    assert outcome.error.errno == code
    assert sockaddr.format_address(listener.getsockname()) in str(outcome.error)


@pytest.mark.parametrize("keywords", ["keep=True", "strategy='syscall'", ""])
def test_names_without_a_descriptor_for_the_look_up_wait(keywords):
    # Between three and none are left when the first name comes.
    _child(_LIMIT + f"""
    with contextlib.ExitStack() as stack:
        hanging = stack.enter_context(socket.socket())
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(hanging.getsockname())
        pyuring.probe()
        descriptors(16)
        for count in range(6, 17):
            addresses = [hanging.getsockname()] * count + [("localhost", address[1]), address]
            outcomes = list(pyuring.connect_many(addresses, timeout=0.1, {keywords}))
            assert len(outcomes) == count + 2
            for outcome in outcomes:
                if outcome.sock:
                    outcome.sock.close()
                assert outcome.ok == (outcome.address != hanging.getsockname()), outcome
    """)


@pytest.mark.parametrize("error, code", [
    (OSError(errno.EMFILE, "EMFILE"), errno.EMFILE), (OSError(ENFILE, "ENFILE"), ENFILE),
    (OSError(errno.ENOMEM, "ENOMEM"), errno.ENOMEM), (socket.gaierror(socket.EAI_MEMORY, "memory"), errno.ENOMEM)])
def test_a_look_up_without_room_is_made_again(strategy, listener, silent, monkeypatch, error, code):
    Resolver(monkeypatch, short=iter([error, error, ["127.0.0.1"]]))
    there = "short.test", listener.getsockname()[1]
    outcomes = connect_many([silent, there], strategy=strategy)
    outcome = next(outcomes)
    assert outcome.ok and outcome.address == there
    assert outcomes.held_back == {code: 2}
    outcomes.close()
    def late():
        until(lambda: len(got) == 1)        # by then the connect that left no room has ended
        yield error
        yield ["127.0.0.1"]

    got = []
    Resolver(monkeypatch, short=late())
    for outcome in connect_many([there, listener.getsockname()], strategy=strategy):
        got.append(outcome)
    assert [outcome.ok for outcome in got] == [True] * 2
    Resolver(monkeypatch, short=error)          # nothing is under way that could end
    outcome, = connect_many([there], strategy=strategy)
    assert outcome.error.errno == code
    assert "short.test" in str(outcome.error)


# -- names -----------------------------------------------------------------------------------------
class Resolver:
    """socket.getaddrinfo() for names that end in .test, from a dict; others are looked up as always."""

    def __init__(self, monkeypatch, **names):
        self.names, self.open, self.real = names, threading.Event(), socket.getaddrinfo
        self.asked, self.threads = [], set()
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host, port, *arguments):
        name = str(host).partition(".")
        if name[2] != "test":
            return self.real(host, port, *arguments)
        self.asked.append(host)
        self.threads.add(threading.get_ident())
        if name[0].startswith("slow"):
            assert self.open.wait(PATIENCE)
        found = self.names[name[0]]
        if hasattr(found, "__next__"):      # a different answer each time
            found = next(found)
        if isinstance(found, BaseException):
            raise found
        return [(AF_INET6 if ":" in target else AF_INET, socket.SOCK_STREAM, 6, "", (target, port))
                for target in found]


def test_names_are_looked_up_while_the_others_go_on(strategy, listener, refused, monkeypatch):
    resolver = Resolver(monkeypatch, slow=["127.0.0.1"])
    good = listener.getsockname()
    outcomes = connect_many([("slow.test", good[1])] + [good, refused] * 20, strategy=strategy)
    for _ in range(40):
        assert next(outcomes).address != ("slow.test", good[1])
    resolver.open.set()
    outcome, = outcomes
    assert outcome.ok and outcome.address == ("slow.test", good[1])
    assert threading.get_ident() not in resolver.threads


def test_what_a_name_resolves_to_is_tried_one_after_the_other(strategy, listener, refused, monkeypatch):
    Resolver(monkeypatch, three=["127.0.0.3", "127.0.0.2", "127.0.0.1"], none=["127.0.0.3", "127.0.0.2"])
    port = listener.getsockname()[1]
    outcomes = list(connect_many([("three.test", port), ("none.test", port)] * 3, strategy=strategy))
    assert answers(outcomes) == {("three.test", port): 0, ("none.test", port): ECONNREFUSED}
    assert len(outcomes) == 6


def test_a_name_without_an_address_is_an_outcome(strategy, listener, monkeypatch):
    wrong = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    Resolver(monkeypatch, wrong=wrong)
    good = listener.getsockname()
    outcomes = list(connect_many([("wrong.test", 1), good], strategy=strategy))
    errors_ = {outcome.address: outcome.error for outcome in outcomes}
    assert errors_.pop(good) is None
    error = errors_.pop(("wrong.test", 1))
    assert not errors_
    assert type(error) is socket.gaierror
    assert error.args == (socket.EAI_NONAME, "connect to wrong.test:1: Name or service not known")


def test_a_name_that_none_can_have_is_the_callers_mistake(strategy, silent):
    fds = _fds()
    with pytest.raises(ValueError):
        list(connect_many([silent, ("a\0b", 1)], strategy=strategy, timeout=PATIENCE))
    assert _fds() == fds


@pytest.mark.parametrize("host", ["x" * 300, "a..b", "\udc80", "." + "\xfc" * 70])
def test_a_name_that_can_not_be_asked_for_is_an_outcome(strategy, refused, host):
    outcomes = list(connect_many([(host, 1), refused], strategy=strategy))
    errors_ = {outcome.address: outcome.error for outcome in outcomes}
    assert errors_.pop(refused).errno == ECONNREFUSED
    assert type(errors_[host, 1]) is socket.gaierror
    assert errors_[host, 1].errno == socket.EAI_NONAME
    assert len(outcomes) == 2


def test_a_host_may_be_a_bytearray(strategy, listener):
    addresses = [(bytearray(b"localhost"), listener.getsockname()[1]),
                 (bytearray(b"127.0.0.1"), listener.getsockname()[1])]
    assert [outcome.ok for outcome in connect_many(addresses, strategy=strategy)] == [True] * 2


@pytest.mark.parametrize("exception", [MemoryError, TypeError, SystemExit, KeyboardInterrupt])
def test_whatever_the_resolver_raises_comes_through(strategy, silent, exception, monkeypatch):
    Resolver(monkeypatch, wrong=exception("no"))
    fds = _fds()
    with pytest.raises(exception, match="no"):
        list(connect_many([silent, ("wrong.test", 1)], strategy=strategy, timeout=PATIENCE))
    assert _fds() == fds


def test_closing_does_not_wait_for_the_resolver(strategy, listener, monkeypatch):
    resolver = Resolver(monkeypatch, slow=["127.0.0.1"])
    fds = _fds()
    good = listener.getsockname()
    outcomes = connect_many([("slow.test", good[1])] * 50 + [good], strategy=strategy)
    assert next(outcomes).ok
    outcomes.close()
    assert _fds() == fds
    resolver.open.set()
    before = len(resolver.asked)
    assert before <= many._RESOLVERS
    time.sleep(0.05)            # those that have not been asked for yet never are
    assert len(resolver.asked) == before


def test_names_without_a_thread_to_look_them_up(strategy, listener, monkeypatch):
    import _thread
    Resolver(monkeypatch, here=["127.0.0.1"])

    def none(*_):
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(_thread, "start_new_thread", none)
    port = listener.getsockname()[1]
    outcomes = list(connect_many([("here.test", port)] * 5, strategy=strategy))
    assert [outcome.ok for outcome in outcomes] == [True] * 5
