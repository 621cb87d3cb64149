"""The containers of attempts: how one is made ready, how its end is read, and that nothing of it stays.

A container runs below its shim like any program: the shim starts `podman run`, whose helper (conmon) and whose
container stay in the shim's tree. So it survives the agent, and its end is proved like any other. What the shim
cannot see is podman's own: its record of the container and its mounts. They are removed here, after every end
that was not an exit in order, and at the start of an agent for attempts that it does not hold.
Limits: asyncio, one event loop.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from hostler import logs
from hostler.jobs import Container, Work
from worker_agent.attempts import Cause, Ended, Order
from worker_agent.oom import victims_in
from worker_agent.output_files import reason_of
from worker_agent.podman import ATTEMPT_LABEL, WORKER_LABEL, Podman
from worker_agent.podman import reason_of as complaint_of
from worker_agent.runtimes import container as runtime
from worker_agent.runtimes.container import INSIDE, Mount
from worker_agent.transfers import in_thread
from worker_agent.unprepared import NotPrepared, NotStarted
from worker_agent.workspace import FAILURE, INPUTS, OUTPUTS, PARAMS, PROGRESS, RESULT, Workspace

PID_FILE: Final = "container.pid"  # written by podman once the program's process is made: without it nothing ran
ID_FILE: Final = "container.id"
_KILLED: Final = 137  # podman's code for a program that SIGKILL ended
_WRITTEN: Final = (PROGRESS, RESULT, FAILURE)


class Containers:
    """The containers of one worker's attempts."""

    def __init__(self, podman: Podman, volumes_allowed: Collection[str]) -> None:
        self._podman = podman
        self._volumes_allowed = tuple(volumes_allowed)

    def name_of(self, key: str) -> str:
        """Return the name of an attempt's container."""
        return f"hostler-{self._podman.worker}-{key}"

    # -- before

    def check(self, container: Container, *, serves: bool = False) -> None:
        """Raise NotPrepared when the worker will not run a container."""
        if refusal := runtime.refusal(container, self._volumes_allowed, serves=serves):
            raise NotPrepared(refusal)

    async def complete(self, workspace: Workspace, order: Order, work: Work) -> Order:
        """Return the order that runs an attempt's container.

        Raises:
            NotPrepared: its workspace cannot be opened to it.
            NotStarted: podman cannot be used on this host.
        """
        container = work.container
        assert container is not None
        if problem := await self._podman.problem():
            raise NotStarted(f"podman cannot be used on this worker: {problem}")
        try:
            mounts = await in_thread(_open_up, workspace, work)
        except OSError as error:
            raise NotPrepared(f"its workspace cannot be opened to the container: {reason_of(error)}") from error
        # Secrets were laid over what the work itself sets.
        hidden = [name for name, text in order.env.items() if work.env.get(name) != text]
        env = {**order.env, **_variables(mounts), "HOSTLER_ATTEMPT": "", "HOSTLER_JOB": ""}
        env_arguments, through = runtime.environment_arguments(env, hidden)
        del through["HOSTLER_ATTEMPT"], through["HOSTLER_JOB"]  # the shim sets them
        labels = {WORKER_LABEL: self._podman.worker, ATTEMPT_LABEL: order.key}
        argv = self._podman.command(
            "run",
            "--rm",
            "--interactive",
            "--log-driver=none",  # the ledger has it
            f"--pidfile={workspace.path / PID_FILE}",
            f"--cidfile={workspace.path / ID_FILE}",
            *self._podman.run_options,
            *runtime.run_arguments(
                runtime.limited(container, work.limits), name=self.name_of(order.key), labels=labels
            ),
            *runtime.mount_arguments(mounts),
            *env_arguments,
            container.image,
            *work.argv,
        )
        return order._replace(argv=argv, env=through, cwd=str(workspace.path), proxy=True, keeps_user=True)

    # -- after

    async def finish(self, workspace: Workspace, ended: Ended, err: bytes) -> Ended:
        """Remove what is left of an attempt's container, and return its end as podman's exit code means it.

        *err* is the end of its standard error, where podman complains.
        """
        problem = await self._podman.problem()
        in_order = ended.cause is Cause.EXIT and not ended.receipt.signals
        if problem:
            logs.get().warning("container.kept", name=self.name_of(ended.key), reason=problem)
        elif not (in_order and await in_thread(self._is_gone, workspace)):
            await self._podman.remove(self.name_of(ended.key))
        if ended.cause is not Cause.EXIT or not ended.exit_code:
            return ended
        if not await in_thread((workspace.path / PID_FILE).exists):
            return replace(
                ended,
                cause=Cause.NOT_STARTED,
                exit_code=None,
                started_at_us=0,
                evidence=f"podman ended with code {ended.exit_code} and had not started the program",
                error=f"podman: {complaint_of(err.decode(errors='replace')) or f'code {ended.exit_code}'}",
            )
        return await in_thread(_judged, workspace, ended)

    def _is_gone(self, workspace: Workspace) -> bool:
        """Whether podman itself has removed an attempt's container; False when that is not sure."""
        found = self._podman.found
        try:
            number = (workspace.path / ID_FILE).read_text().strip()
        except (OSError, ValueError):
            return False
        return found is not None and not (found.graph_root / f"{found.driver}-containers" / number).exists()

    async def sweep(self, is_held: Callable[[str], bool]) -> None:
        """Remove the containers of attempts that nobody holds: an earlier agent could not."""
        if await self._podman.problem():
            return
        for listed in await self._podman.list():
            key = listed.labels.get(ATTEMPT_LABEL)
            if key is not None and not is_held(key):
                await self._podman.remove(listed.name)


