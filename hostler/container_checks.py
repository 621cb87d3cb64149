"""What makes the container, the service and the callers of a workload acceptable.

Pure. What a worker allows (volumes, networks, images to pull) is its own policy; here only the form is
looked at, so that no text of a definition is taken for an option of a program or leads somewhere else.
"""

import json
import re
from ipaddress import ip_network
from math import isfinite
from posixpath import normpath
from typing import Any
from urllib.parse import urlsplit

from hostler.errors import InvalidRequest, TooLarge
from hostler.jobs import DURATION_S_MAX, Container, Service
from hostler.params import no_constant
from hostler.workloads import ResultFrom, Runtime, Stdin

PULLS = ("never", "missing", "always")
MEMORY_BYTES_MIN = 4 * 1024 * 1024  # a smaller limit is a number whose unit was forgotten
MEMORY_BYTES_MAX = 1 << 50
CPUS_MAX = 4096.0
PIDS_MAX = 1 << 22  # of the kernel
PORT_MAX = 65535
ID_MAX = (1 << 32) - 2  # of a user or group; the last one means "none" to the kernel
TEXT_CHARACTERS_MAX = 500
NAME_CHARACTERS_MAX = 50
VOLUMES_MAX = 64
NETWORKS_MAX = 100
RESOURCES_BYTES_MAX = 64 * 1024

# As registries have it; nothing that podman would take for an option or for another transport.
IMAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5}(?=/))?(/[A-Za-z0-9][A-Za-z0-9._-]*)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
USER = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
HEALTH_PATH = re.compile(r"/[!-\"$-~]*")  # printable ASCII without a space or "#"
URL = re.compile(r"https?://[!-\"$-~]+")
SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)")
SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
CAPABILITY = re.compile(r"(?!CAP_|ALL$)[A-Z]+(_[A-Z]+)*")  # each by its name; podman would take ALL too


