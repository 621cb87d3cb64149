"""The form of POST /jobs of the PiXYZ API: how it is read, and the job that it asks for.

The input files go to the coordinator while they arrive; nothing of them is kept here. What remains
is text, whose meaning is checked when all of it is there.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from hostler.errors import InvalidRequest, TooLarge
from hostler.files_client import StoredFile
from hostler.job_checks import is_workspace_path
from hostler.jobs import DURATION_S_MAX, PATH_PART_BYTES_MAX, RETRIES_MAX, File, JobSpec, PythonScript, Work
from http_gateway import bodies
from http_gateway.api import HttpRefused
from http_gateway.multipart import PARTS_MAX, FormReader, Part, boundary_of, parse_parameters
from http_gateway.operations import TEXT, Schema, described, listed, some_of
from http_gateway.uploads import body_reader

FAMILY = "pixyz"
CUSTOM = "custom"  # the process that is the caller's own script
TEXT_BYTES_MAX = 256 * 1024
SCRIPT_BYTES_MAX = 1024 * 1024
SCRIPT_TIME_LIMIT_S = 3600.0
SCRIPT_RETRIES = 1
TEXT_FIELDS = ("process", "params", "name", "config")

# For the OpenAPI document.
_FILE: Schema = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
FORM: Schema = some_of(
    process=described(TEXT, "a process, or `custom`, also when it is missing: the script that comes along"),
    file=listed(described(_FILE, "an input, as inputs/<base name>")),
    script=described(_FILE, "a Python script, of `custom`"),
    params=described(TEXT, "any JSON"),
    name=TEXT,
    config=described(TEXT, "a JSON object: entrypoint, queue, time_limit, root_file, compute_only, retries"),
)

Put = Callable[[AsyncIterator[bytes]], Awaitable[StoredFile]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script that came with the form."""

    name: str
    source: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What was sent; a field that is empty was not."""

    process: str = CUSTOM
    params: str = ""
    name: str = ""
    config: str = ""
    script: Script | None = None
    inputs: tuple[File, ...] = ()  # stored already


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How the job is to run."""

    entrypoint: str = "main"
    queue: str = ""
    time_limit_s: float = 0.0  # 0: not said
    root_file: str = ""
    compute_only: bool = False
    retries: int | None = None

    @property
    def env(self) -> dict[str, str]:
        """What of it the program learns."""
        env = {"HOSTLER_ROOT_FILE": self.root_file} if self.root_file else {}
        return env | ({"HOSTLER_COMPUTE_ONLY": "1"} if self.compute_only else {})


@dataclass(slots=True, kw_only=True)
class _Gathered:
    """What has come of a form so far."""

    texts: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, File] = field(default_factory=dict)  # by path: of two of one name the last stays
    script: Script | None = None

    def form(self) -> Form:
        texts = {name: text for name, text in self.texts.items() if text}
        return Form(script=self.script, inputs=tuple(self.inputs.values()), **texts)


async def read_form(request: web.Request, put: Put, *, bytes_max: int) -> Form:
    """Read the body of *request*, storing input files with *put*.

    The body is one that `http_gateway.uploads.invite` let pass.

    Raises:
        InvalidRequest: the body is malformed.
        TooLarge: the body, a text or the script is.
        HttpRefused: it stopped arriving; or there is no form (422), but no body or one of another kind.
    """
    kind, parameters = parse_parameters(request.headers.get("Content-Type", ""))
    if kind == "application/x-www-form-urlencoded":
        return await _read_urlencoded(request, put)
    if kind != "multipart/form-data" or not request.body_exists:
        raise _no_form()
    reader = FormReader(body_reader(request, bytes_max=bytes_max), boundary_of(parameters))
    gathered = _Gathered()
    while (part := await reader.next_part()) is not None:
        if part.name == "file":
            await _take_input(gathered, part.filename, part.pieces(), put)
        elif part.name == "script":
            _take_script(gathered, part.filename, await part.read(bytes_max=SCRIPT_BYTES_MAX))
        elif part.name in TEXT_FIELDS:
            await _take_text(gathered, part)
    return gathered.form()


def _no_form() -> HttpRefused:
    return HttpRefused(422, "no_form", "the body is no form: send multipart/form-data, or a url-encoded form")


async def _read_urlencoded(request: web.Request, put: Put) -> Form:
    raw = await bodies.read(request, bytes_max=bodies.BODY_BYTES_MAX)
    if not raw:
        raise _no_form()
    try:
        fields = parse_qsl(raw.decode(), errors="strict", max_num_fields=PARTS_MAX)
    except ValueError:  # also of what is not UTF-8
        raise InvalidRequest(f"the form is not UTF-8, or has more than {PARTS_MAX} fields") from None
    gathered = _Gathered()
    for name, text in fields:
        content = text.encode()
        if name == "file":
            await _take_input(gathered, None, _only(content), put)
        elif name == "script":
            _take_script(gathered, None, content)
        elif name in TEXT_FIELDS:
            if len(content) > TEXT_BYTES_MAX:
                raise TooLarge(f"{name} is longer than {TEXT_BYTES_MAX} bytes", field=name)
            gathered.texts[name] = text
    return gathered.form()


