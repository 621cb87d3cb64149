"""Chains through real processes: each result goes on to the next stage, nothing runs twice, every end is told."""

import asyncio
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from hostler.errors import HostlerError
from hostler.jobs import Job, JobSpec, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.stages import end_of_stage
from hostler.workloads import ResultFrom, Stdin, Workload
from tests.cluster.real_cluster import RealCluster, processes_of, until

SITE = {"site": "b"}  # what only the second worker has
# Takes any JSON in one line, notes in a file that it ran, and puts the JSON into a list with its own name.
STEP = 'read -r given; echo "$HOSTLER_ATTEMPT" >>{truth}; {between}\nprintf \'[%s, "{name}"]\' "$given"'


def process(name: str, script: str, **changes: Any) -> Workload:
    """A process: JSON on standard input, JSON on standard output."""
    given: dict[str, Any] = {"argv": ("sh", "-c", script), "stdin": Stdin.PARAMS, "result": ResultFrom.STDOUT}
    return Workload(name=name, **(given | changes))


def step(cluster: RealCluster, name: str, between: str = "", **changes: Any) -> Workload:
    """The process above; *between* is what it does before it prints."""
    script = STEP.format(truth=cluster.directory / "truth", name=name, between=between)
    return process(name, script, grace_s=1.0, **changes)


def chain(*names: str, params: str = "1", **changes: Any) -> JobSpec:
    """A job of these stages."""
    return JobSpec(work=Work(), stages=tuple(Stage(workload=name) for name in names), params=params, **changes)


async def start(cluster: RealCluster, *workloads: Workload, gateway: bool = False) -> None:
    """Two workers, the second with a label of its own, and these workloads."""
    cluster.start("coordinator")
    cluster.start("w1", slots=4)
    cluster.start("w2", slots=4, labels=SITE)
    if gateway:
        cluster.start("gateway")
    await cluster.connected(2)
    if workloads:
        await cluster.client.workloads.apply(workloads)
    if gateway:
        await cluster.gateway_up()


async def ended(cluster: RealCluster, job: str, within_s: float = 40.0) -> Job:
    """A job once it is over, wherever the coordinator was meanwhile."""

    async def over() -> Job | None:
        try:
            found = await cluster.client.get(job)
        except HostlerError:
            return None
        return found if found.state is State.FINISHED else None

    found: Job = await until(over, f"the end of {job}", within_s)
    return found


def results(job: Job) -> list[Any]:
    """What each stage that ended has left, as JSON."""
    ends = [end_of_stage(job, stage) for stage in range(len(job.spec.stages) or 1)]
    return [json.loads(end.result) for end in ends if end is not None and end.result]


def starts(cluster: RealCluster) -> list[str]:
    """What the programs themselves wrote down: JOB.STAGE, one line for each start.

    The attempt is left out: one that was sent ahead and taken back never ran, and has a number all the same.
    """
    truth: Path = cluster.directory / "truth"
    return sorted(line.rpartition(".")[0] for line in truth.read_text().split()) if truth.exists() else []


async def in_stage(cluster: RealCluster, job: str, stage: int) -> None:
    """Wait until a stage of a job runs."""

    async def runs() -> bool:
        found = await cluster.client.get(job)
        return found.stage == stage and found.state is State.RUNNING

    await until(runs, f"the start of stage {stage}")


async def test_each_stage_gets_the_result_of_the_one_before(cluster: RealCluster) -> None:
    """Chains of one, two and five stages, over two workers."""
    here, there = step(cluster, "here"), step(cluster, "there", labels=SITE)
    await start(cluster, here, there)
    second = await cluster.worker_id("w2")

    names = [("here",), ("here", "there"), ("here", "there", "here", "there", "there")]
    one, two, five = await cluster.client.submit([chain(*each, params='{"n": 1}') for each in names])
    assert isinstance(one, str) and isinstance(two, str) and isinstance(five, str)

    first = [{"n": 1}, "here"]
    assert results(await ended(cluster, one)) == [first]
    assert results(await ended(cluster, two)) == [first, [first, "there"]]
    job = await ended(cluster, five)
    assert (job.outcome, job.stage, len(job.past)) == (Outcome.SUCCEEDED, 4, 4)
    assert results(job)[-1] == [[[[first, "there"], "here"], "there"], "there"]
    assert [job.past[1].worker, job.past[3].worker, job.worker] == [second] * 3
    assert starts(cluster) == sorted([f"{one}.0", f"{two}.0", f"{two}.1"] + [f"{five}.{n}" for n in range(5)])


