"""The service runtime: one call of an HTTP service, as a program of its own.

Run as ``python -I service_call.py URL [--inside FILE] [--token VARIABLE] [--check-status] [--within SECONDS]``
in the workspace of an attempt. It posts the attempt's parameters to URL/service_output and leaves the answer as
the attempt's result, or why there is none as its failure. How the answer is read is Infernet's:

- its HTTP status is not looked at, unless asked for, or unless it is a stream;
- an answer that is declared to be JSON and is none fails with its own text as the message;
- an answer of another type fails with a message;
- destination 2 is a stream: its bytes go to standard output as they come, and the result is their text.

With --inside the call is made in the network of a process: FILE holds its pid and its start time, as of /proc.
Limits: standard library only, single-threaded; it imports nothing of hostler, as it is run by its path.
"""

import argparse
import codecs
import contextlib
import ctypes
import http.client
import json
import os
import re
import signal
import sys
import time
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

PATH: Final = "/service_output"
STREAM: Final = "2"
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
MESSAGE_CHARACTERS_MAX: Final = 20_000
PIECE_BYTES: Final = 64 * 1024
INSIDE_S: Final = 40.0  # for a service of this worker to be there again, when it has just died
PAUSE_S: Final = 0.2
_CLONE_NEWNET: Final = 0x40000000
_JSON: Final = re.compile(r"(application/|[\w.-]+/[\w.+-]+?\+)json", re.IGNORECASE | re.ASCII)


class CallFailed(Exception):
    """The call has no result; the text is its error, for whoever made the job."""


class OutOfTime(Exception):
    """The deadline of the call."""


