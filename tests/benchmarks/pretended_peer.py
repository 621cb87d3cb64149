"""A peer for the tests of benchmarks.peers: its server is a `sleep`, and it runs jobs one by one.

It fails on purpose at 13 jobs, as a peer whose jobs fail; at 14 its own program dies; at 15 it never ends.
"""

import os
import signal
import sys
import time

from benchmarks.peers.driving import Peer, check_exit_codes, drive
from benchmarks.peers.job import run

FAILS, DIES, HANGS = 13, 14, 15


class Pretended(Peer):
    """It names its directory, by which a test finds it."""

    def start(self) -> None:
        """Start something that stays when it is not ended."""
        self.version = "1.2.3"
        self.program("server", "sh", "-c", "sleep 1000; :", os.fspath(self.directory))
        print("a word that is no answer")

    def run(self, jobs: int) -> None:
        """Start each program and wait for it."""
        if jobs == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if jobs == HANGS:
            time.sleep(1000)
        codes = [run(number) for number in range(jobs)]
        check_exit_codes([*codes[1:], 1] if jobs == FAILS else codes, jobs)


if __name__ == "__main__":
    sys.exit(drive(Pretended))
