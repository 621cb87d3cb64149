"""workers drain, resume and release, and the options about limits and losses, against a fake cluster."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hostler.cli import joining, workers
from hostler.cli.failures import Failure
from hostler.cli.follow import log_chunks
from hostler.cli.options import Place
from hostler.client import Client
from hostler.errors import WorkerNotFound
from hostler.jobs import JobSpec, Limits, Work
from hostler.shape import worker_shape
from hostler.workers import WorkerState
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import NOON_US, WORKER, FakeCluster, out

Hostler = Callable[..., Answer]
DRAINING = replace(WORKER, state=WorkerState.DRAINING, running=1)


def test_a_worker_is_drained_and_resumed(hostler: Hostler, fake: FakeCluster) -> None:
    """Named as everywhere; a line says how it stands."""
    drained = hostler("workers", "drain", "stable", "--deadline", "10m", "--reason", "new disk")
    resumed = hostler("workers", "resume", "11111")

    assert drained == Answer(0, "stable draining; no jobs run there; new disk\n", "")
    assert resumed == Answer(0, "stable connected; no jobs run there\n", "")
    assert fake.heard == ["drain 600 False new disk"]


def test_without_a_deadline_what_runs_may_take_its_time(hostler: Hostler, fake: FakeCluster) -> None:
    """It is left out of the request; 0 is another thing."""
    hostler("workers", "drain", "stable", "--leave")
    hostler("workers", "drain", "stable", "--deadline", "0")

    assert fake.heard == ["drain - True", "drain 0 False"]


@pytest.mark.parametrize(("running", "jobs"), [(1, "1 job runs"), (2, "2 jobs run")])
def test_what_is_ended_at_a_deadline_is_told_of_one_job_and_of_several(
    running: int, jobs: str, hostler: Hostler, fake: FakeCluster
) -> None:
    """In a sentence that is right of both."""
    fake.workers = [replace(WORKER, running=running, drain_by_us=NOON_US)]

    said = hostler("workers", "drain", "stable").out

    assert said.startswith(f"stable draining; {jobs} there; what is left is ended at ")


def test_drain_can_wait_until_nothing_runs_there(
    hostler: Hostler, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says what is waited for."""
    monkeypatch.setattr(workers, "LOOK_S", 0.01)
    fake.workers = [replace(WORKER, running=1)]
    fake.next_workers = [fake.workers, [DRAINING], [DRAINING], [replace(WORKER, state=WorkerState.DRAINED)]]

    answer = hostler("workers", "drain", "stable", "--wait")

    assert (answer.code, answer.out) == (0, "stable drained; no jobs run there\n")
    assert "waiting for stable: 1 job runs there" in answer.err


