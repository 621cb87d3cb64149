"""The calls of the published Infernet clients, replayed: method, path, headers, body, and what they read of answers.

`infernet-client` makes each call with a session of its own and a deadline, and reads every answer but a
stream's as JSON, which its library refuses for other content types; `request_node.py` of the starter
kit takes element 0 of a lookup right after its POST. Both put a base URL, which may have a path, before
the paths.
"""

import asyncio
from functools import partial
from typing import Any

import aiohttp
import pytest

from hostler.lifecycle import Outcome
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator, finished
from tests.gateway.infernet_calls import CONTAINERS, UNKNOWN
from tests.support.waiting import eventually

REQUEST = {"containers": ["echo"], "data": {"input": "x"}, "requires_proof": False}


class RefusedCall(Exception):
    """What the client raises: the status, the text, and the parameters."""

    def __init__(self, status: int, error: str, params: Any) -> None:
        super().__init__(f"[{status}] {error} - {params}")
        self.status, self.error, self.params = status, error, params


class NodeCalls:
    """The client's calls of a node, each as it makes it."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    async def call(self, method: str, path: str, *, timeout_s: float, body: Any = None) -> Any:
        """Call, read JSON, and raise what an error answer says."""
        limit = aiohttp.ClientTimeout(total=timeout_s)
        options = {} if body is None else {"json": body}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.base_url + path, timeout=limit, **options) as response,
        ):
            answer = await response.json()
            if response.status >= 400:
                raise RefusedCall(response.status, answer.get("error", "Unknown error"), answer.get("params", None))
            return answer

    async def results(self, *ids: str, intermediate: bool = False) -> Any:
        """Look results up."""
        more = "&intermediate=true" if intermediate else ""
        return await self.call("GET", f"/api/jobs?id={'&id='.join(ids)}{more}", timeout_s=5)

    async def stream(self, body: Any) -> list[bytes]:
        """Stream: what comes from the network, piece by piece."""
        limit = aiohttp.ClientTimeout(total=180)
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.base_url + "/api/jobs/stream", json=body, timeout=limit) as response,
        ):
            if response.status != 200:
                answer = await response.json()
                raise RefusedCall(response.status, answer.get("error", "Unknown error"), answer.get("params", None))
            return [piece async for piece in response.content.iter_any()]


@pytest.fixture(params=["", "/infernet"])
def node(gateway: Caller, coordinator: FakeCoordinator, request: pytest.FixtureRequest) -> NodeCalls:
    """The client, told the gateway's address with and without a path."""
    coordinator.workloads.add(*CONTAINERS)
    return NodeCalls(gateway.url + request.param)


async def test_client_health_is_healthy(node: NodeCalls) -> None:
    """Whatever else the answer holds."""
    answer = await node.call("GET", "/health", timeout_s=1)
    assert answer["status"] == "healthy"


async def test_client_info_is_an_object(node: NodeCalls) -> None:
    """With the four keys of its type, within a second."""
    answer = await node.call("GET", "/info", timeout_s=1)
    assert set(answer) == {"version", "chain", "containers", "pending"}
    assert set(answer["chain"]) == {"address", "enabled"}
    assert set(answer["containers"][0]) == {"id", "description", "external", "image"}
    assert set(answer["pending"]) == {"offchain", "onchain"}


async def test_client_resources_is_an_object(node: NodeCalls) -> None:
    """With and without a model to look for."""
    assert await node.call("GET", "/resources", timeout_s=1) == {}
    assert await node.call("GET", "/resources?model_id=a%2Fb", timeout_s=1) == {}


async def test_client_job_is_an_id_or_an_error_with_parameters(node: NodeCalls) -> None:
    """2xx with an id, else an object with a text."""
    assert isinstance((await node.call("POST", "/api/jobs", timeout_s=5, body=REQUEST))["id"], str)
    for body, error, params in (
        (REQUEST | {"containers": ["nobody"]}, "Container not supported", {"container": "nobody"}),
        (REQUEST | {"containers": [""]}, "Container not supported", {"container": ""}),
        ({"containers": ["echo"]}, 'Could not enqueue job: missing value for field "data"', None),
    ):
        with pytest.raises(RefusedCall) as caught:
            await node.call("POST", "/api/jobs", timeout_s=5, body=body)
        assert (caught.value.status, caught.value.error, caught.value.params) == (400, error, params)


