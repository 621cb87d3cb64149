"""Workers on other hosts that are cut off, crash, are revoked, or renew their certificates: one story each."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest

from hostler.jobs import JobSpec
from hostler.lifecycle import Outcome, State
from tests.cluster.real_cluster import processes_of, until
from tests.faults.invariants import Inspection, Truth
from tests.faults.programs import Plan
from tests.faults.site import HEARTBEAT_S, Site
from tests.faults.staging import connected, staged
from tests.faults.stream import Accepted
from tests.support.netlab import Lab
from worker_agent.joining import CREDENTIALS_FILE

LOST_AFTER_S = 1.5
WITHIN_S = 90.0  # when all that these hosts do shares one machine with much else

pytestmark = pytest.mark.timeout(240)  # eight programs start for each, on a machine that may be busy


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A coordinator on h1 and workers on h2 and h3, connected; afterwards nothing of them is left.

    Its parameter, where there is one, is settings.
    """
    with Lab(f"hp{uuid4().hex[:10]}", 3) as lab:
        made = Site(lab, **({"lost_after_s": 600.0} | getattr(request, "param", {})))
        async with staged(made, *made.parts, workers=2, within_s=WITHIN_S):
            yield made


async def begin(site: Site, plans: Sequence[Plan], worker: str = "") -> list[Accepted]:
    """Submit jobs, to a worker if one is named, and wait until all their programs run."""
    pins = {each.name: each.id for each in await site.client.workers()}
    specs = [_pinned(plan.spec(site.truth), pins.get(worker, "")) for plan in plans]
    jobs = []
    for plan, answer in zip(plans, await site.client.submit(specs), strict=True):
        assert isinstance(answer, str), answer
        jobs.append(Accepted(plan, answer))

    async def all_run() -> bool:
        return len(Truth.read(site.truth).starts) == len(jobs)

    await until(all_run, "the start of every program", WITHIN_S)
    return jobs


async def known_to_run(site: Site, jobs: Sequence[Accepted]) -> None:
    """Wait until the coordinator says so; the programs may have begun before that."""

    async def so() -> bool:
        return {(await site.client.get(job.id)).state for job in jobs} == {State.RUNNING}

    await until(so, "the coordinator's word that every job runs", WITHIN_S)


def _pinned(spec: JobSpec, worker: str) -> JobSpec:
    return JobSpec(work=spec.work, key=spec.key, retries=spec.retries, slots=spec.slots, worker=worker)


async def outcomes(site: Site, jobs: Sequence[Accepted]) -> list[Outcome]:
    """How the jobs ended, once all are over."""
    async for _ in site.client.wait([job.id for job in jobs], timeout_s=WITHIN_S):
        pass
    return [(await site.client.get(job.id)).outcome for job in jobs]


def plans(count: int, lines: int, pause_s: float) -> list[Plan]:
    """Like jobs, some with children."""
    return [
        Plan(
            number=number, key=f"k{number}", lines=lines, pause_s=pause_s, exit_code=number % 3, family=number % 2 == 0
        )
        for number in range(1, count + 1)
    ]


@pytest.mark.ci
async def test_jobs_end_while_their_worker_is_cut_off_and_it_is_known_afterwards(site: Site) -> None:
    """Their exit codes and the whole of their logs arrive when the link is back; nothing runs twice."""
    assert site.lab is not None
    jobs = await begin(site, plans(6, 20, 0.1))
    for host in ("h2", "h3"):
        site.lab.cut(host)
    over = {attempt.partition(".")[0] for attempt in Truth.read(site.truth).codes}  # before that, on a busy machine

    async def all_ended() -> bool:
        return len(Truth.read(site.truth).codes) == len(jobs)

    await until(all_ended, "the end of every program", WITHIN_S)
    states = {(await site.client.get(job.id)).state for job in jobs if job.id not in over}
    site.lab.heal()

    assert states and State.FINISHED not in states, "nobody can know of the ends yet"
    assert await outcomes(site, jobs) == [Outcome.SUCCEEDED if n % 3 == 0 else Outcome.FAILED for n in range(1, 7)]
    inspection = Inspection(site, jobs)
    await inspection.run()
    assert inspection.violations == []


