from .client import connect, connect_many, create_connection, Outcome
from .ring import Ring, CQE
from .sockaddr import SockAddr
