"""Forms in multipart: whatever arrives, in whatever pieces, is a form or a refusal with a sentence."""

import pytest

from hostler.errors import HostlerError, TooLarge
from http_gateway import multipart
from http_gateway.multipart import FormReader, MalformedForm, parse_parameters

B = b"--b\r\n"
END = b"\r\n--b--\r\n"


def a_part(content: bytes, head: bytes = b'Content-Disposition: form-data; name="a"') -> bytes:
    """A part with its boundary before it."""
    return b"--b\r\n" + head + b"\r\n\r\n" + content


def a_reader(body: bytes, *, size: int = 1 << 20, boundary: bytes = b"b") -> FormReader:
    """A reader of *body* that gets pieces of *size* bytes."""
    pieces = iter([body[start : start + size] for start in range(0, len(body), size)])

    async def read() -> bytes:
        return next(pieces, b"")

    return FormReader(read, boundary)


async def all_parts(reader: FormReader) -> list[tuple[str, str | None, bytes]]:
    """Read a form to its end."""
    found = []
    while (part := await reader.next_part()) is not None:
        found.append((part.name, part.filename, await part.read(bytes_max=1 << 30)))
    return found


FORM = (
    b"ignored\r\n"
    + a_part(b"one")
    + b"\r\n"
    + a_part(b"", b'Content-Disposition: form-data; name="empty"; filename=""')
    + b"\r\n"
    + a_part(b"\r\n--\r\n--b", b'content-disposition:form-data;filename="x.bin" ; name=b\r\nContent-Type: image/png')[
        :-1
    ]
    + b"\r\n--b \t\r\nContent-Disposition: form-data; name=tight\r\n\r\n--b"
    + b"\r\nContent-Disposition: form-data; name=last\r\n\r\n\r\n\r\n"
    + END
    + b"what follows the end"
)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 1 << 20])
async def test_a_form_means_the_same_in_pieces_of_any_size(size: int) -> None:
    """Contents that look like boundaries, empty ones, white space after a boundary, text before and after."""
    assert await all_parts(a_reader(FORM, size=size)) == [
        ("a", None, b"one"),
        ("empty", "", b""),
        ("b", "x.bin", b"\r\n--\r\n--"),
        ("tight", None, b""),
        ("last", None, b"\r\n\r\n"),
    ]


async def test_parts_that_are_not_read_are_skipped() -> None:
    """Wholly, or what is left of them."""
    reader = a_reader(a_part(b"x" * 10_000) + b"\r\n" + a_part(b"y" * 10_000) + b"\r\n" + a_part(b"z") + END, size=100)
    assert await reader.next_part()
    second = await reader.next_part()
    assert second is not None
    async for piece in second.pieces():
        assert piece
        break

    third = await reader.next_part()

    assert third is not None and await third.read(bytes_max=1) == b"z"
    assert await reader.next_part() is None


async def test_a_form_without_parts_is_a_form() -> None:
    """Some programs send only the end."""
    assert await all_parts(a_reader(b"--b--\r\n")) == []


async def test_a_large_part_comes_in_pieces_of_a_bounded_size() -> None:
    """Not larger than what is gathered and one piece of the body more."""
    content = bytes(range(256)) * 20_000
    part = await a_reader(a_part(content) + END, size=100_000).next_part()
    assert part is not None

    pieces = [piece async for piece in part.pieces()]

    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= multipart.PIECE_BYTES + 100_000
    assert min(map(len, pieces[:-1])) >= multipart.PIECE_BYTES


async def test_a_content_over_its_limit_is_too_large() -> None:
    """And one at its limit is not."""
    for size, fits in ((10, True), (11, False)):
        part = await a_reader(a_part(b"x" * size) + END).next_part()
        assert part is not None
        if fits:
            assert len(await part.read(bytes_max=10)) == size
        else:
            with pytest.raises(TooLarge):
                await part.read(bytes_max=10)


MALFORMED = {
    "nothing": b"",
    "no boundary": b"hello",
    "another boundary": a_part(b"x").replace(b"--b", b"--c") + END.replace(b"--b", b"--c"),
    "no last boundary": a_part(b"x"),
    "a boundary without its line's end": a_part(b"x") + b"\r\n--b",
    "a half of the last boundary": a_part(b"x") + b"\r\n--b-",
    "text after a boundary": a_part(b"x") + b"\r\n--bold\r\n\r\nx" + END,
    "no head": b"--b\r\n\r\nx" + END,
    "no name": a_part(b"x", b"Content-Disposition: form-data") + END,
    "an empty name": a_part(b"x", b'Content-Disposition: form-data; name=""') + END,
    "a name of a wrong form": a_part(b"x", b'Content-Disposition: form-data; name="a') + END,
    "no disposition": a_part(b"x", b"Content-Type: text/plain") + END,
    "two dispositions": a_part(
        b"x", b"Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b"
    )
    + END,
    "a header that is none": a_part(b"x", b"Content-Disposition: form-data; name=a\r\nnonsense") + END,
    "a folded header": a_part(b"x", b"Content-Disposition: form-data;\r\n name=a") + END,
    "a NUL in a header": a_part(b"x", b"Content-Disposition: form-data; name=a\0b") + END,
    "a line feed in a header": a_part(b"x", b"Content-Disposition: form-data; name=a\nb: c") + END,
    "bare line feeds": (a_part(b"x") + END).replace(b"\r\n", b"\n"),
    "a head that does not end": b"--b\r\nContent-Disposition: " + b"x" * 100_000,
    "a head that is too long": a_part(b"x", b"Content-Disposition: form-data; name=" + b"x" * 20_000) + END,
    "very many headers": a_part(b"x", b"\r\n".join(b"h%d: x" % n for n in range(500))) + END,
    "base64": a_part(b"eA==", b"Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64") + END,
    "a compressed part": a_part(b"x", b"Content-Disposition: form-data; name=a\r\nContent-Encoding: gzip") + END,
    "an unknown charset": a_part(b"x", b"Content-Disposition: form-data; name=a\r\nContent-Type: a/b; charset=utf-7")
    + END,
    "very many parts": b"\r\n".join(a_part(b"") for _ in range(101)) + END,
    "a preamble without end": b"x" * 200_000 + b"\r\n" + a_part(b"x") + END,
}