def read_size(text: str) -> int:
    """Read ``64M`` or ``1G`` as bytes; K, M, G and T are powers of 1024. ValueError: it is none."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError('give bytes, or a text like "64M" or "1G"')
    return int(match[1]) * SIZE_FACTORS[match[2]]


def streams_of(runtime: Runtime) -> dict[str, Any]:
    """Where the parameters and the result of a workload go when it does not say: through a container, as JSON."""
    return {"stdin": Stdin.PARAMS, "result": ResultFrom.STDOUT} if runtime is Runtime.CONTAINER else {}


def check_container(container: Container, *, serves: bool) -> InvalidRequest | None:
    """Say what is wrong with a container, or None; *serves*: it is one of a service."""
    wrong = (
        _check_image(container)
        or _check_limits(container)
        or _check_user(container)
        or _check_port(container, serves=serves)
    )
    return wrong or next(filter(None, map(_check_volume, container.volumes)), None)


def check_service(service: Service, *, has_container: bool) -> InvalidRequest | None:
    """Say what is wrong with a service, or None; who runs it is said by exactly one of `url` and its container."""
    if service != Service(
        url=service.url,
        token_variable=service.token_variable,
        health_path=service.health_path,
        check_status=service.check_status,
        start_s=service.start_s,
    ):
        return _wrong_service("name, version, container, argv and env are those of the workload itself")
    if bool(service.url) == has_container:
        return _wrong_service("give exactly one of service.url, which somebody else runs, and container.image")
    if service.url and not _is_base_url(service.url):
        return _wrong_service(
            "url is http://HOST[:PORT][/PATH] or https://..., without credentials, query and fragment"
        )
    if service.token_variable and VARIABLE.fullmatch(service.token_variable) is None:
        return _wrong_service(f"{service.token_variable[:100]!r} cannot be an environment variable")
    path = service.health_path
    if path and (HEALTH_PATH.fullmatch(path) is None or len(path) > TEXT_CHARACTERS_MAX):
        return _wrong_service('health_path begins with "/", and has no spaces and no "#"')
    if not 0 <= service.start_s <= DURATION_S_MAX:
        return _wrong_service("start_s is a number of seconds, 0 for 60")
    return None


def check_networks(networks: tuple[str, ...]) -> InvalidRequest | None:
    """Say what is wrong with the networks of callers, or None."""
    if len(networks) > NETWORKS_MAX:
        return InvalidRequest(f"more than {NETWORKS_MAX} networks", field="allowed_networks")
    for text in networks:
        try:
            ip_network(text)
        except ValueError as error:
            return InvalidRequest(f"{str(error)[:200]}; give 10.0.0.0/8 or ::1/128", field="allowed_networks")
    return None


def check_resources(text: str) -> InvalidRequest | TooLarge | None:
    """Say what is wrong with what a workload says it offers, or None; empty text is nothing."""
    if not text:
        return None
    if len(text.encode()) > RESOURCES_BYTES_MAX:
        return TooLarge(f"resources have more than {RESOURCES_BYTES_MAX} bytes", field="resources")
    try:
        read = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        return InvalidRequest("resources must be a JSON object", field="resources")
    return None


def _check_image(container: Container) -> InvalidRequest | None:
    image = container.image
    if not image:
        return _wrong_container("image is missing; name the image to run")
    if len(image) > TEXT_CHARACTERS_MAX or IMAGE.fullmatch(image) is None:
        return _wrong_container(
            f"{image[:100]!r} cannot be an image; give REGISTRY/NAME:TAG, for example localhost/app:1"
        )
    if container.pull not in PULLS:
        return _wrong_container(f"pull is one of {', '.join(PULLS)}")
    return None


def _check_limits(container: Container) -> InvalidRequest | None:
    memory_bytes = container.memory_bytes
    if memory_bytes and not MEMORY_BYTES_MIN <= memory_bytes <= MEMORY_BYTES_MAX:
        return _wrong_container(
            f'memory is {memory_bytes} bytes; give at least {MEMORY_BYTES_MIN}, or "64M"; 0: no limit'
        )
    if not (isfinite(container.cpus) and 0 <= container.cpus <= CPUS_MAX):
        return _wrong_container("cpus is a number of processors, for example 0.5; 0: no limit")
    if not 0 <= container.pids <= PIDS_MAX:
        return _wrong_container(f"pids is a number of processes, at most {PIDS_MAX}; 0: 512")
    return None


def _check_user(container: Container) -> InvalidRequest | None:
    if container.network and NETWORK.fullmatch(container.network) is None:
        return _wrong_container(f"{container.network[:100]!r} cannot be the name of a network; empty: none")
    if container.user:
        match = USER.fullmatch(container.user)
        if match is None or max(int(match[1]), int(match[2])) > ID_MAX:
            return _wrong_container("user is UID:GID in numbers, for example 1000:1000")
    for name in container.capabilities:
        if CAPABILITY.fullmatch(name) is None or len(name) > NAME_CHARACTERS_MAX:
            return _wrong_container(f"{name[:100]!r} is no capability; give names like NET_BIND_SERVICE, without CAP_")
    return None


def _check_port(container: Container, *, serves: bool) -> InvalidRequest | None:
    if not 0 <= container.port <= PORT_MAX:
        return _wrong_container(f"port is a number from 1 to {PORT_MAX}; 0: 3000")
    if container.port and not serves:
        return _wrong_container('port is for runtime = "service"; what runs to its end listens nowhere')
    if len(container.volumes) > VOLUMES_MAX:
        return _wrong_container(f"more than {VOLUMES_MAX} volumes")
    return None


def _check_volume(volume: str) -> InvalidRequest | None:
    host, _, rest = volume.partition(":")
    inside = rest.partition(":")[0]
    if not (_is_absolute(host) and _is_absolute(inside) and inside != "/" and rest in (inside, f"{inside}:ro")):
        what = "give HOST:CONTAINER or HOST:CONTAINER:ro, both absolute and without '..'"
        return _wrong_container(f"volume {volume[:200]!r}: {what}")
    return None


def _is_absolute(path: str) -> bool:
    # A comma would part options; two slashes at the start are kept by normpath.
    plain = path.isprintable() and "," not in path and not path.startswith("//")
    return plain and path.startswith("/") and normpath(path) == path and len(path) <= 1000


def _is_base_url(text: str) -> bool:
    if URL.fullmatch(text) is None or len(text) > TEXT_CHARACTERS_MAX:
        return False
    try:
        url = urlsplit(text)
        return bool(url.hostname) and url.port != 0 and "@" not in url.netloc and "?" not in text
    except ValueError:  # of a port that is none, and of a half IPv6 address
        return False


def _wrong_container(what: str) -> InvalidRequest:
    return InvalidRequest(what, field="container")


def _wrong_service(what: str) -> InvalidRequest:
    return InvalidRequest(what, field="service")
