"""A stop is acknowledged only when nothing of the tree is left, whatever the tree does."""

import pytest

from hostler.jobs import JobSpec, Work
from hostler.lifecycle import Outcome, State
from tests.cluster.real_cluster import RealCluster, processes_of, shell

NASTY = {
    "double fork with setsid": "(setsid sh -c 'sleep 300 & sleep 300' >/dev/null 2>&1 &) ; sleep 300",
    "ignores SIGTERM": "trap '' TERM; while :; do sleep 0.2; done",
    "stops itself": "sleep 300 & kill -STOP $$",
    "keeps forking": "while :; do (sleep 300 &) ; sleep 0.02; done",
    "closes its output and lives on": "exec >/dev/null 2>&1; sleep 300",
}
COMET = "import os, time\nwhile True:\n    if os.fork():\n        os._exit(0)\n    os.setsid()\n    time.sleep(0.002)\n"


@pytest.mark.parametrize("name", NASTY)
async def test_a_stop_leaves_nothing_and_the_receipt_says_what_was_done(cluster: RealCluster, name: str) -> None:
    """The answer is the proof: at that moment no process carries the job's mark."""
    await cluster.up()
    job = await cluster.client.submit_one(shell(NASTY[name], grace_s=0.5))
    await cluster.client.wait_one(job, until=State.RUNNING, timeout_s=20)

    stopped = await cluster.client.stop(job)

    assert processes_of({job}) == []
    assert stopped.state is State.FINISHED
    assert stopped.outcome is Outcome.STOPPED
    assert stopped.end is not None
    assert stopped.end.receipt.signals[0].signal == "SIGTERM"
    assert stopped.end.receipt.ended
    assert stopped.end.receipt.survivors == ()


async def test_a_comet_is_caught(cluster: RealCluster) -> None:
    """A process that forks, leaves its session and exits for ever is ended with one stop."""
    await cluster.up()
    # The first process waits for the comet, so that the job does not end by itself.
    script = f"python3 -S -c '{COMET}' ; sleep 300"
    job = await cluster.client.submit_one(shell(script, grace_s=0))
    await cluster.client.wait_one(job, until=State.RUNNING, timeout_s=20)
    stopped = await cluster.client.stop(job, grace_s=0)
    assert stopped.state is State.FINISHED
    assert processes_of({job}) == []


async def test_what_the_main_process_leaves_running_is_ended_with_it(cluster: RealCluster) -> None:
    """The exit code is the program's own; its leftovers are named in the receipt."""
    await cluster.up()
    job = await cluster.client.submit_one(shell("setsid sleep 300 & setsid sleep 300 & exit 4"))
    done = await cluster.client.wait_one(job, timeout_s=20)
    assert done is not None
    assert done.end is not None
    assert done.end.exit_code == 4
    assert len(done.end.receipt.ended) == 2
    assert processes_of({job}) == []


async def test_a_time_limit_ends_the_tree(cluster: RealCluster) -> None:
    """The outcome says timed_out, and nothing is left."""
    await cluster.up()
    job = await cluster.client.submit_one(shell("sleep 300 & sleep 300", timeout_s=0.3, grace_s=0.2))
    done = await cluster.client.wait_one(job, timeout_s=20)
    assert done is not None
    assert done.outcome is Outcome.TIMED_OUT
    assert processes_of({job}) == []


async def test_a_waiting_job_is_stopped_without_ever_running(cluster: RealCluster) -> None:
    """It takes no worker to stop what no worker has."""
    await cluster.up()
    job = await cluster.client.submit_one(JobSpec(work=Work(argv=("true",)), labels={"gpu": "yes"}))
    stopped = await cluster.client.stop(job)
    assert stopped.outcome is Outcome.STOPPED
    assert stopped.attempt == 0
