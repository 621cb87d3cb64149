"""What a finished job has put out, in the small forms that JSON answers carry: text, pictures, a reason.

Everything here is bounded in bytes and in time. Whole logs and whole files are streamed elsewhere
(`http_gateway.log_stream`).
"""

import asyncio
import codecs
from base64 import b64encode
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from hostler.client import Client
from hostler.errors import FileNotFound
from hostler.frames import ERR, OUT, iter_frames
from hostler.jobs import Job, LogStatus, OutputFile
from hostler.lifecycle import Outcome

TEXT_BYTES_MAX = 1024 * 1024
RESULT_BYTES_MAX = 16 * 1024 * 1024
LOG_STATUS_HEADER = "Hostler-Log-Status"  # with the word of a log's status, or the next one
CUT = "cut"
RESULT_HEADER = "Hostler-Result"  # with one of the next two
TOO_LARGE = "too_large"
EXPIRED = "expired"
LEDGER_BYTES_MAX = 32 * 1024 * 1024  # looked through for a text: the other stream is in between
LOG_S = 2.0  # for the rest of a log that still arrives
TAIL_BYTES = 128 * 1024  # of a ledger, in which its last line is looked for
LINE_CHARACTERS_MAX = 500
IMAGES_MAX = 10
IMAGE_BYTES_MAX = 4 * 1024 * 1024  # of all together
IMAGE_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}


class TextOutput(NamedTuple):
    """A job's standard output as text."""

    text: str
    whole: bool  # nothing was cut off at the bound
    status: LogStatus  # whether this is all of it, or some may come or is lost

    @property
    def headers(self) -> dict[str, str]:
        """What an answer that has no other place for it says of how much of the output its text is."""
        return {LOG_STATUS_HEADER: self.status.word if self.whole else CUT}


async def read_text(client: Client, job: Job, *, principal: str) -> TextOutput:
    """Return a finished job's standard output, at most 1 MiB; bytes that are no UTF-8 are replaced."""
    output, status = await _read_stream(client, job, OUT, bytes_max=TEXT_BYTES_MAX, principal=principal)
    # A character that the bound cuts in two is left out, not replaced.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    whole = len(output) < TEXT_BYTES_MAX
    return TextOutput(decoder.decode(output, final=whole), whole, status)


class WithResult(NamedTuple):
    """A job with its result in it, as far as an answer can carry it."""

    job: Job
    missing: str = ""  # why the result that it left is not in it: `TOO_LARGE` or `EXPIRED`

    @property
    def headers(self) -> dict[str, str]:
        """What an answer that has no other place for it says of a missing result."""
        return {RESULT_HEADER: self.missing} if self.missing else {}


async def with_result(client: Client, job: Job, *, principal: str) -> WithResult:
    """Return the job with its result in it, also when that was large and was stored: at most 16 MiB are fetched.

    A result that cannot be shown is left out and makes nothing else of the job unknown.
    """
    end = job.end
    if end is None or end.result or not end.result_digest:
        return WithResult(job)
    if end.result_bytes > RESULT_BYTES_MAX:
        return WithResult(job, TOO_LARGE)
    try:
        async with client.files.read(end.result_digest, principal=principal) as reading:
            content = b"".join([piece async for piece in reading.pieces])
    except FileNotFound:
        return WithResult(job, EXPIRED)
    return WithResult(replace(job, end=replace(end, result=content)))


def why_no_result(found: WithResult) -> str:
    """Why a finished job's result cannot be had; empty when nothing is wrong with it."""
    end = found.job.end
    if found.missing:
        size = end.result_bytes if end is not None else 0
        return f"it has {size} bytes, too many" if found.missing == TOO_LARGE else "it is not stored any more"
    missing = end.outputs_missing if end is not None else ()
    return next((why for why in missing if why.startswith("result.json:")), "")


def why_still_stopping(job: Job, *, again: str) -> str:
    """Why a job that was told to end has not ended; *again* is what one does to wait for it: ``stop it again``."""
    survivors = job.end.receipt.survivors if job.end is not None else ()
    if not survivors:
        return f"the job was told to end and has not ended yet; {again} to wait for it"
    pids = ", ".join(str(process.pid) for process in survivors)
    return f"the job was killed and these processes of it cannot end: {pids}"


async def why_failed(client: Client, job: Job, *, principal: str) -> str:
    """Say in one line why a finished job did not succeed, with the last thing it said about it."""
    end = job.end
    if end is not None and end.failure is not None:
        return _line(f"{end.failure.type}: {end.failure.message}")
    said = ""
    if end is not None and end.err_bytes:
        # Less is held of a log that still arrives or has lost its end; what comes meanwhile is read, too.
        start = max(0, min(end.ledger_bytes, job.log_position) - TAIL_BYTES)
        raw, _ = await _read_stream(client, job, ERR, bytes_max=LEDGER_BYTES_MAX, start=start, principal=principal)
        said = _line(raw.decode(errors="replace").strip().rpartition("\n")[2])
    return f"{_reason(job)}: {said}" if said else _reason(job)


async def read_images(client: Client, job: Job, *, principal: str) -> list[str]:
    """Return the picture files among a finished job's outputs as data URIs, in the order of their paths.

    At most 10 files and 4 MiB together; one that does not fit any more is left out.
    """
    if job.end is None or not job.end.outputs:
        return []
    images: list[str] = []
    left = IMAGE_BYTES_MAX
    outputs = await client.files.outputs(job.id, family=job.spec.family, principal=principal)
    for file in outputs.files:
        kind = IMAGE_TYPES.get(file.path.rpartition(".")[2].lower())
        if kind is None or file.size_bytes > left or len(images) >= IMAGES_MAX:
            continue
        try:
            content = await _read_file(client, job, file, principal)
        except FileNotFound:
            continue  # its time was over meanwhile
        left -= len(content)
        images.append(f"data:{kind};base64,{b64encode(content).decode()}")
    return images


async def _read_file(client: Client, job: Job, file: OutputFile, principal: str) -> bytes:
    async with client.files.read_output(job.id, file.path, family=job.spec.family, principal=principal) as reading:
        return b"".join([piece async for piece in reading.pieces])


async def _read_stream(
    client: Client, job: Job, kind: int, *, bytes_max: int, principal: str, start: int = 0
) -> tuple[bytes, LogStatus]:
    """Return the first bytes of one stream, from a position on, and how complete the log is."""
    found = bytearray()
    seen = 0
    status = job.log_status
    reading = client.read_log(job.id, start=start, follow=status is LogStatus.ARRIVING, principal=principal)
    try:
        async with asyncio.timeout(LOG_S), aclosing(reading) as chunks:
            async for chunk in chunks:
                status = chunk.status
                for frame in iter_frames(chunk.frames):
                    if frame.kind == kind:
                        found += frame.payload
                seen += len(chunk.frames)
                if chunk.end or len(found) >= bytes_max or seen >= LEDGER_BYTES_MAX:
                    break
    except TimeoutError:
        pass  # what has arrived by now is the answer, and the status says that it is not all
    return bytes(found[:bytes_max]), status


def _reason(job: Job) -> str:
    end = job.end
    if end is None:
        return job.outcome.word
    if end.error:
        return _line(end.error)
    if job.outcome is Outcome.FAILED and end.exit_code is not None:
        return f"exit status {end.exit_code}"
    if job.outcome is Outcome.FAILED and end.signal:
        return f"ended by {end.signal}"
    words = job.outcome.word.replace("_", " ")
    return f"{words}: {_line(end.evidence)}" if end.evidence else words


def _line(text: str) -> str:
    return " ".join(text.split())[:LINE_CHARACTERS_MAX]
