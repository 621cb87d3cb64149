"""What one bad request is, and how an answer is judged.

A case is the bytes that are sent over a connection of its own. What comes back is one answer or more, each whole;
nothing, where the case breaks off; and never a fault of ours.
"""

import json
import re
from dataclasses import dataclass

from tests.support.api_document import ApiDocument

JOB = "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"  # it is there, and over
WORKER = "d5feef60-3029-11e9-b210-d663bd873d93"
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"
NO_HTTP = {"error": "the request is not valid HTTP"}  # whose it would be is not known
CANARY = b"root:x:0:"  # of a file that no answer may show
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)[^\r\n]*\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One bad request."""

    kind: str  # the corpus that it is of
    name: str
    raw: bytes
    method: str = ""  # and path: what it asks for; empty where it is no HTTP
    path: str = ""
    refused: bool = True  # it must be; otherwise it may be that its API takes it
    silent: bool = False  # it breaks off, and so may the answer

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.raw[:400]!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def media(self) -> str:
        """What it says that its body is."""
        return self.headers.get("content-type", "").partition(";")[0]


def request(
    method: str, path: str | bytes, body: bytes | None = None, headers: tuple[str | bytes, ...] = (), host: bytes = HOST
) -> bytes:
    """The bytes of a well-formed request, after which the connection is closed."""
    target = path.encode() if isinstance(path, str) else path
    lines = [line.encode() if isinstance(line, str) else line for line in headers]
    head = b"%s %s HTTP/1.1\r\n%s%s" % (method.encode(), target, host, CLOSE)
    head += b"".join(line + b"\r\n" for line in lines)
    if body is not None:
        head += b"Content-Length: %d\r\n" % len(body)
    return head + b"\r\n" + (body or b"")


def replies_of(raw: bytes, *, method: str = "") -> list[Reply]:
    """Take apart what came back.

    Raises:
        ValueError: the last answer is not whole, or something is no answer.
    """
    found: list[Reply] = []
    while raw:
        head, separator, rest = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        if not separator or not first.startswith("HTTP/1."):
            raise ValueError(f"this is no answer: {raw[:200]!r}")
        status = int(first.split()[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if status == 100:
            raw = rest
            continue
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body, rest = _chunked(rest)
        elif "content-length" in headers:
            length = int(headers["content-length"])
            if len(rest) < length:
                raise ValueError(f"an answer of {length} bytes has {len(rest)}")
            body, rest = rest[:length], rest[length:]
        else:
            body, rest = rest, b""
        found.append(Reply(status=status, headers=headers, body=body))
        raw = rest
    return found


def _chunked(raw: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        match = _CHUNK.match(raw)
        if match is None:
            raise ValueError("a chunk is missing")
        size = int(match[1], 16)
        piece, raw = raw[match.end() : match.end() + size], raw[match.end() + size :]
        if len(piece) < size or not raw.startswith(b"\r\n"):
            raise ValueError("a chunk is not whole")
        raw = raw[2:]
        if not size:
            return body, raw
        body += piece


def problem_of(case: Case, raw: bytes, document: ApiDocument) -> str:
    """What is wrong with the answer to a case; empty: nothing."""
    try:
        replies = replies_of(raw, method=case.method)
    except ValueError as error:
        return "" if case.silent else str(error)
    if not replies:
        return "" if case.silent else "no answer"
    if CANARY in raw:
        return "a foreign file was shown"
    for reply in replies:
        if problem := _problem(case, reply, document):
            return f"{reply.status} {reply.body[:300]!r}: {problem}"
    if case.refused and not any(_is_refusal(case, reply, document) for reply in replies):
        return f"{replies[0].status} {replies[0].body[:200]!r}: it was not refused"
    return ""


def _problem(case: Case, reply: Reply, document: ApiDocument) -> str:
    found = document.find(case.method, case.path) if case.path else None
    start_stop_query = found.family == "scheduler" if found is not None else b"/query" in case.raw.partition(b"\n")[0]
    own = start_stop_query and reply.status == 500  # its document knows no other status for what is wrong
    if reply.status >= 500 and not own:
        return "a fault of ours"
    if reply.status >= 400:
        if case.method == "HEAD":
            return ""
        if reply.media != "application/json":
            return f"the refusal is {reply.media}"
        value = json.loads(reply.body)
        if found is None or (reply.status == 400 and value == NO_HTTP):
            return "" if _known_form(value, document) else "it has no form of errors"
        if not document.is_refusal_of(found.family, value):
            return f"it has not the form of {found.family}"
        if str(reply.status) not in found.value["responses"] and reply.status not in (400, 404, 405, 417):
            return f"the status is not documented for {found.method} {found.path}"
    return ""


def _is_refusal(case: Case, reply: Reply, document: ApiDocument) -> bool:
    return reply.status >= 400


def _known_form(value: object, document: ApiDocument) -> bool:
    families = [tag["name"] for tag in document.value["tags"]]
    return any(document.is_refusal_of(family, value) for family in families)
