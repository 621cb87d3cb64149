"""Sends output files of this worker's attempts, for readers who wait for them at the coordinator.

A stream for each file, over a channel of its own: neither a heartbeat nor the transfer of another file
waits for it. At most four are sent at once, each for ten minutes at most. What cannot be read is
answered with the reason.
"""

import asyncio
import os
from typing import Any, Final

from hostler.client import open_channel
from hostler.files_client import CALL_ENDED
from hostler.tls import Target
from hostler.v1 import types_pb2, workers_pb2, workers_pb2_grpc
from worker_agent.output_files import modified_us, reason_of
from worker_agent.reach import Reach
from worker_agent.transfers import in_thread
from worker_agent.workspaces import Workspaces

SENT_MAX: Final = 4  # at once
WAITING_MAX: Final = 64  # beyond them the coordinator's own deadline answers
SEND_S: Final = 600.0
PIECE_BYTES: Final = 512 * 1024


class OutputSender:
    """Answers the coordinator's wishes to see output files."""

    def __init__(self, address: str | Target, workspaces: Workspaces) -> None:
        self._workspaces = workspaces
        self._reach = Reach(address, open_channel)
        self._at_once = asyncio.Semaphore(SENT_MAX)
        self._sending: set[asyncio.Task[None]] = set()

    def show(self, wish: workers_pb2.ShowOutput) -> None:
        """Send a file, soon."""
        if len(self._sending) < WAITING_MAX:
            sending = asyncio.get_running_loop().create_task(self._send(wish))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    def move(self, target: Target) -> None:
        """Reach the coordinator so from now on; what is being sent is not disturbed."""
        self._reach.move(target)

    async def close(self) -> None:
        """End what is being sent."""
        for sending in self._sending:
            sending.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._reach.close()

    async def _send(self, wish: workers_pb2.ShowOutput) -> None:
        try:
            async with asyncio.timeout(SEND_S), self._at_once:
                call = workers_pb2_grpc.WorkersStub(self._reach.get()).SendOutput()
                try:
                    await self._answer(call, wish)
                    await call.done_writing()
                    await call
                finally:
                    call.cancel()
        except (TimeoutError, *CALL_ENDED):
            pass  # who waited for it has gone, or is told by the coordinator that nothing came

    async def _answer(self, call: Any, wish: workers_pb2.ShowOutput) -> None:
        try:
            fd, status = self._workspaces[_text(wish.key)].open_output(wish.path)
        except KeyError:
            await call.write(workers_pb2.OutputPiece(ticket=wish.ticket, error="the attempt has no outputs here"))
            return
        except (OSError, ValueError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            await call.write(workers_pb2.OutputPiece(ticket=wish.ticket, error=reason))
            return
        try:
            # A file that grows is sent as long as it was when it was opened, so that its length can be said first.
            size = status.st_size
            at_us = modified_us(status.st_mtime_ns)
            await call.write(workers_pb2.OutputPiece(ticket=wish.ticket, size_bytes=size, modified_at_us=at_us))
            at = min(wish.offset, size)
            end = min(at + wish.length, size) if wish.length else size
            while at < end:
                piece = await in_thread(os.pread, fd, min(PIECE_BYTES, end - at), at)
                if not piece:
                    await call.write(workers_pb2.OutputPiece(error="it became shorter while it was read"))
                    return
                await call.write(workers_pb2.OutputPiece(bytes=piece))
                at += len(piece)
        except OSError as error:
            await call.write(workers_pb2.OutputPiece(error=reason_of(error)))
        finally:
            os.close(fd)


def _text(key: types_pb2.AttemptKey) -> str:
    return f"{key.job}.{key.stage}.{key.attempt}"
