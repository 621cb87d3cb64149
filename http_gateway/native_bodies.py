"""What the native API reads from bodies: checked once, turned into the values of `hostler`. Pure.

What is checked here is the form, and what contradicts itself; the meaning is checked by the coordinator, for
every way to call it. What is wrong is said in plain words, with the name of the field: ``env.A must be a text``.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from hostler.container_checks import streams_of
from hostler.errors import InvalidRequest
from hostler.jobs import (
    DIGEST,
    DURATION_S_MAX,
    NO_LIMITS,
    PRIORITY_MAX,
    RETRIES_MAX,
    TERM_CHARACTERS_MAX,
    TERMINAL_SIDE_MAX,
    Container,
    File,
    JobSpec,
    Limits,
    PythonScript,
    Service,
    Stage,
    Terminal,
    Work,
)
from hostler.workloads import ResultFrom, Runtime, Stdin, Workload

FIELD_CHARACTERS_MAX = 200
# What GET shows of a workload and only the coordinator can say.
SHOWN_ONLY = frozenset({"version", "applied", "origin"})

Seconds = Annotated[float, Field(ge=0, le=DURATION_S_MAX)]
ByteCount = Annotated[int, Field(ge=0, lt=1 << 62)]
Version = Annotated[int, Field(ge=0, lt=1 << 31)]  # of a workload; 0: the newest
Model = TypeVar("Model", bound=BaseModel)

# What pydantic finds, in our words; the names in braces are those of its context.
_WANTED: Mapping[str, str] = MappingProxyType(
    {
        "string_type": "a text",
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a number",
        "list_type": "a list",
        "dict_type": "an object",
        "model_type": "an object",
        "literal_error": "{expected}",
        "enum": "{expected}",
        "greater_than_equal": "{ge} or more",
        "less_than_equal": "{le} or less",
        "less_than": "less than {lt}",
        "string_too_long": "a text of at most {max_length} characters",
    }
)


class Request(BaseModel):
    """Base of everything that is read from a body: strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FileItem(Request):
    """A file of a job's workspace: stored bytes, as ``POST /v1/files`` names them, or a text."""

    path: str
    digest: str | None = None
    size_bytes: ByteCount = 0
    text: str | None = None

    def file(self) -> File:
        """Return what is submitted."""
        if self.digest is not None:
            return File(path=self.path, digest=self.digest, size_bytes=self.size_bytes)
        return File(path=self.path, content=(self.text or "").encode())


class PythonItem(Request):
    """A Python script as a job's program."""

    path: str
    entrypoint: str = "main"
    interpreter: str = ""

    def script(self) -> PythonScript:
        """Return what is submitted."""
        return PythonScript(path=self.path, entrypoint=self.entrypoint, interpreter=self.interpreter)


class LimitsItem(Request):
    """What all processes of an attempt together may use."""

    memory_bytes: ByteCount = 0
    cpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    pids: Annotated[int, Field(ge=0, lt=1 << 31)] = 0

    def limits(self) -> Limits:
        """Return what is submitted."""
        return Limits(memory_bytes=self.memory_bytes, cpus=self.cpus, pids=self.pids)


class TerminalItem(Request):
    """A terminal of a program's own."""

    rows: Annotated[int, Field(ge=0, le=TERMINAL_SIDE_MAX)] = 0
    columns: Annotated[int, Field(ge=0, le=TERMINAL_SIDE_MAX)] = 0
    term: Annotated[str, Field(max_length=TERM_CHARACTERS_MAX, pattern="^[!-~]*$")] = ""

    def terminal(self) -> Terminal:
        """Return what is submitted."""
        return Terminal(rows=self.rows, columns=self.columns, term=self.term)


class StageItem(Request):
    """A step of a chain."""

    workload: str
    version: Version = 0

    def stage(self) -> Stage:
        """Return what is submitted."""
        return Stage(workload=self.workload, workload_version=self.version)


class SecretItem(Request):
    """In place of a variable's value: the name of a secret that the coordinator keeps."""

    secret: str


# The tags are for the choice alone: no field's name has them.
Variable = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[SecretItem, Tag("<secret>")],
    Discriminator(lambda value: "<secret>" if isinstance(value, dict | SecretItem) else "<text>"),
]


