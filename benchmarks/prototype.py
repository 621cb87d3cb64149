"""The yardstick: a rough coordinator, worker and HTTP gateway, which the product must not fall behind.

    python -m benchmarks.prototype coordinator --dir DIR [--overlap | --no-overlap]
    python -m benchmarks.prototype worker --dir DIR

It keeps the promises that cost most: a submit is answered after its commit (synchronous=FULL), a result is told
after its commit, output and exit codes are kept. With overlap (the default) a job is sent to the worker while its
insert is being committed, which the product may not do; without, after the commit. Not there: leases, retries,
priorities, limits of any queue, who may call, served logs, stops, and more than one attempt.

The coordinator is also the gateway (aiohttp) and holds one bidirectional gRPC stream a worker. A worker is an agent on
that stream and two spawners: small processes that start, reap, and let jobs write into one segment a slot.
Each program ends at the end of file of its standard input.
"""

import argparse
import asyncio
import contextlib
import json
import queue
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.prototype_spawner import SLOTS, Frames, frame, start_spawners

WINDOW_JOBS: Final = 256  # a worker may hold so many
GATHER_S: Final = 0.01  # a busy agent lets results gather
PORTS_FILE: Final = "ports.json"

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS job(id INTEGER PRIMARY KEY, state INTEGER, spec TEXT, created REAL,
    worker INTEGER, started REAL, ended REAL, code INTEGER, out_size INTEGER);
CREATE INDEX IF NOT EXISTS job_open ON job(id) WHERE state < 2;
"""
INSERT: Final = "INSERT INTO job(id, state, spec, created) VALUES(?, 0, ?, ?)"
ASSIGN: Final = "UPDATE job SET state = 1, worker = ? WHERE id = ?"
FINISH: Final = "UPDATE job SET state = 2, code = ?, started = ?, ended = ?, out_size = ? WHERE id = ?"


class Entry(NamedTuple):
    """One statement of a commit, and what is done in the event loop once it is durable."""

    statement: str
    rows: list[tuple[Any, ...]]
    then: Callable[[], None] | None


class Writer(threading.Thread):
    """The only writer of the database: whatever has queued up goes into one commit."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(daemon=True)
        self._queue: queue.SimpleQueue[list[Entry]] = queue.SimpleQueue()
        self._path = path
        self._loop = loop

    def put(self, entries: list[Entry]) -> None:
        """Have *entries* committed together."""
        self._queue.put(entries)

    def run(self) -> None:
        """Commit until the process ends."""
        database = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000"):
            database.execute(f"PRAGMA {pragma}")
        database.executescript(SCHEMA)
        while True:
            entries = list(self._queue.get())
            with contextlib.suppress(queue.Empty):
                while True:
                    entries.extend(self._queue.get_nowait())
            database.execute("BEGIN IMMEDIATE")
            for entry in entries:
                database.executemany(entry.statement, entry.rows)
            database.execute("COMMIT")
            durable = [entry.then for entry in entries if entry.then is not None]
            if durable:
                self._loop.call_soon_threadsafe(_call_all, durable)


def _call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():  # its caller may have gone
        future.set_result(None)


