"""Results of the Infernet API: jobs and records by id, and lists of ids, as JSON that is made while it is sent.

A large result, which the coordinator stores apart, goes through in pieces. Few jobs are held at a time,
however many are asked for.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from hostler.client import Client
from hostler.errors import FileNotFound, JobNotFound
from hostler.ids import is_uuid
from hostler.jobs import End, Job, JobQuery, LogStatus
from hostler.lifecycle import State
from http_gateway import infernet_shapes as shapes
from http_gateway import job_outputs
from http_gateway.callers import Caller
from http_gateway.raw_json import is_json
from http_gateway.streamed_json import StreamedJson

JOBS_AT_ONCE = 8  # asked for, and held
PENDING = (State.QUEUED, State.ASSIGNED, State.RUNNING, State.STOPPING)
FINISHED = (State.FINISHED,)


class Results:
    """Writes what is one caller's own, whatever else he may see."""

    def __init__(self, client: Client, caller: Caller) -> None:
        self._client = client
        self._principal = caller.principal
        self._owner = caller.owner

    async def write_some(self, answer: StreamedJson, ids: Sequence[str], *, intermediate: bool) -> None:
        """Write the results of these ids, in this order; what is unknown, or another principal's, is left out."""
        names = [name for name in ids if _can_be_id(name)]
        found = await self._client.records.find(names, principal=self._principal) if names else []
        records = {record.id: record for record in found}
        comma = b"["
        for start in range(0, len(names), JOBS_AT_ONCE):
            group = names[start : start + JOBS_AT_ONCE]
            for name, job in zip(group, await asyncio.gather(*map(self._job, group)), strict=True):
                if job is not None:
                    await answer.add(comma)
                    await self._write_job(answer, job, intermediate=intermediate)
                elif name in records:
                    shape = shapes.record_shape(records[name], intermediate=intermediate)
                    await answer.add(comma + msgspec.json.encode(shape))
                else:
                    continue
                comma = b","
        await answer.add(b"[]" if comma == b"[" else b"]")

    async def write_ids(self, answer: StreamedJson, *, pending: bool | None) -> None:
        """Write the principal's ids, jobs first: those that are pending, those that are not, or all."""
        states = () if pending is None else PENDING if pending else FINISHED
        query = JobQuery(family=shapes.FAMILY, owner=self._owner, states=states)
        comma = b"["
        async for page in self._client.find_brief(query, principal=self._principal):
            if page:
                await answer.add(comma + msgspec.json.encode([job.id for job in page])[1:-1])
                comma = b","
        records = await self._client.records.find(principal=self._principal)
        names = [each.id for each in records if pending is None or (each.status == "running") is pending]
        if names:
            await answer.add(comma + msgspec.json.encode(names)[1:-1])
            comma = b","
        await answer.add(b"[]" if comma == b"[" else b"]")

    async def _job(self, name: str) -> Job | None:
        if not is_uuid(name):
            return None
        try:
            job = await self._client.get(name, family=shapes.FAMILY, principal=self._principal)
        except JobNotFound:
            return None
        return job if job.spec.owner == self._owner else None

    async def _write_job(self, answer: StreamedJson, job: Job, *, intermediate: bool) -> None:
        status = shapes.status_of(job)
        await answer.add(b'{"id":%s,"status":%s,"result":' % (_text(job.id), _text(status)))
        if status == "running":
            await answer.add(b"null")
        elif status == "failed":
            await answer.add(msgspec.json.encode(shapes.failure_shape(job)))
        elif shapes.is_stream(job) and not _has_result(job.end):
            found = await job_outputs.read_text(self._client, job, principal=self._principal)
            shape: dict[str, object] = {"container": shapes.container_of(job), "output": {"output": found.text}}
            if found.status is LogStatus.EXPIRED:
                shape |= {"output": None, "error": shapes.EXPIRED}
            await answer.add(msgspec.json.encode(shape))
        else:
            await self._write_output(answer, shapes.container_of(job), job.end or End())
        if intermediate:
            await answer.add(b',"intermediate_results":[')
            for number, (container, end) in enumerate(shapes.earlier_ends(job)):
                if number:
                    await answer.add(b",")
                await self._write_output(answer, container, end)
            await answer.add(b"]")
        await answer.add(b"}")

    async def _write_output(self, answer: StreamedJson, container: str, end: End) -> None:
        head = b'{"container":%s,"output":' % _text(container)
        if end.result_digest:
            began = False
            try:
                async with self._client.files.read(end.result_digest, principal=self._principal) as reading:
                    began = True
                    await answer.add(head)
                    async for piece in reading.pieces:
                        await answer.add(piece)
                    await answer.add(b"}")
            except FileNotFound:
                if began:
                    raise
                await answer.add(head + b'null,"error":%s}' % _text(shapes.EXPIRED))
        elif not end.result:
            await answer.add(head + b"null}")
        elif is_json(end.result):
            await answer.add(head + end.result + b"}")
        else:
            await answer.add(head + b'null,"error":%s}' % _text(shapes.NO_JSON))


def _has_result(end: End | None) -> bool:
    return end is not None and bool(end.result or end.result_digest)


def _can_be_id(name: str) -> bool:
    """Whether a text can be the id of anything; a query may hold bytes that are no text."""
    return 0 < len(name) <= shapes.ID_CHARACTERS_MAX and name == name.encode(errors="replace").decode()


def _text(text: str) -> bytes:
    return msgspec.json.encode(text)
