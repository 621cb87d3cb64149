"""Chains and results on the command line, against a fake cluster."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hostler.jobs import End, JobSpec, PastAttempt, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.workloads import Workload
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import NOON_US, WORKER, FakeCluster, exited, out

Hostler = Callable[..., Answer]
STAGES = (Stage(workload="clean", workload_version=3), Stage(workload="stats", workload_version=1))
CHAIN = JobSpec(work=Work(), stages=STAGES, workload="clean", workload_version=3)


def left(result: bytes, code: int = 0) -> End:
    """The end of a program that left a result, 1.5 s after its start."""
    return replace(exited(code), result=result, ended_at_us=NOON_US + 1_500_000)


def before(result: bytes, stage: int = 0, outcome: Outcome = Outcome.SUCCEEDED, attempt: int = 1) -> PastAttempt:
    """A stage that is over."""
    code = 0 if outcome is Outcome.SUCCEEDED else 1
    return PastAttempt(stage=stage, attempt=attempt, worker=WORKER.id, outcome=outcome, end=left(result, code))


def test_a_chain_is_submitted_with_its_versions(hostler: Hostler, fake: FakeCluster) -> None:
    """In order; what it is told goes to the first."""
    answer = hostler("submit", "--stage", "clean@3", "--stage", "stats", "--param", "text=a b", "--name", "n")

    (job,) = fake.jobs.values()
    assert answer == Answer(0, f"{job.id}\n", "")
    assert job.spec.stages == (Stage(workload="clean", workload_version=3), Stage(workload="stats"))
    assert (job.spec.workload, job.spec.work, job.spec.name) == ("", Work(), "n")
    assert json.loads(job.spec.params) == {"text": "a b"}


def test_a_workload_can_be_named_with_its_version(hostler: Hostler, fake: FakeCluster) -> None:
    """As in a chain."""
    hostler("submit", "--workload", "clean@3")
    hostler("submit", "--workload", "clean", "--workload-version", "4")

    assert [(job.spec.workload, job.spec.workload_version) for job in fake.jobs.values()] == [
        ("clean", 3),
        ("clean", 4),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--stage", "a", "--", "x"),
        ("--stage", "a", "--workload", "b"),
        ("--stage", "a@0"),
        ("--stage", "a@"),
        ("--stage", "a@b"),
        ("--stage", "a@9999999999"),
        ("--stage", "a b"),
        ("--stage", ""),
        ("--stage", "a", "--workload-version", "1"),
        ("--workload", "a@1", "--workload-version", "1"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(wrong: tuple[str, ...], hostler: Hostler, fake: FakeCluster) -> None:
    """Before anything is sent."""
    answer = hostler("submit", *wrong)

    assert (answer.code, answer.out, fake.jobs) == (2, "", {})
    assert answer.err.startswith("hostler: ")


def test_follow_says_when_a_stage_begins_and_copies_each_log(hostler: Hostler, fake: FakeCluster) -> None:
    """Also of a stage that was tried again, and of one that was over before anybody looked."""
    fake.begin = lambda _: (None, out(b"first\n"))
    stages = (*STAGES, Stage(workload="brief", workload_version=1), Stage(workload="last", workload_version=2))

    def second() -> None:
        (job,) = fake.jobs.values()
        failed = before(b"", stage=1, outcome=Outcome.FAILED)
        fake.jobs[job.id] = replace(job, stage=1, attempt=2, retried=1, past=(before(b"1"), failed))
        fake.ledgers[job.id] = out(b"second\n")
        fake.after_log = [third, third, last]

    def third() -> None:
        (job,) = fake.jobs.values()
        past = (*job.past[:2], before(b"2", stage=1, attempt=2), before(b"3", stage=2))
        fake.jobs[job.id] = replace(job, stage=3, attempt=1, past=past)
        fake.ledgers[job.id] = out(b"more\n")

    def last() -> None:
        (job,) = fake.jobs
        fake.after_log = [lambda: fake.end(job, exited(3))]

    fake.after_log = [second]
    fake.on_get = lambda job: replace(job, spec=replace(job.spec, stages=stages))

    answer = hostler(
        "submit", "--follow", "--stage", "clean", "--stage", "stats", "--stage", "brief", "--stage", "last"
    )

    said = [line.removeprefix("hostler: ") for line in answer.err.splitlines()]
    assert (answer.code, answer.out.splitlines()[0]) == (1, "first")
    assert [line for line in said if line.startswith("stage")] == [
        "stage 0: clean version 3 (1 of 4)",
        "stage 1: stats version 1 (2 of 4)",
        "stage 2: brief version 1 (3 of 4)",
        "stage 3: last version 2 (4 of 4)",
    ]
    assert sum("tried again" in line for line in said) == 1
    assert said[-1].endswith("failed: exit status 3 in stage 3 (last, 4 of 4)")
    assert answer.out.splitlines()[1:] == ["second", "more", "more", "more"]


def test_show_has_every_stage(hostler: Hostler, fake: FakeCluster) -> None:
    """What is over with its time and result, what runs, and what waits."""
    spec = replace(CHAIN, stages=(*STAGES, Stage(workload="last", workload_version=9)))
    job = fake.add(spec=spec)
    failed = before(b"", stage=1, outcome=Outcome.FAILED)
    fake.jobs[job] = replace(fake.jobs[job], stage=1, attempt=2, past=(before(b'{"n": 1}'), failed))

    shown = hostler("show", job).out
    stages = [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("stage ")]
    assert "clean | stats | last" in shown
    assert stages[0] == f'0: clean version 3, succeeded, attempt 1 on {WORKER.id}, 1.500 s, result {{"n": 1}}'
    assert stages[1].startswith(f"1: stats version 1, running, attempt 2 on {WORKER.id}, since ")
    assert stages[2] == "2: last version 9, waiting"
    assert "stage 1 attempt 1 failed: exit" in shown and "stage 0 attempt 1 succeeded" not in shown

    first, second, third = json.loads(hostler("show", job, "--json").out)["stages"]
    assert first == {
        "workload": "clean",
        "version": 3,
        "state": "finished",
        "outcome": "succeeded",
        "attempt": 1,
        "worker": WORKER.id,
        "result": {"n": 1},
        "result_bytes": 8,
    }
    assert (second["state"], second["outcome"], second["attempt"], second["result"]) == ("running", None, 2, None)
    assert (third["state"], third["attempt"], third["worker"]) == ("waiting", None, None)


def test_stages_after_a_failed_one_are_skipped(hostler: Hostler, fake: FakeCluster) -> None:
    """And a job without stages has none."""
    job = fake.add(exited(1), spec=CHAIN)
    plain = fake.add(exited(0), spec=JobSpec(work=Work(argv=("x",))))

    first, second = json.loads(hostler("show", job, "--json").out)["stages"]
    assert (first["state"], first["outcome"], second["state"]) == ("finished", "failed", "skipped")
    assert "1: stats version 1, skipped" in hostler("show", job).out
    assert json.loads(hostler("show", plain, "--json").out)["stages"] is None


def test_a_list_names_the_workloads_of_a_chain(hostler: Hostler, fake: FakeCluster) -> None:
    """In one cell; earlier stages are known to have succeeded."""
    job = fake.add(spec=CHAIN)
    fake.jobs[job] = replace(fake.jobs[job], stage=1)

    assert "clean | stats" in hostler("jobs").out
    (first, _) = json.loads(hostler("jobs", "--json").out)["jobs"][0]["stages"]
    assert (first["state"], first["outcome"], first["attempt"], first["result"]) == (
        "finished",
        "succeeded",
        None,
        None,
    )


def test_a_result_is_printed_as_it_was_left(hostler: Hostler, fake: FakeCluster) -> None:
    """Of a job, of a stage, and a large one out of what is stored."""
    large = b'["' + b"x" * 300_000 + b'"]'
    digest = hashlib.sha256(large).hexdigest()
    fake.kept.stored[digest] = large
    plain = fake.add(left(b'{"a":  1}'), spec=JobSpec(work=Work(argv=("x",))))
    stored = fake.add(
        replace(exited(0), result_digest=digest, result_bytes=len(large)), spec=JobSpec(work=Work(argv=("x",)))
    )
    chain = fake.add(left(b"2"), spec=CHAIN)
    fake.jobs[chain] = replace(fake.jobs[chain], stage=1, past=(before(b'{"n": 1}'),))

    assert hostler("result", plain) == Answer(0, '{"a":  1}\n', "")
    assert hostler("result", plain, "--stage", "0").out == '{"a":  1}\n'
    assert hostler("result", stored) == Answer(0, large.decode() + "\n", "")
    assert hostler("result", chain).out == "2\n"
    assert hostler("result", chain, "--stage", "0").out == '{"n": 1}\n'
    shown = json.loads(hostler("show", stored, "--json").out)
    assert (shown["result"], shown["result_bytes"]) == (None, len(large))
    assert "300,004 bytes; hostler result" in hostler("show", stored).out


def test_where_there_is_no_result_the_code_is_3(hostler: Hostler, fake: FakeCluster) -> None:
    """Not yet, never, not any more; a stage that is none is a wrong call."""
    running = fake.add(spec=CHAIN)
    none = fake.add(exited(0), spec=JobSpec(work=Work(argv=("x",))))
    gone = fake.add(
        replace(exited(0), result_digest="0" * 64, result_bytes=300_000), spec=JobSpec(work=Work(argv=("x",)))
    )

    for job in (running, none, gone):
        answer = hostler("result", job)
        assert (answer.code, answer.out) == (3, ""), answer
    assert hostler("result", running, "--stage", "1").code == 3
    assert hostler("result", running, "--stage", "2").code == 2
    assert json.loads(hostler("result", none, "--json").err)["error"]["code"] == "file_not_found"
    assert hostler("result", "ffffffff-ffff-4fff-8fff-ffffffffffff").code == 3


def test_logs_of_a_chain_are_those_of_one_stage(hostler: Hostler, fake: FakeCluster) -> None:
    """The current one, or the one that is named."""
    job = fake.add(exited(0), out(b"now\n"), spec=CHAIN)
    fake.jobs[job] = replace(fake.jobs[job], stage=1, past=(before(b"1"),))

    for arguments in ((), ("--stage", "0"), ("--stage", "1"), ("-f",), ("--json",)):
        assert hostler("logs", job, *arguments).code == 0
    assert fake.read == [(1, 1), (0, 1), (1, 1), (1, 1), (1, 1)]
    failed = replace(before(b"1"), stage=1, outcome=Outcome.FAILED)
    fake.jobs[job] = replace(fake.jobs[job], attempt=2, past=(before(b"1"), failed))
    assert f"hostler logs --stage 1 --attempt 1 {job} shows the one before it" in hostler("logs", job).err
    assert hostler("logs", job, "--attempt", "1").code == 0
    assert hostler("logs", job, "--attempt", "1", "--stage", "0").code == 0
    assert fake.read[5:] == [(1, 2), (1, 1), (0, 1)]
    assert "attempt 3 of stage 1 of job" in hostler("logs", job, "--attempt", "3").err
    waiting = fake.add(spec=CHAIN)
    fake.jobs[waiting] = replace(fake.jobs[waiting], state=State.QUEUED, attempt=0)
    assert hostler("logs", waiting, "--stage", "1").code == 3


def test_a_container_is_shown_with_its_limits(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """And a service with its address."""
    (tmp_path / "app.toml").write_text("""
        runtime = "container"
        allowed_networks = ["10.0.0.0/8"]
        proofs = true
        [container]
        image = "localhost/app:1"
        memory = "64M"
        cpus = 0.5
        volumes = ["/a:/b:ro"]
        capabilities = ["KILL"]
        writable = true
        [resources]
        a = 1
    """)
    (tmp_path / "far.toml").write_text('runtime = "service"\n[service]\nurl = "http://there"\nstart_s = 5\n')
    assert hostler("workloads", "apply", str(tmp_path)).code == 0

    shown = hostler("workloads", "show", "app").out
    for text in ("localhost/app:1 (pull: never)", "64 MiB, 0.5 cpus", "10.0.0.0/8", "/a:/b:ro", "KILL", '{"a": 1}'):
        assert text in shown
    assert "http://there" in hostler("workloads", "show", "far").out
    said = json.loads(hostler("workloads", "show", "app", "--json").out)
    assert (said["stdin"], said["result"], said["proofs"], said["resources"]) == ("params", "stdout", True, {"a": 1})
    assert (said["container"]["memory_bytes"], said["service"]) == (64 << 20, None)
    kept: Workload = fake.kept.versions["app"][0]
    assert kept.container is not None and kept.container.volumes == ("/a:/b:ro",)
