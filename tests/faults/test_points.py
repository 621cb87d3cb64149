"""Parts die at named moments: each is a moment at which something is known to one side only."""

import asyncio
from dataclasses import replace

import pytest

from hostler.lifecycle import Outcome
from tests.cluster.real_cluster import until
from tests.faults.callers import Callers
from tests.faults.failing import (
    AGENT_POINTS,
    COORDINATOR_POINTS,
    GATEWAY_POINTS,
    LAUNCHER_POINTS,
    LOSING,
    SHIM_POINTS,
)
from tests.faults.invariants import Inspection
from tests.faults.patience import comes_true
from tests.faults.programs import Plan
from tests.faults.site import Site
from tests.faults.stream import Accepted, insist

# Points that a start of an agent leads to, and not a job.
AT_A_START = ("WorkerSeen", "after_recovery", "before_reconciling", "after_reconciling")
QUICK = (
    "shim.before_started",
    "shim.after_spawn",
    "shim.after_exit_record",
    "agent.after_order",
    "agent.before_report",
    "agent.after_collecting",
    "coordinator.after_commit_of_JobQueued",
    "coordinator.after_commit_of_Assigned",
    "coordinator.after_commit_of_Ended",
    "gateway.after_submit",
)
ALL = SHIM_POINTS + LAUNCHER_POINTS + AGENT_POINTS + COORDINATOR_POINTS + GATEWAY_POINTS
STOPPING = ("gateway.before_stop", "gateway.after_stop")  # points that a stop leads to


async def a_death_at(callers: Callers, point: str, number: int) -> Accepted:
    """Run a job whose way leads over a point while it is armed; whoever died is started again."""
    site = callers.site
    if point.startswith("launcher"):
        for shim in site.below_agents("shim-"):  # so that one has to be forked
            site.kill_shim(shim)
            shim.close()
    plan = Plan(number=number, key=f"key-{number}", lines=6, pause_s=0.1, outputs=number % 2 == 0)
    if "ollect" in point or "prepar" in point:
        plan = replace(plan, outputs=True)
    if point.endswith("Retried"):
        plan = replace(plan, failures=1, retries=1)
    if point.startswith("gateway"):
        plan = replace(plan, door="v1")
    if point in STOPPING:
        plan = replace(plan, lines=3000)
    (site.points / point).touch()

    async def keep_alive() -> None:
        while True:
            site.revive()
            await asyncio.sleep(0.05)

    keeping = asyncio.create_task(keep_alive())
    try:
        job = Accepted(plan, await insist(lambda: callers.submit(plan), "the submission"))
        if point in STOPPING:
            job.stop_asked = True
            await insist(lambda: callers.stop(plan, job.id), "the stop")
        if any(name in point for name in AT_A_START):
            site.kill("w1")
            site.start("w1")
        assert await comes_true(lambda: not (site.points / point).exists(), 60.0), f"nothing came to {point}"

        async def over() -> bool:
            return (await insist(lambda: site.client.get(job.id), "the look at the job")).end is not None

        await until(over, f"the end of the job that led to {point}")
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    return job


async def check(points: tuple[str, ...]) -> None:
    """Lead a job over each point, one after the other, and look at everything at the end."""
    site = Site(workers=("w1",))
    callers = Callers(site)
    try:
        for name in ("coordinator", "gateway", "w1"):
            site.start(name)
        jobs = [await a_death_at(callers, point, number) for number, point in enumerate(points, 1)]
        inspection = Inspection(site, jobs)
        await inspection.run()
        await callers.meet_workers()
        await inspection.agree(callers)
        outcomes = {point: (await site.client.get(job.id)).outcome for point, job in zip(points, jobs, strict=True)}
        await callers.close()
        await site.down()
        await inspection.after_the_end()
    finally:
        await callers.close()
        await site.down()
        site.clear()
    lost = {point for point, outcome in outcomes.items() if outcome is Outcome.LOST}
    assert inspection.violations == [], site.directory
    assert [name for name, *_ in site.fired()] == list(points)
    assert lost == set(LOSING) & set(points), "only what nobody can know is lost"
    assert {point for point, outcome in outcomes.items() if outcome is Outcome.STOPPED} == set(STOPPING) & set(points)
    assert {outcomes[point] for point in points if point not in (*lost, *STOPPING)} == {Outcome.SUCCEEDED}
    site.remove()


@pytest.mark.timeout(400)
async def test_a_death_at_a_moment_that_matters_costs_nothing_that_can_be_known() -> None:
    """Some of the moments; with `ci` all of them."""
    await check(QUICK)


@pytest.mark.ci
@pytest.mark.timeout(900)
async def test_a_death_at_any_named_moment_costs_nothing_that_can_be_known() -> None:
    """The program runs once, and its end and its log are true; only a shim's death can make an end unknown."""
    await check(ALL)
