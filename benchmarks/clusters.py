"""The systems under the load, each as real processes in a data directory of its own: the product and the prototype."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

from benchmarks.processes import BenchError, Components, CpuMeter, Program, Pulse, descendants, pss_mb, run_to_end
from benchmarks.yardsticks import TRUE
from hostler.endpoint import coordinator_socket, read_gateway

START_S: Final = 60.0  # for a program to be there; a busy machine needs seconds
END_S: Final = 20.0
CALL_S: Final = 10.0
SETTLE_S: Final = 0.25  # what follows the last end (acknowledgements, logs) belongs to the jobs too
WARM_UP_JOBS: Final = 200
JOB_S: Final = 0.05  # the patience for each job; a job takes a hundredth of it

COORDINATOR: Final = "coordinator"
GATEWAY: Final = "gateway"
AGENT: Final = "agent"
SPAWNING: Final = "launcher + shims"
CLIENT: Final = "client"

Found = TypeVar("Found")


class Load(NamedTuple):
    """What a client's run gave."""

    figures: dict[str, float]  # what benchmarks.load printed
    cpu_us: dict[str, float]  # a job, by component


class Cluster(ABC):
    """One system. Entering starts it; leaving ends its processes and removes its directory."""

    name: str
    client: str  # the client's word for it
    warm_up_jobs = WARM_UP_JOBS

    def __init__(self, place: Path) -> None:
        """Prepare a system in a directory of its own below *place*."""
        self._place = place
        self._stack = contextlib.ExitStack()
        self._programs: list[tuple[str, Program]] = []  # with the component it is
        self._directory = place
        self._input_fd = -1
        self._url = ""
        self._meter = CpuMeter(self.components)

    def __enter__(self) -> Self:
        try:
            # The path is short, for sockets lie below it.
            self._directory = Path(tempfile.mkdtemp(prefix="bench-", dir=self._place))
            self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            self._stack.callback(self._meter.kill_leftovers)
            self._input_fd = self._stack.enter_context(Pulse()).read_fd
            self._start()
            if self.warm_up_jobs:
                self.load("batch", self.warm_up_jobs)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        # Processes that may outlive their agent are found only while it lives.
        self._meter.sample()
        self._stack.close()

    @abstractmethod
    def _start(self) -> None:
        """Start the programs and set `_url`."""

    @abstractmethod
    def components(self) -> Components:
        """The processes of each component, as they are now. Jobs are in none."""

    def load(self, what: str, jobs: int, *, worker: str = "", program: str = TRUE) -> Load:
        """Drive the system by a client of its own and return what was measured.

        *worker* and *program*, other than the default, are for the product only.

        Raises:
            BenchError: a job failed, it took too long, or a program of the system has ended.
        """
        timeout_s = 60.0 + jobs * JOB_S
        argv = [sys.executable, "-m", "benchmarks.load", self.client, what, f"--url={self._url}", f"--jobs={jobs}"]
        argv += [f"--timeout={timeout_s}", f"--worker={worker}", f"--program={program}"]
        before = self._meter.totals()
        try:
            text = run_to_end(argv, timeout_s=timeout_s + 10, each_beat=self._meter.sample)
        except BenchError:
            self._check()
            raise
        time.sleep(SETTLE_S)
        after = self._meter.totals()
        figures: dict[str, float] = json.loads(text)
        cpu_us = {name: (after[name] - before.get(name, 0.0)) / jobs * 1e6 for name in after}
        if "cpu_us" in figures:
            cpu_us[CLIENT] = figures.pop("cpu_us")
        return Load(figures, cpu_us)

    @property
    def url(self) -> str:
        """Where it is called by HTTP."""
        return self._url

    @property
    def directory(self) -> Path:
        """Where it keeps what it has."""
        return self._directory

    def pss_mb(self, *names: str) -> float:
        """Memory of the processes of these components, each page divided by those who share it."""
        components = self.components()
        return pss_mb(pid for name in names for pid in components.get(name, ()))

    def _run(self, component: str, *arguments: str) -> None:
        """Start a Python module as a part; what was started last is ended first."""
        log = self._directory / f"{component}-{len(self._programs)}.log"
        program = Program(component, [sys.executable, "-m", *arguments], log, stdin=self._input_fd)
        self._programs.append((component, program))
        self._stack.callback(program.end, patience_s=END_S)

    def _pids(self, component: str) -> list[int]:
        return [program.pid for name, program in self._programs if name == component]

    def _wait_for(self, what: str, look: Callable[[], Found | None]) -> Found:
        """Look until there is something to return."""
        ends_at = time.monotonic() + START_S
        while not (found := look()):
            self._check()
            if time.monotonic() > ends_at:
                raise BenchError(f"{self.name}: {what} has not come in {START_S:g} s")
            time.sleep(0.02)
        return found

    def _check(self) -> None:
        for _, program in self._programs:
            program.check()