def test_a_worker_that_is_resumed_while_it_is_waited_for_is_no_success(
    hostler: Hostler, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It will not become empty."""
    monkeypatch.setattr(workers, "LOOK_S", 0.01)
    fake.next_workers = [[WORKER], [DRAINING], [WORKER]]

    answer = hostler("workers", "drain", "stable", "--wait")

    assert (answer.code, answer.out) == (1, "")
    assert "was resumed meanwhile" in answer.err


def test_a_quarantine_is_ended(hostler: Hostler, fake: FakeCluster) -> None:
    """With --json it is the worker, wherever the option stands."""
    fake.workers = [replace(WORKER, state=WorkerState.QUARANTINED, reason="two agents")]

    before = hostler("workers", "--json")
    after = hostler("workers", "--json", "release", "stable")

    assert json.loads(before.out)["workers"][0]["state"] == "quarantined"
    assert json.loads(after.out) == worker_shape(replace(WORKER, state=WorkerState.UNREACHABLE))


def test_an_unknown_worker_is_not_found(hostler: Hostler) -> None:
    """By its name or its whole id."""
    for command in ("drain", "resume", "release"):
        for name in ("nobody", "99999999-1111-4111-8111-111111111111"):
            assert hostler("workers", command, name).code == 3


@pytest.mark.parametrize("given", ["", " "])
@pytest.mark.parametrize("command", ["drain", "resume", "release", "revoke"])
def test_an_empty_name_of_a_worker_is_a_wrong_call(
    command: str, given: str, hostler: Hostler, fake: FakeCluster
) -> None:
    """A variable that was not set names no worker, so none is looked for."""
    answer = hostler("workers", command, given)

    assert (answer.code, answer.out) == (2, "") and "'NAME': it is empty" in answer.err
    assert fake.heard == []


@pytest.mark.parametrize(
    ("named", "asked"),
    [("11111", ["11111"]), ("stable", ["stable"]), ("111111", ["111111", WORKER.id])],
    ids=["a name like the start of an id", "a name", "the start of an id"],
)
def test_a_name_is_revoked_before_it_is_taken_for_the_start_of_an_id(
    named: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has joined and never come is in no list, and another one's id may begin like its name."""
    found: list[str] = []

    class Access:
        async def revoke_worker(self, worker: str) -> int:
            found.append(worker)
            if worker in ("11111", "stable", WORKER.id):
                return 1
            raise WorkerNotFound("there is none")

    async def listed() -> list[Any]:
        return [WORKER]

    @asynccontextmanager
    async def cluster(_: Place) -> AsyncIterator[Any]:
        yield SimpleNamespace(access=Access(), workers=listed)

    monkeypatch.setattr(joining, "cluster", cluster)

    assert joining.revoke(Place(), named) == 0
    assert found == asked


def test_a_worker_that_was_revoked_before_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second time is no error, and nothing else is said to be wrong with it."""

    class Access:
        async def revoke_worker(self, worker: str) -> int:
            return 0

    async def listed() -> list[Any]:
        return [replace(WORKER, state=WorkerState.REVOKED)]

    @asynccontextmanager
    async def cluster(_: Place) -> AsyncIterator[Any]:
        yield SimpleNamespace(access=Access(), workers=listed)

    monkeypatch.setattr(joining, "cluster", cluster)

    assert joining.revoke(Place(), "stable") == 0
    assert capsys.readouterr().out == "stable is revoked, and is not heard any more\n"


def test_a_name_means_the_worker_that_was_not_revoked(hostler: Hostler, fake: FakeCluster) -> None:
    """Its host has joined again, as another worker."""
    before = replace(WORKER, id="99999999-1111-4111-8111-111111111111", state=WorkerState.REVOKED)
    fake.workers = [before, WORKER]

    assert hostler("workers", "--json", "resume", "stable").code == 0
    assert hostler("submit", "--worker", "stable", "--", "x").code == 0

    assert [job.spec.worker for job in fake.jobs.values()] == [WORKER.id]


def test_a_worker_that_is_revoked_while_it_is_waited_for_is_no_success(
    hostler: Hostler, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody will say when it is empty."""
    monkeypatch.setattr(workers, "LOOK_S", 0.01)
    fake.next_workers = [[WORKER], [DRAINING], [replace(WORKER, state=WorkerState.REVOKED)]]

    answer = hostler("workers", "drain", "stable", "--wait")

    assert (answer.code, answer.out) == (1, "")
    assert "was revoked meanwhile" in answer.err


def test_limits_losses_and_the_start_deadline_reach_the_coordinator(hostler: Hostler, fake: FakeCluster) -> None:
    """Of `submit` and of `run` alike."""
    options = (
        *("--memory", "512M", "--cpus", "1.5", "--pids", "100", "--merge", "--start-path", "hardened"),
        *("--output-max", "64M", "--output-stop", "--start-within", "30s", "--timeout", "10m", "--grace", "500ms"),
        *("--loss-policy", "stop", "--on-lost", "retry", "--lost-after", "1.5h", "--crash-limit", "5"),
    )

    assert hostler("submit", *options, "--", "x").code == 0
    assert hostler("run", *options, "--", "x").code == 0
    assert hostler("submit", "--lost-after", "never", "--", "x").code == 0

    submitted, run, never = [job.spec for job in fake.jobs.values()]
    for spec in (submitted, run):
        work = spec.work
        assert work.limits == Limits(memory_bytes=512 << 20, cpus=1.5, pids=100)
        assert (work.merge, work.start_path, work.output_bytes_max, work.output_stop) == (
            True,
            "hardened",
            64 << 20,
            True,
        )
        assert (spec.start_within_s, work.timeout_s, work.grace_s) == (30.0, 600.0, 0.5)
        assert (work.loss_policy, spec.on_lost, spec.lost_after_s, spec.crash_limit) == ("stop", "retry", 5400.0, 5)
    assert (never.lost_after_s or 0) < 0


@pytest.mark.parametrize(
    "wrong",
    [
        ("--start-within", "soon"),
        ("--start-within", "1y"),
        ("--memory", "lots"),
        ("--memory", "1"),
        ("--cpus", "nan"),
        ("--on-lost", "retry"),
        ("--on-lost", "hope"),
        ("--loss-policy", "hope"),
        ("--start-path", "cold"),
        ("--output-stop",),
        ("--crash-limit", "101"),
        ("--lost-after", "-5"),
    ],
)
def test_what_cannot_be_meant_is_usage(hostler: Hostler, fake: FakeCluster, wrong: tuple[str, ...]) -> None:
    """Before anything is sent."""
    assert hostler("submit", *wrong, "--", "x").code == 2
    assert not fake.jobs


@pytest.mark.parametrize(("stage", "hint"), [(1, "--from 30 --stage 1 JOB"), (None, "--from 30 JOB")])
async def test_a_lost_log_of_a_chain_is_read_on_at_its_stage(fake: FakeCluster, stage: int | None, hint: str) -> None:
    """A position is one of a stage's log; without --stage another one's would be read from there."""
    job = fake.add(ledger=out(b"x" * 10), spec=JobSpec(work=Work(argv=("x",))))
    fake.log_breaks_after = [len(out(b"x" * 10))]

    async with Client(fake.address) as client:
        with pytest.raises(Failure) as lost:
            async for _ in log_chunks(client, job, follow=True, stage=stage, attempt=1, patience_s=-1):
                pass

    assert hint.replace("JOB", job) in lost.value.hint


def test_a_chain_needs_no_program_to_be_checked(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """None is invented: what is wrong is said of the job that was meant."""
    assert hostler("submit", "--stage", "a", "--stage", "b", "--name", "x" * 300).code == 2
    assert hostler("submit", "--stage", "a", "--stage", "b").code == 0
    (job,) = fake.jobs.values()
    assert (job.spec.work.argv, len(job.spec.stages)) == ((), 2)