async def _take_text(gathered: _Gathered, part: Part) -> None:
    gathered.texts[part.name] = await part.text(bytes_max=TEXT_BYTES_MAX)


async def _take_input(gathered: _Gathered, filename: str | None, pieces: AsyncIterator[bytes], put: Put) -> None:
    path = f"inputs/{_base_name(filename, 'input')}"
    first = await anext(pieces, b"")
    if not first:
        return
    stored = await put(_with_first(first, pieces))
    gathered.inputs[path] = File(path=path, digest=stored.digest, size_bytes=stored.size_bytes)


def _take_script(gathered: _Gathered, filename: str | None, source: bytes) -> None:
    if source:
        name = _base_name(filename, "script.py")
        gathered.script = Script(name=name if name.endswith(".py") else f"{name}.py", source=source)


async def _with_first(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


async def _only(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


def _base_name(filename: str | None, default: str) -> str:
    """Return the last part of a file's name as some program wrote it, whose separators may be those of Windows."""
    name = (filename or "").replace("\\", "/").rpartition("/")[2]
    if name in ("", ".", ".."):
        return default
    if len(name.encode("utf-8", "surrogateescape")) > PATH_PART_BYTES_MAX - len(".py"):
        raise InvalidRequest(f"the file name {name[:50]!r}... is too long", field="file")
    return name


def parse_params(text: str) -> str:
    """Return the parameters, which may be any JSON; none are an empty object. Raises InvalidRequest."""
    if not text.strip():
        return "{}"
    _parse_json("params", text)
    return text


def parse_config(text: str) -> dict[str, Any]:
    """Return what the caller's config says; a key that is null is not there. Raises InvalidRequest."""
    if not text.strip():
        return {}
    config = _parse_json("config", text)
    if not isinstance(config, dict):
        raise InvalidRequest("Invalid JSON string for 'config': it must be an object", field="config")
    return {name: value for name, value in config.items() if value is not None}


def read_config(given: Mapping[str, Any]) -> Config:
    """Check the values of a config; keys that mean nothing are left aside. Raises InvalidRequest."""
    limit = given.get("time_limit", 0)
    if not _is_number(limit) or not (0 < limit <= DURATION_S_MAX or "time_limit" not in given):
        raise InvalidRequest("Invalid 'config': time_limit is a number of seconds above 0", field="config")
    retries = given.get("retries")
    if retries is not None and not (type(retries) is int and 0 <= retries <= RETRIES_MAX):
        raise InvalidRequest(f"Invalid 'config': retries is a number from 0 to {RETRIES_MAX}", field="config")
    compute_only = given.get("compute_only", False)
    if not isinstance(compute_only, bool):
        raise InvalidRequest("Invalid 'config': compute_only is true or false", field="config")
    root_file = _text_value(given, "root_file", "")
    if root_file and not is_workspace_path(root_file):
        raise InvalidRequest("Invalid 'config': root_file names a file inside of the input", field="config")
    return Config(
        entrypoint=_text_value(given, "entrypoint", "") or "main",
        queue=_text_value(given, "queue", ""),
        time_limit_s=float(limit),
        root_file=root_file,
        compute_only=compute_only,
        retries=retries,
    )


def with_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a caller's config over what the decorator of the script's entry point says."""
    merged = {name: defaults[name] for name in ("queue", "time_limit") if defaults.get(name) is not None}
    if "time_limit" not in merged and defaults.get("timeout") is not None:
        merged["time_limit"] = defaults["timeout"]
    return {**merged, **given}


def process_spec(form: Form, params: str, config: Config, labels: Mapping[str, str], principal: str) -> JobSpec:
    """The job of a named process: its definition rules, and the config above it."""
    return JobSpec(
        workload=form.process,
        params=params,
        work=Work(files=form.inputs, env=config.env, timeout_s=config.time_limit_s),
        family=FAMILY,
        name=form.name,
        labels=dict(labels),
        principal=principal,
        retries=config.retries,
    )


def script_spec(
    form: Form, params: str, config: Config, labels: Mapping[str, str], script: File, principal: str
) -> JobSpec:
    """The job of the caller's own script, which is stored."""
    return JobSpec(
        params=params,
        work=Work(
            files=(script, *form.inputs),
            env=config.env,
            workspace=True,
            python=PythonScript(path=script.path, entrypoint=config.entrypoint),
            timeout_s=config.time_limit_s or SCRIPT_TIME_LIMIT_S,
        ),
        family=FAMILY,
        name=form.name,
        labels=dict(labels),
        principal=principal,
        retries=SCRIPT_RETRIES if config.retries is None else config.retries,
    )


def _parse_json(name: str, text: str) -> Any:
    try:
        return bodies.parse(text.encode())
    except bodies.NotJson as error:
        reason = str(error.syntax) if error.syntax is not None else error.message
        raise InvalidRequest(f"Invalid JSON string for '{name}': {reason}", field=name) from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text_value(given: Mapping[str, Any], name: str, default: str) -> str:
    value = given.get(name, default)
    if not isinstance(value, str) or len(value) > PATH_PART_BYTES_MAX * 4:
        raise InvalidRequest(f"Invalid 'config': {name} is a text", field="config")
    return value