async def test_results_of_earlier_stages_are_there_while_it_runs(cluster: RealCluster) -> None:
    """In what shows the job, and each by itself; the last one when it is over."""
    gate = cluster.directory / "gate"
    waits = step(cluster, "second", f"while [ ! -e {gate} ]; do sleep 0.05; done")
    await start(cluster, step(cluster, "first"), waits, gateway=True)
    body = {"jobs": [{"stages": [{"workload": "first"}, {"workload": "second", "version": 1}], "params": 5}]}
    job = (await cluster.post("/v1/jobs", body))[1]["jobs"][0]["id"]
    await in_stage(cluster, job, 1)

    first, second = (await cluster.get(f"/v1/jobs/{job}"))[1]["stages"]
    assert (first["state"], first["outcome"], first["result"]) == ("finished", "succeeded", [5, "first"])
    assert (second["state"], second["result"], second["version"]) == ("running", None, 1)
    assert await cluster.get(f"/v1/jobs/{job}/result?stage=0") == (200, [5, "first"])
    assert (await cluster.get(f"/v1/jobs/{job}/result"))[0] == 404
    gate.touch()

    await ended(cluster, job)
    assert await cluster.get(f"/v1/jobs/{job}/result") == (200, [[5, "first"], "second"])


async def test_a_chain_ends_where_a_stage_does_not_succeed(cluster: RealCluster) -> None:
    """It fails, takes too long, or prints no JSON; what one more attempt mends goes on."""
    marker = cluster.directory / "marker"
    await start(
        cluster,
        step(cluster, "good"),
        step(cluster, "fails", "exit 3"),
        step(cluster, "late", "sleep 60", timeout_s=0.5),
        step(cluster, "never"),
        process("odd", "echo no JSON"),
        step(cluster, "flaky", f"mkdir {marker} && exit 1", retries=1, retry_on=("exit",)),
        process("numbers", "echo 1", params_schema='{"type": "integer"}'),
    )
    names = ("fails", "late", "odd", "flaky", "numbers")
    made = await cluster.client.submit([chain("good", name, "never") for name in names])
    jobs = dict(zip(names, [await ended(cluster, str(job)) for job in made], strict=True))

    outcomes = {name: (job.outcome, job.stage) for name, job in jobs.items()}
    assert outcomes == {
        "fails": (Outcome.FAILED, 1),
        "late": (Outcome.TIMED_OUT, 1),
        "odd": (Outcome.FAILED, 1),
        "flaky": (Outcome.SUCCEEDED, 2),
        "numbers": (Outcome.REJECTED, 1),
    }
    assert all(results(job)[0] == [1, "good"] for job in jobs.values())
    failed, odd, refused = jobs["fails"].end, jobs["odd"].end, jobs["numbers"].end
    assert failed is not None and failed.exit_code == 3
    assert odd is not None and odd.failure is not None and not odd.result
    assert refused is not None and "'integer'" in refused.evidence
    flaky = jobs["flaky"]
    before = [(past.stage, past.outcome.word) for past in flaky.past]
    assert before == [(0, "succeeded"), (1, "failed"), (1, "succeeded")]
    assert [line for line in starts(cluster) if line.endswith(".2")] == [f"{flaky.id}.2"]


async def test_a_stopped_chain_leaves_nothing_and_goes_no_further(cluster: RealCluster) -> None:
    """Its stage ends with a receipt; what the earlier ones left can be read."""
    await start(cluster, step(cluster, "first"), step(cluster, "long", "sleep 60 & sleep 60"), step(cluster, "never"))
    job = await cluster.client.submit_one(chain("first", "long", "never"))
    await in_stage(cluster, job, 1)

    stopped = await cluster.client.stop(job)

    assert (stopped.state, stopped.outcome, stopped.stage) == (State.FINISHED, Outcome.STOPPED, 1)
    assert stopped.end is not None and stopped.end.receipt.verified_by and not stopped.end.receipt.survivors
    assert processes_of({job}) == []
    assert results(await cluster.client.get(job)) == [[1, "first"]]
    assert starts(cluster) == [f"{job}.0", f"{job}.1"]