@pytest.mark.parametrize("site", [{"lost_after_s": LOST_AFTER_S}], indirect=True)
async def test_what_was_given_up_is_ended_when_its_worker_returns(site: Site) -> None:
    """The job is lost, once and for all; its program runs on until its host is reached, and not longer."""
    assert site.lab is not None
    jobs = await begin(site, plans(2, 3000, 0.1), "w1")
    site.lab.cut("h2")

    assert await outcomes(site, jobs) == [Outcome.LOST] * 2
    found = [(await site.client.get(job.id)).end for job in jobs]
    assert {end.cause for end in found if end is not None} == {"worker_lost"}
    assert all("may still run" in end.evidence and not end.nothing_left for end in found if end is not None)
    assert processes_of({job.id for job in jobs}), "they run on"

    site.lab.heal()

    async def gone() -> bool:
        return not processes_of({job.id for job in jobs})

    await until(gone, "the end of what was given up", WITHIN_S)
    await connected(site, 2, WITHIN_S)
    assert await outcomes(site, jobs) == [Outcome.LOST] * 2
    assert Truth.read(site.truth).codes == {} and set(Truth.read(site.truth).starts.values()) == {1}


@pytest.mark.ci
async def test_a_host_dies_with_everything_on_it(site: Site) -> None:
    """Its jobs are lost when its agent is back, for their shims are dead; the other host's go on."""
    here, there = plans(6, 3000, 0.1)[:3], plans(6, 30, 0.1)[3:]
    dying = await begin(site, here, "w1")
    site.truth.rename(site.directory / "truth.w1")
    site.truth.touch()
    living = await begin(site, there, "w2")

    site.crash("h2")
    site.start("w1")

    assert await outcomes(site, dying) == [Outcome.LOST] * 3
    assert {(await site.client.get(job.id)).end.cause for job in dying} == {"supervisor_died"}  # type: ignore[union-attr]
    assert processes_of({job.id for job in dying}) == []
    await outcomes(site, living)
    inspection = Inspection(site, living)
    await inspection.run()
    assert inspection.violations == []


@pytest.mark.ci
async def test_one_way_is_no_way(site: Site) -> None:
    """A worker that is heard and does not hear, or the other way round, goes on when both ways are open again."""
    assert site.lab is not None
    jobs = await begin(site, plans(6, 30, 0.1))
    site.lab.drop("h1", "h2")
    site.lab.drop("h3", "h1")
    await connected(site, 0, WITHIN_S)
    site.lab.heal()

    await connected(site, 2, WITHIN_S)
    await outcomes(site, jobs)
    inspection = Inspection(site, jobs)
    await inspection.run()
    assert inspection.violations == []


@pytest.mark.ci
async def test_a_revoked_worker_is_refused_until_it_is_invited_again(site: Site) -> None:
    """Its jobs are lost, and run on until with a new invitation it comes as another worker: that has them ended."""
    jobs = await begin(site, plans(2, 3000, 0.1), "w1")
    await site.client.access.revoke_worker("w1")

    async def refused() -> bool:
        return "this worker was revoked" in (site.directory / "w1.log").read_text()

    await until(refused, "the refusal in its log", WITHIN_S)
    await asyncio.sleep(HEARTBEAT_S)  # and it does not come in later
    await connected(site, 1, WITHIN_S)
    assert await outcomes(site, jobs) == [Outcome.LOST] * 2
    assert processes_of({job.id for job in jobs}), "they run on"
    assert not any([(await site.client.get(job.id)).end.nothing_left for job in jobs])  # type: ignore[union-attr]
    site.kill("w1")
    (site.worker_dir("w1") / CREDENTIALS_FILE).unlink()
    site.start("w1")

    await connected(site, 2, WITHIN_S)

    async def gone() -> bool:
        return not processes_of({job.id for job in jobs})

    await until(gone, "the end of what was the other worker's", WITHIN_S)

    async def proved() -> bool:
        return all([(await site.client.get(job.id)).end.nothing_left for job in jobs])  # type: ignore[union-attr]

    await until(proved, "the word of its agent that nothing of them is left", WITHIN_S)
    assert await outcomes(site, jobs) == [Outcome.LOST] * 2
    assert sorted(worker.name for worker in await site.client.workers()) == ["w1", "w1", "w2"]


@pytest.mark.ci
@pytest.mark.parametrize("site", [{"worker_certificate_s": 4.0}], indirect=True)
async def test_certificates_are_renewed_under_load_and_disturb_no_job(site: Site) -> None:
    """Several times within the life of each job: no worker is missed, no line of output comes twice or is lost."""
    jobs = await begin(site, plans(6, 120, 0.1))
    found = await outcomes(site, jobs)

    assert found == [Outcome.SUCCEEDED if n % 3 == 0 else Outcome.FAILED for n in range(1, 7)]
    renewals = [(site.directory / f"{name}.log").read_text().count('"agent.renewed"') for name in ("w1", "w2")]
    assert min(renewals) >= 3, renewals
    inspection = Inspection(site, jobs)
    await inspection.run()
    assert inspection.violations == []
