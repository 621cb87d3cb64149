"""The Infernet document, endpoint by endpoint, in its order: what runs on the node, and jobs that are created.

Results, recorded statuses, streams and callers have files of their own: test_infernet_results.py,
test_infernet_status.py, test_infernet_stream.py and test_infernet_callers.py.
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostler.errors import InvalidRequest, Overloaded, WorkloadNotFound
from hostler.ids import is_uuid, new_uuid
from hostler.jobs import Container, Job, JobSpec, Service, Stage, Work
from hostler.lifecycle import State
from hostler.workloads import Runtime, Workload
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import NOT_NOW, NOW_US, FakeCoordinator, finished
from tests.gateway.infernet_calls import CONTAINERS, UNKNOWN, a_job, a_request, container, open_gateway
from tests.support.waiting import until

PREFIXES = ("", "/infernet")


@pytest.fixture(autouse=True)
def containers(coordinator: FakeCoordinator) -> None:
    """What the coordinator knows."""
    coordinator.workloads.add(*CONTAINERS)


def pending(number: int, family: str = "infernet") -> Job:
    """A job that is not over."""
    spec = JobSpec(work=Work(argv=("x",)), stages=(Stage(workload="echo"),), family=family, owner="local")
    return Job(id=new_uuid(number.to_bytes(16)), spec=spec, state=State.QUEUED, queued_at_us=NOW_US)


# 1. GET /info


async def test_info_is_the_containers_running_on_this_node_and_the_number_of_jobs_pending(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`GET /info`: with the two keys that later versions have; jobs of other families do not count."""
    coordinator.workloads.known.clear()
    coordinator.workloads.add(container("echo"), container("inner", external=False, documentation=""))
    for number in range(3):
        coordinator.jobs[str(number)] = pending(number)
    coordinator.jobs["over"], coordinator.jobs["other"] = finished(pending(9)), pending(10, "pixyz")

    for prefix in PREFIXES:
        answer = await gateway.get(prefix + "/info")

        assert answer.status == 200
        assert answer.json == {
            "containers": [
                {"id": "echo", "description": "The container echo.", "external": True, "image": "example/echo:1"},
                {"id": "inner", "description": "", "external": False, "image": "example/inner:1"},
            ],
            "pending": {"offchain": 3, "onchain": 0},
            "version": "1.4.0",
            "chain": {"enabled": False, "address": ""},
        }


