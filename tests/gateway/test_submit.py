"""``POST /v1/jobs``: many jobs in one call, each answered in its place."""

from typing import Any

import pytest

from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import NOT_NOW, WORKER, FakeCoordinator
from tests.gateway.test_native import UNKNOWN, submitted


async def test_every_field_of_an_item_reaches_the_coordinator(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Those of the reference, with their defaults."""
    full = {
        "argv": ["sh", "-c", "exit 3"],
        "env": {"A": "ä"},
        "cwd": "/tmp",
        "worker": WORKER,
        "labels": {"zone": "a"},
        "priority": -5,
        "timeout": 1.5,
        "grace": 0,
        "key": "k",
        "name": "n",
        "owner": "o",
        "slots": 2,
        "output_bytes_max": 1000,
        "leftovers": "wait",
    }

    spec = coordinator.jobs[await submitted(gateway, **full)].spec
    plain = coordinator.jobs[await submitted(gateway)].spec

    assert (spec.work.argv, spec.work.env, spec.work.cwd) == (("sh", "-c", "exit 3"), {"A": "ä"}, "/tmp")
    assert (spec.worker, spec.labels, spec.priority, spec.slots) == (WORKER, {"zone": "a"}, -5, 2)
    assert (spec.work.timeout_s, spec.work.grace_s, spec.work.output_bytes_max) == (1.5, 0.0, 1000)
    assert (spec.key, spec.name, spec.owner, spec.work.leftovers_wait) == ("k", "n", "o", True)
    assert (plain.slots, plain.work.grace_s, plain.work.leftovers_wait, plain.family) == (1, 10.0, False, "native")


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({}, "argv"),
        ({"argv": []}, "argv"),
        ({"argv": "true"}, "argv"),
        ({"argv": ["a", 1]}, "argv.1"),
        ({"argv": ["a\x00"]}, "argv"),
        ({"argv": ["true"], "timeout": "1"}, "timeout"),
        ({"argv": ["true"], "timeout": -1}, "timeout"),
        ({"argv": ["true"], "priority": 1001}, "priority"),
        ({"argv": ["true"], "priority": True}, "priority"),
        ({"argv": ["true"], "slots": 2000}, "slots"),
        ({"argv": ["true"], "output_bytes_max": 10**30}, "output_bytes_max"),
        ({"argv": ["true"], "leftovers": "keep"}, "leftovers"),
        ({"argv": ["true"], "env": {"A": 1}}, "env.A"),
        ({"argv": ["true"], "comand": "x"}, "comand"),
        ({"argv": ["true"], "worker": UNKNOWN}, "worker"),
        ([], None),
        (None, None),
        (5, None),
    ],
)
async def test_a_bad_item_is_an_error_in_its_place_and_the_rest_run(gateway: Caller, item: Any, field: Any) -> None:
    """The error names the field; the order is that of the request."""
    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["a"]}, item, {"argv": ["b"]}]})

    first, bad, last = answer.json["jobs"]
    assert answer.status == 200
    assert list(first) == list(last) == ["id"]
    assert list(bad) == ["error"]
    assert set(bad["error"]) == {"code", "message", "field"}
    assert bad["error"]["field"] == field


async def test_an_item_that_names_an_unknown_worker_has_the_coordinators_code(gateway: Caller) -> None:
    """Codes are the stable words of hostler.errors."""
    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["a"], "worker": UNKNOWN}]})

    assert answer.json["jobs"][0]["error"]["code"] == "worker_not_found"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"nope", None),
        (b"[]", None),
        (b"null", None),
        (b"{}", "jobs"),
        (b'{"jobs": {}}', "jobs"),
        (b'{"jobs": [], "job": 1}', "job"),
        (b'{"jobs": [{"argv": ["\\ud800"]}]}', None),
        (b'{"jobs": [{"argv": ["a"], "timeout": NaN}]}', None),
        (b'{"jobs": [{"argv": ["a"], "argv": ["b"]}]}', None),
        (b'{"jobs": %s}' % (b"[" * 70 + b"]" * 70), None),
    ],
)
async def test_a_body_of_another_form_is_400_and_nothing_is_done(
    gateway: Caller, coordinator: FakeCoordinator, body: bytes, field: str | None
) -> None:
    """The error has the form of the family."""
    answer = await gateway.call("POST", "/v1/jobs", data=body)

    assert answer.status == 400
    assert answer.json["error"]["code"] == "invalid_request"
    assert answer.json["error"]["field"] == field
    assert answer.json["error"]["message"]
    assert not coordinator.jobs


async def test_ten_thousand_jobs_in_one_call_have_an_id_each(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """The coordinator gets them in calls of at most 500."""
    items = [{"argv": ["true", str(n)]} for n in range(10_000)]

    answer = await gateway.post("/v1/jobs", {"jobs": items})

    ids = [item["id"] for item in answer.json["jobs"]]
    assert len(set(ids)) == 10_000
    assert [coordinator.jobs[i].spec.work.argv[1] for i in ids] == [str(n) for n in range(10_000)]
    assert max(coordinator.submit_sizes) <= 500
    too_many = await gateway.post("/v1/jobs", {"jobs": [*items, items[0]]})
    assert (too_many.status, too_many.json["error"]["code"]) == (413, "too_large")


async def test_a_submission_may_have_16_mib_and_other_bodies_one(gateway: Caller) -> None:
    """Above that the answer is 413, before the body is read to its end."""
    word = "x" * 100_000
    fits = await gateway.post("/v1/jobs", {"jobs": [{"argv": [word]} for _ in range(160)]})
    over = await gateway.post("/v1/jobs", {"jobs": [{"argv": [word]} for _ in range(170)]})
    other = await gateway.post("/v1/jobs/wait", {"ids": [word] * 11})

    assert (fits.status, len(fits.json["jobs"])) == (200, 160)
    assert (over.status, other.status) == (413, 413)
    assert over.json["error"]["code"] == "too_large"


async def test_the_header_idempotency_key_is_the_key_of_a_single_job(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """With several jobs, or another key in the item, it is an error."""
    header = {"Idempotency-Key": "abc"}
    one = {"jobs": [{"argv": ["true"]}]}

    answer = await gateway.post("/v1/jobs", one, headers=header)
    differs = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"], "key": "x"}]}, headers=header)
    several = await gateway.post("/v1/jobs", {"jobs": one["jobs"] * 2}, headers=header)

    assert coordinator.jobs[answer.json["jobs"][0]["id"]].spec.key == "abc"
    assert differs.json["jobs"][0]["error"]["field"] == "key"
    assert (several.status, several.json["error"]["field"]) == (400, "key")


async def test_when_nothing_can_be_accepted_now_the_whole_answer_is_503(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """With Retry-After, so that a client repeats the call."""
    coordinator.refuse = NOT_NOW

    answer = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}] * 3})

    assert (answer.status, answer.json["error"]["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_no_jobs_are_no_error(gateway: Caller) -> None:
    """An empty list has an empty answer."""
    assert (await gateway.post("/v1/jobs", {"jobs": []})).json == {"jobs": []}
