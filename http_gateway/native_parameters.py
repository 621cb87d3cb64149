"""What the native API reads from paths and queries: checked, and named when it is wrong.

A parameter that is not known is refused: a misspelt filter would show everything, and an option that belongs
into the body would have no effect. Bodies are read by `http_gateway.native_bodies`.
"""

from urllib.parse import unquote_to_bytes

from aiohttp import web

from hostler.errors import InvalidRequest, JobNotFound, WorkerNotFound
from hostler.ids import is_uuid
from hostler.job_checks import is_workspace_path
from hostler.job_filters import parse_filter
from hostler.jobs import JobQuery
from hostler.lifecycle import State

PAGE_ITEMS_MAX = 1000
WORKER_CHARACTERS_MAX = 200

_STATES = {state.word: state for state in State}


def checked_id(text: str) -> str:
    """Return *text* if it can be a job's id. Raises JobNotFound."""
    if not is_uuid(text):
        raise JobNotFound("a job's id is a uuid in lower case, and this is none")
    return text


def job_id(request: web.Request) -> str:
    """Return the job's id in the path. Raises JobNotFound."""
    return checked_id(request.match_info["id"])


def worker(request: web.Request) -> str:
    """Return the worker's id or name in the path. Raises WorkerNotFound."""
    name = request.match_info["id"]
    try:
        name.encode()
    except UnicodeEncodeError:
        name = ""
    if not 0 < len(name) <= WORKER_CHARACTERS_MAX:
        raise WorkerNotFound("no worker can have this id or name", field="id")
    return name


def output_path(request: web.Request) -> str:
    """Return the path of an output file, which is the end of the request's.

    Raises:
        InvalidRequest: no output file can have it.
    """
    path = request.match_info["path"]
    try:
        # What is no UTF-8 stays as it is spelled in the path that is matched, and would be another name there.
        unquote_to_bytes(request.rel_url.raw_path).decode()
        possible = is_workspace_path(path)
    except UnicodeError:
        raise InvalidRequest("the path is not UTF-8", field="path") from None
    if not possible:
        raise InvalidRequest(
            'no output can have this path; it is relative, without "..", ".", empty parts and NUL', field="path"
        )
    return path


def check_names(request: web.Request, *names: str) -> None:
    """Raise InvalidRequest when the query has a parameter besides *names*."""
    for name in request.query:
        if name not in names:
            there_are = f"; there are {', '.join(names)}" if names else ""
            raise InvalidRequest(f"there is no parameter {name[:100]!r} here{there_are}", field=name[:200])


def encodable(text: str, name: str) -> str:
    """Return *text* if it is text. Raises InvalidRequest with *name* as its field."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} is not UTF-8", field=name) from None
    return text


def number(request: web.Request, name: str, *, least: int = 0, most: int, otherwise: int) -> int:
    """Return a whole number from the query, *otherwise* when it is not there or empty. Raises InvalidRequest."""
    text = request.query.get(name) or str(otherwise)
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise InvalidRequest(f"{name} is a number from {least} to {most}", field=name)
    return int(text)


def seconds(request: web.Request, name: str, *, most_s: float) -> float:
    """Return a time from the query, 0 when it is not there or empty; nothing else is in the query.

    Raises:
        InvalidRequest: it is no number of seconds from 0 to *most_s*.
    """
    check_names(request, name)
    try:
        asked_s = float(request.query.get(name) or "0")
    except ValueError:
        asked_s = -1.0
    if not 0 <= asked_s <= most_s:  # NaN too
        raise InvalidRequest(f"{name} is a number of seconds from 0 to {most_s:g}", field=name)
    return asked_s


def job_query(request: web.Request) -> JobQuery:
    """Read which jobs a list is to show. Raises InvalidRequest."""
    check_names(request, "state", "name", "owner", "family", "worker", "workload", "filter", "order", "limit", "after")
    words = [word for word in ",".join(request.query.getall("state", ())).split(",") if word]
    if any(word not in _STATES for word in words):
        raise InvalidRequest(f"state is one of {', '.join(_STATES)}", field="state")
    order = request.query.get("order") or "oldest"
    if order not in ("oldest", "newest"):
        raise InvalidRequest("order is oldest or newest: which job comes first", field="order")
    chosen = _text(request, "filter")
    if chosen:
        parse_filter(chosen)
    return JobQuery(
        states=tuple(_STATES[word] for word in words),
        name=_text(request, "name"),
        owner=_text(request, "owner"),
        family=_text(request, "family"),
        worker=_text(request, "worker"),
        workload=_text(request, "workload"),
        limit=number(request, "limit", least=1, most=PAGE_ITEMS_MAX, otherwise=100),
        after=_text(request, "after"),
        newest_first=order == "newest",
        filter=chosen,
    )


def _text(request: web.Request, name: str) -> str:
    return encodable(request.query.get(name, ""), name)
