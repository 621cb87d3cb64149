"""The values the agent and its shims exchange about one attempt.

Pure: no clock, no IO. Everything here is standard library only, because the shim imports it.
An attempt is named by its key, ``JOB.STAGE.ATTEMPT`` (see hostler.ids); times are wall clock
microseconds since the epoch and serve display only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from hostler.jobs import End, EndedProcess, Receipt, SentSignal, Usage


class Cause(StrEnum):
    """Why an attempt ended, as decided with evidence by whoever saw it."""

    EXIT = "exit"  # the main process ended by itself, with an exit code
    SIGNAL = "signal"  # a signal that was not ours ended the main process
    STOP = "stop"  # somebody asked for the stop
    TIMEOUT = "timeout"  # the job's own time limit
    DRAIN = "drain"  # the worker was told to end its jobs
    LEASE = "lease"  # the lease ran out and the policy is to stop
    NOT_STARTED = "not_started"  # exec failed: no program, no directory, no permission
    SUPERVISOR_DIED = "supervisor_died"  # the shim was killed; the exit status is unknown
    MEMORY_LIMIT = "memory_limit"  # its tree reached the job's own limit, and the kernel ended a process of it
    OUTPUT_LIMIT = "output_limit"  # it wrote more than it may, and the job is to end then
    OUT_OF_MEMORY = "out_of_memory"  # the kernel ended it for want of memory, and it was no limit of the job's
    HOST_RESTARTED = "host_restarted"  # the boot id changed; the exit status is unknown


class Order(NamedTuple):
    """What the agent asks a shim to run. The program is started without a shell.

    A tuple, as each attempt makes two: in the agent and in the shim (a frozen dataclass takes 2 us more for each).
    """

    key: str
    argv: tuple[str, ...]
    grace_s: float = 10.0  # between SIGTERM and SIGKILL when the timeout ends it
    cwd: str = ""  # empty: the worker's working directory
    env: Mapping[str, str] = MappingProxyType({})  # laid over the worker's own environment
    timeout_s: float = 0.0  # 0: no limit; counted from the start
    output_bytes_max: int = 0  # 0: no limit; counts stdout and stderr together
    leftovers_wait: bool = False  # True: wait for the rest of the tree instead of ending it
    stdin: bool = False  # True: stdin is a pipe fed by `feed`; False: /dev/null
    stdin_path: str = ""  # absolute: stdin is this file
    proxy: bool = False  # True: the main process runs the program elsewhere in its tree, in a PID namespace of its own,
    # carries its output, and cleans up after it (podman run)
    start_path: str = ""  # "hardened": below an init of ours in a PID namespace; a proxy never is
    merge: bool = False  # True: stdout and stderr are one pipe, recorded as stdout
    output_stop: bool = False  # True: more than `output_bytes_max` ends it
    limits: Sequence[float] = ()  # of its tree, as `limits.Bounds`; empty: none
    lease: int = 0  # the term of the worker's lease it was taken on under, and is ended with; 0: it needs none
    workspace: str = ""  # absolute: its directory, which is given to the user who runs it; empty: none, or nobody asks
    keeps_user: bool = False  # True: a program of ours (podman, or one that calls a service) runs as the worker does
    masked: Sequence[str] = ()  # variables whose values are taken out of what it puts out
    terminal: Sequence[int] = ()  # rows and columns of its terminal, which is all three of its streams; empty: none


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of an attempt: the payload of its exit frame and of the exit report."""

    key: str
    started_at_us: int  # 0: the program never ran
    ended_at_us: int
    exit_code: int | None  # None when a signal ended it, when it never ran, or when it is unknown
    signal: str  # "SIGKILL"; empty when it exited
    core_dumped: bool = False
    cause: Cause
    evidence: str = ""  # one sentence for people
    error: str = ""  # for NOT_STARTED: the text, in the form `exec: "x": executable file not found in $PATH`
    receipt: Receipt = field(default_factory=Receipt)
    usage: Usage = field(default_factory=Usage)
    out_bytes: int = 0  # bytes of stdout kept in the ledger
    err_bytes: int = 0
    dropped_bytes: int = 0  # cut by the cap or by a full disk; the ledger has a GAP frame too
    segment: str = ""  # file name of the segment that holds the ledger
    ledger_offset: int = 0  # where the ledger of the attempt begins in the segment
    ledger_bytes: int = 0  # its length: OUT, ERR and GAP frames, nothing else

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `from_json` reads them back."""
        receipt, usage = self.receipt, self.usage
        # By hand: dataclasses.asdict copies recursively and would be a tenth of a short attempt's cost.
        content: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        content["cause"] = self.cause.value
        content["usage"] = {name: getattr(usage, name) for name in usage.__slots__}
        content["receipt"] = {
            "signals": [{"signal": s.signal, "at_us": s.at_us, "processes": s.processes} for s in receipt.signals],
            "ended": [{"pid": p.pid, "name": p.name} for p in receipt.ended],
            "survivors": [{"pid": p.pid, "name": p.name} for p in receipt.survivors],
            "verified_by": receipt.verified_by,
            "verified_at_us": receipt.verified_at_us,
        }
        return content

    @classmethod
    def from_json(cls, value: dict[str, Any] | list[Any]) -> "Ended":
        """Read what `to_json` wrote, or the fields of an `Exited`; anything else raises TypeError or KeyError."""
        if isinstance(value, list):
            return Exited(*value).ended()
        receipt = value["receipt"]
        return cls(
            **{
                **value,
                "cause": Cause(value["cause"]),
                "usage": Usage(**value["usage"]),
                "receipt": Receipt(
                    signals=tuple(SentSignal(**s) for s in receipt["signals"]),
                    ended=tuple(EndedProcess(**p) for p in receipt["ended"]),
                    survivors=tuple(EndedProcess(**p) for p in receipt["survivors"]),
                    verified_by=receipt["verified_by"],
                    verified_at_us=receipt["verified_at_us"],
                ),
            }
        )

    def end(self) -> End:
        """Return what the coordinator is told."""
        return End(
            started_at_us=self.started_at_us,
            ended_at_us=self.ended_at_us,
            exit_code=self.exit_code,
            signal=self.signal,
            core_dumped=self.core_dumped,
            cause=self.cause.value,
            evidence=self.evidence,
            error=self.error,
            receipt=self.receipt,
            usage=self.usage,
            out_bytes=self.out_bytes,
            err_bytes=self.err_bytes,
            dropped_bytes=self.dropped_bytes,
            ledger_bytes=self.ledger_bytes,
        )


class Exited(NamedTuple):
    """The end of an attempt that exited by itself, left nothing behind and was not touched by us: `Ended` in short.

    In JSON it is the list of its fields, in order. Nearly every end of a short program is one, and writing,
    reading and keeping it costs a fifth of an `Ended` with its receipt (5 us against 25 us for the three).
    """

    key: str
    started_at_us: int
    ended_at_us: int
    exit_code: int
    cpu_user_s: float
    cpu_system_s: float
    memory_bytes_max: int
    processes: int
    out_bytes: int
    err_bytes: int
    dropped_bytes: int
    segment: str
    ledger_offset: int
    ledger_bytes: int

    @property
    def evidence(self) -> str:
        """One sentence for people."""
        return f"the program exited with code {self.exit_code} by itself"

    def ended(self) -> Ended:
        """Return the same in long."""
        return Ended(
            key=self.key,
            started_at_us=self.started_at_us,
            ended_at_us=self.ended_at_us,
            exit_code=self.exit_code,
            signal="",
            cause=Cause.EXIT,
            evidence=self.evidence,
            receipt=Receipt(verified_by="wait", verified_at_us=self.ended_at_us),
            usage=Usage(
                cpu_user_s=self.cpu_user_s,
                cpu_system_s=self.cpu_system_s,
                memory_bytes_max=self.memory_bytes_max,
                processes=self.processes,
            ),
            out_bytes=self.out_bytes,
            err_bytes=self.err_bytes,
            dropped_bytes=self.dropped_bytes,
            segment=self.segment,
            ledger_offset=self.ledger_offset,
            ledger_bytes=self.ledger_bytes,
        )


def never_started(key: str, ended_at_us: int, cause: Cause, evidence: str, error: str) -> Ended:
    """Return the end of an attempt whose program was never started."""
    return Ended(
        key=key,
        started_at_us=0,
        ended_at_us=ended_at_us,
        exit_code=None,
        signal="",
        cause=cause,
        evidence=evidence,
        error=error,
    )
