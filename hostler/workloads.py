"""What a workload is: a named, documented definition of work that an operator registers.

Pure. PiXYZ calls it *process*, Infernet *container*. A job that names a workload gives parameters and
files; `expand` makes of both what a worker executes. The same fields, with the same names, are in
``protos/hostler/v1/workloads.proto``.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from hostler.jobs import NO_LIMITS, Container, File, Limits, Service

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Runtime(StrEnum):
    """How a workload's program is run."""

    COMMAND = "command"  # argv
    PYTHON = "python"  # a script with an entry point that takes (ctx, params)
    CONTAINER = "container"  # a podman container that runs to its end
    SERVICE = "service"  # a call of a long-lived HTTP service


class Stdin(StrEnum):
    """What a workload's program reads from its standard input."""

    NOTHING = ""
    PARAMS = "params"  # the parameters, as they came
    JOB = "job"  # the parameters (an object) with the job's "id"


class ResultFrom(StrEnum):
    """Where a program's result is."""

    FILE = ""  # in its result file
    STDOUT = "stdout"  # its standard output, which is JSON


class Origin(StrEnum):
    """Where a definition came from; a later origin is never replaced by an earlier one."""

    SHIPPED = "shipped"  # with the package
    DIRECTORY = "directory"  # of the settings
    APPLIED = "applied"  # by somebody, through the API


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One version of a definition."""

    name: str
    version: int = 0  # given by the coordinator, from 1
    documentation: str = ""
    runtime: Runtime = Runtime.COMMAND
    argv: tuple[str, ...] = ()
    script: File | None = None  # path is its file name, digest its stored bytes
    entrypoint: str = "main"
    interpreter: str = ""  # empty: the one that runs the worker
    params_schema: str = ""  # a JSON Schema in JSON; empty: anything goes
    stdin: Stdin = Stdin.NOTHING
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""  # empty: the workspace
    timeout_s: float = 0.0
    grace_s: float = 10.0
    output_bytes_max: int = 0
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    slots: int = 1
    secrets: dict[str, str] = field(default_factory=dict)  # environment variable: name of the secret
    external: bool = True  # False: only later stages of a chain may name it
    families: tuple[str, ...] = ()  # HTTP APIs that show it; empty: all
    result: ResultFrom = ResultFrom.FILE
    container: Container | None = None  # runtime container
    service: Service | None = None  # runtime service
    allowed_networks: tuple[str, ...] = ()  # callers of the Infernet API who may name it, as CIDR; empty: all
    proofs: bool = False  # it answers with a proof when one is asked for
    resources: str = ""  # JSON that GET /resources shows; empty: nothing
    merge: bool = False  # this and the next six as in `Work` and `JobSpec`
    limits: Limits = NO_LIMITS
    output_stop: bool = False
    loss_policy: str = ""
    start_path: str = ""
    on_lost: str = ""
    crash_limit: int = 0
    applied_at_us: int = 0
    origin: Origin = Origin.APPLIED

    def shown_to(self, family: str) -> bool:
        """Whether an HTTP API offers it to its callers."""
        return self.external and (not self.families or family in self.families)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of one definition that was applied."""

    name: str
    version: int
    changed: bool
