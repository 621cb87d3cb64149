"""Celery with redis: one worker that forks two processes, results in redis, nothing of it on a disk."""

import importlib.metadata
import sys
from typing import Final

import celery  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.driving import Peer, check_exit_codes, drive, free_port, is_listening, program_version
from benchmarks.peers.job import SLOTS, WAIT_S, run

MODULE: Final = "benchmarks.peers.with_celery"
PREFETCHED: Final = 64  # jobs a process holds; with the default of 4 it would wait for the broker more often

# The worker imports this module by its name, which here is another one, and is told on its command line whom to call.
app = celery.Celery("benchmarks")
app.conf.update(worker_prefetch_multiplier=PREFETCHED, broker_connection_retry_on_startup=True)
run_job = app.task(name="run")(run)


class Celery(Peer):
    """A redis, a worker, and the client in this process."""

    def start(self) -> None:
        """Start redis, then the worker."""
        redis = program_version("redis-server", "--version", word="v=")
        self.version = f"{importlib.metadata.version('celery')}, redis {redis}"
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        memory_only = ("--save", "", "--appendonly", "no")
        self.program("redis-server", "redis-server", "--bind", "127.0.0.1", "--port", str(port), *memory_only)
        self.wait_for("redis", lambda: is_listening(port))
        app.conf.update(broker_url=url, result_backend=url)
        self.stack.callback(app.close)
        argv = [sys.executable, "-m", "celery", "-A", MODULE, "-b", url, "--result-backend", url, "worker"]
        self.program("celery", *argv, f"-c{SLOTS}", "--without-gossip", "--without-mingle", "-lERROR")
        self.wait_for("its worker", lambda: bool(app.control.ping(timeout=0.5)))

    def run(self, jobs: int) -> None:
        """One message a job, and one result."""
        results = [run_job.delay(number) for number in range(jobs)]
        check_exit_codes([result.get(timeout=WAIT_S) for result in results], jobs)


if __name__ == "__main__":
    sys.exit(drive(Celery))
