"""What a program's reads of its sockets cost in memory."""

import subprocess
import sys

PROGRAM = """
import resource, socket
from hostler.processes import settle_memory
settle_memory()
kept = [bytes(200 * 1024) for _ in range(50)]  # so that nothing is left over at the end of the heap
ours, theirs = socket.socketpair()

def read():
    theirs.send(b"x")
    ours.recv(256 * 1024)  # as asyncio reads

for _ in range(20):
    read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_asyncio_reads_into_memory_that_is_there() -> None:
    """To have it mapped anew and cleared for each message takes five times as long as to read the message."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 20