class JobItem(Request):
    """One job of a submission."""

    argv: Annotated[list[str], Field(default_factory=list)]
    workload: str = ""
    workload_version: Version = 0
    stages: Annotated[list[StageItem], Field(default_factory=list)]
    params: object = None
    files: Annotated[list[FileItem], Field(default_factory=list)]
    python: PythonItem | None = None
    stdin_path: str = ""
    workspace: bool = False
    retries: Annotated[int, Field(ge=0, le=RETRIES_MAX)] | None = None
    retry_on: Annotated[list[str], Field(default_factory=list)]
    env: Annotated[dict[str, Variable], Field(default_factory=dict)]
    cwd: str = ""
    worker: str = ""
    labels: Annotated[dict[str, str], Field(default_factory=dict)]
    where: str = ""
    tags: Annotated[dict[str, str], Field(default_factory=dict)]
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    timeout: Seconds = 0.0
    grace: Seconds = 10.0
    output_bytes_max: ByteCount = 0
    output_stop: bool = False
    leftovers: Literal["kill", "wait"] = "kill"
    merge: bool = False
    terminal: TerminalItem | None = None
    limits: LimitsItem | None = None
    start_path: str = ""
    start_within: Seconds = 0.0
    loss_policy: str = ""
    on_lost: str = ""
    lost_after: Annotated[float, Field(le=DURATION_S_MAX, allow_inf_nan=False)] | None = None
    crash_limit: Annotated[int, Field(ge=0, le=RETRIES_MAX)] = 0
    slots: Annotated[int, Field(ge=0, le=1024)] = 1
    key: str = ""
    name: str = ""
    owner: str = ""

    def spec(self, principal: str) -> JobSpec:
        """Return what *principal* submits; its meaning is checked by the coordinator."""
        env = self.env
        return JobSpec(
            work=Work(
                argv=tuple(self.argv),
                env={name: value for name, value in env.items() if isinstance(value, str)} if env else {},
                cwd=self.cwd,
                timeout_s=self.timeout,
                grace_s=self.grace,
                output_bytes_max=self.output_bytes_max,
                leftovers_wait=self.leftovers == "wait",
                files=tuple(map(FileItem.file, self.files)),
                workspace=self.workspace,
                stdin_path=self.stdin_path,
                python=None if self.python is None else self.python.script(),
                output_stop=self.output_stop,
                merge=self.merge,
                terminal=None if self.terminal is None else self.terminal.terminal(),
                limits=NO_LIMITS if self.limits is None else self.limits.limits(),
                start_path=self.start_path,
                loss_policy=self.loss_policy,
            ),
            start_within_s=self.start_within,
            on_lost=self.on_lost,
            lost_after_s=self.lost_after,
            crash_limit=self.crash_limit,
            secrets={name: value.secret for name, value in env.items() if isinstance(value, SecretItem)} if env else {},
            name=self.name,
            owner=self.owner,
            principal=principal,
            key=self.key,
            worker=self.worker,
            labels=self.labels,
            where=self.where,
            tags=self.tags,
            priority=self.priority,
            slots=self.slots,
            workload=self.workload,
            workload_version=self.workload_version,
            params="" if self.params is None else msgspec.json.encode(self.params).decode(),
            retries=self.retries,
            retry_on=tuple(self.retry_on),
            stages=tuple(map(StageItem.stage, self.stages)),
        )


class ScriptItem(Request):
    """The script of a workload, stored before."""

    file: str  # its name
    digest: str
    size_bytes: ByteCount = 0

    def stored(self) -> File:
        """Return what is registered."""
        return File(path=self.file, digest=self.digest, size_bytes=self.size_bytes)


class ContainerItem(Request):
    """The container of a workload."""

    image: str
    pull: str = "never"
    memory_bytes: ByteCount = 0
    cpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    pids: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    network: str = ""
    user: str = ""
    writable: bool = False
    volumes: Annotated[list[str], Field(default_factory=list)]
    capabilities: Annotated[list[str], Field(default_factory=list)]
    port: Annotated[int, Field(ge=0, lt=1 << 16)] = 0

    def container(self) -> Container:
        """Return what is registered."""
        given = self.model_dump(exclude={"volumes", "capabilities"})
        return Container(**given, volumes=tuple(self.volumes), capabilities=tuple(self.capabilities))


class ServiceItem(Request):
    """The service that a workload calls."""

    url: str = ""
    token_variable: str = ""
    health_path: str = ""
    check_status: bool = False
    start_s: Seconds = 0.0


