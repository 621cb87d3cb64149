"""Whom the kernel ends when memory runs out: a job, before the shim that is to tell of its end.

The score is absolute and inherited: a shim takes a low one where it may, and a program is started while its shim has
a job's. The shim never needs to write to another process, so no child of a program can have been forked before.
Limits: only root (CAP_SYS_RESOURCE) may lower a score; elsewhere a shim keeps the one it was started with.
Sources: proc_pid_oom_score_adj(5).
"""

import contextlib
import os
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


def open_own() -> int:
    """Open the score of this process, for `ForAJob`; negative where there is none. A fork must not use it."""
    try:
        return os.open(_OWN, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1  # no /proc: whom the kernel takes is its own affair


class ForAJob:
    """Start a program in here, and it has the score of a job; afterwards this process has its own again.

    *kept* is the score as `open_own` opened it in this process; who starts one program alone leaves it out.
    """

    __slots__ = ("_fd", "_kept", "_own")

    def __init__(self, kept: int = -1) -> None:
        self._kept = kept
        self._fd = kept if kept >= 0 else open_own()
        self._own = b""

    def __enter__(self) -> None:
        if self._fd >= 0:
            self._own = os.pread(self._fd, 16, 0)
            if int(self._own) < JOB:
                os.pwrite(self._fd, b"%d" % JOB, 0)

    def __exit__(self, *_: object) -> None:
        if self._fd < 0:
            return
        try:
            os.pwrite(self._fd, self._own, 0)
        except OSError:
            return  # who may not lower it keeps a job's
        finally:
            if self._fd != self._kept:
                os.close(self._fd)