def main() -> int:
    """Make the call; 0: there is a result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--inside", default="")
    parser.add_argument("--token", default="")
    parser.add_argument("--check-status", action="store_true")
    parser.add_argument("--within", type=float, default=0.0)
    options = parser.parse_args()
    try:
        if options.within:
            signal.signal(signal.SIGALRM, _ring)
            signal.setitimer(signal.ITIMER_REAL, options.within)
        result = _call(options)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except OutOfTime:
        return _fail(f"the service did not answer within {options.within:g} s")
    except CallFailed as error:
        return _fail(str(error))
    _write("HOSTLER_RESULT_FILE", result)
    return 0


def _ring(*_: object) -> NoReturn:
    raise OutOfTime


def _call(options: argparse.Namespace) -> bytes:
    """Return the result as JSON."""
    url = urlsplit(options.url)
    place = f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
    connect = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = connect(url.hostname or "", url.port)
    until = time.monotonic() + INSIDE_S
    # Nothing of the call has been sent yet, so it can be tried again.
    while not _is_connected(connection, options.inside, place):
        if not options.inside or time.monotonic() > until:
            raise CallFailed(f"Cannot connect to host {place}")
        time.sleep(PAUSE_S)
    try:
        connection.request("POST", url.path.rstrip("/") + PATH, body=_body(), headers=_headers(options.token))
        answer = connection.getresponse()
        if _variable("HOSTLER_SERVICE_DESTINATION", "1") == STREAM:
            _check(answer, True)
            return _read_stream(answer)
        _check(answer, options.check_status)
        return _result_of(answer.headers, _read_all(answer), options.url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CallFailed(f"the call of the service failed: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _is_connected(connection: http.client.HTTPConnection, inside: str, place: str) -> bool:
    """Connect; False: nobody listens."""
    if inside and not _step_inside(inside):
        return False
    try:
        connection.connect()
    except ConnectionRefusedError:
        return False
    except (OSError, ValueError) as error:
        raise CallFailed(f"Cannot connect to host {place} [{error}]") from error
    return True


def _step_inside(file: str) -> bool:
    """Enter the network namespace of the process that a file names; False: it lives no more."""
    try:
        with open(file) as named:
            pid, start_ticks = named.read().split()
        namespace = os.open(f"/proc/{int(pid)}/ns/net", os.O_RDONLY)
        # Opened first: a process that has this pid later is not the one that is named.
        with open(f"/proc/{int(pid)}/stat") as stat:
            alive = stat.read().rpartition(")")[2].split()[19] == start_ticks
    except (OSError, ValueError, IndexError):
        return False
    try:
        if alive and ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
            raise CallFailed(f"the service's network cannot be entered: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(namespace)
    return alive


def _body() -> bytes:
    """The call as JSON; the parameters go in as they came, so that no number changes."""
    head = {
        "source": int(_variable("HOSTLER_SERVICE_SOURCE", "1")),
        "destination": int(_variable("HOSTLER_SERVICE_DESTINATION", "1")),
        "requires_proof": _variable("HOSTLER_SERVICE_REQUIRES_PROOF", "false") == "true",
    }
    try:
        with open(_variable("HOSTLER_PARAMS_FILE", "params.json"), "rb") as file:
            params = file.read().strip() or b"{}"
    except FileNotFoundError:
        params = b"{}"
    return json.dumps(head).encode()[:-1] + b', "data": ' + params + b"}"


def _headers(token_variable: str) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "*/*"}
    if token_variable:
        headers["Authorization"] = f"Bearer {_variable(token_variable, '')}"
    return headers


def _check(answer: http.client.HTTPResponse, wanted: bool) -> None:
    if wanted and answer.status >= 400:
        text = answer.read(MESSAGE_CHARACTERS_MAX).decode(errors="replace").strip()
        raise CallFailed(f"HTTP {answer.status}: {text or answer.reason}")


def _read_all(answer: http.client.HTTPResponse) -> bytes:
    content = answer.read(ANSWER_BYTES_MAX + 1)
    if len(content) > ANSWER_BYTES_MAX:
        raise CallFailed(f"the service's answer is longer than {ANSWER_BYTES_MAX} bytes")
    if answer.length:
        raise CallFailed("the service ended the call before the end of its answer")
    return content


def _result_of(headers: http.client.HTTPMessage, content: bytes, url: str) -> bytes:
    declared = headers.get("Content-Type", "application/octet-stream")
    if _JSON.fullmatch(declared.partition(";")[0].strip()) is None:
        raise CallFailed(f"Attempt to decode JSON with unexpected mimetype: {declared}, url='{url}{PATH}'")
    if not content.strip():
        return b"null"
    charset = headers.get_content_charset("utf-8")
    try:
        codecs.lookup(charset)
    except LookupError:
        charset = "utf-8"
    text = content.decode(charset, "replace")
    try:
        json.loads(text, parse_constant=_refuse)
        return text.encode()
    except (ValueError, RecursionError) as error:
        raise CallFailed(text) from error


def _read_stream(answer: http.client.HTTPResponse) -> bytes:
    whole = bytearray()
    while piece := answer.read1(PIECE_BYTES):
        whole += piece
        while piece:
            piece = piece[os.write(1, piece) :]
        if len(whole) > ANSWER_BYTES_MAX:
            raise CallFailed(f"the service's answer is longer than {ANSWER_BYTES_MAX} bytes")
    return json.dumps({"output": whole.decode(errors="replace")}, ensure_ascii=False).encode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _fail(message: str) -> int:
    message = message[:MESSAGE_CHARACTERS_MAX]
    print(message.encode(errors="replace").decode(), file=sys.stderr)
    failure: dict[str, Any] = {"type": "ServiceError", "module": "hostler", "message": message, "traceback": ""}
    _write("HOSTLER_FAILURE_FILE", json.dumps(failure).encode())
    return 1


def _write(variable: str, content: bytes) -> None:
    """Write a file of the workspace, whole or not at all."""
    path = _variable(variable, "")
    with open(f"{path}.part", "wb") as file:
        file.write(content)
    os.replace(f"{path}.part", path)


def _variable(name: str, default: str) -> str:
    return os.environ.get(name, default)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