class WorkloadItem(Request):
    """A definition to register; the keys are those of a TOML file, and the script is named by its stored bytes."""

    name: str
    documentation: str = ""
    runtime: Runtime = Field(default=Runtime.COMMAND, strict=False)
    argv: Annotated[list[str], Field(default_factory=list)]
    script: ScriptItem | None = None
    entrypoint: str = "main"
    interpreter: str = ""
    params_schema: dict[str, object] | None = None
    stdin: Stdin | None = Field(default=None, strict=False)
    result: ResultFrom | None = Field(default=None, strict=False)
    container: ContainerItem | None = None
    service: ServiceItem | None = None
    env: Annotated[dict[str, str], Field(default_factory=dict)]
    cwd: str = ""
    timeout_s: Seconds = 0.0
    grace_s: Seconds = 10.0
    output_bytes_max: ByteCount = 0
    output_stop: bool = False
    merge: bool = False
    limits: LimitsItem | None = None
    start_path: str = ""
    loss_policy: str = ""
    on_lost: str = ""
    crash_limit: Annotated[int, Field(ge=0, le=RETRIES_MAX)] = 0
    retries: Annotated[int, Field(ge=0, le=RETRIES_MAX)] = 0
    retry_on: Annotated[list[str], Field(default_factory=list)]
    labels: Annotated[dict[str, str], Field(default_factory=dict)]
    slots: Annotated[int, Field(ge=1, le=1024)] = 1
    secrets: Annotated[dict[str, str], Field(default_factory=dict)]
    external: bool = True
    families: Annotated[list[str], Field(default_factory=list)]
    allowed_networks: Annotated[list[str], Field(default_factory=list)]
    proofs: bool = False
    resources: dict[str, object] | None = None

    def workload(self) -> Workload:
        """Return what is registered; its meaning is checked by the coordinator."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        given = {name: tuple(one) if isinstance(one, list) else one for name, one in given.items() if one is not None}
        given |= {
            "script": None if self.script is None else self.script.stored(),
            "container": None if self.container is None else self.container.container(),
            "service": None if self.service is None else Service(**self.service.model_dump()),
            "limits": NO_LIMITS if self.limits is None else self.limits.limits(),
            # Spelled as whoever reads TOML files spells it: the same definition is no new version.
            "params_schema": "" if self.params_schema is None else json.dumps(self.params_schema),
            "resources": "" if self.resources is None else json.dumps(self.resources),
        }
        return Workload(**(streams_of(self.runtime) | given))


def validated(model: type[Model], value: object) -> Model:
    """Check *value* against *model*. Raises InvalidRequest that names the first thing that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None


_TAGS = ("<text>", "<secret>")


def invalid(error: ValidationError) -> InvalidRequest:
    """Put the first thing that pydantic found into one sentence that names the field."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part not in _TAGS)[:FIELD_CHARACTERS_MAX]
    kind, context = first["type"], first.get("ctx", {})
    if kind in ("model_type", "dict_type") and not field:
        return InvalidRequest("a JSON object is expected here", field="")
    if kind == "missing":
        return InvalidRequest(f"{field} is missing", field=field)
    if kind == "extra_forbidden":
        return InvalidRequest(f"{field} is not a known field", field=field)
    wanted = _WANTED.get(kind, "something else").format_map({name: _plain(one) for name, one in context.items()})
    return InvalidRequest(f"{field} must be {wanted}", field=field)


def job_item(value: object) -> JobItem | InvalidRequest:
    """Check one job of a submission; what is wrong with it is its own."""
    try:
        item = JobItem.model_validate(value)
    except ValidationError as error:
        return invalid(error)
    return _contradiction(item) or item


def workload_items(values: list[object]) -> list[Workload]:
    """Check definitions that are registered together; what `hostler.shape.workload_shape` shows may come back.

    Raises:
        InvalidRequest: one is wrong; the text names it, and the field is the one in it.
    """
    places: dict[str, int] = {}
    found = []
    for place, value in enumerate(values):
        name = value.get("name") if isinstance(value, dict) else None
        named = f"workload {name[:100]!r}" if isinstance(name, str) else f"workloads.{place}"
        try:
            item = validated(WorkloadItem, _without_shown(value))
        except InvalidRequest as error:
            raise InvalidRequest(f"{named}: {error.message}", field=error.field or f"workloads.{place}") from None
        if places.setdefault(item.name, place) != place:
            raise InvalidRequest(f"{named} is there twice; one call registers one version", field="name")
        found.append(item.workload())
    return found


def _contradiction(item: JobItem) -> InvalidRequest | None:
    """Say what a job says in two ways at once, or only in part."""
    for place, file in enumerate(item.files):
        if (file.digest is None) == (file.text is None):
            text = f"files.{place} must have a digest, which names stored bytes, or a text: one of them"
            return InvalidRequest(text, field=f"files.{place}")
        if file.digest is not None and DIGEST.fullmatch(file.digest) is None:
            text = f"files.{place}.digest must be a SHA-256 in 64 hexadecimal digits, in lower case"
            return InvalidRequest(text, field=f"files.{place}.digest")
    if item.argv and item.python is not None:
        return InvalidRequest("the program is argv or python, not both", field="python")
    if item.stages and (item.workload or item.argv or item.python is not None):
        return InvalidRequest("a job with stages has no workload or program of its own", field="stages")
    if item.workload_version and not item.workload:
        return InvalidRequest("workload_version needs the name of a workload", field="workload_version")
    return None


def _without_shown(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: one for name, one in value.items() if one is not None and name not in SHOWN_ONLY}


def _plain(value: Any) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
