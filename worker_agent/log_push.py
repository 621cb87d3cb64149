"""The bulk stream to the coordinator: the logs of attempts, in order, until they are stored.

Flow control: at most 8 MiB may be sent and not yet received, shared fairly between attempts. A log that the
coordinator has to be sent again, because its disk is full, is sent after a pause that grows from 0.1 s to 5 s.
"""

import asyncio
import time
from typing import Any

import grpc.aio

from hostler.v1 import types_pb2, workers_pb2, workers_pb2_grpc
from worker_agent.agent import Agent
from worker_agent.reports import Held, HeldState

PART_BYTES_MAX = 512 * 1024
MESSAGE_BYTES_MAX = 1024 * 1024
UNRECEIVED_BYTES_MAX = 8 * 1024 * 1024
LOOK_AGAIN_S = 1.0
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 5.0
FORGOTTEN_MAX = 100  # attempts that are let go and of which something is still noted here


class _Pause:
    """How long a log that was refused waits before it is pushed again."""

    __slots__ = ("length_s", "stored", "until")

    def __init__(self) -> None:
        self.length_s = PAUSE_FIRST_S / 2
        self.stored = -1  # of the log, when it was refused last
        self.until = 0.0

    def refused(self, stored: int) -> None:
        """It was refused; each time in a row without anything stored in between makes the pause longer."""
        now = time.monotonic()
        if stored > self.stored:
            self.length_s = PAUSE_FIRST_S / 2
        elif now < self.until:
            return  # one of those that were sent before the pause
        self.stored = stored
        self.length_s = min(2 * self.length_s, PAUSE_MAX_S)
        self.until = now + self.length_s


class LogPush:
    """One PushLog stream; `run` ends when it breaks."""

    def __init__(self, stub: "workers_pb2_grpc.WorkersAsyncStub", agent: Agent, session: str) -> None:
        self._agent = agent
        self._stub = stub
        self._session = session
        self._received: dict[str, int] = {}
        self._pauses: dict[str, _Pause] = {}  # of logs that were refused and not stored since
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
                    timeout_s = self._until_next_s()
                    await asyncio.wait((waiting, listener), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
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
                self._note_pause(key, mark.stored, mark.rewind)
                self._agent.on_log_mark(key, mark.received, mark.stored, forget=mark.forget, rewind=mark.rewind)
            held = self._agent.assignments.held
            if len(self._received) > FORGOTTEN_MAX + len(held):
                # Most attempts are let go with the word that their end is kept, which comes on the other stream.
                self._received = {key: count for key, count in self._received.items() if key in held}
                self._pauses = {key: pause for key, pause in self._pauses.items() if key in held}

    def _note_pause(self, key: str, stored: int, rewind: bool) -> None:
        held = self._agent.assignments.held.get(key)
        if held is None:
            return
        stored = max(stored, held.stored)
        if rewind:
            self._pauses.setdefault(key, _Pause()).refused(stored)
        elif key in self._pauses and stored > self._pauses[key].stored:
            del self._pauses[key]  # the disk takes it again

    def _until_next_s(self) -> float:
        """Until a pause is over, if it is over soon."""
        now = time.monotonic()
        due = min((pause.until for pause in self._pauses.values() if pause.until > now), default=now + LOOK_AGAIN_S)
        return min(LOOK_AGAIN_S, due - now)

    def _gather(self) -> workers_pb2.LogPush:
        message = workers_pb2.LogPush(session=self._session)
        room = UNRECEIVED_BYTES_MAX - sum(self._unreceived(held) for held in self._wanted())
        size = 0
        for held in self._in_turn():
            if size >= MESSAGE_BYTES_MAX or room <= 0:
                break
            frames = self._agent.read_log(held.key, held.pushed, min(PART_BYTES_MAX, held.ledger_bytes - held.pushed))
            if not frames:
                if held.state is HeldState.ENDED:  # all of it was written, and is not to be had any more
                    self._agent.on_log_unreadable(held.key)
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
        now = time.monotonic()
        ready = [held for held in self._agent.assignments.held.values() if _has_more(held)]
        if self._pauses:
            ready = [held for held in ready if held.key not in self._pauses or self._pauses[held.key].until <= now]
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
