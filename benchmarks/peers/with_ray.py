"""Ray: one node with two CPUs, and a remote function call for each job."""

import logging
import os
import sys
from typing import Final

# Before the import, which reads them: nothing is to leave this host, and nothing is to listen but on its loopback
# interface. The second has that meaning on every system, whatever its name says.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

import ray  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.driving import Peer, check_exit_codes, drive
from benchmarks.peers.job import SLOTS, WAIT_S, run

OBJECTS_BYTES: Final = 100 << 20  # what it holds of results; by default a third of the memory


class Ray(Peer):
    """A node of its own."""

    def start(self) -> None:
        """Start the node."""
        self.version = ray.__version__
        # Whatever cluster this host is part of otherwise: this one is new, and it is local.
        ray.init(
            address="local",
            num_cpus=SLOTS,
            include_dashboard=False,
            object_store_memory=OBJECTS_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=os.fspath(self.directory / "r"),
        )
        self.stack.callback(ray.shutdown)
        self._run = ray.remote(max_retries=0)(run)

    def run(self, jobs: int) -> None:
        """One call a job."""
        check_exit_codes(ray.get([self._run.remote(number) for number in range(jobs)], timeout=WAIT_S), jobs)


if __name__ == "__main__":
    sys.exit(drive(Ray))
