"""The worker's word: what its own policy says of a work, whatever a coordinator asks for.

Pure: it decides on a `Work` and touches nothing. Everything is an exact match or a pattern over the whole name, never
a prefix. Two kinds of rules are told apart in docs/worker-policy.md: what a worker can see for itself (programs,
scripts, images, directories, names of variables, limits), and the name of the workload, which is the coordinator's
word. A mode that must hold against a coordinator in wrong hands is `allow-list`.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from hostler.job_checks import PARAMS_PATH, SCRIPT_FOLDER, STDIN_PATH, is_input, is_reserved, is_workspace_path
from hostler.jobs import Container, Limits, PythonScript, Work

SHOWN_CHARACTERS: Final = 100


class Mode(StrEnum):
    """How much a worker leaves to its coordinator."""

    NAMED = "named"  # jobs of registered workloads only
    ALLOW_LIST = "allow-list"  # programs, scripts, images and services of the policy's lists only
    ARBITRARY = "arbitrary"  # whatever comes


class Containment(StrEnum):
    """What a worker must have, or it does not start."""

    CGROUP = "cgroup"  # every shim in a control group of its own
    HARDENED = "hardened"  # every program below an init of ours in a PID namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one worker takes; the names are those of its file. 0 and "" are no rule."""

    mode: Mode = Mode.ARBITRARY
    workloads: tuple[str, ...] = ("*",)  # patterns with *
    programs: tuple[str, ...] = ()  # absolute paths
    scripts: tuple[str, ...] = ()  # SHA-256 in hex
    images: tuple[str, ...] = ()
    services: tuple[str, ...] = ()  # URLs
    environment: tuple[str, ...] | None = None  # patterns; None: any name, and with the allow-list none
    roots: tuple[str, ...] = ()  # directories; empty: any
    capabilities: tuple[str, ...] | None = None  # that a container may keep; None: see `_check_container`
    timeout_max_s: float = 0.0
    memory_bytes_max: int = 0
    cpus_max: float = 0.0
    pids_max: int = 0
    output_bytes_max: int = 0
    containment: tuple[Containment, ...] = ()
    private_tmp: bool = False
    run_as: str = ""  # a user's name or number
    slot_users: str = ""  # "name-%d" or "FIRST-LAST"
    work_dir: str = "/var/lib/hostler-work"  # where workspaces of other users are
    allow_root: bool = False

    @property
    def switches(self) -> bool:
        """Whether programs run as another user than the worker."""
        return bool(self.run_as or self.slot_users)

    @property
    def takes_some(self) -> bool:
        """Whether it takes only some workloads."""
        return self.mode is not Mode.ARBITRARY and self.workloads != ("*",)

    @property
    def named_only(self) -> bool:
        """Whether it refuses whatever names no workload."""
        return self.mode is Mode.NAMED or self.takes_some


class Refusal(NamedTuple):
    """Why a worker will not run an attempt: the rule's name, and a sentence for people."""

    rule: str
    reason: str

    def __str__(self) -> str:
        """As it is reported."""
        return f"refused by the worker's policy, rule {self.rule}: {self.reason}"


def refuses_always(work: Work, names: Iterable[str]) -> Refusal | None:
    """Say what no policy allows; *names* are those of the variables that are set besides the work's own."""
    for name in (*work.env, *names):
        if is_reserved(name):
            return Refusal("environment", f"{_shown(name)} is a name of hostler's own")
    script = work.python.path if work.python is not None else ""
    for path in (work.stdin_path, script, *(file.path for file in work.files)):
        if path and not is_workspace_path(path):
            return Refusal("paths", f"{_shown(path)} does not lie in the workspace")
    return None


def decide(policy: Policy, work: Work, workload: str, secrets: Collection[str] = ()) -> Work | Refusal:
    """Return the work as this worker will run it, or why it will not.

    Limits that the job leaves open become the policy's; the program of an allow-list is named by its whole path.

    Args:
        policy: the worker's own.
        work: as the coordinator sent it.
        workload: the registered workload it says that the work was made of; empty: none.
        secrets: the names of variables that are set besides the work's own.
    """
    refusal = (
        refuses_always(work, secrets)
        or _check_mode(policy, work, workload)
        or _check_environment(policy, work, secrets)
        or _check_places(policy, work)
        or _check_container(policy, _container_of(work))
        or _check_limits(policy, work)
    )
    return refusal or _completed(policy, work)


