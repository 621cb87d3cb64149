"""Shims that their own job holds: it has stopped its shim by a signal, or traces it, as only the same user may.

A held shim hears nobody: it would never stop its job, and nobody would be told why. The agent looks from outside, once
a second, and lets it go on. On the hardened start path a job cannot see its shim, and none of this can happen.
Limits: Linux, standard library only. Never blocks. A tracer that is not of the shim's tree is somebody's debugger.
"""

import os
import signal
from typing import Final

from worker_agent.process_tree import descendants, is_alive, read_stat, send

HELD_MAX: Final = 10  # times that a shim is found held in a row before it is killed


def _tracer_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"TracerPid:"))
    except (OSError, StopIteration, ValueError):
        return 0


def free(pid: int, start_ticks: int, *, stopped_too: bool) -> bool:
    """Let a shim go on whose job traces it, or, with *stopped_too*, whom somebody has stopped; True: it was held."""
    stat = read_stat(pid)
    if stat is None or stat.state not in ("t", "T") or not is_alive(pid, start_ticks):
        return False
    tracer = _tracer_of(pid)
    if tracer:
        if tracer not in descendants(pid):
            return False
        send(tracer, signal.SIGKILL, lambda each: _tracer_of(pid) == each)
    elif not stopped_too:
        return False
    # Also after a tracer, whose last stop its victim would keep.
    return send(pid, signal.SIGCONT, lambda each: is_alive(each, start_ticks))


def kill(pid: int, start_ticks: int) -> None:
    """End a shim that is held again and again; what is left of its job is ended as after any dead shim."""
    if pid != os.getpid():
        send(pid, signal.SIGKILL, lambda each: is_alive(each, start_ticks))
