"""Reads workloads from TOML files, with the scripts that lie beside them.

Everything wrong is an `InvalidRequest` that names the file, the key and what to do. Files are small and read whole.
"""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hostler.container_checks import read_size, streams_of
from hostler.errors import FileNotFound, HostlerError, InvalidRequest
from hostler.expansion import check_workload
from hostler.jobs import Container, File, Limits, Service
from hostler.script_source import read_script
from hostler.workloads import Origin, ResultFrom, Runtime, Stdin, Workload

TOML_BYTES_MAX = 1024 * 1024
SCRIPT_BYTES_MAX = 1024 * 1024
FILES_MAX = 1000  # of one directory, as in one call of Workloads.Apply
NOT_STORED = "0" * 64  # in place of the digest of a script that has none yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A workload as it was read, and its script, which has to be stored before the workload can be applied."""

    workload: Workload  # its script has no digest
    script_source: bytes | None = field(default=None, repr=False)


def read_directory(path: Path, origin: Origin = Origin.APPLIED) -> list[Definition]:
    """Read every ``*.toml`` of a directory in the order of their names; *path* may also be one file.

    *origin* is where they come from: the schemas of what ships are not checked again (`hostler.expansion`).

    Raises:
        FileNotFound: there is no such directory or file.
        InvalidRequest: one of them is unusable, or two have the same name.
    """
    if not path.is_dir():
        return [read_file(path, origin)]
    try:
        files = sorted(one for one in path.iterdir() if one.suffix == ".toml" and one.is_file())
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    if len(files) > FILES_MAX:
        raise InvalidRequest(f"{path} holds {len(files)} workloads; at most {FILES_MAX}")
    read: list[Definition] = []
    named: dict[str, Path] = {}
    for file in files:
        definition = read_file(file, origin)
        other = named.setdefault(definition.workload.name, file)
        if other is not file:
            raise _wrong(file, "name", f"{definition.workload.name} is the name in {other.name} too; choose another")
        read.append(definition)
    return read


def read_file(path: Path, origin: Origin = Origin.APPLIED) -> Definition:
    """Read one workload, and its script.

    Raises:
        FileNotFound: there is no such file.
        InvalidRequest: it is unusable.
    """
    try:
        text = _bounded(path, TOML_BYTES_MAX).decode()
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise FileNotFound(f"there is no file {path}") from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, too large
        raise InvalidRequest(f"{path} is no usable TOML file: {error}") from None
    given = {key: _value(path, key, value) for key, value in table.items()}
    script = given.pop("script", None)
    streams = streams_of(given.get("runtime", Runtime.COMMAND))
    workload = Workload(**({"name": path.stem} | streams | given), origin=origin)
    source: bytes | None = None
    if script is not None:
        name, source = _script(path, script)
        workload = replace(workload, script=File(path=name, size_bytes=len(source)))
    # Whoever stores the script gives the digest; all the rest is checked here, before anything is sent.
    wrong = check_workload(_stored(workload, NOT_STORED))
    if wrong is not None:
        raise _wrong(path, wrong.field, wrong.message)
    if source is not None:
        documentation = _documentation(path, source, workload.entrypoint)
        workload = replace(workload, documentation=workload.documentation or documentation)
        wrong = check_workload(_stored(workload, NOT_STORED))
        if wrong is not None:
            raise _wrong(path, wrong.field, wrong.message)
    return Definition(workload=workload, script_source=source)


def with_script(definition: Definition, digest: str) -> Workload:
    """The workload that names its script by the SHA-256 under which it was stored; one without a script as it is."""
    return _stored(definition.workload, digest)


def _stored(workload: Workload, digest: str) -> Workload:
    if workload.script is None:
        return workload
    return replace(workload, script=replace(workload.script, digest=digest))


def _documentation(path: Path, source: bytes, entrypoint: str) -> str:
    try:
        return read_script(source, entrypoint).documentation or ""
    except HostlerError as error:
        raise _wrong(path, "script", f"{error.message}; mend the script, or name another entrypoint") from None