# Modes


def _check_mode(policy: Policy, work: Work, workload: str) -> Refusal | None:
    if policy.mode is Mode.ARBITRARY:
        return None
    if policy.mode is Mode.NAMED and not workload:
        return Refusal("mode", "this worker takes jobs of registered workloads only, and this one names none")
    if workload and not _matches(workload, policy.workloads):
        return Refusal("workloads", f"the workload {_shown(workload)} is not among this worker's")
    if not workload and policy.workloads != ("*",):
        return Refusal("workloads", "the job names no workload, and this worker takes some only")
    return _check_lists(policy, work) if policy.mode is Mode.ALLOW_LIST else _check_brought(work)


def _check_brought(work: Work) -> Refusal | None:
    """A definition has no file but its script: all others are a job's, and belong where nothing is executed."""
    script = work.python.path if work.python is not None else ""
    if script and script.rpartition("/")[0] != SCRIPT_FOLDER:
        return Refusal(
            "files", f"the script {_shown(script)} does not lie in {SCRIPT_FOLDER}/, apart from a job's files"
        )
    for file in work.files:
        if file.path not in (script, PARAMS_PATH, STDIN_PATH) and not is_input(file.path):
            return Refusal("files", f"the file {_shown(file.path)}, which the job brings, does not lie under inputs/")
    return None


def takes_runtime(policy: Policy, runtime: str) -> bool:
    """Whether there is anything of a kind that it would run: an allow-list may name none."""
    listed = {
        "command": policy.programs,
        "python": policy.scripts,
        "container": policy.images,
        "service": policy.services or policy.images,
    }
    return policy.mode is not Mode.ALLOW_LIST or bool(listed.get(runtime, True))


def _check_lists(policy: Policy, work: Work) -> Refusal | None:
    """Whatever would be executed must stand in a list."""
    container = _container_of(work)
    if container is not None and container.image not in policy.images:
        return Refusal("images", f"the image {_shown(container.image)} is not in the list")
    if work.service is not None:
        if work.service.url and work.service.url not in policy.services:
            return Refusal("services", f"the service {_shown(work.service.url)} is not in the list")
        return None
    if work.container is not None:
        return None
    if work.python is not None:
        return _check_script(policy, work, work.python)
    named = work.argv[0] if work.argv else ""
    if _program(policy, named) is None:
        return Refusal("programs", f"the program {_shown(named)} is not in the list")
    return None


def _check_script(policy: Policy, work: Work, python: PythonScript) -> Refusal | None:
    """A script and whatever lies beside it, where it would be imported, must stand in the list by its content."""
    folder = python.path.rpartition("/")[0]
    beside = [file for file in work.files if file.path.startswith(f"{folder}/" if folder else "")]
    for file in beside:
        if not file.digest or file.digest not in policy.scripts:
            return Refusal("scripts", f"the file {_shown(file.path)} is not in the list, by its SHA-256")
    if all(file.path != python.path for file in beside):
        return Refusal("scripts", f"the script {_shown(python.path)} did not come with the job")
    if python.interpreter and python.interpreter not in policy.programs:
        return Refusal("programs", f"the interpreter {_shown(python.interpreter)} is not in the list")
    return None


def _program(policy: Policy, named: str) -> str | None:
    """The path of a program in the list: named by that path, or by its last part alone."""
    if "/" in named:
        return named if named in policy.programs else None
    return next((path for path in policy.programs if path.rpartition("/")[2] == named), None)


# The rest


def _check_environment(policy: Policy, work: Work, secrets: Collection[str]) -> Refusal | None:
    patterns = policy.environment
    if patterns is None:
        if policy.mode is not Mode.ALLOW_LIST:
            return None
        patterns = ()
    service = work.service.env if work.service is not None else {}
    for name in (*work.env, *secrets, *service):
        # Names of hostler's own are texts of parameters by now: no loader or interpreter looks at them.
        if not name.startswith("HOSTLER_") and not _matches(name, patterns):
            return Refusal("environment", f"jobs may not set the variable {_shown(name)} here")
    return None


