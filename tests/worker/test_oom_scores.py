"""Whom the kernel ends when memory runs out: the job before the shim that tells of it."""

import os
from pathlib import Path

from worker_agent.attempts import Order
from worker_agent.oom_scores import JOB, take_low
from worker_agent.process_tree import spawn

OWN = Path("/proc/self/oom_score_adj")


def score_of_a_job(directory: Path) -> int:
    """The score that a program finds itself with."""
    home = os.open(".", os.O_PATH)
    null = os.open("/dev/null", os.O_RDWR)
    out = os.open(directory / "out", os.O_RDWR | os.O_CREAT)
    order = Order(key="k.0.1", argv=("/bin/cat", str(OWN)))
    pid = spawn(order, {}, home, stdin=null, stdout=out, stderr=null)
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (home, null, out):
        os.close(fd)
    return int((directory / "out").read_text())


def test_a_program_is_ended_before_the_shim_that_started_it(tmp_path: Path) -> None:
    """From its first instruction on it has the score of a job, and whoever started it has its own again."""
    before = int(OWN.read_text())
    assert score_of_a_job(tmp_path) == JOB > before
    assert int(OWN.read_text()) == before


def test_a_shim_takes_a_low_score_only_where_it_may() -> None:
    """Where it may not it goes on with the one it has. In a process of its own, for there may be no way back."""
    pid = os.fork()
    if pid == 0:
        before = int(OWN.read_text())
        take_low()
        os._exit(0 if int(OWN.read_text()) <= before else 1)
    assert os.waitpid(pid, 0)[1] == 0
