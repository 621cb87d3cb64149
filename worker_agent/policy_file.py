"""The file with a worker's policy, and what holds when there is none.

A policy is worth as much as the file it stands in: what others could write is refused, and so is a name that is
misspelt. Limits: read once, at the agent's start.
"""

import os
import re
import stat
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import msgspec

from hostler.errors import InvalidRequest
from hostler.settings import Settings
from worker_agent.local_policy import Containment, Mode, Policy

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SHARED_TMP: Final = ("/tmp", "/var/tmp")


def policy_of(settings: Settings, *, elsewhere: bool) -> Policy:
    """Return what this worker takes; *elsewhere*: its coordinator is on another host.

    Raises:
        InvalidRequest: the file cannot be trusted or read, or asks for what cannot be.
    """
    if settings.policy_file:
        return read_policy(Path(settings.policy_file))
    if elsewhere and not settings.allow_arbitrary:
        return Policy(mode=Mode.NAMED, workloads=settings.workloads or ("*",))
    return Policy()


def check_root(settings: Settings, policy: Policy) -> None:
    """Refuse to run jobs as root unless somebody has said so. Raises InvalidRequest."""
    if os.getuid() != 0:
        if policy.switches:
            raise InvalidRequest("policy: only a worker that runs as root can run jobs as another user", field="run_as")
        return
    # Who typed `up` or `run` is told that jobs run as the one who typed it, and they end with the command.
    typed = settings.parent_fd >= 0
    if not (typed or policy.switches or policy.allow_root or settings.allow_root):
        raise InvalidRequest(
            "this worker runs as root, and so would its jobs; name a user for them in a policy file (run_as or"
            " slot_users, see docs/worker-policy.md), or say --allow-root",
            field="allow_root",
        )


def read_policy(path: Path) -> Policy:
    """Read a policy file. Raises InvalidRequest."""
    import tomllib  # here, because most workers have no such file

    path, real = path.absolute(), Path(os.path.realpath(path))
    # As it is named, and where links lead.
    for each in dict.fromkeys((path, *path.parents, real, *real.parents)):
        _check_owner(each, is_file=each in (path, real))
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise _wrong(path, error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, str(error)) from error
    names = {field.name for field in fields(Policy)}
    for name in content:
        if name not in names:
            raise _wrong(path, f"unknown rule {name!r}")
    if (mode := content.get("mode", Mode.ARBITRARY)) not in tuple(Mode):
        raise _wrong(path, f"mode is {mode!r}; it is one of {', '.join(map(repr, map(str, Mode)))}")
    try:
        policy = msgspec.convert(content, Policy, strict=True)
    except msgspec.ValidationError as error:
        raise _wrong(path, str(error)) from error
    if wrong := _contradiction(policy, content):
        raise _wrong(path, wrong)
    return policy


def _wrong(path: Path, reason: str) -> InvalidRequest:
    return InvalidRequest(f"policy file {path}: {reason}", field="policy_file")


def _check_owner(path: Path, *, is_file: bool) -> None:
    """What somebody else can write, or put another in the place of, is no policy."""
    try:
        found = path.stat()
    except OSError as error:
        raise _wrong(path, error.strerror or str(error)) from error
    if is_file and not stat.S_ISREG(found.st_mode):
        raise _wrong(path, "it is no regular file")
    if found.st_uid not in (0, os.getuid()):
        raise _wrong(path, "it belongs to another user; it must be root's" if os.getuid() == 0 else "it is not yours")
    # In a directory like /tmp only its owner can replace a file.
    if found.st_mode & 0o022 and (is_file or not found.st_mode & stat.S_ISVTX):
        raise _wrong(path, "others can write it; chmod go-w")


def _contradiction(policy: Policy, content: dict[str, Any]) -> str:
    """Say what of a policy cannot be meant, or nothing."""
    if policy.run_as and policy.slot_users:
        return "give run_as or slot_users, not both"
    for name in ("programs", "roots"):
        for path in getattr(policy, name):
            if not path.startswith("/") or os.path.normpath(path) != path:
                return f"{name}: {path!r} is not written as an absolute path without '..' and without a final '/'"
    for digest in policy.scripts:
        if _DIGEST.fullmatch(digest) is None:
            return f"scripts: {digest[:100]!r} is no SHA-256 in hex"
    if policy.mode is not Mode.ALLOW_LIST:
        for name in ("programs", "scripts", "images", "services"):
            if content.get(name):
                return f"{name} are asked for in mode allow-list only"
    if policy.mode is Mode.ARBITRARY and "workloads" in content:
        return "workloads are asked for in the modes named and allow-list only"
    for name in ("timeout_max_s", "memory_bytes_max", "cpus_max", "pids_max", "output_bytes_max"):
        if not 0 <= getattr(policy, name) < 1 << 62:
            return f"{name} is a number from 0 (no limit) on"
    if policy.private_tmp and Containment.HARDENED not in policy.containment:
        return 'private_tmp needs containment = ["hardened"]'
    if policy.private_tmp and policy.switches and is_shared_tmp(Path(policy.work_dir)):
        return f"private_tmp would hide work_dir, which is {policy.work_dir}"
    return "" if policy.work_dir.startswith("/") else "work_dir must be an absolute path"


def is_shared_tmp(path: Path) -> bool:
    """Whether a private /tmp covers this path."""
    return any(path.is_relative_to(each) for each in _SHARED_TMP)
