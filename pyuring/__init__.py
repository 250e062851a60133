"""pyuring: io_uring in pure Python, with a connect() that answers as connect(2) does.

    pyuring.connect(sock, ("example.org", 443), timeout=5)      the system call's answers, always
    pyuring.create_connection(("example.org", 443))             a new socket, connected
    pyuring.connect_many(addresses, concurrency=256)            many at a time, outcomes as they come
    pyuring.Ring()                                              the ring itself: prep, submit, reap
    pyuring.probe()                                             what this kernel and container allow
    pyuring.trace(ring)                                         print what a ring does, as it does it

Standard library only. To read it, start with abi.py (skim), syscalls.py, ring.py; then machine.py,
driver.py, client.py, many.py. `python3 -m pyuring` shows it at work.
"""
from .arguments import Timespec
from .batch import Batch
from .capabilities import Capabilities, probe
from .client import connect, create_connection
from .errors import ConnectTimeout, RingUnavailable, SubmissionQueueFull
from .machine import ConnectMachine, ConnectStateError
from .many import Outcome, connect_many
from .messages import Msghdr
from .ring import CQE, Ring
from .sockaddr import SockAddr
from .structs import OpenHow, Statx
from .tracing import trace
from .waiting import EpollEvents, FutexWaitv, Siginfo

__version__ = "0.1.0"

__all__ = [
    "Batch", "CQE", "Capabilities", "ConnectMachine", "ConnectStateError", "ConnectTimeout", "EpollEvents",
    "FutexWaitv", "Msghdr", "OpenHow", "Outcome", "Ring", "RingUnavailable", "Siginfo", "SockAddr", "Statx",
    "SubmissionQueueFull", "Timespec", "connect", "connect_many", "create_connection", "probe",
    "trace",
]
