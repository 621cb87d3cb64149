"""The composition root of the worker: builds its parts, starts and stops them in order."""

import asyncio
import json
import re
from pathlib import Path

from hostler import logs
from hostler.clock import SystemClock
from hostler.endpoint import coordinator_address
from hostler.errors import InvalidRequest
from hostler.private_files import write_private
from hostler.processes import Ending, settle_memory
from hostler.settings import Settings, make_private_dir, runtime_dir
from hostler.tls import Target, needs_access
from worker_agent.agent import Agent
from worker_agent.capacity import (
    CONTAINER,
    HARDENED,
    RUNTIMES,
    boot_id,
    default_slots,
    hardened_refusal,
    host_name,
    limits_kept,
)
from worker_agent.draining import DiskRoom
from worker_agent.joining import Credentials, Renewal, join_or_resume
from worker_agent.journal import DataDirectoryInUse, Journal
from worker_agent.lease import LeaseFile
from worker_agent.link import Identity, Link, Superseded
from worker_agent.local_policy import Policy, takes_runtime
from worker_agent.podman import Podman
from worker_agent.policy_rules import Rules, rules_of
from worker_agent.runner import Runner
from worker_agent.workspace import RESERVE_BYTES
from worker_agent.workspaces import Workspaces

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
IDENTITY_FILE = "worker.json"


async def run(settings: Settings, ending: Ending) -> int:
    """Work until *ending* is set.

    Returns the exit code: 0 ended in order, 3 another agent speaks for this worker.

    Raises:
        InvalidRequest: the worker cannot run as configured.
    """
    name = _name_of(settings)
    make_private_dir(settings.data_dir)
    directory = make_private_dir(settings.data_dir / "workers" / name)
    slots, boot = settings.slots or default_slots(), boot_id()
    elsewhere = needs_access(settings, coordinator_address(settings))
    rules = await rules_of(settings, directory, elsewhere=elsewhere)
    abilities = await _abilities(rules.start_path)
    rules.check(abilities)
    runtime = make_private_dir(runtime_dir(directory))
    journal, lease = _open_files(directory, runtime, boot)
    agent = Agent(journal, slots, DiskRoom(directory, min(settings.disk_reserve_bytes, RESERVE_BYTES)))
    try:
        runner = Runner(
            data_dir=directory,
            runtime_dir=runtime,
            generation=journal.generation,
            boot_id=boot,
            slots=slots,
            on_event=agent.on_event,
            start_path=rules.start_path,
            confining=rules.confining,
        )
        joined, clock = await _joined(settings, directory, name, ending), SystemClock()
        if ending.is_set():
            return 0
        target = joined.target if joined is not None else Target(coordinator_address(settings))
        workspaces = _workspaces(settings, rules, directory, target, agent)
        async with runner:
            await agent.recover(runner, workspaces)
            link = Link(
                address=target,
                agent=agent,
                redact=settings.redact_logs,
                identity=_identity(settings, rules.policy, name, slots, abilities),
                worker=joined.worker if joined is not None else _read_identity(directory),
                remember=lambda worker: _write_identity(directory, worker),
                lease=lease,
                clock=clock,
                policy=rules.policy,
            )
            settle_memory()
            renewal = Renewal(joined, directory, clock, link.move) if joined is not None else None
            return await _work(settings, agent, runner, link, ending, renewal)
    finally:
        lease.close()
        journal.close()


def _workspaces(settings: Settings, rules: Rules, directory: Path, target: Target, agent: Agent) -> Workspaces:
    return Workspaces(
        directory,
        address=target,
        owner=agent,
        podman=Podman(settings.podman, settings.podman_options, directory),
        volumes_allowed=rules.volumes_allowed,
        shared=rules.shared,
        confined=not rules.confining.is_free,
    )


def _identity(settings: Settings, policy: Policy, name: str, slots: int, abilities: tuple[str, ...]) -> Identity:
    return Identity(
        name=name,
        host=host_name(),
        slots=slots,
        labels=settings.labels,
        runtimes=tuple(runtime for runtime in RUNTIMES if takes_runtime(policy, runtime)),
        # An empty list would say that it takes all; nothing is called "".
        workloads=(policy.workloads or ("",)) if policy.takes_some else settings.workloads,
        abilities=abilities,
        policy=policy.mode.value,
        named_only=policy.named_only,
    )


