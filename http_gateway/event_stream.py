"""Transitions of jobs as server-sent events: each once, in the order of their commits, resumed by its number.

An event's id is its number, which a reader that comes back tells in ``Last-Event-ID``. A restart of the coordinator in
the middle is bridged. One event is held at a time; the next one is asked for when the reader has taken it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from aiohttp import web

from hostler.client import Client
from hostler.errors import InvalidRequest, Unavailable
from hostler.jobs import JobEvent
from hostler.shape import event_shape
from hostler.wording import not_yet_text
from http_gateway import live_streams
from http_gateway.api import FIXED_HEADERS
from http_gateway.callers import principal_of
from http_gateway.slow_readers import write_or_break

NUMBER_MAX = (1 << 63) - 1
ENDED = "ended"  # the last transition of a job before retention


async def place_of(request: web.Request, client: Client, *, otherwise: int | None) -> int:
    """Return the number of the last event that the reader has; when it does not say *otherwise*, None: the newest.

    Raises:
        InvalidRequest: it is no number, or higher than that of the newest event.
    """
    # A browser's EventSource repeats its URL and tells by this header how far it had come.
    name = "Last-Event-ID" if request.headers.get("Last-Event-ID") else "after"
    text = request.headers.get("Last-Event-ID") or request.query.get("after")
    if text is None and otherwise is not None:
        return otherwise
    newest = (await client.describe(principal=principal_of(request))).event
    if text is None:
        return newest
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= NUMBER_MAX):
        raise InvalidRequest(f"{name} is the number of an event, as its id has it", field=name)
    if int(text) > newest:
        raise InvalidRequest(not_yet_text(int(text), newest), field=name)
    return int(text)


async def send_events(
    request: web.Request, client: Client, *, after: int, closing: asyncio.Event, job: str = "", over: bool = False
) -> web.StreamResponse:
    """Answer with the events after *after*: of everybody's jobs that the caller sees, or of one *job* until its end.

    The stream of one job ends with ``end``. Any other end is none: the gateway ends, or the coordinator stayed away.

    Args:
        request: of the reader.
        client: of the coordinator.
        after: the number of the last event that the reader has.
        closing: set when the gateway ends.
        job: its id; empty: every job.
        over: the job has ended already.
    """
    response = web.StreamResponse(
        headers={**FIXED_HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    # Whoever loses the stream before its first event comes back to this place all the same.
    await response.write(b"retry: 1000\nid: %d\n\n" % after)
    is_complete = over
    try:
        async with (
            aclosing(_transitions(client, job, after, principal_of(request), once=over)) as found,
            aclosing(live_streams.until_closing(found, closing)) as events,
        ):
            async for event in events:
                if event is None:
                    await write_or_break(response, b": ping\n\n")
                    continue
                await write_or_break(response, _text(event))
                if job and event.kind == ENDED and not over:
                    is_complete = True
                    break
    except Unavailable:
        return response
    if is_complete and not closing.is_set():
        await write_or_break(response, b"event: end\ndata: {}\n\n")
    return response


def _transitions(client: Client, job: str, after: int, principal: str, *, once: bool) -> AsyncGenerator[JobEvent]:
    jobs = [job] if job else ()
    return client.watch(jobs, after=after, once=once, patience_s=live_streams.AWAY_S, principal=principal)


def _text(event: JobEvent) -> bytes:
    content = msgspec.json.encode(event_shape(event))
    return b"event: %s\nid: %d\ndata: %s\n\n" % (event.kind.encode(), event.number, content)
