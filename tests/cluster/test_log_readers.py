"""Fifty readers of logs come and go while the programs between them and the jobs are killed; each has every byte.

A job notes what it writes, each stream in a file of its own. Readers come by gRPC, by server-sent events and by the
command line; each is broken off again and again, and goes on by the position it had come to.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple, Protocol

import aiohttp
import pytest

from hostler.endpoint import read_gateway
from hostler.errors import DeadlineExceeded, HostlerError, Unavailable
from hostler.frames import ERR, OUT, iter_frames
from hostler.jobs import JobSpec, Work
from hostler.workers import WorkerState
from tests.cluster.real_cluster import RealCluster, until

JOINS_S = 15.0  # within which readers come; the jobs write until all kills are done
KILLS = 10
PATIENCE_S = 120.0  # a busy machine takes long to start programs
PARTS = ("coordinator", "gateway", "w1", "w2")
DROPS_MAX = 8  # of one reader; then it stays
PROGRAM = """
import os, random, sys, time
place, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
truth = {n: os.open(f"{place}.{n}", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for n in (1, 2)}
number = 0
while not os.path.exists(f"{place}.stop"):
    for _ in range(chance.randrange(1, 6)):
        number += 1
        stream = chance.choice((1, 1, 2))
        text = b"%d of %d on %d " % (number, seed, stream)
        piece = text + (chance.randbytes(chance.randrange(3000)) if chance.random() < 0.3 else b"\\n")
        os.write(truth[stream], piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(stream, view):]
    time.sleep(chance.random() * 0.04)
"""


class Piece(NamedTuple):
    """Some output; *resume* is where a reader goes on that has it, and may be its own beginning."""

    kind: int
    payload: bytes
    position: int  # of what identifies it: nothing at or before the last one counts twice
    resume: int


class Broken(Exception):
    """The connection has gone; the reader comes back."""


class Door(Protocol):
    """A way to read a log from a position on; ends with the log, and raises `Broken` when it is broken off."""

    def __call__(self, job: str, start: int) -> AsyncGenerator[Piece]: ...


class Doors:
    """The three ways."""

    def __init__(self, cluster: RealCluster, http: aiohttp.ClientSession) -> None:
        self._cluster = cluster
        self._http = http

    async def grpc(self, job: str, start: int) -> AsyncGenerator[Piece]:
        """The typed client."""
        reading = self._cluster.client.read_log(job, start=start, follow=True)
        try:
            async with aclosing(reading) as chunks:
                async for chunk in chunks:
                    for frame in iter_frames(chunk.frames):
                        end = chunk.position + frame.end
                        yield Piece(frame.kind, frame.payload, end, end)
                    if chunk.end:
                        return
        except (Unavailable, DeadlineExceeded) as error:
            raise Broken from error
        raise Broken

    async def events(self, job: str, start: int) -> AsyncGenerator[Piece]:
        """Server-sent events, as a browser comes back: with the id of the last event it saw."""
        url = f"{read_gateway(self._cluster.directory)}/v1/jobs/{job}/log?follow=1"
        headers = {"Last-Event-ID": f"0.1.{start}"} if start else {}
        try:
            async with self._http.get(url, headers=headers) as answer:
                assert answer.status != 400, "a place that was sent is refused"
                if answer.status != 200:
                    raise Broken
                async for name, place, content in _events(answer.content):
                    if name == "end":
                        return
                    position = int(place.removeprefix("0.1."))  # none is tried again
                    text = content.get("text")
                    payload = text.encode() if text is not None else base64.b64decode(content["base64"])
                    yield Piece({"out": OUT, "err": ERR}[name], payload, position, position)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Broken from error
        raise Broken

    async def command(self, job: str, start: int) -> AsyncGenerator[Piece]:
        """``hostler logs``, which comes back to the coordinator by itself; broken off, it is killed."""
        argv = [sys.executable, "-m", "hostler.cli.main", "logs", "-f", "--json", "--from", str(start), job]
        environment = os.environ | {"HOSTLER_DATA_DIR": str(self._cluster.directory)}
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environment, limit=1 << 20
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                if not line.endswith(b"\n"):
                    raise Broken
                found = json.loads(line)
                if found["event"] == "end":
                    return
                text = found.get("text")
                payload = text.encode() if text is not None else base64.b64decode(found["base64"])
                kind = {"out": OUT, "err": ERR}[found["event"]]
                # It names where a frame begins: whoever comes back gets that frame again.
                yield Piece(kind, payload, found["position"] + 1, found["position"])
            raise Broken
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[tuple[str, str, dict[str, str]]]:
    """The events of a stream; a half one at its end is none."""
    fields: dict[str, str] = {}
    while line := await content.readline():
        if not line.endswith(b"\n"):
            return
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif fields:
            if "event" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}


class Reader:
    """Reads one log to its end, with breaks."""

    def __init__(self, job: str, door: Door, seed: int) -> None:
        self.job = job
        self.drops = self.breaks = 0  # by its own will, and by others'
        self.streams = {OUT: hashlib.sha256(), ERR: hashlib.sha256()}
        self.order = hashlib.sha256()  # of both as they came
        self._door = door
        self._chance = random.Random(seed)
        self._seen, self._resume = 0, 0

    async def run(self) -> None:
        """Join at some time; leave and come back until the log is over."""
        chance = self._chance
        await asyncio.sleep(chance.random() * JOINS_S)
        while True:
            try:
                async with asyncio.timeout(None) as patience:
                    await self._read(patience, chance.expovariate(0.7) if self.drops < DROPS_MAX else 1000.0)
                return
            except TimeoutError:
                self.drops += 1
            except Broken:
                self.breaks += 1
            await asyncio.sleep(chance.random())

    async def _read(self, patience: asyncio.Timeout, patience_s: float) -> None:
        """Read; *patience* begins to run with the first output, however long a busy machine takes to that."""
        async with aclosing(self._door(self.job, self._resume)) as pieces:
            async for piece in pieces:
                if patience.when() is None:
                    patience.reschedule(asyncio.get_running_loop().time() + patience_s)
                if piece.position > self._seen:
                    self._seen, self._resume = piece.position, piece.resume
                    self.streams[piece.kind].update(piece.payload)
                    self.order.update(b"%d %d " % (piece.kind, len(piece.payload)) + piece.payload)


async def _is_up(cluster: RealCluster) -> bool:
    with contextlib.suppress(HostlerError, aiohttp.ClientError, OSError):
        states = [worker.state for worker in await cluster.client.workers()]
        async with aiohttp.request("GET", f"{read_gateway(cluster.directory)}/health") as answer:
            return states == [WorkerState.CONNECTED] * 2 and answer.status == 200
    return False


async def _kill(cluster: RealCluster, chance: random.Random) -> Counter[str]:
    """Kill parts with -9 and start them again; mostly one is up before the next is killed."""
    kills: Counter[str] = Counter()
    while sum(kills.values()) < KILLS:
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        part = chance.choice(("coordinator", "coordinator", "gateway", "w1", "w2"))
        await asyncio.to_thread(cluster.end, part, signal.SIGKILL)
        kills[part] += 1
        await asyncio.sleep(chance.choice((0.0, 0.0, 0.5)))
        cluster.start(part)
        if chance.random() < 0.8:
            await _up_again(cluster, part)
    return kills


async def _up_again(cluster: RealCluster, killed: str) -> None:
    try:
        await until(lambda: _is_up(cluster), f"{killed} after it was killed", PATIENCE_S)
    except AssertionError as error:
        codes = {part: process.poll() for part, process in cluster.processes.items()}
        said = "\n".join((cluster.directory / f"{part}.log").read_text()[-2000:] for part in PARTS)
        raise AssertionError(f"{error}; exit codes {codes}\n{said}") from error


@pytest.mark.ci
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1])
async def test_fifty_readers_have_every_byte_in_order(cluster: RealCluster, tmp_path: Path, seed: int) -> None:
    """Whatever was killed between them and the jobs, and however often they left and came back."""
    for part in PARTS:
        cluster.start(part)
    await until(lambda: _is_up(cluster), "a cluster with two workers", PATIENCE_S)
    chance = random.Random(seed)
    jobs = []
    for number in range(4):
        argv = (sys.executable, "-c", PROGRAM, str(tmp_path / str(number)), str(seed * 10 + number))
        jobs.append(str(await cluster.client.submit_one(JobSpec(work=Work(argv=argv)))))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http:
        doors = Doors(cluster, http)
        ways: list[Door] = [doors.grpc] * 22 + [doors.events] * 22 + [doors.command] * 6
        readers = [Reader(jobs[n % 4], door, chance.randrange(1 << 30)) for n, door in enumerate(ways)]
        async with asyncio.timeout(540), asyncio.TaskGroup() as group:
            for reader in readers[5:]:
                group.create_task(reader.run())
            try:
                kills = await _kill(cluster, chance)
            finally:
                for number in range(len(jobs)):
                    (tmp_path / f"{number}.stop").touch()
            for reader in readers[:5]:  # these come when all is written, or nearly
                group.create_task(reader.run())
    drops, breaks = (sum(counts) for counts in zip(*((each.drops, each.breaks) for each in readers), strict=True))
    print(f"\nseed {seed}: kills {dict(kills)}, readers left {drops} times and were broken off {breaks} times")
    for number, job in enumerate(jobs):
        those = [reader for reader in readers if reader.job == job]
        for kind in (OUT, ERR):
            written = hashlib.sha256((tmp_path / f"{number}.{kind}").read_bytes()).hexdigest()
            assert [r.streams[kind].hexdigest() for r in those] == [written] * len(those), f"seed {seed}, job {number}"
        assert len({reader.order.hexdigest() for reader in those}) == 1
    assert drops >= 50
