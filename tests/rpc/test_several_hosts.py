"""A coordinator that other hosts reach: TLS of its own authority, keys of clients, certificates of workers."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from structlog.testing import capture_logs

from coordinator.authority import Authority
from hostler.client import Client, open_channel
from hostler.clock import SystemClock
from hostler.errors import FileNotFound, HostlerError, InvalidRequest, PermissionDenied, Unauthenticated, Unavailable
from hostler.jobs import File
from hostler.keys import INVITATION_PREFIX, RANDOM_BYTES, make_key
from hostler.settings import load
from hostler.tls import Access, Pair, Target, access_of, files_of, target_of
from hostler.v1 import workers_pb2
from tests.support.builders import a_spec
from tests.support.fake_worker import FakeWorker
from tests.support.other_hosts import Site, ask_to_join, join, key_file, pinned, refusals, served
from tests.support.waiting import eventually
from worker_agent.joining import make_request


@pytest.fixture
async def site(data_dir: Path) -> AsyncIterator[Site]:
    """One with nothing set but where it listens."""
    async with served(data_dir) as made:
        yield made


# The authority, and keys


async def test_the_authority_is_made_once_and_nobody_else_can_read_it(data_dir: Path) -> None:
    """Its fingerprint is the same after a restart."""
    async with served(data_dir) as site:
        before = (await site.invite()).fingerprint
    modes = {path.name: path.stat().st_mode & 0o777 for path in (data_dir / "coordinator" / "ca").iterdir()}
    async with served(data_dir) as site:
        after = (await site.invite()).fingerprint

    assert before == after
    assert modes == {"ca.key": 0o600, "ca.pem": 0o600}


async def test_an_invitation_names_an_address_that_can_be_called(data_dir: Path) -> None:
    """One of IPv6 in brackets: without them its last part is no port."""
    async with served(data_dir, tls_names=("2001:db8::7",)) as site:
        address = (await site.invite()).address

    assert address == f"[2001:db8::7]:{site.address.rpartition(':')[2]}"


async def test_a_key_and_a_fingerprint_are_all_that_a_client_needs(site: Site) -> None:
    """Everything works as on the unix socket, streams included."""
    fingerprint = (await site.invite()).fingerprint
    settings = load(
        data_dir=site.data_dir / "far", key_file=await key_file(site, "developer"), ca_fingerprint=fingerprint
    )
    target = await asyncio.to_thread(target_of, settings, site.address)
    async with Client(target) as client:
        job = await client.submit_one(a_spec())
        await client.stop(job)

        assert [progress.id async for progress in client.wait([job], timeout_s=5)] == [job]


@pytest.mark.parametrize("key", ["", "hst_0123456789ab_" + "x" * 43, "anything"])
async def test_without_a_good_key_nothing_opens(site: Site, key: str) -> None:
    """It is told at once, and that is all."""
    authority = await pinned(site, (await site.invite()).fingerprint)
    async with Client(Target(site.address, Access(ca=authority, key=key))) as client:
        with pytest.raises(Unauthenticated):
            await client.describe()


async def test_a_caller_without_tls_is_not_heard(site: Site) -> None:
    """Also one of the same user on this host, for which the kernel would vouch elsewhere."""
    async with Client(site.address) as client:
        with pytest.raises(Unavailable):
            await client.describe(timeout_s=5)


async def test_a_coordinator_of_another_authority_is_not_trusted(site: Site, tmp_path: Path) -> None:
    """The key is not sent to it, whether a file or a fingerprint says whom to trust."""
    other = Authority.open(tmp_path / "ca", SystemClock().wall_us())
    async with Client(Target(site.address, Access(ca=other.pem, key="x" * 40))) as client:
        with pytest.raises(Unavailable):
            await client.describe(timeout_s=5)
    with pytest.raises(InvalidRequest, match="another authority"):
        await pinned(site, other.fingerprint)


async def test_certificate_files_are_shown_instead(data_dir: Path) -> None:
    """Workers still get theirs of the cluster's own authority, and what is pinned is the last of the file."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    (data_dir / "cert").write_bytes(issued.cert_chain_pems[0].bytes() + authority.cert_pem.bytes())
    (data_dir / "key").write_bytes(issued.private_key_pem.bytes())
    (data_dir / "key").chmod(0o600)
    async with served(data_dir, tls_certificate=str(data_dir / "cert"), tls_private_key=str(data_dir / "key")) as site:
        joined = await join(site)
        worker = FakeWorker(joined.target, name="w")
        await worker.connect()
        await worker.close()

        assert joined.target.access is not None and joined.target.access.ca == authority.cert_pem.bytes()
        assert worker.id == joined.id


