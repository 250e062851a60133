"""pyuring/messages.py: what a msghdr points to, control data, and the layout of a multishot recvmsg's answer.

Without a kernel: it is played. What the requests do with all of this, and that control data is what Python's own
socket.sendmsg() and recvmsg() send and receive, is in test_sockets.py.
"""
import array
import ctypes
import gc
import random
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from prepbytes import DATA, IN, SIN, fake, ring, sent  # noqa: F401

from pyuring.messages import CMSGHDR, MSGHDR, Msghdr, RecvmsgOut, pack_control, parse_control, recvmsg_out
from pyuring.sockaddr import SockAddr

SOL, RIGHTS = socket.SOL_SOCKET, socket.SCM_RIGHTS
WORD = struct.calcsize("N")


# ------------------------------------------------------------------------------------------------------ the structs

C = """
#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>
#define AT(struct_, member) printf("%zu ", offsetof(struct struct_, member))
int main(void) {
    AT(msghdr, msg_name); AT(msghdr, msg_namelen); AT(msghdr, msg_iov); AT(msghdr, msg_iovlen);
    AT(msghdr, msg_control); AT(msghdr, msg_controllen); AT(msghdr, msg_flags);
    printf("%zu\\n", sizeof(struct msghdr));
    AT(cmsghdr, cmsg_len); AT(cmsghdr, cmsg_level); AT(cmsghdr, cmsg_type);
    printf("%zu\\n", sizeof(struct cmsghdr));
    return 0;
}
"""


def offsets(fmt):
    return [struct.calcsize(fmt[:n + 1]) - struct.calcsize("@" + fmt[n]) for n in range(1, len(fmt))]


