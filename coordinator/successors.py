"""What a worker tells of the attempts of another one that was revoked, and whose directory it has.

Pure. A worker that was revoked joins again as another worker, which knows every attempt that is left in its directory,
is told to end them, and can say what became of them. It is known by its journal.
"""

from collections.abc import Iterator

from coordinator.changes import Change, LateEnd, WorkerLeft
from coordinator.ends import lost
from coordinator.events import Hello, Report
from coordinator.instant import Instant
from coordinator.live import Live
from hostler.ids import AttemptKey


def _has_directory_of(live: Live, journal_id: str, owner: str) -> bool:
    known = live.workers.get(owner)
    return known is not None and known.revoked and known.journal_id == journal_id


def is_successor(live: Live, worker: str, owner: str) -> bool:
    """Whether *worker* has the directory of *owner*, which was revoked."""
    known = live.workers.get(worker)
    return known is not None and _has_directory_of(live, known.journal_id, owner)


def owner_of_missed(live: Live, worker: str, journal_id: str, key: AttemptKey) -> str:
    """Whose attempt this is, if its end was missed and *worker*, which has this journal, can tell it; empty: it cannot.

    It is lost, or a revoked worker has it yet.
    """
    job = live.current(key)
    owner = live.missed.get(key, "") if job is None else job.worker
    is_own = owner == worker and job is None
    return owner if is_own or _has_directory_of(live, journal_id, owner) else ""


def fences_anew(live: Live, hello: Hello, now: Instant) -> Iterator[WorkerLeft]:
    """Count the absence of a revoked worker from now on: the lease of what it has left is that of the one that is here.

    Until that has ended them, no other attempt may follow.
    """
    jobs = [job for key, _ in hello.inventory if (job := live.current(key)) is not None]
    for owner in sorted({job.worker for job in jobs} - {hello.worker}):
        if _has_directory_of(live, hello.journal_id, owner):
            yield WorkerLeft(owner, False, now.wall_us, now.monotonic_s)


def word_on_another(live: Live, worker_id: str, report: Report, now: Instant) -> Iterator[Change]:
    """What follows from a report on an attempt that is over, or is not this worker's."""
    worker = live.workers.get(worker_id)
    owner = owner_of_missed(live, worker_id, worker.journal_id if worker is not None else "", report.key)
    if report.end is None or not owner:
        return
    job = live.current(report.key)
    if job is not None:
        if not report.end.proved:
            return  # something of it may run on
        before = live.workers[owner].name
        evidence = f"worker {before} was revoked; its host has joined again, and has proved that nothing of it is left"
        yield lost(job, "worker_lost", evidence, now, fenced=True)
    yield LateEnd(report.key, report.end_bytes, owner)
