"""pyuring/decode.py: entries in words. Bytes go in that prep_*() made, or that are wrong on purpose."""
import errno
import os
import re
import select
import socket

import pytest

from pyuring import abi, decode, syscalls
from pyuring.batch import Batch
from pyuring.messages import Msghdr

SQE_FIELDS = [name for name, _, _ in decode._FIELDS]


def decoded(prepare, **options):
    """The one SQE that prepare(batch) makes, decoded; the batch keeps alive what it points to."""
    batch = Batch()
    prepare(batch)
    return decode.sqe(bytes(batch._sqes), **options)


def texts(entry):
    return {field.name: field.text for field in entry.fields}


def packed(opcode, flags=0, ioprio=0, fd=-1, off=0, addr=0, len=0, op_flags=0, user_data=0, buf=0, file_index=0):
    return abi.SQE.pack(opcode, flags, ioprio, fd, off, addr, len, op_flags, user_data, buf, 0, file_index, 0, 0)


# ---- the table of opcodes ----------------------------------------------------------------------------
@pytest.mark.parametrize("row", abi.OPCODES, ids=lambda row: row.name)
def test_every_name_before_an_equals_sign_in_the_table_is_understood(row):
    written = set(re.findall(r"\b(\w+)=", row.fields)) - {"level", "optname", "optlen", "optval"}
    assert {decode._VIEWS.get(name, name) for name in written} <= set(decode.meanings(row.number))


@pytest.mark.parametrize("row", abi.OPCODES, ids=lambda row: row.name)
def test_every_flag_and_number_that_the_table_names_is_spelled_out(row):
    for field, meaning in decode.meanings(row.number).items():
        if meaning.endswith("*") and meaning != "STATX_*":
            assert decode._flags_of(meaning) or decode._numbers_of(meaning), (field, meaning)


@pytest.mark.parametrize("row", abi.OPCODES, ids=lambda row: row.name)
def test_every_byte_of_an_sqe_is_shown_or_said_to_be_zero(row):
    raw = bytes([row.number]) + b"\x01" * 63
    entry = decode.sqe(raw, follow=False)
    shown = {at for field in entry.fields for at in range(field.at, field.at + len(field.raw))}
    assert shown == set(range(64)) and not entry.zero
    assert all(field.raw == raw[field.at:field.at + len(field.raw)] for field in entry.fields)
    assert entry.lines() and entry.brief().startswith(row.name.upper())


def test_an_opcode_that_is_not_in_the_table_shows_its_numbers():
    entry = decode.sqe(packed(200, fd=7, user_data=9))
    assert entry.name == "OP200" and entry.user_data == 9
    assert texts(entry) == {"opcode": "200, not in the table", "flags": "0", "fd": "7", "user_data": "9"}


# ---- fields ------------------------------------------------------------------------------------------
def test_a_connect_shows_the_address_that_it_points_to():
    entry = decoded(lambda batch: batch.prep_connect(
        5, ("127.0.0.1", 443), user_data=1, sqe_flags=abi.IOSQE_IO_LINK | abi.IOSQE_ASYNC))
    address, = (field for field in entry.fields if field.name == "addr")
    assert address.text.startswith("AF_INET 127.0.0.1:443 at 0x")
    assert address.pointed == bytes.fromhex("020001bb7f0000010000000000000000") or os.sys.byteorder == "big"
    assert texts(entry)["flags"] == "IOSQE_IO_LINK | IOSQE_ASYNC"
    assert texts(entry)["opcode"] == "16 IORING_OP_CONNECT"
    assert entry.brief().startswith("CONNECT flags=IOSQE_IO_LINK|IOSQE_ASYNC fd=5 off=16 addr=AF_INET 127.0.0.1:443")
    assert any("points to" in line for line in entry.lines())


def test_a_time_limit_shows_its_seconds():
    entry = decoded(lambda batch: batch.prep_link_timeout(2.5, abi.IORING_TIMEOUT_BOOTTIME))
    assert texts(entry)["addr"].startswith("2.5 s at 0x")
    assert texts(entry)["timeout_flags"] == "IORING_TIMEOUT_BOOTTIME"


