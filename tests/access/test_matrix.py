"""Every RPC of the table, called with every kind of credential over a real port that trusts nobody."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from coordinator.app import Coordinator
from coordinator.rpc import guard
from coordinator.rpc.guard import NoPolicy
from coordinator.rpc.key_ring import NO_GOOD
from hostler.client import Client
from hostler.keys import RANDOM_BYTES, make_key
from hostler.policy import EVERYTHING, RPCS, Door, Scope
from hostler.settings import Settings
from tests.access.calls import SCOPED, end_of
from tests.support.waiting import eventually

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
GUARDED = [name for name, rule in RPCS.items() if rule is not Door.ANYBODY]
NOT_ASSERTING = frozenset(Scope) - {Scope.PRINCIPALS_ASSERT}

MakeKey = Callable[[Client], Awaitable[str]]


async def _garbage(local: Client) -> str:
    return "no key at all"


async def _unknown(local: Client) -> str:
    return make_key(bytes(range(RANDOM_BYTES))).text


async def _wrong_secret(local: Client) -> str:
    made = await local.access.create_key("k", scopes=["admin"])
    return f"hst_{made.key.id}_{'A' * 43}"


async def _expired(local: Client) -> str:
    made = await local.access.create_key("k", scopes=["admin"], expires_in_s=0.01)
    await eventually(lambda: time.time_ns() // 1000 > made.key.expires_at_us, "it has expired")
    return made.text


async def _revoked(local: Client) -> str:
    made = await local.access.create_key("k", scopes=["admin"])
    await local.access.revoke_key(made.key.id)
    return made.text


async def _from_elsewhere(local: Client) -> str:
    return (await local.access.create_key("k", scopes=["admin"], networks=["10.0.0.0/8"])).text


async def test_without_a_credential_nothing_is_answered(port: Any, coordinator: Coordinator) -> None:
    """And it is said what to do."""
    ends = {name: await end_of(port, name) for name in GUARDED}

    assert {name for name, end in ends.items() if end.code is not UNAUTHENTICATED} == set()
    assert all("without a key" in end.text for end in ends.values())


@pytest.mark.parametrize("bearer", [False, True])
@pytest.mark.parametrize(
    "make", [_garbage, _unknown, _wrong_secret, _expired, _revoked, _from_elsewhere], ids=lambda make: make.__name__
)
async def test_a_credential_that_is_no_good_opens_nothing(
    port: Any, local: Client, make: MakeKey, bearer: bool
) -> None:
    """In one text, which does not tell what is wrong with it."""
    text = await make(local)

    ends = {name: await end_of(port, name, text, bearer=bearer) for name in GUARDED}

    assert {name: end for name, end in ends.items() if end != (UNAUTHENTICATED, NO_GOOD)} == {}


async def test_every_scope_but_the_one_is_too_little(port: Any, local: Client) -> None:
    """And the one that is missing is named."""
    keys = {
        scope: (
            await local.access.create_key("k", scopes=[*(frozenset(Scope) - {scope, Scope.PRINCIPALS_ASSERT})])
        ).text
        for scope in set(SCOPED.values())
    }

    ends = {name: await end_of(port, name, keys[scope]) for name, scope in SCOPED.items()}

    assert {name for name, end in ends.items() if end.code is not DENIED} == set()
    assert all(f"scope {SCOPED[name]}," in end.text for name, end in ends.items())


async def test_the_one_scope_is_enough(port: Any, local: Client) -> None:
    """What comes then is the method's own answer to an empty request."""
    keys = {scope: (await local.access.create_key("k", scopes=[scope])).text for scope in set(SCOPED.values())}
    # An empty text is no key, and that is answered as it is here.
    asked: dict[str, dict[str, Any]] = {"Access/Authenticate": {"text": keys[Scope.JOBS_READ]}}

    ends = {name: await end_of(port, name, keys[scope], **asked.get(name, {})) for name, scope in SCOPED.items()}

    assert [name for name, end in ends.items() if end.code in (UNAUTHENTICATED, DENIED)] == []
    assert {name for name, end in ends.items() if end.code is grpc.StatusCode.UNIMPLEMENTED} == set()


async def test_no_key_opens_the_door_of_workers(port: Any, local: Client) -> None:
    """Whatever its scopes: a worker is what its certificate or the socket says."""
    key = (await local.access.create_key("k", scopes=[*Scope])).text

    ends = {name: await end_of(port, name, key) for name, rule in RPCS.items() if rule is Door.WORKER}

    assert {end.code for end in ends.values()} == {DENIED}


async def test_what_needs_no_scope_needs_a_caller_who_is_known(port: Any, local: Client) -> None:
    """Submitting nothing is allowed to whoever is known; each item is looked at on its own."""
    key = (await local.access.create_key("k", scopes=["metrics:read"])).text

    assert (await end_of(port, "Jobs/Submit", key)).code is grpc.StatusCode.OK
    assert (await end_of(port, "Access/Join")).text != NO_GOOD


async def test_two_different_keys_are_no_key(port: Any, local: Client) -> None:
    """Nobody has to guess which of them counts."""
    one, two = [(await local.access.create_key(name, scopes=["admin"])).text for name in "ab"]
    describe = port.unary_unary("/hostler.v1.Cluster/Describe")

    codes = [
        await describe(b"", timeout=20, metadata=(("x-api-key", one), ("authorization", f"Bearer {other}"))).code()
        for other in (two, one)
    ]

    assert codes == [UNAUTHENTICATED, grpc.StatusCode.OK]


async def test_a_method_of_which_nobody_said_who_may_call_it_stops_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deny by default begins before anything listens."""
    monkeypatch.setattr(guard, "RPCS", {name: rule for name, rule in RPCS.items() if name != "Jobs/Get"})

    with pytest.raises(NoPolicy, match="Jobs/Get"):
        async with Coordinator(settings):
            pytest.fail("it has started")


def test_a_scope_s_handler_cannot_be_hung_into_a_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table and the wrapper say the same, or the server does not start."""
    monkeypatch.setattr(guard, "RPCS", {"Jobs/Get": Door.ANYBODY})

    with pytest.raises(NoPolicy):
        guard._scope_of("Jobs/Get")


def test_everything_is_everything_a_person_needs() -> None:
    """An administrator lacks only what makes a gateway."""
    assert frozenset(Scope) - EVERYTHING == {Scope.PRINCIPALS_ASSERT}
