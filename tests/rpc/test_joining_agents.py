"""What an agent does to become a worker of a coordinator on another host, and to stay it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hostler.client import Client
from hostler.clock import SystemClock
from hostler.errors import InvalidRequest
from hostler.frames import OUT, encode
from hostler.jobs import End, Work
from hostler.lifecycle import Outcome, State
from hostler.settings import load
from hostler.tls import Target
from hostler.v1 import workers_pb2
from hostler.workers import WorkerState
from tests.support.builders import a_spec
from tests.support.fake_worker import FakeWorker
from tests.support.other_hosts import Site, ask_to_join, join, refusals, served
from tests.support.waiting import eventually
from worker_agent.joining import (
    CREDENTIALS_FILE,
    Credentials,
    Renewal,
    join_or_resume,
    make_request,
    read_credentials,
)


@pytest.fixture
async def site(data_dir: Path) -> AsyncIterator[Site]:
    """One with nothing set but where it listens."""
    async with served(data_dir) as made:
        yield made


async def agent_joins(site: Site, directory: Path, **given: Any) -> Credentials:
    """As an agent does at its start."""
    fingerprint = (await site.invite()).fingerprint
    flags: dict[str, Any] = {"ca_fingerprint": fingerprint} | given
    settings = load(data_dir=directory, **flags)
    return await join_or_resume(settings, site.address, directory, "w", SystemClock())


async def test_an_agent_that_has_joined_stays_who_it_is(site: Site, tmp_path: Path) -> None:
    """Without a token, with the one it has used, and with a new one, which stays unused."""
    token, other = (await site.invite()).token, await site.invite()
    first = await agent_joins(site, tmp_path, join=token)
    again = [await agent_joins(site, tmp_path, join=each) for each in ("", token, other.token)]

    assert {each.worker for each in again} == {first.worker}
    assert (tmp_path / CREDENTIALS_FILE).stat().st_mode & 0o777 == 0o600
    assert await ask_to_join(site, other, "w")


async def test_an_agent_that_was_revoked_joins_with_a_new_invitation(site: Site, tmp_path: Path) -> None:
    """And as another worker; the old invitation is refused and says so."""
    token = (await site.invite()).token
    first = await agent_joins(site, tmp_path, join=token)
    await site.local.access.revoke_worker(first.worker)
    with pytest.raises(InvalidRequest, match="has been used"):
        await agent_joins(site, tmp_path, join=token)

    assert (await agent_joins(site, tmp_path, join=(await site.invite()).token)).worker != first.worker


async def test_an_agent_says_what_it_needs_to_join(site: Site, tmp_path: Path) -> None:
    """An invitation, and whom to trust; nothing is sent to anybody else."""
    token = (await site.invite()).token
    with pytest.raises(InvalidRequest, match="must join with an invitation"):
        await agent_joins(site, tmp_path)
    with pytest.raises(InvalidRequest, match="--ca-fingerprint"):
        await agent_joins(site, tmp_path, join=token, ca_fingerprint="")
    with pytest.raises(InvalidRequest, match="another authority"):
        await agent_joins(site, tmp_path, join=token, ca_fingerprint="00" * 32)

    assert (await agent_joins(site, tmp_path, join=token)).worker


async def test_an_agent_on_the_data_directory_of_another_is_told_whose_it_is(site: Site, tmp_path: Path) -> None:
    """It has perhaps only another name than it was meant to have."""
    invitation = await site.invite()

    async def starts(name: str, join: str = "") -> Credentials:
        directory = tmp_path / "workers" / name
        directory.mkdir(parents=True, exist_ok=True)
        settings = load(data_dir=tmp_path, ca_fingerprint=invitation.fingerprint, join=join)
        return await join_or_resume(settings, site.address, directory, name, SystemClock())

    first = await starts("wb", invitation.token)
    with pytest.raises(InvalidRequest, match=f"No worker wz has joined from {tmp_path}, but wb: --name wb starts that"):
        await starts("wz")

    assert (await starts("wb")).worker == first.worker


async def test_an_agent_renews_at_half_of_its_certificates_life(data_dir: Path, tmp_path: Path) -> None:
    """And is told to reach the coordinator with the new one; a restart finds it."""
    async with served(data_dir, worker_certificate_s=2.0) as site:
        held = await agent_joins(site, tmp_path, join=(await site.invite()).token)
        moved: list[Target] = []
        renewing = asyncio.create_task(Renewal(held, tmp_path, SystemClock(), moved.append).run())
        try:
            await eventually(lambda: len(moved) >= 2, "two renewals")
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
        kept = read_credentials(tmp_path)

        assert kept is not None and kept.target == moved[-1] != moved[0]
        assert kept.worker == held.worker and kept.pair.private_key != held.pair.private_key
        async with Client(moved[-1]) as client:
            assert await client.access.renew(make_request()[1])


async def test_a_worker_adds_nothing_to_the_log_of_anothers_attempt(site: Site) -> None:
    """Nor to what is said of it: its report changes nothing."""
    good, bad = await join(site, "good"), await join(site, "bad")
    worker, other = FakeWorker(good.target, name="good"), FakeWorker(bad.target, name="bad")
    await worker.connect()
    job = await site.local.submit_one(a_spec())
    (key,) = await worker.takes()
    await other.connect()
    await worker.report_started(key)
    with capture_logs() as lines:
        await other.open_push()
        await other.push(key, 0, b"")
        await other.report_ended(key)
        await eventually(lambda: refusals(lines), "the line in the log")
    await worker.report_ended(key, exit_code=7)
    async for progress in site.local.wait([job], timeout_s=10):
        assert progress.exit_code == 7
    await worker.close()
    await other.close()

    assert refusals(lines) == ["worker.log"]


async def test_a_worker_that_was_revoked_and_joins_again_says_how_its_lost_jobs_ended(data_dir: Path) -> None:
    """They are lost as it is revoked, also those that are waited for without end; a restart forgets nothing."""
    async with served(data_dir) as site:
        first = await join(site)
        worker = FakeWorker(first.target, name="w")
        await worker.connect()
        job = await site.local.submit_one(replace(a_spec(), lost_after_s=-1.0))
        (key,) = await worker.takes()
        await worker.report_started(key)
        assert await site.local.access.revoke_worker("w") == 1
        lost = await is_lost(site.local, job)
        await worker.close()
    assert "was revoked" in lost.evidence and not lost.nothing_left

    async with served(data_dir) as site:
        again = await join(site)
        worker = FakeWorker(again.target, name="w")
        welcome = await worker.connect([(key, workers_pb2.HELD_STATE_RUNNING)])
        assert [verdict.kind for verdict in welcome.verdicts] == [workers_pb2.VERDICT_KIND_KILL]
        await worker.report_ended(key, cause="stop")
        await eventually(lambda: key in worker.acknowledged, "the acknowledgement")
        proved = await is_lost(site.local, job)
        states = {each.id: each.state for each in await site.local.workers()}
        await worker.close()

    assert "was revoked" in proved.evidence and proved.nothing_left
    assert states == {first.id: WorkerState.REVOKED, again.id: WorkerState.CONNECTED}


async def test_logs_that_a_revoked_worker_has_left_do_not_end_the_stream_of_the_one_it_joins_as(site: Site) -> None:
    """They are not taken any more: its agent is told to forget them, and goes on."""
    first = await join(site)
    worker = FakeWorker(first.target, name="w")
    await worker.connect()
    job = await site.local.submit_one(replace(a_spec(), work=Work(argv=("true",), loss_policy="stop")))
    (key,) = await worker.takes()
    await worker.report_started(key)
    await site.local.access.revoke_worker("w")
    await worker.close()
    again = FakeWorker((await join(site)).target, name="w")
    await again.connect([(key, workers_pb2.HELD_STATE_RUNNING)])
    await again.open_push()
    await again.push(key, 0, encode(OUT, b"one\n", 1))

    mark = await again.told()
    await again.close()

    assert mark.forget and (await site.local.get(job)).state is State.RUNNING


async def is_lost(client: Client, job: str) -> End:
    """The end of a job that is lost by now, or in a moment."""
    async for progress in client.wait([job], timeout_s=10):
        assert progress.outcome is Outcome.LOST
    end = (await client.get(job)).end
    assert end is not None and end.cause == "worker_lost"
    return end
