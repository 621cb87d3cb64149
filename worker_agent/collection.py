"""After an attempt has ended: what it left in its workspace is stored at the coordinator.

Nothing of its tree is left by now. What cannot be stored is named with the reason, and the end is told
all the same: after the deadline with what there is. The deadline counts only while the coordinator is
connected, because without it the end could not be told either. Nothing is remembered of a collection: an
agent that starts again collects again, and bytes that are stored already are stored once.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from hostler.errors import HostlerError
from hostler.files_client import FilesClient
from hostler.jobs import Advance, Failure, OutputFile
from worker_agent.attempts import Cause, Ended
from worker_agent.output_files import MISSING_MAX, Found, Survey, reason_of, shown
from worker_agent.progress_file import ProgressFile
from worker_agent.reports import Collected
from worker_agent.transfers import PIECE_BYTES, ConnectedTime, Patience, in_thread
from worker_agent.workspace import Workspace

UPLOADS_MAX: Final = 2  # at once
COLLECT_S: Final = 600.0
_LOOK_S: Final = 1.0
_NEVER: Final = float("inf")
_SMALL_BYTES: Final = 64 * 1024  # read without a thread


class Collection:
    """Collects for the attempts of one agent."""

    def __init__(
        self, files: Callable[[], FilesClient], connected: ConnectedTime, deadline_s: float = COLLECT_S
    ) -> None:
        self._files = files
        self._connected = connected
        self._deadline_s = deadline_s
        self._at_once = asyncio.Semaphore(UPLOADS_MAX)

    async def collect(self, workspace: Workspace, ended: Ended, progress: ProgressFile | None) -> Collected:
        """Store what the attempt left and return what is to be told of it; *progress* reads on where it was."""
        left, result, problem, failure, advance = await in_thread(_look, workspace, ended, progress)
        stored: list[OutputFile] = []
        missing = [*left.missing, *([problem] if problem else [])]
        pending = dict.fromkeys(left.files)
        storing = asyncio.create_task(self._store(workspace, pending, stored, missing))
        began_s = self._connected.seconds()
        try:
            while not storing.done() and self._connected.seconds() - began_s < self._deadline_s:
                await asyncio.wait((storing,), timeout=min(_LOOK_S, self._deadline_s))
        finally:
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)
        if not storing.cancelled():
            storing.result()
        missing += (f"{shown(file.path)}: not stored within {self._deadline_s:g} s" for file in pending)
        if len(missing) > MISSING_MAX:
            missing[MISSING_MAX - 1 :] = [f"and {len(missing) - MISSING_MAX + 1} more"]
        stored.sort(key=lambda file: file.path)
        return Collected(result=result, failure=failure, advance=advance, outputs=tuple(stored), missing=tuple(missing))

    async def _store(
        self, workspace: Workspace, pending: dict[Found, None], stored: list[OutputFile], missing: list[str]
    ) -> None:
        """Store every file; what is done leaves *pending*."""
        waiting = iter(list(pending))
        parts = [
            asyncio.create_task(self._store_some(workspace, waiting, pending, stored, missing))
            for _ in range(min(UPLOADS_MAX, len(pending)))
        ]
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _store_some(
        self,
        workspace: Workspace,
        waiting: Iterator[Found],
        pending: dict[Found, None],
        stored: list[OutputFile],
        missing: list[str],
    ) -> None:
        for file in waiting:
            async with self._at_once:
                answer = await self._store_one(workspace, file)
            del pending[file]
            if isinstance(answer, OutputFile):
                stored.append(answer)
            else:
                missing.append(f"{shown(file.path)}: {answer}")

    async def _store_one(self, workspace: Workspace, file: Found) -> OutputFile | str:
        """Store one file, or say why it cannot be."""
        patience = Patience(_NEVER)
        path = file.path.decode()
        while True:
            try:
                fd, status = workspace.open_output(path)
            except (OSError, ValueError) as error:
                return reason_of(error) if isinstance(error, OSError) else str(error)
            try:
                size = status.st_size
                answer = await self._files().put(_pieces(fd, size), size_bytes=size)
            except OSError as error:
                return reason_of(error)
            except HostlerError as error:
                if await patience.pause(error):
                    continue
                return error.message
            finally:
                os.close(fd)
            return OutputFile(
                path=path,
                digest=answer.digest,
                size_bytes=answer.size_bytes,
                modified_at_us=status.st_mtime_ns // 1000,
            )


async def _pieces(fd: int, size: int) -> AsyncIterator[bytes]:
    """Read a file up to the length it had when it was opened: somebody else may still write to it."""
    left = size
    while left:
        wanted = min(PIECE_BYTES, left)
        piece = os.read(fd, wanted) if wanted <= _SMALL_BYTES else await in_thread(os.read, fd, wanted)
        if not piece:
            raise OSError("it became shorter while it was read")
        left -= len(piece)
        yield piece


def _look(
    workspace: Workspace, ended: Ended, progress: ProgressFile | None
) -> tuple[Survey, bytes, str, Failure | None, Advance]:
    """Everything that is read on the worker itself."""
    result, problem = workspace.read_result()
    succeeded = ended.cause is Cause.EXIT and ended.exit_code == 0
    advance = (progress or ProgressFile(workspace)).finish(ended.ended_at_us, succeeded=succeeded)
    return workspace.survey(), result, problem, workspace.read_failure(), advance