@pytest.mark.parametrize("size", [1, 17, 1 << 20])
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_malformed_is_refused_with_a_sentence(body: bytes, size: int) -> None:
    """In one piece and in many; it never hangs and never fails in another way."""
    with pytest.raises(MalformedForm) as refused:
        await all_parts(a_reader(body, size=size))

    assert refused.value.message


@pytest.mark.parametrize("size", [1, 64])
async def test_a_form_that_is_cut_off_anywhere_is_malformed(size: int) -> None:
    """At every one of its bytes before the last boundary is complete."""
    complete = FORM.index(END) + len(END) - 2
    for length in range(complete):
        with pytest.raises(MalformedForm):
            await all_parts(a_reader(FORM[:length], size=size))
    assert await all_parts(a_reader(FORM[:complete], size=size))


async def test_a_nested_form_is_a_content_like_any_other() -> None:
    """It was not asked for, and nobody takes it apart."""
    inner = b"--c\r\nContent-Disposition: file; filename=x\r\n\r\nx\r\n--c--"
    head = b"Content-Disposition: form-data; name=a\r\nContent-Type: multipart/mixed; boundary=c"

    assert await all_parts(a_reader(a_part(inner, head) + END)) == [("a", None, inner)]


async def test_a_content_length_of_a_part_is_not_believed() -> None:
    """The boundary ends a part, whatever it says of itself."""
    for length in (b"0", b"1", b"99999999999", b"-1", b"x"):
        head = b"Content-Disposition: form-data; name=a\r\nContent-Length: " + length
        assert await all_parts(a_reader(a_part(b"content", head) + END)) == [("a", None, b"content")]


async def test_text_is_read_in_the_charset_that_the_part_names() -> None:
    """UTF-8 without one; and bytes that are none are refused."""
    for charset, content in (
        (b"", "ü".encode()),
        (b"; charset=UTF-8", "ü".encode()),
        (b"; charset=iso-8859-1", b"\xfc"),
    ):
        head = b"Content-Disposition: form-data; name=a\r\nContent-Type: text/plain" + charset
        part = await a_reader(a_part(content, head) + END).next_part()
        assert part is not None and await part.text(bytes_max=10) == "ü"
    part = await a_reader(a_part(b"\xfc") + END).next_part()
    assert part is not None
    with pytest.raises(MalformedForm):
        await part.text(bytes_max=10)


@pytest.mark.parametrize(
    ("header", "parameters"),
    [
        ("form-data; name=a", {"name": "a"}),
        ('form-data; name="a;b=c"', {"name": "a;b=c"}),
        ('form-data; NAME="a" ; filename="x \\"y\\" \\\\ z"', {"name": "a", "filename": 'x "y" \\ z'}),
        ('form-data; name="a"; filename="C:\\dir\\x.txt"', {"name": "a", "filename": "C:\\dir\\x.txt"}),
        ("form-data; name=a; filename*=UTF-8''%C3%BC%20x", {"name": "a", "filename": "ü x"}),
        ("form-data; name=a; filename*=utf-8'en'%C3%BC; filename=u", {"name": "a", "filename": "ü"}),
        ("form-data; name=a; filename*=utf-8''%FF; filename=u", {"name": "a", "filename": "u"}),
        ("form-data; name=a; filename*=latin-9''x; filename=u", {"name": "a", "filename": "u"}),
        ('form-data; name=a; filename=""', {"name": "a", "filename": ""}),
        ("form-data; name=a;", {"name": "a"}),
        ("form-data", {}),
        ("", {}),
    ],
)
def test_parameters_of_a_header_are_read_as_programs_write_them(header: str, parameters: dict[str, str]) -> None:
    """Quoted or bare, escaped as curl does, extended as RFC 8187 says."""
    assert parse_parameters(header)[1] == parameters


async def test_what_a_reader_raises_goes_through() -> None:
    """The limit of a body is that of whoever reads it."""

    async def read() -> bytes:
        raise TooLarge("too long")

    with pytest.raises(HostlerError, match="too long"):
        await FormReader(read, b"b").next_part()


async def test_a_boundary_of_the_longest_kind_works() -> None:
    """And so does one that is a part of its own content."""
    boundary = b"-" * 70
    body = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"-" * 71 + b"\r\n"
    found = await all_parts(a_reader(body + b"--" + boundary + b"--", size=9, boundary=boundary))

    assert found == [("a", None, b"-" * 71)]
