"""capabilities.py - probe(): what this kernel and this container allow, as one value.

Nothing is concluded from a version: a ring is made, the kernel is asked for its opcodes, each
setup flag is tried, and so is connect (examine.py). Where no ring can be had, the reason and the
remedy come from errors.explain_setup().

client.py connects by whatever works; `python3 -m pyuring doctor` prints this.
Read next: decode.py.
"""
from __future__ import annotations

from collections import namedtuple
from errno import (
    EACCES, EAFNOSUPPORT, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSYS, EPERM, EPROTONOSUPPORT,
)

from . import abi, errors, host, syscalls
from .ring import Ring


class Capabilities(namedtuple("Capabilities", "available strategy cause reason remedy release "
                                              "features ops setup_flags connect era")):
    """What probe() found.

    available     True when a ring can be made and used here
    strategy      what connect() picks: "emulated" or "syscall"
    cause         "", or why not: one of errors.CAUSES
    reason        "", or what was seen, one line; also why connect was not examined
    remedy        "", or what to do about it, one line
    release       as uname -r, for the reader; nothing is decided by it
    features      IORING_FEAT_*, 0 where there is no ring
    ops           the opcodes that work, by liburing's names ("connect", "send_zc"); one that is
                  newer than this list is "op70". Empty where the kernel can't be asked (before 5.6)
    setup_flags   IORING_SETUP_* that the kernel knows, each tried by itself
    connect       which errata this kernel's IORING_OP_CONNECT shows, by their ids in eras.ERRATA
                  ("E4", "E11"); None: not examined, as there is no ring, or no loopback to try it on.
                  pyuring.connect() is not affected by them
    era           the letter in eras.ERAS of the form of it that behaves like this kernel's; "": none
                  does, or not examined
    """

    __slots__ = ()
    available: bool
    strategy: str
    cause: str
    reason: str
    remedy: str
    release: str
    features: int
    ops: frozenset[str]
    setup_flags: int
    connect: tuple[str, ...] | None
    era: str


# What a flag needs beside it to be accepted (io_uring_setup(2)).
_COMPANIONS = {
    abi.IORING_SETUP_SQ_AFF: abi.IORING_SETUP_SQPOLL,
    abi.IORING_SETUP_TASKRUN_FLAG: abi.IORING_SETUP_COOP_TASKRUN,
    abi.IORING_SETUP_DEFER_TASKRUN: abi.IORING_SETUP_SINGLE_ISSUER,
    abi.IORING_SETUP_REGISTERED_FD_ONLY: abi.IORING_SETUP_NO_MMAP,
    abi.IORING_SETUP_HYBRID_IOPOLL: abi.IORING_SETUP_IOPOLL,
    abi.IORING_SETUP_SQ_REWIND: abi.IORING_SETUP_NO_SQARRAY,
}
_PASSING = (EMFILE, ENFILE, ENOMEM, ENOBUFS)    # says nothing of a setup flag
# Where connect can't be examined: what a filter, a policy or a kernel built without TCP says for as
# long as this process lives. All else may pass: lo comes up, a busy machine gets less so.
_LASTING = (EPERM, EACCES, ENOSYS, EAFNOSUPPORT, EPROTONOSUPPORT)

_known: Capabilities | None = None


def probe() -> Capabilities:
    """What io_uring can do here. About 10 ms; remembered, unless what blocks it may pass.

    Never raises: where io_uring is blocked, `available` is False, and `reason` and `remedy` say
    what blocks it and what to do. It opens a few sockets on loopback to see how connect behaves.
    """
    global _known
    if _known is None:
        found, lasting = _probe(examine=True)
        if not lasting:
            return found
        _known = found
    return _known


def picked() -> str:
    """probe().strategy, without having connect examined for it: about a millisecond."""
    return (_known or _probe(examine=False)[0]).strategy


def _probe(examine):
    """(Capabilities, whether they will still be true in a moment)"""
    release = host.look().release
    errata, era, unseen, lasting = None, "", "", True
    try:
        with Ring(8) as ring:
            ring.prep_nop()             # a filter may let setup through and stop enter
            ring.submit_and_wait(1)
            ring.reap()
            features = ring.features
            ops = _ops(ring)
            if examine:
                errata, era, unseen, lasting = _errata(ring)
    except OSError as error:
        why = getattr(error, "diagnosis", None) or errors.explain_setup(error.errno, host.look())
        return (Capabilities(False, "syscall", *why, release, 0, frozenset(), 0, None, ""),
                why.cause not in ("nofile", "memory", "memlock", "unknown"))
    usable = bool(features & abi.IORING_FEAT_SUBMIT_STABLE)
    return Capabilities(
        True, "emulated" if usable else "syscall", "",
        unseen if usable else "io_uring works, but is older than IORING_OP_CONNECT (Linux 5.5)", "",
        release, features, ops, _setup_flags(), errata, era), lasting


def _errata(ring):
    """(errata met, era, or else why they can't be told, whether that will last)"""
    from . import eras, examine         # which only those need who ask
    try:
        era, met = eras.recognise(examine.observe(ring), examine.OBSERVABLE)
    except OSError as error:            # no loopback, a filter on sockets, no file left, ...
        return None, "", f"IORING_OP_CONNECT was not examined: {error}", error.errno in _LASTING
    return met, era, "", True


def _ops(ring):
    try:
        numbers = ring.register_probe()
    except OSError as error:
        if error.errno not in (EINVAL, EPERM, ENOSYS):      # EINVAL: before 5.6 one can't ask
            raise
        return frozenset()
    rows = abi.OPCODES
    return frozenset(rows[number].name if number < len(rows) else f"op{number}"
                     for number in numbers)


def _setup_flags():
    """Each flag tried by itself. An unknown one is EINVAL; a known one makes a ring, or another
    complaint about what would have to come with it (memory, a CPU, a ring to attach to)."""
    flags = 0
    for bit in range(32):
        flag = 1 << bit
        fields = [0] * 28
        fields[1] = 1                                       # cq_entries
        fields[2] = flag | _COMPANIONS.get(flag, 0)
        fields[6] = 0xFFFF_FFFF                             # wq_fd: -1, no ring to attach to
        params = bytearray(abi.PARAMS.pack(*fields))
        result = syscalls.setup(1, params)
        if result >= 0:
            syscalls.close(result)
        if -result not in (EINVAL, *_PASSING):
            flags |= flag
    return flags