class Product(Cluster):
    """hostler: a coordinator, a worker and a gateway, with the settings people get."""

    name = "product"
    client = "product"

    def __init__(self, place: Path, **worker: Any) -> None:
        """*worker* are settings of the worker that differ from those people get."""
        super().__init__(place)
        self._worker = worker

    @property
    def address(self) -> str:
        """Where its coordinator is called by gRPC."""
        return f"unix:{coordinator_socket(self._directory)}"

    def check(self) -> None:
        """Return when every part runs.

        Raises:
            BenchError: one has ended; with the last lines it printed.
        """
        self._check()

    def _start(self) -> None:
        self._start_coordinator()
        self._part(AGENT, "worker_agent", name="bench-1", **self._worker)
        self._part(GATEWAY, "http_gateway")
        self._url = self._wait_for("the gateway", lambda: read_gateway(self._directory) or None)

    def _start_coordinator(self, **settings: Any) -> None:
        self._part(COORDINATOR, "coordinator", **settings)
        socket = self._directory / "endpoint.json"
        self._wait_for("the coordinator", lambda: socket.exists() or None)

    def components(self) -> Components:
        """Below an agent is its launcher, below that the shims, and only below these the jobs."""
        agents = self._pids(AGENT)
        return {
            COORDINATOR: self._pids(COORDINATOR),
            AGENT: agents,
            SPAWNING: [pid for agent in agents for pid in descendants(agent, depth=2)],
            GATEWAY: self._pids(GATEWAY),
        }

    def add_worker(self) -> str:
        """Start a further worker and return its id once it is connected."""
        name = f"bench-{len(self._pids(AGENT)) + 1}"
        self._part(AGENT, "worker_agent", name=name)
        return self._wait_for(f"worker {name}", lambda: self._connected(name))

    def _connected(self, name: str) -> str | None:
        answer = self._get("/v1/workers")
        found = [w["id"] for w in answer["workers"] if w["name"] == name and w["state"] == "connected"]
        return str(found[0]) if found else None

    def _get(self, path: str) -> Any:
        # Proxies of the person's environment are not for this.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self._url + path, timeout=CALL_S) as answer:
                return json.load(answer)
        except urllib.error.URLError as error:
            raise BenchError(f"the gateway did not answer GET {path}: {error}") from error

    def _part(self, component: str, module: str, **settings: Any) -> None:
        # Given like this, the rest are defaults: the environment, which may name a person's own cluster, is not read.
        # The directory is private and there is no gRPC port, so that nothing collides with a cluster that runs.
        settings |= {"data_dir": os.fspath(self._directory), "http": "127.0.0.1:0", "grpc": "", "log_format": "json"}
        settings |= {"stop_jobs": True, "parent_fd": self._input_fd}
        self._run(component, module, "--settings", json.dumps(settings))


class LoneCoordinator(Product):
    """A coordinator alone, for workers that are simulated."""

    warm_up_jobs = 0

    def __init__(self, place: Path, **coordinator: Any) -> None:
        """*coordinator* are settings that differ from those people get."""
        super().__init__(place)
        self._coordinator = coordinator

    def _start(self) -> None:
        self._start_coordinator(**self._coordinator)

    @property
    def pid(self) -> int:
        """Of the coordinator."""
        return self._pids(COORDINATOR)[0]


class Prototype(Cluster):
    """The yardstick in prototype.py, with or without its overlap of dispatch and commit."""

    client = "prototype"

    def __init__(self, place: Path, *, overlap: bool) -> None:
        super().__init__(place)
        self.name = "prototype" if overlap else "prototype, no overlap"
        self._overlap = "--overlap" if overlap else "--no-overlap"

    def _start(self) -> None:
        module, directory = "benchmarks.prototype", os.fspath(self._directory)
        self._run(COORDINATOR, module, "coordinator", "--dir", directory, self._overlap)
        ports = self._directory / "ports.json"
        self._wait_for("the coordinator", lambda: ports.exists() or None)
        self._run(AGENT, module, "worker", "--dir", directory)
        self._url = f"http://127.0.0.1:{json.loads(ports.read_text())['http']}"

    def components(self) -> Components:
        """Its coordinator is the gateway too; its spawners are directly below the agent, the jobs below them."""
        agents = self._pids(AGENT)
        return {
            COORDINATOR: self._pids(COORDINATOR),
            AGENT: agents,
            SPAWNING: [pid for agent in agents for pid in descendants(agent, depth=1)],
        }
