"""What is no HTTP, or is HTTP that two programs would read in two ways: every incident that is known, and mutations."""

from collections.abc import Iterator
from random import Random

from tests.security.http_cases import CLOSE, HOST, JOB, WORKER, Case, request

BODY = b'{"jobs":[{"argv":["true"]}]}'
TARGETS = (
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("POST", "/start"),
    ("POST", "/altron/subprocess/job/create"),
    ("POST", "/api/jobs"),
    ("POST", "/jobs"),
)
CHUNKED = b"Transfer-Encoding: chunked\r\n"

# After the request line: headers that are wrong, whatever is asked for.
BAD_HEADERS: dict[str, bytes] = {
    "no host": b"",
    "two hosts": HOST + HOST,
    "two different hosts": HOST + b"Host: evil.example\r\n",
    "length and chunks": HOST + b"Content-Length: 4\r\n" + CHUNKED,
    "chunks and length": HOST + CHUNKED + b"Content-Length: 4\r\n",
    "two lengths": HOST + b"Content-Length: 4\r\nContent-Length: 5\r\n",
    "a list of lengths": HOST + b"Content-Length: 4, 5\r\n",
    "a signed length": HOST + b"Content-Length: +4\r\n",
    "a negative length": HOST + b"Content-Length: -1\r\n",
    "a length in hex": HOST + b"Content-Length: 0x4\r\n",
    "a length with a point": HOST + b"Content-Length: 4.0\r\n",
    "a length with an underscore": HOST + b"Content-Length: 1_0\r\n",
    "an empty length": HOST + b"Content-Length: \r\n",
    "an endless length": HOST + b"Content-Length: " + b"9" * 40 + b"\r\n",
    "chunked, identity": HOST + b"Transfer-Encoding: chunked, identity\r\n",
    "identity": HOST + b"Transfer-Encoding: identity\r\n",
    "an unknown coding": HOST + b"Transfer-Encoding: xchunked\r\n",
    "chunked twice": HOST + b"Transfer-Encoding: chunked, chunked\r\n",
    "two codings": HOST + CHUNKED + b"Transfer-Encoding: gzip\r\n",
    "chunked with a tab": HOST + b"Transfer-Encoding:\tchunked\x0b\r\n",
    "a space before the colon": HOST + b"Content-Length : 4\r\n",
    "a tab before the colon": HOST + b"X-A\t: 4\r\n",
    "a space in a name": HOST + b"X A: b\r\n",
    "a folded header": HOST + b"X-A: b\r\n c\r\n",
    "a folded host": b"Host: local\r\n host\r\n",
    "a header without a colon": HOST + b"nonsense\r\n",
    "an empty name": HOST + b": b\r\n",
    "a NUL in a value": HOST + b"X-A: a\x00b\r\n",
    "a NUL in a name": HOST + b"X\x00A: b\r\n",
    "a CR in a value": HOST + b"X-A: a\rb\r\n",
    "an escape in a name": HOST + b"X\x1bA: b\r\n",
    "a byte above 127 in a name": HOST + b"X\xffA: b\r\n",
    "a parenthesis in a name": HOST + b"X(A): b\r\n",
    "a long header": HOST + b"X-A: " + b"a" * 9000 + b"\r\n",
    "a long name": HOST + b"X" * 9000 + b": b\r\n",
    "very many headers": HOST + b"X-A: b\r\n" * 5000,
    "more headers than a hundred": HOST + b"".join(b"X-%d: b\r\n" % number for number in range(150)),
}
# The whole of it: what is no request line, or another protocol.
BAD_STARTS: dict[str, bytes] = {
    "nothing but lines": b"\r\n\r\n\r\nX\r\n\r\n",
    "nonsense": b"nonsense\r\n\r\n",
    "no version": b"GET /health\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /health HTTP/0.9\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/1.10": b"GET /health HTTP/1.10\r\n" + HOST + b"\r\n",
    "HTTP/9.9": b"GET /health HTTP/9.9\r\n" + HOST + b"\r\n",
    "http in lower case": b"GET /health http/1.1\r\n" + HOST + b"\r\n",
    "HTTP/1.x": b"GET /health HTTP/1.x\r\n" + HOST + b"\r\n",
    "HTTPS/1.1": b"GET /health HTTPS/1.1\r\n" + HOST + b"\r\n",
    "a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "SMTP": b"EHLO localhost\r\n\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n\r\n",
    "a long method": b"A" * 200 + b" /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method with a NUL": b"GE\x00T /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "an empty method": b" /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in parentheses": b"(GET) /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tab": b"GET\t/health\tHTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the target": b"GET /he alth HTTP/1.1\r\n" + HOST + b"\r\n",
    "a NUL in the target": b"GET /he\x00alth HTTP/1.1\r\n" + HOST + b"\r\n",
    "a CR in the target": b"GET /he\ralth HTTP/1.1\r\n" + HOST + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without a slash": b"GET health HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "a long target": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a long query": b"GET /health?" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "another host's URL": b"GET http://evil.example/health HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "a URL with a user": b"GET http://a@localhost/health HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "a URL of a file": b"GET file:///etc/passwd HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n" + CLOSE + b"\r\n",
    "an asterisk": b"GET * HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
    "bytes above 127": b"\xff\xfe\xfd /health HTTP/1.1\r\n" + HOST + b"\r\n",
}
# Bodies in chunks that are none.
BAD_CHUNKS: dict[str, bytes] = {
    "a size in 0x": b"0x4\r\nabcd\r\n0\r\n\r\n",
    "a signed size": b"+4\r\nabcd\r\n0\r\n\r\n",
    "a negative size": b"-1\r\nabcd\r\n0\r\n\r\n",
    "a size that is none": b"zz\r\nabcd\r\n0\r\n\r\n",
    "an empty size": b"\r\nabcd\r\n0\r\n\r\n",
    "an underscore in a size": b"1_0\r\nabcd\r\n0\r\n\r\n",
    "an endless size": b"f" * 40 + b"\r\nabcd\r\n0\r\n\r\n",
    "a chunk that is too long": b"2\r\nabcd\r\n0\r\n\r\n",
    "a LF in an extension": b"4;a=b\nc\r\nabcd\r\n0\r\n\r\n",
    "a bare LF after a size": b"4\nabcd\n0\n\n",
    "a long extension": b"4;" + b"a" * 20_000 + b"\r\nabcd\r\n0\r\n\r\n",
    "a NUL in an extension": b"4;a=\x00\r\nabcd\r\n0\r\n\r\n",
    "a trailer that is none": b"4\r\nabcd\r\n0\r\nnonsense\r\n\r\n",
    "a trailer with a NUL": b"4\r\nabcd\r\n0\r\nX: \x00\r\n\r\n",
    "very many trailers": b"4\r\nabcd\r\n0\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
}


