"""Submissions that come together leave together: in order, bounded, each with its own answer."""

import asyncio
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import pytest

from hostler.errors import HostlerError, InternalError, InvalidRequest, Overloaded, Unavailable
from hostler.jobs import JobSpec, Work
from http_gateway import batching
from http_gateway.batching import Submitter


def a_spec(name: str, word: str = "true") -> JobSpec:
    """A job with a name."""
    return JobSpec(work=Work(argv=(word,)), name=name, principal="local")


class FakeClient:
    """Notes the calls; each waits until it is let go, and answers with the names as ids."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.let_go = asyncio.Event()
        self.error: Exception | None = None
        self.in_flight = 0
        self.in_flight_max = 0

    async def submit(self, specs: Iterable[JobSpec], *, principal: str | None = None) -> list[str | HostlerError]:
        """See above; a job named "bad" is refused."""
        assert principal == ""  # the jobs say it themselves
        names = [spec.name for spec in specs]
        self.calls.append(names)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        await self.let_go.wait()
        self.in_flight -= 1
        if self.error is not None:
            raise self.error
        return [InvalidRequest("bad") if name == "bad" else name for name in names]


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_submission_leaves_at_once() -> None:
    """Nothing waits on a timer."""
    client = FakeClient()
    client.let_go.set()
    async with Submitter(client) as submitter:
        assert await submitter.submit_one(a_spec("a")) == "a"


async def test_what_gathers_while_a_call_is_on_its_way_goes_with_the_next_one() -> None:
    """Each caller gets its own answer, an error too."""
    client = FakeClient()
    async with Submitter(client) as submitter:
        first = asyncio.create_task(submitter.submit_one(a_spec("a")))
        await _settle()
        names = [f"n{i}" for i in range(20)] + ["bad"]
        others = [asyncio.create_task(submitter.submit([a_spec(name)])) for name in names]
        await _settle()
        assert client.calls == [["a"]]
        client.let_go.set()
        answers = await asyncio.gather(*others)

        assert await first == "a"
        assert client.calls == [["a"], names]
        assert [answer for (answer,) in answers[:-1]] == names[:-1]
        assert isinstance(answers[-1][0], InvalidRequest)
        with pytest.raises(InvalidRequest):
            await submitter.submit_one(a_spec("bad"))


async def test_a_long_submission_leaves_in_several_calls_and_is_answered_in_order() -> None:
    """At most 500 items a call, and at most four calls at once."""
    client = FakeClient()
    names = [str(n) for n in range(3_210)]
    async with Submitter(client) as submitter:
        call = asyncio.create_task(submitter.submit([a_spec(name) for name in names]))
        await _settle()
        assert client.in_flight == batching.CALLS_MAX
        client.let_go.set()
        assert await call == names

    assert [len(call) for call in client.calls] == [500] * 6 + [210]


async def test_a_call_has_at_most_a_mebibyte_unless_one_item_is_longer() -> None:
    """Counted by the texts of its items."""
    client = FakeClient()
    client.let_go.set()
    async with Submitter(client) as submitter:
        words = ["x" * 400_000] * 5 + ["x" * 3_000_000, "x"]
        await submitter.submit([a_spec(str(n), word) for n, word in enumerate(words)])

    assert client.calls == [["0", "1"], ["2", "3"], ["4"], ["5"], ["6"]]


async def test_above_the_bound_a_submission_is_refused_and_nothing_of_it_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits already is not touched; when it has left there is room again."""
    monkeypatch.setattr(batching, "WAITING_ITEMS_MAX", 10)
    client = FakeClient()
    async with Submitter(client) as submitter:
        first = asyncio.create_task(submitter.submit_one(a_spec("a")))
        await _settle()
        waiting = asyncio.create_task(submitter.submit([a_spec("b")] * 10))
        await _settle()
        with pytest.raises(Overloaded):
            await submitter.submit_one(a_spec("c"))
        client.let_go.set()

        assert (await first, await waiting) == ("a", ["b"] * 10)
        assert await submitter.submit_one(a_spec("d")) == "d"


@pytest.mark.parametrize("error", [Unavailable("gone"), RuntimeError("a fault")])
async def test_a_call_that_fails_fails_its_items_and_the_next_one_goes_on(error: Exception) -> None:
    """A fault of ours reaches the callers as InternalError."""
    client = FakeClient()
    client.error = error
    client.let_go.set()
    async with Submitter(client) as submitter:
        (answer,) = await submitter.submit([a_spec("a")])
        client.error = None

        assert isinstance(answer, Unavailable if isinstance(error, Unavailable) else InternalError)
        assert await submitter.submit_one(a_spec("b")) == "b"


async def test_a_caller_that_leaves_before_its_call_is_not_submitted() -> None:
    """Nobody would learn the id. One whose call has left is submitted."""
    client = FakeClient()
    async with Submitter(client) as submitter:
        sent = asyncio.create_task(submitter.submit_one(a_spec("sent")))
        await _settle()
        leaves = asyncio.create_task(submitter.submit_one(a_spec("leaves")))
        stays = asyncio.create_task(submitter.submit_one(a_spec("stays")))
        await _settle()
        leaves.cancel()
        sent.cancel()
        await _settle()
        client.let_go.set()

        assert await stays == "stays"
    assert client.calls == [["sent"], ["stays"]]


async def test_leaving_ends_what_is_on_its_way() -> None:
    """Nobody waits for ever."""
    client = FakeClient()
    async with Submitter(client) as submitter:
        calls = [asyncio.create_task(submitter.submit_one(a_spec(name))) for name in "ab"]
        await _settle()

    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*calls, return_exceptions=True))


LONG_PARTS = [
    (part, each.name, long)
    for part in (a_spec("a"), a_spec("a").work)
    for long in ("x" * 1000, {"x": "y" * 1000})
    for each in fields(part)
    if isinstance(getattr(part, each.name), type(long))
]


@pytest.mark.parametrize(("part", "name", "long"), LONG_PARTS, ids=[name for _, name, _ in LONG_PARTS])
async def test_whatever_a_job_is_long_of_counts_to_the_bounds(
    part: Any, name: str, long: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one caller's could make a call too long for the coordinator, and with it those of others."""
    monkeypatch.setattr(batching, "WAITING_BYTES_MAX", 1000)
    client = FakeClient()
    changed = replace(part, **{name: long})
    spec = changed if isinstance(changed, JobSpec) else replace(a_spec("a"), work=changed)
    async with Submitter(client) as submitter:
        with pytest.raises(Overloaded):
            await submitter.submit_one(spec)
    assert client.calls == []
