"""The podman program of this host: whether it can be used, with which options, and its calls.

What it needs on this host is found out once, by looking (`options_for`) and by one trial without an image.
Calls are short commands with a deadline; what runs jobs is started elsewhere, with `command`.
Limits: asyncio, one event loop. Blocking only for a moment (looking at the host).
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, NamedTuple

from hostler import logs
from worker_agent.process_tree import send
from worker_agent.transfers import in_thread

CALL_S: Final = 60.0
REMOVE_TRIES: Final = 6
LIMIT_SAFE: Final = 4096  # open files, and processes: podman lowers the limits of its own process first
WORKER_LABEL: Final = "hostler.worker"
ATTEMPT_LABEL: Final = "hostler.attempt"
SERVICE_LABEL: Final = "hostler.service"
VERSION_LABEL: Final = "hostler.version"
_CLOSE_S: Final = 5.0
_PAUSE_S: Final = 0.2
_CONMON_S: Final = 3.0  # for a conmon to end by itself after its container
_NOTHING: Final = "/hostler-trial"  # no program has this name
_NOT_FOUND: Final = 127  # podman's exit code for it
_NO_ANSWER: Final = -1
_CAP_SYS_RESOURCE: Final = 24
_INFO: Final = "{{.Version.Version}}\t{{.Store.GraphRoot}}\t{{.Store.GraphDriverName}}\t{{.Host.OCIRuntime.Path}}"


class Host(NamedTuple):
    """What of a machine decides how podman is called."""

    systemd: bool  # runs it
    unified: bool  # cgroups are version 2 alone
    runc: bool  # is there
    may_raise_limits: bool  # rlimits above the hard ones, as podman's defaults are
    files_max: int  # hard limit of open files
    processes_max: int


class Answer(NamedTuple):
    """What a call of podman came to."""

    code: int  # negative: it was ended at its deadline, or could not be started
    out: str
    err: str

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        return reason_of(self.err) or f"podman ended with code {self.code}"


class Found(NamedTuple):
    """A podman that can be used."""

    version: str
    graph_root: Path  # where it keeps containers
    driver: str
    runtime: str  # path of its OCI runtime


class Listed(NamedTuple):
    """A container of this worker."""

    name: str
    running: bool
    pid: int
    labels: dict[str, str]


def look() -> Host:
    """Look at this machine."""
    status = Path("/proc/self/status").read_text()
    capabilities = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    return Host(
        systemd=os.path.isdir("/run/systemd/system"),
        unified=os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
        runc=shutil.which("runc") is not None,
        # Without root podman takes the limits it has.
        may_raise_limits=os.geteuid() != 0 or bool(capabilities >> _CAP_SYS_RESOURCE & 1),
        files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        processes_max=resource.getrlimit(resource.RLIMIT_NPROC)[1],
    )


def options_for(host: Host) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options of every call, and those of `run`, that podman needs on a machine."""
    always, run = ["--log-level=error"], []
    if not host.systemd:
        always += ["--cgroup-manager=cgroupfs", "--events-backend=file"]
    if not host.unified and host.runc:
        always.append("--runtime=runc")  # crun refuses hybrid cgroups
    if not host.may_raise_limits:
        for name, limit in (("nofile", host.files_max), ("nproc", host.processes_max)):
            value = LIMIT_SAFE if limit == resource.RLIM_INFINITY else min(limit, LIMIT_SAFE)
            run += ["--ulimit", f"{name}={value}:{value}"]
    return tuple(always), tuple(run)


