"""A coordinator that serves other hosts: TLS, and a key that all programs of the cluster share."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from coordinator.app import Coordinator
from hostler.client import Client
from hostler.errors import HostlerError, InvalidRequest, Unauthenticated, Unavailable
from hostler.settings import Settings, load
from hostler.tls import Access, Target, access_of, identity_of
from tests.support.builders import a_spec

KEY = "k" * 40


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificate."""
    return trustme.CA()


@pytest.fixture
def secured(data_dir: Path, authority: trustme.CA) -> Settings:
    """The settings of a coordinator with TLS files and a key."""
    issued = authority.issue_cert("127.0.0.1")
    files = {"tls_certificate": issued.cert_chain_pems[0], "tls_private_key": issued.private_key_pem}
    for name, pem in files.items():
        pem.write_to_path(str(data_dir / name))
    (data_dir / "cluster_key_file").write_text(KEY + "\n")
    for name in ("tls_private_key", "cluster_key_file"):
        (data_dir / name).chmod(0o600)
    authority.cert_pem.write_to_path(str(data_dir / "tls_ca"))
    paths: dict[str, Any] = {name: str(data_dir / name) for name in (*files, "cluster_key_file", "tls_ca")}
    return load(data_dir=data_dir, grpc="127.0.0.1:0", disk_reserve_bytes=0, sample_workloads=False, **paths)


@pytest.fixture
async def served(secured: Settings) -> AsyncIterator[str]:
    """The address of such a coordinator."""
    async with Coordinator(secured) as running:
        yield running.grpc_address


def access(authority: trustme.CA, key: str = KEY) -> Access:
    """What a program on another host is given."""
    return Access(ca=authority.cert_pem.bytes(), key=key)


async def test_the_key_and_the_authority_open_it(served: str, authority: trustme.CA) -> None:
    """Everything works as on the unix socket, streams included."""
    async with Client(Target(served, access(authority))) as client:
        job = await client.submit_one(a_spec())
        await client.stop(job)

        assert [progress.id async for progress in client.wait([job], timeout_s=5)] == [job]


async def test_another_key_opens_nothing(served: str, authority: trustme.CA) -> None:
    """It is told at once, and that is all."""
    async with Client(Target(served, access(authority, "x" * 40))) as client:
        with pytest.raises(Unauthenticated):
            await client.describe()


async def test_a_caller_without_tls_is_not_heard(served: str) -> None:
    """Also one of the same user on this host."""
    async with Client(served) as client:
        with pytest.raises(Unavailable):
            await client.describe(timeout_s=5)


async def test_a_coordinator_of_another_authority_is_not_trusted(served: str) -> None:
    """The key is not sent to it."""
    async with Client(Target(served, access(trustme.CA()))) as client:
        with pytest.raises(HostlerError):
            await client.describe(timeout_s=5)


@pytest.mark.parametrize("name", ["tls_private_key", "cluster_key_file"])
def test_a_secret_file_that_others_can_read_is_refused(secured: Settings, data_dir: Path, name: str) -> None:
    """And the text says how to mend it."""
    (data_dir / name).chmod(0o640)

    with pytest.raises(InvalidRequest, match="chmod 600"):
        identity_of(secured)


@pytest.mark.parametrize("key", ["", "short", "a key with blanks that is long enough anyway", "ü" * 40])
def test_a_weak_key_is_refused(secured: Settings, data_dir: Path, key: str) -> None:
    """And the text says how to make a better one."""
    (data_dir / "cluster_key_file").write_text(key)

    with pytest.raises(InvalidRequest, match="openssl rand"):
        identity_of(secured)


def test_files_that_go_together_are_all_needed(data_dir: Path, secured: Settings) -> None:
    """Half a configuration is none."""
    half = load(data_dir=data_dir, tls_certificate=secured.tls_certificate)

    with pytest.raises(InvalidRequest, match="go together"):
        identity_of(half)


@pytest.mark.parametrize(
    ("address", "needed"), [("unix:/x", False), ("127.0.0.1:7", False), ("[::1]:7", False), ("10.1.2.3:7070", True)]
)
def test_only_another_host_needs_access(secured: Settings, address: str, needed: bool) -> None:
    """On one host the kernel says who calls."""
    assert (access_of(secured, address) is not None) == needed


def test_another_host_without_files_says_what_to_set(data_dir: Path) -> None:
    """Not a failed handshake later."""
    with pytest.raises(InvalidRequest, match="tls_ca and cluster_key_file"):
        access_of(load(data_dir=data_dir), "10.1.2.3:7070")
