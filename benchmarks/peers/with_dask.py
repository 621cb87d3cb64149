"""Dask distributed: a scheduler in this process and two workers of one thread each."""

import logging
import os
import sys

import distributed  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.driving import Peer, check_exit_codes, drive
from benchmarks.peers.job import SLOTS, WAIT_S, run


class Dask(Peer):
    """Its local cluster."""

    def start(self) -> None:
        """Start scheduler and workers."""
        self.version = distributed.__version__
        cluster = distributed.LocalCluster(
            n_workers=SLOTS,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=os.fspath(self.directory),
            silence_logs=logging.ERROR,
        )
        self.stack.callback(cluster.close)
        self._client = distributed.Client(cluster)
        self.stack.callback(self._client.close)

    def run(self, jobs: int) -> None:
        """One map over all jobs."""
        # Impure: otherwise what was computed once is not computed again.
        futures = self._client.map(run, range(jobs), pure=False)
        distributed.wait(futures, timeout=WAIT_S)
        check_exit_codes(self._client.gather(futures), jobs)


if __name__ == "__main__":
    sys.exit(drive(Dask))