def _judged(workspace: Workspace, ended: Ended) -> Ended:
    """The end of a container that failed: whether it had reached its memory limit, as far as the kernel's log tells."""
    try:
        number = (workspace.path / ID_FILE).read_text().strip()
    except (OSError, ValueError):
        number = ""
    how = f"the program exited with code {ended.exit_code}"
    if ended.exit_code == _KILLED:
        how = "the program was ended by SIGKILL, which we did not send"
    victims = victims_in(f"libpod-{number}") if number else ()
    if victims:
        named = ", ".join(f"{victim.name} {victim.pid}" for victim in victims)
        evidence = f"the container reached its memory limit, and the kernel ended {named}; {how}"
        return replace(ended, cause=Cause.MEMORY_LIMIT, evidence=evidence)
    if ended.exit_code == _KILLED:
        return replace(ended, evidence=f"{how}: perhaps it reached its memory limit")
    return ended


def _open_up(workspace: Workspace, work: Work) -> list[Mount]:
    """Let the user of a container into what it is given, and return what is mounted where.

    Above these the workspace stays closed to everybody else. Nothing of the attempt's has run in it yet.
    """
    at = workspace.path
    mounts = []
    if any(file.path.startswith(f"{INPUTS}/") for file in work.files):
        for folder, _, files in os.walk(at / INPUTS):
            os.chmod(folder, 0o755)
            for name in files:
                os.chmod(Path(folder, name), 0o644)
        mounts.append(Mount(str(at / INPUTS), f"/{INPUTS}", read_only=True))
    if work.workspace:
        os.chmod(at / OUTPUTS, 0o777)
        mounts.append(Mount(str(at / OUTPUTS), f"/{OUTPUTS}"))
    if (at / PARAMS).exists():
        os.chmod(at / PARAMS, 0o644)
        mounts.append(Mount(str(at / PARAMS), f"{INSIDE}/{PARAMS}", read_only=True))
    for name in _WRITTEN:
        (at / name).touch()
        os.chmod(at / name, 0o666)
        mounts.append(Mount(str(at / name), f"{INSIDE}/{name}"))
    return mounts


_NAMES: Final = {
    f"/{INPUTS}": "HOSTLER_INPUT_DIR",
    f"/{OUTPUTS}": "HOSTLER_OUTPUT_DIR",
    f"{INSIDE}/{PARAMS}": "HOSTLER_PARAMS_FILE",
    f"{INSIDE}/{PROGRESS}": "HOSTLER_PROGRESS_FILE",
    f"{INSIDE}/{RESULT}": "HOSTLER_RESULT_FILE",
    f"{INSIDE}/{FAILURE}": "HOSTLER_FAILURE_FILE",
}


def _variables(mounts: list[Mount]) -> dict[str, str]:
    """The variables from which a program learns where its files are, inside."""
    return {_NAMES[mount.target]: mount.target for mount in mounts}
