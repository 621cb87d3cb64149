"""An engine that runs on a real database behind a gate, with a clock that is moved by hand."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coordinator import decisions
from coordinator.decisions import Submission
from coordinator.engine import Engine
from coordinator.events import Report
from coordinator.metrics import Metrics
from coordinator.sessions import Session, Sessions
from coordinator.storage.sqlite import SqliteStore
from coordinator.watchers import Waiter, Watchers
from hostler.clock import ManualClock
from hostler.errors import HostlerError
from hostler.lifecycle import State
from tests.support.builders import W1, a_hello
from tests.support.gated_store import GatedStore


@dataclass(slots=True)
class Bench:
    """An engine and what it acts on."""

    engine: Engine
    store: GatedStore
    sessions: Sessions
    watchers: Watchers
    clock: ManualClock
    running: asyncio.Task[None]
    asked: list[asyncio.Task[Any]] = field(default_factory=list)

    def submit(self, *items: Submission) -> asyncio.Task[list[str | HostlerError]]:
        """Submit in a task of its own."""
        made = asyncio.create_task(self.engine.submit(items))
        self.asked.append(made)
        return made

    def join(self, worker: str = W1, session: str = "session-1", **changes: Any) -> Session:
        """A worker says hello; the session is attached once that is durable."""
        made = Session(worker, session)
        hello = a_hello(worker, session=session, **changes)
        self.engine.post(lambda live, now: decisions.on_hello(live, hello, made, now))
        return made

    def say(self, report: Report, worker: str = W1) -> None:
        """A worker reports."""
        self.engine.post(lambda live, now: decisions.on_report(live, worker, report, now))

    def wait_for(self, *jobs: str, until: State = State.FINISHED) -> Waiter:
        """Somebody waits for jobs."""
        waiter = Waiter()
        self.engine.post(lambda live, now: decisions.on_wait(live, jobs, until, waiter))
        return waiter

    def stop_job(self, job: str) -> Waiter:
        """Somebody stops a job and waits for the proof."""
        waiter = Waiter()
        self.engine.post(lambda live, now: decisions.on_stop(live, job, 1.0, "ada", waiter, now))
        return waiter


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A running engine; ended after the test, however it ended."""
    inner = await SqliteStore.open(tmp_path / "hostler.db")
    store, sessions, watchers, clock = GatedStore(inner), Sessions(), Watchers(), ManualClock()
    engine = Engine(
        store=store,
        sessions=sessions,
        watchers=watchers,
        clock=clock,
        metrics=Metrics(clock),
        lost_after=lambda _: 60.0,
        lease_s=8.0,
        max_queued=1_000_000,
    )
    await engine.load()
    made = Bench(engine, store, sessions, watchers, clock, asyncio.create_task(engine.run()))
    yield made
    store.release()
    for task in (made.running, *made.asked):
        task.cancel()
    await asyncio.gather(made.running, *made.asked, return_exceptions=True)
    await inner.close()
