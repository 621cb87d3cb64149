"""Forms in multipart: one part after the other, with flat memory whatever their sizes.

A reader takes the body piece by piece and holds one piece and one part's head. What is malformed is
an InvalidRequest with a sentence, never a guess: no boundary, none at the end, a head too long, an
encoding of the content. A part of its own multipart type is bytes like any other.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import unquote_to_bytes

from hostler.errors import InvalidRequest, TooLarge

PARTS_MAX = 100
HEAD_BYTES_MAX = 16 * 1024
HEADERS_MAX = 20
PREAMBLE_BYTES_MAX = 64 * 1024
BOUNDARY_BYTES_MAX = 200
PIECE_BYTES = 512 * 1024  # a caller who stores a part gets pieces of about this size

Read = Callable[[], Awaitable[bytes]]
"""Returns the next bytes of a body, and none at its end."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(r""";[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))[ \t]*""")
_ESCAPED = re.compile(r'\\(["\\])')
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LINE_BREAK = b"\r\n"
_IDENTITY = ("", "binary", "8bit", "7bit", "identity")
_CHARSETS = {"": "utf-8", "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "utf-8", "iso-8859-1": "iso-8859-1"}


class MalformedForm(InvalidRequest):
    """The body is not the form that its Content-Type promises."""


class Part:
    """One part: its name, its file name if it has one, and its content, which is read once and in order."""

    __slots__ = ("_encoding", "_next_piece", "filename", "name")

    def __init__(self, *, name: str, filename: str | None, encoding: str, next_piece: Read) -> None:
        self.name = name
        self.filename = filename  # None: it is no file
        self._encoding = encoding
        self._next_piece = next_piece

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the content in pieces of about `PIECE_BYTES`; nothing when it is empty."""
        gathered: list[bytes] = []
        size = 0
        while piece := await self._next_piece():
            gathered.append(piece)
            size += len(piece)
            if size >= PIECE_BYTES:
                yield b"".join(gathered)
                gathered.clear()
                size = 0
        if gathered:
            yield b"".join(gathered)

    async def read(self, *, bytes_max: int) -> bytes:
        """Return the whole content.

        Raises:
            TooLarge: it is longer than *bytes_max*.
        """
        content = bytearray()
        while piece := await self._next_piece():
            content += piece
            if len(content) > bytes_max:
                raise TooLarge(f"{self.name} is longer than {bytes_max} bytes", field=self.name)
        return bytes(content)

    async def text(self, *, bytes_max: int) -> str:
        """Return the whole content as text. Raises MalformedForm when it is none, and as `read` does."""
        try:
            return (await self.read(bytes_max=bytes_max)).decode(self._encoding)
        except UnicodeDecodeError:
            raise MalformedForm(f"{self.name} is not {self._encoding.upper()}", field=self.name) from None


