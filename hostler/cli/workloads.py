"""The commands about workloads: apply, list, show, remove."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from hostler.cli.connect import cluster
from hostler.cli.failures import OK, usage_failure
from hostler.cli.options import Place
from hostler.cli.render import command_text, moment_text, print_fields, print_json, print_line, print_table, say
from hostler.cli.transfer import send_bytes
from hostler.shape import workload_shape
from hostler.workload_files import Definition, read_directory, with_script
from hostler.workloads import Workload


def apply(place: Place, paths: Sequence[Path]) -> int:
    """Store the scripts of the workloads in *paths* and register them, all or none."""
    definitions: dict[str, Definition] = {}
    for path in paths:
        for definition in read_directory(path):
            name = definition.workload.name
            if definitions.setdefault(name, definition) is not definition:
                raise usage_failure(f"{path}: the workload {name} is in the files twice")
    if not definitions:
        raise usage_failure("there is no *.toml file in these directories")

    async def act() -> int:
        async with cluster(place) as client:
            workloads: list[Workload] = []
            for definition in definitions.values():
                source = definition.script_source
                stored = None if source is None else await send_bytes(client, source)
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
    if workload.stdin:
        yield "stdin", workload.stdin.value
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
    if workload.params_schema:
        for line in json.dumps(json.loads(workload.params_schema), indent=2).splitlines():
            yield "params", line
