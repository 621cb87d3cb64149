"""Files as answers: downloads with their length, single ranges, entity tags, HEAD.

Memory is flat: a piece is asked for when the one before it has been taken. An answer whose rest
cannot be had breaks off, so that it is never taken for the whole.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple
from urllib.parse import quote

from aiohttp import web

from hostler.errors import Unavailable
from hostler.files_client import Reading
from http_gateway.api import FIXED_HEADERS, HttpRefused
from http_gateway.slow_readers import write_or_break

Opening = Callable[[int, int], AbstractAsyncContextManager[Reading]]
"""Opens a file for reading, from an offset on, so many bytes of it (0: to its end)."""

# A position is as long as Python reads numbers, so that one beyond every file is outside of it and not overlooked.
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,4000})-([0-9]{0,4000})[ \t]*", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?("[^"]*")')
_NOT_PLAIN = re.compile(r"[^ !#$&+\-.0-9A-Z^_`a-z~()=,;@]")


class Span(NamedTuple):
    """A part of a file that was asked for."""

    start: int
    length: int  # at least 1


async def send_file(request: web.Request, open_file: Opening, *, name: str) -> web.StreamResponse:
    """Answer a GET or HEAD with a file: 200, 206, 304; it is an attachment called *name*.

    Args:
        request: what is answered.
        open_file: opens it; what it raises is raised here before anything is sent.
        name: its name for whoever stores it, any text.

    Raises:
        HttpRefused: 416, the range is not in the file.
    """
    conditions = request.headers
    if request.method != "HEAD" and "Range" not in conditions and "If-None-Match" not in conditions:
        async with open_file(0, 0) as reading:
            return await _send(request, reading, 200, reading.size_bytes, _headers(reading, name))
    async with open_file(0, 1) as seen:
        headers = _headers(seen, name)
        if _names(conditions.get("If-None-Match", ""), seen.digest):
            return await _empty(request, 304, headers)
        if request.method == "HEAD":
            return await _empty(request, 200, headers, length=seen.size_bytes)
        span = _span(conditions, seen)
    if span is None:
        async with open_file(0, 0) as reading:
            return await _send(request, reading, 200, reading.size_bytes, _headers(reading, name))
    async with open_file(span.start, span.length) as reading:
        headers = _headers(reading, name)
        headers["Content-Range"] = f"bytes {span.start}-{span.start + span.length - 1}/{reading.size_bytes}"
        return await _send(request, reading, 206, span.length, headers)


async def send_archive(request: web.Request, reading: Reading, *, name: str) -> web.StreamResponse:
    """Answer a GET or HEAD with something that is made while it is read: whole, and without a tag."""
    headers = _headers(reading, name) | {"Accept-Ranges": "none"}
    if request.method == "HEAD":
        return await _empty(request, 200, headers, length=reading.size_bytes)
    return await _send(request, reading, 200, reading.size_bytes, headers)


def attachment(name: str) -> str:
    """Return the Content-Disposition (RFC 6266) of a file called *name*."""
    plain = _NOT_PLAIN.sub("_", name)
    if plain == name:
        return f'attachment; filename="{name}"'
    encoded = quote(name.encode("utf-8", "surrogateescape"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


def _headers(reading: Reading, name: str) -> dict[str, str]:
    headers = {
        **FIXED_HEADERS,
        "Content-Type": "application/octet-stream",
        "Content-Disposition": attachment(name),
        "Accept-Ranges": "bytes",
    }
    if reading.digest:
        headers["ETag"] = f'"{reading.digest}"'
    return headers


def _names(condition: str, digest: str) -> bool:
    """Whether an If-None-Match names the file; tags are compared weakly there."""
    if not digest or not condition:
        return False
    return condition.strip() == "*" or f'"{digest}"' in _TAG.findall(condition)


def _span(conditions: Mapping[str, str], seen: Reading) -> Span | None:
    """Return the part that is asked for; None: the whole file.

    Several ranges, and what is no range of bytes, are left aside, which the standard allows.

    Raises:
        HttpRefused: 416.
    """
    match = _RANGE.fullmatch(conditions.get("Range", ""))
    if match is None or not (match[1] or match[2]):
        return None
    condition = conditions.get("If-Range")
    if condition is not None and (not seen.digest or condition.strip() != f'"{seen.digest}"'):
        return None
    size = seen.size_bytes
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, end = max(0, size - int(match[2])), size - 1
    if start > end:
        headers = {"Content-Range": f"bytes */{size}"}
        raise HttpRefused(416, "range_not_satisfiable", f"the file has {size} bytes", headers=headers)
    return Span(start, end - start + 1)


async def _empty(
    request: web.Request, status: int, headers: Mapping[str, str], *, length: int | None = None
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = length
    await response.prepare(request)
    await response.write_eof()
    return response


async def _send(
    request: web.Request, reading: Reading, status: int, length: int, headers: Mapping[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = length
    await response.prepare(request)
    left = length
    async for piece in reading.pieces:
        # A file that a running job goes on writing may have grown since its length was promised.
        await write_or_break(response, piece[:left] if len(piece) > left else piece)
        left -= min(left, len(piece))
        if not left:
            break
    if left:
        raise Unavailable("the rest of the file cannot be had")
    await response.write_eof()
    return response
