"""The bulk stream to the coordinator: the logs of attempts, in order, until they are stored.

Flow control: at most 8 MiB may be sent and not yet received, shared fairly between attempts.
"""

import asyncio
from typing import Any

import grpc.aio

from hostler.v1 import types_pb2, workers_pb2, workers_pb2_grpc
from worker_agent.agent import Agent
from worker_agent.reports import Held, HeldState

PART_BYTES_MAX = 512 * 1024
MESSAGE_BYTES_MAX = 1024 * 1024
UNRECEIVED_BYTES_MAX = 8 * 1024 * 1024
LOOK_AGAIN_S = 1.0


class LogPush:
    """One PushLog stream; `run` ends when it breaks."""

    def __init__(self, stub: "workers_pb2_grpc.WorkersAsyncStub", agent: Agent, session: str) -> None:
        self._agent = agent
        self._stub = stub
        self._session = session
        self._received: dict[str, int] = {}
        self._turn = 0

    async def run(self) -> None:
        """Push what there is, and wait for more."""
        call = self._stub.PushLog()
        listener = asyncio.create_task(self._listen(call))
        try:
            while not listener.done():
                self._agent.log_news.clear()
                message = self._gather()
                if message.parts:
                    await call.write(message)
                    continue
                waiting = asyncio.create_task(self._agent.log_news.wait())
                try:
                    await asyncio.wait((waiting, listener), timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
            listener.result()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
            call.cancel()

    async def _listen(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            for mark in message.marks:
                key = f"{mark.key.job}.{mark.key.stage}.{mark.key.attempt}"
                self._received[key] = mark.received
                self._agent.on_log_mark(key, mark.received, mark.stored, forget=mark.forget, rewind=mark.rewind)
                if key not in self._agent.assignments.held:
                    self._received.pop(key, None)

    def _gather(self) -> workers_pb2.LogPush:
        message = workers_pb2.LogPush(session=self._session)
        room = UNRECEIVED_BYTES_MAX - sum(self._unreceived(held) for held in self._wanted())
        size = 0
        for held in self._in_turn():
            if size >= MESSAGE_BYTES_MAX or room <= 0:
                break
            frames = self._agent.read_log(held.key, held.pushed, min(PART_BYTES_MAX, held.ledger_bytes - held.pushed))
            if not frames:
                continue
            job, stage, attempt = held.key.split(".")
            key = types_pb2.AttemptKey(job=job, stage=int(stage), attempt=int(attempt))
            message.parts.add(key=key, position=held.pushed, frames=frames)
            held.pushed += len(frames)
            size += len(frames)
            room -= len(frames)
        return message

    def _wanted(self) -> list[Held]:
        return [h for h in self._agent.assignments.held.values() if h.pushed > 0 or _has_more(h)]

    def _in_turn(self) -> list[Held]:
        """The attempts with something to push, beginning with another one each time."""
        ready = [held for held in self._agent.assignments.held.values() if _has_more(held)]
        if not ready:
            return ready
        self._turn = (self._turn + 1) % len(ready)
        return ready[self._turn :] + ready[: self._turn]

    def _unreceived(self, held: Held) -> int:
        return max(0, held.pushed - max(self._received.get(held.key, 0), held.stored))


def _has_more(held: Held) -> bool:
    if held.inline or held.never_ran or held.pushed >= held.ledger_bytes:
        return False
    return held.state is not HeldState.WAITING
