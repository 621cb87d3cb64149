"""Sends bad messages to a real coordinator process, over every RPC, and judges each answer.

Whatever is sent, a call ends with a documented status, or goes on as a stream may until it is left; never with a fault
of ours. The process stays the same, logs no fault, and its memory does not grow.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil

from hostler.client import Client, open_channel
from hostler.endpoint import coordinator_socket
from hostler.jobs import JobSpec, Work
from hostler.settings import load
from tests.security.outcomes import Outcome, send_all
from tests.security.protobuf_corpus import Call

ROOT = Path(__file__).parents[2]
AT_ONCE = 16
CALL_S = 20.0
LEFT_S = 0.05  # after which a stream that goes on is left
# DEADLINE_EXCEEDED and CANCELLED are not here: the server never says them in time to these callers.
DOCUMENTED = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
    }
)
WAITING = ("Jobs/Stop",)  # it waits for a worker that does not come
WAITING_S = 0.5
LOST = 'Failed "execute_batch"'
LEFT = (grpc.StatusCode.OK, "")
WARM_UP = 600


class ProtobufRun:
    """One coordinator process."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.outcome = Outcome()
        self.ids: tuple[str, ...] = ()
        self._log = data_dir / "coordinator.log"
        self._address = f"unix:{coordinator_socket(data_dir)}"
        self._process: psutil.Process | None = None
        self._left = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the coordinator, and look at it at the end."""
        settings = load(data_dir=self._data_dir, grpc="", disk_reserve_bytes=0, log_format="json")
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "coordinator", "--settings", settings.to_json()), cwd=ROOT, stderr=log
            )
        self._process = psutil.Process(process.pid)
        try:
            await self._prepare(process)
            yield
            await self._check_alive(process)
        finally:
            if process.returncode is None:
                process.terminate()
                await asyncio.wait_for(process.wait(), 30)
            self._check_log()

    async def run(self, calls: Iterable[Call]) -> Outcome:
        """Make every call and judge its end."""
        assert self._process is not None
        async with open_channel(self._address) as channel:
            await send_all(
                calls,
                lambda call: self._one(channel, call),
                outcome=self.outcome,
                process=self._process,
                at_once=AT_ONCE,
                warm_up=WARM_UP,
            )
        return self.outcome

    async def _one(self, channel: Any, call: Call) -> None:
        status, text = await end_of(channel, call)
        wrong = status not in DOCUMENTED
        self.outcome.note(int(status.value[0]), f"{call}\n    {status.name}: {text[:500]}" if wrong else "")

    async def _prepare(self, process: asyncio.subprocess.Process) -> None:
        """Wait until it serves, and put things there whose ids the calls may name."""
        async with asyncio.timeout(60):
            while b'"coordinator.started"' not in self._log.read_bytes():
                assert process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.02)
        async with Client(self._address) as client:
            stored = await client.files.put_bytes(b"bytes of a file")
            jobs = await client.submit([JobSpec(work=Work(argv=("true",))) for _ in range(3)])
            self.ids = (stored.digest, *(job for job in jobs if isinstance(job, str)))

    async def _check_alive(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            self.outcome.problems.append(f"the coordinator has ended with {process.returncode}")
            return
        async with Client(self._address) as client:
            await client.describe()

    def _check_log(self) -> None:
        lines = self._log.read_text(errors="replace").splitlines()
        self.outcome.log_lines = len(lines)
        faults = [line for line in lines if not line.startswith("{") or json.loads(line)["level"] == "error"]
        self.outcome.problems += [f"log: {line[:3000]}" for line in faults[:5]]
        if len(lines) > self.outcome.cases + 10:
            self.outcome.problems.append(f"{len(lines)} lines of log for {self.outcome.cases} calls")


async def end_of(channel: Any, call: Call) -> tuple[grpc.StatusCode, str]:
    """Make a call and return how it ended; OK for a stream that goes on and was left."""
    path = f"/hostler.v1.{call.name}"
    kind = f"{'stream' if call.client_streams else 'unary'}_{'stream' if call.server_streams else 'unary'}"
    sent = iter(call.messages) if call.client_streams else call.messages[0]
    made = getattr(channel, kind)(path)(sent, timeout=WAITING_S if call.name in WAITING else CALL_S)
    try:
        if call.server_streams:
            await asyncio.wait_for(_drain(made), LEFT_S)
        else:
            await made
    except TimeoutError:
        made.cancel()
        return LEFT
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and call.name in WAITING:
            return LEFT
        # The server's word came while this client was still sending, and its library has lost it.
        if error.code() is grpc.StatusCode.INTERNAL and LOST in str(error.debug_error_string()):
            return LEFT
        return error.code(), f"{error.details()} ({error.debug_error_string()})"
    return grpc.StatusCode.OK, ""


async def _drain(made: Any) -> None:
    async for _ in made:
        pass
