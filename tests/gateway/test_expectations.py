"""The header Expect: found by the corpus of bad requests, and kept here."""

import pytest

from tests.gateway.conftest import Caller


@pytest.mark.parametrize("path", ["/v1/jobs", "/nowhere", "/jobs"])
@pytest.mark.parametrize("expect", [b"\xe9", b"\xff\xfe", b"101", b"100-continue, x"])
async def test_an_expectation_that_nobody_knows_is_417_and_logs_no_fault(
    gateway: Caller, capsys: pytest.CaptureFixture[str], path: str, expect: bytes
) -> None:
    """Also one that is no text: aiohttp repeated it in an answer of its own, failed, and that was a fault of ours."""
    raw = await gateway.raw(
        b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: %s\r\n\r\n" % (path.encode(), expect)
    )

    assert raw.startswith(b"HTTP/1.1 417 ")
    assert b"application/json" in raw
    assert "request.failed" not in "".join(capsys.readouterr())
