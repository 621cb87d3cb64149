"""A store in memory with what files need, and what tests of files share."""

import hashlib
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import cast

from coordinator.blobs import BlobStore
from coordinator.storage.protocol import Expirable, Kept, Store, StoredOutputs
from hostler.files_client import Reading
from hostler.ids import new_uuid
from hostler.jobs import End, Job, JobSpec, OutputFile, Work
from hostler.lifecycle import Outcome, State

NOON_US = 1_700_000_000_000_000
JOB, OTHER, W1 = new_uuid(b"job" + bytes(13)), new_uuid(b"other" + bytes(11)), new_uuid(b"worker" + bytes(10))

NO_DIGESTS = [
    "",
    ".",
    "..",
    "../x",
    "../../../../etc/passwd",
    "/etc/passwd",
    "a" * 63,
    "a" * 65,
    "A" * 64,
    "g" * 64,
    "a" * 64 + "\n",
    "a" * 62 + "/x",
    "a/../" + "a" * 59,
    "\0" * 64,
    "\uff11" * 64,
    "\u0661" * 64,
]


class StoreStandIn:
    """Jobs, their output files and what is referred to; fill the dictionaries."""

    def __init__(self) -> None:
        self.outputs: dict[str, StoredOutputs] = {}
        self.live: dict[str, tuple[OutputFile, ...]] = {}
        self.wanted: set[str] = set()
        self.finished: dict[Kept, list[Expirable]] = {kind: [] for kind in Kept}
        self.segments: set[int] = set()  # that some log refers to
        self.keyed_before_us = 0

    def as_store(self) -> Store:
        """Itself, as the type that services take."""
        return cast(Store, self)

    def add(self, job: Job, *files: OutputFile, expired: bool = False) -> None:
        """Make a job known, with what is kept of it."""
        self.outputs[job.id] = StoredOutputs(job, tuple(sorted(files, key=lambda file: file.path)), expired)

    def live_outputs(self, job_id: str) -> tuple[OutputFile, ...]:
        """What the worker of a running job has listed."""
        return self.live.get(job_id, ())

    async def get_job(self, job_id: str) -> Job | None:
        """See `Store`."""
        found = self.outputs.get(job_id)
        return None if found is None else found.job

    async def find_outputs(self, job_id: str) -> StoredOutputs | None:
        """See `Store`."""
        return self.outputs.get(job_id)

    async def find_output(self, job_id: str, path: str) -> OutputFile | None:
        """See `Store`."""
        return next((file for file in self.outputs[job_id].files if file.path == path), None)

    async def referenced(self, digests: Collection[str]) -> set[str]:
        """See `Store`."""
        return self.wanted.intersection(digests)

    async def expirable(self, kind: Kept, limit: int, keyed_before_us: int) -> list[Expirable]:
        """See `Store`."""
        self.keyed_before_us = keyed_before_us
        return self.finished[kind][:limit]

    async def log_bytes(self) -> int:
        """See `Store`."""
        return sum(job.ledger_bytes for job in self.finished[Kept.LOGS])

    async def finished_jobs(self) -> int:
        """See `Store`."""
        return len(self.finished[Kept.JOBS])

    async def segments_in_use(self, segments: Collection[int]) -> set[int]:
        """See `Store`."""
        return self.segments & set(segments)


def a_job(job_id: str, state: State = State.FINISHED, *, missing: tuple[str, ...] = ()) -> Job:
    """A job of the family "pixyz" on the first worker."""
    over = state is State.FINISHED
    return Job(
        id=job_id,
        spec=JobSpec(work=Work(argv=("true",)), family="pixyz"),
        state=state,
        outcome=Outcome.SUCCEEDED if over else Outcome.NONE,
        attempt=1,
        worker=W1,
        end=End(outputs_missing=missing) if over else None,
        finished_at_us=NOON_US if over else 0,
    )


def an_output(path: str, content: bytes) -> OutputFile:
    """A kept file with these bytes."""
    return OutputFile(path=path, size_bytes=len(content), modified_at_us=NOON_US, digest=digest_of(content))


def digest_of(content: bytes) -> str:
    """The name of these bytes."""
    return hashlib.sha256(content).hexdigest()


async def stored(blobs: BlobStore, content: bytes) -> str:
    """Put bytes into a store and return their name."""
    async with blobs.receive(len(content)) as incoming:
        await incoming.write(content)
        return (await incoming.commit()).digest


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    """These pieces, one after another."""
    for piece in pieces:
        yield piece


async def content_of(reading: Reading) -> bytes:
    """Everything of a reading."""
    return b"".join([piece async for piece in reading.pieces])


def files_below(directory: Path) -> list[str]:
    """Every file below a directory, by its name."""
    return sorted(path.name for path in directory.rglob("*") if path.is_file())