def test_the_structs_are_laid_out_as_by_the_c_compiler(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler to ask")
    (tmp_path / "ask.c").write_text(C)
    made = subprocess.run([compiler, "-o", str(tmp_path / "ask"), str(tmp_path / "ask.c")], capture_output=True,
                          text=True, timeout=60)
    if made.returncode:
        pytest.skip(f"nothing can be compiled here: {made.stderr.splitlines()[:1]}")
    said = subprocess.run([str(tmp_path / "ask")], capture_output=True, text=True, timeout=60, check=True).stdout
    msghdr, cmsghdr = [list(map(int, line.split())) for line in said.splitlines()]
    assert msghdr == [*offsets("@PiPNPNi"), MSGHDR.size]
    assert cmsghdr == [*offsets("@Nii"), CMSGHDR.size]


# -------------------------------------------------------------------------------------------- what a msghdr points to

def memory(address, size):
    return ctypes.string_at(address, size)


def msghdr_of(fake):
    """The msghdr that the SQE points to: name, [buffers], control, flags."""
    address = int.from_bytes(fake.raw_sqe(0)[16:24], sys.byteorder)
    name, namelen, iov, iovlen, control, controllen, flags = MSGHDR.unpack(memory(address, MSGHDR.size))
    iovecs = [struct.unpack_from("@PN", memory(iov, 2 * WORD * iovlen), 2 * WORD * i) for i in range(iovlen)]
    return ((name or None) and memory(name, namelen), [memory(*iovec) for iovec in iovecs],
            (control or None) and memory(control, controllen), flags)


@pytest.mark.parametrize("prep", ["prep_sendmsg", "prep_sendmsg_zc", "prep_sendmsg_zc_fixed"])
def test_what_is_to_be_sent(prep, fake, ring):
    messages = [(SOL, RIGHTS, struct.pack("=i", 7))]
    msg = Msghdr(("127.0.0.1", 0x1234), [DATA, IN, memoryview(DATA)[3:5]], messages, socket.MSG_EOR)
    getattr(ring, prep)(5, msg)
    gc.collect()
    assert msghdr_of(fake) == (SIN, [DATA, bytes(IN), DATA[3:5]], pack_control(messages), socket.MSG_EOR)
    assert (msg.address, msg.control, msg.flags) == (("127.0.0.1", 0x1234), messages, socket.MSG_EOR)


@pytest.mark.parametrize("prep", ["prep_recvmsg", "prep_recvmsg_multishot"])
def test_room_to_receive(prep, fake, ring):
    name, control = bytearray(b"n" * 30), array.array("i", [1, 2, 3])
    getattr(ring, prep)(5, Msghdr(name, [IN, bytearray(3)], control))
    assert msghdr_of(fake) == (bytes(name), [bytes(IN), bytes(3)], control.tobytes(), 0)
    with pytest.raises(BufferError):
        name.append(0)


def test_numbers_are_room_that_is_made(fake, ring):
    ring.prep_recvmsg(5, Msghdr(30, (), 12))
    assert msghdr_of(fake) == (bytes(30), [], bytes(12), 0)


@pytest.mark.parametrize("nothing", [Msghdr(), Msghdr(None, []), Msghdr(None, (), [])])
def test_nothing_is_no_memory_at_all(nothing, fake, ring):
    ring.prep_sendmsg(5, nothing)
    assert msghdr_of(fake) == (None, [], None, 0)
    assert (nothing.address, nothing.control, nothing.flags, nothing.namelen, nothing.controllen) == (None, [], 0, 0, 0)


@pytest.mark.parametrize("address, raw", [
    ("/run/x", struct.pack("=H", 1) + b"/run/x\0"), (b"\0xy", struct.pack("=H", 1) + b"\0xy"),
    (Path("/run/x"), struct.pack("=H", 1) + b"/run/x\0"), (SockAddr(b"any bytes"), b"any bytes"),
])
def test_every_form_of_address(address, raw, fake, ring):
    msg = Msghdr(address)
    ring.prep_sendmsg(5, msg)
    assert msghdr_of(fake)[0] == raw
    assert msg.address == address


def v6():
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError as error:
        pytest.skip(f"this kernel has no AF_INET6: {error}")


def test_the_family_is_the_sockets(fake, ring):
    with v6() as sock:
        with pytest.raises(ValueError, match="IPv4"):
            ring.prep_sendmsg(sock, Msghdr(("127.0.0.1", 1)))
        ring.prep_sendmsg(sock, Msghdr(("::1", 1)))
    assert len(msghdr_of(fake)[0]) == 28


def test_each_request_has_a_structure_of_its_own(fake, ring):
    """So that the kernel, which still has the first, does not see the second's."""
    msg = Msghdr(16, [bytearray(b"x")])
    ring.prep_recvmsg(5, msg)
    first = msghdr_of(fake)
    ring.prep_recvmsg(5, msg)
    addresses = {fake.raw_sqe(n)[16:24] for n in range(2)}
    assert len(addresses) == 2
    assert msghdr_of(fake) == first


def test_the_list_may_change_once_it_is_given():
    buffers, messages = [DATA], [(1, 2, b"x")]
    msg = Msghdr(None, buffers, messages)
    buffers.append(IN)
    messages.clear()
    assert msg.iov == (DATA,)
    assert msg.control == [(1, 2, b"x")]


BAD = {
    "iov a buffer": (lambda: Msghdr(None, b"data"), TypeError, "bytes"),
    "iov None": (lambda: Msghdr(None, None), TypeError, "NoneType"),
    "name below 0": (lambda: Msghdr(-1), ValueError, "name -1"),
    "name of 32 bits": (lambda: Msghdr(2**31), ValueError, str(2**31)),
    "control below 0": (lambda: Msghdr(None, (), -1), ValueError, "control -1"),
    "flags a str": (lambda: Msghdr(flags="MSG_EOR"), TypeError, "MSG_EOR"),
    "flags of 32 bits": (lambda: Msghdr(flags=2**31), ValueError, str(2**31)),
    "a message of two": (lambda: Msghdr(control=[(1, 2)]), TypeError, "(1, 2)"),
    "a message of four": (lambda: Msghdr(control=[(1, 2, b"", 4)]), TypeError, "4)"),
    "a message that is none": (lambda: Msghdr(control=[None]), TypeError, "None"),
    "a message of str": (lambda: Msghdr(control=[(1, 2, "data")]), TypeError, "'data'"),
    "a message of an int": (lambda: Msghdr(control=[(1, 2, 3)]), TypeError, "(1, 2, 3)"),
    "a level of 32 bits": (lambda: Msghdr(control=[(2**31, 2, b"")]), ValueError, str(2**31)),
    "a type in str": (lambda: Msghdr(control=[(1, "SCM_RIGHTS", b"")]), ValueError, "SCM_RIGHTS"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name):
    call, exception, names = BAD[name]
    with pytest.raises(exception) as caught:
        call()
    assert names in str(caught.value)


# ------------------------------------------------------------------------------------------------------ control data

@pytest.mark.parametrize("messages", [
    [], [(1, 2, b"")], [(1, 2, b"x")], [(1, 2, b"12345678"), (-1, 2**31 - 1, b"123456789")],
    [(1, 2, b"x" * n) for n in range(20)],
])
def test_control_data_comes_back_as_it_was(messages):
    raw = pack_control(messages)
    assert len(raw) == sum(socket.CMSG_SPACE(len(data)) for _, _, data in messages)
    assert parse_control(raw) == messages
    assert parse_control(memoryview(bytearray(raw))) == messages


def test_data_may_be_any_buffer():
    raw = pack_control([(1, 2, array.array("i", [3, 4])), [5, 6, memoryview(b"abcdef")[::2]]])
    assert parse_control(raw) == [(1, 2, struct.pack("@ii", 3, 4)), (5, 6, b"ace")]


@pytest.mark.parametrize("length", range(0, 64))
def test_control_data_that_ends_too_early_is_parsed_as_far_as_it_goes(length):
    messages = [(1, 2, b"123456"), (3, 4, b"abcdef")]
    raw = pack_control(messages)[:length]
    parsed = parse_control(raw)
    for (level, kind, data), whole in zip(parsed, messages):
        assert (level, kind) == whole[:2]
        assert whole[2].startswith(data)
    data_at = socket.CMSG_LEN(0)
    assert len(parsed) == (length >= data_at) + (length >= socket.CMSG_SPACE(6) + data_at)


def test_control_data_of_any_bytes_ends():
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(2000):
        raw = bytes(rng.choice((0, 0, 0, 1, 16, 17, 24, 255)) for _ in range(rng.randrange(100)))
        assert sum(len(data) for _, _, data in parse_control(raw)) <= len(raw)


# ------------------------------------------------------------------------------------------------- what has been said

def told(msg, ring, fake, name=b"", control=b"", namelen=None, controllen=None, flags=0):
    """Does to a Msghdr what the kernel does in a recvmsg."""
    ring.prep_recvmsg(5, msg)
    address = sent(fake, ring)["addr"]
    where = list(MSGHDR.unpack(memory(address, MSGHDR.size)))
    ctypes.memmove(where[0], name, min(len(name), where[1]))
    ctypes.memmove(where[4], control, min(len(control), where[5]))
    where[1] = len(name) if namelen is None else namelen
    where[5] = len(control) if controllen is None else controllen
    where[6] = flags
    ctypes.memmove(address, MSGHDR.pack(*where), MSGHDR.size)
    fake.complete((0, 1, 0))
    ring.reap()


def test_what_the_kernel_wrote_can_be_read(ring, fake):
    msg = Msghdr(128, [bytearray(1)], 64)
    told(msg, ring, fake, SIN, pack_control([(1, 2, b"three")]), flags=socket.MSG_TRUNC | socket.MSG_CTRUNC)
    assert msg.address == ("127.0.0.1", 0x1234)
    assert msg.control == [(1, 2, b"three")]
    assert msg.flags == socket.MSG_TRUNC | socket.MSG_CTRUNC
    assert (msg.namelen, msg.controllen) == (16, socket.CMSG_SPACE(5))


def test_before_the_first_request_there_is_nothing(ring, fake):
    msg = Msghdr(128, [bytearray(1)], 64)
    assert (msg.address, msg.control, msg.flags, msg.namelen, msg.controllen) == (None, [], 0, 0, 0)


def test_the_next_request_starts_anew(ring, fake):
    msg = Msghdr(128, [bytearray(1)], 64, socket.MSG_EOR)
    told(msg, ring, fake, SIN, pack_control([(1, 2, b"three")]), flags=socket.MSG_TRUNC)
    ring.prep_recvmsg(5, msg)
    _, namelen, *_, controllen, flags = MSGHDR.unpack(memory(sent(fake, ring)["addr"], MSGHDR.size))
    assert (namelen, controllen, flags) == (128, 64, socket.MSG_EOR)
    fake.complete((0, 0, 0))


def test_an_address_that_had_no_room_is_what_there_is_of_it(ring, fake):
    msg = Msghdr(6)
    told(msg, ring, fake, SIN[:6], namelen=16)
    assert msg.address == SockAddr(SIN[:6])
    assert msg.namelen == 16


def test_no_address_is_none(ring, fake):
    msg = Msghdr(128)
    told(msg, ring, fake)
    assert msg.address is None


def test_the_callers_own_buffers_are_written_to(ring, fake):
    name, control = bytearray(20), array.array("Q", [0] * 8)
    msg = Msghdr(name, (), control)
    told(msg, ring, fake, SIN, pack_control([(1, 2, b"three")]))
    assert name == SIN + bytes(4)
    assert parse_control(control.tobytes()) == [(1, 2, b"three")] == msg.control


# ------------------------------------------------------------------------------------------------------ recvmsg_out

def answer(name, name_room, control, control_room, payload, flags=0, payloadlen=None, namelen=None):
    """What the kernel puts into a provided buffer (io_recvmsg_multishot() in io_uring/net.c)."""
    payloadlen = len(payload) if payloadlen is None else payloadlen
    namelen = len(name) if namelen is None else namelen
    return (struct.pack("=IIII", namelen, len(control), payloadlen, flags) + name[:name_room].ljust(name_room, b"\xEE")
            + control[:control_room].ljust(control_room, b"\xEE") + payload)


CONTROL = pack_control([(1, 2, b"three")])


@pytest.mark.parametrize("behind", [b"", b"what was there before"])
def test_recvmsg_out_takes_a_buffer_apart(behind):
    buffer = bytearray(answer(SIN, 128, CONTROL, 64, b"payload", 0x20) + behind)
    out = recvmsg_out(buffer, Msghdr(128, (), 64))
    assert (out.name, out.control, out.payload) == (SIN, CONTROL, b"payload")
    assert (out.flags, out.payloadlen) == (0x20, 7)
    assert (out.address, out.messages) == (("127.0.0.1", 0x1234), [(1, 2, b"three")])
    assert isinstance(out, RecvmsgOut)
    out.payload[:3] = b"PAY"            # views of the buffer, not copies
    assert b"PAYload" in buffer


def test_recvmsg_out_without_name_and_control():
    out = recvmsg_out(answer(b"", 0, b"", 0, b"payload"), Msghdr())
    assert (bytes(out.name), bytes(out.control), bytes(out.payload)) == (b"", b"", b"payload")
    assert (out.address, out.messages) == (None, [])


def test_recvmsg_out_of_what_was_cut_short():
    out = recvmsg_out(answer(SIN, 6, CONTROL, 20, b"pay", 0x28, payloadlen=7), Msghdr(6, (), 20))
    assert (out.name, out.control, out.payload, out.payloadlen) == (SIN[:6], CONTROL[:20], b"pay", 7)
    assert out.address == SockAddr(SIN[:6])
    assert out.messages == [(1, 2, b"thre")]


@pytest.mark.parametrize("size", [0, 15, 16, 16 + 128, 16 + 128 + 63])
def test_recvmsg_out_refuses_a_buffer_without_room_for_its_head(size):
    whole = answer(SIN, 128, CONTROL, 64, b"")
    with pytest.raises(ValueError, match=f"{size} bytes .* 208"):
        recvmsg_out(whole[:size], Msghdr(128, (), 64))
    assert recvmsg_out(whole, Msghdr(128, (), 64)).payload == b""


def test_recvmsg_out_reads_no_further_than_the_buffer():
    """Whatever the numbers in there."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(2000):
        raw = rng.getrandbits(8 * 64).to_bytes(64, "little")
        out = recvmsg_out(raw, Msghdr(rng.randrange(24), (), rng.randrange(24)))
        assert len(out.name) + len(out.control) + len(out.payload) <= 48
        out.address, out.messages