def _batch_type() -> Any:
    """Make the one message of the stream: a list of jobs, or of their results."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="prototype.proto", package="prototype", syntax="proto3")
    job = file.message_type.add(name="Job")
    one, many = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    fields = [
        ("id", kind.TYPE_UINT64, one),
        ("argv", kind.TYPE_STRING, many),
        ("code", kind.TYPE_INT32, one),
        ("out_size", kind.TYPE_UINT64, one),
    ]
    for number, (name, type_, label) in enumerate(fields, 1):
        job.field.add(name=name, number=number, type=type_, label=label)
    batch = file.message_type.add(name="Batch")
    batch.field.add(name="jobs", number=1, type=kind.TYPE_MESSAGE, label=many, type_name=".prototype.Job")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("prototype.Batch"))


class Connected:
    """A worker at the other end of a stream."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.holds = 0  # jobs
        self._outbox: deque[Any] = deque()
        self._woken = asyncio.Event()

    def send(self, message: Any) -> None:
        """Have *message* written to the stream."""
        self._outbox.append(message)
        self._woken.set()

    async def write_to(self, context: Any) -> None:
        """Write what is sent, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._outbox:
                await context.write(self._outbox.popleft())


class Coordinator:
    """Takes jobs in by HTTP, keeps them, and has workers run them."""

    def __init__(self, writer: Writer, batch_type: Any, *, overlap: bool) -> None:
        self._writer = writer
        self._batch_type = batch_type
        self._overlap = overlap
        self._ready: deque[tuple[int, list[str]]] = deque()
        self._workers: list[Connected] = []
        self._waiters: dict[int, asyncio.Future[int]] = {}
        self._counters: list[tuple[int, asyncio.Future[None]]] = []
        self._next = 1
        self._done = 0
        self._failed = 0

    def _pump(self, entries: list[Entry]) -> None:
        """Fill workers that have room; *entries* and the assignments share one commit."""
        for worker in self._workers:
            room = WINDOW_JOBS - worker.holds
            if not self._ready or room < WINDOW_JOBS // 2:  # refill in big messages, not one for one
                continue
            message, rows = self._batch_type(), list[tuple[Any, ...]]()
            while self._ready and room:
                job, argv = self._ready.popleft()
                message.jobs.add(id=job, argv=argv)
                rows.append((worker.number, job))
                room -= 1
            worker.holds += len(rows)
            if self._overlap:
                worker.send(message)
                entries.append(Entry(ASSIGN, rows, None))
            else:
                entries.append(Entry(ASSIGN, rows, partial(worker.send, message)))
        if entries:
            self._writer.put(entries)

    async def connect(self, _: AsyncIterator[Any], context: Any) -> None:
        """Serve a worker's stream."""
        import grpc.aio

        worker = Connected(len(self._workers) + 1)
        self._workers.append(worker)
        writing = asyncio.create_task(worker.write_to(context))
        self._pump([])
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                worker.holds -= len(message.jobs)
                now = time.time()
                rows: list[tuple[Any, ...]] = [(job.code, 0.0, now, job.out_size, job.id) for job in message.jobs]
                self._pump([Entry(FINISH, rows, partial(self._on_finished, rows))])
        finally:
            writing.cancel()
            self._workers.remove(worker)

    def _on_finished(self, rows: list[tuple[Any, ...]]) -> None:
        self._done += len(rows)
        for code, _, _, _, job in rows:
            self._failed += code != 0
            waiter = self._waiters.pop(job, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(code)
        for count, future in self._counters:
            if self._done >= count and not future.done():
                future.set_result(None)
        self._counters = [pair for pair in self._counters if not pair[1].done()]

    async def submit(self, request: Any) -> Any:
        """POST /jobs {"jobs": [{"argv"}]}; with ?wait it answers at the end of the first one."""
        from aiohttp import web

        specs = json.loads(await request.read())["jobs"]
        first, now = self._next, time.time()
        self._next += len(specs)
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rows: list[tuple[Any, ...]] = [(first + n, json.dumps(spec), now) for n, spec in enumerate(specs)]
        waiter: asyncio.Future[int] | None = None
        if request.query_string == "wait":
            waiter = self._waiters[first] = asyncio.get_running_loop().create_future()
        self._ready.extend((first + n, spec["argv"]) for n, spec in enumerate(specs))
        self._pump([Entry(INSERT, rows, partial(_settle, durable))])
        await durable
        if waiter is not None:
            return web.json_response({"first": first, "code": await waiter})
        return web.json_response({"first": first, "count": len(specs)})

    async def done(self, request: Any) -> Any:
        """GET /done?n=N: answers once N jobs have ended since the start."""
        from aiohttp import web

        count = int(request.query["n"])
        if self._done < count:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._counters.append((count, future))
            await future
        return web.json_response({"done": self._done, "failed": self._failed})


async def serve(directory: Path, *, overlap: bool) -> None:
    """Run the coordinator until standard input ends."""
    import grpc
    import grpc.aio
    from aiohttp import web

    batch_type = _batch_type()
    writer = Writer(directory / "db", asyncio.get_running_loop())
    writer.start()
    coordinator = Coordinator(writer, batch_type, overlap=overlap)
    server = grpc.aio.server()
    stream = grpc.stream_stream_rpc_method_handler(
        coordinator.connect,
        request_deserializer=batch_type.FromString,
        response_serializer=batch_type.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("prototype", {"stream": stream}),))
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.post("/jobs", coordinator.submit), web.get("/done", coordinator.done)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    aside = directory / f"{PORTS_FILE}.new"
    aside.write_text(json.dumps({"grpc": grpc_port, "http": runner.addresses[0][1]}))
    aside.replace(directory / PORTS_FILE)
    await _end_of_input()
    await runner.cleanup()
    await server.stop(0)