# Joining


async def test_a_worker_joins_and_speaks_as_who_it_is(site: Site) -> None:
    """Its id is the certificate's, whether it says it or not."""
    joined = await join(site)
    worker = FakeWorker(joined.target, name="w")
    await worker.connect()

    assert worker.id == joined.id
    assert [each.id for each in await site.local.workers()] == [joined.id]
    await worker.close()


async def test_of_two_joins_with_one_use_one_wins(site: Site) -> None:
    """However close they come; and a third is refused as well."""
    invitation = await site.invite()
    tries = [ask_to_join(site, invitation, "w") for _ in range(2)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    third = await asyncio.gather(ask_to_join(site, invitation, "w"), return_exceptions=True)

    assert sorted(type(result).__name__ for result in results) == ["NewCertificate", "Unauthenticated"]
    assert isinstance(third[0], Unauthenticated) and "has been used" in third[0].message


async def test_an_invitation_is_good_for_as_many_as_it_says(site: Site) -> None:
    """Each gets an id of its own."""
    invitation = await site.invite(uses=3)

    assert len({(await ask_to_join(site, invitation, "w")).worker for _ in range(3)}) == 3
    with pytest.raises(Unauthenticated, match="has been used"):
        await ask_to_join(site, invitation, "w")


async def test_an_invitation_that_is_no_good_lets_nobody_in(site: Site) -> None:
    """Of each case the text says what to do, and a line is written."""
    for_others = await site.invite("gpu-*")
    expired = await site.invite(expires_in_s=1.0)
    unknown = replace(expired, token=make_key(os.urandom(RANDOM_BYTES), INVITATION_PREFIX).text)
    wrong = replace(for_others, token=for_others.token[:-43] + "x" * 43)
    with capture_logs() as lines:
        with pytest.raises(PermissionDenied, match=r"workers named gpu-\*, not 'w'"):
            await ask_to_join(site, for_others, "w")
        for each in (unknown, wrong):
            with pytest.raises(Unauthenticated, match="not known here"):
                await ask_to_join(site, each, "w")
        with pytest.raises(InvalidRequest, match="name"):
            await ask_to_join(site, for_others, "../w")
        with pytest.raises(InvalidRequest, match="certificate request"):
            await ask_to_join(site, for_others, "gpu-1", b"nonsense")
        await asyncio.sleep(1.1)  # the shortest life an invitation has
        with pytest.raises(Unauthenticated, match="has expired"):
            await ask_to_join(site, expired, "w")

    assert refusals(lines) == ["worker.join"] * 6
    assert (await ask_to_join(site, for_others, "gpu-1")).worker, "it was not used up by those it does not let in"


async def test_an_invitation_counts_after_a_restart(data_dir: Path) -> None:
    """So does what was used of it, and the certificate that was given for it."""
    async with served(data_dir) as site:
        invitation = await site.invite(uses=2)
        joined = await join(site, "w", invitation)
        port = site.workers_address.rpartition(":")[2]
    async with served(data_dir, workers_bind=f"127.0.0.1:{port}") as site:
        await ask_to_join(site, invitation, "w")
        with pytest.raises(Unauthenticated, match="has been used"):
            await ask_to_join(site, invitation, "w")
        async with Client(joined.target) as client:
            assert (await client.access.renew(make_request()[1])).worker == joined.id


async def test_a_coordinator_that_only_its_host_reaches_invites_nobody(data_dir: Path) -> None:
    """It says how it can be reached."""
    async with served(data_dir, workers_bind="") as site:
        with pytest.raises(InvalidRequest, match="--grpc ADDRESS:PORT"):
            await site.invite()

    assert not (data_dir / "coordinator" / "ca").exists()


# What a certificate is not good for


async def test_nobody_speaks_for_another_worker(site: Site) -> None:
    """Neither by its id nor by its name; the other one's stream stays up."""
    good, bad = await join(site, "good"), await join(site, "bad")
    worker, impostor = FakeWorker(good.target, name="good"), FakeWorker(bad.target, name="bad")
    await worker.connect()
    with capture_logs() as lines:
        claims: list[dict[str, Any]] = [{"worker": good.id}, {"name": "good"}, {"worker": "../x"}]
        for claim in claims:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await impostor.connect(**claim)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    assert refusals(lines) == ["worker.hello"] * 3
    assert [(each.id, each.state.value) for each in await site.local.workers()] == [(good.id, "connected")]
    await worker.close()
    await impostor.close()


async def test_a_certificate_opens_what_workers_need_and_nothing_else(site: Site) -> None:
    """It is no key: jobs, workers and keys are not for it."""
    joined = await join(site)
    async with Client(joined.target) as client:
        for call in (client.workers(), client.submit_one(a_spec()), client.access.list_keys(), client.access.invite()):
            with pytest.raises(PermissionDenied):
                await call


async def test_a_worker_reads_the_files_of_jobs_that_it_has_and_no_others(site: Site) -> None:
    """It knows the digest of another one, and it is not stored for it; nor is that of a job that is over."""
    joined = await join(site)
    worker = FakeWorker(joined.target, name="w")
    await worker.connect()
    needed, other = [await site.local.files.put_bytes(content) for content in (b"needed", b"other")]
    spec = a_spec("true", worker=joined.id)
    file = File(path="inputs/a", digest=needed.digest, size_bytes=needed.size_bytes)
    job = await site.local.submit_one(replace(spec, work=replace(spec.work, files=(file,), workspace=True)))
    (key,) = await worker.takes()

    async with Client(joined.target) as client:
        async with client.files.read(needed.digest) as reading:
            assert b"".join([piece async for piece in reading.pieces]) == b"needed"
        with pytest.raises(FileNotFound):
            async with client.files.read(other.digest):
                pass
        await worker.report_ended(key)
        await site.local.wait_one(job)
        with pytest.raises(FileNotFound):
            async with client.files.read(needed.digest):
                pass
    await worker.close()


async def test_a_key_does_not_make_a_worker(site: Site) -> None:
    """Not even one with every scope."""
    key = (await site.local.access.create_key("k", scopes=["admin"])).text
    authority = await pinned(site, (await site.invite()).fingerprint)
    worker = FakeWorker(Target(site.address, Access(ca=authority, key=key)), name="w")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.connect()
    await worker.close()

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert await site.local.workers() == []


async def test_the_port_of_workers_is_closed_to_who_has_no_certificate_of_this_cluster(
    site: Site, tmp_path: Path
) -> None:
    """None at all, one of another cluster with the same worker's id, or the coordinator's own."""
    joined = await join(site)
    assert joined.target.access is not None
    now_us = SystemClock().wall_us()
    key, request = make_request()
    other = Authority.open(tmp_path / "ca", now_us)
    foreign = Pair(certificate=other.sign_worker(request, joined.id, now_us, 3600.0).certificate, private_key=key)
    own = Authority.open(site.data_dir / "coordinator" / "ca", now_us)
    for_serving = own.sign_server(["127.0.0.1"], now_us)
    over = Pair(certificate=own.sign_worker(request, joined.id, now_us - 10**12, 3600.0).certificate, private_key=key)
    for pair in (None, foreign, for_serving, over):
        async with Client(Target(joined.target.address, replace(joined.target.access, pair=pair))) as client:
            with pytest.raises(Unavailable):
                await client.access.renew(request)
    async with Client(joined.target) as client:
        assert (await client.access.renew(request)).worker == joined.id


async def test_a_worker_certificate_is_not_taken_for_a_coordinators(site: Site) -> None:
    """Whoever has one cannot stand between: callers ask for one that is for serving."""
    joined = await join(site)
    assert joined.target.access is not None
    heard: list[str] = []

    class Impostor(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> None:
            heard.append(details.method)

    impostor = grpc.aio.server()
    impostor.add_generic_rpc_handlers((Impostor(),))
    credentials = grpc.ssl_server_credentials([(joined.pair.private_key, joined.pair.certificate)])
    port = impostor.add_secure_port("127.0.0.1:0", credentials)
    await impostor.start()
    try:
        # As a client with its key, as one who is to join, and as an agent, which shows a certificate.
        for access in (
            replace(joined.target.access, pair=None, key="hst_0123456789ab_" + "x" * 43),
            replace(joined.target.access, pair=None),
            joined.target.access,
        ):
            target = Target(f"127.0.0.1:{port}", access)
            async with open_channel(target) as channel:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await channel.channel_ready()
            async with Client(target) as client:
                with pytest.raises(Unavailable):
                    await client.access.renew(make_request()[1])
    finally:
        await impostor.stop(None)
    assert heard == []


async def test_a_certificate_that_the_authority_signed_and_nobody_listed_is_not_heard(site: Site) -> None:
    """As after a backup was restored."""
    joined = await join(site)
    now_us = SystemClock().wall_us()
    key, request = make_request()
    own = Authority.open(site.data_dir / "coordinator" / "ca", now_us)
    unlisted = Pair(certificate=own.sign_worker(request, joined.id, now_us, 3600.0).certificate, private_key=key)
    assert joined.target.access is not None
    with capture_logs() as lines:
        async with Client(Target(joined.target.address, replace(joined.target.access, pair=unlisted))) as client:
            with pytest.raises(Unauthenticated, match="not known here any more"):
                await client.access.renew(request)

    assert refusals(lines) == ["certificate"]


# Revocation, renewal, expiry


async def test_a_revoked_worker_is_cut_off_at_once_and_not_heard_again(site: Site) -> None:
    """By its name; with every certificate it has; a new invitation makes it another worker."""
    joined = await join(site)
    worker = FakeWorker(joined.target, name="w")
    await worker.connect()
    async with Client(joined.target) as client:
        await client.access.renew(make_request()[1])

    assert await site.local.access.revoke_worker("w") == 2
    await eventually(worker._control.done, "the end of its stream")
    with capture_logs() as lines:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await worker.connect()
        async with Client(joined.target) as client:
            with pytest.raises(Unauthenticated, match="was revoked"):
                await client.access.renew(make_request()[1])
    await worker.close()

    assert "was revoked" in (refused.value.details() or "")
    assert refusals(lines) == ["certificate"] * 2
    assert await site.local.access.revoke_worker("w") == 0
    assert (await join(site)).id != joined.id


async def test_a_worker_that_was_never_there_is_revoked_too(site: Site) -> None:
    """An invitation was used by somebody who should not have."""
    joined = await join(site, "stranger")

    assert await site.local.access.revoke_worker("stranger") == 1
    async with Client(joined.target) as client:
        with pytest.raises(Unauthenticated, match="was revoked"):
            await client.access.renew(make_request()[1])
    with pytest.raises(HostlerError, match="no worker"):
        await site.local.access.revoke_worker("nobody")


async def test_a_stream_ends_when_its_certificate_has_expired(data_dir: Path) -> None:
    """Though TLS looks at it only once; what it says from then on is not heard."""
    async with served(data_dir, worker_certificate_s=2.0, heartbeat_s=0.2) as site:
        joined = await join(site)
        worker = FakeWorker(joined.target, name="w")
        with capture_logs() as lines:
            await worker.connect()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
                for _ in range(100):
                    await worker.write(workers_pb2.WorkerMessage(sent_at_ns=1))
                    await asyncio.sleep(0.1)
        await worker.close()

        assert refusals(lines)[:1] == ["certificate"]


# Settings


def test_a_secret_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """And the text says how to mend it."""
    for name in ("key", "cert"):
        (tmp_path / name).write_bytes(trustme.CA().cert_pem.bytes())
    with pytest.raises(InvalidRequest, match="chmod 600"):
        files_of(load(data_dir=tmp_path, tls_certificate=str(tmp_path / "cert"), tls_private_key=str(tmp_path / "key")))
    with pytest.raises(InvalidRequest, match="chmod 600"):
        access_of(load(data_dir=tmp_path, key_file=str(tmp_path / "key"), tls_ca=str(tmp_path / "cert")), "10.1.2.3:70")


def test_files_that_go_together_are_all_needed(tmp_path: Path) -> None:
    """Half a configuration is none."""
    with pytest.raises(InvalidRequest, match="go together"):
        files_of(load(data_dir=tmp_path, tls_certificate="x"))


@pytest.mark.parametrize("address", ["unix:/x", "127.0.0.1:7", "[::1]:7"])
def test_on_one_host_nothing_is_needed(tmp_path: Path, address: str) -> None:
    """There the kernel says who calls."""
    assert access_of(load(data_dir=tmp_path), address) is None


def test_another_host_without_settings_says_what_to_set(tmp_path: Path) -> None:
    """Not a failed handshake later."""
    with pytest.raises(InvalidRequest, match="key_file"):
        access_of(load(data_dir=tmp_path), "10.1.2.3:7070")
    (tmp_path / "key").write_text(make_key(os.urandom(RANDOM_BYTES)).text)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(InvalidRequest, match="ca_fingerprint"):
        access_of(load(data_dir=tmp_path, key_file=str(tmp_path / "key")), "10.1.2.3:7070")
