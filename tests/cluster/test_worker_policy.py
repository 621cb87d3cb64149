"""A worker's own policy against a whole cluster: what it forbids ends as rejected, and says which rule it was."""

from hostler.jobs import JobSpec, Work
from hostler.lifecycle import Outcome
from hostler.workloads import Workload
from tests.cluster.real_cluster import RealCluster

POLICY = 'mode = "named"\nworkloads = ["allowed", "stage-*"]\nallow_root = true\n'


async def test_a_worker_that_takes_workloads_by_name_rejects_all_else(cluster: RealCluster) -> None:
    """The coordinator says of which workload a work is, also of each stage of a chain."""
    policy = cluster.directory / "policy.toml"
    policy.write_text(POLICY)
    policy.chmod(0o600)
    cluster.start("coordinator")
    cluster.start("w1", policy_file=str(policy))
    await cluster.connected(1)
    await cluster.client.workloads.apply([Workload(name=name, argv=("true",)) for name in ("allowed", "other")])

    outcomes = {}
    for name in ("allowed", "other", ""):
        work = Work() if name else Work(argv=("true",))
        answer = await cluster.client.submit([JobSpec(work=work, workload=name)])
        job = await cluster.client.wait_one(str(answer[0]), timeout_s=30.0)
        assert job is not None and job.end is not None
        outcomes[name] = job.outcome, (job.end.error or job.end.evidence).partition("rule ")[2].partition(":")[0]

    assert outcomes == {
        "allowed": (Outcome.SUCCEEDED, ""),
        "other": (Outcome.REJECTED, "workloads"),
        "": (Outcome.REJECTED, "mode"),
    }
