"""``python -m benchmarks.simulated_workers ADDRESS COUNT``: so many workers that speak the contract and run nothing.

Each has a connection of its own, as a real worker has, and one slot. What a worker is given it reports as started at
once, and keeps until a line comes on standard input; from then on what it has and is given ends at once and well.
Prints ``connected`` when the coordinator has welcomed all. Ends with its standard input, and with an error when a
stream breaks. A program of its own, so that the coordinator's CPU time and memory are its own.
"""

import asyncio
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from hostler.channel_options import STEADY_READS
from hostler.client import open_channel
from hostler.v1 import types_pb2, workers_pb2, workers_pb2_grpc
from worker_agent.link import beat_in_s

AT_ONCE: Final = 64  # that connect; more would only wait for each other
WELCOME_S: Final = 120.0


class SimulatedWorker:
    """One worker on one connection."""

    def __init__(self, address: str, number: int, going: asyncio.Event) -> None:
        """*going* says that attempts end."""
        self._channel = open_channel(address, STEADY_READS)
        self._number = number
        self._going = going
        self._call: Any = None
        self._writing = asyncio.Lock()  # a stream bears one write at a time
        self._held: list[types_pb2.AttemptKey] = []
        self._heartbeat_s = 0.0

    async def connect(self, gate: asyncio.Semaphore) -> None:
        """Open the stream and be welcomed."""
        hello = workers_pb2.Hello(
            name=f"simulated-{self._number}",
            host=f"host-{self._number}",
            slots=1,
            boot_id=uuid.uuid4().hex,
            journal_id=uuid.uuid4().hex,
            instance=uuid.uuid4().hex,
            generation=1,
            runtimes=["command", "python"],
            labels={"kind": "simulated", "number": str(self._number)},
        )
        async with gate, asyncio.timeout(WELCOME_S):
            self._call = workers_pb2_grpc.WorkersStub(self._channel).Connect(wait_for_ready=True)
            await self._call.write(workers_pb2.WorkerMessage(hello=hello))
            self._heartbeat_s = (await self._call.read()).welcome.heartbeat_s

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._beat())
            group.create_task(self._end_held())

    async def _listen(self) -> None:
        while True:
            message = await self._call.read()
            if not isinstance(message, workers_pb2.CoordinatorMessage):
                raise ConnectionError(f"the stream of worker {self._number} ended")
            if not message.starts:
                continue
            keys = [start.key for start in message.starts]
            if not self._going.is_set():
                self._held += keys
            await self._report(keys, is_over=self._going.is_set())

    async def _beat(self) -> None:
        # Spread over the interval, as those of real workers are, which came one after another.
        await asyncio.sleep(self._heartbeat_s * (self._number % 1000) / 1000)
        while True:
            await self._write(workers_pb2.WorkerMessage())
            await asyncio.sleep(beat_in_s(self._heartbeat_s, time.time()))

    async def _end_held(self) -> None:
        await self._going.wait()
        held, self._held = self._held, []
        if held:
            await self._report(held, is_over=True)

    async def _report(self, keys: Sequence[types_pb2.AttemptKey], *, is_over: bool) -> None:
        now_us = time.time_ns() // 1000
        message = workers_pb2.WorkerMessage()
        for key in keys:
            report = message.reports.add(key=key, started_at_us=now_us, pid=7)
            if is_over:
                report.end.started_at_us = report.end.ended_at_us = now_us
                report.end.exit_code, report.end.cause, report.end.evidence = 0, "exit", "it exited by itself"
                report.end.receipt.verified_by, report.end.receipt.verified_at_us = "wait", now_us
        await self._write(message)

    async def _write(self, message: workers_pb2.WorkerMessage) -> None:
        message.sent_at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        async with self._writing:
            await self._call.write(message)


async def run(address: str, count: int) -> None:
    """Connect the workers, and let them work until standard input ends."""
    going, gate = asyncio.Event(), asyncio.Semaphore(AT_ONCE)
    workers = [SimulatedWorker(address, number, going) for number in range(count)]
    await asyncio.gather(*(worker.connect(gate) for worker in workers))
    running = asyncio.gather(*(worker.run() for worker in workers))
    print("connected", flush=True)
    reading = asyncio.create_task(_obey(going))
    done, _ = await asyncio.wait((running, reading), return_when=asyncio.FIRST_COMPLETED)
    if running in done:
        await running


async def _obey(going: asyncio.Event) -> None:
    while await asyncio.to_thread(sys.stdin.readline):
        going.set()


async def _main() -> None:
    await run(sys.argv[1], int(sys.argv[2]))


if __name__ == "__main__":
    asyncio.run(_main())
