"""A filter of the kernel that lets no new connection begin on a listening socket.

When a listening socket is closed, the kernel resets the connections that wait to be accepted. However quickly it is
closed after the last one was accepted, another may come in between.
"""

import ctypes
import socket
import struct
from contextlib import suppress
from typing import Final

_SO_ATTACH_FILTER: Final = 26
_INSTRUCTION: Final = struct.Struct("HBBI")
_PROGRAM: Final = struct.Struct("HP")

# Classic BPF (bpf(4)): of a segment with SYN and without ACK nothing is kept, of others all. The flags are at offset 13
# of the TCP header.
_INSTRUCTIONS: Final = (
    (0x30, 0, 0, 13),  # A = flags
    (0x54, 0, 0, 0x12),  # A = A & (SYN | ACK)
    (0x15, 0, 1, 0x02),  # unless A == SYN, skip one
    (0x06, 0, 0, 0),  # keep nothing
    (0x06, 0, 0, 0xFFFFFFFF),  # keep all
)


def drop_new_connections(listening: socket.socket) -> None:
    """Drop the first segment of each new connection, in every process that shares the socket.

    Connections whose handshake has begun are still established, and can be accepted. A system without such filters
    goes on without it.
    """
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*each) for each in _INSTRUCTIONS))
    program = _PROGRAM.pack(len(_INSTRUCTIONS), ctypes.addressof(code))
    with suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
