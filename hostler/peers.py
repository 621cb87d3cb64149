"""Whose process is at the other end of a loopback connection: the kernel's own answer.

Asks the kernel's socket table (sock_diag(7), NETLINK_INET_DIAG) for the one TCP socket with the
peer's address and port. Only state ESTABLISHED counts: a socket that its owner has already closed
is listed with uid 0, and would turn any caller into root.
"""

import errno
import ipaddress
import socket
import struct

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
TCP_ESTABLISHED = 1
_NO_COOKIE = b"\xff" * 8
_HEADER = struct.Struct("=IHHII")


def owner_of_peer(peer: tuple[str, int], local: tuple[str, int]) -> int | None:
    """Return the uid that owns the socket *peer* of a TCP connection whose our end is *local*.

    Addresses are (host, port) as getpeername and getsockname give them. None: not a loopback
    connection of this host, already closed, or the kernel does not say.
    """
    try:
        source, target = ipaddress.ip_address(peer[0]), ipaddress.ip_address(local[0])
    except ValueError:
        return None
    if not (source.is_loopback and target.is_loopback) or source.version != target.version:
        return None
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    # The request describes the socket as its owner sees it: its source is our peer.
    identity = (
        struct.pack(">HH", peer[1], local[1])
        + source.packed.ljust(16, b"\0")
        + target.packed.ljust(16, b"\0")
        + struct.pack("=I", 0)
        + _NO_COOKIE
    )
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << TCP_ESTABLISHED) + identity
    request = _HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + body
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as link:
            link.settimeout(1.0)
            link.sendto(request, (0, 0))
            answer = link.recv(8192)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EPERM, errno.EACCES, errno.ETIMEDOUT):
            return None
        raise
    return _uid_in(answer)


def _uid_in(answer: bytes) -> int | None:
    if len(answer) < _HEADER.size:
        return None
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != SOCK_DIAG_BY_FAMILY:
        return None
    # inet_diag_msg: family, state, timer, retrans (4 bytes), id (48), expires, rqueue, wqueue, uid, inode.
    offset = _HEADER.size
    if answer[offset + 1] != TCP_ESTABLISHED:
        return None
    uid: int = struct.unpack_from("=I", answer, offset + 4 + 48 + 12)[0]
    return uid
