"""A worker's own policy against a whole cluster: what it never takes waits for another worker, and says why."""

from hostler.explanation import explain
from hostler.jobs import JobSpec, Work
from hostler.lifecycle import Outcome, State
from hostler.pending import Code
from hostler.workloads import Workload
from tests.cluster.real_cluster import RealCluster

POLICY = 'mode = "named"\nworkloads = ["allowed", "stage-*"]\nallow_root = true\n'


async def test_a_worker_that_takes_workloads_by_name_is_given_nothing_else(cluster: RealCluster) -> None:
    """What it would refuse is not sent there, says so while it waits, and runs where another worker takes it."""
    policy = cluster.directory / "policy.toml"
    policy.write_text(POLICY)
    policy.chmod(0o600)
    cluster.start("coordinator")
    cluster.start("w1", policy_file=str(policy))
    await cluster.connected(1)
    await cluster.client.workloads.apply([Workload(name=name, argv=("true",)) for name in ("allowed", "other")])
    specs = [JobSpec(work=Work(), workload="allowed"), JobSpec(work=Work(), workload="other")]
    allowed, other, command = map(str, await cluster.client.submit([*specs, JobSpec(work=Work(argv=("true",)))]))

    job = await cluster.client.wait_one(allowed, timeout_s=30.0)
    assert job is not None and job.outcome is Outcome.SUCCEEDED
    reasons = {}
    for waits, code in ((other, Code.WORKLOAD), (command, Code.POLICY)):
        known = await cluster.client.explanations.of(waits)
        assert (known.job.state, known.job.attempt) == (State.QUEUED, 0)
        assert [(why.code, why.workers) for why in known.pending.reasons] == [(code, 1)]
        reasons[waits] = known.pending.reasons[0].text

    cluster.start("w2")
    for waits in (other, command):
        job = await cluster.client.wait_one(waits, timeout_s=30.0)
        assert job is not None and job.outcome is Outcome.SUCCEEDED
        told = explain(await cluster.client.explanations.of(waits))
        why, _, waited_for = told.attempts[0].chosen.partition("; while it waited: ")
        assert (told.attempts[0].worker, why) == ("w2", "no other could take it")
        assert waited_for in (reasons[waits], "")  # "" when the second worker was there within a second


async def test_a_job_for_a_worker_that_never_takes_it_is_rejected_at_once(cluster: RealCluster) -> None:
    """The start/stop/query API says why, whether the coordinator knew it or the worker refused."""
    for name, text in (
        ("named", POLICY),
        ("listed", 'mode = "allow-list"\nprograms = ["/bin/echo"]\nallow_root = true\n'),
    ):
        policy = cluster.directory / f"{name}.toml"
        policy.write_text(text)
        policy.chmod(0o600)
    cluster.start("coordinator")
    cluster.start("named", policy_file=str(cluster.directory / "named.toml"))
    cluster.start("listed", policy_file=str(cluster.directory / "listed.toml"))
    cluster.start("gateway")
    await cluster.gateway_up()
    await cluster.connected(2)

    for worker in await cluster.client.workers():
        status, answer = await cluster.post("/start", {"worker_id": worker.id, "command": "true", "path": ""})
        assert status == 500
        wanted = {"named": "rule mode: named takes only named workloads", "listed": "rule programs: the program 'true'"}
        assert wanted[worker.name] in answer["error"]
