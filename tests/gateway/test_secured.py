"""A gateway off loopback, or with a certificate: TLS, keys for everybody, and the headers of every answer."""

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from hostler.endpoint import gateway_certificate
from hostler.errors import InvalidRequest
from hostler.settings import load
from http_gateway import certificates
from http_gateway.certificates import Certificate, certificate_of
from tests.gateway.fake_coordinator import FakeCoordinator
from tests.gateway.test_process import arguments, refusal_of, running, url_of


@pytest.fixture
def authority() -> trustme.CA:
    """Signs certificates."""
    return trustme.CA()


def written(authority: trustme.CA, directory: Path, *names: str) -> dict[str, str]:
    """Files with a certificate and its key, as settings."""
    issued = authority.issue_cert(*names)
    certificate, key = directory / "c.pem", directory / "k.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    key.unlink(missing_ok=True)
    key.touch(0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return {"http_certificate": str(certificate), "http_private_key": str(key)}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a caller trusts."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_off_loopback_it_speaks_tls_and_everybody_needs_a_key(
    coordinator: FakeCoordinator, tmp_path: Path, authority: trustme.CA
) -> None:
    """A local program too; its certificate says how it may be called; each answer says that only TLS is to be tried."""
    files = written(authority, tmp_path, "127.0.0.1", "hostler.test")
    command = arguments(tmp_path / "data", coordinator=coordinator.address, http="0.0.0.0:0", **files)
    key = coordinator.access.add("viewer")
    async with running(command) as process, aiohttp.ClientSession() as session:
        url = await url_of(process)
        assert url.startswith("https://")
        for path, headers, status in (
            ("/health", {}, 200),
            ("/v1/jobs", {}, 401),
            ("/v1/jobs", {"x-api-key": key}, 200),
            ("/v1/jobs", {"Authorization": f"Bearer {key}"}, 200),
            ("/v1/jobs", {"x-api-key": key, "Host": "hostler.test"}, 200),
            ("/v1/jobs", {"x-api-key": key, "Host": "other.test"}, 421),
            ("/v1/jobs", {"x-api-key": key, "Origin": url.replace("https", "http")}, 403),
            ("/nowhere", {"x-api-key": key}, 404),
        ):
            async with session.get(url + path, headers=headers, ssl=trusting(authority)) as response:
                assert response.status == status, (path, headers, await response.text())
                assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
                assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
                assert response.headers["Referrer-Policy"] == "no-referrer"
                assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert response.headers["Cache-Control"] == "no-store"
        # What is no TLS gets no answer.
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(20):
            assert b"200" not in await reader.read()
        writer.close()


async def test_what_the_coordinator_of_this_host_has_made_serves(
    coordinator: FakeCoordinator, tmp_path: Path, authority: trustme.CA
) -> None:
    """Nothing needs to be set but where to listen."""
    made = gateway_certificate(tmp_path)
    made.parent.mkdir(parents=True)
    issued = authority.issue_cert("127.0.0.1")
    made.touch(0o600)
    made.write_bytes(issued.cert_chain_pems[0].bytes() + issued.private_key_pem.bytes())
    command = arguments(tmp_path, coordinator=coordinator.address, http="0.0.0.0:0")
    async with running(command) as process, aiohttp.ClientSession() as session:
        url = await url_of(process)
        async with session.get(url + "/health", ssl=trusting(authority)) as response:
            assert response.status == 200


async def test_without_a_certificate_it_refuses_to_start_off_loopback_and_says_what_to_do(
    tmp_path: Path, authority: trustme.CA
) -> None:
    """One sentence; so it does with half of one, or one whose key others can read."""
    files = written(authority, tmp_path, "127.0.0.1")
    for http in ("0.0.0.0:0", "[::]:0", "10.1.2.3:8080"):
        said = await refusal_of(arguments(tmp_path / "data", http=http))
        assert "http_certificate" in said
        assert "127.0.0.1:PORT" in said
    half = {"http_certificate": files["http_certificate"]}
    assert "go together" in await refusal_of(arguments(tmp_path / "data", http="0.0.0.0:0", **half))
    os.chmod(files["http_private_key"], 0o644)
    assert "chmod 600" in await refusal_of(arguments(tmp_path / "data", http="0.0.0.0:0", **files))


def test_on_loopback_there_is_no_tls_unless_it_is_asked_for(tmp_path: Path, authority: trustme.CA) -> None:
    """Asking for it is asking for keys."""
    assert certificate_of(load(data_dir=tmp_path), "127.0.0.1") is None
    files: dict[str, Any] = {**written(authority, tmp_path, "a.test", "10.0.0.1")}
    found = certificate_of(load(data_dir=tmp_path, **files), "127.0.0.1")
    assert found is not None
    assert set(found.names) == {"a.test", "10.0.0.1"}


def test_a_certificate_that_is_renewed_is_served_and_one_that_is_broken_is_not(
    tmp_path: Path, authority: trustme.CA
) -> None:
    """Without a restart."""
    files = written(authority, tmp_path, "one.test")
    certificate = Certificate(files["http_certificate"], files["http_private_key"])
    (tmp_path / "c.pem").write_bytes(b"broken")
    certificate.look()
    assert _shown(certificate.context, authority, "one.test")
    written(authority, tmp_path, "two.test")
    certificate.look()
    assert _shown(certificate.context, authority, "two.test")
    with pytest.raises(ssl.SSLCertVerificationError):
        _shown(certificate.context, authority, "one.test")


def test_a_certificate_whose_key_has_not_come_yet_is_not_served(tmp_path: Path, authority: trustme.CA) -> None:
    """Whoever renews writes one file after the other; until both fit, those before are served on."""
    files = written(authority, tmp_path, "one.test")
    certificate = Certificate(files["http_certificate"], files["http_private_key"])
    key = (tmp_path / "k.pem").read_bytes()
    written(authority, tmp_path, "two.test")
    (tmp_path / "k.pem").write_bytes(key)
    certificate.look()
    assert _shown(certificate.context, authority, "one.test")


def test_a_coordinator_that_is_starting_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A while; where none has ever run nothing is waited for."""
    gateway_certificate(tmp_path).parent.mkdir(parents=True)
    waits: list[float] = []
    monkeypatch.setattr("http_gateway.certificates.time.sleep", waits.append)
    monkeypatch.setattr(certificates, "COORDINATOR_S", 0.05)
    with pytest.raises(InvalidRequest, match="http_certificate"):
        certificate_of(load(data_dir=tmp_path), "10.0.0.1")
    assert waits


def _shown(server: ssl.SSLContext, authority: trustme.CA, name: str) -> bool:
    """Shake hands in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = trusting(authority).wrap_bio(to_client, to_server, server_hostname=name)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        done = 0
        for side in (theirs, ours):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            return True
    return False