async def test_client_job_sync_polls_until_it_is_not_running(node: NodeCalls, coordinator: FakeCoordinator) -> None:
    """`[]` is "not found"; `running` is waited for; then the output, or the error, is looked into."""
    assert await node.results(UNKNOWN) == []
    for outcome, key, expected in (
        (Outcome.SUCCEEDED, "output", {"output": "hello"}),
        (Outcome.FAILED, "error", "exited with code 3"),
    ):
        name = (await node.call("POST", "/api/jobs", timeout_s=5, body=REQUEST))["id"]
        (job,) = await node.results(name)
        assert job["status"] == "running"
        end = partial(finished, outcome=outcome, result=b'{"output": "hello"}', evidence="exited with code 3")
        await coordinator.move(name, end)
        (job,) = await node.results(name)
        assert job["status"] != "running"
        assert job["result"][key] == expected


async def test_client_results_is_a_list(node: NodeCalls) -> None:
    """Of those that are known, with intermediate results when asked for."""
    names = [(await node.call("POST", "/api/jobs", timeout_s=5, body=REQUEST))["id"] for _ in range(2)]
    assert [job["id"] for job in await node.results(*names)] == names
    assert [job["intermediate_results"] for job in await node.results(*names, intermediate=True)] == [[], []]


async def test_client_ids_is_a_list_of_texts(node: NodeCalls, coordinator: FakeCoordinator) -> None:
    """All, pending, completed."""
    first, second = [(await node.call("POST", "/api/jobs", timeout_s=5, body=REQUEST))["id"] for _ in range(2)]
    await coordinator.move(second, finished)
    assert await node.call("GET", "/api/jobs", timeout_s=5) == [first, second]
    assert await node.call("GET", "/api/jobs?pending=true", timeout_s=5) == [first]
    assert await node.call("GET", "/api/jobs?pending=false", timeout_s=5) == [second]


async def test_client_request_jobs_is_a_list_in_order(node: NodeCalls) -> None:
    """An id or an error for each."""
    body = [REQUEST, REQUEST | {"containers": ["inner"]}, REQUEST]
    answer = await node.call("POST", "/api/jobs/batch", timeout_s=10, body=body)
    assert [sorted(item) for item in answer] == [["id"], ["error", "params"], ["id"]]


async def test_client_stream_is_the_id_and_then_bytes(node: NodeCalls, coordinator: FakeCoordinator) -> None:
    """The first piece, stripped, is the id."""
    reading = asyncio.create_task(node.stream(REQUEST))
    name = await coordinator.accepted.get()
    await eventually(lambda: coordinator.readers == 1, "the output is read")
    await coordinator.write(name, (1, b"hello "), (1, b"world"))
    await coordinator.move(name, finished)
    first, *rest = await reading
    assert first.decode("utf-8").strip() == name
    assert b"".join(rest) == b"hello world"
    with pytest.raises(RefusedCall, match="First container must be external"):
        await node.stream(REQUEST | {"containers": ["inner"]})


async def test_client_record_status_reads_json_even_on_200(node: NodeCalls) -> None:
    """With the whole job request in its body."""
    body = {"id": "job-1", "status": "failed", **REQUEST}
    await node.call("PUT", "/api/status", timeout_s=5, body=body)
    (job,) = await node.results("job-1")
    assert (job["status"], job["result"]["container"]) == ("failed", "echo")
    with pytest.raises(RefusedCall, match="Status is invalid"):
        await node.call("PUT", "/api/status", timeout_s=5, body=body | {"status": "gone"})


async def test_client_delegated_subscription_is_refused_in_words(node: NodeCalls) -> None:
    """There is no chain."""
    body = {"signature": {"nonce": 0, "expiry": 1, "v": 27, "r": 1, "s": 2}, "subscription": {}, "data": {}}
    with pytest.raises(RefusedCall, match="Chain not enabled"):
        await node.call("POST", "/api/jobs", timeout_s=5, body=body)


async def test_request_node_takes_element_0_right_after_its_post(node: NodeCalls, coordinator: FakeCoordinator) -> None:
    """However the job is placed."""
    coordinator.on_submit = lambda job: job
    for _ in range(20):
        name = (await node.call("POST", "/api/jobs", timeout_s=5, body=REQUEST))["id"]
        assert (await node.results(name))[0]["status"] == "running"