async def _end_of_input() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, ended.set)
    await ended.wait()
    loop.remove_reader(0)


class Agent:
    """Carries jobs from the stream to the spawners, and results back."""

    def __init__(self, stream: Any, batch_type: Any, sockets: list[socket.socket]) -> None:
        self._stream = stream
        self._batch_type = batch_type
        self._sockets = sockets
        self._frames = {sock: Frames() for sock in sockets}
        self._results: list[tuple[int, int, int]] = []
        self._woken = asyncio.Event()
        self._holds = 0

    async def read(self) -> None:
        """Share jobs out to the spawners, until the stream ends."""
        import grpc.aio

        turn = 0
        while (message := await self._stream.read()) is not grpc.aio.EOF:
            jobs = [(job.id, list(job.argv)) for job in message.jobs]
            self._holds += len(jobs)
            count = len(self._sockets)
            for n in range(count):
                if part := jobs[n::count]:
                    self._sockets[(turn + n) % count].sendall(frame(part))
            turn += len(jobs)

    async def write(self) -> None:
        """Send results, until cancelled."""
        while True:
            await self._woken.wait()
            if self._holds - len(self._results) > SLOTS:  # busy: let results gather; else send at once
                await asyncio.sleep(GATHER_S)
            self._woken.clear()
            message = self._batch_type()
            for job, code, size in self._results:
                message.jobs.add(id=job, code=code, out_size=size)
            self._holds -= len(self._results)
            self._results.clear()
            await self._stream.write(message)

    def on_readable(self, sock: socket.socket) -> None:
        """Take results from a spawner."""
        received = sock.recv(1 << 20)
        if not received:
            raise SystemExit("prototype: a spawner has ended")
        for results in self._frames[sock].feed(received):
            self._results.extend(results)
        self._woken.set()


async def work(directory: Path, sockets: list[socket.socket]) -> None:
    """Run the agent until standard input ends."""
    import grpc.aio

    ports = json.loads((directory / PORTS_FILE).read_text())
    batch_type = _batch_type()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        call = channel.stream_stream(
            "/prototype/stream",
            request_serializer=batch_type.SerializeToString,
            response_deserializer=batch_type.FromString,
        )
        agent = Agent(call(), batch_type, sockets)
        for sock in sockets:
            asyncio.get_running_loop().add_reader(sock, agent.on_readable, sock)
        parts = [asyncio.create_task(part) for part in (agent.read(), agent.write(), _end_of_input())]
        ended, going_on = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in going_on:
            part.cancel()
        await asyncio.gather(*going_on, return_exceptions=True)
        for part in ended:
            part.result()


def main() -> None:
    """Run one of the two programs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["coordinator", "worker"])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--overlap", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if options.role == "coordinator":
        asyncio.run(serve(options.dir, overlap=options.overlap))
    else:
        asyncio.run(work(options.dir, start_spawners(options.dir)))


if __name__ == "__main__":
    main()
