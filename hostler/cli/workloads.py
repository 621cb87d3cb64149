"""The commands about workloads: apply, list, show, remove."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from hostler.cli.connect import cluster
from hostler.cli.failures import NOT_FOUND, OK, Failure, usage_failure
from hostler.cli.options import Place
from hostler.cli.render import command_text, moment_text, print_fields, print_json, print_line, print_table, say
from hostler.errors import ErrorCode
from hostler.jobs import Container, Service
from hostler.shape import workload_shape
from hostler.workload_files import Definition, read_directory, with_script
from hostler.workloads import Workload


def apply(place: Place, paths: Sequence[Path]) -> int:
    """Store the scripts of the workloads in *paths* and register them, all or none."""
    definitions: dict[str, Definition] = {}
    for path in paths:
        if not path.exists():
            code = ErrorCode.FILE_NOT_FOUND.value
            raise Failure(
                f"there is no {path}", hint="name TOML files or directories of them", exit_code=NOT_FOUND, code=code
            )
        for definition in read_directory(path):
            name = definition.workload.name
            if definitions.setdefault(name, definition) is not definition:
                raise usage_failure(f"{path}: the workload {name} is in the files twice")
    if not definitions:
        raise usage_failure(
            "there is no *.toml file in these directories", hint="docs/workloads.md shows what is in one"
        )

    async def act() -> int:
        async with cluster(place) as client:
            workloads: list[Workload] = []
            for definition in definitions.values():
                source = definition.script_source
                stored = None if source is None else await client.files.put_bytes(source)
                workloads.append(with_script(definition, stored.digest if stored is not None else ""))
            applied = await client.workloads.apply(workloads)
        if place.as_json:
            shapes = [{"name": one.name, "version": one.version, "changed": one.changed} for one in applied]
            print_json({"workloads": shapes})
        else:
            for one in applied:
                print_line(f"{one.name} version {one.version}{'' if one.changed else ' unchanged'}")
        return OK

    return asyncio.run(act())


def list_workloads(place: Place) -> int:
    """Print the newest version of every workload."""

    async def act() -> int:
        async with cluster(place) as client:
            workloads = await client.workloads.list()
        if place.as_json:
            print_json({"workloads": [workload_shape(workload) for workload in workloads]})
        elif workloads:
            rows = [(one.name, str(one.version), one.runtime.value, _first_line(one)) for one in workloads]
            print_table(("name", "version", "runtime", "documentation"), rows)
        else:
            say("no workloads; register some with: hostler workloads apply PATH")
        return OK

    return asyncio.run(act())


def show(place: Place, name: str, *, version: int) -> int:
    """Print everything known about a workload."""

    async def act() -> int:
        async with cluster(place) as client:
            workload = await client.workloads.get(name, version=version)
        if place.as_json:
            print_json(workload_shape(workload))
        else:
            print_fields(_fields(workload))
        return OK

    return asyncio.run(act())


def remove(place: Place, name: str) -> int:
    """Remove a workload."""

    async def act() -> int:
        async with cluster(place) as client:
            await client.workloads.remove(name)
        print_json({"name": name, "removed": True}) if place.as_json else print_line(f"{name} removed")
        return OK

    return asyncio.run(act())


def _first_line(workload: Workload) -> str:
    return next((line.strip() for line in workload.documentation.splitlines() if line.strip()), "")


def _fields(workload: Workload) -> Iterable[tuple[str, str]]:
    yield "workload", f"{workload.name} version {workload.version}"
    yield "applied", f"{moment_text(workload.applied_at_us) or '-'} ({workload.origin.value})"
    for line in workload.documentation.splitlines():
        yield "about", line
    if workload.script is not None:
        yield "script", f"{workload.script.path}, {workload.script.size_bytes:,} bytes, {workload.script.digest}"
        yield "calls", f"{workload.entrypoint}(ctx, params)"
    if workload.interpreter:
        yield "interpreter", workload.interpreter
    if workload.argv:
        yield "command", command_text(workload.argv)
    if workload.container is not None:
        yield from _container_fields(workload.container)
    if workload.service is not None:
        yield from _service_fields(workload.service)
    if workload.stdin:
        yield "stdin", workload.stdin.value
    if workload.result:
        yield "result", workload.result.value
    if workload.cwd:
        yield "directory", workload.cwd
    for name, value in sorted(workload.env.items()):
        yield "env", f"{name}={value}"
    for name, secret in sorted(workload.secrets.items()):
        yield "secret", f"{name} from {secret}"
    limits = [f"grace {workload.grace_s:g} s"]
    if workload.timeout_s:
        limits.insert(0, f"timeout {workload.timeout_s:g} s")
    if workload.output_bytes_max:
        limits.append(f"output {workload.output_bytes_max:,} bytes")
    yield "limits", ", ".join(limits)
    if workload.retries:
        yield "retries", f"{workload.retries} after {', '.join(workload.retry_on) or 'any failed attempt'}"
    wants = [f"{name}={value}" for name, value in sorted(workload.labels.items())]
    yield "wants", ", ".join([f"{workload.slots} slot" + ("" if workload.slots == 1 else "s"), *wants])
    if not workload.external:
        yield "shown", "to chains only"
    elif workload.families:
        yield "shown", f"by {', '.join(workload.families)}"
    if workload.allowed_networks:
        yield "callers", ", ".join(workload.allowed_networks)
    if workload.proofs:
        yield "proofs", "when they are asked for"
    if workload.resources:
        yield "resources", workload.resources
    if workload.params_schema:
        for line in json.dumps(json.loads(workload.params_schema), indent=2).splitlines():
            yield "params", line


def _container_fields(container: Container) -> Iterable[tuple[str, str]]:
    yield "image", f"{container.image} (pull: {container.pull})"
    limits = [f"{container.memory_bytes / (1 << 20):,.0f} MiB"] if container.memory_bytes else []
    limits += [f"{container.cpus:g} cpus"] if container.cpus else []
    yield "container", ", ".join([*limits, f"{container.pids or 512} processes", f"user {container.user or 'nobody'}"])
    yield "network", container.network or "none"
    if container.port:
        yield "port", str(container.port)
    if container.writable:
        yield "root", "writable"
    for volume in container.volumes:
        yield "volume", volume
    if container.capabilities:
        yield "keeps", ", ".join(container.capabilities)


def _service_fields(service: Service) -> Iterable[tuple[str, str]]:
    if service.url:
        yield "url", service.url
    if service.token_variable:
        yield "token", f"in {service.token_variable}"
    if service.health_path:
        yield "health", service.health_path
    if service.check_status:
        yield "status", "400 or more fails the call"
    if service.start_s:
        yield "starts", f"within {service.start_s:g} s"
