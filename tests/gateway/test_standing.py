"""Whether a gateway may speak for its callers: nobody is let in before that is known, and it ends when it may not."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from hostler.access_client import TurnedAway
from hostler.client import Client
from hostler.errors import HostlerError, InvalidRequest, PermissionDenied, Unauthenticated, Unavailable
from hostler.settings import load
from http_gateway import standing as standing_module
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from http_gateway.standing import Standing
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator

AWAY = Unavailable("it does not answer")


@dataclass(slots=True)
class Answers:
    """A coordinator that says one thing after the other, and then the last one again."""

    left: list[HostlerError | None]

    async def note_refusals(self, refusals: Sequence[TurnedAway]) -> None:
        """Take note of none, or refuse to."""
        assert not refusals
        answer = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if answer is not None:
            raise answer


async def test_nobody_is_let_in_before_it_is_known_whether_the_gateway_may_speak_for_others(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Neither who shows a key nor who shows none; what is anybody's is served, and all of it afterwards."""
    standing = Standing(Answers([AWAY, None]))
    key = {"x-api-key": coordinator.access.add("operator")}
    async with (
        Client(coordinator.address, principal=UNSAID) as client,
        serve(make_app(client, load(data_dir=tmp_path), standing=standing), "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as session,
    ):
        caller = Caller(url, session)
        await standing.ask_first()
        for headers in ({}, key):
            answer = await caller.get("/v1/workers", headers=headers)
            assert answer.status == 503 and "speak for its callers" in answer.text
        assert (await caller.post("/start", {"command": "true"})).status == 503
        assert (await caller.get("/health")).status == 200
        assert (coordinator.jobs, coordinator.access.asked) == ({}, 0)

        await standing.ask_first()
        for headers in ({}, key):
            assert (await caller.get("/v1/workers", headers=headers)).status == 200


@pytest.mark.parametrize("refusal", [PermissionDenied("no scope"), Unauthenticated("no good")])
async def test_a_gateway_that_may_not_speak_for_others_is_told_what_to_do(refusal: HostlerError) -> None:
    """At its start."""
    with pytest.raises(InvalidRequest, match="hostler keys create gateway --role gateway"):
        await Standing(Answers([refusal])).ask_first()


async def test_a_key_that_is_revoked_later_ends_the_gateway_and_an_absence_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked about again and again."""
    monkeypatch.setattr(standing_module, "AGAIN_S", 0.01)
    standing = Standing(Answers([None, AWAY, None, AWAY, Unauthenticated("revoked")]))
    await standing.ask_first()
    standing.check()

    async with asyncio.timeout(10):
        with pytest.raises(InvalidRequest, match="revoked"):
            await standing.run()


async def test_on_the_coordinators_own_socket_a_gateway_may_speak_at_once_and_asks_nobody() -> None:
    """It is believed there without a key."""
    standing = Standing(None)
    standing.check()
    await standing.ask_first()
    running = asyncio.create_task(standing.run())
    await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