def fixed() -> Iterator[Case]:
    """Each of the known ones, at each kind of place."""
    for name, raw in BAD_STARTS.items():
        yield Case(kind="framing", name=name, raw=raw)
    for method, path in TARGETS:
        line = f"{method} {path} HTTP/1.1\r\n".encode()
        for name, headers in BAD_HEADERS.items():
            if name in ("identity", "a CR in a value") and method == "GET":
                continue
            yield Case(kind="framing", name=name, raw=line + CLOSE + headers + b"\r\n" + BODY, method=method, path=path)
        if method == "POST":
            for name, chunks in BAD_CHUNKS.items():
                raw = line + CLOSE + HOST + CHUNKED + b"\r\n" + chunks
                yield Case(kind="framing", name=name, raw=raw, method=method, path=path)
            yield Case(
                kind="framing",
                name="a body that breaks off",
                raw=line + CLOSE + HOST + b"Content-Length: 100\r\n\r\n{",
                method=method,
                path=path,
                silent=True,
            )
            yield Case(
                kind="framing",
                name="chunks that break off",
                raw=line + CLOSE + HOST + CHUNKED + b"\r\n10\r\n{",
                method=method,
                path=path,
                silent=True,
            )


GOOD = (
    request("GET", "/v1/jobs?limit=3"),
    request("GET", f"/v1/jobs/{JOB}", headers=("X-A: b",)),
    request("POST", "/v1/jobs", BODY, headers=("Content-Type: application/json",)),
    request("POST", "/query", f'{{"worker_id":"{WORKER}","job_id":"{JOB}"}}'.encode()),
    request("GET", f"/altron/subprocess/job/get_status?job_id={JOB}"),
    request("POST", "/api/jobs", b'{"containers":["echo"],"data":{"a":[1,2]}}'),
    request("GET", f"/jobs/{JOB}/outputs/a.txt", headers=("Range: bytes=0-3",)),
    b"POST /v1/jobs HTTP/1.1\r\n" + HOST + CLOSE + CHUNKED + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
)
TOKENS = (
    b"\r", b"\n", b"\r\n", b"\x00", b" ", b"\t", b":", b";", b",", b"%00", b"%", b"\xff", b"\xc0\xae", b"..", b"//",
    b"?", b"#", b"HTTP/1.1", b"Content-Length: 0\r\n", b"Content-Length: 7\r\n", CHUNKED, HOST, b"0\r\n\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"Content-Encoding: gzip\r\n", b"\xe2\x80\xae", b"a" * 300,
)  # fmt: skip


def mutated(random: Random) -> Case:
    """A good request in which some bytes are others; it may be good still."""
    raw = bytearray(random.choice(GOOD))
    for _ in range(random.randrange(1, 5)):
        place = random.randrange(len(raw) + 1)
        match random.randrange(5):
            case 0:
                raw[place:place] = random.choice(TOKENS)
            case 1:
                del raw[place : place + random.randrange(1, 12)]
            case 2:
                raw[place : place + 1] = random.randbytes(1)
            case 3:
                raw[place:place] = raw[place : place + random.randrange(1, 40)]
            case _:
                raw[place:place] = random.randbytes(random.randrange(1, 6))
    return Case(kind="framing", name="mutated", raw=bytes(raw), refused=False, silent=True)
