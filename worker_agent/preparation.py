"""Before an attempt starts: its workspace is made and filled, and its order completed.

Stored bytes are fetched from the coordinator over a channel that is not the control stream's, at most
two files at once, a piece at a time; their SHA-256 is checked before the program may see them.
An attempt that cannot be prepared never ran.
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hostler.errors import FileNotFound, HostlerError, InternalError
from hostler.files_client import FilesClient
from hostler.jobs import File, Work
from worker_agent.attempts import Order
from worker_agent.containers import Containers
from worker_agent.output_files import reason_of
from worker_agent.runtimes import python
from worker_agent.services import Services
from worker_agent.transfers import Patience, in_thread, passes
from worker_agent.unprepared import NotPrepared
from worker_agent.workspace import Plan, Workspace, write_all

FETCHES_MAX: Final = 2  # at once
PATIENCE_S: Final = 600.0  # without a byte
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_PYTHONPATH: Final = "PYTHONPATH"


class Preparation:
    """Prepares the attempts of one agent."""

    def __init__(
        self,
        files: Callable[[], FilesClient],
        script_path: Path,
        containers: Containers,
        services: Services,
        *,
        confined: bool = False,
    ) -> None:
        """*files* gives the coordinator's stored bytes; *script_path* is made when the first script comes.

        *confined*: shims have to know which directory is an attempt's workspace.
        """
        self._files = files
        self._script_path = script_path
        self._containers = containers
        self._services = services
        self._confined = confined
        self._folder: Path | None = None
        self._at_once = asyncio.Semaphore(FETCHES_MAX)

    async def prepare(self, workspace: Workspace, order: Order, work: Work) -> Order:
        """Make the workspace of an attempt, and return the order as it is to be run there.

        Raises:
            NotPrepared: what was made so far may stay; it goes with the attempt.
            NotStarted: its container or its service cannot be started.
        """
        if work.container is not None:
            self._containers.check(work.container)
        elif work.service is not None and work.service.container is not None:
            self._containers.check(work.service.container, serves=True)
        stored = [file for file in work.files if file.digest]
        try:
            await in_thread(workspace.make, {file.path: file.content for file in work.files if not file.digest})
            # Without files to fetch there is nothing to make room for.
            if stored and sum(file.size_bytes for file in stored) > await in_thread(workspace.free_bytes):
                raise NotPrepared(disk_full=True)
        except OSError as error:
            raise _unwritable("its files", error) from error
        await self._fetch_all(workspace, stored)
        return await self._complete(workspace, order, work)

    async def _fetch_all(self, workspace: Workspace, files: list[File]) -> None:
        fetches = [asyncio.create_task(self._fetch(workspace, file)) for file in files]
        try:
            await asyncio.gather(*fetches)
        finally:
            for fetch in fetches:
                fetch.cancel()
            await asyncio.gather(*fetches, return_exceptions=True)

    async def _fetch(self, workspace: Workspace, file: File) -> None:
        async with self._at_once:
            try:
                fd = workspace.create(file.path)
            except OSError as error:
                raise _unwritable(file.path, error) from error
            try:
                if not await self._receive(fd, file) and not await self._receive(fd, file):
                    raise NotPrepared(f"file {file.path}: what was sent is not what {file.digest} names")
            except OSError as error:
                raise _unwritable(file.path, error) from error
            finally:
                os.close(fd)

    async def _receive(self, fd: int, file: File) -> bool:
        """Write stored bytes to *fd*; False: they are not those the digest names. A broken stream is gone on with."""
        digest = hashlib.sha256()
        received, size = 0, -1
        patience = Patience(PATIENCE_S)
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)

        def take(piece: bytes) -> None:
            write_all(fd, piece)
            digest.update(piece)

        while received != size:
            try:
                async with self._files().read(file.digest, offset=received) as reading:
                    size = reading.size_bytes
                    async for piece in reading.pieces:
                        await in_thread(take, piece)
                        received += len(piece)
                        patience.progress()
                if received > size:
                    return False
                if received < size:
                    raise InternalError("the coordinator sent less than the file")
            except FileNotFound as error:
                raise NotPrepared(f"file {file.path} ({file.digest}) is no longer stored") from error
            except HostlerError as error:
                if await patience.pause(error):
                    continue
                raise NotPrepared("" if passes(error) else f"file {file.path}: {error.message}") from error
        return digest.hexdigest() == file.digest

    async def _complete(self, workspace: Workspace, order: Order, work: Work) -> Order:
        order = order._replace(stdin_path=str(workspace.path / work.stdin_path) if work.stdin_path else "")
        if work.container is not None or work.service is not None:
            # Podman makes namespaces itself, and who calls a service must find its process.
            order = order._replace(start_path="warm")
        service = ""
        if work.container is not None:
            order = await self._containers.complete(workspace, order, work)
        else:
            order = await self._complete_here(workspace, order, work)
            if work.service is not None:
                order, service = await self._services.complete(order, work.service)
        plan = Plan(container=work.container is not None, service=service, result_stdout=work.result_stdout)
        if plan != Plan():
            try:
                await in_thread(workspace.write_plan, plan)
            except OSError as error:
                raise _unwritable("its workspace", error) from error
        return order

    async def _complete_here(self, workspace: Workspace, order: Order, work: Work) -> Order:
        """The order of a program that runs in its workspace as any program of this host."""
        argv, env, ours = order.argv, dict(order.env), workspace.environment()
        if work.python is not None:
            argv, for_script = python.command_of(work.python, workspace.path, await self._install())
            theirs = env.get(_PYTHONPATH)
            env = {**for_script, **env}
            ours[_PYTHONPATH] = f"{for_script[_PYTHONPATH]}:{theirs}" if theirs else for_script[_PYTHONPATH]
        where = str(workspace.path)
        order = order._replace(argv=argv, env={**env, **ours}, cwd=order.cwd or where)
        return order._replace(workspace=where) if self._confined else order

    async def _install(self) -> Path:
        """The folder that scripts need, written once; a second one that writes it meanwhile does no harm."""
        if self._folder is None:
            try:
                self._folder = await in_thread(python.install, self._script_path)
            except OSError as error:
                raise _unwritable("what scripts need", error) from error
        return self._folder


def _unwritable(name: str, error: OSError) -> NotPrepared:
    if error.errno in _FULL:
        return NotPrepared(disk_full=True)
    return NotPrepared(f"{name} cannot be written on the worker: {reason_of(error)}")
