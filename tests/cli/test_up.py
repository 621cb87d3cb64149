"""`hostler up` and a private `hostler run` with the real programs: the whole life of a cluster on one host."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hostler.endpoint import Endpoint, write_endpoint

COMMAND = [sys.executable, "-m", "hostler.cli.main"]
AT_MOST_S = 60.0


def eventually(holds: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait for a condition, with an end."""
    deadline = time.monotonic() + AT_MOST_S
    while True:
        if holds():
            return
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def running_in(directory: Path) -> list[str]:
    """The command lines of the processes that name *directory*: programs of ours, and jobs that name it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if str(directory) in line and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {line[:100]}")
    return found


class Up:
    """A running ``hostler up`` in a directory of its own."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.data_dir = data_dir
        self.messages = data_dir.parent / "up.err"
        self._options = ["--data-dir", str(data_dir), "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", *options]
        self.process: subprocess.Popen[str]

    def start(self) -> str:
        """Start it and return its line on standard output."""
        with self.messages.open("ab") as messages:
            command = [*COMMAND, "up", *self._options]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, text=True)
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def part(self, program: str) -> psutil.Process:
        """The one child that runs this program."""
        parts = [one for one in psutil.Process(self.process.pid).children() if program in one.cmdline()]
        assert len(parts) == 1, parts
        return parts[0]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster."""
        command = [*COMMAND, "--data-dir", str(self.data_dir), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=AT_MOST_S, check=False)

    def job(self, job: str) -> dict[str, object]:
        """A job as it stands."""
        shown = self.call("show", job, "--json")
        answer: dict[str, object] = json.loads(shown.stdout) if shown.returncode == 0 else {"state": shown.stderr}
        return answer

    def submit(self, *argv: str) -> str:
        """Submit a job and return its id once it runs."""
        job = self.call("submit", "--", *argv).stdout.strip()
        eventually(lambda: self.job(job)["state"] == "running", lambda: (self.job(job), self.said()))
        return job

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(AT_MOST_S)

    def wait_until_said(self, words: str, *, times: int = 1) -> None:
        """Return once it has printed *words* so many times."""
        eventually(lambda: self.said().count(words) == times, self.said)

    def said(self) -> str:
        """What it has printed to standard error."""
        return self.messages.read_text()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory whose path is short enough for sockets; afterwards nothing of it runs."""
    with tempfile.TemporaryDirectory(prefix="hostler-") as directory:
        yield Path(directory) / "data"
        eventually(lambda: not running_in(Path(directory)), lambda: running_in(Path(directory)))


@pytest.fixture
def make_up(data_dir: Path) -> Iterator[Callable[..., Up]]:
    """Start clusters in `data_dir`; each is ended with the test."""
    made: list[Up] = []

    def make(*options: str) -> Up:
        made.append(Up(data_dir, *options))
        return made[-1]

    yield make
    for up in made:
        # Its parts see the end of their pipes and end in order.
        up.process.kill()
        up.process.wait()
        if up.process.stdout is not None:
            up.process.stdout.close()


