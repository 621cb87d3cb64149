"""What `run` and `attach` say of a worker that cannot be reached while its job is not over."""

import asyncio
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest

from hostler.cli.away import say_while_away
from hostler.cli.beside import beside
from hostler.cli.render import moment_text
from hostler.client import Client
from hostler.jobs import Job
from hostler.lifecycle import State
from tests.cli.fake_cluster import NOON_US, WORKER, FakeCluster, exited, out
from tests.cli.test_run import COMMAND, SPEC, end

LOST = "the job was lost on stable, and begins anew"
LOOK_S = 0.01
AT_MOST_S = 20.0
AWAY = (
    f"stable cannot be reached since {moment_text(NOON_US)}; its job may go on there, and is waited for "
    "(the third Ctrl-C leaves)"
)


def unreachable(job: Job) -> Job:
    """As the coordinator shows a job whose worker is away."""
    return replace(job, phase="unreachable")


async def told(fake: FakeCluster, *stages: Callable[[Job], Job]) -> list[str]:
    """What is said while a job is shown in these ways one after another, each until something is said of it."""
    job, said = fake.add(spec=SPEC), asyncio.Queue[str]()
    fake.workers = [replace(WORKER, seen_at_us=NOON_US)]
    heard: list[str] = []
    async with Client(fake.address) as client:
        work = say_while_away(client, job, said.put_nowait, leaving=" (the third Ctrl-C leaves)", look_s=LOOK_S)
        async with beside(work):
            for fake.on_get in stages:
                heard.append(await asyncio.wait_for(said.get(), AT_MOST_S))
    return heard


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (lambda job: job, "stable is back"),
        (lambda job: replace(job, state=State.QUEUED), LOST),
        (lambda job: replace(job, attempt=2), LOST),
    ],
)
async def test_what_became_of_a_worker_that_is_away_is_said(
    fake: FakeCluster, then: Callable[[Job], Job], said: str
) -> None:
    """Once each, and as often as it happens."""
    assert await told(fake, unreachable, then, unreachable, then) == [AWAY, said, AWAY, said]


async def test_what_is_away_only_for_a_moment_is_not_said(fake: FakeCluster) -> None:
    """A look that finds it away between two that do not is no news: agents are restarted."""
    looks: list[str] = []

    def now_and_then(job: Job) -> Job:
        looks.append("away" if len(looks) % 2 else "there")
        if len(looks) > 20:
            return unreachable(job)  # now it is
        return unreachable(job) if looks[-1] == "away" else job

    assert await told(fake, now_and_then) == [AWAY]
    assert len(looks) > 20


async def test_the_next_attempt_is_watched_as_the_first(fake: FakeCluster) -> None:
    """Its worker may be away, too, when that is looked at next: both is said."""

    def again(job: Job) -> Job:
        return replace(unreachable(job), attempt=2)

    assert await told(fake, unreachable, again, again) == [AWAY, LOST, AWAY]


@pytest.mark.ci
def test_run_says_it(fake: FakeCluster) -> None:
    """And goes on until the job is over."""
    fake.workers = [replace(WORKER, seen_at_us=NOON_US)]
    fake.begin = lambda _: (None, out(b"begun\n"))
    fake.on_get = unreachable
    command = [*COMMAND, "--coordinator", fake.address, "run", "--", "x"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stderr is not None
    assert run.stderr.readline() == f"hostler: {AWAY}\n".encode()

    fake.on_get = lambda job: job
    assert run.stderr.readline() == b"hostler: stable is back\n"
    run.send_signal(signal.SIGUSR1)
    fake.wait_until_heard("signal 10")
    fake.end(next(iter(fake.jobs)), exited(3))

    assert end(run) == (3, b"begun\n", b"")
