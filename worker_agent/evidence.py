"""From what was seen of an end to its cause, and to one sentence for people that says why.

Who ended the attempt is decided with evidence: what we asked for before the end of the main process was seen
comes first, then limits of ours that were reached, then what the kernel counted, then the program's own end.
Limits: no clock, no IO; standard library only, as the shim imports it.
"""

import os
import signal
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from hostler.jobs import SentSignal
from worker_agent.attempts import Cause
from worker_agent.limits import Bounds, Seen

SHELL_KILLED: Final = 128 + int(signal.SIGKILL)  # what shells say of a child that SIGKILL ended
VICTIMS_NAMED_MAX: Final = 8
_ASKED_TEXTS: Final = {
    Cause.STOP: "stopped on request",
    Cause.TIMEOUT: "the time limit was reached",
    Cause.DRAIN: "the worker is ending its jobs",
    Cause.LEASE: "the worker's lease ran out",
    Cause.OUTPUT_LIMIT: "it wrote more than its limit of output",
    Cause.MEMORY_LIMIT: "it used more than its memory limit from its start on",
}


class Facts(NamedTuple):
    """What was seen of the end of a main process, and of its tree."""

    status: int  # as of wait(2)
    pid: int = 0
    asked: Cause | None = None  # who ended the attempt, when it was us
    sent: Sequence[SentSignal] = ()
    killed: bool = False  # True: we sent SIGKILL as well
    passed_on: Collection[int] = ()  # signals sent on request of a user
    leftovers: int = 0  # processes that it had left behind and we ended
    bounds: Bounds = Bounds()
    seen: Seen = Seen()
    kernel_killed: int = 0  # processes the kernel has ended for want of memory in the worker's own group meanwhile
    output_over: int = 0  # its limit of output, when it wrote more than that


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9; real-time signals are named by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def judge(facts: Facts) -> tuple[Cause, str, bool]:
    """Return the cause, the sentence, and whether the end is a plain exit of which there is nothing more to say."""
    number = os.WTERMSIG(facts.status) if os.WIFSIGNALED(facts.status) else 0
    code = None if number else os.waitstatus_to_exitcode(facts.status)
    how = f"ended by {signal_name(number)}" if number else f"exited with code {code}"
    left = facts.leftovers
    rest = f"; {left} {'process' if left == 1 else 'processes'} it had left behind ended by us" if left else ""
    aside = _aside(facts)
    cause = _limit_of(facts, number, code)
    if facts.asked is not None:
        ours = ", ".join(dict.fromkeys(sent.signal for sent in facts.sent))
        if facts.killed:
            ours = f"{ours}, SIGKILL" if ours else "SIGKILL"
        text = f"{_ASKED_TEXTS[facts.asked]}: we sent {ours or 'no signal'}; the program {how}"
        return facts.asked, f"{text}{aside}", False
    if cause is Cause.OUTPUT_LIMIT:
        return cause, f"it wrote more than its limit of {facts.output_over:,} bytes of output; it {how}{aside}", False
    if cause is Cause.MEMORY_LIMIT:
        return cause, f"{_memory_text(facts)}; the program {how}{rest}{_refusals(facts)}", False
    if cause is Cause.OUT_OF_MEMORY:
        whom = "the program" if number else "a process of the program"
        text = f"this worker ran out of memory, and the kernel ended {whom}: it was no limit of the job's"
        return cause, f"{text}; the program {how}{rest}", False
    if number == 0:
        plain = not rest and not aside and not facts.killed
        return Cause.EXIT, f"the program {how} by itself{rest}{aside}", plain
    if number in facts.passed_on:
        return Cause.SIGNAL, f"the program was {how}, which was sent on request{rest}{aside}", False
    perhaps = ": perhaps out of memory, or another user" if number == signal.SIGKILL else ""
    return Cause.SIGNAL, f"the program was {how}, which we did not send{perhaps}{rest}{aside}", False


def _limit_of(facts: Facts, number: int, code: int | None) -> Cause | None:
    """Which limit ended it, when it was not us who asked; a program that outlives it and exits with 0 is well."""
    if facts.output_over:
        return Cause.OUTPUT_LIMIT
    if facts.seen.memory_killed and code != 0:
        return Cause.MEMORY_LIMIT
    foreign = number == signal.SIGKILL and signal.SIGKILL not in facts.passed_on
    if facts.kernel_killed > 0 and (foreign or code == SHELL_KILLED):
        return Cause.OUT_OF_MEMORY
    return None


def _memory_text(facts: Facts) -> str:
    peak = f" (at most {facts.seen.memory_bytes_max:,} were in use)" if facts.seen.memory_bytes_max else ""
    reached = f"the tree reached its memory limit of {facts.bounds.memory_bytes:,} bytes{peak}"
    return f"{reached}, and the kernel ended {_who(facts)}"


def _who(facts: Facts) -> str:
    """Whom the kernel ended at the memory limit, by name as far as its log says."""
    count, victims = facts.seen.memory_killed, facts.seen.victims[:VICTIMS_NAMED_MAX]
    if victims:
        named = [f"{who.name} {who.pid}{' (the program itself)' * (who.pid == facts.pid)}" for who in victims]
        more = count - len(victims)
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")
    if os.WIFSIGNALED(facts.status) and os.WTERMSIG(facts.status) == signal.SIGKILL and count == 1:
        return "the program"
    return "a process of it" if count == 1 else f"{count} processes of it"


def _refusals(facts: Facts) -> str:
    refused = facts.seen.forks_refused
    return f"; {refused} times it could not have a further process: its limit is {facts.bounds.pids}" if refused else ""


def _aside(facts: Facts) -> str:
    """What else was seen, and was not the cause."""
    said = f"; meanwhile {_memory_text(facts)}" if facts.seen.memory_killed else ""
    if facts.kernel_killed > 0 and facts.asked is None:
        said += "; meanwhile the kernel ended a process on this worker for want of memory, perhaps one of it"
    return said + _refusals(facts)