async def _joined(settings: Settings, directory: Path, name: str, ending: Ending) -> Credentials | None:
    """What this worker shows to a coordinator on another host; None on this host, or when told to end before.

    Raises:
        InvalidRequest: it is not let in.
    """
    address = coordinator_address(settings)
    if not needs_access(settings, address):
        return None
    joining = asyncio.create_task(join_or_resume(settings, address, directory, name, SystemClock()))
    told = asyncio.create_task(ending.wait())
    try:
        await asyncio.wait((joining, told), return_when=asyncio.FIRST_COMPLETED)
        return joining.result() if joining.done() else None
    finally:
        joining.cancel()
        told.cancel()
        await asyncio.gather(joining, told, return_exceptions=True)


async def _abilities(start_path: str) -> tuple[str, ...]:
    """Try what this host can do for an attempt. Raises InvalidRequest when the settings ask for more."""
    refusal, abilities = await asyncio.gather(hardened_refusal(), limits_kept())
    if refusal and start_path == HARDENED:
        raise InvalidRequest(f"start_path = hardened is not possible on this host: {refusal}", field="start_path")
    return abilities if refusal else (*abilities, HARDENED)


def _open_files(directory: Path, runtime: Path, boot: str) -> tuple[Journal, LeaseFile]:
    """Open the journal, which holds the lock on the directory, and the lease. Raises InvalidRequest."""
    try:
        journal = Journal.open(directory, boot)
    except DataDirectoryInUse as error:
        raise InvalidRequest(
            f"another worker runs on {directory}; stop it, or choose another --name or --data-dir"
        ) from error
    except OSError as error:
        raise InvalidRequest(f"the journal in {directory} cannot be written: {error.strerror or error}") from error
    try:
        return journal, LeaseFile(runtime, boot)
    except OSError as error:
        journal.close()
        raise InvalidRequest(f"the lease in {runtime} cannot be written: {error.strerror or error}") from error


def _name_of(settings: Settings) -> str:
    name = settings.name or host_name()
    if NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"a worker cannot be called {name!r}: letters, digits, dot, hyphen and underscore; give one with --name"
        )
    return name


async def _work(
    settings: Settings, agent: Agent, runner: Runner, link: Link, ending: Ending, renewal: Renewal | None
) -> int:
    linked = asyncio.create_task(link.run())
    kept = (
        asyncio.create_task(agent.keep_sampling()),
        asyncio.create_task(agent.workspaces.keep_watching()),
        asyncio.create_task(agent.workspaces.keep_containers(lambda: link.offer(CONTAINER))),
        *((asyncio.create_task(renewal.run()),) if renewal is not None else ()),
    )
    asked = asyncio.create_task(ending.wait())
    emptied = asyncio.create_task(link.asked_to_leave.wait())
    try:
        await asyncio.wait((linked, *kept, asked, emptied), return_when=asyncio.FIRST_COMPLETED)
        if linked.done() and isinstance(linked.exception(), Superseded):
            logs.get().error("agent.stopped", reason="another agent speaks for this worker")
            return 3
        if linked.done():
            linked.result()
        for each in kept:
            if each.done():
                each.result()
        # SIGTERM alone is an upgrade or a restart: jobs run on and the next agent adopts them.
        stop_jobs = settings.stop_jobs and not ending.terminated
        stopped = await agent.leave(stop_jobs=stop_jobs)
        await link.say_goodbye()
        if stop_jobs:
            try:
                await runner.close(stop_jobs=True)
            except TimeoutError:
                # Its shim goes on trying; nothing is gained by waiting for what does not die.
                logs.get().error("agent.left_unkillable", attempts=sorted(runner.running()))
            await agent.workspaces.services.stop_all()
        logs.get().info("agent.stopped", stopped=stopped, left_running=sorted(runner.running()))
        return 0
    finally:
        parts = (linked, *kept, asked, emptied)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await agent.workspaces.close()


def _read_identity(directory: Path) -> str:
    try:
        return str(json.loads((directory / IDENTITY_FILE).read_text())["id"])
    except (OSError, ValueError, KeyError):
        return ""


def _write_identity(directory: Path, worker: str) -> None:
    write_private(directory / IDENTITY_FILE, json.dumps({"id": worker}).encode())
