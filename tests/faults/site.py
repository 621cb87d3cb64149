"""A cluster whose parts can be killed, paused and cut off: coordinator, gateway and two workers as real processes.

On one host they share a data directory. In a lab (see tests/support/netlab.py) the coordinator is alone on h1 and
serves with TLS, each worker has a host and a data directory of its own and has joined with an invitation, and there
is no gateway.
Whoever calls from outside uses the coordinator's unix socket, which a network namespace does not hide.
"""

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hostler.client import Client
from hostler.endpoint import coordinator_address, read_gateway
from hostler.jobs import JobQuery
from hostler.lifecycle import State
from hostler.settings import load
from tests.faults.joining import invite
from tests.faults.nursery import Child, Nursery
from tests.faults.small_disk import SmallDisk
from tests.support.netlab import NAMESPACES, Lab
from worker_agent.joining import CREDENTIALS_FILE
from worker_agent.ledger import scan_segment

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"coordinator": "coordinator", "gateway": "http_gateway"}
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup"))
OPEN = tuple(state for state in State if state is not State.FINISHED)
HEARTBEAT_S = 0.5
SLOTS = 4  # of each worker
END_S = 30.0
_INTO_CGROUP = 'echo 0 >"$0"; exec "$@"'


class Process(NamedTuple):
    """A process that is no child of ours, held so that its pid cannot become another's."""

    pid: int
    pidfd: int
    name: str  # "shim-1000001" or "hostler-launch"
    worker: str

    def send(self, number: int) -> bool:
        """Send a signal; False when it has gone."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def has_children(self) -> bool:
        """Whether it runs something now."""
        try:
            return bool(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text())
        except OSError:
            return False

    def wait(self) -> None:
        """Wait for its end."""
        select.select([self.pidfd], [], [], END_S)

    def close(self) -> None:
        """Let it go."""
        os.close(self.pidfd)


@dataclass(slots=True)
class Part:
    """A program of the cluster, and the process that runs it now."""

    name: str
    host: str
    settings: str
    process: subprocess.Popen[bytes] | Child | None = None
    due: bool = True  # it is to run; False: it is down on purpose
    codes: list[int] = field(default_factory=list)  # of ends that nobody caused

    @property
    def is_worker(self) -> bool:
        """Whether it is an agent."""
        return self.name not in MODULES


class Site:
    """The parts, by name: "coordinator", "gateway" (not in a lab), "w1", "w2"."""

    def __init__(
        self,
        lab: Lab | None = None,
        *,
        workers: tuple[str, ...] = ("w1", "w2"),
        small_disks: bool = False,
        forked: bool = False,
        **flags: Any,
    ) -> None:
        """*flags* are settings of every part; with *small_disks* coordinator and workers have a disk each.

        *forked* parts start faster; see nursery.py.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="hf-"))
        self.lab = lab
        self.truth = self.directory / "truth"
        self.truth.touch()
        self.points = self.directory / "points"
        self.points.mkdir()
        self.shim_kills: set[str] = set()  # attempts whose shim was killed while they were not over
        self.stillborn: set[str] = set()  # shims that were killed before they had written who they are
        self._cgroup = _make_cgroup(self.directory.name)
        self.parts = {part.name: part for part in self._make_parts(workers, flags)}
        for name in self.parts:
            self.set_clock(name, 0.0)
        self.disks: dict[str, SmallDisk] = {}
        if small_disks:
            places = {"coordinator": self.coordinator_dir / "coordinator"}
            places |= {name: self.worker_dir(name) for name in self.workers}
            self.disks = {name: SmallDisk(place) for name, place in places.items()}
        self._nursery = Nursery(self.directory) if forked else None
        self.client = Client(coordinator_address(load(data_dir=self.coordinator_dir)))

    def _make_parts(self, workers: tuple[str, ...], flags: dict[str, Any]) -> list[Part]:
        plain: dict[str, Any] = {
            "http": "127.0.0.1:0",
            "grpc": "",
            "log_format": "json",
            "heartbeat_s": HEARTBEAT_S,
        } | flags
        plain |= {"slots": SLOTS, "sample_workloads": False, "podman": "", "allow_root": True, "allow_arbitrary": True}
        if self.lab is None:
            settings: dict[str, dict[str, Any]] = {
                name: plain | {"data_dir": self.directory} for name in ("coordinator", "gateway", *workers)
            }
            hosts = dict.fromkeys(settings, "")
        else:
            hosts = {"coordinator": "h1"} | {name: f"h{number}" for number, name in enumerate(workers, 2)}
            settings = {name: plain | {"data_dir": self.directory / host} for name, host in hosts.items()}
            address = f"{self.lab.address('h1')}:7070"
            settings["coordinator"] |= {"grpc": address}
            for name in workers:
                settings[name] |= {"coordinator": address}
        return [Part(name, hosts[name], load(**given, name=name).to_json()) for name, given in settings.items()]

    @property
    def coordinator_dir(self) -> Path:
        """The coordinator's data directory."""
        return self.directory / "h1" if self.lab is not None else self.directory

    def worker_dir(self, name: str) -> Path:
        """The directory of a worker's agent."""
        base = self.directory / self.parts[name].host if self.lab is not None else self.directory
        return base / "workers" / name

    @property
    def workers(self) -> list[str]:
        """The names of the workers."""
        return [name for name, part in self.parts.items() if part.is_worker]

    @property
    def gateway_url(self) -> str:
        """Where the gateway says it is; empty when it has not said."""
        return read_gateway(self.directory)

    # -- parts

    def start(self, name: str) -> None:
        """Start a part that does not run."""
        part = self.parts[name]
        assert part.process is None or part.process.poll() is not None, f"{name} runs"
        module = MODULES.get(name, "worker_agent")
        settings = part.settings
        if self.lab is not None and part.is_worker and not (self.worker_dir(name) / CREDENTIALS_FILE).exists():
            settings = json.dumps(json.loads(settings) | invite(self.coordinator_dir, name))
        arguments = [str(self.points), str(self._clock(name)), module, "--settings", settings]
        part.due = True
        log_path = self.directory / f"{name}.log"
        if self._nursery is not None:
            part.process = self._nursery.start(
                arguments,
                log_path,
                cgroup="" if self._cgroup is None else str(self._cgroup / "cgroup.procs"),
                network="" if self.lab is None else str(NAMESPACES / self.lab.namespace(part.host)),
                host=part.host,
            )
            return
        command = [sys.executable, "-m", "tests.faults.failing", *arguments]
        if self._cgroup is not None:
            command = ["sh", "-c", _INTO_CGROUP, str(self._cgroup / "cgroup.procs"), *command]
        if self.lab is not None:
            command = self.lab.command(part.host, command)
        with log_path.open("ab") as log:
            part.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, *names: str) -> None:
        """Kill parts with -9 at the same time; they stay down until they are started."""
        for name in names:
            part = self.parts[name]
            part.due = False
            if part.process is not None:
                part.process.kill()
        for name in names:
            process = self.parts[name].process
            if process is not None:
                process.wait(END_S)

    def crash(self, host: str) -> list[str]:
        """Kill everything on a host of the lab, jobs too; returns the parts that were there."""
        assert self.lab is not None
        names = [name for name, part in self.parts.items() if part.host == host]
        for name in names:
            self.parts[name].due = False
        for worker in names:
            if self.parts[worker].is_worker:
                self._condemn_all(worker)
        self.lab.crash(host)
        self.kill(*names)
        return names

    def revive(self) -> list[str]:
        """Start again what has ended though it is to run, and return its names with exit codes."""
        found = []
        for name, part in self.parts.items():
            if part.due and part.process is not None and (code := part.process.poll()) is not None:
                found.append(f"{name} ended with {code}")
                full = name in self.disks and self.disks[name].was_full  # no part can begin there
                if code != -signal.SIGKILL and not full:
                    part.codes.append(code)
                self.start(name)
        return found

    def set_clock(self, name: str, seconds: float) -> None:
        """Let a part's wall clock be off by so much, at once."""
        path = self._clock(name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(fd, struct.pack("<q", round(seconds * 1e9)), 0)  # eight bytes at once: nobody sees a half
        os.close(fd)

    def _clock(self, name: str) -> Path:
        return self.directory / f"{name}.clock"

    # -- launchers and shims

    def below_agents(self, kind: str) -> list[Process]:
        """The living processes of a kind, "launch" or "shim", of every worker; each must be closed."""
        return [each for worker in self.workers for each in self._of_worker(worker, kind)]

    def _of_worker(self, worker: str, kind: str) -> list[Process]:
        place = os.fsencode(self.worker_dir(worker) / "segments")
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if place not in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                    continue
                pidfd = os.pidfd_open(int(name))
                # Read again, for now the pid is held.
                again = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                comm = Path(f"/proc/{name}/comm").read_text().strip()
                if place in again and kind in comm:
                    found.append(Process(int(name), pidfd, comm, worker))
                else:
                    os.close(pidfd)
        return found

    def kill_shim(self, shim: Process) -> None:
        """Kill a shim, and note which attempts it had begun and not ended."""
        self._condemn(shim)
        shim.send(signal.SIGKILL)
        shim.wait()

    def _condemn_all(self, worker: str) -> None:
        # The launcher first, so that no shim is forked unseen.
        for process in (*self._of_worker(worker, "launch"), *self._of_worker(worker, "shim-")):
            process.send(signal.SIGSTOP)
            self._wait_stopped(process.pid)
            process.close()
        for shim in self._of_worker(worker, "shim-"):
            self._condemn(shim)
            shim.close()

    def _condemn(self, shim: Process) -> None:
        """Stop a shim and look at what it has written."""
        shim.send(signal.SIGSTOP)
        self._wait_stopped(shim.pid)
        unfinished = self._unfinished(shim)
        if unfinished is None:
            self.stillborn.add(shim.name)
        else:
            self.shim_kills |= unfinished

    def _unfinished(self, shim: Process) -> set[str] | None:
        """The attempts it has begun and not ended; None when it has no segment with its identity yet."""
        found = None
        for path in (self.worker_dir(shim.worker) / "segments").glob(f"{shim.name}.*.segment"):
            with contextlib.suppress(FileNotFoundError):
                segment = scan_segment(path, ())
                if segment.identity is not None:
                    found = (found or set()) | {each.key for each in segment.attempts if not each.exited}
        return found

    def _wait_stopped(self, pid: int) -> None:
        until = time.monotonic() + END_S  # a busy machine takes its time, and what it writes until then counts
        with contextlib.suppress(OSError):
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
                if time.monotonic() > until:
                    return
                time.sleep(0.001)

    def fired(self) -> list[list[str]]:
        """What the points did: name, pid and, for a shim, the attempt."""
        try:
            lines = (self.points / "fired").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ") for line in lines]

    # -- what the parts say and take

    async def command_line(self, *arguments: str) -> Any:
        """What the command `hostler` answers in JSON; a failure is its text."""
        command = [sys.executable, "-m", "hostler.cli.main", "--data-dir", str(self.coordinator_dir), *arguments]
        asked = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            async with asyncio.timeout(END_S):
                out, err = await asked.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                asked.kill()  # one that was waited for is gone
        return json.loads(out) if asked.returncode == 0 else err.decode(errors="replace")

    def taken(self) -> dict[str, tuple[int, int]]:
        """The memory (proportional set size, bytes) and the number of descriptors of every part that runs."""
        found = {}
        for name, part in self.parts.items():
            if part.process is None or part.process.poll() is not None:
                continue
            place = Path(f"/proc/{part.process.pid}")
            with contextlib.suppress(OSError, StopIteration):
                lines = (place / "smaps_rollup").read_text().splitlines()
                pss_kib = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
                found[name] = (pss_kib * 1024, len(os.listdir(place / "fd")))
        return found

    # -- the end

    def errors(self) -> list[str]:
        """What the parts have logged as errors: the part, the event, and the last line of its traceback."""
        found = []
        for name in self.parts:
            for line in (self.directory / f"{name}.log").read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    if entry["level"] in ("error", "critical"):
                        trace = str(entry.get("exception", entry.get("error", ""))).strip()
                        found.append(f"{name}: {entry['event']} {trace.rpartition(chr(10))[2][:100]}".strip())
        return found

    def left(self) -> list[str]:
        """The processes of this cluster that live, its jobs' included."""
        own = {str(self._nursery.pid)} if self._nursery is not None else set()
        mark = os.fsencode(self.directory)
        inside = set(_pids_below(self._cgroup)) if self._cgroup is not None else set()
        found = []
        for name in filter(str.isdecimal, set(os.listdir("/proc")) - own):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
                if (mark in command or int(name) in inside) and state not in "ZX":
                    found.append(f"{name} {state} {command.replace(bytes(1), b' ').decode(errors='replace')[:200]}")
        return found

    def cgroups_left(self) -> list[str]:
        """The cgroups that shims have made and nobody has removed.

        One that died between making its cgroup and writing down which it is leaves it behind, empty, for ever: what
        a later agent could find it by is not known. Such a directory holds nobody, so it is passed over here.
        """
        if self._cgroup is None:
            return []
        numbers = tuple(f"-{name.removeprefix('shim-')}" for name in self.stillborn)
        found = [path for path in self._cgroup.iterdir() if path.is_dir()]
        return [path.name for path in found if not (path.name.endswith(numbers) and not _pids_below(path))]

    async def stop_all(self) -> None:
        """Ask for the end of every job that is not over."""
        open_jobs = [job.id async for page in self.client.find_brief(JobQuery(states=OPEN)) for job in page]
        await asyncio.gather(*(self.client.stop(job, grace_s=0.0) for job in open_jobs))

    async def down(self) -> None:
        """End every part in order, agents without their jobs."""
        await self.client.close()
        order = sorted(self.parts.values(), key=lambda part: (part.name != "gateway", part.name == "coordinator"))
        for part in order:
            part.due = False
            if part.process is not None and part.process.poll() is None:
                part.process.terminate()
                try:
                    part.process.wait(END_S)
                except subprocess.TimeoutExpired:
                    part.process.kill()
                    part.process.wait()

    def remove(self) -> None:
        """Remove the directory: nothing in it is of interest any more."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def clear(self) -> None:
        """Kill what is left, remove cgroup and disks; the directory stays, but for what was on the disks."""
        if self._nursery is not None:
            self._nursery.close()
        for disk in self.disks.values():
            disk.unmount()
        if self._cgroup is None:
            return
        for _ in range(50):
            pids = _pids_below(self._cgroup)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.02)
        for path in (*(path for path in self._cgroup.iterdir() if path.is_dir()), self._cgroup):
            with contextlib.suppress(OSError):
                path.rmdir()


def _make_cgroup(name: str) -> Path | None:
    """A cgroup in which all parts live, so that everything they make is found; None where none can be made."""
    for base in CGROUPS:
        made = base / f"hostler-{name}"
        with contextlib.suppress(OSError):
            made.mkdir()
            if (made / "cgroup.procs").exists():
                return made
            made.rmdir()
    return None


def _pids_below(cgroup: Path) -> list[int]:
    found: list[int] = []
    for path in (cgroup, *(path for path in cgroup.iterdir() if path.is_dir())):
        with contextlib.suppress(OSError):
            found += map(int, (path / "cgroup.procs").read_text().split())
    return found
