"""An attempt's log as it goes to a reader: server-sent events, or plain bytes.

Memory is flat: one chunk of the ledger is held at a time, and the next one is asked for when the
reader has taken it. A restart of the coordinator in the middle is bridged (`http_gateway.live_streams`);
a reader resumes in the same way, with the id of the last event it saw.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec
from aiohttp import web

from hostler.client import Client, LogChunk
from hostler.errors import FileNotFound, InvalidRequest, Unavailable
from hostler.frames import ERR, GAP, OUT, Frame, iter_frames, parse_gap
from hostler.jobs import Job, LogStatus
from hostler.shape import time_shape
from http_gateway import live_streams
from http_gateway.api import FIXED_HEADERS
from http_gateway.callers import principal_of
from http_gateway.slow_readers import write_or_break

POSITION_MAX = 1 << 63

EVENT_NAMES = {OUT: "out", ERR: "err"}
RAW_KINDS = {"out": frozenset({OUT}), "err": frozenset({ERR}), "both": frozenset({OUT, ERR})}


class Place(NamedTuple):
    """Where a reader wants to go on."""

    stage: int
    attempt: int  # 0: the current one, when none has begun
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """What a reader asks for."""

    place: Place
    follow: bool
    go_on: bool  # a follower goes on with the attempts after this one
    place_name: str  # of what said the place in the request


def parse_place(text: str, *, stage: int, attempt: int, name: str) -> Place:
    """Read a position, or ``STAGE.ATTEMPT.POSITION``.

    Raises:
        InvalidRequest: the text has another form, with *name* as its field.
    """
    parts = text.split(".")
    if len(parts) not in (1, 3) or not all(part.isascii() and part.isdecimal() and len(part) < 20 for part in parts):
        raise InvalidRequest(f"{name} is a position: a number, or STAGE.ATTEMPT.POSITION", field=name)
    numbers = [int(part) for part in parts]
    if numbers[-1] >= POSITION_MAX or max(numbers[:-1], default=0) >= 1 << 31:
        raise InvalidRequest(f"{name} is beyond the end of every log", field=name)
    return Place(numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else Place(stage, attempt, numbers[0])


async def check_place(client: Client, job: Job, asked: LogRequest, principal: str) -> None:
    """Have the coordinator look whether there is this place: once an answer has begun, nothing can be refused.

    Raises:
        InvalidRequest: it is beyond what is held of its attempt's log.
    """
    stage, attempt, position = asked.place
    if not position or ((stage, attempt) == (job.stage, job.attempt) and position <= job.log_position):
        return
    try:
        async with aclosing(_ledger(client, job, replace(asked, follow=False), principal)) as chunks:
            await anext(chunks)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field=asked.place_name) from None


async def send_events(
    request: web.Request, client: Client, job: Job, asked: LogRequest, closing: asyncio.Event
) -> web.StreamResponse:
    """Answer with events ``out``, ``err``, ``gap`` and, when nothing follows, ``end``.

    A stream without ``end`` broke off: because the gateway ends, or the coordinator stayed away.
    """
    response = web.StreamResponse(
        headers={**FIXED_HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    # Whoever loses the stream before its first event comes back to this place all the same.
    await response.write(b"retry: 1000\nid: %d.%d.%d\n\n" % asked.place)
    status, lost_bytes, sent, place = job.log_status, job.log_lost_bytes, 0, asked.place
    try:
        async with (
            aclosing(_ledger(client, job, asked, principal_of(request))) as ledger,
            aclosing(live_streams.until_closing(ledger, closing)) as chunks,
        ):
            async for chunk in chunks:
                if chunk is None:
                    await write_or_break(response, b": ping\n\n")
                    continue
                status, lost_bytes = chunk.status, chunk.lost_bytes
                events, output = _events(chunk)
                sent += output
                place = Place(chunk.stage, chunk.attempt, chunk.position + len(chunk.frames))
                if events:
                    await write_or_break(response, events)
    except Unavailable:
        return response
    if not closing.is_set():
        await write_or_break(response, _event("end", place, _end(status, sent, lost_bytes)))
    return response


async def send_bytes(
    request: web.Request, client: Client, job: Job, asked: LogRequest, closing: asyncio.Event, *, kinds: frozenset[int]
) -> web.StreamResponse:
    """Answer with the bytes of the streams in *kinds*, and nothing else.

    What plain bytes cannot say is in the headers, as known when the answer begins. An answer whose
    rest cannot be had breaks off, so that it is never taken for the whole.

    Raises:
        FileNotFound: the log has expired.
    """
    if job.log_status is LogStatus.EXPIRED:
        raise FileNotFound(f"the log of job {job.id} was removed when its time was over")
    response = web.StreamResponse(
        headers={
            **FIXED_HEADERS,
            "Content-Type": "application/octet-stream",
            "Hostler-Log-Status": job.log_status.word,
            "Hostler-Dropped-Bytes": str(job.end.dropped_bytes if job.end is not None else 0),
            "Hostler-Lost-Bytes": str(job.log_lost_bytes),
        }
    )
    lost_before = job.log_lost_bytes
    await response.prepare(request)
    async with (
        aclosing(_ledger(client, job, asked, principal_of(request))) as ledger,
        aclosing(live_streams.until_closing(ledger, closing)) as chunks,
    ):
        async for chunk in chunks:
            if chunk is None:
                continue
            if output := b"".join(frame.payload for frame in iter_frames(chunk.frames) if frame.kind in kinds):
                await write_or_break(response, output)
            # How much was lost may not be known: then the number says nothing.
            lost_now = chunk.lost_bytes > lost_before or job.log_status is not LogStatus.LOST
            if chunk.status is LogStatus.LOST and lost_now:
                raise Unavailable("the rest of the log was lost meanwhile")
            if chunk.status is LogStatus.EXPIRED:
                raise Unavailable("the log was removed when its time was over")
    if closing.is_set():
        raise Unavailable("the gateway ends")
    return response


def _ledger(client: Client, job: Job, asked: LogRequest, principal: str) -> AsyncGenerator[LogChunk]:
    stage, attempt, position = asked.place
    return client.read_log(
        job.id,
        start=position,
        follow=asked.follow,
        stage=stage,
        attempt=attempt,
        go_on=asked.go_on,
        patience_s=live_streams.AWAY_S,
        principal=principal,
    )


def _events(chunk: LogChunk) -> tuple[bytes, int]:
    """Return the events of a chunk, and how many bytes of output they carry."""
    events: list[bytes] = []
    output = 0
    for frame in iter_frames(chunk.frames):
        behind = Place(chunk.stage, chunk.attempt, chunk.position + frame.end)
        if name := EVENT_NAMES.get(frame.kind):
            output += len(frame.payload)
            events.append(_event(name, behind, _output(frame)))
        elif frame.kind == GAP:
            out_bytes, err_bytes = parse_gap(frame.payload)
            dropped = {
                "at": time_shape(frame.at_us),
                "dropped": out_bytes + err_bytes,
                "out": out_bytes,
                "err": err_bytes,
            }
            events.append(_event("gap", behind, dropped))
    return b"".join(events), output


def _output(frame: Frame) -> dict[str, str | None]:
    at = time_shape(frame.at_us)
    try:
        return {"at": at, "text": frame.payload.decode()}
    except UnicodeDecodeError:
        return {"at": at, "base64": b64encode(frame.payload).decode()}


def _end(status: LogStatus, sent: int, lost_bytes: int) -> dict[str, object]:
    return {"status": status.word, "bytes": sent, "lost_bytes": lost_bytes}


def _event(name: str, behind: Place, content: object) -> bytes:
    # An id is told again later, when another attempt may be the current one: it names its own.
    return b"event: %s\nid: %d.%d.%d\ndata: %s\n\n" % (name.encode(), *behind, msgspec.json.encode(content))
