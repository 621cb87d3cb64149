"""The native API's streams of events, also below ``/v1``.

GET    /v1/jobs/{id}/events  what happens to a job, from its acceptance to its end
GET    /v1/events            what happens to every job that the caller sees, from now on
errors                       {"error": {"code", "message", "field"}}

``docs/http-api.md`` is the reference.
"""

import asyncio

from aiohttp import web

from hostler.client import Client
from hostler.lifecycle import State
from http_gateway import event_stream
from http_gateway import native_parameters as parameters
from http_gateway.api import CODED_ERROR, Api, coded_error
from http_gateway.callers import principal_of
from http_gateway.operations import TEXT, Answer, described, documented

AFTER = described(TEXT, "only events with a higher number; Last-Event-ID says it too, and goes before")


class NativeEvents:
    """The endpoints of ``/v1`` that tell what happens."""

    def __init__(self, client: Client, closing: asyncio.Event) -> None:
        self._client = client
        self._closing = closing

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name="native_events",
            prefixes=("/v1",),
            owns=(),  # what is below /v1 is the native API's
            routes=(
                web.get("/jobs/{id}/events", self.of_job, allow_head=False),
                web.get("/events", self.of_all, allow_head=False),
            ),
            render_error=coded_error,
            error_schema=CODED_ERROR,
        )

    @documented(
        Answer(media=("text/event-stream",), text="each transition an event; the last one is end"),
        query={"after": AFTER},
    )
    async def of_job(self, request: web.Request) -> web.StreamResponse:
        """Send what has happened to a job and what happens still, until it has ended."""
        name = parameters.job_id(request)
        parameters.check_names(request, "after")
        job = await self._client.get(name, principal=principal_of(request))
        after = await event_stream.place_of(request, self._client, otherwise=0)
        over = job.state is State.FINISHED
        return await event_stream.send_events(
            request, self._client, after=after, closing=self._closing, job=job.id, over=over
        )

    @documented(Answer(media=("text/event-stream",), text="each transition an event"), query={"after": AFTER})
    async def of_all(self, request: web.Request) -> web.StreamResponse:
        """Send what happens to jobs from now on, or after a number; of one's own unless everybody's are seen."""
        parameters.check_names(request, "after")
        after = await event_stream.place_of(request, self._client, otherwise=None)
        return await event_stream.send_events(request, self._client, after=after, closing=self._closing)
