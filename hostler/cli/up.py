"""`hostler up`: a whole cluster on this host in one terminal.

Starts the coordinator, then workers and gateway; prints one line once a job can be submitted; keeps
everything running; ends it in order on Ctrl-C or SIGTERM, jobs included, and says what was stopped.
Standard output carries the ``ready:`` line only.
"""

import asyncio
import json
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from hostler.cli.beside import beside
from hostler.cli.connect import answers
from hostler.cli.failures import JOB_FAILED, OK, Failure, usage_failure
from hostler.cli.parts import Part, Parts, Stage
from hostler.cli.render import command_text, print_failure, say
from hostler.client import Client
from hostler.endpoint import GATEWAY_FILE_NAME, coordinator_socket, parse_bind, read_endpoint
from hostler.errors import HostlerError, Unavailable
from hostler.jobs import Job, JobQuery
from hostler.lifecycle import ON_A_WORKER
from hostler.receipts import receipt_text
from hostler.settings import Settings, make_private_dir
from hostler.state_text import state_text
from hostler.workers import WorkerState

READY_S = 60.0
POLL_S = 0.05
CALL_S = 5.0
REPORTED_JOBS_MAX = 20
ASKED_JOBS_MAX = 1000
COMMAND_CHARACTERS_MAX = 60
COORDINATOR = "coordinator"
GATEWAY = "gateway"


def up(settings: Settings, *, as_json: bool) -> int:
    """Run a cluster until told to end; 0 after an orderly end.

    Raises:
        Failure: it cannot work like this, or a part keeps failing.
        InvalidRequest: a setting is unusable.
    """
    parse_bind(settings.http, field="http", secured=True)
    if settings.grpc:
        parse_bind(settings.grpc, field="grpc", secured=True)
    if settings.coordinator:
        raise usage_failure(
            "up starts a coordinator of its own, and the settings name another one",
            hint="leave the setting coordinator out, or add a worker to that one with: hostler worker",
        )
    make_private_dir(settings.data_dir)
    address = f"unix:{coordinator_socket(settings.data_dir)}"
    if answers(address):
        raise usage_failure(
            f"a coordinator already runs on {settings.data_dir}",
            hint="use that one, or give another --data-dir",
        )
    return asyncio.run(_Up(settings, address, as_json=as_json).run())


