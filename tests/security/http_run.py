"""Sends bad requests to a real gateway process in front of a fake coordinator, and judges each answer.

Besides the answers: the process is still the same, it has written at most one line a request and none of a fault of
its own, its memory has grown by less than 64 MiB, and /health answered meanwhile.
"""

import asyncio
import http.client
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from hostler.jobs import Job, JobSpec, Work
from hostler.lifecycle import State
from hostler.settings import load
from hostler.workloads import Workload
from tests.gateway.fake_coordinator import FakeCoordinator, finished
from tests.security.http_cases import JOB, WORKER, Case, problem_of, replies_of, request
from tests.security.outcomes import Outcome, send_all
from tests.support.api_document import ApiDocument

ROOT = Path(__file__).parents[2]
AT_ONCE = 8
ANSWER_S = 60.0
QUIET_S = 0.3  # without an answer, after which the other end is told that nothing more comes
EVENTS, LAST_CHUNK = b"\r\nContent-Type: text/event-stream", b"0\r\n\r\n"
JOBS_MAX = 300  # that the fake coordinator keeps
HEALTH_S_MAX = 0.25
HEALTH_EVERY_S = 0.1
WARM_UP = 300  # cases before memory is measured


class HttpRun:
    """One gateway process and the cluster that it thinks it has."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.coordinator = FakeCoordinator(f"unix:{data_dir}/c.sock")
        self.outcome = Outcome()
        self.document = ApiDocument({"paths": {}})
        self._address = ("127.0.0.1", 0)
        self._log = data_dir / "gateway.log"
        self._pid = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the gateway, and look at it at the end."""
        fake_cluster(self.coordinator)
        await self.coordinator.start()
        settings = load(
            data_dir=self._data_dir,
            http="127.0.0.1:0",
            coordinator=self.coordinator.address,
            log_format="json",
            log_level="info",
            altron_reply_wait_s=5.0,
        )
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "http_gateway", "--settings", settings.to_json()), cwd=ROOT, stderr=log
            )
        try:
            await self._find_gateway(process)
            self.document = ApiDocument(json.loads((await self._answer("GET", "/openapi.json")).body))
            yield
            if process.returncode is not None:
                self.outcome.problems.append(f"the gateway has ended with {process.returncode}")
        finally:
            if process.returncode is None:
                process.terminate()
                await asyncio.wait_for(process.wait(), 20)
            await self.coordinator.stop()
        self._check_log()

    async def run(self, cases: Iterable[Case], *, measure_health: bool = False) -> Outcome:
        """Send every case and judge the answers."""
        over = threading.Event()
        probing = asyncio.create_task(asyncio.to_thread(self._probe, over)) if measure_health else None
        try:
            await send_all(
                cases,
                self._one,
                outcome=self.outcome,
                process=psutil.Process(self._pid),
                at_once=AT_ONCE,
                warm_up=WARM_UP,
            )
        finally:
            over.set()
            if probing is not None:
                await probing
        return self.outcome

    async def send(self, case: Case) -> bytes:
        """Send one case over a connection of its own and return all that comes back."""
        reader, writer = await asyncio.open_connection(*self._address, limit=1 << 26)
        got, told = bytearray(), False
        try:
            writer.write(case.raw)
            async with asyncio.timeout(ANSWER_S):
                while True:
                    whole = _is_whole(bytes(got), case.method)
                    endless = EVENTS in got and not whole
                    quiet_s = QUIET_S if whole or endless or not got else None
                    try:
                        piece = await asyncio.wait_for(reader.read(1 << 20), quiet_s)
                    except TimeoutError:
                        if endless:
                            got += LAST_CHUNK  # it would go on; what has come is looked at
                        if whole or endless:
                            break
                        if case.silent and not told:
                            writer.write_eof()
                            told = True
                        continue
                    if not piece:
                        break
                    got += piece
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        return bytes(got)

    async def _one(self, case: Case) -> None:
        try:
            raw = await self.send(case)
            problem = problem_of(case, raw, self.document)
        except TimeoutError:
            raw, problem = b"", f"no answer within {ANSWER_S:.0f} s"
        except OSError as error:
            raw, problem = b"", f"no connection: {error}"
        status = int(raw[9:12]) if raw[:5] == b"HTTP/" and raw[9:12].isdigit() else 0
        self.outcome.note(status, f"{case}\n    {problem}" if problem else "")
        if len(self.coordinator.jobs) > JOBS_MAX:
            keep(self.coordinator)

    async def _find_gateway(self, process: asyncio.subprocess.Process) -> None:
        self._pid = process.pid
        async with asyncio.timeout(60):
            while True:
                for line in self._log.read_bytes().splitlines():
                    event = json.loads(line)
                    if event["event"] == "gateway.started":
                        host, _, port = event["url"].removeprefix("http://").rpartition(":")
                        self._address = (host, int(port))
                        return
                if process.returncode is not None:
                    raise AssertionError(self._log.read_text())
                await asyncio.sleep(0.02)

    async def _answer(self, method: str, path: str) -> Any:
        case = Case(kind="", name="", raw=request(method, path), method=method)
        (reply,) = replies_of(await self.send(case))
        return reply

    def _probe(self, over: threading.Event) -> None:
        """Ask for /health again and again, in a thread: this process's own event loop must not be what is measured."""
        while not over.wait(HEALTH_EVERY_S):
            began = time.monotonic()
            connection = http.client.HTTPConnection(*self._address, timeout=ANSWER_S)
            try:
                connection.request("GET", "/health", headers={"Host": "localhost"})
                status = connection.getresponse().status
            finally:
                connection.close()
            self.outcome.health_s_max = max(self.outcome.health_s_max, time.monotonic() - began)
            if status != 200:
                self.outcome.problems.append(f"/health answered {status}")

    def _check_log(self) -> None:
        lines = self._log.read_text(errors="replace").splitlines()
        self.outcome.log_lines = len(lines)
        if len(lines) > self.outcome.cases + 3:
            self.outcome.problems.append(f"{len(lines)} lines of log for {self.outcome.cases} requests")
        faults = [line for line in lines if '"request.failed"' in line or not line.startswith("{")]
        self.outcome.problems += [f"log: {line[:2000]}" for line in faults[:5]]


def _is_whole(raw: bytes, method: str) -> bool:
    try:
        return bool(replies_of(raw, method=method))
    except ValueError:
        return False


def fake_cluster(coordinator: FakeCoordinator) -> None:
    """Put there what cases name: a finished job with an output, and programs that end at once."""
    coordinator.on_submit = lambda job: finished(job, result=b'{"text": "a"}')
    coordinator.on_stop = finished
    names = ("echo", "sleep", "altron_job", "altron_reply")
    coordinator.workloads.add(*(Workload(name=name, documentation="A program.", argv=("true",)) for name in names))
    coordinator.outputs[JOB] = {"a.txt": b"abcdef"}
    keep(coordinator)


def keep(coordinator: FakeCoordinator) -> None:
    """Forget everything but the job that cases name."""
    job = coordinator.jobs.get(JOB)
    if job is None:
        spec = JobSpec(work=Work(argv=("true",)), worker=WORKER, owner="local", family="pixyz")
        job = finished(Job(id=JOB, spec=spec, state=State.QUEUED))
    coordinator.jobs.clear()
    coordinator.files.stored.clear()
    coordinator.records.known.clear()
    coordinator.jobs[JOB] = replace(job)