async def test_info_shows_what_is_shown_to_this_api_and_an_image_only_of_what_has_one(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """A workload of no family belongs to all; a service may have its image, or somebody else's address."""
    coordinator.workloads.known.clear()
    service = Service(container=Container(image="example/service:2"))
    coordinator.workloads.add(
        Workload(name="all", argv=("true",)),
        Workload(name="others", argv=("true",), families=("pixyz",)),
        container("served", runtime=Runtime.SERVICE, container=None, service=service),
        container("far", runtime=Runtime.SERVICE, container=None, service=Service(url="http://secret.example")),
    )

    answer = await gateway.get("/info")

    assert {c["id"]: c["image"] for c in answer.json["containers"]} == {
        "all": "", "served": "example/service:2", "far": "",
    }  # fmt: skip
    assert "secret.example" not in answer.text


async def test_info_asks_the_coordinator_once_and_for_the_containers_at_most_once_a_second(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """The client waits one second for it."""
    for _ in range(20):
        assert (await gateway.get("/info")).status == 200
    assert coordinator.workloads.lists < 5


async def test_info_names_the_version_of_the_settings(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    """Clients may look at it."""
    async with open_gateway(coordinator, tmp_path, infernet_version="0.2.0") as gateway:
        assert (await gateway.caller().get("/info")).json["version"] == "0.2.0"


# 2a. POST /api/jobs


async def test_post_job_creates_a_new_off_chain_job_and_its_id_is_a_uuid(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`POST /api/jobs`: one stage for each container; data are the parameters of the first."""
    for prefix in PREFIXES:
        answer = await gateway.post(prefix + "/api/jobs", a_request("echo", "inner", "echo"))

        assert (answer.status, set(answer.json)) == (200, {"id"})
        assert is_uuid(answer.json["id"])
        spec = coordinator.jobs[answer.json["id"]].spec
        assert [stage.workload for stage in spec.stages] == ["echo", "inner", "echo"]
        assert (spec.family, spec.owner, spec.name, spec.workload) == ("infernet", "local", "echo,inner,echo", "")
        assert json.loads(spec.params) == {"input": "x"}
        assert spec.work.env == {
            "HOSTLER_SERVICE_SOURCE": "1",
            "HOSTLER_SERVICE_DESTINATION": "1",
            "HOSTLER_SERVICE_REQUIRES_PROOF": "false",
        }


async def test_a_job_can_be_found_before_its_post_is_answered(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Clients look it up at once, and take an empty list for "no such job"."""
    coordinator.on_submit = lambda job: job
    name = await a_job(gateway)
    assert (await gateway.get("/api/jobs", params={"id": name})).json == [
        {"id": name, "status": "running", "result": None}
    ]


async def test_the_id_and_the_ip_of_a_body_say_nothing_and_other_keys_are_passed_over(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """Neither is the caller's to choose."""
    name = await a_job(gateway, id=UNKNOWN, ip="10.0.0.1", signature="x", more=[1])
    assert name != UNKNOWN
    assert coordinator.jobs[name].spec.owner == "local"
    answer = await gateway.post("/api/jobs", a_request("fenced", ip="10.0.0.1"))
    assert answer.json["params"] == {"container": "fenced", "address": "127.0.0.1"}


async def test_the_content_type_of_a_request_does_not_matter(gateway: Caller) -> None:
    """JSON is JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        body = io.BytesIO(json.dumps(a_request()).encode())
        answer = await gateway.call("POST", "/api/jobs", data=body, headers={"Content-Type": kind})
        assert answer.status == 200


@pytest.mark.parametrize("proof", [True, False, None])
async def test_requires_proof_is_told_to_the_containers(
    gateway: Caller, coordinator: FakeCoordinator, proof: bool | None
) -> None:
    """The published client always sends it."""
    name = await a_job(gateway, "echo", "prover", requires_proof=proof)
    assert coordinator.jobs[name].spec.work.env["HOSTLER_SERVICE_REQUIRES_PROOF"] == ("true" if proof else "false")


@pytest.mark.parametrize(
    ("names", "more", "error", "params"),
    [
        ((), {"containers": []}, "No containers specified", {}),
        ((), {"containers": [], "requires_proof": True}, "No containers specified", {}),
        (("inner", "nobody", "no one"), {}, "Container not supported", {"container": "nobody"}),
        (("others",), {}, "Container not supported", {"container": "others"}),
        (("inner", "echo"), {}, "First container must be external", {"first_container": "inner"}),
        (
            ("inner", "fenced"),
            {"requires_proof": True},
            "First container must be external",
            {"first_container": "inner"},
        ),
        (("prover", "echo"), {"requires_proof": True}, "Container does not generate proof", {"container": "echo"}),
        (("fenced", "echo"), {"requires_proof": True}, "Container does not generate proof", {"container": "echo"}),
        (
            ("echo", "open", "fenced"),
            {},
            "Container not allowed for address",
            {"container": "fenced", "address": "127.0.0.1"},
        ),
    ],
)
@pytest.mark.parametrize("path", ["/api/jobs", "/api/jobs/stream", "/infernet/api/jobs"])
async def test_post_job_failure_is_400_with_the_error_message_and_additional_error_parameters(
    gateway: Caller, coordinator: FakeCoordinator, path: str, names: tuple[str, ...], more: Any, error: str, params: Any
) -> None:
    """The guardian's refusals, of which the first that applies is said; nothing is started."""
    coordinator.workloads.add(Workload(name="others", families=("pixyz",)))

    answer = await gateway.post(path, a_request(*names) | more)

    assert (answer.status, answer.json) == (400, {"error": error, "params": params})
    assert not coordinator.jobs


async def test_a_delegated_subscription_is_400_for_there_is_no_chain(gateway: Caller) -> None:
    """In the published client's form; a job request that has such a key besides is a job request."""
    body = {
        "signature": {"nonce": 1, "expiry": 2, "v": 27, "r": 3, "s": 4},
        "subscription": {"owner": "0x"},
        "data": {},
    }
    for path in ("/api/jobs", "/api/jobs/stream"):
        answer = await gateway.post(path, body)
        assert (answer.status, answer.json) == (400, {"error": "Chain not enabled", "params": {}})
    answer = await gateway.post("/api/jobs/batch", [body])
    assert (answer.status, answer.json) == (200, [{"error": "Chain not enabled", "params": {}}])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Could not parse message: "),
        (b"{", "Could not parse message: "),
        (b'{"containers": ["echo"], "containers": [], "data": {}}', "Could not parse message: "),
        (b'{"containers": ["echo"], "data": {"x": NaN}}', "Could not parse message: "),
        (b"[]", "a JSON object is expected"),
        (b'"echo"', "a JSON object is expected"),
        (b"null", "a JSON object is expected"),
        (b"{}", 'missing value for field "containers"'),
        (b'{"containers": ["echo"]}', 'missing value for field "data"'),
        (b'{"containers": "echo", "data": {}}', 'field "containers"'),
        (b'{"containers": [1], "data": {}}', 'field "containers"'),
        (b'{"containers": null, "data": {}}', 'field "containers"'),
        (b'{"containers": ["echo"], "data": []}', 'field "data"'),
        (b'{"containers": ["echo"], "data": null}', 'field "data"'),
        (b'{"containers": ["echo"], "data": {}, "requires_proof": "yes"}', 'field "requires_proof"'),
        (b'{"containers": [' + b'"echo",' * 100 + b'"echo"], "data": {}}', "101 containers; at most 100"),
    ],
)
@pytest.mark.parametrize("path", ["/api/jobs", "/api/jobs/stream"])
async def test_post_job_failure_is_400_when_the_body_is_malformed(
    gateway: Caller, coordinator: FakeCoordinator, path: str, body: bytes, says: str
) -> None:
    """JSON with a text, and nothing is started."""
    answer = await gateway.call("POST", path, data=io.BytesIO(body))

    assert (answer.status, set(answer.json)) == (400, {"error"})
    assert says in answer.json["error"]
    assert not coordinator.jobs


async def test_a_container_can_be_named_as_soon_as_it_is_registered(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """What is known is kept for a second, but nobody is refused by it."""
    assert (await gateway.get("/info")).status == 200
    coordinator.workloads.add(container("fresh"))
    await a_job(gateway, "fresh")


async def test_what_the_coordinator_refuses_is_400_with_its_words(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """A container that was removed meanwhile, or data that its schema does not take."""
    for error in (WorkloadNotFound("there is no workload 'echo'"), InvalidRequest("data.x: not a number")):
        coordinator.refuse = error
        answer = await gateway.post("/api/jobs", a_request())
        assert (answer.status, answer.json) == (400, {"error": error.message})


async def test_not_now_is_503_or_429_with_the_time_to_come_back(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """As JSON, which the client insists on."""
    for error, status in ((NOT_NOW, 503), (Overloaded("too many jobs wait", retry_after_s=3.0), 429)):
        coordinator.refuse = error
        answer = await gateway.post("/api/jobs", a_request())
        assert (answer.status, answer.json) == (status, {"error": error.message})
        assert int(answer.headers["Retry-After"]) >= 1


async def test_data_of_several_megabytes_is_stored_and_stands_for_the_parameters(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """What does not fit into a submission becomes a file of the first container; more than 16 MiB is refused."""
    for count in (200_000, 3_000_000):
        name = await a_job(gateway, "echo", data={"input": "é" * (count // 2)})
        spec = coordinator.jobs[name].spec
        (file,) = spec.work.files
        assert (spec.params, file.path) == ("", "params.json")
        stored = coordinator.files.stored[file.digest]
        assert len(stored) == file.size_bytes > count
        assert json.loads(stored) == {"input": "é" * (count // 2)}
    answer = await gateway.post("/api/jobs", a_request(data={"input": "x" * (16 * 1024 * 1024)}))
    assert (answer.status, set(answer.json)) == (413, {"error"})


@pytest.mark.parametrize("value", [10**40, -0.0, 1e300, "\x00 \u2028 😀", [[[]]], {}, True, None])
async def test_data_reaches_the_container_as_it_came(gateway: Caller, coordinator: FakeCoordinator, value: Any) -> None:
    """Numbers of any size, texts of any characters."""
    name = await a_job(gateway, data={"value": value})
    assert repr(json.loads(coordinator.jobs[name].spec.params)) == repr({"value": value})


# 2b. POST /api/jobs/batch


async def test_post_batch_is_an_array_of_job_uuid_or_error_for_each_job_request_in_order(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """`POST /api/jobs/batch`: a malformed or refused one is an error in its place and the rest run, in one call."""
    body = [
        a_request(),
        a_request("nobody"),
        17,
        a_request("echo", "inner"),
        {"containers": ["echo"]},
        a_request(requires_proof=True),
        a_request("prover", requires_proof=True, id=UNKNOWN),
    ]

    for prefix in PREFIXES:
        coordinator.submit_sizes.clear()
        answer = await gateway.post(prefix + "/api/jobs/batch", body)

        assert answer.status == 200
        assert [sorted(item) for item in answer.json] == [
            ["id"], ["error", "params"], ["error"], ["id"], ["error"], ["error", "params"], ["id"],
        ]  # fmt: skip
        assert answer.json[1] == {"error": "Container not supported", "params": {"container": "nobody"}}
        assert answer.json[4] == {"error": 'Could not enqueue job: missing value for field "data"'}
        assert coordinator.submit_sizes == [3]
        made = [coordinator.jobs[item["id"]].spec.name for item in answer.json if "id" in item]
        assert made == ["echo", "echo,inner", "prover"]


async def test_post_batch_fails_silently_for_one_that_the_coordinator_refuses(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """It is the caller's responsibility to check the returned array for errors."""
    coordinator.files.refuse = NOT_NOW  # so the large one cannot be stored
    answer = await gateway.post("/api/jobs/batch", [a_request(data={"x": "y" * 200_000}), a_request()])
    assert answer.status == 200
    assert answer.json[0] == {"error": NOT_NOW.message}
    assert set(answer.json[1]) == {"id"}


async def test_an_empty_batch_is_an_empty_array(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """And nobody is asked."""
    answer = await gateway.post("/api/jobs/batch", [])
    assert (answer.status, answer.json) == (200, [])
    assert coordinator.submit_sizes == []


@pytest.mark.parametrize("body", [{}, a_request(), None, 1, "x"])
async def test_post_batch_failure_is_400_when_it_is_not_a_list(gateway: Caller, body: Any) -> None:
    """In the real node's words."""
    answer = await gateway.call("POST", "/api/jobs/batch", data=io.BytesIO(json.dumps(body).encode()))
    assert (answer.status, answer.json) == (400, {"error": "Expected a list"})


async def test_post_batch_failure_is_400_when_it_is_not_json_or_too_long(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """At most 10,000 job requests at once."""
    answer = await gateway.call("POST", "/api/jobs/batch", data=io.BytesIO(b"[{]"))
    assert answer.status == 400
    assert answer.json["error"].startswith("Could not parse message: ")
    answer = await gateway.post("/api/jobs/batch", [{}] * 10_001)
    assert (answer.status, answer.json) == (400, {"error": "10001 job requests; at most 10000 at once"})
    assert not coordinator.jobs


async def test_a_batch_of_thousands_is_answered_in_order(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Each with its own id, which is found."""
    body = [a_request(data={"n": n}) if n % 10 else a_request("nobody") for n in range(3000)]
    answer = await gateway.post("/api/jobs/batch", body)
    for number, item in enumerate(answer.json):
        if number % 10:
            assert json.loads(coordinator.jobs[item["id"]].spec.params) == {"n": number}
        else:
            assert item["error"] == "Container not supported"


# What the document does not have


async def test_resources_is_what_each_container_offers(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """`GET /resources`: those that offer nothing are left out, and so is what is no JSON."""
    coordinator.workloads.add(
        container("llm", resources='{"models": ["a"], "n": 1.50}'),
        container("broken", resources="{"),
        replace(container("hidden", resources="{}"), families=("pixyz",)),
    )
    for path in ("/resources", "/infernet/resources", "/resources?model_id=a"):
        answer = await gateway.get(path)
        assert (answer.status, answer.json) == (200, {"llm": {"models": ["a"], "n": 1.5}})


@pytest.mark.parametrize("path", ["/health", "/infernet/health"])
async def test_health_is_healthy_while_the_coordinator_answers(
    gateway: Caller, coordinator: FakeCoordinator, path: str
) -> None:
    """`GET /health`: in the words of the node, with our own counts beside them."""
    assert (await gateway.get(path)).json["status"] == "healthy"
    coordinator.refuse = NOT_NOW

    async def unavailable() -> bool:
        answer = await gateway.get(path)
        return (answer.status, answer.json["status"]) == (503, "unavailable")

    await until(unavailable)


@pytest.mark.parametrize("path", ["/api", "/api/jobs/", "/api/jobs/x", "/api/chain/enabled", "/infernet", "/info/x"])
async def test_an_unknown_path_of_this_api_is_404_as_json(gateway: Caller, path: str) -> None:
    """The client refuses other types."""
    answer = await gateway.get(path)
    assert (answer.status, set(answer.json)) == (404, {"error"})


async def test_a_wrong_method_is_405_as_json(gateway: Caller) -> None:
    """With those that are right."""
    for method, path in (
        ("DELETE", "/api/jobs"),
        ("GET", "/api/jobs/batch"),
        ("POST", "/api/status"),
        ("PUT", "/info"),
    ):
        answer = await gateway.call(method, path)
        assert (answer.status, set(answer.json)) == (405, {"error"})
        assert answer.headers["Allow"]
