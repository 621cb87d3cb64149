"""A cluster for one command: a coordinator and a worker in a temporary directory, unix sockets only.

This is the command's side. The other one, `hostler.cli.private`, runs the programs and sees by a pipe that
the command has ended, however it did.
"""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from hostler.cli.connect import answers
from hostler.cli.failures import RUN_FAILED, Failure
from hostler.cli.parts import PATIENCE_S, Part, Stage, module_command
from hostler.cli.private import Plan
from hostler.cli.render import say
from hostler.endpoint import coordinator_socket
from hostler.settings import Settings, runtime_dir

READY_S = 30.0
POLL_S = 0.02
FAILURE_BYTES_MAX = 16 * 1024
END_S = 2 * PATIENCE_S + 10.0  # the supervisor's own bounds, one after the other


class PrivateCluster:
    """A running private cluster; `end` it."""

    def __init__(self, *, address: str, supervisor: subprocess.Popen[bytes], lifeline: int, status: int) -> None:
        self.address = address
        self._supervisor = supervisor
        self._lifeline = lifeline
        self._status = status

    @classmethod
    def start(cls, settings: Settings) -> Self:
        """Start the supervisor, and through it the programs; returns before they are up."""
        directory = Path(tempfile.mkdtemp(prefix="hostler-run-"))
        address = f"unix:{coordinator_socket(directory)}"
        given = settings.to_dict() | {"data_dir": str(directory), "coordinator": address, "grpc": ""}
        given["sample_workloads"] = False  # one command is run, and nothing that is registered
        name = settings.name or socket.gethostname()
        lifeline_read, lifeline = os.pipe()
        status, status_write = os.pipe()
        # Sockets lie outside of the directory where its path is too long for them.
        own = (directory, runtime_dir(directory), runtime_dir(directory / "workers" / name))
        plan = Plan(
            directories=tuple(str(path) for path in own),
            parts=(
                Part(name="coordinator", program="coordinator", settings=given, stage=Stage.COORDINATOR),
                Part(
                    name="worker",
                    program="worker_agent",
                    settings=given | {"name": name, "stop_jobs": True},
                    stage=Stage.WORKERS,
                ),
            ),
            lifeline_fd=lifeline_read,
            status_fd=status_write,
        )
        # A session of its own: Ctrl-C reaches the whole foreground group, and the supervisor must outlast us.
        supervisor = subprocess.Popen(
            [*module_command("hostler.cli.private"), plan.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lifeline_read, status_write),
        )
        os.close(lifeline_read)
        os.close(status_write)
        return cls(address=address, supervisor=supervisor, lifeline=lifeline, status=status)

    async def ready(self) -> None:
        """Return once the coordinator can be dialled.

        Raises:
            Failure: a program failed, or it took longer than `READY_S`.
        """
        loop = asyncio.get_running_loop()
        said: asyncio.Future[bytes] = loop.create_future()

        def read() -> None:
            loop.remove_reader(self._status)
            if not said.done():
                said.set_result(os.read(self._status, FAILURE_BYTES_MAX))

        loop.add_reader(self._status, read)
        try:
            async with asyncio.timeout(READY_S):
                while not answers(self.address):
                    if said.done():
                        raise _failure(said.result())
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise Failure(f"the private cluster was not up within {READY_S:g} s", exit_code=RUN_FAILED) from None
        finally:
            loop.remove_reader(self._status)

    def end(self) -> None:
        """End the programs and remove the directory; returns when both have happened."""
        os.close(self._lifeline)
        try:
            self._supervisor.wait(END_S)
        except subprocess.TimeoutExpired:
            say(f"the private cluster has not ended; its supervisor is process {self._supervisor.pid}")
        os.close(self._status)


def _failure(said: bytes) -> Failure:
    if not said:
        return Failure("the private cluster ended by itself", exit_code=RUN_FAILED)
    fields = json.loads(said)
    return Failure(fields["message"], hint=fields["hint"], exit_code=RUN_FAILED)