def test_up_is_ready_when_it_says_so_and_leaves_nothing_when_told_to_end(
    make_up: Callable[..., Up], data_dir: Path
) -> None:
    """One line on standard output; a job can be submitted at once; SIGTERM stops what runs and says so."""
    up = make_up("--workers", "2")

    line = up.start()
    url = line.removeprefix("ready: ").strip()
    assert line.startswith("ready: http://127.0.0.1:"), (line, up.said())
    with urllib.request.urlopen(f"{url}/health", timeout=AT_MOST_S) as answer:
        assert answer.status == 200
    workers = json.loads(up.call("workers", "--json").stdout)["workers"]
    assert [worker["state"] for worker in workers] == ["connected"] * 2
    assert len({worker["name"] for worker in workers}) == 2
    ran = up.call("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "out\n", "err\n")
    cat = [*COMMAND, "--data-dir", str(data_dir), "run", "--", "cat"]
    fed = subprocess.run(cat, input=b"in\n", capture_output=True, timeout=AT_MOST_S, check=False)
    assert (fed.returncode, fed.stdout) == (0, b"in\n")
    job = up.submit("sleep", "1000")
    up.call("submit", "--label", "nobody=has", "--", "true")

    assert up.end() == 0
    assert "1 waiting job will run when a worker is there again" in up.said()
    assert up.process.stdout is not None and up.process.stdout.read() == ""
    assert f"{job} (sleep 1000) stopped: SIGTERM" in up.said()
    assert running_in(data_dir) == []


def test_a_part_that_is_killed_comes_back_and_its_jobs_are_not_harmed(make_up: Callable[..., Up]) -> None:
    """Coordinator, agent and gateway, one after the other, while a job runs."""
    up = make_up()
    up.start()
    job = up.submit("sh", "-c", "sleep 4; echo done; exit 3")

    for times, program in enumerate(("coordinator", "worker_agent", "http_gateway"), 1):
        up.part(program).kill()
        up.wait_until_said("was killed by SIGKILL; it is started again", times=times)
        eventually(lambda: up.call("workers").returncode == 0, up.said)

    waited = up.call("wait", job, "--timeout", str(AT_MOST_S))
    assert (waited.returncode, waited.stdout) == (1, f"{job} failed: exit status 3\n")
    assert up.call("logs", job).stdout == "done\n"
    assert up.end() == 0


def test_what_is_configured_wrongly_is_said_in_one_sentence(make_up: Callable[..., Up], data_dir: Path) -> None:
    """A data directory in use, and a port that is taken: exit code 2, and the running cluster goes on."""
    up = make_up("--workers", "0")
    port = up.start().strip().rpartition(":")[2]

    second = up.call("up")
    assert second.returncode == 2 and "a coordinator already runs on" in second.stderr
    other = data_dir.parent / "other"
    taken = up.call("up", "--data-dir", str(other), "--http", f"127.0.0.1:{port}", "--grpc", "127.0.0.1:0")
    assert (taken.returncode, taken.stdout) == (2, "")
    assert f"127.0.0.1:{port}" in taken.stderr and "Traceback" not in taken.stderr
    foreground = up.call("gateway", "--http", f"127.0.0.1:{port}")
    assert foreground.returncode == 2 and foreground.stderr.startswith("hostler gateway: ")

    assert up.call("workers").returncode == 0
    assert up.end(signal.SIGINT) == 0


def test_up_that_is_killed_ends_its_parts_and_their_jobs(make_up: Callable[..., Up], data_dir: Path) -> None:
    """kill -9 leaves nothing either; the jobs are known as stopped at the next start."""
    up = make_up()
    up.start()
    job = up.submit("sleep", "1000")

    up.process.kill()
    up.process.wait()

    eventually(lambda: not running_in(data_dir), lambda: running_in(data_dir))
    again = make_up("--workers", "0")
    again.start()
    assert again.job(job)["outcome"] == "stopped"


def test_a_second_ctrl_c_hurries(make_up: Callable[..., Up], data_dir: Path) -> None:
    """A job with a long grace is killed at once, and still nothing is left."""
    up = make_up()
    up.start()
    up.call("submit", "--grace", "1000", "--", "sh", "-c", "trap '' TERM; echo deaf; sleep 1000; sleep 1000")
    eventually(lambda: up.call("logs", "last").stdout == "deaf\n", up.said)

    up.process.send_signal(signal.SIGINT)
    up.wait_until_said("stopping 1 running job")
    assert up.end(signal.SIGINT) == 0
    assert "hurrying" in up.said()
    assert running_in(data_dir) == []


def run_privately(data_dir: Path, *argv: str) -> subprocess.Popen[bytes]:
    """Start ``hostler run`` where no cluster answers."""
    environment = os.environ | {"TMPDIR": str(data_dir.parent)}
    command = [*COMMAND, "run", "--data-dir", str(data_dir), "--", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def test_run_without_a_cluster_uses_a_private_one_and_removes_it(data_dir: Path) -> None:
    """Streams apart, the job's status, nothing of ours on either stream, no process and no file left."""
    run = run_privately(data_dir, "sh", "-c", "echo out; echo err >&2; exit 7")

    out, err = run.communicate(timeout=AT_MOST_S)

    assert (run.returncode, out, err) == (7, b"out\n", b"err\n")
    assert list(data_dir.parent.iterdir()) == []
    assert running_in(data_dir.parent) == []


def test_run_says_each_time_that_the_cluster_it_knew_is_not_there_any_more(data_dir: Path) -> None:
    """Stopped or killed, a coordinator leaves word of where it was; a job is not to be elsewhere unnoticed."""
    data_dir.mkdir()
    gone = f"unix:{data_dir}/gone.sock"
    write_endpoint(data_dir, Endpoint(socket=gone, grpc="", pid=1))

    for _ in range(2):
        out, err = run_privately(data_dir, "echo", "out").communicate(timeout=AT_MOST_S)
        assert out == b"out\n"
        assert err.decode() == (
            f"hostler: no cluster answers at {gone} any more (hostler up starts it again); "
            "using a private one, which ends with this command\n"
        )


def test_run_says_that_a_cluster_that_listens_does_not_answer(data_dir: Path) -> None:
    """It is not to be started again: it runs, and is busy or stopped."""
    data_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{data_dir}/deaf.sock")
        listener.listen()
        write_endpoint(data_dir, Endpoint(socket=f"unix:{data_dir}/deaf.sock", grpc="", pid=1))
        out, err = run_privately(data_dir, "echo", "out").communicate(timeout=AT_MOST_S)

    assert out == b"out\n"
    assert err.decode() == (
        f"hostler: the cluster at unix:{data_dir}/deaf.sock does not answer; "
        "using a private one, which ends with this command\n"
    )


def test_a_key_file_is_for_clusters_that_were_there_before(
    make_up: Callable[..., Up], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` and a private cluster start whatever it is: nobody has a key for what did not exist."""
    monkeypatch.setenv("HOSTLER_KEY_FILE", f"{data_dir}/none")

    assert run_privately(data_dir, "echo", "out").communicate(timeout=AT_MOST_S) == (b"out\n", b"")
    up = make_up("--workers", "1")
    assert up.start().startswith("ready: ")
    assert "cannot be read" in up.call("jobs").stderr
    monkeypatch.delenv("HOSTLER_KEY_FILE")
    assert up.call("run", "--", "true").returncode == 0
    assert up.end() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_private_cluster_ends_with_its_command_however_that_ends(number: int, status: int, data_dir: Path) -> None:
    """Also when the command is killed: no process of the job, no program, no directory."""
    marker = f"exec -a {data_dir} sleep 1000"
    run = run_privately(data_dir, "bash", "-c", f"({marker}) & echo begun; {marker}")
    assert run.stdout is not None and run.stderr is not None
    assert run.stdout.readline() == b"begun\n"
    assert running_in(data_dir)

    run.send_signal(number)

    assert run.wait(AT_MOST_S) == status
    eventually(lambda: not running_in(data_dir.parent), lambda: running_in(data_dir.parent))
    eventually(lambda: not list(data_dir.parent.iterdir()), lambda: list(data_dir.parent.iterdir()))
    run.stdout.close()
    run.stderr.close()
