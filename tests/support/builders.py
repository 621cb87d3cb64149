"""Values for tests of the coordinator: every builder gives something ordinary, and takes what matters by name."""

from dataclasses import replace
from typing import Any

from coordinator.decisions import Submission
from coordinator.events import EndFacts, Hello, Report
from coordinator.instant import Instant
from hostler.frames import OUT, encode
from hostler.ids import AttemptKey, JobId, new_uuid
from hostler.jobs import End, JobSpec, Receipt, Work
from hostler.wire.ends import end_to_bytes
from hostler.wire.work import work_to_bytes

NOON_US = 1_700_000_000_000_000
NOON = Instant(NOON_US, 1000.0)


def an_id(number: int) -> str:
    """A uuid that a person can tell from another: the number is in its first and last digits."""
    return new_uuid(number.to_bytes(4, "big") + bytes(8) + number.to_bytes(4, "big"))


def a_worker_id(number: int) -> str:
    """The same for workers, in a range of their own."""
    return an_id(0xE000_0000 + number)


W1, W2, W3 = a_worker_id(1), a_worker_id(2), a_worker_id(3)


def later(seconds: float, now: Instant = NOON) -> Instant:
    """The instant *seconds* after another."""
    return Instant(now.wall_us + round(seconds * 1e6), now.monotonic_s + seconds)


def a_spec(*argv: str, **changes: Any) -> JobSpec:
    """A job that runs *argv* (``true`` when there is none)."""
    return replace(JobSpec(work=Work(argv=argv or ("true",))), **changes)


def a_submission(number: int = 1, **changes: Any) -> Submission:
    """An item of a submit call as the service makes it; its id is `an_id(number)`."""
    item = Submission(
        error=None,
        id=an_id(number),
        owner="ada",
        family="native",
        name="",
        key="",
        digest=b"",
        pin="",
        labels=(),
        priority=0,
        slots=1,
        work=work_to_bytes(Work(argv=("true",))),
    )
    return item._replace(**changes)


def a_hello(worker: str = W1, **changes: Any) -> Hello:
    """A worker with two slots that holds nothing and has accepted nothing."""
    hello = Hello(
        worker=worker,
        session="session-1",
        name=f"name-{worker[-1]}",
        host=f"host-{worker[-1]}",
        version="0.1.0",
        labels=(),
        slots=2,
        boot_id="boot-1",
        journal_id=f"journal-{worker[-1]}",
        generation=1,
        mark=0,
        inventory=(),
    )
    return hello._replace(**changes)


def a_key(number: int = 1, attempt: int = 1) -> AttemptKey:
    """The name of an attempt of the job `an_id(number)`."""
    return AttemptKey(JobId(an_id(number)), 0, attempt)


def an_end(**changes: Any) -> End:
    """The end of a program that ran a second, wrote nothing and exited well."""
    end = End(
        started_at_us=NOON_US,
        ended_at_us=NOON_US + 1_000_000,
        exit_code=0,
        cause="exit",
        evidence="it exited by itself",
        receipt=Receipt(verified_by="wait", verified_at_us=NOON_US + 1_000_000),
    )
    return replace(end, **changes)


def a_report(key: AttemptKey, **changes: Any) -> Report:
    """A report that says nothing yet."""
    report = Report(
        key=key,
        started_at_us=0,
        end=None,
        end_bytes=b"",
        ledger=b"",
        never_ran=False,
        refusal="",
        survivors=(),
    )
    return report._replace(**changes)


def started(key: AttemptKey) -> Report:
    """The worker has started the program."""
    return a_report(key, started_at_us=NOON_US)


def ended(key: AttemptKey, *, ledger: bytes = b"", **changes: Any) -> Report:
    """The attempt has ended; *changes* are those of `an_end`. With *ledger* the whole log comes along."""
    end = an_end(**({"ledger_bytes": len(ledger), "out_bytes": len(ledger)} if ledger else {}) | changes)
    facts = EndFacts(
        end.cause,
        end.exit_code,
        end.signal,
        end.error,
        end.started_at_us,
        end.ended_at_us,
        end.ledger_bytes,
        end.out_bytes + end.err_bytes,
        end.failure is not None,
        end.result_digest,
    )
    return a_report(key, started_at_us=end.started_at_us, end=facts, end_bytes=end_to_bytes(end), ledger=ledger)


def never_ran(key: AttemptKey, refusal: str = "") -> Report:
    """The program was not and will not be started; with *refusal* because the worker will not run it."""
    return a_report(key, never_ran=True, refusal=refusal)


def some_frames(*texts: bytes, kind: int = OUT) -> bytes:
    """A ledger with one frame for each text."""
    return b"".join(encode(kind, text, NOON_US) for text in texts)
