"""The seam between the coordinator and its database, in the domain's verbs.

One engine is behind it (`coordinator.storage.sqlite`); tests run the same engine in memory. Large
bytes are not here: logs are in `coordinator.log_store`.
"""

from collections.abc import Awaitable, Collection, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from coordinator.changes import Change, Extent
from hostler.ids import AttemptKey
from hostler.jobs import BriefJob, Job, JobEvent, JobPage, JobQuery, OutputFile, Progress, Record
from hostler.workloads import Workload


class StoreFull(Exception):
    """The transaction was rolled back before its COMMIT returned: nothing of it is there."""


class StoreBroken(Exception):
    """The outcome of a commit is unknown, or the store cannot be trusted: the process must end."""


class LogExtents(NamedTuple):
    """Where an attempt's ledger is, from some position on."""

    job: Job  # its log fields are those of the attempt
    stage: int
    attempt: int
    over: bool  # the attempt is: its log may still arrive
    inline: bytes  # the whole ledger, when it is kept in the database
    extents: tuple[Extent, ...]


class Asked(NamedTuple):
    """A job, and what it was made of."""

    job: Job
    asked: bytes  # a serialized JobSpec; empty: the job's own spec says all


class StoredOutputs(NamedTuple):
    """What is kept of a job's output directory."""

    job: Job
    files: tuple[OutputFile, ...]  # by path
    expired: bool


class Kept(StrEnum):
    """What is kept of finished jobs, each kind for a time of its own."""

    FILES = "files"  # outputs and inputs
    LOGS = "logs"
    JOBS = "jobs"  # the rows themselves, with events and past attempts


class Expirable(NamedTuple):
    """A finished job of which retention may remove something."""

    number: int
    id: str
    over_at_us: int  # when the coordinator learnt of its end
    ledger_bytes: int  # of its logs that are kept; not looked up for files
    digests: tuple[tuple[str, int], ...] = ()  # of its files, each with how many rows refer to these bytes


class Loaded(NamedTuple):
    """What rebuilds the live set."""

    # Workloads and workers, then open jobs, oldest first, then logs that are on their way.
    changes: list[Change]
    next_number: int  # above that of every job there ever was


class Store(Protocol):
    """What the coordinator needs from a database. Every method may be called from the event loop."""

    epoch: int
    """The epoch under which this process writes; grows with every start."""

    async def load(self) -> Loaded:
        """Return what rebuilds the live set."""
        ...

    def commit(self, changes: Sequence[Change], fetch: Collection[int]) -> Awaitable[dict[int, bytes]]:
        """Make *changes* durable in one transaction; then return the work of the jobs in *fetch*.

        At most one commit is in flight.

        Raises:
            StoreFull: nothing was written.
            StoreBroken: unknown; end the process.
        """
        ...

    async def get_job(self, job_id: str) -> Job | None:
        """Return a committed job."""
        ...

    async def find_progress(self, job_ids: Collection[str], owner: str | None = None) -> dict[str, Progress]:
        """Return where these jobs have come to; unknown ids are left out, and others' than an *owner*'s."""
        ...

    async def get_asked(self, job_id: str) -> Asked | None:
        """Return a committed job with what it was made of; None when there is none."""
        ...

    async def find_jobs(self, query: JobQuery) -> JobPage:
        """Return a page of committed jobs, oldest first.

        With a filter one call looks at so many jobs only: a page may be short, or empty, and still have a `next`.

        Raises:
            InvalidRequest: the filter is none.
        """
        ...

    async def find_brief(self, query: JobQuery) -> tuple[list[BriefJob], str]:
        """Return a page of committed jobs in few bytes, and `next` of it."""
        ...

    async def find_records(self, owner: str, ids: Collection[str]) -> list[Record]:
        """Return an owner's records of these ids, or (none given) the newest 10,000, oldest first."""
        ...

    async def find_by_keys(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, bytes]]:
        """Return (id, digest) of the jobs with these (owner, idempotency key)."""
        ...

    async def newest_event(self) -> int:
        """Return a number that no committed event exceeds, and that each later one does."""
        ...

    async def events_after(self, number: int, job_ids: Collection[str], limit: int) -> list[JobEvent]:
        """Return committed transitions after event *number*, in order; no ids means all jobs."""
        ...

    async def history(self, job_id: str, limit: int) -> list[JobEvent]:
        """Return the newest committed transitions of a job, oldest first: those of at most *limit* batches."""
        ...

    async def events_of(
        self, owner: str, number: int, job_ids: Collection[str], limit: int
    ) -> tuple[list[JobEvent], int]:
        """Return those of an owner's jobs, and after which number to look next: others' are not looked at twice."""
        ...

    async def files_of(self, owner: str, digests: Collection[str], *, scripts: bool) -> set[str]:
        """Return those of *digests* that a job of *owner* refers to or, with *scripts*, a workload."""
        ...

    async def files_for(self, worker: str, digests: Collection[str]) -> set[str]:
        """Return those of *digests* that a job needs which *worker* has now."""
        ...

    async def find_log(self, job_id: str, key: AttemptKey | None, position: int) -> LogExtents | None:
        """Return where an attempt's ledger is from *position* on (None: the job's current attempt)."""
        ...

    async def find_outputs(self, job_id: str) -> StoredOutputs | None:
        """Return the output files of a job's last attempt, and the job; None when there is no such job."""
        ...

    async def find_output(self, job_id: str, path: str) -> OutputFile | None:
        """Return one kept output file of a job's last attempt."""
        ...

    async def referenced(self, digests: Collection[str]) -> set[str]:
        """Return those of *digests* that a job or a workload refers to."""
        ...

    async def expirable(self, kind: Kept, limit: int, keyed_before_us: int = 0) -> list[Expirable]:
        """Return finished jobs that have something of a kind, oldest end first.

        Logs and rows only of jobs whose logs have all arrived, or never will; rows of jobs with an
        idempotency key only when they ended before *keyed_before_us*.
        """
        ...

    async def log_bytes(self) -> int:
        """Return how many bytes of logs are kept of finished jobs."""
        ...

    async def finished_jobs(self) -> int:
        """Return how many finished jobs there are."""
        ...

    async def segments_in_use(self, segments: Collection[int]) -> set[int]:
        """Return those log segments that a log refers to."""
        ...

    async def get_workload(self, name: str, version: int) -> Workload | None:
        """Return one version of a definition, also of one that was removed."""
        ...

    async def close(self) -> None:
        """Finish what is in flight and close; closing twice is legal."""
        ...
