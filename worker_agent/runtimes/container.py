"""The container runtime: what a worker allows of a container, and how podman is told to run it.

Pure, but for resolving host paths in `refusal`. It starts nothing itself.
Whatever a job may choose is never podman's own environment: a variable could change what podman does. So the
attempt's variables go on the command line, and only those of hostler and the secrets, whose names an operator
chose, go through the environment, where no other user of the host can read them.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple, TypeVar

from hostler.container_checks import check_container
from hostler.jobs import Container, Limits

USER: Final = "65534:65534"
PIDS: Final = 512
TMP_BYTES: Final = 512 * 1024 * 1024
INSIDE: Final = "/hostler"  # where the single files of a workspace are
OURS: Final = ("/inputs", "/outputs", INSIDE)
_VARIABLE: Final = re.compile(r"HOSTLER_[A-Za-z0-9_]+")
_HOST_NETWORK: Final = "host"
N = TypeVar("N", int, float)


class Mount(NamedTuple):
    """A file or directory of the host inside a container."""

    source: str
    target: str
    read_only: bool = False


def refusal(container: Container, volumes_allowed: Collection[str], *, serves: bool = False) -> str:
    """Say why this worker will not run a container, or nothing; *serves*: it is one of a service."""
    wrong = check_container(container, serves=serves)
    if wrong is not None:
        return f"container: {wrong.message}"
    if serves and container.network == _HOST_NETWORK:
        return "container: a service is called inside its own network; network host is not for services"
    allowed = [os.path.realpath(each) for each in volumes_allowed]
    targets: list[str] = []
    for mount in map(_volume, container.volumes):
        if not any(os.path.commonpath((mount.source, each)) == each for each in allowed):
            return f"container: this worker lets no container mount {mount.source}; see its setting volumes_allowed"
        if ":" in mount.source or any(mount.target == own or mount.target.startswith(f"{own}/") for own in OURS):
            return f"container: {mount.source} cannot be mounted at {mount.target}"
        targets.append(mount.target)
    return "container: two volumes have one place" if len(set(targets)) < len(targets) else ""


def limited(container: Container, limits: Limits) -> Container:
    """Return a container with the smaller one of each of its own limits and of its job's."""
    return replace(
        container,
        memory_bytes=_smaller(container.memory_bytes, limits.memory_bytes),
        cpus=_smaller(container.cpus, limits.cpus),
        pids=_smaller(container.pids or (PIDS if limits.pids else 0), limits.pids),
    )


def _smaller(one: N, other: N) -> N:
    return min(one, other) if one and other else one or other


def run_arguments(container: Container, *, name: str, labels: Mapping[str, str]) -> list[str]:
    """Return the options of `podman run` that hold for containers of attempts and of services."""
    arguments = [f"--name={name}", f"--pull={container.pull}", f"--network={container.network or 'none'}"]
    for label, value in labels.items():
        arguments += ["--label", f"{label}={value}"]
    arguments += ["--cap-drop=all", "--security-opt=no-new-privileges", f"--user={container.user or USER}"]
    arguments += [f"--cap-add={each}" for each in container.capabilities]
    arguments.append(f"--pids-limit={container.pids or PIDS}")
    if container.memory_bytes:
        arguments.append(f"--memory={container.memory_bytes}b")
    if container.cpus:
        arguments.append(f"--cpus={container.cpus:g}")
    if not container.writable:
        arguments += ["--read-only", f"--tmpfs=/tmp:rw,nosuid,nodev,mode=1777,size={TMP_BYTES}"]
    return arguments + mount_arguments(_volume(each) for each in container.volumes)


def mount_arguments(mounts: Iterable[Mount]) -> list[str]:
    """Return the options that mount these; nothing in them is a device or gives its user another's rights."""
    return [f"--volume={m.source}:{m.target}:{'ro' if m.read_only else 'rw'},nosuid,nodev" for m in mounts]


def environment_arguments(env: Mapping[str, str], hidden: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Return the options that give a container its variables, and the environment podman must have for them.

    *hidden* are the names of secrets.
    """
    arguments: list[str] = []
    through: dict[str, str] = {}
    for name, text in env.items():
        if name in hidden or _VARIABLE.fullmatch(name):
            through[name] = text
            arguments.append(f"--env={name}")
        else:
            arguments.append(f"--env={name}={text}")
    return arguments, through


def _volume(text: str) -> Mount:
    host, _, rest = text.partition(":")
    inside, _, mode = rest.partition(":")
    return Mount(os.path.realpath(host), inside, read_only=mode == "ro")
