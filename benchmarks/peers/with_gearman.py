"""gearmand with two workers, each of which starts the program for a job; the client is gearman's own tool, twice.

That tool sends one job at a time and waits for it, so two of them keep two workers busy.
"""

import os
import subprocess
import sys

from benchmarks.peers.driving import Peer, drive, free_port, is_listening, program_version
from benchmarks.peers.job import PROGRAM, SLOTS, WAIT_S
from benchmarks.processes import BenchError

FUNCTION = "run"


class Gearman(Peer):
    """The server, two workers, and two clients a run."""

    def start(self) -> None:
        """Start the server, then the workers."""
        self.version = program_version("gearmand", "--version", word="gearmand ")
        port = free_port()
        self._tool = ("gearman", "-h", "127.0.0.1", "-p", str(port), "-f", FUNCTION)
        log, pid_file = (os.fspath(self.directory / name) for name in ("gearmand.log", "gearmand.pid"))
        argv = ["gearmand", "--listen=127.0.0.1", f"--port={port}", f"--log-file={log}", f"--pid-file={pid_file}"]
        if os.geteuid() == 0:
            argv.append("--user=root")  # it does not start as root unless told so
        self.program("gearmand", *argv)
        self.wait_for("gearmand", lambda: is_listening(port))
        for _ in range(SLOTS):
            self.program("gearman", *self._tool, "-w", "--", PROGRAM)

    def run(self, jobs: int) -> None:
        """Each client sends its half."""
        half = jobs // SLOTS
        counts = [jobs - half * (SLOTS - 1), *[half] * (SLOTS - 1)]
        for client in [self._client(number, count) for number, count in enumerate(counts) if count]:
            if client.wait(WAIT_S) != 0:
                raise BenchError(f"gearman ended with status {client.returncode}: some jobs have failed")

    def _client(self, number: int, jobs: int) -> "subprocess.Popen[bytes]":
        arguments = self.directory / f"arguments-{number}"
        arguments.write_text("".join(f"{line}\n" for line in range(jobs)))
        with arguments.open() as lines:
            client = subprocess.Popen([*self._tool, "-n"], stdin=lines, stdout=subprocess.DEVNULL)
        self.stack.callback(client.wait)
        self.stack.callback(client.kill)
        return client


if __name__ == "__main__":
    sys.exit(drive(Gearman))