class FormReader:
    """Takes a form apart. `next_part` skips whatever of the last part was not read."""

    def __init__(self, read: Read, boundary: bytes) -> None:
        self._read = read
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # so that the first boundary looks like every other
        self._inside = True  # a content, or what is before the first part, goes on
        self._opening = False  # a content begins, with the line break of its head still before it
        self._parts = 0

    async def next_part(self) -> Part | None:
        """Return the next part; None after the last boundary. Raises MalformedForm."""
        skipped = 0
        while piece := await self._next_piece():
            skipped += len(piece)
            if not self._parts and skipped > PREAMBLE_BYTES_MAX:
                raise MalformedForm("the form does not begin with its boundary")
        while len(self._buffer) < 2:
            await self._fill()
        if self._buffer.startswith(b"--"):
            return None
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise MalformedForm(f"the form has more than {PARTS_MAX} parts")
        headers = parse_head(await self._head())
        self._inside = True
        return _part(headers, self._next_piece)

    async def _next_piece(self) -> bytes:
        """Return the next bytes of the current content; none when it is over."""
        while self._inside:
            found = self._buffer.find(self._delimiter)
            if found >= 0:
                piece = self._buffer[:found]
                self._buffer = self._buffer[found + len(self._delimiter) :]
                self._inside = False
                return self._opened(piece)
            # The last bytes may be the beginning of a boundary.
            certain = len(self._buffer) - len(self._delimiter) + 1
            if certain > len(_LINE_BREAK):
                piece = self._buffer[:certain]
                self._buffer = self._buffer[certain:]
                return self._opened(piece)
            await self._fill()
        return b""

    def _opened(self, piece: bytes) -> bytes:
        """Return *piece* without the line break that ends a head, if it is the first of a content."""
        if not self._opening:
            return piece
        self._opening = False
        return piece[len(_LINE_BREAK) :]

    async def _head(self) -> bytes:
        """Take the rest of the boundary's line, and the head up to its empty line."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0 and len(self._buffer) <= HEAD_BYTES_MAX:
            await self._fill()
        if not 0 <= end <= HEAD_BYTES_MAX:
            raise MalformedForm(f"the head of a part is longer than {HEAD_BYTES_MAX} bytes")
        padding, _, head = self._buffer[:end].partition(b"\r\n")
        if padding.strip(b" \t"):
            raise MalformedForm("a boundary is followed by something else on its line")
        # An empty content may have no line break of its own: the empty line's is then its boundary's.
        self._buffer = self._buffer[end + 2 :]
        self._opening = True
        return head

    async def _fill(self) -> None:
        piece = await self._read()
        if not piece:
            raise MalformedForm("the form breaks off before its last boundary")
        self._buffer += piece


def boundary_of(parameters: dict[str, str]) -> bytes:
    """Return the boundary that the parameters of a Content-Type name. Raises MalformedForm."""
    boundary = parameters.get("boundary", "").encode("utf-8", "surrogateescape")
    if not boundary or len(boundary) > BOUNDARY_BYTES_MAX:
        raise MalformedForm("the Content-Type of the form names no usable boundary")
    return boundary


def parse_head(head: bytes) -> dict[str, str]:
    """Read the headers of a part, by their names in lower case. Raises MalformedForm."""
    headers: dict[str, str] = {}
    lines = head.split(b"\r\n") if head else []
    if len(lines) > HEADERS_MAX:
        raise MalformedForm(f"a part has more than {HEADERS_MAX} headers")
    for line in lines:
        text = _decoded(line)
        name, colon, value = text.partition(":")
        if not colon or _TOKEN.fullmatch(name) is None or _CONTROL.search(value):
            raise MalformedForm("a header of a part is none")
        if headers.setdefault(name.lower(), value.strip(" \t")) != value.strip(" \t"):
            raise MalformedForm(f"a part has the header {name[:50]} twice")
    return headers


def parse_parameters(header: str) -> tuple[str, dict[str, str]]:
    """Split ``value; name="text"; name*=UTF-8''text`` into the value in lower case and its parameters.

    Names are in lower case, the extended form (RFC 8187) wins over the plain one. Raises MalformedForm.
    """
    value, semicolon, _ = header.partition(";")
    found: dict[str, str] = {}
    extended: dict[str, str] = {}
    position = len(value)
    while semicolon and header[position:].strip("; \t"):
        match = _PARAMETER.match(header, position)
        if match is None:
            raise MalformedForm("a header's parameters are not of the form name=text")
        position = match.end()
        name, quoted, bare = match[1].lower(), match[2], match[3]
        text = bare.strip() if quoted is None else _ESCAPED.sub(r"\1", quoted)
        if not name.endswith("*"):
            found.setdefault(name, text)
        elif (decoded := _extended(text)) is not None:
            extended.setdefault(name[:-1], decoded)
    return value.strip(" \t").lower(), found | extended


def _part(headers: dict[str, str], next_piece: Read) -> Part:
    _, parameters = parse_parameters(headers.get("content-disposition", ""))
    if not parameters.get("name"):
        raise MalformedForm("a part has no Content-Disposition with a name")
    for name in ("content-transfer-encoding", "content-encoding"):
        if headers.get(name, "").lower() not in _IDENTITY:
            raise MalformedForm(f"{name} is not understood; send parts as they are", field=parameters["name"][:100])
    _, kind = parse_parameters(headers.get("content-type", ""))
    charset = kind.get("charset", "").lower()
    if charset not in _CHARSETS:
        raise MalformedForm("send text as UTF-8", field=parameters["name"][:100])
    return Part(
        name=parameters["name"],
        filename=parameters.get("filename"),
        encoding=_CHARSETS[charset],
        next_piece=next_piece,
    )


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("iso-8859-1")


def _extended(text: str) -> str | None:
    charset, _, rest = text.partition("'")
    _, quote, value = rest.partition("'")
    try:
        return unquote_to_bytes(value).decode(_CHARSETS[charset.lower()]) if quote and charset else None
    except (KeyError, UnicodeDecodeError):
        return None
