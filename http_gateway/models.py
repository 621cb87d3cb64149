"""What the native API reads from bodies: checked once, turned into the values of `hostler`. Pure."""

from typing import Annotated, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hostler.errors import InvalidRequest
from hostler.jobs import DURATION_S_MAX, PRIORITY_MAX, RETRIES_MAX, File, JobSpec, PythonScript, Work
from hostler.workloads import Runtime, Stdin, Workload

Seconds = Annotated[float, Field(ge=0, le=DURATION_S_MAX)]
Model = TypeVar("Model", bound=BaseModel)


class Request(BaseModel):
    """Base of everything that is read from a body: strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FileItem(Request):
    """A file of a job's workspace: stored bytes, or text."""

    path: str
    digest: str = ""
    text: str = ""

    def file(self) -> File:
        """Return what is submitted."""
        return File(path=self.path, digest=self.digest, content=self.text.encode())


class PythonItem(Request):
    """A Python script as a job's program."""

    path: str
    entrypoint: str = "main"
    interpreter: str = ""


class JobItem(Request):
    """One job of a submission."""

    argv: Annotated[list[str], Field(default_factory=list)]
    workload: str = ""
    workload_version: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    params: object = None
    files: Annotated[list[FileItem], Field(default_factory=list)]
    python: PythonItem | None = None
    stdin_path: str = ""
    workspace: bool = False
    retries: Annotated[int, Field(ge=0, le=RETRIES_MAX)] | None = None
    retry_on: Annotated[list[str], Field(default_factory=list)]
    env: Annotated[dict[str, str], Field(default_factory=dict)]
    cwd: str = ""
    worker: str = ""
    labels: Annotated[dict[str, str], Field(default_factory=dict)]
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    timeout: Seconds = 0.0
    grace: Seconds = 10.0
    output_bytes_max: Annotated[int, Field(ge=0, lt=1 << 62)] = 0
    leftovers: Literal["kill", "wait"] = "kill"
    slots: Annotated[int, Field(ge=0, le=1024)] = 1
    key: str = ""
    name: str = ""
    owner: str = ""

    def spec(self) -> JobSpec:
        """Return what is submitted; its meaning is checked by the coordinator."""
        return JobSpec(
            work=Work(
                argv=tuple(self.argv),
                env=self.env,
                cwd=self.cwd,
                timeout_s=self.timeout,
                grace_s=self.grace,
                output_bytes_max=self.output_bytes_max,
                leftovers_wait=self.leftovers == "wait",
                files=tuple(each.file() for each in self.files),
                workspace=self.workspace,
                stdin_path=self.stdin_path,
                python=self._python(),
            ),
            name=self.name,
            owner=self.owner,
            key=self.key,
            worker=self.worker,
            labels=self.labels,
            priority=self.priority,
            slots=self.slots,
            workload=self.workload,
            workload_version=self.workload_version,
            params="" if self.params is None else msgspec.json.encode(self.params).decode(),
            retries=self.retries,
            retry_on=tuple(self.retry_on),
        )

    def _python(self) -> PythonScript | None:
        asked = self.python
        if asked is None:
            return None
        return PythonScript(path=asked.path, entrypoint=asked.entrypoint, interpreter=asked.interpreter)


class ScriptItem(Request):
    """The script of a workload, stored before."""

    path: str
    digest: str


class WorkloadItem(Request):
    """A definition to register; the keys are those of a TOML file, but for the script."""

    name: str
    documentation: str = ""
    runtime: Runtime = Field(default=Runtime.COMMAND, strict=False)
    argv: Annotated[list[str], Field(default_factory=list)]
    script: ScriptItem | None = None
    entrypoint: str = "main"
    interpreter: str = ""
    params_schema: dict[str, object] | None = None
    stdin: Stdin = Field(default=Stdin.NOTHING, strict=False)
    env: Annotated[dict[str, str], Field(default_factory=dict)]
    cwd: str = ""
    timeout_s: Seconds = 0.0
    grace_s: Seconds = 10.0
    output_bytes_max: Annotated[int, Field(ge=0, lt=1 << 62)] = 0
    retries: Annotated[int, Field(ge=0, le=RETRIES_MAX)] = 0
    retry_on: Annotated[list[str], Field(default_factory=list)]
    labels: Annotated[dict[str, str], Field(default_factory=dict)]
    slots: Annotated[int, Field(ge=1, le=1024)] = 1
    secrets: Annotated[dict[str, str], Field(default_factory=dict)]
    external: bool = True
    families: Annotated[list[str], Field(default_factory=list)]

    def workload(self) -> Workload:
        """Return what is registered; its meaning is checked by the coordinator."""
        given = self.model_dump(exclude={"script", "params_schema", "argv", "retry_on", "families"})
        script = self.script
        return Workload(
            **given,
            argv=tuple(self.argv),
            retry_on=tuple(self.retry_on),
            families=tuple(self.families),
            script=None if script is None else File(path=script.path, digest=script.digest),
            params_schema="" if self.params_schema is None else msgspec.json.encode(self.params_schema).decode(),
        )


def validated(model: type[Model], value: object) -> Model:
    """Check *value* against *model*. Raises InvalidRequest that names the first thing that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> InvalidRequest:
    """Put the first thing that pydantic found into one sentence that names the field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])[:200]
    match first["type"]:
        case "model_type" | "dict_type" if not field:
            return InvalidRequest("a JSON object is expected here", field="")
        case "missing":
            return InvalidRequest(f"{field} is missing", field=field)
        case "extra_forbidden":
            return InvalidRequest(f"{field} is not a known field", field=field)
        case _:
            said = str(first["msg"])
            return InvalidRequest(f"{field}: {said[:1].lower()}{said[1:]}", field=field)


def job_item(value: object) -> JobItem | InvalidRequest:
    """Check one job of a submission; what is wrong with it is its own."""
    try:
        return JobItem.model_validate(value)
    except ValidationError as error:
        return invalid(error)