class _Up:
    """One run of the command."""

    def __init__(self, settings: Settings, address: str, *, as_json: bool) -> None:
        self._settings = settings
        self._address = address
        self._as_json = as_json
        self._told = asyncio.Event()
        self._signals = 0
        self._worker_names = worker_names(settings.name or socket.gethostname(), settings.workers)
        self._hurrying: asyncio.Task[None] | None = None
        self._stopping: Sequence[Job] = ()

    async def run(self) -> int:
        """See `up`."""
        parts = Parts(self._settings.data_dir / "logs", say)
        loop = asyncio.get_running_loop()
        async with Client(self._address) as client:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self._on_signal, parts, client)
            try:
                failure = await self._run_parts(parts, client)
                if failure is not None:
                    print_failure(failure, as_json=self._as_json)
                await self._end(parts, client)
            finally:
                await parts.end()
                if self._hurrying is not None:
                    self._hurrying.cancel()
                    await asyncio.gather(self._hurrying, return_exceptions=True)
        return OK if failure is None else failure.exit_code

    async def _run_parts(self, parts: Parts, client: Client) -> Failure | None:
        workers = f"{self._settings.workers} worker{'' if self._settings.workers == 1 else 's'}"
        say(f"starting coordinator, {workers} and gateway; their logs are in {self._settings.data_dir / 'logs'}")
        if os.getuid() == 0 and self._settings.workers:
            say("jobs run as root, the user who started this")
        async with beside(self._told.wait()) as told, beside(self._until_ready(parts, client)) as ready:
            awaited: set[asyncio.Future[Any]] = {told, parts.gave_up}
            await asyncio.wait({*awaited, ready}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not parts.gave_up.done():
                parts.ready()
                self._print_ready(ready.result())
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                return None
            if parts.gave_up.done():
                return parts.gave_up.result()
        hint = f"look into the logs in {self._settings.data_dir / 'logs'}"
        return Failure(f"the cluster was not ready within {READY_S:g} s", hint=hint, exit_code=JOB_FAILED)

    async def _until_ready(self, parts: Parts, client: Client) -> str:
        parts.start(self._part(COORDINATOR, COORDINATOR, Stage.COORDINATOR))
        # Only once our own coordinator holds the data directory: with another one on it, our workers would join
        # that one, take its jobs and stop them on the way out.
        await until(lambda: self._is_ours(parts.pid(COORDINATOR)))
        for name in self._worker_names:
            given = {"name": name, "stop_jobs": True, "coordinator": self._address}
            parts.start(self._part(f"worker {name}", "worker_agent", Stage.WORKERS, given))
        parts.start(self._part(GATEWAY, "http_gateway", Stage.GATEWAY, {"coordinator": self._address}))
        await client.describe(wait_for_ready=True, timeout_s=READY_S)
        await until(lambda: self._workers_connected(client))
        await until(lambda: is_healthy(gateway_url(self._settings, parts.pid(GATEWAY))))
        return gateway_url(self._settings, parts.pid(GATEWAY))

    def _part(self, name: str, program: str, stage: Stage, given: dict[str, object] | None = None) -> Part:
        settings = self._settings.to_dict() | (given or {})
        return Part(name=name, program=program, settings=settings, stage=stage)

    async def _is_ours(self, pid: int) -> bool:
        published = read_endpoint(self._settings.data_dir)
        return published is not None and published.pid == pid

    async def _workers_connected(self, client: Client) -> bool:
        try:
            workers = await client.workers()
        except Unavailable:
            # It has died on its way up and is started again; what goes on is said by `Parts`.
            return False
        connected = {worker.name for worker in workers if worker.state is WorkerState.CONNECTED}
        return connected.issuperset(self._worker_names)

    def _print_ready(self, url: str) -> None:
        print(json.dumps({"ready": url}) if self._as_json else f"ready: {url}", flush=True)

    def _on_signal(self, parts: Parts, client: Client) -> None:
        self._signals += 1
        self._told.set()
        if self._signals == 2:
            say("hurrying: the jobs are killed; once more kills everything")
            self._hurrying = asyncio.create_task(self._hurry(parts, client))
        elif self._signals > 2:
            parts.kill()

    async def _hurry(self, parts: Parts, client: Client) -> None:
        jobs = self._stopping or await self._jobs_on_workers(client, parts)
        try:
            async with asyncio.timeout(CALL_S):
                kills = [client.stop(job.id, grace_s=0.0, wait_s=CALL_S) for job in jobs]
                await asyncio.gather(*kills, return_exceptions=True)
        except TimeoutError:
            say("not every job's end could be verified")
        # With no job left every part ends by itself at once. A worker that is killed instead cannot tell its
        # shims to go, and they wait a minute for another one.
        await asyncio.sleep(CALL_S)
        parts.kill()

    async def _end(self, parts: Parts, client: Client) -> None:
        self._stopping = await self._jobs_on_workers(client, parts)
        count = len(self._stopping)
        jobs = f"{count} running job{'' if count == 1 else 's'}, " if count else ""
        say(f"stopping {jobs}gateway, workers and coordinator")
        await parts.end_stage(Stage.GATEWAY)
        await parts.end_stage(Stage.WORKERS, signal_number=signal.SIGINT)
        if parts.pid(COORDINATOR):
            if self._stopping:
                await self._report(client, self._stopping)
            await self._report_queue(client)

    async def _jobs_on_workers(self, client: Client, parts: Parts) -> Sequence[Job]:
        if not parts.pid(COORDINATOR):
            return ()
        try:
            async with asyncio.timeout(CALL_S):
                query = JobQuery(states=tuple(sorted(ON_A_WORKER)), limit=ASKED_JOBS_MAX)
                ours = {worker.id for worker in await client.workers() if worker.name in self._worker_names}
                return [job for job in (await client.find(query)).jobs if job.worker in ours]
        except (HostlerError, TimeoutError):
            # A coordinator that cannot say what runs must not keep us from ending it.
            return ()

    async def _report(self, client: Client, jobs: Sequence[Job]) -> None:
        ended: list[str] = []
        try:
            async for progress in client.wait([job.id for job in jobs], timeout_s=CALL_S):
                ended.append(progress.id)
                if len(ended) <= REPORTED_JOBS_MAX:
                    self._report_one(await client.get(progress.id))
        except HostlerError as error:
            say(error.message)
        if len(ended) > REPORTED_JOBS_MAX:
            say(f"and {len(ended) - REPORTED_JOBS_MAX} more")
        if len(ended) < len(jobs):
            say(f"the end of {len(jobs) - len(ended)} jobs is not known yet; it will be when the worker is back")

    async def _report_queue(self, client: Client) -> None:
        try:
            queued = (await client.describe(timeout_s=CALL_S)).queued
        except HostlerError as error:
            say(error.message)
            return
        if queued:
            say(f"{queued:,} waiting job{'' if queued == 1 else 's'} will run when a worker is there again")

    def _report_one(self, job: Job) -> None:
        command = command_text(job.spec.work.argv)
        if len(command) > COMMAND_CHARACTERS_MAX:
            command = command[:COMMAND_CHARACTERS_MAX] + "..."
        receipt = f"; {receipt_text(job.end)}" if job.end is not None else ""
        say(f"{job.id} ({command}) {state_text(job)}{receipt}")


def worker_names(host: str, count: int) -> list[str]:
    """The names of the workers that `up` starts: the host's, numbered when there are several."""
    return [host] if count == 1 else [f"{host}-{number}" for number in range(1, count + 1)]


def gateway_url(settings: Settings, pid: int) -> str:
    """The base URL that the gateway of this *pid* has published; empty when it has not yet."""
    try:
        published = json.loads((settings.data_dir / GATEWAY_FILE_NAME).read_text())
    except (OSError, ValueError):
        return ""
    # The file of an earlier gateway names a port where nobody, or somebody else, listens now.
    return str(published["http"]) if published["pid"] == pid else ""


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once *holds* says yes; the caller bounds the wait."""
    while True:
        if await holds():
            return
        await asyncio.sleep(POLL_S)


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def is_healthy(url: str) -> bool:
    """Say whether ``GET /health`` answers 200; an empty *url* does not."""
    if not url:
        return False
    place = urlsplit(url)
    try:
        async with asyncio.timeout(CALL_S):
            # Its certificate may be for other names than this one; nothing secret is asked.
            tls = _any_certificate() if place.scheme == "https" else None
            reader, writer = await asyncio.open_connection(place.hostname, place.port, ssl=tls)
            try:
                writer.write(f"GET /health HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
                return (await reader.readline()).split(b" ")[1:2] == [b"200"]
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