def _check_places(policy: Policy, work: Work) -> Refusal | None:
    if work.cwd and not _is_plain(work.cwd) and policy.roots:
        return Refusal("roots", f"the directory {_shown(work.cwd)} is not written as an absolute path without '..'")
    if work.cwd and policy.roots and root_of(work.cwd, policy.roots) is None:
        return Refusal("roots", f"the directory {_shown(work.cwd)} lies below none of this worker's roots")
    container = _container_of(work)
    for volume in container.volumes if container is not None and policy.roots else ():
        source = volume.partition(":")[0]
        if not _is_plain(source) or root_of(source, policy.roots) is None:
            return Refusal("roots", f"the volume {_shown(source)} lies below none of this worker's roots")
    return None


def root_of(path: str, roots: Collection[str]) -> str | None:
    """Return the root that a path without '..' is, or lies below; None: it lies below none."""
    return next((root for root in roots if path == root or path.startswith(root.rstrip("/") + "/")), None)


def _is_plain(path: str) -> bool:
    return path.startswith("/") and not any(part in ("", ".", "..") for part in path.rstrip("/").split("/")[1:])


def _container_of(work: Work) -> Container | None:
    return work.container or (work.service.container if work.service is not None else None)


def _check_container(policy: Policy, container: Container | None) -> Refusal | None:
    if container is None:
        return None
    allowed = policy.capabilities
    if allowed is None:
        if policy.mode is not Mode.ALLOW_LIST and not policy.switches:
            return None
        allowed = ()  # with most of them a program in a container is root outside
    for capability in container.capabilities:
        if capability not in allowed:
            return Refusal("capabilities", f"containers may not keep the capability {_shown(capability)} here")
    return None


def _check_limits(policy: Policy, work: Work) -> Refusal | None:
    container = _container_of(work) or Container(image="")
    asked: tuple[tuple[str, float, tuple[float, ...]], ...] = (
        ("timeout_max_s", policy.timeout_max_s, (work.timeout_s,)),
        ("memory_bytes_max", policy.memory_bytes_max, (work.limits.memory_bytes, container.memory_bytes)),
        ("cpus_max", policy.cpus_max, (work.limits.cpus, container.cpus)),
        ("pids_max", policy.pids_max, (work.limits.pids, container.pids)),
        ("output_bytes_max", policy.output_bytes_max, (work.output_bytes_max,)),
    )
    for rule, most, wanted in asked:
        if most and max(wanted) > most:
            return Refusal(rule, f"the job asks for {max(wanted):g}, and this worker gives {most:g} at most")
    return None


def _completed(policy: Policy, work: Work) -> Work:
    """The work with what the policy puts where the job has left something open."""
    container = _container_of(work)
    bound = None if container is None else _bounded(policy, container)
    service = work.service
    if service is not None and service.container is not None:
        service = replace(service, container=bound)
    argv = work.argv
    if policy.mode is Mode.ALLOW_LIST and argv and container is None and work.python is None and service is None:
        argv = (_program(policy, argv[0]) or argv[0], *argv[1:])
    return replace(
        work,
        argv=argv,
        container=bound if work.container is not None else None,
        service=service,
        timeout_s=work.timeout_s or policy.timeout_max_s,
        output_bytes_max=work.output_bytes_max or policy.output_bytes_max,
        limits=_limits(policy, work.limits),
        start_path="hardened" if Containment.HARDENED in policy.containment else work.start_path,
    )


def _limits(policy: Policy, limits: Limits) -> Limits:
    return Limits(
        memory_bytes=limits.memory_bytes or policy.memory_bytes_max,
        cpus=limits.cpus or policy.cpus_max,
        pids=limits.pids or policy.pids_max,
    )


def _bounded(policy: Policy, container: Container) -> Container:
    return replace(
        container,
        memory_bytes=container.memory_bytes or policy.memory_bytes_max,
        cpus=container.cpus or policy.cpus_max,
        pids=container.pids or policy.pids_max,
    )


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(_pattern(each).fullmatch(name) for each in patterns)


@lru_cache(maxsize=1000)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _shown(text: str) -> str:
    """A text of a job, for a sentence: short, and nothing in it breaks a line."""
    return repr(text[:SHOWN_CHARACTERS])