def _script(path: Path, name: str) -> tuple[str, bytes]:
    folder = path.parent.resolve()
    if "\0" in name:
        raise _wrong(path, "script", "it holds a NUL character")
    try:
        file = (folder / name).resolve()
        # Resolved, so that neither ".." nor a symbolic link leads to what the directory's owner did not put there.
        if not file.is_relative_to(folder):
            raise _wrong(path, "script", f"{name} lies outside of the file's directory; put it there")
        if not file.is_file():
            raise _wrong(path, "script", f"there is no file {name} in {path.parent}; name one that is there")
        return Path(name).name, _bounded(file, SCRIPT_BYTES_MAX)
    except (OSError, RuntimeError) as error:  # the second: links that lead in a circle
        raise _wrong(path, "script", f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValueError as error:
        raise _wrong(path, "script", str(error)) from None


def _bounded(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise ValueError(f"it has more than {bytes_max} bytes")
    return content


def _wrong(path: Path, key: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {key}: {what}", field=key)


def _value(path: Path, key: str, value: Any) -> Any:
    kind = KINDS.get(key)
    if kind is None:
        raise _wrong(path, key, f"this is no key of a workload; the keys are {', '.join(KINDS)}")
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(path, key, str(error)) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("give a text in quotes")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("give a whole number")
    if not 0 <= value < 1 << 62:
        raise ValueError("give a number of 0 or more")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("give a number of seconds")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("give true or false")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("give a number")
    return float(value)


def _size(value: Any) -> int:
    return read_size(value) if isinstance(value, str) else _whole(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise TypeError('give a list of texts in quotes, for example ["a", "b"]')
    return tuple(value)


def _text_table(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise TypeError('give a table of texts in quotes, for example {a = "b"}')
    return value


def _schema(value: Any) -> str:
    if not isinstance(value, dict):
        raise TypeError("give a JSON Schema as a table, [params_schema]")
    return _json_table(value)


def _runtime(value: Any) -> Runtime:
    if value not in tuple(Runtime):
        raise ValueError(f"give one of {', '.join(Runtime)}")
    return Runtime(value)


def _stdin(value: Any) -> Stdin:
    if value not in tuple(Stdin):
        raise ValueError('give "" (nothing), "params" or "job"')
    return Stdin(value)


def _result(value: Any) -> ResultFrom:
    if value not in tuple(ResultFrom):
        raise ValueError('give "" (the result file) or "stdout"')
    return ResultFrom(value)


def _json_table(value: Any) -> str:
    if not isinstance(value, dict):
        raise TypeError("give a table")
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise TypeError("it holds a date, a time, nan or inf, which JSON does not have") from None


def _container(value: Any) -> Container:
    given = _table(value, CONTAINER_KINDS)
    if "memory" in given:
        given["memory_bytes"] = given.pop("memory")
    return Container(**({"image": ""} | given))


def _service(value: Any) -> Service:
    return Service(**_table(value, SERVICE_KINDS))


def _limits(value: Any) -> Limits:
    given = _table(value, LIMIT_KINDS)
    return Limits(memory_bytes=given.get("memory", 0), cpus=given.get("cpus", 0.0), pids=given.get("pids", 0))


def _table(value: Any, kinds: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"give a table with some of {', '.join(kinds)}")
    given: dict[str, Any] = {}
    for key, one in value.items():
        if key not in kinds:
            raise ValueError(f"{key} is no key here; the keys are {', '.join(kinds)}")
        try:
            given[key] = kinds[key](one)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{key}: {error}") from None
    return given


LIMIT_KINDS: dict[str, Callable[[Any], Any]] = {"memory": _size, "cpus": _number, "pids": _whole}
CONTAINER_KINDS: dict[str, Callable[[Any], Any]] = {
    "image": _text,
    "pull": _text,
    "memory": _size,
    "cpus": _number,
    "pids": _whole,
    "network": _text,
    "user": _text,
    "writable": _truth,
    "volumes": _texts,
    "capabilities": _texts,
    "port": _whole,
}
SERVICE_KINDS: dict[str, Callable[[Any], Any]] = {
    "url": _text,
    "token_variable": _text,
    "health_path": _text,
    "check_status": _truth,
    "start_s": _seconds,
}
# Every key there is, with what makes a value of it.
KINDS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "documentation": _text,
    "runtime": _runtime,
    "argv": _texts,
    "script": _text,
    "entrypoint": _text,
    "interpreter": _text,
    "params_schema": _schema,
    "stdin": _stdin,
    "result": _result,
    "container": _container,
    "service": _service,
    "env": _text_table,
    "cwd": _text,
    "timeout_s": _seconds,
    "grace_s": _seconds,
    "output_bytes_max": _whole,
    "output_stop": _truth,
    "merge": _truth,
    "limits": _limits,
    "loss_policy": _text,
    "on_lost": _text,
    "crash_limit": _whole,
    "start_path": _text,
    "retries": _whole,
    "retry_on": _texts,
    "labels": _text_table,
    "slots": _whole,
    "secrets": _text_table,
    "external": _truth,
    "families": _texts,
    "allowed_networks": _texts,
    "proofs": _truth,
    "resources": _json_table,
}
