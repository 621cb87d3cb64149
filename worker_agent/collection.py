"""After an attempt has ended: what it left in its workspace is stored at the coordinator.

Nothing of its tree is left by now. What cannot be stored is named with the reason, and the end is told
all the same: after the deadline with what there is. The deadline counts only while the coordinator is
connected, because without it the end could not be told either. Nothing is remembered of a collection: an
agent that starts again collects again, and bytes that are stored already are stored once.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from hostler.errors import HostlerError
from hostler.files_client import FilesClient, StoredFile
from hostler.jobs import INLINE_BYTES_MAX, Advance, Failure, OutputFile
from worker_agent import results
from worker_agent.attempts import Cause, Ended
from worker_agent.output_files import MISSING_MAX, Found, Survey, modified_us, reason_of, shown
from worker_agent.progress_file import ProgressFile
from worker_agent.reports import Collected
from worker_agent.transfers import PIECE_BYTES, ConnectedTime, Patience, in_thread
from worker_agent.workspace import Workspace

UPLOADS_MAX: Final = 2  # at once
COLLECT_S: Final = 600.0
_LOOK_S: Final = 1.0
_NEVER: Final = float("inf")
_SMALL_BYTES: Final = 64 * 1024  # read without a thread


@dataclass(slots=True)
class _Left:
    """What an attempt left, on its way to the coordinator."""

    pending: dict[Found, None]
    missing: list[str]
    result_pending: bool  # a large one is not stored yet
    result: results.Result
    stored_result: StoredFile | None = None
    stored: list[OutputFile] = field(default_factory=list)


class Collection:
    """Collects for the attempts of one agent."""

    def __init__(
        self,
        files: Callable[[], FilesClient],
        connected: ConnectedTime,
        deadline_s: float,
        read_ledger: results.ReadLedger,
    ) -> None:
        self._files = files
        self._connected = connected
        self._deadline_s = deadline_s
        self._read_ledger = read_ledger
        self._at_once = asyncio.Semaphore(UPLOADS_MAX)

    async def collect(
        self, workspace: Workspace, ended: Ended, progress: ProgressFile | None, *, stdout: bool = False
    ) -> Collected:
        """Store what the attempt left and return what is to be told of it; *progress* reads on where it was.

        *stdout*: its standard output is its result.
        """
        survey, result_bytes, failure, advance = await in_thread(_look, workspace, ended, progress)
        left = _Left(dict.fromkeys(survey.files), list(survey.missing), False, results.Result())
        if stdout:
            result_bytes = ended.out_bytes if _succeeded(ended) else 0
        if result_bytes > INLINE_BYTES_MAX:
            left.result_pending = True
        elif not stdout or _succeeded(ended):
            left.result = await self._read_result(workspace, ended, stdout)
        storing = asyncio.create_task(self._store(workspace, ended, left, stdout))
        began_s = self._connected.seconds()
        try:
            while not storing.done() and self._connected.seconds() - began_s < self._deadline_s:
                await asyncio.wait((storing,), timeout=min(_LOOK_S, self._deadline_s))
        finally:
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)
        if not storing.cancelled():
            storing.result()
        return self._told(left, failure, advance)

    def _told(self, left: _Left, failure: Failure | None, advance: Advance) -> Collected:
        late = [shown(file.path) for file in left.pending]
        late += ["result"] if left.result_pending else []
        missing = [each for each in (left.result.missing, *left.missing) if each]
        missing += (f"{name}: not stored within {self._deadline_s:g} s" for name in late)
        if len(missing) > MISSING_MAX:
            missing[MISSING_MAX - 1 :] = [f"and {len(missing) - MISSING_MAX + 1} more"]
        return Collected(
            result=left.result.content,
            failure=failure or left.result.failure,
            advance=advance,
            outputs=tuple(sorted(left.stored, key=lambda file: file.path)),
            missing=tuple(missing),
            result_digest=left.stored_result.digest if left.stored_result is not None else "",
            result_bytes=left.stored_result.size_bytes if left.stored_result is not None else 0,
        )

    # -- the result

    async def _read_result(self, workspace: Workspace, ended: Ended, stdout: bool) -> results.Result:
        if not stdout:
            return await in_thread(results.read_file, workspace)
        read = results.Stdout()
        # Nothing is waited for: others have a turn in between.
        while read.feed(self._read_ledger(ended.key, read.position, results.READ_BYTES)):  # noqa: ASYNC110
            await asyncio.sleep(0)
        return await in_thread(read.result)

    async def _store_result(self, workspace: Workspace, ended: Ended, left: _Left, stdout: bool) -> None:
        """Store a result that is too large for a report."""
        patience = Patience(_NEVER)
        async with self._at_once:  # so that few of them are in memory at a time
            result = await self._read_result(workspace, ended, stdout)
            content = result.content
            while len(content) > INLINE_BYTES_MAX and left.stored_result is None:
                try:
                    left.stored_result = await self._files().put(_slices(content), size_bytes=len(content), output=True)
                except HostlerError as error:
                    if not await patience.pause(error):
                        result = results.Result(missing=f"result: {error.message}")
                        break
        left.result = result if left.stored_result is None else results.Result()
        left.result_pending = False

    # -- files

    async def _store(self, workspace: Workspace, ended: Ended, left: _Left, stdout: bool) -> None:
        """Store the result and every file; what is done is no longer pending in *left*."""
        waiting = iter(list(left.pending))
        parts = [
            asyncio.create_task(self._store_some(workspace, waiting, left))
            for _ in range(min(UPLOADS_MAX, len(left.pending)))
        ]
        if left.result_pending:
            parts.append(asyncio.create_task(self._store_result(workspace, ended, left, stdout)))
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _store_some(self, workspace: Workspace, waiting: Iterator[Found], left: _Left) -> None:
        for file in waiting:
            async with self._at_once:
                answer = await self._store_one(workspace, file)
            del left.pending[file]
            if isinstance(answer, OutputFile):
                left.stored.append(answer)
            else:
                left.missing.append(f"{shown(file.path)}: {answer}")

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
                answer = await self._files().put(_pieces(fd, size), size_bytes=size, output=True)
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
                modified_at_us=modified_us(status.st_mtime_ns),
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


async def _slices(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), PIECE_BYTES):
        yield content[at : at + PIECE_BYTES]


def _look(
    workspace: Workspace, ended: Ended, progress: ProgressFile | None
) -> tuple[Survey, int, Failure | None, Advance]:
    """Everything that is read on the worker itself, but for the result, of which only the size is."""
    advance = (progress or ProgressFile(workspace)).finish(ended.ended_at_us, succeeded=_succeeded(ended))
    return workspace.survey(), results.size_of_file(workspace), workspace.read_failure(), advance


def _succeeded(ended: Ended) -> bool:
    return ended.cause is Cause.EXIT and ended.exit_code == 0
