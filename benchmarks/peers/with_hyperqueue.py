"""HyperQueue's Python binding: server and worker are in this process, one job has all programs, no output is kept.

The binding's own wait looks once a second. So the end is seen by a file that a last program makes, which runs only
after all others have ended well; the wait follows outside of what is measured.
"""

import importlib.metadata
import os
import sys
from typing import Any

import hyperqueue  # type: ignore[import-not-found, unused-ignore]
import hyperqueue.client  # type: ignore[import-not-found, unused-ignore]
import hyperqueue.cluster  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.driving import Peer, drive
from benchmarks.peers.job import PROGRAM, SLOTS, WAIT_S


class HyperQueue(Peer):
    """Its local cluster."""

    def start(self) -> None:
        """Start server and worker."""
        self.version = importlib.metadata.version("hyperqueue")
        # It would draw a bar of progress, whatever the output is.
        hyperqueue.client.create_progress_callback = lambda: lambda *_: None
        worker = hyperqueue.cluster.WorkerConfig(cores=SLOTS)
        cluster = hyperqueue.LocalCluster(os.fspath(self.directory / "server"), worker)
        self.stack.callback(cluster.stop)
        self._client = cluster.client()
        self._submitted: list[Any] = []

    def run(self, jobs: int) -> None:
        """One job of so many programs, and one program more, which tells the end."""
        end = self.directory / f"end-{len(os.listdir(self.directory))}"
        job = hyperqueue.Job(default_workdir=os.fspath(self.directory), max_fails=None)
        programs = [job.program([PROGRAM], stdout=None, stderr=None) for _ in range(jobs)]
        job.program(["/usr/bin/touch", os.fspath(end)], deps=programs, stdout=None, stderr=None)
        self._submitted = [self._client.submit(job)]
        self.wait_for("the end of the jobs", end.exists, patience_s=WAIT_S)

    def settle(self) -> None:
        """Its own wait, which raises an error when a program has failed."""
        self._client.wait_for_jobs(self._submitted)


if __name__ == "__main__":
    sys.exit(drive(HyperQueue))
