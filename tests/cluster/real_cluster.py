"""A whole cluster of real processes in a directory of its own, with parts that can be killed and started again."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp

from hostler import frames
from hostler.client import Client
from hostler.endpoint import coordinator_address, read_gateway
from hostler.errors import HostlerError
from hostler.jobs import JobSpec, Work
from hostler.settings import load
from hostler.workers import WorkerState

WITHIN_S = 60.0
MODULES = {"coordinator": "coordinator", "gateway": "http_gateway"}


async def until(condition: Callable[[], Awaitable[Any]], what: str, within_s: float = WITHIN_S) -> Any:
    """Wait for a condition and return what it returned; say what was waited for when it does not come."""
    deadline = time.monotonic() + within_s
    while not (found := await condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s} s"
        await asyncio.sleep(0.02)
    return found


class RealCluster:
    """Coordinator, gateway and workers as processes; `http` and `client` call them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = load(data_dir=directory, http="127.0.0.1:0", grpc="127.0.0.1:0", log_format="json")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.client = Client(coordinator_address(self.settings))
        self.http: aiohttp.ClientSession

    # -- parts

    def start(self, part: str, *, before: Sequence[str] = (), **flags: Any) -> None:
        """Start a part: "coordinator", "gateway", or a worker by its name; *before* is put before its command."""
        module = MODULES.get(part, "worker_agent")
        given = self.settings.to_dict() | flags
        if module == "worker_agent":
            given |= {"name": part, "allow_root": True}
        settings = load(**given)
        with (self.directory / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(
                [*before, sys.executable, "-m", module, "--settings", settings.to_json()], stdout=log, stderr=log
            )

    def end(self, part: str, number: int) -> int:
        """Send a signal to a part and return its exit code."""
        process = self.processes.pop(part)
        process.send_signal(number)
        return process.wait(WITHIN_S)

    def memory_bytes(self, part: str) -> int:
        """The proportional set size of a part."""
        text = Path(f"/proc/{self.processes[part].pid}/smaps_rollup").read_text()
        return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))

    async def up(self, *workers: str, **flags: Any) -> None:
        """Start everything and wait until jobs can be submitted."""
        self.start("coordinator")
        for name in workers or ("w1",):
            self.start(name, **flags)
        self.start("gateway")
        await self.connected(len(workers) or 1)
        await self.gateway_up()

    async def gateway_up(self) -> None:
        """Wait for the gateway, and talk to it from now on."""
        self.url: str = await until(self._gateway_answers, "the gateway's answer")
        self.http = aiohttp.ClientSession(self.url)

    async def _gateway_answers(self) -> str:
        url = read_gateway(self.directory)
        if url:
            with contextlib.suppress(aiohttp.ClientError):
                async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as answer:
                    return url if answer.status == 200 else ""
        return ""

    async def gateway_again(self) -> None:
        """Talk to a gateway that was started anew."""
        await self.http.close()
        await self.gateway_up()

    async def connected(self, count: int) -> None:
        """Wait until so many workers are connected."""

        async def enough() -> bool:
            try:
                workers = await self.client.workers()
            except HostlerError:
                return False
            return sum(worker.state is WorkerState.CONNECTED for worker in workers) >= count

        await until(enough, f"{count} connected workers")

    async def worker_id(self, name: str = "w1") -> str:
        """The id of a worker."""
        return next(worker.id for worker in await self.client.workers() if worker.name == name)

    async def down(self) -> None:
        """End every part in order, and what is left of their jobs; nothing may stay."""
        if hasattr(self, "http"):
            await self.http.close()
        await self.client.close()
        for part in sorted(self.processes, key=lambda part: (part != "gateway", part == "coordinator")):
            process = self.processes.pop(part)
            process.terminate()
            try:
                process.wait(WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # -- calls

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """POST JSON (or a text as it is) and return status and JSON."""
        data = {"data": body} if isinstance(body, str | bytes) else {"json": body}
        async with self.http.post(path, **data) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, Any]:
        """GET and return status and JSON."""
        async with self.http.get(path) as answer:
            return answer.status, await answer.json()

    async def says(self, job: str, beginning: bytes) -> None:
        """Wait until what a job has written begins so."""
        content = b""
        async with (
            asyncio.timeout(WITHIN_S),
            aclosing(self.client.read_log(job, follow=True)) as log,
        ):
            async for chunk in log:
                content += b"".join(frame.payload for frame in frames.iter_frames(chunk.frames))
                if content.startswith(beginning):
                    return
        raise AssertionError(f"the log ended with {content!r}")

    async def log(self, job: str, kind: int = 0) -> bytes:
        """Everything a job wrote, or one stream of it."""
        content = b""
        async for chunk in self.client.read_log(job, follow=True):
            for frame in frames.iter_frames(chunk.frames):
                if frame.kind == kind or (not kind and frame.kind in (frames.OUT, frames.ERR)):
                    content += frame.payload
        return content


def shell(script: str, **options: Any) -> JobSpec:
    """A job that runs a shell script."""
    work = {name: options.pop(name) for name in ("grace_s", "timeout_s", "output_bytes_max", "env") if name in options}
    return JobSpec(work=Work(argv=("sh", "-c", script), **work), **options)


def processes_of(jobs: set[str]) -> list[int]:
    """The living processes that carry the mark of one of these jobs."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            marks = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            marked = any(m.startswith(b"HOSTLER_JOB=") and m[12:].decode() in jobs for m in marks)
            if marked and Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(name))
    return found