@pytest.mark.parametrize("prepare, name, text", [
    (lambda b: b.prep_openat(-100, "/etc/hosts", os.O_RDWR | os.O_CREAT, 0o644), "open_flags", "O_RDWR | O_CREAT"),
    (lambda b: b.prep_openat(-100, "/etc/hosts", os.O_RDONLY), "fd", "AT_FDCWD (-100)"),
    (lambda b: b.prep_openat(-100, "/etc/hosts", os.O_RDONLY), "addr", "'/etc/hosts' at"),
    (lambda b: b.prep_poll_add(0, select.POLLIN | select.POLLRDHUP), "poll32_events", "POLLIN | POLLRDHUP"),
    (lambda b: b.prep_socket(socket.AF_INET6, socket.SOCK_STREAM, 0), "fd", "AF_INET6 (10)"),
    (lambda b: b.prep_socket(socket.AF_INET6, socket.SOCK_STREAM, 0), "off", "SOCK_STREAM"),
    (lambda b: b.prep_shutdown(3, socket.SHUT_WR), "len", "SHUT_WR (1)"),
    (lambda b: b.prep_send(3, b"hello", flags=socket.MSG_NOSIGNAL), "msg_flags", "MSG_NOSIGNAL"),
    (lambda b: b.prep_send(3, b"hello"), "addr", "b'hello' at"),
    (lambda b: b.prep_writev(3, [b"ab", b"cde"]), "addr", "[2 bytes at 0x"),
    (lambda b: b.prep_sendmsg(3, Msghdr(("127.0.0.1", 5), [b"abc"])), "addr", "AF_INET 127.0.0.1:5; iov [3 bytes"),
    (lambda b: b.prep_cancel64(7, abi.IORING_ASYNC_CANCEL_ALL), "cancel_flags", "IORING_ASYNC_CANCEL_ALL"),
    (lambda b: b.prep_read(3, bytearray(8), 8, sqe_flags=abi.IOSQE_FIXED_FILE), "fd",
     "3, a slot of the registered files"),
    (lambda b: b.prep_nop(result=-5), "nop_flags", "IORING_NOP_INJECT_RESULT"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_value_in_words(prepare, name, text):
    assert texts(decoded(prepare))[name].startswith(text)


def test_a_pointer_that_leads_nowhere_is_told_and_does_no_harm():
    for address in (1, 0xdead0000, (1 << 47) - 8, (1 << 63) + 5, (1 << 64) - 1):
        for opcode in range(len(abi.OPCODES)):
            decode.sqe(packed(opcode, off=16, addr=address, len=3)).lines()
        entry = decode.sqe(packed(abi.IORING_OP_CONNECT, off=16, addr=address))
        assert texts(entry)["addr"] == f"at {address:#x}, where nothing can be read"


def test_nothing_is_followed_when_not_asked_to():
    entry = decoded(lambda batch: batch.prep_connect(5, ("127.0.0.1", 443)), follow=False)
    assert "127.0.0.1" not in entry.brief() and not any(field.pointed for field in entry.fields)


def test_peek_stops_where_the_memory_ends():
    data = b"hello"
    address = syscalls.address_of(data)
    assert syscalls.peek(address, 5) == data
    assert syscalls.peek(0, 5) is None and syscalls.peek(-8, 5) is None
    assert syscalls.peek(8, 5) is None


# ---- other sizes -------------------------------------------------------------------------------------
def test_an_sqe_of_128_bytes_has_its_command_in_one_piece():
    command = bytes(range(1, 81))
    raw = packed(abi.IORING_OP_URING_CMD128, fd=3, off=0x1234)[:48] + command
    entry = decode.sqe(raw)
    assert len(raw) == 128 and entry.raw == raw
    assert entry.fields[-1].name == "cmd" and entry.fields[-1].raw == command
    assert texts(entry)["off"] == "cmd_op 0x1234"
    assert decode.sqe(packed(abi.IORING_OP_NOP) + b"\x07" + bytes(63)).fields[-1].name == "second half"


def test_a_cqe_of_32_bytes_shows_its_second_half():
    entry = decode.cqe(abi.CQE.pack(1, 0, abi.IORING_CQE_F_32) + (5).to_bytes(8, os.sys.byteorder) + bytes(8))
    assert texts(entry)["big_cqe[0]"] == "5" and texts(entry)["flags"] == "IORING_CQE_F_32"


@pytest.mark.parametrize("size", [0, 15, 17, 63, 65])
def test_other_lengths_are_refused(size):
    with pytest.raises(ValueError):
        decode.sqe(bytes(size))
    with pytest.raises(ValueError):
        decode.cqe(bytes(size))


# ---- answers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("opcode, res, flags, text", [
    (abi.IORING_OP_CONNECT, -errno.ECONNREFUSED, 0, "-ECONNREFUSED (Connection refused)"),
    (abi.IORING_OP_POLL_ADD, select.POLLOUT, 0, "4: POLLOUT"),
    (abi.IORING_OP_READ, 1, 0, "1 byte"),
    (abi.IORING_OP_SOCKET, 7, 0, "7, a file descriptor"),
    (abi.IORING_OP_LINK_TIMEOUT, -errno.ECANCELED, 0, "ended in time"),
    (abi.IORING_OP_SEND_ZC, 0, abi.IORING_CQE_F_NOTIF, "the buffer is free"),
    (None, 12, 0, "12"),
])
def test_a_result_in_words(opcode, res, flags, text):
    entry = decode.cqe(abi.CQE.pack(1, res, flags), opcode)
    assert text in texts(entry)["res"]


def test_the_flags_of_a_cqe_name_the_buffer():
    entry = decode.cqe(abi.CQE.pack(1, 5, abi.IORING_CQE_F_BUFFER | abi.IORING_CQE_F_MORE | 9 << 16))
    assert texts(entry)["flags"] == "IORING_CQE_F_BUFFER | IORING_CQE_F_MORE, buffer ID 9"


def test_bits_without_a_name_stay_a_number():
    assert decode.spelled(0, ((1, "A"),)) == "0"
    assert decode.spelled(5, ((1, "A"),)) == "A | 0x4"
    assert decode.enter_flags(abi.IORING_ENTER_GETEVENTS | 1 << 30) == "IORING_ENTER_GETEVENTS | 0x40000000"


def test_for_json_there_are_numbers_hex_and_words():
    import json
    entry = decoded(lambda batch: batch.prep_connect(5, ("127.0.0.1", 443), user_data=1))
    found = json.loads(json.dumps(entry.as_dict()))
    assert found["name"] == "CONNECT" and bytes.fromhex(found["raw"]) == entry.raw
    assert {"name": "off", "at": 8, "raw": entry.raw[8:16].hex(), "value": 16, "text": "16",
            "meaning": "addrlen", "pointed": ""} in found["fields"]
