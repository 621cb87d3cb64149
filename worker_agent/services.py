"""The long-lived HTTP services that attempts call: started by the first call, kept, and stopped when nobody calls.

A service is known by its container's name, which holds its workload's name and version and a digest of how it is
run. Its container is in a network of its own and publishes no port: whoever calls it steps into that network
(worker_agent.runtimes.service_call), so nothing of the host's network is changed and nobody else can call it.
It outlives the agent; the next one finds it by its label, and adopts it when an attempt wants just this one.
Limits: asyncio, one event loop. A worker that is not root cannot step into the network of a container.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from hostler import logs
from hostler.jobs import Container, Service
from hostler.settings import make_private_dir
from worker_agent.attempts import Order
from worker_agent.podman import CALL_S as PODMAN_S
from worker_agent.podman import SERVICE_LABEL, VERSION_LABEL, WORKER_LABEL, Listed, Podman
from worker_agent.process_tree import is_alive, read_stat
from worker_agent.runtimes import container as runtime
from worker_agent.service_health import answers
from worker_agent.unprepared import NotStarted

START_S: Final = 60.0
PORT: Final = 3000
CALL_S: Final = 180.0  # of a call whose job has no time limit
IDLE_S: Final = 600.0
LOOK_S: Final = 5.0
PULL_S: Final = 1800.0  # an image may have to be fetched
FAULTS_MAX: Final = 6  # health checks in a row that a service without calls may fail
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
STEADY_S: Final = 60.0  # it ran for so long: the next death is the first again
STOP_GRACE_S: Final = 2
# A program of its own: we do not import what it needs, an HTTP client above all.
_PROGRAM: Final = os.path.join(os.path.dirname(os.path.abspath(runtime.__file__)), "service_call.py")
_POLL_S: Final = 0.1
_LOG_LINES: Final = 20
_LOG_CHARACTERS: Final = 4000


class _Kept:
    """One container of a service, and who calls it."""

    def __init__(self, name: str, service: str, version: int) -> None:
        self.name = name  # of the container
        self.service, self.version = service, version
        self.wanted: Service | None = None  # how it is run; None: found, and nobody has called it yet
        self.calls: set[str] = set()  # keys of attempts
        self.retired = False  # a newer version takes its place
        self.pid = self.start_ticks = 0
        self.up = asyncio.Event()
        self.problem = ""  # why it could not be started
        self.ending = False  # it is removed, and nobody can call it any more
        self.changed = asyncio.Event()  # its calls, or what is wanted of it
        self.used_at = time.monotonic()
        self.running: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return bool(self.pid) and is_alive(self.pid, self.start_ticks)

    @property
    def is_over(self) -> bool:
        """Whether it has nothing more to do."""
        return not self.calls and (self.retired or time.monotonic() - self.used_at > IDLE_S)


class Services:
    """The services of one worker."""

    def __init__(self, podman: Podman, directory: Path) -> None:
        """*directory* is the worker's; files that say where a service is are made below it."""
        self._podman = podman
        self._directory = directory.absolute() / "services"
        self._kept: dict[str, _Kept] = {}  # by the name of the container
        self._called: dict[str, str] = {}  # attempt: container

    # -- calls

    async def complete(self, order: Order, service: Service) -> tuple[Order, str]:
        """Return the order that calls a service, once it is up, and the name of the service's container, if any.

        The attempt counts as a call until `release`.

        Raises:
            NotStarted: the service cannot be started.
        """
        name, arguments = "", [service.url]
        if not service.url:
            name = await self._acquire(order.key, service)
            arguments = [f"http://127.0.0.1:{_port(service)}", "--inside", str(self._directory / name)]
        if service.token_variable:
            arguments += ["--token", service.token_variable]
        if service.check_status:
            arguments.append("--check-status")
        if not order.timeout_s:
            arguments += ["--within", f"{CALL_S:g}"]
        # Isolated, so that nothing in the attempt's environment or directory is imported.
        argv = (sys.executable, "-I", "-S", _PROGRAM, *arguments)
        # It enters the network of another process, as the worker's user: nothing of a job's may be heard by its loader.
        env = {n: text for n, text in order.env.items() if n.startswith("HOSTLER_") or n == service.token_variable}
        return order._replace(argv=argv, env=env, keeps_user=True), name

    def adopt_call(self, key: str, name: str) -> None:
        """An attempt of an earlier agent calls the service in this container."""
        self._called[key] = name
        if name in self._kept:
            self._kept[name].calls.add(key)

    def release(self, key: str) -> None:
        """An attempt calls no more; legal for any attempt, and more than once."""
        kept = self._kept.get(self._called.pop(key, ""))
        if kept is not None:
            kept.calls.discard(key)
            kept.used_at = time.monotonic()
            kept.changed.set()

    async def _acquire(self, key: str, service: Service) -> str:
        if problem := await self._podman.problem():
            raise NotStarted(f"service {service.name}: podman cannot be used on this worker: {problem}")
        if os.geteuid() != 0:
            raise NotStarted(f"service {service.name}: its container needs a worker that runs as root")
        name = self._name_of(service)
        while (kept := self._kept.get(name)) is not None and kept.ending and kept.running is not None:
            await asyncio.wait((kept.running,))
        kept = kept or self._keep(_Kept(name, service.name, service.version))
        kept.wanted = kept.wanted or service
        self._called[key] = name
        kept.calls.add(key)
        self._retire_older(service)
        if not kept.alive:
            kept.up.clear()
        kept.changed.set()
        try:
            await kept.up.wait()
        except asyncio.CancelledError:
            self.release(key)
            raise
        if kept.problem:
            self.release(key)
            raise NotStarted(kept.problem)
        return name

    def _name_of(self, service: Service) -> str:
        how = json.dumps(asdict(service), sort_keys=True).encode()
        digest = hashlib.sha256(how).hexdigest()[:12]
        return f"hostler-{self._podman.worker}-{service.name}-{service.version}-{digest}"

    def _retire_older(self, service: Service) -> None:
        ours = [each for each in self._kept.values() if each.service == service.name]
        newest = max(each.version for each in ours)
        for each in ours:
            each.retired = each.version < newest
            each.changed.set()

    # -- the life of one

    def _keep(self, kept: _Kept) -> _Kept:
        self._kept[kept.name] = kept
        kept.running = asyncio.get_running_loop().create_task(self._run(kept))
        return kept

    async def _run(self, kept: _Kept) -> None:
        try:
            await self._keep_up(kept)
        except asyncio.CancelledError:
            # The agent leaves: the container runs on. What began to start is found, or removed, by the next one.
            raise
        except NotStarted as error:
            kept.problem = error.error
            logs.get().warning("service.failed", service=kept.service, version=kept.version, reason=error.error)
        except Exception as error:
            # The owner of this service: attempts that wait for it must not wait for ever.
            kept.problem = f"service {kept.service}: {error}"
            logs.get().exception("service.failed", service=kept.service, version=kept.version)
        kept.ending = True
        kept.up.set()
        (self._directory / kept.name).unlink(missing_ok=True)
        await self._podman.remove(kept.name, grace_s=STOP_GRACE_S)
        self._kept.pop(kept.name, None)

    async def _keep_up(self, kept: _Kept) -> None:
        """Start it, watch it, and start it again, until it has nothing more to do. Raises NotStarted."""
        pause_s = BACKOFF_FIRST_S
        while not kept.is_over:
            if kept.wanted is not None and not kept.alive:
                await self._start(kept, kept.wanted)
            began = time.monotonic()
            kept.up.set()
            if await self._watch(kept):
                break
            kept.up.clear()
            kept.pid = 0  # also of one that lives and does not answer
            logs.get().warning("service.died", service=kept.service, version=kept.version, log=await self._log(kept))
            if kept.wanted is None:
                break  # found, and nobody has said how it is run
            pause_s = BACKOFF_FIRST_S if time.monotonic() - began > STEADY_S else min(2 * pause_s, BACKOFF_MAX_S)
            await asyncio.sleep(pause_s)
        logs.get().info("service.stopped", service=kept.service, version=kept.version)

    async def _start(self, kept: _Kept, service: Service) -> None:
        await self._podman.remove(kept.name)
        container = service.container
        assert container is not None
        pid_file = self._directory / f"{kept.name}.pid"
        make_private_dir(self._directory)
        pid_file.unlink(missing_ok=True)
        start_s = service.start_s or START_S
        within_s = PODMAN_S if container.pull == "never" else PULL_S  # one that is ended in the middle leaves a mess
        answer = await self._podman.call(*self._arguments(kept, service, container, pid_file), within_s=within_s)
        if answer.code != 0:
            raise NotStarted(f"service {service.name} could not be started: podman: {answer.reason}")
        kept.pid = int(pid_file.read_text())
        stat = read_stat(kept.pid)
        kept.start_ticks = stat.start_ticks if stat is not None else 0
        pid_file.unlink(missing_ok=True)
        until = time.monotonic() + start_s
        while not await answers(kept.pid, kept.start_ticks, _port(service), service.health_path):
            if not kept.alive:
                raise NotStarted(f"service {service.name} ended while it was started: {await self._log(kept)}")
            if time.monotonic() > until:
                raise NotStarted(f"service {service.name} was not ready within {start_s:g} s: {await self._log(kept)}")
            await asyncio.sleep(_POLL_S)
        self._tell_place(kept)
        logs.get().info("service.started", service=kept.service, version=kept.version)

    def _tell_place(self, kept: _Kept) -> None:
        """Say in a file where it is, for calls: they may begin long after they were prepared."""
        make_private_dir(self._directory)
        aside = self._directory / f"{kept.name}.new"
        aside.write_text(f"{kept.pid} {kept.start_ticks}\n")
        aside.replace(self._directory / kept.name)

    def _arguments(self, kept: _Kept, service: Service, container: Container, pid_file: Path) -> list[str]:
        labels = {
            WORKER_LABEL: self._podman.worker,
            SERVICE_LABEL: service.name,
            VERSION_LABEL: str(service.version),
        }
        env_arguments = [f"--env={name}={text}" for name, text in service.env.items()]
        return [
            "run",
            "--detach",
            "--log-driver=k8s-file",
            "--log-opt=max-size=10mb",
            f"--pidfile={pid_file}",
            *self._podman.run_options,
            *runtime.run_arguments(container, name=kept.name, labels=labels),
            *env_arguments,
            container.image,
            *service.argv,
        ]

    async def _watch(self, kept: _Kept) -> bool:
        """Look at a service until it has nothing more to do (True), or has to be started anew (False)."""
        faults = 0
        while True:
            if kept.is_over:
                return True
            if not kept.alive:
                return False
            service = kept.wanted
            if service is not None and not kept.calls:
                well = await answers(kept.pid, kept.start_ticks, _port(service), service.health_path)
                faults = 0 if well else faults + 1
                if faults >= FAULTS_MAX:
                    return False
            kept.changed.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await kept.changed.wait()
            except TimeoutError:
                pass

    async def _log(self, kept: _Kept) -> str:
        answer = await self._podman.call("logs", "--tail", str(_LOG_LINES), kept.name)
        return (answer.out + answer.err).strip()[-_LOG_CHARACTERS:] or "it wrote nothing"

    # -- the agent comes and goes

    async def recover(self) -> None:
        """Take over the services that an earlier agent left running, and remove what is left of others."""
        if await self._podman.problem():
            return
        for listed in await self._podman.list():
            if SERVICE_LABEL in listed.labels and listed.name not in self._kept:
                await self._adopt(listed)

    async def _adopt(self, listed: Listed) -> None:
        version = listed.labels.get(VERSION_LABEL, "")
        stat = read_stat(listed.pid) if listed.running and listed.pid else None
        if stat is None or not version.isdecimal():
            await self._podman.remove(listed.name)
            return
        kept = _Kept(listed.name, listed.labels[SERVICE_LABEL], int(version))
        kept.pid, kept.start_ticks = listed.pid, stat.start_ticks
        kept.calls = {key for key, name in self._called.items() if name == listed.name}
        self._tell_place(kept)
        self._keep(kept)

    async def stop_all(self) -> None:
        """End every service: the worker ends with its jobs."""
        kept = list(self._kept.values())
        await self.close()
        await asyncio.gather(*(self._podman.remove(each.name, grace_s=STOP_GRACE_S) for each in kept))

    async def close(self) -> None:
        """Look after the services no more; they run on."""
        running = [each.running for each in self._kept.values() if each.running is not None]
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._kept.clear()


def _port(service: Service) -> int:
    return (service.container.port if service.container is not None else 0) or PORT
