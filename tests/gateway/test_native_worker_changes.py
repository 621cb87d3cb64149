"""``POST /v1/workers/{id}/drain``, ``resume`` and ``release``."""

from dataclasses import replace

import pytest

from hostler.workers import WorkerState
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import NOW_US, WORKER, FakeCoordinator, a_worker


async def test_a_worker_is_drained_and_resumed(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The answer is the worker as it is then; the body may be missing."""
    drained = await gateway.post(f"/v1/workers/{WORKER}/drain", {"deadline": 600, "reason": "new disk"})
    resumed = await gateway.post(f"/v1/workers/{WORKER}/resume")
    again = await gateway.post(f"/v1/workers/{coordinator.workers[0].name}/drain")

    assert (drained.status, drained.json["id"], drained.json["state"]) == (200, WORKER, "draining")
    assert (drained.json["reason"], drained.json["drain_by"]) == ("new disk", "2026-09-21T14:23:20.000000Z")
    assert (resumed.status, resumed.json["state"], resumed.json["reason"]) == (200, "connected", None)
    assert (again.status, again.json["drain_by"]) == (200, None)
    assert NOW_US == 1_790_000_000_000_000


async def test_the_quarantine_of_a_worker_is_ended(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """It is unreachable until its agent comes again."""
    coordinator.workers[0] = replace(a_worker(), state=WorkerState.QUARANTINED, reason="two agents spoke for it")
    before = (await gateway.get("/v1/workers")).json["workers"][0]

    after = await gateway.post(f"/v1/workers/{WORKER}/release", {})

    assert (before["state"], before["reason"]) == ("quarantined", "two agents spoke for it")
    assert (after.status, after.json["state"]) == (200, "unreachable")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nobody/drain", None, 404),
        ("nobody/resume", None, 404),
        ("nobody/release", None, 404),
        ("%FF/drain", None, 404),
        ("x" * 201 + "/drain", None, 404),
        (f"{WORKER}/drain", {"deadline": -1}, 400),
        (f"{WORKER}/drain", {"deadline": "10m"}, 400),
        (f"{WORKER}/drain", {"reason": "x" * 201}, 400),
        (f"{WORKER}/drain", {"leave": 1}, 400),
        (f"{WORKER}/resume", {"reason": "x"}, 400),
        (f"{WORKER}/release?now=1", None, 400),
    ],
)
async def test_what_cannot_be_meant_changes_nothing(
    gateway: Caller, coordinator: FakeCoordinator, path: str, body: object, status: int
) -> None:
    """Unknown workers are 404, wrong bodies and parameters 400."""
    answer = await gateway.post(f"/v1/workers/{path}", body)

    assert answer.status == status, answer.text
    assert coordinator.workers[0].state is WorkerState.CONNECTED
