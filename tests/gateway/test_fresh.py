"""Answers that serve all who ask within a moment."""

import asyncio

import pytest

from hostler.errors import Unavailable
from http_gateway import infernet_containers
from http_gateway.fresh import Fresh
from tests.gateway.conftest import Caller


async def test_all_who_ask_within_a_moment_get_one_answer_and_a_new_one_is_asked_for_later() -> None:
    """Also those that wait for it; who wants a new one gets what was asked for after it came."""
    asked: list[int] = []

    async def ask(_: str) -> int:
        asked.append(1)
        await asyncio.sleep(0.01)
        return len(asked)

    fresh = Fresh(ask, age_s_max=60.0)

    assert await asyncio.gather(*(fresh.get() for _ in range(20))) == [1] * 20
    # The first of them asks; those who came after that have the next answer, all of them.
    assert set(await asyncio.gather(*(fresh.get_new() for _ in range(20)))) <= {2, 3}
    assert await fresh.get() == len(asked) <= 3


async def test_an_error_is_for_those_who_waited_for_it() -> None:
    """The next one asks again, as the coordinator may be back."""
    answers: list[Unavailable | int] = [Unavailable("away"), 7]

    async def ask(_: str) -> int:
        await asyncio.sleep(0.01)
        answer = answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    fresh = Fresh(ask, age_s_max=60.0)
    found = await asyncio.gather(fresh.get(), fresh.get(), return_exceptions=True)

    assert [str(one) for one in found] == ["away", "away"]
    assert await fresh.get() == 7


async def test_info_waits_no_longer_for_the_list_of_workloads_than_its_client_does(
    gateway: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that hangs is an error, soon."""

    async def hang(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(infernet_containers, "ANSWER_S", 0.05)
    monkeypatch.setattr("hostler.workloads_client.WorkloadsClient.list", hang)

    answer = await gateway.get("/info")

    assert (answer.status, list(answer.json)) == (504, ["error"])
