"""The Infernet API: chains of containers as jobs, with JSON going in and coming out.

    GET  /info             {"containers", "pending", "version", "chain"}
    POST /api/jobs         {"containers", "data"}             -> {"id"}
    POST /api/jobs/batch   a list of them                     -> a list of {"id"} or {"error", "params"}, in order
    GET  /api/jobs         ?id=&id=[&intermediate=true]       -> a list of results
    GET  /api/jobs         [?pending=true]                    -> a list of ids
    PUT  /api/status       {"id", "status", "containers"}     -> null
    POST /api/jobs/stream  as /api/jobs, the first container  -> the id and a newline, then its output as it comes
    GET  /resources        {container: what it offers}
    GET  /health           {"status": "healthy", ...}: see health.py
    errors                 {"error"[, "params"]}

At the root and under /infernet. A container is a workload that is shown to this family, or may be a
later stage of its chains. Each caller sees its own jobs, by the principal it is; ``id`` and ``ip`` of
a body say nothing. ``docs/apis/infernet.md`` says what the document leaves open.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
from aiohttp import web

from hostler.client import Client
from hostler.errors import ErrorCode, HostlerError, InvalidRequest
from hostler.jobs import SUBMIT_ITEMS_MAX, JobSpec
from hostler.settings import Settings
from http_gateway import bodies
from http_gateway import infernet_shapes as shapes
from http_gateway.api import Api, HttpRefused, json_response
from http_gateway.auth import peer_address
from http_gateway.batching import Submitter
from http_gateway.callers import caller_of, principal_of
from http_gateway.infernet_containers import Containers
from http_gateway.infernet_results import Results
from http_gateway.infernet_shapes import FAMILY, JobRequest, Refused
from http_gateway.infernet_stream import send_output
from http_gateway.large_bodies import LargeBodies
from http_gateway.large_params import with_params
from http_gateway.networks import is_within, parse_networks
from http_gateway.operations import ANY, NULL, OBJECT, TEXT, documented, either, json_body, listed, mapped, raw
from http_gateway.refusals import REFUSALS
from http_gateway.streamed_json import StreamedJson

ANSWER_S = 1.0  # for the coordinator to say how it fares: the client waits no longer
SLICE_ITEMS = 500  # of a batch, read before others get their turn
STOP_WAIT_S = 3.0  # for the proof that nothing is left of a streaming job whose caller has gone

# The document knows 400. Kept apart: a body over the limit, and "not now".
STATUSES = {ErrorCode.WORKLOAD_NOT_FOUND: 400, ErrorCode.FILE_NOT_FOUND: 400, ErrorCode.NOT_RUNNING: 400}

A_REQUEST = json_body(shapes.JOB_REQUEST, one_container={"containers": ["echo"], "data": {"input": "x"}})


class Infernet:
    """The endpoints, in the document's order."""

    def __init__(
        self,
        client: Client,
        submitter: Submitter,
        large_bodies: LargeBodies,
        settings: Settings,
        closing: asyncio.Event,
    ) -> None:
        """Prepare the family.

        Args:
            client: the coordinator's.
            submitter: for jobs.
            large_bodies: of all families together.
            settings: those that begin with ``infernet_``.
            closing: set when the gateway ends.

        Raises:
            InvalidRequest: a setting names a network that is none.
        """
        self._client = client
        self._submitter = submitter
        self._closing = closing
        self._version = settings.infernet_version
        self._status_networks = parse_networks(settings.infernet_status_networks, field="infernet_status_networks")
        self._containers = Containers(client)
        self._large_bodies = large_bodies

    def api(self) -> Api:
        """Return the family."""
        routes = (
            web.get("/info", self.info),
            web.post("/api/jobs", self.create),
            web.post("/api/jobs/batch", self.create_batch),
            web.get("/api/jobs", self.find),
            web.put("/api/status", self.record),
            web.post("/api/jobs/stream", self.stream),
            web.get("/resources", self.resources),
        )
        owns = ("/info", "/api", "/resources", "/infernet")
        return Api(
            name=FAMILY,
            prefixes=("", "/infernet"),
            owns=owns,
            routes=routes,
            error_schema=shapes.REFUSED,
            statuses=STATUSES,
        )

    @documented(shapes.INFO)
    async def info(self, request: web.Request) -> web.Response:
        """Retrieve information about the containers and the number of jobs pending."""
        principal = principal_of(request)
        cluster = await self._client.describe(timeout_s=ANSWER_S, principal=principal)
        known = await self._containers.known(principal)
        return json_response(
            {
                "containers": [shapes.container_shape(workload) for workload in known.values()],
                "pending": {"offchain": cluster.open_by_family.get(FAMILY, 0), "onchain": 0},
                "version": self._version,
                "chain": {"enabled": False, "address": ""},
            }
        )

    @documented(shapes.ID, body=A_REQUEST)
    async def create(self, request: web.Request) -> web.Response:
        """Create a new off-chain job."""
        spec = await self._read_one(request)
        if isinstance(spec, Refused):
            return json_response(spec.shape(), status=400)
        return json_response({"id": await self._submitter.submit_one(spec)})

    @documented(
        listed(either(shapes.ID, shapes.REFUSED)),
        body=json_body(
            listed(ANY),
            two_of_which_one_is_wrong=[{"containers": ["echo"], "data": {}}, {"containers": [], "data": {}}],
        ),
    )
    async def create_batch(self, request: web.Request) -> web.Response:
        """Create off-chain jobs in batch; each is answered in its place."""
        async with self._body(request, "Could not parse message") as body:
            if not isinstance(body, list):
                raise InvalidRequest("Expected a list")
            if len(body) > SUBMIT_ITEMS_MAX:
                raise InvalidRequest(f"{len(body)} job requests; at most {SUBMIT_ITEMS_MAX} at once")
            asked: list[JobRequest | Refused] = []
            for start in range(0, len(body), SLICE_ITEMS):
                asked += map(shapes.read_request, body[start : start + SLICE_ITEMS])
                await asyncio.sleep(0)
            principal = principal_of(request)
            checked = await self._containers.check(asked, peer_address(request), principal) if asked else []
            items = await self._specs(checked, principal)
            specs = [item for item in items if isinstance(item, JobSpec)]
            answers = iter(await self._submitter.submit(specs) if specs else ())
        return json_response([_answer_shape(next(answers) if isinstance(item, JobSpec) else item) for item in items])

    @documented(
        listed(either(TEXT, shapes.RESULT)),
        query={"id": listed(TEXT), "intermediate": shapes.FLAG, "pending": shapes.FLAG},
    )
    async def find(self, request: web.Request) -> web.StreamResponse:
        """Retrieve job results, or the ids of the caller's jobs."""
        results = Results(self._client, caller_of(request))
        answer = StreamedJson(request)
        if "id" in request.query:
            intermediate = _flag(request, "intermediate") or False
            await results.write_some(answer, request.query.getall("id"), intermediate=intermediate)
        else:
            await results.write_ids(answer, pending=_flag(request, "pending"))
        return await answer.end()

    @documented(
        NULL,
        body=json_body(
            shapes.RECORD, what_another_node_runs={"id": "9f2c", "status": "running", "containers": ["echo"]}
        ),
    )
    async def record(self, request: web.Request) -> web.Response:
        """Register the id and the status of a job that somebody else runs."""
        if not caller_of(request).shows_key and not is_within(peer_address(request), self._status_networks):
            error = HttpRefused(403, ErrorCode.PERMISSION_DENIED, "Unauthorized")
            request.app[REFUSALS].note(request, error, caller_of(request))
            raise error
        async with self._body(request, "Could not store job status") as body:
            record = shapes.read_record(body)
        if isinstance(record, Refused):
            return json_response(record.shape(), status=400)
        await self._client.records.put(record, principal=principal_of(request))
        return json_response(None)

    @documented(
        raw(text="the id and a newline, then the output as it comes"),
        body=A_REQUEST,
    )
    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Create a job of the first container, and send its output as it comes."""
        spec = await self._read_one(request, stream=True)
        if isinstance(spec, Refused):
            return json_response(spec.shape(), status=400)
        principal = principal_of(request)
        submitting = asyncio.create_task(self._submitter.submit_one(spec))
        try:
            # A caller who hangs up must not cut the submission off: the job would run and nobody knew its id.
            name = await asyncio.shield(submitting)
            return await send_output(request, self._client, name, self._closing, principal=principal)
        except (asyncio.CancelledError, ConnectionError):
            # Who hangs up ends the call of the container; a gateway that ends does not end its jobs.
            if not self._closing.is_set():
                await self._stop(submitting, principal)
            raise

    @documented(mapped(OBJECT))
    async def resources(self, request: web.Request) -> web.Response:
        """Retrieve what the containers say that they offer; those that say nothing are left out."""
        known = await self._containers.known(principal_of(request))
        found = ((name, shapes.resources_of(workload)) for name, workload in known.items())
        return json_response({name: offered for name, offered in found if offered is not None})

    # What they share

    @asynccontextmanager
    async def _body(self, request: web.Request, refusal: str) -> AsyncIterator[object]:
        """Read the body as JSON; what is none is refused in the document's words."""
        try:
            async with self._large_bodies.json_of(request) as body:
                yield body
        except bodies.NotJson as error:
            raise InvalidRequest(f"{refusal}: {error.message}") from None

    async def _read_one(self, request: web.Request, *, stream: bool = False) -> JobSpec | Refused:
        async with self._body(request, "Could not parse message") as body:
            principal = principal_of(request)
            (asked,) = await self._containers.check([shapes.read_request(body)], peer_address(request), principal)
            return asked if isinstance(asked, Refused) else await self._spec(asked, principal, stream=stream)

    async def _spec(self, asked: JobRequest, principal: str, *, stream: bool = False) -> JobSpec:
        """Make the job of a request; data that is too large to travel with it is stored first."""
        spec = shapes.job_spec(asked, principal=principal, stream=stream)
        return await with_params(self._client, spec, msgspec.json.encode(asked.data), principal=principal)

    async def _specs(
        self, checked: list[JobRequest | Refused], principal: str
    ) -> list[JobSpec | Refused | HostlerError]:
        items: list[JobSpec | Refused | HostlerError] = []
        for number, each in enumerate(checked):
            if number % SLICE_ITEMS == 0:
                await asyncio.sleep(0)
            if isinstance(each, Refused):
                items.append(each)
                continue
            try:
                items.append(await self._spec(each, principal))
            except HostlerError as error:
                items.append(error)
        return items

    async def _stop(self, submitting: asyncio.Task[str], principal: str) -> None:
        with suppress(HostlerError):
            name = await submitting
            await self._client.stop(name, wait_s=STOP_WAIT_S, family=FAMILY, principal=principal)


def _flag(request: web.Request, name: str) -> bool | None:
    text = request.query.get(name)
    return None if text is None else shapes.read_flag(text, name)


def _answer_shape(answer: str | Refused | HostlerError | JobSpec) -> dict[str, object]:
    if isinstance(answer, Refused):
        return answer.shape()
    return {"error": answer.message} if isinstance(answer, HostlerError) else {"id": answer}