@pytest.mark.parametrize("part", ["w1", "coordinator"])
async def test_a_part_is_killed_in_the_middle_of_chains(cluster: RealCluster, part: str) -> None:
    """Five stages over two workers: each result arrives, and no stage runs twice."""
    await start(cluster, step(cluster, "here", "sleep 0.2"), step(cluster, "there", "sleep 0.2", labels=SITE))
    names = ("here", "there", "here", "there", "here")
    made = [str(job) for job in await cluster.client.submit([chain(*names)] * 3)]
    await in_stage(cluster, made[0], 1)
    cluster.end(part, signal.SIGKILL)
    await asyncio.sleep(0.5)  # not for a condition: stages are to end while nobody is there to be told
    flags: dict[str, Any] = {"slots": 4} if part == "w1" else {}
    cluster.start(part, **flags)

    expected = [[[[[1, "here"], "there"], "here"], "there"], "here"]
    for job in made:
        found = await ended(cluster, job)
        assert (found.outcome, results(found)[-1]) == (Outcome.SUCCEEDED, expected), found
    assert starts(cluster) == sorted(f"{job}.{stage}" for job in made for stage in range(5))


@pytest.mark.ci
async def test_everything_is_killed_again_and_again_while_chains_run(cluster: RealCluster) -> None:
    """Both agents and the coordinator in turn, with 20 chains of five stages under way."""
    await start(cluster, step(cluster, "here", "sleep 0.3"), step(cluster, "there", "sleep 0.3", labels=SITE))
    made = [str(job) for job in await cluster.client.submit([chain("here", "there", "here", "there", "here")] * 20)]
    await in_stage(cluster, made[0], 1)
    flags: dict[str, dict[str, Any]] = {"w1": {"slots": 4}, "w2": {"slots": 4, "labels": SITE}, "coordinator": {}}
    for parts in (("w1",), ("coordinator",), ("w2",), ("coordinator", "w1"), ("w1", "w2")):
        for part in parts:
            cluster.end(part, signal.SIGKILL)
        for part in parts:
            cluster.start(part, **flags[part])
        await cluster.connected(2)

    for job in made:
        found = await ended(cluster, job, 90.0)
        assert found.outcome is Outcome.SUCCEEDED, found
    assert starts(cluster) == sorted(f"{job}.{stage}" for job in made for stage in range(5))


async def test_large_results_go_through_a_chain(cluster: RealCluster) -> None:
    """A megabyte of JSON is stored, read by the next stage, and fetched by anybody."""
    await start(
        cluster,
        process("make", """printf '["'; head -c 750000 /dev/urandom | base64 -w0; printf '"]'"""),
        process("pass", "cat", labels=SITE),
        process("count", "wc -c"),
        gateway=True,
    )
    job = await cluster.client.submit_one(chain("make", "pass", "count"))

    found = await ended(cluster, job)

    ends = [end_of_stage(found, stage) for stage in range(3)]
    assert found.outcome is Outcome.SUCCEEDED, found
    assert ends[0] is not None and ends[1] is not None and ends[2] is not None
    assert (ends[0].result, ends[0].result_bytes, ends[1].result_digest) == (b"", 1_000_004, ends[0].result_digest)
    assert json.loads(ends[2].result) == 1_000_004
    async with cluster.http.get(f"/v1/jobs/{job}/result?stage=1") as answer:
        body = await answer.read()
    assert hashlib.sha256(body.removesuffix(b"\n")).hexdigest() == ends[0].result_digest


async def test_the_samples_make_a_chain(cluster: RealCluster) -> None:
    """As they ship."""
    await start(cluster)
    job = await cluster.client.submit_one(
        chain("text-clean", "text-stats", params='{"text": "A horse ran.  It  won!"}')
    )

    found = await ended(cluster, job)

    assert found.outcome is Outcome.SUCCEEDED, found
    cleaned, counted = results(found)
    assert cleaned["sentences"] == ["A horse ran.", "It won!"]
    assert (counted["words"], counted["sentences"], counted["keywords"][0]["word"]) == (5, 2, "horse")


@pytest.mark.ci
async def test_two_hundred_chains_in_one_call(cluster: RealCluster) -> None:
    """Three stages each; every one runs once, and every result is its own."""
    await start(cluster, step(cluster, "here"), step(cluster, "there", labels=SITE))
    specs = [chain("here", "there", "here", params=str(number)) for number in range(200)]
    made = [str(job) for job in await cluster.client.submit(specs)]

    async for _ in cluster.client.wait(made, timeout_s=100):
        pass
    for number, job in enumerate(made):
        found = await cluster.client.get(job)
        assert results(found)[-1] == [[[number, "here"], "there"], "here"], found
    assert starts(cluster) == sorted(f"{job}.{stage}" for job in made for stage in range(3))
