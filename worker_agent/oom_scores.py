"""Whom the kernel ends when memory runs out: a job, before the shim that is to tell of its end.

The score is absolute and inherited: a shim takes a low one where it may, and a program is started while its shim has
a job's. The shim never needs to write to another process, so no child of a program can have been forked before.
Limits: only root (CAP_SYS_RESOURCE) may lower a score; elsewhere a shim keeps the one it was started with.
Sources: proc_pid_oom_score_adj(5).
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

JOB: Final = 500  # of 1,000: as if it took half of the memory besides what it does take
SHIM: Final = -500
_OWN: Final = "/proc/self/oom_score_adj"


def take_low() -> None:
    """Lower the score of this process to that of a shim, where that is permitted."""
    with contextlib.suppress(OSError):
        fd = os.open(_OWN, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % SHIM)
        finally:
            os.close(fd)


@contextlib.contextmanager
def for_a_job() -> Iterator[None]:
    """Start a program in here, and it has the score of a job; afterwards this process has its own again."""
    try:
        fd = os.open(_OWN, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield  # no /proc: whom the kernel takes is its own affair
        return
    own = os.read(fd, 16)
    try:
        if int(own) < JOB:
            os.pwrite(fd, b"%d" % JOB, 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.pwrite(fd, own, 0)
        os.close(fd)
