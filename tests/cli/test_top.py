"""``hostler top``: numbers from differences, a screen of every size, and a coordinator that goes away."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from hostler.cli import top
from hostler.cli.load import Differences, JobLoad, Load, arranged, ends_in, worker_loads
from hostler.cli.top_screen import head, screen
from hostler.client import Client
from hostler.jobs import Advance, Job, JobSpec, Usage, Work
from hostler.lifecycle import Outcome, State
from hostler.workers import Worker, WorkerState
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import NOON_US, WORKER, FakeCluster, exited
from tests.cli.test_watching import on_a_terminal, read_until

SECOND_US = 1_000_000
A_SPEC = JobSpec(work=Work(argv=("sh", "-c", "make\nit"), cwd="/"), name="bu\x1bild")
SOON_S = 30.0


def job(number: int = 1, cpu_s: float | None = None, **more: object) -> Job:
    """A job that has run since noon and has used so much."""
    usage = None if cpu_s is None else Usage(cpu_user_s=cpu_s, memory_bytes_max=1 << 20, processes=1)
    runs = Job(id=f"{number:036d}", spec=A_SPEC, state=State.RUNNING, attempt=1, worker=WORKER.id, usage=usage)
    return replace(runs, started_at_us=NOON_US, **more)  # type: ignore[arg-type]


def percents(samples: Sequence[tuple[float, float | None]]) -> list[float | None]:
    """What a job is said to take at each look: (seconds after noon, cpu seconds as they were sampled)."""
    differences = Differences()
    found: list[float | None] = []
    for at_s, cpu_s in samples:
        percent = differences.loads([job(cpu_s=cpu_s)], NOON_US + int(at_s * SECOND_US))[0].cpu_percent
        found.append(None if percent is None else round(percent))
    return found


def test_cpu_is_the_difference_of_samples() -> None:
    """Until there are two it is that of all the time; without any it is not known."""
    assert percents([(1, None), (6, 3.0), (7, 3.0), (11, 8.0), (16, 13.0)]) == [None, 50, 50, 100, 100]


def test_how_old_the_first_sample_is_does_not_matter() -> None:
    """It may be as old as five seconds: a difference to it would be too much."""
    assert percents([(104, 100.0), (105, 105.0), (110, 110.0)]) == [96, 100, 100]


def test_a_job_that_has_become_idle_is_said_to_take_nothing_soon() -> None:
    """Although no sample differs from the one before."""
    looks = [(float(at), 5.0 * (at // 5) if at <= 20 else 20.0) for at in range(5, 60)]
    assert percents(looks)[10] == 100
    assert percents(looks)[-1] == 0


def test_what_ends_in_a_minute_is_counted_over_a_restart() -> None:
    """Of all the time at first, then of the last minute; a counter that begins anew makes no negative number."""
    differences = Differences()
    at_us, start_us = NOON_US + 600 * SECOND_US, NOON_US

    def rate(after_s: int, ended: float | None) -> float | None:
        return differences.ended_a_minute(ended, at_us + after_s * SECOND_US, start_us)

    assert rate(0, 100) == 10
    assert [rate(second, 100 + second) for second in range(1, 200)][-1] == 60
    assert (rate(200, 0) or 0) >= 0
    assert rate(201, None) is None
    assert ends_in(b'# TYPE x\nhostler_jobs_finished_total{outcome="a"} 3\nhostler_jobs_finished_total{b="c"} 4\n') == 7


def test_a_worker_takes_what_its_jobs_take_and_the_busiest_is_first() -> None:
    """Jobs of a worker that is not known count nowhere."""
    idle = replace(WORKER, id="2", name="idle")
    jobs = [JobLoad(job=job(n), cpu_percent=60.0, memory_bytes=5) for n in (1, 2)]
    jobs.append(JobLoad(job=job(3, worker="?"), cpu_percent=1.0))
    loads = worker_loads([idle, WORKER], jobs)
    assert [(one.worker.name, one.cpu_percent, one.memory_bytes) for one in loads] == [
        (WORKER.name, 120.0, 10),
        ("idle", None, None),
    ]


def a_load(jobs: int, workers: int = 3) -> Load:
    """A cluster with so many jobs."""
    many = [Worker(id=str(n), name=f"w{n}" * 9, state=WorkerState.CONNECTED, slots=4) for n in range(workers)]
    running = tuple(
        JobLoad(job=job(n, cpu_s=1.0, advance=Advance(percent=n % 100)), cpu_percent=float(n), memory_bytes=n << 20)
        for n in range(jobs)
    )
    over = job(99, state=State.FINISHED, outcome=Outcome.FAILED, end=exited(3), finished_at_us=NOON_US + SECOND_US)
    return Load(
        at_us=NOON_US + 90 * SECOND_US,
        version="1",
        started_at_us=NOON_US,
        running=jobs,
        workers=worker_loads(many, running),
        jobs=running,
        ended=(over,) * min(20, jobs),
    )


@pytest.mark.parametrize("width", [1, 20, 40, 53, 80, 121, 200])
@pytest.mark.parametrize("height", [3, 5, 10, 24, 60])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_every_line_fits_and_all_lines_are_there(width: int, height: int, count: int) -> None:
    """Whatever the size; no character of a name or a command moves the cursor."""
    load = a_load(count, workers=1 + count // 10)
    lines = screen(load, arranged(load.jobs, "cpu"), width=width, height=height, foot="q quits", away="")
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    assert all(line.plain.isprintable() for line in lines)


def test_what_matters_most_is_left_when_there_is_little_room() -> None:
    """Ten lines of forty: the worker, the busiest jobs, the newest end."""
    load = a_load(50)
    lines = [
        line.plain
        for line in screen(load, arranged(load.jobs, "cpu"), width=40, height=10, foot="q quits", away="gone for 3 s")
    ]
    assert lines[0] == "gone for 3 s"
    assert lines[1].split() == ["WORKER", "STATE", "JOBS"]
    assert lines[3].split() == ["ID", "CPU", "NAME", "COMMAND"]
    assert [line.split()[1] for line in lines[4:6]] == ["49.0", "48.0"]
    assert lines[-3].split() == ["ID", "NAME", "OUTCOME", "COMMAND"]
    assert lines[-1] == "q quits"


def test_workers_that_are_not_connected_are_counted_as_what_they_are() -> None:
    """Three stand in the list, so two are two of three."""
    load = a_load(1, workers=3)
    away = replace(load.workers[0], worker=replace(WORKER, state=WorkerState.DRAINED))
    assert "  3 workers" in head(load, 200)
    assert "  2 of 3 workers" in head(replace(load, workers=(away, *load.workers[1:])), 200)


@pytest.mark.parametrize(("sorting", "first"), [("cpu", 49), ("memory", 49), ("age", 0), ("name", 0)])
def test_jobs_are_sorted_as_asked(sorting: str, first: int) -> None:
    """The largest first; names from A."""
    assert arranged(a_load(50).jobs, sorting)[0].job.id == f"{first:036d}"


def test_in_a_pipe_it_is_printed_once_and_uncut(fake: FakeCluster, hostler: Callable[..., Answer]) -> None:
    """With whole ids and without a control character; as JSON it is one object."""
    runs = fake.add(spec=A_SPEC)
    fake.jobs[runs] = replace(fake.jobs[runs], usage=Usage(cpu_user_s=1, memory_bytes_max=3 << 20))
    over = fake.add(exited(3), spec=replace(A_SPEC, name="n" * 60))
    answer = hostler("top")
    assert (answer.code, answer.err) == (0, "")
    assert runs in answer.out and over in answer.out and "n" * 60 in answer.out and "bu\\x1bild" in answer.out
    assert "\x1b" not in answer.out
    known = json.loads(hostler("top", "--json").out)
    assert known.keys() == {"cluster", "workers", "jobs", "ended"}
    assert [(one["id"], one["memory_bytes"]) for one in known["jobs"]] == [(runs, 3 << 20)]
    assert [(one["id"], one["outcome"]) for one in known["ended"]] == [(over, "failed")]
    assert hostler("top", "--sort", "colour").code == 2


async def test_it_asks_only_for_what_it_shows(fake: FakeCluster) -> None:
    """With ten thousand jobs waiting and five hundred running: no page has one that waits, and a look is cheap."""
    for number in range(500):
        name = fake.add(spec=A_SPEC, job=f"{number:036d}")
        fake.jobs[name] = replace(fake.jobs[name], usage=Usage(cpu_user_s=1.0))
    waiting = Job(id="", spec=A_SPEC, state=State.QUEUED, queued_at_us=NOON_US)
    for number in range(10_000):
        name = f"1{number:035d}"
        fake.jobs[name] = replace(waiting, id=name)
    async with Client(fake.address) as client:
        looks = top.Looks(client)
        load = await looks.look()
        assert (len(load.jobs), len(load.ended)) == (500, 0)
        fake.end(load.jobs[0].job.id, exited(0))  # it is none of the newest
        load = await looks.look()
    assert [one.id for one in load.ended] and len(load.jobs) == 499
    assert sum(fake.pages) <= 500 + 499 + 2


def test_on_a_terminal_it_is_fresh_and_outlives_the_coordinator(fake: FakeCluster) -> None:
    """What runs comes in, `s` sorts, a coordinator that is away is said, and `q` ends it."""
    command = [sys.executable, "-m", "hostler.cli.main", "--coordinator", fake.address, "top"]
    with on_a_terminal(command) as (terminal, process):
        read_until(terminal, "q quits")
        fake.add(spec=replace(A_SPEC, name="newcomer"))
        read_until(terminal, "newcomer")
        os.write(terminal, b"s")
        read_until(terminal, "sorts: memory")
        fake.__exit__(None, None, None)
        read_until(terminal, "no word from the coordinator")
        assert process.poll() is None
        os.write(terminal, b"q")
        end = time.monotonic() + SOON_S
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert process.returncode == 0


def test_a_terminal_without_a_cursor_gets_it_once(fake: FakeCluster) -> None:
    """TERM=dumb: lines, and no escape."""
    command = [sys.executable, "-m", "hostler.cli.main", "--coordinator", fake.address, "top"]
    ran = subprocess.run(
        ["script", "-qec", " ".join(command), "/dev/null"],
        env=os.environ | {"TERM": "dumb"},
        capture_output=True,
        timeout=SOON_S,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0 and b"WORKER" in ran.stdout and b"\x1b" not in ran.stdout
