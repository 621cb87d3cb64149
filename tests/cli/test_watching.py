"""``jobs --watch``: every transition once, in order, over broken streams; and the table on a terminal."""

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

import pytest

from hostler.cli import watching
from hostler.cli.failures import Failure
from hostler.cli.watching import filter_of, transitions
from hostler.client import Client
from hostler.job_filters import parse_filter
from hostler.jobs import JobQuery, JobSpec, Work
from hostler.lifecycle import State
from tests.cli.fake_cluster import FakeCluster, exited

A_SPEC = JobSpec(work=Work(argv=("sleep", "100"), cwd="/"), name="nap")
SOON_S = 20.0


async def first(client: Client, chosen: str, after: int, count: int) -> list[int]:
    """The numbers of so many transitions."""
    found: list[int] = []
    async with asyncio.timeout(SOON_S), aclosing(transitions(client, chosen, after)) as events:
        async for event in events:
            found.append(event.number)
            if len(found) == count:
                break
    return found


async def test_transitions_go_on_where_the_stream_broke(fake: FakeCluster) -> None:
    """Wherever it broke: none is missing and none is there twice."""
    job = fake.add(spec=A_SPEC)
    fake.happen(job, *["assigned", "started"] * 10)
    fake.watch_breaks_after = [1, 4, 16, 31, 55]

    async with Client(fake.address) as client:
        assert await first(client, "", 0, 20) == list(range(1, 60, 3))
        assert await first(client, "", 28, 10) == list(range(31, 60, 3))
    assert fake.watch_breaks_after == []


async def test_a_filter_is_asked_of_each_job_when_something_happens(fake: FakeCluster) -> None:
    """In groups; broken streams change nothing about it."""
    jobs = [fake.add(spec=replace(A_SPEC, tags={"n": str(number % 2)})) for number in range(100)]
    for job in jobs:
        fake.happen(job, "queued")
    fake.watch_breaks_after = [1, 100, 101, 250]

    async with Client(fake.address) as client:
        assert await first(client, "n = 1", 0, 50) == list(range(4, 300, 6))


async def test_a_coordinator_that_stays_away_is_said_with_the_place_to_go_on(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that somebody who begins again misses nothing."""
    monkeypatch.setattr(watching, "PATIENCE_S", -1.0)
    job = fake.add(spec=A_SPEC)
    fake.happen(job, "assigned", "started")
    fake.watch_breaks_after = [4]
    async with Client(fake.address) as client:
        with pytest.raises(Failure, match="lost the coordinator") as caught:
            await first(client, "", 0, 3)
    assert caught.value.hint.endswith("--after 4")


@pytest.mark.parametrize(
    "query",
    [
        JobQuery(states=(State.RUNNING, State.QUEUED), name='a "b"', filter="x or y"),
        JobQuery(name="in"),
        JobQuery(filter="a = b"),
    ],
)
def test_the_conditions_of_a_list_become_one_filter(query: JobQuery) -> None:
    """Which has the same meaning."""
    selector = parse_filter(filter_of(query))
    facts = {"state": "running", "name": query.name, "x": "1", "a": "b"}
    assert selector.matches({name: value for name, value in facts.items() if value})
    assert not selector.matches({"state": "finished", "name": "z"})
    assert filter_of(JobQuery()) == ""


def command(fake: FakeCluster, *arguments: str) -> list[str]:
    """A command line of its own process."""
    return [sys.executable, "-m", "hostler.cli.main", "--coordinator", fake.address, "jobs", "--watch", *arguments]


def test_in_a_pipe_each_transition_is_a_line(fake: FakeCluster) -> None:
    """From the number that was asked for; as JSON one object a line."""
    job = fake.add(spec=A_SPEC)
    fake.happen(job, "queued", "assigned", "started")
    with subprocess.Popen(command(fake, "--after", "1", "--json"), stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        lines = [json.loads(watch.stdout.readline()) for _ in range(2)]
        watch.terminate()
    assert [(line["number"], line["kind"], line["job"]) for line in lines] == [
        (4, "assigned", job),
        (7, "started", job),
    ]
    with subprocess.Popen(command(fake, "--after", "4"), stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        line = watch.stdout.readline()
        watch.terminate()
    assert line.split()[2:] == [job, "started"]


@contextmanager
def on_a_terminal(arguments: list[str]) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Run a command on a pseudo-terminal of its own."""
    ours, theirs = pty.openpty()
    os.set_inheritable(theirs, True)
    process = subprocess.Popen(
        arguments,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield ours, process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """Read what is drawn until *text* is in it."""
    seen, end = b"", time.monotonic() + SOON_S
    while text.encode() not in seen:
        assert time.monotonic() < end, seen.decode(errors="replace")
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536)
    return seen.decode(errors="replace")


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_on_a_terminal_a_table_is_kept_fresh_until_q(fake: FakeCluster, key: bytes) -> None:
    """Or Ctrl-C; the terminal is given back, and the code is 0."""
    fake.add(spec=A_SPEC)
    with on_a_terminal(command(fake)) as (terminal, process):
        read_until(terminal, "nap")
        job = fake.add(exited(0), spec=replace(A_SPEC, name="second"))
        fake.happen(job, "queued")
        read_until(terminal, "second")
        if key == b"q":
            os.write(terminal, key)
        else:
            process.send_signal(2)
        assert "\x1b[?1049l" in read_until(terminal, "\x1b[?1049l")
        assert process.wait(SOON_S) == 0
