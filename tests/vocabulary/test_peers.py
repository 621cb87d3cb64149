"""Whose process is at the other end of a loopback connection."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hostler.peers import owner_of_peer

NOBODY = 65534


@contextmanager
def connection_from(uid: int, family: socket.AddressFamily) -> Iterator[socket.socket]:
    """Our end of a connection whose other end belongs to a process of *uid*, which holds it until we are done."""
    host = "127.0.0.1" if family is socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(10)
        script = f"exec 3<>/dev/tcp/{host}/{listener.getsockname()[1]} && read -u 3"
        # Not `user=`: next to gRPC that forks in a way that loses some of the children.
        command = ["setpriv", f"--reuid={uid}", "/bin/bash", "-c", script]
        with subprocess.Popen(command, cwd="/") as child:
            try:
                ours, _ = listener.accept()
                with ours:
                    yield ours
            finally:
                child.kill()


FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_user_is_told_from_us(family: socket.AddressFamily) -> None:
    """By the kernel's own table, whatever the peer says."""
    with connection_from(NOBODY, family) as ours:
        assert owner_of_peer(ours.getpeername(), ours.getsockname()) == NOBODY


@pytest.mark.parametrize("family", FAMILIES)
def test_our_own_processes_are_known(family: socket.AddressFamily) -> None:
    """The same way."""
    with connection_from(os.getuid(), family) as ours:
        assert owner_of_peer(ours.getpeername(), ours.getsockname()) == os.getuid()


def test_a_peer_that_has_closed_is_nobody() -> None:
    """A closed socket is listed with uid 0: taken at its word, anybody would be root."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            peer.close()
            assert owner_of_peer(ours.getpeername(), ours.getsockname()) is None


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (("127.0.0.1", 1), ("127.0.0.1", 1)),
        (("192.0.2.1", 1), ("127.0.0.1", 1)),
        (("127.0.0.1", 1), ("192.0.2.1", 1)),
        (("::1", 1), ("127.0.0.1", 1)),
        (("", 1), ("127.0.0.1", 1)),
        (("unix", 1), ("127.0.0.1", 1)),
    ],
)
def test_what_is_no_loopback_connection_is_nobody_s(peer: tuple[str, int], local: tuple[str, int]) -> None:
    """Another host's user ids mean nothing here."""
    assert owner_of_peer(peer, local) is None
