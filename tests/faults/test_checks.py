"""The checks themselves: each kind of contradiction is seen."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hostler.errors import Unavailable
from tests.faults.callers import Callers, Undocumented
from tests.faults.history import contradictions
from tests.faults.programs import Plan

Event = tuple[str, int, int]  # kinds, stage, attempt


def a_database(path: Path, *events: Event) -> Path:
    """The tables that are read, with one job and its events."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE job (number INTEGER PRIMARY KEY, id TEXT, state INTEGER)")
        connection.execute("CREATE TABLE event (number INTEGER PRIMARY KEY, job, kinds, stage, attempt)")
        connection.execute("INSERT INTO job VALUES (1, 'one', 5)")
        connection.executemany("INSERT INTO event (job, kinds, stage, attempt) VALUES (1, ?, ?, ?)", events)
    return path


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        ([("queued,assigned", 0, 1), ("started", 0, 1), ("ended", 0, 1)], ""),
        ([("queued", 0, 0), ("assigned", 0, 1), ("retried", 0, 1), ("assigned", 0, 2), ("ended", 0, 2)], ""),
        ([("queued,assigned", 0, 1), ("ended", 0, 1), ("ended", 0, 1)], "ended 2 times"),
        ([("queued,assigned", 0, 1), ("ended", 0, 1), ("assigned", 0, 2)], "went on with"),
        ([("assigned", 0, 2), ("assigned", 0, 1)], "went back"),
        ([], "has no event"),
    ],
)
def test_an_event_log_that_contradicts_itself_is_seen(tmp_path: Path, events: list[Event], seen: str) -> None:
    """A job ends once, nothing comes after its end, and attempts only grow."""
    found = contradictions(a_database(tmp_path / "db", *events))
    assert (seen in found[0]) if seen else found == []


class Gateway:
    """Stands in for a site whose gateway gives the answer it is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = self.truth = directory
        self.gateway_url = ""


@pytest.mark.parametrize(
    ("plan", "status", "answer", "expected"),
    [
        (Plan(number=1, key="k", door="v1"), 500, {"error": {"code": "internal"}}, Undocumented),
        (Plan(number=1, key="k", door="v1"), 200, {"jobs": [{"id": "x", "more": 1}]}, Undocumented),
        (Plan(number=1, key="k", door="v1"), 503, {"error": {}}, Undocumented),  # it does not say when to come back
        (Plan(number=1, key="k", door="start", worker="w1"), 500, {"error": "worker not found"}, Unavailable),
        (Plan(number=1, key="k", door="start", worker="w1"), 500, {"error": "KeyError"}, Undocumented),
        (Plan(number=1, key="k", door="start", worker="w1"), 201, {"id": "x"}, Undocumented),
    ],
)
async def test_an_answer_that_no_document_knows_is_seen(
    tmp_path: Path, plan: Plan, status: int, answer: Any, expected: type[Exception]
) -> None:
    """Whatever its status; what may be asked again is told apart."""

    async def answering(_: web.Request) -> web.Response:
        return web.json_response(answer, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answering)
    async with TestServer(app) as server:
        site: Any = Gateway(tmp_path)
        site.gateway_url = str(server.make_url("")).rstrip("/")
        callers = Callers(site, worker_ids={"w1": "id"})
        try:
            with pytest.raises(expected):
                await callers.submit(plan)
        finally:
            await callers.close()
