"""The versions of HTTP: found by the corpus of bad requests, and kept here."""

import pytest

from tests.gateway.conftest import Caller


@pytest.mark.parametrize("line", ["GET /v1/jobs HTTP/2.0", "GET /v1/jobs HTTP/0.9", "GET /v1/jobs"])
async def test_a_version_that_there_is_not_is_refused_in_one_that_there_is(gateway: Caller, line: str) -> None:
    """aiohttp's parser takes them, and it would answer as HTTP/2.0 what is none."""
    raw = await gateway.raw(f"{line}\r\nHost: localhost\r\n\r\n".encode())

    assert raw.startswith(b"HTTP/1.1 400 ")
    assert b"malformed_request" in raw


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_the_versions_that_there_are_are_served(gateway: Caller, version: str) -> None:
    """As ever."""
    raw = await gateway.raw(f"GET /v1/jobs HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())

    assert raw.startswith(f"HTTP/{version} 200 ".encode())