def reason_of(text: str) -> str:
    """Return the last complaint of what podman wrote to its standard error, without its mark; else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    complaints = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return (complaints or lines or [""])[-1][:2000]


class Podman:
    """The podman of one worker."""

    def __init__(self, program: str, options: Collection[str], directory: Path) -> None:
        """*program* may be empty: no podman. *options* come after ours, so they win. *directory* is the worker's."""
        self._program = program
        self._options = tuple(options)
        self._directory = directory.absolute()
        self._always: tuple[str, ...] = ()
        self._looking: asyncio.Task[str] | None = None
        self.worker = hashlib.sha256(os.fsencode(self._directory.resolve())).hexdigest()[:12]
        self.run_options: tuple[str, ...] = ()
        self.found: Found | None = None

    async def problem(self) -> str:
        """Why podman cannot be used here; empty: it can. Found out at the first call, for all of them."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return the argv of a call; `problem` has been asked before."""
        return (self._program, *self._always, *self._options, *arguments)

    async def call(self, *arguments: str, within_s: float = CALL_S) -> Answer:
        """Run podman to its end. It is killed at the deadline; a caller that is cancelled gives it 5 s to end."""
        return await _run(self.command(*arguments), within_s)

    async def list(self) -> list[Listed]:
        """Return every container of this worker, running or not."""
        answer = await self.call(
            "ps", "--all", "--no-trunc", "--filter", f"label={WORKER_LABEL}={self.worker}", "--format", "json"
        )
        try:
            content: list[dict[str, Any]] = json.loads(answer.out) if answer.code == 0 else []
            return [
                Listed(
                    each["Names"][0], each.get("State") == "running", int(each.get("Pid") or 0), dict(each["Labels"])
                )
                for each in content or ()
            ]
        except (ValueError, TypeError, KeyError, IndexError):
            return []

    async def remove(self, name: str, *, grace_s: int = 0) -> str:
        """Remove a container, whatever it does; returns why it could not be removed, or nothing.

        When conmon was killed with its container, podman's first try fails and the runtime's own state stays; when
        podman was killed while it made one, conmon and the runtime go on without its knowledge (seen with 4.3).
        """
        named = await self.call("ps", "--all", "--no-trunc", "--filter", f"name=^{name}$", "--format", "{{.ID}}")
        number = named.out.strip()
        if named.code == 0 and not number:
            return ""
        for _ in range(REMOVE_TRIES):
            answer = await self.call("rm", "--force", "--time", str(grace_s), "--ignore", name)
            if answer.code == 0:
                break
            await self._forget(number)
            await asyncio.sleep(_PAUSE_S)
        else:
            logs.get().warning("container.kept", name=name, reason=answer.reason)
            return answer.reason
        await in_thread(_end_conmon, name)
        await self._forget(number)
        return ""

    async def _forget(self, number: str) -> None:
        if self.found is not None and self.found.runtime and number:
            await _run((self.found.runtime, "delete", "--force", number), CALL_S)

    async def _look(self) -> str:
        try:
            problem = await self._try()
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem and shutil.which(self._program or "") is not None:
            logs.get().warning("podman.unusable", reason=problem)
        elif self.found is not None:
            logs.get().info("podman.found", version=self.found.version, options=[*self._always, *self.run_options])
        return problem

    async def _try(self) -> str:
        if not self._program:
            return "the worker's settings name no podman"
        if shutil.which(self._program) is None:
            return f'exec: "{self._program}": executable file not found in $PATH'
        if ":" in str(self._directory):
            return f"the path of the worker's directory, {self._directory}, has a colon, which podman takes for a mark"
        self._always, self.run_options = options_for(look())
        answer = await self.call("info", "--format", _INFO)
        if answer.code != 0:
            return answer.reason
        parts = answer.out.strip().split("\t")
        if len(parts) != 4:
            return f"podman info answered {answer.out[:200]!r}"
        found = Found(parts[0], Path(parts[1]), parts[2], parts[3])
        # All that starts a container, but for its program, which is not there.
        place = self._directory / "trial"
        place.mkdir(mode=0o700, exist_ok=True)
        trial = ("run", "--rm", "--network=none", "--cap-drop=all", "--pids-limit=64", *self.run_options)
        try:
            answer = await self.call(*trial, "--rootfs", str(place), _NOTHING)
        finally:
            with contextlib.suppress(OSError):
                await in_thread(shutil.rmtree, place)
        if answer.code != _NOT_FOUND:
            return answer.reason
        self.found = found
        return ""


def _end_conmon(name: str) -> None:
    """See to it that no conmon of a container's name lives; what it has started is left to the runtime."""
    until = time.monotonic() + _CONMON_S
    while found := [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_conmon(pid, name)]:
        if time.monotonic() > until:
            for pid in found:
                send(pid, signal.SIGKILL, lambda each: _is_conmon(each, name))
            return
        time.sleep(_PAUSE_S)


def _is_conmon(pid: int, name: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.path.basename(command[0]) == b"conmon" and (b"-n", os.fsencode(name)) in itertools.pairwise(command)


async def _run(argv: tuple[str, ...], within_s: float) -> Answer:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the worker, which decides
        )
    except OSError as error:
        return Answer(_NO_ANSWER, "", f"{argv[0]}: {error.strerror}")
    talking = asyncio.get_running_loop().create_task(process.communicate())
    try:
        done, _ = await asyncio.wait((talking,), timeout=within_s)
    except asyncio.CancelledError:
        # Half a removal would be worse than a moment's wait.
        await asyncio.wait((talking,), timeout=_CLOSE_S)
        await _end(process, talking)
        raise
    if not done:
        await _end(process, talking)
        return Answer(_NO_ANSWER, "", f"{Path(argv[0]).name} did not answer within {within_s:g} s")
    out, err = talking.result()
    code = process.returncode if process.returncode is not None else _NO_ANSWER
    return Answer(code, out.decode(errors="replace"), err.decode(errors="replace"))


async def _end(process: asyncio.subprocess.Process, talking: "asyncio.Task[tuple[bytes, bytes]]") -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    # A child of it may hold the pipes.
    await asyncio.wait((talking,), timeout=1.0)
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    await process.wait()
