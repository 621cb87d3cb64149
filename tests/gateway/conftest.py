"""A gateway on a free port, in front of a fake coordinator, and a caller for it."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hostler.client import Client
from hostler.settings import load
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from tests.gateway.fake_coordinator import FakeCoordinator


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: Any
    text: str
    json: Any


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls one gateway."""

    url: str
    session: aiohttp.ClientSession

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """Call and read the whole answer, which must be JSON."""
        async with self.session.request(method, self.url + path, **options) as response:
            text = await response.text()
            assert response.content_type == "application/json", text
            return Answer(response.status, response.headers, text, await response.json() if text else None)

    async def post(self, path: str, body: object = None, **options: Any) -> Answer:
        """POST a JSON body; None is no body."""
        if body is not None:
            options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
            options["data"] = io.BytesIO(json.dumps(body).encode())
        return await self.call("POST", path, **options)

    async def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return await self.call("GET", path, **options)

    async def raw(self, request: bytes, *, until: bytes = b"") -> bytes:
        """Send bytes over a connection of its own and return what comes back until its end, or until *until*."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            async with asyncio.timeout(20):
                return await (reader.readuntil(until) if until else reader.read())
        finally:
            writer.close()


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    """A fake coordinator that serves."""
    fake = FakeCoordinator(f"unix:{tmp_path}/c.sock")
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def gateway(coordinator: FakeCoordinator, tmp_path: Path) -> AsyncIterator[Caller]:
    """A gateway in front of it."""
    settings = load(data_dir=tmp_path, allowed_hosts=("hostler.test",))
    async with (
        Client(coordinator.address, principal=UNSAID) as client,
        serve(make_app(client, settings), "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Caller(url, session)
