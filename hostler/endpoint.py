"""Where the programs of one data directory find each other, and which binds are allowed.

The coordinator writes ``endpoint.json`` into the data directory once it serves; whoever names the
same data directory reads it. Sockets live in the runtime directory (`hostler.settings.runtime_dir`).
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hostler.errors import InvalidRequest
from hostler.settings import Settings, runtime_dir
from hostler.tls import is_loopback

COORDINATOR_SOCKET = "coordinator.sock"
FILE_NAME = "endpoint.json"
GATEWAY_FILE_NAME = "gateway.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a coordinator listens."""

    socket: str  # unix:/path
    grpc: str  # HOST:PORT, empty when there is no TCP port
    pid: int


def coordinator_socket(data_dir: Path) -> Path:
    """The unix socket of the coordinator of this data directory."""
    return runtime_dir(data_dir) / COORDINATOR_SOCKET


def gateway_certificate(data_dir: Path) -> Path:
    """What a gateway off loopback serves with where it has no files of its own: a certificate and its key, in PEM.

    The coordinator of this data directory makes it of the cluster's own authority, and renews it; mode 0600.
    """
    return data_dir / "coordinator" / "ca" / "gateway.pem"


def write_endpoint(data_dir: Path, endpoint: Endpoint) -> None:
    """Publish where the coordinator listens; readers see the old or the new content, never a part."""
    _write(data_dir / FILE_NAME, json.dumps(asdict(endpoint)))


def read_endpoint(data_dir: Path) -> Endpoint | None:
    """Return what the coordinator published; None when nothing readable is there."""
    try:
        return Endpoint(**json.loads((data_dir / FILE_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_gateway(data_dir: Path, url: str) -> None:
    """Publish the gateway's base URL."""
    _write(data_dir / GATEWAY_FILE_NAME, json.dumps({"http": url, "pid": os.getpid()}))


def read_gateway(data_dir: Path) -> str:
    """Return the gateway's base URL; empty when none was published."""
    try:
        return str(json.loads((data_dir / GATEWAY_FILE_NAME).read_text())["http"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def coordinator_address(settings: Settings) -> str:
    """The address to dial: the setting, else the data directory's socket."""
    return settings.coordinator or f"unix:{coordinator_socket(settings.data_dir)}"


def parse_bind(text: str, *, field: str, secured: bool = False) -> tuple[str, int]:
    """Read ``HOST:PORT``; only a *secured* listener may be on another interface than loopback.

    Raises:
        InvalidRequest: another form, or an interface that is not allowed.
    """
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise InvalidRequest(f"{field} is {text!r}; the form is HOST:PORT, for example 127.0.0.1:8080", field=field)
    if host == "localhost":
        host = "127.0.0.1"
    if not is_loopback(host) and not secured:
        raise InvalidRequest(
            f"{field} is {text!r}: without TLS and keys hostler listens on loopback only; "
            "use 127.0.0.1:PORT, or reach it through an SSH tunnel",
            field=field,
        )
    return host, int(port)


def _write(path: Path, text: str) -> None:
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(text)
    aside.replace(path)
